//! Where the log of a region that does not serve any more ends.

use std::{sync::PoisonError, time::Duration};

use tokio::time::sleep;

use super::{super::documents::LocalDocuments, Regions};
use crate::{
    core::region::State,
    ports::{
        documents::Documents,
        hub::{self, Hub},
    },
};

/// How long it is waited for documents to do what events asked for, and how often it is looked.
const HEARING_LOOKS: u32 = 50;
const HEARING_LOOK: Duration = Duration::from_millis(10);

impl Regions {
    pub(super) fn closed(&self) -> Option<u64> {
        let view = self.view();
        // It may serve although it was told not to, where too few would be left: then its log goes on.
        if view.state(&self.home, &self.members) == State::Active {
            return None;
        }
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        closed.filter(|(of, _)| *of == view.ballot_of(&self.home)).map(|(_, head)| head)
    }

    /// This region does not serve any more, and its log has not come to its end.
    pub(super) fn is_closing(&self) -> bool {
        self.state() != State::Active && self.closed().is_none()
    }

    /// Fixes the end of the log while this region is something else than active; called again and again.
    pub(in crate::agent) async fn close(&self, hub: &dyn Hub, documents: Option<&LocalDocuments>) {
        // Whoever changed the view may not have come to it yet; and what was fixed while the region served is void.
        self.follow();
        let ballot = self.view().ballot_of(&self.home);
        if !self.is_closing() {
            if self.state() == State::Active {
                *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
            return;
        }
        match end_of_log(hub, documents).await {
            Ok(Some(head)) => {
                *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = Some((ballot, head));
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the end of the log is not fixed yet"),
        }
    }
}

/// `None` while documents still have to do what was asked for by events.
async fn end_of_log(hub: &dyn Hub, documents: Option<&LocalDocuments>) -> Result<Option<u64>, hub::Error> {
    if let Some(documents) = documents {
        // The engine does one thing after the other: what it had begun is in the log when it answers.
        if documents.total().await.is_err() {
            return Ok(None);
        }
    }
    // What services had sent before is written before this.
    hub.note(Vec::new()).await?;
    let head = hub.end().offset;
    let Some(documents) = documents else { return Ok(Some(head)) };
    for _ in 0..HEARING_LOOKS {
        if documents.heard() >= head {
            return Ok(Some(hub.end().offset));
        }
        sleep(HEARING_LOOK).await;
    }
    Ok(None)
}
