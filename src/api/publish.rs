//! Services publish: EventBridge's PutEvents and CloudEvents. All events of a request go to the hub in one call.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};

use super::{
    Api,
    answer::{self, read_body},
    cloudevents::{self, EventResult, Outcome},
    put_events::{self, ResponseEntry},
};
use crate::{
    core::{
        event::Draft,
        position::uuid,
        trace::{self, TRACE_BYTES_MAX},
    },
    ports::hub::{self, Published},
};

pub(super) const TARGET: &str = "AWSEvents.PutEvents";

const CONFLICT: &str = "IdempotencyConflict";

/// `POST /`.
pub async fn put_events(State(api): State<Arc<Api>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let mut response = match target(&head.headers) {
        Some(TARGET) => match read_body(&head.headers, body, api.options.limits.max_request_bytes).await {
            Ok(body) => api.take_entries(&head.headers, &body).await,
            Err(error) => aws_error(error.status(), "RequestEntityTooLargeException", &error.to_string()),
        },
        target => {
            let target = target.unwrap_or("none");
            let message = format!("the X-Amz-Target is {target}; this endpoint knows {TARGET}");
            aws_error(StatusCode::BAD_REQUEST, "UnknownOperationException", &message)
        }
    };
    if let Ok(id) = HeaderValue::from_str(&api.request_id()) {
        response.headers_mut().insert("x-amzn-requestid", id);
    }
    response
}

pub(super) fn target(headers: &HeaderMap) -> Option<&str> {
    headers.get("x-amz-target")?.to_str().ok()
}

/// An error as AWS's SDKs read it.
pub fn aws_error(status: StatusCode, code: &str, message: &str) -> Response {
    aws_json(status, &serde_json::json!({ "__type": code, "message": message }))
}

pub(super) fn aws_json(status: StatusCode, body: &impl serde::Serialize) -> Response {
    let text = serde_json::to_vec(body).unwrap_or_default();
    answer::with_type(status, put_events::CONTENT_TYPE, text.into())
}

/// `POST /v1/events`.
pub async fn cloud_events(State(api): State<Arc<Api>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = match read_body(&head.headers, body, api.options.limits.max_request_bytes).await {
        Ok(body) => body,
        Err(error) => return error.answer(),
    };
    let content_type = match head.headers.get(header::CONTENT_TYPE).map(HeaderValue::to_str) {
        Some(Err(_)) => return answer::error(StatusCode::BAD_REQUEST, "the content-type is not ASCII"),
        Some(Ok(text)) => Some(text),
        None => None,
    };
    let headers = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let mut drafts = match cloudevents::parse(content_type, headers, &body, &api.options.ingress) {
        Ok(drafts) => drafts,
        Err(error) => {
            api.options.observer.event_refused("CloudEvent");
            let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::BAD_REQUEST);
            return answer::json(status, &error.body());
        }
    };
    for draft in &mut drafts {
        trace_by_request(draft, &head.headers);
    }
    // A CloudEvent's id is its key.
    let ids: Vec<String> = drafts.iter().map(|draft| draft.key.clone().unwrap_or_default()).collect();
    match api.publish(drafts).await {
        Ok(published) => {
            let result = |(id, published)| EventResult { id, outcome: outcome(published) };
            let results = ids.into_iter().zip(published).map(result).collect();
            answer::json(StatusCode::OK, &cloudevents::Response { results })
        }
        Err(error) => answer::unavailable(&error.to_string(), error.retry_after()),
    }
}

/// An event that names no trace of its own belongs to that of its request, as with EventBridge: instrumented clients say it
/// in a header.
pub(super) fn trace_by_request(draft: &mut Draft, headers: &HeaderMap) {
    if draft.trace.is_none() {
        let header = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let named = [header("x-amzn-trace-id"), header("traceparent")].into_iter().flatten();
        draft.trace = named
            .filter(|trace| trace::id(trace).is_some())
            .find(|trace| trace.len() <= TRACE_BYTES_MAX)
            .map(str::to_owned);
    }
}

fn outcome(published: Published) -> Outcome {
    match published {
        Published::Accepted(_) => Outcome::Accepted,
        Published::Duplicate(_) => Outcome::Duplicate,
        Published::Conflict => Outcome::Conflict,
    }
}

impl Api {
    async fn take_entries(&self, headers: &HeaderMap, body: &[u8]) -> Response {
        let parsed = match put_events::parse(body, &self.hub_names, &self.options.ingress) {
            Ok(parsed) => parsed,
            Err(error) => {
                self.options.observer.event_refused(error.code);
                return aws_json(StatusCode::BAD_REQUEST, &error.body());
            }
        };
        let mut drafts = Vec::with_capacity(parsed.len());
        // Refused entries with their places; the others follow in order.
        let mut refused = Vec::new();
        for (index, entry) in parsed.into_iter().enumerate() {
            match entry {
                Ok(mut draft) => {
                    trace_by_request(&mut draft, headers);
                    drafts.push(draft);
                }
                Err(error) => {
                    self.options.observer.event_refused(error.code);
                    refused.push((index, ResponseEntry::from(error)));
                }
            }
        }
        let mut entries: Vec<ResponseEntry> = match self.publish(drafts).await {
            Ok(published) => published.into_iter().map(entry).collect(),
            Err(error) => return aws_unavailable(&error),
        };
        for (index, entry) in refused {
            entries.insert(index.min(entries.len()), entry);
        }
        aws_json(StatusCode::OK, &put_events::Response::new(entries))
    }

    /// One answer per draft.
    async fn publish(&self, drafts: Vec<Draft>) -> Result<Vec<Published>, hub::Error> {
        if drafts.is_empty() {
            return Ok(Vec::new());
        }
        let expected = drafts.len();
        for _ in drafts.iter().filter(|draft| draft.stamp_stripped) {
            self.options.observer.stamp_stripped();
        }
        let published = self.options.hub.publish(drafts).await?;
        if published.len() != expected {
            return Err(hub::Error::Failed(format!("{} answers to {expected} events", published.len())));
        }
        self.options.observer.published(&published);
        for _ in published.iter().filter(|published| **published == Published::Conflict) {
            self.options.observer.event_refused(CONFLICT);
        }
        Ok(published)
    }

    /// A random UUID (version 4).
    fn request_id(&self) -> String {
        uuid(4, self.options.entropy.next_u64(), self.options.entropy.next_u64())
    }
}

fn entry(published: Published) -> ResponseEntry {
    match published {
        Published::Accepted(id) | Published::Duplicate(id) => ResponseEntry::Accepted { event_id: id.to_string() },
        Published::Conflict => ResponseEntry::Failed {
            error_code: CONFLICT.to_owned(),
            error_message: "The idempotency key is known with another payload.".to_owned(),
        },
    }
}

/// AWS's SDKs try again on any 503, and wait longer if the code says that they are too fast.
pub(super) fn aws_unavailable(error: &hub::Error) -> Response {
    let code = match error {
        hub::Error::Overloaded(_) => "ThrottlingException",
        hub::Error::Draining | hub::Error::Failed(_) => "InternalException",
    };
    let mut response = aws_error(StatusCode::SERVICE_UNAVAILABLE, code, &error.to_string());
    answer::set_retry_after(&mut response, error.retry_after());
    response
}
