//! The table of documents in a redb database.
//!
//! After a failed write or sync nothing is known of what the disk holds. That is written down by the thread that met it,
//! before the next commit gets its turn, so it counts also where nobody waits for the answer any more.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio_util::sync::CancellationToken;

use super::backup::{TablesError, copy_table, create_tables};
use crate::ports::rows::{Change, Error, Row, Rows, SCAN_BYTES_MAX};

/// Of the database's tables; what stands in the rows carries a version of its own. Another one is refused.
pub const VERSION: u64 = 1;

/// Memory for pages.
const CACHE_BYTES: usize = 64 << 20;

pub const FILE: &str = "documents.redb";

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");

/// Why the table does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{}: {source}", path.display())]
    Disk { path: PathBuf, source: io::Error },
    #[error("{}: {why}", path.display())]
    Database { path: PathBuf, why: String },
    #[error("{}: has format {found}; this build knows {VERSION}", path.display())]
    Version { path: PathBuf, found: u64 },
}

/// Cheap to clone. Calls block threads of their own, not the runtime.
#[derive(Clone)]
pub struct LocalRows {
    database: Arc<Database>,
    /// Of the one commit under way; the others get theirs in the order in which they came.
    turn: Arc<Mutex<()>>,
    failed: Arc<watch::Sender<Option<Error>>>,
}

/// Anything of redb's.
fn broken(error: impl Into<redb::Error>) -> Error {
    Error::Failed(error.into().to_string())
}

impl LocalRows {
    /// Opens the table in a region's folder, or makes it.
    ///
    /// # Errors
    /// The file cannot be used, or is of another format.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        let path = folder.join(FILE);
        let database = redb::Builder::new().set_cache_size(CACHE_BYTES).create(&path);
        let database = database.map_err(|error| OpenError::Database { path: path.clone(), why: error.to_string() })?;
        // redb syncs the file, not its name.
        let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|source| OpenError::Disk { path: folder.to_owned(), source })?;
        Self::of(database, path)
    }

    fn of(database: Database, path: PathBuf) -> Result<Self, OpenError> {
        match prepare(&database) {
            Ok(VERSION) => Ok(LocalRows { database: Arc::new(database), turn: Arc::default(), failed: Arc::default() }),
            Ok(found) => Err(OpenError::Version { path, found }),
            Err(error) => Err(OpenError::Database { path, why: error.to_string() }),
        }
    }

    /// Completes, with the reason, when a commit failed: the process must end.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.subscribe();
        match failed.wait_for(Option::is_some).await {
            Ok(error) => error.as_ref().map(ToString::to_string).unwrap_or_default(),
            Err(_) => "the table of documents was closed".to_owned(),
        }
    }

    fn check(&self) -> Result<(), Error> {
        self.failed.borrow().clone().map_or(Ok(()), Err)
    }

    fn fail(&self, error: Error) -> Error {
        tracing::error!(%error, "a commit failed");
        self.failed.send_replace(Some(error.clone()));
        error
    }

    /// The table as it is now. Nothing is committed until the turn is dropped.
    ///
    /// # Errors
    /// The table failed.
    pub async fn pin(&self) -> Result<(Pinned, OwnedMutexGuard<()>), Error> {
        let turn = self.turn.clone().lock_owned().await;
        let transaction = self.look(|database| database.begin_read().map_err(broken)).await?;
        Ok((Pinned { transaction, _database: self.database.clone() }, turn))
    }

    fn look<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Database) -> Result<T, Error> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, Error>> {
        let rows = self.clone();
        async move {
            let answer = tokio::task::spawn_blocking(move || {
                rows.check()?;
                question(&rows.database)
            });
            answer.await.unwrap_or_else(|error| Err(Error::Failed(error.to_string())))
        }
        .boxed()
    }
}

/// The table as it was at one moment.
pub struct Pinned {
    transaction: ReadTransaction,
    /// A transaction ends when its database is closed.
    _database: Arc<Database>,
}

impl Pinned {
    /// Writes it into a new file. Blocks.
    ///
    /// # Errors
    /// One of the two cannot be read or written, or `stop` came.
    pub fn copy_to(&self, path: &Path, stop: &CancellationToken) -> Result<(), TablesError> {
        let to = create_tables(path)?;
        copy_table(&self.transaction, &to, META, stop)?;
        copy_table(&self.transaction, &to, ROWS, stop)
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

fn write(database: &Database, changes: &[Change]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(ROWS)?;
        for (key, value) in changes {
            match value {
                Some(value) => drop(table.insert(key.as_slice(), &**value)?),
                None => drop(table.remove(key.as_slice())?),
            }
        }
    }
    Ok(transaction.commit()?)
}

impl Rows for LocalRows {
    fn get(&self, keys: Vec<Vec<u8>>) -> BoxFuture<'_, Result<Vec<Option<Bytes>>, Error>> {
        self.look(move |database| {
            let transaction = database.begin_read().map_err(broken)?;
            let table = transaction.open_table(ROWS).map_err(broken)?;
            let get = |key: &Vec<u8>| {
                let value = table.get(key.as_slice()).map_err(broken)?;
                Ok(value.map(|value| Bytes::copy_from_slice(value.value())))
            };
            keys.iter().map(get).collect()
        })
    }

    fn scan(&self, from: Vec<u8>, to: Vec<u8>, limit: usize) -> BoxFuture<'_, Result<Vec<Row>, Error>> {
        self.look(move |database| {
            let mut found = Vec::new();
            if from >= to {
                return Ok(found);
            }
            let transaction = database.begin_read().map_err(broken)?;
            let table = transaction.open_table(ROWS).map_err(broken)?;
            let mut bytes = 0;
            for row in table.range(from.as_slice()..to.as_slice()).map_err(broken)?.take(limit) {
                let (key, value) = row.map_err(broken)?;
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
            let turn = self.turn.clone().lock_owned().await;
            let rows = self.clone();
            let done = tokio::task::spawn_blocking(move || {
                // Until it has come to an end, whoever waits for that.
                let _turn = turn;
                rows.check()?;
                // Trying again after a failure could confirm what is lost.
                write(&rows.database, &changes).map_err(|error| rows.fail(broken(error)))
            });
            done.await.unwrap_or_else(|error| Err(self.fail(Error::Failed(error.to_string()))))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::atomic::{AtomicBool, Ordering},
        time::Duration,
    };

    use redb::{StorageBackend, backends::FileBackend};

    use super::*;
    use crate::ports::conformance;

    /// A file whose syncs fail on order.
    #[derive(Debug)]
    struct FailingDisk {
        inner: FileBackend,
        failing: Arc<AtomicBool>,
    }

    impl StorageBackend for FailingDisk {
        fn len(&self) -> io::Result<u64> {
            self.inner.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.inner.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.inner.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            match self.failing.load(Ordering::SeqCst) {
                true => Err(io::Error::other("the disk is gone")),
                false => self.inner.sync_data(),
            }
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.inner.write(offset, data)
        }
    }

    fn failing() -> (tempfile::TempDir, LocalRows, Arc<AtomicBool>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let options = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).clone();
        let failing = Arc::new(AtomicBool::new(false));
        let inner = FileBackend::new(options.open(&path).unwrap()).unwrap();
        let disk = FailingDisk { inner, failing: failing.clone() };
        let database = redb::Builder::new().create_with_backend(disk).unwrap();
        (folder, LocalRows::of(database, path).unwrap(), failing)
    }

    fn row(value: &'static str) -> Vec<Change> {
        vec![(b"k".to_vec(), Some(Bytes::from_static(value.as_bytes())))]
    }

    #[tokio::test]
    async fn it_keeps_the_contract_and_what_it_holds_survives_a_start() {
        let folder = tempfile::tempdir().unwrap();
        conformance::rows::check(&LocalRows::open(folder.path()).unwrap()).await;
        conformance::rows::reopened(async || LocalRows::open(folder.path()).unwrap()).await;
    }

    #[tokio::test]
    async fn it_fails_for_good_and_never_syncs_again_after_a_sync_that_failed() {
        let (_folder, rows, failing) = failing();
        rows.commit(row("before")).await.unwrap();
        assert!(rows.failed().now_or_never().is_none());
        failing.store(true, Ordering::SeqCst);
        let waiting = rows.clone();
        let (first, second) = tokio::join!(rows.commit(row("lost")), waiting.commit(row("behind it")));
        assert!(first.is_err());
        assert_eq!(first, second);
        failing.store(false, Ordering::SeqCst);
        assert_eq!(rows.commit(row("after")).await, first);
        assert_eq!(rows.get(vec![b"k".to_vec()]).await.map(drop), first);
        assert_eq!(rows.scan(Vec::new(), vec![0xff], 1).await.map(drop), first);
        assert!(rows.failed().await.contains("the disk is gone"));
    }

    #[tokio::test]
    async fn it_fails_also_where_nobody_waits_for_the_answer() {
        let (_folder, rows, failing) = failing();
        failing.store(true, Ordering::SeqCst);
        // Polled once, so under way, and dropped.
        assert!(rows.commit(row("lost")).now_or_never().is_none());
        let failed = tokio::time::timeout(Duration::from_secs(60), rows.failed()).await.unwrap();
        assert!(failed.contains("the disk is gone"), "{failed}");
        assert!(rows.get(vec![b"k".to_vec()]).await.is_err());
    }

    /// Names and numbers that files of version 1 have: whoever changes them changes [`VERSION`].
    #[tokio::test]
    async fn the_format_on_disk_is_version_1() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("documents.redb");
        let meta: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
        let table: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
        let database = Database::create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(meta).unwrap().insert("version", 1).unwrap();
        transaction.open_table(table).unwrap().insert(&b"k"[..], &b"old"[..]).unwrap();
        transaction.commit().unwrap();
        drop(database);
        let rows = LocalRows::open(folder.path()).unwrap();
        assert_eq!(rows.get(vec![b"k".to_vec()]).await.unwrap(), [Some(Bytes::from_static(b"old"))]);
        rows.commit(row("new")).await.unwrap();
        drop(rows);
        let database = Database::open(&path).unwrap();
        let transaction = database.begin_read().unwrap();
        assert_eq!(transaction.open_table(meta).unwrap().get("version").unwrap().unwrap().value(), 1);
        assert_eq!(transaction.open_table(table).unwrap().get(&b"k"[..]).unwrap().unwrap().value(), b"new");
    }

    #[tokio::test]
    async fn another_format_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        drop(LocalRows::open(folder.path()).unwrap());
        let path = folder.path().join(FILE);
        let database = Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert("version", VERSION + 1).unwrap();
        transaction.commit().unwrap();
        drop(database);
        for _ in 0..2 {
            let refused = LocalRows::open(folder.path()).map(drop).unwrap_err().to_string();
            assert!(refused.contains("documents.redb: has format 2; this build knows 1"), "{refused}");
        }
        fs::write(&path, b"what is this").unwrap();
        let refused = LocalRows::open(folder.path()).map(drop).unwrap_err();
        assert!(matches!(refused, OpenError::Database { .. }), "{refused}");
    }
}
