//! Evictions: whom this region does without, and how it takes part again after it was evicted itself. See
//! [`standing`](crate::core::state::standing).
//!
//! An evicted region that hears of it (1) gives up all documents, (2) has another region note that it is back, from when on
//! nobody forgets without it any more, (3) takes in what the others have until a comparison finds nothing, and serves again,
//! (4) does again those of its own requests that nobody had, as soon as every other region has said what it had.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        events::{self, Event},
        shelf::{Broken, Shelf},
    },
    Engine,
};
use crate::{
    agent::inbox::read_state,
    core::{
        event::{Draft, Record},
        position::{Lives, Position},
        region::{Ballot, State},
        state::{
            Dot, Key, Replica,
            again::Past,
            delta::Delta,
            standing::{Eviction, Had, Standing, Taken},
        },
    },
    marks::{self, Mark},
    planted::{self, Bug},
    ports::{
        documents::Met,
        hub::{ReadError, Reader},
    },
};

/// Events of the own log that are looked through at once.
const CHUNK_EVENTS: usize = 256;

/// Bytes of them, about.
const CHUNK_BYTES: usize = 4 << 20;

/// What a region keeps on disk of evictions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub standing: Standing,
    /// By evicted region; of this region itself, since when it begins anew.
    pub taken: BTreeMap<String, Taken>,
    pub coming: Option<Coming>,
}

/// This region is on its way back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coming {
    /// Its own events up to this offset may be requests that nobody else has.
    until: u64,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Step {
    /// It gives up what it has.
    GivesUp,
    /// It has nothing, and nobody else knows yet that it is back.
    Empty,
    /// It takes in what others have.
    Fetches,
    /// It serves, and looks for requests that nobody has.
    Whole,
}

/// How far the own log is looked through.
pub struct Redoing {
    reader: Box<dyn Reader>,
    lives: Lives,
    past: Past,
    /// By document: which dots of replicas that were given up were done again as which.
    moved: BTreeMap<Key, BTreeMap<Dot, Dot>>,
    /// Requests that are done again are those of a replica of its own.
    replica: Replica,
    given: u64,
    again: u64,
    known: u64,
    lost: u64,
}

impl Engine {
    /// The eviction after which this region began anew.
    fn term(&self) -> u64 {
        self.kept.taken.get(&self.home).map_or(0, Taken::term)
    }

    pub(super) fn of_delta(&self, key: &Key, delta: &Delta) -> Draft {
        events::of_delta(key, delta, self.term())
    }

    fn step(&self) -> Option<Step> {
        self.kept.coming.as_ref().map(|coming| coming.step)
    }

    pub(super) fn is_out(&self) -> bool {
        self.kept.standing.term(&self.home) > self.term()
    }

    /// Whether what others have is merged here.
    pub(super) fn takes_in(&self) -> bool {
        !self.is_out() && self.step().is_none_or(|step| step >= Step::Fetches)
    }

    /// Why services are not served.
    pub(super) fn absent(&self) -> Option<&'static str> {
        if self.is_waking() {
            return Some(
                "this region was away for long: it asks the others whether they were, before it serves its documents",
            );
        }
        let is_away = self.is_out() || self.step().is_some_and(|step| step < Step::Whole);
        is_away
            .then_some("this region was evicted: it fetches the documents of the others before it serves its own again")
    }

    /// Whether an event of the log is of an evicted region, from before it began anew.
    pub(super) fn leaves_out(&self, record: &Record, key: &Key, term: u64) -> bool {
        let origin = record.origin_region().unwrap_or(&self.home);
        let refuses = |taken: &Taken| taken.refuses(term, record.header.offset);
        if !self.kept.taken.get(origin).is_some_and(refuses) || planted::is(Bug::EvictedHeard) {
            return false;
        }
        marks::hit(Mark::DeltaLeftOut);
        tracing::info!(document = %key, origin, term, "a delta of an evicted region is not merged");
        self.metrics.state.left_out.with_label_values(&[origin]).inc();
        true
    }

    pub(super) fn show_evicted(&self) {
        for region in &self.members.regions {
            let is_out = self.kept.standing.is_out(region);
            self.metrics.state.evicted.with_label_values(&[region]).set(f64::from(u8::from(is_out)));
            // 0 from the start, so that a rise is seen.
            self.metrics.state.left_out.with_label_values(&[region]);
        }
        for outcome in ["again", "known", "lost"] {
            self.metrics.state.redone.with_label_values(&[outcome]);
        }
    }

    async fn keep(&mut self, shelf: &Shelf, kept: Kept) -> Result<(), Broken> {
        shelf.keep(&kept).await?;
        let is_further = kept.coming != self.kept.coming;
        self.kept = kept;
        self.show_evicted();
        if is_further {
            self.hurry();
        }
        Ok(())
    }

    /// On its way back a region waits for its peers at every step: it does not wait for the next comparison as well.
    pub(super) fn hurry(&self) {
        if self.kept.coming.is_some() || self.is_waking() {
            self.shared.rounds.values().for_each(|rounds| _ = rounds.ask());
        }
    }

    /// What this region has of another one as it evicts it.
    fn had(&self, region: &str) -> Had {
        read_state(&*self.hub, |state| Had {
            after: state.head.offset,
            marks: state.high_waters.get(region).cloned().unwrap_or_default(),
            holes: state.holes.get(region).cloned().unwrap_or_default(),
        })
    }

    async fn join(&mut self, shelf: &Shelf, theirs: &Standing) -> Result<(), Broken> {
        let mut kept = self.kept.clone();
        // Of regions that the file has not nothing is asked, and nothing kept.
        let known = theirs.0.iter().filter(|(region, _)| self.members.contains(region));
        let known = known.map(|(region, eviction)| (region.clone(), eviction.clone()));
        if !kept.standing.join(&Standing(known.collect())) {
            return Ok(());
        }
        for (region, eviction) in kept.standing.0.iter().filter(|(region, _)| **region != self.home) {
            let taken = kept.taken.entry(region.clone()).or_default();
            if taken.term() < eviction.term {
                tracing::warn!(
                    region,
                    term = eviction.term,
                    by = eviction.by,
                    reason = eviction.reason,
                    "a region is evicted: deletes are forgotten without it, and what it wrote before is not merged"
                );
                taken.0.insert(eviction.term, self.had(region));
            }
        }
        self.keep(shelf, kept).await
    }

    /// An operator has the documents do without a region.
    pub(super) async fn evict(
        &mut self,
        shelf: &mut Shelf,
        region: String,
        eviction: Eviction,
    ) -> Result<Standing, Broken> {
        if !self.kept.standing.is_out(&region) && region != self.home {
            let term = self.kept.standing.term(&region) + 1;
            let standing = Standing([(region, Eviction { term, back: false, ..eviction })].into());
            self.join(shelf, &standing).await?;
            self.hear_who_is_out(shelf, &standing).await?;
        }
        Ok(self.kept.standing.clone())
    }

    fn met(&self) -> Met {
        let (standing, term) = (self.kept.standing.clone(), self.term());
        Met { standing, term, takes_part: self.takes_in() && !self.is_waking(), taken: None }
    }

    /// Takes in what a peer said.
    pub(super) async fn meet(&mut self, shelf: &mut Shelf, met: Option<(String, Met)>) -> Result<Met, Broken> {
        let Some((peer, met)) = met else { return Ok(self.met()) };
        self.join(shelf, &met.standing).await?;
        self.hear_who_is_out(shelf, &met.standing).await?;
        if let Some(taken) = met.taken.filter(|taken| taken.term() == self.term()) {
            self.told.insert(peer.clone(), taken);
        }
        let theirs = met.standing.0.get(&self.home);
        let is_noted = theirs.is_some_and(|eviction| eviction.back && eviction.term == self.term());
        if is_noted && met.takes_part && !self.kept.standing.is_out(&peer) {
            self.go_on(shelf, Step::Empty, Step::Fetches).await?;
        }
        Ok(self.met())
    }

    /// A peer asks, and says what it knows.
    pub(super) async fn asked(&mut self, shelf: &Shelf, of: &str, theirs: &Standing) -> Result<Met, Broken> {
        self.join(shelf, theirs).await?;
        Ok(Met { taken: self.kept.taken.get(of).cloned(), ..self.met() })
    }

    async fn go_on(&mut self, shelf: &Shelf, from: Step, to: Step) -> Result<(), Broken> {
        let mut kept = self.kept.clone();
        match &mut kept.coming {
            Some(coming) if coming.step == from => coming.step = to,
            _ => return Ok(()),
        }
        self.keep(shelf, kept).await
    }

    /// A comparison with this peer found nothing that differs.
    pub(super) async fn equal(&mut self, shelf: &Shelf, peer: &str) -> Result<(), Broken> {
        if self.step() == Some(Step::Fetches) && !self.kept.standing.is_out(peer) {
            tracing::warn!(peer, "this region has the documents of the others again, and serves its own");
            self.go_on(shelf, Step::Fetches, Step::Whole).await?;
        }
        Ok(())
    }

    /// Whether this region has to give up its documents now; or has not to, after all.
    pub(super) fn is_leaving(&self) -> bool {
        if self.step() == Some(Step::GivesUp) {
            return true;
        }
        let Some(eviction) = self.kept.standing.0.get(&self.home).filter(|_| self.is_out()) else { return false };
        // Before it knows that it was evacuated it may take itself for one that serves.
        self.decided().0 >= eviction.of
    }

    /// What was decided of this region last, and what it is.
    fn decided(&self) -> (Ballot, State, State) {
        read_state(&*self.hub, |state| {
            let view = state.regions.as_deref().map(|kept| &kept.voter.view);
            view.map_or((Ballot::default(), State::Active, State::Active), |view| {
                (view.ballot_of(&self.home), view.decided(&self.home), view.state(&self.home, &self.members))
            })
        })
    }

    /// Gives up all documents, when all of the log is in them.
    pub(super) async fn give_up(&mut self, shelf: &mut Shelf) -> Result<(), Broken> {
        let term = self.kept.standing.term(&self.home);
        let (_, decided, state) = self.decided();
        let mut kept = self.kept.clone();
        let own = |kept: &mut Kept, after| {
            let taken = kept.taken.entry(self.home.clone()).or_default();
            taken.0.insert(term, Had { after, ..Had::default() });
        };
        if decided != State::Active && state == State::Active && self.step().is_none() {
            // Two sides that could not talk evicted each other: the one that serves keeps what it has.
            tracing::warn!(term, "this region was evicted and serves all the same: it keeps its documents");
            own(&mut kept, u64::MAX);
            kept.standing.0.get_mut(&self.home).into_iter().for_each(|eviction| eviction.back = true);
            return self.keep(shelf, kept).await;
        }
        let until = self.cursor;
        own(&mut kept, until);
        kept.coming = Some(Coming { until, step: Step::GivesUp });
        self.keep(shelf, kept.clone()).await?;
        let documents = if planted::is(Bug::EvictedKeeps) { 0 } else { shelf.discard().await? };
        self.stop_waking(shelf).await?;
        (self.wanted, self.told, self.redoing) = (BTreeMap::new(), BTreeMap::new(), None);
        (self.replica, self.given) = (Replica(self.entropy.next_u64()), 0);
        self.flush(shelf).await?;
        kept.coming = Some(Coming { until, step: Step::Empty });
        kept.standing.0.get_mut(&self.home).into_iter().for_each(|eviction| eviction.back = true);
        self.keep(shelf, kept).await?;
        marks::hit(Mark::RegionBegunAnew);
        tracing::warn!(
            documents,
            term,
            "this region was evicted: its documents are given up and fetched from the others; what was written here and \
             never left is done again then"
        );
        self.metrics.state.discarded.inc_by(documents);
        Ok(())
    }

    /// Whether requests of before are looked for, from now on if everything that it takes is there.
    pub(super) fn begins_redoing(&mut self) -> bool {
        if self.redoing.is_some() || self.step() != Some(Step::Whole) {
            return self.redoing.is_some();
        }
        let mut asked = self.peers.iter().filter(|peer| !self.kept.standing.is_out(peer));
        if !asked.all(|peer| self.told.contains_key(peer)) {
            return false;
        }
        self.redoing = Some(Redoing {
            reader: self.hub.reader(self.hub.base()),
            lives: read_state(&*self.hub, |state| state.lives.clone()),
            past: Past::default(),
            moved: BTreeMap::new(),
            replica: Replica(self.entropy.next_u64()),
            given: 0,
            again: 0,
            known: 0,
            lost: 0,
        });
        true
    }

    /// Looks through a part of the own log. Answers `false` if `stop` cut it short: what was done then must not go to disk.
    pub(super) async fn redo(&mut self, shelf: &mut Shelf, stop: &CancellationToken) -> Result<bool, Broken> {
        let Some((mut redoing, coming)) = self.redoing.take().zip(self.kept.coming.clone()) else { return Ok(true) };
        let records = match redoing.reader.next(CHUNK_EVENTS, CHUNK_BYTES).await {
            Ok(records) => records,
            Err(ReadError::Dropped { base, .. }) => {
                redoing.reader.seek(base);
                self.redoing = Some(redoing);
                return Ok(true);
            }
            Err(ReadError::Failed(why)) => return Err(crate::ports::rows::Error::Failed(why).into()),
        };
        let is_end = records.last().is_none_or(|record| record.header.offset >= coming.until);
        let mut drafts = Vec::new();
        for record in records.iter().filter(|record| !record.header.is_remote()) {
            let offset = record.header.offset;
            let Event::Delta(key, delta, term) = events::read(record, &self.shared.schemas) else { continue };
            if term < self.term() && offset <= coming.until {
                drafts.extend(self.redo_one(shelf, &mut redoing, (term, offset), key, &delta).await?);
            }
        }
        if !drafts.is_empty() && !self.publish_surely(drafts, stop).await? {
            return Ok(false);
        }
        if !is_end {
            self.redoing = Some(redoing);
            return Ok(true);
        }
        let Redoing { again, known, lost, .. } = redoing;
        tracing::warn!(
            again,
            known,
            lost,
            "what this region had written before its eviction and nobody had is done again"
        );
        // Before it is noted that nothing is left to do.
        self.flush(shelf).await?;
        let kept = Kept { coming: None, ..self.kept.clone() };
        self.keep(shelf, kept).await?;
        Ok(true)
    }

    /// Does one request again, if nobody had it.
    async fn redo_one(
        &mut self,
        shelf: &mut Shelf,
        redoing: &mut Redoing,
        (term, offset): (u64, u64),
        key: Key,
        delta: &Delta,
    ) -> Result<Option<Draft>, Broken> {
        let counts = redoing.past.counts(&key, delta);
        let event = redoing.lives.at(offset).map(|incarnation| Position { incarnation, sequence: offset });
        if event.is_some_and(|event| self.told.values().any(|taken| taken.covers(term, &event))) {
            return Ok(None);
        }
        shelf.load([&key]).await?;
        let Some(entry) = shelf.get(&key).filter(|entry| !entry.document.clock().covers(delta.dot())) else {
            return Ok(None);
        };
        let count = |outcome: &str| self.metrics.state.redone.with_label_values(&[outcome]).inc();
        if let Some(dot) = entry.document.dot_of(&delta.request_again()) {
            redoing.moved.entry(key).or_default().insert(delta.dot(), dot);
            redoing.known += 1;
            count("known");
            return Ok(None);
        }
        // Of a life that is forgotten nobody can say whether he had it.
        let Some(counts) = counts.filter(|_| event.is_some()) else {
            tracing::error!(
                document = %key,
                offset,
                written = delta.at.to_rfc3339(),
                "a request of before the eviction cannot be done again: what it stands on is not in the log any more; the event \
                 is at this offset"
            );
            redoing.lost += 1;
            count("lost");
            return Ok(None);
        };
        redoing.given += 1;
        let dot = Dot { replica: redoing.replica, number: redoing.given };
        self.last_hlc = self.hlc.tick(self.clock.now());
        let moved = redoing.moved.entry(key.clone()).or_default();
        let again = shelf.change(&key).document.again(dot, self.last_hlc, delta, counts, moved);
        moved.insert(delta.dot(), dot);
        if again.is_some() {
            marks::hit(Mark::RequestRedone);
            redoing.again += 1;
            count("again");
        }
        Ok(again.map(|delta| self.of_delta(&key, &delta)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent::documents::form,
        core::{key::hex, position::Incarnation, time::Timestamp},
        ports::documents::{self, Question},
    };

    #[test]
    fn what_is_noted_and_asked_of_evictions_keeps_its_form() {
        let eviction = Eviction {
            term: 2,
            back: false,
            of: Ballot { epoch: 3, proposal: 5 },
            at: Timestamp(1_700_000_000_000_000_000),
            by: "me".to_owned(),
            reason: "gone".to_owned(),
        };
        let standing = Standing([("d".to_owned(), eviction)].into());
        let place = Position { incarnation: Incarnation(7), sequence: 8 };
        let had = Had { after: 9, marks: vec![(Incarnation(7), 10)], holes: vec![place] };
        let taken = Taken([(2, had)].into());
        let kept = Kept {
            standing: standing.clone(),
            taken: [("d".to_owned(), taken)].into(),
            coming: Some(Coming { until: 11, step: Step::Fetches }),
        };
        let question = Question::Standing { of: "a".to_owned(), standing };
        let fixture = include_str!("../../../../tests/fixtures/state/version-1.txt");
        let lines: BTreeMap<&str, &str> = fixture.lines().filter_map(|line| line.split_once(' ')).collect();
        assert_eq!(lines.get("evictions"), Some(&hex(&form::encode(&kept)).as_str()));
        assert_eq!(lines.get("question"), Some(&hex(&documents::encode(&question)).as_str()));
        assert_eq!(form::decode::<Kept>(&form::encode(&kept)), Ok(kept));
        assert_eq!(documents::decode(&documents::encode(&question)), Ok(question));
    }
}
