//! Files as they are, as they were in version 1, and as they must not be.

use std::{fs, path::Path};

use super::*;
use crate::embedded::disk::LocalDisk;

const RUN: &str = "data/ledger/0000000000000001-0000000000000001.run";
/// Written by the first release. Never rewrite it: the next version's tests read it, too.
const FIXTURE: &str = "tests/fixtures/ledger/version-1.run";

/// 300 keys in one flushed run that covers 1,000.
async fn filled(disk: &MemoryDisk) -> Ledger {
    let mut ledger = open(disk, options(300, 1000)).await.unwrap();
    for offset in 1..=300 {
        ledger.insert(key(offset), entry(offset, offset));
    }
    ledger.flush(1000).await.unwrap();
    ledger
}

async fn message(disk: &MemoryDisk) -> String {
    open(disk, options(300, 1000)).await.err().unwrap().to_string()
}

#[test]
fn a_run_of_version_1_is_read_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(LocalDisk::open(dir.path()).unwrap());
    fs::create_dir_all(dir.path().join(DIR)).unwrap();
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(FIXTURE), dir.path().join(RUN)).unwrap();
    run(async {
        let ledger = Ledger::open(disk, DIR, options(300, 1000)).await.unwrap();
        assert_eq!(ledger.covered(), 1000);
        assert_eq!(ledger.stats().entries, 300);
        for offset in 1..=300 {
            assert_eq!(ledger.get(&key(offset), Timestamp(300)).await.unwrap(), Some(entry(offset, offset)));
            assert_eq!(ledger.get(&key(offset + 300), Timestamp(300)).await.unwrap(), None);
        }
    });
}

#[test]
fn version_1_is_written_byte_for_byte_as_in_its_first_release() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(LocalDisk::open(dir.path()).unwrap());
    run(async {
        let mut ledger = Ledger::open(disk, DIR, options(300, 1000)).await.unwrap();
        for offset in (1..=300).rev() {
            ledger.insert(key(offset), entry(offset, offset));
        }
        ledger.flush(1000).await.unwrap();
    });
    let written = fs::read(dir.path().join(RUN)).unwrap();
    let fixture = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(FIXTURE)).unwrap();
    assert!(written == fixture, "the format changed: raise VERSION");
}

#[test]
fn an_unknown_version_is_refused_by_name_and_number() {
    run(async {
        let disk = MemoryDisk::default();
        drop(filled(&disk).await);
        let file = crate::ports::disk::Disk::open(&disk, RUN).await.unwrap();
        let mut header = file.read_at(0, 16).await.unwrap().to_vec();
        header[8] = 2;
        let sum = crate::embedded::ledger::format::crc(0, &header[..12]);
        header[12..].copy_from_slice(&sum.to_le_bytes());
        file.write_at(0, &header).await.unwrap();
        let message = message(&disk).await;
        assert_eq!(message, format!("{RUN} has format version 2, this program reads version 1: use the newer program"));
    });
}

#[test]
fn a_flipped_bit_anywhere_is_noticed_before_it_can_answer() {
    run(async {
        let disk = MemoryDisk::default();
        drop(filled(&disk).await);
        let size = disk.size(RUN);
        let mut unused = 0;
        for filter_bytes_max in [0, 1 << 20] {
            for at in (0..size).step_by(61) {
                disk.corrupt(RUN, at);
                let options = Options { filter_bytes_max, ..options(300, 1000) };
                let mut error = None;
                match open(&disk, options).await {
                    Err(found) => error = Some(found),
                    Ok(ledger) => {
                        for offset in 1..=300 {
                            match ledger.get(&key(offset), Timestamp(300)).await {
                                Ok(found) => assert_eq!(found, Some(entry(offset, offset)), "byte {at}"),
                                Err(found) => error = Some(found),
                            }
                        }
                    }
                }
                match error {
                    Some(Error::Corrupt { file, .. }) => assert_eq!(file, RUN),
                    Some(other) => panic!("{other}"),
                    // The rest of the header's page.
                    None => unused += usize::from((16..4096).contains(&at)) * 2 - 1,
                }
                disk.corrupt(RUN, at);
            }
        }
        assert_eq!(unused, 2 * (16..4096).filter(|at| at % 61 == 0).count());
    });
}

#[test]
fn a_truncated_or_renamed_run_is_refused() {
    run(async {
        let disk = MemoryDisk::default();
        drop(filled(&disk).await);
        let to = "data/ledger/0000000000000002-0000000000000002.run";
        crate::ports::disk::Disk::rename(&disk, RUN, to).await.unwrap();
        assert!(message(&disk).await.starts_with(&format!("{to} is corrupt: its footer")));

        let disk = MemoryDisk::default();
        drop(filled(&disk).await);
        let file = crate::ports::disk::Disk::open(&disk, RUN).await.unwrap();
        let size = disk.size(RUN) as u64;
        file.write_at(size, b"more").await.unwrap();
        assert!(message(&disk).await.starts_with(&format!("{RUN} is corrupt: its footer")));
    });
}

#[test]
fn overlapping_runs_and_a_retreat_are_refused() {
    run(async {
        let disk = MemoryDisk::default();
        let mut ledger = filled(&disk).await;
        let error = ledger.flush(999).await.unwrap_err().to_string();
        assert_eq!(error, "the ledger covers the log up to 1000, and cannot go back to 999");
        ledger.flush(1001).await.unwrap();
        for name in ["0000000000000005-0000000000000008.run", "0000000000000007-0000000000000009.run"] {
            crate::ports::disk::Disk::create(&disk, &format!("{DIR}/{name}"), 0).await.unwrap();
        }
        let message = message(&disk).await;
        assert!(message.contains("overlap: one of them does not belong here"), "{message}");
    });
}

#[test]
fn an_entry_ends_with_its_retention_and_whole_runs_are_removed() {
    run(async {
        let disk = MemoryDisk::default();
        let mut ledger = filled(&disk).await;
        assert_eq!(ledger.get(&key(300), Timestamp(1299)).await.unwrap(), Some(entry(300, 300)));
        assert_eq!(ledger.get(&key(300), Timestamp(1300)).await.unwrap(), None);
        assert_eq!(ledger.expire(Timestamp(1299)).await.unwrap(), 0);
        assert_eq!(ledger.expire(Timestamp(1300)).await.unwrap(), 1);
        assert_eq!(ledger.expire(Timestamp(1300)).await.unwrap(), 0);
        assert_eq!((ledger.covered(), ledger.stats().entries, ledger.stats().runs), (1000, 0, 1));
        let ledger = open(&disk, options(300, 1000)).await.unwrap();
        assert_eq!(ledger.covered(), 1000);
    });
}

#[test]
fn an_entry_in_memory_expires_too() {
    run(async {
        let mut ledger = open(&MemoryDisk::default(), options(300, 1000)).await.unwrap();
        ledger.insert(key(1), entry(1, 5));
        assert_eq!(ledger.get(&key(1), Timestamp(1004)).await.unwrap(), Some(entry(1, 5)));
        assert_eq!(ledger.get(&key(1), Timestamp(1005)).await.unwrap(), None);
        assert!(
            ledger.get_recent(&key(1)).is_some_and(|entry| !entry.lives(Timestamp(1005), Duration::from_nanos(1000)))
        );
    });
}
