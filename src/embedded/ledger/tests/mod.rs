mod crash;
mod disk;
mod files;
mod model;
mod tiers;

use std::{future::Future, sync::Arc, time::Duration};

use self::disk::MemoryDisk;
use super::{Entry, Error, Ledger, Options};
use crate::core::{key::KeyHash, time::Timestamp};

const DIR: &str = "data/ledger";

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn key(number: u64) -> KeyHash {
    KeyHash::of("orders", "Order Placed", &number.to_string())
}

fn entry(offset: u64, accepted: u64) -> Entry {
    Entry { payload: [offset as u8; 16], offset, accepted: Timestamp(accepted) }
}

fn options(memtable_entries: usize, retention: u64) -> Options {
    Options { memtable_entries, retention: Duration::from_nanos(retention), ..Options::default() }
}

async fn open(disk: &MemoryDisk, options: Options) -> Result<Ledger, Error> {
    Ledger::open(Arc::new(disk.clone()), DIR, options).await
}

/// Merges until nothing is due.
async fn settle(ledger: &mut Ledger, now: Timestamp) -> Result<usize, Error> {
    let mut merges = 0;
    while let Some(merge) = ledger.merge_candidate() {
        let merged = merge.run(now).await?;
        ledger.install(merged).await?;
        clear(ledger).await?;
        merges += 1;
    }
    Ok(merges)
}

async fn expire(ledger: &mut Ledger, now: Timestamp) -> Result<usize, Error> {
    let runs = ledger.expire(now).await?;
    clear(ledger).await?;
    Ok(runs)
}

async fn clear(ledger: &mut Ledger) -> Result<(), Error> {
    match ledger.take_leftovers() {
        Some(leftovers) => leftovers.remove().await,
        None => Ok(()),
    }
}
