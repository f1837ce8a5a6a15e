//! Pages, long polls and streams.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::testing::{Caller, Server, start, start_with};
use crate::{
    config::{Auth, Limits},
    core::testing::record,
};

async fn start_with_events(count: usize) -> Server {
    let server = start().await;
    for n in 0..count {
        server.publish(&[&format!("{{\"n\":{n}}}")]).await;
    }
    server
}

fn offsets(page: &Value) -> Vec<u64> {
    page["events"].as_array().unwrap().iter().map(|event| event["offset"].as_u64().unwrap()).collect()
}

/// A query's JSON, escaped.
fn escaped(json: &Value) -> String {
    percent_encoding::utf8_percent_encode(&json.to_string(), percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[tokio::test]
async fn pages_follow_each_other_until_an_empty_one_that_repeats_next() {
    let server = start_with_events(5).await;
    let mut next = "start".to_owned();
    let mut pages = Vec::new();
    for _ in 0..4 {
        let page = server.get(&format!("/v1/events?from={next}&limit=2")).await.json();
        next = page["next"].to_string();
        pages.push((offsets(&page), page["next"].as_u64().unwrap()));
    }
    assert_eq!(pages, [(vec![1, 2], 3), (vec![3, 4], 5), (vec![5], 6), (vec![], 6)]);
}

#[tokio::test]
async fn an_event_is_an_envelope_with_the_detail_as_its_producer_wrote_it() {
    let server = start().await;
    server.publish(&["{\"b\": 1.10,\n\"a\":12345678901234567890}"]).await;
    server.hub.arrive(&record(9, "k", r#"{"c":1}"#), "us");
    let answer = server.get("/v1/events").await;
    let text = String::from_utf8(answer.body.clone()).unwrap();
    assert!(text.contains("\"detail\":{\"b\": 1.10,\n\"a\":12345678901234567890}"), "{text}");
    let (first, second) = (&answer.json()["events"][0]["envelope"], &answer.json()["events"][1]["envelope"]);
    assert_eq!((&first["region"], &first["detail-type"]), (&json!("eu"), &json!("T")));
    assert_eq!(second["id"], "12345678-9abc-8ef0-8000-000000000002");
    assert_eq!((&second["detail"]["c"], &second["detail"]["hubweave"]["origin"]), (&json!(1), &json!("us")));
}

#[tokio::test]
async fn parameters_are_defaulted_clamped_or_refused() {
    let server = start_with_events(1).await;
    for n in 0..110 {
        server.publish(&["{}"; 10][..n % 10 + 1]).await;
    }
    assert_eq!(offsets(&server.get("/v1/events").await.json()).len(), 100);
    assert_eq!(offsets(&server.get("/v1/events?from=0").await.json())[0], 1);
    for (query, count) in [("limit=0", 1), ("limit=1", 1), ("limit=600", 600), ("limit=18446744073709551615", 606)] {
        assert_eq!(offsets(&server.get(&format!("/v1/events?{query}&x=y")).await.json()).len(), count, "{query}");
    }
    for query in [
        "from=-1",
        "from=tomorrow",
        "limit=x",
        "limit=-1",
        "wait=-1",
        "wait=NaN",
        "pattern=%7B",
        "pattern=%7B%22a%22%3A1%7D",
        "limit=1&limit=2",
    ] {
        let answer = server.get(&format!("/v1/events?{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
        let name = if query.matches('=').count() > 1 { "the query" } else { query.split('=').next().unwrap() };
        assert!(answer.error().starts_with(name), "{}", answer.error());
    }
}

#[tokio::test]
async fn a_pattern_selects_and_next_goes_past_what_does_not_match() {
    let server = start_with_events(600).await;
    server.hub.arrive(&record(9, "k", "{}"), "us");
    let page = |query: String| {
        let server = &server;
        async move { server.get(&format!("/v1/events?{query}")).await.json() }
    };
    let rare = escaped(&json!({"detail": {"n": [3, 599]}}));
    let found = page(format!("pattern={rare}&limit=1")).await;
    assert_eq!((offsets(&found), &found["next"]), (vec![4], &json!(5)));
    let found = page(format!("pattern={rare}&from=5")).await;
    assert_eq!((offsets(&found), &found["next"]), (vec![600], &json!(602)));
    let none = page(format!("pattern={}", escaped(&json!({"source": ["nobody"]})))).await;
    assert_eq!(none, json!({"events": [], "next": 602}));
    let arrived = page(format!("pattern={}", escaped(&json!({"detail": {"hubweave": {"origin": ["us"]}}})))).await;
    assert_eq!(offsets(&arrived), [601]);
    let local = escaped(&json!({"detail": {"hubweave": {"origin": [{"exists": false}]}}}));
    assert_eq!(offsets(&page(format!("pattern={local}&from=600")).await), [600]);
}

#[tokio::test]
async fn a_page_is_bounded_in_bytes_too() {
    let server = start().await;
    let detail = format!(r#"{{"a":"{}"}}"#, "x".repeat(900 << 10));
    for _ in 0..6 {
        server.publish(&[&detail]).await;
    }
    let first = server.get("/v1/events").await.json();
    assert_eq!((offsets(&first), &first["next"]), (vec![1, 2, 3, 4], &json!(5)));
    assert_eq!(offsets(&server.get("/v1/events?from=5").await.json()), [5, 6]);
}

#[tokio::test]
async fn what_retention_dropped_is_410_with_the_first_offset_and_start_begins_there() {
    let server = start_with_events(5).await;
    server.hub.drop_to(3);
    for headers in [&[][..], &["accept: text/event-stream"]] {
        let gone = server.call("GET /v1/events?from=2", headers, b"").await;
        assert_eq!((gone.status, &gone.json()["first"]), (410, &json!(4)));
        assert_eq!(gone.error(), "events before offset 4 are no longer in the log");
    }
    assert_eq!(offsets(&server.get("/v1/events?from=start").await.json()), [4, 5]);
    assert_eq!(offsets(&server.get("/v1/events?from=4").await.json()), [4, 5]);
}

#[tokio::test]
async fn a_long_poll_waits_for_an_event_that_matches_longer_than_other_requests_may_take() {
    let limits = Limits { request_timeout: Duration::from_millis(200), ..Limits::default() };
    let server = start_with(limits, Auth::default(), |_| {}).await;
    let mut caller = Caller::connect(server.address).await;
    let pattern = escaped(&json!({"detail": {"n": [2]}}));
    caller.request(&format!("GET /v1/events?from=now&wait=30&pattern={pattern}"), &[], b"").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    for n in 1..3 {
        server.publish(&[&format!("{{\"n\":{n}}}")]).await;
    }
    let page = caller.answer().await.unwrap().json();
    assert_eq!((offsets(&page), &page["next"]), (vec![2], &json!(3)));
}

#[tokio::test]
async fn a_long_poll_without_events_ends_empty_after_its_wait() {
    let server = start_with_events(1).await;
    let began = Instant::now();
    let page = server.get("/v1/events?from=2&wait=0.3").await.json();
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(page, json!({"events": [], "next": 2}));
    // An offset that the hub has not reached yet stays as it is.
    assert_eq!(server.get("/v1/events?from=7").await.json(), json!({"events": [], "next": 7}));
    assert_eq!(server.get("/v1/events?from=now").await.json(), json!({"events": [], "next": 2}));
}

#[tokio::test]
async fn streams_and_long_polls_together_are_bounded() {
    let limits = Limits { max_connections: 4, ..Limits::default() };
    let server = start_with(limits, Auth::default(), |_| {}).await;
    let mut stream = Caller::connect(server.address).await;
    stream.request("GET /v1/events", &["accept: text/event-stream"], b"").await;
    stream.read_text("\r\n\r\n").await.unwrap();
    let mut polling = Caller::connect(server.address).await;
    polling.request("GET /v1/events?wait=60", &[], b"").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let refused = server.get("/v1/events?wait=60").await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(server.get("/v1/events").await.status, 200);
    // Who goes away makes room.
    drop(stream);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(server.get("/v1/events?wait=0.01").await.status, 200);
}

#[tokio::test]
async fn a_stream_says_what_is_there_then_what_comes_and_resumes_at_its_ids() {
    let server = start().await;
    server.publish(&["{}", "{\"a\":\n1,\r\n\"b\":2}"]).await;
    let mut stream = Caller::connect(server.address).await;
    stream.request("GET /v1/events", &["accept: text/event-stream"], b"").await;
    let head = stream.read_text("\r\n\r\n").await.unwrap().to_ascii_lowercase();
    assert!(head.contains("content-type: text/event-stream\r\n") && head.contains("cache-control: no-cache\r\n"));
    let both = stream.read_text("\n\n\r\n").await.unwrap();
    let events: Vec<&str> = both.split("\n\n").collect();
    assert!(events[0].contains("id: 2\ndata: {\"offset\":1,\"envelope\":{\"version\":\"0\""), "{both}");
    let data: Vec<&str> = events[1].lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let event: Value = serde_json::from_str(&data.join("\n")).unwrap();
    assert_eq!((&event["offset"], &event["envelope"]["detail"]), (&json!(2), &json!({"a": 1, "b": 2})));
    server.publish(&["{\"c\":3}"]).await;
    let third = stream.read_text("\n\n\r\n").await.unwrap();
    assert!(third.contains("id: 4\n") && third.contains("{\"c\":3}"));

    let mut resumed = Caller::connect(server.address).await;
    let headers = ["accept: text/event-stream", "last-event-id: 3"];
    resumed.request("GET /v1/events?from=start", &headers, b"").await;
    assert!(resumed.read_text("data: ").await.unwrap().contains("id: 4\n"));
    let bad = ["accept: text/event-stream", "last-event-id: x"];
    assert_eq!(server.call("GET /v1/events", &bad, b"").await.status, 400);
}

#[tokio::test]
async fn a_stream_that_fell_behind_retention_says_so_and_ends() {
    let server = start_with_events(1).await;
    let mut stream = Caller::connect(server.address).await;
    stream.request("GET /v1/events?from=2", &["accept: text/event-stream"], b"").await;
    stream.read_text("\r\n\r\n").await.unwrap();
    server.hub.drop_to(5);
    server.publish(&["{}"]).await;
    let end = stream.read_text("0\r\n\r\n").await.unwrap();
    assert!(end.contains("event: error\ndata: {\"error\":\"the log begins after offset 5\",\"first\":6}\n\n"), "{end}");
}
