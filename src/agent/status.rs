//! What a region says of itself.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{Agent, handle::LinkHandle, inbox::read_state, regions::Shown};
use crate::{
    core::{journal::Loss, link, region::State, time::Timestamp},
    ports::documents::Documents,
};

/// Seconds at two points of a distribution; `null` while nothing was measured.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Percentiles {
    pub p50: Option<f64>,
    pub p99: Option<f64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct LinkStatus {
    pub peer: String,
    pub state: String,
    /// Why it is in that state, where there is something to say.
    pub reason: Option<String>,
    /// Of services' events (of heartbeats while there were none), since the agent started.
    pub lag_seconds: Percentiles,
    pub backlog_events: u64,
    pub backlog_bytes: u64,
    /// What services did to documents here and the peer does not have, at most.
    pub backlog_deltas: u64,
    /// RFC 3339.
    pub watermark: String,
    pub rpo_exposure_seconds: f64,
    pub dead_letters: u64,
    pub held: usize,
    pub cursor: u64,
    pub clock_offset_seconds: Option<f64>,
    pub pattern: Option<serde_json::Value>,
    pub losses: Vec<LossShown>,
}

/// An entry of the loss inventory.
#[derive(Clone, Debug, Serialize)]
pub struct LossShown {
    pub from: u64,
    pub to: u64,
    pub events: u64,
    pub first_accepted: String,
    pub last_accepted: String,
    pub at: String,
}

impl From<&Loss> for LossShown {
    fn from(loss: &Loss) -> Self {
        LossShown {
            from: loss.from,
            to: loss.to,
            events: loss.events,
            first_accepted: loss.first_accepted.to_rfc3339(),
            last_accepted: loss.last_accepted.to_rfc3339(),
            at: loss.at.to_rfc3339(),
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Status {
    pub region: String,
    pub state: &'static str,
    pub incarnation: String,
    pub links: Vec<LinkStatus>,
    /// CRDT documents held.
    pub documents: u64,
    /// Services' events taken in since the log began, here or over links.
    pub events: u64,
    pub head: u64,
    pub base: u64,
    pub log_bytes: u64,
    pub version: &'static str,
    pub draining: bool,
    pub time: String,
    /// By peer: its head as it said last. What lies beyond our high-water would be lost with it.
    pub peer_heads: BTreeMap<String, u64>,
    /// Regions of which nothing was heard for too long.
    pub suspects: Vec<String>,
    /// The last decision about who serves users.
    pub epoch: u64,
    pub regions: Vec<Shown>,
}

/// How far a link is behind, in the terms of RPO.
pub(super) struct Exposure {
    pub backlog_events: u64,
    pub backlog_bytes: u64,
    pub backlog_deltas: u64,
    pub watermark: Timestamp,
    pub exposure_seconds: f64,
}

impl Agent {
    pub(super) fn exposure(&self, link: &LinkHandle) -> Exposure {
        let head = self.hub.end();
        let view = link.view();
        // A clock that was set back must not hide what is exposed.
        let now = self.clock.now().max(head.accepted);
        let ahead = head.local_events.saturating_sub(view.mark.local_events);
        // A mark that is not known yet (nothing was delivered) counts everything.
        let watermark = if ahead == 0 { now } else { view.mark.accepted };
        let deltas = self.documents.as_ref().map(|documents| documents.unsent_after(view.cursor)).unwrap_or_default();
        let watermark = deltas.since.map_or(watermark, |since| since.minus(Duration::from_nanos(1)).min(watermark));
        // The watermark passes what is held; the region's loss would not.
        let exposed_since = view.held_since.map_or(watermark, |since| since.min(watermark));
        let backlog_events = ahead + view.held.len() as u64;
        Exposure {
            backlog_events,
            backlog_bytes: head.local_bytes.saturating_sub(view.mark.local_bytes),
            backlog_deltas: deltas.deltas,
            watermark,
            exposure_seconds: match backlog_events + deltas.deltas {
                0 => 0.0,
                _ => now.since(exposed_since).as_secs_f64(),
            },
        }
    }

    pub fn status(&self) -> Status {
        let now = self.clock.now();
        let head = self.hub.end();
        let mut links: Vec<LinkStatus> = self.links.values().map(|link| self.link_status(link)).collect();
        for peer in &self.disabled {
            links.push(LinkStatus {
                peer: peer.clone(),
                state: "disabled".to_owned(),
                reason: Some("switched off in the file".to_owned()),
                lag_seconds: Percentiles::default(),
                backlog_events: 0,
                backlog_bytes: 0,
                backlog_deltas: 0,
                watermark: now.to_rfc3339(),
                rpo_exposure_seconds: 0.0,
                dead_letters: 0,
                held: 0,
                cursor: 0,
                clock_offset_seconds: None,
                pattern: None,
                losses: Vec::new(),
            });
        }
        links.sort_by(|a, b| a.peer.cmp(&b.peer));
        let draining = self.is_draining();
        Status {
            region: self.region.clone(),
            state: match self.regions.state() {
                State::Active if draining => "draining",
                state => state.as_str(),
            },
            incarnation: read_state(&*self.hub, |state| state.lives.current()).unwrap_or_default().to_string(),
            links,
            documents: self.documents.iter().flat_map(|documents| documents.counts().into_values()).sum(),
            events: head.local_events + head.applied_events,
            head: head.offset,
            base: self.hub.base(),
            log_bytes: self.hub.log_bytes(),
            version: env!("CARGO_PKG_VERSION"),
            draining,
            time: now.to_rfc3339(),
            peer_heads: self.regions.heard.heads(),
            suspects: self.regions.heard.suspects(),
            epoch: self.regions.view().epoch(),
            regions: self.regions.shown(),
        }
    }

    fn link_status(&self, link: &LinkHandle) -> LinkStatus {
        let view = link.view();
        let gauges = self.exposure(link);
        let (pattern, losses) = read_state(&*self.hub, |state| {
            let link = state.links.get(&link.ends.peer_name);
            let pattern = link.and_then(|link| serde_json::from_str(&link.filters.last()?.1).ok());
            (pattern, link.map(|link| link.losses.iter().map(LossShown::from).collect()).unwrap_or_default())
        });
        let metrics = &link.ends.metrics;
        let events = percentiles(&metrics.lag_events);
        LinkStatus {
            peer: link.ends.peer_name.clone(),
            state: view.status.as_str().to_owned(),
            reason: match &view.status {
                link::Status::Retrying(why) | link::Status::Refused(why) => Some(why.clone()),
                link::Status::Active | link::Status::Paused => None,
            },
            lag_seconds: if events.p50.is_some() { events } else { percentiles(&metrics.lag_heartbeat) },
            backlog_events: gauges.backlog_events,
            backlog_bytes: gauges.backlog_bytes,
            backlog_deltas: gauges.backlog_deltas,
            watermark: gauges.watermark.to_rfc3339(),
            rpo_exposure_seconds: gauges.exposure_seconds,
            dead_letters: link.ends.dead_letters(),
            held: view.held.len(),
            cursor: view.cursor,
            clock_offset_seconds: view.clock_offset_seconds,
            pattern,
            losses,
        }
    }
}

/// From the histogram's buckets, evenly within each, as Prometheus's `histogram_quantile` does it.
pub(super) fn percentiles(histogram: &prometheus::Histogram) -> Percentiles {
    use prometheus::core::Metric;
    let proto = histogram.metric();
    let histogram = proto.get_histogram();
    let count = histogram.get_sample_count();
    if count == 0 {
        return Percentiles::default();
    }
    let quantile = |q: f64| {
        let rank = q * count as f64;
        let (mut below, mut lower) = (0.0, 0.0);
        for bucket in histogram.get_bucket() {
            let upto = bucket.cumulative_count() as f64;
            if upto >= rank && bucket.upper_bound().is_finite() {
                let within = if upto > below { (rank - below) / (upto - below) } else { 1.0 };
                return Some(lower + (bucket.upper_bound() - lower) * within);
            }
            if bucket.upper_bound().is_finite() {
                (below, lower) = (upto, bucket.upper_bound());
            }
        }
        Some(lower)
    };
    Percentiles { p50: quantile(0.5), p99: quantile(0.99) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_read_from_the_buckets() {
        let options = prometheus::HistogramOpts::new("lag", "lag").buckets(vec![1.0, 2.0, 4.0]);
        let histogram = prometheus::Histogram::with_opts(options).unwrap();
        assert!(percentiles(&histogram).p50.is_none());
        for value in [0.5, 1.5, 1.6, 3.0] {
            histogram.observe(value);
        }
        let read = percentiles(&histogram);
        assert_eq!(read.p50, Some(1.5));
        assert!((3.9..=4.0).contains(&read.p99.unwrap()));
        histogram.observe(100.0);
        assert_eq!(percentiles(&histogram).p99, Some(4.0), "beyond the last bucket all that is known is its bound");
    }
}
