//! Whether a region can take what services send, with hysteresis: a probe should not see a region come and go.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// After it was found not to accept, a region must accept for so long until users are sent there again.
const RISE: Duration = Duration::from_secs(3);

/// Offers that may be refused in a row, or intervals for which there may be no answer, before users are sent elsewhere.
pub const FALL: u32 = 3;

/// How it is said.
#[derive(Clone, Copy)]
struct Words {
    refuses: &'static str,
    hangs: &'static str,
    rises: &'static str,
}

#[derive(Default)]
struct Seen {
    refusals: u32,
    /// An offer that is not answered yet, and how long it may take.
    offered: Option<(Instant, Duration)>,
    /// When it last refused too often.
    fell: Option<Instant>,
}

pub struct Health {
    words: Words,
    seen: Mutex<Seen>,
}

impl Health {
    /// Of a hub on the region's own disk.
    pub fn of_hub() -> Health {
        let words = Words {
            refuses: "the hub does not accept",
            hangs: "the hub does not answer: its disk may hang",
            rises: "the hub accepts again, but not for long",
        };
        Health { words, seen: Mutex::default() }
    }

    /// Of a table that tells a region's agents what is decided: without it they do not know whether they serve.
    pub fn of_table() -> Health {
        let silent = "the region's table does not answer: this agent does not know what is decided";
        let words =
            Words { refuses: silent, hangs: silent, rises: "the region's table answers again, but not for long" };
        Health { words, seen: Mutex::default() }
    }

    /// Something is offered to it (`None`), went in, or did not; an offer comes each `interval`.
    pub fn beat(&self, accepted: Option<bool>, interval: Duration) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(accepted) = accepted else {
            seen.offered = Some((Instant::now(), interval * FALL));
            return;
        };
        let hung = seen.offered.take().is_some_and(|(since, patience)| since.elapsed() >= patience);
        seen.refusals = if accepted { 0 } else { seen.refusals.saturating_add(1) };
        if hung || seen.refusals >= FALL {
            seen.fell = Some(Instant::now());
        }
    }

    /// Why users should not be sent here; `None` where they should.
    pub fn problem(&self) -> Option<&'static str> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.refusals >= FALL {
            return Some(self.words.refuses);
        }
        if seen.offered.is_some_and(|(since, patience)| since.elapsed() >= patience) {
            return Some(self.words.hangs);
        }
        seen.fell.is_some_and(|fell| fell.elapsed() < RISE).then_some(self.words.rises)
    }
}
