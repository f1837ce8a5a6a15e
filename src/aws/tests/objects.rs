//! S3's buckets against MiniStack, and against what is no S3.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aws_sdk_s3::{
    primitives::ByteStream,
    types::{
        BucketLocationConstraint, BucketVersioningStatus, ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart,
        CreateBucketConfiguration, VersioningConfiguration,
    },
};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{Clients, EU, MiniStack, US, aws, clients, clients_with, counter};
use crate::{
    aws::{
        clients::Options as ClientOptions,
        objects::{Options, S3Objects},
    },
    core::link::Failure,
    embedded::system::SystemClock,
    ports::{
        conformance::{
            self,
            objects::{announced, body, collect, noise},
        },
        objects::{Announced, Checksum, Error, Location, Objects, Sums},
    },
};

const PART: u64 = 5 << 20;

fn options() -> Options {
    Options::new(Duration::from_secs(20))
}

fn objects(clients: &Clients) -> S3Objects {
    S3Objects::new(clients, options(), Arc::new(SystemClock))
}

/// Of the region whose clients these are.
async fn bucket(clients: &Clients, versions: bool) -> String {
    let name = MiniStack::unique("objects");
    let region = clients.s3.config().region().unwrap().to_string();
    // The first region is none in a location constraint.
    let location = (region != US).then(|| {
        let constraint = BucketLocationConstraint::from(region.as_str());
        CreateBucketConfiguration::builder().location_constraint(constraint).build()
    });
    clients.s3.create_bucket().bucket(&name).set_create_bucket_configuration(location).send().await.unwrap();
    if versions {
        let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
        clients.s3.put_bucket_versioning().bucket(&name).versioning_configuration(enabled).send().await.unwrap();
    }
    name
}

async fn overwrite(clients: &Clients, at: &Location, bytes: &Bytes) {
    let body = ByteStream::from(bytes.to_vec());
    clients.s3.put_object().bucket(&at.bucket).key(&at.key).body(body).send().await.unwrap();
}

#[tokio::test]
async fn buckets_keep_the_contract_of_their_port_with_versions_and_without() {
    let clients = clients(EU).await;
    for versions in [false, true] {
        let (store, bucket) = (Arc::new(objects(&clients)), bucket(&clients, versions).await);
        conformance::objects(store.clone(), &bucket).await;
        conformance::uploads(store, &bucket).await;
    }
}

#[tokio::test]
async fn what_was_looked_at_is_read_or_nothing() {
    let clients = clients(EU).await;
    let store = objects(&clients);
    let (one, other) = (noise(1, 5_000), noise(2, 5_000));
    for versions in [false, true] {
        let at = Location::new(bucket(&clients, versions).await, "latest.json");
        overwrite(&clients, &at, &one).await;
        let stat = store.stat(&at).await.unwrap().unwrap();
        overwrite(&clients, &at, &other).await;
        let read = match store.read(&at, &stat.version, 0..5_000).await {
            Ok(body) => Ok(collect(body).await.unwrap()),
            Err(error) => Err(error),
        };
        match versions {
            true => assert!(read.unwrap() == one, "the version that was looked at is still there"),
            false => assert_eq!(read, Err(Error::Gone)),
        }
    }
}

#[tokio::test]
async fn only_checksums_over_the_whole_object_are_told() {
    let clients = clients(EU).await;
    let store = objects(&clients);
    let at = Location::new(bucket(&clients, false).await, "of a service");
    // As a service's SDK uploads in parts, with a sum of the parts' sums.
    let upload = clients.s3.create_multipart_upload().bucket(&at.bucket).key(&at.key);
    let upload = upload.checksum_algorithm(ChecksumAlgorithm::Sha256).send().await.unwrap();
    let id = upload.upload_id().unwrap();
    let mut parts = Vec::new();
    for number in 1..=2 {
        let part = clients.s3.upload_part().bucket(&at.bucket).key(&at.key).upload_id(id).part_number(number);
        let part = part.checksum_algorithm(ChecksumAlgorithm::Sha256).body(ByteStream::from(vec![7; 5 << 20]));
        let sent = part.send().await.unwrap();
        let named = CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag);
        parts.push(named.set_checksum_sha256(sent.checksum_sha256).build());
    }
    let made = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    let made =
        clients.s3.complete_multipart_upload().bucket(&at.bucket).key(&at.key).upload_id(id).multipart_upload(made);
    made.send().await.unwrap();
    let stat = store.stat(&at).await.unwrap().unwrap();
    assert_eq!((stat.size, stat.sums), (2 * PART, Sums::default()));

    let single = Location::new(&at.bucket, "of another");
    let put = clients.s3.put_object().bucket(&single.bucket).key(&single.key);
    put.checksum_algorithm(ChecksumAlgorithm::Crc32).body(ByteStream::from_static(b"123456789")).send().await.unwrap();
    let stat = store.stat(&single).await.unwrap().unwrap();
    assert_eq!(stat.sums, Sums::of([Checksum::Crc32(0xcbf4_3926)]));
}

#[tokio::test]
async fn an_object_is_copied_by_s3_from_region_to_region_at_once_or_in_parts_and_replaces_nothing() {
    let (home, peer) = (clients(EU).await, clients(US).await);
    for versions in [false, true] {
        let (from_bucket, to_bucket) = (bucket(&home, versions).await, bucket(&peer, versions).await);
        let source = objects(&home);
        let in_parts = Options { copy_at_once_bytes: 1_000, copy_part_bytes: PART, ..options() };
        let destinations =
            [(objects(&peer), "at once ü"), (S3Objects::new(&peer, in_parts, Arc::new(SystemClock)), "in parts/ü?&")];
        for (destination, key) in destinations {
            let bytes = noise(3, 2 * 5 * (1 << 20) + 77);
            let (from, to) = (Location::new(&from_bucket, key), Location::new(&to_bucket, key));
            source.put(&from, announced(&bytes), body(&bytes)).await.unwrap();
            let stat = source.stat(&from).await.unwrap().unwrap();
            let copied = destination.copy(&from, &stat, &to).await.unwrap().expect("S3 can");
            let there = destination.stat(&to).await.unwrap().unwrap();
            assert_eq!((there.size, &there.version), (stat.size, &copied.version));
            assert_ne!(there.same_bytes(&stat), Some(false));
            assert_eq!(there.attributes["x-amz-meta-note"], "kept as it is");
            assert!(
                collect(destination.read(&to, &there.version, 0..there.size).await.unwrap()).await.unwrap() == bytes
            );
            assert_eq!(destination.copy(&from, &stat, &to).await, Err(Error::Exists), "nothing is replaced");

            overwrite(&home, &from, &noise(4, 2_000)).await;
            let elsewhere = Location::new(&to_bucket, format!("{key} again"));
            let copied = destination.copy(&from, &stat, &elsewhere).await;
            match versions {
                true => assert!(copied.unwrap().is_some(), "the version that was looked at is still there"),
                false => {
                    assert_eq!(copied, Err(Error::Gone), "another object stands there now");
                    assert_eq!(destination.stat(&elsewhere).await, Ok(None));
                }
            }
        }
    }
}

#[tokio::test]
async fn a_copy_in_parts_that_does_not_fit_its_checksum_is_no_object() {
    let clients = clients(EU).await;
    let store = objects(&clients);
    let at = Location::new(bucket(&clients, false).await, "damaged");
    let bytes = noise(5, 6 << 20);
    for wrong in [Checksum::Crc64Nvme(1), Checksum::Crc32c(1), Checksum::Sha256([1; 32])] {
        let lie = Announced { sums: Sums::of([wrong]), ..announced(&bytes) };
        let upload = store.begin(&at, &lie, "tag").await.unwrap();
        assert!(upload.parts.is_empty(), "{wrong:?}: the one before is gone");
        for (number, range) in [(1, 0..PART), (2, PART..6 << 20)] {
            let part = bytes.slice(range.start as usize..range.end as usize);
            store.put_part(&at, &upload, number, part.len() as u64, body(&part)).await.unwrap();
        }
        let finished = store.finish(&at, &upload, 2, lie).await;
        assert!(matches!(finished, Err(Error::Damaged(_))), "{wrong:?}: {finished:?}");
        assert_eq!(store.stat(&at).await, Ok(None), "{wrong:?}: nothing was kept");
    }
}

/// Answers every call like this; counts them.
async fn always(answer: &'static str) -> (S3Objects, Arc<AtomicU32>, prometheus::IntCounterVec) {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut elsewhere = aws(EU, "hub");
    elsewhere.endpoint_url = Some(format!("http://{}", server.local_addr().unwrap()));
    let calls = Arc::<AtomicU32>::default();
    let counted = calls.clone();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = server.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut request = [0; 16_384];
                let _ = connection.read(&mut request).await;
                let _ = connection.write_all(answer.as_bytes()).await;
            });
        }
    });
    let requests = counter();
    let attempt_timeout = Duration::from_millis(500);
    let options = ClientOptions { attempt_timeout, retries: 0, requests: Some(requests.clone()) };
    let clients = clients_with(&elsewhere, options).await;
    (S3Objects::new(&clients, Options::new(attempt_timeout), Arc::new(SystemClock)), calls, requests)
}

#[tokio::test]
async fn where_s3_refuses_a_copy_the_caller_streams_and_the_next_one_is_not_tried() {
    let denied = "HTTP/1.1 403 Forbidden\r\ncontent-length: 90\r\nconnection: close\r\n\r\n\
                  <Error><Code>AccessDenied</Code><Message>no access to the source, it says</Message></Error>";
    let (store, calls, requests) = always(denied).await;
    let at = Location::new("b", "k");
    let stat = crate::ports::objects::Stat {
        size: 1,
        sums: Sums::default(),
        version: "\"e\"".to_owned(),
        modified: crate::core::time::Timestamp::ZERO,
        attributes: Default::default(),
    };
    assert_eq!(store.copy(&at, &stat, &at).await, Ok(None));
    assert_eq!(store.copy(&at, &stat, &at).await, Ok(None));
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert_eq!(requests.with_label_values(&["s3", "CopyObject", "refused"]).get(), 1);
    let refused = store.stat(&at).await;
    assert!(
        matches!(&refused, Err(Error::Failure(Failure::Refused(why))) if why.starts_with("AccessDenied")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_store_that_asks_for_a_pause_or_says_nothing_is_told_from_one_without_the_object() {
    let at = Location::new("b", "k");
    let slow = "HTTP/1.1 503 Slow Down\r\ncontent-length: 44\r\nconnection: close\r\n\r\n\
                <Error><Code>SlowDown</Code>12345678</Error>";
    let (store, _, requests) = always(slow).await;
    let answer = store.read(&at, "\"e\"", 0..1).await.map(drop);
    assert!(matches!(answer, Err(Error::Failure(Failure::Throttled { .. }))), "{answer:?}");
    assert_eq!(requests.with_label_values(&["s3", "GetObject", "throttled"]).get(), 1);

    let (store, _, requests) = always("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    assert_eq!(store.stat(&at).await, Ok(None));
    assert_eq!(requests.with_label_values(&["s3", "HeadObject", "ok"]).get(), 1);

    let (store, _, requests) = always("").await;
    let answer = store.stat(&at).await;
    assert!(matches!(answer, Err(Error::Failure(Failure::Unanswered(_)))), "{answer:?}");
    assert_eq!(requests.with_label_values(&["s3", "HeadObject", "unanswered"]).get(), 1);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no_object() {
    let (store, _, _) =
        always("HTTP/1.1 206 Partial Content\r\ncontent-length: 10\r\nconnection: close\r\n\r\n12345").await;
    let answer = store.read(&Location::new("b", "k"), "\"e\"", 0..10).await.unwrap();
    let read = collect(answer).await;
    assert!(matches!(read, Err(Failure::Unanswered(_))), "{read:?}");
}
