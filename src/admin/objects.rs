//! What `verify` asks of a region's objects.

use std::sync::Arc;

use axum::{
    Extension,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::Admin;
use crate::{
    api::{answer, listener::Connection},
    core::object::Location,
    ports::store::{Error, Object, Query, Store},
};

/// Objects of one question.
const ASKED_MAX: usize = 1_000;

/// Bytes of one question: as many of the longest names, escaped.
const QUESTION_BYTES_MAX: u64 = 4 << 20;

/// Looks into the index at once.
const LOOKS_AT_ONCE: usize = 16;

/// Objects of one page of the listing.
const PAGE: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    objects: Vec<Location>,
}

/// An object that is there.
#[derive(Serialize)]
struct Found {
    size: u64,
    sha256: Option<String>,
    modified: String,
}

impl From<Object> for Found {
    fn from(object: Object) -> Self {
        let stat = object.stat;
        Found {
            size: stat.size,
            sha256: stat.sums.sha256().map(|sum| crate::core::key::hex(&sum)),
            modified: stat.modified.to_rfc3339(),
        }
    }
}

/// Size, checksum and age of these objects; `null` for one that is not there.
pub async fn stat(State(admin): State<Arc<Admin>>, headers: HeaderMap, body: Body) -> Response {
    let body = match answer::read_body(&headers, body, QUESTION_BYTES_MAX).await {
        Ok(body) => body,
        Err(error) => return error.answer(),
    };
    let question: Question = match serde_json::from_slice(&body) {
        Ok(question) => question,
        Err(error) => return answer::error(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    if question.objects.len() > ASKED_MAX {
        return answer::error(StatusCode::BAD_REQUEST, "at most 1,000 objects at a time");
    }
    let look = |at: Location| {
        let store = admin.store.clone();
        async move {
            // Nothing stands where nothing can.
            match at.check() {
                Ok(()) => store.find(&at).await,
                Err(_) => Ok(None),
            }
        }
    };
    let looks = stream::iter(question.objects).map(look);
    match looks.buffered(LOOKS_AT_ONCE).try_collect::<Vec<_>>().await {
        Ok(found) => {
            let found: Vec<Option<Found>> = found.into_iter().map(|object| object.map(Found::from)).collect();
            answer::json(StatusCode::OK, &serde_json::json!({ "objects": found }))
        }
        Err(error) => answer::error(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    }
}

/// Every object of the region, as one stream of JSON lines whose last says how many there were.
pub async fn list(State(admin): State<Arc<Admin>>, Extension(connection): Extension<Arc<Connection>>) -> Response {
    connection.lift_timeout();
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let _turn = admin.long.acquire().await;
        if let Err(error) = send_list(&*admin.store, &sender).await {
            tracing::error!(%error, "the objects cannot be listed for verify");
        }
    });
    answer::lines(receiver)
}

async fn send_list(store: &dyn Store, sender: &mpsc::Sender<Bytes>) -> Result<(), Error> {
    let mut count = 0u64;
    for (bucket, _) in store.buckets().await? {
        let mut query = Query { limit: PAGE, ..Query::default() };
        loop {
            let page = match store.list(&bucket, &query).await {
                Ok(page) => page,
                // Removed meanwhile.
                Err(Error::NoBucket) => break,
                Err(error) => return Err(error),
            };
            let mut lines = String::new();
            for (key, object) in page.items {
                count += 1;
                let (size, modified) = (object.stat.size, object.stat.modified.to_rfc3339());
                let line = serde_json::json!({ "bucket": bucket, "key": key, "size": size, "modified": modified });
                lines.push_str(&line.to_string());
                lines.push('\n');
            }
            // Who does not read any more needs no end.
            if sender.send(lines.into()).await.is_err() {
                return Ok(());
            }
            match page.next {
                Some(next) => query.after = next,
                None => break,
            }
        }
    }
    let _ = sender.send(format!("{{\"end\":{count}}}\n").into()).await;
    Ok(())
}
