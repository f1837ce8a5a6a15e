//! Documents, for services, over documents in memory.

use std::time::Duration;

use serde_json::json;

use crate::{
    api::testing::{Answer, Server, start, start_with, start_without_documents},
    config::{Auth, Limits},
    ports::documents::Error,
};

const DOCUMENT: &str = "/v1/state/profile/u1";

async fn apply(server: &Server, headers: &[&str], op: &str) -> Answer {
    let body = format!(r#"{{"ops":[{op}]}}"#);
    server.call(&format!("POST {DOCUMENT}"), headers, body.as_bytes()).await
}

async fn delete(server: &Server, headers: &[&str]) -> Answer {
    server.call(&format!("DELETE {DOCUMENT}"), headers, b"").await
}

const PLAY: &str = r#"{"field":"plays","op":"increment","by":1}"#;

#[tokio::test]
async fn a_document_is_changed_read_and_deleted() {
    let server = start().await;
    let done = apply(&server, &[], &format!(r#"{PLAY},{{"field":"language","op":"set","value":"de"}}"#)).await;
    let answer = done.json();
    assert_eq!((done.status, done.header("content-type")), (200, Some("application/json")));
    assert_eq!(answer["version"].as_str().map(str::len), Some(32));
    let mut expected = json!({"type": "profile", "id": "u1", "value": {"language": "de", "plays": 1}, "conflicts": {},
        "version": answer["version"], "outcome": "applied"});
    assert_eq!(answer, expected);
    expected.as_object_mut().unwrap().remove("outcome");
    let read = server.get(DOCUMENT).await;
    assert_eq!((read.status, read.json()), (200, expected));
    assert_eq!(delete(&server, &[]).await.json(), json!({"type": "profile", "id": "u1", "outcome": "deleted"}));
    let none = server.get(DOCUMENT).await;
    assert_eq!((none.status, none.error().as_str()), (404, "no document profile/u1"));
    assert_eq!(delete(&server, &[]).await.json()["outcome"], "nothing");
    assert_eq!(*server.documents.requests.lock().unwrap(), [None, None, None]);
    assert_eq!(server.counted.seen.lock().unwrap()[0], "/v1/state/{type}/{id} 200");
}

#[tokio::test]
async fn values_are_written_as_they_are_kept() {
    let server = start().await;
    for _ in 0..2 {
        apply(&server, &[], &format!(r#"{{"field":"plays","op":"increment","by":{}}}"#, i64::MAX - 1)).await;
    }
    let exact = r#"{"field":"best","op":"max","value":0.12345678901234567890123}"#;
    let answer = apply(&server, &[], exact).await;
    let text = String::from_utf8(answer.body).unwrap();
    assert!(text.contains(r#""value":{"best":0.12345678901234567890123,"plays":9223372036854775806}"#), "{text}");
}

#[tokio::test]
async fn a_request_with_a_key_counts_once_and_only_for_its_document() {
    let server = start().await;
    let keyed = ["idempotency-key: a key/1"];
    assert_eq!(apply(&server, &keyed, PLAY).await.json()["outcome"], "applied");
    let again = apply(&server, &keyed, PLAY).await.json();
    assert_eq!((&again["outcome"], &again["value"]["plays"]), (&json!("duplicate"), &json!(1)));
    assert_eq!(delete(&server, &["idempotency-key: bye"]).await.json()["outcome"], "deleted");
    assert_eq!(delete(&server, &["idempotency-key: bye"]).await.json()["outcome"], "duplicate");
    let seen = server.documents.requests.lock().unwrap().clone();
    let expected = ["api/profile/u1/a key/1", "api/profile/u1/bye"].map(|text| Some(text.to_owned()));
    assert_eq!(seen, [&expected[0], &expected[0], &expected[1], &expected[1]].map(Clone::clone));
    // What was done before and is gone.
    let gone = apply(&server, &keyed, PLAY).await;
    let expected = json!({"type": "profile", "id": "u1", "outcome": "duplicate", "value": null, "version": "",
        "conflicts": {}});
    assert_eq!((gone.status, gone.json()), (200, expected));
}

#[tokio::test]
async fn a_key_is_one_visible_text_of_bounded_length() {
    let server = start().await;
    let long = |length: usize| format!("idempotency-key: {}", "k".repeat(length));
    let bad: [&[&str]; 6] = [
        &["idempotency-key:"],
        &["idempotency-key:   "],
        &[&long(1_025)],
        &["idempotency-key: a\tb"],
        &["idempotency-key: ü"],
        &["idempotency-key: a", "idempotency-key: b"],
    ];
    for headers in bad {
        for answer in [apply(&server, headers, PLAY).await, delete(&server, headers).await] {
            assert_eq!(answer.status, 400, "{headers:?}");
            assert!(answer.error().contains("one Idempotency-Key, of 1 to 1024 visible"), "{}", answer.error());
        }
    }
    assert!(server.documents.requests.lock().unwrap().is_empty());
    assert_eq!(apply(&server, &[&long(1_024)], PLAY).await.status, 200);
}

#[tokio::test]
async fn an_id_is_one_segment_of_any_text() {
    let server = start().await;
    for (path, id) in [("a%2Fb", "a/b"), ("%2E%2E", ".."), ("%C3%BC%20%23", "ü #"), ("a:b@c", "a:b@c")] {
        let line = format!("POST /v1/state/profile/{path}");
        let body = format!(r#"{{"ops":[{PLAY}]}}"#);
        assert_eq!(server.call(&line, &[], body.as_bytes()).await.json()["id"], id);
        assert_eq!(server.get(&format!("/v1/state/profile/{path}")).await.json()["id"], id);
    }
    for (path, status, why) in [
        ("profile/%FF", 400, "UTF-8"),
        ("profile/%00", 400, "control characters"),
        (&format!("profile/{}", "i".repeat(513)), 400, "the limit is 512"),
        ("profile/", 404, "no such path"),
        ("profile/a/b", 404, "no such path"),
        ("order/u1", 404, "document type `order` is unknown; there are `profile`"),
    ] {
        for method in ["GET", "POST", "DELETE"] {
            let answer = server.call(&format!("{method} /v1/state/{path}"), &[], b"{}").await;
            assert_eq!(answer.status, status, "{method} {path}");
            assert!(answer.error().contains(why), "{method} {path}: {}", answer.error());
        }
    }
}

#[tokio::test]
async fn what_is_refused_says_why() {
    let limits = Limits { max_request_bytes: 6 << 20, ..Limits::default() };
    let server = start_with(limits, Auth::default(), |_| {}).await;
    let big = |length: usize| format!(r#"{{"field":"language","op":"set","value":"{}"}}"#, "x".repeat(length));
    for (op, status, why) in [
        (r#"{"field":"plays","op":"set","value":1}"#, 400, "operation 1: field `plays`: a counter has no operation"),
        ("", 400, "0 operations"),
        ("{", 400, "no JSON object"),
        (&big(65_000).repeat(2), 400, "no JSON object"),
        (&big(66_000), 400, "the limit is 65536"),
        (&vec![big(65_000); 80].join(","), 413, "the limit is 4194304"),
        (&big(7 << 20), 413, "over the limit of 6291456"),
    ] {
        let answer = apply(&server, &[], op).await;
        assert_eq!(answer.status, status, "{why}: {}", answer.error());
        assert!(answer.error().contains(why), "{why}: {}", answer.error());
    }
    let line = format!("POST {DOCUMENT}");
    for (body, why) in [(&b"\xff"[..], "UTF-8"), (b"", "no JSON object"), (b"[]", "no JSON object")] {
        let answer = server.call(&line, &[], body).await;
        assert_eq!((answer.status, answer.error().contains(why)), (400, true), "{}", answer.error());
    }
    assert_eq!(server.get(DOCUMENT).await.status, 404);
}

#[tokio::test]
async fn documents_that_cannot_answer_say_whether_to_come_again() {
    let server = start().await;
    let later = Error::Unavailable { why: "later".to_owned(), retry_after: Duration::from_millis(1_500) };
    for (error, status, retry_after) in [(later, 503, Some("2")), (Error::Failed("the disk".to_owned()), 500, None)] {
        *server.documents.failure.lock().unwrap() = Some(error.clone());
        for answer in [server.get(DOCUMENT).await, apply(&server, &[], PLAY).await, delete(&server, &[]).await] {
            assert_eq!((answer.status, answer.header("retry-after")), (status, retry_after));
            assert_eq!(answer.error(), error.to_string());
        }
        *server.documents.failure.lock().unwrap() = None;
        // What was done is not taken back by a look that failed.
        *server.documents.blind.lock().unwrap() = Some(error);
        let done = apply(&server, &[], PLAY).await;
        let expected = json!({"type": "profile", "id": "u1", "outcome": "applied"});
        assert_eq!((done.status, done.json()), (200, expected));
        *server.documents.blind.lock().unwrap() = None;
    }
}

#[tokio::test]
async fn a_region_without_types_has_no_documents() {
    let server = start_without_documents().await;
    for answer in [server.get(DOCUMENT).await, apply(&server, &[], PLAY).await, delete(&server, &[]).await] {
        assert_eq!(answer.status, 404);
        assert!(answer.error().contains("no document types"), "{}", answer.error());
    }
}
