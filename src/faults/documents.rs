//! Questions to a peer about documents, spoiled. What comes in is [`super::inbox::FaultyInbox`]'s to spoil.

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};

use super::{CrashHook, Faults, peer::Way};
use crate::{
    core::link::Failure,
    ports::documents::{Answer, Question, RemoteDocuments},
};

pub struct FaultyDocuments {
    inner: Arc<dyn RemoteDocuments>,
    way: Way,
}

impl FaultyDocuments {
    pub fn new(inner: Arc<dyn RemoteDocuments>, name: &str, faults: Arc<Faults>, crash: CrashHook) -> Self {
        Self { inner, way: Way::new(name, faults, crash) }
    }
}

impl RemoteDocuments for FaultyDocuments {
    fn ask(&self, question: Question) -> BoxFuture<'_, Result<Answer, Failure>> {
        async move {
            let hits = self.way.draw();
            self.way.before(&hits).await?;
            Way::after(&hits, self.inner.ask(question).await)
        }
        .boxed()
    }
}
