//! What dashboards and probes rely on.

use std::collections::BTreeSet;

use serde_json::json;

use crate::harness::{AP, Cluster, EU, PATIENCE, Request, US, until};

/// Name, kind, labels beside `region`, as the interface has them. Families of parts that are not built are absent.
const PROMISED: &[(&str, &str, &[&str])] = &[
    ("hubweave_build_info", "gauge", &["version"]),
    ("hubweave_region_state", "gauge", &["state"]),
    ("hubweave_events_accepted_total", "counter", &[]),
    ("hubweave_events_forwarded_total", "counter", &["peer", "result"]),
    ("hubweave_events_applied_total", "counter", &["origin"]),
    ("hubweave_events_skipped_total", "counter", &["reason"]),
    ("hubweave_replication_lag_seconds", "histogram", &["peer", "stream"]),
    ("hubweave_link_backlog_events", "gauge", &["peer"]),
    ("hubweave_link_backlog_bytes", "gauge", &["peer"]),
    ("hubweave_link_watermark_timestamp_seconds", "gauge", &["peer"]),
    ("hubweave_rpo_exposure_seconds", "gauge", &["peer"]),
    ("hubweave_link_state", "gauge", &["peer", "state"]),
    ("hubweave_heartbeat_received_timestamp_seconds", "gauge", &["origin"]),
    ("hubweave_clock_offset_seconds", "gauge", &["peer"]),
    ("hubweave_dead_letters", "gauge", &["peer"]),
    ("hubweave_rate_limited_seconds_total", "counter", &["peer"]),
];

#[test]
fn every_promised_family_is_there_from_the_start_with_its_labels_at_0() {
    let cluster = Cluster::describe(3, "");
    cluster.start_agent(EU);
    cluster.wait_ready_one(EU);
    let metrics = cluster.metrics(EU);
    for (name, kind, labels) in PROMISED {
        assert_eq!(metrics.families.get(*name).map(String::as_str), Some(*kind), "{name}");
        let sample = if *kind == "histogram" { format!("{name}_count") } else { (*name).to_owned() };
        let expected: BTreeSet<String> = labels.iter().chain([&"region"]).map(|label| (*label).to_owned()).collect();
        assert_eq!(metrics.labels(&sample), expected, "{name}");
    }
    assert_eq!(metrics.value("hubweave_events_accepted_total", &[("region", EU)]), 0.0);
    for peer in [US, AP] {
        for result in ["delivered", "duplicate", "rejected"] {
            assert_eq!(metrics.value("hubweave_events_forwarded_total", &[("peer", peer), ("result", result)]), 0.0);
        }
        for stream in ["events", "state", "objects", "heartbeat"] {
            let labels = [("peer", peer), ("stream", stream)];
            assert_eq!(metrics.value("hubweave_replication_lag_seconds_count", &labels), 0.0);
        }
        assert_eq!(metrics.value("hubweave_events_applied_total", &[("origin", peer)]), 0.0);
        for name in ["hubweave_link_backlog_events", "hubweave_rpo_exposure_seconds", "hubweave_dead_letters"] {
            assert_eq!(metrics.value(name, &[("peer", peer)]), 0.0, "{name}");
        }
        assert_eq!(metrics.sum("hubweave_link_state", &[("peer", peer)]), 1.0, "a link is in one state");
        assert_eq!(metrics.value("hubweave_heartbeat_received_timestamp_seconds", &[("origin", peer)]), 0.0);
    }
    assert_eq!(metrics.value("hubweave_region_state", &[("state", "active")]), 1.0);
    assert_eq!(metrics.sum("hubweave_region_state", &[]), 1.0, "a region is in one state");
    assert_eq!(metrics.sum("hubweave_invariant_violations_total", &[]), 0.0);
}

#[test]
fn metrics_count_what_happens_and_heartbeats_are_no_events() {
    let cluster = Cluster::start_with(2, "");
    for key in ["a", "b", "b"] {
        cluster.publish(EU, key, "{}");
    }
    cluster.wait_for_key(US, "b");
    let delivered = [("peer", US), ("result", "delivered")];
    until(PATIENCE, "the answer to be counted", || {
        cluster.metrics(EU).value("hubweave_events_forwarded_total", &delivered) == 2.0
    });
    until(PATIENCE, "a heartbeat", || {
        cluster.metrics(US).value("hubweave_heartbeat_received_timestamp_seconds", &[("origin", EU)]) > 1.7e9
    });
    let home = cluster.metrics(EU);
    assert_eq!(home.value("hubweave_events_accepted_total", &[]), 2.0, "a repeat is not accepted again");
    let lag = [("peer", US), ("stream", "events")];
    assert_eq!(home.value("hubweave_replication_lag_seconds_count", &lag), 2.0);
    assert!(home.value("hubweave_replication_lag_seconds_count", &[("peer", US), ("stream", "heartbeat")]) > 0.0);
    assert!(home.value("hubweave_link_watermark_timestamp_seconds", &[("peer", US)]) > 1.7e9);
    assert_eq!(home.value("hubweave_link_state", &[("peer", US), ("state", "active")]), 1.0);
    assert_eq!(home.sum("hubweave_invariant_violations_total", &[]), 0.0);
    let there = cluster.metrics(US);
    assert_eq!(there.value("hubweave_events_applied_total", &[("origin", EU)]), 2.0);
    assert_eq!(there.value("hubweave_events_accepted_total", &[]), 0.0);
    // What came over a link is not sent on.
    assert_eq!(there.sum("hubweave_events_forwarded_total", &[]), 0.0);
    assert!(there.value("hubweave_events_skipped_total", &[("reason", "foreign")]) >= 2.0);
}

#[test]
fn probes_answer_and_draining_is_told() {
    let cluster = Cluster::start_with(2, "");
    let admin = cluster.region(EU).admin;
    for path in ["/livez", "/readyz"] {
        Request::get(path).send(admin).expect_status(200);
    }
    // It asks the others first what was decided meanwhile.
    until(PATIENCE, "users to be sent here", || Request::get("/region/health").is_ok(admin));
    let health = Request::get("/region/health").send(admin).expect_status(200).json();
    assert_eq!((&health["region"], &health["healthy"], &health["state"]), (&json!(EU), &json!(true), &json!("active")));
    assert!(health["reason"].is_string());
    // Lag is told and never decides.
    cluster.kill_agent(US);
    cluster.publish(EU, "waits", "{}");
    Request::get("/region/health").send(admin).expect_status(200);
    Request::post("/v1/drain", "{}").send(admin).expect_status(200);
    let health = Request::get("/region/health").send(admin).expect_status(503).json();
    assert_eq!((&health["healthy"], &health["state"]), (&json!(false), &json!("draining")), "{health}");
    assert_eq!(cluster.metrics(EU).value("hubweave_region_state", &[("state", "draining")]), 1.0);
    Request::get("/livez").send(admin).expect_status(200);
    let entries = json!([{ "Source": "shop", "DetailType": "Order", "Detail": "{}" }]);
    let refused = Request::put_events(&entries).send(cluster.region(EU).api).expect_status(503);
    assert!(refused.headers.iter().any(|(name, _)| name == "retry-after"), "{:?}", refused.headers);
}

#[test]
fn the_health_listener_has_the_probes_alone() {
    let port = crate::harness::free_port();
    let cluster = Cluster::describe(1, "");
    let text = std::fs::read_to_string(&cluster.file).expect("the file");
    std::fs::write(&cluster.file, text.replace("\napi = ", &format!("\nhealth = \"127.0.0.1:{port}\"\napi = ")))
        .expect("writable");
    cluster.start_agent(EU);
    cluster.wait_ready();
    for path in ["/livez", "/readyz", "/region/health"] {
        Request::get(path).send(port).expect_status(200);
    }
    for path in ["/metrics", "/v1/status", "/v1/keys", "/"] {
        Request::get(path).send(port).expect_status(404);
    }
}
