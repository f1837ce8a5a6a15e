//! A region's hub with its ledger: where services publish, peers deliver and readers read.

use std::{
    sync::{Arc, RwLock},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::core::{
    batch::{Batch, Reply},
    event::{Draft, Record},
    invariant::Violation,
    journal::{Change, Head, Mark, State},
    position::EventId,
};

/// Why the hub did not do it. But for [`Error::Failed`], nothing was taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("overloaded: {0}")]
    Overloaded(&'static str),
    #[error("draining: this region takes no new events")]
    Draining,
    /// A write or sync failed; what was on its way may or may not be durable. The agent stops.
    #[error("the hub failed: {0}")]
    Failed(String),
}

impl Error {
    /// How long a caller should wait before it tries again.
    pub fn retry_after(&self) -> Duration {
        match self {
            Error::Overloaded(_) => Duration::from_secs(1),
            Error::Draining | Error::Failed(_) => Duration::from_secs(5),
        }
    }
}

/// What became of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    Accepted(EventId),
    /// The key is known with the same payload; the id is the first one's.
    Duplicate(EventId),
    /// The key is known with another payload.
    Conflict,
}

/// A change, with the event that it is about where it needs one (a dead letter).
#[derive(Clone, Debug)]
pub struct Note {
    pub change: Change,
    pub event: Option<Record>,
}

impl From<Change> for Note {
    fn from(change: Change) -> Self {
        Note { change, event: None }
    }
}

/// Contract, checked by [`super::conformance::hub`]:
/// - what `publish` and `apply` answered is durable, the ledger entry with the event;
/// - a key has one effect within the ledger's retention, whichever way it comes in;
/// - notes take effect in the order they were given, and with respect to publishes and batches too.
pub trait Hub: Send + Sync {
    /// Takes in events of local services. One answer per draft, in order.
    fn publish(&self, drafts: Vec<Draft>) -> BoxFuture<'_, Result<Vec<Published>, Error>>;

    /// Takes in a peer's batch. The reply's times are left for the caller to fill in.
    fn apply(&self, batch: Batch) -> BoxFuture<'_, Result<Reply, Error>>;

    /// Writes notes down. Durable when it returns.
    fn note(&self, notes: Vec<Note>) -> BoxFuture<'_, Result<(), Error>>;

    /// Writes a note down with whatever is written next. Dropped if the hub is busy: only for what can be lost
    /// without harm, because it is found out again.
    fn note_lazily(&self, note: Note);

    /// Reads on after `offset`.
    fn reader(&self, after: u64) -> Box<dyn Reader>;

    /// What is durable, to wait for more. To look, use [`end`](Self::end): who borrows from this and borrows again before
    /// letting go, while the writer waits to move the head, stands still for ever, and the writer with him.
    fn head(&self) -> watch::Receiver<Head>;

    /// What is durable now.
    fn end(&self) -> Head {
        *self.head().borrow()
    }

    /// As [`head`](Self::head), over a channel of one's own, for those who wait long: on a shared one tokio draws by
    /// chance whom it wakes first, and a simulated run could not be repeated.
    fn follow_head(&self) -> watch::Receiver<Head> {
        self.head()
    }

    /// The log begins after this offset.
    fn base(&self) -> u64;

    /// What the region keeps besides events; at most one sync ahead of what is durable.
    fn state(&self) -> Arc<RwLock<State>>;

    /// The event of a dead letter.
    fn letter_event(&self, id: u64) -> BoxFuture<'_, Result<Option<Record>, Error>>;

    /// Bytes of the log on disk.
    fn log_bytes(&self) -> u64;

    /// From now on services get [`Error::Draining`]; peers and links go on.
    fn set_draining(&self, draining: bool);

    fn is_draining(&self) -> bool;

    /// What the hub found broken of its own promises since the last call: bugs.
    fn take_violations(&self) -> Vec<Violation> {
        Vec::new()
    }

    /// Drops what is past retention. Links still need everything after `needed_after`.
    fn retain(&self, needed_after: u64);
}

/// A place in the log that moves on.
pub trait Reader: Send {
    /// The next records, at most `events` and about `bytes`; none at the end of the log.
    fn next(&mut self, events: usize, bytes: usize) -> BoxFuture<'_, Result<Vec<Record>, ReadError>>;

    /// Goes to the place after `offset`.
    fn seek(&mut self, after: u64);

    /// The changes between the records, from where the reader stands to the end, that `keep` wants; for those who
    /// explain.
    fn changes<'a>(
        &'a mut self,
        keep: &'a mut (dyn FnMut(&Change) -> bool + Send),
    ) -> BoxFuture<'a, Result<Vec<Change>, ReadError>>;
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Retention took what was asked for; the log begins after `base`, where `mark` stands.
    #[error("the log begins after offset {base}")]
    Dropped { base: u64, mark: Mark },
    #[error("the log cannot be read: {0}")]
    Failed(String),
}
