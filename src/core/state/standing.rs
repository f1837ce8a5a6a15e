//! Regions that the documents do without, and how one of them takes part again.
//!
//! # The problem
//! What is deleted may be forgotten only when every region has seen the delete. A region that is gone for good keeps
//! everything for ever; but if the others forget without it and it comes back, it brings back what was deleted.
//!
//! # The method
//! An [`Eviction`] says that the others forget without it. Evictions of one region are counted; the count is the `term`
//! that a region writes into its deltas once it has given up all that it had, and has begun anew with what the others have.
//! What an evicted region wrote in an earlier term is not merged any more, nor are documents fetched from it. Each region
//! notes what of it had come before ([`Taken`]), so that the region, when it is back, can tell which of its own requests
//! nobody has: those it does again.
//!
//! Standings are joined like everything else here, so whoever heard of an eviction spreads it. A region collects without
//! another one only when all the rest have said that they know.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::core::{
    position::{Incarnation, Position},
    region::Ballot,
    time::Timestamp,
};

/// A region was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eviction {
    /// Counts the evictions of this region, from 1.
    pub term: u64,
    /// The region has given up what it had, and takes part again. It says so itself, and nobody else does.
    pub back: bool,
    /// The decision by which it was evacuated: it does nothing about its eviction before it knows of that.
    pub of: Ballot,
    pub at: Timestamp,
    pub by: String,
    pub reason: String,
}

/// Who was left out, by region. Two of them join to what both know, whatever the order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing(pub BTreeMap<String, Eviction>);

impl Standing {
    /// How often the region was evicted.
    pub fn term(&self, region: &str) -> u64 {
        self.0.get(region).map_or(0, |eviction| eviction.term)
    }

    /// The documents do without it now.
    pub fn is_out(&self, region: &str) -> bool {
        self.0.get(region).is_some_and(|eviction| !eviction.back)
    }

    pub fn out(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(_, eviction)| !eviction.back).map(|(region, _)| region.as_str())
    }

    /// Takes in what another region knows; answers whether anything of it is new.
    pub fn join(&mut self, other: &Standing) -> bool {
        let before = self.clone();
        for (region, theirs) in &other.0 {
            let rank = |eviction: &Eviction| (eviction.term, eviction.back, eviction.of, eviction.at);
            match self.0.get_mut(region) {
                Some(ours) if rank(ours) >= rank(theirs) => {}
                Some(ours) => ours.clone_from(theirs),
                None => drop(self.0.insert(region.clone(), theirs.clone())),
            }
        }
        *self != before
    }
}

/// What a region had of an evicted one when it learned of an eviction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Had {
    /// In the log of the region that notes this: what stands after it and was written in an earlier term is not merged.
    pub after: u64,
    /// How far it had each life of the evicted region, and what of that it had not.
    pub marks: Vec<(Incarnation, u64)>,
    pub holes: Vec<Position>,
}

/// The same for each eviction of a region, by term. What it wrote is judged by the first eviction that followed: what was left
/// out then had come by the next one, and was merged by neither.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken(pub BTreeMap<u64, Had>);

impl Taken {
    /// Of the last eviction; 0 where there was none.
    pub fn term(&self) -> u64 {
        self.0.last_key_value().map_or(0, |(term, _)| *term)
    }

    /// What there was at the first eviction after something was written in `term`.
    fn then(&self, term: u64) -> Option<&Had> {
        self.0.range(term + 1..).next().map(|(_, had)| had)
    }

    /// Whether an event that the evicted region wrote in `term` had come.
    pub fn covers(&self, term: u64, event: &Position) -> bool {
        let reaches = |(life, sequence): &(Incarnation, u64)| *life == event.incarnation && *sequence >= event.sequence;
        self.then(term).is_some_and(|had| had.marks.iter().any(reaches) && !had.holes.contains(event))
    }

    /// Whether what was written in `term` and stands at `offset` is left out.
    pub fn refuses(&self, term: u64, offset: u64) -> bool {
        self.then(term).is_some_and(|had| offset > had.after)
    }
}

/// A region was away for longer than deltas are merged: until when it had lived, and when it was there again.
///
/// Others may have forgotten deletes meanwhile that it had seen, and that a copy of it from before has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slept {
    pub from: Timestamp,
    pub to: Timestamp,
}

impl Slept {
    /// Whether a region that slept like `theirs`, or never did, may have forgotten deletes that were made after this one fell
    /// asleep: only what is two horizons old is forgotten, and no clock is wrong by one.
    pub fn is_outlived_by(&self, theirs: Option<Slept>, now: Timestamp, horizon: Duration) -> bool {
        theirs.is_none_or(|theirs| theirs.from.since(self.from) >= horizon || now.since(theirs.to) >= horizon)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eviction(term: u64, back: bool, at: u64) -> Standing {
        let of = Ballot { epoch: 1, proposal: 1 };
        let at = Timestamp::from_millis(at);
        Standing([("d".to_owned(), Eviction { term, back, of, at, by: String::new(), reason: String::new() })].into())
    }

    #[test]
    fn standings_join_to_the_same_in_any_order() {
        let all = [eviction(1, false, 5), eviction(1, false, 9), eviction(1, true, 2), eviction(2, false, 1)];
        for one in &all {
            for other in &all {
                let (mut left, mut right) = (one.clone(), other.clone());
                left.join(other);
                right.join(one);
                assert_eq!(left, right);
                assert!(!left.join(one) && !left.join(other));
            }
        }
        let mut joined = eviction(1, false, 5);
        assert!(joined.is_out("d") && joined.join(&eviction(1, true, 2)) && !joined.is_out("d"));
        assert!(joined.join(&eviction(2, false, 1)) && joined.is_out("d"));
        assert_eq!((joined.term("d"), joined.term("a"), joined.out().collect::<Vec<_>>()), (2, 0, vec!["d"]));
    }

    #[test]
    fn a_region_is_outlived_by_one_that_was_there_long_after_it() {
        let slept = |from, to| Slept { from: Timestamp(from), to: Timestamp(to) };
        let (ours, horizon) = (slept(100, 1_000), Duration::from_nanos(50));
        let outlived = |theirs| ours.is_outlived_by(theirs, Timestamp(1_010), horizon);
        assert!(outlived(None) && outlived(Some(slept(150, 1_000))) && outlived(Some(slept(100, 960))));
        assert!(!outlived(Some(slept(149, 1_005))) && !outlived(Some(slept(20, 961))));
    }

    #[test]
    fn what_had_come_is_told_by_life_and_what_is_left_out_by_term() {
        let place = |life, sequence| Position { incarnation: Incarnation(life), sequence };
        let first =
            Had { after: 100, marks: vec![(Incarnation(1), 10), (Incarnation(2), 20)], holes: vec![place(2, 15)] };
        let second = Had { after: 200, marks: vec![(Incarnation(1), 10), (Incarnation(2), 40)], holes: Vec::new() };
        let mut taken = Taken([(2, first)].into());
        let events = [place(1, 10), place(2, 16), place(1, 11), place(2, 15), place(3, 1)];
        assert_eq!(events.map(|at| taken.covers(1, &at)), [true, true, false, false, false]);
        assert!(taken.refuses(1, 101) && !taken.refuses(1, 100) && !taken.refuses(2, 101));
        // What the first eviction left out had come by the second, and is left out all the same.
        taken.0.insert(3, second);
        assert!(!taken.covers(1, &place(2, 30)) && taken.covers(2, &place(2, 30)) && !taken.covers(3, &place(2, 30)));
        assert!(taken.refuses(1, 150) && !taken.refuses(2, 150) && taken.refuses(2, 201) && !taken.refuses(3, 201));
        assert_eq!((taken.term(), Taken::default().term(), Taken::default().refuses(0, 9)), (3, 0, false));
    }
}
