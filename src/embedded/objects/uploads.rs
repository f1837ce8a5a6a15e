//! Uploads in parts: each part is a file; in the end they become one.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    sync::Arc,
    time::Duration,
};

use super::{
    CHUNK_BYTES, INLINE_BYTES_MAX, LocalObjects,
    digest::{Digested, Running, kinds},
    disk_failure,
    files::{Files, Fresh, Place},
    index::{Broken, Entry, PartEntry, Stored, Tables, UploadEntry, etag_of_parts},
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
        store::{Begun, Chosen, Condition, Error, Expected, Object, PART_BYTES_MIN, PARTS_MAX, Part, UPLOADS_MAX},
    },
};

/// What those meet who begin one upload too many.
const UPLOADS_PAUSE: Duration = Duration::from_secs(10);

/// Forgets uploads that were begun before; answers how many.
pub fn drop_stale(tables: &mut Tables<'_>, before: Timestamp) -> Result<usize, Broken> {
    let stale: Vec<String> =
        tables.all_uploads()?.into_iter().filter(|(_, upload)| upload.begun < before).map(|(id, _)| id).collect();
    stale.iter().try_for_each(|id| tables.remove_upload(id))?;
    Ok(stale.len())
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
        kinds: &[crate::ports::store::Crc],
    ) -> Result<(Begun, BTreeMap<u32, u64>), Error> {
        at.check().map_err(Error::Invalid)?;
        let upload = UploadEntry::new(at.clone(), attributes, kinds, self.clock.now());
        self.change(move |tables| {
            if let Some(known) = tables.upload(&id)? {
                let parts = tables.parts(&id)?.into_iter().map(|(number, part)| (number, part.size));
                return Ok(Ok((known.begun(&id), parts.collect())));
            }
            if tables.upload_count()? >= UPLOADS_MAX as u64 {
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
        let parts = self.choose(id, chosen).await?;
        expected.kinds.extend(upload.kinds());
        let Ok(_turn) = self.joins.acquire().await else { return Err(Error::NoUpload) };
        let (files, places) = (self.files.clone(), parts.iter().map(|(_, part)| part.place).collect::<Vec<Place>>());
        let running = Running::new(false, kinds(&expected));
        let joined = off_runtime(move || concatenate(&files, &places, running)).await?;
        let (digested, fresh) = match joined {
            Ok(joined) => joined,
            // Another call has ended the upload, or it replaced a part.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.made_by(at, id).await,
            Err(error) => return Err(disk_failure(&error).into()),
        };
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

    /// The object that an upload has made, if it still stands there.
    async fn made_by(&self, at: &Location, id: &str) -> Result<Object, Error> {
        let place = at.clone();
        let there = self.look(move |index, _| index.find(&place)).await?;
        there.filter(|entry| entry.upload.as_deref() == Some(id)).map(Entry::object).ok_or(Error::NoUpload)
    }

    async fn choose(&self, id: &str, chosen: Vec<Chosen>) -> Result<Vec<(u32, PartEntry)>, Error> {
        let name = id.to_owned();
        let all = self.look(move |index, _| index.parts(&name, 0, PARTS_MAX as usize)).await?;
        let mut all: BTreeMap<u32, PartEntry> = all.into_iter().collect();
        let mut parts: Vec<(u32, PartEntry)> = Vec::new();
        for Chosen { number, md5 } in chosen {
            if parts.last().is_some_and(|(before, _)| *before >= number) {
                return Err(Error::Order);
            }
            match all.remove(&number) {
                Some(part) if md5.is_none_or(|md5| md5 == part.md5) => parts.push((number, part)),
                _ => return Err(Error::NoPart(number)),
            }
        }
        let small = parts.iter().rev().skip(1).find(|(_, part)| part.size < PART_BYTES_MIN);
        match (parts.is_empty(), small) {
            (true, _) => Err(Error::Invalid("an object is made of one part at least")),
            (_, Some((number, _))) => Err(Error::TooSmall(*number)),
            _ => Ok(parts),
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

/// One file of many, read once: hashed as it is copied.
fn concatenate(files: &Arc<Files>, places: &[Place], running: Running) -> io::Result<(Digested, Fresh)> {
    // Opened first: whatever is removed meanwhile, these are the parts that were chosen.
    let mut sink = Sink { running, fresh: files.create()? };
    let mut buffer = vec![0; CHUNK_BYTES.max(INLINE_BYTES_MAX)];
    for place in places {
        let mut part = files.read(*place)?;
        loop {
            match part.read(&mut buffer)? {
                0 => break,
                read => sink.append(&buffer[..read])?,
            }
        }
    }
    sink.finish()
}
