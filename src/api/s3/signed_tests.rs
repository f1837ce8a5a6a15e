//! Bodies in chunks where a token is configured, so that `s3s` verifies signatures.

use axum::http::Method;
use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

use super::tests::{code, is_there};
use crate::{
    api::testing::{Answer, Server, auth, start_with},
    config::Limits,
    core::object::hex,
    embedded::system::SystemClock,
    ports::{clock::Clock, conformance::objects::noise},
};

const SCOPE: &str = "us-east-1/s3/aws4_request";

fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().into()
}

fn sha256(text: &[u8]) -> String {
    hex(&Sha256::digest(text))
}

/// Signs a request and then its chunks, as version 4 of AWS's signatures has it.
struct Signer {
    moment: String,
    key: [u8; 32],
    /// The signature before.
    last: String,
}

impl Signer {
    fn new(secret: &str) -> Self {
        let now = SystemClock.now().to_rfc3339();
        let moment = format!("{}T{}Z", now[..10].replace('-', ""), now[11..19].replace(':', ""));
        let mut key = hmac(format!("AWS4{secret}").as_bytes(), &moment.as_bytes()[..8]);
        for part in SCOPE.split('/') {
            key = hmac(&key, part.as_bytes());
        }
        Signer { moment, key, last: String::new() }
    }

    fn scope(&self) -> String {
        format!("{}/{SCOPE}", &self.moment[..8])
    }

    fn sign(&mut self, kind: &str, middle: &str, text: &[u8]) -> String {
        let text = format!("{kind}\n{}\n{}\n{middle}{}", self.moment, self.scope(), sha256(text));
        self.last = hex(&hmac(&self.key, text.as_bytes()));
        self.last.clone()
    }

    /// The headers of a request whose body is described by `payload`.
    fn head(&mut self, path: &str, payload: &str) -> Vec<String> {
        let signed = "host;x-amz-content-sha256;x-amz-date";
        let headers = format!("host:test\nx-amz-content-sha256:{payload}\nx-amz-date:{}\n", self.moment);
        let canonical = format!("{}\n{path}\n\n{headers}\n{signed}\n{payload}", Method::PUT);
        let signature = self.sign("AWS4-HMAC-SHA256", "", canonical.as_bytes());
        let credential = format!("Credential=whoever/{}", self.scope());
        vec![
            format!("x-amz-date: {}", self.moment),
            format!("x-amz-content-sha256: {payload}"),
            format!("authorization: AWS4-HMAC-SHA256 {credential}, SignedHeaders={signed}, Signature={signature}"),
        ]
    }

    fn chunk(&mut self, bytes: &[u8]) -> Vec<u8> {
        let middle = format!("{}\n{}\n", self.last, sha256(b""));
        let signature = self.sign("AWS4-HMAC-SHA256-PAYLOAD", &middle, bytes);
        let end: &[u8] = if bytes.is_empty() { b"" } else { b"\r\n" };
        [format!("{:x};chunk-signature={signature}\r\n", bytes.len()).as_bytes(), bytes, end].concat()
    }

    fn trailers(&mut self, trailers: &str) -> Vec<u8> {
        let middle = format!("{}\n", self.last);
        let signature = self.sign("AWS4-HMAC-SHA256-TRAILER", &middle, trailers.replace("\r\n", "\n").as_bytes());
        format!("{trailers}x-amz-trailer-signature:{signature}\r\n\r\n").into_bytes()
    }
}

async fn server() -> Server {
    start_with(Limits::default(), auth("api_token = \"t\""), |_| {}).await
}

async fn put(server: &Server, key: &str, mut headers: Vec<String>, length: usize, body: &[u8]) -> Answer {
    headers.push(format!("x-amz-decoded-content-length: {length}"));
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    server.call(&format!("PUT /bucket/{key}"), &headers, body).await
}

async fn stored(server: &Server, key: &str) -> Vec<u8> {
    server.call(&format!("GET /bucket/{key}"), &["authorization: bearer t"], b"").await.body
}

#[tokio::test]
async fn one_large_chunk_that_is_not_signed_is_taken_in_pieces() {
    let server = server().await;
    let bytes = noise(1, 5 << 20);
    let crc32 = crc32fast::hash(&bytes);
    for (key, sum, expected) in [("right", crc32, None), ("wrong", crc32 ^ 1, Some("BadDigest"))] {
        let mut headers = Signer::new("t").head(&format!("/bucket/{key}"), "STREAMING-UNSIGNED-PAYLOAD-TRAILER");
        headers.push("x-amz-trailer: x-amz-checksum-crc32".to_owned());
        let end = format!("\r\n0\r\nx-amz-checksum-crc32:{}\r\n\r\n", STANDARD.encode(sum.to_be_bytes()));
        let body = [format!("{:x}\r\n", bytes.len()).as_bytes(), &bytes, end.as_bytes()].concat();
        let answer = put(&server, key, headers, bytes.len(), &body).await;
        match expected {
            None => assert!(answer.status == 200 && stored(&server, key).await == bytes, "{answer:?}"),
            Some(expected) => assert_eq!((answer.status, code(&answer).as_str()), (400, expected)),
        }
    }
    assert!(!is_there(&server, "wrong").await);
    let headers = Signer::new("another").head("/bucket/k", "STREAMING-UNSIGNED-PAYLOAD-TRAILER");
    let answer = put(&server, "k", headers, 3, b"3\r\nabc\r\n0\r\n\r\n").await;
    assert_eq!((answer.status, code(&answer).as_str()), (403, "SignatureDoesNotMatch"));
}

#[tokio::test]
async fn signed_chunks_are_verified_and_have_a_greatest_size() {
    let server = server().await;
    let bytes = noise(2, 200_000);
    let pieces = || bytes.chunks(64 << 10).chain([&b""[..]]);
    let mut signer = Signer::new("t");
    let headers = signer.head("/bucket/signed", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD");
    let mut body: Vec<u8> = pieces().flat_map(|piece| signer.chunk(piece)).collect();
    body.extend(b"\r\n");
    assert_eq!(put(&server, "signed", headers, bytes.len(), &body).await.status, 200);
    assert!(stored(&server, "signed").await == bytes);

    let mut signer = Signer::new("t");
    let headers = signer.head("/bucket/forged", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD");
    let mut body: Vec<u8> = pieces().flat_map(|piece| signer.chunk(piece)).collect();
    body[1_000] ^= 1;
    let answer = put(&server, "forged", headers, bytes.len(), &body).await;
    assert!(matches!(answer.status, 400 | 403), "{answer:?}");

    let mut signer = Signer::new("t");
    let headers = signer.head("/bucket/endless", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD");
    let body = format!("1000001;chunk-signature={}\r\nabc", "0".repeat(64));
    let answer = put(&server, "endless", headers, 0x0100_0001, body.as_bytes()).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(text.contains("a signed one has at most 16 MiB, not 16777217 bytes"), "{text}");
    for key in ["forged", "endless"] {
        assert!(!is_there(&server, key).await, "{key}");
    }
}

#[tokio::test]
async fn signed_trailers_are_verified_and_have_to_come() {
    let server = server().await;
    let bytes = b"123456789";
    let right = format!("x-amz-checksum-crc32c:{}\r\n", STANDARD.encode(0xe306_9283_u32.to_be_bytes()));
    let wrong = format!("x-amz-checksum-crc32c:{}\r\n", STANDARD.encode(0xe306_9284_u32.to_be_bytes()));
    for (key, trailers, status) in [("right", right.as_str(), 200), ("wrong", &wrong, 400), ("absent", "", 400)] {
        let mut signer = Signer::new("t");
        let payload = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER";
        let mut headers = signer.head(&format!("/bucket/{key}"), payload);
        headers.push("x-amz-trailer: x-amz-checksum-crc32c".to_owned());
        let body = [signer.chunk(bytes), signer.chunk(b""), signer.trailers(trailers)].concat();
        let answer = put(&server, key, headers, bytes.len(), &body).await;
        assert_eq!(answer.status, status, "{key}: {answer:?}");
        assert_eq!(is_there(&server, key).await, status == 200, "{key}");
    }
}
