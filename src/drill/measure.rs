//! The numbers of a drill, made of what was seen while it ran. What was not seen is `None`, never a guess; what each number
//! means stands in `docs/DRILLS.md`.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    extension::Detect,
    timeline::{Link, Sample, millis},
};

/// How long backlogs must stay low until the regions count as caught up.
const SETTLED_SECONDS: f64 = 2.0;

/// What was written so short a time ago is under way and does not wait.
const MOMENT_SECONDS: f64 = 0.25;

/// An answer that is older says nothing of now. One that is late, or lost, leaves no gap as long.
const FRESH_SECONDS: f64 = 2.0;

/// A moment in the life of an experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The fault's activity began.
    Fault,
    /// The activity that ends it began.
    Heal,
    /// The evacuation began.
    Evacuate,
}

/// Folds what is seen into numbers; seconds count from the drill's beginning.
#[derive(Debug)]
pub struct Measure {
    /// All regions of the topology.
    regions: BTreeSet<String>,
    /// The one that fails.
    failing: Option<String>,
    detect: Detect,
    /// What each region answered last.
    latest: BTreeMap<String, Sample>,
    fault: Option<f64>,
    heal: Option<f64>,
    evacuate: Option<f64>,
    /// Links that were not active when the fault began.
    not_active: BTreeSet<(String, String)>,
    /// The greatest backlog of one link before anything was done: traffic under way.
    usual: u64,
    detected: Option<f64>,
    peak: Option<u64>,
    /// Since when all backlogs are low.
    low_since: Option<f64>,
    caught_up: Option<f64>,
    counters: BTreeMap<String, [Counter; 2]>,
}

impl Measure {
    pub fn new(regions: impl IntoIterator<Item = String>, failing: Option<String>, detect: Detect) -> Measure {
        Measure {
            regions: regions.into_iter().collect(),
            failing,
            detect,
            latest: BTreeMap::new(),
            fault: None,
            heal: None,
            evacuate: None,
            not_active: BTreeSet::new(),
            usual: 0,
            detected: None,
            peak: None,
            low_since: None,
            caught_up: None,
            counters: BTreeMap::new(),
        }
    }

    /// The first time counts.
    pub fn mark(&mut self, mark: Mark, at: f64) {
        let place = match mark {
            Mark::Fault => &mut self.fault,
            Mark::Heal => &mut self.heal,
            Mark::Evacuate => &mut self.evacuate,
        };
        if place.is_some() {
            return;
        }
        *place = Some(at);
        if mark == Mark::Fault {
            self.not_active = self.latest.iter().flat_map(|(region, sample)| not_active(region, sample)).collect();
        }
    }

    /// Takes in what a region said.
    pub fn saw(&mut self, region: &str, sample: &Sample) {
        let greatest = sample.links.iter().map(|link| link.backlog_events).max();
        if self.fault.or(self.evacuate).or(self.heal).is_none() {
            self.usual = self.usual.max(greatest.unwrap_or_default());
        }
        if let Some(fault) = self.fault
            && self.detected.is_none()
            && self.notices(region, sample)
        {
            self.detected = Some(millis((sample.at - fault).max(0.0)));
        }
        if sample.state.is_some() {
            self.latest.insert(region.to_owned(), sample.clone());
            let fresh = |other: &&Sample| sample.at - other.at <= FRESH_SECONDS;
            let links = self.latest.values().filter(fresh).flat_map(|sample| &sample.links);
            let sum: u64 = links.map(|link| link.backlog_events).sum();
            self.peak = Some(self.peak.unwrap_or_default().max(sum));
        }
        self.look_for_catch_up(sample.at);
    }

    fn notices(&self, region: &str, sample: &Sample) -> bool {
        match (self.detect, &self.failing) {
            (Detect::Region, Some(failing)) => region != failing && sample.suspects.contains(failing),
            (Detect::Region, None) => false,
            (Detect::Link, _) => not_active(region, sample).any(|link| !self.not_active.contains(&link)),
        }
    }

    fn look_for_catch_up(&mut self, now: f64) {
        let Some(heal) = self.heal else { return };
        if self.caught_up.is_some() {
            return;
        }
        let is_low = |region: &String| {
            self.latest.get(region).is_some_and(|sample| {
                let is_of_now = sample.at >= heal && now - sample.at <= FRESH_SECONDS;
                is_of_now && sample.links.iter().all(|link| self.is_low(link))
            })
        };
        if !self.regions.iter().all(is_low) {
            self.low_since = None;
            return;
        }
        let since = *self.low_since.get_or_insert(now);
        // Each has said so at the end of that time too.
        if self.latest.values().all(|sample| sample.at - since >= SETTLED_SECONDS) {
            self.caught_up = Some(millis(since - heal));
        }
    }

    /// Nothing waits but what traffic always has under way.
    fn is_low(&self, link: &Link) -> bool {
        link.backlog_events <= self.usual || link.rpo_exposure_seconds <= MOMENT_SECONDS
    }

    /// Takes in a region's `/metrics`.
    pub fn counted(&mut self, region: &str, metrics: &str) {
        let duplicates = sum(metrics, "hubweave_events_forwarded_total", r#"result="duplicate""#)
            + sum(metrics, "hubweave_events_deduplicated_total", r#"result="repeat""#);
        let conflicts = sum(metrics, "hubweave_state_conflicts_total", "");
        let counters = self.counters.entry(region.to_owned()).or_default();
        for (counter, value) in counters.iter_mut().zip([duplicates, conflicts]) {
            counter.saw(value);
        }
    }

    /// Where an RTO counts from: the fault, or the evacuation where there is none before it.
    pub fn trouble(&self, graceful: bool) -> Option<f64> {
        if graceful { self.evacuate } else { self.fault.or(self.evacuate) }
    }

    /// Whether there is a heal that catching up is waited for.
    pub fn waits_for_catch_up(&self) -> bool {
        self.heal.is_some() && self.caught_up.is_none()
    }

    pub fn detected_seconds(&self) -> Option<f64> {
        self.detected
    }

    pub fn backlog_peak(&self) -> Option<u64> {
        self.peak
    }

    pub fn catch_up_seconds(&self) -> Option<f64> {
        self.caught_up
    }

    /// What was suppressed because its key was known.
    pub fn duplicates(&self) -> Option<u64> {
        self.total(0)
    }

    pub fn conflicts(&self) -> Option<u64> {
        self.total(1)
    }

    fn total(&self, which: usize) -> Option<u64> {
        // A region that was never asked would make the sum a guess.
        let all = self.regions.iter().all(|region| self.counters.contains_key(region));
        let sum = self.counters.values().map(|counters| counters[which].grown).sum::<f64>();
        all.then_some(sum.round() as u64)
    }
}

fn not_active<'s>(region: &'s str, sample: &'s Sample) -> impl Iterator<Item = (String, String)> + 's {
    let links = sample.links.iter().filter(|link| !matches!(link.state.as_str(), "active" | "disabled"));
    links.map(move |link| (region.to_owned(), link.peer.clone()))
}

/// A counter that begins again at 0 when its process does. What it counted between the last look and a kill is not known.
#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    last: Option<f64>,
    grown: f64,
}

impl Counter {
    fn saw(&mut self, value: f64) {
        if let Some(last) = self.last {
            self.grown += if value >= last { value - last } else { value };
        }
        self.last = Some(value);
    }
}

/// The sum of all samples of a metric that have this among their labels.
fn sum(text: &str, name: &str, label: &str) -> f64 {
    let of_metric = |line: &&str| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))
    };
    let values = text.lines().filter(of_metric).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: f64, backlog: u64, state: &str, suspects: &[&str]) -> Sample {
        let waits = if backlog > 2 { 3.0 } else { 0.0 };
        let link = Link {
            peer: "us".into(),
            state: state.into(),
            backlog_events: backlog,
            rpo_exposure_seconds: waits,
            ..Link::default()
        };
        let suspects = suspects.iter().map(|name| (*name).to_owned()).collect();
        Sample { at, state: Some("active".into()), suspects, links: vec![link] }
    }

    fn measure(failing: Option<&str>, detect: Detect) -> Measure {
        Measure::new(["eu", "us"].map(str::to_owned), failing.map(str::to_owned), detect)
    }

    #[test]
    fn a_region_is_detected_when_a_living_one_suspects_it() {
        let mut measure = measure(Some("us"), Detect::Region);
        measure.saw("eu", &sample(0.5, 0, "active", &["us"]));
        measure.mark(Mark::Fault, 1.0);
        measure.saw("us", &sample(1.5, 0, "active", &["us"]));
        measure.saw("eu", &sample(2.0, 0, "retrying", &[]));
        assert_eq!(measure.detected_seconds(), None);
        measure.saw("eu", &sample(4.0, 0, "retrying", &["us"]));
        measure.saw("eu", &sample(5.0, 0, "retrying", &["us"]));
        assert_eq!(measure.detected_seconds(), Some(3.0));
    }

    #[test]
    fn a_link_fault_is_detected_when_a_link_that_was_active_is_not() {
        let mut measure = measure(None, Detect::Link);
        measure.saw("eu", &sample(0.0, 0, "active", &[]));
        measure.saw("us", &sample(0.0, 0, "paused", &[]));
        measure.mark(Mark::Fault, 1.0);
        measure.saw("us", &sample(1.5, 0, "paused", &[]));
        measure.saw("eu", &sample(2.0, 0, "active", &[]));
        assert_eq!(measure.detected_seconds(), None);
        measure.saw("eu", &sample(2.5, 0, "retrying", &[]));
        assert_eq!(measure.detected_seconds(), Some(1.5));
    }

    #[test]
    fn regions_have_caught_up_when_all_backlogs_are_low_and_stay_so() {
        let mut measure = measure(None, Detect::Link);
        for region in ["eu", "us"] {
            measure.saw(region, &sample(0.0, 2, "active", &[]));
        }
        measure.mark(Mark::Fault, 1.0);
        measure.saw("eu", &sample(1.5, 40, "active", &[]));
        measure.saw("us", &sample(1.5, 30, "active", &[]));
        measure.mark(Mark::Heal, 2.0);
        let mut at = 2.0;
        let mut see = |eu: u64, us: Option<u64>| {
            at += 0.5;
            measure.saw("eu", &sample(at, eu, "active", &[]));
            match us {
                Some(us) => measure.saw("us", &sample(at, us, "active", &[])),
                None => measure.saw("us", &Sample::silent(at)),
            }
        };
        see(20, Some(0));
        see(0, Some(0)); // 3.0
        (0..5).for_each(|_| see(0, None)); // 5.5: no answer for too long, nobody knows
        see(0, Some(0)); // 6.0
        see(0, None); // one answer is late: what it said before holds
        see(2, Some(1)); // 7.0: as before the fault
        see(0, Some(0));
        see(0, None); // 8.0: us has not said yet that it stayed so
        let before = measure.catch_up_seconds();
        measure.saw("us", &sample(8.5, 0, "active", &[]));
        assert_eq!((before, measure.catch_up_seconds()), (None, Some(4.0)));
        assert_eq!(measure.backlog_peak(), Some(70));
        assert!(!measure.waits_for_catch_up());
    }

    #[test]
    fn what_waits_after_an_evacuation_is_not_usual() {
        let mut measure = measure(Some("us"), Detect::Region);
        measure.mark(Mark::Evacuate, 1.0);
        measure.saw("eu", &sample(1.5, 40, "active", &[]));
        measure.mark(Mark::Heal, 2.0);
        for at in [2.5, 4.5] {
            measure.saw("eu", &sample(at, 30, "active", &[]));
            measure.saw("us", &sample(at, 0, "active", &[]));
        }
        assert!(measure.waits_for_catch_up());
    }

    #[test]
    fn a_link_that_was_not_active_before_an_answer_was_late_is_no_sign() {
        let mut measure = measure(None, Detect::Link);
        measure.saw("us", &sample(0.0, 0, "retrying", &[]));
        measure.saw("us", &Sample::silent(0.5));
        measure.mark(Mark::Fault, 1.0);
        measure.saw("us", &sample(1.5, 0, "retrying", &[]));
        assert_eq!(measure.detected_seconds(), None);
    }

    #[test]
    fn nothing_is_known_where_nothing_was_seen() {
        let measure = measure(None, Detect::Link);
        assert_eq!((measure.duplicates(), measure.backlog_peak(), measure.catch_up_seconds()), (None, None, None));
    }

    #[test]
    fn counters_outlive_a_restart() {
        let mut measure = measure(None, Detect::Link);
        let text = |duplicates: u32, repeats: u32, conflicts: u32| {
            format!(
                "# HELP hubweave_events_forwarded_total x\n\
                 hubweave_events_forwarded_total{{peer=\"us\",result=\"duplicate\",region=\"eu\"}} {duplicates}\n\
                 hubweave_events_forwarded_total{{peer=\"us\",result=\"delivered\",region=\"eu\"}} 999\n\
                 hubweave_events_deduplicated_total{{result=\"repeat\",region=\"eu\"}} {repeats}\n\
                 hubweave_state_conflicts_total{{type=\"a\",field=\"b\",resolution=\"c\",region=\"eu\"}} {conflicts}\n"
            )
        };
        measure.counted("eu", &text(10, 1, 5));
        assert_eq!(measure.duplicates(), None, "us was not asked");
        measure.counted("us", "");
        measure.counted("eu", &text(14, 2, 5));
        measure.counted("eu", &text(3, 0, 1));
        assert_eq!((measure.duplicates(), measure.conflicts()), (Some(8), Some(1)));
    }
}
