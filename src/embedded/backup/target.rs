//! The directory that a backup is written to.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{DirBuilderExt, FileExt},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::{
    manifest::{self, Listed},
    tables,
};
use crate::ports::backup::{self as port, About, Made};

/// Bytes that are read and written at once.
const CHUNK_BYTES: usize = 1 << 20;

/// After so many a sync: no one sync holds the disk, which the region needs meanwhile, for longer than these take.
const SYNC_BYTES: usize = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {source}", path.display())]
    Disk { path: PathBuf, source: io::Error },
    #[error("{}: ends before its {expected} bytes", path.display())]
    Short { path: PathBuf, expected: u64 },
    #[error("{}: {source}", path.display())]
    Tables { path: PathBuf, source: tables::Error },
    #[error("the agent is stopping")]
    Stopped,
}

impl Error {
    pub fn disk(path: &Path) -> impl FnOnce(io::Error) -> Error {
        |source| Error::Disk { path: path.to_owned(), source }
    }
}

impl From<Error> for port::Error {
    fn from(error: Error) -> Self {
        port::Error::Failed(error.to_string())
    }
}

/// A backup on its way. Dropped before [`finish`](Target::finish) it takes away what it wrote.
pub struct Target {
    root: PathBuf,
    /// The directory was not there before.
    is_new: bool,
    manifest: Option<manifest::Writer>,
    folders: BTreeSet<PathBuf>,
    stop: CancellationToken,
}

impl Target {
    /// Takes an empty directory, or makes one, outside of `data_dir`.
    ///
    /// # Errors
    /// Another directory must be chosen.
    pub fn take(root: &Path, data_dir: &Path, stop: CancellationToken) -> Result<Target, port::Error> {
        let refused = |why: String| port::Error::Refused(format!("{}: {why}", root.display()));
        if !root.is_absolute() {
            return Err(refused("not an absolute path".to_owned()));
        }
        let (parent, name) = root.parent().zip(root.file_name()).ok_or_else(|| refused("no directory".to_owned()))?;
        let unusable = |path: &Path, error: io::Error| {
            let path = path.display();
            port::Error::Refused(format!("{path}: {error} (the agent writes on its own machine, as its own user)"))
        };
        let real = fs::canonicalize(root).or_else(|_| fs::canonicalize(parent).map(|parent| parent.join(name)));
        let real = real.map_err(|error| unusable(parent, error))?;
        if fs::canonicalize(data_dir).is_ok_and(|data_dir| real.starts_with(data_dir)) {
            return Err(refused(format!("lies within the region's data_dir, {}", data_dir.display())));
        }
        // As private as data is.
        let is_new = match fs::DirBuilder::new().mode(0o700).create(&real) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(unusable(root, error)),
        };
        let mut target = Target { root: real, is_new, manifest: None, folders: BTreeSet::new(), stop };
        let mut entries = fs::read_dir(&target.root).map_err(|error| unusable(root, error))?;
        if entries.next().is_some() {
            return Err(refused("not empty; a backup gets a directory of its own".to_owned()));
        }
        let manifest = manifest::Writer::create(&target.root).map_err(|error| unusable(root, error))?;
        target.manifest = Some(manifest);
        Ok(target)
    }

    /// Before the first file.
    pub fn begin(&mut self, about: &About) -> Result<(), Error> {
        let path = self.root.join(manifest::TEMPORARY);
        self.manifest().and_then(|manifest| manifest.begin(about)).map_err(Error::disk(&path))
    }

    /// Writes a file of `size` bytes, as `read` gives them by their position.
    pub fn write(
        &mut self,
        path: &str,
        size: u64,
        read: impl FnMut(u64, usize) -> io::Result<Bytes>,
    ) -> Result<(), Error> {
        let to = self.place(path)?;
        let sha256 = copy(&to, size, &self.stop, read)?;
        self.list(path, sha256, size)
    }

    /// A database that `fill` writes.
    pub fn database<T>(
        &mut self,
        path: &str,
        fill: impl FnOnce(&Path, &CancellationToken) -> Result<T, tables::Error>,
    ) -> Result<T, Error> {
        let to = self.place(path)?;
        let filled = fill(&to, &self.stop).map_err(|source| match source {
            tables::Error::Stopped => Error::Stopped,
            source => Error::Tables { path: to.clone(), source },
        })?;
        let file = fs::File::open(&to).map_err(Error::disk(&to))?;
        file.sync_all().map_err(Error::disk(&to))?;
        let size = file.metadata().map_err(Error::disk(&to))?.len();
        let sha256 = digest(&to, size, &self.stop, read_from(&file))?;
        self.list(path, sha256, size)?;
        Ok(filled)
    }

    /// Makes all of it durable, and then a backup.
    pub fn finish(mut self, about: About, named: PathBuf) -> Result<Made, Error> {
        for folder in std::mem::take(&mut self.folders).iter().chain([&self.root]) {
            sync_folder(folder)?;
        }
        if let Some(parent) = self.root.parent().filter(|_| self.is_new) {
            sync_folder(parent)?;
        }
        let (files, bytes) = self.manifest.as_ref().map_or((0, 0), |manifest| (manifest.files, manifest.bytes));
        if let Some(manifest) = self.manifest.take() {
            let finished = manifest.finish();
            if let Err(source) = finished {
                self.abandon();
                return Err(Error::Disk { path: self.root.clone(), source });
            }
        }
        Ok(Made { about, directory: named, files, bytes })
    }

    /// Where a file belongs; its folder is there.
    fn place(&mut self, path: &str) -> Result<PathBuf, Error> {
        let to = self.root.join(path);
        let mut folder = to.parent();
        if let Some(folder) = folder.filter(|folder| !self.folders.contains(*folder)) {
            fs::create_dir_all(folder).map_err(Error::disk(folder))?;
        }
        while let Some(within) = folder.filter(|folder| *folder != self.root) {
            self.folders.insert(within.to_owned());
            folder = within.parent();
        }
        Ok(to)
    }

    fn list(&mut self, path: &str, sha256: [u8; 32], size: u64) -> Result<(), Error> {
        let at = self.root.join(manifest::TEMPORARY);
        let listed = Listed { sha256, size, path: path.to_owned() };
        self.manifest().and_then(|manifest| manifest.add(&listed)).map_err(Error::disk(&at))
    }

    fn manifest(&mut self) -> io::Result<&mut manifest::Writer> {
        self.manifest.as_mut().ok_or_else(|| io::Error::other("the manifest is closed"))
    }

    /// Removes what was written: it was empty before.
    fn abandon(&self) {
        let result = match self.is_new {
            true => fs::remove_dir_all(&self.root),
            false => fs::read_dir(&self.root).and_then(|mut entries| {
                entries.try_for_each(|entry| {
                    let entry = entry?;
                    match entry.file_type()?.is_dir() {
                        true => fs::remove_dir_all(entry.path()),
                        false => fs::remove_file(entry.path()),
                    }
                })
            }),
        };
        if let Err(error) = result {
            let directory = self.root.display();
            tracing::warn!(%directory, %error, "what was written of a backup that failed stays; it is none");
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.manifest.take().is_some() {
            self.abandon();
        }
    }
}

/// Writes a new file, durable when this returns; answers its SHA-256. Zeros are left out, as room that was set aside.
pub fn copy(
    to: &Path,
    size: u64,
    stop: &CancellationToken,
    mut read: impl FnMut(u64, usize) -> io::Result<Bytes>,
) -> Result<[u8; 32], Error> {
    let file = fs::OpenOptions::new().write(true).create_new(true).open(to).map_err(Error::disk(to))?;
    let mut unsynced = 0;
    let sha256 = digest(to, size, stop, |at, length| {
        let chunk = read(at, length)?;
        if chunk.iter().any(|byte| *byte != 0) {
            file.write_all_at(&chunk, at)?;
            unsynced += chunk.len();
        }
        if unsynced >= SYNC_BYTES {
            file.sync_data()?;
            unsynced = 0;
        }
        Ok(chunk)
    })?;
    file.set_len(size).and_then(|()| file.sync_all()).map_err(Error::disk(to))?;
    Ok(sha256)
}

fn digest(
    path: &Path,
    size: u64,
    stop: &CancellationToken,
    mut read: impl FnMut(u64, usize) -> io::Result<Bytes>,
) -> Result<[u8; 32], Error> {
    let (mut sum, mut at) = (Sha256::new(), 0);
    while at < size {
        if stop.is_cancelled() {
            return Err(Error::Stopped);
        }
        let length = usize::try_from(size - at).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        let chunk = read(at, length).map_err(Error::disk(path))?;
        if chunk.is_empty() {
            return Err(Error::Short { path: path.to_owned(), expected: size });
        }
        sum.update(&chunk);
        at += chunk.len() as u64;
    }
    Ok(sum.finalize().into())
}

/// The bytes of a file, by their position.
pub fn read_from(file: &fs::File) -> impl FnMut(u64, usize) -> io::Result<Bytes> + '_ {
    |at, length| {
        let mut chunk = vec![0; length];
        let read = loop {
            match file.read_at(&mut chunk, at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        chunk.truncate(read);
        Ok(chunk.into())
    }
}

pub fn sync_folder(folder: &Path) -> Result<(), Error> {
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::disk(folder))
}
