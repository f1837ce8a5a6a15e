//! What `verify` asks of a region's documents.

use std::sync::Arc;

use axum::{
    extract::{FromRef, Query, State},
    http::StatusCode,
    response::Response,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Admin, managed::ManagedAdmin};
use crate::{
    api::{answer, state},
    core::state::Key,
    ports::documents::{self as port, Documents, PAGE_MAX},
};

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Page {
    after_type: Option<String>,
    after_id: Option<String>,
    /// At most, and at most [`PAGE_MAX`]; at least one.
    limit: Option<usize>,
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

/// Those of whatever region.
pub struct Shown(Option<Arc<dyn Documents>>);

impl FromRef<Arc<Admin>> for Shown {
    fn from_ref(admin: &Arc<Admin>) -> Self {
        let documents = admin.agent.documents.clone();
        Shown(documents.map(|documents| Arc::new(documents) as Arc<dyn Documents>))
    }
}

impl FromRef<Arc<ManagedAdmin>> for Shown {
    fn from_ref(admin: &Arc<ManagedAdmin>) -> Self {
        let documents = admin.agent.documents.clone();
        Shown(documents.map(|documents| Arc::new(documents) as Arc<dyn Documents>))
    }
}

impl Shown {
    fn get(self) -> Result<Arc<dyn Documents>, Response> {
        self.0.ok_or_else(state::none)
    }
}

/// `GET /v1/documents/total`: how many there are, and their digest.
pub async fn total(State(shown): State<Shown>) -> Result<Response, Response> {
    let total = shown.get()?.total().await.map_err(|error| state::failed(&error))?;
    let digest = format!("{:032x}", total.digest.0);
    Ok(answer::json(StatusCode::OK, &json!({ "documents": total.documents, "digest": digest })))
}

/// `GET /v1/documents?after_type&after_id&limit`: a page of them, in an order that is the same in every region.
pub async fn list(State(shown): State<Shown>, Query(page): Query<Page>) -> Result<Response, Response> {
    let documents = shown.get()?;
    let after = match (page.after_type, page.after_id) {
        (Some(of), Some(id)) => Some(Key { of, id }),
        (None, None) => None,
        _ => return Err(answer::error(StatusCode::BAD_REQUEST, "`after_type` and `after_id` go together")),
    };
    let (listed, next) = documents.list(after).await.map_err(|error| state::failed(&error))?;
    let (listed, next) = cut(listed, next, page.limit.unwrap_or(PAGE_MAX).max(1));
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

/// The beginning of a page, and where to go on.
fn cut(mut listed: Vec<port::Listed>, next: Option<Key>, limit: usize) -> (Vec<port::Listed>, Option<Key>) {
    if listed.len() <= limit {
        return (listed, next);
    }
    listed.truncate(limit);
    let last = listed.last().map(|listed| listed.key.clone());
    (listed, last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::state::digest::Digest;

    #[test]
    fn a_page_that_is_cut_goes_on_behind_its_last_document() {
        let key = |id: &str| Key::new("profile", id);
        let page = || ["a", "b", "c"].map(|id| port::Listed { key: key(id), digest: Digest(1) }).to_vec();
        assert_eq!(cut(page(), Some(key("c")), 3), (page(), Some(key("c"))));
        assert_eq!(cut(page(), None, 1_000), (page(), None));
        assert_eq!(cut(page(), None, 2), (page()[..2].to_vec(), Some(key("b"))));
    }
}
