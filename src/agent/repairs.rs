//! Asking a peer for what it holds of this region and this region does not: it was restored from an older copy.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use super::{
    ends::Ends,
    inbox::{Handed, read_state},
};
use crate::{
    core::{journal::Change, position::Stray},
    marks::{self, Mark},
    ports::peer::RepairRequest,
};

/// How long a repair may take before it is asked for again; doubled each time. What was sent already costs a look-up.
const WAIT_MIN: Duration = Duration::from_secs(15);

const WAIT_MAX: Duration = Duration::from_secs(60);

/// The same where the peer could not be asked; and the least time between two repairs, each of which is a pass over the
/// peer's log: a copy of this region that is at work elsewhere gives reason for the next one all the time.
const PAUSE: Duration = Duration::from_secs(5);

/// What is to be asked for, and how far that is.
pub struct Repairs {
    /// The last one that the peer brought to its end; see [`RegionInbox`](super::RegionInbox).
    done: Arc<Handed>,
    /// What the peer holds beyond our own log, until it is asked for.
    wanted: Mutex<Option<Vec<Stray>>>,
    more: Notify,
}

impl Repairs {
    pub fn new(done: Arc<Handed>) -> Self {
        Self { done, wanted: Mutex::default(), more: Notify::new() }
    }

    /// The peer holds this beyond our own log now.
    pub fn want(&self, beyond: Vec<Stray>) {
        *self.wanted() = Some(beyond);
        self.more.notify_one();
    }

    fn wanted(&self) -> std::sync::MutexGuard<'_, Option<Vec<Stray>>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn next(&self) -> Vec<Stray> {
        loop {
            let more = self.more.notified();
            if let Some(beyond) = self.wanted().take() {
                return beyond;
            }
            more.await;
        }
    }
}

impl Ends {
    /// Asks for whatever is wanted, one after the other, for ever.
    pub async fn ask_for_repairs(&self) {
        loop {
            let beyond = self.repairs.next().await;
            if !beyond.is_empty() {
                tracing::warn!(
                    peer = self.peer_name,
                    "the peer has events of this region that are not here: this region was restored, or a copy of it is \
                     at work elsewhere; asking for them"
                );
                self.ask_until_repaired().await;
            }
            // If the peer's news came meanwhile, its repair may have been done before, or after a restore of its own.
            if self.repairs.wanted().is_none() {
                let change = Change::Repaired { peer: self.peer_name.clone(), beyond };
                if let Err(error) = self.hub.note(vec![change.into()]).await {
                    tracing::warn!(peer = self.peer_name, %error, "a repair was not written down; it is asked for again");
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks until the peer says that it sent everything: it may crash on the way, or give up on a bad network, and
    /// nobody else would ask again before the next start.
    async fn ask_until_repaired(&self) {
        let lives = read_state(&*self.hub, |state| state.lives.clone());
        let head = self.hub.head().borrow().offset;
        let request = RepairRequest {
            cluster: self.cluster.clone(),
            asker: self.home.clone(),
            origin: self.home.clone(),
            known: lives.0.iter().filter_map(|(life, _)| Some((*life, lives.end(*life, head)?))).collect(),
            asked: self.entropy.next_u64(),
        };
        let mut wait = WAIT_MIN;
        loop {
            let pause = match self.peer.request_repair(request.clone()).await {
                Ok(()) => wait,
                Err(failure) => {
                    tracing::warn!(peer = self.peer_name, %failure, "repair not asked for yet");
                    wait.min(PAUSE)
                }
            };
            let done = self.repairs.done.wait_until(|done| done == request.asked);
            if tokio::time::timeout(pause, done).await.is_ok() {
                tracing::info!(peer = self.peer_name, "the peer has sent all that it holds of this region");
                marks::hit(Mark::RepairDone);
                return;
            }
            marks::hit(Mark::RepairAskedAgain);
            wait = (wait * 2).min(WAIT_MAX);
        }
    }
}
