//! Who may look at an admin listener, who may change something, and the stream that the status page draws.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
};

use serde_json::Value;

use crate::harness::{Cluster, EU, PATIENCE, Request, US};

const TOKENS: &str = "[auth]\nadmin_token = \"of-operators\"\nviewer_token = \"of-viewers\"\n";

/// The first pictures of the stream.
fn pictures(port: u16, token: &str, count: usize) -> Vec<Value> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a listener");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let head = format!("GET /v1/watch HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {token}\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("sent");
    let lines = BufReader::new(stream).lines().map(|line| line.expect("a line"));
    let data = lines.filter_map(|line| line.strip_prefix("data: ").map(str::to_owned));
    data.take(count).map(|text| serde_json::from_str(&text).expect("JSON")).collect()
}

#[test]
fn a_viewer_sees_everything_and_changes_nothing() {
    let cluster = Cluster::describe(2, TOKENS);
    cluster.start_agent(EU);
    let admin = cluster.region(EU).admin;
    crate::harness::until(PATIENCE, "the agent to be ready", || Request::get("/readyz").is_ok(admin));
    let get = |path: &str, token: &str| {
        Request::get(path).header("authorization", &format!("Bearer {token}")).send(admin).status
    };
    let pause = |token: &str, origin: Option<&str>| {
        let request =
            Request::post(&format!("/v1/links/{US}/pause"), "").header("authorization", &format!("Bearer {token}"));
        let request = match origin {
            Some(origin) => request.header("origin", origin),
            None => request,
        };
        request.send(admin)
    };
    for path in ["/metrics", "/v1/status", "/v1/dlq", "/v1/regions"] {
        assert_eq!((get(path, "of-viewers"), get(path, "of-operators"), get(path, "wrong")), (200, 200, 401), "{path}");
    }
    assert_eq!(Request::get("/").send(admin).status, 200, "the page itself says nothing of the region");
    let refused = pause("of-viewers", None);
    assert_eq!(refused.status, 403);
    assert!(refused.json()["error"].as_str().is_some_and(|why| why.contains("viewer_token")));
    assert_eq!(pause("of-operators", Some("https://elsewhere.example")).status, 403, "another site's page");
    assert_eq!(pause("of-operators", Some(&format!("http://127.0.0.1:{admin}"))).status, 200, "its own page");

    for (token, may_change) in [("of-viewers", false), ("of-operators", true)] {
        let seen = pictures(admin, token, 2);
        assert_eq!(seen[0]["may_change"], may_change);
        assert_eq!(seen[0]["status"]["region"], EU);
        assert_eq!(seen[0]["status"]["links"][0]["state"], "paused");
        assert_eq!(seen[0]["regions"]["region"], EU);
        assert_eq!(seen[0]["history"]["every_seconds"], 5);
        assert_ne!(seen[0]["status"]["time"], seen[1]["status"]["time"], "it goes on");
    }
}

#[test]
fn without_a_token_only_who_names_the_listener_by_address_is_answered() {
    let cluster = Cluster::start_with(2, "");
    let admin = cluster.region(EU).admin;
    for (host, status) in
        [("127.0.0.1:7501", 200), ("localhost:7501", 200), ("[::1]:7501", 200), ("elsewhere.example:7501", 403)]
    {
        let mut stream = TcpStream::connect(("127.0.0.1", admin)).expect("a listener");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let head = format!("GET /v1/status HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("sent");
        let first = BufReader::new(stream).lines().next().expect("an answer").expect("text");
        assert!(first.starts_with(&format!("HTTP/1.1 {status}")), "{host}: {first}");
    }
}

#[test]
fn a_viewers_token_alone_protects_nothing_and_is_refused() {
    let cluster = Cluster::describe(2, "[auth]\nviewer_token = \"of-viewers\"\n");
    let done = cluster.run(&["check"]).expect_code(2);
    assert!(done.stderr.contains("auth.viewer_token") && done.stderr.contains("admin_token"), "{}", done.stderr);
    let cluster = Cluster::describe(2, "[auth]\nadmin_token = \"one\"\nviewer_token = \"one\"\n");
    let done = cluster.run(&["check"]).expect_code(2);
    assert!(done.stderr.contains("viewers could do everything"), "{}", done.stderr);
}
