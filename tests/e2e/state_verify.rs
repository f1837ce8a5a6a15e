//! Documents under `load`, and what `verify` says of them.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{AP, Cluster, EU, NAMES, PATIENCE, Request, US, until};

const TYPES: &str = "[state.profile]\nlanguage = \"register\"\nnickname = \"multi-value\"\nplays = \"counter\"\n\
                     watchlist = \"set\"\nkids_mode = \"flag\"\nbest = \"max\"\nprogress = { map = \"max\" }\n";

fn start() -> Cluster {
    Cluster::start_with(3, TYPES)
}

fn increment(cluster: &Cluster, region: &str, id: &str) {
    let body = json!({ "ops": [{ "field": "plays", "op": "increment", "by": 1 }] });
    let request = Request::post(&format!("/v1/state/profile/{id}"), body.to_string());
    request.send(cluster.region(region).api).expect_status(200);
}

fn cut_off(cluster: &Cluster, region: &str) {
    for peer in NAMES.into_iter().filter(|peer| *peer != region) {
        cluster.ok(&["fault", "inject", "--region", region, "--peer", peer, "--kind", "partition"]);
    }
}

/// How many documents all regions have together.
fn documents(cluster: &Cluster) -> u64 {
    let total = |name: &&str| Request::get("/v1/documents/total").send(cluster.region(name).admin).expect_status(200);
    NAMES.iter().map(|name| total(name).json()["documents"].as_u64().expect("a number")).sum()
}

/// The journal's requests to documents must be in all regions, once.
fn verify(cluster: &Cluster, journal: &std::path::Path, load: &Value) -> Value {
    let report = cluster.verify(journal);
    let found = &report["documents"];
    assert_eq!((&found["lost_count"], &found["twice_count"]), (&json!(0), &json!(0)), "{found}");
    assert_eq!((&found["missing_count"], &found["different_count"]), (&json!(0), &json!(0)), "{found}");
    assert_eq!(found["acknowledged"], load["state"]["acknowledged"], "{found}");
    assert_eq!(found["same"], found["compared"], "{found}");
    assert!(found["compared"].as_u64() > Some(0), "{found}");
    report
}

#[test]
fn documents_under_load_and_kills_are_the_same_everywhere_and_hold_every_acknowledged_request() {
    let cluster = start();
    let mut load = cluster.start_load(300, 10, &[]);
    until(PATIENCE, "the load to begin", || documents(&cluster) > 30);
    for name in [US, EU, AP] {
        assert!(load.is_running());
        cluster.kill_agent(name);
        cluster.start_agent(name);
        cluster.wait_ready_one(name);
    }
    let journal = load.journal.clone();
    let report = load.report();
    assert_eq!(report["failed"], 0, "{report}");
    assert!(report["state"]["acknowledged"].as_u64() > Some(300), "{report}");
    verify(&cluster, &journal, &report);

    // A request that was not done, and one that was done without having been asked for.
    let text = fs::read_to_string(&journal).expect("readable");
    let line = text.lines().find(|line| line.contains("increment")).expect("an increment");
    let doctored = cluster.path("doctored.jsonl");
    let verify = ["verify", "--wait", "0s", "--journal", doctored.to_str().expect("UTF-8")];
    fs::write(&doctored, format!("{line}\n{text}")).expect("writable");
    let lacks = cluster.json(&verify, 1);
    assert_eq!((&lacks["documents"]["lost_count"], &lacks["documents"]["twice_count"]), (&json!(3), &json!(0)));
    assert_eq!(lacks["documents"]["lost"][0]["field"], "plays", "{lacks}");
    fs::write(&doctored, text.replacen(&format!("{line}\n"), "", 1)).expect("writable");
    let found = cluster.json(&verify, 1);
    let twice = found["documents"]["twice"].as_array().expect("a list");
    assert!(NAMES.iter().all(|name| twice.iter().any(|one| one["region"] == *name && one["field"] == "plays")));
    assert_eq!(found["documents"]["lost_count"], 0, "{found}");
    // As long as a run has not said that it is over, there may be more.
    let open = text.replacen(&format!("{line}\n"), "", 1).replace("\"op\":\"end\"", "\"op\":\"later\"");
    fs::write(&doctored, open).expect("writable");
    cluster.json(&verify, 0);
    fs::write(&doctored, text.replace("\"type\":\"profile\"", "\"type\":\"order\"")).expect("writable");
    assert!(cluster.run(&verify).expect_code(2).stderr.contains("`order` is no document type"));
}

#[test]
fn requests_of_a_load_whose_answers_are_lost_count_once() {
    let cluster = start();
    cut_off(&cluster, EU);
    let load = cluster.start_load(150, 6, &[]);
    until(PATIENCE, "the load to begin", || documents(&cluster) > 30);
    // Answers that never come: it is tried again in another region, which cannot know of the first time.
    cluster.kill_agent(EU);
    cluster.start_agent(EU);
    cluster.wait_ready_one(EU);
    cut_off(&cluster, EU);
    let journal = load.journal.clone();
    let report = load.report();
    assert_eq!(report["failed"], 0, "{report}");
    cluster.ok(&["fault", "clear", "--region", EU]);
    cluster.wait_caught_up();
    verify(&cluster, &journal, &report);
}

#[test]
fn verify_names_what_differs_behind_a_cut_and_nothing_after_it() {
    let cluster = start();
    increment(&cluster, EU, "both");
    let verify = ["verify", "--wait", "20s"];
    let report = cluster.json(&verify, 0);
    assert_eq!((&report["documents"]["compared"], &report["documents"]["same"]), (&json!(1), &json!(1)), "{report}");
    cut_off(&cluster, EU);
    for region in [EU, US] {
        increment(&cluster, region, "both");
    }
    increment(&cluster, EU, "alone");
    let report = cluster.json(&["verify", "--wait", "0s"], 1);
    let found = &report["documents"];
    assert_eq!((&found["compared"], &found["same"]), (&json!(2), &json!(0)), "{found}");
    assert_eq!((&found["different_count"], &found["different"][0]["id"]), (&json!(1), &json!("both")), "{found}");
    let versions = &found["different"][0]["versions"];
    assert!(versions[EU].is_string() && versions[EU] != versions[US], "{found}");
    assert_eq!((&found["missing_count"], &found["missing"][0]["id"]), (&json!(1), &json!("alone")), "{found}");
    assert_eq!((&found["missing"][0]["versions"][US], &found["missing"][0]["type"]), (&Value::Null, &json!("profile")));
    let said = cluster.run(&["verify", "--wait", "0s"]).expect_code(1).stdout;
    assert!(said.contains("documents: 2 compared, 0 the same, 1 MISSING, 1 DIFFERENT"), "{said}");
    assert!(said.contains("profile/alone: MISSING: ap-southeast-2 has none"), "{said}");
    cluster.ok(&["fault", "clear", "--region", EU]);
    assert_eq!(cluster.json(&verify, 0)["documents"]["same"], 2);
    // What does not answer is no equal.
    cluster.kill_agent(AP);
    let report = cluster.json(&["verify", "--wait", "0s"], 1);
    assert_eq!(
        (&report["documents"]["same"], &report["unreachable"][0]["region"]),
        (&json!(2), &json!(AP)),
        "{report}"
    );
    assert_eq!(report["unreachable"].as_array().map(Vec::len), Some(1), "{report}");
}

#[test]
fn verify_gives_no_false_alarm_of_documents_that_change_all_the_time() {
    let cluster = start();
    let mut load = cluster.start_load(300, 8, &[]);
    until(PATIENCE, "the load to begin", || documents(&cluster) > 30);
    let journal = load.journal.clone();
    let mut compared = 0;
    while load.is_running() {
        // Also with a journal that is being written to.
        cluster.ok(&["verify"]);
        cluster.ok(&["verify", "--journal", journal.to_str().expect("UTF-8")]);
        compared += 1;
    }
    assert!(compared > 1, "verify ran {compared} times");
    let report = load.report();
    assert_eq!(report["failed"], 0, "{report}");
    verify(&cluster, &journal, &report);
}

#[test]
fn a_load_that_is_killed_leaves_a_true_journal() {
    let cluster = start();
    let load = cluster.start_load(300, 30, &[]);
    until(PATIENCE, "the load to begin", || documents(&cluster) > 30);
    let journal = load.journal.clone();
    drop(load);
    let report = cluster.verify(&journal);
    assert_eq!((&report["documents"]["lost_count"], &report["documents"]["twice_count"]), (&json!(0), &json!(0)));
    assert!(report["documents"]["acknowledged"].as_u64() > Some(0), "{report}");
}
