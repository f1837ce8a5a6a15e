//! Documents: whether all regions hold the same, and whether what `load` was acknowledged is in them.
//!
//! Regions that hold the same have the same sum of digests. Where they have not, the documents are compared one by one, by
//! version. Under traffic versions differ all the time, so a document is different only if it never was the same while it
//! was looked at, and a region stood still with it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::report::{DocumentFinding, DocumentOf, Documents, list};
use crate::core::state::{
    Key, Schemas,
    op::{self, Act, Op},
};

/// The versions of a region's documents.
pub type Versions = BTreeMap<Key, String>;

/// A request of `load`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub key: Key,
    /// JSON: an array.
    pub ops: String,
    pub acknowledged: bool,
}

/// What is still to be seen the same, with the versions of the first look.
#[derive(Default)]
pub struct Open(BTreeMap<Key, BTreeMap<String, Option<String>>>);

fn versions_of(key: &Key, regions: &BTreeMap<String, Versions>) -> BTreeMap<String, Option<String>> {
    regions.iter().map(|(region, versions)| (region.clone(), versions.get(key).cloned())).collect()
}

fn are_same(versions: &BTreeMap<String, Option<String>>) -> bool {
    let mut all = versions.values();
    let first = all.next();
    all.all(|version| Some(version) == first)
}

impl Open {
    /// From a first look at all regions.
    pub fn new(regions: &BTreeMap<String, Versions>) -> Open {
        let keys: BTreeSet<&Key> = regions.values().flat_map(BTreeMap::keys).collect();
        let versions = keys.into_iter().map(|key| (key.clone(), versions_of(key, regions)));
        Open(versions.filter(|(_, versions)| !are_same(versions)).collect())
    }

    /// A later look: what is the same now is settled.
    pub fn look(&mut self, regions: &BTreeMap<String, Versions>) {
        self.0.retain(|key, _| !are_same(&versions_of(key, regions)));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What differs, by the last look.
    pub fn judge(&self, regions: &BTreeMap<String, Versions>, documents: &mut Documents) {
        for (key, first) in &self.0 {
            let last = versions_of(key, regions);
            let stands_still = last.iter().any(|(region, version)| first.get(region) == Some(version));
            if stands_still {
                list(&mut documents.different, &mut documents.different_count, || DocumentFinding {
                    of: key.of.clone(),
                    id: key.id.clone(),
                    versions: last,
                });
            }
        }
    }
}

/// What a document must hold because of a journal.
#[derive(Default)]
pub struct Expected {
    acknowledged: u64,
    /// By document: the operations that were acknowledged, and those that nobody knows of.
    documents: BTreeMap<Key, (Vec<Op>, Vec<Op>)>,
}

impl Expected {
    /// Reads the operations of a journal.
    ///
    /// # Errors
    /// An operation that the file's types do not have.
    pub fn new(requests: &[Request], schemas: &Schemas) -> Result<Expected, String> {
        let mut expected = Expected::default();
        for request in requests {
            let schema = schemas.get(&request.key.of);
            let schema = schema.ok_or_else(|| format!("`{}` is no document type of the file", request.key.of))?;
            let ops = op::parse(schema, &format!("{{\"ops\":{}}}", request.ops));
            let ops = ops.map_err(|refused| format!("{}: {refused}", request.key))?;
            let (done, unknown) = expected.documents.entry(request.key.clone()).or_default();
            if request.acknowledged {
                expected.acknowledged += 1;
                done.extend(ops);
            } else {
                unknown.extend(ops);
            }
        }
        Ok(expected)
    }

    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.documents.keys()
    }

    /// Compares a region's documents, as it shows them, with what was acknowledged.
    pub fn judge(&self, region: &str, shown: &BTreeMap<Key, Option<Value>>, documents: &mut Documents) {
        documents.acknowledged = self.acknowledged;
        for (key, (done, unknown)) in &self.documents {
            let value = shown.get(key).cloned().flatten().unwrap_or_default();
            let of = |field: &str| DocumentOf {
                region: region.to_owned(),
                of: key.of.clone(),
                id: key.id.clone(),
                field: field.to_owned(),
            };
            for field in missing(done, &value) {
                list(&mut documents.lost, &mut documents.lost_count, || of(&field));
            }
            for field in surplus(done, unknown, &value) {
                list(&mut documents.twice, &mut documents.twice_count, || of(&field));
            }
        }
    }
}

fn at<'a>(value: &'a Value, op: &Op) -> &'a Value {
    let field = &value[op.slot.field.as_str()];
    op.slot.keys.iter().fold(field, |value, key| &value[key.as_str()])
}

/// The sums that increments make, by where they count.
fn sums<'a>(ops: impl Iterator<Item = &'a Op>) -> BTreeMap<String, (i128, &'a Op)> {
    let mut sums = BTreeMap::new();
    for op in ops {
        if let Act::Increment(by) = op.act {
            sums.entry(op.slot.to_string()).or_insert((0, op)).0 += i128::from(by);
        }
    }
    sums
}

/// Fields that lack something of what was done.
fn missing(done: &[Op], value: &Value) -> BTreeSet<String> {
    let mut missing = BTreeSet::new();
    for (field, (sum, op)) in sums(done.iter()) {
        if at(value, op).as_i64().map_or(0, i128::from) < sum {
            missing.insert(field);
        }
    }
    for op in done {
        let shown = at(value, op);
        let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
        let is_there = match &op.act {
            Act::Add(member) => shown.as_array().is_some_and(|members| members.contains(&parsed(member))),
            Act::Enable => shown == &Value::Bool(true),
            Act::Max(text) => shown.as_f64() >= parsed(text).as_f64(),
            Act::Min(text) => shown.as_f64().is_some() && shown.as_f64() <= parsed(text).as_f64(),
            Act::Set(_) => !shown.is_null() || value.get(&op.slot.field).is_some(),
            Act::Remove(_) | Act::Increment(_) | Act::Disable => true,
        };
        if !is_there {
            missing.insert(op.slot.to_string());
        }
    }
    missing
}

/// Counters beyond what anybody asked for.
fn surplus(done: &[Op], unknown: &[Op], value: &Value) -> BTreeSet<String> {
    let grows = |op: &&Op| !matches!(op.act, Act::Increment(by) if by < 0);
    let most = sums(done.iter().chain(unknown.iter().filter(grows)));
    let beyond = most.into_iter().filter(|(_, (sum, op))| at(value, op).as_i64().map_or(0, i128::from) > *sum);
    beyond.map(|(field, _)| field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        state::{Dot, Replica, document::Document, testing::schema},
        time::Timestamp,
    };

    fn schemas() -> Schemas {
        Schemas::from([("profile".to_owned(), schema())])
    }

    fn versions(regions: &[(&str, &[(&str, &str)])]) -> BTreeMap<String, Versions> {
        let of = |all: &[(&str, &str)]| {
            all.iter().map(|(id, version)| (Key::new("profile", id), (*version).to_owned())).collect()
        };
        regions.iter().map(|(region, all)| ((*region).to_owned(), of(all))).collect()
    }

    #[test]
    fn a_document_that_stands_still_and_differs_is_named_and_one_that_moves_is_not() {
        let first = versions(&[("a", &[("u1", "1"), ("u2", "1"), ("u3", "1")]), ("b", &[("u1", "1"), ("u2", "0")])]);
        let mut open = Open::new(&first);
        let last = versions(&[("a", &[("u1", "1"), ("u2", "5"), ("u3", "1")]), ("b", &[("u1", "1"), ("u2", "4")])]);
        open.look(&last);
        let mut documents = Documents::default();
        open.judge(&last, &mut documents);
        let named: Vec<&str> = documents.different.iter().map(|finding| finding.id.as_str()).collect();
        assert_eq!((named, documents.different_count), (vec!["u3"], 1));
        assert_eq!(documents.different[0].versions["b"], None);
        // Once the same is settled, whatever comes afterwards.
        open.look(&versions(&[("a", &[("u3", "2")]), ("b", &[("u3", "2")])]));
        assert!(open.is_empty());
    }

    #[test]
    fn what_a_journal_has_and_a_region_has_not_is_named_by_field() {
        let request =
            |ops: &str, acknowledged| Request { key: Key::new("profile", "u1"), ops: ops.to_owned(), acknowledged };
        let requests = [
            request(
                r#"[{"field":"plays","op":"increment","by":2},{"field":"watchlist","op":"add","value":"m1"}]"#,
                true,
            ),
            request(r#"[{"field":"plays","op":"increment","by":1},{"field":"best","op":"max","value":7}]"#, true),
            request(r#"[{"field":"plays","op":"increment","by":5}]"#, false),
        ];
        let expected = Expected::new(&requests, &schemas()).unwrap();
        let judge = |value: Value| {
            let mut documents = Documents::default();
            expected.judge("a", &BTreeMap::from([(Key::new("profile", "u1"), Some(value))]), &mut documents);
            let fields = |all: &[DocumentOf]| all.iter().map(|of| of.field.clone()).collect::<Vec<_>>().join(" ");
            (fields(&documents.lost), fields(&documents.twice))
        };
        let nothing = (String::new(), String::new());
        assert_eq!(judge(serde_json::json!({ "plays": 3, "watchlist": ["m1"], "best": 7 })), nothing);
        // The one that was not answered may be there or not.
        assert_eq!(judge(serde_json::json!({ "plays": 8, "watchlist": ["m1", "m2"], "best": 9 })), nothing);
        assert_eq!(judge(serde_json::json!({ "plays": 2 })), ("best plays watchlist".to_owned(), String::new()));
        assert_eq!(
            judge(serde_json::json!({ "plays": 9, "watchlist": ["m1"], "best": 7 })),
            (String::new(), "plays".to_owned())
        );
        let ops = &expected.documents[&Key::new("profile", "u1")].0;
        let mut document = Document::default();
        document.operate(Dot { replica: Replica(1), number: 1 }, Timestamp(1), None, ops).unwrap();
        let view = document.view(&Key::new("profile", "u1"), &schema()).unwrap();
        assert_eq!(judge(serde_json::from_str(&view.value).unwrap()), nothing);
    }

    #[test]
    fn a_journal_of_other_types_is_refused() {
        let request = Request { key: Key::new("order", "1"), ops: "[]".to_owned(), acknowledged: true };
        let refused = Expected::new(&[request], &schemas()).map(drop).unwrap_err();
        assert!(refused.contains("`order` is no document type"), "{refused}");
    }
}
