//! A queue of envelopes with the contract of SQS: at least once, in no order, each message hidden for a while after it
//! was received.

use std::{collections::BTreeMap, time::Duration};

use futures::future::BoxFuture;

use crate::core::{link::Failure, time::Timestamp, trace};

/// Messages that one call may carry, in either direction (SQS).
pub const CALL_MESSAGES_MAX: usize = 10;

/// A message as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The same each time that it is received.
    pub id: String,
    pub body: String,
    /// Names this reception; later ones have others, and an old one may no longer count.
    pub receipt: String,
    /// When the queue took it in.
    pub sent: Timestamp,
    /// How often it was received, this time included; a hint.
    pub received: u32,
    pub attributes: BTreeMap<String, String>,
    /// X-Ray trace header.
    pub trace: Option<String>,
}

impl Message {
    /// The id of the trace that the event belongs to, for logs.
    pub fn trace_id(&self) -> Option<String> {
        self.trace.as_deref().and_then(trace::id)
    }
}

/// A message to send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    pub body: String,
    /// Not to be received before; at most 15 minutes.
    pub delay: Duration,
    pub attributes: BTreeMap<String, String>,
    pub trace: Option<String>,
}

/// How many messages there are; estimates, late by up to a minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    pub visible: u64,
    pub in_flight: u64,
    pub delayed: u64,
}

impl Depth {
    pub fn total(self) -> u64 {
        self.visible + self.in_flight + self.delayed
    }
}

/// Contract, checked by `conformance::queue`:
/// - a message that was sent is received until it was deleted, or until the queue's retention ends;
/// - after a reception it is hidden for `visibility`, and then received again, possibly by somebody else;
/// - now and then a message is received twice, or deleted and received once more;
/// - what is said of one entry of a call (`Err`) says nothing of the others.
pub trait Queue: Send + Sync {
    /// At most `max` messages (and [`CALL_MESSAGES_MAX`]); waits up to `wait` for the first.
    fn receive(&self, max: usize, wait: Duration, visibility: Duration)
    -> BoxFuture<'_, Result<Vec<Message>, Failure>>;

    /// One result per receipt, in order.
    fn delete(&self, receipts: Vec<String>) -> BoxFuture<'_, Result<Vec<Result<(), Failure>>, Failure>>;

    /// Hides the messages for `visibility` from now on; zero gives them back. One result per receipt, in order.
    fn extend(
        &self,
        receipts: Vec<String>,
        visibility: Duration,
    ) -> BoxFuture<'_, Result<Vec<Result<(), Failure>>, Failure>>;

    /// One result per message, in order.
    fn send(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<Vec<Result<(), Failure>>, Failure>>;

    fn depth(&self) -> BoxFuture<'_, Result<Depth, Failure>>;
}
