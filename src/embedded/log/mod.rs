//! The hub's log: segments of frames on disk, read while they are written.
//!
//! ```text
//! log/00000000000000000001.log     named after the first offset it may hold
//!   header: magic "HWLG" | version u32 | first offset u64 | crc32 of these u32 | 12 zeros
//!   Snapshot frame: all that the region keeps besides events, as of the segment's start
//!   groups: Sync frame, then Event and Change frames; one write and one sync per group
//! ```
//!
//! Recovery reads the last segment's snapshot and folds what stands behind it. A tail that was never synced is cut off;
//! a damaged frame with a later sync behind it was acknowledged once, so the region refuses to start and says where.

mod reader;
mod segment;

use std::sync::{Arc, RwLock};

pub use reader::LogReader;
pub use segment::{SEGMENT_HEADER_BYTES, Segment, Tail};

use crate::{core::journal::Head, ports::disk::Disk};

/// The folder of the segments.
pub const DIR: &str = "log";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Disk(#[from] std::io::Error),
    /// Acknowledged data is damaged.
    #[error(
        "{file}, byte {position}: {why}. This part was synced, so it held acknowledged events: restore the region from \
         a backup, or empty its data directory and let its peers fill it again"
    )]
    Damaged { file: String, position: u64, why: String },
    #[error("{file}: written by format version {found}; this build reads version {expected}")]
    Version { file: String, found: u32, expected: u32 },
}

/// The segments, oldest first. The writer changes the list, readers follow it.
pub struct Log {
    segments: RwLock<Vec<Arc<Segment>>>,
}

impl Log {
    /// Opens what is on `disk`; temporary files of an interrupted roll are removed.
    pub async fn open(disk: &dyn Disk) -> Result<Log, Error> {
        disk.create_dir(DIR).await?;
        let mut segments: Vec<Arc<Segment>> = Vec::new();
        for name in disk.list(DIR).await? {
            let path = format!("{DIR}/{name}");
            if name.ends_with(".log") {
                segments.push(Arc::new(Segment::open(disk, &path).await?));
            } else {
                tracing::info!(file = path, "removing what an interrupted roll left");
                disk.remove(&path).await?;
            }
        }
        for index in 1..segments.len() {
            segments[index - 1].close(segments[index].start());
        }
        Ok(Log { segments: RwLock::new(segments) })
    }

    pub fn segments(&self) -> Vec<Arc<Segment>> {
        self.list().clone()
    }

    /// The one that is written to.
    pub fn last(&self) -> Option<Arc<Segment>> {
        self.list().last().cloned()
    }

    pub fn push(&self, segment: Arc<Segment>) {
        self.list_mut().push(segment);
    }

    /// Takes the oldest segment off the list; readers that are in it stay at ease.
    pub fn pop_oldest(&self) -> Option<Arc<Segment>> {
        let mut list = self.list_mut();
        (list.len() > 1).then(|| list.remove(0))
    }

    /// The head as of the log's beginning: what is older is gone.
    pub fn start(&self) -> Head {
        self.list().first().map(|segment| segment.start()).unwrap_or_default()
    }

    pub fn bytes(&self) -> u64 {
        self.list().iter().map(|segment| segment.tail().bytes).sum()
    }

    /// The segment that holds or will hold `offset`.
    pub fn find(&self, offset: u64) -> Option<Arc<Segment>> {
        let list = self.list();
        let after = list.partition_point(|segment| segment.first() <= offset);
        list.get(after.checked_sub(1)?).cloned()
    }

    /// The segment that follows the one which begins with `first`.
    pub fn after(&self, first: u64) -> Option<Arc<Segment>> {
        self.list().iter().find(|segment| segment.first() > first).cloned()
    }

    fn list(&self) -> std::sync::RwLockReadGuard<'_, Vec<Arc<Segment>>> {
        self.segments.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn list_mut(&self) -> std::sync::RwLockWriteGuard<'_, Vec<Arc<Segment>>> {
        self.segments.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
