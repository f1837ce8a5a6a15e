//! Regions that the documents do without, and what one that was evicted could not keep.

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::{Query, State},
    http::StatusCode,
    response::Response,
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admin, control::parse, managed::ManagedAdmin, regions::WORDS_MAX};
use crate::{
    agent::{
        documents::managed::{GivenUp, ManagedDocuments},
        evict::{Evicted, Evictions, NotEvicted},
    },
    api::{answer, state},
    core::state::view::View,
};

/// An admin whose agent can be asked about evictions.
pub trait Evicting: Send + Sync + 'static {
    fn evictions(&self) -> Evictions<'_>;
}

impl Evicting for Admin {
    fn evictions(&self) -> Evictions<'_> {
        self.agent.evictions()
    }
}

impl Evicting for ManagedAdmin {
    fn evictions(&self) -> Evictions<'_> {
        self.agent.evictions()
    }
}

/// What every region's agent is asked.
pub fn router<A: Evicting>() -> Router<Arc<A>> {
    Router::new().route("/v1/evictions", get(list::<A>).post(evict::<A>))
}

/// What only an agent of a region with a managed table is asked.
pub fn given_up_router() -> Router<Arc<ManagedAdmin>> {
    Router::new()
        .route("/v1/documents/given-up", get(given_up))
        .route("/v1/documents/given-up/discard", post(discard_given_up))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    region: String,
    #[serde(default)]
    by: String,
    #[serde(default)]
    reason: String,
    /// Only says whether it could be.
    #[serde(default)]
    dry_run: bool,
}

fn refused(error: &NotEvicted) -> Response {
    let status = match error {
        NotEvicted::Unknown(_) | NotEvicted::NoDocuments => StatusCode::NOT_FOUND,
        NotEvicted::Itself(_) | NotEvicted::Serves { .. } => StatusCode::CONFLICT,
        NotEvicted::Documents(error) => return state::failed(error),
    };
    answer::error(status, &error.to_string())
}

fn shown(evicted: Result<Vec<Evicted>, NotEvicted>) -> Response {
    match evicted {
        Ok(evicted) => answer::json(StatusCode::OK, &json!({ "evictions": evicted })),
        Err(error) => refused(&error),
    }
}

/// `GET /v1/evictions`.
async fn list<A: Evicting>(State(admin): State<Arc<A>>) -> Response {
    shown(admin.evictions().evicted().await)
}

/// `POST /v1/evictions`.
async fn evict<A: Evicting>(State(admin): State<Arc<A>>, body: Bytes) -> Response {
    let asked: Asked = match parse(&body) {
        Ok(asked) => asked,
        Err(response) => return *response,
    };
    if asked.by.len() + asked.reason.len() > WORDS_MAX {
        let why = format!("by and reason: together at most {WORDS_MAX} bytes");
        return answer::error(StatusCode::BAD_REQUEST, &why);
    }
    let evictions = admin.evictions();
    if !asked.dry_run {
        return shown(evictions.evict(&asked.region, &asked.by, &asked.reason).await);
    }
    match evictions.may_evict(&asked.region) {
        Ok(()) => shown(evictions.evicted().await),
        Err(error) => refused(&error),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    after: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Name {
    name: String,
}

fn documents(admin: &ManagedAdmin) -> Result<&ManagedDocuments, Response> {
    admin.agent.documents.as_ref().ok_or_else(state::none)
}

fn shown_given_up(given_up: GivenUp) -> Value {
    let GivenUp { name, key, at, view } = given_up;
    let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    let value = view.as_ref().map(|View { value, .. }| parsed(value));
    let conflicts = view.as_ref().map(|View { conflicts, .. }| parsed(conflicts));
    json!({
        "name": name, "type": key.of, "id": key.id, "at": at.to_rfc3339(), "value": value, "conflicts": conflicts,
    })
}

/// `GET /v1/documents/given-up?after`.
async fn given_up(
    State(admin): State<Arc<ManagedAdmin>>,
    Query(Page { after }): Query<Page>,
) -> Result<Response, Response> {
    let (documents, next) = documents(&admin)?.given_up(after).await.map_err(|error| state::failed(&error))?;
    let documents: Vec<Value> = documents.into_iter().map(shown_given_up).collect();
    Ok(answer::json(StatusCode::OK, &json!({ "documents": documents, "next": next })))
}

/// `POST /v1/documents/given-up/discard`.
async fn discard_given_up(State(admin): State<Arc<ManagedAdmin>>, body: Bytes) -> Result<Response, Response> {
    let Name { name } = parse(&body).map_err(|response| *response)?;
    let discarded = documents(&admin)?.discard_given_up(&name).await.map_err(|error| state::failed(&error))?;
    match discarded {
        true => Ok(answer::json(StatusCode::OK, &json!({ "discarded": name }))),
        false => Err(answer::error(StatusCode::NOT_FOUND, &format!("nothing is set aside as {name}"))),
    }
}
