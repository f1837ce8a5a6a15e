//! Everything a region knows of one event, for the person who asks where it is.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Agent, errand, inbox::read_state};
use crate::{
    core::{event::Record, journal::Change, key::KeyHash, time::Timestamp},
    ports::hub::ReadError,
};

#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    pub region: String,
    /// In order of time.
    pub entries: Vec<Entry>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Entry {
    /// `accepted`, `applied`, `forwarded`, `waiting`, `held`, `filtered`, `duplicate`, `conflict`,
    /// `dead_lettered`, `discarded`; on managed services also `claimed`, `unknown`.
    pub what: &'static str,
    pub at: String,
    pub offset: Option<u64>,
    pub id: Option<String>,
    pub source: Option<String>,
    pub detail_type: Option<String>,
    pub origin: Option<String>,
    /// `home -> peer`.
    pub link: Option<String>,
    /// The id of the trace that the event belongs to, where it came in.
    pub trace: Option<String>,
    pub reason: Option<String>,
    #[serde(skip)]
    pub(super) time: Timestamp,
}

impl Agent {
    /// Looks through the whole log: a key alone does not say under which source and detail-type it is kept.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn explain(&self, key: &str) -> Result<Explanation, errand::Error> {
        let mut entries = Vec::new();
        let records = self.find(key).await?;
        for record in &records {
            entries.push(self.taken_in(record));
        }
        let key_hashes: Vec<KeyHash> = records.iter().map(|record| record.header.key_hash).collect();
        let changes = self.changes_about(&records, &key_hashes).await?;
        for record in records.iter().filter(|record| record.header.is_local_business()) {
            self.sent_on(record, &changes, &mut entries);
        }
        for change in &changes {
            match change {
                Change::Suppressed { sender, key, at, same_payload, .. } if key_hashes.contains(key) => {
                    let what = if *same_payload { "duplicate" } else { "conflict" };
                    let link = Some(format!("{sender} -> {}", self.region));
                    entries.push(Entry { what, link, ..Entry::at(*at) });
                }
                _ => {}
            }
        }
        let letters: Vec<_> = read_state(&*self.hub, |state| {
            state.letters.values().map(|(letter, _)| letter).filter(|letter| letter.key == key).cloned().collect()
        });
        for letter in letters {
            entries.push(Entry {
                what: "dead_lettered",
                offset: Some(letter.sequence),
                link: Some(format!("{} -> {}", self.region, letter.peer)),
                reason: Some(letter.reason.as_str().to_owned()),
                source: Some(letter.source),
                detail_type: Some(letter.detail_type),
                ..Entry::at(letter.dead)
            });
        }
        entries.sort_by_key(|entry| entry.time);
        Ok(Explanation { region: self.region.clone(), entries })
    }

    /// Of all changes in the log, those that tell of these events: suppressed arrivals, and for each link the first
    /// progress past each event.
    async fn changes_about(&self, records: &[Record], keys: &[KeyHash]) -> Result<Vec<Change>, errand::Error> {
        let mut passed = BTreeSet::new();
        let mut keep = |change: &Change| match change {
            Change::Suppressed { key, .. } => keys.contains(key),
            Change::Progress { peer, progress } => {
                let past = records.iter().map(|record| record.header.offset).filter(|at| *at <= progress.cursor);
                past.map(|at| passed.insert((peer.clone(), at))).filter(|first| *first).count() > 0
            }
            _ => false,
        };
        Ok(self.hub.reader(self.hub.base()).changes(&mut keep).await?)
    }

    async fn find(&self, key: &str) -> Result<Vec<Record>, errand::Error> {
        let mut reader = self.hub.reader(self.hub.base());
        let mut found = Vec::new();
        loop {
            let records = match reader.next(8192, 4 << 20).await {
                Ok(records) => records,
                Err(ReadError::Dropped { base, .. }) => {
                    reader.seek(base);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if records.is_empty() {
                return Ok(found);
            }
            found.extend(records.into_iter().filter(|record| record.key() == key));
        }
    }

    fn taken_in(&self, record: &Record) -> Entry {
        let header = &record.header;
        Entry {
            what: if header.is_remote() { "applied" } else { "accepted" },
            offset: Some(header.offset),
            id: Some(self.id(record)),
            source: Some(record.source().to_owned()),
            detail_type: Some(record.detail_type().to_owned()),
            origin: record.origin_region().map(str::to_owned),
            link: record.origin_region().map(|origin| format!("{origin} -> {}", self.region)),
            trace: record.trace_id(),
            reason: header.is_repaired().then(|| "by a repair".to_owned()),
            ..Entry::at(header.accepted)
        }
    }

    /// What each link did with an event of this region.
    fn sent_on(&self, record: &Record, changes: &[Change], entries: &mut Vec<Entry>) {
        let offset = record.header.offset;
        for (name, link) in &self.links {
            let view = link.view();
            let entry = |what, at| Entry {
                what,
                offset: Some(offset),
                link: Some(format!("{} -> {name}", self.region)),
                ..Entry::at(at)
            };
            let key = record.header.key_hash;
            let (dead, discarded) = read_state(&*self.hub, |state| {
                let discarded = state.discarded.iter().any(|(peer, given_up)| peer == name && *given_up == key);
                (state.letter_of(name, offset).is_some(), discarded)
            });
            let passed = changes.iter().find_map(|change| match change {
                Change::Progress { peer, progress } if peer == name && progress.cursor >= offset => Some(progress.at),
                _ => None,
            });
            let now = self.clock.now();
            if dead {
                continue;
            }
            entries.push(if view.held.contains(&offset) {
                entry("held", now)
            } else if discarded {
                entry("discarded", passed.unwrap_or(now))
            } else if view.cursor < offset {
                entry("waiting", now)
            } else if !link.selects(record, &self.region, &*self.hub) {
                entry("filtered", passed.unwrap_or(record.header.accepted))
            } else {
                // Written down a few times a second: not earlier than this, and at most so much later.
                entry("forwarded", passed.unwrap_or(now))
            });
        }
    }
}

impl Entry {
    pub(super) fn at(time: Timestamp) -> Entry {
        Entry { at: time.to_rfc3339(), time, ..Entry::default() }
    }
}
