//! One suite per port. Every adapter runs the suite of its port; a suite panics with what was broken.

pub mod items;
mod managed;
pub mod objects;
pub mod rows;

use std::sync::Arc;

pub use managed::{bus, claims, queue, racing_claims};
pub use objects::{objects, uploads};

use super::{
    disk::Disk,
    hub::{Hub, Published},
    peer::Peer,
};
use crate::core::{
    batch::{Answer, Batch, Kind, Opening, Outcome, Reason},
    journal::Change,
    position::{Incarnation, Lives},
    testing::{self, draft},
    time::Timestamp,
};

/// The contract of [`Disk`] and its files, on an empty disk.
pub async fn disk(disk: Arc<dyn Disk>) {
    assert!(disk.list("absent").await.unwrap().is_empty(), "an absent folder has no files");
    assert!(disk.open("absent").await.is_err(), "an absent file cannot be opened");
    disk.create_dir("d").await.unwrap();
    let file = disk.create("d/b", 100).await.unwrap();
    assert_eq!(file.size().await.unwrap(), 100);
    assert_eq!(&file.read_at(0, 200).await.unwrap()[..], [0; 100], "room set aside reads as zeros");
    file.write_at(90, b"0123456789abc").await.unwrap();
    assert_eq!(&file.read_at(95, 4).await.unwrap()[..], b"5678");
    assert_eq!(&file.read_at(100, 100).await.unwrap()[..], b"abc", "a read stops at the end");
    assert!(file.read_at(1000, 10).await.unwrap().is_empty());
    file.sync().await.unwrap();
    disk.create("d/a", 0).await.unwrap();
    disk.sync_dir("d").await.unwrap();
    assert_eq!(disk.list("d").await.unwrap(), ["a", "b"], "names come sorted");
    disk.rename("d/b", "d/a").await.unwrap();
    assert_eq!(disk.list("d").await.unwrap(), ["a"], "a rename replaces");
    let again = disk.open("d/a").await.unwrap();
    assert_eq!(&again.read_at(99, 9).await.unwrap()[..], b"9abc");
    assert_eq!(disk.create("d/a", 0).await.unwrap().size().await.unwrap(), 0, "an existing file is emptied");
    disk.remove("d/a").await.unwrap();
    assert!(disk.remove("d/a").await.is_err());
    assert!(disk.list("d").await.unwrap().is_empty());
}

/// A batch of the region `a`, in its life 5, whose log begins at 0 and ends at 1,000.
pub fn batch(receiver: &str, kind: Kind, offsets: &[u64], detail: &str) -> Batch {
    let records = offsets.iter().map(|offset| testing::record(*offset, &format!("a{offset}"), detail));
    Batch {
        opening: Opening {
            cluster: "local".to_owned(),
            sender: "a".to_owned(),
            receiver: receiver.to_owned(),
            kind,
            lives: Lives(vec![(Incarnation(5), 0)]),
            base: 0,
            head: 1_000,
            sent: Timestamp(1),
            held: Vec::new(),
            payloads_in: None,
        },
        records: records.collect(),
    }
}

/// The contract of [`Hub`], on an empty hub of a region other than `a`.
pub async fn hub(hub: Arc<dyn Hub>) {
    let mut head = hub.head();
    let before = *head.borrow_and_update();
    let published = hub.publish(vec![draft("k", "{}"), draft("k", "{}"), draft("k", "{\"x\":1}")]).await.unwrap();
    let Published::Accepted(id) = published[0] else { panic!("{published:?}") };
    assert_eq!(published[1..], [Published::Duplicate(id), Published::Conflict], "one effect per key");
    let after = *head.borrow_and_update();
    assert_eq!(after.offset, before.offset + 1, "the head moves with what is durable");
    assert_eq!(after.local_events, before.local_events + 1);

    let stream = |from, to| Kind::Stream { from, to };
    let apply = async |batch| hub.apply(batch).await.unwrap();
    assert_eq!(apply(batch("b", stream(5, 9), &[7], "{}")).await.answer, Answer::Gap, "what lies before is missed");
    let reply = apply(batch("b", stream(0, 5), &[2, 4], "{}")).await;
    assert_eq!(reply.answer, Answer::Applied(vec![Outcome::Delivered; 2]));
    assert_eq!(reply.high_waters, [(Incarnation(5), 5)], "gaps count as covered");
    let reply = apply(batch("b", stream(3, 9), &[4, 7], "{}")).await;
    assert_eq!(reply.answer, Answer::Applied(vec![Outcome::Duplicate, Outcome::Delivered]), "overlaps are harmless");
    let reply = apply(batch("b", Kind::Redrive, &[2, 20], "{}")).await;
    assert_eq!(reply.answer, Answer::Applied(vec![Outcome::Duplicate, Outcome::Delivered]));
    assert_eq!(reply.high_waters, [(Incarnation(5), 9)], "a redrive moves no mark");
    let reply = apply(batch("b", Kind::Redrive, &[7], "{\"other\":1}")).await;
    assert_eq!(reply.answer, Answer::Applied(vec![Outcome::Rejected(Reason::Conflict)]));
    let reply = apply(batch("b", Kind::Shadow, &[7, 30], "{}")).await;
    assert_eq!(reply.answer, Answer::Applied(vec![Outcome::Duplicate, Outcome::Delivered]));

    let mut reader = hub.reader(hub.base());
    let mut keys = Vec::new();
    loop {
        let records = reader.next(2, 1).await.unwrap();
        assert!(records.len() <= 2, "a page holds what was asked for");
        if records.is_empty() {
            break;
        }
        keys.extend(records.iter().map(|record| record.key().to_owned()));
    }
    assert_eq!(keys, ["k", "a2", "a4", "a7", "a20"], "in order, once, nothing of a shadow");
    reader.seek(hub.base() + 3);
    assert_eq!(reader.next(1, 1).await.unwrap()[0].key(), "a7");

    for paused in [true, false, true] {
        hub.note(vec![Change::Paused { peer: "a".to_owned(), paused, at: Timestamp(1) }.into()]).await.unwrap();
    }
    assert!(hub.state().read().unwrap().links["a"].paused, "notes take effect in their order");
}

/// The contract of [`Peer`], for one called `b` whose region has `a` as a peer.
pub async fn peer(peer: Arc<dyn Peer>) {
    let hello = peer.hello().await.unwrap();
    assert_eq!((hello.region.as_str(), hello.cluster.as_str()), ("b", "local"));
    let stream = Kind::Stream { from: 0, to: 5 };
    for expected in [Outcome::Delivered, Outcome::Duplicate] {
        let reply = peer.deliver(batch("b", stream.clone(), &[2, 4], "{}")).await.unwrap();
        assert_eq!(reply.answer, Answer::Applied(vec![expected; 2]), "sending again is harmless");
        assert_eq!(reply.region, "b");
        assert!(reply.received <= reply.replied);
    }
    assert_eq!(peer.hello().await.unwrap().high_waters, [(Incarnation(5), 5)]);
    let foreign = peer.deliver(batch("z", stream, &[2], "{}")).await;
    assert!(matches!(foreign, Err(crate::core::link::Failure::Refused(_))), "a batch for somebody else: {foreign:?}");
}
