//! Bodies of objects, which are streamed: however long they take, as long as they move.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    body,
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::answer::FORGOTTEN_BYTES_MAX;
use crate::{
    config::Limits,
    core::link::Failure,
    ports::{inbox::Admission, objects::Body},
};

/// Bodies on their way at the same time, in both directions; each may hold some 600 KiB in memory.
const BODIES_MAX: usize = 256;

/// How long a caller waits for room before it is told to come again.
const ROOM_WAIT: Duration = Duration::from_secs(2);

/// How long a caller should wait that found no room.
pub const PAUSE: Duration = Duration::from_secs(1);

/// Room for bodies.
pub struct Bodies {
    room: Arc<Semaphore>,
    /// How long a body may stand still.
    patience: Duration,
}

impl Bodies {
    /// At most half of the connections carry bodies.
    pub fn new(limits: &Limits) -> Self {
        let room = (limits.max_connections / 2).clamp(1, BODIES_MAX);
        Bodies { room: Arc::new(Semaphore::new(room)), patience: limits.request_timeout }
    }

    /// Room for one body, after a wait if need be; `None` where there is none.
    pub async fn enter(&self) -> Option<OwnedSemaphorePermit> {
        timeout(ROOM_WAIT, self.room.clone().acquire_owned()).await.ok()?.ok()
    }

    /// A request's body.
    pub fn incoming(&self, headers: &HeaderMap, body: body::Body) -> Incoming {
        Incoming {
            slot: Arc::new(Mutex::new(Some(body))),
            patience: self.patience,
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
    /// The caller sends nothing before it is told to, which the first read does.
    asks_first: bool,
    was_read: Arc<AtomicBool>,
}

impl Incoming {
    /// The bytes. A fault may cut them off.
    pub fn stream(&self, admission: Admission) -> Body {
        let (slot, patience, was_read) = (self.slot.clone(), self.patience, self.was_read.clone());
        let step = move |slot: Arc<Mutex<Option<body::Body>>>| {
            let admission = admission.clone();
            was_read.store(true, Ordering::Relaxed);
            async move {
                loop {
                    if admission.is_cut() {
                        return Err(Failure::Unanswered("cut off by an injected fault".to_owned()));
                    }
                    let Some(mut body) = take(&slot) else { return Ok(None) };
                    let Ok(frame) = timeout(patience, body.frame()).await else {
                        let seconds = patience.as_secs_f64();
                        return Err(Failure::Unanswered(format!("the body stood still for {seconds} s")));
                    };
                    let Some(frame) = frame else { return Ok(None) };
                    let frame = frame.map_err(|error| Failure::Unanswered(format!("the body broke off: {error}")))?;
                    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some((bytes, slot)));
                    }
                }
            }
        };
        stream::try_unfold(slot, step).boxed()
    }

    /// Reads what is left and forgets it, within bounds: a caller that is busy sending would otherwise see a reset instead
    /// of the answer. Where nobody can know what comes next over the connection, the answer is its last.
    pub async fn forget(self, response: &mut Response) {
        let mut rest = self.stream(Admission::default());
        let mut size = 0;
        let ended = match self.asks_first && !self.was_read.load(Ordering::Relaxed) {
            true => false,
            false => loop {
                match rest.next().await {
                    Some(Ok(bytes)) => size += bytes.len(),
                    Some(Err(_)) => break false,
                    None => break true,
                }
                if size > FORGOTTEN_BYTES_MAX {
                    break false;
                }
            },
        };
        if !ended {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
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
