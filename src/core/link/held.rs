//! Events of a link that wait for something of their own, and go their own way while the stream goes on.

use std::time::Duration;

use super::Link;
use crate::{
    core::{batch::Outcome, time::Timestamp},
    marks::{self, Mark},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub attempts: u32,
    pub due: Timestamp,
    pub in_flight: bool,
}

impl Link {
    /// Held events to try now, at most `limit`; they count as on the wire until [`settle_held`](Self::settle_held).
    pub fn due_held(&mut self, now: Timestamp, limit: usize) -> Vec<u64> {
        if self.paused || self.options.shadow || now < self.retry_at {
            return Vec::new();
        }
        let due = self.held.iter_mut().filter(|(_, held)| !held.in_flight && held.due <= now).take(limit);
        due.map(|(sequence, held)| {
            held.in_flight = true;
            *sequence
        })
        .collect()
    }

    /// Adds events that must be sent (again) by themselves: deliveries outside of the order that a restored peer lost.
    pub fn hold(&mut self, sequence: u64, now: Timestamp) {
        self.held_changes += 1;
        self.held.entry(sequence).or_insert(Held { attempts: 0, due: now, in_flight: false });
    }

    pub fn holds(&self, sequence: u64) -> bool {
        self.held.contains_key(&sequence)
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
