//! The vote of a region with a log of its own: it stands in that log.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures::{FutureExt, future::BoxFuture};

use super::super::inbox::read_state;
use crate::{
    core::{journal::Change, region::Kept},
    ports::{
        hub::{self, Hub},
        regions::{Error, RegionStore},
    },
};

/// One process has the log, so nobody comes between a look and a write.
pub struct HubStore {
    hub: Arc<dyn Hub>,
    /// A later look sees more.
    looks: AtomicU64,
}

impl HubStore {
    pub fn new(hub: Arc<dyn Hub>) -> HubStore {
        HubStore { hub, looks: AtomicU64::new(0) }
    }
}

fn unavailable(error: &hub::Error) -> Error {
    Error::Unavailable(error.to_string())
}

impl RegionStore for HubStore {
    fn load(&self) -> BoxFuture<'_, Result<(Kept, u64), Error>> {
        let kept = read_state(&*self.hub, |state| state.regions.as_deref().cloned()).unwrap_or_default();
        let look = self.looks.fetch_add(1, Ordering::SeqCst) + 1;
        std::future::ready(Ok((kept, look))).boxed()
    }

    fn store<'a>(&'a self, kept: &'a Kept, _: u64) -> BoxFuture<'a, Result<bool, Error>> {
        let change = Change::Regions { kept: Box::new(kept.clone()) };
        async move {
            self.hub.note(vec![change.into()]).await.map_err(|error| unavailable(&error))?;
            Ok(true)
        }
        .boxed()
    }

    /// The hub shows what it is about to write; a note that comes later is written later.
    fn settled(&self) -> BoxFuture<'_, Result<(), Error>> {
        async { self.hub.note(Vec::new()).await.map_err(|error| unavailable(&error)) }.boxed()
    }

    fn head(&self) -> u64 {
        self.hub.end().offset
    }

    fn set_draining(&self, draining: bool) {
        self.hub.set_draining(draining);
    }
}
