//! The one task that changes documents.

mod answering;
mod evicting;
mod hearing;
mod waking;

use self::waking::Waking;
pub use self::{evicting::Kept, waking::Woken};

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Options, Parts, Shared,
    events::Asked,
    home::{From, Tombstone, Tombstones},
    shelf::{Broken, Entry, Meta, Shelf},
};
use crate::{
    core::{
        event::Draft,
        hlc::HybridClock,
        journal::Head,
        region::Members,
        state::{
            self, Dot, Key, Replica,
            delta::Delta,
            document::Document,
            op::Refused,
            standing::{Eviction, Slept, Standing, Taken},
            view::View,
        },
        time::Timestamp,
    },
    marks::{self, Mark},
    metrics::Metrics,
    planted::{self, Bug},
    ports::{
        clock::{Clock, Entropy},
        documents::{Answer, Applied, Error, Listed, Met, PAGE_MAX, Question, Total},
        hub::{self, Hub, Published, Reader},
    },
};

/// Requests that are done together, with one fsync.
const GROUP_MAX: usize = 512;

/// How often changed documents go to disk.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// So many changed documents go at once.
const DIRTY_MAX: usize = 2_000;

/// How often it is written down that this region lives, also when nothing changes.
const ALIVE_INTERVAL: Duration = Duration::from_secs(60);

/// The pause before the hub is asked again, where the engine cannot go on without it.
const HUB_PAUSE: Duration = Duration::from_millis(50);

type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// A service's request to one document.
pub struct Write {
    pub key: Key,
    pub asked: Asked,
    pub request: Option<String>,
    pub reply: Reply<Applied>,
}

pub enum Request {
    Write(Write),
    Get {
        key: Key,
        reply: Reply<Option<View>>,
    },
    Total {
        reply: Reply<Total>,
    },
    List {
        after: Option<Key>,
        reply: Reply<(Vec<Listed>, Option<Key>)>,
    },
    Answer {
        question: Question,
        reply: Reply<Answer>,
    },
    /// What a peer has of documents; answers how many it changed.
    Merge {
        from: From,
        documents: Vec<(Key, Document)>,
        reply: Reply<usize>,
    },
    /// Documents that this peer should be asked for.
    Wanted {
        peer: String,
        reply: Reply<Vec<Key>>,
    },
    /// Tombstones whose last write was before.
    Tombstones {
        after: Option<Key>,
        before: Timestamp,
        reply: Reply<Tombstones>,
    },
    /// Drops these, unless something was written since.
    Forget {
        tombstones: Vec<Tombstone>,
        reply: Reply<usize>,
    },
    /// What a peer said of evictions, if it said something.
    Meet {
        met: Option<(String, Met)>,
        reply: Reply<Met>,
    },
    /// The documents do without this region.
    Evict {
        region: String,
        eviction: Eviction,
        reply: Reply<Standing>,
    },
    /// How a peer slept, if it said. Answers whether that is asked.
    Wakes {
        heard: Option<(String, Option<Slept>)>,
        reply: Reply<bool>,
    },
    /// Comparing with this peer found nothing.
    Equal {
        peer: String,
        reply: Reply<()>,
    },
}

/// A document that has to be fetched.
struct Wanted {
    since: Instant,
    asked: BTreeSet<String>,
}

pub struct Engine {
    shared: Arc<Shared>,
    hub: Arc<dyn Hub>,
    head: watch::Receiver<Head>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    options: Options,
    home: String,
    members: Members,
    entropy: Arc<dyn Entropy>,
    peers: Vec<String>,
    rows: Arc<dyn crate::ports::rows::Rows>,
    replica: Replica,
    given: u64,
    hlc: HybridClock,
    last_hlc: Timestamp,
    cursor: u64,
    written: Option<Instant>,
    wanted: BTreeMap<Key, Wanted>,
    kept: Kept,
    /// By peer: what it had of this region when that was evicted.
    told: BTreeMap<String, Taken>,
    redoing: Option<evicting::Redoing>,
    waking: Waking,
}

impl Engine {
    pub fn new(parts: Parts, shared: Arc<Shared>) -> Self {
        let Parts { home, regions, hub, shelves, clock, entropy, metrics, .. } = parts;
        Engine {
            shared,
            head: hub.follow_head(),
            hub,
            clock,
            metrics,
            options: shelves.options,
            home,
            members: regions,
            peers: shelves.peers.keys().cloned().collect(),
            rows: shelves.home,
            replica: Replica(entropy.next_u64()),
            entropy,
            given: 0,
            hlc: HybridClock::default(),
            last_hlc: Timestamp::ZERO,
            cursor: 0,
            written: None,
            wanted: BTreeMap::new(),
            kept: Kept::default(),
            told: BTreeMap::new(),
            redoing: None,
            waking: Waking::default(),
        }
    }

    /// Runs until `stop`, or until the rows or the hub fail.
    pub async fn run(mut self, requests: mpsc::Receiver<Request>, stop: CancellationToken) {
        if let Err(error) = self.serve(requests, stop).await {
            tracing::error!(%error, "the documents failed; the agent must restart");
            self.shared.failed.send_replace(Some(error.to_string()));
        }
    }

    async fn serve(&mut self, mut requests: mpsc::Receiver<Request>, stop: CancellationToken) -> Result<(), Broken> {
        let mut shelf = self.open().await?;
        // What the log has is done on documents that are kept, or on none.
        while self.is_waking() {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                received = requests.recv() => match received {
                    Some(request) => self.take(&mut shelf, vec![request]).await?,
                    None => return Ok(()),
                },
            }
        }
        let mut reader = self.hub.reader(self.cursor);
        if !self.catch_up(&mut shelf, &mut *reader, &stop).await? {
            return Ok(());
        }
        let mut tick = tokio::time::interval(FLUSH_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.shared.heard.store(self.cursor, Ordering::SeqCst);
            let head = self.head.borrow_and_update().offset;
            let is_behind = head > self.cursor;
            if !is_behind && self.is_leaving() {
                self.give_up(&mut shelf).await?;
            }
            let is_redoing = self.begins_redoing();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                received = requests.recv() => {
                    let Some(first) = received else { break };
                    let mut group = vec![first];
                    while group.len() < GROUP_MAX && let Ok(more) = requests.try_recv() {
                        group.push(more);
                    }
                    self.take(&mut shelf, group).await?;
                }
                _ = tick.tick() => self.tend(&mut shelf).await?,
                changed = self.head.changed(), if !is_behind && !is_redoing => {
                    if changed.is_err() {
                        break;
                    }
                }
                () = std::future::ready(()), if is_behind || is_redoing => {}
            }
            if head > self.cursor && !self.follow(&mut shelf, &mut *reader, &stop, None).await? {
                return Ok(());
            }
            if is_redoing && !self.redo(&mut shelf, &stop).await? {
                return Ok(());
            }
            if shelf.dirty() > DIRTY_MAX {
                self.flush(&mut shelf).await?;
            }
        }
        self.flush(&mut shelf).await
    }

    async fn open(&mut self) -> Result<Shelf, Broken> {
        let (mut shelf, meta) = Shelf::open(self.rows.clone()).await?;
        let head = *self.head.borrow();
        let now = self.clock.now();
        let meta = meta.unwrap_or(Meta { cursor: 0, alive: now, hlc: Timestamp::ZERO });
        self.kept = shelf.kept().await?.unwrap_or_default();
        self.wake(&mut shelf, &meta).await?;
        self.show_evicted();
        self.hurry();
        self.last_hlc = meta.hlc.max(head.hlc);
        self.hlc = HybridClock::restored(self.last_hlc);
        self.cursor = meta.cursor.min(head.offset);
        self.shared.needed_after.store(self.cursor, Ordering::SeqCst);
        self.shared.opened.send_replace(Some(self.cursor));
        self.show(&mut shelf);
        Ok(shelf)
    }

    /// Takes in what the log has beyond the rows, before services are served. Operations come last: the delta of one that
    /// was done before the crash stands behind it. Answers whether to go on.
    async fn catch_up(
        &mut self,
        shelf: &mut Shelf,
        reader: &mut dyn Reader,
        stop: &CancellationToken,
    ) -> Result<bool, Broken> {
        let end = self.head.borrow().offset;
        let mut operations = Vec::new();
        if self.cursor < end {
            marks::hit(Mark::DocumentsCaughtUp);
        }
        while self.cursor < end {
            if stop.is_cancelled() || !self.follow(shelf, reader, stop, Some(&mut operations)).await? {
                return Ok(false);
            }
        }
        for (key, asked, request) in operations {
            self.operate(shelf, key, asked, request, stop).await?;
        }
        if stop.is_cancelled() {
            // What was cut short is done by the next start.
            return Ok(false);
        }
        self.waking.is_caught_up = true;
        self.flush(shelf).await?;
        Ok(true)
    }

    /// What this region shows of its documents.
    fn show(&mut self, shelf: &mut Shelf) {
        let counts = shelf.counts().clone();
        for (of, tombstones) in shelf.tombstones() {
            self.metrics.state.tombstones.with_label_values(&[of]).set(*tombstones as f64);
        }
        for (of, count) in &counts {
            self.metrics.state.documents.with_label_values(&[of]).set(*count as f64);
        }
        self.metrics.state.wanted.set(self.wanted.len() as f64);
        *self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }

    async fn tend(&mut self, shelf: &mut Shelf) -> Result<(), Broken> {
        let is_due = self.written.is_none_or(|written| written.elapsed() >= ALIVE_INTERVAL);
        if shelf.dirty() > 0 || is_due {
            self.flush(shelf).await?;
        }
        self.show(shelf);
        Ok(())
    }

    async fn flush(&mut self, shelf: &mut Shelf) -> Result<(), Broken> {
        let now = self.clock.now();
        let forgotten = shelf.forget_requests(now.minus(self.options.horizon));
        if forgotten > 0 {
            tracing::warn!(forgotten, "a document has more requests than it remembers: the oldest are forgotten");
            self.metrics.state.requests_forgotten.inc_by(forgotten as u64);
        }
        shelf.flush(Meta { cursor: self.cursor, alive: now, hlc: self.last_hlc }).await?;
        self.written = Some(Instant::now());
        self.shared.needed_after.store(self.cursor, Ordering::SeqCst);
        Ok(())
    }

    async fn take(&mut self, shelf: &mut Shelf, group: Vec<Request>) -> Result<(), Broken> {
        let mut writes = Vec::new();
        let mut others = Vec::new();
        for request in group {
            match request {
                Request::Write(write) => writes.push(write),
                other => others.push(other),
            }
        }
        if !writes.is_empty() {
            self.write(shelf, writes).await?;
        }
        for request in others {
            self.read(shelf, request).await?;
        }
        Ok(())
    }

    /// Does requests of services: all of them stand in the log before any of them is answered.
    async fn write(&mut self, shelf: &mut Shelf, writes: Vec<Write>) -> Result<(), Broken> {
        let closed = match self.hub.is_draining() {
            true => Some("draining: this region takes no new requests"),
            false => self.absent(),
        };
        if let Some(why) = closed {
            for write in writes {
                let why = why.to_owned();
                let _ = write.reply.send(Err(Error::Unavailable { why, retry_after: Duration::from_secs(5) }));
            }
            return Ok(());
        }
        shelf.load(writes.iter().map(|write| &write.key)).await?;
        let mut undo: BTreeMap<Key, Entry> = BTreeMap::new();
        let mut drafts = Vec::new();
        let mut done = Vec::new();
        for Write { key, asked, request, reply } in writes {
            match self.perform(shelf, &key, &asked, request.as_deref(), &mut undo) {
                Ok((applied, delta)) => {
                    self.metrics.state.requests.with_label_values(&[&key.of, applied.as_str()]).inc();
                    drafts.extend(delta.map(|delta| self.of_delta(&key, &delta)));
                    done.push((reply, applied));
                }
                Err(refused) => drop(reply.send(Err(refused.into()))),
            }
        }
        if planted::is(Bug::RequestAnsweredBeforeLog) {
            done.drain(..).for_each(|(reply, applied)| drop(reply.send(Ok(applied))));
        }
        let result = match drafts.is_empty() {
            true => Ok(()),
            false => self.publish(drafts).await,
        };
        match result {
            Ok(()) => done.into_iter().for_each(|(reply, applied)| drop(reply.send(Ok(applied)))),
            Err(error) => {
                marks::hit(Mark::DocumentsUndone);
                undo.into_iter().for_each(|(key, before)| shelf.restore(&key, before));
                let error = match error {
                    hub::Error::Failed(why) => Error::Failed(why),
                    other => Error::Unavailable { why: other.to_string(), retry_after: other.retry_after() },
                };
                done.into_iter().for_each(|(reply, _)| drop(reply.send(Err(error.clone()))));
            }
        }
        Ok(())
    }

    /// Does one request to a document that is at hand.
    fn perform(
        &mut self,
        shelf: &mut Shelf,
        key: &Key,
        asked: &Asked,
        request: Option<&str>,
        undo: &mut BTreeMap<Key, Entry>,
    ) -> Result<(Applied, Option<Delta>), Refused> {
        let request = request.map(state::Request::of);
        let before = shelf.get(key);
        if let Some(applied) = asked.is_settled(before.map(|entry| &entry.document), request.as_ref()) {
            if applied == Applied::Duplicate {
                marks::hit(Mark::RequestRepeated);
            }
            return Ok((applied, None));
        }
        if !undo.contains_key(key) {
            undo.insert(key.clone(), before.cloned().unwrap_or_default());
        }
        self.given += 1;
        let dot = Dot { replica: self.replica, number: self.given };
        self.last_hlc = self.hlc.tick(self.clock.now());
        let document = &mut shelf.change(key).document;
        if document.is_tombstone() && *document != Document::default() {
            marks::hit(Mark::DocumentAnew);
        }
        let delta = asked.perform(document, dot, self.last_hlc, request)?;
        Ok((Applied::Done, delta))
    }

    /// Puts events of the documents into the log.
    async fn publish(&mut self, drafts: Vec<Draft>) -> Result<(), hub::Error> {
        let published = self.hub.publish(drafts).await?;
        if published.contains(&Published::Conflict) {
            tracing::error!("an event of the documents met another one under its key: this is a bug, report it");
        }
        Ok(())
    }

    /// As [`publish`](Self::publish), until the hub has taken them. Answers whether it did before `stop`.
    async fn publish_surely(&mut self, drafts: Vec<Draft>, stop: &CancellationToken) -> Result<bool, Broken> {
        loop {
            match self.publish(drafts.clone()).await {
                Ok(()) => return Ok(true),
                Err(hub::Error::Failed(why)) => return Err(crate::ports::rows::Error::Failed(why).into()),
                Err(error) => tracing::debug!(%error, "the hub takes no event of the documents; it is asked again"),
            }
            if stop.run_until_cancelled(tokio::time::sleep(HUB_PAUSE)).await.is_none() {
                return Ok(false);
            }
        }
    }

    async fn read(&mut self, shelf: &mut Shelf, request: Request) -> Result<(), Broken> {
        match request {
            // Done before.
            Request::Write(_) => {}
            Request::Get { reply, .. } if self.absent().is_some() => {
                let why = self.absent().unwrap_or_default().to_owned();
                let _ = reply.send(Err(Error::Unavailable { why, retry_after: Duration::from_secs(5) }));
            }
            Request::Get { key, reply } => {
                shelf.load([&key]).await?;
                let schema = self.shared.schemas.get(&key.of);
                let document = shelf.get(&key).map(|entry| &entry.document);
                let view = schema.zip(document).and_then(|(schema, document)| document.view(&key, schema));
                let _ = reply.send(Ok(view));
            }
            Request::Total { reply } => drop(reply.send(Ok(shelf.total()))),
            Request::List { after, reply } => {
                self.flush(shelf).await?;
                let (listed, more) = shelf.list(None, after.as_ref(), PAGE_MAX).await?;
                let next = listed.last().filter(|_| more).map(|listed| listed.key.clone());
                let _ = reply.send(Ok((listed, next)));
            }
            Request::Answer { question, reply } => {
                let answer = self.answer(shelf, question).await?;
                let _ = reply.send(answer);
            }
            Request::Merge { from, documents, reply } => {
                let changed = self.merge(shelf, &from, documents).await?;
                let _ = reply.send(Ok(changed));
            }
            Request::Wanted { peer, reply } => drop(reply.send(Ok(self.wanted_of(shelf, &peer)))),
            Request::Tombstones { after, before, reply } => {
                let (keys, next) = shelf.old_tombstones(after.as_ref(), before, PAGE_MAX).await?;
                shelf.load(&keys).await?;
                keys.iter().for_each(|key| self.give_up_old(shelf, key));
                let is_one = |entry: &&Entry| entry.document.is_tombstone() && entry.document.newest() < before;
                let with_clock = |key: Key| {
                    let entry = shelf.get(&key).filter(is_one).filter(|entry| entry.parked.is_empty())?;
                    Some((key, entry.document.clock().clone()))
                };
                let _ = reply.send(Ok((keys.into_iter().filter_map(with_clock).collect(), next)));
            }
            Request::Forget { tombstones, reply } => {
                shelf.load(tombstones.iter().map(|(key, _)| key)).await?;
                let mut forgotten = 0;
                for (key, clock) in tombstones {
                    let is_same = |entry: &Entry| entry.document.is_tombstone() && *entry.document.clock() == clock;
                    if shelf.get(&key).is_some_and(is_same) {
                        shelf.forget(&key);
                        forgotten += 1;
                    }
                }
                let _ = reply.send(Ok(forgotten));
            }
            Request::Meet { met, reply } => {
                let met = self.meet(shelf, met).await?;
                let _ = reply.send(Ok(met));
            }
            Request::Evict { region, eviction, reply } => {
                let standing = self.evict(shelf, region, eviction).await?;
                let _ = reply.send(Ok(standing));
            }
            Request::Wakes { heard, reply } => {
                let is_asked = self.hear_of_sleep(shelf, heard).await?;
                let _ = reply.send(Ok(is_asked));
            }
            Request::Equal { peer, reply } => {
                self.equal(shelf, &peer).await?;
                let _ = reply.send(Ok(()));
            }
        }
        Ok(())
    }
}
