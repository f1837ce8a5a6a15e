//! What `verify` asks of a region's documents.

use std::sync::Arc;

use axum::{
    extract::{Query, State},
    http::StatusCode,
    response::Response,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Admin;
use crate::{
    agent::documents::LocalDocuments,
    api::{answer, state},
    core::state::Key,
    ports::documents::Documents,
};

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Page {
    after_type: Option<String>,
    after_id: Option<String>,
}

#[derive(Serialize)]
struct Place<'a> {
    #[serde(rename = "type")]
    of: &'a str,
    id: &'a str,
}

#[derive(Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    place: Place<'a>,
    version: String,
}

fn documents(admin: &Admin) -> Result<&LocalDocuments, Response> {
    admin.agent.documents.as_ref().ok_or_else(state::none)
}

/// `GET /v1/documents/total`: how many there are, and their digest.
pub async fn total(State(admin): State<Arc<Admin>>) -> Result<Response, Response> {
    let total = documents(&admin)?.total().await.map_err(|error| state::failed(&error))?;
    let digest = format!("{:032x}", total.digest.0);
    Ok(answer::json(StatusCode::OK, &json!({ "documents": total.documents, "digest": digest })))
}

/// `GET /v1/documents?after_type&after_id`: a page of them, in an order that is the same in every region.
pub async fn list(State(admin): State<Arc<Admin>>, Query(page): Query<Page>) -> Result<Response, Response> {
    let after = page.after_type.zip(page.after_id).map(|(of, id)| Key { of, id });
    let (listed, next) = documents(&admin)?.list(after).await.map_err(|error| state::failed(&error))?;
    let next = next.as_ref().map(|key| Place { of: &key.of, id: &key.id });
    let listed: Vec<Listed<'_>> = listed
        .iter()
        .map(|listed| Listed {
            place: Place { of: &listed.key.of, id: &listed.key.id },
            version: format!("{:032x}", listed.digest.0),
        })
        .collect();
    Ok(answer::json(StatusCode::OK, &json!({ "documents": listed, "next": next })))
}
