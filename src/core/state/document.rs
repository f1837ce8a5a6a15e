//! A document's state and its merges.
//!
//! **Registers** keep every value that was not seen by a later write; the greatest (time, dot) is shown. **Sets** keep the
//! dots of each member: a removal takes those that it saw. **Flags** keep the dots of both: one that enables wins.
//! **Max and min** keep what no write of the same replica passed, so that a delete takes what it saw and a lower value that
//! was written beside it stays.
//!
//! **Counters** keep for each replica the sums of what it added and took, and how much of them was deleted (the base); both
//! only grow, so a count that two regions delete at once is not taken away twice, and an increment beside a delete stays
//! alone. A replica's first count says with a base of nothing that it is the first: the document may have been forgotten, and
//! another region remember what was deleted of it. A dot says that the counter is there at all.
//!
//! **Requests that are tried again.** A document remembers the keys of its requests. Two regions that could not talk may
//! both have done one. When a document has seen both, one of them counts (the first by time, then dot), and what the others
//! left behind is *void*: no reader sees it. Where what one of them wrote was removed since, the others' is void as well:
//! the request was done and undone. So a request with a key takes nothing away but what it must: registers and flags that a
//! void write had overwritten are empty. All this is a function of what the document has seen, so nobody has to take anything
//! back, and no lost disk can keep it from being taken back.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Clock, Dot, Kind, Replica, Request, delta::Delta, op::Slot};
use crate::{
    core::time::Timestamp,
    marks::{self, Mark},
    planted::{self, Bug},
};

/// What a write costs besides its texts, about.
pub(super) const ENTRY_BYTES: usize = 48;

/// Where dots stand: a value, by the kind that wrote it, and for sets the member. Writes of two kinds never meet, so a
/// field whose kind was changed in the file begins anew.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cell {
    pub slot: Slot,
    pub kind: Kind,
    /// `None` of a set says that the set is there, also without members.
    pub member: Option<String>,
}

/// What a write left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// Of a register or a multi-value.
    Value {
        at: Timestamp,
        text: String,
    },
    Number(String),
    Flag(bool),
    /// A member of a set, or that a set or counter is there.
    Present,
}

/// What a replica added to a counter and took from it, up to one of its dots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// The dot's number.
    pub number: u64,
    pub plus: u128,
    pub minus: u128,
}

/// A request as a document remembers it: when it was done, and what it added to counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    pub at: Timestamp,
    pub counts: Vec<(Slot, i128)>,
}

/// A write of a register, for the conflict feed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Write {
    pub at: Timestamp,
    pub dot: Dot,
    pub value: String,
}

/// Two writes of which neither had seen the other, with different values.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    pub slot: Slot,
    pub kind: Kind,
    pub loser: Write,
    /// The later one: what a register shows. A multi-value keeps both.
    pub winner: Write,
}

/// What became of a delta.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merged {
    /// With what it met.
    New(Vec<Conflict>),
    /// It was merged before.
    Known,
    /// Something that comes before it has not arrived.
    Early,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    pub(super) clock: Clock,
    pub(super) cells: BTreeMap<Cell, BTreeMap<Dot, Payload>>,
    pub(super) tallies: BTreeMap<(Slot, Replica), Tally>,
    pub(super) bases: BTreeMap<(Slot, Replica), Tally>,
    /// Requests that were done once, as far as is known.
    pub(super) requests: BTreeMap<Request, (Dot, Done)>,
    /// Requests that were done more often.
    pub(super) twins: BTreeMap<Request, BTreeMap<Dot, Done>>,
    /// The latest time of any write that was seen.
    pub(super) newest: Timestamp,
    /// Bytes of the cells, about.
    pub(super) weight: usize,
}

fn cost(cell: &Cell, payload: &Payload) -> usize {
    let text = match payload {
        Payload::Value { text, .. } | Payload::Number(text) => text.len(),
        Payload::Flag(_) | Payload::Present => 0,
    };
    let keys: usize = cell.slot.keys.iter().map(String::len).sum();
    ENTRY_BYTES + cell.slot.field.len() + keys + cell.member.as_ref().map_or(0, String::len) + text
}

impl Document {
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    pub fn newest(&self) -> Timestamp {
        self.newest
    }

    /// Nothing is left of it but what it has seen.
    pub fn is_tombstone(&self) -> bool {
        self.cells.is_empty()
    }

    /// Whether readers find it: any write is left that counts.
    pub fn exists(&self) -> bool {
        self.cells.values().any(|entries| !self.live(entries).is_empty())
    }

    /// Whether the request was done here before, or in a region that was heard of.
    pub fn knows(&self, request: &Request) -> bool {
        self.requests.contains_key(request) || self.twins.contains_key(request)
    }

    /// What counts of the dots that stand in one cell; see the module. A request's repeats all wrote to the same cells.
    pub(super) fn live<'a>(&self, entries: &'a BTreeMap<Dot, Payload>) -> Vec<(&'a Dot, &'a Payload)> {
        let mut void = BTreeSet::<Dot>::new();
        for twins in self.twins.values() {
            let is_whole = twins.keys().all(|dot| entries.contains_key(dot));
            let first = if is_whole { first_of(twins) } else { None };
            void.extend(twins.keys().filter(|dot| first != Some(**dot)));
        }
        entries.iter().filter(|(dot, _)| !void.contains(dot)).collect()
    }

    /// A counter's value.
    pub fn count(&self, slot: &Slot) -> i128 {
        let base = |replica: Replica| self.bases.get(&(slot.clone(), replica)).copied().unwrap_or_default();
        let from = (slot.clone(), Replica(0));
        let to = (slot.clone(), Replica(u64::MAX));
        let net = |tally: &Tally| tally.plus as i128 - tally.minus as i128;
        let sum: i128 =
            self.tallies.range(from..=to).map(|((_, replica), tally)| net(tally) - net(&base(*replica))).sum();
        let mut repeated = 0;
        for twins in self.twins.values() {
            let is_deleted = |dot: &Dot| dot.number <= base(dot.replica).number;
            let is_undone = twins.keys().any(is_deleted);
            if is_undone {
                marks::hit(Mark::RequestUndone);
            }
            let first = if is_undone { None } else { first_of(twins) };
            let void = twins.iter().filter(|(dot, _)| first != Some(**dot) && !is_deleted(dot));
            let counts = void.flat_map(|(_, done)| &done.counts).filter(|(counted, _)| counted == slot);
            repeated += counts.map(|(_, by)| *by).sum::<i128>();
        }
        if planted::is(Bug::TwinCounts) { sum } else { sum - repeated }
    }

    /// Whether this write is in it for certain. Writes of the same replica since may have left nothing of it to tell by,
    /// unless its request has a key.
    pub fn shows(&self, delta: &Delta) -> bool {
        let dot = delta.dot();
        match &delta.request {
            Some((request, _)) => {
                self.requests.get(request).is_some_and(|(known, _)| *known == dot)
                    || self.twins.get(request).is_some_and(|twins| twins.contains_key(&dot))
            }
            None if delta.adds.is_empty() => self.clock.get(delta.replica) == delta.to,
            None => delta.adds.iter().any(|(cell, payload)| {
                self.cells.get(cell).and_then(|entries| entries.get(&dot)).is_some_and(|found| found == payload)
            }),
        }
    }

    /// Whether every repeat that the other knows of is known here.
    pub fn remembers(&self, other: &Document) -> bool {
        let known = |(request, theirs): (&Request, &BTreeMap<Dot, Done>)| {
            self.twins.get(request).is_some_and(|ours| theirs.keys().all(|dot| ours.contains_key(dot)))
        };
        other.twins.iter().all(known)
    }

    pub(super) fn put(&mut self, cell: Cell, dot: Dot, payload: Payload) {
        self.weight += cost(&cell, &payload);
        let paid = cell.clone();
        if let Some(before) = self.cells.entry(cell).or_default().insert(dot, payload) {
            self.weight -= cost(&paid, &before);
        }
    }

    pub(super) fn take(&mut self, cell: &Cell, dot: Dot) {
        let Some(entries) = self.cells.get_mut(cell) else { return };
        if let Some(payload) = entries.remove(&dot) {
            self.weight -= cost(cell, &payload);
        }
        if entries.is_empty() {
            self.cells.remove(cell);
        }
    }

    /// Merges one request of a replica.
    pub fn merge_delta(&mut self, delta: &Delta) -> Merged {
        let seen = self.clock.get(delta.replica);
        if delta.to <= seen {
            return Merged::Known;
        }
        let removed = delta.removes.iter().flat_map(|(_, dots)| dots);
        let has_all = removed.clone().all(|dot| dot.replica == delta.replica || self.clock.covers(*dot))
            && delta.deleted.as_ref().is_none_or(|deleted| self.clock.includes(deleted));
        if (delta.from > seen || !has_all) && !planted::is(Bug::DeltaOverGap) {
            return Merged::Early;
        }
        let conflicts = self.conflicts_of(delta);
        self.fold(delta);
        Merged::New(conflicts)
    }

    /// What a delta's registers meet that its replica had not seen.
    fn conflicts_of(&self, delta: &Delta) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        for (cell, payload) in &delta.adds {
            let Payload::Value { at, text } = payload else { continue };
            let theirs = Write { at: *at, dot: delta.dot(), value: text.clone() };
            let none = Vec::new();
            let removed = delta.removes.iter().find(|(from, _)| from == cell).map_or(&none, |(_, dots)| dots);
            let seen = |dot: &Dot| removed.contains(dot) || delta.deleted.as_ref().is_some_and(|all| all.covers(*dot));
            for (dot, payload) in self.cells.get(cell).into_iter().flatten().filter(|(dot, _)| !seen(dot)) {
                if let Payload::Value { at, text } = payload {
                    let ours = Write { at: *at, dot: *dot, value: text.clone() };
                    conflicts.extend(conflict(cell, ours, theirs.clone()));
                }
            }
        }
        conflicts
    }

    /// Folds in a delta whose past was seen.
    pub(super) fn fold(&mut self, delta: &Delta) {
        if let Some(deleted) = &delta.deleted {
            let covered = |entries: &BTreeMap<Dot, Payload>| {
                let goes = |dot: &Dot| deleted.covers(*dot) || planted::is(Bug::DeleteTakesUnseen);
                entries.keys().copied().filter(goes).collect::<Vec<Dot>>()
            };
            let gone: Vec<(Cell, Vec<Dot>)> =
                self.cells.iter().map(|(cell, entries)| (cell.clone(), covered(entries))).collect();
            for (cell, dots) in gone {
                dots.into_iter().for_each(|dot| self.take(&cell, dot));
            }
        }
        for (cell, dots) in &delta.removes {
            dots.iter().for_each(|dot| self.take(cell, *dot));
        }
        for (cell, payload) in &delta.adds {
            self.put(cell.clone(), delta.dot(), payload.clone());
        }
        for (slot, tally) in &delta.tallies {
            let at = (slot.clone(), delta.replica);
            let mut tally = *tally;
            if let Some(before) = self.tallies.get(&at).filter(|_| planted::is(Bug::CountAddedUp)) {
                (tally.plus, tally.minus) = (tally.plus + before.plus, tally.minus + before.minus);
            }
            raise(&mut self.tallies, at, tally);
        }
        for (slot, replica, base) in &delta.bases {
            let at = (slot.clone(), *replica);
            if delta.deleted.is_some() {
                let is_beside = self.tallies.get(&at).is_some_and(|tally| tally.number > base.number);
                marks::hit(if is_beside { Mark::CounterBeside } else { Mark::CounterBase });
            } else if self.bases.get(&at).is_some_and(|known| known.number <= base.number && known != base) {
                marks::hit(Mark::CounterAnew);
            }
            raise_base(&mut self.bases, at, *base);
        }
        self.seen(delta);
    }

    pub(super) fn seen(&mut self, delta: &Delta) {
        self.clock.raise(delta.replica, delta.to);
        self.newest = self.newest.max(delta.at);
        if let Some((request, done)) = &delta.request {
            self.heard(*request, delta.dot(), done.clone());
        }
    }

    /// Remembers that a request was done.
    fn heard(&mut self, request: Request, dot: Dot, done: Done) {
        if let Some(twins) = self.twins.get_mut(&request) {
            twins.insert(dot, done);
            return;
        }
        match self.requests.get(&request) {
            Some((known, _)) if *known == dot => {}
            Some(_) => {
                marks::hit(Mark::RequestTwins);
                let first = self.requests.remove(&request);
                self.twins.insert(request, first.into_iter().chain([(dot, done)]).collect());
            }
            None => {
                self.requests.insert(request, (dot, done));
            }
        }
    }

    /// Forgets requests that were done once, before `before`, and beyond `max` the oldest. Answers how many of
    /// the latter.
    pub fn forget_requests(&mut self, before: Timestamp, max: usize) -> usize {
        self.requests.retain(|_, (_, done)| done.at >= before);
        let excess = self.requests.len().saturating_sub(max);
        if excess > 0 {
            let mut ages: Vec<(Timestamp, Request)> =
                self.requests.iter().map(|(request, (_, done))| (done.at, *request)).collect();
            ages.sort_unstable();
            ages.iter().take(excess).for_each(|(_, request)| drop(self.requests.remove(request)));
        }
        excess
    }

    /// Merges everything that another region has of this document.
    pub fn merge(&mut self, other: &Document) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        let seen = self.clock.clone();
        let mut gone = Vec::new();
        for (cell, entries) in &self.cells {
            let theirs = other.cells.get(cell);
            let removed =
                |dot: &&Dot| other.clock.covers(**dot) && theirs.is_none_or(|theirs| !theirs.contains_key(*dot));
            gone.extend(entries.keys().filter(removed).map(|dot| (cell.clone(), *dot)));
        }
        gone.iter().for_each(|(cell, dot)| self.take(cell, *dot));
        let is_new = |dot: &Dot| !seen.covers(*dot) || planted::is(Bug::RemovalsForgotten);
        for (cell, theirs) in &other.cells {
            let new: Vec<(&Dot, &Payload)> = theirs.iter().filter(|(dot, _)| is_new(dot)).collect();
            if new.is_empty() {
                continue;
            }
            let mut here: Vec<Write> = self.cells.get(cell).into_iter().flatten().filter_map(Write::of).collect();
            for write in new.iter().copied().filter_map(Write::of) {
                // What stands side by side there as well was told in their region; nobody has told it here.
                conflicts.extend(here.iter().filter_map(|other| conflict(cell, other.clone(), write.clone())));
                here.push(write);
            }
            new.into_iter().for_each(|(dot, payload)| self.put(cell.clone(), *dot, payload.clone()));
        }
        other.tallies.iter().for_each(|(at, tally)| raise(&mut self.tallies, at.clone(), *tally));
        for (at, base) in &other.bases {
            raise_base(&mut self.bases, at.clone(), *base);
        }
        for (request, (dot, done)) in &other.requests {
            self.heard(*request, *dot, done.clone());
        }
        for (request, twins) in &other.twins {
            twins.iter().for_each(|(dot, done)| self.heard(*request, *dot, done.clone()));
        }
        self.clock.join(&other.clock);
        self.newest = self.newest.max(other.newest);
        conflicts
    }

    /// Writes side by side: nobody who wrote since has seen both.
    pub fn open_conflicts(&self) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        for (cell, entries) in &self.cells {
            let writes: Vec<Write> = entries.iter().filter_map(Write::of).collect();
            for (nth, write) in writes.iter().enumerate() {
                conflicts.extend(writes[..nth].iter().filter_map(|other| conflict(cell, other.clone(), write.clone())));
            }
        }
        conflicts
    }
}

impl Write {
    fn of((dot, payload): (&Dot, &Payload)) -> Option<Write> {
        match payload {
            Payload::Value { at, text } => Some(Write { at: *at, dot: *dot, value: text.clone() }),
            _ => None,
        }
    }
}

fn conflict(cell: &Cell, one: Write, other: Write) -> Option<Conflict> {
    if one.value == other.value {
        return None;
    }
    let (loser, winner) = if one < other { (one, other) } else { (other, one) };
    Some(Conflict { slot: cell.slot.clone(), kind: cell.kind, loser, winner })
}

fn raise(tallies: &mut BTreeMap<(Slot, Replica), Tally>, at: (Slot, Replica), to: Tally) {
    let tally = tallies.entry(at).or_default();
    if tally.number < to.number {
        *tally = to;
    }
}

/// Answers whether it is new. A count that was begun anew right behind one that was deleted has a base of the same number, and
/// of nothing: that is the later one.
pub(super) fn raise_base(bases: &mut BTreeMap<(Slot, Replica), Tally>, at: (Slot, Replica), to: Tally) -> bool {
    let rank = |base: &Tally| (base.number, std::cmp::Reverse((base.plus, base.minus)));
    let is_new = bases.get(&at).is_none_or(|known| rank(known) < rank(&to));
    if is_new {
        bases.insert(at, to);
    }
    is_new
}

/// The repeat that counts.
fn first_of(twins: &BTreeMap<Dot, Done>) -> Option<Dot> {
    twins.iter().map(|(dot, done)| (done.at, *dot)).min().map(|(_, dot)| dot)
}
