//! One region on managed services at work: its links, its local keys, its audit queue, and what its agents share.
//!
//! Agents of one region are interchangeable: they share its queues, and what they must agree on (who sends the
//! heartbeat, which link is paused) lies in a table of the region. Nothing here is on a disk.

mod beat;
mod coordinate;
pub mod explain;
pub mod keys;
pub mod letters;
pub mod regions;
mod status;
#[cfg(test)]
pub(crate) mod tests;
pub mod turns;
mod watermark;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::status::ManagedStatus;
use self::{
    regions::{
        Part,
        table::{TableRegion, TableStore},
    },
    turns::Turns,
    watermark::Watermark,
};
use super::{
    audit,
    documents::{self, managed::ManagedDocuments},
    kinds::Kinds,
    local_keys::{self, LocalKeys},
    pacer::Pacer,
    payloads::Pair,
    queue_link::{self, progress::Progress},
    regions::{Certainty, Health, Ports as RegionPorts, Regions},
};
use crate::{
    config::{self, Config},
    core::{backoff::Backoff, envelope::Rules, ingress::Ingress, link::Failure, pattern::Pattern, time::Timestamp},
    faults::{Faults, Kind},
    metrics::{LinkMetrics, Metrics},
    ports::{
        bus::Bus,
        claims::Claims,
        clock::{Clock, Entropy},
        documents::RemoteDocuments,
        items::Items,
        queue::Queue,
        regions::RemoteRegion,
        shared::Shared,
    },
};

/// How long a claim keeps others away; `config` holds a link's attempt time-out below it.
pub(super) const LEASE: Duration = Duration::from_secs(15);

/// Of every call but a put.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a received message is hidden; links extend it while they work.
const VISIBILITY: Duration = Duration::from_secs(20);

/// SQS's longest: the fewest idle polls.
const POLL: Duration = Duration::from_secs(20);

/// Receives at once where there is much to receive.
const RECEIVES: usize = 8;

/// Received and not finished, for one agent; SQS stops for everybody at 120,000.
const IN_FLIGHT: usize = 2_000;
const IN_FLIGHT_BYTES: usize = 64 << 20;

/// Events that a crash may make a second effect of, divided among the agent's links.
const UNMARKED_MAX: usize = 50;

/// Events with a claim that wait for the bus.
const CLAIMED_MAX: usize = 200;

/// What the bus puts off for so long leaves the feed for a while.
const HOLD_AFTER: Duration = Duration::from_secs(60);
const HELD_DELAY: Duration = Duration::from_secs(120);

/// EventBridge's limit for one put: entries and all.
pub(super) const PUT_BYTES: usize = 1 << 20;

/// EventBridge may hold an event back for so long before the feed takes it in and its age begins to count.
const BUS_RETRIES: Duration = Duration::from_secs(86_400);

/// How often a link's queues are asked how much they hold.
const DEPTH_INTERVAL: Duration = Duration::from_secs(30);

/// A look at the region's table that takes longer is one that failed.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// The table is read this often at least, so that a pause is soon known to all agents.
const SHARED_INTERVAL: Duration = Duration::from_secs(5);

/// Agents that are told to pause at the same time are few.
const PAUSE_TRIES: u32 = 5;

/// The name of the value that says who sends the heartbeat.
const HEARTBEAT: &str = "heartbeat";

/// What carries one link.
#[derive(Clone)]
pub struct LinkPorts {
    pub feed: Arc<dyn Queue>,
    pub held: Arc<dyn Queue>,
    pub dead: Arc<dyn Queue>,
    /// When the feed was made: what was published before never came into it.
    pub since: Timestamp,
    /// The peer's.
    pub claims: Arc<dyn Claims>,
    pub bus: Arc<dyn Bus>,
    /// Payloads, where events may have any.
    pub objects: Option<Pair>,
}

/// What an agent is made of. Only the caller knows which adapters these are.
pub struct Parts {
    pub config: Config,
    pub region: String,
    /// One for each region that this region has an enabled link to.
    pub links: BTreeMap<String, LinkPorts>,
    /// The region's own.
    pub bus: Arc<dyn Bus>,
    pub claims: Arc<dyn Claims>,
    /// `None` where the region does without (`region.aws.local_keys`).
    pub local_keys: Option<Arc<dyn Queue>>,
    pub audit: Arc<dyn Queue>,
    pub shared: Arc<dyn Shared>,
    /// The other regions, by way of their tables.
    pub regions: BTreeMap<String, Arc<dyn RemoteRegion>>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    /// Where the file has types of documents.
    pub documents: Option<DocumentPorts>,
    /// What is in force in this agent; the ports above are decorated with it.
    pub faults: Arc<Faults>,
    pub metrics: Arc<Metrics>,
}

/// What carries a region's documents.
#[derive(Clone)]
pub struct DocumentPorts {
    /// The region's own table.
    pub items: Arc<dyn Items>,
    /// What is about documents on the region's bus.
    pub queue: Arc<dyn Queue>,
    /// Tables of the regions that there is an enabled link to.
    pub peers: BTreeMap<String, Arc<dyn RemoteDocuments>>,
}

/// A link from outside of its task.
struct Link {
    paused: watch::Sender<bool>,
    metrics: LinkMetrics,
    watermark: Mutex<Watermark>,
    ports: LinkPorts,
    progress: Arc<Progress>,
    /// Dead letters, as they were counted last.
    dead: AtomicU64,
    /// When the oldest event had been accepted that another agent has worked on for long, in milliseconds.
    late_elsewhere: AtomicU64,
    /// It has a pattern.
    filtered: bool,
    shadow: bool,
    expire_after: Duration,
}

pub struct Managed {
    pub region: String,
    pub metrics: Arc<Metrics>,
    pub faults: Arc<Faults>,
    /// Where the file has types of them.
    pub documents: Option<ManagedDocuments>,
    /// Which regions serve users.
    pub regions: Arc<Regions>,
    part: Part,
    /// What services ask for through the agent is refused.
    closed: Arc<AtomicBool>,
    pub clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    shared: Arc<dyn Shared>,
    bus: Arc<dyn Bus>,
    claims: Arc<dyn Claims>,
    ingress: Ingress,
    kinds: Arc<Kinds>,
    /// Whose turn it is to walk through dead letters.
    walks: tokio::sync::Mutex<()>,
    /// Whose turn it is to read the whole ledger.
    reads: Arc<tokio::sync::Mutex<()>>,
    local_keys: Option<KeysQueue>,
    /// Keys are remembered for so long after the last of their events may come.
    told_for: Duration,
    retention: Duration,
    links: BTreeMap<String, Link>,
    disabled: Vec<String>,
    /// Names this agent in logs and in the shared table; another one after each start.
    incarnation: String,
    heartbeat: Duration,
    /// See `region.aws.settle`.
    settle: Duration,
    depth_interval: Duration,
    started: Instant,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Where local keys come from, and how far they have come.
struct KeysQueue {
    queue: Arc<dyn Queue>,
    /// See [`LocalKeys::reached_millis`].
    reached_millis: Arc<AtomicU64>,
}

/// Why an order was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{0} has no enabled link to {1}")]
    NoLink(String, String),
    #[error("the region's table: {0}")]
    Shared(Failure),
    #[error("the region's ledger: {0}")]
    Ledger(Failure),
    #[error("the dead letters for {0}: {1}")]
    Letters(String, Failure),
    #[error("somebody else is reading the region's ledger; ask again in some seconds")]
    Busy,
    #[error("{0}")]
    Invalid(String),
}

impl Managed {
    /// Starts the region's tasks and answers at once.
    ///
    /// # Errors
    /// A link's pattern that cannot be compiled; `config` has checked it.
    pub fn start(parts: Parts) -> Result<Arc<Managed>, crate::core::pattern::Error> {
        let Parts { config, region, links, bus, claims, local_keys, audit, shared, .. } = parts;
        let Parts { clock, entropy, documents, faults, metrics, regions, .. } = parts;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let closed = Arc::<AtomicBool>::default();
        let ports = RegionPorts {
            store: Arc::new(TableStore { shared: shared.clone(), clock: clock.clone(), closed: closed.clone() }),
            clock: clock.clone(),
            entropy: entropy.clone(),
            metrics: metrics.clone(),
        };
        let certainty = (Certainty::Estimated, Health::of_table());
        let regions = Arc::new(Regions::new(&config, &region, ports, regions, certainty));
        regions.follow();
        let settle =
            config.region(&region).and_then(|region| region.aws.as_ref()).map_or(config::SETTLE, |aws| aws.settle);
        let depth_interval = DEPTH_INTERVAL.min(settle / 3);
        let ingress = Ingress {
            key_pointers: config.idempotency.key.clone(),
            reference_pointers: config.claim_check.reference.clone(),
            // The bus took it.
            max_entry_bytes: usize::MAX,
        };
        let mut handles = BTreeMap::new();
        let mut disabled = Vec::new();
        let mut feeds = Vec::new();
        let mut carried = links;
        let enabled = carried.len();
        for link in config.links().into_iter().filter(|link| link.from == region) {
            let Some(ports) = carried.remove(&link.to).filter(|_| link.enabled) else {
                metrics.link(&link.to).set_state("disabled");
                disabled.push(link.to);
                continue;
            };
            feeds.push(ports.feed.clone());
            let link_metrics = Arc::new(metrics.link(&link.to));
            let payloads = ports
                .objects
                .as_ref()
                .map(|objects| Arc::new(objects.payloads(&config.claim_check, CALL_TIMEOUT, link_metrics.clone())));
            // Until the region's table was read: an operator may have paused it before this start.
            let (paused, seen) = watch::channel(true);
            let options = queue_link::Options { depth_interval, ..link_options(&config, &link, &ingress, enabled)? };
            let (shadow, expire_after) = (options.shadow, options.rules.expire_after);
            let progress = Arc::<Progress>::default();
            let handle = Link {
                paused,
                metrics: metrics.link(&link.to),
                watermark: Mutex::new(Watermark::new(settle)),
                ports: ports.clone(),
                progress: progress.clone(),
                dead: AtomicU64::new(0),
                late_elsewhere: AtomicU64::new(u64::MAX),
                filtered: !options.rules.pattern.is_everything(),
                shadow,
                expire_after,
            };
            let ports = queue_link::Ports {
                feed: ports.feed,
                held: ports.held,
                dead: ports.dead,
                claims: ports.claims,
                bus: ports.bus,
                clock: clock.clone(),
                entropy: entropy.clone(),
                payloads,
                pacer: Arc::new(Pacer::new(link.events_per_second, link.bytes_per_second)),
                metrics: link_metrics,
                skipped: metrics.skipped.clone(),
                progress,
            };
            tasks.spawn(queue_link::run(options, Arc::new(ports), seen, stop.clone()));
            handles.insert(link.to, handle);
        }
        let kinds = Arc::<Kinds>::default();
        let backoff = Backoff { min: config.replication.retry_min, max: config.replication.retry_max };
        let keys = local_keys.as_ref().map(|queue| {
            let options = local_keys::Options {
                home: region.clone(),
                ingress: ingress.clone(),
                call_timeout: CALL_TIMEOUT,
                visibility: VISIBILITY,
                poll: POLL,
                receives: RECEIVES,
                retention: config.idempotency.retention,
                backoff,
            };
            let ports = local_keys::Ports {
                queue: queue.clone(),
                claims: claims.clone(),
                clock: clock.clone(),
                entropy: entropy.clone(),
                metrics: metrics.clone(),
                kinds: kinds.clone(),
            };
            LocalKeys::new(options, ports)
        });
        let incarnation = format!("{:016x}", entropy.next_u64());
        let mut targets: Vec<Arc<dyn Queue>> = feeds;
        targets.extend(local_keys.clone());
        targets.extend(documents.as_ref().map(|documents| documents.queue.clone()));
        let documents = documents.map(|ports| {
            let others = config.regions.iter().map(|other| other.name.clone()).filter(|name| *name != region);
            let parts = documents::managed::Parts {
                region: region.clone(),
                schemas: config.schemas(),
                items: ports.items,
                bus: bus.clone(),
                queue: ports.queue,
                peers: ports.peers,
                members: others.collect(),
                turns: Arc::new(Turns::new(shared.clone(), incarnation.clone())),
                ingress: ingress.clone(),
                closed: closed.clone(),
                decided: decided(regions.clone()),
                clock: clock.clone(),
                entropy: entropy.clone(),
                metrics: metrics.clone(),
                options: documents::Options::managed(config.idempotency.retention),
                receives: RECEIVES,
                backoff,
            };
            ManagedDocuments::start(parts, &tasks, &stop)
        });
        let managed = Arc::new(Managed {
            heartbeat: config.heartbeat_interval(&region),
            incarnation,
            part: Part::new(TableRegion::new(
                &region,
                shared.clone(),
                (clock.clone(), entropy.clone()),
                documents.is_some(),
                config.suspect_after(&region),
            )),
            regions,
            closed,
            settle,
            depth_interval,
            documents,
            links: handles,
            started: Instant::now(),
            stop: stop.clone(),
            tasks,
            region: region.clone(),
            metrics: metrics.clone(),
            clock: clock.clone(),
            entropy: entropy.clone(),
            shared,
            bus,
            claims,
            ingress: ingress.clone(),
            kinds: kinds.clone(),
            walks: tokio::sync::Mutex::default(),
            reads: Arc::default(),
            local_keys: keys
                .as_ref()
                .zip(local_keys.as_ref())
                .map(|(keys, queue)| KeysQueue { queue: queue.clone(), reached_millis: keys.reached_millis() }),
            retention: config.idempotency.retention,
            told_for: config.idempotency.retention.saturating_sub(config.expiry()),
            faults,
            disabled,
        });
        let tasks = &managed.tasks;
        if let Some(keys) = keys {
            let stopped = stop.clone();
            tasks.spawn(async move { keys.run(stopped).await });
        }
        let options = audit::Options {
            home: region,
            ingress,
            call_timeout: CALL_TIMEOUT,
            visibility: VISIBILITY,
            poll: POLL,
            receives: RECEIVES,
            backoff,
            regions: config.regions.iter().map(|region| region.name.clone()).collect(),
        };
        let ports = audit::Ports {
            queue: audit,
            targets,
            clock,
            entropy,
            metrics,
            kinds,
            heard: managed.regions.heard.clone(),
            settle,
        };
        tasks.spawn(audit::run(options, ports, stop));
        tasks.spawn(managed.clone().coordinate());
        tasks.spawn(managed.clone().mind_regions());
        Ok(managed)
    }

    /// Links bring to an end what is on a bus and give back the rest; bounded by their attempt time-outs.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// The regions that there is an enabled link to.
    pub fn peers(&self) -> impl Iterator<Item = &String> {
        self.links.keys()
    }

    /// Cancelled when the agent stops.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// From now on this agent says that users should go elsewhere, and refuses what is published through it; what is
    /// published on the region's bus is sent on all the same.
    pub fn drain(&self) {
        tracing::info!(region = self.region, "draining");
        self.regions.drain_process();
    }

    /// Whether what services ask for through the agent is refused.
    pub fn refuses(&self) -> Arc<AtomicBool> {
        self.closed.clone()
    }

    /// Stops or starts a link of all agents of the region; the others read it within seconds.
    ///
    /// # Errors
    /// There is no such link, or the table did not take it.
    pub async fn pause(&self, peer: &str, paused: bool) -> Result<(), Error> {
        let link = self.links.get(peer).ok_or_else(|| Error::NoLink(self.region.clone(), peer.to_owned()))?;
        let name = pause_name(peer);
        let text = if paused { "paused" } else { "" };
        let mut written = false;
        for _ in 0..PAUSE_TRIES {
            let values = self.shared.list().await.map_err(Error::Shared)?;
            let version = values.iter().find(|value| value.name == name).map_or(0, |value| value.version);
            // Where somebody else was quicker, his order is older than this one.
            written = self.shared.change(&name, text, version).await.map_err(Error::Shared)?;
            if written {
                break;
            }
        }
        if !written {
            return Err(Error::Shared(Failure::Unanswered("others change the same value all the time".to_owned())));
        }
        tracing::warn!(peer, paused, "link paused or resumed by an operator");
        link.paused.send_replace(paused);
        Ok(())
    }

    /// Brings the gauges up to date before they are read.
    pub fn refresh_gauges(&self) {
        self.observe_backlogs();
        let list = self.faults.list();
        for kind in Kind::ALL {
            let count = list.iter().filter(|fault| fault.kind == kind).count();
            self.metrics.faults_active.with_label_values(&[kind.as_str()]).set(count as i64);
        }
    }
}

/// What is decided of the region, for its documents.
fn decided(regions: Arc<Regions>) -> Arc<dyn Fn() -> documents::managed::Decided + Send + Sync> {
    Arc::new(move || {
        let (view, home) = (regions.view(), &regions.home);
        documents::managed::Decided {
            ballot: view.ballot_of(home),
            decided: view.decided(home),
            state: view.state(home, &regions.members),
        }
    })
}

fn pause_name(peer: &str) -> String {
    format!("pause/{peer}")
}

fn link_options(
    config: &Config,
    link: &config::Link,
    ingress: &Ingress,
    links: usize,
) -> Result<queue_link::Options, crate::core::pattern::Error> {
    Ok(queue_link::Options {
        home: link.from.clone(),
        shadow: link.mode == config::Mode::Shadow,
        peer: link.to.clone(),
        rules: Rules {
            pattern: Pattern::parse(&link.pattern)?,
            hops_max: u8::try_from(config.limits.max_hops).unwrap_or(u8::MAX),
            replays: false,
            expire_after: config.expiry().saturating_sub(BUS_RETRIES),
        },
        ingress: ingress.clone(),
        lease: LEASE,
        attempt_timeout: link.attempt_timeout,
        call_timeout: CALL_TIMEOUT,
        visibility: VISIBILITY,
        poll: POLL,
        receives: RECEIVES,
        in_flight: IN_FLIGHT,
        in_flight_bytes: IN_FLIGHT_BYTES,
        claimed_max: CLAIMED_MAX,
        unmarked_max: (UNMARKED_MAX / links.max(1)).max(1),
        put_bytes: PUT_BYTES,
        entry_bytes_max: PUT_BYTES,
        retention: config.idempotency.retention,
        backoff: Backoff { min: link.retry_min, max: link.retry_max },
        hold_after: HOLD_AFTER,
        held_delay: HELD_DELAY,
        depth_interval: DEPTH_INTERVAL,
    })
}
