use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{EU, MiniStack, US, aws, clients, clients_with, counter, make_table, make_table_of};
use crate::{
    aws::{
        bus::EventBus, claims::ClaimsTable, clients::Options, items::ItemsTable, queue::SqsQueue, shared::SharedTable,
    },
    core::{
        key::{KeyHash, PayloadHash},
        link::Failure,
        time::Timestamp,
    },
    embedded::system::SystemClock,
    ports::{
        bus::{Bus, Entry, Put},
        claims::{Claim, Claims, Inserted, Row, State, Token},
        clock::Clock,
        conformance,
        items::{Items, Place},
        queue::{Outgoing, Queue},
        shared::{Shared, Value},
    },
};

const WAIT: Duration = Duration::from_secs(20);
const HIDDEN: Duration = Duration::from_secs(600);

async fn queue(region: &str) -> SqsQueue {
    let clients = clients(region).await;
    let name = MiniStack::unique("queue");
    clients.sqs.create_queue().queue_name(&name).send().await.unwrap();
    SqsQueue::open(&clients, &name).await.unwrap()
}

fn outgoing(body: &str) -> Outgoing {
    Outgoing { body: body.to_owned(), ..Outgoing::default() }
}

#[tokio::test]
async fn a_message_is_received_with_all_that_was_sent_until_it_is_deleted() {
    let queue = queue(EU).await;
    let before = SystemClock.now();
    let attributes = BTreeMap::from([("reason".to_owned(), "conflict".to_owned())]);
    let sent = queue.send(vec![Outgoing { attributes: attributes.clone(), ..outgoing("body") }]).await.unwrap();
    assert_eq!(sent, [Ok(())]);
    let received = queue.receive(10, WAIT, HIDDEN).await.unwrap();
    let [message] = received.as_slice() else { panic!("{received:?}") };
    assert_eq!((message.body.as_str(), &message.attributes, message.received), ("body", &attributes, 1));
    assert!(message.sent.as_millis() >= before.as_millis() && message.sent <= SystemClock.now());
    assert_eq!(queue.depth().await.unwrap().in_flight, 1);
    assert_eq!(queue.receive(10, Duration::ZERO, HIDDEN).await.unwrap(), [], "it is hidden");
    assert_eq!(queue.extend(vec![message.receipt.clone()], Duration::ZERO).await.unwrap(), [Ok(())]);
    let again = queue.receive(10, WAIT, HIDDEN).await.unwrap();
    assert_eq!((again[0].id.as_str(), again[0].received), (message.id.as_str(), 2), "given back");
    assert_eq!(queue.delete(vec![again[0].receipt.clone()]).await.unwrap(), [Ok(())]);
    assert_eq!(queue.depth().await.unwrap().total(), 0);
}

#[tokio::test]
async fn more_than_a_call_carries_goes_in_several_and_each_entry_has_its_answer() {
    let queue = queue(EU).await;
    let sent = queue.send((0..25).map(|n| outgoing(&n.to_string())).collect()).await.unwrap();
    assert_eq!(sent, vec![Ok(()); 25]);
    let mut receipts = Vec::new();
    while receipts.len() < 25 {
        let received = queue.receive(10, WAIT, HIDDEN).await.unwrap();
        assert!(!received.is_empty() && received.len() <= 10);
        receipts.extend(received.into_iter().map(|message| message.receipt));
    }
    receipts.insert(12, "no receipt of this queue".to_owned());
    let deleted = queue.delete(receipts).await.unwrap();
    assert!(matches!(deleted[12], Err(Failure::Refused(_))), "{:?}", deleted[12]);
    assert_eq!(deleted.iter().filter(|result| result.is_ok()).count(), 25);
}

#[tokio::test]
async fn nothing_is_published_on_a_bus_that_is_not_there() {
    let bus = EventBus::new(&clients(EU).await, "absent");
    // The emulator answers such a put with an event id, as EventBridge may.
    let refused = bus.put(vec![entry("Order", "{}")]).await;
    assert_eq!(refused, Err(Failure::Refused("there is no event bus `absent`".to_owned())));
}

#[tokio::test]
async fn a_queue_that_is_not_there_is_named_with_its_remedy() {
    let error = SqsQueue::open(&clients(EU).await, "absent").await.unwrap_err();
    assert!(error.to_string().contains("`absent`") && error.to_string().contains("provision"), "{error}");
}

/// Somewhere that is no AWS, and what a ledger and a bus make of it.
async fn tried(url: String, attempt_timeout: Duration) {
    let mut elsewhere = aws(EU, "hub");
    elsewhere.endpoint_url = Some(url);
    let requests = counter();
    let options = Options { attempt_timeout, retries: 0, requests: Some(requests.clone()) };
    let clients = clients_with(&elsewhere, options).await;
    let ledger = ClaimsTable::new(&clients, "ledger", Arc::new(SystemClock));
    let failure = ledger.get(vec![KeyHash([1; 16])]).await.unwrap_err();
    assert!(matches!(failure, Failure::Unanswered(_)), "it leaves open what happened: {failure:?}");
    let failure = EventBus::new(&clients, "hub").put(vec![entry("k", "{}")]).await.unwrap_err();
    assert!(matches!(failure, Failure::Refused(_)), "a bus that nobody has seen is not published on: {failure:?}");
    let unanswered = |service, operation| requests.with_label_values(&[service, operation, "unanswered"]).get();
    assert_eq!([unanswered("dynamodb", "BatchGetItem"), unanswered("events", "DescribeEventBus")], [1, 1]);
}

#[tokio::test]
async fn nobody_at_the_address_leaves_open_what_happened() {
    // A port that was just free, and is again.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    tried(format!("http://127.0.0.1:{port}"), WAIT).await;
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_given_up_and_counted() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    tried(format!("http://{}", silent.local_addr().unwrap()), Duration::from_millis(200)).await;
}

#[tokio::test]
async fn an_answer_that_broke_off_leaves_open_what_happened() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let breaking = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", breaking.local_addr().unwrap());
    tokio::spawn(async move {
        // Whole for HTTP, and half of what the service said.
        let answer =
            b"HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: 8\r\n\r\n{\"Respon";
        while let Ok((mut connection, _)) = breaking.accept().await {
            let mut request = [0; 8_192];
            let _ = connection.read(&mut request).await;
            let _ = connection.write_all(answer).await;
        }
    });
    tried(url, WAIT).await;
}

fn entry(detail_type: &str, detail: &str) -> Entry {
    Entry {
        source: "app".to_owned(),
        detail_type: detail_type.to_owned(),
        detail: detail.to_owned(),
        ..Entry::default()
    }
}

#[tokio::test]
async fn a_bus_answers_each_entry_by_itself_and_its_calls_are_counted() {
    let requests = counter();
    let hub = MiniStack::unique("hub");
    let options = Options { attempt_timeout: WAIT, retries: 0, requests: Some(requests.clone()) };
    let clients = clients_with(&aws(US, &hub), options).await;
    clients.events.create_event_bus().name(&hub).send().await.unwrap();
    let bus = EventBus::new(&clients, &hub);
    let put = bus.put(vec![entry("a", "{}"), entry("b", "no JSON"), entry("c", "{}")]).await.unwrap();
    assert!(matches!(&put[0], Put::Accepted(id) if !id.is_empty()));
    assert!(matches!(&put[1], Put::Refused { code, .. } if code == "MalformedDetail"), "{:?}", put[1]);
    assert!(matches!(&put[2], Put::Accepted(_)));
    let large = bus.put(vec![entry("a", &format!("{{\"x\":\"{}\"}}", "x".repeat(1 << 20)))]).await;
    assert!(matches!(&large, Err(Failure::Refused(why)) if why.contains("ValidationException")), "{large:?}");
    let counted = |outcome| requests.with_label_values(&["events", "PutEvents", outcome]).get();
    assert_eq!([counted("ok"), counted("refused")], [1, 1]);
}

async fn ledger() -> ClaimsTable {
    let clients = clients(US).await;
    let table = MiniStack::unique("ledger");
    make_table(&clients, &table, "B").await;
    ClaimsTable::new(&clients, &table, Arc::new(SystemClock))
}

const LEASE: Duration = Duration::from_secs(15);

fn claim(key: u8, token: u64, now: Timestamp) -> Claim {
    let row = Row {
        payload: PayloadHash([key; 32]),
        state: State::Claimed { token: Token(token), lease: LEASE },
        at: now,
        expires: now.plus(Duration::from_secs(3_600)),
        origin: EU.to_owned(),
        reserved: false,
    };
    Claim { key: KeyHash([key; 16]), row }
}

fn done(key: u8, id: Option<&str>, now: Timestamp) -> Claim {
    let claim = claim(key, 0, now);
    Claim { row: Row { state: State::Done { id: id.map(str::to_owned) }, ..claim.row }, ..claim }
}

#[tokio::test]
async fn a_key_is_new_once_and_known_with_its_row_ever_after() {
    let (ledger, now) = (ledger().await, SystemClock.now());
    let first = ledger.insert((0..60).map(|key| claim(key, 1, now)).collect()).await.unwrap();
    assert_eq!(first, vec![Ok(Inserted::New); 60]);
    let second = ledger.insert((55..65).map(|key| claim(key, 2, now)).collect()).await.unwrap();
    let expected = (55..65).map(|key| match key < 60 {
        true => Ok(Inserted::Known(claim(key, 1, now).row)),
        false => Ok(Inserted::New),
    });
    assert_eq!(second, expected.collect::<Vec<_>>());
}

#[tokio::test]
async fn one_key_twice_in_a_call_is_new_once() {
    let (ledger, now) = (ledger().await, SystemClock.now());
    let results = ledger.insert(vec![claim(1, 1, now), claim(1, 2, now), claim(2, 3, now)]).await.unwrap();
    assert_eq!(results, [Ok(Inserted::New), Ok(Inserted::Known(claim(1, 1, now).row)), Ok(Inserted::New)]);
}

#[tokio::test]
async fn of_many_racing_for_a_key_exactly_one_gets_it() {
    let (ledger, now) = (ledger().await, SystemClock.now());
    let racing = (0..20).map(|token| ledger.insert(vec![claim(1, token, now), claim(2, token, now)]));
    let answers = futures::future::join_all(racing).await;
    for key in 0..2 {
        let new = answers.iter().filter(|answer| answer.as_ref().unwrap()[key] == Ok(Inserted::New)).count();
        assert_eq!(new, 1);
    }
}

#[tokio::test]
async fn a_row_that_expired_and_is_still_there_does_not_count() {
    let (ledger, now) = (ledger().await, SystemClock.now());
    let long_ago = now.minus(Duration::from_secs(7_200));
    assert_eq!(ledger.insert(vec![claim(1, 1, long_ago)]).await.unwrap(), [Ok(Inserted::New)]);
    assert_eq!(ledger.get(vec![KeyHash([1; 16])]).await.unwrap(), [None]);
    assert_eq!(ledger.insert(vec![claim(1, 2, now)]).await.unwrap(), [Ok(Inserted::New)]);
    assert_eq!(ledger.insert(vec![claim(1, 3, now)]).await.unwrap(), [Ok(Inserted::Known(claim(1, 2, now).row))]);
    let mark = ledger.mark(vec![(KeyHash([1; 16]), Token(1), None)], now).await.unwrap();
    assert_eq!(mark, [Ok(false)], "whoever claimed the expired row is fenced off");
}

#[tokio::test]
async fn only_the_holder_of_a_claim_marks_it_and_may_repeat_that() {
    let (ledger, now) = (ledger().await, SystemClock.now());
    let key = |key: u8| KeyHash([key; 16]);
    ledger.insert(vec![claim(1, 1, now), claim(2, 1, now), done(3, None, now)]).await.unwrap();
    let marks = vec![
        (key(1), Token(1), Some("id-1".to_owned())),
        (key(2), Token(9), Some("id-2".to_owned())),
        (key(3), Token(1), None),
        (key(4), Token(1), None),
    ];
    let later = now.plus(Duration::from_secs(1));
    let expected = [Ok(true), Ok(false), Ok(false), Ok(false)];
    assert_eq!(ledger.mark(marks.clone(), later).await.unwrap(), expected);
    assert_eq!(ledger.mark(marks, later).await.unwrap(), expected, "the answer may have been lost");
    let rows = ledger.get(vec![key(1), key(2), key(3), key(4)]).await.unwrap();
    assert_eq!(rows[0], Some(Row { at: later, ..done(1, Some("id-1"), now).row }));
    assert_eq!(rows[1..], [Some(claim(2, 1, now).row), Some(done(3, None, now).row), None]);
}

#[tokio::test]
async fn a_claim_is_taken_over_from_the_token_that_was_seen_and_its_holder_is_fenced() {
    let (ledger, now) = (ledger().await, SystemClock.now());
    let key = KeyHash([1; 16]);
    ledger.insert(vec![claim(1, 1, now)]).await.unwrap();
    assert_eq!(ledger.take_over(claim(1, 3, now), Token(2)).await, Ok(false));
    assert_eq!(ledger.take_over(claim(1, 2, now), Token(1)).await, Ok(true));
    assert_eq!(ledger.mark(vec![(key, Token(1), None)], now).await.unwrap(), [Ok(false)]);
    assert_eq!(ledger.release(vec![(key, Token(1))]).await.unwrap(), [Ok(false)]);
    assert_eq!(ledger.mark(vec![(key, Token(2), None)], now).await.unwrap(), [Ok(true)]);
    assert_eq!(ledger.take_over(claim(1, 4, now), Token(2)).await, Ok(false), "it is done");
}

#[tokio::test]
async fn a_released_key_is_new_again_and_a_done_one_cannot_be_released() {
    let (ledger, now) = (ledger().await, SystemClock.now());
    let key = |key: u8| KeyHash([key; 16]);
    ledger.insert(vec![claim(1, 1, now), claim(2, 1, now)]).await.unwrap();
    ledger.mark(vec![(key(2), Token(1), None)], now).await.unwrap();
    let released = ledger.release(vec![(key(1), Token(1)), (key(2), Token(1)), (key(3), Token(1))]).await.unwrap();
    assert_eq!(released, [Ok(true), Ok(false), Ok(false)]);
    assert_eq!(ledger.insert(vec![claim(1, 5, now)]).await.unwrap(), [Ok(Inserted::New)]);
}

#[tokio::test]
async fn an_absent_table_refuses_each_claim() {
    let ledger = ClaimsTable::new(&clients(US).await, "absent", Arc::new(SystemClock));
    let answer = ledger.insert(vec![claim(1, 1, SystemClock.now())]).await;
    let refused = match &answer {
        Ok(results) => matches!(results.as_slice(), [Err(Failure::Refused(_))]),
        Err(failure) => matches!(failure, Failure::Refused(_)),
    };
    assert!(refused, "{answer:?}");
}

#[tokio::test]
async fn of_many_changes_of_one_version_exactly_one_takes_effect() {
    let clients = clients(EU).await;
    let table = MiniStack::unique("shared");
    make_table(&clients, &table, "S").await;
    let shared = SharedTable::new(&clients, &table);
    assert_eq!(shared.change("a", "1", 7).await, Ok(false), "there is no seventh version");
    for version in 0..2 {
        let texts: Vec<String> = (0..8).map(|n| format!("{version}-{n}")).collect();
        let changes = texts.iter().map(|text| shared.change("a", text, version));
        let answers = futures::future::join_all(changes).await;
        assert_eq!(answers.iter().filter(|answer| **answer == Ok(true)).count(), 1);
        let winner = answers.iter().position(|answer| *answer == Ok(true)).unwrap();
        let expected = Value { name: "a".to_owned(), version: version + 1, text: texts[winner].clone() };
        assert_eq!(shared.list().await.unwrap(), [expected]);
    }
}

#[tokio::test]
async fn the_adapters_keep_the_contracts_of_their_ports() {
    conformance::queue(Arc::new(queue(EU).await)).await;
    let clients = clients(US).await;
    let hub = MiniStack::unique("hub");
    clients.events.create_event_bus().name(&hub).send().await.unwrap();
    conformance::bus(Arc::new(EventBus::new(&clients, &hub))).await;
    let ledger = Arc::new(ledger().await);
    conformance::claims(ledger.clone(), 1, SystemClock.now()).await;
    conformance::racing_claims(ledger, 100, SystemClock.now()).await;
}

#[tokio::test]
async fn documents_lie_in_a_table_of_items() {
    let clients = clients(EU).await;
    let table = MiniStack::unique("documents");
    make_table_of(&clients, &table, &[("p", "S"), ("s", "S")]).await;
    let items = ItemsTable::new(&clients, &table);
    conformance::items::check(&items).await;
    let absent = ItemsTable::new(&clients, "absent").get(vec![Place::new("p", "s")]).await.unwrap_err();
    assert!(matches!(&absent, Failure::Refused(why) if why.starts_with("ResourceNotFound")), "{absent}");
}
