//! A region that was away for longer than deletes are remembered. See [`Slept`].
//!
//! Others may have forgotten deletes that are not in this copy of the documents: it may be a backup of a region that had seen
//! them. They cannot have if they were away as long, as after a holiday of a whole cluster. So the region asks before it serves
//! its documents: one that lived on decides that they are given up and fetched, and if none did they are kept.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    super::shelf::{Broken, Meta, Shelf},
    Engine,
};
use crate::{
    core::{
        state::{
            Replica,
            standing::{Slept, Standing},
        },
        time::Timestamp,
    },
    marks::{self, Mark},
};

/// What a region keeps on disk of the last time that it was away for so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Woken {
    pub slept: Slept,
    /// It is not known yet whether its documents are kept.
    pub is_open: bool,
}

/// The same, and what was heard of the others.
#[derive(Default)]
pub struct Waking {
    pub woken: Option<Woken>,
    /// By region: how it slept.
    heard: BTreeMap<String, Option<Slept>>,
    /// Regions that others have left out, as they said since this start: what this copy knows of that may be old.
    out: BTreeSet<String>,
    /// It was decided at this start that the copy is kept.
    is_kept: bool,
    /// All of the log that was there at the start is in the documents.
    pub is_caught_up: bool,
}

impl Engine {
    /// Looks at how old the documents are, before anything is done with them.
    pub(super) async fn wake(&mut self, shelf: &mut Shelf, meta: &Meta) -> Result<(), Broken> {
        self.waking.woken = shelf.woken().await?;
        let now = self.clock.now();
        let is_old = now.since(meta.alive) >= self.options.horizon;
        if !is_old && !self.is_waking() {
            return Ok(());
        }
        // What was begun and not decided is about the same copy.
        let open = self.waking.woken.filter(|woken| woken.is_open);
        let from = open.map_or(meta.alive, |woken| woken.slept.from);
        self.note_waking(shelf, Woken { slept: Slept { from, to: now }, is_open: true }).await?;
        tracing::warn!(
            written = meta.alive.to_rfc3339(),
            asked = self.asked_about_sleep().collect::<Vec<_>>().join(", "),
            "this copy of the documents is older than what regions remember of deletes: the others are asked whether they \
             were away as well, and until they answer none of these documents is served"
        );
        self.decide_waking(shelf).await
    }

    async fn note_waking(&mut self, shelf: &Shelf, woken: Woken) -> Result<(), Broken> {
        shelf.note_woken(&woken).await?;
        self.waking.woken = Some(woken);
        Ok(())
    }

    /// Whether it is not known yet if this region keeps its documents.
    pub(super) fn is_waking(&self) -> bool {
        self.waking.woken.is_some_and(|woken| woken.is_open)
    }

    pub(super) fn slept(&self) -> Option<Slept> {
        self.waking.woken.map(|woken| woken.slept)
    }

    /// Deltas from before are not merged any more. A copy that is kept takes in what its log has and was young then.
    pub(super) fn oldest(&self) -> Timestamp {
        let slept = self.slept().filter(|_| self.waking.is_kept && !self.waking.is_caught_up);
        slept.map_or_else(|| self.clock.now(), |slept| slept.from).minus(self.options.horizon)
    }

    /// The documents are given up for another reason.
    pub(super) async fn stop_waking(&mut self, shelf: &Shelf) -> Result<(), Broken> {
        match self.waking.woken.filter(|woken| woken.is_open) {
            Some(woken) => self.note_waking(shelf, Woken { is_open: false, ..woken }).await,
            None => Ok(()),
        }
    }

    /// All others but those that are left out, as others say.
    fn asked_about_sleep(&self) -> impl Iterator<Item = &str> {
        let others = self.members.regions.iter().filter(|region| **region != self.home);
        others.filter(|region| !self.waking.out.contains(*region)).map(String::as_str)
    }

    /// Somebody says who is left out.
    pub(super) async fn hear_who_is_out(&mut self, shelf: &mut Shelf, standing: &Standing) -> Result<(), Broken> {
        if self.is_waking() {
            self.waking.out.extend(standing.out().map(str::to_owned));
            self.decide_waking(shelf).await?;
        }
        Ok(())
    }

    /// Takes in how a peer slept, if it said; answers whether that is asked.
    pub(super) async fn hear_of_sleep(
        &mut self,
        shelf: &mut Shelf,
        heard: Option<(String, Option<Slept>)>,
    ) -> Result<bool, Broken> {
        if let Some((peer, slept)) = heard
            && self.is_waking()
        {
            self.waking.heard.insert(peer, slept);
            self.decide_waking(shelf).await?;
        }
        Ok(self.is_waking())
    }

    async fn decide_waking(&mut self, shelf: &mut Shelf) -> Result<(), Broken> {
        let Some(woken) = self.waking.woken.filter(|woken| woken.is_open) else { return Ok(()) };
        let (now, horizon) = (self.clock.now(), self.options.horizon);
        let lives_on = |region: &str| match self.waking.heard.get(region) {
            Some(theirs) => Some(woken.slept.is_outlived_by(*theirs, now, horizon)),
            // Whoever cannot be asked may have lived.
            None if !self.peers.iter().any(|peer| peer == region) => Some(true),
            None => None,
        };
        let said: Vec<Option<bool>> = self.asked_about_sleep().map(lives_on).collect();
        let is_outlived = self.waking.heard.keys().any(|region| lives_on(region) == Some(true));
        // Whoever was left out was outlived.
        if is_outlived || said.contains(&Some(true)) || self.is_out() {
            let documents = shelf.discard().await?;
            self.wanted = BTreeMap::new();
            (self.replica, self.given) = (Replica(self.entropy.next_u64()), 0);
            tracing::warn!(
                documents,
                written = woken.slept.from.to_rfc3339(),
                "another region lived on while this one was away: its documents are given up and fetched from the peers; what \
                 was written here and never left is in this region's log alone"
            );
            self.metrics.state.discarded.inc_by(documents);
            if documents > 0 {
                marks::hit(Mark::DocumentsDiscarded);
            }
        } else if said.iter().all(Option::is_some) {
            self.waking.is_kept = true;
            tracing::warn!("no other region lived on while this one was away: it keeps its documents");
        } else {
            return Ok(());
        }
        self.note_waking(shelf, Woken { is_open: false, ..woken }).await
    }
}
