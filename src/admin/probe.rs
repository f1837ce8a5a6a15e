//! What probes and Prometheus ask, in the same words from every kind of region.

use std::collections::BTreeMap;

use axum::{http::StatusCode, response::Response};
use serde_json::json;

use crate::api::answer;

pub async fn live() -> Response {
    plain(StatusCode::OK, "ok\n".to_owned())
}

/// The listeners are opened once there is service, so whoever gets an answer gets service.
pub fn ready(stopping: bool) -> Response {
    match stopping {
        false => plain(StatusCode::OK, "ready\n".to_owned()),
        true => answer::error(StatusCode::SERVICE_UNAVAILABLE, "stopping"),
    }
}

/// Whether users should be sent here: `unhealthy` says why not. `lag`, seconds by peer, is told, never decisive: a partition
/// would take both sides out.
pub fn health(region: &str, state: &str, unhealthy: Option<&str>, lag: &BTreeMap<&String, Option<f64>>) -> Response {
    let healthy = unhealthy.is_none();
    let reason = unhealthy.unwrap_or("active, and the hub accepts");
    let body = json!({
        "region": region,
        "state": state,
        "healthy": healthy,
        "reason": reason,
        "lag_seconds": lag,
    });
    answer::json(if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &body)
}

pub fn metrics(text: String) -> Response {
    answer::with_type(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text.into())
}

fn plain(status: StatusCode, text: String) -> Response {
    answer::with_type(status, "text/plain; charset=utf-8", text.into())
}
