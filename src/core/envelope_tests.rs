use super::*;

const ACCEPTED: Timestamp = Timestamp(1_700_000_000_000_000_000);
const DAY: Duration = Duration::from_secs(86_400);

fn ingress() -> Ingress {
    Ingress {
        key_pointers: vec!["/detail/metadata/idempotencyKey".to_owned(), "/detail/idempotencyKey".to_owned()],
        reference_pointers: vec!["/detail/claimCheck".to_owned()],
        max_entry_bytes: 1_000_000,
    }
}

fn body(source: &str, detail_type: &str, detail: &str) -> String {
    format!(
        r#"{{"version":"0","id":"id-1","detail-type":"{detail_type}","source":"{source}","account":"111122223333",
        "time":"2026-11-25T10:00:00Z","region":"eu-central-1","resources":["arn:a"],"detail":{detail}}}"#
    )
}

fn read(detail: &str) -> Event {
    Event::read(&body("app", "T", detail), "eu", &ingress()).unwrap()
}

fn rules(pattern: &str) -> Rules {
    let pattern = Pattern::parse(&serde_json::from_str(pattern).unwrap()).unwrap();
    Rules { pattern, hops_max: 4, replays: false, expire_after: 13 * DAY }
}

fn decided(event: &Event) -> Verdict {
    rules("{}").decide(event, ACCEPTED, ACCEPTED.plus(DAY), false)
}

/// The event as it arrives on the bus of a peer, whose rule puts it into a queue there.
fn arrived(event: &Event) -> Event {
    let entry = event.entry("eu", ACCEPTED, None);
    Event::read(&body(&entry.source, &entry.detail_type, &entry.detail), "us", &ingress()).unwrap()
}

#[test]
fn an_envelope_gives_key_payload_and_everything_that_the_peer_needs() {
    let event = read(r#"{"n":1.10,"idempotencyKey":"k-1"}"#);
    assert_eq!((event.key.as_str(), &event.provenance), ("k-1", &Provenance::Local));
    assert_eq!(event.key_hash, KeyHash::of("app", "T", "k-1"));
    assert_eq!((event.id.as_str(), event.account.as_str(), event.replayed), ("id-1", "111122223333", false));
    let entry = event.entry("eu", ACCEPTED, Some("Root=1".to_owned()));
    assert_eq!((entry.source.as_str(), entry.detail_type.as_str()), ("app", "T"));
    assert_eq!(entry.time, Timestamp::parse_rfc3339("2026-11-25T10:00:00Z"));
    assert_eq!((entry.resources.as_slice(), entry.trace.as_deref()), (["arn:a".to_owned()].as_slice(), Some("Root=1")));
    let expected = format!(
        r#"{{"n":1.10,"idempotencyKey":"k-1","hubweave":{{"origin":"eu","id":"id-1","account":"111122223333","key":"k-1","hash":"{}","sequence":null,"time":"{}","hops":1}}}}"#,
        event.payload_hash,
        ACCEPTED.to_rfc3339()
    );
    assert_eq!(entry.detail, expected);
}

#[test]
fn an_event_without_a_key_is_named_by_its_region_and_id() {
    assert_eq!(read("{}").key, "eu/id-1");
    assert_eq!(arrived(&read("{}")).key, "eu/id-1", "also at the peer, where its id is another one");
}

#[test]
fn the_hash_is_the_one_that_the_publishing_region_computed() {
    let event = read(r#"{"b":1,"a":{"x":1e2},"claimCheck":"s3://eu/k"}"#);
    let draft =
        ingress().draft("app", "T", r#"{"a":{"x":100},"b":1.0,"claimCheck":"s3://us/k"}"#, None, vec![]).unwrap();
    assert_eq!(event.payload_hash, draft.payload_hash);
    assert_eq!(arrived(&event).payload_hash, event.payload_hash);
}

#[test]
fn an_event_that_came_over_a_link_is_known_by_its_hash_and_not_sent_on() {
    let arrived = arrived(&read(r#"{"n":1}"#));
    assert_eq!(arrived.provenance, Provenance::Stamped { origin: "eu".to_owned(), hops: 1 });
    assert_eq!(decided(&arrived), Verdict::Skip(Skip::Foreign));
    let far = Event { provenance: Provenance::Stamped { origin: "eu".to_owned(), hops: 4 }, ..arrived };
    assert_eq!(decided(&far), Verdict::Skip(Skip::HopLimit));
}

#[test]
fn an_inherited_stamp_is_stripped_and_the_event_is_a_new_one() {
    let received = read(r#"{"n":1,"idempotencyKey":"k-1"}"#).entry("eu", ACCEPTED, None).detail;
    // A service copies what it received into an event of another type, and into one with another content.
    let copy = Event::read(&body("app", "Shipped", &received), "us", &ingress()).unwrap();
    let changed = Event::read(&body("app", "T", &received.replace("\"n\":1", "\"n\":2")), "us", &ingress()).unwrap();
    for event in [&copy, &changed] {
        assert_eq!(event.provenance, Provenance::Stripped);
        assert!(!event.detail.contains("hubweave"), "{}", event.detail);
        assert_eq!((event.key.as_str(), decided(event)), ("k-1", Verdict::Deliver));
        assert!(event.entry("us", ACCEPTED, None).detail.contains(r#""origin":"us""#));
    }
    let original = KeyHash::of("app", "T", "k-1");
    assert_ne!(copy.key_hash, original, "one request's key in another type is another event");
    assert_eq!(changed.key_hash, original, "the inherited key with another payload is a conflict, told at the ledger");
}

#[test]
fn what_is_not_for_the_peer_is_left_out_with_its_reason() {
    let rules = rules(r#"{"source":["app"],"detail":{"keep":[true]}}"#);
    let event = |source: &str, detail: &str| Event::read(&body(source, "T", detail), "eu", &ingress()).unwrap();
    let replay = body("app", "T", r#"{"keep":true}"#).replace("\"version\"", "\"replay-name\":\"r\",\"version\"");
    let replay = Event::read(&replay, "eu", &ingress()).unwrap();
    for (event, expected) in [
        (event("app", r#"{"keep":true}"#), Verdict::Deliver),
        (event("app", r#"{"keep":false}"#), Verdict::Skip(Skip::Filtered)),
        (event("aws.s3", r#"{"keep":true}"#), Verdict::Skip(Skip::AwsSource)),
        (event("hubweave", "{}"), Verdict::Deliver),
        (replay.clone(), Verdict::Skip(Skip::Replay)),
    ] {
        assert_eq!(rules.decide(&event, ACCEPTED, ACCEPTED, false), expected, "{event:?}");
    }
    assert_eq!(Rules { replays: true, ..rules }.decide(&replay, ACCEPTED, ACCEPTED, false), Verdict::Deliver);
}

#[test]
fn an_event_older_than_the_peers_memory_is_sent_only_if_somebody_asks_for_it() {
    let event = read("{}");
    for (age, aged, expected) in [
        (13 * DAY - Duration::from_nanos(1), false, Verdict::Deliver),
        (13 * DAY, false, Verdict::Expired),
        (13 * DAY, true, Verdict::Deliver),
    ] {
        assert_eq!(rules("{}").decide(&event, ACCEPTED, ACCEPTED.plus(age), aged), expected, "{age:?}");
    }
    assert_eq!(rules("{}").decide(&event, ACCEPTED, Timestamp::ZERO, false), Verdict::Deliver, "a clock behind");
}

#[test]
fn what_is_no_event_says_why() {
    let long = format!(r#"{{"idempotencyKey":"{}"}}"#, "k".repeat(1_025));
    for (text, why) in [
        ("", "no envelope of an event"),
        (r#"{"Records":[]}"#, "no envelope of an event"),
        (&body("app", "T", "[]"), "its detail is no object"),
        (&body("app", "T", &format!("{{\"a\":{}{}}}", "[".repeat(110), "]".repeat(110))), "its detail cannot be read"),
        (&body("app", "T", &long), "its key has 1025 bytes"),
    ] {
        let error = Event::read(text, "eu", &ingress()).unwrap_err().to_string();
        assert!(error.starts_with(why), "{error}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_panics_and_every_delivered_event_is_known_at_the_peer(detail in "\\{\"(hubweave|a)\":[ -~]{0,9}\\}|\\PC{0,20}") {
        if let Ok(event) = Event::read(&body("app", "T", &detail), "eu", &ingress()) {
            let arrived = arrived(&event);
            proptest::prop_assert_eq!(decided(&arrived), Verdict::Skip(Skip::Foreign));
            proptest::prop_assert_eq!(arrived.key_hash, event.key_hash);
        }
    }
}
