//! Copies on S3's side, from the other end's bucket, called at the destination.
//!
//! An object of up to [`Options::copy_at_once_bytes`](super::Options) is one CopyObject, pinned by the source's version or
//! ETag, with `If-None-Match: *` for the destination. A larger one is an upload whose parts are copied side by side, and which
//! goes on where it was, as any other.
//!
//! Where S3 refuses (the destination's role may not read the source, a gateway endpoint does not lead to another region), the
//! caller streams, and copies are not tried again for a while: each would cost a request and a moment.

use std::time::Duration;

use aws_sdk_s3::types::TaggingDirective;
use futures::{TryStreamExt, stream};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{S3Objects, meta, refused, status};
use crate::{
    core::{key::hex, link::Failure},
    ports::objects::{Announced, Error, Location, Objects, Stat},
};

/// So long copies are left alone after one was refused: permissions are mended by people.
const REFUSED_PAUSE: Duration = Duration::from_secs(600);

/// Parts of one copy at once.
const PARTS_AT_ONCE: usize = 8;

/// One less than S3 takes: the last number is the marker's.
const PARTS_MAX: u64 = 9_999;

/// What stays as it is in the path of a source.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The very object that is copied, as S3 wants it named.
pub(super) struct Source {
    pub path: String,
    /// `None` where the path says which version.
    pub etag: Option<String>,
}

impl Source {
    fn of(from: &Location, version: &str) -> Source {
        let pin = meta::Pin::of(version);
        let mut path = format!("{}/{}", from.bucket, utf8_percent_encode(&from.key, PATH));
        if let Some(id) = pin.version_id() {
            path.push_str("?versionId=");
            path.extend(utf8_percent_encode(&id, PATH));
        }
        Source { path, etag: pin.etag() }
    }
}

impl S3Objects {
    pub(super) async fn copy_now(&self, from: &Location, stat: &Stat, to: &Location) -> Result<Option<Stat>, Error> {
        if self.copies_are_refused() {
            return Ok(None);
        }
        let source = Source::of(from, &stat.version);
        let copied = match stat.size <= self.options.copy_at_once_bytes {
            true => self.copy_at_once(&source, stat, to).await,
            false => self.copy_in_parts(&source, from, stat, to).await,
        };
        match copied {
            Ok(copied) => Ok(Some(copied)),
            Err(Error::Failure(Failure::Refused(why))) => {
                tracing::warn!(%from, %to, why, "S3 does not copy from there; objects go through this agent for a while");
                let until = Instant::now() + REFUSED_PAUSE;
                *self.copies_refused.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(until);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn copies_are_refused(&self) -> bool {
        let until = *self.copies_refused.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    async fn copy_at_once(&self, source: &Source, stat: &Stat, to: &Location) -> Result<Stat, Error> {
        let request = self
            .s3
            .copy_object()
            .bucket(&to.bucket)
            .key(&to.key)
            .copy_source(&source.path)
            .set_copy_source_if_match(source.etag.clone())
            // As where the bytes are streamed; and tags would need permissions of their own.
            .tagging_directive(TaggingDirective::Replace)
            .if_none_match("*");
        let answer = match request.customize().config_override(self.within(stat.size)).send().await {
            Ok(answer) => answer,
            // Both conditions are told alike: what stands there says which one it was.
            Err(error) if matches!(status(&error), Some(409 | 412)) => {
                return Err(match self.stat_now(to).await? {
                    Some(_) => Error::Exists,
                    None if status(&error) == Some(412) => Error::Gone,
                    None => Failure::Throttled { after: super::CONFLICT_PAUSE }.into(),
                });
            }
            Err(error) if status(&error) == Some(404) => return Err(super::gone_if_changed(&error)),
            Err(error) => return Err(refused(&error)),
        };
        let result = answer.copy_object_result();
        Ok(Stat {
            size: stat.size,
            sums: result.map(meta::sums_of_copy).unwrap_or_default(),
            version: meta::version(answer.version_id(), result.and_then(|result| result.e_tag())),
            modified: meta::timestamp(result.and_then(|result| result.last_modified())),
            attributes: stat.attributes.clone(),
        })
    }

    async fn copy_in_parts(&self, source: &Source, from: &Location, stat: &Stat, to: &Location) -> Result<Stat, Error> {
        let part = self.options.copy_part_bytes.max(stat.size.div_ceil(PARTS_MAX));
        let parts = u32::try_from(stat.size.div_ceil(part)).unwrap_or(u32::MAX);
        let announced = Announced::copy_of(stat);
        let tag = hex(&Sha256::digest(format!("copy {from} {} {} {part}", stat.version, stat.size)));
        let upload = self.begin_now(to, &announced, &tag).await?;
        let range = |number: u32| {
            let start = u64::from(number - 1) * part;
            start..stat.size.min(start + part)
        };
        let missing = (1..=parts).filter(|number| {
            let range = range(*number);
            upload.parts.get(number) != Some(&(range.end - range.start))
        });
        let copied = stream::iter(missing.map(Ok::<u32, Error>))
            .try_for_each_concurrent(PARTS_AT_ONCE, |number| self.copy_part(to, &upload, number, source, range(number)))
            .await;
        if let Err(Error::Gone | Error::Failure(Failure::Refused(_))) = &copied {
            // Nobody will ever finish it.
            let _ = self.abort(to, &upload).await;
        }
        copied?;
        self.finish_now(to, &upload, parts, announced).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_named_with_its_version_and_escaped_keys() {
        let from = Location::new("b-1", "a/знак ?&=+%#;~._-");
        let source = Source::of(&from, "v:x+/=");
        let key = "a/%D0%B7%D0%BD%D0%B0%D0%BA%20%3F%26%3D%2B%25%23%3B~._-";
        assert_eq!(source.path, format!("b-1/{key}?versionId=x%2B/%3D"));
        assert_eq!(source.etag, None);
        let source = Source::of(&from, "\"etag\"");
        assert_eq!((source.path, source.etag.as_deref()), (format!("b-1/{key}"), Some("\"etag\"")));
    }
}
