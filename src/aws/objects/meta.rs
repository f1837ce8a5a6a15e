//! What stands in the heads of S3's answers and requests, and what it means.

use std::collections::BTreeMap;

use aws_sdk_s3::{
    operation::{
        complete_multipart_upload::CompleteMultipartUploadOutput,
        create_multipart_upload::builders::CreateMultipartUploadFluentBuilder, head_object::HeadObjectOutput,
        put_object::builders::PutObjectFluentBuilder,
    },
    types::{ChecksumType, CopyObjectResult},
};
use aws_smithy_types::{DateTime, date_time::Format};
use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    core::time::Timestamp,
    ports::objects::{Checksum, Stat, Sums},
};

/// Begins a version that is an id. An ETag begins with a quotation mark.
const BY_ID: &str = "v:";

/// Of buckets whose versions are suspended: the same for each object that replaces the one before.
const NULL_VERSION: &str = "null";

/// Begins the names of a service's own attributes.
const OWN: &str = "x-amz-meta-";

/// What pins an object.
pub(super) struct Pin<'a>(&'a str);

impl<'a> Pin<'a> {
    pub(super) fn of(version: &'a str) -> Self {
        Pin(version)
    }

    pub(super) fn version_id(&self) -> Option<String> {
        self.0.strip_prefix(BY_ID).map(str::to_owned)
    }

    pub(super) fn etag(&self) -> Option<String> {
        (!self.0.starts_with(BY_ID)).then(|| self.0.to_owned())
    }
}

/// The version of what an answer is about.
pub(super) fn version(id: Option<&str>, etag: Option<&str>) -> String {
    match id.filter(|id| *id != NULL_VERSION) {
        Some(id) => format!("{BY_ID}{id}"),
        None => etag.unwrap_or_default().to_owned(),
    }
}

pub(super) fn timestamp(time: Option<&DateTime>) -> Timestamp {
    let millis = time.and_then(|time| time.to_millis().ok()).and_then(|millis| u64::try_from(millis).ok());
    Timestamp::from_millis(millis.unwrap_or_default())
}

/// Checksums as S3 writes them; `None` where one is not over the bytes of the whole object.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Written<'a> {
    pub kind: Option<&'a ChecksumType>,
    pub sha256: Option<&'a str>,
    pub crc32c: Option<&'a str>,
    pub crc32: Option<&'a str>,
    pub crc64nvme: Option<&'a str>,
}

impl Written<'_> {
    pub(super) fn sums(&self) -> Sums {
        if self.kind == Some(&ChecksumType::Composite) {
            return Sums::default();
        }
        fn bytes<const N: usize>(text: Option<&str>) -> Option<[u8; N]> {
            // A sum of the parts' sums ends with `-` and how many there are, which is no base64.
            STANDARD.decode(text?).ok()?.try_into().ok()
        }
        let sums = [
            bytes(self.sha256).map(Checksum::Sha256),
            bytes(self.crc64nvme).map(|sum| Checksum::Crc64Nvme(u64::from_be_bytes(sum))),
            bytes(self.crc32c).map(|sum| Checksum::Crc32c(u32::from_be_bytes(sum))),
            bytes(self.crc32).map(|sum| Checksum::Crc32(u32::from_be_bytes(sum))),
        ];
        Sums::of(sums.into_iter().flatten())
    }
}

/// A checksum as S3 reads it.
pub(super) fn written(sum: &Checksum) -> String {
    match sum {
        Checksum::Sha256(sum) => STANDARD.encode(sum),
        Checksum::Crc32c(sum) | Checksum::Crc32(sum) => STANDARD.encode(sum.to_be_bytes()),
        Checksum::Crc64Nvme(sum) => STANDARD.encode(sum.to_be_bytes()),
    }
}

pub(super) fn stat(found: &HeadObjectOutput) -> Stat {
    let mut attributes = BTreeMap::new();
    let standard = [
        ("cache-control", found.cache_control()),
        ("content-disposition", found.content_disposition()),
        ("content-encoding", found.content_encoding()),
        ("content-language", found.content_language()),
        ("content-type", found.content_type()),
        ("expires", found.expires_string()),
    ];
    for (name, value) in standard {
        attributes.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    }
    for (name, value) in found.metadata().into_iter().flatten() {
        attributes.insert(format!("{OWN}{}", name.to_lowercase()), value.clone());
    }
    let written = Written {
        kind: found.checksum_type(),
        sha256: found.checksum_sha256(),
        crc32c: found.checksum_crc32_c(),
        crc32: found.checksum_crc32(),
        crc64nvme: found.checksum_crc64_nvme(),
    };
    Stat {
        size: found.content_length().and_then(|size| u64::try_from(size).ok()).unwrap_or_default(),
        sums: written.sums(),
        version: version(found.version_id(), found.e_tag()),
        modified: timestamp(found.last_modified()),
        attributes,
    }
}

pub(super) fn sums_of_copy(copied: &CopyObjectResult) -> Sums {
    let written = Written {
        kind: copied.checksum_type(),
        sha256: copied.checksum_sha256(),
        crc32c: copied.checksum_crc32_c(),
        crc32: copied.checksum_crc32(),
        crc64nvme: copied.checksum_crc64_nvme(),
    };
    written.sums()
}

pub(super) fn sums_of_upload(made: &CompleteMultipartUploadOutput) -> Sums {
    let written = Written {
        kind: made.checksum_type(),
        sha256: made.checksum_sha256(),
        crc32c: made.checksum_crc32_c(),
        crc32: made.checksum_crc32(),
        crc64nvme: made.checksum_crc64_nvme(),
    };
    written.sums()
}

/// One checksum: S3 takes no more. The strongest that is known; without any, the SDK computes one of its own.
pub(super) fn with_checksum(request: PutObjectFluentBuilder, sums: &Sums) -> PutObjectFluentBuilder {
    let strength = |sum: &&Checksum| match sum {
        Checksum::Sha256(_) => 3,
        Checksum::Crc64Nvme(_) => 2,
        Checksum::Crc32c(_) => 1,
        Checksum::Crc32(_) => 0,
    };
    let Some(sum) = sums.iter().max_by_key(strength) else { return request };
    let text = written(sum);
    match sum {
        Checksum::Sha256(_) => request.checksum_sha256(text),
        Checksum::Crc64Nvme(_) => request.checksum_crc64_nvme(text),
        Checksum::Crc32c(_) => request.checksum_crc32_c(text),
        Checksum::Crc32(_) => request.checksum_crc32(text),
    }
}

/// What both ways to make an object take.
macro_rules! with_attributes {
    ($request:expr, $attributes:expr) => {{
        let mut request = $request;
        for (name, value) in $attributes {
            request = match name.as_str() {
                "cache-control" => request.cache_control(value),
                "content-disposition" => request.content_disposition(value),
                "content-encoding" => request.content_encoding(value),
                "content-language" => request.content_language(value),
                "content-type" => request.content_type(value),
                "expires" => request.set_expires(DateTime::from_str(value, Format::HttpDate).ok()),
                name => match name.strip_prefix(OWN) {
                    Some(name) => request.metadata(name, value),
                    None => request,
                },
            };
        }
        request
    }};
}

pub(super) fn with_attributes(
    request: PutObjectFluentBuilder,
    attributes: &BTreeMap<String, String>,
) -> PutObjectFluentBuilder {
    with_attributes!(request, attributes)
}

pub(super) fn upload_with_attributes(
    request: CreateMultipartUploadFluentBuilder,
    attributes: &BTreeMap<String, String>,
) -> CreateMultipartUploadFluentBuilder {
    with_attributes!(request, attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sums_over_the_whole_object_count() {
        let sum = Checksum::Crc64Nvme(7);
        let text = written(&sum);
        let of = |kind, text: &str| Written { kind, crc64nvme: Some(text), ..Written::default() }.sums();
        assert_eq!(of(Some(&ChecksumType::FullObject), &text), Sums::of([sum]));
        // Of a single put, also where the kind is not told.
        assert_eq!(of(None, &text), Sums::of([sum]));
        assert_eq!(of(Some(&ChecksumType::Composite), &text), Sums::default());
        assert_eq!(of(None, &format!("{text}-3")), Sums::default());
        for sum in [Checksum::Sha256([9; 32]), Checksum::Crc32c(8), Checksum::Crc32(u32::MAX)] {
            let text = written(&sum);
            let written = match sum {
                Checksum::Sha256(_) => Written { sha256: Some(&text), ..Written::default() },
                Checksum::Crc32c(_) => Written { crc32c: Some(&text), ..Written::default() },
                _ => Written { crc32: Some(&text), ..Written::default() },
            };
            assert_eq!(written.sums(), Sums::of([sum]));
        }
    }

    #[test]
    fn a_version_is_an_id_where_there_are_versions_and_else_the_etag() {
        let by_id = version(Some("3HL4k"), Some("\"etag\""));
        assert_eq!((Pin::of(&by_id).version_id().as_deref(), Pin::of(&by_id).etag()), (Some("3HL4k"), None));
        for id in [None, Some("null")] {
            let by_etag = version(id, Some("\"etag\""));
            assert_eq!((Pin::of(&by_etag).version_id(), Pin::of(&by_etag).etag().as_deref()), (None, Some("\"etag\"")));
        }
    }
}
