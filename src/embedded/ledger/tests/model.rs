//! Random histories against a map and a log.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::embedded::ledger::{Merged, tests::disk::Crash};

const RETENTION: u64 = 1000;

#[derive(Clone, Debug)]
enum Step {
    /// Takes these keys in, if they are absent.
    Publish(Vec<u8>),
    Wait(u16),
    Flush,
    /// Runs a merge without installing it: flushes and expiry may come in between.
    Merge,
    Install,
    Expire,
    Clear,
    Restart(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => proptest::collection::vec(any::<u8>(), 1..12).prop_map(Step::Publish),
        4 => (0..300_u16).prop_map(Step::Wait),
        6 => Just(Step::Flush),
        3 => Just(Step::Merge),
        3 => Just(Step::Install),
        1 => Just(Step::Expire),
        2 => Just(Step::Clear),
        1 => any::<u8>().prop_map(Step::Restart),
    ];
    proptest::collection::vec(step, 1..120)
}

/// Half of the keys share their first eight bytes, and four share all fences.
fn skewed(number: u8) -> KeyHash {
    let mut key = key(number.into());
    if number.is_multiple_of(2) {
        key.0[..8].fill(7);
    }
    key
}

struct World {
    disk: MemoryDisk,
    options: Options,
    ledger: Ledger,
    merged: Option<Merged>,
    /// Every record ever; index + 1 is its offset.
    log: Vec<(u8, Entry)>,
    newest: BTreeMap<u8, Entry>,
    now: u64,
}

impl World {
    async fn apply(&mut self, step: Step) -> Result<(), Error> {
        match step {
            Step::Publish(keys) => {
                for number in keys {
                    self.check(number).await?;
                    let absent = self.ledger.get(&skewed(number), Timestamp(self.now)).await?.is_none();
                    if absent {
                        let entry = entry(self.log.len() as u64 + 1, self.now);
                        self.log.push((number, entry));
                        self.newest.insert(number, entry);
                        self.ledger.insert(skewed(number), entry);
                        assert_eq!(self.ledger.get_recent(&skewed(number)), Some(entry));
                    }
                }
            }
            Step::Wait(time) => self.now += u64::from(time),
            Step::Flush => {
                self.ledger.flush(self.log.len() as u64).await?;
                assert_eq!(self.ledger.covered(), self.log.len() as u64);
            }
            Step::Merge => {
                if let (None, Some(merge)) = (&self.merged, self.ledger.merge_candidate()) {
                    self.merged = Some(merge.run(Timestamp(self.now)).await?);
                }
            }
            Step::Install => {
                if let Some(merged) = self.merged.take() {
                    self.ledger.install(merged).await?;
                }
            }
            Step::Expire => {
                let covered = self.ledger.covered();
                self.ledger.expire(Timestamp(self.now)).await?;
                assert_eq!(self.ledger.covered(), covered);
            }
            Step::Clear => clear(&mut self.ledger).await?,
            Step::Restart(seed) => {
                let covered = self.ledger.covered();
                let crash = match seed % 3 {
                    0 => Crash::KeepsAll,
                    1 => Crash::LosesUnsynced,
                    _ => Crash::Mixes(seed.into()),
                };
                self.disk = self.disk.crash(crash);
                self.merged = None;
                self.ledger = open(&self.disk, self.options.clone()).await?;
                assert_eq!(self.ledger.covered(), covered, "nothing was under way when the crash came");
                for (number, entry) in &self.log[covered as usize..] {
                    self.ledger.insert(skewed(*number), *entry);
                }
            }
        }
        Ok(())
    }

    async fn check(&self, number: u8) -> Result<(), Error> {
        let lives = |entry: &&Entry| entry.accepted.0 + RETENTION > self.now;
        let expected = self.newest.get(&number).filter(lives).copied();
        let found = self.ledger.get(&skewed(number), Timestamp(self.now)).await?;
        assert_eq!(found, expected, "key {number} at {}", self.now);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_history_answers_as_a_map_does(
        steps in steps(),
        filter_bytes_max in prop_oneof![Just(0), Just(200), Just(9999)],
    ) {
        run(async {
            let disk = MemoryDisk::default();
            let options = Options { filter_bytes_max, ..options(16, RETENTION) };
            let ledger = open(&disk, options.clone()).await.unwrap();
            let (log, newest) = (Vec::new(), BTreeMap::new());
            let mut world = World { disk, options, ledger, merged: None, log, newest, now: 1 };
            for step in steps {
                world.apply(step).await.unwrap();
                assert!(world.ledger.stats().filter_bytes <= filter_bytes_max);
            }
            for number in 0..=255 {
                world.check(number).await.unwrap();
            }
        });
    }
}
