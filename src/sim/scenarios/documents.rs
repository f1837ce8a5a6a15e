//! Histories of documents.

use std::time::Duration;

use super::{
    super::{Invariant, REGIONS, Violation, cluster::Cluster, later},
    wait,
};

const KEPT: &str = "kept0";
const MORTAL: &str = "mortal0";

/// Nothing passes between any two regions, or everything does.
fn apart(cluster: &Cluster, apart: bool) {
    cluster.cut("a", &["b", "c"], apart);
    cluster.cut("b", &["c"], apart);
}

async fn pause_all(cluster: &Cluster) {
    for (index, home) in REGIONS.into_iter().enumerate() {
        for peer in REGIONS.into_iter().filter(|peer| *peer != home) {
            if let Some(agent) = cluster.agent(index) {
                let _ = agent.pause(peer, true).await;
            }
        }
    }
}

/// The regions forget what was deleted.
async fn weeks_pass(cluster: &mut Cluster) {
    wait(3_000).await;
    cluster.pass(2 * later::horizon(cluster));
    later::await_forgotten(cluster).await;
}

pub async fn counted_anew(cluster: &mut Cluster) {
    for index in 0..REGIONS.len() {
        cluster.request(index, MORTAL, "", true);
    }
    cluster.settle_documents().await;
    cluster.delete_document(0, MORTAL);
    wait(3_000).await;
    cluster.pass(2 * later::horizon(cluster));
    let Some(begun) = later::begin_anew_early(cluster, MORTAL).await else { return };
    cluster.settle_documents().await;
    cluster.expect_members(MORTAL, &[begun]).await;
    later::await_forgotten(cluster).await;
}

pub async fn everybody_away(cluster: &mut Cluster) {
    cluster.expects_losses = true;
    let mut kept = Vec::new();
    for index in 0..REGIONS.len() {
        kept.push(cluster.request(index, KEPT, "", true));
    }
    cluster.settle_documents().await;
    apart(cluster, true);
    // Nobody else has this, and it is not among the documents on disk yet.
    kept.push(cluster.request(1, KEPT, "", true));
    wait(500).await;
    (0..REGIONS.len()).for_each(|index| cluster.crash(index));
    cluster.pass(2 * later::horizon(cluster));
    apart(cluster, false);
    for index in 0..REGIONS.len() {
        cluster.up(index).await;
    }
    cluster.settle_documents().await;
    cluster.expect_members(KEPT, &kept).await;
}

pub async fn delete_beside_increment(cluster: &mut Cluster) {
    cluster.request(2, MORTAL, "", true);
    cluster.settle_documents().await;
    apart(cluster, true);
    cluster.delete_document(0, MORTAL);
    let beside = cluster.request(1, MORTAL, "", true);
    cluster.delete_document(2, MORTAL);
    wait(3_000).await;
    apart(cluster, false);
    cluster.settle_documents().await;
    cluster.expect_members(MORTAL, &[beside]).await;
}

pub async fn delta_after_forgotten(cluster: &mut Cluster) {
    cluster.expects_losses = true;
    // A jump of the clock makes old what is not old: only the segment at its end stays for sure.
    (0..REGIONS.len()).for_each(|index| cluster.crash(index));
    cluster.profile.segment_bytes = 16 << 20;
    for index in 0..REGIONS.len() {
        cluster.up(index).await;
    }
    if let Some(agent) = cluster.agent(0).cloned() {
        let _ = agent.pause("b", true).await;
    }
    cluster.request(0, MORTAL, "", true);
    wait(3_000).await;
    cluster.delete_document(2, MORTAL);
    cluster.settle_documents().await;
    weeks_pass(cluster).await;
    // Links send nothing of that age, unless somebody sets the clock back.
    cluster.nodes[0].clock.set_skew(0);
    if let Some(agent) = cluster.agent(0).cloned() {
        let _ = agent.pause("b", false).await;
    }
    wait(20_000).await;
    cluster.settle_documents().await;
    cluster.expect_members(MORTAL, &[]).await;
}

pub async fn restored(cluster: &mut Cluster, seed: u64) {
    cluster.expects_losses = true;
    let before = [cluster.request(0, KEPT, "", true), cluster.request(1, KEPT, "", false)];
    cluster.request(0, MORTAL, "", true);
    cluster.settle_documents().await;
    wait(3_000).await;
    let copy = cluster.backup(0);
    cluster.delete_document(1, MORTAL);
    let after = cluster.request(0, KEPT, "", true);
    cluster.settle_documents().await;
    match seed % 2 {
        0 => weeks_pass(cluster).await,
        _ => cluster.pass(Duration::from_secs(86_400)),
    }
    cluster.restore(0, copy).await;
    cluster.settle_documents().await;
    let again = cluster.request(0, KEPT, "", true);
    cluster.settle_documents().await;
    cluster.expect_members(KEPT, &[before[0], before[1], after, again]).await;
    cluster.expect_members(MORTAL, &[]).await;
}

/// A region is away for weeks, and the others forget without it. Then it is back with what was deleted, and with requests
/// that nobody else has.
pub async fn evicted_and_back(cluster: &mut Cluster, seed: u64) {
    const GONE: &str = "mortal1";
    cluster.expects_losses = true;
    let mut kept: Vec<usize> = (0..3).map(|index| cluster.request(index, KEPT, "", index != 1)).collect();
    cluster.request(0, MORTAL, "", true);
    cluster.request(2, MORTAL, "", false);
    cluster.request(2, GONE, "", false);
    cluster.settle_documents().await;
    cluster.cut("c", &["a", "b"], true);
    kept.push(cluster.request(2, KEPT, r#",{"field":"name","op":"set","value":"late"}"#, true));
    kept.push(cluster.request(2, KEPT, "", false));
    wait(3_000).await;
    cluster.delete_document(2, MORTAL);
    wait(3_000).await;
    let beside = cluster.request(2, MORTAL, "", false);
    wait(3_000).await;
    later::leave_out(cluster, 0, "c").await;
    for id in [MORTAL, GONE] {
        cluster.delete_document(0, id);
    }
    kept.push(cluster.request(1, KEPT, "", true));
    wait(3_000).await;
    // Done by c, tried again elsewhere.
    cluster.ask(1, kept[3]);
    if seed.is_multiple_of(3) {
        cluster.crash(2);
    }
    if seed.is_multiple_of(2) {
        cluster.pass(2 * later::horizon(cluster));
        later::await_forgotten_by(cluster, &[0, 1]).await;
    }
    if seed.is_multiple_of(3) {
        cluster.up(2).await;
    }
    cluster.cut("c", &["a", "b"], false);
    if seed % 3 == 1 {
        // In the middle of it.
        wait(300 * (seed % 40)).await;
        cluster.crash(2);
        wait(1_000).await;
        cluster.up(2).await;
    }
    if seed % 5 == 4 {
        // Once more, before it has done everything again.
        wait(250 * (seed % 40)).await;
        if let Some(agent) = cluster.agent(1).cloned() {
            let again = agent.evictions().evict("c", "a simulated operator", "").await;
            cluster.trace.note(&format!("evicted again: {again:?}"));
        }
    }
    cluster.settle_documents().await;
    later::take_back(cluster, 0, "c").await;
    kept.push(cluster.request(2, KEPT, "", true));
    wait(3_000).await;
    cluster.settle_documents().await;
    cluster.expect_members(KEPT, &kept).await;
    cluster.expect_members(MORTAL, &[beside]).await;
    cluster.expect_members(GONE, &[]).await;
    cluster.expect_field(KEPT, "name", "late").await;
}

fn name(cluster: &mut Cluster, index: usize, name: &str) {
    cluster.request(index, KEPT, &format!(r#",{{"field":"name","op":"set","value":"{name}"}}"#), true);
}

pub async fn registers_by_wrong_clocks(cluster: &mut Cluster) {
    cluster.nodes[0].clock.set_skew(600_000);
    cluster.nodes[1].clock.set_skew(-600_000);
    // Whoever has seen the other's write comes after it, whatever the clocks say.
    for (index, value) in [(0, "first"), (1, "second"), (0, "third"), (1, "fourth")] {
        name(cluster, index, value);
        cluster.settle_documents().await;
        cluster.expect_field(KEPT, "name", value).await;
    }
    apart(cluster, true);
    name(cluster, 0, "ahead");
    name(cluster, 1, "behind");
    wait(3_000).await;
    apart(cluster, false);
    cluster.settle_documents().await;
    name(cluster, 1, "last");
    cluster.settle_documents().await;
    cluster.expect_field(KEPT, "name", "last").await;
}

pub async fn one_key_two_regions(cluster: &mut Cluster) {
    apart(cluster, true);
    let [kept, mortal] = [KEPT, MORTAL].map(|id| cluster.request(0, id, "", true));
    cluster.ask(1, kept);
    cluster.ask(1, mortal);
    wait(3_000).await;
    // Done in a, done and undone in b.
    cluster.delete_document(1, MORTAL);
    wait(3_000).await;
    apart(cluster, false);
    cluster.settle_documents().await;
    // Everybody knows the key by now.
    cluster.ask(2, kept);
    cluster.settle_documents().await;
    cluster.expect_members(KEPT, &[kept]).await;
    cluster.expect_members(MORTAL, &[]).await;
}

pub async fn conflict_compared(cluster: &mut Cluster) {
    pause_all(cluster).await;
    for (index, value) in [(0, 1), (1, 2)] {
        let set = |field: &str| format!(r#",{{"field":"{field}","op":"set","value":{value}}}"#);
        cluster.request(index, KEPT, &(set("name") + &set("nick")), true);
    }
    cluster.settle_documents().await;
    for (index, region) in REGIONS.into_iter().enumerate() {
        let told = cluster.told(index).await.len();
        if told != 2 {
            let what = format!("{region}: {told} conflicts are told, not 2");
            cluster.violations.push(Violation::new(Invariant::Told, what));
        }
    }
}
