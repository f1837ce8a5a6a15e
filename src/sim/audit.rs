//! `verify` over a simulated cluster: it must find what is missing, and must not cry wolf.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{Invariant, REGIONS, Violation, chance::Chance, cluster::lock, history::History};
use crate::{
    agent::{Agent, Range},
    core::key::KeyHash,
    verify::{Input, Report, Snapshot, Topology, compare, snapshot::Line},
};

/// As `verify --wait`.
const SETTLES_WITHIN: Duration = Duration::from_secs(30);

pub struct Audit<'a> {
    pub agents: &'a [Arc<Agent>],
    pub history: &'a Mutex<History>,
}

impl Audit<'_> {
    /// What `verify` reports though nothing is wrong.
    pub async fn false_alarms(&self) -> Vec<Violation> {
        let report = self.settled().await;
        let conflicts = self.conflicts();
        let missing = report.links.iter().flat_map(|link| &link.missing).chain(&report.missing_at_origin);
        let unnamed = report.links.iter().any(|link| link.missing_count > link.missing.len() as u64);
        let mut wrong: Vec<String> = missing
            .chain(&report.conflicts)
            .chain(&report.dead_lettered)
            // A letter whose event the log has dropped has no hash; the letters are judged by themselves.
            .filter(|finding| !finding.key_hash.is_empty() && !conflicts.contains(&finding.key_hash))
            .map(|finding| format!("{finding:?}"))
            .collect();
        wrong.extend(report.twice.iter().map(|twice| format!("{twice:?}")));
        if unnamed {
            wrong.push("more is missing than is named".to_owned());
        }
        wrong.into_iter().map(|what| Violation::new(Invariant::Verify, format!("false alarm: {what}"))).collect()
    }

    /// A region loses one event: `verify` must say which.
    pub async fn missed(&self, chance: &mut Chance) -> Vec<Violation> {
        let region = chance.below(self.agents.len() as u64) as usize;
        let mut snapshots = self.snapshots(None).await;
        let conflicts = self.conflicts();
        let Some(name) = self.agents.get(region).map(|agent| agent.region.clone()) else { return Vec::new() };
        // An event that another region brought, and has, and still tells its peers of.
        let candidates: Vec<String> = match snapshots.get(&name) {
            Some(snapshot) => snapshot
                .entries()
                .iter()
                .filter(|entry| !entry.is_local())
                .filter(|entry| {
                    let origin = snapshot.origin(entry).and_then(|origin| snapshots.get(origin));
                    let original = origin.and_then(|origin| origin.find(&entry.key).first());
                    original.is_some_and(|original| original.is_local())
                })
                .map(|entry| crate::verify::hex(&entry.key))
                .filter(|key| !conflicts.contains(key))
                .collect(),
            None => Vec::new(),
        };
        let Some(key) = chance.pick(&candidates) else { return Vec::new() };
        let drifted = self.snapshots(Some((&name, key))).await;
        snapshots.extend(drifted);
        let report = self.compared(&snapshots);
        let found = report.links.iter().flat_map(|link| &link.missing);
        let is_found = |finding: &crate::verify::report::Finding| finding.to == name && finding.key_hash == *key;
        match found.into_iter().any(is_found) {
            true => Vec::new(),
            false => {
                let what = format!("{name} lost the event with key {key}, and verify did not find it");
                vec![Violation::new(Invariant::Verify, what)]
            }
        }
    }

    /// Hashes of keys that two regions may differ in.
    fn conflicts(&self) -> BTreeSet<String> {
        let hash = |key: &str| format!("{:?}", KeyHash::of(super::cluster::SOURCE, super::cluster::DETAIL_TYPE, key));
        lock(self.history).exempt().map(hash).collect()
    }

    async fn settled(&self) -> Report {
        let started = tokio::time::Instant::now();
        let head = |agent: &Arc<Agent>| (agent.region.clone(), agent.hub.end().offset);
        let starts = self.agents.iter().map(head).collect();
        loop {
            let snapshots = self.snapshots(None).await;
            let report = self.compared_from(&snapshots, &starts);
            if !report.has_missing() || started.elapsed() >= SETTLES_WITHIN {
                return report;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    fn compared(&self, snapshots: &BTreeMap<String, Snapshot>) -> Report {
        let starts = snapshots.iter().map(|(region, snapshot)| (region.clone(), snapshot.head)).collect();
        self.compared_from(snapshots, &starts)
    }

    fn compared_from(&self, snapshots: &BTreeMap<String, Snapshot>, starts: &BTreeMap<String, u64>) -> Report {
        let pairs = REGIONS.iter().flat_map(|from| REGIONS.iter().map(move |to| (*from, *to)));
        let links = pairs.filter(|(from, to)| from != to).map(|(from, to)| (from.to_owned(), to.to_owned()));
        let topology = Topology { links: links.collect() };
        compare(Input { topology: &topology, snapshots, starts, journal: None })
    }

    /// What each region answers to `verify`; `without` leaves the event with that key out of a region's answer, and the
    /// other regions too.
    async fn snapshots(&self, without: Option<(&str, &str)>) -> BTreeMap<String, Snapshot> {
        let mut snapshots = BTreeMap::new();
        for agent in self.agents.iter().filter(|agent| without.is_none_or(|(region, _)| agent.region == region)) {
            let mut text = answer(agent, false).await;
            if Snapshot::begin(first_line(&text)).is_ok_and(|snapshot| snapshot.wants_envelopes()) {
                text = answer(agent, true).await;
            }
            let mut rows = text.split(|byte| *byte == b'\n').filter(|row| !row.is_empty());
            let Some(Ok(mut snapshot)) = rows.next().map(Snapshot::begin) else { continue };
            let mut complete = false;
            for row in rows {
                let is_gone = without.is_some_and(|(_, key)| row.windows(key.len()).any(|part| part == key.as_bytes()));
                complete |= !is_gone && snapshot.add(row) == Ok(Line::End);
            }
            if complete {
                snapshot.sort();
                snapshots.insert(agent.region.clone(), snapshot);
            }
        }
        snapshots
    }
}

async fn answer(agent: &Arc<Agent>, envelope: bool) -> Vec<u8> {
    let mut lines = agent.keys(Range { envelope, ..Range::default() });
    let mut text = Vec::new();
    while let Some(piece) = lines.recv().await {
        text.extend_from_slice(&piece);
    }
    text
}

fn first_line(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == b'\n').next().unwrap_or_default()
}
