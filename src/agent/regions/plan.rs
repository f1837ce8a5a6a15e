//! What must be so before a region is left, and what leaving it would do.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use tokio::time::sleep;

use super::failover::{Commands, Error, Request, Rpo};
use crate::core::region::{
    Mode, State,
    proof::{self, Report},
};

/// A plan looks at the links twice, with this much time in between.
const PLAN_SPAN: Duration = Duration::from_millis(500);

/// One thing that a plan looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    pub check: &'static str,
    pub ok: bool,
    pub detail: String,
}

/// A dry run.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    pub region: String,
    pub mode: &'static str,
    pub state: State,
    pub possible: bool,
    pub checks: Vec<Check>,
    pub rpo: Rpo,
    /// Services' events that would have to be brought over first, over the link that has most.
    pub backlog_events: Option<u64>,
    /// How long that takes as fast as the links were while the plan looked; `null` where they stood still, or do not tell.
    pub catch_up_seconds: Option<f64>,
    pub coordinator: String,
}

impl Commands<'_> {
    /// What leaving a region would do; decides nothing.
    ///
    /// # Errors
    /// There is no such region.
    pub async fn plan(&self, request: &Request) -> Result<Plan, Error> {
        self.check_region(&request.region)?;
        let answering = self.regions.exchange().await;
        let first = self.report_of(&request.region).await;
        sleep(PLAN_SPAN).await;
        let reports = self.reports().await;
        let mut checks = self.checks(request, &reports);
        let state = self.regions.view().decided(&request.region);
        let majority = self.regions.members.majority();
        checks.push(Check {
            check: "votes",
            ok: answering >= majority,
            detail: format!(
                "{answering} of {} regions answer, {majority} are needed",
                self.regions.members.regions.len()
            ),
        });
        let survivors = || reports.values().filter(|report| report.region != request.region);
        let now = reports.get(&request.region);
        let backlog_events = now.map(|now| now.links.values().map(|link| link.backlog).max().unwrap_or_default());
        let rpo = match request.mode {
            Mode::Graceful => Rpo::nothing(self.regions.certainty),
            Mode::Ungraceful => Rpo::exposed(&proof::exposure(&request.region, survivors())),
        };
        Ok(Plan {
            region: request.region.clone(),
            mode: request.mode.as_str(),
            state,
            possible: checks.iter().all(|check| check.ok),
            checks,
            rpo,
            backlog_events,
            catch_up_seconds: first.as_ref().zip(now).and_then(|(first, now)| catch_up(first, now)),
            coordinator: self.regions.home.clone(),
        })
    }

    /// What must be so before a region is left.
    fn checks(&self, request: &Request, reports: &BTreeMap<String, Report>) -> Vec<Check> {
        let regions = self.regions;
        let (view, region) = (regions.view(), &request.region);
        let mut checks = Vec::new();
        let mut check = |check, ok, detail: String| checks.push(Check { check, ok, detail });
        let state = view.decided(region);
        let fits = match request.mode {
            Mode::Graceful => matches!(state, State::Active | State::Draining),
            Mode::Ungraceful => state != State::Evacuated,
        };
        check("state", fits, format!("{region} is {}", state.as_str()));
        let serves = |other: &&String| {
            **other != *region && view.decided(other) == State::Active && reports.contains_key(*other)
        };
        let left = regions.members.regions.iter().filter(serves).count();
        let min = regions.members.min_active;
        check("active regions left", left >= min, format!("{left} that answer, cluster.min_active is {min}"));
        let cooling = regions.cooling(request.drill);
        check(
            "cool-down",
            cooling.is_none(),
            match cooling {
                Some(left) => format!("a region came back a moment ago: {:.0} s to go", left.as_secs_f64().ceil()),
                None => "over".to_owned(),
            },
        );
        if request.mode == Mode::Graceful {
            match reports.get(region) {
                Some(report) => {
                    for (peer, link) in report.links.iter().filter(|(peer, _)| view.decided(peer) != State::Evacuated) {
                        let drains = link.state == "active" && link.dead_letters == 0;
                        let detail = format!(
                            "{region} -> {peer} is {}, {} events to go, {} held, {} dead letters",
                            link.state, link.backlog, link.held, link.dead_letters
                        );
                        check("link drains", drains, detail);
                    }
                }
                None => {
                    check("answers", false, format!("{region} does not answer: only --mode ungraceful is possible"))
                }
            }
        }
        checks
    }

    /// # Errors
    /// The first check that fails, unless it is forced.
    pub(super) fn permit(&self, request: &Request, reports: &BTreeMap<String, Report>) -> Result<(), Error> {
        let failed = self.checks(request, reports).into_iter().find(|check| !check.ok);
        match failed {
            Some(check) if request.force => {
                tracing::warn!(
                    region = request.region,
                    by = request.by,
                    check = check.check,
                    detail = check.detail,
                    "goes on without this, by force"
                );
                Ok(())
            }
            Some(check) => Err(Error::Refused(format!("{}: {} (--force does without)", check.check, check.detail))),
            None => Ok(()),
        }
    }
}

/// How long the slowest link needs for what it has to bring, as fast as it was between two looks.
fn catch_up(first: &Report, now: &Report) -> Option<f64> {
    let span = now.now.since(first.now).as_secs_f64();
    let of_links = now.links.iter().map(|(peer, link)| {
        let left = now.head.saturating_sub(link.cursor) as f64;
        let moved = link.cursor.saturating_sub(first.links.get(peer).map_or(link.cursor, |link| link.cursor)) as f64;
        match (left > 0.0 && link.backlog > 0, moved > 0.0 && span > 0.0) {
            (false, _) => Some(0.0),
            (true, true) => Some(left / (moved / span)),
            (true, false) => None,
        }
    });
    of_links.into_iter().try_fold(0.0, |worst: f64, seconds| Some(worst.max(seconds?)))
}
