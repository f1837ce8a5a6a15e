//! What operators ask for: a region is left, or comes back.
//!
//! Nothing of it is kept here: each step is decided by votes, and the document says how far it is. Whoever asks again,
//! at whatever agent, goes on where it stands; what another command changed meanwhile ends it.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{
    Certainty, Regions,
    rounds::{Decided, Undecided},
};
use crate::{
    core::{
        region::{
            Ballot, Mode, State,
            order::{Order, Step},
            proof::{self, Exposure, Heads, Origin, Report},
        },
        time::Timestamp,
    },
    marks::{self, Mark},
    ports::regions::{self, Answer, Question},
};

/// How often a region is asked how far it is; where it tells that once a heartbeat, less often.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_AT_TABLE: Duration = Duration::from_secs(1);

/// What an operator wants.
#[derive(Clone, Debug)]
pub struct Request {
    pub region: String,
    pub mode: Mode,
    pub force: bool,
    /// Forced also without a majority: no other agent gets one either.
    pub alone: bool,
    pub by: String,
    pub reason: String,
    /// For a drill: no cool-down, neither before nor after.
    pub drill: bool,
    /// How long links may take to bring everything over.
    pub wait: Duration,
}

/// What would be lost, or is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rpo {
    /// `proven`: nothing. `estimated`: nothing, as far as queues tell. `exposed`: at most what is stated, and what the region
    /// took in since it was heard last.
    pub kind: &'static str,
    pub events: Option<u64>,
    pub seconds: Option<f64>,
    /// All that the region accepted up to here is safe. RFC 3339.
    pub since: Option<String>,
}

impl Rpo {
    /// Everything is where it must be.
    pub(super) fn nothing(certainty: Certainty) -> Rpo {
        let kind = match certainty {
            Certainty::Proven => "proven",
            Certainty::Estimated => "estimated",
        };
        Rpo { kind, events: Some(0), seconds: Some(0.0), since: None }
    }

    pub(super) fn exposed(exposure: &Exposure) -> Rpo {
        Rpo {
            kind: "exposed",
            events: exposure.events,
            seconds: exposure.seconds,
            since: exposure.since.map(Timestamp::to_rfc3339),
        }
    }
}

/// How long a part of it took.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Phase {
    pub phase: &'static str,
    pub seconds: f64,
}

/// What came of a command.
#[derive(Clone, Debug, Serialize)]
pub struct Done {
    pub region: String,
    pub mode: Option<&'static str>,
    pub from: State,
    pub to: State,
    /// It was so before: nothing was done.
    pub already: bool,
    pub epoch: u64,
    pub forced: bool,
    pub votes: Vec<String>,
    pub coordinator: String,
    pub phases: Vec<Phase>,
    pub seconds: f64,
    pub rpo: Option<Rpo>,
    /// What it was done without: dead letters, and what was forced.
    pub open: Vec<String>,
}

impl Done {
    /// Everything is everywhere, but for what is still `open`.
    fn with_all_but(self, open: Vec<String>, certainty: Certainty) -> Done {
        Done { rpo: open.is_empty().then(|| Rpo::nothing(certainty)), open, ..self }
    }
}

/// Why it was not done. What was decided until then holds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("region `{0}` is not in the topology file")]
    Unknown(String),
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Undecided(#[from] Undecided),
    #[error(
        "{region} is {state} and not done within {seconds} s; ask again to go on, or `hubweave failover abort`. Open: {open}"
    )]
    NotYet { region: String, state: &'static str, seconds: u64, open: String },
}

/// How long a command waits for what is open.
struct Patience<'a> {
    request: &'a Request,
    /// What its region is meanwhile, and since which decision.
    state: &'static str,
    ballot: Ballot,
    deadline: Instant,
}

impl<'a> Patience<'a> {
    fn new(request: &'a Request, state: &'static str, ballot: Ballot) -> Self {
        Patience { request, state, ballot, deadline: Instant::now() + request.wait }
    }

    /// Whether nothing is open any more.
    ///
    /// # Errors
    /// The time is up, or another command came between.
    fn is_over(&self, regions: &Regions, open: Vec<String>) -> Result<bool, Error> {
        if open.is_empty() {
            return Ok(true);
        }
        let region = &self.request.region;
        if Instant::now() >= self.deadline {
            let (region, seconds) = (region.clone(), self.request.wait.as_secs());
            return Err(Error::NotYet { region, state: self.state, seconds, open: open.join("; ") });
        }
        let view = regions.view();
        if view.ballot_of(region) != self.ballot {
            let now = view.decided(region).as_str();
            return Err(Error::Refused(format!("{region} was made {now} by another command")));
        }
        Ok(false)
    }

    /// As [`is_over`](Self::is_over); but a command that is forced does without what does not come in time, and says so.
    fn is_over_or_forced(
        &self,
        regions: &Regions,
        open: Vec<String>,
        without: &mut Vec<String>,
    ) -> Result<bool, Error> {
        match self.is_over(regions, open) {
            Err(Error::NotYet { open, .. }) if self.request.force => {
                let Request { region, by, .. } = self.request;
                tracing::warn!(region, by, open, "goes on without this, by force");
                without.push(open);
                Ok(true)
            }
            over => over,
        }
    }
}

/// Takes the time of each part.
struct Watch<'a> {
    regions: &'a Regions,
    began: Instant,
    last: Instant,
    phases: Vec<Phase>,
}

impl<'a> Watch<'a> {
    fn new(regions: &'a Regions) -> Self {
        let now = Instant::now();
        Watch { regions, began: now, last: now, phases: Vec::new() }
    }

    fn lap(&mut self, phase: &'static str) {
        let seconds = self.last.elapsed().as_secs_f64();
        self.last = Instant::now();
        self.regions.metrics.regions.failover_duration.with_label_values(&[phase]).observe(seconds);
        self.phases.push(Phase { phase, seconds });
    }

    fn done(mut self, request: &Request, from: State, to: State, decided: Decided, rpo: Option<Rpo>) -> Done {
        self.last = self.began;
        let seconds = self.began.elapsed().as_secs_f64();
        self.regions.metrics.regions.failover_duration.with_label_values(&["total"]).observe(seconds);
        Done {
            region: request.region.clone(),
            mode: None,
            from,
            to,
            already: false,
            epoch: self.regions.view().ballot_of(&request.region).epoch,
            forced: decided.without_majority,
            votes: decided.votes,
            coordinator: self.regions.home.clone(),
            phases: self.phases,
            seconds,
            rpo,
            open: Vec::new(),
        }
    }
}

impl Regions {
    fn order(&self, request: &Request, step: Step, after: Ballot) -> Order {
        Order {
            region: request.region.clone(),
            step,
            after,
            forced: request.force,
            at: self.clock.now(),
            by: request.by.clone(),
            reason: request.reason.clone(),
            coordinator: self.home.clone(),
            drill: request.drill,
        }
    }

    /// Has one step decided, and its region told.
    async fn take(&self, request: &Request, step: Step, after: Ballot) -> Result<Decided, Undecided> {
        let decided = self.decide(&self.order(request, step, after), request.alone).await?;
        if request.region != self.home {
            self.exchange_with(&request.region).await;
        }
        Ok(decided)
    }

    fn already(&self, request: &Request, state: State) -> Done {
        Done {
            region: request.region.clone(),
            mode: None,
            from: state,
            to: state,
            already: true,
            epoch: self.view().ballot_of(&request.region).epoch,
            forced: false,
            votes: Vec::new(),
            coordinator: self.home.clone(),
            phases: Vec::new(),
            seconds: 0.0,
            rpo: None,
            open: Vec::new(),
        }
    }

    /// Whether a region came back so short a time ago that none is moved out yet; how long it still takes.
    pub(super) fn cooling(&self, drill: bool) -> Option<Duration> {
        let view = self.view();
        let back = view.log.iter().rev().find(|decision| decision.to == State::Active && !decision.drill)?;
        // A region whose clock is ahead wrote a time that is still to come: that says nothing.
        let now = self.clock.now();
        let left = self.options.cool_down.checked_sub(now.since(back.at)).filter(|_| back.at <= now)?;
        (!drill && !left.is_zero()).then_some(left)
    }
}

/// What operators ask for, at an agent of a region.
#[derive(Clone, Copy)]
pub struct Commands<'a> {
    pub regions: &'a Regions,
    /// What the own region knows.
    pub own: &'a dyn regions::Regions,
}

impl Commands<'_> {
    fn look(&self) -> Duration {
        match self.regions.certainty {
            Certainty::Proven => LOOK,
            Certainty::Estimated => LOOK_AT_TABLE,
        }
    }

    pub(super) fn check_region(&self, region: &str) -> Result<(), Error> {
        match self.regions.members.contains(region) {
            true => Ok(()),
            false => Err(Error::Unknown(region.to_owned())),
        }
    }

    /// Moves users out of a region.
    ///
    /// # Errors
    /// It is not done, or not yet; what was decided holds.
    pub async fn evacuate(&self, request: &Request) -> Result<Done, Error> {
        self.check_region(&request.region)?;
        self.regions.exchange().await;
        match (self.regions.view().decided(&request.region), request.mode) {
            (State::Evacuated, _) => Ok(self.regions.already(request, State::Evacuated)),
            (_, Mode::Graceful) => self.drain_region(request).await,
            (_, Mode::Ungraceful) => self.abandon(request).await,
        }
        .map(|done| Done { mode: Some(request.mode.as_str()), ..done })
    }

    async fn drain_region(&self, request: &Request) -> Result<Done, Error> {
        let (regions, region) = (self.regions, &request.region);
        let from = regions.view().decided(region);
        let mut watch = Watch::new(regions);
        if from != State::Draining {
            self.permit(request, &self.reports().await)?;
            regions.take(request, Step::Drain, regions.view().ballot_of(region)).await?;
            watch.lap("vote");
        }
        let ballot = regions.view().ballot_of(region);
        let patience = Patience::new(request, "draining", ballot);
        let mut without = loop {
            let (mut open, undeliverable) = match self.report_of(region).await {
                // It closed because of this, not of something before it.
                Some(report) if report.view.ballot_of(region) == ballot => {
                    (proof::undrained(&report, &regions.members), proof::undeliverable(&report, |_| true))
                }
                _ => {
                    regions.exchange_with(region).await;
                    (vec![format!("{region} does not answer, or has not been told yet")], Vec::new())
                }
            };
            if !request.force {
                open.extend(undeliverable.iter().cloned());
            }
            if patience.is_over(regions, open)? {
                break undeliverable;
            }
            sleep(self.look()).await;
        };
        watch.lap("drain");
        self.compare(&patience, &mut without).await?;
        watch.lap("compare");
        // What only this region has of one that is lost leaves with it.
        let reports = self.reports().await;
        let serving = self.serving(region);
        if let Some(own) = reports.get(region) {
            for other in serving.iter().filter_map(|other| reports.get(other)) {
                without.extend(proof::of_others(own, other, |origin| brings(origin, &serving, &reports)).1);
            }
        }
        let decided = regions.take(request, Step::Evacuate(Mode::Graceful), ballot).await?;
        watch.lap("vote");
        marks::hit(Mark::RegionDrained);
        Ok(watch.done(request, from, State::Evacuated, decided, None).with_all_but(without, regions.certainty))
    }

    async fn abandon(&self, request: &Request) -> Result<Done, Error> {
        let (regions, region) = (self.regions, &request.region);
        let (from, ballot) = (regions.view().decided(region), regions.view().ballot_of(region));
        let mut watch = Watch::new(regions);
        let reports = self.reports().await;
        self.permit(request, &reports)?;
        let survivors = reports.values().filter(|report| report.region != *region);
        let rpo = Rpo::exposed(&proof::exposure(region, survivors));
        watch.lap("assess");
        // The region itself, if it can be reached, was told with the others.
        let order = regions.order(request, Step::Evacuate(Mode::Ungraceful), ballot);
        let decided = regions.decide(&order, request.alone).await?;
        watch.lap("vote");
        marks::hit(Mark::RegionAbandoned);
        Ok(watch.done(request, from, State::Evacuated, decided, Some(rpo)))
    }

    /// Brings a region back: it catches up, and then users are sent to it again.
    ///
    /// # Errors
    /// It is not done, or not yet; what was decided holds.
    pub async fn fail_back(&self, request: &Request) -> Result<Done, Error> {
        self.check_region(&request.region)?;
        let (regions, region) = (self.regions, &request.region);
        regions.exchange().await;
        let from = regions.view().decided(region);
        let mut watch = Watch::new(regions);
        match from {
            State::Active => return Ok(regions.already(request, State::Active)),
            State::Draining => {
                let why =
                    format!("{region} is draining: `hubweave failover abort --region {region}` makes it active again");
                return Err(Error::Refused(why));
            }
            State::Evacuated if regions.view().state(region, &regions.members) == State::Active => {
                // It never ceased to serve: too few would have been left.
                let decided = regions.take(request, Step::Activate, regions.view().ballot_of(region)).await?;
                watch.lap("vote");
                return Ok(watch.done(request, from, State::Active, decided, None));
            }
            State::Evacuated => {
                regions.take(request, Step::Recover, regions.view().ballot_of(region)).await?;
                watch.lap("vote");
            }
            State::Recovering => {}
        }
        let ballot = regions.view().ballot_of(region);
        let patience = Patience::new(request, "recovering", ballot);
        let mut open = Vec::new();
        let mut heads = BTreeMap::new();
        loop {
            let behind = self.behind(region, ballot, &mut heads).await;
            if patience.is_over_or_forced(regions, behind, &mut open)? {
                break;
            }
            sleep(self.look()).await;
        }
        watch.lap("catch_up");
        self.compare(&patience, &mut open).await?;
        watch.lap("compare");
        let decided = regions.take(request, Step::Activate, ballot).await?;
        watch.lap("vote");
        marks::hit(Mark::RegionBack);
        let reports = self.reports().await;
        for report in reports.values() {
            open.extend(proof::undeliverable(report, |peer| report.region == *region || peer == region));
        }
        let serving = self.serving(region);
        if let Some(own) = reports.get(region) {
            for other in serving.iter().filter_map(|other| reports.get(other)) {
                let of = |origin: &str| brings(origin, &serving, &reports);
                open.extend(proof::of_others(own, other, of).1);
                open.extend(proof::of_others(other, own, of).1);
            }
        }
        Ok(watch.done(request, from, State::Active, decided, None).with_all_but(open, regions.certainty))
    }

    /// The regions that one that comes back must be equal to.
    fn serving(&self, but: &str) -> Vec<String> {
        let states = self.regions.view().states(&self.regions.members);
        let serves = |(other, state): &(&String, &State)| *other != but && **state != State::Evacuated;
        states.iter().filter(serves).map(|(other, _)| other.clone()).collect()
    }

    /// What `region` and those that serve do not have of each other. What they must have is fixed at the first look.
    async fn behind(&self, region: &str, ballot: Ballot, heads: &mut BTreeMap<String, Heads>) -> Vec<String> {
        let reports = self.reports().await;
        let Some(own) = reports.get(region) else { return vec![format!("{region} does not answer")] };
        if own.view.ballot_of(region) != ballot || own.closed.is_none() {
            self.regions.exchange_with(region).await;
            return vec![format!("{region} has not been told yet")];
        }
        let (mut open, serving) = (Vec::new(), self.serving(region));
        for other in &serving {
            let Some(report) = reports.get(other) else {
                open.push(format!("{other} does not answer"));
                continue;
            };
            if report.view.ballot_of(region) != ballot {
                self.regions.exchange_with(other).await;
                open.push(format!("{other} has not been told yet"));
                continue;
            }
            let heads = *heads.entry(other.clone()).or_insert(Heads { own: own.head, other: report.head });
            open.extend(proof::unequal(own, report, heads));
            let of = |origin: &str| brings(origin, &serving, &reports);
            open.extend(proof::of_others(own, report, of).0);
            open.extend(proof::of_others(report, own, of).0);
        }
        open
    }

    /// Has documents compared in both directions between the region and those that serve.
    async fn compare(&self, patience: &Patience<'_>, without: &mut Vec<String>) -> Result<(), Error> {
        let mut begun = BTreeMap::new();
        loop {
            let open = self.uncompared(&patience.request.region, &mut begun).await;
            if patience.is_over_or_forced(self.regions, open, without)? {
                return Ok(());
            }
            sleep(self.look()).await;
        }
    }

    /// Documents that are still being compared; asks for it at the first look. `begun`, by pair of regions: how many rounds
    /// had begun then.
    async fn uncompared(&self, region: &str, begun: &mut BTreeMap<(String, String), Option<u64>>) -> Vec<String> {
        let serving = self.serving(region);
        let pairs =
            serving.iter().flat_map(|other| [(region.to_owned(), other.clone()), (other.clone(), region.to_owned())]);
        let mut open = Vec::new();
        for (one, other) in pairs {
            let what = format!("documents of {one} are compared with those of {other}");
            let pair = (one.clone(), other.clone());
            if !begun.contains_key(&pair) {
                let question = Question::Compare { with: other.clone() };
                let asked = match one == self.regions.home {
                    true => self.own.answer(question).await.ok(),
                    false => self.regions.ask(&one, question).await.ok(),
                };
                if let Some(Answer::Compares { begun: rounds }) = asked {
                    begun.insert(pair.clone(), rounds);
                }
            }
            match begun.get(&pair) {
                None => open.push(what),
                Some(None) => {}
                Some(Some(rounds)) => match self.report_of(&one).await {
                    Some(report) if proof::has_compared(&report, &other, *rounds) => {}
                    Some(report) => {
                        open.push(what);
                        // It started again, and counts anew.
                        if report.compared.get(&other).is_some_and(|compared| compared.begun < *rounds) {
                            begun.remove(&pair);
                        }
                    }
                    None => open.push(what),
                },
            }
        }
        open
    }

    /// Takes back what is under way.
    ///
    /// # Errors
    /// It is not done.
    pub async fn abort(&self, request: &Request) -> Result<Done, Error> {
        self.check_region(&request.region)?;
        let (regions, region) = (self.regions, &request.region);
        regions.exchange().await;
        let from = regions.view().decided(region);
        let (step, to) = match from {
            State::Draining => (Step::Activate, State::Active),
            State::Recovering => (Step::GiveUp, State::Evacuated),
            state => return Ok(regions.already(request, state)),
        };
        let mut watch = Watch::new(regions);
        let decided = regions.take(request, step, regions.view().ballot_of(region)).await?;
        watch.lap("vote");
        Ok(watch.done(request, from, to, decided, None))
    }

    /// Evacuates what a majority suspects for long enough, where that is configured.
    pub(in crate::agent) async fn evacuate_suspects(&self) {
        let Some(patience) = self.regions.options.auto else { return };
        let regions = self.regions;
        let lost = |region: &&String| {
            let heard = &regions.heard;
            heard.is_suspected(region) && heard.silent(region) >= patience
        };
        let view = regions.view();
        let suspects: Vec<String> = regions.members.regions.iter().filter(lost).cloned().collect();
        let serves = |region: &&String| view.decided(region) == State::Active && !suspects.contains(*region);
        // One of them, so that they do not outbid each other.
        if suspects.is_empty() || regions.members.regions.iter().find(serves) != Some(&regions.home) {
            return;
        }
        for region in suspects.into_iter().filter(|region| view.decided(region) == State::Active) {
            let reports = self.reports().await;
            let agree =
                reports.values().filter(|report| report.heard.get(&region).is_some_and(|heard| heard.suspected));
            if agree.count() < regions.members.majority() {
                continue;
            }
            let request = Request {
                region: region.clone(),
                mode: Mode::Ungraceful,
                force: false,
                alone: false,
                by: format!("the agent of {}", regions.home),
                reason: format!("a majority heard nothing of it for {} s (failover.auto)", patience.as_secs()),
                drill: false,
                wait: Duration::ZERO,
            };
            match self.evacuate(&request).await {
                Ok(_) => {}
                Err(error) => tracing::error!(region, %error, "a region is lost and not evacuated"),
            }
        }
    }
}

fn brings(origin: &str, serving: &[String], reports: &BTreeMap<String, Report>) -> Origin {
    match (reports.contains_key(origin), serving.iter().any(|region| region == origin)) {
        (true, true) => Origin::Serves,
        (true, false) => Origin::Answers,
        (false, _) => Origin::Silent,
    }
}
