//! Bodies of objects, which are streamed: however long they take, as long as they move. Services and peers have room of
//! their own, so that neither takes the other's.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    body,
    http::{HeaderMap, header},
    response::Response,
};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use super::answer::{self, FORGOTTEN_BYTES_MAX};
use crate::{
    config::Limits,
    core::link::Failure,
    ports::{inbox::Admission, objects::Body},
};

/// Bodies of services on their way at the same time, in both directions, and of peers; each may hold some 600 KiB in memory.
const BODIES_MAX: usize = 128;

/// Bytes of a service that must arrive for each [`Limits::request_timeout`] that is spent waiting for them. Those of peers
/// have to move and no more: links may be throttled to whatever an operator wants.
const PROGRESS_BYTES_MIN: usize = 64 << 10;

/// Smaller pieces are gathered into pieces of [`PIECE_BYTES`]: each costs its bookkeeping, and as a slice would keep alive
/// all that was read with it.
const PIECE_BYTES_MIN: usize = 4 << 10;
const PIECE_BYTES: usize = 16 << 10;

/// How long a caller waits for room before it is told to come again.
const ROOM_WAIT: Duration = Duration::from_secs(2);

/// How long a caller should wait that found no room.
pub const PAUSE: Duration = Duration::from_secs(1);

/// Whose body it is.
#[derive(Clone, Copy, Debug)]
pub enum Caller {
    Service,
    Peer,
}

/// Room for bodies.
pub struct Bodies {
    services: Arc<Semaphore>,
    peers: Arc<Semaphore>,
    /// How long a body may stand still.
    patience: Duration,
}

impl Bodies {
    /// At most half of the connections carry bodies: a quarter those of services, a quarter those of peers.
    pub fn new(limits: &Limits) -> Self {
        let room = || Arc::new(Semaphore::new((limits.max_connections / 4).clamp(1, BODIES_MAX)));
        Bodies { services: room(), peers: room(), patience: limits.request_timeout }
    }

    /// Room for one body, after a wait if need be; `None` where there is none.
    pub async fn enter(&self, caller: Caller) -> Option<OwnedSemaphorePermit> {
        let room = match caller {
            Caller::Service => &self.services,
            Caller::Peer => &self.peers,
        };
        timeout(ROOM_WAIT, room.clone().acquire_owned()).await.ok()?.ok()
    }

    /// A request's body.
    pub fn incoming(&self, caller: Caller, headers: &HeaderMap, body: body::Body) -> Incoming {
        Incoming {
            slot: Arc::new(Mutex::new(Some(body))),
            patience: self.patience,
            progress: match caller {
                Caller::Service => PROGRESS_BYTES_MIN,
                Caller::Peer => 1,
            },
            asks_first: headers.contains_key(header::EXPECT),
            was_read: Arc::default(),
        }
    }
}

/// A request's body that is read as a stream, and can be given up politely.
pub struct Incoming {
    /// Where the body is while nobody waits for its next bytes.
    slot: Arc<Mutex<Option<body::Body>>>,
    patience: Duration,
    /// Bytes that must arrive within it.
    progress: usize,
    /// The caller sends nothing before it is told to, which the first read does.
    asks_first: bool,
    was_read: Arc<AtomicBool>,
}

impl Incoming {
    /// The bytes, in pieces of some size. A fault may cut them off.
    pub fn stream(&self, admission: Admission) -> Body {
        let reading = Reading {
            slot: self.slot.clone(),
            was_read: self.was_read.clone(),
            admission,
            patience: self.patience,
            progress: self.progress,
            left: self.patience,
            arrived: 0,
        };
        stream::try_unfold(
            reading,
            |mut reading| async move { Ok(reading.next().await?.map(|bytes| (bytes, reading))) },
        )
        .boxed()
    }

    /// Reads what is left and forgets it, within bounds: a caller that is busy sending would otherwise see a reset instead
    /// of the answer. Where nobody can know what comes next over the connection, the answer is its last.
    pub async fn forget(self, response: &mut Response) {
        let mut rest = self.stream(Admission::default());
        let all = async {
            let mut size = 0;
            while let Some(bytes) = rest.next().await {
                size += bytes.map_or(usize::MAX, |bytes| bytes.len());
                if size > FORGOTTEN_BYTES_MAX {
                    return false;
                }
            }
            true
        };
        let ended = match self.asks_first && !self.was_read.load(Ordering::Relaxed) {
            true => false,
            false => timeout(self.patience, all).await.unwrap_or(false),
        };
        if !ended {
            answer::close_after(response);
        }
    }
}

/// A body that is being read.
struct Reading {
    slot: Arc<Mutex<Option<body::Body>>>,
    was_read: Arc<AtomicBool>,
    admission: Admission,
    patience: Duration,
    progress: usize,
    /// How long may still be waited for the next `progress` bytes. Only waiting for the caller counts.
    left: Duration,
    /// Bytes towards these.
    arrived: usize,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        self.was_read.store(true, Ordering::Relaxed);
        let mut small = BytesMut::new();
        while small.len() < PIECE_BYTES {
            if self.admission.is_cut() {
                return Err(Failure::Unanswered("cut off by an injected fault".to_owned()));
            }
            let Some(mut body) = take(&self.slot) else { break };
            let waits = Instant::now();
            let Ok(frame) = timeout(self.left, body.frame()).await else { return Err(self.too_slow()) };
            self.left = self.left.saturating_sub(waits.elapsed());
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|error| Failure::Unanswered(format!("the body broke off: {error}")))?;
            *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
            let Ok(bytes) = frame.into_data() else { continue };
            self.arrived += bytes.len();
            if self.arrived >= self.progress {
                (self.left, self.arrived) = (self.patience, 0);
            }
            if small.is_empty() && bytes.len() >= PIECE_BYTES_MIN {
                return Ok(Some(bytes));
            }
            small.extend_from_slice(&bytes);
        }
        Ok((!small.is_empty()).then(|| small.freeze()))
    }

    fn too_slow(&self) -> Failure {
        let (seconds, arrived) = (self.patience.as_secs_f64(), self.arrived);
        Failure::Unanswered(match arrived {
            0 => format!("the body stood still for {seconds} s"),
            _ => format!("only {arrived} bytes of the body came in {seconds} s"),
        })
    }
}

fn take(slot: &Mutex<Option<body::Body>>) -> Option<body::Body> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// An answer's body, which keeps its room while it lasts. A fault may cut it off.
pub fn outgoing(body: Body, room: OwnedSemaphorePermit, admission: Admission) -> body::Body {
    let step = |(mut body, room, admission): (Body, OwnedSemaphorePermit, Admission)| async move {
        if admission.is_cut() {
            return Err(Failure::Unanswered("cut off by an injected fault".to_owned()));
        }
        let bytes: Option<Bytes> = body.next().await.transpose()?;
        Ok(bytes.map(|bytes| (bytes, (body, room, admission))))
    };
    body::Body::from_stream(stream::try_unfold((body, room, admission), step))
}
