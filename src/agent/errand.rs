//! Events that go over a link outside of their order: replays, redriven letters, repairs.
//!
//! An errand runs beside its link, with the link's pace, one batch at a time. Keys make it harmless, whatever the link
//! does meanwhile.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Serialize;

use super::{ends::Ends, filter::Filters, inbox::read_state};
use crate::{
    core::{
        batch::{Batch, Kind, Outcome, Repaired},
        event::Record,
        journal::Change,
        link::Failure,
        position::{Incarnation, Position},
        time::Timestamp,
    },
    marks::{self, Mark},
    ports::{
        hub::{Note, ReadError},
        peer::RepairRequest,
    },
};

/// What an errand did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Events that were meant to go.
    pub events: u64,
    pub delivered: u64,
    pub duplicate: u64,
    pub rejected: u64,
    /// Left out: the filter, the expiry.
    pub skipped: u64,
    /// Not answered; they stay where they were.
    pub failed: u64,
}

impl Report {
    pub fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Delivered => self.delivered += 1,
            Outcome::Duplicate => self.duplicate += 1,
            Outcome::Rejected(_) => self.rejected += 1,
            Outcome::Retry { .. } => self.failed += 1,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("region `{0}` has no link to `{1}`")]
    NoLink(String, String),
    #[error(transparent)]
    Hub(#[from] crate::ports::hub::Error),
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The peer did not answer; what was done before counts.
    #[error("{peer}: {failure} (before that: {report:?})")]
    Peer { peer: String, failure: Failure, report: Report },
    #[error("{0}")]
    Invalid(String),
}

/// Tries of one batch before an errand gives up; a person waits for it.
const ATTEMPTS: u32 = 5;

pub struct Errand {
    pub ends: Arc<Ends>,
    pub batch_events: usize,
    pub batch_bytes: usize,
    /// An event that crossed this many links goes no further, also in a repair.
    pub hops_max: u8,
}

impl Errand {
    /// Sends this region's events accepted from `since` to `until`, up to the offset `place`, again.
    ///
    /// # Errors
    /// The log cannot be read, or the peer does not answer.
    pub async fn replay(
        &self,
        filters: &Filters,
        (since, until): (Option<Timestamp>, Option<Timestamp>),
        place: u64,
        expire_before: Timestamp,
        dry_run: bool,
    ) -> Result<Report, Error> {
        let within = |record: &Record| {
            let accepted = record.header.accepted;
            record.header.is_local_business()
                && record.header.offset <= place
                && since.is_none_or(|since| accepted >= since)
                && until.is_none_or(|until| accepted < until)
        };
        let select = |record: &Record| match within(record) {
            false => Choice::Ignore,
            true if record.header.accepted <= expire_before || !filters.selects(record) => Choice::Skip,
            true => Choice::Send,
        };
        Ok(self.pass(Kind::Redrive, select, dry_run).await?.report)
    }

    /// Sends what this region holds of `origin` beyond `known` (everything where a life is not listed).
    ///
    /// # Errors
    /// The log cannot be read, or the peer does not answer.
    pub async fn repair(&self, origin: &str, known: &[(Incarnation, u64)], dry_run: bool) -> Result<Report, Error> {
        Ok(self.pass_of(origin, known, dry_run).await?.report)
    }

    async fn pass_of(&self, origin: &str, known: &[(Incarnation, u64)], dry_run: bool) -> Result<Passed, Error> {
        let select = |record: &Record| {
            let position = record.header.origin;
            let is_known = known.iter().any(|(life, end)| *life == position.incarnation && position.sequence <= *end);
            match record.origin_region() == Some(origin) && !record.header.is_reserved() && !is_known {
                true if record.header.hops >= self.hops_max => Choice::Skip,
                true => Choice::Send,
                false => Choice::Ignore,
            }
        };
        self.pass(Kind::Repair, select, dry_run).await
    }

    /// Sends what was asked for and then, in a batch of its own, that this was all.
    ///
    /// # Errors
    /// The log cannot be read, or the peer does not answer.
    pub async fn repair_as_asked(&self, request: &RepairRequest) -> Result<Report, Error> {
        let (high_waters, strays) = read_state(&*self.ends.hub, |state| state.held_of(&request.asker));
        // The marks may be ahead of the log, by what is being written: a note comes after that.
        self.ends.hub.note(Vec::new()).await?;
        let Passed { report, places } = self.pass_of(&request.origin, &request.known, false).await?;
        let repaired = Repaired { asked: request.asked, places: places.into_iter().collect(), high_waters, strays };
        match self.deliver(Kind::Repaired(Box::new(repaired)), &[]).await {
            Ok(_) => Ok(report),
            Err(failure) => Err(Error::Peer { peer: self.ends.peer_name.clone(), failure, report }),
        }
    }

    async fn pass(&self, kind: Kind, select: impl Fn(&Record) -> Choice, dry_run: bool) -> Result<Passed, Error> {
        let mut reader = self.ends.hub.reader(self.ends.hub.base());
        let head = self.ends.hub.head().borrow().offset;
        let mut passed = Passed::default();
        let mut waiting: Vec<Record> = Vec::new();
        let mut at = 0;
        while at < head {
            let records = match reader.next(self.batch_events, self.batch_bytes).await {
                Ok(records) => records,
                Err(ReadError::Dropped { base, .. }) => {
                    reader.seek(base);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let Some(last) = records.last() else { break };
            at = last.header.offset;
            for record in records.into_iter().filter(|record| record.header.offset <= head) {
                match select(&record) {
                    Choice::Ignore => {}
                    Choice::Skip => passed.report.skipped += 1,
                    Choice::Send => {
                        passed.report.events += 1;
                        waiting.push(record);
                    }
                }
            }
            if dry_run {
                waiting.clear();
                continue;
            }
            // The last batch may be a small one: it waits for more.
            let mut batches = self.split(std::mem::take(&mut waiting));
            waiting = batches.pop().unwrap_or_default();
            for batch in batches {
                self.send(kind.clone(), batch, &mut passed).await?;
            }
        }
        if !waiting.is_empty() {
            self.send(kind, waiting, &mut passed).await?;
        }
        Ok(passed)
    }

    /// Cuts records into batches within the link's bounds.
    pub fn split(&self, records: Vec<Record>) -> Vec<Vec<Record>> {
        let mut batches: Vec<Vec<Record>> = Vec::new();
        let mut bytes = 0;
        for record in records {
            let size = record.raw().len();
            match batches.last_mut() {
                Some(batch) if batch.len() < self.batch_events && bytes + size <= self.batch_bytes => {
                    batch.push(record);
                    bytes += size;
                }
                _ => {
                    batches.push(vec![record]);
                    bytes = size;
                }
            }
        }
        batches
    }

    async fn send(&self, kind: Kind, records: Vec<Record>, passed: &mut Passed) -> Result<(), Error> {
        match self.deliver(kind, &records).await {
            Ok((outcomes, at)) => {
                outcomes.iter().for_each(|outcome| passed.report.add(*outcome));
                let place = passed.places.entry(at.incarnation).or_default();
                *place = at.sequence.max(*place);
                Ok(())
            }
            Err(failure) => {
                passed.report.failed += records.len() as u64;
                Err(Error::Peer { peer: self.ends.peer_name.clone(), failure, report: passed.report })
            }
        }
    }

    /// One batch, tried a few times. Answers the outcomes and where the peer's log ends then.
    pub async fn deliver(&self, kind: Kind, records: &[Record]) -> Result<(Vec<Outcome>, Position), Failure> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let bytes = records.iter().map(|record| record.raw().len()).sum();
            self.ends.pacer().admit(records.len(), bytes).await;
            let batch = Batch { opening: self.ends.opening(kind.clone()), records: records.to_vec() };
            let failure = match self.ends.deliver(batch).await {
                Ok(reply) if reply.has_outcomes(records.len()) => {
                    let at = reply.place();
                    let outcomes = reply.into_outcomes();
                    if kind == Kind::Redrive {
                        marks::hit(Mark::ReplaySent);
                        self.remember_strayed(records, &outcomes, at, attempt > 1).await?;
                    }
                    return Ok((outcomes, at));
                }
                Ok(_) => Failure::Refused("an answer that does not fit the batch".to_owned()),
                Err(failure) => failure,
            };
            if attempt == ATTEMPTS || matches!(failure, Failure::Refused(_)) {
                return Err(failure);
            }
            tokio::time::sleep(Duration::from_millis(200) * attempt).await;
        }
    }

    /// A peer that is restored later may lose these, and no rewind of the order brings them back. A `repeat` finds
    /// delivered what an earlier attempt brought whose answer was lost.
    async fn remember_strayed(
        &self,
        records: &[Record],
        outcomes: &[Outcome],
        at: Position,
        repeat: bool,
    ) -> Result<(), Failure> {
        let is_new = |outcome: &Outcome| *outcome == Outcome::Delivered || repeat && *outcome == Outcome::Duplicate;
        let new = records.iter().zip(outcomes).filter(|(_, outcome)| is_new(outcome));
        let notes: Vec<Note> = new
            .map(|(record, _)| {
                let (peer, sequence) = (self.ends.peer_name.clone(), record.header.offset);
                Change::Strayed { peer, sequence, at }.into()
            })
            .collect();
        if notes.is_empty() {
            return Ok(());
        }
        let noted = self.ends.hub.note(notes).await;
        noted.map_err(|error| Failure::Refused(format!("{}: not written down: {error}", self.ends.home)))
    }
}

/// A pass over the log.
#[derive(Default)]
struct Passed {
    report: Report,
    /// Where the peer's log ended with each answer, the last in each of its lives.
    places: BTreeMap<Incarnation, u64>,
}

enum Choice {
    Send,
    Skip,
    Ignore,
}
