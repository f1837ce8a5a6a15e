//! One run: traffic and faults, step by step, then healing and the demand that all become equal.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{task::JoinHandle, time::Instant};

use super::{
    Fault, Invariant, Outcome, REGIONS, Settings, Violation,
    chance::Chance,
    disk::Image,
    history::History,
    later,
    net::Net,
    node::{Node, Profile, REFERENCE, Refused, Running},
    payload::{self, Kind as Payload},
    power::Power,
    requests::Requests,
    trace::SharedTrace,
};
use crate::{
    agent::Agent,
    core::{event::Draft, json, object::Location},
    ports::{clock::Clock, hub::Hub},
};

/// After everything healed, all regions are equal within this much virtual time.
pub const CONVERGES_WITHIN: Duration = Duration::from_secs(120);

/// Longer than any sync of a simulated disk.
pub const SYNC_ENDS_WITHIN: Duration = Duration::from_millis(20);

/// One seed in so many goes on for weeks: that takes as long as the rest of the history.
const LATER_SHARE: u64 = 5;

/// Where the hub keeps its log.
const LOG_DIR: &str = "log";

pub const SOURCE: &str = "app.simulated";
pub const DETAIL_TYPE: &str = "Simulated";

pub struct Cluster {
    pub settings: Settings,
    pub profile: Profile,
    pub chance: Chance,
    pub trace: SharedTrace,
    pub net: Arc<Net>,
    pub nodes: Vec<Node>,
    pub history: Arc<Mutex<History>>,
    /// To documents.
    pub requests: Arc<Mutex<Requests>>,
    pub violations: Vec<Violation>,
    /// What commands that operators do not wait for found.
    pub unproven: Arc<Mutex<Vec<Violation>>>,
    /// These commands, and whether the agent that carries one out still lives.
    pub moves: Vec<(Option<Arc<Power>>, JoinHandle<()>)>,
    /// Copies of disks, to restore later.
    pub backups: Vec<Option<Image>>,
    /// Regions that were restored: links to them may be ahead of what is there until they notice.
    pub rewound: BTreeSet<usize>,
    /// Regions whose disk may not be readable, through no fault of the agent's.
    rotten: BTreeSet<usize>,
    /// Regions whose log lost its end to that, when the documents were ahead of it.
    pub rotted: BTreeSet<usize>,
    /// A log is so small that links lose their places; then they must say what they lost.
    pub expects_losses: bool,
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
    let mut chance = Chance::new(seed, "later");
    if cluster.violations.is_empty() && chance.below(LATER_SHARE) == 0 {
        later::play(&mut cluster, &mut chance).await;
    }
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
        let nodes = REGIONS.iter().map(|name| Node::new(settings, seed, name, started, trace.clone())).collect();
        let mut cluster = Cluster {
            settings: settings.clone(),
            profile,
            chance,
            net: Net::new(seed, trace.clone()),
            trace,
            nodes,
            history: Arc::default(),
            requests: Arc::default(),
            violations: Vec::new(),
            unproven: Arc::default(),
            moves: Vec::new(),
            backups: vec![None, None, None],
            rewound: BTreeSet::new(),
            rotten: BTreeSet::new(),
            rotted: BTreeSet::new(),
            expects_losses: false,
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
                    self.rotten.remove(&index);
                    return;
                }
                Err(Refused::Disk(why)) => {
                    self.trace.note(&format!("{} did not start: {why}", node.name));
                    node.crash(&self.net);
                }
                Err(Refused::Broken(why)) if self.rotten.remove(&index) => {
                    // As the message says: an older copy, or an empty directory that the peers fill.
                    self.trace.note(&format!("{} does not start: {why}", node.name));
                    node.crash(&self.net);
                    node.disk.restore(self.backups[index].clone().unwrap_or_default());
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
        self.violations.extend(node.running.iter().flat_map(|running| running.agent.violations()));
        node.crash(&self.net);
    }

    /// Nodes whose disk failed are processes that ended; they come up again.
    pub async fn bury(&mut self) {
        for index in 0..self.nodes.len() {
            let node = &self.nodes[index];
            let has_ended = |running: &Running| running.has_ended() || node.disk.has_failed();
            if node.running.as_ref().is_some_and(has_ended) {
                self.trace.note(&format!("{} failed and ends", node.name));
                self.crash(index);
                self.up(index).await;
                self.check_durable(index).await;
            }
        }
    }

    /// Nothing passes between these regions, in both directions.
    pub fn cut(&self, home: &str, peers: &[&str], cut: bool) {
        for peer in peers {
            self.net.change(home, peer, |quality| quality.cut = cut);
            self.net.change(peer, home, |quality| quality.cut = cut);
        }
    }

    /// Time goes by, everywhere, in which nothing happens.
    pub fn pass(&self, time: Duration) {
        self.trace.note(&format!("{} h later", time.as_secs() / 3_600));
        self.nodes.iter().for_each(|node| node.clock.pass(time));
    }

    /// Publishes new keys, one event each, that every filter takes.
    pub fn publish_keys(&mut self, index: usize, keys: std::ops::Range<u32>) {
        let drafts: Vec<_> = keys.map(|n| (format!("s{n}"), format!("{{\"n\":{n},\"pass\":true}}"))).collect();
        for (key, detail) in &drafts {
            lock(&self.history).attempt(key, detail, true);
        }
        self.send(index, drafts);
    }

    /// Publishes events that were never published before.
    pub fn publish_new(&mut self, index: usize, count: u64) {
        let drafts: Vec<_> = (0..count).map(|_| lock(&self.history).invent(true, Payload::None)).collect();
        self.send(index, drafts);
    }

    /// A service publishes, as a task of its own, and remembers what it was answered. Where the region has a ghost, it
    /// may still have its connection to that.
    pub fn send(&mut self, index: usize, drafts: Vec<(String, String)>) {
        let node = &self.nodes[index];
        let lives: Vec<&Running> = node.running.iter().chain(&node.ghost).collect();
        let Some(running) = self.chance.pick(&lives) else { return };
        let (region, hub, store, life) = (node.name, running.hub.clone(), running.store.clone(), running.life);
        // Producers' clocks are their own.
        let off = [0, 0, 0, -86_400_000, 7_200_000][self.chance.below(5) as usize];
        let time = (off != 0).then(|| node.clock.now().shifted(off));
        let (net, history, trace) = (self.net.clone(), self.history.clone(), self.trace.clone());
        let late = self.chance.millis(0, 5_000);
        let never = self.chance.hits(0.5);
        tokio::spawn(async move {
            let mut uploaded = Vec::with_capacity(drafts.len());
            for (key, detail) in drafts {
                let (store, history, name) = (store.clone(), history.clone(), key.clone());
                let upload = async move |(at, bytes): (Location, Bytes)| {
                    let number = lock(&history).writes(region, &name, &at, bytes.clone());
                    let done = store.upload(&at, bytes).await;
                    lock(&history).wrote(&at, number);
                    done
                };
                // Payloads first; a service that is too late with them, or forgets them, is one that fails.
                let done = match payload::of(&detail) {
                    Some(payload) if payload::is_late(&detail) => {
                        if !never {
                            tokio::spawn(async move {
                                tokio::time::sleep(late).await;
                                upload(payload).await
                            });
                        }
                        true
                    }
                    Some(payload) => upload(payload).await,
                    None => true,
                };
                if done {
                    uploaded.push((key, detail));
                }
            }
            let drafts = uploaded;
            let events = drafts.iter().map(|(key, detail)| Draft { time, ..draft(key, detail) }).collect();
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
        self.lose(index).await;
    }

    /// A crash, and a bit of the log's last bytes is another one afterwards.
    pub async fn rot(&mut self, index: usize) {
        self.crash(index);
        if self.nodes[index].disk.rot(LOG_DIR) {
            self.trace.note(&format!("a bit of {} flips", self.nodes[index].name));
            self.trace.lock().fault(Fault::BitRot);
            self.rotten.insert(index);
            self.rotted.insert(index);
        }
        self.lose(index).await;
    }

    /// The region goes on over a copy of its running disk; the original stays for a while and does not know.
    pub async fn split(&mut self, index: usize) {
        self.end_ghost(index).await;
        self.trace.note(&format!("a copy of {} comes up beside it", self.nodes[index].name));
        self.trace.lock().fault(Fault::Clone);
        let copy = self.backup(index);
        let chance = Chance::new(self.chance.word(), "copy");
        self.nodes[index].split(&self.net, copy, chance);
        self.rewound.insert(index);
        self.up(index).await;
    }

    /// The original of a copy ends at last; what only it had is gone.
    pub async fn end_ghost(&mut self, index: usize) {
        if self.nodes[index].ghost.is_some() {
            self.trace.note(&format!("the original of {} ends", self.nodes[index].name));
            self.check_agents();
            self.nodes[index].end_ghost(&self.net);
            self.lose(index).await;
        }
    }

    /// The region comes up with less than it had: what no region has now is lost.
    async fn lose(&mut self, index: usize) {
        self.rewound.insert(index);
        if self.nodes[index].running.is_none() {
            self.up(index).await;
        }
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
        self.lose_requests().await;
    }

    pub fn outcome(&mut self, seed: u64) -> Outcome {
        let history = lock(&self.history);
        let heads = self.nodes.iter().filter_map(|node| Some(node.running.as_ref()?.hub.end().offset));
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
            requests: lock(&self.requests).outcome(),
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
        payload_hash: json::canonical_hash(SOURCE, DETAIL_TYPE, detail, &[REFERENCE.to_owned()]),
        stamp_stripped: false,
        has_payload: payload::of(detail).is_some(),
        trace: None,
    }
}
