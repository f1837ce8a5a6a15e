//! What probes and Prometheus ask, in the same words from every kind of region.

use std::collections::BTreeMap;

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use serde_json::json;

use crate::{
    api::answer,
    metrics::{Metrics, open_metrics},
};

pub async fn live() -> Response {
    plain(StatusCode::OK, "ok\n".to_owned())
}

/// The listeners are opened once there is service, so whoever gets an answer gets service.
pub fn ready(not_yet: Option<&str>) -> Response {
    match not_yet {
        None => plain(StatusCode::OK, "ready\n".to_owned()),
        Some(why) => answer::error(StatusCode::SERVICE_UNAVAILABLE, why),
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

/// `GET /`: a page for people, which asks for the rest itself. It says nothing of the region, so it needs no token.
pub async fn page() -> Response {
    let mut response = answer::with_type(StatusCode::OK, "text/html; charset=utf-8", include_str!("page.html").into());
    // All of it is in the page; nothing else may be loaded, and nobody may frame it.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                  frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

/// In the format that the scrape prefers: exemplars are in OpenMetrics only.
pub fn metrics(metrics: &Metrics, headers: &HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    match open_metrics::is_wanted(accept) {
        true => answer::with_type(StatusCode::OK, open_metrics::CONTENT_TYPE, metrics.open_metrics().into()),
        false => answer::with_type(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics.text().into()),
    }
}

fn plain(status: StatusCode, text: String) -> Response {
    answer::with_type(status, "text/plain; charset=utf-8", text.into())
}
