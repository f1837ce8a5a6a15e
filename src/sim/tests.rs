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
