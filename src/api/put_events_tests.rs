use proptest::prelude::*;
use serde_json::json;

use super::*;

fn ingress() -> Ingress {
    Ingress {
        key_pointers: vec!["/detail/idempotencyKey".to_owned()],
        reference_pointers: Vec::new(),
        max_entry_bytes: 1_000,
    }
}

fn parse_text(body: &str) -> Result<Vec<Result<Draft, EntryError>>, RequestError> {
    let hub = "arn:aws:events:eu-central-1:123456789012:event-bus/hub".to_owned();
    parse(body.as_bytes(), &[hub, "other".to_owned()], &ingress())
}

fn one(members: serde_json::Value) -> Result<Draft, EntryError> {
    let mut entry = json!({"Source": "app", "DetailType": "Order", "Detail": "{}"});
    entry.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    parse_text(&json!({ "Entries": [entry] }).to_string()).unwrap().remove(0)
}

const FULL: &str = r#"{"Entries":[{"Time":1.7954E9,"Source":"app","Resources":["arn:a"],"DetailType":"Order",
    "Detail":"{\"idempotencyKey\":\"k\",\"n\":1.10}","EventBusName":"hub","TraceHeader":"Root=1","New":{"a":[]}},
    {"Source":"app","DetailType":"Order","Detail":"[]"}],"EndpointId":"abc.xyz"}"#;

#[test]
fn a_request_of_the_cli_becomes_drafts_in_its_order() {
    let mut entries = parse_text(FULL).unwrap();
    assert_eq!(entries[1].as_ref().unwrap_err().code, "MalformedDetail");
    let draft = entries.remove(0).unwrap();
    assert_eq!(draft.detail, r#"{"idempotencyKey":"k","n":1.10}"#);
    assert_eq!(draft.key.as_deref(), Some("k"));
    assert_eq!((draft.source.as_str(), draft.detail_type.as_str()), ("app", "Order"));
    assert_eq!(draft.time, Some(Timestamp(1_795_400_000_000_000_000)));
    assert_eq!(draft.resources, ["arn:a"]);
    assert_eq!(draft.trace.as_deref(), Some("Root=1"));
}

#[test]
fn a_trace_header_has_1_to_500_characters() {
    for length in [0, 501] {
        let entry = json!({"Source": "app", "DetailType": "T", "Detail": "{}", "TraceHeader": "x".repeat(length)});
        let error = parse_text(&json!({ "Entries": [entry] }).to_string()).unwrap_err();
        assert_eq!(error.code, "ValidationException");
        assert!(error.message.contains(&format!("TraceHeader has {length} characters")), "{error}");
    }
    assert_eq!(one(json!({"TraceHeader": null})).unwrap().trace, None);
    assert_eq!(one(json!({"TraceHeader": "x".repeat(500)})).unwrap().trace.unwrap().len(), 500);
}

#[test]
fn times_are_exact_epoch_seconds_or_rfc_3339_text() {
    let cases = [
        ("1795428000", Some(1_795_428_000_000_000_000)),
        ("1795428000.123456789", Some(1_795_428_000_123_456_789)),
        ("1795428000.1234567899", Some(1_795_428_000_123_456_789)),
        ("1.795428e9", Some(1_795_428_000_000_000_000)),
        ("0", Some(0)),
        ("1e-400", Some(0)),
        ("\"1970-01-01T00:00:01Z\"", Some(1_000_000_000)),
        ("-1", None),
        ("18446744074", None),
        ("1795428000000", None),
        ("1e999999999999", None),
        ("1e99999999999999999999999", None),
        ("1e-99999999999999999999999", None),
        ("\"yesterday\"", None),
        ("\"1969-12-31T23:59:59Z\"", None),
    ];
    for (time, expected) in cases {
        let body = format!(r#"{{"Entries":[{{"Time":{time},"Source":"a","DetailType":"b","Detail":"{{}}"}}]}}"#);
        match parse_text(&body).unwrap().remove(0) {
            Ok(draft) => assert_eq!(draft.time.map(|time| time.0), expected, "{time}"),
            Err(error) => assert_eq!((error.code, expected), ("InvalidArgument", None), "{time}"),
        }
    }
    assert_eq!(one(json!({"Time": null})).unwrap().time, None);
}

#[test]
fn only_this_hub_is_known() {
    for name in [
        "default",
        "hub",
        "other",
        "arn:aws:events:eu-central-1:123456789012:event-bus/hub",
        "arn:aws:events:us-east-1:1:event-bus/other",
    ] {
        assert!(one(json!({"EventBusName": name})).is_ok(), "{name}");
    }
    for name in ["", "Hub", "elsewhere", "arn:aws:events:us-east-1:123456789012:event-bus/hub", "arn:"] {
        let error = one(json!({"EventBusName": name})).unwrap_err();
        assert_eq!(error.code, "ResourceNotFoundException", "{name}");
        assert_eq!(error.message, format!("Event bus {name} does not exist."));
    }
}

#[test]
fn absent_members_are_named_per_entry() {
    for (member, value) in [("Source", json!(null)), ("DetailType", json!(null)), ("Detail", json!(""))] {
        let error = one(json!({ member: value })).unwrap_err();
        assert_eq!(error.code, "InvalidArgument");
        assert_eq!(error.message, format!("Parameter {member} is not valid. Reason: {member} is a required argument."));
    }
}

#[test]
fn a_request_that_is_wrong_as_a_whole_is_refused_as_a_whole() {
    let entry = json!({"Source": "app", "DetailType": "Order", "Detail": "{}"});
    let large = json!({"Source": "app", "DetailType": "Order", "Detail": json!({"a": "x".repeat(600)}).to_string()});
    let start = "1 validation error detected: Value ";
    let constraint = |rest: &str| format!("{start}{rest}");
    let failed = " at 'entries' failed to satisfy constraint: Member must ";
    let cases = [
        (
            json!({"Entries": vec![&entry; 11]}),
            "ValidationException",
            constraint(&format!("'[...]'{failed}have length less than or equal to 10")),
        ),
        (
            json!({"Entries": []}),
            "ValidationException",
            constraint(&format!("'[]'{failed}have length greater than or equal to 1")),
        ),
        (json!({}), "ValidationException", constraint(&format!("null{failed}not be null"))),
        (
            json!({"Entries": [&large, &large]}),
            "ValidationException",
            "Total size of the entries in the request is over the limit.".to_owned(),
        ),
        (json!({"Entries": [5]}), "SerializationException", "An entry is no JSON object.".to_owned()),
        (json!({"Entries": {}}), "SerializationException", "Entries is no list.".to_owned()),
        (
            json!({"Entries": [{"Source": 5}]}),
            "SerializationException",
            "Source can not be converted to a String.".to_owned(),
        ),
        (
            json!({"Entries": [{"Resources": [5]}]}),
            "SerializationException",
            "Resources can not be converted to a String.".to_owned(),
        ),
        (json!({"Entries": [{"Time": true}]}), "SerializationException", "Time is no number.".to_owned()),
        (json!([]), "SerializationException", "The request is no JSON object.".to_owned()),
    ];
    for (body, code, message) in cases {
        assert_eq!(parse_text(&body.to_string()), Err(RequestError { code, message }));
    }
    assert_eq!(parse(b"{\"Entries\":[\xff", &[], &ingress()).unwrap_err().code, "SerializationException");
    assert_eq!(parse_text("").unwrap_err().code, "SerializationException");
    assert!(parse_text(&json!({"Entries": vec![&entry; 10]}).to_string()).is_ok());
    let body = RequestError::validation("why").body();
    assert_eq!(body, json!({"__type": "ValidationException", "message": "why"}));
}

#[test]
fn the_answer_counts_what_failed() {
    let accepted = ResponseEntry::Accepted { event_id: "1".to_owned() };
    let failed = EntryError { code: "MalformedDetail", message: "Detail is malformed.".to_owned() };
    let response = Response::new(vec![accepted, failed.into()]);
    let expected = concat!(
        r#"{"FailedEntryCount":1,"Entries":[{"EventId":"1"},"#,
        r#"{"ErrorCode":"MalformedDetail","ErrorMessage":"Detail is malformed."}]}"#
    );
    assert_eq!(serde_json::to_string(&response).unwrap(), expected);
}

#[test]
fn hostile_bodies_are_refused_or_read() {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let with_detail =
        |detail: &str| json!({"Entries": [{"Source": "a", "DetailType": "b", "Detail": detail}]}).to_string();
    assert!(parse_text(&nested(100_000)).is_err());
    assert!(parse_text(&format!("{{\"Entries\":[{{\"New\":{}}}]}}", nested(250))).is_err());
    assert!(parse_text(&with_detail(&format!("{{\"a\":{}}}", nested(250)))).unwrap()[0].is_err());
    assert!(parse_text(&with_detail("{\"a\":1e99999,\"b\":123456789012345678901234567890}")).unwrap()[0].is_ok());
    let repeated = r#"{"Entries":[],"Entries":[{"Source":"x","Source":"y","DetailType":"b","Detail":"{}"}]}"#;
    assert_eq!(parse_text(repeated).unwrap()[0].as_ref().unwrap().source, "y");
}

proptest! {
    #[test]
    fn no_bytes_panic(body in any::<Vec<u8>>()) {
        let _ = parse(&body, &[], &ingress());
    }

    #[test]
    fn no_mutation_of_a_valid_request_panics(
        cut in 0..=FULL.len(), flips in prop::collection::vec((0..FULL.len(), any::<u8>()), 0..4)
    ) {
        let mut body = FULL.as_bytes().to_vec();
        for (at, byte) in flips {
            body[at] = byte;
        }
        let _ = parse(&body, &[], &ingress());
        body.truncate(cut);
        let _ = parse(&body, &[], &ingress());
    }
}
