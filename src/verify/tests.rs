//! Seeded drift of each kind is found, and traffic is no drift.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    journal::Acknowledged,
    report::Report,
    snapshot::{Line, Snapshot},
    *,
};
use crate::core::key::KeyHash;

/// What a region's agent answers.
struct Hub {
    region: &'static str,
    base: u64,
    head: u64,
    links: Vec<Value>,
    discarded: Vec<Value>,
    lines: Vec<String>,
}

impl Hub {
    fn new(region: &'static str, peer: &str) -> Hub {
        let links = vec![json!({"peer": peer, "cursor": 0, "filters": [[0, {}]]})];
        Hub { region, base: 0, head: 0, links, discarded: Vec::new(), lines: Vec::new() }
    }

    fn link(&mut self, member: &str, value: Value) {
        self.links[0][member] = value;
    }

    fn event(&mut self, key: &str, payload: u8, origin: Option<(&str, u64)>) -> u64 {
        self.head += 1;
        let (hash, payload) = (hash(key), hex(&[payload; 16]));
        let sequence = origin.map_or(self.head, |(_, sequence)| sequence);
        let origin = origin.map(|(origin, _)| origin);
        let envelope = json!({"source": if key.starts_with("app.") { "app" } else { "other" }});
        let line = json!({"k": hash, "p": payload, "o": origin, "s": sequence, "n": self.head, "t": self.head * 1_000,
            "e": envelope});
        self.lines.push(line.to_string());
        self.head
    }

    fn header(&self) -> String {
        json!({"region": self.region, "base": self.base, "head": self.head, "incarnations": [[1, 0]],
            "expires_before": 0, "links": self.links, "discarded": self.discarded})
        .to_string()
    }

    fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::begin(self.header().as_bytes()).expect("a header");
        for line in self.lines.iter().skip(usize::try_from(self.base).expect("small")) {
            assert_eq!(snapshot.add(line.as_bytes()), Ok(Line::Event));
        }
        assert_eq!(snapshot.add(b"{\"end\":1}"), Ok(Line::End));
        snapshot.sort();
        snapshot
    }
}

fn hash(key: &str) -> String {
    hex(&KeyHash::of("load", "Load", key).0)
}

/// Two regions with one event of each, delivered to the other.
fn pair() -> (Hub, Hub) {
    let (mut eu, mut us) = (Hub::new("eu", "us"), Hub::new("us", "eu"));
    eu.event("a", 1, None);
    us.event("a", 1, Some(("eu", 1)));
    us.event("b", 2, None);
    eu.event("b", 2, Some(("us", 2)));
    (eu, us)
}

fn compared(eu: &Hub, us: &Hub, journal: Option<&[Acknowledged]>) -> Report {
    compared_from(eu, us, [eu.head, us.head], journal)
}

fn compared_from(eu: &Hub, us: &Hub, heads: [u64; 2], journal: Option<&[Acknowledged]>) -> Report {
    let names = ["eu", "us"].map(str::to_owned);
    let snapshots = BTreeMap::from([(names[0].clone(), eu.snapshot()), (names[1].clone(), us.snapshot())]);
    let starts = names.iter().cloned().zip(heads).collect();
    let links = [("eu", "us"), ("us", "eu")].map(|(from, to)| (from.to_owned(), to.to_owned()));
    let topology = Topology { links: links.to_vec() };
    compare(Input { topology: &topology, snapshots: &snapshots, starts: &starts, journal }).judge()
}

fn acknowledged(region: &str, key: &str) -> Acknowledged {
    let hash = KeyHash::of("load", "Load", key).0;
    Acknowledged { region: region.to_owned(), key: key.into(), hash, millis: 0 }
}

#[test]
fn regions_with_the_same_events_are_equal() {
    let (eu, us) = pair();
    let journal = [acknowledged("eu", "a"), acknowledged("us", "b")];
    let report = compared(&eu, &us, Some(&journal));
    assert!(report.is_equal(), "{report}");
    assert_eq!((report.links[0].expected, report.links[0].present), (1, 1));
    assert!(report.to_string().contains("journal: 2 acknowledged, 0 missing, 0 twice"), "{report}");
}

#[test]
fn an_event_that_is_not_at_the_peer_is_named() {
    let (mut eu, us) = pair();
    let offset = eu.event("c", 3, None);
    eu.link("held", json!([offset]));
    let report = compared(&eu, &us, None);
    assert!(!report.is_equal());
    let missing = &report.links[0].missing[0];
    assert_eq!((missing.key_hash.as_str(), missing.offset, missing.held), (hash("c").as_str(), Some(offset), true));
}

#[test]
fn what_was_accepted_after_the_start_does_not_count() {
    let (mut eu, mut us) = pair();
    let heads = [eu.head, us.head];
    eu.event("late", 3, None);
    us.event("also late", 3, Some(("eu", 99)));
    assert!(compared_from(&eu, &us, heads, None).is_equal());
}

#[test]
fn a_late_delivery_settles_in_what_the_peer_took_in_since() {
    let (mut eu, mut us) = pair();
    let offset = eu.event("c", 3, None);
    let mut taken = us.snapshot();
    us.event("c", 3, Some(("eu", offset)));
    assert_eq!(taken.renew(us.header().as_bytes()), Ok(true));
    let line = us.lines.last().expect("just added");
    assert_eq!(taken.add(line.as_bytes()), Ok(Line::Event));
    taken.sort();
    assert_eq!(taken.find(&KeyHash::of("load", "Load", "c").0).len(), 1);
    assert!(compared(&eu, &us, None).is_equal());
    us.head = 1;
    assert_eq!(taken.renew(us.header().as_bytes()), Ok(false), "a log that is shorter is another log");
}

#[test]
fn another_payload_under_the_same_key_is_a_conflict_in_both_directions() {
    let (mut eu, mut us) = pair();
    eu.event("c", 3, None);
    us.event("c", 4, None);
    let report = compared(&eu, &us, None);
    assert_eq!(report.conflicts_count, 2);
    assert!(!report.is_equal());
}

#[test]
fn the_same_event_published_on_both_sides_is_no_difference() {
    let (mut eu, mut us) = pair();
    eu.event("c", 3, None);
    us.event("c", 3, None);
    assert!(compared(&eu, &us, None).is_equal());
}

#[test]
fn a_key_with_two_events_in_one_hub_was_delivered_twice() {
    let (mut eu, mut us) = pair();
    let offset = eu.event("c", 3, None);
    us.event("c", 3, Some(("eu", offset)));
    us.event("c", 3, Some(("eu", offset)));
    let report = compared(&eu, &us, Some(&[acknowledged("eu", "c")]));
    assert_eq!(report.twice[0].offsets, vec![3, 4]);
    assert_eq!(report.journal.as_ref().map(|journal| journal.twice_count), Some(1));
    assert!(!report.is_equal());
}

#[test]
fn dead_letters_are_a_difference_and_discarded_ones_are_not() {
    let (mut eu, us) = pair();
    let offset = eu.event("c", 3, None);
    eu.link("dead", json!([offset]));
    let report = compared(&eu, &us, None);
    assert_eq!((report.dead_lettered_count, report.links[0].missing_count), (1, 0));
    assert!(!report.is_equal());
    eu.link("dead", json!([]));
    eu.discarded.push(json!(["us", hash("c")]));
    let report = compared(&eu, &us, None);
    assert_eq!(report.discarded_count, 1);
    assert!(report.is_equal(), "{report}");
}

#[test]
fn a_loss_that_the_link_admits_is_a_difference() {
    let (mut eu, us) = pair();
    eu.link("losses", json!([[0, 1]]));
    let report = compared(&eu, &us, None);
    assert_eq!((report.lost[0].after, report.lost[0].through), (0, 1));
    assert!(!report.is_equal());
}

#[test]
fn a_filter_holds_from_its_offset_on_and_not_backwards() {
    let (mut eu, mut us) = pair();
    let before = eu.event("other.1", 3, None);
    us.event("other.1", 3, Some(("eu", before)));
    let app = json!({"source": ["app"]}).to_string();
    eu.link("filters", json!([[0, {}], [before, app]]));
    eu.event("other.2", 3, None);
    let passed = eu.event("app.1", 3, None);
    let report = compared(&eu, &us, None);
    assert_eq!((report.links[0].expected, report.links[0].filtered, report.links[0].missing_count), (3, 1, 1));
    us.event("app.1", 3, Some(("eu", passed)));
    let journal = [acknowledged("eu", "other.2"), acknowledged("eu", "app.1")];
    let report = compared(&eu, &us, Some(&journal));
    assert!(report.is_equal(), "{report}");
}

#[test]
fn what_retention_dropped_is_not_asked_for() {
    let (mut eu, mut us) = pair();
    // The peer dropped its old part, and home still has the originals.
    us.base = us.head;
    assert!(compared(&eu, &us, None).is_equal());
    // Home dropped its own.
    us.base = 0;
    eu.base = 1;
    assert!(compared(&eu, &us, Some(&[acknowledged("eu", "a")])).is_equal());
}

#[test]
fn an_acknowledged_event_that_is_nowhere_is_missing() {
    let (eu, us) = pair();
    let report = compared(&eu, &us, Some(&[acknowledged("eu", "gone")]));
    let journal = report.journal.as_ref().expect("a journal was given");
    assert_eq!((journal.missing_count, journal.missing[0].at.as_str()), (1, "eu"));
    assert!(!report.is_equal());
}

#[test]
fn an_acknowledged_event_that_a_peer_lacks_is_missing_there() {
    let (mut eu, us) = pair();
    eu.event("c", 3, None);
    let report = compared(&eu, &us, Some(&[acknowledged("eu", "c")]));
    assert_eq!(report.journal.expect("a journal was given").missing[0].at, "us");
}

#[test]
fn a_copy_whose_origin_lost_it_is_found() {
    let (eu, mut us) = pair();
    us.event("c", 3, Some(("eu", 3)));
    let report = compared(&eu, &us, None);
    assert_eq!(report.missing_at_origin_count, 1);
    assert!(!report.is_equal());
}

#[test]
fn a_hundred_are_named_and_all_are_counted() {
    let (mut eu, us) = pair();
    for number in 0..250 {
        eu.event(&format!("m{number}"), 3, None);
    }
    let report = compared(&eu, &us, None);
    assert_eq!((report.links[0].missing.len(), report.links[0].missing_count), (NAMED_MAX, 250));
    assert!(report.to_string().contains("and 240 more"), "{report}");
    let json = serde_json::to_value(&report).expect("serializes");
    assert_eq!((&json["verdict"], &json["links"][0]["missing_count"]), (&json!("different"), &json!(250)));
}

#[test]
fn many_keys_in_any_order_are_all_found() {
    let (mut eu, mut us) = pair();
    for number in 0..1_000u64 {
        let offset = eu.event(&format!("m{number}"), 3, None);
        if number % 7 != 0 {
            us.event(&format!("m{number}"), 3, Some(("eu", offset)));
        }
    }
    let report = compared(&eu, &us, None);
    assert_eq!((report.links[0].expected, report.links[0].missing_count), (1_001, 143));
}

#[test]
fn lines_that_no_agent_writes_are_refused() {
    assert!(Snapshot::begin(b"{}").is_err());
    let (eu, _) = pair();
    let mut snapshot = eu.snapshot();
    for line in [&b"{}"[..], b"{\"k\":\"zz\",\"p\":\"00\",\"n\":1}", b"nonsense"] {
        assert!(snapshot.add(line).is_err());
    }
}
