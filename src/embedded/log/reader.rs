//! A place in the log that moves on, over segments, up to what is durable.

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};

use super::{Log, Segment};
use crate::{
    core::{
        event::Record,
        frame::{self, Kind, Step},
        journal::Change,
    },
    ports::hub::{ReadError, Reader},
};

pub struct LogReader {
    log: Arc<Log>,
    /// The last offset read.
    after: u64,
    /// Where the next frame stands, once it is known.
    place: Option<(Arc<Segment>, u64)>,
}

/// What a pass over some frames may collect.
struct Limits {
    events: usize,
    bytes: usize,
}

/// Which changes to collect, and those that were.
struct Changes<'a> {
    keep: &'a mut (dyn FnMut(&Change) -> bool + Send),
    kept: Vec<Change>,
}

impl LogReader {
    pub fn new(log: Arc<Log>, after: u64) -> Self {
        Self { log, after, place: None }
    }

    fn find(&mut self) -> Result<(Arc<Segment>, u64), ReadError> {
        if let Some(place) = &self.place {
            return Ok(place.clone());
        }
        let start = self.log.start();
        let segment = match self.log.find(self.after + 1) {
            Some(segment) if self.after >= start.offset => segment,
            _ => return Err(ReadError::Dropped { base: start.offset, mark: start.mark() }),
        };
        let position = segment.seek(self.after + 1);
        Ok((segment, position))
    }

    async fn pass(&mut self, limits: &Limits, mut changes: Option<&mut Changes<'_>>) -> Result<Vec<Record>, ReadError> {
        let mut records = Vec::new();
        let mut length = limits.bytes.max(4096);
        loop {
            let (segment, position) = self.find()?;
            let tail = segment.tail();
            let available = usize::try_from(tail.bytes.saturating_sub(position)).unwrap_or(usize::MAX);
            let failed = |why: String| ReadError::Failed(format!("{}, byte {position}: {why}", segment.path()));
            let bytes = segment
                .file()
                .read_at(position, length.min(available))
                .await
                .map_err(|error| failed(error.to_string()))?;
            let mut at = 0;
            let ended = loop {
                if records.len() >= limits.events {
                    break false;
                }
                match frame::step(&bytes, at) {
                    Step::Frame { kind: Kind::Event, payload, size } => {
                        let place = position + at as u64;
                        at += size;
                        // What is only passed over, from the index's mark on, is not looked into.
                        if let Some(offset) = Record::offset_of(&payload).filter(|offset| *offset <= self.after) {
                            segment.remember(offset, place);
                            continue;
                        }
                        let record = Record::parse(payload).map_err(|error| failed(error.to_string()))?;
                        let offset = record.header.offset;
                        segment.remember(offset, place);
                        if offset > self.after + 1 {
                            return Err(failed(format!("offset {offset} follows {}", self.after)));
                        }
                        self.after = offset;
                        records.push(record);
                    }
                    Step::Frame { kind: Kind::Change, payload, size } => {
                        // A dead letter's change is followed by the event.
                        if let Some(changes) = &mut changes
                            && let Ok((change, _)) = postcard::take_from_bytes::<Change>(&payload)
                            && (changes.keep)(&change)
                        {
                            changes.kept.push(change);
                        }
                        at += size;
                    }
                    Step::Frame { size, .. } => at += size,
                    Step::Partial { size } if at == 0 && size > length => {
                        length = size;
                        break false;
                    }
                    // The read may have stopped at a frame's border, or within the zeros of one's prefix.
                    Step::Partial { .. } => break available <= bytes.len(),
                    Step::End if at + frame::PREFIX_BYTES > bytes.len() => break available <= bytes.len(),
                    Step::End => break true,
                    Step::Garbage(why) => return Err(failed(why.to_owned())),
                }
            };
            self.place = Some((segment.clone(), position + at as u64));
            if records.len() >= limits.events {
                return Ok(records);
            }
            if ended {
                // A closed segment is followed by another; an open one ends at what is durable.
                let next = if tail.closed { self.log.after(segment.first()) } else { None };
                match next {
                    // Segments in between were dropped while this one was read.
                    Some(next) if next.first() > self.after + 1 => {
                        self.place = None;
                        let start = next.start();
                        return match records.is_empty() {
                            true => Err(ReadError::Dropped { base: start.offset, mark: start.mark() }),
                            false => Ok(records),
                        };
                    }
                    Some(next) => self.place = Some((next.clone(), next.begin())),
                    None => return Ok(records),
                }
            }
            if !records.is_empty() && changes.is_none() {
                return Ok(records);
            }
        }
    }
}

impl Reader for LogReader {
    fn next(&mut self, events: usize, bytes: usize) -> BoxFuture<'_, Result<Vec<Record>, ReadError>> {
        async move {
            let limits = Limits { events, bytes };
            self.pass(&limits, None).await
        }
        .boxed()
    }

    fn seek(&mut self, after: u64) {
        self.after = after;
        self.place = None;
    }

    fn changes<'a>(
        &'a mut self,
        keep: &'a mut (dyn FnMut(&Change) -> bool + Send),
    ) -> BoxFuture<'a, Result<Vec<Change>, ReadError>> {
        async move {
            let limits = Limits { events: 8192, bytes: 4 << 20 };
            let mut changes = Changes { keep, kept: Vec::new() };
            while !self.pass(&limits, Some(&mut changes)).await?.is_empty() {}
            Ok(changes.kept)
        }
        .boxed()
    }
}
