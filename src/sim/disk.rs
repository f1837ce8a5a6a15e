//! A disk in memory that does what disks may do: forget what was not synced, tear what was being written, fail a sync.
//!
//! Written bytes are visible at once and durable after a sync of their file; names are durable after a sync of their
//! folder. A crash keeps any subset of the 512-byte sectors that were written since the last sync, and the names that a
//! journaling file system would: a prefix of the changes, each of them whole. After a failed sync the file's later
//! syncs succeed and save nothing, as Linux's did until 2018 ("fsyncgate"): whoever retries loses data.
//!
//! A handle belongs to one life of its node. After a crash the handles of that life fail, so tasks that are still there
//! can change nothing: for the disk, that is a crash at the await where they stood.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};

use super::{chance::Chance, objects::Shelf, power::Power};
use crate::ports::disk::{Disk, File};

const SECTOR: usize = 512;

#[derive(Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    /// Sectors written since the last sync, with what the disk has of them.
    unsynced: BTreeMap<usize, [u8; SECTOR]>,
    synced_length: usize,
    /// A sync failed: later ones only seem to work.
    poisoned: bool,
}

impl Content {
    fn write(&mut self, position: usize, data: &[u8]) {
        let end = position + data.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        for sector in position / SECTOR..end.div_ceil(SECTOR) {
            let bytes = &self.bytes;
            self.unsynced.entry(sector).or_insert_with(|| {
                let mut old = [0; SECTOR];
                let from = &bytes[sector * SECTOR..bytes.len().min((sector + 1) * SECTOR)];
                old[..from.len()].copy_from_slice(from);
                old
            });
        }
        self.bytes[position..end].copy_from_slice(data);
    }

    fn sync(&mut self) {
        if !self.poisoned {
            self.unsynced.clear();
            self.synced_length = self.bytes.len();
        }
    }

    /// What is left of it after the power failed.
    fn crash(&mut self, chance: &mut Chance) {
        // All of it, nothing of it, or anything between.
        let kept = [0.0, 0.5, 0.9, 1.0][chance.below(4) as usize];
        for (sector, old) in std::mem::take(&mut self.unsynced) {
            if !chance.hits(kept) {
                let start = sector * SECTOR;
                let end = self.bytes.len().min(start + SECTOR);
                self.bytes[start..end].copy_from_slice(&old[..end - start]);
            }
        }
        if self.bytes.len() > self.synced_length && !chance.hits(kept) {
            self.bytes.truncate(self.synced_length);
        }
        self.synced_length = self.bytes.len();
        self.poisoned = false;
    }
}

#[derive(Clone)]
enum NameChange {
    Put(String, u64),
    Rename(String, String),
    Remove(String),
}

impl NameChange {
    fn perform(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameChange::Put(name, file) => {
                names.insert(name.clone(), *file);
            }
            NameChange::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            NameChange::Remove(name) => {
                names.remove(name);
            }
        }
    }

    fn is_in(&self, dir: &str) -> bool {
        let (NameChange::Put(name, _) | NameChange::Rename(_, name) | NameChange::Remove(name)) = self;
        folder(name) == dir
    }
}

/// What a disk holds, as the next start finds it.
#[derive(Clone, Default)]
pub struct Image {
    files: BTreeMap<u64, Content>,
    names: BTreeMap<String, u64>,
    synced_names: BTreeMap<String, u64>,
    /// Changes of names since their folder's last sync, oldest first.
    unsynced_names: Vec<NameChange>,
    given: u64,
    objects: Shelf,
}

impl Image {
    fn crash(&mut self, chance: &mut Chance) {
        let kept = chance.between(0, self.unsynced_names.len() as u64);
        for change in self.unsynced_names.drain(..).take(kept as usize) {
            change.perform(&mut self.synced_names);
        }
        self.names = self.synced_names.clone();
        for content in self.files.values_mut() {
            content.crash(chance);
        }
        let Image { files, names, .. } = self;
        let linked: std::collections::BTreeSet<u64> = names.values().copied().collect();
        files.retain(|file, _| linked.contains(file));
    }
}

struct State {
    image: Image,
    life: u64,
    chance: Chance,
    sync_fails: f64,
    /// The disk dies at that many operations from now.
    dies_in: Option<u64>,
    /// Something failed in this life.
    failed: bool,
}

/// The disk of one node, whichever life it is in.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl SimDisk {
    pub fn new(chance: Chance) -> Self {
        let state = State { image: Image::default(), life: 0, chance, sync_fails: 0.0, dies_in: None, failed: false };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk for the node's present life, as long as that has power.
    pub fn handle(&self, power: Arc<Power>) -> Handle {
        Handle { disk: self.clone(), life: self.state().life, power }
    }

    /// A disk of its own that holds `image`.
    pub fn with(image: Image, chance: Chance) -> Self {
        let disk = Self::new(chance);
        disk.state().image = image;
        disk
    }

    /// Flips a bit within the last bytes that were written to the log, in what the next start finds. `false` if there is
    /// none.
    pub fn rot(&self, dir: &str) -> bool {
        let mut state = self.state();
        let State { image, chance, .. } = &mut *state;
        let newest = image.names.iter().filter(|(path, _)| folder(path) == dir).max();
        let Some(content) = newest.map(|(_, file)| *file).and_then(|file| image.files.get_mut(&file)) else {
            return false;
        };
        let Some(last) = content.bytes.iter().rposition(|byte| *byte != 0) else { return false };
        let reach = [64, 600, 4_000][chance.below(3) as usize];
        let at = last - chance.below(reach.min(last as u64 + 1)) as usize;
        content.bytes[at] ^= 1 << chance.below(8);
        true
    }

    /// What the disk holds of objects, for whoever judges it.
    pub fn objects(&self) -> Shelf {
        self.state().image.objects.clone()
    }

    /// Power fails.
    pub fn crash(&self) {
        let mut state = self.state();
        let State { image, chance, life, sync_fails, dies_in, failed } = &mut *state;
        image.crash(chance);
        *life += 1;
        *sync_fails = 0.0;
        *dies_in = None;
        *failed = false;
    }

    /// A snapshot of the running disk, as a volume manager takes it.
    pub fn backup(&self) -> Image {
        let mut state = self.state();
        let mut image = state.image.clone();
        image.crash(&mut state.chance);
        image
    }

    /// The disk becomes what it was when the copy was made.
    pub fn restore(&self, image: Image) {
        let mut state = self.state();
        state.image = image;
        state.life += 1;
    }

    /// Nothing fails from now on.
    pub fn heal(&self) {
        let mut state = self.state();
        state.sync_fails = 0.0;
        state.dies_in = None;
    }

    /// Whether something failed since the last crash.
    pub fn has_failed(&self) -> bool {
        self.state().failed
    }

    /// From now on syncs fail this often.
    pub fn fail_syncs(&self, probability: f64) {
        self.state().sync_fails = probability;
    }

    /// Every operation fails from the `operations`th on.
    pub fn die_in(&self, operations: u64) {
        self.state().dies_in = Some(operations);
    }
}

/// The disk during one life of its node.
#[derive(Clone)]
pub struct Handle {
    disk: SimDisk,
    life: u64,
    power: Arc<Power>,
}

impl Handle {
    fn act<T>(&self, action: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.state();
        if state.life != self.life || !self.power.call() {
            return Err(io::Error::other("this life of the node is over"));
        }
        if let Some(left) = &mut state.dies_in {
            if *left == 0 {
                state.failed = true;
                return Err(io::Error::other("the disk died"));
            }
            *left -= 1;
        }
        action(&mut state)
    }

    /// What the disk holds of objects. What was written there is durable at once.
    pub fn shelf<T>(&self, act: impl FnOnce(&mut Shelf) -> T) -> io::Result<T> {
        self.act(|state| Ok(act(&mut state.image.objects)))
    }

    fn at_once<T: Send + 'static>(
        &self,
        action: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> BoxFuture<'static, io::Result<T>> {
        std::future::ready(self.act(action)).boxed()
    }

    /// A sync takes its time, and what it saves is durable at its end. One that fails leaves what it should have saved
    /// unknown: the file, where it is one.
    async fn sync(&self, file: Option<u64>, perform: impl FnOnce(&mut Image)) -> io::Result<()> {
        let (wait, fails) = self.act(|state| {
            let probability = state.sync_fails;
            Ok((state.chance.millis(1, 8), state.chance.hits(probability)))
        })?;
        tokio::time::sleep(wait).await;
        self.act(|state| {
            if fails {
                state.failed = true;
                let content = file.and_then(|file| state.image.files.get_mut(&file));
                content.into_iter().for_each(|content| content.poisoned |= !content.unsynced.is_empty());
                return Err(io::Error::other("input/output error in sync"));
            }
            perform(&mut state.image);
            Ok(())
        })
    }

    fn file(&self, number: u64) -> Arc<dyn File> {
        Arc::new(SimFile { handle: self.clone(), number })
    }
}

fn absent(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{path}: no such file"))
}

fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

impl Disk for Handle {
    fn open(&self, path: &str) -> BoxFuture<'_, io::Result<Arc<dyn File>>> {
        let number = self.act(|state| state.image.names.get(path).copied().ok_or_else(|| absent(path)));
        std::future::ready(number.map(|number| self.file(number))).boxed()
    }

    fn create(&self, path: &str, size: u64) -> BoxFuture<'_, io::Result<Arc<dyn File>>> {
        let number = self.act(|state| {
            let image = &mut state.image;
            image.given += 1;
            let bytes = vec![0; usize::try_from(size).unwrap_or_default()];
            image.files.insert(image.given, Content { bytes, ..Content::default() });
            let change = NameChange::Put(path.to_owned(), image.given);
            change.perform(&mut image.names);
            image.unsynced_names.push(change);
            Ok(image.given)
        });
        std::future::ready(number.map(|number| self.file(number))).boxed()
    }

    fn rename(&self, from: &str, to: &str) -> BoxFuture<'_, io::Result<()>> {
        self.at_once(|state| {
            let image = &mut state.image;
            if !image.names.contains_key(from) {
                return Err(absent(from));
            }
            let change = NameChange::Rename(from.to_owned(), to.to_owned());
            change.perform(&mut image.names);
            image.unsynced_names.push(change);
            Ok(())
        })
    }

    fn remove(&self, path: &str) -> BoxFuture<'_, io::Result<()>> {
        self.at_once(|state| {
            let image = &mut state.image;
            if !image.names.contains_key(path) {
                return Err(absent(path));
            }
            let change = NameChange::Remove(path.to_owned());
            change.perform(&mut image.names);
            image.unsynced_names.push(change);
            Ok(())
        })
    }

    fn list(&self, dir: &str) -> BoxFuture<'_, io::Result<Vec<String>>> {
        self.at_once(|state| {
            let names = state.image.names.keys().filter(|path| folder(path) == dir);
            Ok(names.filter_map(|path| path.rsplit('/').next()).map(str::to_owned).collect())
        })
    }

    fn create_dir(&self, _dir: &str) -> BoxFuture<'_, io::Result<()>> {
        self.at_once(|_| Ok(()))
    }

    fn sync_dir(&self, dir: &str) -> BoxFuture<'_, io::Result<()>> {
        let dir = dir.to_owned();
        async move {
            self.sync(None, |image| {
                let Image { synced_names, unsynced_names, .. } = image;
                unsynced_names.retain(|change| {
                    let is_in = change.is_in(&dir);
                    if is_in {
                        change.perform(synced_names);
                    }
                    !is_in
                });
            })
            .await
        }
        .boxed()
    }
}

struct SimFile {
    handle: Handle,
    number: u64,
}

impl SimFile {
    fn content<T>(&self, action: impl FnOnce(&mut Content) -> T) -> io::Result<T> {
        self.handle.act(|state| {
            // A file that was removed can still be read by those who have it open.
            let content = state.image.files.get_mut(&self.number);
            content.map(action).ok_or_else(|| absent("an open file"))
        })
    }
}

impl File for SimFile {
    fn read_at(&self, position: u64, length: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        let read = self.content(|content| {
            let length_now = content.bytes.len();
            let start = length_now.min(usize::try_from(position).unwrap_or(usize::MAX));
            let end = length_now.min(start.saturating_add(length));
            Bytes::copy_from_slice(&content.bytes[start..end])
        });
        std::future::ready(read).boxed()
    }

    fn write_at<'a>(&'a self, position: u64, data: &'a [u8]) -> BoxFuture<'a, io::Result<()>> {
        let position = usize::try_from(position).unwrap_or(usize::MAX);
        std::future::ready(self.content(|content| content.write(position, data))).boxed()
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        let number = self.number;
        async move {
            self.handle
                .sync(Some(number), |image| {
                    if let Some(content) = image.files.get_mut(&number) {
                        content.sync();
                    }
                })
                .await
        }
        .boxed()
    }

    fn size(&self) -> BoxFuture<'_, io::Result<u64>> {
        std::future::ready(self.content(|content| content.bytes.len() as u64)).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_simulated_disk_keeps_the_contract_of_disks() {
        let disk = SimDisk::new(Chance::new(1, "disk"));
        crate::ports::conformance::disk(Arc::new(disk.handle(Arc::default()))).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_crash_takes_what_was_not_synced_and_nothing_else() {
        let mut lost = 0;
        for seed in 0..50 {
            let disk = SimDisk::new(Chance::new(seed, "disk"));
            let handle = disk.handle(Arc::default());
            let file = handle.create("d/a", 2048).await.unwrap();
            file.write_at(0, &[1; 1024]).await.unwrap();
            file.sync().await.unwrap();
            handle.sync_dir("d").await.unwrap();
            file.write_at(1024, &[2; 1024]).await.unwrap();
            disk.crash();
            assert!(file.write_at(0, &[9]).await.is_err(), "a handle ends with its life");
            let bytes = disk.handle(Arc::default()).open("d/a").await.unwrap().read_at(0, 4096).await.unwrap();
            assert_eq!(bytes[..1024], [1; 1024]);
            lost += usize::from(bytes[1024..] != [2; 1024]);
        }
        assert!((5..50).contains(&lost), "{lost}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_sync_after_one_that_failed_saves_nothing() {
        let disk = SimDisk::new(Chance::new(3, "disk"));
        let handle = disk.handle(Arc::default());
        let file = handle.create("d/a", 512).await.unwrap();
        handle.sync_dir("d").await.unwrap();
        file.sync().await.unwrap();
        file.write_at(0, &[1; 512]).await.unwrap();
        disk.fail_syncs(1.0);
        assert!(file.sync().await.is_err());
        disk.fail_syncs(0.0);
        file.sync().await.unwrap();
        assert!(!disk.state().image.files.values().all(|content| content.unsynced.is_empty()));
    }
}
