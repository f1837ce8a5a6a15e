//! What is done to a document beside requests of services. Done again it changes nothing, so it can be tried again.

use std::collections::BTreeMap;

use crate::{
    agent::documents::home::From,
    core::state::{
        Clock, Dot,
        delta::Delta,
        document::{Conflict, Document, Merged},
    },
    planted::{self, Bug},
};

/// A delta of another region.
#[derive(Clone, Debug)]
pub struct Came {
    pub delta: Delta,
    /// Who wrote it, and the eviction after which it had begun anew then.
    pub from: From,
}

#[derive(Clone, Copy)]
pub enum Edit<'a> {
    /// Merges what other regions did to it.
    Deltas(&'a [Came]),
    /// Merges what another region has of it.
    Whole(&'a Document, &'a From),
    /// Merges what the others have of it; a region that was evicted keeps what it has itself only if all of that was written
    /// after `since`, in milliseconds, and nothing of it where there is no `since`. What it keeps no more is to be set aside.
    Clean { others: &'a Document, from: &'a [From], since: Option<u64> },
    /// Drops the tombstone that has seen this.
    Forget(&'a Clock),
}

/// What became of it.
#[derive(Debug, Default)]
pub struct Edited {
    pub changed: bool,
    pub conflicts: Vec<Conflict>,
    pub merged: u64,
    /// Deltas that came before what they stand on.
    pub waiting: Vec<Dot>,
    /// Deltas that are not merged because their region was evicted since.
    pub left_out: Vec<Dot>,
    /// The whole document was not merged, for the same reason.
    pub is_refused: bool,
    /// What the region had and could not keep.
    pub given_up: Option<Document>,
    /// The region has something that none of the others has.
    pub is_unsent: bool,
}

impl Edit<'_> {
    /// `terms`: from which term on something of evicted regions is merged.
    pub fn perform(&self, document: &mut Document, terms: &BTreeMap<String, u64>) -> Edited {
        match self {
            Edit::Deltas(deltas) => merge(document, deltas, terms),
            Edit::Whole(_, from) if is_refused(from, terms) => Edited { is_refused: true, ..Edited::default() },
            Edit::Whole(theirs, _) if document.clock().includes(theirs.clock()) && document.remembers(theirs) => {
                Edited::default()
            }
            Edit::Whole(theirs, _) => {
                Edited { conflicts: document.merge(theirs), changed: true, merged: 1, ..Edited::default() }
            }
            Edit::Clean { from, .. } if from.iter().any(|from| is_refused(from, terms)) => {
                Edited { is_refused: true, ..Edited::default() }
            }
            Edit::Clean { others, since, .. } => clean(document, others, *since),
            Edit::Forget(clock) => {
                let changed = *document != Document::default() && document.is_tombstone() && document.clock() == *clock;
                if changed {
                    *document = Document::default();
                }
                Edited { changed, ..Edited::default() }
            }
        }
    }
}

fn is_refused(from: &From, terms: &BTreeMap<String, u64>) -> bool {
    terms.get(&from.peer).is_some_and(|term| from.term < *term) && !planted::is(Bug::EvictedHeard)
}

/// The number of a write begins with the time of it.
fn clean(document: &mut Document, others: &Document, since: Option<u64>) -> Edited {
    let is_unsent = !others.clock().includes(document.clock());
    let is_kept = since
        .is_some_and(|since| document.is_recent_beyond(others, |dot: Dot| dot.number >> super::CHANCE_BITS >= since));
    if is_kept || planted::is(Bug::EvictedKeeps) {
        let before = document.clone();
        let conflicts = document.merge(others);
        return Edited { changed: *document != before, conflicts, is_unsent, ..Edited::default() };
    }
    let ours = std::mem::replace(document, others.clone());
    if ours == *others || ours == Document::default() {
        return Edited { changed: ours != *others, ..Edited::default() };
    }
    Edited { changed: true, given_up: Some(ours), is_unsent, ..Edited::default() }
}

/// Merges deltas as far as what they stand on is there.
fn merge(document: &mut Document, deltas: &[Came], terms: &BTreeMap<String, u64>) -> Edited {
    let mut edited = Edited::default();
    let (refused, mut left): (Vec<&Came>, Vec<&Came>) = deltas.iter().partition(|came| is_refused(&came.from, terms));
    edited.left_out = refused.into_iter().map(|came| came.delta.dot()).collect();
    loop {
        let before = left.len();
        left.retain(|came| match document.merge_delta(&came.delta) {
            Merged::New(conflicts) => {
                edited.changed = true;
                edited.merged += 1;
                edited.conflicts.extend(conflicts);
                false
            }
            Merged::Known => false,
            Merged::Early => true,
        });
        if left.len() == before || left.is_empty() {
            edited.waiting = left.into_iter().map(|came| came.delta.dot()).collect();
            return edited;
        }
    }
}
