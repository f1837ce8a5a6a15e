use std::{fs, path::Path};

use super::*;
use crate::{
    core::{
        batch::{self, Answer, Opening, Outcome, Reason},
        journal::{Closed, Letter, Progress},
        position::{EventId, Incarnation, Lives},
        testing::{self, draft},
        time::Timestamp,
    },
    embedded::{disk::LocalDisk, system::Random},
};

struct FixedClock(std::sync::atomic::AtomicU64);

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.fetch_add(1_000_000, Ordering::SeqCst))
    }
}

const START: u64 = 1_700_000_000_000_000_000;

fn options() -> Options {
    Options {
        region: "b".to_owned(),
        retention: Duration::from_secs(15 * 86_400),
        log_retention: Duration::from_secs(3600),
        log_bytes_max: 1 << 30,
        segment_bytes: 1 << 20,
    }
}

async fn open_with(path: &Path, options: Options, now: u64, seed: u64) -> Result<EmbeddedHub, OpenError> {
    let disk = Arc::new(LocalDisk::open(path).unwrap());
    let clock = Arc::new(FixedClock(now.into()));
    let (hub, writer) = EmbeddedHub::open(disk, clock, Arc::new(Random::seeded(seed)), options).await?;
    tokio::spawn(writer.run());
    Ok(hub)
}

async fn open(path: &Path, seed: u64) -> EmbeddedHub {
    open_with(path, options(), START, seed).await.unwrap()
}

async fn read_all(hub: &EmbeddedHub) -> Vec<Record> {
    let mut reader = hub.reader(hub.base());
    let mut all = Vec::new();
    loop {
        let records = reader.next(7, 4096).await.unwrap();
        if records.is_empty() {
            return all;
        }
        all.extend(records);
    }
}

fn stream(from: u64, to: u64, records: Vec<Record>) -> Batch {
    Batch {
        opening: Opening {
            cluster: "local".to_owned(),
            sender: "a".to_owned(),
            receiver: "b".to_owned(),
            kind: batch::Kind::Stream { from, to },
            lives: Lives(vec![(Incarnation(5), 0)]),
            base: 0,
            head: 1_000,
            sent: Timestamp(1),
            held: Vec::new(),
            payloads_in: None,
        },
        records,
    }
}

#[tokio::test]
async fn a_published_key_is_answered_with_its_first_id_and_written_once_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let hub = open(folder.path(), 1).await;
    let first = hub.publish(vec![draft("k", "{}"), draft("k", "{}"), draft("k", "{\"a\":1}")]).await.unwrap();
    let Published::Accepted(id) = first[0] else { panic!("{first:?}") };
    assert_eq!(first[1..], [Published::Duplicate(id), Published::Conflict]);
    drop(hub);
    let hub = open(folder.path(), 2).await;
    assert_eq!(hub.publish(vec![draft("k", "{}")]).await.unwrap(), [Published::Duplicate(id)]);
    let records = read_all(&hub).await;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].id(Incarnation(0)), id);
}

#[tokio::test]
async fn a_batch_is_applied_once_and_a_conflict_is_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let hub = open(folder.path(), 1).await;
    hub.publish(vec![draft("1", "{\"mine\":1}")]).await.unwrap();
    let records: Vec<_> = (1..=3).map(|offset| testing::record(offset, &offset.to_string(), "{}")).collect();
    for expected in [Outcome::Delivered, Outcome::Duplicate] {
        let reply = hub.apply(stream(0, 9, records.clone())).await.unwrap();
        assert_eq!(reply.answer, Answer::Applied(vec![Outcome::Rejected(Reason::Conflict), expected, expected]));
        assert_eq!(reply.high_waters, [(Incarnation(5), 9)]);
    }
    assert_eq!(read_all(&hub).await.len(), 3);
}

#[tokio::test]
async fn a_batch_beyond_what_is_here_is_refused_and_says_what_is_here() {
    let folder = tempfile::tempdir().unwrap();
    let hub = open(folder.path(), 1).await;
    hub.apply(stream(0, 4, vec![testing::record(4, "4", "{}")])).await.unwrap();
    let reply = hub.apply(stream(6, 7, vec![testing::record(7, "7", "{}")])).await.unwrap();
    assert_eq!((reply.answer, reply.high_waters), (Answer::Gap, vec![(Incarnation(5), 4)]));
    drop(hub);
    let hub = open(folder.path(), 2).await;
    let reply = hub.apply(stream(4, 7, vec![testing::record(7, "7", "{}")])).await.unwrap();
    assert_eq!(reply.answer, Answer::Applied(vec![Outcome::Delivered]));
}

#[tokio::test]
async fn each_start_writes_as_a_new_life() {
    let folder = tempfile::tempdir().unwrap();
    for lives in 1..4 {
        let hub = open(folder.path(), lives).await;
        hub.publish(vec![draft(&format!("k{lives}"), "{}")]).await.unwrap();
        assert_eq!(hub.state().read().unwrap().lives.0.len() as u64, lives);
    }
}

#[tokio::test]
async fn a_copy_of_a_running_hubs_disk_and_the_hub_itself_never_give_out_a_position_twice() {
    let (folder, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let hub = open(folder.path(), 1).await;
    hub.publish(vec![draft("both", "{}")]).await.unwrap();
    for part in ["log", "ledger"] {
        fs::create_dir_all(copy.path().join(part)).unwrap();
        for entry in fs::read_dir(folder.path().join(part)).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.path().join(part).join(entry.file_name())).unwrap();
        }
    }
    let other = open(copy.path(), 2).await;
    let mut positions = Vec::new();
    for (hub, key) in [(&hub, "original"), (&other, "copy")] {
        let published = hub.publish(vec![draft(key, "{}")]).await.unwrap();
        let [Published::Accepted(EventId(position))] = published[..] else { panic!("{published:?}") };
        positions.push(position);
    }
    assert_eq!(positions[0].sequence, positions[1].sequence);
    assert_ne!(positions[0].incarnation, positions[1].incarnation);
    // Each learns of the other from a peer that has both.
    for (hub, theirs) in [(&hub, positions[1]), (&other, positions[0])] {
        let lives = hub.state().read().unwrap().lives.clone();
        let marks = positions.iter().map(|position| (position.incarnation, position.sequence)).collect::<Vec<_>>();
        let beyond = lives.beyond(&marks, &[], hub.head().borrow().offset);
        assert_eq!(beyond.iter().map(|held| held.incarnation).collect::<Vec<_>>(), [theirs.incarnation]);
    }
}

#[tokio::test]
async fn an_event_that_came_outside_of_its_stream_is_told_of_until_the_stream_covers_it_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let hub = open(folder.path(), 1).await;
    hub.apply(stream(0, 4, vec![testing::record(4, "4", "{}")])).await.unwrap();
    let redrive = |offset: u64| {
        let mut batch = stream(0, 0, vec![testing::record(offset, &offset.to_string(), "{}")]);
        batch.opening.kind = batch::Kind::Redrive;
        batch
    };
    let reply = hub.apply(redrive(9)).await.unwrap();
    let [stray] = reply.strays[..] else { panic!("{reply:?}") };
    assert_eq!((stray.incarnation, stray.sequence, stray.at.sequence), (Incarnation(5), 9, 2));
    // One below it: the same highest sequence, another place.
    let reply = hub.apply(redrive(7)).await.unwrap();
    let [later] = reply.strays[..] else { panic!("{reply:?}") };
    assert_eq!((later.sequence, later.at.sequence), (9, 3));
    assert_eq!(hub.apply(redrive(7)).await.unwrap().strays, [later], "a repeat is no news");
    drop(hub);
    let hub = open(folder.path(), 2).await;
    assert_eq!(hub.apply(stream(4, 8, Vec::new())).await.unwrap().strays, [later]);
    assert_eq!(hub.apply(stream(8, 9, Vec::new())).await.unwrap().strays, []);
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_and_rot_before_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let hub = open(folder.path(), 1).await;
    for key in ["a", "b", "c"] {
        hub.publish(vec![draft(key, "{\"text\":\"0123456789\"}")]).await.unwrap();
    }
    let segment = hub.shared.log.last().unwrap();
    let end = segment.tail().bytes;
    let path = folder.path().join(segment.path());
    drop((hub, segment));

    let whole = fs::read(&path).unwrap();
    let mut torn = whole.clone();
    torn[end as usize - 5] ^= 1;
    fs::write(&path, &torn).unwrap();
    let hub = open(folder.path(), 2).await;
    assert_eq!(read_all(&hub).await.iter().map(|record| record.key().to_owned()).collect::<Vec<_>>(), ["a", "b"]);
    hub.publish(vec![draft("d", "{}")]).await.unwrap();
    drop(hub);
    assert_eq!(read_all(&open(folder.path(), 3).await).await.len(), 3);

    let mut rotten = whole;
    let at = rotten.windows(10).position(|window| window == b"0123456789").unwrap();
    rotten[at] ^= 1;
    fs::write(&path, &rotten).unwrap();
    let error = open_with(folder.path(), options(), START, 4).await.err().unwrap().to_string();
    assert!(error.contains("checksum") && error.contains("synced"), "{error}");
}

#[tokio::test]
async fn segments_roll_and_go_after_retention_but_not_before_the_links_are_past_them() {
    let folder = tempfile::tempdir().unwrap();
    let hub = open(folder.path(), 1).await;
    let detail = format!("{{\"pad\":\"{}\"}}", "x".repeat(10_000));
    for batch in 0..30 {
        let drafts = (0..10).map(|n| draft(&format!("{batch}-{n}"), &detail)).collect();
        hub.publish(drafts).await.unwrap();
    }
    assert!(hub.shared.log.segments().len() >= 3);
    assert_eq!(read_all(&hub).await.len(), 300);
    drop(hub);
    let later = START + 7200 * 1_000_000_000;
    let hub = open_with(folder.path(), options(), later, 2).await.unwrap();
    assert_eq!(read_all(&hub).await.len(), 300);
    hub.retain(50);
    hub.note(Vec::new()).await.unwrap();
    assert_eq!(hub.base(), 0, "a link is still in the first segment");
    hub.retain(300);
    hub.note(Vec::new()).await.unwrap();
    assert!(hub.base() > 50);
    assert_eq!(read_all(&hub).await.len() as u64, 300 - hub.base());
    let known = hub.publish(vec![draft("0-0", &detail)]).await.unwrap();
    assert!(matches!(known[0], Published::Duplicate(_)), "the ledger outlives the log");
}

#[tokio::test]
async fn the_log_stays_within_its_size_whoever_needs_it_and_keeps_the_dead_letters() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options();
    options.log_bytes_max = 2 << 20;
    let hub = open_with(folder.path(), options, START, 1).await.unwrap();
    hub.publish(vec![draft("dead", "{\"d\":1}")]).await.unwrap();
    let event = read_all(&hub).await.remove(0);
    let letter = Letter {
        id: 0,
        peer: "c".to_owned(),
        sequence: 1,
        key: "dead".to_owned(),
        key_hash: event.header.key_hash,
        source: "app.test".to_owned(),
        detail_type: "Tested".to_owned(),
        reason: Reason::Conflict,
        accepted: Timestamp(1),
        dead: Timestamp(2),
        attempts: 1,
    };
    let note = Note { change: Change::DeadLettered { letter }, event: Some(event) };
    hub.note(vec![note.clone(), note]).await.unwrap();
    let detail = format!("{{\"pad\":\"{}\"}}", "x".repeat(10_000));
    for batch in 0..50 {
        let drafts = (0..10).map(|n| draft(&format!("{batch}-{n}"), &detail)).collect();
        hub.publish(drafts).await.unwrap();
        hub.retain(0);
    }
    hub.note(Vec::new()).await.unwrap();
    assert!(hub.log_bytes() < 3 << 20, "{}", hub.log_bytes());
    assert!(matches!(hub.reader(0).next(1, 1).await, Err(crate::ports::hub::ReadError::Dropped { .. })));
    let letters: Vec<u64> = hub.state().read().unwrap().letters.keys().copied().collect();
    assert_eq!(letters, [1], "the same event is the same letter");
    assert_eq!(hub.letter_event(1).await.unwrap().unwrap().detail(), "{\"d\":1}");
    drop(hub);
    let hub = open(folder.path(), 2).await;
    assert_eq!(hub.letter_event(1).await.unwrap().unwrap().key(), "dead");
    let close = Change::Closed { id: 1, how: Closed::Discarded, at: Timestamp(3) };
    hub.note(vec![close.into()]).await.unwrap();
    assert!(hub.state().read().unwrap().letters.is_empty());
}

#[tokio::test]
async fn what_links_remember_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let progress = Progress { cursor: 7, sent: 5, held: vec![(3, 2)], ..Progress::default() };
    let hub = open(folder.path(), 1).await;
    let changes = vec![
        Change::Progress { peer: "a".to_owned(), progress: progress.clone() }.into(),
        Change::Paused { peer: "a".to_owned(), paused: true, at: Timestamp(1) }.into(),
    ];
    hub.note(changes).await.unwrap();
    drop(hub);
    let hub = open(folder.path(), 2).await;
    let state = hub.state();
    let link = state.read().unwrap().links["a"].clone();
    assert_eq!((link.progress, link.paused), (Some(progress), true));
}

#[tokio::test]
async fn a_draining_hub_takes_nothing_from_services_and_everything_from_peers() {
    let folder = tempfile::tempdir().unwrap();
    let hub = open(folder.path(), 1).await;
    hub.set_draining(true);
    assert_eq!(hub.publish(vec![draft("k", "{}")]).await, Err(Error::Draining));
    let reply = hub.apply(stream(0, 4, vec![testing::record(4, "4", "{}")])).await.unwrap();
    assert_eq!(reply.answer, Answer::Applied(vec![Outcome::Delivered]));
}

#[tokio::test]
async fn the_embedded_hub_keeps_the_contract_of_hubs() {
    let folder = tempfile::tempdir().unwrap();
    crate::ports::conformance::hub(Arc::new(open(folder.path(), 1).await)).await;
}

fn letter(event: &Record) -> Note {
    let letter = Letter {
        id: 0,
        peer: "c".to_owned(),
        sequence: event.header.offset,
        key: event.key().to_owned(),
        key_hash: event.header.key_hash,
        source: "app.test".to_owned(),
        detail_type: "Tested".to_owned(),
        reason: Reason::Conflict,
        accepted: Timestamp(1),
        dead: Timestamp(2),
        attempts: 1,
    };
    Note { change: Change::DeadLettered { letter }, event: Some(event.clone()) }
}

#[tokio::test]
async fn a_segment_without_an_event_is_not_followed_by_another_of_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 64 << 10, ..options() };
    let hub = open_with(folder.path(), options, START, 1).await.unwrap();
    let detail = format!("{{\"pad\":\"{}\"}}", "x".repeat(10_000));
    for batch in 0..4 {
        let drafts = (0..5).map(|n| draft(&format!("{batch}-{n}"), &detail)).collect();
        hub.publish(drafts).await.unwrap();
    }
    // Nothing but dead letters, for more than a segment.
    let events = read_all(&hub).await;
    for event in &events {
        hub.note(vec![letter(event)]).await.unwrap();
    }
    hub.publish(vec![draft("last", "{}")]).await.unwrap();
    let keys: Vec<String> = read_all(&hub).await.iter().map(|record| record.key().to_owned()).collect();
    assert_eq!((keys.len(), keys.last().map(String::as_str)), (21, Some("last")));
    for (id, event) in (1..).zip(&events) {
        assert_eq!(hub.letter_event(id).await.unwrap().as_ref(), Some(event), "letter {id}");
    }
}

struct SetBack(std::sync::atomic::AtomicU64);

impl Clock for SetBack {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.fetch_sub(1_000_000_000, Ordering::SeqCst))
    }
}

#[tokio::test]
async fn no_two_events_are_accepted_at_one_time_also_while_the_clock_is_set_back() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(LocalDisk::open(folder.path()).unwrap());
    let clock = Arc::new(SetBack(START.into()));
    let opened = EmbeddedHub::open(disk, clock, Arc::new(Random::seeded(1)), options()).await;
    let (hub, writer) = opened.unwrap();
    tokio::spawn(writer.run());
    hub.publish((0..5).map(|n| draft(&n.to_string(), "{}")).collect()).await.unwrap();
    let times: Vec<Timestamp> = read_all(&hub).await.iter().map(|record| record.header.accepted).collect();
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
}
