//! Uploads in parts.

use std::time::Duration;

use axum::http::StatusCode;
use futures::FutureExt;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result, dto::*, s3_error};

use super::{
    convert::{self, Fields, error, etag, incoming, size, time},
    listing::{encoded, limit},
    objects::{CopyConditions, Said, expected, opened, source},
    operations::Operations,
};
use crate::{
    core::object::{Location, hex, unhex},
    ports::store::{self, Begun, Chosen, Crc, Expected, PARTS_MAX},
};

/// Parts that take longer to become one object are waited for with blanks, as S3 does it: an error then comes with 200.
const SOON: Duration = Duration::from_secs(5);

fn named(kind: Crc) -> &'static str {
    match kind {
        Crc::Crc32 => ChecksumAlgorithm::CRC32,
        Crc::Crc32c => ChecksumAlgorithm::CRC32C,
        Crc::Crc64Nvme => ChecksumAlgorithm::CRC64NVME,
    }
}

/// The kind of checksum that an upload was begun with.
fn algorithm(begun: &Begun) -> Option<ChecksumAlgorithm> {
    begun.kinds.first().map(|kind| ChecksumAlgorithm::from_static(named(*kind)))
}

pub async fn create(
    operations: &Operations,
    request: S3Request<CreateMultipartUploadInput>,
) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
    let attributes = convert::attributes(&request.headers)?;
    let input = request.input;
    if input.sse_customer_algorithm.is_some() || input.tagging.is_some() || input.object_lock_mode.is_some() {
        return Err(s3_error!(NotImplemented, "the store has no encryption by key, tags or locks"));
    }
    let mut kinds = Vec::new();
    if let Some(algorithm) = &input.checksum_algorithm {
        kinds.extend(convert::crc(algorithm.as_str())?);
        if algorithm.as_str().eq_ignore_ascii_case(ChecksumAlgorithm::SHA1) {
            return Err(no_sha1());
        }
    }
    full_object(input.checksum_type.as_ref())?;
    let is_checked = input.checksum_algorithm.is_some() || input.checksum_type.is_some();
    let at = Location::new(input.bucket, input.key);
    let begun = operations.store.begin_upload(&at, attributes, kinds).await.map_err(error)?;
    let output = CreateMultipartUploadOutput {
        bucket: Some(at.bucket),
        key: Some(at.key),
        checksum_algorithm: input.checksum_algorithm,
        checksum_type: is_checked.then(|| ChecksumType::from_static(ChecksumType::FULL_OBJECT)),
        upload_id: Some(begun.id),
        ..Default::default()
    };
    Ok(S3Response::new(output))
}

/// Every checksum that is kept is one of all bytes.
fn full_object(kind: Option<&ChecksumType>) -> S3Result<()> {
    match kind.map(ChecksumType::as_str) {
        None | Some(ChecksumType::FULL_OBJECT) => Ok(()),
        Some(_) => Err(s3_error!(NotImplemented, "the checksum type is FULL_OBJECT: the store keeps no other")),
    }
}

fn no_sha1() -> S3Error {
    s3_error!(NotImplemented, "SHA1 is not kept of parts: use CRC32, CRC32C, CRC64NVME or SHA256")
}

fn number(number: i32) -> S3Result<u32> {
    let number = u32::try_from(number).ok().filter(|number| (1..=PARTS_MAX).contains(number));
    number.ok_or_else(|| s3_error!(InvalidArgument, "a part has a number between 1 and {PARTS_MAX}"))
}

pub async fn part(
    operations: &Operations,
    mut request: S3Request<UploadPartInput>,
) -> S3Result<S3Response<UploadPartOutput>> {
    let body = incoming(request.input.body.take());
    let input = &mut request.input;
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
    let (expected, body) = expected(&request, said, body)?;
    let input = request.input;
    let (at, number) = (Location::new(input.bucket, input.key), number(input.part_number)?);
    let part = operations.store.write_part(&at, &input.upload_id, number, expected, body).await.map_err(error)?;
    let fields = Fields::of(&part.sums);
    let output = UploadPartOutput {
        e_tag: Some(etag(&hex(&part.md5))),
        checksum_crc32: fields.crc32,
        checksum_crc32c: fields.crc32c,
        checksum_crc64nvme: fields.crc64nvme,
        checksum_sha256: fields.sha256,
        ..Default::default()
    };
    Ok(S3Response::new(output))
}

pub async fn part_copy(
    operations: &Operations,
    request: S3Request<UploadPartCopyInput>,
) -> S3Result<S3Response<UploadPartCopyOutput>> {
    let input = request.input;
    let (from, at) = (source(&input.copy_source)?, Location::new(input.bucket, input.key));
    let number = number(input.part_number)?;
    let range = input.copy_source_range.as_deref().map(|range| {
        s3s::dto::Range::parse(range).map_err(|_| s3_error!(InvalidArgument, "the range is `bytes=FIRST-LAST`"))
    });
    let conditions = CopyConditions {
        if_match: input.copy_source_if_match,
        if_none_match: input.copy_source_if_none_match,
        if_modified_since: input.copy_source_if_modified_since,
        if_unmodified_since: input.copy_source_if_unmodified_since,
    };
    let (_, range, body) = opened(operations, &from, &conditions, range.transpose()?.as_ref()).await?;
    let expected = Expected { size: Some(range.end - range.start), ..Expected::default() };
    let part = operations.store.write_part(&at, &input.upload_id, number, expected, body).await.map_err(error)?;
    let fields = Fields::of(&part.sums);
    let result = CopyPartResult {
        e_tag: Some(etag(&hex(&part.md5))),
        last_modified: Some(time(part.modified)),
        checksum_crc32: fields.crc32,
        checksum_crc32c: fields.crc32c,
        checksum_crc64nvme: fields.crc64nvme,
        checksum_sha256: fields.sha256,
        ..Default::default()
    };
    Ok(S3Response::new(UploadPartCopyOutput { copy_part_result: Some(result), ..Default::default() }))
}

/// Which parts an object is to be made of.
fn chosen(parts: Option<CompletedMultipartUpload>) -> S3Result<Vec<Chosen>> {
    let parts = parts.and_then(|parts| parts.parts).unwrap_or_default();
    let chosen = |part: CompletedPart| {
        let number = number(part.part_number.ok_or(S3ErrorCode::MalformedXML)?)?;
        let md5 = part.e_tag.as_ref().map(|etag| unhex(etag.value()).ok_or(S3ErrorCode::InvalidPart));
        if part.checksum_sha1.is_some() {
            return Err(no_sha1());
        }
        let fields = Fields {
            crc32: part.checksum_crc32,
            crc32c: part.checksum_crc32c,
            crc64nvme: part.checksum_crc64nvme,
            sha256: part.checksum_sha256,
        };
        let sums = fields.sums().map_err(|why| s3_error!(InvalidPart, "part {number}: {why}"))?;
        Ok(Chosen { number, md5: md5.transpose()?, sums })
    };
    parts.into_iter().map(chosen).collect()
}

/// A checksum of all bytes, or (`…-N`) one of the N parts' checksums.
fn split(field: Option<String>, count: usize) -> S3Result<(Option<String>, Option<String>)> {
    match field.as_deref().and_then(|field| field.split_once('-')) {
        None => Ok((field, None)),
        Some((sum, parts)) if parts.parse() == Ok(count) => Ok((None, Some(sum.to_owned()))),
        Some(_) => Err(s3_error!(BadDigest, "a checksum of another number of parts than {count}")),
    }
}

pub async fn complete(
    operations: &Operations,
    request: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
    let input = request.input;
    let at = Location::new(input.bucket, input.key);
    let chosen = chosen(input.multipart_upload)?;
    let condition = convert::condition(input.if_match.as_ref(), input.if_none_match.as_ref())?;
    if input.checksum_sha1.is_some() {
        return Err(no_sha1());
    }
    full_object(input.checksum_type.as_ref())?;
    let count = chosen.len();
    let (crc32, crc32_of_parts) = split(input.checksum_crc32, count)?;
    let (crc32c, crc32c_of_parts) = split(input.checksum_crc32c, count)?;
    let (crc64nvme, crc64nvme_of_parts) = split(input.checksum_crc64nvme, count)?;
    let (sha256, sha256_of_parts) = split(input.checksum_sha256, count)?;
    let whole = Fields { crc32, crc32c, crc64nvme, sha256 };
    let of_parts = Fields {
        crc32: crc32_of_parts,
        crc32c: crc32c_of_parts,
        crc64nvme: crc64nvme_of_parts,
        sha256: sha256_of_parts,
    };
    let sums = |fields: Fields| fields.sums().map_err(|why| s3_error!(InvalidDigest, "{why}"));
    let size = input.mpu_object_size.map(u64::try_from).transpose();
    let expected = Expected {
        size: size.map_err(|_| s3_error!(InvalidArgument, "an object has no negative size"))?,
        sums: sums(whole)?,
        of_parts: sums(of_parts)?,
        ..Expected::default()
    };
    let store = operations.store.clone();
    let mut completing = async move {
        let made = store.complete(&at, &input.upload_id, chosen, expected, condition).await.map_err(error)?;
        Ok(completed(&at, &made))
    }
    .boxed();
    let output = match tokio::time::timeout(SOON, &mut completing).await {
        Ok(done) => done?,
        Err(_) => CompleteMultipartUploadOutput { future: Some(completing), ..Default::default() },
    };
    Ok(S3Response::new(output))
}

fn completed(at: &Location, made: &store::Object) -> CompleteMultipartUploadOutput {
    let fields = Fields::of(&made.stat.sums);
    CompleteMultipartUploadOutput {
        bucket: Some(at.bucket.clone()),
        key: Some(at.key.clone()),
        location: Some(format!("/{}/{}", at.bucket, at.key)),
        e_tag: Some(etag(&made.etag)),
        checksum_crc32: fields.crc32,
        checksum_crc32c: fields.crc32c,
        checksum_crc64nvme: fields.crc64nvme,
        checksum_sha256: fields.sha256,
        checksum_type: Some(ChecksumType::from_static(ChecksumType::FULL_OBJECT)),
        ..Default::default()
    }
}

pub async fn abort(
    operations: &Operations,
    request: S3Request<AbortMultipartUploadInput>,
) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
    let input = request.input;
    let at = Location::new(input.bucket, input.key);
    operations.store.abandon(&at, &input.upload_id).await.map_err(error)?;
    Ok(S3Response::with_status(AbortMultipartUploadOutput::default(), StatusCode::NO_CONTENT))
}

pub async fn parts(
    operations: &Operations,
    request: S3Request<ListPartsInput>,
) -> S3Result<S3Response<ListPartsOutput>> {
    let input = request.input;
    let at = Location::new(input.bucket, input.key);
    let begun = operations.store.upload(&at, &input.upload_id).await.map_err(error)?;
    let (after, limit) = (input.part_number_marker.unwrap_or(0), limit(input.max_parts)?);
    let first = u32::try_from(after).map_err(|_| s3_error!(InvalidArgument, "a marker is not negative"))?;
    let mut parts = operations.store.parts(&at, &input.upload_id, first, limit + 1).await.map_err(error)?;
    let more = parts.len() > limit;
    parts.truncate(limit);
    let last = parts.last().and_then(|part| i32::try_from(part.number).ok());
    let listed = parts.into_iter().map(|part| {
        let fields = Fields::of(&part.sums);
        Part {
            part_number: i32::try_from(part.number).ok(),
            e_tag: Some(etag(&hex(&part.md5))),
            size: Some(size(part.size)),
            last_modified: Some(time(part.modified)),
            checksum_crc32: fields.crc32,
            checksum_crc32c: fields.crc32c,
            checksum_crc64nvme: fields.crc64nvme,
            checksum_sha256: fields.sha256,
            ..Default::default()
        }
    });
    let output = ListPartsOutput {
        bucket: Some(at.bucket),
        key: Some(at.key),
        upload_id: Some(input.upload_id),
        checksum_type: algorithm(&begun).map(|_| ChecksumType::from_static(ChecksumType::FULL_OBJECT)),
        checksum_algorithm: algorithm(&begun),
        parts: Some(listed.collect()),
        part_number_marker: Some(after),
        next_part_number_marker: last.filter(|_| more),
        max_parts: i32::try_from(limit).ok(),
        is_truncated: Some(more),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        ..Default::default()
    };
    Ok(S3Response::new(output))
}

pub async fn list(
    operations: &Operations,
    request: S3Request<ListMultipartUploadsInput>,
) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
    let input = request.input;
    let encoding = input.encoding_type.as_ref();
    if operations.store.bucket(&input.bucket).await.map_err(error)?.is_none() {
        return Err(S3ErrorCode::NoSuchBucket.into());
    }
    let all = operations.store.uploads(&input.bucket).await.map_err(error)?;
    let prefix = input.prefix.clone().unwrap_or_default();
    let delimiter = input.delimiter.clone().filter(|delimiter| !delimiter.is_empty());
    let (key_marker, id_marker) =
        (input.key_marker.clone().unwrap_or_default(), input.upload_id_marker.clone().unwrap_or_default());
    // Uploads of one key come by age; the marker's own is where the last page ended.
    let ended_at = all.iter().position(|upload| upload.at.key == key_marker && upload.id == id_marker);
    let limit = limit(input.max_uploads)?;
    let (mut uploads, mut prefixes) = (Vec::new(), Vec::new());
    let mut last: Option<(String, String)> = None;
    let mut more = false;
    for (nth, upload) in all.into_iter().enumerate() {
        let passed = ended_at.map_or(upload.at.key <= key_marker, |ended| nth <= ended);
        let Some(rest) = upload.at.key.strip_prefix(&prefix).filter(|_| !passed) else { continue };
        let cut = delimiter.as_ref().and_then(|delimiter| Some(rest.find(delimiter)? + delimiter.len()));
        let common = cut.map(|cut| format!("{prefix}{}", &rest[..cut]));
        if common.as_ref().is_some_and(|common| prefixes.last() == Some(common) || key_marker.starts_with(common)) {
            continue;
        }
        if uploads.len() + prefixes.len() == limit {
            more = true;
            break;
        }
        match common {
            Some(common) => {
                last = Some((common.clone(), String::new()));
                prefixes.push(common);
            }
            None => {
                last = Some((upload.at.key.clone(), upload.id.clone()));
                uploads.push(upload);
            }
        }
    }
    let last = last.filter(|_| more);
    let shown = |begun: Begun| MultipartUpload {
        checksum_type: algorithm(&begun).map(|_| ChecksumType::from_static(ChecksumType::FULL_OBJECT)),
        checksum_algorithm: algorithm(&begun),
        initiated: Some(time(begun.begun)),
        key: Some(encoded(begun.at.key, encoding)),
        upload_id: Some(begun.id),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        ..Default::default()
    };
    let prefixes = prefixes.into_iter().map(|prefix| CommonPrefix { prefix: Some(encoded(prefix, encoding)) });
    let output = ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        prefix: Some(encoded(prefix, encoding)),
        delimiter: input.delimiter.map(|delimiter| encoded(delimiter, encoding)),
        key_marker: Some(encoded(key_marker, encoding)),
        upload_id_marker: Some(id_marker),
        next_key_marker: last.as_ref().map(|(key, _)| encoded(key.clone(), encoding)),
        next_upload_id_marker: last.map(|(_, id)| id),
        max_uploads: i32::try_from(limit).ok(),
        is_truncated: Some(more),
        uploads: Some(uploads.into_iter().map(shown).collect()),
        common_prefixes: Some(prefixes.collect()),
        encoding_type: input.encoding_type,
        ..Default::default()
    };
    Ok(S3Response::new(output))
}
