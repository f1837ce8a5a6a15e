//! One step of an experiment: an action or a probe, and what carries it out.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use super::{
    Problem,
    extension::Named,
    substitute::{Variables, python_text, substitute},
    tolerance,
    yaml::{self, Member, Node},
};

/// A step, with all variables filled in.
#[derive(Clone, Debug)]
pub struct Activity {
    pub kind: Kind,
    pub name: String,
    pub provider: Provider,
    pub pause_before: Duration,
    pub pause_after: Duration,
    pub background: bool,
    /// Of a probe of the hypothesis; variables in it are filled in when it is looked at.
    pub tolerance: Option<Value>,
    /// The probe of a tolerance of type `probe`.
    pub tolerance_probe: Option<Provider>,
    /// As the file has it, for the journal.
    pub source: Value,
    pub line: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Action,
    Probe,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Action => "action",
            Kind::Probe => "probe",
        }
    }
}

#[derive(Clone, Debug)]
pub enum Provider {
    Process(Process),
    Http(Http),
}

/// A program on this machine.
#[derive(Clone, Debug)]
pub struct Process {
    pub program: PathBuf,
    pub arguments: Arguments,
    pub timeout: Option<Duration>,
    line: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arguments {
    List(Vec<String>),
    /// A text goes to the shell, as Chaos Toolkit has it.
    Shell(String),
}

/// A call to a server.
#[derive(Clone, Debug)]
pub struct Http {
    pub url: String,
    pub method: String,
    pub headers: Vec<(String, String)>,
    pub arguments: Value,
    pub timeout: Option<Duration>,
}

/// Finds a program as the shell does.
pub type Which<'a> = &'a dyn Fn(&str) -> Option<PathBuf>;

/// No pause and no time-out is longer.
pub const SECONDS_MAX: f64 = 86_400.0;

impl Activity {
    /// Reads a step that is no reference.
    pub fn read(node: &Node, variables: &Variables, which: Which<'_>) -> Result<Activity, Problem> {
        no_controls(node)?;
        let kind = required(node, "type", "an activity")?;
        let kind = match kind.text()? {
            "action" => Kind::Action,
            "probe" => Kind::Probe,
            _ => return Err(kind.problem("expected action or probe")),
        };
        let name = required(node, "name", "an activity")?;
        let name = match name.text()? {
            "" => return Err(name.problem("an activity needs a name")),
            name => name.to_owned(),
        };
        let provider = required(node, "provider", "an activity")?;
        let tolerance = node.get("tolerance");
        let mut tolerance_probe = None;
        if let Some(tolerance) = tolerance {
            tolerance::check(tolerance)?;
            if tolerance.node.get("type").is_some_and(|kind| kind.text() == Ok("probe")) {
                tolerance_probe = Some(Activity::read(&tolerance.node, variables, which)?.provider);
            }
        }
        let (pause_before, pause_after) = pauses(node, variables)?;
        Ok(Activity {
            kind,
            name,
            provider: Provider::read(provider, variables, which)?,
            pause_before,
            pause_after,
            background: node.get("background").map(Member::boolean).transpose()?.unwrap_or_default(),
            tolerance: tolerance.map(|tolerance| tolerance.node.json()),
            tolerance_probe,
            source: node.json(),
            line: node.line,
        })
    }

    /// The regions that a step of `hubweave` names.
    pub fn regions(&self) -> Vec<Named> {
        let Provider::Process(process) = &self.provider else { return Vec::new() };
        let Arguments::List(arguments) = &process.arguments else { return Vec::new() };
        if !process.is_hubweave() {
            return Vec::new();
        }
        let command = arguments.first().map(String::as_str);
        let known: &[&str] = match command {
            Some("pause" | "resume" | "replay" | "repair") => &["--region", "--peer", "--from", "--to"],
            // `--from start` and `--to DIR` of other commands name no regions.
            _ => &["--region", "--peer"],
        };
        let takes_several = matches!(command, Some("load" | "object"));
        let mut named = Vec::new();
        let mut option = None;
        for argument in arguments {
            let mut value = Some(argument.as_str());
            if argument.starts_with("--") {
                let (given, attached) = argument.split_once('=').unzip();
                let given = given.unwrap_or(argument);
                (option, value) = (known.iter().find(|known| **known == given), attached);
            }
            let Some((key, name)) = option.zip(value) else { continue };
            named.push(Named { name: name.to_owned(), key: (*key).to_owned(), line: process.line });
            if !takes_several {
                option = None;
            }
        }
        named
    }

    /// Whether it is `hubweave` with these first words.
    pub fn is_command(&self, words: [&str; 2]) -> bool {
        let Provider::Process(process) = &self.provider else { return false };
        if !process.is_hubweave() {
            return false;
        }
        match &process.arguments {
            Arguments::List(arguments) => {
                let mut given = arguments.iter().filter(|argument| !argument.starts_with("--"));
                words.iter().all(|word| given.next().is_some_and(|argument| argument == word))
            }
            Arguments::Shell(line) => line.contains(&words.join(" ")),
        }
    }
}

impl Process {
    fn is_hubweave(&self) -> bool {
        self.program.file_name().is_some_and(|name| name == "hubweave")
    }
}

fn required<'n>(node: &'n Node, key: &str, of: &str) -> Result<&'n Member, Problem> {
    node.get(key).ok_or_else(|| Problem::new(node.line, key, "", format!("{of} needs it")))
}

/// Refuses what would be run by Chaos Toolkit's own code.
pub fn no_controls(node: &Node) -> Result<(), Problem> {
    let controls = node
        .get("controls")
        .filter(|controls| !matches!(&controls.node.value, yaml::Value::List(list) if list.is_empty()));
    match controls {
        Some(controls) => Err(Problem::new(
            controls.line,
            "controls",
            "",
            "controls are Python code and not supported here; run the file with `chaos run`",
        )),
        None => Ok(()),
    }
}

fn pauses(node: &Node, variables: &Variables) -> Result<(Duration, Duration), Problem> {
    let Some(pauses) = node.get("pauses") else { return Ok((Duration::ZERO, Duration::ZERO)) };
    pauses.members()?;
    let pause = |key: &str| match pauses.node.get(key) {
        Some(member) => seconds(member, variables).map(Option::unwrap_or_default),
        None => Ok(Duration::ZERO),
    };
    Ok((pause("before")?, pause("after")?))
}

/// A number of seconds, or the variable that holds one.
fn seconds(member: &Member, variables: &Variables) -> Result<Option<Duration>, Problem> {
    let value = substitute(&member.node.json(), variables);
    let number = match &value {
        Value::Null => return Ok(None),
        // Of a connection and of an answer: both are within the whole.
        Value::Array(parts) => parts.iter().map(Value::as_f64).sum(),
        other => other.as_f64(),
    };
    let number = number.filter(|number| (0.0..=SECONDS_MAX).contains(number));
    let number =
        number.ok_or_else(|| member.problem("expected a number of seconds, or `${name}` of the configuration"))?;
    Ok(Some(Duration::from_secs_f64(number)))
}

impl Provider {
    fn read(provider: &Member, variables: &Variables, which: Which<'_>) -> Result<Provider, Problem> {
        provider.members()?;
        let node = &provider.node;
        if let Some(secrets) = node.get("secrets") {
            return Err(Problem::new(secrets.line, "secrets", "", super::experiment::NO_SECRETS));
        }
        let kind = required(node, "type", "a provider")?;
        match kind.text()? {
            "process" => process(node, variables, which).map(Provider::Process),
            "http" => http(node, variables).map(Provider::Http),
            "python" => {
                Err(kind.problem("Python code is not run here; use a process or http provider, or `chaos run`"))
            }
            _ => Err(kind.problem("expected process or http")),
        }
    }
}

fn process(node: &Node, variables: &Variables, which: Which<'_>) -> Result<Process, Problem> {
    let path = required(node, "path", "a process")?;
    let program = which(path.text()?).ok_or_else(|| path.problem("no such program can be run; is it in PATH?"))?;
    let mut line = node.line;
    let arguments = match node.get("arguments") {
        None => Arguments::List(Vec::new()),
        Some(member) => {
            line = member.line;
            process_arguments(member, variables)?
        }
    };
    let timeout = node.get("timeout").map(|timeout| seconds(timeout, &Variables::new())).transpose()?.flatten();
    Ok(Process { program, arguments, timeout, line })
}

fn process_arguments(member: &Member, variables: &Variables) -> Result<Arguments, Problem> {
    let given = member.node.json();
    // Without a configuration nothing is looked for, not even `$$`.
    let filled = if variables.is_empty() { given.clone() } else { substitute(&given, variables) };
    let flat: Vec<Value> = match (&member.node.value, filled) {
        (_, Value::String(line)) => return Ok(Arguments::Shell(line)),
        (yaml::Value::Map(members), Value::Object(mut filled)) => {
            // In the order of the file.
            let pair = |member: &Member| [member.key.clone().into(), filled.remove(&member.key).unwrap_or_default()];
            members.iter().flat_map(pair).collect()
        }
        (_, Value::Array(items)) => items,
        _ => return Err(member.problem("expected a list, a text or a mapping")),
    };
    let mut arguments = Vec::new();
    for value in &flat {
        match value {
            Value::Null => {}
            Value::String(text) if text.is_empty() => {}
            Value::Array(_) | Value::Object(_) => return Err(member.problem("an argument is one text or number")),
            value => arguments.push(python_text(value)),
        }
    }
    Ok(Arguments::List(arguments))
}

fn http(node: &Node, variables: &Variables) -> Result<Http, Problem> {
    let url = required(node, "url", "an http provider")?;
    let filled = super::substitute::text(url.text()?, variables);
    if !filled.starts_with("http://") {
        let why = "only http:// is called from here; for https use a process such as curl, or `chaos run`";
        return Err(Problem::new(url.line, "url", &filled, why));
    }
    let method = node.get("method").map(Member::text).transpose()?.unwrap_or("GET").to_uppercase();
    let mut headers = Vec::new();
    if let Some(member) = node.get("headers") {
        for header in member.members()? {
            let value = substitute(&header.node.json(), variables);
            let value = value.as_str().ok_or_else(|| header.problem("a header's value is text"))?;
            headers.push((header.key.clone(), value.to_owned()));
        }
    }
    let arguments = node.get("arguments").map(|arguments| arguments.node.json()).unwrap_or_default();
    Ok(Http {
        url: filled,
        method,
        headers,
        arguments: if variables.is_empty() { arguments } else { substitute(&arguments, variables) },
        timeout: node.get("timeout").map(|timeout| seconds(timeout, variables)).transpose()?.flatten(),
    })
}

/// A program in these folders, or at its own path.
pub fn find_program(name: &str, folders: &[PathBuf], is_program: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    if name.contains('/') {
        let path = PathBuf::from(name);
        return is_program(&path).then_some(path);
    }
    folders.iter().map(|folder| folder.join(name)).find(|path| is_program(path))
}
