use super::*;

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..4 {
        let runs = [0, 1].map(|_| run(seed, &Settings::default()).unwrap());
        assert_eq!(runs[0].hash, runs[1].hash, "seed {seed}");
    }
}

#[test]
fn no_acknowledged_event_is_lost_and_every_repeat_was_counted() {
    let (from, to) = match std::env::var("SEEDS") {
        Ok(text) => text.split_once("..").map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap())).unwrap(),
        Err(_) => (0, 60),
    };
    let mut sums = [0u64; 6];
    let mut slowest = 0.0f64;
    for seed in from..to {
        let outcome = run(seed, &Settings::default()).unwrap();
        if !outcome.violations.is_empty() {
            println!("seed {seed}: {:#?}", outcome.violations);
        }
        for (sum, n) in sums.iter_mut().zip([
            outcome.acknowledged,
            outcome.duplicates,
            outcome.conflicts,
            outcome.events,
            outcome.repeats,
            outcome.possible_repeats,
        ]) {
            *sum += n;
        }
        slowest = slowest.max(outcome.converged_seconds);
        println!(
            "{seed} ack {} rep {}/{} conv {}",
            outcome.acknowledged, outcome.repeats, outcome.possible_repeats, outcome.converged_seconds
        );
    }
    println!("{sums:?} {slowest}");
}
