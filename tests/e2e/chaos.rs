//! kill -9 and partitions under load. What was acknowledged is in every region, once.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use crate::harness::{AP, Cluster, EU, NAMES, PATIENCE, US, until};

const KILLS: usize = 9;

#[test]
fn nine_kills_under_load_lose_nothing_and_repeat_nothing() {
    let cluster = Cluster::start();
    let mut load = cluster.start_load(300, 20, &[]);
    until(PATIENCE, "the load to begin", || NAMES.iter().all(|name| cluster.status(name)["events"] != 0));
    let began = Instant::now();
    for round in 0..KILLS {
        let name = NAMES[round % NAMES.len()];
        assert!(load.is_running(), "the load ended after {round} kills");
        cluster.kill_agent(name);
        cluster.start_agent(name);
        cluster.wait_ready_one(name);
        // Spread over the load's time, at another point of whatever the agents do periodically each time.
        let due = began + Duration::from_millis(1_700 * (round as u64 + 1) + 37 * round as u64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    let journal = load.journal.clone();
    let report = load.report();
    let verdict = cluster.verify(&journal);
    println!("{KILLS} kills: load {report}; verify took {} s", verdict["seconds"]);
    assert_eq!(report["failed"], 0, "{report}");
    assert_eq!(verdict["journal"]["acknowledged"], report["acknowledged"]);
    let acknowledged = report["acknowledged"].as_u64().expect("a number");
    assert!(acknowledged > 3_000, "{report}");
    for region in NAMES {
        assert_eq!(verdict["regions"][region]["events"], acknowledged, "{verdict}");
    }
}

#[test]
fn all_agents_killed_at_once_under_load_lose_nothing() {
    let cluster = Cluster::start();
    let load = cluster.start_load(300, 6, &[]);
    until(PATIENCE, "the load to begin", || NAMES.iter().all(|name| cluster.status(name)["events"] != 0));
    for _ in 0..2 {
        NAMES.iter().for_each(|name| cluster.kill_agent(name));
        NAMES.iter().for_each(|name| cluster.start_agent(name));
        cluster.wait_ready();
    }
    let journal = load.journal.clone();
    let report = load.report();
    cluster.verify(&journal);
    assert_eq!(report["failed"], 0, "{report}");
}

#[test]
fn a_partition_under_load_shows_in_status_and_metrics_and_heals_without_loss() {
    let cluster = Cluster::start();
    let load = cluster.start_load(300, 10, &[]);
    until(PATIENCE, "the load to begin", || cluster.status(EU)["events"] != 0);
    let fault = ["fault", "inject", "--region", EU, "--peer", US, "--kind", "partition"];
    assert_eq!(cluster.json(&fault, 0)["kind"], "partition");
    until(PATIENCE, "backlog and exposure to rise", || {
        let [out, back] = [cluster.link(EU, US), cluster.link(US, EU)];
        [out, back].iter().all(|link| {
            link["backlog_events"].as_u64() > Some(200) && link["rpo_exposure_seconds"].as_f64() > Some(2.0)
        })
    });
    assert_ne!(cluster.link(EU, US)["state"], "active");
    assert_eq!(cluster.link(EU, AP)["state"], "active", "one dead peer never holds up another");
    let metrics = cluster.metrics(EU);
    let link = [("peer", US)];
    assert!(metrics.value("hubweave_link_backlog_events", &link) > 200.0);
    assert!(metrics.value("hubweave_link_backlog_bytes", &link) > 200.0 * 200.0);
    assert!(metrics.value("hubweave_rpo_exposure_seconds", &link) > 2.0);
    assert_eq!(metrics.value("hubweave_link_state", &[("peer", US), ("state", "active")]), 0.0);
    assert_eq!(metrics.value("hubweave_faults_active", &[("kind", "partition")]), 1.0);
    // A partition takes no region out of service: it would take both sides out.
    assert_eq!(cluster.run(&["verify", "--wait", "0s"]).code, Some(1), "verify sees what is missing");
    assert_eq!(cluster.json(&["fault", "clear", "--region", EU], 0)["cleared"], 1);
    let healed = Instant::now();
    let journal = load.journal.clone();
    let report = load.report();
    cluster.wait_caught_up();
    println!("caught up at most {:?} after the heal, the load's rest included", healed.elapsed());
    cluster.verify(&journal);
    assert_eq!(report["failed"], 0, "{report}");
    assert_eq!(cluster.link(EU, US)["state"], "active");
    assert_eq!(cluster.link(EU, US)["rpo_exposure_seconds"], 0.0);
}

#[test]
fn lost_and_repeated_answers_under_load_have_no_second_effect() {
    let cluster = Cluster::start_with(2, "");
    for (kind, probability) in
        [("timeout-after-success", "0.3"), ("duplicate", "0.3"), ("drop", "0.2"), ("error", "0.2")]
    {
        let fault = ["fault", "inject", "--region", EU, "--peer", US, "--kind", kind, "--probability", probability];
        cluster.ok(&fault);
    }
    let load = cluster.start_load(200, 5, &[]);
    let journal = load.journal.clone();
    assert_eq!(load.report()["failed"], 0);
    cluster.ok(&["fault", "clear", "--region", EU]);
    cluster.verify(&journal);
}

#[test]
fn one_key_published_on_both_sides_of_a_cut_has_one_effect_in_each_region() {
    let cluster = Cluster::start();
    for peer in [EU, AP] {
        cluster.ok(&["fault", "inject", "--region", US, "--peer", peer, "--kind", "partition"]);
    }
    // Its client tries in one region, gets no answer it trusts, and tries again in the other.
    cluster.publish(US, "order-17", r#"{"amount":12}"#);
    cluster.publish(EU, "order-17", r#"{"amount":12}"#);
    assert_eq!(cluster.wait_for_key(AP, "order-17").len(), 1);
    assert_eq!(cluster.with_key(US, "order-17").len(), 1);
    cluster.ok(&["fault", "clear", "--region", US]);
    cluster.wait_caught_up();
    cluster.ok(&["verify"]);
    for name in NAMES {
        assert_eq!(cluster.with_key(name, "order-17").len(), 1, "{name}");
        assert_eq!(cluster.link(name, NAMES.iter().find(|peer| **peer != name).expect("a peer"))["dead_letters"], 0);
    }
    let duplicates = cluster.metrics(EU).sum("hubweave_arrivals_suppressed_total", &[("result", "duplicate")]);
    assert_eq!(duplicates, 1.0);
}

#[test]
fn an_agent_that_was_away_gets_everything_when_it_is_back() {
    let cluster = Cluster::start();
    cluster.kill_agent(AP);
    cluster.ok(&[
        "publish",
        "--region",
        EU,
        "--source",
        "shop",
        "--detail-type",
        "Order",
        "--detail",
        "{}",
        "--key",
        "away",
        "--count",
        "500",
    ]);
    assert!(cluster.link(EU, AP)["backlog_events"].as_u64() >= Some(500));
    let wait_zero = cluster.run(&["verify", "--wait", "0s"]);
    assert!(
        wait_zero.code == Some(1) && wait_zero.stdout.contains(AP),
        "an unreachable region is no equal: {wait_zero:?}"
    );
    cluster.start_agent(AP);
    cluster.wait_ready_one(AP);
    cluster.wait_caught_up();
    cluster.ok(&["verify"]);
    assert_eq!(cluster.status(AP)["events"], 500);
}

#[test]
fn verify_gives_no_false_alarm_under_traffic() {
    let cluster = Cluster::start();
    let mut load = cluster.start_load(300, 8, &[]);
    until(PATIENCE, "the load to begin", || NAMES.iter().all(|name| cluster.status(name)["events"] != 0));
    let mut compared = 0;
    while load.is_running() {
        cluster.ok(&["verify"]);
        compared += 1;
    }
    assert!(compared > 3, "verify ran {compared} times");
    assert_eq!(load.report()["failed"], 0);
}

/// 100 events from each region, everywhere.
fn with_events(run: &str) -> Cluster {
    let cluster = Cluster::start();
    publish_everywhere(&cluster, run);
    cluster.wait_caught_up();
    cluster
}

fn publish_everywhere(cluster: &Cluster, run: &str) {
    for name in NAMES {
        let key = format!("{run}-{name}");
        let command = ["publish", "--region", name, "--source", "shop", "--detail-type", "Order", "--detail", "{}"];
        cluster.ok(&[&command[..], &["--key", &key, "--count", "100"]].concat());
    }
}

#[test]
fn a_region_that_lost_its_disk_gets_everything_back_from_the_others() {
    let cluster = with_events("first");
    cluster.kill_agent(AP);
    std::fs::remove_dir_all(&cluster.region(AP).data_dir).expect("removable");
    publish_everywhere_but_ap(&cluster);
    cluster.start_agent(AP);
    cluster.wait_ready_one(AP);
    until(PATIENCE, "its own and the others' events to be back", || cluster.status(AP)["events"] == 302);
    cluster.wait_caught_up();
    cluster.ok(&["verify"]);
    // And it takes part again.
    cluster.publish(AP, "afterwards", "{}");
    assert_eq!(cluster.wait_for_key(EU, "afterwards").len(), 1);
    assert_eq!(cluster.status(EU)["events"], 303, "nothing came a second time");
}

fn publish_everywhere_but_ap(cluster: &Cluster) {
    cluster.publish(EU, "while-away-eu", "{}");
    cluster.publish(US, "while-away-us", "{}");
}

#[test]
fn a_region_restored_from_an_older_copy_is_refilled_and_nothing_takes_effect_twice_elsewhere() {
    let cluster = with_events("first");
    cluster.stop_agent(AP);
    let (data, copy) = (cluster.region(AP).data_dir.clone(), cluster.path("copy"));
    copy_folder(&data, &copy);
    cluster.start_agent(AP);
    cluster.wait_ready_one(AP);
    publish_everywhere(&cluster, "second");
    cluster.wait_caught_up();
    cluster.kill_agent(AP);
    std::fs::remove_dir_all(&data).expect("removable");
    copy_folder(&copy, &data);
    cluster.start_agent(AP);
    cluster.wait_ready_one(AP);
    // New events of a life that others know more of than it does.
    cluster.publish(AP, "after-the-restore", "{}");
    until(PATIENCE, "its own and the others' events to be back", || cluster.status(AP)["events"] == 601);
    cluster.wait_caught_up();
    cluster.ok(&["verify"]);
    for name in NAMES {
        assert_eq!(cluster.status(name)["events"], 601, "{name}");
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("creatable");
    for entry in std::fs::read_dir(from).expect("readable") {
        let entry = entry.expect("an entry");
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        match path.is_dir() {
            true => copy_folder(&path, &target),
            false => drop(std::fs::copy(&path, &target).expect("copied")),
        }
    }
}
