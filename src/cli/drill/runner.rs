//! Runs an experiment: the hypothesis, the method with what goes on beside it, the hypothesis again, the rollbacks.
//!
//! An interruption, or a hypothesis that no longer holds while the method runs, ends what is under way and leads to the
//! rollbacks, which nothing interrupts.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{perform::Hands, recovery, watch::Watch};
use crate::{
    cli::{Context, now, out},
    drill::{
        activity::{Activity, Kind, Provider},
        experiment::{Experiment, Rollback},
        journal::{DURING_MAX, DURING_OUTPUT_MAX, Run, RunStatus, State, Status, SteadyStates, Step, StepKind},
        measure::{Mark, Measure},
        timeline::millis,
        tolerance,
    },
};

/// After the rollbacks, catching up is waited for so long.
const CATCH_UP_WAIT: Duration = Duration::from_secs(30);

/// What came of a run, before it is judged.
pub struct Ran {
    pub drill: String,
    pub file: String,
    pub experiment: Experiment,
    pub start: String,
    pub status: Status,
    pub deviated: bool,
    pub steady_states: SteadyStates,
    pub run: Vec<Run>,
    pub rollbacks: Vec<Run>,
    pub steps: Vec<Step>,
    /// When the regions that were left served again, in seconds of the drill.
    pub served_at: Option<f64>,
    pub watch: Arc<Watch>,
    pub notes: Vec<String>,
}

type Runs = Arc<Mutex<Vec<Run>>>;

/// What activities share.
struct Runner {
    context: Context,
    experiment: Experiment,
    hands: Hands,
    watch: Arc<Watch>,
    steps: Mutex<Vec<Step>>,
    /// Names this run in what it writes.
    id: String,
    recovery: Mutex<Option<JoinHandle<Option<f64>>>>,
}

/// Runs it. What it changed is put back when this returns, however it went.
pub async fn run(
    context: &Context,
    name: &str,
    file: &Path,
    experiment: Experiment,
    env: Vec<(String, String)>,
    stop: CancellationToken,
) -> Ran {
    let mut notes = Vec::new();
    let extension = experiment.extension.clone().unwrap_or_default();
    if let Some(journal) = &extension.journal {
        // One of an earlier run would be taken for this one's.
        let _ = std::fs::remove_file(journal);
    }
    let regions = context.config.regions.iter().map(|region| region.name.clone());
    let measure = Measure::new(regions, extension.region.map(|region| region.name), extension.detect);
    let start = now().to_rfc3339();
    let watch = Watch::start(context, measure).await;
    let id = format!("{name}-{start}");
    let (steps, recovery) = (Mutex::default(), Mutex::default());
    let hands = Hands::new(with_path(env));
    let runner = Runner { context: context.clone(), experiment, hands, watch, steps, id, recovery };
    let runner = Arc::new(runner);
    runner.say(&format!("{name}: {}", runner.experiment.title));
    let played = runner.clone().play(&stop).await;
    if stop.is_cancelled() {
        notes.push("interrupted: the regions were not compared".to_owned());
    } else {
        runner.wait_for_catch_up(&stop).await;
    }
    let recovery = lock(&runner.recovery).take();
    let served_at = match recovery {
        // It ends by itself, in a bounded time.
        Some(recovery) if !stop.is_cancelled() => recovery.await.unwrap_or_default(),
        Some(recovery) => {
            recovery.abort();
            None
        }
        None => None,
    };
    let steps = std::mem::take(&mut *lock(&runner.steps));
    Ran {
        drill: name.to_owned(),
        file: file.display().to_string(),
        experiment: runner.experiment.clone(),
        start,
        status: played.status,
        deviated: played.deviated,
        steady_states: played.steady_states,
        run: played.run,
        rollbacks: played.rollbacks,
        steps,
        served_at,
        watch: runner.watch.clone(),
        notes,
    }
}

/// With the running program's own folder first in `PATH`.
fn with_path(mut env: Vec<(String, String)>) -> Vec<(String, String)> {
    if let Ok(path) = std::env::join_paths(super::perform::folders()) {
        env.push(("PATH".to_owned(), path.to_string_lossy().into_owned()));
    }
    env
}

struct Played {
    status: Status,
    deviated: bool,
    steady_states: SteadyStates,
    run: Vec<Run>,
    rollbacks: Vec<Run>,
}

impl Runner {
    async fn play(self: Arc<Self>, stop: &CancellationToken) -> Played {
        let mut played = Played {
            status: Status::Completed,
            deviated: false,
            steady_states: SteadyStates::default(),
            run: Vec::new(),
            rollbacks: Vec::new(),
        };
        if self.play_method(&mut played, stop).await {
            self.look_after(&mut played, stop).await;
        }
        if stop.is_cancelled() {
            played.status = Status::Interrupted;
        }
        let rolls_back = match self.experiment.rollback {
            Rollback::Always => true,
            Rollback::Never => false,
            Rollback::UnlessFailed => !matches!(played.status, Status::Failed | Status::Interrupted),
            Rollback::Deviated => played.deviated,
        };
        // Where nothing was begun there is nothing to put back.
        if rolls_back && !played.run.is_empty() {
            let runs = Runs::default();
            let never = CancellationToken::new();
            self.clone().activities(&self.experiment.rollbacks, &runs, Some(StepKind::Rollback), &never).await;
            played.rollbacks = std::mem::take(&mut *lock(&runs));
        }
        played
    }

    /// The hypothesis before the method, and the method. `false` if there is nothing to be looked at afterwards.
    async fn play_method(self: &Arc<Self>, played: &mut Played, stop: &CancellationToken) -> bool {
        if self.experiment.when.before()
            && let Some(state) = self.hypothesis("before", stop).await
        {
            let (met, failed) = (state.steady_state_met, state.has_failed());
            played.steady_states.before = Some(state);
            if !met {
                self.say("the hypothesis does not hold before the method, so nothing is done");
                played.status = if failed { Status::Failed } else { Status::Completed };
                return false;
            }
        }
        let runs = Runs::default();
        let cancel = stop.child_token();
        let method = self.clone().activities(&self.experiment.method, &runs, None, &cancel);
        let has_probes = self.experiment.hypothesis.as_ref().is_some_and(|hypothesis| !hypothesis.probes.is_empty());
        if self.experiment.when.during() && has_probes {
            let during = self.look_during(&cancel);
            tokio::pin!(method, during);
            let states = tokio::select! {
                () = &mut method => {
                    cancel.cancel();
                    during.await
                }
                states = &mut during => {
                    // It ends early only because the hypothesis does not hold.
                    cancel.cancel();
                    method.await;
                    states
                }
            };
            if states.iter().any(|state| !state.steady_state_met) {
                played.status = Status::Failed;
            }
            played.steady_states.during = states;
        } else {
            method.await;
        }
        played.run = std::mem::take(&mut *lock(&runs));
        !stop.is_cancelled()
    }

    async fn look_after(&self, played: &mut Played, stop: &CancellationToken) {
        if !self.experiment.when.after() {
            return;
        }
        let Some(state) = self.hypothesis("after", stop).await else { return };
        if !state.steady_state_met {
            played.deviated = true;
            played.status = if state.has_failed() { Status::Failed } else { Status::Completed };
        }
        played.steady_states.after = Some(state);
    }

    /// Looks again and again, until it is cancelled or the hypothesis does not hold.
    async fn look_during(&self, cancel: &CancellationToken) -> Vec<State> {
        let mut states: Vec<State> = Vec::new();
        while !cancel.is_cancelled() {
            let Some(mut state) = self.look(cancel).await.filter(|_| !cancel.is_cancelled()) else { break };
            let met = state.steady_state_met;
            for probe in &mut state.probes {
                probe.cut_output(DURING_OUTPUT_MAX);
            }
            if states.len() >= DURING_MAX {
                states.remove(0);
            }
            states.push(state);
            if !met {
                self.say("the hypothesis no longer holds: stopping");
                break;
            }
            pause(self.experiment.frequency, cancel).await;
        }
        states
    }

    /// Looks at the hypothesis, if there is one.
    async fn hypothesis(&self, when: &str, cancel: &CancellationToken) -> Option<State> {
        let from = self.watch.now();
        // What was cut short says nothing.
        let state = self.look(cancel).await.filter(|_| !cancel.is_cancelled())?;
        let ok = state.steady_state_met;
        let last = state.probes.last().map_or("-", Run::name);
        let title = self.experiment.hypothesis.as_ref().map_or("-", |hypothesis| hypothesis.title.as_str());
        self.say(&match ok {
            true => format!("hypothesis {when}: {title}: holds"),
            false => format!("hypothesis {when}: {title}: does not hold: {last}"),
        });
        self.step(&format!("hypothesis {when}"), StepKind::Hypothesis, from, ok);
        Some(state)
    }

    async fn look(&self, cancel: &CancellationToken) -> Option<State> {
        let hypothesis = self.experiment.hypothesis.as_ref().filter(|hypothesis| !hypothesis.probes.is_empty())?;
        let mut state = State { steady_state_met: true, probes: Vec::new() };
        for probe in &hypothesis.probes {
            let runs = Runs::default();
            self.activity(probe, &runs, Some(StepKind::Hypothesis), cancel).await;
            let Some(mut run) = lock(&runs).pop() else {
                state.steady_state_met = false;
                break;
            };
            let met = run.status == Some(RunStatus::Succeeded) && self.holds(probe, &mut run, cancel).await;
            run.tolerance_met = Some(met);
            state.probes.push(run);
            if !met {
                state.steady_state_met = false;
                break;
            }
        }
        Some(state)
    }

    async fn holds(&self, probe: &Activity, run: &mut Run, cancel: &CancellationToken) -> bool {
        if let Some(provider) = &probe.tolerance_probe {
            // As in Chaos Toolkit: that it could be carried out is all that is asked.
            return self.hands.perform(&with_value(provider, &run.output), cancel).await.is_ok();
        }
        let tolerance = probe.tolerance.clone().unwrap_or_default();
        match tolerance::holds(&tolerance, &run.output, &self.experiment.variables) {
            Ok(holds) => holds,
            Err(why) => {
                run.exception.push(why);
                false
            }
        }
    }

    /// One after the other, those in the background beside; returns when all have ended. `kind` is what they are shown as,
    /// where that is not their own.
    async fn activities(
        self: Arc<Self>,
        activities: &[Activity],
        runs: &Runs,
        kind: Option<StepKind>,
        cancel: &CancellationToken,
    ) {
        let mut background = JoinSet::new();
        for activity in activities {
            if cancel.is_cancelled() {
                break;
            }
            if activity.background {
                let (runner, activity, runs, cancel) = (self.clone(), activity.clone(), runs.clone(), cancel.clone());
                background.spawn(async move { runner.activity(&activity, &runs, kind, &cancel).await });
            } else {
                self.activity(activity, runs, kind, cancel).await;
            }
        }
        while background.join_next().await.is_some() {}
    }

    /// Carries out one activity and writes it down. Nothing is written if it is cancelled before it began.
    async fn activity(&self, activity: &Activity, runs: &Runs, kind: Option<StepKind>, cancel: &CancellationToken) {
        pause(activity.pause_before, cancel).await;
        if cancel.is_cancelled() {
            return;
        }
        let from = self.watch.now();
        self.mark(activity, from);
        let index = {
            let mut runs = lock(runs);
            runs.push(Run {
                activity: activity.source.clone(),
                output: Value::Null,
                start: now().to_rfc3339(),
                status: None,
                exception: Vec::new(),
                end: None,
                duration: None,
                tolerance_met: None,
            });
            runs.len() - 1
        };
        let output = self.hands.perform(&activity.provider, cancel).await;
        let duration = millis(self.watch.now() - from);
        let done = {
            let mut runs = lock(runs);
            let run = &mut runs[index];
            (run.end, run.duration) = (Some(now().to_rfc3339()), Some(duration));
            match output {
                Ok(output) => (run.output, run.status) = (output, Some(RunStatus::Succeeded)),
                Err(why) => {
                    run.status = Some(RunStatus::Failed);
                    run.exception.push(why);
                }
            }
            run.clone()
        };
        if kind != Some(StepKind::Hypothesis) {
            self.tell(activity, kind, from, &done);
        }
        let evacuates = self.names(|extension| extension.evacuate.as_deref() == Some(activity.name.as_str()));
        if evacuates && done.failure().is_none() {
            self.watch_recovery();
        }
        pause(activity.pause_after, cancel).await;
    }

    fn names(&self, of: impl Fn(&crate::drill::extension::Extension) -> bool) -> bool {
        self.experiment.extension.as_ref().is_some_and(of)
    }

    fn mark(&self, activity: &Activity, at: f64) {
        let Some(extension) = &self.experiment.extension else { return };
        let marks =
            [(&extension.fault, Mark::Fault), (&extension.heal, Mark::Heal), (&extension.evacuate, Mark::Evacuate)];
        for (_, mark) in marks.into_iter().filter(|(name, _)| name.as_deref() == Some(activity.name.as_str())) {
            self.watch.with(|measure| measure.mark(mark, at));
        }
    }

    fn tell(&self, activity: &Activity, kind: Option<StepKind>, from: f64, run: &Run) {
        let failure = run.failure();
        let kind = kind.unwrap_or(match activity.kind {
            Kind::Action => StepKind::Action,
            Kind::Probe => StepKind::Probe,
        });
        self.step(&activity.name, kind, from, failure.is_none());
        let what = if kind == StepKind::Rollback { "rollback" } else { activity.kind.as_str() };
        match &failure {
            None => {
                self.say(&format!("{what} {}: done in {}", activity.name, out::span(run.duration.unwrap_or_default())))
            }
            Some(why) => {
                self.say(&format!("{what} {}: {why}", activity.name));
                let said =
                    run.output["stderr"].as_str().and_then(|text| text.lines().find(|line| !line.trim().is_empty()));
                if let Some(said) = said {
                    self.say(&format!("    {said}"));
                }
            }
        }
    }

    fn step(&self, name: &str, kind: StepKind, from: f64, ok: bool) {
        lock(&self.steps).push(Step { name: name.to_owned(), kind, from, to: self.watch.now(), ok });
    }

    /// What people see meanwhile. If nobody reads it any more, the drill goes on all the same.
    fn say(&self, text: &str) {
        if !self.context.json {
            let _ = out::line(format!("{:6.1} s  {text}", self.watch.now()));
        }
    }

    fn watch_recovery(&self) {
        let (context, watch, run) = (self.context.clone(), self.watch.clone(), self.id.clone());
        let extension = self.experiment.extension.as_ref();
        let failing = extension.and_then(|extension| Some(extension.region.as_ref()?.name.clone()));
        let waiting = tokio::spawn(async move { recovery::serving(&context, &watch, failing.as_deref(), &run).await });
        lock(&self.recovery).get_or_insert(waiting);
    }

    async fn wait_for_catch_up(&self, stop: &CancellationToken) {
        let from = self.watch.now();
        while !stop.is_cancelled()
            && self.watch.with(|measure| measure.waits_for_catch_up())
            && self.watch.now() - from < CATCH_UP_WAIT.as_secs_f64()
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// The probe of a tolerance gets the output as its argument `value`.
fn with_value(provider: &Provider, output: &Value) -> Provider {
    use crate::drill::{activity::Arguments, substitute::python_text};
    let mut provider = provider.clone();
    match &mut provider {
        Provider::Process(process) => {
            if let Arguments::List(arguments) = &mut process.arguments {
                arguments.extend(["value".to_owned(), python_text(output)]);
            }
        }
        Provider::Http(http) => {
            if let Value::Object(arguments) = &mut http.arguments {
                arguments.insert("value".to_owned(), output.clone());
            }
        }
    }
    provider
}

async fn pause(duration: Duration, cancel: &CancellationToken) {
    if duration.is_zero() {
        return;
    }
    tokio::select! {
        () = tokio::time::sleep(duration) => {}
        () = cancel.cancelled() => {}
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
