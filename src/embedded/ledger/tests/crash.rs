//! Every place where flush, merge, install and expire can be cut short.

use super::*;
use crate::embedded::ledger::tests::disk::Crash;

const RETENTION: u64 = 1000;
const CRASHES: [Crash; 6] =
    [Crash::KeepsAll, Crash::LosesUnsynced, Crash::Mixes(1), Crash::Mixes(2), Crash::Mixes(77), Crash::Mixes(4711)];

/// How far a history came.
#[derive(Default)]
struct Seen {
    log: Vec<Entry>,
    covered: u64,
    now: u64,
}

/// A fixed history: rounds of 20 new keys at a time of their own, all file work in between.
async fn history(ledger: &mut Ledger, seen: &mut Seen) -> Result<(), Error> {
    let (mut merged, mut expired) = (0, 0);
    for round in 0..20_u64 {
        let now = 100 * round;
        seen.now = now;
        for _ in 0..20 {
            let entry = entry(seen.log.len() as u64 + 1, now);
            seen.log.push(entry);
            ledger.insert(key(entry.offset), entry);
        }
        ledger.flush(seen.log.len() as u64).await?;
        seen.covered = seen.log.len() as u64;
        merged += settle(ledger, Timestamp(now)).await?;
        expired += expire(ledger, Timestamp(now)).await?;
    }
    seen.now = 5000;
    expired += expire(ledger, Timestamp(seen.now)).await?;
    assert!(merged >= 5 && expired >= 5, "{merged} merged, {expired} expired");
    Ok(())
}

async fn check(ledger: &Ledger, log: &[Entry], now: u64) {
    for entry in log {
        let expected = (entry.accepted.0 + RETENTION > now).then_some(*entry);
        assert_eq!(ledger.get(&key(entry.offset), Timestamp(now)).await.unwrap(), expected);
    }
}

#[test]
fn a_crash_at_any_disk_operation_loses_nothing_that_was_covered() {
    run(async {
        let whole = MemoryDisk::default();
        let mut ledger = open(&whole, options(20, RETENTION)).await.unwrap();
        history(&mut ledger, &mut Seen::default()).await.unwrap();
        let operations = whole.operations();

        for fails_at in 0..operations {
            let disk = MemoryDisk::default();
            disk.fail_at(fails_at);
            let mut seen = Seen::default();
            if let Ok(mut ledger) = open(&disk, options(20, RETENTION)).await {
                history(&mut ledger, &mut seen).await.unwrap_err();
                check(&ledger, &seen.log, seen.now).await;
            }
            let Seen { log, covered, now } = seen;
            for crash in CRASHES {
                let disk = disk.crash(crash);
                let first = open(&disk, options(20, RETENTION)).await.unwrap();
                assert!(first.covered() >= covered, "{} < {covered}", first.covered());
                // What the first start counted on must outlive a power cut right after it.
                let disk = disk.crash(Crash::LosesUnsynced);
                let mut ledger = open(&disk, options(20, RETENTION)).await.unwrap();
                assert_eq!(ledger.covered(), first.covered(), "after operation {fails_at} and {crash:?}");
                for entry in &log[ledger.covered() as usize..] {
                    ledger.insert(key(entry.offset), *entry);
                }
                check(&ledger, &log, now).await;
                settle(&mut ledger, Timestamp(now)).await.unwrap();
                check(&ledger, &log, now).await;
                assert!(disk.names().iter().all(|name| name.ends_with(".run")), "{:?}", disk.names());
                assert_eq!(disk.names().len(), ledger.stats().runs);
            }
        }
    });
}

#[test]
fn after_a_failed_sync_lookups_go_on_and_writing_does_not() {
    run(async {
        let disk = MemoryDisk::default();
        let mut ledger = open(&disk, options(20, RETENTION)).await.unwrap();
        ledger.insert(key(1), entry(1, 1));
        disk.fail_at(3);
        assert!(matches!(ledger.flush(1).await, Err(Error::Io { .. })));
        disk.fail_at(1_000_000);
        assert!(matches!(ledger.flush(1).await, Err(Error::Stopped { .. })));
        assert!(matches!(ledger.expire(Timestamp(9999)).await, Err(Error::Stopped { .. })));
        assert_eq!(ledger.covered(), 0);
        assert_eq!(ledger.get(&key(1), Timestamp(2)).await.unwrap(), Some(entry(1, 1)));
    });
}
