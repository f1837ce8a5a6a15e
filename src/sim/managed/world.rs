//! Three regions on simulated services, with any number of agents each.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    bus,
    documents::Desk,
    ledger,
    objects::SimBucket,
    oracle::Oracle,
    queue,
    wire::{Caller, Wire},
};
use crate::{
    agent::{
        Pacer, audit,
        documents::managed::ManagedDocuments,
        kinds::Kinds,
        local_keys::{self, LocalKeys},
        ordered::{self, Publisher},
        payloads::{Buckets, Pair},
        queue_link,
        regions::heard::Heard,
    },
    config::{ClaimCheck, Missing},
    core::{backoff::Backoff, envelope::Rules, ingress::Ingress, object::Location, pattern::Pattern, state::Schemas},
    metrics::Metrics,
    ports::{
        bus::{Entry, Put},
        clock::{Clock, Entropy},
        queue::Queue,
    },
    sim::{
        REGIONS, Settings,
        chance::{Chance, SharedChance},
        clock::SimClock,
        disk::{Handle, SimDisk},
        node::REFERENCE,
        objects::SimStore,
        payload,
        requests::{self, Requests},
        trace::SharedTrace,
    },
};

const LEASE: Duration = Duration::from_secs(15);
const ATTEMPT: Duration = Duration::from_secs(5);
const CALL: Duration = Duration::from_secs(3);
const VISIBILITY: Duration = Duration::from_secs(20);
pub const DAY: Duration = Duration::from_secs(86_400);

/// How long keys and deletes are remembered: longer than anything comes late.
pub const RETENTION: Duration = Duration::from_secs(15 * 86_400);

pub const SOURCE: &str = "app.simulated";
pub const DETAIL_TYPE: &str = "Simulated";

/// What differs from seed to seed besides the faults.
#[derive(Clone, Debug)]
pub struct Profile {
    pub agents: u64,
    pub in_flight: usize,
    pub unmarked_max: usize,
    pub events_per_second: Option<u32>,
    /// All producers publish through the agent.
    pub api_only: bool,
    /// One in so many events refers to an object; 0: none does.
    pub payloads: u64,
    /// What does not come up in time is forwarded.
    pub forward: bool,
    /// Larger objects go in parts.
    pub part_bytes: u64,
    /// Copies are made without the agent.
    pub server_side: bool,
    /// Regions have documents, and compare them this often.
    pub documents: Option<Duration>,
}

impl Profile {
    pub fn draw(chance: &mut Chance) -> Profile {
        let mut pick = |items: &[u64]| chance.pick(items).copied().unwrap_or(1);
        Profile {
            agents: pick(&[1, 2, 2, 3]),
            in_flight: pick(&[10, 30, 200]) as usize,
            unmarked_max: pick(&[1, 5, 50]) as usize,
            events_per_second: Some(pick(&[0, 0, 20, 200]) as u32).filter(|rate| *rate > 0),
            api_only: pick(&[0, 1]) == 1,
            payloads: pick(&[0, 2, 5]),
            forward: pick(&[0, 1]) == 1,
            part_bytes: pick(&[16, 1_000]),
            server_side: pick(&[0, 1]) == 1,
            documents: None,
        }
    }
}

pub struct Region {
    pub name: &'static str,
    pub bus: Arc<bus::Store>,
    pub ledger: Arc<ledger::Store>,
    pub keys: Arc<queue::Store>,
    pub audit: Arc<queue::Store>,
    /// Holds the region's bucket.
    pub disk: SimDisk,
    pub links: BTreeMap<&'static str, Link>,
    pub documents: Option<Desk>,
}

/// The queues of a link, in its home region.
pub struct Link {
    pub feed: Arc<queue::Store>,
    pub held: Arc<queue::Store>,
    pub dead: Arc<queue::Store>,
}

impl Region {
    /// Everything that must become empty.
    pub fn queues(&self) -> impl Iterator<Item = &Arc<queue::Store>> {
        let links = self.links.values().flat_map(|link| [&link.feed, &link.held]);
        links.chain([&self.keys, &self.audit]).chain(self.documents.iter().map(|desk| &desk.queue))
    }
}

/// An agent while it is up.
pub struct Running {
    tasks: Vec<JoinHandle<()>>,
    /// Tasks of the documents, which end at whatever await each of them stands.
    tracker: TaskTracker,
    stop: CancellationToken,
    publisher: Arc<Publisher>,
    pub caller: Caller,
    paused: Vec<watch::Sender<bool>>,
    pub documents: Option<ManagedDocuments>,
}

pub struct Node {
    pub name: String,
    pub home: usize,
    life: u64,
    pub clock: Arc<SimClock>,
    pub running: Option<Running>,
}

impl Node {
    pub fn is_up(&self) -> bool {
        self.running.is_some()
    }
}

pub struct World {
    pub seed: u64,
    pub profile: Profile,
    pub chance: Chance,
    pub trace: SharedTrace,
    pub wire: Arc<Wire>,
    pub regions: Vec<Region>,
    pub nodes: Vec<Node>,
    pub oracle: Arc<Mutex<Oracle>>,
    /// To documents, and what they are drawn from: the rest of a seed is the same without them.
    pub requests: Arc<Mutex<Requests>>,
    pub asking: Chance,
    pub schemas: Schemas,
    /// Of all lives, with the region that they belong to.
    pub metrics: Vec<(&'static str, Arc<Metrics>)>,
    pub started: Instant,
}

pub fn lock(oracle: &Mutex<Oracle>) -> MutexGuard<'_, Oracle> {
    oracle.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn ingress() -> Ingress {
    Ingress {
        key_pointers: vec!["/detail/idempotencyKey".to_owned()],
        reference_pointers: vec![REFERENCE.to_owned()],
        max_entry_bytes: 1 << 20,
    }
}

pub fn backoff() -> Backoff {
    Backoff { min: Duration::from_millis(100), max: Duration::from_secs(5) }
}

impl World {
    /// A world in which everything works, with no agent up yet.
    ///
    /// # Errors
    /// The type of its documents cannot be read.
    pub fn new(seed: u64, settings: &Settings, profile: Profile, chance: Chance) -> Result<World, String> {
        let started = Instant::now();
        let trace = SharedTrace::new(started, settings.lines);
        let oracle: Arc<Mutex<Oracle>> = Arc::default();
        let region = |name: &'static str| {
            let store = |what: String| queue::Store::new(seed, what, started);
            let link = |peer: &'static str| {
                let link = Link {
                    feed: store(format!("{name}-to-{peer}")),
                    held: store(format!("{name}-to-{peer}-held")),
                    dead: store(format!("{name}-to-{peer}-dead")),
                };
                (peer, link)
            };
            let links: BTreeMap<_, _> = REGIONS.into_iter().filter(|peer| *peer != name).map(link).collect();
            let (keys, audit) = (store(format!("{name}-keys")), store(format!("{name}-audit")));
            let documents = profile
                .documents
                .map(|_| Desk::new(seed, name, started, trace.clone(), store(format!("{name}-state"))));
            let targets = bus::Targets {
                feeds: links.values().map(|link| link.feed.clone()).collect(),
                keys: keys.clone(),
                audit: audit.clone(),
                state: documents.as_ref().map(|desk| desk.queue.clone()),
            };
            let bus = bus::Store::new(seed, name, started, trace.clone(), targets, oracle.clone());
            let disk = SimDisk::new(Chance::new(seed, &format!("bucket {name}")));
            let ledger = ledger::Store::new(seed, name, trace.clone());
            Region { name, bus, ledger, keys, audit, disk, links, documents }
        };
        let regions = REGIONS.map(region).into();
        let nodes = (0..REGIONS.len()).flat_map(|home| (0..profile.agents).map(move |number| (home, number)));
        let nodes = nodes.map(|(home, number)| Node {
            name: format!("{}{number}", REGIONS[home]),
            home,
            life: 0,
            clock: Arc::new(SimClock::new(started, 0)),
            running: None,
        });
        Ok(World {
            seed,
            chance,
            requests: Arc::default(),
            asking: Chance::new(seed, "documents"),
            schemas: requests::schemas()?,
            wire: Wire::new(seed, trace.clone()),
            trace,
            regions,
            nodes: nodes.collect(),
            oracle,
            metrics: Vec::new(),
            started,
            profile,
        })
    }

    pub fn queue(&self, store: &Arc<queue::Store>, caller: &Caller) -> Arc<dyn Queue> {
        let (store, wire) = (store.clone(), self.wire.clone());
        Arc::new(queue::SimQueue { store, region: caller.home, caller: caller.clone(), wire })
    }

    fn claims(&self, region: &Region, caller: &Caller, clock: &Arc<SimClock>) -> Arc<ledger::SimClaims> {
        Arc::new(ledger::SimClaims {
            store: region.ledger.clone(),
            region: region.name,
            caller: caller.clone(),
            wire: self.wire.clone(),
            clock: clock.clone(),
        })
    }

    pub fn bus(&self, region: &Region, caller: &Caller) -> Arc<bus::SimBus> {
        Arc::new(bus::SimBus {
            store: region.bus.clone(),
            region: region.name,
            caller: caller.clone(),
            wire: self.wire.clone(),
            ledger: region.ledger.clone(),
            attempt: ATTEMPT,
        })
    }

    fn bucket(&self, region: &Region, caller: &Caller, copies_from: Option<Handle>) -> Arc<SimBucket> {
        let chance = Chance::new(self.seed, &format!("bucket {} {caller}", region.name));
        let store = Arc::new(SimStore::new(region.disk.handle(Arc::default()), SharedChance::new(chance)));
        Arc::new(SimBucket { store, region: region.name, caller: caller.clone(), wire: self.wire.clone(), copies_from })
    }

    /// What a link does about payloads.
    fn pair(&self, home: &Region, there: &Region, caller: &Caller) -> Pair {
        let copies_from = self.profile.server_side.then(|| home.disk.handle(Arc::default()));
        Pair {
            home: self.bucket(home, caller, None),
            peer: self.bucket(there, caller, copies_from),
            buckets: Buckets::Own { home: Some(payload::bucket(home.name)), peer: Some(payload::bucket(there.name)) },
        }
    }

    /// Starts an agent: its links, its local keys, its audit, and whatever publishes through it.
    ///
    /// # Errors
    /// Two metrics of one name.
    pub fn up(&mut self, index: usize) -> Result<(), String> {
        self.nodes[index].life += 1;
        let node = &self.nodes[index];
        let region = &self.regions[node.home];
        let caller = Caller { agent: node.name.clone(), life: node.life, home: region.name };
        self.wire.begin(&caller);
        self.trace.note(&format!("{} is up", node.name));
        let peers: Vec<String> = REGIONS.into_iter().filter(|peer| *peer != region.name).map(str::to_owned).collect();
        let metrics = Arc::new(Metrics::new(region.name, &peers).map_err(|error| error.to_string())?);
        let entropy: Arc<dyn Entropy> =
            Arc::new(SharedChance::new(Chance::new(self.seed, &format!("agent {} {}", node.name, node.life))));
        let clock: Arc<dyn Clock> = node.clock.clone();
        let stop = CancellationToken::new();
        let mut tasks = Vec::new();
        let mut paused = Vec::new();
        for (peer, queues) in &region.links {
            let Some(there) = self.regions.iter().find(|region| region.name == *peer) else { continue };
            let link_metrics = Arc::new(metrics.link(peer));
            let claim_check = ClaimCheck {
                reference: vec![REFERENCE.to_owned()],
                missing: if self.profile.forward { Missing::Forward } else { Missing::Hold },
                wait: Duration::from_secs(20),
                part_size: self.profile.part_bytes,
                ..ClaimCheck::default()
            };
            let payloads = self.pair(region, there, &caller).payloads(&claim_check, CALL, link_metrics.clone());
            let ports = queue_link::Ports {
                feed: self.queue(&queues.feed, &caller),
                held: self.queue(&queues.held, &caller),
                dead: self.queue(&queues.dead, &caller),
                claims: self.claims(there, &caller, &node.clock),
                bus: self.bus(there, &caller),
                clock: clock.clone(),
                entropy: entropy.clone(),
                payloads: Some(Arc::new(payloads)),
                pacer: Arc::new(Pacer::new(self.profile.events_per_second, None)),
                metrics: link_metrics,
                skipped: metrics.skipped.clone(),
                progress: Arc::default(),
            };
            let (sender, receiver) = watch::channel(false);
            paused.push(sender);
            let link = queue_link::run(self.link_options(region.name, peer), Arc::new(ports), receiver, stop.clone());
            tasks.push(tokio::spawn(link));
        }
        let kinds = Arc::<Kinds>::default();
        let keys = LocalKeys::new(
            local_keys::Options {
                home: region.name.to_owned(),
                ingress: ingress(),
                call_timeout: CALL,
                visibility: VISIBILITY,
                poll: VISIBILITY,
                receives: 2,
                retention: RETENTION,
                backoff: backoff(),
            },
            local_keys::Ports {
                queue: self.queue(&region.keys, &caller),
                claims: self.claims(region, &caller, &node.clock),
                clock: clock.clone(),
                entropy: entropy.clone(),
                metrics: metrics.clone(),
                kinds: kinds.clone(),
            },
        );
        let stopped = stop.clone();
        tasks.push(tokio::spawn(async move { keys.run(stopped).await }));
        let mut targets: Vec<_> = region.links.values().map(|link| self.queue(&link.feed, &caller)).collect();
        targets.push(self.queue(&region.keys, &caller));
        targets.extend(region.documents.iter().map(|desk| self.queue(&desk.queue, &caller)));
        let audit = audit::run(
            audit::Options {
                home: region.name.to_owned(),
                ingress: ingress(),
                call_timeout: CALL,
                visibility: VISIBILITY,
                poll: VISIBILITY,
                receives: 2,
                backoff: backoff(),
                regions: region.links.keys().map(|name| name.to_string()).collect(),
            },
            audit::Ports {
                queue: self.queue(&region.audit, &caller),
                targets,
                clock: clock.clone(),
                entropy: entropy.clone(),
                metrics: metrics.clone(),
                kinds,
                heard: Arc::new(Heard::new(BTreeMap::new())),
                settle: Duration::from_secs(90),
            },
            stop.clone(),
        );
        tasks.push(tokio::spawn(audit));
        let publisher = Arc::new(Publisher::new(
            ordered::Options {
                home: region.name.to_owned(),
                lease: LEASE,
                attempt_timeout: ATTEMPT,
                call_timeout: CALL,
                patience: Duration::from_secs(8),
                put_bytes: 1 << 20,
                retention: RETENTION,
                backoff: backoff(),
            },
            ordered::Ports {
                claims: self.claims(region, &caller, &node.clock),
                bus: self.bus(region, &caller),
                clock,
                entropy,
                metrics: metrics.link(region.name),
            },
        ));
        let tracker = TaskTracker::new();
        let documents = self.start_documents(&caller, &node.clock, &metrics, &tracker, &stop);
        self.metrics.push((region.name, metrics));
        let running = Running { tasks, tracker, stop, publisher, caller, paused, documents };
        self.nodes[index].running = Some(running);
        Ok(())
    }

    fn link_options(&self, home: &str, peer: &str) -> queue_link::Options {
        queue_link::Options {
            home: home.to_owned(),
            peer: peer.to_owned(),
            rules: Rules { pattern: Pattern::everything(), hops_max: 4, replays: false, expire_after: 13 * DAY },
            shadow: false,
            ingress: ingress(),
            lease: LEASE,
            attempt_timeout: ATTEMPT,
            call_timeout: CALL,
            visibility: VISIBILITY,
            poll: VISIBILITY,
            receives: 3,
            in_flight: self.profile.in_flight,
            in_flight_bytes: 1 << 20,
            claimed_max: 50,
            unmarked_max: self.profile.unmarked_max,
            put_bytes: 1 << 20,
            entry_bytes_max: 2_500,
            retention: RETENTION,
            backoff: backoff(),
            hold_after: Duration::from_secs(20),
            held_delay: Duration::from_secs(30),
            depth_interval: Duration::from_secs(30),
        }
    }

    /// The agent is gone at once, at whatever await each of its tasks stands.
    pub fn crash(&mut self, index: usize) {
        self.wire.kill(&self.nodes[index].name);
        self.bury();
    }

    /// Ends the tasks of agents that died.
    pub fn bury(&mut self) {
        let killed = self.wire.take_killed();
        for node in self.nodes.iter_mut().filter(|node| killed.contains(&node.name)) {
            if let Some(running) = node.running.take() {
                running.tasks.iter().for_each(JoinHandle::abort);
                running.stop.cancel();
            }
        }
    }

    /// The agent drains and ends.
    pub async fn stop(&mut self, index: usize) {
        let Some(running) = self.nodes[index].running.take() else { return };
        self.trace.note(&format!("{} stops", self.nodes[index].name));
        running.stop.cancel();
        for task in running.tasks {
            let _ = task.await;
        }
        running.tracker.close();
        running.tracker.wait().await;
        self.wire.end(&self.nodes[index].name);
    }

    pub fn pause(&self, index: usize, link: usize, paused: bool) {
        if let Some(running) = &self.nodes[index].running
            && let Some(sender) = running.paused.get(link)
        {
            let _ = sender.send(paused);
        }
    }

    /// A producer publishes through an agent, as a task of its own.
    pub fn publish(&self, index: usize, details: Vec<String>) {
        let Some(running) = &self.nodes[index].running else { return };
        let (publisher, caller) = (running.publisher.clone(), running.caller.clone());
        let (oracle, wire, trace) = (self.oracle.clone(), self.wire.clone(), self.trace.clone());
        let names: Vec<String> = details.iter().map(|detail| lock(&oracle).attempt(DETAIL_TYPE, detail)).collect();
        let local = details.iter().map(|detail| payload::local(detail, caller.home));
        let drafts = local.filter_map(|detail| ingress().draft(SOURCE, DETAIL_TYPE, &detail, None, Vec::new()).ok());
        let drafts: Vec<_> = drafts.collect();
        details.iter().for_each(|detail| self.upload(&self.regions[self.nodes[index].home], detail));
        tokio::spawn(async move {
            let answers = publisher.publish(drafts).await;
            if !wire.is_alive(&caller) {
                return;
            }
            for (name, published) in names.iter().zip(answers) {
                trace.note(&format!("{} answers {name}: {published:?}", caller.agent));
                lock(&oracle).answered(caller.home, name, &published);
            }
        });
    }

    /// A producer writes the payload, before it publishes or too late; one in two of the late ones forgets it.
    fn upload(&self, region: &Region, detail: &str) {
        let Some((at, bytes)) = payload::of(detail) else { return };
        let at = Location::new(payload::bucket(region.name), at.key);
        let bucket = region.disk.handle(Arc::default());
        let write = move || drop(bucket.shelf(|shelf| shelf.write(&at, bytes)));
        if !payload::is_late(detail) {
            return write();
        }
        let salt = detail.bytes().map(u64::from).sum::<u64>();
        if salt % 2 == 0 {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(salt % 40)).await;
                write();
            });
        }
    }

    /// A producer publishes on the bus itself; `told`: it hears of it.
    pub fn publish_raw(&self, region: usize, detail_type: &str, detail: &str, told: bool) {
        let name = lock(&self.oracle).attempt(detail_type, detail);
        let region = &self.regions[region];
        self.upload(region, detail);
        let entry = Entry {
            source: SOURCE.to_owned(),
            detail_type: detail_type.to_owned(),
            detail: payload::local(detail, region.name),
            ..Default::default()
        };
        if let Put::Accepted(_) = region.bus.put(&entry) {
            lock(&self.oracle).taken_raw(region.name, &name, told);
        }
    }
}
