//! The bucket.

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::{
    operation::get_bucket_tagging::GetBucketTaggingError,
    types::{
        AbortIncompleteMultipartUpload, BucketLifecycleConfiguration, BucketLocationConstraint,
        CreateBucketConfiguration, ExpirationStatus, LifecycleRule, LifecycleRuleFilter,
        PublicAccessBlockConfiguration, ServerSideEncryption, ServerSideEncryptionByDefault,
        ServerSideEncryptionConfiguration, ServerSideEncryptionRule, Tag, Tagging,
    },
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::{Provisioner, State};
use crate::{
    aws::{
        failure,
        provision::{UPLOAD_DAYS_MAX, UPLOADS_RULE},
    },
    core::link::Failure,
};

/// The region that is none in a location constraint.
const FIRST_REGION: &str = "us-east-1";

impl Provisioner<'_> {
    pub(super) async fn bucket_state(&self, name: &str) -> Result<State, Failure> {
        if let Err(error) = self.clients.s3.head_bucket().bucket(name).send().await {
            return match status(&error) {
                Some(404) => Ok(State::Absent),
                Some(301) => Ok(State::Foreign(vec!["it is in another region".to_owned()])),
                Some(403) => Ok(State::Foreign(vec!["it may not be used with these credentials".to_owned()])),
                _ => Err(failure(&error)),
            };
        }
        let tags = match self.clients.s3.get_bucket_tagging().bucket(name).send().await {
            Ok(found) => found.tag_set,
            Err(error) if error.as_service_error().and_then(GetBucketTaggingError::code) == Some("NoSuchTagSet") => {
                Vec::new()
            }
            Err(error) => return Err(failure(&error)),
        };
        Ok(self.judge(tags.iter().map(|tag| (tag.key(), tag.value())), Vec::new()))
    }

    pub(super) async fn make_bucket(&self, name: &str) -> Result<(), Failure> {
        let refused = |error: aws_smithy_types::error::operation::BuildError| Failure::Refused(error.to_string());
        let s3 = &self.clients.s3;
        let mut request = s3.create_bucket().bucket(name);
        if self.plan.place.region != FIRST_REGION {
            let location = BucketLocationConstraint::from(self.plan.place.region.as_str());
            let configuration = CreateBucketConfiguration::builder().location_constraint(location).build();
            request = request.create_bucket_configuration(configuration);
        }
        request.send().await.map_err(|error| failure(&error))?;
        let mut tagging = Tagging::builder();
        for (key, value) in &self.plan.tags {
            tagging = tagging.tag_set(Tag::builder().key(key).value(value).build().map_err(refused)?);
        }
        let tagging = tagging.build().map_err(refused)?;
        s3.put_bucket_tagging().bucket(name).tagging(tagging).send().await.map_err(|error| failure(&error))?;
        let private = PublicAccessBlockConfiguration::builder()
            .block_public_acls(true)
            .ignore_public_acls(true)
            .block_public_policy(true)
            .restrict_public_buckets(true)
            .build();
        let request = s3.put_public_access_block().bucket(name).public_access_block_configuration(private);
        request.send().await.map_err(|error| failure(&error))?;
        self.forget_uploads(name).await?;
        if let Some(key) = &self.plan.kms_key {
            let default = ServerSideEncryptionByDefault::builder()
                .sse_algorithm(ServerSideEncryption::AwsKms)
                .kms_master_key_id(key)
                .build()
                .map_err(refused)?;
            let rule = ServerSideEncryptionRule::builder()
                .apply_server_side_encryption_by_default(default)
                .bucket_key_enabled(true)
                .build();
            let configuration = ServerSideEncryptionConfiguration::builder().rules(rule).build().map_err(refused)?;
            let request = s3.put_bucket_encryption().bucket(name).server_side_encryption_configuration(configuration);
            request.send().await.map_err(|error| failure(&error))?;
        }
        Ok(())
    }

    /// Uploads in parts that nobody ended cost storage and are seen by nobody.
    async fn forget_uploads(&self, name: &str) -> Result<(), Failure> {
        let refused = |error: aws_smithy_types::error::operation::BuildError| Failure::Refused(error.to_string());
        let rule = LifecycleRule::builder()
            .id(UPLOADS_RULE)
            .status(ExpirationStatus::Enabled)
            .filter(LifecycleRuleFilter::builder().prefix("").build())
            .abort_incomplete_multipart_upload(
                AbortIncompleteMultipartUpload::builder().days_after_initiation(UPLOAD_DAYS_MAX).build(),
            )
            .build()
            .map_err(refused)?;
        let rules = BucketLifecycleConfiguration::builder().rules(rule).build().map_err(refused)?;
        let request = self.clients.s3.put_bucket_lifecycle_configuration().bucket(name).lifecycle_configuration(rules);
        request.send().await.map(drop).map_err(|error| failure(&error))
    }

    /// Only an empty bucket can be removed; payloads are nobody's to throw away here.
    pub(super) async fn remove_bucket(&self, name: &str) -> Result<(), Failure> {
        self.clients.s3.delete_bucket().bucket(name).send().await.map(drop).map_err(|error| failure(&error))
    }
}

fn status<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}
