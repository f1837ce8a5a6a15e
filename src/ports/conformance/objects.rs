//! The contract of [`Objects`]. For any store, also one that others use: what it needs stands in a bucket of its own.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::join_all, stream};
use sha2::{Digest, Sha256};

use crate::{
    core::{
        link::Failure,
        object::{Checksum, Location, Stat, Sums},
    },
    ports::objects::{Announced, Body, Error, Objects, Upload},
};

/// Bytes that differ from one seed to the other, and from one place to the next.
pub fn noise(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

/// A body in pieces of 10,000 bytes.
pub fn body(bytes: &Bytes) -> Body {
    let pieces: Vec<_> =
        (0..bytes.len()).step_by(10_000).map(|at| bytes.slice(at..bytes.len().min(at + 10_000))).collect();
    stream::iter(pieces.into_iter().map(Ok)).boxed()
}

/// All of a body.
pub async fn collect(body: Body) -> Result<Vec<u8>, Failure> {
    let pieces: Vec<Bytes> = body.try_collect().await?;
    Ok(pieces.concat())
}

/// What an honest sender says of these bytes.
pub fn announced(bytes: &[u8]) -> Announced {
    Announced {
        size: bytes.len() as u64,
        sums: Sums::of([Checksum::Sha256(Sha256::digest(bytes).into())]),
        attributes: BTreeMap::from([
            ("content-type".to_owned(), "text/x-test".to_owned()),
            ("x-amz-meta-note".to_owned(), "kept as it is".to_owned()),
        ]),
    }
}

async fn put(store: &dyn Objects, at: &Location, bytes: &Bytes) -> Result<Stat, Error> {
    store.put(at, announced(bytes), body(bytes)).await
}

async fn read(store: &dyn Objects, at: &Location, version: &str, range: Range<u64>) -> Result<Vec<u8>, Error> {
    Ok(collect(store.read(at, version, range).await?).await?)
}

/// Everything but uploads in parts, which cost 5 MiB each.
pub async fn objects(store: Arc<dyn Objects>, bucket: &str) {
    let store = &*store;
    whole_objects(store, bucket).await;
    damaged(store, bucket).await;
    racing(store, bucket).await;
}

async fn whole_objects(store: &dyn Objects, bucket: &str) {
    // The greatest spans several chunks of everything on the way.
    for (key, size) in [
        ("empty", 0),
        ("one byte", 1),
        ("a/b//c/../d", 4_096),
        ("/leading and trailing/", 20_000),
        ("знак 標 %2F+&=?#;é", 70_000),
        ("large", 3_000_001),
    ] {
        let (at, bytes) = (Location::new(bucket, key), noise(size as u64, size));
        assert_eq!(store.stat(&at).await, Ok(None), "{at}: nothing stands there");
        let written = put(store, &at, &bytes).await.unwrap();
        let stat = store.stat(&at).await.unwrap().expect("it stands there");
        assert_eq!((stat.size, &stat.version), (size as u64, &written.version), "{at}");
        assert_ne!(stat.sums.agree(&announced(&bytes).sums), Some(false), "{at}");
        for (name, value) in announced(&bytes).attributes {
            assert_eq!(stat.attributes.get(&name), Some(&value), "{at}: {name}");
        }
        assert!(read(store, &at, &stat.version, 0..stat.size).await.unwrap() == bytes, "{at}: its bytes");
        if size > 2 {
            let (from, to) = (1, size as u64 - 1);
            let part = read(store, &at, &stat.version, from..to).await.unwrap();
            assert!(part == bytes[1..size - 1], "{at}: a part of them");
        }
        let other = noise(99, size.max(1));
        assert_eq!(put(store, &at, &other).await, Err(Error::Exists), "{at}: it stays");
        assert_eq!(store.stat(&at).await.unwrap(), Some(stat), "{at}: it stays as it was");
    }
    let (at, version) = (Location::new(bucket, "large"), "0".repeat(32));
    assert_eq!(read(store, &at, &version, 0..1).await, Err(Error::Gone), "another version is not read");
    let nothing = Location::new(bucket, "nothing");
    assert_eq!(read(store, &nothing, &version, 0..1).await, Err(Error::Gone));
}

async fn damaged(store: &dyn Objects, bucket: &str) {
    for size in [5_000, 700_000] {
        let (at, bytes) = (Location::new(bucket, format!("damaged/{size}")), noise(1, size));
        let honest = announced(&bytes);
        let wrong = Announced { sums: announced(b"other").sums, ..honest.clone() };
        let short = Announced { size: size as u64 + 1, ..honest.clone() };
        let long = Announced { size: size as u64 - 1, ..honest.clone() };
        for lie in [wrong, short, long] {
            let refused = store.put(&at, lie, body(&bytes)).await;
            // One that streams over a network may see its connection go instead of the answer.
            assert!(
                matches!(
                    refused,
                    Err(Error::Damaged(_) | Error::Failure(Failure::Unanswered(_) | Failure::Refused(_)))
                ),
                "{at}: {refused:?}"
            );
            assert_eq!(store.stat(&at).await, Ok(None), "{at}: nothing was kept");
        }
        let first = bytes.slice(..size / 2);
        let broken = body(&first).chain(stream::iter([Err(Failure::Unanswered("cut".to_owned()))]));
        assert!(store.put(&at, honest.clone(), broken.boxed()).await.is_err());
        assert_eq!(store.stat(&at).await, Ok(None), "{at}: nothing was kept of what broke off");
        store.put(&at, honest, body(&bytes)).await.unwrap();
    }
}

async fn racing(store: &dyn Objects, bucket: &str) {
    for size in [100, 200_000] {
        let at = Location::new(bucket, format!("raced/{size}"));
        let all: Vec<Bytes> = (0..8).map(|seed| noise(seed + 1, size)).collect();
        let results = join_all(all.iter().map(|bytes| put(store, &at, bytes))).await;
        let winners: Vec<usize> = (0..results.len()).filter(|nth| results[*nth].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{at}: one writer wins: {results:?}");
        assert!(results.iter().all(|result| matches!(result, Ok(_) | Err(Error::Exists))), "{results:?}");
        let stat = store.stat(&at).await.unwrap().expect("it stands there");
        let bytes = read(store, &at, &stat.version, 0..stat.size).await.unwrap();
        assert!(bytes == all[winners[0]], "{at}: it is the winner's");
    }
}

/// Uploads in parts.
pub async fn uploads(store: Arc<dyn Objects>, bucket: &str) {
    const PART: usize = 5 << 20;
    let store = &*store;
    let at = Location::new(bucket, "in parts/ü");
    let bytes = noise(7, 2 * PART + 1_234);
    let part = |number: u32| {
        let from = (number as usize - 1) * PART;
        bytes.slice(from..bytes.len().min(from + PART))
    };
    let said = announced(&bytes);
    let put_part = async |upload: &Upload, number: u32| {
        let bytes = part(number);
        store.put_part(&at, upload, number, bytes.len() as u64, body(&bytes)).await
    };

    let upload = store.begin(&at, &said, "tag 1").await.unwrap();
    assert!(upload.parts.is_empty());
    put_part(&upload, 2).await.unwrap();
    let resumed = store.begin(&at, &said, "tag 1").await.unwrap();
    assert_eq!((&resumed.id, resumed.parts), (&upload.id, BTreeMap::from([(2, PART as u64)])), "an upload goes on");
    assert!(store.begin(&at, &said, "tag 2").await.unwrap().parts.is_empty(), "another tag is another upload");
    let lie = store.put_part(&at, &upload, 1, PART as u64 + 1, body(&part(1))).await;
    assert!(lie.is_err(), "a part is as long as was said");
    for number in [3, 1, 1] {
        put_part(&upload, number).await.unwrap();
    }
    assert_eq!(store.stat(&at).await, Ok(None), "an upload is no object yet");
    let written = store.finish(&at, &upload, 3, said.clone()).await.unwrap();
    assert_eq!(store.stat(&at).await.unwrap().map(|stat| stat.version), Some(written.version.clone()));
    assert!(read(store, &at, &written.version, 0..written.size).await.unwrap() == bytes);
    assert!(
        read(store, &at, &written.version, PART as u64 - 5..PART as u64 + 5).await.unwrap()
            == bytes[PART - 5..PART + 5]
    );

    let late = store.begin(&at, &said, "tag 3").await.unwrap();
    put_part(&late, 1).await.unwrap();
    put_part(&late, 2).await.unwrap();
    put_part(&late, 3).await.unwrap();
    assert_eq!(store.finish(&at, &late, 3, said.clone()).await, Err(Error::Exists), "nothing is replaced");
    assert_eq!(put_part(&late, 1).await, Err(Error::Gone), "the upload is gone then");

    let other = Location::new(bucket, "in parts/damaged");
    let damaged = store.begin(&other, &said, "tag").await.unwrap();
    store.put_part(&other, &damaged, 1, 3, body(&Bytes::from_static(b"abc"))).await.unwrap();
    let refused = store.finish(&other, &damaged, 1, said.clone()).await;
    assert!(matches!(refused, Err(Error::Damaged(_))), "{refused:?}");
    assert_eq!(store.stat(&other).await, Ok(None), "nothing was kept");
    assert!(store.begin(&other, &said, "tag").await.unwrap().parts.is_empty(), "it begins anew");

    let gone = store.begin(&other, &said, "tag 2").await.unwrap();
    store.abort(&other, &gone).await.unwrap();
    store.abort(&other, &gone).await.unwrap();
    let refused = store.put_part(&other, &gone, 1, 3, body(&Bytes::from_static(b"abc"))).await;
    assert_eq!(refused, Err(Error::Gone), "what was aborted takes no part");
}
