//! The documents of a region: what services do to them, what other regions did, and the proof that all have the same.
//!
//! # The problem
//! A request must be durable before it is answered, reach every region once it is, and be found again after any crash,
//! without a second fsync and without a second way between regions.
//!
//! # The method
//! The request's delta is an event of the hub (`State Delta`): its fsync is the hub's, the links carry it like every
//! event. One task, the [`engine`], changes documents: it does the requests of services, and follows the hub's log for
//! what other regions did. Documents are written to disk now and then with the place in the log up to which they go
//! ([`shelf`]). What links cannot bring any more (a gap, a lost log, a new region) is found by comparing digests of ranges
//! with every peer ([`compare`]). What is deleted goes when every region has seen it ([`collect`]).

mod collect;
mod compare;
mod engine;
pub mod events;
mod form;
mod home;
pub mod managed;
mod shelf;
#[cfg(test)]
mod tests;
mod unsent;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::unsent::Waiting;
use self::{
    compare::Rounds,
    engine::{Engine, Request},
    home::{Chore, From, Home, Tombstone, Tombstones},
    unsent::Unsent,
};
use crate::{
    agent::inbox::read_state,
    core::{
        region::Members,
        state::{
            Key, Schemas,
            document::Document,
            op::Op,
            standing::{Eviction, Slept, Standing},
            view::View,
        },
        time::Timestamp,
    },
    metrics::Metrics,
    ports::{
        clock::{Clock, Entropy},
        documents::{Answer, Applied, Documents, Error, KEYS_MAX, Listed, Met, Question, RemoteDocuments, Total},
        hub::Hub,
        rows::Rows,
    },
};

/// Requests that may wait for the engine.
const REQUESTS_MAX: usize = 1_024;

/// How long a request may wait for its answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// What the documents of a region are made of.
pub struct Parts {
    /// This region.
    pub home: String,
    /// All regions of the file.
    pub regions: Members,
    pub schemas: Schemas,
    pub hub: Arc<dyn Hub>,
    pub shelves: Shelves,
    /// All other regions: what is deleted goes only when each of them has seen it.
    pub members: Vec<String>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub metrics: Arc<Metrics>,
}

/// Where the documents of a region and of its peers are.
#[derive(Clone)]
pub struct Shelves {
    pub home: Arc<dyn Rows>,
    /// Of the regions that this region has an enabled link to.
    pub peers: BTreeMap<String, Arc<dyn RemoteDocuments>>,
    pub options: Options,
}

#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A delta that is older is not merged any more, and a copy of the documents that is older is given up: what was
    /// deleted since may be forgotten everywhere. At least the longest redelivery of an event.
    pub horizon: Duration,
    /// How often a region compares with each peer.
    pub compare: Duration,
    /// How long a delta may wait for the one before it until the document is fetched.
    pub gap: Duration,
    /// How often tombstones are looked through.
    pub collect: Duration,
}

impl Options {
    /// With the ledger's retention, which no redelivery outlasts.
    pub fn new(retention: Duration) -> Self {
        Options {
            horizon: retention,
            compare: Duration::from_secs(10),
            gap: Duration::from_secs(2),
            collect: Duration::from_secs(60),
        }
    }
}

/// The documents of a region, from outside. Cheap to clone.
#[derive(Clone)]
pub struct LocalDocuments {
    requests: mpsc::Sender<Request>,
    shared: Arc<Shared>,
}

/// What the engine shows.
struct Shared {
    schemas: Schemas,
    counts: Mutex<BTreeMap<String, u64>>,
    /// The hub's log is needed after this offset.
    needed_after: AtomicU64,
    /// What the hub's log says up to here was heard, and what it asked for is done.
    heard: AtomicU64,
    /// By peer.
    rounds: BTreeMap<String, Arc<Rounds>>,
    unsent: Arc<Unsent>,
    /// Where in the log the engine went on at its start.
    opened: watch::Sender<Option<u64>>,
    failed: watch::Sender<Option<String>>,
}

impl LocalDocuments {
    /// Starts the tasks of a region's documents.
    pub fn start(parts: Parts, tasks: &TaskTracker, stop: &CancellationToken) -> LocalDocuments {
        let (requests, received) = mpsc::channel(REQUESTS_MAX);
        let shared = Arc::new(Shared {
            schemas: parts.schemas.clone(),
            counts: Mutex::default(),
            needed_after: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            rounds: parts.shelves.peers.keys().map(|peer| (peer.clone(), Arc::default())).collect(),
            unsent: Arc::default(),
            opened: watch::Sender::new(None),
            failed: watch::Sender::new(None),
        });
        let documents = LocalDocuments { requests, shared: shared.clone() };
        for of in parts.schemas.keys() {
            parts.metrics.state.show_type(of, &parts.schemas[of]);
        }
        let keeping = Keeping {
            name: parts.home.clone(),
            home: Arc::new(documents.clone()),
            peers: parts.shelves.peers.clone(),
            rounds: shared.rounds.clone(),
            members: parts.members.clone(),
            clock: parts.clock.clone(),
            entropy: parts.entropy.clone(),
            metrics: parts.metrics.clone(),
            options: parts.shelves.options,
        };
        keeping.start(tasks, stop);
        let cursor = |peer: &String| {
            let progress = |state: &crate::core::journal::State| {
                state.links.get(peer).and_then(|link| link.progress.as_ref()).map_or(0, |progress| progress.cursor)
            };
            read_state(&*parts.hub, progress)
        };
        if let Some(from) = parts.shelves.peers.keys().map(cursor).min() {
            let reading = shared.unsent.clone().read_before(parts.hub.clone(), from, shared.opened.subscribe());
            let stopped = stop.clone();
            tasks.spawn(async move { stopped.run_until_cancelled(reading).await });
        }
        tasks.spawn(Engine::new(parts, shared).run(received, stop.clone()));
        documents
    }

    /// Completes, with the reason, when the documents failed: the process must end.
    pub async fn failed(&self) -> String {
        let mut failed = self.shared.failed.subscribe();
        match failed.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "the documents ended".to_owned(),
        }
    }

    /// The hub's log is needed after this offset: it is not on disk as documents.
    pub fn needed_after(&self) -> u64 {
        self.shared.needed_after.load(Ordering::SeqCst)
    }

    /// The documents are as the hub's log says up to this offset.
    pub fn heard(&self) -> u64 {
        self.shared.heard.load(Ordering::SeqCst)
    }

    /// Deltas of this region that a link at `cursor` has not brought.
    pub fn unsent_after(&self, cursor: u64) -> Waiting {
        self.shared.unsent.after(cursor)
    }

    /// All links are past this.
    pub fn sent_to(&self, cursor: u64) {
        self.shared.unsent.forget_to(cursor);
    }

    /// What is known here of evictions.
    ///
    /// # Errors
    /// The documents do not answer.
    pub async fn standing(&self) -> Result<Standing, Error> {
        self.meet(None).await.map(|met| met.standing)
    }

    /// Has the documents do without a region, in all regions that hear of it; durable when it is answered. An eviction
    /// that stands is left as it is.
    ///
    /// # Errors
    /// The documents do not answer.
    pub async fn evict(&self, region: String, eviction: Eviction) -> Result<Standing, Error> {
        self.ask(|reply| Request::Evict { region, eviction, reply }).await
    }

    /// Comparing with each peer.
    pub fn rounds(&self) -> &BTreeMap<String, Arc<Rounds>> {
        &self.shared.rounds
    }

    /// Asks the engine; a queue that is full is an answer too.
    async fn ask<T>(&self, build: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Request) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.requests.try_send(build(reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => unavailable("too many requests wait for the documents"),
            mpsc::error::TrySendError::Closed(_) => self.ended(),
        })?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(self.ended()),
            // It may be done yet: a retry under the same key is harmless.
            Err(_) => Err(unavailable("the documents did not answer in time")),
        }
    }

    fn ended(&self) -> Error {
        match self.shared.failed.borrow().clone() {
            Some(why) => Error::Failed(why),
            None => unavailable("the agent is stopping"),
        }
    }
}

/// What keeps a region's documents like those of its peers, and lets go what is deleted everywhere.
struct Keeping {
    name: String,
    home: Arc<dyn Home>,
    peers: BTreeMap<String, Arc<dyn RemoteDocuments>>,
    rounds: BTreeMap<String, Arc<Rounds>>,
    members: Vec<String>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    metrics: Arc<Metrics>,
    options: Options,
}

impl Keeping {
    fn start(self, tasks: &TaskTracker, stop: &CancellationToken) {
        for (peer, remote) in &self.peers {
            let compare = compare::Compare {
                name: self.name.clone(),
                term: AtomicU64::new(0),
                peer: peer.clone(),
                rounds: self.rounds.get(peer).cloned().unwrap_or_default(),
                remote: remote.clone(),
                home: self.home.clone(),
                entropy: self.entropy.clone(),
                mismatched: self.metrics.state.digest_mismatched.with_label_values(&[peer]),
                options: self.options,
            };
            let stop = stop.clone();
            tasks.spawn(async move { stop.run_until_cancelled(compare.run()).await });
        }
        let collect = collect::Collect {
            name: self.name,
            remotes: self.peers,
            members: self.members,
            home: self.home,
            clock: self.clock,
            metrics: self.metrics,
            options: self.options,
        };
        let stop = stop.clone();
        tasks.spawn(async move { stop.run_until_cancelled(collect.run()).await });
    }
}

/// Not now; soon.
fn unavailable(why: &str) -> Error {
    Error::Unavailable { why: why.to_owned(), retry_after: Duration::from_secs(1) }
}

impl Documents for LocalDocuments {
    fn schemas(&self) -> &Schemas {
        &self.shared.schemas
    }

    fn get(&self, key: Key) -> BoxFuture<'_, Result<Option<View>, Error>> {
        self.ask(|reply| Request::Get { key, reply }).boxed()
    }

    fn apply(&self, key: Key, ops: Vec<Op>, request: Option<String>) -> BoxFuture<'_, Result<Applied, Error>> {
        let asked = events::Asked::Ops(ops);
        self.ask(|reply| Request::Write(engine::Write { key, asked, request, reply })).boxed()
    }

    fn delete(&self, key: Key, request: Option<String>) -> BoxFuture<'_, Result<Applied, Error>> {
        let asked = events::Asked::Delete;
        self.ask(|reply| Request::Write(engine::Write { key, asked, request, reply })).boxed()
    }

    fn total(&self) -> BoxFuture<'_, Result<Total, Error>> {
        self.ask(|reply| Request::Total { reply }).boxed()
    }

    fn list(&self, after: Option<Key>) -> BoxFuture<'_, Result<(Vec<Listed>, Option<Key>), Error>> {
        self.ask(|reply| Request::List { after, reply }).boxed()
    }

    fn counts(&self) -> BTreeMap<String, u64> {
        self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn answer(&self, question: Question) -> BoxFuture<'_, Result<Answer, Error>> {
        async move {
            let asked = match &question {
                Question::Sums(ranges) => ranges.len(),
                Question::List { .. } | Question::Standing { .. } | Question::Slept => 1,
                Question::Digests(keys) | Question::Wholes(keys) => keys.len(),
                Question::Includes(keys) => keys.len(),
            };
            if asked > KEYS_MAX {
                let why = format!("{asked} things asked at once; the limit is {KEYS_MAX}");
                return Err(Error::Refused(crate::core::state::op::Refused::Malformed(why)));
            }
            self.ask(|reply| Request::Answer { question, reply }).await
        }
        .boxed()
    }
}

impl Home for LocalDocuments {
    fn merge(&self, from: From, documents: Vec<(Key, Document)>) -> BoxFuture<'_, Result<usize, Error>> {
        self.ask(|reply| Request::Merge { from, documents, reply }).boxed()
    }

    fn meet(&self, met: Option<(String, Met)>) -> BoxFuture<'_, Result<Met, Error>> {
        self.ask(|reply| Request::Meet { met, reply }).boxed()
    }

    fn wakes(&self, heard: Option<(String, Option<Slept>)>) -> BoxFuture<'_, Result<bool, Error>> {
        self.ask(|reply| Request::Wakes { heard, reply }).boxed()
    }

    fn equal(&self, peer: String) -> BoxFuture<'_, Result<(), Error>> {
        self.ask(|reply| Request::Equal { peer, reply }).boxed()
    }

    fn wanted(&self, peer: String) -> BoxFuture<'_, Result<Vec<Key>, Error>> {
        self.ask(|reply| Request::Wanted { peer, reply }).boxed()
    }

    fn tombstones(&self, after: Option<Key>, before: Timestamp) -> BoxFuture<'_, Result<Tombstones, Error>> {
        self.ask(move |reply| Request::Tombstones { after, before, reply }).boxed()
    }

    fn forget(&self, tombstones: Vec<Tombstone>) -> BoxFuture<'_, Result<usize, Error>> {
        self.ask(|reply| Request::Forget { tombstones, reply }).boxed()
    }

    fn is_our_turn<'a>(&'a self, _: Chore<'a>) -> BoxFuture<'a, bool> {
        std::future::ready(true).boxed()
    }
}
