//! Events that go over a link outside of their order: replays, redriven letters, repairs.
//!
//! An errand runs beside its link, with the link's pace, one batch at a time. Keys make it harmless, whatever the link
//! does meanwhile.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::{
    ends::Ends,
    filter::Filters,
    inbox::read_state,
    payloads::{LANE_WAIT, Unready},
};
use crate::{
    core::{
        batch::{Batch, Kind, Opening, Outcome, Reason, Repaired},
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

/// Events of a batch whose payloads are brought at once.
const BRINGING_AT_ONCE: usize = 16;

/// How often an errand waits for a lane for a large payload before that counts as a failed attempt.
const LANE_WAITS_MAX: u32 = 60;

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
        let head = self.ends.hub.end().offset;
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
            let failure = match self.attempt(&kind, records).await {
                // Nobody would come back to what the peer puts off.
                Ok((outcomes, _))
                    if (attempt < ATTEMPTS || kind == Kind::Repair)
                        && outcomes.iter().any(|outcome| outcome.is_put_off()) =>
                {
                    Failure::Unanswered("the peer takes some of it later".to_owned())
                }
                Ok((outcomes, at)) => {
                    if kind == Kind::Redrive {
                        marks::hit(Mark::ReplaySent);
                        self.remember_strayed(records, &outcomes, at, attempt > 1).await?;
                    }
                    return Ok((outcomes, at));
                }
                Err(failure) => failure,
            };
            if attempt == ATTEMPTS || matches!(failure, Failure::Refused(_)) {
                return Err(failure);
            }
            tokio::time::sleep(Duration::from_millis(200) * attempt).await;
        }
    }

    /// Payloads first, then their events.
    async fn attempt(&self, kind: &Kind, records: &[Record]) -> Result<(Vec<Outcome>, Position), Failure> {
        let life = self.ends.peer_life();
        let prepared = self.prepare(kind, records).await?;
        let batch: Vec<Record> = prepared.iter().filter_map(|prepared| prepared.clone().ok()).collect();
        let bytes = batch.iter().map(|record| record.raw().len()).sum();
        self.ends.pacer().admit(batch.len(), bytes).await;
        let count = batch.len();
        let opening = self.ends.opening(kind.clone());
        // Brought to this life of the peer, whatever it said since.
        let opening = Opening { payloads_in: opening.payloads_in.map(|_| life), ..opening };
        let reply = self.ends.deliver(Batch { opening, records: batch }).await?;
        if !reply.has_outcomes(count) {
            return Err(Failure::Refused("an answer that does not fit the batch".to_owned()));
        }
        let at = reply.place();
        let mut answered = reply.into_outcomes().into_iter();
        let outcome = |prepared| match prepared {
            Ok(_) => answered.next(),
            Err(outcome) => Some(outcome),
        };
        Ok((prepared.into_iter().filter_map(outcome).collect(), at))
    }

    /// What goes over the wire for each event, or why it does not go.
    async fn prepare(&self, kind: &Kind, records: &[Record]) -> Result<Vec<Result<Record, Outcome>>, Failure> {
        let Some(payloads) = &self.ends.payloads else { return Ok(records.iter().cloned().map(Ok).collect()) };
        let pacer = self.ends.pacer();
        let prepare = async |record: &Record| {
            if !record.header.has_payload() {
                return Ok(Ok(record.clone()));
            }
            let mut waits = LANE_WAITS_MAX;
            loop {
                let (reason, why) = match payloads.bring(record.detail(), &pacer).await {
                    Ok(None) => return Ok(Ok(record.clone())),
                    Ok(Some(detail)) => return Ok(Ok(record.with_detail(&detail))),
                    Err(Unready::Failed(failure)) => return Err(failure),
                    Err(Unready::Busy) if waits > 0 => {
                        waits -= 1;
                        tokio::time::sleep(LANE_WAIT).await;
                        continue;
                    }
                    Err(Unready::Busy) => {
                        return Err(Failure::Unanswered("other large objects are under way".to_owned()));
                    }
                    Err(Unready::Missing(what)) => (Reason::PayloadMissing, format!("{what} is not here")),
                    Err(Unready::Never(reason, why)) => (reason, why),
                };
                let (peer, key, trace) = (&self.ends.peer_name, record.key(), record.trace_id());
                // Its own region lost the event: half is better than none.
                if matches!(kind, Kind::Repair) {
                    marks::hit(Mark::PayloadForwarded);
                    tracing::warn!(peer, key, trace, why, "an event goes back to its region without its payload");
                    return Ok(Ok(record.without_payload()));
                }
                tracing::warn!(peer, key, trace, why, "an event cannot be sent without its payload");
                return Ok(Err(Outcome::Rejected(reason)));
            }
        };
        stream::iter(records).map(prepare).buffered(BRINGING_AT_ONCE).try_collect().await
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
