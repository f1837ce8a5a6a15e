//! `simulate`: whole clusters in virtual time, one seed after the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU64, Ordering},
};

use serde::Serialize;

use super::{Error, args, out};
use crate::sim::{self, Fault, Outcome, Settings};

const VERDICT: &str = "no acknowledged event lost, none applied twice, all regions equal";

/// What all seeds gave together.
#[derive(Serialize)]
struct Summary {
    seeds: u64,
    steps: u64,
    failed: Vec<Outcome>,
    acknowledged: u64,
    duplicates: u64,
    conflicts: u64,
    events: u64,
    adrift: u64,
    faults: BTreeMap<Fault, u64>,
    virtual_seconds: f64,
    converged_seconds_max: f64,
    wall_seconds: f64,
    events_per_second: f64,
    verdict: &'static str,
}

pub fn simulate(args: args::Simulate, json: bool) -> Result<(), Error> {
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_default_env() {
        let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time();
        let _ = logs.try_init();
    }
    let mut settings = Settings { steps: args.steps, lines: args.trace, ..Settings::default() };
    if let Some(faults) = &args.faults {
        settings.faults = faults.iter().copied().collect::<BTreeSet<Fault>>();
    }
    let started = tokio::time::Instant::now();
    let next = AtomicU64::new(args.seeds.start);
    let mut outcomes = std::thread::scope(|scope| {
        let worker = || {
            let mut outcomes = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= args.seeds.end {
                    return Ok(outcomes);
                }
                let outcome = sim::run(seed, &settings).map_err(Error::no)?;
                tell(&outcome, &args, json)?;
                outcomes.push(outcome);
            }
        };
        let workers: Vec<_> = (0..args.jobs.max(1)).map(|_| scope.spawn(worker)).collect();
        let mut outcomes = Vec::new();
        for worker in workers {
            let done: Result<Vec<Outcome>, Error> =
                worker.join().unwrap_or_else(|_| Err(Error::no("a simulation panicked; its message stands above")));
            outcomes.extend(done?);
        }
        Ok::<_, Error>(outcomes)
    })?;
    outcomes.sort_by_key(|outcome| outcome.seed);
    let summary = summarise(&args, outcomes, started.elapsed().as_secs_f64());
    match json {
        true => out::json(&summary)?,
        false => print(&summary)?,
    }
    if summary.failed.is_empty() { Ok(()) } else { Err(Error::Said) }
}

/// What a seed has to say as soon as it is done.
fn tell(outcome: &Outcome, args: &args::Simulate, json: bool) -> Result<(), Error> {
    if json {
        return Ok(());
    }
    if args.trace {
        out::line(outcome.lines.join("\n"))?;
    }
    if outcome.violations.is_empty() {
        return if args.trace {
            out::line(format!("seed {}, trace {:016x}", outcome.seed, outcome.hash))
        } else {
            Ok(())
        };
    }
    let mut text = format!("seed {} FAILED, trace {:016x}", outcome.seed, outcome.hash);
    for violation in outcome.violations.iter().take(8) {
        text.push_str(&format!("\n  {:?}: {}", violation.invariant, violation.what));
    }
    if outcome.violations.len() > 8 {
        text.push_str(&format!("\n  and {} more", outcome.violations.len() - 8));
    }
    let faults = match &args.faults {
        Some(faults) => format!(" --faults {}", faults.iter().map(|f| f.as_str()).collect::<Vec<_>>().join(",")),
        None => String::new(),
    };
    let seed = outcome.seed;
    text.push_str(&format!(
        "\n  replay: hubweave simulate --seeds {seed}..{} --steps {}{faults} --trace",
        seed + 1,
        args.steps
    ));
    out::line(text)
}

fn summarise(args: &args::Simulate, outcomes: Vec<Outcome>, wall_seconds: f64) -> Summary {
    let mut faults = BTreeMap::new();
    for (fault, count) in outcomes.iter().flat_map(|outcome| &outcome.faults) {
        *faults.entry(*fault).or_default() += count;
    }
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    let events = sum(|outcome| outcome.events);
    Summary {
        seeds: outcomes.len() as u64,
        steps: args.steps,
        acknowledged: sum(|outcome| outcome.acknowledged),
        duplicates: sum(|outcome| outcome.duplicates),
        conflicts: sum(|outcome| outcome.conflicts),
        adrift: sum(|outcome| outcome.adrift),
        events,
        faults,
        virtual_seconds: outcomes.iter().map(|outcome| outcome.virtual_seconds).sum(),
        converged_seconds_max: outcomes.iter().map(|outcome| outcome.converged_seconds).fold(0.0, f64::max),
        wall_seconds,
        events_per_second: events as f64 / wall_seconds.max(1e-9),
        verdict: if outcomes.iter().all(|outcome| outcome.violations.is_empty()) { VERDICT } else { "FAILED" },
        failed: outcomes.into_iter().filter(|outcome| !outcome.violations.is_empty()).collect(),
    }
}

fn print(summary: &Summary) -> Result<(), Error> {
    let faults: Vec<String> =
        summary.faults.iter().map(|(fault, count)| format!("{} {count}", fault.as_str())).collect();
    out::line(format!(
        "{} seeds of {} steps: {} publishes acknowledged, {} repeats suppressed, {} conflicts, {} events in all hubs\n\
         faults: {}\n\
         {:.0} s of virtual time in {:.1} s; {:.0} events/s; equal at most {:.0} s after healing; \
         {} events went with a restored disk when nobody else had them",
        summary.seeds,
        summary.steps,
        summary.acknowledged,
        summary.duplicates,
        summary.conflicts,
        summary.events,
        faults.join(", "),
        summary.virtual_seconds,
        summary.wall_seconds,
        summary.events_per_second,
        summary.converged_seconds_max,
        summary.adrift,
    ))?;
    match summary.failed.len() {
        0 => out::line(VERDICT),
        failed => out::line(format!("{failed} seeds FAILED")),
    }
}
