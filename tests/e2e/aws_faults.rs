//! What AWS and the network before it do to two regions, and what is promised all the same.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use crate::{
    harness::{
        EU, Metrics, PATIENCE, Request, US,
        aws::{AwsCluster, call},
        gate::{Fate, Gate, Rule},
        until,
    },
    ministack::MiniStack,
};

/// A link that does not wait long for what does not come.
const IMPATIENT: &str = "[replication]\nattempt_timeout = \"2s\"\nretry_max = \"1s\"\n";

fn keys(what: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{what}-{n}")).collect()
}

fn metrics(admin: u16) -> Metrics {
    Metrics::parse(&Request::get("/metrics").send(admin).expect_status(200).text())
}

/// The second region's services, as the first region's agents reach them.
fn way_to_the_peer(gate: &Gate) -> String {
    let way = gate.url();
    format!("endpoints = {{ \"{EU}\" = {{ events = \"{way}\", dynamodb = \"{way}\" }} }}")
}

fn repeated(seen: &BTreeMap<String, Vec<Value>>) -> usize {
    seen.values().map(|events| events.len() - 1).sum()
}

#[test]
fn throttling_internal_errors_resets_and_lost_answers_lose_nothing_and_repeats_are_counted() {
    let gate = Gate::to(MiniStack::get().port);
    let mut cluster = AwsCluster::describe_at(&gate.url(), IMPATIENT, "").provision();
    let (_, admin) = cluster.start_agent(EU);
    let rule = |text, every, fate| Rule { text, every, fate };
    gate.spoil(&[
        rule("AWSEvents.PutEvents", 9, Fate::AnswerLost),
        rule("AWSEvents.PutEvents", 5, Fate::Answered(400, "ThrottlingException")),
        rule("AWSEvents.PutEvents", 7, Fate::Answered(500, "InternalException")),
        rule("BatchExecuteStatement", 5, Fate::Answered(400, "ProvisionedThroughputExceededException")),
        rule("BatchExecuteStatement", 7, Fate::Answered(500, "InternalServerError")),
        rule("BatchExecuteStatement", 11, Fate::AnswerLost),
        rule("AmazonSQS.ReceiveMessage", 6, Fate::Reset),
        rule("AmazonSQS.ReceiveMessage", 7, Fate::AnswerLost),
        rule("AmazonSQS.DeleteMessageBatch", 4, Fate::Answered(503, "ServiceUnavailable")),
        rule("AmazonSQS.DeleteMessageBatch", 5, Fate::AnswerLost),
        rule("DynamoDB", 10, Fate::Slow(Duration::from_millis(300))),
    ]);
    let expected = keys("spoiled", 300);
    let mut seen: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for some in expected.chunks(30) {
        cluster.publish(EU, some);
        cluster.drain_sink(US, &mut seen);
    }
    until(PATIENCE * 4, "everything to arrive in spite of it all", || {
        cluster.drain_sink(US, &mut seen);
        seen.len() == expected.len()
    });
    gate.spoil(&[]);
    until(PATIENCE * 2, "the link to be well, and its feed empty", || {
        let status = Request::get("/v1/status").send(admin).expect_status(200).json();
        status["links"][0]["state"] == "active" && metrics(admin).sum("hubweave_events_forwarded_total", &[]) >= 300.0
    });
    cluster.drain_sink(US, &mut seen);
    let metrics = metrics(admin);
    for outcome in ["throttled", "failed", "unanswered"] {
        assert!(metrics.sum("hubweave_aws_requests_total", &[("outcome", outcome)]) > 0.0, "none was {outcome}");
    }
    let (repeated, counted) = (repeated(&seen), metrics.sum("hubweave_possible_repeats_total", &[("peer", US)]));
    assert!(repeated as f64 <= counted, "{repeated} repeated, {counted} counted");
    for (key, events) in &seen {
        assert!(events.iter().all(|event| event["detail"]["hubweave"]["key"] == key.as_str()));
    }
    assert_eq!(metrics.sum("hubweave_dead_letters", &[("peer", US)]), 0.0);
    println!("300 events through AWS's faults: lost 0, repeated {repeated}, counted as possible {counted}");
}

#[test]
fn what_producers_publish_again_in_the_other_region_is_one_event_there() {
    let gate = Gate::to(MiniStack::get().port);
    let mut cluster = AwsCluster::describe_with(IMPATIENT, &way_to_the_peer(&gate)).provision();
    let (_, eu) = cluster.start_agent(EU);
    let (_, us) = cluster.start_agent(US);
    // The regions are parted; producers do not know what became of their events, and go to the other region.
    gate.cut();
    let moved = keys("moved", 25);
    cluster.publish(EU, &moved);
    cluster.publish(US, &moved);
    until(PATIENCE, "the other region to know the keys", || {
        metrics(us).value("hubweave_local_entries_total", &[("result", "new")]) >= 25.0
    });
    gate.heal();
    let to_us = |result| metrics(eu).value("hubweave_events_forwarded_total", &[("peer", US), ("result", result)]);
    until(PATIENCE * 4, "the first region's events to be known for duplicates", || to_us("duplicate") == 25.0);
    let mut at_us: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    cluster.drain_sink(US, &mut at_us);
    assert_eq!((at_us.len(), repeated(&at_us)), (25, 0), "one effect for each key");
    assert!(at_us.values().flatten().all(|event| event["detail"].get("hubweave").is_none()), "the region's own");
    assert_eq!(to_us("delivered"), 0.0);
    // And back: what was published in the other region comes home as a duplicate as well.
    let to_eu = || metrics(us).value("hubweave_events_forwarded_total", &[("peer", EU), ("result", "duplicate")]);
    until(PATIENCE * 4, "the second region's events to be known at home", || to_eu() == 25.0);
    let mut at_eu: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    cluster.drain_sink(EU, &mut at_eu);
    assert_eq!((at_eu.len(), repeated(&at_eu)), (25, 0));
    println!("25 keys published in both regions: one event for each in each, 50 duplicates suppressed");
}

#[test]
fn doctor_names_the_permission_that_is_missing_and_the_endpoint_that_is_another_regions() {
    let gate = Gate::to(MiniStack::get().port);
    let cluster = AwsCluster::describe_at(&gate.url(), "", "").provision();
    let doctor = || cluster.run(&["doctor", "--region", EU, "--json"]).expect_code(1).document();
    let missing = |report: &Value| -> Vec<String> {
        let findings = report["findings"].as_array().expect("findings").iter();
        let missing = findings.filter(|finding| finding["verdict"] == "missing");
        missing.map(|finding| format!("{}: {} -> {}", finding["what"], finding["detail"], finding["remedy"])).collect()
    };
    let denied = |text| Rule { text, every: 1, fate: Fate::Answered(400, "AccessDeniedException") };
    gate.spoil(&[
        denied("AWSEvents.PutEvents"),
        denied("AmazonSQS.ReceiveMessage"),
        denied("DynamoDB_20120810.PutItem"),
    ]);
    let found = missing(&doctor());
    let name = &cluster.name;
    for expected in [
        format!("allow `events:PutEvents` on arn:aws:events:{EU}:000000000000:event-bus/{name}"),
        format!("allow `sqs:ReceiveMessage` on arn:aws:sqs:{EU}:000000000000:{name}-{EU}-to-{US}"),
        format!("allow `dynamodb:PutItem` on arn:aws:dynamodb:{EU}:000000000000:table/{name}-{EU}-ledger"),
        format!("allow `events:PutEvents` on arn:aws:events:{US}:000000000000:event-bus/{name}"),
    ] {
        assert!(found.iter().any(|finding| finding.contains(&expected)), "{expected}: {found:#?}");
    }

    // A bus of the same name is there, so nothing else would tell.
    let elsewhere = "eu-central-2";
    call("events", elsewhere, "AWSEvents.CreateEventBus", &json!({ "Name": name }));
    gate.spoil(&[Rule { text: "AWSEvents.", every: 1, fate: Fate::Elsewhere(EU, elsewhere) }]);
    let found = missing(&doctor());
    let says = format!("the endpoint answers for {elsewhere}, the file says {EU}");
    assert!(found.iter().any(|finding| finding.contains(&says)), "{found:#?}");
    let refused = cluster.run(&["run", "--region", EU]).expect_code(1);
    assert!(refused.stderr.contains(&format!("answers for {elsewhere}")), "{}", refused.stderr);
}

#[test]
fn no_agent_starts_towards_a_bus_that_is_not_there_or_without_its_dead_letter_queues() {
    let cluster = AwsCluster::provisioned("");
    let name = &cluster.name;
    call("events", US, "AWSEvents.DeleteEventBus", &json!({ "Name": name }));
    let refused = cluster.run(&["run", "--region", EU]).expect_code(1);
    let remedy = format!("hub {name} of {US} is not there: `hubweave provision --region {US} --apply`");
    assert!(refused.stderr.contains(&remedy), "{}", refused.stderr);
    let doctor = cluster.run(&["doctor", "--region", EU]).expect_code(1);
    assert!(doctor.stdout.contains(&format!("there is no such event bus in {US}")), "{}", doctor.stdout);
    cluster.run(&["provision", "--region", US, "--apply"]).expect_code(0);
    cluster.run(&["doctor", "--region", EU]).expect_code(0);

    let feed = format!("{name}-{EU}-to-{US}");
    let target = json!({ "Id": "feed", "Arn": format!("arn:aws:sqs:{EU}:000000000000:{feed}") });
    let without = json!({ "Rule": feed, "EventBusName": name, "Targets": [target] });
    call("events", EU, "AWSEvents.PutTargets", &without);
    let attributes = json!({ "MessageRetentionPeriod": "1209600" });
    let url = format!("{}/000000000000/{feed}", MiniStack::get().url());
    let longer = json!({ "QueueUrl": url, "Attributes": attributes });
    call("sqs", EU, "AmazonSQS.SetQueueAttributes", &longer);
    let refused = cluster.run(&["run", "--region", EU]).expect_code(1);
    for expected in ["dead-letter queue is not set", "MessageRetentionPeriod is 1209600"] {
        assert!(refused.stderr.contains(expected), "{}", refused.stderr);
    }
    let doctor = cluster.run(&["doctor", "--region", EU]).expect_code(1);
    for expected in ["dead-letter queue is not set", "MessageRetentionPeriod is 1209600"] {
        assert!(doctor.stdout.contains(expected), "{}", doctor.stdout);
    }
}
