//! A network in one process: every call may be late, lost before or after it took effect, doubled, or overtaken.
//!
//! Each way (who calls whom) has its own chance and its own faults, so partitions can be one-sided. A call draws all of
//! its fate at its start. Half of the calls live on when their caller gives up, as packets do: they arrive late, at
//! whatever life of the receiver is up by then.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};

use super::{
    chance::Chance,
    power::Power,
    trace::{Fault, SharedTrace},
};
use crate::{
    core::{
        batch::{Batch, Reply},
        link::Failure,
    },
    ports::{
        documents::Documents,
        inbox::{Inbox, Refusal},
        objects::Objects,
        peer::{Hello, Peer, RepairRequest},
        regions::Regions,
    },
};

/// Calls other than `deliver` end after this; for that one, callers have their own time-out.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// What a way does to the calls on it.
#[derive(Clone, Copy, Debug)]
pub struct Quality {
    /// Nothing passes, in this direction.
    pub cut: bool,
    pub lose_request: f64,
    /// Time-out after success.
    pub lose_reply: f64,
    pub duplicate: f64,
    pub throttle: f64,
    /// Bodies of objects arrive cut off, or with a wrong byte.
    pub damage: f64,
    pub delay_max_ms: u64,
}

impl Quality {
    pub const GOOD: Quality = Quality {
        cut: false,
        lose_request: 0.0,
        lose_reply: 0.0,
        duplicate: 0.0,
        throttle: 0.0,
        damage: 0.0,
        delay_max_ms: 5,
    };
}

struct Way {
    chance: Chance,
    quality: Quality,
}

/// What of a region can be called.
#[derive(Clone)]
pub struct Site {
    pub inbox: Arc<dyn Inbox>,
    pub objects: Arc<dyn Objects>,
    pub documents: Option<Arc<dyn Documents>>,
    pub regions: Arc<dyn Regions>,
}

#[derive(Clone)]
struct Node {
    site: Option<Site>,
    life: u64,
    /// Lives that go on beside the present one: what they send is heard, and nobody finds them.
    ghosts: BTreeSet<u64>,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<String, Node>,
    ways: BTreeMap<(String, String), Way>,
}

pub struct Net {
    seed: u64,
    trace: SharedTrace,
    state: Mutex<State>,
}

/// What becomes of one call; drawn at its start.
struct Fate {
    out: Duration,
    back: Duration,
    lose_request: bool,
    lose_reply: bool,
    refuse_quickly: bool,
    duplicate_after: Option<Duration>,
    throttle: bool,
    /// Goes on when its caller gives up.
    detached: bool,
}

impl Net {
    pub fn new(seed: u64, trace: SharedTrace) -> Arc<Self> {
        Arc::new(Self { seed, trace, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new life of the node begins; it cannot be reached yet. Answers its number.
    pub fn begin(&self, name: &str) -> u64 {
        let mut state = self.state();
        let node = state.nodes.entry(name.to_owned()).or_insert(Node { site: None, life: 0, ghosts: BTreeSet::new() });
        node.site = None;
        node.life += 1;
        node.life
    }

    pub fn up(&self, name: &str, site: Site) {
        if let Some(node) = self.state().nodes.get_mut(name) {
            node.site = Some(site);
        }
    }

    pub fn trace(&self) -> &SharedTrace {
        &self.trace
    }

    /// Whether a body on this way is spoiled: cut off, or with a wrong byte, and where.
    pub fn damage(&self, home: &str, peer: &str) -> Option<(bool, usize)> {
        let mut state = self.state();
        let Way { chance, quality } = self.way(&mut state, home, peer);
        let damage = quality.damage;
        chance.hits(damage).then(|| (chance.hits(0.5), chance.below(1_000) as usize))
    }

    /// Changes what the way from `home` to `peer` does.
    pub fn change(&self, home: &str, peer: &str, change: impl FnOnce(&mut Quality)) {
        change(&mut self.way(&mut self.state(), home, peer).quality);
    }

    /// All ways are good again.
    pub fn heal(&self) {
        self.state().ways.values_mut().for_each(|way| way.quality = Quality::GOOD);
    }

    fn way<'a>(&self, state: &'a mut State, home: &str, peer: &str) -> &'a mut Way {
        state.ways.entry((home.to_owned(), peer.to_owned())).or_insert_with(|| Way {
            chance: Chance::new(self.seed, &format!("way {home} {peer}")),
            quality: Quality::GOOD,
        })
    }

    fn fate(&self, home: &str, peer: &str) -> Fate {
        let mut state = self.state();
        let Way { chance, quality } = self.way(&mut state, home, peer);
        let delay = |chance: &mut Chance| {
            // Most calls are quick; the slow ones are what reorders.
            let slow = chance.hits(0.2);
            chance.millis(0, if slow { quality.delay_max_ms } else { quality.delay_max_ms.min(5) })
        };
        let fate = Fate {
            out: delay(chance),
            back: delay(chance),
            lose_request: chance.hits(quality.lose_request),
            lose_reply: chance.hits(quality.lose_reply),
            refuse_quickly: chance.hits(0.3),
            duplicate_after: chance.hits(quality.duplicate).then(|| chance.millis(0, 3_000)),
            throttle: chance.hits(quality.throttle),
            detached: chance.hits(0.5),
        };
        drop(state);
        let kinds = [
            (fate.lose_request, Fault::Drop),
            (fate.lose_reply, Fault::TimeoutAfterSuccess),
            (fate.duplicate_after.is_some(), Fault::Duplicate),
            (fate.throttle, Fault::Throttle),
            (fate.out + fate.back > Duration::from_millis(20), Fault::Delay),
        ];
        for (_, kind) in kinds.into_iter().filter(|(hit, _)| *hit) {
            self.trace.lock().fault(kind);
        }
        fate
    }

    fn is_cut(&self, home: &str, peer: &str) -> bool {
        let cut = self.way(&mut self.state(), home, peer).quality.cut;
        if cut {
            self.trace.lock().fault(Fault::Partition);
        }
        cut
    }

    fn node(&self, name: &str) -> Option<(Site, u64)> {
        let state = self.state();
        let node = state.nodes.get(name)?;
        Some((node.site.clone()?, node.life))
    }

    pub fn is_alive(&self, name: &str, life: u64) -> bool {
        self.state().nodes.get(name).is_some_and(|node| node.life == life || node.ghosts.contains(&life))
    }

    /// The present life goes on when another one begins.
    pub fn leave_ghost(&self, name: &str) {
        if let Some(node) = self.state().nodes.get_mut(name) {
            node.ghosts.insert(node.life);
        }
    }

    pub fn end_ghosts(&self, name: &str) {
        if let Some(node) = self.state().nodes.get_mut(name) {
            node.ghosts.clear();
        }
    }
}

/// `peer` as one life of `home` calls it.
pub struct SimPeer {
    pub net: Arc<Net>,
    pub home: String,
    pub life: u64,
    pub power: Arc<Power>,
    pub peer: String,
}

type Work<T> = Arc<dyn Fn(Site) -> BoxFuture<'static, Result<T, Refusal>> + Send + Sync>;

fn failure(refusal: Refusal) -> Failure {
    match refusal {
        Refusal::Foreign(why) | Refusal::Malformed(why) => Failure::Refused(why),
        Refusal::Unavailable { retry_after, .. } => Failure::Throttled { after: retry_after },
        Refusal::CutOff => Failure::Unanswered("cut off".to_owned()),
    }
}

impl SimPeer {
    async fn call<T: Send + 'static>(&self, work: Work<T>) -> Result<T, Failure> {
        if !self.may_call() {
            return std::future::pending().await;
        }
        let fate = self.net.fate(&self.home, &self.peer);
        let (net, home, peer) = (self.net.clone(), self.home.clone(), self.peer.clone());
        let detached = fate.detached;
        let way = async move { travel(net, home, peer, fate, work).await };
        let result = match detached {
            true => tokio::spawn(way).await.unwrap_or_else(|error| Err(Failure::Unanswered(error.to_string()))),
            false => way.await,
        };
        if !self.may_call() {
            return std::future::pending().await;
        }
        result
    }

    fn may_call(&self) -> bool {
        self.net.is_alive(&self.home, self.life) && self.power.call()
    }

    pub(super) async fn bounded<T: Send + 'static>(&self, work: Work<T>) -> Result<T, Failure> {
        match tokio::time::timeout(CALL_TIMEOUT, self.call(work)).await {
            Ok(result) => result,
            Err(_) => Err(Failure::Unanswered("no answer in time".to_owned())),
        }
    }
}

async fn travel<T: Send + 'static>(
    net: Arc<Net>,
    home: String,
    peer: String,
    fate: Fate,
    work: Work<T>,
) -> Result<T, Failure> {
    tokio::time::sleep(fate.out).await;
    if fate.lose_request || net.is_cut(&home, &peer) {
        if fate.refuse_quickly {
            return Err(Failure::Unanswered("connection refused".to_owned()));
        }
        return std::future::pending().await;
    }
    let Some((site, life)) = net.node(&peer) else {
        return Err(Failure::Unanswered("connection refused".to_owned()));
    };
    if fate.throttle {
        return Err(Failure::Throttled { after: Duration::from_millis(200) });
    }
    if let Some(after) = fate.duplicate_after {
        let (net, peer, work) = (net.clone(), peer.clone(), work.clone());
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            if let Some((site, _)) = net.node(&peer) {
                // Nobody waits for this answer.
                let _ = work(site).await;
            }
        });
    }
    let result = work(site).await;
    if !net.is_alive(&peer, life) {
        return Err(Failure::Unanswered("connection reset".to_owned()));
    }
    tokio::time::sleep(fate.back).await;
    if fate.lose_reply || net.is_cut(&peer, &home) {
        return std::future::pending().await;
    }
    result.map_err(failure)
}

impl Peer for SimPeer {
    fn deliver(&self, batch: Batch) -> BoxFuture<'_, Result<Reply, Failure>> {
        // Over the wire format, as in production.
        let bytes = bytes::Bytes::from(batch.encode());
        self.call(Arc::new(move |Site { inbox, .. }: Site| {
            let bytes = bytes.clone();
            async move {
                let batch = Batch::decode(&bytes).map_err(|error| Refusal::Malformed(error.to_string()))?;
                inbox.deliver(batch).await
            }
            .boxed()
        }))
        .boxed()
    }

    fn hello(&self) -> BoxFuture<'_, Result<Hello, Failure>> {
        let asker = self.home.clone();
        self.bounded(Arc::new(move |Site { inbox, .. }: Site| {
            let asker = asker.clone();
            async move { inbox.hello(&asker).await }.boxed()
        }))
        .boxed()
    }

    fn request_repair(&self, request: RepairRequest) -> BoxFuture<'_, Result<(), Failure>> {
        self.bounded(Arc::new(move |Site { inbox, .. }: Site| {
            let request = request.clone();
            async move { inbox.request_repair(request).await }.boxed()
        }))
        .boxed()
    }
}
