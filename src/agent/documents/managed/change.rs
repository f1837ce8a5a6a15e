//! Changing documents by what others did: read, merged, and written on the condition that nobody else did meanwhile.

use std::collections::BTreeSet;

use super::{
    Inner, MERGES_MAX,
    edit::{Edit, Edited},
    standing::{self, Aside},
    store::Held,
};
use crate::{
    agent::documents::events,
    core::{
        link::Failure,
        state::{
            Key,
            document::{Conflict, Document},
        },
    },
    marks::{self, Mark},
    planted::{self, Bug},
    ports::items::{CHANGES_MAX, ITEM_BYTES_MAX, WRITE_BYTES_MAX},
};

/// What tries to change documents have done so far.
#[derive(Default)]
pub struct Tried {
    /// Keys of conflicts that were told.
    told: BTreeSet<String>,
    /// What was set aside, if a write of which there was no answer took effect.
    given_up: Option<Document>,
}

impl Inner {
    /// Puts conflicts into the feed, before anything that depends on them is written.
    async fn tell(&self, key: &Key, conflicts: &[Conflict], told: &mut BTreeSet<String>) -> Result<(), Failure> {
        for conflict in conflicts.iter().filter(|_| !planted::is(Bug::ConflictUntold)) {
            let draft = events::of_conflict(key, conflict);
            let name = draft.key.clone().unwrap_or_default();
            if told.contains(&name) {
                continue;
            }
            self.put(draft).await.map_err(|why| Failure::Unanswered(format!("a conflict cannot be told: {why}")))?;
            let resolution = events::resolution(conflict.kind);
            self.metrics.state.conflicts.with_label_values(&[&key.of, &conflict.slot.field, resolution]).inc();
            tracing::debug!(document = %key, field = %conflict.slot, resolution, "two regions wrote at once");
            told.insert(name);
        }
        Ok(())
    }

    /// Changes a document.
    pub(super) async fn edit(&self, key: &Key, edit: Edit<'_>) -> Result<Edited, Failure> {
        let _turn = self.turn([key]).await;
        let mut tried = Tried::default();
        for attempt in 0..MERGES_MAX {
            self.pause(attempt).await;
            if let Some(mut edited) = self.try_edit(&[(key, edit)], &mut tried).await? {
                let mut edited = edited.pop().ok_or_else(|| Failure::Unanswered("no answer for it".to_owned()))?;
                // A write without an answer may have taken effect.
                edited.given_up = edited.given_up.or(tried.given_up);
                return Ok(edited);
            }
        }
        Err(Failure::Unanswered(format!("others change document {key} all the time")))
    }

    /// Changes several documents together. `None` if that did not work out; a second time what was done is not done again.
    pub(super) async fn try_edit(
        &self,
        edits: &[(&Key, Edit<'_>)],
        tried: &mut Tried,
    ) -> Result<Option<Vec<Edited>>, Failure> {
        let keys: Vec<Key> = edits.iter().map(|(key, _)| (*key).clone()).collect();
        let loaded = self.store.load(&keys).await?;
        let mut all = Vec::with_capacity(edits.len());
        let mut changed = Vec::new();
        for (key, edit) in edits {
            let Held { mut document, .. } = loaded.get(key).cloned().unwrap_or_default();
            let edited = edit.perform(&mut document, &loaded.terms(key));
            if edited.changed {
                self.trim(key, &mut document);
                changed.push(((*key).clone(), document));
            }
            all.push(edited);
        }
        if changed.is_empty() {
            return Ok(Some(all));
        }
        let is_one = edits.len() == 1;
        let (mut changes, bytes) = match loaded.changes(changed, ITEM_BYTES_MAX) {
            Ok(changes) => changes,
            Err(_) if !is_one => return Ok(None),
            Err(error) => {
                let document = keys.first().map(Key::to_string).unwrap_or_default();
                tracing::error!(
                    document,
                    %error,
                    "what other regions wrote does not fit into this document: it waits until something is removed"
                );
                self.metrics.state.too_large.inc();
                return Err(Failure::Refused(format!("document {document}: {error}")));
            }
        };
        if !is_one && (bytes > WRITE_BYTES_MAX || changes.len() > CHANGES_MAX) {
            return Ok(None);
        }
        for (key, edited) in keys.iter().zip(&all) {
            self.tell(key, &edited.conflicts, &mut tried.told).await?;
        }
        for (key, edited) in keys.iter().zip(&all) {
            if let Some(document) = &edited.given_up {
                let (at, term) = (self.clock.now(), self.kept().standing.term(&self.region));
                changes.push(standing::set_aside(&Aside { term, at, key: key.clone() }, document));
            }
        }
        match self.store.write(changes).await {
            Ok(true) => {
                if !is_one {
                    marks::hit(Mark::ItemsTogether);
                }
                for (key, edited) in keys.iter().zip(&all) {
                    self.metrics.state.merges.with_label_values(&[&key.of]).inc_by(edited.merged);
                }
                Ok(Some(all))
            }
            Ok(false) => {
                marks::hit(Mark::ItemMergeConflict);
                self.metrics.state.write_conflicts.inc();
                Ok(None)
            }
            Err(Failure::Unanswered(_)) => {
                tried.given_up = all.into_iter().find_map(|edited| edited.given_up);
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }
}
