//! Moving users out of a region and back, as an operator does it.

use serde_json::{Value, json};

use crate::harness::{AP, Cluster, EU, NAMES, PATIENCE, Request, US, until};

/// Nothing is heard of a region for this long until it is suspected.
const SUSPECT: &str = "[failover]\nsuspect_after = \"2s\"\ncool_down = \"0s\"\n";

fn health(cluster: &Cluster, region: &str) -> (u16, String) {
    let answer = Request::get("/region/health").send(cluster.region(region).admin);
    (answer.status, answer.json()["reason"].as_str().unwrap_or_default().to_owned())
}

fn states(cluster: &Cluster, by: &str) -> Vec<(String, String)> {
    let regions = cluster.status(by)["regions"].clone();
    let text = |shown: &Value, field: &str| shown[field].as_str().unwrap_or_default().to_owned();
    regions.as_array().expect("regions").iter().map(|shown| (text(shown, "region"), text(shown, "state"))).collect()
}

fn all_hold(cluster: &Cluster, region: &str, state: &str) {
    let wanted = (region.to_owned(), state.to_owned());
    until(PATIENCE, "every region to know it", || NAMES.iter().all(|by| states(cluster, by).contains(&wanted)));
}

fn publish_is_refused(cluster: &Cluster, region: &str) {
    let entries = json!([{"Source": "app", "DetailType": "T", "Detail": "{}"}]);
    let answer = Request::put_events(&entries).send(cluster.region(region).api);
    assert_eq!(answer.status, 503, "{}", answer.text());
    let answer = Request::put("/payloads/k", "x").send(cluster.region(region).api);
    assert_eq!(answer.status, 503, "{}", answer.text());
    let answer = Request::post("/v1/state/profile/1", r#"{"ops":[{"field":"plays","op":"increment","by":1}]}"#)
        .send(cluster.region(region).api);
    assert_eq!(answer.status, 503, "{}", answer.text());
}

const STATE: &str = "[state.profile]\nplays = \"counter\"\n";

#[test]
fn a_region_is_drained_and_nothing_of_it_is_missing_and_it_comes_back() {
    let cluster = Cluster::start_with(3, &format!("{STATE}{SUSPECT}"));
    let load = cluster.start_load(200, 3, &[US]);
    let plan = cluster.json(&["failover", "plan", "--region", US], 0);
    assert_eq!((plan["possible"].as_bool(), plan["rpo"]["kind"].as_str()), (Some(true), Some("proven")), "{plan}");
    assert_eq!(states(&cluster, EU)[1].1, "active", "a plan decides nothing");
    let done = cluster.json(&["failover", "execute", "--region", US, "--reason", "maintenance"], 0);
    println!("graceful: {done}");
    assert_eq!((done["to"].as_str(), done["rpo"]["kind"].as_str()), (Some("evacuated"), Some("proven")), "{done}");
    assert_eq!(done["forced"], json!(false));
    // The region that was left takes nothing, and its services see why.
    publish_is_refused(&cluster, US);
    assert_eq!(health(&cluster, US), (503, "the region is evacuated".to_owned()));
    assert_eq!(health(&cluster, EU).0, 200);
    all_hold(&cluster, US, "evacuated");
    assert!((cluster.metrics(US).value("hubweave_region_state", &[("state", "evacuated")]) - 1.0).abs() < 0.1);
    let keys = |region| cluster.events(region).len();
    until(PATIENCE, "both to have the same", || keys(EU) == keys(US) && keys(AP) == keys(US));
    // Again is nothing to do, whoever is asked.
    let again = cluster.json(&["failover", "execute", "--region", US], 0);
    assert_eq!(again["already"], json!(true));
    // A restart forgets nothing of it.
    cluster.stop_agent(US);
    cluster.start_agent(US);
    cluster.wait_ready_one(US);
    assert_eq!(health(&cluster, US).0, 503);

    let back = cluster.json(&["failover", "failback", "--region", US], 0);
    println!("back: {back}");
    assert_eq!((back["to"].as_str(), back["rpo"]["kind"].as_str()), (Some("active"), Some("proven")), "{back}");
    all_hold(&cluster, US, "active");
    until(PATIENCE, "users to be sent there again", || health(&cluster, US).0 == 200);
    cluster.publish(US, "again", "{}");
    // What was acknowledged before the region was closed is everywhere, once.
    let journal = load.journal.clone();
    load.report();
    cluster.verify(&journal);
    let status = cluster.ok(&["failover", "status"]);
    assert!(status.contains("us-east-1: active -> draining") && status.contains("maintenance"), "{status}");
}

#[test]
fn a_lost_region_is_left_as_it_was_and_what_comes_late_is_named() {
    let cluster = Cluster::start_with(3, SUSPECT);
    cluster.publish(US, "before", "{}");
    cluster.wait_caught_up();
    // Nobody hears it any more, and it takes in what nobody will know of.
    for peer in [EU, AP] {
        cluster.ok(&["fault", "inject", "--region", US, "--peer", peer, "--kind", "partition"]);
    }
    for number in 0..5 {
        cluster.publish(US, &format!("late-{number}"), "{}");
    }
    until(PATIENCE, "it to be suspected", || {
        [EU, AP].iter().all(|by| cluster.status(by)["suspects"].as_array().is_some_and(|s| s.contains(&json!(US))))
    });
    let graceful = cluster.run(&["failover", "execute", "--region", US]);
    assert_eq!(graceful.code, Some(1), "{graceful:?}");
    assert!(graceful.stderr.contains("--mode ungraceful"), "{}", graceful.stderr);
    let done = cluster.json(&["failover", "execute", "--region", US, "--mode", "ungraceful"], 0);
    println!("ungraceful: {done}");
    assert_eq!((done["to"].as_str(), done["rpo"]["kind"].as_str()), (Some("evacuated"), Some("exposed")), "{done}");
    assert!(done["rpo"]["since"].is_string(), "{done}");
    cluster.publish(EU, "meanwhile", "{}");
    // kill -9, and it comes up where it can be reached: it never says that it serves.
    cluster.kill_agent(US);
    cluster.start_agent(US);
    cluster.wait_ready_one(US);
    assert_eq!(health(&cluster, US).0, 503, "it asks before it serves");
    until(PATIENCE, "what it had to arrive", || cluster.with_key(EU, "late-4").len() == 1);
    let inventory = cluster.json(&["failover", "inventory", "--region", US], 0);
    for region in inventory["regions"].as_array().expect("regions") {
        until(PATIENCE, "all of it to be named", || {
            let inventory = cluster.json(&["failover", "inventory", "--region", US], 0);
            let named = inventory["regions"].as_array().expect("regions").iter();
            let mine = named.clone().find(|one| one["region"] == region["region"]).expect("it tells");
            let keys: Vec<&str> =
                mine["named"].as_array().expect("named").iter().filter_map(|late| late["key"].as_str()).collect();
            keys == ["late-0", "late-1", "late-2", "late-3", "late-4"]
        });
    }
    let back = cluster.json(&["failover", "failback", "--region", US], 0);
    println!("back: {back}");
    assert_eq!(cluster.with_key(US, "meanwhile").len(), 1, "it came back with everything");
    all_hold(&cluster, US, "active");
}

#[test]
fn without_a_majority_only_force_decides_and_enough_stay_active() {
    let cluster = Cluster::start_with(3, SUSPECT);
    for region in [US, AP] {
        cluster.kill_agent(region);
    }
    let refused = cluster.run(&["failover", "execute", "--region", US, "--mode", "ungraceful"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("--force"), "{}", refused.stderr);
    let forced = cluster.json(&["failover", "execute", "--region", US, "--mode", "ungraceful", "--force"], 0);
    assert_eq!(forced["forced"], json!(true), "{forced}");
    let last = cluster.run(&["failover", "execute", "--region", EU, "--mode", "ungraceful", "--force"]);
    assert_eq!(last.code, Some(0), "ap-southeast-2 is active as far as anybody knows: {}", last.stderr);
    let none = cluster.run(&["failover", "execute", "--region", AP, "--mode", "ungraceful", "--force"]);
    assert_eq!(none.code, Some(1));
    assert!(none.stderr.contains("it would leave 0 active"), "{}", none.stderr);
    for region in [US, AP] {
        cluster.start_agent(region);
    }
    cluster.wait_ready();
    all_hold(&cluster, AP, "active");
    all_hold(&cluster, US, "evacuated");
    for region in [EU, US] {
        cluster.json(&["failover", "failback", "--region", region], 0);
    }
    all_hold(&cluster, EU, "active");
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_done() {
    let cluster = Cluster::start_with(3, "[failover]\ncool_down = \"1h\"\n");
    let unknown = cluster.run(&["failover", "execute", "--region", "mars"]);
    assert_eq!(unknown.code, Some(2));
    assert!(unknown.stderr.contains("mars"), "{}", unknown.stderr);
    for body in [r#"{"action":"explode","region":"us-east-1"}"#, r#"{"action":"plan","region":"mars"}"#, "{"] {
        assert_eq!(Request::post("/v1/failover", body).send(cluster.region(EU).admin).status, 400, "{body}");
    }
    // Nothing is under way: nothing to abort, nothing to bring back.
    for verb in ["abort", "failback"] {
        assert_eq!(cluster.json(&["failover", verb, "--region", US], 0)["already"], json!(true));
    }
    // A link that is paused cannot drain.
    cluster.ok(&["pause", "--from", US, "--to", AP]);
    let plan = cluster.run(&["failover", "plan", "--region", US]);
    assert_eq!(plan.code, Some(1));
    assert!(plan.stdout.contains("us-east-1 -> ap-southeast-2 is paused"), "{}", plan.stdout);
    let refused = cluster.run(&["failover", "execute", "--region", US]);
    assert!(refused.code == Some(1) && refused.stderr.contains("is paused"), "{refused:?}");
    cluster.ok(&["resume", "--from", US, "--to", AP]);
    // A drain that cannot end is taken back.
    cluster.kill_agent(AP);
    cluster.publish(US, "one", "{}");
    let waits = cluster.run(&["failover", "execute", "--region", US, "--force", "--wait", "1s"]);
    assert!(waits.code == Some(1) && waits.stderr.contains("draining"), "{waits:?}");
    assert_eq!(health(&cluster, US).0, 503);
    cluster.ok(&["failover", "abort", "--region", US]);
    until(PATIENCE, "it to serve again", || health(&cluster, US).0 == 200);
    // Somebody came back a moment ago.
    cluster.start_agent(AP);
    cluster.wait_ready();
    let is_active = || cluster.link(US, AP)["state"] == "active";
    until(PATIENCE, "the link to be there again", || is_active() && cluster.link(US, AP)["backlog_events"] == 0);
    let cooling = cluster.run(&["failover", "execute", "--region", US]);
    assert!(cooling.code == Some(1) && cooling.stderr.contains("cool-down"), "{cooling:?}");
    cluster.ok(&["failover", "execute", "--region", US, "--drill"]);
}

/// What deletes wait for is left out, and takes part again with what only it had.
#[test]
fn a_region_that_is_gone_is_evicted_and_begins_anew_when_it_is_back() {
    let cluster = Cluster::start_with(3, &format!("{STATE}{SUSPECT}"));
    let plays = |id: &str, region: &str| {
        let answer = Request::get(&format!("/v1/state/profile/{id}")).send(cluster.region(region).api);
        (answer.status, answer.json()["value"]["plays"].as_i64())
    };
    let play = |id: &str, region: &str| {
        let ops = r#"{"ops":[{"field":"plays","op":"increment","by":1}]}"#;
        Request::post(&format!("/v1/state/profile/{id}"), ops).send(cluster.region(region).api).expect_status(200);
    };
    for region in [EU, US, AP] {
        play("shared", region);
    }
    until(PATIENCE, "all to have it", || NAMES.iter().all(|region| plays("shared", region) == (200, Some(3))));

    // Nobody may be left out who serves, and nobody by himself.
    let serves = cluster.run(&["state", "evict", "--region", AP, "--yes"]);
    assert_eq!(serves.code, Some(1), "{serves:?}");
    assert!(serves.stderr.contains("only a region that is evacuated can be evicted"), "{}", serves.stderr);
    let itself = Request::post("/v1/evictions", json!({ "region": AP }).to_string()).send(cluster.region(AP).admin);
    assert_eq!(itself.status, 409, "{}", itself.text());

    // It writes what nobody hears of, and is gone.
    for peer in [EU, US] {
        cluster.ok(&["pause", "--from", AP, "--to", peer]);
    }
    for peer in [EU, US] {
        cluster.ok(&["fault", "inject", "--region", AP, "--peer", peer, "--kind", "partition"]);
    }
    play("shared", AP);
    play("late", AP);
    cluster.kill_agent(AP);
    until(PATIENCE, "it to be suspected", || {
        [EU, US].iter().all(|by| cluster.status(by)["suspects"].as_array().is_some_and(|s| s.contains(&json!(AP))))
    });
    cluster.json(&["failover", "execute", "--region", AP, "--mode", "ungraceful"], 0);
    let unasked = cluster.run(&["state", "evict", "--region", AP]);
    assert_eq!(unasked.code, Some(2), "{unasked:?}");
    assert!(unasked.stderr.contains("--yes"), "{}", unasked.stderr);
    let dry = cluster.json(&["state", "evict", "--region", AP, "--dry-run"], 0);
    assert_eq!(dry["evictions"], json!([]), "{dry}");
    let done = cluster.json(&["state", "evict", "--region", AP, "--yes", "--reason", "its site burnt down"], 0);
    assert_eq!(done["evictions"][0]["term"], json!(1), "{done}");
    until(PATIENCE, "the others to hear of it", || {
        [EU, US].iter().all(|by| {
            let left_out = cluster.metrics(by).value("hubweave_state_evicted", &[("peer", AP)]);
            (left_out - 1.0).abs() < 0.1
        })
    });
    let listed = cluster.run(&["state", "evictions"]);
    assert_eq!(listed.code, Some(1), "one does not answer: {listed:?}");
    assert!(listed.stdout.contains("its site burnt down") && listed.stdout.contains("left out"), "{}", listed.stdout);

    // It is back: empty at first, then with everything, its own as well.
    cluster.start_agent(AP);
    cluster.wait_ready_one(AP);
    for peer in [EU, US] {
        cluster.ok(&["resume", "--from", AP, "--to", peer]);
    }
    until(PATIENCE, "everything to be everywhere", || {
        NAMES.iter().all(|region| plays("shared", region) == (200, Some(4)) && plays("late", region) == (200, Some(1)))
    });
    cluster.json(&["failover", "failback", "--region", AP], 0);
    play("shared", AP);
    until(PATIENCE, "it to take part", || NAMES.iter().all(|region| plays("shared", region) == (200, Some(5))));
    let listed = cluster.json(&["state", "evictions"], 0);
    for region in listed["regions"].as_array().expect("regions") {
        assert_eq!(region["evictions"][0]["back"], json!(true), "{listed}");
    }
    let metrics = cluster.metrics(AP);
    assert!((metrics.value("hubweave_state_redone_requests_total", &[("outcome", "again")]) - 2.0).abs() < 0.1);
    assert!((metrics.value("hubweave_state_evicted", &[("peer", AP)])).abs() < 0.1);
    let left_out = |by: &str| cluster.metrics(by).sum("hubweave_state_left_out_deltas_total", &[("peer", AP)]);
    until(PATIENCE, "its two old deltas to be left out by both", || (left_out(EU) + left_out(US) - 4.0).abs() < 0.1);
}
