//! Buckets, and what is in them.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::{S3ErrorCode, S3Request, S3Response, S3Result, dto::*, s3_error};

use super::{
    convert::{error, etag, size, time},
    operations::Operations,
};
use crate::ports::store::{Object as Stored, Page, Query};

/// Keys on a page at most (S3).
pub const KEYS_MAX: i32 = 1000;

/// What `encoding-type=url` leaves as it is. A blank becomes `%20`, which every client reads.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/').remove(b'*');

/// Text as the caller asked for it.
pub fn encoded(text: String, encoding: Option<&EncodingType>) -> String {
    match encoding {
        Some(_) => utf8_percent_encode(&text, KEPT).to_string(),
        None => text,
    }
}

pub async fn buckets(
    operations: &Operations,
    request: S3Request<ListBucketsInput>,
) -> S3Result<S3Response<ListBucketsOutput>> {
    let prefix = request.input.prefix.unwrap_or_default();
    let all = operations.store.buckets().await.map_err(error)?;
    let buckets = all.into_iter().filter(|(name, _)| name.starts_with(&prefix)).map(|(name, made)| Bucket {
        name: Some(name),
        creation_date: Some(time(made)),
        ..Bucket::default()
    });
    let owner = Owner { id: Some("hubweave".to_owned()), display_name: Some("hubweave".to_owned()) };
    let output = ListBucketsOutput { buckets: Some(buckets.collect()), owner: Some(owner), ..Default::default() };
    Ok(S3Response::new(output))
}

pub async fn create_bucket(
    operations: &Operations,
    request: S3Request<CreateBucketInput>,
) -> S3Result<S3Response<CreateBucketOutput>> {
    let name = request.input.bucket;
    if !operations.store.create_bucket(&name).await.map_err(error)? {
        return Err(S3ErrorCode::BucketAlreadyOwnedByYou.into());
    }
    Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{name}")) }))
}

/// Nothing, if the bucket exists.
async fn exists(operations: &Operations, name: &str) -> S3Result<()> {
    match operations.store.bucket(name).await.map_err(error)? {
        Some(_) => Ok(()),
        None => Err(S3ErrorCode::NoSuchBucket.into()),
    }
}

pub async fn head_bucket(
    operations: &Operations,
    request: S3Request<HeadBucketInput>,
) -> S3Result<S3Response<HeadBucketOutput>> {
    exists(operations, &request.input.bucket).await?;
    let output = HeadBucketOutput { bucket_region: Some(operations.region.clone()), ..Default::default() };
    Ok(S3Response::new(output))
}

pub async fn location(
    operations: &Operations,
    request: S3Request<GetBucketLocationInput>,
) -> S3Result<S3Response<GetBucketLocationOutput>> {
    exists(operations, &request.input.bucket).await?;
    // S3 says nothing for its first region.
    let region = Some(&operations.region).filter(|region| *region != "us-east-1");
    let output = GetBucketLocationOutput {
        location_constraint: region.map(|region| BucketLocationConstraint::from(region.clone())),
    };
    Ok(S3Response::new(output))
}

/// Buckets have none, and never had.
pub async fn versioning(
    operations: &Operations,
    request: S3Request<GetBucketVersioningInput>,
) -> S3Result<S3Response<GetBucketVersioningOutput>> {
    exists(operations, &request.input.bucket).await?;
    Ok(S3Response::new(GetBucketVersioningOutput::default()))
}

pub async fn delete_bucket(
    operations: &Operations,
    request: S3Request<DeleteBucketInput>,
) -> S3Result<S3Response<DeleteBucketOutput>> {
    operations.store.delete_bucket(&request.input.bucket).await.map_err(error)?;
    Ok(S3Response::with_status(DeleteBucketOutput {}, axum::http::StatusCode::NO_CONTENT))
}

/// How many of something a page may have.
pub fn limit(asked: Option<i32>) -> S3Result<usize> {
    let asked = asked.unwrap_or(KEYS_MAX).min(KEYS_MAX);
    usize::try_from(asked).map_err(|_| s3_error!(InvalidArgument, "a page has no negative size"))
}

/// What both listings have in common.
struct Listed {
    contents: Vec<Object>,
    prefixes: Vec<CommonPrefix>,
    next: Option<String>,
}

async fn page(
    operations: &Operations,
    bucket: &str,
    query: &Query,
    encoding: Option<&EncodingType>,
) -> S3Result<Listed> {
    let page: Page<(String, Stored)> = operations.store.list(bucket, query).await.map_err(error)?;
    let contents = page.items.into_iter().map(|(key, stored)| Object {
        key: Some(encoded(key, encoding)),
        e_tag: Some(etag(&stored.etag)),
        size: Some(size(stored.stat.size)),
        last_modified: Some(time(stored.stat.modified)),
        storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
        ..Default::default()
    });
    let prefixes = page.prefixes.into_iter().map(|prefix| CommonPrefix { prefix: Some(encoded(prefix, encoding)) });
    Ok(Listed { contents: contents.collect(), prefixes: prefixes.collect(), next: page.next })
}

fn known_encoding(encoding: Option<&EncodingType>) -> S3Result<()> {
    match encoding.map(EncodingType::as_str) {
        None | Some(EncodingType::URL) => Ok(()),
        Some(_) => Err(s3_error!(InvalidArgument, "the encoding type is `url`")),
    }
}

pub async fn objects_v2(
    operations: &Operations,
    request: S3Request<ListObjectsV2Input>,
) -> S3Result<S3Response<ListObjectsV2Output>> {
    let input = request.input;
    let encoding = input.encoding_type.as_ref();
    known_encoding(encoding)?;
    let token = input.continuation_token.as_ref().map(|token| {
        let after = URL_SAFE_NO_PAD.decode(token).ok().and_then(|after| String::from_utf8(after).ok());
        after.ok_or_else(|| s3_error!(InvalidArgument, "the continuation token is none of ours"))
    });
    let query = Query {
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: input.delimiter.clone(),
        after: token.transpose()?.or(input.start_after.clone()).unwrap_or_default(),
        limit: limit(input.max_keys)?,
    };
    let listed = page(operations, &input.bucket, &query, encoding).await?;
    let output = ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: Some(encoded(query.prefix, encoding)),
        delimiter: input.delimiter.map(|delimiter| encoded(delimiter, encoding)),
        start_after: input.start_after.map(|after| encoded(after, encoding)),
        continuation_token: input.continuation_token,
        max_keys: Some(i32::try_from(query.limit).unwrap_or(KEYS_MAX)),
        key_count: Some(i32::try_from(listed.contents.len() + listed.prefixes.len()).unwrap_or(KEYS_MAX)),
        is_truncated: Some(listed.next.is_some()),
        next_continuation_token: listed.next.map(|next| URL_SAFE_NO_PAD.encode(next)),
        contents: Some(listed.contents),
        common_prefixes: Some(listed.prefixes),
        encoding_type: input.encoding_type,
        ..Default::default()
    };
    Ok(S3Response::new(output))
}

pub async fn objects(
    operations: &Operations,
    request: S3Request<ListObjectsInput>,
) -> S3Result<S3Response<ListObjectsOutput>> {
    let input = request.input;
    let encoding = input.encoding_type.as_ref();
    known_encoding(encoding)?;
    let query = Query {
        prefix: input.prefix.unwrap_or_default(),
        delimiter: input.delimiter.clone(),
        after: input.marker.clone().unwrap_or_default(),
        limit: limit(input.max_keys)?,
    };
    let listed = page(operations, &input.bucket, &query, encoding).await?;
    let output = ListObjectsOutput {
        name: Some(input.bucket),
        prefix: Some(encoded(query.prefix, encoding)),
        delimiter: input.delimiter.map(|delimiter| encoded(delimiter, encoding)),
        marker: Some(encoded(query.after, encoding)),
        max_keys: Some(i32::try_from(query.limit).unwrap_or(KEYS_MAX)),
        is_truncated: Some(listed.next.is_some()),
        next_marker: listed.next.map(|next| encoded(next, encoding)),
        contents: Some(listed.contents),
        common_prefixes: Some(listed.prefixes),
        encoding_type: input.encoding_type,
        ..Default::default()
    };
    Ok(S3Response::new(output))
}
