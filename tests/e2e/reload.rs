//! Changes that need no restart.

use serde_json::json;

use crate::harness::{Cluster, EU, PATIENCE, Request, US, signal, until};

const ONLY_SHOP: &str = "[replication]\npattern = { source = [\"shop\"] }\n";

fn publish(cluster: &Cluster, source: &str, key: &str) {
    let command =
        ["publish", "--region", EU, "--source", source, "--detail-type", "Order", "--detail", "{}", "--key", key];
    cluster.ok(&command);
}

/// Publishes one event that the new filter leaves out and one that it passes; only the second may arrive.
fn only_shop_arrives(cluster: &Cluster) {
    publish(cluster, "mail", "left-out");
    publish(cluster, "shop", "passed");
    assert_eq!(cluster.wait_for_key(US, "passed").len(), 1);
    cluster.wait_caught_up();
    assert_eq!(cluster.with_key(US, "left-out").len(), 0);
    // A filter never acts backwards, and `verify` knows which one held when.
    assert_eq!(cluster.with_key(US, "before").len(), 1);
    cluster.ok(&["verify"]);
    let filtered = cluster.metrics(EU).value("hubweave_events_skipped_total", &[("reason", "filtered")]);
    assert_eq!(filtered, 1.0);
}

#[test]
fn a_posted_reload_takes_a_changed_filter_over() {
    let cluster = Cluster::start_with(2, "");
    publish(&cluster, "mail", "before");
    cluster.wait_for_key(US, "before");
    cluster.write_file(ONLY_SHOP);
    let answer = Request::post("/v1/reload", "").send(cluster.region(EU).admin).expect_status(200).json();
    assert!(!answer["changed"].as_array().expect("changes").is_empty(), "{answer}");
    assert_eq!(cluster.link(EU, US)["pattern"], json!({ "source": ["shop"] }));
    only_shop_arrives(&cluster);
    let again = Request::post("/v1/reload", "").send(cluster.region(EU).admin).expect_status(200).json();
    assert_eq!(again["changed"], json!([]));
}

#[test]
fn sighup_takes_a_changed_filter_over() {
    let cluster = Cluster::start_with(2, "");
    publish(&cluster, "mail", "before");
    cluster.wait_for_key(US, "before");
    cluster.write_file(ONLY_SHOP);
    signal(cluster.agent_pid(EU), "HUP");
    until(PATIENCE, "the filter", || cluster.link(EU, US)["pattern"] == json!({ "source": ["shop"] }));
    only_shop_arrives(&cluster);
}

#[test]
fn a_bad_file_is_refused_by_line_and_the_old_one_stays() {
    let cluster = Cluster::start_with(2, "");
    cluster.write_file("[replication]\nnonsense = 1\n");
    let refused = Request::post("/v1/reload", "").send(cluster.region(EU).admin).expect_status(400).json();
    let why = refused["error"].as_str().expect("why");
    assert!(why.contains("line ") && why.contains("replication.nonsense"), "{why}");
    signal(cluster.agent_pid(EU), "HUP");
    cluster.write_file("");
    cluster.publish(EU, "still", "{}");
    assert_eq!(cluster.wait_for_key(US, "still").len(), 1);
}

#[test]
fn a_file_that_asks_for_what_only_a_restart_can_change_changes_nothing_at_all() {
    let cluster = Cluster::start_with(3, "");
    // The links are taken in order of their peers' names: the filter comes before the link that cannot be switched off.
    let pattern = "[[link]]\nfrom = \"eu-central-1\"\nto = \"ap-southeast-2\"\npattern = { source = [\"shop\"] }\n";
    let off = "[[link]]\nfrom = \"eu-central-1\"\nto = \"us-east-1\"\nenabled = false\n";
    cluster.write_file(&format!("{pattern}{off}"));
    Request::post("/v1/reload", "").send(cluster.region(EU).admin).expect_status(400);
    publish(&cluster, "mail", "all");
    for region in [US, crate::harness::AP] {
        assert_eq!(cluster.wait_for_key(region, "all").len(), 1, "{region}");
    }
}

#[test]
fn a_filter_changed_by_a_restart_holds_from_then_on() {
    let cluster = Cluster::start_with(2, "");
    publish(&cluster, "mail", "before");
    cluster.wait_for_key(US, "before");
    cluster.stop_agent(EU);
    cluster.write_file(ONLY_SHOP);
    cluster.start_agent(EU);
    cluster.wait_ready();
    only_shop_arrives(&cluster);
}
