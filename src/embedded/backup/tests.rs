use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::{
    core::{object::Location, testing::draft},
    embedded::{disk::LocalDisk, hub::Options, system::Random},
    ports::{
        conformance::objects::{body, collect, noise},
        hub::{Hub, Published},
        objects::Objects,
        rows::Rows,
        store::{Expected, Intent, Store},
    },
};

struct FixedClock(AtomicU64);

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.fetch_add(1_000_000_000, Ordering::SeqCst))
    }
}

const START: u64 = 1_700_000_000_000_000_000;

/// A region's stores without an agent.
struct Region {
    data_dir: PathBuf,
    hub: EmbeddedHub,
    rows: LocalRows,
    objects: LocalObjects,
    backup: LocalBackup,
}

/// As `claim` writes it.
fn identity() -> String {
    "hubweave data, format 1\ncluster c\nregion a\n".to_owned()
}

impl Region {
    async fn open(data_dir: &Path, seed: u64) -> Region {
        let clock: Arc<dyn Clock> = Arc::new(FixedClock(AtomicU64::new(START + seed * 1_000_000_000_000)));
        let options = Options {
            region: "a".to_owned(),
            retention: Duration::from_secs(15 * 86_400),
            log_retention: Duration::ZERO,
            log_bytes_max: 1 << 30,
            segment_bytes: 64 << 10,
        };
        let disk = Arc::new(LocalDisk::open(data_dir).unwrap());
        let entropy = Arc::new(Random::seeded(seed));
        let (hub, writer) = EmbeddedHub::open(disk, clock.clone(), entropy.clone(), options).await.unwrap();
        tokio::spawn(writer.run());
        let objects = LocalObjects::open(&data_dir.join(OBJECTS), clock.clone(), &*entropy, Box::new(|_| {})).unwrap();
        let rows = LocalRows::open(data_dir).unwrap();
        let backup = LocalBackup::new(Parts {
            cluster: "c".to_owned(),
            region: "a".to_owned(),
            data_dir: data_dir.to_owned(),
            identity: identity(),
            hub: hub.clone(),
            rows: Some(rows.clone()),
            objects: objects.clone(),
            clock,
            watcher: Box::new(|_| {}),
        });
        fs::write(data_dir.join(IDENTITY), identity()).unwrap();
        Region { data_dir: data_dir.to_owned(), hub, rows, objects, backup }
    }

    async fn publish(&self, keys: std::ops::Range<u64>) -> Vec<Published> {
        let detail = format!("{{\"padding\":\"{}\"}}", "x".repeat(500));
        let drafts = keys.map(|key| draft(&key.to_string(), &detail)).collect();
        self.hub.publish(drafts).await.unwrap()
    }

    async fn put(&self, key: &str, bytes: &Bytes) {
        let at = Location::new("bucket", key);
        self.objects.write(&at, Intent::default(), Expected::default(), body(bytes)).await.unwrap();
    }

    async fn read(&self, key: &str) -> Vec<u8> {
        let at = Location::new("bucket", key);
        let stat = self.objects.stat(&at).await.unwrap().unwrap();
        collect(Objects::read(&self.objects, &at, &stat.version, 0..stat.size).await.unwrap()).await.unwrap()
    }

    async fn set(&self, key: &str, value: &str) {
        let change = (key.as_bytes().to_vec(), Some(Bytes::copy_from_slice(value.as_bytes())));
        self.rows.commit(vec![change]).await.unwrap();
    }

    async fn row(&self, key: &str) -> Option<Bytes> {
        self.rows.get(vec![key.as_bytes().to_vec()]).await.unwrap().pop().flatten()
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.data_dir.join(folder)).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Opens a copy of a region's data under another seed.
async fn open_copy(data_dir: &Path) -> Region {
    Region::open(data_dir, 2).await
}

fn restored(from: &Path, data_dir: &Path, replace: bool) -> Result<Restored, RestoreError> {
    fs::create_dir_all(data_dir).unwrap();
    check(from, "c", "a")?.restore(data_dir, replace, "now")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_started_from_a_backup_is_as_it_was_whatever_came_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let region = Region::open(&folder.path().join("data"), 1).await;
    let (small, large) = (noise(1, 100), noise(2, 3 << 20));
    region.publish(0..300).await;
    region.set("k", "before").await;
    region.put("small", &small).await;
    region.put("large", &large).await;
    let to = folder.path().join("backup");
    let made = region.backup.back_up(to.clone()).await.unwrap();
    assert_eq!((made.about.head, &*made.about.region, &made.directory), (300, "a", &to));

    region.publish(300..600).await;
    region.set("k", "after").await;
    region.put("large", &small).await;

    let data = folder.path().join("restored");
    let report = restored(&to, &data, false).unwrap();
    assert_eq!((report.backup, report.files, report.bytes), (made.about, made.files, made.bytes));
    assert_eq!(report.replaced, None);
    assert_eq!(fs::read_to_string(data.join(IDENTITY)).unwrap(), identity());
    let copy = open_copy(&data).await;
    assert_eq!(copy.hub.head().borrow().offset, 300);
    assert_eq!(copy.row("k").await.unwrap(), "before");
    assert_eq!((copy.read("small").await, copy.read("large").await), (small.to_vec(), large.to_vec()));
    let again = copy.publish(0..301).await;
    assert!(again[..300].iter().all(|published| matches!(published, Published::Duplicate(_))), "{again:?}");
    assert!(matches!(again[300], Published::Accepted(_)), "what came after is not there");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_and_removals_take_away_while_it_is_copied_is_in_the_copy() {
    let folder = tempfile::tempdir().unwrap();
    let region = Region::open(&folder.path().join("data"), 1).await;
    let body = noise(3, 100 << 10);
    region.publish(0..300).await;
    region.put("gone", &body).await;
    let target = Target::take(&folder.path().join("backup"), &region.data_dir, CancellationToken::new()).unwrap();
    let pinned = region.backup.pin().await.unwrap();
    let kept = region.objects.pin().unwrap();

    let before = region.names("log");
    region.publish(300..600).await;
    region.hub.retain(u64::MAX);
    region.put("gone", &noise(4, 10)).await;
    for _ in 0..500 {
        if !region.names("log").contains(&before[0]) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!region.names("log").contains(&before[0]), "the oldest segment is gone");
    // The copy of the objects begins after that of the others: what was replaced before is not in it.
    let parts = region.backup.parts.clone();
    let to = folder.path().join("backup");
    let (place, runtime) = (to.clone(), Handle::current());
    let made = off_runtime(move || parts.write(target, pinned, place, &runtime)).await.unwrap().unwrap();
    assert_eq!(made.about.head, 300);

    let index = folder.path().join("index.redb");
    let bodies = kept.copy_to(&index, &CancellationToken::new()).unwrap();
    let (path, file) = bodies.files().next().unwrap();
    let length = file.unwrap().metadata().unwrap().len();
    assert_eq!(length, body.len() as u64, "{path} stays as long as it is kept");
    drop(bodies);
    let path = region.data_dir.join(OBJECTS).join(path);
    for _ in 0..500 {
        if !path.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!path.exists(), "it goes when nobody keeps it");

    let data = folder.path().join("restored");
    restored(&to, &data, false).unwrap();
    let copy = open_copy(&data).await;
    assert_eq!((copy.hub.base(), copy.hub.head().borrow().offset), (0, 300));
    assert_eq!(copy.hub.reader(0).next(1_000, 1 << 20).await.unwrap().first().unwrap().key(), "0");
    assert!(matches!(copy.publish(0..1).await[0], Published::Duplicate(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_not_empty_or_within_the_data_is_refused_and_one_backup_is_made_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let region = Region::open(&folder.path().join("data"), 1).await;
    let full = folder.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("letter"), "dear").unwrap();
    let refused = [
        (full.clone(), "not empty"),
        (region.data_dir.join("backup"), "within the region's data_dir"),
        (PathBuf::from("backup"), "not an absolute path"),
        (folder.path().join("absent/backup"), "absent"),
        (full.join("letter"), "letter"),
    ];
    for (to, why) in refused {
        let error = region.backup.back_up(to.clone()).await.unwrap_err();
        assert!(matches!(&error, Error::Refused(said) if said.contains(why)), "{to:?}: {error}");
    }
    assert_eq!(fs::read_dir(&full).unwrap().count(), 1);
    let turn = region.backup.turn.clone().lock_owned().await;
    let to = folder.path().join("backup");
    assert_eq!(region.backup.back_up(to.clone()).await, Err(Error::Busy));
    drop(turn);
    assert!(!to.exists());
    fs::create_dir(&to).unwrap();
    region.backup.back_up(to).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_stopped_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let region = Region::open(&folder.path().join("data"), 1).await;
    region.publish(0..100).await;
    region.backup.stop().await;
    let (new, empty) = (folder.path().join("new"), folder.path().join("empty"));
    fs::create_dir(&empty).unwrap();
    for to in [&new, &empty] {
        let error = region.backup.back_up(to.clone()).await.unwrap_err();
        assert!(matches!(&error, Error::Failed(why) if why.contains("stopping")), "{error}");
    }
    assert!(!new.exists());
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_foreign_or_in_the_way_is_refused_and_the_data_stays() {
    let folder = tempfile::tempdir().unwrap();
    let region = Region::open(&folder.path().join("data"), 1).await;
    region.publish(0..10).await;
    let to = folder.path().join("backup");
    region.backup.back_up(to.clone()).await.unwrap();
    let data = folder.path().join("restored");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("agent.hold"), "").unwrap();
    fs::write(data.join("old"), "mine").unwrap();

    assert!(matches!(check(&to, "c", "b"), Err(RestoreError::Foreign { .. })));
    assert!(matches!(check(&to, "d", "a"), Err(RestoreError::Foreign { .. })));
    assert!(matches!(restored(&to, &data, false), Err(RestoreError::Occupied(_))));
    let segment = to.join("log/00000000000000000001.log");
    let whole = fs::read(&segment).unwrap();
    for (bytes, what) in [(whole[..whole.len() - 1].to_vec(), "short"), (vec![0; whole.len()], "other bytes")] {
        fs::write(&segment, bytes).unwrap();
        assert!(matches!(restored(&to, &data, true), Err(RestoreError::Damaged(_))), "{what}");
    }
    fs::remove_file(&segment).unwrap();
    assert!(matches!(restored(&to, &data, true), Err(RestoreError::Missing(_))));
    fs::write(&segment, whole).unwrap();
    fs::rename(to.join(manifest::FILE), to.join("elsewhere")).unwrap();
    assert!(matches!(check(&to, "c", "a"), Err(RestoreError::Manifest(manifest::Error::Absent(_)))));
    fs::rename(to.join("elsewhere"), to.join(manifest::FILE)).unwrap();
    assert_eq!(fs::read_to_string(data.join("old")).unwrap(), "mine");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "nothing is left beside it");

    let report = restored(&to, &data, true).unwrap();
    let aside = report.replaced.unwrap();
    assert_eq!(fs::read_to_string(aside.join("old")).unwrap(), "mine");
    assert!(data.join("agent.hold").exists() && data.join("log").exists() && !data.join("old").exists());
}
