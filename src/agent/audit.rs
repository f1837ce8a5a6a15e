//! Stamped events on a managed bus, which no rule can judge.
//!
//! A rule sees whether an event has a stamp, not whether the stamp is its own: a service that copies a received `detail`
//! into a new event copies the stamp with it, and no link's rule would match. So everything stamped goes to one queue, and
//! here the hash tells. What came over a link is done with; what inherited its stamp is passed to the queues where it would
//! have gone without it, and they take the stamp off.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::queue_link::letter::ACCEPTED;
use crate::{
    core::{
        backoff::Backoff,
        envelope::{Event, Provenance},
        ingress::Ingress,
        link::Failure,
    },
    metrics::Metrics,
    ports::{
        clock::Entropy,
        queue::{self, Message, Outgoing, Queue},
    },
};

pub struct Options {
    pub home: String,
    pub ingress: Ingress,
    pub call_timeout: Duration,
    pub visibility: Duration,
    pub poll: Duration,
    pub backoff: Backoff,
}

pub struct Ports {
    pub queue: Arc<dyn Queue>,
    /// Where local events go: the links' queues and that of the local keys.
    pub targets: Vec<Arc<dyn Queue>>,
    pub entropy: Arc<dyn Entropy>,
    pub metrics: Arc<Metrics>,
}

/// Runs until `stop`. What is under way then comes again; passing an event on twice changes nothing, as its key is known.
pub async fn run(options: Options, ports: Ports, stop: CancellationToken) {
    let mut failures = 0;
    while !stop.is_cancelled() {
        let round = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            round = round(&options, &ports) => round,
        };
        match round {
            Ok(()) => failures = 0,
            Err(failure) => {
                failures += 1;
                tracing::warn!(region = options.home, %failure, "stamped events wait to be looked at");
                let pause = options.backoff.pause(failures, ports.entropy.next_f64());
                let _ = tokio::time::timeout(pause, stop.cancelled()).await;
            }
        }
    }
}

async fn within<T>(limit: Duration, call: BoxFuture<'_, Result<T, Failure>>) -> Result<T, Failure> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result,
        Err(_) => Err(Failure::Unanswered(format!("no answer within {limit:?}"))),
    }
}

async fn round(options: &Options, ports: &Ports) -> Result<(), Failure> {
    let limit = options.call_timeout;
    let receive = ports.queue.receive(queue::CALL_MESSAGES_MAX, options.poll, options.visibility);
    let messages = within(options.poll + limit, receive).await?;
    let mut done = Vec::with_capacity(messages.len());
    let mut inherited = Vec::new();
    for message in messages {
        let event = Event::read(&message.body, &options.home, &options.ingress);
        let result = match &event {
            Ok(Event { provenance: Provenance::Stamped { .. }, .. }) => "genuine",
            Ok(_) => "inherited",
            Err(_) => "malformed",
        };
        ports.metrics.stamps_audited.with_label_values(&[result]).inc();
        if result == "genuine" {
            done.push(message.receipt);
        } else {
            tracing::info!(region = options.home, message = message.id, result, "a stamp is not the event's own");
            inherited.push(message);
        }
    }
    // One message in a call: each may be as large as a call may be.
    for message in inherited {
        for target in &ports.targets {
            for sent in within(limit, target.send(vec![passed_on(&message)])).await? {
                sent?;
            }
        }
        done.push(message.receipt);
    }
    if !done.is_empty() {
        within(limit, ports.queue.delete(done)).await?;
    }
    Ok(())
}

fn passed_on(message: &Message) -> Outgoing {
    let mut attributes = message.attributes.clone();
    attributes.entry(ACCEPTED.to_owned()).or_insert_with(|| message.sent.as_millis().to_string());
    Outgoing { body: message.body.clone(), delay: Duration::ZERO, attributes, trace: message.trace.clone() }
}
