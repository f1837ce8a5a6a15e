//! What operators do. Every action is logged where it is carried out.

use std::{path::PathBuf, sync::Arc};

use axum::{
    Extension,
    body::Bytes,
    extract::{Path, Query, State},
    http::StatusCode,
    response::Response,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

use super::{Admin, refused};
use crate::{
    agent::Selection,
    api::{answer, listener::Connection},
    core::time::Timestamp,
    faults::{self, Faults, Kind, Order},
    ports::backup,
};

type Shared = State<Arc<Admin>>;

/// A JSON body; an empty one is an empty object.
pub(super) fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Box<Response>> {
    let text: &[u8] = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(text)
        .map_err(|error| Box::new(answer::error(StatusCode::BAD_REQUEST, &format!("the request's body: {error}"))))
}

pub async fn pause(State(admin): Shared, Path(peer): Path<String>) -> Response {
    set_paused(&admin, &peer, true).await
}

pub async fn resume(State(admin): Shared, Path(peer): Path<String>) -> Response {
    set_paused(&admin, &peer, false).await
}

async fn set_paused(admin: &Admin, peer: &str, paused: bool) -> Response {
    match admin.agent.pause(peer, paused).await {
        Ok(()) => answer::json(StatusCode::OK, &json!({ "peer": peer, "paused": paused })),
        Err(error) => refused(&error),
    }
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Replay {
    since: Option<String>,
    until: Option<String>,
    dry_run: bool,
}

fn time(name: &str, text: Option<&String>) -> Result<Option<Timestamp>, Box<Response>> {
    let Some(text) = text else { return Ok(None) };
    Timestamp::parse_rfc3339(text).map(Some).ok_or_else(|| {
        let why = format!("{name}: {text}: no time; write it as 2026-11-23T10:00:00Z");
        Box::new(answer::error(StatusCode::BAD_REQUEST, &why))
    })
}

pub async fn replay(
    State(admin): Shared,
    Extension(connection): Extension<Arc<Connection>>,
    Path(peer): Path<String>,
    body: Bytes,
) -> Response {
    connection.lift_timeout();
    let asked = parse::<Replay>(&body).and_then(|replay| {
        Ok((time("since", replay.since.as_ref())?, time("until", replay.until.as_ref())?, replay.dry_run))
    });
    let (since, until, dry_run) = match asked {
        Ok(asked) => asked,
        Err(response) => return *response,
    };
    let _turn = admin.long.acquire().await;
    match admin.agent.replay(&peer, since, until, dry_run).await {
        Ok(report) => answer::json(StatusCode::OK, &report),
        Err(error) => refused(&error),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Repair {
    origin: String,
    #[serde(default)]
    dry_run: bool,
}

pub async fn repair(
    State(admin): Shared,
    Extension(connection): Extension<Arc<Connection>>,
    Path(peer): Path<String>,
    body: Bytes,
) -> Response {
    connection.lift_timeout();
    let repair: Repair = match parse(&body) {
        Ok(repair) => repair,
        Err(response) => return *response,
    };
    let _turn = admin.long.acquire().await;
    match admin.agent.repair(&peer, &repair.origin, repair.dry_run).await {
        Ok(report) => answer::json(StatusCode::OK, &report),
        Err(error) => refused(&error),
    }
}

pub async fn redrive(State(admin): Shared, Extension(connection): Extension<Arc<Connection>>, body: Bytes) -> Response {
    connection.lift_timeout();
    let selection: Selection = match parse(&body) {
        Ok(selection) => selection,
        Err(response) => return *response,
    };
    let _turn = admin.long.acquire().await;
    match admin.agent.redrive(&selection).await {
        Ok(done) => answer::json(StatusCode::OK, &done),
        Err(error) => refused(&error),
    }
}

pub async fn discard(State(admin): Shared, body: Bytes) -> Response {
    let selection: Selection = match parse(&body) {
        Ok(selection) => selection,
        Err(response) => return *response,
    };
    match admin.agent.discard(&selection).await {
        Ok(done) => answer::json(StatusCode::OK, &done),
        Err(error) => refused(&error),
    }
}

pub async fn inject(State(admin): Shared, body: Bytes) -> Response {
    let order: Order = match parse(&body) {
        Ok(order) => order,
        Err(response) => return *response,
    };
    let known = |peer: &String| admin.agent.peers().any(|known| known == peer);
    injected(&admin.agent.faults, order, known)
}

/// Puts a fault in force, with all peers or with one that is known.
pub(super) fn injected(faults: &Faults, order: Order, known: impl Fn(&String) -> bool) -> Response {
    if let Some(peer) = order.peer.as_ref().filter(|peer| !known(peer)) {
        return answer::error(StatusCode::BAD_REQUEST, &format!("peer: {peer}: no link to such a region"));
    }
    match faults.inject(order) {
        Ok(fault) => answer::json(StatusCode::OK, &fault),
        Err(error @ faults::Error::Disabled) => answer::error(StatusCode::FORBIDDEN, &error.to_string()),
        Err(error @ faults::Error::Invalid(_)) => answer::error(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Clear {
    kind: Option<Kind>,
    peer: Option<String>,
}

pub async fn clear(State(admin): Shared, Query(clear): Query<Clear>) -> Response {
    cleared(&admin.agent.faults, &clear)
}

pub(super) fn cleared(faults: &Faults, clear: &Clear) -> Response {
    let cleared = faults.clear(clear.kind, clear.peer.as_deref());
    answer::json(StatusCode::OK, &json!({ "cleared": cleared }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BackUp {
    to: PathBuf,
}

pub async fn back_up(State(admin): Shared, Extension(connection): Extension<Arc<Connection>>, body: Bytes) -> Response {
    connection.lift_timeout();
    let asked: BackUp = match parse(&body) {
        Ok(asked) => asked,
        Err(response) => return *response,
    };
    let error = match admin.backup.back_up(asked.to).await {
        Ok(made) => return answer::json(StatusCode::OK, &made),
        Err(error) => error,
    };
    let status = match &error {
        backup::Error::Busy => StatusCode::CONFLICT,
        backup::Error::Refused(_) => StatusCode::BAD_REQUEST,
        backup::Error::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    answer::error(status, &error.to_string())
}

pub async fn reload(State(admin): Shared) -> Response {
    match admin.reload().await {
        Ok(changed) => answer::json(StatusCode::OK, &json!({ "changed": changed })),
        Err(why) => answer::error(StatusCode::BAD_REQUEST, &why),
    }
}

pub async fn drain(State(admin): Shared) -> Response {
    admin.agent.drain();
    answer::json(StatusCode::OK, &json!({ "draining": true }))
}
