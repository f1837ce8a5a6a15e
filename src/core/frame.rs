//! Frames: how records stand one after the other, in the log and in a batch.
//!
//! ```text
//! length u32 | crc32 u32 | kind u8 | payload (length - 1 bytes)        little endian; the CRC covers kind and payload
//! ```
//!
//! A length of 0 ends a run: room that was set aside reads as zeros.

use bytes::{BufMut, Bytes};

/// Bytes before the kind.
pub const PREFIX_BYTES: usize = 8;

/// No frame is longer; a larger length is garbage.
pub const FRAME_BYTES_MAX: usize = 256 << 20;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An [`event::Record`](super::event::Record).
    Event,
    /// A change of what the region keeps besides events.
    Change,
    /// All that the region keeps besides events; the first frame of every log segment.
    Snapshot,
    /// Its own position in the segment (u64): everything before it was synced when this was written. First of every
    /// group, so that recovery can tell a torn tail (never acknowledged) from rot (acknowledged).
    Sync,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        match byte {
            1 => Some(Kind::Event),
            2 => Some(Kind::Change),
            3 => Some(Kind::Snapshot),
            4 => Some(Kind::Sync),
            _ => None,
        }
    }

    fn byte(self) -> u8 {
        match self {
            Kind::Event => 1,
            Kind::Change => 2,
            Kind::Snapshot => 3,
            Kind::Sync => 4,
        }
    }
}

/// Appends a frame whose payload `write` appends; answers what `write` answers.
pub fn put<T>(out: &mut Vec<u8>, kind: Kind, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let start = out.len();
    out.put_u64_le(0);
    out.put_u8(kind.byte());
    let answer = write(out);
    let body = start + PREFIX_BYTES;
    let length = (out.len() - body) as u32;
    let crc = crc32fast::hash(&out[body..]);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..body].copy_from_slice(&crc.to_le_bytes());
    answer
}

/// What stands at the front of some bytes.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// A whole frame of `size` bytes, prefix included.
    Frame { kind: Kind, payload: Bytes, size: usize },
    /// The bytes stop within a frame that needs `size` bytes (or within its prefix: 0).
    Partial { size: usize },
    /// Nothing, or zeros: nothing was written here.
    End,
    /// Neither a frame nor its absence.
    Garbage(&'static str),
}

/// Reads the frame at `position` of `bytes` without copying.
pub fn step(bytes: &Bytes, position: usize) -> Step {
    let rest = bytes.get(position..).unwrap_or_default();
    let Some(prefix) = rest.get(..PREFIX_BYTES) else {
        return if rest.iter().all(|byte| *byte == 0) { Step::End } else { Step::Partial { size: 0 } };
    };
    let word = |at: usize| u32::from_le_bytes([prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]]);
    let length = word(0) as usize;
    if length == 0 {
        return if word(4) == 0 { Step::End } else { Step::Garbage("a checksum without a length") };
    }
    if length > FRAME_BYTES_MAX {
        return Step::Garbage("a length beyond the limit");
    }
    let size = PREFIX_BYTES + length;
    let Some(body) = rest.get(PREFIX_BYTES..size) else {
        return Step::Partial { size };
    };
    if crc32fast::hash(body) != word(4) {
        return Step::Garbage("the checksum does not fit");
    }
    match Kind::from_byte(body[0]) {
        Some(kind) => Step::Frame { kind, payload: bytes.slice(position + PREFIX_BYTES + 1..position + size), size },
        None => Step::Garbage("an unknown kind of frame"),
    }
}

/// Whether a whole [`Kind::Sync`] frame that names its own position stands anywhere at or after `position`.
pub fn has_sync_after(bytes: &Bytes, position: usize) -> bool {
    // A sync frame is 17 bytes: length 9, CRC, kind 4, position.
    (position..bytes.len().saturating_sub(16)).any(|at| {
        bytes[at..at + 4] == [9, 0, 0, 0]
            && matches!(step(bytes, at), Step::Frame { kind: Kind::Sync, payload, .. }
                if payload[..] == (at as u64).to_le_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_read_back_in_order_and_zeros_end_them() {
        let mut out = Vec::new();
        put(&mut out, Kind::Event, |out| out.put_slice(b"one"));
        put(&mut out, Kind::Change, |_| {});
        out.resize(out.len() + 20, 0);
        let bytes = Bytes::from(out);
        let Step::Frame { kind: Kind::Event, payload, size } = step(&bytes, 0) else { panic!() };
        assert_eq!(&payload[..], b"one");
        let Step::Frame { kind: Kind::Change, payload, size: second } = step(&bytes, size) else { panic!() };
        assert!(payload.is_empty());
        assert_eq!(step(&bytes, size + second), Step::End);
    }

    #[test]
    fn a_cut_or_flipped_frame_is_never_taken_for_whole() {
        let mut out = Vec::new();
        put(&mut out, Kind::Event, |out| out.put_slice(b"payload"));
        for cut in 1..out.len() {
            let cut = Bytes::copy_from_slice(&out[..cut]);
            assert!(matches!(step(&cut, 0), Step::Partial { .. }), "{cut:?}");
        }
        for position in 0..out.len() {
            let mut flipped = out.clone();
            flipped[position] ^= 1;
            assert!(!matches!(step(&Bytes::from(flipped), 0), Step::Frame { .. }), "{position}");
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64), at in 0usize..70) {
            let _ = step(&Bytes::from(bytes), at);
        }
    }
}
