//! What each agent of a region does all the time, beside its links: it looks at the region's table, does what stands there,
//! sends the heartbeat when that is its turn, and estimates how far the links are.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use super::{
    CALL_TIMEOUT, HEARTBEAT, LOOK_TIMEOUT, Link, Managed, SHARED_INTERVAL,
    beat::{Beat, Step},
    pause_name,
};
use crate::{
    agent::{heartbeat, rounds::within},
    core::{event::RESERVED_SOURCE, json, time::Timestamp},
    ports::{
        bus::{Entry, Put},
        shared::Value,
    },
};

impl Link {
    /// Everything accepted before this is taken to be at the peer, whoever works on it. Zero while nothing can be told.
    pub(super) fn cursor(&self) -> Timestamp {
        let proven = self.watermark.lock().unwrap_or_else(PoisonError::into_inner).proven();
        proven.min(self.under_way())
    }

    /// When the oldest of what some agent works on had been accepted.
    pub(super) fn under_way(&self) -> Timestamp {
        let here = self.progress.under_way().unwrap_or(Timestamp(u64::MAX));
        match self.late_elsewhere.load(Ordering::Relaxed) {
            u64::MAX => here,
            there => here.min(Timestamp::from_millis(there)),
        }
    }
}

impl Managed {
    /// Reads what the region's agents share, and sends the heartbeat when it is nobody else's turn.
    pub(super) async fn coordinate(self: Arc<Self>) {
        let mut beat = Beat::new(self.heartbeat);
        let period = beat.period().min(SHARED_INTERVAL);
        // Links wait for the first look.
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            // Spread, so that agents do not race each time.
            pause = period.mul_f64(0.75 + 0.5 * self.entropy.next_f64());
            self.observe_backlogs();
            let values = match within(LOOK_TIMEOUT, self.shared.list()).await {
                Ok(values) => values,
                Err(failure) => {
                    self.regions.health.beat(Some(false), self.look_interval());
                    self.regions.follow();
                    tracing::warn!(region = self.region, %failure, "the region's table cannot be read");
                    continue;
                }
            };
            self.take_over_pauses(&values);
            let is_read = self.follow_table(&values);
            self.regions.health.beat(Some(is_read), self.look_interval());
            self.regions.follow();
            if tokio::time::timeout(LOOK_TIMEOUT, self.do_what_is_wanted(&values)).await.is_err() {
                tracing::debug!(region = self.region, "the region's table is slow to take what this agent has to say");
            }
            let version = values.iter().find(|value| value.name == HEARTBEAT).map_or(0, |value| value.version);
            if beat.seen(version, self.steady()) == Step::Mine {
                // Beside the looks: a bus that hangs must not keep the agent from learning what is decided.
                let agent = self.clone();
                let beating = async move {
                    if agent.takes_turn(version).await {
                        futures::join!(agent.tell(&values), agent.beat(version + 1));
                    }
                };
                self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(beating));
            }
        }
    }

    fn take_over_pauses(&self, values: &[Value]) {
        for (peer, link) in &self.links {
            let name = pause_name(peer);
            let paused = values.iter().any(|value| value.name == name && !value.text.is_empty());
            link.paused.send_if_modified(|now| std::mem::replace(now, paused) != paused);
        }
    }

    /// Whether the heartbeat after `version` is this agent's to send.
    async fn takes_turn(&self, version: u64) -> bool {
        match within(CALL_TIMEOUT, self.shared.change(HEARTBEAT, &self.incarnation, version)).await {
            Ok(is_ours) => is_ours,
            Err(failure) => {
                tracing::warn!(region = self.region, %failure, "no heartbeat this time: the region's table");
                false
            }
        }
    }

    async fn beat(&self, number: u64) {
        let entry = Entry {
            source: RESERVED_SOURCE.to_owned(),
            detail_type: heartbeat::DETAIL_TYPE.to_owned(),
            detail: format!("{{\"region\":{},\"number\":{number}}}", json::quote(&self.region)),
            ..Entry::default()
        };
        let why = match tokio::time::timeout(CALL_TIMEOUT, self.bus.put(vec![entry])).await {
            Ok(Ok(puts)) => match puts.into_iter().next() {
                Some(Put::Accepted(_)) => return,
                Some(Put::Later { code, why } | Put::Refused { code, why }) => format!("{code}: {why}"),
                None => "no answer for it".to_owned(),
            },
            Ok(Err(failure)) => failure.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::warn!(region = self.region, number, why, "no heartbeat this time");
    }

    /// A clock that never steps.
    fn steady(&self) -> Timestamp {
        Timestamp::from_millis(1).plus(self.started.elapsed())
    }

    pub(super) fn observe_backlogs(&self) {
        let now = self.clock.now();
        for link in self.links.values() {
            let mut watermark = link.watermark.lock().unwrap_or_else(PoisonError::into_inner);
            // Queues that do not say may hold something; and what they said holds for when they said it.
            let count = link.progress.count().filter(|count| now.since(count.at) <= self.depth_interval * 3);
            match count {
                Some(count) => watermark.observe(count.all > 0, count.at),
                None => watermark.observe(true, now),
            }
            let dead = link.metrics.dead_letters.get() as u64;
            if link.dead.swap(dead, Ordering::Relaxed) > dead {
                watermark.put_back(now);
            }
            // Whoever has just started has seen little of it.
            let dense = now.minus(self.settle * 2);
            if let Some(oldest) = link.progress.oldest_since(dense).filter(|_| count.is_some()) {
                watermark.passed(oldest.min(dense));
            }
            link.metrics.watermark.set(watermark.at().as_secs_f64());
            link.metrics.exposure.set(watermark.exposure(now).as_secs_f64());
        }
    }
}
