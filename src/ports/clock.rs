//! The two things that make a run unrepeatable, handed in: what time it is, and chance.

use crate::core::time::Timestamp;

/// Wall-clock time. Waiting is tokio's affair (its clock can be paused); this is only for what is written down.
pub trait Clock: Send + Sync {
    fn now(&self) -> Timestamp;
}

/// Chance, for incarnations, jitter and faults.
pub trait Entropy: Send + Sync {
    fn next_u64(&self) -> u64;

    /// Evenly spread over [0, 1).
    fn next_f64(&self) -> f64 {
        // 53 bits: what an f64 between 0 and 1 can hold evenly.
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}
