//! CloudEvents 1.0 by raw HTTP.

use serde_json::{Value, json};

use crate::harness::{Cluster, EU, PATIENCE, Request, US, until};

const STRUCTURED: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

fn outcomes(port: u16, content_type: &str, body: &Value) -> Vec<(String, String)> {
    let request = Request::post("/v1/events", body.to_string()).header("content-type", content_type);
    results(&request.send(port).expect_status(200).json())
}

fn results(answer: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let results = answer["results"].as_array().expect("results");
    results.iter().map(|result| (text(&result["id"]), text(&result["outcome"]))).collect()
}

fn event(id: &str, n: u32) -> Value {
    json!({ "specversion": "1.0", "id": id, "source": "/shop", "type": "Order", "data": { "n": n } })
}

fn outcome(id: &str, outcome: &str) -> (String, String) {
    (id.to_owned(), outcome.to_owned())
}

fn arrived(cluster: &Cluster, region: &str, id: &str) -> Vec<Value> {
    let mut events = cluster.events(region);
    events.retain(|event| event["detail"]["hubweave"]["key"] == id);
    events
}

#[test]
fn structured_batched_and_binary_events_cross_the_link_once() {
    let cluster = Cluster::start_with(2, "");
    let api = cluster.region(EU).api;
    assert_eq!(outcomes(api, STRUCTURED, &event("s-1", 1)), [outcome("s-1", "accepted")]);
    let batch = json!([event("b-1", 1), event("b-2", 2), event("b-1", 1)]);
    let taken = [outcome("b-1", "accepted"), outcome("b-2", "accepted"), outcome("b-1", "duplicate")];
    assert_eq!(outcomes(api, BATCH, &batch), taken);
    let binary = Request::post("/v1/events", r#"{"n":7}"#)
        .header("content-type", "application/json")
        .header("ce-specversion", "1.0")
        .header("ce-id", "h-1")
        .header("ce-source", "/shop")
        .header("ce-type", "Order")
        .header("ce-traceparent", "00-abc");
    assert_eq!(results(&binary.send(api).expect_status(200).json()), [outcome("h-1", "accepted")]);
    for id in ["s-1", "b-1", "b-2", "h-1"] {
        until(PATIENCE, id, || !arrived(&cluster, US, id).is_empty());
        assert_eq!(arrived(&cluster, US, id).len(), 1, "{id}");
    }
    let event = &arrived(&cluster, US, "h-1")[0];
    assert_eq!(
        (&event["source"], &event["detail-type"], &event["detail"]["n"]),
        (&json!("/shop"), &json!("Order"), &json!(7))
    );
    assert_eq!(event["detail"]["cloudevents"]["traceparent"], "00-abc");
}

#[test]
fn a_known_id_is_a_duplicate_with_the_same_data_and_a_conflict_with_other_data() {
    let cluster = Cluster::start_with(2, "");
    let api = cluster.region(EU).api;
    for (n, expected) in [(1, "accepted"), (1, "duplicate"), (2, "conflict")] {
        assert_eq!(outcomes(api, STRUCTURED, &event("same", n)), [outcome("same", expected)]);
    }
    until(PATIENCE, "the event", || !arrived(&cluster, US, "same").is_empty());
    // The region that it went to knows the key as well.
    let there = cluster.region(US).api;
    assert_eq!(outcomes(there, STRUCTURED, &event("same", 1)), [outcome("same", "duplicate")]);
    assert_eq!(outcomes(there, STRUCTURED, &event("same", 3)), [outcome("same", "conflict")]);
}

#[test]
fn nothing_is_taken_of_a_request_that_is_refused() {
    let cluster = Cluster::start_with(1, "");
    let api = cluster.region(EU).api;
    let bad = json!([event("fine", 1), { "specversion": "1.0", "id": "no-type", "source": "/shop" }]);
    let answer =
        Request::post("/v1/events", bad.to_string()).header("content-type", BATCH).send(api).expect_status(400);
    let why = answer.json()["error"].as_str().expect("why").to_owned();
    assert!(why.contains("event 1") && why.contains("type"), "{why}");
    for (body, content_type, status) in
        [("{", STRUCTURED, 400), ("[]", "application/cloudevents+avro", 415), ("{}", "application/json", 415)]
    {
        let request = Request::post("/v1/events", body).header("content-type", content_type);
        assert!(request.send(api).expect_status(status).json()["error"].is_string(), "{body}");
    }
    assert_eq!(cluster.status(EU)["events"], 0);
}
