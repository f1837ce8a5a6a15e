//! Events that refer to objects: whoever reads such an event in a peer region finds the object there, byte for byte.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use serde_json::{Value, json};

use crate::{
    harness::{Cluster, EU, PATIENCE, Request, US, until},
    objects_s3::{noise, s3},
};

const CLAIM_CHECK: &str = "[claim_check]\nreference = [\"/detail/claimCheck\"]\n";

fn start(more: &str) -> Cluster {
    Cluster::start_with(2, &format!("{CLAIM_CHECK}{more}"))
}

fn put(cluster: &Cluster, region: &str, key: &str, bytes: impl Into<Vec<u8>>) {
    Request::put(&format!("/payloads/{key}"), bytes).send(cluster.region(region).api).expect_status(200);
}

fn refer(cluster: &Cluster, region: &str, key: &str, reference: &Value) {
    let detail = json!({ "metadata": { "idempotencyKey": key }, "claimCheck": reference });
    cluster.publish(region, key, &detail.to_string());
}

fn uri(key: &str) -> Value {
    json!(format!("s3://payloads/{key}"))
}

/// What stands at an event's reference in this region.
fn at(cluster: &Cluster, region: &str, event: &Value) -> Vec<u8> {
    let uri = event["detail"]["claimCheck"].as_str().expect("a reference").to_owned();
    let path = uri.strip_prefix("s3:/").expect("a URI of S3").to_owned();
    Request::get(&path).send(cluster.region(region).api).expect_status(200).body
}

#[test]
fn an_event_never_overtakes_its_payload_also_when_its_agent_is_killed() {
    let cluster = start("");
    for kind in ["error", "timeout-after-success", "throttle"] {
        let inject = ["fault", "inject", "--region", EU, "--peer", US, "--kind", kind, "--probability", "0.1"];
        cluster.ok(&[&inject[..], &["--delay", "20ms"]].concat());
    }
    let (count, size) = (120, |n: usize| (n * 7_919) % 300_000);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..count {
                let key = format!("k-{n}");
                put(&cluster, EU, &key, noise(n as u64, size(n)));
                refer(&cluster, EU, &key, &uri(&key));
                if n == count / 2 {
                    cluster.kill_agent(EU);
                    cluster.start_agent(EU);
                    cluster.wait_ready_one(EU);
                }
            }
            done.store(true, Ordering::SeqCst);
        });
        let (mut from, mut seen) = (1u64, 0);
        until(PATIENCE * 2, "every event to be read in the peer", || {
            let page = Request::get(&format!("/v1/events?from={from}&wait=1")).send(cluster.region(US).api);
            let page = page.expect_status(200).json();
            from = page["next"].as_u64().expect("an offset");
            for event in page["events"].as_array().expect("events") {
                let envelope = &event["envelope"];
                let Some(key) = envelope["detail"]["metadata"]["idempotencyKey"].as_str() else { continue };
                let n: usize = key.strip_prefix("k-").expect("ours").parse().expect("a number");
                assert!(
                    at(&cluster, US, envelope) == noise(n as u64, size(n)),
                    "{key}: its payload is here, all of it"
                );
                seen += 1;
            }
            done.load(Ordering::SeqCst) && seen == count
        });
    });
    let report = cluster.json(&["verify"], 0);
    assert_eq!((&report["objects"]["compared"], &report["objects"]["same"]), (&json!(count), &json!(count)));
    let metrics = cluster.metrics(EU);
    assert!(metrics.value("hubweave_objects_copied_total", &[("peer", US), ("result", "copied")]) > 10.0);
}

#[test]
fn clients_of_s3_and_eventbridge_see_payload_and_event_in_the_peer() {
    let cluster = start("");
    let (eu, us) = (cluster.region(EU).api, cluster.region(US).api);
    let bytes = noise(5, 40 << 20);
    fs::write(cluster.path("large"), &bytes).unwrap();
    let folder = cluster.path(".");
    // In parts, as the CLI does it.
    let key = "in ü/a b+c%?#.bin";
    s3(&folder, eu, &["cp", "--only-show-errors", "large", &format!("s3://payloads/{key}")]).expect_code(0);
    refer(&cluster, EU, "cli", &json!({ "bucket": "payloads", "key": key }));
    let event = cluster.wait_for_key(US, "cli");
    assert_eq!(event[0]["detail"]["claimCheck"], json!({ "bucket": "payloads", "key": key }));
    s3(&folder, us, &["cp", "--only-show-errors", &format!("s3://payloads/{key}"), "back"]).expect_code(0);
    assert!(fs::read(cluster.path("back")).unwrap() == bytes);
}

#[test]
fn a_key_that_is_overwritten_for_each_event_neither_lies_nor_blocks() {
    let cluster = start("");
    for round in 0..3u8 {
        put(&cluster, EU, "latest.json", [round; 100]);
        refer(&cluster, EU, &format!("round-{round}"), &uri("latest.json"));
        let event = cluster.wait_for_key(US, &format!("round-{round}"));
        assert_eq!(at(&cluster, US, &event[0]), [round; 100], "{event:?}");
    }
    let first = Request::get("/payloads/latest.json").send(cluster.region(US).api).expect_status(200);
    assert_eq!(first.body, [0; 100], "nothing is overwritten at the peer");
    let report = cluster.json(&["verify"], 0);
    assert_eq!((&report["objects"]["same"], &report["objects"]["changed"]), (&json!(1), &json!(2)), "{report}");
}

#[test]
fn a_payload_that_comes_late_is_waited_for_and_others_pass() {
    let cluster = start("");
    refer(&cluster, EU, "late", &uri("late"));
    put(&cluster, EU, "there", "x");
    refer(&cluster, EU, "there", &uri("there"));
    cluster.wait_for_key(US, "there");
    assert!(cluster.with_key(US, "late").is_empty());
    let waiting = || cluster.metrics(EU).value("hubweave_objects_waiting", &[("peer", US)]);
    until(PATIENCE, "the gauge to say that one waits", || waiting() == 1.0);
    let different = cluster.json(&["verify", "--wait", "0s"], 1);
    assert_eq!(different["links"][0]["missing"][0]["held"], true, "{different}");
    put(&cluster, EU, "late", "y");
    let event = cluster.wait_for_key(US, "late");
    assert_eq!(at(&cluster, US, &event[0]), b"y");
    until(PATIENCE, "nobody to wait", || waiting() == 0.0);
    cluster.json(&["verify"], 0);
}

#[test]
fn a_payload_that_never_comes_is_a_dead_letter_or_said_to_be_pending_as_configured() {
    let cluster = start("wait = \"1s\"");
    refer(&cluster, EU, "never", &uri("never"));
    until(PATIENCE, "the dead letter", || cluster.link(EU, US)["dead_letters"] == 1);
    let letters = cluster.json(&["dlq", "list", "--region", EU], 0);
    assert_eq!(letters["letters"][0]["reason"], "payload_missing", "{letters}");
    put(&cluster, EU, "never", "now");
    cluster.ok(&["dlq", "redrive", "--region", EU]);
    let event = cluster.wait_for_key(US, "never");
    assert_eq!(at(&cluster, US, &event[0]), b"now");

    let cluster = start("wait = \"1s\"\nmissing = \"forward\"");
    refer(&cluster, EU, "never", &uri("never"));
    let event = cluster.wait_for_key(US, "never");
    assert_eq!(event[0]["detail"]["hubweave"]["payload"], "pending", "{event:?}");
    cluster.json(&["verify"], 0);
}

#[test]
fn references_that_lead_nowhere_are_dead_letters_that_say_why_and_hold_nobody_up() {
    let cluster = start("wait = \"1s\"");
    let bad = [
        ("reserved", json!("s3://v1/events"), "reference"),
        ("no-key", json!("s3://payloads/"), "reference"),
        ("no-bucket", json!("s3:///key"), "reference"),
        ("bad-name", json!("s3://No_Bucket/key"), "reference"),
        ("half", json!({ "bucket": "payloads" }), "reference"),
        ("no-hex", json!({ "bucket": "payloads", "key": "k", "sha256": "x" }), "reference"),
        ("too-long", json!(format!("s3://payloads/{}", "k".repeat(1_025))), "reference"),
        ("folder", json!("s3://payloads/folder/"), "reference"),
        ("nothing", json!("s3://nothing-at-all/key"), "payload_missing"),
    ];
    for (key, reference, _) in &bad {
        refer(&cluster, EU, key, reference);
    }
    for (key, reference) in [("null", Value::Null), ("elsewhere", json!("https://x/y")), ("empty", json!(""))] {
        refer(&cluster, EU, key, &reference);
        cluster.wait_for_key(US, key);
    }
    until(PATIENCE, "the dead letters", || cluster.link(EU, US)["dead_letters"] == bad.len());
    for (key, _, reason) in bad {
        let letters = cluster.json(&["dlq", "list", "--region", EU, "--key", key], 0);
        assert_eq!(letters["letters"][0]["reason"], reason, "{key}: {letters}");
        assert!(cluster.with_key(US, key).is_empty(), "{key}");
    }
}

#[test]
fn odd_keys_and_sizes_arrive_as_they_are() {
    let cluster = start("");
    let keys = ["a b", "ü/標", "../../etc/passwd", "a//b", "/leading", "%2e%2e", "plus+and&=", "tab\tand\nline"];
    let long = "k".repeat(1_024);
    for key in keys.into_iter().chain([long.as_str()]) {
        let escaped: String = key.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let api = cluster.region(EU).api;
        Request::put(&format!("/payloads/{escaped}"), key).send(api).expect_status(200);
        let id = format!("of {key:.20}");
        refer(&cluster, EU, &id, &json!({ "bucket": "payloads", "key": key }));
        cluster.wait_for_key(US, &id);
        let found = Request::get(&format!("/payloads/{escaped}")).send(cluster.region(US).api).expect_status(200);
        assert_eq!(found.body, key.as_bytes(), "{key}");
    }
    put(&cluster, EU, "empty", "");
    refer(&cluster, EU, "empty", &uri("empty"));
    assert!(at(&cluster, US, &cluster.wait_for_key(US, "empty")[0]).is_empty());
    assert!(!cluster.path("etc").exists());
}

#[test]
fn what_is_removed_stays_removed_there_alone_and_verify_tells_what_nobody_can_read() {
    let cluster = start("");
    for key in ["stays", "home", "peer", "both"] {
        put(&cluster, EU, key, key);
        refer(&cluster, EU, key, &uri(key));
        cluster.wait_for_key(US, key);
    }
    put(&cluster, US, "alone", "nobody refers to it");
    let remove = |region: &str, key: &str| {
        let (api, folder) = (cluster.region(region).api, cluster.path("."));
        s3(&folder, api, &["rm", "--only-show-errors", &format!("s3://payloads/{key}")]).expect_code(0);
    };
    for (region, key) in [(EU, "home"), (US, "peer"), (EU, "both"), (US, "both")] {
        remove(region, key);
    }
    let report = cluster.json(&["verify", "--unreferenced"], 1);
    let objects = &report["objects"];
    assert_eq!((&objects["same"], &objects["removed_at_home"]), (&json!(1), &json!(1)), "{report}");
    assert_eq!((&objects["missing_count"], &objects["missing"][0]["key"]), (&json!(1), &json!("peer")), "{report}");
    assert_eq!((&objects["dangling_count"], &objects["dangling"][0]["key"]), (&json!(1), &json!("both")), "{report}");
    assert_eq!(report["unreferenced"][US]["named"][0]["key"], "alone", "{report}");
    assert_eq!((&report["unreferenced"][EU]["count"], &report["unreferenced"][US]["count"]), (&json!(0), &json!(1)));
    let said = cluster.run(&["verify"]).expect_code(1).stdout;
    assert!(said.contains("s3://payloads/peer: MISSING at the peer"), "{said}");
    // A replay brings the payload of what is there already.
    let replayed = cluster.json(&["replay", "--from", EU, "--to", US], 1);
    assert_eq!((&replayed["duplicate"], &replayed["rejected"]), (&json!(2), &json!(2)), "{replayed}");
    assert_eq!(cluster.json(&["verify"], 0)["objects"]["same"], 2);
    let found = Request::get("/payloads/home").send(cluster.region(US).api).expect_status(200);
    assert_eq!(found.body, b"home", "what is removed at home is not removed at the peer");
    // Unless asked.
    let removed = cluster.json(&["object", "delete", "--bucket", "payloads", "--key", "home"], 0);
    assert_eq!(removed["regions"][0]["outcome"], "was not there", "{removed}");
    assert_eq!(removed["regions"][1], json!({ "region": US, "outcome": "removed" }));
    Request::get("/payloads/home").send(cluster.region(US).api).expect_status(404);
    cluster.kill_agent(US);
    let half = cluster.json(&["object", "delete", "--bucket", "payloads", "--key", "stays"], 1);
    assert_eq!(half["regions"][0]["outcome"], "removed", "{half}");
    assert!(half["regions"][1]["error"].as_str().expect("text").contains("unreachable"), "{half}");
    cluster.run(&["object", "delete", "--bucket", "v1", "--key", "k"]).expect_code(2);
}

#[test]
fn load_puts_objects_and_verify_finds_each_in_every_region_after_kills() {
    let cluster = start("");
    let mut load = cluster.start_load(200, 8, &[]);
    for region in [US, EU, US] {
        assert!(load.is_running());
        until(PATIENCE, "some objects", || cluster.metrics(region).value("hubweave_objects_stored", &[]) > 10.0);
        cluster.kill_agent(region);
        cluster.start_agent(region);
        cluster.wait_ready_one(region);
    }
    let journal = load.journal.clone();
    assert_eq!(load.report()["failed"], 0);
    let lines = fs::read_to_string(&journal).unwrap();
    let objects = lines.lines().filter(|line| line.contains("\"op\":\"object\"")).count();
    assert!(objects >= 150, "{objects}");
    let report = cluster.verify(&journal);
    assert_eq!(report["objects"]["acknowledged"], objects, "{}", report["objects"]);
    assert_eq!(report["objects"]["same"], objects, "{}", report["objects"]);
}
