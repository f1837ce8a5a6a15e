//! What operators do with links and dead letters.

use serde_json::{Value, json};

use crate::harness::{AP, Cluster, EU, PATIENCE, US, until};

fn publish_many(cluster: &Cluster, region: &str, key: &str, count: u64) {
    let count = count.to_string();
    let command = ["publish", "--region", region, "--source", "shop", "--detail-type", "Order", "--detail", "{}"];
    let mut command = command.to_vec();
    command.extend(["--key", key, "--count", &count]);
    cluster.ok(&command);
}

#[test]
fn a_paused_link_brings_nothing_over_until_it_is_resumed() {
    let cluster = Cluster::start();
    let answer = cluster.json(&["pause", "--from", EU, "--to", US], 0);
    assert_eq!((&answer["peer"], &answer["paused"]), (&json!(US), &json!(true)));
    publish_many(&cluster, EU, "p", 20);
    until(PATIENCE, "the other link to deliver", || cluster.status(AP)["events"] == 20);
    let link = cluster.link(EU, US);
    assert_eq!((&link["state"], &link["backlog_events"]), (&json!("paused"), &json!(20)));
    assert_eq!(cluster.status(US)["events"], 0);
    let metrics = cluster.metrics(EU);
    assert_eq!(metrics.value("hubweave_link_state", &[("peer", US), ("state", "paused")]), 1.0);
    // An operator's pause outlives the process.
    cluster.kill_agent(EU);
    cluster.start_agent(EU);
    cluster.wait_ready_one(EU);
    assert_eq!(cluster.link(EU, US)["state"], "paused");
    assert_eq!(cluster.json(&["resume", "--from", EU, "--to", US], 0)["paused"], false);
    until(PATIENCE, "the link to deliver", || cluster.status(US)["events"] == 20);
    cluster.ok(&["verify"]);
}

#[test]
fn a_replay_counts_with_dry_run_and_changes_nothing_without() {
    let cluster = Cluster::start_with(2, "");
    publish_many(&cluster, EU, "r", 30);
    cluster.wait_caught_up();
    let replay = ["replay", "--from", EU, "--to", US];
    let dry = cluster.json(&[&replay[..], &["--dry-run"]].concat(), 0);
    assert_eq!((&dry["events"], &dry["delivered"]), (&json!(30), &json!(0)), "{dry}");
    let done = cluster.json(&replay, 0);
    assert_eq!(
        (&done["events"], &done["duplicate"], &done["delivered"]),
        (&json!(30), &json!(30), &json!(0)),
        "{done}"
    );
    let none = cluster.json(&[&replay[..], &["--until", "1h"]].concat(), 0);
    assert_eq!(none["events"], 0);
    let since = cluster.json(&[&replay[..], &["--since", "10m", "--dry-run"]].concat(), 0);
    assert_eq!(since["events"], 30);
    assert_eq!(cluster.status(US)["events"], 30);
    cluster.ok(&["verify"]);
}

/// Both sides of a cut take the same key with other payloads: what a dead letter is made of.
fn conflicting() -> Cluster {
    let cluster = Cluster::start_with(2, "");
    cluster.ok(&["fault", "inject", "--region", EU, "--peer", US, "--kind", "partition"]);
    cluster.publish(EU, "both", r#"{"amount":1}"#);
    cluster.publish(US, "both", r#"{"amount":2}"#);
    cluster.ok(&["fault", "clear", "--region", EU]);
    for (from, to) in [(EU, US), (US, EU)] {
        until(PATIENCE, "the dead letter", || cluster.link(from, to)["dead_letters"] == 1);
    }
    cluster
}

#[test]
fn a_conflict_ends_as_a_dead_letter_that_is_listed_shown_redriven_and_discarded() {
    let cluster = conflicting();
    assert_eq!(cluster.metrics(EU).value("hubweave_dead_letters", &[("peer", US)]), 1.0);
    let verify = cluster.json(&["verify", "--wait", "1s"], 1);
    assert_eq!(verify["verdict"], "different");
    assert_eq!(verify["conflicts"][0]["key"], "both", "{verify}");

    let list = cluster.json(&["dlq", "list", "--region", EU], 0);
    assert_eq!(list["total"], 1);
    let letter = &list["letters"][0];
    let fields: Vec<&Value> =
        ["peer", "key", "source", "detail_type", "reason"].iter().map(|key| &letter[*key]).collect();
    assert_eq!(fields, ["us-east-1", "both", "shop", "Order", "conflict"]);
    let nothing = cluster.json(&["dlq", "list", "--region", EU, "--key", "another"], 0);
    assert_eq!(nothing["letters"], json!([]));

    let show = cluster.json(&["dlq", "show", "--region", EU, "--key", "both"], 0);
    assert_eq!(show["letters"][0]["envelope"]["detail"]["amount"], 1, "{show}");
    let id = letter["id"].to_string();
    assert_eq!(cluster.json(&["dlq", "show", "--region", EU, "--id", &id], 0)["letters"][0]["key"], "both");
    assert_eq!(cluster.run(&["dlq", "show", "--region", EU, "--id", "999"]).code, Some(1));

    let dry = cluster.json(&["dlq", "redrive", "--region", EU, "--dry-run"], 0);
    assert_eq!(dry["matched"], 1);
    // The peer has not changed its mind, so the answer is no and the letter stays.
    let redriven = cluster.json(&["dlq", "redrive", "--region", EU, "--peer", US], 1);
    assert_eq!((&redriven["matched"], &redriven["rejected"]), (&json!(1), &json!(1)), "{redriven}");
    assert_eq!(cluster.json(&["dlq", "list", "--region", EU], 0)["total"], 1);

    assert_eq!(cluster.json(&["dlq", "discard", "--region", EU, "--dry-run"], 0)["matched"], 1);
    assert_eq!(cluster.json(&["dlq", "list", "--region", EU], 0)["total"], 1);
    for region in [EU, US] {
        assert_eq!(cluster.json(&["dlq", "discard", "--region", region, "--key", "both"], 0)["discarded"], 1);
        assert_eq!(cluster.json(&["dlq", "list", "--region", region], 0)["total"], 0);
    }
    assert_eq!(cluster.metrics(EU).value("hubweave_dead_letters", &[("peer", US)]), 0.0);
    // Each region keeps what it saw first.
    assert_eq!(cluster.with_key(EU, "both")[0]["detail"]["amount"], 1);
    assert_eq!(cluster.with_key(US, "both")[0]["detail"]["amount"], 2);
    // What an operator gave up is listed and no difference.
    let verify = cluster.json(&["verify"], 0);
    assert_eq!((&verify["verdict"], &verify["discarded_count"]), (&json!("equal"), &json!(2)), "{verify}");
}

#[test]
fn dead_letters_outlive_the_process() {
    let cluster = conflicting();
    cluster.kill_agent(EU);
    cluster.start_agent(EU);
    cluster.wait_ready_one(EU);
    let list = cluster.json(&["dlq", "list", "--region", EU], 0);
    assert_eq!((&list["total"], &list["letters"][0]["key"]), (&json!(1), &json!("both")));
    assert_eq!(cluster.link(EU, US)["dead_letters"], 1);
}

#[test]
fn explain_tells_what_every_region_knows_of_a_key() {
    let cluster = Cluster::start();
    cluster.publish(EU, "why", "{}");
    until(PATIENCE, "both links to say `forwarded`", || {
        let told = cluster.json(&["explain", "--key", "why"], 0);
        let home = told["regions"][0]["entries"].as_array().expect("entries").clone();
        home.iter().filter(|entry| entry["what"] == "forwarded").count() == 2
    });
    let told = cluster.json(&["explain", "--key", "why"], 0);
    assert_eq!(told["key"], "why");
    let regions = told["regions"].as_array().expect("regions");
    assert_eq!(regions.len(), 3);
    assert_eq!((&regions[0]["region"], &regions[0]["entries"][0]["what"]), (&json!(EU), &json!("accepted")));
    for region in &regions[1..] {
        let entry = &region["entries"][0];
        assert_eq!((&entry["what"], &entry["origin"]), (&json!("applied"), &json!(EU)), "{region}");
        assert!(entry["at"].is_string() && entry["link"].as_str().is_some_and(|link| link.contains(EU)));
    }
    let text = cluster.ok(&["explain", "--key", "why"]);
    assert!(text.contains("accepted") && text.contains("applied") && text.contains("forwarded"), "{text}");
    assert_eq!(cluster.run(&["explain", "--key", "nobody"]).code, Some(1));
    cluster.kill_agent(AP);
    let partly = cluster.json(&["explain", "--key", "why"], 1);
    assert!(partly["regions"][2]["error"].is_string(), "{partly}");
}

#[test]
fn faults_are_listed_cleared_and_end_by_themselves() {
    let cluster = Cluster::start_with(2, "");
    let inject = ["fault", "inject", "--region", EU, "--peer", US, "--kind"];
    cluster.json(&[&inject[..], &["delay", "--delay", "1ms"]].concat(), 0);
    cluster.json(&[&inject[..], &["drop", "--probability", "0.5", "--direction", "out"]].concat(), 0);
    cluster.json(&[&inject[..], &["error", "--for", "300ms"]].concat(), 0);
    let faults = || {
        let list = cluster.json(&["fault", "list", "--region", EU], 0);
        let kinds = list["faults"].as_array().expect("faults").iter().map(|fault| fault["kind"].to_string());
        kinds.collect::<Vec<String>>()
    };
    until(PATIENCE, "one to end by itself", || faults().len() == 2);
    assert_eq!(cluster.json(&["fault", "clear", "--region", EU, "--kind", "drop"], 0)["cleared"], 1);
    assert_eq!(faults(), ["\"delay\""]);
    assert_eq!(cluster.json(&["fault", "clear", "--region", EU], 0)["cleared"], 1);
    assert_eq!(faults(), Vec::<String>::new());
    assert_eq!(cluster.run(&["fault", "inject", "--region", EU, "--peer", EU, "--kind", "drop"]).code, Some(2));
}

#[test]
fn a_crash_on_order_is_a_kill_that_up_mends() {
    let cluster = Cluster::start_up();
    let before = cluster.pid_file(EU).expect("a pid");
    cluster.run(&["fault", "inject", "--region", EU, "--kind", "crash"]);
    until(PATIENCE, "another process", || cluster.pid_file(EU).is_some_and(|pid| pid != before));
    cluster.wait_ready_one(EU);
    assert_eq!(cluster.json(&["fault", "list", "--region", EU], 0)["faults"], json!([]));
}

#[test]
fn faults_are_refused_where_the_file_does_not_enable_them() {
    let cluster = Cluster::describe(1, "");
    let text = std::fs::read_to_string(&cluster.file).expect("the file");
    std::fs::write(&cluster.file, text.replace("enabled = true", "enabled = false")).expect("writable");
    cluster.start_agent(EU);
    cluster.wait_ready();
    let done = cluster.run(&["fault", "inject", "--region", EU, "--kind", "drop"]).expect_code(1);
    assert!(done.stderr.contains("not enabled"), "{done:?}");
}
