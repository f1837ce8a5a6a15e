//! What `load` wrote down: one JSON line for each acknowledged operation.

use std::io::BufRead;

use serde::{Deserialize, Serialize};

use super::{Short, documents, objects};
use crate::core::{key::KeyHash, object::Location, state::Key, time::Timestamp};

/// Source of the events of `load`.
pub const SOURCE: &str = "load";
/// Detail-type of the events of `load`.
pub const DETAIL_TYPE: &str = "Load";

/// One line of an acknowledged event. `sha256` is over the bytes of the detail text as it was published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub op: String,
    pub region: String,
    pub key: String,
    pub sha256: String,
    /// When it was acknowledged, RFC 3339; tells an event that retention dropped from one that was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Default `load`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Default `Load`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail_type: Option<String>,
}

/// One line of an acknowledged object that an acknowledged event refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectLine {
    pub op: String,
    pub region: String,
    pub bucket: String,
    pub key: String,
    pub sha256: String,
}

/// One line of a request to a document. `acknowledged` is false where nobody knows what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateLine {
    pub op: String,
    pub region: String,
    #[serde(rename = "type")]
    pub of: String,
    pub id: String,
    pub ops: serde_json::Value,
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub acknowledged: bool,
}

fn yes() -> bool {
    true
}

/// One acknowledged event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    pub region: String,
    pub key: Box<str>,
    pub hash: Short,
    /// Of the acknowledgement; 0 if the journal does not say.
    pub millis: u64,
}

/// What a journal holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    pub events: Vec<Acknowledged>,
    pub objects: Vec<objects::Acknowledged>,
    pub requests: Vec<documents::Request>,
}

/// Reads a journal. Operations of other kinds are passed over, and so is a last line without an end: `load` may still be
/// writing it.
///
/// # Errors
/// A line that is no JSON or lacks a member, with its number.
pub fn read(mut journal: impl BufRead) -> Result<Journal, String> {
    let mut read = Journal::default();
    let mut line = String::new();
    for number in 1u64.. {
        line.clear();
        journal.read_line(&mut line).map_err(|error| format!("line {number}: {error}"))?;
        if !line.ends_with('\n') {
            break;
        }
        if line.trim().is_empty() {
            continue;
        }
        let problem = |error: serde_json::Error| format!("line {number}: {error}");
        let kind: serde_json::Value = serde_json::from_str(&line).map_err(problem)?;
        if kind["op"] == "object" {
            let ObjectLine { region, bucket, key, sha256, .. } = serde_json::from_value(kind).map_err(problem)?;
            let Some(sha256) = objects::normal(&sha256) else {
                return Err(format!("line {number}: `{sha256}` is no SHA-256"));
            };
            read.objects.push(objects::Acknowledged { region, at: Location { bucket, key }, sha256 });
            continue;
        }
        if kind["op"] == "state" {
            let StateLine { of, id, ops, acknowledged, .. } = serde_json::from_value(kind).map_err(problem)?;
            let key = Key { of, id };
            read.requests.push(documents::Request { key, ops: ops.to_string(), acknowledged });
            continue;
        }
        if kind["op"] != "event" {
            continue;
        }
        let parsed: Line = serde_json::from_value(kind).map_err(problem)?;
        let source = parsed.source.as_deref().unwrap_or(SOURCE);
        let detail_type = parsed.detail_type.as_deref().unwrap_or(DETAIL_TYPE);
        let time = parsed.time.as_deref().and_then(Timestamp::parse_rfc3339);
        read.events.push(Acknowledged {
            hash: KeyHash::of(source, detail_type, &parsed.key).0,
            region: parsed.region,
            key: parsed.key.into(),
            millis: time.map_or(0, Timestamp::as_millis),
        });
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_and_the_rest_is_passed_over() {
        let text = r#"{"op":"event","region":"eu","key":"k","sha256":"00"}
{"op":"state","region":"eu","type":"profile","id":"1","ops":[{"by":1.0}]}
{"op":"later","region":"eu"}

{"op":"event","region":"us","key":"k","sha256":"00","source":"s","detail_type":"t","time":"1970-01-01T00:00:01Z"}
{"op":"event","region":"eu","ke"#;
        let Journal { events, objects, requests } = read(text.as_bytes()).expect("a journal");
        assert_eq!((requests.len(), requests[0].ops.as_str(), requests[0].acknowledged), (1, r#"[{"by":1.0}]"#, true));
        assert!(objects.is_empty());
        assert_eq!(events.len(), 2);
        assert_eq!(events[0].hash, KeyHash::of("load", "Load", "k").0);
        assert_eq!((events[1].hash, events[1].millis), (KeyHash::of("s", "t", "k").0, 1_000));
    }

    #[test]
    fn a_bad_line_is_named_by_its_number() {
        let error = read(&b"{\"op\":\"later\"}\n{\"op\":\"event\"}\n"[..]).expect_err("no region");
        assert!(error.starts_with("line 2: "), "{error}");
    }
}
