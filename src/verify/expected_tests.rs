//! What a journal's operations make of documents, and what is no fault of theirs.

use super::{documents::Journal, journal};
use crate::core::{json, state::Key};

const RUN: &str = "load-1";

/// A journal of a run: ops of one document, those behind `?` without an answer, those behind `!` in two regions.
fn journal(lines: &[&str], has_ended: bool) -> super::expected::Expected {
    let line = |text: &&str| {
        let (op, moved, ops) = match text.split_at(1) {
            ("?", rest) => ("state-unanswered", false, rest),
            ("!", rest) => ("state", true, rest),
            _ => ("state", false, *text),
        };
        format!(r#"{{"op":"{op}","region":"eu","type":"profile","id":"{RUN}-7","ops":[{ops}],"moved":{moved}}}"#)
    };
    let mut text: Vec<String> = lines.iter().map(line).collect();
    if has_ended {
        text.push(format!(r#"{{"op":"end","run":"{RUN}"}}"#));
    }
    journal::read((text.join("\n") + "\n").as_bytes()).expect("a journal").documents
}

/// What is missing, and what is too much, each as `field: found, expected`.
fn judge(expected: &super::expected::Expected, value: Option<&str>) -> (Vec<String>, Vec<String>) {
    let mut report = expected.journal();
    let value = value.map(|value| json::parse(value).expect("JSON"));
    expected.judge(&Key::new("profile", "load-1-7"), "us", value.as_ref(), &mut report);
    let Journal { lost, lost_count, twice, twice_count, .. } = report;
    assert_eq!((lost.len() as u64, twice.len() as u64), (lost_count, twice_count));
    let text = |findings: Vec<super::documents::OperationFinding>| {
        let line = |finding: super::documents::OperationFinding| {
            assert_eq!(finding.region, "us");
            format!("{}: {}, {}", finding.field, finding.found.as_deref().unwrap_or("-"), finding.expected)
        };
        findings.into_iter().map(line).collect()
    };
    (text(lost), text(twice))
}

fn nothing() -> (Vec<String>, Vec<String>) {
    (Vec::new(), Vec::new())
}

fn missing(line: &str) -> (Vec<String>, Vec<String>) {
    (vec![line.to_owned()], Vec::new())
}

fn surplus(line: &str) -> (Vec<String>, Vec<String>) {
    (Vec::new(), vec![line.to_owned()])
}

const PLAY: &str = r#"{"field":"plays","op":"increment","by":2}"#;

#[test]
fn counters_are_sums_and_unanswered_requests_make_them_ranges() {
    let sure = journal(&[PLAY, PLAY], true);
    assert_eq!(judge(&sure, Some(r#"{"plays":4}"#)), nothing());
    assert_eq!(judge(&sure, Some(r#"{"plays":2}"#)), missing("plays: 2, 4"));
    assert_eq!(judge(&sure, Some(r#"{"plays":6}"#)), surplus("plays: 6, 4"));
    assert_eq!(judge(&sure, Some("{}")), missing("plays: -, 4"));
    assert_eq!(judge(&sure, None), missing("plays: -, 4"));
    let perhaps = journal(&[PLAY, &format!("?{PLAY}")], true);
    assert_eq!(judge(&perhaps, Some(r#"{"plays":2}"#)), nothing());
    assert_eq!(judge(&perhaps, Some(r#"{"plays":4}"#)), nothing());
    assert_eq!(judge(&perhaps, Some(r#"{"plays":6}"#)), surplus("plays: 6, 2 to 4"));
    assert_eq!(judge(&perhaps, Some(r#"{"plays":1}"#)), missing("plays: 1, 2 to 4"));
    let only_perhaps = journal(&[&format!("?{PLAY}")], true);
    assert_eq!(judge(&only_perhaps, None), nothing());
    assert_eq!(judge(&only_perhaps, Some(r#"{"plays":0}"#)), nothing());
    let down = r#"{"field":"plays","op":"increment","by":-3}"#;
    assert_eq!(judge(&journal(&[down], false), Some(r#"{"plays":0}"#)), missing("plays: 0, -3"));
}

#[test]
fn more_than_was_asked_for_is_told_only_of_a_run_that_ended() {
    let running = journal(&[PLAY, r#"{"field":"watchlist","op":"add","value":"m"}"#], false);
    assert_eq!(judge(&running, Some(r#"{"plays":8,"watchlist":["m","n"]}"#)), nothing());
    let ended = journal(&[PLAY, r#"{"field":"watchlist","op":"add","value":"m"}"#], true);
    let both = vec!["plays: 8, 2".to_owned(), "watchlist: a set of 2, no \"n\" in it".to_owned()];
    assert_eq!(judge(&ended, Some(r#"{"plays":8,"watchlist":["m","n"]}"#)), (Vec::new(), both));
}

#[test]
fn members_stay_unless_somebody_removed_them() {
    let adds = [
        r#"{"field":"watchlist","op":"add","value":"a"},{"field":"watchlist","op":"add","value":1.0}"#,
        r#"{"field":"watchlist","op":"add","value":"r"}"#,
        r#"{"field":"watchlist","op":"remove","value":"r"}"#,
        r#"?{"field":"watchlist","op":"add","value":"p"}"#,
    ];
    let expected = journal(&adds, true);
    for found in [r#"["a",1]"#, r#"[1,"a","r","p"]"#] {
        assert_eq!(judge(&expected, Some(&format!(r#"{{"watchlist":{found}}}"#))), nothing(), "{found}");
    }
    assert_eq!(judge(&expected, Some(r#"{"watchlist":["a"]}"#)), missing("watchlist: a set of 1, 1 in it"));
    assert_eq!(judge(&expected, None).0.len(), 2);
}

#[test]
fn greatest_and_least_values_are_reached_and_not_passed() {
    let expected = journal(
        &[
            r#"{"field":"progress","key":"m","op":"max","value":9007199254740993}"#,
            r#"{"field":"progress","key":"m","op":"max","value":7}"#,
            r#"?{"field":"progress","key":"m","op":"max","value":9007199254740995}"#,
            r#"{"field":"worst","op":"min","value":-2.50}"#,
        ],
        true,
    );
    for found in [9_007_199_254_740_993u64, 9_007_199_254_740_995] {
        let value = format!(r#"{{"progress":{{"m":{found}}},"worst":-2.5}}"#);
        assert_eq!(judge(&expected, Some(&value)), nothing());
    }
    assert_eq!(
        judge(&expected, Some(r#"{"progress":{"m":9007199254740992},"worst":-2.5}"#)),
        missing("progress/m: 9007199254740992, at least 9007199254740993")
    );
    assert_eq!(
        judge(&expected, Some(r#"{"progress":{"m":9007199254740996},"worst":-2.5}"#)),
        surplus("progress/m: 9007199254740996, 9007199254740995")
    );
    let low = r#"{"progress":{"m":9007199254740993},"worst":-2}"#;
    assert_eq!(judge(&expected, Some(low)), missing("worst: -2, at most -2.5"));
    assert_eq!(judge(&expected, Some(r#"{"worst":-2.5}"#)), missing("progress/m: -, 9007199254740993"));
}

#[test]
fn flags_and_registers_hold_what_was_asked_for() {
    let enable = r#"{"field":"kids_mode","op":"enable"}"#;
    let set = r#"{"field":"language","op":"set","value":{"b":1,"a":2}}"#;
    let expected = journal(&[enable, set, r#"?{"field":"language","op":"set","value":"fr"}"#], true);
    for language in [r#"{"a":2,"b":1.0}"#, "\"fr\""] {
        let value = format!(r#"{{"kids_mode":true,"language":{language}}}"#);
        assert_eq!(judge(&expected, Some(&value)), nothing());
    }
    assert_eq!(judge(&expected, Some(r#"{"kids_mode":false,"language":"fr"}"#)), missing("kids_mode: false, true"));
    assert_eq!(
        judge(&expected, Some(r#"{"kids_mode":true,"language":"it"}"#)),
        surplus("language: \"it\", one of 2 values that were set")
    );
    assert_eq!(judge(&expected, None).0.len(), 2);
    let disable = r#"{"field":"kids_mode","op":"disable"}"#;
    for found in [true, false] {
        let value = format!(r#"{{"kids_mode":{found}}}"#);
        assert_eq!(judge(&journal(&[enable, disable], true), Some(&value)), nothing());
    }
    assert_eq!(judge(&journal(&[disable], true), Some(r#"{"kids_mode":true}"#)), surplus("kids_mode: true, false"));
}

#[test]
fn two_requests_that_two_regions_did_may_take_each_other_away() {
    let set = |value: &str| format!(r#"!{{"field":"language","op":"set","value":"{value}"}}"#);
    let enable = r#"!{"field":"kids_mode","op":"enable"}"#;
    assert_eq!(judge(&journal(&[&set("a"), enable], true), Some("{}")).0.len(), 2);
    assert_eq!(judge(&journal(&[&set("a"), &set("b"), enable, enable], true), Some("{}")), nothing());
    let count = format!("!{PLAY}");
    assert_eq!(judge(&journal(&[&count, &count], true), Some("{}")), missing("plays: -, 4"));
}

#[test]
fn a_field_has_one_kind() {
    let line = |ops: &str| format!(r#"{{"op":"state","region":"eu","type":"t","id":"1","ops":[{ops}]}}"#);
    let text = line(r#"{"field":"f","op":"enable"},{"field":"f","op":"increment","by":1}"#) + "\n";
    let error = journal::read(text.as_bytes()).expect_err("two kinds");
    assert_eq!(error, "line 1: operation 2: field `f` is of two kinds");
}
