//! What regions ask each other about who serves users.

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::core::{
    link::Failure,
    region::{
        View,
        proof::Report,
        vote::{Message, Vote},
    },
};

/// The content type of questions and answers where they go over HTTP.
pub const CONTENT_TYPE: &str = "application/json";

/// Bytes of a question or an answer: a document with its log, and what is known of each of many peers.
pub const BYTES_MAX: usize = 1 << 20;

/// What one region asks another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// Whether it has the document with this digest; asked all the time, so that what is decided gets around.
    Same { digest: u64 },
    /// A round of voting.
    Vote(Box<Message>),
    /// What it knows, for a proof.
    Report,
    /// To compare its documents with a peer's now.
    Compare { with: String },
}

/// Why a region does not answer a question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Refused(String),
    /// It could not write its answer down: it says nothing.
    #[error("{0}")]
    Unavailable(String),
}

/// What it says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Same,
    /// Its own, where it is another one.
    Differs(Box<View>),
    Vote(Box<Vote>),
    Report(Box<Report>),
    /// It will, in a round after this many; `None` where there are no documents.
    Compares {
        begun: Option<u64>,
    },
}

/// Another region. Every call ends within its time-out; what a vote says is durable there.
pub trait RemoteRegion: Send + Sync {
    fn ask(&self, question: Question) -> BoxFuture<'_, Result<Answer, Failure>>;
}

/// A region that is asked.
pub trait Regions: Send + Sync {
    fn answer(&self, question: Question) -> BoxFuture<'_, Result<Answer, Error>>;
}
