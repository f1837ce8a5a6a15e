//! A bus with EventBridge's manners: rules may fire twice and a day late, and whoever puts may never hear of it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::time::Instant;

use super::{
    ledger,
    oracle::{Effect, Oracle, name_of},
    queue,
    wire::{Caller, Op, Wire},
};
use crate::{
    core::{
        event::{RESERVED_SOURCE, STATE_CONFLICT, STATE_DELTA, STATE_OPERATION},
        ingress::STAMP,
        json::{self, Json},
        key::KeyHash,
        link::Failure,
        object::Location,
        position::uuid,
    },
    ports::{
        bus::{Bus, CALL_ENTRIES_MAX, Entry, Put},
        clock::Clock,
    },
    sim::{
        Invariant,
        chance::Chance,
        clock::SimClock,
        payload,
        trace::{Fault, SharedTrace},
    },
};

/// How the rules of a bus misbehave.
#[derive(Clone, Copy, Debug)]
pub struct Quality {
    pub fire_twice: f64,
    pub late: f64,
    /// At most so late; a day is what EventBridge allows itself.
    pub late_max: Duration,
    pub put_later: f64,
}

impl Quality {
    pub const GOOD: Quality = Quality { fire_twice: 0.0, late: 0.0, late_max: Duration::ZERO, put_later: 0.0 };
}

/// Where the rules of a bus send what it takes.
#[derive(Clone)]
pub struct Targets {
    pub feeds: Vec<Arc<queue::Store>>,
    pub keys: Arc<queue::Store>,
    pub audit: Arc<queue::Store>,
    /// What is about documents, where the region has some.
    pub state: Option<Arc<queue::Store>>,
}

impl Targets {
    /// Queues that nobody receives from.
    #[cfg(test)]
    pub fn unheard(started: Instant) -> Targets {
        let queue = |name: &str| queue::Store::new(1, name.to_owned(), started);
        Targets { feeds: Vec::new(), keys: queue("keys"), audit: queue("audit"), state: None }
    }

    /// As `aws::provision` plans the rules. A rule's pattern sees whether there is a stamp, not whether it is a true one.
    fn of(&self, entry: &Entry, is_stamped: bool) -> Vec<&Arc<queue::Store>> {
        let is_reserved = entry.source == RESERVED_SOURCE;
        let mut targets = Vec::new();
        if is_stamped {
            targets.push(&self.audit);
        } else {
            targets.extend(&self.feeds);
            targets.extend((!is_reserved).then_some(&self.keys));
        }
        let is_of_state = match (is_stamped, is_reserved) {
            (true, true) => entry.detail_type == STATE_DELTA,
            (false, false) => entry.detail_type == STATE_OPERATION,
            _ => false,
        };
        targets.extend(self.state.as_ref().filter(|_| is_of_state));
        targets
    }
}

/// About documents, which have an oracle of their own.
fn is_of_documents(entry: &Entry) -> bool {
    match entry.source == RESERVED_SOURCE {
        true => [STATE_DELTA, STATE_CONFLICT].contains(&entry.detail_type.as_str()),
        false => entry.detail_type == STATE_OPERATION,
    }
}

struct State {
    chance: Chance,
    quality: Quality,
}

/// What the service keeps.
pub struct Store {
    region: &'static str,
    clock: SimClock,
    trace: SharedTrace,
    state: Mutex<State>,
    targets: Targets,
    oracle: Arc<Mutex<Oracle>>,
}

/// A place that a stamp names.
fn location(value: &Json<'_>) -> Option<Location> {
    let text = |name| value.get(name).and_then(Json::as_str);
    Some(Location::new(text("bucket")?, text("key")?))
}

impl Store {
    pub fn new(
        seed: u64,
        region: &'static str,
        started: Instant,
        trace: SharedTrace,
        targets: Targets,
        oracle: Arc<Mutex<Oracle>>,
    ) -> Arc<Store> {
        let chance = Chance::new(seed, &format!("bus {region}"));
        let state = Mutex::new(State { chance, quality: Quality::GOOD });
        Arc::new(Store { region, clock: SimClock::new(started, 0), trace, state, targets, oracle })
    }

    /// Time goes by that nobody waited for.
    pub fn pass(&self, time: Duration) {
        self.clock.pass(time);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn oracle(&self) -> MutexGuard<'_, Oracle> {
        self.oracle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn change(&self, change: impl FnOnce(&mut Quality)) {
        change(&mut self.state().quality);
    }

    /// Takes one entry in, as PutEvents does.
    pub fn put(&self, entry: &Entry) -> Put {
        let parsed = match json::parse(&entry.detail) {
            Ok(parsed @ Json::Object(_)) => parsed,
            _ => return Put::Refused { code: "MalformedDetail".to_owned(), why: "Detail is malformed.".to_owned() },
        };
        // Some events are refused by one region's bus.
        if parsed.get("refusedBy").and_then(Json::as_str) == Some(self.region) {
            return Put::Refused { code: "InvalidArgument".to_owned(), why: "simulated".to_owned() };
        }
        let mut state = self.state();
        let State { chance, quality } = &mut *state;
        if chance.hits(quality.put_later) {
            self.trace.lock().fault(Fault::Hold);
            return Put::Later { code: "ThrottlingException".to_owned(), why: "simulated".to_owned() };
        }
        let id = uuid(4, chance.word(), chance.word());
        let envelope = self.envelope(&id, entry);
        let origin = parsed.get(STAMP).and_then(|stamp| stamp.get("origin")).and_then(Json::as_str);
        let stamped = parsed.get(STAMP).and_then(|stamp| stamp.get("key"));
        self.saw(entry, &parsed, origin, stamped);
        let State { chance, quality } = &mut *state;
        for target in self.targets.of(entry, origin.is_some()) {
            let times = if chance.hits(quality.fire_twice) { 2 } else { 1 };
            for _ in 0..times {
                let late = chance.hits(quality.late);
                let most = if late { quality.late_max } else { Duration::from_millis(300) };
                let delay = chance.millis(1, u64::try_from(most.as_millis()).unwrap_or(u64::MAX));
                if late {
                    self.trace.lock().fault(Fault::Delay);
                }
                target.arrive(envelope.clone(), delay);
            }
        }
        Put::Accepted(id)
    }

    /// Tells the oracle what is on the bus now.
    fn saw(&self, entry: &Entry, parsed: &Json<'_>, origin: Option<&str>, stamped: Option<&Json<'_>>) {
        if is_of_documents(entry) {
            let name = parsed.get("key").and_then(Json::as_str);
            self.trace.note(&format!("{} takes {} {name:?} of {origin:?}", self.region, entry.detail_type));
            let mut oracle = self.oracle();
            let crossed = origin.is_some() && entry.detail_type != STATE_DELTA;
            if crossed || origin == Some(self.region) {
                let what = format!("{} of {origin:?} is on the bus of {}", entry.detail_type, self.region);
                oracle.violate(Invariant::NoLoop, what);
            }
            if let Some(name) = name.filter(|_| entry.detail_type == STATE_CONFLICT) {
                oracle.conflicts_told.entry(self.region).or_default().insert(name.to_owned());
            }
            return;
        }
        let bare = json::strip_top_level(&entry.detail, STAMP).unwrap_or_else(|| entry.detail.clone());
        let mark = |name| parsed.get(STAMP).and_then(|stamp| stamp.get(name));
        let effect = Effect {
            region: self.region,
            name: name_of(&entry.detail_type, parsed),
            key: stamped.or_else(|| parsed.get("idempotencyKey")).and_then(Json::as_str).map(str::to_owned),
            refers: payload::referred(&bare),
            detail: payload::as_published(&bare),
            pending: mark("payload").is_some(),
            offloaded: mark("offloaded").and_then(location),
            source: entry.source.clone(),
            detail_type: entry.detail_type.clone(),
            stamped: origin.map(str::to_owned),
        };
        self.trace.note(&format!("{} takes {} of {origin:?}", self.region, effect.name));
        self.oracle().effects.push(effect);
    }

    fn envelope(&self, id: &str, entry: &Entry) -> String {
        let resources: Vec<String> = entry.resources.iter().map(|resource| json::quote(resource)).collect();
        format!(
            "{{\"version\":\"0\",\"id\":\"{id}\",\"detail-type\":{},\"source\":{},\"account\":\"111122223333\",\
             \"time\":\"{}\",\"region\":\"{}\",\"resources\":[{}],\"detail\":{}}}",
            json::quote(&entry.detail_type),
            json::quote(&entry.source),
            entry.time.unwrap_or_else(|| self.clock.now().whole_seconds()).to_rfc3339(),
            self.region,
            resources.join(","),
            entry.detail
        )
    }
}

/// A bus as an agent sees it.
pub struct SimBus {
    pub store: Arc<Store>,
    pub region: &'static str,
    pub caller: Caller,
    pub wire: Arc<Wire>,
    /// The ledger that its puts must have a claim in.
    pub ledger: Arc<ledger::Store>,
    pub attempt: Duration,
}

impl Bus for SimBus {
    fn put(&self, entries: Vec<Entry>) -> BoxFuture<'_, Result<Vec<Put>, Failure>> {
        let caller = self.caller.to_string();
        if self.wire.is_alive(&self.caller) {
            self.check(&entries, &caller);
        }
        let names: Vec<String> = entries.iter().map(name_of_entry).collect();
        let store = self.store.clone();
        let act = move || {
            if entries.len() > CALL_ENTRIES_MAX {
                return Err(Failure::Refused("too many entries".to_owned()));
            }
            Ok(entries.iter().map(|entry| store.put(entry)).collect())
        };
        async move {
            // Until it is answered an attempt may have a second effect.
            self.store.oracle().unanswered(self.region, &names, true);
            let result: Result<Vec<Put>, Failure> = self.wire.call(&self.caller, self.region, Op::Put, act).await;
            if !matches!(result, Err(Failure::Unanswered(_))) {
                self.store.oracle().unanswered(self.region, &names, false);
            }
            if let Ok(puts) = &result {
                let accepted = names.iter().zip(puts).filter(|(_, put)| matches!(put, Put::Accepted(_)));
                self.store.oracle().told(self.region, &caller, accepted.map(|(name, _)| name.clone()));
            }
            result
        }
        .boxed()
    }
}

/// What the oracle calls an entry's event.
pub fn name_of_entry(entry: &Entry) -> String {
    json::parse(&entry.detail).map(|detail| name_of(&entry.detail_type, &detail)).unwrap_or_default()
}

impl SimBus {
    /// A put begins only under a claim that lasts longer than the attempt, and not for what its caller knows to be there.
    fn check(&self, entries: &[Entry], caller: &str) {
        for entry in entries {
            let Ok(detail) = json::parse(&entry.detail) else { continue };
            let name = name_of(&entry.detail_type, &detail);
            // Two publishes of a region's own may not know of each other.
            let link = self.caller.home != self.region;
            if link && self.store.oracle().was_told(self.region, caller, &name) {
                let what = format!("{caller} puts {name} in {} again and knows that it is there", self.region);
                self.store.oracle().violate(Invariant::Counted, what);
            }
            let stamped = detail.get(STAMP).and_then(|stamp| stamp.get("key"));
            let key = stamped.or_else(|| detail.get("idempotencyKey")).and_then(Json::as_str);
            let Some(key) = key else { continue };
            let hash = KeyHash::of(&entry.source, &entry.detail_type, key);
            if let Err(why) = self.ledger.holds(hash, caller, self.region, self.attempt) {
                let what = format!("{caller} puts {key} in {}: {why}", self.region);
                self.store.oracle().violate(Invariant::Lease, what);
            }
        }
    }
}
