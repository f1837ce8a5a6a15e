//! Documents that several regions may change at once, and what makes them meet again. No I/O, no clock, no chance.
//!
//! # The problem
//! Two regions that cannot talk both take writes to one document. When they can talk again, both must hold the same
//! document, in which every write survives as its field's kind says, whatever was lost, doubled or overtaken on the way,
//! and nothing that was deleted may come back.
//!
//! # The method
//! A document is one *dot store* under one causal context, as of delta-state CRDTs (Almeida, Shoker, Baquero, "Delta state
//! replicated data types", 2016): what a write left behind carries the write's [`Dot`], the document's [`Clock`] says
//! which writes it has seen, and what is covered by a clock but not there was removed. Each request is one dot and makes
//! one [`delta::Delta`]. A delta is merged in the order of its replica and behind everything that it removes, or waits;
//! whole documents merge at any time.
//!
//! A document is a function of the set of writes that it has seen, so two with the same clock are the same, and no merge
//! needs another region to do something about it later. Repeats of one request in several regions are settled the same
//! way: see [`document`].

pub mod again;
mod beyond;
pub mod delta;
pub mod digest;
pub mod document;
mod edit;
pub mod number;
pub mod op;
pub mod standing;
pub mod view;

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// One start of one region's documents. Random: a region that was restored from an old copy must not number its writes a
/// second time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Replica(pub u64);

impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One request to one document. Numbers grow over all documents of a replica, so a document that was forgotten and begun
/// anew has none of its old dots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot {
    pub replica: Replica,
    pub number: u64,
}

/// Which requests a document has seen: of each replica all up to a number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock(pub BTreeMap<Replica, u64>);

impl Clock {
    pub fn get(&self, replica: Replica) -> u64 {
        self.0.get(&replica).copied().unwrap_or(0)
    }

    pub fn covers(&self, dot: Dot) -> bool {
        self.get(dot.replica) >= dot.number
    }

    /// Whether everything that `other` has seen was seen here.
    pub fn includes(&self, other: &Clock) -> bool {
        other.0.iter().all(|(replica, number)| self.get(*replica) >= *number)
    }

    pub fn raise(&mut self, replica: Replica, number: u64) {
        let seen = self.0.entry(replica).or_insert(0);
        *seen = (*seen).max(number);
    }

    pub fn join(&mut self, other: &Clock) {
        other.0.iter().for_each(|(replica, number)| self.raise(*replica, *number));
    }
}

/// Which document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The document's type, as configured.
    pub of: String,
    pub id: String,
}

/// Bytes that a document's id may have.
pub const ID_BYTES_MAX: usize = 512;

impl Key {
    pub fn new(of: &str, id: &str) -> Self {
        Key { of: of.to_owned(), id: id.to_owned() }
    }

    /// Where the document stands among all: evenly spread, the same in every region.
    pub fn place(&self) -> u16 {
        let mut hasher = Sha256::new();
        hasher.update((self.of.len() as u64).to_le_bytes());
        hasher.update(self.of.as_bytes());
        hasher.update(self.id.as_bytes());
        let hash = hasher.finalize();
        u16::from_be_bytes([hash[0], hash[1]])
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.of, self.id)
    }
}

/// How concurrent writes to a value merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// The last writer by hybrid logical clock; what it beat is told to the conflict feed.
    Register,
    /// Concurrent values are all kept.
    MultiValue,
    Max,
    Min,
    /// Increments add up.
    Counter,
    /// Add-wins, observed remove.
    Set,
    /// Enable-wins.
    Flag,
}

impl Kind {
    pub const ALL: [Kind; 7] =
        [Kind::Register, Kind::MultiValue, Kind::Max, Kind::Min, Kind::Counter, Kind::Set, Kind::Flag];

    /// As topology files and messages spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Register => "register",
            Kind::MultiValue => "multi-value",
            Kind::Max => "max",
            Kind::Min => "min",
            Kind::Counter => "counter",
            Kind::Set => "set",
            Kind::Flag => "flag",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The shape of a field: a value of a kind, in so many maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub kind: Kind,
    /// How many keys lead to a value; 0: the field is the value.
    pub depth: usize,
}

/// The fields of a document type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schema(pub BTreeMap<String, Shape>);

/// Document types by name.
pub type Schemas = BTreeMap<String, Schema>;

/// Names a request wherever it is tried: a hash of its idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Request(pub [u8; 16]);

impl Request {
    pub fn of(key: &str) -> Self {
        let hash = Sha256::digest(key.as_bytes());
        let mut request = [0; 16];
        request.copy_from_slice(&hash[..16]);
        Request(request)
    }
}

#[cfg(test)]
mod laws;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
