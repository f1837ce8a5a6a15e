use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{
    api::testing::{Server, auth, start, start_with},
    config::{Address, Auth, Limits},
    ports::{
        conformance::{
            self,
            objects::{announced, body, collect, noise},
        },
        inbox::{Admission, Refusal},
    },
};

const SHORT: Duration = Duration::from_millis(300);

fn remote(port: u16, cluster: &str, patience: Duration) -> RemoteObjects {
    let peer = peer::Options { attempt_timeout: patience, ..peer::Options::new(Address::loopback(port), "a") };
    RemoteObjects::new(Options { stall_timeout: patience, ..Options::new(cluster, peer) })
}

fn remote_of(server: &Server) -> RemoteObjects {
    remote(server.address.port(), "local", Duration::from_secs(30))
}

fn at() -> Location {
    Location::new("bucket", "key")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_store_keeps_the_contract_of_object_stores() {
    let server = start().await;
    let remote = Arc::new(remote_of(&server));
    conformance::objects(remote.clone(), "bucket").await;
    conformance::uploads(remote, "bucket").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_other_clusters_get_nothing() {
    let locked = start_with(Limits::default(), auth("peer_token = \"s\""), |_| {}).await;
    assert!(matches!(remote_of(&locked).stat(&at()).await, Err(Error::Failure(Failure::Refused(_)))));
    let server = start().await;
    let foreign = remote(server.address.port(), "other", Duration::from_secs(30));
    let refused = foreign.put(&at(), announced(b"x"), body(&Bytes::from_static(b"x"))).await;
    assert!(
        matches!(&refused, Err(Error::Failure(Failure::Refused(why))) if why.contains("cluster local")),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_spoil_what_comes_in() {
    let server = start().await;
    let remote = remote_of(&server);
    let bytes = noise(1, 200_000);
    *server.inbox.admission.lock().unwrap() = Admission { answer_lost: true, cut: None };
    let lost = remote.put(&at(), announced(&bytes), body(&bytes)).await;
    assert!(matches!(lost, Err(Error::Failure(Failure::Unanswered(_)))), "{lost:?}");
    *server.inbox.admission.lock().unwrap() = Admission::default();
    let stat = remote.stat(&at()).await.unwrap().expect("it was done all the same");
    *server.inbox.admission.lock().unwrap() = Admission { answer_lost: false, cut: Some(Arc::new(|| true)) };
    assert!(remote.stat(&at()).await.is_err());
    let reading = async { Ok(collect(remote.read(&at(), &stat.version, 0..stat.size).await?).await?) };
    let cut: Result<_, Error> = reading.await;
    assert!(matches!(cut, Err(Error::Failure(Failure::Unanswered(_)))), "the bytes are cut off");
    let other = Location::new("bucket", "other");
    assert!(remote.put(&other, announced(&bytes), body(&bytes)).await.is_err());
    *server.inbox.admission.lock().unwrap() = Admission::default();
    assert_eq!(remote.stat(&other).await, Ok(None));
    let busy = Refusal::Unavailable { why: "later".to_owned(), retry_after: Duration::from_secs(3) };
    *server.inbox.refusal.lock().unwrap() = Some(busy);
    let throttled = Err(Error::Failure(Failure::Throttled { after: Duration::from_secs(3) }));
    assert_eq!(remote.stat(&at()).await, throttled);
    assert_eq!(
        remote.put(&other, announced(&bytes), body(&bytes)).await,
        throttled.map(|_: Option<Stat>| unreachable!())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stands_still_ends_the_call_on_both_sides() {
    let limits = Limits { request_timeout: SHORT, ..Limits::default() };
    let server = start_with(limits, Auth::default(), |_| {}).await;
    let remote = remote_of(&server);
    let bytes = noise(1, 100_000);
    let standing = || body(&bytes.slice(..50_000)).chain(stream::pending()).boxed();
    let failed = remote.put(&at(), announced(&bytes), standing()).await;
    assert!(matches!(failed, Err(Error::Failure(Failure::Unanswered(_)))), "{failed:?}");
    assert_eq!(remote.stat(&at()).await, Ok(None));

    // A peer that takes nothing and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = self::remote(listener.local_addr().unwrap().port(), "local", SHORT);
    let failed = silent.put(&at(), announced(&bytes), standing()).await;
    assert!(failed.unwrap_err().to_string().contains("nothing moved for 0.3 s"));
    assert!(silent.stat(&at()).await.unwrap_err().to_string().contains("no answer within 0.3 s"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_moves_may_take_longer_than_any_time_out() {
    let limits = Limits { request_timeout: SHORT, ..Limits::default() };
    let server = start_with(limits, Auth::default(), |_| {}).await;
    let remote = remote(server.address.port(), "local", SHORT);
    let bytes = noise(1, 100_000);
    let slowly = body(&bytes).then(|bytes| async {
        tokio::time::sleep(SHORT / 3).await;
        bytes
    });
    let stat = remote.put(&at(), announced(&bytes), slowly.boxed()).await.unwrap();
    assert_eq!(stat.size, 100_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_cut_short_is_no_body() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let remote = remote(listener.local_addr().unwrap().port(), "local", SHORT);
    tokio::spawn(async move {
        for answer in
            ["content-length: 5\r\n\r\nab", "content-length: 2\r\n\r\nab", "content-length: 9\r\n\r\nabcdefghi"]
        {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            stream.write_all(format!("HTTP/1.1 200 OK\r\nconnection: close\r\n{answer}").as_bytes()).await.unwrap();
        }
    });
    for _ in 0..3 {
        let body = remote.read(&at(), "v", 0..5).await.unwrap();
        assert!(matches!(collect(body).await, Err(Failure::Unanswered(_))));
    }
}
