//! What a link's queues said, and what the link finished lately: what there is to estimate how far it is.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::core::time::Timestamp;

/// Times are kept in spans of this length,
const SPAN: Duration = Duration::from_millis(500);

/// and so many of them: more than an hour.
const SPANS_MAX: usize = 8_192;

/// What was finished in a span of time.
struct Finished {
    since: Timestamp,
    /// When the home region had accepted the oldest of it.
    oldest: Timestamp,
}

/// What the queues said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    pub at: Timestamp,
    /// All that is not finished.
    pub all: u64,
    /// What of it waits for something of its own.
    pub held: u64,
}

#[derive(Default)]
struct Known {
    counted: Option<Count>,
    /// When the oldest of what this agent works on had been accepted.
    under_way: Option<Timestamp>,
    finished: VecDeque<Finished>,
}

/// Cheap to share.
#[derive(Default)]
pub struct Progress(Mutex<Known>);

impl Progress {
    fn change<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The queues say how much they hold.
    pub fn counted(&self, count: Count) {
        self.change(|known| known.counted = Some(count));
    }

    /// When the oldest of what this agent works on had been accepted.
    pub fn works_on(&self, oldest: Option<Timestamp>) {
        self.change(|known| known.under_way = oldest);
    }

    /// See [`works_on`](Self::works_on).
    pub fn under_way(&self) -> Option<Timestamp> {
        self.change(|known| known.under_way)
    }

    /// What the queues said last.
    pub fn count(&self) -> Option<Count> {
        self.change(|known| known.counted)
    }

    /// An event that the home region accepted then was brought to its end.
    pub fn finished(&self, accepted: Timestamp, now: Timestamp) {
        self.change(|known| {
            match known.finished.back_mut() {
                // A clock that is set back adds to the last span.
                Some(last) if now.since(last.since) < SPAN => last.oldest = last.oldest.min(accepted),
                _ => known.finished.push_back(Finished { since: now, oldest: accepted }),
            }
            if known.finished.len() > SPANS_MAX {
                known.finished.pop_front();
            }
        });
    }

    /// When the oldest of what was finished since then, or is under way, had been accepted; `None` where nothing was, or where
    /// something is held that may be older.
    pub fn oldest_since(&self, since: Timestamp) -> Option<Timestamp> {
        self.change(|known| {
            while known.finished.front().is_some_and(|first| first.since.plus(SPAN) < since) {
                known.finished.pop_front();
            }
            let finished = known.finished.iter().map(|finished| finished.oldest).min()?;
            let holds_nothing = known.counted.is_some_and(|count| count.held == 0);
            Some(known.under_way.map_or(finished, |oldest| oldest.min(finished))).filter(|_| holds_nothing)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000 * seconds)
    }

    #[test]
    fn the_oldest_of_what_was_finished_lately_is_told_unless_something_is_held() {
        let progress = Progress::default();
        let count = |held, seconds| progress.counted(Count { at: at(seconds), all: 5, held });
        assert_eq!((progress.oldest_since(at(0)), progress.count()), (None, None));
        progress.finished(at(90), at(100));
        progress.finished(at(80), at(100));
        progress.finished(at(95), at(110));
        assert_eq!(progress.oldest_since(at(100)), None, "the queues did not say yet");
        count(0, 110);
        assert_eq!(progress.oldest_since(at(100)), Some(at(80)));
        progress.works_on(Some(at(70)));
        assert_eq!(progress.oldest_since(at(100)), Some(at(70)), "a large payload takes its time");
        progress.works_on(None);
        count(1, 111);
        assert_eq!(progress.oldest_since(at(100)), None);
        count(0, 112);
        assert_eq!(progress.oldest_since(at(105)), Some(at(95)), "what was finished before is forgotten");
        assert_eq!(progress.oldest_since(at(200)), None);
    }
}
