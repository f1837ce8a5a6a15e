//! Faults on order: decorators around the ports, seeded, the same in simulation, in drills and in production.
//!
//! A [`Faults`] table belongs to one agent and says what is in force. [`peer::FaultyPeer`], [`objects::FaultyObjects`],
//! [`documents::FaultyDocuments`] and [`regions::FaultyRegion`] spoil what goes out, [`inbox::FaultyInbox`] what comes in,
//! [`clock::SkewedClock`] what time it is, [`managed`] the services of a region on managed ones. A partition cuts everything between two regions, whatever the call.

pub mod clock;
pub mod documents;
pub mod inbox;
pub mod managed;
pub mod objects;
pub mod peer;
pub mod regions;

use std::{
    fmt,
    str::FromStr,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    core::time::Timestamp,
    ports::clock::{Clock, Entropy},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Nothing passes.
    Partition,
    /// Calls take longer, by `delay`.
    Delay,
    /// Calls are lost.
    Drop,
    /// Calls arrive twice.
    Duplicate,
    /// Calls overtake each other: each takes longer by a random part of `delay`.
    Reorder,
    /// The peer asks to wait for `delay`.
    Throttle,
    /// Calls fail.
    Error,
    /// Calls succeed, but their answers are lost.
    TimeoutAfterSuccess,
    /// The region's clock is ahead by `delay`.
    ClockSkew,
    /// The agent's process ends, as by `kill -9`.
    Crash,
}

impl Kind {
    pub const ALL: [Kind; 10] = [
        Kind::Partition,
        Kind::Delay,
        Kind::Drop,
        Kind::Duplicate,
        Kind::Reorder,
        Kind::Throttle,
        Kind::Error,
        Kind::TimeoutAfterSuccess,
        Kind::ClockSkew,
        Kind::Crash,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Partition => "partition",
            Kind::Delay => "delay",
            Kind::Drop => "drop",
            Kind::Duplicate => "duplicate",
            Kind::Reorder => "reorder",
            Kind::Throttle => "throttle",
            Kind::Error => "error",
            Kind::TimeoutAfterSuccess => "timeout-after-success",
            Kind::ClockSkew => "clock-skew",
            Kind::Crash => "crash",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| format!("no kind of fault: {text}"))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// What this region sends.
    Out,
    /// What this region receives.
    In,
    #[default]
    Both,
}

impl Direction {
    fn covers(self, other: Direction) -> bool {
        self == Direction::Both || self == other
    }
}

/// An order for a fault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    pub kind: Kind,
    /// Towards and from which region; every one if absent.
    #[serde(default)]
    pub peer: Option<String>,
    #[serde(default)]
    pub direction: Direction,
    /// Milliseconds; see [`Kind`]. Default 100; negative only for a clock that is behind.
    #[serde(default = "default_delay")]
    pub delay_ms: i64,
    /// Of each call, between 0 and 1.
    #[serde(default = "always")]
    pub probability: f64,
    /// Milliseconds after which it ends by itself; without, it lasts until it is cleared or the agent restarts.
    #[serde(default)]
    pub for_ms: Option<u64>,
}

fn default_delay() -> i64 {
    100
}

fn always() -> f64 {
    1.0
}

/// A fault in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    pub id: u64,
    pub kind: Kind,
    pub peer: Option<String>,
    pub direction: Direction,
    pub delay_ms: i64,
    pub probability: f64,
    /// RFC 3339; `None`: until cleared.
    pub until: Option<String>,
    #[serde(skip)]
    ends: Option<Timestamp>,
}

impl Fault {
    pub fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms.unsigned_abs())
    }
}

/// Why an order is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("faults are not enabled: set `enabled = true` under [faults], and never in production without a drill")]
    Disabled,
    #[error("{0}")]
    Invalid(String),
}

/// What is in force in one agent. Its clock is the true one: a skewed clock does not end its own fault.
pub struct Faults {
    enabled: bool,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    given: AtomicU64,
    list: RwLock<Vec<Fault>>,
}

/// Faults that one agent may have at a time.
const FAULTS_MAX: usize = 1000;

impl Faults {
    pub fn new(enabled: bool, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self { enabled, clock, entropy, given: AtomicU64::new(0), list: RwLock::default() }
    }

    /// Puts a fault in force.
    ///
    /// # Errors
    /// Faults are not enabled, or the order makes no sense.
    pub fn inject(&self, order: Order) -> Result<Fault, Error> {
        if !self.enabled {
            return Err(Error::Disabled);
        }
        if !(0.0..=1.0).contains(&order.probability) {
            return Err(Error::Invalid(format!("probability: {}: not between 0 and 1", order.probability)));
        }
        if order.delay_ms < 0 && order.kind != Kind::ClockSkew {
            return Err(Error::Invalid(format!("delay_ms: {}: only a clock can be behind", order.delay_ms)));
        }
        let ends = order.for_ms.map(|milliseconds| self.clock.now().plus(Duration::from_millis(milliseconds)));
        let fault = Fault {
            id: self.given.fetch_add(1, Ordering::Relaxed) + 1,
            kind: order.kind,
            peer: order.peer,
            direction: order.direction,
            delay_ms: order.delay_ms,
            probability: order.probability,
            until: ends.map(Timestamp::to_rfc3339),
            ends,
        };
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        list.retain(|fault| fault.ends.is_none_or(|ends| ends > now));
        if list.len() >= FAULTS_MAX {
            return Err(Error::Invalid(format!("{FAULTS_MAX} faults are in force already; clear some")));
        }
        tracing::warn!(id = fault.id, kind = %fault.kind, peer = fault.peer, until = fault.until, "fault injected");
        list.push(fault.clone());
        Ok(fault)
    }

    /// Ends the faults of this kind and peer (any where `None`); answers how many.
    pub fn clear(&self, kind: Option<Kind>, peer: Option<&str>) -> usize {
        let now = self.clock.now();
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        // What ended by itself is not cleared by anybody.
        list.retain(|fault| fault.ends.is_none_or(|ends| ends > now));
        let before = list.len();
        list.retain(|fault| {
            kind.is_some_and(|kind| kind != fault.kind) || peer.is_some_and(|peer| fault.peer.as_deref() != Some(peer))
        });
        let cleared = before - list.len();
        tracing::warn!(cleared, "faults cleared");
        cleared
    }

    /// What is in force now.
    pub fn list(&self) -> Vec<Fault> {
        let now = self.clock.now();
        self.read().iter().filter(|fault| fault.ends.is_none_or(|ends| ends > now)).cloned().collect()
    }

    /// The faults that hit this call.
    fn draw(&self, peer: &str, direction: Direction) -> Vec<Fault> {
        if self.read().is_empty() {
            return Vec::new();
        }
        let mut hits = self.list();
        hits.retain(|fault| {
            fault.kind != Kind::ClockSkew
                && fault.direction.covers(direction)
                && fault.peer.as_deref().is_none_or(|hit| hit == peer)
                && (fault.probability >= 1.0 || self.entropy.next_f64() < fault.probability)
        });
        hits
    }

    /// Whether a certain partition is in force: it cuts what is under way as well.
    fn is_cut(&self, peer: &str, direction: Direction) -> bool {
        !self.read().is_empty()
            && self.list().iter().any(|fault| {
                fault.kind == Kind::Partition
                    && fault.probability >= 1.0
                    && fault.direction.covers(direction)
                    && fault.peer.as_deref().is_none_or(|hit| hit == peer)
            })
    }

    /// What is added to the clock, in milliseconds.
    fn skew_ms(&self) -> i64 {
        if self.read().is_empty() {
            return 0;
        }
        self.list().iter().filter(|fault| fault.kind == Kind::ClockSkew).map(|fault| fault.delay_ms).sum()
    }

    fn part_of(&self, delay: Duration) -> Duration {
        delay.mul_f64(self.entropy.next_f64())
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<Fault>> {
        self.list.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a process ends at an injected crash. A simulated one ends its node.
pub type CrashHook = Arc<dyn Fn() + Send + Sync>;

#[cfg(test)]
mod tests;
