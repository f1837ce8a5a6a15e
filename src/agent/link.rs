//! The loop around one link: performs what [`core::link`](crate::core::link) decides.
//!
//! One task per link. Nothing in it waits for another link: a dead peer costs its own task only.

mod aside;
mod payload;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::{aside::HELD_BATCH, payload::Bringing};
use super::{
    documents,
    ends::Ends,
    filter::Filters,
    handle::{Asked, Command, View},
    inbox::read_state,
    offset::ClockOffset,
    pacer::Pacer,
};
use crate::{
    core::{
        batch::{Batch, Kind, Opening, Outcome, Reply},
        event::Record,
        journal::{Change, Head, Loss, Mark, STRAYED_MAX},
        link::{self, Effect, Failure, HubView},
        position::{Lives, Position},
        time::Timestamp,
    },
    ports::hub::{ReadError, Reader},
};

/// How often a link's progress is written down while it moves. What a crash forgets is sent again and suppressed.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// How often gauges are refreshed.
const VIEW_INTERVAL: Duration = Duration::from_millis(500);

type Wire = FuturesUnordered<BoxFuture<'static, Answered>>;

struct Answered {
    what: Sent,
    sent: Timestamp,
    result: Result<Reply, Failure>,
    paced: Duration,
}

enum Sent {
    Span(u64),
    Held(Vec<Record>),
}

pub struct LinkTask {
    pub ends: Arc<Ends>,
    pub core: link::Link,
    pub filters: Filters,
    pub commands: mpsc::Receiver<Asked>,
    pub view: Arc<Mutex<View>>,
    /// Told whenever something comes from the peer.
    pub heard: Arc<Notify>,
}

/// What the loop keeps besides the link itself.
struct Loop {
    reader: Box<dyn Reader>,
    read_after: u64,
    head: watch::Receiver<Head>,
    wire: Wire,
    offset: ClockOffset,
    progress_at: Instant,
    written: Option<(u64, u64)>,
    held_changes: u64,
    /// As it said last.
    peer_lives: Lives,
    youngest_stray: Option<(u64, Position)>,
    /// What was held back for the peer, as it said last, and its lives then.
    holes: (Lives, Vec<Position>),
    /// The youngest copy of another region's that this link took up.
    adopted: Option<u64>,
    bringing: Bringing,
    viewed_at: Instant,
    /// The feed failed or the dead letters are full: no reading before this.
    read_again_at: Instant,
    blocked: bool,
}

impl LinkTask {
    /// Runs until `stop`, then waits for what is on the wire and writes the progress down.
    pub async fn run(mut self, stop: CancellationToken) {
        let now = Instant::now();
        let mut state = Loop {
            reader: self.ends.hub.reader(self.core.low()),
            read_after: self.core.low(),
            head: self.ends.hub.follow_head(),
            wire: FuturesUnordered::new(),
            offset: ClockOffset::default(),
            progress_at: now,
            written: None,
            held_changes: 0,
            peer_lives: Lives::default(),
            youngest_stray: None,
            holes: Default::default(),
            adopted: None,
            bringing: Bringing::default(),
            viewed_at: now,
            read_again_at: now,
            blocked: false,
        };
        self.find_low_mark().await;
        while !stop.is_cancelled() {
            self.read(&mut state).await;
            self.send(&mut state);
            self.send_held(&mut state).await;
            self.write_progress(&mut state);
            self.refresh_view(&mut state, false);
            if cfg!(debug_assertions) {
                self.check();
            }
            let wake = self.wake_at(&state);
            let reads = self.core.wants().is_some() && !state.blocked;
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                Some(answered) = state.wire.next() => self.answered(&mut state, answered).await,
                Some(brought) = state.bringing.next() => self.brought(&mut state, brought).await,
                Some(asked) = self.commands.recv() => {
                    self.command(asked.command).await;
                    self.refresh_view(&mut state, true);
                    // Whoever asked may have gone.
                    let _ = asked.done.send(());
                }
                () = self.heard.notified() => self.core.peer_heard(),
                Ok(()) = state.head.changed(), if reads => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        let drained = tokio::time::timeout(self.ends.attempt_timeout, async {
            while let Some(answered) = state.wire.next().await {
                self.answered(&mut state, answered).await;
            }
        });
        if drained.await.is_err() {
            tracing::info!(peer = self.ends.peer_name, "stopping with batches unanswered; they are sent again");
        }
        let progress = self.core.progress(self.ends.clock.now());
        let change = Change::Progress { peer: self.ends.peer_name.clone(), progress };
        if let Err(error) = self.ends.hub.note(vec![change.into()]).await {
            tracing::warn!(peer = self.ends.peer_name, %error, "progress not written down; some is sent again");
        }
    }

    /// When there may be something to do that nobody tells us about.
    fn wake_at(&self, state: &Loop) -> Instant {
        let mut wake = Instant::now() + VIEW_INTERVAL;
        if let Some(deadline) = self.core.deadline(state.bringing.room(HELD_BATCH)) {
            wake = wake.min(Instant::now() + deadline.since(self.ends.steady()).max(Duration::from_millis(1)));
        }
        if state.written != Some(self.written()) {
            wake = wake.min(state.progress_at + PROGRESS_INTERVAL);
        }
        wake
    }

    async fn read(&mut self, state: &mut Loop) {
        state.blocked = Instant::now() < state.read_again_at;
        while let Some(want) = self.core.wants().filter(|_| !state.blocked) {
            state.head.mark_unchanged();
            if state.head.borrow_and_update().offset <= want.after {
                return;
            }
            if state.read_after != want.after {
                state.reader.seek(want.after);
                state.read_after = want.after;
            }
            match state.reader.next(want.events, want.bytes).await {
                Ok(records) => {
                    let Some(last) = records.last() else { return };
                    let to = last.header.offset;
                    state.read_after = to;
                    let chunk = link::Chunk { from: want.after, to, records };
                    let now = self.ends.clock.now();
                    let filters = &self.filters;
                    let effects = self.core.on_chunk(chunk, now, |record| filters.selects(record));
                    self.perform(effects).await;
                }
                Err(ReadError::Dropped { base, mark }) => {
                    let effects = self.core.lose_place(base, mark);
                    self.perform(effects).await;
                }
                Err(ReadError::Failed(why)) => {
                    tracing::error!(peer = self.ends.peer_name, why, "the log cannot be read for this link");
                    state.read_again_at = Instant::now() + Duration::from_secs(1);
                    state.blocked = true;
                }
            }
        }
    }

    fn send(&mut self, state: &mut Loop) {
        if state.blocked {
            return;
        }
        while let Some(send) = self.core.next_send(self.ends.steady(), self.ends.clock.now()) {
            let shadow = self.core.options().shadow;
            let kind = if shadow { Kind::Shadow } else { Kind::Stream { from: send.from, to: send.to } };
            let (ends, pacer) = (self.ends.clone(), self.ends.pacer());
            // As many as the peer remembers.
            let mut held = self.core.held_sequences();
            held.truncate(STRAYED_MAX);
            let sending = async move {
                let bytes = send.records.iter().map(|record| record.raw().len()).sum();
                let paced = pacer.admit(send.records.len(), bytes).await;
                let opening = Opening { held, ..ends.opening(kind) };
                let sent = opening.sent;
                let records = send.records.as_ref().clone();
                let result = ends.deliver(Batch { opening, records }).await;
                Answered { what: Sent::Span(send.id), sent, result, paced }
            };
            state.wire.push(sending.boxed());
        }
    }

    async fn answered(&mut self, state: &mut Loop, answered: Answered) {
        let now = self.ends.clock.now();
        self.ends.metrics.rate_limited_seconds.inc_by(answered.paced.as_secs_f64());
        match &answered.result {
            Ok(reply) => {
                self.ends.metrics.batches_answered.inc();
                self.ends.told(&reply.high_waters, &reply.strays);
                state.offset.add(answered.sent, reply.received, reply.replied, now);
                self.hold_lost_strays(state, reply);
            }
            Err(failure) => {
                self.ends.metrics.batches_failed.inc();
                tracing::debug!(peer = self.ends.peer_name, %failure, "a batch has no answer");
            }
        }
        let was = self.core.status();
        let effects = match (answered.what, answered.result) {
            (Sent::Span(id), Ok(reply)) => {
                let (lives, head, base) = self.hub_view();
                let hub = HubView { lives: &lives, head, base };
                let effects = self.core.on_reply(id, &reply, self.ends.steady(), &hub);
                self.fill_holes(state, &reply.lives, &reply.holes);
                effects
            }
            (Sent::Span(id), Err(failure)) => {
                self.core.on_failure(id, failure, self.ends.steady(), self.ends.entropy.next_f64());
                Vec::new()
            }
            (Sent::Held(records), result) => self.held_answered(&records, result.as_ref().ok()).await,
        };
        self.perform(effects).await;
        let is = self.core.status();
        if was != is {
            tracing::info!(peer = self.ends.peer_name, state = is.as_str(), ?is, "link changed its state");
            self.refresh_view(state, true);
        }
    }

    async fn perform(&mut self, effects: Vec<Effect>) {
        let now = self.ends.clock.now();
        let metrics = self.ends.metrics.clone();
        let mut letters = Vec::new();
        let mut skipped = [0u64; link::Skip::ALL.len()];
        let mut after = Vec::new();
        for effect in effects {
            match effect {
                Effect::Settled { record, outcome } => self.count(&record, outcome, now),
                Effect::Skipped { record, why } => {
                    if !record.header.is_reserved() {
                        skipped[why as usize] += 1;
                    }
                }
                Effect::DeadLetter { record, reason, attempts } => {
                    // A heartbeat that nobody can take any more is no loss.
                    if !record.header.is_reserved() {
                        letters.push(self.ends.letter(&record, reason, attempts));
                    }
                }
                other => after.push(other),
            }
        }
        for (why, count) in link::Skip::ALL.iter().zip(skipped).filter(|(_, count)| *count > 0) {
            self.ends.skipped.with_label_values(&[why.as_str()]).inc_by(count);
        }
        if !letters.is_empty()
            && let Err(error) = self.ends.hub.note(letters).await
        {
            // The hub failed, so the process ends; the progress past these events is not written either.
            tracing::error!(peer = self.ends.peer_name, %error, "dead letters not written");
        }
        for effect in after {
            match effect {
                Effect::Rewound { from, to } => {
                    tracing::warn!(
                        peer = self.ends.peer_name,
                        from,
                        to,
                        "the peer lacks what it had confirmed (restored from an older copy?); sending it again"
                    );
                    metrics.rewinds.inc();
                    self.find_low_mark().await;
                }
                Effect::Unrecoverable { from, to, mark } => self.lost(from, to, mark).await,
                Effect::Settled { .. } | Effect::Skipped { .. } | Effect::DeadLetter { .. } => {}
            }
        }
    }

    fn count(&self, record: &Record, outcome: Outcome, now: Timestamp) {
        let metrics = &self.ends.metrics;
        if self.core.options().shadow {
            match outcome {
                Outcome::Duplicate => metrics.shadow_known.inc(),
                _ => metrics.shadow_new.inc(),
            }
            return;
        }
        let lag = now.since(record.header.accepted);
        if record.header.is_reserved() {
            if outcome == Outcome::Delivered {
                let is_state = record.detail_type() == documents::events::DELTA;
                let histogram = if is_state { &metrics.lag_state } else { &metrics.lag_heartbeat };
                histogram.observe(lag.as_secs_f64());
            }
            return;
        }
        match outcome {
            Outcome::Delivered => {
                metrics.delivered.inc();
                metrics.observe_lag(record.header.has_payload(), lag, record.trace_id(), now);
            }
            Outcome::Duplicate => metrics.duplicate.inc(),
            Outcome::Rejected(_) => metrics.rejected.inc(),
            Outcome::Retry { .. } => {}
        }
    }

    /// Names what the link can never deliver: the log dropped `(from, to]`. Where nobody knows any more what stood at
    /// `from`, the count is an upper bound.
    async fn lost(&mut self, from: u64, to: u64, mark: Mark) {
        let head = self.ends.hub.end();
        let end = self.mark_at(to).await.unwrap_or(head.mark());
        let events = end.local_events.saturating_sub(mark.local_events).min(to - from);
        let loss = Loss {
            from,
            to,
            events,
            first_accepted: mark.accepted,
            last_accepted: end.accepted,
            at: self.ends.clock.now(),
        };
        tracing::error!(
            peer = self.ends.peer_name,
            from,
            to,
            events,
            first_accepted = loss.first_accepted.to_rfc3339(),
            last_accepted = loss.last_accepted.to_rfc3339(),
            "the link lost its place: these offsets left the log before they were delivered (log.max_size)"
        );
        self.ends.metrics.lost.inc_by(events);
        let change = Change::Lost { peer: self.ends.peer_name.clone(), loss };
        if let Err(error) = self.ends.hub.note(vec![change.into()]).await {
            tracing::error!(peer = self.ends.peer_name, %error, "a loss was not written down");
        }
    }

    fn hub_view(&self) -> (Lives, u64, u64) {
        let lives = read_state(&*self.ends.hub, |state| state.lives.clone());
        (lives, self.ends.hub.end().offset, self.ends.hub.base())
    }

    /// What stands at the low-water, after a start or rewind without a note of it.
    async fn find_low_mark(&mut self) {
        if self.core.low_mark() != Mark::default() {
            return;
        }
        let low = self.core.low();
        let mark = match self.mark_at(low).await {
            Some(mark) => mark,
            // Nothing was ever delivered: the log's first event is the oldest that is exposed.
            None => {
                let mut reader = self.ends.hub.reader(low);
                match reader.next(1, 1).await {
                    Ok(first) if !first.is_empty() => {
                        let before = Timestamp(first[0].header.accepted.0.saturating_sub(1));
                        Mark { accepted: before, ..Mark::default() }
                    }
                    // Whatever is accepted next is accepted later than the log's end.
                    _ => Mark { accepted: self.ends.hub.end().accepted, ..Mark::default() },
                }
            }
        };
        self.core.set_low_mark(mark);
    }

    async fn mark_at(&self, offset: u64) -> Option<Mark> {
        match self.ends.hub.reader(offset.checked_sub(1)?).next(1, 1).await {
            Ok(records) => records.first().map(|record| Mark::from(&record.header)),
            Err(ReadError::Dropped { base, mark }) if base == offset => Some(mark),
            Err(_) => None,
        }
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Pause(paused) => self.core.set_paused(paused),
            Command::Options { options, pacer } => {
                self.core.set_options(options);
                let pacer = Arc::new(Pacer::new(pacer.events_per_second, pacer.bytes_per_second));
                *self.ends.pacer.write().unwrap_or_else(PoisonError::into_inner) = pacer;
            }
            Command::Filter(pattern) => {
                let after = self.ends.hub.end().offset;
                let text = pattern.as_json().to_string();
                let change = Change::Filter { peer: self.ends.peer_name.clone(), after, pattern: text };
                match self.ends.hub.note(vec![change.into()]).await {
                    Ok(()) => self.filters.push(after, pattern),
                    Err(error) => tracing::error!(peer = self.ends.peer_name, %error, "the new filter is not in force"),
                }
            }
        }
    }

    fn check(&self) {
        if let Some(violation) = self.core.check() {
            self.ends.watch.broken(violation);
        }
    }

    fn written(&self) -> (u64, u64) {
        (self.core.low(), self.core.held_changes())
    }

    fn write_progress(&mut self, state: &mut Loop) {
        let now = Instant::now();
        if state.written == Some(self.written()) || now < state.progress_at + PROGRESS_INTERVAL {
            return;
        }
        state.progress_at = now;
        state.written = Some(self.written());
        let progress = self.core.progress(self.ends.clock.now());
        self.ends.hub.note_lazily(Change::Progress { peer: self.ends.peer_name.clone(), progress }.into());
    }

    fn refresh_view(&mut self, state: &mut Loop, at_once: bool) {
        let now = Instant::now();
        if !at_once && now < state.viewed_at {
            // How far the link is costs nothing to say, and with what exceptions: retention goes by both. The rest is
            // counted.
            let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
            if state.held_changes != self.core.held_changes() {
                state.held_changes = self.core.held_changes();
                view.held = self.core.held_sequences();
                view.held_since = self.core.held_since();
            }
            view.cursor = self.core.low();
            view.mark = self.core.low_mark();
            return;
        }
        state.viewed_at = now + VIEW_INTERVAL / 2;
        self.hold_adopted(state);
        self.check();
        let dead_letters = self.ends.dead_letters();
        let full = dead_letters >= self.ends.dead_letters_max;
        if full && !state.blocked {
            tracing::error!(
                peer = self.ends.peer_name,
                dead_letters,
                "the dead letters are full: the link stops until some are redriven or discarded"
            );
        }
        if full {
            state.read_again_at = now + Duration::from_secs(1);
        }
        state.held_changes = self.core.held_changes();
        let view = View {
            status: self.core.status(),
            cursor: self.core.low(),
            mark: self.core.low_mark(),
            held: self.core.held_sequences(),
            held_since: self.core.held_since(),
            clock_offset_seconds: state.offset.seconds(),
        };
        let metrics = &self.ends.metrics;
        metrics.set_state(view.status.as_str());
        metrics.held.set(view.held.len() as f64);
        let (waiting, since) = self.core.waiting_for_payload();
        metrics.objects_waiting.set(waiting as f64);
        let now = self.ends.clock.now();
        metrics.objects_waiting_seconds.set(since.map_or(0.0, |since| now.since(since).as_secs_f64()));
        metrics.dead_letters.set(dead_letters as f64);
        metrics.clock_offset.set(view.clock_offset_seconds.unwrap_or(0.0));
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = view;
    }
}
