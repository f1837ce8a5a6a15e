//! What services ask of the store.

use std::{collections::BTreeMap, ops::Range};

use futures::{FutureExt, future::BoxFuture};

use super::{
    INLINE_BYTES_MAX, LocalObjects,
    files::Place,
    index::{Entry, Stored},
    intake, listing,
};
use crate::{
    core::{
        object::{Location, check_bucket, hex},
        time::Timestamp,
    },
    ports::{
        objects::Body,
        store::{Begun, Chosen, Condition, Crc, Error, Expected, Intent, Object, Page, Part, Query, Store},
    },
};

/// Whether a condition holds for what stands there.
pub fn holds(condition: &Condition, there: Option<&Entry>) -> bool {
    match condition {
        Condition::Always => true,
        Condition::Absent => there.is_none(),
        Condition::Is(etag) => there.is_some_and(|there| there.etag == *etag),
    }
}

/// What is answered where it does not: S3 tells apart whether there is anything.
pub fn refused_as(condition: &Condition, there: Option<&Entry>) -> Error {
    match (condition, there) {
        (Condition::Is(_), None) => Error::NoObject,
        _ => Error::Condition,
    }
}

impl LocalObjects {
    /// Takes an object in and puts it where it belongs, if the condition holds then.
    pub(super) async fn receive(
        &self,
        at: &Location,
        intent: Intent,
        expected: Expected,
        body: Body,
    ) -> Result<Object, Error> {
        at.check().map_err(Error::Invalid)?;
        let Intent { attributes, condition } = intent;
        if condition != Condition::Always {
            // Before the bytes arrive. Who wins is decided below.
            let (place, judged) = (at.clone(), condition.clone());
            let there = self.look(move |index, _| index.find(&place)).await?;
            if !holds(&judged, there.as_ref()) {
                return Err(refused_as(&judged, there.as_ref()));
            }
        }
        let (digested, stored) = intake::receive(&self.files, INLINE_BYTES_MAX, expected, body).await?;
        let entry = Entry {
            place: stored.place(),
            inline: matches!(stored, Stored::Inline(..)),
            size: digested.size,
            etag: hex(&digested.md5),
            sums: digested.sums,
            modified: self.clock.now(),
            attributes,
            upload: None,
        };
        let at = at.clone();
        self.change(move |tables| {
            let there = tables.find(&at)?;
            if !holds(&condition, there.as_ref()) {
                return Ok(Err(refused_as(&condition, there.as_ref())));
            }
            tables.put(&at, &entry, stored)?;
            Ok(Ok(entry.object()))
        })
        .await
    }

    pub(super) async fn find_object(&self, at: &Location) -> Result<Option<Object>, Error> {
        let place = at.clone();
        Ok(self.look(move |index, _| index.find(&place)).await?.map(Entry::object))
    }

    /// A name that no other upload has.
    fn upload_id(&self) -> String {
        let Place { life, number } = self.files.place();
        format!("{life:016x}{number:016x}")
    }
}

impl Store for LocalObjects {
    fn buckets(&self) -> BoxFuture<'_, Result<Vec<(String, Timestamp)>, Error>> {
        async move { Ok(self.look(|index, _| index.buckets()).await?) }.boxed()
    }

    fn bucket<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Timestamp>, Error>> {
        let name = name.to_owned();
        async move { Ok(self.look(move |index, _| index.bucket(&name)).await?) }.boxed()
    }

    fn create_bucket<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool, Error>> {
        let (name, now) = (name.to_owned(), self.clock.now());
        async move {
            check_bucket(&name).map_err(Error::Invalid)?;
            self.change(move |tables| Ok(Ok(tables.make_bucket(&name, now)?))).await
        }
        .boxed()
    }

    fn delete_bucket<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        let name = name.to_owned();
        let judge = self.change(move |tables| {
            if !tables.has_bucket(&name)? {
                return Ok(Err(Error::NoBucket));
            }
            if tables.in_use(&name)? {
                return Ok(Err(Error::NotEmpty));
            }
            tables.remove_bucket(&name)?;
            Ok(Ok(()))
        });
        judge.boxed()
    }

    fn find<'a>(&'a self, at: &'a Location) -> BoxFuture<'a, Result<Option<Object>, Error>> {
        self.find_object(at).boxed()
    }

    fn open<'a>(&'a self, at: &'a Location, version: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Body, Error>> {
        async move { self.read_version(at, version, range).await?.ok_or(Error::NoObject) }.boxed()
    }

    fn write<'a>(
        &'a self,
        at: &'a Location,
        intent: Intent,
        expected: Expected,
        body: Body,
    ) -> BoxFuture<'a, Result<Object, Error>> {
        self.receive(at, intent, expected, body).boxed()
    }

    fn remove<'a>(&'a self, at: &'a Location, condition: Condition) -> BoxFuture<'a, Result<bool, Error>> {
        let at = at.clone();
        let judge = self.change(move |tables| {
            if condition != Condition::Always {
                let there = tables.find(&at)?;
                if !holds(&condition, there.as_ref()) {
                    return Ok(Err(refused_as(&condition, there.as_ref())));
                }
            }
            Ok(Ok(tables.remove(&at)?))
        });
        judge.boxed()
    }

    fn list<'a>(&'a self, bucket: &'a str, query: &'a Query) -> BoxFuture<'a, Result<Page<(String, Object)>, Error>> {
        let (name, query) = (bucket.to_owned(), query.clone());
        async move {
            let page = self.look(move |index, _| match index.bucket(&name)? {
                Some(_) => listing::list(index, &name, &query).map(Some),
                None => Ok(None),
            });
            page.await?.ok_or(Error::NoBucket)
        }
        .boxed()
    }

    fn begin_upload<'a>(
        &'a self,
        at: &'a Location,
        attributes: BTreeMap<String, String>,
        kinds: Vec<Crc>,
    ) -> BoxFuture<'a, Result<Begun, Error>> {
        async move { Ok(self.begin_as(at, self.upload_id(), attributes, &kinds).await?.0) }.boxed()
    }

    fn upload<'a>(&'a self, at: &'a Location, id: &'a str) -> BoxFuture<'a, Result<Begun, Error>> {
        async move { Ok(self.find_upload(at, id).await?.begun(id)) }.boxed()
    }

    fn write_part<'a>(
        &'a self,
        at: &'a Location,
        id: &'a str,
        number: u32,
        expected: Expected,
        body: Body,
    ) -> BoxFuture<'a, Result<Part, Error>> {
        self.receive_part(at, id, number, expected, body).boxed()
    }

    fn complete<'a>(
        &'a self,
        at: &'a Location,
        id: &'a str,
        parts: Vec<Chosen>,
        expected: Expected,
        condition: Condition,
    ) -> BoxFuture<'a, Result<Object, Error>> {
        self.join(at, id, parts, expected, condition).boxed()
    }

    fn abandon<'a>(&'a self, at: &'a Location, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        self.forget_upload(at, id).boxed()
    }

    fn parts<'a>(
        &'a self,
        at: &'a Location,
        id: &'a str,
        after: u32,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Part>, Error>> {
        async move {
            self.find_upload(at, id).await?;
            let name = id.to_owned();
            let parts = self.look(move |index, _| index.parts(&name, after, limit)).await?;
            Ok(parts.into_iter().map(|(number, part)| part.part(number)).collect())
        }
        .boxed()
    }

    fn uploads<'a>(&'a self, bucket: &'a str) -> BoxFuture<'a, Result<Vec<Begun>, Error>> {
        let bucket = bucket.to_owned();
        async move {
            let all = self.look(|index, _| index.uploads()).await?;
            let mut uploads: Vec<Begun> = all
                .into_iter()
                .filter(|(_, upload)| upload.at.bucket == bucket)
                .map(|(id, upload)| upload.begun(&id))
                .collect();
            uploads.sort_by(|a, b| (&a.at.key, a.begun, &a.id).cmp(&(&b.at.key, b.begun, &b.id)));
            Ok(uploads)
        }
        .boxed()
    }
}
