//! What comparing with peers and collecting what is deleted need of a region's own documents.

use futures::future::BoxFuture;

use crate::{
    core::{
        state::{Clock, Key, document::Document, standing::Slept},
        time::Timestamp,
    },
    ports::documents::{Documents, Error, Met},
};

/// A tombstone with what it has seen.
pub type Tombstone = (Key, Clock);

/// Tombstones, and behind which document it goes on.
pub type Tombstones = (Vec<Tombstone>, Option<Key>);

/// Whose documents are merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct From {
    pub peer: String,
    /// The eviction after which it had begun anew when it was asked.
    pub term: u64,
}

pub trait Home: Documents {
    /// Merges what a peer has of documents; answers how many it changed.
    fn merge(&self, from: From, documents: Vec<(Key, Document)>) -> BoxFuture<'_, Result<usize, Error>>;

    /// Takes in what a peer said of evictions, if it said something; answers what is known here.
    fn meet(&self, met: Option<(String, Met)>) -> BoxFuture<'_, Result<Met, Error>>;

    /// Takes in how a peer slept, if it said; answers whether this region has to ask that: it was away for longer than deletes
    /// are remembered, and does not know yet whether it keeps its documents.
    fn wakes(&self, heard: Option<(String, Option<Slept>)>) -> BoxFuture<'_, Result<bool, Error>>;

    /// Comparing with this peer found nothing that differs.
    fn equal(&self, peer: String) -> BoxFuture<'_, Result<(), Error>>;

    /// Documents that this peer should be asked for.
    fn wanted(&self, peer: String) -> BoxFuture<'_, Result<Vec<Key>, Error>>;

    /// Tombstones after `after` whose last write was before `before`.
    fn tombstones(&self, after: Option<Key>, before: Timestamp) -> BoxFuture<'_, Result<Tombstones, Error>>;

    /// Drops these, unless something was written since; answers how many it dropped.
    fn forget(&self, tombstones: Vec<Tombstone>) -> BoxFuture<'_, Result<usize, Error>>;

    /// Whether it is this agent's turn to do this: agents of a region that share its documents do not all compare them.
    fn is_our_turn<'a>(&'a self, chore: Chore<'a>) -> BoxFuture<'a, bool>;
}

/// What one agent of a region does for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chore<'a> {
    /// Comparing with this peer.
    Compare(&'a str),
    Collect,
}
