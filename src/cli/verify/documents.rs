//! The documents of embedded regions, as their agents tell of them.

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use super::{
    super::{
        Context,
        http::{self, Call, Listener, escape, query},
    },
    hubs,
};
use crate::{
    core::state::Key,
    verify::{
        documents::{Expected, Open, Versions},
        report::{Documents, Report, Unreachable},
    },
};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// Documents that are read at once.
const AT_ONCE: usize = 16;

#[derive(Deserialize)]
struct Total {
    documents: u64,
    digest: String,
}

#[derive(Deserialize)]
struct Place {
    #[serde(rename = "type")]
    of: String,
    id: String,
}

impl From<Place> for Key {
    fn from(place: Place) -> Key {
        Key { of: place.of, id: place.id }
    }
}

#[derive(Deserialize)]
struct Listed {
    #[serde(flatten)]
    place: Place,
    version: String,
}

#[derive(Deserialize)]
struct Page {
    documents: Vec<Listed>,
    next: Option<Place>,
}

/// Compares all documents, until they are the same or `wait` is over; then looks for the journal's operations.
pub async fn compare(context: &Context, expected: Option<&Expected>, wait: Duration, report: &mut Report) {
    if context.config.state.is_empty() {
        return;
    }
    let listeners = hubs(context);
    let deadline = Instant::now() + wait;
    let mut documents = Documents::default();
    let mut open = None;
    loop {
        let totals = match totals(context, &listeners).await {
            Ok(totals) => totals,
            Err(error) if error.status() == Some(404) => {
                report.notes.push(format!("documents were not compared: {} has none", error.region));
                return;
            }
            Err(error) => return report.unreachable.push(unreachable(&error)),
        };
        documents.compared = totals.values().map(|total| total.documents).max().unwrap_or_default();
        let mut digests = totals.values().map(|total| &total.digest);
        let first = digests.next();
        if digests.all(|digest| Some(digest) == first) {
            break;
        }
        let versions = match all_versions(context, &listeners).await {
            Ok(versions) => versions,
            Err(error) => return report.unreachable.push(unreachable(&error)),
        };
        let open = open.get_or_insert_with(|| Open::new(&versions));
        open.look(&versions);
        if open.is_empty() {
            break;
        }
        if Instant::now() >= deadline {
            open.judge(&versions, &mut documents);
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    if let Some(expected) = expected {
        for listener in &listeners {
            match shown(context, listener, expected).await {
                Ok(shown) => expected.judge(&listener.region, &shown, &mut documents),
                Err(error) => report.unreachable.push(unreachable(&error)),
            }
        }
    }
    report.documents = Some(documents);
}

fn unreachable(error: &http::Error) -> Unreachable {
    Unreachable { region: error.region.clone(), error: error.to_string() }
}

async fn totals(context: &Context, listeners: &[Listener]) -> Result<BTreeMap<String, Total>, http::Error> {
    let ask = listeners.iter().map(async |listener| {
        let total: Total = context.http.json(listener, Call::get("/v1/documents/total")).await?;
        Ok((listener.region.clone(), total))
    });
    join_all(ask).await.into_iter().collect()
}

async fn all_versions(context: &Context, listeners: &[Listener]) -> Result<BTreeMap<String, Versions>, http::Error> {
    let ask = listeners.iter().map(async |listener| Ok((listener.region.clone(), versions(context, listener).await?)));
    join_all(ask).await.into_iter().collect()
}

async fn versions(context: &Context, listener: &Listener) -> Result<Versions, http::Error> {
    let mut versions = Versions::new();
    let mut after: Option<Key> = None;
    loop {
        let (of, id) = after.map(|key: Key| (key.of, key.id)).unzip();
        let path = format!("/v1/documents{}", query(&[("after_type", of), ("after_id", id)]));
        let page: Page = context.http.json(listener, Call::get(path)).await?;
        versions.extend(page.documents.into_iter().map(|listed| (listed.place.into(), listed.version)));
        match page.next {
            Some(next) => after = Some(next.into()),
            None => return Ok(versions),
        }
    }
}

/// What services of a region see of the documents of a journal.
async fn shown(
    context: &Context,
    listener: &Listener,
    expected: &Expected,
) -> Result<BTreeMap<Key, Option<Value>>, http::Error> {
    let Ok(api) = context.api(&listener.region) else { return Ok(BTreeMap::new()) };
    let keys: Vec<&Key> = expected.keys().collect();
    let mut shown = BTreeMap::new();
    for keys in keys.chunks(AT_ONCE) {
        let ask = keys.iter().map(async |key| {
            let path = format!("/v1/state/{}/{}", escape(&key.of), escape(&key.id));
            match context.http.json::<Value>(&api, Call::get(path)).await {
                Ok(mut answer) => Ok(((*key).clone(), Some(answer["value"].take()))),
                Err(error) if error.status() == Some(404) => Ok(((*key).clone(), None)),
                Err(error) => Err(error),
            }
        });
        shown.extend(join_all(ask).await.into_iter().collect::<Result<Vec<_>, _>>()?);
    }
    Ok(shown)
}
