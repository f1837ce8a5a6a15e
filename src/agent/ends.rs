//! What a link and its errands share: who the two ends are, and how something is sent.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{inbox::read_state, pacer::Pacer, payloads::Payloads, repairs::Repairs, watch::Watch};
use crate::{
    core::{
        batch::{Batch, Kind, Opening, Reason, Reply},
        event::Record,
        journal::{Change, Letter},
        link::Failure,
        position::Incarnation,
        time::Timestamp,
    },
    metrics::LinkMetrics,
    ports::{
        clock::{Clock, Entropy},
        hub::{Hub, Note},
        peer::Peer,
    },
};

/// Who a link's two ends are and what carries it.
pub struct Ends {
    pub cluster: String,
    pub home: String,
    pub peer_name: String,
    pub hub: Arc<dyn Hub>,
    pub peer: Arc<dyn Peer>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub metrics: Arc<LinkMetrics>,
    pub watch: Arc<Watch>,
    /// The skips of all links of the region, by reason.
    pub skipped: prometheus::IntCounterVec,
    pub attempt_timeout: Duration,
    pub dead_letters_max: u64,
    /// Shared by the link and its errands.
    pub pacer: RwLock<Arc<Pacer>>,
    /// Zero of the steady clock.
    pub started: Instant,
    pub repairs: Repairs,
    /// Where events may refer to objects.
    pub payloads: Option<Arc<Payloads>>,
    /// The peer's life as it said last; 0 until it said anything.
    pub peer_life: AtomicU64,
}

impl Ends {
    pub fn pacer(&self) -> Arc<Pacer> {
        self.pacer.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A clock that never steps, for waiting: the wall clock may be set, or off on purpose.
    pub fn steady(&self) -> Timestamp {
        Timestamp::from_millis(1).plus(self.started.elapsed())
    }

    /// The peer's life as it said last. What was brought to it in another one may be gone.
    pub fn peer_life(&self) -> Incarnation {
        Incarnation(self.peer_life.load(Ordering::Relaxed))
    }

    /// What precedes the records of a batch sent now.
    pub fn opening(&self, kind: Kind) -> Opening {
        let lives = read_state(&*self.hub, |state| state.lives.told());
        Opening {
            cluster: self.cluster.clone(),
            sender: self.home.clone(),
            receiver: self.peer_name.clone(),
            kind,
            lives,
            base: self.hub.base(),
            head: self.hub.end().offset,
            sent: self.clock.now(),
            held: Vec::new(),
            payloads_in: self.payloads.as_ref().map(|_| self.peer_life()),
        }
    }

    /// Sends a batch; a peer that does not answer in time has not answered.
    pub async fn deliver(&self, batch: Batch) -> Result<Reply, Failure> {
        match tokio::time::timeout(self.attempt_timeout, self.peer.deliver(batch)).await {
            Ok(Ok(reply)) if reply.region != self.peer_name => {
                Err(Failure::Refused(format!("expected region `{}`, found `{}`", self.peer_name, reply.region)))
            }
            Ok(result) => {
                if let Ok(reply) = &result {
                    self.peer_life.store(reply.lives.current().unwrap_or_default().0, Ordering::Relaxed);
                }
                result
            }
            Err(_) => Err(Failure::Unanswered(format!("no answer within {:?}", self.attempt_timeout))),
        }
    }

    pub fn dead_letters(&self) -> u64 {
        read_state(&*self.hub, |state| {
            state.letters.values().filter(|(letter, _)| letter.peer == self.peer_name).count() as u64
        })
    }

    pub fn letter(&self, record: &Record, reason: Reason, attempts: u32) -> Note {
        tracing::warn!(
            peer = self.peer_name,
            key = record.key(),
            source = record.source(),
            sequence = record.header.offset,
            trace = record.trace_id(),
            reason = reason.as_str(),
            "event goes to the dead letters"
        );
        self.metrics.count_dead_letter(reason);
        let letter = Letter {
            id: 0,
            peer: self.peer_name.clone(),
            sequence: record.header.offset,
            key: record.key().to_owned(),
            key_hash: record.header.key_hash,
            source: record.source().to_owned(),
            detail_type: record.detail_type().to_owned(),
            reason,
            accepted: record.header.accepted,
            dead: self.clock.now(),
            attempts,
        };
        Note { change: Change::DeadLettered { letter }, event: Some(record.clone()) }
    }
}
