//! What one request changed, and how deltas and documents are written as bytes.
//!
//! Both are postcard behind one byte for the version; every map is sorted, so two equal documents have the same bytes.
//! Fields and variants are only ever appended, with a new version: an older build then refuses the bytes and says so.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Clock, Dot, Replica, Request,
    document::{Cell, Document, Done, Payload, Tally},
    op::Slot,
};
use crate::core::time::Timestamp;

/// The form of deltas and documents that this build writes.
pub const VERSION: u8 = 1;

/// One request's change to a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    pub replica: Replica,
    /// The replica's last request to this document before.
    pub from: u64,
    pub to: u64,
    /// When, by the region's hybrid clock.
    pub at: Timestamp,
    pub adds: Vec<(Cell, Payload)>,
    pub removes: Vec<(Cell, Vec<Dot>)>,
    /// The replica's own sums.
    pub tallies: Vec<(Slot, Tally)>,
    /// All that the clock covers was taken away.
    pub deleted: Option<Clock>,
    pub bases: Vec<(Slot, Replica, Tally)>,
    pub request: Option<(Request, Done)>,
}

/// Bytes that this build cannot read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("written in form {0}; this build reads form {VERSION}: upgrade the agent")]
    Version(u8),
    #[error("damaged: {0}")]
    Damaged(String),
}

impl Delta {
    pub fn dot(&self) -> Dot {
        Dot { replica: self.replica, number: self.to }
    }

    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// # Errors
    /// Bytes that are no delta of a form that this build knows.
    pub fn decode(bytes: &[u8]) -> Result<Delta, Unreadable> {
        decode(bytes)
    }
}

impl Document {
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// # Errors
    /// Bytes that are no document of a form that this build knows.
    pub fn decode(bytes: &[u8]) -> Result<Document, Unreadable> {
        decode(bytes)
    }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Nothing of it can fail: there is room, and every length is known.
    postcard::to_extend(value, vec![VERSION]).unwrap_or_default()
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Unreadable> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => match postcard::take_from_bytes(rest) {
            Ok((value, [])) => Ok(value),
            Ok((_, more)) => Err(Unreadable::Damaged(format!("{} bytes too many", more.len()))),
            Err(error) => Err(Unreadable::Damaged(error.to_string())),
        },
        Some((other, _)) => Err(Unreadable::Version(*other)),
        None => Err(Unreadable::Damaged("no bytes".to_owned())),
    }
}
