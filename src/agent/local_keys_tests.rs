use super::*;
use crate::{
    core::key::PayloadHash,
    sim::{
        chance::{Chance, SharedChance},
        clock::SimClock,
        managed::{
            ledger, queue as sim_queue,
            wire::{Caller, Op, Wire},
        },
        trace::SharedTrace,
    },
};

/// The local keys of region `a`, over services that work.
struct Fixture {
    keys: Arc<LocalKeys>,
    queue: Arc<sim_queue::Store>,
    ledger: Arc<ledger::Store>,
    claims: Arc<ledger::SimClaims>,
    clock: Arc<SimClock>,
    metrics: Arc<Metrics>,
    wire: Arc<Wire>,
}

fn fixture() -> Fixture {
    let started = Instant::now();
    let trace = SharedTrace::new(started, false);
    let wire = Wire::new(3, trace.clone());
    let caller = Caller { agent: "a0".to_owned(), life: 1, home: "a" };
    wire.begin(&caller);
    let queue = sim_queue::Store::new(3, "keys".to_owned(), started);
    let ledger = ledger::Store::new(3, "a", trace);
    let clock = Arc::new(SimClock::new(started, 0));
    let claims = Arc::new(ledger::SimClaims {
        store: ledger.clone(),
        region: "a",
        caller: caller.clone(),
        wire: wire.clone(),
        clock: clock.clone(),
    });
    let metrics = Arc::new(Metrics::new("a", &[]).unwrap());
    let options = Options {
        home: "a".to_owned(),
        ingress: Ingress {
            key_pointers: vec!["/detail/idempotencyKey".to_owned()],
            reference_pointers: Vec::new(),
            max_entry_bytes: 1_000,
        },
        call_timeout: Duration::from_secs(3),
        visibility: Duration::from_secs(20),
        poll: Duration::from_secs(20),
        receives: 2,
        retention: Duration::from_secs(1_000_000),
        backoff: Backoff { min: Duration::from_millis(100), max: Duration::from_secs(1) },
    };
    let ports = Ports {
        queue: Arc::new(sim_queue::SimQueue { store: queue.clone(), region: "a", caller, wire: wire.clone() }),
        claims: claims.clone(),
        clock: clock.clone(),
        entropy: Arc::new(SharedChance::new(Chance::new(3, "agent"))),
        metrics: metrics.clone(),
        kinds: Arc::default(),
    };
    Fixture { keys: Arc::new(LocalKeys::new(options, ports)), queue, ledger, claims, clock, metrics, wire }
}

const LEASE: Duration = Duration::from_secs(15);

impl Fixture {
    fn start(&self) -> CancellationToken {
        let stop = CancellationToken::new();
        let (keys, stopped) = (self.keys.clone(), stop.clone());
        tokio::spawn(async move { keys.run(stopped).await });
        stop
    }

    /// An event with this id appears on the region's bus.
    fn publish(&self, id: &str) {
        self.queue.arrive(envelope(id), Duration::ZERO);
    }

    /// The key's row, as somebody else wrote it.
    async fn row(&self, origin: &str, state: State, payload: Option<PayloadHash>) {
        let event = Event::read(&envelope("x"), "a", &self.keys.options.ingress).unwrap();
        let at = self.clock.now();
        let payload = payload.unwrap_or(event.payload_hash);
        let row =
            Row { payload, state, at, expires: at.plus(LEASE * 1_000), origin: origin.to_owned(), reserved: false };
        self.claims.insert(vec![Claim { key: event.key_hash, row }]).await.unwrap();
    }

    fn state(&self) -> Option<State> {
        self.ledger.row(KeyHash::of("app", "T", "k1")).map(|row| row.state)
    }

    /// Results that were counted, and how often.
    fn counted(&self) -> Vec<(&'static str, u64)> {
        let count = |result| (result, self.metrics.local_entries.with_label_values(&[result]).get());
        crate::metrics::LOCAL_ENTRIES.into_iter().map(count).filter(|(_, count)| *count > 0).collect()
    }
}

fn envelope(id: &str) -> String {
    format!(r#"{{"id":"{id}","detail-type":"T","source":"app","detail":{{"idempotencyKey":"k1"}}}}"#)
}

fn done(id: &str) -> Option<State> {
    Some(State::Done { id: Some(id.to_owned()) })
}

async fn wait(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_local_key_is_entered_as_done_and_its_repeats_are_told_apart() {
    let fixture = fixture();
    fixture.wire.lose_next_reply("a0", Op::Insert);
    let stop = fixture.start();
    fixture.publish("e1");
    wait(40).await;
    assert_eq!((fixture.state(), fixture.counted()), (done("e1"), vec![("known", 1)]), "its own row, met again");
    fixture.publish("e1");
    fixture.publish("e2");
    fixture.queue.arrive("no event".to_owned(), Duration::ZERO);
    fixture.queue.arrive(envelope("e3").replace("\"k1\"", "\"k1\",\"n\":1"), Duration::ZERO);
    wait(40).await;
    let expected = vec![("known", 2), ("repeat", 1), ("conflict", 1), ("malformed", 1)];
    assert_eq!((fixture.state(), fixture.counted()), (done("e1"), expected));
    assert!(fixture.queue.bodies().is_empty());
    stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_key_that_a_link_delivered_before_is_counted_as_late() {
    let fixture = fixture();
    fixture.row("b", State::Done { id: Some("e0".to_owned()) }, None).await;
    let stop = fixture.start();
    fixture.publish("e1");
    wait(5).await;
    assert_eq!((fixture.state(), fixture.counted()), (done("e0"), vec![("late", 1)]));
    stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_key_that_a_link_is_delivering_is_waited_for() {
    let fixture = fixture();
    fixture.row("b", State::Claimed { token: Token(7), lease: LEASE }, None).await;
    let stop = fixture.start();
    fixture.publish("e1");
    wait(5).await;
    assert_eq!((fixture.counted(), fixture.queue.bodies().len()), (vec![], 1));
    let key = KeyHash::of("app", "T", "k1");
    fixture.claims.release(vec![(key, Token(7))]).await.unwrap();
    wait(5).await;
    assert_eq!((fixture.state(), fixture.counted()), (done("e1"), vec![("new", 1)]), "the link's event was refused");
    stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_links_claim_that_nobody_keeps_is_taken_over_and_counted_as_late() {
    let fixture = fixture();
    fixture.row("b", State::Claimed { token: Token(7), lease: LEASE }, None).await;
    let stop = fixture.start();
    fixture.publish("e1");
    wait(40).await;
    assert_eq!((fixture.state(), fixture.counted()), (done("e1"), vec![("late", 1)]));
    stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn an_event_that_the_agent_published_and_did_not_mark_is_marked() {
    let fixture = fixture();
    fixture.row("a", State::Claimed { token: Token(7), lease: LEASE }, None).await;
    let stop = fixture.start();
    fixture.publish("e1");
    wait(5).await;
    assert_eq!((fixture.state(), fixture.counted()), (done("e1"), vec![("known", 1)]), "it is on the bus");
    stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_long_queue_is_entered_to_its_end() {
    let fixture = fixture();
    (0..95).for_each(|n| fixture.queue.arrive(envelope("e").replace("k1", &format!("k{n}")), Duration::ZERO));
    let stop = fixture.start();
    wait(15).await;
    assert_eq!((fixture.counted(), fixture.queue.bodies().len()), (vec![("new", 95)], 0));
    stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn how_far_it_came_is_told_by_what_it_took_out_last_or_by_an_empty_queue() {
    let fixture = fixture();
    let reached = || Timestamp::from_millis(fixture.keys.reached_millis().load(Ordering::Relaxed));
    let before = fixture.clock.now();
    fixture.publish("e1");
    wait(5).await;
    let stop = fixture.start();
    assert_eq!(reached(), Timestamp::ZERO, "nobody knows yet");
    wait(10).await;
    assert!(fixture.state().is_some());
    assert!((before..before.plus(Duration::from_secs(4))).contains(&reached()), "{:?}", reached());
    let after = fixture.clock.now();
    wait(60).await;
    assert!(reached() > after, "an empty poll");
    // What cannot be entered holds it back.
    fixture.wire.mute("a0", Op::Insert, Instant::now() + Duration::from_secs(600));
    fixture.publish("e2");
    let sent = fixture.clock.now();
    wait(100).await;
    assert!(reached() <= sent.plus(Duration::from_secs(1)), "{:?} {sent:?}", reached());
    stop.cancel();
}
