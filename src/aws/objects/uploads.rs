//! Uploads in parts, which go on where they were.
//!
//! # The problem
//! Whoever goes on with an upload, perhaps another agent, must know that its parts are of the very bytes that it has. S3
//! lists uploads by key and parts by number; what an upload was begun with it tells nobody before it is finished.
//!
//! # The method
//! The first thing in an upload is a *marker*: the last part that S3 knows, [`MARKER`], whose bytes are the tag. Its size and
//! checksum are in the list of parts, so any agent finds the upload of a tag, and nobody keeps anything. The object is made
//! of the parts that are named when it is finished; a part that is not named goes away, and so does the marker. An upload
//! whose beginner died before its marker was there is nobody's, and the bucket's lifecycle rule removes it.
//!
//! # What is compared
//! An upload is begun with a checksum over the whole object, of a kind that was announced (CRC-64/NVME if none was), and S3
//! compares it when the object is made. Of SHA-256 S3 knows no such sum for parts: where nothing else was announced, the
//! object is read back once and removed if it is not what was announced. No event leads there yet.

use std::{cmp::Reverse, collections::BTreeMap};

use aws_sdk_s3::{
    primitives::ByteStream,
    types::{ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart, MultipartUpload, Part},
};
use crc_fast::{CrcAlgorithm, checksum};
use futures::TryStreamExt;
use sha2::{Digest, Sha256};

use super::{S3Objects, body, meta, refused, status};
use crate::ports::objects::{Announced, Body, Checksum, Error, Location, Stat, Sums, Upload};

/// S3 numbers parts from 1 up to this. An upload that has so many parts of its own is finished like any other, but is not
/// gone on with.
const MARKER: u32 = 10_000;

/// Uploads of one key that are looked at, the youngest first: agents of one region begin the same one at most once each.
const UPLOADS_LOOKED: usize = 16;

/// Between the kind of checksum and S3's id in an [`Upload`]'s.
const KIND_END: char = '/';

/// The kind of checksum that an upload is begun with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Crc64Nvme,
    Crc32c,
    Crc32,
}

impl Kind {
    /// The one that S3 can compare in the end.
    fn of(sums: &Sums) -> Kind {
        let mut kind = Kind::Crc64Nvme;
        for sum in sums.iter() {
            kind = match sum {
                Checksum::Sha256(_) => continue,
                Checksum::Crc64Nvme(_) => return Kind::Crc64Nvme,
                Checksum::Crc32c(_) => Kind::Crc32c,
                Checksum::Crc32(_) if kind == Kind::Crc64Nvme => Kind::Crc32,
                Checksum::Crc32(_) => continue,
            };
        }
        kind
    }

    fn word(self) -> &'static str {
        match self {
            Kind::Crc64Nvme => "crc64nvme",
            Kind::Crc32c => "crc32c",
            Kind::Crc32 => "crc32",
        }
    }

    fn algorithm(self) -> ChecksumAlgorithm {
        match self {
            Kind::Crc64Nvme => ChecksumAlgorithm::Crc64Nvme,
            Kind::Crc32c => ChecksumAlgorithm::Crc32C,
            Kind::Crc32 => ChecksumAlgorithm::Crc32,
        }
    }

    /// The announced sum of this kind.
    fn find(self, sums: &Sums) -> Option<&Checksum> {
        sums.iter().find(|sum| match sum {
            Checksum::Crc64Nvme(_) => self == Kind::Crc64Nvme,
            Checksum::Crc32c(_) => self == Kind::Crc32c,
            Checksum::Crc32(_) => self == Kind::Crc32,
            Checksum::Sha256(_) => false,
        })
    }

    /// As S3 writes it.
    fn over(self, bytes: &[u8]) -> String {
        let sum = |algorithm| checksum(algorithm, bytes);
        let of_32 = |sum: u64| u32::try_from(sum).unwrap_or_default();
        meta::written(&match self {
            Kind::Crc64Nvme => Checksum::Crc64Nvme(sum(CrcAlgorithm::Crc64Nvme)),
            Kind::Crc32c => Checksum::Crc32c(of_32(sum(CrcAlgorithm::Crc32Iscsi))),
            Kind::Crc32 => Checksum::Crc32(of_32(sum(CrcAlgorithm::Crc32IsoHdlc))),
        })
    }

    /// Whether a part of a list is the marker of this tag.
    fn marks(self, part: &Part, tag: &str) -> bool {
        let sum = match self {
            Kind::Crc64Nvme => part.checksum_crc64_nvme(),
            Kind::Crc32c => part.checksum_crc32_c(),
            Kind::Crc32 => part.checksum_crc32(),
        };
        let size = i64::try_from(tag.len()).unwrap_or(i64::MAX);
        part.part_number() == Some(number(MARKER))
            && part.size() == Some(size)
            && sum == Some(self.over(tag.as_bytes()).as_str())
    }
}

/// What an [`Upload`]'s id says. One that says nothing is of nobody.
fn id(upload: &Upload) -> Result<(Kind, &str), Error> {
    let (word, id) = upload.id.split_once(KIND_END).ok_or(Error::Gone)?;
    let kind = [Kind::Crc64Nvme, Kind::Crc32c, Kind::Crc32].into_iter().find(|kind| kind.word() == word);
    Ok((kind.ok_or(Error::Gone)?, id))
}

fn upload_of(kind: Kind, id: &str, parts: BTreeMap<u32, u64>) -> Upload {
    Upload { id: format!("{}{KIND_END}{id}", kind.word()), parts }
}

fn number(part: u32) -> i32 {
    i32::try_from(part).unwrap_or(i32::MAX)
}

impl S3Objects {
    pub(super) async fn begin_now(&self, at: &Location, announced: &Announced, tag: &str) -> Result<Upload, Error> {
        let kind = Kind::of(&announced.sums);
        for id in self.begun(at, kind).await? {
            match self.parts(at, &id, MARKER - 1).await {
                Ok(parts) if parts.iter().any(|part| kind.marks(part, tag)) => {}
                // Another tag, or it was finished meanwhile.
                Ok(_) | Err(Error::Gone) => continue,
                Err(error) => return Err(error),
            }
            let parts = self.parts(at, &id, 0).await?;
            let sizes = parts.iter().filter_map(|part| {
                let number = u32::try_from(part.part_number()?).ok().filter(|number| *number != MARKER)?;
                Some((number, u64::try_from(part.size()?).ok()?))
            });
            return Ok(upload_of(kind, &id, sizes.collect()));
        }
        let request = self
            .s3
            .create_multipart_upload()
            .bucket(&at.bucket)
            .key(&at.key)
            .checksum_algorithm(kind.algorithm())
            .checksum_type(ChecksumType::FullObject);
        let request = meta::upload_with_attributes(request, &announced.attributes);
        let begun = request.customize().config_override(self.within(0)).send().await;
        let begun = begun.map_err(|error| refused(&error))?;
        let upload = upload_of(kind, begun.upload_id().unwrap_or_default(), BTreeMap::new());
        self.send_part(at, &upload, MARKER, tag.len() as u64, ByteStream::from(tag.as_bytes().to_vec())).await?;
        Ok(upload)
    }

    /// Ids of the uploads of this key, the youngest first.
    async fn begun(&self, at: &Location, kind: Kind) -> Result<Vec<String>, Error> {
        // In the order of keys, so this key's own come first.
        let request = self.s3.list_multipart_uploads().bucket(&at.bucket).prefix(&at.key);
        let found = request.customize().config_override(self.within(0)).send().await;
        let found = found.map_err(|error| refused(&error))?;
        let fits = |upload: &&MultipartUpload| {
            let same_kind = upload.checksum_algorithm().is_none_or(|algorithm| *algorithm == kind.algorithm());
            upload.key() == Some(at.key.as_str()) && same_kind
        };
        let mut uploads: Vec<&MultipartUpload> = found.uploads().iter().filter(fits).collect();
        uploads.sort_by_key(|upload| Reverse(meta::timestamp(upload.initiated())));
        let ids = uploads.into_iter().filter_map(|upload| upload.upload_id().map(str::to_owned));
        Ok(ids.take(UPLOADS_LOOKED).collect())
    }

    /// The parts after this number.
    async fn parts(&self, at: &Location, id: &str, after: u32) -> Result<Vec<Part>, Error> {
        let mut parts = Vec::new();
        let mut marker = after.to_string();
        loop {
            let request = self.s3.list_parts().bucket(&at.bucket).key(&at.key).upload_id(id).part_number_marker(marker);
            let page = request.customize().config_override(self.within(0)).send().await;
            let page = page.map_err(|error| refused(&error))?;
            let is_last = page.is_truncated() != Some(true);
            let next = page.next_part_number_marker().map(str::to_owned);
            parts.extend(page.parts.unwrap_or_default());
            match next {
                Some(next) if !is_last => marker = next,
                _ => return Ok(parts),
            }
        }
    }

    pub(super) async fn put_part_now(
        &self,
        at: &Location,
        upload: &Upload,
        number: u32,
        size: u64,
        body: Body,
    ) -> Result<(), Error> {
        let (bytes, fault) = body::to_send(size, body).await?;
        let sent = self.send_part(at, upload, number, size, bytes).await;
        sent.map_err(|error| fault.take().unwrap_or(error))
    }

    async fn send_part(
        &self,
        at: &Location,
        upload: &Upload,
        part: u32,
        size: u64,
        bytes: ByteStream,
    ) -> Result<(), Error> {
        let (kind, id) = id(upload)?;
        let request = self
            .s3
            .upload_part()
            .bucket(&at.bucket)
            .key(&at.key)
            .upload_id(id)
            .part_number(number(part))
            .content_length(i64::try_from(size).unwrap_or(i64::MAX))
            // Computed as the bytes go out, and sent behind them.
            .checksum_algorithm(kind.algorithm())
            .body(bytes);
        let sent = request.customize().config_override(self.within(size)).send().await;
        sent.map(drop).map_err(|error| refused(&error))
    }

    pub(super) async fn finish_now(
        &self,
        at: &Location,
        upload: &Upload,
        parts: u32,
        announced: Announced,
    ) -> Result<Stat, Error> {
        let finished = self.try_finish(at, upload, parts, announced).await;
        if let Err(Error::Damaged(_) | Error::Exists) = &finished {
            // It will never be an object; where this fails, the bucket's lifecycle rule removes it.
            if let Err(error) = self.abort_now(at, upload).await {
                tracing::debug!(%at, %error, "an upload in parts is left over");
            }
        }
        finished
    }

    async fn try_finish(
        &self,
        at: &Location,
        upload: &Upload,
        parts: u32,
        announced: Announced,
    ) -> Result<Stat, Error> {
        let (kind, id) = id(upload)?;
        let there = self.parts(at, id, 0).await?;
        let mut size = 0;
        let mut named = Vec::with_capacity(parts as usize);
        for part in there.iter().filter(|part| part.part_number().is_some_and(|found| found <= number(parts))) {
            size += part.size().and_then(|size| u64::try_from(size).ok()).unwrap_or_default();
            let completed = CompletedPart::builder().set_part_number(part.part_number()).set_e_tag(part.e_tag.clone());
            named.push(completed.build());
        }
        if named.len() as u64 != u64::from(parts) || size != announced.size {
            let (found, wanted) = (named.len(), announced.size);
            return Err(Error::Damaged(format!("{found} of {parts} parts with {size} of {wanted} bytes")));
        }
        let compared = kind.find(&announced.sums).map(meta::written);
        let of = |wanted| compared.clone().filter(|_| kind == wanted);
        let request = self
            .s3
            .complete_multipart_upload()
            .bucket(&at.bucket)
            .key(&at.key)
            .upload_id(id)
            .if_none_match("*")
            .set_checksum_type(compared.as_ref().map(|_| ChecksumType::FullObject))
            .set_checksum_crc64_nvme(of(Kind::Crc64Nvme))
            .set_checksum_crc32_c(of(Kind::Crc32c))
            .set_checksum_crc32(of(Kind::Crc32))
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(named)).build());
        let made = match request.customize().config_override(self.within(size)).send().await {
            Ok(made) => made,
            Err(error) => return Err(self.not_written(at, &error).await),
        };
        let mut sums = meta::sums_of_upload(&made);
        let version = meta::version(made.version_id(), made.e_tag());
        if let (None, Some(wanted)) = (&compared, announced.sums.sha256()) {
            self.read_back(at, &version, size, wanted, made.e_tag()).await?;
            sums.add(Checksum::Sha256(wanted));
        }
        Ok(Stat { size, sums, version, modified: self.clock.now(), attributes: announced.attributes })
    }

    /// Compares what S3 could not; what does not fit is removed.
    async fn read_back(
        &self,
        at: &Location,
        version: &str,
        size: u64,
        wanted: [u8; 32],
        etag: Option<&str>,
    ) -> Result<(), Error> {
        let mut body = self.read_now(at, version, 0..size).await?;
        let mut hasher = Sha256::new();
        while let Some(piece) = body.try_next().await? {
            hasher.update(&piece);
        }
        if <[u8; 32]>::from(hasher.finalize()) == wanted {
            return Ok(());
        }
        let removed = self.s3.delete_object().bucket(&at.bucket).key(&at.key).set_if_match(etag.map(str::to_owned));
        if let Err(error) = removed.customize().config_override(self.within(0)).send().await {
            tracing::warn!(%at, error = %refused(&error), "an object that is not what was sent could not be removed");
        }
        Err(Error::Damaged("what was put together has another SHA-256".to_owned()))
    }

    pub(super) async fn abort_now(&self, at: &Location, upload: &Upload) -> Result<(), Error> {
        let Ok((_, id)) = id(upload) else { return Ok(()) };
        let request = self.s3.abort_multipart_upload().bucket(&at.bucket).key(&at.key).upload_id(id);
        match request.customize().config_override(self.within(0)).send().await {
            Ok(_) => Ok(()),
            Err(error) if status(&error) == Some(404) => Ok(()),
            Err(error) => Err(refused(&error)),
        }
    }

    /// Copies a range of another object into a part.
    pub(super) async fn copy_part(
        &self,
        at: &Location,
        upload: &Upload,
        part: u32,
        source: &super::copy::Source,
        range: std::ops::Range<u64>,
    ) -> Result<(), Error> {
        let (_, id) = id(upload)?;
        let request = self
            .s3
            .upload_part_copy()
            .bucket(&at.bucket)
            .key(&at.key)
            .upload_id(id)
            .part_number(number(part))
            .copy_source(&source.path)
            .set_copy_source_if_match(source.etag.clone())
            .copy_source_range(format!("bytes={}-{}", range.start, range.end - 1));
        let copied = request.customize().config_override(self.within(range.end - range.start)).send().await;
        copied.map(drop).map_err(|error| super::gone_if_changed(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_is_begun_with_the_checksum_that_can_be_compared_in_the_end() {
        let sha = Checksum::Sha256([1; 32]);
        for (sums, kind) in [
            (vec![], Kind::Crc64Nvme),
            (vec![sha], Kind::Crc64Nvme),
            (vec![sha, Checksum::Crc32(1)], Kind::Crc32),
            (vec![Checksum::Crc32(1), Checksum::Crc32c(1)], Kind::Crc32c),
            (vec![Checksum::Crc32c(1), Checksum::Crc32(1), Checksum::Crc64Nvme(1)], Kind::Crc64Nvme),
        ] {
            let sums = Sums::of(sums);
            assert_eq!(Kind::of(&sums), kind, "{sums:?}");
            let announced = sums.iter().filter(|sum| !matches!(sum, Checksum::Sha256(_))).count();
            assert_eq!(kind.find(&sums).is_some(), announced > 0, "{sums:?}");
        }
    }

    #[test]
    fn a_marker_is_known_by_its_number_size_and_checksum() {
        let tag = "tag";
        let kind = Kind::Crc64Nvme;
        let part = |number: u32, size: i64, text: &str| {
            let part = Part::builder().part_number(super::number(number)).size(size);
            part.checksum_crc64_nvme(kind.over(text.as_bytes())).build()
        };
        assert!(kind.marks(&part(MARKER, 3, tag), tag));
        assert!(!kind.marks(&part(MARKER, 3, "tog"), tag) && !kind.marks(&part(1, 3, tag), tag));
        assert!(!kind.marks(&part(MARKER, 4, tag), tag) && !Kind::Crc32.marks(&part(MARKER, 3, tag), tag));
        // The check value of CRC-64/NVME.
        assert_eq!(kind.over(b"123456789"), meta::written(&Checksum::Crc64Nvme(0xae8b_1486_0a79_9888)));
    }

    #[test]
    fn an_id_says_the_kind_and_one_of_somebody_else_is_gone() {
        let upload = upload_of(Kind::Crc32c, "a/b", BTreeMap::new());
        assert_eq!(id(&upload), Ok((Kind::Crc32c, "a/b")));
        for other in ["", "a", "md5/a"] {
            let upload = Upload { id: other.to_owned(), parts: BTreeMap::new() };
            assert_eq!(id(&upload), Err(Error::Gone));
        }
    }
}
