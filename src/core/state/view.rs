//! What readers see of a document.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Dot, Kind, Schema, Shape,
    digest::Digest,
    document::{Cell, Document, Payload},
    number,
    op::Slot,
};
use crate::core::{json, state::Key};

/// A document as its type says, in JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// An object with every field that an operation touched.
    pub value: String,
    /// An object: the values of each multi-value that holds more than one.
    pub conflicts: String,
    /// Changes with the content; the same in every region that holds the same.
    pub version: String,
    /// Fields that hold something which the type does not have, or has as another kind. It is kept and goes to the other
    /// regions, but nobody can read or change it until the file says again what it is.
    pub unread: Vec<String>,
}

/// One value on its way into a view.
enum Node {
    Value(String),
    Map(BTreeMap<String, Node>),
}

impl Node {
    fn put(&mut self, keys: &[String], value: String) {
        match (keys.split_first(), self) {
            (None, node) => *node = Node::Value(value),
            (Some((key, rest)), Node::Map(map)) => {
                map.entry(key.clone()).or_insert_with(|| Node::Map(BTreeMap::new())).put(rest, value);
            }
            (Some(_), Node::Value(_)) => {}
        }
    }

    fn push(&self, out: &mut String) {
        match self {
            Node::Value(text) => out.push_str(text),
            Node::Map(map) => {
                out.push('{');
                for (nth, (key, node)) in map.iter().enumerate() {
                    if nth > 0 {
                        out.push(',');
                    }
                    out.push_str(&json::quote(key));
                    out.push(':');
                    node.push(out);
                }
                out.push('}');
            }
        }
    }
}

impl Document {
    /// What readers see; `None` where there is nothing to see.
    pub fn view(&self, key: &Key, schema: &Schema) -> Option<View> {
        let mut slots = BTreeMap::<(&Slot, Kind), Vec<(&Cell, Vec<(&Dot, &Payload)>)>>::new();
        for (cell, entries) in &self.cells {
            let live = self.live(entries);
            if !live.is_empty() {
                slots.entry((&cell.slot, cell.kind)).or_default().push((cell, live));
            }
        }
        if slots.is_empty() {
            return None;
        }
        let mut value = Node::Map(BTreeMap::new());
        let mut conflicts = Node::Map(BTreeMap::new());
        let mut unread = BTreeSet::new();
        for ((slot, kind), cells) in slots {
            if schema.0.get(&slot.field) != Some(&Shape { kind, depth: slot.keys.len() }) {
                unread.insert(slot.field.clone());
                continue;
            }
            let path: Vec<String> = std::iter::once(&slot.field).chain(&slot.keys).cloned().collect();
            value.put(&path, self.shown(slot, kind, &cells));
            if kind == Kind::MultiValue {
                let values: BTreeSet<&str> =
                    cells.iter().flat_map(|(_, live)| live).filter_map(|entry| text(entry)).collect();
                if values.len() > 1 {
                    let values: Vec<&str> = values.into_iter().collect();
                    conflicts.put(&[slot.to_string()], format!("[{}]", values.join(",")));
                }
            }
        }
        let [value, conflicts] = [value, conflicts].map(|node| {
            let mut out = String::new();
            node.push(&mut out);
            out
        });
        let version = Digest::of(key, self).map(|digest| format!("{:032x}", digest.0)).unwrap_or_default();
        Some(View { value, conflicts, version, unread: unread.into_iter().collect() })
    }

    fn shown(&self, slot: &Slot, kind: Kind, cells: &[(&Cell, Vec<(&Dot, &Payload)>)]) -> String {
        let live = || cells.iter().flat_map(|(_, live)| live);
        match kind {
            Kind::Register | Kind::MultiValue => {
                let values = live().filter_map(|(dot, payload)| match payload {
                    Payload::Value { at, text } => Some((at, dot, text)),
                    _ => None,
                });
                values.max().map_or_else(|| "null".to_owned(), |(_, _, text)| text.clone())
            }
            Kind::Max | Kind::Min => {
                let order = |left: &&str, right: &&str| match kind {
                    Kind::Max => number::compare(left, right),
                    _ => number::compare(right, left),
                };
                live().filter_map(text).max_by(order).unwrap_or("null").to_owned()
            }
            Kind::Counter => self.count(slot).to_string(),
            Kind::Flag => live().any(|(_, payload)| **payload == Payload::Flag(true)).to_string(),
            Kind::Set => {
                let members: Vec<&str> = cells.iter().filter_map(|(cell, _)| cell.member.as_deref()).collect();
                format!("[{}]", members.join(","))
            }
        }
    }
}

fn text<'a>((_, payload): &(&'a Dot, &'a Payload)) -> Option<&'a str> {
    match payload {
        Payload::Value { text, .. } | Payload::Number(text) => Some(text),
        Payload::Flag(_) | Payload::Present => None,
    }
}
