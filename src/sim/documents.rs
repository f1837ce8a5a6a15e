//! Documents of a simulated cluster: a peer's over the network, what services do to them, and what must be true of them.
//!
//! Every request adds a member of its own to a set and a number of its own to a counter. So whatever came about of a
//! document, its members say which requests took effect, and its count must be their sum, exactly.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{
    cluster::{CONVERGES_WITHIN, Cluster, lock},
    net::{SimPeer, Site},
    node::Running,
};
use crate::{
    agent::documents::{LocalDocuments, events},
    core::{
        event::STATE_CONFLICT,
        invariant::{Invariant, Violation},
        link::Failure,
        state::{Key, document::Document, op},
    },
    ports::{
        documents::{self, Answer, Applied, Documents, Question, RemoteDocuments},
        hub::Hub,
        inbox::Refusal,
    },
};

/// The document type, as the topology file has it.
pub const TYPES: &str = "[state.doc]\nmembers = \"set\"\ncount = \"counter\"\nname = \"register\"\nnick = \"multi-value\"\n\
                         best = \"max\"\nflag = \"flag\"\nparts = { map = \"counter\" }\n";

const TYPE: &str = "doc";

/// As a file names it that says nothing.
/// Documents that changed are on disk after this.
const FLUSHED_WITHIN: Duration = Duration::from_millis(1_500);

pub(super) const CLUSTER: &str = "hubweave";

/// Documents that are never deleted, and documents that are.
const IDS: [&str; 5] = ["kept0", "kept1", "kept2", "mortal0", "mortal1"];

fn is_mortal(id: &str) -> bool {
    id.starts_with("mortal")
}

impl RemoteDocuments for SimPeer {
    fn ask(&self, question: Question) -> BoxFuture<'_, Result<Answer, Failure>> {
        // Over the wire format, as in production.
        let bytes = documents::encode(&question);
        let asker = self.home.clone();
        let work = move |site: Site| {
            let (bytes, asker) = (bytes.clone(), asker.clone());
            async move {
                let question = documents::decode(&bytes).map_err(Refusal::Malformed)?;
                let admission = site.inbox.admit(CLUSTER, &asker).await?;
                if admission.answer_lost {
                    return Err(Refusal::CutOff);
                }
                let answer = match &site.documents {
                    Some(documents) => documents.answer(question).await,
                    None => return Err(Refusal::Malformed("there are no documents".to_owned())),
                };
                answer.map(|answer| documents::encode(&answer)).map_err(|error| match error {
                    documents::Error::Unavailable { why, retry_after } => Refusal::Unavailable { why, retry_after },
                    other => Refusal::Malformed(other.to_string()),
                })
            }
            .boxed()
        };
        async move {
            let bytes = self.bounded(Arc::new(work)).await?;
            documents::decode(&bytes).map_err(Failure::Unanswered)
        }
        .boxed()
    }
}

/// A request of a service.
#[derive(Clone, Debug)]
struct Asked {
    id: &'static str,
    amount: i64,
    ops: String,
    key: Option<String>,
    acknowledged: bool,
    /// A restore took it when no other region had it.
    adrift: bool,
}

/// What services asked of documents, and were answered.
#[derive(Default)]
pub struct Requests {
    asked: Vec<Asked>,
    /// Members of a document that a region had when it acknowledged its delete.
    dead: BTreeMap<&'static str, BTreeSet<usize>>,
    pub acknowledged: u64,
    pub repeated: u64,
    pub deleted: u64,
    losses: u64,
}

/// What a region shows of a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    value: String,
    conflicts: String,
    version: String,
    members: BTreeSet<usize>,
    count: i64,
}

impl Requests {
    /// Acknowledged as new, as repeats, and deletes.
    pub fn outcome(&self) -> (u64, u64, u64) {
        (self.acknowledged, self.repeated, self.deleted)
    }

    /// A new request, which names itself.
    fn add(&mut self, mut asked: Asked) -> usize {
        let number = self.asked.len();
        asked.ops = format!(r#"{{"ops":[{{"field":"members","op":"add","value":{number}}},{}]}}"#, asked.ops);
        asked.key = asked.key.map(|_| format!("request {number}"));
        self.asked.push(asked);
        number
    }

    /// A restore took what no region has now.
    fn set_adrift(&mut self, held: &BTreeSet<usize>) {
        for (number, asked) in self.asked.iter_mut().enumerate() {
            asked.adrift |= !held.contains(&number);
        }
        // The deletes may be gone as well.
        self.dead.clear();
    }

    /// What must hold of a document at any time.
    fn check(&self, region: &str, id: &str, shown: &Shown, violations: &mut Vec<Violation>) {
        let of = |number: &usize| self.asked.get(*number).filter(|asked| asked.id == id);
        if let Some(number) = shown.members.iter().find(|number| of(number).is_none()) {
            let what = format!("request {number} took effect on {id} in {region}; nobody asked it");
            violations.push(Violation::new(Invariant::Invented, what));
        }
        let sum: i64 = shown.members.iter().filter_map(of).map(|asked| asked.amount).sum();
        if shown.count != sum {
            let what =
                format!("{region}: {TYPE}/{id} counts {}, its requests {:?} make {sum}", shown.count, shown.members);
            violations.push(Violation::new(Invariant::OneEffect, what));
        }
    }

    /// What must hold once everything is equal.
    fn check_end(&self, region: &str, id: &'static str, shown: &Shown, violations: &mut Vec<Violation>) {
        self.check(region, id, shown, violations);
        if let Some(dead) = self.dead.get(id).and_then(|dead| dead.iter().find(|number| shown.members.contains(number)))
        {
            let what = format!("{region}: request {dead} of {TYPE}/{id} was deleted and came back");
            violations.push(Violation::new(Invariant::Resurrected, what));
        }
        for (number, asked) in self.asked.iter().enumerate().filter(|(_, asked)| asked.id == id && !is_mortal(id)) {
            if asked.acknowledged && !asked.adrift && !shown.members.contains(&number) {
                let what = format!("{region}: request {number} of {TYPE}/{id} was acknowledged and is not there");
                violations.push(Violation::new(Invariant::Durable, what));
            }
        }
    }
}

/// What a region shows of all documents, by id.
pub async fn shown(documents: &LocalDocuments) -> Option<BTreeMap<&'static str, Shown>> {
    let mut all = BTreeMap::new();
    for id in IDS {
        let view = documents.get(Key::new(TYPE, id)).await.ok()?;
        let shown = view.map(|view| {
            let value: Value = serde_json::from_str(&view.value).unwrap_or_default();
            let members = value["members"].as_array().into_iter().flatten().filter_map(Value::as_u64);
            Shown {
                members: members.map(|number| number as usize).collect(),
                count: value["count"].as_i64().unwrap_or_default(),
                value: view.value,
                conflicts: view.conflicts,
                version: view.version,
            }
        });
        all.insert(id, shown.unwrap_or_default());
    }
    Some(all)
}

impl Cluster {
    /// Services change documents.
    pub fn change_documents(&mut self) {
        let index = self.chance.below(3) as usize;
        for _ in 0..self.chance.between(1, 4) {
            let id = IDS[self.chance.below(IDS.len() as u64) as usize];
            if is_mortal(id) && self.chance.hits(0.2) {
                self.delete_document(index, id);
                continue;
            }
            let back = 1 + self.chance.below(8) as usize;
            let (again, new) = (self.chance.hits(0.3), self.invent(id));
            let number = {
                let mut requests = lock(&self.requests);
                let before = requests.asked.len().checked_sub(back).filter(|_| again);
                // Without an answer a service tries again under the same key, maybe in another region.
                before.filter(|number| requests.asked[*number].key.is_some()).unwrap_or_else(|| requests.add(new))
            };
            self.ask(index, number);
        }
    }

    fn invent(&mut self, id: &'static str) -> Asked {
        let amount = self.chance.between(1, 20) as i64 - 5;
        let other = self.chance.below(100);
        let more = match self.chance.below(6) {
            0 => format!(r#",{{"field":"name","op":"set","value":"n{other}"}}"#),
            1 => format!(r#",{{"field":"nick","op":"set","value":{other}}}"#),
            2 => format!(r#",{{"field":"best","op":"max","value":{other}}}"#),
            3 => r#",{"field":"flag","op":"enable"}"#.to_owned(),
            4 => format!(r#",{{"field":"parts","key":"p{}","op":"increment","by":{other}}}"#, other % 3),
            _ => r#",{"field":"flag","op":"disable"}"#.to_owned(),
        };
        let ops = format!(r#"{{"field":"count","op":"increment","by":{amount}}}{more}"#);
        let key = self.chance.hits(0.6).then(String::new);
        Asked { id, amount, ops, key, acknowledged: false, adrift: false }
    }

    /// A request that was never made before, with `more` operations; answers its number.
    pub fn request(&mut self, index: usize, id: &'static str, more: &str, is_keyed: bool) -> usize {
        let amount = self.chance.between(1, 20) as i64 - 5;
        let ops = format!(r#"{{"field":"count","op":"increment","by":{amount}}}{more}"#);
        let key = is_keyed.then(String::new);
        let number = lock(&self.requests).add(Asked { id, amount, ops, key, acknowledged: false, adrift: false });
        self.ask(index, number);
        number
    }

    /// One of the lives that may answer a service.
    fn one_of(&mut self, index: usize) -> Option<(&'static str, u64, LocalDocuments)> {
        let node = &self.nodes[index];
        let lives: Vec<&Running> = node.running.iter().chain(&node.ghost).collect();
        let running = *self.chance.pick(&lives)?;
        Some((node.name, running.life, running.agent.documents.clone()?))
    }

    /// A service makes a request, or makes it again.
    pub fn ask(&mut self, index: usize, number: usize) {
        let Some((region, life, documents)) = self.one_of(index) else { return };
        let (net, requests, trace) = (self.net.clone(), self.requests.clone(), self.trace.clone());
        tokio::spawn(async move {
            let Asked { id, ops, key, .. } = lock(&requests).asked[number].clone();
            let Some(schema) = documents.schemas().get(TYPE) else { return };
            let Ok(ops) = op::parse(schema, &ops) else { return };
            let answer = documents.apply(Key::new(TYPE, id), ops, key).await;
            if !net.is_alive(region, life) {
                return;
            }
            trace.note(&format!("{region} answers request {number} to {id}: {answer:?}"));
            let mut requests = lock(&requests);
            match answer {
                Ok(Applied::Duplicate) => requests.repeated += 1,
                Ok(_) => requests.acknowledged += 1,
                Err(_) => return,
            }
            requests.asked[number].acknowledged = true;
        });
    }

    pub fn delete_document(&mut self, index: usize, id: &'static str) {
        let Some((region, life, documents)) = self.one_of(index) else { return };
        let (net, requests, trace) = (self.net.clone(), self.requests.clone(), self.trace.clone());
        tokio::spawn(async move {
            let seen = shown(&documents).await.and_then(|mut all| all.remove(id)).unwrap_or_default().members;
            let lost = lock(&requests).losses;
            let answer = documents.delete(Key::new(TYPE, id), None).await;
            if !net.is_alive(region, life) {
                return;
            }
            trace.note(&format!("{region} deletes {id} with {seen:?}: {answer:?}"));
            let mut requests = lock(&requests);
            if answer.is_ok() && requests.losses == lost {
                requests.deleted += 1;
                requests.dead.entry(id).or_default().extend(seen);
            }
        });
    }

    /// What the regions that are up show.
    async fn shown(&self) -> BTreeMap<&'static str, BTreeMap<&'static str, Shown>> {
        let mut all = BTreeMap::new();
        for node in &self.nodes {
            let documents = node.running.as_ref().and_then(|running| running.agent.documents.clone());
            if let Some(documents) = documents
                && let Some(shown) = shown(&documents).await
            {
                all.insert(node.name, shown);
            }
        }
        all
    }

    /// A restore took what no region shows now.
    pub async fn lose_requests(&mut self) {
        // What a region fetched from the one that lost it is on its disk only when it was flushed.
        sleep(FLUSHED_WITHIN).await;
        let all = self.shown().await;
        let held = all.values().flat_map(BTreeMap::values).flat_map(|shown| shown.members.iter().copied()).collect();
        let mut requests = lock(&self.requests);
        requests.losses += 1;
        requests.set_adrift(&held);
    }

    pub async fn check_documents(&mut self) {
        for (region, all) in self.shown().await {
            for (id, shown) in all {
                lock(&self.requests).check(region, id, &shown, &mut self.violations);
            }
        }
    }

    /// What is not as it must be once everything healed.
    pub async fn check_documents_equal(&self, open: &mut Vec<Violation>) {
        let all = self.shown().await;
        if all.len() < self.nodes.len() {
            open.push(Violation::new(Invariant::Quiet, "documents do not answer".to_owned()));
        }
        for id in IDS {
            let mut by_region = all.iter().map(|(region, all)| (*region, &all[id]));
            let Some((first, reference)) = by_region.next() else { return };
            for (region, shown) in by_region {
                if shown != reference {
                    let what = format!("{TYPE}/{id} is {reference:?} in {first} and {shown:?} in {region}");
                    open.push(Violation::new(Invariant::Delivered, what));
                }
            }
        }
        for (region, all) in &all {
            all.iter().for_each(|(id, shown)| lock(&self.requests).check_end(region, id, shown, open));
        }
    }

    /// Waits until all regions show the same documents; says so if they never do.
    pub async fn settle_documents(&mut self) {
        let started = Instant::now();
        loop {
            sleep(Duration::from_secs(1)).await;
            let mut open = Vec::new();
            self.check_documents_equal(&mut open).await;
            if open.is_empty() || started.elapsed() > CONVERGES_WITHIN {
                self.violations.extend(open);
                return;
            }
        }
    }

    /// These requests and no others took effect on a document, in every region.
    pub async fn expect_members(&mut self, id: &str, expected: &[usize]) {
        let expected: BTreeSet<usize> = expected.iter().copied().collect();
        for (region, all) in self.shown().await {
            let members = &all[id].members;
            let what = || format!("{region}: {TYPE}/{id} has {members:?}, not {expected:?}");
            if !members.is_superset(&expected) {
                self.violations.push(Violation::new(Invariant::Durable, what()));
            } else if *members != expected {
                self.violations.push(Violation::new(Invariant::Resurrected, what()));
            }
        }
    }

    /// A field of a document shows this, in every region.
    pub async fn expect_field(&mut self, id: &str, field: &str, expected: &str) {
        for (region, all) in self.shown().await {
            let value: Value = serde_json::from_str(&all[id].value).unwrap_or_default();
            if value[field] != expected {
                let what = format!("{region}: {field} of {TYPE}/{id} is {}, not {expected}", value[field]);
                self.violations.push(Violation::new(Invariant::Durable, what));
            }
        }
    }

    /// The documents of a region with all that it knows of them; `None` where it knows nothing.
    async fn wholes(&self, index: usize) -> BTreeMap<&'static str, Option<Document>> {
        let running = self.nodes[index].running.as_ref();
        let Some(documents) = running.and_then(|running| running.agent.documents.clone()) else {
            return BTreeMap::new();
        };
        let keys = IDS.map(|id| Key::new(TYPE, id)).to_vec();
        let Ok(Answer::Wholes(wholes)) = documents.answer(Question::Wholes(keys)).await else {
            return BTreeMap::new();
        };
        let decode = |whole: Option<Vec<u8>>| whole.and_then(|bytes| Document::decode(&bytes).ok());
        IDS.into_iter().zip(wholes.into_iter().map(decode)).collect()
    }

    /// What regions have seen of documents that are deleted now.
    pub async fn remembered(&self, regions: &[usize]) -> Vec<String> {
        let mut remembered = Vec::new();
        for (index, node) in self.nodes.iter().enumerate().filter(|(index, _)| regions.contains(index)) {
            let wholes = self.wholes(index).await;
            if wholes.is_empty() {
                remembered.push(format!("{} does not answer", node.name));
            }
            for (id, document) in wholes {
                if let Some(document) = document.filter(Document::is_tombstone) {
                    remembered.push(format!("{id} in {}: {:?}", node.name, document.clock()));
                }
            }
        }
        remembered
    }

    /// Keys of the conflicts that a region's hub has been told.
    pub async fn told(&self, index: usize) -> BTreeSet<String> {
        let mut told = BTreeSet::new();
        let Some(running) = &self.nodes[index].running else { return told };
        let mut reader = running.hub.reader(running.hub.base());
        while let Ok(records) = reader.next(1_000, 1 << 20).await {
            if records.is_empty() {
                break;
            }
            let conflicts = records.iter().filter(|record| record.detail_type() == STATE_CONFLICT);
            told.extend(conflicts.map(|record| record.key().to_owned()));
        }
        told
    }

    /// Writes that stand side by side in a region were told there.
    pub async fn check_told(&self, open: &mut Vec<Violation>) {
        for (index, node) in self.nodes.iter().enumerate() {
            // What its log lost or dropped was told once; the documents need not know.
            let is_whole = node.running.as_ref().is_some_and(|running| running.hub.base() == 0);
            if !is_whole || self.rotted.contains(&index) {
                continue;
            }
            let told = self.told(index).await;
            for (id, document) in self.wholes(index).await {
                for conflict in document.iter().flat_map(Document::open_conflicts) {
                    let key = events::of_conflict(&Key::new(TYPE, id), &conflict).key.unwrap_or_default();
                    if !told.contains(&key) {
                        let what = format!("{}: {TYPE}/{id}: nobody was told {conflict:?}", node.name);
                        open.push(Violation::new(Invariant::Told, what));
                    }
                }
            }
        }
    }
}
