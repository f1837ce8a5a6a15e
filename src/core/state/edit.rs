//! What a request of this region does to a document.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Dot, Kind, Replica, Request,
    delta::Delta,
    document::{Cell, Document, Done, ENTRY_BYTES, Payload, Tally, raise_base},
    number,
    op::{Act, Op, Refused, Slot},
};
use crate::{
    core::time::Timestamp,
    planted::{self, Bug},
};

/// Bytes that a document may have by local requests; what regions wrote apart from each other may add up to more.
pub const DOCUMENT_BYTES_MAX: usize = 4 << 20;

/// Lower values of one `max` (or higher ones of a `min`) that a replica keeps behind its greatest, for deletes that do not
/// see them.
const PASSED_MAX: usize = 16;

/// Dots that stand in one cell before those that are settled are thinned out.
const BESIDE_MAX: usize = 64;

/// A request at work.
struct Edit {
    dot: Dot,
    /// It has a key, so it may be a repeat.
    may_be_void: bool,
    /// What was seen and is taken away.
    removed: BTreeMap<Cell, BTreeSet<Dot>>,
    /// Where the dot may stand.
    cells: BTreeSet<Cell>,
    at: Timestamp,
}

impl Document {
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
        let may_be_void = request.is_some();
        let mut edit = Edit { dot, may_be_void, removed: BTreeMap::new(), cells: BTreeSet::new(), at: now };
        for op in ops {
            self.perform(&mut edit, op);
        }
        let (mut tallies, mut bases) = (Vec::new(), Vec::new());
        for (slot, (plus, minus)) in &counts {
            let at = (slot.clone(), dot.replica);
            bases.extend(self.begin_count(&at, dot).map(|base| (slot.clone(), dot.replica, base)));
            let tally = self.tallies.entry(at).or_default();
            *tally = Tally { number: dot.number, plus: tally.plus + plus, minus: tally.minus + minus };
            tallies.push((slot.clone(), *tally));
        }
        let request = request.map(|request| {
            let counts = counts.into_iter().map(|(slot, (plus, minus))| (slot, plus as i128 - minus as i128));
            (request, Done { at: edit.at, counts: counts.collect() })
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
            bases,
            request,
        };
        self.seen(&delta);
        Ok(delta)
    }

    /// The sums of a replica begin at nothing where it has none: the document may have been deleted and forgotten here, and
    /// the base of that delete may be remembered elsewhere yet. It must not be taken off what is counted from now on.
    pub(super) fn begin_count(&mut self, at: &(Slot, Replica), dot: Dot) -> Option<Tally> {
        if self.tallies.contains_key(at) || planted::is(Bug::CountBegunOnOldBase) {
            return None;
        }
        let base = Tally { number: dot.number.saturating_sub(1), plus: 0, minus: 0 };
        (base.number > 0 && raise_base(&mut self.bases, at.clone(), base)).then_some(base)
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
            Act::Add(member) => self.join(edit, cell(Some(member)), Payload::Present),
            Act::Remove(member) => {
                self.clear(edit, &cell(Some(member)));
                self.join(edit, cell(None), Payload::Present);
            }
            Act::Increment(_) => self.join(edit, cell(None), Payload::Present),
            Act::Enable => self.replace(edit, cell(None), Payload::Flag(true)),
            Act::Disable => self.replace(edit, cell(None), Payload::Flag(false)),
            Act::Max(text) | Act::Min(text) => self.reach(edit, cell(None), text),
        }
    }

    /// In place of all that was seen.
    fn replace(&mut self, edit: &mut Edit, cell: Cell, payload: Payload) {
        self.clear(edit, &cell);
        edit.cells.insert(cell.clone());
        self.put(cell, edit.dot, payload);
    }

    /// In place of what was seen, unless this may turn out to be void: then beside it.
    fn join(&mut self, edit: &mut Edit, cell: Cell, payload: Payload) {
        match edit.may_be_void {
            false => self.clear(edit, &cell),
            true => self.thin(edit, &cell, |_| true),
        }
        edit.cells.insert(cell.clone());
        self.put(cell, edit.dot, payload);
    }

    /// Takes away of many dots those that `may_go` and cannot turn out to be void any more, but the last one.
    fn thin(&mut self, edit: &mut Edit, cell: &Cell, may_go: impl Fn(&Payload) -> bool) {
        let Some(entries) = self.cells.get(cell).filter(|entries| entries.len() > BESIDE_MAX) else { return };
        let once = self.requests.values().map(|(dot, _)| *dot);
        let open: BTreeSet<Dot> = once.chain(self.twins.values().flat_map(BTreeMap::keys).copied()).collect();
        let settled =
            entries.iter().filter(|(dot, payload)| !open.contains(dot) && **dot != edit.dot && may_go(payload));
        let mut settled: Vec<Dot> = settled.map(|(dot, _)| *dot).collect();
        settled.pop();
        settled.into_iter().for_each(|dot| self.remove(edit, cell, dot));
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

    /// A `max` or `min`: takes away what it passes, unless this may turn out to be void.
    fn reach(&mut self, edit: &mut Edit, cell: Cell, text: &str) {
        let passes = |than: &Payload| {
            let Payload::Number(than) = than else { return true };
            let order = number::compare(text, than);
            if cell.kind == Kind::Min { order.is_le() } else { order.is_ge() }
        };
        let entries = self.cells.get(&cell);
        if entries.and_then(|entries| entries.get(&edit.dot)).is_some_and(|before| !passes(before)) {
            // An earlier operation of this request went further.
            return;
        }
        let entries = entries.into_iter().flatten();
        let (passed, kept): (Vec<_>, Vec<_>) = entries.partition(|(_, payload)| passes(payload));
        let mut passed: Vec<Dot> = passed.into_iter().map(|(dot, _)| *dot).collect();
        let own = kept.into_iter().filter(|(dot, _)| dot.replica == edit.dot.replica);
        let mut own: Vec<(Dot, Payload)> = own.map(|(dot, payload)| (*dot, payload.clone())).collect();
        own.sort_by(|(_, left), (_, right)| match (left, right, cell.kind) {
            (Payload::Number(left), Payload::Number(right), Kind::Min) => number::compare(right, left),
            (Payload::Number(left), Payload::Number(right), _) => number::compare(left, right),
            _ => std::cmp::Ordering::Equal,
        });
        match edit.may_be_void {
            true => self.thin(edit, &cell, passes),
            false => {
                let excess = own.len().saturating_sub(PASSED_MAX - 1);
                passed.extend(own.into_iter().take(excess).map(|(dot, _)| dot));
                passed.into_iter().for_each(|dot| self.remove(edit, &cell, dot));
            }
        }
        edit.cells.insert(cell.clone());
        self.put(cell, edit.dot, Payload::Number(text.to_owned()));
    }
}
