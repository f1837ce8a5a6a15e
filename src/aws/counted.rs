//! Counts every call, once it ended, and what was in it.

use aws_sdk_dynamodb::operation::{
    batch_execute_statement::BatchExecuteStatementInput, batch_get_item::BatchGetItemInput,
};
use aws_sdk_eventbridge::operation::put_events::PutEventsInput;
use aws_sdk_sqs::operation::{
    change_message_visibility_batch::ChangeMessageVisibilityBatchInput, delete_message_batch::DeleteMessageBatchInput,
    receive_message::ReceiveMessageOutput, send_message_batch::SendMessageBatchInput,
};
use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        interceptors::{
            Intercept,
            context::{BeforeSerializationInterceptorContextRef, Error, FinalizerInterceptorContextRef, Input, Output},
        },
        orchestrator::{HttpResponse, Metadata, OrchestratorError},
        runtime_components::RuntimeComponents,
    },
};
use aws_smithy_types::config_bag::{ConfigBag, Storable, StoreReplace};

use super::failure::is_throttling;
use crate::metrics::AwsRequests;

/// What became of a call, as the label `outcome` says it.
pub const OUTCOMES: [&str; 5] = ["ok", "throttled", "refused", "failed", "unanswered"];

#[derive(Debug)]
pub struct Counted {
    pub service: &'static str,
    pub requests: AwsRequests,
}

/// Entries of the call that is being made: what a request holds is gone when its answer is there.
#[derive(Clone, Copy, Debug)]
struct Entries(u64);

impl Storable for Entries {
    type Storer = StoreReplace<Self>;
}

impl Intercept for Counted {
    fn name(&self) -> &'static str {
        "hubweave_aws_requests_total"
    }

    fn read_before_serialization(
        &self,
        context: &BeforeSerializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(entries) = entries(context.input()) {
            cfg.interceptor_state().store_put(Entries(entries as u64));
        }
        Ok(())
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
            Some(Ok(output)) => {
                let entries = received(output).or(cfg.load::<Entries>().map(|entries| entries.0));
                if let Some(entries) = entries {
                    self.requests.entries.with_label_values(&[self.service, operation]).inc_by(entries);
                }
                OUTCOMES[0]
            }
            Some(Err(error)) => outcome(error, context.response()),
            None => OUTCOMES[4],
        };
        self.requests.calls.with_label_values(&[self.service, operation, outcome]).inc();
        Ok(())
    }
}

/// How much a request holds of what AWS charges or limits singly.
fn entries(input: &Input) -> Option<usize> {
    if let Some(input) = input.downcast_ref::<PutEventsInput>() {
        return Some(input.entries().len());
    }
    if let Some(input) = input.downcast_ref::<BatchExecuteStatementInput>() {
        return Some(input.statements().len());
    }
    if let Some(input) = input.downcast_ref::<BatchGetItemInput>() {
        return Some(input.request_items()?.values().map(|of_table| of_table.keys().len()).sum());
    }
    if let Some(input) = input.downcast_ref::<DeleteMessageBatchInput>() {
        return Some(input.entries().len());
    }
    if let Some(input) = input.downcast_ref::<ChangeMessageVisibilityBatchInput>() {
        return Some(input.entries().len());
    }
    input.downcast_ref::<SendMessageBatchInput>().map(|input| input.entries().len())
}

fn received(output: &Output) -> Option<u64> {
    output.downcast_ref::<ReceiveMessageOutput>().map(|output| output.messages().len() as u64)
}

fn outcome(error: &OrchestratorError<Error>, response: Option<&HttpResponse>) -> &'static str {
    let Some(response) = response.filter(|_| !error.is_timeout_error()) else { return OUTCOMES[4] };
    match response.status().as_u16() {
        429 => OUTCOMES[1],
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
