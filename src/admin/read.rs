//! What can be asked without changing anything.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{Admin, probe, refused};
use crate::{
    agent::{Range, Selection},
    api::{answer, listener::Connection},
};

type Shared = State<Arc<Admin>>;

pub async fn ready(State(admin): Shared) -> Response {
    probe::ready(admin.agent.stopping().is_cancelled().then_some("stopping"))
}

pub async fn health(State(admin): Shared) -> Response {
    let status = admin.agent.status();
    let lag = status.links.iter().map(|link| (&link.peer, link.lag_seconds.p99)).collect();
    let unhealthy = match admin.agent.stopping().is_cancelled() {
        true => Some("stopping"),
        false => admin.agent.regions.unhealthy(),
    };
    probe::health(&status.region, status.state, unhealthy, &lag)
}

pub async fn metrics(State(admin): Shared, headers: HeaderMap) -> Response {
    admin.agent.refresh_gauges();
    probe::metrics(&admin.agent.metrics, &headers)
}

pub async fn status(State(admin): Shared) -> Response {
    answer::json(StatusCode::OK, &admin.agent.status())
}

pub async fn faults(State(admin): Shared) -> Response {
    answer::json(StatusCode::OK, &json!({ "faults": admin.agent.faults.list() }))
}

#[derive(Deserialize)]
pub struct Asked {
    key: String,
}

pub async fn explain(
    State(admin): Shared,
    Extension(connection): Extension<Arc<Connection>>,
    Query(asked): Query<Asked>,
) -> Response {
    // It reads the whole log: as long as it takes, but only a few at a time.
    connection.lift_timeout();
    let _turn = admin.long.acquire().await;
    match admin.agent.explain(&asked.key).await {
        Ok(explanation) => answer::json(StatusCode::OK, &explanation),
        Err(error) => refused(&error),
    }
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
pub struct Keys {
    from: u64,
    to: Option<u64>,
    envelope: bool,
    references: bool,
}

pub async fn keys(
    State(admin): Shared,
    Extension(connection): Extension<Arc<Connection>>,
    Query(keys): Query<Keys>,
) -> Response {
    connection.lift_timeout();
    let range = Range { from: keys.from, to: keys.to, envelope: keys.envelope, references: keys.references };
    answer::lines(admin.agent.keys(range))
}

pub async fn letters(State(admin): Shared, Query(selection): Query<Selection>) -> Response {
    match admin.agent.letters(&selection) {
        Ok(list) => answer::json(StatusCode::OK, &list),
        Err(error) => refused(&error),
    }
}

pub async fn letter(State(admin): Shared, Path(id): Path<u64>) -> Response {
    let (shown, envelope) = match admin.agent.letter(id).await {
        Ok(Some(found)) => found,
        Ok(None) => return answer::error(StatusCode::NOT_FOUND, &format!("no dead letter {id}")),
        Err(error) => return refused(&error),
    };
    #[derive(serde::Serialize)]
    struct Whole<T> {
        #[serde(flatten)]
        letter: T,
    }
    // A flattened struct cannot hold raw JSON, so the envelope is put in by hand.
    let fields = serde_json::to_string(&Whole { letter: shown }).unwrap_or_default();
    let envelope = envelope.and_then(|text| RawValue::from_string(text).ok());
    let envelope = envelope.as_ref().map_or("null", |raw| raw.get());
    let body = format!("{},\"envelope\":{envelope}}}", fields.trim_end_matches('}'));
    answer::with_type(StatusCode::OK, "application/json", body.into())
}
