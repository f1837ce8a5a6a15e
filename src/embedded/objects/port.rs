//! What agents ask of the store: nothing is ever replaced.

use std::ops::Range;

use futures::{FutureExt, future::BoxFuture};
use sha2::{Digest, Sha256};

use super::LocalObjects;
use crate::{
    core::{
        link::Failure,
        object::{Location, Stat, hex},
    },
    ports::{
        objects::{Announced, Body, Error, Objects, Upload},
        store::{self, Chosen, Condition, Crc, Expected, Intent, PARTS_MAX},
    },
};

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::NoObject | store::Error::NoUpload => Error::Gone,
            store::Error::Condition => Error::Exists,
            store::Error::Damaged(why) => Error::Damaged(why),
            store::Error::NoPart(_)
            | store::Error::DamagedPart(_)
            | store::Error::Order
            | store::Error::TooSmall(_) => Error::Damaged(error.to_string()),
            store::Error::Failure(failure) => Error::Failure(failure),
            store::Error::NoBucket | store::Error::NotEmpty | store::Error::Invalid(_) => {
                Error::Failure(Failure::Refused(error.to_string()))
            }
        }
    }
}

fn expected(announced: &Announced) -> Expected {
    Expected { size: Some(announced.size), sums: announced.sums.clone(), ..Expected::default() }
}

/// Stands for bytes, place and tag: beginning twice is going on.
fn upload_id(at: &Location, tag: &str) -> String {
    let text = [at.bucket.as_bytes(), at.key.as_bytes(), tag.as_bytes()].join(&0);
    hex(&Sha256::digest(text))
}

impl Objects for LocalObjects {
    fn stat<'a>(&'a self, at: &'a Location) -> BoxFuture<'a, Result<Option<Stat>, Error>> {
        async move { Ok(self.find_object(at).await?.map(|object| object.stat)) }.boxed()
    }

    fn read<'a>(&'a self, at: &'a Location, version: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Body, Error>> {
        async move { self.read_version(at, version, range).await?.ok_or(Error::Gone) }.boxed()
    }

    fn put<'a>(&'a self, at: &'a Location, announced: Announced, body: Body) -> BoxFuture<'a, Result<Stat, Error>> {
        async move {
            let expected = expected(&announced);
            let intent = Intent { attributes: announced.attributes, condition: Condition::Absent };
            Ok(self.receive(at, intent, expected, body).await?.stat)
        }
        .boxed()
    }

    fn begin<'a>(
        &'a self,
        at: &'a Location,
        announced: &'a Announced,
        tag: &'a str,
    ) -> BoxFuture<'a, Result<Upload, Error>> {
        async move {
            let kinds: Vec<Crc> = announced.sums.iter().filter_map(Crc::of).collect();
            let id = upload_id(at, tag);
            let (begun, parts) = self.begin_as(at, id, announced.attributes.clone(), &kinds).await?;
            Ok(Upload { id: begun.id, parts })
        }
        .boxed()
    }

    fn put_part<'a>(
        &'a self,
        at: &'a Location,
        upload: &'a Upload,
        number: u32,
        size: u64,
        body: Body,
    ) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let expected = Expected { size: Some(size), ..Expected::default() };
            self.receive_part(at, &upload.id, number, expected, body).await?;
            Ok(())
        }
        .boxed()
    }

    fn finish<'a>(
        &'a self,
        at: &'a Location,
        upload: &'a Upload,
        parts: u32,
        announced: Announced,
    ) -> BoxFuture<'a, Result<Stat, Error>> {
        async move {
            // It comes from elsewhere, and memory is set aside for it.
            if !(1..=PARTS_MAX).contains(&parts) {
                return Err(store::Error::Invalid("an upload has between 1 and 10000 parts").into());
            }
            let chosen = (1..=parts).map(|number| Chosen { number, ..Chosen::default() }).collect();
            let joined = self.join(at, &upload.id, chosen, expected(&announced), Condition::Absent).await;
            let error = match joined {
                Ok(object) => return Ok(object.stat),
                Err(error) => Error::from(error),
            };
            if matches!(error, Error::Damaged(_) | Error::Exists) {
                self.abort(at, upload).await?;
            }
            Err(error)
        }
        .boxed()
    }

    fn abort<'a>(&'a self, at: &'a Location, upload: &'a Upload) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            match self.forget_upload(at, &upload.id).await {
                Ok(()) | Err(store::Error::NoUpload) => Ok(()),
                Err(error) => Err(error.into()),
            }
        }
        .boxed()
    }
}
