//! What regions ask each other about who serves users.

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::core::{
    link::Failure,
    region::{
        Kept, View,
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

    /// Whether its last answer tells that the region's agents live.
    fn is_alive(&self) -> bool {
        true
    }

    /// Whether it answers for itself only while its agents live.
    fn needs_agents(&self) -> bool {
        true
    }
}

/// Where a region keeps its vote, and what follows from what is decided.
///
/// Contract: of any number of writes of one version exactly one takes effect; what was answered is durable, and a later
/// `load` shows it; a write that was not answered may have taken effect.
pub trait RegionStore: Send + Sync {
    /// What is kept, and the version that the next write of it names.
    fn load(&self) -> BoxFuture<'_, Result<(Kept, u64), Error>>;

    /// Writes it where the version still is this one; `false` where it is not, and then nothing was changed.
    fn store<'a>(&'a self, kept: &'a Kept, version: u64) -> BoxFuture<'a, Result<bool, Error>>;

    /// Waits until what `load` showed last is durable.
    fn settled(&self) -> BoxFuture<'_, Result<(), Error>>;

    /// Where the region is now, in what [`Report`] counts: the end of its log.
    fn head(&self) -> u64;

    /// From now on services are refused, or not any more.
    fn set_draining(&self, draining: bool);
}

/// A region that is asked.
pub trait Regions: Send + Sync {
    fn answer(&self, question: Question) -> BoxFuture<'_, Result<Answer, Error>>;
}
