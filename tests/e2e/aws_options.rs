//! Options that make a region on AWS cheaper: what they take away, and what is given up for it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::{
    EU, Metrics, PATIENCE, Request, US,
    aws::{AwsCluster, call},
    until,
};

#[test]
fn a_region_without_local_keys_and_audit_has_less_and_does_without_what_they_are_for() {
    let mut cluster = AwsCluster::provisioned("[replication]\nretry_min = \"50ms\"\nretry_max = \"500ms\"\n");
    let text = std::fs::read_to_string(&cluster.file).expect("the file");
    let bucket = format!("bucket = \"{}-{US}\"\n", cluster.name);
    let cheaper = text.replace(&bucket, &format!("{bucket}local_keys = false\naudit = false\n"));
    std::fs::write(&cluster.file, cheaper).expect("the file can be written");

    // A local key that nobody enters any more.
    cluster.publish(US, &["dropped".to_owned()]);

    // What was made for it is there still; `doctor` says so, and `provision` takes it away.
    let doctor = cluster.run(&["doctor", "--region", US, "--json"]).expect_code(1).document();
    let notes: Vec<String> = doctor["findings"]
        .as_array()
        .expect("findings")
        .iter()
        .filter(|finding| finding["verdict"] == "note")
        .map(|finding| finding.to_string())
        .collect();
    let keys = format!("{}-{US}-keys", cluster.name);
    for kind in ["queue", "rule"] {
        assert!(notes.iter().any(|note| note.contains(&format!("{kind} {keys}"))), "{notes:?}");
    }
    let done = |report: &Value, kind: &str, name: &str| -> Option<String> {
        let changes = report["changes"].as_array().expect("changes").clone();
        let change = changes.into_iter().find(|change| change["kind"] == kind && change["name"] == name)?;
        Some(change["done"].as_str().expect("text").to_owned())
    };
    let diff = cluster.run(&["provision", "--region", US, "--diff", "--json"]).expect_code(1).document();
    assert_eq!(done(&diff, "queue", &keys).as_deref(), Some("none"));
    let applied = cluster.run(&["provision", "--region", US, "--apply", "--json"]).expect_code(0).document();
    let audit = format!("{}-{US}-audit", cluster.name);
    let of = |kind, name| done(&applied, kind, name);
    assert_eq!([of("queue", &keys), of("rule", &keys)], [Some("removed".to_owned()), Some("removed".to_owned())]);
    assert!(applied.to_string().contains("messages still in it were dropped: 1"), "{applied}");
    assert_eq!(of("rule", &audit).as_deref(), Some("altered"), "heartbeats alone");
    let again = cluster.run(&["provision", "--region", US, "--diff", "--json"]).expect_code(0).document();
    assert_eq!(done(&again, "queue", &keys), None);
    cluster.run(&["doctor"]).expect_code(0);
    let check = cluster.run(&["check"]).expect_code(0).stdout;
    assert!(check.contains("without local_keys, without audit") && check.contains("second effect"), "{check}");

    cluster.start_first_agent(EU, &[]);
    let (_, us) = cluster.start_first_agent(US, &[]);
    cluster.publish(EU, &["kept".to_owned()]);
    // Published here without the agent, and in the other region as well.
    cluster.publish(US, &["moved".to_owned()]);
    cluster.publish(EU, &["moved".to_owned()]);
    let mut seen = BTreeMap::new();
    until(PATIENCE, "the peer's events to be here, the second effect too", || {
        cluster.drain_sink(US, &mut seen);
        seen.contains_key("kept") && seen.get("moved").is_some_and(|events: &Vec<Value>| events.len() == 2)
    });
    // A service copies what it received, stamp and all.
    let mut copied = seen["kept"][0]["detail"].clone();
    (copied["of"], copied["metadata"]["idempotencyKey"]) = (json!("copied"), json!("copied"));
    let entry =
        json!({ "Source": "app", "DetailType": "Copy", "Detail": copied.to_string(), "EventBusName": cluster.name });
    call("events", US, "AWSEvents.PutEvents", &json!({ "Entries": [entry] }));
    cluster.publish(US, &["after".to_owned()]);
    let mut in_eu = BTreeMap::new();
    until(PATIENCE, "a later event to be in the other region", || {
        cluster.drain_sink(EU, &mut in_eu);
        in_eu.contains_key("after")
    });
    assert!(!in_eu.contains_key("copied"), "nobody noticed");
    until(PATIENCE, "a heartbeat of the peer all the same", || {
        let metrics = Metrics::parse(&Request::get("/metrics").send(us).expect_status(200).text());
        metrics.value("hubweave_heartbeat_received_timestamp_seconds", &[("origin", EU)]) > 0.0
    });
}
