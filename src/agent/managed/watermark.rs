//! How far a link of managed services is, as far as that can be told.
//!
//! A queue says neither what it holds nor since when, and EventBridge may hold an event back before the queue has it.
//! So this is an estimate: once the queue has been empty for a settle time, everything accepted before that time is
//! taken to be at the peer.

use std::time::Duration;

use crate::core::time::Timestamp;

/// Counts of a queue are late by up to a minute, and are asked for twice a minute.
const SETTLE: Duration = Duration::from_secs(90);

#[derive(Clone, Copy, Debug, Default)]
pub struct Watermark {
    empty_since: Option<Timestamp>,
    at: Timestamp,
    waiting: bool,
    first: Timestamp,
}

impl Watermark {
    pub fn observe(&mut self, waiting: bool, now: Timestamp) {
        self.waiting = waiting;
        if self.first == Timestamp::ZERO {
            self.first = now;
        }
        if waiting {
            self.empty_since = None;
            return;
        }
        let since = *self.empty_since.get_or_insert(now);
        let settled = now.minus(SETTLE);
        if settled >= since {
            self.at = self.at.max(settled);
        }
    }

    /// Zero while nothing can be told yet.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// What losing the region now would cost: zero while nothing waits. Where something has waited since before this agent
    /// looked first, the time since that look: at least so much.
    pub fn exposure(&self, now: Timestamp) -> Duration {
        match self.waiting {
            true => now.since(self.at.max(self.first)),
            false => Duration::ZERO,
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
    fn the_watermark_follows_an_empty_queue_after_it_settled_and_stands_while_something_waits() {
        let mut watermark = Watermark::default();
        watermark.observe(false, at(1_000));
        assert_eq!(watermark.at(), Timestamp::ZERO);
        watermark.observe(false, at(1_100));
        assert_eq!((watermark.at(), watermark.exposure(at(1_100))), (at(1_010), Duration::ZERO));
        watermark.observe(true, at(1_200));
        assert_eq!((watermark.at(), watermark.exposure(at(1_200))), (at(1_010), Duration::from_secs(190)));
        watermark.observe(false, at(1_300));
        assert_eq!(watermark.at(), at(1_010), "the counts may be late");
        watermark.observe(false, at(1_400));
        assert_eq!(watermark.at(), at(1_310));
    }
}
