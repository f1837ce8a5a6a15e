//! What services ask of documents in a simulated world, and what must be true of the documents because of it.
//!
//! Every request adds a member of its own to a set and a number of its own to a counter. So whatever came about of a
//! document, its members say which requests took effect, and its count must be their sum, exactly.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use serde_json::Value;

use super::{chance::Chance, cluster::lock, trace::SharedTrace};
use crate::{
    agent::documents::events,
    config::Config,
    core::{
        invariant::{Invariant, Violation},
        json,
        state::{Key, Schemas, document::Document, op, view::View},
    },
    ports::documents::{Answer, Applied, Documents, Error, Question},
};

/// The document type, as the topology file has it.
pub const TYPES: &str = "[state.doc]\nmembers = \"set\"\ncount = \"counter\"\nname = \"register\"\nnick = \"multi-value\"\n\
                         best = \"max\"\nflag = \"flag\"\nparts = { map = \"counter\" }\n";

pub const TYPE: &str = "doc";

/// Documents that are never deleted, and documents that are.
pub const IDS: [&str; 5] = ["kept0", "kept1", "kept2", "mortal0", "mortal1"];

fn is_mortal(id: &str) -> bool {
    id.starts_with("mortal")
}

/// The schema of [`TYPES`].
///
/// # Errors
/// It is none.
pub fn schemas() -> Result<Schemas, String> {
    let text = format!("{TYPES}[[region]]\nname = \"a\"\n");
    let config = Config::parse(&text, "simulated.toml", &|_| None).map_err(|error| error.to_string())?;
    Ok(config.schemas())
}

pub fn key(id: &str) -> Key {
    Key::new(TYPE, id)
}

/// A request of a service.
#[derive(Clone, Debug)]
pub struct Asked {
    id: &'static str,
    amount: i64,
    ops: String,
    key: Option<String>,
    /// It is an event on a bus.
    pub published: bool,
    acknowledged: bool,
    /// A restore took it when no other region had it.
    adrift: bool,
}

impl Asked {
    /// With operations that add `amount` and do `more`. Its key, if it has one, follows from its number.
    pub fn new(id: &'static str, amount: i64, more: &str, is_keyed: bool) -> Asked {
        let ops = format!(r#"{{"field":"count","op":"increment","by":{amount}}}{more}"#);
        let key = is_keyed.then(String::new);
        Asked { id, amount, ops, key, published: false, acknowledged: false, adrift: false }
    }

    fn draw(chance: &mut Chance, id: &'static str) -> Asked {
        let amount = draw_amount(chance);
        let other = chance.below(100);
        let more = match chance.below(6) {
            0 => format!(r#",{{"field":"name","op":"set","value":"n{other}"}}"#),
            1 => format!(r#",{{"field":"nick","op":"set","value":{other}}}"#),
            2 => format!(r#",{{"field":"best","op":"max","value":{other}}}"#),
            3 => r#",{"field":"flag","op":"enable"}"#.to_owned(),
            4 => format!(r#",{{"field":"parts","key":"p{}","op":"increment","by":{other}}}"#, other % 3),
            _ => r#",{"field":"flag","op":"disable"}"#.to_owned(),
        };
        Asked::new(id, amount, &more, chance.hits(0.6))
    }

    /// The detail of the event that asks for it.
    pub fn detail(&self) -> String {
        let key = self.key.as_ref().map(|key| format!(",\"idempotencyKey\":{}", json::quote(key))).unwrap_or_default();
        let ops = self.ops.trim_start_matches('{');
        format!("{{\"type\":\"{TYPE}\",\"id\":\"{}\"{key},{ops}", self.id)
    }
}

pub fn draw_amount(chance: &mut Chance) -> i64 {
    chance.between(1, 20) as i64 - 5
}

/// What a service wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Ask(usize),
    Delete(&'static str),
}

/// What services asked of documents, and were answered.
#[derive(Default)]
pub struct Requests {
    asked: Vec<Asked>,
    /// Members of a document that a region had when it acknowledged its delete.
    dead: BTreeMap<&'static str, BTreeSet<usize>>,
    acknowledged: u64,
    repeated: u64,
    deleted: u64,
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

/// What regions show of their documents, by region and id.
pub type All = BTreeMap<&'static str, BTreeMap<&'static str, Shown>>;

impl Shown {
    pub fn of(view: Option<View>) -> Shown {
        let Some(view) = view else { return Shown::default() };
        let value: Value = serde_json::from_str(&view.value).unwrap_or_default();
        let members = value["members"].as_array().into_iter().flatten().filter_map(Value::as_u64);
        Shown {
            members: members.map(|number| number as usize).collect(),
            count: value["count"].as_i64().unwrap_or_default(),
            value: view.value,
            conflicts: view.conflicts,
            version: view.version,
        }
    }
}

impl Requests {
    /// Acknowledged as new, as repeats, and deletes.
    pub fn outcome(&self) -> (u64, u64, u64) {
        (self.acknowledged, self.repeated, self.deleted)
    }

    pub fn get(&self, number: usize) -> Option<&Asked> {
        self.asked.get(number)
    }

    /// A new request, which names itself.
    pub fn add(&mut self, mut asked: Asked) -> usize {
        let number = self.asked.len();
        asked.ops = format!(r#"{{"ops":[{{"field":"members","op":"add","value":{number}}},{}]}}"#, asked.ops);
        asked.key = asked.key.map(|_| format!("request {number}"));
        self.asked.push(asked);
        number
    }

    /// What a service wants next: something new, or a request again that it had no answer to. `published`: how many of the
    /// new ones are events.
    pub fn draw(&mut self, chance: &mut Chance, published: f64) -> Wish {
        let id = IDS[chance.below(IDS.len() as u64) as usize];
        if is_mortal(id) && chance.hits(0.2) {
            return Wish::Delete(id);
        }
        let back = 1 + chance.below(8) as usize;
        let (again, mut new) = (chance.hits(0.3), Asked::draw(chance, id));
        new.published = published > 0.0 && chance.hits(published);
        let before = self.asked.len().checked_sub(back).filter(|_| again);
        // Without an answer a service tries again under the same key, maybe in another region.
        let number = before.filter(|number| self.asked[*number].key.is_some()).unwrap_or_else(|| self.add(new));
        Wish::Ask(number)
    }

    pub fn answered(&mut self, number: usize, answer: &Result<Applied, Error>) {
        match answer {
            Ok(Applied::Duplicate) => self.repeated += 1,
            Ok(_) => self.acknowledged += 1,
            Err(_) => return,
        }
        if let Some(asked) = self.asked.get_mut(number) {
            asked.acknowledged = true;
        }
    }

    /// The bus has it and told so.
    pub fn taken(&mut self, number: usize) {
        self.answered(number, &Ok(Applied::Done));
    }

    /// A restore took what no region has now.
    pub fn set_adrift(&mut self, all: &All) {
        let held: BTreeSet<usize> =
            all.values().flat_map(BTreeMap::values).flat_map(|shown| shown.members.iter().copied()).collect();
        self.losses += 1;
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

    /// What must hold at any time.
    pub fn check_all(&self, all: &All, violations: &mut Vec<Violation>) {
        for (region, documents) in all {
            documents.iter().for_each(|(id, shown)| self.check(region, id, shown, violations));
        }
    }

    /// What is not as it must be once everything healed.
    pub fn check_equal(&self, all: &All, open: &mut Vec<Violation>) {
        for id in IDS {
            let mut by_region = all.iter().filter_map(|(region, all)| Some((*region, all.get(id)?)));
            let Some((first, reference)) = by_region.next() else { return };
            for (region, shown) in by_region {
                if shown != reference {
                    let what = format!("{TYPE}/{id} is {reference:?} in {first} and {shown:?} in {region}");
                    open.push(Violation::new(Invariant::Delivered, what));
                }
            }
        }
        for (region, all) in all {
            all.iter().for_each(|(id, shown)| self.check_end(region, id, shown, open));
        }
    }
}

/// These requests and no others took effect on a document, in every region.
pub fn expect_members(all: &All, id: &str, expected: &[usize], violations: &mut Vec<Violation>) {
    let expected: BTreeSet<usize> = expected.iter().copied().collect();
    for (region, all) in all {
        let members = all.get(id).map(|shown| shown.members.clone()).unwrap_or_default();
        let what = || format!("{region}: {TYPE}/{id} has {members:?}, not {expected:?}");
        if !members.is_superset(&expected) {
            violations.push(Violation::new(Invariant::Durable, what()));
        } else if members != expected {
            violations.push(Violation::new(Invariant::Resurrected, what()));
        }
    }
}

/// A field of a document shows this, in every region.
pub fn expect_field(all: &All, id: &str, field: &str, expected: &str, violations: &mut Vec<Violation>) {
    for (region, all) in all {
        let shown = all.get(id).map(|shown| shown.value.as_str()).unwrap_or_default();
        let value: Value = serde_json::from_str(shown).unwrap_or_default();
        if value[field] != expected {
            let what = format!("{region}: {field} of {TYPE}/{id} is {}, not {expected}", value[field]);
            violations.push(Violation::new(Invariant::Durable, what));
        }
    }
}

/// What a region shows of a document.
async fn shown_of(documents: &dyn Documents, id: &str) -> Option<Shown> {
    documents.get(key(id)).await.ok().map(Shown::of)
}

/// What a region shows of all documents, by id.
pub async fn shown(documents: &dyn Documents) -> Option<BTreeMap<&'static str, Shown>> {
    let mut all = BTreeMap::new();
    for id in IDS {
        all.insert(id, shown_of(documents, id).await?);
    }
    Some(all)
}

/// Asks for all documents with all that a region knows of them.
pub fn wholes_question() -> Question {
    Question::Wholes(IDS.map(key).to_vec())
}

/// What the answer to [`wholes_question`] says, by id; `None` where the region knows nothing of it.
pub fn wholes(answer: Answer) -> BTreeMap<&'static str, Option<Document>> {
    let Answer::Wholes(wholes) = answer else { return BTreeMap::new() };
    let decode = |whole: Option<Vec<u8>>| whole.and_then(|bytes| Document::decode(&bytes).ok());
    IDS.into_iter().zip(wholes.into_iter().map(decode)).collect()
}

/// What a region has seen of documents that are deleted now.
pub fn remembered(region: &str, wholes: BTreeMap<&'static str, Option<Document>>) -> Vec<String> {
    if wholes.is_empty() {
        return vec![format!("{region} does not answer")];
    }
    let deleted = wholes.into_iter().filter_map(|(id, document)| Some((id, document.filter(Document::is_tombstone)?)));
    deleted.map(|(id, document)| format!("{id} in {region}: {:?}", document.clock())).collect()
}

/// Writes that stand side by side in a region and were not told there.
pub fn check_told(
    region: &str,
    wholes: &BTreeMap<&'static str, Option<Document>>,
    told: &BTreeSet<String>,
    open: &mut Vec<Violation>,
) {
    for (id, document) in wholes {
        for conflict in document.iter().flat_map(Document::open_conflicts) {
            let name = events::of_conflict(&key(id), &conflict).key.unwrap_or_default();
            if !told.contains(&name) {
                let what = format!("{region}: {TYPE}/{id}: nobody was told {conflict:?}");
                open.push(Violation::new(Invariant::Told, what));
            }
        }
    }
}

/// A service that asks one agent.
pub struct Client {
    pub region: &'static str,
    pub documents: Arc<dyn Documents>,
    pub requests: Arc<Mutex<Requests>>,
    pub trace: SharedTrace,
    /// Whether the agent that it asks can answer still.
    pub is_heard: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Client {
    /// Makes a request, or makes it again.
    pub async fn ask(self, number: usize) {
        let Some(asked) = lock(&self.requests).get(number).cloned() else { return };
        let Some(schema) = self.documents.schemas().get(TYPE) else { return };
        let Ok(ops) = op::parse(schema, &asked.ops) else { return };
        let answer = self.documents.apply(key(asked.id), ops, asked.key).await;
        if !(self.is_heard)() {
            return;
        }
        self.trace.note(&format!("{} answers request {number} to {}: {answer:?}", self.region, asked.id));
        lock(&self.requests).answered(number, &answer);
    }

    pub async fn delete(self, id: &'static str) {
        let seen = shown_of(&*self.documents, id).await.unwrap_or_default().members;
        let losses = lock(&self.requests).losses;
        let answer = self.documents.delete(key(id), None).await;
        if !(self.is_heard)() {
            return;
        }
        self.trace.note(&format!("{} deletes {id} with {seen:?}: {answer:?}", self.region));
        let mut requests = lock(&self.requests);
        if answer.is_ok() && requests.losses == losses {
            requests.deleted += 1;
            requests.dead.entry(id).or_default().extend(seen);
        }
    }
}
