//! A region's own object store, as services see it through S3's protocol. What agents ask of stores, which never replaces
//! anything, is [`super::objects`].

use std::{collections::BTreeMap, ops::Range};

use futures::future::BoxFuture;

use super::objects::{Body, Location, Stat, Sums};
use crate::core::{link::Failure, object::Checksum, time::Timestamp};

/// Parts of an upload at most (S3).
pub const PARTS_MAX: u32 = 10_000;

/// Bytes of every part but the last at least (S3).
pub const PART_BYTES_MIN: u64 = 5 << 20;

/// Why a call did not do what was asked. Nothing was changed, but by [`Error::Failure`] as it says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the bucket does not exist")]
    NoBucket,
    #[error("the bucket is not empty")]
    NotEmpty,
    #[error("nothing stands there")]
    NoObject,
    #[error("the upload is not known")]
    NoUpload,
    /// The condition that came with the call does not hold.
    #[error("the condition does not hold")]
    Condition,
    /// A part that is not there, or not the one that was named.
    #[error("part {0} is not there, or not as named")]
    NoPart(u32),
    /// What is kept of a part is not what was taken in. The upload stays, and takes the part again.
    #[error("part {0} is damaged: it has to be uploaded again")]
    DamagedPart(u32),
    #[error("parts are not in ascending order")]
    Order,
    #[error("part {0} is smaller than 5 MiB and not the last")]
    TooSmall(u32),
    /// What arrived is not what was announced.
    #[error("what arrived is not what was sent: {0}")]
    Damaged(String),
    #[error("{0}")]
    Invalid(&'static str),
    #[error(transparent)]
    Failure(#[from] Failure),
}

/// An object as a service sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub stat: Stat,
    /// Without quotes: the MD5 in hex, or that of the parts' MD5s, `-` and their number.
    pub etag: String,
}

/// What must hold for a change, judged in the very transaction that makes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    #[default]
    Always,
    /// Nothing stands there.
    Absent,
    /// What stands there has this ETag.
    Is(String),
}

/// A kind of checksum that is cheap; SHA-256 is always computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Crc {
    Crc32,
    Crc32c,
    Crc64Nvme,
}

impl Crc {
    /// The kind of a checksum, if it is a CRC.
    pub fn of(sum: &Checksum) -> Option<Crc> {
        match sum {
            Checksum::Sha256(_) => None,
            Checksum::Crc32(_) => Some(Crc::Crc32),
            Checksum::Crc32c(_) => Some(Crc::Crc32c),
            Checksum::Crc64Nvme(_) => Some(Crc::Crc64Nvme),
        }
    }
}

/// Says after the last byte what its sender said of them all: trailers.
pub type Late = Box<dyn FnOnce() -> Result<Sums, String> + Send>;

/// What is said of bytes before they arrive. Bytes that do not fit are refused and leave nothing behind.
#[derive(Default)]
pub struct Expected {
    pub size: Option<u64>,
    pub md5: Option<[u8; 16]>,
    pub sums: Sums,
    /// CRCs to compute besides those in `sums`, and to keep.
    pub kinds: Vec<Crc>,
    pub late: Option<Late>,
    /// Of an upload in parts: checksums of the parts' checksums of the same kind, one after the other.
    pub of_parts: Sums,
}

/// One part of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub number: u32,
    pub size: u64,
    pub md5: [u8; 16],
    pub sums: Sums,
    pub modified: Timestamp,
}

/// A part that an object is to be made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    pub number: u32,
    /// As the part's upload was answered; `None`: whatever is there.
    pub md5: Option<[u8; 16]>,
    /// Every one of these must be known of the part.
    pub sums: Sums,
}

/// An upload in parts that was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    pub id: String,
    pub at: Location,
    pub begun: Timestamp,
    /// Computed and kept for each part and for the whole.
    pub kinds: Vec<Crc>,
}

/// Which keys of a bucket to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    pub prefix: String,
    /// Keys that have it after the prefix are gathered into one common prefix.
    pub delimiter: Option<String>,
    /// Only what comes after this, in the order of bytes.
    pub after: String,
    pub limit: usize,
}

/// One page of a listing, in the order of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub prefixes: Vec<String>,
    /// There is more: `after` of the next page.
    pub next: Option<String>,
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Page { items: Vec::new(), prefixes: Vec::new(), next: None }
    }
}

/// A new object's attributes and the condition for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intent {
    /// See [`Stat::attributes`].
    pub attributes: BTreeMap<String, String>,
    pub condition: Condition,
}

/// The contract of [`super::objects::Objects`] holds here too: what was answered is durable, readers see an object whole
/// or not at all, of writers under a condition one wins. Buckets exist from the first write.
pub trait Store: Send + Sync {
    /// Name and age of every bucket, by name.
    fn buckets(&self) -> BoxFuture<'_, Result<Vec<(String, Timestamp)>, Error>>;

    /// Age of a bucket; `None` if it does not exist.
    fn bucket<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Timestamp>, Error>>;

    /// Whether it is a new one.
    fn create_bucket<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool, Error>>;

    /// Only an empty one goes, also without uploads.
    fn delete_bucket<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), Error>>;

    fn find<'a>(&'a self, at: &'a Location) -> BoxFuture<'a, Result<Option<Object>, Error>>;

    /// Bytes of the version that was found; [`Error::NoObject`] if it is gone.
    fn open<'a>(&'a self, at: &'a Location, version: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Body, Error>>;

    /// Replaces what stands there, if the condition holds.
    fn write<'a>(
        &'a self,
        at: &'a Location,
        intent: Intent,
        expected: Expected,
        body: Body,
    ) -> BoxFuture<'a, Result<Object, Error>>;

    /// Whether something stood there.
    fn remove<'a>(&'a self, at: &'a Location, condition: Condition) -> BoxFuture<'a, Result<bool, Error>>;

    fn list<'a>(&'a self, bucket: &'a str, query: &'a Query) -> BoxFuture<'a, Result<Page<(String, Object)>, Error>>;

    fn begin_upload<'a>(
        &'a self,
        at: &'a Location,
        attributes: BTreeMap<String, String>,
        kinds: Vec<Crc>,
    ) -> BoxFuture<'a, Result<Begun, Error>>;

    fn upload<'a>(&'a self, at: &'a Location, id: &'a str) -> BoxFuture<'a, Result<Begun, Error>>;

    /// Replaces a part of the same number.
    fn write_part<'a>(
        &'a self,
        at: &'a Location,
        id: &'a str,
        number: u32,
        expected: Expected,
        body: Body,
    ) -> BoxFuture<'a, Result<Part, Error>>;

    /// Makes the object. The upload stays if that fails. One that made the object that stands there answers it again.
    fn complete<'a>(
        &'a self,
        at: &'a Location,
        id: &'a str,
        parts: Vec<Chosen>,
        expected: Expected,
        condition: Condition,
    ) -> BoxFuture<'a, Result<Object, Error>>;

    fn abandon<'a>(&'a self, at: &'a Location, id: &'a str) -> BoxFuture<'a, Result<(), Error>>;

    /// Parts after the number `after`, at most `limit`.
    fn parts<'a>(
        &'a self,
        at: &'a Location,
        id: &'a str,
        after: u32,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Part>, Error>>;

    /// Every upload of a bucket, by key and age; at most [`UPLOADS_MAX`] of services and of peers each exist.
    fn uploads<'a>(&'a self, bucket: &'a str) -> BoxFuture<'a, Result<Vec<Begun>, Error>>;
}

/// Uploads that services have begun and neither ended nor abandoned, and such of peers; more of either are refused.
pub const UPLOADS_MAX: usize = 10_000;
