//! Which regions serve users, as one region holds it: its vote, what it heard of the others, and what follows for it.
//!
//! [`rounds`] is how a change is decided, [`failover`] what operators ask for, step by step, and [`inventory`] what came
//! late of a region that was left as it was.

mod closing;
pub mod failover;
mod health;
pub mod heard;
pub mod inventory;
mod minding;
pub mod plan;
mod reports;
mod rounds;
mod store;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, future::join_all};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use self::heard::Heard;
pub use self::{
    health::{FALL, Health},
    store::HubStore,
};
use crate::{
    config::{Config, Failover},
    core::{
        backoff::Backoff,
        link::Failure,
        region::{
            Ballot, Kept, Members, State, View,
            vote::{Message, Vote},
        },
        time::Timestamp,
    },
    metrics::{Metrics, REGION_STATES},
    ports::{
        clock::{Clock, Entropy},
        regions::{Answer, Error, Question, RegionStore, RemoteRegion},
    },
};

/// A question to another region is given up after this; to one of which nothing is heard anyway, after less.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
const SUSPECT_TIMEOUT: Duration = Duration::from_millis(500);

/// How often a change of what is kept is tried while others change it too, and the pauses in between.
pub const WRITES_MAX: u32 = 10;
pub const AGAIN: Backoff = Backoff { min: Duration::from_millis(10), max: Duration::from_millis(200) };

/// What a region's part in it is made of.
pub struct Ports {
    pub store: Arc<dyn RegionStore>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub metrics: Arc<Metrics>,
}

/// The vote and the view of one region. What others do through it is in the sub-modules.
pub struct Regions {
    pub home: String,
    pub members: Members,
    pub options: Failover,
    /// How well it can be told that nothing is lost.
    pub certainty: Certainty,
    store: Arc<dyn RegionStore>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    metrics: Arc<Metrics>,
    /// The others of the file that can be asked.
    remotes: BTreeMap<String, Arc<dyn RemoteRegion>>,
    pub heard: Arc<Heard>,
    /// Held while something is changed, so that what is on disk and what is answered come in one order.
    writing: tokio::sync::Mutex<()>,
    /// As it was seen last, and the version of that.
    kept: Mutex<(Kept, u64)>,
    /// Wakes who minds the regions.
    changed: Notify,
    /// The process is to stop, or an operator wants nothing more of services.
    process_drains: AtomicBool,
    /// See [`Report::closed`](crate::core::region::proof::Report::closed); and the decision that it belongs to.
    closed: Mutex<Option<(Ballot, u64)>>,
    /// Held while services are let in or kept out: an older look must not come last.
    following: Mutex<()>,
    pub health: Health,
    /// It was looked what is kept: until then this region may be something else than it takes itself for.
    looked: AtomicBool,
    /// Others were asked once, or did not answer in time: what is known here is as good as it gets.
    introduced: AtomicBool,
}

/// How well a region can tell where its events are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// Its links know of every event.
    Proven,
    /// Its queues count late, and do not say what they hold.
    Estimated,
}

/// A region as another one shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    pub region: String,
    /// What it is; see `decided` for what was decided where that is something else.
    pub state: State,
    pub decided: State,
    pub epoch: u64,
    pub mode: Option<&'static str>,
    pub forced: bool,
    /// RFC 3339.
    pub since: Option<String>,
    pub by: Option<String>,
    pub reason: Option<String>,
    /// It knows of it itself.
    pub knows: bool,
    pub suspected: bool,
    /// How long nothing was heard of it; `null` for the region itself.
    pub silent_seconds: Option<f64>,
}

impl Regions {
    pub fn new(
        config: &Config,
        home: &str,
        Ports { store, clock, entropy, metrics }: Ports,
        remotes: BTreeMap<String, Arc<dyn RemoteRegion>>,
        (certainty, health): (Certainty, Health),
    ) -> Regions {
        let regions: Vec<String> = config.regions.iter().map(|region| region.name.clone()).collect();
        let others = regions.iter().filter(|region| *region != home);
        let patience = others.map(|region| (region.clone(), config.suspect_after(region))).collect();
        Regions {
            home: home.to_owned(),
            members: Members { regions, min_active: config.cluster.min_active },
            options: config.failover.clone(),
            certainty,
            store,
            clock,
            entropy,
            metrics,
            looked: AtomicBool::new(false),
            introduced: AtomicBool::new(remotes.is_empty()),
            remotes,
            heard: Arc::new(Heard::new(patience)),
            writing: tokio::sync::Mutex::default(),
            kept: Mutex::default(),
            changed: Notify::new(),
            process_drains: AtomicBool::new(false),
            closed: Mutex::default(),
            following: Mutex::default(),
            health,
        }
    }

    fn kept(&self) -> MutexGuard<'_, (Kept, u64)> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks what is kept.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn look(&self) -> Result<(), Error> {
        let (kept, version) = self.store.load().await?;
        self.seen(kept, version);
        Ok(())
    }

    /// Whether it was looked what is kept, so that this region knows what it is.
    pub fn has_looked(&self) -> bool {
        self.looked.load(Ordering::SeqCst)
    }

    /// What is kept is this now, or was a moment ago.
    pub fn seen(&self, kept: Kept, version: u64) {
        let (before, is_same) = {
            let mut known = self.kept();
            // An older look must not come last.
            if version < known.1 {
                return;
            }
            let is_same = known.0 == kept;
            (std::mem::replace(&mut *known, (kept, version)).0, is_same)
        };
        let is_first = !self.looked.swap(true, Ordering::SeqCst);
        if is_same && !is_first {
            return;
        }
        // First: a log line may take its time.
        self.follow();
        if !is_first {
            self.tell(&before.voter.view);
        }
        self.changed.notify_one();
    }

    /// What is decided, as far as this region knows.
    pub fn view(&self) -> View {
        self.kept().0.voter.view.clone()
    }

    /// When regions were left as they were.
    pub fn left(&self) -> BTreeMap<String, crate::core::region::Left> {
        self.kept().0.left.clone()
    }

    /// What this region is.
    pub fn state(&self) -> State {
        self.kept().0.voter.view.state(&self.home, &self.members)
    }

    /// From now on services get nothing any more, whatever the region is.
    pub fn drain_process(&self) {
        self.process_drains.store(true, Ordering::SeqCst);
        self.follow();
    }

    pub fn process_drains(&self) -> bool {
        self.process_drains.load(Ordering::SeqCst)
    }

    /// Changes what is kept, where it is durable first.
    async fn change<T>(&self, change: impl Fn(&mut Kept) -> T) -> Result<T, Error> {
        let _writing = self.writing.lock().await;
        for attempt in 0..WRITES_MAX {
            if attempt > 0 {
                sleep(AGAIN.pause(attempt, self.entropy.next_f64())).await;
            }
            let (kept, version) = self.store.load().await?;
            let mut changed = kept.clone();
            let result = change(&mut changed);
            if kept == changed {
                // Somebody who did not wait for the end of it may have begun to write it.
                if self.kept().0 != kept {
                    self.store.settled().await?;
                }
                self.seen(kept, version);
                return Ok(result);
            }
            if self.store.store(&changed, version).await? {
                self.seen(changed, version + 1);
                return Ok(result);
            }
        }
        Err(Error::Unavailable(format!("others change what {} keeps all the time", self.home)))
    }

    /// Votes, accepts or learns.
    async fn vote(&self, message: &Message) -> Result<Vote, Error> {
        let (head, now) = (self.store.head(), self.clock.now());
        self.change(|kept| kept.answer(&self.home, message, head, now)).await
    }

    /// Takes in what is decided, and says that this region knows it.
    ///
    /// # Errors
    /// The store does not take it.
    pub async fn learn(&self, view: &View) -> Result<(), Error> {
        self.vote(&Message::Learn(view.clone())).await.map(drop)
    }

    /// Says in the log what is new.
    fn tell(&self, before: &View) {
        let view = self.view();
        for (region, entry) in &view.entries {
            if before.ballot_of(region) != entry.ballot {
                tracing::warn!(
                    region,
                    state = entry.state.as_str(),
                    epoch = entry.ballot.epoch,
                    by = entry.by,
                    reason = entry.reason,
                    forced = entry.forced,
                    "a region is something else now"
                );
            }
        }
    }

    /// Brings services and metrics into line with what this region is.
    pub fn follow(&self) {
        let _following = self.following.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.state();
        // An agent that cannot read what is decided takes nothing that would have to be somewhere else.
        let is_blind = self.certainty == Certainty::Estimated && self.health.problem().is_some();
        let drains = self.process_drains() || !self.has_looked() || is_blind;
        self.store.set_draining(drains || state != State::Active);
        let shown = if drains && state == State::Active { State::Draining } else { state };
        for known in REGION_STATES {
            self.metrics.region_state.with_label_values(&[known]).set(i64::from(known == shown.as_str()));
        }
        let view = self.view();
        self.metrics.regions.epoch.set(view.epoch() as f64);
        for (drill, verdicts) in &view.drills {
            for (verdict, at) in verdicts {
                self.metrics.regions.drill_last_run.with_label_values(&[drill, verdict]).set(at.as_secs_f64());
            }
        }
    }

    /// What is told of each region, in the file's order.
    pub fn shown(&self) -> Vec<Shown> {
        let view = self.view();
        let states = view.states(&self.members);
        let shown = self.members.regions.iter().map(|region| {
            let entry = view.entries.get(region);
            let other = (*region != self.home).then_some(region);
            Shown {
                region: region.clone(),
                state: states.get(region).copied().unwrap_or_default(),
                decided: view.decided(region),
                epoch: view.ballot_of(region).epoch,
                mode: entry.and_then(|entry| entry.mode).map(|mode| mode.as_str()),
                forced: entry.is_some_and(|entry| entry.forced),
                since: entry.map(|entry| entry.at.to_rfc3339()),
                by: entry.map(|entry| entry.by.clone()),
                reason: entry.map(|entry| entry.reason.clone()).filter(|reason| !reason.is_empty()),
                knows: view.knows(region, region),
                suspected: other.is_some_and(|other| self.heard.is_suspected(other)),
                silent_seconds: other.map(|other| self.heard.silent(other).as_secs_f64()),
            }
        });
        shown.collect()
    }

    /// Why users should not be sent here; `None` where they should.
    pub fn unhealthy(&self) -> Option<&'static str> {
        match self.state() {
            State::Draining => Some("the region is being drained"),
            State::Evacuated => Some("the region is evacuated"),
            State::Recovering => Some("the region catches up"),
            State::Active if self.process_drains() => Some("stopping"),
            State::Active if !self.has_looked() => Some("starting: what is decided was not read yet"),
            State::Active if !self.introduced.load(Ordering::SeqCst) => Some("starting: the other regions are asked"),
            State::Active => self.health.problem(),
        }
    }

    async fn ask(&self, region: &str, question: Question) -> Result<Answer, Failure> {
        if region == self.home {
            let unavailable = |error: Error| Failure::Unanswered(error.to_string());
            return match question {
                Question::Vote(message) => {
                    self.vote(&message).await.map(|vote| Answer::Vote(Box::new(vote))).map_err(unavailable)
                }
                _ => Err(Failure::Refused("a region asks itself for votes alone".to_owned())),
            };
        }
        let Some(remote) = self.remotes.get(region) else {
            return Err(Failure::Refused(format!("{region} cannot be asked: the file does not say where")));
        };
        let is_gone = remote.needs_agents() && self.heard.is_suspected(region);
        let patience = if is_gone { SUSPECT_TIMEOUT } else { ASK_TIMEOUT };
        match timeout(patience, remote.ask(question)).await {
            Ok(Ok(answer)) => {
                if remote.is_alive() {
                    self.heard.alive(region);
                }
                Ok(answer)
            }
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(Failure::Unanswered(format!("no answer within {} s", patience.as_secs_f64()))),
        }
    }

    /// Asks all others whether they know the same, and brings both sides to what either knows. Answers how many regions
    /// answer, this one included.
    pub async fn exchange(&self) -> usize {
        let exchanges: Vec<_> = self.remotes.keys().map(|region| self.exchange_with(region).boxed()).collect();
        let answer = join_all(exchanges).await.into_iter().filter(|answers| *answers).count();
        let suspects = self.heard.suspects();
        for region in self.remotes.keys() {
            self.metrics
                .regions
                .suspected
                .with_label_values(&[region])
                .set(f64::from(u8::from(suspects.contains(region))));
        }
        answer + 1
    }

    /// The others were asked, or are not waited for any more.
    pub(super) fn introduced(&self) {
        self.introduced.store(true, Ordering::SeqCst);
        self.follow();
    }

    /// Answers whether it answered.
    async fn exchange_with(&self, region: &str) -> bool {
        let ours = self.view();
        match self.ask(region, Question::Same { digest: digest(&ours) }).await {
            Ok(Answer::Differs(view)) => {
                if let Err(error) = self.learn(&view).await {
                    tracing::warn!(region, %error, "what the region decided is not written down yet");
                    return true;
                }
                let learn = Message::Learn(self.view());
                if let Err(error) = self.ask(region, Question::Vote(Box::new(learn))).await {
                    tracing::debug!(region, %error, "the region was not told what is decided; it is told again");
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(region, %error, "the region does not say what it knows");
                return false;
            }
        }
        true
    }

    /// Notes that a drill ended; the others learn it by and by.
    ///
    /// # Errors
    /// The store does not take it.
    pub async fn drilled(&self, drill: &str, verdict: &str, at: Timestamp) -> Result<(), Error> {
        self.change(|kept| kept.voter.view.drilled(drill, verdict, at)).await
    }

    /// Answers what it can by itself; `None` for the rest.
    pub(super) async fn answer(&self, question: &Question) -> Option<Result<Answer, Error>> {
        match question {
            Question::Same { digest: theirs } => {
                let view = self.view();
                let same = digest(&view) == *theirs;
                Some(Ok(if same { Answer::Same } else { Answer::Differs(Box::new(view)) }))
            }
            Question::Vote(message) => Some(self.vote(message).await.map(|vote| Answer::Vote(Box::new(vote)))),
            Question::Report | Question::Compare { .. } => None,
        }
    }
}

/// Two views with the same digest are the same.
pub fn digest(view: &View) -> u64 {
    let text = serde_json::to_vec(view).unwrap_or_default();
    let hash = Sha256::digest(&text);
    hash.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
