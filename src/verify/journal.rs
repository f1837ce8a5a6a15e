//! What `load` wrote down: one JSON line for each acknowledged operation.

use std::io::BufRead;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Short,
    expected::{Expected, Request},
    objects,
};
use crate::core::{json, key::KeyHash, object::Location, state::Key, time::Timestamp};

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

/// `op` of an acknowledged request to a document.
pub const STATE: &str = "state";
/// `op` of one that was never answered: it may have been done.
pub const STATE_UNANSWERED: &str = "state-unanswered";
/// `op` of a run's last line.
pub const END: &str = "end";

/// One line of a request to a document.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StateLine {
    /// [`STATE`] or [`STATE_UNANSWERED`].
    pub op: String,
    pub region: String,
    #[serde(rename = "type")]
    pub of: String,
    pub id: String,
    /// The array as it was sent.
    pub ops: Box<RawValue>,
    /// It was sent to more than one region.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub moved: bool,
}

/// The last line of a run that wrote to documents: everything of it stands above.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndLine {
    pub op: String,
    /// The ids of its documents begin with this and `-`.
    pub run: String,
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
    pub documents: Expected,
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
        if kind["op"] == STATE || kind["op"] == STATE_UNANSWERED {
            // As text: numbers stay as they were sent.
            let state: StateLine = serde_json::from_str(&line).map_err(problem)?;
            let add = || {
                let ops = json::parse(state.ops.get()).map_err(|error| error.to_string())?;
                let acknowledged = state.op == STATE;
                let request = Request { region: &state.region, acknowledged, moved: state.moved };
                read.documents.add(Key { of: state.of, id: state.id }, request, &ops)
            };
            add().map_err(|why| format!("line {number}: {why}"))?;
            continue;
        }
        if kind["op"] == END {
            let EndLine { run, .. } = serde_json::from_value(kind).map_err(problem)?;
            read.documents.end(&run);
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
{"op":"something","of":"a later build"}

{"op":"event","region":"us","key":"k","sha256":"00","source":"s","detail_type":"t","time":"1970-01-01T00:00:01Z"}
{"op":"event","region":"eu","ke"#;
        let Journal { events, objects, documents } = read(text.as_bytes()).expect("a journal");
        assert!(objects.is_empty() && documents.is_empty());
        assert_eq!(events.len(), 2);
        assert_eq!(events[0].hash, KeyHash::of("load", "Load", "k").0);
        assert_eq!((events[1].hash, events[1].millis), (KeyHash::of("s", "t", "k").0, 1_000));
    }

    #[test]
    fn a_bad_line_is_named_by_its_number() {
        let error = read(&b"{\"op\":\"other\"}\n{\"op\":\"event\"}\n"[..]).expect_err("no region");
        assert!(error.starts_with("line 2: "), "{error}");
        for (line, why) in [
            (r#"{"op":"state","region":"eu","type":"t","id":"1"}"#, "line 1: missing field `ops`"),
            (r#"{"op":"state","region":"eu","type":"t","id":"1","ops":7}"#, "line 1: `ops` is no array"),
            (
                r#"{"op":"state","region":"eu","type":"t","id":"1","ops":[{"field":"f","op":"jump"}]}"#,
                "line 1: operation 1: there is no operation `jump`",
            ),
        ] {
            let error = read(format!("{line}\n").as_bytes()).expect_err(line);
            assert!(error.starts_with(why), "{error}");
        }
    }
}
