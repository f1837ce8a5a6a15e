//! The documents of regions, as their agents tell of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::future::join_all;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    super::{
        Context,
        http::{self, Call, Listener, escape, query},
    },
    PAUSE_MAX, Settling,
};
use crate::{
    core::{json, state::Key},
    verify::{
        Topology,
        documents::{Comparison, Documents, Journal, Listing, Page, Total, Version, groups},
        expected::Expected,
        report::Unreachable,
    },
};

/// Documents that are asked for one by one; beyond it all are listed again.
const AGAIN_MAX: usize = 1_000;

/// Questions for single documents at once.
const ASKED: usize = 16;

const TIMEOUT: Duration = Duration::from_secs(10);

/// A document as its region shows it (`GET /v1/state`).
#[derive(Deserialize)]
struct Shown {
    value: Option<Box<RawValue>>,
    version: Version,
}

/// Compares the documents of all regions and looks for what the journal says; waits at most `wait` for differences to
/// settle. `None` where the file has no document types.
pub async fn compare(
    context: &Context,
    topology: &Topology,
    journal: Option<&Expected>,
    wait: Duration,
) -> Option<(Documents, Vec<Unreachable>)> {
    if context.config.state.is_empty() {
        return None;
    }
    let mut clock = Settling::new(wait);
    let mut pause = Duration::from_millis(100);
    let mut looks = Looks::new(context, topology, journal);
    loop {
        let unreachable = looks.look().await;
        clock.looked(unreachable.is_empty());
        if clock.is_over() || (looks.is_settled() && unreachable.is_empty()) {
            return Some((looks.report(), unreachable));
        }
        tokio::time::sleep(pause.min(clock.rest())).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// What was seen so far.
struct Looks<'a> {
    context: &'a Context,
    listeners: Vec<Listener>,
    journal: Option<&'a Expected>,
    groups: Vec<Group>,
    totals: BTreeMap<String, Total>,
    not_compared: BTreeSet<String>,
    /// What of the journal is not as it should be, or was not looked at: where, and what is wrong.
    open: BTreeMap<(String, Key), Option<Journal>>,
    has_begun: bool,
}

/// Regions that should have the same documents.
struct Group {
    regions: BTreeSet<String>,
    comparison: Comparison,
    /// The comparison began with all of them.
    is_complete: bool,
}

impl<'a> Looks<'a> {
    fn new(context: &'a Context, topology: &Topology, journal: Option<&'a Expected>) -> Looks<'a> {
        let listeners = context.admins();
        let regions: Vec<String> = listeners.iter().map(|listener| listener.region.clone()).collect();
        let group = |regions| Group { regions, comparison: Comparison::default(), is_complete: false };
        let groups = groups(&topology.links, &regions).into_iter().map(group).collect();
        let (totals, not_compared, open) = Default::default();
        Looks { context, listeners, journal, groups, totals, not_compared, open, has_begun: false }
    }

    /// Asks all regions, the first time for everything, then for what is not settled.
    async fn look(&mut self) -> Vec<Unreachable> {
        let asked = self.listeners.iter().filter(|listener| !self.not_compared.contains(&listener.region));
        let asked: Vec<&Listener> = asked.collect();
        let call = || Call::get("/v1/documents/total").timeout(TIMEOUT);
        let totals = join_all(asked.iter().map(|listener| self.context.http.json::<Total>(listener, call()))).await;
        let totals: Vec<_> = asked.iter().map(|listener| listener.region.clone()).zip(totals).collect();
        let mut failed = Failed::default();
        let mut now = BTreeMap::new();
        for (region, total) in totals {
            match total {
                Ok(total) => drop(now.insert(region, total)),
                // It has another file than we, or is older than documents.
                Err(error) if error.status() == Some(404) => drop(self.not_compared.insert(region)),
                Err(error) => failed.add(region, &error),
            }
        }
        self.totals.extend(now.clone());
        for nth in 0..self.groups.len() {
            self.compare_group(nth, &now, &mut failed).await;
        }
        if let Some(journal) = self.journal {
            self.look_for(journal, &mut failed).await;
        }
        failed.0.into_iter().map(|(region, error)| Unreachable { region, error }).collect()
    }

    async fn compare_group(&mut self, nth: usize, now: &BTreeMap<String, Total>, failed: &mut Failed) {
        let context = self.context;
        let Group { regions, comparison, is_complete } = &mut self.groups[nth];
        let compared =
            |listener: &&Listener| regions.contains(&listener.region) && !self.not_compared.contains(&listener.region);
        let members: Vec<&Listener> = self.listeners.iter().filter(compared).collect();
        let answering: Vec<(&Listener, &Total)> =
            members.iter().filter_map(|listener| Some((*listener, now.get(&listener.region)?))).collect();
        // Until all were heard, those that answer are compared anew each time.
        let was_complete = std::mem::replace(is_complete, *is_complete || answering.len() == members.len());
        if !was_complete {
            *comparison = Comparison::default();
        }
        if answering.len() < 2 {
            return;
        }
        let totals: Vec<&Total> = answering.iter().map(|(_, total)| *total).collect();
        if (!was_complete || answering.len() == members.len()) && comparison.totals(&totals) {
            return;
        }
        if !comparison.has_begun() || comparison.open().len() > AGAIN_MAX {
            let answers = join_all(answering.iter().map(|(listener, _)| list(context, listener))).await;
            let mut listings = BTreeMap::new();
            for (region, listing) in answering.iter().map(|(listener, _)| &listener.region).zip(answers) {
                match listing {
                    Ok(listing) => drop(listings.insert(region.clone(), listing)),
                    Err(error) => {
                        *is_complete = was_complete;
                        failed.add(region.clone(), &error);
                    }
                }
            }
            comparison.list(&listings);
            return;
        }
        let open: Vec<Key> = comparison.open().cloned().collect();
        let wanted = open
            .iter()
            .flat_map(|key| answering.iter().map(move |(listener, _)| (listener.region.clone(), key)))
            .collect();
        for (region, key, found) in get_all(context, wanted).await {
            match found {
                Ok(shown) => comparison.see(key, &region, shown.map(|shown| shown.version)),
                Err(error) => failed.add(region, &error),
            }
        }
    }

    /// Looks at what the journal's operations have made.
    async fn look_for(&mut self, journal: &Expected, failed: &mut Failed) {
        if !std::mem::replace(&mut self.has_begun, true) {
            let all =
                journal.keys().flat_map(|key| self.regions_of(journal, key).into_iter().map(|at| (at, key.clone())));
            self.open = all.map(|at| (at, None)).collect();
        }
        // What has no documents, as came out since, need not have these, unless it acknowledged them.
        let not_compared = &self.not_compared;
        self.open.retain(|(region, key), _| {
            !not_compared.contains(region) || journal.regions(key).any(|acknowledged| acknowledged == region)
        });
        let keys = self.open.keys().filter(|(region, _)| !failed.0.contains_key(region));
        let keys: Vec<(String, Key)> = keys.cloned().collect();
        let wanted = keys.iter().map(|(region, key)| (region.clone(), key)).collect();
        for (region, key, found) in get_all(self.context, wanted).await {
            let shown = match found {
                Ok(shown) => shown,
                Err(error) => {
                    failed.add(region, &error);
                    continue;
                }
            };
            let text = shown.as_ref().and_then(|shown| shown.value.as_deref()).map(RawValue::get);
            let value = text.and_then(|text| json::parse(text).ok());
            let mut wrong = Journal::default();
            journal.judge(key, &region, value.as_ref(), &mut wrong);
            let at = (region, key.clone());
            match wrong.lost_count + wrong.twice_count {
                0 => drop(self.open.remove(&at)),
                _ => drop(self.open.insert(at, Some(wrong))),
            }
        }
    }

    /// Where the document must be: in the regions that acknowledged it, and in those that they bring documents to.
    fn regions_of(&self, journal: &Expected, key: &Key) -> BTreeSet<String> {
        let mut regions: BTreeSet<String> = journal.regions(key).cloned().collect();
        let group = self.groups.iter().find(|group| regions.is_subset(&group.regions));
        let peers = group.into_iter().flat_map(|group| &group.regions);
        let peers: Vec<String> = peers.filter(|region| !self.not_compared.contains(*region)).cloned().collect();
        regions.extend(peers);
        regions
    }

    fn is_settled(&self) -> bool {
        self.groups.iter().all(|group| group.comparison.open().len() == 0) && self.open.is_empty()
    }

    fn report(&self) -> Documents {
        let mut report = Documents {
            regions: self.totals.clone(),
            not_compared: self.not_compared.iter().cloned().collect(),
            ..Documents::default()
        };
        self.groups.iter().for_each(|group| group.comparison.report(&mut report));
        report.journal = self.journal.map(|journal| {
            let mut found = journal.journal();
            self.open.values().flatten().for_each(|wrong| found.add(wrong));
            found
        });
        report
    }
}

/// Regions that did not answer, with the first reason.
#[derive(Default)]
struct Failed(BTreeMap<String, String>);

impl Failed {
    fn add(&mut self, region: String, error: &impl std::fmt::Display) {
        self.0.entry(region).or_insert_with(|| error.to_string());
    }
}

async fn list(context: &Context, listener: &Listener) -> Result<Listing, http::Error> {
    let mut listing = Listing::new();
    let mut after = None;
    loop {
        let place = after.map_or((None, None), |(of, id)| (Some(of), Some(id)));
        let path = format!("/v1/documents{}", query(&[("after_type", place.0), ("after_id", place.1)]));
        let page: Page = context.http.json(listener, Call::get(path)).await?;
        listing.extend(page.documents.into_iter().map(|listed| (listed.place.into(), listed.version)));
        match page.next {
            Some(next) => after = Some((next.of, next.id)),
            None => return Ok(listing),
        }
    }
}

/// A region, one of its documents, and what it has of it: `None` where there is none.
type Found<'a> = (String, &'a Key, Result<Option<Shown>, String>);

async fn get_all<'a>(context: &Context, wanted: Vec<(String, &'a Key)>) -> Vec<Found<'a>> {
    let mut found = Vec::with_capacity(wanted.len());
    for some in wanted.chunks(ASKED) {
        let answers = join_all(some.iter().map(|(region, key)| get(context, region, key))).await;
        found.extend(some.iter().zip(answers).map(|((region, key), answer)| (region.clone(), *key, answer)));
    }
    found
}

async fn get(context: &Context, region: &str, key: &Key) -> Result<Option<Shown>, String> {
    let listener = context.api(region).map_err(|error| error.to_string())?;
    let call = Call::get(format!("/v1/state/{}/{}", escape(&key.of), escape(&key.id))).timeout(TIMEOUT);
    match context.http.json(&listener, call).await {
        Ok(shown) => Ok(Some(shown)),
        Err(error) if error.status() == Some(404) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}
