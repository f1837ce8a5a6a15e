//! Uploads in parts: each part is a file; in the end they become one.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::{
    CHUNK_BYTES, LocalObjects,
    digest::{self, Digested, Running, kinds},
    disk_failure,
    files::{Files, Fresh, Place},
    index::{Broken, Entry, PartEntry, Stored, Tables, UploadEntry, Uploader, etag_of_parts},
    intake::{self, Sink},
    off_runtime,
    service::{holds, refused_as},
};
use crate::{
    core::{
        link::Failure,
        object::{Location, Sums},
        time::Timestamp,
    },
    ports::{
        objects::Body,
        store::{Begun, Chosen, Condition, Crc, Error, Expected, Object, PART_BYTES_MIN, PARTS_MAX, Part},
    },
};

/// What those meet who begin one upload too many.
const UPLOADS_PAUSE: Duration = Duration::from_secs(10);

/// How long an upload waits for its turn to become an object.
const TURN_WAIT: Duration = Duration::from_secs(60);

/// How long those should wait that did not get theirs.
const TURN_PAUSE: Duration = Duration::from_secs(5);

/// How often the parts are chosen anew, where one was replaced while they were copied.
const TRIES_MAX: usize = 3;

/// Forgets uploads that took in nothing since; answers how many.
pub fn drop_stale(tables: &mut Tables<'_>, before: Timestamp) -> Result<usize, Broken> {
    let mut dropped = 0;
    for (id, upload) in tables.all_uploads()? {
        if upload.begun < before && tables.parts(&id)?.iter().all(|(_, part)| part.modified < before) {
            tables.remove_upload(&id)?;
            dropped += 1;
        }
    }
    Ok(dropped)
}

/// The upload, if it goes where it is said to go.
fn upload_at(tables: &Tables<'_>, at: &Location, id: &str) -> Result<Option<UploadEntry>, Broken> {
    Ok(tables.upload(id)?.filter(|upload| upload.at == *at))
}

impl LocalObjects {
    /// Begins an upload under this id, or goes on with it.
    pub(super) async fn begin_as(
        &self,
        at: &Location,
        id: String,
        attributes: BTreeMap<String, String>,
        kinds: &[Crc],
    ) -> Result<(Begun, BTreeMap<u32, u64>), Error> {
        at.check().map_err(Error::Invalid)?;
        let upload = UploadEntry::new(at.clone(), attributes, kinds, self.clock.now());
        self.change(move |tables| {
            if let Some(known) = tables.upload(&id)? {
                let parts = tables.parts(&id)?.into_iter().map(|(number, part)| (number, part.size));
                return Ok(Ok((known.begun(&id), parts.collect())));
            }
            if tables.is_full(Uploader::of(&id))? {
                return Ok(Err(Failure::Throttled { after: UPLOADS_PAUSE }.into()));
            }
            tables.put_upload(&id, &upload)?;
            Ok(Ok((upload.begun(&id), BTreeMap::new())))
        })
        .await
    }

    pub(super) async fn find_upload(&self, at: &Location, id: &str) -> Result<UploadEntry, Error> {
        let name = id.to_owned();
        let found = self.look(move |index, _| index.upload(&name)).await?;
        found.filter(|upload| upload.at == *at).ok_or(Error::NoUpload)
    }

    pub(super) async fn receive_part(
        &self,
        at: &Location,
        id: &str,
        number: u32,
        mut expected: Expected,
        body: Body,
    ) -> Result<Part, Error> {
        if !(1..=PARTS_MAX).contains(&number) {
            return Err(Error::Invalid("a part has a number between 1 and 10000"));
        }
        // Before the bytes arrive: whoever uploads to nowhere shall know soon.
        expected.kinds.extend(self.find_upload(at, id).await?.kinds());
        let (digested, stored) = intake::receive(&self.files, 0, expected, body).await?;
        let fresh = match stored {
            Stored::File(fresh) => fresh,
            Stored::Inline(..) => {
                let files = self.files.clone();
                let empty = off_runtime(move || files.create().and_then(|fresh| fresh.file.sync_all().map(|()| fresh)));
                empty.await?.map_err(|error| disk_failure(&error))?
            }
        };
        let Digested { size, md5, sums } = digested;
        let part = PartEntry { place: fresh.place, size, md5, sums, modified: self.clock.now() };
        let (at, id) = (at.clone(), id.to_owned());
        self.change(move |tables| {
            if upload_at(tables, &at, &id)?.is_none() {
                return Ok(Err(Error::NoUpload));
            }
            tables.put_part(&id, number, &part, fresh)?;
            Ok(Ok(part.part(number)))
        })
        .await
    }

    /// Makes the object of the parts that were chosen.
    pub(super) async fn join(
        &self,
        at: &Location,
        id: &str,
        chosen: Vec<Chosen>,
        mut expected: Expected,
        condition: Condition,
    ) -> Result<Object, Error> {
        let upload = match self.find_upload(at, id).await {
            Ok(upload) => upload,
            // Its answer may have been lost.
            Err(Error::NoUpload) => return self.made_by(at, id).await,
            Err(error) => return Err(error),
        };
        if condition != Condition::Always {
            // Before the bytes are copied. Who wins is decided below.
            let (place, judged) = (at.clone(), condition.clone());
            let there = self.look(move |index, _| index.find(&place)).await?;
            if !holds(&judged, there.as_ref()) {
                return Err(refused_as(&judged, there.as_ref()));
            }
        }
        expected.kinds.extend(upload.kinds());
        let joined = self.copy_parts(id, &chosen, &expected.of_parts, kinds(&expected)).await?;
        let Some(Joined { parts, digested, fresh }) = joined else { return self.made_by(at, id).await };
        digested.check(&expected, &Sums::default()).map_err(Error::Damaged)?;
        let entry = Entry {
            place: fresh.place,
            inline: false,
            size: digested.size,
            etag: etag_of_parts(&parts),
            sums: digested.sums,
            modified: self.clock.now(),
            attributes: upload.attributes,
            upload: Some(id.to_owned()),
        };
        let (at, id) = (at.clone(), id.to_owned());
        self.change(move |tables| {
            let there = tables.find(&at)?;
            if upload_at(tables, &at, &id)?.is_none() {
                let made = there.filter(|entry| entry.upload.as_ref() == Some(&id));
                return Ok(made.map(Entry::object).ok_or(Error::NoUpload));
            }
            if !holds(&condition, there.as_ref()) {
                return Ok(Err(refused_as(&condition, there.as_ref())));
            }
            tables.put(&at, &entry, Stored::File(fresh))?;
            tables.remove_upload(&id)?;
            Ok(Ok(entry.object()))
        })
        .await
    }

    /// The parts that were chosen, one after the other in a new file; `None` if the upload has ended meanwhile.
    async fn copy_parts(
        &self,
        id: &str,
        chosen: &[Chosen],
        of_parts: &Sums,
        kinds: Vec<Crc>,
    ) -> Result<Option<Joined>, Error> {
        // Judged before the wait as well: it may be long.
        if self.choose(id, chosen, of_parts).await?.is_none() {
            return Ok(None);
        }
        let turn = match timeout(TURN_WAIT, self.joins.clone().acquire_owned()).await {
            Ok(Ok(turn)) => Arc::new(turn),
            Ok(Err(_)) => return Err(Failure::Unanswered("the object store is closed".to_owned()).into()),
            Err(_) => return Err(Failure::Throttled { after: TURN_PAUSE }.into()),
        };
        let cancelled = Cancel::default();
        let mut absent = None;
        for _ in 0..TRIES_MAX {
            let Some(parts) = self.choose(id, chosen, of_parts).await? else { return Ok(None) };
            // The copy goes on to its next chunk after the caller has gone; so long it keeps its turn.
            let (files, flag, turn) = (self.files.clone(), cancelled.0.clone(), turn.clone());
            let running = Running::new(false, kinds.iter().copied());
            let copying = off_runtime(move || {
                let _turn = turn;
                concatenate(&files, parts, running, &flag)
            });
            match copying.await? {
                Ok(joined) => return Ok(Some(joined)),
                Err(NotJoined::Disk(error)) => return Err(disk_failure(&error).into()),
                Err(NotJoined::Cancelled) => return Err(Failure::Unanswered("nobody waits for it".to_owned()).into()),
                Err(NotJoined::Damaged(number, why)) => {
                    tracing::error!(upload = id, part = number, why, "a part of an upload is damaged");
                    return Err(Error::DamagedPart(number));
                }
                Err(NotJoined::Absent(number, place)) if absent == Some(place) => {
                    tracing::error!(upload = id, part = number, "the file of a part of an upload is not there");
                    return Err(Error::DamagedPart(number));
                }
                // It was replaced; or the upload has ended, which the next choice finds out.
                Err(NotJoined::Absent(_, place)) => absent = Some(place),
            }
        }
        Err(Failure::Throttled { after: TURN_PAUSE }.into())
    }

    /// The object that an upload has made, if it still stands there.
    async fn made_by(&self, at: &Location, id: &str) -> Result<Object, Error> {
        let place = at.clone();
        let there = self.look(move |index, _| index.find(&place)).await?;
        there.filter(|entry| entry.upload.as_deref() == Some(id)).map(Entry::object).ok_or(Error::NoUpload)
    }

    /// The parts that are meant, as they are now; `None` if the upload is not there any more.
    async fn choose(
        &self,
        id: &str,
        chosen: &[Chosen],
        of_parts: &Sums,
    ) -> Result<Option<Vec<(u32, PartEntry)>>, Error> {
        let name = id.to_owned();
        let found = self.look(move |index, _| {
            let parts = index.parts(&name, 0, PARTS_MAX as usize)?;
            // In this order: while the upload is there, its parts are.
            Ok(index.upload(&name)?.map(|_| parts))
        });
        let Some(all) = found.await? else { return Ok(None) };
        let mut all: BTreeMap<u32, PartEntry> = all.into_iter().collect();
        let mut parts: Vec<(u32, PartEntry)> = Vec::new();
        for Chosen { number, md5, sums } in chosen {
            if parts.last().is_some_and(|(before, _)| before >= number) {
                return Err(Error::Order);
            }
            let is_meant = |part: &PartEntry| {
                let known = |sum| part.sums.agree(&Sums::of([sum])) == Some(true);
                md5.is_none_or(|md5| md5 == part.md5) && sums.iter().copied().all(known)
            };
            match all.remove(number).filter(is_meant) {
                Some(part) => parts.push((*number, part)),
                None => return Err(Error::NoPart(*number)),
            }
        }
        digest::of_parts(of_parts, parts.iter().map(|(_, part)| &part.sums)).map_err(Error::Damaged)?;
        let small = parts.iter().rev().skip(1).find(|(_, part)| part.size < PART_BYTES_MIN);
        match (parts.is_empty(), small) {
            (true, _) => Err(Error::Invalid("an object is made of one part at least")),
            (_, Some((number, _))) => Err(Error::TooSmall(*number)),
            _ => Ok(Some(parts)),
        }
    }

    pub(super) async fn forget_upload(&self, at: &Location, id: &str) -> Result<(), Error> {
        let (at, id) = (at.clone(), id.to_owned());
        self.change(move |tables| {
            if upload_at(tables, &at, &id)?.is_none() {
                return Ok(Err(Error::NoUpload));
            }
            tables.remove_upload(&id)?;
            Ok(Ok(()))
        })
        .await
    }
}

/// What parts became.
struct Joined {
    parts: Vec<(u32, PartEntry)>,
    digested: Digested,
    fresh: Fresh,
}

enum NotJoined {
    Disk(io::Error),
    Cancelled,
    /// The file of this part is not there.
    Absent(u32, Place),
    /// It is not what was taken in.
    Damaged(u32, &'static str),
}

impl From<io::Error> for NotJoined {
    fn from(error: io::Error) -> Self {
        NotJoined::Disk(error)
    }
}

/// Set when nobody waits for a copy any more.
#[derive(Default)]
struct Cancel(Arc<AtomicBool>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One file of many, read once: judged and hashed as it is copied.
fn concatenate(
    files: &Arc<Files>,
    parts: Vec<(u32, PartEntry)>,
    running: Running,
    cancelled: &AtomicBool,
) -> Result<Joined, NotJoined> {
    let mut sink = Sink { running, fresh: files.create()? };
    let mut buffer = vec![0; CHUNK_BYTES];
    for (number, part) in &parts {
        let file = files.read(part.place).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => NotJoined::Absent(*number, part.place),
            _ => NotJoined::Disk(error),
        })?;
        append(&mut sink, file, *number, part, &mut buffer, cancelled)?;
    }
    let (digested, fresh) = sink.finish()?;
    Ok(Joined { parts, digested, fresh })
}

/// Its SHA-256 says all that its MD5 would.
fn append(
    sink: &mut Sink,
    mut file: fs::File,
    number: u32,
    part: &PartEntry,
    buffer: &mut [u8],
    cancelled: &AtomicBool,
) -> Result<(), NotJoined> {
    let (mut sha256, mut size) = (Sha256::new(), 0);
    loop {
        if cancelled.load(Ordering::Relaxed) {
            return Err(NotJoined::Cancelled);
        }
        let read = file.read(buffer)?;
        if read == 0 {
            break;
        }
        size += read as u64;
        if size > part.size {
            break;
        }
        sha256.update(&buffer[..read]);
        sink.append(&buffer[..read])?;
    }
    if size != part.size {
        return Err(NotJoined::Damaged(number, "it is not as long as what was taken in"));
    }
    match part.sums.sha256() == Some(sha256.finalize().into()) {
        true => Ok(()),
        false => Err(NotJoined::Damaged(number, "its SHA-256 is not that of what was taken in")),
    }
}

#[cfg(test)]
#[path = "uploads_tests.rs"]
mod tests;
