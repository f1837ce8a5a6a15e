use proptest::prelude::*;
use serde_json::json;

use super::*;

fn pattern(value: Value) -> Pattern {
    Pattern::parse(&value).unwrap()
}

fn view(detail: &str) -> EventView<'_> {
    EventView {
        source: "app.orders",
        detail_type: "Order Placed",
        account: "000000000000",
        region: "eu-central-1",
        time: Timestamp::parse_rfc3339("2026-11-23T10:00:00Z").unwrap(),
        id: "5f4b6f1e-0000-4000-8000-000000000000",
        resources: &[],
        detail,
    }
}

#[test]
fn every_operator_does_what_aws_documents() {
    let table = include_str!("operators.jsonl");
    let mut wrong = Vec::new();
    for line in table.lines() {
        let (operator, text, event, expected): (String, Value, Value, Value) = serde_json::from_str(line).unwrap();
        let found = match Pattern::parse(&text) {
            Ok(pattern) => Value::Bool(pattern.matches(&event)),
            Err(_) => json!("refused"),
        };
        if found != expected {
            wrong.push(format!("{operator}: {text} on {event}: {found}"));
        }
        // The same below `detail`, through a view that parses the text by itself.
        if let Ok(pattern) = Pattern::parse(&json!({ "detail": text })) {
            let event = serde_json::from_str::<Vec<&serde_json::value::RawValue>>(line).unwrap()[2].get();
            if Value::Bool(pattern.matches_view(&view(event))) != expected {
                wrong.push(format!("{operator}, by view: {text} on {event}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(table.lines().count() > 140);
}

#[test]
fn the_empty_pattern_is_everything() {
    for everything in [Pattern::everything(), pattern(json!({}))] {
        assert!(everything.is_everything());
        assert!(everything.matches(&json!({"source": "x"})) && everything.matches_view(&view("no json")));
        assert_eq!(everything, Pattern::everything());
        assert_eq!(everything.as_json(), &json!({}));
    }
    assert!(!pattern(json!({"source": ["x"]})).is_everything());
    assert_ne!(pattern(json!({"source": ["x"]})), Pattern::everything());
}

#[test]
fn published_here_is_told_from_delivered() {
    let here = pattern(json!({"detail": {"hubweave": {"origin": [{"exists": false}]}}}));
    assert!(here.matches_view(&view(r#"{"order":1}"#)));
    assert!(!here.matches_view(&view(r#"{"order":1,"hubweave":{"origin":"eu-central-1"}}"#)));
}

#[test]
fn every_field_of_the_envelope_can_be_asked() {
    let asked = json!({
        "version": ["0"], "id": [{"prefix": "5f4b"}], "detail-type": ["Order Placed"], "source": [{"prefix": "app."}],
        "account": ["000000000000"], "time": [{"prefix": "2026-11-23T10"}], "region": [{"anything-but": "us-east-1"}],
        "resources": [{"suffix": "/b"}], "detail": {"big": [123456789012345678901234567890.0]},
    });
    let resources = ["arn:a".to_owned(), "arn:a/b".to_owned()];
    let event = EventView { resources: &resources, ..view(r#"{"big":123456789012345680000000000000,"huge":1e999}"#) };
    for (name, value) in asked.as_object().unwrap() {
        let single = pattern(json!({ name: value }));
        assert!(single.matches_view(&event), "{name}");
    }
    assert!(pattern(asked).matches_view(&event));
    assert!(pattern(json!({"source": {"x": [{"exists": false}]}})).matches_view(&event));
    assert!(!pattern(json!({"nowhere": ["x"]})).matches_view(&event));
}

#[test]
fn a_detail_that_is_no_json_has_no_fields() {
    assert!(!pattern(json!({"detail": {"a": [{"exists": true}]}})).matches_view(&view("{")));
    assert!(pattern(json!({"source": ["app.orders"]})).matches_view(&view("{")));
}

#[test]
fn an_absent_field_is_absent_from_every_element_of_an_array() {
    let both = pattern(json!({"a": {"x": [{"exists": false}], "y": [1]}}));
    assert!(both.matches(&json!({"a": [{"y": 1}, {"y": 2}]})));
    assert!(!both.matches(&json!({"a": [{"y": 1}, {"y": 2, "x": 0}]})));
}

#[test]
fn errors_name_the_place_the_value_and_the_reason() {
    let cases = [
        (json!({"detail": {"a": [{"like": "x"}]}}), "/detail/a/0/like: \"x\": unknown operator `like`"),
        (json!({"source": []}), "/source: []: an empty array"),
        (json!({"source": "app"}), "/source: \"app\": must be an array or an object; write [\"app\"]"),
        (json!({"a/b": {"c~d": 1}}), "/a~1b/c~0d: 1: must be an array"),
        (json!({"a": [{"anything-but": {"prefix": ["x", 1]}}]}), "/a/0/anything-but/prefix/1: 1: must be a string"),
        (json!({"a": [{"cidr": "10.0.0.0/32"}]}), "/a/0/cidr: \"10.0.0.0/32\": the prefix length must be below 32"),
        (json!({"$or": [{"a": [1]}, 5]}), "/$or/1: 5: `$or` takes an array of objects"),
        (json!({"$or": [{"a": [1]}, {"prefix": [1]}]}), "/$or/1/prefix: [1]: an operator where a field"),
        (json!({"a": [1], "$or": [{"a": [2]}, {"b": [2]}]}), "/a: [1]: this field is asked twice"),
        (json!(["a"]), "(pattern): [\"a\"]: a pattern is a JSON object"),
        (json!({"a": ["x".repeat(2_048)]}), "(pattern): {\"a\":[\"xxx"),
    ];
    for (value, expected) in cases {
        let message = Pattern::parse(&value).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{message}");
    }
    let message = Pattern::parse(&json!({"a": ["x".repeat(2_048)]})).unwrap_err().to_string();
    assert!(message.ends_with("2058 characters; EventBridge accepts 2048"), "{message}");
    assert!(Pattern::parse(&json!({"a": ["é".repeat(2_038)]})).is_ok());
}

#[test]
fn alternatives_are_limited() {
    let or = |field: &str, count| (0..count).map(|value| json!({ field: [value] })).collect::<Vec<_>>();
    let nested = |[a, b, c]: [usize; 3]| {
        let field = |count| json!({"$or": or("x", count)});
        json!({"a": field(a), "b": field(b), "c": field(c)})
    };
    assert!(Pattern::parse(&nested([10, 10, 10])).is_ok());
    let error = Pattern::parse(&nested([10, 10, 11])).unwrap_err();
    assert_eq!((error.pointer.as_str(), error.reason.contains("1000")), ("/c/$or", true));
}

#[test]
fn threads_share_one_pattern() {
    fn shared<T: Send + Sync>(_: &T) {}
    shared(&Pattern::everything());
}

fn values() -> impl Strategy<Value = Value> {
    let words = ["$or", "prefix", "suffix", "anything-but", "numeric", "exists", "wildcard", "cidr", "a", "detail"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3..3i64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec!["=", ">", "<=", "x*", "*", "\\", "10.0.0.0/8", "::/0", "1.2.3.4/99999999999", "é"])
            .prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 40, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(words.to_vec()), inner), 0..4)
                .prop_map(|members| members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ]
    })
}

proptest! {
    #[test]
    fn no_pattern_and_no_event_panics(asked in values(), event in values()) {
        let patterns = [asked.clone(), json!({"detail": asked}), json!({"a": [asked]})];
        for pattern in patterns.iter().filter_map(|value| Pattern::parse(value).ok()) {
            let text = event.to_string();
            let _ = (pattern.matches(&event), pattern.matches_view(&view(&text)));
            if pattern.as_json().get("detail").is_some() {
                prop_assert_eq!(pattern.matches_view(&view(&text)), pattern.matches(&json!({"detail": event})));
            }
        }
    }

    #[test]
    fn wildcards_agree_with_the_plain_definition(pattern in "\\*?([ab]{1,2}\\*?){0,4}", text in "[ab]{0,8}") {
        fn plain(pattern: &[u8], text: &[u8]) -> bool {
            match pattern.split_first() {
                None => text.is_empty(),
                Some((b'*', rest)) => (0..=text.len()).any(|skipped| plain(rest, &text[skipped..])),
                Some((byte, rest)) => text.first() == Some(byte) && plain(rest, &text[1..]),
            }
        }
        let parsed = Pattern::parse(&json!({"a": [{"wildcard": pattern}]})).unwrap();
        prop_assert_eq!(parsed.matches(&json!({"a": text})), plain(pattern.as_bytes(), text.as_bytes()));
    }
}
