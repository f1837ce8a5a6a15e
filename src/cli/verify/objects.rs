//! The objects of embedded regions, as their agents tell of them.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::{
        Context,
        http::{self, Call, Listener},
    },
    hubs,
};
use crate::{
    core::object::Location,
    verify::{
        Snapshot, Topology,
        objects::{self, Acknowledged, Found, Listed, Orphans, Stats},
        report::{Report, Unreachable},
    },
};

/// Objects of one question.
const ASKED: usize = 1_000;

/// Compares what the events of both ends of each link refer to, and looks for the journal's objects.
pub async fn compare(
    context: &Context,
    topology: &Topology,
    snapshots: &BTreeMap<String, Snapshot>,
    starts: &BTreeMap<String, u64>,
    journal: Option<&[Acknowledged]>,
    report: &mut Report,
) {
    let shared = &context.config.claim_check.shared_buckets;
    let pairs = objects::pairs(topology, snapshots, starts, shared);
    let wanted = objects::wanted(topology, &pairs, journal.unwrap_or_default());
    if wanted.is_empty() && context.config.claim_check.reference.is_empty() {
        return;
    }
    let whole = context
        .config
        .links()
        .into_iter()
        .filter(|link| link.pattern.as_object().is_some_and(|members| members.is_empty()));
    let whole: BTreeSet<(String, String)> =
        whole.map(|link| (link.from, link.to)).filter(|link| topology.links.contains(link)).collect();
    let listeners = hubs(context);
    let ask = listeners.iter().filter_map(|listener| {
        let wanted = wanted.get(&listener.region)?;
        Some(async { (listener.region.clone(), stat(context, listener, wanted).await) })
    });
    let mut stats = Stats::new();
    for (region, answer) in join_all(ask).await {
        match answer {
            Ok(found) => drop(stats.insert(region, found)),
            Err(error) => report.unreachable.push(Unreachable { region, error: error.to_string() }),
        }
    }
    report.objects = Some(objects::compare(&pairs, &stats, journal, &whole));
}

async fn stat(
    context: &Context,
    listener: &Listener,
    wanted: &BTreeSet<Location>,
) -> Result<BTreeMap<Location, Option<Found>>, http::Error> {
    #[derive(Deserialize)]
    struct Answer {
        objects: Vec<Option<Found>>,
    }
    let all: Vec<&Location> = wanted.iter().collect();
    let mut found = BTreeMap::new();
    for some in all.chunks(ASKED) {
        let call = Call::post("/v1/objects/stat", &json!({ "objects": some }));
        let answer: Answer = context.http.json(listener, call).await?;
        found.extend(some.iter().map(|at| (*at).clone()).zip(answer.objects));
    }
    Ok(found)
}

/// Names what no event refers to.
pub async fn unreferenced(context: &Context, snapshots: &BTreeMap<String, Snapshot>, report: &mut Report) {
    let listeners = hubs(context);
    let ask = listeners.iter().filter_map(|listener| {
        let snapshot = snapshots.get(&listener.region)?;
        Some(async { (listener.region.clone(), list(context, listener, Orphans::new(snapshot)).await) })
    });
    for (region, answer) in join_all(ask).await {
        match answer {
            Ok(orphans) => drop(report.unreferenced.insert(region, orphans.end())),
            Err(error) => report.unreachable.push(Unreachable { region, error: error.to_string() }),
        }
    }
}

async fn list<'a>(
    context: &Context,
    listener: &Listener,
    mut orphans: Orphans<'a>,
) -> Result<Orphans<'a>, http::Error> {
    let mut lines = context.http.lines(listener, Call::get("/v1/objects")).await?;
    while let Some(line) = lines.next().await? {
        let line: Value = serde_json::from_slice(&line).map_err(|error| lines.garbage(error))?;
        if line.get("end").is_some() {
            return Ok(orphans);
        }
        orphans.add(Listed::deserialize(line).map_err(|error| lines.garbage(error))?);
    }
    Err(lines.cut())
}
