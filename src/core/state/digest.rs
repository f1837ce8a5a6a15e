//! Digests: of a document, and of all documents of a range.
//!
//! A range's digest is the sum of its documents', so that one changed document changes it without a look at the others.
//! Ranges are places ([`super::Key::place`]) with common leading bits, four more on each level: equal regions compare one
//! sum, and one document that differs is found among a million by 16 sums on each of three levels and a list.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Key, document::Document};

/// Bits of a place that choose its bucket, the smallest range that has a sum.
pub const BUCKET_BITS: u32 = 12;

/// Bits by which a level is narrower than the one above.
const LEVEL_BITS: u32 = 4;

/// Levels of ranges: all, then 16, 256 and 4,096.
pub const LEVELS: u32 = BUCKET_BITS / LEVEL_BITS + 1;

/// Of a document's content; sums of them wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub u128);

impl Digest {
    /// Of what readers and merges can tell apart: not of what the document has seen, and nothing of a tombstone.
    pub fn of(key: &Key, document: &Document) -> Option<Digest> {
        if document.is_tombstone() {
            return None;
        }
        let content = (key, &document.cells, &document.tallies, &document.bases, &document.twins);
        let bytes = postcard::to_allocvec(&content).unwrap_or_default();
        let hash = Sha256::digest(bytes);
        let mut half = [0; 16];
        half.copy_from_slice(&hash[..16]);
        Some(Digest(u128::from_be_bytes(half)))
    }

    pub fn plus(self, other: Digest) -> Digest {
        Digest(self.0.wrapping_add(other.0))
    }

    pub fn minus(self, other: Digest) -> Digest {
        Digest(self.0.wrapping_sub(other.0))
    }
}

/// The bucket of a document.
pub fn bucket(key: &Key) -> u16 {
    key.place() >> (16 - BUCKET_BITS)
}

/// A range of buckets: those whose leading bits are `index`, on a level of [`LEVELS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Range {
    pub level: u32,
    pub index: u16,
}

impl Range {
    /// One bucket.
    pub const fn bucket(index: u16) -> Range {
        Range { level: LEVELS - 1, index }
    }

    pub const ALL: Range = Range { level: 0, index: 0 };

    /// Whether it is one bucket.
    pub fn is_bucket(self) -> bool {
        self.level + 1 >= LEVELS
    }

    /// The ranges of the next level.
    pub fn narrower(self) -> Vec<Range> {
        let first = self.index << LEVEL_BITS;
        (0..1 << LEVEL_BITS).map(|nth| Range { level: self.level + 1, index: first + nth }).collect()
    }

    /// Its buckets; `None` of what is no range.
    fn buckets(self) -> Option<std::ops::Range<usize>> {
        let width = BUCKET_BITS.checked_sub(self.level.checked_mul(LEVEL_BITS)?)?;
        let first = usize::from(self.index) << width;
        let end = first + (1 << width);
        (end <= 1 << BUCKET_BITS).then_some(first..end)
    }
}

/// The sums of all buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sums(Vec<Digest>);

impl Default for Sums {
    fn default() -> Self {
        Sums(vec![Digest::default(); 1 << BUCKET_BITS])
    }
}

impl Sums {
    /// A document of the bucket changed.
    pub fn change(&mut self, bucket: u16, before: Option<Digest>, after: Option<Digest>) {
        if let Some(sum) = self.0.get_mut(usize::from(bucket)) {
            *sum = sum.minus(before.unwrap_or_default()).plus(after.unwrap_or_default());
        }
    }

    /// `None` of what is no range.
    pub fn of(&self, range: Range) -> Option<Digest> {
        let buckets = self.0.get(range.buckets()?)?;
        Some(buckets.iter().copied().fold(Digest::default(), Digest::plus))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_narrow_down_to_buckets_that_make_up_all() {
        let mut sums = Sums::default();
        for bucket in 0..1u16 << BUCKET_BITS {
            sums.change(bucket, None, Some(Digest(u128::from(bucket).pow(7) + 1)));
        }
        let mut ranges = vec![Range::ALL];
        while !ranges[0].is_bucket() {
            let next: Vec<Range> = ranges.iter().flat_map(|range| range.narrower()).collect();
            for range in &ranges {
                let parts = range.narrower().into_iter().map(|range| sums.of(range).unwrap());
                assert_eq!(sums.of(*range), Some(parts.fold(Digest::default(), Digest::plus)));
            }
            ranges = next;
        }
        assert_eq!(ranges.len(), 4_096);
        assert_eq!(sums.of(Range { level: 3, index: 5 }), Some(Digest(5u128.pow(7) + 1)));
        assert_eq!(sums.of(Range { level: 4, index: 0 }), None);
        assert_eq!(sums.of(Range { level: 1, index: 16 }), None);
        assert_eq!(sums.of(Range { level: u32::MAX, index: 1 }), None);
    }

    #[test]
    fn a_change_that_is_undone_leaves_no_trace() {
        let (mut sums, empty) = (Sums::default(), Sums::default());
        sums.change(7, None, Some(Digest(u128::MAX)));
        sums.change(7, Some(Digest(u128::MAX)), Some(Digest(5)));
        assert_ne!(sums.of(Range::ALL), empty.of(Range::ALL));
        sums.change(7, Some(Digest(5)), None);
        assert_eq!(sums, empty);
    }

    #[test]
    fn places_are_spread() {
        let of = |id: usize| bucket(&Key::new("profile", &format!("u{id}")));
        let buckets: std::collections::BTreeSet<u16> = (0..10_000).map(of).collect();
        // 4,096 x (1 - (4095/4096)^10,000) = 3,739 are expected.
        assert!(buckets.len() > 3_600, "{}", buckets.len());
        assert_ne!(Key::new("a", "bc").place(), Key::new("ab", "c").place());
    }
}
