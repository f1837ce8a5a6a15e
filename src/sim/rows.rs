//! A table of rows on a simulated disk: each commit writes all of it as a new file and puts that in the old one's place.
//! Small as it is here, that is the least that crashes, failed syncs and copied disks can be tried on.

use std::{collections::BTreeMap, io};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use tokio::sync::Mutex;

use super::disk::Handle;
use crate::ports::{
    disk::Disk,
    rows::{Change, Error, Rows, SCAN_BYTES_MAX},
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

impl SimRows {
    /// # Errors
    /// The disk fails, or what it holds is no table.
    pub async fn open(disk: Handle) -> io::Result<Self> {
        disk.create_dir(FOLDER).await?;
        let table = match disk.list(FOLDER).await?.iter().any(|name| name == "table") {
            true => {
                let file = disk.open(TABLE).await?;
                let bytes = file.read_at(0, usize::MAX >> 1).await?;
                postcard::from_bytes(&bytes).map_err(|error| io::Error::other(format!("{TABLE}: {error}")))?
            }
            false => Table::new(),
        };
        Ok(SimRows { disk, table: Mutex::new(Some(table)) })
    }

    async fn write(&self, table: &Table) -> io::Result<()> {
        let bytes = postcard::to_allocvec(table).map_err(io::Error::other)?;
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

    fn scan(&self, from: Vec<u8>, to: Vec<u8>, limit: usize) -> BoxFuture<'_, Result<Vec<(Vec<u8>, Bytes)>, Error>> {
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
    use crate::sim::{chance::Chance, disk::SimDisk, power::Power};

    #[tokio::test(start_paused = true)]
    async fn it_keeps_the_contract_over_crashes() {
        let disk = SimDisk::new(Chance::new(1, "rows"));
        let open = || SimRows::open(disk.handle(Arc::new(Power::default())));
        crate::ports::conformance::rows::check(&open().await.unwrap()).await;
        let rows = open().await.unwrap();
        rows.commit(vec![(b"kept".to_vec(), Some(Bytes::from_static(b"1")))]).await.unwrap();
        disk.crash();
        let rows = open().await.unwrap();
        assert_eq!(rows.get(vec![b"kept".to_vec()]).await.unwrap(), [Some(Bytes::from_static(b"1"))]);
        disk.fail_syncs(1.0);
        assert!(rows.commit(vec![(b"lost".to_vec(), Some(Bytes::new()))]).await.is_err());
        disk.fail_syncs(0.0);
        assert!(rows.get(vec![b"kept".to_vec()]).await.is_err(), "it fails for good");
    }
}
