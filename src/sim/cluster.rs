//! One run: traffic and faults, step by step, then healing and the demand that all become equal.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Fault, Invariant, Outcome, REGIONS, Settings, Violation,
    chance::Chance,
    disk::Image,
    history::{Effect, History, Place, effects},
    net::Net,
    node::{Node, Profile, Refused},
    trace::SharedTrace,
};
use crate::{
    agent::{Agent, Selection},
    core::{event::Draft, json, time::Timestamp},
    ports::hub::Hub,
};

/// After everything healed, all regions are equal within this much virtual time.
pub const CONVERGES_WITHIN: Duration = Duration::from_secs(120);

/// Longer than any sync of a simulated disk.
const SYNC_ENDS_WITHIN: Duration = Duration::from_millis(20);

const SOURCE: &str = "app.simulated";
const DETAIL_TYPE: &str = "Simulated";

pub struct Cluster {
    pub settings: Settings,
    pub profile: Profile,
    pub chance: Chance,
    pub trace: SharedTrace,
    pub net: Arc<Net>,
    pub nodes: Vec<Node>,
    pub history: Arc<Mutex<History>>,
    pub violations: Vec<Violation>,
    /// Copies of disks, to restore later.
    pub backups: Vec<Option<Image>>,
    /// Regions that were restored: links to them may be ahead of what is there until they notice.
    rewound: BTreeSet<usize>,
    /// The faults that this seed has.
    pub faults: Vec<Fault>,
    adrift: u64,
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The run of `seed`; see [`super::run`].
///
/// # Errors
/// The settings make no valid cluster.
pub async fn run(seed: u64, settings: &Settings) -> Result<Outcome, String> {
    let started = Instant::now();
    let mut cluster = Cluster::start(seed, settings).await?;
    for _ in 0..settings.steps {
        cluster.step().await;
        if !cluster.violations.is_empty() {
            break;
        }
    }
    let converged_seconds = cluster.heal_and_converge().await;
    let mut outcome = cluster.outcome(seed);
    outcome.virtual_seconds = started.elapsed().as_secs_f64();
    outcome.converged_seconds = converged_seconds;
    Ok(outcome)
}

impl Cluster {
    /// Three regions, up.
    ///
    /// # Errors
    /// The settings make no valid cluster.
    pub async fn start(seed: u64, settings: &Settings) -> Result<Cluster, String> {
        let started = Instant::now();
        let trace = SharedTrace::new(started, settings.lines);
        let mut chance = Chance::new(seed, "cluster");
        let profile = Profile::draw(&mut chance);
        // Each seed has some of the faults: where all of them are at work, some combinations never come up.
        let share = [0.3, 0.6, 1.0][chance.below(3) as usize];
        let faults = settings.faults.iter().copied().filter(|_| chance.hits(share)).collect();
        let nodes = REGIONS.iter().map(|name| Node::new(settings, seed, name, started)).collect();
        let mut cluster = Cluster {
            settings: settings.clone(),
            profile,
            chance,
            net: Net::new(seed, trace.clone()),
            trace,
            nodes,
            history: Arc::default(),
            violations: Vec::new(),
            backups: vec![None, None, None],
            rewound: BTreeSet::new(),
            faults,
            adrift: 0,
        };
        cluster.trace.note(&format!("{:?} {:?}", cluster.profile, cluster.faults));
        for index in 0..REGIONS.len() {
            cluster.up(index).await;
        }
        Ok(cluster)
    }

    pub fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    /// Starts a node; a disk that fails meanwhile is one more crash.
    pub async fn up(&mut self, index: usize) {
        for _ in 0..20 {
            let node = &mut self.nodes[index];
            let started = node.start(&self.net, &self.profile).await;
            match started {
                Ok(()) => {
                    self.trace.note(&format!("{} is up", node.name));
                    return;
                }
                Err(Refused::Disk(why)) => {
                    self.trace.note(&format!("{} did not start: {why}", node.name));
                    node.crash(&self.net);
                }
                Err(Refused::Broken(why)) => {
                    let what = format!("{} does not start: {why}", node.name);
                    self.trace.note(&what);
                    self.violations.push(Violation::new(Invariant::Opens, what));
                    return;
                }
            }
        }
    }

    pub fn crash(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        self.trace.note(&format!("{} crashes", node.name));
        self.trace.lock().fault(Fault::Crash);
        node.crash(&self.net);
    }

    /// Nodes whose disk failed are processes that ended; they come up again.
    pub async fn bury(&mut self) {
        for index in 0..self.nodes.len() {
            let node = &self.nodes[index];
            if node.has_failed() || node.running.is_some() && node.disk.has_failed() {
                self.trace.note(&format!("{} failed and ends", self.nodes[index].name));
                self.nodes[index].crash(&self.net);
                self.up(index).await;
                self.check_durable(index).await;
            }
        }
    }

    /// Publishes new keys, one event each, that every filter takes.
    pub fn publish_keys(&mut self, index: usize, keys: std::ops::Range<u32>) {
        let drafts: Vec<_> = keys.map(|n| (format!("s{n}"), format!("{{\"n\":{n},\"pass\":true}}"))).collect();
        for (key, detail) in &drafts {
            lock(&self.history).attempt(key, detail, true);
        }
        self.send(index, drafts);
    }

    /// A service publishes, as a task of its own, and remembers what it was answered.
    pub fn send(&mut self, index: usize, drafts: Vec<(String, String)>) {
        let node = &self.nodes[index];
        let Some(running) = &node.running else { return };
        let (region, hub, life) = (node.name, running.hub.clone(), running.life);
        let (net, history, trace) = (self.net.clone(), self.history.clone(), self.trace.clone());
        tokio::spawn(async move {
            let events = drafts.iter().map(|(key, detail)| draft(key, detail)).collect();
            let answer = hub.publish(events).await;
            if !net.is_alive(region, life) {
                return;
            }
            match answer {
                Ok(answers) => {
                    for ((key, _), published) in drafts.iter().zip(answers) {
                        lock(&history).answered(region, key, published);
                        trace.note(&format!("{region} answers {key}: {published:?}"));
                    }
                }
                Err(error) => trace.note(&format!("{region} answers: {error}")),
            }
        });
    }

    pub fn backup(&self, index: usize) -> Image {
        self.nodes[index].disk.backup()
    }

    pub async fn restore(&mut self, index: usize, image: Image) {
        self.crash(index);
        self.trace.note(&format!("{} is restored from an older copy", self.nodes[index].name));
        self.trace.lock().fault(Fault::Rollback);
        self.nodes[index].disk.restore(image);
        self.rewound.insert(index);
        self.up(index).await;
        let mut hubs = self.hubs().await;
        for _ in 0..10 {
            if hubs.len() == REGIONS.len() {
                break;
            }
            // The disk of another one died meanwhile.
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.bury().await;
            hubs = self.hubs().await;
        }
        let held = hubs.values().flatten().map(|effect| effect.key.clone()).collect();
        self.adrift += lock(&self.history).set_adrift(&held);
    }

    /// Safety, in the middle of things.
    pub async fn check(&mut self) {
        let index = self.chance.below(3) as usize;
        let hubs = self.hubs().await;
        let history = self.history.clone();
        for (region, effects) in &hubs {
            lock(&history).check_hub(region, effects, &mut self.violations);
        }
        self.check_places(index, &hubs);
    }

    /// The low-water and watermark of a node's links.
    fn check_places(&mut self, index: usize, hubs: &BTreeMap<&'static str, Vec<Effect>>) {
        let home = self.nodes[index].name;
        let Some(running) = &self.nodes[index].running else { return };
        let status = running.agent.status();
        let Some(here) = hubs.get(home) else { return };
        for link in status.links.iter().filter(|link| link.held == 0) {
            let peer = link.peer.as_str();
            let rewound = self.rewound.iter().any(|index| self.nodes[*index].name == peer);
            let Some(there) = hubs.get(peer).filter(|_| !rewound) else { continue };
            let letters = {
                let state = running.hub.state();
                let state = state.read().unwrap_or_else(PoisonError::into_inner);
                let letters = state.letters.values().filter(|(letter, _)| letter.peer == peer);
                letters.map(|(letter, _)| letter.sequence).collect()
            };
            let watermark = Timestamp::parse_rfc3339(&link.watermark).unwrap_or_default();
            let place = Place { home, peer, cursor: link.cursor, watermark, letters, here, there };
            lock(&self.history).check_place(&place, &mut self.violations);
        }
    }

    pub async fn check_durable(&mut self, index: usize) {
        let Some(running) = &self.nodes[index].running else { return };
        if let Ok(effects) = effects(&running.hub).await {
            let name = self.nodes[index].name;
            // What a restore took comes back by and by.
            if !self.rewound.contains(&index) {
                lock(&self.history).check_durable(name, false, &effects, &mut self.violations);
            }
        }
    }

    /// What is in the hubs that are up.
    async fn hubs(&self) -> BTreeMap<&'static str, Vec<Effect>> {
        let mut hubs = BTreeMap::new();
        for node in &self.nodes {
            if let Some(running) = &node.running
                && let Ok(effects) = effects(&running.hub).await
            {
                hubs.insert(node.name, effects);
            }
        }
        hubs
    }

    /// Ends all faults and waits until everything is as it must be; answers how long that took.
    pub async fn heal_and_converge(&mut self) -> f64 {
        self.trace.note("everything heals");
        self.net.heal();
        for index in 0..self.nodes.len() {
            self.nodes[index].disk.heal();
            if self.nodes[index].disk.has_failed() {
                self.nodes[index].crash(&self.net);
            }
            if self.nodes[index].running.is_none() {
                self.up(index).await;
            }
            self.check_durable(index).await;
        }
        // A sync that was under way keeps its fate.
        tokio::time::sleep(SYNC_ENDS_WITHIN).await;
        self.bury().await;
        for node in &self.nodes {
            let Some(running) = &node.running else { continue };
            for peer in REGIONS.into_iter().filter(|peer| *peer != node.name) {
                let _ = running.agent.pause(peer, false).await;
            }
        }
        let healed = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let open = self.open_ends().await;
            let late = healed.elapsed() > CONVERGES_WITHIN;
            if open.is_empty() || late {
                self.violations.extend(open);
                self.violations.sort();
                self.violations.dedup();
                self.trace.note(&format!("{} violations", self.violations.len()));
                return healed.elapsed().as_secs_f64();
            }
        }
    }

    /// What is not yet, or will never be, as it must be.
    async fn open_ends(&mut self) -> Vec<Violation> {
        let mut open = Vec::new();
        let hubs = self.hubs().await;
        let history = lock(&self.history);
        for (region, effects) in &hubs {
            history.check_hub(region, effects, &mut open);
            let restored = self.rewound.iter().any(|index| self.nodes[*index].name == *region);
            history.check_durable(region, restored, effects, &mut open);
        }
        if hubs.len() == REGIONS.len() {
            history.check_equal(&hubs, &mut open);
        } else {
            open.push(Violation::new(Invariant::Opens, format!("only {:?} are up", hubs.keys())));
        }
        for node in &self.nodes {
            let Some(running) = &node.running else { continue };
            for link in running.agent.status().links {
                if link.state != "active" || link.backlog_events > 0 || link.held > 0 {
                    let (home, peer, state) = (node.name, &link.peer, &link.state);
                    let what =
                        format!("{home} -> {peer}: {state}, backlog {}, held {}", link.backlog_events, link.held);
                    open.push(Violation::new(Invariant::Quiet, what));
                }
                if !link.losses.is_empty() {
                    let what = format!("{} -> {}: {:?}", node.name, link.peer, link.losses);
                    open.push(Violation::new(Invariant::Losses, what));
                }
            }
            let letters = running.agent.letters(&Selection { limit: Some(usize::MAX), ..Selection::default() });
            for letter in letters.map(|list| list.letters).unwrap_or_default() {
                history.check_letter(node.name, &letter.peer, &letter.key, letter.reason, &mut open);
            }
        }
        open
    }

    pub fn outcome(&mut self, seed: u64) -> Outcome {
        let history = lock(&self.history);
        let heads = self.nodes.iter().filter_map(|node| Some(node.running.as_ref()?.hub.head().borrow().offset));
        let events = heads.sum();
        self.trace.note(&format!("{events} events"));
        let mut trace = self.trace.lock();
        Outcome {
            seed,
            hash: trace.hash(),
            violations: self.violations.clone(),
            acknowledged: history.acknowledged,
            duplicates: history.duplicates,
            conflicts: history.conflicts,
            events,
            adrift: self.adrift,
            faults: trace.faults().clone(),
            lines: trace.take_lines(),
            ..Outcome::default()
        }
    }

    /// The agent of a node that is up.
    pub fn agent(&self, index: usize) -> Option<&Arc<Agent>> {
        self.nodes[index].running.as_ref().map(|running| &running.agent)
    }
}

fn draft(key: &str, detail: &str) -> Draft {
    Draft {
        key: Some(key.to_owned()),
        source: SOURCE.to_owned(),
        detail_type: DETAIL_TYPE.to_owned(),
        detail: detail.to_owned(),
        time: None,
        resources: Vec::new(),
        payload_hash: json::canonical_hash(SOURCE, DETAIL_TYPE, detail, &[]),
        stamp_stripped: false,
    }
}
