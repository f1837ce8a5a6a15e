//! Agents behind microburst, which plays AWS's troubles by what each service says of them: throttled and failed calls in
//! their own words, resets, answers that break off after the call took effect, slow answers, a region in a black hole.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::{EU, Metrics, PATIENCE, Request, US, aws::AwsCluster, microburst::Microburst, until};

fn keys(what: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{what}-{n}")).collect()
}

fn metrics(admin: u16) -> Metrics {
    Metrics::parse(&Request::get("/metrics").send(admin).expect_status(200).text())
}

#[test]
fn troubles_of_every_kind_and_a_region_in_a_black_hole_lose_nothing_and_end_without_a_person() {
    let way = Microburst::start();
    let options = "[replication]\nattempt_timeout = \"2s\"\nretry_min = \"50ms\"\nretry_max = \"1s\"\n";
    let mut cluster = AwsCluster::describe_at(&way.url(), options, "").provision();
    let (_, eu) = cluster.start_first_agent(EU, &[]);
    let (_, us) = cluster.start_first_agent(US, &[]);
    let mut seen: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut expected = Vec::new();
    let publish = |cluster: &AwsCluster, expected: &mut Vec<String>, keys: Vec<String>| {
        keys.chunks(20).for_each(|keys| cluster.publish(EU, keys));
        expected.extend(keys);
    };

    way.play(&json!([
        { "service": "*", "error": { "code": "ThrottlingException", "status": 400 }, "probability": 0.07 },
        { "service": "*", "error": { "code": "InternalFailure", "status": 500 }, "probability": 0.05 },
        { "service": "*", "reset": true, "probability": 0.05 },
        { "service": "events", "region": US, "operation": "PutEvents", "response": { "abort_bytes": 3 }, "probability": 0.1 },
        { "service": "dynamodb", "response": { "abort_bytes": 3 }, "probability": 0.05 },
        { "service": "dynamodb", "response": { "truncate_frac": 0.5 }, "probability": 0.05 },
        { "service": "*", "region": US, "latency": { "min_ms": 20, "max_ms": 400 }, "probability": 0.5 },
    ]));
    publish(&cluster, &mut expected, keys("trouble", 200));
    until(PATIENCE * 3, "half of it to arrive in spite of troubles of each kind", || {
        cluster.drain_sink(US, &mut seen);
        seen.len() >= 100 && way.met().iter().all(|met| *met > 0)
    });
    let met = way.met();
    // What is under way would arrive in the black hole's time, and a link that still retries says nothing of it.
    way.play(&json!([]));
    let state = || Request::get("/v1/status").send(eu).expect_status(200).json()["links"][0]["state"].clone();
    until(PATIENCE * 3, "the rest of it, and the link to be well", || {
        cluster.drain_sink(US, &mut seen);
        expected.iter().all(|key| seen.contains_key(key)) && state() == "active"
    });

    way.play(&json!([{ "service": "*", "region": US, "timeout_ms": 60_000 }]));
    publish(&cluster, &mut expected, keys("hole", 60));
    until(PATIENCE, "the link to leave the peer alone", || state() == "retrying");
    cluster.drain_sink(US, &mut seen);
    assert!(!seen.keys().any(|key| key.starts_with("hole-")), "something came through: {seen:?}");
    let black = way.met();
    assert!(black[0] > 0, "nothing was cut");
    way.play(&json!([]));
    until(PATIENCE * 4, "everything to arrive without anybody's help", || {
        cluster.drain_sink(US, &mut seen);
        expected.iter().all(|key| seen.contains_key(key))
    });
    until(PATIENCE, "the link to be well", || state() == "active");
    let repeated: usize = seen.values().map(|events| events.len() - 1).sum();
    let told = metrics(eu);
    let counted = told.sum("hubweave_possible_repeats_total", &[("peer", US)]);
    assert!(repeated as f64 <= counted, "{repeated} repeated, {counted} counted");
    for outcome in ["throttled", "failed", "unanswered"] {
        assert!(told.sum("hubweave_aws_requests_total", &[("outcome", outcome)]) > 0.0, "{outcome}");
    }
    // What the ledgers know says the same, once the peer's agent has recovered as well.
    until(PATIENCE * 2, "both ledgers to know all of it", || {
        let report = cluster.run(&["verify", "--json"]).document();
        report["verdict"] == "equal" && report["links"][0]["present"] == 260
    });
    assert!(Request::get("/readyz").is_ok(us));
    println!("260 events, troubles {met:?}, black hole {black:?}: lost 0, repeated {repeated}, counted {counted}");
}
