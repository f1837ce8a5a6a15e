//! What bounds a link over managed services.

use std::time::Duration;

use serde_json::Value;

use crate::{
    config::{self, Config, Mode},
    core::{
        backoff::Backoff,
        claim,
        envelope::Rules,
        ingress::Ingress,
        pattern::{self, Pattern},
    },
};

/// How long a claim keeps others away.
pub const LEASE: Duration = Duration::from_secs(15);

/// Short, as a queue of SQS holds 120,000 hidden messages at most; extended while a message is worked on.
pub const VISIBILITY: Duration = Duration::from_secs(20);

/// SQS's longest poll.
pub const POLL: Duration = Duration::from_secs(20);

/// Events that one agent has on buses and not marked, over all of its links.
pub const UNMARKED_MAX: usize = 50;

/// Bytes of one put, and of one event: EventBridge's limit since January 2026, as a decimal number to be safe.
pub const PUT_BYTES: usize = 1_000_000;

/// How long a bus may keep an event before its queue has it, which is when it counts as accepted.
const LATE_MAX: Duration = Duration::from_secs(86_400);

#[derive(Clone, Debug)]
pub struct Options {
    pub home: String,
    pub peer: String,
    pub rules: Rules,
    /// Look whether the peer knows the key, and deliver nothing.
    pub shadow: bool,
    /// How events are read; the limits of services do not apply to what a bus took already.
    pub ingress: Ingress,
    /// How long a claim keeps others away. Raising it delays what a crashed agent had begun; it must exceed
    /// `attempt_timeout`, and what is left of it is what claiming may take.
    pub lease: Duration,
    /// How long one put may take.
    pub attempt_timeout: Duration,
    /// How long every other call may take; for a receive, beyond its wait.
    pub call_timeout: Duration,
    /// How long a received message is hidden; extended while it is worked on.
    pub visibility: Duration,
    /// How long a receive waits for a message.
    pub poll: Duration,
    /// Receives at once, when there is much to receive.
    pub receives: usize,
    /// Messages received and not finished, at most, but never fewer than 20. A queue of SQS stops for all agents at
    /// 120,000.
    pub in_flight: usize,
    pub in_flight_bytes: usize,
    /// Events with a claim that are not put yet, at most: what waits for a slow bus would outlive its lease.
    pub claimed_max: usize,
    /// Events that are put or being put and not marked, at most: so many a crash can make a second effect of.
    pub unmarked_max: usize,
    /// Bytes of one put.
    pub put_bytes: usize,
    /// The peer's limit for one event.
    pub entry_bytes_max: usize,
    /// How long the peer's ledger remembers a key.
    pub retention: Duration,
    pub backoff: Backoff,
    /// A message whose event the bus puts off for so long goes to the held queue,
    pub hold_after: Duration,
    /// and comes back after this; at most 15 minutes.
    pub held_delay: Duration,
}

impl Options {
    /// The options of a link of the topology file. An agent with several links divides what it may leave unmarked.
    ///
    /// # Errors
    /// The link's pattern does not compile.
    pub fn of(config: &Config, link: &config::Link, links: usize) -> Result<Options, pattern::Error> {
        let pattern = match &link.pattern {
            Value::Object(members) if members.is_empty() => Pattern::everything(),
            pattern => Pattern::parse(pattern)?,
        };
        let expire_after = config.expiry().saturating_sub(LATE_MAX);
        let attempt_timeout = claim::attempt_within(LEASE, link.attempt_timeout);
        Ok(Options {
            home: link.from.clone(),
            peer: link.to.clone(),
            rules: Rules {
                pattern,
                hops_max: u8::try_from(config.limits.max_hops).unwrap_or(u8::MAX),
                replays: false,
                expire_after,
            },
            shadow: link.mode == Mode::Shadow,
            ingress: Ingress {
                key_pointers: config.idempotency.key.clone(),
                reference_pointers: config.claim_check.reference.clone(),
                max_entry_bytes: usize::MAX,
            },
            lease: LEASE,
            attempt_timeout,
            // What claiming may take of a lease, so that a put can begin without renewing it.
            call_timeout: LEASE - attempt_timeout,
            visibility: VISIBILITY,
            poll: POLL,
            receives: link.in_flight.clamp(1, 16),
            in_flight: 1_000,
            in_flight_bytes: 64 << 20,
            claimed_max: 4 * UNMARKED_MAX,
            unmarked_max: (UNMARKED_MAX / links.max(1)).max(1),
            put_bytes: PUT_BYTES,
            entry_bytes_max: PUT_BYTES,
            retention: config.idempotency.retention,
            backoff: Backoff { min: link.retry_min, max: link.retry_max },
            hold_after: Duration::from_secs(60),
            held_delay: Duration::from_secs(300),
        })
    }
}
