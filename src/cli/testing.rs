//! A cluster that answers as `docs/HTTP.md` says, from memory, so that commands can be tried without agents.
//!
//! Events go to the peers at once, unless a fault cuts the two, or [`Cluster::drop_deliveries`] seeds drift.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Context, now};
use crate::{config::Config, core::key::KeyHash, verify::hex};

type Parameters = Query<HashMap<String, String>>;
type Shared = State<(Arc<Mutex<World>>, String)>;

#[derive(Clone)]
struct Event {
    key: String,
    hash: String,
    payload: String,
    origin: Option<String>,
    sequence: u64,
    millis: u64,
    envelope: Value,
}

#[derive(Default)]
struct World {
    hubs: BTreeMap<String, Vec<Event>>,
    duplicates: BTreeMap<String, Vec<String>>,
    cuts: Vec<(String, String)>,
    /// By link, what waits behind a cut.
    waiting: BTreeMap<(String, String), Vec<Event>>,
    drop_deliveries: bool,
    /// Answers to PutEvents that fail with 503 before they are taken.
    refusals: u32,
}

/// Regions `r0`, `r1`, ... on free ports.
pub struct Cluster {
    pub context: Context,
    world: Arc<Mutex<World>>,
}

impl Cluster {
    pub async fn start(regions: usize) -> Cluster {
        let world = Arc::new(Mutex::new(World::default()));
        let mut text = "[faults]\nenabled = true\n".to_owned();
        for index in 0..regions {
            let name = format!("r{index}");
            world.lock().expect("not poisoned").hubs.insert(name.clone(), Vec::new());
            let app = router().with_state((world.clone(), name.clone()));
            let mut addresses = Vec::new();
            for _listener in ["api", "admin"] {
                let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
                addresses.push(socket.local_addr().expect("bound"));
                tokio::spawn(axum::serve(socket, app.clone()).into_future());
            }
            let (api, admin) = (addresses[0], addresses[1]);
            text.push_str(&format!("[[region]]\nname = \"{name}\"\napi = \"{api}\"\nadmin = \"{admin}\"\n"));
        }
        let config = Config::parse(&text, "test", &|_| None).expect("a valid file");
        Cluster { context: Context::of(config, "test".to_owned(), false), world }
    }

    /// What is published from now on stays at home.
    pub fn drop_deliveries(&self) {
        self.world.lock().expect("not poisoned").drop_deliveries = true;
    }

    /// So many PutEvents get 503.
    pub fn refuse(&self, requests: u32) {
        self.world.lock().expect("not poisoned").refusals = requests;
    }

    /// How many events a hub has.
    pub fn events(&self, region: &str) -> usize {
        self.world.lock().expect("not poisoned").hubs[region].len()
    }
}

impl World {
    fn is_cut(&self, one: &str, other: &str) -> bool {
        self.cuts.iter().any(|(a, b)| [(one, other), (other, one)].contains(&(a.as_str(), b.as_str())))
    }

    fn publish(&mut self, region: &str, entry: &Value) -> String {
        let detail: Value = serde_json::from_str(entry["Detail"].as_str().expect("text")).expect("JSON");
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let key = detail["metadata"]["idempotencyKey"].as_str().map_or_else(rand_key, str::to_owned);
        let hash = hex(&KeyHash::of(&text("Source"), &text("DetailType"), &key).0);
        let sequence = self.hubs[region].len() as u64 + 1;
        if self.hubs[region].iter().any(|event| event.hash == hash) {
            return "known".to_owned();
        }
        let payload = Sha256::digest(detail.to_string().as_bytes());
        let payload = hex(&payload[..16]);
        let envelope = json!({"source": text("Source"), "detail-type": text("DetailType"), "detail": detail});
        let event = Event { key, hash, payload, origin: None, sequence, millis: now().as_millis(), envelope };
        self.hubs.get_mut(region).expect("a region").push(event.clone());
        let delivers = !self.drop_deliveries;
        let peers: Vec<String> = self.hubs.keys().filter(|peer| delivers && *peer != region).cloned().collect();
        for peer in peers {
            let copy = Event { origin: Some(region.to_owned()), ..event.clone() };
            match self.is_cut(region, &peer) {
                true => self.waiting.entry((region.to_owned(), peer)).or_default().push(copy),
                false => self.deliver(&peer, copy),
            }
        }
        format!("{region}-{sequence}")
    }

    fn deliver(&mut self, peer: &str, event: Event) {
        let hub = self.hubs.get_mut(peer).expect("a region");
        match hub.iter().any(|known| known.hash == event.hash) {
            true => self.duplicates.entry(peer.to_owned()).or_default().push(event.key),
            false => hub.push(event),
        }
    }
}

fn rand_key() -> String {
    super::run_id().expect("randomness")
}

fn router() -> Router<(Arc<Mutex<World>>, String)> {
    Router::new()
        .route("/", post(put_events))
        .route("/readyz", get(|| async { Json(json!({})) }))
        .route("/v1/events", get(events))
        .route("/v1/keys", get(keys))
        .route("/v1/status", get(status))
        .route("/v1/explain", get(explain))
        .route("/v1/faults", get(faults).post(inject).delete(clear))
        .route("/v1/links/{peer}/{verb}", post(link))
}

async fn put_events(State((world, region)): Shared, body: String) -> Response {
    let body: Value = serde_json::from_str(&body).expect("JSON");
    let mut world = world.lock().expect("not poisoned");
    if world.refusals > 0 {
        world.refusals -= 1;
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let entries = body["Entries"].as_array().expect("entries").iter().map(|entry| match entry["Source"].as_str() {
        Some("bad") => json!({"ErrorCode": "InvalidArgument", "ErrorMessage": "a bad source"}),
        _ => json!({"EventId": world.publish(&region, entry)}),
    });
    let entries: Vec<Value> = entries.collect();
    Json(json!({"FailedEntryCount": 0, "Entries": entries})).into_response()
}

async fn events(State((world, region)): Shared, Query(query): Parameters) -> Json<Value> {
    let from = query.get("from").and_then(|from| from.parse().ok()).unwrap_or(1usize);
    let limit = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(100usize);
    let world = world.lock().expect("not poisoned");
    let events = world.hubs[&region].iter().enumerate().skip(from - 1).take(limit);
    let events: Vec<Value> =
        events.map(|(index, event)| json!({"offset": index + 1, "envelope": event.envelope})).collect();
    let next = from + events.len();
    Json(json!({"events": events, "next": next}))
}

async fn keys(State((world, region)): Shared, Query(query): Parameters) -> String {
    let world = world.lock().expect("not poisoned");
    let hub = &world.hubs[&region];
    let number = |name: &str, default: u64| query.get(name).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (from, to) = (number("from", 0), number("to", u64::MAX));
    let links = world.hubs.keys().filter(|peer| **peer != region);
    let links: Vec<Value> = links.map(|peer| json!({"peer": peer, "cursor": 0, "filters": [[0, {}]]})).collect();
    let header = json!({"region": region, "base": 0, "head": hub.len(), "expires_before": 0, "links": links,
        "discarded": []});
    let mut lines = vec![header.to_string()];
    for (offset, event) in (1u64..).zip(hub).filter(|(offset, _)| (from + 1..=to).contains(offset)) {
        let mut line = json!({"k": event.hash, "p": event.payload, "o": event.origin, "s": event.sequence,
            "n": offset, "t": event.millis});
        if query.contains_key("envelope") {
            line["e"] = event.envelope.clone();
        }
        lines.push(line.to_string());
    }
    lines.push(json!({"end": lines.len() - 1}).to_string());
    lines.join("\n") + "\n"
}

async fn status(State((world, region)): Shared) -> Json<Value> {
    let world = world.lock().expect("not poisoned");
    let links = world.hubs.keys().filter(|peer| **peer != region).map(|peer| {
        let backlog = world.waiting.get(&(region.clone(), peer.clone())).map_or(0, Vec::len);
        let exposure = if backlog > 0 { 1.5 } else { 0.0 };
        json!({"peer": peer, "state": "active", "backlog_events": backlog, "lag_seconds": {"p50": 0.001, "p99": 0.004},
            "rpo_exposure_seconds": exposure, "dead_letters": 0})
    });
    let events = world.hubs[&region].len();
    Json(json!({"region": region, "state": "active", "events": events, "links": links.collect::<Vec<_>>()}))
}

async fn explain(State((world, region)): Shared, Query(query): Parameters) -> Json<Value> {
    let world = world.lock().expect("not poisoned");
    let key = &query["key"];
    let known = world.hubs[&region].iter().filter(|event| event.key == *key).map(|event| {
        json!({"what": if event.origin.is_none() { "accepted" } else { "applied" }, "at": "2026-11-23T10:00:00Z"})
    });
    let duplicates = world.duplicates.get(&region).map(Vec::as_slice).unwrap_or_default();
    let duplicates = duplicates.iter().filter(|duplicate| *duplicate == key);
    let duplicates = duplicates.map(|_| json!({"what": "duplicate", "at": "2026-11-23T10:00:01Z"}));
    Json(json!({"region": region, "entries": known.chain(duplicates).collect::<Vec<_>>()}))
}

async fn faults(State((world, region)): Shared) -> Json<Value> {
    let world = world.lock().expect("not poisoned");
    let own = world.cuts.iter().filter(|(one, _)| *one == region);
    let own = own.map(|(_, peer)| json!({"id": 1, "kind": "partition", "peer": peer, "direction": "both"}));
    Json(json!({"faults": own.collect::<Vec<_>>()}))
}

async fn inject(State((world, region)): Shared, Json(fault): Json<Value>) -> Response {
    let Some(peer) = fault["peer"].as_str() else {
        return (StatusCode::BAD_REQUEST, Json(json!({"error": "this test wants a peer"}))).into_response();
    };
    world.lock().expect("not poisoned").cuts.push((region, peer.to_owned()));
    Json(fault).into_response()
}

async fn clear(State((world, region)): Shared) -> Json<Value> {
    let mut world = world.lock().expect("not poisoned");
    let before = world.cuts.len();
    world.cuts.retain(|(one, _)| *one != region);
    for ((_, peer), events) in std::mem::take(&mut world.waiting) {
        events.into_iter().for_each(|event| world.deliver(&peer, event));
    }
    Json(json!({"cleared": before - world.cuts.len()}))
}

async fn link(State((world, _)): Shared, Path((peer, verb)): Path<(String, String)>, body: String) -> Response {
    if !world.lock().expect("not poisoned").hubs.contains_key(&peer) {
        return StatusCode::NOT_FOUND.into_response();
    }
    let body: Value = serde_json::from_str(&body).expect("JSON");
    match verb.as_str() {
        "pause" | "resume" => Json(json!({"peer": peer, "paused": verb == "pause"})).into_response(),
        "replay" | "repair" => {
            assert!(body["dry_run"].is_boolean());
            Json(json!({"events": 3, "delivered": 1, "duplicate": 1, "rejected": 1})).into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}
