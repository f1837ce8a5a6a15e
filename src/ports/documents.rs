//! A region's documents: as services and operators use them, and as another region asks for them.

use std::{collections::BTreeMap, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use serde::{Deserialize, Serialize};

use crate::core::{
    link::Failure,
    state::{
        Clock, Key, Schemas,
        digest::{Digest, Range},
        op::{Op, Refused},
        standing::{Slept, Standing, Taken},
        view::View,
    },
};

/// The content type of questions and answers where they go over HTTP.
pub const CONTENT_TYPE: &str = "application/x-hubweave-documents";

/// Bytes that an answer to a peer may have, about; one document may go beyond it.
pub const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Documents that one question may name.
pub const KEYS_MAX: usize = 256;

/// Documents in one page of a listing.
pub const PAGE_MAX: usize = 1_000;

/// Why it was not done; nothing was taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("{why}")]
    Unavailable { why: String, retry_after: Duration },
    /// The store failed: the agent stops. What was on its way may or may not be durable.
    #[error("the documents failed: {0}")]
    Failed(String),
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    Done,
    /// The key of the request is known: it was done before, here or in another region.
    Duplicate,
    /// There was nothing to delete.
    Nothing,
}

impl Applied {
    pub fn as_str(self) -> &'static str {
        match self {
            Applied::Done => "applied",
            Applied::Duplicate => "duplicate",
            Applied::Nothing => "nothing",
        }
    }
}

/// A document in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    pub key: Key,
    pub digest: Digest,
}

/// Documents of a listing, and behind which one it goes on.
pub type Page = (Vec<Listed>, Option<Key>);

/// What a region has in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Total {
    /// Tombstones not counted.
    pub documents: u64,
    pub digest: Digest,
}

/// What services and operators ask of the documents of their region. An acknowledged request is durable.
/// What became of a request, and what its document shows then.
pub type Seen = (Applied, Result<Option<View>, Error>);

pub trait Documents: Send + Sync {
    /// The configured types.
    fn schemas(&self) -> &Schemas;

    fn get(&self, key: Key) -> BoxFuture<'_, Result<Option<View>, Error>>;

    /// Does all of the operations or none. `request` is the request's idempotency key.
    fn apply(&self, key: Key, ops: Vec<Op>, request: Option<String>) -> BoxFuture<'_, Result<Applied, Error>>;

    /// As [`apply`](Self::apply), and what the document shows then: it is done, whatever becomes of the look at it.
    fn apply_and_show(&self, key: Key, ops: Vec<Op>, request: Option<String>) -> BoxFuture<'_, Result<Seen, Error>> {
        async move {
            let applied = self.apply(key.clone(), ops, request).await?;
            Ok((applied, self.get(key).await))
        }
        .boxed()
    }

    /// Takes everything away that this region has seen of the document.
    fn delete(&self, key: Key, request: Option<String>) -> BoxFuture<'_, Result<Applied, Error>>;

    fn total(&self) -> BoxFuture<'_, Result<Total, Error>>;

    /// Documents after `after` in an order of the region's own, at most [`PAGE_MAX`]; where to go on, if there is more.
    fn list(&self, after: Option<Key>) -> BoxFuture<'_, Result<Page, Error>>;

    /// How many documents each type has, by type.
    fn counts(&self) -> BTreeMap<String, u64>;

    /// What a peer asks.
    fn answer(&self, question: Question) -> BoxFuture<'_, Result<Answer, Error>>;
}

/// What one region asks another. Variants are only ever appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// The sums of these ranges, at most [`KEYS_MAX`].
    Sums(Vec<Range>),
    /// The documents of one bucket after `after`.
    List { bucket: u16, after: Option<Key> },
    /// The digests of these documents.
    Digests(Vec<Key>),
    /// These documents with all that they have seen, tombstones as well.
    Wholes(Vec<Key>),
    /// Whether the document has seen all of this.
    Includes(Vec<(Key, Clock)>),
    /// Who was evicted, as `of` knows it.
    Standing { of: String, standing: Standing },
    /// Whether the region was away for longer than deletes are remembered.
    Slept,
}

/// One answer for each thing asked, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Sums(Vec<Digest>),
    List {
        listed: Vec<Listed>,
        /// There is more behind the last one.
        more: bool,
    },
    Digests(Vec<Option<Digest>>),
    /// Documents encoded; `None` where there is none. What did not fit any more is left out at the end.
    Wholes(Vec<Option<Vec<u8>>>),
    Includes(Vec<bool>),
    Standing(Met),
    /// The last time, or never.
    Slept(Option<Slept>),
}

/// What a region says of evictions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Met {
    /// With what the asker knows.
    pub standing: Standing,
    /// The eviction after which this region began anew; 0 where there was none.
    pub term: u64,
    /// It merges and collects: it is not evicted, or is back, and knows that its documents are not too old.
    pub takes_part: bool,
    /// What it had of the asker when that one was evicted.
    pub taken: Option<Taken>,
}

/// The form of [`Question`] and [`Answer`] as bytes.
const VERSION: u8 = 1;

/// Writes a question or an answer: one byte for the version, then postcard.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![VERSION]).unwrap_or_default()
}

/// # Errors
/// Bytes of another form, or none at all.
pub fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(|error| error.to_string()),
        Some((other, _)) => Err(format!("written in form {other}; this build reads form {VERSION}")),
        None => Err("no bytes".to_owned()),
    }
}

/// Another region's documents. Every call ends within its time-out.
pub trait RemoteDocuments: Send + Sync {
    fn ask(&self, question: Question) -> BoxFuture<'_, Result<Answer, Failure>>;
}
