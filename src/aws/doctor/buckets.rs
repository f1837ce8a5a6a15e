//! Whether an agent may do with buckets what payloads take.

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use crate::{aws::Clients, aws::failure, core::link::Failure};

/// An object that nobody has.
const NOBODYS: &str = "hubweave/doctor";

/// Looks for an object that is not there, which tells who may read and list from who may not.
///
/// # Errors
/// The action that was refused, and why.
pub async fn read(clients: &Clients, bucket: &str) -> Result<(), (&'static str, Failure)> {
    match clients.s3.head_object().bucket(bucket).key(NOBODYS).send().await {
        Ok(_) => Ok(()),
        Err(error) => match status(&error) {
            Some(404) => Ok(()),
            // Without the permission to list, S3 does not say that an object is not there.
            Some(403) => Err(("s3:GetObject and s3:ListBucket", Failure::Refused("AccessDenied".to_owned()))),
            _ => Err(("s3:GetObject", failure(&error))),
        },
    }
}

/// Begins an upload, looks for it, and gives it up: nothing is left behind.
///
/// # Errors
/// The action that was refused, and why.
pub async fn write(clients: &Clients, bucket: &str) -> Result<(), (&'static str, Failure)> {
    let s3 = &clients.s3;
    let begun = s3.create_multipart_upload().bucket(bucket).key(NOBODYS).send().await;
    let begun = begun.map_err(|error| ("s3:PutObject", failure(&error)))?;
    let id = begun.upload_id().unwrap_or_default();
    let parts = s3.list_parts().bucket(bucket).key(NOBODYS).upload_id(id).send().await;
    let uploads = s3.list_multipart_uploads().bucket(bucket).prefix(NOBODYS).send().await;
    let given_up = s3.abort_multipart_upload().bucket(bucket).key(NOBODYS).upload_id(id).send().await;
    given_up.map_err(|error| ("s3:AbortMultipartUpload", failure(&error)))?;
    parts.map_err(|error| ("s3:ListMultipartUploadParts", failure(&error)))?;
    uploads.map(drop).map_err(|error| ("s3:ListBucketMultipartUploads", failure(&error)))
}

fn status<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}
