//! The bytes of a run file, version 1. Integers are little-endian unless they are key prefixes.
//!
//! ```text
//! page 0        header: magic 8, version 4, CRC of those 4; zeros
//! filter pages  63 filter lines of 64 bytes, zeros to 4092, CRC 4
//! fence pages   511 fences of 8 bytes (the leading 8 bytes, as a number, of each block's first key), zeros, CRC 4
//! blocks        up to 128 rows of 48 bytes (key 16, payload 16, offset 8, accepted 8), CRC 4
//! footer        80 bytes, see `Footer`
//! ```
//! Filter and fences come before the blocks, with room for `capacity` rows, so that all three are written as streams
//! at the same time. A merge that drops rows leaves some of that room unused. Each CRC also covers the number of its
//! page or block, so bytes that a disk put or fetched at the wrong place are noticed.

use std::time::Duration;

use super::{Entry, Error, filter};
use crate::core::{key::KeyHash, time::Timestamp};

pub(super) const MAGIC: [u8; 8] = *b"HWLEDGER";
pub(super) const VERSION: u32 = 1;

/// The header's meaning up to here is the same in every version, so that any program can name the version it refuses.
pub(super) const HEADER_BYTES: usize = 16;
pub(super) const PAGE_BYTES: usize = 4096;
const PAGE_PAYLOAD: usize = PAGE_BYTES - 4;
pub(super) const LINES_PER_PAGE: u64 = 63;
pub(super) const FILTER_PAYLOAD: usize = LINES_PER_PAGE as usize * filter::LINE_BYTES;
pub(super) const FENCES_PER_PAGE: u64 = 511;
pub(super) const ROW_BYTES: usize = 48;
pub(super) const BLOCK_ROWS: u64 = 128;
pub(super) const BLOCK_BYTES: u64 = BLOCK_ROWS * ROW_BYTES as u64 + 4;
pub(super) const FOOTER_BYTES: usize = 80;

/// More than any disk holds; keeps the arithmetic on positions from overflowing.
const ROWS_MAX: u64 = 1 << 48;

/// The key's leading eight bytes as a number that sorts as the key does.
pub(super) fn prefix(key: &KeyHash) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&key.0[..8]);
    u64::from_be_bytes(bytes)
}

/// CRC-32 of a page's or block's number and bytes.
pub(super) fn crc(number: u64, data: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(data);
    hasher.finalize()
}

/// Splits off the last four bytes and checks them against the rest.
pub(super) fn checked(number: u64, data: &[u8]) -> Option<&[u8]> {
    let (rest, sum) = data.split_last_chunk::<4>()?;
    (u32::from_le_bytes(*sum) == crc(number, rest)).then_some(rest)
}

/// Appends page `number` with `payload`, zeros and CRC.
pub(super) fn push_page(into: &mut Vec<u8>, number: u64, payload: &[u8]) {
    let start = into.len();
    into.extend_from_slice(payload);
    into.resize(start + PAGE_PAYLOAD, 0);
    let sum = crc(number, &into[start..]);
    into.extend_from_slice(&sum.to_le_bytes());
}

pub(super) fn header() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PAGE_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    let sum = crc(0, &bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes.resize(PAGE_BYTES, 0);
    bytes
}

/// Refuses what no ledger wrote, and versions other than [`VERSION`].
pub(super) fn check_header(bytes: &[u8], file: &str) -> Result<(), Error> {
    let Some(start) = bytes.get(..HEADER_BYTES).and_then(|header| checked(0, header)) else {
        return Err(Error::corrupt(file, "its first 16 bytes are not a run's header"));
    };
    if start[..8] != MAGIC {
        return Err(Error::corrupt(file, "it does not begin with HWLEDGER"));
    }
    match u32_at(start, 8) {
        VERSION => Ok(()),
        found => Err(Error::Version { file: file.to_owned(), found, supported: VERSION }),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) key: KeyHash,
    pub(super) entry: Entry,
}

impl Row {
    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.key.0);
        into.extend_from_slice(&self.entry.payload);
        into.extend_from_slice(&self.entry.offset.to_le_bytes());
        into.extend_from_slice(&self.entry.accepted.0.to_le_bytes());
    }

    pub(super) fn decode(bytes: &[u8; ROW_BYTES]) -> Row {
        let mut payload = [0; 16];
        payload.copy_from_slice(&bytes[16..32]);
        let accepted = Timestamp(u64_at(bytes, 40));
        Row { key: key_of(bytes), entry: Entry { payload, offset: u64_at(bytes, 32), accepted } }
    }
}

pub(super) fn key_of(row: &[u8; ROW_BYTES]) -> KeyHash {
    let mut key = [0; 16];
    key.copy_from_slice(&row[..16]);
    KeyHash(key)
}

/// Which flushes a run holds, from `low` to `high`, and with it the name of its file. See the ledger's documentation
/// for what follows from one span lying within another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    pub(super) low: u64,
    pub(super) high: u64,
}

impl Span {
    pub(super) fn run_name(self) -> String {
        format!("{:016x}-{:016x}.run", self.low, self.high)
    }

    pub(super) fn temp_name(self) -> String {
        format!("{:016x}-{:016x}.tmp", self.low, self.high)
    }

    /// `None` for every other name, including other spellings of a run's name.
    pub(super) fn parse(name: &str) -> Option<Span> {
        let (low, high) = name.strip_suffix(".run")?.split_once('-')?;
        let span = Span { low: u64::from_str_radix(low, 16).ok()?, high: u64::from_str_radix(high, 16).ok()? };
        (span.low <= span.high && span.run_name() == name).then_some(span)
    }

    pub(super) fn within(self, other: Span) -> bool {
        other.low <= self.low && self.high <= other.high
    }

    pub(super) fn overlaps(self, other: Span) -> bool {
        self.low <= other.high && other.low <= self.high
    }
}

/// magic 8, version 4, zeros 4, then the fields in this order, zeros 4, CRC 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) span: Span,
    /// How many rows filter and fences have room for.
    pub(super) capacity: u64,
    pub(super) rows: u64,
    /// Earliest acceptance of a row; `u64::MAX` without rows.
    pub(super) accepted_min: Timestamp,
    /// Latest acceptance of a row; 0 without rows.
    pub(super) accepted_max: Timestamp,
    /// Every log record up to here is in this run or older ones.
    pub(super) covered: u64,
}

impl Footer {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FOOTER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&u64::from(VERSION).to_le_bytes());
        let Footer { span, capacity, rows, accepted_min, accepted_max, covered } = *self;
        for field in [span.low, span.high, capacity, rows, accepted_min.0, accepted_max.0, covered] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.resize(FOOTER_BYTES - 4, 0);
        let sum = crc(span.low, &bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// `span` is what the file's name says.
    pub(super) fn decode(bytes: &[u8], span: Span, file: &str) -> Result<Footer, Error> {
        if bytes.len() != FOOTER_BYTES || checked(span.low, bytes).is_none() || bytes[..8] != MAGIC {
            return Err(Error::corrupt(file, "its footer's checksum does not fit"));
        }
        let field = |number: usize| u64_at(bytes, 16 + 8 * number);
        let footer = Footer {
            span: Span { low: field(0), high: field(1) },
            capacity: field(2),
            rows: field(3),
            accepted_min: Timestamp(field(4)),
            accepted_max: Timestamp(field(5)),
            covered: field(6),
        };
        if footer.span != span {
            return Err(Error::corrupt(file, format!("its footer calls it {}", footer.span.run_name())));
        }
        if footer.rows > footer.capacity || footer.capacity > ROWS_MAX {
            let what = format!("its footer says {} rows with room for {}", footer.rows, footer.capacity);
            return Err(Error::corrupt(file, what));
        }
        Ok(footer)
    }

    /// Whether no row lives at `now` any more.
    pub(super) fn is_expired(&self, now: Timestamp, retention: Duration) -> bool {
        self.rows == 0 || self.accepted_max.plus(retention) <= now
    }
}

/// Where things lie in a file with room for `capacity` rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) lines: u64,
    pub(super) filter_pages: u64,
    pub(super) fence_pages: u64,
}

impl Layout {
    pub(super) fn of(capacity: u64) -> Layout {
        let lines = filter::lines(capacity);
        Layout {
            lines,
            filter_pages: lines.div_ceil(LINES_PER_PAGE),
            fence_pages: capacity.div_ceil(BLOCK_ROWS).div_ceil(FENCES_PER_PAGE),
        }
    }

    /// The file's page that is the filter's page `number`.
    pub(super) fn filter_page(&self, number: u64) -> u64 {
        1 + number
    }

    pub(super) fn fence_page(&self, number: u64) -> u64 {
        1 + self.filter_pages + number
    }

    /// Position in bytes; `number` may be one past the last block.
    pub(super) fn block_at(&self, number: u64) -> u64 {
        (1 + self.filter_pages + self.fence_pages) * PAGE_BYTES as u64 + number * BLOCK_BYTES
    }

    /// Position in bytes of the footer behind `rows` rows.
    pub(super) fn footer_at(&self, rows: u64) -> u64 {
        self.block_at(0) + rows * ROW_BYTES as u64 + rows.div_ceil(BLOCK_ROWS) * 4
    }

    pub(super) fn file_bytes(&self, rows: u64) -> u64 {
        self.footer_at(rows) + FOOTER_BYTES as u64
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}
