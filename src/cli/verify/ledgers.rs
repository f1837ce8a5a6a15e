//! What `verify` fetches of regions on managed services: their ledgers, single rows of them again, and dead letters.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use serde::Deserialize;
use serde_json::json;

use crate::{
    cli::{
        Context,
        http::{self, Call, Listener},
    },
    config::Backend,
    core::key::KeyHash,
    verify::{
        Report, Short, hex,
        journal::Acknowledged,
        ledger::{self, Again, Input, Ledger, Letters, Line},
        report::Unreachable,
    },
};

/// Keys of one question; agents take no more.
const ASKED_MAX: usize = 1_000;

/// Letters of one link that are looked at; a walk of an agent sees no more.
const LETTERS_MAX: usize = 10_000;

/// The regions with ledgers, as far as they have answered.
pub struct Ledgers<'a> {
    context: &'a Context,
    listeners: Vec<Listener>,
    /// Links between them that deliver.
    links: Vec<(String, String)>,
    starts: BTreeMap<String, u64>,
    ledgers: BTreeMap<String, Ledger>,
    letters: Letters,
    journal: Option<Vec<Acknowledged>>,
}

#[derive(Deserialize)]
struct Listed {
    letters: Vec<Letter>,
}

#[derive(Deserialize)]
struct Letter {
    key: String,
    source: String,
    detail_type: String,
}

impl<'a> Ledgers<'a> {
    /// `links` are all that deliver; only those between regions on AWS are looked at.
    pub fn new(context: &'a Context, links: &[(String, String)], journal: Option<&[Acknowledged]>) -> Ledgers<'a> {
        let has = |name: &String| context.config.region(name).is_some_and(|region| region.backend == Backend::Aws);
        let regions = context.config.regions.iter().filter(|region| region.backend == Backend::Aws);
        let listeners: Vec<Listener> = regions.map(|region| context.admin_of(region)).collect();
        Ledgers {
            context,
            links: links.iter().filter(|(from, to)| has(from) && has(to)).cloned().collect(),
            starts: BTreeMap::new(),
            ledgers: BTreeMap::new(),
            letters: Letters::new(),
            journal: journal
                .filter(|_| !listeners.is_empty())
                .map(|journal| journal.iter().filter(|event| has(&event.region)).cloned().collect()),
            listeners,
        }
    }

    /// Writes down each region's time, once, before any row is fetched.
    pub async fn fix_starts(&mut self) -> Vec<Unreachable> {
        let this = &*self;
        let ask = this.listeners.iter().filter(|listener| !this.starts.contains_key(&listener.region));
        let ask = ask.map(|listener| async move { (listener.region.clone(), this.first_line(listener).await) });
        let answers = join_all(ask).await;
        let mut unreachable = Vec::new();
        for (region, first) in answers {
            match first {
                Ok(ledger) => drop(self.starts.insert(region, ledger.now_millis)),
                Err(error) => unreachable.push(told(&region, &error)),
            }
        }
        unreachable
    }

    async fn first_line(&self, listener: &Listener) -> Result<Ledger, http::Error> {
        let mut lines = self.context.http.lines(listener, Call::get("/v1/keys?rows=false")).await?;
        let header = lines.next().await?.ok_or_else(|| lines.cut())?;
        Ledger::begin(&header).map_err(|why| lines.garbage(why))
    }

    /// Fetches each ledger once; later, only these keys again.
    pub async fn refresh(&mut self, again: &Again) -> Vec<Unreachable> {
        let listeners: Vec<Listener> =
            self.listeners.iter().filter(|listener| self.starts.contains_key(&listener.region)).cloned().collect();
        let mut before = std::mem::take(&mut self.ledgers);
        let nothing = BTreeSet::new();
        let fetches = listeners.iter().map(|listener| {
            let (ledger, keys) = (before.remove(&listener.region), again.get(&listener.region).unwrap_or(&nothing));
            let this = &*self;
            async move {
                let ledger = match ledger {
                    Some(ledger) => this.ask_again(listener, ledger, keys).await,
                    None => this.fetch(listener).await,
                };
                (listener, ledger)
            }
        });
        let fetched = join_all(fetches).await;
        let mut unreachable = Vec::new();
        for (listener, ledger) in fetched {
            match ledger {
                Ok(ledger) => drop(self.ledgers.insert(listener.region.clone(), ledger)),
                Err(error) => unreachable.push(told(&listener.region, &error)),
            }
        }
        unreachable
    }

    async fn fetch(&self, listener: &Listener) -> Result<Ledger, http::Error> {
        let mut lines = self.context.http.lines(listener, Call::get("/v1/keys")).await?;
        let header = lines.next().await?.ok_or_else(|| lines.cut())?;
        let mut ledger = Ledger::begin(&header).map_err(|why| lines.garbage(why))?;
        while let Some(line) = lines.next().await? {
            if ledger.add(&line).map_err(|why| lines.garbage(why))? == Line::End {
                ledger.sort();
                return Ok(ledger);
            }
        }
        Err(lines.cut())
    }

    async fn ask_again(
        &self,
        listener: &Listener,
        mut ledger: Ledger,
        keys: &BTreeSet<Short>,
    ) -> Result<Ledger, http::Error> {
        let mut lines = self.context.http.lines(listener, Call::get("/v1/keys?rows=false")).await?;
        let header = lines.next().await?.ok_or_else(|| lines.cut())?;
        ledger.renew(&header).map_err(|why| lines.garbage(why))?;
        let keys: Vec<String> = keys.iter().map(|key| hex(key)).collect();
        for some in keys.chunks(ASKED_MAX) {
            let call = Call::post("/v1/keys", &json!({ "keys": some }));
            let answer: Box<serde_json::value::RawValue> = self.context.http.json(listener, call).await?;
            ledger.learn(answer.get().as_bytes()).map_err(|why| lines.garbage(why))?;
        }
        Ok(ledger)
    }

    /// Compares what was fetched; which keys are worth another look.
    pub fn compare(&self, report: &mut Report) -> Again {
        ledger::compare(
            report,
            Input {
                links: &self.links,
                ledgers: &self.ledgers,
                starts: &self.starts,
                letters: &self.letters,
                journal: self.journal.as_deref(),
            },
        )
    }

    /// Looks at the dead letters of links that have some, or whose queue does not say; of all links where keys are missing.
    pub async fn read_letters(&mut self, something_is_missing: bool) -> Vec<Unreachable> {
        let mut unreachable = Vec::new();
        let mut all = Letters::new();
        for (from, to) in &self.links {
            let view = self.ledgers.get(from).and_then(|ledger| ledger.links.get(to));
            let has_some = view.is_some_and(|view| view.dead_letters != Some(0));
            let listener = self.listeners.iter().find(|listener| listener.region == *from);
            let Some(listener) = listener.filter(|_| has_some || something_is_missing && view.is_some()) else {
                continue;
            };
            let peer = http::query(&[("peer", Some(to.clone())), ("limit", Some(LETTERS_MAX.to_string()))]);
            // An agent walks through the whole queue first.
            let call = Call::get(format!("/v1/dlq{peer}")).timeout(http::CALL_TIMEOUT * 3);
            match self.context.http.json::<Listed>(listener, call).await {
                Ok(listed) => {
                    let by_hash =
                        |letter: Letter| (KeyHash::of(&letter.source, &letter.detail_type, &letter.key).0, letter.key);
                    let letters: BTreeMap<Short, String> = listed.letters.into_iter().map(by_hash).collect();
                    all.insert((from.clone(), to.clone()), letters);
                }
                Err(error) => unreachable.push(told(from, &error)),
            }
        }
        self.letters = all;
        unreachable
    }

    /// Fills in what the ledgers and the journal know of those that the report names.
    pub async fn name(&self, report: &mut Report) {
        ledger::name(report, self.journal.as_deref().unwrap_or_default(), &self.letters);
        let mut wanted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for finding in report.of_ledgers() {
            wanted.entry(finding.from.clone()).or_default().insert(finding.key_hash.clone());
        }
        #[derive(Deserialize)]
        struct Found {
            rows: Vec<Row>,
        }
        #[derive(Deserialize)]
        struct Row {
            k: String,
            i: Option<String>,
        }
        let mut ids: BTreeMap<(String, String), String> = BTreeMap::new();
        for listener in &self.listeners {
            let Some(keys) = wanted.get(&listener.region) else { continue };
            let keys: Vec<&String> = keys.iter().take(ASKED_MAX).collect();
            // Names are a help; without them the hashes stay.
            let found =
                self.context.http.json::<Found>(listener, Call::post("/v1/keys", &json!({ "keys": keys }))).await;
            let rows = found.map(|found| found.rows).unwrap_or_default();
            ids.extend(rows.into_iter().filter_map(|row| Some(((listener.region.clone(), row.k), row.i?))));
        }
        for finding in report.of_ledgers() {
            finding.id = ids.get(&(finding.from.clone(), finding.key_hash.clone())).cloned();
        }
    }
}

fn told(region: &str, error: &http::Error) -> Unreachable {
    Unreachable { region: region.to_owned(), error: error.to_string() }
}
