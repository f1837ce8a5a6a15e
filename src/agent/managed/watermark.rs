//! How far a link of managed services is, as far as that can be told.
//!
//! A queue says neither what it holds nor since when, and EventBridge may hold an event back before the queue has it.
//! So this is an estimate, by a settle time (`region.aws.settle`). Once the queue has been empty for so long, everything
//! accepted before is taken to be at the peer. And where there is always something in it, everything is that was accepted
//! before the oldest of what was brought over within twice that time, or is under way still: SQS hands out about in order,
//! agents tell each other of what they work on for long, and while the held queue is known to hold something nothing is
//! concluded.

use std::time::Duration;

use crate::core::time::Timestamp;

#[derive(Clone, Copy, Debug)]
pub struct Watermark {
    settle: Duration,
    empty_since: Option<Timestamp>,
    at: Timestamp,
    waiting: bool,
    first: Timestamp,
    /// Something old was put back then: what was taken to be at the peer before says nothing of it.
    anew: Timestamp,
}

impl Watermark {
    pub fn new(settle: Duration) -> Watermark {
        Watermark {
            settle,
            empty_since: None,
            at: Timestamp::ZERO,
            waiting: false,
            first: Timestamp::ZERO,
            anew: Timestamp::ZERO,
        }
    }

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
        let settled = now.minus(self.settle);
        if settled >= since {
            self.at = self.at.max(settled);
        }
    }

    /// Dead letters went back into the feed.
    pub fn put_back(&mut self, now: Timestamp) {
        (self.anew, self.empty_since) = (now, None);
    }

    /// As [`at`](Self::at), for a proof: zero while what was put back may be under way.
    pub fn proven(&self) -> Timestamp {
        if self.at >= self.anew { self.at } else { Timestamp::ZERO }
    }

    /// Everything accepted before this is taken to be at the peer.
    pub fn passed(&mut self, at: Timestamp) {
        self.at = self.at.max(at);
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
        let mut watermark = Watermark::new(Duration::from_secs(90));
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
        watermark.observe(true, at(1_500));
        watermark.passed(at(1_460));
        assert_eq!((watermark.at(), watermark.exposure(at(1_500))), (at(1_460), Duration::from_secs(40)));
        watermark.passed(at(1_000));
        assert_eq!((watermark.at(), watermark.proven()), (at(1_460), at(1_460)));
        watermark.put_back(at(1_500));
        assert_eq!((watermark.at(), watermark.proven()), (at(1_460), Timestamp::ZERO));
        watermark.passed(at(1_500));
        assert_eq!(watermark.proven(), at(1_500));
    }
}
