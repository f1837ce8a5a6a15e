//! Claims of events that are on the bus and could not be marked done within their request.
//!
//! The producer has its answer by then. A claim alone suppresses nothing once its lease is over, so its mark is tried again
//! for as long as the agent runs. Where the region keeps local keys, whoever enters them marks it too; where it does not,
//! this is all there is.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Publisher;
use crate::{
    agent::rounds::within,
    core::{claim::Token, key::KeyHash},
    ports::claims,
};

/// Marks that wait; an agent that takes 500 events a second fills this in 20 s while its ledger is away.
const WAITING_MAX: usize = 10_000;

/// A key, the token that holds its claim, and the event's id on the bus.
pub(super) type Mark = (KeyHash, Token, Option<String>);

/// The marks that wait.
#[derive(Default)]
pub(super) struct Unmarked {
    waiting: Mutex<VecDeque<Mark>>,
    more: Notify,
}

impl Unmarked {
    fn waiting(&self) -> std::sync::MutexGuard<'_, VecDeque<Mark>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, most: usize) -> Vec<Mark> {
        let mut waiting = self.waiting();
        let count = waiting.len().min(most);
        waiting.drain(..count).collect()
    }
}

impl Publisher {
    /// Leaves marks to [`Publisher::keep_marking`]. What is too much is counted, and its claims end with their leases.
    pub(super) fn leave(&self, marks: Vec<Mark>) {
        if marks.is_empty() {
            return;
        }
        let mut dropped = 0;
        {
            let mut waiting = self.unmarked.waiting();
            for mark in marks {
                if waiting.len() < WAITING_MAX {
                    waiting.push_back(mark);
                } else {
                    dropped += 1;
                }
            }
        }
        self.unmarked.more.notify_one();
        self.given_up(dropped, "too many wait");
    }

    fn given_up(&self, count: usize, why: &str) {
        if count > 0 {
            self.ports.metrics.claims_unmarked.inc_by(count as u64);
            let region = &self.options.home;
            tracing::warn!(
                region,
                count,
                why,
                "published events stay unmarked: the same keys again make second effects"
            );
        }
    }

    /// Marks what requests could not, until `stop`; then each once more.
    pub async fn keep_marking(&self, stop: CancellationToken) {
        let mut failed = 0u32;
        loop {
            let pause = match failed {
                0 => None,
                rounds => Some(self.options.backoff.pause(rounds, self.ports.entropy.next_f64())),
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
                () = self.unmarked.more.notified(), if pause.is_none() => {}
            }
            failed = match self.mark_waiting().await {
                true => 0,
                false => failed.saturating_add(1),
            };
        }
        let _ = self.mark_waiting().await;
        self.given_up(self.unmarked.take(WAITING_MAX).len(), "the agent stops");
    }

    /// Tries each that waits now; whether none has to be tried again.
    async fn mark_waiting(&self) -> bool {
        let marks = self.unmarked.take(WAITING_MAX);
        let mut again = Vec::new();
        let mut marks = marks.chunks(claims::CALL_CLAIMS_MAX);
        for some in marks.by_ref() {
            let at = self.ports.clock.now();
            match within(self.options.call_timeout, self.ports.claims.mark(some.to_vec(), at)).await {
                Ok(results) => {
                    for (mark, result) in some.iter().zip(results) {
                        match result {
                            Ok(true) => {}
                            // Somebody else published the same key meanwhile, and has counted a possible repeat.
                            Ok(false) => self.ports.metrics.claims_lost.inc(),
                            Err(_) => again.push(mark.clone()),
                        }
                    }
                }
                Err(failure) => {
                    tracing::debug!(%failure, "published events are not marked yet");
                    again.extend_from_slice(some);
                    break;
                }
            }
        }
        again.extend(marks.flatten().cloned());
        let done = again.is_empty();
        self.leave(again);
        done
    }
}
