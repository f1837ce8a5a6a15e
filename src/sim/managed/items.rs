//! A table of items with DynamoDB's manners: a write may end without an answer and take effect later, two at once stand in
//! each other's way, and a listing may be as the table was a second ago.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::time::Instant;

use super::wire::{Caller, Op, Wire};
use crate::{
    core::link::Failure,
    planted::{self, Bug},
    ports::items::{CHANGES_MAX, Change, Item, Items, PAGE_MAX, Page, Place},
    sim::{
        chance::Chance,
        trace::{Fault, SharedTrace},
    },
};

/// How late a listing may be.
const LISTED_WITHIN_MS: u64 = 1_000;

/// How much later than its caller waits a write may take effect.
const LATE_MAX_MS: u64 = 25_000;

/// How a table misbehaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// Another transaction was in the way, the table was busy, or it did not say why.
    pub trouble: f64,
    /// A write takes effect when its caller may have given up.
    pub late: f64,
    /// A listing shows what was there.
    pub stale: f64,
}

impl Quality {
    pub const GOOD: Quality = Quality { trouble: 0.0, late: 0.0, stale: 0.0 };
}

/// What stood in one place and since when, the latest last; `None`: nothing.
type Versions = Vec<(Instant, Option<Item>)>;

struct State {
    chance: Chance,
    quality: Quality,
    items: BTreeMap<Place, Versions>,
    /// How often it was restored.
    restored: u64,
}

/// All items of a table as they were at some time.
pub struct Backup(BTreeMap<Place, Versions>);

/// What the service keeps.
pub struct Store {
    region: String,
    trace: SharedTrace,
    state: Mutex<State>,
}

impl Store {
    pub fn new(seed: u64, region: &str, trace: SharedTrace) -> Arc<Store> {
        let chance = Chance::new(seed, &format!("items {region}"));
        let state = State { chance, quality: Quality::GOOD, items: BTreeMap::new(), restored: 0 };
        Arc::new(Store { region: region.to_owned(), trace, state: Mutex::new(state) })
    }

    pub fn back_up(&self) -> Backup {
        Backup(self.state().items.clone())
    }

    /// A table made of a backup stands in for this one, under the same name.
    pub fn restore(&self, Backup(items): Backup) {
        let mut state = self.state();
        state.restored += 1;
        state.items = items;
    }

    fn identity(&self) -> String {
        format!("table {} of {}", self.state().restored, self.region)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn change(&self, change: impl FnOnce(&mut Quality)) {
        change(&mut self.state().quality);
    }

    fn get(&self, places: &[Place]) -> Vec<Option<Item>> {
        let state = self.state();
        places.iter().map(|place| state.items.get(place).and_then(|versions| versions.last()?.1.clone())).collect()
    }

    /// After how long a write that comes now takes effect, if that is too late for its caller.
    fn lateness(&self) -> Option<Duration> {
        let State { chance, quality, .. } = &mut *self.state();
        chance.hits(quality.late).then(|| chance.millis(0, LATE_MAX_MS))
    }

    /// Something that keeps a write from taking effect, but for its own versions.
    fn trouble(&self) -> Option<Result<bool, Failure>> {
        let State { chance, quality, .. } = &mut *self.state();
        if !chance.hits(quality.trouble) {
            return None;
        }
        self.trace.lock().fault(Fault::Error);
        Some(match chance.below(4) {
            0 => Err(Failure::Throttled { after: Duration::from_millis(50) }),
            1 => Err(Failure::Unanswered("simulated: a transaction was cancelled without a reason".to_owned())),
            // A transaction conflict.
            _ => Ok(false),
        })
    }

    fn write(&self, changes: Vec<Change>) -> bool {
        let mut state = self.state();
        let version = |place: &Place| {
            let latest = state.items.get(place).and_then(|versions| versions.last());
            latest.and_then(|(_, item)| item.as_ref()).map_or(0, |item| item.version)
        };
        let is_now = |change: &Change| version(&change.place) == change.version;
        if !changes.iter().all(is_now) && !planted::is(Bug::ItemUnconditioned) {
            return false;
        }
        let now = Instant::now();
        for Change { place, bytes, version } in changes {
            let versions = state.items.entry(place).or_default();
            versions.push((now, bytes.map(|bytes| Item { bytes, version: version + 1 })));
            // What no listing shows any more.
            let since = now.checked_sub(Duration::from_millis(LISTED_WITHIN_MS));
            let old = versions.iter().rposition(|(at, _)| since.is_some_and(|since| *at <= since)).unwrap_or(0);
            versions.drain(..old);
        }
        true
    }

    /// When a listing shows the table.
    fn listed_at(&self) -> Instant {
        let State { chance, quality, .. } = &mut *self.state();
        let now = Instant::now();
        let is_stale = chance.hits(quality.stale);
        is_stale.then(|| now.checked_sub(chance.millis(0, LISTED_WITHIN_MS))).flatten().unwrap_or(now)
    }

    fn list(&self, partition: String, after: Option<String>, at: Instant) -> Page {
        let items = &self.state().items;
        let from = match after {
            Some(after) => Bound::Excluded(Place::new(partition.clone(), after)),
            None => Bound::Included(Place::new(partition.clone(), "")),
        };
        let of_partition = items.range((from, Bound::Unbounded)).take_while(|(place, _)| place.partition == partition);
        let mut shown = of_partition.filter_map(|(place, versions)| {
            let (_, item) = versions.iter().rev().find(|(since, _)| *since <= at)?;
            Some((place.sort.clone(), item.clone()?))
        });
        let page: Vec<(String, Item)> = shown.by_ref().take(PAGE_MAX).collect();
        let more = shown.next().is_some();
        (page, more)
    }
}

/// A table as an agent sees it.
pub struct SimItems {
    pub store: Arc<Store>,
    pub region: &'static str,
    pub caller: Caller,
    pub wire: Arc<Wire>,
}

impl SimItems {
    fn call<T: Send + 'static>(
        &self,
        op: Op,
        act: impl FnOnce(&Store) -> Result<T, Failure> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, Failure>> {
        let store = self.store.clone();
        self.wire.call(&self.caller, self.region, op, move || act(&store)).boxed()
    }
}

impl Items for SimItems {
    fn identity(&self) -> BoxFuture<'_, Result<String, Failure>> {
        self.call(Op::Read, |store| Ok(store.identity()))
    }

    fn get(&self, places: Vec<Place>) -> BoxFuture<'_, Result<Vec<Option<Item>>, Failure>> {
        self.call(Op::Read, move |store| Ok(store.get(&places)))
    }

    fn write(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<bool, Failure>> {
        if changes.len() > CHANGES_MAX {
            return std::future::ready(Err(Failure::Refused("too many changes".to_owned()))).boxed();
        }
        async move {
            self.wire.only_alive(&self.caller).await;
            if let Some(late) = self.store.lateness() {
                self.store.trace.lock().fault(Fault::Delay);
                let store = self.store.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(late).await;
                    store.write(changes);
                });
                let fate = self.wire.fate(&self.caller, self.region);
                return self.wire.lost("reply", fate.quick).await;
            }
            let write = move |store: &Store| store.trouble().unwrap_or_else(|| Ok(store.write(changes)));
            self.call(Op::Write, write).await
        }
        .boxed()
    }

    fn list(&self, partition: String, after: Option<String>) -> BoxFuture<'_, Result<Page, Failure>> {
        self.call(Op::Read, move |store| Ok(store.list(partition, after, store.listed_at())))
    }
}

/// A table as it is, for whoever judges: every call is answered at once, and nothing is late.
pub struct Truth(pub Arc<Store>);

impl Items for Truth {
    fn identity(&self) -> BoxFuture<'_, Result<String, Failure>> {
        std::future::ready(Ok(self.0.identity())).boxed()
    }

    fn get(&self, places: Vec<Place>) -> BoxFuture<'_, Result<Vec<Option<Item>>, Failure>> {
        std::future::ready(Ok(self.0.get(&places))).boxed()
    }

    fn write(&self, _: Vec<Change>) -> BoxFuture<'_, Result<bool, Failure>> {
        std::future::ready(Err(Failure::Refused("whoever judges changes nothing".to_owned()))).boxed()
    }

    fn list(&self, partition: String, after: Option<String>) -> BoxFuture<'_, Result<Page, Failure>> {
        std::future::ready(Ok(self.0.list(partition, after, Instant::now()))).boxed()
    }
}
