//! The topology file as a whole: what parses, what it resolves to, and what each kind of mistake is told.

mod bad;
mod shipped;

use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;

const LOCAL: &str = include_str!("../../../config/local.toml");
const TWO: &str = "[[region]]\nname = \"a\"\n[[region]]\nname = \"b\"\n";

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, "x.toml", &|_| None).map_err(|error| error.to_string())
}

fn two(rest: &str) -> Config {
    parse(&format!("{TWO}{rest}")).unwrap()
}

#[test]
fn names_alone_make_a_topology() {
    let config = two("");
    assert_eq!(config.cluster, Cluster { name: "hubweave".into(), min_active: 1 });
    let second = config.region("b").unwrap();
    assert_eq!(second.backend, Backend::Embedded);
    assert_eq!(second.data_dir, std::path::Path::new("data/b"));
    assert_eq!(second.api, Some(Address::loopback(7402)));
    assert_eq!(second.admin, Address::loopback(7502));
    assert_eq!((&second.health, &second.aws), (&None, &None));
    assert_eq!(config.idempotency.key, ["/detail/metadata/idempotencyKey", "/detail/idempotencyKey"]);
    assert_eq!(config.idempotency.retention, Duration::from_secs(15 * 86_400));
    assert_eq!(config.claim_check, ClaimCheck::default());
    assert_eq!(config.heartbeat_interval("a"), Duration::from_secs(1));
    assert_eq!(config.objective.lag, Duration::from_secs(5));
    assert!(!config.faults.enabled);
    assert!(config.region("c").is_none());
}

#[test]
fn without_any_link_section_all_pairs_are_linked() {
    let config = two("[[region]]\nname = \"c\"\n");
    let ends: Vec<String> = config.links().iter().map(|link| format!("{}{}", link.from, link.to)).collect();
    assert_eq!(ends, ["ab", "ac", "ba", "bc", "ca", "cb"]);
    assert!(config.links().iter().all(|link| link.enabled && link.mode == Mode::Deliver && link.pattern == json!({})));
    assert!(!config.link("a", "a").enabled);
    assert!(!config.link("a", "nowhere").enabled);
}

#[test]
fn a_link_section_overrides_one_direction_only() {
    let config = two(r#"
        [replication]
        events_per_second = 100
        bytes_per_second = "1MiB"
        retry_max = "3s"
        [[link]]
        from = "a"
        to = "b"
        mode = "shadow"
        events_per_second = "unlimited"
        bytes_per_second = "20MiB"
        pattern = { source = [{ prefix = "app." }], detail.n = [{ numeric = [">", 0, "<=", 1.5] }] }
        "#);
    let link = config.link("a", "b");
    assert_eq!((link.mode, link.events_per_second, link.bytes_per_second), (Mode::Shadow, None, Some(20 << 20)));
    assert_eq!(link.retry_max, Duration::from_secs(3));
    let pattern = json!({"source": [{"prefix": "app."}], "detail": {"n": [{"numeric": [">", 0, "<=", 1.5]}]}});
    assert_eq!(link.pattern, pattern);
    let back = config.link("b", "a");
    assert_eq!((back.mode, back.events_per_second, back.bytes_per_second), (Mode::Deliver, Some(100), Some(1 << 20)));
    assert_eq!(back.pattern, json!({}));
}

#[test]
fn a_pattern_may_be_json_in_a_string() {
    let config = two("[replication]\npattern = '{\"detail\":{\"a\":[null]}}'\n");
    assert_eq!(config.replication.pattern, json!({"detail": {"a": [null]}}));
}

#[test]
fn what_the_judge_of_patterns_says_becomes_the_errors_reason() {
    let text = format!("{TWO}[[link]]\nfrom = \"a\"\nto = \"b\"\npattern = {{ source = [{{ prefx = \"a\" }}] }}\n");
    let judge: PatternCheck =
        |pattern| if pattern["source"].is_null() { Ok(()) } else { Err("unknown operator `prefx`".into()) };
    let error = parse_with(&text, "x.toml", &|_| None, judge).unwrap_err().to_string();
    let expected = "x.toml, line 8: link[0].pattern: { source = [{ prefx = \"a\" }] }: unknown operator `prefx`";
    assert_eq!(error, expected);
}

#[test]
fn an_aws_region_has_no_api_listener_and_a_slower_heartbeat() {
    let config = parse(
        r#"
        [[region]]
        name = "a"
        [[region]]
        name = "b"
        backend = "aws"
        [region.aws]
        hub = "h"
        endpoint_url = "http://l:1"
        endpoints = { sqs = "https://s", s3 = { a = "https://x" }, a = { events = "https://e" } }
        "#,
    )
    .unwrap();
    let region = config.region("b").unwrap();
    assert_eq!((&region.api, &region.admin), (&None, &Address::loopback(7502)));
    assert_eq!(config.heartbeat_interval("a"), Duration::from_secs(1));
    assert_eq!(config.heartbeat_interval("b"), Duration::from_secs(10));
    let aws = region.aws.as_ref().unwrap();
    assert_eq!((aws.region.as_str(), aws.prefix.as_str()), ("b", "hubweave"));
    assert_eq!(aws.endpoint(Service::Sqs, "a"), Some("https://s"));
    assert_eq!(aws.endpoint(Service::S3, "a"), Some("https://x"));
    assert_eq!(aws.endpoint(Service::S3, "b"), Some("http://l:1"));
    assert_eq!(aws.endpoint(Service::Events, "a"), Some("https://e"));
    assert_eq!(aws.endpoint(Service::Dynamodb, "a"), Some("http://l:1"));
}

#[test]
fn the_environment_is_read_in_strings_and_for_numbers() {
    let env = |name: &str| match name {
        "PORT" => Some("7499".to_owned()),
        "QUOTED" => Some("a\"b".to_owned()),
        _ => None,
    };
    let text = "[[region]]\nname = \"a\"\napi = \"127.0.0.1:${PORT}\" # ${COMMENT}\n\
                [limits]\nmax_connections = ${PORT}\n\
                [auth]\napi_token = \"${QUOTED}$${X}\"\n";
    let config = Config::parse(text, "x.toml", &env).unwrap();
    assert_eq!(config.regions[0].api, Some(Address::loopback(7499)));
    assert_eq!(config.limits.max_connections, 7499);
    assert_eq!(config.auth.api_token.as_ref().map(Secret::expose), Some("a\"b${X}"));
    assert!(!format!("{config:?}").contains("a\"b"));
}

#[test]
fn a_listener_away_from_loopback_is_fine_with_its_tokens_and_health_without() {
    let rest = "health = \"0.0.0.0:80\"\n[auth]\npeer_token = \"p\"\napi_token = \"a\"\nadmin_token = \"o\"\n";
    let text = format!("[[region]]\nname = \"a\"\napi = \"eu.internal:1\"\nadmin = \"0.0.0.0:2\"\n{rest}");
    let config = parse(&text).unwrap();
    assert!(config.auth.permits(Listener::Api, &"0.0.0.0:1".parse().unwrap()).is_ok());
    assert!(Auth::default().permits(Listener::Admin, &"0.0.0.0:1".parse().unwrap()).is_err());
    parse("[[region]]\nname = \"a\"\nhealth = \"0.0.0.0:80\"").unwrap();
}

#[test]
fn port_zero_may_be_given_any_number_of_times() {
    let text = "[[region]]\nname = \"a\"\napi = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n";
    parse(&format!("{text}{}", text.replace("\"a\"", "\"b\""))).unwrap();
}

#[test]
fn a_file_that_is_not_there_and_one_on_aws_say_so() {
    let error = |path| Config::load(path).unwrap_err().to_string();
    let lines = error("no/such.toml");
    assert_eq!(lines, "no/such.toml: cannot be read: No such file or directory (os error 2)");
    assert_eq!(error("ssm://x"), "ssm://x: cannot be read: this build lacks the aws backend");
    assert_eq!(error("s3://b/x"), "s3://b/x: cannot be read: this build lacks the aws backend");
}

#[test]
fn the_explanation_names_pairs_that_exchange_nothing() {
    let text = "[[region]]\nname = \"c\"\n[log]\nretention = \"12h\"\n";
    let off = |from: &str, to: &str| format!("[[link]]\nfrom = \"{from}\"\nto = \"{to}\"\nenabled = false\n");
    let config = two(&format!("{text}{}{}{}", off("a", "b"), off("b", "a"), off("c", "a")));
    let explanation = explain(&config);
    let human = explanation.to_string();
    let lines: Vec<&str> = human.lines().collect();
    assert!(lines.contains(&"  a and b: exchanges nothing"), "{human}");
    assert!(lines.contains(&"  c to a: exchanges nothing in this direction"), "{human}");
    assert!(lines.contains(&"  a to c: deliver, everything, unpaced"), "{human}");
    assert!(
        lines.contains(&"  longest redelivery, embedded: log 12h + last attempt 20s + margin 1h = 13h20s"),
        "{human}"
    );
    assert!(lines.contains(&"  an event older than 14d23h is redriven by an explicit flag only"), "{human}");
    let sizes = "  a region's ledger: 593.3 MiB at 10/s, 5.8 GiB at 100/s, 57.9 GiB at 1000/s";
    assert!(lines.contains(&sizes), "{human}");
    let json = serde_json::to_value(&explanation).unwrap();
    assert_eq!(json["exchanges_nothing"][0]["regions"], json!(["a", "b"]));
    assert_eq!(json["exchanges_nothing"][1]["disabled"], json!([["c", "a"]]));
    assert_eq!(json["retention"]["ledger_seconds"], json!(1_296_000.0));
    assert_eq!(json["ledger"][2]["bytes"], json!(1_296_000_u64 * 1000 * 48));
    assert_eq!(json["links"].as_array().map(Vec::len), Some(3));
    assert_eq!(json["regions"][0]["api"], json!("127.0.0.1:7401"));
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "(?s).{0,200}") {
        let _ = Config::parse(&text, "x.toml", &|_| Some(text.clone()));
    }

    #[test]
    fn text_made_of_the_formats_own_pieces_never_panics(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "[[region]]\n", "[region.aws]\n", "[[link]]\n", "[state.x]\n", "name", "pattern", "=", "\"", "'''", "{",
                "}", "[", "]", "a", "\n", "${", "$${", "#", "1d", "map", ".", "0x7f", "-1e400", "nan", "é",
                "1979-05-27",
                "\u{0}", "\\", "[auth]\n", "retention = \"0s\"\n", "endpoints = {}\n", "[[link.x]]\n", "region = []\n",
            ]),
            0..40,
        ),
    ) {
        let text = pieces.concat();
        if let Err(error) = Config::parse(&text, "x.toml", &|_| None) {
            prop_assert_eq!(error.to_string().lines().count(), error.problems().len());
        }
    }

    #[test]
    fn a_mutated_file_never_panics_and_each_problem_is_one_line(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..12, "[\\x00-\\x7fé]{0,6}"), 1..6),
    ) {
        let mut text: Vec<char> = LOCAL.chars().collect();
        for (at, length, insert) in cuts {
            let start = at.index(text.len());
            let end = (start + length).min(text.len());
            text.splice(start..end, insert.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(error) = Config::parse(&text, "x.toml", &|_| None) {
            prop_assert_eq!(error.to_string().lines().count(), error.problems().len());
            prop_assert!(error.to_string().lines().all(|line| line.starts_with("x.toml, line ")));
        }
    }
}
