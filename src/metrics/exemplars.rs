//! Which trace a measurement is an example of: the last traced event in each bucket of a link's lag.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus::proto::{LabelPair, Metric};

use super::{LAG, LAG_BUCKETS};
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

/// Those of one link's stream, by bucket; the last bucket has no bound.
#[derive(Debug)]
pub struct Traced(Mutex<Vec<Option<Exemplar>>>);

impl Default for Traced {
    fn default() -> Self {
        Traced(Mutex::new(vec![None; LAG_BUCKETS.len() + 1]))
    }
}

impl Traced {
    pub(super) fn note(&self, exemplar: Exemplar) {
        let bucket = LAG_BUCKETS.partition_point(|bound| *bound < exemplar.value);
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = noted.get_mut(bucket) {
            *place = Some(exemplar);
        }
    }
}

/// All of them, by peer and stream.
#[derive(Debug, Default)]
pub struct Exemplars(Mutex<BTreeMap<(String, &'static str), Arc<Traced>>>);

impl Exemplars {
    /// Those of a link's stream, none if it is new.
    pub(super) fn traced(&self, peer: &str, stream: &'static str) -> Arc<Traced> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry((peer.to_owned(), stream)).or_default().clone()
    }

    /// Those of a histogram, by the index of their bucket; none where it is another family's.
    pub(super) fn of(&self, family: &str, metric: &Metric) -> Vec<Option<Exemplar>> {
        if family != LAG {
            return Vec::new();
        }
        let label = |name| metric.get_label().iter().find(|label| label.name() == name).map_or("", LabelPair::value);
        let (peer, stream) = (label("peer"), label("stream"));
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.iter().find(|((of, is), _)| of == peer && *is == stream);
        found.map(|(_, traced)| traced.0.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap_or_default()
    }
}
