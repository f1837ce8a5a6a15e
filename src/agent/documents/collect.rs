//! What is deleted goes for good: when every region has seen the delete, and it is so old that no delta from before it can
//! come any more.
//!
//! A tombstone is kept for two horizons, a delta is refused after one: a region whose clock is wrong by less than a
//! horizon cannot take in what another one has forgotten.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::time::sleep;

use super::{
    Options,
    compare::{FETCHED, Meeting, fetch, meet},
    home::{Chore, From, Home, Tombstone},
};
use crate::{
    core::state::Key,
    marks::{self, Mark},
    metrics::Metrics,
    planted::{self, Bug},
    ports::{
        clock::Clock,
        documents::{Answer, KEYS_MAX, Met, Question, RemoteDocuments},
    },
};

pub struct Collect {
    /// This region.
    pub name: String,
    pub remotes: BTreeMap<String, Arc<dyn RemoteDocuments>>,
    pub members: Vec<String>,
    pub home: Arc<dyn Home>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<Metrics>,
    pub options: Options,
}

impl Collect {
    pub async fn run(self) {
        for member in &self.members {
            self.metrics.state.gc_blocked_by.with_label_values(&[member]).set(0.0);
        }
        loop {
            sleep(self.options.collect).await;
            if !self.home.is_our_turn(Chore::Collect).await {
                continue;
            }
            if let Err(why) = self.round().await {
                tracing::debug!(why, "tombstones not looked through");
            }
        }
    }

    async fn round(&self) -> Result<(), String> {
        let now = self.clock.now();
        if let Ok(Answer::Slept(Some(slept))) = self.home.answer(Question::Slept).await
            && now.since(slept.to) < self.options.horizon
        {
            // Deletes have grown old in its sleep. A copy from before must find somebody who has lived on.
            tracing::debug!("this region was away for long: it forgets nothing yet");
            return Ok(());
        }
        let before = now.minus(self.options.horizon).minus(self.options.horizon);
        let mut blocked: BTreeMap<&str, u64> = self.members.iter().map(|member| (member.as_str(), 0)).collect();
        let mut after = None;
        loop {
            // One that was out may be back since the last page.
            let Some(without) = self.without().await? else {
                tracing::debug!("this region does not take part: it collects nothing");
                return Ok(());
            };
            let page = self.home.tombstones(after.clone(), before).await;
            let (tombstones, next) = page.map_err(|error| error.to_string())?;
            for chunk in tombstones.chunks(KEYS_MAX) {
                self.collect(chunk, &without, &mut blocked).await?;
            }
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        for (member, count) in blocked {
            let gauge = self.metrics.state.gc_blocked_by.with_label_values(&[member]);
            if count > 0 && gauge.get() == 0.0 {
                tracing::warn!(
                    member,
                    tombstones = count,
                    "deleted documents stay until this region has seen their deletes: it does not answer, or is behind"
                );
            }
            gauge.set(count as f64);
        }
        Ok(())
    }

    /// The evicted regions, if all others say that they know of every one of them; else nobody is done without. `None`:
    /// this region is one of them.
    async fn without(&self) -> Result<Option<BTreeSet<String>>, String> {
        let ours = self.home.meet(None).await.map_err(|error| error.to_string())?;
        if !ours.takes_part {
            return Ok(None);
        }
        if ours.standing.out().next().is_none() {
            return Ok(Some(BTreeSet::new()));
        }
        let mut heard = Vec::new();
        for (peer, remote) in &self.remotes {
            if let Ok(Meeting { theirs, .. }) = meet(&*self.home, &**remote, &self.name, peer).await {
                heard.push((peer, theirs));
            }
        }
        // With what they knew: one of those may be back.
        let ours = self.home.meet(None).await.map_err(|error| error.to_string())?;
        if !ours.takes_part {
            return Ok(None);
        }
        let out: BTreeSet<String> = ours.standing.out().map(str::to_owned).collect();
        let knows = |member: &String| {
            let said = heard.iter().find(|(peer, _)| *peer == member).map(|(_, met)| &met.standing);
            said.is_some_and(|said| out.iter().all(|region| said.term(region) == ours.standing.term(region)))
        };
        let everybody = self.members.iter().filter(|member| !out.contains(*member)).all(knows);
        Ok(Some(if everybody { out } else { BTreeSet::new() }))
    }

    /// Drops what every region has seen; counts what a region keeps from going.
    async fn collect(
        &self,
        tombstones: &[Tombstone],
        without: &BTreeSet<String>,
        blocked: &mut BTreeMap<&str, u64>,
    ) -> Result<(), String> {
        let mut seen = vec![true; tombstones.len()];
        for member in self.members.iter().filter(|member| !without.contains(*member)) {
            let includes = match self.remotes.get(member) {
                Some(remote) => self.ask(member, &**remote, tombstones).await,
                None => None,
            };
            let includes = includes.unwrap_or_else(|| vec![false; tombstones.len()]);
            let lacking = includes.iter().filter(|includes| !**includes).count();
            if lacking > 0 {
                marks::hit(Mark::TombstoneKept);
            }
            if let Some(count) = blocked.get_mut(member.as_str()) {
                *count += lacking as u64;
            }
            seen.iter_mut()
                .zip(includes)
                .for_each(|(seen, includes)| *seen &= includes || planted::is(Bug::CollectedUnseen));
        }
        let seen = seen.into_iter().zip(tombstones).filter(|(seen, _)| *seen).map(|(_, tombstone)| tombstone.clone());
        let tombstones: Vec<Tombstone> = seen.collect();
        if !tombstones.is_empty() {
            let forgotten = self.home.forget(tombstones).await.map_err(|error| error.to_string())?;
            if forgotten > 0 {
                marks::hit(Mark::TombstoneCollected);
            }
            self.metrics.state.collected.inc_by(forgotten as u64);
            tracing::debug!(forgotten, "deleted documents went for good");
        }
        Ok(())
    }

    /// Which of these a region has seen; `None` if it does not say. Comparing sees no tombstones, and two that differ would
    /// keep each other for ever: what it has in their places is merged, as it does with ours.
    async fn ask(&self, peer: &str, remote: &dyn RemoteDocuments, tombstones: &[Tombstone]) -> Option<Vec<bool>> {
        let Ok(Answer::Includes(includes)) = remote.ask(Question::Includes(tombstones.to_vec())).await else {
            return None;
        };
        if includes.len() != tombstones.len() {
            return None;
        }
        let unseen = tombstones.iter().zip(&includes).filter(|(_, includes)| !**includes);
        let unseen: Vec<Key> = unseen.map(|((key, _), _)| key.clone()).collect();
        if unseen.is_empty() {
            return Some(includes);
        }
        let Met { term, takes_part, .. } = meet(&*self.home, remote, &self.name, peer).await.ok()?.theirs;
        if !takes_part {
            return Some(includes);
        }
        let from = From { peer: peer.to_owned(), term };
        for keys in unseen.chunks(FETCHED) {
            if let Err(why) = fetch(&*self.home, remote, &from, keys.to_vec()).await {
                tracing::debug!(why, "what a region has in place of a delete that it has not seen was not fetched");
            }
        }
        Some(includes)
    }
}
