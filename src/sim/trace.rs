//! What was seen of a run: a hash that tells two runs apart, lines for people, counts.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;
use tokio::time::Instant;

/// What a simulation does to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    Partition,
    Delay,
    Drop,
    Duplicate,
    Reorder,
    Throttle,
    Error,
    TimeoutAfterSuccess,
    ClockSkew,
    /// At any moment, or at any call to disk and network from then on.
    Crash,
    /// A sync that failed: the agent must end, not try again.
    FailedSync,
    /// The disk stopped in the middle of something.
    DeadDisk,
    /// A region restored from an older copy of its disk, or from an empty one.
    Rollback,
    /// A copy of a running agent's disk comes up while the original goes on for a while.
    Clone,
    /// A bit of the log's last bytes flips.
    BitRot,
    /// A region answers `Retry` for single events.
    Hold,
    /// Bodies of objects arrive cut off, or with a wrong byte.
    Damage,
    /// An agent starts with a file that leaves a region out, or has it again.
    Membership,
}

impl Fault {
    pub const ALL: [Fault; 18] = [
        Fault::Partition,
        Fault::Delay,
        Fault::Drop,
        Fault::Duplicate,
        Fault::Reorder,
        Fault::Throttle,
        Fault::Error,
        Fault::TimeoutAfterSuccess,
        Fault::ClockSkew,
        Fault::Crash,
        Fault::FailedSync,
        Fault::DeadDisk,
        Fault::Rollback,
        Fault::Clone,
        Fault::BitRot,
        Fault::Hold,
        Fault::Damage,
        Fault::Membership,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Fault::Partition => "partition",
            Fault::Delay => "delay",
            Fault::Drop => "drop",
            Fault::Duplicate => "duplicate",
            Fault::Reorder => "reorder",
            Fault::Throttle => "throttle",
            Fault::Error => "error",
            Fault::TimeoutAfterSuccess => "timeout-after-success",
            Fault::ClockSkew => "clock-skew",
            Fault::Crash => "crash",
            Fault::FailedSync => "failed-sync",
            Fault::DeadDisk => "dead-disk",
            Fault::Rollback => "rollback",
            Fault::Clone => "clone",
            Fault::BitRot => "bit-rot",
            Fault::Hold => "hold",
            Fault::Damage => "damage",
            Fault::Membership => "membership",
        }
    }

    pub fn parse(text: &str) -> Option<Fault> {
        Fault::ALL.into_iter().find(|fault| fault.as_str() == text)
    }
}

pub struct Trace {
    started: Instant,
    hash: u64,
    lines: Option<Vec<String>>,
    faults: BTreeMap<Fault, u64>,
}

impl Trace {
    fn put(&mut self, bytes: &[u8]) {
        // FNV-1a: this tells runs of one program apart, nothing more.
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// Something that was decided or seen; its time belongs to it.
    pub fn note(&mut self, what: &str) {
        let at = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        // Among the agents' own log lines, where these are asked for.
        tracing::info!(target: "hubweave::sim", seconds = at as f64 / 1e6, what);
        self.put(&at.to_le_bytes());
        self.put(what.as_bytes());
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>12.3} {what}", at as f64 / 1e6));
        }
    }

    pub fn fault(&mut self, kind: Fault) {
        *self.faults.entry(kind).or_default() += 1;
        self.put(kind.as_str().as_bytes());
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn faults(&self) -> &BTreeMap<Fault, u64> {
        &self.faults
    }

    pub fn take_lines(&mut self) -> Vec<String> {
        self.lines.take().unwrap_or_default()
    }
}

#[derive(Clone)]
pub struct SharedTrace(Arc<Mutex<Trace>>);

impl SharedTrace {
    /// Keeps lines for people only where they are wanted.
    pub fn new(started: Instant, lines: bool) -> Self {
        let lines = lines.then(Vec::new);
        let trace = Trace { started, hash: 0xcbf2_9ce4_8422_2325, lines, faults: BTreeMap::new() };
        Self(Arc::new(Mutex::new(trace)))
    }

    pub fn lock(&self) -> MutexGuard<'_, Trace> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn note(&self, what: &str) {
        self.lock().note(what);
    }
}
