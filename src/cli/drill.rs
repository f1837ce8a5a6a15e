//! `drill`: runs experiments of Chaos Toolkit's format against the regions of the topology, and reads what came of them.
//! What a file means and what the numbers are is [`crate::drill`]; here is what touches the world.
//!
//! [`guard`] refuses, [`watch`] looks at the regions, [`perform`] carries out single activities, [`runner`] the experiment,
//! [`finish`] compares, judges and writes the report, [`past`] lists and prints what was run before.

mod finish;
mod guard;
mod past;
mod perform;
mod recovery;
mod runner;
mod watch;

use std::path::{Path, PathBuf};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Context, Error, args::Drill, check, out};
use crate::drill::{
    activity::find_program,
    experiment::{Experiment, Surroundings},
    journal::Verdict,
};

/// Where reports go when nobody says where.
const REPORTS: &str = "drills";

pub async fn drill(context: &Context, command: Drill) -> Result<(), Error> {
    match command {
        Drill::Run { file, report } => run(context, &file, report).await,
        Drill::List { paths } => past::list(context, &paths),
        Drill::Report { report } => past::report(context, &report),
    }
}

async fn run(context: &Context, file: &Path, report: Option<PathBuf>) -> Result<(), Error> {
    if context.file == "-" {
        return Err(Error::usage("a drill's steps read the topology too: name a file instead of standard input"));
    }
    let env = check::variables(context);
    let experiment = read(file, &env)?;
    for note in &experiment.notes {
        out::note(format!("{}, {note}", file.display()));
    }
    guard::check(context, file, &experiment).await?;
    let name = name_of(file);
    let report = report.unwrap_or_else(|| default_report(&name));
    finish::make_room(&report)?;
    let stop = stop_token()?;
    let id = super::run_id()?;
    let lock = guard::Lock::acquire(context, &name, &id).await?;
    let ran = runner::run(context, &name, file, experiment, env, stop.clone()).await;
    let journal = finish::finish(context, ran, &stop).await;
    lock.release().await;
    let page = finish::write(&report, &journal)?;
    context.print(&journal, || past::text(&journal, &report, &page))?;
    match journal.hubweave.verdict {
        Verdict::Passed => Ok(()),
        Verdict::Failed => Err(Error::Said),
    }
}

/// Reads an experiment.
///
/// # Errors
/// One line with file, line and member.
fn read(file: &Path, env: &[(String, String)]) -> Result<Experiment, Error> {
    let named = |why: &dyn std::fmt::Display| Error::usage(format!("{}: {why}", file.display()));
    let is_known = file.extension().is_some_and(|kind| ["yaml", "yml", "json"].iter().any(|known| kind == *known));
    if !is_known {
        return Err(named(&"an experiment's name ends with .yaml, .yml or .json"));
    }
    let text = std::fs::read_to_string(file).map_err(|error| named(&error))?;
    let folders = perform::folders();
    let surroundings = Surroundings {
        env: &|name| {
            let ours = env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
            ours.or_else(|| std::env::var(name).ok())
        },
        which: &|name| find_program(name, &folders, perform::is_program),
    };
    Experiment::parse(&text, &surroundings).map_err(|problem| Error::usage(format!("{}, {problem}", file.display())))
}

/// What a drill is called: its file's name without the ending.
fn name_of(file: &Path) -> String {
    file.file_stem().map_or_else(|| "drill".to_owned(), |stem| stem.to_string_lossy().into_owned())
}

fn default_report(name: &str) -> PathBuf {
    let time = super::now().whole_seconds().to_rfc3339().replace(['-', ':'], "");
    Path::new(REPORTS).join(format!("{name}-{time}.json"))
}

/// Cancelled at Ctrl-C, SIGQUIT, SIGTERM, or when the terminal is closed; from now on these end nothing by themselves.
fn stop_token() -> Result<CancellationToken, Error> {
    let stop = CancellationToken::new();
    for kind in [SignalKind::interrupt(), SignalKind::quit(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut signal = signal(kind).map_err(|error| Error::no(format!("signals cannot be received: {error}")))?;
        let stop = stop.clone();
        tokio::spawn(async move {
            while signal.recv().await.is_some() {
                out::note(match stop.is_cancelled() {
                    false => "stopping: ending steps, then rolling back",
                    true => "rolling back; what was changed is put back first",
                });
                stop.cancel();
            }
        });
    }
    Ok(stop)
}
