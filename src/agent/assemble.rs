//! Production's choice of adapters for an embedded region: local disk, system clock, HTTP to the peers. For a region on
//! AWS see `aws`.

#[cfg(feature = "aws")]
pub mod aws;
pub mod backup;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    Agent, Parts,
    documents::{self, Shelves},
    payloads::Stores,
};
use crate::{
    config::{Backend, Config},
    embedded::{
        backup::{IDENTITY, LocalBackup, OBJECTS, Parts as BackupParts},
        disk::LocalDisk,
        hub::{self, EmbeddedHub},
        objects::{self, LocalObjects},
        peer::{self, HttpPeer},
        remote_documents::HttpDocuments,
        remote_objects::{self, RemoteObjects},
        remote_regions::HttpRegion,
        rows::{self, LocalRows},
        system::{Random, SystemClock},
    },
    faults::{
        self, Faults, clock::SkewedClock, documents::FaultyDocuments, inbox::FaultyInbox, objects::FaultyObjects,
        peer::FaultyPeer, regions::FaultyRegion,
    },
    metrics::Metrics,
    ports::{
        backup::Backup,
        clock::{Clock, Entropy},
        inbox::Inbox,
        objects::Objects,
        peer::Peer,
        regions::RemoteRegion,
    },
};

/// Why a region does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("region `{0}` is not in the file; it has {1}")]
    NoRegion(String, String),
    #[error("region `{0}` has another backend than this build runs")]
    Backend(String),
    #[cfg(feature = "aws")]
    #[error("{what}: {failure}")]
    Aws { what: String, failure: crate::core::link::Failure },
    #[cfg(feature = "aws")]
    #[error("a link from {0} on AWS to {1}, which is embedded, is not built: set `enabled = false` for it")]
    Mixed(String, String),
    #[cfg(feature = "aws")]
    #[error(
        "region {region} would lose events, so its agent does not start (`hubweave provision --region {region} --apply` \
         makes what is missing, `hubweave doctor` tells more):\n  {}",
        .wrong.join("\n  ")
    )]
    Unsafe { region: String, wrong: Vec<String> },
    #[cfg(feature = "aws")]
    #[error("a link's pattern: {0}")]
    Pattern(#[from] crate::core::pattern::Error),
    #[error("{}: {source}", path.display())]
    Disk { path: PathBuf, source: io::Error },
    #[error("{}: another agent is using this data directory", .0.display())]
    Locked(PathBuf),
    #[error(
        "{}: holds region `{found}` of cluster `{cluster}`, not region `{region}` of cluster `{expected}`: data_dir is wrong",
        path.display()
    )]
    Foreign { path: PathBuf, found: String, cluster: String, region: String, expected: String },
    #[error(transparent)]
    Hub(#[from] hub::OpenError),
    #[error(transparent)]
    Objects(#[from] objects::OpenError),
    #[error(transparent)]
    Documents(#[from] rows::OpenError),
    #[error(transparent)]
    Start(#[from] crate::ports::hub::Error),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl Error {
    pub fn no_region(config: &Config, region: &str) -> Error {
        let names: Vec<String> = config.regions.iter().map(|region| format!("`{}`", region.name)).collect();
        Error::NoRegion(region.to_owned(), names.join(", "))
    }
}

/// A running region and what its listeners need.
pub struct Assembled {
    pub agent: Arc<Agent>,
    pub hub: EmbeddedHub,
    /// With the faults on order.
    pub inbox: Arc<dyn Inbox>,
    pub objects: LocalObjects,
    /// Those of the peers, with the faults on order.
    pub remote_objects: BTreeMap<String, Arc<dyn Objects>>,
    pub entropy: Arc<dyn Entropy>,
    pub backup: Arc<dyn Backup>,
    /// Keeps other agents out of the data directory while it lives.
    _lock: fs::File,
}

/// Opens the data directory of `region` and starts its agent.
///
/// # Errors
/// Something that a person has to mend; nothing was changed then.
pub async fn assemble(config: Config, region: &str) -> Result<Assembled, Error> {
    let home = config.region(region).ok_or_else(|| Error::no_region(&config, region))?.clone();
    if home.backend != Backend::Embedded {
        return Err(Error::Backend(region.to_owned()));
    }
    let lock = claim(&home.data_dir, &config.cluster.name, region)?;
    let entropy: Arc<dyn Entropy> = Arc::new(Random::from_system());
    let system: Arc<dyn Clock> = Arc::new(SystemClock);
    let faults = Arc::new(Faults::new(config.faults.enabled, system.clone(), entropy.clone()));
    let clock: Arc<dyn Clock> = Arc::new(SkewedClock::new(system, faults.clone()));
    let hub = open_hub(&config, region, &home.data_dir, clock.clone(), entropy.clone()).await?;
    let others: Vec<String> =
        config.regions.iter().map(|other| other.name.clone()).filter(|name| name != region).collect();
    let metrics = Arc::new(Metrics::new(region, &others)?);
    let objects = open_objects(&home.data_dir, clock.clone(), &*entropy, metrics.clone())?;
    let rows = match config.state.is_empty() {
        true => None,
        false => Some(LocalRows::open(&home.data_dir)?),
    };
    let mut documents = rows.clone().map(|rows| {
        let options = documents::Options::new(config.idempotency.retention);
        Shelves { home: Arc::new(rows), peers: BTreeMap::new(), options }
    });
    let crash: faults::CrashHook = Arc::new(|| std::process::abort());
    let mut peers: BTreeMap<String, Arc<dyn Peer>> = BTreeMap::new();
    let mut remote_objects: BTreeMap<String, Arc<dyn Objects>> = BTreeMap::new();
    for link in config.links().into_iter().filter(|link| link.from == region && link.enabled) {
        let Some(address) = config.region(&link.to).and_then(|peer| peer.api.clone()) else { continue };
        let options = peer::Options {
            token: config.auth.peer_token.clone(),
            attempt_timeout: link.attempt_timeout,
            ..peer::Options::new(address, region)
        };
        if let Some(documents) = &mut documents {
            let remote = Arc::new(HttpDocuments::new(&config.cluster.name, options.clone()));
            let remote = FaultyDocuments::new(remote, &link.to, faults.clone(), crash.clone());
            documents.peers.insert(link.to.clone(), Arc::new(remote));
        }
        let remote = RemoteObjects::new(remote_objects::Options::new(&config.cluster.name, options.clone()));
        let remote = FaultyObjects::new(Arc::new(remote), &link.to, faults.clone(), crash.clone());
        remote_objects.insert(link.to.clone(), Arc::new(remote));
        let peer = FaultyPeer::new(Arc::new(HttpPeer::new(options)), &link.to, faults.clone(), crash.clone());
        peers.insert(link.to, Arc::new(peer));
    }
    let regions = others.iter().filter_map(|other| {
        let address = config.region(other)?.api.clone()?;
        let options = peer::Options { token: config.auth.peer_token.clone(), ..peer::Options::new(address, region) };
        let remote = Arc::new(HttpRegion::new(&config.cluster.name, options));
        let remote: Arc<dyn RemoteRegion> = Arc::new(FaultyRegion::new(remote, other, faults.clone(), crash.clone()));
        Some((other.clone(), remote))
    });
    let regions = regions.collect();
    let agent = Agent::start(Parts {
        config,
        region: region.to_owned(),
        hub: Arc::new(hub.clone()),
        peers,
        objects: Some(Stores { home: Arc::new(objects.clone()), peers: remote_objects.clone() }),
        documents,
        regions,
        clock: clock.clone(),
        entropy: entropy.clone(),
        faults: faults.clone(),
        metrics: metrics.clone(),
    })
    .await?;
    let backup = Arc::new(LocalBackup::new(BackupParts {
        cluster: agent.cluster.clone(),
        region: region.to_owned(),
        identity: identity(&agent.cluster, region),
        data_dir: home.data_dir,
        hub: hub.clone(),
        rows,
        objects: objects.clone(),
        clock,
        watcher: Box::new(move |time| metrics.backup_last.set(time.as_secs_f64())),
    }));
    let inbox = Arc::new(FaultyInbox::new(agent.inbox.clone(), faults, crash));
    Ok(Assembled { agent, hub, inbox, objects, remote_objects, entropy, backup, _lock: lock })
}

/// Opens the hub of a region; its writer gets a thread of its own, as its disk calls block.
async fn open_hub(
    config: &Config,
    region: &str,
    data_dir: &Path,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
) -> Result<EmbeddedHub, Error> {
    let disk_error = |source| Error::Disk { path: data_dir.to_owned(), source };
    let disk = Arc::new(LocalDisk::open(data_dir).map_err(disk_error)?);
    let options = hub::Options {
        region: region.to_owned(),
        retention: config.idempotency.retention,
        log_retention: config.log.retention,
        log_bytes_max: config.log.max_size,
        segment_bytes: config.log.segment_size,
    };
    let (hub, writer) = EmbeddedHub::open(disk, clock, entropy, options).await?;
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new()
        .name("hub-writer".to_owned())
        .spawn(move || runtime.block_on(writer.run()))
        .map_err(disk_error)?;
    Ok(hub)
}

/// Uploads in parts that nobody ended are forgotten after this.
const UPLOAD_AGE_MAX: Duration = Duration::from_secs(7 * 86_400);

/// How often such are looked for.
const UPLOAD_SWEEP_INTERVAL: Duration = Duration::from_secs(3_600);

/// Opens the region's object store and keeps it tidy.
fn open_objects(
    data_dir: &Path,
    clock: Arc<dyn Clock>,
    entropy: &dyn Entropy,
    metrics: Arc<Metrics>,
) -> Result<LocalObjects, objects::OpenError> {
    let watcher = Box::new(move |totals: objects::Totals| {
        metrics.objects_stored.set(totals.objects as f64);
        metrics.objects_stored_bytes.set(totals.bytes as f64);
        metrics.objects_unreadable.set(totals.unreadable as f64);
        metrics.objects_files_left.set(totals.files_left as f64);
    });
    let objects = LocalObjects::open(&data_dir.join(OBJECTS), clock, entropy, watcher)?;
    let swept = objects.clone();
    tokio::spawn(async move {
        loop {
            match swept.drop_stale_uploads(UPLOAD_AGE_MAX).await {
                Ok(0) => {}
                Ok(dropped) => tracing::info!(dropped, "forgot uploads in parts that nobody ended"),
                // Where the store has failed, the process ends for this reason.
                Err(error) => tracing::warn!(%error, "uploads in parts that nobody ended stay for now"),
            }
            tokio::time::sleep(UPLOAD_SWEEP_INTERVAL).await;
        }
    });
    Ok(objects)
}

/// What stands in the file that says whose data a directory holds.
fn identity(cluster: &str, region: &str) -> String {
    format!("hubweave data, format 1\ncluster {cluster}\nregion {region}\n")
}

/// Locks the file that stands at `path` when it is locked: a restore may put another directory there in between.
fn lock(directory: &Path, path: &Path) -> Result<fs::File, Error> {
    let disk_error = |source| Error::Disk { path: directory.to_owned(), source };
    for _ in 0..LOCK_TRIES {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(disk_error)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => break,
            Err(fs::TryLockError::Error(source)) => return Err(disk_error(source)),
        }
        let (locked, there) = (file.metadata().map_err(disk_error)?, fs::metadata(path).map_err(disk_error)?);
        if (locked.dev(), locked.ino()) == (there.dev(), there.ino()) {
            return Ok(file);
        }
    }
    Err(Error::Locked(directory.to_owned()))
}

/// How often another directory may come between; once is rare.
const LOCK_TRIES: u32 = 3;

/// Makes sure that the directory is this region's and that no other agent uses it.
fn claim(directory: &Path, cluster: &str, region: &str) -> Result<fs::File, Error> {
    let disk_error = |source| Error::Disk { path: directory.to_owned(), source };
    fs::create_dir_all(directory).map_err(disk_error)?;
    let path = directory.join(IDENTITY);
    let file = lock(directory, &path)?;
    let expected = identity(cluster, region);
    let found = fs::read_to_string(&path).map_err(disk_error)?;
    if found.is_empty() {
        fs::write(&path, expected).map_err(disk_error)?;
        file.sync_all().map_err(disk_error)?;
    } else if found != expected {
        let line = |prefix: &str| found.lines().find_map(|line| line.strip_prefix(prefix)).unwrap_or("?").to_owned();
        return Err(Error::Foreign {
            path: directory.to_owned(),
            found: line("region "),
            cluster: line("cluster "),
            region: region.to_owned(),
            expected: cluster.to_owned(),
        });
    }
    Ok(file)
}
