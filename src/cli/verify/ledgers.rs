//! What `verify` fetches of regions on managed services: their ledgers, single rows of them again, and dead letters.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::future::join_all;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    cli::{
        Context,
        http::{self, Call, Listener},
    },
    config::Backend,
    core::{key::KeyHash, time::Timestamp},
    verify::{
        Report, Short, hex,
        journal::Acknowledged,
        ledger::{self, Again, Input, Ledger, Letter, Letters, Line, LinkLetters},
        report::Unreachable,
    },
};

/// Keys of one question; agents take no more.
const ASKED_MAX: usize = 1_000;

/// Keys of one region that are looked at again in one round; the rest comes when these were found.
const AGAIN_MAX: usize = 10_000;

/// Letters of one link that are looked at; a walk of an agent sees no more.
const LETTERS_MAX: usize = 10_000;

/// A ledger that somebody else is reading is waited for so long at most.
const BUSY_WAIT: Duration = Duration::from_secs(120);

/// A call that was begun before the wait was over gets so long at least.
const LATE_CALL_MIN: Duration = Duration::from_secs(10);

/// An agent walks through a whole queue first, one walk at a time.
const LETTERS_TIMEOUT: Duration = Duration::from_secs(90);

/// The regions with ledgers, as far as they have answered.
pub struct Ledgers<'a> {
    context: &'a Context,
    listeners: Vec<Listener>,
    /// Links between them that deliver.
    links: Vec<(String, String)>,
    starts: BTreeMap<String, u64>,
    /// How many local keys were on their way into the ledger at the last look, `None` where their queue does not answer;
    /// absent once all had come.
    entering: BTreeMap<String, Option<u64>>,
    ledgers: BTreeMap<String, Ledger>,
    letters: Letters,
    letters_failed: Vec<Unreachable>,
    journal: Option<Vec<Acknowledged>>,
}

#[derive(Deserialize)]
struct Listed {
    letters: Vec<ListedLetter>,
    total: u64,
    looked: u64,
    in_queue: u64,
    complete: bool,
}

#[derive(Deserialize)]
struct ListedLetter {
    id: String,
    key: String,
    source: String,
    detail_type: String,
    accepted: String,
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
            entering: BTreeMap::new(),
            ledgers: BTreeMap::new(),
            letters: Letters::new(),
            letters_failed: Vec::new(),
            journal: journal
                .filter(|_| !listeners.is_empty())
                .map(|journal| journal.iter().filter(|event| has(&event.region)).cloned().collect()),
            listeners,
        }
    }

    /// Writes down each region's time, once, before any row is fetched. Where local keys of that time are still on their
    /// way into the ledger, the start is moved to the moment when they have come: whatever was accepted before is then
    /// among the rows.
    pub async fn fix_starts(&mut self) -> Vec<Unreachable> {
        let this = &*self;
        let is_open = |region: &String| !this.starts.contains_key(region) || this.entering.contains_key(region);
        let open = this.listeners.iter();
        let open = open.filter(|one| is_open(&one.region) && !this.ledgers.contains_key(&one.region));
        let ask = open.map(|listener| async move { (listener.region.clone(), this.first_line(listener).await) });
        let answers = join_all(ask).await;
        let mut unreachable = Vec::new();
        for (region, first) in answers {
            let first = match first {
                Ok(first) => first,
                Err(error) => {
                    unreachable.push(told(&region, &error));
                    continue;
                }
            };
            let start = *self.starts.entry(region.clone()).or_insert(first.now_millis);
            match first.has_entered(start) {
                Some(true) => {
                    self.entering.remove(&region);
                    self.starts.insert(region, first.now_millis);
                }
                Some(false) | None => drop(self.entering.insert(region, first.keys_waiting)),
            }
        }
        unreachable
    }

    /// A region that answers has not entered its local keys yet, so that its rows would not tell all.
    pub fn are_entering(&self) -> bool {
        self.entering.keys().any(|region| !self.ledgers.contains_key(region))
    }

    async fn first_line(&self, listener: &Listener) -> Result<Ledger, http::Error> {
        let mut lines = self.context.http.lines(listener, Call::get("/v1/keys?rows=false")).await?;
        begin(&mut lines).await
    }

    /// Fetches each ledger once, however long that takes; later, only some of these keys again, until `deadline`.
    pub async fn refresh(&mut self, again: &Again, deadline: Option<Instant>) -> Vec<Unreachable> {
        let listeners: Vec<Listener> =
            self.listeners.iter().filter(|listener| self.starts.contains_key(&listener.region)).cloned().collect();
        let mut before = std::mem::take(&mut self.ledgers);
        let nothing = BTreeSet::new();
        let fetches = listeners.iter().map(|listener| {
            let (ledger, keys) = (before.remove(&listener.region), again.get(&listener.region).unwrap_or(&nothing));
            let this = &*self;
            async move {
                match ledger {
                    Some(mut ledger) => {
                        // What was read before still holds where this fails.
                        let asked = this.ask_again(listener, &mut ledger, keys, deadline).await;
                        (listener, Some(ledger), asked.err())
                    }
                    None => match this.fetch(listener).await {
                        Ok(ledger) => (listener, Some(ledger), None),
                        Err(error) => (listener, None, Some(error)),
                    },
                }
            }
        });
        let fetched = join_all(fetches).await;
        let mut unreachable = Vec::new();
        for (listener, ledger, error) in fetched {
            self.ledgers.extend(ledger.map(|ledger| (listener.region.clone(), ledger)));
            unreachable.extend(error.map(|error| told(&listener.region, &error)));
        }
        unreachable
    }

    async fn fetch(&self, listener: &Listener) -> Result<Ledger, http::Error> {
        let began = Instant::now();
        let mut lines = loop {
            match self.context.http.lines(listener, Call::get("/v1/keys")).await {
                Err(error) if began.elapsed() < BUSY_WAIT => match error.retry_after() {
                    Some(after) => tokio::time::sleep(after.min(LATE_CALL_MIN)).await,
                    None => return Err(error),
                },
                answer => break answer?,
            }
        };
        let mut ledger = begin(&mut lines).await?;
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
        ledger: &mut Ledger,
        keys: &BTreeSet<Short>,
        deadline: Option<Instant>,
    ) -> Result<(), http::Error> {
        let timeout = || time_left(deadline, http::CALL_TIMEOUT);
        let mut lines = self.context.http.lines(listener, Call::get("/v1/keys?rows=false").timeout(timeout())).await?;
        let header = lines.next().await?.ok_or_else(|| lines.cut())?;
        let renewed = Ledger::begin(&header).map_err(|why| lines.garbage(why))?;
        lines.answers_as(&renewed.region)?;
        ledger.renew(renewed);
        let keys: Vec<String> = keys.iter().take(AGAIN_MAX).map(|key| hex(key)).collect();
        for (number, some) in keys.chunks(ASKED_MAX).enumerate() {
            if number > 0 && deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                break;
            }
            let call = Call::post("/v1/keys", &json!({ "keys": some })).timeout(timeout());
            let answer: Box<serde_json::value::RawValue> = self.context.http.json(listener, call).await?;
            ledger.learn(answer.get().as_bytes()).map_err(|why| lines.garbage(why))?;
        }
        Ok(())
    }

    /// Compares what was fetched; which keys are worth another look.
    pub fn compare(&self, report: &mut Report) -> Again {
        let told = self.entering.iter().filter_map(|(region, waiting)| Some((region.clone(), (*waiting)?)));
        let input = Input {
            links: &self.links,
            ledgers: &self.ledgers,
            starts: &self.starts,
            letters: &self.letters,
            not_entered: &told.collect(),
            journal: self.journal.as_deref(),
        };
        let again = ledger::compare(report, input);
        let mute = self.entering.iter().filter(|(_, waiting)| waiting.is_none());
        report.unreachable.extend(mute.map(|(region, _)| Unreachable {
            region: region.clone(),
            error: format!("{region}: its agent cannot tell how many local keys wait in their queue"),
        }));
        again
    }

    /// Looks at the dead letters of links that have some, or whose queue does not say; of all links where keys are missing.
    /// One queue of a region after the other, as its agent does; the first time without a deadline.
    pub async fn read_letters(&mut self, something_is_missing: bool, deadline: Option<Instant>) {
        let before = std::mem::take(&mut self.letters);
        let this = &*self;
        let of_regions = this.listeners.iter().map(|listener| {
            let before = &before;
            async move {
                let (mut letters, mut failed) = (Letters::new(), Vec::new());
                for link in this.links.iter().filter(|(from, _)| *from == listener.region) {
                    let view = this.ledgers.get(&link.0).and_then(|ledger| ledger.links.get(&link.1));
                    if !view.is_some_and(|view| view.dead_letters != Some(0) || something_is_missing) {
                        continue;
                    }
                    match this.letters_of(listener, &link.1, deadline).await {
                        Ok(found) => drop(letters.insert(link.clone(), found)),
                        Err(error) => {
                            letters.extend(before.get(link).map(|known| (link.clone(), known.clone())));
                            failed.push(told(&link.0, &error));
                        }
                    }
                }
                (letters, failed)
            }
        });
        let found = join_all(of_regions).await;
        self.letters_failed.clear();
        for (letters, failed) in found {
            self.letters.extend(letters);
            self.letters_failed.extend(failed);
        }
    }

    /// Queues of dead letters that did not answer at the last look.
    pub fn letters_failed(&self) -> &[Unreachable] {
        &self.letters_failed
    }

    async fn letters_of(
        &self,
        listener: &Listener,
        peer: &str,
        deadline: Option<Instant>,
    ) -> Result<LinkLetters, http::Error> {
        let query = http::query(&[("peer", Some(peer.to_owned())), ("limit", Some(LETTERS_MAX.to_string()))]);
        let call = Call::get(format!("/v1/dlq{query}")).timeout(time_left(deadline, LETTERS_TIMEOUT));
        let listed = self.context.http.json::<Listed>(listener, call).await?;
        let hidden = listed.in_queue.saturating_sub(listed.looked);
        let cut = listed.total.saturating_sub(listed.letters.len() as u64);
        let mut letters = LinkLetters { unseen: (hidden + cut).max(u64::from(!listed.complete)), ..Default::default() };
        for letter in listed.letters {
            let hash = KeyHash::of(&letter.source, &letter.detail_type, &letter.key).0;
            let accepted_millis = Timestamp::parse_rfc3339(&letter.accepted).map_or(0, Timestamp::as_millis);
            letters.add(hash, Letter { id: letter.id, key: letter.key, accepted_millis });
        }
        Ok(letters)
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
            let call = Call::post("/v1/keys", &json!({ "keys": keys })).timeout(LATE_CALL_MIN);
            let found = self.context.http.json::<Found>(listener, call).await;
            let rows = found.map(|found| found.rows).unwrap_or_default();
            ids.extend(rows.into_iter().filter_map(|row| Some(((listener.region.clone(), row.k), row.i?))));
        }
        for finding in report.of_ledgers() {
            finding.id = ids.get(&(finding.from.clone(), finding.key_hash.clone())).cloned();
        }
    }
}

/// The region's first line, if it is the region that was asked.
async fn begin(lines: &mut http::Lines) -> Result<Ledger, http::Error> {
    let header = lines.next().await?.ok_or_else(|| lines.cut())?;
    let ledger = Ledger::begin(&header).map_err(|why| lines.garbage(why))?;
    lines.answers_as(&ledger.region)?;
    Ok(ledger)
}

/// What is left until the deadline, between [`LATE_CALL_MIN`] and what such a call may take.
fn time_left(deadline: Option<Instant>, most: Duration) -> Duration {
    match deadline {
        None => most,
        Some(deadline) => deadline.saturating_duration_since(Instant::now()).clamp(LATE_CALL_MIN, most),
    }
}

/// Says that not all of these keys were looked at again, if so.
pub fn note(again: &Again) -> Option<String> {
    let most = again.values().map(BTreeSet::len).max().filter(|most| *most > AGAIN_MAX)?;
    Some(format!(
        "{most} keys were missing in one ledger and {AGAIN_MAX} of them looked at again in each round: some of the others may \
         have come meanwhile"
    ))
}

fn told(region: &str, error: &http::Error) -> Unreachable {
    Unreachable { region: region.to_owned(), error: error.to_string() }
}

#[cfg(test)]
#[path = "ledgers_tests.rs"]
mod tests;
