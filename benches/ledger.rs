//! The ledger on local files: one lookup of a new key and its insertion, as every event costs, in batches.
//!
//! `memory` has nothing on disk. `flushing` is what the writer really does: the same with flushes, merges and syncs.
//! `million_in_runs` looks up among 1,000,000 keys in runs, with filters in memory and without.

#![expect(clippy::expect_used, reason = "a benchmark that cannot go on must stop")]

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use hubweave::{
    core::{key::KeyHash, time::Timestamp},
    embedded::{
        disk::LocalDisk,
        ledger::{Entry, Ledger, Options},
    },
};
use tokio::runtime::Runtime;

const BATCH: u64 = 65_536;
const NOW: Timestamp = Timestamp(1_000_000_000);

/// Spread as SHA-256 is, at less cost (the finaliser of SplitMix64).
fn key(number: u64) -> KeyHash {
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&mix(number).to_le_bytes());
    bytes[8..].copy_from_slice(&mix(!number).to_le_bytes());
    KeyHash(bytes)
}

fn entry(offset: u64) -> Entry {
    Entry { payload: [7; 16], offset, accepted: NOW }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
}

async fn open(dir: &std::path::Path, options: Options) -> Ledger {
    let disk = LocalDisk::open(dir).expect("a folder");
    Ledger::open(Arc::new(disk), "ledger", options).await.expect("a ledger")
}

async fn settle(ledger: &mut Ledger) {
    while let Some(merge) = ledger.merge_candidate() {
        let merged = merge.run(NOW).await.expect("a merge");
        ledger.install(merged).await.expect("an installation");
        if let Some(leftovers) = ledger.take_leftovers() {
            leftovers.remove().await.expect("a removal");
        }
    }
}

/// Takes in `count` new keys from `first` on.
async fn take_in(ledger: &mut Ledger, first: u64, count: u64) {
    for offset in first..first + count {
        let key = key(offset);
        if ledger.get(&key, NOW).await.expect("an answer").is_none() {
            ledger.insert(key, entry(offset));
        }
        if ledger.is_full() {
            ledger.flush(offset).await.expect("a flush");
            settle(ledger).await;
        }
    }
}

fn memory(criterion: &mut Criterion) {
    let runtime = runtime();
    let dir = tempfile::tempdir().expect("a folder");
    let empty = || runtime.block_on(open(dir.path(), Options::default()));
    let mut group = criterion.benchmark_group("ledger");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("memory", |bencher| {
        bencher.iter_batched(
            empty,
            |mut ledger| {
                runtime.block_on(take_in(&mut ledger, 1, BATCH));
                ledger
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn flushing(criterion: &mut Criterion) {
    let runtime = runtime();
    let mut group = criterion.benchmark_group("ledger");
    group.throughput(Throughput::Elements(1_000_000)).sample_size(10).measurement_time(Duration::from_secs(20));
    group.bench_function("flushing", |bencher| {
        bencher.iter_batched(
            || {
                let dir = tempfile::tempdir().expect("a folder");
                let ledger = runtime.block_on(open(dir.path(), Options::default()));
                (dir, ledger)
            },
            |(dir, mut ledger)| {
                runtime.block_on(take_in(&mut ledger, 1, 1_000_000));
                (dir, ledger)
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn million_in_runs(criterion: &mut Criterion) {
    let runtime = runtime();
    let dir = tempfile::tempdir().expect("a folder");
    let mut ledger = runtime.block_on(open(dir.path(), Options::default()));
    runtime.block_on(async {
        take_in(&mut ledger, 1, 1_000_000).await;
        ledger.flush(1_000_000).await.expect("a flush");
    });
    eprintln!("{:?}", ledger.stats());
    let mut group = criterion.benchmark_group("ledger/million_in_runs");
    group.throughput(Throughput::Elements(BATCH));
    let mut first = 2_000_000;
    for (filters, filter_bytes_max) in [("filters_in_memory", 32 << 20), ("filters_on_disk", 0)] {
        let options = Options { filter_bytes_max, memtable_entries: usize::MAX, ..Options::default() };
        group.bench_function(format!("{filters}/get_new_and_insert"), |bencher| {
            bencher.iter_batched(
                || runtime.block_on(open(dir.path(), options.clone())),
                |mut ledger| {
                    first += BATCH;
                    runtime.block_on(take_in(&mut ledger, first, BATCH));
                    ledger
                },
                BatchSize::PerIteration,
            );
        });
        let ledger = runtime.block_on(open(dir.path(), options));
        group.bench_function(format!("{filters}/get_known"), |bencher| {
            bencher.iter(|| {
                runtime.block_on(async {
                    for number in 0..BATCH {
                        let found = ledger.get(&key(1 + number * 15), NOW).await.expect("an answer");
                        assert!(black_box(found).is_some());
                    }
                });
            });
        });
    }
    group.finish();
}

criterion_group!(benches, memory, flushing, million_in_runs);
criterion_main!(benches);
