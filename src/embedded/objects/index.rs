//! The index: tables of a redb database, and what stands in them.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio_util::sync::CancellationToken;

use super::{
    OpenError, Totals,
    files::{Fresh, Place},
};
use crate::{
    core::{
        object::{Location, Stat, Sums, hex},
        time::Timestamp,
    },
    embedded::backup::{TablesError, copy_table, create_tables},
    ports::store::{Begun, Crc, Object, Part, UPLOADS_MAX},
};

/// Of everything below. Another one is refused.
pub const VERSION: u64 = 1;

/// Memory for pages of the index.
const CACHE_BYTES: usize = 64 << 20;

pub const FILE: &str = "index.redb";

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// Bucket, 0, key (bucket names have no 0) to an [`Entry`].
pub const OBJECTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("objects");
/// Bodies that stand in the index, by life and number.
const BODIES: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("bodies");
/// Bodies and parts in files of their own.
const FILES: TableDefinition<(u64, u64), ()> = TableDefinition::new("files");
/// When a bucket was made, in nanoseconds.
const BUCKETS: TableDefinition<&str, u64> = TableDefinition::new("buckets");
const UPLOADS: TableDefinition<&str, &[u8]> = TableDefinition::new("uploads");
const PARTS: TableDefinition<(&str, u32), &[u8]> = TableDefinition::new("parts");

/// Why a look or a change did not come to an end.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The database failed: nothing is known of what it holds now.
    #[error("{0}")]
    Index(String),
    /// One row is not what this build writes. The others are as good as before.
    #[error("{0}")]
    Row(String),
}

impl<E: Into<redb::Error>> From<E> for Broken {
    fn from(error: E) -> Self {
        Broken::Index(error.into().to_string())
    }
}

/// An object. Fields are appended only; see [`VERSION`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub place: Place,
    /// Its body stands in the index.
    pub inline: bool,
    pub size: u64,
    pub etag: String,
    pub sums: Sums,
    pub modified: Timestamp,
    pub attributes: BTreeMap<String, String>,
    /// The upload in parts that made it.
    pub upload: Option<String>,
}

impl Entry {
    pub fn object(self) -> Object {
        let stat = Stat {
            size: self.size,
            sums: self.sums,
            version: self.place.to_string(),
            modified: self.modified,
            attributes: self.attributes,
        };
        Object { stat, etag: self.etag }
    }
}

/// An upload in parts. Fields are appended only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UploadEntry {
    pub at: Location,
    pub attributes: BTreeMap<String, String>,
    /// Names of [`Crc`]s.
    kinds: Vec<u8>,
    pub begun: Timestamp,
}

impl UploadEntry {
    pub fn new(at: Location, attributes: BTreeMap<String, String>, kinds: &[Crc], begun: Timestamp) -> Self {
        let kinds = kinds.iter().map(|kind| match kind {
            Crc::Crc32 => 0,
            Crc::Crc32c => 1,
            Crc::Crc64Nvme => 2,
        });
        UploadEntry { at, attributes, kinds: kinds.collect(), begun }
    }

    pub fn kinds(&self) -> Vec<Crc> {
        let kind = |byte: &u8| match byte {
            0 => Some(Crc::Crc32),
            1 => Some(Crc::Crc32c),
            2 => Some(Crc::Crc64Nvme),
            _ => None,
        };
        self.kinds.iter().filter_map(kind).collect()
    }

    pub fn begun(&self, id: &str) -> Begun {
        Begun { id: id.to_owned(), at: self.at.clone(), begun: self.begun, kinds: self.kinds() }
    }
}

/// Who began an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uploader {
    Service,
    Peer,
}

impl Uploader {
    /// Ids of peers are 64 digits (a SHA-256), those of services 32 (a [`Place`]).
    pub fn of(id: &str) -> Self {
        if id.len() == 64 { Uploader::Peer } else { Uploader::Service }
    }
}

/// A part, always in a file. Fields are appended only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartEntry {
    pub place: Place,
    pub size: u64,
    pub md5: [u8; 16],
    pub sums: Sums,
    pub modified: Timestamp,
}

impl PartEntry {
    pub fn part(self, number: u32) -> Part {
        Part { number, size: self.size, md5: self.md5, sums: self.sums, modified: self.modified }
    }
}

/// A body that was taken in.
pub enum Stored {
    Inline(Place, Vec<u8>),
    File(Fresh),
}

impl Stored {
    pub fn place(&self) -> Place {
        match self {
            Stored::Inline(place, _) => *place,
            Stored::File(fresh) => fresh.place,
        }
    }
}

/// An object's key in the table.
pub fn key_of(at: &Location) -> Vec<u8> {
    [at.bucket.as_bytes(), &[0], at.key.as_bytes()].concat()
}

pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Broken> {
    postcard::from_bytes(bytes).map_err(|error| Broken::Row(format!("an entry cannot be read: {error}")))
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Broken> {
    postcard::to_allocvec(value).map_err(|error| Broken::Row(format!("an entry cannot be written: {error}")))
}

/// The database, for snapshots. Cheap to clone.
///
/// What a table gives out does not keep its transaction open, but the table does: without one the writer may free the page
/// that is being read. So a table stays in a variable as long as anything of it is looked at.
#[derive(Clone)]
pub struct Index(Arc<Database>);

/// An entry, and its body if that stands in the index.
type Found = (Entry, Option<Vec<u8>>);

impl Index {
    pub fn open(root: &Path) -> Result<Self, OpenError> {
        let path = root.join(FILE);
        let index_error = |why: String| OpenError::Index { path: path.clone(), why };
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let database = builder.create(&path).map_err(|error| index_error(error.to_string()))?;
        let synced = std::fs::File::open(root).and_then(|folder| folder.sync_all());
        synced.map_err(|source| OpenError::Disk { path: root.to_owned(), source })?;
        Self::of(database, &path)
    }

    /// Makes the tables, or looks whether they are of this format.
    pub fn of(database: Database, path: &Path) -> Result<Self, OpenError> {
        let found = (|| -> Result<u64, Broken> {
            let transaction = database.begin_write()?;
            let found = {
                let mut meta = transaction.open_table(META)?;
                let found = meta.get("version")?.map(|version| version.value());
                match found {
                    Some(found) => found,
                    None => {
                        meta.insert("version", VERSION)?;
                        VERSION
                    }
                }
            };
            if found == VERSION {
                drop(Tables::open(&transaction)?);
            }
            transaction.commit()?;
            Ok(found)
        })();
        match found {
            Ok(VERSION) => Ok(Index(Arc::new(database))),
            Ok(found) => Err(OpenError::Version { path: path.to_owned(), found, known: VERSION }),
            Err(broken) => Err(OpenError::Index { path: path.to_owned(), why: broken.to_string() }),
        }
    }

    pub fn begin_write(&self) -> Result<WriteTransaction, Broken> {
        Ok(self.0.begin_write()?)
    }

    /// Writes down what the next start would else find out by reading the whole index.
    pub fn checkpoint(&self) -> Result<(), Broken> {
        let mut transaction = self.0.begin_write()?;
        transaction.set_quick_repair(true);
        Ok(transaction.commit()?)
    }

    pub fn snapshot(&self) -> Result<ReadTransaction, Broken> {
        Ok(self.0.begin_read()?)
    }

    pub fn totals(&self) -> Result<Totals, Broken> {
        let mut totals = Totals::default();
        for row in self.snapshot()?.open_table(OBJECTS)?.range::<&[u8]>(..)? {
            let (key, entry) = row?;
            totals.objects += 1;
            match decode::<Entry>(entry.value()) {
                Ok(entry) => totals.bytes += entry.size,
                Err(error) => {
                    totals.unreadable += 1;
                    let key = String::from_utf8_lossy(key.value()).replace('\0', "/");
                    tracing::error!(key, %error, "an object's entry in the index is damaged");
                }
            }
        }
        Ok(totals)
    }

    pub fn find(&self, at: &Location) -> Result<Option<Entry>, Broken> {
        let table = self.snapshot()?.open_table(OBJECTS)?;
        let found = table.get(key_of(at).as_slice())?;
        found.map(|found| decode(found.value())).transpose()
    }

    /// The entry, and its body if that stands in the index, of one snapshot.
    pub fn find_body(&self, at: &Location) -> Result<Option<Found>, Broken> {
        let snapshot = self.snapshot()?;
        let Some(found) = snapshot.open_table(OBJECTS)?.get(key_of(at).as_slice())? else { return Ok(None) };
        let entry: Entry = decode(found.value())?;
        let body = match entry.inline {
            true => snapshot.open_table(BODIES)?.get((entry.place.life, entry.place.number))?,
            false => None,
        };
        let body = body.map(|body| body.value().to_vec());
        Ok(Some((entry, body)))
    }

    pub fn names_file(&self, place: Place) -> Result<bool, Broken> {
        Ok(self.snapshot()?.open_table(FILES)?.get((place.life, place.number))?.is_some())
    }

    pub fn bucket(&self, name: &str) -> Result<Option<Timestamp>, Broken> {
        Ok(self.snapshot()?.open_table(BUCKETS)?.get(name)?.map(|made| Timestamp(made.value())))
    }

    pub fn buckets(&self) -> Result<Vec<(String, Timestamp)>, Broken> {
        let table = self.snapshot()?.open_table(BUCKETS)?;
        let rows = table.range::<&str>(..)?;
        rows.map(|row| row.map(|(name, made)| (name.value().to_owned(), Timestamp(made.value()))))
            .collect::<Result<_, _>>()
            .map_err(Broken::from)
    }

    pub fn upload(&self, id: &str) -> Result<Option<UploadEntry>, Broken> {
        let table = self.snapshot()?.open_table(UPLOADS)?;
        let found = table.get(id)?;
        found.map(|found| decode(found.value())).transpose()
    }

    pub fn uploads(&self) -> Result<Vec<(String, UploadEntry)>, Broken> {
        let table = self.snapshot()?.open_table(UPLOADS)?;
        readable(table.range::<&str>(..)?)
    }

    /// Parts after the number `after`, at most `limit`.
    pub fn parts(&self, id: &str, after: u32, limit: usize) -> Result<Vec<(u32, PartEntry)>, Broken> {
        let table = self.snapshot()?.open_table(PARTS)?;
        let rows = table.range((id, after.saturating_add(1))..=(id, u32::MAX))?;
        rows.take(limit)
            .map(|row| {
                let (key, entry) = row?;
                Ok((key.value().1, decode(entry.value())?))
            })
            .collect()
    }
}

/// Writes all that a snapshot sees into a new file; answers the files that it names.
pub fn copy_to(snapshot: &ReadTransaction, path: &Path, stop: &CancellationToken) -> Result<Vec<Place>, TablesError> {
    let to = create_tables(path)?;
    copy_table(snapshot, &to, META, stop)?;
    copy_table(snapshot, &to, OBJECTS, stop)?;
    copy_table(snapshot, &to, BODIES, stop)?;
    copy_table(snapshot, &to, FILES, stop)?;
    copy_table(snapshot, &to, BUCKETS, stop)?;
    copy_table(snapshot, &to, UPLOADS, stop)?;
    copy_table(snapshot, &to, PARTS, stop)?;
    let files = snapshot.open_table(FILES)?;
    let places = files.iter()?.map(|row| {
        let (life, number) = row?.0.value();
        Ok(Place { life, number })
    });
    places.collect()
}

/// Uploads, but those that cannot be read: one of them shall not hide the others.
fn readable(rows: redb::Range<'_, &'static str, &'static [u8]>) -> Result<Vec<(String, UploadEntry)>, Broken> {
    let mut uploads = Vec::new();
    for row in rows {
        let (id, entry) = row?;
        match decode(entry.value()) {
            Ok(entry) => uploads.push((id.value().to_owned(), entry)),
            Err(error) => tracing::error!(upload = id.value(), %error, "an upload's entry in the index is damaged"),
        }
    }
    Ok(uploads)
}

/// What has to happen around a commit.
#[derive(Default)]
pub struct Effects {
    /// Files that the commit will name: their folders are synced first.
    pub fresh: Vec<Fresh>,
    /// Files that nothing names after the commit.
    pub doomed: Vec<Place>,
    /// Objects that come.
    pub added: Totals,
    /// Objects that go.
    pub taken: Totals,
}

/// The tables within the writer's transaction. A change of one that ends in [`Broken::Row`] has changed nothing: rows are
/// read, and written ones encoded, before anything is put or removed.
pub struct Tables<'t> {
    objects: Table<'t, &'static [u8], &'static [u8]>,
    bodies: Table<'t, (u64, u64), &'static [u8]>,
    files: Table<'t, (u64, u64), ()>,
    buckets: Table<'t, &'static str, u64>,
    uploads: Table<'t, &'static str, &'static [u8]>,
    parts: Table<'t, (&'static str, u32), &'static [u8]>,
    effects: Effects,
}

impl<'t> Tables<'t> {
    pub fn open(transaction: &'t WriteTransaction) -> Result<Self, Broken> {
        Ok(Tables {
            objects: transaction.open_table(OBJECTS)?,
            bodies: transaction.open_table(BODIES)?,
            files: transaction.open_table(FILES)?,
            buckets: transaction.open_table(BUCKETS)?,
            uploads: transaction.open_table(UPLOADS)?,
            parts: transaction.open_table(PARTS)?,
            effects: Effects::default(),
        })
    }

    /// No change comes after this.
    pub fn close(self) -> Effects {
        self.effects
    }

    pub fn find(&self, at: &Location) -> Result<Option<Entry>, Broken> {
        self.objects.get(key_of(at).as_slice())?.map(|found| decode(found.value())).transpose()
    }

    /// Puts an object where it belongs; what stood there goes.
    pub fn put(&mut self, at: &Location, entry: &Entry, body: Stored) -> Result<(), Broken> {
        let encoded = encode(entry)?;
        self.remove(at)?;
        self.make_bucket(&at.bucket, entry.modified)?;
        match body {
            Stored::Inline(place, bytes) => {
                self.bodies.insert((place.life, place.number), bytes.as_slice())?;
            }
            Stored::File(fresh) => {
                self.files.insert((fresh.place.life, fresh.place.number), ())?;
                self.effects.fresh.push(fresh);
            }
        }
        self.objects.insert(key_of(at).as_slice(), encoded.as_slice())?;
        self.effects.added.objects += 1;
        self.effects.added.bytes += entry.size;
        Ok(())
    }

    /// Whether something stood there.
    pub fn remove(&mut self, at: &Location) -> Result<bool, Broken> {
        let Some(gone) = self.find(at)? else { return Ok(false) };
        self.objects.remove(key_of(at).as_slice())?;
        match gone.inline {
            true => {
                self.bodies.remove((gone.place.life, gone.place.number))?;
            }
            false => self.doom(gone.place)?,
        }
        self.effects.taken.objects += 1;
        self.effects.taken.bytes += gone.size;
        Ok(true)
    }

    /// Whether it is a new one.
    pub fn make_bucket(&mut self, name: &str, now: Timestamp) -> Result<bool, Broken> {
        if self.buckets.get(name)?.is_some() {
            return Ok(false);
        }
        self.buckets.insert(name, now.0)?;
        Ok(true)
    }

    pub fn has_bucket(&self, name: &str) -> Result<bool, Broken> {
        Ok(self.buckets.get(name)?.is_some())
    }

    /// Whether an object or an upload belongs to the bucket.
    pub fn in_use(&self, bucket: &str) -> Result<bool, Broken> {
        let (from, to) = ([bucket.as_bytes(), &[0]].concat(), [bucket.as_bytes(), &[1]].concat());
        if self.objects.range(from.as_slice()..to.as_slice())?.next().transpose()?.is_some() {
            return Ok(true);
        }
        Ok(self.all_uploads()?.iter().any(|(_, upload)| upload.at.bucket == bucket))
    }

    pub fn remove_bucket(&mut self, name: &str) -> Result<(), Broken> {
        self.buckets.remove(name)?;
        Ok(())
    }

    pub fn upload(&self, id: &str) -> Result<Option<UploadEntry>, Broken> {
        self.uploads.get(id)?.map(|found| decode(found.value())).transpose()
    }

    /// Whether services, or peers, have begun as many uploads as they may. Neither takes the other's room.
    pub fn is_full(&self, by: Uploader) -> Result<bool, Broken> {
        use redb::ReadableTableMetadata;
        if self.uploads.len()? < UPLOADS_MAX as u64 {
            return Ok(false);
        }
        let mut count = 0;
        for row in self.uploads.range::<&str>(..)? {
            count += usize::from(Uploader::of(row?.0.value()) == by);
        }
        Ok(count >= UPLOADS_MAX)
    }

    pub fn all_uploads(&self) -> Result<Vec<(String, UploadEntry)>, Broken> {
        readable(self.uploads.range::<&str>(..)?)
    }

    pub fn put_upload(&mut self, id: &str, upload: &UploadEntry) -> Result<(), Broken> {
        let encoded = encode(upload)?;
        self.make_bucket(&upload.at.bucket, upload.begun)?;
        self.uploads.insert(id, encoded.as_slice())?;
        Ok(())
    }

    pub fn parts(&self, id: &str) -> Result<Vec<(u32, PartEntry)>, Broken> {
        let rows = self.parts.range((id, 0)..=(id, u32::MAX))?;
        rows.map(|row| {
            let (key, entry) = row?;
            Ok((key.value().1, decode(entry.value())?))
        })
        .collect()
    }

    /// Puts a part; one of the same number goes.
    pub fn put_part(&mut self, id: &str, number: u32, part: &PartEntry, body: Fresh) -> Result<(), Broken> {
        let encoded = encode(part)?;
        let before = self.parts.get((id, number))?.map(|before| decode::<PartEntry>(before.value())).transpose()?;
        self.parts.insert((id, number), encoded.as_slice())?;
        if let Some(before) = before {
            self.doom(before.place)?;
        }
        self.files.insert((body.place.life, body.place.number), ())?;
        self.effects.fresh.push(body);
        Ok(())
    }

    /// Forgets an upload and its parts.
    pub fn remove_upload(&mut self, id: &str) -> Result<(), Broken> {
        for (number, part) in self.parts(id)? {
            self.parts.remove((id, number))?;
            self.doom(part.place)?;
        }
        self.uploads.remove(id)?;
        Ok(())
    }

    fn doom(&mut self, place: Place) -> Result<(), Broken> {
        self.files.remove((place.life, place.number))?;
        self.effects.doomed.push(place);
        Ok(())
    }
}

/// An upload's ETag: the MD5 of its parts' MD5s, and how many they are.
pub fn etag_of_parts(parts: &[(u32, PartEntry)]) -> String {
    use md5::{Digest, Md5};
    let mut md5 = Md5::new();
    parts.iter().for_each(|(_, part)| md5.update(part.md5));
    format!("{}-{}", hex(&<[u8; 16]>::from(md5.finalize())), parts.len())
}
