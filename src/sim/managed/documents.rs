//! Documents of the simulated regions: a table for each region, which all of its agents share.
//!
//! What services ask, and what must be true because of it, is that of [`requests`]. The judge looks at the tables
//! themselves, so that looking changes nothing; at the end the agents must say the same.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    CONVERGES_WITHIN, items, queue,
    shared::{self, SimShared},
    wire::Caller,
    world::{RETENTION, Region, SOURCE, World, backoff, ingress, lock},
};
use crate::{
    agent::{
        documents::{
            self, Options,
            managed::{Decided, ManagedDocuments, PeerTable},
        },
        managed::turns::Turns,
    },
    core::{
        event::STATE_OPERATION,
        region::{Ballot, State},
        state::{
            digest::{Digest, Range},
            document::Document,
            standing::{Eviction, Standing},
        },
        time::Timestamp,
    },
    metrics::Metrics,
    ports::{
        bus::{Entry, Put},
        documents::{Answer, Documents, Question, RemoteDocuments},
        items::Items,
    },
    sim::{
        Invariant, REGIONS, Violation,
        chance::{Chance, SharedChance},
        clock::SimClock,
        cluster,
        requests::{self, All, Asked, Client, Shown, TYPE, Wish},
        trace::SharedTrace,
    },
};

/// How often deleted documents are looked through.
pub const COLLECT: Duration = Duration::from_secs(60);

/// How many of the new requests are events.
const PUBLISHED: f64 = 0.2;

/// What a region keeps documents in.
pub struct Desk {
    region: String,
    clock: Arc<SimClock>,
    /// What was decided of the region, as far as its agents know.
    decided: Arc<Mutex<Decided>>,
    pub table: Arc<items::Store>,
    shared: Arc<shared::Store>,
    pub queue: Arc<queue::Store>,
}

/// The decision that regions are evacuated by.
const DECIDED: Ballot = Ballot { epoch: 1, proposal: 1 };

fn decided(state: State) -> Decided {
    let ballot = if state == State::Active { Ballot::default() } else { DECIDED };
    Decided { ballot, decided: state, state }
}

/// What a region's table holds, by id.
type Wholes = BTreeMap<&'static str, Option<Document>>;

impl Desk {
    pub fn new(seed: u64, region: &str, started: Instant, trace: SharedTrace, queue: Arc<queue::Store>) -> Desk {
        Desk {
            region: region.to_owned(),
            clock: Arc::new(SimClock::new(started, 0)),
            decided: Arc::new(Mutex::new(decided(State::Active))),
            table: items::Store::new(seed, region, trace),
            shared: Arc::default(),
            queue,
        }
    }

    async fn ask(&self, question: Question) -> Option<Answer> {
        let truth = Arc::new(items::Truth(self.table.clone()));
        PeerTable::new(&self.region, truth, self.clock.clone(), RETENTION).ask(question).await.ok()
    }

    pub async fn wholes(&self) -> Wholes {
        self.ask(requests::wholes_question()).await.map(requests::wholes).unwrap_or_default()
    }

    /// What of its sums is not so.
    async fn wrong_sums(&self, wholes: &Wholes) -> Option<String> {
        let keys: Vec<_> = wholes.keys().map(|id| requests::key(id)).collect();
        let document = |document: &Option<Document>| document.clone().unwrap_or_default();
        let digests: Vec<Option<Digest>> =
            keys.iter().zip(wholes.values()).map(|(key, whole)| Digest::of(key, &document(whole))).collect();
        let sum = digests.iter().flatten().fold(Digest::default(), |sum, digest| sum.plus(*digest));
        let sums = self.ask(Question::Sums(vec![Range::ALL])).await;
        let kept = self.ask(Question::Digests(keys)).await;
        let is_right = sums == Some(Answer::Sums(vec![sum])) && kept == Some(Answer::Digests(digests));
        (!is_right).then(|| format!("its table says {sums:?} and {kept:?} of {wholes:?}"))
    }
}

impl World {
    fn items(&self, region: &Region, caller: &Caller) -> Option<Arc<dyn Items>> {
        let (store, wire) = (region.documents.as_ref()?.table.clone(), self.wire.clone());
        Some(Arc::new(items::SimItems { store, region: region.name, caller: caller.clone(), wire }))
    }

    /// The documents of an agent, where there are any.
    pub fn start_documents(
        &self,
        caller: &Caller,
        clock: &Arc<SimClock>,
        metrics: &Arc<Metrics>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Option<ManagedDocuments> {
        let compare = self.profile.documents?;
        let region = self.regions.iter().find(|region| region.name == caller.home)?;
        let desk = region.documents.as_ref()?;
        let shared = SimShared { store: desk.shared.clone(), caller: caller.clone(), wire: self.wire.clone() };
        let remote = |peer: &Region| {
            let table = PeerTable::new(peer.name, self.items(peer, caller)?, clock.clone(), RETENTION);
            Some((peer.name.to_owned(), Arc::new(table) as Arc<dyn RemoteDocuments>))
        };
        let peers: BTreeMap<_, _> =
            self.regions.iter().filter(|peer| peer.name != region.name).filter_map(remote).collect();
        let parts = documents::managed::Parts {
            region: region.name.to_owned(),
            schemas: self.schemas.clone(),
            items: self.items(region, caller)?,
            bus: self.bus(region, caller),
            queue: self.queue(&desk.queue, caller),
            members: peers.keys().cloned().collect(),
            peers,
            turns: Arc::new(Turns::new(Arc::new(shared), caller.to_string())),
            ingress: ingress(),
            closed: Arc::default(),
            decided: {
                let decided = desk.decided.clone();
                Arc::new(move || *cluster::lock(&decided))
            },
            clock: clock.clone(),
            entropy: Arc::new(SharedChance::new(Chance::new(self.seed, &format!("documents {caller}")))),
            metrics: metrics.clone(),
            options: Options { compare, collect: COLLECT, ..Options::managed(RETENTION) },
            receives: 2,
            backoff: backoff(),
        };
        Some(ManagedDocuments::start(parts, tasks, stop))
    }

    /// Changes how the table of a region misbehaves.
    pub fn change_table(&self, region: usize, change: impl FnOnce(&mut items::Quality)) {
        if let Some(desk) = &self.regions[region].documents {
            desk.table.change(change);
        }
    }

    /// Services of a region ask for something at once, at any of its agents or on its bus.
    pub fn ask_documents(&mut self) {
        if self.profile.documents.is_none() || !self.asking.hits(0.4) {
            return;
        }
        let up: Vec<usize> = (0..self.nodes.len()).filter(|index| self.nodes[*index].is_up()).collect();
        let Some(home) = self.asking.pick(&up).map(|index| self.nodes[*index].home) else { return };
        let agents: Vec<usize> = up.into_iter().filter(|index| self.nodes[*index].home == home).collect();
        for _ in 0..self.asking.between(1, 4) {
            let Some(index) = self.asking.pick(&agents).copied() else { return };
            let wish = cluster::lock(&self.requests).draw(&mut self.asking, PUBLISHED);
            match wish {
                Wish::Ask(number) => self.ask(index, number),
                Wish::Delete(id) if self.asking.hits(PUBLISHED) => {
                    let detail = format!("{{\"type\":\"{TYPE}\",\"id\":\"{id}\",\"delete\":true}}");
                    self.operate_on_documents(self.nodes[index].home, detail);
                }
                Wish::Delete(id) => self.delete_document(index, id),
            }
        }
    }

    fn client(&self, index: usize) -> Option<Client> {
        let running = self.nodes[index].running.as_ref()?;
        let (wire, caller) = (self.wire.clone(), running.caller.clone());
        Some(Client {
            region: caller.home,
            documents: Arc::new(running.documents.clone()?),
            requests: self.requests.clone(),
            trace: self.trace.clone(),
            is_heard: Box::new(move || wire.is_alive(&caller)),
        })
    }

    /// A service makes a request, or makes it again, in the way that it always takes.
    pub fn ask(&mut self, index: usize, number: usize) {
        let published = cluster::lock(&self.requests).get(number).filter(|asked| asked.published).map(Asked::detail);
        match (published, self.client(index)) {
            (Some(detail), _) => {
                let told = self.asking.hits(0.9);
                let is_taken = self.operate_on_documents(self.nodes[index].home, detail);
                if told && is_taken {
                    cluster::lock(&self.requests).taken(number);
                }
            }
            (None, Some(client)) => drop(tokio::spawn(client.ask(number))),
            (None, None) => {}
        }
    }

    pub fn delete_document(&self, index: usize, id: &'static str) {
        if let Some(client) = self.client(index) {
            tokio::spawn(client.delete(id));
        }
    }

    /// A service publishes what it wants done to a document; whether the bus took it.
    fn operate_on_documents(&self, region: usize, detail: String) -> bool {
        let (source, detail_type) = (SOURCE.to_owned(), STATE_OPERATION.to_owned());
        let entry = Entry { source, detail_type, detail, ..Entry::default() };
        matches!(self.regions[region].bus.put(&entry), Put::Accepted(_))
    }

    /// A request that was never made before, with `more` operations; answers its number.
    pub fn request(&mut self, index: usize, id: &'static str, more: &str, is_keyed: bool) -> usize {
        let amount = requests::draw_amount(&mut self.asking);
        let number = cluster::lock(&self.requests).add(Asked::new(id, amount, more, is_keyed));
        self.ask(index, number);
        number
    }

    /// What the tables hold.
    async fn wholes(&self) -> BTreeMap<&'static str, Wholes> {
        let mut all = BTreeMap::new();
        for region in &self.regions {
            if let Some(desk) = &region.documents {
                all.insert(region.name, desk.wholes().await);
            }
        }
        all
    }

    fn shown(&self, wholes: &BTreeMap<&'static str, Wholes>) -> All {
        let schema = self.schemas.get(TYPE);
        let shown = |(id, document): (&&'static str, &Option<Document>)| {
            let view =
                document.as_ref().zip(schema).and_then(|(document, schema)| document.view(&requests::key(id), schema));
            (*id, Shown::of(view))
        };
        wholes.iter().map(|(region, wholes)| (*region, wholes.iter().map(shown).collect())).collect()
    }

    /// What must hold of documents at any time.
    pub async fn check_documents(&self) {
        let wholes = self.wholes().await;
        let mut violations = Vec::new();
        cluster::lock(&self.requests).check_all(&self.shown(&wholes), &mut violations);
        for region in &self.regions {
            if let (Some(desk), Some(wholes)) = (&region.documents, wholes.get(region.name))
                && let Some(wrong) = desk.wrong_sums(wholes).await
            {
                violations.push(Violation::new(Invariant::Sums, format!("{}: {wrong}", region.name)));
            }
        }
        lock(&self.oracle).violations.extend(violations);
    }

    /// What of documents is not as it must be once everything healed.
    pub async fn open_documents(&self, open: &mut Vec<Violation>) {
        let shown = self.shown(&self.wholes().await);
        cluster::lock(&self.requests).check_equal(&shown, open);
    }

    /// Waits until all regions have the same documents; says so if they never do.
    pub async fn settle_documents(&self) {
        let started = Instant::now();
        loop {
            let mut open = Vec::new();
            self.open_documents(&mut open).await;
            if open.is_empty() || started.elapsed() > CONVERGES_WITHIN {
                lock(&self.oracle).violations.extend(open);
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// What must hold at the end, when all regions have the same documents.
    pub async fn check_documents_end(&self) {
        // Agents may show sums that they read a moment ago.
        sleep(Duration::from_secs(2)).await;
        self.check_documents().await;
        let wholes = self.wholes().await;
        let shown = self.shown(&wholes);
        let mut open = Vec::new();
        for (region, wholes) in &wholes {
            let told = lock(&self.oracle).conflicts_told.get(region).cloned().unwrap_or_default();
            requests::check_told(region, wholes, &told, &mut open);
        }
        let mut totals = Vec::new();
        for node in &self.nodes {
            let Some(documents) = node.running.as_ref().and_then(|running| running.documents.as_ref()) else {
                continue;
            };
            let said = requests::shown(documents).await;
            if said.as_ref() != shown.get(self.regions[node.home].name) {
                let what = format!("{} shows {said:?}, its table holds {shown:?}", node.name);
                open.push(Violation::new(Invariant::Delivered, what));
            }
            totals.push((&node.name, documents.total().await));
        }
        let there = wholes.values().next().into_iter().flatten();
        let there = there.filter(|(_, document)| document.as_ref().is_some_and(|document| !document.is_tombstone()));
        let there = there.count() as u64;
        for (name, total) in &totals {
            let first = totals.first().map(|(_, total)| total);
            if first != Some(total) || total.as_ref().map(|total| total.documents) != Ok(there) {
                let what = format!("{name} has {total:?}, and there are {there} documents; another has {first:?}");
                open.push(Violation::new(Invariant::Sums, what));
            }
        }
        lock(&self.oracle).violations.extend(open);
    }

    /// The agents of a region come to know that it was evacuated, or that it is back.
    pub fn decide(&self, region: usize, state: State) {
        if let Some(desk) = &self.regions[region].documents {
            *cluster::lock(&desk.decided) = decided(state);
        }
    }

    fn agents_of(&self, region: usize) -> impl Iterator<Item = &ManagedDocuments> {
        let nodes = self.nodes.iter().filter(move |node| node.home == region);
        nodes.filter_map(|node| node.running.as_ref().and_then(|running| running.documents.as_ref()))
    }

    /// The documents of the others do without a region.
    pub async fn leave_out(&self, by: usize, region: &str) {
        let (at, by_whom) = (Timestamp::ZERO, "a simulated operator".to_owned());
        let eviction = Eviction { term: 0, back: false, of: DECIDED, at, by: by_whom, reason: String::new() };
        let started = Instant::now();
        while started.elapsed() < CONVERGES_WITHIN {
            for documents in self.agents_of(by) {
                if documents.evict(region.to_owned(), eviction.clone()).await.is_ok() {
                    self.trace.note(&format!("{region} is evicted"));
                    return;
                }
            }
            sleep(Duration::from_secs(1)).await;
        }
        lock(&self.oracle).violate(Invariant::Quiet, format!("{region} cannot be evicted"));
    }

    /// All agents of a region serve its documents, and know this of evictions.
    pub async fn await_served(&self, region: usize, knows: impl Fn(&Standing) -> bool) {
        let started = Instant::now();
        loop {
            sleep(Duration::from_secs(1)).await;
            let mut is_served = true;
            for documents in self.agents_of(region) {
                let is_known = documents.standing().await.is_ok_and(|standing| knows(&standing));
                is_served &= is_known && requests::shown(documents).await.is_some();
            }
            if is_served {
                return;
            }
            if started.elapsed() > CONVERGES_WITHIN {
                let what = format!("{} does not serve its documents again", self.regions[region].name);
                return lock(&self.oracle).violate(Invariant::Quiet, what);
            }
        }
    }

    /// An evicted region knows that it was evacuated, and begins anew.
    pub async fn take_back(&self, region: usize) {
        self.decide(region, State::Evacuated);
        let name = self.regions[region].name;
        self.await_served(region, |standing| standing.0.contains_key(name)).await;
        self.decide(region, State::Active);
    }

    /// These requests and no others took effect on a document, in every region.
    pub async fn expect_members(&self, id: &str, expected: &[usize]) {
        let mut violations = Vec::new();
        let shown = self.shown(&self.wholes().await);
        requests::expect_members(&shown, id, expected, &mut violations);
        lock(&self.oracle).violations.extend(violations);
    }

    /// What the tables of these regions remember of documents that are deleted.
    pub async fn remembered(&self, regions: &[usize]) -> Vec<String> {
        let wholes = self.wholes().await.into_iter();
        wholes
            .filter(|(region, _)| regions.iter().any(|index| REGIONS[*index] == *region))
            .flat_map(|(region, wholes)| requests::remembered(region, wholes))
            .collect()
    }
}
