use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    api::testing::{Answer, Caller, Server, auth, start, start_with},
    config::{Auth, Limits},
    core::object::Location,
    ports::objects::Objects,
};

const SIGNED: &str = "authorization: AWS4-HMAC-SHA256 Credential=a/20260101/r/s3/aws4_request, SignedHeaders=host, \
                      Signature=0000000000000000000000000000000000000000000000000000000000000000";

pub async fn put(server: &Server, key: &str, headers: &[&str], body: &[u8]) -> Answer {
    server.call(&format!("PUT /bucket/{key}"), headers, body).await
}

/// The code of an error in S3's form.
pub fn code(answer: &Answer) -> String {
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let code = text.split("<Code>").nth(1).and_then(|rest| rest.split("</Code>").next());
    code.unwrap_or_else(|| panic!("no code: {text}")).to_owned()
}

pub async fn is_there(server: &Server, key: &str) -> bool {
    server.objects.stat(&Location::new("bucket", key)).await.unwrap().is_some()
}

#[tokio::test]
async fn any_signature_will_do_where_no_token_is_configured() {
    let server = start().await;
    for (key, headers) in [("none", &[][..]), ("signed", &[SIGNED]), ("bearer", &["authorization: bearer x"])] {
        assert_eq!(put(&server, key, headers, b"abc").await.status, 200, "{key}");
        assert_eq!(server.call(&format!("GET /bucket/{key}"), headers, b"").await.body, b"abc");
    }
    let presigned = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a&X-Amz-Signature=b&response-content-type=a%2Fb";
    let answer = server.get(&format!("/bucket/none?{presigned}")).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("a/b")), "the rest of the query stays");
    assert_eq!(server.get("/").await.status, 200);
    assert_eq!(server.get("/bucket?list-type=2").await.status, 200);
}

#[tokio::test]
async fn a_configured_token_is_asked_for() {
    let server = start_with(Limits::default(), auth("api_token = \"t\""), |_| {}).await;
    for headers in [&[][..], &["authorization: bearer u"], &[SIGNED]] {
        let answer = put(&server, "k", headers, b"abc").await;
        assert!(matches!(answer.status, 400 | 403), "{headers:?}: {answer:?}");
        assert!(!is_there(&server, "k").await);
    }
    assert_eq!(code(&put(&server, "k", &[], b"abc").await), "AccessDenied");
    assert_eq!(put(&server, "k", &["authorization: Bearer t"], b"abc").await.status, 200);
}

#[tokio::test]
async fn chunks_are_unpacked_and_what_trails_them_is_judged() {
    let server = start().await;
    let trailed = |sum: &str| {
        let sum = STANDARD.encode(u32::from_str_radix(sum, 16).unwrap().to_be_bytes());
        format!("5\r\n12345\r\n4\r\n6789\r\n0\r\nx-amz-checksum-crc32:{sum}\r\n\r\n").into_bytes()
    };
    let headers = [
        "x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "x-amz-decoded-content-length: 9",
        "x-amz-trailer: x-amz-checksum-crc32",
        "content-encoding: aws-chunked",
    ];
    let answer = put(&server, "right", &headers, &trailed("cbf43926")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let found = server.call("GET /bucket/right", &["x-amz-checksum-mode: ENABLED"], b"").await;
    assert_eq!((found.body.as_slice(), found.header("content-encoding")), (&b"123456789"[..], None));
    assert!(found.header("x-amz-checksum-crc32").is_some(), "{found:?}");
    let wrong = put(&server, "wrong", &headers, &trailed("cbf43927")).await;
    assert_eq!((wrong.status, code(&wrong).as_str()), (400, "BadDigest"));
    let signed =
        ["x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "x-amz-decoded-content-length: 5", SIGNED];
    let packed = b"5;chunk-signature=00\r\nhello\r\n0;chunk-signature=00\r\n\r\n";
    assert_eq!(put(&server, "signed", &signed, packed).await.status, 200);
    assert_eq!(server.get("/bucket/signed").await.body, b"hello");
    let cut = put(&server, "cut", &signed, b"5;chunk-signature=00\r\nhel").await;
    assert_eq!((cut.status, code(&cut).as_str()), (400, "IncompleteBody"));
    let short = put(&server, "short", &headers, b"3\r\nabc\r\n0\r\n\r\n").await;
    assert_eq!((short.status, code(&short).as_str()), (400, "BadDigest"));
    for key in ["wrong", "cut", "short"] {
        assert!(!is_there(&server, key).await, "{key}");
    }
}

#[tokio::test]
async fn what_a_signature_would_cover_is_judged_without_one_too() {
    let server = start().await;
    let right = "x-amz-content-sha256: ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(put(&server, "k", &[right], b"abc").await.status, 200);
    assert_eq!(put(&server, "k", &["x-amz-content-sha256: UNSIGNED-PAYLOAD"], b"abd").await.status, 200);
    assert_eq!(code(&put(&server, "k", &[right], b"abd").await), "BadDigest");
}

#[tokio::test]
async fn a_caller_that_asks_first_learns_before_it_sends() {
    let server = start().await;
    let mut caller = Caller::connect(server.address).await;
    let head = |more: &str| {
        format!("PUT /bucket/k HTTP/1.1\r\nhost: t\r\nexpect: 100-continue\r\ncontent-length: 3\r\n{more}\r\n")
            .into_bytes()
    };
    caller.send(&head("")).await;
    assert!(caller.read_text("\r\n\r\n").await.unwrap().starts_with("HTTP/1.1 100"));
    caller.send(b"abc").await;
    assert_eq!(caller.answer().await.unwrap().status, 200);
    caller.send(&head("if-none-match: *\r\n")).await;
    let answer = caller.answer().await.unwrap();
    // Nobody can know whether the body follows.
    assert_eq!((answer.status, answer.header("connection")), (412, Some("close")));
    assert!(caller.is_closed().await);
}

#[tokio::test]
async fn a_caller_that_is_refused_while_it_sends_sees_the_answer() {
    let server = start().await;
    assert_eq!(put(&server, "k", &[], b"abc").await.status, 200);
    let mut caller = Caller::connect(server.address).await;
    for _ in 0..2 {
        caller.request("PUT /bucket/k", &["if-none-match: *"], &vec![7; 3 << 20]).await;
        assert_eq!(caller.answer().await.unwrap().status, 412, "the connection stays of use");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_hangs_up_half_way_leaves_nothing_behind() {
    let limits = Limits { request_timeout: Duration::from_millis(300), ..Limits::default() };
    let server = start_with(limits, Auth::default(), |_| {}).await;
    let head = b"PUT /bucket/k HTTP/1.1\r\nhost: t\r\ncontent-length: 900000\r\n\r\n";
    let mut gone = Caller::connect(server.address).await;
    gone.send(head).await;
    gone.send(&vec![1; 600_000]).await;
    drop(gone);
    let mut silent = Caller::connect(server.address).await;
    silent.send(head).await;
    silent.send(&vec![1; 600_000]).await;
    let answer = silent.answer().await.unwrap();
    assert!(answer.status >= 400, "{answer:?}");
    let folders = || std::fs::read_dir(server.folder.path().join("bodies")).unwrap();
    let files = || folders().map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap().count()).sum::<usize>();
    for _ in 0..500 {
        if files() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(files(), 0);
    assert!(!is_there(&server, "k").await);
}

#[tokio::test]
async fn what_is_not_s3s_is_told_apart() {
    let server = start().await;
    for path in ["/v1", "/v1/", "/v1/objects", "/peer", "/peer/v1/objects"] {
        for method in ["GET", "PUT", "DELETE"] {
            let answer = server.call(&format!("{method} {path}"), &[], b"").await;
            assert_eq!((answer.status, answer.error().as_str()), (404, "no such path"), "{method} {path}");
        }
    }
    let form = server.call("POST /bucket", &["content-type: multipart/form-data; boundary=x"], b"--x--").await;
    assert_eq!((form.status, code(&form).as_str()), (501, "NotImplemented"));
    assert_eq!(code(&server.call("PUT /No_Bucket/k", &[], b"x").await), "InvalidBucketName");
    assert_eq!(code(&server.get("/bucket/k?versionId=7").await), "NoSuchVersion");
    let long = format!("x-amz-meta-a: {}", "b".repeat(3_000));
    assert_eq!(code(&put(&server, "k", &[&long], b"x").await), "MetadataTooLarge");
    let key = "k".repeat(1_025);
    assert_eq!(code(&put(&server, &key, &[], b"x").await), "KeyTooLongError");
}

#[tokio::test]
async fn too_many_bodies_are_told_to_come_again() {
    let limits = Limits { max_connections: 8, ..Limits::default() };
    let server = Arc::new(start_with(limits, Auth::default(), |_| {}).await);
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut caller = Caller::connect(server.address).await;
        caller.send(b"PUT /bucket/k HTTP/1.1\r\nhost: t\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n").await;
        assert!(caller.read_text("\r\n\r\n").await.unwrap().starts_with("HTTP/1.1 100"));
        busy.push(caller);
    }
    let answer = put(&server, "other", &[], b"abc").await;
    assert_eq!((answer.status, code(&answer).as_str(), answer.header("retry-after")), (503, "SlowDown", Some("1")));
    let answer = server.get("/v1/events?limit=1").await;
    assert_eq!(answer.status, 200, "everything else goes on");
    drop(busy);
    for _ in 0..100 {
        if put(&server, "other", &[], b"abc").await.status == 200 {
            return;
        }
    }
    panic!("there is room again");
}

#[tokio::test]
async fn requests_are_counted_by_s3s_names() {
    let server = start().await;
    put(&server, "k", &[], b"abc").await;
    server.get("/bucket/nothing").await;
    let seen = server.counted.seen.lock().unwrap().clone();
    for expected in ["PutObject 200", "/{bucket}/{*key} 200", "GetObject 404", "/{bucket}/{*key} 404"] {
        assert!(seen.iter().any(|seen| seen == expected), "{expected}: {seen:?}");
    }
}
