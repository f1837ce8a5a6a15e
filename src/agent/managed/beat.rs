//! Whose turn it is to send the region's heartbeat.
//!
//! Agents do not elect anybody. Each watches the version of one shared value by a clock of its own; when it has stayed the
//! same for an interval, it tries to change it, and whoever succeeds sends the heartbeat with the new version as its
//! number. So there is one heartbeat an interval however many agents there are, numbers have no gap unless one was lost,
//! and a dead agent is not missed.

use std::time::Duration;

use crate::core::time::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Wait,
    /// Try to change the value, and send the heartbeat if that succeeds.
    Mine,
}

#[derive(Clone, Debug)]
pub struct Beat {
    interval: Duration,
    version: Option<u64>,
    /// By the steady clock.
    since: Timestamp,
}

impl Beat {
    pub fn new(interval: Duration) -> Beat {
        Beat { interval, version: None, since: Timestamp::ZERO }
    }

    /// How often to look. A quarter: the heartbeat is late by as much at most.
    pub fn period(&self) -> Duration {
        (self.interval / 4).max(Duration::from_millis(10))
    }

    /// The value has this version now; 0 if there is none.
    pub fn seen(&mut self, version: u64, now: Timestamp) -> Step {
        if self.version != Some(version) {
            self.version = Some(version);
            self.since = now;
            // The first one ever need not wait.
            return if version == 0 { Step::Mine } else { Step::Wait };
        }
        // A look early, or the interval grows by the time between two looks.
        match now.since(self.since) + self.period() / 2 >= self.interval {
            true => Step::Mine,
            false => Step::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000 * seconds)
    }

    #[test]
    fn a_version_that_stays_for_an_interval_is_anybodys_to_change() {
        let mut beat = Beat::new(Duration::from_secs(10));
        assert_eq!(beat.seen(0, at(1)), Step::Mine, "there was no heartbeat yet");
        assert_eq!(beat.seen(5, at(2)), Step::Wait, "others send it");
        assert_eq!(beat.seen(5, at(10)), Step::Wait);
        assert_eq!(beat.seen(6, at(11)), Step::Wait, "somebody was in time");
        assert_eq!(beat.seen(6, at(20)), Step::Mine);
    }
}
