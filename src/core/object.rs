//! Objects: where they stand, what they are, and whether two of them are the same bytes.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

pub use super::key::hex;
use super::time::Timestamp;

/// Bytes of a key at most (S3).
pub const KEY_BYTES_MAX: usize = 1024;

/// Where an object stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Location {
    pub bucket: String,
    pub key: String,
}

impl Location {
    pub fn new(bucket: impl Into<String>, key: impl Into<String>) -> Self {
        Location { bucket: bucket.into(), key: key.into() }
    }

    /// Whether an object can stand here; says why not.
    ///
    /// # Errors
    /// A name that S3 refuses, or one that is a route of the `api` listener.
    pub fn check(&self) -> Result<(), &'static str> {
        check_bucket(&self.bucket)?;
        match self.key.len() {
            0 => Err("a key is not empty"),
            1..=KEY_BYTES_MAX => Ok(()),
            _ => Err("a key has at most 1024 bytes of UTF-8"),
        }
    }
}

/// First parts of paths that mean something else on the `api` listener.
pub const RESERVED_BUCKETS: [&str; 2] = ["v1", "peer"];

/// Whether a bucket can have this name, by the rules of S3's general purpose buckets.
///
/// # Errors
/// Says which rule it breaks.
pub fn check_bucket(name: &str) -> Result<(), &'static str> {
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    if RESERVED_BUCKETS.contains(&name) {
        return Err("`v1` and `peer` are no bucket names");
    }
    if !(3..=63).contains(&bytes.len()) {
        return Err("a bucket's name has 3 to 63 characters");
    }
    if !bytes.iter().all(|byte| known(*byte)) {
        return Err("a bucket's name has lower-case letters, digits, `-` and `.`");
    }
    if !end(bytes.first()) || !end(bytes.last()) {
        return Err("a bucket's name begins and ends with a letter or a digit");
    }
    if name.contains("..") {
        return Err("a bucket's name has no two dots in a row");
    }
    let is_number = |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    if name.split('.').count() == 4 && name.split('.').all(is_number) {
        return Err("a bucket's name is no IP address");
    }
    let prefixes = ["xn--", "sthree-", "amzn-s3-demo-"];
    let suffixes = ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"];
    if prefixes.iter().any(|prefix| name.starts_with(prefix)) || suffixes.iter().any(|suffix| name.ends_with(suffix)) {
        return Err("S3 keeps this beginning or end of a bucket's name to itself");
    }
    Ok(())
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}

/// A checksum over all bytes of an object. Its text is `kind:hex`, also on disk and between agents.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Checksum {
    Sha256([u8; 32]),
    Crc32c(u32),
    Crc32(u32),
    Crc64Nvme(u64),
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Checksum::Sha256(sum) => {
                f.write_str("sha256:")?;
                sum.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Checksum::Crc32c(sum) => write!(f, "crc32c:{sum:08x}"),
            Checksum::Crc32(sum) => write!(f, "crc32:{sum:08x}"),
            Checksum::Crc64Nvme(sum) => write!(f, "crc64nvme:{sum:016x}"),
        }
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Checksum {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sum = text.split_once(':').and_then(|(kind, hex)| match kind {
            "sha256" => unhex(hex).map(Checksum::Sha256),
            "crc32c" => unhex(hex).map(|sum| Checksum::Crc32c(u32::from_be_bytes(sum))),
            "crc32" => unhex(hex).map(|sum| Checksum::Crc32(u32::from_be_bytes(sum))),
            "crc64nvme" => unhex(hex).map(|sum| Checksum::Crc64Nvme(u64::from_be_bytes(sum))),
            _ => None,
        });
        sum.ok_or_else(|| format!("no checksum: {text}"))
    }
}

impl From<Checksum> for String {
    fn from(sum: Checksum) -> String {
        sum.to_string()
    }
}

impl TryFrom<String> for Checksum {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Exactly `N` bytes in hexadecimal digits.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// What is known of an object's bytes, at most one checksum of a kind. Never an ETag: that of an upload in parts, or of
/// an encrypted object, is no checksum of its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums(Vec<Checksum>);

impl Sums {
    /// Of one kind the first counts.
    pub fn of(sums: impl IntoIterator<Item = Checksum>) -> Self {
        let mut all = Sums::default();
        sums.into_iter().for_each(|sum| all.add(sum));
        all
    }

    pub fn add(&mut self, sum: Checksum) {
        if !self.0.iter().any(|known| std::mem::discriminant(known) == std::mem::discriminant(&sum)) {
            self.0.push(sum);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Checksum> {
        self.0.iter()
    }

    pub fn sha256(&self) -> Option<[u8; 32]> {
        self.0.iter().find_map(|sum| match sum {
            Checksum::Sha256(sum) => Some(*sum),
            _ => None,
        })
    }

    /// Whether both are sums of the same bytes; `None` where they have no kind in common.
    pub fn agree(&self, other: &Sums) -> Option<bool> {
        let mut common = None;
        for sum in &self.0 {
            for theirs in &other.0 {
                if std::mem::discriminant(sum) == std::mem::discriminant(theirs) {
                    common = Some(common.unwrap_or(true) && sum == theirs);
                }
            }
        }
        common
    }
}

/// What stands at a location.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    pub size: u64,
    pub sums: Sums,
    /// Pins this very object: what is read with it is this or nothing.
    pub version: String,
    pub modified: Timestamp,
    /// What goes with the object: `content-type`, `cache-control`, … and `x-amz-meta-…`, in lower case.
    pub attributes: BTreeMap<String, String>,
}

impl Stat {
    /// Whether both are the same bytes; `None` where their checksums do not tell.
    pub fn same_bytes(&self, other: &Stat) -> Option<bool> {
        if self.size != other.size {
            return Some(false);
        }
        if self.size == 0 {
            return Some(true);
        }
        self.sums.agree(&other.sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_agree_by_the_kinds_that_both_have() {
        let sha = |byte| Checksum::Sha256([byte; 32]);
        let both = Sums::of([sha(1), Checksum::Crc32c(7)]);
        assert_eq!(both.agree(&Sums::of([Checksum::Crc32c(7)])), Some(true));
        assert_eq!(both.agree(&Sums::of([Checksum::Crc32c(8)])), Some(false));
        assert_eq!(both.agree(&Sums::of([sha(1), Checksum::Crc32c(8)])), Some(false));
        assert_eq!(both.agree(&Sums::of([Checksum::Crc32(7)])), None);
        assert_eq!(Sums::default().agree(&both), None);
        assert_eq!(Sums::of([sha(1), sha(2)]).sha256(), Some([1; 32]));
    }

    #[test]
    fn checksums_have_a_text() {
        for sum in
            [Checksum::Sha256([0xab; 32]), Checksum::Crc32c(7), Checksum::Crc32(u32::MAX), Checksum::Crc64Nvme(1)]
        {
            assert_eq!(sum.to_string().parse(), Ok(sum));
        }
        for text in ["", "crc32", "crc32:7", "crc32:0000000g", "md5:00000000", "crc32c:000000000"] {
            assert!(text.parse::<Checksum>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_those_of_s3() {
        for name in ["abc", "payloads", "my.bucket-1", &"a".repeat(63)] {
            assert_eq!(check_bucket(name), Ok(()), "{name}");
        }
        let long = "a".repeat(64);
        for name in [
            "",
            "ab",
            "v1",
            "peer",
            &long,
            "-ab",
            "ab-",
            "a..b",
            "Abc",
            "a_b",
            "192.168.0.1",
            "xn--abc",
            "abc--x-s3",
            "a/b",
        ] {
            assert!(check_bucket(name).is_err(), "{name}");
        }
        for key in ["a", "/", "..", "a//b", "ключ 1", &"k".repeat(1024)] {
            assert_eq!(Location::new("abc", key).check(), Ok(()), "{key}");
        }
        assert!(Location::new("abc", "").check().is_err());
        assert!(Location::new("abc", "k".repeat(1025)).check().is_err());
    }

    #[test]
    fn sizes_tell_before_checksums_do() {
        let stat = |size, sums| Stat {
            size,
            sums,
            version: String::new(),
            modified: Timestamp::ZERO,
            attributes: BTreeMap::new(),
        };
        assert_eq!(stat(0, Sums::default()).same_bytes(&stat(0, Sums::default())), Some(true));
        assert_eq!(stat(1, Sums::default()).same_bytes(&stat(2, Sums::default())), Some(false));
        assert_eq!(stat(1, Sums::default()).same_bytes(&stat(1, Sums::default())), None);
    }
}
