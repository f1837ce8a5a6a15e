//! A queue with SQS's manners: at least once, in no order, and what was deleted may come once more.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::{sync::Notify, time::Instant};

use super::wire::{Caller, Op, Wire};
use crate::{
    core::{link::Failure, time::Timestamp},
    ports::{
        clock::Clock,
        queue::{CALL_MESSAGES_MAX, Depth, Message, Outgoing, Queue},
    },
    sim::{chance::Chance, clock::SimClock},
};

#[derive(Clone, Debug)]
struct Stored {
    message: Message,
    visible_at: Instant,
    /// Not yet in the queue: on its way from a bus.
    arrives_at: Instant,
}

struct State {
    chance: Chance,
    messages: BTreeMap<u64, Stored>,
    next: u64,
    receptions: u64,
}

/// What the service keeps.
pub struct Store {
    pub name: String,
    clock: SimClock,
    state: Mutex<State>,
    changed: Notify,
    /// The chance that something is received twice, or comes once more after it was deleted.
    repeats: Mutex<f64>,
}

impl Store {
    pub fn new(seed: u64, name: String, started: Instant) -> Arc<Store> {
        let chance = Chance::new(seed, &format!("queue {name}"));
        Arc::new(Store {
            name,
            clock: SimClock::new(started, 0),
            state: Mutex::new(State { chance, messages: BTreeMap::new(), next: 0, receptions: 0 }),
            changed: Notify::new(),
            repeats: Mutex::new(0.0),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_repeats(&self, probability: f64) {
        *self.repeats.lock().unwrap_or_else(PoisonError::into_inner) = probability;
    }

    fn repeats(&self) -> f64 {
        *self.repeats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message arrives after `delay`; its time of acceptance is then.
    pub fn arrive(&self, body: String, delay: Duration) {
        let at = Instant::now() + delay;
        self.put(Outgoing { body, ..Outgoing::default() }, at, at);
    }

    fn put(&self, outgoing: Outgoing, arrives_at: Instant, visible_at: Instant) {
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        let sent = self.clock.now().plus(arrives_at.saturating_duration_since(Instant::now()));
        let message = Message {
            id: format!("{}-{id}", self.name),
            body: outgoing.body,
            receipt: String::new(),
            sent: Timestamp::from_millis(sent.as_millis()),
            received: 0,
            attributes: outgoing.attributes,
            trace: outgoing.trace,
        };
        state.messages.insert(id, Stored { message, visible_at, arrives_at });
        drop(state);
        self.changed.notify_waiters();
    }

    /// Time goes by that nobody waited for.
    pub fn pass(&self, time: Duration) {
        self.clock.pass(time);
    }

    /// What is on its way arrives now, and what is delayed becomes visible.
    pub fn hurry(&self) {
        let now = Instant::now();
        let sent = Timestamp::from_millis(self.clock.now().as_millis());
        for stored in self.state().messages.values_mut().filter(|stored| stored.arrives_at > now) {
            stored.arrives_at = now;
            stored.visible_at = now;
            stored.message.sent = sent;
        }
        self.changed.notify_waiters();
    }

    /// Everything in it, hidden or not.
    pub fn bodies(&self) -> Vec<Message> {
        self.state().messages.values().map(|stored| stored.message.clone()).collect()
    }

    fn receive(&self, max: usize, visibility: Duration) -> Vec<Message> {
        let now = Instant::now();
        let repeats = self.repeats();
        let mut state = self.state();
        let mut visible: Vec<u64> =
            state.messages.iter().filter(|(_, stored)| stored.visible_at <= now).map(|(id, _)| *id).collect();
        let mut received = Vec::new();
        while received.len() < max.min(CALL_MESSAGES_MAX) && !visible.is_empty() {
            let chosen = state.chance.below(visible.len() as u64) as usize;
            let id = visible.swap_remove(chosen);
            state.receptions += 1;
            let reception = state.receptions;
            // Sometimes one of its servers does not know that it was handed out.
            let hidden = !state.chance.hits(repeats);
            let Some(stored) = state.messages.get_mut(&id) else { continue };
            stored.message.receipt = format!("{id}/{reception}");
            stored.message.received += 1;
            if hidden {
                stored.visible_at = now + visibility;
            }
            received.push(stored.message.clone());
        }
        received
    }

    fn next_visible(&self) -> Option<Instant> {
        self.state().messages.values().map(|stored| stored.visible_at).min()
    }

    fn delete(&self, receipts: &[String]) -> Vec<Result<(), Failure>> {
        let repeats = self.repeats();
        let mut state = self.state();
        let delete = |receipt: &String| {
            let Some(id) = parse(receipt) else { return Err(Failure::Refused("no such receipt".to_owned())) };
            let youngest = state.messages.get(&id).is_some_and(|stored| stored.message.receipt == *receipt);
            // An old receipt may count for nothing, and a deletion may miss one of its servers.
            let lost = !youngest && state.chance.hits(0.5) || state.chance.hits(repeats);
            if !lost {
                state.messages.remove(&id);
            }
            Ok(())
        };
        receipts.iter().map(delete).collect()
    }

    fn extend(&self, receipts: &[String], visibility: Duration) -> Vec<Result<(), Failure>> {
        let now = Instant::now();
        let mut state = self.state();
        let extend = |receipt: &String| {
            let found = parse(receipt).and_then(|id| state.messages.get_mut(&id));
            match found.filter(|stored| stored.message.receipt == *receipt && stored.visible_at > now) {
                Some(stored) => {
                    stored.visible_at = now + visibility;
                    Ok(())
                }
                None => Err(Failure::Refused("the message is not in flight".to_owned())),
            }
        };
        let results = receipts.iter().map(extend).collect();
        drop(state);
        self.changed.notify_waiters();
        results
    }

    fn depth(&self) -> Depth {
        let now = Instant::now();
        let mut depth = Depth::default();
        for stored in self.state().messages.values() {
            match (stored.visible_at <= now, stored.message.received) {
                (true, _) => depth.visible += 1,
                (false, 0) => depth.delayed += 1,
                (false, _) => depth.in_flight += 1,
            }
        }
        depth
    }
}

fn parse(receipt: &str) -> Option<u64> {
    receipt.split('/').next()?.parse().ok()
}

/// A queue as an agent sees it.
pub struct SimQueue {
    pub store: Arc<Store>,
    pub region: &'static str,
    pub caller: Caller,
    pub wire: Arc<Wire>,
}

impl Queue for SimQueue {
    fn receive(
        &self,
        max: usize,
        wait: Duration,
        visibility: Duration,
    ) -> BoxFuture<'_, Result<Vec<Message>, Failure>> {
        async move {
            self.wire.only_alive(&self.caller).await;
            let fate = self.wire.fate(&self.caller, self.region);
            if fate.lose_request {
                return self.wire.lost("request", fate.quick).await;
            }
            tokio::time::sleep(fate.out).await;
            if let Some(after) = fate.throttle {
                return Err(Failure::Throttled { after });
            }
            let until = Instant::now() + wait;
            let received = loop {
                let changed = self.store.changed.notified();
                self.wire.only_alive(&self.caller).await;
                let received = self.store.receive(max, visibility);
                if !received.is_empty() || Instant::now() >= until {
                    break received;
                }
                let wake = self.store.next_visible().map_or(until, |at| at.min(until));
                tokio::select! {
                    biased;
                    () = changed => {}
                    () = tokio::time::sleep_until(wake) => {}
                }
            };
            // A poll that found nothing leaves nothing behind.
            let op = if received.is_empty() { Op::Depth } else { Op::Receive };
            self.wire.reply(&self.caller, op, &fate, Ok(received)).await
        }
        .boxed()
    }

    fn delete(&self, receipts: Vec<String>) -> BoxFuture<'_, Result<Vec<Result<(), Failure>>, Failure>> {
        let store = self.store.clone();
        self.wire.call(&self.caller, self.region, Op::Delete, move || Ok(store.delete(&receipts))).boxed()
    }

    fn extend(
        &self,
        receipts: Vec<String>,
        visibility: Duration,
    ) -> BoxFuture<'_, Result<Vec<Result<(), Failure>>, Failure>> {
        let store = self.store.clone();
        self.wire.call(&self.caller, self.region, Op::Extend, move || Ok(store.extend(&receipts, visibility))).boxed()
    }

    fn send(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<Vec<Result<(), Failure>>, Failure>> {
        let store = self.store.clone();
        let act = move || {
            let now = Instant::now();
            let results = messages.into_iter().map(|message| {
                let visible_at = now + message.delay;
                store.put(message, now, visible_at);
                Ok(())
            });
            Ok(results.collect())
        };
        self.wire.call(&self.caller, self.region, Op::Send, act).boxed()
    }

    fn depth(&self) -> BoxFuture<'_, Result<Depth, Failure>> {
        let store = self.store.clone();
        self.wire.call(&self.caller, self.region, Op::Depth, move || Ok(store.depth())).boxed()
    }
}
