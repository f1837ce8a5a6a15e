//! Stamped arrivals, as a queue of their own shows them.
//!
//! On EventBridge a rule keeps stamped events off the links by the presence of a stamp alone. Whether the stamp is
//! genuine only its payload hash says, and no rule can check that. A service that copies a received `detail` into a new
//! event makes one with an inherited stamp, which no link would carry: it is found here and put into the feeds and the
//! local keys, where it is an event of this region.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{CALL_TIMEOUT, POLL, RECEIVES, VISIBILITY};
use crate::{
    agent::{heartbeat::DETAIL_TYPE, queue_link::letter},
    core::{
        backoff::Backoff,
        envelope::{Event, Provenance},
        event::RESERVED_SOURCE,
        ingress::Ingress,
        link::Failure,
    },
    metrics::Metrics,
    ports::{
        clock::{Clock, Entropy},
        queue::{CALL_MESSAGES_MAX, Message, Outgoing, Queue},
    },
};

/// The label of an origin that is no region of the file.
const UNKNOWN: &str = "unknown";

pub struct Auditor {
    pub home: String,
    pub peers: BTreeSet<String>,
    pub ingress: Ingress,
    pub queue: Arc<dyn Queue>,
    pub feeds: BTreeMap<String, Arc<dyn Queue>>,
    pub local_keys: Arc<dyn Queue>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub metrics: Arc<Metrics>,
    pub backoff: Backoff,
}

impl Auditor {
    /// Runs until `stop`. What is under way then comes again.
    pub async fn run(&self, stop: CancellationToken) {
        let (mut failures, mut at_once) = (0, 1);
        loop {
            let rounds = futures::future::join_all((0..at_once).map(|_| self.round()));
            let answers = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                answers = rounds => answers,
            };
            let full = answers.iter().all(|answer| matches!(answer, Ok(CALL_MESSAGES_MAX..)));
            at_once = if full { (at_once + 1).min(RECEIVES) } else { 1 };
            let Some(failure) = answers.into_iter().find_map(Result::err) else {
                failures = 0;
                continue;
            };
            failures += 1;
            tracing::warn!(region = self.home, %failure, "stamped arrivals wait to be looked at");
            let pause = self.backoff.pause(failures, self.entropy.next_f64());
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Receives, looks and deletes; answers how many there were.
    async fn round(&self) -> Result<usize, Failure> {
        let received = within(CALL_TIMEOUT + POLL, self.queue.receive(CALL_MESSAGES_MAX, POLL, VISIBILITY)).await?;
        let count = received.len();
        let mut done = Vec::with_capacity(count);
        for message in received {
            self.look_at(&message).await?;
            done.push(message.receipt);
        }
        if done.is_empty() {
            return Ok(0);
        }
        // What stays comes again, and is counted again: this queue counts at least once.
        let deleted = within(CALL_TIMEOUT, self.queue.delete(done)).await?;
        deleted.into_iter().find_map(Result::err).map_or(Ok(count), Err)
    }

    async fn look_at(&self, message: &Message) -> Result<(), Failure> {
        let event = match Event::read(&message.body, &self.home, &self.ingress) {
            Ok(event) => event,
            Err(error) => {
                // It is on the bus and in no link's way: there is nothing to be kept.
                tracing::warn!(region = self.home, %error, message = message.id, "an arrival that is no event");
                self.metrics.applied.with_label_values(&[UNKNOWN]).inc();
                return Ok(());
            }
        };
        match &event.provenance {
            Provenance::Stamped { origin, .. } => {
                let known = self.peers.contains(origin);
                let label = if known { origin.as_str() } else { UNKNOWN };
                if !known {
                    tracing::warn!(region = self.home, origin, "an arrival from no region of the file");
                }
                match event.source == RESERVED_SOURCE {
                    true if event.detail_type == DETAIL_TYPE && known => {
                        let now = self.clock.now().as_secs_f64();
                        self.metrics.heartbeat_received.with_label_values(&[label]).set(now);
                    }
                    true => {}
                    false => self.metrics.applied.with_label_values(&[label]).inc(),
                }
                Ok(())
            }
            Provenance::Stripped => {
                tracing::info!(region = self.home, key = event.key, source = event.source, "an inherited stamp");
                self.metrics.stamps_stripped.inc();
                self.send_on(message).await
            }
            // The rule selects what has a stamp; a stamp of another form is none.
            Provenance::Local => self.send_on(message).await,
        }
    }

    /// Puts an event of this region where its rule would have put it. Each link judges it by its own filter.
    async fn send_on(&self, message: &Message) -> Result<(), Failure> {
        let accepted = letter::accepted(message).as_millis().to_string();
        let outgoing = Outgoing {
            body: message.body.clone(),
            attributes: BTreeMap::from([(letter::ACCEPTED.to_owned(), accepted)]),
            trace: message.trace.clone(),
            ..Outgoing::default()
        };
        for queue in self.feeds.values().chain([&self.local_keys]) {
            let sent = within(CALL_TIMEOUT, queue.send(vec![outgoing.clone()])).await?;
            sent.into_iter().find_map(Result::err).map_or(Ok(()), Err)?;
        }
        Ok(())
    }
}

async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result,
        Err(_) => Err(Failure::Unanswered(format!("no answer within {} s", limit.as_secs()))),
    }
}
