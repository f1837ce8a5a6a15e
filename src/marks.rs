//! Marks at the branches that a simulation must have been through: a branch that no history reaches is not tested,
//! however many histories there are.
//!
//! A mark is a bit of the running thread; simulations run on one thread each. Without debug assertions [`hit`] is
//! nothing.

use serde::Serialize;

/// Names the marks once: the variant and how reports call it.
macro_rules! marks {
    ($($variant:ident $name:literal $doc:literal,)*) => {
        /// A branch of the duplicate, retry, rewind, redrive or repair logic.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Mark {
            $(#[doc = $doc] $variant,)*
        }

        impl Mark {
            /// Whether this is a branch of links over managed services; the others are those of embedded regions.
            pub fn is_managed(self) -> bool {
                self >= Mark::ClaimOwn
            }

            pub const ALL: &[Mark] = &[$(Mark::$variant,)*];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(Mark::$variant => $name,)*
                }
            }
        }
    };
}

marks! {
    PublishRepeated "publish-repeated" "A service published a known key with the same payload.",
    PublishConflict "publish-conflict" "A service published a known key with another payload.",
    ArrivalDuplicate "arrival-duplicate" "An arrival's key was known.",
    ArrivalConflict "arrival-conflict" "An arrival's key was known with another payload.",
    ArrivalGap "arrival-gap" "A batch was answered with a gap.",
    ArrivalOverlap "arrival-overlap" "A batch began below the high-water.",
    ArrivalReordered "arrival-reordered" "A batch waited for the one before it.",
    ArrivalBeyondBase "arrival-beyond-base" "A batch was taken over a gap because the sender's log begins behind it.",
    ArrivalPayloadElsewhere "arrival-payload-elsewhere" "A payload was brought to another life of the region.",
    LifeBegun "life-begun" "A start began a new life.",
    TailCut "tail-cut" "A start cut off a torn tail.",
    LinkUnanswered "link-unanswered" "A batch was not answered.",
    LinkThrottled "link-throttled" "The peer asked a link to wait.",
    LinkRefused "link-refused" "The peer refused a link altogether.",
    LinkLateAnswer "link-late-answer" "An answer came for a batch that was given up.",
    LinkGapRetried "link-gap-retried" "A gap was only that batches overtook each other.",
    LinkRewound "link-rewound" "The peer lost what it had confirmed, and the link rewound.",
    LinkExpired "link-expired" "An event was too old to send.",
    LinkReadAgain "link-read-again" "What had waited too long at hand was judged again.",
    LinkHeld "link-held" "The peer answered an event with `Retry`.",
    LinkHeldDelivered "link-held-delivered" "A held event was brought to its end.",
    LinkHeldAgain "link-held-again" "A held event must wait once more.",
    LinkHeldUnanswered "link-held-unanswered" "Held events were sent and not answered.",
    LinkDeadLetter "link-dead-letter" "An event went to the dead letters.",
    LinkStrayLost "link-stray-lost" "The peer lost what it got outside of the order, and it goes out again.",
    LinkPeerHeard "link-peer-heard" "A peer that was heard is tried again at once.",
    LinkBehind "link-behind" "A peer holds events of this region that are not here.",
    LinkLostPlace "link-lost-place" "The log dropped what a link had not delivered.",
    RepairAsked "repair-asked" "A peer asked for a repair.",
    RepairDone "repair-done" "A repair was brought to its end.",
    RepairWentElsewhere "repair-went-elsewhere" "A repair came to a copy of the region that asked for it.",
    RepairAskedAgain "repair-asked-again" "A repair was not brought to its end in time.",
    RepairGivenUp "repair-given-up" "A repair was not answered and left to be asked for again.",
    RedriveDelivered "redrive-delivered" "A redriven letter was taken, or known.",
    RedriveRejected "redrive-rejected" "A redriven letter was rejected again.",
    RedriveUnanswered "redrive-unanswered" "Redriven letters were not answered.",
    LetterDiscarded "letter-discarded" "An operator gave a letter up.",
    ReplaySent "replay-sent" "Events were replayed.",
    LinkHoleFilled "link-hole-filled" "What a peer was told is held back, and nobody holds any more, goes out.",
    CopyAdopted "copy-adopted" "A lost event came back whose key stands here by another region's copy.",
    LinkPayload "link-payload" "An event waits for its payload.",
    PayloadBrought "payload-brought" "A payload was brought to the peer.",
    PayloadPresent "payload-present" "The peer had the payload already.",
    PayloadBeside "payload-beside" "The peer's key holds other bytes; the copy went beside them.",
    PayloadMissing "payload-missing" "A payload was not there at home.",
    PayloadGivenUp "payload-given-up" "A payload did not come up in time.",
    PayloadForwarded "payload-forwarded" "An event went on without its payload.",
    PayloadChanged "payload-changed" "An object was overwritten while it was copied.",
    PayloadDamaged "payload-damaged" "What arrived was not what was sent, and was refused.",
    PayloadFailed "payload-failed" "A store did not answer.",
    OwnCameBack "own-came-back" "An event of this region came back after a restore.",
    RequestRepeated "request-repeated" "A document knew a request's key already.",
    RequestTwins "request-twins" "A request was done in two regions, and counts once.",
    RequestUndone "request-undone" "A request was done in two regions and deleted in one of them, and counts nowhere.",
    DeltaParked "delta-parked" "A delta waits for what it stands on.",
    DeltaGapFilled "delta-gap-filled" "What a delta waited for came over the link.",
    DeltaTooOld "delta-too-old" "A delta was older than what regions remember of deletes.",
    DeltaGivenUp "delta-given-up" "What a delta waited for did not come for so long that it was given up.",
    CounterBase "counter-base" "Another region's delete took what a counter had.",
    CounterBeside "counter-beside" "Another region's delete left an increment that it had not seen.",
    CounterAnew "counter-anew" "A count begun anew met what is remembered of one that was deleted.",
    ConflictHeard "conflict-heard" "A delta met a write that its region had not seen.",
    ConflictCompared "conflict-compared" "Comparing found two writes that had not seen each other.",
    CompareSettled "compare-settled" "What differed was only on its way.",
    CompareNarrowed "compare-narrowed" "Sums were narrowed down to what differs.",
    CompareFetched "compare-fetched" "Comparing brought what a peer had and this region had not.",
    DocumentWanted "document-wanted" "A delta waited for too long, and the document was fetched.",
    DocumentAnew "document-anew" "A deleted document was written again.",
    DocumentsUndone "documents-undone" "The log took no delta, and the documents were put back.",
    DocumentsCaughtUp "documents-caught-up" "A start took in what the log had and the rows had not.",
    DocumentsDiscarded "documents-discarded" "A copy of the documents was too old and given up.",
    TombstoneKept "tombstone-kept" "A region that has not seen a delete keeps it from being forgotten.",
    TombstoneCollected "tombstone-collected" "A delete that every region has seen was forgotten.",
    DeltaLeftOut "delta-left-out" "A delta of an evicted region was not merged.",
    RegionBegunAnew "region-begun-anew" "An evicted region gave its documents up and began anew.",
    RequestRedone "request-redone" "A request that only an evicted region had was done again.",
    RegionDrained "region-drained" "A region was left after its peers had everything.",
    RegionAbandoned "region-abandoned" "A region was left as it was.",
    RegionBack "region-back" "A region came back after it had caught up.",
    ClaimOwn "claim-own" "An insertion met one's own claim: its answer was lost.",
    ClaimDuplicate "claim-duplicate" "An insertion met a key that is done.",
    ClaimConflict "claim-conflict" "An insertion met a key that is done with another payload.",
    ClaimWaited "claim-waited" "An insertion met somebody else's claim.",
    ClaimTakenOver "claim-taken-over" "A claim that nobody kept was taken over.",
    ClaimNotTakenOver "claim-not-taken-over" "A claim was kept, or taken by somebody else, in the meantime.",
    ClaimUnanswered "claim-unanswered" "An insertion was not answered.",
    ClaimLost "claim-lost" "A claim was lost before its mark.",
    MessagePayload "message-payload" "A message waits for its payload.",
    PutUnanswered "put-unanswered" "Events may or may not be on the bus.",
    PutLater "put-later" "The bus takes an event later.",
    PutHeld "put-held" "An event that the bus put off for long went to the held queue.",
    PutRefused "put-refused" "The bus never takes the event.",
    MarkUnanswered "mark-unanswered" "A mark was not answered.",
    MessageCameAgain "message-came-again" "A message was received again before it was deleted.",
    MessageDead "message-dead" "A message went to the dead letters.",
    CircuitOpened "circuit-opened" "The peer was left alone for a while.",
    ItemConflict "item-conflict" "Somebody else changed a document first, and the request was done again on it.",
    ItemMergeConflict "item-merge-conflict" "Somebody else changed a document first, and what came was merged again.",
    ItemWriteFound "item-write-found" "A request whose write was not answered had taken effect.",
    ItemWriteAgain "item-write-again" "A request whose write was not answered had not taken effect, and was done again.",
    ItemWriteUnknown "item-write-unknown" "Whether a request without a key had taken effect could not be told.",
    ItemsTogether "items-together" "Deltas of several documents were merged in one write.",
    DeltaUnsent "delta-unsent" "The bus took no delta.",
    DeltaEarly "delta-early" "A delta came before what it stands on, and comes again.",
    DeltaFetched "delta-fetched" "What a delta stands on did not come, and its document was fetched.",
    DeltaExpired "delta-expired" "A delta was older than what regions remember of deletes, and its document was fetched.",
    DeltaWaits "delta-waits" "A delta could not be merged now.",
    OperationDone "operation-done" "An operation that a service published was done.",
    OperationWaits "operation-waits" "An operation that a service published could not be done now.",
    TombstoneForgotten "tombstone-forgotten" "A delete that every region has seen went from a table.",
    DeltaRefused "delta-refused" "A delta of an evicted region was not merged into a table.",
    DocumentKept "document-kept" "A region that was evicted kept what only it had of a document.",
    DocumentSetAside "document-set-aside" "A region that was evicted could not keep a document.",
    TableAsked "table-asked" "A restored table was old, and another region had lived on meanwhile.",
}

/// Whether this build has marks.
pub const ENABLED: bool = cfg!(debug_assertions);

/// Which marks were hit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hits(u128);

impl Hits {
    pub fn has(self, mark: Mark) -> bool {
        self.0 & (1 << mark as u32) != 0
    }

    pub fn and(self, other: Hits) -> Hits {
        Hits(self.0 | other.0)
    }

    /// The marks that were not hit.
    pub fn missing(self) -> Vec<Mark> {
        Mark::ALL.iter().copied().filter(|mark| !self.has(*mark)).collect()
    }
}

#[cfg(debug_assertions)]
mod here {
    use std::cell::Cell;

    thread_local! {
        pub static HITS: Cell<u128> = const { Cell::new(0) };
    }
}

/// This branch was reached.
#[inline]
pub fn hit(mark: Mark) {
    #[cfg(debug_assertions)]
    here::HITS.set(here::HITS.get() | 1 << mark as u32);
    #[cfg(not(debug_assertions))]
    let _ = mark;
}

/// The marks hit on this thread since the last call.
pub fn take() -> Hits {
    #[cfg(debug_assertions)]
    let hits = Hits(here::HITS.take());
    #[cfg(not(debug_assertions))]
    let hits = Hits::default();
    hits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_taken_once() {
        take();
        hit(Mark::ArrivalGap);
        let hits = take();
        assert!(hits.has(Mark::ArrivalGap) && !hits.has(Mark::TailCut));
        assert_eq!(hits.missing().len(), Mark::ALL.len() - 1);
        assert_eq!(take(), Hits::default());
    }
}
