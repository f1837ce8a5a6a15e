//! A document's state and its merges.
//!
//! **Registers** keep every value that was not seen by a later write; the greatest (time, dot) is shown. **Sets** keep the
//! dots of each member: a removal takes those that it saw. **Flags** keep the dots of both: one that enables wins.
//! **Max and min** keep what no write of the same replica passed, so that a delete takes what it saw and a lower value that
//! was written beside it stays.
//!
//! **Counters** keep for each replica the sums of what it added and took, and how much of them was deleted (the base); both
//! only grow, so a count that two regions delete at once is not taken away twice, and an increment beside a delete stays
//! alone. A dot says that the counter is there at all.
//!
//! **Requests that are tried again.** A document remembers the keys of its requests. Two regions that could not talk may
//! both have done one; when a document has seen both, the earlier one (by time, then dot) counts, and what the others left
//! behind is *void*: no reader sees it. That is a function of what the document has seen, so nobody has to take anything
//! back, and no lost disk can keep it from being taken back.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    Clock, Dot, Kind, Replica, Request,
    delta::Delta,
    number,
    op::{Act, Op, Refused, Slot},
};
use crate::core::time::Timestamp;

/// Bytes that a document may have by local requests; what regions wrote apart from each other may add up to more.
pub const DOCUMENT_BYTES_MAX: usize = 4 << 20;

/// Requests that a document remembers; beyond it the oldest is forgotten.
pub const REQUESTS_MAX: usize = 10_000;

/// Lower values of one `max` (or higher ones of a `min`) that a replica keeps behind its greatest, for deletes that do not
/// see them.
const PASSED_MAX: usize = 16;

/// What a write costs besides its texts, about.
const ENTRY_BYTES: usize = 48;

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
    pub counts: Vec<(Slot, i64)>,
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
        let void = self.void();
        self.cells.values().any(|entries| entries.keys().any(|dot| !void.contains(dot)))
    }

    /// Whether the request was done here before, or in a region that was heard of.
    pub fn knows(&self, request: &Request) -> bool {
        self.requests.contains_key(request) || self.twins.contains_key(request)
    }

    /// Dots that do not count, because their request was done before; see the module.
    pub(super) fn void(&self) -> BTreeSet<Dot> {
        let mut void = BTreeSet::new();
        for twins in self.twins.values() {
            let first = twins.iter().map(|(dot, done)| (done.at, *dot)).min();
            void.extend(twins.keys().filter(|dot| first.is_none_or(|(_, first)| first != **dot)));
        }
        void
    }

    /// A counter's value.
    pub fn count(&self, slot: &Slot) -> i128 {
        self.count_without(slot, &self.void())
    }

    pub(super) fn count_without(&self, slot: &Slot, void: &BTreeSet<Dot>) -> i128 {
        let base = |replica: Replica| self.bases.get(&(slot.clone(), replica)).copied().unwrap_or_default();
        let from = (slot.clone(), Replica(0));
        let to = (slot.clone(), Replica(u64::MAX));
        let sum: i128 = self
            .tallies
            .range(from..=to)
            .map(|((_, replica), tally)| {
                let base = base(*replica);
                (tally.plus as i128 - base.plus as i128) - (tally.minus as i128 - base.minus as i128)
            })
            .sum();
        let done = self.twins.values().flatten().filter(|(dot, _)| void.contains(dot));
        let repeated: i128 = done
            .filter(|(dot, _)| dot.number > base(dot.replica).number)
            .flat_map(|(_, done)| &done.counts)
            .filter(|(counted, _)| counted == slot)
            .map(|(_, by)| i128::from(*by))
            .sum();
        sum - repeated
    }

    fn put(&mut self, cell: Cell, dot: Dot, payload: Payload) {
        self.weight += cost(&cell, &payload);
        let paid = cell.clone();
        if let Some(before) = self.cells.entry(cell).or_default().insert(dot, payload) {
            self.weight -= cost(&paid, &before);
        }
    }

    fn take(&mut self, cell: &Cell, dot: Dot) {
        let Some(entries) = self.cells.get_mut(cell) else { return };
        if let Some(payload) = entries.remove(&dot) {
            self.weight -= cost(cell, &payload);
        }
        if entries.is_empty() {
            self.cells.remove(cell);
        }
    }

    /// Does a request's operations as `dot`, at `now` by this region's hybrid clock; all of them or none.
    ///
    /// # Errors
    /// A counter would leave the range of an `i64`, or the document the bytes it may have.
    pub fn operate(
        &mut self,
        dot: Dot,
        now: Timestamp,
        request: Option<Request>,
        ops: &[Op],
    ) -> Result<Delta, Refused> {
        let counts = self.check(ops)?;
        let mut edit = Edit { dot, removed: BTreeMap::new(), cells: BTreeSet::new(), at: now };
        for op in ops {
            self.perform(&mut edit, op);
        }
        let mut tallies = Vec::new();
        for (slot, (plus, minus)) in &counts {
            let tally = self.tallies.entry((slot.clone(), dot.replica)).or_default();
            *tally = Tally { number: dot.number, plus: tally.plus + plus, minus: tally.minus + minus };
            tallies.push((slot.clone(), *tally));
        }
        let request = request.map(|request| {
            let by =
                |(plus, minus): (u128, u128)| (plus as i128 - minus as i128).clamp(i64::MIN.into(), i64::MAX.into());
            let counts = counts.into_iter().map(|(slot, sums)| (slot, by(sums) as i64)).collect();
            (request, Done { at: edit.at, counts })
        });
        let adds = edit.cells.iter().filter_map(|cell| Some((cell.clone(), self.cells.get(cell)?.get(&dot)?.clone())));
        let removes = edit.removed.iter().map(|(cell, dots)| (cell.clone(), dots.iter().copied().collect()));
        let delta = Delta {
            replica: dot.replica,
            from: self.clock.get(dot.replica),
            to: dot.number,
            at: edit.at,
            adds: adds.collect(),
            removes: removes.collect(),
            tallies,
            deleted: None,
            bases: Vec::new(),
            request,
        };
        self.seen(&delta);
        Ok(delta)
    }

    /// Takes away everything that the document has, as `dot`. `None` where there is nothing.
    pub fn delete(&mut self, dot: Dot, now: Timestamp, request: Option<Request>) -> Option<Delta> {
        if self.cells.is_empty() {
            return None;
        }
        let grown = |(at, tally): &(&(Slot, Replica), &Tally)| {
            self.bases.get(*at).is_none_or(|base| base.number < tally.number)
        };
        let bases = self.tallies.iter().filter(grown).map(|((slot, replica), tally)| (slot.clone(), *replica, *tally));
        let delta = Delta {
            replica: dot.replica,
            from: self.clock.get(dot.replica),
            to: dot.number,
            at: now.max(self.newest),
            adds: Vec::new(),
            removes: Vec::new(),
            tallies: Vec::new(),
            bases: bases.collect(),
            deleted: Some(self.clock.clone()),
            request: request.map(|request| (request, Done { at: now, counts: Vec::new() })),
        };
        self.fold(&delta);
        Some(delta)
    }

    /// What the operations add to counters and take from them.
    fn check(&self, ops: &[Op]) -> Result<BTreeMap<Slot, (u128, u128)>, Refused> {
        let mut counts = BTreeMap::<Slot, (u128, u128)>::new();
        let mut bytes = self.weight;
        for (nth, op) in ops.iter().enumerate() {
            let text = match &op.act {
                Act::Increment(by) => {
                    let (plus, minus) = counts.entry(op.slot.clone()).or_default();
                    *(if *by < 0 { &mut *minus } else { &mut *plus }) += u128::from(by.unsigned_abs());
                    let sum = self.count(&op.slot) + *plus as i128 - *minus as i128;
                    if i64::try_from(sum).is_err() {
                        let why = format!("field `{}`: the count would be {sum}, beyond 64 bits", op.slot);
                        return Err(Refused::Op { nth, why });
                    }
                    0
                }
                Act::Set(text) | Act::Add(text) | Act::Max(text) | Act::Min(text) => text.len(),
                Act::Remove(_) | Act::Enable | Act::Disable => 0,
            };
            bytes += ENTRY_BYTES + text;
        }
        if bytes > DOCUMENT_BYTES_MAX && ops.iter().any(|op| !matches!(op.act, Act::Remove(_))) {
            let why = format!("the document would have about {bytes} bytes; the limit is {DOCUMENT_BYTES_MAX}");
            return Err(Refused::TooLarge(why));
        }
        Ok(counts)
    }

    fn perform(&mut self, edit: &mut Edit, op: &Op) {
        let cell = |member: Option<&String>| Cell { slot: op.slot.clone(), kind: op.kind, member: member.cloned() };
        match &op.act {
            Act::Set(text) => {
                let cell = cell(None);
                let seen = self.cells.get(&cell).into_iter().flat_map(BTreeMap::values);
                let last = seen.map(|payload| match payload {
                    Payload::Value { at, .. } => *at,
                    _ => Timestamp::ZERO,
                });
                // A clock that is behind must not lose to what its own region has seen.
                let at = last.max().map_or(edit.at, |last| edit.at.max(Timestamp(last.0.saturating_add(1))));
                edit.at = at;
                self.replace(edit, cell, Payload::Value { at, text: text.clone() });
            }
            Act::Add(member) => self.replace(edit, cell(Some(member)), Payload::Present),
            Act::Remove(member) => {
                self.clear(edit, &cell(Some(member)));
                self.replace(edit, cell(None), Payload::Present);
            }
            Act::Increment(_) => self.replace(edit, cell(None), Payload::Present),
            Act::Enable => self.replace(edit, cell(None), Payload::Flag(true)),
            Act::Disable => self.replace(edit, cell(None), Payload::Flag(false)),
            Act::Max(text) | Act::Min(text) => self.reach(edit, cell(None), text),
        }
    }

    fn replace(&mut self, edit: &mut Edit, cell: Cell, payload: Payload) {
        self.clear(edit, &cell);
        edit.cells.insert(cell.clone());
        self.put(cell, edit.dot, payload);
    }

    fn clear(&mut self, edit: &mut Edit, cell: &Cell) {
        let seen: Vec<Dot> = self.cells.get(cell).into_iter().flat_map(BTreeMap::keys).copied().collect();
        seen.into_iter().for_each(|dot| self.remove(edit, cell, dot));
    }

    fn remove(&mut self, edit: &mut Edit, cell: &Cell, dot: Dot) {
        if dot != edit.dot {
            edit.removed.entry(cell.clone()).or_default().insert(dot);
        }
        self.take(cell, dot);
    }

    /// A `max` or `min`: takes away what it passes.
    fn reach(&mut self, edit: &mut Edit, cell: Cell, text: &str) {
        let passes = |than: &str| {
            let order = number::compare(text, than);
            if cell.kind == Kind::Min { order.is_le() } else { order.is_ge() }
        };
        let entries = self.cells.get(&cell).cloned().unwrap_or_default();
        let mut kept = Vec::new();
        for (dot, payload) in &entries {
            match payload {
                Payload::Number(than) if !passes(than) => {
                    if dot.replica == edit.dot.replica {
                        kept.push((*dot, than.clone()));
                    }
                    if *dot == edit.dot {
                        // An earlier operation of this request went further.
                        return;
                    }
                }
                _ => self.remove(edit, &cell, *dot),
            }
        }
        kept.sort_by(|(_, left), (_, right)| match cell.kind {
            Kind::Min => number::compare(right, left),
            _ => number::compare(left, right),
        });
        for (dot, _) in kept.iter().take(kept.len().saturating_sub(PASSED_MAX - 1)) {
            self.remove(edit, &cell, *dot);
        }
        edit.cells.insert(cell.clone());
        self.put(cell, edit.dot, Payload::Number(text.to_owned()));
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
        if delta.from > seen || !has_all {
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
    fn fold(&mut self, delta: &Delta) {
        if let Some(deleted) = &delta.deleted {
            let covered = |entries: &BTreeMap<Dot, Payload>| {
                entries.keys().copied().filter(|dot| deleted.covers(*dot)).collect::<Vec<Dot>>()
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
            raise(&mut self.tallies, (slot.clone(), delta.replica), *tally);
        }
        for (slot, replica, base) in &delta.bases {
            raise(&mut self.bases, (slot.clone(), *replica), *base);
        }
        self.seen(delta);
    }

    fn seen(&mut self, delta: &Delta) {
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
                let first = self.requests.remove(&request);
                self.twins.insert(request, first.into_iter().chain([(dot, done)]).collect());
            }
            None => {
                self.requests.insert(request, (dot, done));
            }
        }
    }

    /// Forgets requests that were done once, before `before`, and beyond [`REQUESTS_MAX`] the oldest. Answers how many of
    /// the latter.
    pub fn forget_requests(&mut self, before: Timestamp) -> usize {
        self.requests.retain(|_, (_, done)| done.at >= before);
        let excess = self.requests.len().saturating_sub(REQUESTS_MAX);
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
        for (cell, theirs) in &other.cells {
            let new: Vec<(&Dot, &Payload)> = theirs.iter().filter(|(dot, _)| !seen.covers(**dot)).collect();
            if new.is_empty() {
                continue;
            }
            let ours: Vec<Write> = self.cells.get(cell).into_iter().flatten().filter_map(Write::of).collect();
            for write in new.iter().copied().filter_map(Write::of) {
                // What they have as well they have seen beside it: they told of it, if it was one.
                let apart = ours.iter().filter(|ours| !other.clock.covers(ours.dot));
                conflicts.extend(apart.filter_map(|ours| conflict(cell, ours.clone(), write.clone())));
            }
            new.into_iter().for_each(|(dot, payload)| self.put(cell.clone(), *dot, payload.clone()));
        }
        other.tallies.iter().for_each(|(at, tally)| raise(&mut self.tallies, at.clone(), *tally));
        other.bases.iter().for_each(|(at, base)| raise(&mut self.bases, at.clone(), *base));
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

/// A request at work.
struct Edit {
    dot: Dot,
    /// What was seen and is taken away.
    removed: BTreeMap<Cell, BTreeSet<Dot>>,
    /// Where the dot may stand.
    cells: BTreeSet<Cell>,
    at: Timestamp,
}
