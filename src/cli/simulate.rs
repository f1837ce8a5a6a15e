//! `simulate`: whole clusters in virtual time, one seed after the other.

mod histories;
mod planted;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU64, Ordering},
};

use serde::Serialize;

use super::{Error, args, out};
use crate::{
    marks::{self, Hits},
    sim::{Fault, Named, Outcome, Settings, World},
};

const VERDICT: &str = "no acknowledged event lost, none applied twice, all regions equal";

/// On managed services a second effect cannot always be prevented; then it must have been counted as possible.
const VERDICT_MANAGED: &str = "no acknowledged event lost, every second effect counted, all regions equal";

/// What all seeds gave together.
#[derive(Serialize)]
struct Summary {
    world: World,
    seeds: u64,
    steps: u64,
    failed: Vec<Outcome>,
    /// How many were run twice, and which gave another trace.
    repeated: u64,
    unrepeatable: Vec<u64>,
    /// Kinds of faults and branches that no seed met, where that was asked for.
    unmet: Vec<String>,
    acknowledged: u64,
    duplicates: u64,
    conflicts: u64,
    events: u64,
    adrift: u64,
    repeats: u64,
    possible_repeats: u64,
    faults: BTreeMap<Fault, u64>,
    virtual_seconds: f64,
    converged_seconds_max: f64,
    wall_seconds: f64,
    events_per_second: f64,
    verdict: &'static str,
}

impl Summary {
    fn is_good(&self) -> bool {
        self.failed.is_empty() && self.unrepeatable.is_empty() && self.unmet.is_empty()
    }
}

pub fn simulate(args: args::Simulate, json: bool) -> Result<(), Error> {
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_default_env() {
        let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time();
        let _ = logs.try_init();
    }
    match (&args.plant, &args.scenario) {
        (Some(bug), _) => planted::find(bug, &args, json),
        (None, Some(name)) => histories::play(name, &args, json),
        (None, None) => run_seeds(&args, json),
    }
}

fn settings(args: &args::Simulate) -> Settings {
    let mut settings = Settings { steps: args.steps, lines: args.trace, ..Settings::default() };
    if let Some(faults) = &args.faults {
        settings.faults = faults.iter().copied().collect::<BTreeSet<Fault>>();
    }
    settings
}

/// What one worker has to tell.
#[derive(Default)]
struct Done {
    outcomes: Vec<Outcome>,
    repeated: u64,
    unrepeatable: Vec<u64>,
}

fn run_seeds(args: &args::Simulate, json: bool) -> Result<(), Error> {
    if args.require_coverage && !marks::ENABLED {
        return Err(Error::usage(
            "--require-coverage: this build has no marks; use one with debug assertions".to_owned(),
        ));
    }
    let settings = settings(args);
    let started = tokio::time::Instant::now();
    let next = AtomicU64::new(args.seeds.start);
    let worker = || {
        let mut done = Done::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= args.seeds.end {
                return Ok(done);
            }
            let outcome = args.world.run(seed, &settings).map_err(Error::no)?;
            tell(&outcome, args, json)?;
            if seed.checked_rem(args.twice) == Some(0) {
                let again = args.world.run(seed, &settings).map_err(Error::no)?;
                done.repeated += 1;
                if again.hash != outcome.hash {
                    done.unrepeatable.push(seed);
                }
            }
            done.outcomes.push(outcome);
        }
    };
    let done = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..args.jobs.max(1)).map(|_| scope.spawn(worker)).collect();
        let mut all = Done::default();
        for worker in workers {
            let done: Result<Done, Error> =
                worker.join().unwrap_or_else(|_| Err(Error::no("a simulation panicked; its message stands above")));
            let done = done?;
            all.outcomes.extend(done.outcomes);
            all.repeated += done.repeated;
            all.unrepeatable.extend(done.unrepeatable);
        }
        all.outcomes.sort_by_key(|outcome| outcome.seed);
        Ok::<_, Error>(all)
    })?;
    let summary = summarise(args, done, started.elapsed().as_secs_f64());
    match json {
        true => out::json(&summary)?,
        false => print(&summary)?,
    }
    if summary.is_good() { Ok(()) } else { Err(Error::Said) }
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
    text.push_str(&violations(outcome));
    text.push_str(&format!("\n  replay: {}", replay(outcome.seed, args)));
    out::line(text)
}

/// The command that plays the seed again, step by step.
fn replay(seed: u64, args: &args::Simulate) -> String {
    let faults = match &args.faults {
        Some(faults) => format!(" --faults {}", faults.iter().map(|f| f.as_str()).collect::<Vec<_>>().join(",")),
        None => String::new(),
    };
    let world = match args.world {
        World::Embedded => "",
        World::Managed => " --world managed",
    };
    format!("hubweave simulate --seeds {seed}..{}{world} --steps {}{faults} --trace", seed + 1, args.steps)
}

/// The first of them, a line each.
fn violations(outcome: &Outcome) -> String {
    let mut text = String::new();
    for violation in outcome.violations.iter().take(8) {
        text.push_str(&format!("\n  {}: {}", violation.invariant.as_str(), violation.what));
    }
    if outcome.violations.len() > 8 {
        text.push_str(&format!("\n  and {} more", outcome.violations.len() - 8));
    }
    text
}

fn summarise(args: &args::Simulate, done: Done, wall_seconds: f64) -> Summary {
    let Done { outcomes, repeated, unrepeatable } = done;
    let mut faults = BTreeMap::new();
    for (fault, count) in outcomes.iter().flat_map(|outcome| &outcome.faults) {
        *faults.entry(*fault).or_default() += count;
    }
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    let events = sum(|outcome| outcome.events);
    let verdict = match args.world {
        World::Embedded => VERDICT,
        World::Managed => VERDICT_MANAGED,
    };
    let mut summary = Summary {
        world: args.world,
        seeds: outcomes.len() as u64,
        steps: args.steps,
        repeated,
        unrepeatable,
        unmet: if args.require_coverage { unmet(args, &outcomes, &faults) } else { Vec::new() },
        acknowledged: sum(|outcome| outcome.acknowledged),
        duplicates: sum(|outcome| outcome.duplicates),
        conflicts: sum(|outcome| outcome.conflicts),
        adrift: sum(|outcome| outcome.adrift),
        repeats: sum(|outcome| outcome.repeats),
        possible_repeats: sum(|outcome| outcome.possible_repeats),
        events,
        faults,
        virtual_seconds: outcomes.iter().map(|outcome| outcome.virtual_seconds).sum(),
        converged_seconds_max: outcomes.iter().map(|outcome| outcome.converged_seconds).fold(0.0, f64::max),
        wall_seconds,
        events_per_second: events as f64 / wall_seconds.max(1e-9),
        verdict,
        failed: outcomes.into_iter().filter(|outcome| !outcome.violations.is_empty()).collect(),
    };
    if !summary.is_good() {
        summary.verdict = "FAILED";
    }
    summary
}

/// What the seeds should have met and did not.
fn unmet(args: &args::Simulate, outcomes: &[Outcome], faults: &BTreeMap<Fault, u64>) -> Vec<String> {
    // Some branches take longer than a seed's history lasts: those are on the way of a named one.
    let named = Named::all().filter_map(|named| named.run(0).ok()).map(|outcome| outcome.marks);
    let hits = outcomes.iter().map(|outcome| outcome.marks).chain(named).fold(Hits::default(), Hits::and);
    let asked = |fault: &Fault| args.faults.as_ref().is_none_or(|asked| asked.contains(fault));
    let wanted = args.world.faults().iter().filter(|fault| asked(fault) && !faults.contains_key(fault));
    let faults = wanted.map(|fault| format!("fault {}", fault.as_str()));
    let branches = hits.missing().into_iter().filter(|mark| args.world.reaches(*mark));
    faults.chain(branches.map(|mark| format!("branch {}", mark.as_str()))).collect()
}

fn print(summary: &Summary) -> Result<(), Error> {
    let faults: Vec<String> =
        summary.faults.iter().map(|(fault, count)| format!("{} {count}", fault.as_str())).collect();
    out::line(format!(
        "{} seeds of {} steps: {} publishes acknowledged, {} repeats suppressed, {} conflicts, {} events in all hubs\n\
         faults: {}\n\
         {:.0} s of virtual time in {:.1} s; {:.0} events/s; equal at most {:.0} s after healing",
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
    ))?;
    out::line(match summary.world {
        World::Embedded => {
            format!("{} events went with a restored disk when nobody else had them", summary.adrift)
        }
        World::Managed => {
            format!("{} second effects; {} were counted as possible", summary.repeats, summary.possible_repeats)
        }
    })?;
    if summary.repeated > 0 {
        out::line(format!(
            "{} seeds run twice, {} of them with another trace {:?}",
            summary.repeated,
            summary.unrepeatable.len(),
            summary.unrepeatable
        ))?;
    }
    for unmet in &summary.unmet {
        out::line(format!("not met: {unmet}"))?;
    }
    match summary.is_good() {
        true => out::line(summary.verdict),
        false => out::line(format!("{} seeds FAILED", summary.failed.len())),
    }
}
