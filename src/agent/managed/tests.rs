use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};

use super::*;
use crate::{
    embedded::system::{Random, SystemClock},
    ports::{
        bus::{Entry, Put},
        claims::{Claim, Inserted, Part, Row, Token},
        queue::{Depth, Message, Outgoing},
        shared::Value,
    },
};

/// A table in memory.
#[derive(Default)]
pub struct MemoryShared {
    values: Mutex<BTreeMap<String, Value>>,
    /// It does not answer.
    pub is_down: std::sync::atomic::AtomicBool,
}

impl MemoryShared {
    fn answers(&self) -> Result<(), Failure> {
        match self.is_down.load(std::sync::atomic::Ordering::Relaxed) {
            true => Err(Failure::Unanswered("the table is down".to_owned())),
            false => Ok(()),
        }
    }

    /// Another build was here.
    pub fn overwrite(&self, name: &str, text: &str) {
        let value = Value { name: name.to_owned(), version: 1_000, text: text.to_owned() };
        self.values.lock().unwrap().insert(name.to_owned(), value);
    }
}

impl Shared for MemoryShared {
    fn list(&self) -> BoxFuture<'_, Result<Vec<Value>, Failure>> {
        async { self.answers().map(|()| self.values.lock().unwrap().values().cloned().collect()) }.boxed()
    }

    fn change<'a>(&'a self, name: &'a str, text: &'a str, version: u64) -> BoxFuture<'a, Result<bool, Failure>> {
        async move {
            self.answers()?;
            let mut values = self.values.lock().unwrap();
            if values.get(name).map_or(0, |value| value.version) != version {
                return Ok(false);
            }
            let value = Value { name: name.to_owned(), version: version + 1, text: text.to_owned() };
            values.insert(name.to_owned(), value);
            Ok(true)
        }
        .boxed()
    }
}

/// A queue that gives out what was put in once, and remembers what was sent.
#[derive(Default)]
struct MemoryQueue {
    waiting: Mutex<Vec<Message>>,
    sent: Mutex<Vec<Outgoing>>,
    deleted: Mutex<Vec<String>>,
    /// Takes nothing more.
    is_full: std::sync::atomic::AtomicBool,
}

impl Queue for MemoryQueue {
    fn receive(&self, _: usize, wait: Duration, _: Duration) -> BoxFuture<'_, Result<Vec<Message>, Failure>> {
        async move {
            let found = std::mem::take(&mut *self.waiting.lock().unwrap());
            if found.is_empty() {
                tokio::time::sleep(wait).await;
            }
            Ok(found)
        }
        .boxed()
    }

    fn delete(&self, receipts: Vec<String>) -> BoxFuture<'_, Result<Vec<Result<(), Failure>>, Failure>> {
        let count = receipts.len();
        self.deleted.lock().unwrap().extend(receipts);
        async move { Ok(vec![Ok(()); count]) }.boxed()
    }

    fn extend(&self, receipts: Vec<String>, _: Duration) -> BoxFuture<'_, Result<Vec<Result<(), Failure>>, Failure>> {
        async move { Ok(vec![Ok(()); receipts.len()]) }.boxed()
    }

    fn send(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<Vec<Result<(), Failure>>, Failure>> {
        let count = messages.len();
        if self.is_full.load(std::sync::atomic::Ordering::Relaxed) {
            return async { Err(Failure::Refused("there is no such queue".to_owned())) }.boxed();
        }
        self.sent.lock().unwrap().extend(messages);
        async move { Ok(vec![Ok(()); count]) }.boxed()
    }

    fn depth(&self) -> BoxFuture<'_, Result<Depth, Failure>> {
        async { Ok(Depth::default()) }.boxed()
    }
}

/// What was put on the bus.
#[derive(Default)]
struct MemoryBus(Mutex<Vec<Entry>>);

impl Bus for MemoryBus {
    fn put(&self, entries: Vec<Entry>) -> BoxFuture<'_, Result<Vec<Put>, Failure>> {
        let puts = entries.iter().map(|_| Put::Accepted("id".to_owned())).collect();
        self.0.lock().unwrap().extend(entries);
        async move { Ok(puts) }.boxed()
    }
}

/// A ledger that nobody asks: the queues are empty.
pub(super) struct NoClaims;

impl Claims for NoClaims {
    fn insert(&self, claims: Vec<Claim>) -> BoxFuture<'_, Result<Vec<Result<Inserted, Failure>>, Failure>> {
        async move { Ok(claims.into_iter().map(|_| Ok(Inserted::New)).collect()) }.boxed()
    }

    fn take_over(&self, _: Claim, _: Token) -> BoxFuture<'_, Result<bool, Failure>> {
        async { Ok(false) }.boxed()
    }

    fn mark(
        &self,
        marks: Vec<(crate::core::key::KeyHash, Token, Option<String>)>,
        _: Timestamp,
    ) -> BoxFuture<'_, Result<Vec<Result<bool, Failure>>, Failure>> {
        async move { Ok(vec![Ok(true); marks.len()]) }.boxed()
    }

    fn release(
        &self,
        claims: Vec<(crate::core::key::KeyHash, Token)>,
    ) -> BoxFuture<'_, Result<Vec<Result<bool, Failure>>, Failure>> {
        async move { Ok(vec![Ok(true); claims.len()]) }.boxed()
    }

    fn list(
        &self,
        _: Part,
        _: Option<crate::core::key::KeyHash>,
    ) -> BoxFuture<'_, Result<crate::ports::claims::Listed, Failure>> {
        async { Ok(crate::ports::claims::Listed::default()) }.boxed()
    }

    fn get(&self, keys: Vec<crate::core::key::KeyHash>) -> BoxFuture<'_, Result<Vec<Option<Row>>, Failure>> {
        async move { Ok(vec![None; keys.len()]) }.boxed()
    }
}

/// A region whose agents share everything but themselves.
#[derive(Default)]
pub(super) struct World {
    pub shared: Arc<MemoryShared>,
    bus: Arc<MemoryBus>,
    audit: Arc<MemoryQueue>,
    feed: Arc<MemoryQueue>,
    keys: Arc<MemoryQueue>,
    without_keys: bool,
    /// The peer's.
    there: Arc<MemoryBus>,
}

impl World {
    fn agent(&self, seed: u64) -> Arc<Managed> {
        self.agent_with(seed, Arc::new(NoClaims))
    }

    /// An agent with a ledger of its own.
    pub(super) fn agent_with(&self, seed: u64, ledger: Arc<dyn Claims>) -> Arc<Managed> {
        self.agent_of("eu", seed, ledger, &[("us", None)], Arc::new(SystemClock))
    }

    /// An agent of some region, with links to others, whose tables it may see.
    pub(super) fn agent_of(
        &self,
        home: &str,
        seed: u64,
        ledger: Arc<dyn Claims>,
        others: &[(&str, Option<Arc<MemoryShared>>)],
        clock: Arc<dyn Clock>,
    ) -> Arc<Managed> {
        let entropy: Arc<dyn Entropy> = Arc::new(Random::seeded(seed));
        let mut names: Vec<&str> = others.iter().map(|(other, _)| *other).chain([home]).collect();
        names.sort_unstable();
        let region =
            |name: &str| format!("[[region]]\nname = \"{name}\"\nbackend = \"aws\"\n[region.aws]\nhub = \"hub\"\n");
        let text: String = names.into_iter().map(region).collect();
        let config = Config::parse(&text, "x.toml", &|_| None).unwrap();
        let link = LinkPorts {
            feed: self.feed.clone(),
            held: Arc::new(MemoryQueue::default()),
            dead: Arc::new(MemoryQueue::default()),
            since: Timestamp::ZERO,
            claims: Arc::new(NoClaims),
            bus: self.there.clone(),
            objects: None,
        };
        let remote = |(name, shared): &(&str, Option<Arc<MemoryShared>>)| {
            let (at, patience) = ((clock.clone(), entropy.clone()), config.suspect_after(name));
            let table = TableRegion::new(name, shared.clone()?, at, false, patience);
            Some(((*name).to_owned(), Arc::new(table) as Arc<dyn RemoteRegion>))
        };
        let names: Vec<String> = others.iter().map(|(name, _)| (*name).to_owned()).collect();
        Managed::start(Parts {
            regions: others.iter().filter_map(remote).collect(),
            region: home.to_owned(),
            links: names.iter().map(|name| (name.clone(), link.clone())).collect(),
            bus: self.bus.clone(),
            claims: ledger,
            local_keys: (!self.without_keys).then(|| -> Arc<dyn Queue> { self.keys.clone() }),
            audit: self.audit.clone(),
            shared: self.shared.clone(),
            documents: None,
            faults: Arc::new(Faults::new(false, clock.clone(), entropy.clone())),
            clock,
            entropy,
            config,
            metrics: Arc::new(Metrics::new(home, &names).unwrap()),
        })
        .unwrap()
    }

    fn heartbeats(&self) -> Vec<u64> {
        let numbers = self.bus.0.lock().unwrap();
        let number = |entry: &Entry| {
            assert_eq!((entry.source.as_str(), entry.detail_type.as_str()), ("hubweave", "Heartbeat"));
            serde_json::from_str::<serde_json::Value>(&entry.detail).unwrap()["number"].as_u64().unwrap()
        };
        numbers.iter().map(number).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_region_sends_one_heartbeat_an_interval_however_many_agents_it_has_and_whoever_dies() {
    let world = World::default();
    let agents: Vec<Arc<Managed>> = (0..3).map(|seed| world.agent(seed)).collect();
    tokio::time::sleep(Duration::from_secs(200)).await;
    let before = world.heartbeats();
    // Each is late by up to a look.
    assert!((15..=21).contains(&before.len()), "{before:?}");
    agents[0].stop().await;
    agents[1].stop().await;
    tokio::time::sleep(Duration::from_secs(200)).await;
    let after = world.heartbeats();
    assert!((15..=21).contains(&(after.len() - before.len())), "{after:?}");
    assert_eq!(after, (1..=after.len() as u64).collect::<Vec<_>>(), "numbers have no gap");
}

#[tokio::test(start_paused = true)]
async fn a_pause_reaches_every_agent_and_one_that_starts_later() {
    let world = World::default();
    let (one, other) = (world.agent(1), world.agent(2));
    one.pause("us", true).await.unwrap();
    let late = world.agent(3);
    tokio::time::sleep(SHARED_INTERVAL * 2).await;
    for agent in [&one, &other, &late] {
        assert_eq!(agent.status().links[0].state, "paused");
    }
    other.pause("us", false).await.unwrap();
    tokio::time::sleep(SHARED_INTERVAL * 2).await;
    assert!([&one, &other, &late].iter().all(|agent| agent.status().links[0].state == "active"));
    assert!(matches!(one.pause("nowhere", true).await, Err(Error::NoLink(..))));
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_from_the_first_moment_of_a_start() {
    let world = World::default();
    let before = world.agent(1);
    before.pause("us", true).await.unwrap();
    before.stop().await;
    let put = |id| {
        let mut event = envelope("app", "T", serde_json::json!({ "idempotencyKey": id }));
        event["time"] = SystemClock.now().to_rfc3339().into();
        let message = Message { sent: SystemClock.now(), ..message(id, event) };
        world.feed.waiting.lock().unwrap().push(message);
    };
    put("k1");
    let agent = world.agent(2);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(world.there.0.lock().unwrap().is_empty());
    agent.pause("us", false).await.unwrap();
    put("k2");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!world.there.0.lock().unwrap().is_empty());
}

fn message(id: &str, body: serde_json::Value) -> Message {
    Message {
        id: id.to_owned(),
        body: body.to_string(),
        receipt: format!("receipt-{id}"),
        sent: Timestamp::from_millis(1_000),
        received: 1,
        attributes: BTreeMap::new(),
        trace: None,
    }
}

fn envelope(source: &str, detail_type: &str, detail: serde_json::Value) -> serde_json::Value {
    serde_json::json!({
        "version": "0", "id": "id", "detail-type": detail_type, "source": source, "account": "1",
        "time": "2026-01-01T00:00:00Z", "region": "eu", "resources": [], "detail": detail,
    })
}

fn forged() -> Message {
    let stamp = serde_json::json!({
        "origin": "us", "id": "x", "account": "1", "key": "k", "hash": "00".repeat(32), "sequence": null,
        "time": "2026-01-01T00:00:00Z", "hops": 1,
    });
    message("forged", envelope("app", "Order", serde_json::json!({ "n": 1, "hubweave": stamp })))
}

#[tokio::test(start_paused = true)]
async fn without_local_keys_their_queue_is_neither_read_nor_written() {
    let world = World { without_keys: true, ..World::default() };
    world.audit.waiting.lock().unwrap().push(forged());
    world.keys.waiting.lock().unwrap().push(message("local", envelope("app", "Order", serde_json::json!({ "n": 1 }))));
    let _agent = world.agent(1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((world.feed.sent.lock().unwrap().len(), world.keys.sent.lock().unwrap().len()), (1, 0));
    assert_eq!(world.keys.waiting.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_arrival_with_a_stamp_that_does_not_fit_goes_where_its_rule_would_have_put_it() {
    let world = World::default();
    world.audit.waiting.lock().unwrap().push(forged());
    let agent = world.agent(1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    for queue in [&world.feed, &world.keys] {
        let sent = queue.sent.lock().unwrap();
        assert_eq!(sent.len(), 1);
        // The age that counts is the first one's.
        assert_eq!(sent[0].attributes[super::super::queue_link::letter::ACCEPTED], "1000");
    }
    assert_eq!(*world.audit.deleted.lock().unwrap(), ["receipt-forged"]);
    assert!(agent.metrics.text().contains("hubweave_events_applied_total{origin=\"us\",region=\"eu\"} 0"));
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_takes_no_inherited_event_does_not_keep_the_genuine_ones() {
    let world = World::default();
    world.feed.waiting.lock().unwrap().push(Message {
        sent: SystemClock.now(),
        ..message("k1", envelope("app", "T", serde_json::json!({ "idempotencyKey": "k1" })))
    });
    let agent = world.agent(1);
    tokio::time::sleep(Duration::from_secs(60)).await;
    agent.stop().await;
    let there = world.there.0.lock().unwrap().clone();
    let put = there.iter().find(|entry| entry.source == "app").expect("the link brought it");
    let genuine = message("genuine", envelope("app", "T", serde_json::from_str(&put.detail).unwrap()));
    world.keys.is_full.store(true, std::sync::atomic::Ordering::Relaxed);
    *world.audit.waiting.lock().unwrap() = vec![forged(), genuine];
    let _agent = world.agent(2);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(*world.audit.deleted.lock().unwrap(), ["receipt-genuine"]);
}

#[test]
fn what_an_agent_may_leave_unmarked_is_divided_among_its_links() {
    let text = ["eu", "us", "ap"]
        .map(|name| format!("[[region]]\nname = \"{name}\"\nbackend = \"aws\"\n[region.aws]\nhub = \"hub\"\n"));
    let config = Config::parse(&text.concat(), "x.toml", &|_| None).unwrap();
    let ingress = Ingress { key_pointers: Vec::new(), reference_pointers: Vec::new(), max_entry_bytes: usize::MAX };
    let links: Vec<_> = config.links().into_iter().filter(|link| link.from == "eu").collect();
    let options = links.iter().map(|link| link_options(&config, link, &ingress, links.len()).unwrap());
    assert_eq!(options.map(|options| options.unmarked_max).collect::<Vec<_>>(), [25, 25]);
    assert_eq!(link_options(&config, &links[0], &ingress, 0).unwrap().unmarked_max, UNMARKED_MAX);
}
