//! A region's object store, as an agent sees it: its own, and those of its peers.

use std::{collections::BTreeMap, ops::Range, pin::Pin};

use bytes::Bytes;
use futures::{Stream, future::BoxFuture};
use serde::{Deserialize, Serialize};

use crate::core::link::Failure;
pub use crate::core::object::{Checksum, Location, Stat, Sums};

/// Bytes on their way. An error ends them.
pub type Body = Pin<Box<dyn Stream<Item = Result<Bytes, Failure>> + Send>>;

/// Why a call did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Reading: what stands there now is not what was pinned, or nothing does. Uploading: the upload is not known.
    #[error("it is not there any more")]
    Gone,
    /// Writing: something stands there already, and it stays.
    #[error("something else stands there")]
    Exists,
    /// Writing: what arrived is not what was announced. Nothing was kept.
    #[error("what arrived is not what was sent: {0}")]
    Damaged(String),
    #[error(transparent)]
    Failure(#[from] Failure),
}

/// What is about to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announced {
    pub size: u64,
    /// Of all the bytes, as far as known. The store refuses bytes that do not fit.
    pub sums: Sums,
    /// What goes with the object: `content-type`, `cache-control`, … and `x-amz-meta-…`, in lower case.
    pub attributes: BTreeMap<String, String>,
}

impl Announced {
    /// A copy of what was found.
    pub fn copy_of(stat: &Stat) -> Self {
        Announced { size: stat.size, sums: stat.sums.clone(), attributes: stat.attributes.clone() }
    }
}

/// An upload in parts that was begun, perhaps long ago.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    pub id: String,
    /// Parts that are there already, by number (from 1), with their sizes.
    pub parts: BTreeMap<u32, u64>,
}

/// What agents say to each other of objects, where the URL does not say it. Bodies go as they are.
pub mod wire {
    use super::{Announced, Deserialize, Location, Serialize};

    /// Bytes of any of these, and of an [`Announced`] before a body, at most.
    pub const BYTES_MAX: u64 = 64 << 10;

    /// `POST /peer/v1/objects/begin`.
    #[derive(Debug, Serialize, Deserialize)]
    pub struct Begin {
        pub at: Location,
        pub announced: Announced,
        pub tag: String,
    }

    /// `POST /peer/v1/objects/finish`.
    #[derive(Debug, Serialize, Deserialize)]
    pub struct Finish {
        pub at: Location,
        pub upload: String,
        pub parts: u32,
        pub announced: Announced,
    }

    /// `POST /peer/v1/objects/abort`.
    #[derive(Debug, Serialize, Deserialize)]
    pub struct Abort {
        pub at: Location,
        pub upload: String,
    }

    /// The `code` of an error that is more than an error.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum Code {
        Gone,
        Exists,
        Damaged,
    }
}

/// Contract, checked by `conformance::objects`:
/// - what `put` and `finish` answered is durable;
/// - readers see an object whole or not at all; `read` answers bytes of the version that was pinned, or [`Error::Gone`];
/// - `put` and `finish` never replace anything: of several writers of one key one wins, the others get [`Error::Exists`];
/// - bytes that do not fit the announced size or checksums are refused and leave nothing behind;
/// - memory does not grow with an object's size;
/// - [`Failure::Unanswered`] says nothing: what was asked may have been done.
pub trait Objects: Send + Sync {
    /// What stands there; `None` where nothing does.
    fn stat<'a>(&'a self, at: &'a Location) -> BoxFuture<'a, Result<Option<Stat>, Error>>;

    /// Bytes of the version that `stat` found.
    fn read<'a>(&'a self, at: &'a Location, version: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Body, Error>>;

    /// Writes an object where there is none.
    fn put<'a>(&'a self, at: &'a Location, announced: Announced, body: Body) -> BoxFuture<'a, Result<Stat, Error>>;

    /// Begins an upload in parts, or goes on with the one of the same `tag` (which stands for the very bytes: another
    /// version of the source is another tag). Only the agents of peers and this one begin uploads with tags.
    fn begin<'a>(
        &'a self,
        at: &'a Location,
        announced: &'a Announced,
        tag: &'a str,
    ) -> BoxFuture<'a, Result<Upload, Error>>;

    /// One part; every one but the last has the same size, 5 MiB at least. A part that is there already is replaced.
    fn put_part<'a>(
        &'a self,
        at: &'a Location,
        upload: &'a Upload,
        number: u32,
        size: u64,
        body: Body,
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// Makes the object of parts `1..=parts`, where there is none; the upload is gone then, also if it failed for good
    /// ([`Error::Damaged`], [`Error::Exists`]).
    fn finish<'a>(
        &'a self,
        at: &'a Location,
        upload: &'a Upload,
        parts: u32,
        announced: Announced,
    ) -> BoxFuture<'a, Result<Stat, Error>>;

    /// Forgets an upload and what it took in. One that is not known is no error.
    fn abort<'a>(&'a self, at: &'a Location, upload: &'a Upload) -> BoxFuture<'a, Result<(), Error>>;

    /// Copies the very object that `stat` found at `from` in the store of the other end, without its bytes passing
    /// through here, to where nothing stands. `None`: this store cannot; the bytes must be streamed.
    fn copy<'a>(
        &'a self,
        from: &'a Location,
        stat: &'a Stat,
        to: &'a Location,
    ) -> BoxFuture<'a, Result<Option<Stat>, Error>> {
        let _ = (from, stat, to);
        Box::pin(async { Ok(None) })
    }
}
