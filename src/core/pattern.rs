//! EventBridge event patterns: which events a link carries, a reader wants, a rule of a hub would fire for.
//!
//! Why not a crate: `docs/adr/0001-event-patterns.md`. The meaning is that of AWS's own matcher (Event Ruler), and
//! `operators.jsonl` is the table of it that the tests run. What is easily got wrong:
//!
//! - Operators see leaves only. An object or an empty array is not there for `exists`.
//! - An array matches if any element does, and all fields asked of one object of an array must hold for the *same*
//!   element.
//! - `$or` multiplies out into whole alternatives, so that the rule above also holds across its edge.
//! - `exists: false` asks the whole event: the field must be in no element of any array on its way.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde_json::Value;
use thiserror::Error;

use super::{
    json::{self, Json},
    time::Timestamp,
};

mod operator;
mod parse;

use operator::{Leaf, Operator};

/// Characters (Unicode scalar values of the compact JSON) that EventBridge accepts in a pattern.
pub const CHARACTERS_MAX: usize = 2_048;

/// Alternatives that `$or` may multiply out to.
pub const ALTERNATIVES_MAX: usize = 1_000;

/// An event pattern. Cheap to clone, and any number of threads may match with one.
#[derive(Clone)]
pub struct Pattern {
    json: Arc<Value>,
    /// One per combination of the branches of `$or`; an event has to match one of them.
    alternatives: Arc<[Alternative]>,
}

/// Why a pattern is refused.
#[derive(Clone, Debug, PartialEq, Error)]
#[error("{}: {value}: {reason}", if .pointer.is_empty() { "(pattern)" } else { .pointer.as_str() })]
pub struct Error {
    /// JSON pointer to the offending place in the pattern; `""` is the pattern itself.
    pub pointer: String,
    /// The offending value as JSON, shortened if it is long.
    pub value: String,
    pub reason: String,
}

/// An event's fields where they lie, so that matching needs no envelope. [`Pattern::matches_view`] looks at nothing
/// that the pattern does not name; `detail` (JSON text) is only parsed if it does.
#[derive(Clone, Copy, Debug)]
pub struct EventView<'a> {
    pub source: &'a str,
    pub detail_type: &'a str,
    pub account: &'a str,
    pub region: &'a str,
    /// Matched as RFC 3339 text.
    pub time: Timestamp,
    pub id: &'a str,
    pub resources: &'a [String],
    pub detail: &'a str,
}

#[derive(Debug, Default)]
struct Alternative {
    root: Node,
    /// Paths of the fields of which an `exists: false` speaks; [`Field::absent`] is an index into this.
    absent: Vec<Vec<String>>,
}

/// What is asked of one object; everything must hold.
#[derive(Debug, Default)]
struct Node {
    leaves: Vec<Field>,
    objects: BTreeMap<String, Node>,
}

/// A field that must hold a leaf that one of the operators accepts, or may be absent.
#[derive(Debug)]
struct Field {
    name: String,
    operators: Arc<[Operator]>,
    absent: Option<usize>,
}

impl Pattern {
    /// Compiles a pattern. `{}` is [`Pattern::everything`].
    ///
    /// Fails on what EventBridge refuses: unknown operators, empty arrays, scalars instead of arrays, ranges without a
    /// number in them, more than [`CHARACTERS_MAX`] characters; and on a field that is asked twice because of `$or`,
    /// of which AWS would drop one.
    pub fn parse(pattern: &Value) -> Result<Pattern, Error> {
        let alternatives = parse::alternatives(pattern)?;
        Ok(Pattern { json: Arc::new(pattern.clone()), alternatives: alternatives.into() })
    }

    /// The pattern `{}`, which matches every event.
    pub fn everything() -> Pattern {
        let json = Value::Object(serde_json::Map::new());
        Pattern { json: Arc::new(json), alternatives: Arc::new([Alternative::default()]) }
    }

    /// Whether this is `{}`.
    pub fn is_everything(&self) -> bool {
        self.json.as_object().is_some_and(serde_json::Map::is_empty)
    }

    /// The pattern as it was parsed.
    pub fn as_json(&self) -> &Value {
        &self.json
    }

    /// Whether an envelope in EventBridge's JSON form matches, with `detail` as an object.
    pub fn matches(&self, envelope: &Value) -> bool {
        self.matches_tree(envelope)
    }

    /// Whether an event matches, without its envelope being built. A `detail` that is no JSON has no fields.
    pub fn matches_view(&self, event: &EventView) -> bool {
        self.is_everything() || self.matches_tree(&self.envelope(event))
    }

    /// The part of the event's envelope that the pattern names.
    fn envelope<'a>(&self, event: &EventView<'a>) -> Json<'a> {
        let text = |text: &'a str| Json::String(text.into());
        let mut envelope = Vec::with_capacity(4);
        let mut add = |name: &'static str, value: &dyn Fn() -> Json<'a>| {
            if self.alternatives.iter().any(|alternative| alternative.root.names(name)) {
                envelope.push((name.into(), value()));
            }
        };
        add("version", &|| text("0"));
        add("id", &|| text(event.id));
        add("detail-type", &|| text(event.detail_type));
        add("source", &|| text(event.source));
        add("account", &|| text(event.account));
        add("time", &|| Json::String(event.time.to_rfc3339().into()));
        add("region", &|| text(event.region));
        add("resources", &|| Json::Array(event.resources.iter().map(|resource| text(resource)).collect()));
        add("detail", &|| json::parse(event.detail).unwrap_or(Json::Object(Vec::new())));
        Json::Object(envelope)
    }

    fn matches_tree(&self, event: &impl Tree) -> bool {
        self.alternatives.iter().any(|alternative| {
            let absent: Vec<bool> = alternative.absent.iter().map(|path| !has_leaf(event, path)).collect();
            alternative.root.matches(Some(event), &absent)
        })
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.json == other.json
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({})", self.json)
    }
}

impl Node {
    /// `absent` answers the `exists: false` of the alternative. Without a value only those can still hold.
    fn matches<T: Tree>(&self, value: Option<&T>, absent: &[bool]) -> bool {
        match value.map(Tree::shape) {
            Some(Shape::Object) => self.holds(value, absent),
            Some(Shape::Array(items)) => {
                items.iter().any(|item| self.matches(Some(item), absent)) || self.holds::<T>(None, absent)
            }
            Some(Shape::Leaf(_)) | None => self.holds::<T>(None, absent),
        }
    }

    fn holds<T: Tree>(&self, object: Option<&T>, absent: &[bool]) -> bool {
        let leaf_holds = |field: &Field| {
            let accepted = |leaf: &Leaf| field.operators.iter().any(|operator| operator.accepts(leaf));
            field.absent.is_some_and(|index| absent[index])
                || object.and_then(|object| object.member(&field.name)).is_some_and(|value| any_leaf(value, &accepted))
        };
        self.leaves.iter().all(leaf_holds)
            && self.objects.iter().all(|(name, node)| {
                let value = object.and_then(|object| object.member(name));
                node.matches(value, absent)
            })
    }

    /// Whether this asks anything of a member of this name.
    fn names(&self, name: &str) -> bool {
        self.objects.contains_key(name) || self.leaves.iter().any(|field| field.name == name)
    }
}

/// A parsed document: `serde_json`'s or ours.
trait Tree: Sized {
    fn shape(&self) -> Shape<'_, Self>;
    fn member(&self, name: &str) -> Option<&Self>;
}

enum Shape<'a, T> {
    Object,
    Array(&'a [T]),
    Leaf(Leaf<'a>),
}

impl Tree for Value {
    fn shape(&self) -> Shape<'_, Self> {
        match self {
            Value::Object(_) => Shape::Object,
            Value::Array(items) => Shape::Array(items),
            Value::String(text) => Shape::Leaf(Leaf::String(text)),
            Value::Number(number) => Shape::Leaf(Leaf::Number(number.to_string().into())),
            Value::Bool(value) => Shape::Leaf(Leaf::Bool(*value)),
            Value::Null => Shape::Leaf(Leaf::Null),
        }
    }

    fn member(&self, name: &str) -> Option<&Self> {
        self.get(name)
    }
}

impl Tree for Json<'_> {
    fn shape(&self) -> Shape<'_, Self> {
        match self {
            Json::Object(_) => Shape::Object,
            Json::Array(items) => Shape::Array(items),
            Json::String(text) => Shape::Leaf(Leaf::String(text)),
            Json::Number(text) => Shape::Leaf(Leaf::Number((*text).into())),
            Json::Bool(value) => Shape::Leaf(Leaf::Bool(*value)),
            Json::Null => Shape::Leaf(Leaf::Null),
        }
    }

    fn member(&self, name: &str) -> Option<&Self> {
        self.get(name)
    }
}

/// Whether `test` accepts a leaf of this value, looking through arrays but not into objects.
fn any_leaf<T: Tree>(value: &T, test: &impl Fn(&Leaf) -> bool) -> bool {
    match value.shape() {
        Shape::Leaf(leaf) => test(&leaf),
        Shape::Array(items) => items.iter().any(|item| any_leaf(item, test)),
        Shape::Object => false,
    }
}

/// Whether there is a leaf at the path, in any element of the arrays on the way.
fn has_leaf<T: Tree>(value: &T, path: &[String]) -> bool {
    let Some((first, rest)) = path.split_first() else { return any_leaf(value, &|_: &Leaf| true) };
    match value.shape() {
        Shape::Object => value.member(first).is_some_and(|value| has_leaf(value, rest)),
        Shape::Array(items) => items.iter().any(|item| has_leaf(item, path)),
        Shape::Leaf(_) => false,
    }
}

#[cfg(test)]
mod tests;
