//! Bytes, peers and connections that nobody wants.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::json;

use crate::harness::{Cluster, EU, PATIENCE, Request, US, until};

#[test]
fn garbage_on_the_peer_endpoint_is_refused_and_changes_nothing() {
    let cluster = Cluster::start_with(2, "");
    let port = cluster.region(EU).api;
    let batch = "application/x-hubweave-batch";
    let noise: Vec<u8> = (0..100_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for body in [&b""[..], b"{}", b"\0\0\0\0", &noise, &[0xff; 4096]] {
        let answer = Request::post("/peer/v1/deliver", body).header("content-type", batch).send(port);
        assert!((400..500).contains(&answer.status), "{}: {}", answer.status, answer.text());
        assert!(answer.json()["error"].is_string());
    }
    for body in ["", "{", "[]", r#"{"cluster":"e2e","origin":7}"#] {
        let answer = Request::post("/peer/v1/repair", body).header("content-type", "application/json").send(port);
        assert!((400..500).contains(&answer.status), "{body}: {}", answer.status);
    }
    assert!((400..500).contains(&Request::get("/peer/v1/hello").send(port).status));
    for request in [Request::get("/nothing"), Request::post("/v1/nothing", ""), Request::get("/v1/events?from=never")] {
        assert!((400..500).contains(&request.send(port).status), "{request:?}");
    }
    cluster.publish(EU, "after", "{}");
    assert_eq!(cluster.wait_for_key(US, "after").len(), 1);
    assert_eq!(cluster.status(EU)["events"], 1);
}

#[test]
fn bytes_that_are_no_http_end_the_connection_and_nothing_else() {
    let cluster = Cluster::start_with(1, "");
    let region = cluster.region(EU);
    for port in [region.api, region.admin] {
        for bytes in [&b"\x16\x03\x01\x02\x00"[..], b"GET\r\n\r\n", b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n"] {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
            stream.set_read_timeout(Some(Duration::from_secs(20))).expect("settable");
            stream.write_all(bytes).expect("writable");
            stream.shutdown(std::net::Shutdown::Write).expect("half closed");
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
        }
        assert!(Request::get("/nothing").send(port).status == 404);
    }
}

#[test]
fn a_body_over_the_limit_gets_an_answer_that_says_so() {
    let cluster = Cluster::start_with(1, "");
    let port = cluster.region(EU).api;
    let large = Request::post("/v1/events", vec![b' '; 9 << 20]).header("content-type", "application/json");
    assert!(large.send(port).expect_status(413).text().contains("8388608"));
    // Whoever asks first does not have to send it.
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("settable");
    let head = "POST /v1/events HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 99999999999\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("writable");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("an answer without the body");
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[test]
fn two_clusters_that_point_at_each_other_refuse_and_lose_nothing() {
    // One file says `e2e` and the other `elsewhere`; the addresses are the same. Each runs one of the two regions.
    let one = Cluster::describe(2, "");
    let mut other = Cluster::describe(2, "");
    let text = std::fs::read_to_string(&one.file).expect("the file");
    let own = |text: &str, name: &str| {
        text.replace(
            &one.region(name).data_dir.display().to_string(),
            &other.region(name).data_dir.display().to_string(),
        )
    };
    let pointed = own(&own(&text, EU), US).replace("\"e2e\"", "\"elsewhere\"");
    std::fs::write(&other.file, pointed).expect("writable");
    for (own, addressed) in other.regions.iter_mut().zip(&one.regions) {
        (own.api, own.admin) = (addressed.api, addressed.admin);
    }
    one.start_agent(EU);
    other.start_agent(US);
    one.wait_ready_one(EU);
    other.wait_ready_one(US);
    one.publish(EU, "mine", "{}");
    other.publish(US, "theirs", "{}");
    for (cluster, from, to) in [(&one, EU, US), (&other, US, EU)] {
        until(PATIENCE, "the link to be refused", || cluster.link(from, to)["state"] == "refused");
        let link = cluster.link(from, to);
        let why = link["reason"].as_str().expect("a reason");
        assert!(why.contains("e2e") && why.contains("elsewhere"), "{why}");
        assert_eq!(link["backlog_events"], 1, "it waits, and is not lost");
        assert_eq!(cluster.status(from)["events"], 1, "nothing crossed");
    }
    // Once the right one is there, it arrives.
    other.kill_agent(US);
    one.start_agent(US);
    one.wait_ready_one(US);
    assert_eq!(one.wait_for_key(US, "mine").len(), 1);
    assert_eq!((one.status(EU)["events"].as_u64(), one.status(US)["events"].as_u64()), (Some(1), Some(1)));
}

#[test]
fn a_thousand_idle_connections_do_not_keep_others_out() {
    let cluster = Cluster::start_with(2, "");
    let port = cluster.region(EU).api;
    let mut idle: Vec<TcpStream> =
        (0..1_000).map(|_| TcpStream::connect(("127.0.0.1", port)).expect("a connection")).collect();
    // Some have begun a request and never go on.
    for stream in idle.iter_mut().step_by(3) {
        stream.write_all(b"POST /v1/events HTTP/1.1\r\nhost: x\r\n").expect("writable");
    }
    cluster.publish(EU, "through", "{}");
    cluster.publish(US, "back", "{}");
    assert_eq!(cluster.wait_for_key(US, "through").len(), 1);
    assert_eq!(cluster.wait_for_key(EU, "back").len(), 1, "peers come through as well");
    // Nor do they hold up a stop.
    assert_eq!(cluster.stop_agent(EU).code(), Some(0));
}

#[test]
fn a_stamp_that_was_copied_or_forged_is_taken_out_and_counted() {
    let cluster = Cluster::start_with(2, "");
    let detail = json!({
        "metadata": { "idempotencyKey": "forged" },
        "hubweave": { "origin": US, "id": "1", "account": "000000000000", "key": "x", "hash": "00", "sequence": 1,
            "time": "2026-01-01T00:00:00Z", "hops": 1 },
    });
    let entries = json!([{ "Source": "shop", "DetailType": "Order", "Detail": detail.to_string() }]);
    let answer = Request::put_events(&entries).send(cluster.region(EU).api).expect_status(200).json();
    assert_eq!(answer["FailedEntryCount"], 0, "{answer}");
    let arrived = cluster.wait_for_key(US, "forged");
    assert_eq!((arrived.len(), &arrived[0]["detail"]["hubweave"]["origin"]), (1, &json!(EU)));
    assert!(cluster.with_key(EU, "forged")[0]["detail"].get("hubweave").is_none());
    assert_eq!(cluster.metrics(EU).value("hubweave_stamps_stripped_total", &[]), 1.0);
}
