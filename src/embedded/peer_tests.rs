use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::Instant,
};

use super::*;
use crate::{
    api::testing::{Server, auth, start, start_with},
    config::{Auth, Limits},
    core::{
        batch::{Kind, Opening},
        position::{Incarnation, Lives},
        testing::record,
        time::Timestamp,
    },
    ports::{inbox::Refusal, testing::LIFE},
};

const SHORT: Duration = Duration::from_millis(500);

fn peer(address: SocketAddr, attempt_timeout: Duration) -> HttpPeer {
    HttpPeer::new(Options { attempt_timeout, ..Options::new(Address::loopback(address.port()), "a") })
}

fn peer_of(server: &Server) -> HttpPeer {
    peer(server.address, Duration::from_secs(30))
}

fn batch(cluster: &str, records: u64) -> Batch {
    let opening = Opening {
        cluster: cluster.to_owned(),
        sender: "a".to_owned(),
        receiver: "b".to_owned(),
        kind: Kind::Stream { from: 0, to: records },
        lives: Lives(vec![(LIFE, 0)]),
        base: 0,
        head: records,
        sent: Timestamp(17),
        held: Vec::new(),
        payloads_in: None,
    };
    Batch { opening, records: (1..=records).map(|offset| record(offset, &format!("k{offset}"), "{}")).collect() }
}

fn repair() -> RepairRequest {
    RepairRequest {
        cluster: "local".to_owned(),
        asker: "a".to_owned(),
        origin: "a".to_owned(),
        known: vec![(Incarnation(5), 9)],
        asked: 7,
    }
}

/// A server that says `answer` to whatever it is told, then `more` every 20 ms (nothing: silence).
async fn says(answer: Vec<u8>, more: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 1 << 16]).await;
                let _ = stream.write_all(&answer).await;
                while stream.write_all(more).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
        }
    });
    address
}

/// A whole answer with this status and body.
async fn answers(status: &str, body: &[u8]) -> SocketAddr {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
    says([head.as_bytes(), body].concat(), b"").await
}

fn text(failure: Failure) -> String {
    match failure {
        Failure::Unanswered(why) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn batches_hellos_and_repairs_go_over_and_come_back() {
    let server = start().await;
    let peer = peer_of(&server);
    for records in [3, 0, 2_000] {
        let reply = peer.deliver(batch("local", records)).await.unwrap();
        assert_eq!((reply.region.as_str(), reply.high_waters), ("b", vec![(LIFE, records)]));
        assert_eq!(server.inbox.batches.lock().unwrap().pop(), Some(batch("local", records)));
    }
    let hello = peer.hello().await.unwrap();
    assert_eq!((hello.region.as_str(), hello.high_waters), ("b", vec![(LIFE, 7)]));
    peer.request_repair(repair()).await.unwrap();
    assert_eq!(*server.inbox.repairs.lock().unwrap(), [repair()]);
}

#[tokio::test]
async fn another_cluster_is_refused_in_the_peers_words() {
    let server = start().await;
    let failure = peer_of(&server).deliver(batch("other", 1)).await.unwrap_err();
    let port = server.address.port();
    let expected = format!("127.0.0.1:{port} answers 409 Conflict: this is cluster local, not other");
    assert_eq!(failure, Failure::Refused(expected));
}

#[tokio::test]
async fn a_wrong_token_is_refused_and_the_right_one_taken() {
    let tokens = auth("api_token = \"service\"\npeer_token = \"secret\"");
    let server = start_with(Limits::default(), tokens, |_| {}).await;
    assert!(matches!(peer_of(&server).hello().await, Err(Failure::Refused(_))));
    let Auth { peer_token: token, .. } = auth("peer_token = \"secret\"");
    let options = Options { token, ..Options::new(Address::loopback(server.address.port()), "a") };
    assert!(HttpPeer::new(options).deliver(batch("local", 1)).await.is_ok());
}

#[tokio::test]
async fn each_refusal_of_the_peer_is_its_failure() {
    let server = start().await;
    let peer = peer_of(&server);
    let fail = async |refusal: Refusal| {
        *server.inbox.refusal.lock().unwrap() = Some(refusal);
        peer.deliver(batch("local", 1)).await.unwrap_err()
    };
    let later = Refusal::Unavailable { why: "full".to_owned(), retry_after: Duration::from_secs(3) };
    assert_eq!(fail(later).await, Failure::Throttled { after: Duration::from_secs(3) });
    assert!(matches!(fail(Refusal::Malformed("m".to_owned())).await, Failure::Refused(_)));
    let cut_off = text(fail(Refusal::CutOff).await);
    assert!(cut_off.contains("connection closed before message completed"), "{cut_off}");
}

#[tokio::test]
async fn statuses_are_told_apart() {
    let status = async |status: &str| {
        let address = answers(status, b"{\"error\":\"because\"}").await;
        peer(address, Duration::from_secs(30)).hello().await.unwrap_err()
    };
    for refused in ["400 Bad Request", "401 Unauthorized", "404 Not Found", "409 Conflict", "413 Payload Too Large"] {
        let Failure::Refused(why) = status(refused).await else { panic!("{refused}") };
        assert!(why.ends_with(&format!("{refused}: because")), "{why}");
    }
    for (throttled, seconds) in [
        ("429 Too Many Requests", 1),
        ("503 Service Unavailable\r\nretry-after: 7", 7),
        ("503 Service Unavailable\r\nretry-after: 100000", 60),
        ("503 Service Unavailable\r\nretry-after: soon", 1),
    ] {
        assert_eq!(status(throttled).await, Failure::Throttled { after: Duration::from_secs(seconds) });
    }
    for unanswered in ["500 Internal Server Error", "302 Found\r\nlocation: /", "408 Request Timeout", "204 No Content"]
    {
        assert!(matches!(status(unanswered).await, Failure::Unanswered(_)), "{unanswered}");
    }
}

#[tokio::test]
async fn an_answer_that_is_no_reply_is_no_answer() {
    let html = b"<html>\n<body>It works!</body></html>";
    let mut short = b"HWB1".to_vec();
    short.extend([0xff; 40]);
    let bodies: [&[u8]; 4] = [html, b"", &[0; 300], &short];
    for body in bodies {
        let address = answers("200 OK", body).await;
        assert!(!text(peer(address, SHORT).deliver(batch("local", 1)).await.unwrap_err()).is_empty());
        text(peer(address, SHORT).hello().await.unwrap_err());
    }
    let why = peer(answers("404 Not Found", html).await, SHORT).hello().await.unwrap_err().to_string();
    assert!(why.ends_with("404 Not Found: <html> <body>It works!</body></html>"), "{why}");
    for garbage in [&b"\x15\x03\x01\x00\x02\x02\x46"[..], b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 200 OK\r\nconten"] {
        let address = says(garbage.to_vec(), b"").await;
        text(peer(address, SHORT).deliver(batch("local", 1)).await.unwrap_err());
    }
}

#[tokio::test]
async fn a_reply_with_too_few_outcomes_is_no_answer() {
    let reply = Reply {
        region: "b".to_owned(),
        answer: Answer::Applied(Vec::new()),
        high_waters: Vec::new(),
        received: Timestamp(1),
        replied: Timestamp(2),
        strays: Vec::new(),
        lives: Lives::default(),
        head: 0,
        holes: Vec::new(),
    };
    let address = answers("200 OK", &reply.encode()).await;
    let why = text(peer(address, SHORT).deliver(batch("local", 2)).await.unwrap_err());
    assert!(why.ends_with("0 outcomes for 2 records"), "{why}");
}

#[tokio::test]
async fn a_huge_answer_is_not_read() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000000000\r\n\r\n".to_vec();
    for head in [head, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec()] {
        static CHUNK: [u8; (64 << 10) + 9] = {
            let mut chunk = [b'x'; (64 << 10) + 9];
            let mut index = 0;
            while index < 7 {
                chunk[index] = b"10000\r\n"[index];
                index += 1;
            }
            chunk[(64 << 10) + 7] = b'\r';
            chunk[(64 << 10) + 8] = b'\n';
            chunk
        };
        let address = says(head, &CHUNK).await;
        let why = text(peer(address, Duration::from_secs(30)).deliver(batch("local", 1)).await.unwrap_err());
        assert!(why.ends_with("an answer of more than 1048592 bytes"), "{why}");
    }
}

#[tokio::test]
async fn silence_and_a_slow_drip_end_with_the_time_out() {
    let began = Instant::now();
    let silent = says(Vec::new(), b"").await;
    let dripping = says(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n".to_vec(), b"x").await;
    let dripping_head = says(b"HTTP/1.1 200 OK\r\nx: ".to_vec(), b"x").await;
    for address in [silent, dripping, dripping_head] {
        let why = text(peer(address, SHORT).deliver(batch("local", 1)).await.unwrap_err());
        assert!(why.ends_with("no answer within 0.5 s"), "{why}");
    }
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn nobody_there_is_said_plainly() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let why = text(peer(address, SHORT).hello().await.unwrap_err());
    assert!(why.starts_with(&format!("127.0.0.1:{}: cannot connect: Connection refused", address.port())), "{why}");
    let options = Options::new("no-such-host.invalid:1".parse().unwrap(), "a");
    text(HttpPeer::new(options).hello().await.unwrap_err());
}

#[tokio::test]
async fn a_peer_that_restarted_is_reached_again() {
    let server = start().await;
    let (peer, port) = (peer_of(&server), server.address.port());
    peer.hello().await.unwrap();
    server.shutdown.cancel();
    server.stopped.await.unwrap();
    let body = r#"{"cluster":"c","region":"b","high_waters":[],"now":1}"#;
    let hello = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await;
        stream.write_all(hello.as_bytes()).await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await;
    });
    assert_eq!(peer.hello().await.unwrap().cluster, "c");
}
