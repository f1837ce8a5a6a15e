//! A publish through the agent of a region on managed services: the key first, then the bus.
//!
//! Claim in the own ledger, put on the own bus, mark. So a producer that tries again, here or in another region, is told of
//! the first event instead of making a second one, which a bus alone cannot do. An event without a key of its own cannot be
//! claimed, as its key is the id that the bus will give it.

mod unmarked;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::rounds::within;
use crate::{
    core::{
        backoff::Backoff,
        claim::{Claim, Contender, Judgement, Row, State, Token, attempt_within, judge, may_put},
        envelope::Entry,
        event::Draft,
        key::KeyHash,
        link::Failure,
        time::Timestamp,
        trace,
    },
    metrics::LinkMetrics,
    ports::{
        bus::{self, Bus, Put},
        claims::{self, Claims, Inserted},
        clock::{Clock, Entropy},
    },
};

#[derive(Clone, Debug)]
pub struct Options {
    pub home: String,
    pub lease: Duration,
    /// How long one put may take.
    pub attempt_timeout: Duration,
    pub call_timeout: Duration,
    /// How long a publish may take in all; what is not done then is answered [`Published::Unavailable`].
    pub patience: Duration,
    /// Bytes of one put.
    pub put_bytes: usize,
    pub retention: Duration,
    pub backoff: Backoff,
}

pub struct Ports {
    /// The region's own ledger and bus.
    pub claims: Arc<dyn Claims>,
    pub bus: Arc<dyn Bus>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    /// For the possible repeats, with the region itself as the peer.
    pub metrics: LinkMetrics,
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// It is on the bus, under this id.
    Accepted(String),
    /// The key is known with the same payload; the id is the first one's, where it is known.
    Duplicate(Option<String>),
    /// The key is known with another payload.
    Conflict,
    /// It was not taken and never will be.
    Refused { code: String, why: String },
    /// Nothing is certain, also whether it is on the bus; publishing it again with its key is safe.
    Unavailable { why: String },
}

/// Publishes in order: any number of calls at once.
pub struct Publisher {
    options: Options,
    ports: Ports,
    started: Instant,
    unmarked: unmarked::Unmarked,
}

/// One event on its way.
struct Attempt {
    draft: Draft,
    key: Option<KeyHash>,
    tokens: Vec<Token>,
    since: Option<Timestamp>,
    seen: Option<(Token, Timestamp)>,
    step: Step,
    ambiguous: bool,
    took_over: bool,
    why: String,
    result: Option<Published>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Claim,
    TakeOver(Token),
    Put,
    Mark(String),
}

impl Publisher {
    pub fn new(mut options: Options, ports: Ports) -> Self {
        options.attempt_timeout = attempt_within(options.lease, options.attempt_timeout);
        Publisher { options, ports, started: Instant::now(), unmarked: Default::default() }
    }

    /// One answer per draft, in order. If the caller gives up, what was begun is left to its leases.
    pub async fn publish(&self, drafts: Vec<Draft>) -> Vec<Published> {
        let until = Instant::now() + self.options.patience;
        let mut results: Vec<Option<Published>> = vec![None; drafts.len()];
        let mut waiting: Vec<(usize, Draft)> = drafts.into_iter().enumerate().collect();
        while !waiting.is_empty() {
            // One event of a key at a time; its repeats find it done.
            let mut keys = BTreeSet::new();
            let name =
                |draft: &Draft| draft.key.as_ref().map(|key| KeyHash::of(&draft.source, &draft.detail_type, key));
            let (now, later): (Vec<_>, Vec<_>) =
                waiting.into_iter().partition(|(_, draft)| name(draft).is_none_or(|key| keys.insert(key)));
            waiting = later;
            let mut attempts: Vec<Attempt> = Vec::with_capacity(now.len());
            let mut indexes = Vec::with_capacity(now.len());
            for (index, draft) in now {
                indexes.push(index);
                attempts.push(self.attempt(name(&draft), draft));
            }
            self.bring_to_an_end(&mut attempts, until).await;
            for (index, attempt) in indexes.into_iter().zip(attempts) {
                let unavailable = || Published::Unavailable { why: attempt.why.clone() };
                results[index] = Some(attempt.result.clone().unwrap_or_else(unavailable));
            }
        }
        results.into_iter().map(|result| result.unwrap_or(Published::Unavailable { why: String::new() })).collect()
    }

    fn attempt(&self, key: Option<KeyHash>, draft: Draft) -> Attempt {
        Attempt {
            step: if key.is_some() { Step::Claim } else { Step::Put },
            draft,
            key,
            tokens: vec![self.token()],
            since: None,
            seen: None,
            ambiguous: false,
            took_over: false,
            why: "no answer in time".to_owned(),
            result: None,
        }
    }

    fn token(&self) -> Token {
        Token(self.ports.entropy.next_u64())
    }

    fn now(&self) -> Timestamp {
        super::queue_link::steady(self.started)
    }

    async fn bring_to_an_end(&self, attempts: &mut [Attempt], until: Instant) {
        for round in 1u32.. {
            self.claim(attempts).await;
            self.take_over(attempts).await;
            self.put(attempts).await;
            self.mark(attempts).await;
            let open = attempts.iter().filter(|attempt| attempt.result.is_none()).count();
            let pause = self.options.backoff.pause(round, self.ports.entropy.next_f64());
            if open == 0 || Instant::now() + pause >= until {
                break;
            }
            tokio::time::sleep(pause).await;
        }
        self.leave(attempts.iter().filter_map(Attempt::unmarked).collect());
        attempts.iter_mut().for_each(Attempt::settle);
        self.give_up(attempts).await;
    }

    /// A claim whose event is certainly not on the bus is released, so that the producer need not wait for its lease.
    async fn give_up(&self, attempts: &mut [Attempt]) {
        let unused = |attempt: &&mut Attempt| {
            let holds = attempt.since.is_some() && matches!(attempt.step, Step::Claim | Step::Put);
            holds && !attempt.ambiguous && !matches!(attempt.result, Some(Published::Accepted(_)))
        };
        let claims: Vec<_> = attempts
            .iter_mut()
            .filter(unused)
            .filter_map(|attempt| Some((attempt.key?, *attempt.tokens.last()?)))
            .collect();
        for claims in claims.chunks(claims::CALL_CLAIMS_MAX) {
            let call = self.ports.claims.release(claims.to_vec());
            if let Err(failure) = within(self.options.call_timeout, call).await {
                tracing::debug!(%failure, "claims not released; their leases end by themselves");
            }
        }
    }

    async fn claim(&self, attempts: &mut [Attempt]) {
        let mut due: Vec<&mut Attempt> =
            attempts.iter_mut().filter(|attempt| attempt.result.is_none() && attempt.step == Step::Claim).collect();
        for attempts in due.chunks_mut(claims::CALL_CLAIMS_MAX) {
            let claims = attempts.iter().filter_map(|attempt| self.row(attempt)).collect();
            let sent = self.now();
            let result = within(self.options.call_timeout, self.ports.claims.insert(claims)).await;
            match result {
                Ok(results) => {
                    for (attempt, result) in attempts.iter_mut().zip(results) {
                        match result {
                            Ok(Inserted::New) => {
                                attempt.since.get_or_insert(sent);
                                attempt.step = Step::Put;
                            }
                            Ok(Inserted::Known(row)) => self.known(attempt, &row, sent),
                            Err(failure) => failed(attempt, &failure, sent),
                        }
                    }
                }
                Err(failure) => attempts.iter_mut().for_each(|attempt| failed(attempt, &failure, sent)),
            }
        }
    }

    fn row(&self, attempt: &Attempt) -> Option<Claim> {
        let at = self.ports.clock.now();
        let row = Row {
            payload: attempt.draft.payload_hash,
            state: State::Claimed { token: *attempt.tokens.last()?, lease: self.options.lease },
            at,
            expires: at.plus(self.options.retention),
            origin: self.options.home.clone(),
            reserved: false,
        };
        Some(Claim { key: attempt.key?, row })
    }

    fn known(&self, attempt: &mut Attempt, row: &Row, sent: Timestamp) {
        let observed = match (&row.state, attempt.seen) {
            (State::Claimed { token, .. }, Some((seen, since))) if *token == seen => sent.since(since),
            (State::Claimed { token, .. }, _) => {
                attempt.seen = Some((*token, self.now()));
                Duration::ZERO
            }
            _ => Duration::ZERO,
        };
        let now = self.ports.clock.now();
        let contender = Contender { tokens: &attempt.tokens, payload: attempt.draft.payload_hash, observed, now };
        match judge(row, &contender) {
            Judgement::Proceed => {
                attempt.since.get_or_insert(sent);
                attempt.step = Step::Put;
            }
            Judgement::Duplicate => {
                let State::Done { id } = &row.state else { return };
                attempt.result = Some(Published::Duplicate(id.clone()));
            }
            Judgement::Conflict => attempt.result = Some(Published::Conflict),
            Judgement::Wait(_) => {
                attempt.tokens = vec![self.token()];
                attempt.since = None;
                attempt.why = "the same event is being published".to_owned();
            }
            Judgement::TakeOver(from) => {
                attempt.took_over = !attempt.tokens.contains(&from);
                attempt.step = Step::TakeOver(from);
            }
            Judgement::Absent => {}
        }
    }

    async fn take_over(&self, attempts: &mut [Attempt]) {
        for attempt in attempts.iter_mut().filter(|attempt| attempt.result.is_none()) {
            let Step::TakeOver(from) = attempt.step else { continue };
            let Some(claim) = self.row(attempt) else { continue };
            let sent = self.now();
            let result = within(self.options.call_timeout, self.ports.claims.take_over(claim, from)).await;
            if attempt.took_over && matches!(result, Ok(true) | Err(Failure::Unanswered(_))) {
                self.ports.metrics.repeats_taken_over.inc();
                attempt.took_over = false;
            }
            match result {
                Ok(true) => {
                    attempt.since.get_or_insert(sent);
                    attempt.step = Step::Put;
                }
                Ok(false) => attempt.step = Step::Claim,
                Err(failure) => {
                    failed(attempt, &failure, sent);
                    attempt.step = Step::Claim;
                }
            }
        }
    }

    async fn put(&self, attempts: &mut [Attempt]) {
        let Options { lease, attempt_timeout, .. } = self.options;
        loop {
            let now = self.now();
            let mut bytes = 0;
            let mut chosen: Vec<&mut Attempt> = Vec::new();
            let mut entries: Vec<Entry> = Vec::new();
            let due = attempts.iter_mut().filter(|attempt| attempt.result.is_none() && attempt.step == Step::Put);
            for attempt in due {
                if attempt.key.is_some()
                    && !attempt.since.is_some_and(|since| may_put(since, lease, attempt_timeout, now))
                {
                    // Too little is left of the lease: renew it in the next round.
                    let held = attempt.tokens.last().copied().unwrap_or(Token(0));
                    attempt.tokens.push(self.token());
                    attempt.since = None;
                    attempt.step = Step::TakeOver(held);
                    continue;
                }
                let entry = entry(&attempt.draft);
                bytes += entry.bytes();
                if entries.len() == bus::CALL_ENTRIES_MAX || !entries.is_empty() && bytes > self.options.put_bytes {
                    break;
                }
                entries.push(entry);
                chosen.push(attempt);
            }
            if chosen.is_empty() {
                return;
            }
            let expected = entries.len();
            let result = within(attempt_timeout, self.ports.bus.put(entries)).await;
            let goes_on = matches!(&result, Ok(puts) if puts.iter().any(|put| !matches!(put, Put::Later { .. })));
            match result {
                Ok(puts) if puts.len() == expected => {
                    for (attempt, put) in chosen.into_iter().zip(puts) {
                        was_put(attempt, put);
                    }
                }
                Ok(puts) => {
                    let failure = Failure::Unanswered(format!("{} results for {expected} entries", puts.len()));
                    self.not_put(chosen, &failure);
                    return;
                }
                Err(failure) => self.not_put(chosen, &failure),
            }
            if !goes_on {
                return;
            }
        }
    }

    fn not_put(&self, chosen: Vec<&mut Attempt>, failure: &Failure) {
        let ambiguous = matches!(failure, Failure::Unanswered(_));
        for attempt in chosen {
            attempt.why = failure.to_string();
            attempt.ambiguous |= ambiguous;
            if ambiguous {
                self.ports.metrics.repeats_unanswered.inc();
                if attempt.key.is_none() {
                    // A repeat would be another event, with another id.
                    attempt.result = Some(Published::Unavailable { why: failure.to_string() });
                }
            }
        }
    }

    async fn mark(&self, attempts: &mut [Attempt]) {
        let at = self.ports.clock.now();
        let mut due: Vec<&mut Attempt> = Vec::new();
        let mut marks = Vec::new();
        for attempt in attempts.iter_mut() {
            if let Step::Mark(id) = &attempt.step
                && let (Some(key), Some(token)) = (attempt.key, attempt.tokens.last())
                && attempt.result.is_none()
            {
                marks.push((key, *token, Some(id.clone())));
                due.push(attempt);
            }
        }
        for (attempts, marks) in due.chunks_mut(claims::CALL_CLAIMS_MAX).zip(marks.chunks(claims::CALL_CLAIMS_MAX)) {
            match within(self.options.call_timeout, self.ports.claims.mark(marks.to_vec(), at)).await {
                Ok(results) => {
                    // Also where the claim was lost: the event is on the bus.
                    let marked = attempts.iter_mut().zip(results).filter(|(_, result)| result.is_ok());
                    marked.for_each(|(attempt, _)| attempt.settle());
                }
                // Tried again while there is time, and after that by `keep_marking`.
                Err(failure) => tracing::debug!(%failure, "published events are not marked yet"),
            }
        }
    }
}

impl Attempt {
    /// The mark of an event that is on the bus and could not be marked.
    fn unmarked(&self) -> Option<unmarked::Mark> {
        let Step::Mark(id) = &self.step else { return None };
        let open = self.result.is_none();
        Some((self.key?, *self.tokens.last()?, Some(id.clone()))).filter(|_| open)
    }

    /// What is on the bus is accepted, marked or not.
    fn settle(&mut self) {
        if let Step::Mark(id) = &self.step {
            self.result.get_or_insert_with(|| Published::Accepted(id.clone()));
        }
    }
}

fn entry(draft: &Draft) -> Entry {
    Entry {
        source: draft.source.clone(),
        detail_type: draft.detail_type.clone(),
        detail: draft.detail.clone(),
        time: draft.time,
        resources: draft.resources.clone(),
        trace: draft.trace.as_deref().map(trace::for_x_ray),
    }
}

fn was_put(attempt: &mut Attempt, put: Put) {
    match put {
        Put::Accepted(id) if attempt.key.is_none() => attempt.result = Some(Published::Accepted(id)),
        Put::Accepted(id) => attempt.step = Step::Mark(id),
        Put::Later { code, why } => attempt.why = format!("{code}: {why}"),
        Put::Refused { code, why } => attempt.result = Some(Published::Refused { code, why }),
    }
}

/// A request to the ledger failed; what it was to write may be there.
fn failed(attempt: &mut Attempt, failure: &Failure, sent: Timestamp) {
    attempt.why = failure.to_string();
    if matches!(failure, Failure::Unanswered(_)) {
        attempt.since.get_or_insert(sent);
    }
}

#[cfg(test)]
#[path = "ordered_tests.rs"]
mod tests;
