//! What merging costs, and what it leaves.

use super::*;
use crate::embedded::ledger::{
    format::{Footer, ROW_BYTES, Span},
    merge::choose,
};

fn footer(rows: u64, accepted: std::ops::Range<u64>) -> Footer {
    let (accepted_min, accepted_max) = (Timestamp(accepted.start), Timestamp(accepted.end));
    Footer { span: Span { low: 1, high: 1 }, capacity: rows, rows, accepted_min, accepted_max, covered: 0 }
}

#[test]
fn four_neighbours_of_a_class_are_merged_oldest_first() {
    let options = options(100, 1_000_000);
    let of = |rows: &[u64]| choose(&rows.iter().map(|rows| footer(*rows, 0..1)).collect::<Vec<_>>(), &options);
    assert_eq!(of(&[100, 100, 100]), None);
    assert_eq!(of(&[100, 100, 100, 100]), Some(0..4));
    assert_eq!(of(&[400, 100, 100, 100]), None);
    assert_eq!(of(&[400, 400, 390, 380, 100, 100, 100, 100]), Some(0..4));
    // A small run between larger ones goes with them.
    assert_eq!(of(&[1600, 400, 3, 400, 400, 100]), Some(1..5));
    assert_eq!(of(&[0, 0, 0, 0]), Some(0..4));
}

#[test]
fn a_large_merge_spans_at_most_an_eighth_of_the_retention() {
    let options = options(100, 800);
    let of = |spans: &[std::ops::Range<u64>]| {
        choose(&spans.iter().map(|span| footer(400, span.clone())).collect::<Vec<_>>(), &options)
    };
    assert_eq!(of(&[0..25, 25..50, 50..75, 75..100]), Some(0..4));
    assert_eq!(of(&[0..25, 25..50, 50..100, 100..101]), Some(0..3));
    assert_eq!(of(&[0..60, 60..120, 120..140, 140..160]), None);
    assert_eq!(of(&[0..60, 60..120, 120..140, 140..160, 160..170]), Some(1..4));
    // Small ones may span anything.
    let small = [0..60, 60..120, 120..1400, 1400..1600].map(|span| footer(100, span));
    assert_eq!(choose(&small, &options), Some(0..4));
}

#[test]
fn a_key_is_written_about_once_per_size_class() {
    run(async {
        let disk = MemoryDisk::default();
        let (memtable, flushes) = (256, 256);
        let mut ledger = open(&disk, options(memtable, u64::MAX)).await.unwrap();
        for flush in 0..flushes {
            for number in 0..memtable as u64 {
                let offset = flush * memtable as u64 + number + 1;
                ledger.insert(key(offset), entry(offset, offset));
            }
            ledger.flush((flush + 1) * memtable as u64).await.unwrap();
            settle(&mut ledger, Timestamp(0)).await.unwrap();
        }
        assert_eq!(ledger.stats().runs, 1);
        let rows = flushes * memtable as u64;
        let amplification = disk.bytes_written() as f64 / (rows * ROW_BYTES as u64) as f64;
        // Flushed once, then merged into classes 1 to 4; the rest is headers, filters, fences and checksums.
        assert!((5.0..7.5).contains(&amplification), "{amplification}");
        println!("write amplification {amplification:.2} over {rows} keys");
    });
}

#[test]
fn old_runs_vanish_while_keys_come_steadily() {
    run(async {
        let disk = MemoryDisk::default();
        let retention = 4000;
        let mut ledger = open(&disk, options(10, retention)).await.unwrap();
        let mut runs_max = 0;
        for now in 1..=20_000 {
            ledger.insert(key(now), entry(now, now));
            if ledger.is_full() {
                ledger.flush(now).await.unwrap();
                settle(&mut ledger, Timestamp(now)).await.unwrap();
                expire(&mut ledger, Timestamp(now)).await.unwrap();
                runs_max = runs_max.max(ledger.stats().runs);
                let entries = ledger.stats().entries;
                assert!(entries <= retention + retention / 8 + 10, "{entries} at {now}");
            }
        }
        assert!(runs_max <= 40, "{runs_max}");
        assert_eq!(disk.names().len(), ledger.stats().runs);
    });
}

/// More blocks than have all their fences in memory.
#[test]
fn a_large_run_with_sparse_fences_finds_all_and_only_its_keys() {
    run(async {
        let disk = MemoryDisk::default();
        let rows = 128 * 5000;
        let mut ledger = open(&disk, options(rows, u64::MAX)).await.unwrap();
        for offset in 1..=rows as u64 {
            ledger.insert(key(offset), entry(offset, offset));
        }
        ledger.flush(rows as u64).await.unwrap();
        assert_eq!(ledger.stats().fence_bytes, 5000_usize.div_ceil(16) * 8);
        let held = ledger.runs.first().unwrap();
        for offset in (1..=rows as u64).step_by(37) {
            assert_eq!(held.run.find(&key(offset)).await.unwrap(), Some(entry(offset, offset)));
            assert_eq!(held.run.find(&key(offset + rows as u64)).await.unwrap(), None);
        }
        let absent = rows as u64 + 1..=rows as u64 + 100_000;
        let filter = held.filter.as_ref().unwrap();
        let passed = absent.filter(|offset| filter.may_contain(&key(*offset))).count();
        assert!(passed < 1_500, "{passed} of 100,000 absent keys pass the filter");
        println!("{passed} of 100,000 absent keys pass the filter");
    });
}

#[test]
fn keys_that_share_their_leading_bytes_over_many_blocks_are_found() {
    run(async {
        let disk = MemoryDisk::default();
        let mut ledger = open(&disk, options(3000, u64::MAX)).await.unwrap();
        let crowded = |offset| {
            let mut key = key(offset);
            if offset % 3 != 0 {
                key.0[..8].fill(0x80);
            }
            key
        };
        for offset in 1..=3000 {
            ledger.insert(crowded(offset), entry(offset, offset));
        }
        ledger.flush(3000).await.unwrap();
        let run = &ledger.runs.first().unwrap().run;
        for offset in 1..=3000 {
            assert_eq!(run.find(&crowded(offset)).await.unwrap(), Some(entry(offset, offset)));
            assert_eq!(run.find(&crowded(offset + 3000)).await.unwrap(), None);
        }
    });
}
