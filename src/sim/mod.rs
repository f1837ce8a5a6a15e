//! Whole clusters in virtual time: three regions of the agent's own code over disks, networks and clocks that fail.
//!
//! # The problem
//! What hubweave promises is about crashes at any await, lost answers, disks rolled back: things that happen rarely, in
//! combinations that nobody thinks of, and never twice in the same way.
//!
//! # The method
//! One seed decides everything: traffic, faults, delays, what a crash leaves on a disk. The agents run on one thread of
//! tokio with its clock paused, which moves on only when every task waits, so hours pass in milliseconds and a seed
//! gives the same run again. What is replaced are the ports: [`disk`], [`net`], [`clock`], [`chance`]. A crash makes
//! the handles that a life of a node has on disk and network useless, which is for everybody else a crash at whatever
//! await each of its tasks stood.
//!
//! [`history`] knows what was acknowledged and says what must be true. [`steps`] makes the traffic and the faults;
//! [`judge`] checks safety meanwhile, then heals everything and demands that all regions become equal, and that
//! `verify` says so ([`audit`]).

pub mod audit;
pub mod chance;
pub mod clock;
pub mod cluster;
pub mod disk;
pub mod history;
pub mod hold;
pub mod judge;
pub mod managed;
pub mod net;
pub mod node;
pub mod power;
pub mod steps;
pub mod trace;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::Once,
};

use serde::Serialize;

pub use crate::core::invariant::{Invariant, Violation};
use crate::marks::{self, Hits};
pub use trace::Fault;

/// The regions of every simulated cluster.
pub const REGIONS: [&str; 3] = ["a", "b", "c"];

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Things that happen before everything heals.
    pub steps: u64,
    pub faults: BTreeSet<Fault>,
    /// Keep the trace as text.
    pub lines: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { steps: 150, faults: Fault::ALL.into_iter().collect(), lines: false }
    }
}

impl Settings {
    pub fn allows(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }
}

/// What one seed gave.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    pub seed: u64,
    /// Equal for equal runs.
    pub hash: u64,
    pub violations: Vec<Violation>,
    /// Publishes that were acknowledged as new.
    pub acknowledged: u64,
    pub duplicates: u64,
    pub conflicts: u64,
    /// Events in all hubs at the end, heartbeats included.
    pub events: u64,
    /// Acknowledged events that a restore took when no other region had them.
    pub adrift: u64,
    /// Second effects, which only a world of managed services may have, and how many were counted as possible.
    pub repeats: u64,
    pub possible_repeats: u64,
    pub faults: BTreeMap<Fault, u64>,
    pub virtual_seconds: f64,
    /// From the moment when all faults ended until all regions were equal.
    pub converged_seconds: f64,
    #[serde(skip)]
    pub marks: Hits,
    #[serde(skip)]
    pub lines: Vec<String>,
}

/// Runs one seed on this thread, from beginning to end.
///
/// # Errors
/// The runtime does not start, or the settings make no valid cluster.
pub fn run(seed: u64, settings: &Settings) -> Result<Outcome, String> {
    in_virtual_time(cluster::run(seed, settings))
}

/// Runs a simulation on this thread; its marks and panics are its own.
fn in_virtual_time(simulation: impl Future<Output = Result<Outcome, String>>) -> Result<Outcome, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    marks::take();
    take_panics();
    let mut outcome = runtime.block_on(simulation)?;
    // The tasks end here, so that nothing of this run is in the next one.
    drop(runtime);
    outcome.marks = marks::take();
    outcome.violations.extend(take_panics().into_iter().map(|what| Violation::new(Invariant::Panic, what)));
    Ok(outcome)
}

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// The panics of this thread since the last call: tokio keeps those of a task to itself, and a task that is gone looks
/// like one that waits.
fn take_panics() -> Vec<String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.with_borrow_mut(|panics| panics.push(info.to_string()));
            before(info);
        }));
    });
    PANICS.take()
}

#[cfg(test)]
mod tests;
