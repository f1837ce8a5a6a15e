//! A link whose region is built on managed services: from a queue of the home region to the bus of the peer.
//!
//! # The problem
//! No transaction spans the queue, the peer's ledger and the peer's bus. Each may answer late, twice or not at all, the
//! queue hands a message out again while somebody works on it, and any number of agents share it.
//!
//! # The method
//! One message goes: received, decided ([`Rules`](crate::core::envelope::Rules)), *claimed* in the peer's ledger, put on the peer's bus, marked done,
//! deleted. What a claim means stands in [`core::claim`](crate::core::claim). Agents do not know of each other: the
//! ledger keeps them apart. A crash anywhere leaves a message that comes again and, at worst, a claim that somebody takes
//! over when nobody has kept it for the time of its lease; that, and a put without an answer, are the two ways to a second
//! effect, and each is counted.
//!
//! [`work`] knows the messages under way and chooses the next call ([`next`]), [`calls`] performs it, [`answers`] draws the
//! conclusions; only the loop here waits. All of it runs in the simulator (`sim::managed`).

pub mod answers;
pub mod calls;
pub mod circuit;
pub mod item;
pub mod letter;
pub mod next;
pub mod options;
pub mod payload;
pub mod progress;
pub mod work;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

pub use self::options::Options;
use self::{calls::perform, item::Feed, progress::Progress, work::Work};
use super::{pacer::Pacer, payloads::Payloads};
use crate::{
    core::{claim::attempt_within, link::Status, time::Timestamp},
    metrics::LinkMetrics,
    ports::{
        bus::Bus,
        claims::Claims,
        clock::{Clock, Entropy},
        queue::Queue,
    },
};

/// How often gauges are refreshed while something happens.
const GAUGE_INTERVAL: Duration = Duration::from_millis(500);

/// What a link calls.
pub struct Ports {
    /// The home region's queues.
    pub feed: Arc<dyn Queue>,
    pub held: Arc<dyn Queue>,
    pub dead: Arc<dyn Queue>,
    /// The peer's ledger and bus.
    pub claims: Arc<dyn Claims>,
    pub bus: Arc<dyn Bus>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    /// Where payloads are; `None` where events are only events.
    pub payloads: Option<Arc<Payloads>>,
    pub pacer: Arc<Pacer>,
    pub metrics: Arc<LinkMetrics>,
    /// The skips of all links of the region, by reason.
    pub skipped: prometheus::IntCounterVec,
    pub progress: Arc<Progress>,
}

impl Ports {
    fn feed(&self, feed: Feed) -> &dyn Queue {
        match feed {
            Feed::Main => &*self.feed,
            Feed::Held => &*self.held,
        }
    }
}

/// A clock that never steps, whose zero is just before `started`.
pub(super) fn steady(started: Instant) -> Timestamp {
    Timestamp::from_millis(1).plus(started.elapsed())
}

/// Runs a link until `stop`. While `paused` says so nothing is received, what was not begun is given back, and what is on
/// its way goes on.
///
/// When it stops, it brings to an end what is on the bus, gives back the rest at once, and leaves what takes longer than
/// one attempt to the leases and to the queue. It ends at any await without harm: that is a crash.
pub async fn run(mut options: Options, ports: Arc<Ports>, mut paused: watch::Receiver<bool>, stop: CancellationToken) {
    options.attempt_timeout = attempt_within(options.lease, options.attempt_timeout);
    let started = Instant::now();
    let mut calls = FuturesUnordered::new();
    let mut work = Work::new(options.clone(), ports.clone());
    work.paused = *paused.borrow_and_update();
    let mut shown = None;
    let mut gauged_at = Timestamp::ZERO;
    let mut drained_at = None;
    loop {
        let now = steady(started);
        if stop.is_cancelled() && drained_at.is_none() {
            work.draining = true;
            work.give_back(now);
            drained_at = Some(now.plus(options.attempt_timeout + options.call_timeout));
        }
        while let Some(call) = work.next_call(now) {
            calls.push(perform(call, ports.clone(), &options, started, stop.clone()));
        }
        if drained_at.is_some_and(|end| work.is_empty() || now >= end) {
            break;
        }
        show(&work, &mut shown);
        if now >= gauged_at {
            ports.metrics.held.set(work.waiting() as f64);
            ports.progress.works_on(work.oldest());
            let (waiting, since) = work.waiting_for_payload();
            let seconds = since.map_or(0.0, |since| ports.clock.now().since(since).as_secs_f64());
            ports.metrics.objects_waiting.set(waiting as f64);
            ports.metrics.objects_waiting_seconds.set(seconds);
            gauged_at = now.plus(GAUGE_INTERVAL);
        }
        let wake = work.wake_at(now);
        let wake = drained_at.map_or(wake, |end| wake.min(end));
        let wait = wake.since(now).max(Duration::from_millis(1));
        tokio::select! {
            biased;
            () = stop.cancelled(), if drained_at.is_none() => {}
            Some(answer) = calls.next() => work.answered(answer, steady(started)),
            Ok(()) = paused.changed() => {
                work.paused = *paused.borrow_and_update();
                if work.paused {
                    work.give_back(steady(started));
                }
            }
            () = tokio::time::sleep(wait) => {}
        }
    }
    if !work.is_empty() {
        tracing::info!(peer = options.peer, "stopping with messages under way; they come again");
    }
}

fn show(work: &Work, shown: &mut Option<Status>) {
    let status = work.status();
    let metrics = &work.ports.metrics;
    if shown.as_ref() != Some(&status) {
        metrics.set_state(status.as_str());
        tracing::info!(peer = work.options.peer, state = status.as_str(), ?status, "link changed its state");
        *shown = Some(status);
    }
}
