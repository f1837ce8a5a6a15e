//! Claim checks: where an event's detail refers to objects, and the same detail with other references.
//!
//! A reference stands at a configured JSON pointer: the text `s3://bucket/key`, the key as it is, not escaped; or an object
//! with the members `bucket` and `key`, and `sha256` in hex where the publisher pins the bytes; or an array of these. Nothing
//! there, `null`, an empty text, a URI of another scheme: no reference to an object, and left alone.

use std::ops::Range;

use super::{
    json::{self, Json},
    object::{KEY_BYTES_MAX, Location, unhex},
};

/// What a reference to an object begins with.
const SCHEME: &str = "s3://";

/// One reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub target: Location,
    /// The bytes that are meant, where the reference says so.
    pub sha256: Option<[u8; 32]>,
    /// Bytes of the detail to replace, each with what it means there.
    parts: Vec<(Range<usize>, Part)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Uri,
    Bucket,
    Key,
}

/// A reference that can lead nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the reference at {pointer} ({text}) {why}")]
pub struct Malformed {
    pub pointer: String,
    /// The beginning of it.
    pub text: String,
    pub why: &'static str,
}

/// Whether an event refers to objects, if only by a malformed reference.
pub fn refers(detail: &Json<'_>, pointers: &[String]) -> bool {
    below_detail(pointers).filter_map(|pointer| detail.pointer(pointer)).any(|value| match value {
        Json::Array(items) => items.iter().any(is_reference),
        value => is_reference(value),
    })
}

fn is_reference(value: &Json<'_>) -> bool {
    match value {
        Json::String(text) => text.starts_with(SCHEME),
        Json::Object(_) => value.get("bucket").is_some() || value.get("key").is_some(),
        _ => false,
    }
}

fn below_detail(pointers: &[String]) -> impl Iterator<Item = &str> {
    pointers.iter().filter_map(|pointer| pointer.strip_prefix("/detail"))
}

/// All references of a detail, in the order of the pointers.
///
/// # Errors
/// One of them cannot be followed.
pub fn find(detail: &str, pointers: &[String]) -> Result<Vec<Reference>, Malformed> {
    let mut found = Vec::new();
    for pointer in below_detail(pointers) {
        let Some(value) = json::pointer(detail, pointer) else { continue };
        let items = if value.starts_with('[') { json::elements(value).unwrap_or_default() } else { vec![value] };
        for item in items {
            let malformed =
                |why| Malformed { pointer: format!("/detail{pointer}"), text: item.chars().take(100).collect(), why };
            found.extend(read(detail, item).map_err(malformed)?);
        }
    }
    Ok(found)
}

fn read(detail: &str, value: &str) -> Result<Option<Reference>, &'static str> {
    let Ok(parsed) = json::parse(value) else { return Ok(None) };
    if !is_reference(&parsed) {
        return Ok(None);
    }
    let part = |text: &str, part| (range_within(detail, text), part);
    let (bucket, key, sha256, parts) = match &parsed {
        Json::String(uri) => {
            let rest = uri.strip_prefix(SCHEME).unwrap_or_default();
            let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
            (bucket, key, None, vec![part(value, Part::Uri)])
        }
        object => {
            let member = |name| object.get(name).and_then(Json::as_str).ok_or("needs `bucket` and `key`, both texts");
            let text = |name: &str| json::pointer(value, &format!("/{name}")).unwrap_or_default();
            let parts = vec![part(text("bucket"), Part::Bucket), part(text("key"), Part::Key)];
            let sha256 = match object.get("sha256").and_then(Json::as_str) {
                Some(text) => Some(unhex(text).ok_or("has a `sha256` that is not 64 digits of hex")?),
                None => None,
            };
            (member("bucket")?, member("key")?, sha256, parts)
        }
    };
    if bucket.is_empty() {
        return Err("names no bucket");
    }
    if key.is_empty() {
        return Err("names no key");
    }
    if key.ends_with('/') {
        return Err("names a folder, not an object");
    }
    if key.len() > KEY_BYTES_MAX {
        return Err("has a key of more than 1,024 bytes");
    }
    Ok(Some(Reference { target: Location::new(bucket, key), sha256, parts }))
}

/// Where `part`, a slice of `whole`, stands in it.
fn range_within(whole: &str, part: &str) -> Range<usize> {
    let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
    start..start + part.len()
}

/// The detail that `references` were found in, leading to other objects; everything else stays as it is written.
pub fn rewrite(detail: &str, references: &[(Reference, Location)]) -> String {
    let mut changes: Vec<(Range<usize>, String)> = Vec::new();
    for (reference, to) in references.iter().filter(|(reference, to)| reference.target != *to) {
        for (range, part) in &reference.parts {
            let text = match part {
                Part::Uri => to.to_string(),
                Part::Bucket => to.bucket.clone(),
                Part::Key => to.key.clone(),
            };
            changes.push((range.clone(), json::quote(&text)));
        }
    }
    changes.sort_by_key(|(range, _)| range.start);
    // Two pointers may lead to one place.
    changes.dedup_by(|a, b| a.0 == b.0);
    let mut out = String::with_capacity(detail.len() + 100);
    let mut at = 0;
    for (range, text) in changes {
        out.push_str(&detail[at..range.start]);
        out.push_str(&text);
        at = range.end;
    }
    out.push_str(&detail[at..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointers() -> Vec<String> {
        ["/detail/claimCheck", "/detail/data/refs"].map(str::to_owned).into()
    }

    fn targets(detail: &str) -> Vec<String> {
        find(detail, &pointers()).unwrap().iter().map(|reference| reference.target.to_string()).collect()
    }

    #[test]
    fn references_are_texts_objects_and_arrays_of_them() {
        let detail =
            r#"{"claimCheck":"s3://b/a b/ü/..//x","data":{"refs":[{"key":"k","bucket":"c"},"s3://d/e",null,"", 5]}}"#;
        assert_eq!(targets(detail), ["s3://b/a b/ü/..//x", "s3://c/k", "s3://d/e"]);
        assert!(refers(&json::parse(detail).unwrap(), &pointers()));
    }

    #[test]
    fn what_is_no_object_is_left_alone() {
        for detail in [
            "{}",
            r#"{"claimCheck":null}"#,
            r#"{"claimCheck":""}"#,
            r#"{"claimCheck":"https://example.com/s3://b/k"}"#,
            r#"{"claimCheck":{}}"#,
            r#"{"claimCheck":[]}"#,
            r#"{"other":"s3://b/k"}"#,
        ] {
            assert_eq!(targets(detail), [""; 0], "{detail}");
            assert!(!refers(&json::parse(detail).unwrap(), &pointers()), "{detail}");
        }
    }

    #[test]
    fn a_reference_that_leads_nowhere_is_named() {
        let long = format!("\"s3://b/{}\"", "k".repeat(1025));
        for (reference, why) in [
            ("\"s3://\"", "names no bucket"),
            ("\"s3:///k\"", "names no bucket"),
            ("\"s3://b\"", "names no key"),
            ("\"s3://b/\"", "names no key"),
            ("\"s3://b/folder/\"", "names a folder, not an object"),
            (&long, "has a key of more than 1,024 bytes"),
            ("{\"bucket\":\"b\"}", "needs `bucket` and `key`, both texts"),
            ("{\"bucket\":\"b\",\"key\":5}", "needs `bucket` and `key`, both texts"),
            ("{\"bucket\":\"b\",\"key\":\"k\",\"sha256\":\"00\"}", "has a `sha256` that is not 64 digits of hex"),
        ] {
            let detail = format!("{{\"claimCheck\":{reference}}}");
            let error = find(&detail, &pointers()).unwrap_err();
            assert_eq!((error.pointer.as_str(), error.why), ("/detail/claimCheck", why), "{detail}");
            assert!(refers(&json::parse(&detail).unwrap(), &pointers()), "{detail}");
        }
    }

    #[test]
    fn only_references_are_rewritten() {
        let detail = r#"{ "n": 1.10, "claimCheck" : "s3://eu/k", "data":{"refs":[{"key":"x","v":1,"bucket":"eu"},"s3://eu/y"]} }"#;
        let found = find(detail, &pointers()).unwrap();
        let moved = found.into_iter().map(|reference| {
            let to = Location::new("us", format!("{}\"2", reference.target.key));
            (reference, to)
        });
        let moved: Vec<_> = moved.collect();
        assert_eq!(
            rewrite(detail, &moved),
            r#"{ "n": 1.10, "claimCheck" : "s3://us/k\"2", "data":{"refs":[{"key":"x\"2","v":1,"bucket":"us"},"s3://us/y\"2"]} }"#
        );
        let same: Vec<_> = moved.iter().map(|(reference, _)| (reference.clone(), reference.target.clone())).collect();
        assert_eq!(rewrite(detail, &same), detail);
    }

    #[test]
    fn of_a_repeated_member_the_last_one_counts() {
        let detail = r#"{"claimCheck":"s3://a/1","claimCheck":"s3://a/2"}"#;
        let found = find(detail, &pointers()).unwrap();
        assert_eq!(found[0].target, Location::new("a", "2"));
        let to = Location::new("b", "2");
        assert_eq!(rewrite(detail, &[(found[0].clone(), to)]), r#"{"claimCheck":"s3://a/1","claimCheck":"s3://b/2"}"#);
    }

    #[test]
    fn a_pinned_object_says_its_bytes() {
        let detail = format!(r#"{{"claimCheck":{{"bucket":"b","key":"k","sha256":"{}"}}}}"#, "0a".repeat(32));
        assert_eq!(find(&detail, &pointers()).unwrap()[0].sha256, Some([10; 32]));
    }
}
