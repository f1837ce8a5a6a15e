//! Planted bugs: each must be found by a seed.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;

use super::{
    super::{Error, args, out},
    settings,
};
use crate::{
    planted::{self, Bug},
    sim::World,
};

#[derive(Serialize)]
struct Found {
    bug: Bug,
    world: World,
    /// How many seeds it took; `None` if none found it.
    seeds: Option<u64>,
    seed: Option<u64>,
    violation: Option<String>,
}

/// Looks for the bug called `name`, or for each, with the seeds in their order.
pub fn find(name: &str, args: &args::Simulate, json: bool) -> Result<(), Error> {
    if !planted::ENABLED {
        return Err(Error::usage("--plant: this build has no planted bugs; use one with debug assertions".to_owned()));
    }
    let bugs = match (name, Bug::parse(name)) {
        ("all", _) => Bug::ALL.to_vec(),
        (_, Some(bug)) => vec![bug],
        (_, None) => {
            let names: Vec<&str> = Bug::ALL.into_iter().map(Bug::as_str).collect();
            return Err(Error::usage(format!("--plant: `{name}`: expected `all` or one of {}", names.join(", "))));
        }
    };
    let has = |bug: Bug| World::ALL.into_iter().filter(move |world| world.has(bug)).map(move |world| (bug, world));
    let wanted: Vec<(Bug, World)> = bugs.into_iter().flat_map(has).collect();
    let next = AtomicUsize::new(0);
    // A bug is planted on one thread, so each can look for one of its own.
    let worker = || -> Result<Vec<(usize, Found)>, Error> {
        let mut found = Vec::new();
        loop {
            let nth = next.fetch_add(1, Ordering::Relaxed);
            let Some((bug, world)) = wanted.get(nth).copied() else { return Ok(found) };
            planted::plant(Some(bug));
            let result = search(bug, world, args);
            planted::plant(None);
            let result = result?;
            if !json {
                tell(&result)?;
            }
            found.push((nth, result));
        }
    };
    let mut found = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..args.jobs.max(1)).map(|_| scope.spawn(worker)).collect();
        let mut all = Vec::new();
        for worker in workers {
            let panicked = |_| Err(Error::no("a simulation panicked; its message stands above"));
            all.extend(worker.join().unwrap_or_else(panicked)?);
        }
        Ok::<_, Error>(all)
    })?;
    found.sort_by_key(|(nth, _)| *nth);
    let found: Vec<Found> = found.into_iter().map(|(_, found)| found).collect();
    let missed = found.iter().filter(|found| found.seed.is_none()).count();
    match json {
        true => out::json(&found)?,
        false => out::line(format!("{} planted bugs found, {missed} MISSED", found.len() - missed))?,
    }
    if missed == 0 { Ok(()) } else { Err(Error::Said) }
}

fn search(bug: Bug, world: World, args: &args::Simulate) -> Result<Found, Error> {
    let settings = settings(args);
    for seed in args.seeds.clone() {
        let outcome = world.run(seed, &settings).map_err(Error::no)?;
        if let Some(violation) = outcome.violations.first() {
            let violation = Some(format!("{}: {}", violation.invariant.as_str(), violation.what));
            return Ok(Found { bug, world, seeds: Some(seed - args.seeds.start + 1), seed: Some(seed), violation });
        }
    }
    Ok(Found { bug, world, seeds: None, seed: None, violation: None })
}

fn tell(found: &Found) -> Result<(), Error> {
    let (bug, world) = (found.bug.as_str(), found.world.as_str());
    match (found.seed, found.seeds, &found.violation) {
        (Some(seed), Some(seeds), Some(violation)) => {
            out::line(format!("planted {bug} ({world}): found by seed {seed}, after {seeds}; {violation}"))
        }
        _ => out::line(format!("planted {bug} ({world}): MISSED")),
    }
}
