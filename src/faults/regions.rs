//! Questions to a peer about who serves users, spoiled. What comes in is [`super::inbox::FaultyInbox`]'s to spoil.

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};

use super::{CrashHook, Faults, peer::Way};
use crate::{
    core::link::Failure,
    ports::regions::{Answer, Question, RemoteRegion},
};

pub struct FaultyRegion {
    inner: Arc<dyn RemoteRegion>,
    way: Way,
}

impl FaultyRegion {
    pub fn new(inner: Arc<dyn RemoteRegion>, name: &str, faults: Arc<Faults>, crash: CrashHook) -> Self {
        Self { inner, way: Way::new(name, faults, crash) }
    }
}

impl RemoteRegion for FaultyRegion {
    fn ask(&self, question: Question) -> BoxFuture<'_, Result<Answer, Failure>> {
        async move {
            let hits = self.way.draw();
            self.way.before(&hits).await?;
            Way::after(&hits, self.inner.ask(question).await)
        }
        .boxed()
    }

    fn is_alive(&self) -> bool {
        self.inner.is_alive()
    }

    fn needs_agents(&self) -> bool {
        self.inner.needs_agents()
    }
}
