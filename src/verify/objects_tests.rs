//! What was changed or removed since is told from what a link left out.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{
    Topology,
    objects::{Acknowledged, Found, Listed, Orphans, Stats, compare, pairs, wanted},
    snapshot::Snapshot,
};
use crate::core::{key::KeyHash, object::Location, time::Timestamp};

/// A region's answer: events `(key, origin, references, pending)`, each accepted a second after the one before.
fn snapshot(region: &str, events: &[(&str, Option<&str>, &[&str], bool)]) -> Snapshot {
    let header = json!({ "region": region, "base": 0, "head": events.len(), "expires_before": 0, "links": [] });
    let mut snapshot = Snapshot::begin(header.to_string().as_bytes()).expect("a header");
    for (number, (key, origin, references, pending)) in (1u64..).zip(events) {
        let hash = super::hex(&KeyHash::of("s", "t", key).0);
        let references: Vec<_> = references.iter().map(|key| ("bucket", key)).collect();
        let line = json!({ "k": hash, "p": hash, "o": origin, "s": number, "n": number, "t": number * 1_000,
            "r": references, "w": pending });
        snapshot.add(line.to_string().as_bytes()).expect("a line");
    }
    snapshot.sort();
    snapshot
}

fn at(key: &str) -> Location {
    Location::new("bucket", key)
}

/// An object with these bytes, as old as the event of this number.
fn found(bytes: u8, second: u64) -> Option<Found> {
    let modified = Timestamp::from_millis(second * 1_000).to_rfc3339();
    Some(Found { size: 1, sha256: Some(super::hex(&[bytes; 32])), modified })
}

fn world() -> (Topology, BTreeMap<String, Snapshot>) {
    let links = vec![("eu".to_owned(), "us".to_owned()), ("us".to_owned(), "eu".to_owned())];
    let eu = snapshot(
        "eu",
        &[
            ("a", None, &["a"], false),
            ("b", None, &["latest", "shared"], false),
            ("c", None, &["latest"], false),
            ("waits", None, &["w"], false),
            ("late", None, &["l"], false),
        ],
    );
    let us = snapshot(
        "us",
        &[
            ("a", Some("eu"), &["a"], false),
            ("b", Some("eu"), &["latest", "shared"], false),
            ("c", Some("eu"), &["latest.2"], false),
            ("waits", Some("eu"), &["w"], true),
        ],
    );
    (Topology { links }, BTreeMap::from([("eu".to_owned(), eu), ("us".to_owned(), us)]))
}

#[test]
fn each_reference_of_a_delivered_event_is_paired_with_its_copys() {
    let (topology, snapshots) = world();
    let pairs = pairs(&topology, &snapshots, &BTreeMap::new(), &[]);
    let pairs: Vec<_> = pairs.iter().map(|pair| (pair.home.key.as_str(), pair.peer.key.as_str())).collect();
    assert_eq!(pairs, [("a", "a"), ("latest", "latest"), ("latest", "latest.2"), ("shared", "shared")]);
    let (topology, snapshots) = world();
    let shared = super::objects::pairs(&topology, &snapshots, &BTreeMap::new(), &["bucket".to_owned()]);
    assert!(shared.is_empty(), "one bucket for all regions is no pair");
    let starts = BTreeMap::from([("eu".to_owned(), 1)]);
    assert_eq!(super::objects::pairs(&topology, &snapshots, &starts, &[]).len(), 1, "what came after the start");
}

#[test]
fn only_what_nobody_can_have_done_since_is_a_difference() {
    let (topology, snapshots) = world();
    let pairs = pairs(&topology, &snapshots, &BTreeMap::new(), &[]);
    let judge = |home: Option<Found>, peer: Option<Found>| {
        let stats = Stats::from([
            ("eu".to_owned(), BTreeMap::from([(at("a"), home)])),
            ("us".to_owned(), BTreeMap::from([(at("a"), peer)])),
        ]);
        compare(&pairs[..1], &stats, None, &BTreeSet::new())
    };
    let report = judge(found(1, 1), found(1, 1));
    assert_eq!((report.compared, report.same), (1, 1));
    assert_eq!(judge(found(1, 1), found(2, 1)).different_count, 1);
    assert_eq!(judge(found(1, 2), found(2, 1)).changed, 1, "written at home since");
    assert_eq!(judge(found(1, 1), found(2, 2)).changed, 1, "written at the peer since");
    let report = judge(found(1, 1), None);
    assert_eq!((report.missing_count, report.missing[0].peer_key.as_str()), (1, "a"));
    assert_eq!(judge(found(1, 2), None).changed, 1);
    assert_eq!(judge(None, found(1, 1)).removed_at_home, 1);
    assert_eq!(judge(None, None).dangling_count, 1);
    let absent = compare(&pairs[..1], &Stats::new(), None, &BTreeSet::new());
    assert_eq!(absent.compared, 0, "a region that does not answer is told elsewhere");
}

#[test]
fn a_journals_object_is_in_every_region_that_a_whole_link_leads_to() {
    let (topology, _) = world();
    let object = Acknowledged { region: "eu".to_owned(), at: at("j"), sha256: super::hex(&[1; 32]) };
    let journal = [object];
    let asked = wanted(&topology, &[], &journal);
    assert_eq!(asked.keys().collect::<Vec<_>>(), ["eu", "us"]);
    let whole: BTreeSet<_> = topology.links.iter().cloned().collect();
    let judge = |home: Option<Found>, peer: Option<Found>, whole: &BTreeSet<_>| {
        let stats = Stats::from([
            ("eu".to_owned(), BTreeMap::from([(at("j"), home)])),
            ("us".to_owned(), BTreeMap::from([(at("j"), peer)])),
        ]);
        let report = compare(&[], &stats, Some(&journal), whole);
        (report.acknowledged, report.lost_count)
    };
    assert_eq!(judge(found(1, 1), found(1, 9), &whole), (1, 0));
    assert_eq!(judge(found(1, 1), None, &whole), (1, 1));
    assert_eq!(judge(found(2, 1), found(2, 1), &whole), (1, 2));
    assert_eq!(judge(found(1, 1), None, &BTreeSet::new()), (1, 0), "a pattern may have left its event out");
}

#[test]
fn what_no_event_refers_to_is_gathered() {
    let (_, snapshots) = world();
    let mut orphans = Orphans::new(&snapshots["us"]);
    for (key, size) in [("a", 1), ("latest.2", 2), ("alone", 3), ("w", 4)] {
        orphans.add(Listed { at: at(key), size, modified: String::new() });
    }
    let found = orphans.end();
    assert_eq!((found.count, found.bytes, found.named[0].key.as_str()), (1, 3, "alone"));
}
