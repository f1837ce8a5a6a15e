//! Seeded drift between ledgers is found, and what cannot be told is not held against a link.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    hex,
    journal::Acknowledged,
    ledger::{Again, Input, Ledger, Letter, Letters, Line, LinkLetters, compare, name},
    report::Report,
};
use crate::core::{key::KeyHash, time::Timestamp};

const NOW: u64 = 1_790_000_000_000;
const HOUR: u64 = 3_600_000;

/// What a region's agent answers.
#[derive(Clone)]
struct Region {
    header: Value,
    rows: Vec<Value>,
}

impl Region {
    fn new(name: &str, peer: &str) -> Region {
        let link = json!({ "peer": peer, "filtered": false, "since": "1970-01-01T00:00:00Z", "watermark": null,
            "dead_letters": 0 });
        let header = json!({ "region": name, "ledger": true, "now": Timestamp::from_millis(NOW).to_rfc3339(),
            "local_keys": true, "told_for_seconds": 3_600, "retention_seconds": 15 * 86_400, "links": [link] });
        Region { header, rows: Vec::new() }
    }

    fn row(&mut self, key: &str, payload: u8, origin: Option<&str>) -> &mut Value {
        self.rows.push(json!({ "k": hash(key), "p": hex(&[payload; 16]), "o": origin, "t": NOW - 1_000,
            "x": NOW + 24 * HOUR }));
        self.rows.last_mut().expect("just added")
    }

    fn ledger(&self) -> Ledger {
        let mut ledger = Ledger::begin(self.header.to_string().as_bytes()).expect("a header");
        for row in &self.rows {
            assert_eq!(ledger.add(row.to_string().as_bytes()), Ok(Line::Row));
        }
        assert_eq!(ledger.add(b"{\"end\":1}"), Ok(Line::End));
        ledger.sort();
        ledger
    }
}

fn short(key: &str) -> [u8; 16] {
    KeyHash::of("load", "Load", key).0
}

fn hash(key: &str) -> String {
    hex(&short(key))
}

/// Two regions with one key of each, delivered to the other.
fn pair() -> (Region, Region) {
    let (mut eu, mut us) = (Region::new("eu", "us"), Region::new("us", "eu"));
    eu.row("a", 1, None);
    us.row("a", 1, Some("eu"));
    us.row("b", 2, None);
    eu.row("b", 2, Some("us"));
    (eu, us)
}

/// Letters of eu's link to us: id, key and when accepted.
fn letters(of: &[(&str, &str, u64)]) -> Letters {
    let mut link = LinkLetters::default();
    for (id, key, accepted_millis) in of {
        let letter = Letter { id: (*id).to_owned(), key: (*key).to_owned(), accepted_millis: *accepted_millis };
        link.add(short(key), letter);
    }
    Letters::from([(("eu".to_owned(), "us".to_owned()), link)])
}

fn acknowledged(region: &str, key: &str) -> Acknowledged {
    Acknowledged { region: region.to_owned(), key: key.into(), hash: short(key), millis: NOW - 500 }
}

fn compared_with(eu: &Region, us: &Region, letters: &Letters, journal: Option<&[Acknowledged]>) -> (Report, Again) {
    let names = ["eu", "us"].map(str::to_owned);
    let ledgers = BTreeMap::from([(names[0].clone(), eu.ledger()), (names[1].clone(), us.ledger())]);
    let starts = names.iter().map(|name| (name.clone(), NOW)).collect();
    let links = [("eu", "us"), ("us", "eu")].map(|(from, to)| (from.to_owned(), to.to_owned()));
    let mut report = Report::default();
    let not_entered = BTreeMap::new();
    let input =
        Input { links: &links, ledgers: &ledgers, starts: &starts, letters, not_entered: &not_entered, journal };
    let again = compare(&mut report, input);
    (report.judge(), again)
}

fn compared(eu: &Region, us: &Region) -> Report {
    compared_with(eu, us, &Letters::new(), None).0
}

#[test]
fn ledgers_with_the_same_keys_are_equal_and_the_report_says_that_no_hub_was_read() {
    let (eu, us) = pair();
    let journal = [acknowledged("eu", "a"), acknowledged("us", "b")];
    let (report, again) = compared_with(&eu, &us, &Letters::new(), Some(&journal));
    assert!(report.is_equal() && again.is_empty(), "{report}");
    let text = report.to_string();
    for says in [
        "ledgers were compared, not hubs",
        "eu: 2 keys in its ledger",
        "2 acknowledged, 0 missing, twice: not seen on AWS",
    ] {
        assert!(text.contains(says), "{text}");
    }
}

#[test]
fn a_key_that_the_peer_lacks_is_named_looked_at_again_and_settled_by_a_later_look() {
    let (mut eu, us) = pair();
    eu.row("c", 3, None);
    let (mut report, again) = compared_with(&eu, &us, &Letters::new(), None);
    assert!(!report.is_equal());
    assert_eq!((report.links[0].expected, report.links[0].missing_count), (2, 1));
    assert_eq!(again["us"].iter().collect::<Vec<_>>(), [&short("c")]);
    name(&mut report, &[acknowledged("eu", "c")], &Letters::new());
    assert_eq!(report.links[0].missing[0].key.as_deref(), Some("c"));
    assert!(!report.links[0].missing[0].held, "nobody knows how far the link is");

    let mut late = us.clone();
    late.row("c", 3, Some("eu"))["c"] = json!(true);
    assert!(!compared(&eu, &late).is_equal(), "claimed is not done");
    let mut ledger = late.ledger();
    let found =
        json!({ "rows": [{ "k": hash("c"), "p": hex(&[3; 16]), "o": "eu", "t": NOW, "x": NOW + HOUR, "i": "id" }] });
    assert_eq!(ledger.learn(found.to_string().as_bytes()), Ok(()));
    late.rows.pop();
    late.rows.push(found["rows"][0].clone());
    assert!(compared(&eu, &late).is_equal());
}

#[test]
fn what_is_newer_than_the_links_watermark_may_be_on_its_way() {
    let (mut eu, us) = pair();
    eu.row("c", 3, None);
    let watermark = |eu: &mut Region, millis| {
        eu.header["links"][0]["watermark"] = json!(Timestamp::from_millis(millis).to_rfc3339());
    };
    watermark(&mut eu, NOW - 2_000);
    assert!(compared(&eu, &us).links[0].missing[0].held);
    watermark(&mut eu, NOW);
    assert!(!compared(&eu, &us).links[0].missing[0].held);
}

#[test]
fn what_is_no_drift_is_not_told_as_such() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change); 4] = [
        ("published after the start", |row| row["t"] = json!(NOW + 1)),
        ("about to be forgotten", |row| row["x"] = json!(NOW + HOUR)),
        ("claimed and not done", |row| row["c"] = json!(true)),
        ("of a third region", |row| row["o"] = json!("ap")),
    ];
    for (what, change) in cases {
        let (mut eu, us) = pair();
        change(eu.row("c", 3, None));
        assert!(compared(&eu, &us).is_equal(), "{what}");
    }
    let (mut eu, us) = pair();
    eu.row("c", 3, None);
    eu.header["links"][0]["since"] = json!(Timestamp::from_millis(NOW - 999).to_rfc3339());
    assert!(compared(&eu, &us).is_equal(), "published before there was a link");
}

#[test]
fn what_a_pattern_may_have_left_out_is_counted_and_no_difference() {
    let (mut eu, us) = pair();
    eu.row("c", 3, None);
    eu.header["links"][0]["filtered"] = json!(true);
    let (report, _) = compared_with(&eu, &us, &Letters::new(), Some(&[acknowledged("eu", "c")]));
    assert!(report.is_equal(), "{report}");
    assert_eq!((report.links[0].expected, report.links[0].filtered_or_missing), (1, 1));
    for says in
        ["1 filtered or missing: its pattern does not tell", "eu to us has a pattern", "equal, as far as links without"]
    {
        assert!(report.to_string().contains(says), "{report}");
    }
}

#[test]
fn a_link_with_a_pattern_that_brought_nothing_at_all_is_a_difference_until_something_is_found() {
    let (mut eu, mut us) = (Region::new("eu", "us"), Region::new("us", "eu"));
    eu.row("c", 3, None);
    eu.header["links"][0]["filtered"] = json!(true);
    let (report, again) = compared_with(&eu, &us, &Letters::new(), None);
    assert!(!report.is_equal() && report.may_settle() && again["us"].contains(&short("c")), "{report}");
    assert!(report.to_string().contains("NOTHING ARRIVED"), "{report}");
    us.row("c", 3, Some("eu"));
    assert!(compared(&eu, &us).is_equal());
}

#[test]
fn local_keys_have_come_when_their_queue_was_empty_or_hands_out_younger_ones() {
    let mut eu = Region::new("eu", "us");
    let entered = |eu: &Region| eu.ledger().has_entered(NOW);
    assert_eq!(entered(&eu), None, "the queue does not answer");
    for (depth, expected) in [([0, 0, 0], true), ([1, 0, 0], false), ([0, 1, 0], false), ([0, 0, 1], false)] {
        let [visible, in_flight, delayed] = depth;
        eu.header["local_keys_queue"] = json!({ "visible": visible, "in_flight": in_flight, "delayed": delayed });
        assert_eq!(entered(&eu), Some(expected), "{depth:?}");
    }
    for (reached, expected) in [(NOW, false), (NOW + 1, true)] {
        eu.header["local_keys_reached"] = json!(Timestamp::from_millis(reached).to_rfc3339());
        assert_eq!(entered(&eu), Some(expected), "{reached}");
    }
    eu.header["local_keys"] = json!(false);
    eu.header["local_keys_queue"] = Value::Null;
    assert_eq!(entered(&eu), Some(true), "there are none");
}

#[test]
fn local_keys_that_did_not_come_are_a_difference() {
    let (eu, us) = pair();
    let ledgers = BTreeMap::from([("eu".to_owned(), eu.ledger()), ("us".to_owned(), us.ledger())]);
    let (starts, letters) = (BTreeMap::new(), Letters::new());
    let not_entered = BTreeMap::from([("eu".to_owned(), 7)]);
    let mut report = Report::default();
    let (ledgers, starts, letters) = (&ledgers, &starts, &letters);
    let _ =
        compare(&mut report, Input { links: &[], ledgers, starts, letters, not_entered: &not_entered, journal: None });
    let report = report.judge();
    assert!(!report.is_equal() && report.to_string().contains("7 local keys NOT ENTERED yet"), "{report}");
}

#[test]
fn a_claim_whose_lease_is_long_over_is_told_and_no_difference() {
    let (mut eu, us) = pair();
    eu.row("young", 3, None)["c"] = json!(true);
    let old = eu.row("old", 4, None);
    (old["c"], old["t"]) = (json!(true), json!(NOW - HOUR));
    let report = compared(&eu, &us);
    assert_eq!((report.ledgers["eu"].claimed, report.ledgers["eu"].claimed_not_marked), (2, 1));
    assert!(report.is_equal() && report.to_string().contains("1 claimed, not marked"), "{report}");
}

#[test]
fn another_payload_under_the_same_key_is_a_conflict_and_its_dead_letter_names_it() {
    let (mut eu, mut us) = pair();
    eu.row("c", 3, None);
    us.row("c", 4, Some("ap"));
    let letters = letters(&[("1", "c", NOW), ("2", "other", NOW)]);
    let (mut report, _) = compared_with(&eu, &us, &letters, None);
    assert_eq!((report.conflicts_count, report.dead_lettered_count), (1, 2));
    name(&mut report, &[], &letters);
    assert_eq!(report.conflicts[0].key.as_deref(), Some("c"));
    assert!(!report.is_equal());
}

#[test]
fn a_dead_letter_is_told_as_one_and_not_as_missing() {
    let (mut eu, us) = pair();
    eu.row("c", 3, None);
    let told = letters(&[("1", "c", NOW)]);
    let (report, again) = compared_with(&eu, &us, &told, None);
    assert_eq!((report.links[0].missing_count, report.dead_lettered_count), (0, 1));
    assert!(again.is_empty() && !report.is_equal());
}

#[test]
fn dead_letters_count_by_message_and_only_those_of_events_that_count() {
    let (eu, us) = pair();
    let told = letters(&[("1", "c", NOW), ("1", "c", NOW), ("2", "c", NOW), ("3", "later", NOW + 1)]);
    assert_eq!(compared_with(&eu, &us, &told, None).0.dead_lettered_count, 2);
    assert!(compared_with(&eu, &us, &letters(&[("3", "later", NOW + 1)]), None).0.is_equal());
    let mut unseen = Letters::new();
    unseen.entry(("eu".to_owned(), "us".to_owned())).or_default().unseen = 4;
    let (report, _) = compared_with(&eu, &us, &unseen, None);
    assert!(!report.is_equal() && report.may_settle() && !report.has_missing());
    assert!(report.to_string().contains("4 DEAD LETTERS could not be looked at"), "{report}");
}

#[test]
fn a_key_that_its_own_region_lost_is_found_while_it_must_know_it() {
    let (eu, mut us) = pair();
    us.row("c", 3, Some("eu"));
    let (report, again) = compared_with(&eu, &us, &Letters::new(), None);
    assert_eq!(report.missing_at_origin_count, 1);
    assert!(again["eu"].contains(&short("c")) && !report.is_equal());
    let old = us.rows.last_mut().expect("the row");
    old["t"] = json!(NOW - 2 * HOUR);
    assert!(compared(&eu, &us).is_equal(), "its own region may have forgotten it");
    us.rows.last_mut().expect("the row")["t"] = json!(NOW - 1_000);
    let mut without = eu.clone();
    without.header["local_keys"] = json!(false);
    let report = compared(&without, &us);
    assert!(report.is_equal(), "{report}");
    assert!(report.to_string().contains("eu keeps no local keys"), "{report}");
}

#[test]
fn an_acknowledged_key_that_a_ledger_lacks_is_named_with_the_region() {
    let (mut eu, us) = pair();
    eu.row("c", 3, None);
    let mut forgotten = acknowledged("us", "long ago");
    forgotten.millis = NOW - 16 * 24 * HOUR;
    let journal = [acknowledged("eu", "nowhere"), acknowledged("eu", "c"), forgotten];
    let (report, again) = compared_with(&eu, &us, &Letters::new(), Some(&journal));
    let told = report.journal.as_ref().expect("a journal was given");
    let missing: Vec<(&str, &str)> = told.missing.iter().map(|one| (one.key.as_str(), one.at.as_str())).collect();
    assert_eq!(missing, [("nowhere", "eu"), ("c", "us")]);
    assert_eq!((told.missing_count, told.outside_retention), (2, 1));
    assert!(again["eu"].contains(&short("nowhere")) && !report.is_equal());
}

#[test]
fn lines_that_no_agent_writes_are_refused_and_an_agents_own_words_are_told() {
    assert!(Ledger::begin(b"{}").is_err());
    let mut ledger = Region::new("eu", "us").ledger();
    for line in [&b"{}"[..], b"{\"k\":\"zz\",\"p\":\"00\"}", b"nonsense"] {
        assert!(ledger.add(line).is_err());
    }
    assert_eq!(ledger.add(b"{\"error\":\"the table is gone\"}"), Err("the table is gone".to_owned()));
}
