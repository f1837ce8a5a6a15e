use super::{scenarios::Scenario, *};
use crate::planted::{self, Bug};

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
    for seed in 0..30 {
        let outcome = run(seed, &Settings::default()).unwrap();
        assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
    }
}

#[test]
fn every_scenario_ends_well() {
    for scenario in Scenario::ALL {
        for seed in 0..8 {
            let outcome = scenarios::run(scenario, seed).unwrap();
            let why = || format!("{scenario:?} {seed}: {:#?}\n{}", outcome.violations, outcome.lines.join("\n"));
            assert!(outcome.violations.is_empty(), "{}", why());
        }
    }
}

#[test]
fn a_planted_bug_is_found_and_gone_with_its_switch() {
    planted::plant(Some(Bug::CursorBeforeDelivery));
    let found = (0..40).find(|seed| !run(*seed, &Settings::default()).unwrap().violations.is_empty());
    planted::plant(None);
    let seed = found.expect("no seed found it");
    assert!(run(seed, &Settings::default()).unwrap().violations.is_empty());
}
