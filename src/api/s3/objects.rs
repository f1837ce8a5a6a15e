//! Objects as a whole: written, read, copied, removed.

use std::{ops::Range, sync::Arc};

use axum::http::{HeaderMap, StatusCode};
use futures::future::join_all;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result, dto::*, s3_error};

use super::{
    chunked::Trailers,
    convert::{self, Fields, Sha1Watch, decode, error, etag, incoming, outgoing, size, time},
    elsewhere::Found,
    operations::{Operations, absent},
};
use crate::{
    core::object::{Checksum, Location, hex, unhex},
    ports::{
        objects::{self, Body, Objects},
        store::{self, Condition, Crc, Expected, Intent, Late, Store},
    },
};

/// How often a reader looks again whose object is replaced between the look and the reading.
const LOOKS_MAX: usize = 5;

/// Objects of one DeleteObjects (S3).
const DELETED_MAX: usize = 1000;

/// What a request with a body says of it.
pub struct Said {
    pub content_length: Option<i64>,
    pub content_md5: Option<String>,
    pub fields: Fields,
    pub sha1: Option<String>,
    pub algorithm: Option<ChecksumAlgorithm>,
}

/// What is to be expected of a body, from everything that is said of it; and the body.
pub fn expected<T>(request: &S3Request<T>, said: Said, body: Body) -> S3Result<(Expected, Body)> {
    let invalid = |why: String| S3Error::with_message(S3ErrorCode::InvalidDigest, why);
    let mut sums = said.fields.sums().map_err(invalid)?;
    // What the signature covers, also where nobody verifies it. `UNSIGNED-PAYLOAD` and the like are no digits.
    let signed = request.headers.get("x-amz-content-sha256").and_then(|value| value.to_str().ok());
    if let Some(sum) = signed.and_then(unhex) {
        let known = sums.sha256();
        if known.is_some_and(|known| known != sum) {
            return Err(s3_error!(InvalidDigest, "two SHA-256 are announced that differ"));
        }
        sums.add(Checksum::Sha256(sum));
    }
    let mut kinds: Vec<Crc> = Vec::new();
    if let Some(algorithm) = &said.algorithm {
        kinds.extend(convert::crc(algorithm.as_str())?);
    }
    let announced = convert::announced(&request.headers)?;
    for kind in &announced {
        kinds.extend(convert::crc(kind)?);
    }
    let (body, sha1) = match said.sha1.is_some() || announced.iter().any(|kind| kind == "sha1") {
        true => {
            let (body, watch) = Sha1Watch::begin(body);
            (body, Some((watch, said.sha1)))
        }
        false => (body, None),
    };
    let expected = Expected {
        size: said.content_length.and_then(|length| u64::try_from(length).ok()),
        md5: said.content_md5.as_deref().map(decode).transpose().map_err(invalid)?,
        sums,
        kinds,
        late: Some(late(request, announced, sha1)),
        ..Expected::default()
    };
    Ok((expected, body))
}

/// Reads the trailers when the body has ended, wherever it was unpacked.
fn late<T>(request: &S3Request<T>, announced: Vec<String>, sha1: Option<(Sha1Watch, Option<String>)>) -> Late {
    let verified = request.trailing_headers.clone();
    let unpacked = request.extensions.get::<Trailers>().cloned();
    Box::new(move || {
        let trailers: HeaderMap = match (verified.and_then(|trailers| trailers.take()), unpacked) {
            (Some(trailers), _) => trailers,
            (None, Some(unpacked)) => unpacked.get(),
            (None, None) => HeaderMap::new(),
        };
        convert::as_announced(&announced, &trailers)?;
        if let Some((watch, said)) = sha1 {
            let trailed = trailers.get("x-amz-checksum-sha1").and_then(|value| value.to_str().ok());
            watch.check(said.as_deref().into_iter().chain(trailed))?;
        }
        convert::trailed(&trailers).sums()
    })
}

pub async fn put(
    operations: &Operations,
    mut request: S3Request<PutObjectInput>,
) -> S3Result<S3Response<PutObjectOutput>> {
    let body = incoming(request.input.body.take());
    let input = &mut request.input;
    if input.sse_customer_algorithm.is_some() || input.tagging.is_some() || input.object_lock_mode.is_some() {
        return Err(s3_error!(NotImplemented, "the store has no encryption by key, tags or locks"));
    }
    if input.write_offset_bytes.is_some() {
        return Err(s3_error!(NotImplemented, "objects are not appended to"));
    }
    let said = Said {
        content_length: input.content_length,
        content_md5: input.content_md5.take(),
        fields: Fields {
            crc32: input.checksum_crc32.take(),
            crc32c: input.checksum_crc32c.take(),
            crc64nvme: input.checksum_crc64nvme.take(),
            sha256: input.checksum_sha256.take(),
        },
        sha1: input.checksum_sha1.take(),
        algorithm: input.checksum_algorithm.take(),
    };
    let intent = Intent {
        attributes: convert::attributes(&request.headers)?,
        condition: convert::condition(request.input.if_match.as_ref(), request.input.if_none_match.as_ref())?,
    };
    let (expected, body) = expected(&request, said, body)?;
    let at = Location::new(request.input.bucket, request.input.key);
    let object = operations.store.write(&at, intent, expected, body).await.map_err(error)?;
    let fields = Fields::of(&object.stat.sums);
    let output = PutObjectOutput {
        e_tag: Some(etag(&object.etag)),
        checksum_crc32: fields.crc32,
        checksum_crc32c: fields.crc32c,
        checksum_crc64nvme: fields.crc64nvme,
        checksum_sha256: fields.sha256,
        checksum_type: Some(ChecksumType::from_static(ChecksumType::FULL_OBJECT)),
        ..Default::default()
    };
    Ok(S3Response::new(output))
}

/// The conditions of a read.
struct Conditions<'a> {
    if_match: Option<&'a ETagCondition>,
    if_none_match: Option<&'a ETagCondition>,
    if_modified_since: Option<&'a Timestamp>,
    if_unmodified_since: Option<&'a Timestamp>,
}

impl Conditions<'_> {
    /// Whether there is something to read, in the order of RFC 9110.
    fn judge(&self, object: &store::Object) -> S3Result<()> {
        let is = |condition: &ETagCondition| {
            condition.is_any() || condition.as_etag().is_some_and(|etag| etag.value() == object.etag)
        };
        // Before it came here it was read from a peer, under this ETag: who reads it in ranges goes on.
        let was = |condition: &ETagCondition| {
            let sum = object.stat.sums.sha256().map(|sum| hex(&sum));
            condition.as_etag().is_some_and(|etag| Some(etag.value()) == sum.as_deref())
        };
        // Times in headers have no fractions.
        let modified = time(object.stat.modified.whole_seconds());
        let fails = match (self.if_match, self.if_unmodified_since) {
            (Some(condition), _) => !is(condition) && !was(condition),
            (None, Some(since)) => modified > *since,
            (None, None) => false,
        };
        if fails {
            return Err(S3ErrorCode::PreconditionFailed.into());
        }
        let unchanged = match (self.if_none_match, self.if_modified_since) {
            (Some(condition), _) => is(condition),
            (None, Some(since)) => modified <= *since,
            (None, None) => false,
        };
        match unchanged {
            true => Err(S3Error::new(S3ErrorCode::NotModified)),
            false => Ok(()),
        }
    }
}

/// Which bytes are asked for, and what the answer says of them.
fn part(object: &store::Object, range: Option<&s3s::dto::Range>) -> S3Result<(Range<u64>, Option<String>)> {
    let full = object.stat.size;
    let Some(range) = range else { return Ok((0..full, None)) };
    let part = range.check(full).map_err(|_| S3Error::new(S3ErrorCode::InvalidRange))?;
    let text = format!("bytes {}-{}/{full}", part.start, part.end.saturating_sub(1));
    Ok((part, Some(text)))
}

/// Nobody has versions or parts here but the one.
fn only_one(version: Option<&String>, part: Option<i32>) -> S3Result<()> {
    if version.is_some_and(|version| version != "null") {
        return Err(S3ErrorCode::NoSuchVersion.into());
    }
    match part {
        None | Some(1) => Ok(()),
        Some(_) => Err(S3ErrorCode::InvalidPart.into()),
    }
}

async fn find(operations: &Operations, at: &Location) -> S3Result<store::Object> {
    match operations.store.find(at).await.map_err(error)? {
        Some(object) => Ok(object),
        None => Err(absent(&*operations.store, &at.bucket).await),
    }
}

/// An object that is read, and where it is if it is not here.
async fn find_anywhere(operations: &Operations, at: &Location) -> S3Result<(store::Object, Option<Arc<dyn Objects>>)> {
    if let Some(object) = operations.store.find(at).await.map_err(error)? {
        return Ok((object, None));
    }
    match operations.elsewhere.find(at).await {
        Some(Found { object, peer, store }) => {
            operations.read_through(&peer);
            Ok((object, Some(store)))
        }
        None => Err(absent(&*operations.store, &at.bucket).await),
    }
}

/// Checksums go with a whole object only, and where they are asked for.
fn checksums(object: &store::Object, mode: Option<&ChecksumMode>, whole: bool) -> (Fields, Option<ChecksumType>) {
    match whole && mode.is_some() {
        true => (Fields::of(&object.stat.sums), Some(ChecksumType::from_static(ChecksumType::FULL_OBJECT))),
        false => (Fields::default(), None),
    }
}

pub async fn get(operations: &Operations, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
    let (input, uri) = (request.input, request.uri);
    only_one(input.version_id.as_ref(), input.part_number)?;
    let conditions = Conditions {
        if_match: input.if_match.as_ref(),
        if_none_match: input.if_none_match.as_ref(),
        if_modified_since: input.if_modified_since.as_ref(),
        if_unmodified_since: input.if_unmodified_since.as_ref(),
    };
    let overrides = convert::overrides(&uri)?;
    let at = Location::new(input.bucket, input.key);
    for _ in 0..LOOKS_MAX {
        let (object, peer) = find_anywhere(operations, &at).await?;
        conditions.judge(&object)?;
        let (range, content_range) = part(&object, input.range.as_ref())?;
        let opened = match &peer {
            None => operations.store.open(&at, &object.stat.version, range.clone()).await,
            Some(peer) => peer.read(&at, &object.stat.version, range.clone()).await.map_err(|failed| match failed {
                objects::Error::Failure(failure) => store::Error::Failure(failure),
                _ => store::Error::NoObject,
            }),
        };
        let body = match opened {
            Ok(body) => body,
            // Replaced or removed since the look.
            Err(store::Error::NoObject) => continue,
            Err(failed) => return Err(error(failed)),
        };
        let (fields, kind) = checksums(&object, input.checksum_mode.as_ref(), content_range.is_none());
        let output = GetObjectOutput {
            body: Some(outgoing(body)),
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(size(range.end - range.start)),
            content_range,
            e_tag: Some(etag(&object.etag)),
            last_modified: Some(time(object.stat.modified)),
            checksum_crc32: fields.crc32,
            checksum_crc32c: fields.crc32c,
            checksum_crc64nvme: fields.crc64nvme,
            checksum_sha256: fields.sha256,
            checksum_type: kind,
            ..Default::default()
        };
        let mut headers = convert::headers(&object.stat.attributes);
        headers.extend(overrides);
        return Ok(S3Response::with_headers(output, headers));
    }
    Err(s3_error!(InternalError, "the object is replaced faster than it can be read"))
}

pub async fn head(
    operations: &Operations,
    request: S3Request<HeadObjectInput>,
) -> S3Result<S3Response<HeadObjectOutput>> {
    let input = request.input;
    only_one(input.version_id.as_ref(), input.part_number)?;
    let conditions = Conditions {
        if_match: input.if_match.as_ref(),
        if_none_match: input.if_none_match.as_ref(),
        if_modified_since: input.if_modified_since.as_ref(),
        if_unmodified_since: input.if_unmodified_since.as_ref(),
    };
    let (object, _) = find_anywhere(operations, &Location::new(input.bucket, input.key)).await?;
    conditions.judge(&object)?;
    let (range, content_range) = part(&object, input.range.as_ref())?;
    let (fields, kind) = checksums(&object, input.checksum_mode.as_ref(), content_range.is_none());
    let status = content_range.as_ref().map_or(StatusCode::OK, |_| StatusCode::PARTIAL_CONTENT);
    let output = HeadObjectOutput {
        accept_ranges: Some("bytes".to_owned()),
        content_length: Some(size(range.end - range.start)),
        content_range,
        e_tag: Some(etag(&object.etag)),
        last_modified: Some(time(object.stat.modified)),
        checksum_crc32: fields.crc32,
        checksum_crc32c: fields.crc32c,
        checksum_crc64nvme: fields.crc64nvme,
        checksum_sha256: fields.sha256,
        checksum_type: kind,
        ..Default::default()
    };
    let mut response = S3Response::with_headers(output, convert::headers(&object.stat.attributes));
    response.status = Some(status);
    Ok(response)
}

/// Where a copy comes from.
pub fn source(source: &CopySource) -> S3Result<Location> {
    match source {
        CopySource::Bucket { bucket, key, version_id } => {
            only_one(version_id.as_ref().map(|version| version.to_string()).as_ref(), None)?;
            Ok(Location::new(bucket.to_string(), key.to_string()))
        }
        _ => Err(s3_error!(NotImplemented, "a copy's source is named `/bucket/key`")),
    }
}

/// The conditions of a copy, on its source.
pub struct CopyConditions {
    pub if_match: Option<ETagCondition>,
    pub if_none_match: Option<ETagCondition>,
    pub if_modified_since: Option<Timestamp>,
    pub if_unmodified_since: Option<Timestamp>,
}

/// An object that is to be copied, with its bytes: all, or those of `range`.
pub async fn opened(
    operations: &Operations,
    from: &Location,
    conditions: &CopyConditions,
    range: Option<&s3s::dto::Range>,
) -> S3Result<(store::Object, Range<u64>, Body)> {
    let conditions = Conditions {
        if_match: conditions.if_match.as_ref(),
        if_none_match: conditions.if_none_match.as_ref(),
        if_modified_since: conditions.if_modified_since.as_ref(),
        if_unmodified_since: conditions.if_unmodified_since.as_ref(),
    };
    for _ in 0..LOOKS_MAX {
        let object = find(operations, from).await?;
        // A copy has no 304.
        conditions.judge(&object).map_err(|_| S3Error::new(S3ErrorCode::PreconditionFailed))?;
        let (range, _) = part(&object, range)?;
        match operations.store.open(from, &object.stat.version, range.clone()).await {
            Ok(body) => return Ok((object, range, body)),
            Err(store::Error::NoObject) => continue,
            Err(failed) => return Err(error(failed)),
        }
    }
    Err(s3_error!(InternalError, "the object is replaced faster than it can be copied"))
}

/// The condition of a copy on what stands where it goes. `s3s` does not read it.
fn destination(headers: &HeaderMap) -> S3Result<Condition> {
    let condition = |name: &str| {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => ETagCondition::parse_http_header(value.as_bytes())
                .map(Some)
                .map_err(|_| s3_error!(InvalidArgument, "{name}: is neither an ETag nor `*`")),
            _ => Err(s3_error!(InvalidArgument, "{name}: is there more than once")),
        }
    };
    convert::condition(condition("if-match")?.as_ref(), condition("if-none-match")?.as_ref())
}

pub async fn copy(
    operations: &Operations,
    request: S3Request<CopyObjectInput>,
) -> S3Result<S3Response<CopyObjectOutput>> {
    let replaces = match request.input.metadata_directive.as_ref().map(MetadataDirective::as_str) {
        None | Some(MetadataDirective::COPY) => false,
        Some(MetadataDirective::REPLACE) => true,
        Some(_) => return Err(s3_error!(InvalidArgument, "the metadata directive is COPY or REPLACE")),
    };
    let new_attributes = convert::attributes(&request.headers)?;
    let condition = destination(&request.headers)?;
    let input = request.input;
    if input.sse_customer_algorithm.is_some() || input.tagging.is_some() || input.object_lock_mode.is_some() {
        return Err(s3_error!(NotImplemented, "the store has no encryption by key, tags or locks"));
    }
    let (from, at) = (source(&input.copy_source)?, Location::new(input.bucket, input.key));
    if from == at && !replaces {
        return Err(s3_error!(InvalidRequest, "a copy of an object onto itself has to change its metadata"));
    }
    let mut kinds: Vec<Crc> = Vec::new();
    if let Some(algorithm) = &input.checksum_algorithm {
        kinds.extend(convert::crc(algorithm.as_str())?);
    }
    let conditions = CopyConditions {
        if_match: input.copy_source_if_match,
        if_none_match: input.copy_source_if_none_match,
        if_modified_since: input.copy_source_if_modified_since,
        if_unmodified_since: input.copy_source_if_unmodified_since,
    };
    let (object, _, body) = opened(operations, &from, &conditions, None).await?;
    let expected =
        Expected { size: Some(object.stat.size), sums: object.stat.sums.clone(), kinds, ..Expected::default() };
    let attributes = if replaces { new_attributes } else { object.stat.attributes };
    let intent = Intent { attributes, condition };
    let made = operations.store.write(&at, intent, expected, body).await.map_err(error)?;
    let fields = Fields::of(&made.stat.sums);
    let result = CopyObjectResult {
        e_tag: Some(etag(&made.etag)),
        last_modified: Some(time(made.stat.modified)),
        checksum_crc32: fields.crc32,
        checksum_crc32c: fields.crc32c,
        checksum_crc64nvme: fields.crc64nvme,
        checksum_sha256: fields.sha256,
        checksum_type: Some(ChecksumType::from_static(ChecksumType::FULL_OBJECT)),
        ..Default::default()
    };
    Ok(S3Response::new(CopyObjectOutput { copy_object_result: Some(result), ..Default::default() }))
}

pub async fn delete(
    operations: &Operations,
    request: S3Request<DeleteObjectInput>,
) -> S3Result<S3Response<DeleteObjectOutput>> {
    let input = request.input;
    only_one(input.version_id.as_ref(), None)?;
    if input.if_match_last_modified_time.is_some() || input.if_match_size.is_some() {
        return Err(s3_error!(NotImplemented, "a removal takes `If-Match: ETAG` alone"));
    }
    let condition = convert::condition(input.if_match.as_ref(), None)?;
    let at = Location::new(input.bucket, input.key);
    if !operations.store.remove(&at, condition).await.map_err(error)? {
        no_bucket(&*operations.store, &at.bucket).await?;
    }
    Ok(S3Response::with_status(DeleteObjectOutput::default(), StatusCode::NO_CONTENT))
}

/// Objects have no tags. Clients ask before they copy in parts.
pub async fn tags(
    operations: &Operations,
    request: S3Request<GetObjectTaggingInput>,
) -> S3Result<S3Response<GetObjectTaggingOutput>> {
    let input = request.input;
    only_one(input.version_id.as_ref(), None)?;
    find(operations, &Location::new(input.bucket, input.key)).await?;
    Ok(S3Response::new(GetObjectTaggingOutput { tag_set: Vec::new(), version_id: None }))
}

/// To remove what is not there is no error, but from a bucket that is not there.
async fn no_bucket(store: &dyn Store, bucket: &str) -> S3Result<()> {
    match store.bucket(bucket).await.map_err(error)? {
        Some(_) => Ok(()),
        None => Err(S3ErrorCode::NoSuchBucket.into()),
    }
}

pub async fn delete_all(
    operations: &Operations,
    request: S3Request<DeleteObjectsInput>,
) -> S3Result<S3Response<DeleteObjectsOutput>> {
    let DeleteObjectsInput { bucket, delete, .. } = request.input;
    if delete.objects.is_empty() || delete.objects.len() > DELETED_MAX {
        return Err(S3ErrorCode::MalformedXML.into());
    }
    no_bucket(&*operations.store, &bucket).await?;
    // All at once: they share the store's transactions.
    let removals = delete.objects.into_iter().map(async |object: ObjectIdentifier| {
        let result = async {
            only_one(object.version_id.as_ref(), None)?;
            if object.last_modified_time.is_some() || object.size.is_some() {
                return Err(s3_error!(NotImplemented, "a removal takes an ETag as its condition"));
            }
            let condition = object.e_tag.map_or(Condition::Always, |etag| Condition::Is(etag.value().to_owned()));
            let at = Location::new(bucket.clone(), object.key.clone());
            operations.store.remove(&at, condition).await.map_err(error)
        };
        (object.key.clone(), result.await)
    });
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    for (key, result) in join_all(removals).await {
        match result {
            Ok(_) => deleted.push(DeletedObject { key: Some(key), ..Default::default() }),
            Err(failed) => errors.push(s3s::dto::Error {
                code: Some(failed.code().as_str().to_owned()),
                key: Some(key),
                message: failed.message().map(str::to_owned),
                version_id: None,
            }),
        }
    }
    let quiet = delete.quiet.unwrap_or(false);
    let output = DeleteObjectsOutput {
        deleted: (!quiet).then_some(deleted),
        errors: (!errors.is_empty()).then_some(errors),
        ..Default::default()
    };
    Ok(S3Response::new(output))
}
