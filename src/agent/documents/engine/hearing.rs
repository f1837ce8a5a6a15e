//! What the engine hears: of its own log, and of peers.

use std::collections::BTreeSet;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        compare::FETCHED,
        events::{self, Asked, Event},
        home::From,
        shelf::{Broken, Entry, Shelf},
    },
    BTreeMap, Engine, Wanted,
};
use crate::{
    core::{
        event::{Draft, Record},
        state::{
            Key,
            delta::Delta,
            document::{Conflict, Document, Merged},
        },
    },
    marks::{self, Mark},
    planted::{self, Bug},
    ports::hub::{ReadError, Reader},
};

/// Events of the log that are taken in between two looks at the requests.
const CHUNK_EVENTS: usize = 256;

/// Bytes of them, about.
const CHUNK_BYTES: usize = 4 << 20;

/// Deltas of one document that may wait for what they stand on; beyond it the document is fetched.
const PARKED_MAX: usize = 64;

/// Documents that wait to be fetched; beyond it comparing finds them.
const WANTED_MAX: usize = 10_000;

impl Engine {
    /// Reads on in the log. Operations go to `later` where there is one. Answers `false` if `stop` cut it short: what was
    /// merged then must not go to disk, as what it met may not have been told.
    pub(super) async fn follow(
        &mut self,
        shelf: &mut Shelf,
        reader: &mut dyn Reader,
        stop: &CancellationToken,
        mut later: Option<&mut Vec<(Key, Asked, String)>>,
    ) -> Result<bool, Broken> {
        let records = match reader.next(CHUNK_EVENTS, CHUNK_BYTES).await {
            Ok(records) => records,
            Err(ReadError::Dropped { base, .. }) => {
                tracing::warn!(
                    from = self.cursor,
                    to = base,
                    "the log dropped events that were not in the documents: comparing with the peers brings them"
                );
                self.metrics.state.log_gaps.inc();
                self.cursor = base;
                reader.seek(base);
                return Ok(true);
            }
            Err(ReadError::Failed(why)) => return Err(crate::ports::rows::Error::Failed(why).into()),
        };
        let read: Vec<(&Record, Event)> =
            records.iter().map(|record| (record, events::read(record, &self.shared.schemas))).collect();
        let keys = read.iter().filter_map(|(_, event)| match event {
            Event::Delta(key, _, _) | Event::Operation { key, .. } => Some(key),
            _ => None,
        });
        shelf.load(keys).await?;
        let mut conflicts = Vec::new();
        let last = records.last().map_or(self.cursor, |record| record.header.offset);
        for (record, event) in read {
            if !record.header.is_remote() && events::is_delta(record) {
                self.shared.unsent.met(record);
            }
            match event {
                Event::Delta(key, _, term) if self.leaves_out(record, &key, term) => {}
                Event::Delta(key, delta, _) => self.hear(shelf, key, *delta, &mut conflicts),
                Event::Operation { key, asked, request } => match &mut later {
                    Some(later) => later.push((key, asked, request)),
                    None if !self.operate(shelf, key, asked, request, stop).await? => return Ok(false),
                    None => {}
                },
                Event::Unreadable(why) => {
                    tracing::error!(
                        offset = record.header.offset,
                        detail_type = record.detail_type(),
                        key = record.key(),
                        why,
                        "an event of the documents cannot be read; it is left out"
                    );
                    self.metrics.state.unreadable.inc();
                }
                Event::Other => {}
            }
        }
        let told = self.tell(conflicts, stop).await?;
        if told {
            self.cursor = last;
        }
        Ok(told)
    }

    /// An operation that a service published as an event. Answers `false` if `stop` came before it was done.
    pub(super) async fn operate(
        &mut self,
        shelf: &mut Shelf,
        key: Key,
        asked: Asked,
        request: String,
        stop: &CancellationToken,
    ) -> Result<bool, Broken> {
        shelf.load([&key]).await?;
        let mut undo = BTreeMap::new();
        match self.perform(shelf, &key, &asked, Some(&request), &mut undo) {
            Ok((applied, delta)) => {
                self.metrics.state.requests.with_label_values(&[&key.of, applied.as_str()]).inc();
                let drafts: Vec<Draft> = delta.map(|delta| self.of_delta(&key, &delta)).into_iter().collect();
                if !drafts.is_empty() && !self.publish_surely(drafts, stop).await? {
                    undo.into_iter().for_each(|(key, before)| shelf.restore(&key, before));
                    return Ok(false);
                }
            }
            Err(refused) => {
                tracing::warn!(document = %key, %refused, request, "a published operation is refused");
                self.metrics.state.unreadable.inc();
            }
        }
        Ok(true)
    }

    /// Merges a delta into a document that is at hand, or parks it.
    fn hear(&mut self, shelf: &mut Shelf, key: Key, delta: Delta, conflicts: &mut Vec<(Key, Conflict)>) {
        let now = self.clock.now();
        self.hlc.observe(delta.at, now);
        if !self.takes_in() {
            // Comparing brings it, once others know that this region is back.
            return;
        }
        let Some(entry) = shelf.get(&key) else { return };
        if entry.document.clock().covers(delta.dot()) {
            return;
        }
        if delta.at < self.oldest() {
            // A delete that it would undo may be forgotten; whoever has the document tells.
            tracing::warn!(document = %key, written = delta.at.to_rfc3339(), "a delta is too old to be merged");
            self.metrics.state.too_old.inc();
            marks::hit(Mark::DeltaTooOld);
            self.want(key);
            return;
        }
        let entry = shelf.change(&key);
        if entry.parked.iter().any(|parked| parked.dot() == delta.dot()) {
            return;
        }
        entry.parked.push(delta);
        let met = entry.settle();
        if met.merged > 1 {
            marks::hit(Mark::DeltaGapFilled);
        }
        if met.merged > 0 {
            self.metrics.state.merges.with_label_values(&[&key.of]).inc_by(met.merged);
        }
        let dropped = entry.parked.len().saturating_sub(PARKED_MAX);
        if dropped > 0 {
            tracing::warn!(document = %key, "too many deltas wait for one that is missing: the document is fetched whole");
            self.metrics.state.parked_dropped.inc_by(dropped as u64);
            entry.parked.truncate(PARKED_MAX);
        }
        match entry.parked.is_empty() {
            true => drop(self.wanted.remove(&key)),
            false => {
                marks::hit(Mark::DeltaParked);
                self.want(key.clone());
            }
        }
        if !met.conflicts.is_empty() {
            marks::hit(Mark::ConflictHeard);
        }
        conflicts.extend(met.conflicts.into_iter().map(|conflict| (key.clone(), conflict)));
    }

    /// Drops deltas that waited until they were too old to be merged: what they stand on is lost.
    pub(super) fn give_up_old(&self, shelf: &mut Shelf, key: &Key) {
        let before = self.oldest();
        let is_old = |delta: &Delta| delta.at < before;
        let waiting = shelf.get(key).map(|entry| entry.parked.as_slice()).unwrap_or_default();
        let old = waiting.iter().filter(|delta| is_old(delta)).count();
        if old > 0 {
            marks::hit(Mark::DeltaGivenUp);
            tracing::warn!(document = %key, deltas = old, "what came before these deltas never came: they are given up");
            self.metrics.state.too_old.inc_by(old as u64);
            shelf.change(key).parked.retain(|delta| !is_old(delta));
        }
    }

    fn want(&mut self, key: Key) {
        if self.wanted.len() < WANTED_MAX {
            self.wanted.entry(key).or_insert_with(|| Wanted { since: Instant::now(), asked: BTreeSet::new() });
        }
    }

    /// Documents that have been wanted for a while and this peer was not asked for.
    pub(super) fn wanted_of(&mut self, shelf: &mut Shelf, peer: &str) -> Vec<Key> {
        let gap = self.options.gap;
        let mut keys = Vec::new();
        let mut over = Vec::new();
        let asked: Vec<Key> = self
            .wanted
            .iter()
            .filter(|(_, wanted)| wanted.asked.len() >= self.peers.len())
            .map(|(key, _)| key.clone())
            .collect();
        asked.iter().for_each(|key| self.give_up_old(shelf, key));
        for (key, wanted) in &mut self.wanted {
            if wanted.asked.len() >= self.peers.len() {
                let waits = shelf.get(key).is_some_and(|entry| !entry.parked.is_empty());
                if !waits {
                    over.push(key.clone());
                } else if wanted.since.elapsed() >= self.options.compare {
                    // Nobody had it then.
                    (wanted.since, wanted.asked) = (Instant::now(), BTreeSet::new());
                }
            } else if wanted.since.elapsed() >= gap && keys.len() < FETCHED && wanted.asked.insert(peer.to_owned()) {
                keys.push(key.clone());
            }
        }
        over.iter().for_each(|key| drop(self.wanted.remove(key)));
        keys
    }

    /// Merges whole documents of a peer.
    pub(super) async fn merge(
        &mut self,
        shelf: &mut Shelf,
        from: &From,
        documents: Vec<(Key, Document)>,
    ) -> Result<usize, Broken> {
        if !self.takes_in() || from.term < self.kept.standing.term(&from.peer) {
            tracing::debug!(peer = from.peer, "documents of a region that is evicted, or for one, are not merged");
            return Ok(0);
        }
        shelf.load(documents.iter().map(|(key, _)| key)).await?;
        let mut conflicts = Vec::new();
        let mut changed = 0;
        for (key, document) in documents {
            let Some(before) = shelf.get(&key) else { continue };
            if before.document.clock().includes(document.clock()) && before.document.remembers(&document) {
                continue;
            }
            let entry = shelf.change(&key);
            let mut met = entry.document.merge(&document);
            met.extend(entry.settle().conflicts);
            changed += 1;
            if entry.parked.is_empty() {
                self.wanted.remove(&key);
            }
            self.metrics.state.merges.with_label_values(&[&key.of]).inc();
            conflicts.extend(met.into_iter().map(|conflict| (key.clone(), conflict)));
        }
        if !conflicts.is_empty() {
            marks::hit(Mark::ConflictCompared);
        }
        if !planted::is(Bug::ConflictUntold) {
            self.tell(conflicts, &CancellationToken::new()).await?;
        }
        Ok(changed)
    }

    /// Puts conflicts into the feed, before anything that depends on them goes to disk. Answers whether it did before
    /// `stop`.
    async fn tell(&mut self, conflicts: Vec<(Key, Conflict)>, stop: &CancellationToken) -> Result<bool, Broken> {
        if conflicts.is_empty() {
            return Ok(true);
        }
        let mut drafts = Vec::new();
        for (key, conflict) in &conflicts {
            let resolution = events::resolution(conflict.kind);
            self.metrics.state.conflicts.with_label_values(&[&key.of, &conflict.slot.field, resolution]).inc();
            tracing::debug!(document = %key, field = %conflict.slot, resolution, "two regions wrote at once");
            drafts.push(events::of_conflict(key, conflict));
        }
        self.publish_surely(drafts, stop).await
    }
}

/// What came of deltas that waited.
#[derive(Default)]
struct Settled {
    merged: u64,
    conflicts: Vec<Conflict>,
}

impl Entry {
    /// Merges what waits, as far as what it stands on is there.
    fn settle(&mut self) -> Settled {
        let mut settled = Settled::default();
        loop {
            let before = self.parked.len();
            for delta in std::mem::take(&mut self.parked) {
                match self.document.merge_delta(&delta) {
                    Merged::New(conflicts) => {
                        settled.merged += 1;
                        settled.conflicts.extend(conflicts);
                    }
                    Merged::Known => {}
                    Merged::Early => self.parked.push(delta),
                }
            }
            if self.parked.len() == before || self.parked.is_empty() {
                return settled;
            }
        }
    }
}
