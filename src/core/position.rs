//! Where an event stands: in which life of which hub, at which sequence.
//!
//! A hub's offsets go on across restarts, but a hub that was restored from an older copy gives out offsets a second
//! time, and cannot know that it is such a copy. So each start mints a random **incarnation** for what it will write, and
//! positions are compared within one incarnation only.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One life of a hub. Random; see the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// Four of the 64 bits are fixed, so that an [`EventId`] can be written as a UUID and read back.
    pub fn from_random(random: u64) -> Self {
        Incarnation((random & !0xf000) | 0x8000)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A place in a hub's log. `sequence` is the offset there, 0 where the origin has no log (AWS).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    pub incarnation: Incarnation,
    pub sequence: u64,
}

/// An event's id within its hub, written as a UUID of version 8 (RFC 9562, section 5.8): incarnation, then offset.
///
/// Derived, not stored: a ledger entry that knows the offset can name the id of the first publish for as long as the
/// ledger keeps it, also when the log has dropped the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventId(pub Position);

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&uuid(8, self.0.incarnation.0, self.0.sequence))
    }
}

/// The text of a UUID of this version (RFC 9562): 60 bits of `high`, 62 bits of `low`.
pub fn uuid(version: u8, high: u64, low: u64) -> String {
    let high = (high & !0xf000) | u64::from(version) << 12;
    let low = (low & !(3 << 62)) | (2 << 62);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

/// What a region holds of one life of another, as far as that one needs to know it to find out what it lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stray {
    pub incarnation: Incarnation,
    /// The highest sequence.
    pub sequence: u64,
    /// Where the last of them stands in the log of the region that holds them: another place means that there are more.
    /// Zeros where a high-water tells of them, which moves by itself.
    pub at: Position,
}

/// The lives of one hub, oldest first: each with the offset after which it began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lives(pub Vec<(Incarnation, u64)>);

/// How many lives a hub tells its peers, youngest last.
const TOLD: usize = 64;

impl Lives {
    /// What peers are told of it: enough for all but a crash loop, and a bound for every batch.
    pub fn told(&self) -> Lives {
        Lives(self.0[self.0.len().saturating_sub(TOLD)..].to_vec())
    }

    /// The incarnation that wrote `offset`.
    pub fn at(&self, offset: u64) -> Option<Incarnation> {
        self.0.iter().rev().find(|(_, after)| *after < offset).map(|(incarnation, _)| *incarnation)
    }

    pub fn current(&self) -> Option<Incarnation> {
        self.0.last().map(|(incarnation, _)| *incarnation)
    }

    /// The last offset that `incarnation` wrote, where the hub's head is `head`.
    pub fn end(&self, incarnation: Incarnation, head: u64) -> Option<u64> {
        let index = self.0.iter().position(|(candidate, _)| *candidate == incarnation)?;
        Some(self.0.get(index + 1).map_or(head, |(_, after)| *after))
    }

    /// Whether the hub, whose head is `head`, has what was at `place`: it was not restored to a time before, and it is
    /// not a copy of the one that was there.
    pub fn contains(&self, place: &Position, head: u64) -> bool {
        self.end(place.incarnation, head).is_some_and(|end| end >= place.sequence)
    }

    /// How far a peer that reports `high_waters` has this hub's log, in this hub's offsets; 0 where it knows no life
    /// of this hub.
    ///
    /// A peer takes batches in order, so its mark in the youngest life that both know covers every older life. A mark
    /// beyond the end of a life (this hub was restored and lost its tail) counts up to that end.
    pub fn covered(&self, high_waters: &[(Incarnation, u64)], head: u64) -> u64 {
        self.0
            .iter()
            .rev()
            .find_map(|(incarnation, _)| {
                let (_, mark) = high_waters.iter().find(|(known, _)| known == incarnation)?;
                Some((*mark).min(self.end(*incarnation, head)?))
            })
            .unwrap_or(0)
    }

    /// What a peer that reports this holds of this hub beyond what this hub wrote, as far as it knows: anything at all
    /// means that this hub was restored, or that a copy of it is at work elsewhere.
    pub fn beyond(&self, high_waters: &[(Incarnation, u64)], strays: &[Stray], head: u64) -> Vec<Stray> {
        let marks = high_waters.iter().map(|(incarnation, sequence)| Stray {
            incarnation: *incarnation,
            sequence: *sequence,
            at: Position::default(),
        });
        let is_beyond = |held: &Stray| self.end(held.incarnation, head).is_none_or(|end| held.sequence > end);
        marks.chain(strays.iter().copied()).filter(is_beyond).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Incarnation = Incarnation(1);
    const B: Incarnation = Incarnation(2);
    const C: Incarnation = Incarnation(3);

    fn lives() -> Lives {
        Lives(vec![(A, 0), (B, 100), (C, 250)])
    }

    #[test]
    fn an_offset_belongs_to_the_life_that_wrote_it() {
        assert_eq!(
            [1, 100, 101, 250, 251].map(|offset| lives().at(offset)),
            [Some(A), Some(A), Some(B), Some(B), Some(C)]
        );
        assert_eq!(lives().at(0), None);
    }

    #[test]
    fn coverage_is_judged_in_the_youngest_common_life() {
        for (marks, covered) in [
            (vec![], 0),
            (vec![(A, 60)], 60),
            (vec![(A, 100), (B, 180)], 180),
            (vec![(A, 100), (B, 250), (C, 300)], 300),
            // A peer that saw more of A than is left of it here.
            (vec![(A, 130)], 100),
            (vec![(Incarnation(9), 500)], 0),
        ] {
            assert_eq!(lives().covered(&marks, 300), covered, "{marks:?}");
        }
    }

    #[test]
    fn a_mark_beyond_our_own_end_means_that_we_were_restored() {
        let is_behind = |marks: &[(Incarnation, u64)]| !lives().beyond(marks, &[], 300).is_empty();
        assert!(!is_behind(&[(A, 100), (B, 180)]));
        assert!(is_behind(&[(A, 130)]));
        assert!(is_behind(&[(C, 301)]));
        assert!(is_behind(&[(Incarnation(9), 1)]));
    }

    #[test]
    fn so_does_a_single_event_that_no_mark_covers() {
        let at = Position { incarnation: Incarnation(7), sequence: 40 };
        let stray = |incarnation, sequence| Stray { incarnation, sequence, at };
        let strays = [stray(A, 90), stray(B, 250), stray(C, 302), stray(Incarnation(9), 3)];
        assert_eq!(lives().beyond(&[(C, 300)], &strays, 300), strays[2..]);
    }

    #[test]
    fn ids_are_uuids_of_version_8_and_differ_by_life_and_offset() {
        let id = |random, sequence| {
            EventId(Position { incarnation: Incarnation::from_random(random), sequence }).to_string()
        };
        assert_eq!(id(0x1234_5678_9abc_def0, 7), "12345678-9abc-8ef0-8000-000000000007");
        assert_ne!(id(1, 7), id(1, 8));
        assert_ne!(id(1, 7), id(2, 7));
    }
}
