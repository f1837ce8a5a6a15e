//! Object stores in memory: a shelf on a node's disk, the store over it, and a peer's store over the network, which may
//! spoil what it carries.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};
use sha2::{Digest, Sha256};

use super::{
    chance::SharedChance,
    disk::Handle,
    net::{SimPeer, Site},
    trace::Fault,
};
use crate::{
    core::{link::Failure, time::Timestamp},
    ports::objects::{Announced, Body, Checksum, Error, Location, Objects, Stat, Sums, Upload},
};

/// A step of the store, beginning to end, takes this long at most.
const STEP_MILLIS_MAX: u64 = 4;

/// What a node's disk holds of objects.
#[derive(Clone, Default)]
pub struct Shelf {
    objects: BTreeMap<Location, Stored>,
    uploads: BTreeMap<String, BTreeMap<u32, Bytes>>,
    given: u64,
}

#[derive(Clone)]
struct Stored {
    bytes: Bytes,
    version: u64,
    attributes: BTreeMap<String, String>,
}

impl Shelf {
    pub fn get(&self, at: &Location) -> Option<&Bytes> {
        self.objects.get(at).map(|stored| &stored.bytes)
    }

    /// Writes an object, over another one if there is one: what services do.
    pub fn write(&mut self, at: &Location, bytes: Bytes) {
        self.insert(at, bytes, BTreeMap::new());
    }

    fn insert(&mut self, at: &Location, bytes: Bytes, attributes: BTreeMap<String, String>) -> Stat {
        self.given += 1;
        let stored = Stored { bytes, version: self.given, attributes };
        let stat = stored.stat();
        self.objects.insert(at.clone(), stored);
        stat
    }

    /// What was announced and arrived, where nothing stands.
    fn take(&mut self, at: &Location, bytes: Bytes, announced: Announced) -> Result<Stat, Error> {
        if bytes.len() as u64 != announced.size {
            return Err(Error::Damaged(format!("{} bytes instead of {}", bytes.len(), announced.size)));
        }
        if sums(&bytes).agree(&announced.sums) == Some(false) {
            return Err(Error::Damaged("another checksum".to_owned()));
        }
        match self.objects.contains_key(at) {
            true => Err(Error::Exists),
            false => Ok(self.insert(at, bytes, announced.attributes)),
        }
    }

    pub fn read(&self, at: &Location, version: &str, range: Range<u64>) -> Result<Bytes, Error> {
        let stored = self.objects.get(at).filter(|stored| stored.version.to_string() == version).ok_or(Error::Gone)?;
        let end = range.end.min(stored.bytes.len() as u64) as usize;
        Ok(stored.bytes.slice((range.start as usize).min(end)..end))
    }
}

impl Stored {
    fn stat(&self) -> Stat {
        Stat {
            size: self.bytes.len() as u64,
            sums: sums(&self.bytes),
            version: self.version.to_string(),
            modified: Timestamp::ZERO,
            attributes: self.attributes.clone(),
        }
    }
}

fn sums(bytes: &Bytes) -> Sums {
    Sums::of([Checksum::Sha256(Sha256::digest(bytes).into())])
}

/// The store of one life of a node.
pub struct SimStore {
    disk: Handle,
    chance: SharedChance,
}

impl SimStore {
    pub fn new(disk: Handle, chance: SharedChance) -> Self {
        SimStore { disk, chance }
    }

    async fn step(&self) {
        let pause = self.chance.lock().millis(0, STEP_MILLIS_MAX);
        tokio::time::sleep(pause).await;
    }

    /// Takes time before and after, when the power may fail.
    async fn act<T>(&self, act: impl FnOnce(&mut Shelf) -> Result<T, Error>) -> Result<T, Error> {
        self.step().await;
        let broken = |error: std::io::Error| Error::Failure(Failure::Unanswered(error.to_string()));
        let result = self.disk.shelf(act).map_err(broken)??;
        self.step().await;
        // Whether it is over by now.
        self.disk.shelf(|_| ()).map_err(broken)?;
        Ok(result)
    }

    /// A service writes an object. `false`: not acknowledged.
    pub async fn upload(&self, at: &Location, bytes: Bytes) -> bool {
        let write = |shelf: &mut Shelf| {
            shelf.write(at, bytes);
            Ok(())
        };
        self.act(write).await.is_ok()
    }
}

pub async fn collect(body: Body) -> Result<Bytes, Error> {
    let pieces: Vec<Bytes> = body.try_collect().await?;
    Ok(pieces.concat().into())
}

/// In two pieces, as large ones come.
pub fn body_of(bytes: Bytes) -> Body {
    let middle = bytes.len() / 2;
    stream::iter([Ok(bytes.slice(..middle)), Ok(bytes.slice(middle..))]).boxed()
}

impl Objects for SimStore {
    fn stat<'a>(&'a self, at: &'a Location) -> BoxFuture<'a, Result<Option<Stat>, Error>> {
        self.act(|shelf| Ok(shelf.objects.get(at).map(Stored::stat))).boxed()
    }

    fn read<'a>(&'a self, at: &'a Location, version: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Body, Error>> {
        self.act(|shelf| shelf.read(at, version, range)).map(|read| read.map(body_of)).boxed()
    }

    fn put<'a>(&'a self, at: &'a Location, announced: Announced, body: Body) -> BoxFuture<'a, Result<Stat, Error>> {
        async move {
            let bytes = collect(body).await?;
            self.act(|shelf| shelf.take(at, bytes, announced)).await
        }
        .boxed()
    }

    fn begin<'a>(&'a self, _: &'a Location, _: &'a Announced, tag: &'a str) -> BoxFuture<'a, Result<Upload, Error>> {
        let begin = |shelf: &mut Shelf| {
            let parts = shelf.uploads.entry(tag.to_owned()).or_default();
            let parts = parts.iter().map(|(number, bytes)| (*number, bytes.len() as u64)).collect();
            Ok(Upload { id: tag.to_owned(), parts })
        };
        self.act(begin).boxed()
    }

    fn put_part<'a>(
        &'a self,
        _: &'a Location,
        upload: &'a Upload,
        number: u32,
        size: u64,
        body: Body,
    ) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let bytes = collect(body).await?;
            if bytes.len() as u64 != size {
                return Err(Error::Damaged(format!("{} bytes instead of {size}", bytes.len())));
            }
            let put = |shelf: &mut Shelf| {
                let parts = shelf.uploads.get_mut(&upload.id).ok_or(Error::Gone)?;
                parts.insert(number, bytes);
                Ok(())
            };
            self.act(put).await
        }
        .boxed()
    }

    fn finish<'a>(
        &'a self,
        at: &'a Location,
        upload: &'a Upload,
        parts: u32,
        announced: Announced,
    ) -> BoxFuture<'a, Result<Stat, Error>> {
        let finish = move |shelf: &mut Shelf| {
            let known = shelf.uploads.get(&upload.id).ok_or(Error::Gone)?;
            if !(1..=parts).all(|number| known.contains_key(&number)) {
                return Err(Error::Gone);
            }
            let bytes: Vec<u8> = (1..=parts).flat_map(|number| known[&number].to_vec()).collect();
            shelf.uploads.remove(&upload.id);
            shelf.take(at, bytes.into(), announced)
        };
        self.act(finish).boxed()
    }

    fn abort<'a>(&'a self, _: &'a Location, upload: &'a Upload) -> BoxFuture<'a, Result<(), Error>> {
        let abort = |shelf: &mut Shelf| {
            shelf.uploads.remove(&upload.id);
            Ok(())
        };
        self.act(abort).boxed()
    }
}

/// What the network made of bytes.
pub fn spoil(bytes: &Bytes, cut: bool, at: usize) -> Bytes {
    if bytes.is_empty() {
        return Bytes::from_static(b"?");
    }
    let at = at % bytes.len();
    if cut {
        return bytes.slice(..at);
    }
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes.into()
}

impl SimPeer {
    /// Asks the peer's store.
    async fn ask<T: Send + 'static>(
        &self,
        ask: impl Fn(Arc<dyn Objects>) -> BoxFuture<'static, Result<T, Error>> + Send + Sync + 'static,
    ) -> Result<T, Error> {
        let work = move |site: Site| ask(site.objects).map(Ok).boxed();
        self.bounded(Arc::new(work)).await?
    }

    /// Bytes as they leave the network.
    async fn carried(&self, body: Body) -> Result<Bytes, Error> {
        let bytes = collect(body).await?;
        Ok(match self.net.damage(&self.home, &self.peer) {
            Some((cut, at)) => {
                self.net.trace().lock().fault(Fault::Damage);
                spoil(&bytes, cut, at)
            }
            None => bytes,
        })
    }
}

impl Objects for SimPeer {
    fn stat<'a>(&'a self, at: &'a Location) -> BoxFuture<'a, Result<Option<Stat>, Error>> {
        let at = at.clone();
        self.ask(move |objects| {
            let at = at.clone();
            async move { objects.stat(&at).await }.boxed()
        })
        .boxed()
    }

    fn read<'a>(&'a self, at: &'a Location, version: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Body, Error>> {
        let (at, version) = (at.clone(), version.to_owned());
        let read = self.ask(move |objects| {
            let (at, version, range) = (at.clone(), version.clone(), range.clone());
            async move { collect(objects.read(&at, &version, range).await?).await }.boxed()
        });
        read.map(|read| read.map(body_of)).boxed()
    }

    fn put<'a>(&'a self, at: &'a Location, announced: Announced, body: Body) -> BoxFuture<'a, Result<Stat, Error>> {
        async move {
            let bytes = self.carried(body).await?;
            let at = at.clone();
            self.ask(move |objects| {
                let (at, announced, bytes) = (at.clone(), announced.clone(), bytes.clone());
                async move { objects.put(&at, announced, body_of(bytes)).await }.boxed()
            })
            .await
        }
        .boxed()
    }

    fn begin<'a>(
        &'a self,
        at: &'a Location,
        announced: &'a Announced,
        tag: &'a str,
    ) -> BoxFuture<'a, Result<Upload, Error>> {
        let (at, announced, tag) = (at.clone(), announced.clone(), tag.to_owned());
        self.ask(move |objects| {
            let (at, announced, tag) = (at.clone(), announced.clone(), tag.clone());
            async move { objects.begin(&at, &announced, &tag).await }.boxed()
        })
        .boxed()
    }

    fn put_part<'a>(
        &'a self,
        at: &'a Location,
        upload: &'a Upload,
        number: u32,
        size: u64,
        body: Body,
    ) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let bytes = self.carried(body).await?;
            let (at, upload) = (at.clone(), upload.clone());
            self.ask(move |objects| {
                let (at, upload, bytes) = (at.clone(), upload.clone(), bytes.clone());
                async move { objects.put_part(&at, &upload, number, size, body_of(bytes)).await }.boxed()
            })
            .await
        }
        .boxed()
    }

    fn finish<'a>(
        &'a self,
        at: &'a Location,
        upload: &'a Upload,
        parts: u32,
        announced: Announced,
    ) -> BoxFuture<'a, Result<Stat, Error>> {
        let (at, upload) = (at.clone(), upload.clone());
        self.ask(move |objects| {
            let (at, upload, announced) = (at.clone(), upload.clone(), announced.clone());
            async move { objects.finish(&at, &upload, parts, announced).await }.boxed()
        })
        .boxed()
    }

    fn abort<'a>(&'a self, at: &'a Location, upload: &'a Upload) -> BoxFuture<'a, Result<(), Error>> {
        let (at, upload) = (at.clone(), upload.clone());
        self.ask(move |objects| {
            let (at, upload) = (at.clone(), upload.clone());
            async move { objects.abort(&at, &upload).await }.boxed()
        })
        .boxed()
    }
}
