//! S3's operations. Each is counted by S3's name; what they do stands beside, by what they are about.

use std::sync::Arc;

use axum::http::StatusCode;
use s3s::{S3, S3ErrorCode, S3Request, S3Response, S3Result, dto::*, s3_error};

use super::{elsewhere::Elsewhere, listing, objects, uploads};
use crate::{
    api::{Observer, Options},
    ports::{hub::Hub, store::Store},
};

/// What the operations share.
#[derive(Clone)]
pub struct Operations {
    pub region: String,
    pub store: Arc<dyn Store>,
    pub elsewhere: Elsewhere,
    hub: Arc<dyn Hub>,
    observer: Arc<dyn Observer>,
}

impl Operations {
    pub fn new(options: &Options) -> Self {
        Operations {
            region: options.region.clone(),
            store: options.store.clone(),
            elsewhere: Elsewhere(options.elsewhere.clone()),
            hub: options.hub.clone(),
            observer: options.observer.clone(),
        }
    }

    /// Notes that a peer's object is answered.
    pub fn read_through(&self, peer: &str) {
        self.observer.object_read_through(peer);
    }

    fn counted<T>(&self, operation: &str, result: S3Result<S3Response<T>>) -> S3Result<S3Response<T>> {
        let status = match &result {
            Ok(response) => response.status.unwrap_or(StatusCode::OK),
            Err(error) => error.status_code().unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        };
        self.observer.object_request(operation, status);
        if let (StatusCode::INTERNAL_SERVER_ERROR, Err(error)) = (status, &result) {
            tracing::warn!(operation, error = error.message().unwrap_or_default(), "a request for objects failed");
        }
        result
    }

    /// A region that drains takes nothing in, and says where the door is.
    fn open_for_writes(&self) -> S3Result<()> {
        if !self.hub.is_draining() {
            return Ok(());
        }
        let mut error = s3_error!(SlowDown, "this region is draining: use another one");
        error.set_status_code(StatusCode::SERVICE_UNAVAILABLE);
        Err(error)
    }
}

/// The bucket's existence tells apart what S3 tells apart.
pub async fn absent(store: &dyn Store, bucket: &str) -> s3s::S3Error {
    match store.bucket(bucket).await {
        Ok(Some(_)) => S3ErrorCode::NoSuchKey.into(),
        Ok(None) => S3ErrorCode::NoSuchBucket.into(),
        Err(error) => super::convert::error(error),
    }
}

/// Methods that count what a function did. Those that change something are refused while the region drains.
macro_rules! operations {
    ($($method:ident $name:literal $input:ident -> $output:ident: $access:ident $function:path,)*) => {
        #[async_trait::async_trait]
        impl S3 for Operations {
            $(
                async fn $method(&self, request: S3Request<$input>) -> S3Result<S3Response<$output>> {
                    operations!(@ $access self);
                    let result = $function(self, request).await;
                    self.counted($name, result)
                }
            )*
        }
    };
    (@ read $self:ident) => {};
    (@ write $self:ident) => { $self.open_for_writes()?; };
}

operations! {
    list_buckets "ListBuckets" ListBucketsInput -> ListBucketsOutput: read listing::buckets,
    create_bucket "CreateBucket" CreateBucketInput -> CreateBucketOutput: write listing::create_bucket,
    head_bucket "HeadBucket" HeadBucketInput -> HeadBucketOutput: read listing::head_bucket,
    get_bucket_location "GetBucketLocation" GetBucketLocationInput -> GetBucketLocationOutput: read listing::location,
    get_bucket_versioning "GetBucketVersioning" GetBucketVersioningInput -> GetBucketVersioningOutput:
        read listing::versioning,
    delete_bucket "DeleteBucket" DeleteBucketInput -> DeleteBucketOutput: write listing::delete_bucket,
    list_objects "ListObjects" ListObjectsInput -> ListObjectsOutput: read listing::objects,
    list_objects_v2 "ListObjectsV2" ListObjectsV2Input -> ListObjectsV2Output: read listing::objects_v2,
    put_object "PutObject" PutObjectInput -> PutObjectOutput: write objects::put,
    get_object "GetObject" GetObjectInput -> GetObjectOutput: read objects::get,
    get_object_tagging "GetObjectTagging" GetObjectTaggingInput -> GetObjectTaggingOutput: read objects::tags,
    head_object "HeadObject" HeadObjectInput -> HeadObjectOutput: read objects::head,
    copy_object "CopyObject" CopyObjectInput -> CopyObjectOutput: write objects::copy,
    delete_object "DeleteObject" DeleteObjectInput -> DeleteObjectOutput: write objects::delete,
    delete_objects "DeleteObjects" DeleteObjectsInput -> DeleteObjectsOutput: write objects::delete_all,
    create_multipart_upload "CreateMultipartUpload" CreateMultipartUploadInput -> CreateMultipartUploadOutput:
        write uploads::create,
    upload_part "UploadPart" UploadPartInput -> UploadPartOutput: write uploads::part,
    upload_part_copy "UploadPartCopy" UploadPartCopyInput -> UploadPartCopyOutput: write uploads::part_copy,
    complete_multipart_upload "CompleteMultipartUpload" CompleteMultipartUploadInput -> CompleteMultipartUploadOutput:
        write uploads::complete,
    abort_multipart_upload "AbortMultipartUpload" AbortMultipartUploadInput -> AbortMultipartUploadOutput:
        write uploads::abort,
    list_parts "ListParts" ListPartsInput -> ListPartsOutput: read uploads::parts,
    list_multipart_uploads "ListMultipartUploads" ListMultipartUploadsInput -> ListMultipartUploadsOutput:
        read uploads::list,
}
