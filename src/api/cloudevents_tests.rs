use proptest::prelude::*;
use serde_json::json;

use super::*;

const JSON: &str = "application/cloudevents+json; charset=utf-8";
const BATCH: &str = "application/cloudevents-batch+json";

const EVENT: &str = r#"{"specversion":"1.0","id":"é-1","source":"/shop","type":"order.placed",
    "time":"2026-11-23T10:00:00Z","subject":"42","priority":7,"sampled":true,"gone":null,
    "data":{"n":1.10,"cloudevents":"copied","hubweave":{}}}"#;

fn ingress() -> Ingress {
    Ingress {
        key_pointers: vec!["/detail/idempotencyKey".to_owned()],
        reference_pointers: Vec::new(),
        max_entry_bytes: 100_000,
    }
}

fn read(content_type: &str, body: &str) -> Result<Vec<Draft>, RequestError> {
    parse(Some(content_type), std::iter::empty(), body.as_bytes(), &ingress())
}

fn read_binary(content_type: Option<&str>, headers: &[(&str, &str)], body: &[u8]) -> Result<Draft, RequestError> {
    let required = [("CE-SpecVersion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t"), ("host", "x")];
    let all = required.iter().chain(headers).map(|(name, value)| (*name, value.as_bytes()));
    parse(content_type, all, body, &ingress()).map(|mut drafts| drafts.remove(0))
}

#[test]
fn a_structured_event_keeps_data_and_attributes_as_written() {
    let draft = read(JSON, EVENT).unwrap().remove(0);
    assert_eq!((draft.source.as_str(), draft.detail_type.as_str()), ("/shop", "order.placed"));
    assert_eq!(draft.key.as_deref(), Some("é-1"));
    assert_eq!(draft.time, Timestamp::parse_rfc3339("2026-11-23T10:00:00Z"));
    assert!(draft.stamp_stripped && draft.resources.is_empty());
    let expected = concat!(
        r#"{"n":1.10,"cloudevents":{"specversion":"1.0","id":"é-1","subject":"42","#,
        r#""priority":7,"sampled":true}}"#
    );
    assert_eq!((draft.detail.as_str(), draft.trace), (expected, None));
}

#[test]
fn the_attribute_of_a_trace_is_the_events_trace_where_it_is_well_formed() {
    const PARENT: &str = "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01";
    let event = |parent: &str| {
        let event = json!({"specversion": "1.0", "id": "1", "source": "s", "type": "t", "traceparent": parent});
        read(JSON, &event.to_string()).unwrap().remove(0)
    };
    assert_eq!(event(PARENT).trace.as_deref(), Some(PARENT));
    assert!(event(PARENT).detail.contains(PARENT), "readers find it among the attributes");
    assert_eq!(event("someone's own").trace, None);
    // A later version may have more at its end, but not without an end.
    let later = |length: usize| format!("01{}-{}", &PARENT[2..], "a".repeat(length - PARENT.len() - 1));
    assert_eq!(event(&later(500)).trace.map(|trace| trace.len()), Some(500));
    assert_eq!((event(&later(501)).trace, event(&later(70_000)).trace), (None, None));
    assert!(event("someone's own").detail.contains("someone's own"));
    assert_eq!(read_binary(None, &[("ce-traceparent", PARENT)], b"").unwrap().trace.as_deref(), Some(PARENT));
}

#[test]
fn data_that_is_no_object_is_wrapped() {
    let cases = [
        (r#","data":[1, 2.0]"#, r#"{"data":[1, 2.0],"#),
        (r#","data":"text""#, r#"{"data":"text","#),
        (r#","data":null"#, r#"{"data":null,"#),
        (r#","data":1,"data":{"last":1}"#, r#"{"last":1,"#),
        (r#","data_base64":"aGk=""#, r#"{"data_base64":"aGk=","#),
        ("", "{"),
    ];
    for (data, start) in cases {
        let body = format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"t"{data}}}"#);
        let detail = read(JSON, &body).unwrap().remove(0).detail;
        assert_eq!(detail, format!(r#"{start}"cloudevents":{{"specversion":"1.0","id":"1"}}}}"#));
    }
}

#[test]
fn a_batch_is_taken_in_order_or_refused_as_a_whole() {
    let event = |id: usize| format!(r#"{{"specversion":"1.0","id":"{id}","source":"s","type":"t"}}"#);
    let batch = |count: usize| format!("[{}]", (0..count).map(event).collect::<Vec<_>>().join(" , "));
    let keys: Vec<_> = read(BATCH, &batch(3)).unwrap().into_iter().filter_map(|draft| draft.key).collect();
    assert_eq!(keys, ["0", "1", "2"]);
    assert_eq!(read(BATCH, "[]"), Ok(Vec::new()));
    assert_eq!(read(BATCH, &batch(1_000)).unwrap().len(), 1_000);
    assert_eq!(read(BATCH, &batch(1_001)).unwrap_err().status, 413);
    let error = read(BATCH, &format!("[{},{}]", event(0), r#"{"specversion":"1.0","id":"1","source":"s"}"#));
    assert_eq!(error, Err(RequestError::bad("event 1: attribute `type`: is missing")));
}

#[test]
fn refusals_name_the_attribute() {
    let event = |changes: serde_json::Value| {
        let mut event = json!({"specversion": "1.0", "id": "1", "source": "s", "type": "t"});
        event.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        read(JSON, &event.to_string()).unwrap_err()
    };
    let cases = [
        (json!({"id": null}), "attribute `id`: is missing"),
        (json!({"id": ""}), "attribute `id`: is empty"),
        (json!({"id": 5}), "attribute `id`: is no string"),
        (json!({"specversion": "0.3"}), "attribute `specversion`: is \"0.3\"; 1.0 is supported"),
        (json!({"time": "noon"}), "attribute `time`: \"noon\" is no RFC 3339 time"),
        (json!({"subject": 5}), "attribute `subject`: is no string"),
        (json!({"traceParent": "x"}), "attribute `traceParent`: no attribute name"),
        (json!({"extra": {"a": 1}}), "attribute `extra`: is no string, boolean or 32-bit integer"),
        (json!({"extra": 2147483648u32}), "attribute `extra`: is no string, boolean or 32-bit integer"),
        (json!({"data_base64": "a"}), "attribute `data_base64`: is no base64 text"),
        (json!({"data_base64": "aGk=", "data": 1}), "attribute `data_base64`: stands beside `data`"),
        (json!({"source": "aws.s3"}), "Not authorized for the source."),
        (json!({"source": "hubweave"}), "Parameter Source is not valid."),
        (json!({"id": "k".repeat(1025)}), "Parameter Detail is not valid. Reason: The idempotency key"),
    ];
    for (changes, expected) in cases {
        let error = event(changes);
        assert!(error.status == 400 && error.message.starts_with(expected), "{error}");
    }
    assert_eq!(event(json!({"data": "x".repeat(100_001)})).status, 413);
    assert_eq!(read("application/cloudevents+avro", "").unwrap_err().status, 415);
    assert_eq!(read(JSON, "[]").unwrap_err().status, 400);
    assert_eq!(read("application/json", "{}").unwrap_err().status, 415);
}

#[test]
fn binary_headers_are_percent_decoded_once() {
    let headers =
        [("ce-subject", "Euro%20%E2%82%AC%2525 \u{1f600}"), ("ce-note", "\"a \\\"b\\\"\""), ("ce-odd", "100%")];
    let draft = read_binary(Some("application/json"), &headers, br#" {"a":1.0} "#).unwrap();
    let expected = concat!(
        r#"{"a":1.0,"cloudevents":{"specversion":"1.0","id":"1","subject":"Euro €%25 😀","#,
        r#""note":"a \"b\"","odd":"100%","#,
        r#""datacontenttype":"application/json"}}"#
    );
    assert_eq!(draft.detail, expected);
    assert_eq!(draft.key.as_deref(), Some("1"));
    let twice = read_binary(None, &[("ce-id", "2")], b"").unwrap_err();
    assert_eq!(twice.message, "attribute `id`: stands there twice");
    assert_eq!(read_binary(None, &[("ce-a", "%ff")], b"").unwrap_err().message, "attribute `a`: is not UTF-8");
    assert_eq!(read_binary(None, &[("ce-time", "noon")], b"").unwrap_err().status, 400);
}

#[test]
fn a_binary_body_of_any_content_type_becomes_detail() {
    let cases: [(Option<&str>, &[u8], Option<&str>); 11] = [
        (Some("application/json; charset=utf-8"), b"[1]", Some(r#"{"data":[1],"#)),
        (Some("application/vnd.x+json"), b"{\"a\":1}", Some(r#"{"a":1,"#)),
        (Some("text/plain"), b"{\"a\":1}", Some(r#"{"data":"{\"a\":1}","#)),
        (Some("text/plain"), b"hi\n", Some(r#"{"data":"hi\n","#)),
        (Some("image/png"), b"\x89\xff", Some(r#"{"data_base64":"if8=","#)),
        (Some("application/json"), b"", Some("{")),
        (Some("application/json"), b"{", None),
        (Some("application/json"), b"\"\xff\"", None),
        (None, b"{\"a\":1}", Some(r#"{"a":1,"#)),
        (None, b"plain", Some(r#"{"data":"plain","#)),
        (None, b"\xff", Some(r#"{"data_base64":"/w==","#)),
    ];
    for (content_type, body, start) in cases {
        let found = read_binary(content_type, &[], body);
        match start {
            Some(start) => {
                let detail = found.unwrap().detail;
                assert!(detail.starts_with(&format!("{start}\"cloudevents\":{{")), "{detail}");
            }
            None => assert_eq!(found.unwrap_err().status, 400),
        }
    }
}

#[test]
fn the_answer_names_each_event_and_its_outcome() {
    let outcomes = [Outcome::Accepted, Outcome::Duplicate, Outcome::Conflict];
    let results = outcomes.map(|outcome| EventResult { id: "1".to_owned(), outcome }).to_vec();
    let expected = json!({"results": [
        {"id": "1", "outcome": "accepted"}, {"id": "1", "outcome": "duplicate"}, {"id": "1", "outcome": "conflict"},
    ]});
    assert_eq!(serde_json::to_value(Response { results }).unwrap(), expected);
}

#[test]
fn hostile_bodies_are_refused_or_read() {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert!(read(BATCH, &nested(100_000)).is_err());
    let with = |data: &str| format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"t","data":{data}}}"#);
    for levels in 95..105 {
        // What is near the limit is refused here or by the ingress, whichever counts the wrapping.
        let _ = (read(JSON, &with(&nested(levels))), read(BATCH, &format!("[{}]", with(&nested(levels)))));
    }
    assert!(read(JSON, &with(&nested(250))).is_err());
    assert!(read(JSON, &with("1e99999")).is_ok());
    let members: String = (0..100_000).map(|index| format!("\"a{index}\":1,")).collect();
    assert!(read(JSON, &with(&format!("1,{members}\"z\":1"))).unwrap_err().message.contains("the limit is 100"));
    assert!(read_binary(Some("application/json"), &[], nested(250).as_bytes()).is_err());
    assert!(read_binary(None, &[], nested(250).as_bytes()).is_ok());
}

proptest! {
    #[test]
    fn no_bytes_panic(body in any::<Vec<u8>>(), header in any::<Vec<u8>>(), name in "ce-[a-z]{0,3}|\\PC{0,5}") {
        for content_type in [None, Some(JSON), Some(BATCH), Some("application/json"), Some(name.as_str())] {
            let headers = [("ce-specversion", &b"1.0"[..]), (name.as_str(), &header), ("ce-id", &header)];
            let _ = parse(content_type, headers.into_iter(), &body, &ingress());
        }
    }

    #[test]
    fn no_mutation_of_a_valid_event_panics(
        cut in 0..=EVENT.len(), flips in prop::collection::vec((0..EVENT.len(), any::<u8>()), 0..4)
    ) {
        let mut body = EVENT.as_bytes().to_vec();
        for (at, byte) in flips {
            body[at] = byte;
        }
        let batch = [b"[", &body[..], b",", &body[..cut]].concat();
        for (content_type, body) in [(JSON, &body[..]), (JSON, &body[..cut]), (BATCH, &batch[..])] {
            let _ = parse(Some(content_type), std::iter::empty(), body, &ingress());
        }
    }

    #[test]
    fn any_text_survives_a_header(text in "\\PC{1,20}") {
        let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let draft = read_binary(None, &[("ce-subject", &encoded)], b"").unwrap();
        let subject = json::pointer_string(&draft.detail, "/cloudevents/subject");
        prop_assert_eq!(subject, Some(text));
    }
}
