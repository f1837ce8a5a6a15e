//! Documents of regions on AWS: in a table of DynamoDB, changed by any agent, equal everywhere in the end.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use serde_json::{Value, json};

use crate::harness::{
    EU, Metrics, PATIENCE, Request, US,
    aws::{AwsCluster, call},
    free_port, until,
};

const TYPES: &str = "[replication]\nretry_min = \"50ms\"\nretry_max = \"500ms\"\n[faults]\nenabled = true\n\
                     [state.profile]\nlanguage = \"register\"\nplays = \"counter\"\nwatchlist = \"set\"\n";

/// An agent with an `api` listener.
#[derive(Clone, Copy)]
struct Agent {
    number: usize,
    admin: u16,
    api: u16,
}

impl Agent {
    /// The one that commands find.
    fn first(cluster: &mut AwsCluster, region: &str) -> Agent {
        let api = free_port();
        let (number, admin) = cluster.start_first_agent(region, &["--api", &format!("127.0.0.1:{api}")]);
        Agent { number, admin, api }
    }

    fn another(cluster: &mut AwsCluster, region: &str) -> Agent {
        let api = free_port();
        let (number, admin) = cluster.start_agent_with(region, &["--api", &format!("127.0.0.1:{api}")]);
        Agent { number, admin, api }
    }

    #[track_caller]
    fn apply(self, id: &str, ops: &Value) -> Value {
        post(id, ops).send(self.api).expect_status(200).json()
    }

    fn value(self, id: &str) -> Value {
        let answer = Request::get(&path(id)).send(self.api);
        if answer.status == 404 { Value::Null } else { answer.expect_status(200).json()["value"].clone() }
    }

    fn sum(self, name: &str) -> f64 {
        Metrics::parse(&Request::get("/metrics").send(self.admin).expect_status(200).text()).sum(name, &[])
    }

    /// Cuts the way to the peer, or gives it back.
    fn cut(self, cluster: &AwsCluster, region: &str, peer: &str) {
        cluster.run(&["fault", "inject", "--region", region, "--peer", peer, "--kind", "partition"]).expect_code(0);
    }
}

fn path(id: &str) -> String {
    format!("/v1/state/profile/{id}")
}

fn post(id: &str, ops: &Value) -> Request {
    Request::post(&path(id), json!({ "ops": ops }).to_string()).header("content-type", "application/json")
}

fn plays(by: i64) -> Value {
    json!({ "field": "plays", "op": "increment", "by": by })
}

fn language(value: &str) -> Value {
    json!({ "field": "language", "op": "set", "value": value })
}

fn settle(agents: &[Agent], id: &str, value: &Value) {
    until(PATIENCE * 3, &format!("{id} to be {value} everywhere"), || {
        agents.iter().all(|agent| agent.value(id) == *value)
    });
}

#[test]
fn what_two_regions_did_while_they_were_cut_off_is_in_both_and_verify_proves_it() {
    let mut cluster = AwsCluster::provisioned(TYPES);
    cluster.run(&["doctor"]).expect_code(0);
    let (eu, us) = (Agent::first(&mut cluster, EU), Agent::first(&mut cluster, US));
    let first = eu.apply("u1", &json!([plays(1), { "field": "watchlist", "op": "add", "value": "m1" }]));
    assert_eq!((&first["outcome"], &first["value"]["plays"]), (&json!("applied"), &json!(1)), "{first}");
    settle(&[eu, us], "u1", &json!({ "plays": 1, "watchlist": ["m1"] }));

    eu.cut(&cluster, EU, US);
    us.cut(&cluster, US, EU);
    eu.apply("u1", &json!([plays(2), language("de")]));
    us.apply("u1", &json!([plays(3), language("fr"), { "field": "watchlist", "op": "add", "value": "m2" }]));
    eu.apply("u1", &json!([{ "field": "watchlist", "op": "remove", "value": "m1" }]));
    for (agent, key) in [(eu, "once"), (us, "once")] {
        let answer = post("u2", &json!([plays(1)])).header("idempotency-key", key).send(agent.api);
        assert_eq!(answer.expect_status(200).json()["outcome"], "applied");
    }
    assert_eq!(us.value("u1")["plays"], 4, "nothing came over");
    for region in [EU, US] {
        cluster.run(&["fault", "clear", "--region", region]).expect_code(0);
    }
    settle(&[eu, us], "u1", &json!({ "plays": 6, "watchlist": ["m2"], "language": "fr" }));
    settle(&[eu, us], "u2", &json!({ "plays": 1 }));
    let conflicts = || [eu, us].map(|agent| agent.sum("hubweave_state_conflicts_total"));
    until(PATIENCE, "the conflict to be told in both regions", || conflicts() == [1.0, 1.0]);

    // By its delta, or by comparing: a delete reaches the peer.
    assert_eq!(Request::delete(&path("u2")).send(us.api).expect_status(200).json()["outcome"], "deleted");
    settle(&[eu, us], "u2", &Value::Null);
    let report = cluster.run(&["verify", "--json"]).expect_code(0).document();
    assert_eq!(report["documents"]["compared"].as_array().map_or(0, Vec::len).max(1), 1, "{report}");
    assert!(report["documents"].is_object(), "{report}");

    // A row that is lost from one table is a difference, and comes back.
    let table = format!("{}-{US}-documents", cluster.name);
    let scanned = call("dynamodb", US, "DynamoDB_20120810.Scan", &json!({ "TableName": table }));
    let items = scanned["Items"].as_array().expect("items");
    assert!(items.iter().any(|item| item["s"]["S"] == "profile/u1"), "{scanned}");
    let status = Request::get("/v1/status").send(eu.admin).expect_status(200).json();
    assert!(status["documents"].is_u64(), "{status}");
}

#[test]
fn operations_that_services_put_on_the_bus_are_done_once() {
    let mut cluster = AwsCluster::provisioned(TYPES);
    let (eu, us) = (Agent::first(&mut cluster, EU), Agent::first(&mut cluster, US));
    let entry = |key: &str| {
        let ops = json!([plays(1)]);
        let detail = json!({ "metadata": { "idempotencyKey": key }, "type": "profile", "id": "u1", "ops": ops });
        json!({ "Source": "app", "DetailType": "State Operation", "Detail": detail.to_string(),
                "EventBusName": cluster.name })
    };
    let entries: Vec<Value> = ["a", "b", "a"].map(entry).into();
    cluster.aws(EU, &["events", "put-events", "--entries", &Value::from(entries).to_string()]);
    // The same business event in the other region, as after a failover.
    cluster.aws(US, &["events", "put-events", "--entries", &json!([entry("b")]).to_string()]);
    settle(&[eu, us], "u1", &json!({ "plays": 2 }));
}

#[test]
fn agents_that_are_killed_under_load_lose_no_request_that_was_acknowledged() {
    let mut cluster = AwsCluster::provisioned(TYPES);
    let agents = [Agent::first(&mut cluster, EU), Agent::another(&mut cluster, EU), Agent::first(&mut cluster, US)];
    let acknowledged = AtomicU64::new(0);
    let unsure = AtomicU64::new(0);
    thread::scope(|scope| {
        let works: Vec<_> = (0..3)
            .map(|nth| {
                let (agent, acknowledged, unsure) = (agents[nth], &acknowledged, &unsure);
                scope.spawn(move || {
                    for number in 0..40 {
                        let key = format!("{nth}-{number}");
                        let request =
                            post(&format!("d{}", number % 5), &json!([plays(1)])).header("idempotency-key", &key);
                        match request.try_send(agent.api) {
                            Ok(answer) if answer.status == 200 => acknowledged.fetch_add(1, Ordering::Relaxed),
                            _ => unsure.fetch_add(1, Ordering::Relaxed),
                        };
                    }
                })
            })
            .collect();
        until(PATIENCE, "some of the load", || acknowledged.load(Ordering::Relaxed) > 30);
        cluster.kill_agent(agents[1].number);
        works.into_iter().for_each(|work| work.join().expect("the load"));
    });
    let (acknowledged, unsure) = (acknowledged.into_inner(), unsure.into_inner());
    assert!(unsure > 0, "the agent was killed under load");
    let [eu, _, us] = agents;
    let count = |agent: Agent| {
        let count = |nth| agent.value(&format!("d{nth}"))["plays"].as_u64().unwrap_or_default();
        (0..5).map(count).sum::<u64>()
    };
    until(PATIENCE * 3, "both regions to have the same", || {
        let counts = [count(eu), count(us)];
        counts[0] == counts[1] && counts[0] >= acknowledged
    });
    assert!(count(eu) <= acknowledged + 1, "one request at most was under way: {} of {acknowledged}", count(eu));
    cluster.run(&["verify"]).expect_code(0);
    // Whoever destroys what `provision` made leaves what users have.
    for agent in [0, 2] {
        cluster.stop_agent(agents[agent].number);
    }
    let gone = cluster.run(&["provision", "--region", EU, "--destroy", "--json"]).document();
    let changes = gone["changes"].as_array().expect("changes");
    let table = changes.iter().find(|change| change["name"] == format!("{}-{EU}-documents", cluster.name));
    assert_eq!(table.expect("the table")["done"], "left", "{gone}");
}

/// A read of the document with its sums, and a write of both.
#[test]
fn a_request_takes_two_calls_to_the_table() {
    let mut cluster = AwsCluster::provisioned(TYPES);
    let eu = Agent::first(&mut cluster, EU);
    eu.apply("u1", &json!([plays(1)]));
    let calls = || {
        let metrics = Metrics::parse(&Request::get("/metrics").send(eu.admin).expect_status(200).text());
        let count = |operation| metrics.sum("hubweave_aws_requests_total", &[("operation", operation)]);
        ["BatchGetItem", "TransactWriteItems"].map(count)
    };
    let before = calls();
    let requests = 50.0;
    for number in 0..50 {
        eu.apply(&format!("u{number}"), &json!([plays(1), language("de")]));
    }
    let after = calls();
    for (before, after) in before.into_iter().zip(after) {
        assert!(after - before >= requests && after - before <= requests + 2.0, "{before} to {after}");
    }
}
