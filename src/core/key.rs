//! What names a business event, and what says whether two events of one name are the same.
//!
//! The **ledger key** is (source, detail-type, idempotency key): one request's key is commonly copied into several
//! event types. It is kept as a hash of fixed size, so that a ledger of a billion entries stays affordable.
//! The **payload hash** is computed once, at the region where the event was published, and travels in the stamp.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The first 16 bytes of SHA-256 over (source, detail-type, idempotency key), each length-prefixed.
///
/// 128 bits: the chance that any two of 10^12 keys collide is below 2^-49 (birthday bound), and finding a collision on
/// purpose costs 2^64 hashes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyHash(pub [u8; 16]);

impl KeyHash {
    pub fn of(source: &str, detail_type: &str, key: &str) -> Self {
        let mut hasher = Sha256::new();
        for part in [source, detail_type, key] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        let digest = hasher.finalize();
        let mut short = [0; 16];
        short.copy_from_slice(&digest[..16]);
        KeyHash(short)
    }

    /// Of exactly 32 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = <&[u8; 32]>::try_from(text.as_bytes()).ok()?;
        let mut short = [0; 16];
        for (byte, pair) in short.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |digit: u8| char::from(digit).to_digit(16);
            *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
        }
        Some(KeyHash(short))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// SHA-256 of an event's source, detail-type and canonical detail, without stamp and claim-check references.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PayloadHash(pub [u8; 32]);

impl fmt::Debug for PayloadHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Display for PayloadHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// Two digits a byte, in lower case.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]).collect()
}
