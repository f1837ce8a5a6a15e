//! The AWS CLI as everybody has it, with nothing but another endpoint.

use std::{path::PathBuf, process::Command};

use serde_json::{Value, json};

use crate::harness::{AP, Cluster, Done, EU, PATIENCE, US, finish};

/// `make tools` puts it there. Without it nothing is proven, so a test must not pass.
fn aws() -> PathBuf {
    let aws = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/aws");
    assert!(aws.exists(), "{} is not there: run `make tools`", aws.display());
    aws
}

fn put_events(port: u16, entries: &Value) -> Done {
    let mut command = Command::new(aws());
    command
        .args(["events", "put-events", "--endpoint-url", &format!("http://127.0.0.1:{port}"), "--output", "json"])
        .args(["--entries", &entries.to_string()])
        // Neither the tester's profile nor a proxy nor a machine's role.
        .envs([("AWS_ACCESS_KEY_ID", "dummy"), ("AWS_SECRET_ACCESS_KEY", "dummy"), ("AWS_DEFAULT_REGION", "us-east-1")])
        .envs([("AWS_CONFIG_FILE", "/dev/null"), ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")])
        .envs([("AWS_EC2_METADATA_DISABLED", "true"), ("NO_PROXY", "127.0.0.1")])
        .env_remove("AWS_PROFILE");
    finish(&mut command, PATIENCE * 2)
}

fn entry(key: &str, n: u32) -> Value {
    let detail = json!({ "metadata": { "idempotencyKey": key }, "n": n });
    json!({ "Source": "shop", "DetailType": "Order", "Detail": detail.to_string() })
}

#[test]
fn the_aws_cli_publishes_and_tail_shows_the_event_once_and_stamped_in_both_other_regions() {
    let cluster = Cluster::start();
    let answer = put_events(cluster.region(EU).api, &json!([entry("a-1", 1)])).expect_code(0).document();
    assert_eq!(answer["FailedEntryCount"], 0);
    let id = answer["Entries"][0]["EventId"].as_str().expect("an id");
    for region in [US, AP] {
        cluster.wait_for_key(region, "a-1");
        let text = cluster.ok(&["tail", "--region", region, "--from", "start", "--limit", "1"]);
        let event: Value = serde_json::from_str(&text).expect("one envelope on one line");
        assert_eq!((&event["source"], &event["detail-type"]), (&json!("shop"), &json!("Order")));
        assert_eq!(event["region"], region);
        assert_eq!(event["detail"]["n"], 1);
        let stamp = &event["detail"]["hubweave"];
        assert_eq!((&stamp["origin"], &stamp["id"], &stamp["key"]), (&json!(EU), &json!(id), &json!("a-1")));
        assert_eq!(cluster.with_key(region, "a-1").len(), 1);
    }
    let at_home = cluster.with_key(EU, "a-1");
    assert!(at_home.len() == 1 && at_home[0]["detail"].get("hubweave").is_none(), "{at_home:?}");
}

#[test]
fn tail_from_now_shows_what_the_aws_cli_publishes_elsewhere() {
    let cluster = Cluster::start();
    let tail = std::thread::scope(|scope| {
        let tail = scope.spawn(|| cluster.ok(&["tail", "--region", US, "--limit", "1"]));
        // The tail may begin later than the first event; it must not miss those after.
        for n in 0.. {
            if tail.is_finished() {
                break;
            }
            put_events(cluster.region(EU).api, &json!([entry(&format!("now-{n}"), n)])).expect_code(0);
        }
        tail.join().expect("tail ends")
    });
    let event: Value = serde_json::from_str(&tail).expect("one envelope on one line");
    assert_eq!((&event["source"], &event["detail"]["hubweave"]["origin"]), (&json!("shop"), &json!(EU)));
}

#[test]
fn failing_entries_come_back_per_entry_and_the_others_are_taken() {
    let cluster = Cluster::start_with(2, "");
    let entries = json!([
        entry("good", 1),
        { "Source": "aws.forbidden", "DetailType": "Order", "Detail": "{}" },
        { "Source": "shop", "DetailType": "Order", "Detail": "no JSON" },
        { "Source": "shop", "Detail": "{}" },
        { "Source": "shop", "DetailType": "Order", "Detail": "{}", "EventBusName": "another" },
        entry("good", 1),
        entry("good", 2),
    ]);
    let answer = put_events(cluster.region(EU).api, &entries).expect_code(0).document();
    assert_eq!(answer["FailedEntryCount"], 5, "{answer}");
    let entries = answer["Entries"].as_array().expect("entries");
    let codes: Vec<&str> = entries.iter().map(|entry| entry["ErrorCode"].as_str().unwrap_or("-")).collect();
    let known = ["-", "NotAuthorizedForSourceException", "MalformedDetail", "InvalidArgument"];
    assert_eq!(codes[..4], known);
    assert_ne!(codes[4], "-", "an unknown bus");
    assert_eq!(entries[5]["EventId"], entries[0]["EventId"], "a repeat succeeds with the first one's id");
    assert_eq!(codes[6], "IdempotencyConflict");
    assert_eq!(cluster.wait_for_key(US, "good").len(), 1);
    assert_eq!(cluster.events(EU).iter().filter(|event| event["source"] != "hubweave").count(), 1);
}

#[test]
fn the_aws_cli_says_what_is_structurally_wrong() {
    let cluster = Cluster::start_with(1, "");
    let entries: Vec<Value> = (0..11).map(|n| entry(&format!("k-{n}"), n)).collect();
    let done = put_events(cluster.region(EU).api, &json!(entries));
    assert!(done.code != Some(0) && done.stderr.contains("ValidationException"), "{done:?}");
    assert!(cluster.events(EU).iter().all(|event| event["source"] == "hubweave"));
}
