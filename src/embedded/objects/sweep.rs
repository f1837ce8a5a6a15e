//! Removes files: those of objects that were replaced or removed, as they come; and once, at the start, those that no
//! object names, which a crash has left behind. Each on a thread of its own, and the writer waits for neither.

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

/// Files that wait for their removal, 16 bytes each. Removing takes time where files are large, and one upload that is
/// given up has 10,000 of them.
const DOOMED_MAX: usize = 65_536;

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Disk(#[from] io::Error),
    #[error(transparent)]
    Index(#[from] Broken),
}

/// Takes files that nothing names any more. Both threads end soon after this is gone.
pub struct Doomed {
    sender: SyncSender<Place>,
    /// Files that found no room since the start.
    pub left: u64,
    _open: Arc<()>,
}

impl Doomed {
    /// Has the file removed, soon; or by the sweep of the next start, where too many wait.
    pub fn remove(&mut self, place: Place) {
        if self.sender.try_send(place).is_err() {
            self.left += 1;
            if self.left.is_power_of_two() {
                tracing::warn!(left = self.left, "files of removed objects stay until the next start: too many wait");
            }
        }
    }
}

/// Starts the threads.
///
/// # Errors
/// No thread could be started.
pub fn start(files: Arc<Files>, index: Index) -> io::Result<Doomed> {
    let open = Arc::new(());
    let is_open = Arc::downgrade(&open);
    let sweeping = files.clone();
    std::thread::Builder::new().name("objects-sweeper".to_owned()).spawn(move || {
        // It would keep a closed store's database open.
        let judge = |place| match is_open.strong_count() {
            0 => Ok(true),
            _ => index.names_file(place).map_err(Error::from),
        };
        match sweeping.sweep(judge) {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "removed files of the object store that no object names"),
            Err(error) => tracing::warn!(%error, "files that no object names stay until the next start"),
        }
    })?;
    let (sender, doomed) = sync_channel::<Place>(DOOMED_MAX);
    std::thread::Builder::new().name("objects-remover".to_owned()).spawn(move || {
        for place in doomed {
            if let Err(error) = files.remove_named(place) {
                tracing::warn!(%error, "a file of the object store stays until the next start");
            }
        }
    })?;
    Ok(Doomed { sender, left: 0, _open: open })
}
