//! The newest entries, in memory, findable in about two cache misses.
//!
//! Rows lie in one growing array; an open-addressing table of row numbers (at most half full) finds them. Against a
//! `HashMap` of the same rows this halves the memory (7.3 MB instead of 12.8 MB at 131,072 rows, because only the
//! 4-byte row numbers have empty neighbours) and leaves no iteration order that could leak into files.
//! Keys are SHA-256 already, so eight of their bytes are the hash.

use std::cmp::Ordering;

use super::{
    Entry,
    format::{Row, prefix},
};
use crate::core::key::KeyHash;

const EMPTY: u32 = u32::MAX;
const SLOTS_MIN: usize = 1024;

pub(super) struct Memtable {
    rows: Vec<Row>,
    /// Row numbers or [`EMPTY`]; a power of two, at least twice the rows.
    slots: Vec<u32>,
}

impl Memtable {
    pub(super) fn new() -> Self {
        Self { rows: Vec::new(), slots: vec![EMPTY; SLOTS_MIN] }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Memory held, used or not, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.rows.capacity() * size_of::<Row>() + self.slots.capacity() * size_of::<u32>()
    }

    pub(super) fn get(&self, key: &KeyHash) -> Option<Entry> {
        match self.slots[self.slot(key)] {
            EMPTY => None,
            row => Some(self.rows[row as usize].entry),
        }
    }

    /// A later entry of the same key replaces the earlier one.
    pub(super) fn insert(&mut self, key: KeyHash, entry: Entry) {
        let slot = self.slot(&key);
        match self.slots[slot] {
            EMPTY => {
                self.slots[slot] = self.rows.len() as u32;
                self.rows.push(Row { key, entry });
                if self.rows.len() * 2 > self.slots.len() {
                    self.grow();
                }
            }
            row => self.rows[row as usize].entry = entry,
        }
    }

    /// Keeps the memory for the next round, but not what a burst beyond `rows_max` rows took.
    pub(super) fn clear(&mut self, rows_max: usize) {
        self.rows.clear();
        self.rows.shrink_to(rows_max);
        self.slots.truncate((rows_max.saturating_mul(2)).next_power_of_two().max(SLOTS_MIN));
        self.slots.shrink_to_fit();
        self.slots.fill(EMPTY);
    }

    /// Rows in the order of their keys. Sorts row numbers beside key prefixes: 16 bytes move instead of 48.
    pub(super) fn sorted(&self) -> impl Iterator<Item = &Row> + Send {
        let mut order: Vec<(u64, u32)> =
            self.rows.iter().enumerate().map(|(number, row)| (prefix(&row.key), number as u32)).collect();
        order.sort_unstable_by(|(left, left_row), (right, right_row)| match left.cmp(right) {
            Ordering::Equal => self.rows[*left_row as usize].key.cmp(&self.rows[*right_row as usize].key),
            unequal => unequal,
        });
        order.into_iter().map(|(_, row)| &self.rows[row as usize])
    }

    /// Where `key` is, or the free slot where it belongs. Ends because half of the slots are free.
    fn slot(&self, key: &KeyHash) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = super::filter::low(key) as usize & mask;
        loop {
            match self.slots[slot] {
                EMPTY => return slot,
                row if self.rows[row as usize].key == *key => return slot,
                _ => slot = (slot + 1) & mask,
            }
        }
    }

    fn grow(&mut self) {
        self.slots = vec![EMPTY; self.slots.len() * 2];
        for number in 0..self.rows.len() {
            let slot = self.slot(&self.rows[number].key);
            self.slots[slot] = number as u32;
        }
    }
}
