//! Who serves users, where regions are on AWS: decided in their tables, by any agent of any region.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::harness::{EU, PATIENCE, Request, US, aws::AwsCluster, free_port, until};

/// The emulator counts at once.
const SETTLE: &str = "settle = \"3s\"\nbucket = ";

const MORE: &str = "[failover]\ncool_down = \"0s\"\n[replication]\nretry_min = \"50ms\"\nretry_max = \"500ms\"\n\
                    [state.profile]\nplays = \"counter\"\n";

fn provisioned() -> AwsCluster {
    let cluster = AwsCluster::describe(MORE);
    let text = fs::read_to_string(&cluster.file).expect("the file");
    fs::write(&cluster.file, text.replace("bucket = ", SETTLE)).expect("the file can be written");
    cluster.provision()
}

fn health(admin: u16) -> (u16, String) {
    let answer = Request::get("/region/health").send(admin);
    (answer.status, answer.json()["reason"].as_str().unwrap_or_default().to_owned())
}

fn is_healthy(admin: u16) -> bool {
    health(admin).0 == 200
}

fn play(api: u16, id: &str) -> (u16, String) {
    let ops = json!({ "ops": [{ "field": "plays", "op": "increment", "by": 1 }] }).to_string();
    let answer = Request::post(&format!("/v1/state/profile/{id}"), ops).send(api);
    (answer.status, answer.text())
}

fn order<'a>(verb: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["failover", verb, "--region", US, "--json"], more].concat()
}

#[test]
fn a_region_is_drained_and_comes_back_by_votes_in_tables() {
    let mut cluster = provisioned();
    let (eu_api, us_api) = (free_port(), free_port());
    let (_, eu) = cluster.start_first_agent(EU, &["--api", &format!("127.0.0.1:{eu_api}")]);
    let (_, us) = cluster.start_first_agent(US, &["--api", &format!("127.0.0.1:{us_api}")]);
    let (_, other) = cluster.start_agent(US);
    until(PATIENCE, "all to serve", || [eu, us, other].into_iter().all(is_healthy));
    assert_eq!(play(us_api, "u1").0, 200);
    until(PATIENCE, "a plan to find it possible", || {
        let plan = cluster.run(&order("plan", &[])).document();
        plan["possible"] == true && plan["rpo"]["kind"] == "estimated"
    });
    let done = cluster.run(&order("execute", &["--reason", "maintenance"])).expect_code(0).document();
    println!("graceful: {done}");
    assert_eq!((&done["to"], &done["rpo"]["kind"]), (&json!("evacuated"), &json!("estimated")), "{done}");
    assert_eq!((done["votes"].as_array().map(Vec::len), &done["open"]), (Some(2), &json!([])), "{done}");
    // Every agent of the region says so, and none takes anything from services.
    until(PATIENCE, "all its agents to know", || {
        [us, other].iter().all(|admin| health(*admin) == (503, "the region is evacuated".to_owned()))
    });
    assert!(is_healthy(eu));
    let (status, text) = play(us_api, "u1");
    assert!(status == 503 && text.contains("draining"), "{status} {text}");
    let entry =
        json!({ "Entries": [{ "Source": "app", "DetailType": "T", "Detail": "{}", "EventBusName": cluster.name }] });
    let put = Request::post("/", entry.to_string())
        .header("x-amz-target", "AWSEvents.PutEvents")
        .header("content-type", "application/x-amz-json-1.1");
    put.send(us_api).expect_status(503);
    let value = Request::get("/v1/state/profile/u1").send(eu_api).expect_status(200).json();
    assert_eq!(value["value"]["plays"], 1, "{value}");
    assert_eq!(play(eu_api, "u1").0, 200);
    // Somebody types it again, and reads what is.
    assert_eq!(cluster.run(&order("execute", &[])).expect_code(0).document()["already"], true);
    let status = cluster.run(&["failover", "status"]).expect_code(0);
    assert!(status.stdout.contains("evacuated") && status.stdout.contains("maintenance"), "{}", status.stdout);
    let shown = cluster.run(&["status", "--json"]).document();
    let states: Vec<&Value> = shown["regions"].as_array().expect("regions").iter().map(|one| &one["state"]).collect();
    assert_eq!(states, ["active", "evacuated"], "{shown}");

    let back = cluster.run(&order("failback", &[])).expect_code(0).document();
    println!("back: {back}");
    assert_eq!((&back["to"], &back["rpo"]["kind"]), (&json!("active"), &json!("estimated")), "{back}");
    until(PATIENCE, "all its agents to serve", || is_healthy(us) && is_healthy(other));
    let value = Request::get("/v1/state/profile/u1").send(us_api).expect_status(200).json();
    assert_eq!(value["value"]["plays"], 2, "what was done meanwhile is here: {value}");
    assert_eq!(play(us_api, "u1").0, 200);
}

#[test]
fn a_lost_region_is_left_and_what_comes_of_it_later_is_named() {
    let mut cluster = provisioned();
    let (_, eu) = cluster.start_first_agent(EU, &[]);
    let (number, us) = cluster.start_first_agent(US, &[]);
    until(PATIENCE, "both to serve", || is_healthy(eu) && is_healthy(us));
    cluster.kill_agent(number);
    until(PATIENCE, "it to be suspected", || {
        let status = Request::get("/v1/status").send(eu).expect_status(200).json();
        status["suspects"] == json!([US])
    });
    // Its services went on for a while: nobody brings their events.
    let late: Vec<String> = (0..3).map(|number| format!("late-{number}")).collect();
    until(PATIENCE, "its last report to be too old", || {
        let plan = cluster.run(&order("plan", &[])).document();
        let checks = plan["checks"].as_array().cloned().unwrap_or_default();
        checks.iter().any(|check| check["check"] == "answers" && check["ok"] == false)
    });
    let graceful = cluster.run(&["failover", "execute", "--region", US]);
    assert!(graceful.code == Some(1) && graceful.stderr.contains("--mode ungraceful"), "{graceful:?}");
    let done = cluster.run(&order("execute", &["--mode", "ungraceful"])).expect_code(0).document();
    println!("ungraceful: {done}");
    assert_eq!(
        (&done["to"], &done["rpo"]["kind"], &done["forced"]),
        (&json!("evacuated"), &json!("exposed"), &json!(false))
    );
    cluster.publish(US, &late);
    let inventory = |cluster: &AwsCluster| {
        let done = cluster.run(&["failover", "inventory", "--region", US, "--json"]).expect_code(0);
        done.document()["regions"][0].clone()
    };
    assert_eq!(inventory(&cluster)["events"], 0);

    // It is there again, knows what was decided, and brings what it has.
    let (_, us) = cluster.start_first_agent(US, &[]);
    until(PATIENCE, "it to know", || health(us) == (503, "the region is evacuated".to_owned()));
    until(PATIENCE, "what it had to come", || inventory(&cluster)["events"] == 3);
    let named = inventory(&cluster)["named"].clone();
    let row = named.as_array().expect("named").iter().find(|late| late["reserved"] == false).expect("an event").clone();
    assert!(row["key_hash"].is_string() && row["event_id"].is_string() && row["arrived"].is_string(), "{row}");
    let text = cluster.run(&["failover", "inventory", "--region", US]).expect_code(0).stdout;
    assert!(text.contains("3 events of us-east-1 came after epoch") && text.contains("key hash"), "{text}");
    let back = cluster.run(&order("failback", &[])).expect_code(0).document();
    assert_eq!(back["to"], "active", "{back}");
    until(PATIENCE, "it to serve", || is_healthy(us));
    cluster.run(&["verify"]).expect_code(0);
    assert_eq!(inventory(&cluster)["complete"], true);
}

/// Regions compare every half a minute, and look for evictions as often.
const COMPARED: Duration = Duration::from_secs(240);

#[test]
fn a_region_that_is_gone_is_left_out_of_the_documents_and_comes_back_with_what_it_alone_has() {
    let mut cluster = provisioned();
    let (eu_api, us_api) = (free_port(), free_port());
    let (_, eu) = cluster.start_first_agent(EU, &["--api", &format!("127.0.0.1:{eu_api}")]);
    let (number, us) = cluster.start_first_agent(US, &["--api", &format!("127.0.0.1:{us_api}")]);
    until(PATIENCE, "both to serve", || is_healthy(eu) && is_healthy(us));
    assert_eq!(play(us_api, "u1").0, 200);
    let plays = |api: u16, id: &str| {
        let answer = Request::get(&format!("/v1/state/profile/{id}")).send(api);
        (answer.status == 200).then(|| answer.json()["value"]["plays"].as_u64()).flatten()
    };
    until(PATIENCE, "the write to arrive", || plays(eu_api, "u1") == Some(1));
    let evict = |more: &[&'static str]| [&["state", "evict", "--region", US], more].concat();
    let serves = cluster.run(&evict(&["--yes"]));
    assert!(serves.code == Some(1) && serves.stderr.contains("is active"), "{serves:?}");
    // What it writes now leaves it no more.
    cluster.run(&["pause", "--from", US, "--to", EU]).expect_code(0);
    assert_eq!((play(us_api, "u1").0, play(us_api, "u2").0), (200, 200));
    cluster.kill_agent(number);
    until(COMPARED, "it to be left", || cluster.run(&order("execute", &["--mode", "ungraceful"])).code == Some(0));
    assert!(cluster.run(&evict(&["--dry-run"])).expect_code(0).stdout.contains("sets the rest aside"));
    cluster.run(&evict(&["--yes", "--reason", "gone for good"])).expect_code(0);
    let known = cluster.run(&["state", "evictions"]);
    assert!(known.stdout.contains("left out") && known.stdout.contains("gone for good"), "{known:?}");
    assert_eq!(play(eu_api, "u1").0, 200);

    let (_, us) = cluster.start_first_agent(US, &["--api", &format!("127.0.0.1:{us_api}")]);
    let started = Instant::now();
    until(COMPARED, "it to be back", || {
        let shown = Request::get("/v1/evictions").send(eu).json();
        shown["evictions"][0]["back"] == true && plays(us_api, "u1") == Some(3)
    });
    println!("back after {:?}", started.elapsed());
    until(COMPARED, "what it alone had to be in both", || {
        plays(eu_api, "u1") == Some(3) && plays(eu_api, "u2") == Some(1) && plays(us_api, "u2") == Some(1)
    });
    let aside = cluster.run(&["state", "given-up", "--region", US]).expect_code(0);
    assert!(aside.stdout.contains("has set nothing aside"), "{}", aside.stdout);
    let discard = cluster.run(&["state", "given-up", "--region", US, "--discard", "000001-1764312345678/profile/u1"]);
    assert!(discard.code == Some(1) && discard.stderr.contains("nothing is set aside"), "{discard:?}");
    cluster.run(&["resume", "--from", US, "--to", EU]).expect_code(0);
    cluster.run(&order("failback", &[])).expect_code(0);
    until(PATIENCE, "it to serve", || is_healthy(us));
    assert_eq!(play(us_api, "u2").0, 200);
    until(COMPARED, "its writes to be merged again", || plays(eu_api, "u2") == Some(2));
}
