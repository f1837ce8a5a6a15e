//! Rounds of voting: how one region has a change decided.

use std::time::Duration;

use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::time::{sleep, timeout};

use super::Regions;
use crate::{
    core::{
        backoff::Backoff,
        region::{
            Ballot, View,
            order::{Order, Refusal},
            vote::{Message, Vote, Voter},
        },
    },
    ports::regions::{self, Answer, Question},
};

/// Rounds before it is given up; each loses only against another command at the same moment.
const ROUNDS_MAX: u32 = 8;

/// When a majority has answered, how long the others are still waited for.
const GRACE: Duration = Duration::from_millis(200);

const PAUSE: Backoff = Backoff { min: Duration::from_millis(50), max: Duration::from_secs(1) };

/// A change that is decided.
#[derive(Clone, Debug)]
pub struct Decided {
    /// The regions that voted for it.
    pub votes: Vec<String>,
    /// Nobody had to.
    pub without_majority: bool,
}

/// Why it is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecided {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(
        "{} of {members} regions voted ({}), {majority} are needed: the others do not answer; where no region's agent gets \
         more, --force does without them",
        .votes.len(), .votes.join(", ")
    )]
    NoMajority { votes: Vec<String>, majority: usize, members: usize },
    #[error(
        "{} accepted it and the others stopped answering: it may come into force yet; ask again",
        .votes.join(", ")
    )]
    Open { votes: Vec<String> },
    #[error("other commands came first, {ROUNDS_MAX} times; try again")]
    Contended,
    #[error(transparent)]
    Store(#[from] regions::Error),
}

/// The votes for a message, and the latest epoch that a refusal named.
struct Count {
    given: Vec<(String, Vote)>,
    refused: Option<u64>,
}

impl Undecided {
    /// Another agent may get what this one did not: more votes, or its turn.
    pub fn may_pass(&self) -> bool {
        !matches!(self, Undecided::Refused(_))
    }
}

impl Count {
    fn names(&self) -> Vec<String> {
        self.given.iter().map(|(region, _)| region.clone()).collect()
    }
}

impl Regions {
    /// Has `order` decided by a majority of the regions; without one where there is none and it is forced `alone`.
    ///
    /// # Errors
    /// It is not decided; only after [`Undecided::Open`] it may be yet.
    pub(super) async fn decide(&self, order: &Order, alone: bool) -> Result<Decided, Undecided> {
        let mut mine: Vec<Ballot> = Vec::new();
        let mut seen = 0;
        for round in 0..ROUNDS_MAX {
            if round > 0 {
                sleep(PAUSE.pause(round, self.entropy.next_f64())).await;
            }
            let epoch = {
                let kept = self.kept();
                kept.0.voter.promised.epoch.max(kept.0.voter.view.epoch()).max(seen) + 1
            };
            let ballot = Ballot { epoch, proposal: self.entropy.next_u64() | 1 };
            let promises = self.poll(Message::Prepare(ballot)).await;
            if promises.given.len() < self.members.majority() {
                match promises.refused {
                    Some(epoch) => {
                        seen = seen.max(epoch);
                        continue;
                    }
                    None if order.forced && alone => return self.force(order, &promises).await,
                    None => return Err(self.no_majority(&promises)),
                }
            }
            let base = Voter::base(promises.given.iter().map(|(_, vote)| vote));
            let is_mine = base.entries.get(&order.region).is_some_and(|entry| mine.contains(&entry.ballot));
            let (view, refused) = match order.apply(&base, ballot, &self.members) {
                // An earlier round of this very change was heard of after all: what is left is to settle it.
                _ if is_mine => (base, None),
                Ok(view) => (view, None),
                // What others had accepted, and nobody knew to be decided, is settled on the way.
                Err(refusal) if base.epoch() > self.view().epoch() => (base, Some(refusal)),
                Err(refusal) => return Err(refusal.into()),
            };
            mine.push(ballot);
            let accepted = self.poll(Message::Accept(ballot, view.clone())).await;
            if accepted.given.len() < self.members.majority() {
                match accepted.refused {
                    Some(epoch) => {
                        seen = seen.max(epoch);
                        continue;
                    }
                    None => return Err(Undecided::Open { votes: accepted.names() }),
                }
            }
            self.proclaim(&view).await?;
            return match refused {
                Some(refusal) => Err(refusal.into()),
                None => Ok(Decided { votes: accepted.names(), without_majority: false }),
            };
        }
        Err(Undecided::Contended)
    }

    /// Decides alone, on what this region and those that answer know.
    async fn force(&self, order: &Order, promises: &Count) -> Result<Decided, Undecided> {
        let mut base = self.view();
        promises.given.iter().for_each(|(_, vote)| base.join(vote.view()));
        let promised = self.kept().0.voter.promised.epoch;
        let ballot = Ballot { epoch: promised.max(base.epoch()) + 1, proposal: self.entropy.next_u64() | 1 };
        let view = order.apply(&base, ballot, &self.members)?;
        tracing::warn!(
            region = order.region,
            by = order.by,
            epoch = ballot.epoch,
            "decided by force, without a majority: regions that cannot be reached may decide otherwise"
        );
        self.proclaim(&view).await?;
        Ok(Decided { votes: promises.names(), without_majority: true })
    }

    fn no_majority(&self, count: &Count) -> Undecided {
        let (majority, members) = (self.members.majority(), self.members.regions.len());
        Undecided::NoMajority { votes: count.names(), majority, members }
    }

    /// Asks all regions; when a majority has given its vote, the rest is waited for a moment only.
    async fn poll(&self, message: Message) -> Count {
        let asked = self.members.regions.iter().map(|region| {
            let question = Question::Vote(Box::new(message.clone()));
            async move { (region, self.ask(region, question).await) }.boxed()
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut count = Count { given: Vec::new(), refused: None };
        loop {
            let enough = count.given.len() >= self.members.majority();
            let next = match enough {
                true => timeout(GRACE, asked.next()).await.unwrap_or_default(),
                false => asked.next().await,
            };
            let Some((region, answer)) = next else { return count };
            match answer {
                Ok(Answer::Vote(vote)) => match *vote {
                    Vote::Refused { promised, .. } => count.refused = count.refused.max(Some(promised.epoch)),
                    vote => count.given.push((region.clone(), vote)),
                },
                Ok(other) => tracing::warn!(region, ?other, "not a vote"),
                Err(error) => tracing::info!(region, %error, "no vote"),
            }
        }
    }

    /// Writes down what is decided, and tells everybody who answers.
    async fn proclaim(&self, view: &View) -> Result<(), Undecided> {
        self.learn(view).await?;
        let view = self.view();
        let count = self.poll(Message::Learn(view)).await;
        for (_, vote) in &count.given {
            self.learn(vote.view()).await?;
        }
        Ok(())
    }
}
