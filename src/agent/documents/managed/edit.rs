//! What is done to a document beside requests of services. Done again it changes nothing, so it can be tried again.

use crate::core::{
    state::{
        Clock, Dot,
        delta::Delta,
        document::{Conflict, Document, Merged},
    },
    time::Timestamp,
};

#[derive(Clone, Copy)]
pub enum Edit<'a> {
    /// Merges what another region did to it.
    Deltas(&'a [Delta]),
    /// Merges what another region has of it.
    Whole(&'a Document),
    /// Drops the tombstone that has seen this.
    Forget(&'a Clock),
    /// Drops what was written last before.
    Discard { before: Timestamp },
}

/// What became of it.
#[derive(Debug, Default)]
pub struct Edited {
    pub changed: bool,
    pub conflicts: Vec<Conflict>,
    pub merged: u64,
    /// Deltas that came before what they stand on.
    pub waiting: Vec<Dot>,
}

impl Edit<'_> {
    pub fn perform(&self, document: &mut Document) -> Edited {
        match self {
            Edit::Deltas(deltas) => merge(document, deltas),
            Edit::Whole(theirs) if document.clock().includes(theirs.clock()) && document.remembers(theirs) => {
                Edited::default()
            }
            Edit::Whole(theirs) => {
                Edited { conflicts: document.merge(theirs), changed: true, merged: 1, ..Edited::default() }
            }
            Edit::Forget(clock) => drop_if(document, |document| document.is_tombstone() && document.clock() == *clock),
            Edit::Discard { before } => drop_if(document, |document| document.newest() < *before),
        }
    }
}

fn drop_if(document: &mut Document, is_one: impl Fn(&Document) -> bool) -> Edited {
    let changed = *document != Document::default() && is_one(document);
    if changed {
        *document = Document::default();
    }
    Edited { changed, ..Edited::default() }
}

/// Merges deltas as far as what they stand on is there.
fn merge(document: &mut Document, deltas: &[Delta]) -> Edited {
    let mut edited = Edited::default();
    let mut left: Vec<&Delta> = deltas.iter().collect();
    loop {
        let before = left.len();
        left.retain(|delta| match document.merge_delta(delta) {
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
            edited.waiting = left.into_iter().map(Delta::dot).collect();
            return edited;
        }
    }
}
