//! One region at work: its links, its inbox, its heartbeat, and what operators ask of it.
//!
//! [`Agent::start`] takes ports and starts tasks; it opens no file and no socket, so the same code runs over simulated
//! disks and networks. [`assemble`] is where production chooses the adapters.

pub mod assemble;
pub mod audit;
pub mod documents;
mod ends;
mod errand;
pub mod evict;
mod explain;
mod filter;
mod handle;
pub mod heartbeat;
mod inbox;
mod keys;
pub mod kinds;
mod letters;
mod link;
pub mod local_keys;
pub mod managed;
mod offset;
pub mod ordered;
mod pacer;
pub mod payloads;
pub mod queue_link;
pub mod regions;
mod repairs;
mod rounds;
mod status;
mod watch;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, RwLock, atomic::AtomicU64},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    documents::{LocalDocuments, Shelves},
    ends::Ends,
    errand::Errand,
    filter::Filters,
    handle::{Asked, Command, LinkHandle, Pace, View},
    inbox::{Handed, read_state},
    link::LinkTask,
    payloads::Stores,
    regions::{Certainty, Health, HubStore, Regions},
    repairs::{Ended, Repairs},
    watch::Watch,
};
pub use self::{
    errand::{Error, Report},
    explain::Explanation,
    filter::matches,
    inbox::RegionInbox,
    keys::Range,
    letters::{Discarded, List, Redriven, Selection, Shown},
    pacer::Pacer,
    status::Status,
};
use crate::{
    config::{self, Config, Mode},
    core::{
        backoff::Backoff,
        event::Record,
        invariant::{Invariant, Violation},
        journal::Change,
        link::{Link, Options, Status as LinkState},
        pattern::Pattern,
        position::Incarnation,
        time::Timestamp,
    },
    faults::Faults,
    marks::{self, Mark},
    metrics::Metrics,
    ports::{
        clock::{Clock, Entropy},
        hub::Hub,
        peer::{Peer, RepairRequest},
        regions::RemoteRegion,
    },
};

/// How long a start waits for peers to say what they have of this region.
const INTRODUCTION_WAIT: Duration = Duration::from_secs(1);

const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);

/// What an agent is made of. Only the caller knows which adapters these are.
pub struct Parts {
    pub config: Config,
    pub region: String,
    pub hub: Arc<dyn Hub>,
    /// One for each region that this region has an enabled link to.
    pub peers: BTreeMap<String, Arc<dyn Peer>>,
    /// Where payloads are; `None` where events are only events.
    pub objects: Option<Stores>,
    /// Where documents are; `None` where there are no types of them.
    pub documents: Option<Shelves>,
    /// The others of the file that can be asked about who serves users.
    pub regions: BTreeMap<String, Arc<dyn RemoteRegion>>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub faults: Arc<Faults>,
    pub metrics: Arc<Metrics>,
}

pub struct Agent {
    pub region: String,
    pub cluster: String,
    pub hub: Arc<dyn Hub>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<Metrics>,
    pub faults: Arc<Faults>,
    pub inbox: Arc<RegionInbox>,
    pub documents: Option<LocalDocuments>,
    /// Which regions serve users.
    pub regions: Regions,
    watch: Arc<Watch>,
    config: Mutex<Config>,
    links: BTreeMap<String, LinkHandle>,
    /// Peers whose link is switched off in the file.
    disabled: Vec<String>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Agent {
    /// Starts the region's tasks and answers at once; peers are not waited for.
    ///
    /// # Errors
    /// The hub cannot write down a link's filter: it failed.
    pub async fn start(parts: Parts) -> Result<Arc<Agent>, crate::ports::hub::Error> {
        let Parts { config, region, hub, peers, objects, documents, regions, clock, entropy, faults, metrics } = parts;
        let ports = regions::Ports {
            store: Arc::new(HubStore::new(hub.clone())),
            clock: clock.clone(),
            entropy: entropy.clone(),
            metrics: metrics.clone(),
        };
        let regions = Regions::new(&config, &region, ports, regions, (Certainty::Proven, Health::of_hub()));
        // A log that is open answers at once.
        let _ = regions.look().await;
        regions.follow();
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let (repairs, repairs_wanted) = mpsc::channel(16);
        let watch = Arc::new(Watch::new(metrics.invariant_violations.clone()));
        let names = config.regions.iter().map(|region| region.name.clone()).filter(|name| *name != region);
        let heard: BTreeMap<String, Arc<Notify>> = peers.keys().map(|peer| (peer.clone(), Arc::default())).collect();
        let names: Vec<String> = names.collect();
        let documents = documents.map(|shelves| {
            let parts = documents::Parts {
                home: region.clone(),
                regions: regions.members.clone(),
                schemas: config.schemas(),
                hub: hub.clone(),
                shelves,
                members: names.clone(),
                clock: clock.clone(),
                entropy: entropy.clone(),
                metrics: metrics.clone(),
            };
            LocalDocuments::start(parts, &tasks, &stop)
        });
        let repaired: BTreeMap<String, Arc<Ended>> = names.iter().map(|name| (name.clone(), Arc::default())).collect();
        let inbox = Arc::new(RegionInbox {
            cluster: config.cluster.name.clone(),
            region: region.clone(),
            hub: hub.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            watch: watch.clone(),
            heard: heard.clone(),
            handed: names.into_iter().map(|name| (name, Handed::default())).collect(),
            repaired: repaired.clone(),
            repairs,
            listens: regions.heard.clone(),
        });
        let mut links = BTreeMap::new();
        let mut disabled = Vec::new();
        for options in config.links().into_iter().filter(|link| link.from == region) {
            let Some(peer) = peers.get(&options.to).filter(|_| options.enabled) else {
                metrics.link(&options.to).set_state("disabled");
                disabled.push(options.to);
                continue;
            };
            let link_metrics = Arc::new(metrics.link(&options.to));
            let payloads = objects.as_ref().and_then(|objects| objects.payloads(&config, &options, &link_metrics));
            let ends = Arc::new(Ends {
                cluster: config.cluster.name.clone(),
                home: region.clone(),
                peer_name: options.to.clone(),
                hub: hub.clone(),
                peer: peer.clone(),
                clock: clock.clone(),
                entropy: entropy.clone(),
                metrics: link_metrics,
                skipped: metrics.skipped.clone(),
                watch: watch.clone(),
                attempt_timeout: options.attempt_timeout,
                dead_letters_max: options.max_dead_letters,
                pacer: RwLock::new(Arc::new(Pacer::new(options.events_per_second, options.bytes_per_second))),
                started: Instant::now(),
                repairs: Repairs::new(repaired.get(&options.to).cloned().unwrap_or_default()),
                payloads,
                peer_life: AtomicU64::default(),
            });
            let task = build_link(&config, &options, ends.clone(), heard.get(&options.to).cloned().unwrap_or_default())
                .await?;
            let (commands, view) = (task.1, task.0.view.clone());
            links.insert(options.to.clone(), LinkHandle { ends: ends.clone(), commands, view });
            tasks.spawn(task.0.run(stop.clone()));
            let asking = async move { ends.ask_for_repairs().await };
            let stop = stop.clone();
            tasks.spawn(async move { stop.run_until_cancelled(asking).await });
        }
        let agent = Arc::new(Agent {
            region,
            cluster: config.cluster.name.clone(),
            hub,
            clock,
            metrics,
            faults,
            inbox,
            documents,
            regions,
            watch,
            config: Mutex::new(config),
            links,
            disabled,
            stop,
            tasks,
        });
        agent.tasks.spawn(agent.clone().introduce());
        agent.tasks.spawn(agent.clone().maintain());
        agent.tasks.spawn(agent.clone().mind_regions());
        agent.tasks.spawn(agent.clone().repair_others(repairs_wanted));
        Ok(agent)
    }

    /// Stops all tasks; links write down how far they are. Bounded by the links' attempt time-out.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Cancelled when the agent stops.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// From now on services get 503; links and peers go on.
    pub fn drain(&self) {
        tracing::info!(region = self.region, "draining: no new events from services");
        self.regions.drain_process();
    }

    /// Services get nothing, whether the process is to stop or the region does not serve.
    pub fn is_draining(&self) -> bool {
        self.hub.is_draining()
    }

    /// The event as a reader of this hub sees it.
    pub fn envelope(&self, record: &Record) -> String {
        record.envelope_json(&self.region, self.life_of(record))
    }

    fn id(&self, record: &Record) -> String {
        record.id(self.life_of(record)).to_string()
    }

    fn life_of(&self, record: &Record) -> Incarnation {
        read_state(&*self.hub, |state| state.lives.at(record.header.offset)).unwrap_or_default()
    }

    /// An event accepted longer ago than this is not delivered any more.
    fn expire_after(&self) -> Duration {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).expiry()
    }

    /// The regions that this one has links to.
    pub fn peers(&self) -> impl Iterator<Item = &str> {
        self.links.keys().map(String::as_str)
    }

    /// Stops or starts the link to `peer`; remembered over restarts.
    ///
    /// # Errors
    /// There is no such link, or the hub failed.
    pub async fn pause(&self, peer: &str, paused: bool) -> Result<(), Error> {
        let link = self.link(peer)?;
        let change = Change::Paused { peer: peer.to_owned(), paused, at: self.clock.now() };
        self.hub.note(vec![change.into()]).await?;
        tracing::warn!(peer, paused, "link paused or resumed by an operator");
        link.ask(Command::Pause(paused)).await;
        Ok(())
    }

    fn link(&self, peer: &str) -> Result<&LinkHandle, Error> {
        self.links.get(peer).ok_or_else(|| Error::NoLink(self.region.clone(), peer.to_owned()))
    }

    fn errand(&self, peer: &str) -> Result<Errand, Error> {
        let link = self.link(peer)?;
        let (options, hops_max) = {
            let config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
            (config.link(&self.region, peer), hops_max(&config))
        };
        Ok(Errand {
            hops_max,
            ends: link.ends.clone(),
            batch_events: options.batch_events,
            batch_bytes: usize::try_from(options.batch_bytes).unwrap_or(usize::MAX),
        })
    }

    /// Sends this region's events accepted in a span of time, and passed by the link, again.
    ///
    /// # Errors
    /// No such link, an unreadable log, or a peer that does not answer.
    pub async fn replay(
        &self,
        peer: &str,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
        dry_run: bool,
    ) -> Result<Report, Error> {
        let errand = self.errand(peer)?;
        let filters = self.link(peer)?.filters(&self.region, &*self.hub);
        let expire_before = self.clock.now().minus(self.expire_after());
        // Not beyond the link's place: the link sends that by itself, in its order.
        let place = self.link(peer)?.view().cursor;
        errand.replay(&filters, (since, until), place, expire_before, dry_run).await
    }

    /// Sends what this region holds of `origin` to `peer`.
    ///
    /// # Errors
    /// No such link, an unreadable log, or a peer that does not answer.
    pub async fn repair(&self, peer: &str, origin: &str, dry_run: bool) -> Result<Report, Error> {
        self.errand(peer)?.repair(origin, &[], dry_run).await
    }

    /// Takes over what can change while it runs: filters and paces. Answers what changed, in words.
    ///
    /// # Errors
    /// Something that only a restart can change.
    pub async fn reload(&self, new: Config) -> Result<Vec<String>, String> {
        let names = |config: &Config| config.regions.iter().map(|region| region.name.clone()).collect::<Vec<_>>();
        let old = self.config.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if names(&old) != names(&new) || old.cluster.name != new.cluster.name {
            return Err("regions and the cluster's name change with a restart only".to_owned());
        }
        if old.idempotency != new.idempotency || old.log != new.log {
            return Err("[idempotency] and [log] change with a restart only".to_owned());
        }
        if old.state != new.state {
            return Err("[state] changes with a restart only".to_owned());
        }
        if old.claim_check != new.claim_check {
            return Err("[claim_check] changes with a restart only".to_owned());
        }
        // First everything that can be refused, then everything at once.
        let mut patterns = BTreeMap::new();
        for peer in self.links.keys() {
            let (before, after) = (old.link(&self.region, peer), new.link(&self.region, peer));
            let fixed = |link: &config::Link| (link.enabled, link.mode, link.attempt_timeout, link.max_dead_letters);
            if fixed(&before) != fixed(&after) {
                return Err(format!(
                    "link to `{peer}`: `enabled`, `mode`, `attempt_timeout` and `max_dead_letters` change with a \
                     restart only (`hubweave pause` stops a link now)"
                ));
            }
            if before.pattern != after.pattern {
                patterns.insert(peer, Pattern::parse(&after.pattern).map_err(|error| error.to_string())?);
            }
        }
        let mut changed = Vec::new();
        for (peer, link) in &self.links {
            let (before, after) = (old.link(&self.region, peer), new.link(&self.region, peer));
            if let Some(pattern) = patterns.remove(peer) {
                changed.push(format!("{} -> {peer}: pattern {}", self.region, after.pattern));
                link.ask(Command::Filter(pattern)).await;
            }
            let before = config::Link { pattern: after.pattern.clone(), ..before };
            if before != after {
                changed.push(format!("{} -> {peer}: options", self.region));
                let command = Command::Options {
                    options: core_options(&new, &after, link.ends.payloads.is_some()),
                    pacer: pace(&after),
                };
                link.ask(command).await;
            }
        }
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = new;
        tracing::info!(?changed, "configuration read again");
        Ok(changed)
    }

    /// Asks the peers what they have of us, so that lost events come back, also over a link that is paused; then beats.
    async fn introduce(self: Arc<Self>) {
        let hellos = self.links.values().map(|link| async move {
            let told = async {
                if let Ok(hello) = link.ends.peer.hello().await {
                    link.ends.told(&hello.high_waters, &hello.strays);
                }
            };
            // A peer that does not answer in time says it with the answer to the next batch.
            let _ = tokio::time::timeout(INTRODUCTION_WAIT, told).await;
        });
        futures::future::join_all(hellos).await;
        let interval = self.config.lock().unwrap_or_else(PoisonError::into_inner).heartbeat_interval(&self.region);
        let told = |accepted| self.regions.health.beat(accepted, interval);
        heartbeat::run(self.hub.clone(), self.region.clone(), interval, self.stop.clone(), told).await;
    }

    async fn maintain(self: Arc<Self>) {
        let mut tick = tokio::time::interval(MAINTENANCE_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            self.refresh_gauges();
            self.check();
            let needed = self.links.values().map(|link| {
                let view = link.view();
                view.held.iter().map(|held| held - 1).min().map_or(view.cursor, |held| held.min(view.cursor))
            });
            let of_links = needed.min().unwrap_or(u64::MAX);
            self.documents.iter().for_each(|documents| documents.sent_to(of_links));
            let of_documents = self.documents.as_ref().map_or(u64::MAX, LocalDocuments::needed_after);
            self.hub.retain(of_links.min(of_documents));
        }
    }

    /// Brings the gauges up to date; also called before they are read.
    pub fn refresh_gauges(&self) {
        for link in self.links.values() {
            let exposure = self.exposure(link);
            let metrics = &link.ends.metrics;
            metrics.backlog_events.set(exposure.backlog_events as f64);
            metrics.backlog_bytes.set(exposure.backlog_bytes as f64);
            metrics.backlog_deltas.set(exposure.backlog_deltas as f64);
            metrics.watermark.set(exposure.watermark.as_secs_f64());
            metrics.exposure.set(exposure.exposure_seconds);
            metrics.dead_letters.set(link.ends.dead_letters() as f64);
        }
        self.metrics.log_bytes.set(self.hub.log_bytes() as f64);
        let faults = self.faults.list();
        for kind in crate::faults::Kind::ALL {
            let count = faults.iter().filter(|fault| fault.kind == kind).count();
            self.metrics.faults_active.with_label_values(&[kind.as_str()]).set(count as i64);
        }
    }

    /// What the agent can see to be broken by itself.
    fn check(&self) {
        self.hub.take_violations().into_iter().for_each(|violation| self.watch.broken(violation));
        let head = self.hub.end();
        for (peer, link) in &self.links {
            let mark = link.view().mark;
            if mark.accepted > head.accepted || mark.local_events > head.local_events {
                let what = format!("the link to {peer} is at {mark:?}, the log ends at {head:?}");
                self.watch.broken(Violation::new(Invariant::WatermarkBehindHead, what));
            }
        }
    }

    /// The first invariants that the agent found broken; empty unless there is a bug.
    pub fn violations(&self) -> Vec<Violation> {
        self.watch.violations()
    }

    async fn repair_others(self: Arc<Self>, mut wanted: mpsc::Receiver<RepairRequest>) {
        loop {
            let request = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                request = wanted.recv() => match request {
                    Some(request) => request,
                    None => return,
                },
            };
            // Who asks again while one is under way means the same, as it is now.
            let mut requests = vec![request];
            while let Ok(more) = wanted.try_recv() {
                requests.retain(|request| (&request.asker, &request.origin) != (&more.asker, &more.origin));
                requests.push(more);
            }
            for request in &requests {
                self.repair_as_asked(request).await;
            }
        }
    }

    /// To the origin alone: its own links pass on what comes back to it, in their order.
    async fn repair_as_asked(&self, request: &RepairRequest) {
        let (origin, asker) = (&request.origin, &request.asker);
        let result = match self.errand(asker) {
            Ok(errand) => errand.repair_as_asked(request).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(report) => tracing::info!(origin, asker, ?report, "repair sent"),
            Err(error) => {
                marks::hit(Mark::RepairGivenUp);
                tracing::warn!(origin, asker, %error, "repair not sent; it is asked for again");
            }
        }
    }
}

fn core_options(config: &Config, link: &config::Link, payloads: bool) -> Options {
    Options {
        batch_events: link.batch_events,
        batch_bytes: usize::try_from(link.batch_bytes).unwrap_or(usize::MAX),
        in_flight: link.in_flight,
        backoff: Backoff { min: link.retry_min, max: link.retry_max },
        held_max: link.max_held,
        hops_max: hops_max(config),
        expire_after: config.expiry(),
        shadow: link.mode == Mode::Shadow,
        payloads,
        home: link.from.clone(),
    }
}

fn hops_max(config: &Config) -> u8 {
    u8::try_from(config.limits.max_hops).unwrap_or(u8::MAX)
}

fn pace(link: &config::Link) -> Pace {
    Pace { events_per_second: link.events_per_second, bytes_per_second: link.bytes_per_second }
}

async fn build_link(
    config: &Config,
    options: &config::Link,
    ends: Arc<Ends>,
    heard: Arc<Notify>,
) -> Result<(LinkTask, mpsc::Sender<Asked>), crate::ports::hub::Error> {
    let hub = ends.hub.clone();
    let journal = read_state(&*hub, |state| state.links.get(&options.to).cloned()).unwrap_or_default();
    let mut filters = Filters::new(&options.from, &journal.filters);
    let pattern = Pattern::parse(&options.pattern).unwrap_or_else(|error| {
        tracing::error!(peer = options.to, %error, "the link's pattern does not compile; it passes everything");
        Pattern::everything()
    });
    let text = pattern.as_json().to_string();
    if filters.current().is_none_or(|current| current != text) {
        // The first pattern of a link holds for the whole log; a new one from here on.
        let after = if filters.current().is_none() { 0 } else { hub.end().offset };
        let change = Change::Filter { peer: options.to.clone(), after, pattern: text };
        hub.note(vec![change.into()]).await?;
        filters.push(after, pattern);
    }
    let mut core = Link::new(
        core_options(config, options, ends.payloads.is_some()),
        journal.progress.as_ref(),
        hub.base(),
        ends.steady(),
    );
    core.set_paused(journal.paused);
    let view = View {
        status: if journal.paused { LinkState::Paused } else { LinkState::Active },
        cursor: core.low(),
        mark: core.low_mark(),
        held: core.held_sequences(),
        held_since: core.held_since(),
        clock_offset_seconds: None,
    };
    let (commands, received) = mpsc::channel(16);
    let task = LinkTask { core, filters, commands: received, view: Arc::new(Mutex::new(view)), heard, ends };
    Ok((task, commands))
}

#[cfg(test)]
mod tests;
