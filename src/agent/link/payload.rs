//! Events of a link that refer to objects: their payloads first, then they.

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};

use super::{LinkTask, Loop};
use crate::{
    agent::payloads::{self, Unready},
    config::Missing,
    core::{
        batch::{Kind, Outcome, Reason},
        event::Record,
        link::{Effect, Failure, Room},
        position::Incarnation,
    },
    marks::{self, Mark},
};

/// Events whose payloads are brought at once, and bytes of these events.
const BRINGING_MAX: usize = 256;
const BRINGING_BYTES_MAX: usize = 16 << 20;

/// Events whose payloads are being brought.
#[derive(Default)]
pub(super) struct Bringing {
    under_way: FuturesUnordered<BoxFuture<'static, Brought>>,
    bytes: usize,
}

/// What came of it.
pub(super) struct Brought {
    record: Record,
    /// The peer's life when it began.
    life: Incarnation,
    result: Result<Option<String>, Unready>,
}

/// What goes over the wire for an event: with other references, or with the mark that its payload is not there.
pub(super) struct Ready {
    pub original: Record,
    pub sent: Record,
}

impl Bringing {
    /// How many held events of each sort may be tried now.
    pub fn room(&self, plain: usize) -> Room {
        let full = self.bytes >= BRINGING_BYTES_MAX;
        Room { plain, payload: if full { 0 } else { BRINGING_MAX.saturating_sub(self.under_way.len()) } }
    }

    pub async fn next(&mut self) -> Option<Brought> {
        let brought = self.under_way.next().await?;
        self.bytes -= brought.record.raw().len();
        Some(brought)
    }
}

impl LinkTask {
    /// Whether the event has to wait for payloads.
    pub(super) fn waits_for_payload(&self, record: &Record) -> bool {
        self.ends.payloads.is_some() && record.header.has_payload()
    }

    pub(super) fn bring(&self, state: &mut Loop, record: Record) {
        let Some(payloads) = self.ends.payloads.clone() else { return };
        let pacer = self.ends.pacer();
        let life = self.ends.peer_life();
        state.bringing.bytes += record.raw().len();
        let bringing = async move {
            let result = payloads.bring(record.detail(), &pacer).await;
            Brought { record, life, result }
        };
        state.bringing.under_way.push(bringing.boxed());
    }

    /// Sends what is ready, this one and all that are by now.
    pub(super) async fn brought(&mut self, state: &mut Loop, first: Brought) {
        let mut effects = Vec::new();
        let mut ready = Vec::new();
        let mut next = Some(first);
        while let Some(brought) = next {
            ready.extend(self.judge_brought(brought, &mut effects));
            next = state.bringing.next().now_or_never().flatten();
        }
        self.perform(effects).await;
        if self.core.is_paused() {
            // An operator paused the link meanwhile. What was brought is there already the next time.
            for Ready { original, .. } in ready {
                self.again(&original, payloads::LANE_WAIT.as_millis());
            }
            return;
        }
        let (copies, own): (Vec<Ready>, Vec<Ready>) =
            ready.into_iter().partition(|ready| self.is_foreign(&ready.original));
        for (kind, ready) in [(Kind::Redrive, own), (Kind::Repair, copies)] {
            self.send_single(state, &kind, ready);
        }
    }

    fn again(&mut self, record: &Record, after_millis: u128) {
        let after_millis = u32::try_from(after_millis).unwrap_or(u32::MAX);
        let outcome = Some(Outcome::Retry { after_millis });
        self.core.settle_held(record.header.offset, outcome, self.ends.steady(), 0.0);
    }

    fn judge_brought(&mut self, brought: Brought, effects: &mut Vec<Effect>) -> Option<Ready> {
        let Brought { record, life, result } = brought;
        match result {
            // The peer was started again since, and may be restored: its store may have lost what was brought.
            Ok(_) if life != self.ends.peer_life() => {
                self.again(&record, 0);
                None
            }
            Ok(None) => Some(Ready { sent: record.clone(), original: record }),
            Ok(Some(detail)) => Some(Ready { sent: record.with_detail(&detail), original: record }),
            Err(Unready::Missing(what)) => self.missing(record, &what.to_string(), effects),
            Err(Unready::Busy) => {
                self.again(&record, payloads::LANE_WAIT.as_millis());
                None
            }
            Err(Unready::Never(reason, why)) => {
                let (peer, key, trace) = (&self.ends.peer_name, record.key(), record.trace_id());
                tracing::warn!(peer, key, trace, why, "a reference cannot be followed");
                self.give_up(record, reason, effects);
                None
            }
            Err(Unready::Failed(Failure::Throttled { after })) => {
                self.again(&record, after.as_millis());
                None
            }
            Err(Unready::Failed(failure)) => {
                tracing::debug!(peer = self.ends.peer_name, key = record.key(), %failure, "a payload was not brought");
                let chance = self.ends.entropy.next_f64();
                self.core.settle_held(record.header.offset, None, self.ends.steady(), chance);
                None
            }
        }
    }

    /// The payload is not here: waits, then does what the file says.
    fn missing(&mut self, record: Record, what: &str, effects: &mut Vec<Effect>) -> Option<Ready> {
        let (wait, policy) = self.ends.payloads.as_ref().map(|payloads| payloads.on_missing())?;
        let copy = self.is_foreign(&record);
        // The wall clock may have been set back since.
        let waited = self.ends.clock.now().since(record.header.accepted);
        if waited.max(self.core.held_for(record.header.offset, self.ends.steady())) < wait {
            let attempts = self.core.held_attempts(record.header.offset);
            self.again(&record, payloads::look_again(attempts).as_millis());
            return None;
        }
        let (peer, key, trace) = (&self.ends.peer_name, record.key(), record.trace_id());
        // Nobody has the payload of a copy that is here without: its own region lost the event, so half is better than
        // none.
        if policy == Missing::Forward || copy {
            marks::hit(Mark::PayloadForwarded);
            tracing::warn!(peer, key, trace, what, "the payload did not come up in time: the event goes without it");
            return Some(Ready { sent: record.without_payload(), original: record });
        }
        marks::hit(Mark::PayloadGivenUp);
        tracing::warn!(peer, key, trace, what, "the payload did not come up in time");
        self.give_up(record, Reason::PayloadMissing, effects);
        None
    }

    fn give_up(&mut self, record: Record, reason: Reason, effects: &mut Vec<Effect>) {
        let outcome = Some(Outcome::Rejected(reason));
        let attempts = self.core.settle_held(record.header.offset, outcome, self.ends.steady(), 0.0);
        if !self.is_foreign(&record) && !self.is_dead(&record) {
            effects.push(Effect::Settled { record: record.clone(), outcome: Outcome::Rejected(reason) });
            effects.push(Effect::DeadLetter { record, reason, attempts });
        }
    }
}
