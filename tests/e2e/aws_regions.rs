//! Two regions on EventBridge, SQS and DynamoDB, as an emulator has them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::{
    EU, Metrics, PATIENCE, Request, US,
    aws::{AwsCluster, call},
    finish, free_port,
    gate::Gate,
    until,
};
use crate::ministack::MiniStack;

fn keys(what: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{what}-{n}")).collect()
}

#[test]
fn provision_makes_what_is_absent_once_and_doctor_is_content() {
    let cluster = AwsCluster::describe("");
    let before = cluster.run(&["provision", "--region", EU, "--diff", "--json"]).expect_code(1).document();
    let found = |report: &Value, what: &str| {
        let changes = report["changes"].as_array().expect("changes");
        changes.iter().filter(|change| change["found"] == what).count()
    };
    let all = before["changes"].as_array().expect("changes").len();
    assert_eq!(found(&before, "absent"), all);

    // Without its peer, which is not there yet.
    let made = cluster.run(&["provision", "--region", EU, "--apply", "--json"]).expect_code(0).document();
    assert!(made["changes"].as_array().expect("changes").iter().all(|change| change["done"] == "made"), "{made}");
    let again = cluster.run(&["provision", "--region", EU, "--apply", "--json"]).expect_code(0).document();
    assert_eq!(found(&again, "as planned"), all, "{again}");

    let doctor = cluster.run(&["doctor", "--region", EU, "--json"]).expect_code(1).document();
    let missing: Vec<&Value> = doctor["findings"]
        .as_array()
        .expect("findings")
        .iter()
        .filter(|finding| finding["verdict"] == "missing")
        .collect();
    assert!(missing.iter().all(|finding| finding["what"].as_str().expect("text").starts_with("peer us-east-1")));
    assert!(missing[0]["remedy"].as_str().expect("a remedy").contains("provision --region us-east-1"), "{missing:?}");

    cluster.run(&["provision", "--region", US, "--apply"]).expect_code(0);
    let doctor = cluster.run(&["doctor", "--json"]).expect_code(0).document();
    assert_eq!(doctor["healthy"], true);

    let gone = cluster.run(&["provision", "--region", EU, "--destroy", "--json"]).expect_code(0).document();
    assert!(gone["changes"].as_array().expect("changes").iter().all(|change| change["done"] == "removed"), "{gone}");
    let after = cluster.run(&["provision", "--region", EU, "--diff", "--json"]).expect_code(1).document();
    assert_eq!(found(&after, "absent"), all, "{after}");
}

#[test]
fn what_others_made_is_left_alone_and_what_differs_is_mended() {
    let cluster = AwsCluster::describe("");
    call("events", EU, "AWSEvents.CreateEventBus", &json!({ "Name": cluster.name }));
    let keys = format!("{}-{EU}-keys", cluster.name);
    call("sqs", EU, "AmazonSQS.CreateQueue", &json!({ "QueueName": keys }));
    let report = cluster.run(&["provision", "--region", EU, "--apply", "--json"]).expect_code(1).document();
    let change = |report: &Value, kind: &str, name: &str| {
        let changes = report["changes"].as_array().expect("changes").clone();
        changes.into_iter().find(|change| change["kind"] == kind && change["name"] == name).expect("a change")
    };
    let bus = change(&report, "bus", &cluster.name);
    assert_eq!((&bus["found"], &bus["done"]), (&json!("not ours"), &json!("left")));
    let queue = change(&report, "queue", &keys);
    assert_eq!(queue["done"], "left");
    assert!(queue["differences"].to_string().contains("RedrivePolicy"), "{queue}");

    // A queue without dead letters would lose events: no agent starts on it.
    let refused = cluster.run(&["run", "--region", EU]).expect_code(1);
    assert!(refused.stderr.contains("RedrivePolicy") && refused.stderr.contains("doctor"), "{}", refused.stderr);
    let doctor = cluster.run(&["doctor", "--region", EU, "--json"]).expect_code(1).document();
    assert!(doctor.to_string().contains("RedrivePolicy"));

    // A rule of ours that somebody switched off.
    let feed = format!("{}-{EU}-to-{US}", cluster.name);
    call("events", EU, "AWSEvents.DisableRule", &json!({ "Name": feed, "EventBusName": cluster.name }));
    let report = cluster.run(&["provision", "--region", EU, "--apply", "--json"]).expect_code(1).document();
    assert_eq!(change(&report, "rule", &feed)["done"], "altered");
    let gone = cluster.run(&["provision", "--region", EU, "--destroy", "--json"]).expect_code(0).document();
    assert_eq!(
        [&change(&gone, "bus", &cluster.name)["done"], &change(&gone, "queue", &keys)["done"]],
        ["left", "left"]
    );
}

#[test]
fn an_event_put_by_the_aws_cli_is_on_the_peers_bus_once_and_stamped() {
    let mut cluster = AwsCluster::provisioned("");
    let (_, admin) = cluster.start_agent(EU);
    let (us, us_admin) = cluster.start_agent(US);
    let detail = json!({ "metadata": { "idempotencyKey": "cli-1" }, "of": "cli-1", "n": 1.50 }).to_string();
    let entries = json!([{
        "Source": "app", "DetailType": "Order", "Detail": detail, "EventBusName": cluster.name,
        "Time": "2026-01-02T03:04:05Z", "Resources": ["arn:of:it"],
    }]);
    let put = cluster.aws(EU, &["events", "put-events", "--entries", &entries.to_string()]);
    let id = put["Entries"][0]["EventId"].as_str().expect("an id").to_owned();
    let mut seen = BTreeMap::new();
    until(PATIENCE, "the event to be on the peer's bus", || {
        cluster.drain_sink(US, &mut seen);
        seen.contains_key("cli-1")
    });
    let event = seen["cli-1"][0].clone();
    assert_eq!((&event["source"], &event["region"], &event["detail"]["n"]), (&json!("app"), &json!(US), &json!(1.5)));
    assert_eq!((&event["time"], &event["resources"]), (&json!("2026-01-02T03:04:05Z"), &json!(["arn:of:it"])));
    let stamp = &event["detail"]["hubweave"];
    assert_eq!((&stamp["origin"], &stamp["id"], &stamp["key"]), (&json!(EU), &json!(id), &json!("cli-1")));
    assert_eq!((&stamp["sequence"], &stamp["hops"]), (&Value::Null, &json!(1)));

    // The same business event again, and once more in the other region, as after a failover.
    cluster.publish(EU, &["cli-1".to_owned(), "after".to_owned()]);
    until(PATIENCE, "a later event to be on the peer's bus", || {
        cluster.drain_sink(US, &mut seen);
        seen.contains_key("after")
    });
    let metrics = |admin: u16| Metrics::parse(&Request::get("/metrics").send(admin).expect_status(200).text());
    let to_us = |result| [("peer", US), ("result", result)];
    until(PATIENCE, "the repeat to be suppressed or refused", || {
        let metrics = metrics(admin);
        let settled =
            ["duplicate", "rejected"].map(|result| metrics.value("hubweave_events_forwarded_total", &to_us(result)));
        settled.iter().sum::<f64>() == 1.0
    });
    assert_eq!(seen["cli-1"].len(), 1);
    let mut at_home = BTreeMap::new();
    cluster.drain_sink(EU, &mut at_home);
    assert!(at_home["cli-1"].iter().all(|event| event["detail"].get("hubweave").is_none()), "nothing comes back");

    let requests = metrics(admin).sum("hubweave_aws_requests_total", &[("operation", "PutEvents"), ("outcome", "ok")]);
    assert!(requests >= 2.0);
    until(PATIENCE, "a heartbeat to arrive", || {
        metrics(us_admin).value("hubweave_heartbeat_received_timestamp_seconds", &[("origin", EU)]) > 0.0
    });
    until(PATIENCE, "the arrivals to be looked at", || {
        metrics(us_admin).value("hubweave_events_applied_total", &[("origin", EU)]) >= 2.0
    });
    let status = Request::get("/v1/status").send(admin).expect_status(200).json();
    assert_eq!(
        (&status["region"], &status["state"], &status["links"][0]["peer"]),
        (&json!(EU), &json!("active"), &json!(US))
    );
    assert_eq!(cluster.stop_agent(us), Some(0));
}

#[test]
fn killing_one_of_two_agents_under_load_loses_nothing() {
    let mut cluster = AwsCluster::provisioned("");
    let (first, _) = cluster.start_agent(EU);
    let (_, admin) = cluster.start_agent(EU);
    let expected = keys("load", 600);
    let mut seen: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (round, keys) in expected.chunks(50).enumerate() {
        cluster.publish(EU, keys);
        if round == 4 {
            cluster.kill_agent(first);
        }
        cluster.drain_sink(US, &mut seen);
    }
    until(PATIENCE * 4, "everything to be on the peer's bus", || {
        cluster.drain_sink(US, &mut seen);
        seen.len() >= expected.len()
    });
    let lost: Vec<&String> = expected.iter().filter(|key| !seen.contains_key(*key)).collect();
    assert_eq!(lost, Vec::<&String>::new());
    let repeated: usize = seen.values().map(|events| events.len() - 1).sum();
    // A repeat has the same key, and only what the killed agent had on its way can be one.
    assert!(repeated <= 50, "{repeated} repeated");
    for (key, events) in &seen {
        assert!(events.iter().all(|event| event["detail"]["hubweave"]["key"] == key.as_str()));
    }
    // The one that was killed has lost its counts; whoever takes a claim of his over counts for him.
    let metrics = Metrics::parse(&Request::get("/metrics").send(admin).expect_status(200).text());
    let counted = metrics.sum("hubweave_possible_repeats_total", &[("peer", US)]);
    assert!(repeated as f64 <= counted, "{repeated} repeated, {counted} counted");
    println!("600 events, one of two agents killed: lost 0, repeated {repeated}, counted as possible {counted}");
    let status = Request::get("/v1/status").send(admin).expect_status(200).json();
    assert_eq!(status["links"][0]["dead_letters"], 0);
}

#[test]
fn a_peer_in_a_black_hole_is_left_alone_and_caught_up_with_once_it_is_back() {
    let gate = Gate::to(MiniStack::get().port);
    let way = format!("http://127.0.0.1:{}", gate.port);
    // Only calls from the other region go through the gate, as through an interface endpoint of its own.
    let endpoints = format!("endpoints = {{ \"{EU}\" = {{ events = \"{way}\", dynamodb = \"{way}\" }} }}");
    let patience = "[replication]\nattempt_timeout = \"1s\"\nretry_max = \"1s\"\n";
    let mut cluster = AwsCluster::describe_with(patience, &endpoints).provision();
    let (_, admin) = cluster.start_agent(EU);
    let mut seen: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    cluster.publish(EU, &keys("before", 30));
    until(PATIENCE, "the first events to arrive", || {
        cluster.drain_sink(US, &mut seen);
        seen.len() == 30
    });
    gate.cut();
    cluster.publish(EU, &keys("during", 100));
    let state = || Request::get("/v1/status").send(admin).expect_status(200).json()["links"][0]["state"].clone();
    until(PATIENCE * 2, "the link to leave the peer alone", || state() == "retrying");
    cluster.drain_sink(US, &mut seen);
    let held_up = 130 - seen.len();
    assert!(held_up > 0, "nothing was cut");
    gate.heal();
    until(PATIENCE * 4, "everything to arrive without anybody's help", || {
        cluster.drain_sink(US, &mut seen);
        seen.len() == 130
    });
    until(PATIENCE, "the link to be well", || state() == "active");
    let metrics = Metrics::parse(&Request::get("/metrics").send(admin).expect_status(200).text());
    assert!(metrics.sum("hubweave_aws_requests_total", &[("outcome", "unanswered")]) > 0.0);
    let repeated: usize = seen.values().map(|events| events.len() - 1).sum();
    let counted = metrics.sum("hubweave_possible_repeats_total", &[("peer", US)]);
    assert!(repeated as f64 <= counted, "{repeated} repeated, {counted} counted");
    println!("a black hole held up {held_up} events: lost 0, repeated {repeated}, counted as possible {counted}");
}

#[test]
fn a_peer_with_an_account_of_its_own_is_entered_by_its_role() {
    let role = "role_arn = \"arn:aws:iam::222222222222:role/hubweave\"\nexternal_id = \"shared\"";
    let mut cluster = AwsCluster::describe_with("", role).provision();
    let doctor = cluster.run(&["doctor", "--region", EU, "--json"]).expect_code(0).document();
    assert!(doctor.to_string().contains("assumed-role/hubweave/hubweave-eu-central-1 in account 222222222222"));
    let policies = cluster.run(&["provision", "--region", US, "--format", "iam"]).expect_code(0).document();
    assert!(policies["agent"].to_string().contains(":222222222222:table/"));
    cluster.start_agent(EU);
    cluster.publish(EU, &keys("across", 20));
    let mut seen = BTreeMap::new();
    until(PATIENCE, "the events to be on the bus of the other account", || {
        cluster.drain_sink(US, &mut seen);
        seen.len() == 20
    });
    assert!(seen.values().flatten().all(|event| event["account"] == "222222222222"));
}

#[test]
fn publishing_through_the_agent_claims_the_key_first() {
    let mut cluster = AwsCluster::provisioned("");
    let api = free_port();
    cluster.start_agent_with(EU, &["--api", &format!("127.0.0.1:{api}")]);
    let entry = |n: u32| {
        let detail = json!({ "metadata": { "idempotencyKey": "once" }, "of": "once", "n": n }).to_string();
        json!({ "Source": "app", "DetailType": "Order", "Detail": detail, "EventBusName": cluster.name })
    };
    let put = |entries: Value| Request::put_events(&entries).send(api).expect_status(200).json();
    let first = put(json!([entry(1), { "Source": "app", "DetailType": "Order", "Detail": "no JSON" }]));
    assert_eq!(first["FailedEntryCount"], 1, "{first}");
    assert_eq!(first["Entries"][1]["ErrorCode"], "MalformedDetail");
    let id = first["Entries"][0]["EventId"].as_str().expect("an id").to_owned();
    let again = put(json!([entry(1), entry(2)]));
    assert_eq!(again["Entries"][0]["EventId"], id.as_str(), "the first one's id");
    assert_eq!(again["Entries"][1]["ErrorCode"], "IdempotencyConflict");
    let mut at_the_peer = BTreeMap::new();
    until(PATIENCE, "the event to be on the peer's bus", || {
        cluster.drain_sink(US, &mut at_the_peer);
        at_the_peer.contains_key("once")
    });
    let mut at_home = BTreeMap::new();
    cluster.drain_sink(EU, &mut at_home);
    assert_eq!([at_home["once"].len(), at_the_peer["once"].len()], [1, 1]);
    assert_eq!(at_the_peer["once"][0]["detail"]["hubweave"]["id"], id.as_str());
    assert_eq!(Request::get("/v1/events").send(api).status, 404, "what is not built is absent");
}

#[test]
fn a_pause_holds_for_every_agent_of_the_region_and_ends_with_resume() {
    let mut cluster = AwsCluster::provisioned("");
    let (_, one) = cluster.start_agent(EU);
    let (_, other) = cluster.start_agent(EU);
    let order = |what: &str| Request::post(&format!("/v1/links/{US}/{what}"), "").send(one).expect_status(200);
    let state = |admin: u16| {
        let status = Request::get("/v1/status").send(admin).expect_status(200).json();
        status["links"][0]["state"].as_str().expect("a state").to_owned()
    };
    order("pause");
    until(PATIENCE, "both agents to pause", || [one, other].iter().all(|admin| state(*admin) == "paused"));
    cluster.publish(EU, &keys("paused", 3));
    order("resume");
    let mut seen = BTreeMap::new();
    until(PATIENCE * 2, "what was published meanwhile to arrive", || {
        cluster.drain_sink(US, &mut seen);
        seen.len() == 3
    });
    assert_eq!(Request::post("/v1/links/nowhere/pause", "").send(one).status, 404);
}

#[test]
fn an_event_with_an_inherited_stamp_is_an_event_of_its_region() {
    let mut cluster = AwsCluster::provisioned("");
    cluster.start_agent(EU);
    let copied = json!({
        "of": "copied", "metadata": { "idempotencyKey": "copied" },
        "hubweave": { "origin": US, "id": "x", "account": "0", "key": "other", "hash": "00", "sequence": null,
                      "time": "2026-01-01T00:00:00Z", "hops": 1 },
    });
    let entry =
        json!({ "Source": "app", "DetailType": "Copy", "Detail": copied.to_string(), "EventBusName": cluster.name });
    call("events", EU, "AWSEvents.PutEvents", &json!({ "Entries": [entry] }));
    let mut seen = BTreeMap::new();
    until(PATIENCE, "the copy to be on the peer's bus", || {
        cluster.drain_sink(US, &mut seen);
        seen.contains_key("copied")
    });
    let stamp = &seen["copied"][0]["detail"]["hubweave"];
    assert_eq!((&stamp["origin"], &stamp["key"]), (&json!(EU), &json!("copied")));
}

#[test]
fn text_for_other_tools_and_the_bill_need_no_aws() {
    let cluster = AwsCluster::describe("");
    let command = |arguments: &[&str]| {
        let mut command = cluster.command(arguments);
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        finish(&mut command, PATIENCE).expect_code(0)
    };
    let terraform = command(&["provision", "--region", EU]).document();
    assert!(terraform["resource"]["aws_sqs_queue"].as_object().expect("queues").len() >= 6);
    let template = command(&["provision", "--region", EU, "--format", "cloudformation"]).document();
    assert_eq!(template["AWSTemplateFormatVersion"], "2010-09-09");
    let file = cluster.path("template.json");
    std::fs::write(&file, template.to_string()).expect("written");
    let lint = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/cfn-lint");
    assert!(lint.exists(), "{} is not there: run `make tools`", lint.display());
    finish(std::process::Command::new(lint).arg(file), PATIENCE * 2).expect_code(0);
    let bill = command(&["cost", "--rate", "100", "--json"]).document();
    let items = bill["items"].as_array().expect("items");
    let sum: f64 = items.iter().map(|item| item["dollars"].as_f64().expect("dollars")).sum();
    assert!((bill["month_dollars"].as_f64().expect("a sum") - sum).abs() < 1e-6);
    assert!(command(&["cost", "--rate", "100"]).stdout.contains("not counted"));
}
