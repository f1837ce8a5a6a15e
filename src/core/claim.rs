//! What a row of a ledger of claims means for whoever wants to publish the same key.
//!
//! # The problem
//! A ledger that cannot join a transaction with its bus knows three things at best: nobody has the key, somebody is
//! publishing it, it was published. The middle one is the hard one. Taking it for "published" loses the event if that
//! somebody died before he published; taking it for "nobody" makes a second effect if he is alive.
//!
//! # The method
//! A claim is a lease with a fencing token. Its holder publishes only while the lease is long enough for one attempt, and
//! can mark the key done only while the token is still his. Everybody else waits, and takes the claim over when he has
//! seen the same token for longer than the lease *by his own clock*: he began to watch after the holder began to count, so
//! no two clocks are compared (as in the DynamoDB lock client). What the former holder may have published just before he
//! died cannot be known, so each take-over is counted as a possible repeat.

use std::time::Duration;

use super::{
    key::{KeyHash, PayloadHash},
    time::Timestamp,
};
use crate::planted::{self, Bug};

/// Names one attempt to publish one event; random, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// A row of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub payload: PayloadHash,
    pub state: State,
    /// When the row was last written, by the writer's clock; for people.
    pub at: Timestamp,
    /// From then on the row does not count, whether it was removed or not.
    pub expires: Timestamp,
    /// Where the event was published first.
    pub origin: String,
    /// hubweave's own, such as a heartbeat: no service's event, and in no other ledger.
    pub reserved: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Somebody is publishing the event. Whoever sees the same token for longer than `lease` by a clock of its own may
    /// take the claim over: no clock is compared with another.
    Claimed { token: Token, lease: Duration },
    /// The event is on the bus, under this id where it is known.
    Done { id: Option<String> },
}

/// A row to write for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub key: KeyHash,
    pub row: Row,
}

/// Who meets a row.
#[derive(Clone, Copy, Debug)]
pub struct Contender<'a> {
    /// The tokens that this attempt may have written, the youngest last. An earlier one is found where the answer to the
    /// renewal of a lease was lost.
    pub tokens: &'a [Token],
    pub payload: PayloadHash,
    /// Since when the contender has seen the row's token, by its own steady clock; zero when it sees it the first time.
    pub observed: Duration,
    /// Wall-clock time, only for rows that expired: those are days old.
    pub now: Timestamp,
}

/// What to do about a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The claim is ours: publish, while the lease lasts.
    Proceed,
    /// The effect is there. Only ever said of a row that is done.
    Duplicate,
    /// The key is done with another payload.
    Conflict,
    /// Somebody else is publishing; look again after this at the latest.
    Wait(Duration),
    /// The claim is this token's, and nobody keeps it: replace it by one of ours.
    TakeOver(Token),
    /// The row counts no more: insert again.
    Absent,
}

/// Judges the row that an insertion met.
pub fn judge(row: &Row, contender: &Contender<'_>) -> Judgement {
    let by_wall_clock = planted::is(Bug::LeaseByWallClock);
    let observed = if by_wall_clock { contender.now.since(row.at) } else { contender.observed };
    match &row.state {
        // Ours also where the row's own time is over: we hold it, and its lease is judged by our steady clock.
        State::Claimed { token, .. } if contender.tokens.last() == Some(token) => Judgement::Proceed,
        State::Claimed { token, .. } if contender.tokens.contains(token) => Judgement::TakeOver(*token),
        _ if row.expires <= contender.now => Judgement::Absent,
        State::Claimed { .. } if planted::is(Bug::DuplicateAgainstLiveClaim) => Judgement::Duplicate,
        // Also where the payload is another one: its event may be refused yet, and then ours is the first.
        State::Claimed { token, lease } => match lease.checked_sub(observed) {
            Some(rest) if !rest.is_zero() => Judgement::Wait(rest),
            _ => Judgement::TakeOver(*token),
        },
        State::Done { .. } if row.payload == contender.payload => Judgement::Duplicate,
        State::Done { .. } => Judgement::Conflict,
    }
}

/// Whether an attempt to publish may begin: it must be over before anybody else may take the claim.
///
/// `since` is when the request that wrote the claim was *sent*: the row may have been there from that moment on.
pub fn may_put(since: Timestamp, lease: Duration, attempt: Duration, now: Timestamp) -> bool {
    now.plus(attempt) <= since.plus(lease)
}

/// How long an attempt may take at most under such a lease: a third of it is left for claiming, or no put would ever begin.
pub fn attempt_within(lease: Duration, wanted: Duration) -> Duration {
    wanted.min(lease / 3 * 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(15);
    const OURS: Token = Token(1);
    const EARLIER: Token = Token(2);
    const THEIRS: Token = Token(3);
    const SAME: PayloadHash = PayloadHash([1; 32]);
    const OTHER: PayloadHash = PayloadHash([2; 32]);

    fn row(state: State, payload: PayloadHash) -> Row {
        let (at, expires) = (Timestamp::ZERO, Timestamp::from_millis(1_000_000));
        Row { payload, state, at, expires, origin: "a".to_owned(), reserved: false }
    }

    fn claimed(token: Token, payload: PayloadHash) -> Row {
        row(State::Claimed { token, lease: LEASE }, payload)
    }

    fn done(payload: PayloadHash) -> Row {
        row(State::Done { id: None }, payload)
    }

    fn judged(row: &Row, observed_seconds: u64, now_millis: u64) -> Judgement {
        let contender = Contender {
            tokens: &[EARLIER, OURS],
            payload: SAME,
            observed: Duration::from_secs(observed_seconds),
            now: Timestamp::from_millis(now_millis),
        };
        judge(row, &contender)
    }

    #[test]
    fn each_row_is_judged_by_its_state_its_token_and_how_long_it_was_seen() {
        use Judgement::*;
        for (row, observed_seconds, expected) in [
            (done(SAME), 0, Duplicate),
            (done(SAME), 99, Duplicate),
            (done(OTHER), 0, Conflict),
            // A live claim of somebody else is no duplicate, and with another payload no conflict yet.
            (claimed(THEIRS, SAME), 0, Wait(LEASE)),
            (claimed(THEIRS, OTHER), 0, Wait(LEASE)),
            (claimed(THEIRS, SAME), 10, Wait(Duration::from_secs(5))),
            (claimed(THEIRS, SAME), 15, TakeOver(THEIRS)),
            (claimed(THEIRS, OTHER), 400, TakeOver(THEIRS)),
            // One's own claim, whose answer was lost, and the one that a lost renewal left.
            (claimed(OURS, SAME), 0, Proceed),
            (claimed(OURS, SAME), 99, Proceed),
            (claimed(EARLIER, SAME), 0, TakeOver(EARLIER)),
        ] {
            assert_eq!(judged(&row, observed_seconds, 5), expected, "{row:?} seen for {observed_seconds} s");
        }
    }

    #[test]
    fn an_expired_row_counts_as_absent_unless_it_is_ours() {
        for (row, expected) in [
            (done(SAME), Judgement::Absent),
            (done(OTHER), Judgement::Absent),
            (claimed(THEIRS, SAME), Judgement::Absent),
            (claimed(OURS, SAME), Judgement::Proceed),
        ] {
            assert_eq!(judged(&row, 0, 1_000_000), expected, "{row:?}");
        }
        assert_eq!(judged(&done(SAME), 0, 999_999), Judgement::Duplicate);
    }

    #[test]
    fn a_put_begins_only_if_it_can_end_within_the_lease() {
        let since = Timestamp::from_millis(1_000);
        let at = |millis| may_put(since, LEASE, Duration::from_secs(5), Timestamp::from_millis(millis));
        assert_eq!([1_000, 11_000, 11_001, 16_000, 99_000].map(at), [true, true, false, false, false]);
        assert_eq!(attempt_within(LEASE, 2 * LEASE), Duration::from_secs(10));
        assert_eq!(attempt_within(LEASE, Duration::from_secs(3)), Duration::from_secs(3));
    }
}
