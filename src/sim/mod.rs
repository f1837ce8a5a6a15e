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
mod documents;
pub mod history;
pub mod hold;
pub mod judge;
mod later;
pub mod managed;
pub mod net;
pub mod node;
mod objects;
mod payload;
pub mod power;
mod regions;
mod requests;
mod rows;
pub mod scenarios;
pub mod steps;
pub mod trace;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::Once,
};

use serde::Serialize;

pub use crate::core::invariant::{Invariant, Violation};
use crate::{
    marks::{self, Hits, Mark},
    planted::Bug,
};
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
    /// Requests to documents that were acknowledged as new, as repeats, and deletes.
    pub requests: (u64, u64, u64),
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

/// What the regions of a simulated cluster are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum World {
    /// Each region is one durable process; links are requests and replies between them.
    Embedded,
    /// Each region is a bus, queues and a ledger that others run, and any number of agents.
    Managed,
}

impl World {
    pub const ALL: [World; 2] = [World::Embedded, World::Managed];

    pub fn as_str(self) -> &'static str {
        match self {
            World::Embedded => "embedded",
            World::Managed => "managed",
        }
    }

    /// Runs one seed on this thread, from beginning to end.
    ///
    /// # Errors
    /// The runtime does not start, or the settings make no valid cluster.
    pub fn run(self, seed: u64, settings: &Settings) -> Result<Outcome, String> {
        match self {
            World::Embedded => run(seed, settings),
            World::Managed => managed::run(seed, settings),
        }
    }

    /// The kinds of faults that can happen here.
    pub fn faults(self) -> &'static [Fault] {
        match self {
            World::Embedded => &Fault::ALL,
            World::Managed => &[
                Fault::Partition,
                Fault::Delay,
                Fault::Drop,
                Fault::Duplicate,
                Fault::Throttle,
                Fault::Error,
                Fault::TimeoutAfterSuccess,
                Fault::ClockSkew,
                Fault::Crash,
                Fault::Hold,
            ],
        }
    }

    /// Whether this branch is on a way that events take here.
    pub fn reaches(self, mark: Mark) -> bool {
        mark.is_managed() == (self == World::Managed)
    }

    /// Whether there is something for this bug to break here.
    pub fn has(self, bug: Bug) -> bool {
        let managed_alone = matches!(
            bug,
            Bug::DuplicateAgainstLiveClaim
                | Bug::LeaseWithoutFencing
                | Bug::LeaseFromAnswer
                | Bug::LeaseByWallClock
                | Bug::DeletedBeforeMark
                | Bug::RepeatNotCounted
                | Bug::ItemUnconditioned
                | Bug::SumsApart
                | Bug::WriteRepeatedBlindly
                | Bug::CoveredCountsAsDone
                | Bug::NeverCompared
        );
        let both = matches!(
            bug,
            Bug::BatchAcknowledgedOnPartialFailure
                | Bug::DeadLetterCountsAsDelivered
                | Bug::ConflictUntold
                | Bug::EvictedKeeps
                | Bug::EvictedHeard
        );
        both || managed_alone == (self == World::Managed)
    }
}

/// A history with a name.
#[derive(Clone, Copy, Debug)]
pub enum Named {
    Embedded(scenarios::Scenario),
    Managed(managed::scenarios::Scenario),
}

impl Named {
    pub fn all() -> impl Iterator<Item = Named> {
        let embedded = scenarios::Scenario::ALL.into_iter().map(Named::Embedded);
        embedded.chain(managed::scenarios::Scenario::ALL.into_iter().map(Named::Managed))
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Named::Embedded(scenario) => scenario.as_str(),
            Named::Managed(scenario) => scenario.as_str(),
        }
    }

    /// Plays it, with everything that a seed decides drawn from this one.
    ///
    /// # Errors
    /// The runtime or an agent does not start.
    pub fn run(self, seed: u64) -> Result<Outcome, String> {
        match self {
            Named::Embedded(scenario) => scenarios::run(scenario, seed),
            Named::Managed(scenario) => managed::scenarios::run(scenario, seed),
        }
    }
}

/// Runs one seed of embedded regions on this thread, from beginning to end.
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
