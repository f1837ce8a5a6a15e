//! What documents must hold by the journal's operations.
//!
//! Operations come in any order, so only what no order can change is judged: sums, members that nobody removed, the
//! greatest and least values, flags that nobody disabled, registers that hold one of the values that were set. A request
//! without an answer may have been done or not: what it would change becomes a range.
//!
//! That there is *more* than was asked for is said only of documents of a run of `load` that wrote down its end: nobody
//! else writes to them, and nothing is on its way any more.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use super::documents::{Journal, OperationFinding};
use super::report::list;
use crate::core::{
    json::Json,
    state::{
        Key, number,
        op::{Slot, normal},
    },
};

/// A request as a journal has it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Where it was acknowledged.
    pub region: &'a str,
    /// Whether it was.
    pub acknowledged: bool,
    /// Sent to more than one region, so two may have done it.
    pub moved: bool,
}

/// All of a journal's documents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    documents: BTreeMap<Key, Document>,
    /// Runs that wrote down their end; their documents' ids begin with this and `-`.
    ended: Vec<String>,
    acknowledged: u64,
    unanswered: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Document {
    /// Where its requests were acknowledged.
    regions: BTreeSet<String>,
    values: BTreeMap<Slot, Wanted>,
}

/// What was asked of one value.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    asked: Asked,
    /// An operation was acknowledged that leaves something behind.
    must_be: bool,
    moved: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    /// What the sum is between, and whether anything was added.
    Count {
        low: i128,
        high: i128,
        rises: bool,
    },
    Members(BTreeMap<String, Member>),
    /// The furthest that was acknowledged, and the furthest at all.
    Reach {
        order: Ordering,
        sure: Option<String>,
        perhaps: String,
    },
    Flag {
        enabled: bool,
        enabled_perhaps: bool,
        disabled_perhaps: bool,
    },
    OneOf(BTreeSet<String>),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Member {
    added: bool,
    removed_perhaps: bool,
}

/// What is wrong with one value.
struct Wrong {
    is_surplus: bool,
    expected: String,
}

impl Expected {
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.documents.keys()
    }

    /// Where requests to it were acknowledged.
    pub fn regions(&self, key: &Key) -> impl Iterator<Item = &String> {
        self.documents.get(key).into_iter().flat_map(|document| &document.regions)
    }

    /// All regions that acknowledged anything.
    pub fn all_regions(&self) -> impl Iterator<Item = &String> {
        self.documents.values().flat_map(|document| &document.regions)
    }

    /// A run is over, and everything of it stands in the journal.
    pub fn end(&mut self, run: &str) {
        self.ended.push(format!("{run}-"));
    }

    /// Takes in a request's operations.
    ///
    /// # Errors
    /// One that no agent can have acknowledged.
    pub fn add(&mut self, key: Key, request: Request<'_>, ops: &Json<'_>) -> Result<(), String> {
        let Json::Array(ops) = ops else { return Err("`ops` is no array".to_owned()) };
        let document = self.documents.entry(key).or_default();
        match request.acknowledged {
            true => {
                self.acknowledged += 1;
                document.regions.insert(request.region.to_owned());
            }
            false => self.unanswered += 1,
        }
        ops.iter()
            .enumerate()
            .try_for_each(|(nth, op)| document.add(request, op).map_err(|why| format!("operation {}: {why}", nth + 1)))
    }

    /// Counts alone.
    pub fn journal(&self) -> Journal {
        Journal { acknowledged: self.acknowledged, unanswered: self.unanswered, ..Journal::default() }
    }

    /// Adds what is wrong with the document at `region`, whose value it is; `None` where there is none.
    pub fn judge(&self, key: &Key, region: &str, value: Option<&Json<'_>>, journal: &mut Journal) {
        let Some(document) = self.documents.get(key) else { return };
        let is_ours = self.ended.iter().any(|run| key.id.starts_with(run));
        for (slot, wanted) in &document.values {
            let found = value.and_then(|value| {
                let of = value.get(&slot.field);
                slot.keys.iter().fold(of, |at, key| at?.get(key))
            });
            for wrong in wanted.judge(found, is_ours) {
                let finding = || OperationFinding {
                    place: key.into(),
                    field: slot.to_string(),
                    region: region.to_owned(),
                    expected: wrong.expected.clone(),
                    found: found.map(shown),
                };
                match wrong.is_surplus {
                    true => list(&mut journal.twice, &mut journal.twice_count, finding),
                    false => list(&mut journal.lost, &mut journal.lost_count, finding),
                }
            }
        }
    }
}

/// A value as a report shows it.
fn shown(value: &Json<'_>) -> String {
    match value {
        Json::Array(members) => format!("a set of {}", members.len()),
        value => normal(value).unwrap_or_else(|why| why),
    }
}

impl Document {
    fn add(&mut self, request: Request<'_>, op: &Json<'_>) -> Result<(), String> {
        let text = |name: &str| op.get(name).and_then(Json::as_str).ok_or_else(|| format!("`{name}` is no string"));
        let keys = match op.get("key") {
            None => Vec::new(),
            Some(Json::Array(keys)) => keys.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
            Some(_) => vec![text("key")?.to_owned()],
        };
        let slot = Slot { field: text("field")?.to_owned(), keys };
        let name = text("op")?;
        let value = || normal(op.get("value").ok_or("`value` is missing")?);
        let sure = request.acknowledged;
        let asked = match name {
            "increment" => {
                let by = match op.get("by") {
                    Some(Json::Number(by)) => by.parse::<i64>().ok(),
                    _ => None,
                };
                let by = i128::from(by.ok_or("`by` is no whole number")?);
                Asked::Count {
                    low: if sure { by } else { by.min(0) },
                    high: if sure { by } else { by.max(0) },
                    rises: by > 0,
                }
            }
            "add" => Asked::Members([(value()?, Member { added: sure, removed_perhaps: false })].into()),
            "remove" => Asked::Members([(value()?, Member { added: false, removed_perhaps: true })].into()),
            "max" | "min" => {
                let order = if name == "max" { Ordering::Greater } else { Ordering::Less };
                let value = value()?;
                Asked::Reach { order, sure: sure.then(|| value.clone()), perhaps: value }
            }
            "enable" => Asked::Flag { enabled: sure, enabled_perhaps: true, disabled_perhaps: false },
            "disable" => Asked::Flag { enabled: false, enabled_perhaps: false, disabled_perhaps: true },
            "set" => Asked::OneOf([value()?].into()),
            other => return Err(format!("there is no operation `{other}`")),
        };
        let wanted = Wanted { asked, must_be: sure, moved: request.moved.into() };
        match self.values.get_mut(&slot) {
            Some(before) => before.join(wanted).ok_or_else(|| format!("field `{slot}` is of two kinds")),
            None => {
                self.values.insert(slot, wanted);
                Ok(())
            }
        }
    }
}

impl Wanted {
    /// Both were asked for; `None` if they are not of one kind.
    fn join(&mut self, other: Wanted) -> Option<()> {
        self.must_be |= other.must_be;
        self.moved += other.moved;
        match (&mut self.asked, other.asked) {
            (Asked::Count { low, high, rises }, Asked::Count { low: l, high: h, rises: r }) => {
                (*low, *high, *rises) = (*low + l, *high + h, *rises || r);
            }
            (Asked::Members(members), Asked::Members(more)) => {
                for (text, member) in more {
                    let known = members.entry(text).or_default();
                    known.added |= member.added;
                    known.removed_perhaps |= member.removed_perhaps;
                }
            }
            (
                Asked::Reach { order, sure, perhaps },
                Asked::Reach { order: other_order, sure: other_sure, perhaps: other_perhaps },
            ) if *order == other_order => {
                if number::compare(&other_perhaps, perhaps) == *order {
                    *perhaps = other_perhaps;
                }
                if let Some(other) = other_sure
                    && sure.as_ref().is_none_or(|sure| number::compare(&other, sure) == *order)
                {
                    *sure = Some(other);
                }
            }
            (
                Asked::Flag { enabled, enabled_perhaps, disabled_perhaps },
                Asked::Flag { enabled: sure, enabled_perhaps: on, disabled_perhaps: off },
            ) => {
                *enabled |= sure;
                *enabled_perhaps |= on;
                *disabled_perhaps |= off;
            }
            (Asked::OneOf(values), Asked::OneOf(more)) => values.extend(more),
            _ => return None,
        }
        Some(())
    }

    fn judge(&self, found: Option<&Json<'_>>, is_ours: bool) -> Vec<Wrong> {
        let lost = |expected: String| vec![Wrong { is_surplus: false, expected }];
        let surplus = |expected: String| match is_ours {
            true => vec![Wrong { is_surplus: true, expected }],
            false => Vec::new(),
        };
        // Two requests that two regions did each, in another order, may take each other away: see `core::state::document`.
        let may_be_empty = !self.must_be || self.moved > 1;
        let text = found.and_then(|found| normal(found).ok());
        match &self.asked {
            Asked::Count { low, high, rises } => {
                let expected = if low == high { low.to_string() } else { format!("{low} to {high}") };
                let count = match found {
                    Some(Json::Number(text)) => text.parse::<i128>().ok(),
                    _ => None,
                };
                match count {
                    None if found.is_none() && !self.must_be => Vec::new(),
                    Some(count) if (*low..=*high).contains(&count) => Vec::new(),
                    // Where nothing but takes away, something is missing if too much is left.
                    Some(count) if count > *high && *rises => surplus(expected),
                    _ => lost(expected),
                }
            }
            Asked::Members(members) => {
                let there: BTreeSet<String> = match found {
                    Some(Json::Array(there)) => there.iter().filter_map(|member| normal(member).ok()).collect(),
                    _ => BTreeSet::new(),
                };
                let must_be = members.iter().filter(|(_, member)| member.added && !member.removed_perhaps);
                let lacks = must_be.filter(|(text, _)| !there.contains(*text));
                let mut wrong: Vec<Wrong> = lacks.flat_map(|(text, _)| lost(format!("{text} in it"))).collect();
                let strange = there.iter().filter(|text| !members.contains_key(*text));
                wrong.extend(strange.flat_map(|text| surplus(format!("no {text} in it"))));
                wrong
            }
            Asked::Reach { order, sure, perhaps } => {
                let word = if *order == Ordering::Greater { "at least" } else { "at most" };
                match (text, sure) {
                    (None, None) => Vec::new(),
                    (None, Some(sure)) => lost(sure.clone()),
                    (Some(found), Some(sure)) if number::compare(sure, &found) == *order => {
                        lost(format!("{word} {sure}"))
                    }
                    (Some(found), _) if number::compare(&found, perhaps) == *order => surplus(perhaps.clone()),
                    _ => Vec::new(),
                }
            }
            Asked::Flag { enabled, enabled_perhaps, disabled_perhaps } => match found {
                None if may_be_empty => Vec::new(),
                None => lost((!disabled_perhaps).to_string()),
                Some(Json::Bool(true)) if !enabled_perhaps => surplus("false".to_owned()),
                Some(Json::Bool(true)) => Vec::new(),
                Some(_) if *enabled && !disabled_perhaps => lost("true".to_owned()),
                Some(_) => Vec::new(),
            },
            Asked::OneOf(values) => match text {
                None if may_be_empty => Vec::new(),
                None => lost(one_of(values)),
                Some(found) if !values.contains(&found) => surplus(one_of(values)),
                Some(_) => Vec::new(),
            },
        }
    }
}

fn one_of(values: &BTreeSet<String>) -> String {
    match (values.first(), values.len()) {
        (Some(value), 1) => value.clone(),
        (_, count) => format!("one of {count} values that were set"),
    }
}
