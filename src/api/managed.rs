//! The `api` listener of a region on managed services, where one is given: EventBridge's PutEvents, key first, and the
//! region's documents.
//!
//! Whoever publishes here instead of on the bus gets what a bus alone cannot give: the same key again, here or in another
//! region, is answered with the first event's id and makes no second event.
//!
//! CloudEvents are absent: their key is their `id`, which an event on a bus has no place for.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode},
    middleware::{self, Next},
    response::Response,
    routing::{get, post},
};

use super::{
    Observer,
    answer::{self, read_body},
    publish::{TARGET, aws_error, aws_json, aws_unavailable, target, trace_by_request},
    put_events::{self, ResponseEntry},
    shows, state, unauthorized_service,
};
use crate::{
    agent::ordered::{Published, Publisher},
    config::{Auth, Limits},
    core::{ingress::Ingress, position::uuid},
    ports::{clock::Entropy, documents::Documents, hub},
};

/// The id of an event that is on the bus under an id that nobody knows any more.
const UNKNOWN_ID: &str = "00000000-0000-0000-0000-000000000000";

/// What the handlers share.
pub struct ManagedApi {
    pub publisher: Publisher,
    /// The region takes nothing from services.
    pub closed: Arc<AtomicBool>,
    /// `None` where there are no types of them.
    pub documents: Option<Arc<dyn Documents>>,
    /// Names and ARNs that mean this region's bus in `EventBusName`.
    pub hub_names: Vec<String>,
    pub ingress: Ingress,
    pub entropy: Arc<dyn Entropy>,
    pub auth: Auth,
    pub limits: Limits,
    pub observer: Arc<dyn Observer>,
}

type Shared = State<Arc<ManagedApi>>;

/// All routes of the listener.
pub fn router(api: Arc<ManagedApi>) -> Router {
    Router::new()
        .route("/", post(put_events))
        .route("/v1/state/{type}/{id}", get(state::get).post(state::apply).delete(state::delete))
        .route_layer(middleware::from_fn_with_state(api.clone(), authorize))
        .method_not_allowed_fallback(async || {
            answer::error(StatusCode::METHOD_NOT_ALLOWED, "this path does not know the method")
        })
        .fallback(async || answer::error(StatusCode::NOT_FOUND, "no such path"))
        .layer(middleware::from_fn_with_state(api.clone(), observe))
        .with_state(api)
}

async fn observe(State(api): Shared, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    api.observer.request(route.as_ref().map_or("", MatchedPath::as_str), response.status());
    response
}

async fn authorize(State(api): Shared, request: Request, next: Next) -> Response {
    match shows(request.headers(), api.auth.api_token.as_ref()) {
        true => next.run(request).await,
        false => unauthorized_service(request.uri().path()),
    }
}

async fn put_events(State(api): Shared, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let mut response = match target(&head.headers) {
        Some(TARGET) if api.closed.load(Ordering::SeqCst) => aws_unavailable(&hub::Error::Draining),
        Some(TARGET) => api.take(&head.headers, body).await,
        target => {
            let message = format!("the X-Amz-Target is {}; this endpoint knows {TARGET}", target.unwrap_or("none"));
            aws_error(StatusCode::BAD_REQUEST, "UnknownOperationException", &message)
        }
    };
    let id = uuid(4, api.entropy.next_u64(), api.entropy.next_u64());
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-amzn-requestid", id);
    }
    response
}

impl ManagedApi {
    async fn take(&self, headers: &HeaderMap, body: axum::body::Body) -> Response {
        let body = match read_body(headers, body, self.limits.max_request_bytes).await {
            Ok(body) => body,
            Err(error) => return aws_error(error.status(), "RequestEntityTooLargeException", &error.to_string()),
        };
        let parsed = match put_events::parse(&body, &self.hub_names, &self.ingress) {
            Ok(parsed) => parsed,
            Err(error) => {
                self.observer.event_refused(error.code);
                return aws_json(StatusCode::BAD_REQUEST, &error.body());
            }
        };
        let (mut drafts, mut refused) = (Vec::with_capacity(parsed.len()), Vec::new());
        for (index, entry) in parsed.into_iter().enumerate() {
            match entry {
                Ok(mut draft) => {
                    trace_by_request(&mut draft, headers);
                    if draft.stamp_stripped {
                        self.observer.stamp_stripped();
                    }
                    drafts.push(draft);
                }
                Err(error) => {
                    self.observer.event_refused(error.code);
                    refused.push((index, ResponseEntry::from(error)));
                }
            }
        }
        let published = if drafts.is_empty() { Vec::new() } else { self.publisher.publish(drafts).await };
        self.observer.ordered(&published);
        let mut entries: Vec<ResponseEntry> = published.into_iter().map(entry).collect();
        for (index, entry) in refused {
            entries.insert(index.min(entries.len()), entry);
        }
        aws_json(StatusCode::OK, &put_events::Response::new(entries))
    }
}

/// AWS's SDKs send a failed entry again where its code says that it may succeed then.
fn entry(published: Published) -> ResponseEntry {
    let failed =
        |code: &str, message: String| ResponseEntry::Failed { error_code: code.to_owned(), error_message: message };
    match published {
        Published::Accepted(event_id) => ResponseEntry::Accepted { event_id },
        Published::Duplicate(id) => ResponseEntry::Accepted { event_id: id.unwrap_or_else(|| UNKNOWN_ID.to_owned()) },
        Published::Conflict => {
            failed("IdempotencyConflict", "The idempotency key is known with another payload.".to_owned())
        }
        Published::Refused { code, why } => failed(&code, why),
        Published::Unavailable { why } => failed("InternalFailure", why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_certain_asks_for_the_same_again() {
        let failed = |published| match entry(published) {
            ResponseEntry::Failed { error_code, .. } => error_code,
            ResponseEntry::Accepted { event_id } => event_id,
        };
        assert_eq!(failed(Published::Unavailable { why: "x".to_owned() }), "InternalFailure");
        assert_eq!(failed(Published::Conflict), "IdempotencyConflict");
        assert_eq!(failed(Published::Duplicate(Some("id".to_owned()))), "id");
        assert_eq!(failed(Published::Duplicate(None)), UNKNOWN_ID);
    }
}
