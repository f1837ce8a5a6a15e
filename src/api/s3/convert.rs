//! Between S3's words and the store's.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures::{StreamExt, TryStreamExt};
use s3s::{
    S3Error, S3ErrorCode, S3Result, StdError,
    crypto::{Checksum as _, Sha1},
    dto::{self, ETag, ETagCondition, StreamingBlob},
    s3_error,
};

use crate::{
    core::{
        link::Failure,
        object::{Checksum, Sums},
        time::Timestamp,
    },
    ports::{
        objects::Body,
        store::{Condition, Crc, Error},
    },
};

/// What goes with an object besides its metadata.
const ATTRIBUTES: [&str; 6] =
    ["cache-control", "content-disposition", "content-encoding", "content-language", "content-type", "expires"];

const METADATA: &str = "x-amz-meta-";

/// Bytes of names and values of an object's metadata (S3), and of all that goes with it.
const METADATA_BYTES_MAX: usize = 2 << 10;
const ATTRIBUTES_BYTES_MAX: usize = 8 << 10;

/// An error of the store in S3's words.
pub fn error(error: Error) -> S3Error {
    let text = error.to_string();
    let code = match error {
        Error::NoBucket => S3ErrorCode::NoSuchBucket,
        Error::NotEmpty => S3ErrorCode::BucketNotEmpty,
        Error::NoObject => S3ErrorCode::NoSuchKey,
        Error::NoUpload => S3ErrorCode::NoSuchUpload,
        Error::Condition => S3ErrorCode::PreconditionFailed,
        Error::NoPart(_) => S3ErrorCode::InvalidPart,
        Error::Order => S3ErrorCode::InvalidPartOrder,
        Error::TooSmall(_) => S3ErrorCode::EntityTooSmall,
        Error::Damaged(_) => S3ErrorCode::BadDigest,
        Error::Invalid(_) => S3ErrorCode::InvalidArgument,
        Error::Failure(Failure::Refused(_)) => S3ErrorCode::IncompleteBody,
        Error::Failure(Failure::Throttled { .. }) => S3ErrorCode::SlowDown,
        Error::Failure(Failure::Unanswered(_)) => S3ErrorCode::InternalError,
    };
    let mut error = S3Error::with_message(code.clone(), text);
    if code == S3ErrorCode::SlowDown {
        error.set_status_code(StatusCode::SERVICE_UNAVAILABLE);
    }
    error
}

/// What goes with an object, as its headers say it.
///
/// # Errors
/// It is more than S3 takes, or no text.
pub fn attributes(headers: &HeaderMap) -> S3Result<BTreeMap<String, String>> {
    let mut attributes = BTreeMap::new();
    let (mut metadata_bytes, mut bytes) = (0, 0);
    for (name, value) in headers {
        let name = name.as_str();
        let metadata = name.strip_prefix(METADATA);
        if metadata.is_none() && !ATTRIBUTES.contains(&name) {
            continue;
        }
        let Ok(value) = std::str::from_utf8(value.as_bytes()) else {
            return Err(s3_error!(InvalidArgument, "{name}: is no text"));
        };
        let value = match name {
            "content-encoding" => without_chunks(value),
            _ => value.to_owned(),
        };
        if value.is_empty() && metadata.is_none() {
            continue;
        }
        metadata_bytes += metadata.map_or(0, |name| name.len() + value.len());
        bytes += name.len() + value.len();
        // Of one name several values may come; S3 joins them.
        let joined: &mut String = attributes.entry(name.to_owned()).or_default();
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(&value);
    }
    match metadata_bytes > METADATA_BYTES_MAX || bytes > ATTRIBUTES_BYTES_MAX {
        true => Err(s3_error!(MetadataTooLarge)),
        false => Ok(attributes),
    }
}

/// `aws-chunked` is how it came, not what it is.
fn without_chunks(encoding: &str) -> String {
    let kept: Vec<&str> =
        encoding.split(',').map(str::trim).filter(|one| !one.is_empty() && *one != "aws-chunked").collect();
    kept.join(",")
}

/// The headers of an object that is read.
pub fn headers(attributes: &BTreeMap<String, String>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("binary/octet-stream"));
    for (name, value) in attributes {
        // What came as a header is one.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value.as_bytes())) {
            headers.insert(name, value);
        }
    }
    headers
}

/// Headers that a reader wants to see instead of the object's: `response-content-type` and the like.
///
/// # Errors
/// A value that no header can have.
pub fn overrides(uri: &Uri) -> S3Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        let Some(name) = name.strip_prefix("response-").filter(|name| ATTRIBUTES.contains(name)) else { continue };
        match (HeaderName::try_from(name), HeaderValue::try_from(&*value)) {
            (Ok(name), Ok(value)) => drop(headers.insert(name, value)),
            _ => return Err(s3_error!(InvalidArgument, "response-{name}: no header can have this value")),
        }
    }
    Ok(headers)
}

pub fn etag(etag: &str) -> ETag {
    ETag::Strong(etag.to_owned())
}

pub fn time(time: Timestamp) -> dto::Timestamp {
    (UNIX_EPOCH + Duration::from_nanos(time.0)).into()
}

pub fn size(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// The condition of a change.
///
/// # Errors
/// A condition that S3 does not know either.
pub fn condition(if_match: Option<&ETagCondition>, if_none_match: Option<&ETagCondition>) -> S3Result<Condition> {
    match (if_match, if_none_match) {
        (None, None) => Ok(Condition::Always),
        (None, Some(condition)) if condition.is_any() => Ok(Condition::Absent),
        (Some(condition), None) if !condition.is_any() => {
            Ok(condition.as_etag().map_or(Condition::Always, |etag| Condition::Is(etag.value().to_owned())))
        }
        _ => Err(s3_error!(NotImplemented, "a change takes `If-Match: ETAG` or `If-None-Match: *`")),
    }
}

/// Checksums in S3's fields.
#[derive(Default)]
pub struct Fields {
    pub crc32: Option<String>,
    pub crc32c: Option<String>,
    pub crc64nvme: Option<String>,
    pub sha256: Option<String>,
}

impl Fields {
    pub fn of(sums: &Sums) -> Self {
        let mut fields = Fields::default();
        for sum in sums.iter() {
            match sum {
                Checksum::Sha256(sum) => fields.sha256 = Some(STANDARD.encode(sum)),
                Checksum::Crc32(sum) => fields.crc32 = Some(STANDARD.encode(sum.to_be_bytes())),
                Checksum::Crc32c(sum) => fields.crc32c = Some(STANDARD.encode(sum.to_be_bytes())),
                Checksum::Crc64Nvme(sum) => fields.crc64nvme = Some(STANDARD.encode(sum.to_be_bytes())),
            }
        }
        fields
    }

    /// # Errors
    /// A field is no checksum.
    pub fn sums(&self) -> Result<Sums, String> {
        let mut sums = Sums::default();
        if let Some(text) = &self.crc32 {
            sums.add(Checksum::Crc32(u32::from_be_bytes(decode(text)?)));
        }
        if let Some(text) = &self.crc32c {
            sums.add(Checksum::Crc32c(u32::from_be_bytes(decode(text)?)));
        }
        if let Some(text) = &self.crc64nvme {
            sums.add(Checksum::Crc64Nvme(u64::from_be_bytes(decode(text)?)));
        }
        if let Some(text) = &self.sha256 {
            sums.add(Checksum::Sha256(decode(text)?));
        }
        Ok(sums)
    }
}

/// What trailers say of the bytes before them.
pub fn trailed(trailers: &HeaderMap) -> Fields {
    let field = |name: &str| trailers.get(format!("x-amz-checksum-{name}"))?.to_str().ok().map(str::to_owned);
    Fields { crc32: field("crc32"), crc32c: field("crc32c"), crc64nvme: field("crc64nvme"), sha256: field("sha256") }
}

/// Exactly `N` bytes in base64.
pub fn decode<const N: usize>(text: &str) -> Result<[u8; N], String> {
    let bytes = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| format!("`{text}` is not {N} bytes in base64"))
}

/// The kind of checksum that S3 names so, if it has to be computed apart.
///
/// # Errors
/// One that S3 does not know.
pub fn crc(name: &str) -> S3Result<Option<Crc>> {
    match name.to_ascii_uppercase().as_str() {
        "CRC32" => Ok(Some(Crc::Crc32)),
        "CRC32C" => Ok(Some(Crc::Crc32c)),
        "CRC64NVME" => Ok(Some(Crc::Crc64Nvme)),
        "SHA256" | "SHA1" => Ok(None),
        _ => Err(s3_error!(InvalidArgument, "checksums are CRC32, CRC32C, CRC64NVME, SHA1 and SHA256")),
    }
}

/// A request's body for the store.
pub fn incoming(body: Option<StreamingBlob>) -> Body {
    match body {
        Some(body) => body.map_err(|error| broken(&error)).boxed(),
        None => futures::stream::empty().boxed(),
    }
}

/// Why a body ended: whatever it was, it came from the caller.
fn broken(error: &StdError) -> Failure {
    Failure::Refused(error.to_string())
}

/// The SHA-1 of bytes that pass. It is judged and not kept: the store computes what is better.
#[derive(Clone)]
pub struct Sha1Watch(Arc<Mutex<Sha1>>);

impl Sha1Watch {
    /// The same body, watched.
    pub fn begin(body: Body) -> (Body, Sha1Watch) {
        let watch = Sha1Watch(Arc::new(Mutex::new(Sha1::new())));
        let watching = watch.clone();
        let body =
            body.inspect_ok(move |bytes| watching.0.lock().unwrap_or_else(PoisonError::into_inner).update(bytes));
        (body.boxed(), watch)
    }

    /// Whether the bytes so far have this SHA-1, in base64.
    pub fn check(&self, announced: &str) -> Result<(), String> {
        let sha1 =
            std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), Sha1::new()).finalize();
        match decode::<20>(announced)? == sha1 {
            true => Ok(()),
            false => Err(format!("the SHA-1 is {}, not {announced}", STANDARD.encode(sha1))),
        }
    }
}

/// A body of the store for an answer.
pub fn outgoing(body: Body) -> StreamingBlob {
    let frames = http_body_util::StreamBody::new(body.map_ok(hyper::body::Frame::data));
    s3s::Body::http_body_unsync(frames).into()
}
