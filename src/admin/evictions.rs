//! Regions that the documents do without.

use std::sync::Arc;

use axum::{body::Bytes, extract::State, http::StatusCode, response::Response};
use serde::Deserialize;
use serde_json::json;

use super::{Admin, control::parse, regions::WORDS_MAX};
use crate::{
    agent::evict::{Evicted, NotEvicted},
    api::{answer, state},
};

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
        NotEvicted::Itself(_) | NotEvicted::Serves { .. } | NotEvicted::Managed(_) => StatusCode::CONFLICT,
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
pub async fn list(State(admin): State<Arc<Admin>>) -> Response {
    shown(admin.agent.evicted().await)
}

/// `POST /v1/evictions`.
pub async fn evict(State(admin): State<Arc<Admin>>, body: Bytes) -> Response {
    let asked: Asked = match parse(&body) {
        Ok(asked) => asked,
        Err(response) => return *response,
    };
    if asked.by.len() + asked.reason.len() > WORDS_MAX {
        let why = format!("by and reason: together at most {WORDS_MAX} bytes");
        return answer::error(StatusCode::BAD_REQUEST, &why);
    }
    let agent = &admin.agent;
    if !asked.dry_run {
        return shown(agent.evict(&asked.region, &asked.by, &asked.reason).await);
    }
    match agent.may_evict(&asked.region) {
        Ok(()) => shown(agent.evicted().await),
        Err(error) => refused(&error),
    }
}
