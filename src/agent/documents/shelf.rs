//! The documents at hand: what was looked at or changed lately, above the rows on disk.
//!
//! The hub's log is what makes a request durable; the rows are an index of it, written now and then with the place in the
//! log up to which they go. After a crash the log is read again from there.
//!
//! ```text
//! d place type 0 id   digest                       documents, tombstones left out
//! r place type 0 id   the document and what waits  all
//! t place type 0 id   time of the last write       tombstones
//! m                   cursor, alive, hlc
//! m s                 evictions
//! m w                 the last time that the region was away for long
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    engine::{Kept, Woken},
    form::{decode, encode},
};
use crate::{
    core::{
        state::{
            Key,
            delta::{Delta, Unreadable},
            digest::{BUCKET_BITS, Digest, Sums, bucket},
            document::Document,
        },
        time::Timestamp,
    },
    ports::{
        documents::{Listed, Total},
        rows::{Change, Error, Rows},
    },
};

/// Documents that stay at hand when they are on disk.
const CLEAN_MAX: usize = 20_000;

/// Requests that a document remembers; beyond it the oldest are forgotten when it goes to disk.
const REQUESTS_MAX: usize = 10_000;

/// Rows that are read at once.
const SCAN_ROWS: usize = 1_000;

const DIGESTS: u8 = b'd';
const ROWS: u8 = b'r';
const TOMBSTONES: u8 = b't';
const META: u8 = b'm';
const STANDING: [u8; 2] = [META, b's'];
const WOKEN: [u8; 2] = [META, b'w'];

/// A document, and deltas that came before what they stand on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    pub document: Document,
    pub parked: Vec<Delta>,
    /// As it stands in the sums.
    digest: Option<Digest>,
    /// It stands in the rows as a tombstone.
    was_tombstone: bool,
}

/// Where the rows are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The log is in the rows up to this offset.
    pub cursor: u64,
    /// When that was.
    pub alive: Timestamp,
    /// The latest time that was given out.
    pub hlc: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Row {
    document: Vec<u8>,
    parked: Vec<Delta>,
}

pub struct Shelf {
    rows: Arc<dyn Rows>,
    entries: BTreeMap<Key, Entry>,
    /// Whose digest is not that of the sums.
    stale: BTreeSet<Key>,
    dirty: BTreeSet<Key>,
    sums: Sums,
    counts: BTreeMap<String, u64>,
    tombstones: BTreeMap<String, i64>,
}

/// Why a document is not at hand.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error(transparent)]
    Rows(#[from] Error),
    #[error("the row of {0}: {1}")]
    Row(String, String),
}

fn place(table: u8, key: &Key) -> Vec<u8> {
    [&[table][..], &key.place().to_be_bytes(), key.of.as_bytes(), &[0], key.id.as_bytes()].concat()
}

/// The key of a row; `None` of what this build does not write.
fn key_of(row: &[u8]) -> Option<Key> {
    let rest = row.get(3..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    let (of, id) = (std::str::from_utf8(&rest[..end]).ok()?, std::str::from_utf8(&rest[end + 1..]).ok()?);
    Some(Key::new(of, id))
}

impl Entry {
    /// As of the last look at the sums.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }
}

impl Shelf {
    /// Reads the sums together.
    ///
    /// # Errors
    /// The rows cannot be read.
    pub async fn open(rows: Arc<dyn Rows>) -> Result<(Shelf, Option<Meta>), Broken> {
        let mut shelf = Shelf {
            rows,
            entries: BTreeMap::new(),
            stale: BTreeSet::new(),
            dirty: BTreeSet::new(),
            sums: Sums::default(),
            counts: BTreeMap::new(),
            tombstones: BTreeMap::new(),
        };
        let meta = shelf.rows.get(vec![vec![META]]).await?.pop().flatten();
        let meta = meta.map(|bytes| {
            decode::<Meta>(&bytes).map_err(|error| Broken::Row("the cursor".to_owned(), error.to_string()))
        });
        let mut from = vec![DIGESTS];
        loop {
            let (listed, next) = shelf.scan_digests(from, vec![DIGESTS + 1], SCAN_ROWS).await?;
            for Listed { key, digest } in listed {
                shelf.sums.change(bucket(&key), None, Some(digest));
                *shelf.counts.entry(key.of).or_default() += 1;
            }
            match next {
                Some(next) => from = next,
                None => break,
            }
        }
        let mut from = vec![TOMBSTONES];
        loop {
            let found = shelf.rows.scan(from, vec![TOMBSTONES + 1], SCAN_ROWS).await?;
            found.iter().filter_map(|(row, _)| key_of(row)).for_each(|key| shelf.count_tombstone(&key, 1));
            match found.last() {
                Some((last, _)) => from = after(last),
                None => break,
            }
        }
        Ok((shelf, meta.transpose()?))
    }

    /// What is noted of evictions.
    ///
    /// # Errors
    /// The rows failed, or the note cannot be read.
    pub async fn kept(&self) -> Result<Option<Kept>, Broken> {
        self.note(&STANDING, "the note of evictions").await
    }

    /// Notes it, durably.
    ///
    /// # Errors
    /// The rows failed.
    pub async fn keep(&self, kept: &Kept) -> Result<(), Broken> {
        Ok(self.rows.commit(vec![(STANDING.to_vec(), Some(encode(kept)))]).await?)
    }

    /// What is noted of being away.
    ///
    /// # Errors
    /// The rows failed, or the note cannot be read.
    pub async fn woken(&self) -> Result<Option<Woken>, Broken> {
        self.note(&WOKEN, "the note of being away").await
    }

    async fn note<T: DeserializeOwned>(&self, place: &[u8], what: &str) -> Result<Option<T>, Broken> {
        let note = self.rows.get(vec![place.to_vec()]).await?.pop().flatten();
        let note = note.map(|bytes| decode(&bytes));
        note.transpose().map_err(|error| Broken::Row(what.to_owned(), error.to_string()))
    }

    /// Notes it, durably.
    ///
    /// # Errors
    /// The rows failed.
    pub async fn note_woken(&self, woken: &Woken) -> Result<(), Broken> {
        Ok(self.rows.commit(vec![(WOKEN.to_vec(), Some(encode(woken)))]).await?)
    }

    /// Everything goes but those notes: the rows are too old to be merged with what others have.
    ///
    /// # Errors
    /// The rows failed.
    pub async fn discard(&mut self) -> Result<u64, Broken> {
        let mut gone = 0;
        for table in [DIGESTS, ROWS, TOMBSTONES] {
            loop {
                let found = self.rows.scan(vec![table], vec![table + 1], SCAN_ROWS).await?;
                if found.is_empty() {
                    break;
                }
                gone += if table == ROWS { found.len() as u64 } else { 0 };
                self.rows.commit(found.into_iter().map(|(row, _)| (row, None)).collect()).await?;
            }
        }
        self.entries.clear();
        self.stale.clear();
        self.dirty.clear();
        (self.sums, self.counts, self.tombstones) = (Sums::default(), BTreeMap::new(), BTreeMap::new());
        Ok(gone)
    }

    /// Brings documents to hand.
    ///
    /// # Errors
    /// The rows failed, or one is damaged.
    pub async fn load(&mut self, keys: impl IntoIterator<Item = &Key>) -> Result<(), Broken> {
        let missing: BTreeSet<&Key> = keys.into_iter().filter(|key| !self.entries.contains_key(key)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let rows = missing.iter().flat_map(|key| [place(ROWS, key), place(DIGESTS, key)]).collect();
        let found = self.rows.get(rows).await?;
        for (key, rows) in missing.into_iter().zip(found.chunks(2)) {
            let [row, digest] = rows else { continue };
            let digest = digest.as_ref().and_then(|bytes| decode(bytes).ok());
            let entry = match row {
                Some(bytes) => read_row(key, bytes, digest)?,
                None => Entry { digest, ..Entry::default() },
            };
            self.entries.insert(key.clone(), entry);
        }
        Ok(())
    }

    /// A document that was brought to hand.
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// A document that was brought to hand, to be changed.
    pub fn change(&mut self, key: &Key) -> &mut Entry {
        self.stale.insert(key.clone());
        self.dirty.insert(key.clone());
        self.entries.entry(key.clone()).or_default()
    }

    /// Puts a document back as it was before a change that did not come about.
    pub fn restore(&mut self, key: &Key, before: Entry) {
        self.stale.insert(key.clone());
        self.entries.insert(key.clone(), before);
    }

    pub fn dirty(&self) -> usize {
        self.dirty.len()
    }

    /// Brings the sums up to date.
    fn refresh(&mut self) {
        for key in std::mem::take(&mut self.stale) {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            let digest = Digest::of(&key, &entry.document);
            let before = std::mem::replace(&mut entry.digest, digest);
            self.sums.change(bucket(&key), before, digest);
            let count = self.counts.entry(key.of.clone()).or_default();
            match (before, digest) {
                (None, Some(_)) => *count += 1,
                (Some(_), None) => *count = count.saturating_sub(1),
                _ => {}
            }
        }
    }

    pub fn sums(&mut self) -> &Sums {
        self.refresh();
        &self.sums
    }

    pub fn counts(&mut self) -> &BTreeMap<String, u64> {
        self.refresh();
        &self.counts
    }

    /// How many tombstones each type has on disk.
    pub fn tombstones(&self) -> &BTreeMap<String, i64> {
        &self.tombstones
    }

    pub fn total(&mut self) -> Total {
        let digest = self.sums().of(crate::core::state::digest::Range::ALL).unwrap_or_default();
        Total { documents: self.counts.values().sum(), digest }
    }

    fn count_tombstone(&mut self, key: &Key, by: i64) {
        *self.tombstones.entry(key.of.clone()).or_default() += by;
    }

    /// Has documents that changed forget old requests; answers how many of them were not old yet, but too many.
    pub fn forget_requests(&mut self, before: Timestamp) -> usize {
        let mut forgotten = 0;
        for key in &self.dirty {
            if let Some(entry) = self.entries.get_mut(key) {
                forgotten += entry.document.forget_requests(before, REQUESTS_MAX);
            }
        }
        forgotten
    }

    /// Writes down what changed, and how far that is.
    ///
    /// # Errors
    /// The rows failed: what they hold is unknown.
    pub async fn flush(&mut self, meta: Meta) -> Result<(), Broken> {
        self.refresh();
        let mut changes: Vec<Change> = Vec::new();
        for key in std::mem::take(&mut self.dirty) {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            let is_nothing = entry.document == Document::default() && entry.parked.is_empty();
            let is_tombstone = !is_nothing && entry.document.is_tombstone();
            let row = Row { document: entry.document.encode(), parked: entry.parked.clone() };
            changes.push((place(ROWS, &key), (!is_nothing).then(|| encode(&row))));
            changes.push((place(DIGESTS, &key), entry.digest.map(|digest| encode(&digest))));
            let newest = entry.document.newest();
            changes.push((place(TOMBSTONES, &key), is_tombstone.then(|| encode(&newest))));
            let was = std::mem::replace(&mut entry.was_tombstone, is_tombstone);
            self.count_tombstone(&key, i64::from(is_tombstone) - i64::from(was));
        }
        changes.push((vec![META], Some(encode(&meta))));
        self.rows.commit(changes).await?;
        if self.entries.len() > CLEAN_MAX {
            self.entries.clear();
        }
        Ok(())
    }

    /// Drops a tombstone; nothing of it stays. It must be at hand.
    pub fn forget(&mut self, key: &Key) {
        let entry = self.change(key);
        (entry.document, entry.parked) = (Document::default(), Vec::new());
    }

    async fn scan_digests(
        &self,
        from: Vec<u8>,
        to: Vec<u8>,
        limit: usize,
    ) -> Result<(Vec<Listed>, Option<Vec<u8>>), Broken> {
        let found = self.rows.scan(from, to, limit).await?;
        let next = found.last().map(|(last, _)| after(last));
        let listed =
            found.iter().filter_map(|(row, value)| Some(Listed { key: key_of(row)?, digest: decode(value).ok()? }));
        Ok((listed.collect(), next))
    }

    /// Documents on disk after `after_key` in the order of places, in one bucket or all; whether there may be more.
    ///
    /// # Errors
    /// The rows failed.
    pub async fn list(
        &self,
        of: Option<u16>,
        after_key: Option<&Key>,
        limit: usize,
    ) -> Result<(Vec<Listed>, bool), Broken> {
        let edge = |bucket: u32| match u16::try_from(bucket << (16 - BUCKET_BITS)) {
            Ok(place) => [&[DIGESTS][..], &place.to_be_bytes()].concat(),
            Err(_) => vec![DIGESTS + 1],
        };
        let (from, to) = match of {
            Some(bucket) => (edge(bucket.into()), edge(u32::from(bucket) + 1)),
            None => (vec![DIGESTS], vec![DIGESTS + 1]),
        };
        let from = after_key.map_or(from, |key| after(&place(DIGESTS, key)));
        let (listed, _) = self.scan_digests(from, to, limit).await?;
        let more = listed.len() == limit;
        Ok((listed, more))
    }

    /// Tombstones on disk after `after_key` whose last write was before `before`, and where to go on.
    ///
    /// # Errors
    /// The rows failed.
    pub async fn old_tombstones(
        &self,
        after_key: Option<&Key>,
        before: Timestamp,
        limit: usize,
    ) -> Result<(Vec<Key>, Option<Key>), Broken> {
        let from = after_key.map_or(vec![TOMBSTONES], |key| after(&place(TOMBSTONES, key)));
        let found = self.rows.scan(from, vec![TOMBSTONES + 1], limit).await?;
        let next = found.last().and_then(|(row, _)| key_of(row));
        let is_old = |value: &Bytes| decode::<Timestamp>(value).is_ok_and(|newest| newest < before);
        let old = found.iter().filter(|(_, value)| is_old(value)).filter_map(|(row, _)| key_of(row));
        Ok((old.collect(), next))
    }
}

/// The first row behind this one.
fn after(row: &[u8]) -> Vec<u8> {
    [row, &[0]].concat()
}

/// What is damaged begins anew: the other regions have it, and it is compared with them.
fn read_row(key: &Key, bytes: &[u8], digest: Option<Digest>) -> Result<Entry, Broken> {
    let read = || -> Result<(Row, Document), Unreadable> {
        let row: Row = decode(bytes)?;
        let document = Document::decode(&row.document)?;
        Ok((row, document))
    };
    match read() {
        Ok((row, document)) => {
            let was_tombstone = document.is_tombstone();
            Ok(Entry { document, parked: row.parked, digest, was_tombstone })
        }
        Err(Unreadable::Damaged(why)) => {
            tracing::error!(document = %key, why, "a document on disk is damaged: it is fetched from the peers");
            Ok(Entry { digest, ..Entry::default() })
        }
        // Overwriting what a newer build wrote would lose it.
        Err(error @ Unreadable::Version(_)) => Err(Broken::Row(key.to_string(), error.to_string())),
    }
}
