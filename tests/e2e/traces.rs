//! The trace that an event belongs to, from its producer to the peer's readers, to logs and to `explain`.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Cluster, EU, PATIENCE, Request, US, until};

const X_RAY: &str = "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1";
const ID: &str = "5759e988bd862e3fe1be46a994272793";

fn publish(cluster: &Cluster, region: &str, key: &str, n: u32) {
    let detail = json!({ "idempotencyKey": key, "n": n }).to_string();
    let entry = json!({ "Source": "shop", "DetailType": "Order", "Detail": detail, "TraceHeader": X_RAY });
    let answer = Request::put_events(&json!([entry])).send(cluster.region(region).api).expect_status(200).json();
    assert_eq!(answer["FailedEntryCount"], 0, "{answer}");
}

/// The header that a reader of the region's hub finds beside the event.
fn trace_of(cluster: &Cluster, region: &str, key: &str) -> Value {
    let page = Request::get("/v1/events").send(cluster.region(region).api).expect_status(200).json();
    let has_key = |event: &&Value| event["envelope"]["detail"].to_string().contains(&format!("\"{key}\""));
    let events = page["events"].as_array().expect("events");
    events.iter().find(has_key).map(|event| event["trace"].clone()).unwrap_or_default()
}

#[test]
fn a_trace_crosses_the_link_and_names_itself_where_the_event_is_named() {
    let cluster = Cluster::start_with(2, "");
    publish(&cluster, EU, "traced", 1);
    until(PATIENCE, "the event to arrive with its trace", || trace_of(&cluster, US, "traced") == X_RAY);
    let explained = cluster.json(&["explain", "--key", "traced"], 0);
    let entries: Vec<&Value> =
        explained["regions"].as_array().expect("regions").iter().map(|region| &region["entries"][0]).collect();
    assert!(entries.iter().all(|entry| entry["trace"] == ID), "{explained}");

    cluster.ok(&["fault", "inject", "--region", EU, "--peer", US, "--kind", "partition"]);
    publish(&cluster, EU, "both", 1);
    publish(&cluster, US, "both", 2);
    cluster.ok(&["fault", "clear", "--region", EU]);
    until(PATIENCE, "the dead letter", || cluster.link(EU, US)["dead_letters"] == 1);
    let shown = cluster.json(&["dlq", "show", "--region", EU, "--key", "both"], 0);
    assert_eq!(shown["letters"][0]["trace"], ID, "{shown}");
    for (region, what) in [(EU, "event goes to the dead letters"), (US, "an event is refused")] {
        let log = fs::read_to_string(cluster.region(region).data_dir.join("agent.log")).expect("a log");
        let line = log.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("no line of it:\n{log}"));
        assert!(line.contains("key=\"both\"") && line.contains(&format!("trace=\"{ID}\"")), "{line}");
        assert!(!log.contains("\"n\""), "no payload in a log");
    }
}

#[test]
fn a_repeat_in_another_span_is_a_duplicate() {
    let cluster = Cluster::start_with(2, "");
    let api = cluster.region(EU).api;
    let span = |number: u32| format!("00-{ID}-{number:016x}-01");
    let send = |number: u32| {
        let event = json!({
            "specversion": "1.0", "id": "c-1", "source": "/shop", "type": "Order", "traceparent": span(number),
        });
        let request = Request::post("/v1/events", event.to_string());
        let answer = request.header("content-type", "application/cloudevents+json").send(api).expect_status(200).json();
        answer["results"][0]["outcome"].clone()
    };
    assert_eq!((send(1), send(2)), (json!("accepted"), json!("duplicate")));
    until(PATIENCE, "the first one to arrive", || trace_of(&cluster, US, "c-1") == span(1));
    cluster.ok(&["verify"]);
}
