//! What a region on managed services knows of one key: the rows of its own ledger and of its peers', and its dead letters.
//!
//! A ledger has hashes of (source, detail-type, key). Where the asker knows only the key, it is looked for under every kind
//! of event that this agent has seen since it started.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{CALL_TIMEOUT, Error, Managed, letters};
use crate::{
    agent::{explain::Entry, rounds::within},
    core::{key::KeyHash, link::Failure},
    ports::claims::{Claims, Row, State},
};

/// What is asked.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    pub key: String,
    #[serde(default)]
    pub source: Option<String>,
    #[serde(default)]
    pub detail_type: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ManagedExplanation {
    pub region: String,
    /// In order of time.
    pub entries: Vec<Entry>,
    /// Under how many pairs of source and detail-type the key was looked for.
    pub looked_under: usize,
}

impl Managed {
    /// # Errors
    /// The region's own ledger does not answer. A peer's ledger or a dead-letter queue that does not is an entry that
    /// says so.
    pub async fn explain(&self, asked: &Asked) -> Result<ManagedExplanation, Error> {
        let selection = letters::Selection { key: Some(asked.key.clone()), ..letters::Selection::default() };
        // The ledgers are worth knowing also while a queue does not answer.
        let walked = self.find(&selection, |_| ()).await;
        let mut entries: Vec<Entry> = Vec::new();
        let dead = match walked {
            Ok((dead, _)) => dead,
            Err(error) => {
                let reason = Some(error.to_string());
                entries.push(Entry { what: "unknown", reason, ..Entry::at(self.clock.now()) });
                Vec::new()
            }
        };
        let kinds = match (&asked.source, &asked.detail_type) {
            (Some(source), Some(detail_type)) => BTreeSet::from([(source.clone(), detail_type.clone())]),
            (source, detail_type) => {
                let mut kinds = self.kinds.fitting(source.as_deref(), detail_type.as_deref());
                kinds.extend(dead.iter().map(|(letter, ())| (letter.source.clone(), letter.detail_type.clone())));
                kinds
            }
        };
        let kinds: Vec<(String, String)> = kinds.into_iter().collect();
        let keys: Vec<KeyHash> =
            kinds.iter().map(|(source, detail_type)| KeyHash::of(source, detail_type, &asked.key)).collect();
        let own = rows(&*self.claims, &keys).await.map_err(Error::Ledger)?;
        for (kind, row) in kinds.iter().zip(&own) {
            entries.extend(row.as_ref().map(|row| self.of_own(kind, row)));
        }
        for (peer, link) in &self.links {
            let name = Some(format!("{} -> {peer}", self.region));
            match rows(&*link.ports.claims, &keys).await {
                Ok(theirs) => {
                    for ((kind, own), theirs) in kinds.iter().zip(&own).zip(&theirs) {
                        let entry = self.of_peer(own.as_ref(), theirs.as_ref());
                        entries.extend(entry.map(|entry| Entry { link: name.clone(), ..with_kind(entry, kind) }));
                    }
                }
                Err(failure) => {
                    let reason = Some(format!("the peer's ledger: {failure}"));
                    entries.push(Entry { what: "unknown", link: name, reason, ..Entry::at(self.clock.now()) });
                }
            }
        }
        for (letter, ()) in dead {
            entries.push(Entry {
                what: "dead_lettered",
                link: Some(format!("{} -> {}", self.region, letter.peer)),
                reason: Some(letter.reason),
                source: Some(letter.source),
                detail_type: Some(letter.detail_type),
                trace: letter.trace,
                ..Entry::at(letter.dead_at)
            });
        }
        entries.sort_by_key(|entry| entry.time);
        Ok(ManagedExplanation { region: self.region.clone(), entries, looked_under: kinds.len() })
    }

    /// A row of this region's own ledger.
    fn of_own(&self, kind: &(String, String), row: &Row) -> Entry {
        let home = row.origin == self.region;
        let (what, id) = match &row.state {
            State::Done { id } => (if home { "accepted" } else { "applied" }, id.clone()),
            State::Claimed { .. } => ("claimed", None),
        };
        let link = (!home).then(|| format!("{} -> {}", row.origin, self.region));
        with_kind(Entry { what, id, origin: (!home).then(|| row.origin.clone()), link, ..Entry::at(row.at) }, kind)
    }

    /// What a peer's ledger says of an event of this region; nothing of what came from elsewhere.
    fn of_peer(&self, own: Option<&Row>, theirs: Option<&Row>) -> Option<Entry> {
        let own = own.filter(|row| row.origin == self.region);
        match (own, theirs) {
            (own, Some(theirs)) if theirs.origin == self.region => {
                let entry = |what, reason: Option<&str>| Entry {
                    what,
                    reason: reason.map(str::to_owned),
                    ..Entry::at(theirs.at)
                };
                Some(match &theirs.state {
                    State::Claimed { .. } => entry("claimed", None),
                    State::Done { .. } if own.is_some_and(|own| own.payload != theirs.payload) => {
                        entry("conflict", Some("the peer has another payload under this key"))
                    }
                    State::Done { id } => Entry { id: id.clone(), ..entry("forwarded", None) },
                })
            }
            (Some(own), Some(theirs)) => Some(Entry {
                what: if own.payload == theirs.payload { "duplicate" } else { "conflict" },
                reason: Some(format!("the peer has it from {}", theirs.origin)),
                ..Entry::at(theirs.at)
            }),
            (Some(own), None) => Some(Entry {
                what: "waiting",
                reason: Some("not in the peer's ledger: on its way, filtered, or a dead letter".to_owned()),
                ..Entry::at(own.at)
            }),
            (None, _) => None,
        }
    }
}

fn with_kind(entry: Entry, (source, detail_type): &(String, String)) -> Entry {
    Entry { source: Some(source.clone()), detail_type: Some(detail_type.clone()), ..entry }
}

async fn rows(claims: &dyn Claims, keys: &[KeyHash]) -> Result<Vec<Option<Row>>, Failure> {
    match keys {
        [] => Ok(Vec::new()),
        keys => within(CALL_TIMEOUT, claims.get(keys.to_vec())).await,
    }
}
