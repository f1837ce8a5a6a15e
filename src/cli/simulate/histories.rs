//! Histories by their names.

use serde::Serialize;

use super::{
    super::{Error, args, out},
    violations,
};
use crate::sim::{Named, Outcome};

#[derive(Serialize)]
struct Played {
    scenario: &'static str,
    #[serde(flatten)]
    outcome: Outcome,
}

/// Plays the one called `name`, or all, with each of the seeds.
pub fn play(name: &str, args: &args::Simulate, json: bool) -> Result<(), Error> {
    let chosen: Vec<Named> = Named::all().filter(|named| name == "all" || named.as_str() == name).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = Named::all().map(Named::as_str).collect();
        return Err(Error::usage(format!("--scenario: `{name}`: expected `all` or one of {}", names.join(", "))));
    }
    let mut played = Vec::new();
    for named in chosen {
        for seed in args.seeds.clone() {
            let outcome = named.run(seed).map_err(Error::no)?;
            if !json {
                tell(named, &outcome, args)?;
            }
            played.push(Played { scenario: named.as_str(), outcome });
        }
    }
    let failed = played.iter().filter(|played| !played.outcome.violations.is_empty()).count();
    match json {
        true => out::json(&played)?,
        false => out::line(format!("{} histories, {failed} FAILED", played.len()))?,
    }
    if failed == 0 { Ok(()) } else { Err(Error::Said) }
}

fn tell(named: Named, outcome: &Outcome, args: &args::Simulate) -> Result<(), Error> {
    if args.trace {
        out::line(outcome.lines.join("\n"))?;
    }
    let (name, seed, hash) = (named.as_str(), outcome.seed, outcome.hash);
    if outcome.violations.is_empty() {
        let Outcome { acknowledged, events, converged_seconds, .. } = outcome;
        return out::line(format!(
            "{name}, seed {seed}, trace {hash:016x}: {acknowledged} acknowledged, {events} events in all hubs, equal \
             {converged_seconds:.0} s after healing"
        ));
    }
    let replay = format!("hubweave simulate --scenario {name} --seeds {seed}..{} --trace", seed + 1);
    out::line(format!("{name}, seed {seed} FAILED, trace {hash:016x}{}\n  replay: {replay}", violations(outcome)))
}
