//! The durable object store of an embedded region, in `<data_dir>/objects/`.
//!
//! ```text
//! index.redb                 which object stands where, and the bodies of small ones
//! bodies/<life>-<n>/<n>      one file per larger body or part, under a name that is never used again
//! ```
//!
//! **Write.** [`intake`] takes the bytes in (hashing them; what is larger than [`INLINE_BYTES_MAX`] goes to a file of its
//! own, synced) and [`writer`] puts the object into the index: one thread, one transaction and one sync for everything
//! that waits. Conditions are judged in that transaction, so of several writers under a condition one wins. A file that the
//! index does not name does not exist; [`sweep`] removes such, which a crash leaves behind.
//!
//! **Read.** A reader looks into a snapshot of the index and keeps the body's file open: it sees an object whole, and goes
//! on doing so after the object was replaced or removed. Whole reads are checked against the SHA-256 of the write.
//!
//! Why redb, and why like this: `docs/adr/0010-embedded-object-store.md`.

mod backup;
mod digest;
mod files;
mod index;
mod intake;
mod listing;
mod port;
mod reading;
mod service;
mod sweep;
#[cfg(test)]
mod tests;
mod uploads;
mod writer;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Semaphore, time::timeout};

use crate::{
    core::link::Failure,
    ports::{
        clock::{Clock, Entropy},
        store::Error,
    },
};
use files::Files;
use index::{Index, Tables};
use writer::Writer;

/// A body of at most so many bytes stands in the index: a file would cost two more syncs and an inode. More of it makes
/// the index large, which a start after a crash reads as a whole.
const INLINE_BYTES_MAX: usize = 16 << 10;

/// Bytes of a body that are hashed, written or read at once. A body on its way holds twice as much in memory.
const CHUNK_BYTES: usize = 256 << 10;

/// Uploads whose parts become an object at the same time; more wait.
const JOINS_MAX: usize = 4;

/// How long a change may wait to be durable, and a look to be answered, before the caller is told that nothing is known.
/// Far more than a healthy disk takes, also under load.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a store does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{}: {source}", path.display())]
    Disk { path: PathBuf, source: io::Error },
    #[error("{}: {why}", path.display())]
    Index { path: PathBuf, why: String },
    #[error("{}: has format {found}; this build knows {known}", path.display())]
    Version { path: PathBuf, found: u64, known: u64 },
}

/// What a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub objects: u64,
    pub bytes: u64,
    /// Objects whose entries were found damaged at the start. They are neither read nor replaced.
    pub unreadable: u64,
    /// Files of removed objects that stay until the next start.
    pub files_left: u64,
}

/// Told after each change.
pub type Watcher = Box<dyn Fn(Totals) + Send>;

/// A handle of the store; cheap to clone. The writer ends when the last one is gone.
#[derive(Clone)]
pub struct LocalObjects {
    index: Index,
    files: Arc<Files>,
    writer: Writer,
    clock: Arc<dyn Clock>,
    joins: Arc<Semaphore>,
}

impl LocalObjects {
    /// Opens the store in `root`, which is created if absent. Files that no object names are removed in the background.
    ///
    /// # Errors
    /// The disk fails, or what it holds is damaged or of another format.
    pub fn open(
        root: &Path,
        clock: Arc<dyn Clock>,
        entropy: &dyn Entropy,
        watcher: Watcher,
    ) -> Result<Self, OpenError> {
        let files = Files::open(root, entropy.next_u64())?;
        let index = Index::open(root)?;
        Self::start(root, index, files, clock, watcher)
    }

    fn start(
        root: &Path,
        index: Index,
        files: Files,
        clock: Arc<dyn Clock>,
        watcher: Watcher,
    ) -> Result<Self, OpenError> {
        let disk_error = |source| OpenError::Disk { path: root.to_owned(), source };
        let index_error = |why: index::Broken| OpenError::Index { path: root.to_owned(), why: why.to_string() };
        let totals = index.totals().map_err(index_error)?;
        watcher(totals);
        let files = Arc::new(files);
        let doomed = sweep::start(files.clone(), index.clone()).map_err(disk_error)?;
        let writer = writer::start(index.clone(), files.clone(), doomed, totals, watcher).map_err(disk_error)?;
        Ok(LocalObjects { index, files, writer, clock, joins: Arc::new(Semaphore::new(JOINS_MAX)) })
    }

    /// Resolves when the store can take nothing in any more, with the reason: the process should end and start again.
    pub async fn failed(&self) -> String {
        self.writer.failed().await
    }

    /// Takes in what waits and nothing more. Without this the next start has to read the whole index.
    pub async fn close(&self) {
        self.writer.close().await;
    }

    /// Removes uploads that took in nothing for `age` and never came to an end; answers how many.
    ///
    /// # Errors
    /// The store failed, or an entry is damaged.
    pub async fn drop_stale_uploads(&self, age: Duration) -> Result<usize, Failure> {
        let before = self.clock.now().minus(age);
        self.writer.transact(move |tables| uploads::drop_stale(tables, before)).await
    }

    /// Judges and changes in a transaction, off the runtime.
    async fn change<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Tables<'_>) -> Result<Result<T, Error>, index::Broken> + Send + 'static,
    ) -> Result<T, Error> {
        self.writer.transact(job).await?
    }

    /// Looks something up in a snapshot, off the runtime: what is not in memory blocks.
    async fn look<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Index, &Files) -> Result<T, index::Broken> + Send + 'static,
    ) -> Result<T, Failure> {
        let (index, files) = (self.index.clone(), self.files.clone());
        match timeout(PATIENCE, off_runtime(move || question(&index, &files))).await {
            Ok(answer) => answer?.map_err(broken),
            Err(_) => Err(late()),
        }
    }
}

/// What cannot be read now may be readable later, and nothing was changed.
fn broken(error: index::Broken) -> Failure {
    tracing::error!(%error, "the object store's index cannot be read");
    Failure::Unanswered(format!("the object store's index: {error}"))
}

/// The disk neither does its work nor fails.
fn late() -> Failure {
    let seconds = PATIENCE.as_secs();
    tracing::error!(seconds, "the object store's disk does not answer");
    Failure::Unanswered(format!("the object store did not answer within {seconds} s"))
}

fn disk_failure(error: &io::Error) -> Failure {
    tracing::error!(%error, "the object store's disk");
    Failure::Unanswered(format!("the object store's disk: {error}"))
}

/// Runs what blocks on a thread for that.
async fn off_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::Unanswered(format!("the object store was interrupted: {error}")))
}
