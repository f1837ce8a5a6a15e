//! Documents that several regions write at once: equal everywhere in the end, with every write in them.

use std::{
    fs,
    io::Write,
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::harness::{AP, Cluster, Done, EU, NAMES, PATIENCE, Request, US, until};

const TYPES: &str = "[state.profile]\nlanguage = \"register\"\nnickname = \"multi-value\"\nplays = \"counter\"\n\
                     watchlist = \"set\"\nkids_mode = \"flag\"\nbest = \"max\"\nprogress = { map = \"max\" }\n\
                     notes = { map = \"register\" }\n";

fn start(regions: usize) -> Cluster {
    Cluster::start_with(regions, TYPES)
}

fn path(id: &str) -> String {
    let id: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
    format!("/v1/state/profile/{id}")
}

fn post(id: &str, ops: &Value) -> Request {
    Request::post(&path(id), json!({ "ops": ops }).to_string()).header("content-type", "application/json")
}

fn keyed(id: &str, key: &str, ops: &Value) -> Request {
    post(id, ops).header("idempotency-key", key)
}

/// Sends a request that must be done; answers the document.
#[track_caller]
fn send(cluster: &Cluster, region: &str, request: &Request) -> Value {
    request.send(cluster.region(region).api).expect_status(200).json()
}

/// Operations without a key.
#[track_caller]
fn apply(cluster: &Cluster, region: &str, id: &str, ops: &Value) -> Value {
    let document = send(cluster, region, &post(id, ops));
    assert_eq!(document["outcome"], "applied", "{document}");
    document
}

#[track_caller]
fn delete(cluster: &Cluster, region: &str, id: &str) -> Value {
    send(cluster, region, &Request::delete(&path(id)))["outcome"].clone()
}

/// The region's copy; null where there is none.
fn get(cluster: &Cluster, region: &str, id: &str) -> Value {
    let answer = Request::get(&path(id)).send(cluster.region(region).api);
    match answer.status {
        404 => Value::Null,
        _ => answer.expect_status(200).json(),
    }
}

fn plays(by: i64) -> Value {
    json!({ "field": "plays", "op": "increment", "by": by })
}

fn set(field: &str, value: &str) -> Value {
    json!({ "field": field, "op": "set", "value": value })
}

/// Waits until all regions answer the same; the last answers are shown if they never do.
#[track_caller]
fn agree(cluster: &Cluster, what: &str, holds: impl Fn(&Value) -> bool, ask: impl Fn(&str) -> Value) -> Value {
    let began = Instant::now();
    loop {
        let all: Vec<Value> = cluster.regions.iter().map(|region| ask(&region.name)).collect();
        if all.iter().all(|one| *one == all[0] && holds(one)) {
            return all[0].clone();
        }
        assert!(began.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {what} to be right everywhere: {all:#?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until the document has this value in every region, with one version; null is none.
#[track_caller]
fn settle(cluster: &Cluster, id: &str, value: &Value) -> Value {
    agree(cluster, id, |document| document["value"] == *value, |region| get(cluster, region, id))
}

/// Waits until all regions have so many documents and the same digest.
#[track_caller]
fn settle_all(cluster: &Cluster, documents: u64) -> Value {
    let admin = |region: &str, path: &str| Request::get(path).send(cluster.region(region).admin).expect_status(200);
    let total = |region: &str| admin(region, "/v1/documents/total").json();
    let total = agree(cluster, "the total", |total| total["documents"] == documents, total);
    let list = agree(cluster, "the list", |_| true, |region| admin(region, "/v1/documents").json());
    assert_eq!(list["documents"].as_array().expect("documents").len() as u64, documents, "{list}");
    total
}

/// The events of the region's hub that a pattern matches.
fn matching(cluster: &Cluster, region: &str, pattern: &Value) -> Vec<Value> {
    let pattern: String = pattern.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
    let path = format!("/v1/events?from=start&limit=1000&pattern={pattern}");
    let page = Request::get(&path).send(cluster.region(region).api).expect_status(200).json();
    page["events"].as_array().expect("events").iter().map(|event| event["envelope"].clone()).collect()
}

fn cut_off(cluster: &Cluster, region: &str) {
    for peer in NAMES.into_iter().filter(|peer| *peer != region) {
        cluster.ok(&["fault", "inject", "--region", region, "--peer", peer, "--kind", "partition"]);
    }
}

#[test]
fn regions_that_were_cut_off_end_with_the_same_documents_and_every_write_in_them() {
    let cluster = start(3);
    // Written in one region, read in all.
    let ops = json!([
        set("language", "en"), set("nickname", "Ace"), plays(10),
        { "field": "watchlist", "op": "add", "value": "m1" }, { "field": "watchlist", "op": "add", "value": "m2" },
        { "field": "kids_mode", "op": "disable" }, { "field": "progress", "key": "m1", "op": "max", "value": 7 },
    ]);
    let written = apply(&cluster, EU, "u1", &ops);
    let value = json!({
        "language": "en", "nickname": "Ace", "plays": 10, "watchlist": ["m1", "m2"], "kids_mode": false,
        "progress": { "m1": 7 },
    });
    let read = settle(&cluster, "u1", &value);
    assert_eq!((&read["version"], &read["conflicts"]), (&written["version"], &json!({})), "{read}");
    assert_eq!((&read["type"], &read["id"]), (&json!("profile"), &json!("u1")));
    for (id, region) in [("beside", US), ("gone", AP), ("untouched", AP)] {
        apply(&cluster, region, id, &json!([set("language", "en"), plays(5)]));
        settle(&cluster, id, &json!({ "language": "en", "plays": 5 }));
    }

    cut_off(&cluster, EU);
    let changes = json!([
        set("language", "de"), set("nickname", "Al"), plays(3), { "field": "kids_mode", "op": "enable" },
        { "field": "watchlist", "op": "add", "value": "m3" }, { "field": "watchlist", "op": "remove", "value": "m1" },
        { "field": "progress", "key": "m1", "op": "max", "value": 9 },
    ]);
    apply(&cluster, EU, "u1", &changes);
    assert_eq!((delete(&cluster, EU, "beside"), delete(&cluster, EU, "gone")), (json!("deleted"), json!("deleted")));
    // Acknowledged where nobody else sees it, and tried again elsewhere.
    let order = keyed("order", "order-1", &json!([plays(5), { "field": "watchlist", "op": "add", "value": "m1" }]));
    assert_eq!(send(&cluster, EU, &order)["outcome"], "applied");
    apply(&cluster, EU, "order", &json!([plays(1)]));
    assert_eq!(send(&cluster, US, &order)["outcome"], "applied", "nobody told of the first time");
    let changes = json!([
        set("language", "fr"), set("nickname", "Bo"), plays(4), { "field": "kids_mode", "op": "disable" },
        { "field": "watchlist", "op": "add", "value": "m1" }, { "field": "watchlist", "op": "add", "value": "m4" },
        { "field": "watchlist", "op": "remove", "value": "m2" },
        { "field": "progress", "key": "m1", "op": "max", "value": 8 },
    ]);
    apply(&cluster, US, "u1", &changes);
    apply(&cluster, US, "beside", &json!([plays(2)]));
    let there = |id: &str| get(&cluster, AP, id)["value"]["plays"].clone();
    until(PATIENCE, "the other two to talk", || (there("u1"), there("beside")) == (json!(14), json!(7)));
    assert_eq!(get(&cluster, EU, "u1")["value"]["plays"], 13, "it is cut off");
    assert_eq!(get(&cluster, AP, "gone")["value"]["plays"], 5, "from both");

    cluster.ok(&["fault", "clear", "--region", EU]);
    let merged = json!({
        "language": "fr", "nickname": "Bo", "plays": 17, "watchlist": ["m1", "m3", "m4"], "kids_mode": true,
        "progress": { "m1": 9 },
    });
    let document = settle(&cluster, "u1", &merged);
    assert_eq!(document["conflicts"], json!({ "nickname": ["Al", "Bo"] }), "{document}");
    settle(&cluster, "beside", &json!({ "plays": 2 }));
    settle(&cluster, "gone", &Value::Null);
    settle(&cluster, "order", &json!({ "plays": 6, "watchlist": ["m1"] }));
    for region in NAMES {
        assert_eq!(send(&cluster, region, &order)["outcome"], "duplicate", "{region}");
    }
    settle(&cluster, "order", &json!({ "plays": 6, "watchlist": ["m1"] }));
    settle_all(&cluster, 4);
    let told = cluster.ok(&["state", "get", "profile", "u1", "--region", AP]);
    assert!(told.contains(r#"nickname was written in several regions at once: "Al", "Bo""#), "{told}");
    told_of_conflicts(&cluster);

    // Whoever has seen both ends it.
    apply(&cluster, AP, "u1", &json!([set("nickname", "Cy"), set("language", "it")]));
    let ended = agree(&cluster, "u1", |one| one["value"]["nickname"] == "Cy", |region| get(&cluster, region, "u1"));
    assert_eq!((&ended["conflicts"], &ended["value"]["language"]), (&json!({}), &json!("it")), "{ended}");
    settle_all(&cluster, 4);
    cluster.wait_caught_up();
    told_of_conflicts(&cluster);
}

/// Every region has told its services of both conflicts, itself.
fn told_of_conflicts(cluster: &Cluster) {
    let pattern = json!({ "source": ["hubweave"], "detail-type": ["State Conflict"], "detail": { "id": ["u1"] } });
    let told = |region: &str| {
        let mut events = matching(cluster, region, &pattern);
        assert!(events.iter().all(|event| event["detail"]["hubweave"].is_null()), "one crossed a link: {events:#?}");
        events.sort_by_key(|event| event["detail"]["field"].to_string());
        let no_keys = |mut event: Value| {
            event["detail"].as_object_mut().expect("an object").remove("metadata");
            event["detail"].take()
        };
        Value::Array(events.into_iter().map(no_keys).collect())
    };
    let told = agree(cluster, "the conflicts", |told| told.as_array().is_some_and(|told| told.len() == 2), told);
    for (conflict, field, resolution, winner, loser) in
        [(&told[0], "language", "last_writer", "fr", "de"), (&told[1], "nickname", "kept_both", "Bo", "Al")]
    {
        assert_eq!((&conflict["type"], &conflict["field"]), (&json!("profile"), &json!(field)), "{conflict}");
        assert_eq!(conflict["resolution"], resolution, "{conflict}");
        assert_eq!((&conflict["winner"]["value"], &conflict["loser"]["value"]), (&json!(winner), &json!(loser)));
    }
    for region in NAMES {
        let all = matching(cluster, region, &json!({ "detail-type": ["State Conflict"] }));
        assert_eq!(all.len(), 2, "{region}: {all:#?}");
        let counted = cluster.metrics(region);
        for (field, resolution) in [("language", "last_writer"), ("nickname", "kept_both")] {
            let labels = [("type", "profile"), ("field", field), ("resolution", resolution)];
            assert_eq!(counted.value("hubweave_state_conflicts_total", &labels), 1.0, "{region}: {field}");
        }
    }
}

#[test]
fn what_is_refused_says_why_and_leaves_nothing_behind() {
    let cluster = start(2);
    let port = cluster.region(EU).api;
    let of = |id: &str, ops: &Value| post(id, ops);
    let huge = |bytes: usize| json!([set("language", &"x".repeat(bytes))]);
    let notes: Vec<Value> = (0..80)
        .map(|n| json!({ "field": "notes", "key": n.to_string(), "op": "set", "value": "x".repeat(60_000) }))
        .collect();
    let raw = |body: &[u8]| Request::post(&path("bad"), body);
    let unknown = Request::post("/v1/state/order/bad", json!({ "ops": [plays(1)] }).to_string());
    let requests = [
        (unknown, 404, "document type `order` is unknown; there are `profile`"),
        (Request::get("/v1/state/order/bad"), 404, "there are `profile`"),
        (Request::delete("/v1/state/order/bad"), 404, "there are `profile`"),
        (of("bad", &json!([set("colour", "red")])), 400, "field `colour` is unknown; there are `best`, `kids_mode`"),
        (
            of("bad", &json!([plays(1), set("plays", "1")])),
            400,
            "operation 2: field `plays`: a counter has no operation",
        ),
        (of("bad", &json!([{ "field": "kids_mode", "op": "increment", "by": 1 }])), 400, "`enable` and `disable`"),
        (of("bad", &json!([{ "field": "progress", "op": "max", "value": 1 }])), 400, "takes one `key`"),
        (of("bad", &json!([])), 400, "1 to 100"),
        (of("bad", &Value::Array(vec![plays(1); 101])), 400, "1 to 100"),
        (of("bad", &huge(10_000_000)), 413, "8388608"),
        (of("bad", &huge(1_000_000)), 400, "the limit is 65536"),
        (of("bad", &json!(notes)), 413, "the limit is 4194304"),
        (of("bad", &json!([plays(i64::MAX), plays(1)])), 400, "beyond 64 bits"),
        (of("bad", &json!([{ "field": "plays", "op": "increment", "by": 1e30 }])), 400, "whole number"),
        (keyed("bad", "", &json!([plays(1)])), 400, "1 to 1024"),
        (keyed("bad", &"k".repeat(1_025), &json!([plays(1)])), 400, "1 to 1024"),
        (Request::delete(&path("bad")).header("idempotency-key", ""), 400, "1 to 1024"),
        (of(&"i".repeat(513), &json!([plays(1)])), 400, "the limit is 512"),
        (of("a\nb", &json!([plays(1)])), 400, "control characters"),
        (raw(b""), 400, "no JSON object"),
        (raw(b"{\"ops\":[\xff]}"), 400, "UTF-8"),
        (raw(&[b'['; 100_000]), 400, "no JSON object"),
        (raw(br#"{"ops":[{"field":"plays","op":"increment","by":1}],"key":"k"}"#), 400, "`key` is unknown"),
    ];
    for (request, status, why) in requests {
        let answer = request.send(port).expect_status(status);
        let said = answer.json()["error"].as_str().expect("text").to_owned();
        assert!(said.contains(why), "{why}: {said}");
    }
    assert_eq!(delete(&cluster, EU, "bad"), "nothing");
    for region in [EU, US] {
        assert_eq!(get(&cluster, region, "bad"), Value::Null);
    }
    settle_all(&cluster, 0);
    assert_eq!(cluster.status(EU)["events"], 0, "nothing was told to the peer");
    assert_eq!(cluster.metrics(EU).sum("hubweave_state_documents", &[]), 0.0);

    // A refusal is not remembered under its key.
    keyed("good", "once", &json!([plays(1), set("plays", "x")])).send(port).expect_status(400);
    assert_eq!(send(&cluster, EU, &keyed("good", "once", &json!([plays(i64::MAX)])))["outcome"], "applied");
    assert!(
        post("good", &json!([set("language", "de"), plays(1)])).send(port).expect_status(400).text().contains("64")
    );
    settle(&cluster, "good", &json!({ "plays": i64::MAX }));
    settle_all(&cluster, 1);
}

/// Increments with keys `from` to `to`, each tried until it is acknowledged.
fn increment_surely(cluster: &Cluster, region: &str, id: &str, keys: std::ops::Range<u64>, done: &AtomicU64) {
    let began = Instant::now();
    for key in keys {
        let request = keyed(id, &key.to_string(), &json!([plays(1)]));
        while !request.try_send(cluster.region(region).api).is_ok_and(|answer| answer.status == 200) {
            assert!(began.elapsed() < PATIENCE * 2, "{region} takes no requests");
            thread::sleep(Duration::from_millis(5));
        }
        done.fetch_add(1, Ordering::SeqCst);
    }
}

fn restart(cluster: &Cluster, region: &str) {
    cluster.start_agent(region);
    cluster.wait_ready_one(region);
}

#[test]
fn acknowledged_writes_outlive_kills_stops_and_a_lost_disk() {
    let cluster = start(3);
    for n in 0..40 {
        apply(&cluster, US, "killed", &json!([plays(1)]));
        if n % 10 == 0 {
            apply(&cluster, [EU, US][n / 10 % 2], &format!("d-{n}"), &json!([set("language", "de"), plays(1)]));
        }
    }
    cluster.kill_agent(US);
    restart(&cluster, US);
    settle(&cluster, "killed", &json!({ "plays": 40 }));

    // Killed in the middle of requests, which are tried again.
    let (count, done) = (240, AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| increment_surely(&cluster, US, "often", 0..count, &done));
        scope.spawn(|| increment_surely(&cluster, EU, "often", count..2 * count, &done));
        for share in [1, 2] {
            until(PATIENCE, "some writes", || done.load(Ordering::SeqCst) > count * share / 3);
            cluster.kill_agent(US);
            restart(&cluster, US);
        }
    });
    settle(&cluster, "often", &json!({ "plays": 2 * count }));
    apply(&cluster, EU, "gone", &json!([plays(1)]));
    settle(&cluster, "gone", &json!({ "plays": 1 }));
    assert_eq!(delete(&cluster, AP, "gone"), "deleted");
    settle(&cluster, "gone", &Value::Null);
    let before = settle_all(&cluster, 6);

    // A stop loses nothing either, also of what was written a moment ago.
    cluster.stop_agent(US);
    restart(&cluster, US);
    assert_eq!(settle_all(&cluster, 6), before);
    let last = apply(&cluster, US, "d-0", &json!([set("language", "fr")]));
    assert_eq!(cluster.stop_agent(US).code(), Some(0));
    restart(&cluster, US);
    let read = get(&cluster, US, "d-0");
    assert_eq!((&read["value"], &read["version"]), (&last["value"], &last["version"]), "{read}");
    settle(&cluster, "d-0", &json!({ "language": "fr", "plays": 1 }));

    // The region comes back with nothing, and gets everything.
    cluster.wait_caught_up();
    cluster.kill_agent(US);
    fs::remove_dir_all(&cluster.region(US).data_dir).expect("it can be emptied");
    apply(&cluster, EU, "meanwhile", &json!([plays(1)]));
    restart(&cluster, US);
    settle_all(&cluster, 7);
    settle(&cluster, "killed", &json!({ "plays": 40 }));
    settle(&cluster, "gone", &Value::Null);
    // With the keys of its requests.
    assert_eq!(send(&cluster, US, &keyed("often", "0", &json!([plays(1)])))["outcome"], "duplicate");
    apply(&cluster, US, "often", &json!([plays(-1)]));
    settle(&cluster, "often", &json!({ "plays": 2 * count - 1 }));
    settle_all(&cluster, 7);
}

/// Publishes `State Operation` events of a service with their keys; all are taken.
#[track_caller]
fn operate(cluster: &Cluster, region: &str, source: &str, operations: &[(&str, Value)]) {
    let entry = |(key, detail): &(&str, Value)| {
        let mut detail = detail.clone();
        detail["metadata"] = json!({ "idempotencyKey": key });
        json!({ "Source": source, "DetailType": "State Operation", "Detail": detail.to_string() })
    };
    let entries: Vec<Value> = operations.iter().map(entry).collect();
    let answer = Request::put_events(&json!(entries)).send(cluster.region(region).api).expect_status(200).json();
    assert_eq!(answer["FailedEntryCount"], 0, "{answer}");
}

fn on(id: &str, ops: &Value) -> Value {
    json!({ "type": "profile", "id": id, "ops": ops })
}

#[test]
fn published_operations_do_what_requests_do_and_do_not_cross() {
    let cluster = start(3);
    let first = on("u1", &json!([plays(2), set("language", "de")]));
    operate(&cluster, EU, "shop", &[("op-1", first.clone())]);
    let value = json!({ "language": "de", "plays": 2 });
    let by_event = settle(&cluster, "u1", &value);
    assert_eq!(by_event["conflicts"], json!({}));
    // Again, there and elsewhere: known.
    operate(&cluster, EU, "shop", &[("op-1", first.clone()), ("op-2", on("after", &json!([plays(1)])))]);
    settle(&cluster, "after", &json!({ "plays": 1 }));
    operate(&cluster, US, "shop", &[("op-1", first), ("op-3", on("after", &json!([plays(1)])))]);
    settle(&cluster, "after", &json!({ "plays": 2 }));
    assert_eq!(settle(&cluster, "u1", &value)["version"], by_event["version"]);
    let requests = |result| cluster.metrics(US).value("hubweave_state_requests_total", &[("result", result)]);
    assert_eq!((requests("applied"), requests("duplicate")), (1.0, 1.0));

    // Bad ones are counted and hold nobody up.
    let bad = [
        ("bad-1", json!({ "type": "order", "id": "u1", "ops": [plays(1)] })),
        ("bad-2", json!({ "type": "profile", "id": "u1" })),
        ("bad-3", on("u1", &json!([plays(1), set("plays", "1")]))),
        ("bad-4", on("u1", &json!([plays(i64::MAX)]))),
        ("bad-5", on("", &json!([plays(1)]))),
        ("gone", json!({ "type": "profile", "id": "after", "delete": true })),
    ];
    operate(&cluster, EU, "billing", &bad);
    settle(&cluster, "after", &Value::Null);
    settle(&cluster, "u1", &value);
    let unreadable = |region| cluster.metrics(region).value("hubweave_state_unreadable_events_total", &[]);
    assert_eq!((unreadable(EU), unreadable(US), unreadable(AP)), (5.0, 0.0, 0.0));

    // Taken, and the agent is killed before or while they are done.
    let many: Vec<(String, Value)> = (0..10).map(|n| (format!("n-{n}"), on("killed", &json!([plays(1)])))).collect();
    let many: Vec<(&str, Value)> = many.iter().map(|(key, detail)| (key.as_str(), detail.clone())).collect();
    operate(&cluster, EU, "shop", &many);
    cluster.kill_agent(EU);
    restart(&cluster, EU);
    settle(&cluster, "killed", &json!({ "plays": 10 }));
    operate(&cluster, EU, "shop", &many);
    apply(&cluster, EU, "killed", &json!([plays(1)]));
    settle(&cluster, "killed", &json!({ "plays": 11 }));
    settle_all(&cluster, 2);

    cluster.wait_caught_up();
    let seen = |region| matching(&cluster, region, &json!({ "detail-type": ["State Operation"] })).len();
    assert_eq!((seen(EU), seen(US), seen(AP)), (2 + bad.len() + many.len(), 2, 0), "each only where it was published");
    assert!(matching(&cluster, AP, &json!({ "detail-type": ["State Conflict"] })).is_empty());
}

/// `state apply` with the operations on standard input.
fn apply_from_input(cluster: &Cluster, input: &str) -> Done {
    let mut command = cluster.command(&["state", "apply", "profile", "u1", "-", "--region", EU, "--json"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("hubweave starts");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("writable");
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Done { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

#[test]
fn the_command_reads_changes_and_deletes_documents() {
    let cluster = start(2);
    let ops = json!([plays(2), set("language", "de")]).to_string();
    let of = |verb: &'static str, id: &'static str| ["state", verb, "profile", id, "--region", EU];
    let with = |verb, id, more: &[&'static str]| [&of(verb, id)[..], more].concat();
    let done = cluster.run(&[&of("apply", "u1")[..], &[&ops, "--key", "k 1"]].concat()).expect_code(0);
    assert_eq!(done.stdout, "profile/u1 (applied)\n  language: \"de\"\n  plays: 2\n");
    let again = cluster.json(&[&of("apply", "u1")[..], &[&ops, "--key", "k 1"]].concat(), 0);
    assert_eq!((&again["outcome"], &again["value"]["plays"]), (&json!("duplicate"), &json!(2)), "{again}");
    let from_input = apply_from_input(&cluster, &json!({ "ops": [plays(1)] }).to_string()).expect_code(0);
    assert_eq!(from_input.document()["value"]["plays"], 3);
    let read = cluster.json(&of("get", "u1"), 0);
    assert_eq!((&read["value"], &read["conflicts"]), (&json!({ "language": "de", "plays": 3 }), &json!({})), "{read}");
    assert_eq!(read, get(&cluster, EU, "u1"));
    assert_eq!(cluster.ok(&of("get", "u1")), "profile/u1\n  language: \"de\"\n  plays: 3\n");
    settle(&cluster, "u1", &read["value"]);

    // Ids are what they are.
    for id in ["a/b", "..", ".", "ü 標%2F?#&+", "a//b/", "-x"] {
        let one = json!([plays(1)]).to_string();
        let apply = ["state", "apply", "--region", EU, "--json", "--", "profile", id, &one];
        let mut command = cluster.command(&[]);
        command.args(apply);
        let done = crate::harness::finish(&mut command, PATIENCE).expect_code(0).document();
        assert_eq!((&done["id"], &done["value"]["plays"]), (&json!(id), &json!(1)), "{done}");
        settle(&cluster, id, &json!({ "plays": 1 }));
    }

    // 1: the answer is no. 2: it was asked wrongly.
    assert!(cluster.run(&of("get", "nobody")).expect_code(1).stderr.contains("no document profile/nobody"));
    for (arguments, why) in [
        (vec!["state", "get", "order", "u1", "--region", EU], "there is `profile`"),
        (vec!["state", "get", "profile", "u1", "--region", "mars"], "mars"),
        (vec!["state", "get", "profile", "u1"], "--region"),
        (with("apply", "u1", &["{"]), "no JSON"),
        (with("apply", "u1", &["7"]), "an array, or an object"),
        (with("apply", "u1", &[r#"[{"field":"plays","op":"set","value":1}]"#]), "a counter has no operation"),
        (with("apply", "u1", &[r#"[{"field":"plays","op":"increment","by":9223372036854775807}]"#]), "beyond 64 bits"),
        (with("apply", "u1", &[r#"[{"field":"plays","op":"increment","by":1}]"#, "--key", ""]), "--key"),
        (with("delete", "u1", &["--key", "ü"]), "--key"),
    ] {
        let done = cluster.run(&arguments).expect_code(2);
        assert!(done.stderr.contains(why) && done.stdout.is_empty(), "{arguments:?}: {done:?}");
    }
    assert_eq!(get(&cluster, EU, "u1"), read, "nothing of it was done");

    assert_eq!(cluster.ok(&with("delete", "u1", &["--key", "bye"])), "profile/u1: deleted\n");
    assert_eq!(cluster.json(&with("delete", "u1", &["--key", "bye"]), 0)["outcome"], "duplicate");
    assert_eq!(cluster.ok(&of("delete", "u1")), "profile/u1: nothing to delete\n");
    settle(&cluster, "u1", &Value::Null);
    cluster.kill_agent(US);
    let done = cluster.run(&["state", "get", "profile", "u1", "--region", US]).expect_code(1);
    assert!(done.stderr.contains(US), "{done:?}");
}

/// Links that stand still leave it to comparing to bring both writes together.
#[test]
fn a_conflict_that_comparing_finds_is_told_in_every_region() {
    let cluster = start(2);
    for (from, to) in [(EU, US), (US, EU)] {
        cluster.ok(&["pause", "--from", from, "--to", to]);
        apply(&cluster, from, "u1", &json!([set("language", from)]));
    }
    settle(&cluster, "u1", &json!({ "language": US }));
    for (from, to) in [(EU, US), (US, EU)] {
        cluster.ok(&["resume", "--from", from, "--to", to]);
    }
    cluster.wait_caught_up();
    agree(
        &cluster,
        "the conflicts",
        |told| *told == json!([[US, EU]]),
        |region| {
            let told = matching(&cluster, region, &json!({ "detail-type": ["State Conflict"] }));
            let both = |event: &Value| json!([event["detail"]["winner"]["value"], event["detail"]["loser"]["value"]]);
            told.iter().map(both).collect()
        },
    );
}

/// What losing the region would cost is also what services did to its documents.
#[test]
fn documents_that_did_not_get_out_count_as_exposed_also_after_a_start() {
    let cluster = start(2);
    cluster.ok(&["pause", "--from", EU, "--to", US]);
    for _ in 0..3 {
        apply(&cluster, EU, "u1", &json!([{ "field": "plays", "op": "increment", "by": 1 }]));
    }
    let is_exposed = || {
        let link = cluster.link(EU, US);
        link["backlog_deltas"] == 3 && link["backlog_events"] == 0 && link["rpo_exposure_seconds"].as_f64() > Some(0.0)
    };
    until(PATIENCE, "three writes to be exposed", is_exposed);
    assert_eq!(cluster.link(US, EU)["backlog_deltas"], 0, "what came over a link is not this region's to bring");
    // They are on disk as documents by then, so that the engine does not read them again.
    thread::sleep(Duration::from_secs(2));
    cluster.kill_agent(EU);
    cluster.start_agent(EU);
    cluster.wait_ready();
    until(PATIENCE, "them to be exposed again", is_exposed);
    let metrics = cluster.metrics(EU);
    assert!((metrics.value("hubweave_link_backlog_deltas", &[("peer", US)]) - 3.0).abs() < 0.1);
    cluster.ok(&["resume", "--from", EU, "--to", US]);
    until(PATIENCE, "nothing to be exposed", || {
        let link = cluster.link(EU, US);
        link["backlog_deltas"] == 0 && link["rpo_exposure_seconds"].as_f64() == Some(0.0)
    });
    assert_eq!(get(&cluster, US, "u1")["value"]["plays"], 3);
}
