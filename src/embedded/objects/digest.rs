//! Checksums of bytes as they pass.

use crc_fast::CrcAlgorithm;
use md5::Md5;
use sha2::{Digest, Sha256};

use crate::{
    core::object::{Checksum, Sums, hex},
    ports::store::{Crc, Expected},
};

/// Checksums under way.
pub struct Running {
    size: u64,
    /// For the ETag, where the bytes come in one piece.
    md5: Option<Md5>,
    sha256: Sha256,
    crcs: Vec<(Crc, crc_fast::Digest)>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Digested {
    pub size: u64,
    /// Zeros where it was not asked for.
    pub md5: [u8; 16],
    pub sums: Sums,
}

impl Running {
    pub fn new(md5: bool, kinds: impl IntoIterator<Item = Crc>) -> Self {
        let mut crcs: Vec<(Crc, crc_fast::Digest)> = Vec::new();
        for kind in kinds {
            let algorithm = match kind {
                Crc::Crc32 => CrcAlgorithm::Crc32IsoHdlc,
                Crc::Crc32c => CrcAlgorithm::Crc32Iscsi,
                Crc::Crc64Nvme => CrcAlgorithm::Crc64Nvme,
            };
            if crcs.iter().all(|(known, _)| *known != kind) {
                crcs.push((kind, crc_fast::Digest::new(algorithm)));
            }
        }
        Running { size: 0, md5: md5.then(Md5::new), sha256: Sha256::new(), crcs }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        self.sha256.update(bytes);
        for (_, crc) in &mut self.crcs {
            crc.update(bytes);
        }
    }

    pub fn finish(self) -> Digested {
        let mut sums = Sums::of([Checksum::Sha256(self.sha256.finalize().into())]);
        for (kind, crc) in self.crcs {
            let value = crc.finalize();
            // The digest answers 64 bits for each kind; of 32-bit kinds the upper half is 0.
            let low = value as u32;
            sums.add(match kind {
                Crc::Crc32 => Checksum::Crc32(low),
                Crc::Crc32c => Checksum::Crc32c(low),
                Crc::Crc64Nvme => Checksum::Crc64Nvme(value),
            });
        }
        Digested { size: self.size, md5: self.md5.map(|md5| md5.finalize().into()).unwrap_or_default(), sums }
    }
}

impl Digested {
    /// Whether this is what was announced; `late` is what came behind the bytes.
    ///
    /// # Errors
    /// Says what differs.
    pub fn check(&self, expected: &Expected, late: &Sums) -> Result<(), String> {
        if let Some(size) = expected.size.filter(|size| *size != self.size) {
            return Err(format!("{} bytes instead of {size}", self.size));
        }
        if let Some(md5) = expected.md5.filter(|md5| *md5 != self.md5) {
            return Err(format!("the MD5 is {}, not {}", hex(&self.md5), hex(&md5)));
        }
        for sum in expected.sums.iter().chain(late.iter()) {
            if self.sums.agree(&Sums::of([*sum])) != Some(true) {
                return Err(format!("{sum} is not its checksum"));
            }
        }
        Ok(())
    }
}

/// Whether the checksums of parts make up what is said of them together.
///
/// # Errors
/// Says what differs.
pub fn of_parts<'a>(expected: &Sums, parts: impl Iterator<Item = &'a Sums> + Clone) -> Result<(), String> {
    for sum in expected.iter() {
        let mut running = Running::new(false, Crc::of(sum));
        for part in parts.clone() {
            let same_kind = |known: &&Checksum| std::mem::discriminant(*known) == std::mem::discriminant(sum);
            match part
                .iter()
                .find(same_kind)
                .ok_or_else(|| format!("{sum}: its kind was not computed for each part"))?
            {
                Checksum::Sha256(sum) => running.update(sum),
                Checksum::Crc32(sum) | Checksum::Crc32c(sum) => running.update(&sum.to_be_bytes()),
                Checksum::Crc64Nvme(sum) => running.update(&sum.to_be_bytes()),
            }
        }
        if running.finish().sums.agree(&Sums::of([*sum])) != Some(true) {
            return Err(format!("{sum} is not the checksum of the parts' checksums"));
        }
    }
    Ok(())
}

/// The kinds to compute for what is expected.
pub fn kinds(expected: &Expected) -> Vec<Crc> {
    expected.sums.iter().filter_map(Crc::of).chain(expected.kinds.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_the_known_ones_of_the_standard_text() {
        let mut running = Running::new(true, [Crc::Crc32, Crc::Crc32c, Crc::Crc64Nvme, Crc::Crc32]);
        running.update(b"12345");
        running.update(b"6789");
        let digested = running.finish();
        assert_eq!(digested.size, 9);
        assert_eq!(hex(&digested.md5), "25f9e794323b453885f5181f1b624d0b");
        let texts: Vec<String> = digested.sums.iter().map(Checksum::to_string).collect();
        assert_eq!(
            texts,
            [
                "sha256:15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
                "crc32:cbf43926",
                "crc32c:e3069283",
                "crc64nvme:ae8b14860a799888",
            ]
        );
    }
}
