//! Documents as events of the hub: deltas, operations that services publish, conflicts.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{
    core::{
        event::{Draft, RESERVED_SOURCE, Record, STATE_CONFLICT, STATE_DELTA, STATE_OPERATION},
        json::{self, Json},
        key::{KeyHash, hex},
        state::{
            Dot, Key, Kind, Request, Schemas,
            delta::Delta,
            document::{Conflict, Document, Write},
            op::{self, Op, Refused},
        },
        time::Timestamp,
    },
    ports::documents::Applied,
};

/// One request's change, for the other regions. Source [`RESERVED_SOURCE`].
pub const DELTA: &str = STATE_DELTA;

/// What a service wants done to a document of its region; of any source. It never crosses a link: its delta does.
pub const OPERATION: &str = STATE_OPERATION;

/// Two writes met of which neither had seen the other. Source [`RESERVED_SOURCE`]; it never crosses a link, as every
/// region finds its own.
pub const CONFLICT: &str = STATE_CONFLICT;

/// What an event asks of a document.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    Ops(Vec<Op>),
    Delete,
}

impl Asked {
    /// What becomes of it where it changes nothing.
    pub fn is_settled(&self, document: Option<&Document>, request: Option<&Request>) -> Option<Applied> {
        if document.zip(request).is_some_and(|(document, request)| document.knows(request)) {
            return Some(Applied::Duplicate);
        }
        let nothing = *self == Asked::Delete && document.is_none_or(Document::is_tombstone);
        nothing.then_some(Applied::Nothing)
    }

    /// Does it; all of it or nothing.
    ///
    /// # Errors
    /// See [`Document::operate`].
    pub fn perform(
        &self,
        document: &mut Document,
        dot: Dot,
        at: Timestamp,
        request: Option<Request>,
    ) -> Result<Option<Delta>, Refused> {
        match self {
            Asked::Ops(ops) => document.operate(dot, at, request, ops).map(Some),
            Asked::Delete => Ok(document.delete(dot, at, request)),
        }
    }
}

/// An event, as far as it is about documents.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// And how often the region that wrote it had been evicted before.
    Delta(Key, Box<Delta>, u64),
    Operation {
        key: Key,
        asked: Asked,
        request: String,
    },
    /// An event of these that cannot be read.
    Unreadable(String),
    Other,
}

fn draft(detail_type: &str, key: Option<String>, detail: String) -> Draft {
    Draft {
        key,
        source: RESERVED_SOURCE.to_owned(),
        detail_type: detail_type.to_owned(),
        payload_hash: json::canonical_hash(RESERVED_SOURCE, detail_type, &detail, &[]),
        detail,
        time: None,
        resources: Vec::new(),
        stamp_stripped: false,
        has_payload: false,
        trace: None,
    }
}

/// The event that carries a delta to the other regions, and is the request's record at home. `term`: how often this region
/// was evicted before it.
pub fn of_delta(key: &Key, delta: &Delta, term: u64) -> Draft {
    let (of, id) = (json::quote(&key.of), json::quote(&key.id));
    let bytes = BASE64_STANDARD.encode(delta.encode());
    let term = if term == 0 { String::new() } else { format!(",\"term\":{term}") };
    draft(DELTA, None, format!("{{\"type\":{of},\"id\":{id},\"delta\":\"{bytes}\"{term}}}"))
}

/// The event of a conflict. Its key follows from the two writes: found again after a crash, it is known already.
pub fn of_conflict(key: &Key, conflict: &Conflict) -> Draft {
    let write = |write: &Write| {
        json!({
            "value": serde_json::from_str::<Value>(&write.value).unwrap_or_default(),
            "time": write.at.to_rfc3339(),
            "replica": write.dot.replica.to_string(),
            "number": write.dot.number,
        })
    };
    let dot = |write: &Write| format!("{}-{}", write.dot.replica, write.dot.number);
    let writes = format!("{}/{}", dot(&conflict.winner), dot(&conflict.loser));
    let place = hex(&Request::of(&format!("{key}/{}", conflict.slot)).0);
    let name = format!("{place}/{writes}");
    let detail = json!({
        "type": key.of,
        "id": key.id,
        "field": conflict.slot.to_string(),
        "resolution": resolution(conflict.kind),
        "winner": write(&conflict.winner),
        "loser": write(&conflict.loser),
        "key": name,
    });
    draft(CONFLICT, Some(name), detail.to_string())
}

/// How a conflict ended, as the metric's label says it.
pub fn resolution(kind: Kind) -> &'static str {
    match kind {
        Kind::MultiValue => "kept_both",
        _ => "last_writer",
    }
}

/// What an event of the hub says of documents.
pub fn read(record: &Record, schemas: &Schemas) -> Event {
    let header = &record.header;
    match (header.is_reserved(), record.detail_type()) {
        (true, DELTA) => delta(record.detail()),
        // What came over a link was done where it was published.
        (false, OPERATION) if !header.is_remote() => operation(record.detail(), header.key_hash, schemas),
        _ => Event::Other,
    }
}

/// Whether it is what a region did to a document.
pub fn is_delta(record: &Record) -> bool {
    record.header.is_reserved() && record.detail_type() == DELTA
}

/// Of an event of type [`DELTA`] and source [`RESERVED_SOURCE`].
pub fn delta(detail: &str) -> Event {
    read_delta(detail).unwrap_or_else(Event::Unreadable)
}

/// Of an event of type [`OPERATION`] that was published here.
pub fn operation(detail: &str, event: KeyHash, schemas: &Schemas) -> Event {
    let request = format!("event/{}", hex(&event.0));
    match read_operation(detail, schemas) {
        Ok((key, asked)) => Event::Operation { key, asked, request },
        Err(why) => Event::Unreadable(why),
    }
}

fn key_of(detail: &Json<'_>) -> Result<Key, String> {
    let text = |name: &str| match detail.get(name) {
        Some(Json::String(text)) => Ok(text.to_string()),
        _ => Err(format!("`{name}` is no string")),
    };
    Ok(Key { of: text("type")?, id: text("id")? })
}

fn read_delta(detail: &str) -> Result<Event, String> {
    let detail = json::parse(detail).map_err(|error| error.to_string())?;
    let text = detail.get("delta").and_then(Json::as_str).ok_or("`delta` is no string")?;
    let bytes = BASE64_STANDARD.decode(text).map_err(|error| error.to_string())?;
    let delta = Delta::decode(&bytes).map_err(|error| error.to_string())?;
    let term = match detail.get("term") {
        None => 0,
        Some(Json::Number(term)) => term.parse().map_err(|_| format!("`term` is {term}, which is no count"))?,
        Some(_) => return Err("`term` is no number".to_owned()),
    };
    Ok(Event::Delta(key_of(&detail)?, Box::new(delta), term))
}

fn read_operation(detail: &str, schemas: &Schemas) -> Result<(Key, Asked), String> {
    let detail = json::parse(detail).map_err(|error| error.to_string())?;
    let key = key_of(&detail)?;
    check_id(&key.id)?;
    let Some(schema) = schemas.get(&key.of) else { return Err(unknown_type(&key.of, schemas)) };
    let asked = match (detail.get("ops"), detail.get("delete")) {
        (Some(Json::Array(ops)), None) => {
            Asked::Ops(op::parse_all(schema, ops).map_err(|refused| refused.to_string())?)
        }
        (None, Some(Json::Bool(true))) => Asked::Delete,
        _ => return Err("there is neither an array `ops` nor `delete`: true".to_owned()),
    };
    Ok((key, asked))
}

/// # Errors
/// An id that no document may have, in words.
pub fn check_id(id: &str) -> Result<(), String> {
    use crate::core::state::ID_BYTES_MAX;
    match id.len() {
        0 => Err("a document's id is not empty".to_owned()),
        length if length > ID_BYTES_MAX => Err(format!("the id has {length} bytes; the limit is {ID_BYTES_MAX}")),
        _ if id.chars().any(char::is_control) => Err("a document's id has no control characters".to_owned()),
        _ => Ok(()),
    }
}

/// Says of an unknown type which ones there are.
pub fn unknown_type(of: &str, schemas: &Schemas) -> String {
    let names: Vec<String> = schemas.keys().map(|name| format!("`{name}`")).collect();
    format!("document type `{of}` is unknown; there are {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        state::{
            Replica,
            document::Merged,
            testing::{key, ops, schema},
        },
        testing,
    };

    fn schemas() -> Schemas {
        Schemas::from([("profile".to_owned(), schema())])
    }

    fn record(draft: &Draft) -> Record {
        testing::record_of(draft)
    }

    #[test]
    fn a_delta_comes_back_from_its_event() {
        let dot = Dot { replica: Replica(7), number: 1 };
        let ops = ops(r#"{"field":"plays","op":"increment","by":1}"#);
        let delta = Document::default().operate(dot, Timestamp(5), None, &ops).unwrap();
        for term in [0, 7] {
            let draft = of_delta(&key(), &delta, term);
            assert_eq!(read(&record(&draft), &schemas()), Event::Delta(key(), Box::new(delta.clone()), term));
        }
        let draft = of_delta(&key(), &delta, 0);
        assert!(!draft.detail.contains("term"), "as builds before wrote it");
        let spoiled = Draft { detail: draft.detail.replace("\"delta\":\"A", "\"delta\":\"B"), ..draft };
        assert!(matches!(read(&record(&spoiled), &schemas()), Event::Unreadable(_)));
    }

    #[test]
    fn a_conflict_has_the_same_key_whoever_finds_it() {
        let write = |replica, text: &str| {
            let dot = Dot { replica: Replica(replica), number: 1 };
            let ops = ops(&format!(r#"{{"field":"language","op":"set","value":"{text}"}}"#));
            Document::default().operate(dot, Timestamp(replica), None, &ops).unwrap()
        };
        let (one, other) = (write(1, "de"), write(2, "fr"));
        let meet = |first: &Delta, then: &Delta| {
            let mut document = Document::default();
            document.merge_delta(first);
            match document.merge_delta(then) {
                Merged::New(conflicts) => of_conflict(&key(), &conflicts[0]),
                other => panic!("{other:?}"),
            }
        };
        let draft = meet(&one, &other);
        assert_eq!(draft, meet(&other, &one));
        let detail: Value = serde_json::from_str(&draft.detail).unwrap();
        assert_eq!((&detail["winner"]["value"], &detail["loser"]["value"]), (&json!("fr"), &json!("de")));
    }

    #[test]
    fn operations_are_taken_from_local_events_and_judged() {
        let event = |detail: &str| {
            let draft = Draft {
                source: "app".to_owned(),
                detail_type: OPERATION.to_owned(),
                ..draft("", None, detail.to_owned())
            };
            read(&record(&draft), &schemas())
        };
        let right = event(r#"{"type":"profile","id":"u1","ops":[{"field":"plays","op":"increment","by":1}]}"#);
        assert!(matches!(right, Event::Operation { asked: Asked::Ops(_), .. }), "{right:?}");
        assert!(matches!(
            event(r#"{"type":"profile","id":"u1","delete":true}"#),
            Event::Operation { asked: Asked::Delete, .. }
        ));
        for (detail, why) in [
            (r#"{"type":"order","id":"u1","ops":[]}"#, "document type `order` is unknown; there are `profile`"),
            (r#"{"type":"profile","id":"","ops":[]}"#, "not empty"),
            (r#"{"type":"profile","id":"u1"}"#, "neither an array `ops`"),
            (r#"{"type":"profile","id":"u1","ops":[{"field":"x","op":"set"}]}"#, "field `x` is unknown"),
        ] {
            match event(detail) {
                Event::Unreadable(said) => assert!(said.contains(why), "{said}"),
                other => panic!("{detail}: {other:?}"),
            }
        }
    }
}
