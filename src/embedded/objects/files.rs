//! Bodies in files of their own. A file's name is never used twice, so a name pins its bytes.

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize};

use super::OpenError;
use crate::core::object::unhex;

/// The folder of the bodies.
const BODIES: &str = "bodies";

/// Files of one folder.
const FOLDER_FILES_BITS: u32 = 12;

/// Names a body: the life of the store that wrote it, and its number in that life. Also the object's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    pub life: u64,
    pub number: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.life, self.number)
    }
}

impl Place {
    fn folder(self) -> String {
        format!("{:016x}-{:x}", self.life, self.number >> FOLDER_FILES_BITS)
    }

    fn file(self) -> String {
        format!("{:016x}", self.number)
    }

    /// Reads what [`Place::folder`] and [`Place::file`] wrote.
    fn parse(folder: &str, file: &str) -> Option<Place> {
        let life = unhex(folder.split_once('-')?.0).map(u64::from_be_bytes)?;
        let place = Place { life, number: unhex(file).map(u64::from_be_bytes)? };
        (place.folder() == folder).then_some(place)
    }
}

pub struct Files {
    bodies: PathBuf,
    life: u64,
    next: AtomicU64,
    /// Folders of this life whose own names are known to be durable.
    durable: Mutex<BTreeSet<String>>,
    /// How many keep files from being removed, and when one of them ends.
    keepers: (Mutex<usize>, Condvar),
}

/// While it lives, no file goes that an object named when it began.
pub struct Kept(Arc<Files>);

impl Drop for Kept {
    fn drop(&mut self) {
        let (keepers, ended) = &self.0.keepers;
        *keepers.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ended.notify_all();
    }
}

impl Files {
    /// # Errors
    /// The folder cannot be made.
    pub fn open(root: &Path, life: u64) -> Result<Self, OpenError> {
        let bodies = root.join(BODIES);
        let made = fs::create_dir_all(&bodies).and_then(|()| sync_folder(root));
        // The folder that holds the store may be new as well.
        let made = made.and_then(|()| root.parent().map_or(Ok(()), sync_folder));
        made.map_err(|source| OpenError::Disk { path: bodies.clone(), source })?;
        Ok(Files { bodies, life, next: AtomicU64::new(0), durable: Mutex::default(), keepers: Default::default() })
    }

    /// A name for a new body.
    pub fn place(&self) -> Place {
        Place { life: self.life, number: self.next.fetch_add(1, Ordering::Relaxed) }
    }

    /// A new file. It is removed again unless it is kept.
    pub fn create(self: &Arc<Self>) -> io::Result<Fresh> {
        let place = self.place();
        let path = self.path(place);
        let open = || fs::OpenOptions::new().write(true).create_new(true).open(&path);
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match fs::create_dir(self.bodies.join(place.folder())) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                    _ => self.sync_name(place.folder())?,
                }
                open()?
            }
            file => file?,
        };
        Ok(Fresh { place, file, files: self.clone(), kept: false })
    }

    /// Opens a body for reading.
    pub fn read(&self, place: Place) -> io::Result<fs::File> {
        fs::File::open(self.path(place))
    }

    /// Makes the names of these files durable, and those of their folders: another one may have made a folder a moment
    /// ago and not synced it yet.
    pub fn sync_folders(&self, places: &[Place]) -> io::Result<()> {
        let folders: BTreeSet<String> = places.iter().map(|place| place.folder()).collect();
        folders.into_iter().try_for_each(|folder| {
            sync_folder(&self.bodies.join(&folder))?;
            self.sync_name(folder)
        })
    }

    /// Makes a folder's own name durable, once.
    fn sync_name(&self, folder: String) -> io::Result<()> {
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if !durable.contains(&folder) {
            sync_folder(&self.bodies)?;
            durable.insert(folder);
        }
        Ok(())
    }

    /// Keeps files from being removed.
    pub fn keep(self: &Arc<Self>) -> Kept {
        *self.keepers.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Kept(self.clone())
    }

    /// Removes a file that nothing names any more, once nobody keeps it.
    pub fn remove_named(&self, place: Place) -> io::Result<()> {
        let (keepers, ended) = &self.keepers;
        let keepers = keepers.lock().unwrap_or_else(PoisonError::into_inner);
        drop(ended.wait_while(keepers, |keepers| *keepers > 0).unwrap_or_else(PoisonError::into_inner));
        self.remove(place)
    }

    /// Removes a file; one that is not there is no error.
    pub fn remove(&self, place: Place) -> io::Result<()> {
        match fs::remove_file(self.path(place)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Calls `judge` with every file of an earlier life, and removes those it says no to, and folders that are empty.
    pub fn sweep<E: From<io::Error>>(&self, mut judge: impl FnMut(Place) -> Result<bool, E>) -> Result<usize, E> {
        let mut removed = 0;
        for folder in fs::read_dir(&self.bodies)? {
            let folder = folder?;
            let name = folder.file_name().to_string_lossy().into_owned();
            let life = name.split_once('-').and_then(|(life, _)| unhex(life)).map(u64::from_be_bytes);
            // What lies here and is not ours stays as it is.
            if life.is_none_or(|life| life == self.life) || !folder.file_type()?.is_dir() {
                continue;
            }
            let mut left = 0;
            for file in fs::read_dir(folder.path())? {
                match Place::parse(&name, &file?.file_name().to_string_lossy()) {
                    Some(place) if !judge(place)? => {
                        self.remove_named(place)?;
                        removed += 1;
                    }
                    // Whatever else lies here is not ours.
                    _ => left += 1,
                }
            }
            if left == 0 {
                fs::remove_dir(folder.path())?;
            }
        }
        Ok(removed)
    }

    fn path(&self, place: Place) -> PathBuf {
        self.bodies.join(place.folder()).join(place.file())
    }

    /// The file's place within the store.
    pub fn path_within(place: Place) -> String {
        format!("{BODIES}/{}/{}", place.folder(), place.file())
    }
}

/// A file that no object names yet.
pub struct Fresh {
    pub place: Place,
    pub file: fs::File,
    files: Arc<Files>,
    kept: bool,
}

impl Fresh {
    /// Leaves the file where it is: an object is about to name it.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = self.files.remove(self.place)
        {
            tracing::warn!(%error, "a file of the object store stays until the next start");
        }
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}
