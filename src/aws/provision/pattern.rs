//! The patterns of the rules.
//!
//! EventBridge matches leaves: "published here" is the absence of `detail.hubweave.origin`. On `detail.hubweave` itself,
//! which is an object, `exists: false` would match stamped events as well.

use serde_json::{Map, Value, json};

use crate::core::event::{RESERVED_SOURCE, STATE_CONFLICT, STATE_DELTA, STATE_OPERATION};

/// EventBridge's bound on a pattern.
pub const CHARACTERS_MAX: usize = 2_048;

/// EventBridge's bound on the rules of a bus.
pub const RULES_MAX: usize = 300;

/// A link's filter, and published here.
///
/// # Errors
/// The filter speaks of the stamp itself, so nothing could match both; or it is too long.
pub fn feed(filter: &Value) -> Result<Value, String> {
    let mut pattern = filter.clone();
    let detail = object(&mut pattern, "detail")?;
    let stamp = object(detail, "hubweave")?;
    let Some(stamp) = stamp.as_object_mut() else { return Err("detail.hubweave is no object".to_owned()) };
    if stamp.contains_key("origin") {
        return Err("its pattern asks for detail.hubweave.origin, and a link sends what has none".to_owned());
    }
    stamp.insert("origin".to_owned(), json!([{ "exists": false }]));
    let length = pattern.to_string().chars().count();
    match length > CHARACTERS_MAX {
        true => Err(format!("the rule's pattern has {length} characters, EventBridge takes {CHARACTERS_MAX}")),
        false => Ok(pattern),
    }
}

/// hubweave's own events, published here, but for those that each region makes for itself.
pub fn own() -> Value {
    let mut pattern = unstamped();
    pattern["source"] = json!([RESERVED_SOURCE]);
    pattern["detail-type"] = json!([{ "anything-but": [STATE_CONFLICT] }]);
    pattern
}

/// What other regions did to documents.
pub fn deltas() -> Value {
    let mut pattern = own_arrivals();
    pattern["detail-type"] = json!([STATE_DELTA]);
    pattern
}

/// What services want done to documents, published here.
pub fn operations() -> Value {
    let mut pattern = local();
    pattern["detail-type"] = json!([STATE_OPERATION]);
    pattern
}

/// What services published here.
pub fn local() -> Value {
    let mut pattern = unstamped();
    pattern["source"] = json!([{ "anything-but": [RESERVED_SOURCE] }]);
    pattern
}

/// What came over links.
pub fn arrivals() -> Value {
    json!({ "detail": { "hubweave": { "origin": [{ "exists": true }] } } })
}

/// hubweave's own events that came over links.
pub fn own_arrivals() -> Value {
    let mut pattern = arrivals();
    pattern["source"] = json!([RESERVED_SOURCE]);
    pattern
}

fn unstamped() -> Value {
    json!({ "detail": { "hubweave": { "origin": [{ "exists": false }] } } })
}

/// The member, made where it is absent.
fn object<'v>(value: &'v mut Value, name: &str) -> Result<&'v mut Value, String> {
    let Some(members) = value.as_object_mut() else { return Err(format!("`{name}` is in no object")) };
    let member = members.entry(name).or_insert_with(|| Value::Object(Map::new()));
    match member.is_object() {
        true => Ok(member),
        false => Err(format!("`{name}` is no object in its pattern")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::pattern::Pattern;

    fn matches(pattern: &Value, event: &Value) -> bool {
        Pattern::parse(pattern).unwrap().matches(event)
    }

    #[test]
    fn a_feed_takes_what_the_filter_wants_and_was_published_here() {
        let filter = json!({ "source": [{ "prefix": "app." }], "detail": { "n": [1] } });
        let pattern = feed(&filter).unwrap();
        let mut event = json!({ "source": "app.shop", "detail": { "n": 1, "hubweave": "a service's own word" } });
        assert!(matches(&pattern, &event));
        event["detail"]["hubweave"] = json!({ "origin": "eu" });
        assert!(!matches(&pattern, &event), "it came over a link");
        assert!(!matches(&pattern, &json!({ "source": "app.shop", "detail": { "n": 2 } })));
        assert_eq!(feed(&json!({})).unwrap(), unstamped());
    }

    #[test]
    fn a_filter_on_the_stamp_or_beyond_the_limit_is_refused() {
        assert!(feed(&json!({ "detail": { "hubweave": { "origin": ["eu"] } } })).unwrap_err().contains("origin"));
        let long = json!({ "source": (0..300).map(|n| format!("app.{n}")).collect::<Vec<_>>() });
        assert!(feed(&long).unwrap_err().contains("2048"));
    }

    #[test]
    fn heartbeats_local_events_and_arrivals_are_told_apart() {
        let heartbeat = json!({ "source": "hubweave", "detail-type": "Heartbeat", "detail": { "number": 1 } });
        let local = json!({ "source": "app", "detail": {} });
        let arrival = json!({ "source": "app", "detail": { "hubweave": { "origin": "eu" } } });
        let beat = json!({ "source": "hubweave", "detail": { "hubweave": { "origin": "eu" } } });
        let table = [
            (own(), [true, false, false, false]),
            (self::local(), [false, true, false, false]),
            (arrivals(), [false, false, true, true]),
            (own_arrivals(), [false, false, false, true]),
        ];
        for (pattern, expected) in table {
            let found = [&heartbeat, &local, &arrival, &beat].map(|event| matches(&pattern, event));
            assert_eq!(found, expected, "{pattern}");
        }
        let conflict = json!({ "source": "hubweave", "detail-type": "State Conflict", "detail": {} });
        assert!(!matches(&own(), &conflict), "every region finds its own");
    }

    #[test]
    fn what_is_about_documents_is_told_apart() {
        let stamp = json!({ "hubweave": { "origin": "eu" } });
        let event = |source: &str, kind: &str, detail: &Value| json!({ "source": source, "detail-type": kind, "detail": detail });
        let events = [
            event("hubweave", "State Delta", &stamp),
            event("hubweave", "State Delta", &json!({})),
            event("hubweave", "Heartbeat", &stamp),
            event("app", "State Operation", &json!({})),
            event("app", "State Operation", &stamp),
            event("app", "Played", &json!({})),
        ];
        let found = |pattern: Value| events.each_ref().map(|event| matches(&pattern, event));
        assert_eq!(found(deltas()), [true, false, false, false, false, false]);
        assert_eq!(found(operations()), [false, false, false, true, false, false]);
    }
}
