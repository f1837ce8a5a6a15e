//! Regions on AWS when things go wrong: AWS's own troubles, faults on order, and producers that move from region to region.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::{EU, Metrics, PATIENCE, Request, US, aws::AwsCluster, free_port, troubled::Troubled, until};
use crate::ministack::MiniStack;

/// Retries soon, for tests that are to be over soon.
const EAGER: &str = "[replication]\nretry_min = \"50ms\"\nretry_max = \"500ms\"\n";

const WITH_FAULTS: &str = "[replication]\nretry_min = \"50ms\"\nretry_max = \"500ms\"\n[faults]\nenabled = true\n";

fn keys(what: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{what}-{n}")).collect()
}

fn metrics(admin: u16) -> Metrics {
    Metrics::parse(&Request::get("/metrics").send(admin).expect_status(200).text())
}

fn state(admin: u16) -> Value {
    Request::get("/v1/status").send(admin).expect_status(200).json()["links"][0]["state"].clone()
}

/// Waits for all of these on the peer's bus; answers how many came more than once, each under its own key.
fn arrived(cluster: &AwsCluster, expected: &[String]) -> usize {
    let mut seen: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    until(PATIENCE * 4, "everything to be on the peer's bus", || {
        cluster.drain_sink(US, &mut seen);
        expected.iter().all(|key| seen.contains_key(key))
    });
    for (key, events) in &seen {
        assert!(events.iter().all(|event| event["detail"]["hubweave"]["key"] == key.as_str()), "{key}");
    }
    seen.values().map(|events| events.len() - 1).sum()
}

fn assert_counted(repeated: usize, admin: u16) -> f64 {
    let counted = metrics(admin).sum("hubweave_possible_repeats_total", &[("peer", US)]);
    assert!(repeated as f64 <= counted, "{repeated} repeated, {counted} counted");
    counted
}

#[test]
fn an_aws_that_throttles_fails_and_resets_loses_nothing_and_each_repeat_is_counted() {
    let way = Troubled::to(MiniStack::get().port);
    let url = format!("http://127.0.0.1:{}", way.port);
    let mut cluster = AwsCluster::describe_at(&url, EAGER, "").provision();
    let (_, admin) = cluster.start_agent(EU);
    let expected = keys("trouble", 300);
    way.begin();
    expected.chunks(30).for_each(|keys| cluster.publish(EU, keys));
    let repeated = arrived(&cluster, &expected);
    way.end();
    let counted = assert_counted(repeated, admin);
    let met = way.met();
    assert!(met.iter().all(|met| *met > 0), "each kind of trouble was met: {met:?}");
    let metrics = metrics(admin);
    for outcome in ["throttled", "failed", "unanswered"] {
        assert!(metrics.sum("hubweave_aws_requests_total", &[("outcome", outcome)]) > 0.0, "{outcome}");
    }
    println!("300 events, calls in trouble {met:?}: lost 0, repeated {repeated}, counted as possible {counted}");
}

#[test]
fn a_producer_that_moves_to_another_region_with_its_keys_makes_one_effect_in_each() {
    let mut cluster = AwsCluster::provisioned(EAGER);
    let api = free_port();
    let (_, eu) = cluster.start_first_agent(EU, &[]);
    let (_, us) = cluster.start_first_agent(US, &["--api", &format!("127.0.0.1:{api}")]);
    // The first region is being lost: what it took in does not get out any more.
    cluster.run(&["pause", "--from", EU, "--to", US]).expect_code(0);
    let moved = keys("moved", 5);
    // A link may be ahead of a key that was not written down yet: a second effect, and counted as one.
    let written_down = |admin: u16| metrics(admin).value("hubweave_local_entries_total", &[("result", "new")]);
    for (region, admin) in [(EU, eu), (US, us)] {
        cluster.publish(region, &moved);
        until(PATIENCE, "the keys to be written down where they were published", || written_down(admin) == 5.0);
    }
    let suppressed = |admin: u16, peer: &str| {
        metrics(admin).value("hubweave_events_forwarded_total", &[("peer", peer), ("result", "duplicate")])
    };
    until(PATIENCE, "the other region's events to be suppressed here", || suppressed(us, EU) == 5.0);
    cluster.run(&["resume", "--from", EU, "--to", US]).expect_code(0);
    until(PATIENCE, "this region's events to be suppressed there", || suppressed(eu, US) == 5.0);

    // And one that was through already: whoever publishes through the agent gets the first one's id.
    cluster.publish(EU, &["through".to_owned()]);
    let (mut in_eu, mut in_us) = (BTreeMap::new(), BTreeMap::new());
    until(PATIENCE, "it to be in the other region", || {
        cluster.drain_sink(US, &mut in_us);
        in_us.contains_key("through")
    });
    let detail = json!({ "metadata": { "idempotencyKey": "through" }, "of": "through" }).to_string();
    let entry = json!({ "Source": "app", "DetailType": "Order", "Detail": detail, "EventBusName": cluster.name });
    let answer = Request::put_events(&json!([entry])).send(api).expect_status(200).json();
    assert_eq!(answer["FailedEntryCount"], 0, "{answer}");
    assert_eq!(answer["Entries"][0]["EventId"], in_us["through"][0]["id"], "the first one's id");
    assert_eq!(metrics(us).value("hubweave_events_deduplicated_total", &[("result", "repeat")]), 1.0);

    cluster.drain_sink(EU, &mut in_eu);
    cluster.drain_sink(US, &mut in_us);
    for effects in [&in_eu, &in_us] {
        assert_eq!(effects.len(), 6);
        assert!(effects.values().all(|events| events.len() == 1), "one effect in each region: {effects:?}");
    }
}

#[test]
fn a_partition_on_order_cuts_a_peer_off_until_it_is_cleared() {
    let mut cluster = AwsCluster::provisioned(WITH_FAULTS);
    let (_, admin) = cluster.start_first_agent(EU, &[]);
    cluster.run(&["fault", "inject", "--region", EU, "--peer", US, "--kind", "partition"]).expect_code(0);
    let expected = keys("cut", 30);
    cluster.publish(EU, &expected);
    until(PATIENCE, "the link to leave the peer alone", || state(admin) == "retrying");
    let mut seen = BTreeMap::new();
    cluster.drain_sink(US, &mut seen);
    assert!(seen.is_empty());
    let list = cluster.run(&["fault", "list", "--region", EU, "--json"]).expect_code(0).document();
    assert_eq!(list["faults"][0]["kind"], "partition");
    assert_eq!(metrics(admin).value("hubweave_faults_active", &[("kind", "partition")]), 1.0);
    let cleared = cluster.run(&["fault", "clear", "--region", EU, "--json"]).expect_code(0).document();
    assert_eq!(cleared["cleared"], 1);
    assert_eq!(arrived(&cluster, &expected), 0, "what is cut off is not called");
    until(PATIENCE, "the link to be well", || state(admin) == "active");
    // What a peer brings here it writes by itself.
    let wrong = ["fault", "inject", "--region", EU, "--kind", "drop", "--direction", "in"];
    assert!(cluster.run(&wrong).expect_code(2).stderr.contains("inject the fault there"));
}

#[test]
fn faults_of_every_kind_on_order_lose_nothing_and_each_repeat_is_counted() {
    let mut cluster = AwsCluster::provisioned(WITH_FAULTS);
    let (_, admin) = cluster.start_first_agent(EU, &[]);
    let inject = |order: Value| Request::post("/v1/faults", order.to_string()).send(admin).expect_status(200);
    for kind in ["delay", "drop", "reorder", "throttle", "error", "timeout-after-success", "duplicate"] {
        inject(json!({ "kind": kind, "peer": US, "probability": 0.1, "delay_ms": 50 }));
    }
    // The region's own queues and ledger; a reception that is lost is hidden for long, so none of that here.
    for kind in ["delay", "drop", "throttle", "duplicate"] {
        inject(json!({ "kind": kind, "peer": EU, "probability": 0.1, "delay_ms": 50 }));
    }
    inject(json!({ "kind": "clock-skew", "delay_ms": -90_000 }));
    let expected = keys("spoiled", 200);
    expected.chunks(20).for_each(|keys| cluster.publish(EU, keys));
    let repeated = arrived(&cluster, &expected);
    let counted = assert_counted(repeated, admin);
    println!("200 events, faults of each kind: lost 0, repeated {repeated}, counted as possible {counted}");
}

#[test]
fn a_crash_on_order_ends_one_agent_and_faults_are_refused_where_they_are_not_enabled() {
    let mut cluster = AwsCluster::provisioned(WITH_FAULTS);
    let (first, admin) = cluster.start_first_agent(EU, &[]);
    cluster.run(&["fault", "inject", "--region", EU, "--peer", US, "--kind", "crash"]).expect_code(0);
    cluster.publish(EU, &["crash".to_owned()]);
    until(PATIENCE, "the agent to crash", || !Request::get("/livez").is_ok(admin));
    cluster.kill_agent(first);
    cluster.start_agent(EU);
    assert_eq!(arrived(&cluster, &["crash".to_owned()]), 0, "it died before its first call");

    let mut cluster = AwsCluster::provisioned("");
    cluster.start_first_agent(EU, &[]);
    let refused = cluster.run(&["fault", "inject", "--region", EU, "--kind", "drop"]).expect_code(1);
    assert!(refused.stderr.contains("[faults]"), "{}", refused.stderr);
}
