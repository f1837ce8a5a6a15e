//! The engine over hubs and rows in memory, in virtual time.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::*;
use crate::{
    core::{
        event::{Draft, Record},
        link::Failure,
        state::{
            document::Document,
            op::Refused,
            testing::{key, ops, schema},
        },
        time::Timestamp,
    },
    embedded::system::Random,
    ports::{
        hub,
        testing::{FakeHub, FakeRows},
    },
};

const DAY: Duration = Duration::from_secs(86_400);
const HORIZON: Duration = Duration::from_secs(15 * 86_400);

/// A wall clock that goes with the paused one, and can be put forward.
#[derive(Clone)]
pub(super) struct Wall(Arc<Mutex<(tokio::time::Instant, Timestamp)>>);

impl Wall {
    pub(super) fn new() -> Self {
        let start = Timestamp::from_millis(1_800_000_000_000);
        Wall(Arc::new(Mutex::new((tokio::time::Instant::now(), start))))
    }

    pub(super) fn pass(&self, time: Duration) {
        let mut wall = self.0.lock().unwrap();
        wall.1 = wall.1.plus(time);
    }
}

impl Clock for Wall {
    fn now(&self) -> Timestamp {
        let wall = self.0.lock().unwrap();
        wall.1.plus(wall.0.elapsed())
    }
}

/// Another region's documents, while it can be reached.
struct Reached {
    documents: LocalDocuments,
    up: Arc<AtomicBool>,
}

impl RemoteDocuments for Reached {
    fn ask(&self, question: Question) -> BoxFuture<'_, Result<Answer, Failure>> {
        async move {
            let failure = |why: &str| Failure::Unanswered(why.to_owned());
            match self.up.load(Ordering::SeqCst) {
                true => self.documents.answer(question).await.map_err(|error| failure(&error.to_string())),
                false => Err(failure("down")),
            }
        }
        .boxed()
    }
}

/// A region without links: tests carry its events.
struct Site {
    hub: Arc<FakeHub>,
    rows: FakeRows,
    documents: LocalDocuments,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    up: Arc<AtomicBool>,
}

impl Site {
    fn start(
        name: &str,
        wall: &Wall,
        hub: Arc<FakeHub>,
        rows: FakeRows,
        peers: &[(&str, &Site)],
        members: &[&str],
    ) -> Site {
        let remotes = peers.iter().map(|(name, site)| {
            let reached = Reached { documents: site.documents.clone(), up: site.up.clone() };
            ((*name).to_owned(), Arc::new(reached) as Arc<dyn RemoteDocuments>)
        });
        let members: Vec<String> = members.iter().map(|name| (*name).to_owned()).collect();
        let metrics = Arc::new(Metrics::new(name, &members).unwrap());
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let all = members.iter().cloned().chain([name.to_owned()]).collect();
        let parts = Parts {
            home: name.to_owned(),
            regions: Members { regions: all, min_active: 1 },
            schemas: Schemas::from([("profile".to_owned(), schema())]),
            hub: hub.clone(),
            shelves: Shelves { home: Arc::new(rows.clone()), peers: remotes.collect(), options: Options::new(HORIZON) },
            members,
            clock: Arc::new(wall.clone()),
            entropy: Arc::new(Random::seeded(name.bytes().map(u64::from).sum())),
            metrics: metrics.clone(),
        };
        let documents = LocalDocuments::start(parts, &tasks, &stop);
        Site { hub, rows, documents, metrics, stop, up: Arc::new(AtomicBool::new(true)) }
    }

    fn alone(name: &str, wall: &Wall) -> Site {
        Site::start(name, wall, Arc::default(), FakeRows::default(), &[], &[])
    }

    async fn apply(&self, text: &str, request: Option<&str>) -> Result<Applied, Error> {
        self.documents.apply(key(), ops(text), request.map(str::to_owned)).await
    }

    async fn value(&self) -> String {
        let view = self.documents.get(key()).await.unwrap();
        view.map_or_else(|| "-".to_owned(), |view| view.value)
    }

    /// What it published of a kind.
    async fn published(&self, detail_type: &str) -> Vec<Record> {
        let records = self.hub.reader(0).next(1_000, 1 << 20).await.unwrap();
        records.into_iter().filter(|record| record.detail_type() == detail_type).collect()
    }
}

async fn wait(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

fn counter(text: &str, name: &str) -> f64 {
    let line = text.lines().find(|line| line.starts_with(name) && !line.starts_with('#'));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(-1.0)
}

#[tokio::test(start_paused = true)]
async fn what_was_answered_is_in_the_log_and_found_again_without_the_rows() {
    let wall = Wall::new();
    let site = Site::alone("a", &wall);
    assert_eq!(site.apply(r#"{"field":"plays","op":"increment","by":2}"#, Some("k")).await, Ok(Applied::Done));
    assert_eq!(site.apply(r#"{"field":"plays","op":"increment","by":2}"#, Some("k")).await, Ok(Applied::Duplicate));
    assert_eq!(site.published(events::DELTA).await.len(), 1);
    site.stop.cancel();
    wait(1).await;
    // The rows are gone, the log is not.
    let again = Site::start("a", &wall, site.hub.clone(), FakeRows::default(), &[], &[]);
    assert_eq!(again.value().await, r#"{"plays":2}"#);
    assert_eq!(again.apply(r#"{"field":"plays","op":"increment","by":2}"#, Some("k")).await, Ok(Applied::Duplicate));
    // And what is in the rows is not read twice.
    again.stop.cancel();
    wait(1).await;
    let rows = again.rows.copy();
    let third = Site::start("a", &wall, site.hub.clone(), rows, &[], &[]);
    assert_eq!((third.value().await.as_str(), third.documents.counts()["profile"]), (r#"{"plays":2}"#, 1));
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_takes_nothing_leaves_the_document_as_it_was() {
    let site = Site::alone("a", &Wall::new());
    site.apply(r#"{"field":"plays","op":"increment","by":2}"#, None).await.unwrap();
    site.hub.fail(Some(hub::Error::Overloaded("busy")));
    let refused = site.apply(r#"{"field":"plays","op":"increment","by":5}"#, Some("k")).await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    assert_eq!(site.value().await, r#"{"plays":2}"#);
    site.hub.fail(None);
    assert_eq!(site.apply(r#"{"field":"plays","op":"increment","by":5}"#, Some("k")).await, Ok(Applied::Done));
    assert_eq!(site.value().await, r#"{"plays":7}"#);
    let refused = site.apply(&format!(r#"{{"field":"plays","op":"increment","by":{}}}"#, i64::MAX), None).await;
    assert!(matches!(refused, Err(Error::Refused(Refused::Op { .. }))), "{refused:?}");
    let nothing = site.documents.delete(Key::new("profile", "nobody"), None).await;
    assert_eq!((nothing, site.value().await.as_str()), (Ok(Applied::Nothing), r#"{"plays":7}"#));
}

#[tokio::test(start_paused = true)]
async fn rows_that_fail_end_the_documents() {
    let site = Site::alone("a", &Wall::new());
    site.apply(r#"{"field":"plays","op":"increment","by":2}"#, None).await.unwrap();
    site.rows.broken.store(true, Ordering::SeqCst);
    site.apply(r#"{"field":"plays","op":"increment","by":2}"#, None).await.unwrap();
    let why = tokio::time::timeout(Duration::from_secs(10), site.documents.failed()).await.unwrap();
    assert!(why.contains("told to fail"), "{why}");
    let refused = site.apply(r#"{"field":"plays","op":"increment","by":2}"#, None).await;
    assert!(matches!(refused, Err(Error::Failed(_))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_was_published_is_done_once_also_after_a_crash() {
    let wall = Wall::new();
    let site = Site::alone("a", &wall);
    let event = |key: &str, detail: &str| Draft {
        source: "app".to_owned(),
        detail_type: events::OPERATION.to_owned(),
        ..crate::core::testing::draft(key, detail)
    };
    let right = r#"{"type":"profile","id":"u1","ops":[{"field":"plays","op":"increment","by":3}]}"#;
    let wrong = r#"{"type":"profile","id":"u1","ops":[{"field":"plays","op":"add","value":3}]}"#;
    let drafts = vec![event("1", right), event("1", right), event("2", wrong)];
    site.hub.publish(drafts).await.unwrap();
    wait(1).await;
    assert_eq!(site.value().await, r#"{"plays":3}"#);
    assert_eq!(counter(&site.metrics.text(), "hubweave_state_unreadable_events_total"), 1.0);
    // A start that knows of neither reads the operation, and then the delta that it became.
    site.stop.cancel();
    wait(1).await;
    let again = Site::start("a", &wall, site.hub.clone(), FakeRows::default(), &[], &[]);
    assert_eq!(again.value().await, r#"{"plays":3}"#);
    assert_eq!(again.published(events::DELTA).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn conflicts_are_told_once_in_each_region() {
    let wall = Wall::new();
    let (a, b) = (Site::alone("a", &wall), Site::alone("b", &wall));
    a.apply(r#"{"field":"language","op":"set","value":"de"}"#, None).await.unwrap();
    b.apply(r#"{"field":"language","op":"set","value":"fr"}"#, None).await.unwrap();
    let (from_a, from_b) = (a.published(events::DELTA).await, b.published(events::DELTA).await);
    b.hub.arrive(&from_a[0], "a");
    a.hub.arrive(&from_b[0], "b");
    wait(2).await;
    assert_eq!(a.value().await, b.value().await);
    let (told_a, told_b) = (a.published(events::CONFLICT).await, b.published(events::CONFLICT).await);
    assert_eq!((told_a.len(), told_b.len()), (1, 1));
    assert_eq!(told_a[0].detail(), told_b[0].detail());
    // Read again after a crash, it is known.
    let again = Site::start("a", &wall, a.hub.clone(), FakeRows::default(), &[], &[]);
    again.value().await;
    wait(2).await;
    assert_eq!(again.published(events::CONFLICT).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_gap_that_lasts_is_closed_by_the_whole_document() {
    let wall = Wall::new();
    let a = Site::alone("a", &wall);
    a.apply(r#"{"field":"plays","op":"increment","by":1}"#, None).await.unwrap();
    a.apply(r#"{"field":"plays","op":"increment","by":10}"#, None).await.unwrap();
    let b = Site::start("b", &wall, Arc::default(), FakeRows::default(), &[("a", &a)], &["a"]);
    // The first one never comes.
    b.hub.arrive(&a.published(events::DELTA).await[1], "a");
    wait(1).await;
    assert_eq!(b.value().await, "-");
    assert_eq!(counter(&b.metrics.text(), "hubweave_state_wanted_documents"), 1.0);
    wait(5).await;
    assert_eq!(b.value().await, r#"{"plays":11}"#);
    assert_eq!(counter(&b.metrics.text(), "hubweave_state_wanted_documents"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_region_without_anything_gets_all_documents_and_what_was_deleted_elsewhere_goes() {
    let wall = Wall::new();
    let a = Site::alone("a", &wall);
    for n in 0..300 {
        let key = Key::new("profile", &format!("u{n}"));
        a.documents.apply(key, ops(r#"{"field":"plays","op":"increment","by":1}"#), None).await.unwrap();
    }
    let b = Site::start("b", &wall, Arc::default(), FakeRows::default(), &[("a", &a)], &["a"]);
    wait(120).await;
    assert_eq!((a.documents.total().await, b.documents.counts()["profile"]), (b.documents.total().await, 300));
    let listed = b.documents.list(None).await.unwrap();
    assert_eq!((listed.0.len(), listed.1), (300, None));
    a.documents.delete(Key::new("profile", "u7"), None).await.unwrap();
    wait(60).await;
    assert_eq!((a.documents.total().await, b.documents.counts()["profile"]), (b.documents.total().await, 299));
}

#[tokio::test(start_paused = true)]
async fn a_delete_is_forgotten_when_every_region_has_seen_it_and_it_is_old() {
    let wall = Wall::new();
    let a = Site::alone("a", &wall);
    a.apply(r#"{"field":"plays","op":"increment","by":1}"#, None).await.unwrap();
    let c = Site::start("c", &wall, Arc::default(), FakeRows::default(), &[], &[]);
    let b = Site::start("b", &wall, Arc::default(), FakeRows::default(), &[("a", &a), ("c", &c)], &["a", "c"]);
    let deltas = a.published(events::DELTA).await;
    for site in [&b, &c] {
        site.hub.arrive(&deltas[0], "a");
    }
    a.documents.delete(key(), None).await.unwrap();
    let deltas = a.published(events::DELTA).await;
    b.hub.arrive(&deltas[1], "a");
    wait(5).await;
    let tombstones = |site: &Site| counter(&site.metrics.text(), "hubweave_state_tombstones");
    assert_eq!(tombstones(&b), 1.0);
    wall.pass(HORIZON);
    wait(130).await;
    assert_eq!(tombstones(&b), 1.0, "it is not old enough");
    wall.pass(HORIZON);
    wait(130).await;
    assert_eq!(tombstones(&b), 1.0, "c has not seen it");
    assert_eq!(counter(&b.metrics.text(), "hubweave_gc_blocked_by{peer=\"c\""), 1.0);
    // It comes too late for the delta itself, so c compares with b, who has it.
    let c = Site::start("c", &wall, c.hub.clone(), c.rows.copy(), &[("b", &b)], &["b"]);
    wait(60).await;
    assert_eq!(c.value().await, "-");
    let b = Site::start("b", &wall, b.hub.clone(), b.rows.copy(), &[("a", &a), ("c", &c)], &["a", "c"]);
    wait(130).await;
    assert_eq!(tombstones(&b), 0.0);
    assert_eq!(counter(&b.metrics.text(), "hubweave_state_collected_total"), 1.0);
    // A delta from before the delete, redriven, does not bring anything back.
    b.hub.arrive(&deltas[0], "a");
    wait(60).await;
    assert_eq!(b.value().await, "-");
    assert_eq!(counter(&b.metrics.text(), "hubweave_state_expired_deltas_total"), 1.0);
    // The document can begin anew.
    b.apply(r#"{"field":"plays","op":"increment","by":4}"#, None).await.unwrap();
    let anew = b.published(events::DELTA).await;
    a.hub.arrive(anew.last().unwrap(), "b");
    wait(5).await;
    assert_eq!((a.value().await.as_str(), b.value().await.as_str()), (r#"{"plays":4}"#, r#"{"plays":4}"#));
}

#[tokio::test(start_paused = true)]
async fn a_delete_that_a_region_says_it_has_seen_outlives_its_crash() {
    let wall = Wall::new();
    let site = Site::alone("a", &wall);
    site.apply(r#"{"field":"plays","op":"increment","by":1}"#, None).await.unwrap();
    wait(3).await;
    site.documents.delete(key(), None).await.unwrap();
    let Ok(Answer::Wholes(wholes)) = site.documents.answer(Question::Wholes(vec![key()])).await else { panic!() };
    let deleted = Document::decode(wholes[0].as_ref().unwrap()).unwrap();
    let asked = Question::Includes(vec![(key(), deleted.clock().clone())]);
    assert_eq!(site.documents.answer(asked).await, Ok(Answer::Includes(vec![true])));
    // The log may hold its delta no more, or one that is too old to be merged again.
    let again = Site::start("a", &wall, Arc::default(), site.rows.copy(), &[], &[]);
    assert_eq!(again.value().await, "-");
}

#[tokio::test(start_paused = true)]
async fn two_deletes_that_never_met_do_not_keep_each_other_for_ever() {
    let wall = Wall::new();
    let a = Site::alone("a", &wall);
    a.apply(r#"{"field":"plays","op":"increment","by":1}"#, None).await.unwrap();
    let b = Site::start("b", &wall, Arc::default(), FakeRows::default(), &[("a", &a)], &["a"]);
    b.hub.arrive(&a.published(events::DELTA).await[0], "a");
    wait(3).await;
    // Neither's delta reaches the other: comparing sees no difference between two documents that are not there.
    assert_eq!(a.documents.delete(key(), None).await, Ok(Applied::Done));
    assert_eq!(b.documents.delete(key(), None).await, Ok(Applied::Done));
    wait(3).await;
    let a = Site::start("a", &wall, a.hub.clone(), a.rows.copy(), &[("b", &b)], &["b"]);
    wait(3).await;
    wall.pass(2 * HORIZON);
    wait(200).await;
    assert_eq!(counter(&a.metrics.text(), "hubweave_state_collected_total"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_delta_whose_past_never_comes_is_given_up() {
    let wall = Wall::new();
    let (a, c) = (Site::alone("a", &wall), Site::alone("c", &wall));
    for _ in 0..2 {
        a.apply(r#"{"field":"plays","op":"increment","by":1}"#, None).await.unwrap();
    }
    let b = Site::start("b", &wall, Arc::default(), FakeRows::default(), &[("c", &c)], &["c"]);
    b.hub.arrive(&a.published(events::DELTA).await[1], "a");
    wait(30).await;
    let wanted = |site: &Site| counter(&site.metrics.text(), "hubweave_state_wanted_documents");
    assert_eq!(wanted(&b), 1.0);
    wall.pass(HORIZON);
    wait(30).await;
    assert_eq!(wanted(&b), 0.0);
    assert_eq!(counter(&b.metrics.text(), "hubweave_state_expired_deltas_total"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_older_than_deletes_are_remembered_is_given_up() {
    let wall = Wall::new();
    let a = Site::alone("a", &wall);
    a.apply(r#"{"field":"plays","op":"increment","by":1}"#, None).await.unwrap();
    let b = Site::start("b", &wall, Arc::default(), FakeRows::default(), &[("a", &a)], &["a"]);
    b.hub.arrive(&a.published(events::DELTA).await[0], "a");
    wait(5).await;
    assert_eq!(b.value().await, r#"{"plays":1}"#);
    b.stop.cancel();
    wait(5).await;
    let old = b.rows.copy();
    a.documents.delete(key(), None).await.unwrap();
    // Within the horizon the copy is as good as any.
    wall.pass(HORIZON - DAY);
    let young = Site::start("b", &wall, Arc::default(), old.copy(), &[("a", &a)], &["a"]);
    wait(60).await;
    assert_eq!(young.value().await, "-", "a tells of the delete");
    wall.pass(2 * DAY);
    let late = Site::start("b", &wall, Arc::default(), old.copy(), &[], &["a"]);
    assert_eq!(late.value().await, "-");
    assert_eq!(counter(&late.metrics.text(), "hubweave_state_discarded_documents_total"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_answer_costs_nothing() {
    let wall = Wall::new();
    let a = Site::alone("a", &wall);
    a.up.store(false, Ordering::SeqCst);
    let b = Site::start("b", &wall, Arc::default(), FakeRows::default(), &[("a", &a)], &["a"]);
    wait(120).await;
    a.apply(r#"{"field":"plays","op":"increment","by":1}"#, None).await.unwrap();
    assert_eq!(b.apply(r#"{"field":"best","op":"max","value":1}"#, None).await, Ok(Applied::Done));
    a.up.store(true, Ordering::SeqCst);
    wait(120).await;
    assert_eq!(b.value().await, r#"{"best":1,"plays":1}"#);
}

#[tokio::test(start_paused = true)]
async fn a_question_that_asks_too_much_is_refused() {
    let site = Site::alone("a", &Wall::new());
    let keys: Vec<Key> = (0..KEYS_MAX + 1).map(|n| Key::new("profile", &n.to_string())).collect();
    let refused = site.documents.answer(Question::Wholes(keys)).await;
    assert!(matches!(refused, Err(Error::Refused(Refused::Malformed(_)))), "{refused:?}");
    let strange = crate::core::state::digest::Range { level: 9, index: 9 };
    let refused = site.documents.answer(Question::Sums(vec![strange])).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    let unknown = site.documents.answer(Question::Digests(vec![key()])).await;
    assert_eq!(unknown, Ok(Answer::Digests(vec![None])));
    assert_eq!(site.documents.answer(Question::Wholes(vec![key()])).await, Ok(Answer::Wholes(vec![None])));
}
