//! Dead letters: list, show, redrive, discard.

use serde::{Deserialize, Serialize};

use super::{
    Agent,
    errand::{self, Errand, Report},
    inbox::read_state,
};
use crate::{
    core::{
        batch::{Kind, Outcome, Reason},
        event::Record,
        journal::{Change, Closed, Letter},
        time::Timestamp,
    },
    marks::{self, Mark},
    ports::hub::Note,
};

/// Which letters.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selection {
    pub id: Option<u64>,
    pub peer: Option<String>,
    pub key: Option<String>,
    /// RFC 3339: dead since.
    pub since: Option<String>,
    pub limit: Option<usize>,
    /// Redrive also what the peer's ledger may have forgotten: it may take a second effect.
    pub expired: bool,
    pub dry_run: bool,
}

/// A letter as people see it.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    pub id: u64,
    pub peer: String,
    pub sequence: u64,
    pub key: String,
    pub source: String,
    pub detail_type: String,
    pub reason: &'static str,
    pub accepted: String,
    pub dead: String,
    pub attempts: u32,
    /// The id of the trace that the event belongs to, where the event itself was read.
    pub trace: Option<String>,
}

impl From<&Letter> for Shown {
    fn from(letter: &Letter) -> Self {
        Shown {
            id: letter.id,
            peer: letter.peer.clone(),
            sequence: letter.sequence,
            key: letter.key.clone(),
            source: letter.source.clone(),
            detail_type: letter.detail_type.clone(),
            reason: letter.reason.as_str(),
            accepted: letter.accepted.to_rfc3339(),
            dead: letter.dead.to_rfc3339(),
            attempts: letter.attempts,
            trace: None,
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct List {
    pub letters: Vec<Shown>,
    /// How many there are; more than listed if the limit cut.
    pub total: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Redriven {
    pub matched: u64,
    #[serde(flatten)]
    pub report: Report,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Discarded {
    pub matched: u64,
    pub discarded: u64,
}

/// Letters read together.
const BATCH: usize = 256;

impl Agent {
    /// The letters that match, oldest first.
    ///
    /// # Errors
    /// A time that is none.
    pub fn letters(&self, selection: &Selection) -> Result<List, errand::Error> {
        let letters = self.select(selection)?;
        let limit = selection.limit.unwrap_or(100);
        Ok(List { total: letters.len(), letters: letters.iter().take(limit).map(Shown::from).collect() })
    }

    /// One letter and its event.
    ///
    /// # Errors
    /// The hub cannot read it.
    pub async fn letter(&self, id: u64) -> Result<Option<(Shown, Option<String>)>, errand::Error> {
        let Some(letter) = read_state(&*self.hub, |state| state.letters.get(&id).map(|(letter, _)| letter.clone()))
        else {
            return Ok(None);
        };
        let event = self.hub.letter_event(id).await?;
        let trace = event.as_ref().and_then(Record::trace_id);
        let shown = Shown { trace, ..Shown::from(&letter) };
        Ok(Some((shown, event.map(|event| self.envelope(&event)))))
    }

    fn select(&self, selection: &Selection) -> Result<Vec<Letter>, errand::Error> {
        let since = match &selection.since {
            None => None,
            Some(text) => Some(Timestamp::parse_rfc3339(text).ok_or_else(|| {
                errand::Error::Invalid(format!("since: {text}: no time; write it as 2026-11-23T10:00:00Z"))
            })?),
        };
        let matches = |letter: &Letter| {
            selection.id.is_none_or(|id| letter.id == id)
                && selection.peer.as_ref().is_none_or(|peer| letter.peer == *peer)
                && selection.key.as_ref().is_none_or(|key| letter.key == *key)
                && since.is_none_or(|since| letter.dead >= since)
        };
        Ok(read_state(&*self.hub, |state| {
            state.letters.values().map(|(letter, _)| letter).filter(|letter| matches(letter)).cloned().collect()
        }))
    }

    /// Sends letters again; what the peer has then leaves the queue.
    ///
    /// # Errors
    /// The selection is wrong, the hub fails, or the peer does not answer: what was done before counts.
    pub async fn redrive(&self, selection: &Selection) -> Result<Redriven, errand::Error> {
        let mut letters = self.select(selection)?;
        letters.truncate(selection.limit.unwrap_or(usize::MAX));
        let mut done = Redriven { matched: letters.len() as u64, ..Redriven::default() };
        let now = self.clock.now();
        let expired_before = now.minus(self.expire_after());
        letters.retain(|letter| {
            let expired = letter.accepted <= expired_before || letter.reason == Reason::Expired;
            let skip = expired && !selection.expired;
            done.report.skipped += u64::from(skip);
            !skip
        });
        done.report.events = letters.len() as u64;
        if selection.dry_run {
            return Ok(done);
        }
        letters.sort_by(|a, b| (&a.peer, a.id).cmp(&(&b.peer, b.id)));
        for group in letters.chunk_by(|a, b| a.peer == b.peer) {
            for letters in group.chunks(BATCH) {
                self.redrive_letters(letters, &mut done.report).await?;
            }
        }
        Ok(done)
    }

    /// Letters of one peer.
    async fn redrive_letters(&self, letters: &[Letter], report: &mut Report) -> Result<(), errand::Error> {
        let Some(first) = letters.first() else { return Ok(()) };
        let errand = self.errand(&first.peer)?;
        let mut bodies: Vec<(&Letter, Record)> = Vec::with_capacity(letters.len());
        for letter in letters {
            match self.hub.letter_event(letter.id).await? {
                Some(event) => bodies.push((letter, event)),
                None => report.failed += 1,
            }
        }
        let mut bodies = bodies.into_iter();
        let events = bodies.as_slice().iter().map(|(_, record)| record.clone()).collect();
        for records in errand.split(events) {
            let sent = bodies.by_ref().take(records.len()).collect();
            self.redrive_batch(&errand, sent, &records, report).await?;
        }
        Ok(())
    }

    async fn redrive_batch(
        &self,
        errand: &Errand,
        sent: Vec<(&Letter, Record)>,
        records: &[Record],
        report: &mut Report,
    ) -> Result<(), errand::Error> {
        let (outcomes, place) = errand.deliver(Kind::Redrive, records).await.map_err(|failure| {
            marks::hit(Mark::RedriveUnanswered);
            report.failed += records.len() as u64;
            errand::Error::Peer { peer: errand.ends.peer_name.clone(), failure, report: *report }
        })?;
        let at = self.clock.now();
        let mut notes: Vec<Note> = Vec::new();
        for ((letter, record), outcome) in sent.into_iter().zip(outcomes) {
            report.add(outcome);
            match outcome {
                Outcome::Delivered | Outcome::Duplicate => {
                    marks::hit(Mark::RedriveDelivered);
                    tracing::info!(id = letter.id, peer = letter.peer, key = letter.key, "dead letter redriven");
                    notes.push(Change::Closed { id: letter.id, how: Closed::Redriven, at }.into());
                    // What was delivered just now is remembered; this may have been before a crash.
                    if outcome == Outcome::Duplicate {
                        let (peer, sequence) = (letter.peer.clone(), letter.sequence);
                        notes.push(Change::Strayed { peer, sequence, at: place }.into());
                    }
                }
                Outcome::Rejected(reason) => {
                    marks::hit(Mark::RedriveRejected);
                    let letter = Letter { reason, attempts: letter.attempts + 1, ..letter.clone() };
                    notes.push(Note { change: Change::DeadLettered { letter }, event: Some(record) });
                }
                Outcome::Retry { .. } => {}
            }
        }
        self.hub.note(notes).await?;
        Ok(())
    }

    /// Gives letters up for good. They stay listed for `verify`.
    ///
    /// # Errors
    /// The selection is wrong or the hub fails.
    pub async fn discard(&self, selection: &Selection) -> Result<Discarded, errand::Error> {
        let mut letters = self.select(selection)?;
        letters.truncate(selection.limit.unwrap_or(usize::MAX));
        let mut done = Discarded { matched: letters.len() as u64, discarded: 0 };
        if selection.dry_run {
            return Ok(done);
        }
        let at = self.clock.now();
        let notes = letters.iter().map(|letter| {
            marks::hit(Mark::LetterDiscarded);
            tracing::warn!(
                id = letter.id,
                peer = letter.peer,
                key = letter.key,
                "dead letter discarded by an operator"
            );
            Change::Closed { id: letter.id, how: Closed::Discarded, at }.into()
        });
        self.hub.note(notes.collect()).await?;
        done.discarded = done.matched;
        Ok(done)
    }
}
