//! Objects that are not here yet, read from a peer (`claim_check.read_through`). Nothing is kept: the link brings them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};

use crate::{
    core::object::{Location, hex},
    ports::{objects::Objects, store::Object},
};

/// How long all peers together may take to say whether they have it.
const PATIENCE: Duration = Duration::from_secs(2);

/// The object stores of the peers, by region.
#[derive(Clone, Default)]
pub struct Elsewhere(pub BTreeMap<String, Arc<dyn Objects>>);

/// An object at a peer.
pub struct Found {
    pub object: Object,
    pub peer: String,
    pub store: Arc<dyn Objects>,
}

impl Elsewhere {
    /// The first peer's that has it. Peers that do not answer in time have nothing.
    pub async fn find(&self, at: &Location) -> Option<Found> {
        let mut answers: FuturesUnordered<_> =
            self.0.iter().map(async |(peer, store)| (peer, store, store.stat(at).await)).collect();
        let first = async {
            while let Some((peer, store, answer)) = answers.next().await {
                match answer {
                    Ok(Some(stat)) => {
                        // A peer does not say its ETag. This one is no MD5, and nobody takes it for one.
                        let etag = stat.sums.sha256().map_or_else(|| stat.version.clone(), |sum| hex(&sum));
                        let object = Object { stat, etag };
                        return Some(Found { object, peer: peer.clone(), store: store.clone() });
                    }
                    Ok(None) => {}
                    Err(error) => tracing::debug!(peer, %error, "a peer does not say whether it has an object"),
                }
            }
            None
        };
        tokio::time::timeout(PATIENCE, first).await.ok().flatten()
    }
}
