//! Evictions where a region's documents lie in a table: whom the region does without, and its way back after it was evicted
//! itself. See [`standing`](crate::core::state::standing).
//!
//! A region hears of evictions as it reads the tables of the others. It writes one down, has every group of documents know
//! from which term on something of that region is merged, and only then says that it knows.
//!
//! A region that reads of its own eviction (1) says that it is back, and waits until another one has noted that: from then on
//! nobody forgets without it; (2) looks through its documents. There is no log to do requests again from, so what it wrote and
//! nobody has stays as it is where it is so recent that nobody can have forgotten it; a document with something older that
//! nobody has is set aside, and named; (3) takes the term, so that the others fetch from it, and serves when a comparison
//! finds nothing. Each step is written on a condition, so any of its agents may take it, and any may die.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
    time::Duration,
};

use tokio::time::sleep;

use super::{
    GROUPS, Inner, MERGES_MAX, ManagedDocuments, later,
    standing::{Aside, Coming, Kept, Step},
};
use crate::{
    agent::documents::{compare::meet, home::From},
    core::{
        link::Failure,
        region::{Ballot, State},
        state::{
            Key,
            document::Document,
            standing::{Eviction, Slept, Standing},
            view::View,
        },
        time::Timestamp,
    },
    marks::{self, Mark},
    planted::{self, Bug},
    ports::documents::{Answer, Error, Met, Question, RemoteDocuments},
};

/// How often the table is read for evictions.
const LOOK: Duration = Duration::from_secs(15);

/// The same on the way back, which nobody should wait for.
const HURRY: Duration = Duration::from_secs(1);

/// Groups that are told of an eviction at once.
const TOLD: usize = 16;

/// What was heard while the region does not know whether its table is too old.
#[derive(Default)]
pub struct Waking {
    /// By region: whether it lived on while this one's table was away.
    lives_on: BTreeMap<String, bool>,
    /// Regions that are left out, as others say.
    out: BTreeSet<String>,
}

/// What is decided of the region: in which ballot, what, and what it is therefore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decided {
    pub ballot: Ballot,
    pub decided: State,
    pub state: State,
}

/// A document that the region could not keep when it came back from an eviction.
#[derive(Clone, Debug, PartialEq)]
pub struct GivenUp {
    /// Names it, for listings and to discard it.
    pub name: String,
    pub key: Key,
    pub at: Timestamp,
    /// `None` where the file does not know its type, or it cannot be read.
    pub view: Option<View>,
}

impl Inner {
    pub(super) fn kept(&self) -> Kept {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Why services are not served.
    pub(super) fn absent(&self) -> Option<&'static str> {
        self.kept().absent(&self.region)
    }

    fn saw(&self, kept: &Kept, version: u64) {
        {
            let mut known = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            // An older look must not come last.
            if version < known.1 {
                return;
            }
            *known = (kept.clone(), version);
        }
        for region in self.members.iter().chain([&self.region]) {
            let is_out = kept.standing.is_out(region);
            self.metrics.state.evicted.with_label_values(&[region]).set(f64::from(u8::from(is_out)));
            self.metrics.state.left_out.with_label_values(&[region]);
        }
        for outcome in ["again", "lost"] {
            self.metrics.state.redone.with_label_values(&[outcome]);
        }
    }

    /// Reads what the table says of evictions.
    pub(super) async fn look_at_evictions(&self) -> Result<(Kept, u64), Failure> {
        let (kept, version) = self.store.kept().await?;
        self.saw(&kept, version);
        Ok((kept, version))
    }

    /// Changes what is kept; answers what stands then. `change` may be called again.
    async fn keep(&self, change: impl Fn(&mut Kept)) -> Result<Kept, Failure> {
        for attempt in 0..MERGES_MAX {
            self.pause(attempt).await;
            let (before, version) = self.look_at_evictions().await?;
            let mut kept = before.clone();
            change(&mut kept);
            if kept == before {
                return Ok(kept);
            }
            match self.store.keep(&kept, version).await {
                Ok(true) => {
                    self.saw(&kept, version + 1);
                    self.stirred.notify_one();
                    return Ok(kept);
                }
                Ok(false) | Err(Failure::Unanswered(_)) => {}
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::Unanswered("others change what is kept of evictions all the time".to_owned()))
    }

    /// Notes which table this is. A copy that was restored, and is older than what regions remember of deletes, is asked about
    /// before anything of it is served. One that only nobody wrote to is as good as any: nothing was forgotten without it.
    pub(super) async fn open_table(&self, table: &str, slept: Option<Slept>) -> Result<(), Failure> {
        let (before, _) = self.look_at_evictions().await?;
        let kept = self.keep(|kept| kept.open(table, slept)).await?;
        if kept.is_at(Step::Wakes) && before.table != kept.table {
            tracing::warn!(
                written = slept.map(|slept| slept.from.to_rfc3339()),
                "this table of documents is new here, or was restored, and is older than what regions remember of deletes: the others are asked \
                 whether they lived on meanwhile, and until they answer none of its documents is served"
            );
        }
        Ok(())
    }

    /// Takes in how a peer slept, if it said; answers whether that is asked.
    pub(super) async fn hear_of_sleep(&self, heard: Option<(String, Option<Slept>)>) -> Result<bool, Failure> {
        let kept = self.kept();
        let Some((coming, ours)) = kept.coming.filter(|coming| coming.step == Step::Wakes).zip(kept.slept) else {
            return Ok(false);
        };
        let (is_outlived, all_said) = {
            let mut waking = self.waking.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((peer, slept)) = heard {
                let lives_on = ours.is_outlived_by(slept, self.clock.now(), self.options.horizon);
                waking.lives_on.insert(peer, lives_on);
            }
            // Whoever is out as others say need not answer; what this copy knows of that may be old.
            let mut asked = self.members.iter().filter(|region| !waking.out.contains(*region));
            // Whoever cannot be asked may have lived.
            let mut unasked = self.members.iter().filter(|region| !self.peers.contains_key(*region));
            let lives_on = waking.lives_on.values().any(|lives_on| *lives_on);
            let is_outlived = lives_on || unasked.any(|region| !waking.out.contains(region));
            (is_outlived, asked.all(|region| waking.lives_on.contains_key(region)))
        };
        let next = match (is_outlived, all_said) {
            (true, _) => Step::Cleans(0),
            (false, true) => Step::Fetches,
            (false, false) => return Ok(true),
        };
        let kept = self.step(coming.term, Step::Wakes, next).await?;
        if kept.is_at(next) {
            match next {
                Step::Fetches => tracing::warn!("no other region lived on meanwhile: this one keeps its documents"),
                _ => {
                    marks::hit(Mark::TableAsked);
                    tracing::warn!("another region lived on meanwhile: this one looks through its documents");
                }
            }
        }
        Ok(kept.is_at(Step::Wakes))
    }

    /// Takes in what another region knows of evictions.
    async fn hear(&self, theirs: &Standing) -> Result<Kept, Failure> {
        if self.kept().is_at(Step::Wakes) {
            let mut waking = self.waking.lock().unwrap_or_else(PoisonError::into_inner);
            waking.out.extend(theirs.out().map(str::to_owned));
        }
        // Of regions that the file has not nothing is asked, and nothing kept.
        let is_known = |region: &String| *region == self.region || self.members.contains(region);
        let known = theirs.0.iter().filter(|(region, _)| is_known(region));
        let known = Standing(known.map(|(region, eviction)| (region.clone(), eviction.clone())).collect());
        let kept = self.keep(|kept| kept.hear(known.clone(), &self.region)).await?;
        match kept.untold().is_empty() {
            true => Ok(kept),
            false => self.tell_groups(kept).await,
        }
    }

    /// Has every group know what was heard, and says then that this region knows.
    async fn tell_groups(&self, kept: Kept) -> Result<Kept, Failure> {
        let untold = kept.untold();
        let groups: Vec<usize> = (0..GROUPS).collect();
        for groups in groups.chunks(TOLD) {
            futures::future::try_join_all(groups.iter().map(|group| self.tell_group(*group, &untold))).await?;
        }
        for (region, term) in &untold {
            let eviction = kept.heard.0.get(region);
            tracing::warn!(
                region,
                term,
                by = eviction.map_or("", |eviction| &eviction.by),
                reason = eviction.map_or("", |eviction| &eviction.reason),
                "a region is evicted: deletes are forgotten without it, and what it wrote before is not merged"
            );
        }
        let told = |kept: &mut Kept| {
            let is_told =
                |(region, eviction): &(&String, &Eviction)| untold.contains(&((*region).clone(), eviction.term));
            let known = kept.heard.0.iter().filter(is_told);
            let known = Standing(known.map(|(region, eviction)| (region.clone(), eviction.clone())).collect());
            kept.standing.join(&known);
        };
        self.keep(told).await
    }

    pub(super) async fn tell_group(&self, group: usize, terms: &[(String, u64)]) -> Result<(), Failure> {
        for attempt in 0..MERGES_MAX {
            self.pause(attempt).await;
            match self.store.note_terms(group, terms).await {
                Ok(true) => return Ok(()),
                Ok(false) | Err(Failure::Unanswered(_)) => {}
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::Unanswered(format!("others change documents of group {group:02x} all the time")))
    }

    /// Takes in what a peer said, if it said something; answers what this region says.
    pub(super) async fn meet(&self, met: Option<(String, Met)>) -> Result<Met, Failure> {
        let Some((peer, theirs)) = met else { return Ok(self.look_at_evictions().await?.0.met(&self.region)) };
        let mut kept = self.hear(&theirs.standing).await?;
        let noted = theirs.standing.0.get(&self.region);
        let announced = kept.coming.filter(|coming| coming.step == Step::Announced);
        if let Some(Coming { term, .. }) = announced
            && noted.is_some_and(|eviction| eviction.back && eviction.term == term)
            && theirs.takes_part
            && !kept.standing.is_out(&peer)
        {
            tracing::info!(peer, "another region has noted that this one is back");
            kept = self.step(term, Step::Announced, Step::Cleans(0)).await?;
        }
        Ok(kept.met(&self.region))
    }

    /// A comparison with this peer found nothing that differs.
    pub(super) async fn equal(&self, peer: &str) -> Result<(), Failure> {
        let kept = self.kept();
        let Some(Coming { term, step: Step::Fetches }) = kept.coming else { return Ok(()) };
        if kept.standing.is_out(peer) || kept.is_out(&self.region) {
            return Ok(());
        }
        self.keep(|kept| {
            if kept.coming == Some(Coming { term, step: Step::Fetches }) {
                kept.coming = None;
            }
        })
        .await?;
        tracing::warn!(peer, "this region has the documents of the others again, and serves its own");
        Ok(())
    }

    /// There is nobody to fetch anything from.
    async fn serve_alone(&self, kept: &Kept) -> Result<(), Failure> {
        let coming = kept.coming;
        if !self.members.iter().all(|region| kept.standing.is_out(region)) {
            return Ok(());
        }
        let done = |kept: &mut Kept| {
            if kept.coming == coming {
                kept.coming = None;
            }
        };
        self.keep(done).await.map(drop)
    }

    /// Goes from one step to the next, unless somebody else did.
    pub(super) async fn step(&self, term: u64, from: Step, to: Step) -> Result<Kept, Failure> {
        self.keep(|kept| {
            if kept.coming == Some(Coming { term, step: from }) {
                kept.coming = Some(Coming { term, step: to });
            }
        })
        .await
    }

    /// What a peer is when it is asked for documents; `None` if nothing is to be fetched from it.
    pub(super) async fn source(&self, peer: &str, remote: &dyn RemoteDocuments) -> Option<From> {
        let question = Question::Standing { of: self.region.clone(), standing: Standing::default() };
        let theirs = match remote.ask(question).await {
            Ok(Answer::Standing(theirs)) => theirs,
            // A build that knows nothing of evictions.
            Ok(_) | Err(Failure::Refused(_)) => Met { takes_part: true, ..Met::default() },
            Err(_) => return None,
        };
        let is_current = theirs.takes_part && theirs.term >= self.kept().standing.term(peer);
        let is_current = is_current || planted::is(Bug::EvictedHeard);
        is_current.then(|| From { peer: peer.to_owned(), term: theirs.term })
    }

    /// This region was evicted and knows that it was evacuated: it says that it is back.
    async fn announce(&self, kept: &Kept) -> Result<(), Failure> {
        let Some(eviction) = kept.standing.0.get(&self.region) else { return Ok(()) };
        let (term, decided) = (eviction.term, (self.decided)());
        // Before it knows that it was evacuated it may take itself for one that serves.
        if decided.ballot < eviction.of {
            return Ok(());
        }
        // Two sides that could not talk evicted each other: the one that serves keeps what it has.
        let keeps = decided.decided != State::Active && decided.state == State::Active && kept.coming.is_none();
        self.keep(|kept| {
            let is_new = kept.standing.term(&self.region) == term && kept.term < term;
            if !is_new || kept.coming.is_some_and(|coming| coming.term == term) {
                return;
            }
            for standing in [&mut kept.standing, &mut kept.heard] {
                standing.0.get_mut(&self.region).into_iter().for_each(|eviction| eviction.back = true);
            }
            match keeps {
                true => kept.term = term,
                false => kept.coming = Some(Coming { term, step: Step::Announced }),
            }
        })
        .await?;
        match keeps {
            true => tracing::warn!(term, "this region was evicted and serves all the same: it keeps its documents"),
            false => tracing::warn!(
                term,
                "this region was evicted: it looks through its documents, and serves none of them until it has those of the \
                 others"
            ),
        }
        Ok(())
    }
}

impl ManagedDocuments {
    /// Does what there is to do about evictions.
    pub(super) async fn mind_evictions(self) {
        let mut failed = false;
        loop {
            let done = self.mind().await;
            match &done {
                Err(failure) if !failed => tracing::warn!(%failure, "evictions are looked at again"),
                Err(failure) => tracing::debug!(%failure, "evictions are looked at again"),
                Ok(()) => {}
            }
            failed = done.is_err();
            let kept = self.0.kept();
            let is_away = kept.is_out(&self.0.region) || kept.coming.is_some();
            let is_soon = !failed && (is_away || !kept.untold().is_empty());
            let pause = if is_soon { HURRY } else { LOOK }.mul_f64(0.75 + 0.5 * self.0.entropy.next_f64());
            tokio::select! {
                () = sleep(pause) => {}
                () = self.0.stirred.notified(), if !is_soon && !failed => {}
            }
        }
    }

    async fn mind(&self) -> Result<(), Failure> {
        let inner = &self.0;
        let (mut kept, _) = inner.look_at_evictions().await?;
        if !kept.untold().is_empty() {
            kept = inner.tell_groups(kept).await?;
        }
        let is_new = |coming: Coming| coming.term < kept.standing.term(&inner.region);
        if kept.is_out(&inner.region) && kept.coming.is_none_or(is_new) {
            inner.announce(&kept).await?;
        }
        match kept.coming {
            Some(Coming { term, step: Step::Cleans(group) }) if usize::from(group) < GROUPS => {
                inner.clean(&kept, term, group).await?;
            }
            Some(Coming { term, step: Step::Cleans(group) }) => {
                inner
                    .keep(|kept| {
                        if kept.coming == Some(Coming { term, step: Step::Cleans(group) }) {
                            kept.coming = Some(Coming { term, step: Step::Fetches });
                            kept.term = kept.term.max(term);
                        }
                    })
                    .await?;
                tracing::warn!(
                    term,
                    "this region has nothing any more that the others forgot, and fetches what it lacks"
                );
            }
            // Comparing asks how the others slept, and fetches.
            Some(Coming { step: Step::Wakes, .. }) => {
                inner.rounds.values().for_each(|rounds| _ = rounds.ask());
                inner.hear_of_sleep(None).await?;
            }
            Some(Coming { step: Step::Fetches, .. }) => {
                inner.rounds.values().for_each(|rounds| _ = rounds.ask());
                inner.serve_alone(&kept).await?;
            }
            // It asks until somebody has noted it.
            Some(Coming { step: Step::Announced, .. }) => self.meet_all(|_| true).await,
            // Whoever is left out may be back.
            None => self.meet_all(|peer| kept.standing.is_out(peer)).await,
        }
        Ok(())
    }

    async fn meet_all(&self, is_asked: impl Fn(&str) -> bool) {
        for (peer, remote) in self.0.peers.iter().filter(|(peer, _)| is_asked(peer)) {
            if let Err(why) = meet(self, &**remote, &self.0.region, peer).await {
                tracing::debug!(peer, why, "not asked about evictions");
            }
        }
    }

    /// What is known here of evictions.
    ///
    /// # Errors
    /// The table does not answer.
    pub async fn standing(&self) -> Result<Standing, Error> {
        let (kept, _) = self.0.look_at_evictions().await.map_err(|failure| later(&failure))?;
        Ok(kept.heard)
    }

    /// Has the documents do without a region, in all regions that hear of it; durable when it is answered. An eviction
    /// that stands is left as it is.
    ///
    /// # Errors
    /// The table does not answer.
    pub async fn evict(&self, region: String, eviction: Eviction) -> Result<Standing, Error> {
        let inner = &self.0;
        let kept = inner
            .keep(|kept| {
                if !kept.heard.is_out(&region) && region != inner.region {
                    let term = kept.heard.term(&region) + 1;
                    let eviction = Eviction { term, back: false, ..eviction.clone() };
                    kept.hear(Standing([(region.clone(), eviction)].into()), &inner.region);
                }
            })
            .await
            .map_err(|failure| later(&failure))?;
        Ok(kept.heard)
    }

    /// Documents that this region could not keep, behind the one of this name; the name to go on behind, if there are more.
    ///
    /// # Errors
    /// The table does not answer.
    pub async fn given_up(&self, after: Option<String>) -> Result<(Vec<GivenUp>, Option<String>), Error> {
        let (found, more) = self.0.store.given_up(after).await.map_err(|failure| later(&failure))?;
        let last = found.last().map(|(aside, _)| aside.name()).filter(|_| more);
        let shown = found.into_iter().map(|(aside, item)| {
            let document = Document::decode(&item.bytes).ok();
            let schema = self.0.schemas.get(&aside.key.of);
            let view = document.zip(schema).and_then(|(document, schema)| document.view(&aside.key, schema));
            GivenUp { name: aside.name(), at: aside.at, key: aside.key, view }
        });
        Ok((shown.collect(), last))
    }

    /// Removes one of them for good; `false` if there is none of this name.
    ///
    /// # Errors
    /// The table does not answer.
    pub async fn discard_given_up(&self, name: &str) -> Result<bool, Error> {
        let Some(aside) = Aside::read(name) else { return Ok(false) };
        self.0.store.discard_given_up(&aside).await.map_err(|failure| later(&failure))
    }
}
