//! A receiver that cannot take some events yet, as one does whose payload is missing: it answers `Retry` for these and
//! takes the rest.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures::{FutureExt, future::BoxFuture};

use super::{
    chance::{Chance, SharedChance},
    trace::{Fault, SharedTrace},
};
use crate::{
    core::batch::{Answer, Batch, Kind, Outcome, Reply},
    ports::{
        inbox::{Inbox, Refusal},
        peer::{Hello, RepairRequest},
    },
};

/// How many of a thousand events a node holds back; shared by all of its lives.
#[derive(Clone, Default)]
pub struct Share(Arc<AtomicU64>);

impl Share {
    pub fn set(&self, per_mille: u64) {
        self.0.store(per_mille, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

pub struct HoldingInbox {
    inner: Arc<dyn Inbox>,
    share: Share,
    chance: SharedChance,
    trace: SharedTrace,
}

impl HoldingInbox {
    pub fn new(inner: Arc<dyn Inbox>, share: Share, chance: Chance, trace: SharedTrace) -> Self {
        Self { inner, share, chance: SharedChance::new(chance), trace }
    }

    /// Takes events out of the batch; answers which, and how long each is to wait.
    fn take_out(&self, batch: &mut Batch) -> Vec<Option<u32>> {
        let mut chance = self.chance.lock();
        let share = self.share.get();
        let may = matches!(batch.opening.kind, Kind::Stream { .. } | Kind::Redrive);
        let waits: Vec<Option<u32>> = batch
            .records
            .iter()
            .map(|record| {
                let hit = may && !record.header.is_reserved() && chance.below(1_000) < share;
                hit.then(|| chance.between(20, 3_000) as u32)
            })
            .collect();
        // As a hub that answers so by itself must: what it did not take is durable with the high-water that passes it.
        let held = batch.records.iter().zip(&waits).filter(|(_, wait)| wait.is_some());
        batch.opening.held.extend(held.map(|(record, _)| record.header.offset));
        let mut kept = waits.iter().map(Option::is_none);
        batch.records.retain(|_| kept.next().unwrap_or(true));
        waits
    }
}

impl Inbox for HoldingInbox {
    fn deliver(&self, mut batch: Batch) -> BoxFuture<'_, Result<Reply, Refusal>> {
        async move {
            if self.share.get() == 0 {
                return self.inner.deliver(batch).await;
            }
            let waits = self.take_out(&mut batch);
            let mut reply = self.inner.deliver(batch).await?;
            if let Answer::Applied(outcomes) = &mut reply.answer {
                let mut taken = std::mem::take(outcomes).into_iter();
                let merged = waits.iter().filter_map(|wait| match wait {
                    Some(after_millis) => {
                        self.trace.lock().fault(Fault::Hold);
                        Some(Outcome::Retry { after_millis: *after_millis })
                    }
                    None => taken.next(),
                });
                *outcomes = merged.collect();
            }
            Ok(reply)
        }
        .boxed()
    }

    fn hello<'a>(&'a self, asker: &'a str) -> BoxFuture<'a, Result<Hello, Refusal>> {
        self.inner.hello(asker)
    }

    fn request_repair(&self, request: RepairRequest) -> BoxFuture<'_, Result<(), Refusal>> {
        self.inner.request_repair(request)
    }
}
