//! How long to wait before trying again: exponential with full jitter.
//!
//! Full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015) spreads the retries of many agents best;
//! the floor of `min` keeps a lucky draw from hammering a peer.

use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    pub min: Duration,
    pub max: Duration,
}

impl Backoff {
    /// The pause after `failures` failures in a row (1 is the first), where `chance` is drawn from [0, 1).
    pub fn pause(&self, failures: u32, chance: f64) -> Duration {
        let doubled = self.min.saturating_mul(1u32.checked_shl(failures.min(24)).unwrap_or(u32::MAX));
        let ceiling = doubled.min(self.max).max(self.min);
        self.min + (ceiling - self.min).mul_f64(chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_maximum() {
        let backoff = Backoff { min: Duration::from_millis(100), max: Duration::from_secs(10) };
        for (failures, chance, milliseconds) in [
            (1, 0.0, 100),
            (1, 1.0, 200),
            (2, 1.0, 400),
            (2, 0.5, 250),
            (6, 1.0, 6_400),
            (7, 1.0, 10_000),
            (4_000, 1.0, 10_000),
        ] {
            let pause = backoff.pause(failures, chance);
            assert_eq!(pause.as_millis(), milliseconds, "after {failures} failures, chance {chance}");
        }
    }

    #[test]
    fn a_maximum_below_the_minimum_gives_the_minimum() {
        let backoff = Backoff { min: Duration::from_secs(2), max: Duration::from_secs(1) };
        assert_eq!(backoff.pause(5, 0.9), Duration::from_secs(2));
    }
}
