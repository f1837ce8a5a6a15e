//! What must hold, whatever happens: one catalogue for the agent's own checks, the metric
//! `hubweave_invariant_violations_total` and the simulator.

use serde::Serialize;

/// A promise that can be checked. The names are stable: they stand in metrics, reports and scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Invariant {
    /// What a link took from its feed = delivered + duplicate + skipped + dead + held + expired + waiting.
    Accounts,
    /// A link's spans join each other from its low-water to where it has read.
    Spans,
    /// Queues and lists stay within their bounds.
    Bounds,
    /// Nothing is answered `Duplicate` but against an effect that is durable.
    DuplicateDurable,
    /// A link's watermark is not ahead of what its own hub accepted.
    WatermarkBehindHead,
    /// What came over a link is not sent on.
    NoLoop,
    /// An acknowledged publish is in its own region's hub, whatever happened since.
    Durable,
    /// It is in every other region too, or in the dead letters.
    Delivered,
    /// A key has one effect in a region.
    OneEffect,
    /// Nothing is in a hub that nobody published.
    Invented,
    /// What the low-water of a link covers is at the peer or on a list.
    Cursor,
    /// Nothing that the watermark covers is missing at the peer.
    Watermark,
    /// Only conflicts are dead letters.
    Letters,
    /// Nothing is given up where the log drops nothing.
    Losses,
    /// After the faults: nothing waits.
    Quiet,
    /// An agent starts from what its own crash left.
    Opens,
    /// No event is withheld from a peer by a filter that did not hold when it was accepted.
    Filter,
    /// `verify` finds what is missing, and nothing that is not.
    Verify,
    /// A task of the agent does not panic.
    Panic,
    /// An event is in a region only behind its payload, byte for byte, or says that it is not.
    Payload,
    /// What was deleted does not come back.
    Resurrected,
    /// Writes of a document that stand side by side in a region are told in its hub.
    Told,
    /// Enough regions are active in every region's eyes, and no two are that take each other for evacuated.
    Serving,
    /// What a failover proved to be everywhere is there.
    Proven,
    /// Managed services: there are no more second effects than were counted as possible.
    Counted,
    /// Managed services: whoever lost a claim neither marks nor releases it.
    Fenced,
    /// Managed services: a put begins only under a claim of its own that lasts longer than the attempt.
    Lease,
    /// Managed services: the sums in a table are those of its documents.
    Sums,
}

impl Invariant {
    /// Those that an agent checks by itself while it runs; the others take somebody who sees all regions.
    pub const OWN: [Invariant; 6] = [
        Invariant::Accounts,
        Invariant::Spans,
        Invariant::Bounds,
        Invariant::DuplicateDurable,
        Invariant::WatermarkBehindHead,
        Invariant::NoLoop,
    ];

    /// As metrics and reports spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Invariant::Accounts => "accounts",
            Invariant::Spans => "spans",
            Invariant::Bounds => "bounds",
            Invariant::DuplicateDurable => "duplicate-durable",
            Invariant::WatermarkBehindHead => "watermark-behind-head",
            Invariant::NoLoop => "no-loop",
            Invariant::Durable => "durable",
            Invariant::Delivered => "delivered",
            Invariant::OneEffect => "one-effect",
            Invariant::Invented => "invented",
            Invariant::Cursor => "cursor",
            Invariant::Watermark => "watermark",
            Invariant::Letters => "letters",
            Invariant::Losses => "losses",
            Invariant::Quiet => "quiet",
            Invariant::Opens => "opens",
            Invariant::Filter => "filter",
            Invariant::Verify => "verify",
            Invariant::Panic => "panic",
            Invariant::Payload => "payload",
            Invariant::Resurrected => "resurrected",
            Invariant::Told => "told",
            Invariant::Serving => "serving",
            Invariant::Proven => "proven",
            Invariant::Counted => "counted",
            Invariant::Fenced => "fenced",
            Invariant::Lease => "lease",
            Invariant::Sums => "sums",
        }
    }
}

/// One time that something did not hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Violation {
    pub invariant: Invariant,
    pub what: String,
}

impl Violation {
    pub fn new(invariant: Invariant, what: impl Into<String>) -> Self {
        Self { invariant, what: what.into() }
    }
}
