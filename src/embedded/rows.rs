//! The table of documents in a redb database.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::ports::rows::{Change, Error, Rows, SCAN_BYTES_MAX};

/// Of the database's tables; what stands in the rows carries a version of its own. Another one is refused.
pub const VERSION: u64 = 1;

/// Memory for pages.
const CACHE_BYTES: usize = 64 << 20;

const FILE: &str = "documents.redb";

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");

/// Why the table does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{}: {why}", path.display())]
    Database { path: PathBuf, why: String },
    #[error("{}: has format {found}; this build knows {VERSION}", path.display())]
    Version { path: PathBuf, found: u64 },
}

/// Cheap to clone. Calls block threads of their own, not the runtime.
#[derive(Clone)]
pub struct LocalRows {
    database: Arc<Database>,
    failed: Arc<Mutex<Option<Error>>>,
}

/// Anything of redb's.
fn failed(error: impl Into<redb::Error>) -> Error {
    Error::Failed(error.into().to_string())
}

impl LocalRows {
    /// Opens the table in a region's folder, or makes it.
    ///
    /// # Errors
    /// The file cannot be used, or is of another format.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        let path = folder.join(FILE);
        let error = |why: String| OpenError::Database { path: path.clone(), why };
        let database = redb::Builder::new().set_cache_size(CACHE_BYTES).create(&path);
        let database = database.map_err(|failure| error(failure.to_string()))?;
        let found = prepare(&database).map_err(|failure| error(failure.to_string()))?;
        match found {
            VERSION => Ok(LocalRows { database: Arc::new(database), failed: Arc::default() }),
            found => Err(OpenError::Version { path, found }),
        }
    }

    fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, Error> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, Error>> {
        async move {
            let before = self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(error) = before {
                return Err(error);
            }
            let database = self.database.clone();
            let done = tokio::task::spawn_blocking(move || work(&database)).await;
            done.unwrap_or_else(|error| Err(Error::Failed(error.to_string())))
        }
        .boxed()
    }
}

/// Makes the tables where they are not there; answers the format.
fn prepare(database: &Database) -> Result<u64, redb::Error> {
    let transaction = database.begin_write()?;
    let found = {
        let mut meta = transaction.open_table(META)?;
        let found = meta.get("version")?.map(|version| version.value());
        if found.is_none() {
            meta.insert("version", VERSION)?;
        }
        found.unwrap_or(VERSION)
    };
    if found == VERSION {
        transaction.open_table(ROWS)?;
        transaction.commit()?;
    }
    Ok(found)
}

impl Rows for LocalRows {
    fn get(&self, keys: Vec<Vec<u8>>) -> BoxFuture<'_, Result<Vec<Option<Bytes>>, Error>> {
        self.on_thread(move |database| {
            let transaction = database.begin_read().map_err(failed)?;
            let table = transaction.open_table(ROWS).map_err(failed)?;
            let get = |key: &Vec<u8>| {
                let value = table.get(key.as_slice()).map_err(failed)?;
                Ok(value.map(|value| Bytes::copy_from_slice(value.value())))
            };
            keys.iter().map(get).collect()
        })
    }

    fn scan(&self, from: Vec<u8>, to: Vec<u8>, limit: usize) -> BoxFuture<'_, Result<Vec<(Vec<u8>, Bytes)>, Error>> {
        self.on_thread(move |database| {
            let mut found = Vec::new();
            if from >= to {
                return Ok(found);
            }
            let transaction = database.begin_read().map_err(failed)?;
            let table = transaction.open_table(ROWS).map_err(failed)?;
            let mut bytes = 0;
            for row in table.range(from.as_slice()..to.as_slice()).map_err(failed)?.take(limit) {
                let (key, value) = row.map_err(failed)?;
                bytes += value.value().len();
                if bytes > SCAN_BYTES_MAX && !found.is_empty() {
                    break;
                }
                found.push((key.value().to_vec(), Bytes::copy_from_slice(value.value())));
            }
            Ok(found)
        })
    }

    fn commit(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            let commit = move |database: &Database| -> Result<(), redb::Error> {
                let transaction = database.begin_write()?;
                {
                    let mut table = transaction.open_table(ROWS)?;
                    for (key, value) in &changes {
                        match value {
                            Some(value) => drop(table.insert(key.as_slice(), &**value)?),
                            None => drop(table.remove(key.as_slice())?),
                        }
                    }
                }
                transaction.commit()?;
                Ok(())
            };
            let done = self.on_thread(move |database| commit(database).map_err(failed)).await;
            if let Err(error) = &done {
                // The state of the file is unknown now; trying again could confirm what is lost.
                *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
            }
            done
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::conformance;

    #[tokio::test]
    async fn it_keeps_the_contract_and_what_it_holds_survives_a_start() {
        let folder = tempfile::tempdir().unwrap();
        let rows = LocalRows::open(folder.path()).unwrap();
        conformance::rows::check(&rows).await;
        rows.commit(vec![(b"kept".to_vec(), Some(Bytes::from_static(b"1")))]).await.unwrap();
        drop(rows);
        let rows = LocalRows::open(folder.path()).unwrap();
        assert_eq!(rows.get(vec![b"kept".to_vec()]).await.unwrap(), [Some(Bytes::from_static(b"1"))]);
    }

    #[tokio::test]
    async fn another_format_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        drop(LocalRows::open(folder.path()).unwrap());
        let database = Database::open(folder.path().join(FILE)).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert("version", VERSION + 1).unwrap();
        transaction.commit().unwrap();
        drop(database);
        let refused = LocalRows::open(folder.path()).map(drop).unwrap_err().to_string();
        assert!(refused.contains("documents.redb: has format 2; this build knows 1"), "{refused}");
    }
}
