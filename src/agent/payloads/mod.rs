//! Payloads go ahead of their events: what a link does for an event that refers to objects.
//!
//! For each reference the peer's store must hold the very bytes before the event is sent. What is there already is not
//! copied again, so a repeat after a crash costs a look. Where the peer's key holds other bytes, nothing is overwritten:
//! the copy goes beside them, to `<key>.<sha256>`, and the reference is rewritten. Hence a `latest.json` that is overwritten
//! for each event neither lies nor blocks.
//!
//! Small objects do not wait for large ones: those have lanes of their own and a short queue before them, and an event that
//! finds no room there is tried again later.

mod transfer;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedMutexGuard, Semaphore, SemaphorePermit};

use self::transfer::{Stop, Transfer};
use super::pacer::Pacer;
use crate::{
    config::{ClaimCheck, Config, Link, Missing},
    core::{
        batch::Reason,
        key::{PayloadHash, hex},
        link::Failure,
        object::{KEY_BYTES_MAX, Location},
        reference::{self, Reference},
        stamp::Offloaded,
    },
    marks::{self, Mark},
    metrics::LinkMetrics,
    planted::{self, Bug},
    ports::objects::{Announced, Checksum, Error, Objects, Stat, Sums},
};

/// From so many bytes on an object is large.
const LARGE_BYTES: u64 = 8 << 20;

/// Up to so many bytes an object is sent without asking first whether it is there.
const SEND_FIRST_BYTES: u64 = 64 << 10;

/// So often an object may change while it is copied before the event is put off.
const CHANGES_MAX: u32 = 3;

/// A payload that is missing is looked for again at least this often.
pub const LOOK_MAX: Duration = Duration::from_secs(5);

/// Where details stand that are too large for a hub, below it the region that they come from.
const OFFLOADED: &str = "hubweave/offloaded";

/// An event that found no room for its payload is tried again after this. So long it also waits for the same object that is
/// on its way for another event: mostly it is there in no time.
pub const LANE_WAIT: Duration = Duration::from_secs(1);

/// Large objects that wait for a lane, for each lane: enough to keep lanes busy until others are tried again.
const WAITING_FOR_LANE: usize = 8;

/// So long a large object waits for a lane before its event is put off.
const LANE_PATIENCE: Duration = Duration::from_secs(30);

/// The object stores of an embedded region and of its peers.
#[derive(Clone)]
pub struct Stores {
    pub home: Arc<dyn Objects>,
    /// One for each region that this region has an enabled link to.
    pub peers: BTreeMap<String, Arc<dyn Objects>>,
}

impl Stores {
    /// What a link does about payloads; `None` where no event refers to any.
    pub fn payloads(&self, config: &Config, link: &Link, metrics: &Arc<LinkMetrics>) -> Option<Arc<Payloads>> {
        let claim_check = &config.claim_check;
        let peer = self.peers.get(&link.to).filter(|_| !claim_check.reference.is_empty())?;
        let options = Options::new(claim_check, Buckets::Same, link.attempt_timeout);
        Some(Arc::new(Payloads::new(self.home.clone(), peer.clone(), options, metrics.clone())))
    }
}

/// The stores of a managed link's two ends.
#[derive(Clone)]
pub struct Pair {
    pub home: Arc<dyn Objects>,
    pub peer: Arc<dyn Objects>,
    pub buckets: Buckets,
}

impl Pair {
    pub fn payloads(&self, config: &ClaimCheck, call_timeout: Duration, metrics: Arc<LinkMetrics>) -> Payloads {
        let options = Options::new(config, self.buckets.clone(), call_timeout);
        Payloads::new(self.home.clone(), self.peer.clone(), options, metrics)
    }
}

/// Where the copies of a bucket stand at a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Buckets {
    /// Under the same name in every region, whatever it is.
    Same,
    /// One bucket for each region that has any.
    Own { home: Option<String>, peer: Option<String> },
}

#[derive(Clone, Debug)]
pub struct Options {
    /// JSON pointers to the references.
    pub pointers: Vec<String>,
    pub buckets: Buckets,
    /// Buckets that all regions read: references to them stay as they are.
    pub shared: BTreeSet<String>,
    /// What becomes of an event whose payload does not come up within `wait`.
    pub missing: Missing,
    pub wait: Duration,
    /// Objects under way at once.
    pub transfers: usize,
    /// Objects of [`LARGE_BYTES`] and more at once, besides.
    pub large_transfers: usize,
    /// Larger objects go in parts of this many bytes, and go on where they were after a failure.
    pub part_bytes: u64,
    /// How long a call that moves no bytes may take.
    pub call_timeout: Duration,
}

impl Options {
    pub fn new(config: &ClaimCheck, buckets: Buckets, call_timeout: Duration) -> Self {
        Options {
            pointers: config.reference.clone(),
            buckets,
            shared: config.shared_buckets.iter().cloned().collect(),
            missing: config.missing,
            wait: config.wait,
            transfers: config.transfers,
            large_transfers: config.large_transfers,
            part_bytes: config.part_size,
            call_timeout,
        }
    }

    /// Where the copy of an object of this region stands at the peer.
    fn destination(&self, from: &Location) -> Result<Option<Location>, Unready> {
        if self.shared.contains(&from.bucket) {
            return Ok(None);
        }
        match &self.buckets {
            Buckets::Same => match from.check() {
                Ok(()) => Ok(Some(from.clone())),
                Err(why) => Err(Unready::Never(Reason::Reference, format!("{from}: {why}"))),
            },
            Buckets::Own { home, peer } if home.as_ref() == Some(&from.bucket) => match peer {
                Some(peer) => Ok(Some(Location::new(peer, &from.key))),
                None => {
                    let why = format!("{from}: the peer has no bucket for it (region.aws.bucket)");
                    Err(Unready::Never(Reason::Reference, why))
                }
            },
            Buckets::Own { home, .. } => {
                let home = home.as_deref().unwrap_or("none");
                let why = format!(
                    "{from}: bucket `{}` is neither this region's (`{home}`) nor in claim_check.shared_buckets",
                    from.bucket
                );
                Err(Unready::Never(Reason::Reference, why))
            }
        }
    }
}

/// Why the payloads of an event are not all at the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unready {
    /// The object is not here.
    Missing(Location),
    /// All lanes for large objects are taken, or the same object is on its way for another event.
    Busy,
    /// It can never be done; says why.
    Never(Reason, String),
    Failed(Failure),
}

/// The object stores of a link's two ends.
pub struct Payloads {
    home: Arc<dyn Objects>,
    peer: Arc<dyn Objects>,
    options: Options,
    small: Semaphore,
    large: Semaphore,
    /// Places before the lanes of large objects.
    before_large: Semaphore,
    /// What is on its way, and whose turn it is.
    under_way: Mutex<BTreeMap<Location, Arc<tokio::sync::Mutex<()>>>>,
    metrics: Arc<LinkMetrics>,
}

impl Payloads {
    pub fn new(home: Arc<dyn Objects>, peer: Arc<dyn Objects>, options: Options, metrics: Arc<LinkMetrics>) -> Self {
        let permits = |count: usize| Semaphore::new(count.clamp(1, Semaphore::MAX_PERMITS));
        Payloads {
            small: permits(options.transfers),
            large: permits(options.large_transfers),
            before_large: permits(options.large_transfers.saturating_mul(WAITING_FOR_LANE)),
            under_way: Mutex::default(),
            home,
            peer,
            options,
            metrics,
        }
    }

    /// How long an event waits for a payload that is missing, and what becomes of it then.
    pub fn on_missing(&self) -> (Duration, Missing) {
        (self.options.wait, self.options.missing)
    }

    /// Makes sure that the peer has every object that `detail` refers to; answers the detail that leads to them there, if
    /// it is another one.
    ///
    /// # Errors
    /// What an event with this detail has to wait for, or why it waits in vain.
    pub async fn bring(&self, detail: &str, pacer: &Arc<Pacer>) -> Result<Option<String>, Unready> {
        let result = self.bring_all(detail, pacer).await;
        if let Err(unready) = &result {
            match unready {
                Unready::Missing(_) => {
                    marks::hit(Mark::PayloadMissing);
                    self.metrics.objects_missing.inc();
                }
                Unready::Failed(_) => {
                    marks::hit(Mark::PayloadFailed);
                    self.metrics.objects_failed.inc();
                }
                Unready::Busy | Unready::Never(..) => {}
            }
        }
        result
    }

    /// Whether the peer has a bucket for details that are too large for its hub.
    pub fn may_offload(&self) -> bool {
        matches!(&self.options.buckets, Buckets::Own { peer: Some(_), .. })
    }

    /// Writes a detail that is too large for the peer's hub into the peer's store. The object is named by what it holds, so
    /// a repeat finds it there.
    ///
    /// # Errors
    /// The peer's store does not take it, or it has no bucket for it.
    pub async fn offload(&self, home: &str, detail: &str, pacer: &Arc<Pacer>) -> Result<Offloaded, Unready> {
        let Buckets::Own { peer: Some(bucket), .. } = &self.options.buckets else {
            let why = "too large for the peer's hub, and the peer has no bucket for it (region.aws.bucket)";
            return Err(Unready::Never(Reason::TooLarge, why.to_owned()));
        };
        let sha256: [u8; 32] = Sha256::digest(detail).into();
        let at = Location::new(bucket, format!("{OFFLOADED}/{home}/{}.json", hex(&sha256)));
        let announced = Announced {
            size: detail.len() as u64,
            sums: Sums::of([Checksum::Sha256(sha256)]),
            attributes: [("content-type".to_owned(), "application/json".to_owned())].into(),
        };
        pacer.admit(0, detail.len()).await;
        let body = stream::iter([Ok(Bytes::copy_from_slice(detail.as_bytes()))]).boxed();
        let limit = self.options.call_timeout;
        match tokio::time::timeout(limit, self.peer.put(&at, announced, body)).await {
            Ok(Ok(_)) => self.metrics.object_bytes_copied.inc_by(detail.len() as u64),
            Ok(Err(Error::Exists)) => {}
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(Unready::Failed(Failure::Unanswered(format!("no answer within {limit:?}")))),
        }
        let (size, pointers) = (detail.len() as u64, self.options.pointers.clone());
        Ok(Offloaded { at, size, sha256, pointers, rest: PayloadHash([0; 32]) })
    }

    async fn bring_all(&self, detail: &str, pacer: &Arc<Pacer>) -> Result<Option<String>, Unready> {
        let found = reference::find(detail, &self.options.pointers);
        let references = found.map_err(|malformed| Unready::Never(Reason::Reference, malformed.to_string()))?;
        let mut brought: BTreeMap<Location, Location> = BTreeMap::new();
        let mut moved: Vec<(Reference, Location)> = Vec::with_capacity(references.len());
        for reference in references {
            let Some(to) = self.options.destination(&reference.target)? else { continue };
            let to = match brought.get(&reference.target) {
                Some(known) if reference.sha256.is_none() => known.clone(),
                _ => self.bring_one(&reference, to, pacer).await?,
            };
            brought.insert(reference.target.clone(), to.clone());
            moved.push((reference, to));
        }
        let changed = moved.iter().any(|(reference, to)| reference.target != *to);
        Ok(changed.then(|| reference::rewrite(detail, &moved)))
    }

    /// Answers where the object stands at the peer.
    async fn bring_one(&self, reference: &Reference, to: Location, pacer: &Arc<Pacer>) -> Result<Location, Unready> {
        let from = &reference.target;
        // Several events may refer to one object: the first brings it for all.
        let Some(_alone) = self.alone(from).await else { return Err(Unready::Busy) };
        for _ in 0..CHANGES_MAX {
            let Ok(small) = self.small.acquire().await else { return Err(Unready::Busy) };
            let transfer = Transfer { payloads: self, pacer, from, small: Mutex::new(Some(small)) };
            match self.try_once(&transfer, reference, to.clone()).await {
                Ok(at) => return Ok(at),
                Err(Stop::Changed | Stop::Exists) => marks::hit(Mark::PayloadChanged),
                Err(Stop::Unready(unready)) => return Err(unready),
            }
        }
        Err(Unready::Failed(Failure::Unanswered(format!("{from} changes while it is copied"))))
    }

    /// Keeps others from bringing the same object; `None` if another event does so for long.
    async fn alone(&self, from: &Location) -> Option<Alone<'_>> {
        let turn = {
            let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            under_way.entry(from.clone()).or_default().clone()
        };
        // Made first, so that the entry goes also where the turn never comes.
        let mut alone = Alone { under_way: &self.under_way, from: from.clone(), turn: None };
        alone.turn = Some(tokio::time::timeout(LANE_WAIT, turn.lock_owned()).await.ok()?);
        Some(alone)
    }

    /// A lane for a large object, which leaves its place among the small ones.
    async fn lane(&self, small: &Mutex<Option<SemaphorePermit<'_>>>) -> Option<SemaphorePermit<'_>> {
        drop(small.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Ok(lane) = self.large.try_acquire() {
            return Some(lane);
        }
        let _place = self.before_large.try_acquire().ok()?;
        tokio::time::timeout(LANE_PATIENCE, self.large.acquire()).await.ok()?.ok()
    }

    async fn try_once(&self, transfer: &Transfer<'_>, reference: &Reference, to: Location) -> Result<Location, Stop> {
        let from = &reference.target;
        let Some(stat) = transfer.stat(&*self.home, from).await? else {
            return Err(Stop::Unready(Unready::Missing(from.clone())));
        };
        // An older or newer object than the one that is meant: that one may still come.
        if let Some(meant) = reference.sha256
            && meant != transfer.sha256(&stat).await?
        {
            return Err(Stop::Unready(Unready::Missing(from.clone())));
        }
        if self.is_there(transfer, &stat, &to).await? {
            return Ok(to);
        }
        marks::hit(Mark::PayloadBeside);
        let beside = beside(&to, transfer.sha256(&stat).await?);
        if self.is_there(transfer, &stat, &beside).await? {
            self.metrics.objects_beside.inc();
            return Ok(beside);
        }
        let why = format!("{beside} of the peer holds other bytes than its name says, so {from} cannot go there");
        Err(Stop::Unready(Unready::Never(Reason::Reference, why)))
    }

    /// Brings the object to `to`; `false` if other bytes stand there.
    async fn is_there(&self, transfer: &Transfer<'_>, stat: &Stat, to: &Location) -> Result<bool, Stop> {
        if stat.size > SEND_FIRST_BYTES.min(self.options.part_bytes)
            && let Some(there) = transfer.stat(&*self.peer, to).await?
        {
            return self.is_same(transfer, stat, to, &there).await;
        }
        match transfer.send(stat, to).await {
            Ok(()) => {
                marks::hit(Mark::PayloadBrought);
                self.metrics.objects_copied.inc();
                self.metrics.object_bytes_copied.inc_by(stat.size);
                Ok(true)
            }
            // A copy that was there already, or came at the same time.
            Err(Stop::Exists) => match transfer.stat(&*self.peer, to).await? {
                Some(there) => self.is_same(transfer, stat, to, &there).await,
                None => Err(Stop::Changed),
            },
            Err(stop) => Err(stop),
        }
    }

    async fn is_same(&self, transfer: &Transfer<'_>, stat: &Stat, to: &Location, there: &Stat) -> Result<bool, Stop> {
        let same = match stat.same_bytes(there) {
            _ if planted::is(Bug::PayloadTakenByName) => true,
            Some(same) => same,
            None => transfer.sha256(stat).await? == transfer.sha256_at(&*self.peer, to, there).await?,
        };
        if same {
            marks::hit(Mark::PayloadPresent);
            self.metrics.objects_present.inc();
        }
        Ok(same)
    }
}

/// Keeps others from bringing the same object while it lives.
struct Alone<'a> {
    under_way: &'a Mutex<BTreeMap<Location, Arc<tokio::sync::Mutex<()>>>>,
    from: Location,
    turn: Option<OwnedMutexGuard<()>>,
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.turn = None;
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if under_way.get(&self.from).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            under_way.remove(&self.from);
        }
    }
}

/// Where the copy goes if other bytes stand at `to`.
fn beside(to: &Location, sha256: [u8; 32]) -> Location {
    let hex = hex(&sha256);
    let key = format!("{}.{hex}", to.key);
    // A key that has no room for more.
    let key = if key.len() > KEY_BYTES_MAX { format!("hubweave/{hex}") } else { key };
    Location::new(&to.bucket, key)
}

/// How long until a payload that is missing is looked for again: soon at first, as most come up a moment after their
/// event.
pub fn look_again(attempts: u32) -> Duration {
    (Duration::from_millis(100) * 2u32.saturating_pow(attempts.min(10))).min(LOOK_MAX)
}

impl From<Error> for Unready {
    fn from(error: Error) -> Self {
        match error {
            Error::Failure(failure) => Unready::Failed(failure),
            other => Unready::Failed(Failure::Unanswered(other.to_string())),
        }
    }
}

#[cfg(test)]
mod tests;
