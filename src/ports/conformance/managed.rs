//! The suites of the ports of a region on managed services.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use crate::{
    core::{
        key::{KeyHash, PayloadHash},
        time::Timestamp,
    },
    ports::{
        bus::{Bus, Entry, Put},
        claims::{Claim, Claims, Inserted, Part, Row, State, Token},
        queue::{Message, Outgoing, Queue},
    },
};

const SECOND: Duration = Duration::from_secs(1);

fn outgoing(body: &str) -> Outgoing {
    Outgoing { body: body.to_owned(), ..Outgoing::default() }
}

/// Receives until `count` different messages are there; a queue may hand them out in several calls.
async fn receive(queue: &dyn Queue, count: usize, visibility: Duration) -> Vec<Message> {
    let mut found: Vec<Message> = Vec::new();
    for _ in 0..20 {
        for message in queue.receive(10, SECOND, visibility).await.unwrap() {
            if found.iter().all(|other| other.id != message.id) {
                found.push(message);
            }
        }
        if found.len() >= count {
            break;
        }
    }
    found.sort_by(|a, b| a.body.cmp(&b.body));
    found
}

/// The contract of [`Queue`], on an empty queue that loses nothing and repeats nothing of its own accord.
pub async fn queue(queue: Arc<dyn Queue>) {
    assert!(queue.receive(10, Duration::ZERO, SECOND).await.unwrap().is_empty());
    let with_attributes = Outgoing {
        attributes: [("hubweave-reason".to_owned(), "conflict".to_owned())].into(),
        trace: Some("Root=1-5759e988-bd862e3fe1be46a994272793".to_owned()),
        ..outgoing("a")
    };
    let sent = queue.send(vec![with_attributes.clone(), outgoing("b"), outgoing("c")]).await.unwrap();
    assert!(sent.iter().all(Result::is_ok) && sent.len() == 3, "one result per message: {sent:?}");

    let first = receive(&*queue, 3, 60 * SECOND).await;
    assert_eq!(first.iter().map(|message| message.body.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(first[0].attributes, with_attributes.attributes);
    assert_eq!(first[0].trace, with_attributes.trace);
    assert!(first.iter().all(|message| message.sent > Timestamp::ZERO && message.received == 1));
    assert!(queue.receive(10, Duration::ZERO, SECOND).await.unwrap().is_empty(), "what was received is hidden");

    let receipts: Vec<String> = first.iter().map(|message| message.receipt.clone()).collect();
    let deleted = queue.delete(vec![receipts[0].clone()]).await.unwrap();
    assert_eq!(deleted, [Ok(())]);
    let given_back = queue.extend(receipts[1..].to_vec(), Duration::ZERO).await.unwrap();
    assert_eq!(given_back, [Ok(()), Ok(())]);
    let again = receive(&*queue, 2, SECOND).await;
    assert_eq!(again.iter().map(|message| message.body.as_str()).collect::<Vec<_>>(), ["b", "c"], "given back at once");
    assert_eq!((&again[0].id, again[0].sent), (&first[1].id, first[1].sent), "the same message, sent when it was");
    assert!(again[0].received > 1);

    let receipt = |index: usize| again[index].receipt.clone();
    assert_eq!(queue.extend(vec![receipt(0)], 60 * SECOND).await.unwrap(), [Ok(())]);
    tokio::time::sleep(SECOND + SECOND / 2).await;
    let visible = receive(&*queue, 1, 60 * SECOND).await;
    assert_eq!(visible.iter().map(|message| message.body.as_str()).collect::<Vec<_>>(), ["c"], "b was extended");
    let rest = vec![receipt(0), visible[0].receipt.clone()];
    assert_eq!(queue.delete(rest).await.unwrap(), [Ok(()), Ok(())]);

    let delayed = Outgoing { delay: 2 * SECOND, ..outgoing("later") };
    assert_eq!(queue.send(vec![delayed]).await.unwrap(), [Ok(())]);
    assert!(queue.receive(10, Duration::ZERO, SECOND).await.unwrap().is_empty(), "not before its delay");
    let late = receive(&*queue, 1, 60 * SECOND).await;
    assert_eq!(late.len(), 1);
    assert_eq!(queue.delete(vec![late[0].receipt.clone()]).await.unwrap(), [Ok(())]);
    queue.depth().await.unwrap();
}

/// The contract of [`Bus`] that can be seen from its answers.
pub async fn bus(bus: Arc<dyn Bus>) {
    let entry = |detail: &str| Entry {
        source: "app.conformance".to_owned(),
        detail_type: "Tried".to_owned(),
        detail: detail.to_owned(),
        ..Entry::default()
    };
    let puts = bus.put(vec![entry("{\"n\":1}"), entry("no object"), entry("{\"n\":1}")]).await.unwrap();
    let ids: BTreeSet<&String> = puts
        .iter()
        .filter_map(|put| match put {
            Put::Accepted(id) => Some(id),
            _ => None,
        })
        .collect();
    assert_eq!(ids.len(), 2, "two events, two ids: a bus knows no keys: {puts:?}");
    assert!(matches!(puts[1], Put::Refused { .. }), "an outcome per entry: {puts:?}");
}

/// The contract of [`Claims`], on a ledger without rows for keys that begin with `seed`.
pub async fn claims(claims: Arc<dyn Claims>, seed: u8, now: Timestamp) {
    let key = |n: u8| {
        let mut bytes = [n; 16];
        bytes[0] = seed;
        KeyHash(bytes)
    };
    let lease = Duration::from_secs(15);
    let row = |state| Row {
        payload: PayloadHash([7; 32]),
        state,
        at: now,
        expires: now.plus(Duration::from_secs(3_600)),
        origin: "a".to_owned(),
        reserved: false,
    };
    let claimed = |n, token| Claim { key: key(n), row: row(State::Claimed { token: Token(token), lease }) };
    let done = |n, id: &str| Claim { key: key(n), row: row(State::Done { id: Some(id.to_owned()) }) };
    let insert = async |rows: Vec<Claim>| -> Vec<Inserted> {
        claims.insert(rows).await.unwrap().into_iter().map(Result::unwrap).collect()
    };

    assert_eq!(insert(vec![claimed(1, 1), claimed(2, 2), done(3, "e3")]).await, vec![Inserted::New; 3]);
    let again = insert(vec![claimed(1, 9), claimed(4, 4), claimed(2, 2), claimed(3, 9)]).await;
    let expected = [
        Inserted::Known(claimed(1, 1).row),
        Inserted::New,
        // One's own claim, whose answer was lost.
        Inserted::Known(claimed(2, 2).row),
        Inserted::Known(done(3, "e3").row),
    ];
    assert_eq!(again, expected, "each row on its own condition, and the row that is there");

    let mark = async |n, token| {
        let marks = vec![(key(n), Token(token), Some(format!("e{n}")))];
        claims.mark(marks, now).await.unwrap().remove(0).unwrap()
    };
    assert_eq!(
        (mark(1, 9).await, mark(1, 1).await, mark(1, 1).await),
        (false, true, true),
        "only the holder, any times"
    );
    let found = claims.get(vec![key(1), key(99), key(2)]).await.unwrap();
    assert_eq!(found[0].as_ref().map(|row| &row.state), Some(&State::Done { id: Some("e1".to_owned()) }));
    assert_eq!(found[0].as_ref().map(|row| (row.payload, row.origin.as_str())), Some((PayloadHash([7; 32]), "a")));
    assert_eq!((found[1].as_ref(), found[2].as_ref()), (None, Some(&claimed(2, 2).row)));

    assert!(!claims.take_over(claimed(2, 5), Token(4)).await.unwrap(), "the claim is another one's");
    assert!(claims.take_over(claimed(2, 5), Token(2)).await.unwrap());
    assert!(!claims.take_over(claimed(2, 6), Token(2)).await.unwrap(), "nobody takes over twice from one");
    assert!(!claims.take_over(claimed(1, 6), Token(1)).await.unwrap(), "what is done is not taken over");
    assert!(!claims.take_over(claimed(50, 6), Token(1)).await.unwrap(), "nor what is not there");
    assert!(!mark(2, 2).await, "a late holder cannot mark");
    let release = async |n, token| claims.release(vec![(key(n), Token(token))]).await.unwrap().remove(0).unwrap();
    assert!(!release(2, 2).await, "nor release");
    assert!(mark(2, 5).await);
    assert!(!release(2, 5).await, "what is done is not released");
    assert!(release(4, 4).await);
    assert_eq!(insert(vec![claimed(4, 8)]).await, [Inserted::New], "what was released is free");
    assert!(claims.take_over(done(4, "e4"), Token(8)).await.unwrap(), "by a done row too");
    assert_eq!(insert(vec![claimed(4, 9)]).await, [Inserted::Known(done(4, "e4").row)]);

    let mut expired = claimed(5, 5);
    expired.row.expires = now.minus(Duration::from_secs(60));
    assert_eq!(insert(vec![expired]).await, [Inserted::New]);
    assert_eq!(claims.get(vec![key(5)]).await.unwrap(), [None], "an expired row does not count");
    for n in 0..3 {
        insert((0..20).map(|m| done(100 + 20 * n + m, "e")).collect()).await;
    }
    for parts in [1, 3] {
        let mut listed = Vec::new();
        for number in 0..parts {
            listed.extend(list(&*claims, Part { number, of: parts }).await);
        }
        listed.retain(|(key, _)| key.0[0] == seed);
        listed.sort_by_key(|(key, _)| *key);
        let expected: Vec<KeyHash> = (1..5).chain(100..160).map(key).collect();
        assert_eq!(listed.iter().map(|(key, _)| *key).collect::<Vec<_>>(), expected, "each that counts once");
        assert_eq!(listed[3].1, done(4, "e4").row, "with all that it holds");
    }
    assert_eq!(insert(vec![claimed(5, 6)]).await, [Inserted::New]);
}

/// All pages of a part.
async fn list(claims: &dyn Claims, part: Part) -> Vec<(KeyHash, Row)> {
    let (mut rows, mut after) = (Vec::new(), None);
    loop {
        let page = claims.list(part, after).await.unwrap();
        rows.extend(page.rows);
        after = page.next;
        if after.is_none() {
            return rows;
        }
    }
}

/// Of many that claim one key at once exactly one gets it.
pub async fn racing_claims(claims: Arc<dyn Claims>, seed: u8, now: Timestamp) {
    let attempt = |token| {
        let row = Row {
            payload: PayloadHash([7; 32]),
            state: State::Claimed { token: Token(token), lease: Duration::from_secs(15) },
            at: now,
            expires: now.plus(Duration::from_secs(3_600)),
            origin: "a".to_owned(),
            reserved: false,
        };
        claims.insert(vec![Claim { key: KeyHash([seed; 16]), row }])
    };
    let results = futures::future::join_all((0..16).map(attempt)).await;
    let new = results.into_iter().filter(|result| result.as_ref().unwrap()[0] == Ok(Inserted::New)).count();
    assert_eq!(new, 1);
}
