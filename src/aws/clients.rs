//! The services of one region, as the agent of another calls them.
//!
//! A client set belongs to a pair: whose services (the target), and who calls (an interface endpoint is regional, and a
//! link works with its home's queues and its peer's bus and ledger). Each region may have an account of its own, so each
//! set has its own credentials.

use std::time::Duration;

use aws_config::{BehaviorVersion, ConfigLoader, Region, SdkConfig, sts::AssumeRoleProvider};
use aws_sdk_dynamodb as dynamodb;
use aws_sdk_eventbridge as eventbridge;
use aws_sdk_s3 as s3;
use aws_sdk_sqs as sqs;
use aws_sdk_sts as sts;
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        interceptors::{
            Intercept, SharedInterceptor,
            context::{Error, FinalizerInterceptorContextRef},
        },
        orchestrator::{HttpResponse, Metadata, OrchestratorError},
        runtime_components::RuntimeComponents,
    },
};
use aws_smithy_types::{config_bag::ConfigBag, retry::RetryConfig, timeout::TimeoutConfig};
use prometheus::IntCounterVec;

use super::failure::is_throttling;
use crate::config::{Aws, Service};

/// The longest that SQS holds a poll.
pub const POLL_MAX: Duration = Duration::from_secs(20);

/// A service that is reached at all answers the handshake in far less.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// As metrics call it.
const S3: &str = "s3";

/// How a client set behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of one call; a long poll gets [`POLL_MAX`] more.
    pub attempt_timeout: Duration,
    /// Repeats that the SDK makes by itself. 0 for an agent's loops, which know when a repeat is harmless.
    pub retries: u32,
    /// `hubweave_aws_requests_total`: service, operation, outcome.
    pub requests: Option<IntCounterVec>,
}

/// One region's services.
#[derive(Clone, Debug)]
pub struct Clients {
    pub events: eventbridge::Client,
    pub sqs: sqs::Client,
    /// The same queues with a time-out that a long poll fits into.
    pub polling: sqs::Client,
    pub dynamodb: dynamodb::Client,
    pub s3: s3::Client,
    pub sts: sts::Client,
}

impl Clients {
    /// Opens the services of the region that `aws` describes for the agent of `caller`. Calls nobody: credentials are
    /// looked for when they are needed.
    pub async fn open(aws: &Aws, caller: &str, options: &Options) -> Clients {
        Clients::of(&shared_config(aws, caller, options).await, aws, caller, options)
    }

    /// With region, credentials and time-outs at hand.
    pub(super) fn of(shared: &SdkConfig, aws: &Aws, caller: &str, options: &Options) -> Clients {
        // What the file leaves out keeps what the environment says (`AWS_ENDPOINT_URL`, `AWS_ENDPOINT_URL_SQS`).
        let endpoint = |service| aws.endpoint(service, caller).map(str::to_owned);
        let counted = |service| options.requests.clone().map(|requests| Counted { service, requests });
        let intercepted = |service| counted(service).map(SharedInterceptor::new);

        let mut events = eventbridge::config::Builder::from(shared);
        if let Some(url) = endpoint(Service::Events) {
            events.set_endpoint_url(Some(url));
        }
        events.set_interceptors(intercepted("events"));
        let mut queues = sqs::config::Builder::from(shared);
        if let Some(url) = endpoint(Service::Sqs) {
            queues.set_endpoint_url(Some(url));
        }
        queues.set_interceptors(intercepted("sqs"));
        let polling = queues.clone().timeout_config(time_outs(options.attempt_timeout + POLL_MAX));
        let mut tables = dynamodb::config::Builder::from(shared);
        if let Some(url) = endpoint(Service::Dynamodb) {
            tables.set_endpoint_url(Some(url));
        }
        tables.set_interceptors(intercepted("dynamodb"));
        let mut objects = s3::config::Builder::from(shared).force_path_style(true);
        if let Some(url) = endpoint(Service::S3) {
            objects.set_endpoint_url(Some(url));
        }
        objects.set_interceptors(intercepted(S3));

        Clients {
            events: eventbridge::Client::from_conf(events.build()),
            sqs: sqs::Client::from_conf(queues.build()),
            polling: sqs::Client::from_conf(polling.build()),
            dynamodb: dynamodb::Client::from_conf(tables.build()),
            s3: s3::Client::from_conf(objects.build()),
            sts: sts::Client::new(shared),
        }
    }
}

/// What every client begins with.
pub(super) fn loader(options: &Options) -> ConfigLoader {
    aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https())
        .timeout_config(time_outs(options.attempt_timeout))
        .retry_config(match options.retries {
            0 => RetryConfig::disabled(),
            retries => RetryConfig::standard().with_max_attempts(retries + 1),
        })
}

/// Region, credentials and time-outs that all of a region's clients share. Its endpoint is that of STS.
pub(super) async fn shared_config(aws: &Aws, caller: &str, options: &Options) -> SdkConfig {
    let region = Region::new(aws.region.clone());
    let mut loader = loader(options).region(region.clone());
    if let Some(profile) = &aws.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(url) = &aws.endpoint_url {
        loader = loader.endpoint_url(url);
    }
    let shared = loader.load().await;
    let Some(role) = &aws.role_arn else { return shared };
    let mut assumed = AssumeRoleProvider::builder(role)
        // Shown in CloudTrail; a session's name has at most 64 characters.
        .session_name(format!("hubweave-{caller}").chars().take(64).collect::<String>())
        .region(region)
        .configure(&shared);
    if let Some(external_id) = &aws.external_id {
        assumed = assumed.external_id(external_id);
    }
    let credentials = aws_sdk_sts::config::SharedCredentialsProvider::new(assumed.build().await);
    shared.into_builder().credentials_provider(credentials).build()
}

fn time_outs(attempt: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT.min(attempt))
        .read_timeout(attempt)
        .operation_attempt_timeout(attempt)
        .build()
}

/// What became of a call, as the label `outcome` says it.
pub const OUTCOMES: [&str; 5] = ["ok", "throttled", "refused", "failed", "unanswered"];

/// Counts every call, once it ended.
#[derive(Debug)]
struct Counted {
    service: &'static str,
    requests: IntCounterVec,
}

impl Intercept for Counted {
    fn name(&self) -> &'static str {
        "hubweave_aws_requests_total"
    }

    // Not the hook after an attempt: one that ran out of time does not get there.
    fn read_after_execution(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let operation = cfg.load::<Metadata>().map_or("", |metadata| metadata.name());
        let outcome = match context.output_or_error() {
            Some(Ok(_)) => OUTCOMES[0],
            Some(Err(error)) => outcome(self.service, error, context.response()),
            None => OUTCOMES[4],
        };
        self.requests.with_label_values(&[self.service, operation, outcome]).inc();
        Ok(())
    }
}

fn outcome(service: &str, error: &OrchestratorError<Error>, response: Option<&HttpResponse>) -> &'static str {
    let Some(response) = response.filter(|_| !error.is_timeout_error()) else { return OUTCOMES[4] };
    match response.status().as_u16() {
        // Whatever was done, its answer cannot be read.
        200..300 => OUTCOMES[4],
        429 => OUTCOMES[1],
        // What stands there, or does not, is what was asked; and S3 says so where it is asked too often.
        404 | 412 if service == S3 => OUTCOMES[0],
        503 if service == S3 => OUTCOMES[1],
        500.. => OUTCOMES[3],
        _ if error_code(response).is_some_and(|code| is_throttling(&code)) => OUTCOMES[1],
        _ => OUTCOMES[2],
    }
}

/// `com.amazonaws.dynamodb.v20120810#ThrottlingException` says `ThrottlingException`.
fn error_code(response: &HttpResponse) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Body {
        #[serde(rename = "__type")]
        kind: String,
    }
    let in_header = response.headers().get("x-amzn-errortype").map(str::to_owned);
    let in_body = || serde_json::from_slice::<Body>(response.body().bytes()?).ok().map(|body| body.kind);
    let code = in_header.or_else(in_body)?;
    let code = code.rsplit('#').next().unwrap_or_default();
    Some(code.split(':').next().unwrap_or_default().to_owned())
}
