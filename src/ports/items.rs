//! A managed table of items, each with a version that conditions its next change, with the contract of DynamoDB.
//!
//! Contract, checked by [`super::conformance::items`]:
//! - the changes of one write take effect together or not at all, and are durable when it returns;
//! - of any number of writes on one version of an item exactly one takes effect;
//! - `get` shows every write that returned before; `list` may be late by a second or so;
//! - [`Failure::Throttled`] and [`Failure::Refused`] say that nothing was changed, [`Failure::Unanswered`] says nothing:
//!   the write may take effect, also later.

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::core::link::Failure;

/// Changes that one write may carry (DynamoDB: 100).
pub const CHANGES_MAX: usize = 100;

/// Bytes that one write may carry in all (DynamoDB: 4 MB), with some room for what is around them.
pub const WRITE_BYTES_MAX: usize = 3 << 20;

/// Bytes that one item may have (DynamoDB: 400 KB, with names and keys).
pub const ITEM_BYTES_MAX: usize = 390 << 10;

/// Items that one page of a listing has at most.
pub const PAGE_MAX: usize = 1_000;

/// Where an item stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Items of one partition are listed together.
    pub partition: String,
    /// Their order within it, by bytes.
    pub sort: String,
}

impl Place {
    pub fn new(partition: impl Into<String>, sort: impl Into<String>) -> Place {
        Place { partition: partition.into(), sort: sort.into() }
    }
}

/// What stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub bytes: Bytes,
    /// 1 when it is written first, then one more with each change.
    pub version: u64,
}

/// A change of the item that has `version` now; 0: there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub place: Place,
    /// `None` removes it.
    pub bytes: Option<Bytes>,
    pub version: u64,
}

/// Items of a partition by their places in it, and whether there are more behind the last one.
pub type Page = (Vec<(String, Item)>, bool);

pub trait Items: Send + Sync {
    /// Names this table: a copy that was restored from a backup has another name.
    fn identity(&self) -> BoxFuture<'_, Result<String, Failure>>;

    /// One answer for each place, in order; at most [`CHANGES_MAX`] different ones.
    fn get(&self, places: Vec<Place>) -> BoxFuture<'_, Result<Vec<Option<Item>>, Failure>>;

    /// Does all of the changes, of different items, and answers `true`; `false` if a version is another one: nothing was
    /// changed then.
    fn write(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<bool, Failure>>;

    /// Items behind `after`, at most [`PAGE_MAX`].
    fn list(&self, partition: String, after: Option<String>) -> BoxFuture<'_, Result<Page, Failure>>;
}
