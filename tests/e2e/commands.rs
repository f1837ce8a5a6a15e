//! What holds for every command: exit codes, `--json`, errors as one block on standard error.

use serde_json::{Value, json};

use crate::harness::{Cluster, EU, US, hubweave};

#[test]
fn json_is_exactly_one_document_for_every_report_command() {
    let cluster = Cluster::start_with(2, "");
    cluster.publish(EU, "one", "{}");
    cluster.wait_for_key(US, "one");
    let journal = cluster.path("j.jsonl");
    let journal = journal.to_str().expect("UTF-8");
    let reports: &[&[&str]] = &[
        &["check"],
        &["env"],
        &["status"],
        &["publish", "--region", EU, "--source", "s", "--detail-type", "t", "--detail", "{}", "--count", "3"],
        &["explain", "--key", "one"],
        &["replay", "--from", EU, "--to", US, "--dry-run"],
        &["repair", "--origin", EU, "--from", EU, "--to", US, "--dry-run"],
        &["load", "--rate", "50", "--duration", "1s", "--journal", journal],
        &["verify", "--journal", journal],
        &["verify"],
        &["dlq", "list", "--region", EU],
        &["dlq", "show", "--region", EU],
        &["dlq", "redrive", "--region", EU, "--dry-run"],
        &["dlq", "discard", "--region", EU, "--dry-run"],
        &["pause", "--from", EU, "--to", US],
        &["resume", "--from", EU, "--to", US],
        &["fault", "inject", "--region", EU, "--kind", "delay", "--delay", "1ms"],
        &["fault", "list", "--region", EU],
        &["fault", "clear", "--region", EU],
    ];
    for report in reports {
        let document = cluster.json(report, 0);
        assert!(document.is_object() || document.is_array(), "{report:?}: {document}");
        // Also before the command's own options, and before its sub-command's name.
        let mut first = vec![report[0], "--json"];
        first.extend(&report[1..]);
        cluster.run(&first).expect_code(0).document();
    }
}

#[test]
fn status_has_the_documented_fields_and_a_table_for_people() {
    let cluster = Cluster::start_with(2, "");
    let status = cluster.status(EU);
    for key in ["region", "state", "incarnation", "links", "documents", "events"] {
        assert!(!status[key].is_null(), "{key}: {status}");
    }
    let link = &status["links"][0];
    for key in ["peer", "state", "lag_seconds", "backlog_events", "watermark", "rpo_exposure_seconds", "dead_letters"] {
        assert!(!link[key].is_null(), "{key}: {link}");
    }
    assert!(link["lag_seconds"].get("p50").is_some() && link["lag_seconds"].get("p99").is_some());
    let text = cluster.ok(&["status"]);
    assert!(text.contains(EU) && text.contains(&format!("{EU} to {US}")), "{text}");
    assert!(!text.contains('\x1b'), "colours where there is no terminal");
}

#[test]
fn an_unreachable_region_is_a_no_and_not_a_hang() {
    let cluster = Cluster::start_with(2, "");
    cluster.kill_agent(US);
    let commands: &[&[&str]] = &[
        &["status"],
        &["publish", "--region", US, "--source", "s", "--detail-type", "t", "--detail", "{}"],
        &["tail", "--region", US, "--limit", "1"],
        &["explain", "--key", "k"],
        &["replay", "--from", US, "--to", EU],
        &["dlq", "list", "--region", US],
        &["pause", "--from", US, "--to", EU],
        &["fault", "list", "--region", US],
        &["verify", "--wait", "1s"],
    ];
    for command in commands {
        let done = cluster.run(command).expect_code(1);
        assert!((done.stderr + &done.stdout).contains(US), "{command:?} does not say who");
    }
    let status = cluster.json(&["status"], 1);
    assert!(status["regions"][1]["error"].is_string(), "{status}");
    let verify = cluster.json(&["verify", "--wait", "0s"], 1);
    assert_eq!(verify["unreachable"][0]["region"], US);
}

#[test]
fn bad_arguments_end_with_2_and_say_what_would_be_right() {
    let cluster = Cluster::describe(2, "");
    let publish = ["publish", "--region", "atlantis", "--source", "s", "--detail-type", "t", "--detail", "{}"];
    let commands: &[(&[&str], &str)] = &[
        (&["run", "--region", "atlantis"], US),
        (&publish, US),
        (&["tail", "--region", "atlantis"], US),
        (&["replay", "--from", EU, "--to", EU], EU),
        (&["pause", "--from", EU, "--to", "atlantis"], US),
        (&["verify", "--journal", "no-such-file"], "no-such-file"),
        (&["load", "--rate", "1", "--duration", "1s", "--journal", "no/such/folder/j"], "no/such/folder/j"),
        (&["fault", "inject", "--region", EU, "--kind", "meteor"], "partition"),
        (&["failover", "plan", "--region", "atlantis"], US),
        (&["failover", "resume", "--region", EU], "resume"),
        (&["no-such-command"], "no-such-command"),
        (&["publish", "--region", EU, "--source", "s", "--detail-type", "t", "--detail", "[1]"], "object"),
        (&["publish", "--region", EU, "--source", "s", "--detail-type", "t", "--detail", "{"], "JSON"),
        (&["tail", "--region", EU, "--pattern", r#"{"source":[{"prefixx":"a"}]}"#], "prefixx"),
    ];
    for (command, named) in commands {
        let done = cluster.run(command).expect_code(2);
        assert!(done.stderr.contains(named), "{command:?}: {}", done.stderr);
        assert_eq!(done.stdout, "", "{command:?}");
    }
    let none = hubweave(&[], cluster.path("").as_path());
    assert_eq!(none.code, Some(2));
    assert!(none.stderr.contains("Usage"), "{}", none.stderr);
}

#[test]
fn help_and_version_end_with_0() {
    let directory = tempfile::tempdir().expect("a directory");
    for arguments in [&["--help"][..], &["--version"], &["up", "--help"], &["fault", "inject", "--help"]] {
        let done = hubweave(arguments, directory.path()).expect_code(0);
        assert!(!done.stdout.is_empty() && done.stderr.is_empty());
    }
}

#[test]
fn tail_reads_from_the_start_from_an_offset_and_by_pattern() {
    let cluster = Cluster::start_with(1, "");
    for n in 1..=5 {
        cluster.publish(EU, &format!("t-{n}"), &format!(r#"{{"n":{n}}}"#));
    }
    let tail = |arguments: &[&str]| -> Vec<u64> {
        let text = cluster.ok(&[&["tail", "--region", EU][..], arguments].concat());
        let events = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("one envelope a line"));
        events.map(|event| event["detail"]["n"].as_u64().expect("a number")).collect()
    };
    assert_eq!(tail(&["--from", "start", "--limit", "5"]), [1, 2, 3, 4, 5], "heartbeats are not shown");
    let pattern = r#"{"detail":{"n":[{"numeric":[">",3]}]}}"#;
    assert_eq!(tail(&["--from", "start", "--limit", "2", "--pattern", pattern]), [4, 5]);
    let page = crate::harness::Request::get("/v1/events?from=start&limit=1000").send(cluster.region(EU).api).json();
    let events = page["events"].as_array().expect("events");
    let third =
        events.iter().find(|event| event["envelope"]["detail"]["n"] == 3).expect("the third")["offset"].to_string();
    assert_eq!(tail(&["--from", &third, "--limit", "2"]), [3, 4]);
}

#[test]
fn a_closed_pipe_is_no_error() {
    let cluster = Cluster::start_with(1, "");
    cluster.ok(&["publish", "--region", EU, "--source", "s", "--detail-type", "t", "--detail", "{}", "--count", "50"]);
    let mut tail = cluster.command(&["tail", "--region", EU, "--from", "start", "--limit", "50"]);
    let mut tail =
        tail.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().expect("tail");
    drop(tail.stdout.take());
    let done = tail.wait_with_output().expect("it ends");
    assert_eq!((done.status.code(), String::from_utf8_lossy(&done.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn publish_with_a_count_numbers_its_keys() {
    let cluster = Cluster::start_with(1, "");
    let command = ["publish", "--region", EU, "--source", "s", "--detail-type", "t", "--detail", "{\"a\":1}"];
    let mut command = command.to_vec();
    command.extend(["--key", "K", "--count", "12"]);
    let answer = cluster.json(&command, 0);
    assert_eq!(answer["ids"].as_array().expect("ids").len(), 12);
    for n in 0..12 {
        let events = cluster.with_key(EU, &format!("K-{n}"));
        assert_eq!((events.len(), &events[0]["detail"]["a"]), (1, &json!(1)));
    }
    // Again: the same keys and the same payload are the same events.
    assert_eq!(cluster.json(&command, 0)["ids"], answer["ids"]);
    assert_eq!(cluster.status(EU)["events"], 12);
    // Another payload under a known key is refused.
    command[8] = "{\"a\":2}";
    assert_eq!(cluster.run(&command).code, Some(1));
}

#[test]
fn env_prints_what_experiments_need() {
    let cluster = Cluster::describe(2, "");
    let text = cluster.ok(&["env"]);
    let region = cluster.region(EU);
    for line in [
        format!("HUBWEAVE_CONFIG={}", cluster.file.display()),
        format!("HUBWEAVE_API_EU_CENTRAL_1=127.0.0.1:{}", region.api),
        format!("HUBWEAVE_ADMIN_EU_CENTRAL_1=127.0.0.1:{}", region.admin),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}
