//! `simulate`.

use clap::Args;

#[derive(Debug, Args)]
pub struct Simulate {
    /// Each seed is one history, from the first up to but without the second
    #[arg(long, value_name = "A..B", default_value = "0..100", value_parser = parse_seeds)]
    pub seeds: std::ops::Range<u64>,
    /// Things that happen in each history before everything heals
    #[arg(long, value_name = "N", default_value_t = 150)]
    pub steps: u64,
    /// Only these kinds [default: all]
    #[arg(long, value_name = "KIND,...", value_delimiter = ',', value_parser = parse_sim_fault)]
    pub faults: Option<Vec<crate::sim::Fault>>,
    /// What the regions are made of
    #[arg(long, value_name = "WORLD", default_value = "embedded", value_parser = parse_world)]
    pub world: crate::sim::World,
    /// Plays a history by its name, or all of them, instead of seeds
    #[arg(long, value_name = "NAME|all", conflicts_with_all = ["faults", "steps", "world"])]
    pub scenario: Option<String>,
    /// Runs one of so many seeds twice and demands the same trace; 0 none
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub twice: u64,
    /// Fails unless every kind of fault and every marked branch was met; needs a build with debug assertions
    #[arg(long)]
    pub require_coverage: bool,
    /// Plants a bug, or each of them in turn, and fails unless a seed finds it; needs a build with debug assertions
    #[arg(long, value_name = "BUG|all", conflicts_with_all = ["scenario", "require_coverage", "trace", "world"])]
    pub plant: Option<String>,
    /// Prints what happens, line by line
    #[arg(long)]
    pub trace: bool,
    /// Threads; each runs one seed at a time
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub jobs: usize,
}

fn parse_seeds(text: &str) -> Result<std::ops::Range<u64>, String> {
    let expected = || format!("`{text}`: expected two numbers, as in `0..2000`");
    let (start, end) = text.split_once("..").ok_or_else(expected)?;
    let (start, end) = (start.parse().map_err(|_| expected())?, end.parse().map_err(|_| expected())?);
    if start < end { Ok(start..end) } else { Err(format!("`{text}` names no seed")) }
}

fn parse_world(text: &str) -> Result<crate::sim::World, String> {
    let worlds = crate::sim::World::ALL;
    worlds.into_iter().find(|world| world.as_str() == text).ok_or_else(|| {
        let names: Vec<&str> = worlds.into_iter().map(crate::sim::World::as_str).collect();
        format!("expected one of {}", names.join(", "))
    })
}

fn parse_sim_fault(text: &str) -> Result<crate::sim::Fault, String> {
    crate::sim::Fault::parse(text).ok_or_else(|| {
        let kinds: Vec<&str> = crate::sim::Fault::ALL.into_iter().map(crate::sim::Fault::as_str).collect();
        format!("no kind of fault; expected one of {}", kinds.join(", "))
    })
}
