//! Documents: whether regions hold the same ones, by the versions that their agents tell.
//!
//! No two answers are of one moment, so under traffic a document may differ between them without being different. A
//! version stands for all that a document has taken in: regions that showed the same one, at whatever look, had all of
//! each other's writes from before the start. So a document is the same once there is a version that all regions have
//! shown, and what has none yet is looked at again.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{NAMED_MAX, report::list};
use crate::core::state::Key;

/// A document's version, or the digest of all documents; both in hex as agents write them.
pub type Version = String;

/// What a region has in all (`GET /v1/documents/total`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Total {
    pub documents: u64,
    pub digest: Version,
}

/// Where a document stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub struct Place {
    #[serde(rename = "type")]
    pub of: String,
    pub id: String,
}

impl From<Place> for Key {
    fn from(place: Place) -> Key {
        Key { of: place.of, id: place.id }
    }
}

impl From<&Key> for Place {
    fn from(key: &Key) -> Place {
        Place { of: key.of.clone(), id: key.id.clone() }
    }
}

/// A page of a region's documents (`GET /v1/documents`).
#[derive(Clone, Debug, Deserialize)]
pub struct Page {
    pub documents: Vec<Listed>,
    pub next: Option<Place>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Listed {
    #[serde(flatten)]
    pub place: Place,
    pub version: Version,
}

/// All documents of a region.
pub type Listing = BTreeMap<Key, Version>;

/// Regions that bring their documents to each other, over links in both directions. Others may hold what they like.
pub fn groups(links: &[(String, String)], regions: &[String]) -> Vec<BTreeSet<String>> {
    let both = |one: &String, other: &String| {
        let has = |from: &String, to: &String| links.iter().any(|(a, b)| a == from && b == to);
        has(one, other) && has(other, one)
    };
    let mut groups: Vec<BTreeSet<String>> = Vec::new();
    for region in regions {
        let mut joined = BTreeSet::from([region.clone()]);
        let (linked, apart): (Vec<_>, Vec<_>) =
            groups.into_iter().partition(|group: &BTreeSet<String>| group.iter().any(|other| both(region, other)));
        linked.into_iter().for_each(|group| joined.extend(group));
        groups = apart;
        groups.push(joined);
    }
    groups
}

/// The documents of one group.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    compared: u64,
    has_begun: bool,
    /// What no version has settled yet: by region what it has shown, the last one last, `None` where there was nothing.
    open: BTreeMap<Key, BTreeMap<String, Vec<Option<Version>>>>,
}

impl Comparison {
    /// Takes in what the regions have in all. `true` if that settles everything.
    pub fn totals(&mut self, totals: &[&Total]) -> bool {
        let same = totals.windows(2).all(|pair| pair[0] == pair[1]);
        if same {
            self.open.clear();
            if !self.has_begun {
                self.compared = totals.first().map_or(0, |total| total.documents);
                self.has_begun = true;
            }
        }
        same
    }

    /// Takes in all documents of the regions. What comes to light only at a later time is no matter: it was made since.
    pub fn list(&mut self, listings: &BTreeMap<String, Listing>) {
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        let keys: BTreeSet<&Key> = match is_first {
            true => listings.values().flat_map(BTreeMap::keys).collect(),
            false => BTreeSet::new(),
        };
        self.compared += keys.len() as u64;
        for key in keys {
            let mut versions = listings.values().map(|listing| listing.get(key));
            let first = versions.next();
            if !versions.all(|version| Some(version) == first) {
                self.open.insert(key.clone(), BTreeMap::new());
            }
        }
        for (key, seen) in &mut self.open {
            for (region, listing) in listings {
                show(seen, region, listing.get(key).cloned());
            }
        }
        self.open.retain(|_, seen| !is_settled(seen));
    }

    /// Takes in one look at a document; `None` where the region has none.
    pub fn see(&mut self, key: &Key, region: &str, version: Option<Version>) {
        let Some(seen) = self.open.get_mut(key) else { return };
        show(seen, region, version);
        if is_settled(seen) {
            self.open.remove(key);
        }
    }

    /// All documents were taken in once.
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// What is to be looked at again.
    pub fn open(&self) -> impl ExactSizeIterator<Item = &Key> {
        self.open.keys()
    }

    /// Adds what was found.
    pub fn report(&self, report: &mut Documents) {
        report.compared += self.compared;
        report.same += self.compared.saturating_sub(self.open.len() as u64);
        for (key, seen) in &self.open {
            let versions = || seen.iter().map(|(region, seen)| (region.clone(), seen.last().cloned().flatten()));
            let finding = || DocumentFinding { place: key.into(), versions: versions().collect() };
            match versions().any(|(_, version)| version.is_none()) {
                true => list(&mut report.missing, &mut report.missing_count, finding),
                false => list(&mut report.different, &mut report.different_count, finding),
            }
        }
    }
}

fn show(seen: &mut BTreeMap<String, Vec<Option<Version>>>, region: &str, version: Option<Version>) {
    let shown = seen.entry(region.to_owned()).or_default();
    if let Some(again) = shown.iter().position(|known| *known == version) {
        shown.remove(again);
    }
    shown.push(version);
}

/// Whether there is a version that all have shown.
fn is_settled(seen: &BTreeMap<String, Vec<Option<Version>>>) -> bool {
    let mut regions = seen.values();
    let first = regions.next().map(Vec::as_slice).unwrap_or_default();
    let others: Vec<_> = regions.collect();
    first.iter().any(|version| others.iter().all(|shown| shown.contains(version)))
}

/// Documents of regions, compared.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Documents {
    pub compared: u64,
    pub same: u64,
    pub regions: BTreeMap<String, Total>,
    /// In some region of those that should have it, and not in another.
    pub missing: Vec<DocumentFinding>,
    pub missing_count: u64,
    /// In all of them, with other content.
    pub different: Vec<DocumentFinding>,
    pub different_count: u64,
    /// Regions whose agents have no documents: no difference.
    pub not_compared: Vec<String>,
    /// Where there is one.
    #[serde(flatten)]
    pub journal: Option<Journal>,
}

/// A document that is not the same everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DocumentFinding {
    #[serde(flatten)]
    pub place: Place,
    /// By region, as of the last look; `null` where it is missing.
    pub versions: BTreeMap<String, Option<Version>>,
}

/// The journal's operations on documents.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Journal {
    /// Requests.
    pub acknowledged: u64,
    /// Requests without an answer to the end: they may have been done or not.
    pub unanswered: u64,
    /// Acknowledged, and not there.
    pub lost: Vec<OperationFinding>,
    pub lost_count: u64,
    /// More than was asked for: an increment that counted twice, a member that nobody added.
    pub twice: Vec<OperationFinding>,
    pub twice_count: u64,
}

/// A value that is not what the journal's operations make, and the region where it is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OperationFinding {
    #[serde(flatten)]
    pub place: Place,
    /// With the keys that lead to the value in a map.
    pub field: String,
    pub region: String,
    pub expected: String,
    /// `null` where there is no such field.
    pub found: Option<String>,
}

impl Journal {
    /// Adds what is wrong elsewhere.
    pub fn add(&mut self, other: &Journal) {
        let pairs = [(&mut self.lost, &other.lost), (&mut self.twice, &other.twice)];
        for (named, more) in pairs {
            named.extend_from_slice(more);
            named.truncate(NAMED_MAX);
        }
        self.lost_count += other.lost_count;
        self.twice_count += other.twice_count;
    }
}

impl Documents {
    pub fn is_equal(&self) -> bool {
        let of_journal = self.journal.as_ref().map_or(0, |journal| journal.lost_count + journal.twice_count);
        self.missing_count + self.different_count + of_journal == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect()
    }

    fn listing(documents: &[(&str, &str)]) -> Listing {
        documents.iter().map(|(id, version)| (Key::new("profile", id), (*version).to_owned())).collect()
    }

    fn listings(eu: &[(&str, &str)], us: &[(&str, &str)]) -> BTreeMap<String, Listing> {
        BTreeMap::from([("eu".to_owned(), listing(eu)), ("us".to_owned(), listing(us))])
    }

    fn report(comparison: &Comparison) -> Documents {
        let mut report = Documents::default();
        comparison.report(&mut report);
        report
    }

    fn some(version: &str) -> Option<Version> {
        Some(version.to_owned())
    }

    #[test]
    fn regions_belong_together_that_are_linked_in_both_directions() {
        let regions = ["a", "b", "c", "d"].map(str::to_owned);
        let group = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
        let chain = links(&[("a", "b"), ("b", "a"), ("b", "d"), ("d", "b"), ("c", "a")]);
        assert_eq!(groups(&chain, &regions), [group(&["c"]), group(&["a", "b", "d"])]);
        assert_eq!(groups(&[], &regions[..1]), [group(&["a"])]);
    }

    #[test]
    fn equal_totals_need_no_listing() {
        let total = |documents, digest: &str| Total { documents, digest: digest.to_owned() };
        let mut comparison = Comparison::default();
        assert!(!comparison.totals(&[&total(2, "a"), &total(2, "b")]));
        assert!(!comparison.has_begun());
        assert!(comparison.totals(&[&total(2, "a"), &total(2, "a")]));
        assert_eq!((report(&comparison).compared, report(&comparison).is_equal()), (2, true));
    }

    #[test]
    fn seeded_drift_is_found_by_document_region_and_version() {
        let mut comparison = Comparison::default();
        comparison.list(&listings(
            &[("same", "1"), ("other", "2"), ("only-eu", "3")],
            &[("same", "1"), ("other", "20"), ("only-us", "4")],
        ));
        for (id, eu, us) in
            [("other", some("2"), some("20")), ("only-eu", some("3"), None), ("only-us", None, some("4"))]
        {
            comparison.see(&Key::new("profile", id), "eu", eu);
            comparison.see(&Key::new("profile", id), "us", us);
        }
        let report = report(&comparison);
        assert_eq!((report.compared, report.same, report.missing_count, report.different_count), (4, 1, 2, 1));
        assert_eq!(report.different[0].place.id, "other");
        assert_eq!(
            report.different[0].versions,
            BTreeMap::from([("eu".to_owned(), some("2")), ("us".to_owned(), some("20"))])
        );
        assert_eq!((report.missing[0].place.id.as_str(), &report.missing[0].versions["us"]), ("only-eu", &None));
        assert!(!report.is_equal());
    }

    #[test]
    fn a_document_that_changed_between_listings_is_asked_again_and_no_difference() {
        let mut comparison = Comparison::default();
        // `hot` changes all the time and is never seen the same in one look; `new` came between the two listings.
        comparison.list(&listings(&[("hot", "1"), ("gone", "7")], &[("hot", "2"), ("new", "1")]));
        assert_eq!(comparison.open().len(), 3);
        let hot = Key::new("profile", "hot");
        comparison.see(&hot, "eu", some("3"));
        assert_eq!(comparison.open().len(), 3);
        comparison.see(&hot, "us", some("4"));
        comparison.see(&hot, "eu", some("4"));
        assert!(!comparison.open().any(|key| *key == hot));
        // Another listing tells of what is open, and not of what is newer than the first one.
        comparison.list(&listings(
            &[("hot", "5"), ("new", "1"), ("later", "1")],
            &[("hot", "6"), ("new", "1"), ("later", "2")],
        ));
        assert_eq!(comparison.open().len(), 0);
        let report = report(&comparison);
        assert_eq!((report.compared, report.same, report.is_equal()), (3, 3, true));
    }

    #[test]
    fn what_shows_nothing_new_stays_open() {
        let mut comparison = Comparison::default();
        comparison.list(&listings(&[("a", "1")], &[("a", "2")]));
        for _ in 0..100 {
            comparison.see(&Key::new("profile", "a"), "eu", some("1"));
            comparison.see(&Key::new("profile", "a"), "us", some("2"));
        }
        assert_eq!(comparison.open().len(), 1);
        assert_eq!(comparison.open.values().next().map(|seen| seen["eu"].len()), Some(1));
    }
}
