//! Payloads between two embedded stores.

use std::{
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use futures::{FutureExt, TryStreamExt, future::BoxFuture};
use tokio::sync::Semaphore;

use super::*;
use crate::{
    embedded::{
        objects::LocalObjects,
        system::{Random, SystemClock},
    },
    metrics::Metrics,
    ports::{
        objects::{Body, Upload},
        store::{Expected, Intent, Store},
    },
};

/// A store, and what goes wrong on the way to it.
struct Way {
    store: LocalObjects,
    /// So many parts get there yet.
    parts: AtomicUsize,
    arrived: AtomicUsize,
    /// So many bodies arrive with a bit turned.
    damages: AtomicUsize,
    /// Bodies of large objects wait here.
    gate: Semaphore,
    calls: AtomicUsize,
    _folder: tempfile::TempDir,
}

fn store() -> (LocalObjects, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalObjects::open(folder.path(), Arc::new(SystemClock), &Random::seeded(1), Box::new(|_| {})).unwrap();
    (store, folder)
}

impl Way {
    fn spoil(&self, body: Body) -> Body {
        let spoils = self.damages.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
        let turned = body.map_ok(move |bytes| {
            let mut bytes = bytes.to_vec();
            bytes[0] ^= u8::from(spoils);
            bytes.into()
        });
        turned.boxed()
    }
}

impl Objects for Way {
    fn stat<'a>(&'a self, at: &'a Location) -> BoxFuture<'a, Result<Option<Stat>, Error>> {
        self.calls.fetch_add(1, SeqCst);
        self.store.stat(at)
    }

    fn read<'a>(&'a self, at: &'a Location, version: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Body, Error>> {
        self.store.read(at, version, range)
    }

    fn put<'a>(&'a self, at: &'a Location, announced: Announced, body: Body) -> BoxFuture<'a, Result<Stat, Error>> {
        self.calls.fetch_add(1, SeqCst);
        async move {
            if announced.size >= LARGE_BYTES {
                let _ = self.gate.acquire().await;
            }
            self.store.put(at, announced, self.spoil(body)).await
        }
        .boxed()
    }

    fn begin<'a>(
        &'a self,
        at: &'a Location,
        announced: &'a Announced,
        tag: &'a str,
    ) -> BoxFuture<'a, Result<Upload, Error>> {
        self.store.begin(at, announced, tag)
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
            match self.parts.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)) {
                Ok(_) => {
                    let put = self.store.put_part(at, upload, number, size, self.spoil(body)).await;
                    self.arrived.fetch_add(1, SeqCst);
                    put
                }
                Err(_) => {
                    // A failure ends the parts beside it.
                    while self.arrived.load(SeqCst) < 2 {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    Err(Failure::Unanswered("cut".to_owned()).into())
                }
            }
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
        self.store.finish(at, upload, parts, announced)
    }

    fn abort<'a>(&'a self, at: &'a Location, upload: &'a Upload) -> BoxFuture<'a, Result<(), Error>> {
        self.store.abort(at, upload)
    }
}

struct World {
    home: LocalObjects,
    peer: Arc<Way>,
    payloads: Payloads,
    metrics: Arc<LinkMetrics>,
    pacer: Arc<Pacer>,
    _folder: tempfile::TempDir,
}

fn world() -> World {
    world_with(|_| {})
}

fn world_with(change: impl FnOnce(&mut Options)) -> World {
    let (home, folder) = store();
    let (store, of_peer) = store();
    let peer = Arc::new(Way {
        store,
        parts: AtomicUsize::new(usize::MAX),
        arrived: AtomicUsize::new(0),
        damages: AtomicUsize::new(0),
        gate: Semaphore::new(1_000),
        calls: AtomicUsize::new(0),
        _folder: of_peer,
    });
    let config = ClaimCheck { reference: vec!["/detail/ref".to_owned()], part_size: 5 << 20, ..ClaimCheck::default() };
    let mut options = Options::new(&config, Buckets::Same, Duration::from_secs(20));
    change(&mut options);
    let metrics = Arc::new(Metrics::new("eu", &["us".to_owned()]).unwrap().link("us"));
    let payloads = Payloads::new(Arc::new(home.clone()), peer.clone(), options, metrics.clone());
    World { home, peer, payloads, metrics, pacer: Arc::new(Pacer::new(None, None)), _folder: folder }
}

fn bytes(seed: u8, length: usize) -> Bytes {
    (0..length).map(|at| (at as u64).wrapping_mul(2_654_435_761).to_le_bytes()[2] ^ seed).collect()
}

async fn write(store: &LocalObjects, bucket: &str, key: &str, bytes: &Bytes) {
    let body = stream::iter([Ok(bytes.clone())]).boxed();
    store.write(&Location::new(bucket, key), Intent::default(), Expected::default(), body).await.unwrap();
}

impl World {
    async fn service_writes(&self, key: &str, bytes: &Bytes) {
        write(&self.home, "bucket", key, bytes).await;
    }

    async fn bring(&self, detail: serde_json::Value) -> Result<Option<serde_json::Value>, Unready> {
        let brought = self.payloads.bring(&detail.to_string(), &self.pacer).await?;
        Ok(brought.map(|detail| serde_json::from_str(&detail).unwrap()))
    }

    async fn bring_key(&self, key: &str) -> Result<Option<serde_json::Value>, Unready> {
        self.bring(serde_json::json!({ "ref": format!("s3://bucket/{key}") })).await
    }

    /// What stands at the peer.
    async fn there(&self, bucket: &str, key: &str) -> Option<Vec<u8>> {
        let at = Location::new(bucket, key);
        let stat = self.peer.store.stat(&at).await.unwrap()?;
        let body = self.peer.store.read(&at, &stat.version, 0..stat.size).await.unwrap();
        Some(body.try_collect::<Vec<_>>().await.unwrap().concat())
    }
}

fn hex_of(bytes: &Bytes) -> String {
    hex(&Sha256::digest(bytes))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_brought_once_and_found_after_that() {
    let world = world();
    for (key, size) in [("empty", 0), ("small", 4_096), ("middle", 100_000), ("in parts", 12 << 20)] {
        let bytes = bytes(1, size);
        world.service_writes(key, &bytes).await;
        assert_eq!(world.bring_key(key).await, Ok(None), "{key}: the reference stays");
        assert!(world.there("bucket", key).await.unwrap() == bytes, "{key}");
        assert_eq!(world.bring_key(key).await, Ok(None));
    }
    assert_eq!((world.metrics.objects_copied.get(), world.metrics.objects_present.get()), (4, 4));
    assert_eq!(world.bring(serde_json::json!({ "ref": null, "other": 1 })).await, Ok(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_bytes_at_the_peer_stay_and_the_copy_goes_beside_them() {
    let world = world();
    let long = "k".repeat(KEY_BYTES_MAX);
    for (key, beside) in [("latest.json", "latest.json."), (&long, "hubweave/")] {
        write(&world.peer.store, "bucket", key, &bytes(9, 10)).await;
        let bytes = bytes(1, 4_096);
        world.service_writes(key, &bytes).await;
        let beside = format!("{beside}{}", hex_of(&bytes));
        let expected = serde_json::json!({ "ref": format!("s3://bucket/{beside}") });
        for _ in 0..2 {
            assert_eq!(world.bring_key(key).await, Ok(Some(expected.clone())));
        }
        assert!(world.there("bucket", &beside).await.unwrap() == bytes);
        assert_eq!(world.there("bucket", key).await.unwrap().len(), 10);
        // Somebody wrote there what only a copy may be.
        world.peer.store.remove(&Location::new("bucket", &beside), Default::default()).await.unwrap();
        write(&world.peer.store, "bucket", &beside, &super::tests::bytes(8, 7)).await;
        assert!(matches!(world.bring_key(key).await, Err(Unready::Never(Reason::Reference, _))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_here_or_not_what_is_meant_is_missing() {
    let world = world();
    let missing = Err(Unready::Missing(Location::new("bucket", "k")));
    assert_eq!(world.bring_key("k").await, missing);
    let (old, new) = (bytes(1, 100), bytes(2, 100));
    world.service_writes("k", &old).await;
    let pinned = serde_json::json!({ "ref": { "bucket": "bucket", "key": "k", "sha256": hex_of(&new) } });
    assert_eq!(world.bring(pinned.clone()).await, missing);
    world.service_writes("k", &new).await;
    assert_eq!(world.bring(pinned).await, Ok(None));
    assert_eq!(world.metrics.objects_missing.get(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_by_region_are_translated_and_foreign_ones_refused() {
    let world = world_with(|options| {
        options.buckets = Buckets::Own { home: Some("bucket".to_owned()), peer: Some("their-bucket".to_owned()) };
        options.shared = ["everybodys".to_owned()].into();
    });
    world.service_writes("a", &bytes(1, 10)).await;
    world.service_writes("b", &bytes(2, 10)).await;
    let detail =
        serde_json::json!({ "ref": ["s3://bucket/a", { "bucket": "bucket", "key": "b" }, "s3://everybodys/c"] });
    let led = serde_json::json!({
        "ref": ["s3://their-bucket/a", { "bucket": "their-bucket", "key": "b" }, "s3://everybodys/c"]
    });
    assert_eq!(world.bring(detail).await, Ok(Some(led)));
    assert!(world.there("their-bucket", "b").await.unwrap() == bytes(2, 10));
    for detail in ["s3://foreign/a", "s3://bucket/folder/", "s3://bucket/", "s3://bucket"] {
        let refused = world.bring(serde_json::json!({ "ref": detail })).await;
        assert!(
            matches!(refused, Err(Unready::Never(Reason::Reference, _) | Unready::Missing(_))),
            "{detail}: {refused:?}"
        );
    }
    assert!(matches!(
        world.bring(serde_json::json!({ "ref": "s3://foreign/a" })).await,
        Err(Unready::Never(Reason::Reference, why)) if why.contains("foreign") && why.contains("shared_buckets")
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_goes_on_where_it_was_and_damage_never_becomes_an_object() {
    let world = world();
    let large = bytes(3, 23 << 20);
    world.service_writes("large", &large).await;
    world.peer.parts.store(2, SeqCst);
    assert!(matches!(world.bring_key("large").await, Err(Unready::Failed(_))));
    // Five parts, two of which are there.
    world.peer.parts.store(3, SeqCst);
    assert_eq!(world.bring_key("large").await, Ok(None), "the others were enough");
    assert!(world.there("bucket", "large").await.unwrap() == large);
    for (key, size) in [("small", 100), ("parts", 11 << 20)] {
        world.service_writes(key, &bytes(4, size)).await;
        world.peer.parts.store(100, SeqCst);
        world.peer.damages.store(1, SeqCst);
        assert!(matches!(world.bring_key(key).await, Err(Unready::Failed(_))), "{key}");
        assert_eq!(world.there("bucket", key).await, None, "{key}");
        assert_eq!(world.bring_key(key).await, Ok(None), "{key}");
        assert!(world.there("bucket", key).await.unwrap() == bytes(4, size), "{key}");
    }
    assert_eq!(world.metrics.objects_damaged.get(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_object_keeps_up_neither_small_ones_nor_its_own_again() {
    let world = world_with(|options| (options.large_transfers, options.part_bytes) = (1, 64 << 20));
    world.service_writes("large", &bytes(1, 9 << 20)).await;
    world.service_writes("large too", &bytes(2, 9 << 20)).await;
    world.service_writes("small", &bytes(3, 100)).await;
    let gate = world.peer.gate.acquire_many(1_000).await.unwrap();
    let first = async { world.bring_key("large").await };
    let others = async {
        while world.payloads.large.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(world.bring_key("large").await, Err(Unready::Busy), "it is on its way for long");
        assert_eq!(world.bring_key("small").await, Ok(None));
        let places = world.payloads.before_large.acquire_many(WAITING_FOR_LANE as u32).await.unwrap();
        assert_eq!(world.bring_key("large too").await, Err(Unready::Busy), "no lane and no place before it");
        drop(places);
        // Now there is a place, and a lane as soon as the first is over.
        let (waits, ()) = tokio::join!(world.bring_key("large too"), async {
            while world.payloads.before_large.available_permits() == WAITING_FOR_LANE {
                tokio::task::yield_now().await;
            }
            drop(gate);
        });
        assert_eq!(waits, Ok(None));
    };
    let (first, ()) = tokio::join!(first, others);
    assert_eq!(first, Ok(None));
    assert!(world.payloads.under_way.lock().unwrap().is_empty(), "nothing is left over");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_events_of_one_object_do_not_wait_for_each_other() {
    let world = world();
    world.service_writes("latest", &bytes(1, 1_000)).await;
    let began = tokio::time::Instant::now();
    let all = futures::future::join_all((0..100).map(|_| world.bring_key("latest"))).await;
    assert!(all.iter().all(|brought| *brought == Ok(None)), "{all:?}");
    assert_eq!((world.metrics.objects_copied.get(), world.metrics.objects_present.get()), (1, 99));
    assert!(began.elapsed() < LANE_WAIT * 50, "one after another, and none put off");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detail_that_is_too_large_is_an_object_named_by_its_bytes() {
    let with = |peer: Option<&str>| {
        let peer = peer.map(str::to_owned);
        world_with(|options| options.buckets = Buckets::Own { home: None, peer })
    };
    let world = with(Some("theirs"));
    let detail = format!("{{\"large\":\"{}\"}}", "x".repeat(2_000_000));
    for _ in 0..2 {
        let offloaded = world.payloads.offload("eu", &detail, &world.pacer).await.unwrap();
        assert_eq!((offloaded.size, offloaded.at.bucket.as_str()), (detail.len() as u64, "theirs"));
        assert_eq!(offloaded.at.key, format!("hubweave/offloaded/eu/{}.json", hex(&offloaded.sha256)));
        assert!(world.there("theirs", &offloaded.at.key).await.unwrap() == detail.as_bytes());
    }
    let refused = with(None).payloads.offload("eu", &detail, &world.pacer).await;
    assert!(matches!(refused, Err(Unready::Never(Reason::TooLarge, _))), "{refused:?}");
}

#[test]
fn a_missing_payload_is_looked_for_soon_and_then_at_least_as_often_as_promised() {
    let looks: Vec<u128> = (0..9).map(|attempts| look_again(attempts).as_millis()).collect();
    assert_eq!(looks, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000]);
    assert_eq!(look_again(u32::MAX), LOOK_MAX);
}
