use super::*;
use crate::{
    core::testing,
    metrics::Metrics,
    sim::{
        chance::{Chance, SharedChance},
        clock::SimClock,
        managed::{
            bus as sim_bus, ledger,
            wire::{Caller, Op, Wire},
        },
        trace::SharedTrace,
    },
};

struct Fixture {
    publisher: Publisher,
    wire: Arc<Wire>,
    bus: Arc<sim_bus::Store>,
    ledger: Arc<ledger::Store>,
    metrics: Metrics,
}

fn fixture() -> Fixture {
    let started = Instant::now();
    let trace = SharedTrace::new(started, false);
    let wire = Wire::new(3, trace.clone());
    let caller = Caller { agent: "a0".to_owned(), life: 1, home: "a" };
    wire.begin(&caller);
    let targets = sim_bus::Targets::unheard(started);
    let bus = sim_bus::Store::new(3, "a", started, trace.clone(), targets, Arc::default());
    let ledger = ledger::Store::new(3, "a", trace);
    let clock = Arc::new(SimClock::new(started, 0));
    let metrics = Metrics::new("a", &[]).unwrap();
    let options = Options {
        home: "a".to_owned(),
        lease: Duration::from_secs(15),
        attempt_timeout: Duration::from_secs(5),
        call_timeout: Duration::from_secs(3),
        patience: Duration::from_secs(8),
        put_bytes: 1_000_000,
        retention: Duration::from_secs(1_000_000),
        backoff: Backoff { min: Duration::from_millis(100), max: Duration::from_secs(1) },
    };
    let ports = Ports {
        claims: Arc::new(ledger::SimClaims {
            store: ledger.clone(),
            region: "a",
            caller: caller.clone(),
            wire: wire.clone(),
            clock: clock.clone(),
        }),
        bus: Arc::new(sim_bus::SimBus {
            store: bus.clone(),
            region: "a",
            caller,
            wire: wire.clone(),
            ledger: ledger.clone(),
            attempt: options.attempt_timeout,
        }),
        clock,
        entropy: Arc::new(SharedChance::new(Chance::new(3, "agent"))),
        metrics: metrics.link("a"),
    };
    Fixture { publisher: Publisher::new(options, ports), wire, bus, ledger, metrics }
}

impl Fixture {
    async fn publish(&self, drafts: Vec<Draft>) -> Vec<Published> {
        let published = self.publisher.publish(drafts).await;
        let violations = self.bus.oracle().violations.clone();
        assert!(violations.is_empty(), "{violations:?}");
        published
    }

    fn effects(&self) -> usize {
        self.bus.oracle().effects.len()
    }

    fn possible(&self) -> u64 {
        let link = self.metrics.link("a");
        link.repeats_unanswered.get() + link.repeats_taken_over.get()
    }

    fn row(&self, key: &str) -> Option<Row> {
        self.ledger.row(KeyHash::of("app.test", "Tested", key))
    }
}

fn draft(key: &str, n: u64) -> Draft {
    testing::draft(key, &format!("{{\"idempotencyKey\":\"{key}\",\"n\":{n}}}"))
}

#[tokio::test(start_paused = true)]
async fn a_known_key_is_answered_with_the_first_events_id_and_another_payload_is_a_conflict() {
    let fixture = fixture();
    let keyless = Draft { key: None, ..testing::draft("", "{\"n\":3}") };
    let first = fixture.publish(vec![draft("k1", 1), draft("k1", 1), draft("k1", 2), keyless]).await;
    let Published::Accepted(id) = &first[0] else { panic!("{first:?}") };
    assert_eq!(first[1..3], [Published::Duplicate(Some(id.clone())), Published::Conflict], "in one request");
    assert!(matches!(first[3], Published::Accepted(_)), "{first:?}");
    let again = fixture.publish(vec![draft("k1", 1), draft("k1", 2)]).await;
    assert_eq!(again, [Published::Duplicate(Some(id.clone())), Published::Conflict], "and in the next");
    assert_eq!((fixture.effects(), fixture.possible()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn what_the_bus_refuses_leaves_no_claim() {
    let fixture = fixture();
    let refused = testing::draft("k1", r#"{"idempotencyKey":"k1","refusedBy":"a"}"#);
    let published = fixture.publish(vec![refused, draft("k2", 1)]).await;
    assert!(matches!(published[0], Published::Refused { .. }), "{published:?}");
    assert!(matches!(published[1], Published::Accepted(_)), "{published:?}");
    assert_eq!(fixture.row("k1"), None);
}

#[tokio::test(start_paused = true)]
async fn lost_answers_of_the_ledger_make_no_second_effect() {
    let fixture = fixture();
    for op in [Op::Insert, Op::Mark] {
        fixture.wire.lose_next_reply("a0", op);
    }
    let published = fixture.publish(vec![draft("k1", 1)]).await;
    assert!(matches!(published[0], Published::Accepted(_)), "{published:?}");
    assert_eq!((fixture.effects(), fixture.possible()), (1, 0));
    assert!(fixture.row("k1").is_some_and(|row| matches!(row.state, State::Done { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_of_the_bus_is_counted_and_the_event_put_again() {
    let fixture = fixture();
    fixture.wire.lose_next_reply("a0", Op::Put);
    let published = fixture.publish(vec![draft("k1", 1)]).await;
    let taken = matches!(published[0], Published::Accepted(_) | Published::Unavailable { .. });
    assert!(taken && fixture.effects() <= 2 && fixture.possible() == 1, "{published:?}");
}

#[tokio::test(start_paused = true)]
async fn an_event_that_the_bus_puts_off_is_unavailable_and_its_claim_given_up() {
    let fixture = fixture();
    fixture.bus.change(|quality| quality.put_later = 1.0);
    let published = fixture.publish(vec![draft("k1", 1)]).await;
    assert!(matches!(published[0], Published::Unavailable { .. }), "{published:?}");
    assert_eq!(fixture.row("k1"), None, "the producer need not wait for a lease");
    fixture.bus.change(|quality| quality.put_later = 0.0);
    assert!(matches!(fixture.publish(vec![draft("k1", 1)]).await[0], Published::Accepted(_)));
}

#[tokio::test(start_paused = true)]
async fn two_producers_at_once_make_one_effect() {
    let fixture = fixture();
    let (first, second) = tokio::join!(fixture.publish(vec![draft("k1", 1)]), fixture.publish(vec![draft("k1", 1)]));
    let accepted =
        [&first[0], &second[0]].iter().filter(|published| matches!(published, Published::Accepted(_))).count();
    let duplicate =
        [&first[0], &second[0]].iter().filter(|published| matches!(published, Published::Duplicate(_))).count();
    assert_eq!((accepted, duplicate, fixture.effects()), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_mark_fails_for_longer_than_its_request_lasts_is_marked_afterwards() {
    let fixture = fixture();
    let away = |seconds| fixture.wire.mute("a0", Op::Mark, Instant::now() + Duration::from_secs(seconds));
    away(60);
    let drafts = (0..30).map(|n| draft(&format!("k{n}"), n)).collect();
    let published = fixture.publish(drafts).await;
    assert!(published.iter().all(|one| matches!(one, Published::Accepted(_))), "{published:?}");
    let done = |key: &str| fixture.row(key).is_some_and(|row| matches!(row.state, State::Done { id: Some(_) }));
    assert!(!done("k0"));
    let stop = tokio_util::sync::CancellationToken::new();
    let marked = async {
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert!((0..30).all(|n| done(&format!("k{n}"))));
        stop.cancel();
    };
    tokio::join!(fixture.publisher.keep_marking(stop.clone()), marked);
    assert_eq!(fixture.metrics.link("a").claims_unmarked.get(), 0);
    // The ledger is away until the agent stops.
    away(1_000);
    fixture.publish(vec![draft("lost", 1)]).await;
    fixture.publisher.keep_marking(stop).await;
    assert_eq!((done("lost"), fixture.metrics.link("a").claims_unmarked.get()), (false, 1));
}
