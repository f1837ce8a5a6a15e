//! The oracle: what was published and answered, and what must be true because of it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tokio::time::Instant;

use super::{REGIONS, objects::Shelf, payload};
use crate::{
    core::{
        event::Record,
        invariant::{Invariant, Violation},
        object::Location,
        time::Timestamp,
    },
    ports::hub::{Hub, Published},
};

/// One event in a region's hub.
#[derive(Clone, Debug)]
pub struct Effect {
    pub key: String,
    pub detail: String,
    pub offset: u64,
    /// Where the event stands at its origin.
    pub sequence: u64,
    pub accepted: Timestamp,
    pub local: bool,
    pub repaired: bool,
    pub hops: u8,
    pub origin: Option<String>,
    /// It says that its payload was not there.
    pub pending: bool,
}

impl Effect {
    fn of(record: &Record) -> Self {
        Effect {
            key: record.key().to_owned(),
            detail: record.detail().to_owned(),
            offset: record.header.offset,
            sequence: record.header.origin.sequence,
            accepted: record.header.accepted,
            local: record.header.is_local_business(),
            repaired: record.header.is_repaired(),
            hops: record.header.hops,
            origin: record.origin_region().map(str::to_owned),
            pending: record.header.is_pending(),
        }
    }
}

/// All events of services in a hub, in the order of its log.
pub async fn effects(hub: &dyn Hub) -> Result<Vec<Effect>, String> {
    let mut reader = hub.reader(hub.base());
    let mut effects = Vec::new();
    loop {
        let records = reader.next(1_000, 1 << 20).await.map_err(|error| error.to_string())?;
        if records.is_empty() {
            return Ok(effects);
        }
        effects.extend(records.iter().filter(|record| !record.header.is_reserved()).map(Effect::of));
    }
}

#[derive(Clone, Debug, Default)]
struct Key {
    details: BTreeSet<String>,
    acknowledged: BTreeSet<&'static str>,
    /// Every filter takes it.
    passes: bool,
    /// Its payload may come up too late, or never.
    late: bool,
    /// A restore took it when no other region had it.
    adrift: bool,
}

/// An object that a service wrote, or began to write.
struct Written {
    region: &'static str,
    key: String,
    bytes: Bytes,
    started: Instant,
    ended: Option<Instant>,
}

#[derive(Default)]
pub struct History {
    keys: BTreeMap<String, Key>,
    order: Vec<String>,
    /// What services wrote under each location, in the order in which they began.
    objects: BTreeMap<Location, Vec<Written>>,
    pub acknowledged: u64,
    pub duplicates: u64,
    pub conflicts: u64,
}

impl History {
    /// A publish is on its way.
    pub fn attempt(&mut self, key: &str, detail: &str, passes: bool) {
        if !self.keys.contains_key(key) {
            self.order.push(key.to_owned());
        }
        let known = self.keys.entry(key.to_owned()).or_default();
        known.late |= payload::is_late(detail);
        known.details.insert(detail.to_owned());
        known.passes = passes;
    }

    /// A key that was never published, on its way.
    pub fn invent(&mut self, passes: bool, payload: payload::Kind) -> (String, String) {
        let n = self.len();
        let (key, detail) = (format!("k{n}"), format!("{{\"n\":{n},\"pass\":{passes}{}}}", payload.members(n)));
        self.attempt(&key, &detail, passes);
        (key, detail)
    }

    pub fn answered(&mut self, region: &'static str, key: &str, published: Published) {
        let Some(known) = self.keys.get_mut(key) else { return };
        match published {
            Published::Accepted(_) => self.acknowledged += 1,
            Published::Duplicate(_) => self.duplicates += 1,
            Published::Conflict => {
                self.conflicts += 1;
                return;
            }
        }
        known.acknowledged.insert(region);
    }

    /// A key published before, counted from the youngest, with its payload.
    pub fn recent(&self, back: usize) -> Option<(String, String, bool)> {
        let key = self.order.get(self.order.len().checked_sub(back + 1)?)?;
        let known = self.keys.get(key)?;
        Some((key.clone(), known.details.first()?.clone(), known.passes))
    }

    pub fn len(&self) -> u64 {
        self.order.len() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// After a restore: what is in none of the regions is lost, and nobody can be blamed for it.
    pub fn set_adrift(&mut self, held: &BTreeSet<String>) -> u64 {
        let gone = self.keys.iter_mut().filter(|(key, known)| !known.adrift && !held.contains(*key));
        gone.map(|(_, known)| known.adrift = true).count() as u64
    }

    /// Keys that two regions may differ in.
    pub fn exempt(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str).filter(|key| self.is_exempt(key))
    }

    /// A loss inventory names the event: no region can be blamed for what it lacks of it.
    pub fn set_named(&mut self, key: &str) {
        if let Some(known) = self.keys.get_mut(key) {
            known.adrift = true;
        }
    }

    fn is_conflict(&self, key: &str) -> bool {
        self.keys.get(key).is_some_and(|known| known.details.len() > 1)
    }

    /// Two regions may differ in it: two payloads, or lost with a disk.
    fn is_exempt(&self, key: &str) -> bool {
        self.is_conflict(key) || self.keys.get(key).is_none_or(|known| known.adrift || known.late || !known.passes)
    }

    /// What must hold of one hub at any time.
    pub fn check_hub(&self, region: &str, effects: &[Effect], objects: &Shelf, violations: &mut Vec<Violation>) {
        let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
        for effect in effects {
            let key = effect.key.as_str();
            if let Some(first) = seen.insert(key, effect.offset) {
                let what = format!("{key} is at offsets {first} and {} of {region}", effect.offset);
                violations.push(Violation::new(Invariant::OneEffect, what));
            }
            let published = payload::as_published(&effect.detail);
            if !self.keys.get(key).is_some_and(|known| known.details.contains(&published)) {
                let what = format!("{key} is in {region} with {}", effect.detail);
                violations.push(Violation::new(Invariant::Invented, what));
            }
            if let Some(why) = self.lacks_payload(effect, objects) {
                let what = format!("{key} is at {} of {region}, and its payload {why}", effect.offset);
                violations.push(Violation::new(Invariant::Payload, what));
            }
            let own = effect.origin.as_deref() == Some(region);
            let looped = !effect.local && !effect.repaired && (effect.hops != 1 || own);
            if looped || effect.hops > 4 {
                let what = format!("{key} of {:?} came to {region} with {} hops", effect.origin, effect.hops);
                violations.push(Violation::new(Invariant::NoLoop, what));
            }
        }
    }

    /// Why an event that is in a hub has no payload there, byte for byte; `None` where it has, or says that it has not.
    fn lacks_payload(&self, effect: &Effect, objects: &Shelf) -> Option<String> {
        if effect.pending || effect.local && payload::is_late(&effect.detail) {
            return None;
        }
        let at = payload::referred(&effect.detail)?;
        let Some(bytes) = objects.get(&at) else { return Some(format!("{at} is missing")) };
        let written = self.objects.get(&payload::without_suffix(&at)).map(Vec::as_slice).unwrap_or_default();
        // An object that is overwritten is taken as it is when it is copied, but never as it was before the event.
        let origin = effect.origin.as_deref();
        let own = written.iter().find(|own| own.key == effect.key && Some(own.region) == origin);
        let is_older = |one: &Written| {
            own.is_some_and(|own| one.region == own.region && one.ended.is_some_and(|ended| ended < own.started))
        };
        let fits = written.iter().any(|one| one.bytes == *bytes && !is_older(one));
        (!fits).then(|| format!("{at} holds {bytes:?}"))
    }

    /// A service begins to write an object; answers a number for [`wrote`](Self::wrote).
    pub fn writes(&mut self, region: &'static str, key: &str, at: &Location, bytes: Bytes) -> usize {
        let written = self.objects.entry(at.clone()).or_default();
        written.push(Written { region, key: key.to_owned(), bytes, started: Instant::now(), ended: None });
        written.len() - 1
    }

    pub fn wrote(&mut self, at: &Location, number: usize) {
        if let Some(written) = self.objects.get_mut(at).and_then(|written| written.get_mut(number)) {
            written.ended = Some(Instant::now());
        }
    }

    /// What was acknowledged here is here. Where the region was restored, that needs a peer which kept this region's
    /// event; if it had the key from another region already, whose filter keeps that one's event away, none has.
    pub fn check_durable(
        &self,
        region: &'static str,
        restored: bool,
        effects: &[Effect],
        violations: &mut Vec<Violation>,
    ) {
        let held: BTreeSet<&str> = effects.iter().map(|effect| effect.key.as_str()).collect();
        for (key, known) in self.keys.iter().filter(|(_, known)| known.acknowledged.contains(region) && !known.adrift) {
            // With two payloads a restore may bring back the other one, or none.
            if !held.contains(key.as_str()) && known.details.len() == 1 && (known.passes && !known.late || !restored) {
                let what = format!("{key} was acknowledged in {region} and is not there");
                violations.push(Violation::new(Invariant::Durable, what));
            }
        }
    }

    /// All regions hold the same keys, the letters are conflicts.
    pub fn check_equal(&self, hubs: &BTreeMap<&'static str, Vec<Effect>>, violations: &mut Vec<Violation>) {
        let held: BTreeMap<&str, BTreeSet<&str>> = hubs
            .iter()
            .map(|(region, effects)| (*region, effects.iter().map(|effect| effect.key.as_str()).collect()))
            .collect();
        let all: BTreeSet<&str> = held.values().flatten().copied().collect();
        for key in all.into_iter().filter(|key| !self.is_exempt(key)) {
            let missing: Vec<&str> = REGIONS.into_iter().filter(|region| !held[region].contains(key)).collect();
            if !missing.is_empty() {
                let there: Vec<String> = hubs
                    .iter()
                    .flat_map(|(region, effects)| effects.iter().map(move |effect| (region, effect)))
                    .filter(|(_, effect)| effect.key == key)
                    .map(|(region, effect)| {
                        let origin = effect.origin.as_deref().unwrap_or("itself");
                        let repaired = if effect.repaired { ", repaired" } else { "" };
                        format!("{region} at {} (from {origin}{repaired})", effect.offset)
                    })
                    .collect();
                let what = format!("{key} is missing in {missing:?} and there in {}", there.join(", "));
                violations.push(Violation::new(Invariant::Delivered, what));
            }
        }
    }

    /// What a link's place says is at the peer is there, or on a list.
    pub fn check_place(&self, place: &Place<'_>, violations: &mut Vec<Violation>) {
        let held: BTreeSet<&str> = place.there.iter().map(|effect| effect.key.as_str()).collect();
        for effect in place.here.iter().filter(|effect| effect.local && !self.is_exempt(&effect.key)) {
            let (key, offset) = (&effect.key, effect.offset);
            if held.contains(key.as_str()) || place.letters.contains(&offset) {
                continue;
            }
            let (home, peer) = (place.home, place.peer);
            if offset <= place.cursor {
                let what = format!("{key} at {offset} of {home} is not at {peer}, whose cursor is at {}", place.cursor);
                violations.push(Violation::new(Invariant::Cursor, what));
            }
            if effect.accepted <= place.watermark {
                let what = format!("{key} at {offset} of {home}, below the watermark, is not at {peer}");
                violations.push(Violation::new(Invariant::Watermark, what));
            }
        }
    }

    /// A rejected event is a dead letter; one that no filter kept away when it was accepted is at the peer.
    pub fn check_exceptions(&self, link: &Exceptions<'_>, violations: &mut Vec<Violation>) {
        let there: BTreeMap<&str, &str> =
            link.there.iter().map(|effect| (effect.key.as_str(), effect.detail.as_str())).collect();
        for effect in link.here.iter().filter(|effect| effect.local) {
            let (key, home, peer) = (effect.key.as_str(), link.home, link.peer);
            match there.get(key) {
                Some(detail)
                    if payload::as_published(detail) != payload::as_published(&effect.detail)
                        && link.dead.is_some_and(|dead| !dead.contains(key))
                        && !(link.given_up)(key) =>
                {
                    let filter = link.filters.iter().rev().find(|(after, _)| *after < effect.offset);
                    if filter.is_none_or(|(_, pattern)| pattern == "{}") {
                        let what = format!("{key} of {home} is another one in {peer}, and no dead letter");
                        violations.push(Violation::new(Invariant::Letters, what));
                    }
                }
                None if self
                    .keys
                    .get(key)
                    .is_some_and(|known| !known.adrift && !known.late && known.details.len() == 1) =>
                {
                    let filter = link.filters.iter().rev().find(|(after, _)| *after < effect.offset);
                    if filter.is_some_and(|(_, pattern)| pattern == "{}") {
                        let what = format!("{key} at {} of {home} passes, and is not at {peer}", effect.offset);
                        violations.push(Violation::new(Invariant::Filter, what));
                    }
                }
                _ => {}
            }
        }
    }

    pub fn check_letter(&self, region: &str, peer: &str, key: &str, reason: &str, violations: &mut Vec<Violation>) {
        let lacks = reason == "payload_missing" && self.keys.get(key).is_some_and(|known| known.late);
        if !self.is_conflict(key) && !lacks {
            let what = format!("{key} of {region} is a dead letter for {peer}: {reason}");
            violations.push(Violation::new(Invariant::Letters, what));
        }
    }
}

/// What a link knows of events that are not at its peer.
pub struct Exceptions<'a> {
    pub home: &'a str,
    pub peer: &'a str,
    pub here: &'a [Effect],
    pub there: &'a [Effect],
    /// Each pattern judges what was accepted after its offset, until the next one.
    pub filters: &'a [(u64, String)],
    /// Keys of dead letters; `None` where letters may be lost.
    pub dead: Option<&'a BTreeSet<&'a str>>,
    /// Whether an operator gave up the letter of a key.
    pub given_up: &'a dyn Fn(&str) -> bool,
}

/// How far a link says that it is.
pub struct Place<'a> {
    pub home: &'a str,
    pub peer: &'a str,
    pub cursor: u64,
    pub watermark: Timestamp,
    pub letters: BTreeSet<u64>,
    pub here: &'a [Effect],
    pub there: &'a [Effect],
}
