//! Histories of embedded regions that a random run meets too seldom, each with the one fault that it is about.

mod documents;
mod regions;

use std::{collections::BTreeSet, time::Duration};

use super::{Outcome, Settings, cluster::Cluster, in_virtual_time};
use crate::agent::Selection;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// A peer holds an event back; the sender crashes, and redrives it afterwards.
    HeldEventCrashRedrive,
    /// A peer that was emptied holds events back when their sender is restored from before.
    HeldEventSenderRestored,
    /// One backup is restored twice while the peers cannot be reached.
    BackupRestoredTwice,
    /// A region is restored, and then the peer that has what it lost.
    RegionThenPeerRestored,
    /// A peer crashes while it sends back what a restored region lost.
    PeerCrashesInRepair,
    /// What a region lost is at a peer that has it outside of its order.
    OutsideOfTheOrder,
    /// The same, and the peer crashes before it says so.
    OutsideOfTheOrderCrash,
    /// Two regions publish one key, lose it, and have each other's copy.
    BothLoseOneKey,
    /// A region is evacuated, stays away, and comes back.
    EvacuatedAndBack,
    /// Two regions publish one key with two payloads.
    TwoPayloads,
    /// A copy of a region comes up while the original writes on.
    CopyWritesOn,
    /// A sync that is under way while everything heals fails.
    LastSyncFails,
    /// The log drops what a link had not delivered, and the link says which.
    LogTooSmall,
    /// Events wait for longer than the peers' ledgers remember; they are redriven on request.
    WaitedTooLong,
    /// A document is deleted in two regions and written in the third, at once.
    DeleteBesideIncrement,
    /// All regions are down for longer than deletes are remembered.
    EverybodyAway,
    /// A counter is counted again in a region that has forgotten its delete, while another one remembers it.
    CountedAnew,
    /// A delta arrives when its document was deleted and every region has forgotten that.
    DeltaAfterForgotten,
    /// A region comes back from a disk that remembers less than the others forgot.
    DocumentsRestored,
    /// Registers are written in regions whose clocks are twenty minutes apart.
    RegistersByWrongClocks,
    /// A request is made in two regions that cannot talk.
    OneKeyTwoRegions,
    /// Links are paused, so only comparing finds that two regions wrote at once.
    ConflictCompared,
    /// A region is evicted from the documents, and comes back with what was deleted and what nobody has.
    EvictedAndBack,
    /// Two operators move users at once, by way of two agents.
    TwoOperators,
    /// Two regions that cannot talk want each other evacuated, and both reach the third.
    ApartAndBothReachC,
    /// Three regions that are cut off evacuate each other by force, and meet.
    ForcedOnBothSides,
    /// Who coordinates a failover crashes in the middle of it.
    CoordinatorCrashes,
    /// A region that is lost is left without a person, and one that a single other does not hear is not.
    LeftWithoutAPerson,
}

impl Scenario {
    pub const ALL: [Scenario; 28] = [
        Scenario::HeldEventCrashRedrive,
        Scenario::HeldEventSenderRestored,
        Scenario::BackupRestoredTwice,
        Scenario::RegionThenPeerRestored,
        Scenario::PeerCrashesInRepair,
        Scenario::OutsideOfTheOrder,
        Scenario::OutsideOfTheOrderCrash,
        Scenario::BothLoseOneKey,
        Scenario::EvacuatedAndBack,
        Scenario::TwoPayloads,
        Scenario::CopyWritesOn,
        Scenario::LastSyncFails,
        Scenario::LogTooSmall,
        Scenario::WaitedTooLong,
        Scenario::DeleteBesideIncrement,
        Scenario::CountedAnew,
        Scenario::EverybodyAway,
        Scenario::DeltaAfterForgotten,
        Scenario::DocumentsRestored,
        Scenario::RegistersByWrongClocks,
        Scenario::OneKeyTwoRegions,
        Scenario::ConflictCompared,
        Scenario::EvictedAndBack,
        Scenario::TwoOperators,
        Scenario::ApartAndBothReachC,
        Scenario::ForcedOnBothSides,
        Scenario::CoordinatorCrashes,
        Scenario::LeftWithoutAPerson,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Scenario::HeldEventCrashRedrive => "held-event-crash-redrive",
            Scenario::HeldEventSenderRestored => "held-event-sender-restored",
            Scenario::BackupRestoredTwice => "backup-restored-twice",
            Scenario::RegionThenPeerRestored => "region-then-peer-restored",
            Scenario::PeerCrashesInRepair => "peer-crashes-in-repair",
            Scenario::OutsideOfTheOrder => "outside-of-the-order",
            Scenario::OutsideOfTheOrderCrash => "outside-of-the-order-crash",
            Scenario::BothLoseOneKey => "both-lose-one-key",
            Scenario::EvacuatedAndBack => "evacuated-and-back",
            Scenario::TwoPayloads => "two-payloads",
            Scenario::CopyWritesOn => "copy-writes-on",
            Scenario::LastSyncFails => "last-sync-fails",
            Scenario::LogTooSmall => "log-too-small",
            Scenario::WaitedTooLong => "waited-too-long",
            Scenario::DeleteBesideIncrement => "delete-beside-increment",
            Scenario::CountedAnew => "counted-anew",
            Scenario::EverybodyAway => "everybody-away",
            Scenario::DeltaAfterForgotten => "delta-after-forgotten",
            Scenario::DocumentsRestored => "documents-restored",
            Scenario::RegistersByWrongClocks => "registers-by-wrong-clocks",
            Scenario::OneKeyTwoRegions => "one-key-two-regions",
            Scenario::ConflictCompared => "conflict-compared",
            Scenario::EvictedAndBack => "evicted-and-back",
            Scenario::TwoOperators => "two-operators",
            Scenario::ApartAndBothReachC => "apart-and-both-reach-c",
            Scenario::ForcedOnBothSides => "forced-on-both-sides",
            Scenario::CoordinatorCrashes => "coordinator-crashes",
            Scenario::LeftWithoutAPerson => "left-without-a-person",
        }
    }
}

/// Plays a scenario, with everything that a seed decides drawn from this one.
///
/// # Errors
/// The runtime does not start.
pub fn run(scenario: Scenario, seed: u64) -> Result<Outcome, String> {
    in_virtual_time(async move {
        let settings = Settings { faults: BTreeSet::new(), lines: true, ..Settings::default() };
        let mut cluster = Cluster::start(seed, &settings).await?;
        let started = tokio::time::Instant::now();
        play(&mut cluster, scenario, seed).await;
        let converged_seconds = cluster.heal_and_converge().await;
        let virtual_seconds = started.elapsed().as_secs_f64();
        Ok(Outcome { converged_seconds, virtual_seconds, ..cluster.outcome(seed) })
    })
}

async fn wait(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

async fn publish(cluster: &mut Cluster, index: usize, keys: std::ops::Range<u32>) {
    cluster.publish_keys(index, keys);
    wait(2_000).await;
}

async fn play(cluster: &mut Cluster, scenario: Scenario, seed: u64) {
    match scenario {
        Scenario::HeldEventCrashRedrive => {
            cluster.nodes[1].held_back.set(1_000);
            publish(cluster, 0, 0..20).await;
            cluster.crash(0);
            cluster.up(0).await;
            wait(5_000).await;
        }
        Scenario::HeldEventSenderRestored => {
            publish(cluster, 0, 0..20).await;
            // The copy knows that everything is delivered.
            let copy = cluster.backup(0);
            cluster.nodes[1].held_back.set(300);
            cluster.restore(1, super::disk::Image::default()).await;
            wait(3_000).await;
            cluster.restore(0, copy).await;
            wait(3_000).await;
        }
        Scenario::BackupRestoredTwice => {
            let backup = cluster.backup(0);
            publish(cluster, 0, 0..10).await;
            for round in 1..3 {
                cluster.cut("a", &["b", "c"], true);
                cluster.restore(0, backup.clone()).await;
                publish(cluster, 0, round * 100..round * 100 + 10).await;
                cluster.cut("a", &["b", "c"], false);
                wait(5_000).await;
            }
        }
        Scenario::RegionThenPeerRestored => {
            let [of_a, of_c] = [cluster.backup(0), cluster.backup(2)];
            publish(cluster, 0, 0..10).await;
            cluster.restore(0, of_a).await;
            wait(10_000).await;
            // What a lost came back to it; now c loses the same and can only get it from a.
            cluster.restore(2, of_c).await;
        }
        Scenario::PeerCrashesInRepair => {
            let backup = cluster.backup(0);
            publish(cluster, 0, 0..200).await;
            cluster.restore(0, backup).await;
            wait([0, 2, 5, 10, 20, 40, 80, 500][seed as usize % 8]).await;
            for index in [1, 2] {
                cluster.crash(index);
                cluster.up(index).await;
            }
        }
        Scenario::OutsideOfTheOrder => {
            only_c_holds_it_outside_of_the_order(cluster).await;
            wait(20_000).await;
        }
        Scenario::OutsideOfTheOrderCrash => {
            only_c_holds_it_outside_of_the_order(cluster).await;
            cluster.crash(2);
            cluster.up(2).await;
        }
        Scenario::BothLoseOneKey => both_lose_one_key(cluster).await,
        Scenario::EvacuatedAndBack => {
            publish(cluster, 0, 0..20).await;
            if let Some(agent) = cluster.agent(0) {
                agent.drain();
            }
            wait(5_000).await;
            cluster.crash(0);
            for round in 0..30 {
                publish(cluster, 1 + round as usize % 2, 100 + round * 10..110 + round * 10).await;
            }
            cluster.up(0).await;
            publish(cluster, 0, 20..40).await;
        }
        Scenario::TwoPayloads => {
            cluster.cut("a", &["b", "c"], true);
            for (index, detail) in [(0, r#"{"n":1,"pass":true}"#), (1, r#"{"n":2,"pass":true}"#)] {
                super::cluster::lock(&cluster.history).attempt("same", detail, true);
                cluster.send(index, vec![("same".to_owned(), detail.to_owned())]);
            }
            wait(2_000).await;
            cluster.cut("a", &["b", "c"], false);
            wait(5_000).await;
            if let Some(agent) = cluster.agent(0).cloned() {
                let _ = agent.redrive(&Selection::default()).await;
            }
        }
        Scenario::CopyWritesOn => {
            publish(cluster, 0, 0..20).await;
            cluster.split(0).await;
            for round in 1..20 {
                publish(cluster, 0, round * 20..round * 20 + 10).await;
            }
            cluster.end_ghost(0).await;
        }
        Scenario::LastSyncFails => {
            cluster.nodes[0].disk.fail_syncs(1.0);
            cluster.publish_keys(0, 0..3);
            // The sync has begun, and takes some milliseconds.
            wait(1).await;
        }
        Scenario::LogTooSmall => log_too_small(cluster).await,
        Scenario::WaitedTooLong => {
            // A jump of the clock makes old what is not old: only the segment at its end stays for sure.
            cluster.crash(0);
            cluster.profile.segment_bytes = 16 << 20;
            cluster.up(0).await;
            publish(cluster, 0, 0..10).await;
            cluster.cut("a", &["b"], true);
            publish(cluster, 0, 10..30).await;
            cluster.nodes[0].clock.set_skew(16 * 86_400_000);
            wait(3_000).await;
            cluster.cut("a", &["b"], false);
            wait(10_000).await;
            if let Some(agent) = cluster.agent(0).cloned() {
                let _ = agent.redrive(&Selection { expired: true, ..Selection::default() }).await;
            }
            cluster.nodes[0].clock.set_skew(0);
        }
        Scenario::DeleteBesideIncrement => documents::delete_beside_increment(cluster).await,
        Scenario::EverybodyAway => documents::everybody_away(cluster).await,
        Scenario::CountedAnew => documents::counted_anew(cluster).await,
        Scenario::DeltaAfterForgotten => documents::delta_after_forgotten(cluster).await,
        Scenario::DocumentsRestored => documents::restored(cluster, seed).await,
        Scenario::RegistersByWrongClocks => documents::registers_by_wrong_clocks(cluster).await,
        Scenario::OneKeyTwoRegions => documents::one_key_two_regions(cluster).await,
        Scenario::ConflictCompared => documents::conflict_compared(cluster).await,
        Scenario::EvictedAndBack => documents::evicted_and_back(cluster, seed).await,
        Scenario::TwoOperators => regions::two_operators(cluster).await,
        Scenario::ApartAndBothReachC => regions::apart_and_both_reach_c(cluster).await,
        Scenario::ForcedOnBothSides => regions::forced_on_both_sides(cluster).await,
        Scenario::CoordinatorCrashes => regions::coordinator_crashes(cluster, seed).await,
        Scenario::LeftWithoutAPerson => regions::left_without_a_person(cluster).await,
    }
}

/// a can keep little, and b is away for long.
async fn log_too_small(cluster: &mut Cluster) {
    cluster.expects_losses = true;
    cluster.crash(0);
    // A reader goes on in the file that it has open; with small ones the next is gone as well.
    cluster.profile.segment_bytes = 16 << 10;
    cluster.nodes[0].log_bytes_max = Some(3 * cluster.profile.segment_bytes);
    cluster.up(0).await;
    publish(cluster, 0, 0..10).await;
    cluster.cut("a", &["b"], true);
    for round in 0..40 {
        publish(cluster, 0, 100 + round * 100..200 + round * 100).await;
        if cluster.agent(0).is_some_and(|agent| agent.hub.base() > 200) {
            break;
        }
    }
    // With more room, so that heartbeats do not go on to push out what is compared at the end.
    cluster.crash(0);
    cluster.nodes[0].log_bytes_max = None;
    cluster.up(0).await;
    cluster.cut("a", &["b"], false);
    wait(20_000).await;
    // A region that begins anew gets what the log still has.
    cluster.restore(1, super::disk::Image::default()).await;
    wait(20_000).await;
    // What b lacks is in the inventory, to the event; c has everything.
    let Some(agent) = cluster.agent(0).cloned() else { return };
    let status = agent.status();
    let losses: Vec<(u64, u64)> = status
        .links
        .iter()
        .filter(|link| link.peer == "b")
        .flat_map(|link| link.losses.iter().map(|loss| (loss.from, loss.to)))
        .collect();
    let hubs = cluster.hubs().await;
    let at_b: BTreeSet<&str> = hubs["b"].iter().map(|effect| effect.key.as_str()).collect();
    for effect in &hubs["c"] {
        let named = losses.iter().any(|(from, to)| (from + 1..=*to).contains(&effect.sequence));
        if named || effect.sequence <= agent.hub.base() && at_b.contains(effect.key.as_str()) {
            super::cluster::lock(&cluster.history).set_named(&effect.key);
        }
    }
}

/// c holds what b lost, and no mark of c's tells of it.
async fn only_c_holds_it_outside_of_the_order(cluster: &mut Cluster) {
    let [of_a, of_b, of_c] = [0, 1, 2].map(|index| cluster.backup(index));
    publish(cluster, 1, 0..10).await;
    cluster.net.change("b", "a", |quality| quality.cut = true);
    cluster.restore(0, of_a).await;
    if let Some(agent) = cluster.agent(1).cloned() {
        let _ = agent.pause("c", true).await;
    }
    cluster.restore(2, of_c).await;
    // The link does not know yet that c was restored.
    if let Some(agent) = cluster.agent(1).cloned() {
        let _ = agent.replay("c", None, None, false).await;
    }
    cluster.restore(1, of_b).await;
}

/// b and c both published the keys, lost their own, and have each other's; a has nothing.
async fn both_lose_one_key(cluster: &mut Cluster) {
    let [of_a, of_b, of_c] = [0, 1, 2].map(|index| cluster.backup(index));
    // c's own never reach a or b: b's come first.
    cluster.cut("c", &["a", "b"], true);
    publish(cluster, 1, 0..10).await;
    publish(cluster, 2, 0..10).await;
    // b loses its own, and gets c's.
    cluster.restore(0, of_a.clone()).await;
    cluster.restore(1, of_b).await;
    cluster.net.change("c", "b", |quality| quality.cut = false);
    wait(5_000).await;
    // c loses its own; b, of whose own there are none, gives back c's, which came to c from nobody.
    cluster.restore(2, of_c).await;
    cluster.restore(0, of_a).await;
    wait(2_000).await;
}
