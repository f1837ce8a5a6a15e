//! Ports in memory, for tests of what stands before them. Not durable, and not a model of the real ones' limits.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use tokio::sync::watch;

use super::{
    hub::{Error, Hub, Note, Published, ReadError, Reader},
    inbox::{Admission, Inbox, Refusal},
    items::{self, Change as ItemChange, Item, Items, PAGE_MAX, Place},
    peer::{Hello, RepairRequest},
    rows::{self, Rows},
};
use crate::core::{
    batch::{Answer, Batch, Outcome, Reply},
    event::{Draft, Placement, Record, encode_arrival, encode_local},
    journal::{Change, Head, Mark, State},
    key::{KeyHash, PayloadHash},
    link::Failure,
    position::{EventId, Incarnation, Lives, Position},
    time::Timestamp,
};

pub const LIFE: Incarnation = Incarnation(0x1234_5678_9abc_8ef0);

#[derive(Default)]
struct Log {
    records: Vec<Record>,
    /// Offsets up to here are gone.
    base: u64,
    keys: HashMap<KeyHash, (PayloadHash, u64)>,
    /// What the next calls meet instead of the hub.
    failure: Option<Error>,
    publishes: usize,
}

/// A hub in memory. Times are offsets in seconds.
pub struct FakeHub {
    log: Arc<Mutex<Log>>,
    head: watch::Sender<Head>,
    state: Arc<RwLock<State>>,
}

impl Default for FakeHub {
    fn default() -> Self {
        let state = State { lives: Lives(vec![(LIFE, 0)]), ..State::default() };
        FakeHub { log: Arc::default(), head: watch::Sender::new(Head::default()), state: Arc::new(RwLock::new(state)) }
    }
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakeHub {
    /// What all publishes meet from now on.
    pub fn fail(&self, failure: Option<Error>) {
        lock(&self.log).failure = failure;
    }

    /// Drops what stands up to `base`.
    pub fn drop_to(&self, base: u64) {
        lock(&self.log).base = base;
    }

    /// How often `publish` was called.
    pub fn publishes(&self) -> usize {
        lock(&self.log).publishes
    }

    /// An event of another region arrives.
    pub fn arrive(&self, record: &Record, sender: &str) {
        self.append(|out, at| _ = encode_arrival(out, record, sender, "b", at));
    }

    fn append(&self, encode: impl FnOnce(&mut Vec<u8>, Placement)) -> u64 {
        let mut log = lock(&self.log);
        let offset = log.records.len() as u64 + 1;
        let at = Timestamp::from_millis(offset * 1_000);
        let mut out = Vec::new();
        encode(&mut out, Placement { offset, accepted: at, hlc: at, local_events: offset, local_bytes: 0 });
        log.records.push(Record::parse(Bytes::from(out)).unwrap());
        drop(log);
        self.head.send_modify(|head| head.offset = offset);
        offset
    }

    fn take(&self, draft: &Draft) -> Published {
        let id = |sequence| EventId(Position { incarnation: LIFE, sequence });
        let offset = self.head.borrow().offset + 1;
        let key = draft.key.clone().unwrap_or_else(|| format!("own/{offset}"));
        let hash = KeyHash::of(&draft.source, &draft.detail_type, &key);
        if let Some((payload, offset)) = lock(&self.log).keys.get(&hash) {
            return if *payload == draft.payload_hash {
                Published::Duplicate(id(*offset))
            } else {
                Published::Conflict
            };
        }
        let offset = self.append(|out, at| _ = encode_local(out, draft, &key, hash, LIFE, at));
        lock(&self.log).keys.insert(hash, (draft.payload_hash, offset));
        Published::Accepted(id(offset))
    }
}

impl Hub for FakeHub {
    fn set_draining(&self, _: bool) {}

    fn is_draining(&self) -> bool {
        false
    }

    fn retain(&self, _: u64) {}

    fn publish(&self, drafts: Vec<Draft>) -> BoxFuture<'_, Result<Vec<Published>, Error>> {
        async move {
            lock(&self.log).publishes += 1;
            let failure = lock(&self.log).failure.clone();
            match failure {
                Some(failure) => Err(failure),
                None => Ok(drafts.iter().map(|draft| self.take(draft)).collect()),
            }
        }
        .boxed()
    }

    fn apply(&self, _: Batch) -> BoxFuture<'_, Result<Reply, Error>> {
        async { Err(Error::Overloaded("the fake hub applies nothing")) }.boxed()
    }

    fn note(&self, _: Vec<Note>) -> BoxFuture<'_, Result<(), Error>> {
        async { Ok(()) }.boxed()
    }

    fn note_lazily(&self, _: Note) {}

    fn reader(&self, after: u64) -> Box<dyn Reader> {
        Box::new(FakeReader { log: self.log.clone(), after })
    }

    fn head(&self) -> watch::Receiver<Head> {
        self.head.subscribe()
    }

    fn base(&self) -> u64 {
        lock(&self.log).base
    }

    fn state(&self) -> Arc<RwLock<State>> {
        self.state.clone()
    }

    fn letter_event(&self, _: u64) -> BoxFuture<'_, Result<Option<Record>, Error>> {
        async { Ok(None) }.boxed()
    }

    fn log_bytes(&self) -> u64 {
        0
    }
}

struct FakeReader {
    log: Arc<Mutex<Log>>,
    after: u64,
}

impl Reader for FakeReader {
    fn next(&mut self, events: usize, bytes: usize) -> BoxFuture<'_, Result<Vec<Record>, ReadError>> {
        let log = lock(&self.log);
        let found = if self.after < log.base {
            Err(ReadError::Dropped { base: log.base, mark: Mark::default() })
        } else {
            let mut size = 0;
            let fits = |record: &&Record| {
                size += record.raw().len();
                size <= bytes || size == record.raw().len()
            };
            Ok(log.records.iter().skip(self.after as usize).take(events).take_while(fits).cloned().collect::<Vec<_>>())
        };
        drop(log);
        if let Ok(records) = &found {
            self.after += records.len() as u64;
        }
        async { found }.boxed()
    }

    fn seek(&mut self, after: u64) {
        self.after = after;
    }

    fn changes<'a>(
        &'a mut self,
        _: &'a mut (dyn FnMut(&Change) -> bool + Send),
    ) -> BoxFuture<'a, Result<Vec<Change>, ReadError>> {
        async { Ok(Vec::new()) }.boxed()
    }
}

/// Rows in memory.
#[derive(Clone, Default)]
pub struct FakeRows {
    table: Arc<Mutex<BTreeMap<Vec<u8>, Bytes>>>,
    /// All commits fail from now on.
    pub broken: Arc<AtomicBool>,
}

impl FakeRows {
    fn table(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Bytes>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rows of its own with what these hold now.
    pub fn copy(&self) -> FakeRows {
        FakeRows { table: Arc::new(Mutex::new(self.table().clone())), broken: Arc::default() }
    }
}

impl Rows for FakeRows {
    fn get(&self, keys: Vec<Vec<u8>>) -> BoxFuture<'_, Result<Vec<Option<Bytes>>, rows::Error>> {
        let table = self.table();
        let found = keys.iter().map(|key| table.get(key).cloned()).collect();
        drop(table);
        async { Ok(found) }.boxed()
    }

    fn scan(&self, from: Vec<u8>, to: Vec<u8>, limit: usize) -> BoxFuture<'_, Result<Vec<rows::Row>, rows::Error>> {
        let mut bytes = 0;
        let fits = |(_, value): &(&Vec<u8>, &Bytes)| {
            bytes += value.len();
            bytes <= rows::SCAN_BYTES_MAX || bytes == value.len()
        };
        let table = self.table();
        let found = match from < to {
            true => table
                .range(from..to)
                .take(limit)
                .take_while(fits)
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            false => Vec::new(),
        };
        drop(table);
        async { Ok(found) }.boxed()
    }

    fn commit(&self, changes: Vec<rows::Change>) -> BoxFuture<'_, Result<(), rows::Error>> {
        async move {
            if self.broken.load(Ordering::SeqCst) {
                return Err(rows::Error::Failed("it was told to fail".to_owned()));
            }
            let mut table = self.table();
            for (key, value) in changes {
                match value {
                    Some(value) => drop(table.insert(key, value)),
                    None => drop(table.remove(&key)),
                }
            }
            Ok(())
        }
        .boxed()
    }
}

/// An inbox of region `b` in cluster `local` that takes every batch in, or refuses each for one reason.
#[derive(Default)]
pub struct FakeInbox {
    pub refusal: Mutex<Option<Refusal>>,
    pub admission: Mutex<Admission>,
    pub batches: Mutex<Vec<Batch>>,
    pub repairs: Mutex<Vec<RepairRequest>>,
}

impl FakeInbox {
    fn check(&self) -> Result<(), Refusal> {
        self.refusal.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

impl Inbox for FakeInbox {
    fn admit<'a>(&'a self, cluster: &'a str, _: &'a str) -> BoxFuture<'a, Result<Admission, Refusal>> {
        async move {
            self.check()?;
            match cluster {
                "local" => Ok(self.admission.lock().unwrap().clone()),
                other => Err(Refusal::Foreign(format!("this is cluster local, not {other}"))),
            }
        }
        .boxed()
    }

    fn deliver(&self, batch: Batch) -> BoxFuture<'_, Result<Reply, Refusal>> {
        async move {
            self.check()?;
            if batch.opening.cluster != "local" {
                return Err(Refusal::Foreign(format!("this is cluster local, not {}", batch.opening.cluster)));
            }
            let reply = Reply {
                region: "b".to_owned(),
                answer: Answer::Applied(vec![Outcome::Delivered; batch.records.len()]),
                high_waters: vec![(LIFE, batch.opening.head)],
                received: Timestamp(1),
                replied: Timestamp(2),
                strays: Vec::new(),
                lives: Lives::default(),
                head: 0,
                holes: Vec::new(),
            };
            self.batches.lock().unwrap().push(batch);
            Ok(reply)
        }
        .boxed()
    }

    fn hello<'a>(&'a self, asker: &'a str) -> BoxFuture<'a, Result<Hello, Refusal>> {
        async move {
            self.check()?;
            let high_waters = if asker == "a" { vec![(LIFE, 7)] } else { Vec::new() };
            Ok(Hello {
                cluster: "local".to_owned(),
                region: "b".to_owned(),
                high_waters,
                now: Timestamp(3),
                strays: Vec::new(),
            })
        }
        .boxed()
    }

    fn request_repair(&self, request: RepairRequest) -> BoxFuture<'_, Result<(), Refusal>> {
        async move {
            self.check()?;
            self.repairs.lock().unwrap().push(request);
            Ok(())
        }
        .boxed()
    }
}

#[tokio::test]
async fn rows_in_memory_keep_the_contract() {
    let rows = FakeRows::default();
    super::conformance::rows::check(&rows).await;
    super::conformance::rows::reopened(async || rows.clone()).await;
    let copy = rows.copy();
    let before = rows.table().clone();
    rows.broken.store(true, Ordering::SeqCst);
    assert!(rows.commit(vec![(b"k".to_vec(), None), (b"c".to_vec(), None)]).await.is_err());
    assert_eq!(*rows.table(), before, "a commit that fails does nothing");
    copy.commit(vec![(b"c".to_vec(), None)]).await.unwrap();
    assert_eq!(*rows.table(), before, "a copy is a table of its own");
}

/// A table of items.
#[derive(Default)]
pub struct MemoryItems {
    items: Mutex<BTreeMap<Place, Item>>,
    /// Writes that the next calls meet: whether each takes effect, and what is answered in place of the truth.
    pub trouble: Mutex<Vec<(bool, Failure)>>,
    /// Calls, all in all.
    pub calls: Mutex<Vec<&'static str>>,
    pub name: Mutex<String>,
}

impl MemoryItems {
    fn is_now(items: &BTreeMap<Place, Item>, change: &ItemChange) -> bool {
        items.get(&change.place).map_or(0, |item| item.version) == change.version
    }

    fn write_now(&self, changes: Vec<ItemChange>) -> bool {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        if !changes.iter().all(|change| Self::is_now(&items, change)) {
            return false;
        }
        for ItemChange { place, bytes, version } in changes {
            match bytes {
                Some(bytes) => drop(items.insert(place, Item { bytes, version: version + 1 })),
                None => drop(items.remove(&place)),
            }
        }
        true
    }

    /// Everything that stands there, as a backup has it.
    pub fn copy(&self) -> MemoryItems {
        let items = self.items.lock().unwrap_or_else(PoisonError::into_inner).clone();
        MemoryItems { items: Mutex::new(items), name: Mutex::new("copy".to_owned()), ..MemoryItems::default() }
    }

    /// Holds what another one holds.
    pub fn replace(&self, other: &MemoryItems) {
        let items = other.items.lock().unwrap_or_else(PoisonError::into_inner).clone();
        *self.items.lock().unwrap_or_else(PoisonError::into_inner) = items;
    }

    fn called(&self, what: &'static str) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

impl Items for MemoryItems {
    fn identity(&self) -> BoxFuture<'_, Result<String, Failure>> {
        async { Ok(self.name.lock().unwrap_or_else(PoisonError::into_inner).clone()) }.boxed()
    }

    fn get(&self, places: Vec<Place>) -> BoxFuture<'_, Result<Vec<Option<Item>>, Failure>> {
        self.called("get");
        let items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        let found = places.iter().map(|place| items.get(place).cloned()).collect();
        async { Ok(found) }.boxed()
    }

    fn write(&self, changes: Vec<ItemChange>) -> BoxFuture<'_, Result<bool, Failure>> {
        self.called("write");
        async move {
            // Others come in between.
            tokio::task::yield_now().await;
            let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match trouble {
                None => Ok(self.write_now(changes)),
                Some((takes_effect, failure)) => {
                    if takes_effect {
                        self.write_now(changes);
                    }
                    Err(failure)
                }
            }
        }
        .boxed()
    }

    fn list(&self, partition: String, after: Option<String>) -> BoxFuture<'_, Result<items::Page, Failure>> {
        self.called("list");
        let items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut page, mut bytes) = (Vec::new(), 0);
        let behind =
            |place: &Place| place.partition == partition && after.as_ref().is_none_or(|after| place.sort > *after);
        let mut more = false;
        for (place, item) in items.iter().filter(|(place, _)| behind(place)) {
            if page.len() == PAGE_MAX || bytes > 1 << 20 {
                more = true;
                break;
            }
            bytes += item.bytes.len();
            page.push((place.sort.clone(), item.clone()));
        }
        async move { Ok((page, more)) }.boxed()
    }
}

#[tokio::test]
async fn items_in_memory_are_as_those_of_a_table() {
    super::conformance::items::check(&MemoryItems::default()).await;
}
