use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use redb::{StorageBackend, backends::FileBackend};

use super::*;
use crate::{
    core::{object::Location, time::Timestamp},
    embedded::system::Random,
    ports::{
        conformance::{
            self,
            objects::{announced, body, collect, noise},
        },
        objects::{self, Objects},
        store::{Condition, Crc, Expected, Intent, Query, Store},
    },
};

struct FixedClock(AtomicU64);

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.fetch_add(1_000_000_000, Ordering::SeqCst))
    }
}

pub fn clock() -> Arc<dyn Clock> {
    Arc::new(FixedClock(AtomicU64::new(1_700_000_000_000_000_000)))
}

pub fn open(root: &Path) -> LocalObjects {
    LocalObjects::open(root, clock(), &Random::from_system(), Box::new(|_| {})).unwrap()
}

/// Waits until the store is closed: its threads end a little after its last handle.
pub async fn reopen(store: LocalObjects, root: &Path) -> LocalObjects {
    drop(store);
    for _ in 0..500 {
        if let Ok(store) = LocalObjects::open(root, clock(), &Random::from_system(), Box::new(|_| {})) {
            return store;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the store stays open");
}

pub async fn write(store: &LocalObjects, key: &str, bytes: &Bytes) -> crate::ports::store::Object {
    let at = Location::new("bucket", key);
    store.write(&at, Intent::default(), Expected::default(), body(bytes)).await.unwrap()
}

pub async fn read(store: &LocalObjects, key: &str) -> Option<Vec<u8>> {
    let at = Location::new("bucket", key);
    let stat = store.stat(&at).await.unwrap()?;
    Some(collect(Objects::read(store, &at, &stat.version, 0..stat.size).await.unwrap()).await.unwrap())
}

/// Files below the folder of bodies.
pub fn files(root: &Path) -> usize {
    let folders = fs::read_dir(root.join("bodies")).unwrap();
    folders.map(|folder| fs::read_dir(folder.unwrap().path()).unwrap().count()).sum()
}

pub async fn until_files(root: &Path, count: usize) {
    for _ in 0..500 {
        if files(root) == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} files instead of {count}", files(root));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_store_keeps_the_contract_of_object_stores() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(open(folder.path()));
    conformance::objects(store.clone(), "bucket").await;
    conformance::uploads(store, "bucket").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (small, large) = (noise(1, 1_000), noise(2, 300_000));
    let written = write(&store, "small", &small).await;
    write(&store, "large", &large).await;
    write(&store, "gone", &large).await;
    Store::remove(&store, &Location::new("bucket", "gone"), Condition::Always).await.unwrap();
    let said = announced(&large);
    let at = Location::new("bucket", "later");
    let upload = store.begin(&at, &said, "tag").await.unwrap();
    store.put_part(&at, &upload, 1, large.len() as u64, body(&large)).await.unwrap();

    let store = reopen(store, folder.path()).await;
    assert_eq!(store.stat(&Location::new("bucket", "small")).await.unwrap(), Some(written.stat));
    assert_eq!(read(&store, "small").await.unwrap(), small);
    assert_eq!(read(&store, "large").await.unwrap(), large);
    assert_eq!(read(&store, "gone").await, None);
    assert_eq!(store.begin(&at, &said, "tag").await.unwrap().parts.len(), 1);
    store.finish(&at, &upload, 1, said).await.unwrap();
    assert_eq!(read(&store, "later").await.unwrap(), large);
    until_files(folder.path(), 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_between_file_and_index_is_swept() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    write(&store, "kept", &noise(1, 50_000)).await;
    // Written, synced, and then the process died: no object names it. Another one died in the middle of it.
    for length in [50_000, 7] {
        let mut fresh = store.files.create().unwrap();
        std::io::Write::write_all(&mut fresh.file, &noise(2, length)).unwrap();
        fresh.keep();
    }
    assert_eq!(files(folder.path()), 3);
    let store = reopen(store, folder.path()).await;
    until_files(folder.path(), 1).await;
    assert_eq!(read(&store, "kept").await.unwrap(), noise(1, 50_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_goes_on_after_the_object_was_replaced_or_removed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for size in [10_000, 2_000_000] {
        let at = Location::new("bucket", format!("{size}"));
        let (old, new) = (noise(1, size), noise(2, size));
        let before = write(&store, &at.key, &old).await.stat;
        let reading = Objects::read(&store, &at, &before.version, 0..before.size).await.unwrap();
        let again = Objects::read(&store, &at, &before.version, 0..before.size).await.unwrap();
        write(&store, &at.key, &new).await;
        assert!(collect(reading).await.unwrap() == old, "whole, of the version that was opened");
        let gone = Objects::read(&store, &at, &before.version, 0..1).await.map(|_| ());
        assert_eq!(gone, Err(objects::Error::Gone));
        Store::remove(&store, &at, Condition::Always).await.unwrap();
        until_files(folder.path(), 0).await;
        assert!(collect(again).await.unwrap() == old, "also after its file has no name any more");
        assert_eq!(read(&store, &at.key).await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_on_disk_is_told_and_never_served() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let at = Location::new("bucket", "large");
    let stat = write(&store, "large", &noise(1, 600_000)).await.stat;
    let path = fs::read_dir(folder.path().join("bodies")).unwrap().next().unwrap().unwrap().path();
    let path = fs::read_dir(path).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&path).unwrap();
    bytes[599_999] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let rotten = collect(Objects::read(&store, &at, &stat.version, 0..stat.size).await.unwrap()).await;
    assert!(rotten.unwrap_err().to_string().contains("damaged"));
    fs::write(&path, &bytes[..1_000]).unwrap();
    let torn = Objects::read(&store, &at, &stat.version, 0..1).await.map(|_| ());
    assert!(torn.unwrap_err().to_string().contains("1000 bytes instead of 600000"));
    fs::remove_file(&path).unwrap();
    let absent = Objects::read(&store, &at, &stat.version, 0..1).await.map(|_| ());
    assert!(absent.unwrap_err().to_string().contains("damaged"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_any_more_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let at = Location::new("bucket", "half");
    let half = noise(1, 600_000);
    let endless: objects::Body = Box::pin(futures::StreamExt::chain(body(&half), futures::stream::pending()));
    let put = store.write(&at, Intent::default(), Expected::default(), endless);
    assert!(tokio::time::timeout(Duration::from_millis(300), put).await.is_err());
    until_files(folder.path(), 0).await;
    assert_eq!(store.stat(&at).await, Ok(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_are_judged_where_the_change_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let at = Location::new("bucket", "k");
    let write_if = async |condition, seed| {
        let intent = Intent { condition, ..Intent::default() };
        store.write(&at, intent, Expected::default(), body(&noise(seed, 100))).await
    };
    assert_eq!(write_if(Condition::Is("x".to_owned()), 1).await, Err(Error::NoObject));
    let first = write_if(Condition::Absent, 1).await.unwrap();
    assert_eq!(write_if(Condition::Absent, 2).await, Err(Error::Condition));
    let racers = (0..8).map(|seed| write_if(Condition::Is(first.etag.clone()), seed + 2));
    let raced = futures::future::join_all(racers).await;
    assert_eq!(raced.iter().filter(|result| result.is_ok()).count(), 1, "{raced:?}");
    assert_eq!(Store::remove(&store, &at, Condition::Is(first.etag)).await, Err(Error::Condition));
    assert_eq!(Store::remove(&store, &at, Condition::Always).await, Ok(true));
    assert_eq!(Store::remove(&store, &at, Condition::Always).await, Ok(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn checksums_that_come_behind_the_bytes_are_judged_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let bytes = Bytes::from_static(b"123456789");
    let at = Location::new("bucket", "k");
    let write = async |late: crate::core::object::Checksum| {
        let late = Box::new(move || Ok(crate::core::object::Sums::of([late])));
        let expected = Expected { kinds: vec![Crc::Crc32], late: Some(late), ..Expected::default() };
        store.write(&at, Intent::default(), expected, body(&bytes)).await
    };
    let damaged = write(crate::core::object::Checksum::Crc32(1)).await;
    assert!(matches!(damaged, Err(Error::Damaged(_))), "{damaged:?}");
    let object = write(crate::core::object::Checksum::Crc32(0xcbf4_3926)).await.unwrap();
    assert_eq!(object.etag, "25f9e794323b453885f5181f1b624d0b");
    assert_eq!(object.stat.sums.iter().count(), 2, "both are kept: {:?}", object.stat.sums);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_has_prefixes_delimiters_and_pages() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for key in ["a", "a/1", "a/2", "a/b/3", "b//x", "b/y", "c", "ä/1"] {
        write(&store, key, &Bytes::from_static(b"x")).await;
    }
    store
        .write(&Location::new("bucket-2", "z"), Intent::default(), Expected::default(), body(&noise(1, 1)))
        .await
        .unwrap();
    let all = async |prefix: &str, delimiter: Option<&str>, limit: usize| {
        let mut query =
            Query { prefix: prefix.to_owned(), delimiter: delimiter.map(str::to_owned), after: String::new(), limit };
        let (mut names, mut pages) = (Vec::new(), 0);
        loop {
            let page = store.list("bucket", &query).await.unwrap();
            pages += 1;
            names.extend(page.items.into_iter().map(|(key, _)| key));
            names.extend(page.prefixes.into_iter().map(|prefix| format!("<{prefix}>")));
            match page.next {
                Some(next) => query.after = next,
                None => return (names, pages),
            }
        }
    };
    for limit in [1, 2, 3, 100] {
        let sorted = async |prefix: &str, delimiter: Option<&str>| {
            let (mut names, _) = all(prefix, delimiter, limit).await;
            names.sort();
            names
        };
        assert_eq!(sorted("", None).await, ["a", "a/1", "a/2", "a/b/3", "b//x", "b/y", "c", "ä/1"]);
        assert_eq!(sorted("", Some("/")).await, ["<a/>", "<b/>", "<ä/>", "a", "c"]);
        assert_eq!(sorted("a/", Some("/")).await, ["<a/b/>", "a/1", "a/2"]);
        assert_eq!(sorted("b/", Some("/")).await, ["<b//>", "b/y"]);
        assert_eq!(sorted("nothing", Some("/")).await, Vec::<String>::new());
    }
    assert_eq!(all("", Some("/"), 2).await.1, 3, "5 names, 2 a page");
    let after = Query { after: "a/1".to_owned(), limit: 10, ..Query::default() };
    assert_eq!(store.list("bucket", &after).await.unwrap().items[0].0, "a/2");
    assert_eq!(store.list("absent", &after).await, Err(Error::NoBucket));
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_exist_from_the_first_write_and_go_when_they_are_empty() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    write(&store, "k", &noise(1, 1)).await;
    let names = async || -> Vec<String> { store.buckets().await.unwrap().into_iter().map(|(name, _)| name).collect() };
    assert_eq!(store.create_bucket("other").await, Ok(true));
    assert_eq!(store.create_bucket("other").await, Ok(false));
    assert_eq!(names().await, ["bucket", "other"]);
    assert!(matches!(store.create_bucket("No").await, Err(Error::Invalid(_))));
    assert_eq!(store.delete_bucket("bucket").await, Err(Error::NotEmpty));
    let at = Location::new("other", "k");
    let upload = store.begin_upload(&at, Default::default(), Vec::new()).await.unwrap();
    assert_eq!(store.delete_bucket("other").await, Err(Error::NotEmpty), "an upload will end there");
    store.abandon(&at, &upload.id).await.unwrap();
    assert_eq!(store.delete_bucket("other").await, Ok(()));
    assert_eq!(store.delete_bucket("other").await, Err(Error::NoBucket));
    assert_eq!(names().await, ["bucket"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_uploads_are_dropped_with_their_parts() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let at = Location::new("bucket", "k");
    let upload = store.begin_upload(&at, Default::default(), Vec::new()).await.unwrap();
    store.write_part(&at, &upload.id, 1, Expected::default(), body(&noise(1, 10))).await.unwrap();
    assert_eq!(store.drop_stale_uploads(Duration::from_secs(3600)).await, Ok(0));
    assert_eq!(files(folder.path()), 1);
    assert_eq!(store.drop_stale_uploads(Duration::ZERO).await, Ok(1));
    until_files(folder.path(), 0).await;
    assert_eq!(store.upload(&at, &upload.id).await, Err(Error::NoUpload));
}

/// Writes what is no entry over those of these keys.
fn spoil(root: &Path, keys: &[&str]) {
    let database = redb::Database::open(root.join("index.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    let mut objects = transaction.open_table(index::OBJECTS).unwrap();
    for key in keys {
        let key = index::key_of(&Location::new("bucket", *key));
        objects.insert(key.as_slice(), b"\xff\xff".as_slice()).unwrap();
    }
    drop(objects);
    transaction.commit().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_entry_costs_no_other_object_anything() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for key in ["a", "b"] {
        write(&store, key, &noise(1, 10)).await;
    }
    store.close().await;
    let store = reopen(store, folder.path()).await;
    drop(store);
    // The threads of the store keep the database open for a moment.
    for _ in 0..500 {
        if redb::Database::open(folder.path().join("index.redb")).is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    spoil(folder.path(), &["a"]);
    let store = open(folder.path());
    assert_eq!(store.index.totals().unwrap(), Totals { objects: 2, bytes: 10, unreadable: 1, files_left: 0 });
    let at = |key: &str| Location::new("bucket", key);
    let put = |key: &str| {
        let at = at(key);
        let store = store.clone();
        async move { store.write(&at, Intent::default(), Expected::default(), body(&noise(2, 10))).await }
    };
    let (spoiled, sound, new) = tokio::join!(put("a"), put("b"), put("c"));
    assert!(matches!(spoiled, Err(Error::Failure(Failure::Unanswered(_)))), "{spoiled:?}");
    assert!(sound.is_ok() && new.is_ok(), "{sound:?} {new:?}");
    assert!(store.stat(&at("a")).await.is_err());
    assert!(Store::remove(&store, &at("a"), Condition::Always).await.is_err());
    assert_eq!(read(&store, "b").await.unwrap(), noise(2, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_else_lies_among_the_bodies_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let fresh = store.files.create().unwrap();
    let orphan = fresh.place;
    fresh.keep();
    let bodies = folder.path().join("bodies");
    fs::write(bodies.join("0-note"), "x").unwrap();
    fs::create_dir(bodies.join("lost+found")).unwrap();
    let store = reopen(store, folder.path()).await;
    for _ in 0..500 {
        if store.files.read(orphan).is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(store.files.read(orphan).is_err(), "what a crash left behind is removed");
    assert!(bodies.join("0-note").exists() && bodies.join("lost+found").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_single_bytes_is_taken_in_as_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (small, large) = (noise(1, 3_000), noise(2, 600_000));
    for (key, bytes) in [("small", &small), ("large", &large)] {
        let pieces: Vec<_> = (0..bytes.len()).map(|at| Ok(bytes.slice(at..=at))).collect();
        let pieces: objects::Body = Box::pin(futures::stream::iter(pieces));
        let at = Location::new("bucket", key);
        store.write(&at, Intent::default(), Expected::default(), pieces).await.unwrap();
        assert!(read(&store, key).await.unwrap() == *bytes, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_are_kept_and_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let (sender, mut seen) = tokio::sync::watch::channel(Totals::default());
    let watcher = Box::new(move |totals| _ = sender.send_replace(totals));
    let store = LocalObjects::open(folder.path(), clock(), &Random::from_system(), watcher).unwrap();
    for (key, size) in [("a", 10), ("b", 100_000), ("a", 20), ("c", 5)] {
        write(&store, key, &noise(1, size)).await;
    }
    Store::remove(&store, &Location::new("bucket", "c"), Condition::Always).await.unwrap();
    let expected = Totals { objects: 2, bytes: 100_020, ..Totals::default() };
    // The watcher is told right after the answer.
    tokio::time::timeout(Duration::from_secs(5), seen.wait_for(|totals| *totals == expected)).await.unwrap().unwrap();
    let store = reopen(store, folder.path()).await;
    assert_eq!(store.index.totals().unwrap(), expected);
}

/// A disk whose syncs fail on order.
#[derive(Debug)]
struct FailingDisk {
    inner: FileBackend,
    failing: Arc<AtomicBool>,
}

impl StorageBackend for FailingDisk {
    fn len(&self) -> Result<u64, std::io::Error> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> Result<(), std::io::Error> {
        match self.failing.load(Ordering::SeqCst) {
            true => Err(std::io::Error::other("the disk is gone")),
            false => self.inner.sync_data(),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.inner.write(offset, data)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_is_never_acknowledged_and_ends_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let failing = Arc::new(AtomicBool::new(false));
    let options = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).clone();
    let file = options.open(folder.path().join("index.redb")).unwrap();
    let disk = FailingDisk { inner: FileBackend::new(file).unwrap(), failing: failing.clone() };
    let database = redb::Database::builder().create_with_backend(disk).unwrap();
    let index = Index::of(database, folder.path()).unwrap();
    let files = Files::open(folder.path(), 1).unwrap();
    let store = LocalObjects::start(folder.path(), index, files, clock(), Box::new(|_| {})).unwrap();
    write(&store, "before", &noise(1, 10)).await;
    failing.store(true, Ordering::SeqCst);
    for (key, size) in [("small", 10), ("large", 100_000)] {
        let at = Location::new("bucket", key);
        let result = store.write(&at, Intent::default(), Expected::default(), body(&noise(1, size))).await;
        assert!(matches!(result, Err(Error::Failure(Failure::Unanswered(_)))), "{key}: {result:?}");
    }
    assert!(store.failed().await.contains("the disk is gone"));
}

#[test]
fn another_format_is_refused_by_number() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.redb");
    let database = redb::Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let meta: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("meta");
    transaction.open_table(meta).unwrap().insert("version", 7).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = LocalObjects::open(folder.path(), clock(), &Random::from_system(), Box::new(|_| {})).err().unwrap();
    assert!(error.to_string().contains("has format 7; this build knows 1"), "{error}");
    fs::write(&path, b"what is this").unwrap();
    let error = LocalObjects::open(folder.path(), clock(), &Random::from_system(), Box::new(|_| {})).err().unwrap();
    assert!(matches!(error, OpenError::Index { .. }), "{error}");
}
