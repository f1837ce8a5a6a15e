use super::*;

fn draft(detail: &str) -> Draft {
    Draft {
        key: Some("k-1".to_owned()),
        source: "app.orders".to_owned(),
        detail_type: "Order \"Placed\"".to_owned(),
        detail: detail.to_owned(),
        time: None,
        resources: vec!["arn:a".to_owned()],
        payload_hash: PayloadHash([7; 32]),
        stamp_stripped: false,
        has_payload: false,
        trace: None,
    }
}

fn placement(offset: u64) -> Placement {
    let at = Timestamp::from_millis(1_700_000_000_000);
    Placement { offset, accepted: at, hlc: at, local_events: offset, local_bytes: 10 }
}

fn local(detail: &str) -> Record {
    let mut out = Vec::new();
    let draft = draft(detail);
    let key_hash = KeyHash::of(&draft.source, &draft.detail_type, "k-1");
    encode_local(&mut out, &draft, "k-1", key_hash, Incarnation::from_random(9), placement(42));
    Record::parse(Bytes::from(out)).unwrap()
}

#[test]
fn a_records_offset_is_found_without_the_rest_of_it() {
    let (mut raw, hash, at) = (Vec::new(), KeyHash([1; 16]), placement(0x0102_0304_0506_0708));
    encode_local(&mut raw, &draft("{}"), "k", hash, Incarnation::from_random(9), at);
    assert_eq!(Record::offset_of(&raw), Some(0x0102_0304_0506_0708));
    assert_eq!(Record::offset_of(&raw[..HEADER_BYTES - 1]), None);
}

#[test]
fn a_local_record_reads_back_and_has_no_stamp() {
    let record = local(r#"{"a":1}"#);
    assert_eq!((record.key(), record.source(), record.detail()), ("k-1", "app.orders", r#"{"a":1}"#));
    assert!(record.header.is_local_business());
    let envelope: serde_json::Value =
        serde_json::from_str(&record.envelope_json("eu-central-1", Incarnation(1))).unwrap();
    assert_eq!(envelope["detail-type"], "Order \"Placed\"");
    assert_eq!(envelope["time"], "2023-11-14T22:13:20Z");
    assert_eq!(envelope["detail"], serde_json::json!({"a": 1}));
    assert_eq!(envelope["resources"], serde_json::json!(["arn:a"]));
}

#[test]
fn an_arrival_keeps_what_the_producer_wrote_and_gains_the_stamp() {
    for detail in ["{}", " { } ", r#"{"a":1.50 , "b":"ü"}"#] {
        let home = local(detail);
        let mut out = Vec::new();
        encode_arrival(&mut out, &home, "eu-central-1", "us-east-1", placement(7));
        let arrived = Record::parse(Bytes::from(out)).unwrap();
        let envelope: serde_json::Value =
            serde_json::from_str(&arrived.envelope_json("us-east-1", Incarnation::from_random(3))).unwrap();
        let stamp = &envelope["detail"]["hubweave"];
        assert_eq!(stamp["origin"], "eu-central-1");
        assert_eq!(stamp["id"], home.id(Incarnation(0)).to_string());
        assert_eq!(stamp["sequence"], 42);
        assert_eq!(stamp["hops"], 1);
        assert_eq!(stamp["key"], "k-1");
        assert_eq!(stamp["account"], EMBEDDED_ACCOUNT);
        assert_ne!(envelope["id"], stamp["id"]);
        assert_eq!(arrived.detail(), detail);
    }
}

#[test]
fn a_trace_goes_along_unchanged_and_is_not_in_the_envelope() {
    const TRACE: &str = "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1";
    let mut out = Vec::new();
    let traced = Draft { trace: Some(TRACE.to_owned()), ..draft(r#"{"a":1}"#) };
    encode_local(&mut out, &traced, "k-1", KeyHash::of("s", "t", "k-1"), Incarnation(9), placement(42));
    let home = Record::parse(Bytes::from(out)).unwrap();
    let without = local(r#"{"a":1}"#);
    assert_eq!((without.trace(), home.trace()), (None, Some(TRACE)));
    assert_eq!(home.trace_id().as_deref(), Some("5759e988bd862e3fe1be46a994272793"));
    assert!(home.envelope_json("a", Incarnation(9)).ends_with(r#""detail":{"a":1}}"#));
    let mut out = Vec::new();
    encode_arrival(&mut out, &home.with_detail(r#"{"a":"longer"}"#), "a", "b", placement(7));
    let at_b = Record::parse(Bytes::from(out)).unwrap();
    let mut out = Vec::new();
    encode_arrival(&mut out, &at_b, "b", "c", placement(8));
    for arrived in [at_b, Record::parse(Bytes::from(out)).unwrap()] {
        assert_eq!((arrived.trace(), arrived.detail()), (Some(TRACE), r#"{"a":"longer"}"#));
        assert_eq!((arrived.origin_region(), arrived.origin_id()), (Some("a"), home.id(Incarnation(0)).to_string()));
    }
}

#[test]
fn a_trace_that_is_too_long_spoils_no_record() {
    for length in [TRACE_BYTES_MAX, TRACE_BYTES_MAX + 1, 70_000] {
        let traced = Draft { trace: Some("x".repeat(length)), ..draft("{}") };
        let mut out = Vec::new();
        encode_local(&mut out, &traced, "k-1", KeyHash::of("s", "t", "k-1"), Incarnation(9), placement(42));
        let record = Record::parse(Bytes::from(out)).unwrap();
        assert_eq!(record.trace().map(str::len), (length <= TRACE_BYTES_MAX).then_some(length));
    }
}

#[test]
fn a_repaired_event_keeps_its_first_origin() {
    let home = local("{}");
    let mut out = Vec::new();
    encode_arrival(&mut out, &home, "a", "b", placement(7));
    let at_b = Record::parse(Bytes::from(out)).unwrap();
    let mut out = Vec::new();
    encode_arrival(&mut out, &at_b, "b", "c", placement(8));
    let at_c = Record::parse(Bytes::from(out)).unwrap();
    assert_eq!(at_c.origin_region(), Some("a"));
    assert_eq!(at_c.header.hops, 2);
    assert!(at_c.header.is_repaired());
    assert_eq!(at_c.header.origin, home.header.origin);
    let mut out = Vec::new();
    encode_arrival(&mut out, &at_c, "c", "a", placement(9));
    let at_a = Record::parse(Bytes::from(out)).unwrap();
    assert!(at_a.came_back_to("a") && !at_a.came_back_to("b") && !home.came_back_to("a"));
    assert_eq!(at_a.header.hops, 1, "at home it begins anew");
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
        let _ = Record::parse(Bytes::from(bytes));
    }

    #[test]
    fn a_flipped_byte_never_panics(position in 0usize..200, value in proptest::num::u8::ANY) {
        let mut bytes = local(r#"{"a":"ü"}"#).raw().to_vec();
        let position = position % bytes.len();
        bytes[position] = value;
        if let Ok(record) = Record::parse(Bytes::from(bytes)) {
            let _ = record.envelope_json("r", Incarnation(1));
        }
    }
}
