use std::{collections::VecDeque, sync::Mutex};

use futures::{FutureExt, future::BoxFuture};

use super::*;
use crate::{
    agent::managed::tests::World,
    core::key::PayloadHash,
    ports::claims::{Claim, Inserted, Token},
};

/// What the table answers to one question for a page; `None`: nothing, ever.
type Page = Option<Result<Listed, Failure>>;

/// A table whose first part is read page by page as the test says, and whose other parts are empty.
#[derive(Default)]
struct Table {
    pages: Mutex<VecDeque<Page>>,
    asked: Mutex<Vec<Option<KeyHash>>>,
}

impl Claims for Table {
    fn insert(&self, claims: Vec<Claim>) -> BoxFuture<'_, Result<Vec<Result<Inserted, Failure>>, Failure>> {
        async move { Ok(claims.into_iter().map(|_| Ok(Inserted::New)).collect()) }.boxed()
    }

    fn take_over(&self, _: Claim, _: Token) -> BoxFuture<'_, Result<bool, Failure>> {
        async { Ok(false) }.boxed()
    }

    fn mark(
        &self,
        marks: Vec<(KeyHash, Token, Option<String>)>,
        _: Timestamp,
    ) -> BoxFuture<'_, Result<Vec<Result<bool, Failure>>, Failure>> {
        async move { Ok(vec![Ok(true); marks.len()]) }.boxed()
    }

    fn release(&self, claims: Vec<(KeyHash, Token)>) -> BoxFuture<'_, Result<Vec<Result<bool, Failure>>, Failure>> {
        async move { Ok(vec![Ok(true); claims.len()]) }.boxed()
    }

    fn list(&self, part: Part, after: Option<KeyHash>) -> BoxFuture<'_, Result<Listed, Failure>> {
        if part.number > 0 {
            return async { Ok(Listed::default()) }.boxed();
        }
        self.asked.lock().unwrap().push(after);
        match self.pages.lock().unwrap().pop_front() {
            Some(Some(answer)) => async { answer }.boxed(),
            Some(None) => futures::future::pending().boxed(),
            None => async { Ok(Listed::default()) }.boxed(),
        }
    }

    fn get(&self, keys: Vec<KeyHash>) -> BoxFuture<'_, Result<Vec<Option<Row>>, Failure>> {
        let found = keys.iter().map(|key| (*key == hash("k1")).then(|| row(false))).collect();
        async move { Ok(found) }.boxed()
    }
}

fn hash(key: &str) -> KeyHash {
    KeyHash::of("app", "T", key)
}

fn row(reserved: bool) -> Row {
    Row {
        payload: PayloadHash([7; 32]),
        state: State::Done { id: Some("event".to_owned()) },
        at: Timestamp::from_millis(1_000),
        expires: Timestamp::from_millis(9_000_000_000_000),
        origin: "us".to_owned(),
        reserved,
    }
}

fn rows(keys: &[&str], next: Option<&str>) -> Page {
    Some(Ok(Listed { rows: keys.iter().map(|key| (hash(key), row(false))).collect(), next: next.map(hash) }))
}

fn agent(pages: impl IntoIterator<Item = Page>) -> (Arc<Table>, Arc<Managed>) {
    let table = Arc::new(Table { pages: Mutex::new(pages.into_iter().collect()), ..Table::default() });
    (table.clone(), World::default().agent_with(1, table))
}

/// The lines after the first one.
async fn lines(mut pieces: mpsc::Receiver<Bytes>) -> Vec<String> {
    let mut text = String::new();
    while let Some(piece) = pieces.recv().await {
        text.push_str(std::str::from_utf8(&piece).unwrap());
    }
    text.lines().skip(1).map(str::to_owned).collect()
}

#[tokio::test(start_paused = true)]
async fn a_page_that_fails_for_now_is_asked_for_again_and_hubweaves_own_rows_are_left_out() {
    let own = Some(Ok(Listed { rows: vec![(hash("own"), row(true)), (hash("k2"), row(false))], next: None }));
    let throttled = Some(Err(Failure::Throttled { after: Duration::ZERO }));
    let (table, agent) =
        agent([throttled, rows(&["k1"], Some("k1")), Some(Err(Failure::Unanswered("late".to_owned()))), own]);
    let lines = lines(agent.keys(true).unwrap()).await;
    assert_eq!(lines.last().map(String::as_str), Some("{\"end\":2}"));
    for (line, key) in lines.iter().zip(["k1", "k2"]) {
        assert!(line.contains(&hex(&hash(key).0)) && !line.contains("\"i\""), "{line}");
    }
    assert_eq!(*table.asked.lock().unwrap(), [None, None, Some(hash("k1")), Some(hash("k1"))]);
    assert_eq!(agent.metrics.ledger_rows_read.get(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_table_that_may_not_be_read_ends_the_stream_with_the_reason() {
    let (_, agent) = agent([rows(&["k1"], Some("k1")), Some(Err(Failure::Refused("not allowed".to_owned())))]);
    let lines = lines(agent.keys(true).unwrap()).await;
    assert_eq!(lines.len(), 2);
    assert!(lines[1].contains("\"error\":\"the region's ledger: ") && lines[1].contains("not allowed"), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn a_table_that_does_not_answer_is_told_of_by_empty_lines_and_given_up() {
    let (_, agent) = agent([None, None, None]);
    let lines = lines(agent.keys(true).unwrap()).await;
    assert_eq!(lines[0], "", "a reader waits for 30 s");
    assert!(lines.last().unwrap().contains("no answer within 20s"), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn one_reader_at_a_time_and_one_that_goes_away_leaves_its_turn() {
    let (_, agent) = agent([None, None, rows(&["k1"], None)]);
    let first = agent.keys(true).unwrap();
    assert!(matches!(agent.keys(true), Err(Error::Busy)));
    assert_eq!(lines(agent.keys(false).unwrap()).await, ["{\"end\":0}"], "its first line is no reading");
    drop(first);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(lines(agent.keys(true).unwrap()).await.last().unwrap().contains("end"));
}

#[tokio::test(start_paused = true)]
async fn keys_are_found_and_what_is_no_question_is_refused() {
    let (_, agent) = agent([]);
    let asked = |keys: Vec<String>| AskedKeys { keys };
    let found = agent.found_keys(&asked(["k1", "k2"].map(|key| hex(&hash(key).0)).to_vec())).await.unwrap();
    let found = serde_json::to_value(&found).unwrap();
    assert_eq!((found["rows"].as_array().unwrap().len(), &found["rows"][0]["i"]), (1, &"event".into()));
    let many = vec![hex(&hash("k1").0); ASKED_MAX + 1];
    for wrong in [many, vec!["k1".to_owned()], vec!["zz".repeat(16)]] {
        assert!(matches!(agent.found_keys(&asked(wrong)).await, Err(Error::Invalid(_))));
    }
}
