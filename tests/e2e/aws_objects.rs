//! Payloads between the buckets of two regions on an emulated AWS.

use std::{collections::BTreeMap, fs};

use serde_json::{Value, json};

use crate::{
    harness::{
        EU, Metrics, PATIENCE, Request, US,
        aws::{AwsCluster, call},
        until,
    },
    objects_s3::noise,
};

const CLAIM_CHECK: &str = "[claim_check]\nreference = [\"/detail/claimCheck\"]\nwait = \"3s\"\n";

fn refer(cluster: &AwsCluster, region: &str, key: &str, more: Value) {
    let mut detail = json!({ "metadata": { "idempotencyKey": key }, "of": key });
    detail.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let entry = json!({
        "Source": "app", "DetailType": "Order", "Detail": detail.to_string(), "EventBusName": cluster.name
    });
    let answer = call("events", region, "AWSEvents.PutEvents", &json!({ "Entries": [entry] }));
    assert_eq!(answer["FailedEntryCount"], 0, "{answer}");
}

fn uri(cluster: &AwsCluster, region: &str, key: &str) -> Value {
    json!({ "claimCheck": format!("s3://{}-{region}/{key}", cluster.name) })
}

struct Files<'a>(&'a AwsCluster);

impl Files<'_> {
    fn put(&self, region: &str, key: &str, bytes: &[u8]) {
        let file = self.0.path("up");
        fs::write(&file, bytes).expect("written");
        let (bucket, file) = (format!("{}-{region}", self.0.name), file.display().to_string());
        self.0.aws(region, &["s3api", "put-object", "--bucket", &bucket, "--key", key, "--body", &file]);
    }

    /// What stands at this URI.
    fn get(&self, region: &str, uri: &str) -> Vec<u8> {
        let file = self.0.path("down");
        let (bucket, key) = uri.strip_prefix("s3://").expect("a URI").split_once('/').expect("a key");
        self.0.aws(region, &["s3api", "get-object", "--bucket", bucket, "--key", key, file.to_str().expect("text")]);
        fs::read(file).expect("read")
    }
}

fn metrics(admin: u16) -> Metrics {
    Metrics::parse(&Request::get("/metrics").send(admin).expect_status(200).text())
}

fn arrived(cluster: &AwsCluster, seen: &mut BTreeMap<String, Vec<Value>>, key: &str) -> Value {
    until(PATIENCE, "the event to be on the peer's bus", || {
        cluster.drain_sink(US, seen);
        seen.contains_key(key)
    });
    assert_eq!(seen[key].len(), 1, "{key}");
    seen[key][0].clone()
}

#[test]
fn payloads_are_copied_by_s3_before_their_events_and_references_lead_to_the_peers_bucket() {
    let mut cluster = AwsCluster::provisioned(CLAIM_CHECK);
    cluster.run(&["doctor"]).expect_code(0);
    let (_, admin) = cluster.start_agent(EU);
    let (files, mut seen) = (Files(&cluster), BTreeMap::new());
    for (key, size) in [("empty", 0), ("small ü+%", 4_096), ("large", 20 << 20)] {
        let bytes = noise(size as u64, size);
        files.put(EU, key, &bytes);
        refer(&cluster, EU, key, uri(&cluster, EU, key));
        let event = arrived(&cluster, &mut seen, key);
        let reference = event["detail"]["claimCheck"].as_str().expect("a reference").to_owned();
        assert_eq!(reference, format!("s3://{}-{US}/{key}", cluster.name));
        assert!(files.get(US, &reference) == bytes, "{key}");
    }
    // Overwritten: the copy goes beside the first one.
    files.put(EU, "large", b"another");
    refer(&cluster, EU, "again", uri(&cluster, EU, "large"));
    let event = arrived(&cluster, &mut seen, "again");
    let reference = event["detail"]["claimCheck"].as_str().expect("a reference").to_owned();
    assert!(reference.starts_with(&format!("s3://{}-{US}/large.", cluster.name)), "{reference}");
    assert_eq!(files.get(US, &reference), b"another");

    let metrics = metrics(admin);
    let calls =
        |operation: &str| metrics.sum("hubweave_aws_requests_total", &[("service", "s3"), ("operation", operation)]);
    println!("4 objects: {} HeadObject, {} CopyObject", calls("HeadObject"), calls("CopyObject"));
    assert!(calls("CopyObject") >= 4.0);
    assert_eq!(calls("PutObject"), 0.0, "no bytes pass through the agent");
    assert_eq!(calls("GetObject"), 1.0, "but for the name of the copy that goes beside another");
    assert_eq!(metrics.value("hubweave_objects_copied_total", &[("peer", US), ("result", "copied")]), 4.0);
}

#[test]
fn what_cannot_be_brought_waits_or_is_a_dead_letter_with_its_reason() {
    let mut cluster = AwsCluster::provisioned(CLAIM_CHECK);
    let (_, admin) = cluster.start_first_agent(EU, &[]);
    let (files, mut seen) = (Files(&cluster), BTreeMap::new());
    refer(&cluster, EU, "foreign", json!({ "claimCheck": "s3://somebodys/key" }));
    refer(&cluster, EU, "never", uri(&cluster, EU, "never"));
    refer(&cluster, EU, "late", uri(&cluster, EU, "late"));
    until(PATIENCE, "events to wait", || metrics(admin).value("hubweave_objects_waiting", &[("peer", US)]) >= 1.0);
    files.put(EU, "late", b"late");
    let event = arrived(&cluster, &mut seen, "late");
    assert_eq!(files.get(US, event["detail"]["claimCheck"].as_str().expect("a reference")), b"late");
    let letters = || cluster.run(&["dlq", "list", "--region", EU, "--json"]).expect_code(0).document();
    until(PATIENCE, "the dead letters", || letters()["total"] == 2);
    let reason = |key: &str| {
        let letters = letters()["letters"].as_array().expect("letters").clone();
        letters.iter().find(|letter| letter["key"] == key).map(|letter| letter["reason"].clone())
    };
    assert_eq!((reason("foreign"), reason("never")), (Some(json!("reference")), Some(json!("payload_missing"))));
    files.put(EU, "never", b"now");
    cluster.run(&["dlq", "redrive", "--region", EU, "--key", "never"]).expect_code(0);
    let event = arrived(&cluster, &mut seen, "never");
    assert_eq!(files.get(US, event["detail"]["claimCheck"].as_str().expect("a reference")), b"now");
}

#[test]
fn a_detail_that_the_peers_bus_would_not_take_goes_by_reference() {
    let mut cluster = AwsCluster::provisioned("");
    cluster.start_agent(EU);
    let (files, mut seen) = (Files(&cluster), BTreeMap::new());
    // The bus takes it, but not with a stamp.
    let more = json!({ "pad": "x".repeat((1 << 20) - 200) });
    refer(&cluster, EU, "huge", more.clone());
    until(PATIENCE, "the event to be on the peer's bus", || {
        cluster.drain_sink(US, &mut seen);
        seen.contains_key("huge")
    });
    let event = seen["huge"][0].clone();
    let offloaded = &event["detail"]["hubweave"]["offloaded"];
    let at = format!(
        "s3://{}/{}",
        offloaded["bucket"].as_str().expect("a bucket"),
        offloaded["key"].as_str().expect("a key")
    );
    let detail: Value = serde_json::from_slice(&files.get(US, &at)).expect("JSON");
    assert_eq!((&detail["of"], &detail["pad"]), (&json!("huge"), &more["pad"]));
    assert!(event["detail"]["pad"].is_null());
}
