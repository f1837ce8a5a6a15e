//! One region of a simulated cluster: its disk, its clock, and the life that it is in.

use std::{collections::BTreeMap, fmt::Write, sync::Arc};

use futures::FutureExt;
use tokio::time::Instant;

use super::{
    REGIONS, Settings,
    chance::{Chance, SharedChance},
    clock::SimClock,
    disk::SimDisk,
    net::{Net, SimPeer},
};
use crate::{
    agent::{Agent, Parts},
    config::Config,
    embedded::hub::{self, EmbeddedHub},
    faults::Faults,
    metrics::Metrics,
    ports::peer::Peer,
};

/// What differs from seed to seed besides the faults.
#[derive(Clone, Debug)]
pub struct Profile {
    pub batch_events: u64,
    pub in_flight: u64,
    pub heartbeat_ms: u64,
    pub segment_bytes: u64,
    /// Links whose filter takes only events that say so.
    pub filtered: BTreeMap<(String, String), bool>,
}

impl Profile {
    pub fn draw(chance: &mut Chance) -> Self {
        let mut pick = |items: &[u64]| chance.pick(items).copied().unwrap_or(1);
        Profile {
            batch_events: pick(&[1, 3, 16, 200]),
            in_flight: pick(&[1, 2, 8]),
            heartbeat_ms: pick(&[1_000, 3_000, 10_000]),
            segment_bytes: pick(&[16 << 10, 64 << 10, 256 << 10]),
            filtered: BTreeMap::new(),
        }
    }

    /// The topology file, as it is now.
    pub fn config(&self) -> Result<Config, String> {
        let mut text = format!(
            "[heartbeat]\ninterval = \"{}ms\"\n[replication]\nbatch_events = {}\nin_flight = {}\n\
             attempt_timeout = \"2s\"\nretry_min = \"50ms\"\nretry_max = \"2s\"\n",
            self.heartbeat_ms, self.batch_events, self.in_flight
        );
        for region in REGIONS {
            let _ = writeln!(text, "[[region]]\nname = \"{region}\"");
        }
        for ((from, to), _) in self.filtered.iter().filter(|(_, filtered)| **filtered) {
            let _ = writeln!(
                text,
                "[[link]]\nfrom = \"{from}\"\nto = \"{to}\"\npattern = {{ detail = {{ pass = [true] }} }}"
            );
        }
        Config::parse(&text, "simulated.toml", &|_| None).map_err(|error| error.to_string())
    }
}

/// A life that is up.
pub struct Running {
    pub agent: Arc<Agent>,
    pub hub: EmbeddedHub,
    pub life: u64,
}

impl Running {
    /// A write or sync failed: the process ends.
    fn has_failed(&self) -> bool {
        self.hub.failed().now_or_never().is_some()
    }
}

pub struct Node {
    pub name: &'static str,
    pub disk: SimDisk,
    pub clock: Arc<SimClock>,
    pub running: Option<Running>,
    seed: u64,
}

/// Why a life did not begin.
pub enum Refused {
    /// The disk failed meanwhile: try again.
    Disk(String),
    /// What is on the disk does not suit the agent, or the agent itself.
    Broken(String),
}

impl Node {
    pub fn new(settings: &Settings, seed: u64, name: &'static str, started: Instant) -> Self {
        let mut chance = Chance::new(seed, &format!("node {name}"));
        let skews = settings.allows(super::Fault::ClockSkew);
        let skew_ms = if skews && chance.hits(0.5) { chance.between(0, 1_200_000) as i64 - 600_000 } else { 0 };
        Node {
            name,
            disk: SimDisk::new(Chance::new(seed, &format!("disk {name}"))),
            clock: Arc::new(SimClock::new(started, skew_ms)),
            running: None,
            seed,
        }
    }

    /// Opens what is on the disk and starts the agent over it.
    pub async fn start(&mut self, net: &Arc<Net>, profile: &Profile) -> Result<(), Refused> {
        let life = net.begin(self.name);
        let config = profile.config().map_err(Refused::Broken)?;
        let entropy = Arc::new(SharedChance::new(Chance::new(self.seed, &format!("agent {} {life}", self.name))));
        let options = hub::Options {
            region: self.name.to_owned(),
            retention: config.idempotency.retention,
            log_retention: config.log.retention,
            log_bytes_max: config.log.max_size,
            segment_bytes: profile.segment_bytes,
        };
        let disk = Arc::new(self.disk.handle());
        let opened = EmbeddedHub::open(disk, self.clock.clone(), entropy.clone(), options).await;
        let (hub, writer) = opened.map_err(|error| self.refused(&error))?;
        tokio::spawn(writer.run());
        let others: Vec<String> = REGIONS.iter().filter(|name| **name != self.name).map(|n| (*n).to_owned()).collect();
        let peers = others.iter().map(|peer| {
            let sim = SimPeer { net: net.clone(), home: self.name.to_owned(), life, peer: peer.clone() };
            (peer.clone(), Arc::new(sim) as Arc<dyn Peer>)
        });
        let faults = Arc::new(Faults::new(false, self.clock.clone(), entropy.clone()));
        let agent = Agent::start(Parts {
            config,
            region: self.name.to_owned(),
            hub: Arc::new(hub.clone()),
            peers: peers.collect(),
            clock: self.clock.clone(),
            entropy,
            faults,
            metrics: Arc::new(Metrics::new(self.name, &others).map_err(|error| Refused::Broken(error.to_string()))?),
        })
        .await
        .map_err(|error| self.refused(&error))?;
        net.up(self.name, agent.inbox.clone());
        self.running = Some(Running { agent, hub, life });
        Ok(())
    }

    fn refused(&self, error: &dyn std::error::Error) -> Refused {
        match self.disk.has_failed() {
            true => Refused::Disk(error.to_string()),
            false => Refused::Broken(error.to_string()),
        }
    }

    /// Power fails. The tasks of this life go on, but can do nothing any more: disk and network know that it is over.
    pub fn crash(&mut self, net: &Net) {
        net.begin(self.name);
        self.disk.crash();
        if let Some(running) = self.running.take() {
            running.agent.stopping().cancel();
        }
    }

    pub fn has_failed(&self) -> bool {
        self.running.as_ref().is_some_and(Running::has_failed)
    }
}
