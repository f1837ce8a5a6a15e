//! A region's event bus with the contract of EventBridge: no transaction with anything else, an outcome per entry.

use futures::future::BoxFuture;

pub use crate::core::envelope::Entry;
use crate::core::link::Failure;

/// Entries that one call may carry (EventBridge).
pub const CALL_ENTRIES_MAX: usize = 10;

/// What became of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// Taken in, under this event id.
    Accepted(String),
    /// Not taken in; later it may be.
    Later { code: String, why: String },
    /// Not taken in, and it never will be.
    Refused { code: String, why: String },
}

/// Contract, checked by `conformance::bus`:
/// - `Ok` has one outcome per entry, in order, and each of them is certain;
/// - [`Failure::Throttled`] and [`Failure::Refused`] say that nothing was taken in;
/// - [`Failure::Unanswered`] says nothing: any of the entries may be on the bus, and a repeat is a second event there.
pub trait Bus: Send + Sync {
    /// At most [`CALL_ENTRIES_MAX`] entries, within the bus's limit of bytes. The adapter does not retry.
    fn put(&self, entries: Vec<Entry>) -> BoxFuture<'_, Result<Vec<Put>, Failure>>;
}
