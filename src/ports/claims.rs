//! A ledger of keys that cannot join a transaction with its bus, with the contract of a DynamoDB table: each row changes
//! on its own condition, and one region's copy judges.
//!
//! A key is first *claimed* for the time of a lease, then the event is published, then the claim is marked *done*. The
//! token fences: whoever lost a claim can neither mark nor release it.

use std::time::Duration;

use futures::future::BoxFuture;

use crate::core::{
    key::{KeyHash, PayloadHash},
    link::Failure,
    time::Timestamp,
};

/// Claims that one call may carry (DynamoDB's `BatchExecuteStatement`).
pub const CALL_CLAIMS_MAX: usize = 25;

/// Names one attempt to publish one event; random, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// A row of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub payload: PayloadHash,
    pub state: State,
    /// When the row was last written, by the writer's clock; for people.
    pub at: Timestamp,
    /// From then on the row does not count, whether it was removed or not.
    pub expires: Timestamp,
    /// Where the event was published first.
    pub origin: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Somebody is publishing the event. Whoever sees the same token for longer than `lease` by a clock of its own may
    /// take the claim over: no clock is compared with another.
    Claimed { token: Token, lease: Duration },
    /// The event is on the bus, under this id where it is known.
    Done { id: Option<String> },
}

/// A row to write for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub key: KeyHash,
    pub row: Row,
}

/// What became of an insertion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// There was no row that counts; now there is ours.
    New,
    /// There is this row; nothing was changed.
    Known(Row),
}

/// Contract:
/// - of any number of insertions of one key exactly one is `New`, until the row expires or is released;
/// - what was answered is durable;
/// - `Unanswered` says nothing: an insertion may have been made, and is then found as `Known` with our own token;
/// - what is said of one row of a call says nothing of the others.
pub trait Claims: Send + Sync {
    /// Inserts rows, claimed or done. One result per claim, in order. At most [`CALL_CLAIMS_MAX`].
    fn insert(&self, claims: Vec<Claim>) -> BoxFuture<'_, Result<Vec<Result<Inserted, Failure>>, Failure>>;

    /// Replaces a claim that `from` holds by ours; `false` if `from` holds it no more.
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

    /// The rows that count.
    fn get(&self, keys: Vec<KeyHash>) -> BoxFuture<'_, Result<Vec<Option<Row>>, Failure>>;
}
