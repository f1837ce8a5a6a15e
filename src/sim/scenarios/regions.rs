//! Histories of regions that are left and come back.

use std::time::Duration;

use tokio::time::sleep;

use super::{publish, wait};
use crate::{
    agent::regions::failover::Request,
    core::region::State,
    sim::{
        Invariant, REGIONS, Violation,
        cluster::Cluster,
        regions::{Move, perform, request},
    },
};

/// What each region takes each other for, as far as it is up.
fn decided(cluster: &Cluster, by: usize) -> Option<[State; 3]> {
    let view = cluster.agent(by)?.regions.view();
    Some(REGIONS.map(|region| view.decided(region)))
}

fn demand(cluster: &mut Cluster, holds: bool, what: &str) {
    if !holds {
        cluster.violations.push(Violation::new(Invariant::Serving, what));
    }
}

/// Has one agent do something, and does not wait for it.
fn order(cluster: &Cluster, by: usize, region: &'static str, of: Move) {
    if let Some(agent) = cluster.agent(by).cloned() {
        let trace = cluster.trace.clone();
        tokio::spawn(async move {
            let done = perform(&agent, &request(region, of), of).await;
            trace.note(&format!("{of:?} {region}: {done:?}"));
        });
    }
}

/// Two operators at two agents want each other's region evacuated, then the same one, and back, all at once.
pub async fn two_operators(cluster: &mut Cluster) {
    publish(cluster, 0, 0..20).await;
    for (one, other) in [(Move::Ungraceful, Move::Ungraceful), (Move::Graceful, Move::Ungraceful)] {
        order(cluster, 0, "b", one);
        order(cluster, 1, "a", other);
        wait(5_000).await;
        cluster.check_regions();
        order(cluster, 2, "c", Move::Graceful);
        wait(2_000).await;
        cluster.check_regions();
        for region in REGIONS {
            order(cluster, 0, region, Move::Back);
            order(cluster, 2, region, Move::Back);
        }
        wait(30_000).await;
        cluster.check_regions();
    }
    publish(cluster, 1, 20..40).await;
}

/// a and b cannot talk, both reach c, and each wants the other evacuated.
pub async fn apart_and_both_reach_c(cluster: &mut Cluster) {
    publish(cluster, 0, 0..20).await;
    cluster.cut("a", &["b"], true);
    wait(5_000).await;
    order(cluster, 0, "b", Move::Ungraceful);
    order(cluster, 1, "a", Move::Ungraceful);
    wait(20_000).await;
    cluster.check_regions();
    if let Some([a, b, c]) = decided(cluster, 2) {
        let left = [a, b].into_iter().filter(|state| *state == State::Evacuated).count();
        demand(cluster, (1..=2).contains(&left) && c == State::Active, &format!("c holds {a:?} {b:?} {c:?}"));
    }
    publish(cluster, 0, 20..40).await;
    publish(cluster, 1, 40..60).await;
    cluster.cut("a", &["b"], false);
    wait(5_000).await;
    cluster.check_regions();
    for by in 0..3 {
        let states = decided(cluster, by);
        demand(cluster, states == decided(cluster, 0), "two regions hold something else after they met");
    }
}

/// Nobody reaches anybody, and each region's operator evacuates the other two by force.
pub async fn forced_on_both_sides(cluster: &mut Cluster) {
    publish(cluster, 0, 0..20).await;
    for (from, to) in [("a", ["b", "c"]), ("b", ["a", "c"]), ("c", ["a", "b"])] {
        cluster.cut(from, &to, true);
    }
    wait(3_000).await;
    for by in 0..3 {
        let Some(agent) = cluster.agent(by).cloned() else { return };
        for region in REGIONS.into_iter().filter(|region| *region != agent.region) {
            let unforced = perform(&agent, &request(region, Move::Ungraceful), Move::Ungraceful).await;
            demand(cluster, unforced.is_err(), "one of three is no majority");
            let forced = Request { force: true, alone: true, ..request(region, Move::Ungraceful) };
            let done = agent.commands().evacuate(&forced).await;
            demand(cluster, done.is_ok_and(|done| done.forced), "force needs no majority");
        }
    }
    publish(cluster, 2, 20..40).await;
    for (from, to) in [("a", ["b", "c"]), ("b", ["a", "c"]), ("c", ["a", "b"])] {
        cluster.cut(from, &to, false);
    }
    wait(15_000).await;
    for by in 0..3 {
        let Some(agent) = cluster.agent(by).cloned() else { return };
        let states = agent.regions.view().states(&agent.regions.members);
        let serving: Vec<&str> =
            states.iter().filter(|(_, state)| **state == State::Active).map(|(region, _)| region.as_str()).collect();
        demand(cluster, serving == ["a"], &format!("the first in file order serves, not {serving:?}"));
    }
    // What was forced is taken back by those who know better: it is no part of what is promised of unforced commands.
    let Some(agent) = cluster.agent(0).cloned() else { return };
    for region in REGIONS {
        let back = Request { force: true, ..request(region, Move::Back) };
        let done = agent.commands().fail_back(&back).await;
        demand(cluster, done.is_ok(), &format!("{region} does not come back: {done:?}"));
    }
}

/// The agent that coordinates crashes at some moment; the command is typed again at another one.
pub async fn coordinator_crashes(cluster: &mut Cluster, seed: u64) {
    publish(cluster, 1, 0..20).await;
    for of in [Move::Graceful, Move::Back, Move::Ungraceful, Move::Back] {
        order(cluster, 0, "b", of);
        sleep(Duration::from_millis([0, 1, 3, 8, 20, 60, 150, 400][seed as usize % 8])).await;
        cluster.crash(0);
        order(cluster, 2, "b", of);
        wait(3_000).await;
        cluster.check_regions();
        cluster.up(0).await;
        order(cluster, 2, "b", of);
        wait(25_000).await;
        cluster.check_regions();
        let state = decided(cluster, 2).map(|[_, b, _]| b);
        let wanted = if of == Move::Back { State::Active } else { State::Evacuated };
        demand(cluster, state == Some(wanted), &format!("{of:?} of b ended with {state:?}"));
    }
}

/// With `failover.auto`: a and b do not hear each other, which c does, so nobody is left; then b dies.
pub async fn left_without_a_person(cluster: &mut Cluster) {
    (0..REGIONS.len()).for_each(|index| cluster.crash(index));
    cluster.profile.auto = true;
    for index in 0..REGIONS.len() {
        cluster.up(index).await;
    }
    publish(cluster, 1, 0..20).await;
    cluster.cut("a", &["b"], true);
    // Four heartbeats of up to ten seconds until a region is suspected, and the time that is configured.
    wait(90_000).await;
    for by in 0..3 {
        let states = decided(cluster, by);
        demand(cluster, states == Some([State::Active; 3]), &format!("one that does not hear decides: {states:?}"));
    }
    cluster.cut("a", &["b"], false);
    wait(45_000).await;
    cluster.crash(1);
    wait(90_000).await;
    for by in [0, 2] {
        let states = decided(cluster, by);
        let wanted = Some([State::Active, State::Evacuated, State::Active]);
        demand(cluster, states == wanted, &format!("b was lost, and {} holds {states:?}", REGIONS[by]));
    }
    cluster.up(1).await;
    wait(15_000).await;
    let state = decided(cluster, 1).map(|[_, b, _]| b);
    demand(cluster, state == Some(State::Evacuated), "b does not know that it was left");
}
