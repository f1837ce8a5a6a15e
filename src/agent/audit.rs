//! Stamped events on a managed bus, which no rule can judge.
//!
//! A rule sees whether an event has a stamp, not whether the stamp is its own: a service that copies a received `detail`
//! into a new event copies the stamp with it, and no link's rule would match. So everything stamped goes to one queue, and
//! here the hash tells. What came over a link is done with; what inherited its stamp is passed to the queues where it would
//! have gone without it, and they take the stamp off.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio_util::sync::CancellationToken;

use super::{
    heartbeat,
    kinds::Kinds,
    queue_link::letter::ACCEPTED,
    regions::heard::Heard,
    rounds::{self, within},
};
use crate::{
    core::{
        backoff::Backoff,
        envelope::{Event, Provenance},
        ingress::Ingress,
        link::Failure,
    },
    metrics::Metrics,
    ports::{
        clock::{Clock, Entropy},
        queue::{self, Message, Outgoing, Queue},
    },
};

pub struct Options {
    pub home: String,
    pub ingress: Ingress,
    pub call_timeout: Duration,
    pub visibility: Duration,
    pub poll: Duration,
    /// Receives at once, when there is much to receive: everything that arrives over links comes by here.
    pub receives: usize,
    pub backoff: Backoff,
    /// The regions of the file; metrics are by these.
    pub regions: BTreeSet<String>,
}

pub struct Ports {
    pub queue: Arc<dyn Queue>,
    /// Where local events go: the links' queues and that of the local keys.
    pub targets: Vec<Arc<dyn Queue>>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub metrics: Arc<Metrics>,
    /// What kinds of events there are, for whoever looks for a key.
    pub kinds: Arc<Kinds>,
    pub heard: Arc<Heard>,
    /// See `region.aws.settle`.
    pub settle: Duration,
}

/// The label of an origin that is no region of the file.
const UNKNOWN: &str = "unknown";

/// Runs until `stop`. What is under way then comes again; passing an event on twice changes nothing, as its key is known.
pub async fn run(options: Options, ports: Ports, stop: CancellationToken) {
    let Options { receives, backoff, .. } = options;
    let round = || round(&options, &ports).boxed();
    rounds::run("stamped events", receives, backoff, ports.entropy.clone(), stop, round).await;
}

/// Looks at some messages; answers how many there were.
async fn round(options: &Options, ports: &Ports) -> Result<usize, Failure> {
    let limit = options.call_timeout;
    let receive = ports.queue.receive(queue::CALL_MESSAGES_MAX, options.poll, options.visibility);
    let messages = within(options.poll + limit, receive).await?;
    let received = messages.len();
    let mut genuine = Vec::with_capacity(received);
    let mut inherited = Vec::new();
    for message in messages {
        let event = Event::read(&message.body, &options.home, &options.ingress);
        let result = match &event {
            Ok(Event { provenance: Provenance::Stamped { .. }, .. }) => "genuine",
            Ok(_) => "inherited",
            Err(_) => "malformed",
        };
        ports.metrics.stamps_audited.with_label_values(&[result]).inc();
        if let Ok(event @ Event { provenance: Provenance::Stamped { origin, .. }, .. }) = &event {
            arrived(options, ports, event, origin);
        }
        if result == "genuine" {
            genuine.push(message.receipt);
        } else {
            tracing::info!(region = options.home, message = message.id, result, "a stamp is not the event's own");
            inherited.push(message);
        }
    }
    // First: a target that fails must not bring what is done with again and again.
    if !genuine.is_empty() {
        within(limit, ports.queue.delete(genuine)).await?;
    }
    let mut done = Vec::with_capacity(inherited.len());
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
    Ok(received)
}

/// What came over a link, counted. The queue shows an event at least once, so this counts at least once.
fn arrived(options: &Options, ports: &Ports, event: &Event, origin: &str) {
    let known = options.regions.contains(origin);
    if !known {
        tracing::warn!(region = options.home, origin, "an arrival from no region of the file");
    }
    let label = if known { origin } else { UNKNOWN };
    if !event.is_reserved() {
        ports.kinds.note(&event.source, &event.detail_type);
        ports.metrics.applied.with_label_values(&[label]).inc();
    } else if known && event.detail_type == heartbeat::DETAIL_TYPE {
        ports.metrics.heartbeat_received.with_label_values(&[label]).set(ports.clock.now().as_secs_f64());
        ports.heard.alive(origin);
        // Heartbeats overtake what takes longer.
        if let Some(time) = event.time {
            ports.heard.came(origin, time.minus(ports.settle * 2));
        }
    }
}

fn passed_on(message: &Message) -> Outgoing {
    let mut attributes = message.attributes.clone();
    attributes.entry(ACCEPTED.to_owned()).or_insert_with(|| message.sent.as_millis().to_string());
    Outgoing { body: message.body.clone(), delay: Duration::ZERO, attributes, trace: message.trace.clone() }
}
