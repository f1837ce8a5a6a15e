//! What is said of a simulated world: what is open still, and whether everything is as it must be.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    ledger,
    oracle::{Counted, Effect, name_of},
    world::{World, lock},
};
use crate::{
    agent::queue_link::letter,
    core::{
        json::{self, Json},
        key::KeyHash,
    },
    ports::claims::State,
    sim::{Invariant, REGIONS, Violation},
};

impl World {
    /// Names with dead letters and their reasons, by the region that they were for.
    fn letters(&self) -> BTreeMap<&'static str, Vec<(String, String)>> {
        let mut letters: BTreeMap<&'static str, Vec<(String, String)>> = BTreeMap::new();
        for (peer, link) in self.regions.iter().flat_map(|region| &region.links) {
            for message in link.dead.bodies() {
                let parsed = json::parse(&message.body).ok();
                let detail = parsed.as_ref().and_then(|parsed| parsed.get("detail"));
                let detail_type = parsed.as_ref().and_then(|parsed| parsed.get("detail-type")).and_then(Json::as_str);
                let name = detail.map(|detail| name_of(detail_type.unwrap_or_default(), detail)).unwrap_or_default();
                let reason = message.attributes.get(letter::REASON).cloned().unwrap_or_default();
                letters.entry(peer).or_default().push((name, reason));
            }
        }
        letters
    }

    pub fn counted(&self) -> [Counted; 3] {
        REGIONS.map(|region| {
            let mut counted = Counted::default();
            for (home, metrics) in &self.metrics {
                let link = metrics.link(region);
                counted.possible += link.repeats_unanswered.get() + link.repeats_taken_over.get();
                if *home == region {
                    for result in ["late", "repeat"] {
                        counted.late += metrics.local_entries.with_label_values(&[result]).get();
                    }
                }
            }
            counted
        })
    }

    /// What is open although nothing is wrong any more.
    pub fn open_ends(&self) -> Vec<Violation> {
        let mut open = Vec::new();
        for region in &self.regions {
            for queue in region.queues() {
                let held = queue.bodies().len();
                if held > 0 {
                    open.push(Violation::new(Invariant::Quiet, format!("{held} messages in {}", queue.name)));
                }
            }
        }
        open
    }

    /// Takes what the services saw into the oracle.
    pub fn check(&self) {
        let mut oracle = lock(&self.oracle);
        for region in &self.regions {
            for late in region.ledger.take_late() {
                oracle.violate(Invariant::Fenced, late);
            }
        }
        let objects = self.regions.iter().map(|region| (region.name, region.disk.objects())).collect();
        oracle.check(&objects);
    }

    pub fn check_end(&self) {
        self.check();
        let mut oracle = lock(&self.oracle);
        let key_of = |effect: &Effect| {
            KeyHash::of(&effect.source, &effect.detail_type, effect.key.as_deref().unwrap_or_default())
        };
        let ledgers: BTreeMap<_, _> = self.regions.iter().map(|region| (region.name, region.ledger.clone())).collect();
        let take_overs = |region, effect: &Effect| {
            ledgers.get(region).map_or(0, |ledger: &Arc<ledger::Store>| ledger.take_overs(key_of(effect)))
        };
        oracle.check_end(&self.letters(), &self.counted(), take_overs);
        // Every effect has its key in the ledger, done: whoever comes next is told.
        let mut undone = Vec::new();
        for region in &self.regions {
            for effect in oracle.effects.iter().filter(|effect| effect.region == region.name) {
                if effect.key.is_none() {
                    continue;
                }
                if !region.ledger.row(key_of(effect)).is_some_and(|row| matches!(row.state, State::Done { .. })) {
                    undone.push(format!("{} is on the bus of {} and not done in its ledger", effect.name, region.name));
                }
            }
        }
        for what in undone {
            oracle.violate(Invariant::Durable, what);
        }
    }
}
