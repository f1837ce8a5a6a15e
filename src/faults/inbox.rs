//! What comes in, spoiled.

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};

use super::{CrashHook, Direction, Fault, Faults, Kind};
use crate::{
    core::batch::{Batch, Reply},
    ports::{
        inbox::{Admission, Inbox, Refusal},
        peer::{Hello, RepairRequest},
    },
};

pub struct FaultyInbox {
    inner: Arc<dyn Inbox>,
    faults: Arc<Faults>,
    crash: CrashHook,
}

impl FaultyInbox {
    pub fn new(inner: Arc<dyn Inbox>, faults: Arc<Faults>, crash: CrashHook) -> Self {
        Self { inner, faults, crash }
    }

    async fn before(&self, hits: &[Fault]) -> Result<(), Refusal> {
        for fault in hits {
            match fault.kind {
                Kind::Partition | Kind::Drop => return Err(Refusal::CutOff),
                Kind::Error | Kind::Throttle => {
                    let why = format!("injected {}", fault.kind);
                    return Err(Refusal::Unavailable { why, retry_after: fault.delay() });
                }
                Kind::Delay => tokio::time::sleep(fault.delay()).await,
                Kind::Reorder => tokio::time::sleep(self.faults.part_of(fault.delay())).await,
                Kind::Crash => (self.crash)(),
                Kind::Duplicate | Kind::TimeoutAfterSuccess | Kind::ClockSkew => {}
            }
        }
        Ok(())
    }

    fn after<T>(hits: &[Fault], result: Result<T, Refusal>) -> Result<T, Refusal> {
        match hits.iter().any(|fault| fault.kind == Kind::TimeoutAfterSuccess) {
            true => result.and(Err(Refusal::CutOff)),
            false => result,
        }
    }
}

impl Inbox for FaultyInbox {
    fn admit<'a>(&'a self, cluster: &'a str, asker: &'a str) -> BoxFuture<'a, Result<Admission, Refusal>> {
        async move {
            let hits = self.faults.draw(asker, Direction::In);
            self.before(&hits).await?;
            let mut admission = self.inner.admit(cluster, asker).await?;
            admission.answer_lost |= hits.iter().any(|fault| fault.kind == Kind::TimeoutAfterSuccess);
            let (faults, asker) = (self.faults.clone(), asker.to_owned());
            admission.cut = Some(Arc::new(move || faults.is_cut(&asker, Direction::In)));
            Ok(admission)
        }
        .boxed()
    }

    fn deliver(&self, batch: Batch) -> BoxFuture<'_, Result<Reply, Refusal>> {
        async move {
            let hits = self.faults.draw(&batch.opening.sender, Direction::In);
            self.before(&hits).await?;
            if hits.iter().any(|fault| fault.kind == Kind::Duplicate) {
                let _ = self.inner.deliver(batch.clone()).await;
            }
            Self::after(&hits, self.inner.deliver(batch).await)
        }
        .boxed()
    }

    fn hello<'a>(&'a self, asker: &'a str) -> BoxFuture<'a, Result<Hello, Refusal>> {
        async move {
            let hits = self.faults.draw(asker, Direction::In);
            self.before(&hits).await?;
            Self::after(&hits, self.inner.hello(asker).await)
        }
        .boxed()
    }

    fn request_repair(&self, request: RepairRequest) -> BoxFuture<'_, Result<(), Refusal>> {
        async move {
            let hits = self.faults.draw(&request.asker, Direction::In);
            self.before(&hits).await?;
            Self::after(&hits, self.inner.request_repair(request).await)
        }
        .boxed()
    }
}
