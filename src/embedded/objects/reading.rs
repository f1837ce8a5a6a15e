//! Reading bodies: of the version that was pinned, whole or in part.

use std::{fs, ops::Range, os::unix::fs::FileExt};

use bytes::Bytes;
use futures::{StreamExt, stream};
use sha2::{Digest, Sha256};

use super::{
    CHUNK_BYTES, LocalObjects, disk_failure,
    files::Files,
    index::{Broken, Entry, Index},
    off_runtime,
};
use crate::{
    core::link::Failure,
    ports::{objects::Body, objects::Location, store::Error},
};

/// A body that was found.
pub enum Open {
    Inline(Vec<u8>),
    File(fs::File),
    /// Another version stands there, or nothing.
    Gone,
    /// The object is there and its body is not, or not as long as it was.
    Lost(String),
}

/// Finds the body of a version.
fn find(index: &Index, files: &Files, at: &Location, version: &str) -> Result<(Option<Entry>, Open), Broken> {
    let Some((entry, body)) = index.find_body(at)? else { return Ok((None, Open::Gone)) };
    if entry.place.to_string() != version {
        return Ok((None, Open::Gone));
    }
    let open = match body {
        Some(body) => Open::Inline(body),
        None if entry.inline => Open::Lost("its body is not in the index".to_owned()),
        None => match files.read(entry.place).and_then(|file| Ok((file.metadata()?.len(), file))) {
            Ok((length, file)) if length == entry.size => Open::File(file),
            Ok((length, _)) => Open::Lost(format!("its file has {length} bytes instead of {}", entry.size)),
            Err(error) => Open::Lost(format!("its file cannot be opened: {error}")),
        },
    };
    Ok((Some(entry), open))
}

impl LocalObjects {
    /// Bytes of the version that was found.
    pub(super) async fn read_version(
        &self,
        at: &Location,
        version: &str,
        range: Range<u64>,
    ) -> Result<Option<Body>, Error> {
        let (place, pinned) = (at.clone(), version.to_owned());
        let question = move |index: &Index, files: &Files| match find(index, files, &place, &pinned)? {
            // A file goes after the index has forgotten it: then this looked in between.
            (_, Open::Lost(_)) => find(index, files, &place, &pinned),
            found => Ok(found),
        };
        let (entry, open) = self.look(question).await?;
        let Some(entry) = entry else { return Ok(None) };
        if range.start > range.end || range.end > entry.size {
            return Err(Error::Invalid("the range is not within the object"));
        }
        let whole = range == (0..entry.size);
        let lost = |why: &str| {
            tracing::error!(object = %at, why, "an object is damaged");
            Failure::Unanswered(format!("{at} is damaged: {why}"))
        };
        match open {
            Open::Gone => Ok(None),
            Open::Lost(why) => Err(lost(&why).into()),
            Open::Inline(body) => {
                if entry.sums.sha256() != Some(Sha256::digest(&body).into()) {
                    return Err(lost("its body in the index is not what was written").into());
                }
                let bounds = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
                let body = Bytes::from(body);
                let part = bounds.and_then(|(start, end)| (end <= body.len()).then(|| body.slice(start..end)));
                let part = part.ok_or_else(|| lost("its body in the index is too short"))?;
                Ok(Some(stream::iter((!part.is_empty()).then_some(Ok(part))).boxed()))
            }
            Open::File(file) => {
                let check = whole.then(|| (Sha256::new(), entry.sums.sha256()));
                let reading = Reading { file, at: at.clone(), next: range.start, end: range.end, check };
                Ok(Some(stream::try_unfold(reading, Reading::step).boxed()))
            }
        }
    }
}

/// A file under way to a reader.
struct Reading {
    file: fs::File,
    at: Location,
    next: u64,
    end: u64,
    /// Of whole reads: the SHA-256 so far, and what it must be.
    check: Option<(Sha256, Option<[u8; 32]>)>,
}

impl Reading {
    async fn step(self) -> Result<Option<(Bytes, Self)>, Failure> {
        if self.next == self.end {
            return Ok(None);
        }
        off_runtime(move || self.chunk()).await?.map(Some)
    }

    fn chunk(mut self) -> Result<(Bytes, Self), Failure> {
        let length = usize::try_from(self.end - self.next).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        let mut chunk = vec![0; length];
        self.file.read_exact_at(&mut chunk, self.next).map_err(|error| disk_failure(&error))?;
        self.next += length as u64;
        if let Some((sha256, _)) = &mut self.check {
            sha256.update(&chunk);
        }
        // The last bytes are held back where the whole is not what was written.
        if self.next == self.end
            && let Some((sha256, expected)) = self.check.take()
            && expected != Some(sha256.finalize().into())
        {
            tracing::error!(object = %self.at, "an object is damaged: its file is not what was written");
            return Err(Failure::Unanswered(format!("{} is damaged: its file is not what was written", self.at)));
        }
        Ok((chunk.into(), self))
    }
}
