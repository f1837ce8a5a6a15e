//! The store as it is at one moment, for a copy.

use std::{fs, io, path::Path, sync::Arc};

use redb::ReadTransaction;
use tokio_util::sync::CancellationToken;

use super::{
    LocalObjects,
    files::{Files, Kept, Place},
    index::{self, Broken, Index},
};
use crate::embedded::backup::TablesError;

/// The index at one moment. The bodies that it names stay while it lives.
pub struct Pinned {
    snapshot: ReadTransaction,
    /// A transaction ends when its database is closed.
    _index: Index,
    files: Arc<Files>,
    kept: Kept,
}

/// Bodies in files, of one moment; they stay while it lives.
pub struct Bodies {
    places: Vec<Place>,
    files: Arc<Files>,
    _kept: Kept,
}

impl LocalObjects {
    /// The index's name within the store.
    pub const INDEX: &str = index::FILE;

    /// # Errors
    /// The store failed.
    pub fn pin(&self) -> Result<Pinned, impl std::error::Error> {
        // In this order: what is removed from now on is named by the snapshot, or by nothing.
        let kept = self.files.keep();
        let snapshot = self.index.snapshot()?;
        Ok::<_, Broken>(Pinned { snapshot, _index: self.index.clone(), files: self.files.clone(), kept })
    }
}

impl Pinned {
    /// Writes the index into a new file. Blocks.
    ///
    /// # Errors
    /// One of the two cannot be read or written, or `stop` came.
    pub fn copy_to(self, path: &Path, stop: &CancellationToken) -> Result<Bodies, TablesError> {
        let places = index::copy_to(&self.snapshot, path, stop)?;
        Ok(Bodies { places, files: self.files, _kept: self.kept })
    }
}

impl Bodies {
    /// Each file with its place within the store.
    pub fn files(&self) -> impl Iterator<Item = (String, io::Result<fs::File>)> + '_ {
        self.places.iter().map(|place| (Files::path_within(*place), self.files.read(*place)))
    }
}
