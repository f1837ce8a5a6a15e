//! One object on its way to the peer's store.

use std::{
    ops::Range,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::sync::SemaphorePermit;

use super::{LARGE_BYTES, Payloads, Unready};
use crate::{
    agent::pacer::Pacer,
    core::{key::hex, link::Failure, object::Location},
    marks::{self, Mark},
    ports::objects::{Announced, Body, Checksum, Error, Objects, Stat, Upload},
};

/// A transfer that is slower than this many bytes a second is taken for stuck.
const SLOWEST_BYTES_PER_SECOND: u64 = 64 << 10;

/// Parts of one object under way at once.
const PARTS_AT_ONCE: usize = 4;

/// Parts that an upload may have: one less than S3 takes, as the adapter keeps a part for itself.
const PARTS_MAX: u64 = 9_999;

pub(super) struct Transfer<'a> {
    pub payloads: &'a Payloads,
    pub pacer: &'a Arc<Pacer>,
    pub from: &'a Location,
    /// Its place among the small objects.
    pub small: Mutex<Option<SemaphorePermit<'a>>>,
}

/// Why a transfer did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Something changed meanwhile: look again.
    Changed,
    /// Something stands there already.
    Exists,
    Unready(Unready),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        match error {
            Error::Gone => Stop::Changed,
            Error::Exists => Stop::Exists,
            Error::Damaged(_) | Error::Failure(_) => Stop::Unready(error.into()),
        }
    }
}

impl Transfer<'_> {
    pub async fn stat(&self, store: &dyn Objects, at: &Location) -> Result<Option<Stat>, Stop> {
        self.within(0, store.stat(at)).await
    }

    /// The checksum of the object at home, read if the store does not have it.
    pub async fn sha256(&self, stat: &Stat) -> Result<[u8; 32], Stop> {
        self.sha256_at(&*self.payloads.home, self.from, stat).await
    }

    pub async fn sha256_at(&self, store: &dyn Objects, at: &Location, stat: &Stat) -> Result<[u8; 32], Stop> {
        if let Some(known) = stat.sums.sha256() {
            return Ok(known);
        }
        let read = async {
            let mut body = store.read(at, &stat.version, 0..stat.size).await?;
            let mut hasher = Sha256::new();
            while let Some(bytes) = body.try_next().await? {
                hasher.update(&bytes);
            }
            Ok(hasher.finalize().into())
        };
        self.within(stat.size, read).await
    }

    /// Writes the object to `to`, where nothing stands.
    pub async fn send(&self, stat: &Stat, to: &Location) -> Result<(), Stop> {
        let payloads = self.payloads;
        let _large = match stat.size >= LARGE_BYTES {
            true => Some(payloads.lane(&self.small).await.ok_or(Stop::Unready(Unready::Busy))?),
            false => None,
        };
        let Transfer { from, .. } = self;
        if self.within(stat.size, payloads.peer.copy(from, stat, to)).await?.is_some() {
            return Ok(());
        }
        let mut announced = Announced::copy_of(stat);
        if announced.sums.iter().next().is_none() {
            announced.sums.add(Checksum::Sha256(self.sha256(stat).await?));
        }
        let sent = match stat.size > payloads.options.part_bytes {
            true => self.in_parts(stat, to, announced).await,
            false => self.at_once(stat, to, announced).await,
        };
        if let Err(Stop::Unready(Unready::Failed(Failure::Unanswered(why)))) = &sent {
            tracing::debug!(%from, %to, why, "an object did not get through");
        }
        sent
    }

    async fn at_once(&self, stat: &Stat, to: &Location, announced: Announced) -> Result<(), Stop> {
        let payloads = self.payloads;
        let sending = async {
            let body = self.paced(payloads.home.read(self.from, &stat.version, 0..stat.size).await?);
            payloads.peer.put(to, announced, body).await
        };
        self.within(stat.size, sending).await.map(drop)
    }

    async fn in_parts(&self, stat: &Stat, to: &Location, announced: Announced) -> Result<(), Stop> {
        let peer = &*self.payloads.peer;
        // Another version of the object, or other parts, is another upload.
        let part = self.payloads.options.part_bytes.max(stat.size.div_ceil(PARTS_MAX));
        let what = format!("{} {} {} {part}", self.from, stat.version, stat.size);
        let tag = hex(&Sha256::digest(what));
        let upload = self.within(0, peer.begin(to, &announced, &tag)).await?;
        let parts = u32::try_from(stat.size.div_ceil(part)).unwrap_or(u32::MAX);
        let range = |number: u32| {
            let start = u64::from(number - 1) * part;
            start..stat.size.min(start + part)
        };
        let missing = (1..=parts).filter(|number| {
            let Range { start, end } = range(*number);
            upload.parts.get(number) != Some(&(end - start))
        });
        let sent = stream::iter(missing.map(Ok::<u32, Stop>))
            .try_for_each_concurrent(PARTS_AT_ONCE, |number| self.part(stat, to, &upload, number, range(number)))
            .await;
        if sent == Err(Stop::Changed) {
            // Nobody will ever finish it.
            let _ = self.within(0, peer.abort(to, &upload)).await;
        }
        sent?;
        // The store reads all of it once more.
        self.within(stat.size, peer.finish(to, &upload, parts, announced)).await.map(drop)
    }

    async fn part(
        &self,
        stat: &Stat,
        to: &Location,
        upload: &Upload,
        number: u32,
        range: Range<u64>,
    ) -> Result<(), Stop> {
        let size = range.end - range.start;
        let Payloads { home, peer, .. } = self.payloads;
        let sending = async {
            let body = self.paced(home.read(self.from, &stat.version, range).await?);
            peer.put_part(to, upload, number, size, body).await
        };
        self.within(size, sending).await
    }

    /// The same bytes, at the link's pace. Piece by piece, so that events are not kept waiting for a large object.
    fn paced(&self, body: Body) -> Body {
        let (pacer, metrics) = (self.pacer.clone(), self.payloads.metrics.clone());
        body.then(move |piece| {
            let (pacer, metrics) = (pacer.clone(), metrics.clone());
            async move {
                if let Ok(bytes) = &piece {
                    metrics.rate_limited_seconds.inc_by(pacer.admit(0, bytes.len()).await.as_secs_f64());
                }
                piece
            }
        })
        .boxed()
    }

    /// Ends a call that does not end by itself.
    async fn within<T>(&self, bytes: u64, call: impl Future<Output = Result<T, Error>>) -> Result<T, Stop> {
        let limit = self.payloads.options.call_timeout + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND);
        let result = match tokio::time::timeout(limit, call).await {
            Ok(result) => result,
            Err(_) => Err(Failure::Unanswered(format!("no answer within {limit:?}")).into()),
        };
        if let Err(Error::Damaged(why)) = &result {
            marks::hit(Mark::PayloadDamaged);
            self.payloads.metrics.objects_damaged.inc();
            tracing::warn!(from = %self.from, why, "a copy was refused, as it was not what was sent; it is sent again");
        }
        Ok(result?)
    }
}
