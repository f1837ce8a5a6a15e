//! Topology files as users write them, the good ones that are shipped and bad ones, through the command line.

use std::{fs, path::Path};

use crate::harness::{Done, hubweave};

fn check(text: &str) -> Done {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("t.toml"), text).expect("writable");
    hubweave(&["check", "--config", "t.toml"], directory.path())
}

#[test]
fn a_bad_file_ends_with_2_and_one_line_that_says_where_and_why() {
    let region = "[[region]]\nname = \"eu\"\n";
    // The file, the line, the key, the value, a word of the reason.
    let bad: &[(&str, usize, &str, &str, &str)] = &[
        ("[[region]]\nname = \"eu\"\nnonsense = 7\n", 3, "region[0].nonsense", "7", "nonsense"),
        ("[[region]]\nname = \"eu\"\n\n[[region]]\nname = \"eu\"\n", 5, "region[1].name", "eu", ""),
        ("[[region]]\nname = \"eu\"\nbackend = \"azure\"\n", 3, "region[0].backend", "azure", "embedded"),
        ("[[region]]\nname = \"eu\"\napi = \"nowhere\"\n", 3, "region[0].api", "nowhere", ""),
        ("[[region]]\nname = \"eu\"\n[idempotency]\nretention = \"15\"\n", 4, "idempotency.retention", "15", ""),
        ("[[region]]\nname = \"eu\"\n[state.profile]\nx = \"heap\"\n", 4, "state.profile.x", "heap", "counter"),
        ("[[region]]\nname = \"eu\"\n[[link]]\nfrom = \"eu\"\nto = \"mars\"\n", 5, "link[0].to", "mars", ""),
        (
            "[[region]]\nname = \"eu\"\n[replication]\npattern = { source = [{ prefixx = \"a\" }] }\n",
            4,
            "replication.pattern",
            "prefixx",
            "",
        ),
        ("[[region]]\nname = \"eu\"\nname = \"us\"\n", 3, "", "", ""),
        ("[[region]\nname = \"eu\"\n", 1, "", "", ""),
    ];
    for (text, line, key, value, why) in bad {
        let done = check(text).expect_code(2);
        let place = format!("t.toml, line {line}: {key}");
        let lines: Vec<&str> = done.stderr.lines().filter(|found| found.starts_with(&place)).collect();
        assert_eq!(lines.len(), 1, "{text}\nexpected one line `{place}…`, got:\n{}", done.stderr);
        assert!(lines[0].contains(value) && lines[0].contains(why), "{}", lines[0]);
        assert!(lines[0].matches(": ").count() >= 3, "FILE, line N: KEY: VALUE: why; got {}", lines[0]);
        assert!(!done.stderr.contains(['\x1b', '│', '╭']), "{}", done.stderr);
        assert_eq!(done.stdout, "");
    }
    check(region).expect_code(0);
}

#[test]
fn every_problem_of_a_file_is_named_at_once() {
    let done =
        check("[cluster]\nmin_active = \"x\"\n[[region]]\nname = \"EU\"\n[heartbeat]\ninterval = \"1 fortnight\"\n");
    let done = done.expect_code(2);
    for line in ["line 2: cluster.min_active", "line 4: region[0].name", "line 6: heartbeat.interval"] {
        assert!(done.stderr.contains(line), "{line}\n{}", done.stderr);
    }
}

#[test]
fn a_file_that_is_not_there_ends_with_2_for_every_command() {
    let directory = tempfile::tempdir().expect("a directory");
    for command in [&["check"][..], &["up"], &["run", "--region", "eu"], &["status"], &["verify"]] {
        let done = hubweave(&[command, &["--config", "absent.toml"]].concat(), directory.path()).expect_code(2);
        assert!(done.stderr.contains("absent.toml"), "{}", done.stderr);
    }
}

#[test]
fn the_shipped_files_are_valid_and_explained() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in ["config/local.toml", "config/aws.toml", "config/reference.toml"] {
        let done = hubweave(&["check", "--config", file], root);
        let why = &done.stderr;
        assert!(done.code == Some(0) || (file.contains("aws") && why.contains("${")), "{file}: {why}");
    }
    let text = hubweave(&["check", "--config", "config/local.toml"], root).expect_code(0).stdout;
    for word in ["eu-central-1", "us-east-1", "ap-southeast-2", "retention", "15d"] {
        assert!(text.contains(word), "{word} is not explained:\n{text}");
    }
}

#[test]
fn names_are_replaced_from_the_environment_and_an_absent_one_is_named() {
    let done = check("[[region]]\nname = \"eu\"\ndata_dir = \"${NO_SUCH_NAME_HERE}/x\"\n").expect_code(2);
    assert!(done.stderr.contains("t.toml, line 3: region[0].data_dir") && done.stderr.contains("NO_SUCH_NAME_HERE"));
}
