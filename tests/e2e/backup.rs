//! Backups of regions that run, and what becomes of a region that is restored from one.

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};

use crate::{
    harness::{AP, Cluster, Done, EU, NAMES, PATIENCE, Request, US, signal, until},
    objects_s3::noise,
};

const MORE: &str = "[claim_check]\nreference = [\"/detail/claimCheck\"]\n\n[state.profile]\nlanguage = \"register\"\n\
                    nickname = \"multi-value\"\nplays = \"counter\"\nwatchlist = \"set\"\nkids_mode = \"flag\"\n\
                    best = \"max\"\nprogress = { map = \"max\" }\n";

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn back_up(cluster: &Cluster, region: &str, to: &Path) -> Value {
    cluster.json(&["backup", "--region", region, "--to", text(to)], 0)
}

fn restore(cluster: &Cluster, region: &str, from: &Path, more: &[&str]) -> Done {
    let mut command = vec!["restore", "--json", "--region", region, "--from", text(from)];
    command.extend(more);
    cluster.run(&command)
}

fn refused(done: Done, why: &str) {
    let done = done.expect_code(1);
    assert!(done.stderr.contains(why) && done.stdout.is_empty(), "{done:?}");
}

/// An object, and an event that refers to it.
fn put(cluster: &Cluster, region: &str, key: &str, seed: u64) {
    let path = format!("/payloads/{key}");
    Request::put(&path, noise(seed, 200_000)).send(cluster.region(region).api).expect_status(200);
    let detail = json!({ "metadata": { "idempotencyKey": key }, "claimCheck": format!("s3://payloads/{key}") });
    cluster.publish(region, key, &detail.to_string());
}

fn add(cluster: &Cluster, region: &str, id: &str) {
    let body = json!({ "ops": [{ "field": "watchlist", "op": "add", "value": region }] });
    let request = Request::post(&format!("/v1/state/profile/{id}"), body.to_string());
    request.send(cluster.region(region).api).expect_status(200);
}

/// The members of the set, if the document is there.
fn members(cluster: &Cluster, region: &str, id: &str) -> Option<usize> {
    let answer = Request::get(&format!("/v1/state/profile/{id}")).send(cluster.region(region).api);
    match answer.status {
        404 => None,
        _ => Some(answer.expect_status(200).json()["value"]["watchlist"].as_array().expect("a set").len()),
    }
}

#[test]
fn a_region_restored_from_a_backup_under_load_becomes_like_its_peers_by_itself() {
    let cluster = Cluster::start_with(3, MORE);
    let (backup, second) = (cluster.path("backup"), cluster.path("second"));
    put(&cluster, US, "early", 1);
    add(&cluster, US, "doomed");
    until(PATIENCE, "a document to be everywhere", || {
        NAMES.into_iter().all(|region| members(&cluster, region, "doomed") == Some(1))
    });
    let load = cluster.start_load(200, 12, &[]);
    until(PATIENCE, "the load to begin", || cluster.status(US)["events"].as_u64() > Some(200));
    assert_eq!(cluster.metrics(US).value("hubweave_backup_last_timestamp_seconds", &[]), 0.0);
    let made = back_up(&cluster, US, &backup);
    assert_eq!((&made["cluster"], &made["region"]), (&json!("e2e"), &json!(US)));
    assert!(made["head"].as_u64() > Some(200) && made["files"].as_u64() > Some(4), "{made}");
    assert!(cluster.metrics(US).value("hubweave_backup_last_timestamp_seconds", &[]) > 1.7e9);
    // Written after the backup, here and elsewhere, and taken away.
    put(&cluster, US, "late", 2);
    put(&cluster, EU, "late-elsewhere", 3);
    add(&cluster, US, "after");
    cluster.ok(&["state", "delete", "profile", "doomed", "--region", AP]);
    let journal = load.journal.clone();
    assert_eq!(load.report()["failed"], 0);
    cluster.verify(&journal);

    refused(restore(&cluster, US, &backup, &["--replace"]), "another agent is using this data directory");
    let full = cluster.run(&["backup", "--region", US, "--to", text(&backup)]).expect_code(2);
    assert!(full.stderr.contains("not empty"), "{full:?}");
    cluster.kill_agent(US);
    refused(restore(&cluster, US, &backup, &[]), "--replace");
    refused(restore(&cluster, EU, &backup, &["--replace"]), &format!("a backup of region `{US}`"));
    let done = restore(&cluster, US, &backup, &["--replace"]).expect_code(0).document();
    assert_eq!((&done["backup"]["head"], &done["files"]), (&made["head"], &made["files"]), "{done}");
    let replaced = done["replaced"].as_str().expect("where the old data lies").to_owned();
    assert!(Path::new(&replaced).join("log").is_dir(), "{replaced}");
    cluster.start_agent(US);
    cluster.wait_ready_one(US);
    let report = cluster.verify(&journal);
    assert_eq!(report["documents"]["same"], report["documents"]["compared"], "{}", report["documents"]);
    assert_eq!(report["objects"]["same"], report["objects"]["compared"], "{}", report["objects"]);
    for (key, seed) in [("early", 1), ("late", 2), ("late-elsewhere", 3)] {
        let object = Request::get(&format!("/payloads/{key}")).send(cluster.region(US).api).expect_status(200);
        assert!(object.body == noise(seed, 200_000), "{key}");
    }
    until(PATIENCE, "documents as they are elsewhere", || {
        members(&cluster, US, "after") == Some(1) && members(&cluster, US, "doomed").is_none()
    });
    // The restored region is one like any other.
    put(&cluster, US, "new", 4);
    let object = || Request::get("/payloads/new").is_ok(cluster.region(EU).api);
    until(PATIENCE, "what is published in it to be elsewhere", object);
    back_up(&cluster, US, &second);
}

#[test]
fn a_damaged_or_unfinished_backup_is_refused_and_a_stopped_region_is_backed_up_too() {
    let cluster = Cluster::start_with(2, MORE);
    put(&cluster, EU, "one", 1);
    add(&cluster, EU, "alice");
    cluster.wait_for_key(US, "one");
    assert!(cluster.stop_agent(EU).success());
    let backup = cluster.path("backup");
    let made = back_up(&cluster, EU, &backup);
    assert!(made["files"].as_u64() > Some(4), "{made}");
    let data = cluster.region(EU).data_dir.clone();
    let whole = |path: &Path| fs::read(path).expect("readable");
    for name in ["IDENTITY", "documents.redb", "objects/index.redb", "log/00000000000000000001.log"] {
        let path = backup.join(name);
        let bytes = whole(&path);
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 1;
        fs::write(&path, flipped).expect("writable");
        refused(restore(&cluster, EU, &backup, &["--replace"]), "damaged");
        fs::write(&path, bytes).expect("writable");
    }
    let manifest = backup.join("BACKUP");
    let lines = whole(&manifest);
    fs::write(&manifest, &lines[..lines.len() / 2]).expect("writable");
    refused(restore(&cluster, EU, &backup, &["--replace"]), "damaged");
    fs::remove_file(&manifest).expect("removable");
    refused(restore(&cluster, EU, &backup, &["--replace"]), "no backup, or one that was never finished");
    fs::write(&manifest, lines).expect("writable");

    // Onto a machine that has nothing yet.
    fs::rename(&data, cluster.path("elsewhere")).expect("movable");
    assert!(cluster.run(&["backup", "--region", EU, "--to", text(&cluster.path("none"))]).code == Some(1));
    let done = restore(&cluster, EU, &backup, &[]).expect_code(0).document();
    assert_eq!(done["replaced"], Value::Null, "{done}");
    cluster.start_agent(EU);
    cluster.wait_ready_one(EU);
    assert_eq!(members(&cluster, EU, "alice"), Some(1));
    cluster.ok(&["verify"]);
}

#[test]
fn a_region_of_up_is_restored_while_up_runs_and_holds_it() {
    let cluster = Cluster::start_up();
    cluster.publish(US, "before", "{}");
    cluster.wait_for_key(EU, "before");
    let backup = cluster.path("backup");
    back_up(&cluster, US, &backup);
    cluster.publish(US, "after", "{}");
    cluster.wait_for_key(EU, "after");
    cluster.wait_for_key(AP, "after");
    let hold = cluster.region(US).data_dir.join("agent.hold");
    fs::write(&hold, "").expect("a hold");
    let pid = cluster.pid_file(US).expect("a pid");
    signal(pid, "KILL");
    until(PATIENCE, "the window to say that it is held", || cluster.up_output().contains("held down while"));
    restore(&cluster, US, &backup, &["--replace"]).expect_code(0);
    // Three times as long as a restart takes.
    std::thread::sleep(Duration::from_millis(1_500));
    assert!(!Request::get("/livez").is_ok(cluster.region(US).admin), "it was started although it is held");
    assert!(cluster.run(&["up"]).code == Some(1), "another `up` is kept away from the restored data as well");
    fs::remove_file(hold).expect("the hold is there, and can be removed");
    cluster.wait_ready_one(US);
    assert_eq!(cluster.wait_for_key(US, "after").len(), 1);
    cluster.ok(&["verify"]);
}
