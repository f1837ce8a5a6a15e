//! The documents of a region whose agents hold nothing: they lie in a table that all agents of the region share.
//!
//! # The problem
//! Any agent may get any request, and any may die; a bus and a table have no transaction together.
//!
//! # The method
//! The table is the record. A request reads its document with the sums that it is in, changes it as one dot, and writes
//! both on the condition that nobody else did: two calls. Then its delta is an event of the bus, which the links carry.
//! Where that fails, or the agent dies in between, comparing brings the document to the peers ([`super::compare`]).
//! What other regions did comes from a queue, in any order and more than once ([`arrivals`]); merging it again changes
//! nothing.
//!
//! A region that was evicted says so in its table, and looks through it before it takes part again ([`evicting`]).
//!
//! All agents of a region are one replica, as the document's own version orders what they do. The replica is named after
//! the table, so that one restored from a backup, which DynamoDB makes a new table of, numbers no write a second time. A
//! number begins with the time, so that a document that was forgotten and begun anew has none of its old dots.

mod arrivals;
mod change;
mod cleaning;
mod edit;
mod evicting;
mod serve;
mod standing;
mod store;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{MutexGuard, Notify, OnceCell},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::evicting::{Decided, GivenUp};
use self::{
    evicting::Waking,
    standing::Kept,
    store::{GROUPS, Group, Held, Store},
};
use super::{
    Keeping, Options, PATIENCE,
    compare::Rounds,
    events::{self, Asked},
    unavailable,
};
use crate::{
    agent::{
        managed::turns::Turns,
        rounds::{self, within},
    },
    core::{
        backoff::Backoff,
        event::Draft,
        hlc::HybridClock,
        ingress::Ingress,
        link::Failure,
        state::{Dot, Key, Replica, Request, Schemas, delta::Delta, document::Document, op::Refused, standing::Slept},
        time::Timestamp,
    },
    marks::{self, Mark},
    metrics::Metrics,
    planted::{self, Bug},
    ports::{
        bus::{Bus, Entry, Put},
        clock::{Clock, Entropy},
        documents::{Answer, Applied, Error, Question, RemoteDocuments},
        items::{ITEM_BYTES_MAX, Items},
        queue::Queue,
    },
};

/// Bytes that a document may have by requests of this region. What regions did apart from each other adds up to more, and
/// must fit into an item still.
const DOCUMENT_BYTES_MAX: usize = 200 << 10;

/// Idempotency keys that a document remembers; each is some 50 bytes of an item.
const REQUESTS_MAX: usize = 1_000;

/// Of a put on the bus.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How often an event of the documents is put on the bus until comparing has to do.
const PUTS_MAX: u32 = 4;

/// Between two tries to change a document that others change too, or to put an event.
const AGAIN: Backoff = Backoff { min: Duration::from_millis(10), max: Duration::from_millis(500) };

/// How often a merge is tried; beyond it what came is taken up again later.
const MERGES_MAX: u32 = 20;

/// Low bits of a dot's number, drawn by chance; the time in milliseconds stands above.
const CHANCE_BITS: u32 = 10;

/// How often it is looked what there is in all.
const TEND_INTERVAL: Duration = Duration::from_secs(60);

/// How often it is written down that the region lives.
const ALIVE_INTERVAL: Duration = Duration::from_secs(600);

/// What the documents of a region are made of.
pub struct Parts {
    pub region: String,
    pub schemas: Schemas,
    /// The region's own table.
    pub items: Arc<dyn Items>,
    /// The region's own bus.
    pub bus: Arc<dyn Bus>,
    /// Deltas of other regions, and operations that services published.
    pub queue: Arc<dyn Queue>,
    /// Of the regions that this region has an enabled link to.
    pub peers: BTreeMap<String, Arc<dyn RemoteDocuments>>,
    /// All other regions of the file.
    pub members: Vec<String>,
    pub turns: Arc<Turns>,
    /// Services are refused.
    pub closed: Arc<AtomicBool>,
    /// What was decided of this region.
    pub decided: Arc<dyn Fn() -> Decided + Send + Sync>,
    pub ingress: Ingress,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub metrics: Arc<Metrics>,
    pub options: Options,
    /// Receives at once, when there is much to receive.
    pub receives: usize,
    pub backoff: Backoff,
}

impl Options {
    /// For a region whose documents lie in a table: each look at it has its price.
    pub fn managed(retention: Duration) -> Self {
        Options { compare: Duration::from_secs(30), collect: Duration::from_secs(3_600), ..Options::new(retention) }
    }
}

/// The documents of a region on managed services. Cheap to clone.
#[derive(Clone)]
pub struct ManagedDocuments(Arc<Inner>);

struct Inner {
    region: String,
    schemas: Schemas,
    store: Store,
    bus: Arc<dyn Bus>,
    queue: Arc<dyn Queue>,
    peers: BTreeMap<String, Arc<dyn RemoteDocuments>>,
    members: Vec<String>,
    shared_turns: Arc<Turns>,
    closed: Arc<AtomicBool>,
    decided: Arc<dyn Fn() -> Decided + Send + Sync>,
    /// What the table said of evictions when this agent looked last, and the version of that.
    kept: Mutex<(Kept, u64)>,
    /// There may be something to do about evictions.
    stirred: Notify,
    waking: Mutex<Waking>,
    rounds: BTreeMap<String, Arc<Rounds>>,
    ingress: Ingress,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    metrics: Arc<Metrics>,
    options: Options,
    /// Once the table was looked at.
    table: OnceCell<String>,
    hlc: Mutex<HybridClock>,
    /// This agent's tasks do not stand in each other's way: one at a time changes documents of a group.
    turns: Vec<tokio::sync::Mutex<()>>,
    counts: Mutex<BTreeMap<String, u64>>,
}

impl ManagedDocuments {
    /// Starts the tasks of a region's documents.
    pub fn start(parts: Parts, tasks: &TaskTracker, stop: &CancellationToken) -> ManagedDocuments {
        let Parts { receives, backoff, .. } = parts;
        for of in parts.schemas.keys() {
            parts.metrics.state.show_type(of, &parts.schemas[of]);
        }
        let region = parts.region.clone();
        let documents = ManagedDocuments(Arc::new(Inner {
            region: region.clone(),
            schemas: parts.schemas,
            rounds: parts.peers.keys().map(|peer| (peer.clone(), Arc::default())).collect(),
            closed: parts.closed,
            decided: parts.decided,
            members: parts.members,
            kept: Mutex::default(),
            stirred: Notify::new(),
            waking: Mutex::default(),
            store: Store::new(&region, parts.items, parts.clock.clone(), parts.options.horizon),
            bus: parts.bus,
            queue: parts.queue,
            peers: parts.peers,
            shared_turns: parts.turns,
            ingress: parts.ingress,
            clock: parts.clock,
            entropy: parts.entropy,
            metrics: parts.metrics,
            options: parts.options,
            table: OnceCell::new(),
            hlc: Mutex::default(),
            turns: (0..GROUPS).map(|_| tokio::sync::Mutex::default()).collect(),
            counts: Mutex::default(),
        }));
        let inner = &documents.0;
        let keeping = Keeping {
            name: inner.region.clone(),
            home: Arc::new(documents.clone()),
            peers: inner.peers.clone(),
            rounds: inner.rounds.clone(),
            members: inner.members.clone(),
            clock: inner.clock.clone(),
            entropy: inner.entropy.clone(),
            metrics: inner.metrics.clone(),
            options: inner.options,
        };
        keeping.start(tasks, stop);
        let (tended, stopped) = (inner.clone(), stop.clone());
        tasks.spawn(async move { stopped.run_until_cancelled(tended.tend()).await });
        let (minded, stopped) = (documents.clone(), stop.clone());
        tasks.spawn(async move { stopped.run_until_cancelled(minded.mind_evictions()).await });
        let (taken, stopped) = (inner.clone(), stop.clone());
        tasks.spawn(async move {
            let entropy = taken.entropy.clone();
            rounds::run("documents", receives, backoff, entropy, stopped, || taken.round().boxed()).await;
        });
        documents
    }

    /// Comparing with each peer.
    pub fn rounds(&self) -> &BTreeMap<String, Arc<Rounds>> {
        &self.0.rounds
    }
}

/// Another region's table, looked at from here.
pub struct PeerTable(Store);

impl PeerTable {
    /// `horizon`: how long regions remember deletes.
    pub fn new(region: &str, items: Arc<dyn Items>, clock: Arc<dyn Clock>, horizon: Duration) -> PeerTable {
        PeerTable(Store::new(region, items, clock, horizon))
    }
}

impl RemoteDocuments for PeerTable {
    fn ask(&self, question: Question) -> BoxFuture<'_, Result<Answer, Failure>> {
        async move { self.0.answer(question).await?.ok_or_else(|| Failure::Refused("no such range".to_owned())) }
            .boxed()
    }
}

/// Whoever asks for a document hears of a table that does not answer as of one that is busy.
fn later(failure: &Failure) -> Error {
    unavailable(&format!("the table of documents: {failure}"))
}

impl Inner {
    /// What the table calls itself. The first look also tells whether it can be merged with what the peers have.
    async fn opened(&self) -> Result<&str, Failure> {
        self.table.get_or_try_init(|| self.open()).await.map(String::as_str)
    }

    /// The same, if the region serves its documents.
    async fn serving(&self) -> Result<&str, Error> {
        let table = self.opened().await.map_err(|failure| later(&failure))?;
        match self.absent() {
            Some(why) => Err(unavailable(why)),
            None => Ok(table),
        }
    }

    async fn open(&self) -> Result<String, Failure> {
        let table = self.store.identity().await?;
        let (alive, version) = self.store.alive().await?;
        let now = self.clock.now();
        // What was deleted since may be forgotten by everybody else, and would come back from a copy.
        let slept = alive.filter(|alive| now.since(*alive) >= self.options.horizon).map(|from| Slept { from, to: now });
        self.open_table(&table, slept).await?;
        self.store.set_alive(now, version).await?;
        Ok(table)
    }

    /// Who writes to a document. A region that is back from an eviction may have set aside what it wrote, which somebody else may
    /// have: it is another replica then.
    fn replica(&self, table: &str, terms: &BTreeMap<String, u64>) -> Replica {
        let name = match terms.get(&self.region) {
            None => format!("{}/{table}", self.region),
            Some(term) => format!("{}/{table}/{term}", self.region),
        };
        let hash = Sha256::digest(name);
        let mut replica = [0; 8];
        replica.copy_from_slice(&hash[..8]);
        Replica(u64::from_be_bytes(replica))
    }

    /// Shows what there is, and writes down that the region lives.
    async fn tend(&self) {
        let mut lived: Option<Timestamp> = None;
        loop {
            match self.look().await {
                Ok(()) => {}
                Err(failure) => tracing::warn!(region = self.region, %failure, "the documents' table cannot be read"),
            }
            // By the clock that others read it by.
            let now = self.clock.now();
            if lived.is_none_or(|lived| now.since(lived) >= ALIVE_INTERVAL) && self.live().await.is_ok() {
                lived = Some(now);
            }
            sleep(TEND_INTERVAL.mul_f64(0.75 + 0.5 * self.entropy.next_f64())).await;
        }
    }

    async fn live(&self) -> Result<(), Failure> {
        self.opened().await?;
        let (_, version) = self.store.alive().await?;
        // Who was quicker said the same.
        self.store.set_alive(self.clock.now(), version).await.map(drop)
    }

    async fn look(&self) -> Result<(), Failure> {
        let groups = self.store.groups().await?;
        let sum = |of: &str, counts: fn(&Group) -> &BTreeMap<String, u64>| -> u64 {
            groups.iter().filter_map(|group| counts(group).get(of)).sum()
        };
        let mut shown = BTreeMap::new();
        for of in self.schemas.keys() {
            let documents = sum(of, |group| &group.documents);
            self.metrics.state.documents.with_label_values(&[of]).set(documents as f64);
            let tombstones = sum(of, |group| &group.tombstones);
            self.metrics.state.tombstones.with_label_values(&[of]).set(tombstones as f64);
            shown.insert(of.clone(), documents);
        }
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = shown;
        Ok(())
    }

    /// Waits until no other task of this agent changes documents of these groups.
    async fn turn<'a>(&'a self, keys: impl IntoIterator<Item = &'a Key>) -> Vec<MutexGuard<'a, ()>> {
        // In order, so that no two wait for each other.
        let groups: BTreeSet<usize> = keys.into_iter().map(store::group).collect();
        let mut held = Vec::with_capacity(groups.len());
        for turn in groups.into_iter().filter_map(|group| self.turns.get(group)) {
            held.push(turn.lock().await);
        }
        held
    }

    async fn pause(&self, attempt: u32) {
        if attempt > 0 {
            sleep(AGAIN.pause(attempt, self.entropy.next_f64())).await;
        }
    }

    /// The next write of this region to a document, and its time.
    fn next(&self, replica: Replica, document: &Document) -> (Dot, Timestamp) {
        let now = self.clock.now();
        let at = {
            let mut hlc = self.hlc.lock().unwrap_or_else(PoisonError::into_inner);
            hlc.observe(document.newest(), now);
            hlc.tick(now)
        };
        let chance = self.entropy.next_u64() & ((1 << CHANCE_BITS) - 1);
        // No two agents draw one number, also where another one's clock is ahead: it tells whose write took effect.
        let number = (now.as_millis() << CHANCE_BITS | chance).max(document.clock().get(replica) + 1 + chance);
        (Dot { replica, number }, at)
    }

    /// Does what a service asks this agent for.
    async fn asked(&self, key: &Key, asked: &Asked, request: Option<&str>) -> Result<(Applied, Document), Error> {
        match self.closed.load(Ordering::SeqCst) {
            true => Err(unavailable("draining: this region takes no new requests")),
            false => self.change(key, asked, request).await,
        }
    }

    /// Does a request of a service, which stands on the bus already or not.
    async fn change(&self, key: &Key, asked: &Asked, request: Option<&str>) -> Result<(Applied, Document), Error> {
        let done = timeout(PATIENCE, self.change_now(key, asked, request.map(Request::of))).await;
        // It may be done yet: a retry under the same key is harmless.
        let done = done.unwrap_or_else(|_| Err(unavailable("the table of documents did not answer in time")))?;
        self.metrics.state.requests.with_label_values(&[&key.of, done.0.as_str()]).inc();
        Ok(done)
    }

    /// The document is as this request left it.
    async fn change_now(
        &self,
        key: &Key,
        asked: &Asked,
        request: Option<Request>,
    ) -> Result<(Applied, Document), Error> {
        let table = self.serving().await?;
        let _turn = self.turn([key]).await;
        // Writes of which nobody knows whether they took effect.
        let mut tried: Vec<Delta> = Vec::new();
        for attempt in 0.. {
            self.pause(attempt).await;
            let loaded = self.store.load(std::slice::from_ref(key)).await.map_err(|failure| later(&failure))?;
            let Held { mut document, .. } = loaded.get(key).cloned().unwrap_or_default();
            let took_effect = |delta: &&Delta| {
                let is_covered = document.clock().covers(delta.dot());
                document.shows(delta) || is_covered && planted::is(Bug::CoveredCountsAsDone)
            };
            if let Some(delta) = tried.iter().find(took_effect) {
                marks::hit(Mark::ItemWriteFound);
                self.send(key, delta).await;
                return Ok((Applied::Done, document));
            }
            // All agents write as one replica, so another one's later write covers a write of ours that never took effect.
            let is_covered = tried.iter().any(|delta| document.clock().covers(delta.dot()));
            if is_covered && request.is_none() && *asked != Asked::Delete {
                marks::hit(Mark::ItemWriteUnknown);
                return Err(unavailable("others changed the document since, and whether this was done is not known"));
            }
            if let Some(applied) = asked.is_settled(Some(&document), request.as_ref()) {
                return Ok((applied, document));
            }
            let (dot, at) = self.next(self.replica(table, &loaded.terms(key)), &document);
            let Some(delta) = asked.perform(&mut document, dot, at, request)? else {
                return Ok((Applied::Nothing, document));
            };
            self.trim(key, &mut document);
            let left = document.clone();
            let (changes, _) = loaded
                .changes(
                    vec![(key.clone(), document)],
                    if *asked == Asked::Delete { ITEM_BYTES_MAX } else { DOCUMENT_BYTES_MAX },
                )
                .map_err(|error| Refused::TooLarge(error.to_string()))?;
            match self.store.write(changes).await {
                Ok(true) => {
                    if !tried.is_empty() {
                        marks::hit(Mark::ItemWriteAgain);
                    }
                    self.send(key, &delta).await;
                    return Ok((Applied::Done, left));
                }
                Ok(false) => {
                    marks::hit(Mark::ItemConflict);
                    self.metrics.state.write_conflicts.inc();
                }
                Err(Failure::Unanswered(_)) if planted::is(Bug::WriteRepeatedBlindly) => {}
                Err(Failure::Unanswered(_)) => tried.push(delta),
                Err(failure) => return Err(later(&failure)),
            }
        }
        // Ended by the time-out.
        Err(unavailable("others change the document all the time"))
    }

    /// Forgets old requests of a document.
    fn trim(&self, key: &Key, document: &mut Document) {
        let forgotten = document.forget_requests(self.clock.now().minus(self.options.horizon), REQUESTS_MAX);
        if forgotten > 0 {
            tracing::warn!(document = %key, forgotten, "more requests than are remembered: the oldest are forgotten");
            self.metrics.state.requests_forgotten.inc_by(forgotten as u64);
        }
    }

    /// Tells the other regions of a write that is in the table.
    async fn send(&self, key: &Key, delta: &Delta) {
        let term = self.kept().term;
        if let Err(why) = self.put(events::of_delta(key, delta, term)).await {
            marks::hit(Mark::DeltaUnsent);
            tracing::warn!(document = %key, why, "the bus takes no delta: comparing brings the document to the peers");
            self.metrics.state.unsent.inc();
        }
    }

    /// Puts an event on the region's bus.
    async fn put(&self, draft: Draft) -> Result<(), String> {
        let entry =
            Entry { source: draft.source, detail_type: draft.detail_type, detail: draft.detail, ..Entry::default() };
        let mut why = String::new();
        for attempt in 0..PUTS_MAX {
            self.pause(attempt).await;
            why = match within(CALL_TIMEOUT, self.bus.put(vec![entry.clone()])).await {
                Ok(puts) => match puts.into_iter().next() {
                    Some(Put::Accepted(_)) => return Ok(()),
                    Some(Put::Refused { code, why }) => return Err(format!("{code}: {why}")),
                    Some(Put::Later { code, why }) => format!("{code}: {why}"),
                    None => "no answer for it".to_owned(),
                },
                Err(Failure::Refused(why)) => return Err(why),
                Err(failure) => failure.to_string(),
            };
        }
        Err(why)
    }
}
