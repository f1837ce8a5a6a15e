//! Documents, for services: `/v1/state/{type}/{id}`.

use std::sync::Arc;

use axum::{
    extract::{FromRef, Path, Request, State, rejection::PathRejection},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    Api,
    answer::{self, read_body},
    managed::ManagedApi,
};
use crate::{
    agent::documents::events::{check_id, unknown_type},
    core::state::{Key, Schema, op, view::View},
    ports::documents::{Applied, Documents, Error},
};

/// The header that makes a retry harmless, also in another region.
const KEY: &str = "idempotency-key";

/// Bytes of its value.
const KEY_BYTES_MAX: usize = 1_024;

/// What the handlers need, of whatever region.
#[derive(Clone)]
pub struct StateApi {
    documents: Option<Arc<dyn Documents>>,
    max_request_bytes: u64,
}

impl FromRef<Arc<Api>> for StateApi {
    fn from_ref(api: &Arc<Api>) -> Self {
        let options = &api.options;
        StateApi { documents: options.documents.clone(), max_request_bytes: options.limits.max_request_bytes }
    }
}

impl FromRef<Arc<ManagedApi>> for StateApi {
    fn from_ref(api: &Arc<ManagedApi>) -> Self {
        StateApi { documents: api.documents.clone(), max_request_bytes: api.limits.max_request_bytes }
    }
}

type Place = Result<Path<(String, String)>, PathRejection>;

/// What a document is to its readers. Without `value`, `version` and `conflicts` it was changed and could not be looked at.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(rename = "type")]
    of: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conflicts: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    unread: &'a [String],
}

/// What was done, where nothing is shown.
#[derive(Serialize)]
struct Done<'a> {
    #[serde(rename = "type")]
    of: &'a str,
    id: &'a str,
    outcome: &'a str,
}

/// `GET /v1/state/{type}/{id}`.
pub async fn get(State(api): State<StateApi>, place: Place) -> Result<Response, Response> {
    let (documents, key, _) = find(&api, place)?;
    match documents.get(key.clone()).await {
        Ok(Some(view)) => Ok(shown(&key, None, Some(&view))),
        Ok(None) => Err(answer::error(StatusCode::NOT_FOUND, &absent(&key))),
        Err(error) => Err(failed(&error)),
    }
}

/// `POST /v1/state/{type}/{id}`.
pub async fn apply(State(api): State<StateApi>, place: Place, request: Request) -> Result<Response, Response> {
    let (documents, key, schema) = find(&api, place)?;
    let (head, body) = request.into_parts();
    let request = request_key(&head.headers, &key)?;
    let body = read_body(&head.headers, body, api.max_request_bytes).await;
    let body = body.map_err(|error| error.answer())?;
    let text = std::str::from_utf8(&body)
        .map_err(|_| answer::error(StatusCode::BAD_REQUEST, "the request is not UTF-8 text"))?;
    let ops = op::parse(schema, text).map_err(|refused| failed(&refused.into()))?;
    let seen = documents.apply_and_show(key.clone(), ops, request).await;
    let (applied, view) = seen.map_err(|error| failed(&error))?;
    let view = view.ok().map(|view| view.unwrap_or_else(nothing));
    Ok(shown(&key, Some(applied.as_str()), view.as_ref()))
}

/// `DELETE /v1/state/{type}/{id}`.
pub async fn delete(State(api): State<StateApi>, place: Place, headers: HeaderMap) -> Result<Response, Response> {
    let (documents, key, _) = find(&api, place)?;
    let request = request_key(&headers, &key)?;
    let applied = documents.delete(key.clone(), request).await.map_err(|error| failed(&error))?;
    let outcome = match applied {
        Applied::Done => "deleted",
        other => other.as_str(),
    };
    Ok(answer::json(StatusCode::OK, &Done { of: &key.of, id: &key.id, outcome }))
}

fn find(api: &StateApi, place: Place) -> Result<(&Arc<dyn Documents>, Key, &Schema), Response> {
    let documents = api.documents.as_ref().ok_or_else(none)?;
    let Path((of, id)) = place.map_err(|rejection| answer::error(StatusCode::BAD_REQUEST, &rejection.body_text()))?;
    let schemas = documents.schemas();
    let unknown = || answer::error(StatusCode::NOT_FOUND, &unknown_type(&of, schemas));
    let schema = schemas.get(&of).ok_or_else(unknown)?;
    check_id(&id).map_err(|why| answer::error(StatusCode::BAD_REQUEST, &why))?;
    Ok((documents, Key { of, id }, schema))
}

/// The request's key, which is one of its document's.
fn request_key(headers: &HeaderMap, key: &Key) -> Result<Option<String>, Response> {
    let mut values = headers.get_all(KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    match value.to_str() {
        Ok(text) if is_request_key(text) && values.next().is_none() => Ok(Some(format!("api/{key}/{text}"))),
        _ => {
            let why = format!("a request has one Idempotency-Key, of {REQUEST_KEYS}");
            Err(answer::error(StatusCode::BAD_REQUEST, &why))
        }
    }
}

/// What a request's key may be.
pub const REQUEST_KEYS: &str = "1 to 1024 visible ASCII characters";

/// Whether it may be a request's key. HTTP takes blanks off both ends.
pub fn is_request_key(text: &str) -> bool {
    let is_right = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    (1..=KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_right) && text.trim() == text
}

/// What readers see where there is no document.
fn nothing() -> View {
    View { value: "null".to_owned(), conflicts: "{}".to_owned(), version: String::new(), unread: Vec::new() }
}

fn shown(key: &Key, outcome: Option<&str>, view: Option<&View>) -> Response {
    let raw = |text: &String| RawValue::from_string(text.clone()).ok();
    answer::json(
        StatusCode::OK,
        &Shown {
            of: &key.of,
            id: &key.id,
            outcome,
            value: view.and_then(|view| raw(&view.value)),
            version: view.map(|view| view.version.as_str()),
            conflicts: view.and_then(|view| raw(&view.conflicts)),
            unread: view.map_or(&[], |view| &view.unread),
        },
    )
}

/// Says that there is no such document.
pub fn absent(key: &Key) -> String {
    format!("no document {key}")
}

/// There are no documents here.
pub fn none() -> Response {
    answer::error(
        StatusCode::NOT_FOUND,
        "this region has no document types: [state.TYPE] of the topology file has them",
    )
}

/// Why it was not done.
pub fn failed(error: &Error) -> Response {
    match error {
        Error::Refused(refused @ op::Refused::TooLarge(_)) => {
            answer::error(StatusCode::PAYLOAD_TOO_LARGE, &refused.to_string())
        }
        Error::Refused(refused) => answer::error(StatusCode::BAD_REQUEST, &refused.to_string()),
        Error::Unavailable { why, retry_after } => answer::unavailable(why, *retry_after),
        Error::Failed(_) => answer::error(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}
