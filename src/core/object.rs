//! Objects: where they stand, what they are, and whether two of them are the same bytes.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

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
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}

/// A checksum over all bytes of an object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Checksum {
    Sha256([u8; 32]),
    Crc32c(u32),
    Crc32(u32),
    Crc64Nvme(u64),
}

impl fmt::Debug for Checksum {
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
