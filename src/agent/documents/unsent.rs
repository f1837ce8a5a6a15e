//! Deltas of this region that a peer may not have yet: what losing the region would cost besides services' events.
//!
//! The log is where they are; this only remembers where, as long as a link has not passed them. The engine adds what it
//! meets in the log; what stood there before it began is read once, beside everything else.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::events;
use crate::{
    core::{event::Record, time::Timestamp},
    ports::hub::{Hub, ReadError},
};

/// Groups that are kept; beyond it two old ones become one, so that a peer that is away for long costs no memory.
const GROUPS_MAX: usize = 4_096;

/// Events that are read at once, and about how many bytes of them.
const CHUNK_EVENTS: usize = 256;
const CHUNK_BYTES: usize = 4 << 20;

/// Deltas that stand near each other.
#[derive(Clone, Copy, Debug)]
struct Group {
    /// Where the last of them stands.
    last: u64,
    count: u64,
    /// When the first of them was accepted.
    accepted: Timestamp,
}

#[derive(Debug, Default)]
struct Groups(VecDeque<Group>);

impl Groups {
    fn add(&mut self, offset: u64, accepted: Timestamp) {
        if self.0.back().is_some_and(|last| last.last >= offset) {
            return;
        }
        self.0.push_back(Group { last: offset, count: 1, accepted });
        if self.0.len() > GROUPS_MAX {
            // The older half: links that are not behind look at the newer one.
            let newer = self.0.split_off(GROUPS_MAX / 2);
            let mut older = std::mem::take(&mut self.0).into_iter();
            while let Some(mut group) = older.next() {
                if let Some(next) = older.next() {
                    (group.last, group.count) = (next.last, group.count + next.count);
                }
                self.0.push_back(group);
            }
            self.0.extend(newer);
        }
    }

    fn forget_to(&mut self, cursor: u64) {
        while self.0.front().is_some_and(|group| group.last <= cursor) {
            self.0.pop_front();
        }
    }

    fn after(&self, cursor: u64) -> Waiting {
        let waiting = self.0.iter().rev().take_while(|group| group.last > cursor);
        waiting.fold(Waiting::default(), |waiting, group| Waiting {
            deltas: waiting.deltas + group.count.min(group.last - cursor),
            since: Some(group.accepted),
        })
    }
}

/// Deltas that a link has not brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// At most.
    pub deltas: u64,
    /// When the oldest of them was accepted, or somewhat before.
    pub since: Option<Timestamp>,
}

#[derive(Default)]
struct Known {
    /// From before this start.
    before: Groups,
    met: Groups,
}

#[derive(Default)]
pub struct Unsent(Mutex<Known>);

impl Unsent {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A delta of this region stands here in the log. In the order of the log.
    pub fn met(&self, record: &Record) {
        self.known().met.add(record.header.offset, record.header.accepted);
    }

    /// All links are past this.
    pub fn forget_to(&self, cursor: u64) {
        let mut known = self.known();
        known.before.forget_to(cursor);
        known.met.forget_to(cursor);
    }

    /// What a link at `cursor` has not brought.
    pub fn after(&self, cursor: u64) -> Waiting {
        let known = self.known();
        let (before, met) = (known.before.after(cursor), known.met.after(cursor));
        Waiting { deltas: before.deltas + met.deltas, since: before.since.or(met.since) }
    }

    /// Reads what stands in the log after `from`, up to where the engine goes on, as soon as that is known.
    pub async fn read_before(self: Arc<Self>, hub: Arc<dyn Hub>, from: u64, mut opened: watch::Receiver<Option<u64>>) {
        let Ok(until) = opened.wait_for(Option::is_some).await.map(|until| until.unwrap_or_default()) else { return };
        let mut reader = hub.reader(from.max(hub.base()));
        loop {
            let records = match reader.next(CHUNK_EVENTS, CHUNK_BYTES).await {
                Ok(records) => records,
                Err(ReadError::Dropped { base, .. }) => {
                    reader.seek(base);
                    continue;
                }
                Err(ReadError::Failed(why)) => {
                    tracing::warn!(
                        why,
                        "deltas of before the start do not count as what is exposed: the log cannot be read"
                    );
                    return;
                }
            };
            let is_own_delta = |record: &&Record| !record.header.is_remote() && events::is_delta(record);
            let mut known = self.known();
            for record in records.iter().filter(|record| record.header.offset <= until).filter(is_own_delta) {
                known.before.add(record.header.offset, record.header.accepted);
            }
            drop(known);
            if records.last().is_none_or(|last| last.header.offset >= until) {
                return;
            }
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
    fn what_a_link_has_not_brought_is_counted_from_the_oldest_on() {
        let mut groups = Groups::default();
        assert_eq!(groups.after(0), Waiting::default());
        for (offset, accepted) in [(3, 30), (5, 50), (9, 90)] {
            groups.add(offset, at(accepted));
        }
        assert_eq!(groups.after(3), Waiting { deltas: 2, since: Some(at(50)) });
        assert_eq!(groups.after(0), Waiting { deltas: 3, since: Some(at(30)) });
        assert_eq!(groups.after(9), Waiting::default());
        groups.add(9, at(91));
        assert_eq!(groups.after(5).deltas, 1, "the same one again");
        groups.forget_to(5);
        assert_eq!(groups.0.len(), 1);
    }

    #[test]
    fn a_peer_that_is_away_for_long_costs_no_memory_and_nothing_is_told_too_small() {
        let mut groups = Groups::default();
        let offsets: Vec<u64> = (1..=100_000).map(|number| number * 3).collect();
        for offset in &offsets {
            groups.add(*offset, at(*offset));
        }
        assert!(groups.0.len() <= GROUPS_MAX);
        for cursor in [0, 1, 2_999, 150_000, 299_999] {
            let exact = offsets.iter().filter(|offset| **offset > cursor).count() as u64;
            let (told, oldest) = (groups.after(cursor), offsets.iter().find(|offset| **offset > cursor));
            assert!(told.deltas >= exact && told.since.unwrap() <= at(*oldest.unwrap()), "{told:?} for {exact}");
        }
        // A link that is not behind is told exactly.
        assert_eq!(groups.after(299_000), Waiting { deltas: 334, since: Some(at(299_001)) });
        groups.forget_to(300_000);
        assert_eq!(groups.0.len(), 0);
    }
}
