//! What was heard of the other regions, and when.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::core::{position::Incarnation, region::proof, time::Timestamp};

#[derive(Clone, Copy, Default)]
struct Said {
    at: Option<Instant>,
    /// The end of its log, as it said last.
    head: Option<u64>,
    /// When the last of its events that came was accepted there.
    watermark: Option<Timestamp>,
}

/// By region. Time is the steady clock's: the wall clock may be set.
pub struct Heard {
    started: Instant,
    patience: BTreeMap<String, Duration>,
    said: Mutex<BTreeMap<String, Said>>,
}

impl Heard {
    /// `patience`: how long each of the others may be silent.
    pub fn new(patience: BTreeMap<String, Duration>) -> Self {
        Heard { started: Instant::now(), patience, said: Mutex::default() }
    }

    fn said(&self) -> MutexGuard<'_, BTreeMap<String, Said>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, region: &str, change: impl FnOnce(&mut Said)) {
        let mut said = self.said();
        match said.get_mut(region) {
            Some(known) => change(known),
            // Only regions of the file are let in, so this is bounded.
            None => change(said.entry(region.to_owned()).or_default()),
        }
    }

    /// It called, or answered.
    pub fn alive(&self, region: &str) {
        self.change(region, |said| said.at = Some(Instant::now()));
    }

    /// It sent a batch.
    pub fn head(&self, region: &str, head: u64) {
        self.change(region, |said| said.head = Some(head));
    }

    /// An event that it accepted then is here.
    pub fn came(&self, region: &str, accepted: Timestamp) {
        self.change(region, |said| said.watermark = said.watermark.max(Some(accepted)));
    }

    /// By region: the end of its log, as it said last.
    pub fn heads(&self) -> BTreeMap<String, u64> {
        self.said().iter().filter_map(|(region, said)| Some((region.clone(), said.head?))).collect()
    }

    /// How long nothing was heard of it, since this agent started.
    pub fn silent(&self, region: &str) -> Duration {
        self.said().get(region).and_then(|said| said.at).unwrap_or(self.started).elapsed()
    }

    pub fn is_suspected(&self, region: &str) -> bool {
        self.patience.get(region).is_some_and(|patience| self.silent(region) >= *patience)
    }

    /// The regions that were silent for too long, in their order.
    pub fn suspects(&self) -> Vec<String> {
        self.patience.keys().filter(|region| self.is_suspected(region)).cloned().collect()
    }

    /// For a report; `marks` is how far each life of the region's log is here, `holes` how many events below these it holds
    /// back.
    pub fn report(&self, region: &str, marks: Vec<(Incarnation, u64)>, holes: u64) -> proof::Heard {
        let said = self.said().get(region).copied().unwrap_or_default();
        let has = marks.last().map(|(_, mark)| *mark);
        proof::Heard {
            behind: said.head.zip(has).map(|(head, has)| head.saturating_sub(has) + holes),
            watermark: said.watermark.filter(|_| holes == 0),
            marks,
            silent: self.silent(region),
            suspected: self.is_suspected(region),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_region_is_suspected_after_its_patience_and_no_more_when_it_is_heard() {
        let heard = Heard::new([("b".to_owned(), Duration::from_secs(4))].into());
        assert!(heard.suspects().is_empty());
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(heard.suspects(), ["b"]);
        heard.alive("b");
        assert!(heard.suspects().is_empty());
        tokio::time::advance(Duration::from_millis(3_999)).await;
        assert!(!heard.is_suspected("b"));
        assert!(!heard.is_suspected("a"), "a stranger is nobody to wait for");
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_says_what_is_known_to_be_missing() {
        let heard = Heard::new(BTreeMap::new());
        let marks = |mark| vec![(Incarnation(1), mark)];
        assert_eq!(heard.report("b", marks(3), 0).behind, None);
        heard.head("b", 10);
        heard.came("b", Timestamp(7));
        heard.came("b", Timestamp(5));
        let report = heard.report("b", marks(3), 0);
        assert_eq!((report.behind, report.watermark), (Some(7), Some(Timestamp(7))));
        assert_eq!(heard.report("b", marks(12), 0).behind, Some(0));
        let report = heard.report("b", marks(10), 2);
        assert_eq!((report.behind, report.watermark), (Some(2), None), "what is held back came before it");
    }
}
