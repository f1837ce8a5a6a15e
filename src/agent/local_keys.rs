//! Keys of local events on a managed bus go into the region's own ledger, from a queue of their own.
//!
//! Services may publish on the bus without asking the agent. Their events are out before anybody could claim the key, so
//! all that is left is to write the key down, quickly: then a link that brings the same key is answered `Duplicate`. If the
//! link was first, the second effect has happened, and it is counted. The queue is not a link's, so that a filtered or
//! disabled link does not void the suppression.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    kinds::Kinds,
    rounds::{self, within},
};
use crate::{
    core::{
        backoff::Backoff,
        claim::{Claim, Contender, Judgement, Row, State, Token, judge},
        envelope::{Event, Provenance},
        ingress::Ingress,
        key::KeyHash,
        link::Failure,
        time::Timestamp,
    },
    metrics::Metrics,
    ports::{
        claims::{Claims, Inserted},
        clock::{Clock, Entropy},
        queue::{self, Message, Queue},
    },
};

/// Claims of others that are watched. Beyond it the watch begins anew, which costs a wait.
const WATCHED_MAX: usize = 10_000;

/// How soon a key that somebody else is publishing is looked at again, at the latest.
const LOOK_MAX: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub struct Options {
    pub home: String,
    pub ingress: Ingress,
    pub call_timeout: Duration,
    pub visibility: Duration,
    pub poll: Duration,
    /// Receives at once, when there is much to receive.
    pub receives: usize,
    pub retention: Duration,
    pub backoff: Backoff,
}

pub struct Ports {
    pub queue: Arc<dyn Queue>,
    /// The region's own ledger.
    pub claims: Arc<dyn Claims>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub metrics: Arc<Metrics>,
    /// What kinds of events there are, for whoever looks for a key.
    pub kinds: Arc<Kinds>,
}

pub struct LocalKeys {
    options: Options,
    ports: Ports,
    started: Instant,
    /// Claims of others: which token, and since when it was seen.
    watched: Mutex<BTreeMap<KeyHash, (Token, Timestamp)>>,
    reached_millis: Arc<AtomicU64>,
}

/// What is to be done with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Delete,
    /// Come again after this.
    Again(Duration),
}

impl LocalKeys {
    pub fn new(options: Options, ports: Ports) -> Self {
        let (started, watched, reached_millis) = (Instant::now(), Mutex::default(), Arc::default());
        LocalKeys { options, ports, started, watched, reached_millis }
    }

    /// When the oldest message of the last round went into the queue, or when it was found empty, in milliseconds since 1970;
    /// 0 before the first round. A queue hands out old messages before new ones, but for a few, so what went in earlier has
    /// been entered.
    pub fn reached_millis(&self) -> Arc<AtomicU64> {
        self.reached_millis.clone()
    }

    /// Runs until `stop`. What is under way then comes again; entering a key twice changes nothing.
    pub async fn run(&self, stop: CancellationToken) {
        let Options { receives, backoff, .. } = self.options;
        let entropy = self.ports.entropy.clone();
        rounds::run("local keys", receives, backoff, entropy, stop, || self.round().boxed()).await;
    }

    /// Takes some messages in; answers how many there were.
    async fn round(&self) -> Result<usize, Failure> {
        let Options { poll, visibility, call_timeout, .. } = self.options;
        let receive = self.ports.queue.receive(queue::CALL_MESSAGES_MAX, poll, visibility);
        let mut messages = within(poll + call_timeout, receive).await?;
        let mut result = Ok(());
        if messages.len() >= queue::CALL_MESSAGES_MAX {
            // There is more, and a call to the ledger takes more than a receive brings.
            let more = self.ports.queue.receive(queue::CALL_MESSAGES_MAX, Duration::ZERO, visibility);
            match within(call_timeout, more).await {
                Ok(more) => messages.extend(more),
                Err(failure) => result = Err(failure),
            }
        }
        let received = messages.len();
        let mut next: Vec<Option<Next>> = vec![None; received];
        let mut events = Vec::with_capacity(received);
        for (index, message) in messages.iter().enumerate() {
            match self.read(message) {
                Some(event) => events.push((index, event)),
                None => next[index] = Some(Next::Delete),
            }
        }
        // One row for a key in a call; its other events come after it.
        while !events.is_empty() {
            let mut keys = BTreeSet::new();
            let (now, later): (Vec<_>, Vec<_>) = events.into_iter().partition(|(_, event)| keys.insert(event.key_hash));
            events = later;
            if let Err(failure) = self.enter(&now, &mut next).await {
                result = Err(failure);
                break;
            }
        }
        let receipts = |wanted: &dyn Fn(Next) -> bool| {
            let chosen = messages.iter().zip(&next).filter(|(_, next)| next.is_some_and(wanted));
            chosen.map(|(message, _)| message.receipt.clone()).collect::<Vec<_>>()
        };
        let delete = receipts(&|next| next == Next::Delete);
        if !delete.is_empty() {
            // What is not deleted comes again and is known then.
            within(call_timeout, self.ports.queue.delete(delete)).await?;
        }
        let again = receipts(&|next| matches!(next, Next::Again(_)));
        let soonest = next.iter().flatten().filter_map(|next| match next {
            Next::Again(after) => Some(*after),
            Next::Delete => None,
        });
        if let Some(after) = soonest.min() {
            within(call_timeout, self.ports.queue.extend(again, after.max(Duration::from_secs(1)))).await?;
        }
        result?;
        // Nothing came for as long as a poll lasts, in which what others had received and not deleted would have come again.
        let reached = messages.iter().map(|message| message.sent).min().unwrap_or_else(|| self.ports.clock.now());
        self.reached_millis.store(reached.as_millis(), Ordering::Relaxed);
        Ok(received)
    }

    /// The event of a message, if its key belongs into the ledger.
    fn read(&self, message: &Message) -> Option<Event> {
        match Event::read(&message.body, &self.options.home, &self.options.ingress) {
            Ok(event) => {
                if event.provenance == Provenance::Stripped {
                    self.ports.metrics.stamps_stripped.inc();
                }
                let delivered = matches!(event.provenance, Provenance::Stamped { .. });
                let ours = !delivered && !event.is_reserved() && !event.is_of_aws();
                if ours {
                    self.ports.kinds.note(&event.source, &event.detail_type);
                }
                ours.then_some(event)
            }
            Err(error) => {
                // The links write it to their dead letters; here there is no key to keep.
                self.count("malformed");
                tracing::warn!(region = self.options.home, message = message.id, %error, "a local event has no key");
                None
            }
        }
    }

    fn count(&self, result: &str) {
        self.ports.metrics.local_entries.with_label_values(&[result]).inc();
    }

    fn row(&self, event: &Event) -> Row {
        let at = self.ports.clock.now();
        Row {
            payload: event.payload_hash,
            state: State::Done { id: Some(event.id.clone()) },
            at,
            expires: at.plus(self.options.retention),
            origin: self.options.home.clone(),
            reserved: false,
        }
    }

    /// Enters events of different keys.
    async fn enter(&self, events: &[(usize, Event)], next: &mut [Option<Next>]) -> Result<(), Failure> {
        let claims = events.iter().map(|(_, event)| Claim { key: event.key_hash, row: self.row(event) }).collect();
        let results = within(self.options.call_timeout, self.ports.claims.insert(claims)).await?;
        let read_at = super::queue_link::steady(self.started);
        for ((index, event), result) in events.iter().zip(results) {
            next[*index] = Some(match result? {
                Inserted::New => {
                    self.count("new");
                    Next::Delete
                }
                Inserted::Known(row) => self.known(event, &row, read_at).await?,
            });
        }
        Ok(())
    }

    async fn known(&self, event: &Event, row: &Row, read_at: Timestamp) -> Result<Next, Failure> {
        let home = row.origin == self.options.home;
        let observed = self.observe(event.key_hash, &row.state, read_at);
        let now = self.ports.clock.now();
        let contender = Contender { tokens: &[], payload: event.payload_hash, observed, now };
        match (judge(row, &contender), &row.state) {
            (Judgement::Duplicate, State::Done { id }) => {
                let ours = id.as_ref().is_none_or(|id| *id == event.id);
                match (home, ours) {
                    (true, true) => self.count("known"),
                    (true, false) => {
                        self.count("repeat");
                        let (region, key) = (&self.options.home, &event.key);
                        tracing::info!(region, key, "a local event has a key that was published here before");
                    }
                    (false, _) => self.late(event, &row.origin),
                }
                Ok(Next::Delete)
            }
            (Judgement::Conflict, _) => {
                self.count("conflict");
                let (region, key) = (&self.options.home, &event.key);
                tracing::warn!(region, key, first = row.origin, "a local event has the key of another payload");
                Ok(Next::Delete)
            }
            // Published through the agent, which has not marked it yet, or never will: it is on the bus, as we see.
            (Judgement::Wait(_) | Judgement::TakeOver(_), State::Claimed { token, .. })
                if home && row.payload == event.payload_hash =>
            {
                let mark = (event.key_hash, *token, Some(event.id.clone()));
                let marked = within(self.options.call_timeout, self.ports.claims.mark(vec![mark], now)).await?;
                if let Some(Err(failure)) = marked.into_iter().next() {
                    return Err(failure);
                }
                // The row then tells which event it was: the agent may have marked another one just before.
                Ok(Next::Again(Duration::from_secs(1)))
            }
            (Judgement::TakeOver(from), _) => {
                let claim = Claim { key: event.key_hash, row: self.row(event) };
                let call = self.ports.claims.take_over(claim, from);
                if within(self.options.call_timeout, call).await? {
                    // Whether the link's event is on the bus nobody knows.
                    self.late(event, &row.origin);
                    return Ok(Next::Delete);
                }
                Ok(Next::Again(Duration::from_secs(1)))
            }
            (Judgement::Wait(rest), _) => Ok(Next::Again(rest.min(LOOK_MAX))),
            _ => Ok(Next::Again(Duration::from_secs(1))),
        }
    }

    fn late(&self, event: &Event, origin: &str) {
        self.count("late");
        tracing::warn!(
            region = self.options.home,
            key = event.key,
            origin,
            "a link had delivered this key before it was published here: a second effect"
        );
    }

    /// Since when the row's claim has been seen.
    fn observe(&self, key: KeyHash, state: &State, now: Timestamp) -> Duration {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let State::Claimed { token, .. } = state else {
            watched.remove(&key);
            return Duration::ZERO;
        };
        if watched.len() >= WATCHED_MAX && !watched.contains_key(&key) {
            watched.pop_first();
        }
        let seen = watched.entry(key).or_insert((*token, now));
        if seen.0 != *token {
            *seen = (*token, now);
        }
        now.since(seen.1)
    }
}

#[cfg(test)]
#[path = "local_keys_tests.rs"]
mod tests;
