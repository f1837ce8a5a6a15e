//! Another region, as a link sees it.

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::core::{
    batch::{Batch, Reply},
    link::Failure,
    position::{Incarnation, Stray},
    time::Timestamp,
};

/// The content type of batches and replies where they go over HTTP.
pub const BATCH_CONTENT_TYPE: &str = "application/x-hubweave-batch";

/// Who a region is and what it has of the asker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    pub cluster: String,
    pub region: String,
    /// How far the region has each life of the asker.
    pub high_waters: Vec<(Incarnation, u64)>,
    pub now: Timestamp,
    /// Single events of the asker that the region got outside of their order.
    #[serde(default)]
    pub strays: Vec<Stray>,
}

/// A region asks what others hold of its own events: it was restored, or lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairRequest {
    pub cluster: String,
    /// The region that asks.
    pub asker: String,
    /// Whose events.
    pub origin: String,
    /// What the asker has: each life with its last offset. What lies beyond is to be sent.
    pub known: Vec<(Incarnation, u64)>,
    /// Comes back when everything was sent ([`Kind::Repaired`](crate::core::batch::Kind::Repaired)): a late end of what
    /// was asked before a restart must not be taken for the end of this.
    #[serde(default)]
    pub asked: u64,
}

/// Contract, checked by [`super::conformance::peer`]:
/// - `deliver` answers each record, or nothing is known of the batch ([`Failure::Unanswered`]) and sending it again is
///   harmless;
/// - every call ends within its time-out;
/// - the calls of one link may overtake each other.
pub trait Peer: Send + Sync {
    fn deliver(&self, batch: Batch) -> BoxFuture<'_, Result<Reply, Failure>>;

    fn hello(&self) -> BoxFuture<'_, Result<Hello, Failure>>;

    /// Asks the peer to send what it holds of `request.origin`. Answers when it is asked for; when it is done,
    /// a batch says so.
    fn request_repair(&self, request: RepairRequest) -> BoxFuture<'_, Result<(), Failure>>;
}
