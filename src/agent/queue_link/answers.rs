//! What each answer means for the messages that the call was about.

use std::time::Duration;

use super::{
    calls::{Answer, Results},
    item::{Fate, Feed, Load, Stage},
    progress::Count,
    work::Work,
};
use crate::{
    core::{
        batch::{Outcome, Reason},
        claim::{Contender, Judgement, Row, State, judge},
        envelope::Event,
        link::Failure,
        time::Timestamp,
    },
    marks::{self, Mark},
    planted::{self, Bug},
    ports::{bus::Put, claims::Inserted, queue},
};

/// The pauses between looks at somebody else's claim begin here and double: most claims are done in an instant.
const LOOK_MIN: Duration = Duration::from_millis(250);

/// A message that nothing could be done with for so long is given back: a queue hides a message for 12 h at most.
const KEEP_MAX: Duration = Duration::from_secs(3_600);

/// After so many deletions without an answer the message is left to come again; it will be a duplicate then.
const DELETIONS_MAX: u32 = 5;

/// What was called.
#[derive(Clone, Copy)]
enum Callee {
    Ledger,
    Bus,
}

impl Work {
    pub fn answered(&mut self, answer: Answer, now: Timestamp) {
        match answer {
            Answer::Received { feed, result } => self.received(feed, result, now),
            Answer::Extended { items, result } => {
                self.extending = false;
                self.extended(&items, result, now);
            }
            Answer::Returned { items, result } => {
                self.calls[Stage::Return.index()] -= 1;
                if let Err(failure) = &result {
                    // They come back by themselves.
                    tracing::debug!(peer = self.options.peer, %failure, "messages not given back");
                }
                items.iter().for_each(|seq| self.forget(*seq, now));
            }
            Answer::Deleted { items, receipts, result } => self.deleted(&items, &receipts, result, now),
            Answer::Sent { items, result } => self.sent(&items, result, now),
            Answer::Claimed { items, sent, paced, result } => {
                self.ports.metrics.rate_limited_seconds.inc_by(paced.as_secs_f64());
                self.claimed(&items, sent, result, now);
            }
            Answer::Brought { item, result } => self.brought(item, result, now),
            Answer::Looked { items, result } => self.looked(&items, result, now),
            Answer::TookOver { item, sent, result } => self.took_over(item, sent, result, now),
            Answer::Put { items, result } => self.was_put(&items, result, now),
            Answer::Marked { items, result } => self.marked(&items, result, now),
            Answer::Released { items, result } => self.released(&items, result, now),
            Answer::Depths { feeds, held, dead } => {
                self.asking_depth = false;
                self.ports.metrics.backlog_events.set(feeds.total() as f64);
                self.ports.metrics.dead_letters.set(dead.total() as f64);
                let at = self.ports.clock.now();
                self.ports.progress.counted(Count { at, all: feeds.total(), held: held.total() });
            }
            Answer::NoDepths => self.asking_depth = false,
        }
    }

    fn received(&mut self, feed: Feed, result: Result<Vec<queue::Message>, Failure>, now: Timestamp) {
        self.receives[feed as usize] -= 1;
        match result {
            Ok(messages) => {
                self.queues.succeeded();
                if feed == Feed::Main {
                    let full = messages.len() >= queue::CALL_MESSAGES_MAX;
                    self.wanted = if full { (self.wanted + 1).min(self.options.receives) } else { 1 };
                }
                for message in messages {
                    self.admit(feed, message, now);
                }
                // A poll that was under way may still bring something.
                if self.draining || self.paused {
                    self.give_back(now);
                }
            }
            Err(failure) => {
                self.queues.failed(&failure, now, self.ports.entropy.next_f64());
                tracing::debug!(peer = self.options.peer, %failure, "nothing received");
            }
        }
    }

    fn extended(&mut self, items: &[u64], result: Results<()>, now: Timestamp) {
        let until = now.plus(self.options.visibility);
        if let Err(failure) = &result {
            self.queues.failed(failure, now, self.ports.entropy.next_f64());
        }
        for (seq, result) in items.iter().zip(spread(items.len(), result)) {
            let Some(item) = self.items.get_mut(seq) else { continue };
            if let Err(failure) = result {
                // Others may receive it now. The ledger keeps them apart; if it was deleted there is nothing to hide.
                tracing::debug!(peer = self.options.peer, %failure, "a message is not hidden any longer");
            }
            item.visible_until = until;
        }
    }

    fn deleted(&mut self, items: &[u64], receipts: &[String], result: Results<()>, now: Timestamp) {
        self.calls[Stage::Delete.index()] -= 1;
        for ((seq, receipt), result) in items.iter().zip(receipts).zip(spread(items.len(), result)) {
            let Some(item) = self.items.get_mut(seq) else { continue };
            let came_again = item.message.receipt != *receipt;
            item.deletions += 1;
            match result {
                Ok(()) if came_again => {
                    marks::hit(Mark::MessageCameAgain);
                    self.schedule(*seq, Stage::Delete, now);
                }
                Ok(()) => self.forget(*seq, now),
                Err(failure) if item.deletions >= DELETIONS_MAX => {
                    tracing::warn!(peer = self.options.peer, %failure, "a message is not deleted; it will come again");
                    self.forget(*seq, now);
                }
                Err(_) => {
                    let pause = self.pause(self.items.get(seq).map_or(1, |item| item.deletions));
                    self.schedule(*seq, Stage::Delete, now.plus(pause));
                }
            }
        }
    }

    fn sent(&mut self, items: &[u64], result: Results<()>, now: Timestamp) {
        self.calls[Stage::Send.index()] -= 1;
        for (seq, result) in items.iter().zip(spread(items.len(), result)) {
            let Some(item) = self.items.get(seq) else { continue };
            if let Err(failure) = result {
                tracing::error!(peer = self.options.peer, %failure, "a message is not written to its queue yet");
                self.retry(*seq, Stage::Send, now);
                continue;
            }
            if let Fate::Letter { reason, why } = &item.fate {
                let event = item.event.as_ref();
                tracing::warn!(
                    peer = self.options.peer,
                    key = event.map(|event| event.key.as_str()),
                    source = event.map(|event| event.source.as_str()),
                    message = item.message.id,
                    trace = item.message.trace_id(),
                    reason = reason.as_str(),
                    why,
                    "event goes to the dead letters"
                );
                marks::hit(Mark::MessageDead);
                self.ports.metrics.count_dead_letter(*reason);
                self.ports.metrics.rejected.inc();
            }
            self.schedule(*seq, Stage::Delete, now);
        }
    }

    fn claimed(&mut self, items: &[u64], sent: Timestamp, result: Results<Inserted>, now: Timestamp) {
        self.calls[Stage::Claim.index()] -= 1;
        self.heard(Callee::Ledger, &result, now);
        for (seq, result) in items.iter().zip(spread(items.len(), result)) {
            let Some(item) = self.items.get_mut(seq) else { continue };
            match result {
                Ok(Inserted::New) => {
                    item.since.get_or_insert(if planted::is(Bug::LeaseFromAnswer) { now } else { sent });
                    item.seen = None;
                    if item.placed.is_some() {
                        self.settle(*seq, Outcome::Delivered, now)
                    } else {
                        self.may_put(*seq, now)
                    }
                }
                Ok(Inserted::Known(row)) => self.known(*seq, &row, sent, now),
                Err(failure) => {
                    if matches!(failure, Failure::Unanswered(_)) {
                        marks::hit(Mark::ClaimUnanswered);
                        // It may be there since then.
                        item.since.get_or_insert(sent);
                    }
                    self.retry(*seq, Stage::Claim, now);
                }
            }
        }
        if self.ledger.is_open() {
            // Theirs were among the calls that opened it.
            self.give_back(now);
        }
    }

    /// In shadow mode: whether the peer knows the keys.
    fn looked(&mut self, items: &[u64], result: Result<Vec<Option<Row>>, Failure>, now: Timestamp) {
        self.calls[Stage::Claim.index()] -= 1;
        let result: Results<Option<Row>> = result.map(|rows| rows.into_iter().map(Ok).collect());
        self.heard(Callee::Ledger, &result, now);
        for (seq, row) in items.iter().zip(spread(items.len(), result)) {
            self.set_load(*seq, Load::None);
            let reserved = self.items.get(seq).and_then(|item| item.event.as_ref()).is_some_and(Event::is_reserved);
            match row {
                Ok(_) if reserved => self.schedule(*seq, Stage::Delete, now),
                Ok(row) => {
                    let known = row.is_some_and(|row| matches!(row.state, State::Done { .. }));
                    let metrics = &self.ports.metrics;
                    if known {
                        metrics.shadow_known.inc()
                    } else {
                        metrics.shadow_new.inc()
                    }
                    self.schedule(*seq, Stage::Delete, now);
                }
                Err(_) => self.retry(*seq, Stage::Claim, now),
            }
        }
    }

    /// An insertion met a row.
    fn known(&mut self, seq: u64, row: &Row, sent: Timestamp, now: Timestamp) {
        let fresh = self.token();
        let wall = self.ports.clock.now();
        let Some(item) = self.items.get_mut(&seq) else { return };
        let Some(event) = &item.event else { return };
        let observed = match (&row.state, item.seen) {
            // Read after the request left, and seen before.
            (State::Claimed { token, .. }, Some((seen, since))) if *token == seen => sent.since(since),
            (State::Claimed { token, .. }, _) if !item.tokens.contains(token) => {
                item.seen = Some((*token, now));
                item.attempts = 0;
                Duration::ZERO
            }
            _ => Duration::ZERO,
        };
        let contender = Contender { tokens: &item.tokens, payload: event.payload_hash, observed, now: wall };
        match judge(row, &contender) {
            Judgement::Proceed => {
                marks::hit(Mark::ClaimOwn);
                item.since.get_or_insert(sent);
                item.seen = None;
                if item.placed.is_some() { self.schedule(seq, Stage::Mark, now) } else { self.may_put(seq, now) }
            }
            Judgement::Duplicate => {
                marks::hit(Mark::ClaimDuplicate);
                let placed = item.placed.is_some();
                self.settle(seq, if placed { Outcome::Delivered } else { Outcome::Duplicate }, now);
            }
            Judgement::Conflict => {
                marks::hit(Mark::ClaimConflict);
                item.fate = Fate::Letter { reason: Reason::Conflict, why: format!("first from {}", row.origin) };
                self.set_load(seq, Load::None);
                self.schedule(seq, Stage::Send, now);
            }
            Judgement::Wait(rest) => {
                marks::hit(Mark::ClaimWaited);
                let look = LOOK_MIN.saturating_mul(1 << item.attempts.min(8));
                item.attempts += 1;
                item.restart(fresh);
                self.set_load(seq, Load::None);
                self.schedule(seq, Stage::Claim, now.plus(look.min(rest)));
            }
            Judgement::TakeOver(from) => {
                item.took_over = !item.tokens.contains(&from);
                if item.took_over {
                    item.since = None;
                    let (peer, trace) = (&self.options.peer, item.message.trace_id());
                    tracing::warn!(peer, key = event.key, trace, "a claim that nobody keeps is taken over");
                }
                self.schedule(seq, Stage::TakeOver(from), now);
            }
            Judgement::Absent => self.retry(seq, Stage::Claim, now),
        }
    }

    fn may_put(&mut self, seq: u64, now: Timestamp) {
        if self.draining {
            if let Some(item) = self.items.get_mut(&seq) {
                item.fate = Fate::Return;
            }
            self.schedule(seq, Stage::Release, now);
        } else {
            self.schedule(seq, Stage::Put, now);
        }
    }

    fn took_over(&mut self, seq: u64, sent: Timestamp, result: Result<bool, Failure>, now: Timestamp) {
        let index = Stage::TakeOver(crate::core::claim::Token(0)).index();
        self.calls[index] -= 1;
        self.heard(Callee::Ledger, &result.clone().map(|done| vec![Ok(done)]), now);
        let Some(item) = self.items.get_mut(&seq) else { return };
        if item.took_over && !matches!(result, Ok(false) | Err(Failure::Throttled { .. } | Failure::Refused(_))) {
            // The former holder may have published it just before he was lost.
            self.ports.metrics.repeats_taken_over.inc();
            item.took_over = false;
        }
        match result {
            Ok(true) => {
                marks::hit(Mark::ClaimTakenOver);
                item.since.get_or_insert(sent);
                item.seen = None;
                if item.placed.is_some() { self.settle(seq, Outcome::Delivered, now) } else { self.may_put(seq, now) }
            }
            Ok(false) => {
                marks::hit(Mark::ClaimNotTakenOver);
                item.took_over = false;
                self.schedule(seq, Stage::Claim, now);
            }
            Err(failure) => {
                if matches!(failure, Failure::Unanswered(_)) {
                    item.since.get_or_insert(sent);
                }
                self.retry(seq, Stage::Claim, now);
            }
        }
    }

    fn was_put(&mut self, items: &[u64], result: Result<Vec<Put>, Failure>, now: Timestamp) {
        self.calls[Stage::Put.index()] -= 1;
        self.heard(Callee::Bus, &result.clone().map(|puts| puts.into_iter().map(Ok).collect()), now);
        match result {
            Ok(outcomes) => {
                self.ports.metrics.batches_answered.inc();
                if outcomes.iter().all(|outcome| matches!(outcome, Put::Later { .. })) {
                    let pause = Failure::Throttled { after: Duration::ZERO };
                    self.bus.failed(&pause, now, self.ports.entropy.next_f64());
                }
                let all = outcomes.iter().find(|outcome| matches!(outcome, Put::Accepted(_))).cloned();
                let all = all.filter(|_| planted::is(Bug::BatchAcknowledgedOnPartialFailure));
                for (seq, outcome) in items.iter().zip(outcomes) {
                    self.outcome(*seq, all.clone().unwrap_or(outcome), now);
                }
            }
            Err(failure) => {
                self.ports.metrics.batches_failed.inc();
                let ambiguous = matches!(failure, Failure::Unanswered(_));
                if ambiguous {
                    marks::hit(Mark::PutUnanswered);
                }
                for seq in items {
                    if ambiguous && !planted::is(Bug::RepeatNotCounted) {
                        self.ports.metrics.repeats_unanswered.inc();
                        tracing::debug!(peer = self.options.peer, %failure, "an event may or may not be on the bus");
                    }
                    self.not_put(*seq, ambiguous);
                    self.retry(*seq, Stage::Put, now);
                }
            }
        }
    }

    /// An attempt to put is over, and the event is not known to be on the bus.
    fn not_put(&mut self, seq: u64, ambiguous: bool) {
        let Some(item) = self.items.get_mut(&seq) else { return };
        item.ambiguous |= ambiguous;
        let load = if item.ambiguous { Load::Unmarked } else { Load::Claimed };
        self.set_load(seq, load);
    }

    fn outcome(&mut self, seq: u64, outcome: Put, now: Timestamp) {
        let Some(item) = self.items.get_mut(&seq) else { return };
        match outcome {
            Put::Accepted(id) => {
                item.placed = Some(id);
                item.attempts = 0;
                if planted::is(Bug::DeletedBeforeMark) {
                    return self.settle(seq, Outcome::Delivered, now);
                }
                self.schedule(seq, Stage::Mark, now);
            }
            Put::Later { code, why } => {
                marks::hit(Mark::PutLater);
                let waited = now.since(item.began);
                tracing::debug!(peer = self.options.peer, code, why, "the bus takes an event later");
                self.not_put(seq, false);
                if waited >= self.options.hold_after {
                    marks::hit(Mark::PutHeld);
                    self.end(seq, Fate::Held, now);
                } else {
                    self.retry(seq, Stage::Put, now);
                }
            }
            Put::Refused { code, why } => {
                marks::hit(Mark::PutRefused);
                self.not_put(seq, false);
                self.end(seq, Fate::Letter { reason: Reason::Refused, why: format!("{code}: {why}") }, now);
            }
        }
    }

    /// Gives the claim up; then the message goes to its fate.
    fn end(&mut self, seq: u64, fate: Fate, now: Timestamp) {
        if let Some(item) = self.items.get_mut(&seq) {
            item.fate = fate;
        }
        self.schedule(seq, Stage::Release, now);
    }

    fn marked(&mut self, items: &[u64], result: Results<bool>, now: Timestamp) {
        self.calls[Stage::Mark.index()] -= 1;
        self.heard(Callee::Ledger, &result, now);
        for (seq, result) in items.iter().zip(spread(items.len(), result)) {
            match result {
                Ok(true) => self.settle(*seq, Outcome::Delivered, now),
                Ok(false) => {
                    marks::hit(Mark::ClaimLost);
                    // Somebody took the claim over: what he makes of it is waited for, so that the key ends up done.
                    self.ports.metrics.claims_lost.inc();
                    let fresh = self.token();
                    self.set_load(*seq, Load::None);
                    let Some(item) = self.items.get_mut(seq) else { continue };
                    tracing::warn!(
                        peer = self.options.peer,
                        message = item.message.id,
                        trace = item.message.trace_id(),
                        "a claim was lost before its mark"
                    );
                    item.restart(fresh);
                    self.schedule(*seq, Stage::Claim, now);
                }
                Err(_) => {
                    marks::hit(Mark::MarkUnanswered);
                    self.retry(*seq, Stage::Mark, now);
                }
            }
        }
    }

    fn released(&mut self, items: &[u64], result: Results<bool>, now: Timestamp) {
        self.calls[Stage::Release.index()] -= 1;
        self.heard(Callee::Ledger, &result, now);
        for (seq, result) in items.iter().zip(spread(items.len(), result)) {
            if result.is_err() {
                self.retry(*seq, Stage::Release, now);
                continue;
            }
            self.set_load(*seq, Load::None);
            let fate = self.items.get(seq).map(|item| item.fate.clone());
            let silent = planted::is(Bug::DeadLetterCountsAsDelivered) && matches!(fate, Some(Fate::Letter { .. }));
            let next = match fate {
                Some(Fate::Return) => Stage::Return,
                _ if silent => Stage::Delete,
                _ => Stage::Send,
            };
            self.schedule(*seq, next, now);
        }
    }

    /// The event was brought to an end at the peer.
    fn settle(&mut self, seq: u64, outcome: Outcome, now: Timestamp) {
        self.set_load(seq, Load::None);
        let Some(item) = self.items.get(&seq) else { return };
        let metrics = &self.ports.metrics;
        let reserved = item.event.as_ref().is_some_and(|event| event.is_reserved());
        let at = self.ports.clock.now();
        self.ports.progress.finished(item.accepted, at);
        if outcome == Outcome::Delivered {
            let lag = at.since(item.accepted);
            let has_payload = item.event.as_ref().is_some_and(|event| event.has_payload);
            match reserved {
                true => metrics.lag_heartbeat.observe(lag.as_secs_f64()),
                false => metrics.observe_lag(has_payload, lag, item.message.trace_id(), at),
            }
        }
        if !reserved {
            let counter = if outcome == Outcome::Delivered { &metrics.delivered } else { &metrics.duplicate };
            counter.inc();
        }
        self.schedule(seq, Stage::Delete, now);
    }

    /// The same again after a pause, unless that went on for too long.
    pub(super) fn retry(&mut self, seq: u64, stage: Stage, now: Timestamp) {
        let Some(item) = self.items.get_mut(&seq) else { return };
        item.attempts = item.attempts.saturating_add(1);
        let attempts = item.attempts;
        // What was begun is brought to an end also while draining, as far as its time goes.
        let given_up = now.since(item.began) >= KEEP_MAX
            || self.draining && matches!(stage, Stage::Bring | Stage::Claim | Stage::Put);
        if given_up {
            item.fate = Fate::Return;
            let claimed = item.load == Load::Claimed && !item.ambiguous;
            let next = if claimed && stage == Stage::Put { Stage::Release } else { Stage::Return };
            self.schedule(seq, next, now);
        } else {
            let pause = self.pause(attempts);
            self.schedule(seq, stage, now.plus(pause));
        }
    }

    /// Tells the circuit how a call went: as a whole, and where all of its entries failed alike.
    fn heard<T>(&mut self, callee: Callee, result: &Results<T>, now: Timestamp) {
        let failure = match result {
            Ok(results) if results.iter().any(Result::is_ok) => None,
            Ok(results) => results.iter().find_map(|result| result.as_ref().err()).cloned(),
            Err(failure) => Some(failure.clone()),
        };
        let chance = self.ports.entropy.next_f64();
        let circuit = match callee {
            Callee::Ledger => &mut self.ledger,
            Callee::Bus => &mut self.bus,
        };
        match failure {
            None => circuit.succeeded(),
            Some(failure) if circuit.failed(&failure, now, chance) => {
                marks::hit(Mark::CircuitOpened);
                tracing::warn!(peer = self.options.peer, %failure, "the peer is left alone for a while");
                self.give_back(now);
            }
            Some(failure) => tracing::debug!(peer = self.options.peer, %failure, "a call to the peer failed"),
        }
    }
}

/// A result for each entry, also where there is one for all.
fn spread<T>(entries: usize, results: Results<T>) -> Vec<Result<T, Failure>> {
    match results {
        Ok(results) => results,
        Err(failure) => (0..entries).map(|_| Err(failure.clone())).collect(),
    }
}
