//! Having the documents do without a region that does not come back.

use futures::{FutureExt, future::BoxFuture};
use serde::Serialize;

use super::{
    Agent,
    documents::{LocalDocuments, managed::ManagedDocuments},
    managed::Managed,
    regions::Regions,
};
use crate::{
    core::{
        region::State,
        state::standing::{Eviction, Standing},
        time::Timestamp,
    },
    ports::documents::Error,
};

/// Why a region is not evicted; nothing is changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotEvicted {
    #[error("region `{0}` is not in the topology file")]
    Unknown(String),
    #[error("{0} cannot evict itself: ask another region's agent")]
    Itself(String),
    #[error("the topology file has no document types")]
    NoDocuments,
    #[error(
        "{region} is {state}: only a region that is evacuated can be evicted; `hubweave failover execute --region {region} \
         --mode ungraceful` comes first", state = .state.as_str()
    )]
    Serves { region: String, state: State },
    #[error(transparent)]
    Documents(#[from] Error),
}

/// A region that the documents do without.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Evicted {
    pub region: String,
    /// Counts its evictions.
    pub term: u64,
    /// It has begun anew, and takes part.
    pub back: bool,
    /// RFC 3339.
    pub at: String,
    pub by: String,
    pub reason: String,
}

/// The documents of a region, as far as evictions are about them.
trait Standings: Send + Sync {
    fn standing(&self) -> BoxFuture<'_, Result<Standing, Error>>;

    fn evict(&self, region: String, eviction: Eviction) -> BoxFuture<'_, Result<Standing, Error>>;
}

impl Standings for LocalDocuments {
    fn standing(&self) -> BoxFuture<'_, Result<Standing, Error>> {
        self.standing().boxed()
    }

    fn evict(&self, region: String, eviction: Eviction) -> BoxFuture<'_, Result<Standing, Error>> {
        self.evict(region, eviction).boxed()
    }
}

impl Standings for ManagedDocuments {
    fn standing(&self) -> BoxFuture<'_, Result<Standing, Error>> {
        self.standing().boxed()
    }

    fn evict(&self, region: String, eviction: Eviction) -> BoxFuture<'_, Result<Standing, Error>> {
        self.evict(region, eviction).boxed()
    }
}

/// What operators ask of an agent about evictions.
pub struct Evictions<'a> {
    regions: &'a Regions,
    documents: Option<&'a dyn Standings>,
    now: Timestamp,
}

impl Agent {
    pub fn evictions(&self) -> Evictions<'_> {
        let documents = self.documents.as_ref().map(|documents| documents as &dyn Standings);
        Evictions { regions: &self.regions, documents, now: self.clock.now() }
    }
}

impl Managed {
    pub fn evictions(&self) -> Evictions<'_> {
        let documents = self.documents.as_ref().map(|documents| documents as &dyn Standings);
        Evictions { regions: &self.regions, documents, now: self.clock.now() }
    }
}

impl Evictions<'_> {
    /// Why the documents cannot do without `region`, if they cannot.
    ///
    /// # Errors
    /// See [`NotEvicted`].
    pub fn may_evict(&self, region: &str) -> Result<(), NotEvicted> {
        self.check(region).map(drop)
    }

    fn check(&self, region: &str) -> Result<&dyn Standings, NotEvicted> {
        let regions = self.regions;
        if !regions.members.contains(region) {
            return Err(NotEvicted::Unknown(region.to_owned()));
        }
        if region == regions.home {
            return Err(NotEvicted::Itself(region.to_owned()));
        }
        let documents = self.documents.ok_or(NotEvicted::NoDocuments)?;
        match regions.view().state(region, &regions.members) {
            State::Evacuated => Ok(documents),
            state => Err(NotEvicted::Serves { region: region.to_owned(), state }),
        }
    }

    /// Has the documents of all regions do without `region`: what is deleted is forgotten without its having seen it, and
    /// what it has is not merged any more. Durable here when it is answered; the others learn it as they compare. One that
    /// stands is left as it is.
    ///
    /// # Errors
    /// See [`NotEvicted`]; nothing is changed.
    pub async fn evict(&self, region: &str, by: &str, reason: &str) -> Result<Vec<Evicted>, NotEvicted> {
        let documents = self.check(region)?;
        let eviction = Eviction {
            term: 0,
            back: false,
            of: self.regions.view().ballot_of(region),
            at: self.now,
            by: by.to_owned(),
            reason: reason.to_owned(),
        };
        Ok(shown(&documents.evict(region.to_owned(), eviction).await?))
    }

    /// The evictions that are known here.
    ///
    /// # Errors
    /// The documents do not answer, or there are none.
    pub async fn evicted(&self) -> Result<Vec<Evicted>, NotEvicted> {
        let documents = self.documents.ok_or(NotEvicted::NoDocuments)?;
        Ok(shown(&documents.standing().await?))
    }
}

fn shown(standing: &Standing) -> Vec<Evicted> {
    let shown = standing.0.iter().map(|(region, eviction)| Evicted {
        region: region.clone(),
        term: eviction.term,
        back: eviction.back,
        at: eviction.at.to_rfc3339(),
        by: eviction.by.clone(),
        reason: eviction.reason.clone(),
    });
    shown.collect()
}
