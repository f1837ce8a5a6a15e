use super::*;

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..4 {
        let runs = [0, 1].map(|_| run(seed, &Settings::default()).unwrap());
        assert_eq!(runs[0].hash, runs[1].hash, "seed {seed}");
        assert_eq!(runs[0].events, runs[1].events);
    }
}

#[test]
fn no_acknowledged_event_is_lost_none_applied_twice_and_all_regions_become_equal() {
    for seed in 0..60 {
        let outcome = run(seed, &Settings::default()).unwrap();
        assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
    }
}

/// A scenario without faults but those that it makes itself.
fn scenario(play: impl AsyncFnOnce(&mut cluster::Cluster)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let settings = Settings { faults: BTreeSet::new(), lines: true, ..Settings::default() };
        let mut cluster = cluster::Cluster::start(7, &settings).await.unwrap();
        play(&mut cluster).await;
        cluster.heal_and_converge().await;
        let outcome = cluster.outcome(7);
        assert!(outcome.violations.is_empty(), "{:#?}\n{}", outcome.violations, outcome.lines.join("\n"));
    });
}

async fn publish(cluster: &mut cluster::Cluster, index: usize, keys: std::ops::Range<u32>) {
    cluster.publish_keys(index, keys);
    wait(2_000).await;
}

async fn wait(milliseconds: u64) {
    tokio::time::sleep(std::time::Duration::from_millis(milliseconds)).await;
}

#[test]
fn a_region_and_then_its_peer_are_restored() {
    scenario(async |cluster| {
        let backups = [cluster.backup(0), cluster.backup(2)];
        publish(cluster, 0, 0..10).await;
        let [of_a, of_c] = backups;
        cluster.restore(0, of_a).await;
        wait(10_000).await;
        // What a lost came back to it; now c loses the same and can only get it from a.
        cluster.restore(2, of_c).await;
    });
}

#[test]
fn a_peer_crashes_while_it_sends_back_what_a_restored_region_lost() {
    for after in [0, 2, 5, 10, 20, 40, 80, 500] {
        scenario(async |cluster| {
            let backup = cluster.backup(0);
            publish(cluster, 0, 0..200).await;
            cluster.restore(0, backup).await;
            wait(after).await;
            for index in [1, 2] {
                cluster.crash(index);
                cluster.up(index).await;
            }
        });
    }
}

#[test]
fn one_backup_is_restored_twice_with_the_peers_unreachable() {
    scenario(async |cluster| {
        let backup = cluster.backup(0);
        publish(cluster, 0, 0..10).await;
        for round in 1..3 {
            for peer in ["b", "c"] {
                cluster.net.change("a", peer, |quality| quality.cut = true);
                cluster.net.change(peer, "a", |quality| quality.cut = true);
            }
            cluster.restore(0, backup.clone()).await;
            publish(cluster, 0, round * 100..round * 100 + 10).await;
            cluster.net.heal();
            wait(5_000).await;
        }
    });
}

#[test]
fn a_sync_that_is_under_way_while_everything_heals_may_still_fail() {
    scenario(async |cluster| {
        cluster.nodes[0].disk.fail_syncs(1.0);
        cluster.publish_keys(0, 0..3);
        wait(0).await;
    });
}

/// c holds what b lost, and no mark of c's tells of it.
async fn only_c_holds_it_outside_of_the_order(cluster: &mut cluster::Cluster) {
    let backups = [0, 1, 2].map(|index| cluster.backup(index));
    publish(cluster, 1, 0..10).await;
    let [of_a, of_b, of_c] = backups;
    cluster.net.change("b", "a", |quality| quality.cut = true);
    cluster.restore(0, of_a).await;
    cluster.agent(1).unwrap().clone().pause("c", true).await.unwrap();
    cluster.restore(2, of_c).await;
    // The link does not know yet that c was restored.
    let report = cluster.agent(1).unwrap().clone().replay("c", None, None, false).await.unwrap();
    assert_eq!(report.delivered, 10);
    cluster.restore(1, of_b).await;
}

#[test]
fn a_region_that_lost_what_a_peer_holds_outside_of_the_order_gets_it_back() {
    scenario(async |cluster| {
        only_c_holds_it_outside_of_the_order(cluster).await;
        wait(20_000).await;
    });
}

#[test]
fn so_it_does_when_the_peer_crashes_before_it_says_so() {
    scenario(async |cluster| {
        only_c_holds_it_outside_of_the_order(cluster).await;
        cluster.crash(2);
        cluster.up(2).await;
    });
}
