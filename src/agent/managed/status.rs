//! What an agent on managed services says of its region.

use std::sync::{PoisonError, atomic::Ordering};

use serde::Serialize;

use super::Managed;
use crate::{
    agent::{
        regions::Shown,
        status::{Percentiles, percentiles},
    },
    core::region::State,
    ports::documents::Documents,
};

#[derive(Clone, Debug, Serialize)]
pub struct ManagedLinkStatus {
    pub peer: String,
    pub state: String,
    /// As this agent measured it; of heartbeats while there were no events of services.
    pub lag_seconds: Percentiles,
    /// As the queue counts, late by up to a minute and the same for all agents.
    pub backlog_events: u64,
    /// RFC 3339; `null` while it cannot be told.
    pub watermark: Option<String>,
    /// `estimated`: a queue does not say what it holds.
    pub watermark_kind: &'static str,
    pub rpo_exposure_seconds: f64,
    pub dead_letters: u64,
    pub held: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct ManagedStatus {
    pub region: String,
    pub state: &'static str,
    pub backend: &'static str,
    /// Names this agent.
    pub incarnation: String,
    pub links: Vec<ManagedLinkStatus>,
    /// Of what was decided last.
    pub epoch: u64,
    pub regions: Vec<Shown>,
    /// Of which nothing was heard for too long.
    pub suspects: Vec<String>,
    pub documents: u64,
    /// Services' events that this agent entered into the ledger or saw arrive, since it started.
    pub events: u64,
    pub version: &'static str,
    pub draining: bool,
    pub time: String,
}

impl Managed {
    pub fn status(&self) -> ManagedStatus {
        self.refresh_gauges();
        let mut links: Vec<ManagedLinkStatus> = Vec::new();
        let now = self.clock.now();
        for (peer, link) in &self.links {
            let metrics = &link.metrics;
            let watermark = *link.watermark.lock().unwrap_or_else(PoisonError::into_inner);
            let events = percentiles(&metrics.lag_events);
            links.push(ManagedLinkStatus {
                peer: peer.clone(),
                state: metrics.state().to_owned(),
                lag_seconds: if events.p50.is_some() { events } else { percentiles(&metrics.lag_heartbeat) },
                backlog_events: metrics.backlog_events.get() as u64,
                watermark: Some(watermark.at()).filter(|at| at.0 > 0).map(|at| at.to_rfc3339()),
                watermark_kind: "estimated",
                rpo_exposure_seconds: watermark.exposure(now).as_secs_f64(),
                dead_letters: metrics.dead_letters.get() as u64,
                held: metrics.held.get() as u64,
            });
        }
        for peer in &self.disabled {
            links.push(ManagedLinkStatus {
                peer: peer.clone(),
                state: "disabled".to_owned(),
                lag_seconds: Percentiles::default(),
                backlog_events: 0,
                watermark: None,
                watermark_kind: "estimated",
                rpo_exposure_seconds: 0.0,
                dead_letters: 0,
                held: 0,
            });
        }
        links.sort_by(|a, b| a.peer.cmp(&b.peer));
        let draining = self.closed.load(Ordering::SeqCst);
        ManagedStatus {
            region: self.region.clone(),
            state: match self.regions.state() {
                State::Active if draining => State::Draining,
                state => state,
            }
            .as_str(),
            backend: "aws",
            incarnation: self.incarnation.clone(),
            links,
            epoch: self.regions.view().epoch(),
            regions: self.regions.shown(),
            suspects: self.regions.heard.suspects(),
            documents: self.documents.as_ref().map_or(0, |documents| documents.counts().values().sum()),
            events: self.metrics.events_seen(),
            version: env!("CARGO_PKG_VERSION"),
            draining,
            time: now.to_rfc3339(),
        }
    }
}
