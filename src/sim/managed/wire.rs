//! The way between an agent and a managed service: every call may be late, lost before or after it took effect, or put off.
//!
//! Half of the requests live on when their caller gives up, as packets do. An agent that was killed hears nothing more, and
//! what it had asked for may still happen.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    core::link::Failure,
    sim::{
        chance::Chance,
        trace::{Fault, SharedTrace},
    },
};

/// Longer than any time-out of an agent.
const NEVER: Duration = Duration::from_secs(3_600);

/// What is asked of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    Receive,
    Delete,
    Extend,
    Send,
    Depth,
    Insert,
    TakeOver,
    Mark,
    Release,
    Get,
    Put,
    Object,
    Read,
    Turn,
    Write,
}

impl Op {
    /// Those after which a crash leaves something behind. The last one is of documents.
    pub const DEADLY: [Op; 9] =
        [Op::Object, Op::Receive, Op::Insert, Op::TakeOver, Op::Put, Op::Mark, Op::Send, Op::Release, Op::Write];
}

/// What the way from one region to another does to calls.
#[derive(Clone, Copy, Debug)]
pub struct Quality {
    pub cut: bool,
    pub lose_request: f64,
    /// Time-out after success.
    pub lose_reply: f64,
    pub throttle: f64,
    /// Bodies of objects arrive cut off, or with a wrong byte.
    pub damage: f64,
    pub delay_max_ms: u64,
}

impl Quality {
    pub const GOOD: Quality =
        Quality { cut: false, lose_request: 0.0, lose_reply: 0.0, throttle: 0.0, damage: 0.0, delay_max_ms: 5 };
}

/// An agent in one of its lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub agent: String,
    pub life: u64,
    pub home: &'static str,
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in life {}", self.agent, self.life)
    }
}

struct Way {
    chance: Chance,
    quality: Quality,
}

#[derive(Default)]
struct State {
    ways: BTreeMap<(&'static str, &'static str), Way>,
    /// The life that each agent is in; an agent that is down is in none.
    alive: BTreeMap<String, u64>,
    /// Agents that die when the service has done this.
    trips: BTreeMap<String, Op>,
    killed: BTreeSet<String>,
    /// Replies to lose, one each, whatever the chances are.
    losing: Vec<(String, Op)>,
    /// Requests that do not arrive until then.
    muted: Vec<(String, Op, Instant)>,
}

pub struct Wire {
    seed: u64,
    trace: SharedTrace,
    state: Mutex<State>,
}

/// What becomes of one call; drawn at its start.
pub struct Fate {
    pub out: Duration,
    pub back: Duration,
    pub lose_request: bool,
    pub lose_reply: bool,
    pub throttle: Option<Duration>,
    /// A lost call fails at once instead of never.
    pub quick: bool,
    pub detached: bool,
}

impl Wire {
    pub fn new(seed: u64, trace: SharedTrace) -> Arc<Wire> {
        Arc::new(Wire { seed, trace, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn begin(&self, caller: &Caller) {
        self.state().alive.insert(caller.agent.clone(), caller.life);
    }

    pub fn kill(&self, agent: &str) {
        let mut state = self.state();
        if state.alive.remove(agent).is_some() {
            state.killed.insert(agent.to_owned());
            drop(state);
            self.trace.note(&format!("{agent} dies"));
            self.trace.lock().fault(Fault::Crash);
        }
    }

    /// The agent ended by itself, if it did not die on the way.
    pub fn end(&self, agent: &str) {
        let mut state = self.state();
        state.alive.remove(agent);
        state.killed.remove(agent);
    }

    /// Agents that died since this was asked.
    pub fn take_killed(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.state().killed)
    }

    pub fn is_alive(&self, caller: &Caller) -> bool {
        self.state().alive.get(&caller.agent) == Some(&caller.life)
    }

    /// The agent dies when a service has done this for it, before it hears of it.
    pub fn trip(&self, agent: &str, op: Op) {
        self.state().trips.insert(agent.to_owned(), op);
    }

    /// The agent does not hear that this was done, once.
    pub fn lose_next_reply(&self, agent: &str, op: Op) {
        self.state().losing.push((agent.to_owned(), op));
    }

    /// Until then what this agent asks for does not arrive.
    pub fn mute(&self, agent: &str, op: Op, until: Instant) {
        self.state().muted.push((agent.to_owned(), op, until));
    }

    fn is_muted(&self, agent: &str, op: Op) -> bool {
        let now = Instant::now();
        self.state().muted.iter().any(|(muted, what, until)| muted == agent && *what == op && now < *until)
    }

    pub fn change(&self, home: &'static str, region: &'static str, change: impl FnOnce(&mut Quality)) {
        change(&mut self.way(&mut self.state(), home, region).quality);
    }

    /// All ways are good again, and nobody is about to die.
    pub fn heal(&self) {
        let mut state = self.state();
        state.ways.values_mut().for_each(|way| way.quality = Quality::GOOD);
        state.trips.clear();
        state.losing.clear();
        state.muted.clear();
    }

    fn way<'a>(&self, state: &'a mut State, home: &'static str, region: &'static str) -> &'a mut Way {
        state.ways.entry((home, region)).or_insert_with(|| Way {
            chance: Chance::new(self.seed, &format!("wire {home} {region}")),
            quality: Quality::GOOD,
        })
    }

    pub fn fate(&self, caller: &Caller, region: &'static str) -> Fate {
        let mut state = self.state();
        let Way { chance, quality } = self.way(&mut state, caller.home, region);
        let delay = |chance: &mut Chance| {
            let slow = chance.hits(0.2);
            chance.millis(0, if slow { quality.delay_max_ms } else { quality.delay_max_ms.min(5) })
        };
        let (out, back) = (delay(chance), delay(chance));
        let dropped = chance.hits(quality.lose_request);
        if quality.cut {
            self.trace.lock().fault(Fault::Partition);
        } else if dropped {
            self.trace.lock().fault(Fault::Drop);
        }
        Fate {
            out,
            back,
            lose_request: dropped || quality.cut,
            lose_reply: chance.hits(quality.lose_reply),
            throttle: chance.hits(quality.throttle).then(|| chance.millis(0, 2_000)),
            quick: chance.hits(0.5),
            detached: chance.hits(0.5),
        }
    }

    /// Whether a body on its way to a region is spoiled: cut off, or with a wrong byte, and where.
    pub fn damage(&self, caller: &Caller, region: &'static str) -> Option<(bool, usize)> {
        let mut state = self.state();
        let Way { chance, quality } = self.way(&mut state, caller.home, region);
        let damage = quality.damage;
        chance.hits(damage).then(|| (chance.hits(0.5), chance.below(1_000) as usize))
    }

    pub fn trace(&self) -> &SharedTrace {
        &self.trace
    }

    /// A crashed agent hears nothing, for ever.
    pub async fn only_alive(&self, caller: &Caller) {
        if !self.is_alive(caller) {
            std::future::pending::<()>().await;
        }
    }

    pub async fn lost<T>(&self, what: &str, quick: bool) -> Result<T, Failure> {
        if !quick {
            tokio::time::sleep(NEVER).await;
        }
        Err(Failure::Unanswered(format!("simulated: the {what} was lost")))
    }

    /// The way back of what `op` gave; also where the agent dies or hears nothing, if that is how it was ordered.
    pub async fn reply<T>(
        &self,
        caller: &Caller,
        op: Op,
        fate: &Fate,
        result: Result<T, Failure>,
    ) -> Result<T, Failure> {
        let trips = {
            let mut state = self.state();
            let trips = state.trips.get(&caller.agent) == Some(&op);
            if trips {
                state.trips.remove(&caller.agent);
            }
            trips
        };
        if trips {
            self.trace.note(&format!("{} dies of {op:?}", caller.agent));
            self.kill(&caller.agent);
        }
        self.only_alive(caller).await;
        tokio::time::sleep(fate.back).await;
        self.only_alive(caller).await;
        let losing = {
            let mut state = self.state();
            let ordered = state.losing.iter().position(|(agent, lost)| *agent == caller.agent && *lost == op);
            ordered.map(|index| state.losing.remove(index)).is_some()
        };
        if fate.lose_reply || losing {
            self.trace.lock().fault(Fault::TimeoutAfterSuccess);
            return self.lost("reply", fate.quick).await;
        }
        result
    }

    /// Has a service of `region` do something for an agent.
    pub async fn call<T: Send + 'static>(
        self: &Arc<Self>,
        caller: &Caller,
        region: &'static str,
        op: Op,
        act: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.only_alive(caller).await;
        let fate = self.fate(caller, region);
        if fate.lose_request || self.is_muted(&caller.agent, op) {
            return self.lost("request", fate.quick).await;
        }
        if let Some(after) = fate.throttle {
            self.trace.lock().fault(Fault::Throttle);
            tokio::time::sleep(fate.out).await;
            return Err(Failure::Throttled { after });
        }
        let out = fate.out;
        let result = if fate.detached {
            let (answer, answered) = tokio::sync::oneshot::channel();
            tokio::spawn(async move {
                tokio::time::sleep(out).await;
                // The caller may have given up.
                let _ = answer.send(act());
            });
            answered.await.unwrap_or_else(|_| Err(Failure::Unanswered("simulated: the service ended".to_owned())))
        } else {
            tokio::time::sleep(out).await;
            act()
        };
        self.reply(caller, op, &fate, result).await
    }
}
