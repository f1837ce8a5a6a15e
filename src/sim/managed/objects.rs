//! A region's bucket as an agent sees it over the wire.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};

use super::wire::{Caller, Op, Wire};
use crate::{
    core::link::Failure,
    ports::objects::{Announced, Body, Error, Location, Objects, Stat, Upload},
    sim::{
        disk::Handle,
        objects::{SimStore, body_of, collect, spoil},
        trace::Fault,
    },
};

pub struct SimBucket {
    pub store: Arc<SimStore>,
    pub region: &'static str,
    pub caller: Caller,
    pub wire: Arc<Wire>,
    /// The bucket of the agent's own region, where copies can be made without the agent.
    pub copies_from: Option<Handle>,
}

impl SimBucket {
    async fn call<T>(&self, act: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let Self { region, caller, wire, .. } = self;
        wire.only_alive(caller).await;
        let fate = wire.fate(caller, region);
        if fate.lose_request {
            return Ok(wire.lost("request", fate.quick).await?);
        }
        tokio::time::sleep(fate.out).await;
        if let Some(after) = fate.throttle {
            wire.trace().lock().fault(Fault::Throttle);
            return Err(Failure::Throttled { after }.into());
        }
        let result = act.await;
        wire.reply(caller, Op::Object, &fate, Ok(result)).await?
    }

    async fn carried(&self, body: Body) -> Result<Bytes, Error> {
        let bytes = collect(body).await?;
        Ok(match self.wire.damage(&self.caller, self.region) {
            Some((cut, at)) => {
                self.wire.trace().lock().fault(Fault::Damage);
                spoil(&bytes, cut, at)
            }
            None => bytes,
        })
    }
}

impl Objects for SimBucket {
    fn stat<'a>(&'a self, at: &'a Location) -> BoxFuture<'a, Result<Option<Stat>, Error>> {
        self.call(self.store.stat(at)).boxed()
    }

    fn read<'a>(&'a self, at: &'a Location, version: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Body, Error>> {
        self.call(self.store.read(at, version, range)).boxed()
    }

    fn put<'a>(&'a self, at: &'a Location, announced: Announced, body: Body) -> BoxFuture<'a, Result<Stat, Error>> {
        async move {
            let bytes = self.carried(body).await?;
            self.call(self.store.put(at, announced, body_of(bytes))).await
        }
        .boxed()
    }

    fn begin<'a>(
        &'a self,
        at: &'a Location,
        announced: &'a Announced,
        tag: &'a str,
    ) -> BoxFuture<'a, Result<Upload, Error>> {
        self.call(self.store.begin(at, announced, tag)).boxed()
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
            self.call(self.store.put_part(at, upload, number, size, body_of(bytes))).await
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
        self.call(self.store.finish(at, upload, parts, announced)).boxed()
    }

    fn abort<'a>(&'a self, at: &'a Location, upload: &'a Upload) -> BoxFuture<'a, Result<(), Error>> {
        self.call(self.store.abort(at, upload)).boxed()
    }

    fn copy<'a>(
        &'a self,
        from: &'a Location,
        stat: &'a Stat,
        to: &'a Location,
    ) -> BoxFuture<'a, Result<Option<Stat>, Error>> {
        async move {
            let Some(home) = &self.copies_from else { return Ok(None) };
            let copy = async {
                let read = home.shelf(|shelf| shelf.read(from, &stat.version, 0..stat.size));
                let bytes = read.map_err(|error| Failure::Unanswered(error.to_string()))??;
                self.store.put(to, Announced::copy_of(stat), body_of(bytes)).await
            };
            self.call(copy).await.map(Some)
        }
        .boxed()
    }
}
