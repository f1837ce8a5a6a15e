//! What the agent finds broken of its own promises: counted, logged, remembered.

use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus::IntCounterVec;

use crate::core::invariant::Violation;

/// Violations that are remembered; the counter knows of all.
const REMEMBERED: usize = 64;

pub struct Watch {
    counter: IntCounterVec,
    seen: Mutex<Vec<Violation>>,
}

impl Watch {
    pub fn new(counter: IntCounterVec) -> Self {
        Self { counter, seen: Mutex::default() }
    }

    pub fn broken(&self, violation: Violation) {
        tracing::error!(
            invariant = violation.invariant.as_str(),
            what = violation.what,
            "an invariant does not hold: this is a bug, report it"
        );
        self.counter.with_label_values(&[violation.invariant.as_str()]).inc();
        let mut seen = self.seen();
        if seen.len() < REMEMBERED {
            seen.push(violation);
        }
    }

    /// The first of them.
    pub fn violations(&self) -> Vec<Violation> {
        self.seen().clone()
    }

    fn seen(&self) -> MutexGuard<'_, Vec<Violation>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
