//! The `admin` and `health` listeners of an agent on managed services. What there is answers as [`super`] does; what a
//! region without a log cannot do is 404 with what to do instead.
//!
//! | request | answers |
//! |---|---|
//! | `GET /` | a status page for people, no token; it asks for one |
//! | `GET /livez`, `/readyz`, `/region/health` | probes, no token |
//! | `GET /v1/watch` | all that the page shows, each second |
//! | `GET /metrics`, `/v1/status`, `/v1/explain`, `/v1/dlq`, `/v1/dlq/{id}`, `/v1/faults` | reading |
//! | `GET /v1/documents`, `/v1/documents/total` | documents, for `verify` |
//! | `GET`, `POST /v1/evictions`, `GET /v1/documents/given-up`, `POST /v1/documents/given-up/discard` | regions that documents do without |
//! | `GET /v1/keys`, `POST /v1/keys` | the ledger's rows, all or some, for `verify` |
//! | `GET /v1/regions`, `/v1/failover/inventory`, `POST /v1/failover`, `/v1/drills` | who serves users |
//! | `POST /v1/links/{peer}/pause`, `resume` | one link, for all agents of the region |
//! | `POST /v1/dlq/redrive`, `/v1/dlq/discard` | dead letters |
//! | `POST`, `DELETE /v1/faults` | faults of this agent, where they are enabled |
//! | `POST`, `DELETE /v1/drill` | one drill at a time, as far as this agent knows |
//! | `POST /v1/drain` | the process |

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Bytes,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, StatusCode},
    middleware::{self, Next},
    response::Response,
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{
    authorized,
    control::{self, parse},
    documents, drills, evictions, probe,
    regions::{self, Voting, Whose},
    watch::{History, Watched, watch},
    with_fallbacks,
};
use crate::{
    agent::{
        managed::{self, Managed, explain::Asked, keys::AskedKeys, letters::Selection},
        regions::failover::Commands,
    },
    api::{answer, listener::Connection},
    config::Auth,
    faults::{Direction, Order},
    metrics::Metrics,
};

/// What the handlers share.
pub struct ManagedAdmin {
    pub agent: Arc<Managed>,
    pub auth: Auth,
    pub history: Arc<History>,
    failovers: Arc<Semaphore>,
}

impl ManagedAdmin {
    pub fn new(agent: Arc<Managed>, auth: Auth) -> Self {
        Self { agent, auth, history: Arc::default(), failovers: Arc::new(Semaphore::new(regions::COMMANDS_MAX)) }
    }
}

impl Voting for ManagedAdmin {
    fn commands(&self) -> Commands<'_> {
        self.agent.commands()
    }

    fn under_way(&self) -> &Arc<Semaphore> {
        &self.failovers
    }
}

type Shared = State<Arc<ManagedAdmin>>;

/// How soon to ask again for a ledger that somebody else is reading.
const BUSY_RETRY: Duration = Duration::from_secs(2);

const NO_REPLAY: &str = "a region on AWS has no log to send again from: publish the events again in their region, under \
                         their keys; what the peer has is suppressed there";
const NO_REPAIR: &str = "a region on AWS is not refilled by its peers: its queues and its ledger do not lie on an agent's \
                         disk; a table that was lost is restored from DynamoDB's backups";
const NO_RELOAD: &str =
    "an agent on AWS reads the file when it starts: restart the region's agents, one after the other";

/// All routes of the `admin` listener.
pub fn router(admin: Arc<ManagedAdmin>) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/v1/status", get(status))
        .route("/v1/watch", get(watch::<ManagedAdmin>))
        .route("/v1/explain", get(explain))
        .route("/v1/keys", get(keys).post(found_keys))
        .route("/v1/documents", get(documents::list))
        .route("/v1/documents/total", get(documents::total))
        .route("/v1/dlq", get(letters))
        .route("/v1/dlq/{id}", get(letter))
        .route("/v1/dlq/redrive", post(redrive))
        .route("/v1/dlq/discard", post(discard))
        .route("/v1/faults", get(faults).post(inject).delete(clear))
        .route("/v1/links/{peer}/pause", post(pause))
        .route("/v1/links/{peer}/resume", post(resume))
        .route("/v1/links/{peer}/replay", post(async || absent(NO_REPLAY)))
        .route("/v1/links/{peer}/repair", post(async || absent(NO_REPAIR)))
        .route("/v1/failover/inventory", get(inventory))
        .route("/v1/reload", post(async || absent(NO_RELOAD)))
        .route("/v1/drain", post(drain))
        .merge(regions::router::<ManagedAdmin>())
        .merge(evictions::router::<ManagedAdmin>())
        .merge(evictions::given_up_router())
        .merge(drills::router())
        .route_layer(middleware::from_fn_with_state(admin.clone(), authorize));
    with_fallbacks(guarded.merge(probes()).route("/", get(probe::page))).with_state(admin)
}

/// The routes of the `health` listener: probes only.
pub fn health_router(admin: Arc<ManagedAdmin>) -> Router {
    with_fallbacks(probes()).with_state(admin)
}

fn probes() -> Router<Arc<ManagedAdmin>> {
    Router::new().route("/livez", get(probe::live)).route("/readyz", get(ready)).route("/region/health", get(health))
}

async fn authorize(State(admin): Shared, request: Request, next: Next) -> Response {
    authorized(&admin.auth, request, next).await
}

impl Watched for ManagedAdmin {
    fn look(&self) -> Value {
        json!({ "status": self.agent.status(), "regions": regions::known(&self.agent.regions), "faults": self.agent.faults.list() })
    }

    fn metrics(&self) -> &Metrics {
        &self.agent.metrics
    }

    fn history(&self) -> &Arc<History> {
        &self.history
    }
}

fn absent(why: &str) -> Response {
    answer::error(StatusCode::NOT_FOUND, why)
}

/// An agent's answer, or its error.
fn answered<T: serde::Serialize>(result: Result<T, managed::Error>) -> Response {
    match result {
        Ok(body) => answer::json(StatusCode::OK, &body),
        Err(error) => refused(&error),
    }
}

fn refused(error: &managed::Error) -> Response {
    let status = match error {
        managed::Error::Busy => return answer::unavailable(&error.to_string(), BUSY_RETRY),
        managed::Error::NoLink(..) => StatusCode::NOT_FOUND,
        managed::Error::Invalid(_) => StatusCode::BAD_REQUEST,
        managed::Error::Shared(_) | managed::Error::Ledger(_) | managed::Error::Letters(..) => StatusCode::BAD_GATEWAY,
    };
    answer::error(status, &error.to_string())
}

async fn ready(State(admin): Shared) -> Response {
    let not_yet = match admin.agent.stopping().is_cancelled() {
        true => Some("stopping"),
        false => (!admin.agent.regions.has_looked()).then_some("starting: the region's table was not read yet"),
    };
    probe::ready(not_yet)
}

async fn health(State(admin): Shared) -> Response {
    let status = admin.agent.status();
    let lag = status.links.iter().map(|link| (&link.peer, link.lag_seconds.p99)).collect();
    let unhealthy = match admin.agent.stopping().is_cancelled() {
        true => Some("stopping"),
        false => admin.agent.regions.unhealthy(),
    };
    probe::health(&status.region, status.state, unhealthy, &lag)
}

async fn metrics(State(admin): Shared, headers: HeaderMap) -> Response {
    admin.agent.refresh_gauges();
    probe::metrics(&admin.agent.metrics, &headers)
}

async fn status(State(admin): Shared) -> Response {
    answer::json(StatusCode::OK, &admin.agent.status())
}

/// Walks through the dead letters too, so it may take longer than a request does; one walk at a time.
async fn explain(
    State(admin): Shared,
    Extension(connection): Extension<Arc<Connection>>,
    Query(asked): Query<Asked>,
) -> Response {
    connection.lift_timeout();
    answered(admin.agent.explain(&asked).await)
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    /// `false`: the first line alone.
    #[serde(default = "all")]
    rows: bool,
}

fn all() -> bool {
    true
}

async fn keys(
    State(admin): Shared,
    Extension(connection): Extension<Arc<Connection>>,
    Query(Keys { rows }): Query<Keys>,
) -> Response {
    connection.lift_timeout();
    match admin.agent.keys(rows) {
        Ok(pieces) => answer::lines(pieces),
        Err(error) => refused(&error),
    }
}

async fn found_keys(State(admin): Shared, body: Bytes) -> Response {
    match parse::<AskedKeys>(&body) {
        Ok(asked) => answered(admin.agent.found_keys(&asked).await),
        Err(response) => *response,
    }
}

/// Reads the whole ledger.
async fn inventory(
    State(admin): Shared,
    Extension(connection): Extension<Arc<Connection>>,
    Query(whose): Query<Whose>,
) -> Response {
    connection.lift_timeout();
    answered(admin.agent.inventory(&whose.region).await)
}

async fn letters(
    State(admin): Shared,
    Extension(connection): Extension<Arc<Connection>>,
    Query(selection): Query<Selection>,
) -> Response {
    connection.lift_timeout();
    answered(admin.agent.letters(&selection).await)
}

async fn letter(
    State(admin): Shared,
    Extension(connection): Extension<Arc<Connection>>,
    Path(id): Path<String>,
) -> Response {
    connection.lift_timeout();
    match admin.agent.letter(&id).await {
        Ok(Some(letter)) => answer::with_type(StatusCode::OK, "application/json", letter.json().into()),
        Ok(None) => answer::error(StatusCode::NOT_FOUND, &format!("no dead letter {id}")),
        Err(error) => refused(&error),
    }
}

async fn redrive(State(admin): Shared, Extension(connection): Extension<Arc<Connection>>, body: Bytes) -> Response {
    connection.lift_timeout();
    match parse::<Selection>(&body) {
        Ok(selection) => answered(admin.agent.redrive(&selection).await),
        Err(response) => *response,
    }
}

async fn discard(State(admin): Shared, Extension(connection): Extension<Arc<Connection>>, body: Bytes) -> Response {
    connection.lift_timeout();
    match parse::<Selection>(&body) {
        Ok(selection) => answered(admin.agent.discard(&selection).await),
        Err(response) => *response,
    }
}

async fn faults(State(admin): Shared) -> Response {
    answer::json(StatusCode::OK, &json!({ "faults": admin.agent.faults.list() }))
}

async fn inject(State(admin): Shared, body: Bytes) -> Response {
    let order: Order = match parse(&body) {
        Ok(order) => order,
        Err(response) => return *response,
    };
    if order.direction == Direction::In {
        let why = "direction: in: what a peer on AWS brings here it writes by itself; inject the fault there, with \
                   direction out";
        return answer::error(StatusCode::BAD_REQUEST, why);
    }
    let known = |peer: &String| *peer == admin.agent.region || admin.agent.peers().any(|known| known == peer);
    control::injected(&admin.agent.faults, order, known)
}

async fn clear(State(admin): Shared, Query(clear): Query<control::Clear>) -> Response {
    control::cleared(&admin.agent.faults, &clear)
}

async fn pause(State(admin): Shared, Path(peer): Path<String>) -> Response {
    set_paused(&admin, &peer, true).await
}

async fn resume(State(admin): Shared, Path(peer): Path<String>) -> Response {
    set_paused(&admin, &peer, false).await
}

async fn set_paused(admin: &ManagedAdmin, peer: &str, paused: bool) -> Response {
    let done = admin.agent.pause(peer, paused).await;
    answered(done.map(|()| json!({ "peer": peer, "paused": paused })))
}

async fn drain(State(admin): Shared) -> Response {
    admin.agent.drain();
    answer::json(StatusCode::OK, &json!({ "draining": true }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_busy_says_when_to_come_again_and_what_is_wrong_is_the_callers() {
        let busy = refused(&managed::Error::Busy);
        assert_eq!(
            (busy.status(), &busy.headers()["retry-after"]),
            (StatusCode::SERVICE_UNAVAILABLE, &"2".parse().unwrap())
        );
        assert_eq!(refused(&managed::Error::Invalid("x".to_owned())).status(), StatusCode::BAD_REQUEST);
    }
}
