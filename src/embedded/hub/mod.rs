//! The hub of one region on its own disk: log, ledger and what the links remember, behind one writer.
//!
//! # The problem
//! An event that is taken in must enter the log and the ledger together, or a crash between them makes a second effect
//! or loses the first. Two stores need a transaction across both; one store with an fsync per event takes a few hundred
//! a second.
//!
//! # The method
//! One writer takes requests from a bounded queue, judges each against the ledger, and appends everything that is
//! waiting as one group with one sync; only then are the answers sent. The ledger is an index of the log: what it holds
//! in memory is rebuilt from there, so the sync of the group is the only one.

mod pin;
mod recover;
mod writer;

use std::{
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::{
    ledger,
    log::{self, Log, LogReader},
};
use crate::{
    core::{
        batch::{Batch, Reply},
        event::{Draft, Record, local_size},
        frame::{Kind, Step},
        invariant::Violation,
        journal::{Change, Head, State},
    },
    ports::{
        clock::{Clock, Entropy},
        disk::Disk,
        hub::{Error, Hub, Note, Published, Reader},
    },
};

pub use pin::{Pinned, PinnedFile};
pub use writer::Writer;

/// Requests that may wait for the writer.
const REQUESTS_MAX: usize = 1024;

/// Bytes of events that may wait for the writer; services beyond get 503, peers wait.
const WAITING_BYTES_MAX: usize = 64 << 20;

#[derive(Clone, Debug)]
pub struct Options {
    pub region: String,
    /// How long the ledger remembers a key.
    pub retention: Duration,
    /// How long the log keeps an event at least, for readers and for refilling a restored peer.
    pub log_retention: Duration,
    /// Beyond this the oldest segment goes, whoever still needs it. Bytes.
    pub log_bytes_max: u64,
    /// Bytes.
    pub segment_bytes: u64,
}

/// Why a hub does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Log(#[from] log::Error),
    #[error("ledger: {0}")]
    Ledger(#[from] ledger::Error),
}

enum Request {
    Publish {
        drafts: Vec<Draft>,
        reply: oneshot::Sender<Result<Vec<Published>, Error>>,
        permit: OwnedSemaphorePermit,
    },
    Apply {
        batch: Batch,
        reply: oneshot::Sender<Result<Reply, Error>>,
        permit: OwnedSemaphorePermit,
    },
    Note {
        notes: Vec<Note>,
        reply: Option<oneshot::Sender<Result<(), Error>>>,
    },
    /// Drop what is past retention; links need everything after `needed_after`.
    Retain {
        needed_after: u64,
    },
    Pin {
        reply: oneshot::Sender<Result<Pinned, Error>>,
    },
}

impl Request {
    /// Answers that there is no room on the disk. What nobody waits for is forgotten: it is asked again.
    fn refuse(self) {
        let full = || Error::Overloaded("the disk is full");
        match self {
            Request::Publish { reply, .. } => drop(reply.send(Err(full()))),
            Request::Apply { reply, .. } => drop(reply.send(Err(full()))),
            Request::Note { reply: Some(reply), .. } => drop(reply.send(Err(full()))),
            Request::Pin { reply } => drop(reply.send(Err(full()))),
            Request::Note { reply: None, .. } | Request::Retain { .. } => {}
        }
    }
}

/// Cheap to clone; the writer ends when the last one is dropped.
#[derive(Clone)]
pub struct EmbeddedHub {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
}

/// Those who follow the head, each over a channel of its own.
type Followers = Arc<Mutex<Vec<watch::Sender<Head>>>>;

struct Shared {
    log: Arc<Log>,
    state: Arc<RwLock<State>>,
    head: watch::Receiver<Head>,
    followers: Followers,
    waiting: Arc<Semaphore>,
    draining: Arc<AtomicBool>,
    violations: Arc<Mutex<Vec<Violation>>>,
    failed: watch::Receiver<Option<String>>,
}

impl EmbeddedHub {
    /// Opens the hub on `disk`. The writer does the work: run it on a thread of its own (its disk calls block), or as a
    /// task where the disk is simulated.
    ///
    /// # Errors
    /// Damaged or foreign files; nothing was changed then.
    pub async fn open(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        options: Options,
    ) -> Result<(EmbeddedHub, Writer), OpenError> {
        let (requests, received) = mpsc::channel(REQUESTS_MAX);
        let recovered = recover::recover(disk.clone(), &options, clock.now()).await?;
        let head = recovered.state.head;
        let (head_sender, head) = watch::channel(head);
        let (failed_sender, failed) = watch::channel(None);
        let followers = Followers::default();
        let draining = Arc::<AtomicBool>::default();
        let violations = Arc::<Mutex<Vec<Violation>>>::default();
        let state = Arc::new(RwLock::new(recovered.state));
        let shared = Shared {
            log: recovered.log.clone(),
            state: state.clone(),
            head,
            followers: followers.clone(),
            waiting: Arc::new(Semaphore::new(WAITING_BYTES_MAX)),
            draining: draining.clone(),
            violations: violations.clone(),
            failed,
        };
        let writer = Writer::new(writer::Parts {
            disk,
            clock,
            entropy,
            options,
            log: recovered.log,
            ledger: recovered.ledger,
            state,
            requests: received,
            head: head_sender,
            followers,
            draining,
            violations,
            failed: failed_sender,
        });
        Ok((EmbeddedHub { shared: Arc::new(shared), requests }, writer))
    }

    /// Completes, with the reason, when a write or sync failed: the process must end.
    pub async fn failed(&self) -> String {
        let mut failed = self.shared.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "the writer ended".to_owned(),
        }
    }

    /// What is durable now, as open files.
    ///
    /// # Errors
    /// The hub failed, or the disk is full.
    pub async fn pin(&self) -> Result<Pinned, Error> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Pin { reply }).await.map_err(|_| self.failure())?;
        answer.await.unwrap_or_else(|_| Err(self.failure()))
    }

    async fn request<T>(
        &self,
        bytes: usize,
        wait: bool,
        build: impl FnOnce(oneshot::Sender<Result<T, Error>>, OwnedSemaphorePermit) -> Request,
    ) -> Result<T, Error> {
        let bytes = bytes.min(WAITING_BYTES_MAX) as u32;
        let waiting = self.shared.waiting.clone();
        let permit = if wait {
            waiting.acquire_many_owned(bytes).await.map_err(|_| self.failure())?
        } else {
            waiting.try_acquire_many_owned(bytes).map_err(|_| Error::Overloaded("too many bytes wait to be written"))?
        };
        let (reply, answer) = oneshot::channel();
        let request = build(reply, permit);
        if wait {
            self.requests.send(request).await.map_err(|_| self.failure())?;
        } else {
            self.requests.try_send(request).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => Error::Overloaded("too many requests wait to be written"),
                mpsc::error::TrySendError::Closed(_) => self.failure(),
            })?;
        }
        answer.await.unwrap_or_else(|_| Err(self.failure()))
    }

    fn failure(&self) -> Error {
        Error::Failed(self.shared.failed.borrow().clone().unwrap_or_else(|| "the writer ended".to_owned()))
    }
}

impl Hub for EmbeddedHub {
    fn publish(&self, drafts: Vec<Draft>) -> BoxFuture<'_, Result<Vec<Published>, Error>> {
        async move {
            let bytes = drafts.iter().map(|draft| local_size(draft, "")).sum();
            self.request(bytes, false, |reply, permit| Request::Publish { drafts, reply, permit }).await
        }
        .boxed()
    }

    fn apply(&self, batch: Batch) -> BoxFuture<'_, Result<Reply, Error>> {
        async move {
            let bytes = batch.records.iter().map(|record| record.raw().len()).sum();
            self.request(bytes, true, |reply, permit| Request::Apply { batch, reply, permit }).await
        }
        .boxed()
    }

    fn note(&self, notes: Vec<Note>) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            let (reply, answer) = oneshot::channel();
            let request = Request::Note { notes, reply: Some(reply) };
            self.requests.send(request).await.map_err(|_| self.failure())?;
            answer.await.unwrap_or_else(|_| Err(self.failure()))
        }
        .boxed()
    }

    fn note_lazily(&self, note: Note) {
        let _ = self.requests.try_send(Request::Note { notes: vec![note], reply: None });
    }

    fn reader(&self, after: u64) -> Box<dyn Reader> {
        Box::new(LogReader::new(self.shared.log.clone(), after))
    }

    fn head(&self) -> watch::Receiver<Head> {
        self.shared.head.clone()
    }

    fn follow_head(&self) -> watch::Receiver<Head> {
        let mut followers = self.shared.followers.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // Read under the lock, which the writer takes after it moved the head: no move is missed.
        let (sender, receiver) = watch::channel(*self.shared.head.borrow());
        followers.push(sender);
        receiver
    }

    fn base(&self) -> u64 {
        self.shared.log.start().offset
    }

    fn state(&self) -> Arc<RwLock<State>> {
        self.shared.state.clone()
    }

    fn letter_event(&self, id: u64) -> BoxFuture<'_, Result<Option<Record>, Error>> {
        async move {
            let place = {
                let state = self.shared.state.read().unwrap_or_else(|poisoned| poisoned.into_inner());
                state.letters.get(&id).map(|(_, place)| *place)
            };
            match place {
                Some(place) => {
                    letter_event(&self.shared.log, place).await.map_err(|error| Error::Failed(error.to_string()))
                }
                None => Ok(None),
            }
        }
        .boxed()
    }

    fn log_bytes(&self) -> u64 {
        self.shared.log.bytes()
    }

    fn set_draining(&self, draining: bool) {
        self.shared.draining.store(draining, Ordering::SeqCst);
    }

    fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::SeqCst)
    }

    fn take_violations(&self) -> Vec<Violation> {
        std::mem::take(&mut self.shared.violations.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    fn retain(&self, needed_after: u64) {
        // It is asked again within seconds.
        let _ = self.requests.try_send(Request::Retain { needed_after });
    }
}

/// Reads the event behind a dead letter's change.
async fn letter_event(log: &Log, place: crate::core::journal::Place) -> Result<Option<Record>, log::Error> {
    let Some(segment) = log.find(place.segment).filter(|segment| segment.first() == place.segment) else {
        return Ok(None);
    };
    let damaged = |why: &str| segment.damaged(place.position, why);
    let Step::Frame { kind: Kind::Change, payload, .. } = segment.frame_at(place.position).await? else {
        return Err(damaged("no change where a dead letter was written"));
    };
    let (_, event) = postcard::take_from_bytes::<Change>(&payload).map_err(|error| damaged(&error.to_string()))?;
    let event = payload.slice_ref(event);
    Record::parse(event).map(Some).map_err(|error| damaged(&error.to_string()))
}

#[cfg(test)]
mod tests;
