//! What a region tells of itself, and asks of the others, for proofs.

use std::{collections::BTreeMap, sync::PoisonError};

use futures::{FutureExt, future::join_all};

use super::{
    super::{Agent, inbox::read_state},
    failover::Commands,
};
use crate::{
    config::Mode,
    core::region::proof::{LinkReport, Report},
    ports::regions::{Answer, Error, Question},
};

impl Agent {
    /// What this region knows, for a proof.
    pub fn report(&self) -> Report {
        let now = self.clock.now();
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let links = self.links.iter().map(|(peer, link)| {
            let (view, exposure) = (link.view(), self.exposure(link));
            let is_shadow = config.link(&self.region, peer).mode == Mode::Shadow;
            let report = LinkReport {
                state: if is_shadow { "shadow" } else { view.status.as_str() }.to_owned(),
                cursor: view.cursor,
                held: view.held.len() as u64,
                first_held: view.held.iter().min().copied(),
                dead_letters: link.ends.dead_letters(),
                backlog: exposure.backlog_events,
                exposure: exposure.exposure_seconds,
                losses: read_state(&*self.hub, |state| state.links.get(peer).map_or(0, |link| link.losses.len()))
                    as u64,
            };
            (peer.clone(), report)
        });
        let off = self
            .disabled
            .iter()
            .map(|peer| (peer.clone(), LinkReport { state: "disabled".to_owned(), ..LinkReport::default() }));
        let others = self.regions.members.regions.iter().filter(|region| **region != self.region);
        let heard = others.map(|origin| {
            let (marks, holes) = read_state(&*self.hub, |state| {
                let marks = state.high_waters.get(origin).cloned().unwrap_or_default();
                (marks, state.holes.get(origin).map_or(0, Vec::len) as u64)
            });
            (origin.clone(), self.regions.heard.report(origin, marks, holes))
        });
        let rounds = self.documents.as_ref().map(|documents| documents.rounds());
        let compared = rounds.into_iter().flatten().map(|(peer, rounds)| (peer.clone(), rounds.compared()));
        Report {
            region: self.region.clone(),
            now,
            view: self.regions.view(),
            head: self.hub.end().offset,
            closed: self.regions.closed(),
            links: links.chain(off).collect(),
            heard: heard.collect(),
            compared: compared.collect(),
            estimated: false,
            repairing: self.links.values().any(|link| link.ends.is_repairing()),
        }
    }

    /// What a peer asks.
    ///
    /// # Errors
    /// It is no question to this region, or what it answers could not be written down.
    pub async fn answer_region(&self, question: Question) -> Result<Answer, Error> {
        if let Some(answer) = self.regions.answer(&question).await {
            return answer;
        }
        match question {
            Question::Compare { with } => {
                let Some(documents) = &self.documents else { return Ok(Answer::Compares { begun: None }) };
                match documents.rounds().get(&with) {
                    Some(rounds) => Ok(Answer::Compares { begun: Some(rounds.ask()) }),
                    None => Err(Error::Refused(format!("{} does not compare with {with}", self.region))),
                }
            }
            _ => Ok(Answer::Report(Box::new(self.report()))),
        }
    }
}

impl Commands<'_> {
    pub(super) async fn report_of(&self, region: &str) -> Option<Report> {
        let asked = match region == self.regions.home {
            true => self.own.answer(Question::Report).await.map_err(|error| error.to_string()),
            false => self.regions.ask(region, Question::Report).await.map_err(|failure| failure.to_string()),
        };
        match asked {
            Ok(Answer::Report(report)) => Some(*report),
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(region, %error, "no report");
                None
            }
        }
    }

    /// What all regions that answer know, by region.
    pub(super) async fn reports(&self) -> BTreeMap<String, Report> {
        let regions = &self.regions.members.regions;
        let asked: Vec<_> = regions.iter().map(|region| self.report_of(region).boxed()).collect();
        let reports = regions.iter().cloned().zip(join_all(asked).await);
        reports.filter_map(|(region, report)| Some((region, report?))).collect()
    }
}
