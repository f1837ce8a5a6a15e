//! The `admin` and `health` listeners: what operators, probes and Prometheus ask.
//!
//! | request | answers |
//! |---|---|
//! | `GET /` | a status page for people, no token; it asks for one |
//! | `GET /livez`, `/readyz`, `/region/health` | probes, no token |
//! | `GET /v1/watch` | all that the page shows, each second |
//! | `GET /metrics`, `/v1/status`, `/v1/explain`, `/v1/keys`, `/v1/dlq`, `/v1/dlq/{id}`, `/v1/faults` | reading |
//! | `POST /v1/objects/stat`, `GET /v1/objects` | objects, for `verify` |
//! | `GET /v1/documents`, `/v1/documents/total` | documents, for `verify` |
//! | `POST /v1/links/{peer}/pause`, `resume`, `replay`, `repair` | one link |
//! | `POST /v1/dlq/redrive`, `/v1/dlq/discard` | dead letters |
//! | `POST`, `DELETE /v1/faults` | faults, where they are enabled |
//! | `POST`, `DELETE /v1/drill` | one drill at a time |
//! | `GET /v1/regions`, `/v1/failover/inventory`, `POST /v1/failover`, `/v1/drills` | who serves users |
//! | `POST /v1/backup` | a copy of the region's data |
//! | `POST /v1/reload`, `/v1/drain` | the process |
//!
//! Fields: `docs/HTTP.md`.

mod control;
mod documents;
mod drills;
mod evictions;
pub mod managed;
mod objects;
mod probe;
mod read;
mod regions;
pub mod watch;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::Response,
    routing::{get, post},
};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::{
    agent::{self, Agent},
    api::{answer, shows},
    config::{Auth, Config},
    metrics::Metrics,
    ports::{backup::Backup, store::Store},
};
use watch::{History, Watched};

/// Reads the topology file again.
pub type Reload = Arc<dyn Fn() -> BoxFuture<'static, Result<Config, String>> + Send + Sync>;

/// What the handlers share.
pub struct Admin {
    agent: Arc<Agent>,
    /// The region's objects.
    store: Arc<dyn Store>,
    backup: Arc<dyn Backup>,
    auth: Auth,
    reload: Reload,
    /// Long answers (key streams, errands, searches through the log) at a time; more wait.
    long: Semaphore,
    /// Failovers under way, which go on when nobody waits for them.
    failovers: Arc<Semaphore>,
    history: Arc<History>,
}

/// Long answers at a time.
const LONG_MAX: usize = 4;

impl Admin {
    pub fn new(agent: Arc<Agent>, store: Arc<dyn Store>, backup: Arc<dyn Backup>, auth: Auth, reload: Reload) -> Self {
        Self {
            agent,
            store,
            backup,
            auth,
            reload,
            long: Semaphore::new(LONG_MAX),
            failovers: Arc::new(Semaphore::new(regions::COMMANDS_MAX)),
            history: Arc::default(),
        }
    }

    /// Reads the topology file again and takes over what can change; answers what did.
    ///
    /// # Errors
    /// The file is bad, or asks for what only a restart can change. Then nothing changed.
    pub async fn reload(&self) -> Result<Vec<String>, String> {
        let config = (self.reload)().await?;
        self.agent.reload(config).await
    }
}

/// All routes of the `admin` listener.
pub fn router(admin: Arc<Admin>) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(read::metrics))
        .route("/v1/status", get(read::status))
        .route("/v1/watch", get(watch::watch::<Admin>))
        .route("/v1/explain", get(read::explain))
        .route("/v1/keys", get(read::keys))
        .route("/v1/documents", get(documents::list))
        .route("/v1/documents/total", get(documents::total))
        .route("/v1/objects", get(objects::list))
        .route("/v1/objects/stat", post(objects::stat))
        .route("/v1/dlq", get(read::letters))
        .route("/v1/dlq/{id}", get(read::letter))
        .route("/v1/dlq/redrive", post(control::redrive))
        .route("/v1/dlq/discard", post(control::discard))
        .route("/v1/faults", get(read::faults).post(control::inject).delete(control::clear))
        .route("/v1/links/{peer}/pause", post(control::pause))
        .route("/v1/links/{peer}/resume", post(control::resume))
        .route("/v1/links/{peer}/replay", post(control::replay))
        .route("/v1/links/{peer}/repair", post(control::repair))
        .route("/v1/failover/inventory", get(regions::inventory))
        .route("/v1/backup", post(control::back_up))
        .route("/v1/reload", post(control::reload))
        .route("/v1/drain", post(control::drain))
        .merge(regions::router::<Admin>())
        .merge(evictions::router::<Admin>())
        .merge(drills::router())
        .route_layer(middleware::from_fn_with_state(admin.clone(), authorize));
    with_fallbacks(guarded.merge(probes()).route("/", get(probe::page))).with_state(admin)
}

/// The routes of the `health` listener: probes only.
pub fn health_router(admin: Arc<Admin>) -> Router {
    with_fallbacks(probes()).with_state(admin)
}

fn probes() -> Router<Arc<Admin>> {
    Router::new()
        .route("/livez", get(probe::live))
        .route("/readyz", get(read::ready))
        .route("/region/health", get(read::health))
}

fn with_fallbacks<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    router
        .method_not_allowed_fallback(async || {
            answer::error(StatusCode::METHOD_NOT_ALLOWED, "this path does not know the method")
        })
        .fallback(async || answer::error(StatusCode::NOT_FOUND, "no such path"))
}

impl Watched for Admin {
    fn look(&self) -> Value {
        json!({
            "status": self.agent.status(),
            "regions": regions::known(&self.agent.regions),
            "faults": self.agent.faults.list(),
        })
    }

    fn metrics(&self) -> &Metrics {
        &self.agent.metrics
    }

    fn history(&self) -> &Arc<History> {
        &self.history
    }
}

async fn authorize(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    authorized(&admin.auth, request, next).await
}

/// Whether the request may change something; those that look are told, so that the page offers what can be done.
#[derive(Clone, Copy)]
pub(super) struct MayChange(pub bool);

/// What is posted because it is long, and changes nothing.
const QUESTIONS: [&str; 2] = ["/v1/keys", "/v1/objects/stat"];

/// Lets a request through whose token allows it.
async fn authorized(auth: &Auth, mut request: Request, next: Next) -> Response {
    let headers = request.headers();
    if auth.admin_token.is_none() && !is_by_address(headers) {
        let why = "without `auth.admin_token` this listener is asked by address or as `localhost`, not by another name";
        return answer::error(StatusCode::FORBIDDEN, why);
    }
    let may_change = shows(headers, auth.admin_token.as_ref());
    let may_look = may_change || (auth.viewer_token.is_some() && shows(headers, auth.viewer_token.as_ref()));
    if !may_look {
        return unauthorized();
    }
    if !request.method().is_safe() && !QUESTIONS.contains(&request.uri().path()) {
        if !may_change {
            return answer::error(StatusCode::FORBIDDEN, "`auth.viewer_token` may look and change nothing");
        }
        if is_foreign(headers) {
            return answer::error(StatusCode::FORBIDDEN, "the page of another site may change nothing here");
        }
    }
    request.extensions_mut().insert(MayChange(may_change));
    next.run(request).await
}

/// Whether the caller named the listener in a way that no other site's name server can have made it do: where no token is asked
/// for, a page whose name leads to loopback for a moment (DNS rebinding) could do everything.
fn is_by_address(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let Some(host) = host.to_str().ok() else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
}

/// A browser sends it for a page of somewhere else: a listener on loopback asks for no token, and any page can call it.
fn is_foreign(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let host = |value: &HeaderValue| value.to_str().ok().map(str::to_ascii_lowercase);
    let of_page = host(origin).and_then(|origin| origin.split_once("://").map(|(_, host)| host.to_owned()));
    of_page.is_none() || of_page != headers.get(header::HOST).and_then(host)
}

fn unauthorized() -> Response {
    let why = "the request needs `Authorization: Bearer` with the admin token of the topology file";
    let mut response = answer::error(StatusCode::UNAUTHORIZED, why);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// An agent's error as an answer.
fn refused(error: &agent::Error) -> Response {
    let status = match error {
        agent::Error::NoLink(..) => StatusCode::NOT_FOUND,
        agent::Error::Invalid(_) => StatusCode::BAD_REQUEST,
        agent::Error::Peer { .. } => StatusCode::BAD_GATEWAY,
        agent::Error::Hub(error) => return answer::unavailable(&error.to_string(), error.retry_after()),
        agent::Error::Read(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    answer::error(status, &error.to_string())
}
