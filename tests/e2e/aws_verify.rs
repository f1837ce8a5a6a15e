//! `verify` between regions on AWS: ledgers are compared, and the report says so.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

use hubweave::core::key::{KeyHash, hex};
use serde_json::{Value, json};

use crate::harness::{
    EU, PATIENCE, US,
    aws::{AwsCluster, call},
    free_port, until,
};

const EAGER: &str = "[replication]\nretry_min = \"50ms\"\nretry_max = \"500ms\"\n";

fn keys(what: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{what}-{n}")).collect()
}

fn table(cluster: &AwsCluster, region: &str) -> String {
    format!("{}-{region}-ledger", cluster.name)
}

/// Takes a row out of a ledger: the one whose key's hash this is.
fn lose_row(cluster: &AwsCluster, region: &str, key_hash: &str) {
    let bytes: Vec<u8> =
        (0..32).step_by(2).map(|at| u8::from_str_radix(&key_hash[at..at + 2], 16).expect("a hash")).collect();
    let body = json!({ "TableName": table(cluster, region), "Key": { "k": { "B": base64(&bytes) } } });
    call("dynamodb", region, "DynamoDB_20120810.DeleteItem", &body);
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            match digit <= chunk.len() {
                true => text.push(char::from(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize])),
                false => text.push('='),
            }
        }
    }
    text
}

fn hash(key: &str) -> String {
    hex(&KeyHash::of("app", "Order", key).0)
}

fn verify(cluster: &AwsCluster, more: &[&str], code: i32) -> Value {
    cluster.run(&[&["verify", "--json"], more].concat()).expect_code(code).document()
}

#[test]
fn ledgers_are_compared_and_a_row_that_is_gone_from_the_peers_table_is_found() {
    let mut cluster = AwsCluster::provisioned(EAGER);
    cluster.start_first_agent(EU, &[]);
    cluster.start_first_agent(US, &[]);
    cluster.publish(EU, &keys("there", 40));
    cluster.publish(US, &keys("here", 7));
    let mut report = Value::Null;
    until(PATIENCE, "both ledgers to know all of it", || {
        report = cluster.run(&["verify", "--json"]).document();
        report["verdict"] == "equal" && report["ledgers"][EU]["keys"] == 47 && report["ledgers"][US]["keys"] == 47
    });
    assert_eq!((&report["links"][0]["expected"], &report["links"][1]["expected"]), (&json!(40), &json!(7)));
    assert!(report["notes"][0].as_str().expect("a note").contains("ledgers were compared, not hubs"));

    lose_row(&cluster, US, &hash("there-3"));
    let report = verify(&cluster, &["--wait", "2s"], 1);
    let missing = &report["links"][0]["missing"];
    assert_eq!((&report["links"][0]["missing_count"], &missing[0]["key_hash"]), (&json!(1), &json!(hash("there-3"))));
    assert!(missing[0]["id"].is_string() && missing[0]["accepted"].is_string(), "{missing}");
    let text = cluster.run(&["verify", "--wait", "0s"]).expect_code(1).stdout;
    for says in ["1 MISSING", "not hubs", "different"] {
        assert!(text.contains(says), "{text}");
    }

    // The other way round: what its own region's table lost.
    lose_row(&cluster, US, &hash("here-2"));
    let report = verify(&cluster, &["--wait", "0s"], 1);
    let gone = &report["missing_at_origin"][0];
    assert_eq!((&gone["from"], &gone["to"], &gone["key_hash"]), (&json!(EU), &json!(US), &json!(hash("here-2"))));

    let sources = "[[link]]\nfrom = \"eu-central-1\"\nto = \"us-east-1\"\npattern = { source = [\"app\"] }\n";
    let mut other = AwsCluster::provisioned(&format!("{EAGER}{sources}"));
    other.start_first_agent(EU, &[]);
    other.start_first_agent(US, &[]);
    let elsewhere = json!({ "Source": "other", "DetailType": "Order", "Detail": "{}", "EventBusName": other.name });
    call("events", EU, "AWSEvents.PutEvents", &json!({ "Entries": [elsewhere] }));
    other.publish(EU, &keys("passes", 3));
    until(PATIENCE, "what passes to be told from what a pattern may have left out", || {
        let report = other.run(&["verify", "--json", "--wait", "0s"]).document();
        let link = &report["links"][0];
        report["verdict"] == "equal" && link["present"] == 3 && link["filtered_or_missing"] == 1
    });
}

#[test]
fn traffic_is_no_drift_and_a_peer_that_is_down_is_told_with_what_to_do() {
    let mut cluster = AwsCluster::provisioned(EAGER);
    cluster.start_first_agent(EU, &[]);
    let (us, _) = cluster.start_first_agent(US, &[]);
    let over = AtomicBool::new(false);
    let reports = std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            for round in 0.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                cluster.publish(EU, &keys(&format!("traffic-{round}"), 20));
                cluster.publish(US, &keys(&format!("back-{round}"), 10));
            }
        });
        let reports: Vec<_> = (0..6).map(|_| cluster.run(&["verify", "--json"])).collect();
        over.store(true, Ordering::Relaxed);
        publisher.join().expect("the publisher ends");
        reports
    });
    let mut compared = 0;
    for report in reports {
        let report = report.expect_code(0).document();
        assert_eq!(report["verdict"], "equal", "{report}");
        compared = report["links"][0]["expected"].as_u64().expect("a number");
    }
    assert!(compared > 20, "there was traffic: {compared}");
    assert_eq!(cluster.stop_agent(us), Some(0));
    let down = cluster.run(&["verify", "--wait", "0s"]).expect_code(1).stdout;
    assert!(down.contains(&format!("`hubweave run --region {US}`")), "{down}");
}

#[test]
fn conflicts_dead_letters_and_acknowledged_keys_that_a_ledger_lacks_are_named() {
    let mut cluster = AwsCluster::describe(EAGER);
    let api = free_port();
    let text = std::fs::read_to_string(&cluster.file).expect("the file");
    let at = format!("name = \"{EU}\"\n");
    std::fs::write(&cluster.file, text.replace(&at, &format!("{at}api = \"127.0.0.1:{api}\"\n"))).expect("written");
    cluster = cluster.provision();
    cluster.start_first_agent(EU, &[]);
    cluster.start_first_agent(US, &[]);
    let journal = cluster.file.with_file_name("journal").to_string_lossy().into_owned();
    cluster.run(&["load", "--rate", "20", "--duration", "1s", "--journal", &journal, "--region", EU]).expect_code(0);
    let report = verify(&cluster, &["--journal", &journal], 0);
    assert!(report["journal"]["acknowledged"].as_u64().expect("a number") >= 10, "{report}");
    assert_eq!((&report["journal"]["missing_count"], &report["verdict"]), (&json!(0), &json!("equal")));

    // One that the region's own ledger lost, and one that the peer's did.
    let lines = std::fs::read_to_string(&journal).expect("the journal");
    let key = |line: usize| -> String {
        let line: Value = serde_json::from_str(lines.lines().nth(line).expect("a line")).expect("JSON");
        line["key"].as_str().expect("a key").to_owned()
    };
    let hash_of = |report: &Value| report["links"][0]["missing"][0]["key_hash"].as_str().expect("a hash").to_owned();
    let mut file = std::fs::OpenOptions::new().append(true).open(&journal).expect("the journal");
    let lost = json!({ "op": "event", "region": EU, "key": "never-there", "sha256": "00" });
    std::io::Write::write_all(&mut file, format!("{lost}\n").as_bytes()).expect("written");
    let sha = |key: &str| hex(&KeyHash::of("load", "Load", key).0);
    lose_row(&cluster, US, &sha(&key(0)));
    let report = verify(&cluster, &["--journal", &journal, "--wait", "1s"], 1);
    assert_eq!(hash_of(&report), sha(&key(0)));
    assert_eq!(report["links"][0]["missing"][0]["key"], key(0).as_str(), "the journal knows its text");
    let missing: BTreeMap<String, String> = report["journal"]["missing"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| (one["key"].as_str().expect("text").to_owned(), one["at"].as_str().expect("text").to_owned()))
        .collect();
    assert_eq!(missing, BTreeMap::from([("never-there".to_owned(), EU.to_owned()), (key(0), US.to_owned())]));

    // One key, another payload in each region.
    let put = |region: &str, n: u32| {
        let detail = json!({ "metadata": { "idempotencyKey": "both" }, "of": "both", "n": n }).to_string();
        let entry = json!({ "Source": "app", "DetailType": "Order", "Detail": detail, "EventBusName": cluster.name });
        call("events", region, "AWSEvents.PutEvents", &json!({ "Entries": [entry] }));
    };
    cluster.run(&["pause", "--from", US, "--to", EU]).expect_code(0);
    put(US, 1);
    until(PATIENCE, "the first one to be in its region's ledger", || {
        let command = ["explain", "--key", "both", "--source", "app", "--detail-type", "Order", "--json"];
        cluster.run(&command).stdout.contains("accepted")
    });
    put(EU, 2);
    let mut report = Value::Null;
    until(PATIENCE, "the conflict and its dead letter to be told", || {
        report = verify(&cluster, &["--wait", "0s"], 1);
        report["conflicts_count"] == 2 && report["dead_lettered_count"] == 1
    });
    assert_eq!((&report["conflicts"][1]["key"], &report["dead_lettered"][0]["key"]), (&json!("both"), &json!("both")));
}
