//! How a majority decides.
//!
//! Each change of the document is a round of CASPaxos (D. Rystsov, "CASPaxos: Replicated State Machines without logs",
//! arXiv 1802.07000), with epochs for ballot numbers. Whoever coordinates asks all regions to [`Message::Prepare`] an epoch
//! that none of them voted in. Of a majority of answers it takes the document that was accepted in the latest epoch, joins
//! it with what is decided anyway, changes it, and asks all to [`Message::Accept`] the result. A majority of that decides.
//! Any two majorities share a region, so a later round finds what an earlier one decided, also if its coordinator died
//! before it could tell anybody.

use serde::{Deserialize, Serialize};

use super::{Ballot, View};

/// What a region must not forget. Written to disk before it answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voter {
    /// Its last vote: it takes no part in earlier epochs, and in this one only for this proposal.
    pub promised: Ballot,
    /// What it accepted last.
    pub accepted: Option<(Ballot, View)>,
    /// What is decided, as far as it knows.
    pub view: View,
}

/// What a coordinator asks of a voter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Votes for a proposal in its epoch: no earlier one is accepted after that.
    Prepare(Ballot),
    /// Accepts what the proposal makes of the document.
    Accept(Ballot, View),
    /// Learns what is decided; also asks for what the other side knows.
    Learn(View),
}

/// What a voter says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Vote {
    /// It voted for the proposal, or accepted it; what it had accepted before, and what it knows to be decided.
    Given { accepted: Option<(Ballot, View)>, view: View },
    /// It voted for another one in this epoch, or in a later epoch.
    Refused { promised: Ballot, view: View },
    /// What it knows to be decided.
    Known(View),
}

impl Vote {
    pub fn view(&self) -> &View {
        match self {
            Vote::Given { view, .. } | Vote::Refused { view, .. } | Vote::Known(view) => view,
        }
    }
}

impl Voter {
    /// Answers a message to the voter of `region`. What changed must be durable before the answer goes out.
    pub fn answer(&mut self, region: &str, message: &Message) -> Vote {
        match message {
            Message::Prepare(ballot) => match self.may_vote(*ballot) {
                true => {
                    self.promised = *ballot;
                    Vote::Given { accepted: self.accepted.clone(), view: self.view.clone() }
                }
                false => self.refused(),
            },
            Message::Accept(ballot, view) => match self.may_vote(*ballot) {
                true => {
                    self.promised = *ballot;
                    self.accepted = Some((*ballot, view.clone()));
                    Vote::Given { accepted: None, view: self.view.clone() }
                }
                false => self.refused(),
            },
            Message::Learn(view) => {
                self.learn(region, view);
                Vote::Known(self.view.clone())
            }
        }
    }

    fn may_vote(&self, ballot: Ballot) -> bool {
        ballot.epoch > self.promised.epoch || ballot == self.promised
    }

    fn refused(&self) -> Vote {
        Vote::Refused { promised: self.promised, view: self.view.clone() }
    }

    /// Takes in what is decided. The region says of itself that it knows.
    pub fn learn(&mut self, region: &str, view: &View) {
        self.hear(view);
        self.view.acknowledge(region);
    }

    /// Takes in what is decided, where somebody else writes it down for the region: that it knows it says by itself.
    pub fn hear(&mut self, view: &View) {
        self.view.join(view);
        let epoch = self.view.epoch();
        // A forced decision takes an epoch without votes; nobody else shall have it.
        if self.promised.epoch < epoch {
            self.promised = Ballot { epoch, proposal: 0 };
        }
    }

    /// What a coordinator that got these votes for `Prepare` stands on.
    pub fn base<'a>(votes: impl Iterator<Item = &'a Vote>) -> View {
        let mut base = View::default();
        let mut latest: Option<(Ballot, &View)> = None;
        for vote in votes {
            base.join(vote.view());
            if let Vote::Given { accepted: Some((ballot, view)), .. } = vote
                && latest.is_none_or(|(known, _)| known < *ballot)
            {
                latest = Some((*ballot, view));
            }
        }
        if let Some((_, view)) = latest {
            base.join(view);
        }
        base
    }
}
