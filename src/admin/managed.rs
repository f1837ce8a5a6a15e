//! The `admin` and `health` listeners of an agent on managed services. What there is answers as [`super`] does; what the
//! agent has no part for is absent.
//!
//! | request | answers |
//! |---|---|
//! | `GET /livez`, `/readyz`, `/region/health` | probes, no token |
//! | `GET /metrics`, `/v1/status` | reading |
//! | `POST /v1/links/{peer}/pause`, `resume` | one link, for all agents of the region |
//! | `POST /v1/drain` | the process |

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    extract::{Path, Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::Response,
    routing::{get, post},
};
use serde_json::json;

use super::{read, unauthorized, with_fallbacks};
use crate::{
    agent::managed::{self, Managed},
    api::{answer, shows},
    config::Auth,
};

/// What the handlers share.
pub struct ManagedAdmin {
    pub agent: Arc<Managed>,
    pub auth: Auth,
}

type Shared = State<Arc<ManagedAdmin>>;

/// All routes of the `admin` listener.
pub fn router(admin: Arc<ManagedAdmin>) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/v1/status", get(status))
        .route("/v1/links/{peer}/pause", post(pause))
        .route("/v1/links/{peer}/resume", post(resume))
        .route("/v1/drain", post(drain))
        .route_layer(middleware::from_fn_with_state(admin.clone(), authorize));
    with_fallbacks(guarded.merge(probes())).with_state(admin)
}

/// The routes of the `health` listener: probes only.
pub fn health_router(admin: Arc<ManagedAdmin>) -> Router {
    with_fallbacks(probes()).with_state(admin)
}

fn probes() -> Router<Arc<ManagedAdmin>> {
    Router::new().route("/livez", get(read::live)).route("/readyz", get(ready)).route("/region/health", get(health))
}

async fn authorize(State(admin): Shared, request: Request, next: Next) -> Response {
    match shows(request.headers(), admin.auth.admin_token.as_ref()) {
        true => next.run(request).await,
        false => unauthorized(),
    }
}

async fn ready(State(admin): Shared) -> Response {
    match admin.agent.stopping().is_cancelled() {
        false => answer::with_type(StatusCode::OK, "text/plain; charset=utf-8", "ready\n".into()),
        true => answer::error(StatusCode::SERVICE_UNAVAILABLE, "stopping"),
    }
}

/// Whether users should be sent here. Lag is told, never decisive: a partition would take both sides out.
async fn health(State(admin): Shared) -> Response {
    let status = admin.agent.status();
    let stopping = admin.agent.stopping().is_cancelled();
    let healthy = status.state == "active" && !stopping;
    let reason = match (healthy, stopping) {
        (true, _) => "active",
        (false, true) => "stopping",
        (false, false) => "the region is not active",
    };
    let lag: BTreeMap<_, _> = status.links.iter().map(|link| (&link.peer, link.lag_seconds.p99)).collect();
    let body = json!({
        "region": status.region,
        "state": status.state,
        "healthy": healthy,
        "reason": reason,
        "lag_seconds": lag,
    });
    answer::json(if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &body)
}

async fn metrics(State(admin): Shared) -> Response {
    admin.agent.refresh_gauges();
    let text = admin.agent.metrics.text();
    answer::with_type(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text.into())
}

async fn status(State(admin): Shared) -> Response {
    answer::json(StatusCode::OK, &admin.agent.status())
}

async fn pause(State(admin): Shared, Path(peer): Path<String>) -> Response {
    set_paused(&admin, &peer, true).await
}

async fn resume(State(admin): Shared, Path(peer): Path<String>) -> Response {
    set_paused(&admin, &peer, false).await
}

async fn set_paused(admin: &ManagedAdmin, peer: &str, paused: bool) -> Response {
    match admin.agent.pause(peer, paused).await {
        Ok(()) => answer::json(StatusCode::OK, &json!({ "peer": peer, "paused": paused })),
        Err(error @ managed::Error::NoLink(..)) => answer::error(StatusCode::NOT_FOUND, &error.to_string()),
        Err(error @ managed::Error::Shared(_)) => answer::error(StatusCode::BAD_GATEWAY, &error.to_string()),
    }
}

async fn drain(State(admin): Shared) -> Response {
    admin.agent.drain();
    answer::json(StatusCode::OK, &json!({ "draining": true }))
}
