use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Options, Ports,
    calls::{Answer, Call},
    item::Feed,
    letter,
    work::Work,
};
use crate::{
    agent::Pacer,
    core::{
        backoff::Backoff,
        envelope::{Event, Rules},
        ingress::Ingress,
        key::{KeyHash, PayloadHash},
        pattern::Pattern,
        time::Timestamp,
    },
    metrics::Metrics,
    ports::{
        claims::{Claim, Claims, Inserted, Row, State, Token},
        clock::Clock,
        queue::{Message, Outgoing, Queue},
    },
    sim::{
        chance::{Chance, SharedChance},
        clock::SimClock,
        managed::{
            bus, ledger, queue,
            wire::{Caller, Op, Wire},
        },
        trace::SharedTrace,
    },
};

const DAY: Duration = Duration::from_secs(86_400);

/// A link from `a` to `b`, over services that work.
struct Fixture {
    wire: Arc<Wire>,
    feed: Arc<queue::Store>,
    held: Arc<queue::Store>,
    dead: Arc<queue::Store>,
    bus: Arc<bus::Store>,
    ledger: Arc<ledger::Store>,
    claims: Arc<ledger::SimClaims>,
    clock: Arc<SimClock>,
    metrics: Arc<Metrics>,
    paused: watch::Sender<bool>,
    stop: CancellationToken,
    options: Options,
    ports: Option<Arc<Ports>>,
    task: Option<JoinHandle<()>>,
    sender: queue::SimQueue,
}

fn ingress() -> Ingress {
    Ingress {
        key_pointers: vec!["/detail/idempotencyKey".to_owned()],
        reference_pointers: Vec::new(),
        max_entry_bytes: 1_000,
    }
}

impl Fixture {
    fn new() -> Fixture {
        let started = Instant::now();
        let trace = SharedTrace::new(started, false);
        let wire = Wire::new(3, trace.clone());
        let caller = Caller { agent: "a0".to_owned(), life: 1, home: "a" };
        wire.begin(&caller);
        let store = |name: &str| queue::Store::new(3, name.to_owned(), started);
        let (feed, held, dead) = (store("feed"), store("held"), store("dead"));
        let clock = Arc::new(SimClock::new(started, 0));
        let ledger = ledger::Store::new(3, "b", trace.clone());
        let bus = bus::Store::new(3, "b", started, trace, bus::Targets::unheard(started), Arc::default());
        let claims = Arc::new(ledger::SimClaims {
            store: ledger.clone(),
            region: "b",
            caller: caller.clone(),
            wire: wire.clone(),
            clock: clock.clone(),
        });
        let metrics = Arc::new(Metrics::new("a", &["b".to_owned()]).unwrap());
        let queue = |store: &Arc<queue::Store>| queue::SimQueue {
            store: store.clone(),
            region: "a",
            caller: caller.clone(),
            wire: wire.clone(),
        };
        let pattern = Pattern::parse(&serde_json::json!({ "source": ["app", { "prefix": "aws." }] })).unwrap();
        let options = Options {
            home: "a".to_owned(),
            peer: "b".to_owned(),
            rules: Rules { pattern, hops_max: 4, replays: false, expire_after: 13 * DAY },
            shadow: false,
            ingress: ingress(),
            lease: Duration::from_secs(15),
            attempt_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(3),
            visibility: Duration::from_secs(20),
            poll: Duration::from_secs(20),
            receives: 4,
            in_flight: 100,
            in_flight_bytes: 1 << 20,
            claimed_max: 50,
            unmarked_max: 50,
            put_bytes: 1_000,
            entry_bytes_max: 900,
            retention: 15 * DAY,
            backoff: Backoff { min: Duration::from_millis(100), max: Duration::from_secs(5) },
            hold_after: Duration::from_secs(20),
            held_delay: Duration::from_secs(60),
            depth_interval: Duration::from_secs(30),
        };
        let ports = Ports {
            feed: Arc::new(queue(&feed)),
            held: Arc::new(queue(&held)),
            dead: Arc::new(queue(&dead)),
            claims: claims.clone(),
            bus: Arc::new(bus::SimBus {
                store: bus.clone(),
                region: "b",
                caller: caller.clone(),
                wire: wire.clone(),
                ledger: ledger.clone(),
                attempt: options.attempt_timeout,
            }),
            clock: clock.clone(),
            entropy: Arc::new(SharedChance::new(Chance::new(3, "agent"))),
            payloads: None,
            pacer: Arc::new(Pacer::new(None, None)),
            metrics: Arc::new(metrics.link("b")),
            skipped: metrics.skipped.clone(),
            progress: Arc::default(),
        };
        Fixture {
            sender: queue(&feed),
            wire,
            feed,
            held,
            dead,
            bus,
            ledger,
            claims,
            clock,
            metrics,
            paused: watch::channel(false).0,
            stop: CancellationToken::new(),
            options,
            ports: Some(Arc::new(ports)),
            task: None,
        }
    }

    fn start(&mut self) {
        let ports = self.ports.take().unwrap();
        let link = super::run(self.options.clone(), ports, self.paused.subscribe(), self.stop.clone());
        self.task = Some(tokio::spawn(link));
    }

    async fn stop(&mut self) {
        self.stop.cancel();
        self.task.take().unwrap().await.unwrap();
        let violations = self.bus.oracle().violations.clone();
        assert!(violations.is_empty(), "{violations:?}");
    }

    /// Details of the events on the peer's bus.
    fn effects(&self) -> Vec<String> {
        let mut effects: Vec<_> = self.bus.oracle().effects.iter().map(|effect| effect.detail.clone()).collect();
        effects.sort();
        effects
    }

    fn letters(&self) -> Vec<(String, Message)> {
        let reason = |message: &Message| message.attributes.get(letter::REASON).cloned().unwrap_or_default();
        let mut letters: Vec<_> = self.dead.bodies().into_iter().map(|message| (reason(&message), message)).collect();
        letters.sort_by(|a, b| a.0.cmp(&b.0));
        letters
    }

    async fn row(&self, detail: &str, state: State, payload: Option<PayloadHash>) {
        let event = Event::read(&envelope("app", detail), "a", &ingress()).unwrap();
        let at = self.clock.now();
        let payload = payload.unwrap_or(event.payload_hash);
        let row = Row { payload, state, at, expires: at.plus(DAY), origin: "b".to_owned(), reserved: false };
        self.claims.insert(vec![Claim { key: event.key_hash, row }]).await.unwrap();
    }

    fn publish(&self, source: &str, detail: &str) {
        self.feed.arrive(envelope(source, detail), Duration::ZERO);
    }

    fn counted(&self, result: &str) -> u64 {
        let link = self.metrics.link("b");
        match result {
            "delivered" => link.delivered.get(),
            "duplicate" => link.duplicate.get(),
            "rejected" => link.rejected.get(),
            _ => link.repeats_unanswered.get() + link.repeats_taken_over.get(),
        }
    }
}

fn envelope(source: &str, detail: &str) -> String {
    format!(
        r#"{{"version":"0","id":"id-{}","detail-type":"T","source":"{source}","account":"1","time":"2026-01-01T00:00:00Z","region":"r","resources":[],"detail":{detail}}}"#,
        detail.len()
    )
}

fn keyed(n: usize) -> String {
    format!(r#"{{"idempotencyKey":"k{n}"}}"#)
}

async fn wait(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn each_message_ends_at_the_peer_in_the_dead_letters_or_counted_as_skipped() {
    let mut link = Fixture::new();
    let stamped = Event::read(&envelope("app", &keyed(1)), "b", &ingress()).unwrap().entry("b", Timestamp(1), None);
    link.publish("app", &keyed(2));
    link.publish("app", &stamped.detail);
    link.publish("other", &keyed(3));
    link.publish("aws.s3", &keyed(4));
    link.publish("app", r#"{"idempotencyKey":"k5","refusedBy":"b"}"#);
    link.publish("app", &format!(r#"{{"idempotencyKey":"k6","x":"{}"}}"#, "x".repeat(900)));
    link.feed.arrive("no event".to_owned(), Duration::ZERO);
    let old = link.clock.now().minus(14 * DAY).as_millis().to_string();
    let aged = |extra: &[(&str, &str)]| {
        let attributes = [(letter::ACCEPTED, old.as_str())].into_iter().chain(extra.iter().copied());
        attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let messages = [(7, aged(&[])), (8, aged(&[(letter::AGED, "yes")]))];
    let outgoing = messages.map(|(n, attributes)| Outgoing {
        body: envelope("app", &keyed(n)),
        attributes,
        ..Outgoing::default()
    });
    link.sender.send(outgoing.into()).await.unwrap();
    let before = link.clock.now();
    link.start();
    wait(30).await;

    assert_eq!(link.effects(), [keyed(2), keyed(8)], "the old one that somebody asked for too");
    let letters = link.letters();
    let reasons: Vec<&str> = letters.iter().map(|(reason, _)| reason.as_str()).collect();
    assert_eq!(reasons, ["expired", "malformed", "refused", "too_large"]);
    let (expired, refused) = (&letters[0].1, &letters[2].1);
    assert_eq!(expired.attributes[letter::ACCEPTED], old, "the time of its first acceptance");
    assert!(letter::accepted(refused) <= before);
    assert_eq!(refused.attributes[letter::KEY], "k5");
    assert_eq!(refused.attributes[letter::WHY], "InvalidArgument: simulated");
    assert_eq!(refused.body, envelope("app", r#"{"idempotencyKey":"k5","refusedBy":"b"}"#));
    assert_eq!(link.ledger.row(KeyHash::of("app", "T", "k5")), None, "a refused event leaves no claim");
    for (reason, count) in [("foreign", 1), ("filtered", 1), ("aws_source", 1), ("hop_limit", 0)] {
        assert_eq!(link.metrics.skipped.with_label_values(&[reason]).get(), count, "{reason}");
    }
    assert_eq!((link.counted("delivered"), link.counted("rejected"), link.counted("possible")), (2, 4, 0));
    assert!(link.feed.bodies().is_empty());
    link.stop().await;
}

#[tokio::test(start_paused = true)]
async fn only_a_done_key_of_the_same_payload_is_a_duplicate() {
    let mut link = Fixture::new();
    link.row(&keyed(1), State::Done { id: None }, None).await;
    link.row(&keyed(2), State::Done { id: None }, Some(PayloadHash([9; 32]))).await;
    let lease = Duration::from_secs(15);
    link.row(&keyed(3), State::Claimed { token: Token(77), lease }, None).await;
    (1..=3).for_each(|n| link.publish("app", &keyed(n)));
    link.start();
    wait(10).await;
    assert_eq!(link.effects(), Vec::<String>::new());
    assert_eq!(link.letters().iter().map(|(reason, _)| reason.as_str()).collect::<Vec<_>>(), ["conflict"]);
    assert_eq!(
        (link.counted("duplicate"), link.feed.bodies().len()),
        (1, 1),
        "a live claim of another one is waited for"
    );
    wait(30).await;
    assert_eq!(link.effects(), [keyed(3)], "nobody kept it for the time of its lease");
    assert_eq!((link.counted("possible"), link.counted("delivered")), (1, 1));
    link.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_messages_of_one_key_make_one_effect_and_one_duplicate() {
    let mut link = Fixture::new();
    (0..4).for_each(|_| link.publish("app", &keyed(1)));
    link.start();
    wait(10).await;
    assert_eq!(link.effects(), [keyed(1)]);
    assert_eq!((link.counted("duplicate"), link.counted("possible")), (3, 0));
    link.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_bus_puts_off_is_held_without_a_claim_and_comes_back() {
    let mut link = Fixture::new();
    link.bus.change(|quality| quality.put_later = 1.0);
    link.publish("app", &keyed(1));
    let accepted = link.feed.bodies()[0].sent;
    link.start();
    wait(40).await;
    let held = link.held.bodies();
    assert_eq!((held.len(), link.feed.bodies().len(), link.ledger.row(KeyHash::of("app", "T", "k1"))), (1, 0, None));
    assert_eq!(letter::accepted(&held[0]), accepted);
    link.bus.change(|quality| quality.put_later = 0.0);
    wait(90).await;
    assert_eq!((link.effects(), link.held.bodies().len()), (vec![keyed(1)], 0));
    link.stop().await;
}

#[tokio::test(start_paused = true)]
async fn while_the_peer_does_not_answer_next_to_nothing_is_received() {
    let mut link = Fixture::new();
    link.wire.change("a", "b", |quality| quality.cut = true);
    (0..60).for_each(|n| link.publish("app", &keyed(n)));
    link.start();
    wait(60).await;
    let received = |link: &Fixture| link.feed.bodies().iter().map(|message| u64::from(message.received)).sum::<u64>();
    let before = received(&link);
    wait(60).await;
    assert!(received(&link) - before <= 30, "one message at a time tries, with pauses of seconds");
    let text = link.metrics.text();
    let retrying = |line: &&str| line.starts_with("hubweave_link_state") && line.contains("retrying");
    assert!(text.lines().find(retrying).is_some_and(|line| line.ends_with(" 1")), "{text}");
    link.wire.heal();
    wait(60).await;
    assert_eq!((link.effects().len(), link.feed.bodies().len()), (60, 0));
    link.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_draining_link_gives_back_at_once_what_is_not_on_the_bus() {
    let mut link = Fixture::new();
    link.bus.change(|quality| quality.put_later = 1.0);
    (0..40).for_each(|n| link.publish("app", &keyed(n)));
    link.start();
    wait(5).await;
    assert!(link.feed.bodies().iter().all(|message| message.received == 1));
    let stopping = Instant::now();
    link.stop().await;
    assert!(stopping.elapsed() < link.options.attempt_timeout);
    let visible = link.sender.depth().await.unwrap().visible;
    assert_eq!(visible, 40);
    let claimed = (0..40).filter(|n| link.ledger.row(KeyHash::of("app", "T", &format!("k{n}"))).is_some()).count();
    assert_eq!(claimed, 0, "nobody has to wait for a lease");
}

#[tokio::test(start_paused = true)]
async fn what_a_poll_brings_in_after_a_pause_is_given_back() {
    let mut link = Fixture::new();
    link.start();
    wait(1).await;
    link.paused.send_replace(true);
    wait(1).await;
    link.publish("app", &keyed(1));
    wait(5).await;
    assert_eq!((link.effects().len(), link.feed.bodies()[0].received), (0, 1));
    assert_eq!(link.sender.depth().await.unwrap().visible, 1, "others may have it at once");
    link.paused.send_replace(false);
    wait(5).await;
    assert_eq!(link.effects(), [keyed(1)]);
    link.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_link_receives_nothing_and_goes_on_when_it_is_resumed() {
    let mut link = Fixture::new();
    link.paused.send_replace(true);
    link.start();
    link.publish("app", &keyed(1));
    wait(60).await;
    assert_eq!(link.feed.bodies()[0].received, 0);
    link.paused.send_replace(false);
    wait(5).await;
    assert_eq!(link.effects(), [keyed(1)]);
    link.stop().await;
}

#[tokio::test(start_paused = true)]
async fn no_more_is_unmarked_than_may_be() {
    let mut link = Fixture::new();
    link.options.unmarked_max = 7;
    link.wire.mute("a0", Op::Mark, Instant::now() + Duration::from_secs(8));
    (0..40).for_each(|n| link.publish("app", &keyed(n)));
    link.start();
    wait(7).await;
    assert_eq!(link.effects().len(), 7);
    wait(30).await;
    assert_eq!((link.effects().len(), link.counted("possible")), (40, 0));
    link.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_put_without_an_answer_is_made_again_under_its_claim_and_counted() {
    let mut link = Fixture::new();
    link.wire.lose_next_reply("a0", Op::Put);
    link.publish("app", &keyed(1));
    link.start();
    wait(30).await;
    assert_eq!((link.effects().len(), link.counted("possible"), link.counted("delivered")), (2, 1, 1));
    link.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_link_in_shadow_mode_compares_and_delivers_nothing() {
    let mut link = Fixture::new();
    link.options.shadow = true;
    link.row(&keyed(1), State::Done { id: None }, None).await;
    (1..=3).for_each(|n| link.publish("app", &keyed(n)));
    link.start();
    wait(10).await;
    let shadow = link.metrics.link("b");
    assert_eq!((shadow.shadow_known.get(), shadow.shadow_new.get()), (1, 2));
    assert_eq!((link.effects().len(), link.feed.bodies().len()), (0, 0));
    assert_eq!(link.ledger.row(KeyHash::of("app", "T", "k2")), None);
    link.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_link_that_waits_for_its_own_limit_stops_at_once() {
    let mut link = Fixture::new();
    if let Some(ports) = link.ports.as_mut().and_then(Arc::get_mut) {
        ports.pacer = Arc::new(Pacer::new(Some(1), None));
    }
    (0..40).for_each(|n| link.publish("app", &keyed(n)));
    link.start();
    wait(5).await;
    let stopping = Instant::now();
    link.stop().await;
    assert!(stopping.elapsed() < link.options.attempt_timeout);
    assert_eq!(link.effects().len() + link.feed.bodies().len(), 40);
}

/// A link's decisions alone, without anything that answers by itself.
struct Deciding {
    work: Work,
    accepted: Timestamp,
    next: usize,
    receives: usize,
}

impl Deciding {
    fn new(mut link: Fixture) -> Deciding {
        let work = Work::new(link.options.clone(), link.ports.take().unwrap());
        Deciding { work, accepted: link.clock.now(), next: 0, receives: 0 }
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(1_000 + millis)
    }

    /// Makes the calls that are wanted now; answers the messages of each claim.
    fn claims(&mut self, millis: u64) -> Vec<Vec<u64>> {
        let mut claims = Vec::new();
        while let Some(call) = self.work.next_call(Deciding::at(millis)) {
            match call {
                Call::Receive { feed: Feed::Main, .. } => self.receives += 1,
                Call::Claim { items, .. } => claims.push(items),
                _ => {}
            }
        }
        claims
    }

    fn received(&mut self, count: usize, millis: u64) {
        let sent = self.accepted;
        let message = |n: usize| Message {
            id: n.to_string(),
            body: envelope("app", &keyed(n)),
            receipt: String::new(),
            sent,
            received: 1,
            attributes: Default::default(),
            trace: None,
        };
        let result = Ok((self.next..self.next + count).map(message).collect());
        self.next += count;
        self.receives -= 1;
        self.work.answered(Answer::Received { feed: Feed::Main, result }, Deciding::at(millis));
    }

    fn claimed(&mut self, items: Vec<u64>, millis: u64) {
        let result = Ok(items.iter().map(|_| Ok(Inserted::New)).collect());
        let sent = Deciding::at(millis);
        self.work.answered(Answer::Claimed { items, sent, paced: Duration::ZERO, result }, sent);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_not_full_waits_a_little_while_another_of_its_kind_is_under_way() {
    let mut link = Deciding::new(Fixture::new());
    assert!(link.claims(0).is_empty());
    link.received(1, 0);
    let first = link.claims(0);
    assert_eq!(first.iter().map(Vec::len).collect::<Vec<_>>(), [1], "there is nothing to wait for");

    link.received(5, 10);
    assert!(link.claims(10).is_empty());
    assert!(link.work.wake_at(Deciding::at(10)) <= Deciding::at(110));
    assert!(link.claims(109).is_empty());
    assert_eq!(link.claims(110).iter().map(Vec::len).collect::<Vec<_>>(), [5]);

    link.received(10, 120);
    assert!(link.claims(120).is_empty());
    link.received(10, 120);
    assert!(link.claims(120).is_empty());
    link.received(10, 120);
    let full = link.claims(120);
    assert_eq!(full.iter().map(Vec::len).collect::<Vec<_>>(), [25], "a full one does not wait");
    assert!(link.claims(219).is_empty());
    assert_eq!(link.claims(220).iter().map(Vec::len).collect::<Vec<_>>(), [5]);
}

#[tokio::test(start_paused = true)]
async fn no_more_is_received_than_is_soon_claimed() {
    let mut fixture = Fixture::new();
    (fixture.options.in_flight, fixture.options.in_flight_bytes) = (10_000, usize::MAX);
    let most = fixture.options.claimed_max + fixture.options.receives * 10 + 100;
    let mut link = Deciding::new(fixture);
    let mut claims = link.claims(0);
    while link.receives > 0 {
        link.received(10, 0);
        claims.extend(link.claims(0));
    }
    assert!((most - 50..=most).contains(&link.next), "{} of {most}", link.next);
    claims.drain(..).for_each(|items| link.claimed(items, 1));
    assert!(!link.claims(1).is_empty(), "what is put makes room for claims");
    assert!(link.receives > 0, "and claims make room for what is received");
}
