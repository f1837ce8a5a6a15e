//! The receiving half of a link: what a region does with what its peers send.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};

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

/// A peer's call besides batches, let in.
#[derive(Clone, Default)]
pub struct Admission {
    /// An injected fault: it is done, and its answer must not arrive. Close the connection.
    pub answer_lost: bool,
    /// Whether an injected fault cuts the connection by now: asked while bytes go over it.
    pub cut: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
}

impl Admission {
    pub fn is_cut(&self) -> bool {
        self.cut.as_ref().is_some_and(|cut| cut())
    }
}

pub trait Inbox: Send + Sync {
    /// Whether a call of `asker` may go on, besides those below; before anything is done.
    fn admit<'a>(&'a self, cluster: &'a str, asker: &'a str) -> BoxFuture<'a, Result<Admission, Refusal>> {
        let _ = (cluster, asker);
        async { Ok(Admission::default()) }.boxed()
    }

    /// Takes a batch in; what the reply says is durable.
    fn deliver(&self, batch: Batch) -> BoxFuture<'_, Result<Reply, Refusal>>;

    /// Who we are and what we have of `asker`.
    fn hello<'a>(&'a self, asker: &'a str) -> BoxFuture<'a, Result<Hello, Refusal>>;

    /// Starts sending what we hold of `request.origin` to the asker; answers at once.
    fn request_repair(&self, request: RepairRequest) -> BoxFuture<'_, Result<(), Refusal>>;
}
