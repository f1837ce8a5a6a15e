//! Files, as the embedded backend needs them: written at known places, synced, read back.
//!
//! The simulator loses what was written but not synced, tears tails, fails syncs and rolls disks back behind this same
//! trait, so nothing in the embedded backend touches `std::fs` but its one adapter.
//!
//! Contract, checked by [`super::conformance::disk`]:
//! - what [`File::write_at`] wrote is visible to [`File::read_at`] at once, and durable after [`File::sync`];
//! - a created, renamed or removed name is durable after [`Disk::sync_dir`] on its folder;
//! - after a failed `sync` the file's content is unknown: the caller must stop, never retry (PostgreSQL's "fsyncgate").

use std::{io, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;

pub trait Disk: Send + Sync {
    /// Opens an existing file.
    fn open(&self, path: &str) -> BoxFuture<'_, io::Result<Arc<dyn File>>>;

    /// Creates a file, with room for `size` bytes set aside (their content reads as zeros); an existing file of that
    /// name is emptied first. Setting room aside makes later appends about ten times cheaper on ext4: neither the
    /// file's length nor its block map changes while writing.
    fn create(&self, path: &str, size: u64) -> BoxFuture<'_, io::Result<Arc<dyn File>>>;

    /// Replaces `to` if it exists.
    fn rename(&self, from: &str, to: &str) -> BoxFuture<'_, io::Result<()>>;

    fn remove(&self, path: &str) -> BoxFuture<'_, io::Result<()>>;

    /// File names (not folders) in `dir`, sorted. An absent folder has none.
    fn list(&self, dir: &str) -> BoxFuture<'_, io::Result<Vec<String>>>;

    fn create_dir(&self, dir: &str) -> BoxFuture<'_, io::Result<()>>;

    fn sync_dir(&self, dir: &str) -> BoxFuture<'_, io::Result<()>>;
}

pub trait File: Send + Sync {
    /// Up to `length` bytes from `position`; fewer only at the end of the file.
    fn read_at(&self, position: u64, length: usize) -> BoxFuture<'_, io::Result<Bytes>>;

    /// All of `data` at `position`.
    fn write_at<'a>(&'a self, position: u64, data: &'a [u8]) -> BoxFuture<'a, io::Result<()>>;

    fn sync(&self) -> BoxFuture<'_, io::Result<()>>;

    /// Length in bytes, room set aside included.
    fn size(&self) -> BoxFuture<'_, io::Result<u64>>;
}
