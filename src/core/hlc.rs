//! A hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", 2014) in nanoseconds.
//!
//! The published algorithm keeps a counter beside the physical time. Here the counter is the nanosecond itself: the
//! clock gives the wall time, or one more than what it gave or saw last. Restored by starting from the largest time in
//! the log.

use std::time::Duration;

use super::time::Timestamp;

/// A remote time further ahead of ours than this does not advance our clock; an alert says whose clock is off.
pub const DRIFT_MAX: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, Default)]
pub struct HybridClock {
    last: Timestamp,
}

impl HybridClock {
    /// A clock that never gives a time at or before `last`.
    pub fn restored(last: Timestamp) -> Self {
        Self { last }
    }

    /// The time of a new local event: after everything this clock gave or saw.
    #[must_use = "each tick is given out once"]
    pub fn tick(&mut self, now: Timestamp) -> Timestamp {
        self.last = now.max(Timestamp(self.last.0.saturating_add(1)));
        self.last
    }

    /// Takes note of a remote time, unless it is more than [`DRIFT_MAX`] ahead of `now`.
    pub fn observe(&mut self, remote: Timestamp, now: Timestamp) {
        if remote <= now.plus(DRIFT_MAX) {
            self.last = self.last.max(remote);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_grow_when_the_wall_clock_steps_back() {
        let mut clock = HybridClock::default();
        let first = clock.tick(Timestamp(1_000));
        assert!(clock.tick(Timestamp(10)) > first);
        assert_eq!(clock.tick(Timestamp(5_000)), Timestamp(5_000));
    }

    #[test]
    fn a_clock_that_is_far_ahead_is_not_followed() {
        let now = Timestamp::from_millis(1_000);
        let mut clock = HybridClock::restored(now);
        clock.observe(now.plus(Duration::from_secs(600)), now);
        assert_eq!(clock.tick(now), Timestamp(now.0 + 1));
        clock.observe(now.plus(Duration::from_millis(400)), now);
        assert!(clock.tick(now) > now.plus(Duration::from_millis(400)));
    }
}
