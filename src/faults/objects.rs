//! Calls to a peer's object store, spoiled. What comes in is [`super::inbox::FaultyInbox`]'s to spoil.

use std::{ops::Range, sync::Arc};

use futures::{FutureExt, StreamExt, future::BoxFuture};

use super::{CrashHook, Faults, peer::Way};
use crate::{
    core::link::Failure,
    ports::objects::{Announced, Body, Error, Location, Objects, Stat, Upload},
};

pub struct FaultyObjects {
    inner: Arc<dyn Objects>,
    way: Way,
}

impl FaultyObjects {
    pub fn new(inner: Arc<dyn Objects>, name: &str, faults: Arc<Faults>, crash: CrashHook) -> Self {
        Self { inner, way: Way::new(name, faults, crash) }
    }

    /// A call between what hits before and after it.
    fn spoiled<'a, T: Send + 'a>(
        &'a self,
        call: impl Future<Output = Result<T, Error>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, Error>> {
        async move {
            let hits = self.way.draw();
            self.way.before(&hits).await?;
            Way::after(&hits, call.await)
        }
        .boxed()
    }

    /// A body that ends where a partition begins.
    fn cut_off(&self, body: Body) -> Body {
        let cut = self.way.cut();
        let checked = body.map(move |bytes| match cut() {
            true => Err(Failure::Unanswered("injected partition".to_owned())),
            false => bytes,
        });
        checked.boxed()
    }
}

impl Objects for FaultyObjects {
    fn stat<'a>(&'a self, at: &'a Location) -> BoxFuture<'a, Result<Option<Stat>, Error>> {
        self.spoiled(self.inner.stat(at))
    }

    fn read<'a>(&'a self, at: &'a Location, version: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Body, Error>> {
        self.spoiled(async move { Ok(self.cut_off(self.inner.read(at, version, range).await?)) })
    }

    fn put<'a>(&'a self, at: &'a Location, announced: Announced, body: Body) -> BoxFuture<'a, Result<Stat, Error>> {
        self.spoiled(self.inner.put(at, announced, self.cut_off(body)))
    }

    fn begin<'a>(
        &'a self,
        at: &'a Location,
        announced: &'a Announced,
        tag: &'a str,
    ) -> BoxFuture<'a, Result<Upload, Error>> {
        self.spoiled(self.inner.begin(at, announced, tag))
    }

    fn put_part<'a>(
        &'a self,
        at: &'a Location,
        upload: &'a Upload,
        number: u32,
        size: u64,
        body: Body,
    ) -> BoxFuture<'a, Result<(), Error>> {
        self.spoiled(self.inner.put_part(at, upload, number, size, self.cut_off(body)))
    }

    fn finish<'a>(
        &'a self,
        at: &'a Location,
        upload: &'a Upload,
        parts: u32,
        announced: Announced,
    ) -> BoxFuture<'a, Result<Stat, Error>> {
        self.spoiled(self.inner.finish(at, upload, parts, announced))
    }

    fn abort<'a>(&'a self, at: &'a Location, upload: &'a Upload) -> BoxFuture<'a, Result<(), Error>> {
        self.spoiled(self.inner.abort(at, upload))
    }

    fn copy<'a>(
        &'a self,
        from: &'a Location,
        stat: &'a Stat,
        to: &'a Location,
    ) -> BoxFuture<'a, Result<Option<Stat>, Error>> {
        self.spoiled(self.inner.copy(from, stat, to))
    }
}
