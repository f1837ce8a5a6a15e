//! Local files below one folder.
//!
//! The futures complete at once: the writer runs on a thread of its own, and readers read what the page cache holds.

use std::{
    fs, io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};

use crate::ports::disk::{Disk, File};

pub struct LocalDisk {
    root: PathBuf,
}

impl LocalDisk {
    /// Paths given to the disk are relative to `root`, which is created if absent.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        fs::create_dir_all(&root)?;
        Ok(Self { root })
    }

    fn done<T: Send + 'static>(
        &self,
        path: &str,
        action: impl FnOnce(&Path) -> io::Result<T>,
    ) -> BoxFuture<'static, io::Result<T>> {
        let path = self.root.join(path);
        let result =
            action(&path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())));
        std::future::ready(result).boxed()
    }
}

impl Disk for LocalDisk {
    fn open(&self, path: &str) -> BoxFuture<'_, io::Result<Arc<dyn File>>> {
        self.done(path, |path| {
            let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
            Ok(Arc::new(LocalFile { file }) as Arc<dyn File>)
        })
    }

    fn create(&self, path: &str, size: u64) -> BoxFuture<'_, io::Result<Arc<dyn File>>> {
        self.done(path, |path| {
            let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
            if size > 0 {
                use rustix::fs::{FallocateFlags, fallocate};
                match fallocate(&file, FallocateFlags::empty(), 0, size) {
                    Ok(()) => {}
                    // Some file systems cannot; the room is then a hole, slower but as safe.
                    Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => file.set_len(size)?,
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(Arc::new(LocalFile { file }) as Arc<dyn File>)
        })
    }

    fn rename(&self, from: &str, to: &str) -> BoxFuture<'_, io::Result<()>> {
        let to = self.root.join(to);
        self.done(from, |from| fs::rename(from, to))
    }

    fn remove(&self, path: &str) -> BoxFuture<'_, io::Result<()>> {
        self.done(path, |path| fs::remove_file(path))
    }

    fn list(&self, dir: &str) -> BoxFuture<'_, io::Result<Vec<String>>> {
        self.done(dir, |dir| {
            let entries = match fs::read_dir(dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                entries => entries?,
            };
            let mut names = Vec::new();
            for entry in entries {
                let entry = entry?;
                if entry.file_type()?.is_file() {
                    names.push(entry.file_name().to_string_lossy().into_owned());
                }
            }
            names.sort();
            Ok(names)
        })
    }

    fn create_dir(&self, dir: &str) -> BoxFuture<'_, io::Result<()>> {
        self.done(dir, |dir| fs::create_dir_all(dir))
    }

    fn sync_dir(&self, dir: &str) -> BoxFuture<'_, io::Result<()>> {
        self.done(dir, |dir| fs::File::open(dir)?.sync_all())
    }
}

struct LocalFile {
    file: fs::File,
}

impl File for LocalFile {
    fn read_at(&self, position: u64, length: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        let mut buffer = vec![0; length];
        let mut filled = 0;
        let result = loop {
            match self.file.read_at(&mut buffer[filled..], position + filled as u64) {
                Ok(0) => {
                    buffer.truncate(filled);
                    break Ok(Bytes::from(buffer));
                }
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        std::future::ready(result).boxed()
    }

    fn write_at<'a>(&'a self, position: u64, data: &'a [u8]) -> BoxFuture<'a, io::Result<()>> {
        std::future::ready(self.file.write_all_at(data, position)).boxed()
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        std::future::ready(self.file.sync_data()).boxed()
    }

    fn size(&self) -> BoxFuture<'_, io::Result<u64>> {
        std::future::ready(self.file.metadata().map(|metadata| metadata.len())).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_local_disk_keeps_the_contract_of_disks() {
        let folder = tempfile::tempdir().unwrap();
        crate::ports::conformance::disk(Arc::new(LocalDisk::open(folder.path()).unwrap())).await;
    }
}
