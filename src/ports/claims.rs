//! A ledger of keys that cannot join a transaction with its bus, with the contract of a DynamoDB table: each row changes
//! on its own condition, and one region's copy judges.
//!
//! A key is first *claimed* for the time of a lease, then the event is published, then the claim is marked *done*. The
//! token fences: whoever lost a claim can neither mark nor release it.

use futures::future::BoxFuture;

pub use crate::core::claim::{Claim, Row, State, Token};
use crate::core::{key::KeyHash, link::Failure, time::Timestamp};

/// Claims that one call may carry (DynamoDB's `BatchExecuteStatement`).
pub const CALL_CLAIMS_MAX: usize = 25;

/// What became of an insertion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// There was no row that counts; now there is ours.
    New,
    /// There is this row; nothing was changed.
    Known(Row),
}

/// One of `of` parts of a ledger; parts may be read at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// From 0.
    pub number: u32,
    pub of: u32,
}

/// A page of a ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Those that count, in no order that means anything.
    pub rows: Vec<(KeyHash, Row)>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<KeyHash>,
}

/// Contract, checked by `conformance::claims` and `conformance::racing_claims`:
/// - of any number of insertions of one key exactly one is `New`, until the row expires or is released;
/// - what was answered is durable;
/// - `Unanswered` says nothing: an insertion may have been made, and is then found as `Known` with our own token;
/// - what is said of one row of a call says nothing of the others.
pub trait Claims: Send + Sync {
    /// Inserts rows, claimed or done. One result per claim, in order. At most [`CALL_CLAIMS_MAX`], each of another key. A
    /// row that expired is replaced.
    fn insert(&self, claims: Vec<Claim>) -> BoxFuture<'_, Result<Vec<Result<Inserted, Failure>>, Failure>>;

    /// Replaces a claim that `from` holds by this row, claimed or done; `false` if `from` holds it no more.
    fn take_over(&self, claim: Claim, from: Token) -> BoxFuture<'_, Result<bool, Failure>>;

    /// Marks claims done, each if its token still holds it (or it is done by that token already). One result per mark:
    /// `false` for a claim that was lost.
    fn mark(
        &self,
        marks: Vec<(KeyHash, Token, Option<String>)>,
        at: Timestamp,
    ) -> BoxFuture<'_, Result<Vec<Result<bool, Failure>>, Failure>>;

    /// Removes claims whose event will not be published, each if its token still holds it.
    fn release(&self, claims: Vec<(KeyHash, Token)>) -> BoxFuture<'_, Result<Vec<Result<bool, Failure>>, Failure>>;

    /// The next page of a part. Rows that are written meanwhile may be absent; a page may be empty and not the last one.
    fn list(&self, part: Part, after: Option<KeyHash>) -> BoxFuture<'_, Result<Listed, Failure>>;

    /// The rows that count.
    fn get(&self, keys: Vec<KeyHash>) -> BoxFuture<'_, Result<Vec<Option<Row>>, Failure>>;
}
