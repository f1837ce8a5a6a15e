//! What was published in the simulated world and what must be true because of it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::world::DETAIL_TYPE;
use crate::{
    agent::ordered::Published,
    core::{
        ingress::STAMP,
        json::{self, Json},
        object::Location,
    },
    sim::{Invariant, REGIONS, Violation, objects::Shelf, payload},
};

/// An event on a bus.
#[derive(Clone, Debug)]
pub struct Effect {
    pub region: &'static str,
    /// Its key, or what stands for it.
    pub name: String,
    /// The idempotency key, where the event or its stamp tells it.
    pub key: Option<String>,
    /// Without a stamp.
    pub detail: String,
    pub source: String,
    pub detail_type: String,
    /// The origin that its stamp names.
    pub stamped: Option<String>,
    /// Where its payload is.
    pub refers: Option<Location>,
    /// It says that its payload was not there.
    pub pending: bool,
    /// Where the whole of its detail is.
    pub offloaded: Option<Location>,
}

/// What tells one business event from another: its key and type, or the number that each publish has.
pub fn name_of(detail_type: &str, detail: &Json<'_>) -> String {
    let key = detail.get("idempotencyKey").and_then(Json::as_str);
    let name = match (key, detail.get("n")) {
        (Some(key), _) => key.to_owned(),
        (None, Some(Json::Number(number))) => format!("n{number}"),
        _ => "nameless".to_owned(),
    };
    if detail_type == DETAIL_TYPE { name } else { format!("{name} {detail_type}") }
}

/// Whether a producer chose the name.
pub fn is_keyed(name: &str) -> bool {
    name.starts_with('k')
}

#[derive(Clone, Debug, Default)]
pub struct Known {
    pub details: BTreeSet<String>,
    /// Its payload may come up too late, or never.
    pub late: bool,
    /// Regions where a producer was told that it is there.
    pub acknowledged: BTreeSet<&'static str>,
    /// Publishes without the agent that a bus took, by region: nobody can keep those to one.
    pub raw: BTreeMap<&'static str, u64>,
    /// The only region whose bus refuses it.
    pub refused_by: Option<String>,
    /// Attempts to put it that had no answer, by region: each of them may be on the bus.
    pub unanswered: BTreeMap<&'static str, u64>,
    /// Who was told that it is on the bus of a region.
    pub told: BTreeSet<(&'static str, String)>,
}

#[derive(Default)]
pub struct Oracle {
    pub effects: Vec<Effect>,
    pub known: BTreeMap<String, Known>,
    order: Vec<String>,
    /// What producers wrote under each location.
    objects: BTreeMap<Location, BTreeSet<Bytes>>,
    /// Names of conflicts in documents that are on the bus of a region.
    pub conflicts_told: BTreeMap<&'static str, BTreeSet<String>>,
    pub violations: Vec<Violation>,
    pub acknowledged: u64,
    pub duplicates: u64,
    pub conflicts: u64,
}

/// What a region's agents counted, all lives of all of them together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Puts without an answer and claims taken over, on this region's bus.
    pub possible: u64,
    /// Local events that something else of their key was ahead of.
    pub late: u64,
}

impl Oracle {
    pub fn violate(&mut self, invariant: Invariant, what: impl Into<String>) {
        self.violations.push(Violation::new(invariant, what));
    }

    pub fn len(&self) -> usize {
        self.order.len()
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// A publish is on its way.
    pub fn attempt(&mut self, detail_type: &str, detail: &str) -> String {
        let parsed = json::parse(detail).unwrap_or(Json::Null);
        let name = name_of(detail_type, &parsed);
        if !self.known.contains_key(&name) {
            self.order.push(name.clone());
        }
        if let Some((at, bytes)) = payload::of(detail) {
            self.objects.entry(at).or_default().insert(bytes);
        }
        let known = self.known.entry(name.clone()).or_default();
        known.late |= payload::is_late(detail);
        known.details.insert(json::strip_top_level(detail, STAMP).unwrap_or_else(|| detail.to_owned()));
        known.refused_by =
            parsed.get("refusedBy").and_then(Json::as_str).map(str::to_owned).or(known.refused_by.take());
        name
    }

    /// A name published before, counted from the youngest, with a detail of it.
    pub fn recent(&self, back: usize) -> Option<(String, String)> {
        let name = self.order.get(self.order.len().checked_sub(back + 1)?)?;
        let detail = self.known.get(name)?.details.first()?;
        Some((name.clone(), detail.clone()))
    }

    pub fn answered(&mut self, region: &'static str, name: &str, published: &Published) {
        let Some(known) = self.known.get_mut(name) else { return };
        match published {
            Published::Accepted(_) => self.acknowledged += 1,
            Published::Duplicate(_) => self.duplicates += 1,
            Published::Conflict => {
                self.conflicts += 1;
                return;
            }
            Published::Refused { .. } | Published::Unavailable { .. } => return,
        }
        known.acknowledged.insert(region);
    }

    /// A bus took it, and told the producer or not.
    pub fn taken_raw(&mut self, region: &'static str, name: &str, told: bool) {
        let Some(known) = self.known.get_mut(name) else { return };
        *known.raw.entry(region).or_default() += 1;
        if told {
            self.acknowledged += 1;
            known.acknowledged.insert(region);
        }
    }

    /// Attempts to put these begin, or end with an answer.
    pub fn unanswered(&mut self, region: &'static str, names: &[String], begin: bool) {
        for name in names {
            let Some(known) = self.known.get_mut(name) else { continue };
            let open = known.unanswered.entry(region).or_default();
            *open = if begin { *open + 1 } else { open.saturating_sub(1) };
        }
    }

    /// A caller hears that these are on the bus.
    pub fn told(&mut self, region: &'static str, caller: &str, names: impl Iterator<Item = String>) {
        for name in names {
            if let Some(known) = self.known.get_mut(&name).filter(|_| is_keyed(&name)) {
                known.told.insert((region, caller.to_owned()));
            }
        }
    }

    pub fn was_told(&self, region: &'static str, caller: &str, name: &str) -> bool {
        self.known.get(name).is_some_and(|known| known.told.contains(&(region, caller.to_owned())))
    }

    fn in_region(&self, region: &str) -> BTreeMap<&str, Vec<&Effect>> {
        let mut effects: BTreeMap<&str, Vec<&Effect>> = BTreeMap::new();
        for effect in self.effects.iter().filter(|effect| effect.region == region) {
            effects.entry(&effect.name).or_default().push(effect);
        }
        effects
    }

    /// What must hold at any time.
    pub fn check(&mut self, objects: &BTreeMap<&'static str, Shelf>) {
        let mut found = Vec::new();
        for effect in &self.effects {
            let known = self.known.get(&effect.name);
            let Some(objects) = objects.get(effect.region) else { continue };
            let whole = match &effect.offloaded {
                None => Some(effect.detail.clone()),
                Some(at) => objects.get(at).map(|bytes| payload::as_published(&String::from_utf8_lossy(bytes))),
            };
            if let Some(why) = self.lacks_payload(effect, whole.is_none(), objects) {
                let what = format!("{} is on the bus of {}, and {why}", effect.name, effect.region);
                found.push(Violation::new(Invariant::Payload, what));
            }
            if !known.is_some_and(|known| whole.is_none_or(|whole| known.details.contains(&whole))) {
                let what = format!("{} is in {} with {}", effect.name, effect.region, effect.detail);
                found.push(Violation::new(Invariant::Invented, what));
            }
            let own = effect.stamped.as_deref() == Some(effect.region);
            if own {
                let what = format!("{} came back to {}", effect.name, effect.region);
                found.push(Violation::new(Invariant::NoLoop, what));
            }
        }
        self.violations.extend(found);
    }

    fn lacks_payload(&self, effect: &Effect, lacks_detail: bool, objects: &Shelf) -> Option<String> {
        if lacks_detail {
            return Some(format!("its detail is not at {:?}", effect.offloaded));
        }
        let late = self.known.get(&effect.name).is_some_and(|known| known.late);
        let at = effect.refers.as_ref().filter(|_| !effect.pending && (effect.stamped.is_some() || !late))?;
        let Some(bytes) = objects.get(at) else { return Some(format!("its payload is not at {at}")) };
        let written = self.objects.get(&payload::without_suffix(at));
        (!written.is_some_and(|written| written.contains(bytes))).then(|| format!("{at} holds {bytes:?}"))
    }

    /// How many effects of a name are too many: those of publishes without the agent are the producers' own.
    fn excess(&self, region: &'static str, name: &str, effects: &[&Effect]) -> u64 {
        let known = self.known.get(name);
        let raw = known.and_then(|known| known.raw.get(region)).copied().unwrap_or(0);
        if raw > 0 && known.is_some_and(|known| known.details.len() > 1) {
            // Two payloads, and not both through the agent: nobody could refuse the second one.
            return 0;
        }
        let local = effects.iter().filter(|effect| effect.stamped.is_none()).count() as u64;
        // Of the local ones without the agent all but one are the producers' own; one beside a link's is counted.
        let own = raw.min(local).saturating_sub(1);
        (effects.len() as u64).saturating_sub(1 + own)
    }

    pub fn repeats(&self, region: &'static str) -> u64 {
        self.in_region(region).into_iter().map(|(name, effects)| self.excess(region, name, &effects)).sum()
    }

    /// What must hold at the end. `letters`: names with a dead letter, by the region that it was for; `take_overs`: how
    /// often claims of a key went from one agent to another in a region.
    pub fn check_end(
        &mut self,
        letters: &BTreeMap<&'static str, Vec<(String, String)>>,
        counted: &[Counted; 3],
        take_overs: impl Fn(&'static str, &Effect) -> u64,
    ) {
        let mut found = Vec::new();
        for (region, counted) in REGIONS.into_iter().zip(counted) {
            let effects = self.in_region(region);
            let dead = letters.get(region).map(Vec::as_slice).unwrap_or_default();
            for (name, known) in self.known.iter().filter(|(_, known)| !known.acknowledged.is_empty()) {
                if !effects.contains_key(name.as_str()) && dead.iter().all(|(letter, _)| letter != name) {
                    let what = format!("{name} of {:?} is neither in {region} nor dead", known.acknowledged);
                    found.push(Violation::new(Invariant::Delivered, what));
                }
            }
            for (name, reason) in dead {
                let known = self.known.get(name);
                let right = match reason.as_str() {
                    "conflict" => known.is_some_and(|known| known.details.len() > 1),
                    "payload_missing" => known.is_some_and(|known| known.late),
                    "refused" => known.is_some_and(|known| known.refused_by.as_deref() == Some(region)),
                    _ => false,
                };
                if !right {
                    let what = format!("{name} is a dead letter for {region}: {reason}");
                    found.push(Violation::new(Invariant::Letters, what));
                }
            }
            // Name by name: what had every answer and kept its claim has one effect.
            for (name, effects) in &effects {
                // Without a key there is one effect of a service's, and it is not known by which key links know it.
                let keyed = effects.iter().find(|effect| effect.key.is_some());
                let Some((known, first)) = self.known.get(*name).zip(keyed) else { continue };
                let raw = known.raw.get(region).copied().unwrap_or(0);
                let unanswered = known.unanswered.get(region).copied().unwrap_or(0);
                let excused = raw + unanswered + take_overs(region, first);
                let excess = self.excess(region, name, effects);
                if excess > excused {
                    let what = format!(
                        "{name} has {} effects in {region}: {raw} without the agent, {unanswered} puts unanswered",
                        effects.len()
                    );
                    found.push(Violation::new(Invariant::OneEffect, what));
                }
            }
            let repeats = self.repeats(region);
            if repeats > counted.possible + counted.late {
                let twice: Vec<&str> =
                    effects.iter().filter(|(_, effects)| effects.len() > 1).map(|(name, _)| *name).collect();
                let what = format!("{repeats} repeats in {region}, {counted:?}, among {twice:?}");
                found.push(Violation::new(Invariant::Counted, what));
            }
        }
        self.violations.extend(found);
    }
}
