//! Whole clusters in one process: real agents and hubs on real disks; peers call each other's inboxes directly.

mod looking;
mod repairs;

use std::sync::{
    RwLock,
    atomic::{AtomicU64, Ordering},
};

use futures::{FutureExt, future::BoxFuture};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{
    core::{
        batch::{Batch, Reply},
        link::Failure,
        testing::draft,
    },
    embedded::{
        disk::LocalDisk,
        hub::{self as embedded_hub, EmbeddedHub},
        system::Random,
    },
    faults::{self, Kind, Order, inbox::FaultyInbox, peer::FaultyPeer},
    ports::{
        hub::{self, Published},
        inbox::{Inbox, Refusal},
        peer::Hello,
    },
};

const REGIONS: [&str; 3] = ["a", "b", "c"];

/// The system's clock, shifted: a test can let days pass.
struct ShiftedClock(AtomicU64);

impl Clock for ShiftedClock {
    fn now(&self) -> Timestamp {
        crate::embedded::system::SystemClock.now().plus(Duration::from_secs(self.0.load(Ordering::SeqCst)))
    }
}

type Inboxes = Arc<RwLock<BTreeMap<String, Arc<dyn Inbox>>>>;

/// A peer in the same process; absent while it is down.
struct DirectPeer {
    home: String,
    name: String,
    inboxes: Inboxes,
}

impl DirectPeer {
    fn inbox(&self) -> Result<Arc<dyn Inbox>, Failure> {
        let inboxes = self.inboxes.read().unwrap();
        inboxes.get(&self.name).cloned().ok_or_else(|| Failure::Unanswered("connection refused".to_owned()))
    }
}

fn failure(refusal: Refusal) -> Failure {
    match refusal {
        Refusal::Foreign(why) | Refusal::Malformed(why) => Failure::Refused(why),
        Refusal::Unavailable { retry_after, .. } => Failure::Throttled { after: retry_after },
        Refusal::CutOff => Failure::Unanswered("cut off".to_owned()),
    }
}

impl Peer for DirectPeer {
    fn deliver(&self, batch: Batch) -> BoxFuture<'_, Result<Reply, Failure>> {
        async move {
            // Over the wire format, as in production.
            let batch = Batch::decode(&bytes::Bytes::from(batch.encode())).unwrap();
            self.inbox()?.deliver(batch).await.map_err(failure)
        }
        .boxed()
    }

    fn hello(&self) -> BoxFuture<'_, Result<Hello, Failure>> {
        async move { self.inbox()?.hello(&self.home).await.map_err(failure) }.boxed()
    }

    fn request_repair(&self, request: RepairRequest) -> BoxFuture<'_, Result<(), Failure>> {
        async move { self.inbox()?.request_repair(request).await.map_err(failure) }.boxed()
    }
}

struct Cluster {
    folder: TempDir,
    config: String,
    inboxes: Inboxes,
    clock: Arc<ShiftedClock>,
    seed: u64,
    agents: BTreeMap<String, Arc<Agent>>,
}

impl Cluster {
    async fn start(more: &str) -> Cluster {
        let mut cluster = Cluster {
            folder: tempfile::tempdir().unwrap(),
            config: format!(
                "{}[heartbeat]\ninterval = \"100ms\"\n[faults]\nenabled = true\n{more}",
                REGIONS.map(|name| format!("[[region]]\nname = \"{name}\"\n")).concat()
            ),
            inboxes: Inboxes::default(),
            clock: Arc::new(ShiftedClock(AtomicU64::new(0))),
            seed: 0,
            agents: BTreeMap::new(),
        };
        for region in REGIONS {
            cluster.up(region).await;
        }
        cluster
    }

    async fn up(&mut self, region: &str) {
        let config = Config::parse(&self.config, "test.toml", &|_| None).unwrap();
        self.seed += 1;
        let entropy = Arc::new(Random::seeded(self.seed));
        let disk = Arc::new(LocalDisk::open(self.folder.path().join(region)).unwrap());
        let options = embedded_hub::Options {
            region: region.to_owned(),
            retention: config.idempotency.retention,
            log_retention: config.log.retention,
            log_bytes_max: config.log.max_size,
            segment_bytes: config.log.segment_size,
        };
        let (hub, writer) = EmbeddedHub::open(disk, self.clock.clone(), entropy.clone(), options).await.unwrap();
        tokio::spawn(writer.run());
        let faults = Arc::new(Faults::new(true, self.clock.clone(), entropy.clone()));
        let crash: faults::CrashHook = Arc::new(|| {});
        let others = REGIONS.iter().filter(|name| **name != region);
        let peers = others.clone().map(|name| {
            let (home, name) = (region.to_owned(), (*name).to_owned());
            let direct = Arc::new(DirectPeer { home, name: name.clone(), inboxes: self.inboxes.clone() });
            let faulty = FaultyPeer::new(direct, &name, faults.clone(), crash.clone());
            (name, Arc::new(faulty) as Arc<dyn Peer>)
        });
        let peers = peers.collect();
        let names: Vec<String> = others.map(|name| (*name).to_owned()).collect();
        let agent = Agent::start(Parts {
            objects: None,
            documents: None,
            regions: BTreeMap::new(),
            config,
            region: region.to_owned(),
            hub: Arc::new(hub),
            peers,
            clock: self.clock.clone(),
            entropy,
            faults: faults.clone(),
            metrics: Arc::new(Metrics::new(region, &names).unwrap()),
        })
        .await
        .unwrap();
        let inbox = Arc::new(FaultyInbox::new(agent.inbox.clone(), faults, crash));
        self.inboxes.write().unwrap().insert(region.to_owned(), inbox);
        self.agents.insert(region.to_owned(), agent);
    }

    /// Stops a region in good order.
    async fn down(&mut self, region: &str) {
        self.inboxes.write().unwrap().remove(region);
        self.agents.remove(region).unwrap().stop().await;
    }

    fn agent(&self, region: &str) -> &Arc<Agent> {
        &self.agents[region]
    }

    async fn publish(&self, region: &str, key: &str, detail: &str) -> Published {
        self.agent(region).hub.publish(vec![draft(key, detail)]).await.unwrap()[0]
    }

    fn fault(&self, region: &str, kind: Kind, peer: &str) {
        let order = json!({ "kind": kind, "peer": peer });
        self.agent(region).faults.inject(serde_json::from_value::<Order>(order).unwrap()).unwrap();
    }

    /// Keys of services' events in a region's hub, sorted, each with its origin and payload.
    async fn effects(&self, region: &str) -> Vec<(String, String)> {
        let hub = &self.agent(region).hub;
        let mut reader = hub.reader(hub.base());
        let mut effects = Vec::new();
        loop {
            let records = reader.next(100, 1 << 20).await.unwrap();
            if records.is_empty() {
                effects.sort();
                return effects;
            }
            let business = records.iter().filter(|record| !record.header.is_reserved());
            effects.extend(business.map(|record| (record.key().to_owned(), record.detail().to_owned())));
        }
    }

    /// Waits until every region has exactly these keys.
    async fn converges_to(&self, keys: &[&str]) {
        let mut last = BTreeMap::new();
        for _ in 0..400 {
            last.clear();
            for region in self.agents.keys() {
                let effects = self.effects(region).await;
                last.insert(region.clone(), effects.into_iter().map(|(key, _)| key).collect::<Vec<_>>());
            }
            if last.values().all(|found| found == keys) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("expected {keys:?} everywhere, found {last:#?}");
    }

    async fn eventually(&self, what: &str, check: impl Fn(&Cluster) -> bool) {
        for _ in 0..400 {
            if check(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("never: {what}\n{:#?}", self.agents.values().map(|agent| agent.status()).collect::<Vec<_>>());
    }

    fn link(&self, home: &str, peer: &str) -> status::LinkStatus {
        self.agent(home).status().links.into_iter().find(|link| link.peer == peer).unwrap()
    }

    /// Waits until the link has passed all that was published.
    async fn passed(&self, home: &str, peer: &str) {
        let last = self.agent(home).hub.end().last_local;
        self.eventually("the link passed it", |cluster| cluster.link(home, peer).cursor >= last).await;
    }

    fn copy_data(&self, from: &str, to: &str) {
        let (from, to) = (self.folder.path().join(from), self.folder.path().join(to));
        let _ = std::fs::remove_dir_all(&to);
        for folder in ["log", "ledger"] {
            std::fs::create_dir_all(to.join(folder)).unwrap();
            for entry in std::fs::read_dir(from.join(folder)).unwrap() {
                let entry = entry.unwrap();
                std::fs::copy(entry.path(), to.join(folder).join(entry.file_name())).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn an_event_reaches_every_region_once_with_its_stamp() {
    let cluster = Cluster::start("").await;
    cluster.publish("a", "k1", r#"{"n":1}"#).await;
    cluster.publish("b", "k2", r#"{"n":2}"#).await;
    cluster.publish("c", "k3", r#"{"n":3}"#).await;
    cluster.converges_to(&["k1", "k2", "k3"]).await;
    let hub = &cluster.agent("b").hub;
    let records = hub.reader(0).next(1000, 1 << 20).await.unwrap();
    let record = records.iter().find(|record| record.key() == "k1").unwrap();
    let envelope: serde_json::Value = serde_json::from_str(&cluster.agent("b").envelope(record)).unwrap();
    assert_eq!(envelope["region"], "b");
    assert_eq!(envelope["detail"]["hubweave"]["origin"], "a");
    assert_eq!(envelope["detail"]["hubweave"]["hops"], 1);
    cluster
        .eventually("lag was measured and nothing is left", |cluster| {
            cluster.link("a", "b").lag_seconds.p50.is_some() && cluster.link("a", "b").backlog_events == 0
        })
        .await;
}

#[tokio::test]
async fn one_key_published_in_two_regions_takes_effect_once_in_each_also_when_one_was_cut_off() {
    let cluster = Cluster::start("").await;
    for peer in ["a", "c"] {
        cluster.fault("b", Kind::Partition, peer);
    }
    cluster.publish("a", "order-1", "{}").await;
    cluster.publish("b", "order-1", "{}").await;
    cluster.publish("b", "order-2", "{}").await;
    cluster.eventually("b's links see the partition", |cluster| cluster.link("b", "a").state == "retrying").await;
    assert!(cluster.link("b", "a").rpo_exposure_seconds > 0.0);
    cluster.agent("b").faults.clear(None, None);
    cluster.converges_to(&["order-1", "order-2"]).await;
    cluster.eventually("nothing is exposed", |cluster| cluster.link("b", "a").rpo_exposure_seconds == 0.0).await;
}

#[tokio::test]
async fn one_key_with_two_payloads_stays_as_each_region_saw_it_first_and_is_in_the_dead_letters() {
    let cluster = Cluster::start("").await;
    cluster.fault("a", Kind::Partition, "b");
    cluster.publish("a", "k", r#"{"from":"a"}"#).await;
    cluster.publish("b", "k", r#"{"from":"b"}"#).await;
    cluster.eventually("c has one of them", |cluster| cluster.agent("c").status().events == 1).await;
    cluster.agent("a").faults.clear(None, None);
    cluster
        .eventually("both links gave up", |cluster| {
            cluster.link("a", "b").dead_letters == 1 && cluster.link("b", "a").dead_letters == 1
        })
        .await;
    assert_eq!(cluster.effects("a").await, [("k".to_owned(), r#"{"from":"a"}"#.to_owned())]);
    assert_eq!(cluster.effects("b").await, [("k".to_owned(), r#"{"from":"b"}"#.to_owned())]);
    // Whichever of the two came to c first, the other's link to c may have a letter as well.
    let to_b = Selection { peer: Some("b".to_owned()), ..Selection::default() };
    let letters = cluster.agent("a").letters(&to_b).unwrap();
    assert_eq!((letters.total, letters.letters[0].reason), (1, "conflict"));
    let redriven = cluster.agent("a").redrive(&to_b).await.unwrap();
    assert_eq!((redriven.matched, redriven.report.rejected), (1, 1), "still a conflict");
    assert_eq!(cluster.link("a", "b").dead_letters, 1);
    let discarded = cluster.agent("a").discard(&to_b).await.unwrap();
    assert_eq!((discarded.discarded, cluster.link("a", "b").dead_letters), (1, 0));
}

#[tokio::test]
async fn answers_that_are_lost_repeat_work_and_change_nothing() {
    let cluster = Cluster::start("[replication]\nretry_min = \"10ms\"\nretry_max = \"20ms\"\n").await;
    let order = json!({ "kind": "timeout-after-success", "probability": 0.5 });
    for region in REGIONS {
        cluster.agent(region).faults.inject(serde_json::from_value(order.clone()).unwrap()).unwrap();
        let order = json!({ "kind": "duplicate", "probability": 0.3 });
        cluster.agent(region).faults.inject(serde_json::from_value(order).unwrap()).unwrap();
    }
    let mut keys: Vec<String> = (0..60).map(|n| format!("k{n:02}")).collect();
    for (n, key) in keys.iter().enumerate() {
        cluster.publish(REGIONS[n % 3], key, "{}").await;
    }
    keys.sort();
    cluster.converges_to(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn a_region_that_was_down_gets_everything_and_gives_everything_after_it_is_back() {
    let mut cluster = Cluster::start("").await;
    cluster.publish("c", "before", "{}").await;
    cluster.converges_to(&["before"]).await;
    cluster.down("c").await;
    cluster.publish("a", "while-down", "{}").await;
    cluster.publish("b", "while-down-2", "{}").await;
    cluster.up("c").await;
    cluster.publish("c", "zafter", "{}").await;
    cluster.converges_to(&["before", "while-down", "while-down-2", "zafter"]).await;
}

#[tokio::test]
async fn a_peer_restored_from_an_older_copy_is_noticed_and_refilled() {
    let mut cluster = Cluster::start("").await;
    cluster.publish("a", "k1", "{}").await;
    cluster.converges_to(&["k1"]).await;
    cluster.down("c").await;
    cluster.copy_data("c", "backup");
    cluster.up("c").await;
    cluster.publish("a", "k2", "{}").await;
    cluster.publish("c", "k3", "{}").await;
    cluster.converges_to(&["k1", "k2", "k3"]).await;
    cluster.down("c").await;
    cluster.copy_data("backup", "c");
    cluster.up("c").await;
    cluster.publish("c", "k4", "{}").await;
    // c's own k3 exists at a and b only: the repair stream brings it back, once.
    cluster.converges_to(&["k1", "k2", "k3", "k4"]).await;
}

#[tokio::test]
async fn an_emptied_region_is_filled_again_and_its_own_events_come_back() {
    let mut cluster = Cluster::start("").await;
    cluster.publish("c", "own", "{}").await;
    cluster.publish("a", "other", "{}").await;
    cluster.converges_to(&["other", "own"]).await;
    cluster.down("c").await;
    std::fs::remove_dir_all(cluster.folder.path().join("c")).unwrap();
    cluster.up("c").await;
    cluster.converges_to(&["other", "own"]).await;
}

#[tokio::test]
async fn a_filter_change_applies_from_its_place_on_and_never_backwards() {
    let mut cluster = Cluster::start("").await;
    cluster.agent("a").pause("b", true).await.unwrap();
    cluster.publish("a", "k1", r#"{"pass":false}"#).await;
    let filtered = format!(
        "{}\n[[link]]\nfrom = \"a\"\nto = \"b\"\npattern = {{ detail = {{ pass = [true] }} }}\n",
        cluster.config
    );
    let config = Config::parse(&filtered, "test.toml", &|_| None).unwrap();
    let changed = cluster.agent("a").reload(config).await.unwrap();
    assert!(changed[0].contains("pattern"), "{changed:?}");
    cluster
        .eventually("the new pattern is in force", |cluster| {
            cluster.link("a", "b").pattern == Some(json!({"detail": {"pass": [true]}}))
        })
        .await;
    cluster.publish("a", "k2", r#"{"pass":false}"#).await;
    cluster.publish("a", "k3", r#"{"pass":true}"#).await;
    cluster.agent("a").pause("b", false).await.unwrap();
    cluster.eventually("b has k1 and k3", |cluster| cluster.agent("b").status().events == 2).await;
    let keys: Vec<_> = cluster.effects("b").await.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["k1", "k3"]);
    // The same file after a restart is no change.
    cluster.config = filtered;
    cluster.down("a").await;
    cluster.up("a").await;
    let epochs = read_state(&*cluster.agent("a").hub, |state| state.links["b"].filters.len());
    assert_eq!(epochs, 2);
}

#[tokio::test]
async fn a_paused_link_stays_paused_over_a_restart_and_delivers_after_resume() {
    let mut cluster = Cluster::start("").await;
    cluster.agent("a").pause("b", true).await.unwrap();
    cluster.down("a").await;
    cluster.up("a").await;
    cluster.publish("a", "k", "{}").await;
    cluster.eventually("c has it", |cluster| cluster.agent("c").status().events == 1).await;
    assert_eq!((cluster.agent("b").status().events, cluster.link("a", "b").state.as_str()), (0, "paused"));
    assert_eq!(cluster.link("a", "b").backlog_events, 1);
    cluster.agent("a").pause("b", false).await.unwrap();
    cluster.converges_to(&["k"]).await;
    assert!(cluster.agent("a").pause("z", true).await.is_err());
}

#[tokio::test]
async fn a_replay_is_harmless_and_says_so() {
    let cluster = Cluster::start("").await;
    for key in ["k1", "k2", "k3"] {
        cluster.publish("a", key, "{}").await;
    }
    cluster.converges_to(&["k1", "k2", "k3"]).await;
    cluster.passed("a", "b").await;
    let dry = cluster.agent("a").replay("b", None, None, true).await.unwrap();
    assert_eq!(dry, Report { events: 3, ..Report::default() });
    let report = cluster.agent("a").replay("b", None, None, false).await.unwrap();
    assert_eq!(report, Report { events: 3, duplicate: 3, ..Report::default() });
    cluster.converges_to(&["k1", "k2", "k3"]).await;
}

#[tokio::test]
async fn an_event_that_waited_past_the_ledgers_memory_is_dead_and_redriven_only_on_request() {
    let cluster = Cluster::start("").await;
    cluster.fault("a", Kind::Partition, "b");
    cluster.publish("a", "late", "{}").await;
    cluster.eventually("c has it", |cluster| cluster.agent("c").status().events == 1).await;
    // The link read the event before the clock moves: it is judged again when it is read after a restart.
    cluster.agent("a").pause("b", true).await.unwrap();
    let mut cluster = cluster;
    cluster.down("a").await;
    cluster.clock.0.store(15 * 86_400, Ordering::SeqCst);
    cluster.up("a").await;
    cluster.agent("a").pause("b", false).await.unwrap();
    cluster.eventually("it is a dead letter", |cluster| cluster.link("a", "b").dead_letters == 1).await;
    let kept = cluster.agent("a").redrive(&Selection::default()).await.unwrap();
    assert_eq!((kept.report.skipped, cluster.link("a", "b").dead_letters), (1, 1));
    let sent = cluster.agent("a").redrive(&Selection { expired: true, ..Selection::default() }).await.unwrap();
    assert_eq!((sent.report.delivered, cluster.link("a", "b").dead_letters), (1, 0));
}

#[tokio::test]
async fn shadow_mode_delivers_nothing_and_says_what_it_would_have() {
    let cluster = Cluster::start("[[link]]\nfrom = \"a\"\nto = \"b\"\nmode = \"shadow\"\n").await;
    cluster.publish("b", "known", "{}").await;
    cluster.converges_to_in("a", &["known"]).await;
    cluster.publish("a", "new", "{}").await;
    cluster
        .eventually("the shadow link compared", |cluster| {
            cluster.agent("a").links["b"].ends.metrics.shadow_new.get() >= 1
        })
        .await;
    assert_eq!(cluster.agent("b").status().events, 1);
}

impl Cluster {
    async fn converges_to_in(&self, region: &str, keys: &[&str]) {
        for _ in 0..400 {
            let found: Vec<_> = self.effects(region).await.into_iter().map(|(key, _)| key).collect();
            if found == keys {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("{region} never had {keys:?}");
    }
}

#[tokio::test]
async fn a_peer_of_another_cluster_and_a_forged_provenance_are_refused() {
    let cluster = Cluster::start("").await;
    cluster.publish("a", "k", "{}").await;
    let records = cluster.agent("a").hub.reader(0).next(100, 1 << 20).await.unwrap();
    let local: Vec<_> = records.into_iter().filter(|record| !record.header.is_remote()).collect();
    let ends = &cluster.agent("a").links["b"].ends;
    let inbox = cluster.agent("b").inbox.clone();
    let mut opening = ends.opening(crate::core::batch::Kind::Redrive);
    opening.cluster = "other".to_owned();
    let refusal = inbox.deliver(Batch { opening, records: local.clone() }).await.unwrap_err();
    assert!(matches!(&refusal, Refusal::Foreign(why) if why.contains("other")), "{refusal}");
    let opening = ends.opening(crate::core::batch::Kind::Repair);
    let refusal = inbox.deliver(Batch { opening, records: local }).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Malformed(_)), "{refusal}");
}

#[tokio::test]
async fn explain_tells_the_way_of_an_event() {
    let cluster = Cluster::start("").await;
    cluster.publish("a", "k", "{}").await;
    cluster.converges_to(&["k"]).await;
    cluster.passed("a", "b").await;
    cluster.agent("a").replay("b", None, None, false).await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    let whats = |explanation: Explanation| explanation.entries.iter().map(|entry| entry.what).collect::<Vec<_>>();
    assert_eq!(whats(cluster.agent("a").explain("k").await.unwrap()), ["accepted", "forwarded", "forwarded"]);
    assert_eq!(whats(cluster.agent("b").explain("k").await.unwrap()), ["applied", "duplicate"]);
    assert!(whats(cluster.agent("b").explain("nobody").await.unwrap()).is_empty());
}

#[tokio::test]
async fn a_link_that_loses_its_place_names_what_it_lost_and_goes_on() {
    let cluster = Cluster::start("[log]\nretention = \"1h\"\nmax_size = \"4MiB\"\nsegment_size = \"1MiB\"\n").await;
    cluster.fault("a", Kind::Partition, "b");
    let detail = format!("{{\"pad\":\"{}\"}}", "x".repeat(50_000));
    for n in 0..200 {
        cluster.publish("a", &format!("k{n:03}"), &detail).await;
        if n % 20 == 0 {
            cluster.agent("a").hub.retain(0);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    cluster.agent("a").hub.retain(0);
    cluster.agent("a").hub.note(Vec::new()).await.unwrap();
    assert!(cluster.agent("a").hub.log_bytes() < 6 << 20);
    cluster.agent("a").faults.clear(None, None);
    cluster.publish("a", "last", "{}").await;
    cluster
        .eventually("b has the last", |cluster| {
            cluster.link("a", "b").backlog_events == 0 && !cluster.link("a", "b").losses.is_empty()
        })
        .await;
    let lost: u64 = cluster.link("a", "b").losses.iter().map(|loss| loss.events).sum();
    let there = cluster.effects("b").await.len() as u64;
    assert_eq!(there + lost, 201, "every event is at the peer or in the loss inventory");
}

#[tokio::test]
async fn a_full_dead_letter_queue_stops_its_link_and_loses_nothing() {
    let cluster = Cluster::start("[replication]\nmax_dead_letters = 1\n").await;
    cluster.fault("a", Kind::Partition, "b");
    for key in ["k1", "k2"] {
        cluster.publish("b", key, r#"{"b":1}"#).await;
        cluster.publish("a", key, r#"{"a":1}"#).await;
    }
    cluster.agent("a").faults.clear(None, None);
    cluster.eventually("conflicts are dead", |cluster| cluster.link("a", "b").dead_letters >= 1).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    cluster.publish("a", "k3", "{}").await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(cluster.link("a", "b").backlog_events >= 1);
    cluster.agent("a").discard(&Selection::default()).await.unwrap();
    cluster.eventually("the link goes on", |cluster| cluster.link("a", "b").backlog_events == 0).await;
}

#[tokio::test]
async fn services_are_refused_while_a_region_drains() {
    let cluster = Cluster::start("").await;
    cluster.agent("a").drain();
    assert_eq!(cluster.agent("a").hub.publish(vec![draft("k", "{}")]).await, Err(hub::Error::Draining));
    assert_eq!(cluster.agent("a").status().state, "draining");
}

#[tokio::test]
async fn peers_keep_their_contract_with_and_without_the_fault_decorator() {
    for name in ["direct", "faulty"] {
        // Only b runs: nobody else delivers as `a` meanwhile.
        let mut cluster = Cluster::start("[cluster]\nname = \"local\"\n").await;
        cluster.down("a").await;
        cluster.down("b").await;
        std::fs::remove_dir_all(cluster.folder.path().join("b")).unwrap();
        cluster.up("b").await;
        let direct: Arc<dyn Peer> =
            Arc::new(DirectPeer { home: "a".to_owned(), name: "b".to_owned(), inboxes: cluster.inboxes.clone() });
        let faults = cluster.agent("b").faults.clone();
        let peer = match name {
            "direct" => direct,
            _ => Arc::new(FaultyPeer::new(direct, "b", faults, Arc::new(|| {}))),
        };
        crate::ports::conformance::peer(peer).await;
    }
}
