//! Wall clocks that are wrong on purpose, over tokio's virtual time.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

use crate::{core::time::Timestamp, ports::clock::Clock};

/// 2026-01-01T00:00:00Z, when every simulation begins.
const BEGIN: Timestamp = Timestamp(1_767_225_600_000_000_000);

pub struct SimClock {
    started: Instant,
    skew_ms: AtomicI64,
}

impl SimClock {
    pub fn new(started: Instant, skew_ms: i64) -> Self {
        Self { started, skew_ms: AtomicI64::new(skew_ms) }
    }

    /// From now on the clock is off by this.
    pub fn set_skew(&self, skew_ms: i64) {
        self.skew_ms.store(skew_ms, Ordering::Relaxed);
    }

    /// Time goes by that nobody waited for.
    pub fn pass(&self, time: Duration) {
        let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        self.skew_ms.fetch_add(millis, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        BEGIN.plus(self.started.elapsed()).shifted(self.skew_ms.load(Ordering::Relaxed))
    }
}
