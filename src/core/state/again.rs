//! Doing again what a region did that gave its documents up before anybody else had heard of it.
//!
//! A delta of a given-up replica cannot be merged as it is: it stands on dots that nobody has, and on a document that may
//! have been forgotten since. What it *wrote* is written again as a new request of a new replica; what it took away is taken
//! away as far as it is still there. The new request has a key that follows from the old dot (or the key that the service
//! gave), so that it is done once, however often it is tried and whichever copy of the region tries.

use std::collections::BTreeMap;

use super::{
    Dot, Key, Replica, Request,
    delta::Delta,
    document::{Document, Done, Tally},
    op::Slot,
};
use crate::core::time::Timestamp;

/// What one request added to counters and took from them.
pub type Counts = Vec<(Slot, u128, u128)>;

/// The sums of replicas as deltas in their order bring them: what one delta added is the difference to the one before.
#[derive(Default)]
pub struct Past {
    /// The last delta of a replica to a document, and whether all before it were seen.
    last: BTreeMap<(Key, Replica), (u64, bool)>,
    sums: BTreeMap<(Key, Replica, Slot), (u128, u128)>,
}

impl Past {
    /// What `delta` added; `None` where that cannot be told, because what came before it was not seen.
    pub fn counts(&mut self, key: &Key, delta: &Delta) -> Option<Counts> {
        let last = self.last.get(&(key.clone(), delta.replica)).copied();
        let is_next = delta.from == last.map_or(0, |(to, _)| to);
        let is_whole = is_next && last.is_none_or(|(_, is_whole)| is_whole);
        self.last.insert((key.clone(), delta.replica), (delta.to, is_whole));
        let mut counts = Some(Vec::new());
        for (slot, tally) in &delta.tallies {
            let at = (key.clone(), delta.replica, slot.clone());
            let before = self.sums.insert(at, (tally.plus, tally.minus)).filter(|_| is_next);
            // The first of a document that was forgotten, or that has no count yet.
            let base = delta.bases.iter().find(|(of, by, _)| of == slot && *by == delta.replica);
            let base = base.map(|(_, _, base)| (base.plus, base.minus));
            let before = base.or(before).or(is_whole.then_some((0, 0)));
            counts = counts.zip(before).map(|(mut counts, (plus, minus))| {
                counts.push((slot.clone(), tally.plus.saturating_sub(plus), tally.minus.saturating_sub(minus)));
                counts
            });
        }
        counts
    }
}

impl Delta {
    /// The key under which the request is done again.
    pub fn request_again(&self) -> Request {
        let own = || Request::of(&format!("again/{}/{}", self.replica, self.to));
        self.request.as_ref().map_or_else(own, |(request, _)| *request)
    }
}

impl Document {
    /// The dot of a request that is known.
    pub fn dot_of(&self, request: &Request) -> Option<Dot> {
        let twin = || self.twins.get(request).and_then(|twins| twins.keys().next().copied());
        self.requests.get(request).map(|(dot, _)| *dot).or_else(twin)
    }

    /// Does again as `dot` what `delta` did in another replica; `moved` says which of that replica's dots were done again
    /// as which. `None` where nothing of it is left to do.
    pub fn again(
        &mut self,
        dot: Dot,
        now: Timestamp,
        delta: &Delta,
        counts: Counts,
        moved: &BTreeMap<Dot, Dot>,
    ) -> Option<Delta> {
        let saw = |dot: &Dot| delta.deleted.as_ref().is_some_and(|deleted| deleted.covers(*dot));
        let moved_here = |old: &Dot| moved.get(old).copied().unwrap_or(*old);
        let mut removes = BTreeMap::new();
        for (cell, entries) in &self.cells {
            let named = delta.removes.iter().filter(|(from, _)| from == cell).flat_map(|(_, dots)| dots);
            let mut gone: Vec<Dot> = named.map(moved_here).collect();
            gone.extend(entries.keys().filter(|dot| saw(dot)).copied());
            gone.extend(moved.iter().filter(|(old, _)| saw(old)).map(|(_, new)| *new));
            gone.retain(|dot| entries.contains_key(dot));
            gone.sort_unstable();
            gone.dedup();
            if !gone.is_empty() {
                removes.insert(cell.clone(), gone);
            }
        }
        let mut bases = Vec::new();
        for ((slot, replica), tally) in &self.tallies {
            let old = delta.bases.iter().find(|(of, by, _)| of == slot && by == replica).map(|(_, _, base)| *base);
            let old = old.and_then(|base| match tally.number <= base.number {
                // All of it was seen; what the old replica added after it is done again, and deleted with that.
                true => Some(*tally),
                // A count that was forgotten and begun anew is another one: what was deleted of it is not here.
                false => Some(base).filter(|base| tally.plus >= base.plus && tally.minus >= base.minus),
            });
            let done_again = moved.iter().filter(|(old, new)| new.replica == *replica && saw(old)).map(|(_, new)| new);
            let done_again = done_again.map(|dot| dot.number).max().filter(|last| tally.number <= *last);
            let base = old.or(done_again.map(|_| *tally));
            let is_new =
                |base: &Tally| self.bases.get(&(slot.clone(), *replica)).is_none_or(|known| known.number < base.number);
            bases.extend(base.filter(is_new).map(|base| (slot.clone(), *replica, base)));
        }
        if delta.adds.is_empty() && counts.is_empty() && removes.is_empty() && bases.is_empty() {
            return None;
        }
        for (slot, _, _) in &counts {
            let at = (slot.clone(), dot.replica);
            bases.extend(self.begin_count(&at, dot).map(|base| (slot.clone(), dot.replica, base)));
        }
        let sums = counts.iter().map(|(slot, plus, minus)| {
            let before = self.tallies.get(&(slot.clone(), dot.replica)).copied().unwrap_or_default();
            (slot.clone(), Tally { number: dot.number, plus: before.plus + plus, minus: before.minus + minus })
        });
        let net = counts.iter().map(|(slot, plus, minus)| (slot.clone(), *plus as i128 - *minus as i128));
        let again = Delta {
            replica: dot.replica,
            from: self.clock.get(dot.replica),
            to: dot.number,
            at: now.max(self.newest),
            adds: delta.adds.clone(),
            removes: removes.into_iter().collect(),
            tallies: sums.collect(),
            deleted: None,
            bases,
            request: Some((delta.request_again(), Done { at: now, counts: net.collect() })),
        };
        self.fold(&again);
        Some(again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::state::testing::{Region, key};

    const NOW: Timestamp = Timestamp(1_000);

    /// Does `late` again on what another region has, which had all of `seen`.
    fn redo(document: &mut Document, seen: &[&Delta], late: &[&Delta]) -> Vec<Option<Delta>> {
        let (mut past, mut moved) = (Past::default(), BTreeMap::new());
        seen.iter().for_each(|delta| drop(past.counts(&key(), delta)));
        let done = late.iter().enumerate().map(|(nth, delta)| {
            let counts = past.counts(&key(), delta).unwrap();
            let dot = Dot { replica: Replica(99), number: nth as u64 + 1 };
            let again = document.again(dot, NOW, delta, counts, &moved);
            moved.insert(delta.dot(), dot);
            assert!(again.is_none() || document.dot_of(&delta.request_again()) == Some(dot));
            again
        });
        done.collect()
    }

    #[test]
    fn what_nobody_had_is_done_again_on_what_is_left() {
        let (mut old, mut other) = (Region::new(1), Region::new(2));
        let seen = old.run(
            1,
            r#"{"field":"plays","op":"increment","by":5},{"field":"language","op":"set","value":"de"},
               {"field":"watchlist","op":"add","value":"m1"}"#,
        );
        other.hear(&seen);
        let mut receiver = other.clone();
        let late =
            old.run(2, r#"{"field":"plays","op":"increment","by":2},{"field":"language","op":"set","value":"fr"}"#);
        let later = old
            .run(3, r#"{"field":"watchlist","op":"remove","value":"m1"},{"field":"language","op":"set","value":"it"}"#);
        for again in redo(&mut other.document, &[&seen], &[&late, &later]) {
            receiver.hear(&again.unwrap());
        }
        // The second register write takes away the first, which stands under another dot now.
        assert_eq!(other.value(), r#"{"language":"it","plays":7,"watchlist":[]}"#);
        assert_eq!((receiver.value(), &receiver.document), (other.value(), &other.document));
    }

    #[test]
    fn a_document_that_was_forgotten_gets_what_was_written_late_alone() {
        let (mut old, mut other) = (Region::new(1), Region::new(2));
        let gone =
            old.run(1, r#"{"field":"plays","op":"increment","by":5},{"field":"watchlist","op":"add","value":"m1"}"#);
        let late = old.run(2, r#"{"field":"plays","op":"increment","by":-2}"#);
        redo(&mut other.document, &[&gone], &[&late]);
        assert_eq!(other.value(), r#"{"plays":-2}"#);
    }

    #[test]
    fn a_delete_takes_what_its_region_saw_and_nothing_else() {
        let (mut old, mut other) = (Region::new(1), Region::new(2));
        let seen = old.run(1, r#"{"field":"plays","op":"increment","by":5}"#);
        other.hear(&seen);
        let own = old.run(2, r#"{"field":"plays","op":"increment","by":1},{"field":"kids_mode","op":"enable"}"#);
        let delete = old.delete(3).unwrap();
        let after = old.run(4, r#"{"field":"plays","op":"increment","by":10}"#);
        other.run(2, r#"{"field":"plays","op":"increment","by":100}"#);
        let done = redo(&mut other.document, &[&seen], &[&own, &delete, &after]);
        assert_eq!((other.value().as_str(), done.iter().flatten().count()), (r#"{"plays":110}"#, 3));
        // Nothing is left to delete: nothing is done.
        assert_eq!(redo(&mut Document::default(), &[&seen, &own], &[&delete]), [None]);
    }

    #[test]
    fn what_counts_stand_on_must_be_known() {
        let mut old = Region::new(1);
        let deltas = [1, 2, 3].map(|by| old.run(by, &format!(r#"{{"field":"plays","op":"increment","by":{by}}}"#)));
        let mut past = Past::default();
        let counts = |past: &mut Past, delta| {
            let counts = past.counts(&key(), delta)?;
            Some(counts.first().map_or(0, |(_, plus, _)| *plus))
        };
        // The log begins after the first one.
        assert_eq!((counts(&mut past, &deltas[1]), counts(&mut past, &deltas[2])), (None, Some(3)));
        let mut past = Past::default();
        assert_eq!(deltas.each_ref().map(|delta| counts(&mut past, delta)), [Some(1), Some(2), Some(3)]);
    }
}
