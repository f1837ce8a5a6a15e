//! Under which (source, detail-type) a region's events go, as far as this agent has seen any.
//!
//! A ledger of hashes does not tell what its keys are made of, so whoever looks for a key must know source and detail-type.
//! People who ask where an event is often know neither; but a backend has few kinds of events, and each passes by here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

/// Pairs that are remembered. Each costs a read in every ledger when somebody asks for a key.
const KINDS_MAX: usize = 500;

#[derive(Debug, Default)]
pub struct Kinds(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    by_source: BTreeMap<String, BTreeSet<String>>,
    count: usize,
}

impl Kinds {
    /// An event of this kind came by. Beyond the bound it is forgotten.
    pub fn note(&self, source: &str, detail_type: &str) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = seen.by_source.get(source).is_some_and(|types| types.contains(detail_type));
        if known || seen.count >= KINDS_MAX {
            return;
        }
        seen.count += 1;
        seen.by_source.entry(source.to_owned()).or_default().insert(detail_type.to_owned());
    }

    /// The kinds that fit: all of them where nothing is given.
    pub fn fitting(&self, source: Option<&str>, detail_type: Option<&str>) -> BTreeSet<(String, String)> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sources = seen.by_source.iter().filter(|(name, _)| source.is_none_or(|wanted| wanted == name.as_str()));
        let kinds = sources.flat_map(|(source, types)| types.iter().map(move |kind| (source.clone(), kind.clone())));
        kinds.filter(|(_, kind)| detail_type.is_none_or(|wanted| wanted == kind)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_found_by_what_is_known_of_it_and_there_are_never_too_many() {
        let kinds = Kinds::default();
        for (source, detail_type) in [("shop", "Order"), ("shop", "Refund"), ("bank", "Refund"), ("shop", "Order")] {
            kinds.note(source, detail_type);
        }
        let pair = |source: &str, detail_type: &str| (source.to_owned(), detail_type.to_owned());
        let refunds = BTreeSet::from([pair("bank", "Refund"), pair("shop", "Refund")]);
        assert_eq!(kinds.fitting(None, Some("Refund")), refunds);
        assert_eq!(kinds.fitting(Some("bank"), None), BTreeSet::from([pair("bank", "Refund")]));
        for number in 0..2 * KINDS_MAX {
            kinds.note("shop", &number.to_string());
        }
        assert_eq!(kinds.fitting(None, None).len(), KINDS_MAX);
    }
}
