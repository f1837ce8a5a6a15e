//! A table of rows on a simulated disk: each commit writes all of it as a new file and puts that in the old one's place.
//! Small as it is here, that is the least that crashes, failed syncs and copied disks can be tried on.
//!
//! The file is a CRC-32 (little endian) of all that follows, then postcard of the rows.

use std::{collections::BTreeMap, io};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use tokio::sync::Mutex;

use super::disk::Handle;
use crate::ports::{
    disk::Disk,
    rows::{Change, Error, Row, Rows, SCAN_BYTES_MAX},
};

const FOLDER: &str = "documents";
const TABLE: &str = "documents/table";
const NEXT: &str = "documents/next";

type Table = BTreeMap<Vec<u8>, Vec<u8>>;

pub struct SimRows {
    disk: Handle,
    /// `None` once a commit failed.
    table: Mutex<Option<Table>>,
}

fn broken(error: &io::Error) -> Error {
    Error::Failed(error.to_string())
}

fn failed() -> Error {
    Error::Failed("a commit failed before".to_owned())
}

fn encode(table: &Table) -> io::Result<Vec<u8>> {
    let mut bytes = postcard::to_extend(table, vec![0; 4]).map_err(io::Error::other)?;
    let sum = crc32fast::hash(&bytes[4..]);
    bytes[..4].copy_from_slice(&sum.to_le_bytes());
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<Table, String> {
    let (sum, rows) = bytes.split_first_chunk().ok_or("it is cut off")?;
    if u32::from_le_bytes(*sum) != crc32fast::hash(rows) {
        return Err("its checksum is wrong".to_owned());
    }
    postcard::from_bytes(rows).map_err(|error| error.to_string())
}

impl SimRows {
    /// # Errors
    /// The disk fails, or what it holds is no table.
    pub async fn open(disk: Handle) -> io::Result<Self> {
        disk.create_dir(FOLDER).await?;
        let table = match disk.list(FOLDER).await?.iter().any(|name| name == "table") {
            true => {
                let file = disk.open(TABLE).await?;
                let bytes = file.read_at(0, usize::MAX >> 1).await?;
                decode(&bytes).map_err(|why| io::Error::other(format!("{TABLE}: {why}")))?
            }
            false => Table::new(),
        };
        Ok(SimRows { disk, table: Mutex::new(Some(table)) })
    }

    async fn write(&self, table: &Table) -> io::Result<()> {
        let bytes = encode(table)?;
        let file = self.disk.create(NEXT, bytes.len() as u64).await?;
        file.write_at(0, &bytes).await?;
        file.sync().await?;
        self.disk.rename(NEXT, TABLE).await?;
        self.disk.sync_dir(FOLDER).await
    }
}

impl Rows for SimRows {
    fn get(&self, keys: Vec<Vec<u8>>) -> BoxFuture<'_, Result<Vec<Option<Bytes>>, Error>> {
        async move {
            let table = self.table.lock().await;
            let table = table.as_ref().ok_or_else(failed)?;
            Ok(keys.iter().map(|key| table.get(key).map(|value| Bytes::copy_from_slice(value))).collect())
        }
        .boxed()
    }

    fn scan(&self, from: Vec<u8>, to: Vec<u8>, limit: usize) -> BoxFuture<'_, Result<Vec<Row>, Error>> {
        async move {
            let table = self.table.lock().await;
            let table = table.as_ref().ok_or_else(failed)?;
            let mut bytes = 0;
            let fits = |(_, value): &(&Vec<u8>, &Vec<u8>)| {
                bytes += value.len();
                bytes <= SCAN_BYTES_MAX || bytes == value.len()
            };
            if from >= to {
                return Ok(Vec::new());
            }
            let found = table.range(from..to).take(limit).take_while(fits);
            Ok(found.map(|(key, value)| (key.clone(), Bytes::copy_from_slice(value))).collect())
        }
        .boxed()
    }

    fn commit(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            let mut guard = self.table.lock().await;
            // Gone until it is durable: who is cut off in the middle leaves a table that has failed.
            let mut table = guard.take().ok_or_else(failed)?;
            for (key, value) in changes {
                match value {
                    Some(value) => drop(table.insert(key, value.to_vec())),
                    None => drop(table.remove(&key)),
                }
            }
            self.write(&table).await.map_err(|error| broken(&error))?;
            *guard = Some(table);
            Ok(())
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        ports::conformance,
        sim::{chance::Chance, disk::SimDisk, power::Power},
    };

    async fn open(disk: &SimDisk) -> SimRows {
        SimRows::open(disk.handle(Arc::default())).await.unwrap()
    }

    /// Two rows that only ever change together.
    fn pair(nth: u8) -> Vec<Change> {
        [b"a", b"b"].map(|key| (key.to_vec(), Some(Bytes::from(vec![nth; 700])))).into()
    }

    /// What both rows say.
    async fn read(rows: &SimRows) -> Option<u8> {
        let found = rows.get(vec![b"a".to_vec(), b"b".to_vec()]).await.unwrap();
        assert_eq!(found[0], found[1], "half a commit");
        found[0].as_ref().map(|value| value[0])
    }

    #[tokio::test(start_paused = true)]
    async fn it_keeps_the_contract_over_crashes() {
        let disk = SimDisk::new(Chance::new(1, "rows"));
        conformance::rows::check(&open(&disk).await).await;
        conformance::rows::reopened(async || {
            disk.crash();
            open(&disk).await
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_crash_at_any_call_leaves_what_was_committed_or_what_was_being_committed() {
        let (mut before, mut after) = (0, 0);
        for (seed, calls) in (0..20).flat_map(|seed| (0..30).map(move |calls| (seed, calls))) {
            let disk = SimDisk::new(Chance::new(seed, "rows"));
            open(&disk).await.commit(pair(0)).await.unwrap();
            let power = Arc::new(Power::default());
            let rows = SimRows::open(disk.handle(power.clone())).await.unwrap();
            power.burn(calls);
            let mut acknowledged = 0;
            while rows.commit(pair(acknowledged + 1)).await.is_ok() {
                acknowledged += 1;
            }
            disk.crash();
            match read(&open(&disk).await).await {
                Some(found) if found == acknowledged => before += 1,
                Some(found) if found == acknowledged + 1 => after += 1,
                found => panic!("seed {seed}, call {calls}: {found:?} after {acknowledged}"),
            }
        }
        assert!(before > 20 && after > 20, "{before} {after}");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failed_sync_it_fails_for_good() {
        let disk = SimDisk::new(Chance::new(1, "rows"));
        let rows = open(&disk).await;
        rows.commit(pair(1)).await.unwrap();
        disk.fail_syncs(1.0);
        assert!(rows.commit(pair(2)).await.is_err());
        assert!(disk.has_failed());
        disk.fail_syncs(0.0);
        assert!(rows.commit(pair(3)).await.is_err());
        assert!(rows.get(vec![b"a".to_vec()]).await.is_err());
        assert!(rows.scan(vec![b'a'], vec![b'b'], 1).await.is_err());
        disk.crash();
        assert_eq!(read(&open(&disk).await).await, Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_that_is_cut_off_leaves_a_table_that_has_failed() {
        let disk = SimDisk::new(Chance::new(1, "rows"));
        let rows = open(&disk).await;
        rows.commit(pair(1)).await.unwrap();
        // In the middle of the first sync.
        assert!(rows.commit(pair(2)).now_or_never().is_none());
        assert!(rows.get(vec![b"a".to_vec()]).await.is_err());
        assert_eq!(read(&open(&disk).await).await, Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn it_goes_back_and_forks_with_its_disk() {
        let disk = SimDisk::new(Chance::new(1, "rows"));
        open(&disk).await.commit(pair(1)).await.unwrap();
        let (copy, backup) = (disk.backup(), disk.backup());
        let rows = open(&disk).await;
        rows.commit(pair(2)).await.unwrap();
        disk.restore(backup);
        assert!(rows.commit(pair(3)).await.is_err(), "its life is over");
        assert_eq!(read(&open(&disk).await).await, Some(1));
        let other = SimDisk::with(copy, Chance::new(2, "rows"));
        open(&other).await.commit(pair(4)).await.unwrap();
        assert_eq!((read(&open(&disk).await).await, read(&open(&other).await).await), (Some(1), Some(4)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_damaged_table_is_refused() {
        for seed in 0..20 {
            let disk = SimDisk::new(Chance::new(seed, "rows"));
            open(&disk).await.commit(pair(1)).await.unwrap();
            assert!(disk.rot(FOLDER));
            let refused = SimRows::open(disk.handle(Arc::default())).await.map(drop).unwrap_err();
            assert!(refused.to_string().contains("documents/table: its checksum is wrong"), "{refused}");
        }
        let disk = SimDisk::new(Chance::new(1, "rows"));
        disk.handle(Arc::default()).create(TABLE, 3).await.unwrap();
        assert!(SimRows::open(disk.handle(Arc::default())).await.is_err());
    }
}
