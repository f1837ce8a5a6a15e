//! What a region does with what its peers send: checks, order, counts.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::sync::{Notify, mpsc};

use super::{regions::heard::Heard, repairs::Ended, watch::Watch};
use crate::{
    core::{
        batch::{Answer, Batch, Kind, Outcome, Repaired, Reply},
        event::Record,
        invariant::{Invariant, Violation},
        journal::State,
        position::{Incarnation, Position},
    },
    marks::{self, Mark},
    metrics::Metrics,
    ports::{
        clock::Clock,
        hub::{self, Hub},
        inbox::{Admission, Inbox, Refusal},
        peer::{Hello, RepairRequest},
    },
};

/// How long a batch waits for the one before it, which another connection carries.
const REORDER_WAIT: Duration = Duration::from_millis(250);

/// A number that is waited for. Not a `watch`: that wakes its waiters in an order that tokio draws by chance, and a
/// simulated run could not be repeated.
#[derive(Default)]
pub struct Handed {
    last: AtomicU64,
    moved: Notify,
}

impl Handed {
    /// Raises the offset. A successor may have been here already, if this task was kept waiting since its batch was
    /// queued: to go back behind that would let everything after wait in vain.
    fn raise(&self, to: u64) {
        self.last.fetch_max(to, Ordering::AcqRel);
        self.moved.notify_waiters();
    }

    async fn wait_until(&self, check: impl Fn(u64) -> bool) {
        loop {
            // Made before the look, so that no move in between is missed.
            let moved = self.moved.notified();
            if check(self.last.load(Ordering::Acquire)) {
                return;
            }
            moved.await;
        }
    }
}

pub struct RegionInbox {
    pub cluster: String,
    pub region: String,
    pub hub: Arc<dyn Hub>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<Metrics>,
    pub watch: Arc<Watch>,
    /// By sender: the last offset that was handed to the hub.
    pub handed: BTreeMap<String, Handed>,
    /// By peer: the last repair that it brought to its end.
    pub repaired: BTreeMap<String, Arc<Ended>>,
    pub repairs: mpsc::Sender<RepairRequest>,
    /// By sender: wakes our link to it, which may be waiting out a failure.
    pub heard: BTreeMap<String, Arc<Notify>>,
    /// What the others say of themselves, and that they say anything.
    pub listens: Arc<Heard>,
}

impl RegionInbox {
    fn check_sender(&self, cluster: &str, sender: &str) -> Result<(), Refusal> {
        if cluster != self.cluster {
            return Err(Refusal::Foreign(format!(
                "this is cluster `{}`, region `{}`; `{sender}` belongs to cluster `{cluster}`",
                self.cluster, self.region
            )));
        }
        if !self.handed.contains_key(sender) {
            return Err(Refusal::Foreign(format!("region `{}` has no peer `{sender}` in its file", self.region)));
        }
        Ok(())
    }

    fn check(&self, batch: &Batch) -> Result<(), Refusal> {
        let opening = &batch.opening;
        self.check_sender(&opening.cluster, &opening.sender)?;
        if opening.receiver != self.region {
            let why = format!("a batch for region `{}` arrived at `{}`", opening.receiver, self.region);
            return Err(Refusal::Foreign(why));
        }
        // A repair brings what the sender got from others; everything else is the sender's own, also where it was lost
        // there once and came back.
        let repair = opening.kind == Kind::Repair;
        let suits = |record: &Record| match record.header.is_remote() {
            true => repair || record.came_back_to(&opening.sender),
            false => !repair,
        };
        if let Some(record) = batch.records.iter().find(|record| !suits(record)) {
            let (origin, sender) = (record.origin_region(), &opening.sender);
            let what = format!("{sender} sent an event of {origin:?} in a batch of kind {:?}", opening.kind);
            self.watch.broken(Violation::new(Invariant::NoLoop, what));
            return Err(Refusal::Malformed(format!(
                "event {} of `{}` has the wrong provenance for its batch",
                record.header.offset, opening.sender
            )));
        }
        if let Kind::Stream { from, to } = opening.kind {
            let mut last = from;
            for record in &batch.records {
                if record.header.offset <= last || record.header.offset > to {
                    let why = format!("event {} is out of order in ({from}, {to}]", record.header.offset);
                    return Err(Refusal::Malformed(why));
                }
                last = record.header.offset;
            }
        }
        Ok(())
    }

    /// Waits until the batch before this one was handed to the hub, for a moment.
    async fn wait_for_turn(&self, batch: &Batch) {
        let Kind::Stream { from, .. } = batch.opening.kind else { return };
        let Some(handed) = self.handed.get(&batch.opening.sender) else { return };
        let covered = {
            let state = self.hub.state();
            let state = state.read().unwrap_or_else(PoisonError::into_inner);
            let marks = state.high_waters.get(&batch.opening.sender).map(Vec::as_slice).unwrap_or_default();
            batch.opening.lives.covered(marks, batch.opening.head).max(batch.opening.base)
        };
        if from > covered {
            marks::hit(Mark::ArrivalReordered);
            let _ = tokio::time::timeout(REORDER_WAIT, handed.wait_until(|to| to >= from)).await;
        }
    }

    /// A repair is at its end, if it all came to this log: while two agents answer at one address, a copy and its
    /// original, each of them may have got a part, and this one asks again.
    fn repaired(&self, what: &Repaired, ended: &Ended, reply: &Reply) {
        let is_here = |(incarnation, sequence): &(Incarnation, u64)| {
            reply.lives.contains(&Position { incarnation: *incarnation, sequence: *sequence }, reply.head)
        };
        if what.places.iter().all(is_here) {
            ended.set(what.clone());
        } else {
            marks::hit(Mark::RepairWentElsewhere);
            tracing::warn!(
                "what was asked for came to another agent of this region: a copy of it answers at its address"
            );
        }
    }

    fn count(&self, records: &[Record], reply: &Reply, sender: &str, kind: &Kind) {
        let Answer::Applied(outcomes) = &reply.answer else { return };
        if *kind == Kind::Shadow {
            return;
        }
        let (mut applied, mut duplicates, mut conflicts) = (0, 0, 0);
        let has_come = |(record, outcome): &(&Record, &Outcome)| {
            matches!(outcome, Outcome::Delivered | Outcome::Duplicate) && !record.header.is_remote()
        };
        let came = records.iter().zip(outcomes).filter(has_come).map(|(record, _)| record.header.accepted).max();
        if let (Some(accepted), Kind::Stream { .. }) = (came, kind) {
            self.listens.came(sender, accepted);
        }
        for (record, outcome) in records.iter().zip(outcomes) {
            match outcome {
                Outcome::Delivered if record.header.is_reserved() => {
                    if record.detail_type() == super::heartbeat::DETAIL_TYPE {
                        let received = self.metrics.heartbeat_received.with_label_values(&[sender]);
                        received.set(reply.replied.as_secs_f64());
                    }
                }
                Outcome::Delivered => match record.origin_region() {
                    Some(origin) => self.metrics.applied.with_label_values(&[origin]).inc(),
                    None => applied += 1,
                },
                Outcome::Duplicate => duplicates += 1,
                Outcome::Rejected(_) => {
                    conflicts += 1;
                    let (key, trace) = (record.key(), record.trace_id());
                    tracing::warn!(
                        sender,
                        key,
                        trace,
                        "an event is refused: its key is known here with another payload"
                    );
                }
                Outcome::Retry { .. } => {}
            }
        }
        self.metrics.applied.with_label_values(&[sender]).inc_by(applied);
        self.metrics.suppressed.with_label_values(&[sender, "duplicate"]).inc_by(duplicates);
        self.metrics.suppressed.with_label_values(&[sender, "conflict"]).inc_by(conflicts);
    }
}

impl Inbox for RegionInbox {
    fn admit<'a>(&'a self, cluster: &'a str, asker: &'a str) -> BoxFuture<'a, Result<Admission, Refusal>> {
        async move { self.check_sender(cluster, asker).map(|()| Admission::default()) }.boxed()
    }

    fn deliver(&self, batch: Batch) -> BoxFuture<'_, Result<Reply, Refusal>> {
        async move {
            let received = self.clock.now();
            self.check(&batch)?;
            if let Some(heard) = self.heard.get(&batch.opening.sender) {
                heard.notify_one();
            }
            self.wait_for_turn(&batch).await;
            let sender = batch.opening.sender.clone();
            let kind = batch.opening.kind.clone();
            self.listens.alive(&sender);
            self.listens.head(&sender, batch.opening.head);
            let records = batch.records.clone();
            let mut applying = self.hub.apply(batch);
            // The first poll puts the batch into the hub's queue; from then on its successor may follow.
            let early = futures::poll!(&mut applying);
            if let (Kind::Stream { to, .. }, Some(handed)) = (&kind, self.handed.get(&sender)) {
                handed.raise(*to);
            }
            let result = match early {
                std::task::Poll::Ready(result) => result,
                std::task::Poll::Pending => applying.await,
            };
            let mut reply = result.map_err(|error| unavailable(&error))?;
            reply.received = received;
            reply.replied = self.clock.now();
            self.count(&records, &reply, &sender, &kind);
            if let (Kind::Repaired(what), Some(ended)) = (&kind, self.repaired.get(&sender)) {
                self.repaired(what, ended, &reply);
            }
            Ok(reply)
        }
        .boxed()
    }

    fn hello<'a>(&'a self, asker: &'a str) -> BoxFuture<'a, Result<Hello, Refusal>> {
        async move {
            let (high_waters, strays) = read_state(&*self.hub, |state| state.held_of(asker));
            let (cluster, region) = (self.cluster.clone(), self.region.clone());
            Ok(Hello { cluster, region, high_waters, now: self.clock.now(), strays })
        }
        .boxed()
    }

    fn request_repair(&self, request: RepairRequest) -> BoxFuture<'_, Result<(), Refusal>> {
        async move {
            self.check_sender(&request.cluster, &request.asker)?;
            marks::hit(Mark::RepairAsked);
            self.repairs.try_send(request).map_err(|_| Refusal::Unavailable {
                why: "a repair is under way".to_owned(),
                retry_after: Duration::from_secs(5),
            })
        }
        .boxed()
    }
}

fn unavailable(error: &hub::Error) -> Refusal {
    Refusal::Unavailable { why: error.to_string(), retry_after: error.retry_after() }
}

/// Read access to a hub's state.
pub fn read_state<T>(hub: &dyn Hub, read: impl FnOnce(&State) -> T) -> T {
    let state = hub.state();
    let state = state.read().unwrap_or_else(PoisonError::into_inner);
    read(&state)
}
