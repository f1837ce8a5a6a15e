//! What an operator does about a region on AWS.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::{
    EU, PATIENCE, Request, US,
    aws::{AwsCluster, call},
    until,
};
use crate::ministack::MiniStack;

const EAGER: &str = "[replication]\nretry_min = \"50ms\"\nretry_max = \"500ms\"\n";

fn put(cluster: &AwsCluster, region: &str, key: &str, n: u32) {
    let detail = json!({ "metadata": { "idempotencyKey": key }, "of": key, "n": n }).to_string();
    let entry = json!({ "Source": "app", "DetailType": "Order", "Detail": detail, "EventBusName": cluster.name });
    call("events", region, "AWSEvents.PutEvents", &json!({ "Entries": [entry] }));
}

fn letters(cluster: &AwsCluster, arguments: &[&str], code: i32) -> Value {
    let command = [&["dlq"], arguments, &["--region", EU, "--json"]].concat();
    cluster.run(&command).expect_code(code).document()
}

/// What the region's agents say of a key, as `(region, what)`.
fn explained(cluster: &AwsCluster, more: &[&str], code: i32) -> Vec<(String, String)> {
    let command = [&["explain", "--json"], more].concat();
    let document = cluster.run(&command).expect_code(code).document();
    let mut all = Vec::new();
    for region in document["regions"].as_array().expect("regions") {
        for entry in region["entries"].as_array().expect("entries") {
            let text = |value: &Value| value.as_str().expect("text").to_owned();
            all.push((text(&region["region"]), text(&entry["what"])));
        }
    }
    all
}

/// Puts an event into the dead-letter queue of a link, as a link or a rule would.
fn bury(cluster: &AwsCluster, key: &str, attributes: &[(&str, &str)]) {
    let detail = json!({ "metadata": { "idempotencyKey": key }, "of": key });
    let envelope = json!({
        "version": "0", "id": format!("id-{key}"), "detail-type": "Order", "source": "app", "account": "000000000000",
        "time": "2026-01-01T00:00:00Z", "region": EU, "resources": [], "detail": detail,
    });
    let attributes: serde_json::Map<String, Value> = attributes
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!({ "DataType": "String", "StringValue": value })))
        .collect();
    let url = format!("{}/000000000000/{}-{EU}-to-{US}-dead", MiniStack::get().url(), cluster.name);
    let message = json!({ "QueueUrl": url, "MessageBody": envelope.to_string(), "MessageAttributes": attributes });
    call("sqs", EU, "AmazonSQS.SendMessage", &message);
}

#[test]
fn dead_letters_are_listed_shown_redriven_and_discarded() {
    let mut cluster = AwsCluster::provisioned(EAGER);
    let (_, admin) = cluster.start_first_agent(EU, &[]);
    cluster.start_first_agent(US, &[]);
    assert_eq!(letters(&cluster, &["list"], 0)["total"], 0);

    // One key, two payloads: the second is a conflict in the other region, once that region's ledger knows its own.
    put(&cluster, US, "both", 1);
    until(PATIENCE, "the first one to be in its region's ledger", || {
        let all = explained(&cluster, &["--key", "both", "--source", "app", "--detail-type", "Order"], 0);
        all.contains(&(US.to_owned(), "accepted".to_owned()))
    });
    let mut at_home = BTreeMap::new();
    until(PATIENCE, "the first one to be here", || {
        cluster.drain_sink(EU, &mut at_home);
        at_home.contains_key("both")
    });
    put(&cluster, EU, "both", 2);
    let mut list = Value::Null;
    until(PATIENCE, "the second one to be a dead letter", || {
        list = letters(&cluster, &["list"], 0);
        list["total"] == 1
    });
    let letter = &list["letters"][0];
    assert_eq!((&letter["key"], &letter["reason"], &letter["peer"]), (&json!("both"), &json!("conflict"), &json!(US)));
    assert_eq!((&letter["source"], &letter["detail_type"]), (&json!("app"), &json!("Order")));
    assert_eq!((&list["looked"], &list["complete"]), (&json!(1), &json!(true)));
    let id = letter["id"].as_str().expect("an id").to_owned();
    let shown = letters(&cluster, &["show", "--id", &id], 0);
    assert_eq!(shown["letters"][0]["envelope"]["detail"]["n"], 2);
    assert_eq!(letters(&cluster, &["list", "--key", "another"], 0)["total"], 0);
    cluster.run(&["dlq", "show", "--region", EU, "--id", "nothing"]).expect_code(1);
    let what = explained(&cluster, &["--key", "both"], 0);
    assert!(what.contains(&(EU.to_owned(), "dead_lettered".to_owned())), "{what:?}");

    // It is refused again, and comes back once.
    let dry = letters(&cluster, &["redrive", "--dry-run"], 0);
    assert_eq!((&dry["matched"], &dry["events"], &dry["requeued"]), (&json!(1), &json!(1), &json!(0)));
    assert_eq!(letters(&cluster, &["redrive"], 0)["requeued"], 1);
    until(PATIENCE, "it to be a dead letter again", || letters(&cluster, &["list"], 0)["total"] == 1);

    // What a rule could not deliver, what the feed gave up on, and what is older than the ledgers' memory.
    bury(&cluster, "rule", &[("ERROR_CODE", "NO_PERMISSIONS"), ("ERROR_MESSAGE", "not authorized")]);
    bury(&cluster, "often", &[]);
    bury(&cluster, "old", &[("hubweave-reason", "expired"), ("hubweave-accepted", "1767225600000")]);
    let list = letters(&cluster, &["list"], 0);
    let reason = |key: &str| {
        let letters = list["letters"].as_array().expect("letters");
        letters.iter().find(|letter| letter["key"] == key).expect("the letter")["reason"].clone()
    };
    assert_eq!(
        [reason("rule"), reason("often"), reason("old"), reason("both")],
        ["not_enqueued", "received_too_often", "expired", "conflict"]
    );
    let redriven = letters(&cluster, &["redrive"], 0);
    assert_eq!((&redriven["matched"], &redriven["requeued"], &redriven["skipped"]), (&json!(4), &json!(3), &json!(1)));
    let mut seen = BTreeMap::new();
    until(PATIENCE, "the redriven ones to arrive", || {
        cluster.drain_sink(US, &mut seen);
        seen.contains_key("rule") && seen.contains_key("often")
    });
    assert!(!seen.contains_key("old"), "whether it takes a second effect nobody knows");
    assert_eq!(letters(&cluster, &["redrive", "--key", "old", "--expired"], 0)["requeued"], 1);
    until(PATIENCE, "the old one to arrive where somebody wants it", || {
        cluster.drain_sink(US, &mut seen);
        seen.contains_key("old")
    });
    assert!(["rule", "often", "old"].iter().all(|key| seen[*key].len() == 1));

    until(PATIENCE, "the conflict to be a dead letter again", || letters(&cluster, &["list"], 0)["total"] == 1);
    assert_eq!(letters(&cluster, &["discard", "--key", "another"], 0)["discarded"], 0);
    assert_eq!(letters(&cluster, &["discard", "--peer", US], 0)["discarded"], 1);
    assert_eq!(letters(&cluster, &["list"], 0)["total"], 0);
    assert_eq!(Request::get("/v1/dlq?peer=nowhere").send(admin).status, 404);
    assert_eq!(Request::get("/v1/dlq?since=yesterday").send(admin).status, 400);
}

#[test]
fn a_key_is_explained_by_the_ledgers_of_its_region_and_of_its_peers() {
    let mut cluster = AwsCluster::provisioned(EAGER);
    cluster.start_first_agent(EU, &[]);
    cluster.start_first_agent(US, &[]);
    cluster.run(&["pause", "--from", EU, "--to", US]).expect_code(0);
    put(&cluster, EU, "asked", 1);
    let whats = || {
        let mut all = explained(&cluster, &["--key", "asked", "--source", "app", "--detail-type", "Order"], 0);
        all.sort();
        all
    };
    let pair = |region: &str, what: &str| (region.to_owned(), what.to_owned());
    until(PATIENCE, "the event to be in its region's ledger", || {
        let command = ["explain", "--key", "asked", "--source", "app", "--detail-type", "Order", "--json"];
        cluster.run(&command).stdout.contains("accepted")
    });
    assert_eq!(whats(), [pair(EU, "accepted"), pair(EU, "waiting")]);
    cluster.run(&["resume", "--from", EU, "--to", US]).expect_code(0);
    let arrived = [pair(EU, "accepted"), pair(EU, "forwarded"), pair(US, "applied")];
    until(PATIENCE, "the event to be in the other region", || whats() == arrived);
    // Its kind was seen by both by now, so that the key is enough.
    let by_key = || {
        let mut all = explained(&cluster, &["--key", "asked"], 0);
        all.sort();
        all == arrived
    };
    until(PATIENCE, "the other agent to have seen an event of its kind", by_key);
    let nothing = cluster.run(&["explain", "--key", "nobody"]).expect_code(1);
    assert!(nothing.stdout.contains("--detail-type"), "{}", nothing.stdout);
}

#[test]
fn what_a_region_without_a_log_cannot_do_is_answered_with_what_to_do_instead() {
    let mut cluster = AwsCluster::provisioned("");
    let (agent, admin) = cluster.start_first_agent(EU, &[]);
    let journal = cluster.file.with_file_name("journal").to_string_lossy().into_owned();
    for (command, code, instead) in [
        (&["replay", "--from", EU, "--to", US][..], 1, "publish the events again"),
        (&["repair", "--from", EU, "--to", US, "--origin", US], 1, "backups"),
        (&["tail", "--region", EU], 2, "a rule"),
        (&["publish", "--region", EU, "--source", "a", "--detail-type", "b", "--detail", "{}"], 2, "put-events"),
        (&["load", "--rate", "1", "--duration", "1s", "--journal", &journal], 2, "`api`"),
        (&["up"], 2, "embedded"),
    ] {
        let done = cluster.run(command).expect_code(code);
        assert!(done.stderr.contains(instead), "{command:?}: {}", done.stderr);
        assert_eq!(done.stderr.lines().count(), 1, "{command:?}: {}", done.stderr);
    }
    let answer = Request::get("/v1/nothing").send(admin).expect_status(404);
    assert!(answer.json()["error"].as_str().expect("why").contains("no such path"));
    assert!(Request::post("/v1/reload", "").send(admin).expect_status(404).text().contains("restart"));
    // A signal that reloads other agents does not end this one.
    cluster.signal_agent(agent, "HUP");
    until(PATIENCE, "the agent to say so", || {
        std::fs::read_to_string(cluster.log(agent)).is_ok_and(|log| log.contains("SIGHUP"))
    });
    assert!(Request::get("/readyz").is_ok(admin));
}
