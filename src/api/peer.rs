//! Peers deliver. What is decided about a batch is the inbox's affair; this is only its way in.

use std::sync::Arc;

use axum::{
    extract::{Query, Request, State},
    http::StatusCode,
    response::Response,
};
use serde::Deserialize;

use super::{
    Api,
    answer::{self, content_length, read_body},
    listener::CutOff,
};
use crate::{
    core::batch::Batch,
    ports::{
        inbox::Refusal,
        peer::{BATCH_CONTENT_TYPE, RepairRequest},
    },
};

/// Bytes of a batch: an event of the greatest size that can be configured (64 MiB), and what goes with it.
const BATCH_BYTES_MAX: u64 = 80 << 20;

/// Bytes of a repair request: 4,096 lives fit in several times.
const REPAIR_BYTES_MAX: u64 = 1 << 20;

/// `POST /peer/v1/deliver`.
pub async fn deliver(State(api): State<Arc<Api>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    // A batch that was cut between two records is a shorter batch: only its length tells.
    if content_length(&head.headers).is_none() {
        return answer::error(StatusCode::LENGTH_REQUIRED, "a batch needs a content-length");
    }
    let body = match read_body(&head.headers, body, BATCH_BYTES_MAX).await {
        Ok(body) => body,
        Err(error) => return error.answer(),
    };
    let batch = match Batch::decode(&body) {
        Ok(batch) => batch,
        Err(error) => return answer::error(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    match api.options.inbox.deliver(batch).await {
        Ok(reply) => answer::with_type(StatusCode::OK, BATCH_CONTENT_TYPE, reply.encode().into()),
        Err(refusal) => refused(&refusal),
    }
}

#[derive(Deserialize)]
pub struct Asker {
    region: Option<String>,
}

/// `GET /peer/v1/hello?region=ASKER`.
pub async fn hello(State(api): State<Arc<Api>>, request: Request) -> Response {
    let asker = Query::<Asker>::try_from_uri(request.uri()).ok().and_then(|Query(asker)| asker.region);
    let Some(asker) = asker else {
        return answer::error(StatusCode::BAD_REQUEST, "the query needs `region`, the asker's name");
    };
    match api.options.inbox.hello(&asker).await {
        Ok(hello) => answer::json(StatusCode::OK, &hello),
        Err(refusal) => refused(&refusal),
    }
}

/// `POST /peer/v1/repair`.
pub async fn repair(State(api): State<Arc<Api>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = match read_body(&head.headers, body, REPAIR_BYTES_MAX).await {
        Ok(body) => body,
        Err(error) => return error.answer(),
    };
    let request: RepairRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return answer::error(StatusCode::BAD_REQUEST, &format!("the repair request: {error}")),
    };
    match api.options.inbox.request_repair(request).await {
        Ok(()) => answer::json(StatusCode::ACCEPTED, &serde_json::json!({})),
        Err(refusal) => refused(&refusal),
    }
}

pub fn refused(refusal: &Refusal) -> Response {
    let text = refusal.to_string();
    match refusal {
        Refusal::Foreign(_) => answer::error(StatusCode::CONFLICT, &text),
        Refusal::Malformed(_) => answer::error(StatusCode::BAD_REQUEST, &text),
        Refusal::Unavailable { retry_after, .. } => answer::unavailable(&text, *retry_after),
        Refusal::CutOff => cut_off(),
    }
}

/// The listener sees this and closes the connection without an answer.
pub fn cut_off() -> Response {
    let mut response = answer::error(StatusCode::BAD_GATEWAY, &Refusal::CutOff.to_string());
    response.extensions_mut().insert(CutOff);
    response
}
