//! Removes files: those of objects that were replaced or removed, as they come; and once, at the start, those that no
//! object names, which a crash has left behind.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
};

use super::{
    files::{Files, Place},
    index::{Broken, Index},
};

/// Files that wait for their removal; the writer waits for room. Removing takes time where files are large.
const DOOMED_MAX: usize = 4096;

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Disk(#[from] io::Error),
    #[error(transparent)]
    Index(#[from] Broken),
}

/// Starts the thread. It ends when the sender is gone.
///
/// # Errors
/// No thread could be started.
pub fn start(files: Arc<Files>, index: Index) -> io::Result<SyncSender<Place>> {
    let (sender, doomed) = sync_channel::<Place>(DOOMED_MAX);
    std::thread::Builder::new().name("objects-sweeper".to_owned()).spawn(move || {
        match files.sweep(|place| index.names_file(place).map_err(Error::from)) {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "removed files of the object store that no object names"),
            Err(error) => tracing::warn!(%error, "files that no object names stay until the next start"),
        }
        // It would keep the database open.
        drop(index);
        for place in doomed {
            if let Err(error) = files.remove(place) {
                tracing::warn!(%error, "a file of the object store stays until the next start");
            }
        }
    })?;
    Ok(sender)
}
