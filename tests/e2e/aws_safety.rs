//! What `doctor` finds and `run` refuses, and what becomes of events when a queue's answers are lost.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use crate::{
    harness::{
        EU, Metrics, PATIENCE, Request, US,
        aws::{AwsCluster, call},
        free_port,
        gate::{Fate, Gate, Rule},
        until,
    },
    ministack::MiniStack,
};

#[test]
fn a_queue_whose_answers_are_lost_or_late_loses_nothing() {
    let gate = Gate::to(MiniStack::get().port);
    let patience = "[replication]\nattempt_timeout = \"2s\"\nretry_max = \"1s\"\n";
    let mut cluster = AwsCluster::describe_at(&gate.url(), patience, "").provision();
    let (_, admin) = cluster.start_agent(EU);
    let rule = |text, every, fate| Rule { text, every, fate };
    gate.spoil(&[
        rule("AmazonSQS.ReceiveMessage", 5, Fate::AnswerLost),
        rule("AmazonSQS.ReceiveMessage", 6, Fate::Reset),
        rule("AmazonSQS.DeleteMessageBatch", 4, Fate::AnswerLost),
        rule("AmazonSQS.DeleteMessageBatch", 5, Fate::Answered(503, "ServiceUnavailable")),
        rule("DynamoDB", 6, Fate::Slow(Duration::from_millis(300))),
    ]);
    let expected: Vec<String> = (0..200).map(|n| format!("spoiled-{n}")).collect();
    let mut seen: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for some in expected.chunks(20) {
        cluster.publish(EU, some);
        cluster.drain_sink(US, &mut seen);
    }
    // What an answer that was lost held is hidden for its 20 seconds.
    until(PATIENCE * 4, "everything to arrive in spite of it all", || {
        cluster.drain_sink(US, &mut seen);
        seen.len() == expected.len()
    });
    let metrics = Metrics::parse(&Request::get("/metrics").send(admin).expect_status(200).text());
    for outcome in ["failed", "unanswered"] {
        let calls = metrics.sum("hubweave_aws_requests_total", &[("service", "sqs"), ("outcome", outcome)]);
        assert!(calls > 0.0, "none was {outcome}");
    }
    // What a queue repeats is known by its key.
    let repeated: usize = seen.values().map(|events| events.len() - 1).sum();
    let counted = metrics.sum("hubweave_possible_repeats_total", &[("peer", US)]);
    assert!(repeated as f64 <= counted, "{repeated} repeated, {counted} counted");
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

#[test]
fn probes_ask_for_no_token_and_operators_do_also_with_two_agents_on_a_host() {
    let mut cluster = AwsCluster::provisioned("[auth]\nadmin_token = \"of-operators\"\n");
    let probes = [free_port(), free_port()];
    let agents = probes.map(|port| cluster.start_agent_with(EU, &["--health", &format!("0.0.0.0:{port}")]));
    for ((_, admin), health) in agents.into_iter().zip(probes) {
        for probe in ["/livez", "/readyz", "/region/health"] {
            Request::get(probe).send(health).expect_status(200);
        }
        for guarded in ["/metrics", "/v1/status"] {
            assert_eq!(Request::get(guarded).send(health).status, 404, "nothing but probes");
            assert_eq!(Request::get(guarded).send(admin).status, 401);
            let token = |token: &str| Request::get(guarded).header("authorization", token).send(admin).status;
            assert_eq!((token("Bearer of-operators"), token("Bearer of-others")), (200, 401));
        }
    }

    // Away from loopback nobody listens for operators without a token.
    let cluster = AwsCluster::provisioned("");
    let refused = cluster.run(&["run", "--region", EU, "--admin", &format!("0.0.0.0:{}", free_port())]).expect_code(1);
    assert!(refused.stderr.contains("admin_token"), "{}", refused.stderr);
}
