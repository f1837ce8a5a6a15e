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
        Error::NoPart(_) | Error::DamagedPart(_) => S3ErrorCode::InvalidPart,
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

/// What comes behind this in a header's name is a kind of checksum, or one of [`NO_KINDS`].
const CHECKSUM: &str = "x-amz-checksum-";
const NO_KINDS: [&str; 3] = ["algorithm", "mode", "type"];

/// Kinds of checksums that are announced as trailers, in lower case.
///
/// # Errors
/// A header or a trailer has a kind that nobody would judge here.
pub fn announced(headers: &HeaderMap) -> S3Result<Vec<String>> {
    for kind in headers.keys().filter_map(|name| name.as_str().strip_prefix(CHECKSUM)) {
        if !NO_KINDS.contains(&kind) {
            crc(kind)?;
        }
    }
    let mut kinds = Vec::new();
    for value in headers.get_all("x-amz-trailer") {
        let value = value.to_str().map_err(|_| s3_error!(InvalidArgument, "x-amz-trailer: is no text"))?;
        let names = value.split(',').map(|name| name.trim().to_ascii_lowercase());
        kinds.extend(names.filter_map(|name| name.strip_prefix(CHECKSUM).map(str::to_owned)));
    }
    kinds.iter().try_for_each(|kind| crc(kind).map(drop))?;
    // One that is named by itself has to be there.
    let named = headers.get("x-amz-sdk-checksum-algorithm").and_then(|value| value.to_str().ok());
    if let Some(named) = named.map(str::to_ascii_lowercase) {
        crc(&named)?;
        if !kinds.contains(&named) && !headers.contains_key(format!("{CHECKSUM}{named}")) {
            return Err(s3_error!(
                InvalidRequest,
                "a checksum is named in x-amz-sdk-checksum-algorithm, and none is there"
            ));
        }
    }
    Ok(kinds)
}

/// Whether just those checksums came behind the bytes that were announced.
///
/// # Errors
/// Names one that did not come, or that nobody expects and judges.
pub fn as_announced(kinds: &[String], trailers: &HeaderMap) -> Result<(), String> {
    if let Some(kind) = kinds.iter().find(|kind| !trailers.contains_key(format!("{CHECKSUM}{kind}"))) {
        return Err(format!("the trailer {CHECKSUM}{kind} was announced and did not come"));
    }
    let mut came = trailers.keys().filter_map(|name| name.as_str().strip_prefix(CHECKSUM));
    match came.find(|came| !kinds.iter().any(|kind| kind == came)) {
        Some(kind) => Err(format!("the trailer {CHECKSUM}{kind} came and was not announced")),
        None => Ok(()),
    }
}

/// What trailers say of the bytes before them.
pub fn trailed(trailers: &HeaderMap) -> Fields {
    let field = |name: &str| trailers.get(format!("{CHECKSUM}{name}"))?.to_str().ok().map(str::to_owned);
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
/// One that nobody judges here.
pub fn crc(name: &str) -> S3Result<Option<Crc>> {
    match name.to_ascii_uppercase().as_str() {
        "CRC32" => Ok(Some(Crc::Crc32)),
        "CRC32C" => Ok(Some(Crc::Crc32c)),
        "CRC64NVME" => Ok(Some(Crc::Crc64Nvme)),
        "SHA256" | "SHA1" => Ok(None),
        other => Err(s3_error!(InvalidRequest, "{other}: checksums are CRC32, CRC32C, CRC64NVME, SHA1 and SHA256")),
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

    /// Whether the bytes have all of these SHA-1s, in base64.
    pub fn check<'a>(self, announced: impl IntoIterator<Item = &'a str>) -> Result<(), String> {
        let sha1 =
            std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), Sha1::new()).finalize();
        for sum in announced {
            if decode::<20>(sum)? != sha1 {
                return Err(format!("the SHA-1 is {}, not {sum}", STANDARD.encode(sha1)));
            }
        }
        Ok(())
    }
}

/// A body of the store for an answer.
pub fn outgoing(body: Body) -> StreamingBlob {
    let frames = http_body_util::StreamBody::new(body.map_ok(hyper::body::Frame::data));
    s3s::Body::http_body_unsync(frames).into()
}
