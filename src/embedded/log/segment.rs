//! One file of the log.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{BufMut, Bytes};

use super::{DIR, Error};
use crate::{
    core::{
        frame::{self, Kind, Step},
        journal::{Head, State},
    },
    ports::disk::{Disk, File},
};

pub const SEGMENT_HEADER_BYTES: u64 = 32;
const MAGIC: &[u8; 4] = b"HWLG";
const VERSION: u32 = 1;

/// Remember one place per this many bytes for seeking.
const INDEX_STRIDE: u64 = 256 << 10;

/// What of a segment is durable.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tail {
    pub bytes: u64,
    /// The head after the last durable record.
    pub head: Head,
    /// No more is written to it.
    pub closed: bool,
}

pub struct Segment {
    first: u64,
    path: String,
    file: Arc<dyn File>,
    state: State,
    tail: Mutex<Tail>,
    /// Some offsets and the positions of their frames, ascending.
    index: Mutex<Vec<(u64, u64)>>,
}

impl Segment {
    /// Makes a new last segment that begins with `state`. Durable, under its name, when this returns.
    pub async fn create(disk: &dyn Disk, state: &State, size: u64) -> Result<Segment, Error> {
        let first = state.head.offset + 1;
        let path = format!("{DIR}/{first:020}.log");
        let temporary = format!("{DIR}/next.tmp");
        let mut bytes = Vec::new();
        bytes.put_slice(MAGIC);
        bytes.put_u32_le(VERSION);
        bytes.put_u64_le(first);
        bytes.put_u32_le(crc32fast::hash(&bytes));
        bytes.resize(SEGMENT_HEADER_BYTES as usize, 0);
        frame::put(&mut bytes, Kind::Snapshot, |out| {
            // Plain data: encoding it cannot fail.
            out.extend(postcard::to_allocvec(state).unwrap_or_default());
        });
        let file = disk.create(&temporary, size + bytes.len() as u64).await?;
        file.write_at(0, &bytes).await?;
        file.sync().await?;
        disk.rename(&temporary, &path).await?;
        disk.sync_dir(DIR).await?;
        let tail = Tail { bytes: bytes.len() as u64, head: state.head, closed: false };
        Ok(Segment {
            first,
            path,
            file,
            state: state.clone(),
            tail: Mutex::new(tail),
            index: Mutex::new(vec![(first, tail.bytes)]),
        })
    }

    /// Opens a segment and reads its snapshot. Its tail is the whole file until it is scanned or closed.
    pub async fn open(disk: &dyn Disk, path: &str) -> Result<Segment, Error> {
        let file = disk.open(path).await?;
        let damaged =
            |position: u64, why: &str| Error::Damaged { file: path.to_owned(), position, why: why.to_owned() };
        let header = file.read_at(0, SEGMENT_HEADER_BYTES as usize).await?;
        let word = |at: usize| header.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        if !header.starts_with(MAGIC) {
            return Err(damaged(0, "not a segment of a hubweave log"));
        }
        let found = word(4).unwrap_or_default();
        if found != VERSION {
            return Err(Error::Version { file: path.to_owned(), found, expected: VERSION });
        }
        if word(16) != Some(crc32fast::hash(&header[..16])) {
            return Err(damaged(0, "the header's checksum does not fit"));
        }
        let (state, size) = match read_frame(&*file, SEGMENT_HEADER_BYTES).await? {
            Step::Frame { kind: Kind::Snapshot, payload, size } => {
                let state: State = State::decode(&payload)
                    .map_err(|error| damaged(SEGMENT_HEADER_BYTES, &format!("unreadable snapshot: {error}")))?;
                (state, size)
            }
            _ => return Err(damaged(SEGMENT_HEADER_BYTES, "no snapshot at the segment's start")),
        };
        let first = state.head.offset + 1;
        let begin = SEGMENT_HEADER_BYTES + size as u64;
        let tail = Tail { bytes: file.size().await?, head: state.head, closed: false };
        Ok(Segment {
            first,
            path: path.to_owned(),
            file,
            state,
            tail: Mutex::new(tail),
            index: Mutex::new(vec![(first, begin)]),
        })
    }

    /// The first offset that it may hold.
    pub fn first(&self) -> u64 {
        self.first
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// The log's head when the segment began.
    pub fn start(&self) -> Head {
        self.state.head
    }

    /// All that the region kept besides events when the segment began.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Where the first frame after the snapshot stands.
    pub fn begin(&self) -> u64 {
        self.index().first().map_or(SEGMENT_HEADER_BYTES, |(_, position)| *position)
    }

    pub fn tail(&self) -> Tail {
        *self.tail.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn set_tail(&self, tail: Tail) {
        *self.tail.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = tail;
    }

    /// No more is written: the next segment began with `head`.
    pub fn close(&self, head: Head) {
        let tail = self.tail();
        self.set_tail(Tail { head, closed: true, ..tail });
    }

    /// Remembers where `offset` stands, for seeking.
    pub fn remember(&self, offset: u64, position: u64) {
        let mut index = self.index();
        if index.last().is_none_or(|(known, at)| *known < offset && at + INDEX_STRIDE <= position) {
            index.push((offset, position));
        }
    }

    /// A position at or before the frame of `offset`.
    pub fn seek(&self, offset: u64) -> u64 {
        let index = self.index();
        let after = index.partition_point(|(known, _)| *known <= offset);
        index.get(after.saturating_sub(1)).map_or(SEGMENT_HEADER_BYTES, |(_, position)| *position)
    }

    fn index(&self) -> MutexGuard<'_, Vec<(u64, u64)>> {
        self.index.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Reads one frame by its place.
    pub async fn frame_at(&self, position: u64) -> Result<Step, Error> {
        Ok(read_frame(&*self.file, position).await?)
    }

    pub fn damaged(&self, position: u64, why: &str) -> Error {
        Error::Damaged { file: self.path.clone(), position, why: why.to_owned() }
    }
}

async fn read_frame(file: &dyn File, position: u64) -> std::io::Result<Step> {
    let mut length = 64 << 10;
    loop {
        let bytes: Bytes = file.read_at(position, length).await?;
        match frame::step(&bytes, 0) {
            Step::Partial { size } if bytes.len() == length && size > length => length = size,
            step => return Ok(step),
        }
    }
}
