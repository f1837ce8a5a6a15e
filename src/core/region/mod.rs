//! Which regions serve users: a small document that every region holds a copy of, and how it is changed.
//!
//! The document ([`View`]) has one entry for each region that was ever told to do something else than to serve. A change
//! needs the durable votes of a majority of the configured regions ([`vote`]), so no single region is a centre that could
//! be lost, and two operators who decide at once end up with one decision. A forced change needs none; what its two sides
//! decided without each other is joined entry by entry when they meet again, and [`View::states`] then sees to it that
//! enough regions stay active. What must be proven before a change is in [`proof`], what a change may do in [`order`].

pub mod order;
pub mod proof;
pub mod vote;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::time::Timestamp;

/// Decisions that the log of a [`View`] keeps.
/// A region on managed services keeps all of it in one item of a table.
const LOG_MAX: usize = 100;

/// Drills that a [`View`] remembers; more than any folder of experiments has.
const DRILLS_MAX: usize = 256;

/// How a drill ends, as reports and metrics say it.
pub const VERDICTS: [&str; 2] = ["passed", "failed"];

/// What a region is there for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It serves users.
    #[default]
    Active,
    /// It takes nothing from services any more, and its links bring out what it has.
    Draining,
    /// Nobody relies on it. Peers still bring it events while it can be reached.
    Evacuated,
    /// It takes nothing from services yet, and catches up.
    Recovering,
}

impl State {
    pub const ALL: [State; 4] = [State::Active, State::Draining, State::Evacuated, State::Recovering];

    pub fn as_str(self) -> &'static str {
        match self {
            State::Active => "active",
            State::Draining => "draining",
            State::Evacuated => "evacuated",
            State::Recovering => "recovering",
        }
    }
}

/// How a region was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// After its peers had everything.
    Graceful,
    /// As it was.
    Ungraceful,
}

impl Mode {
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Graceful => "graceful",
            Mode::Ungraceful => "ungraceful",
        }
    }
}

/// Names a decision. `epoch` counts decisions and attempts at them; each region votes once in an epoch, so at most one
/// `proposal` (drawn by chance) can have a majority in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ballot {
    pub epoch: u64,
    pub proposal: u64,
}

/// What was decided last of one region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub state: State,
    pub ballot: Ballot,
    /// How it was evacuated, if it was.
    pub mode: Option<Mode>,
    pub forced: bool,
    pub at: Timestamp,
    pub by: String,
    pub reason: String,
}

/// A line of the log of decisions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub ballot: Ballot,
    pub region: String,
    pub from: State,
    pub to: State,
    pub mode: Option<Mode>,
    pub forced: bool,
    /// When, by the clock of the region that asked for the votes.
    pub at: Timestamp,
    pub by: String,
    pub reason: String,
    /// The region that asked for the votes.
    pub coordinator: String,
    /// For a drill: it does not begin a cool-down.
    pub drill: bool,
}

/// The document. Two of them join to what both know, whatever the order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    pub entries: BTreeMap<String, Entry>,
    /// By region: what it holds itself, by the region that was decided about.
    pub known: BTreeMap<String, BTreeMap<String, Ballot>>,
    /// Oldest first.
    pub log: Vec<Decision>,
    /// By drill and verdict: when it ended last.
    pub drills: BTreeMap<String, BTreeMap<String, Timestamp>>,
}

/// The regions of the topology file, in its order, and how many of them must be active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    pub regions: Vec<String>,
    pub min_active: usize,
}

impl Members {
    /// Votes that decide.
    pub fn majority(&self) -> usize {
        self.regions.len() / 2 + 1
    }

    pub fn contains(&self, region: &str) -> bool {
        self.regions.iter().any(|known| known == region)
    }
}

impl View {
    /// The last epoch in which something was decided.
    pub fn epoch(&self) -> u64 {
        self.entries.values().map(|entry| entry.ballot.epoch).max().unwrap_or_default()
    }

    /// What was decided of a region last; it serves where nothing ever was.
    pub fn decided(&self, region: &str) -> State {
        self.entries.get(region).map(|entry| entry.state).unwrap_or_default()
    }

    /// What names that decision.
    pub fn ballot_of(&self, region: &str) -> Ballot {
        self.entries.get(region).map(|entry| entry.ballot).unwrap_or_default()
    }

    /// What each region is. Decisions that were forced on two sides of a partition may leave too few active when they are
    /// joined; then the first in file order stay active, those that have caught up before those that have not.
    pub fn states(&self, members: &Members) -> BTreeMap<String, State> {
        let mut states: BTreeMap<String, State> =
            members.regions.iter().map(|region| (region.clone(), self.decided(region))).collect();
        for takes in [&[State::Draining, State::Evacuated][..], &[State::Recovering][..]] {
            for region in &members.regions {
                let active = states.values().filter(|state| **state == State::Active).count();
                if active >= members.min_active.min(members.regions.len()) {
                    return states;
                }
                if let Some(state) = states.get_mut(region).filter(|state| takes.contains(state)) {
                    *state = State::Active;
                }
            }
        }
        states
    }

    /// What one region is; see [`states`](Self::states).
    pub fn state(&self, region: &str, members: &Members) -> State {
        self.states(members).get(region).copied().unwrap_or_default()
    }

    /// Whether `region` itself holds what was decided of `of` last.
    pub fn knows(&self, region: &str, of: &str) -> bool {
        let known = self.known.get(region).and_then(|known| known.get(of)).copied();
        known.unwrap_or_default() >= self.ballot_of(of)
    }

    /// `region` says that it holds all that is here.
    pub fn acknowledge(&mut self, region: &str) {
        let held: Vec<(String, Ballot)> = self.entries.iter().map(|(of, entry)| (of.clone(), entry.ballot)).collect();
        self.knew(region, held.into_iter());
    }

    fn knew(&mut self, region: &str, held: impl Iterator<Item = (String, Ballot)>) {
        let known = self.known.entry(region.to_owned()).or_default();
        for (of, ballot) in held {
            let last = known.entry(of).or_default();
            *last = (*last).max(ballot);
        }
    }

    /// Takes in what another copy knows.
    pub fn join(&mut self, other: &View) {
        for (region, entry) in &other.entries {
            match self.entries.get_mut(region) {
                Some(known) if known.ballot >= entry.ballot => {}
                Some(known) => known.clone_from(entry),
                None => drop(self.entries.insert(region.clone(), entry.clone())),
            }
        }
        for (region, known) in &other.known {
            self.knew(region, known.iter().map(|(of, ballot)| (of.clone(), *ballot)));
        }
        let had: BTreeSet<Ballot> = self.log.iter().map(|decision| decision.ballot).collect();
        self.log.extend(other.log.iter().filter(|decision| !had.contains(&decision.ballot)).cloned());
        self.log.sort_by_key(|decision| decision.ballot);
        let excess = self.log.len().saturating_sub(LOG_MAX);
        self.log.drain(..excess);
        for (drill, verdicts) in &other.drills {
            for (verdict, at) in verdicts {
                self.drilled(drill, verdict, *at);
            }
        }
    }

    /// Notes that a drill ended.
    pub fn drilled(&mut self, drill: &str, verdict: &str, at: Timestamp) {
        if self.drills.len() >= DRILLS_MAX && !self.drills.contains_key(drill) {
            return;
        }
        let last = self.drills.entry(drill.to_owned()).or_default().entry(verdict.to_owned()).or_default();
        *last = (*last).max(at);
    }
}

/// All that a region keeps of it on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub voter: vote::Voter,
    /// By region: when it was left as it was, and what this region had then.
    pub left: BTreeMap<String, Left>,
}

/// A region was evacuated before all that it had taken in was here. What comes of it later is the inventory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Of the decision.
    pub epoch: u64,
    /// When this region learned of it.
    pub at: Timestamp,
    /// The end of this region's log then.
    pub from: u64,
    /// The same when the region was active again, by a command that was not forced.
    pub to: Option<u64>,
    /// This region was away and learned of it afterwards: what came before `from` is not told.
    pub late: bool,
}

impl Kept {
    /// Answers a message to the voter of `home`. What changed must be durable before the answer goes out.
    pub fn answer(&mut self, home: &str, message: &vote::Message, head: u64, now: Timestamp) -> vote::Vote {
        match message {
            vote::Message::Learn(view) => {
                self.learn(home, view, head, now);
                vote::Vote::Known(self.voter.view.clone())
            }
            message => self.voter.answer(home, message),
        }
    }

    /// Takes in what is decided; `home` is this region, `head` the end of its log. Answers whether anything is new.
    pub fn learn(&mut self, home: &str, view: &View, head: u64, now: Timestamp) -> bool {
        let known = self.voter.view.known.get(home).cloned();
        let is_new = self.hear(home, view, head, now);
        self.voter.view.acknowledge(home);
        is_new || self.voter.view.known.get(home) != known.as_ref()
    }

    /// As [`learn`](Self::learn), where somebody else writes it down for the region: that it knows it says by itself.
    pub fn hear(&mut self, home: &str, view: &View, head: u64, now: Timestamp) -> bool {
        let before = self.clone();
        self.voter.hear(view);
        let known: BTreeSet<Ballot> = before.voter.view.log.iter().map(|decision| decision.ballot).collect();
        let view = &self.voter.view;
        for decision in view.log.iter().filter(|new| new.region != home && !known.contains(&new.ballot)) {
            let region = &decision.region;
            match decision.to {
                State::Evacuated if decision.mode == Some(Mode::Ungraceful) && decision.from != State::Recovering => {
                    let late = view.ballot_of(region) != decision.ballot;
                    let left = Left { epoch: decision.ballot.epoch, at: now, from: head, to: None, late };
                    self.left.insert(region.clone(), left);
                }
                State::Active if !decision.forced => {
                    if let Some(left) = self.left.get_mut(region).filter(|left| left.to.is_none()) {
                        left.to = Some(head);
                    }
                }
                _ => {}
            }
        }
        *self != before
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
