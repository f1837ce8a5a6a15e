//! What bounds a link over managed services.

use std::time::Duration;

use crate::core::{backoff::Backoff, envelope::Rules, ingress::Ingress};

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
    /// How often the queues are asked how much they hold.
    pub depth_interval: Duration,
}
