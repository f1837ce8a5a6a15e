//! The laws of merging under random requests, deletes, repeats, restores and lost deltas, of whole documents.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{
    delta::Delta,
    digest::Digest,
    document::Document,
    op::Slot,
    testing::{Region, key},
    *,
};
use crate::core::time::Timestamp;

/// What happens to three regions.
#[derive(Clone, Debug)]
enum Step {
    Do {
        region: usize,
        request: Option<u8>,
        ops: Vec<usize>,
    },
    Delete {
        region: usize,
    },
    /// The nth delta that was ever made arrives.
    Deliver {
        region: usize,
        nth: usize,
    },
    /// The whole of one merges into the other.
    Whole {
        from: usize,
        to: usize,
    },
    /// A region begins anew from what it was some steps ago, as a new replica.
    Restore {
        region: usize,
        ago: usize,
    },
}

const CATALOGUE: [&str; 14] = [
    r#"{"field":"watchlist","op":"add","value":"m1"}"#,
    r#"{"field":"watchlist","op":"add","value":"m2"}"#,
    r#"{"field":"watchlist","op":"remove","value":"m1"}"#,
    r#"{"field":"plays","op":"increment","by":1}"#,
    r#"{"field":"plays","op":"increment","by":-3}"#,
    r#"{"field":"language","op":"set","value":"de"}"#,
    r#"{"field":"language","op":"set","value":"fr"}"#,
    r#"{"field":"nickname","op":"set","value":7}"#,
    r#"{"field":"best","op":"max","value":5}"#,
    r#"{"field":"best","op":"max","value":4}"#,
    r#"{"field":"worst","op":"min","value":2}"#,
    r#"{"field":"kids_mode","op":"enable"}"#,
    r#"{"field":"kids_mode","op":"disable"}"#,
    r#"{"field":"seats","key":["a","b"],"op":"add","value":true}"#,
];

fn step() -> impl Strategy<Value = Step> {
    let region = 0..3usize;
    prop_oneof![
        6 => (region.clone(), proptest::option::weighted(0.4, 0..4u8), proptest::collection::vec(0..CATALOGUE.len(), 1..4))
            .prop_map(|(region, request, ops)| Step::Do { region, request, ops }),
        1 => region.clone().prop_map(|region| Step::Delete { region }),
        8 => (region.clone(), 0..60usize).prop_map(|(region, nth)| Step::Deliver { region, nth }),
        2 => (region.clone(), region.clone()).prop_map(|(from, to)| Step::Whole { from, to }),
        1 => (region, 1..6usize).prop_map(|(region, ago)| Step::Restore { region, ago }),
    ]
}

struct World {
    regions: Vec<Region>,
    past: Vec<Vec<Region>>,
    deltas: Vec<Delta>,
    replicas: u64,
    now: u64,
}

impl World {
    fn run(steps: &[Step]) -> World {
        let mut world = World {
            regions: (1..=3).map(Region::new).collect(),
            past: Vec::new(),
            deltas: Vec::new(),
            replicas: 3,
            now: 100,
        };
        for step in steps {
            world.past.push(world.regions.clone());
            world.step(step);
        }
        world
    }

    fn step(&mut self, step: &Step) {
        self.now += 10;
        match step {
            Step::Do { region, request, ops: chosen } => {
                let text: Vec<&str> = chosen.iter().map(|nth| CATALOGUE[*nth]).collect();
                // The clocks of regions differ by more than a step.
                let at = self.now - 35 * *region as u64 / 2;
                let region = &mut self.regions[*region];
                let delta = match request {
                    // One key always names the same operations.
                    Some(request) => {
                        let fixed = [CATALOGUE[3], CATALOGUE[usize::from(*request)], CATALOGUE[5]].join(",");
                        region.keyed(at, &request.to_string(), &fixed)
                    }
                    None => Some(region.run(at, &text.join(","))),
                };
                self.deltas.extend(delta);
            }
            Step::Delete { region } => {
                let delta = self.regions[*region].delete(self.now);
                self.deltas.extend(delta);
            }
            Step::Deliver { region, nth } => {
                if let Some(delta) = self.deltas.get(*nth).cloned() {
                    self.regions[*region].hear(&delta);
                }
            }
            Step::Whole { from, to } => {
                let whole = self.regions[*from].document.clone();
                self.regions[*to].document.merge(&whole);
            }
            Step::Restore { region, ago } => {
                let Some(then) = self.past.len().checked_sub(*ago) else { return };
                self.replicas += 1;
                let mut old = self.past[then][*region].clone();
                (old.replica, old.given) = (self.replicas, 0);
                self.regions[*region] = old;
            }
        }
    }

    /// Everything that any region still has reaches every region, whole.
    fn meet(&mut self) {
        for _ in 0..2 {
            for (from, to) in [(0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2)] {
                self.step(&Step::Whole { from, to });
            }
        }
    }
}

/// What a counter must be: of the requests that the document has seen, those not deleted, each key once.
fn expected_count(document: &Document, deltas: &[Delta]) -> i128 {
    let plays = Slot { field: "plays".into(), keys: Vec::new() };
    let seen: Vec<&Delta> = deltas.iter().filter(|delta| document.clock().covers(delta.dot())).collect();
    let deleted = |dot: Dot| seen.iter().any(|delta| delta.deleted.as_ref().is_some_and(|clock| clock.covers(dot)));
    // One that was deleted counts for all of its repeats.
    let mut first = BTreeMap::<Request, (bool, Timestamp, Dot)>::new();
    for delta in &seen {
        if let Some((request, done)) = &delta.request {
            let at = (!deleted(delta.dot()), done.at, delta.dot());
            let known = first.entry(*request).or_insert(at);
            *known = (*known).min(at);
        }
    }
    let mut before = BTreeMap::<(Replica, u64), i128>::new();
    let mut sums: BTreeMap<Replica, Vec<(u64, i128)>> = BTreeMap::new();
    for delta in deltas {
        for (slot, tally) in delta.tallies.iter().filter(|(slot, _)| *slot == plays) {
            let _ = slot;
            sums.entry(delta.replica).or_default().push((delta.to, tally.plus as i128 - tally.minus as i128));
        }
    }
    for (replica, sums) in &sums {
        let mut last = 0;
        for (number, sum) in sums {
            before.insert((*replica, *number), sum - last);
            last = *sum;
        }
    }
    seen.iter()
        .filter(|delta| !deleted(delta.dot()))
        .filter(|delta| {
            delta
                .request
                .as_ref()
                .is_none_or(|(request, _)| first.get(request).is_some_and(|(_, _, dot)| *dot == delta.dot()))
        })
        .filter_map(|delta| before.get(&(delta.replica, delta.to)))
        .sum()
}

fn cases(number: u32) -> ProptestConfig {
    ProptestConfig { cases: number, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(10_000))]

    #[test]
    fn merging_is_commutative_associative_idempotent_and_inflationary(
        steps in proptest::collection::vec(step(), 1..40)
    ) {
        let world = World::run(&steps);
        let [a, b, c] = [0, 1, 2].map(|nth| world.regions[nth].document.clone());
        let join = |left: &Document, right: &Document| {
            let mut left = left.clone();
            left.merge(right);
            left
        };
        prop_assert_eq!(join(&a, &b), join(&b, &a));
        prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
        prop_assert_eq!(join(&a, &a), a.clone());
        let joined = join(&a, &b);
        prop_assert_eq!(join(&joined, &a), joined.clone());
        prop_assert!(joined.clock().includes(a.clock()) && joined.clock().includes(b.clock()));
    }

    #[test]
    fn regions_converge_and_every_count_is_exact(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::run(&steps);
        for region in &world.regions {
            let plays = Slot { field: "plays".into(), keys: Vec::new() };
            prop_assert_eq!(region.document.count(&plays), expected_count(&region.document, &world.deltas));
        }
        world.meet();
        let document = world.regions[0].document.clone();
        for region in &world.regions {
            prop_assert_eq!(&region.document, &document);
            prop_assert_eq!(Digest::of(&key(), &region.document), Digest::of(&key(), &document));
        }
        prop_assert_eq!(Document::decode(&document.encode()).unwrap(), document.clone());
        // What a delete saw is gone: whatever is left was written by a request that no delete had seen.
        let dots: BTreeSet<Dot> = document.cells.values().flat_map(|entries| entries.keys()).copied().collect();
        for delta in world.deltas.iter().filter(|delta| document.clock().covers(delta.dot())) {
            if let Some(deleted) = &delta.deleted {
                prop_assert!(dots.iter().all(|dot| !deleted.covers(*dot)));
            }
        }
    }

    #[test]
    fn deltas_in_any_order_make_the_document_that_wholes_make(
        steps in proptest::collection::vec(step(), 1..40),
        order in any::<u64>(),
    ) {
        let steps: Vec<Step> = steps.into_iter().filter(|step| !matches!(step, Step::Restore { .. })).collect();
        let mut world = World::run(&steps);
        let mut shuffled = world.deltas.clone();
        let mut state = order | 1;
        for at in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            shuffled.swap(at, (state >> 33) as usize % (at + 1));
        }
        let mut fresh = Region::new(99);
        for delta in &shuffled {
            fresh.hear(&Delta::decode(&delta.encode()).unwrap());
        }
        world.meet();
        prop_assert_eq!(fresh.waiting.len(), 0);
        prop_assert_eq!(&fresh.document, &world.regions[0].document);
    }
}
