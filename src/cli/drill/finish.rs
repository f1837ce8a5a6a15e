//! The end of a drill: the regions are compared, the numbers put together and judged, the report written.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{guard, runner::Ran};
use crate::{
    cli::{Context, Error, now, verify},
    drill::{
        extension::Extension,
        journal::{Journal, Measured, Run, Step, StepKind},
        page,
        timeline::millis,
        verdict::{self, Facts},
    },
    verify::{journal::Journal as LoadJournal, report::Report},
};

/// Like the journals of this version of Chaos Toolkit's library.
const CHAOSLIB: &str = "1.44.0";
const VERIFY_WAIT: Duration = Duration::from_secs(20);

/// Compares the regions, judges the run, and tells the agents.
pub async fn finish(context: &Context, ran: Ran, stop: &CancellationToken) -> Journal {
    let mut ran = ran;
    let extension = ran.experiment.extension.clone().unwrap_or_default();
    let mut problems = Vec::new();
    let load = extension.journal.as_ref().and_then(|path| match verify::read_journal(context, Path::new(path)) {
        Ok(journal) => Some(journal),
        Err(error) => {
            problems.push(format!(
                "the load's journal cannot be read: {}",
                error.to_string().trim_start_matches("error: ")
            ));
            None
        }
    });
    let from = ran.watch.now();
    let report = compare(context, &extension, load.as_ref(), stop).await;
    if let Some(report) = &report {
        let (name, kind, ok) = ("verify".to_owned(), StepKind::Verify, report.is_equal());
        ran.steps.push(Step { name, kind, from, to: ran.watch.now(), ok });
    }
    let (duration, end) = (ran.watch.now(), now().to_rfc3339());
    let timeline = ran.watch.stop().await;
    let mut measured = Measured { timeline, drill: ran.drill.clone(), file: ran.file.clone(), ..Measured::default() };
    ran.watch.with(|measure| {
        measured.detected_seconds = measure.detected_seconds();
        measured.duplicates = measure.duplicates();
        measured.conflicts = measure.conflicts();
        measured.backlog_peak = measure.backlog_peak();
        measured.catch_up_seconds = measure.catch_up_seconds();
    });
    evacuation(&ran, &extension, &mut measured);
    measured.acknowledged = load.as_ref().map(acknowledged);
    if let Some(report) = &report {
        measured.lost = load.as_ref().map(|_| lost(report));
        measured.delivered_twice = Some(twice(report));
        measured.verify = Some(if report.is_equal() { "equal" } else { "different" }.to_owned());
    }
    let facts = Facts {
        status: ran.status,
        steady_states: &ran.steady_states,
        run: &ran.run,
        rollbacks: &ran.rollbacks,
        problems,
        equal: report.as_ref().map(Report::is_equal),
        lost: measured.lost,
        delivered_twice: measured.delivered_twice,
        limits: extension.limits,
        detected_seconds: measured.detected_seconds,
        rto_seconds: measured.rto_seconds,
        rpo_seconds: measured.rpo_seconds,
        rpo_events: measured.rpo_events,
        catch_up_seconds: measured.catch_up_seconds,
    };
    (measured.verdict, measured.reasons) = verdict::judge(&facts);
    measured.limits = Measured::limits_of(&extension.limits);
    measured.alerts.clone_from(&extension.alerts);
    measured.notes = std::mem::take(&mut ran.notes);
    measured.notes.extend(guard::tell(context, &ran.drill, measured.verdict.as_str()).await);
    measured.steps = ran.steps;
    Journal {
        chaoslib_version: format!("{CHAOSLIB} (hubweave {})", env!("CARGO_PKG_VERSION")),
        platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
        node: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        experiment: ran.experiment.source,
        start: ran.start,
        status: ran.status,
        deviated: ran.deviated,
        steady_states: ran.steady_states,
        run: ran.run,
        rollbacks: ran.rollbacks,
        end,
        duration,
        hubweave: measured,
    }
}

/// `None` where it was not done: the drill was interrupted.
async fn compare(
    context: &Context,
    extension: &Extension,
    load: Option<&LoadJournal>,
    stop: &CancellationToken,
) -> Option<Report> {
    if stop.is_cancelled() {
        return None;
    }
    let wait = extension.verify_wait_seconds.map_or(VERIFY_WAIT, Duration::from_secs_f64);
    tokio::select! {
        report = verify::compare_regions(context, load, wait, false) => Some(report),
        () = stop.cancelled() => None,
    }
}

/// What the evacuation said of itself, and when the others served after it.
fn evacuation(ran: &Ran, extension: &Extension, measured: &mut Measured) {
    let is_evacuation = |run: &&Run| extension.evacuate.as_deref() == Some(run.name());
    let Some(run) = ran.run.iter().find(is_evacuation) else { return };
    let said: Value =
        run.output["stdout"].as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let rpo = &said["rpo"];
    measured.rpo_seconds = rpo["seconds"].as_f64().map(millis);
    measured.rpo_events = rpo["events"].as_u64();
    measured.rpo_kind = rpo["kind"].as_str().map(str::to_owned);
    let began = ran.watch.with(|measure| measure.trouble(said["mode"] == "graceful"));
    measured.rto_seconds = ran.served_at.zip(began).map(|(served, began)| millis(served - began));
}

fn acknowledged(journal: &LoadJournal) -> u64 {
    (journal.events.len() + journal.objects.len()) as u64 + journal.documents.journal().acknowledged
}

/// Acknowledged, and not in every region at the end.
fn lost(report: &Report) -> u64 {
    let events = report.journal.as_ref().map_or(0, |journal| journal.missing_count);
    let objects = report.objects.as_ref().map_or(0, |objects| objects.lost_count);
    let documents = report.documents.as_ref().and_then(|documents| documents.journal.as_ref());
    events + objects + documents.map_or(0, |journal| journal.lost_count)
}

/// One key, more than one effect.
fn twice(report: &Report) -> u64 {
    let of_journal = report.journal.as_ref().map_or(0, |journal| journal.twice_count);
    let documents = report.documents.as_ref().and_then(|documents| documents.journal.as_ref());
    report.twice_count.max(of_journal) + documents.map_or(0, |journal| journal.twice_count)
}

/// Makes the report's folder, so that a drill is not run for nothing.
pub fn make_room(report: &Path) -> Result<(), Error> {
    let named = |path: &Path, error: std::io::Error| Error::usage(format!("{}: {error}", path.display()));
    if report.extension().is_none_or(|kind| kind != "json") {
        return Err(Error::usage(format!("{}: a report's name ends with .json", report.display())));
    }
    if let Some(folder) = report.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(|error| named(folder, error))?;
    }
    let opened = fs::OpenOptions::new().append(true).create(true).open(report);
    let is_new = opened.and_then(|file| file.metadata()).map_err(|error| named(report, error))?.len() == 0;
    if is_new {
        fs::remove_file(report).map_err(|error| named(report, error))?;
    }
    Ok(())
}

/// Writes the report and the page beside it; answers where the page is.
pub fn write(report: &Path, journal: &Journal) -> Result<PathBuf, Error> {
    let named = |path: &Path, error: &dyn std::fmt::Display| Error::no(format!("{}: {error}", path.display()));
    let text = serde_json::to_string_pretty(journal).map_err(|error| named(report, &error))?;
    fs::write(report, text + "\n").map_err(|error| named(report, &error))?;
    let page = report.with_extension("html");
    fs::write(&page, page::page(journal)).map_err(|error| named(&page, &error))?;
    Ok(page)
}
