//! A consistent copy of a region's data while the region runs, and the way back.
//!
//! # The problem
//! Log, ledger, documents and objects change all the time, each under a writer of its own, and retention, merges and
//! sweeps take files away. A copy of files that is made one after the other is of no moment: documents that are ahead of
//! their log, or a ledger that covers events which the copy does not have, are a region that never was.
//!
//! # The method
//! Everything is **pinned** within milliseconds, and copied at leisure then.
//!
//! 1. *Documents*: a read transaction, while nothing is committed to their table. It says up to which offset of the log
//!    the documents go.
//! 2. *Log and ledger*: the hub's writer, between two groups, hands out its open files and how many bytes of each are
//!    durable. Segments and runs are only appended to, or never changed; one that is removed meanwhile stays readable
//!    through its handle. Now documents may be committed again: their log is at hand from where they end.
//! 3. *Objects*: a read transaction of the index, and no body is removed until it is copied. After the log, so that an
//!    event's payload is in the copy if the event is.
//!
//! So the copy is what a crash at moment 2 would have left on the disk, and a start from it is a start after a crash.
//! The [`manifest`] with sizes and checksums of all files comes last.

mod manifest;
mod restore;
mod tables;
mod target;
#[cfg(test)]
mod tests;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use tokio::{
    runtime::Handle,
    sync::Mutex,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

pub use self::restore::{Checked, Error as RestoreError, Restored, check};
pub(in crate::embedded) use self::tables::{Error as TablesError, copy as copy_table, create as create_tables};
use self::target::{Error as TargetError, Target, read_from};
use super::{
    hub::{self, EmbeddedHub},
    objects::LocalObjects,
    rows::{self, LocalRows},
};
use crate::{
    core::time::Timestamp,
    ports::{
        backup::{About, Backup, Error, Made},
        clock::Clock,
    },
};

/// The file that says whose data a directory holds.
pub const IDENTITY: &str = "IDENTITY";

/// The folder of the objects.
pub const OBJECTS: &str = "objects";

/// How long a writer may take until it has come to the end of what it is doing.
const PIN_WAIT: Duration = Duration::from_secs(30);

/// Told of each backup when it is made: of which moment it is.
pub type Watcher = Box<dyn Fn(Timestamp) + Send + Sync>;

/// What a backup is made of.
pub struct Parts {
    pub cluster: String,
    pub region: String,
    pub data_dir: PathBuf,
    /// What stands in [`IDENTITY`].
    pub identity: String,
    pub hub: EmbeddedHub,
    /// `None` where the file has no document types.
    pub rows: Option<LocalRows>,
    pub objects: LocalObjects,
    pub clock: Arc<dyn Clock>,
    pub watcher: Watcher,
}

/// Makes backups of one region, one at a time. Cheap to clone.
#[derive(Clone)]
pub struct LocalBackup {
    parts: Arc<Parts>,
    turn: Arc<Mutex<()>>,
    stop: CancellationToken,
}

/// The region at one moment.
struct Pinned {
    moment: Timestamp,
    about: About,
    documents: Option<rows::Pinned>,
    hub: hub::Pinned,
}

fn failed(error: impl ToString) -> Error {
    Error::Failed(error.to_string())
}

impl LocalBackup {
    pub fn new(parts: Parts) -> LocalBackup {
        LocalBackup { parts: Arc::new(parts), turn: Arc::default(), stop: CancellationToken::new() }
    }

    async fn run(&self, to: PathBuf) -> Result<Made, Error> {
        let began = Instant::now();
        let (parts, place, stop) = (self.parts.clone(), to.clone(), self.stop.clone());
        let taken = off_runtime(move || Target::take(&place, &parts.data_dir, stop));
        let target = taken.await??;
        let pinned = self.pin().await?;
        let moment = pinned.moment;
        let (parts, runtime) = (self.parts.clone(), Handle::current());
        let made = off_runtime(move || parts.write(target, pinned, to, &runtime)).await??;
        let directory = made.directory.display();
        let (files, bytes, seconds) = (made.files, made.bytes, began.elapsed().as_secs_f64());
        tracing::info!(%directory, files, bytes, seconds, head = made.about.head, "backup made");
        (self.parts.watcher)(moment);
        Ok(made)
    }

    async fn pin(&self) -> Result<Pinned, Error> {
        let parts = &self.parts;
        let late = |_| failed("the region's writers did not answer in time");
        let rows = match &parts.rows {
            Some(rows) => Some(rows.clone()),
            // Of an earlier file that had document types.
            None if parts.data_dir.join(rows::FILE).exists() => {
                let folder = parts.data_dir.clone();
                Some(off_runtime(move || LocalRows::open(&folder)).await?.map_err(failed)?)
            }
            None => None,
        };
        let documents = match rows {
            Some(rows) => Some(timeout(PIN_WAIT, rows.pin()).await.map_err(late)?.map_err(failed)?),
            None => None,
        };
        let hub = timeout(PIN_WAIT, parts.hub.pin()).await.map_err(late)?.map_err(failed)?;
        let moment = parts.clock.now();
        let about = About {
            cluster: parts.cluster.clone(),
            region: parts.region.clone(),
            time: moment.to_rfc3339(),
            head: hub.head.offset,
            incarnation: hub.life.map(|life| life.to_string()),
        };
        // From here on documents are committed again.
        let documents = documents.map(|(documents, _turn)| documents);
        Ok(Pinned { moment, about, documents, hub })
    }
}

impl Backup for LocalBackup {
    fn back_up(&self, to: PathBuf) -> BoxFuture<'_, Result<Made, Error>> {
        async move {
            let turn = self.turn.clone().try_lock_owned().map_err(|_| Error::Busy)?;
            let backup = self.clone();
            let task = tokio::spawn(async move {
                let _turn = turn;
                let result = backup.run(to).await;
                if let Err(error @ Error::Failed(_)) = &result {
                    tracing::error!(%error, "backup failed");
                }
                result
            });
            task.await.unwrap_or_else(|error| Err(failed(error)))
        }
        .boxed()
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        async move {
            self.stop.cancel();
            drop(self.turn.lock().await);
        }
        .boxed()
    }
}

impl Parts {
    fn write(&self, mut target: Target, pinned: Pinned, to: PathBuf, runtime: &Handle) -> Result<Made, Error> {
        let Pinned { about, documents, hub, .. } = pinned;
        let objects = self.objects.pin().map_err(failed)?;
        target.begin(&about)?;
        // Databases first: as long as a transaction is read, they grow.
        if let Some(documents) = documents {
            target.database(rows::FILE, |path, stop| documents.copy_to(path, stop))?;
        }
        let index = format!("{OBJECTS}/{}", LocalObjects::INDEX);
        let bodies = target.database(&index, |path, stop| objects.copy_to(path, stop))?;
        for pinned in &hub.files {
            let read = |at, length| runtime.block_on(pinned.file.read_at(at, length));
            target.write(&pinned.path, pinned.bytes, read)?;
        }
        for (path, file) in bodies.files() {
            let path = format!("{OBJECTS}/{path}");
            let opened = file.and_then(|file| Ok((file.metadata()?.len(), file)));
            match opened {
                Ok((size, file)) => target.write(&path, size, read_from(&file))?,
                // Bodies stay while this lives: the region has lost it before.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    tracing::error!(path, "an object is damaged: its file is not there; the backup lacks it as well");
                }
                Err(source) => return Err(TargetError::Disk { path: self.data_dir.join(path), source }.into()),
            }
        }
        let identity = Bytes::from(self.identity.clone());
        target.write(IDENTITY, identity.len() as u64, |at, length| {
            let from = usize::try_from(at).unwrap_or(usize::MAX).min(identity.len());
            Ok(identity.slice(from..identity.len().min(from + length)))
        })?;
        Ok(target.finish(about, to)?)
    }
}

/// Runs what blocks on a thread for that.
async fn off_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(failed)
}

/// Whether a directory holds anything but what belongs to processes.
fn holds_data(directory: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        // An agent that found no data, or a restore that came to no end, leaves its identity.
        if name != IDENTITY && !restore::OF_PROCESSES.iter().any(|kept| name == *kept) {
            return Ok(true);
        }
    }
    Ok(false)
}
