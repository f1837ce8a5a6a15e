use super::*;

#[test]
fn bounded_families_are_there_from_the_start() {
    let text = Metrics::new("a", &["b".to_owned()]).unwrap().text();
    for line in [
        r#"hubweave_events_accepted_total{region="a"} 0"#,
        r#"hubweave_events_forwarded_total{peer="b",result="duplicate",region="a"} 0"#,
        r#"hubweave_link_state{peer="b",state="active",region="a"} 1"#,
        r#"hubweave_region_state{state="active",region="a"} 1"#,
        r#"hubweave_replication_lag_seconds_count{peer="b",stream="heartbeat",region="a"} 0"#,
        r#"hubweave_dead_letters{peer="b",region="a"} 0"#,
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

/// Two deliveries, of which the slower one has a trace.
fn delivered() -> Metrics {
    let metrics = Metrics::new("a", &["b".to_owned()]).unwrap();
    let (link, at) = (metrics.link("b"), Timestamp::from_millis(1_500));
    link.observe_lag(false, Duration::from_millis(2), None, at);
    link.observe_lag(false, Duration::from_millis(40), Some("5f".to_owned()), at);
    metrics
}

#[test]
fn open_metrics_has_the_same_series_and_exemplars() {
    let metrics = delivered();
    let text = metrics.open_metrics();
    for line in [
        "# TYPE hubweave_events_accepted counter",
        r#"hubweave_events_accepted_total{region="a"} 0"#,
        r#"hubweave_replication_lag_seconds_bucket{peer="b",stream="events",region="a",le="0.03"} 1"#,
        r#"hubweave_replication_lag_seconds_bucket{peer="b",stream="events",region="a",le="0.05"} 2 # {trace_id="5f"} 0.04 1.5"#,
        r#"hubweave_replication_lag_seconds_bucket{peer="b",stream="events",region="a",le="+Inf"} 2"#,
        r#"hubweave_replication_lag_seconds_sum{peer="b",stream="events",region="a"} 0.042"#,
    ] {
        assert!(text.lines().any(|is| is == line), "{line}\n{text}");
    }
    assert!(text.ends_with("\n# EOF\n"));
    let series = |text: &str| -> Vec<String> {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let mut names: Vec<String> =
            samples.map(|line| line.rsplit_once("} ").map_or(line, |(name, _)| name).to_owned()).collect();
        names.sort();
        names.retain(|name| !name.contains("trace_id"));
        names
    };
    let without: Metrics = Metrics::new("a", &["b".to_owned()]).unwrap();
    assert_eq!(series(&without.open_metrics()), series(&without.text()));
}

#[test]
fn a_push_has_counts_of_each_bucket_and_what_traces_belong_to() {
    let resource =
        otlp::Resource { region: "a".to_owned(), instance: "a-1".to_owned(), started: Timestamp::from_millis(1_000) };
    let text = delivered().otlp(&resource, Timestamp::from_millis(2_000));
    let pushed: serde_json::Value = serde_json::from_str(&text).unwrap();
    let of = &pushed["resourceMetrics"][0];
    assert_eq!(of["resource"]["attributes"][3], serde_json::json!({"key":"cloud.region","value":{"stringValue":"a"}}));
    let metrics = of["scopeMetrics"][0]["metrics"].as_array().unwrap();
    let named = |name: &str| metrics.iter().find(|metric| metric["name"] == name).unwrap();
    let sum = &named("hubweave_events_accepted_total")["sum"];
    assert_eq!((&sum["isMonotonic"], &sum["aggregationTemporality"]), (&true.into(), &2.into()));
    assert_eq!(sum["dataPoints"][0]["startTimeUnixNano"], "1000000000");
    assert_eq!(sum["dataPoints"][0]["timeUnixNano"], "2000000000");
    let lag = &named(LAG)["histogram"]["dataPoints"];
    let is_events = |point: &&serde_json::Value| point["attributes"].to_string().contains("\"events\"");
    let point = lag.as_array().unwrap().iter().find(is_events).unwrap();
    let counts: Vec<u64> =
        point["bucketCounts"].as_array().unwrap().iter().map(|n| n.as_str().unwrap().parse().unwrap()).collect();
    assert_eq!((counts.len(), counts.iter().sum::<u64>(), &point["count"]), (LAG_BUCKETS.len() + 1, 2, &"2".into()));
    assert_eq!(point["explicitBounds"].as_array().unwrap().len(), LAG_BUCKETS.len());
    assert_eq!(point["exemplars"][0]["traceId"], "5f");
}
