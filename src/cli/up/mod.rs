//! `up`: every embedded region of the file as a child process, and a window on them.

mod supervisor;

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io::{IsTerminal, Read, Write},
    path::PathBuf,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Context, Error, args, demo,
    http::{Call, Http, Listener},
    out,
    status::{self, Answer},
    topology,
};
use crate::config::{Backend, Region, format_duration};
use supervisor::{Event, Spec, supervise};

const READY_POLL: Duration = Duration::from_millis(100);
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// Without a terminal a status line comes every so many statuses.
const LINE_EVERY: u32 = 10;
/// Lines that are kept for below the tables on a terminal; as many are shown as there is room for.
const MESSAGES: usize = 200;

pub async fn up(file: String, args: args::Up) -> Result<(), Error> {
    // Children cannot read this process's standard input: they get what it held as a file.
    let (file, _temporary) = match file.as_str() {
        "-" => {
            let temporary = Temporary::of_stdin()?;
            (temporary.0.display().to_string(), Some(temporary))
        }
        _ => (file, None),
    };
    let config = topology::load(&file).await.map_err(|problems| Error::Config(file.clone(), problems))?;
    let mut context = Context::of(config, file, false);
    let (embedded, others): (Vec<_>, Vec<_>) =
        context.config.regions.iter().cloned().partition(|region| region.backend == Backend::Embedded);
    if embedded.is_empty() {
        return Err(Error::usage(format!("{} has no embedded region to run", context.file)));
    }
    for region in others {
        out::note(format!("{} is no embedded region: run its agent with `hubweave run`", region.name));
    }
    let program = std::env::current_exe().map_err(|error| Error::no(format!("cannot find myself: {error}")))?;
    let specs = embedded.iter().map(|region| Spec {
        region: region.name.clone(),
        data_dir: region.data_dir.clone(),
        program: program.clone(),
        arguments: ["run", "--region", &region.name, "--config", &context.file, "--parent-pipe"]
            .map(Into::into)
            .to_vec(),
    });
    let _claims = claim_all(&embedded)?;
    let stop = CancellationToken::new();
    let children = TaskTracker::new();
    let (sender, events) = mpsc::channel(64);
    for spec in specs {
        children.spawn(supervise(spec, sender.clone(), stop.clone()));
    }
    drop(sender);
    children.close();
    // From here on the other regions are somebody else's.
    context.config.regions = embedded;
    let window = Window::new(context, events);
    let shown = tokio::select! {
        shown = window.show(args) => shown,
        () = super::stop_signal() => Ok(()),
    };
    if shown.is_ok() && std::io::stdout().is_terminal() {
        out::note("stopping: regions drain, then end");
    }
    stop.cancel();
    children.wait().await;
    shown
}

fn claim_all(regions: &[Region]) -> Result<Vec<File>, Error> {
    let claim = |region: &Region| {
        let directory = region.data_dir.display();
        match supervisor::claim(&region.data_dir) {
            Ok(Some(claim)) => Ok(claim),
            Ok(None) => {
                Err(Error::no(format!("another `hubweave up` runs {}, whose data is in {directory}", region.name)))
            }
            Err(error) => Err(Error::no(format!("{directory}: {error}"))),
        }
    };
    regions.iter().map(claim).collect()
}

/// What the terminal, or the reader of a pipe, sees.
struct Window {
    context: Context,
    events: mpsc::Receiver<Event>,
    terminal: bool,
    messages: VecDeque<String>,
    answers: Vec<Answer>,
    /// Waits for a child to be ready.
    waiting: BTreeMap<String, JoinHandle<()>>,
    ready: mpsc::Sender<String>,
    became_ready: mpsc::Receiver<String>,
}

impl Window {
    fn new(context: Context, events: mpsc::Receiver<Event>) -> Window {
        let (ready, became_ready) = mpsc::channel(64);
        let terminal = std::io::stdout().is_terminal();
        let (messages, answers, waiting) = (VecDeque::new(), Vec::new(), BTreeMap::new());
        Window { context, events, terminal, messages, answers, waiting, ready, became_ready }
    }

    async fn show(mut self, args: args::Up) -> Result<(), Error> {
        let mut ticks = tokio::time::interval(STATUS_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut count = 0u32;
        let (say, mut said) = mpsc::channel(64);
        let (answer, mut statuses) = mpsc::channel(1);
        let mut story =
            args.demo.then(|| tokio::spawn(demo::tell(self.context.clone(), demo::Pace::default(), say.clone())));
        if self.terminal {
            out::raw("\x1b[2J")?;
        }
        loop {
            tokio::select! {
                Some(event) = self.events.recv() => self.on_event(event)?,
                Some(region) = self.became_ready.recv() => self.on_ready(&region)?,
                Some(sentence) = said.recv() => self.say(sentence)?,
                Some(answers) = statuses.recv() => {
                    self.answers = answers;
                    count += 1;
                    if self.terminal {
                        self.draw()?;
                    } else if count.is_multiple_of(LINE_EVERY) {
                        out::line(summary(&self.answers))?;
                    }
                }
                _ = ticks.tick() => self.ask(answer.clone()),
                told = told(&mut story) => {
                    story = None;
                    // What it said last comes before the end.
                    while let Ok(sentence) = said.try_recv() {
                        self.say(sentence)?;
                    }
                    match told {
                        Ok(equal) if args.demo_exit => return if equal { Ok(()) } else { Err(Error::Said) },
                        Ok(_) => {}
                        Err(error) if args.demo_exit => return Err(error),
                        Err(error) => self.say(format!("the story ends early: {error}"))?,
                    }
                }
            }
        }
    }

    /// Asks all regions, unless the last answers are not there yet.
    fn ask(&self, answer: mpsc::Sender<Vec<Answer>>) {
        let context = self.context.clone();
        if let Ok(permit) = answer.try_reserve_owned() {
            tokio::spawn(async move {
                let answers = status::fetch(&context, &context.admins()).await;
                drop(permit.send(answers));
            });
        }
    }

    fn on_event(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Started { region, pid } => {
                let Ok(admin) = self.context.admin(&region) else { return Ok(()) };
                let task = tokio::spawn(wait_until_ready(self.context.http.clone(), admin, self.ready.clone()));
                if let Some(before) = self.waiting.insert(region.clone(), task) {
                    before.abort();
                }
                self.say(format!("{region}: started, pid {pid}"))
            }
            Event::Ended { region, why, last_lines, pause } => {
                if let Some(task) = self.waiting.remove(&region) {
                    task.abort();
                }
                self.say(format!("{region}: ended ({why}), starting again in {}", format_duration(pause)))?;
                last_lines.into_iter().try_for_each(|line| self.say(format!("{region}: | {line}")))
            }
            Event::Held { region } => {
                let hold = self.context.region(&region)?.data_dir.join("agent.hold");
                self.say(format!("{region}: held down while {} exists", hold.display()))
            }
        }
    }

    fn on_ready(&mut self, region: &str) -> Result<(), Error> {
        self.waiting.remove(region);
        let region = self.context.region(region)?;
        let api = region.api.as_ref().map(|api| format!(", api http://{api}")).unwrap_or_default();
        self.say(format!("{}: ready{api}, admin http://{}", region.name, region.admin))
    }

    fn say(&mut self, sentence: String) -> Result<(), Error> {
        if !self.terminal {
            return out::line(sentence);
        }
        self.messages.extend(sentence.lines().map(str::to_owned));
        while self.messages.len() > MESSAGES {
            self.messages.pop_front();
        }
        self.draw()
    }

    fn draw(&self) -> Result<(), Error> {
        let size = out::terminal_size();
        let tables = status::text(&self.answers);
        let messages: Vec<String> = self.messages.iter().flat_map(|message| out::wrap(message, size.1)).collect();
        let room = size.0.saturating_sub(tables.lines().count() + 4);
        let last = &messages[messages.len().saturating_sub(room)..];
        let text = format!("{tables}\n\n{}\n\nCtrl-C stops all", last.join("\n"));
        out::raw(&out::screen(&text, size))
    }
}

/// Waits for the story; for ever if there is none.
async fn told(story: &mut Option<JoinHandle<Result<bool, Error>>>) -> Result<bool, Error> {
    match story {
        Some(story) => story.await.map_err(Error::no)?,
        None => std::future::pending().await,
    }
}

async fn wait_until_ready(http: Http, admin: Listener, ready: mpsc::Sender<String>) {
    let call = Call::get("/readyz").timeout(Duration::from_secs(2));
    while !http.is_ok(&admin, call.clone()).await {
        tokio::time::sleep(READY_POLL).await;
    }
    let _ = ready.send(admin.region).await;
}

/// All regions in one line, for logs.
fn summary(answers: &[Answer]) -> String {
    let mut parts = Vec::new();
    let (mut backlog, mut exposure, mut dead, mut lag) = (0, 0.0f64, 0, None::<f64>);
    for answer in answers {
        let Ok(status) = &answer.status else {
            parts.push(format!("{} unreachable", answer.region));
            continue;
        };
        let state = status["state"].as_str().unwrap_or("-");
        let events = out::counted(status["events"].as_u64().unwrap_or_default(), "event");
        parts.push(format!("{} {state} {events}", answer.region));
        for link in status::links(status) {
            backlog += link.backlog;
            exposure = exposure.max(link.exposure);
            dead += link.dead_letters;
            lag = link.p99.map(|p99| p99.max(lag.unwrap_or_default())).or(lag);
        }
    }
    let lag = lag.map_or("-".to_owned(), out::span);
    format!(
        "{}; links: backlog {}, worst lag p99 {lag}, worst exposure {}, dead letters {}",
        parts.join(", "),
        out::count(backlog),
        out::span(exposure),
        out::count(dead)
    )
}

/// A file for this process's life, readable by its user alone: a topology may hold tokens.
struct Temporary(PathBuf);

impl Temporary {
    fn of_stdin() -> Result<Temporary, Error> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut text = Vec::new();
        let read = std::io::stdin().lock().read_to_end(&mut text);
        read.map_err(|error| Error::usage(format!("standard input: {error}")))?;
        let path = std::env::temp_dir().join(format!("hubweave-{}.toml", super::run_id()?));
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let named = |error: std::io::Error| Error::no(format!("{}: {error}", path.display()));
        file.and_then(|mut file| file.write_all(&text)).map_err(named)?;
        Ok(Temporary(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Waits until all regions serve; `false` after `patience`.
pub async fn all_ready(context: &Context, patience: Duration) -> bool {
    let began = Instant::now();
    for admin in context.admins() {
        let call = Call::get("/readyz").timeout(Duration::from_secs(2));
        while !context.http.is_ok(&admin, call.clone()).await {
            if began.elapsed() > patience {
                return false;
            }
            tokio::time::sleep(READY_POLL).await;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_status_line_sums_up_links_and_names_who_is_away() {
        let link = json!({"peer": "us", "backlog_events": 1500, "lag_seconds": {"p50": 0.001, "p99": 0.004},
            "rpo_exposure_seconds": 2.0, "dead_letters": 3});
        let status = json!({"state": "active", "events": 12, "links": [link.clone(), link]});
        let mut answers = vec![Answer { region: "eu".to_owned(), status: Ok(status) }];
        let expected = "eu active 12 events; links: backlog 3,000, worst lag p99 4.0 ms, worst exposure 2.0 s, \
                        dead letters 6";
        assert_eq!(summary(&answers), expected);
        answers.clear();
        assert_eq!(summary(&answers), "; links: backlog 0, worst lag p99 -, worst exposure 0 s, dead letters 0");
    }
}
