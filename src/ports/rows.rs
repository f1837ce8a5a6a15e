//! An ordered table of rows on a region's disk; keys and values are bytes.
//!
//! Contract, checked by [`super::conformance::rows`]:
//! - a commit is there whole or not at all, and durable when it returns;
//! - commits take effect in the order in which they are made, and reads see those that returned;
//! - after a failed commit the table fails for good: what the disk holds is unknown.

use bytes::Bytes;
use futures::future::BoxFuture;

/// Bytes of values that one scan answers, about.
pub const SCAN_BYTES_MAX: usize = 8 << 20;

/// The table cannot be read or written any more: the agent must start again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the table of documents: {0}")]
    Failed(String),
}

/// A key and its value.
pub type Row = (Vec<u8>, Bytes);

/// A row to write; `None` removes it.
pub type Change = (Vec<u8>, Option<Bytes>);

pub trait Rows: Send + Sync {
    /// One answer for each key, in order.
    fn get(&self, keys: Vec<Vec<u8>>) -> BoxFuture<'_, Result<Vec<Option<Bytes>>, Error>>;

    /// Rows with `from <= key < to` in the order of bytes, at most `limit` and about [`SCAN_BYTES_MAX`]; none only where
    /// there are none.
    fn scan(&self, from: Vec<u8>, to: Vec<u8>, limit: usize) -> BoxFuture<'_, Result<Vec<Row>, Error>>;

    /// Later changes of one key win.
    fn commit(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<(), Error>>;
}
