//! Which regions serve users, as one region holds it: its vote, what it heard of the others, and what follows for it.
//!
//! [`rounds`] is how a change is decided, [`failover`] what operators ask for, step by step, and [`inventory`] what came
//! late of a region that was left as it was.

mod closing;
pub mod failover;
pub mod heard;
pub mod inventory;
mod minding;
pub mod plan;
mod reports;
mod rounds;

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
    time::{Instant, timeout},
};

use self::heard::Heard;
use super::inbox::read_state;
use crate::{
    config::{Config, Failover},
    core::{
        journal::Change,
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
        hub::{self, Hub},
        regions::{Answer, Error, Question, RemoteRegion},
    },
};

/// A question to another region is given up after this; to one of which nothing is heard anyway, after less.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
const SUSPECT_TIMEOUT: Duration = Duration::from_millis(500);

/// After the hub was found not to accept, it must accept for so long until users are sent here again.
const HEALTH_RISE: Duration = Duration::from_secs(3);

/// Heartbeats that the hub may refuse in a row, or intervals for which it may not answer, before users are sent elsewhere.
const HEALTH_FALL: u32 = 3;

/// What a region's part in it is made of.
pub struct Ports {
    pub hub: Arc<dyn Hub>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub metrics: Arc<Metrics>,
}

/// The vote and the view of one region. What others do through it is in the sub-modules.
pub struct Regions {
    pub home: String,
    pub members: Members,
    pub options: Failover,
    hub: Arc<dyn Hub>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    metrics: Arc<Metrics>,
    /// The others of the file that can be asked.
    remotes: BTreeMap<String, Arc<dyn RemoteRegion>>,
    pub heard: Arc<Heard>,
    /// Held while something is changed, so that what is on disk and what is answered come in one order.
    writing: tokio::sync::Mutex<()>,
    kept: Mutex<Kept>,
    /// Wakes who minds the regions.
    changed: Notify,
    /// The process is to stop, or an operator wants nothing more of services.
    process_drains: AtomicBool,
    /// See [`Report::closed`](crate::core::region::proof::Report::closed); and the decision that it belongs to.
    closed: Mutex<Option<(Ballot, u64)>>,
    /// Held while the hub is brought into line: an older look must not come last.
    following: Mutex<()>,
    health: Mutex<Health>,
    /// Others were asked once, or did not answer in time: what is known here is as good as it gets.
    introduced: AtomicBool,
}

/// Whether the hub accepts, with hysteresis: a probe should not see a region come and go.
struct Health {
    refusals: u32,
    /// A heartbeat that is not answered yet, and how long it may take.
    offered: Option<(Instant, Duration)>,
    /// When it last refused too often.
    fell: Option<Instant>,
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
        Ports { hub, clock, entropy, metrics }: Ports,
        remotes: BTreeMap<String, Arc<dyn RemoteRegion>>,
    ) -> Regions {
        let regions: Vec<String> = config.regions.iter().map(|region| region.name.clone()).collect();
        let others = regions.iter().filter(|region| *region != home);
        let patience = others.map(|region| (region.clone(), config.suspect_after(region))).collect();
        let kept = read_state(&*hub, |state| state.regions.as_deref().cloned()).unwrap_or_default();
        Regions {
            home: home.to_owned(),
            members: Members { regions, min_active: config.cluster.min_active },
            options: config.failover.clone(),
            hub,
            clock,
            entropy,
            metrics,
            introduced: AtomicBool::new(remotes.is_empty()),
            remotes,
            heard: Arc::new(Heard::new(patience)),
            writing: tokio::sync::Mutex::default(),
            kept: Mutex::new(kept),
            changed: Notify::new(),
            process_drains: AtomicBool::new(false),
            closed: Mutex::default(),
            following: Mutex::default(),
            health: Mutex::new(Health { refusals: 0, offered: None, fell: None }),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is decided, as far as this region knows.
    pub fn view(&self) -> View {
        self.kept().voter.view.clone()
    }

    /// When regions were left as they were.
    pub fn left(&self) -> BTreeMap<String, crate::core::region::Left> {
        self.kept().left.clone()
    }

    /// What this region is.
    pub fn state(&self) -> State {
        self.kept().voter.view.state(&self.home, &self.members)
    }

    /// From now on services get nothing any more, whatever the region is.
    pub fn drain_process(&self) {
        self.process_drains.store(true, Ordering::SeqCst);
        self.follow();
    }

    pub fn process_drains(&self) -> bool {
        self.process_drains.load(Ordering::SeqCst)
    }

    /// Changes what is kept, on disk first.
    async fn change<T>(&self, change: impl FnOnce(&mut Kept) -> T) -> Result<T, hub::Error> {
        let _writing = self.writing.lock().await;
        let (changed, result) = {
            let kept = self.kept();
            let mut changed = kept.clone();
            let result = change(&mut changed);
            ((*kept != changed).then_some(changed), result)
        };
        if let Some(changed) = changed {
            self.hub.note(vec![Change::Regions { kept: Box::new(changed.clone()) }.into()]).await?;
            let before = std::mem::replace(&mut *self.kept(), changed);
            // First: a log line may take its time.
            self.follow();
            self.tell(&before.voter.view);
            self.changed.notify_one();
        }
        Ok(result)
    }

    /// Votes, accepts or learns.
    async fn vote(&self, message: &Message) -> Result<Vote, hub::Error> {
        let (head, now) = (self.hub.end().offset, self.clock.now());
        self.change(|kept| match message {
            Message::Learn(view) => {
                kept.learn(&self.home, view, head, now);
                Vote::Known(kept.voter.view.clone())
            }
            message => kept.voter.answer(&self.home, message),
        })
        .await
    }

    /// Takes in what is decided.
    pub(super) async fn learn(&self, view: &View) -> Result<(), hub::Error> {
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

    /// Brings the hub and the metrics into line with what this region is.
    pub fn follow(&self) {
        let _following = self.following.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.state();
        let drains = self.process_drains();
        self.hub.set_draining(drains || state != State::Active);
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

    /// A heartbeat is offered to the hub (`None`), went in, or did not; one comes each `interval`.
    pub fn beat(&self, accepted: Option<bool>, interval: Duration) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(accepted) = accepted else {
            health.offered = Some((Instant::now(), interval * HEALTH_FALL));
            return;
        };
        let hung = health.offered.take().is_some_and(|(since, patience)| since.elapsed() >= patience);
        health.refusals = if accepted { 0 } else { health.refusals.saturating_add(1) };
        if hung || health.refusals >= HEALTH_FALL {
            health.fell = Some(Instant::now());
        }
    }

    /// Why users should not be sent here; `None` where they should.
    pub fn unhealthy(&self) -> Option<&'static str> {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        match self.state() {
            State::Draining => Some("the region is being drained"),
            State::Evacuated => Some("the region is evacuated"),
            State::Recovering => Some("the region catches up"),
            State::Active if self.process_drains() => Some("stopping"),
            State::Active if !self.introduced.load(Ordering::SeqCst) => Some("starting: the other regions are asked"),
            State::Active if health.refusals >= HEALTH_FALL => Some("the hub does not accept"),
            State::Active if health.offered.is_some_and(|(since, patience)| since.elapsed() >= patience) => {
                Some("the hub does not answer: its disk may hang")
            }
            State::Active if health.fell.is_some_and(|fell| fell.elapsed() < HEALTH_RISE) => {
                Some("the hub accepts again, but not for long")
            }
            State::Active => None,
        }
    }

    async fn ask(&self, region: &str, question: Question) -> Result<Answer, Failure> {
        if region == self.home {
            let unavailable = |error: hub::Error| Failure::Unanswered(error.to_string());
            return match question {
                Question::Vote(message) => {
                    self.vote(&message).await.map(|vote| Answer::Vote(Box::new(vote))).map_err(unavailable)
                }
                _ => Err(Failure::Refused("a region asks itself for votes alone".to_owned())),
            };
        }
        let Some(remote) = self.remotes.get(region) else {
            return Err(Failure::Refused(format!("{region} cannot be asked: it has no api listener")));
        };
        let patience = if self.heard.is_suspected(region) { SUSPECT_TIMEOUT } else { ASK_TIMEOUT };
        match timeout(patience, remote.ask(question)).await {
            Ok(Ok(answer)) => {
                self.heard.alive(region);
                Ok(answer)
            }
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(Failure::Unanswered(format!("no answer within {} s", patience.as_secs_f64()))),
        }
    }

    /// Asks all others whether they know the same, and brings both sides to what either knows.
    pub async fn exchange(&self) {
        let exchanges: Vec<_> = self.remotes.keys().map(|region| self.exchange_with(region).boxed()).collect();
        join_all(exchanges).await;
        let suspects = self.heard.suspects();
        for region in self.remotes.keys() {
            self.metrics
                .regions
                .suspected
                .with_label_values(&[region])
                .set(f64::from(u8::from(suspects.contains(region))));
        }
    }

    /// The others were asked, or are not waited for any more.
    pub(super) fn introduced(&self) {
        self.introduced.store(true, Ordering::SeqCst);
        self.follow();
    }

    async fn exchange_with(&self, region: &str) {
        let ours = self.view();
        match self.ask(region, Question::Same { digest: digest(&ours) }).await {
            Ok(Answer::Differs(view)) => {
                if let Err(error) = self.learn(&view).await {
                    tracing::warn!(region, %error, "what the region decided is not written down yet");
                    return;
                }
                let learn = Message::Learn(self.view());
                if let Err(error) = self.ask(region, Question::Vote(Box::new(learn))).await {
                    tracing::debug!(region, %error, "the region was not told what is decided; it is told again");
                }
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(region, %error, "the region does not say what it knows"),
        }
    }

    /// Notes that a drill ended; the others learn it by and by.
    ///
    /// # Errors
    /// The hub failed or is overloaded.
    pub async fn drilled(&self, drill: &str, verdict: &str, at: Timestamp) -> Result<(), hub::Error> {
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
            Question::Vote(message) => {
                let vote = self.vote(message).await;
                let unavailable = |error: hub::Error| Error::Unavailable(error.to_string());
                Some(vote.map(|vote| Answer::Vote(Box::new(vote))).map_err(unavailable))
            }
            Question::Report | Question::Compare { .. } => None,
        }
    }
}

/// Two views with the same digest are the same.
fn digest(view: &View) -> u64 {
    let text = serde_json::to_vec(view).unwrap_or_default();
    let hash = Sha256::digest(&text);
    hash.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
