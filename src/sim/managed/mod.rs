//! Regions on managed services in virtual time: the agent's own links, local keys, audit and publisher over simulated
//! queues, ledgers and buses that behave as badly as the real ones may.
//!
//! As in the rest of the simulator one seed decides everything. [`queue`], [`ledger`] and [`bus`] are the services, [`wire`]
//! loses what goes to and from them and kills agents in the middle of it, [`world`] puts regions together, [`steps`] makes
//! traffic and faults, and [`oracle`] knows what was acknowledged. Safety is checked meanwhile; then everything heals, late
//! deliveries arrive, and all queues must become empty.
//!
//! In three seeds of ten the regions have [`documents`], in tables ([`items`]). Their agents share what [`shared`] keeps, and
//! once everything is equal some seeds go on for weeks ([`later`]).

pub mod bus;
mod documents;
pub mod items;
mod judge;
mod later;
pub mod ledger;
mod objects;
pub mod oracle;
pub mod queue;
pub mod scenarios;
pub mod shared;
mod steps;
pub mod wire;
pub mod world;

use std::time::Duration;

use tokio::time::Instant;

use super::{Outcome, Settings, chance::Chance, cluster};
use world::{Profile, Region, World, lock};

/// After everything healed, all queues are empty within this much virtual time: a held message's delay, a lease, and the
/// longest pause.
pub const CONVERGES_WITHIN: Duration = Duration::from_secs(300);

/// Runs one seed on this thread, from beginning to end.
///
/// # Errors
/// The runtime does not start, or an agent does not.
pub fn run(seed: u64, settings: &Settings) -> Result<Outcome, String> {
    super::in_virtual_time(play(seed, settings))
}

async fn play(seed: u64, settings: &Settings) -> Result<Outcome, String> {
    let mut chance = Chance::new(seed, "managed");
    let profile = Profile::draw(&mut chance);
    let share = [0.0, 0.3, 0.6, 1.0][chance.below(4) as usize];
    let faults = settings.faults.iter().copied().filter(|_| chance.hits(share)).collect::<Vec<_>>();
    // From a stream of their own: the rest of a seed is the same without documents.
    let mut documents = Chance::new(seed, "whether there are documents");
    let compare = documents.hits(0.3).then(|| Duration::from_secs([10, 30][documents.below(2) as usize]));
    let goes_on = compare.is_some() && documents.hits(0.4);
    let profile = Profile { documents: compare, ..profile };
    let mut world = World::new(seed, settings, profile, chance)?;
    world.trace.note(&format!("{:?} {faults:?}", world.profile));
    for index in 0..world.nodes.len() {
        world.up(index)?;
    }
    for _ in 0..settings.steps {
        world.step(&faults).await?;
        if !lock(&world.oracle).violations.is_empty() {
            break;
        }
    }
    let converged_seconds = world.heal_and_converge().await?;
    if goes_on && lock(&world.oracle).violations.is_empty() {
        later::play(&mut world).await?;
    }
    Ok(world.outcome(seed, converged_seconds))
}

impl World {
    /// Ends all faults and waits until everything is as it must be; answers how long that took.
    ///
    /// # Errors
    /// An agent does not start.
    pub async fn heal_and_converge(&mut self) -> Result<f64, String> {
        self.trace.note("everything heals");
        self.wire.heal();
        self.bury();
        self.heal_services();
        self.regions.iter().flat_map(Region::queues).for_each(|queue| queue.hurry());
        for index in 0..self.nodes.len() {
            if !self.nodes[index].is_up() {
                self.up(index)?;
            }
            for link in 0..2 {
                self.pause(index, link, false);
            }
        }
        let healed = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let mut open = self.open_ends();
            if open.is_empty() {
                self.open_documents(&mut open).await;
            }
            let late = healed.elapsed() > CONVERGES_WITHIN;
            if open.is_empty() || late {
                lock(&self.oracle).violations.extend(open);
                break;
            }
        }
        let converged = healed.elapsed().as_secs_f64();
        // A publish may be under way still, and a lost request may come late.
        tokio::time::sleep(Duration::from_secs(30)).await;
        self.settle_documents().await;
        self.check_end();
        self.check_documents_end().await;
        Ok(converged)
    }

    /// The services of all regions do as they should.
    pub fn heal_services(&self) {
        for (index, region) in self.regions.iter().enumerate() {
            region.bus.change(|quality| *quality = bus::Quality::GOOD);
            region.ledger.set_row_fails(0.0);
            region.queues().for_each(|queue| queue.set_repeats(0.0));
            self.change_table(index, |quality| *quality = items::Quality::GOOD);
        }
    }

    pub fn outcome(&mut self, seed: u64, converged_seconds: f64) -> Outcome {
        let counted = self.counted();
        let mut oracle = lock(&self.oracle);
        oracle.violations.sort();
        oracle.violations.dedup();
        let repeats = super::REGIONS.into_iter().map(|region| oracle.repeats(region)).sum();
        let possible_repeats = counted.iter().map(|counted| counted.possible + counted.late).sum();
        self.trace.note(&format!("{} events, {repeats} repeats, {counted:?}", oracle.effects.len()));
        let mut trace = self.trace.lock();
        Outcome {
            seed,
            hash: trace.hash(),
            violations: oracle.violations.clone(),
            acknowledged: oracle.acknowledged,
            duplicates: oracle.duplicates,
            conflicts: oracle.conflicts,
            events: oracle.effects.len() as u64,
            requests: cluster::lock(&self.requests).outcome(),
            repeats,
            possible_repeats,
            faults: trace.faults().clone(),
            virtual_seconds: self.started.elapsed().as_secs_f64(),
            converged_seconds,
            lines: trace.take_lines(),
            ..Outcome::default()
        }
    }
}

#[cfg(test)]
mod tests;
