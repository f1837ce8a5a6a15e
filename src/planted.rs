//! Bugs planted on purpose: a simulation that finds none of them proves nothing.
//!
//! A switch of the running thread turns one on; simulations run on one thread each. Without debug assertions the
//! switch is not there and [`is`] is `false` for the compiler, so releases hold nothing of it.

use serde::Serialize;

/// A promise broken in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bug {
    /// The hub answers before its sync.
    AcknowledgeBeforeFsync,
    /// After a sync that failed the hub syncs again and goes on.
    RetriedFsync,
    /// A torn tail stays behind the log's end.
    TailNotCut,
    /// After a start the hub goes on in its last life, whatever its peers have.
    SequenceReusedAfterRestore,
    /// After a start the ledger knows only what it had flushed.
    LedgerForgetsAtRestart,
    /// A link writes down what it has read as delivered.
    CursorBeforeDelivery,
    /// A link forgets what it holds when it writes its place down.
    HighWaterSkipsHeld,
    /// A region takes in a batch though something before it is missing.
    GapAccepted,
    /// A link's newest pattern judges what was accepted before it.
    FilterAppliedBackwards,
    /// The watermark follows the producer's time.
    WatermarkFromProducersTime,
    /// A rejected event counts as delivered and is written down nowhere.
    DeadLetterCountsAsDelivered,
    /// What came over a link is sent on.
    ForeignSentOn,
    /// A peer's answer to a batch is taken for all of its events, whatever it says of single ones.
    BatchAcknowledgedOnPartialFailure,
    /// An event does not wait for its payload.
    EventOvertakesPayload,
    /// Whatever stands at the peer's key is taken for the payload.
    PayloadTakenByName,
    /// Documents: merging a whole document takes what was removed here for new.
    RemovalsForgotten,
    /// Documents: a delete takes what its region had not seen.
    DeleteTakesUnseen,
    /// Documents: a counter adds a replica's sum to the one that it has, instead of taking the later.
    CountAddedUp,
    /// Documents: a count that begins anew does not say so, and what was deleted of an earlier one is taken off it.
    CountBegunOnOldBase,
    /// Documents: a delta is merged though one before it is missing.
    DeltaOverGap,
    /// Documents: a request that was done in two regions counts in both.
    TwinCounts,
    /// Documents: a delete is forgotten before every region has seen it.
    CollectedUnseen,
    /// An evicted region that is back keeps what it had.
    EvictedKeeps,
    /// What an evicted region wrote before is merged all the same.
    EvictedHeard,
    /// Documents: a conflict that comparing finds is told to nobody.
    ConflictUntold,
    /// Documents: a request to a document is answered before the log has it.
    RequestAnsweredBeforeLog,
    /// Regions: one that drains counts as drained before its links have brought everything.
    DrainedTooEarly,
    /// Regions: one that comes back counts as equal before it is.
    BackUnequal,
    /// Managed: a claim that somebody is still working on counts as done.
    DuplicateAgainstLiveClaim,
    /// Managed: who lost a claim may still mark or release it.
    LeaseWithoutFencing,
    /// Managed: a lease is counted from the answer to its claim, when others have counted for a while.
    LeaseFromAnswer,
    /// Managed: whether a lease is over is read off the wall clock and the row's own time.
    LeaseByWallClock,
    /// Managed: a message is deleted when its event is on the bus, before its key is done.
    DeletedBeforeMark,
    /// Managed: a put without an answer is made again and not counted.
    RepeatNotCounted,
    /// Managed documents: an item is written whatever version it has.
    ItemUnconditioned,
    /// Managed documents: a document is written without the sums that it is in.
    SumsApart,
    /// Managed documents: what was not answered is done again, and nobody looks whether it took effect.
    WriteRepeatedBlindly,
    /// Managed documents: a write that another agent passed counts as one that took effect.
    CoveredCountsAsDone,
    /// Managed documents: what no link brought is looked for nowhere.
    NeverCompared,
}

impl Bug {
    pub const ALL: [Bug; 39] = [
        Bug::AcknowledgeBeforeFsync,
        Bug::RetriedFsync,
        Bug::TailNotCut,
        Bug::SequenceReusedAfterRestore,
        Bug::LedgerForgetsAtRestart,
        Bug::CursorBeforeDelivery,
        Bug::HighWaterSkipsHeld,
        Bug::GapAccepted,
        Bug::FilterAppliedBackwards,
        Bug::WatermarkFromProducersTime,
        Bug::DeadLetterCountsAsDelivered,
        Bug::ForeignSentOn,
        Bug::BatchAcknowledgedOnPartialFailure,
        Bug::EventOvertakesPayload,
        Bug::PayloadTakenByName,
        Bug::RemovalsForgotten,
        Bug::DeleteTakesUnseen,
        Bug::CountAddedUp,
        Bug::CountBegunOnOldBase,
        Bug::DeltaOverGap,
        Bug::TwinCounts,
        Bug::CollectedUnseen,
        Bug::EvictedKeeps,
        Bug::EvictedHeard,
        Bug::ConflictUntold,
        Bug::RequestAnsweredBeforeLog,
        Bug::DrainedTooEarly,
        Bug::BackUnequal,
        Bug::DuplicateAgainstLiveClaim,
        Bug::LeaseWithoutFencing,
        Bug::LeaseFromAnswer,
        Bug::LeaseByWallClock,
        Bug::DeletedBeforeMark,
        Bug::RepeatNotCounted,
        Bug::ItemUnconditioned,
        Bug::SumsApart,
        Bug::WriteRepeatedBlindly,
        Bug::CoveredCountsAsDone,
        Bug::NeverCompared,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Bug::AcknowledgeBeforeFsync => "acknowledge-before-fsync",
            Bug::RetriedFsync => "retried-fsync",
            Bug::TailNotCut => "tail-not-cut",
            Bug::SequenceReusedAfterRestore => "sequence-reused-after-restore",
            Bug::LedgerForgetsAtRestart => "ledger-forgets-at-restart",
            Bug::CursorBeforeDelivery => "cursor-before-delivery",
            Bug::HighWaterSkipsHeld => "high-water-skips-held",
            Bug::GapAccepted => "gap-accepted",
            Bug::FilterAppliedBackwards => "filter-applied-backwards",
            Bug::WatermarkFromProducersTime => "watermark-from-producers-time",
            Bug::DeadLetterCountsAsDelivered => "dead-letter-counts-as-delivered",
            Bug::ForeignSentOn => "foreign-sent-on",
            Bug::BatchAcknowledgedOnPartialFailure => "batch-acknowledged-on-partial-failure",
            Bug::EventOvertakesPayload => "event-overtakes-payload",
            Bug::PayloadTakenByName => "payload-taken-by-name",
            Bug::RemovalsForgotten => "removals-forgotten",
            Bug::DeleteTakesUnseen => "delete-takes-unseen",
            Bug::CountAddedUp => "count-added-up",
            Bug::CountBegunOnOldBase => "count-begun-on-old-base",
            Bug::DeltaOverGap => "delta-over-gap",
            Bug::TwinCounts => "twin-counts",
            Bug::CollectedUnseen => "collected-unseen",
            Bug::EvictedKeeps => "evicted-keeps",
            Bug::EvictedHeard => "evicted-heard",
            Bug::ConflictUntold => "conflict-untold",
            Bug::RequestAnsweredBeforeLog => "request-answered-before-log",
            Bug::DrainedTooEarly => "drained-too-early",
            Bug::BackUnequal => "back-unequal",
            Bug::DuplicateAgainstLiveClaim => "duplicate-against-live-claim",
            Bug::LeaseWithoutFencing => "lease-without-fencing",
            Bug::LeaseFromAnswer => "lease-from-answer",
            Bug::LeaseByWallClock => "lease-by-wall-clock",
            Bug::DeletedBeforeMark => "deleted-before-mark",
            Bug::RepeatNotCounted => "repeat-not-counted",
            Bug::ItemUnconditioned => "item-unconditioned",
            Bug::SumsApart => "sums-apart",
            Bug::WriteRepeatedBlindly => "write-repeated-blindly",
            Bug::CoveredCountsAsDone => "covered-counts-as-done",
            Bug::NeverCompared => "never-compared",
        }
    }

    pub fn parse(text: &str) -> Option<Bug> {
        Bug::ALL.into_iter().find(|bug| bug.as_str() == text)
    }
}

/// Whether this build has the switch.
pub const ENABLED: bool = cfg!(debug_assertions);

#[cfg(debug_assertions)]
mod switch {
    use std::cell::Cell;

    thread_local! {
        pub static PLANTED: Cell<Option<super::Bug>> = const { Cell::new(None) };
    }
}

/// Whether `bug` is planted on this thread.
#[inline]
pub fn is(bug: Bug) -> bool {
    #[cfg(debug_assertions)]
    let planted = switch::PLANTED.get() == Some(bug);
    #[cfg(not(debug_assertions))]
    let planted = {
        let _ = bug;
        false
    };
    planted
}

/// Plants `bug` on this thread, or none; does nothing where the build has no switch.
pub fn plant(bug: Option<Bug>) {
    #[cfg(debug_assertions)]
    switch::PLANTED.set(bug);
    #[cfg(not(debug_assertions))]
    let _ = bug;
}
