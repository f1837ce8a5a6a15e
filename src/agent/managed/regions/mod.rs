//! A region's part in deciding who serves users, where its agents share a table.
//!
//! The vote stands in the table ([`table`]), so does what the region's agents know: whoever sends the heartbeat writes a
//! report beside it, and other regions read it there. No agent is called by another one.

pub mod inventory;
pub mod table;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::time::{Instant, timeout};

use self::table::{Late, TableRegion};
use super::{CALL_TIMEOUT, LOOK_TIMEOUT, Managed, SHARED_INTERVAL};
use crate::{
    agent::{
        INTRODUCTION_WAIT,
        regions::{FALL, failover::Commands},
        rounds::within,
    },
    core::{
        link::Failure,
        region::{
            Ballot, State, View,
            proof::{Heard, LinkReport, Report},
        },
        time::Timestamp,
    },
    ports::{
        regions::{Answer, Error, Question, Regions},
        shared::Value,
    },
};

/// What an agent does for its region's part in it.
pub struct Part {
    /// The own region, as others see it.
    pub own: TableRegion,
    /// Since when this agent knows that the region does not serve any more.
    closing: Mutex<Option<(Ballot, Instant)>>,
    /// By peer: how often comparing was wanted when this agent began to, and how many rounds it had begun.
    comparing: Mutex<BTreeMap<String, (u64, u64)>>,
}

impl Part {
    pub fn new(own: TableRegion) -> Part {
        Part { own, closing: Mutex::default(), comparing: Mutex::default() }
    }
}

impl Regions for Managed {
    fn answer(&self, question: Question) -> BoxFuture<'_, Result<Answer, Error>> {
        let said = |failure: Failure| match failure {
            Failure::Refused(why) => Error::Refused(why),
            failure => Error::Unavailable(failure.to_string()),
        };
        async move { within(CALL_TIMEOUT, self.part.own.answer(&question)).await.map_err(said) }.boxed()
    }
}

impl Managed {
    /// What operators ask for.
    pub fn commands(&self) -> Commands<'_> {
        Commands { regions: &self.regions, own: self }
    }

    /// Takes over what the region's table says of who serves users; answers whether it could be read.
    pub(super) fn follow_table(&self, values: &[Value]) -> bool {
        self.part.own.saw(values);
        let now = self.clock.now();
        for (peer, link) in &self.links {
            let late = table::late(values, &self.incarnation, peer, now).map_or(u64::MAX, Timestamp::as_millis);
            link.late_elsewhere.store(late, Ordering::Relaxed);
        }
        let kept = table::kept(values);
        let is_read = kept.is_ok();
        match kept {
            Ok((kept, version)) => self.regions.seen(kept, version),
            Err(failure) => tracing::error!(region = self.region, %failure, "who serves users cannot be read"),
        }
        self.note_closing();
        is_read
    }

    /// Writes down what the others of the region, or other regions, want to know.
    pub(super) async fn do_what_is_wanted(&self, values: &[Value]) {
        let view = self.regions.view();
        // Somebody else wrote it there: now an agent of the region has read it.
        if view.entries.keys().any(|region| !view.knows(&self.region, region))
            && let Err(error) = self.regions.learn(&View::default()).await
        {
            tracing::warn!(region = self.region, %error, "that the region knows what is decided is not written down yet");
        }
        if let Err(failure) = self.note_late(values).await {
            tracing::debug!(region = self.region, %failure, "what is worked on for long is not told yet");
        }
        self.compare_documents(values).await;
    }

    /// Says what this agent has worked on for longer than counts are late.
    async fn note_late(&self, values: &[Value]) -> Result<(), Failure> {
        let now = self.clock.now();
        let old = now.minus(self.settle);
        let under_way = self.links.iter().filter_map(|(peer, link)| Some((peer.clone(), link.progress.under_way()?)));
        let links = under_way.filter(|(_, oldest)| *oldest < old).collect();
        table::note_late(&*self.shared, values, &self.incarnation, Late { at: now, links }).await
    }

    fn note_closing(&self) {
        let ballot = self.regions.view().ballot_of(&self.region);
        let mut closing = self.part.closing.lock().unwrap_or_else(PoisonError::into_inner);
        *closing = match *closing {
            _ if self.regions.state() == State::Active => None,
            Some((of, since)) if of == ballot => Some((of, since)),
            _ => Some((ballot, Instant::now())),
        };
    }

    /// Compares documents where somebody wants it, and says when it is done.
    async fn compare_documents(&self, values: &[Value]) {
        let Some(documents) = &self.documents else { return };
        for (peer, rounds) in documents.rounds() {
            let Ok((compared, _)) = table::compared(values, peer) else { continue };
            if compared.begun <= compared.done {
                continue;
            }
            let before = {
                let mut comparing = self.part.comparing.lock().unwrap_or_else(PoisonError::into_inner);
                match comparing.get(peer) {
                    Some((asked, before)) if *asked == compared.begun => *before,
                    _ => {
                        let before = rounds.ask();
                        comparing.insert(peer.clone(), (compared.begun, before));
                        before
                    }
                }
            };
            if rounds.compared().done <= before {
                continue;
            }
            if let Err(failure) = table::note_compared(&*self.shared, values, peer, compared.begun).await {
                tracing::warn!(peer, %failure, "that documents are compared is not written down yet");
            }
        }
    }

    /// Writes down what the region knows; the agent that sends the heartbeat does it.
    pub(super) async fn tell(&self, values: &[Value]) {
        let report = self.report(values);
        match within(CALL_TIMEOUT, table::tell(&*self.shared, values, &report)).await {
            Ok(_) => {}
            Err(failure) => {
                tracing::warn!(region = self.region, %failure, "other regions do not learn how far this one is")
            }
        }
    }

    /// Places in a log that there is not are times, in milliseconds since 1970.
    fn report(&self, values: &[Value]) -> Report {
        let now = self.clock.now();
        let before = table::report(values).map(|(report, _)| report);
        let before = before.as_ref();
        let known = self.regions.view();
        // The log of decisions is read where the decisions are.
        let view = View { log: Vec::new(), drills: BTreeMap::new(), ..known };
        let links = self.links.iter().map(|(peer, link)| {
            let metrics = &link.metrics;
            let watermark = *link.watermark.lock().unwrap_or_else(PoisonError::into_inner);
            let dead_letters = metrics.dead_letters.get() as u64;
            // Agents look at the same queue at different times. What was put back since makes no difference to who told it.
            let told =
                before.and_then(|before| before.links.get(peer)).filter(|link| link.dead_letters <= dead_letters);
            let told = told.map_or(0, |link| link.cursor).min(now.as_millis());
            let report = LinkReport {
                state: if link.shadow { "shadow" } else { metrics.state() }.to_owned(),
                cursor: link.cursor().as_millis().max(told).min(link.under_way().as_millis()),
                held: link.progress.count().map_or(0, |count| count.held),
                first_held: None,
                dead_letters,
                backlog: metrics.backlog_events.get() as u64,
                exposure: watermark.exposure(now).as_secs_f64(),
                losses: 0,
            };
            (peer.clone(), report)
        });
        let off = self.disabled.iter().map(|peer| {
            let report = LinkReport { state: "disabled".to_owned(), ..LinkReport::default() };
            (peer.clone(), report)
        });
        let others = self.regions.members.regions.iter().filter(|region| **region != self.region);
        let heard = others.map(|origin| {
            let heard = self.regions.heard.report(origin, Vec::new(), 0);
            // Each agent sees some of what arrives.
            let told = before.and_then(|before| before.heard.get(origin)).and_then(|heard| heard.watermark);
            (origin.clone(), Heard { watermark: heard.watermark.max(told), ..heard })
        });
        let peers = self.documents.iter().flat_map(|documents| documents.rounds().keys());
        let compared = peers.filter_map(|peer| Some((peer.clone(), table::compared(values, peer).ok()?.0)));
        Report {
            region: self.region.clone(),
            now,
            head: now.as_millis(),
            closed: self.closed(&view, before, now.as_millis()),
            view,
            links: links.chain(off).collect(),
            heard: heard.collect(),
            compared: compared.collect(),
            repairing: false,
            estimated: true,
        }
    }

    /// Since when the region takes nothing from services any more, as far as its agents can tell: those that publish on the
    /// bus themselves are asked to go, by `/region/health`.
    fn closed(&self, view: &View, before: Option<&Report>, now: u64) -> Option<u64> {
        let (ballot, since) = (*self.part.closing.lock().unwrap_or_else(PoisonError::into_inner))?;
        let told = before.filter(|before| before.view.ballot_of(&self.region) == ballot);
        if let Some(closed) = told.and_then(|before| before.closed).filter(|closed| *closed <= now) {
            return Some(closed);
        }
        // By then every agent of the region has looked, or refuses because it cannot.
        let all_know = since.elapsed() >= (self.look_interval() + LOOK_TIMEOUT * 2) * FALL;
        (view.ballot_of(&self.region) == ballot && all_know).then_some(now)
    }

    /// How often an agent looks at the table, at most.
    pub(super) fn look_interval(&self) -> Duration {
        (self.heartbeat / 4).max(Duration::from_millis(10)).min(SHARED_INTERVAL).mul_f64(1.25)
    }

    /// Tells other regions what is decided, and hears it from them.
    pub(super) async fn mind_regions(self: std::sync::Arc<Self>) {
        let minding = async {
            // A region that was evacuated while nobody was there must not send for users before it knows.
            while !matches!(timeout(LOOK_TIMEOUT, self.regions.look()).await, Ok(Ok(()))) {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            let _ = timeout(INTRODUCTION_WAIT, self.regions.exchange()).await;
            self.regions.introduced();
            loop {
                tokio::time::sleep(self.heartbeat.mul_f64(0.75 + 0.5 * self.entropy.next_f64())).await;
                self.regions.exchange().await;
                self.commands().evacuate_suspects().await;
            }
        };
        self.stop.run_until_cancelled(minding).await;
    }
}
