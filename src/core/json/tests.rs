use proptest::prelude::*;

use super::*;
use crate::core::key::PayloadHash;

fn hash(detail: &str) -> PayloadHash {
    canonical_hash("app", "T", detail, &["/detail/ref/key".to_owned(), "/detail/list/1".to_owned()])
}

#[test]
fn the_parser_accepts_what_serde_json_accepts() {
    let texts = [
        "{}",
        " [ ] ",
        "null",
        "true",
        "false",
        "0",
        "-0",
        "-1.5e+10",
        "1E5",
        r#""""#,
        r#""a\u00e9\n\/\ud83d\ude00""#,
        r#"{"a":[1,{"b":null}],"a":2}"#,
        "[1,2 ,\t3\r\n]",
        "\"\u{7f}é\"",
        "",
        " ",
        "{",
        "}",
        "[1,]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "01",
        "1.",
        ".5",
        "1e",
        "+1",
        "-",
        "nul",
        "\"",
        "\"\\\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\ud800\"",
        "\"\\ud800\\u0041\"",
        "\"\\udc00\"",
        "\"\n\"",
        "1 2",
        "{\"a\":1}}",
        "[1 2]",
        "\u{feff}{}",
        "NaN",
        "[\u{a0}]",
        "\"\\u+123\"",
    ];
    for text in texts {
        let known = serde_json::from_str::<serde_json::Value>(text);
        assert_eq!(parse(text).is_ok(), known.is_ok(), "{text:?}: {:?}", parse(text));
    }
}

#[test]
fn a_hundred_levels_are_accepted_and_one_more_is_refused() {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert!(parse(&nested(DEPTH_MAX)).is_ok());
    assert_eq!(parse(&nested(DEPTH_MAX + 1)).unwrap_err().reason, "nested deeper than 100 levels");
    assert!(parse(&"[".repeat(1_000_000)).is_err());
    assert!(members(&"{\"a\":".repeat(1_000_000)).is_err());
}

#[test]
fn a_stripped_object_keeps_the_order_and_the_spelling_of_the_rest() {
    let cases = [
        (r#"{"b":1.10,"hubweave":{"x":[1]},"a":1e2}"#, Some(r#"{"b":1.10,"a":1e2}"#)),
        (r#"{"hubweave":1}"#, Some("{}")),
        (r#"{"hubweave":1,"a":2,"hubweave":3}"#, Some(r#"{"a":2}"#)),
        (r#"{ "\u0068ubweave" : 1 , "a" : "\u0041" }"#, Some(r#"{"a" : "\u0041"}"#)),
        (r#"{"a":{"hubweave":1}}"#, None),
        (r#"{"a":"hubweave"}"#, None),
        (r#"["hubweave"]"#, None),
        (r#"{"hubweave":1"#, None),
    ];
    for (text, expected) in cases {
        assert_eq!(strip_top_level(text, "hubweave").as_deref(), expected, "{text}");
    }
}

#[test]
fn an_added_member_stands_last() {
    assert_eq!(with_top_level("{}", "k", "1"), r#"{"k":1}"#);
    assert_eq!(with_top_level(" { } ", "k", "1"), r#" {"k":1}"#);
    assert_eq!(with_top_level(r#"{"a":1.0 }"#, "k\"", "[2]"), r#"{"a":1.0,"k\"":[2]}"#);
    assert_eq!(with_top_level(r#"{"a":"{"}"#, "k", "1"), r#"{"a":"{","k":1}"#);
}

#[test]
fn pointers_follow_rfc_6901_and_the_last_repeated_key() {
    let text = r#" {"a":{"b":[10,1.50]},"a/b":"x","m~n":"y","":"z","d":1,"d":"two","\u00e9":3} "#;
    let cases = [
        ("/a/b/0", Some("10")),
        ("/a/b/1", Some("1.50")),
        ("/a/b/01", None),
        ("/a/b/2", None),
        ("/a/b/-", None),
        ("/a/b/+1", None),
        ("/a/b/", None),
        ("/a~1b", Some("\"x\"")),
        ("/m~0n", Some("\"y\"")),
        ("/m~2n", None),
        ("/m~", None),
        ("/", Some("\"z\"")),
        ("/d", Some("\"two\"")),
        ("/é", Some("3")),
        ("a", None),
        ("/d/0", None),
    ];
    let parsed = parse(text).unwrap();
    for (at, expected) in cases {
        assert_eq!(pointer(text, at), expected, "{at}");
        assert_eq!(parsed.pointer(at).is_some(), expected.is_some(), "{at}");
    }
    assert_eq!(pointer(text, ""), Some(text.trim()));
    assert_eq!(pointer_string(text, "/a~1b").as_deref(), Some("x"));
    assert_eq!(pointer_string(text, "/a/b/0"), None);
}

#[test]
fn numbers_are_equal_by_value_and_only_by_value() {
    for same in [
        &["1", "1.0", "1e0", "10e-1", "0.1E+1", "1.000e-0", "100e-00002"][..],
        &["0", "-0", "0.0", "0e999999999999999999999999", "-0.000e5"],
        &["1e400", "10e399", "0.1e401"],
        &["-12.5", "-125e-1"],
    ] {
        for spelling in same {
            assert_eq!(canonical_number(spelling), canonical_number(same[0]), "{spelling}");
        }
    }
    let different = [
        "9007199254740992",
        "9007199254740993",
        "1e400",
        "1e401",
        "-1",
        "1",
        "10",
        "0.1",
        "12",
        "1e2",
        "21",
        "1e99999999999999999999",
        "1e99999999999999999998",
        "1e-999999999999999999",
    ];
    for (index, left) in different.iter().enumerate() {
        for right in &different[index + 1..] {
            assert_ne!(canonical_number(left), canonical_number(right));
        }
    }
}

#[test]
fn the_hash_ignores_spelling_stamp_and_excluded_values() {
    let known = hash(r#"{"a":"é","list":[1,2],"n":100,"o":{"x":1,"y":2},"ref":{"b":1}}"#);
    for same in [
        r#" { "o" : {"y":2.0, "x":1e0}, "n":1e2, "a":"\u00e9", "ref":{"b":1}, "list":[1,2] } "#,
        r#"{"a":"é","list":[1,"elsewhere"],"n":100,"o":{"x":1,"y":2},"ref":{"b":1,"key":"k"}}"#,
        r#"{"a":"é","list":[1,2],"n":100,"o":{"x":1,"y":2},"ref":{"b":1},"hubweave":{"origin":"eu"}}"#,
        r#"{"a":"old","a":"é","list":[1,2],"n":100,"o":{"x":1,"y":2},"ref":{"b":1}}"#,
    ] {
        assert_eq!(hash(same), known, "{same}");
    }
    for other in [
        r#"{"a":"e","list":[1,2],"n":100,"o":{"x":1,"y":2},"ref":{"b":1}}"#,
        r#"{"a":"é","list":[2,2],"n":100,"o":{"x":1,"y":2},"ref":{"b":1}}"#,
        r#"{"a":"é","list":[1,2],"n":100,"o":{"x":1,"y":2,"hubweave":1},"ref":{"b":1}}"#,
        r#"{"a":"é","list":[1,2],"n":"100","o":{"x":1,"y":2},"ref":{"b":1}}"#,
        r#"{"a":"é","list":[1],"n":100,"o":{"x":1,"y":2},"ref":{"b":1}}"#,
    ] {
        assert_ne!(hash(other), known, "{other}");
    }
    let traced = |span| format!(r#"{{"cloudevents":{{"id":"1","traceparent":"{span}","tracestate":"{span}"}}}}"#);
    assert_eq!(hash(&traced("x")), hash(&traced("y")), "a producer that tries again does so in another span");
    assert_ne!(hash(&traced("x")), hash(r#"{"cloudevents":{"id":"2"}}"#));
    assert_ne!(canonical_hash("ab", "c", "{}", &[]), canonical_hash("a", "bc", "{}", &[]));
    assert_ne!(hash(r#"{"a":[[],[]]}"#), hash(r#"{"a":[[[]]]}"#));
    assert_ne!(hash("no json"), hash("no json "));
}

#[test]
fn the_canonical_form_never_changes() {
    let detail = r#"{"b":[1.50,null,true],"a":{"é":"x"},"hubweave":1}"#;
    assert_eq!(
        canonical_hash("app", "Order", detail, &[]).to_string(),
        "f32a02521eb855d00a75d64952b5a581655eee2b3c58a595d8b163abc2e699f7"
    );
}

/// A document as (number as value and spellings), printed in two ways.
#[derive(Clone, Debug)]
enum Doc {
    Null,
    Bool(bool),
    Number(i64, u32),
    Text(String),
    List(Vec<Doc>),
    Map(std::collections::BTreeMap<String, Doc>),
}

fn docs() -> impl Strategy<Value = Doc> {
    let leaf = prop_oneof![
        Just(Doc::Null),
        any::<bool>().prop_map(Doc::Bool),
        (any::<i64>(), 0..6u32).prop_map(|(value, scale)| Doc::Number(value, scale)),
        any::<String>().prop_map(Doc::Text),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Doc::List),
            prop::collection::btree_map(any::<String>(), inner, 0..5).prop_map(Doc::Map),
        ]
    })
}

fn objects() -> impl Strategy<Value = Doc> {
    prop::collection::btree_map(any::<String>(), docs(), 0..5).prop_map(Doc::Map)
}

/// Plain is compact and sorted; otherwise white space, reverse order, other number spellings and escapes.
fn print(doc: &Doc, plain: bool) -> String {
    let (space, text): (&str, fn(&str) -> String) = if plain { ("", quote) } else { (" \n", escaped) };
    match doc {
        Doc::Null => "null".to_owned(),
        Doc::Bool(value) => value.to_string(),
        Doc::Number(value, scale) if plain => format!("{value}e-{scale}"),
        Doc::Number(value, scale) => format!("{value}.{}E-000{scale}", "0".repeat(1 + *scale as usize)),
        Doc::Text(value) => text(value),
        Doc::List(items) => {
            let items: Vec<String> = items.iter().map(|item| print(item, plain)).collect();
            format!("[{space}{}{space}]", items.join(&format!("{space},")))
        }
        Doc::Map(members) => {
            let member = |(key, value): (&String, &Doc)| format!("{}{space}:{space}{}", text(key), print(value, plain));
            let mut members: Vec<String> = members.iter().map(member).collect();
            if !plain {
                members.reverse();
            }
            format!("{{{space}{}{space}}}", members.join(&format!("{space},{space}")))
        }
    }
}

fn escaped(text: &str) -> String {
    let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
    format!("\"{units}\"")
}

proptest! {
    #[test]
    fn the_hash_does_not_depend_on_order_space_or_spelling(doc in objects()) {
        prop_assert_eq!(hash(&print(&doc, true)), hash(&print(&doc, false)));
    }

    #[test]
    fn the_hash_depends_on_every_value(doc in objects(), number in any::<i64>(), other in any::<i64>()) {
        prop_assume!(number != other);
        let with = |value: i64| with_top_level(&print(&doc, true), "changed", &format!("[[{value}]]"));
        prop_assert_ne!(hash(&with(number)), hash(&with(other)));
        prop_assert_eq!(hash(&with(number)), hash(&with_top_level(&with(number), "hubweave", "{}")));
    }

    #[test]
    fn a_member_that_was_added_is_stripped_again(doc in objects()) {
        let text = print(&doc, false);
        let stripped = strip_top_level(&with_top_level(&text, "hubweave", "{\"a\":1}"), "hubweave");
        let stripped = stripped.unwrap();
        prop_assert_eq!(parse(&stripped).unwrap(), parse(&text).unwrap());
    }

    #[test]
    fn no_text_panics(text in "\\PC*", at in "(/[a-z0-9~]{0,2}){0,4}") {
        let _ = (parse(&text), members(&text), elements(&text), pointer(&text, &at), hash(&text));
        let _ = (strip_top_level(&text, "a"), with_top_level(&text, "a", "1"), canonical_number(&text));
    }

    #[test]
    fn text_like_json_is_judged_as_serde_json_does(text in r#"[\[\]{}:,"\\ue0-9. a\-]{0,12}"#) {
        let known = serde_json::from_str::<serde_json::Value>(&text);
        // A number beyond f64 is valid JSON, but not for serde_json.
        prop_assume!(!known.as_ref().is_err_and(|error| error.to_string().starts_with("number out of range")));
        prop_assert_eq!(parse(&text).is_ok(), known.is_ok(), "{}", text);
    }
}
