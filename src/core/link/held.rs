//! Events of a link that wait for something of their own, and go their own way while the stream goes on: the peer asked to
//! wait, or their payloads must be at the peer before them.

use std::time::Duration;

use super::Link;
use crate::{
    core::{batch::Outcome, event::Header, time::Timestamp},
    marks::{self, Mark},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub attempts: u32,
    pub due: Timestamp,
    pub in_flight: bool,
    /// It may refer to objects; what was held before a start is known again when it was read.
    pub payload: bool,
    /// `None` until it was read after a start.
    pub accepted: Option<Timestamp>,
    /// When it was first tried in this life of the agent.
    pub tried: Option<Timestamp>,
}

impl Held {
    pub fn new(due: Timestamp) -> Self {
        Held { attempts: 0, due, in_flight: false, payload: true, accepted: None, tried: None }
    }
}

/// How many held events of each sort may be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Events that need nothing but the peer.
    pub plain: usize,
    /// Events whose payloads must be brought first.
    pub payload: usize,
}

impl Link {
    /// Held events to try now; they count as on the wire until [`settle_held`](Self::settle_held).
    pub fn due_held(&mut self, now: Timestamp, mut room: Room) -> Vec<u64> {
        if self.paused || self.options.shadow || now < self.retry_at {
            return Vec::new();
        }
        let mut due = Vec::new();
        for (sequence, held) in self.held.iter_mut().filter(|(_, held)| !held.in_flight && held.due <= now) {
            let place = if held.payload { &mut room.payload } else { &mut room.plain };
            if *place > 0 {
                *place -= 1;
                held.in_flight = true;
                held.tried.get_or_insert(now);
                due.push(*sequence);
            }
        }
        due
    }

    /// Adds events that must be sent (again) by themselves: deliveries outside of the order that a restored peer lost.
    pub fn hold(&mut self, sequence: u64, now: Timestamp) {
        self.held_changes += 1;
        self.held.entry(sequence).or_insert(Held::new(now));
    }

    /// An event of the stream that goes behind its payload, by itself.
    pub(super) fn hold_for_payload(&mut self, header: &Header) {
        self.held_changes += 1;
        self.accounts.held += 1;
        let held = Held { accepted: Some(header.accepted), ..Held::new(Timestamp::ZERO) };
        self.held.insert(header.offset, held);
    }

    /// What was found where a held event stands.
    pub fn know_held(&mut self, header: &Header) {
        if let Some(held) = self.held.get_mut(&header.offset) {
            held.payload = self.options.payloads && header.has_payload();
            held.accepted = Some(header.accepted);
        }
    }

    pub fn holds(&self, sequence: u64) -> bool {
        self.held.contains_key(&sequence)
    }

    /// How often a held event was tried in vain.
    pub fn held_attempts(&self, sequence: u64) -> u32 {
        self.held.get(&sequence).map_or(0, |held| held.attempts)
    }

    /// How long a held event has been tried since this start, by the steady clock.
    pub fn held_for(&self, sequence: u64, now: Timestamp) -> Duration {
        self.held.get(&sequence).and_then(|held| held.tried).map_or(Duration::ZERO, |tried| now.since(tried))
    }

    /// When the oldest of what is held was accepted, as far as that is known.
    pub fn held_since(&self) -> Option<Timestamp> {
        self.held.values().filter_map(|held| held.accepted).min()
    }

    /// How many events wait for payloads, and since when the oldest of them.
    pub fn waiting_for_payload(&self) -> (usize, Option<Timestamp>) {
        let waiting = self.held.values().filter(|held| held.payload);
        (waiting.clone().count(), waiting.filter_map(|held| held.accepted).min())
    }

    /// What became of a held event; `None` if there was no answer.
    pub fn settle_held(&mut self, sequence: u64, outcome: Option<Outcome>, now: Timestamp, chance: f64) -> u32 {
        let Some(held) = self.held.get_mut(&sequence) else { return 0 };
        held.attempts += 1;
        held.in_flight = false;
        let attempts = held.attempts;
        match outcome {
            Some(Outcome::Retry { after_millis }) => {
                marks::hit(Mark::LinkHeldAgain);
                held.due = now.plus(Duration::from_millis(u64::from(after_millis)));
            }
            None => {
                marks::hit(Mark::LinkHeldUnanswered);
                held.due = now.plus(self.options.backoff.pause(attempts, chance));
            }
            Some(_) => {
                marks::hit(Mark::LinkHeldDelivered);
                self.held_changes += 1;
                self.held.remove(&sequence);
            }
        }
        attempts
    }
}
