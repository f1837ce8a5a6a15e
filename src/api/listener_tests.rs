use std::net::TcpListener as StdListener;

use super::*;
use crate::{
    api::testing::{Caller, start, start_with},
    config::Auth,
};

fn limits(connections: usize, request_timeout: Duration) -> Limits {
    Limits { max_connections: connections, request_timeout, ..Limits::default() }
}

const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn an_address_in_use_is_named_with_its_option() {
    let taken = StdListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = bind("api", &Address::loopback(port)).await.unwrap_err();
    assert_eq!(error.to_string(), format!("api: 127.0.0.1:{port}: address already in use"));
}

#[tokio::test]
async fn a_body_that_never_ends_is_answered_408_and_the_connection_closed() {
    let server = start_with(limits(10, SHORT), Auth::default(), |_| {}).await;
    for head in ["content-length: 100", "transfer-encoding: chunked"] {
        let mut caller = Caller::connect(server.address).await;
        caller.send(format!("POST /v1/events HTTP/1.1\r\nhost: t\r\n{head}\r\n\r\n5\r\n").as_bytes()).await;
        let answer = caller.answer().await.unwrap();
        assert_eq!((answer.status, answer.header("connection")), (408, Some("close")));
        assert_eq!(answer.error(), "not done within 0.3 s");
        assert!(caller.is_closed().await);
    }
    assert_eq!(server.hub.publishes(), 0);
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off() {
    let server = start_with(limits(10, LONG), Auth::default(), |options| options.idle_timeout = SHORT).await;
    let mut caller = Caller::connect(server.address).await;
    caller.send(b"GET /v1/events HTTP/1.1\r\nhost").await;
    assert!(caller.is_closed().await);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_431() {
    let server = start().await;
    let cookie = format!("cookie: {}", "c".repeat(33 << 10));
    assert_eq!(server.call("GET /v1/events", &[&cookie], b"").await.status, 431);
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_time_and_not_before() {
    let server = start_with(limits(10, LONG), Auth::default(), |options| options.idle_timeout = SHORT).await;
    let mut caller = Caller::connect(server.address).await;
    for _ in 0..2 {
        caller.request("GET /v1/events", &[], b"").await;
        assert_eq!(caller.answer().await.unwrap().status, 200);
    }
    assert!(caller.is_closed().await);
}

#[tokio::test]
async fn a_thousand_idle_connections_do_not_keep_others_from_being_served() {
    let server = start().await;
    let mut idle = Vec::new();
    for _ in 0..1_000 {
        idle.push(Caller::connect(server.address).await);
    }
    assert_eq!(server.get("/v1/events").await.status, 200);
    // And they are served when they ask at last.
    let last = idle.last_mut().unwrap();
    last.request("GET /v1/events", &[], b"").await;
    assert_eq!(last.answer().await.unwrap().status, 200);
}

#[tokio::test]
async fn when_all_connections_are_taken_the_longest_idle_one_makes_room() {
    let server = start_with(limits(4, LONG), Auth::default(), |_| {}).await;
    let mut waiting = Caller::connect(server.address).await;
    waiting.request("GET /v1/events?wait=60", &[], b"").await;
    let mut idle = Vec::new();
    for index in 0..3 {
        let mut caller = Caller::connect(server.address).await;
        if index > 0 {
            caller.request("GET /v1/events", &[], b"").await;
            assert_eq!(caller.answer().await.unwrap().status, 200);
        }
        idle.push(caller);
    }
    assert_eq!(server.get("/v1/events").await.status, 200);
    assert!(idle[0].is_closed().await);
    // What is busy was left alone.
    server.publish(&["{}"]).await;
    assert_eq!(waiting.answer().await.unwrap().json()["next"], 2);
}

#[tokio::test]
async fn a_caller_that_does_not_read_its_answer_is_cut_off() {
    let server = start_with(limits(10, LONG), Auth::default(), |options| options.stall_timeout = SHORT).await;
    let detail = format!(r#"{{"a":"{}"}}"#, "x".repeat(900 << 10));
    for _ in 0..30 {
        assert_eq!(server.publish(&[&detail]).await.json()["FailedEntryCount"], 0);
    }
    let mut caller = Caller::connect(server.address).await;
    caller.request("GET /v1/events", &["accept: text/event-stream"], b"").await;
    // 27 MB do not fit into the buffers of a socket pair.
    tokio::time::sleep(SHORT * 5).await;
    assert!(caller.read_text("id: 31\n").await.is_none());
}

#[tokio::test]
async fn shutdown_lets_a_request_finish_and_closes_idle_connections_and_streams() {
    let server = start().await;
    let mut idle = Caller::connect(server.address).await;
    let mut stream = Caller::connect(server.address).await;
    stream.request("GET /v1/events", &["accept: text/event-stream"], b"").await;
    stream.read_text("\r\n\r\n").await.unwrap();
    let mut polling = Caller::connect(server.address).await;
    polling.request("GET /v1/events?wait=60", &[], b"").await;
    let mut sending = Caller::connect(server.address).await;
    sending.send(b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 2\r\n\r\n{").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.shutdown.cancel();
    assert!(idle.is_closed().await);
    assert_eq!(stream.read_text("0\r\n\r\n").await.as_deref(), Some("0\r\n\r\n"));
    assert_eq!(polling.answer().await.unwrap().json()["events"], serde_json::json!([]));
    sending.send(b"}").await;
    assert_eq!(sending.answer().await.unwrap().status, 400);
    timeout(LONG, server.stopped).await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn what_does_not_end_at_shutdown_is_cut_off() {
    let server = start_with(limits(10, LONG), Auth::default(), |options| options.drain_timeout = SHORT).await;
    let mut caller = Caller::connect(server.address).await;
    caller.send(b"POST /v1/events HTTP/1.1\r\nhost: t\r\ncontent-length: 100\r\n\r\n{").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.shutdown.cancel();
    timeout(LONG, server.stopped).await.unwrap().unwrap();
    assert!(caller.is_closed().await);
}

#[tokio::test]
async fn bytes_that_are_no_http_are_refused_and_the_next_caller_served() {
    let server = start().await;
    for garbage in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"GET\r\n\r\n", &[0; 4096]] {
        let mut caller = Caller::connect(server.address).await;
        caller.send(garbage).await;
        if let Some(answer) = caller.answer().await {
            assert_eq!(answer.status, 400);
        }
    }
    assert_eq!(server.get("/v1/events").await.status, 200);
}
