//! Documents in a table of items, and what the table says of them all.
//!
//! ```text
//! partition     place     holds
//! d <bucket>    type/id   a document, with its digest and the time of its last write
//! s <0..15>     <group>   sums of 16 buckets: digests, how many documents and tombstones, when the oldest was made
//! m             alive     when the region was last seen to live
//! ```
//!
//! What it holds of evictions is in [`standing`](super::standing).
//!
//! A document and the sums of its group change in one write, so a comparison of regions reads 256 small items, however
//! many documents there are, and they are never wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    agent::{
        documents::form::{decode, decode_as, encode, encode_as},
        rounds::within,
    },
    core::{
        link::Failure,
        state::{
            Key,
            delta::Unreadable,
            digest::{BUCKET_BITS, Digest, Range, Sums, bucket},
            document::Document,
        },
        time::Timestamp,
    },
    planted::{self, Bug},
    ports::{
        clock::Clock,
        documents::{ANSWER_BYTES_MAX, Answer, Listed, Met, PAGE_MAX, Page, Question},
        items::{CHANGES_MAX, Change, Item, Items, Place},
    },
};

/// Of every call to the table.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Buckets whose sums stand in one item.
const GROUP_BITS: u32 = 4;
pub const GROUP_BUCKETS: usize = 1 << GROUP_BITS;

/// The form of sums that say something of evicted regions. A build that knows nothing of evictions must not change the
/// documents beside them.
const WITH_TERMS: u8 = 2;

/// Items with sums; as many requests at once stand in nobody's way but for chance.
pub const GROUPS: usize = 1 << (BUCKET_BITS - GROUP_BITS);

/// Items with sums in one partition. DynamoDB takes 1,000 write units a second of one.
const PARTITION_GROUPS: usize = 16;

const BUCKETS: u16 = 1 << BUCKET_BITS;

/// How old sums may be that were read before.
const SUMS_AGE_MAX: Duration = Duration::from_millis(500);

/// Buckets that are listed at once.
const LISTED: usize = 16;

#[derive(Serialize, Deserialize)]
struct Row {
    /// `None` of a tombstone.
    digest: Option<Digest>,
    newest: Timestamp,
    document: Vec<u8>,
}

/// A document as it stands in the table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Held {
    pub document: Document,
    digest: Option<Digest>,
    is_tombstone: bool,
    version: u64,
}

/// Sums of 16 buckets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub digests: Vec<Digest>,
    /// By type.
    pub documents: BTreeMap<String, u64>,
    pub tombstones: BTreeMap<String, u64>,
    /// No tombstone is older; there may be none any more.
    pub oldest: Option<Timestamp>,
    /// By evicted region: what it wrote in an earlier term is not merged.
    #[serde(skip)]
    pub terms: BTreeMap<String, u64>,
}

impl Default for Group {
    fn default() -> Self {
        Group {
            digests: vec![Digest::default(); GROUP_BUCKETS],
            documents: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            oldest: None,
            terms: BTreeMap::new(),
        }
    }
}

impl Group {
    fn change(&mut self, key: &Key, before: &Held, after: &Held) {
        if let Some(sum) = self.digests.get_mut(usize::from(bucket(key)) % GROUP_BUCKETS) {
            *sum = sum.minus(before.digest.unwrap_or_default()).plus(after.digest.unwrap_or_default());
        }
        count(&mut self.documents, &key.of, before.digest.is_some(), after.digest.is_some());
        count(&mut self.tombstones, &key.of, before.is_tombstone, after.is_tombstone);
        if after.is_tombstone {
            let newest = after.document.newest();
            self.oldest = Some(self.oldest.map_or(newest, |oldest| oldest.min(newest)));
        } else if self.tombstones.is_empty() {
            self.oldest = None;
        }
    }
}

fn count(counts: &mut BTreeMap<String, u64>, of: &str, before: bool, after: bool) {
    let count = counts.get(of).copied().unwrap_or_default() + u64::from(after);
    match count.saturating_sub(u64::from(before)) {
        0 => drop(counts.remove(of)),
        count => drop(counts.insert(of.to_owned(), count)),
    }
}

/// The number of a bucket's group.
pub fn group(key: &Key) -> usize {
    usize::from(bucket(key)) / GROUP_BUCKETS
}

fn place(key: &Key) -> Place {
    Place::new(partition(bucket(key)), format!("{}/{}", key.of, key.id))
}

fn partition(bucket: u16) -> String {
    format!("d{bucket:03x}")
}

fn key_of(sort: &str) -> Option<Key> {
    sort.split_once('/').map(|(of, id)| Key::new(of, id))
}

pub fn sums_place(group: usize) -> Place {
    Place::new(format!("s{:x}", group / PARTITION_GROUPS), format!("{group:02x}"))
}

/// The change that writes sums in place of those of this version.
pub fn sums_change(group: usize, sums: &Group, version: u64) -> Change {
    let bytes = if sums.terms.is_empty() { encode(sums) } else { encode_as(WITH_TERMS, &(sums, &sums.terms)) };
    Change { place: sums_place(group), bytes: Some(bytes), version }
}

pub fn decode_group(group: usize, item: &Item) -> Result<Group, Failure> {
    let read = match decode::<Group>(&item.bytes) {
        Err(Unreadable::Version(WITH_TERMS)) => decode_as::<(Group, BTreeMap<String, u64>)>(WITH_TERMS, &item.bytes)
            .map(|(sums, terms)| Group { terms, ..sums }),
        read => read,
    };
    read.map_err(|error| unreadable(&format!("the sums {group:02x}"), &error))
}

fn alive_place() -> Place {
    Place::new("m", "alive")
}

/// Documents with what is needed to change them.
pub struct Loaded {
    held: BTreeMap<Key, Held>,
    groups: BTreeMap<usize, (Group, u64)>,
}

/// A document that would not fit into an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the document would have {0} bytes; the limit is {1}")]
pub struct TooLarge(pub usize, pub usize);

impl Loaded {
    pub fn get(&self, key: &Key) -> Option<&Held> {
        self.held.get(key)
    }

    /// From which term on something of evicted regions is merged into this document.
    pub fn terms(&self, key: &Key) -> BTreeMap<String, u64> {
        self.groups.get(&group(key)).map(|(sums, _)| sums.terms.clone()).unwrap_or_default()
    }

    /// What to write so that these documents stand there instead, and the bytes of it.
    ///
    /// # Errors
    /// A document has more than `limit` bytes.
    pub fn changes(&self, documents: Vec<(Key, Document)>, limit: usize) -> Result<(Vec<Change>, usize), TooLarge> {
        let mut groups: BTreeMap<usize, (Group, u64)> = BTreeMap::new();
        let mut changes = Vec::new();
        let mut bytes = 0;
        for (key, document) in documents {
            let before = self.held.get(&key).cloned().unwrap_or_default();
            let is_nothing = document == Document::default();
            let row = Row {
                digest: Digest::of(&key, &document),
                newest: document.newest(),
                document: if is_nothing { Vec::new() } else { document.encode() },
            };
            if row.document.len() > limit {
                return Err(TooLarge(row.document.len(), limit));
            }
            let is_tombstone = !is_nothing && document.is_tombstone();
            let after = Held { digest: row.digest, document, is_tombstone, version: 0 };
            let number = group(&key);
            let loaded = || self.groups.get(&number).cloned().unwrap_or_default();
            groups.entry(number).or_insert_with(loaded).0.change(&key, &before, &after);
            if is_nothing && before.version == 0 {
                continue;
            }
            let content = (!is_nothing).then(|| encode(&row));
            bytes += content.as_ref().map_or(0, Bytes::len);
            changes.push(Change { place: place(&key), bytes: content, version: before.version });
        }
        for (number, (sums, version)) in groups {
            if planted::is(Bug::SumsApart) {
                continue;
            }
            let change = sums_change(number, &sums, version);
            bytes += change.bytes.as_ref().map_or(0, Bytes::len);
            changes.push(change);
        }
        Ok((changes, bytes))
    }
}

/// The documents of one region, as its table has them.
pub struct Store {
    region: String,
    items: Arc<dyn Items>,
    clock: Arc<dyn Clock>,
    horizon: Duration,
    sums: tokio::sync::Mutex<Option<(Instant, Arc<Vec<Group>>)>>,
}

impl Store {
    pub fn new(region: &str, items: Arc<dyn Items>, clock: Arc<dyn Clock>, horizon: Duration) -> Store {
        Store { region: region.to_owned(), items, clock, horizon, sums: tokio::sync::Mutex::default() }
    }

    /// What the region says of evictions; where nobody has written for a horizon, its table may be an old copy that no agent has
    /// looked through yet.
    async fn met(&self) -> Result<Met, Failure> {
        let (kept, _) = self.kept().await?;
        let (alive, _) = self.alive().await?;
        let is_old = alive.is_some_and(|alive| self.clock.now().since(alive) >= self.horizon);
        let met = kept.met(&self.region);
        Ok(Met { takes_part: met.takes_part && !is_old, ..met })
    }

    pub async fn identity(&self) -> Result<String, Failure> {
        within(CALL_TIMEOUT, self.items.identity()).await
    }

    pub async fn get(&self, places: Vec<Place>) -> Result<Vec<Option<Item>>, Failure> {
        let mut found = Vec::with_capacity(places.len());
        for places in places.chunks(CHANGES_MAX) {
            found.extend(within(CALL_TIMEOUT, self.items.get(places.to_vec())).await?);
        }
        Ok(found)
    }

    /// Documents and the sums that they are in.
    ///
    /// # Errors
    /// The table did not answer, or a newer build wrote there.
    pub async fn load(&self, keys: &[Key]) -> Result<Loaded, Failure> {
        let numbers: BTreeSet<usize> = keys.iter().map(group).collect();
        let places = keys.iter().map(place).chain(numbers.iter().map(|number| sums_place(*number)));
        let mut found = self.get(places.collect()).await?.into_iter();
        let mut loaded = Loaded { held: BTreeMap::new(), groups: BTreeMap::new() };
        for (key, item) in keys.iter().zip(found.by_ref()) {
            loaded.held.insert(key.clone(), item.map_or_else(|| Ok(Held::default()), |item| held(key, &item))?);
        }
        for (number, item) in numbers.into_iter().zip(found) {
            let sums = item
                .map_or_else(|| Ok((Group::default(), 0)), |item| Ok((decode_group(number, &item)?, item.version)))?;
            loaded.groups.insert(number, sums);
        }
        Ok(loaded)
    }

    /// Documents alone.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub async fn look(&self, keys: &[Key]) -> Result<Vec<Held>, Failure> {
        let found = self.get(keys.iter().map(place).collect()).await?;
        let read =
            |(key, item): (&Key, Option<Item>)| item.map_or_else(|| Ok(Held::default()), |item| held(key, &item));
        keys.iter().zip(found).map(read).collect()
    }

    /// As [`Items::write`].
    pub async fn write(&self, changes: Vec<Change>) -> Result<bool, Failure> {
        within(CALL_TIMEOUT, self.items.write(changes)).await
    }

    /// When the region was last seen to live.
    pub async fn alive(&self) -> Result<(Option<Timestamp>, u64), Failure> {
        let found = self.get(vec![alive_place()]).await?.pop().flatten();
        let Some(item) = found else { return Ok((None, 0)) };
        let at = decode::<Timestamp>(&item.bytes).map_err(|error| unreadable("when the region lived", &error))?;
        Ok((Some(at), item.version))
    }

    /// Writes down that it lives; `false` if somebody else did meanwhile.
    pub async fn set_alive(&self, now: Timestamp, version: u64) -> Result<bool, Failure> {
        self.write(vec![Change { place: alive_place(), bytes: Some(encode(&now)), version }]).await
    }

    /// The sums of all groups, as old as [`SUMS_AGE_MAX`].
    pub async fn groups(&self) -> Result<Arc<Vec<Group>>, Failure> {
        let mut read = self.sums.lock().await;
        if let Some((at, groups)) = &*read
            && at.elapsed() < SUMS_AGE_MAX
        {
            return Ok(groups.clone());
        }
        let pages = (0..GROUPS / PARTITION_GROUPS).map(|nth| self.partition(format!("s{nth:x}"), None));
        let mut groups = vec![Group::default(); GROUPS];
        for (sort, item) in try_join_all(pages).await?.into_iter().flatten() {
            let number = usize::from_str_radix(&sort, 16).unwrap_or(GROUPS);
            if let Some(group) = groups.get_mut(number) {
                *group = decode_group(number, &item)?;
            }
        }
        let groups = Arc::new(groups);
        *read = Some((Instant::now(), groups.clone()));
        Ok(groups)
    }

    /// Some items of a partition behind `after`, and whether there are more.
    pub async fn page(&self, partition: &str, after: Option<String>) -> Result<(Vec<(String, Item)>, bool), Failure> {
        within(CALL_TIMEOUT, self.items.list(partition.to_owned(), after)).await
    }

    /// All items of a partition behind `after`.
    async fn partition(&self, partition: String, mut after: Option<String>) -> Result<Vec<(String, Item)>, Failure> {
        let mut all = Vec::new();
        loop {
            let (page, more) = self.page(&partition, after).await?;
            after = page.last().map(|(sort, _)| sort.clone());
            all.extend(page);
            if !more || after.is_none() {
                return Ok(all);
            }
        }
    }

    /// The rows of these buckets, behind `after` in the first of them, in order.
    async fn rows(&self, buckets: &[u16], after: Option<&Key>) -> Result<Vec<(Key, Row)>, Failure> {
        let pages = buckets.iter().map(|bucket_of| {
            let behind = after.filter(|key| bucket(key) == *bucket_of).map(|key| place(key).sort);
            self.partition(partition(*bucket_of), behind)
        });
        let mut rows = Vec::new();
        for (sort, item) in try_join_all(pages).await?.into_iter().flatten() {
            let Some(key) = key_of(&sort) else { continue };
            match decode::<Row>(&item.bytes) {
                Ok(row) => rows.push((key, row)),
                Err(Unreadable::Damaged(why)) => told_damaged(&key, &why),
                Err(error) => return Err(unreadable(&key.to_string(), &error)),
            }
        }
        Ok(rows)
    }

    /// Rows that `wanted` takes, of the buckets from that of `after` on that `may_have` some, until there are enough of them.
    async fn search<T>(
        &self,
        after: Option<&Key>,
        may_have: impl Fn(u16) -> bool,
        wanted: impl Fn(Key, Row) -> Option<(Key, T)>,
    ) -> Result<(Vec<(Key, T)>, Option<Key>), Failure> {
        let first = after.map_or(0, bucket);
        let buckets: Vec<u16> = (first..BUCKETS).filter(|bucket| may_have(*bucket)).collect();
        let mut found: Vec<(Key, T)> = Vec::new();
        for buckets in buckets.chunks(LISTED) {
            let rows = self.rows(buckets, after).await?;
            found.extend(rows.into_iter().filter_map(|(key, row)| wanted(key, row)));
            if found.len() >= PAGE_MAX {
                found.truncate(PAGE_MAX);
                let next = found.last().map(|(key, _)| key.clone());
                return Ok((found, next));
            }
        }
        Ok((found, None))
    }

    /// A page of documents in the order of their buckets.
    ///
    /// # Errors
    /// The table did not answer, or a newer build wrote there.
    pub async fn list(&self, after: Option<&Key>) -> Result<Page, Failure> {
        let groups = self.groups().await?;
        let (found, next) = self
            .search(
                after,
                |bucket| digest_of(&groups, bucket) != Digest::default(),
                |key, row| row.digest.map(|digest| (key, digest)),
            )
            .await?;
        Ok((found.into_iter().map(|(key, digest)| Listed { key, digest }).collect(), next))
    }

    /// A page of tombstones whose last write was before.
    ///
    /// # Errors
    /// The table did not answer, or a newer build wrote there.
    pub async fn tombstones(
        &self,
        after: Option<&Key>,
        before: Timestamp,
    ) -> Result<(Vec<(Key, Document)>, Option<Key>), Failure> {
        let groups = self.groups().await?;
        let may_have = |bucket: u16| {
            let group = groups.get(usize::from(bucket) / GROUP_BUCKETS);
            group.and_then(|group| group.oldest).is_some_and(|oldest| oldest < before)
        };
        let wanted = |key: Key, row: Row| {
            let is_one = row.digest.is_none() && row.newest < before;
            let document = is_one.then(|| Document::decode(&row.document).ok()).flatten()?;
            Some((key, document))
        };
        self.search(after, may_have, wanted).await
    }

    /// The documents of a bucket, tombstones as well.
    ///
    /// # Errors
    /// The table did not answer, or a newer build wrote there.
    pub async fn keys(&self, bucket: u16) -> Result<Vec<Key>, Failure> {
        Ok(self.rows(&[bucket], None).await?.into_iter().map(|(key, _)| key).collect())
    }

    /// What a peer asks. `None` of what there is no such range of.
    ///
    /// # Errors
    /// The table did not answer, or a newer build wrote there.
    pub async fn answer(&self, question: Question) -> Result<Option<Answer>, Failure> {
        Ok(Some(match question {
            Question::Sums(ranges) => {
                let sums = sums_of(&self.groups().await?);
                match ranges.iter().map(|range| sums.of(*range)).collect() {
                    Some(sums) => Answer::Sums(sums),
                    None => return Ok(None),
                }
            }
            Question::List { bucket, after } if bucket < BUCKETS => {
                let rows = self.rows(&[bucket], after.as_ref()).await?;
                let listed = rows.into_iter().filter_map(|(key, row)| Some(Listed { key, digest: row.digest? }));
                let mut listed: Vec<Listed> = listed.collect();
                let more = listed.len() > PAGE_MAX;
                listed.truncate(PAGE_MAX);
                Answer::List { listed, more }
            }
            Question::List { .. } => return Ok(None),
            Question::Digests(keys) => {
                Answer::Digests(self.look(&keys).await?.into_iter().map(|held| held.digest).collect())
            }
            Question::Wholes(keys) => {
                let mut bytes = 0;
                let mut wholes = Vec::new();
                for held in self.look(&keys).await? {
                    let whole = (held.document != Document::default()).then(|| held.document.encode());
                    bytes += whole.as_ref().map_or(0, Vec::len);
                    if bytes > ANSWER_BYTES_MAX && !wholes.is_empty() {
                        break;
                    }
                    wholes.push(whole);
                }
                Answer::Wholes(wholes)
            }
            // It is only read here: the region hears of evictions as it asks the others.
            Question::Standing { .. } => Answer::Standing(self.met().await?),
            Question::Slept => Answer::Slept(self.kept().await?.0.slept),
            Question::Includes(asked) => {
                let keys: Vec<Key> = asked.iter().map(|(key, _)| key.clone()).collect();
                let held = self.look(&keys).await?;
                // Forgotten is seen: only what every region has seen is forgotten.
                let seen =
                    |document: &Document, clock| *document == Document::default() || document.clock().includes(clock);
                Answer::Includes(
                    held.iter().zip(&asked).map(|(held, (_, clock))| seen(&held.document, clock)).collect(),
                )
            }
        }))
    }
}

fn digest_of(groups: &[Group], bucket: u16) -> Digest {
    let (group, place) = (usize::from(bucket) / GROUP_BUCKETS, usize::from(bucket) % GROUP_BUCKETS);
    groups.get(group).and_then(|group| group.digests.get(place)).copied().unwrap_or_default()
}

fn sums_of(groups: &[Group]) -> Sums {
    let mut sums = Sums::default();
    for bucket in 0..BUCKETS {
        sums.change(bucket, None, Some(digest_of(groups, bucket)));
    }
    sums
}

/// Of all documents.
pub fn digest(groups: &[Group]) -> Digest {
    sums_of(groups).of(Range::ALL).unwrap_or_default()
}

/// What a newer build wrote would be lost if it were written over.
pub fn unreadable(what: &str, error: &Unreadable) -> Failure {
    Failure::Refused(format!("the item of {what}: {error}"))
}

fn told_damaged(key: &Key, why: &str) {
    tracing::error!(document = %key, why, "a document in the table is damaged: it is fetched from the peers");
}

/// What is damaged begins anew: the other regions have it, and it is compared with them.
fn held(key: &Key, item: &Item) -> Result<Held, Failure> {
    let row = match decode::<Row>(&item.bytes) {
        Ok(row) => row,
        Err(Unreadable::Damaged(why)) => {
            told_damaged(key, &why);
            return Ok(Held { version: item.version, ..Held::default() });
        }
        Err(error) => return Err(unreadable(&key.to_string(), &error)),
    };
    let is_tombstone = row.digest.is_none();
    let known = Held { digest: row.digest, is_tombstone, version: item.version, document: Document::default() };
    match Document::decode(&row.document) {
        Ok(document) => Ok(Held { document, ..known }),
        Err(Unreadable::Damaged(why)) => {
            told_damaged(key, &why);
            Ok(known)
        }
        Err(error) => Err(unreadable(&key.to_string(), &error)),
    }
}
