//! Whether something that is called is worth calling: after some failures in a row it is left alone for a while, then
//! tried with one call.

use std::time::Duration;

use crate::core::{
    backoff::Backoff,
    link::{Failure, Status},
    time::Timestamp,
};

/// Failures in a row that open the circuit. Fewer would let a lost packet or two stop a link; more would hold messages for
/// nothing.
const FAILURES_MAX: u32 = 3;

/// The longest pause that somebody else may ask of us.
const ASKED_MAX: Duration = Duration::from_secs(60);

/// One circuit. Times are those of a steady clock.
#[derive(Clone, Debug)]
pub struct Circuit {
    backoff: Backoff,
    failures: u32,
    failure: Option<Failure>,
    /// While open: no call before this.
    retry_at: Timestamp,
    /// A call is under way that will say whether the circuit closes.
    trying: bool,
    /// It was asked for a pause; that is no failure.
    asked_until: Timestamp,
}

impl Circuit {
    pub fn new(backoff: Backoff) -> Self {
        Circuit {
            backoff,
            failures: 0,
            failure: None,
            retry_at: Timestamp::ZERO,
            trying: false,
            asked_until: Timestamp::ZERO,
        }
    }

    pub fn is_open(&self) -> bool {
        self.failures >= FAILURES_MAX
    }

    /// Whether a call may start.
    pub fn allows(&self, now: Timestamp) -> bool {
        now >= self.asked_until && (!self.is_open() || now >= self.retry_at && !self.trying)
    }

    /// The next time that an answer of [`allows`](Self::allows) may change by itself.
    pub fn deadline(&self) -> Timestamp {
        if self.is_open() { self.retry_at.max(self.asked_until) } else { self.asked_until }
    }

    pub fn started(&mut self) {
        self.trying |= self.is_open();
    }

    pub fn succeeded(&mut self) {
        self.failures = 0;
        self.failure = None;
        self.trying = false;
    }

    /// A call failed as a whole. Answers whether that opened the circuit.
    pub fn failed(&mut self, failure: &Failure, now: Timestamp, chance: f64) -> bool {
        self.trying = false;
        let was_open = self.is_open();
        match failure {
            Failure::Throttled { after } => {
                let pause = self.backoff.pause(1, chance).max((*after).min(ASKED_MAX));
                self.asked_until = self.asked_until.max(now.plus(pause));
                return false;
            }
            // It will not get better by trying twice more.
            Failure::Refused(_) => self.failures = self.failures.saturating_add(1).max(FAILURES_MAX),
            Failure::Unanswered(_) => self.failures = self.failures.saturating_add(1),
        }
        self.failure = Some(failure.clone());
        if self.is_open() {
            let doublings = self.failures + 1 - FAILURES_MAX;
            self.retry_at = now.plus(self.backoff.pause(doublings, chance));
        }
        !was_open && self.is_open()
    }

    pub fn status(&self) -> Status {
        match &self.failure {
            Some(Failure::Refused(why)) => Status::Refused(why.clone()),
            Some(failure) => Status::Retrying(failure.to_string()),
            None => Status::Active,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn circuit() -> Circuit {
        Circuit::new(Backoff { min: Duration::from_millis(100), max: Duration::from_secs(10) })
    }

    fn lost() -> Failure {
        Failure::Unanswered("lost".to_owned())
    }

    #[test]
    fn three_failures_in_a_row_open_it_and_one_call_tries_again() {
        let mut circuit = circuit();
        assert_eq!([circuit.failed(&lost(), at(0), 1.0), circuit.failed(&lost(), at(0), 1.0)], [false, false]);
        circuit.succeeded();
        let opened = [0, 0, 0, 0].map(|now| circuit.failed(&lost(), at(now), 1.0));
        assert_eq!(opened, [false, false, true, false]);
        assert!(!circuit.allows(at(399)) && circuit.allows(at(400)), "the second failure beyond doubles the pause");
        circuit.started();
        assert!(!circuit.allows(at(400)), "one call at a time");
        circuit.failed(&lost(), at(500), 1.0);
        assert!(!circuit.allows(at(1_299)) && circuit.allows(at(1_300)));
        circuit.started();
        circuit.succeeded();
        assert!(circuit.allows(at(1_300)) && !circuit.is_open());
    }

    #[test]
    fn a_refusal_opens_it_at_once_and_a_request_for_a_pause_never() {
        let mut circuit = circuit();
        for _ in 0..9 {
            assert!(!circuit.failed(&Failure::Throttled { after: Duration::from_secs(2) }, at(0), 0.0));
        }
        assert!(!circuit.is_open() && !circuit.allows(at(1_999)) && circuit.allows(at(2_000)));
        assert!(circuit.failed(&Failure::Refused("no permission".to_owned()), at(0), 0.0));
        assert_eq!(circuit.status(), Status::Refused("no permission".to_owned()));
    }
}
