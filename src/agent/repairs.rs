//! Asking a peer for what it holds of this region and this region does not: it was restored from an older copy.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use super::{ends::Ends, inbox::read_state};
use crate::{
    core::{
        batch::Repaired,
        journal::Change,
        position::{Incarnation, Stray},
    },
    marks::{self, Mark},
    ports::peer::RepairRequest,
};

/// How long a repair may take before it is asked for again; doubled each time. What was sent already costs a look-up.
const WAIT_MIN: Duration = Duration::from_secs(15);

const WAIT_MAX: Duration = Duration::from_secs(60);

/// The same where the peer could not be asked; and the least time between two repairs, each of which is a pass over the
/// peer's log: a copy of this region that is at work elsewhere gives reason for the next one all the time.
const PAUSE: Duration = Duration::from_secs(5);

/// The end of a repair, which is waited for. Not a `watch`: see [`Handed`](super::inbox::Handed).
#[derive(Default)]
pub struct Ended {
    last: Mutex<Option<Repaired>>,
    moved: Notify,
}

impl Ended {
    pub fn set(&self, what: Repaired) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(what);
        self.moved.notify_waiters();
    }

    pub async fn wait_for(&self, asked: u64) -> Repaired {
        loop {
            // Made before the look, so that no move in between is missed.
            let moved = self.moved.notified();
            let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).take();
            match last {
                Some(last) if last.asked == asked => return last,
                _ => moved.await,
            }
        }
    }
}

/// What is to be asked for, and how far that is.
pub struct Repairs {
    /// The last one that the peer brought to its end; see [`RegionInbox`](super::RegionInbox).
    ended: Arc<Ended>,
    /// What the peer holds beyond our own log, until it is asked for.
    wanted: Mutex<Option<Vec<Stray>>>,
    more: Notify,
    /// The peer held more than it ever sent back, when it spoke last.
    open: AtomicBool,
}

impl Repairs {
    pub fn new(ended: Arc<Ended>) -> Self {
        Self { ended, wanted: Mutex::default(), more: Notify::new(), open: AtomicBool::new(false) }
    }

    fn want(&self, beyond: Vec<Stray>) {
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
    /// The peer said what it holds of this region. It may be asked more than once for what is beyond this region's log:
    /// there is more of it when something was on its way while this region was restored, or when a copy of it goes on to
    /// write; and the agent that sent it back may have had less of it than another one at the peer's address.
    pub fn told(&self, high_waters: &[(Incarnation, u64)], strays: &[Stray]) {
        let beyond = self.beyond(high_waters, strays);
        let is_repaired = self.is_repaired(&beyond);
        self.repairs.open.store(!is_repaired && !beyond.is_empty(), Ordering::SeqCst);
        if !is_repaired {
            if !beyond.is_empty() {
                marks::hit(Mark::LinkBehind);
            }
            self.repairs.want(beyond);
        }
    }

    /// The peer holds something of this region that this region lost, and has not sent all of it back yet.
    pub fn is_repairing(&self) -> bool {
        self.repairs.open.load(Ordering::SeqCst)
    }

    fn beyond(&self, high_waters: &[(Incarnation, u64)], strays: &[Stray]) -> Vec<Stray> {
        read_state(&*self.hub, |state| state.lives.beyond(high_waters, strays, state.head.offset))
    }

    /// Whether that is what the peer held when it sent all of it back last.
    fn is_repaired(&self, beyond: &[Stray]) -> bool {
        read_state(&*self.hub, |state| {
            state.repaired.get(&self.peer_name).map(Vec::as_slice).unwrap_or_default() == beyond
        })
    }

    /// Asks for whatever is wanted, one after the other, for ever.
    pub async fn ask_for_repairs(&self) {
        loop {
            let beyond = self.repairs.next().await;
            if self.is_repaired(&beyond) {
                continue;
            }
            let beyond = if beyond.is_empty() {
                beyond
            } else {
                tracing::warn!(
                    peer = self.peer_name,
                    "the peer has events of this region that are not here: this region was restored, or a copy of it is \
                     at work elsewhere; asking for them"
                );
                self.ask_until_repaired().await
            };
            let change = Change::Repaired { peer: self.peer_name.clone(), beyond };
            if let Err(error) = self.hub.note(vec![change.into()]).await {
                tracing::warn!(peer = self.peer_name, %error, "a repair was not written down; it is asked for again");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks until the peer says that it sent everything: it may crash on the way, or give up on a bad network, and
    /// nobody else would ask again before the next start. Answers what it then held beyond our log.
    async fn ask_until_repaired(&self) -> Vec<Stray> {
        let lives = read_state(&*self.hub, |state| state.lives.clone());
        let head = self.hub.end().offset;
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
            if let Ok(repaired) = tokio::time::timeout(pause, self.repairs.ended.wait_for(request.asked)).await {
                tracing::info!(peer = self.peer_name, "the peer has sent all that it holds of this region");
                marks::hit(Mark::RepairDone);
                return self.beyond(&repaired.high_waters, &repaired.strays);
            }
            marks::hit(Mark::RepairAskedAgain);
            wait = (wait * 2).min(WAIT_MAX);
        }
    }
}
