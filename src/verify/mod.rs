//! The proof that regions hold the same events, from what their agents say of themselves (`GET /v1/keys`).
//!
//! A link is right when every event that was accepted at home, passed the filter of its time and is inside both
//! retentions is at the peer, once, with the same payload. The obvious comparison, two sets taken at two moments, cries
//! wolf under traffic: an event accepted between the two is in one of them only. So only events up to each home's head
//! at the *start* are asked for, every set is taken after that, and what is still missing is looked for again in what
//! the peer took in since ([`Snapshot::renew`]) until it settles.
//!
//! Memory is one fixed-size [`Entry`] for each event; keys' text is fetched for the few that a report names.
//!
//! Where events refer to objects, [`objects`] compares those too.
//!
//! Documents have versions, which [`documents`] compares; [`expected`] says what a journal's operations make of them.
//!
//! Regions on managed services have no log that could be read: there [`ledger`] compares which keys the regions know.
//!
//! [`snapshot`] reads one region's answer, [`compare()`] compares them, [`journal`] reads what `load` wrote down, and
//! [`report`] is what comes out. Fetching is `cli::verify`'s part: nothing here does I/O.

mod compare;
pub mod documents;
pub mod expected;
#[cfg(test)]
mod expected_tests;
pub mod journal;
pub mod ledger;
#[cfg(test)]
mod ledger_tests;
pub mod objects;
#[cfg(test)]
mod objects_tests;
pub mod report;
pub mod snapshot;
#[cfg(test)]
mod tests;

use crate::core::key::KeyHash;
pub use crate::core::key::hex;
pub use compare::{Input, Topology, compare};
pub use report::Report;
pub use snapshot::{Entry, Snapshot};

/// So many of each kind of difference are named; all are counted.
pub const NAMED_MAX: usize = 100;

/// The first 16 bytes of a hash.
pub type Short = [u8; 16];

/// At least 16 bytes of hash from text; more are left out.
fn unhex(text: &str) -> Option<Short> {
    text.get(..32).and_then(KeyHash::from_hex).map(|hash| hash.0)
}
