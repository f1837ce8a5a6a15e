//! A region's buckets in S3, as one region's agent sees those of another, or its own.
//!
//! | call | is | for |
//! |---|---|---|
//! | `stat` | HeadObject with checksums | only sums over the whole object count, never those of its parts, and no ETag |
//! | `read` | GetObject of a range, with the version's id or `If-Match` | bytes of what was looked at, or nothing |
//! | `put` | PutObject with `If-None-Match: *` and a checksum | S3 compares before it keeps anything |
//! | `begin`, `put_part`, `finish`, `abort` | a multi-part upload, finished with `If-None-Match: *` | see [`uploads`] |
//! | `copy` | CopyObject, or UploadPartCopy in parts, at the destination | see [`copy`] |
//!
//! What pins an object is its version's id where the bucket has versions, else its ETag: who overwrites it with the very
//! same bytes may have the same one, which does no harm.
//!
//! The client is the region's own with other time-outs: a call that moves bytes may take as long as they need, at
//! [`SLOWEST_BYTES_PER_SECOND`].

mod body;
mod copy;
mod meta;
mod uploads;

use std::{
    ops::Range,
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_sdk_s3::{
    self as s3,
    error::{ProvideErrorMetadata, SdkError},
    types::ChecksumMode,
};
use aws_smithy_runtime_api::client::{
    orchestrator::HttpResponse, stalled_stream_protection::StalledStreamProtectionConfig,
};
use aws_smithy_types::timeout::TimeoutConfig;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use tokio::time::Instant;

use super::{Clients, clients::CONNECT_TIMEOUT, failure};
use crate::{
    core::link::Failure,
    ports::{
        clock::Clock,
        objects::{Announced, Body, Error, Location, Objects, Stat, Upload},
    },
};

/// Bytes that move more slowly are taken for stuck.
const SLOWEST_BYTES_PER_SECOND: u64 = 64 << 10;

/// The most that S3 copies in one call.
const COPY_BYTES_MAX: u64 = 5 << 30;

/// Parts of a large copy. They cost a request each and are what is done again after a failure.
const COPY_PART_BYTES: u64 = 256 << 20;

/// Who writes the same key at the same time is over by then.
const CONFLICT_PAUSE: Duration = Duration::from_millis(500);

/// Codes that say that what arrived is not what was announced.
const DAMAGED: [&str; 6] = [
    "BadDigest",
    "IncompleteBody",
    "InvalidDigest",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
    "ChecksumMismatch",
];

/// How calls behave.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of a call that moves no bytes. One that does gets a second more for each 64 KiB.
    pub attempt_timeout: Duration,
    /// Up to so many bytes an object is copied in one call; S3 takes no more than 5 GiB. Less makes large copies quicker, as
    /// parts go side by side, and costs requests.
    pub copy_at_once_bytes: u64,
    /// Bytes of a part of a larger copy: 5 MiB at least.
    pub copy_part_bytes: u64,
}

impl Options {
    pub fn new(attempt_timeout: Duration) -> Options {
        Options { attempt_timeout, copy_at_once_bytes: COPY_BYTES_MAX, copy_part_bytes: COPY_PART_BYTES }
    }
}

/// The buckets of one region.
#[derive(Clone)]
pub struct S3Objects {
    s3: s3::Client,
    options: Options,
    clock: Arc<dyn Clock>,
    /// Until when copies are not tried, as S3 refused one.
    copies_refused: Arc<Mutex<Option<Instant>>>,
}

impl S3Objects {
    /// `clients` are those of the region whose buckets these are: S3 answers nobody for a bucket of another region.
    pub fn new(clients: &Clients, options: Options, clock: Arc<dyn Clock>) -> S3Objects {
        // The stream's own time-outs judge: a body that is paced by the link is no connection that stalls.
        let config = clients.s3.config().to_builder();
        let config = config.stalled_stream_protection(StalledStreamProtectionConfig::disabled()).build();
        S3Objects { s3: s3::Client::from_conf(config), options, clock, copies_refused: Arc::default() }
    }

    /// How long a call that moves so many bytes may take.
    fn limit(&self, bytes: u64) -> Duration {
        self.options.attempt_timeout + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND)
    }

    /// What a call that moves so many bytes is made with. Only the limit of the attempt differs: connections are kept by
    /// their own two time-outs.
    fn within(&self, bytes: u64) -> s3::config::Builder {
        let limits = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT.min(self.options.attempt_timeout))
            .disable_read_timeout()
            .operation_attempt_timeout(self.limit(bytes))
            .build();
        s3::config::Builder::new().timeout_config(limits)
    }

    async fn stat_now(&self, at: &Location) -> Result<Option<Stat>, Error> {
        let request = self.s3.head_object().bucket(&at.bucket).key(&at.key).checksum_mode(ChecksumMode::Enabled);
        match request.customize().config_override(self.within(0)).send().await {
            Ok(found) => Ok(Some(meta::stat(&found))),
            Err(error) if status(&error) == Some(404) => Ok(None),
            Err(error) => Err(refused(&error)),
        }
    }

    async fn read_now(&self, at: &Location, version: &str, range: Range<u64>) -> Result<Body, Error> {
        let pin = meta::Pin::of(version);
        if range.is_empty() {
            // There is no way to ask for no bytes.
            let request = self.s3.head_object().bucket(&at.bucket).key(&at.key);
            let request = request.set_version_id(pin.version_id()).set_if_match(pin.etag());
            return match request.customize().config_override(self.within(0)).send().await {
                Ok(_) => Ok(futures::stream::empty().boxed()),
                Err(error) => Err(gone_if_changed(&error)),
            };
        }
        let request = self
            .s3
            .get_object()
            .bucket(&at.bucket)
            .key(&at.key)
            .range(format!("bytes={}-{}", range.start, range.end - 1))
            .set_version_id(pin.version_id())
            .set_if_match(pin.etag());
        let answer = request.customize().config_override(self.within(0)).send().await;
        let answer = answer.map_err(|error| gone_if_changed(&error))?;
        Ok(body::of_answer(answer.body, range.end - range.start, self.options.attempt_timeout))
    }

    async fn put_now(&self, at: &Location, announced: Announced, body: Body) -> Result<Stat, Error> {
        let (bytes, fault) = body::to_send(announced.size, body).await?;
        let mut request = self.s3.put_object().bucket(&at.bucket).key(&at.key).if_none_match("*").body(bytes);
        request = request.content_length(i64::try_from(announced.size).unwrap_or(i64::MAX));
        request = meta::with_attributes(request, &announced.attributes);
        request = meta::with_checksum(request, &announced.sums);
        let answer = request.customize().config_override(self.within(announced.size)).send().await;
        let answer = match answer {
            Ok(answer) => answer,
            // What stopped the body says more than that the call did not end well.
            Err(error) => match fault.take() {
                Some(fault) => return Err(fault),
                None => return Err(self.not_written(at, &error).await),
            },
        };
        Ok(Stat {
            size: announced.size,
            sums: announced.sums,
            version: meta::version(answer.version_id(), answer.e_tag()),
            modified: self.clock.now(),
            attributes: announced.attributes,
        })
    }
}

impl S3Objects {
    /// Why nothing was written where nothing may be replaced.
    async fn not_written<E>(&self, at: &Location, error: &SdkError<E, HttpResponse>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        match status(error) {
            Some(412) => Error::Exists,
            // Somebody else writes the same key just now, or did.
            Some(409) => match self.stat_now(at).await {
                Ok(Some(_)) => Error::Exists,
                Ok(None) => Failure::Throttled { after: CONFLICT_PAUSE }.into(),
                Err(error) => error,
            },
            _ => refused(error),
        }
    }
}

impl Objects for S3Objects {
    fn stat<'a>(&'a self, at: &'a Location) -> BoxFuture<'a, Result<Option<Stat>, Error>> {
        self.stat_now(at).boxed()
    }

    fn read<'a>(&'a self, at: &'a Location, version: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Body, Error>> {
        self.read_now(at, version, range).boxed()
    }

    fn put<'a>(&'a self, at: &'a Location, announced: Announced, body: Body) -> BoxFuture<'a, Result<Stat, Error>> {
        self.put_now(at, announced, body).boxed()
    }

    fn begin<'a>(
        &'a self,
        at: &'a Location,
        announced: &'a Announced,
        tag: &'a str,
    ) -> BoxFuture<'a, Result<Upload, Error>> {
        self.begin_now(at, announced, tag).boxed()
    }

    fn put_part<'a>(
        &'a self,
        at: &'a Location,
        upload: &'a Upload,
        number: u32,
        size: u64,
        body: Body,
    ) -> BoxFuture<'a, Result<(), Error>> {
        self.put_part_now(at, upload, number, size, body).boxed()
    }

    fn finish<'a>(
        &'a self,
        at: &'a Location,
        upload: &'a Upload,
        parts: u32,
        announced: Announced,
    ) -> BoxFuture<'a, Result<Stat, Error>> {
        self.finish_now(at, upload, parts, announced).boxed()
    }

    fn abort<'a>(&'a self, at: &'a Location, upload: &'a Upload) -> BoxFuture<'a, Result<(), Error>> {
        self.abort_now(at, upload).boxed()
    }

    fn copy<'a>(
        &'a self,
        from: &'a Location,
        stat: &'a Stat,
        to: &'a Location,
    ) -> BoxFuture<'a, Result<Option<Stat>, Error>> {
        self.copy_now(from, stat, to).boxed()
    }
}

fn status<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// What S3 said no to, where it is about the call and not about what stands there.
fn refused<E>(error: &SdkError<E, HttpResponse>) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code);
    match (code, status(error)) {
        (Some("NoSuchUpload"), _) => Error::Gone,
        (Some(code), _) if DAMAGED.contains(&code) => Error::Damaged(failure(error).to_string()),
        // An answer to HEAD has no body that could say more.
        (None, Some(403)) => Failure::Refused("AccessDenied".to_owned()).into(),
        _ => failure(error).into(),
    }
}

/// The same for a call that asks for one very object: it is gone where another stands there, or none.
fn gone_if_changed<E>(error: &SdkError<E, HttpResponse>) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code);
    match status(error) {
        // 405: a marker that says deleted; 416: shorter than it was.
        Some(404 | 405 | 412 | 416) if code != Some("NoSuchBucket") => Error::Gone,
        _ => refused(error),
    }
}
