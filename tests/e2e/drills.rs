//! Drills, run by hubweave and by Chaos Toolkit, on regions that `up` runs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

use crate::harness::{Cluster, Done, EU, HUBWEAVE, NAMES, PATIENCE, US, clean, finish, is_agent, signal, until};

/// A drill may take 40 s; the rest is for a machine with other things to do.
const DRILL_PATIENCE: Duration = Duration::from_secs(150);

/// How long a test's `agent release` waits, and a step that is one may take.
const RELEASE_WAIT: &str = "60s";
const RELEASE_SECONDS: u64 = 90;

const DOCUMENTS: &str = "[state.profile]\nplays = \"counter\"\nwatchlist = \"set\"\nlanguage = \"register\"\n";

fn cluster() -> Cluster {
    let cluster = Cluster::describe(3, DOCUMENTS);
    cluster.start_window(&[]);
    cluster.wait_ready();
    cluster
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("chaos").join(name)
}

fn all_shipped() -> Vec<PathBuf> {
    let folders = [shipped(""), shipped("aws")];
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).expect("experiments"));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|file| file.extension().is_some_and(|kind| kind == "yaml"));
    files.sort();
    assert!(files.len() >= 13, "{files:?}");
    files
}

/// Writes an experiment with these members into the cluster's folder.
fn experiment(cluster: &Cluster, name: &str, members: &Value) -> String {
    let mut experiment = json!({ "title": name, "description": "of a test", "method": [] });
    let (all, more) = (experiment.as_object_mut().expect("a mapping"), members.as_object().expect("a mapping"));
    all.extend(more.clone());
    let file = cluster.path(&format!("{name}.json"));
    fs::write(&file, experiment.to_string()).expect("writable");
    file.to_str().expect("UTF-8").to_owned()
}

fn process(name: &str, path: &str, arguments: &[&str]) -> Value {
    let provider = json!({ "type": "process", "path": path, "arguments": arguments, "timeout": 20 });
    json!({ "type": "action", "name": name, "provider": provider })
}

fn probe(name: &str, path: &str, arguments: &[&str], tolerance: Value) -> Value {
    let mut probe = process(name, path, arguments);
    probe["type"] = "probe".into();
    probe["tolerance"] = tolerance;
    probe
}

fn run(cluster: &Cluster, file: &Path, code: i32) -> Value {
    let mut command = cluster.command(&["drill", "run", file.to_str().expect("UTF-8"), "--json"]);
    finish(&mut command, DRILL_PATIENCE).expect_code(code).document()
}

/// Chaos Toolkit on this cluster, as `env $(hubweave env) chaos ...` runs it.
fn chaos(cluster: &Cluster, arguments: &[&str]) -> Done {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin");
    let program = tools.join("chaos");
    assert!(program.exists(), "{} is not there: run `make tools`", program.display());
    let mut command = Command::new(program);
    command.args(["--no-version-check"]).args(arguments).current_dir(cluster.path(""));
    clean(&mut command);
    let own = Path::new(HUBWEAVE).parent().expect("a folder");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = [own.to_owned(), tools].into_iter().chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(path).expect("folders"));
    let variables = cluster.ok(&["env"]);
    command.envs(variables.lines().filter_map(|line| line.split_once('=')));
    finish(&mut command, DRILL_PATIENCE)
}

#[test]
fn a_split_brain_drill_passes_and_says_what_it_measured() {
    let cluster = cluster();
    let file = shipped("split-brain.yaml");
    let report = cluster.path("out/report.json");
    let arguments = ["drill", "run", file.to_str().expect("UTF-8"), "--report", report.to_str().expect("UTF-8")];
    let done = finish(&mut cluster.command(&arguments), DRILL_PATIENCE).expect_code(0);
    assert!(done.stdout.contains("split-brain: passed"), "{}", done.stdout);
    let journal: Value = serde_json::from_slice(&fs::read(&report).expect("a report")).expect("JSON");
    for key in ["chaoslib-version", "platform", "node", "experiment", "start", "end", "duration", "run", "rollbacks"] {
        assert!(!journal[key].is_null(), "{key}");
    }
    assert_eq!((&journal["status"], &journal["deviated"]), (&json!("completed"), &json!(false)));
    for when in ["before", "after"] {
        assert_eq!(journal["steady_states"][when]["steady_state_met"], true);
    }
    let measured = &journal["hubweave"];
    assert_eq!((&measured["verdict"], &measured["reasons"]), (&json!("passed"), &json!([])));
    assert_eq!((&measured["lost"], &measured["delivered_twice"]), (&json!(0), &json!(0)));
    assert!(measured["acknowledged"].as_u64() > Some(50), "{measured}");
    assert!(measured["backlog_peak"].as_u64() > Some(0), "writes on both sides waited");
    assert!(measured["detected_seconds"].as_f64().is_some() && measured["catch_up_seconds"].as_f64().is_some());
    // Nothing was evacuated, so there is nothing to say of it.
    assert!(measured["rto_seconds"].is_null() && measured["rpo_seconds"].is_null() && measured["rpo_events"].is_null());
    assert!(measured["conflicts"].is_u64() && measured["duplicates"].is_u64());
    let samples = measured["timeline"]["regions"][EU].as_array().expect("samples");
    assert!(samples.len() > 10, "about five a second");
    let page = fs::read_to_string(report.with_extension("html")).expect("a page");
    assert!(page.contains("split-brain") && page.contains("<polyline") && !page.contains("<script"));
    let again = cluster.run(&["drill", "report", report.to_str().expect("UTF-8")]).expect_code(0);
    assert!(again.stdout.contains("split-brain: passed"), "{}", again.stdout);
}

#[test]
fn an_agent_that_dies_three_times_loses_nothing() {
    let cluster = cluster();
    let journal = run(&cluster, &shipped("agent-crash-loop.yaml"), 0);
    assert_eq!((&journal["hubweave"]["verdict"], &journal["hubweave"]["lost"]), (&json!("passed"), &json!(0)));
    let runs = journal["run"].as_array().expect("runs").iter();
    let deaths = runs.filter(|run| run["activity"]["name"].as_str().is_some_and(|name| name.ends_with("-death")));
    let killed = |run: &Value| {
        let said: Value = serde_json::from_str(run["output"]["stdout"].as_str().expect("text")).expect("JSON");
        said["killed"] == true
    };
    assert_eq!(deaths.map(killed).collect::<Vec<bool>>(), [true; 3], "each time there was somebody to kill");
    let reports = fs::read_dir(cluster.path("drills")).expect("the usual place").map(|entry| entry.expect("an entry"));
    let names: Vec<String> = reports.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    for ending in ["Z.json", "Z.html"] {
        assert!(names.iter().any(|name| name.starts_with("agent-crash-loop-") && name.ends_with(ending)), "{names:?}");
    }
    let folder = shipped("");
    let list = cluster.json(&["drill", "list", folder.to_str().expect("UTF-8")], 0);
    let drills = list["drills"].as_array().expect("drills");
    assert_eq!(drills.len(), all_shipped().len());
    let crash = drills.iter().find(|drill| drill["drill"] == "agent-crash-loop").expect("this one");
    assert_eq!((&crash["runs"], &crash["last_verdict"]), (&json!(1), &json!("passed")));
    assert!(crash["seconds_since_passed"].as_f64().is_some_and(|age| age <= 300.0), "{crash}");
    let never = drills.iter().find(|drill| drill["drill"] == "slow-link").expect("another");
    assert_eq!((&never["runs"], &never["last_passed"]), (&json!(0), &Value::Null));
}

#[test]
fn regions_are_lost_left_and_restored_one_after_the_other_and_nothing_is_lost() {
    let cluster = Cluster::describe(
        3,
        "[state.profile]\nplays = \"counter\"\n\n[claim_check]\nreference = [\"/detail/claimCheck\"]\n",
    );
    cluster.start_window(&[]);
    cluster.wait_ready();
    for name in ["region-loss", "graceful-evacuation", "restore-old-backup"] {
        let file = shipped(&format!("{name}.yaml"));
        let mut command = cluster.command(&["drill", "run", file.to_str().expect("UTF-8"), "--json"]);
        let journal = finish(&mut command, DRILL_PATIENCE).document();
        let measured = &journal["hubweave"];
        assert_eq!(measured["verdict"], "passed", "{name}: {}\n{}", measured["reasons"], journal["run"]);
        assert_eq!(measured["lost"], 0, "{name}");
        assert!(measured["acknowledged"].as_u64() > Some(0) && measured["catch_up_seconds"].is_f64(), "{name}");
    }
}

#[test]
fn every_shipped_experiment_is_one_for_chaos_toolkit_too() {
    let cluster = Cluster::describe(3, "");
    for file in all_shipped() {
        let done = chaos(&cluster, &["validate", file.to_str().expect("UTF-8")]);
        assert_eq!(done.code, Some(0), "{}: {}{}", file.display(), done.stdout, done.stderr);
        let text = fs::read_to_string(&file).expect("readable");
        assert!(text.starts_with("# Rehearses "), "{} says what it is for", file.display());
    }
}

#[test]
fn chaos_toolkit_runs_a_shipped_experiment_end_to_end() {
    let cluster = cluster();
    let file = shipped("one-way-partition.yaml");
    let report = cluster.path("chaos.json");
    let report = report.to_str().expect("UTF-8");
    let done = chaos(&cluster, &["run", "--journal-path", report, file.to_str().expect("UTF-8")]);
    assert_eq!(done.code, Some(0), "{}{}", done.stdout, done.stderr);
    let journal: Value = serde_json::from_slice(&fs::read(report).expect("a journal")).expect("JSON");
    assert_eq!((&journal["status"], &journal["deviated"]), (&json!("completed"), &json!(false)));
    let runs = journal["run"].as_array().expect("runs").iter().chain(journal["rollbacks"].as_array().expect("runs"));
    assert!(runs.into_iter().all(|run| run["output"]["status"] == 0), "{journal}");
    cluster.verify(&cluster.path("drills/one-way-partition.load.jsonl"));
}

/// What both runners must say alike of an experiment: statuses, outputs and tolerances.
fn outcome(journal: &Value) -> Value {
    let runs = |list: &Value| -> Vec<String> {
        let one = |run: &Value| {
            let output = &run["output"];
            let parts =
                [&run["activity"]["name"], &run["status"], &output["status"], &output["stdout"], &output["body"]];
            json!([parts, run["tolerance_met"]]).to_string()
        };
        let mut runs: Vec<String> = list.as_array().into_iter().flatten().map(one).collect();
        // What runs beside the others has no place among them.
        runs.sort();
        runs
    };
    let state = |state: &Value| json!([state["steady_state_met"], runs(&state["probes"])]);
    json!({
        "status": journal["status"],
        "deviated": journal["deviated"],
        "before": state(&journal["steady_states"]["before"]),
        "after": state(&journal["steady_states"]["after"]),
        "run": runs(&journal["run"]),
        "rollbacks": runs(&journal["rollbacks"]),
    })
}

#[test]
fn both_runners_say_the_same_of_the_same_file() {
    let cluster = Cluster::start();
    let admin = cluster.region(EU).admin;
    let http = |name: &str, path: &str, tolerance: Value| {
        let provider = json!({ "type": "http", "url": format!("http://${{host}}:{admin}{path}"), "timeout": 5 });
        json!({ "type": "probe", "name": name, "provider": provider, "tolerance": tolerance })
    };
    let mut shell = process("a line for the shell", "echo", &[]);
    shell["provider"]["arguments"] = "'${word}' $$HOME_IS_UNSET | tr m M".into();
    let mut mapping = process("a mapping", "echo", &[]);
    mapping["provider"]["arguments"] = json!({ "-n": "${number}" });
    let mut slow = process("too slow", "sleep", &["5"]);
    slow["provider"]["timeout"] = json!(0.3);
    let mut waits = process("waits", "echo", &["${number}", "${flag}", "${nothing}", "", "$$1"]);
    waits["pauses"] = json!({ "before": "${pause}", "after": 0.1 });
    let mut beside = process("beside", "echo", &["beside"]);
    beside["background"] = true.into();
    let members = json!({
        "configuration": {
            "host": "127.0.0.1", "word": "many words", "number": 7, "flag": true, "pause": 0.1,
            "home": { "type": "env", "key": "HUBWEAVE_REGION_1" },
            "port": { "type": "env", "key": "NO_SUCH_VARIABLE", "default": "80", "env_var_type": "int" },
        },
        "method": [
            shell, mapping, waits, slow, beside,
            process("fails", "sh", &["-c", "echo no; exit 3"]),
            process("names a region", "echo", &["${home}", "${port}"]),
            { "ref": "fails" },
        ],
        "rollbacks": [process("puts back", "echo", &["back"])],
        "runtime": { "rollbacks": { "strategy": "always" } },
    });
    for (name, last, met) in [
        ("holds", json!({ "type": "range", "target": "stdout", "range": [1, 10] }), true),
        ("does-not-hold", json!({ "type": "range", "target": "stdout", "range": [8, 10] }), false),
    ] {
        let mut members = members.clone();
        members["steady-state-hypothesis"] = json!({ "title": "h", "probes": [
            http("ready", "/readyz", json!(200)),
            http("one of", "/no-such-path", json!([404, 405])),
            http("its words", "/readyz", json!({ "type": "regex", "target": "body", "pattern": "^read" })),
            probe("code", "sh", &["-c", "exit 3"], json!(3)),
            probe("number", "echo", &["7"], last),
        ]});
        let file = experiment(&cluster, name, &members);
        let report = cluster.path("chaos.json");
        chaos(&cluster, &["run", "--journal-path", report.to_str().expect("UTF-8"), &file]);
        let theirs: Value = serde_json::from_slice(&fs::read(&report).expect("a journal")).expect("JSON");
        // An action that ends with 3 is a no for the verdict, though not for the format.
        let ours = run(&cluster, Path::new(&file), 1);
        let (ours_says, mut theirs_says) = (outcome(&ours), outcome(&theirs));
        if !met {
            // Where nothing was begun nothing is put back here.
            theirs_says["rollbacks"] = json!([]);
        }
        assert_eq!(ours_says, theirs_says, "{name}");
        assert_eq!(ours["steady_states"]["before"]["steady_state_met"], met);
    }
}

#[test]
fn a_broken_experiment_is_refused_in_one_line_before_anything_is_touched() {
    let cluster = Cluster::describe(3, "");
    let text = "title: a\ndescription: b\nmethod:\n  - type: action\n    name: x\n    provider:\n      type: python\n      module: m\n";
    let file = cluster.path("broken.yaml");
    fs::write(&file, text).expect("writable");
    let file = file.to_str().expect("UTF-8");
    let done = cluster.run(&["drill", "run", file]).expect_code(2);
    let expected = format!("error: {file}, line 7: type: python: ");
    assert!(done.stderr.starts_with(&expected) && done.stderr.lines().count() == 1, "{}", done.stderr);
    assert!(done.stdout.is_empty() && !cluster.path("drills").exists(), "{}", done.stdout);
    for (text, line) in
        [("title: a\n b: c\n", 2), ("title: [a\n", 2), ("{\"title\": \"a\",\n\"description\" \"b\"}\n", 2)]
    {
        fs::write(cluster.path("broken.yaml"), text).expect("writable");
        let done = cluster.run(&["drill", "run", file]).expect_code(2);
        let said = done.stderr.lines().next().unwrap_or_default();
        assert!(
            said.contains(&format!("{file}, line ")) && done.stderr.lines().count() == 1,
            "{line}: {}",
            done.stderr
        );
    }
    cluster.run(&["drill", "run", "no-such-file.yaml"]).expect_code(2);
}

#[test]
fn a_drill_is_refused_where_it_does_not_fit() {
    let cluster = Cluster::start();
    let fault =
        |region: &str| process("cut", "hubweave", &["fault", "inject", "--region", region, "--kind", "partition"]);
    let strange = experiment(&cluster, "strange", &json!({ "method": [fault("atlantis")] }));
    let done = cluster.run(&["drill", "run", &strange]).expect_code(2);
    assert!(done.stderr.contains("line 1: --region: atlantis: no region of"), "{}", done.stderr);
    let kills = json!({ "method": [process("kill", "hubweave", &["agent", "kill", "--region", EU])] });
    let kills = experiment(&cluster, "kills", &kills);
    let done = cluster.run(&["drill", "run", &kills]).expect_code(1);
    assert!(done.stderr.contains("not run by `hubweave up`"), "{}", done.stderr);
    let cuts = experiment(&cluster, "cuts", &json!({ "method": [fault(EU)] }));
    let text = fs::read_to_string(&cluster.file).expect("the topology");
    let calm = cluster.path("calm.toml");
    fs::write(&calm, text.replace("enabled = true", "enabled = false")).expect("writable");
    let mut command = Command::new(HUBWEAVE);
    command.args(["drill", "run", &cuts, "--config"]).arg(&calm).current_dir(cluster.path(""));
    clean(&mut command);
    let done = finish(&mut command, PATIENCE).expect_code(1);
    assert!(done.stderr.contains("faults.enabled is false"), "{}", done.stderr);
    cluster.kill_agent(US);
    let done = cluster.run(&["drill", "run", &cuts]).expect_code(1);
    assert!(done.stderr.contains(US) && done.stderr.contains("all regions serve"), "{}", done.stderr);
    let faults = cluster.json(&["fault", "list", "--region", EU], 0);
    assert_eq!(faults["faults"], json!([]), "nothing was touched");
}

#[test]
fn a_region_that_was_left_on_purpose_is_not_brought_back_by_a_drill() {
    let cluster = Cluster::start();
    let file = shipped("graceful-evacuation.yaml");
    let drill = ["drill", "run", file.to_str().expect("UTF-8")];
    cluster.ok(&["fault", "inject", "--region", EU, "--kind", "delay", "--delay", "1ms"]);
    let done = cluster.run(&drill).expect_code(1);
    assert!(done.stderr.contains(&format!("{EU} has faults already")), "{}", done.stderr);
    let cleared = cluster.json(&["fault", "clear", "--region", EU], 0);
    assert_eq!(cleared["cleared"], 1, "it was left as it is");
    cluster.ok(&["failover", "execute", "--region", US]);
    let done = cluster.run(&drill).expect_code(1);
    assert!(done.stderr.contains(&format!("all regions serve: {US} is evacuated")), "{}", done.stderr);
    assert!(done.stdout.is_empty() && !cluster.path("drills").exists(), "{}", done.stdout);
    assert_eq!(cluster.status(US)["state"], "evacuated");
}

#[test]
fn one_drill_at_a_time() {
    let cluster = Cluster::start();
    let mark = cluster.path("began");
    let go = cluster.path("go");
    let script = format!("touch {}; while [ ! -e {} ]; do sleep 0.1; done", mark.display(), go.display());
    let mut waits = process("waits", "sh", &["-c", &script]);
    waits["provider"]["timeout"] = 90.into();
    let first = experiment(&cluster, "first", &json!({ "method": [waits] }));
    let second = experiment(&cluster, "second", &json!({}));
    let mut command = cluster.command(&["drill", "run", &first]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut child = child.expect("hubweave starts");
    until(PATIENCE, "the first to begin", || mark.exists());
    let done = cluster.run(&["drill", "run", &second]).expect_code(1);
    assert!(
        done.stderr.contains("one drill at a time") && done.stderr.contains("drill first is running"),
        "{}",
        done.stderr
    );
    fs::write(&go, "").expect("writable");
    assert!(child.wait().expect("it ends").success(), "the second did not disturb the first");
    cluster.run(&["drill", "run", &second]).expect_code(0);
}

#[test]
fn an_interrupted_drill_puts_everything_back() {
    let cluster = cluster();
    let before = cluster.pid_file(US).expect("a pid");
    let cut = ["fault", "inject", "--region", EU, "--peer", NAMES[2], "--kind", "partition"];
    let journal = cluster.path("load.jsonl");
    let load = ["load", "--rate", "50", "--duration", "60s", "--journal", journal.to_str().expect("UTF-8")];
    let mut load = process("load", "hubweave", &load);
    load["background"] = true.into();
    load["provider"]["timeout"] = 90.into();
    let mut kill = process("kill", "hubweave", &["agent", "kill", "--region", US, "--hold"]);
    kill["pauses"] = json!({ "after": 60 });
    let mut start = process("start", "hubweave", &["agent", "release", "--region", US, "--wait", RELEASE_WAIT]);
    start["provider"]["timeout"] = RELEASE_SECONDS.into();
    let members = json!({
        "method": [load, process("cut", "hubweave", &cut), kill],
        "rollbacks": [
            process("heal", "hubweave", &["fault", "clear", "--region", EU]),
            start,
        ],
    });
    let file = experiment(&cluster, "long", &members);
    let report = cluster.path("report.json");
    let mut command = cluster.command(&["drill", "run", &file, "--report", report.to_str().expect("UTF-8")]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut child = child.expect("hubweave starts");
    until(PATIENCE, "the region to be dead", || !is_agent(before));
    signal(child.id(), "INT");
    // Somebody who cannot wait.
    std::thread::sleep(Duration::from_millis(200));
    signal(child.id(), "INT");
    let mut code = None;
    until(DRILL_PATIENCE, "the drill to end", || {
        code = child.try_wait().expect("a child");
        code.is_some()
    });
    assert_eq!(code.and_then(|code| code.code()), Some(1));
    assert!(!cluster.region(US).data_dir.join("agent.hold").exists());
    cluster.wait_ready();
    assert_eq!(cluster.json(&["fault", "list", "--region", EU], 0)["faults"], json!([]));
    let journal: Value = serde_json::from_slice(&fs::read(&report).expect("a report")).expect("JSON");
    assert_eq!((&journal["status"], &journal["hubweave"]["verdict"]), (&json!("interrupted"), &json!("failed")));
    let undone = journal["rollbacks"].as_array().expect("rollbacks");
    assert!(undone.len() == 2 && undone.iter().all(|run| run["output"]["status"] == 0), "{undone:?}");
    assert!(journal["hubweave"]["lost"].is_null(), "nobody looked");
    // And the next one may begin.
    let next = experiment(&cluster, "next", &json!({}));
    cluster.run(&["drill", "run", &next]).expect_code(0);
}

#[test]
fn a_hypothesis_that_fails_meanwhile_stops_the_drill() {
    let cluster = Cluster::start();
    let mark = cluster.path("bad");
    let mark = mark.to_str().expect("UTF-8");
    let mut spoil = process("spoil", "touch", &[mark]);
    spoil["pauses"] = json!({ "before": 3, "after": 60 });
    let members = json!({
        "steady-state-hypothesis": { "title": "h", "probes": [probe("no mark", "test", &["!", "-e", mark], json!(0))] },
        "method": [spoil, process("never", "true", &[])],
        "rollbacks": [process("wipe", "rm", &["-f", mark])],
        "runtime": { "hypothesis": { "strategy": "continuously", "frequency": 0.2 } },
    });
    let file = experiment(&cluster, "continuous", &members);
    let journal = run(&cluster, Path::new(&file), 1);
    assert_eq!((&journal["deviated"], &journal["hubweave"]["verdict"]), (&json!(true), &json!("failed")));
    assert!(journal["hubweave"]["reasons"].to_string().contains("during the method: probe `no mark`"), "{journal}");
    let during = journal["steady_states"]["during"].as_array().expect("looks");
    let met: Vec<bool> = during.iter().map(|state| state["steady_state_met"] == true).collect();
    assert!(met.first() == Some(&true) && met.last() == Some(&false), "{met:?}");
    assert_eq!(journal["run"].as_array().map(Vec::len), Some(1), "the rest was not done");
    assert!(!Path::new(mark).exists(), "it was rolled back");
    // Where there is nothing to look at, nothing stops it.
    let members = json!({
        "method": [process("waits", "sleep", &["1"]), process("then", "true", &[])],
        "runtime": { "hypothesis": { "strategy": "continuously" } },
    });
    let file = experiment(&cluster, "blind", &members);
    let journal = run(&cluster, Path::new(&file), 0);
    assert_eq!(journal["run"].as_array().map(Vec::len), Some(2), "all of it was done");
}

#[test]
fn agents_are_killed_only_where_faults_are_enabled() {
    let cluster = Cluster::start_up();
    let before = cluster.pid_file(EU).expect("a pid");
    let killed = cluster.json(&["agent", "kill", "--region", EU, "--hold"], 0);
    assert_eq!((&killed["killed"], &killed["pid"]), (&json!(true), &json!(before)));
    assert!(!is_agent(before));
    let again = cluster.json(&["agent", "kill", "--region", EU, "--hold"], 0);
    assert_eq!(again["killed"], false);
    let release = ["agent", "release", "--region", EU, "--wait", RELEASE_WAIT];
    let released = cluster.json(&release, 0);
    assert_eq!((&released["was_held"], &released["ready"]), (&json!(true), &json!(true)));
    assert_eq!(cluster.json(&release, 0)["was_held"], false);
    let text = fs::read_to_string(&cluster.file).expect("the topology");
    fs::write(&cluster.file, text.replace("enabled = true", "enabled = false")).expect("writable");
    let refused = cluster.run(&["agent", "kill", "--region", EU]).expect_code(1);
    assert!(refused.stderr.contains("faults.enabled"), "{}", refused.stderr);
    assert!(cluster.pid_file(EU).is_some_and(is_agent));
}
