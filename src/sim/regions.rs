//! Who serves users: regions ask each other, operators move users about, and what must be true of it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};

use super::{
    Fault, Invariant, REGIONS, Violation,
    cluster::{Cluster, lock},
    history::effects,
    net::{SimPeer, Site},
};
use crate::{
    agent::{
        Agent,
        regions::failover::{Done, Error as NotDone, Request},
    },
    core::{
        link::Failure,
        region::{Mode, State},
    },
    ports::{
        inbox::Refusal,
        regions::{Answer, Error, Question, RemoteRegion},
    },
};

/// Faults after which a region may have forgotten its votes, or counts majorities of another number of regions: what is
/// promised of unforced commands does not hold then.
const FORGETTING: [Fault; 4] = [Fault::Rollback, Fault::Clone, Fault::BitRot, Fault::Membership];

/// A command is given up after this much virtual time.
const PATIENCE: Duration = Duration::from_secs(20);

/// With all its rounds, looks and time-outs it ends within this much.
const COMMAND_ENDS_WITHIN: Duration = Duration::from_secs(300);

/// What an operator types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    Graceful,
    Ungraceful,
    Abort,
    Back,
}

impl Move {
    const ALL: [Move; 5] = [Move::Graceful, Move::Ungraceful, Move::Abort, Move::Back, Move::Back];
}

/// A command for `region`, unforced.
pub fn request(region: &str, of: Move) -> Request {
    Request {
        region: region.to_owned(),
        mode: if of == Move::Ungraceful { Mode::Ungraceful } else { Mode::Graceful },
        force: false,
        alone: false,
        by: "a simulated operator".to_owned(),
        reason: String::new(),
        // No cool-down: histories are short.
        drill: true,
        wait: PATIENCE,
    }
}

/// Has an agent carry it out.
pub async fn perform(agent: &Agent, request: &Request, of: Move) -> Result<Done, NotDone> {
    match of {
        Move::Graceful | Move::Ungraceful => agent.commands().evacuate(request).await,
        Move::Abort => agent.commands().abort(request).await,
        Move::Back => agent.commands().fail_back(request).await,
    }
}

impl Cluster {
    /// Whether operators move users about in this history.
    pub fn moves_users(&self) -> bool {
        !FORGETTING.into_iter().any(|fault| self.has(fault))
    }

    /// An operator moves users by way of some agent, and waits for it or not.
    pub async fn move_users(&mut self) {
        let by = self.chance.below(3) as usize;
        let region = REGIONS[self.chance.below(3) as usize];
        let of = self.chance.pick(&Move::ALL).copied().unwrap_or(Move::Back);
        let waits = self.chance.hits(0.3);
        let Some(agent) = self.agent(by).cloned() else { return };
        self.trace.note(&format!("an operator at {}: {of:?} {region}", REGIONS[by]));
        let before = self.published().await;
        let (trace, power) = (self.trace.clone(), self.nodes[by].running.as_ref().map(|running| running.power.clone()));
        let by_power = power.clone();
        let unproven = self.unproven.clone();
        let hubs: Vec<_> =
            self.nodes.iter().map(|node| (node.name, node.running.as_ref().map(|r| r.hub.clone()))).collect();
        let command = async move {
            let request = request(region, of);
            let done = perform(&agent, &request, of).await;
            if power.is_none_or(|power| !power.is_on()) {
                return;
            }
            trace.note(&format!("{of:?} {region}: {done:?}"));
            let Ok(done) = done else { return };
            let proven = done.rpo.as_ref().is_some_and(|rpo| rpo.kind == "proven") && !done.already;
            if !proven {
                return;
            }
            // What was there before the command began is where it must be. Regions that do not serve are no matter.
            let view = agent.regions.view();
            for (from, keys) in &before {
                for (to, hub) in &hubs {
                    // What the region had is everywhere when it leaves; when it comes back it also has what all others had.
                    let concerns = from != to && (*from == region || (of == Move::Back && *to == region));
                    let serves = |name: &str| name == region || view.decided(name) == State::Active;
                    let (Some(hub), true, true) = (hub, concerns, serves(to)) else { continue };
                    let Ok(effects) = effects(hub).await else { continue };
                    let there: BTreeSet<&str> = effects.iter().map(|effect| effect.key.as_str()).collect();
                    for key in keys.iter().filter(|key| !there.contains(key.as_str())) {
                        let what = format!("{of:?} {region} was proven, and {to} has not {key} of {from}");
                        lock(&unproven).push(Violation::new(Invariant::Proven, what));
                    }
                }
            }
        };
        match (waits, by_power) {
            (true, _) => command.await,
            (false, by) => self.moves.push((by, tokio::spawn(command))),
        }
    }

    /// By region: the keys of its own events that no filter keeps anywhere.
    async fn published(&self) -> Vec<(&'static str, Vec<String>)> {
        let hubs = self.hubs().await;
        let passing = |(region, effects): (&&'static str, &Vec<super::history::Effect>)| {
            let own = effects.iter().filter(|effect| effect.local && effect.detail.contains("\"pass\":true"));
            (*region, own.map(|effect| effect.key.clone()).collect())
        };
        hubs.iter().map(passing).collect()
    }

    /// Enough regions serve in every region's eyes, and no two serve that take each other for evacuated.
    pub fn check_regions(&mut self) {
        let views: Vec<_> = self
            .nodes
            .iter()
            .filter_map(|node| Some((node.name, node.running.as_ref()?.agent.regions.view())))
            .collect();
        let mut violations = std::mem::take(&mut *lock(&self.unproven));
        for (name, view) in &views {
            if REGIONS.into_iter().all(|region| view.decided(region) != State::Active) {
                violations.push(Violation::new(Invariant::Serving, format!("nobody is active in the eyes of {name}")));
            }
            for (other, theirs) in views.iter().filter(|(other, _)| name < other) {
                let alone = |view: &crate::core::region::View, me: &str, them: &str| {
                    view.decided(me) == State::Active && view.decided(them) == State::Evacuated
                };
                if alone(view, name, other) && alone(theirs, other, name) {
                    let what = format!("{name} and {other} both serve and take each other for evacuated");
                    violations.push(Violation::new(Invariant::Serving, what));
                }
            }
        }
        self.violations.extend(violations);
    }

    /// Whatever operators did: every region is brought back.
    pub async fn bring_back(&mut self) {
        if !self.moves_users() {
            return;
        }
        // What is under way at an agent that lives comes to its end first.
        for (power, command) in std::mem::take(&mut self.moves) {
            if power.is_some_and(|power| power.is_on()) {
                let _ = tokio::time::timeout(COMMAND_ENDS_WITHIN, command).await;
            }
        }
        for _ in 0..10 {
            let view = self.agent(0).map(|agent| agent.regions.view()).unwrap_or_default();
            let away = REGIONS.into_iter().find(|region| view.decided(region) != State::Active);
            let (Some(region), Some(agent)) = (away, self.agent(0).cloned()) else { break };
            let of = if view.decided(region) == State::Draining { Move::Abort } else { Move::Back };
            let done = perform(&agent, &request(region, of), of).await;
            self.trace.note(&format!("at the end {of:?} {region}: {done:?}"));
        }
        let agents: Vec<_> = (0..REGIONS.len()).filter_map(|index| self.agent(index).cloned()).collect();
        for agent in agents {
            agent.regions.exchange().await;
            let view = agent.regions.view();
            for region in REGIONS.into_iter().filter(|region| view.decided(region) != State::Active) {
                let state = view.decided(region).as_str();
                let what = format!("{region} is {state} for {} though every fault is over", agent.region);
                self.violations.push(Violation::new(Invariant::Serving, what));
            }
        }
        self.check_regions();
    }
}

impl RemoteRegion for SimPeer {
    fn ask(&self, question: Question) -> BoxFuture<'_, Result<Answer, Failure>> {
        // Over the wire format, as in production.
        let text = serde_json::to_vec(&question).unwrap_or_default();
        let asker = self.home.clone();
        let work = move |site: Site| {
            let (text, asker) = (text.clone(), asker.clone());
            async move {
                let malformed = |error: serde_json::Error| Refusal::Malformed(error.to_string());
                let question = serde_json::from_slice(&text).map_err(malformed)?;
                let admission = site.inbox.admit(super::documents::CLUSTER, &asker).await?;
                if admission.answer_lost {
                    return Err(Refusal::CutOff);
                }
                match site.regions.answer(question).await {
                    Ok(answer) => serde_json::to_vec(&answer).map_err(malformed),
                    Err(Error::Refused(why)) => Err(Refusal::Malformed(why)),
                    Err(Error::Unavailable(why)) => {
                        Err(Refusal::Unavailable { why, retry_after: Duration::from_secs(1) })
                    }
                }
            }
            .boxed()
        };
        async move {
            let text = self.bounded(Arc::new(work)).await?;
            serde_json::from_slice(&text).map_err(|error| Failure::Unanswered(error.to_string()))
        }
        .boxed()
    }
}
