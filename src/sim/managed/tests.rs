use std::sync::Arc;

use super::{
    scenarios::{self, Scenario},
    wire::{Caller, Wire},
    *,
};
use crate::{
    planted::{self, Bug},
    ports::{clock::Clock, conformance},
    sim::{Invariant, clock::SimClock, trace::SharedTrace},
};

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..6 {
        let runs = [0, 1].map(|_| run(seed, &Settings::default()).unwrap());
        assert_eq!(runs[0].hash, runs[1].hash, "seed {seed}");
    }
}

#[test]
fn no_acknowledged_event_is_lost_and_every_repeat_was_counted() {
    for seed in 0..60 {
        let outcome = run(seed, &Settings::default()).unwrap();
        assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
    }
}

/// The outcome of a scenario in which nothing is violated.
fn played(scenario: Scenario, seed: u64) -> Outcome {
    let outcome = scenarios::run(scenario, seed).unwrap();
    assert!(
        outcome.violations.is_empty(),
        "{scenario:?} {seed}: {:#?}\n{}",
        outcome.violations,
        outcome.lines.join("\n")
    );
    outcome
}

#[test]
fn a_claim_whose_answer_was_lost_is_ones_own_and_makes_one_effect() {
    for seed in 0..5 {
        let outcome = played(Scenario::ClaimReplyLost, seed);
        assert_eq!((outcome.events, outcome.repeats, outcome.possible_repeats), (3, 0, 0));
    }
}

#[test]
fn messages_that_others_receive_meanwhile_make_one_effect() {
    for seed in 0..5 {
        let outcome = played(Scenario::VisibilityExpires, seed);
        assert_eq!((outcome.events, outcome.repeats), (60, 0));
    }
}

#[test]
fn what_comes_a_day_late_is_known_by_then() {
    let outcome = played(Scenario::DayLate, 1);
    assert_eq!((outcome.events, outcome.repeats, outcome.possible_repeats), (3, 0, 0));
    assert!(outcome.virtual_seconds > 86_400.0);
}

#[test]
fn an_agent_killed_between_put_and_mark_makes_repeats_and_each_is_counted() {
    let outcomes: Vec<Outcome> = (0..5).map(|seed| played(Scenario::KilledBetweenPutAndMark, seed)).collect();
    assert!(outcomes.iter().any(|outcome| outcome.repeats > 0));
    assert!(outcomes.iter().all(|outcome| outcome.repeats <= outcome.possible_repeats));
}

#[test]
fn one_key_with_two_payloads_stays_as_each_region_saw_it_first_and_is_in_the_dead_letters() {
    for seed in 0..5 {
        let outcome = played(Scenario::TwoPayloads, seed);
        assert_eq!((outcome.events, outcome.repeats), (3, 0), "the third region has one of the two");
    }
}

#[test]
fn an_event_with_an_inherited_stamp_and_key_reaches_every_region_as_a_new_one() {
    for seed in 0..5 {
        let outcome = played(Scenario::InheritedStamp, seed);
        assert_eq!((outcome.events, outcome.repeats), (6, 0));
    }
}

#[test]
fn a_late_holder_finds_its_claim_gone_and_every_repeat_is_counted() {
    let outcomes: Vec<Outcome> = (0..5).map(|seed| played(Scenario::LateHolderComesBack, seed)).collect();
    assert!(outcomes.iter().any(|outcome| outcome.repeats > 0));
}

#[test]
fn documents_changed_apart_unheard_or_by_an_agent_that_died_become_equal_and_nothing_counts_twice() {
    for (scenario, requests) in [
        (Scenario::DocumentsApart, (6, 0, 1)),
        (Scenario::TableUnanswered, (4, 1, 0)),
        (Scenario::KilledBetweenTableAndBus, (0, 0, 0)),
    ] {
        for seed in 0..5 {
            assert_eq!(played(scenario, seed).requests, requests, "{scenario:?} {seed}");
        }
    }
}

#[test]
fn deletes_are_forgotten_and_what_was_said_before_brings_nothing_back() {
    for seed in 0..5 {
        played(Scenario::DeletesForgotten, seed);
    }
}

#[test]
fn planted_bugs_are_found() {
    for (bug, invariants) in [
        (Bug::DuplicateAgainstLiveClaim, &[Invariant::Delivered][..]),
        (Bug::BatchAcknowledgedOnPartialFailure, &[Invariant::Delivered]),
        (Bug::LeaseWithoutFencing, &[Invariant::Fenced]),
        (Bug::LeaseFromAnswer, &[Invariant::Lease]),
        (Bug::LeaseByWallClock, &[Invariant::Lease]),
        (Bug::DeletedBeforeMark, &[Invariant::Durable]),
        (Bug::RepeatNotCounted, &[Invariant::Counted]),
        (Bug::DeadLetterCountsAsDelivered, &[Invariant::Delivered]),
        (Bug::ItemUnconditioned, &[Invariant::OneEffect, Invariant::Durable, Invariant::Delivered, Invariant::Sums]),
        (Bug::SumsApart, &[Invariant::Sums]),
        (Bug::WriteRepeatedBlindly, &[Invariant::OneEffect]),
        (Bug::CoveredCountsAsDone, &[Invariant::Durable]),
        (Bug::NeverCompared, &[Invariant::Delivered]),
        (Bug::ConflictUntold, &[Invariant::Told]),
    ] {
        planted::plant(Some(bug));
        let found = (0..300).find(|seed| {
            let outcome = run(*seed, &Settings::default()).unwrap();
            outcome.violations.iter().any(|violation| invariants.contains(&violation.invariant))
        });
        planted::plant(None);
        println!("{bug:?} by seed {found:?}");
        assert!(found.is_some(), "{bug:?} is not found");
    }
}

/// One region's services, with nothing wrong, and somebody who calls them.
fn services() -> (Arc<Wire>, Caller, Arc<SimClock>, SharedTrace) {
    let started = Instant::now();
    let trace = SharedTrace::new(started, false);
    let wire = Wire::new(1, trace.clone());
    let caller = Caller { agent: "a0".to_owned(), life: 1, home: "a" };
    wire.begin(&caller);
    (wire, caller, Arc::new(SimClock::new(started, 0)), trace)
}

#[tokio::test(start_paused = true)]
async fn the_simulated_queue_keeps_its_contract() {
    let (wire, caller, _, _) = services();
    let store = queue::Store::new(1, "q".to_owned(), Instant::now());
    conformance::queue(Arc::new(queue::SimQueue { store, region: "a", caller, wire })).await;
}

#[tokio::test(start_paused = true)]
async fn the_simulated_ledger_keeps_its_contract() {
    let (wire, caller, clock, _) = services();
    let store = ledger::Store::new(1, "a", SharedTrace::new(Instant::now(), false));
    let now = clock.now();
    let claims = Arc::new(ledger::SimClaims { store, region: "a", caller, wire, clock });
    conformance::claims(claims.clone(), 1, now).await;
    conformance::racing_claims(claims, 2, now).await;
}

#[tokio::test(start_paused = true)]
async fn the_simulated_bus_keeps_its_contract() {
    let (wire, caller, _, trace) = services();
    let started = Instant::now();
    let targets = bus::Targets::unheard(started);
    let store = bus::Store::new(1, "a", started, trace.clone(), targets, Arc::default());
    let ledger = ledger::Store::new(1, "a", trace);
    conformance::bus(Arc::new(bus::SimBus { store, region: "a", caller, wire, ledger, attempt: Duration::ZERO })).await;
}

#[tokio::test(start_paused = true)]
async fn the_simulated_table_keeps_its_contract() {
    let (wire, caller, _, trace) = services();
    let store = items::Store::new(1, "a", trace);
    conformance::items::check(&items::SimItems { store, region: "a", caller, wire }).await;
}
