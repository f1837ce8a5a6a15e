//! What a change of the document may do.

use super::{Ballot, Decision, Entry, Members, Mode, State, View};
use crate::core::time::Timestamp;

/// One step of a failover, to be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Active to draining.
    Drain,
    /// To evacuated, from draining if graceful, else from anything.
    Evacuate(Mode),
    /// Evacuated to recovering.
    Recover,
    /// Recovering, or draining that was given up, to active.
    Activate,
    /// Recovering that was given up, to evacuated.
    GiveUp,
}

/// Who wants what of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub region: String,
    pub step: Step,
    /// What was decided of the region last when this was made up; another decision meanwhile makes it void.
    pub after: Ballot,
    pub forced: bool,
    pub at: Timestamp,
    pub by: String,
    pub reason: String,
    pub coordinator: String,
    pub drill: bool,
}

/// Why a change must not be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("region `{0}` is not in the topology file")]
    Unknown(String),
    #[error("{region} is {state}, so this step is not possible", state = .state.as_str())]
    State { region: String, state: State },
    #[error(
        "{region} was changed meanwhile: {state} since epoch {epoch}, by {by}", state = .state.as_str()
    )]
    Changed { region: String, state: State, epoch: u64, by: String },
    #[error("it would leave {left} active, and `cluster.min_active` is {min}")]
    TooFew { left: usize, min: usize },
    #[error(
        "{unaware} has not been told yet what {region} is ({state}): until it answers, it could take {region} for what it \
         was; --force does without it", state = .state.as_str()
    )]
    Unaware { unaware: String, region: String, state: State },
}

impl Order {
    /// The document after this change.
    ///
    /// # Errors
    /// It must not be; the document stays as it is.
    pub fn apply(&self, base: &View, ballot: Ballot, members: &Members) -> Result<View, Refusal> {
        if !members.contains(&self.region) {
            return Err(Refusal::Unknown(self.region.clone()));
        }
        let (from, last) = (base.decided(&self.region), base.ballot_of(&self.region));
        if last != self.after {
            let by = base.entries.get(&self.region).map(|entry| entry.by.clone()).unwrap_or_default();
            return Err(Refusal::Changed { region: self.region.clone(), state: from, epoch: last.epoch, by });
        }
        let (to, mode) = match (self.step, from) {
            (Step::Drain, State::Active) => (State::Draining, None),
            (Step::Evacuate(Mode::Graceful), State::Draining) => (State::Evacuated, Some(Mode::Graceful)),
            (Step::Evacuate(Mode::Ungraceful), State::Active | State::Draining | State::Recovering) => {
                (State::Evacuated, Some(Mode::Ungraceful))
            }
            (Step::Recover, State::Evacuated) => (State::Recovering, self.mode_before(base)),
            (Step::Activate, State::Recovering | State::Draining) => (State::Active, None),
            // It serves all the same, because too few were left: see `View::states`.
            (Step::Activate, State::Evacuated) if base.state(&self.region, members) == State::Active => {
                (State::Active, None)
            }
            (Step::GiveUp, State::Recovering) => (State::Evacuated, self.mode_before(base)),
            (_, state) => return Err(Refusal::State { region: self.region.clone(), state }),
        };
        let others_active = || {
            let others = members.regions.iter().filter(|region| **region != self.region);
            others.filter(|region| base.decided(region) == State::Active).count()
        };
        // Also forced: the rest would be taken back as soon as the views are joined.
        if from == State::Active && others_active() < members.min_active {
            return Err(Refusal::TooFew { left: others_active(), min: members.min_active });
        }
        if (self.step, from) == (Step::Activate, State::Recovering) && !self.forced {
            self.everybody_knows(base, members)?;
        }
        let entry = Entry {
            state: to,
            ballot,
            mode,
            forced: self.forced,
            at: self.at,
            by: self.by.clone(),
            reason: self.reason.clone(),
        };
        let decision = Decision {
            ballot,
            region: self.region.clone(),
            from,
            to,
            mode,
            forced: self.forced,
            at: self.at,
            by: self.by.clone(),
            reason: self.reason.clone(),
            coordinator: self.coordinator.clone(),
            drill: self.drill,
        };
        let mut view = base.clone();
        view.join(&View { entries: [(self.region.clone(), entry)].into(), log: vec![decision], ..View::default() });
        Ok(view)
    }

    fn mode_before(&self, base: &View) -> Option<Mode> {
        base.entries.get(&self.region).and_then(|entry| entry.mode)
    }

    /// A region that serves must know that this one is about to come back, and one that does not must know that it does
    /// not: else two regions could serve, each of which takes the other for evacuated.
    fn everybody_knows(&self, base: &View, members: &Members) -> Result<(), Refusal> {
        for other in members.regions.iter().filter(|region| **region != self.region) {
            let of = match base.decided(other) {
                State::Evacuated => other,
                State::Active | State::Draining | State::Recovering => &self.region,
            };
            if !base.knows(other, of) {
                let (unaware, region) = (other.clone(), of.clone());
                return Err(Refusal::Unaware { unaware, state: base.decided(&region), region });
            }
        }
        Ok(())
    }
}
