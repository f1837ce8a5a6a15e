//! How long an event can come again, against how long its key is remembered.
//!
//! A ledger that forgets a key before its last redelivery lets the event take effect twice. So the longest way an event
//! can take is added up for each kind of region in the file, and a shorter ledger retention is refused.

use std::time::Duration;

use serde::Serialize;

use super::units::format_duration;
use super::{Backend, Config};

/// What a ledger stores for one key: the hash of 16 bytes, the payload's of 16, times, state and the tree's share.
pub const BYTES_PER_KEY: u64 = 48;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// The longest time between an event's acceptance and its last delivery, for regions of one backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Redelivery {
    /// Of the region that sends.
    pub backend: Backend,
    /// What it is made of.
    pub terms: Vec<Term>,
    /// Their sum.
    pub longest_seconds: f64,
    #[serde(skip)]
    pub(super) longest: Duration,
}

/// One part of the way.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Term {
    /// Where the event waits.
    pub what: &'static str,
    /// How long at most.
    pub seconds: f64,
    #[serde(skip)]
    duration: Duration,
}

impl Term {
    fn new(what: &'static str, duration: Duration) -> Self {
        Term { what, seconds: duration.as_secs_f64(), duration }
    }
}

impl Redelivery {
    /// `log 1d + attempts 20s = 1d20s`.
    pub(super) fn sum(&self) -> String {
        let terms: Vec<String> =
            self.terms.iter().map(|term| format!("{} {}", term.what, format_duration(term.duration))).collect();
        format!("{} = {}", terms.join(" + "), format_duration(self.longest))
    }
}

impl Config {
    /// The age at which an event is `Rejected{expired}` instead of delivered: the ledger's retention minus a margin of
    /// one hour (a tenth of the retention if that is less) for clocks that differ and deliveries under way.
    pub fn expiry(&self) -> Duration {
        self.idempotency.retention - self.expiry_margin()
    }

    fn expiry_margin(&self) -> Duration {
        HOUR.min(self.idempotency.retention / 10)
    }

    /// The longest redelivery for each backend in use. A dead letter is no term on an embedded region: past
    /// [`Config::expiry`] it is only redriven by an explicit flag.
    pub fn redeliveries(&self) -> Vec<Redelivery> {
        let backends = [Backend::Embedded, Backend::Aws];
        let used = backends.into_iter().filter(|backend| self.regions.iter().any(|region| region.backend == *backend));
        used.map(|backend| self.redelivery(backend)).collect()
    }

    fn redelivery(&self, backend: Backend) -> Redelivery {
        let terms = match backend {
            Backend::Embedded => {
                let attempts = self.links().iter().map(|link| link.attempt_timeout + link.retry_max).max();
                let mut terms = vec![Term::new("log", self.log.retention)];
                if !self.claim_check.reference.is_empty() {
                    terms.push(Term::new("payload wait", self.claim_check.wait));
                }
                terms.push(Term::new("last attempt", attempts.unwrap_or_default()));
                terms.push(Term::new("margin", self.expiry_margin()));
                terms
            }
            // A standard dead-letter queue keeps the first enqueue time: 14 d are counted from the queue's entry on.
            Backend::Aws => {
                vec![Term::new("EventBridge's retries", DAY), Term::new("queue and dead letters", 14 * DAY)]
            }
        };
        let longest = terms.iter().map(|term| term.duration).sum::<Duration>();
        Redelivery { backend, terms, longest_seconds: longest.as_secs_f64(), longest }
    }

    /// The size of one region's ledger at this rate of events per second, once it is `retention` old.
    pub fn ledger_bytes(&self, events_per_second: u64) -> u64 {
        let keys = self.idempotency.retention.as_secs().saturating_mul(events_per_second);
        keys.saturating_mul(BYTES_PER_KEY)
    }
}
