//! One region of a simulated cluster: its disk, its clock, and the life that it is in.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    sync::Arc,
};

use futures::FutureExt;
use tokio::time::Instant;

use super::{
    REGIONS, Settings,
    chance::{Chance, SharedChance},
    clock::SimClock,
    disk::{Image, SimDisk},
    hold::{HoldingInbox, Share},
    net::{Net, SimPeer, Site},
    objects::SimStore,
    power::Power,
    requests,
    rows::SimRows,
    trace::SharedTrace,
};
use crate::{
    agent::{self, Agent, Parts, documents::Shelves, payloads::Stores},
    config::Config,
    embedded::hub::{self, EmbeddedHub},
    faults::{
        CrashHook, Faults, clock::SkewedClock, documents::FaultyDocuments, inbox::FaultyInbox, peer::FaultyPeer,
        regions::FaultyRegion,
    },
    metrics::Metrics,
    ports::{clock::Clock, documents::Documents, peer::Peer, regions::RemoteRegion},
};

/// Where events refer to objects.
pub const REFERENCE: &str = "/detail/claimCheck";

/// What differs from seed to seed besides the faults.
#[derive(Clone, Debug)]
pub struct Profile {
    pub batch_events: u64,
    pub in_flight: u64,
    pub heartbeat_ms: u64,
    pub segment_bytes: u64,
    /// Events that one link may hold.
    pub held_max: u64,
    /// What does not come up in time is forwarded.
    pub forward: bool,
    /// One in so many events refers to an object; 0: none does.
    pub payloads: u64,
    /// Larger objects go in parts.
    pub part_bytes: u64,
    /// A region that is not heard is left without a person.
    pub auto: bool,
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
            held_max: pick(&[20, 1_000]),
            forward: pick(&[0, 1]) == 1,
            payloads: pick(&[0, 2, 5]),
            part_bytes: pick(&[16, 1_000]),
            auto: false,
            filtered: BTreeMap::new(),
        }
    }

    /// The topology file as it is now, without the regions that are `absent` from it.
    pub fn config(&self, absent: &BTreeSet<&'static str>) -> Result<Config, String> {
        let mut text = format!(
            "[heartbeat]\ninterval = \"{}ms\"\n[replication]\nbatch_events = {}\nin_flight = {}\n\
             attempt_timeout = \"2s\"\nretry_min = \"50ms\"\nretry_max = \"2s\"\nmax_held = {}\n[faults]\nenabled = true\n\
             [claim_check]\nreference = [\"{REFERENCE}\"]\nwait = \"3s\"\nmissing = \"{}\"\n",
            self.heartbeat_ms,
            self.batch_events,
            self.in_flight,
            self.held_max,
            if self.forward { "forward" } else { "hold" },
        );
        if self.auto {
            text.push_str("[failover]\nauto = \"5s\"\n");
        }
        text.push_str(requests::TYPES);
        let is_there = |region: &str| !absent.contains(region);
        for region in REGIONS.into_iter().filter(|region| is_there(region)) {
            let _ = writeln!(text, "[[region]]\nname = \"{region}\"");
        }
        let filtered = self.filtered.iter().filter(|(_, filtered)| **filtered).map(|(link, _)| link);
        for (from, to) in filtered.filter(|(from, to)| is_there(from) && is_there(to)) {
            let _ = writeln!(
                text,
                "[[link]]\nfrom = \"{from}\"\nto = \"{to}\"\npattern = {{ detail = {{ pass = [true] }} }}"
            );
        }
        let mut config = Config::parse(&text, "simulated.toml", &|_| None).map_err(|error| error.to_string())?;
        // Smaller than files may say, so that small objects go in parts.
        config.claim_check.part_size = self.part_bytes;
        Ok(config)
    }
}

/// A life that is up.
pub struct Running {
    pub agent: Arc<Agent>,
    pub hub: EmbeddedHub,
    pub store: Arc<SimStore>,
    pub life: u64,
    pub power: Arc<Power>,
}

impl Running {
    /// The process ended: a write or sync failed, or its power is off.
    pub fn has_ended(&self) -> bool {
        let documents = self.agent.documents.as_ref();
        !self.power.is_on()
            || self.hub.failed().now_or_never().is_some()
            || documents.is_some_and(|documents| documents.failed().now_or_never().is_some())
    }

    fn end(self) {
        self.power.cut();
        self.agent.stopping().cancel();
    }
}

pub struct Node {
    pub name: &'static str,
    pub disk: SimDisk,
    pub clock: Arc<SimClock>,
    pub running: Option<Running>,
    /// A life that goes on beside the one that is up, over a disk of its own.
    pub ghost: Option<Running>,
    /// Regions that this node's file leaves out.
    pub absent: BTreeSet<&'static str>,
    pub held_back: Share,
    /// Beyond so many bytes the oldest segment goes; the file's option where `None`.
    pub log_bytes_max: Option<u64>,
    seed: u64,
    trace: SharedTrace,
}

/// Why a life did not begin.
pub enum Refused {
    /// The disk failed meanwhile, or the power: try again.
    Disk(String),
    /// What is on the disk does not suit the agent, or the agent itself.
    Broken(String),
}

impl Node {
    pub fn new(settings: &Settings, seed: u64, name: &'static str, started: Instant, trace: SharedTrace) -> Self {
        let mut chance = Chance::new(seed, &format!("node {name}"));
        let skews = settings.allows(super::Fault::ClockSkew);
        let skew_ms = if skews && chance.hits(0.5) { chance.between(0, 1_200_000) as i64 - 600_000 } else { 0 };
        Node {
            name,
            disk: SimDisk::new(Chance::new(seed, &format!("disk {name}"))),
            clock: Arc::new(SimClock::new(started, skew_ms)),
            running: None,
            ghost: None,
            absent: BTreeSet::new(),
            held_back: Share::default(),
            log_bytes_max: None,
            seed,
            trace,
        }
    }

    /// Opens what is on the disk and starts the agent over it.
    pub async fn start(&mut self, net: &Arc<Net>, profile: &Profile) -> Result<(), Refused> {
        let life = net.begin(self.name);
        let config = profile.config(&self.absent).map_err(Refused::Broken)?;
        let power = Arc::new(Power::default());
        let entropy = Arc::new(SharedChance::new(Chance::new(self.seed, &format!("agent {} {life}", self.name))));
        let faults = Arc::new(Faults::new(config.faults.enabled, self.clock.clone(), entropy.clone()));
        let clock: Arc<dyn Clock> = Arc::new(SkewedClock::new(self.clock.clone(), faults.clone()));
        let options = hub::Options {
            region: self.name.to_owned(),
            retention: config.idempotency.retention,
            log_retention: config.log.retention,
            log_bytes_max: self.log_bytes_max.unwrap_or(config.log.max_size),
            segment_bytes: profile.segment_bytes,
        };
        let disk = self.disk.handle(power.clone());
        let rows = SimRows::open(disk.clone()).await.map_err(|error| self.refused(&power, &error))?;
        let chance = SharedChance::new(Chance::new(self.seed, &format!("store {} {life}", self.name)));
        let store = Arc::new(SimStore::new(disk.clone(), chance));
        let opened = EmbeddedHub::open(Arc::new(disk), clock.clone(), entropy.clone(), options).await;
        let (hub, writer) = opened.map_err(|error| self.refused(&power, &error))?;
        tokio::spawn(writer.run());
        let others: Vec<String> = config.regions.iter().map(|region| region.name.clone()).collect();
        let others: Vec<String> = others.into_iter().filter(|name| name != self.name).collect();
        let crash: CrashHook = {
            let power = power.clone();
            Arc::new(move || power.cut())
        };
        let options = agent::documents::Options::new(config.idempotency.retention);
        let mut shelves = Shelves { home: Arc::new(rows), peers: BTreeMap::new(), options };
        let mut stores = Stores { home: store.clone(), peers: BTreeMap::new() };
        let mut peers: BTreeMap<String, Arc<dyn Peer>> = BTreeMap::new();
        let mut regions: BTreeMap<String, Arc<dyn RemoteRegion>> = BTreeMap::new();
        for peer in &others {
            let (net, home) = (net.clone(), self.name.to_owned());
            let sim = Arc::new(SimPeer { net, home, life, power: power.clone(), peer: peer.clone() });
            stores.peers.insert(peer.clone(), sim.clone());
            let remote = FaultyDocuments::new(sim.clone(), peer, faults.clone(), crash.clone());
            shelves.peers.insert(peer.clone(), Arc::new(remote));
            let remote = FaultyRegion::new(sim.clone(), peer, faults.clone(), crash.clone());
            regions.insert(peer.clone(), Arc::new(remote));
            peers.insert(peer.clone(), Arc::new(FaultyPeer::new(sim, peer, faults.clone(), crash.clone())));
        }
        let agent = Agent::start(Parts {
            config,
            region: self.name.to_owned(),
            hub: Arc::new(hub.clone()),
            peers,
            objects: Some(stores),
            documents: Some(shelves),
            regions,
            clock,
            entropy,
            faults: faults.clone(),
            metrics: Arc::new(Metrics::new(self.name, &others).map_err(|error| Refused::Broken(error.to_string()))?),
        })
        .await
        .map_err(|error| self.refused(&power, &error))?;
        let chance = Chance::new(self.seed, &format!("held back {} {life}", self.name));
        let holding = HoldingInbox::new(agent.inbox.clone(), self.held_back.clone(), chance, self.trace.clone());
        let inbox = Arc::new(FaultyInbox::new(Arc::new(holding), faults, crash));
        let documents = agent.documents.clone().map(|documents| Arc::new(documents) as Arc<dyn Documents>);
        net.up(self.name, Site { inbox, objects: store.clone(), documents, regions: agent.clone() });
        self.running = Some(Running { agent, hub, store, life, power });
        Ok(())
    }

    fn refused(&self, power: &Power, error: &dyn std::error::Error) -> Refused {
        match self.disk.has_failed() || !power.is_on() {
            true => Refused::Disk(error.to_string()),
            false => Refused::Broken(error.to_string()),
        }
    }

    /// Power fails. The tasks of this life go on, but can do nothing any more: disk and network know that it is over.
    pub fn crash(&mut self, net: &Net) {
        net.begin(self.name);
        self.disk.crash();
        if let Some(running) = self.running.take() {
            running.end();
        }
    }

    /// The node's next life is over a copy of the disk, while the present one goes on over the disk itself.
    pub fn split(&mut self, net: &Net, copy: Image, chance: Chance) {
        self.end_ghost(net);
        net.leave_ghost(self.name);
        self.ghost = self.running.take();
        self.disk = SimDisk::with(copy, chance);
    }

    pub fn end_ghost(&mut self, net: &Net) {
        net.end_ghosts(self.name);
        if let Some(ghost) = self.ghost.take() {
            ghost.end();
        }
    }
}
