//! The `api` listener: what services and peers call.
//!
//! | route | handler | answers |
//! |---|---|---|
//! | `POST /` with `X-Amz-Target: AWSEvents.PutEvents` | [`publish`] | EventBridge's PutEvents |
//! | `GET /`, `/{bucket}`, `/{bucket}/{key}` | [`s3`] | S3's path-style protocol |
//! | `POST /v1/events` | [`publish`] | CloudEvents 1.0: structured, batched, binary |
//! | `GET /v1/events` | [`events`] | a page of events, or after a wait the first; or a stream of them |
//! | `POST /peer/v1/deliver` | [`peer`] | takes a batch in |
//! | `GET /peer/v1/hello` | [`peer`] | who we are and what we have of the asker |
//! | `POST /peer/v1/repair` | [`peer`] | starts sending what we hold of an origin |
//! | `GET`, `POST`, `DELETE` `/v1/state/{type}/{id}` | [`state`] | a document; operations on it; its end |
//! | `POST /peer/v1/documents` | [`peer_documents`] | what a peer asks of documents |
//! | `POST /peer/v1/regions` | [`peer_regions`] | votes, and what a peer asks about who serves users |
//! | `GET`, `PUT`, `POST` `/peer/v1/objects/…` | [`peer_objects`] | reads and takes in objects |
//!
//! Every other path below `/v1` and `/peer` is 404 and every other method 405, in JSON. [`listener`] is the server below, also for `admin` and
//! `health`; [`put_events`] and [`cloudevents`] read what services send, before it has to do with HTTP.

pub(crate) mod answer;
mod bodies;
pub mod cloudevents;
mod events;
pub mod listener;
pub mod managed;
mod peer;
mod peer_documents;
mod peer_objects;
mod peer_regions;
mod publish;
pub mod put_events;
mod s3;
pub mod state;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::Response,
    routing::{any, get, post, put},
};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::{
    agent::ordered,
    config::{Auth, Limits, Secret},
    core::ingress::Ingress,
    ports::{
        clock::Entropy,
        documents::Documents,
        hub::{Hub, Published},
        inbox::Inbox,
        objects::Objects,
        regions::Regions,
        store::Store,
    },
};

/// Who wants to know what is asked here: the metrics.
pub trait Observer: Send + Sync {
    /// A request was answered. `route` is the route's pattern, empty for a path that is none.
    fn request(&self, route: &str, status: StatusCode) {
        let _ = (route, status);
    }

    /// A request for objects was answered. `operation` is S3's name for it.
    fn object_request(&self, operation: &str, status: StatusCode) {
        let _ = (operation, status);
    }

    /// A service reads an object that is not here: from this peer.
    fn object_read_through(&self, peer: &str) {
        let _ = peer;
    }

    /// Events of services got their answers.
    fn published(&self, published: &[Published]) {
        let _ = published;
    }

    /// Events of services got their answers from a bus, key first.
    fn ordered(&self, published: &[ordered::Published]) {
        let _ = published;
    }

    /// A stamp was found in an event of a service and taken out.
    fn stamp_stripped(&self) {}

    /// An event of a service was refused. `code` is EventBridge's, `IdempotencyConflict`, or `CloudEvent`.
    fn event_refused(&self, code: &str) {
        let _ = code;
    }
}

/// Nobody wants to know.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {}

/// What an [`Api`] is made of.
pub struct Options {
    /// The region's name; also names its hub.
    pub region: String,
    pub hub: Arc<dyn Hub>,
    pub inbox: Arc<dyn Inbox>,
    /// The region's own store, for its peers.
    pub objects: Arc<dyn Objects>,
    /// The same, for services.
    pub store: Arc<dyn Store>,
    /// Peers whose objects services may read that are not here, by region.
    pub elsewhere: BTreeMap<String, Arc<dyn Objects>>,
    pub ingress: Ingress,
    /// `None` where there are no types of them.
    pub documents: Option<Arc<dyn Documents>>,
    /// Who serves users; `None` where nobody asks.
    pub regions: Option<Arc<dyn Regions>>,
    pub entropy: Arc<dyn Entropy>,
    pub auth: Auth,
    pub limits: Limits,
    pub observer: Arc<dyn Observer>,
}

/// What the handlers share.
pub struct Api {
    options: Options,
    /// Names and ARNs that mean this region's hub in `EventBusName`.
    hub_names: Vec<String>,
    /// Streams and long polls, which no time-out bounds. Half of the connections at most, so that publishers and peers
    /// always find room.
    waiting: Arc<Semaphore>,
    bodies: bodies::Bodies,
    s3: s3::S3,
}

impl Api {
    pub fn new(options: Options) -> Self {
        let region = &options.region;
        let hub_names = vec![region.clone(), format!("arn:aws:events:{region}:000000000000:event-bus/default")];
        let waiting = (options.limits.max_connections / 2).clamp(1, Semaphore::MAX_PERMITS);
        let bodies = bodies::Bodies::new(&options.limits);
        let s3 = s3::S3::new(&options);
        Api { hub_names, waiting: Arc::new(Semaphore::new(waiting)), bodies, s3, options }
    }
}

/// All routes of the listener.
pub fn router(api: Arc<Api>) -> Router {
    let services = Router::new()
        .route("/", post(publish::put_events))
        .route("/v1/events", get(events::read).post(publish::cloud_events))
        .route("/v1/state/{type}/{id}", get(state::get).post(state::apply).delete(state::delete))
        .route_layer(middleware::from_fn_with_state(api.clone(), authorize_service));
    let peers = Router::new()
        .route("/peer/v1/deliver", post(peer::deliver))
        .route("/peer/v1/hello", get(peer::hello))
        .route("/peer/v1/repair", post(peer::repair))
        .route("/peer/v1/documents", post(peer_documents::ask))
        .route("/peer/v1/regions", post(peer_regions::ask))
        .route("/peer/v1/objects/stat", get(peer_objects::stat))
        .route("/peer/v1/objects/body", get(peer_objects::read).put(peer_objects::put))
        .route("/peer/v1/objects/part", put(peer_objects::put_part))
        .route("/peer/v1/objects/begin", post(peer_objects::begin))
        .route("/peer/v1/objects/finish", post(peer_objects::finish))
        .route("/peer/v1/objects/abort", post(peer_objects::abort))
        .route_layer(middleware::from_fn_with_state(api.clone(), authorize_peer));
    // These judge for themselves: S3's clients show tokens in another way.
    let objects = Router::new()
        .route("/", get(s3::serve))
        .route("/{bucket}", any(s3::serve))
        .route("/{bucket}/", any(s3::serve))
        .route("/{bucket}/{*key}", any(s3::serve));
    services
        .merge(peers)
        .merge(objects)
        .method_not_allowed_fallback(async || {
            answer::error(StatusCode::METHOD_NOT_ALLOWED, "this path does not know the method")
        })
        .fallback(async || no_such_path())
        .layer(middleware::from_fn_with_state(api.clone(), observe))
        .with_state(api)
}

fn no_such_path() -> Response {
    answer::error(StatusCode::NOT_FOUND, "no such path")
}

async fn observe(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    api.options.observer.request(route.as_ref().map_or("", MatchedPath::as_str), response.status());
    response
}

async fn authorize_service(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    match shows(request.headers(), api.options.auth.api_token.as_ref()) {
        true => next.run(request).await,
        false => unauthorized_service(request.uri().path()),
    }
}

fn unauthorized_service(path: &str) -> Response {
    match path {
        // An SDK cannot read any other form.
        "/" => publish::aws_error(StatusCode::UNAUTHORIZED, "UnrecognizedClientException", UNAUTHORIZED),
        _ => unauthorized(),
    }
}

async fn authorize_peer(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    match shows(request.headers(), api.options.auth.peer_token.as_ref()) {
        true => next.run(request).await,
        false => unauthorized(),
    }
}

const UNAUTHORIZED: &str = "the request needs `Authorization: Bearer` with the token of the topology file";

fn unauthorized() -> Response {
    let mut response = answer::error(StatusCode::UNAUTHORIZED, UNAUTHORIZED);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// Whether the request shows the token; without a configured one anything will do.
pub(crate) fn shows(headers: &HeaderMap, token: Option<&Secret>) -> bool {
    let Some(token) = token else { return true };
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.split_once(' '));
    let Some((scheme, shown)) = shown else { return false };
    // Comparing digests takes the same time wherever the texts differ, and however long they are.
    scheme.eq_ignore_ascii_case("bearer") && Sha256::digest(shown.trim()) == Sha256::digest(token.expose())
}
