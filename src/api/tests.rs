use std::time::Duration;

use serde_json::json;

use super::testing::{Caller, auth, start, start_with};
use crate::{
    config::{Auth, Limits},
    core::{
        batch::{Batch, Kind, Opening, Reply},
        position::Lives,
        testing::record,
        time::Timestamp,
    },
    ports::{
        hub::{self, Hub},
        inbox::Refusal,
    },
};

mod events;
mod state;

const TARGET: &str = "x-amz-target: AWSEvents.PutEvents";

fn entry(detail: &str) -> serde_json::Value {
    json!({"Source": "app", "DetailType": "T", "Detail": detail})
}

#[tokio::test]
async fn one_request_is_one_publish_and_its_answers_keep_the_order() {
    let server = start().await;
    let keyed = |n| entry(&format!(r#"{{"key":"k","n":{n}}}"#));
    let entries = json!({"Entries": [entry("[]"), keyed(1), keyed(1), keyed(2), entry("{}")], "New": 1});
    let answer = server.put_events(entries.to_string().as_bytes()).await;
    let body = answer.json();
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/x-amz-json-1.1")));
    assert_eq!(answer.header("x-amzn-requestid").map(str::len), Some(36));
    assert_eq!((&body["FailedEntryCount"], server.hub.publishes()), (&json!(2), 1));
    assert_eq!(body["Entries"][0]["ErrorCode"], "MalformedDetail");
    assert_eq!(body["Entries"][1], body["Entries"][2]);
    assert_eq!(body["Entries"][3]["ErrorCode"], "IdempotencyConflict");
    assert_eq!(body["Entries"][4]["EventId"], "12345678-9abc-8ef0-8000-000000000002");
    assert_eq!(*server.counted.seen.lock().unwrap(), ["MalformedDetail", "IdempotencyConflict", "/ 200"]);
}

#[tokio::test]
async fn an_event_without_a_trace_belongs_to_that_of_its_request() {
    const ROOT: &str = "Root=1-5759e988-bd862e3fe1be46a994272793";
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let server = start().await;
    let mut own = entry("{}");
    own["TraceHeader"] = json!("of its own");
    let entries = json!({ "Entries": [entry("{}"), own] }).to_string();
    for header in [format!("x-amzn-trace-id: {ROOT}"), format!("traceparent: {PARENT}"), "traceparent: 1".to_owned()] {
        let answer = server.call("POST /", &[TARGET, &header], entries.as_bytes()).await;
        assert_eq!(answer.json()["FailedEntryCount"], 0);
    }
    let event = json!({"specversion": "1.0", "id": "1", "source": "s", "type": "t"}).to_string();
    let headers = ["content-type: application/cloudevents+json", &format!("traceparent: {PARENT}")];
    assert_eq!(server.call("POST /v1/events", &headers, event.as_bytes()).await.status, 200);
    let page = server.get("/v1/events").await.json();
    let events = page["events"].as_array().unwrap().iter();
    let traces: Vec<Option<&str>> = events.map(|event| event["trace"].as_str()).collect();
    let own = Some("of its own");
    assert_eq!(traces, [Some(ROOT), own, Some(PARENT), own, None, own, Some(PARENT)]);
}

#[tokio::test]
async fn put_events_takes_any_content_type_and_signature_and_the_names_of_its_hub() {
    let server = start().await;
    for name in ["default", "eu", "arn:aws:events:eu:000000000000:event-bus/default"] {
        let mut entry = entry("{}");
        entry["EventBusName"] = json!(name);
        let signature = "authorization: AWS4-HMAC-SHA256 Credential=x/20261123/eu/events/aws4_request, Signature=0";
        let headers = [TARGET, "content-type: text/plain", signature];
        let answer = server.call("POST /", &headers, json!({"Entries": [entry]}).to_string().as_bytes()).await;
        assert_eq!(answer.json()["FailedEntryCount"], 0, "{name}");
    }
    let mut entry = entry("{}");
    entry["EventBusName"] = json!("other");
    let answer = server.put_events(json!({"Entries": [entry]}).to_string().as_bytes()).await;
    assert_eq!(answer.json()["Entries"][0]["ErrorCode"], "ResourceNotFoundException");
    assert_eq!(server.hub.publishes(), 3);
}

#[tokio::test]
async fn a_request_that_is_no_put_events_is_400_with_a_type_and_takes_nothing() {
    let limits = Limits { max_entry_bytes: 2_000, max_request_bytes: 100_000, ..Limits::default() };
    let server = start_with(limits, Auth::default(), |_| {}).await;
    let eleven = json!({"Entries": vec![entry("{}"); 11]}).to_string().into_bytes();
    let large =
        json!({"Entries": vec![entry(&format!(r#"{{"a":"{}"}}"#, "x".repeat(900))); 3]}).to_string().into_bytes();
    let cases: [(&[u8], &str); 8] = [
        (b"{", "SerializationException"),
        (b"", "SerializationException"),
        (b"[]", "SerializationException"),
        (b"{\"Entries\":[\"\xff\"]}", "SerializationException"),
        (b"{}", "ValidationException"),
        (b"{\"Entries\":[]}", "ValidationException"),
        (&eleven, "ValidationException"),
        (&large, "ValidationException"),
    ];
    for (body, code) in cases {
        let answer = server.put_events(body).await;
        assert_eq!((answer.status, &answer.json()["__type"]), (400, &json!(code)), "{}", String::from_utf8_lossy(body));
    }
    let other = server.call("POST /", &["x-amz-target: AWSEvents.ListRules"], b"{}").await;
    assert_eq!((other.status, &other.json()["__type"]), (400, &json!("UnknownOperationException")));
    assert_eq!(server.call("POST /", &[], b"{}").await.json()["__type"], "UnknownOperationException");
    let huge = server.put_events(&vec![b' '; 3_000_000]).await;
    assert_eq!((huge.status, &huge.json()["__type"]), (413, &json!("RequestEntityTooLargeException")));
    assert_eq!(server.hub.publishes(), 0);
}

#[tokio::test]
async fn a_stripped_stamp_is_counted() {
    let server = start().await;
    server.publish(&[r#"{"a":1,"hubweave":{"origin":"us"}}"#]).await;
    assert_eq!(*server.counted.seen.lock().unwrap(), ["stamp", "/ 200"]);
    assert_eq!(server.get("/v1/events").await.json()["events"][0]["envelope"]["detail"], json!({"a": 1}));
}

#[tokio::test]
async fn a_hub_that_takes_nothing_now_is_503_with_a_time_to_retry_after() {
    let server = start().await;
    server.hub.fail(Some(hub::Error::Overloaded("a full queue")));
    let answer = server.publish(&["{}"]).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert_eq!(answer.json(), json!({"__type": "ThrottlingException", "message": "overloaded: a full queue"}));
    server.hub.fail(Some(hub::Error::Draining));
    let answer = server.publish(&["{}"]).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    assert_eq!(answer.json()["__type"], "InternalException");
    let event = json!({"specversion": "1.0", "id": "1", "source": "app", "type": "T"}).to_string();
    let headers = ["content-type: application/cloudevents+json"];
    let answer = server.call("POST /v1/events", &headers, event.as_bytes()).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    assert_eq!(answer.error(), "draining: this region takes no new events");
}

#[tokio::test]
async fn cloud_events_are_answered_by_their_ids() {
    let server = start().await;
    let event = |id: &str, n: i32| json!({"specversion": "1.0", "id": id, "source": "app", "type": "T", "data": n});
    let batch = json!([event("1", 1), event("2", 1), event("1", 1), event("2", 2)]).to_string();
    let headers = ["content-type: application/cloudevents-batch+json; charset=utf-8"];
    let answer = server.call("POST /v1/events", &headers, batch.as_bytes()).await;
    let result = |id: &str, outcome: &str| json!({"id": id, "outcome": outcome});
    let expected =
        [result("1", "accepted"), result("2", "accepted"), result("1", "duplicate"), result("2", "conflict")];
    assert_eq!((answer.status, answer.json()), (200, json!({ "results": expected })));
    assert_eq!(server.hub.publishes(), 1);
    let headers = ["ce-specversion: 1.0", "ce-id: 3", "ce-source: app", "ce-type: T", "content-type: application/json"];
    let answer = server.call("POST /v1/events", &headers, b"{\"a\":1}").await;
    assert_eq!(answer.json(), json!({"results": [result("3", "accepted")]}));
    let headers = ["content-type: application/cloudevents-batch+json"];
    assert_eq!(server.call("POST /v1/events", &headers, b"[]").await.json(), json!({"results": []}));
}

#[tokio::test]
async fn what_is_no_cloud_event_is_refused_with_a_reason() {
    let limits = Limits { max_request_bytes: 10_000, max_entry_bytes: 2_000, ..Limits::default() };
    let server = start_with(limits, Auth::default(), |_| {}).await;
    let structured = "content-type: application/cloudevents+json";
    let large = json!({"specversion": "1.0", "id": "1", "source": "a", "type": "T", "data": "x".repeat(3_000)});
    let cases: [(&str, Vec<u8>, u16); 7] = [
        ("content-type: text/plain", b"hello".to_vec(), 415),
        ("content-type: application/cloudevents+xml", b"<a/>".to_vec(), 415),
        (structured, b"{\"specversion\":\"1.0\"".to_vec(), 400),
        (structured, b"{\"specversion\":\"1.0\"}".to_vec(), 400),
        (structured, b"{\"id\":\"\xc3\x28\"}".to_vec(), 400),
        (structured, large.to_string().into_bytes(), 413),
        (structured, vec![b' '; 1_000_000], 413),
    ];
    for (content_type, body, status) in cases {
        let answer = server.call("POST /v1/events", &[content_type], &body).await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(!answer.error().is_empty());
    }
    assert_eq!(server.hub.publishes(), 0);
}

#[tokio::test]
async fn a_caller_that_expects_100_is_told_to_send_or_why_not() {
    let limits = Limits { max_request_bytes: 10_000, ..Limits::default() };
    let server = start_with(limits, Auth::default(), |_| {}).await;
    let mut caller = Caller::connect(server.address).await;
    let head = format!("POST / HTTP/1.1\r\nhost: t\r\n{TARGET}\r\nexpect: 100-continue\r\n");
    caller.send(format!("{head}content-length: 2\r\n\r\n").as_bytes()).await;
    assert!(caller.read_text("\r\n\r\n").await.unwrap().starts_with("HTTP/1.1 100"));
    caller.send(b"{}").await;
    assert_eq!(caller.answer().await.unwrap().status, 400);
    caller.send(format!("{head}content-length: 20000\r\n\r\n").as_bytes()).await;
    assert_eq!(caller.answer().await.unwrap().status, 413);
}

#[tokio::test]
async fn other_paths_are_404_and_other_methods_405() {
    let server = start().await;
    for path in ["/v1/state/profile", "/peer/v1", "/v1/events/1", "/v1", "/peer/"] {
        let answer = server.get(path).await;
        assert_eq!((answer.status, answer.error().as_str()), (404, "no such path"), "{path}");
    }
    for (line, allow) in [
        ("PUT /v1/events", "get,head,post"),
        ("PUT /", "get,head,post"),
        ("GET /peer/v1/deliver", "post"),
        ("PUT /v1/state/profile/1", "delete,get,head,post"),
    ] {
        let answer = server.call(line, &[], b"").await;
        let mut allowed: Vec<_> = answer.header("allow").unwrap_or_default().split(',').collect();
        allowed.sort_unstable();
        assert_eq!((answer.status, allowed.join(",").as_str()), (405, allow), "{line}");
        assert_eq!(answer.error(), "this path does not know the method");
    }
    assert_eq!(server.counted.seen.lock().unwrap()[0], "/{bucket}/{*key} 404");
    // Everything else is S3's.
    assert_eq!(server.get("//").await.status, 400);
}

#[tokio::test]
async fn services_and_peers_show_tokens_of_their_own() {
    let tokens = auth("api_token = \"service\"\npeer_token = \"peer\"");
    let server = start_with(Limits::default(), tokens, |_| {}).await;
    let right = |token: &str| format!("authorization: bearer {token}");
    let sign = "authorization: AWS4-HMAC-SHA256 Credential=service";
    for (line, token) in [
        ("GET /v1/events", "service"),
        ("GET /peer/v1/hello?region=a", "peer"),
        ("POST /v1/events", "service"),
        ("GET /v1/state/profile/1", "service"),
        ("DELETE /v1/state/profile/1", "service"),
        ("POST /peer/v1/documents?cluster=local&region=a", "peer"),
    ] {
        let other = if token == "peer" { "service" } else { "peer" };
        for header in ["x: y", sign, "authorization: service", &right(other), &right(&token[1..])] {
            let answer = server.call(line, &[header], b"").await;
            assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("bearer")), "{line} {header}");
            assert!(!answer.error().is_empty());
        }
        assert_ne!(server.call(line, &[&right(token)], b"").await.status, 401);
    }
    let refused = server.publish(&["{}"]).await;
    assert_eq!((refused.status, &refused.json()["__type"]), (401, &json!("UnrecognizedClientException")));
    assert_eq!(server.hub.publishes(), 0);
}

fn batch(cluster: &str) -> Batch {
    let opening = Opening {
        cluster: cluster.to_owned(),
        sender: "a".to_owned(),
        receiver: "b".to_owned(),
        kind: Kind::Redrive,
        lives: Lives(Vec::new()),
        base: 0,
        head: 2,
        sent: Timestamp(17),
        held: Vec::new(),
        payloads_in: None,
    };
    Batch { opening, records: vec![record(1, "k1", "{}"), record(2, "k2", "{}")] }
}

#[tokio::test]
async fn a_batch_reaches_the_inbox_and_its_reply_the_sender() {
    let server = start().await;
    let answer = server.call("POST /peer/v1/deliver", &[], &batch("local").encode()).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/x-hubweave-batch")));
    assert_eq!(Reply::decode(&answer.body).unwrap().region, "b");
    assert_eq!(*server.inbox.batches.lock().unwrap(), [batch("local")]);
}

#[tokio::test]
async fn garbage_from_a_peer_is_400_and_a_batch_without_length_411() {
    let server = start().await;
    let mut flipped = batch("local").encode();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let short = &batch("local").encode()[..50];
    for garbage in [&b""[..], b"<html>", b"HWB9", &[0xff; 5_000], short, &flipped] {
        let answer = server.call("POST /peer/v1/deliver", &[], garbage).await;
        assert_eq!(answer.status, 400);
        assert!(!answer.error().is_empty());
    }
    for (line, body) in [("POST /peer/v1/repair", "{"), ("POST /peer/v1/repair", "{}"), ("GET /peer/v1/hello", "")] {
        assert_eq!(server.call(line, &[], body.as_bytes()).await.status, 400);
    }
    let mut caller = Caller::connect(server.address).await;
    caller.send(b"POST /peer/v1/deliver HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n").await;
    assert_eq!(caller.answer().await.unwrap().status, 411);
    let mut caller = Caller::connect(server.address).await;
    let head = "POST /peer/v1/deliver HTTP/1.1\r\nhost: t\r\nexpect: 100-continue\r\ncontent-length: 83886081\r\n\r\n";
    caller.send(head.as_bytes()).await;
    assert_eq!(caller.answer().await.unwrap().status, 413);
    assert!(server.inbox.batches.lock().unwrap().is_empty());
}

#[tokio::test]
async fn each_refusal_of_the_inbox_has_its_status() {
    let server = start().await;
    let why = || "no".to_owned();
    let cases = [
        (Refusal::Foreign(why()), 409, None),
        (Refusal::Malformed(why()), 400, None),
        (Refusal::Unavailable { why: why(), retry_after: Duration::from_millis(1_200) }, 503, Some("2")),
    ];
    for (refusal, status, retry_after) in cases {
        *server.inbox.refusal.lock().unwrap() = Some(refusal);
        let answer = server.call("POST /peer/v1/deliver", &[], &batch("local").encode()).await;
        assert_eq!((answer.status, answer.error().as_str()), (status, "no"));
        assert_eq!(answer.header("retry-after"), retry_after);
        assert_eq!(server.get("/peer/v1/hello?region=a").await.status, status);
    }
}

#[tokio::test]
async fn a_call_that_is_cut_off_gets_no_answer_at_all() {
    let server = start().await;
    *server.inbox.refusal.lock().unwrap() = Some(Refusal::CutOff);
    let mut caller = Caller::connect(server.address).await;
    caller.request("POST /peer/v1/deliver", &[], &batch("local").encode()).await;
    assert!(caller.is_closed().await);
    let mut caller = Caller::connect(server.address).await;
    caller.request("GET /peer/v1/hello?region=a", &[], b"").await;
    assert!(caller.is_closed().await);
}

#[tokio::test]
async fn hello_and_repair_reach_the_inbox() {
    let server = start().await;
    let hello = server.get("/peer/v1/hello?region=a").await.json();
    assert_eq!(
        (&hello["cluster"], &hello["region"], &hello["high_waters"][0][1]),
        (&json!("local"), &json!("b"), &json!(7))
    );
    let request = json!({"cluster": "local", "asker": "a", "origin": "a", "known": [[1, 2]]}).to_string();
    assert_eq!(server.call("POST /peer/v1/repair", &[], request.as_bytes()).await.status, 202);
    assert_eq!(server.inbox.repairs.lock().unwrap()[0].origin, "a");
    assert_eq!(server.hub.head().borrow().offset, 0);
}
