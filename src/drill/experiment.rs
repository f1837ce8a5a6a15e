//! An experiment as Chaos Toolkit's format has it, read and checked as a whole before any of it runs.
//!
//! What is Python (the `python` provider, controls) and what needs a vault (secrets) is refused. Unknown members are ignored,
//! as the format says; those at the top are noted, because a `rollback` that is never run is worth a word.

use std::{path::PathBuf, time::Duration};

use serde_json::Value;

use super::{
    Problem,
    activity::{Activity, Which, no_controls},
    extension::{Extension, Named},
    substitute::{Variables, text},
    yaml::{self, Member, Node},
};

pub const NO_SECRETS: &str =
    "secrets are not supported here: pass what is needed in the environment of a process, or use `chaos run`";

/// A file that can be run.
#[derive(Clone, Debug)]
pub struct Experiment {
    pub title: String,
    pub variables: Variables,
    pub hypothesis: Option<Hypothesis>,
    pub method: Vec<Activity>,
    pub rollbacks: Vec<Activity>,
    pub when: When,
    /// Between two looks at the hypothesis while the method runs.
    pub frequency: Duration,
    pub rollback: Rollback,
    pub extension: Option<Extension>,
    /// As the file has it, for the journal.
    pub source: Value,
    /// What was ignored.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Hypothesis {
    pub title: String,
    /// All with a tolerance.
    pub probes: Vec<Activity>,
}

/// When the hypothesis is looked at: `runtime.hypothesis.strategy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum When {
    /// Before and after the method.
    #[default]
    Default,
    BeforeOnly,
    AfterOnly,
    DuringOnly,
    /// Before, during and after.
    Continuously,
    Never,
}

impl When {
    pub fn before(self) -> bool {
        matches!(self, When::Default | When::BeforeOnly | When::Continuously)
    }

    pub fn during(self) -> bool {
        matches!(self, When::DuringOnly | When::Continuously)
    }

    pub fn after(self) -> bool {
        matches!(self, When::Default | When::AfterOnly | When::Continuously)
    }
}

/// When rollbacks are run: `runtime.rollbacks.strategy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rollback {
    /// What a drill changed it puts back, however it ended.
    #[default]
    Always,
    Never,
    /// Not after a failure or an interruption: Chaos Toolkit's own default, where a file asks for it by its name.
    UnlessFailed,
    Deviated,
}

/// What an experiment reads of its surroundings.
pub struct Surroundings<'a> {
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// Finds a program.
    pub which: &'a dyn Fn(&str) -> Option<PathBuf>,
}

const KNOWN: [&str; 12] = [
    "version",
    "title",
    "description",
    "tags",
    "configuration",
    "secrets",
    "extensions",
    "contributions",
    "controls",
    "steady-state-hypothesis",
    "method",
    "rollbacks",
];

impl Experiment {
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(source: &str, surroundings: &Surroundings<'_>) -> Result<Experiment, Problem> {
        let root = yaml::read(source)?;
        let yaml::Value::Map(members) = &root.value else {
            return Err(Problem::new(
                root.line,
                "",
                "",
                "an experiment is a mapping with title, description and method",
            ));
        };
        let title = not_empty(&root, "title")?;
        not_empty(&root, "description")?;
        tags(&root)?;
        no_controls(&root)?;
        let secrets =
            root.get("secrets").filter(|secrets| !matches!(&secrets.node.value, yaml::Value::Map(m) if m.is_empty()));
        if let Some(secrets) = secrets {
            return Err(Problem::new(secrets.line, "secrets", "", NO_SECRETS));
        }
        let variables = configuration(&root, surroundings.env)?;
        let reader = Reader { root: &root, variables: &variables, which: surroundings.which };
        let hypothesis = reader.hypothesis()?;
        let method = root.get("method").ok_or_else(|| {
            Problem::new(root.line, "method", "", "an experiment needs a method; it may be an empty list")
        })?;
        let method = reader.activities(method)?;
        let rollbacks = root.get("rollbacks").map(|member| reader.activities(member)).transpose()?.unwrap_or_default();
        let names: Vec<&str> = method.iter().chain(&rollbacks).map(|activity| activity.name.as_str()).collect();
        let extension = extension(&root, &variables, &names)?;
        let (when, frequency, rollback) = runtime(&root)?;
        let unknown = members.iter().filter(|member| !KNOWN.contains(&member.key.as_str()) && member.key != "runtime");
        let notes =
            unknown.map(|member| format!("line {}: {}: not part of the format, ignored", member.line, member.key));
        let notes = notes.collect();
        let title = text(&title, &variables);
        let mut source = root.json();
        source["title"] = title.clone().into();
        Ok(Experiment {
            title,
            hypothesis,
            method,
            rollbacks,
            when,
            frequency,
            rollback,
            extension,
            source,
            notes,
            variables,
        })
    }

    /// All steps, in the order in which they may run.
    pub fn activities(&self) -> impl Iterator<Item = &Activity> {
        let probes = self.hypothesis.iter().flat_map(|hypothesis| &hypothesis.probes);
        probes.chain(&self.method).chain(&self.rollbacks)
    }

    /// All regions that it names, with where.
    pub fn regions(&self) -> Vec<Named> {
        let extension = self.extension.iter();
        let of_extension = extension.flat_map(|extension| extension.region.iter().chain(&extension.regions).cloned());
        of_extension.chain(self.activities().flat_map(Activity::regions)).collect()
    }
}

/// What reading activities takes.
struct Reader<'a> {
    root: &'a Node,
    variables: &'a Variables,
    which: Which<'a>,
}

impl Reader<'_> {
    fn hypothesis(&self) -> Result<Option<Hypothesis>, Problem> {
        let Some(member) = self.root.get("steady-state-hypothesis") else { return Ok(None) };
        member.members()?;
        no_controls(&member.node)?;
        let title = match member.node.get("title") {
            Some(title) => title.text()?.to_owned(),
            None => return Err(Problem::new(member.line, "title", "", "a hypothesis needs a title")),
        };
        let probes = member.node.get("probes").map(|probes| self.activities(probes)).transpose()?.unwrap_or_default();
        if let Some(probe) = probes.iter().find(|probe| probe.tolerance.is_none()) {
            return Err(Problem::new(probe.line, "tolerance", "", "a probe of the hypothesis needs a tolerance"));
        }
        Ok(Some(Hypothesis { title, probes }))
    }

    fn activities(&self, member: &Member) -> Result<Vec<Activity>, Problem> {
        member.list()?.iter().map(|node| self.activity(node)).collect()
    }

    /// An activity, or the one that it refers to by name.
    fn activity(&self, node: &Node) -> Result<Activity, Problem> {
        let Some(reference) = node.get("ref") else { return Activity::read(node, self.variables, self.which) };
        let name = reference.text()?;
        let lists =
            [self.root.get("method"), self.root.get("steady-state-hypothesis").and_then(|h| h.node.get("probes"))];
        let mut nodes = lists.into_iter().flatten().filter_map(|list| list.list().ok()).flatten();
        let found = nodes.find(|node| node.get("name").is_some_and(|found| found.text() == Ok(name)));
        let found =
            found.ok_or_else(|| reference.problem("no activity of the method or the hypothesis has this name"))?;
        let background = node.get("background").map(Member::boolean).transpose()?.unwrap_or_default();
        Ok(Activity { background, ..Activity::read(found, self.variables, self.which)? })
    }
}

fn not_empty(root: &Node, key: &str) -> Result<String, Problem> {
    match root.get(key) {
        Some(member) if !member.text()?.is_empty() => Ok(member.text()?.to_owned()),
        found => {
            let line = found.map_or(root.line, |member| member.line);
            Err(Problem::new(line, key, "", "an experiment needs it"))
        }
    }
}

fn tags(root: &Node) -> Result<(), Problem> {
    let Some(tags) = root.get("tags") else { return Ok(()) };
    match tags.list()?.iter().find(|tag| !matches!(&tag.value, yaml::Value::Text(text) if !text.is_empty())) {
        Some(tag) => Err(Problem::new(tag.line, "tags", "", "a tag is text that is not empty")),
        None => Ok(()),
    }
}

fn configuration(root: &Node, env: &dyn Fn(&str) -> Option<String>) -> Result<Variables, Problem> {
    let mut variables = Variables::new();
    let Some(configuration) = root.get("configuration") else { return Ok(variables) };
    for member in configuration.members()? {
        let kind = member.node.get("type").and_then(|kind| kind.text().ok());
        let value = match kind {
            Some("env") => from_environment(member, env)?,
            Some("probe") => return Err(member.problem("a configuration from a probe is not supported; use type env")),
            // Chaos Toolkit takes a mapping of another type as it is.
            _ => member.node.json(),
        };
        variables.insert(member.key.clone(), value);
    }
    Ok(variables)
}

fn from_environment(member: &Member, env: &dyn Fn(&str) -> Option<String>) -> Result<Value, Problem> {
    let Some(key) = member.node.get("key") else {
        return Err(Problem::new(member.line, &member.key, "", "type env needs `key`, the variable's name"));
    };
    let found = env(key.text()?).map(Value::String);
    let default = || match &member.node.value {
        yaml::Value::Map(members) => {
            members.iter().find(|member| member.key == "default").map(|member| member.node.json())
        }
        _ => None,
    };
    let value = found.or_else(default).ok_or_else(|| {
        let why = "this variable is not in the environment, and there is no `default`";
        Problem::new(key.line, &format!("{}.key", member.key), key.text().unwrap_or_default(), why)
    })?;
    let kind = member.node.get("env_var_type");
    let Some(kind) = kind else { return Ok(value) };
    let given = super::substitute::python_text(&value);
    let wrong = |what: &str| Problem::new(kind.line, &member.key, &given, format!("expected {what}"));
    Ok(match kind.text()? {
        "str" | "string" => value,
        "int" | "integer" => given.trim().parse::<i64>().map_err(|_| wrong("a whole number"))?.into(),
        "float" | "number" => given.trim().parse::<f64>().map_err(|_| wrong("a number"))?.into(),
        "bool" => (!["false", "0", "no"].contains(&given.to_lowercase().as_str())).into(),
        "json" => match &value {
            Value::String(text) if !text.is_empty() => serde_json::from_str(text).map_err(|_| wrong("JSON"))?,
            _ => value,
        },
        _ => return Err(kind.problem("expected str, int, float, bool or json")),
    })
}

fn extension(root: &Node, variables: &Variables, activities: &[&str]) -> Result<Option<Extension>, Problem> {
    let Some(extensions) = root.get("extensions") else { return Ok(None) };
    let mut ours = None;
    for node in extensions.list()? {
        let name = node.get("name").and_then(|name| name.text().ok()).map(str::trim);
        match name {
            None | Some("") => return Err(Problem::new(node.line, "extensions", "", "an extension needs a name")),
            Some("hubweave") => ours = Some(Extension::read(node, variables, activities)?),
            // Somebody else's.
            Some(_) => {}
        }
    }
    Ok(ours)
}

fn runtime(root: &Node) -> Result<(When, Duration, Rollback), Problem> {
    let of = |section: &str, key: &str| root.get("runtime")?.node.get(section)?.node.get(key);
    let mut when = When::Default;
    if let Some(strategy) = of("hypothesis", "strategy") {
        when = match strategy.text()? {
            "default" => When::Default,
            "before-method-only" => When::BeforeOnly,
            "after-method-only" => When::AfterOnly,
            "during-method-only" => When::DuringOnly,
            "continuously" => When::Continuously,
            "skip" => When::Never,
            _ => {
                return Err(strategy.problem(
                    "expected default, before-method-only, after-method-only, during-method-only, continuously or skip",
                ));
            }
        };
    }
    let mut frequency = Duration::from_secs(1);
    if let Some(given) = of("hypothesis", "frequency") {
        let seconds = given.number()?;
        if !(0.05..=3_600.0).contains(&seconds) {
            return Err(given.problem("expected seconds from 0.05 to 3600"));
        }
        frequency = Duration::from_secs_f64(seconds);
    }
    let mut rollback = Rollback::Always;
    if let Some(strategy) = of("rollbacks", "strategy") {
        rollback = match strategy.text()? {
            "always" => Rollback::Always,
            "never" => Rollback::Never,
            "default" => Rollback::UnlessFailed,
            "deviated" => Rollback::Deviated,
            _ => return Err(strategy.problem("expected always, default, deviated or never")),
        };
    }
    Ok((when, frequency, rollback))
}

#[cfg(test)]
#[path = "experiment_tests.rs"]
mod tests;
