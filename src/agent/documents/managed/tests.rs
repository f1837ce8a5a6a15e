//! Regions over tables, buses and queues in memory, in virtual time.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;
use crate::{
    agent::{documents::tests::Wall, managed::tests::MemoryShared},
    core::{
        envelope,
        region::{Ballot, State},
        state::{
            digest::Range,
            testing::{key, ops, schema},
        },
    },
    embedded::system::Random,
    ports::{
        documents::{Documents, Total},
        queue::{Depth, Message, Outgoing},
        testing::MemoryItems,
    },
};

mod evictions;

const DAY: Duration = Duration::from_secs(86_400);
const HORIZON: Duration = Duration::from_secs(15 * 86_400);

/// What is on a bus, and whether it takes more.
#[derive(Default)]
struct MemoryBus {
    entries: Mutex<Vec<Entry>>,
    is_down: AtomicBool,
}

impl Bus for MemoryBus {
    fn put(&self, entries: Vec<Entry>) -> BoxFuture<'_, Result<Vec<Put>, Failure>> {
        let answer = match self.is_down.load(Ordering::SeqCst) {
            true => Err(Failure::Unanswered("down".to_owned())),
            false => Ok(entries.iter().map(|_| Put::Accepted("id".to_owned())).collect()),
        };
        if answer.is_ok() {
            self.entries.lock().unwrap().extend(entries);
        }
        std::future::ready(answer).boxed()
    }
}

/// A queue that hides what was received.
#[derive(Default)]
struct MemoryQueue(Mutex<Vec<(Message, Option<Instant>)>>);

impl MemoryQueue {
    fn push(&self, body: String) {
        let mut messages = self.0.lock().unwrap();
        let id = format!("{}", messages.len());
        let message = Message {
            receipt: id.clone(),
            id,
            body,
            sent: Timestamp::ZERO,
            received: 0,
            attributes: BTreeMap::new(),
            trace: None,
        };
        messages.push((message, Some(Instant::now())));
    }

    fn left(&self) -> usize {
        self.0.lock().unwrap().iter().filter(|(_, visible)| visible.is_some()).count()
    }

    fn set(&self, receipts: &[String], visible: Option<Instant>) -> Vec<Result<(), Failure>> {
        let mut messages = self.0.lock().unwrap();
        messages.iter_mut().filter(|(message, _)| receipts.contains(&message.receipt)).for_each(|one| one.1 = visible);
        vec![Ok(()); receipts.len()]
    }
}

impl Queue for MemoryQueue {
    fn receive(&self, max: usize, wait: Duration, hidden: Duration) -> BoxFuture<'_, Result<Vec<Message>, Failure>> {
        async move {
            let end = Instant::now() + wait;
            loop {
                let found: Vec<Message> = {
                    let mut messages = self.0.lock().unwrap();
                    let now = Instant::now();
                    let due = messages.iter_mut().filter(|(_, visible)| visible.is_some_and(|visible| visible <= now));
                    due.take(max)
                        .map(|(message, visible)| {
                            message.received += 1;
                            *visible = Some(now + hidden);
                            message.clone()
                        })
                        .collect()
                };
                if !found.is_empty() || Instant::now() >= end {
                    return Ok(found);
                }
                sleep(Duration::from_millis(100)).await;
            }
        }
        .boxed()
    }

    fn delete(&self, receipts: Vec<String>) -> BoxFuture<'_, Result<Vec<Result<(), Failure>>, Failure>> {
        async move { Ok(self.set(&receipts, None)) }.boxed()
    }

    fn extend(
        &self,
        receipts: Vec<String>,
        hidden: Duration,
    ) -> BoxFuture<'_, Result<Vec<Result<(), Failure>>, Failure>> {
        async move { Ok(self.set(&receipts, Some(Instant::now() + hidden))) }.boxed()
    }

    fn send(&self, _: Vec<Outgoing>) -> BoxFuture<'_, Result<Vec<Result<(), Failure>>, Failure>> {
        unreachable!()
    }

    fn depth(&self) -> BoxFuture<'_, Result<Depth, Failure>> {
        unreachable!()
    }
}

/// A region with an agent, and what it runs on.
struct Site {
    name: &'static str,
    items: Arc<MemoryItems>,
    bus: Arc<MemoryBus>,
    queue: Arc<MemoryQueue>,
    shared: Arc<MemoryShared>,
    documents: ManagedDocuments,
    metrics: Arc<Metrics>,
    decided: Arc<Mutex<Decided>>,
    stop: CancellationToken,
}

fn ingress() -> Ingress {
    Ingress { key_pointers: Vec::new(), reference_pointers: Vec::new(), max_entry_bytes: usize::MAX }
}

impl Site {
    fn of(name: &'static str, items: Arc<MemoryItems>, peers: &[(&str, &Arc<MemoryItems>)], wall: &Wall) -> Site {
        *items.name.lock().unwrap() = format!("table of {name} {}", items.name.lock().unwrap());
        let (bus, queue, shared) = Default::default();
        Site::agent(name, (items, bus, queue, shared), peers, wall)
    }

    fn agent(
        name: &'static str,
        (items, bus, queue, shared): (Arc<MemoryItems>, Arc<MemoryBus>, Arc<MemoryQueue>, Arc<MemoryShared>),
        peers: &[(&str, &Arc<MemoryItems>)],
        wall: &Wall,
    ) -> Site {
        let members: Vec<String> = peers.iter().map(|(name, _)| (*name).to_owned()).collect();
        let metrics = Arc::new(Metrics::new(name, &members).unwrap());
        let remote = |name: &str, items: &Arc<MemoryItems>| {
            Arc::new(PeerTable::new(name, items.clone(), Arc::new(wall.clone()), HORIZON)) as Arc<dyn RemoteDocuments>
        };
        let (ballot, decided) = (Ballot::default(), State::Active);
        let decided = Arc::new(Mutex::new(Decided { ballot, decided, state: decided }));
        let known = decided.clone();
        let entropy: Arc<dyn Entropy> = Arc::new(Random::from_system());
        let parts = Parts {
            region: name.to_owned(),
            schemas: Schemas::from([("profile".to_owned(), schema())]),
            items: items.clone(),
            bus: bus.clone(),
            queue: queue.clone(),
            peers: peers.iter().map(|(name, items)| ((*name).to_owned(), remote(name, items))).collect(),
            members,
            turns: Arc::new(Turns::new(shared.clone(), format!("{:x}", entropy.next_u64()))),
            ingress: ingress(),
            closed: Arc::default(),
            decided: Arc::new(move || *known.lock().unwrap()),
            clock: Arc::new(wall.clone()),
            entropy,
            metrics: metrics.clone(),
            options: Options::managed(HORIZON),
            receives: 1,
            backoff: AGAIN,
        };
        let stop = CancellationToken::new();
        let documents = ManagedDocuments::start(parts, &TaskTracker::new(), &stop);
        Site { name, items, bus, queue, shared, documents, metrics, decided, stop }
    }

    /// Another agent of the region.
    fn another(&self, wall: &Wall) -> Site {
        let parts = (self.items.clone(), self.bus.clone(), self.queue.clone(), self.shared.clone());
        Site::agent(self.name, parts, &[], wall)
    }

    async fn apply(&self, text: &str) -> Applied {
        self.documents.apply(key(), ops(text), None).await.unwrap()
    }

    async fn value(&self) -> Value {
        let view = self.documents.get(key()).await.unwrap();
        view.map_or(Value::Null, |view| serde_json::from_str(&view.value).unwrap())
    }

    /// What was put on the bus since the last time, of this type.
    fn published(&self, detail_type: &str) -> Vec<Entry> {
        let entries = std::mem::take(&mut *self.bus.entries.lock().unwrap());
        entries.into_iter().filter(|entry| entry.detail_type == detail_type).collect()
    }

    /// Its deltas, as a link brings them to another region.
    fn deltas(&self) -> Vec<String> {
        let stamp = |entry: Entry| {
            let event = envelope::Event::read(&body(&entry), self.name, &ingress()).unwrap();
            body(&event.entry(self.name, Timestamp::from_millis(1), None))
        };
        self.published(events::DELTA).into_iter().map(stamp).collect()
    }

    fn counter(&self, name: &str) -> f64 {
        let text = self.metrics.text();
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// The sums that stand in the table, and those of the documents that are there.
    async fn sums(&self) -> (Total, Total) {
        // Sums that were read before may be shown for a moment.
        sleep(Duration::from_secs(1)).await;
        let mut listed = Vec::new();
        let mut after = None;
        loop {
            let (page, next) = self.documents.list(after).await.unwrap();
            listed.extend(page);
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let digest =
            listed.iter().fold(Default::default(), |sum: crate::core::state::digest::Digest, one| sum.plus(one.digest));
        (self.documents.total().await.unwrap(), Total { documents: listed.len() as u64, digest })
    }
}

/// The event of an entry, as a queue holds it.
fn body(entry: &Entry) -> String {
    let detail: Value = serde_json::from_str(&entry.detail).unwrap();
    let id = format!("{:032x}", Random::from_system().next_u64());
    json!({"id": id, "detail-type": entry.detail_type, "source": entry.source, "account": "1", "region": "r",
           "time": "2026-11-25T19:00:00Z", "resources": [], "detail": detail})
    .to_string()
}

fn increment(by: i64) -> String {
    format!(r#"{{"field":"plays","op":"increment","by":{by}}}"#)
}

async fn settle(sites: &[&Site]) {
    for _ in 0..600 {
        sleep(Duration::from_secs(1)).await;
        let is_quiet = sites.iter().all(|site| site.queue.left() == 0);
        let totals = futures::future::join_all(sites.iter().map(|site| site.documents.total())).await;
        if is_quiet && totals.iter().all(|total| total.as_ref().unwrap() == totals[0].as_ref().unwrap()) {
            return;
        }
    }
    panic!("they do not become equal");
}

fn two(wall: &Wall) -> (Site, Site) {
    let (eu, us) = (Arc::<MemoryItems>::default(), Arc::<MemoryItems>::default());
    (Site::of("eu", eu.clone(), &[("us", &us)], wall), Site::of("us", us, &[("eu", &eu)], wall))
}

#[tokio::test(start_paused = true)]
async fn deltas_in_any_order_and_twice_make_both_regions_equal_and_conflicts_are_told_once() {
    let wall = Wall::new();
    let (eu, us) = two(&wall);
    for (site, language) in [(&eu, "de"), (&us, "fr")] {
        site.apply(&increment(2)).await;
        site.apply(r#"{"field":"watchlist","op":"add","value":"m1"}"#).await;
        site.apply(&format!(r#"{{"field":"language","op":"set","value":"{language}"}}"#)).await;
        sleep(Duration::from_millis(5)).await;
    }
    eu.apply(r#"{"field":"watchlist","op":"remove","value":"m1"}"#).await;
    let (ours, theirs) = (eu.deltas(), us.deltas());
    assert_eq!((ours.len(), theirs.len()), (4, 3));
    for delta in ours.iter().rev().chain(&ours) {
        us.queue.push(delta.clone());
    }
    for delta in theirs.iter().rev().chain(&theirs) {
        eu.queue.push(delta.clone());
    }
    settle(&[&eu, &us]).await;
    let expected = json!({"plays": 4, "watchlist": ["m1"], "language": "fr"});
    assert_eq!((eu.value().await, us.value().await), (expected.clone(), expected));
    for site in [&eu, &us] {
        let told = site.published(events::CONFLICT);
        assert_eq!(told.len(), 1, "{told:?}");
        let detail: Value = serde_json::from_str(&told[0].detail).unwrap();
        assert_eq!((&detail["winner"]["value"], &detail["loser"]["value"]), (&json!("fr"), &json!("de")));
        let (kept, listed) = site.sums().await;
        assert_eq!(kept, listed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_is_two_calls_and_a_key_is_known_in_every_region() {
    let wall = Wall::new();
    let (eu, us) = two(&wall);
    // The table was looked at before.
    eu.apply(&increment(1)).await;
    eu.items.calls.lock().unwrap().clear();
    let keyed = |site: &Site| site.documents.clone();
    let play = || (key(), ops(&increment(1)), Some("k".to_owned()));
    let (at, operations, request) = play();
    assert_eq!(keyed(&eu).apply(at, operations, request).await, Ok(Applied::Done));
    assert_eq!(*eu.items.calls.lock().unwrap(), ["get", "write"]);
    let (at, operations, request) = play();
    assert_eq!(keyed(&eu).apply(at, operations, request).await, Ok(Applied::Duplicate));
    // Cut off, it is done there too, and counts once all the same.
    let (at, operations, request) = play();
    assert_eq!(keyed(&us).apply(at, operations, request).await, Ok(Applied::Done));
    let (ours, theirs) = (eu.deltas(), us.deltas());
    ours.into_iter().for_each(|delta| us.queue.push(delta));
    theirs.into_iter().for_each(|delta| eu.queue.push(delta));
    settle(&[&eu, &us]).await;
    assert_eq!((eu.value().await, us.value().await), (json!({"plays": 2}), json!({"plays": 2})));
    assert_eq!(eu.documents.delete(Key::new("profile", "none"), None).await, Ok(Applied::Nothing));
}

#[tokio::test(start_paused = true)]
async fn agents_of_one_region_share_its_documents() {
    let wall = Wall::new();
    let one = Site::of("eu", Arc::default(), &[], &wall);
    let other = one.another(&wall);
    // Both have looked at the table.
    sleep(Duration::from_secs(1)).await;
    let all = (0..40).map(|nth| {
        let agent = if nth % 2 == 0 { &one } else { &other };
        let key = Key::new("profile", &format!("u{}", nth / 2 % 4));
        agent.documents.apply(key, ops(&increment(1)), None)
    });
    for applied in futures::future::join_all(all).await {
        assert_eq!(applied, Ok(Applied::Done));
    }
    for nth in 0..4 {
        let view = other.documents.get(Key::new("profile", &format!("u{nth}"))).await.unwrap().unwrap();
        assert_eq!(view.value, r#"{"plays":10}"#);
    }
    assert_eq!(one.published(events::DELTA).len(), 40);
    assert!(
        one.counter("hubweave_state_write_conflicts_total") + other.counter("hubweave_state_write_conflicts_total")
            > 0.0
    );
    let (kept, listed) = one.sums().await;
    assert_eq!((kept, kept.documents), (listed, 4));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_was_not_answered_is_done_once() {
    let wall = Wall::new();
    let site = Site::of("eu", Arc::default(), &[], &wall);
    site.apply(&increment(1)).await;
    for (takes_effect, expected) in [(true, 2), (false, 3)] {
        site.items.trouble.lock().unwrap().push((takes_effect, Failure::Unanswered("late".to_owned())));
        site.apply(&increment(1)).await;
        assert_eq!(site.value().await, json!({"plays": expected}));
    }
    site.items.trouble.lock().unwrap().push((false, Failure::Refused("AccessDenied".to_owned())));
    let refused = site.documents.apply(key(), ops(&increment(1)), None).await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    assert_eq!((site.value().await, site.deltas().len()), (json!({"plays": 3}), 3));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_did_not_take_effect_is_not_taken_for_one_that_another_agent_passed() {
    let wall = Wall::new();
    let one = Site::of("eu", Arc::default(), &[], &wall);
    let ahead = Wall::new();
    ahead.pass(DAY / 24);
    let other = one.another(&ahead);
    one.apply(&increment(1)).await;
    other.apply(&increment(1)).await;
    for (request, expected) in [(None, 3), (Some("k".to_owned()), 5)] {
        sleep(Duration::from_secs(1)).await;
        one.items.trouble.lock().unwrap().push((false, Failure::Unanswered("late".to_owned())));
        let ours = one.documents.apply(key(), ops(&increment(1)), request.clone());
        let theirs = other.documents.apply(key(), ops(&increment(1)), None);
        let (ours, theirs) = futures::future::join(ours, theirs).await;
        assert_eq!(theirs, Ok(Applied::Done));
        match request {
            None => assert!(matches!(ours, Err(Error::Unavailable { .. })), "{ours:?}"),
            Some(_) => assert_eq!(ours, Ok(Applied::Done)),
        }
        assert_eq!(one.value().await, json!({"plays": expected}));
    }
    assert_eq!(one.deltas().len(), 5, "nothing was told that is not in the table");
}

#[tokio::test(start_paused = true)]
async fn what_no_link_brought_is_found_by_comparing() {
    let wall = Wall::new();
    let (eu, us) = two(&wall);
    eu.bus.is_down.store(true, Ordering::SeqCst);
    assert_eq!(eu.apply(&increment(5)).await, Applied::Done, "the table has it");
    assert_eq!(eu.counter("hubweave_state_unsent_deltas_total"), 1.0);
    settle(&[&eu, &us]).await;
    assert_eq!(us.value().await, json!({"plays": 5}));
    // A delta that stands on one that is lost: its document is fetched.
    eu.bus.is_down.store(false, Ordering::SeqCst);
    eu.apply(&increment(1)).await;
    eu.apply(&increment(1)).await;
    us.queue.push(eu.deltas().pop().unwrap());
    for _ in 0..10 {
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!((us.value().await, us.queue.left()), (json!({"plays": 7}), 0));
}

#[tokio::test(start_paused = true)]
async fn published_operations_are_done_once_and_foreign_ones_are_left_alone() {
    let wall = Wall::new();
    let site = Site::of("eu", Arc::default(), &[], &wall);
    let operation = |ops: Value| Entry {
        source: "app".to_owned(),
        detail_type: events::OPERATION.to_owned(),
        detail: json!({"type": "profile", "id": "u1", "ops": ops}).to_string(),
        ..Entry::default()
    };
    let play = operation(json!([{"field": "plays", "op": "increment", "by": 1}]));
    let message = body(&play);
    site.queue.push(message.clone());
    site.queue.push(message);
    site.queue.push(body(&play));
    site.queue.push(body(&operation(json!([{"field": "plays", "op": "add", "value": 1}]))));
    let elsewhere = envelope::Event::read(&body(&play), "us", &ingress()).unwrap();
    site.queue.push(body(&elsewhere.entry("us", Timestamp::from_millis(1), None)));
    site.queue.push("{".to_owned());
    for _ in 0..5 {
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!((site.value().await, site.queue.left()), (json!({"plays": 2}), 0));
    assert_eq!(site.counter("hubweave_state_unreadable_events_total"), 2.0);
}

#[tokio::test(start_paused = true)]
async fn what_is_deleted_goes_when_all_have_seen_it_and_begins_anew() {
    let wall = Wall::new();
    let (eu, us) = two(&wall);
    eu.apply(&increment(5)).await;
    let late = eu.deltas();
    us.queue.push(late[0].clone());
    settle(&[&eu, &us]).await;
    assert_eq!(us.value().await, json!({"plays": 5}));
    assert_eq!(eu.documents.delete(key(), None).await, Ok(Applied::Done));
    settle(&[&eu, &us]).await;
    assert_eq!(us.value().await, Value::Null, "comparing brings a delete as well");
    let collected = |site: &Site| site.counter("hubweave_state_collected_total");
    sleep(Duration::from_secs(2 * 3_600)).await;
    assert_eq!((collected(&eu), collected(&us)), (0.0, 0.0), "a delta from before it may come yet");
    wall.pass(HORIZON * 2 + DAY);
    sleep(Duration::from_secs(4 * 3_600)).await;
    assert_eq!((collected(&eu), collected(&us)), (1.0, 1.0));
    assert_eq!(eu.counter("hubweave_state_tombstones{") + us.counter("hubweave_state_tombstones{"), 0.0);
    // What is redriven now brings nothing back.
    us.queue.push(late[0].clone());
    sleep(Duration::from_secs(60)).await;
    assert_eq!(us.counter("hubweave_state_expired_deltas_total"), 1.0);
    assert_eq!((us.value().await, eu.value().await, us.queue.left()), (Value::Null, Value::Null, 0));
    eu.apply(&increment(1)).await;
    settle(&[&eu, &us]).await;
    assert_eq!((us.value().await, eu.value().await), (json!({"plays": 1}), json!({"plays": 1})));
}

#[tokio::test(start_paused = true)]
async fn two_deletes_that_never_met_do_not_keep_each_other_for_ever() {
    let wall = Wall::new();
    let (eu, us) = two(&wall);
    eu.apply(&increment(1)).await;
    eu.deltas().into_iter().for_each(|delta| us.queue.push(delta));
    settle(&[&eu, &us]).await;
    // Neither's delta reaches the other: comparing sees no difference between two documents that are not there.
    for site in [&eu, &us] {
        assert_eq!(site.documents.delete(key(), None).await, Ok(Applied::Done));
    }
    wall.pass(HORIZON * 2 + DAY);
    sleep(Duration::from_secs(6 * 3_600)).await;
    for site in [&eu, &us] {
        assert_eq!(site.counter("hubweave_state_collected_total"), 1.0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_table_that_was_restored_writes_as_another_and_one_that_is_too_old_is_looked_through() {
    let wall = Wall::new();
    let (eu, us) = two(&wall);
    eu.apply(&increment(5)).await;
    settle(&[&eu, &us]).await;
    let (copy, old) = (Arc::new(eu.items.copy()), Arc::new(eu.items.copy()));
    eu.apply(&increment(3)).await;
    settle(&[&eu, &us]).await;
    eu.stop.cancel();
    let restored = Site::of("eu", copy, &[("us", &us.items)], &wall);
    // One dot that the lost table had given out as well would be taken for known.
    restored.apply(&increment(10)).await;
    restored.deltas().into_iter().for_each(|delta| us.queue.push(delta));
    settle(&[&restored, &us]).await;
    assert_eq!((restored.value().await, us.value().await), (json!({"plays": 18}), json!({"plays": 18})));
    restored.stop.cancel();
    wall.pass(HORIZON + DAY);
    let old = Site::of("eu", old, &[("us", &us.items)], &wall);
    while old.documents.get(key()).await.is_err() {
        sleep(Duration::from_secs(1)).await;
    }
    settle(&[&old, &us]).await;
    assert_eq!(old.counter("hubweave_state_discarded_documents_total"), 0.0, "the other one has all of it");
    assert_eq!(old.value().await, json!({"plays": 18}));
    let (kept, listed) = old.sums().await;
    assert_eq!(kept, listed);
}

#[tokio::test(start_paused = true)]
async fn a_document_that_an_item_has_no_room_for_is_refused_and_what_is_there_stays() {
    let wall = Wall::new();
    let site = Site::of("eu", Arc::default(), &[], &wall);
    let members = |from: usize| {
        let add = |nth| format!(r#"{{"field":"watchlist","op":"add","value":"{nth:01000}"}}"#);
        (from..from + 90).map(add).collect::<Vec<_>>().join(",")
    };
    for nth in 0..2 {
        site.apply(&members(nth * 90)).await;
    }
    let refused = site.documents.apply(key(), ops(&members(180)), None).await;
    assert!(matches!(&refused, Err(Error::Refused(Refused::TooLarge(why))) if why.contains("204800")), "{refused:?}");
    assert_eq!(site.value().await["watchlist"].as_array().unwrap().len(), 180);
    assert_eq!(site.documents.delete(key(), None).await, Ok(Applied::Done), "and it can be deleted");
}

#[tokio::test(start_paused = true)]
async fn a_listing_has_every_document_once_and_sums_answer_of_every_range() {
    let wall = Wall::new();
    let site = Site::of("eu", Arc::default(), &[], &wall);
    let keys: BTreeSet<Key> = (0..1_500).map(|nth| Key::new("profile", &format!("u{nth}"))).collect();
    for key in &keys {
        site.documents.apply(key.clone(), ops(&increment(1)), None).await.unwrap();
    }
    sleep(Duration::from_secs(90)).await;
    let (page, next) = site.documents.list(None).await.unwrap();
    assert_eq!(page.len(), crate::ports::documents::PAGE_MAX);
    let (rest, end) = site.documents.list(next).await.unwrap();
    let listed: BTreeSet<Key> = page.into_iter().chain(rest).map(|listed| listed.key).collect();
    assert_eq!((listed == keys, end), (true, None));
    assert_eq!(site.documents.counts()["profile"], 1_500);
    let total = site.documents.total().await.unwrap();
    let asked = Question::Sums(vec![Range::ALL, Range { level: 9, index: 0 }]);
    assert!(matches!(site.documents.answer(asked).await, Err(Error::Refused(_))));
    let Ok(Answer::Sums(sums)) = site.documents.answer(Question::Sums(vec![Range::ALL])).await else { panic!() };
    assert_eq!(sums, [total.digest]);
}
