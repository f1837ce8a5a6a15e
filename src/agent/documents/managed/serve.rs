//! What is asked of the documents of a region: by services and operators, by peers, and by what keeps regions alike.

use std::{collections::BTreeMap, sync::PoisonError};

use futures::{FutureExt, future::BoxFuture};

use super::{ManagedDocuments, edit::Edit, later, store};
use crate::{
    agent::documents::{
        events::Asked,
        home::{Chore, From, Home, Tombstone, Tombstones},
    },
    core::{
        state::{
            Key, Schemas,
            document::Document,
            op::{Op, Refused},
            standing::Slept,
            view::View,
        },
        time::Timestamp,
    },
    marks::{self, Mark},
    planted::{self, Bug},
    ports::documents::{Answer, Applied, Documents, Error, Met, Page, Question, Seen, Total},
};

impl Documents for ManagedDocuments {
    fn schemas(&self) -> &Schemas {
        &self.0.schemas
    }

    fn get(&self, key: Key) -> BoxFuture<'_, Result<Option<View>, Error>> {
        async move {
            self.0.serving().await?;
            let held = self.0.store.look(std::slice::from_ref(&key)).await.map_err(|failure| later(&failure))?;
            let schema = self.0.schemas.get(&key.of);
            Ok(held.first().zip(schema).and_then(|(held, schema)| held.document.view(&key, schema)))
        }
        .boxed()
    }

    fn apply(&self, key: Key, ops: Vec<Op>, request: Option<String>) -> BoxFuture<'_, Result<Applied, Error>> {
        async move { Ok(self.0.asked(&key, &Asked::Ops(ops), request.as_deref()).await?.0) }.boxed()
    }

    /// Without a second look at the table.
    fn apply_and_show(&self, key: Key, ops: Vec<Op>, request: Option<String>) -> BoxFuture<'_, Result<Seen, Error>> {
        async move {
            let (applied, document) = self.0.asked(&key, &Asked::Ops(ops), request.as_deref()).await?;
            let view = self.0.schemas.get(&key.of).and_then(|schema| document.view(&key, schema));
            Ok((applied, Ok(view)))
        }
        .boxed()
    }

    fn delete(&self, key: Key, request: Option<String>) -> BoxFuture<'_, Result<Applied, Error>> {
        async move { Ok(self.0.asked(&key, &Asked::Delete, request.as_deref()).await?.0) }.boxed()
    }

    fn total(&self) -> BoxFuture<'_, Result<Total, Error>> {
        async {
            let groups = self.0.store.groups().await.map_err(|failure| later(&failure))?;
            let documents = groups.iter().flat_map(|group| group.documents.values()).sum();
            Ok(Total { documents, digest: store::digest(&groups) })
        }
        .boxed()
    }

    fn list(&self, after: Option<Key>) -> BoxFuture<'_, Result<Page, Error>> {
        async move { self.0.store.list(after.as_ref()).await.map_err(|failure| later(&failure)) }.boxed()
    }

    fn counts(&self) -> BTreeMap<String, u64> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn answer(&self, question: Question) -> BoxFuture<'_, Result<Answer, Error>> {
        async move {
            let answer = self.0.store.answer(question).await.map_err(|failure| later(&failure))?;
            answer.ok_or_else(|| Error::Refused(Refused::Malformed("no such range".to_owned())))
        }
        .boxed()
    }
}

impl Home for ManagedDocuments {
    fn merge(&self, from: From, documents: Vec<(Key, Document)>) -> BoxFuture<'_, Result<usize, Error>> {
        async move {
            let mut changed = 0;
            for (key, document) in documents {
                let edited =
                    self.0.edit(&key, Edit::Whole(&document, &from)).await.map_err(|failure| later(&failure))?;
                changed += usize::from(edited.changed);
            }
            Ok(changed)
        }
        .boxed()
    }

    fn meet(&self, met: Option<(String, Met)>) -> BoxFuture<'_, Result<Met, Error>> {
        async move { self.0.meet(met).await.map_err(|failure| later(&failure)) }.boxed()
    }

    fn wakes(&self, heard: Option<(String, Option<Slept>)>) -> BoxFuture<'_, Result<bool, Error>> {
        async move { self.0.hear_of_sleep(heard).await.map_err(|failure| later(&failure)) }.boxed()
    }

    fn equal(&self, peer: String) -> BoxFuture<'_, Result<(), Error>> {
        async move { self.0.equal(&peer).await.map_err(|failure| later(&failure)) }.boxed()
    }

    /// What waits for something is in the queue, and fetched by whoever receives it.
    fn wanted(&self, _: String) -> BoxFuture<'_, Result<Vec<Key>, Error>> {
        std::future::ready(Ok(Vec::new())).boxed()
    }

    fn tombstones(&self, after: Option<Key>, before: Timestamp) -> BoxFuture<'_, Result<Tombstones, Error>> {
        async move {
            let found = self.0.store.tombstones(after.as_ref(), before).await;
            let (tombstones, next) = found.map_err(|failure| later(&failure))?;
            let tombstones = tombstones.into_iter().map(|(key, document)| (key, document.clock().clone()));
            Ok((tombstones.collect(), next))
        }
        .boxed()
    }

    fn forget(&self, tombstones: Vec<Tombstone>) -> BoxFuture<'_, Result<usize, Error>> {
        async move {
            let mut forgotten = 0;
            for (key, clock) in tombstones {
                let gone = self.0.edit(&key, Edit::Forget(&clock)).await.map_err(|failure| later(&failure))?;
                if gone.changed {
                    marks::hit(Mark::TombstoneForgotten);
                }
                forgotten += usize::from(gone.changed);
            }
            Ok(forgotten)
        }
        .boxed()
    }

    fn is_our_turn<'a>(&'a self, chore: Chore<'a>) -> BoxFuture<'a, bool> {
        let (what, interval) = match chore {
            Chore::Compare(peer) => (format!("documents/compare/{peer}"), self.0.options.compare),
            Chore::Collect => ("documents/collect".to_owned(), self.0.options.collect),
        };
        let is_left_out = planted::is(Bug::NeverCompared) && matches!(chore, Chore::Compare(_));
        async move { !is_left_out && self.0.shared_turns.is_ours(&what, interval).await }.boxed()
    }
}
