//! Which trace a measurement is an example of: the last traced event in each bucket of a link's lag.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use super::LAG_BUCKETS;
use crate::core::time::Timestamp;

/// One measurement and the trace of its event.
#[derive(Clone, Debug, PartialEq)]
pub struct Exemplar {
    /// The trace's id, 32 hexadecimal digits.
    pub trace: String,
    /// Seconds.
    pub value: f64,
    pub at: Timestamp,
}

/// By peer, stream and bucket; so bounded by the links.
#[derive(Debug, Default)]
pub struct Exemplars(Mutex<BTreeMap<(String, &'static str, usize), Exemplar>>);

impl Exemplars {
    pub(super) fn note(&self, peer: &str, stream: &'static str, exemplar: Exemplar) {
        let bucket = LAG_BUCKETS.partition_point(|bound| *bound < exemplar.value);
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.insert((peer.to_owned(), stream, bucket), exemplar);
    }

    /// Those of one link's stream, by the index of their bucket; the last bucket has no bound.
    pub(super) fn of(&self, peer: &str, stream: &str) -> BTreeMap<usize, Exemplar> {
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = noted.iter().filter(|((of, is, _), _)| of == peer && *is == stream);
        ours.map(|((_, _, bucket), exemplar)| (*bucket, exemplar.clone())).collect()
    }
}
