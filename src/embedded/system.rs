//! The machine's clock and randomness: the one place that reads them.
#![expect(clippy::disallowed_methods, reason = "this adapter is where ambient time and chance come in")]

use std::{
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use rand::{RngCore, SeedableRng, rngs::StdRng};

use crate::{
    core::time::Timestamp,
    ports::clock::{Clock, Entropy},
};

pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// Chance from one generator: seeded by the operating system, or by a number for a repeatable run.
pub struct Random(Mutex<StdRng>);

impl Random {
    pub fn from_system() -> Self {
        Random(Mutex::new(StdRng::from_os_rng()))
    }

    pub fn seeded(seed: u64) -> Self {
        Random(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Entropy for Random {
    fn next_u64(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }
}
