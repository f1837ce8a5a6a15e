//! A disk in memory that fails at a chosen operation and forgets what was not synced.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};

use crate::ports::disk::{Disk, File};

/// What a crash does to names and bytes that were not synced.
#[derive(Clone, Copy, Debug)]
pub(super) enum Crash {
    /// The process died, the machine lives on.
    KeepsAll,
    /// Power failed before anything was written back.
    LosesUnsynced,
    /// Power failed while some of it was: each name and each sector by itself, by this seed.
    Mixes(u64),
}

#[derive(Clone, Default)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
}

#[derive(Default)]
struct State {
    /// By number; never forgotten, so that open handles of removed files go on reading.
    files: Vec<Content>,
    names: BTreeMap<String, usize>,
    synced_names: BTreeMap<String, usize>,
    operations: u64,
    fails_at: Option<u64>,
    written: u64,
}

/// Clones share the disk.
#[derive(Clone, Default)]
pub(super) struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

impl MemoryDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// From the `number`th operation from now on (the first is 0), all changes fail.
    pub(super) fn fail_at(&self, number: u64) {
        let mut state = self.state();
        state.fails_at = Some(state.operations + number);
    }

    pub(super) fn operations(&self) -> u64 {
        self.state().operations
    }

    pub(super) fn bytes_written(&self) -> u64 {
        self.state().written
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    /// Flips a bit, durably.
    pub(super) fn corrupt(&self, path: &str, at: usize) {
        let mut state = self.state();
        let number = state.names[path];
        state.files[number].now[at] ^= 1;
        state.files[number].synced = state.files[number].now.clone();
    }

    pub(super) fn size(&self, path: &str) -> usize {
        let state = self.state();
        state.files[state.names[path]].now.len()
    }

    /// The disk as the next start finds it. The old one is dead: what still holds it changes nothing any more.
    pub(super) fn crash(&self, crash: Crash) -> MemoryDisk {
        let old = self.state();
        let mut draw = match crash {
            Crash::Mixes(seed) => seed | 1,
            _ => 0,
        };
        let mut keeps = || match crash {
            Crash::KeepsAll => true,
            Crash::LosesUnsynced => false,
            Crash::Mixes(_) => {
                draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                draw >> 63 == 1
            }
        };
        let mut names = old.synced_names.clone();
        for (name, number) in &old.names {
            if old.synced_names.get(name) != Some(number) && keeps() {
                names.insert(name.clone(), *number);
            }
        }
        for name in old.synced_names.keys() {
            if !old.names.contains_key(name) && keeps() {
                names.remove(name);
            }
        }
        let mut files = old.files.clone();
        for file in &mut files {
            let mut survived = file.synced.clone();
            for start in (0..file.now.len()).step_by(512) {
                let end = file.now.len().min(start + 512);
                let same = survived.get(start..end).is_some_and(|bytes| bytes == &file.now[start..end]);
                if !same && keeps() {
                    survived.resize(survived.len().max(end), 0);
                    survived[start..end].copy_from_slice(&file.now[start..end]);
                }
            }
            *file = Content { now: survived.clone(), synced: survived };
        }
        // What a power cut left is on the disk; what a killed process left is still only in the page cache.
        let mut state = State { files, names: names.clone(), synced_names: names, ..State::default() };
        if matches!(crash, Crash::KeepsAll) {
            state.files = old.files.clone();
            state.synced_names = old.synced_names.clone();
        }
        MemoryDisk { state: Arc::new(Mutex::new(state)) }
    }

    fn change<T: Send + 'static>(
        &self,
        action: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> BoxFuture<'static, io::Result<T>> {
        let mut state = self.state();
        let number = state.operations;
        state.operations += 1;
        let result = match state.fails_at {
            Some(fails_at) if number >= fails_at => Err(io::Error::other("injected")),
            _ => action(&mut state),
        };
        std::future::ready(result).boxed()
    }

    fn file(&self, number: usize) -> Arc<dyn File> {
        Arc::new(MemoryFile { disk: self.clone(), number })
    }
}

fn absent(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{path}: no such file"))
}

fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

impl Disk for MemoryDisk {
    fn open(&self, path: &str) -> BoxFuture<'_, io::Result<Arc<dyn File>>> {
        let number = self.state().names.get(path).copied();
        let file = number.map(|number| self.file(number)).ok_or_else(|| absent(path));
        std::future::ready(file).boxed()
    }

    fn create(&self, path: &str, size: u64) -> BoxFuture<'_, io::Result<Arc<dyn File>>> {
        let created = self.change(|state| {
            state.files.push(Content { now: vec![0; size as usize], synced: Vec::new() });
            let number = state.files.len() - 1;
            state.names.insert(path.to_owned(), number);
            Ok(number)
        });
        created.map(|number| Ok(self.file(number?))).boxed()
    }

    fn rename(&self, from: &str, to: &str) -> BoxFuture<'_, io::Result<()>> {
        self.change(|state| {
            let number = state.names.remove(from).ok_or_else(|| absent(from))?;
            state.names.insert(to.to_owned(), number);
            Ok(())
        })
    }

    fn remove(&self, path: &str) -> BoxFuture<'_, io::Result<()>> {
        self.change(|state| state.names.remove(path).map(drop).ok_or_else(|| absent(path)))
    }

    fn list(&self, dir: &str) -> BoxFuture<'_, io::Result<Vec<String>>> {
        let state = self.state();
        let names = state.names.keys().filter(|path| folder(path) == dir);
        let names = names.map(|path| path.rsplit('/').next().unwrap().to_owned()).collect();
        std::future::ready(Ok(names)).boxed()
    }

    fn create_dir(&self, _dir: &str) -> BoxFuture<'_, io::Result<()>> {
        self.change(|_| Ok(()))
    }

    fn sync_dir(&self, dir: &str) -> BoxFuture<'_, io::Result<()>> {
        self.change(|state| {
            let State { names, synced_names, .. } = state;
            synced_names.retain(|path, _| folder(path) != dir);
            synced_names.extend(names.clone().into_iter().filter(|(path, _)| folder(path) == dir));
            Ok(())
        })
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    number: usize,
}

impl File for MemoryFile {
    fn read_at(&self, position: u64, length: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        let state = self.disk.state();
        let content = &state.files[self.number].now;
        let start = content.len().min(position as usize);
        let end = content.len().min(start + length);
        std::future::ready(Ok(Bytes::copy_from_slice(&content[start..end]))).boxed()
    }

    fn write_at<'a>(&'a self, position: u64, data: &'a [u8]) -> BoxFuture<'a, io::Result<()>> {
        self.disk.change(|state| {
            state.written += data.len() as u64;
            let content = &mut state.files[self.number].now;
            let (start, end) = (position as usize, position as usize + data.len());
            content.resize(content.len().max(end), 0);
            content[start..end].copy_from_slice(data);
            Ok(())
        })
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        self.disk.change(|state| {
            let content = &mut state.files[self.number];
            content.synced = content.now.clone();
            Ok(())
        })
    }

    fn size(&self) -> BoxFuture<'_, io::Result<u64>> {
        let size = self.disk.state().files[self.number].now.len() as u64;
        std::future::ready(Ok(size)).boxed()
    }
}
