//! One link: what to read, what to send, what to make of each answer.
//!
//! # The problem
//! A link must keep several batches on the wire (one at a time would cost a round trip and an fsync each), must not
//! lose its place when some of them fail, and must notice when the peer lost what it had confirmed. The obvious answer,
//! a cursor that moves with each success, skips a batch that failed while a later one succeeded.
//!
//! # The method
//! The log is cut into *spans*, `(from, to]`, kept in order. Each span is ready, on the wire or done; the low-water
//! moves over done spans at the front only. A failure makes a span ready again and the link careful: one batch at a
//! time, the lowest first, after a pause. A batch says which part of the log it covers, gaps included, so the peer
//! notices what it misses and answers [`Answer::Gap`]; if that happens to the lowest span, sent with nothing unanswered
//! below it, the peer was restored from an older copy and the link rewinds to what the peer says it has. Sequences only
//! detect; what suppresses a second effect is the peer's ledger.
//!
//! [`Link`] does no I/O: its owner asks what it [wants](Link::wants), hands in chunks, answers and the time, and
//! performs the [effects](Effect) in order.

mod check;
mod held;
mod status;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

pub use self::{
    check::Accounts,
    held::Room,
    status::{Skip, Status},
};
use self::{check::spans_max, held::Held};
use super::{
    backoff::Backoff,
    batch::{Answer, Outcome, Reason, Reply},
    event::{Record, STATE_CONFLICT},
    journal::{Mark, Progress},
    position::Lives,
    time::Timestamp,
};
use crate::{
    marks::{self, Mark as Branch},
    planted::{self, Bug},
};

#[derive(Clone, Debug)]
pub struct Options {
    /// The region that the link starts from.
    pub home: String,
    pub batch_events: usize,
    pub batch_bytes: usize,
    /// Batches on the wire at once. Each costs up to `batch_bytes` of memory here and at the peer.
    pub in_flight: usize,
    pub backoff: Backoff,
    /// Events that may wait for something of their own before the link stops reading on.
    pub held_max: usize,
    pub hops_max: u8,
    /// An event accepted longer ago than this is not sent: the peer's ledger may have forgotten its key.
    pub expire_after: Duration,
    /// Ask what the peer would do, deliver nothing.
    pub shadow: bool,
    /// Events that refer to objects wait for them, by themselves.
    pub payloads: bool,
}

/// How soon after a failure a peer that was heard is tried again.
const HEARD_PAUSE: Duration = Duration::from_millis(500);

/// A part of the log, as the feed read it.
#[derive(Clone, Debug, Default)]
pub struct Chunk {
    /// Covers offsets after `from` up to and with `to`; equal at the end of the log.
    pub from: u64,
    pub to: u64,
    pub records: Vec<Record>,
}

/// What the owner should read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    pub after: u64,
    pub events: usize,
    pub bytes: usize,
}

/// A batch to put on the wire now.
#[derive(Clone, Debug)]
pub struct Send {
    pub id: u64,
    /// Covers the log after `from` up to and with `to`.
    pub from: u64,
    pub to: u64,
    pub records: Arc<Vec<Record>>,
}

/// Why a batch has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Not reached, or no answer in time: it may or may not have been taken.
    #[error("{0}")]
    Unanswered(String),
    /// The peer is there and takes nothing from us: another cluster, another format, a wrong secret.
    #[error("{0}")]
    Refused(String),
    /// The peer asks for a pause.
    #[error("the peer asks to wait {} ms", after.as_millis())]
    Throttled { after: Duration },
}

/// What the owner has to do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// The event was answered; count it and, if it was delivered, its lag.
    Settled { record: Record, outcome: Outcome },
    /// Left out on purpose.
    Skipped { record: Record, why: Skip },
    /// Write the event to the dead letters. Durable before the progress that goes past it.
    DeadLetter { record: Record, reason: Reason, attempts: u32 },
    /// The peer lost what it had confirmed after `to`; reading starts there again.
    Rewound { from: u64, to: u64 },
    /// Events up to `to` that the peer misses are in the log no more. `mark` stands at `from`; zeros if not known.
    Unrecoverable { from: u64, to: u64, mark: Mark },
}

#[derive(Debug)]
enum Stage {
    Ready,
    /// `first`: nothing below it was unanswered when it was sent.
    Sent {
        id: u64,
        first: bool,
    },
    Done,
}

#[derive(Debug)]
struct Span {
    from: u64,
    to: u64,
    records: Arc<Vec<Record>>,
    stage: Stage,
    attempts: u32,
    /// What the last record in the span says of the log up to there.
    mark: Mark,
    /// Where the last batch of the span ends; `None` where all of it was left out.
    batch_to: Option<u64>,
}

#[derive(Debug)]
pub struct Link {
    options: Options,
    low: u64,
    low_mark: Mark,
    read: u64,
    /// What the peer's high-water is when all that was sent is answered.
    covered: u64,
    spans: VecDeque<Span>,
    held: BTreeMap<u64, Held>,
    /// Moves whenever the list of what is held changes.
    held_changes: u64,
    sends: u64,
    failures: u32,
    failure: Option<Failure>,
    failed_at: Timestamp,
    retry_at: Timestamp,
    paused: bool,
    accounts: Accounts,
    /// Spans that there can be with the options so far.
    spans_max: usize,
}

impl Link {
    /// A link that goes on where `progress` says (also if the log has dropped that place: then the feed says so, and
    /// [`lose_place`](Self::lose_place) names what is lost), or at the log's `base`.
    pub fn new(options: Options, progress: Option<&Progress>, base: u64, now: Timestamp) -> Self {
        let low = progress.map_or(base, |progress| progress.cursor);
        let spans_max = spans_max(&options);
        let held = progress.map(|progress| progress.held.as_slice()).unwrap_or_default();
        Self {
            options,
            low,
            low_mark: progress.map(|progress| progress.mark).unwrap_or_default(),
            read: low,
            covered: progress.map_or(base, |progress| progress.sent),
            spans: VecDeque::new(),
            held: held
                .iter()
                .map(|(sequence, attempts)| (*sequence, Held { attempts: *attempts, ..Held::new(now) }))
                .collect(),
            held_changes: 0,
            sends: 0,
            failures: 0,
            failure: None,
            failed_at: Timestamp::ZERO,
            retry_at: Timestamp::ZERO,
            paused: false,
            accounts: Accounts::default(),
            spans_max,
        }
    }

    pub fn set_options(&mut self, options: Options) {
        self.spans_max = self.spans_max.max(spans_max(&options));
        self.options = options;
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Stops sending and reading. What is on the wire is still answered.
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    pub fn status(&self) -> Status {
        match &self.failure {
            _ if self.paused => Status::Paused,
            Some(Failure::Refused(why)) => Status::Refused(why.clone()),
            Some(failure) => Status::Retrying(failure.to_string()),
            None => Status::Active,
        }
    }

    /// Everything up to here is at the peer, left out on purpose, held or dead.
    pub fn low(&self) -> u64 {
        self.low
    }

    /// What the record at [`low`](Self::low) says of the log up to there; zeros if that is not known.
    pub fn low_mark(&self) -> Mark {
        self.low_mark
    }

    /// Tells the link what stands at [`low`](Self::low), after a start or a rewind.
    pub fn set_low_mark(&mut self, mark: Mark) {
        self.low_mark = mark;
    }

    /// The sequences that are held, in order.
    pub fn held_sequences(&self) -> Vec<u64> {
        self.held.keys().copied().collect()
    }

    /// Another number whenever the list of what is held changed.
    pub fn held_changes(&self) -> u64 {
        self.held_changes
    }

    /// No batch of the stream is on the wire.
    pub fn is_quiet(&self) -> bool {
        !self.spans.iter().any(|span| matches!(span.stage, Stage::Sent { .. }))
    }

    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// What to write down.
    pub fn progress(&self, now: Timestamp) -> Progress {
        let first = self.spans.front().map_or(self.covered, |span| span.from);
        let held = self.held.iter().map(|(sequence, held)| (*sequence, held.attempts));
        Progress {
            cursor: if planted::is(Bug::CursorBeforeDelivery) { self.read } else { self.low },
            sent: self.covered.min(first),
            held: held.filter(|_| !planted::is(Bug::HighWaterSkipsHeld)).collect(),
            mark: self.low_mark,
            at: now,
        }
    }

    /// The part of the log to read next; `None` while enough is at hand or the link is stopped.
    pub fn wants(&self) -> Option<Want> {
        let waiting = self.spans.iter().filter(|span| !matches!(span.stage, Stage::Done)).count();
        // One span more than may be on the wire, so that a free place is filled without waiting for a read. While the
        // peer does not answer nothing is read ahead.
        let ahead = if self.failures > 0 { 1 } else { self.options.in_flight + 1 };
        (!self.paused && waiting < ahead && self.held.len() < self.options.held_max).then_some(Want {
            after: self.read,
            events: self.options.batch_events,
            bytes: self.options.batch_bytes,
        })
    }

    /// Takes in what was read after [`Want::after`]; `selects` is the link's pattern.
    pub fn on_chunk(&mut self, chunk: Chunk, now: Timestamp, selects: impl Fn(&Record) -> bool) -> Vec<Effect> {
        if chunk.from != self.read || chunk.to <= chunk.from {
            return Vec::new();
        }
        let mut effects = Vec::new();
        let mark = chunk.records.last().map_or(self.low_mark, |record| Mark::from(&record.header));
        let mut meant = Vec::with_capacity(chunk.records.len());
        self.accounts.taken += chunk.records.len() as u64;
        for record in chunk.records {
            let header = &record.header;
            // What came back after a restore of this region is its own: peers that lose it have nobody else to get it
            // from. It goes in its order like everything else, so a rewind sends it again.
            let foreign = header.is_remote() && !record.came_back_to(&self.options.home);
            if foreign && !planted::is(Bug::ForeignSentOn) {
                effects.push(Effect::Skipped { record, why: Skip::Foreign });
            } else if self.held.contains_key(&header.offset) {
                effects.push(Effect::Skipped { record, why: Skip::Held });
            } else if header.hops >= self.options.hops_max {
                effects.push(Effect::Skipped { record, why: Skip::HopLimit });
            } else if !Self::crosses(&record, &selects) {
                effects.push(Effect::Skipped { record, why: Skip::Filtered });
            } else if self.is_expired(&record, now) {
                marks::hit(Branch::LinkExpired);
                effects.push(Effect::DeadLetter { record, reason: Reason::Expired, attempts: 0 });
            } else if self.options.payloads
                && header.has_payload()
                && !self.options.shadow
                && !planted::is(Bug::EventOvertakesPayload)
            {
                // It goes its own way behind its payload; the stream does not wait for it.
                marks::hit(Branch::LinkPayload);
                self.hold_for_payload(header);
            } else {
                meant.push(record);
            }
        }
        let dead = effects.iter().filter(|effect| matches!(effect, Effect::DeadLetter { .. })).count();
        self.accounts.expired += dead as u64;
        self.accounts.skipped += (effects.len() - dead) as u64;
        self.read = chunk.to;
        let (stage, batch_to) = match meant.is_empty() {
            true => (Stage::Done, None),
            false => (Stage::Ready, Some(chunk.to)),
        };
        self.spans.push_back(Span {
            from: chunk.from,
            to: chunk.to,
            records: Arc::new(meant),
            stage,
            attempts: 0,
            mark,
            batch_to,
        });
        self.settle();
        effects
    }

    /// Whether the event is meant for other regions: what is reserved is, but for what each makes for itself.
    fn crosses(record: &Record, selects: impl Fn(&Record) -> bool) -> bool {
        match record.header.is_reserved() {
            true => record.detail_type() != STATE_CONFLICT,
            false => selects(record),
        }
    }

    /// Whether the peer's ledger may have forgotten the event's key already.
    pub fn is_expired(&self, record: &Record, now: Timestamp) -> bool {
        record.header.accepted.plus(self.options.expire_after) <= now
    }

    /// The batch to send now, if any. Call until `None`. `wall` is the wall clock, which judges expiry; `now`, as
    /// everywhere in here where it is about waiting, is a steady one.
    pub fn next_send(&mut self, now: Timestamp, wall: Timestamp) -> Option<Send> {
        if self.paused || now < self.retry_at {
            return None;
        }
        if self.spans.iter().any(|span| span.records.first().is_some_and(|record| self.is_expired(record, wall))) {
            // Waited too long at hand: what is not on the wire is read, and judged, again.
            self.read_again();
            return None;
        }
        let on_wire = self.spans.iter().filter(|span| matches!(span.stage, Stage::Sent { .. })).count();
        let places = if self.failures > 0 { 1 } else { self.options.in_flight };
        if on_wire >= places {
            return None;
        }
        let index = self.spans.iter().position(|span| matches!(span.stage, Stage::Ready))?;
        let first = self.spans.range(..index).all(|span| matches!(span.stage, Stage::Done));
        if self.failures > 0 && !first {
            return None;
        }
        // What was left out between the last batch and this one belongs to this one, or the peer would miss it.
        let from = self.spans.range(..index).rev().find_map(|span| span.batch_to).unwrap_or(self.covered);
        self.sends += 1;
        let span = &mut self.spans[index];
        span.stage = Stage::Sent { id: self.sends, first };
        span.attempts += 1;
        Some(Send { id: self.sends, from: from.min(span.from), to: span.to, records: span.records.clone() })
    }

    /// Forgets what was read and not sent, as soon as nothing is on the wire.
    fn read_again(&mut self) {
        if self.is_quiet() {
            marks::hit(Branch::LinkReadAgain);
            self.spans.clear();
            self.accounts = Accounts::default();
            self.read = self.low;
            self.covered = self.covered.min(self.low);
        }
    }

    /// The earliest time at which [`next_send`](Self::next_send), or [`due_held`](Self::due_held) with this room, may have
    /// more to do.
    pub fn deadline(&self, room: Room) -> Option<Timestamp> {
        let retry = (self.failures > 0 && self.is_quiet()).then_some(self.retry_at);
        let has_room = |held: &Held| if held.payload { room.payload > 0 } else { room.plain > 0 };
        let held = self.held.values().filter(|held| !held.in_flight && !self.options.shadow && has_room(held));
        let held = held.map(|held| held.due.max(self.retry_at)).min();
        [retry, held].into_iter().flatten().min().filter(|_| !self.paused)
    }

    /// An answer to the batch `id`. `lives` and `head` are this hub's, `base` is where its log begins.
    pub fn on_reply(&mut self, id: u64, reply: &Reply, now: Timestamp, hub: &HubView<'_>) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.failure = None;
        self.failures = 0;
        self.retry_at = Timestamp::ZERO;
        let Some(index) =
            self.spans.iter().position(|span| matches!(span.stage, Stage::Sent { id: sent, .. } if sent == id))
        else {
            marks::hit(Branch::LinkLateAnswer);
            return effects;
        };
        match &reply.answer {
            Answer::Gap if matches!(self.spans[index].stage, Stage::Sent { first: true, .. }) => {
                // Judged by the lives that the peer was told, as the peer judges.
                let covered = hub.lives.told().covered(&reply.high_waters, hub.head);
                self.rewind(covered, hub.base, &mut effects);
            }
            // Something below it was unanswered when it was sent, so the gap may be closed by now.
            Answer::Gap => {
                marks::hit(Branch::LinkGapRetried);
                self.spans[index].stage = Stage::Ready;
            }
            Answer::Applied(outcomes) if outcomes.len() == self.spans[index].records.len() => {
                self.apply(index, outcomes, now, &mut effects);
            }
            Answer::Applied(outcomes) => {
                let why = format!("{} outcomes for {} events", outcomes.len(), self.spans[index].records.len());
                self.fail(index, Failure::Refused(why), now, 1.0);
            }
        }
        effects
    }

    fn apply(&mut self, index: usize, outcomes: &[Outcome], now: Timestamp, effects: &mut Vec<Effect>) {
        let attempts = self.spans[index].attempts;
        let records = self.spans[index].records.clone();
        for (record, outcome) in records.iter().zip(outcomes) {
            match outcome {
                _ if planted::is(Bug::BatchAcknowledgedOnPartialFailure) => {}
                Outcome::Rejected(_) if planted::is(Bug::DeadLetterCountsAsDelivered) => {}
                Outcome::Rejected(reason) if !self.options.shadow => {
                    marks::hit(Branch::LinkDeadLetter);
                    effects.push(Effect::DeadLetter { record: record.clone(), reason: *reason, attempts });
                }
                Outcome::Retry { after_millis } if !self.options.shadow => {
                    marks::hit(Branch::LinkHeld);
                    let due = now.plus(Duration::from_millis(u64::from(*after_millis)));
                    self.held_changes += 1;
                    let accepted = record.header.accepted;
                    let held = Held { attempts, payload: false, accepted: Some(accepted), ..Held::new(due) };
                    self.held.insert(record.header.offset, held);
                }
                _ => {}
            }
            *match outcome {
                _ if self.options.shadow => &mut self.accounts.shadowed,
                Outcome::Delivered => &mut self.accounts.delivered,
                Outcome::Duplicate => &mut self.accounts.duplicate,
                Outcome::Rejected(_) => &mut self.accounts.dead,
                Outcome::Retry { .. } => &mut self.accounts.held,
            } += 1;
            effects.push(Effect::Settled { record: record.clone(), outcome: *outcome });
        }
        let span = &mut self.spans[index];
        self.covered = self.covered.max(span.to);
        span.stage = Stage::Done;
        // Behind a batch that has no answer yet it may stay here for long.
        span.records = Arc::default();
        self.settle();
    }

    /// The batch `id` has no answer. `chance` is drawn from [0, 1), for the pause.
    pub fn on_failure(&mut self, id: u64, failure: Failure, now: Timestamp, chance: f64) {
        let index = self.spans.iter().position(|span| matches!(span.stage, Stage::Sent { id: sent, .. } if sent == id));
        if let Some(index) = index {
            self.fail(index, failure, now, chance);
        }
    }

    fn fail(&mut self, index: usize, failure: Failure, now: Timestamp, chance: f64) {
        marks::hit(match &failure {
            Failure::Unanswered(_) => Branch::LinkUnanswered,
            Failure::Refused(_) => Branch::LinkRefused,
            Failure::Throttled { .. } => Branch::LinkThrottled,
        });
        self.spans[index].stage = Stage::Ready;
        // Batches that were on the wire together fail together; that is one failure.
        if now >= self.retry_at {
            self.failures = self.failures.saturating_add(1);
            self.failed_at = now;
            let pause = self.options.backoff.pause(self.failures, chance);
            let asked = if let Failure::Throttled { after } = &failure { *after } else { Duration::ZERO };
            self.retry_at = now.plus(pause.max(asked));
        }
        self.failure = Some(failure);
    }

    /// Something came from the peer, so it may be reached again: no need to wait out a long pause. A peer that can be
    /// heard and not reached (a partition in one direction) is tried [`HEARD_PAUSE`] after the last failure at the
    /// earliest.
    pub fn peer_heard(&mut self) {
        if matches!(self.failure, Some(Failure::Unanswered(_))) {
            marks::hit(Branch::LinkPeerHeard);
            self.retry_at = self.retry_at.min(self.failed_at.plus(HEARD_PAUSE));
        }
    }

    fn rewind(&mut self, to: u64, base: u64, effects: &mut Vec<Effect>) {
        if to < base {
            effects.push(Effect::Unrecoverable { from: to, to: base, mark: Mark::default() });
        }
        marks::hit(Branch::LinkRewound);
        let target = to.max(base);
        effects.push(Effect::Rewound { from: self.low, to: target });
        self.spans.clear();
        self.accounts = Accounts::default();
        self.low = target;
        self.low_mark = Mark::default();
        self.read = target;
        self.covered = target;
    }

    /// The log dropped what the link had not delivered: goes on at `base`, where `at` stands.
    pub fn lose_place(&mut self, base: u64, at: Mark) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.read < base {
            marks::hit(Branch::LinkLostPlace);
            let from = self.read;
            let mark = self.spans.back().map_or(self.low_mark, |span| span.mark);
            effects.push(Effect::Unrecoverable { from, to: base, mark });
            // What was read before is still at hand and goes out; the gap is one that the peer cannot know of, so the
            // next batch covers it.
            self.spans.push_back(Span {
                from,
                to: base,
                records: Arc::default(),
                stage: Stage::Done,
                attempts: 0,
                mark: at,
                batch_to: None,
            });
            self.read = base;
            self.settle();
        }
        effects
    }

    /// Moves the low-water over what is done at the front, and makes one of what is done side by side behind it: while
    /// the first batch waits for its answer, any number of later ones may get theirs.
    fn settle(&mut self) {
        while let Some(span) = self.spans.pop_front_if(|span| matches!(span.stage, Stage::Done)) {
            self.low = span.to;
            self.low_mark = span.mark;
        }
        let mut index = 1;
        while index < self.spans.len() {
            if let [Stage::Done, Stage::Done] = [index - 1, index].map(|index| &self.spans[index].stage)
                && let Some(done) = self.spans.remove(index)
            {
                let before = &mut self.spans[index - 1];
                before.to = done.to;
                before.mark = done.mark;
                before.batch_to = done.batch_to.or(before.batch_to);
            } else {
                index += 1;
            }
        }
    }
}

/// What a link must know of its own hub to read a peer's high-waters.
#[derive(Clone, Copy, Debug)]
pub struct HubView<'a> {
    pub lives: &'a Lives,
    pub head: u64,
    /// The log begins after this offset.
    pub base: u64,
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
