//! Comparing with a peer: the sums of ranges, narrower where they differ, and then the documents themselves.
//!
//! Each region brings itself up to what its peer has; the peer does the same. Equal regions exchange one sum. What
//! differs may only be on its way, so it is looked at again before it is fetched.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus::Gauge;
use tokio::time::{Instant, sleep};

use super::{
    Options,
    home::{Chore, From, Home},
};
use crate::{
    core::{
        link::Failure,
        region::proof::Compared,
        state::{
            Key,
            digest::{Digest, Range},
            document::Document,
        },
    },
    marks::{self, Mark},
    ports::{
        clock::Entropy,
        documents::{Answer, KEYS_MAX, Met, Question, RemoteDocuments},
    },
};

/// Documents that are fetched with one question.
pub const FETCHED: usize = 64;

/// Buckets that are looked into in one round.
const BUCKETS_MAX: usize = 64;

/// How long what differs may be on its way.
const SETTLE: Duration = Duration::from_secs(1);

/// How often it is looked whether a document is wanted.
const LOOK: Duration = Duration::from_millis(500);

/// How often documents were compared with a peer, and whether somebody waits for it.
#[derive(Default)]
pub struct Rounds {
    begun: AtomicU64,
    done: AtomicU64,
    asked: AtomicBool,
}

impl Rounds {
    /// Wants a round soon; answers how many began before.
    pub fn ask(&self) -> u64 {
        self.asked.store(true, Ordering::SeqCst);
        self.begun.load(Ordering::SeqCst)
    }

    pub fn compared(&self) -> Compared {
        Compared { begun: self.begun.load(Ordering::SeqCst), done: self.done.load(Ordering::SeqCst) }
    }
}

pub struct Compare {
    /// This region.
    pub name: String,
    /// The eviction after which the peer had begun anew when it was last asked.
    pub term: AtomicU64,
    pub peer: String,
    pub rounds: Arc<Rounds>,
    pub remote: Arc<dyn RemoteDocuments>,
    pub home: Arc<dyn Home>,
    pub entropy: Arc<dyn Entropy>,
    pub mismatched: Gauge,
    pub options: Options,
}

impl Compare {
    pub async fn run(self) {
        let mut next = Instant::now() + self.pause();
        let mut failures = 0u32;
        let mut is_asked = false;
        loop {
            sleep(LOOK).await;
            let fetched = self.fetch_wanted().await;
            if self.rounds.asked.swap(false, Ordering::SeqCst) {
                (is_asked, next) = (true, Instant::now());
            }
            if Instant::now() >= next && !is_asked && !self.home.is_our_turn(Chore::Compare(&self.peer)).await {
                next = Instant::now() + self.pause();
            } else if Instant::now() >= next {
                let number = self.rounds.begun.fetch_add(1, Ordering::SeqCst) + 1;
                let round = self.round().await;
                if round.as_ref().is_ok_and(|round| round.buckets <= BUCKETS_MAX) {
                    self.rounds.done.store(number, Ordering::SeqCst);
                }
                if round.as_ref().is_ok_and(|round| round.buckets == 0) {
                    let _ = self.home.equal(self.peer.clone()).await;
                }
                match &round {
                    Ok(Round { fetched: 0, .. }) => {}
                    Ok(Round { buckets, fetched }) => {
                        tracing::info!(
                            peer = self.peer,
                            buckets,
                            fetched,
                            "fetched documents that the peer has and we had not"
                        );
                    }
                    Err(why) if failures == 0 => tracing::warn!(peer = self.peer, why, "documents not compared"),
                    Err(why) => tracing::debug!(peer = self.peer, why, "documents not compared, again"),
                }
                failures = if round.is_ok() { 0 } else { failures.saturating_add(1).min(2) };
                // A region that is far behind goes on at once.
                let goes_on = matches!(round, Ok(Round { fetched: 1.., .. }));
                is_asked &= round.is_err();
                next = Instant::now()
                    + match (goes_on, is_asked) {
                        (true, _) => LOOK,
                        // Somebody waits for it.
                        (false, true) => SETTLE * (1 + failures),
                        (false, false) => self.pause() * (1 + failures),
                    };
            }
            if fetched.is_err() {
                sleep(self.pause()).await;
            }
        }
    }

    /// Not all regions at once.
    fn pause(&self) -> Duration {
        self.options.compare.mul_f64(0.5 + self.entropy.next_f64())
    }

    async fn ours(&self, question: Question) -> Result<Answer, String> {
        self.home.answer(question).await.map_err(|error| error.to_string())
    }

    async fn theirs(&self, question: Question) -> Result<Answer, String> {
        self.remote.ask(question).await.map_err(|failure| failure.to_string())
    }

    /// Documents that deltas wait for.
    async fn fetch_wanted(&self) -> Result<(), String> {
        let keys = self.home.wanted(self.peer.clone()).await.map_err(|error| error.to_string())?;
        if !keys.is_empty() {
            marks::hit(Mark::DocumentWanted);
            self.fetch(keys).await?;
        }
        Ok(())
    }

    async fn sums(&self, ranges: &[Range]) -> Result<Vec<Range>, String> {
        let mut differ = Vec::new();
        for ranges in ranges.chunks(KEYS_MAX) {
            let question = Question::Sums(ranges.to_vec());
            match (self.ours(question.clone()).await?, self.theirs(question).await?) {
                (Answer::Sums(ours), Answer::Sums(theirs)) if theirs.len() == ranges.len() => {
                    let pairs = ranges.iter().zip(ours.into_iter().zip(theirs));
                    differ.extend(pairs.filter(|(_, (ours, theirs))| ours != theirs).map(|(range, _)| *range));
                }
                other => return Err(format!("not what was asked for: {other:?}")),
            }
        }
        Ok(differ)
    }

    /// Asks how the peer slept, where it matters.
    async fn wake(&self) -> Result<(), String> {
        if !self.home.wakes(None).await.map_err(|error| error.to_string())? {
            return Ok(());
        }
        let slept = match self.remote.ask(Question::Slept).await {
            Ok(Answer::Slept(slept)) => slept,
            // A build that does not know the question never waited for an answer.
            Ok(_) | Err(Failure::Refused(_)) => None,
            Err(failure) => return Err(failure.to_string()),
        };
        self.home.wakes(Some((self.peer.clone(), slept))).await.map(drop).map_err(|error| error.to_string())
    }

    async fn round(&self) -> Result<Round, String> {
        let met = meet(&*self.home, &*self.remote, &self.name, &self.peer).await?;
        // After that: who is out is not waited for.
        self.wake().await?;
        self.term.store(met.theirs.term, Ordering::SeqCst);
        if !met.theirs.takes_part || met.theirs.term < met.ours.standing.term(&self.peer) {
            return Err(format!("{} is evicted or was away for long: nothing is fetched from it yet", self.peer));
        }
        if !met.ours.takes_part {
            return Err("this region is evicted or was away for long, and fetches nothing yet".to_owned());
        }
        let mut ranges = vec![Range::ALL];
        loop {
            ranges = self.sums(&ranges).await?;
            if ranges.is_empty() {
                self.mismatched.set(0.0);
                return Ok(Round::default());
            }
            if ranges[0].is_bucket() {
                break;
            }
            ranges = ranges.into_iter().flat_map(Range::narrower).collect();
        }
        marks::hit(Mark::CompareNarrowed);
        // Comparing again shows what only was on its way.
        sleep(SETTLE).await;
        ranges = self.sums(&ranges).await?;
        self.mismatched.set(ranges.len() as f64);
        if ranges.is_empty() {
            marks::hit(Mark::CompareSettled);
        }
        let buckets = ranges.len();
        let mut fetched = 0;
        for range in ranges.into_iter().take(BUCKETS_MAX) {
            fetched += self.bucket(range.index).await?;
        }
        if fetched > 0 {
            marks::hit(Mark::CompareFetched);
        }
        Ok(Round { buckets, fetched })
    }

    async fn listed(&self, bucket: u16, theirs: bool) -> Result<BTreeMap<Key, Digest>, String> {
        let mut all = BTreeMap::new();
        let mut after = None;
        loop {
            let question = Question::List { bucket, after: after.clone() };
            let answer = if theirs { self.theirs(question).await? } else { self.ours(question).await? };
            let Answer::List { listed, more } = answer else {
                return Err("not what was asked for: a listing".to_owned());
            };
            let last = listed.last().map(|listed| listed.key.clone());
            all.extend(listed.into_iter().map(|listed| (listed.key, listed.digest)));
            match (more, last) {
                (true, Some(last)) if after.as_ref() != Some(&last) => after = Some(last),
                _ => return Ok(all),
            }
        }
    }

    /// Brings the documents of a bucket up to what the peer has. What only we have may be deleted there, so it is asked
    /// for as well.
    async fn bucket(&self, bucket: u16) -> Result<usize, String> {
        let (ours, theirs) = (self.listed(bucket, false).await?, self.listed(bucket, true).await?);
        let keys = ours.keys().chain(theirs.keys()).filter(|key| ours.get(key) != theirs.get(key));
        let mut keys: Vec<Key> = keys.cloned().collect();
        keys.sort();
        keys.dedup();
        let mut fetched = 0;
        for keys in keys.chunks(FETCHED) {
            fetched += self.fetch(keys.to_vec()).await?;
        }
        Ok(fetched)
    }

    async fn fetch(&self, keys: Vec<Key>) -> Result<usize, String> {
        let from = From { peer: self.peer.clone(), term: self.term.load(Ordering::SeqCst) };
        fetch(&*self.home, &*self.remote, &from, keys).await
    }
}

/// Merges documents of a peer, at most [`FETCHED`]; answers how many of ours changed.
pub async fn fetch(
    home: &dyn Home,
    remote: &dyn RemoteDocuments,
    from: &From,
    mut keys: Vec<Key>,
) -> Result<usize, String> {
    let mut changed = 0;
    while !keys.is_empty() {
        let answer = remote.ask(Question::Wholes(keys.clone())).await.map_err(|failure| failure.to_string())?;
        let Answer::Wholes(wholes) = answer else {
            return Err("not what was asked for: documents".to_owned());
        };
        if wholes.is_empty() || wholes.len() > keys.len() {
            return Err(format!("{} documents for {} asked for", wholes.len(), keys.len()));
        }
        let rest = keys.split_off(wholes.len());
        let mut documents = Vec::new();
        for (key, whole) in std::mem::replace(&mut keys, rest).into_iter().zip(wholes) {
            let Some(whole) = whole else { continue };
            documents.push((key, Document::decode(&whole).map_err(|error| error.to_string())?));
        }
        if !documents.is_empty() {
            changed += home.merge(from.clone(), documents).await.map_err(|error| error.to_string())?;
        }
    }
    Ok(changed)
}

/// What two regions said of evictions, each with what the other knows.
pub struct Meeting {
    pub ours: Met,
    pub theirs: Met,
}

/// Both sides come to know who is evicted. A region that does not know the question knows of none.
pub async fn meet(home: &dyn Home, remote: &dyn RemoteDocuments, name: &str, peer: &str) -> Result<Meeting, String> {
    let ours = home.meet(None).await.map_err(|error| error.to_string())?;
    let question = Question::Standing { of: name.to_owned(), standing: ours.standing };
    let theirs = match remote.ask(question).await {
        Ok(Answer::Standing(theirs)) => theirs,
        Ok(_) | Err(Failure::Refused(_)) => Met { takes_part: true, ..Met::default() },
        Err(failure) => return Err(failure.to_string()),
    };
    let ours = home.meet(Some((peer.to_owned(), theirs.clone()))).await.map_err(|error| error.to_string())?;
    Ok(Meeting { ours, theirs })
}

/// What came of comparing once.
#[derive(Default)]
struct Round {
    /// That differed.
    buckets: usize,
    /// Documents that changed here.
    fetched: usize,
}
