//! What crosses a link: a batch of records, and the peer's answer to each.
//!
//! ```text
//! magic "HWB1" | opening length u32 | opening (postcard) | frames of kind Event
//! ```
//!
//! The sender copies records out of its log as they are; only the opening is built. Peers of another cluster or format
//! are told apart before anything is taken.

use bytes::{BufMut, Bytes};
use serde::{Deserialize, Serialize};

use super::{
    event::Record,
    frame::{self, Step},
    position::{Incarnation, Lives, Position, Stray},
    time::Timestamp,
};

/// First bytes of a batch. The digit is the format's version.
pub const MAGIC: &[u8; 4] = b"HWB1";

/// A batch holds at most this many records.
pub const RECORDS_MAX: usize = 65_536;

/// An opening is never longer.
const OPENING_BYTES_MAX: usize = 256 << 10;

/// Why these records are sent, and what the peer may conclude from their order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Everything of the sender's log in `(from, to]` that is meant for the peer; what is absent was left out on purpose.
    Stream { from: u64, to: u64 },
    /// Single events of the sender outside of their order: held, redriven or replayed.
    Redrive,
    /// Events of a lost or restored origin, from a region that had received them.
    Repair,
    /// Nothing is to be taken: the peer answers what it would do.
    Shadow,
    /// All that the receiver asked for was sent, in batches of kind `Repair`. No records.
    Repaired(Box<Repaired>),
}

/// What a repair was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repaired {
    /// The number of the request.
    pub asked: u64,
    /// Where the receiver's log ended with each answer, the last in each of its lives. One that is not there: the repair
    /// came to another agent of the region, a copy at the same address.
    pub places: Vec<(Incarnation, u64)>,
    /// How far the sender had each life of the receiver, and what outside of the order, when it began.
    pub high_waters: Vec<(Incarnation, u64)>,
    pub strays: Vec<Stray>,
}

/// What precedes the records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    pub cluster: String,
    pub sender: String,
    pub receiver: String,
    pub kind: Kind,
    /// The sender's lives, youngest last (the last 64 at most).
    pub lives: Lives,
    /// The sender's log begins after this offset: what is older can come over no link any more.
    pub base: u64,
    /// The sender's head, so that the peer can tell how much it may miss if the sender is lost now.
    pub head: u64,
    /// The sender's wall clock when it sent this.
    pub sent: Timestamp,
    /// The sender's offsets that it holds back for now. The receiver's high-water passes them, so it remembers them too:
    /// the sender, restored from an older copy, would know of them from nobody else.
    pub held: Vec<u64>,
    /// The receiver's life in which the payloads of these events were brought; `None` where the sender brings none. In
    /// another life they may be gone: the receiver was restored from an older copy meanwhile.
    pub payloads_in: Option<Incarnation>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    pub opening: Opening,
    pub records: Vec<Record>,
}

/// A batch that cannot be read. Nothing of it was taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("not a batch of this format: it begins with {0:?}, not {MAGIC:?}")]
    Format(Vec<u8>),
    #[error("unreadable opening: {0}")]
    Opening(String),
    #[error("record {index}: {why}")]
    Record { index: usize, why: String },
    #[error("more than {RECORDS_MAX} records")]
    TooMany,
}

impl Batch {
    pub fn encode(&self) -> Vec<u8> {
        let size: usize = self.records.iter().map(|record| record.raw().len() + frame::PREFIX_BYTES + 1).sum();
        let mut out = Vec::with_capacity(size + 512);
        out.put_slice(MAGIC);
        put_opening(&mut out, &self.opening);
        for record in &self.records {
            frame::put(&mut out, frame::Kind::Event, |out| out.put_slice(record.raw()));
        }
        out
    }

    /// # Errors
    /// Anything that is not exactly a batch: the whole of it is refused.
    pub fn decode(bytes: &Bytes) -> Result<Batch, Malformed> {
        let Some(rest) = bytes.strip_prefix(MAGIC) else {
            return Err(Malformed::Format(bytes.iter().take(MAGIC.len()).copied().collect()));
        };
        let short = || Malformed::Opening("cut short".to_owned());
        let length = rest.first_chunk::<4>().map(|length| u32::from_le_bytes(*length) as usize).ok_or_else(short)?;
        if length > OPENING_BYTES_MAX {
            return Err(Malformed::Opening(format!("{length} bytes long")));
        }
        let opening = rest.get(4..4 + length).ok_or_else(short)?;
        let opening = match postcard::from_bytes(opening) {
            // Fields are only ever appended: an older build holds nothing back and brings no payloads.
            Err(postcard::Error::DeserializeUnexpectedEnd) => postcard::from_bytes(&[opening, &[0; 2]].concat()),
            opening => opening,
        };
        let opening = opening.map_err(|error| Malformed::Opening(error.to_string()))?;
        let mut position = MAGIC.len() + 4 + length;
        let mut records = Vec::new();
        while position < bytes.len() {
            let index = records.len();
            let malformed = |why: &str| Malformed::Record { index, why: why.to_owned() };
            if index == RECORDS_MAX {
                return Err(Malformed::TooMany);
            }
            match frame::step(bytes, position) {
                Step::Frame { kind: frame::Kind::Event, payload, size } => {
                    records.push(Record::parse(payload).map_err(|error| malformed(&error.to_string()))?);
                    position += size;
                }
                Step::Frame { .. } => return Err(malformed("not an event")),
                Step::Partial { .. } | Step::End => return Err(malformed("cut short")),
                Step::Garbage(why) => return Err(malformed(why)),
            }
        }
        Ok(Batch { opening, records })
    }
}

fn put_opening(out: &mut Vec<u8>, opening: &Opening) {
    // An opening is plain data: encoding it cannot fail.
    let encoded = postcard::to_allocvec(opening).unwrap_or_default();
    out.put_u32_le(encoded.len() as u32);
    out.put_slice(&encoded);
}

/// Why an event can never be taken. Spelled as in metrics and dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The region knows this key with another payload.
    Conflict,
    /// Accepted longer ago than ledgers remember: a second effect could not be ruled out.
    Expired,
    /// It crossed more links than `limits.max_hops`.
    HopLimit,
    /// The peer's limits are smaller than this event.
    TooLarge,
    /// The payload it refers to never came up at home.
    PayloadMissing,
    /// The peer's bus refuses it; the letter says why.
    Refused,
    /// What the queue holds is no event.
    Malformed,
    /// Its reference leads nowhere, or to a bucket that is not ours.
    Reference,
}

impl Reason {
    pub const ALL: [Reason; 8] = [
        Reason::Conflict,
        Reason::Expired,
        Reason::HopLimit,
        Reason::TooLarge,
        Reason::PayloadMissing,
        Reason::Refused,
        Reason::Malformed,
        Reason::Reference,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Conflict => "conflict",
            Reason::Expired => "expired",
            Reason::HopLimit => "hop_limit",
            Reason::TooLarge => "too_large",
            Reason::PayloadMissing => "payload_missing",
            Reason::Refused => "refused",
            Reason::Malformed => "malformed",
            Reason::Reference => "reference",
        }
    }
}

/// What became of one record at the peer. Durable there before it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Taken in now: its one effect.
    Delivered,
    /// Its effect is there already.
    Duplicate,
    /// It can never be taken in.
    Rejected(Reason),
    /// Not now; it was not taken.
    Retry { after_millis: u32 },
}

impl Outcome {
    /// It was not taken, and may be later.
    pub fn is_put_off(self) -> bool {
        matches!(self, Outcome::Retry { .. })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// One outcome per record, in order.
    Applied(Vec<Outcome>),
    /// The peer misses something before this batch and took nothing; [`Reply::high_waters`] says what it has.
    Gap,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    pub region: String,
    pub answer: Answer,
    /// How far the peer has each life of the sender.
    pub high_waters: Vec<(Incarnation, u64)>,
    /// The peer's wall clock when the batch arrived and when this left, for the estimate of its offset.
    pub received: Timestamp,
    pub replied: Timestamp,
    /// Single events of the sender that the peer got outside of their order.
    pub strays: Vec<Stray>,
    /// The peer's own lives and where its log ends: what it took in beyond the end of one of them is lost.
    pub lives: Lives,
    pub head: u64,
    /// The sender's events that it held back, or was asked to, and that did not come since.
    pub holes: Vec<Position>,
}

/// How many fields of a [`Reply`] an older build does not write.
const APPENDED: usize = 4;

impl Reply {
    /// Whether it answers a batch of so many records.
    pub fn has_outcomes(&self, records: usize) -> bool {
        matches!(&self.answer, Answer::Applied(outcomes) if outcomes.len() == records)
    }

    pub fn into_outcomes(self) -> Vec<Outcome> {
        match self.answer {
            Answer::Applied(outcomes) => outcomes,
            Answer::Gap => Vec::new(),
        }
    }

    /// Where the peer's log ends.
    pub fn place(&self) -> Position {
        Position { incarnation: self.lives.current().unwrap_or_default(), sequence: self.head }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(postcard::to_allocvec(self).unwrap_or_default());
        out
    }

    /// # Errors
    /// Anything that is no reply of this format; says what. Fields that a newer build appended are not looked at.
    pub fn decode(bytes: &[u8]) -> Result<Reply, String> {
        let Some(rest) = bytes.strip_prefix(MAGIC) else {
            return Err("not a reply of this format".to_owned());
        };
        let reply = match postcard::from_bytes(rest) {
            // Fields are only ever appended: what an older build did not write is empty, which postcard writes as a zero.
            Err(postcard::Error::DeserializeUnexpectedEnd) => postcard::from_bytes(&[rest, &[0; APPENDED]].concat()),
            reply => reply,
        };
        reply.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing;

    fn batch() -> Batch {
        Batch {
            opening: Opening {
                cluster: "local".to_owned(),
                sender: "a".to_owned(),
                receiver: "b".to_owned(),
                kind: Kind::Stream { from: 3, to: 9 },
                lives: Lives(vec![(Incarnation(5), 0)]),
                base: 0,
                head: 9,
                sent: Timestamp(17),
                held: Vec::new(),
                payloads_in: None,
            },
            records: (4..10).map(|offset| testing::record(offset, &format!("k{offset}"), "{}")).collect(),
        }
    }

    #[test]
    fn a_batch_reads_back() {
        let batch = batch();
        assert_eq!(Batch::decode(&Bytes::from(batch.encode())), Ok(batch));
    }

    #[test]
    fn another_format_is_refused_by_name() {
        assert_eq!(Batch::decode(&Bytes::from_static(b"HWB9....")), Err(Malformed::Format(b"HWB9".to_vec())));
        assert!(Reply::decode(b"<html>").is_err());
    }

    #[test]
    fn a_reply_of_an_older_build_reads_with_what_it_lacks_empty() {
        let reply = Reply {
            region: "b".to_owned(),
            answer: Answer::Applied(vec![Outcome::Delivered]),
            high_waters: vec![(Incarnation(5), 9)],
            received: Timestamp(1),
            replied: Timestamp(2),
            strays: Vec::new(),
            lives: Lives::default(),
            head: 0,
            holes: Vec::new(),
        };
        let bytes = reply.encode();
        for lacks in 0..=APPENDED {
            assert_eq!(Reply::decode(&bytes[..bytes.len() - lacks]), Ok(reply.clone()));
        }
        assert_eq!(Reply::decode(&[&bytes[..], &[3, 7]].concat()), Ok(reply), "a newer build's");
        assert!(Reply::decode(&bytes[..bytes.len() - APPENDED - 1]).is_err());
    }

    #[test]
    fn a_cut_batch_is_refused_whole() {
        let whole = Bytes::from(batch().encode());
        let boundaries = whole.len();
        let refused = (0..boundaries).filter(|cut| Batch::decode(&whole.slice(..*cut)).is_err()).count();
        // A cut between two records is a shorter batch: HTTP's content length tells that, not this format.
        assert!(refused >= boundaries - 6);
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = Reply::decode(&bytes);
            let mut framed = MAGIC.to_vec();
            framed.extend(&bytes);
            let _ = Reply::decode(&framed);
            let _ = Batch::decode(&Bytes::from(framed));
        }

        #[test]
        fn a_flipped_byte_never_panics(at in 0usize..2000, value in proptest::num::u8::ANY) {
            let mut bytes = batch().encode();
            let at = at % bytes.len();
            bytes[at] = value;
            let _ = Batch::decode(&Bytes::from(bytes));
        }
    }
}
