//! Weeks later: what was deleted is forgotten, and a table may be older than what regions remember.
//!
//! Everything is equal when this begins, and events were judged: here only documents are.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    bus,
    documents::COLLECT,
    wire::Quality,
    world::{DAY, RETENTION, World, lock},
};
use crate::{
    core::region::State,
    sim::{Invariant, REGIONS},
};

const KEPT: &str = "kept0";
const MORTAL: [&str; 2] = ["mortal0", "mortal1"];

/// Regions look through what is deleted once in a while, and an agent waits until another one leaves it its turn.
const COLLECTED_WITHIN: Duration = Duration::from_secs(600);

/// Regions write down that they live within this, so that a backup made then is not too old.
const LIVED_WITHIN: Duration = Duration::from_secs(700);

/// Beyond any doubt of clocks.
const DOUBT: Duration = Duration::from_secs(3_600);

/// Documents are deleted, maybe while a region is away and writes to them, and what was said of them comes late.
///
/// # Errors
/// An agent does not start.
pub async fn play(world: &mut World) -> Result<(), String> {
    let any = world.asking.below(world.nodes.len() as u64) as usize;
    let is_late = world.asking.hits(0.5);
    if is_late {
        let late = bus::Quality { late: 0.5, late_max: DAY, ..bus::Quality::GOOD };
        world.regions.iter().for_each(|region| region.bus.change(|quality| *quality = late));
    }
    for id in MORTAL {
        let is_keyed = world.asking.hits(0.5);
        world.request(any, id, "", is_keyed);
    }
    sleep(Duration::from_secs(20)).await;
    world.settle_documents().await;
    let away = world.asking.below(4) as usize;
    if let Some(home) = REGIONS.get(away) {
        world.trace.note(&format!("{home} is away for weeks"));
        for other in REGIONS.into_iter().filter(|other| other != home) {
            world.wire.change(home, other, |quality| quality.cut = true);
            world.wire.change(other, home, |quality| quality.cut = true);
        }
        if world.asking.hits(0.5) {
            let index = away * world.profile.agents as usize;
            world.request(index, MORTAL[0], "", false);
        }
    }
    let other = if away == 0 { 1 } else { 0 };
    let evicts = away < REGIONS.len() && world.asking.hits(0.5);
    let early = evicts && world.asking.hits(0.5);
    if evicts {
        if early {
            // All of this is so young that it is kept.
            let index = away * world.profile.agents as usize;
            for id in [KEPT, MORTAL[0]] {
                let is_keyed = world.asking.hits(0.5);
                world.request(index, id, "", is_keyed);
            }
            sleep(Duration::from_secs(20)).await;
        }
        world.leave_out(other, REGIONS[away]).await;
    }
    for id in MORTAL {
        world.delete_document(other * world.profile.agents as usize, id);
    }
    sleep(Duration::from_secs(20)).await;
    if early {
        come_back(world, away).await?;
    }
    world.pass(2 * RETENTION + DOUBT);
    if evicts && !early {
        // On what the others are about to forget.
        world.request(away * world.profile.agents as usize, MORTAL[0], "", false);
        // Nobody waits for it.
        let others: Vec<usize> = (0..REGIONS.len()).filter(|index| *index != away).collect();
        await_forgotten_by(world, &others).await;
    }
    let is_troubled = world.asking.hits(0.5);
    if is_troubled {
        trouble(world);
    }
    sleep(COLLECT * 3).await;
    heal(world);
    if evicts && !early {
        world.take_back(away).await;
    }
    world.settle_documents().await;
    await_forgotten(world).await;
    // What was said of it before comes last of all, and it begins anew under the same name.
    world.regions.iter().flat_map(|region| region.queues()).for_each(|queue| queue.hurry());
    sleep(Duration::from_secs(5)).await;
    let is_keyed = world.asking.hits(0.5);
    let anew = world.request(any, MORTAL[1], "", is_keyed);
    sleep(Duration::from_secs(60)).await;
    world.settle_documents().await;
    world.expect_members(MORTAL[1], &[anew]).await;
    match world.asking.below(3) {
        0 => be_away(world).await?,
        1 => be_restored(world).await?,
        _ => {}
    }
    world.check_documents_end().await;
    Ok(())
}

/// A region that is left out can be reached again, while calls are lost, and an agent of it may die on the way.
async fn come_back(world: &mut World, away: usize) -> Result<(), String> {
    let is_troubled = world.asking.hits(0.5);
    heal(world);
    if is_troubled {
        trouble(world);
        world.decide(away, State::Evacuated);
        let home = away * world.profile.agents as usize;
        for _ in 0..world.asking.below(4) {
            sleep(world.asking.millis(1_000, 40_000)).await;
            world.crash(home);
            world.up(home)?;
        }
        heal(world);
    }
    world.take_back(away).await;
    world.settle_documents().await;
    Ok(())
}

/// All agents of a region are down for longer than anybody remembers deletes; maybe a backup stands in for its table since.
async fn be_away(world: &mut World) -> Result<(), String> {
    let home = world.asking.below(REGIONS.len() as u64) as usize;
    let backup = world.regions[home].documents.as_ref().map(|desk| desk.table.back_up());
    let backup = backup.filter(|_| world.asking.hits(0.5));
    down_and_up(world, home, |world| {
        world.pass(RETENTION + DOUBT);
        if let Some((desk, backup)) = world.regions[home].documents.as_ref().zip(backup) {
            world.trace.note("and its table is restored");
            desk.table.restore(backup);
        }
    })?;
    sleep(Duration::from_secs(60)).await;
    world.await_served(home, |_| true).await;
    world.settle_documents().await;
    Ok(())
}

/// A region loses its table, and a backup stands in for it that lacks what was done last. Services go on at once.
async fn be_restored(world: &mut World) -> Result<(), String> {
    let home = world.asking.below(REGIONS.len() as u64) as usize;
    sleep(LIVED_WITHIN).await;
    let backup = world.regions[home].documents.as_ref().map(|desk| desk.table.back_up());
    let index = home * world.profile.agents as usize;
    for id in [KEPT, MORTAL[1]] {
        world.request(index, id, "", false);
    }
    sleep(Duration::from_secs(60)).await;
    world.settle_documents().await;
    down_and_up(world, home, |world| {
        if let Some((desk, backup)) = world.regions[home].documents.as_ref().zip(backup) {
            world.trace.note("and its table is restored");
            desk.table.restore(backup);
        }
    })?;
    for id in [KEPT, MORTAL[1]] {
        world.request(index, id, "", false);
    }
    sleep(Duration::from_secs(60)).await;
    world.settle_documents().await;
    Ok(())
}

/// Something happens while no agent of a region is up.
fn down_and_up(world: &mut World, home: usize, happens: impl FnOnce(&World)) -> Result<(), String> {
    let agents: Vec<usize> = (0..world.nodes.len()).filter(|index| world.nodes[*index].home == home).collect();
    agents.iter().for_each(|index| world.crash(*index));
    happens(world);
    agents.into_iter().try_for_each(|index| world.up(index))
}

/// Calls are lost, and tables are busy.
fn trouble(world: &World) {
    for (home, region) in REGIONS.into_iter().flat_map(|home| REGIONS.map(|region| (home, region))) {
        world.wire.change(home, region, |quality| {
            let Quality { cut, .. } = *quality;
            *quality = Quality { cut, lose_request: 0.05, lose_reply: 0.1, throttle: 0.1, ..Quality::GOOD };
        });
    }
    for region in 0..REGIONS.len() {
        world.change_table(region, |quality| (quality.trouble, quality.late, quality.stale) = (0.2, 0.1, 0.5));
    }
}

fn heal(world: &World) {
    world.wire.heal();
    world.heal_services();
}

/// What is deleted and old is forgotten in the end.
async fn await_forgotten(world: &World) {
    await_forgotten_by(world, &[0, 1, 2]).await;
}

/// The same by some regions.
async fn await_forgotten_by(world: &World, regions: &[usize]) {
    let started = Instant::now();
    loop {
        let remembered = world.remembered(regions).await;
        if remembered.is_empty() {
            return;
        }
        if started.elapsed() > COLLECTED_WITHIN {
            let what = format!("old deletes are not forgotten: {}", remembered.join(", "));
            return lock(&world.oracle).violate(Invariant::Quiet, what);
        }
        sleep(Duration::from_secs(1)).await;
    }
}

impl World {
    /// Time goes by that nobody waited for, for everybody.
    fn pass(&self, time: Duration) {
        self.trace.note(&format!("{time:?} pass"));
        self.nodes.iter().for_each(|node| node.clock.pass(time));
        for region in &self.regions {
            region.bus.pass(time);
            let dead = region.links.values().map(|link| &link.dead);
            region.queues().chain(dead).for_each(|queue| queue.pass(time));
        }
    }
}
