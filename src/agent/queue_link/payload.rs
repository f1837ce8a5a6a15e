//! Events of a managed link that refer to objects, or are too large for the peer's bus: their objects first, then they.

use std::time::Duration;

use super::{
    Options, Ports,
    calls::Call,
    item::{Fate, Stage},
    work::Work,
};
use crate::{
    agent::payloads::{LANE_WAIT, Unready, look_again},
    config::Missing,
    core::{
        batch::Reason,
        envelope::{Event, Offloaded},
        link::Failure,
        time::Timestamp,
    },
    marks::{self, Mark},
    planted::{self, Bug},
};

/// Messages whose payloads are brought at once.
const BRINGS_MAX: usize = 64;

/// A payload that is missing for so long is waited for in the held queue, where it costs nothing.
const HELD_AFTER: Duration = Duration::from_secs(5);

/// What was done for an event.
#[derive(Debug)]
pub struct Brought {
    /// The detail that leads to the payloads at the peer, if it is another one.
    pub detail: Option<String>,
    pub offloaded: Option<Offloaded>,
}

/// Whether an event has objects that go ahead of it.
pub(super) fn has_objects(event: &Event, bytes: usize, options: &Options, ports: &Ports) -> bool {
    let waits = event.has_payload && !planted::is(Bug::EventOvertakesPayload);
    ports.payloads.is_some() && !options.shadow && (waits || bytes > options.entry_bytes_max)
}

/// Whether a detail that is too large for the peer's bus has an object to go to. In shadow mode nothing goes there, and the
/// event is no dead letter either, as it would be delivered.
pub(super) fn may_offload(ports: &Ports) -> bool {
    ports.payloads.as_ref().is_some_and(|payloads| payloads.may_offload())
}

/// Brings what an event refers to, and the event's own detail where that is too large.
pub(super) async fn bring(
    event: Event,
    accepted: Timestamp,
    ports: &Ports,
    home: &str,
    entry_bytes_max: usize,
) -> Result<Brought, Unready> {
    let Some(payloads) = &ports.payloads else { return Ok(Brought { detail: None, offloaded: None }) };
    let detail = match event.has_payload {
        true => payloads.bring(&event.detail, &ports.pacer).await?,
        false => None,
    };
    let event = match &detail {
        Some(detail) => Event { detail: detail.clone(), ..event },
        None => event,
    };
    let offloaded = match event.entry(home, accepted, None).bytes() > entry_bytes_max {
        true => Some(payloads.offload(home, &event.detail, &ports.pacer).await?),
        false => None,
    };
    Ok(Brought { detail, offloaded })
}

impl Work {
    pub(super) fn bring(&mut self, now: Timestamp) -> Option<Call> {
        let index = Stage::Bring.index();
        // Not while the peer takes nothing: its store is likely no better off.
        if self.draining || !self.ledger.allows(now) || !self.bus.allows(now) || self.calls[index] >= BRINGS_MAX {
            return None;
        }
        let item = self.take_one(index, now)?;
        let found = self.items.get(&item)?;
        Some(Call::Bring { item, event: Box::new(found.event.clone()?), accepted: found.accepted })
    }

    pub(super) fn brought(&mut self, seq: u64, result: Result<Brought, Unready>, now: Timestamp) {
        self.calls[Stage::Bring.index()] -= 1;
        let Some(item) = self.items.get_mut(&seq) else { return };
        let Some(event) = &mut item.event else { return };
        let result = match result {
            Ok(brought) => {
                item.attempts = 0;
                if let Some(detail) = brought.detail {
                    event.detail = detail;
                }
                if let Some(offloaded) = brought.offloaded {
                    event.offload(offloaded);
                }
                Ok(())
            }
            Err(unready) => Err(unready),
        };
        if self.paused || self.draining {
            item.fate = Fate::Return;
            return self.schedule(seq, Stage::Return, now);
        }
        match result {
            Ok(()) => self.schedule(seq, Stage::Claim, now),
            Err(Unready::Missing(what)) => self.missing(seq, &what.to_string(), now),
            Err(Unready::Busy) => self.schedule(seq, Stage::Bring, now.plus(LANE_WAIT)),
            Err(Unready::Never(reason, why)) => {
                item.fate = Fate::Letter { reason, why };
                self.schedule(seq, Stage::Send, now);
            }
            Err(Unready::Failed(Failure::Throttled { after })) => self.schedule(seq, Stage::Bring, now.plus(after)),
            Err(Unready::Failed(failure)) => {
                tracing::debug!(peer = self.options.peer, %failure, "a payload was not brought");
                self.retry(seq, Stage::Bring, now);
            }
        }
    }

    /// The payload is not here: waits, then does what the file says.
    fn missing(&mut self, seq: u64, what: &str, now: Timestamp) {
        let Some((wait, policy)) = self.ports.payloads.as_ref().map(|payloads| payloads.on_missing()) else { return };
        let Some(item) = self.items.get_mut(&seq) else { return };
        let Some(event) = &mut item.event else { return };
        // The clocks of queues and agents differ, and an agent's may have been set back.
        let waited = self.ports.clock.now().since(item.accepted).max(now.since(item.began));
        let (peer, key) = (&self.options.peer, &event.key);
        if waited < wait {
            if now.since(item.began) < HELD_AFTER {
                let pause = look_again(item.attempts);
                item.attempts += 1;
                return self.schedule(seq, Stage::Bring, now.plus(pause));
            }
            item.fate = Fate::Waiting;
            self.schedule(seq, Stage::Send, now);
        } else if policy == Missing::Forward {
            marks::hit(Mark::PayloadForwarded);
            let trace = item.message.trace_id();
            tracing::warn!(peer, key, trace, what, "the payload did not come up in time: the event goes without it");
            event.pending = true;
            self.schedule(seq, Stage::Claim, now);
        } else {
            marks::hit(Mark::PayloadGivenUp);
            item.fate = Fate::Letter { reason: Reason::PayloadMissing, why: format!("{what} is not here") };
            self.schedule(seq, Stage::Send, now);
        }
    }

    /// Events that wait for payloads here, and since when the oldest of them.
    pub fn waiting_for_payload(&self) -> (usize, Option<Timestamp>) {
        let waiting = self.items.values().filter(|item| item.stage == Stage::Bring || item.fate == Fate::Waiting);
        (waiting.clone().count(), waiting.map(|item| item.accepted).min())
    }
}
