use super::*;
use crate::core::{
    event::{Placement, encode_arrival},
    position::Incarnation,
    testing,
};

const ROOM: Room = Room { plain: 10, payload: 10 };
const NOW: Timestamp = Timestamp(10_000_000_000_000);

fn options() -> Options {
    Options {
        batch_events: 10,
        batch_bytes: 1 << 20,
        in_flight: 3,
        backoff: Backoff { min: Duration::from_millis(100), max: Duration::from_secs(10) },
        held_max: 100,
        hops_max: 4,
        expire_after: Duration::from_secs(15 * 86_400),
        shadow: false,
        payloads: false,
        home: "a".to_owned(),
    }
}

fn link() -> Link {
    Link::new(options(), None, 0, NOW)
}

fn lives() -> Lives {
    Lives(vec![(Incarnation(5), 0)])
}

/// Hands in the next ten events.
fn read_on(link: &mut Link) -> Vec<Effect> {
    let from = link.wants().unwrap().after;
    let records = (from + 1..=from + 10).map(|offset| testing::record(offset, &offset.to_string(), "{}")).collect();
    link.on_chunk(Chunk { from, to: from + 10, records }, NOW, |_| true)
}

fn reply(answer: Answer, mark: u64) -> Reply {
    let high_waters = vec![(Incarnation(5), mark)];
    Reply {
        region: "b".to_owned(),
        answer,
        high_waters,
        received: NOW,
        replied: NOW,
        strays: Vec::new(),
        lives: Lives::default(),
        head: 0,
        holes: Vec::new(),
    }
}

fn delivered(mark: u64) -> Reply {
    reply(Answer::Applied(vec![Outcome::Delivered; 10]), mark)
}

fn on_reply(link: &mut Link, id: u64, reply: &Reply) -> Vec<Effect> {
    let lives = lives();
    link.on_reply(id, reply, NOW, &HubView { lives: &lives, head: 1_000, base: 0 })
}

#[test]
fn the_low_water_does_not_pass_a_batch_that_failed_while_a_later_one_succeeded() {
    let mut link = link();
    read_on(&mut link);
    read_on(&mut link);
    let first = link.next_send(NOW, NOW).unwrap();
    let second = link.next_send(NOW, NOW).unwrap();
    assert_eq!((first.from, first.to, second.from, second.to), (0, 10, 10, 20));
    link.on_failure(first.id, Failure::Unanswered("time-out".to_owned()), NOW, 0.5);
    on_reply(&mut link, second.id, &delivered(20));
    assert_eq!(link.low(), 0);
    let again = link.next_send(NOW, NOW).unwrap();
    assert_eq!((again.from, again.to), (0, 10));
    on_reply(&mut link, again.id, &delivered(20));
    assert_eq!(link.low(), 20);
}

#[test]
fn after_a_failure_one_batch_at_a_time_goes_out_lowest_first_after_a_pause() {
    let mut link = link();
    for _ in 0..3 {
        read_on(&mut link);
    }
    let sends = [0; 3].map(|_| link.next_send(NOW, NOW).unwrap());
    for send in &sends {
        link.on_failure(send.id, Failure::Unanswered("down".to_owned()), NOW, 1.0);
    }
    assert_eq!(link.status(), Status::Retrying("down".to_owned()));
    assert!(link.next_send(NOW, NOW).is_none());
    let later = link.deadline(ROOM).unwrap();
    assert_eq!(later, NOW.plus(Duration::from_millis(200)), "three failures together are one");
    assert_eq!(link.next_send(later, NOW).unwrap().to, 10);
    assert!(link.next_send(later, NOW).is_none());
}

#[test]
fn a_gap_that_only_means_reordering_sends_again_without_a_rewind() {
    let mut link = link();
    read_on(&mut link);
    read_on(&mut link);
    let first = link.next_send(NOW, NOW).unwrap();
    let second = link.next_send(NOW, NOW).unwrap();
    on_reply(&mut link, first.id, &delivered(10));
    let effects = on_reply(&mut link, second.id, &reply(Answer::Gap, 0));
    assert!(effects.is_empty());
    assert_eq!(link.low(), 10);
    assert_eq!(link.next_send(NOW, NOW).unwrap().from, 10);
}

#[test]
fn a_peer_that_lost_what_it_confirmed_is_sent_it_again() {
    let mut link = link();
    for _ in 0..3 {
        read_on(&mut link);
        let send = link.next_send(NOW, NOW).unwrap();
        on_reply(&mut link, send.id, &delivered(send.to));
    }
    read_on(&mut link);
    let send = link.next_send(NOW, NOW).unwrap();
    let effects = on_reply(&mut link, send.id, &reply(Answer::Gap, 12));
    assert_eq!(effects, [Effect::Rewound { from: 30, to: 12 }]);
    assert_eq!(link.wants().unwrap().after, 12);
    assert_eq!(link.low(), 12);
}

#[test]
fn a_rewind_below_the_log_names_what_cannot_be_refilled() {
    let mut link = Link::new(options(), Some(&Progress { cursor: 50, sent: 50, ..Progress::default() }), 40, NOW);
    read_on(&mut link);
    let send = link.next_send(NOW, NOW).unwrap();
    let lives = lives();
    let effects = link.on_reply(send.id, &reply(Answer::Gap, 7), NOW, &HubView { lives: &lives, head: 60, base: 40 });
    assert_eq!(
        effects,
        [Effect::Unrecoverable { from: 7, to: 40, mark: Mark::default() }, Effect::Rewound { from: 50, to: 40 }]
    );
}

#[test]
fn a_gap_of_events_left_out_belongs_to_the_next_batch() {
    let mut link = link();
    let from = link.wants().unwrap().after;
    let records = (1..=10).map(|offset| testing::record(offset, "k", "{}")).collect();
    let effects = link.on_chunk(Chunk { from, to: 10, records }, NOW, |_| false);
    assert_eq!(effects.len(), 10);
    assert_eq!((link.low(), link.next_send(NOW, NOW).is_none()), (10, true));
    read_on(&mut link);
    let send = link.next_send(NOW, NOW).unwrap();
    assert_eq!((send.from, send.to), (0, 20));
    assert_eq!(link.progress(NOW).sent, 0);
    on_reply(&mut link, send.id, &delivered(20));
    assert_eq!(link.progress(NOW).sent, 20);
}

#[test]
fn a_rejected_event_goes_to_the_dead_letters_and_the_rest_goes_on() {
    let mut link = link();
    read_on(&mut link);
    let send = link.next_send(NOW, NOW).unwrap();
    let mut outcomes = vec![Outcome::Delivered; 10];
    outcomes[3] = Outcome::Rejected(Reason::Conflict);
    let effects = on_reply(&mut link, send.id, &reply(Answer::Applied(outcomes), 10));
    let dead: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::DeadLetter { record, reason, .. } => Some((record.header.offset, *reason)),
            _ => None,
        })
        .collect();
    assert_eq!(dead, [(4, Reason::Conflict)]);
    assert_eq!(link.low(), 10);
}

#[test]
fn a_held_event_does_not_hold_up_the_others_and_is_remembered() {
    let mut link = link();
    read_on(&mut link);
    let send = link.next_send(NOW, NOW).unwrap();
    let mut outcomes = vec![Outcome::Delivered; 10];
    outcomes[6] = Outcome::Retry { after_millis: 500 };
    on_reply(&mut link, send.id, &reply(Answer::Applied(outcomes), 10));
    assert_eq!((link.low(), link.held_sequences()), (10, vec![7]));
    let mut link = Link::new(options(), Some(&link.progress(NOW)), 0, NOW);
    assert_eq!(link.due_held(NOW, ROOM), [7]);
    assert!(link.due_held(NOW, ROOM).is_empty(), "it is on the wire");
    link.settle_held(7, None, NOW, 0.0);
    let due = link.deadline(ROOM).unwrap();
    assert_eq!(link.due_held(due, ROOM), [7]);
    link.settle_held(7, Some(Outcome::Delivered), NOW, 0.0);
    assert_eq!((link.low(), link.held_sequences()), (10, Vec::new()));
}

#[test]
fn an_event_older_than_the_peers_memory_is_not_sent() {
    let mut options = options();
    options.expire_after = Duration::from_secs(9_995);
    let mut link = Link::new(options, None, 0, NOW);
    let effects = read_on(&mut link);
    let expired = effects.iter().filter(|effect| matches!(effect, Effect::DeadLetter { reason: Reason::Expired, .. }));
    assert_eq!(expired.count(), 5);
    assert_eq!(link.next_send(NOW, NOW).unwrap().records.len(), 5);
}

#[test]
fn a_log_that_dropped_undelivered_events_moves_the_link_on_and_says_which() {
    let mut link = link();
    read_on(&mut link);
    let send = link.next_send(NOW, NOW).unwrap();
    let mark = Mark { accepted: Timestamp::from_millis(10_000), local_events: 10, local_bytes: 1000 };
    assert_eq!(link.lose_place(400, Mark::default()), [Effect::Unrecoverable { from: 10, to: 400, mark }]);
    on_reply(&mut link, send.id, &delivered(10));
    assert_eq!((link.low(), link.wants().unwrap().after), (400, 400));
    read_on(&mut link);
    assert_eq!(link.next_send(NOW, NOW).unwrap().from, 10);
}

#[test]
fn a_paused_link_neither_reads_nor_sends() {
    let mut link = link();
    read_on(&mut link);
    link.set_paused(true);
    assert!(link.wants().is_none() && link.next_send(NOW, NOW).is_none() && link.deadline(ROOM).is_none());
    assert_eq!(link.status(), Status::Paused);
    link.set_paused(false);
    assert!(link.next_send(NOW, NOW).is_some());
}

#[test]
fn an_answer_with_too_few_outcomes_is_no_answer() {
    let mut link = link();
    read_on(&mut link);
    let send = link.next_send(NOW, NOW).unwrap();
    on_reply(&mut link, send.id, &reply(Answer::Applied(vec![Outcome::Delivered]), 10));
    assert_eq!(link.low(), 0);
    assert!(matches!(link.status(), Status::Refused(_)));
}

#[test]
fn memory_is_bounded_by_the_batches_in_flight() {
    let mut link = link();
    for _ in 0..4 {
        read_on(&mut link);
    }
    assert_eq!(link.wants(), None);
}

#[test]
fn what_was_answered_behind_a_batch_without_an_answer_keeps_no_memory() {
    let mut link = link();
    read_on(&mut link);
    let first = link.next_send(NOW, NOW).unwrap();
    for _ in 0..50 {
        read_on(&mut link);
        let send = link.next_send(NOW, NOW).unwrap();
        assert_eq!(send.from + 10, send.to);
        on_reply(&mut link, send.id, &delivered(send.to));
    }
    assert_eq!((link.low(), link.spans.len()), (0, 2));
    assert_eq!(link.spans.iter().map(|span| span.records.len()).sum::<usize>(), 10);
    on_reply(&mut link, first.id, &delivered(10));
    assert_eq!((link.low(), link.spans.len()), (510, 0));
}

#[test]
fn what_was_left_out_behind_answered_batches_belongs_to_the_next_one() {
    let mut link = link();
    read_on(&mut link);
    let first = link.next_send(NOW, NOW).unwrap();
    read_on(&mut link);
    let second = link.next_send(NOW, NOW).unwrap();
    on_reply(&mut link, second.id, &delivered(20));
    let records = (21..=30).map(|offset| testing::record(offset, "k", "{}")).collect();
    link.on_chunk(Chunk { from: 20, to: 30, records }, NOW, |_| false);
    read_on(&mut link);
    let third = link.next_send(NOW, NOW).unwrap();
    assert_eq!((third.from, third.to), (20, 40));
    on_reply(&mut link, first.id, &delivered(20));
    assert_eq!((link.low(), link.progress(NOW).sent), (30, 20));
}

#[test]
fn what_expires_while_it_waits_at_hand_is_judged_again() {
    let mut link = link();
    read_on(&mut link);
    let late = NOW.plus(Duration::from_secs(15 * 86_400));
    assert!(link.next_send(NOW, late).is_none());
    let from = link.wants().unwrap().after;
    assert_eq!(from, 0);
    let records = (1..=10).map(|offset| testing::record(offset, "k", "{}")).collect();
    let effects = link.on_chunk(Chunk { from, to: 10, records }, late, |_| true);
    assert!(effects.iter().all(|effect| matches!(effect, Effect::DeadLetter { reason: Reason::Expired, .. })));
    assert_eq!((effects.len(), link.low()), (10, 10));
}

#[test]
fn a_start_behind_the_logs_beginning_names_the_loss() {
    let progress = Progress { cursor: 20, sent: 20, ..Progress::default() };
    let mut link = Link::new(options(), Some(&progress), 50, NOW);
    assert_eq!(link.wants().unwrap().after, 20);
    let effects = link.lose_place(50, Mark::default());
    assert!(matches!(effects[..], [Effect::Unrecoverable { from: 20, to: 50, .. }]));
}

#[test]
fn a_peer_that_is_heard_is_tried_again_before_the_pause_is_over_but_not_at_once() {
    let mut link = link();
    read_on(&mut link);
    let mut now = NOW;
    for _ in 0..8 {
        let send = link.next_send(now, NOW).unwrap();
        link.on_failure(send.id, Failure::Unanswered("cut".to_owned()), now, 1.0);
        now = link.deadline(ROOM).unwrap();
    }
    let send = link.next_send(now, NOW).unwrap();
    link.on_failure(send.id, Failure::Unanswered("cut".to_owned()), now, 1.0);
    assert_eq!(link.deadline(ROOM), Some(now.plus(Duration::from_secs(10))));
    link.peer_heard();
    assert_eq!(link.deadline(ROOM), Some(now.plus(Duration::from_millis(500))));
}

#[test]
fn what_came_back_after_a_restore_is_sent_on_and_what_others_published_is_not() {
    let arrival = |offset: u64, origin: &str, sender: &str| {
        let at = |offset| Placement { offset, accepted: NOW, hlc: NOW, local_events: 0, local_bytes: 0 };
        let encode = |record: &Record, sender: &str, receiver: &str| {
            let mut out = Vec::new();
            encode_arrival(&mut out, record, sender, receiver, at(offset));
            Record::parse(out.into()).unwrap()
        };
        let home = testing::record(7, &format!("{offset}"), "{}");
        encode(&encode(&home, origin, sender), sender, "a")
    };
    let mut link = link();
    let records = vec![arrival(1, "a", "b"), arrival(2, "b", "c")];
    let effects = link.on_chunk(Chunk { from: 0, to: 2, records }, NOW, |_| true);
    assert!(matches!(&effects[..], [Effect::Skipped { why: Skip::Foreign, .. }]), "{effects:?}");
    let send = link.next_send(NOW, NOW).unwrap();
    assert_eq!(send.records.iter().map(|record| record.key()).collect::<Vec<_>>(), ["1"]);
}
