//! What comes from the queue: deltas of other regions, and operations that services of this one published.

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;

use super::{
    Inner,
    change::Tried,
    edit::{Came, Edit},
};
use crate::{
    agent::{
        documents::{
            events::{self, Asked, DELTA, OPERATION},
            home::From,
        },
        rounds::within,
    },
    core::{
        envelope::{self, Provenance},
        link::Failure,
        state::{Key, document::Document},
    },
    marks::{self, Mark},
    ports::{
        documents::{Answer, Error, Question},
        queue::{self, Message},
    },
};

/// Of a call to the queue.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// SQS's longest: the fewest idle polls.
const POLL: Duration = Duration::from_secs(20);

/// Longer than a round takes.
const VISIBILITY: Duration = Duration::from_secs(60);

/// How soon a delta comes again that came before what it stands on; most are only overtaken.
const SOON: Duration = Duration::from_secs(2);

/// How soon what could not be done comes again.
const LATER: Duration = Duration::from_secs(15);

/// A delta that did not fit comes again after this.
const MUCH_LATER: Duration = Duration::from_secs(600);

/// What is to be done with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Delete,
    /// Come again after this.
    Again(Duration),
}

/// A message, as far as it is about documents.
enum Said {
    Delta { key: Key, came: Box<Came> },
    Operation { key: Key, asked: Asked, request: String },
}

impl Inner {
    /// Takes some messages in; answers how many there were.
    pub(super) async fn round(&self) -> Result<usize, Failure> {
        self.opened().await?;
        let receive = self.queue.receive(queue::CALL_MESSAGES_MAX, POLL, VISIBILITY);
        let messages = within(POLL + CALL_TIMEOUT, receive).await?;
        let mut next = vec![Next::Delete; messages.len()];
        let mut deltas: BTreeMap<Key, Vec<(usize, Came)>> = BTreeMap::new();
        let mut operations = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            match self.read(message) {
                Some(Said::Delta { key, came }) => deltas.entry(key).or_default().push((index, *came)),
                Some(Said::Operation { key, asked, request }) => operations.push((index, key, asked, request)),
                None => {}
            }
        }
        let done = operations
            .iter()
            .map(async |(index, key, asked, request)| (*index, self.operate(key, asked, request).await));
        for (index, then) in join_all(done).await {
            next[index] = then;
        }
        self.merge_deltas(&deltas, &messages, &mut next).await;
        let receipts = |wanted: Next| {
            let chosen = messages.iter().zip(&next).filter(|(_, next)| **next == wanted);
            chosen.map(|(message, _)| message.receipt.clone()).collect::<Vec<_>>()
        };
        let delete = receipts(Next::Delete);
        if !delete.is_empty() {
            // What is not deleted comes again and changes nothing then.
            within(CALL_TIMEOUT, self.queue.delete(delete)).await?;
        }
        for after in [SOON, LATER, MUCH_LATER] {
            let again = receipts(Next::Again(after));
            if !again.is_empty() {
                within(CALL_TIMEOUT, self.queue.extend(again, after)).await?;
            }
        }
        Ok(messages.len())
    }

    fn read(&self, message: &Message) -> Option<Said> {
        let event = match envelope::Event::read(&message.body, &self.region, &self.ingress) {
            Ok(event) => event,
            Err(error) => {
                self.unreadable(&message.id, &error.to_string());
                return None;
            }
        };
        let said = match (&event.provenance, event.is_reserved(), event.detail_type.as_str()) {
            (Provenance::Stamped { origin, .. }, true, DELTA) => match events::delta(&event.detail) {
                events::Event::Delta(key, delta, term) => {
                    let from = From { peer: origin.clone(), term };
                    Ok(Said::Delta { key, came: Box::new(Came { delta: *delta, from }) })
                }
                events::Event::Unreadable(why) => Err(why),
                _ => return None,
            },
            (Provenance::Local | Provenance::Stripped, false, OPERATION) => {
                match events::operation(&event.detail, event.key_hash, &self.schemas) {
                    events::Event::Operation { key, asked, request } => Ok(Said::Operation { key, asked, request }),
                    events::Event::Unreadable(why) => Err(why),
                    _ => return None,
                }
            }
            // A service copied a stamp, and the audit passed it on to every queue.
            _ => return None,
        };
        said.map_err(|why| self.unreadable(&event.key, &why)).ok()
    }

    fn unreadable(&self, key: &str, why: &str) {
        tracing::error!(region = self.region, key, why, "an event of the documents cannot be read; it is left out");
        self.metrics.state.unreadable.inc();
    }

    async fn operate(&self, key: &Key, asked: &Asked, request: &str) -> Next {
        match self.change(key, asked, Some(request)).await {
            Ok(_) => {
                marks::hit(Mark::OperationDone);
                Next::Delete
            }
            Err(Error::Refused(refused)) => {
                tracing::warn!(document = %key, %refused, request, "a published operation is refused");
                self.metrics.state.unreadable.inc();
                Next::Delete
            }
            Err(error) => {
                marks::hit(Mark::OperationWaits);
                tracing::debug!(document = %key, %error, "a published operation waits");
                Next::Again(LATER)
            }
        }
    }

    /// Merges the deltas of several documents, together if nobody stands in the way.
    async fn merge_deltas(&self, deltas: &BTreeMap<Key, Vec<(usize, Came)>>, messages: &[Message], next: &mut [Next]) {
        let oldest = self.clock.now().minus(self.options.horizon);
        let fresh = |deltas: &[(usize, Came)]| -> Vec<Came> {
            deltas.iter().map(|(_, came)| came).filter(|came| came.delta.at >= oldest).cloned().collect()
        };
        let fresh: Vec<(&Key, Vec<Came>)> = deltas.iter().map(|(key, deltas)| (key, fresh(deltas))).collect();
        let edits: Vec<(&Key, Edit<'_>)> = fresh.iter().map(|(key, deltas)| (*key, Edit::Deltas(deltas))).collect();
        let mut together = None;
        if edits.len() > 1 {
            let _turn = self.turn(deltas.keys()).await;
            together = self.try_edit(&edits, &mut Tried::default()).await.unwrap_or_default();
        }
        let mut results = Vec::with_capacity(edits.len());
        match together {
            Some(all) => results.extend(all.into_iter().map(Ok)),
            None => {
                for (key, edit) in &edits {
                    results.push(self.edit(key, *edit).await);
                }
            }
        }
        for ((key, deltas), result) in deltas.iter().zip(results) {
            for (index, Came { delta, from }) in deltas {
                next[*index] = match &result {
                    Err(Failure::Refused(_)) => Next::Again(MUCH_LATER),
                    Err(failure) => {
                        marks::hit(Mark::DeltaWaits);
                        tracing::debug!(document = %key, %failure, "a delta waits");
                        Next::Again(LATER)
                    }
                    Ok(_) if delta.at < oldest => {
                        // A delete that it would undo may be forgotten; whoever has the document tells.
                        let written = delta.at.to_rfc3339();
                        marks::hit(Mark::DeltaExpired);
                        tracing::warn!(document = %key, written, "a delta is too old to be merged");
                        self.metrics.state.too_old.inc();
                        self.fetch(key, &from.peer).await
                    }
                    Ok(edited) if edited.left_out.contains(&delta.dot()) => {
                        let From { peer, term } = from;
                        marks::hit(Mark::DeltaRefused);
                        tracing::info!(document = %key, origin = peer, term, "a delta of an evicted region is not merged");
                        self.metrics.state.left_out.with_label_values(&[peer]).inc();
                        Next::Delete
                    }
                    Ok(edited) if !edited.waiting.contains(&delta.dot()) => Next::Delete,
                    Ok(_) if messages.get(*index).is_some_and(|message| message.received < 2) => {
                        marks::hit(Mark::DeltaEarly);
                        Next::Again(SOON)
                    }
                    Ok(_) => {
                        marks::hit(Mark::DeltaFetched);
                        self.fetch(key, &from.peer).await
                    }
                };
            }
        }
    }

    /// Takes the document as its writer has it, or another region.
    async fn fetch(&self, key: &Key, origin: &str) -> Next {
        let first = self.peers.get_key_value(origin);
        let others = self.peers.iter().filter(|(peer, _)| *peer != origin);
        for (peer, remote) in first.into_iter().chain(others) {
            let Some(from) = self.source(peer, &**remote).await else { continue };
            let Ok(Answer::Wholes(wholes)) = remote.ask(Question::Wholes(vec![key.clone()])).await else { continue };
            let Some(whole) = wholes.into_iter().next() else { continue };
            // Nobody has it any more.
            let Some(whole) = whole else { return Next::Delete };
            match Document::decode(&whole) {
                Ok(document) => match self.edit(key, Edit::Whole(&document, &from)).await {
                    Ok(edited) if edited.is_refused => {}
                    Ok(_) => return Next::Delete,
                    Err(failure) => tracing::debug!(document = %key, %failure, "a document that was fetched waits"),
                },
                Err(error) => tracing::warn!(document = %key, %error, "a peer's document cannot be read"),
            }
        }
        Next::Again(LATER)
    }
}
