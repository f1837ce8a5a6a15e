//! What the tests of documents share.

use std::collections::BTreeMap;

use super::{
    Dot, Key, Kind, Replica, Request, Schema, Shape,
    delta::Delta,
    document::{Document, Merged},
    op::{self, Op},
    view::View,
};
use crate::core::time::Timestamp;

/// As `config/local.toml` has it, and a map in a map.
pub fn schema() -> Schema {
    let field = |name: &str, kind, depth| (name.to_owned(), Shape { kind, depth });
    Schema(BTreeMap::from([
        field("watchlist", Kind::Set, 0),
        field("plays", Kind::Counter, 0),
        field("language", Kind::Register, 0),
        field("nickname", Kind::MultiValue, 0),
        field("best", Kind::Max, 0),
        field("worst", Kind::Min, 0),
        field("kids_mode", Kind::Flag, 0),
        field("progress", Kind::Max, 1),
        field("seats", Kind::Set, 2),
    ]))
}

pub fn key() -> Key {
    Key::new("profile", "u1")
}

pub fn ops(text: &str) -> Vec<Op> {
    op::parse(&schema(), &format!(r#"{{"ops":[{text}]}}"#)).unwrap()
}

/// A region: its document, and deltas that wait for others.
#[derive(Clone, Default)]
pub struct Region {
    pub replica: u64,
    pub given: u64,
    pub document: Document,
    pub waiting: Vec<Delta>,
}

impl Region {
    pub fn new(replica: u64) -> Self {
        Region { replica, ..Region::default() }
    }

    pub fn dot(&mut self) -> Dot {
        self.given += 1;
        Dot { replica: Replica(self.replica), number: self.given }
    }

    pub fn run(&mut self, at: u64, text: &str) -> Delta {
        let dot = self.dot();
        self.document.operate(dot, Timestamp(at), None, &ops(text)).unwrap()
    }

    /// `None`: it was done before.
    pub fn keyed(&mut self, at: u64, request: &str, text: &str) -> Option<Delta> {
        let request = Request::of(request);
        if self.document.knows(&request) {
            return None;
        }
        let dot = self.dot();
        Some(self.document.operate(dot, Timestamp(at), Some(request), &ops(text)).unwrap())
    }

    pub fn delete(&mut self, at: u64) -> Option<Delta> {
        let dot = self.dot();
        self.document.delete(dot, Timestamp(at), None)
    }

    /// Merges it, or has it wait; answers how many conflicts were met.
    pub fn hear(&mut self, delta: &Delta) -> usize {
        self.waiting.push(delta.clone());
        let mut met = 0;
        loop {
            let mut moved = false;
            for delta in std::mem::take(&mut self.waiting) {
                match self.document.merge_delta(&delta) {
                    Merged::New(conflicts) => (met, moved) = (met + conflicts.len(), true),
                    Merged::Known => {}
                    Merged::Early => self.waiting.push(delta),
                }
            }
            if !moved {
                return met;
            }
        }
    }

    pub fn view(&self) -> Option<View> {
        self.document.view(&key(), &schema())
    }

    pub fn value(&self) -> String {
        self.view().map_or_else(|| "-".to_owned(), |view| view.value)
    }
}
