use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{
    api::testing::{Server, auth, start, start_with, start_without_documents},
    config::{Address, Limits},
    core::state::{
        Key,
        digest::{Digest, Range},
        document::Document,
        testing::{key, ops},
    },
    ports::{
        documents::{Documents, Error},
        inbox::{Admission, Refusal},
    },
};

const SHORT: Duration = Duration::from_millis(300);

fn remote(port: u16, cluster: &str, attempt_timeout: Duration) -> HttpDocuments {
    HttpDocuments::new(cluster, Options { attempt_timeout, ..Options::new(Address::loopback(port), "a") })
}

fn remote_of(server: &Server) -> HttpDocuments {
    remote(server.address.port(), "local", Duration::from_secs(30))
}

fn sums() -> Question {
    Question::Sums(vec![Range::ALL])
}

#[tokio::test]
async fn a_question_gets_its_answer() {
    let server = start().await;
    let remote = remote_of(&server);
    assert_eq!(remote.ask(sums()).await, Ok(Answer::Sums(vec![Digest(7)])));
    let language = r#"{"field":"language","op":"set","value":"de"}"#;
    server.documents.apply(key(), ops(language), None).await.unwrap();
    let asked = Question::Wholes(vec![key(), Key::new("profile", "ü/ nobody")]);
    let Ok(Answer::Wholes(wholes)) = remote.ask(asked.clone()).await else { panic!("another answer") };
    let [Some(whole), None] = wholes.as_slice() else { panic!("{wholes:?}") };
    assert!(Document::decode(whole).unwrap().exists());
    assert_eq!(*server.documents.questions.lock().unwrap(), [sums(), asked]);
}

#[tokio::test]
async fn strangers_and_other_clusters_get_nothing() {
    let locked = start_with(Limits::default(), auth("peer_token = \"s\""), |_| {}).await;
    assert!(matches!(remote_of(&locked).ask(sums()).await, Err(Failure::Refused(_))));
    let server = start().await;
    let foreign = remote(server.address.port(), "other & more", Duration::from_secs(30));
    let refused = foreign.ask(sums()).await;
    assert!(matches!(&refused, Err(Failure::Refused(why)) if why.contains("not other & more")), "{refused:?}");
    assert!(server.documents.questions.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_peer_without_documents_and_one_that_cannot_answer_say_so() {
    let none = remote_of(&start_without_documents().await).ask(sums()).await;
    assert!(matches!(&none, Err(Failure::Refused(why)) if why.contains("no document types")), "{none:?}");
    let server = start().await;
    let remote = remote_of(&server);
    let fail = |error: Error| *server.documents.failure.lock().unwrap() = Some(error);
    fail(Error::Unavailable { why: "later".to_owned(), retry_after: Duration::from_secs(3) });
    assert_eq!(remote.ask(sums()).await, Err(Failure::Throttled { after: Duration::from_secs(3) }));
    fail(Error::Failed("the disk".to_owned()));
    let failed = remote.ask(sums()).await;
    assert!(matches!(&failed, Err(Failure::Unanswered(why)) if why.contains("the disk")), "{failed:?}");
}

#[tokio::test]
async fn faults_spoil_what_comes_in() {
    let server = start().await;
    let remote = remote_of(&server);
    *server.inbox.admission.lock().unwrap() = Admission { answer_lost: true, cut: None };
    assert!(matches!(remote.ask(sums()).await, Err(Failure::Unanswered(_))));
    *server.inbox.admission.lock().unwrap() = Admission { answer_lost: false, cut: Some(Arc::new(|| true)) };
    assert!(matches!(remote.ask(sums()).await, Err(Failure::Unanswered(_))));
    assert!(!server.documents.questions.lock().unwrap().is_empty(), "only the answers were lost");
    *server.inbox.admission.lock().unwrap() = Admission::default();
    let busy = Refusal::Unavailable { why: "later".to_owned(), retry_after: Duration::from_secs(3) };
    *server.inbox.refusal.lock().unwrap() = Some(busy);
    assert_eq!(remote.ask(sums()).await, Err(Failure::Throttled { after: Duration::from_secs(3) }));
    *server.inbox.refusal.lock().unwrap() = Some(Refusal::CutOff);
    assert!(matches!(remote.ask(sums()).await, Err(Failure::Unanswered(_))));
}

#[tokio::test]
async fn what_is_no_question_is_refused() {
    let server = start().await;
    let post = "POST /peer/v1/documents?cluster=local&region=a";
    for (line, body, status) in [
        (post, &b""[..], 400),
        (post, b"{}", 400),
        (post, b"\x02\x00\x00", 400),
        (post, b"\x01\xff", 400),
        ("POST /peer/v1/documents?cluster=local", &documents::encode(&sums()), 400),
        (post, &vec![1; (4 << 20) + 1], 413),
        (post, &documents::encode(&sums()), 200),
    ] {
        assert_eq!(server.call(line, &[], body).await.status, status, "{} bytes", body.len());
    }
    assert_eq!(server.documents.questions.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_answer_that_is_none_or_never_comes_is_no_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let remote = remote(listener.local_addr().unwrap().port(), "local", SHORT);
    // The body's length, its bytes, and whether the connection stays open.
    let answers = [(2, "{}", false), (9, "ab", false), (5, "", true)];
    tokio::spawn(async move {
        let mut open = Vec::new();
        for (length, body, stays) in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}");
            stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await.unwrap();
            open.extend(stays.then_some(stream));
        }
        std::future::pending::<()>().await;
    });
    for why in ["written in form 123", "broke off", "no answer within 0.3 s"] {
        match remote.ask(sums()).await {
            Err(Failure::Unanswered(said)) => assert!(said.contains(why), "{why}: {said}"),
            other => panic!("{why}: {other:?}"),
        }
    }
}
