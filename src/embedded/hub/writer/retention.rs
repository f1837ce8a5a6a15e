//! Where the log's segments begin and end, and when they go.

use std::{collections::VecDeque, sync::Arc};

use super::{
    super::{OpenError, letter_event},
    GROUP_BYTES, Writer,
};
use crate::{
    core::journal::Change,
    embedded::log::{self, Segment},
};

impl Writer {
    pub(super) async fn roll_if_full(&mut self) -> Result<(), OpenError> {
        let size = self.parts.options.segment_bytes;
        let margin = (GROUP_BYTES as u64).min(size / 4);
        // Measured from the first group on: a large snapshot must not make every group roll.
        let full = |segment: &Arc<Segment>| segment.tail().bytes - segment.begin() + margin > size;
        // A segment is named after its first offset. One without an event grows on: the next would take its name, and
        // with it the place of its dead letters.
        let has_events = |segment: &Arc<Segment>| segment.first() <= segment.tail().head.offset;
        let Some(segment) = self.segment().filter(full).filter(has_events) else { return Ok(()) };
        let state = self.state().clone();
        let next = Segment::create(&*self.parts.disk, &state, size).await?;
        segment.close(self.head);
        self.parts.log.push(Arc::new(next));
        Ok(())
    }

    /// Drops the oldest segments that nobody needs, and those beyond the size limit whoever needs them.
    pub(super) async fn retain(&mut self, needed_after: u64) -> Result<(), OpenError> {
        let now = self.parts.clock.now();
        self.parts.ledger.expire(now).await?;
        let mut to_drop = VecDeque::new();
        let mut bytes = self.parts.log.bytes();
        let segments = self.parts.log.segments();
        for segment in segments.iter().filter(|segment| segment.tail().closed) {
            let tail = segment.tail();
            let old = tail.head.accepted.plus(self.parts.options.log_retention) <= now;
            if (old && tail.head.offset <= needed_after) || bytes > self.parts.options.log_bytes_max {
                bytes = bytes.saturating_sub(tail.bytes);
                to_drop.push_back(segment.clone());
            } else {
                break;
            }
        }
        for segment in to_drop {
            self.drop_segment(&segment).await?;
        }
        Ok(())
    }

    async fn drop_segment(&mut self, segment: &Segment) -> Result<(), OpenError> {
        // Dead letters outlive the log's retention: theirs are written again at the end.
        let letters: Vec<_> = {
            let state = self.state();
            let within = state.letters.values().filter(|(_, place)| place.segment == segment.first());
            within.cloned().collect()
        };
        for (letter, place) in letters {
            let event = letter_event(&self.parts.log, place).await?;
            self.change(&Change::DeadLettered { letter }, event.as_ref());
            if self.group.bytes.len() >= GROUP_BYTES {
                self.commit().await?;
                self.roll_if_full().await?;
            }
        }
        self.commit().await?;
        if self.parts.ledger.covered() < segment.tail().head.offset {
            self.parts.ledger.flush(self.head.offset).await?;
        }
        tracing::info!(file = segment.path(), "dropping a segment of the log");
        self.parts.log.pop_oldest();
        self.parts.disk.remove(segment.path()).await.map_err(log::Error::from)?;
        self.parts.disk.sync_dir(log::DIR).await.map_err(log::Error::from)?;
        Ok(())
    }
}
