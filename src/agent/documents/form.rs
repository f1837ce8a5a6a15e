//! Rows and items as bytes: one byte for the form, then postcard.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::core::state::delta::Unreadable;

const VERSION: u8 = 1;

pub fn encode<T: Serialize>(value: &T) -> Bytes {
    encode_as(VERSION, value)
}

/// As another form, which builds that do not know it refuse to read.
pub fn encode_as<T: Serialize>(version: u8, value: &T) -> Bytes {
    // Nothing of it can fail: there is room, and every length is known.
    postcard::to_extend(value, vec![version]).unwrap_or_default().into()
}

/// # Errors
/// Bytes of another form, or none of this type.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Unreadable> {
    decode_as(VERSION, bytes)
}

/// # Errors
/// As [`decode`].
pub fn decode_as<T: DeserializeOwned>(version: u8, bytes: &[u8]) -> Result<T, Unreadable> {
    match bytes.split_first() {
        Some((known, rest)) if *known == version => {
            postcard::from_bytes(rest).map_err(|error| Unreadable::Damaged(error.to_string()))
        }
        Some((other, _)) => Err(Unreadable::Version(*other)),
        None => Err(Unreadable::Damaged("it is empty".to_owned())),
    }
}
