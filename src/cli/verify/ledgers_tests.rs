//! `verify` against agents of regions on AWS that are slow, busy, somebody else's, or not done yet.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};

use crate::{
    cli::{Context, verify::compare_regions},
    config::Config,
    core::{key::KeyHash, time::Timestamp},
    verify::{Report, hex},
};

const NOW: u64 = 1_790_000_000_000;
const HOUR: u64 = 3_600_000;

/// What an agent answers.
#[derive(Default)]
struct Agent {
    name: &'static str,
    rows: Vec<Value>,
    /// What it knows by its keys when it is asked again.
    later: Vec<Value>,
    asked_again: AtomicU32,
    /// Before the last line of its rows.
    reading: Duration,
    /// So many readers are sent away first.
    busy: AtomicU32,
    /// Local keys in their queue, one look after the other; the last one stays.
    waiting: Mutex<VecDeque<u64>>,
    dead_letters: u64,
    /// Answers about dead letters, the last one stays; `null` is an error.
    letters: Mutex<VecDeque<Value>>,
}

fn next<T: Clone>(queue: &Mutex<VecDeque<T>>) -> Option<T> {
    let mut queue = queue.lock().unwrap();
    if queue.len() > 1 { queue.pop_front() } else { queue.front().cloned() }
}

fn row(key: &str, origin: Option<&str>) -> Value {
    let hash = hex(&KeyHash::of("app", "Order", key).0);
    json!({ "k": hash, "p": "00".repeat(16), "o": origin, "t": NOW - 1_000, "x": NOW + 24 * HOUR })
}

fn listed(letters: &[&str], in_queue: usize) -> Value {
    let letter = |key: &&str| {
        json!({ "id": key, "key": key, "source": "app", "detail_type": "Order",
            "accepted": Timestamp::from_millis(NOW - 1_000).to_rfc3339() })
    };
    let letters: Vec<Value> = letters.iter().map(letter).collect();
    let count = letters.len();
    json!({ "letters": letters, "total": count, "looked": count, "in_queue": in_queue, "complete": true })
}

impl Agent {
    fn first_line(&self) -> String {
        let peer = if self.name == "eu" { "us" } else { "eu" };
        let link = json!({ "peer": peer, "filtered": false, "since": "1970-01-01T00:00:00Z", "watermark": null,
            "dead_letters": self.dead_letters });
        let waiting = next(&self.waiting).unwrap_or_default();
        let header = json!({ "region": self.name, "ledger": true, "now": Timestamp::from_millis(NOW).to_rfc3339(),
            "local_keys": true, "local_keys_queue": { "visible": waiting, "in_flight": 0, "delayed": 0 },
            "local_keys_reached": null, "told_for_seconds": 3_600, "retention_seconds": 15 * 86_400, "links": [link] });
        format!("{header}\n")
    }
}

#[derive(serde::Deserialize)]
struct Rows {
    rows: Option<bool>,
}

async fn keys(State(agent): State<Arc<Agent>>, Query(Rows { rows }): Query<Rows>) -> Response {
    if rows == Some(false) {
        return (agent.first_line() + "{\"end\":0}\n").into_response();
    }
    if agent.busy.load(Ordering::Relaxed) > 0 {
        agent.busy.fetch_sub(1, Ordering::Relaxed);
        return (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "0")], "{\"error\":\"busy\"}").into_response();
    }
    let first = agent.first_line();
    let rows: String = agent.rows.iter().map(|row| format!("{row}\n")).collect();
    let reading = agent.reading;
    let pieces = futures::stream::once(async { Ok::<_, std::convert::Infallible>(first + "\n") });
    let rest = futures::stream::once(async move {
        tokio::time::sleep(reading).await;
        Ok(rows + "{\"end\":1}\n")
    });
    Body::from_stream(futures::StreamExt::chain(pieces, rest)).into_response()
}

async fn again(State(agent): State<Arc<Agent>>) -> Response {
    agent.asked_again.fetch_add(1, Ordering::Relaxed);
    json!({ "rows": agent.later }).to_string().into_response()
}

async fn letters(State(agent): State<Arc<Agent>>) -> Response {
    match next(&agent.letters) {
        Some(answer) if !answer.is_null() => answer.to_string().into_response(),
        _ => (StatusCode::BAD_GATEWAY, "{\"error\":\"no queue\"}").into_response(),
    }
}

/// Compares eu with us; each agent is reached by the address of its region, or of another one.
async fn compared(eu: Agent, us: Agent, wait: Duration) -> (Report, [Arc<Agent>; 2]) {
    let agents = [Arc::new(eu), Arc::new(us)];
    let mut text = String::new();
    for (name, agent) in ["eu", "us"].iter().zip(&agents) {
        let app = Router::new().route("/v1/keys", get(keys).post(again)).route("/v1/dlq", get(letters));
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = socket.local_addr().unwrap();
        tokio::spawn(axum::serve(socket, app.with_state(agent.clone())).into_future());
        text.push_str(&format!(
            "[[region]]\nname = \"{name}\"\nbackend = \"aws\"\nadmin = \"{admin}\"\n[region.aws]\nhub = \"hub\"\n"
        ));
    }
    let config = Config::parse(&text, "test", &|_| None).unwrap();
    let context = Context::of(config, "test".to_owned(), false);
    (compare_regions(&context, None, wait, false).await, agents)
}

fn eu() -> Agent {
    Agent { name: "eu", rows: vec![row("c", None)], ..Agent::default() }
}

fn us() -> Agent {
    Agent { name: "us", rows: vec![row("c", Some("eu"))], ..Agent::default() }
}

const SOON: Duration = Duration::from_millis(50);
const LATER: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_ledger_that_takes_longer_to_read_than_the_wait_is_looked_at_again_before_it_is_judged() {
    let slow = Agent { rows: Vec::new(), later: vec![row("c", Some("eu"))], reading: SOON * 4, ..us() };
    let (report, [_, slow]) = compared(eu(), slow, SOON).await;
    assert!(report.is_equal(), "{report}");
    assert!(slow.asked_again.load(Ordering::Relaxed) > 0);
    let (report, _) = compared(eu(), Agent { rows: Vec::new(), ..us() }, SOON).await;
    assert_eq!(report.links[0].missing_count, 1, "{report}");
}

#[tokio::test]
async fn a_ledger_that_somebody_else_reads_is_waited_for() {
    let (report, [_, busy]) = compared(eu(), Agent { busy: 2.into(), ..us() }, Duration::ZERO).await;
    assert!(report.is_equal(), "{report}");
    assert_eq!(busy.busy.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn an_address_that_leads_to_another_regions_agent_is_told_and_compares_nothing_with_itself() {
    let (report, _) = compared(eu(), eu(), SOON).await;
    assert!(!report.is_equal() && report.links.is_empty(), "{report}");
    let error = &report.unreachable[0];
    assert_eq!(error.region, "us");
    assert!(error.error.contains("answers as region eu: its `admin` address"), "{report}");
}

#[tokio::test]
async fn rows_are_read_when_the_local_keys_have_come_and_what_has_not_is_a_difference() {
    let waiting = |counts: &[u64]| Mutex::new(counts.iter().copied().collect());
    let (report, [eu_agent, _]) = compared(Agent { waiting: waiting(&[3, 2, 0]), ..eu() }, us(), LATER).await;
    assert!(report.is_equal(), "{report}");
    assert_eq!(*eu_agent.waiting.lock().unwrap(), [0], "all looks were taken before");
    let (report, _) = compared(Agent { waiting: waiting(&[3]), ..eu() }, us(), SOON).await;
    assert_eq!((report.is_equal(), report.ledgers["eu"].not_entered), (false, 3), "{report}");
}

#[tokio::test]
async fn dead_letters_that_could_not_be_looked_at_are_looked_for_again_and_then_told() {
    let answers = |answers: &[Value]| Mutex::new(answers.iter().cloned().collect());
    let none = listed(&[], 0);
    let passing = Agent { dead_letters: 1, letters: answers(&[Value::Null, listed(&[], 2), none]), ..eu() };
    let (report, [eu_agent, _]) = compared(passing, us(), LATER).await;
    assert!(report.is_equal(), "{report}");
    assert_eq!(eu_agent.letters.lock().unwrap().len(), 1);
    let hidden = Agent { dead_letters: 3, letters: answers(&[listed(&["d"], 3)]), ..eu() };
    let (report, _) = compared(hidden, us(), SOON).await;
    assert_eq!((report.links[0].dead_letters_unseen, report.dead_lettered_count), (2, 1), "{report}");
    assert!(!report.is_equal());
    let mute = Agent { dead_letters: 1, letters: answers(&[Value::Null]), ..eu() };
    let (report, _) = compared(mute, us(), SOON).await;
    assert!(!report.is_equal() && report.unreachable[0].error.contains("no queue"), "{report}");
}
