//! What a link delivers besides its stream, one event at a time: what the peer answered "retry later", what the peer lost
//! and no rewind brings back, and copies of other regions' events that this region brings in their stead.

use std::collections::BTreeSet;

use futures::FutureExt;

use super::{Answered, LinkTask, Loop, Sent, payload::Ready};
use crate::{
    agent::inbox::read_state,
    core::{
        batch::{Answer, Batch, Kind, Outcome, Reason, Reply},
        event::Record,
        journal::{Change, Mark},
        key::KeyHash,
        link::Effect,
        position::{Lives, Position},
    },
    marks::{self, Mark as Branch},
    ports::hub::{Note, ReadError},
};

/// Held events sent together.
pub(super) const HELD_BATCH: usize = 64;

/// Held events that stand in a row are read in pieces of about this many bytes.
const READ_BYTES: usize = 1 << 20;

impl LinkTask {
    pub(super) async fn send_held(&mut self, state: &mut Loop) {
        let due = self.core.due_held(self.ends.steady(), state.bringing.room(HELD_BATCH));
        if due.is_empty() {
            return;
        }
        let mut records = Vec::with_capacity(due.len());
        let mut bytes = 0;
        let mut due = due.into_iter().peekable();
        while let Some(first) = due.next() {
            let mut last = first;
            while due.next_if_eq(&(last + 1)).is_some() {
                last += 1;
            }
            self.read_held(state, first, last, &mut records, &mut bytes).await;
        }
        // Copies of other regions' events, which this region brings in their stead, say so.
        let (own, copies): (Vec<Record>, Vec<Record>) =
            records.into_iter().partition(|record| !self.is_foreign(record));
        for (kind, records) in [(Kind::Redrive, own), (Kind::Repair, copies)] {
            let ready = records.into_iter().map(|record| Ready { sent: record.clone(), original: record });
            self.send_single(state, &kind, ready.collect());
        }
    }

    /// Reads held events that stand in a row, as those that refer to objects mostly do: each look for where one stands
    /// would read all that stand before it since the last mark of the log's index.
    async fn read_held(
        &mut self,
        state: &mut Loop,
        first: u64,
        last: u64,
        records: &mut Vec<Record>,
        bytes: &mut usize,
    ) {
        let mut reader = self.ends.hub.reader(first - 1);
        let mut sequence = first;
        let mut one_by_one = false;
        while sequence <= last {
            let left = match one_by_one {
                true => 1,
                false => usize::try_from(last - sequence + 1).unwrap_or(usize::MAX),
            };
            match reader.next(left, READ_BYTES).await {
                Ok(found) if !found.is_empty() => {
                    for record in found {
                        sequence = record.header.offset + 1;
                        self.take_held(state, record, records, bytes).await;
                    }
                }
                Ok(_) | Err(ReadError::Dropped { .. }) => {
                    // Retention keeps what is held; only the size limit takes it.
                    self.core.settle_held(sequence, Some(Outcome::Delivered), self.ends.steady(), 0.0);
                    self.lost(sequence - 1, sequence, Mark::default()).await;
                    reader.seek(sequence);
                    sequence += 1;
                }
                // Those before the one that cannot be read are as good as ever.
                Err(ReadError::Failed(_)) if left > 1 => {
                    one_by_one = true;
                    reader = self.ends.hub.reader(sequence - 1);
                }
                Err(ReadError::Failed(why)) => {
                    tracing::error!(peer = self.ends.peer_name, sequence, why, "a held event cannot be read");
                    self.core.settle_held(sequence, None, self.ends.steady(), self.ends.entropy.next_f64());
                    reader = self.ends.hub.reader(sequence);
                    sequence += 1;
                }
            }
        }
    }

    /// Gives up a held event that is too old, brings the payloads of one that has any, and adds any other to `records`.
    async fn take_held(&mut self, state: &mut Loop, record: Record, records: &mut Vec<Record>, bytes: &mut usize) {
        let sequence = record.header.offset;
        if *bytes > self.core.options().batch_bytes {
            // Too much for one batch: the next round takes it.
            self.core.settle_held(sequence, Some(Outcome::Retry { after_millis: 0 }), self.ends.steady(), 0.0);
        } else if self.core.is_expired(&record, self.ends.clock.now()) {
            let outcome = Some(Outcome::Rejected(Reason::Expired));
            let attempts = self.core.settle_held(sequence, outcome, self.ends.steady(), 0.0);
            if !self.is_dead(&record) {
                self.perform(vec![Effect::DeadLetter { record, reason: Reason::Expired, attempts }]).await;
            }
        } else {
            self.core.know_held(&record.header);
            if self.waits_for_payload(&record) {
                self.bring(state, record);
            } else {
                *bytes += record.raw().len();
                records.push(record);
            }
        }
    }

    /// It is among the dead letters, or was discarded from them: the peer's list of what was held back does not know that.
    pub(super) fn is_dead(&self, record: &Record) -> bool {
        let peer = &self.ends.peer_name;
        read_state(&*self.ends.hub, |state| {
            let is_it = |(of, key): (&String, &KeyHash)| of == peer && *key == record.header.key_hash;
            state.letters.values().any(|(letter, _)| is_it((&letter.peer, &letter.key_hash)))
                || state.discarded.iter().any(|(of, key)| is_it((of, key)))
        })
    }

    pub(super) fn is_foreign(&self, record: &Record) -> bool {
        record.header.is_remote() && !record.came_back_to(&self.ends.home)
    }

    /// Sends events by themselves, in batches within the link's bounds.
    pub(super) fn send_single(&self, state: &Loop, kind: &Kind, ready: Vec<Ready>) {
        let mut batch: Vec<Ready> = Vec::new();
        let mut bytes = 0;
        for ready in ready {
            if batch.len() >= HELD_BATCH || bytes > self.core.options().batch_bytes {
                self.send_batch(state, kind.clone(), std::mem::take(&mut batch));
                bytes = 0;
            }
            bytes += ready.sent.raw().len();
            batch.push(ready);
        }
        if !batch.is_empty() {
            self.send_batch(state, kind.clone(), batch);
        }
    }

    fn send_batch(&self, state: &Loop, kind: Kind, ready: Vec<Ready>) {
        let ends = self.ends.clone();
        let (originals, records): (Vec<Record>, Vec<Record>) =
            ready.into_iter().map(|ready| (ready.original, ready.sent)).unzip();
        let sending = async move {
            let bytes = records.iter().map(|record| record.raw().len()).sum();
            let paced = ends.pacer().admit(records.len(), bytes).await;
            let opening = ends.opening(kind);
            let sent = opening.sent;
            let result = ends.deliver(Batch { opening, records }).await;
            Answered { what: Sent::Held(originals), sent, result, paced }
        };
        state.wire.push(sending.boxed());
    }

    pub(super) async fn held_answered(&mut self, records: &[Record], reply: Option<&Reply>) -> Vec<Effect> {
        let now = self.ends.steady();
        let mut effects = Vec::new();
        let mut strayed: Vec<Note> = Vec::new();
        for (index, record) in records.iter().enumerate() {
            let outcome = match reply {
                Some(Reply { answer: Answer::Applied(outcomes), .. }) => outcomes.get(index).copied(),
                _ => None,
            };
            let sequence = record.header.offset;
            let attempts = self.core.settle_held(sequence, outcome, now, self.ends.entropy.next_f64());
            match outcome {
                // A copy that conflicts is in the dead letters of its own region.
                Some(Outcome::Rejected(reason)) if !self.is_foreign(record) => {
                    effects.push(Effect::DeadLetter { record: record.clone(), reason, attempts });
                }
                Some(Outcome::Delivered | Outcome::Duplicate) => {
                    let at = reply.map(Reply::place).unwrap_or_default();
                    let peer = self.ends.peer_name.clone();
                    strayed.push(Change::Strayed { peer, sequence, at }.into());
                }
                _ => {}
            }
            if let Some(outcome) = outcome {
                effects.push(Effect::Settled { record: record.clone(), outcome });
            }
        }
        if !strayed.is_empty()
            && let Err(error) = self.ends.hub.note(strayed).await
        {
            tracing::error!(peer = self.ends.peer_name, %error, "deliveries outside of the order not written down");
        }
        effects
    }

    /// Deliveries outside of the order go out again where the peer lost the part of its log that they stood in.
    pub(super) fn hold_lost_strays(&mut self, seen: &mut Loop, reply: &Reply) {
        let peer = &self.ends.peer_name;
        let lost = read_state(&*self.ends.hub, |state| {
            let youngest = state.strayed.get(peer).and_then(|strayed| strayed.last()).copied();
            if (&seen.peer_lives, seen.youngest_stray) == (&reply.lives, youngest) {
                return Vec::new();
            }
            // Looked through again also for a new stray: its answer may be older than what the peer said since.
            seen.peer_lives.clone_from(&reply.lives);
            seen.youngest_stray = youngest;
            state.lost_strays(peer, &reply.lives, reply.head)
        });
        let now = self.ends.steady();
        for sequence in lost {
            marks::hit(Branch::LinkStrayLost);
            self.core.hold(sequence, now);
        }
    }

    /// Events that the peer was told are held back, and that nobody holds back any more: this region was restored to a time
    /// before it did, or a copy of it did and is gone. What is still ahead of the link goes with the stream.
    pub(super) fn fill_holes(&mut self, seen: &mut Loop, peer_lives: &Lives, holes: &[Position]) {
        let known: BTreeSet<&Position> = match &seen.holes {
            (lives, known) if lives == peer_lives && known == holes => return,
            (lives, known) if lives == peer_lives => known.iter().collect(),
            _ => BTreeSet::new(),
        };
        let news = holes.iter().filter(|hole| !known.contains(hole));
        let (lives, head, base) = self.hub_view();
        let now = self.ends.steady();
        for hole in news {
            let behind = hole.sequence > base && hole.sequence <= self.core.low().min(head);
            if behind && lives.at(hole.sequence) == Some(hole.incarnation) && !self.core.holds(hole.sequence) {
                marks::hit(Branch::LinkHoleFilled);
                self.core.hold(hole.sequence, now);
            }
        }
        seen.holes = (peer_lives.clone(), holes.to_vec());
    }

    /// Copies of other regions' events that this region brings to its peers, and did not bring to this one yet.
    pub(super) fn hold_adopted(&mut self, seen: &mut Loop) {
        let peer = &self.ends.peer_name;
        let base = self.ends.hub.base();
        let adopted: Vec<u64> = read_state(&*self.ends.hub, |state| {
            let youngest = state.adopted.last().copied();
            if youngest == seen.adopted {
                return Vec::new();
            }
            seen.adopted = youngest;
            let strayed = state.strayed.get(peer).map(Vec::as_slice).unwrap_or_default();
            let is_new = |offset: &u64| *offset > base && !strayed.iter().any(|(known, _)| known == offset);
            state.adopted.iter().copied().filter(is_new).collect()
        });
        let now = self.ends.steady();
        adopted.into_iter().for_each(|offset| self.core.hold(offset, now));
    }
}
