use std::{fs, path::PathBuf, time::Duration};

use bytes::Bytes;

use super::{super::tests::*, *};
use crate::ports::{
    conformance::objects::{announced, body, noise},
    objects::{self, Checksum, Objects},
    store::{Intent, Store},
};

const PART: usize = PART_BYTES_MIN as usize;

fn at() -> Location {
    Location::new("bucket", "k")
}

/// An upload of two parts, and what was answered for them.
async fn uploaded(store: &LocalObjects, pieces: &[Bytes]) -> (Begun, Vec<Part>) {
    let begun = store.begin_upload(&at(), Default::default(), vec![Crc::Crc32]).await.unwrap();
    let mut parts = Vec::new();
    for (number, piece) in (1..).zip(pieces) {
        parts.push(store.write_part(&at(), &begun.id, number, Expected::default(), body(piece)).await.unwrap());
    }
    (begun, parts)
}

fn chosen(parts: &[Part]) -> Vec<Chosen> {
    parts.iter().map(|part| Chosen { number: part.number, md5: Some(part.md5), sums: part.sums.clone() }).collect()
}

fn pieces() -> Vec<Bytes> {
    vec![noise(1, PART), noise(2, 1_000)]
}

/// The file of a part.
async fn file_of(store: &LocalObjects, root: &std::path::Path, id: &str, number: u32) -> PathBuf {
    let id = id.to_owned();
    let parts = store.look(move |index, _| index.parts(&id, 0, 10)).await.unwrap();
    let place = parts.iter().find(|(known, _)| *known == number).unwrap().1.place;
    let folders = fs::read_dir(root.join("bodies")).unwrap();
    let files = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
    let mut files = files.map(|file| file.unwrap().path());
    files.find(|file| file.file_name().unwrap().to_string_lossy() == format!("{:016x}", place.number)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_part_never_becomes_an_object_and_can_be_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let pieces = pieces();
    let (begun, parts) = uploaded(&store, &pieces).await;
    let complete = async || {
        store.complete(&at(), &begun.id, chosen(&parts), Expected::default(), Condition::Always).await.map(|_| ())
    };
    let file = file_of(&store, folder.path(), &begun.id, 2).await;
    let mut bytes = fs::read(&file).unwrap();
    bytes[500] ^= 1;
    fs::write(&file, &bytes).unwrap();
    assert_eq!(complete().await, Err(Error::DamagedPart(2)), "one bit is another");
    fs::write(&file, &bytes[..999]).unwrap();
    assert_eq!(complete().await, Err(Error::DamagedPart(2)), "it is too short");
    bytes.extend([0; 9]);
    fs::write(&file, &bytes).unwrap();
    assert_eq!(complete().await, Err(Error::DamagedPart(2)), "it is too long");
    fs::remove_file(&file).unwrap();
    assert_eq!(complete().await, Err(Error::DamagedPart(2)), "it is gone, and the upload is not");
    assert_eq!(store.stat(&at()).await, Ok(None));
    store.write_part(&at(), &begun.id, 2, Expected::default(), body(&pieces[1])).await.unwrap();
    assert_eq!(complete().await, Ok(()));
    assert!(read(&store, "k").await.unwrap() == pieces.concat());
    until_files(folder.path(), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_parts_is_judged() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (begun, parts) = uploaded(&store, &pieces()).await;
    let complete = async |chosen: Vec<Chosen>, of_parts: Sums| {
        let expected = Expected { of_parts, ..Expected::default() };
        store.complete(&at(), &begun.id, chosen, expected, Condition::Always).await.map(|_| ())
    };
    for wrong in [Checksum::Crc32(7), Checksum::Sha256([0; 32]), Checksum::Crc64Nvme(7)] {
        let mut chosen = chosen(&parts);
        chosen[1].sums = Sums::of([wrong]);
        assert_eq!(complete(chosen, Sums::default()).await, Err(Error::NoPart(2)), "{wrong}");
        let refused = complete(self::chosen(&parts), Sums::of([wrong])).await;
        assert!(matches!(refused, Err(Error::Damaged(_))), "{wrong}: {refused:?}");
    }
    let sums: Vec<u8> = parts.iter().flat_map(|part| part.sums.sha256().unwrap()).collect();
    let of_parts = Sums::of([Checksum::Sha256(Sha256::digest(sums).into())]);
    assert_eq!(complete(chosen(&parts), of_parts).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_of_parts_that_no_upload_has_is_refused_before_memory_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let said = announced(b"abc");
    let upload = store.begin(&at(), &said, "tag").await.unwrap();
    for parts in [0, PARTS_MAX + 1, u32::MAX] {
        let refused = store.finish(&at(), &upload, parts, said.clone()).await;
        assert!(matches!(refused, Err(objects::Error::Failure(Failure::Refused(_)))), "{parts}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_uploads_and_writers_under_a_condition_one_wins() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut uploads = Vec::new();
    for seed in 0..3 {
        let bytes = noise(seed, 1_000);
        let begun = store.begin_upload(&at(), Default::default(), Vec::new()).await.unwrap();
        let part = store.write_part(&at(), &begun.id, 1, Expected::default(), body(&bytes)).await.unwrap();
        uploads.push((begun, part));
    }
    let completions = uploads.iter().map(async |(begun, part)| {
        let chosen = chosen(std::slice::from_ref(part));
        store.complete(&at(), &begun.id, chosen, Expected::default(), Condition::Absent).await.map(|_| ())
    });
    let put = async {
        let intent = Intent { condition: Condition::Absent, ..Intent::default() };
        store.write(&at(), intent, Expected::default(), body(&noise(9, 1_000))).await.map(|_| ())
    };
    let (mut results, written) = tokio::join!(futures::future::join_all(completions), put);
    results.push(written);
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    assert_eq!(results.iter().filter(|result| **result == Err(Error::Condition)).count(), 3, "{results:?}");
    // An upload that lost stays, and can be completed under another condition.
    let lost = uploads.iter().zip(&results).find(|(_, result)| result.is_err()).unwrap().0;
    let chosen = chosen(std::slice::from_ref(&lost.1));
    store.complete(&at(), &lost.0.id, chosen, Expected::default(), Condition::Always).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_that_nobody_waits_for_gives_its_turn_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (begun, parts) = uploaded(&store, &pieces()).await;
    let turns = super::super::JOINS_MAX;
    let all = store.joins.clone().acquire_many_owned(turns as u32).await.unwrap();
    let complete = async || {
        store.complete(&at(), &begun.id, chosen(&parts), Expected::default(), Condition::Always).await.map(|_| ())
    };
    assert!(timeout(Duration::from_millis(50), complete()).await.is_err(), "others have all turns");
    drop(all);
    for nth in 0..20 {
        // Somewhere in the middle; where it was too late, it is complete.
        let _ = timeout(Duration::from_micros(500 * nth), complete()).await;
    }
    complete().await.unwrap();
    let turns = timeout(Duration::from_secs(10), store.joins.acquire_many(turns as u32)).await;
    assert!(turns.is_ok(), "every turn was given back");
    until_files(folder.path(), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_part_is_replaced_meanwhile_is_known_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for round in 0..10 {
        let piece = noise(round, 20_000);
        let (begun, parts) = uploaded(&store, std::slice::from_ref(&piece)).await;
        let replace = async {
            // The same bytes in another file, as often as it takes.
            while store.write_part(&at(), &begun.id, 1, Expected::default(), body(&piece)).await.is_ok() {}
        };
        let complete = async {
            loop {
                let expected = Expected::default();
                match store.complete(&at(), &begun.id, chosen(&parts), expected, Condition::Always).await {
                    Err(Error::Failure(Failure::Throttled { .. })) => {}
                    done => return done.map(|_| ()),
                }
            }
        };
        assert_eq!(tokio::join!(complete, replace).0, Ok(()));
        assert!(read(&store, "k").await.unwrap() == piece);
    }
    until_files(folder.path(), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_stale_after_its_last_part() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    // The clock goes on by a second with each look at it.
    let (begun, _) = uploaded(&store, &[noise(1, 10)]).await;
    let other = store.begin_upload(&at(), Default::default(), Vec::new()).await.unwrap();
    let now = store.upload(&at(), &other.id).await.unwrap().begun;
    store.write_part(&at(), &begun.id, 2, Expected::default(), body(&noise(1, 10))).await.unwrap();
    let after = now.plus(Duration::from_millis(500));
    assert_eq!(store.change(move |tables| Ok(Ok(drop_stale(tables, after)?))).await, Ok(1));
    assert!(store.upload(&at(), &begun.id).await.is_ok(), "it took a part in since");
    assert_eq!(store.upload(&at(), &other.id).await, Err(Error::NoUpload));
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_of_services_take_no_room_from_peers() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let entry = UploadEntry::new(at(), Default::default(), &[], Timestamp::ZERO);
    let fill = store.change(move |tables| {
        for nth in 0..crate::ports::store::UPLOADS_MAX {
            tables.put_upload(&format!("{nth:032x}"), &entry)?;
        }
        Ok(Ok(()))
    });
    fill.await.unwrap();
    let refused = store.begin_upload(&at(), Default::default(), Vec::new()).await;
    assert!(matches!(refused, Err(Error::Failure(Failure::Throttled { .. }))), "{refused:?}");
    store.begin(&at(), &announced(b"abc"), "tag").await.unwrap();
}
