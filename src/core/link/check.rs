//! What must hold of a link at any time.

use super::{Link, Options, Stage};
use crate::core::{
    invariant::{Invariant, Violation},
    journal::STRAYED_MAX,
};

/// Deliveries outside of the order that a rewind may hold at once: what the peer lost, what it was told is held, and
/// copies of other regions' events. As many of each as are remembered.
const STRAYED_HELD_MAX: usize = 3 * STRAYED_MAX;

/// What became of the events that a link took from its feed since it last began to read anew: at its start, at a rewind,
/// and when what was at hand is judged again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    pub taken: u64,
    pub delivered: u64,
    pub duplicate: u64,
    pub skipped: u64,
    pub dead: u64,
    pub held: u64,
    pub expired: u64,
    /// Asked about and not delivered: shadow mode.
    pub shadowed: u64,
}

impl Accounts {
    fn settled(&self) -> u64 {
        self.delivered + self.duplicate + self.skipped + self.dead + self.held + self.expired + self.shadowed
    }
}

impl Link {
    pub fn accounts(&self) -> Accounts {
        self.accounts
    }

    /// What does not hold of the link, which is a bug. Cheap: a pass over the spans.
    pub fn check(&self) -> Option<Violation> {
        let mut at = self.low;
        let mut waiting = 0;
        for span in &self.spans {
            if span.from != at || span.to < span.from {
                let what = format!("a span ({}, {}] begins where {at} was expected", span.from, span.to);
                return Some(Violation::new(Invariant::Spans, what));
            }
            at = span.to;
            if !matches!(span.stage, Stage::Done) {
                waiting += span.records.len() as u64;
            }
        }
        if at != self.read {
            let what = format!("spans end at {at}, but {} was read", self.read);
            return Some(Violation::new(Invariant::Spans, what));
        }
        let accounts = &self.accounts;
        if accounts.taken != accounts.settled() + waiting {
            return Some(Violation::new(Invariant::Accounts, format!("{accounts:?}, and {waiting} waiting")));
        }
        if self.spans.len() > self.spans_max {
            return Some(Violation::new(Invariant::Bounds, format!("{} spans", self.spans.len())));
        }
        // A batch may be answered `Retry` as a whole when the list is all but full, and what was read last may all refer to
        // objects.
        let held_max = self.options.held_max + (self.options.in_flight + 1) * self.options.batch_events;
        if self.held.len() > held_max.max(STRAYED_HELD_MAX) {
            return Some(Violation::new(Invariant::Bounds, format!("{} events held", self.held.len())));
        }
        None
    }
}

/// Those that wait, one that is done behind each, and one that was read too late to stop.
pub(super) fn spans_max(options: &Options) -> usize {
    2 * (options.in_flight + 2)
}
