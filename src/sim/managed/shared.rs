//! What agents of one simulated region share: whose turn it is.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{FutureExt, future::BoxFuture};

use super::wire::{Caller, Op, Wire};
use crate::{
    core::link::Failure,
    ports::shared::{Shared, Value},
};

/// What the service keeps.
#[derive(Default)]
pub struct Store(Mutex<BTreeMap<String, (u64, String)>>);

impl Store {
    fn values(&self) -> MutexGuard<'_, BTreeMap<String, (u64, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn list(&self) -> Vec<Value> {
        let value = |(name, (version, text)): (&String, &(u64, String))| Value {
            name: name.clone(),
            version: *version,
            text: text.clone(),
        };
        self.values().iter().map(value).collect()
    }

    fn change(&self, name: String, text: String, version: u64) -> bool {
        let mut values = self.values();
        let is_now = values.get(&name).map_or(0, |(now, _)| *now) == version;
        if is_now {
            values.insert(name, (version + 1, text));
        }
        is_now
    }
}

/// The values as an agent sees them.
pub struct SimShared {
    pub store: Arc<Store>,
    pub caller: Caller,
    pub wire: Arc<Wire>,
}

impl Shared for SimShared {
    fn list(&self) -> BoxFuture<'_, Result<Vec<Value>, Failure>> {
        let store = self.store.clone();
        self.wire.call(&self.caller, self.caller.home, Op::Read, move || Ok(store.list())).boxed()
    }

    fn change<'a>(&'a self, name: &'a str, text: &'a str, version: u64) -> BoxFuture<'a, Result<bool, Failure>> {
        let (store, name, text) = (self.store.clone(), name.to_owned(), text.to_owned());
        self.wire.call(&self.caller, self.caller.home, Op::Turn, move || Ok(store.change(name, text, version))).boxed()
    }
}
