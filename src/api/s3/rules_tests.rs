//! Conditions, checksums and keys, as S3 has them.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use futures::future::join_all;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::tests::{code, is_there, put};
use crate::{
    api::testing::{Answer, Caller, Server, start, start_with},
    config::{Auth, Limits},
};

/// What stands between two tags of an answer.
fn between(answer: &Answer, tag: &str) -> String {
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let found = text.split(&format!("<{tag}>")).nth(1).and_then(|rest| rest.split(&format!("</{tag}>")).next());
    found.unwrap_or_else(|| panic!("no {tag}: {text}")).replace("&quot;", "\"")
}

async fn begin(server: &Server, key: &str, headers: &[&str]) -> Answer {
    server.call(&format!("POST /bucket/{key}?uploads"), headers, b"").await
}

/// Begins an upload with one part, and answers its id and the body that completes it.
async fn uploaded(server: &Server, key: &str, bytes: &[u8]) -> (String, String) {
    let id = between(&begin(server, key, &[]).await, "UploadId");
    let part = put(server, &format!("{key}?partNumber=1&uploadId={id}"), &[], bytes).await;
    (id, completion(&format!("<ETag>{}</ETag>", part.header("etag").unwrap())))
}

fn completion(of_part: &str) -> String {
    format!("<CompleteMultipartUpload><Part><PartNumber>1</PartNumber>{of_part}</Part></CompleteMultipartUpload>")
}

async fn complete(server: &Server, key: &str, id: &str, headers: &[&str], body: &str) -> Answer {
    server.call(&format!("POST /bucket/{key}?uploadId={id}"), headers, body.as_bytes()).await
}

#[tokio::test]
async fn a_copy_replaces_only_what_its_condition_allows() {
    let server = start().await;
    put(&server, "from", &[], b"new").await;
    let there = put(&server, "to", &[], b"old").await;
    let source = "x-amz-copy-source: /bucket/from";
    let copy = async |key: &str, condition: &str| put(&server, key, &[source, condition], b"").await;
    for (condition, status, expected) in [
        ("if-none-match: *", 412, "PreconditionFailed"),
        ("if-match: \"00000000000000000000000000000000\"", 412, "PreconditionFailed"),
        ("if-none-match: \"00000000000000000000000000000000\"", 501, "NotImplemented"),
    ] {
        let answer = copy("to", condition).await;
        assert_eq!((answer.status, code(&answer).as_str()), (status, expected), "{condition}");
        assert_eq!(server.get("/bucket/to").await.body, b"old", "{condition}");
    }
    let absent = copy("nowhere", "if-match: \"00000000000000000000000000000000\"").await;
    assert_eq!((absent.status, code(&absent).as_str()), (404, "NoSuchKey"));
    assert_eq!(copy("to", &format!("if-match: {}", there.header("etag").unwrap())).await.status, 200);
    assert_eq!(server.get("/bucket/to").await.body, b"new");
    let raced = join_all((0..8).map(|_| copy("raced", "if-none-match: *"))).await;
    assert_eq!(raced.iter().filter(|answer| answer.status == 200).count(), 1, "{raced:?}");
}

#[tokio::test]
async fn a_completion_replaces_only_what_its_condition_allows() {
    let server = start().await;
    let there = put(&server, "k", &[], b"old").await;
    let (id, body) = uploaded(&server, "k", b"new").await;
    let refused = complete(&server, "k", &id, &["if-none-match: *"], &body).await;
    assert_eq!((refused.status, code(&refused).as_str()), (412, "PreconditionFailed"));
    assert_eq!(server.get("/bucket/k").await.body, b"old");
    let condition = format!("if-match: {}", there.header("etag").unwrap());
    assert_eq!(complete(&server, "k", &id, &[&condition], &body).await.status, 200, "the upload stayed");
    assert_eq!(server.get("/bucket/k").await.body, b"new");
    let uploads = join_all((0..4_u8).map(async |nth| uploaded(&server, "raced", &[nth]).await)).await;
    let all = uploads.iter().map(|(id, body)| complete(&server, "raced", id, &["if-none-match: *"], body));
    let raced = join_all(all).await;
    assert_eq!(raced.iter().filter(|answer| answer.status == 200).count(), 1, "{raced:?}");
}

#[tokio::test]
async fn checksums_of_every_kind_are_judged() {
    let server = start().await;
    let kinds = [
        ("crc32", STANDARD.encode(0xcbf4_3926_u32.to_be_bytes())),
        ("crc32c", STANDARD.encode(0xe306_9283_u32.to_be_bytes())),
        ("crc64nvme", STANDARD.encode(0xae8b_1486_0a79_9888_u64.to_be_bytes())),
        ("sha1", "98O8HYCOBHMq32eZZczDTKeuNEE=".to_owned()),
        ("sha256", "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=".to_owned()),
    ];
    for (kind, sum) in &kinds {
        let algorithm = format!("x-amz-sdk-checksum-algorithm: {}", kind.to_uppercase());
        let header = format!("x-amz-checksum-{kind}: {sum}");
        let right = put(&server, kind, &[&header, &algorithm], b"123456789").await;
        assert_eq!(right.status, 200, "{kind}: {right:?}");
        let wrong = put(&server, "wrong", &[&header, &algorithm], b"123456780").await;
        assert_eq!((wrong.status, code(&wrong).as_str()), (400, "BadDigest"), "{kind}");
        let nothing = put(&server, "wrong", &[&algorithm], b"123456789").await;
        assert_eq!((nothing.status, code(&nothing).as_str()), (400, "InvalidRequest"), "{kind}");
        let found = server.call(&format!("GET /bucket/{kind}"), &["x-amz-checksum-mode: ENABLED"], b"").await;
        if *kind != "sha1" {
            assert_eq!(found.header(&format!("x-amz-checksum-{kind}")), Some(sum.to_lowercase().as_str()));
        }
        let trailed = async |key: &str, trailer: &str| {
            let headers = [
                "x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER",
                "x-amz-decoded-content-length: 9",
                &format!("x-amz-trailer: x-amz-checksum-{kind}"),
            ];
            put(&server, key, &headers, format!("9\r\n123456789\r\n0\r\n{trailer}\r\n").as_bytes()).await
        };
        assert_eq!(trailed("right", &format!("x-amz-checksum-{kind}:{sum}\r\n")).await.status, 200, "{kind}");
        for trailer in ["", "x-other: 1\r\n", &format!("x-amz-checksum-{kind}:{}\r\n", STANDARD.encode([7; 4]))] {
            assert_eq!(trailed("wrong", trailer).await.status, 400, "{kind}: {trailer}");
        }
    }
    for header in [
        "x-amz-checksum-sha512: AAAA",
        "x-amz-checksum-md5: AAAA",
        "x-amz-checksum-xxhash64: AAAA",
        "x-amz-sdk-checksum-algorithm: XXHASH3",
        "x-amz-trailer: x-amz-checksum-sha512",
        "x-amz-trailer: x-amz-checksum-crc32",
    ] {
        let refused = put(&server, "wrong", &[header], b"123456789").await;
        assert_eq!(refused.status, 400, "{header}: {refused:?}");
    }
    assert!(!is_there(&server, "wrong").await);
}

#[tokio::test]
async fn checksums_of_parts_are_judged_when_they_become_an_object() {
    let server = start().await;
    for (header, expected) in [
        ("x-amz-checksum-algorithm: SHA1", "NotImplemented"),
        ("x-amz-checksum-algorithm: MD5", "InvalidRequest"),
        ("x-amz-checksum-type: COMPOSITE", "NotImplemented"),
    ] {
        assert_eq!(code(&begin(&server, "k", &[header]).await), expected, "{header}");
    }
    let begun = begin(&server, "k", &["x-amz-checksum-algorithm: CRC32C"]).await;
    assert_eq!(begun.header("x-amz-checksum-type"), Some("full_object"));
    let id = between(&begun, "UploadId");
    let part = put(&server, &format!("k?partNumber=1&uploadId={id}"), &[], b"123456789").await;
    let sum = STANDARD.encode(0xe306_9283_u32.to_be_bytes());
    assert_eq!(part.header("x-amz-checksum-crc32c"), Some(sum.to_lowercase().as_str()));
    let wrong = completion("<ChecksumCRC32C>AAAAAA==</ChecksumCRC32C>");
    assert_eq!(code(&complete(&server, "k", &id, &[], &wrong).await), "InvalidPart");
    let right = completion(&format!("<ChecksumCRC32C>{sum}</ChecksumCRC32C>"));
    // A checksum of the one part's checksum.
    let of_parts = STANDARD.encode(crc32c(&0xe306_9283_u32.to_be_bytes()).to_be_bytes());
    for (header, expected) in [
        (format!("x-amz-checksum-crc32c: {of_parts}-2"), "BadDigest"),
        ("x-amz-checksum-crc32c: AAAAAA==-1".to_owned(), "BadDigest"),
        ("x-amz-checksum-crc32c: AAAAAA==".to_owned(), "BadDigest"),
        ("x-amz-mp-object-size: 8".to_owned(), "BadDigest"),
        ("x-amz-checksum-sha1: AAAA-1".to_owned(), "NotImplemented"),
    ] {
        assert_eq!(code(&complete(&server, "k", &id, &[&header], &right).await), expected, "{header}");
    }
    let header = format!("x-amz-checksum-crc32c: {of_parts}-1");
    let made = complete(&server, "k", &id, &[&header, "x-amz-mp-object-size: 9"], &right).await;
    assert_eq!((made.status, between(&made, "ChecksumType").as_str()), (200, "FULL_OBJECT"), "{made:?}");
    assert_eq!(between(&made, "ChecksumCRC32C"), sum);
}

fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

#[tokio::test]
async fn keys_are_whatever_s3_takes() {
    let server = start().await;
    let long = "k".repeat(1024);
    for key in ["folder/", "/", "//", " both ends ", "..", "a/../b", "./a", "ключ 標 é", "%2e%2e", "a+b", &long] {
        let path: String = utf8_percent_encode(key, NON_ALPHANUMERIC).collect();
        for path in [path.clone(), path.replace("%2F", "/")] {
            let answer = put(&server, &path, &[], key.as_bytes()).await;
            assert_eq!(answer.status, 200, "{key}: {answer:?}");
            assert_eq!(server.get(&format!("/bucket/{path}")).await.body, key.as_bytes(), "{key}");
        }
        assert!(is_there(&server, key).await, "{key}");
        let copy = put(&server, "copy", &[&format!("x-amz-copy-source: /bucket/{path}")], b"").await;
        assert_eq!(copy.status, 200, "{key}: {copy:?}");
        assert_eq!(server.get("/bucket/copy").await.body, key.as_bytes(), "{key}");
        let listed = server.get(&format!("/bucket?list-type=2&encoding-type=url&prefix={path}")).await;
        assert!(!between(&listed, "Key").is_empty(), "{key}");
        assert_eq!(server.call(&format!("DELETE /bucket/{path}"), &[], b"").await.status, 204, "{key}");
        assert!(!is_there(&server, key).await, "{key}");
    }
}

#[tokio::test]
async fn an_object_has_no_tags_and_nothing_has_none() {
    let server = start().await;
    put(&server, "k", &[], b"x").await;
    let tags = server.get("/bucket/k?tagging").await;
    assert_eq!(tags.status, 200, "{tags:?}");
    assert!(String::from_utf8_lossy(&tags.body).contains("TagSet"), "{tags:?}");
    assert_eq!(code(&server.get("/bucket/nothing?tagging").await), "NoSuchKey");
    assert_eq!(code(&server.get("/nowhere/nothing?tagging").await), "NoSuchBucket");
}

#[tokio::test]
async fn the_etag_that_a_peer_gave_an_object_is_good_for_reading_on() {
    let server = start().await;
    put(&server, "k", &[], b"abc").await;
    let sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let part = server.call("GET /bucket/k", &[&format!("if-match: \"{sum}\""), "range: bytes=1-2"], b"").await;
    assert_eq!((part.status, part.body.as_slice()), (206, &b"bc"[..]));
    let other = format!("if-match: \"{}\"", sum.replace('a', "b"));
    assert_eq!(server.call("GET /bucket/k", &[&other], b"").await.status, 412);
}

#[tokio::test]
async fn a_body_of_a_form_s_type_is_a_body_and_a_form_is_none() {
    let server = start().await;
    let form = "content-type: multipart/form-data; boundary=x";
    assert_eq!(put(&server, "k", &[form], b"--x--").await.status, 200);
    assert_eq!(server.get("/bucket/k").await.header("content-type"), Some("multipart/form-data; boundary=x"));
    let mut caller = Caller::connect(server.address).await;
    for _ in 0..2 {
        caller.request("POST /bucket", &[form], &vec![7; 3 << 20]).await;
        assert_eq!(caller.answer().await.unwrap().status, 501, "also who is busy sending sees it");
    }
}

#[tokio::test]
async fn who_finds_no_room_sees_it_while_it_sends() {
    let limits = Limits { max_connections: 4, ..Limits::default() };
    let server = start_with(limits, Auth::default(), |_| {}).await;
    let mut busy = Caller::connect(server.address).await;
    busy.send(b"PUT /bucket/k HTTP/1.1\r\nhost: t\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n").await;
    assert!(busy.read_text("\r\n\r\n").await.unwrap().starts_with("HTTP/1.1 100"));
    let answer = put(&server, "other", &[], &vec![7; 3 << 20]).await;
    assert_eq!((answer.status, code(&answer).as_str(), answer.header("retry-after")), (503, "SlowDown", Some("1")));
}

#[tokio::test]
async fn who_asks_whether_to_send_nothing_is_answered_for_the_last_time() {
    let server = start().await;
    for (headers, connection) in [(&["expect: 100-continue"][..], Some("close")), (&[], None)] {
        let answer = put(&server, "empty", headers, b"").await;
        assert_eq!((answer.status, answer.header("connection")), (200, connection));
    }
    let mut caller = Caller::connect(server.address).await;
    caller.request("PUT /bucket/full", &["expect: 100-continue"], b"abc").await;
    for status in [100, 200] {
        let answer = caller.answer().await.unwrap();
        assert_eq!((answer.status, answer.header("connection")), (status, None));
    }
}

#[tokio::test]
async fn a_body_that_hardly_moves_is_given_up() {
    let limits = Limits { request_timeout: Duration::from_millis(300), ..Limits::default() };
    let server = start_with(limits, Auth::default(), |_| {}).await;
    let mut caller = Caller::connect(server.address).await;
    caller.send(b"PUT /bucket/k HTTP/1.1\r\nhost: t\r\ncontent-length: 900000\r\n\r\n").await;
    // A byte now and then keeps no connection for ever. The answer may come at any moment.
    for _ in 0..1_000 {
        caller.send(b"x").await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        if server.counted.seen.lock().unwrap().iter().any(|seen| seen.starts_with("PutObject")) {
            break;
        }
    }
    let answer = caller.answer().await.unwrap();
    assert!(answer.status >= 400, "{answer:?}");
    assert!(!is_there(&server, "k").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_hangs_up_within_a_part_leaves_no_part() {
    let server = start().await;
    let id = between(&begin(&server, "k", &[]).await, "UploadId");
    let mut gone = Caller::connect(server.address).await;
    let head =
        format!("PUT /bucket/k?partNumber=1&uploadId={id} HTTP/1.1\r\nhost: t\r\ncontent-length: 900000\r\n\r\n");
    gone.send(head.as_bytes()).await;
    gone.send(&vec![1; 600_000]).await;
    drop(gone);
    let folders = || std::fs::read_dir(server.folder.path().join("bodies")).unwrap();
    let files = || folders().map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap().count()).sum::<usize>();
    for _ in 0..500 {
        let seen = server.counted.seen.lock().unwrap().iter().any(|seen| seen.starts_with("UploadPart"));
        if seen || folders().next().is_some() && files() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let parts = server.get(&format!("/bucket/k?uploadId={id}")).await;
    assert!(parts.status == 200 && !String::from_utf8_lossy(&parts.body).contains("<Part>"), "{parts:?}");
    let part = put(&server, &format!("k?partNumber=1&uploadId={id}"), &[], b"abc").await;
    assert_eq!(part.status, 200, "the upload goes on");
}
