//! An event: as a draft before the hub took it, as a record in the log and on the wire, as an envelope for readers.

use super::{key::PayloadHash, time::Timestamp};

/// A validated publish of a local service, before the hub gave it an offset and an id.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// The idempotency key found in the event; `None` means "origin region + id", which only the hub can fill in.
    pub key: Option<String>,
    pub source: String,
    pub detail_type: String,
    /// The text of a JSON object, as the producer wrote it but for a stripped stamp.
    pub detail: String,
    /// The producer's own time of the event; `None` means the time of acceptance.
    pub time: Option<Timestamp>,
    pub resources: Vec<String>,
    pub payload_hash: PayloadHash,
    /// A stamp was found in `detail` and taken out (inherited from a received event, or forged).
    pub stamp_stripped: bool,
}
