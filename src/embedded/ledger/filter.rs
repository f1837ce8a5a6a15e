//! A blocked Bloom filter whose lines follow the order of the keys.
//!
//! One key touches one line of 64 bytes, so a lookup costs one cache miss (Putze, Sanders, Singler: "Cache-, Hash- and
//! Space-Efficient Bloom Filters", 2007). The line comes from the key's *leading* bits, scaled to the number of lines:
//! keys that arrive sorted fill one line after the other, so the filter of a run of any size is written as a stream
//! with one page in memory. The bits within the line come from the key's *trailing* bits, which are independent of the
//! leading ones because keys are SHA-256.
//!
//! With 10 bits a key and 6 probes about 1.2 % of absent keys pass. Keys that somebody ground out to share leading
//! bits crowd one line and cost reads, never an answer.

use super::format::prefix;
use crate::core::key::KeyHash;

pub(super) const BITS_PER_KEY: u64 = 10;
pub(super) const LINE_BYTES: usize = 64;
const LINE_BITS: u64 = 512;
const PROBES: u32 = 6;

/// The key's trailing eight bytes: 54 of their bits are six places within a line.
pub(super) fn low(key: &KeyHash) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&key.0[8..]);
    u64::from_le_bytes(bytes)
}

/// Lines for up to `keys` keys; never none.
pub(super) fn lines(keys: u64) -> u64 {
    (keys * BITS_PER_KEY).div_ceil(LINE_BITS).max(1)
}

/// Which of `lines` lines holds `key`: monotone in the key.
pub(super) fn line_of(key: &KeyHash, lines: u64) -> u64 {
    ((u128::from(prefix(key)) * u128::from(lines)) >> 64) as u64
}

fn probes(key: &KeyHash) -> impl Iterator<Item = usize> {
    let low = low(key);
    (0..PROBES).map(move |probe| (low >> (9 * probe)) as usize & 511)
}

/// Marks `key` in its `line`.
pub(super) fn set(line: &mut [u8], key: &KeyHash) {
    for bit in probes(key) {
        line[bit / 8] |= 1 << (bit % 8);
    }
}

/// Whether `key` may be among those marked in its `line`; `false` is certain.
pub(super) fn test(line: &[u8], key: &KeyHash) -> bool {
    probes(key).all(|bit| line[bit / 8] & (1 << (bit % 8)) != 0)
}

/// A line of its own alignment, so that it never straddles two cache lines.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u8; LINE_BYTES]);

/// A whole filter in memory.
pub(super) struct Filter {
    lines: Vec<Line>,
}

impl Filter {
    pub(super) fn with_capacity(lines: u64) -> Self {
        Self { lines: Vec::with_capacity(usize::try_from(lines).unwrap_or(0)) }
    }

    /// Appends lines as a page holds them; what is shorter than a line is dropped.
    pub(super) fn extend(&mut self, lines: &[u8]) {
        let (whole, _) = lines.as_chunks::<LINE_BYTES>();
        self.lines.extend(whole.iter().map(|line| Line(*line)));
    }

    pub(super) fn may_contain(&self, key: &KeyHash) -> bool {
        let line = line_of(key, self.lines.len() as u64);
        self.lines.get(line as usize).is_none_or(|line| test(&line.0, key))
    }

    pub(super) fn bytes(&self) -> usize {
        self.lines.capacity() * LINE_BYTES
    }
}
