//! The receiving half of a link: what a region does with what its peers send.

use std::time::Duration;

use futures::future::BoxFuture;

use super::peer::{Hello, RepairRequest};
use crate::core::batch::{Batch, Reply};

/// Why nothing was taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not for us, or not from a peer of ours: another cluster, receiver or sender.
    #[error("{0}")]
    Foreign(String),
    /// The batch breaks the protocol.
    #[error("{0}")]
    Malformed(String),
    /// Later.
    #[error("{why}")]
    Unavailable { why: String, retry_after: Duration },
    /// An injected fault: there is to be no answer at all. Close the connection.
    #[error("cut off by an injected fault")]
    CutOff,
}

pub trait Inbox: Send + Sync {
    /// Takes a batch in; what the reply says is durable.
    fn deliver(&self, batch: Batch) -> BoxFuture<'_, Result<Reply, Refusal>>;

    /// Who we are and what we have of `asker`.
    fn hello<'a>(&'a self, asker: &'a str) -> BoxFuture<'a, Result<Hello, Refusal>>;

    /// Starts sending what we hold of `request.origin` to the asker; answers at once.
    fn request_repair(&self, request: RepairRequest) -> BoxFuture<'_, Result<(), Refusal>>;
}
