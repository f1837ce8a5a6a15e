//! The way in: what a service published becomes a [`Draft`], or is refused with EventBridge's codes and words.
//!
//! Whoever publishes here was written for EventBridge, so limits, codes and messages are EventBridge's own. What is
//! ours: a stamp found in `detail` is taken out (it was inherited from a received event, or forged), and the source
//! `hubweave` is reserved for what agents tell each other.

use serde_json::value::RawValue;
use thiserror::Error;

use super::{
    event::Draft,
    json::{self, Json},
    reference,
    time::Timestamp,
};

/// Characters that `Source` may have.
pub const SOURCE_CHARACTERS_MAX: usize = 256;
/// Characters that `DetailType` may have.
pub const DETAIL_TYPE_CHARACTERS_MAX: usize = 128;
/// Bytes (UTF-8) that an idempotency key may have.
pub const KEY_BYTES_MAX: usize = 1_024;
/// The source of deltas, heartbeats and digests; services cannot publish with it.
pub const RESERVED_SOURCE: &str = "hubweave";
/// The member of `detail` that carries the stamp.
pub const STAMP: &str = "hubweave";

/// The code of an entry over [`Ingress::max_entry_bytes`].
pub const TOO_LARGE: &str = "ValidationException";

/// What this region's ingress needs to know to read an event.
#[derive(Clone, Debug, PartialEq)]
pub struct Ingress {
    /// Where the idempotency key may be: JSON pointers into the envelope, the first that is a non-empty string counts.
    pub key_pointers: Vec<String>,
    /// Where claim-check references may be; they are no part of the payload hash.
    pub reference_pointers: Vec<String>,
    /// The limit of [`entry_bytes`].
    pub max_entry_bytes: usize,
}

/// One entry was refused; nothing of it was taken. Sending it again unchanged fails again.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{code}: {message}")]
pub struct EntryError {
    /// EventBridge's `ErrorCode`.
    pub code: &'static str,
    /// EventBridge's `ErrorMessage`.
    pub message: String,
}

impl EntryError {
    /// The code `InvalidArgument` with EventBridge's wording around the reason.
    pub fn invalid(parameter: &str, reason: &str) -> EntryError {
        let message = format!("Parameter {parameter} is not valid. Reason: {reason}");
        EntryError { code: "InvalidArgument", message }
    }
}

/// The size of an entry as EventBridge counts it: 14 bytes for a time, and the UTF-8 bytes of everything else.
pub fn entry_bytes(source: &str, detail_type: &str, detail: &str, has_time: bool, resources: &[String]) -> usize {
    let time = if has_time { 14 } else { 0 };
    time + source.len() + detail_type.len() + detail.len() + resources.iter().map(String::len).sum::<usize>()
}

impl Ingress {
    /// Validates a published event and finds its idempotency key. `detail` is the text of a JSON object.
    pub fn draft(
        &self,
        source: &str,
        detail_type: &str,
        detail: &str,
        time: Option<Timestamp>,
        resources: Vec<String>,
    ) -> Result<Draft, EntryError> {
        self.draft_with_key(None, source, detail_type, detail, time, resources)
    }

    /// [`Ingress::draft`] of an event whose idempotency key stands elsewhere, as a CloudEvent's `id` does. With `None`
    /// the key pointers are asked.
    pub fn draft_with_key(
        &self,
        key: Option<&str>,
        source: &str,
        detail_type: &str,
        detail: &str,
        time: Option<Timestamp>,
        resources: Vec<String>,
    ) -> Result<Draft, EntryError> {
        check_source(source)?;
        check_length("DetailType", detail_type, DETAIL_TYPE_CHARACTERS_MAX)?;
        if detail.is_empty() {
            return Err(EntryError::invalid("Detail", "Detail is a required argument."));
        }
        let bytes = entry_bytes(source, detail_type, detail, time.is_some(), &resources);
        if bytes > self.max_entry_bytes {
            let message = format!("The entry has {bytes} bytes; the limit is {}.", self.max_entry_bytes);
            return Err(EntryError { code: TOO_LARGE, message });
        }
        let stripped = json::strip_top_level(detail, STAMP);
        let stamp_stripped = stripped.is_some();
        let detail = stripped.unwrap_or_else(|| detail.to_owned());
        let parsed = match json::parse(&detail) {
            Ok(parsed @ Json::Object(_)) => parsed,
            Ok(_) => return Err(malformed(None)),
            // Valid JSON that only we refuse needs a reason.
            Err(error) if serde_json::from_str::<&RawValue>(&detail).is_ok() => return Err(malformed(Some(&error))),
            Err(_) => return Err(malformed(None)),
        };
        let key = match key {
            Some(key) => Some(key.to_owned()),
            None => self.find_key(source, detail_type, &parsed, &resources),
        };
        if let Some(key) = &key
            && key.len() > KEY_BYTES_MAX
        {
            let reason = format!("The idempotency key has {} bytes; the limit is {KEY_BYTES_MAX}.", key.len());
            return Err(EntryError::invalid("Detail", &reason));
        }
        let payload_hash = json::hash_parsed(source, detail_type, &parsed, &self.reference_pointers);
        let has_payload = reference::refers(&parsed, &self.reference_pointers);
        Ok(Draft {
            key,
            source: source.to_owned(),
            detail_type: detail_type.to_owned(),
            detail,
            time,
            resources,
            payload_hash,
            stamp_stripped,
            has_payload,
            trace: None,
        })
    }

    /// The idempotency key of an event, where the pointers find one. `detail` is without a stamp.
    pub(super) fn find_key(
        &self,
        source: &str,
        detail_type: &str,
        detail: &Json,
        resources: &[String],
    ) -> Option<String> {
        let at = |pointer: &str| match pointer.strip_prefix("/detail/") {
            Some(rest) => detail.pointer(&format!("/{rest}"))?.as_str().map(str::to_owned),
            None if pointer == "/source" => Some(source.to_owned()),
            None if pointer == "/detail-type" => Some(detail_type.to_owned()),
            None => resources.get(pointer.strip_prefix("/resources/")?.parse::<usize>().ok()?).cloned(),
        };
        self.key_pointers.iter().filter_map(|pointer| at(pointer)).find(|key| !key.is_empty())
    }
}

fn check_source(source: &str) -> Result<(), EntryError> {
    check_length("Source", source, SOURCE_CHARACTERS_MAX)?;
    if source.starts_with("aws.") {
        let message = "Not authorized for the source.".to_owned();
        return Err(EntryError { code: "NotAuthorizedForSourceException", message });
    }
    if source == RESERVED_SOURCE {
        return Err(EntryError::invalid("Source", "The source hubweave is reserved."));
    }
    Ok(())
}

fn check_length(parameter: &str, value: &str, characters_max: usize) -> Result<(), EntryError> {
    if value.is_empty() {
        return Err(EntryError::invalid(parameter, &format!("{parameter} is a required argument.")));
    }
    let characters = value.chars().count();
    if characters > characters_max {
        let reason = format!("{parameter} has {characters} characters; the limit is {characters_max}.");
        return Err(EntryError::invalid(parameter, &reason));
    }
    Ok(())
}

fn malformed(reason: Option<&json::Error>) -> EntryError {
    let reason = reason.map(|error| format!(" Reason: {error}.")).unwrap_or_default();
    EntryError { code: "MalformedDetail", message: format!("Detail is malformed.{reason}") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::json::canonical_hash;

    fn ingress() -> Ingress {
        Ingress {
            key_pointers: vec!["/detail/metadata/idempotencyKey".to_owned(), "/detail/idempotencyKey".to_owned()],
            reference_pointers: vec!["/detail/claimCheck".to_owned()],
            max_entry_bytes: 1_000_000,
        }
    }

    fn draft(detail: &str) -> Result<Draft, EntryError> {
        ingress().draft("app", "Order", detail, None, Vec::new())
    }

    #[test]
    fn a_draft_keeps_the_detail_as_it_was_written() {
        let text = r#" {"b":1.10,"a":{"z":1e2}} "#;
        let draft = draft(text).unwrap();
        assert_eq!((draft.detail.as_str(), draft.key, draft.stamp_stripped), (text, None, false));
        assert_eq!(draft.payload_hash, canonical_hash("app", "Order", text, &[]));
    }

    #[test]
    fn the_first_pointer_that_is_a_string_is_the_key() {
        let cases = [
            (r#"{"metadata":{"idempotencyKey":"a"},"idempotencyKey":"b"}"#, Some("a")),
            (r#"{"metadata":{"idempotencyKey":5},"idempotencyKey":"b"}"#, Some("b")),
            (r#"{"metadata":{"idempotencyKey":""},"idempotencyKey":"\u0000"}"#, Some("\0")),
            (r#"{"metadata":{"idempotencyKey":null}}"#, None),
        ];
        for (detail, key) in cases {
            assert_eq!(draft(detail).unwrap().key.as_deref(), key, "{detail}");
        }
        let other = Ingress { key_pointers: vec!["/resources/1".into(), "/source".into()], ..ingress() };
        let key = |resources| other.draft("app", "T", "{}", None, resources).unwrap().key;
        assert_eq!(key(vec!["a".into(), "b".into()]).as_deref(), Some("b"));
        assert_eq!(key(vec![]).as_deref(), Some("app"));
    }

    #[test]
    fn a_stamp_is_stripped_and_not_part_of_the_payload() {
        let stamped = draft(r#"{"a":1,"hubweave":{"origin":"eu","key":"k"}}"#).unwrap();
        assert_eq!((stamped.detail.as_str(), stamped.stamp_stripped), (r#"{"a":1}"#, true));
        assert_eq!(stamped.payload_hash, draft(r#"{"a":1}"#).unwrap().payload_hash);
    }

    #[test]
    fn a_reference_is_no_part_of_the_payload() {
        let hash = |detail| draft(detail).unwrap().payload_hash;
        assert_eq!(hash(r#"{"a":1,"claimCheck":"s3://eu/k"}"#), hash(r#"{"a":1,"claimCheck":"s3://us/k"}"#));
        assert_ne!(hash(r#"{"a":1,"claimCheck":"s3://eu/k"}"#), hash(r#"{"a":2,"claimCheck":"s3://eu/k"}"#));
    }

    #[test]
    fn refusals_have_the_codes_and_words_of_eventbridge() {
        let long = "x".repeat(257);
        let key = format!(r#"{{"idempotencyKey":"{}"}}"#, "k".repeat(1_025));
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
        let cases = [
            ("", "T", "{}", "InvalidArgument", "Parameter Source is not valid. Reason: Source is a required argument."),
            (
                "a",
                "",
                "{}",
                "InvalidArgument",
                "Parameter DetailType is not valid. Reason: DetailType is a required argument.",
            ),
            ("a", "T", "", "InvalidArgument", "Parameter Detail is not valid. Reason: Detail is a required argument."),
            ("a", "T", "[]", "MalformedDetail", "Detail is malformed."),
            ("a", "T", "{\"a\":1", "MalformedDetail", "Detail is malformed."),
            ("a", "T", "{\"a\":\"\\ud800\"}", "MalformedDetail", "Detail is malformed. Reason: half a surrogate"),
            ("a", "T", &deep, "MalformedDetail", "Detail is malformed. Reason: nested deeper than 100 levels"),
            ("aws.s3", "T", "{}", "NotAuthorizedForSourceException", "Not authorized for the source."),
            ("hubweave", "T", "{}", "InvalidArgument", "Parameter Source is not valid. Reason: The source hubweave is"),
            (&long, "T", "{}", "InvalidArgument", "Parameter Source is not valid. Reason: Source has 257 characters"),
            (
                "a",
                &long[..129],
                "{}",
                "InvalidArgument",
                "Parameter DetailType is not valid. Reason: DetailType has 129",
            ),
            ("a", "T", &key, "InvalidArgument", "Parameter Detail is not valid. Reason: The idempotency key has 1025"),
        ];
        for (source, detail_type, detail, code, message) in cases {
            let error = ingress().draft(source, detail_type, detail, None, Vec::new()).unwrap_err();
            assert_eq!(error.code, code, "{error}");
            assert!(error.message.starts_with(message), "{error}");
        }
        assert!(ingress().draft("hubweave.demo", "State Operation", "{}", None, Vec::new()).is_ok());
        assert!(ingress().draft("a\0\n", &"é".repeat(128), "{}", None, Vec::new()).is_ok());
    }

    #[test]
    fn sizes_count_as_eventbridge_counts_them() {
        assert_eq!(entry_bytes("é", "ab", "{}", true, &["xyz".to_owned()]), 14 + 2 + 2 + 2 + 3);
        let small = Ingress { max_entry_bytes: 5, ..ingress() };
        assert!(small.draft("a", "bc", "{}", None, Vec::new()).is_ok());
        let error = small.draft("a", "bcd", "{}", None, Vec::new()).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (TOO_LARGE, "The entry has 6 bytes; the limit is 5."));
    }

    proptest! {
        #[test]
        fn no_published_text_panics(source in "\\PC{0,9}", detail in "(\\{\"(hubweave|a)\":\\PC{0,9}\\})|\\PC{0,20}") {
            if let Ok(draft) = ingress().draft(&source, "T", &detail, None, Vec::new()) {
                prop_assert!(json::parse(&draft.detail).is_ok());
                prop_assert_eq!(json::strip_top_level(&draft.detail, STAMP), None);
            }
        }
    }
}
