//! Takes bytes in: hashes them, keeps few in memory and the rest in a file, and judges whether they are what was announced.

use std::{io, io::Write, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio::task::JoinHandle;

use super::{
    CHUNK_BYTES,
    digest::{Digested, Running, kinds},
    disk_failure,
    files::{Files, Fresh},
    index::Stored,
    off_runtime,
};
use crate::{
    core::{link::Failure, object::Sums},
    ports::{
        objects::Body,
        store::{Error, Expected},
    },
};

/// Takes all of `body` in. What is not longer than `inline_max` stays in memory, the rest goes to a file, synced.
///
/// # Errors
/// The body broke off or is not what was expected, or the disk failed. Nothing is left behind.
pub async fn receive(
    files: &Arc<Files>,
    inline_max: usize,
    mut expected: Expected,
    mut body: Body,
) -> Result<(Digested, Stored), Error> {
    let mut running = Running::new(true, kinds(&expected));
    let mut chunk = Chunk::default();
    let announced_small = expected.size.is_none_or(|size| size <= inline_max as u64);
    let mut sink: Option<Sinking> = None;
    let mut size = 0u64;
    while let Some(bytes) = body.next().await {
        let bytes = bytes?;
        size += bytes.len() as u64;
        if let Some(announced) = expected.size.filter(|announced| size > *announced) {
            return Err(Error::Damaged(format!("more than {announced} bytes")));
        }
        chunk.push(bytes);
        let full = if sink.is_none() && announced_small { inline_max + 1 } else { CHUNK_BYTES };
        if chunk.length >= full {
            let ready = match sink.take() {
                Some(sinking) => sinking.done().await?,
                None => {
                    let files = files.clone();
                    let fresh = off_runtime(move || files.create()).await?.map_err(|error| disk_failure(&error))?;
                    let running = std::mem::replace(&mut running, Running::new(false, []));
                    Sink { running, fresh }
                }
            };
            sink = Some(ready.write(std::mem::take(&mut chunk)));
        }
    }
    let (digested, stored) = match sink {
        Some(sinking) => {
            let sink = sinking.done().await?.write(chunk).done().await?;
            let (digested, fresh) = off_runtime(move || sink.finish()).await?.map_err(|error| disk_failure(&error))?;
            (digested, Stored::File(fresh))
        }
        None if chunk.length <= inline_max => {
            let bytes = chunk.pieces().concat();
            running.update(&bytes);
            (running.finish(), Stored::Inline(files.place(), bytes))
        }
        // Less than a chunk came, but more than may stay.
        None => {
            let files = files.clone();
            let written = off_runtime(move || {
                let mut sink = Sink { running, fresh: files.create()? };
                sink.take(chunk)?;
                sink.finish()
            });
            let (digested, fresh) = written.await?.map_err(|error| disk_failure(&error))?;
            (digested, Stored::File(fresh))
        }
    };
    let late = expected.late.take().map_or(Ok(Sums::default()), |late| late());
    late.and_then(|late| digested.check(&expected, &late)).map_err(Error::Damaged)?;
    Ok((digested, stored))
}

/// A piece of fewer bytes is copied: as a slice it would keep alive all that was read with it.
const PIECE_BYTES_MIN: usize = 4 << 10;

/// Pieces that are written together.
#[derive(Default)]
struct Chunk {
    pieces: Vec<Bytes>,
    /// Small pieces that came last, copied together.
    small: BytesMut,
    length: usize,
}

impl Chunk {
    fn push(&mut self, bytes: Bytes) {
        self.length += bytes.len();
        if bytes.len() < PIECE_BYTES_MIN {
            self.small.extend_from_slice(&bytes);
            return;
        }
        self.seal();
        self.pieces.push(bytes);
    }

    fn seal(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push(self.small.split().freeze());
        }
    }

    fn pieces(mut self) -> Vec<Bytes> {
        self.seal();
        self.pieces
    }
}

/// A file under way.
pub struct Sink {
    pub running: Running,
    pub fresh: Fresh,
}

impl Sink {
    /// Hashes and writes on another thread while the next pieces arrive.
    fn write(mut self, chunk: Chunk) -> Sinking {
        Sinking(tokio::task::spawn_blocking(move || self.take(chunk).map(|()| self)))
    }

    fn take(&mut self, chunk: Chunk) -> io::Result<()> {
        chunk.pieces().iter().try_for_each(|piece| self.append(piece))
    }

    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.running.update(bytes);
        self.fresh.file.write_all(bytes)
    }

    /// Makes the bytes durable; the file's name is made so by the writer.
    pub fn finish(self) -> io::Result<(Digested, Fresh)> {
        self.fresh.file.sync_all()?;
        Ok((self.running.finish(), self.fresh))
    }
}

struct Sinking(JoinHandle<io::Result<Sink>>);

impl Sinking {
    async fn done(self) -> Result<Sink, Failure> {
        match self.0.await {
            Ok(written) => written.map_err(|error| disk_failure(&error)),
            Err(error) => Err(Failure::Unanswered(format!("the object store was interrupted: {error}"))),
        }
    }
}
