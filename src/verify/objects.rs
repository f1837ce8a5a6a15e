//! Objects: what an event refers to in its own region, beside what the delivered event refers to at the peer.
//!
//! Both regions may change and remove what they hold, and a link does not undo that. So a pair is a difference only if
//! nobody can have done it since: the object at home is older than the event, the one at the peer older than its arrival,
//! and still the bytes are not the same, or the peer has none. Each comparison is between times of one region's clock.
//!
//! An object that is in neither region is *dangling*: nobody can read what the event promises. It was there when the event
//! was delivered, so somebody removed it in both (a lifecycle rule), and it is told and no difference.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    compare::Topology,
    report::{Named, ObjectFinding, ObjectOf, Objects, Unreferenced, list},
    snapshot::Snapshot,
};
use crate::core::{key::hex, object::Location, time::Timestamp};

/// What an agent says of an object (`POST /v1/objects/stat`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Found {
    pub size: u64,
    /// In hex.
    pub sha256: Option<String>,
    /// RFC 3339.
    pub modified: String,
}

impl Found {
    /// Unreadable is as young as can be: nothing is concluded from it.
    fn modified_millis(&self) -> u64 {
        Timestamp::parse_rfc3339(&self.modified).map_or(u64::MAX, Timestamp::as_millis)
    }

    /// Bytes whose checksum is not known are taken for the same if they are as many.
    fn is_same(&self, other: &Found) -> bool {
        let sums = self.sha256.as_ref().zip(other.sha256.as_ref());
        self.size == other.size && sums.is_none_or(|(one, other)| one == other)
    }
}

/// What each region answered, by region and object; `None` where there is none.
pub type Stats = BTreeMap<String, BTreeMap<Location, Option<Found>>>;

/// One object at home and its copy at a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub from: String,
    pub to: String,
    pub home: Location,
    pub peer: Location,
    /// When the last event that leads from one to the other was accepted, in either region.
    accepted_millis: u64,
    delivered_millis: u64,
}

/// An object that `load` put into a region, and an event refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    pub region: String,
    pub at: Location,
    /// In hex.
    pub sha256: String,
}

/// The pairs that delivered events speak of. `shared` buckets are one for all regions.
pub fn pairs(
    topology: &Topology,
    snapshots: &BTreeMap<String, Snapshot>,
    starts: &BTreeMap<String, u64>,
    shared: &[String],
) -> Vec<Pair> {
    let mut pairs: BTreeMap<(&str, &str, &Location, &Location), (u64, u64)> = BTreeMap::new();
    for (from, to) in &topology.links {
        let (Some(home), Some(peer)) = (snapshots.get(from), snapshots.get(to)) else { continue };
        let start = starts.get(from).copied().unwrap_or(home.head);
        for entry in home.entries().iter().filter(|entry| entry.is_local() && entry.offset <= start) {
            let references = home.references(entry);
            if references.is_empty() {
                continue;
            }
            let Some(copy) = peer.find(&entry.key).iter().find(|copy| !copy.is_local()) else { continue };
            let copies = peer.references(copy);
            // Other pointers in the file since: nobody can tell which belongs to which.
            if copy.is_pending() || copies.len() != references.len() {
                continue;
            }
            for (home, peer) in references.iter().zip(copies).filter(|(home, _)| !shared.contains(&home.bucket)) {
                let times = pairs.entry((from, to, home, peer)).or_default();
                times.0 = times.0.max(entry.accepted_millis);
                times.1 = times.1.max(copy.accepted_millis);
            }
        }
    }
    let pair =
        |((from, to, home, peer), (accepted_millis, delivered_millis)): ((&str, &str, &Location, &Location), _)| Pair {
            from: from.to_owned(),
            to: to.to_owned(),
            home: home.clone(),
            peer: peer.clone(),
            accepted_millis,
            delivered_millis,
        };
    pairs.into_iter().map(pair).collect()
}

/// The objects to ask each region for.
pub fn wanted(topology: &Topology, pairs: &[Pair], journal: &[Acknowledged]) -> BTreeMap<String, BTreeSet<Location>> {
    let mut wanted: BTreeMap<String, BTreeSet<Location>> = BTreeMap::new();
    let mut want = |region: &str, at: &Location| {
        wanted.entry(region.to_owned()).or_default().insert(at.clone());
    };
    for pair in pairs {
        want(&pair.from, &pair.home);
        want(&pair.to, &pair.peer);
    }
    for object in journal {
        want(&object.region, &object.at);
        for (_, to) in topology.links.iter().filter(|(from, _)| *from == object.region) {
            want(to, &object.at);
        }
    }
    wanted
}

/// Compares. Regions that did not answer are absent from `stats`, and nothing is said of their objects. `whole` are the
/// links without a pattern: over others a journal's objects are not expected.
pub fn compare(
    pairs: &[Pair],
    stats: &Stats,
    journal: Option<&[Acknowledged]>,
    whole: &BTreeSet<(String, String)>,
) -> Objects {
    let mut report = Objects::default();
    for pair in pairs {
        let (Some(home), Some(peer)) = (stats.get(&pair.from), stats.get(&pair.to)) else { continue };
        let home = home.get(&pair.home).and_then(Option::as_ref);
        let peer = peer.get(&pair.peer).and_then(Option::as_ref);
        let named = || ObjectFinding {
            from: pair.from.clone(),
            to: pair.to.clone(),
            bucket: pair.home.bucket.clone(),
            key: pair.home.key.clone(),
            peer_bucket: pair.peer.bucket.clone(),
            peer_key: pair.peer.key.clone(),
        };
        report.compared += 1;
        match (home, peer) {
            (None, None) => list(&mut report.dangling, &mut report.dangling_count, named),
            (None, Some(_)) => report.removed_at_home += 1,
            (Some(home), None) if home.modified_millis() > pair.accepted_millis => report.changed += 1,
            (Some(_), None) => list(&mut report.missing, &mut report.missing_count, named),
            (Some(home), Some(peer)) if home.is_same(peer) => report.same += 1,
            (Some(home), Some(peer)) => {
                let is_later =
                    home.modified_millis() > pair.accepted_millis || peer.modified_millis() > pair.delivered_millis;
                match is_later {
                    true => report.changed += 1,
                    false => list(&mut report.different, &mut report.different_count, named),
                }
            }
        }
    }
    for object in journal.unwrap_or_default() {
        report.acknowledged += 1;
        let regions = whole.iter().filter(|(from, _)| *from == object.region).map(|(_, to)| to);
        for region in regions.chain([&object.region]) {
            let Some(found) = stats.get(region).and_then(|found| found.get(&object.at)) else { continue };
            let is_there = found.as_ref().is_some_and(|found| found.sha256.as_ref() == Some(&object.sha256));
            if !is_there {
                list(&mut report.lost, &mut report.lost_count, || ObjectOf {
                    region: object.region.clone(),
                    bucket: object.at.bucket.clone(),
                    key: object.at.key.clone(),
                    at: region.clone(),
                });
            }
        }
    }
    report
}

/// An object of a region's listing (`GET /v1/objects`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Listed {
    #[serde(flatten)]
    pub at: Location,
    pub size: u64,
    pub modified: String,
}

/// Gathers a region's objects that no event of its hub refers to.
pub struct Orphans<'a> {
    referenced: BTreeSet<&'a Location>,
    found: Unreferenced,
}

impl<'a> Orphans<'a> {
    pub fn new(snapshot: &'a Snapshot) -> Self {
        Orphans { referenced: snapshot.all_references().collect(), found: Unreferenced::default() }
    }

    pub fn add(&mut self, listed: Listed) {
        if self.referenced.contains(&listed.at) {
            return;
        }
        self.found.bytes += listed.size;
        let Unreferenced { named, count, .. } = &mut self.found;
        list(named, count, || Named {
            bucket: listed.at.bucket,
            key: listed.at.key,
            size: listed.size,
            modified: listed.modified,
        });
    }

    pub fn end(self) -> Unreferenced {
        self.found
    }
}

/// The hex of a journal, in the form that agents answer.
pub fn normal(sha256: &str) -> Option<String> {
    crate::core::object::unhex::<32>(&sha256.to_ascii_lowercase()).map(|sum| hex(&sum))
}
