//! What goes out, spoiled.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};

use super::{CrashHook, Direction, Fault, Faults, Kind};
use crate::{
    core::{
        batch::{Batch, Reply},
        link::Failure,
    },
    ports::peer::{Hello, Peer, RepairRequest},
};

/// The way to a peer, as faults on order have it.
pub(super) struct Way {
    name: String,
    faults: Arc<Faults>,
    crash: CrashHook,
}

impl Way {
    pub(super) fn new(name: &str, faults: Arc<Faults>, crash: CrashHook) -> Self {
        Self { name: name.to_owned(), faults, crash }
    }

    pub(super) fn draw(&self) -> Vec<Fault> {
        self.faults.draw(&self.name, Direction::Out)
    }

    /// Says whether what is under way is cut by now.
    pub(super) fn cut(&self) -> impl Fn() -> bool + Send + use<> {
        let (faults, name) = (self.faults.clone(), self.name.clone());
        move || faults.is_cut(&name, Direction::Out)
    }

    /// What hits before the call is made.
    pub(super) async fn before(&self, hits: &[Fault]) -> Result<(), Failure> {
        for fault in hits {
            let injected = || Err(Failure::Unanswered(format!("injected {}", fault.kind)));
            match fault.kind {
                Kind::Partition | Kind::Drop | Kind::Error => return injected(),
                Kind::Throttle => return Err(Failure::Throttled { after: fault.delay() }),
                Kind::Delay => tokio::time::sleep(fault.delay()).await,
                Kind::Reorder => tokio::time::sleep(self.faults.part_of(fault.delay())).await,
                Kind::Crash => (self.crash)(),
                Kind::Duplicate | Kind::TimeoutAfterSuccess | Kind::ClockSkew => {}
            }
        }
        Ok(())
    }

    /// What hits after it.
    pub(super) fn after<T, E: From<Failure>>(hits: &[Fault], result: Result<T, E>) -> Result<T, E> {
        match hits.iter().any(|fault| fault.kind == Kind::TimeoutAfterSuccess) {
            true => result.and(Err(Failure::Unanswered("injected timeout-after-success".to_owned()).into())),
            false => result,
        }
    }
}

pub struct FaultyPeer {
    inner: Arc<dyn Peer>,
    way: Way,
}

impl FaultyPeer {
    pub fn new(inner: Arc<dyn Peer>, name: &str, faults: Arc<Faults>, crash: CrashHook) -> Self {
        Self { inner, way: Way::new(name, faults, crash) }
    }
}

impl Peer for FaultyPeer {
    fn deliver(&self, batch: Batch) -> BoxFuture<'_, Result<Reply, Failure>> {
        async move {
            let hits = self.way.draw();
            self.way.before(&hits).await?;
            let twice = hits.iter().any(|fault| fault.kind == Kind::Duplicate).then(|| batch.clone());
            let reply = self.inner.deliver(batch).await;
            if let Some(again) = twice {
                // Its answer is the one that nobody waits for.
                let _ = tokio::time::timeout(Duration::from_secs(10), self.inner.deliver(again)).await;
            }
            Way::after(&hits, reply)
        }
        .boxed()
    }

    fn hello(&self) -> BoxFuture<'_, Result<Hello, Failure>> {
        async move {
            let hits = self.way.draw();
            self.way.before(&hits).await?;
            Way::after(&hits, self.inner.hello().await)
        }
        .boxed()
    }

    fn request_repair(&self, request: RepairRequest) -> BoxFuture<'_, Result<(), Failure>> {
        async move {
            let hits = self.way.draw();
            self.way.before(&hits).await?;
            Way::after(&hits, self.inner.request_repair(request).await)
        }
        .boxed()
    }
}
