//! Weeks later: what was deleted is forgotten, and a copy of the documents may be too old.
//!
//! Everything is equal when this begins, so nothing but the documents is judged: links may expire what they hold, and
//! logs drop what is old.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    Invariant, REGIONS, Violation,
    chance::Chance,
    cluster::Cluster,
    regions::{Move, perform, request},
};

const MORTAL: [&str; 2] = ["mortal0", "mortal1"];

/// Regions look through what is deleted once a minute, and not all of them at the same time.
pub const COLLECTED_WITHIN: Duration = Duration::from_secs(200);

/// How long a region remembers what it is told, beyond any doubt of clocks.
pub fn horizon(cluster: &Cluster) -> Duration {
    let retention = cluster.profile.config(&Default::default()).map(|config| config.idempotency.retention);
    retention.unwrap_or_default() + Duration::from_secs(3_600)
}

/// Documents are deleted, maybe while a region is away and writes to them.
pub async fn play(cluster: &mut Cluster, chance: &mut Chance) {
    let horizon = horizon(cluster);
    for id in MORTAL {
        cluster.request(chance.below(3) as usize, id, "", chance.hits(0.5));
    }
    for index in 0..REGIONS.len() {
        cluster.request(index, MORTAL[0], "", false);
    }
    cluster.settle_documents().await;
    let away = chance.below(4) as usize;
    if let Some(home) = REGIONS.get(away) {
        cluster.trace.note(&format!("{home} is away for weeks"));
        let others: Vec<&str> = REGIONS.into_iter().filter(|name| name != home).collect();
        cluster.cut(home, &others, true);
        if chance.hits(0.5) {
            cluster.request(away, MORTAL[0], "", chance.hits(0.5));
        }
    }
    let others: Vec<usize> = (0..REGIONS.len()).filter(|index| *index != away).collect();
    let evicts = away < REGIONS.len() && chance.hits(0.5);
    let early = evicts && chance.hits(0.5);
    if evicts {
        leave_out(cluster, others[0], REGIONS[away]).await;
    }
    let deletes = if away == 0 { 1 } else { 0 };
    for id in MORTAL {
        cluster.delete_document(deletes, id);
    }
    sleep(Duration::from_secs(3)).await;
    if early {
        // What it wrote before may come last of all.
        let late = chance.hits(0.5);
        hold_back(cluster, away, late).await;
        cluster.net.heal();
        cluster.settle_documents().await;
        hold_back(cluster, away, false).await;
        sleep(Duration::from_secs(3)).await;
        cluster.settle_documents().await;
        take_back(cluster, others[0], REGIONS[away]).await;
    }
    cluster.pass(2 * horizon);
    let mut begun = None;
    match evicts {
        // Nobody waits for it.
        true => await_forgotten_by(cluster, &others).await,
        false if away < REGIONS.len() => sleep(COLLECTED_WITHIN / 2).await,
        false => begun = begin_anew_early(cluster, MORTAL[0]).await,
    }
    cluster.net.heal();
    cluster.settle_documents().await;
    if evicts && !early {
        take_back(cluster, others[0], REGIONS[away]).await;
    }
    if !evicts && begun.is_none() {
        begun = begin_anew_early(cluster, MORTAL[0]).await;
    }
    await_forgotten(cluster).await;
    if let Some(begun) = begun {
        cluster.settle_documents().await;
        cluster.expect_members(MORTAL[0], &[begun]).await;
    }
    // Begun anew under the same name.
    let index = chance.below(3) as usize;
    let anew = cluster.request(index, MORTAL[1], "", chance.hits(0.5));
    cluster.settle_documents().await;
    cluster.expect_members(MORTAL[1], &[anew]).await;
    if chance.hits(0.5) {
        // Down for longer than anybody remembers deletes.
        let index = chance.below(3) as usize;
        cluster.crash(index);
        cluster.pass(horizon);
        cluster.up(index).await;
        cluster.settle_documents().await;
    }
    cluster.check_agents();
    cluster.trace.note(&format!("{} violations", cluster.violations.len()));
}

/// A document begins anew where it is forgotten while another region remembers it yet. Answers the request that began it.
pub async fn begin_anew_early(cluster: &mut Cluster, id: &'static str) -> Option<usize> {
    let started = Instant::now();
    while started.elapsed() < COLLECTED_WITHIN {
        let remembering = cluster.remembering(id).await;
        let first = remembering.iter().position(|remembers| !remembers);
        match (first, remembering.contains(&true)) {
            (Some(first), true) => return Some(cluster.request(first, id, "", false)),
            (Some(_), false) => return None,
            (None, _) => sleep(Duration::from_secs(1)).await,
        }
    }
    None
}

/// The region's links stand still, or go on.
async fn hold_back(cluster: &Cluster, index: usize, still: bool) {
    let Some(agent) = cluster.agent(index).cloned() else { return };
    for peer in REGIONS.into_iter().filter(|peer| *peer != REGIONS[index]) {
        let _ = agent.pause(peer, still).await;
    }
}

/// The others leave a region as it is, and their documents do without it.
pub async fn leave_out(cluster: &mut Cluster, by: usize, region: &'static str) {
    let Some(agent) = cluster.agent(by).cloned() else { return };
    let left = perform(&agent, &request(region, Move::Ungraceful), Move::Ungraceful).await;
    let evicted = agent.evictions().evict(region, "a simulated operator", "").await;
    cluster.trace.note(&format!("{region} is left ({}) and evicted: {evicted:?}", left.is_ok()));
    if evicted.is_err() {
        let what = format!("{region} cannot be evicted: {left:?}, {evicted:?}");
        cluster.violations.push(Violation::new(Invariant::Quiet, what));
    }
}

/// The region serves again, once it has everything.
pub async fn take_back(cluster: &mut Cluster, by: usize, region: &'static str) {
    let Some(agent) = cluster.agent(by).cloned() else { return };
    let started = Instant::now();
    while let Err(error) = perform(&agent, &request(region, Move::Back), Move::Back).await {
        if started.elapsed() > COLLECTED_WITHIN {
            let what = format!("{region} was evicted and does not come back: {error:?}");
            cluster.violations.push(Violation::new(Invariant::Quiet, what));
            return;
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// What is deleted and old is forgotten in the end.
pub async fn await_forgotten(cluster: &mut Cluster) {
    await_forgotten_by(cluster, &[0, 1, 2]).await;
}

/// The same by some regions.
pub async fn await_forgotten_by(cluster: &mut Cluster, regions: &[usize]) {
    let started = Instant::now();
    loop {
        let remembered = cluster.remembered(regions).await;
        if remembered.is_empty() {
            return;
        }
        if started.elapsed() > COLLECTED_WITHIN {
            let what = format!("old deletes are not forgotten: {}", remembered.join(", "));
            cluster.violations.push(Violation::new(Invariant::Quiet, what));
            return;
        }
        sleep(Duration::from_secs(1)).await;
    }
}
