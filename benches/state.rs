//! Documents: what merging costs, how large a delta is, and requests a second beside events.
//!
//! `merge` merges one-field deltas into a document of 100 fields; `bare_crdts` does the same to the leaf types of the `crdts`
//! crate, which have no document around them. `whole` merges two documents with all fields written on both sides.
//! `requests` and `events` are durable when they are answered, 256 at a time, on one disk.

#![expect(clippy::expect_used, reason = "a benchmark that cannot go on must stop")]

use std::{collections::BTreeMap, hint::black_box, sync::Arc, time::Duration};

use crdts::{CmRDT, CvRDT, MVReg, Orswot, PNCounter, VClock};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures::future::join_all;
use hubweave::{
    agent::documents::{LocalDocuments, Options, Parts, Shelves},
    core::{
        event::Draft,
        json::canonical_hash,
        state::{
            Dot, Key, Kind, Replica, Schema, Schemas, Shape,
            delta::Delta,
            document::{Document, Merged},
            op::{self, Op},
        },
        time::Timestamp,
    },
    embedded::{
        disk::LocalDisk,
        hub::{self, EmbeddedHub},
        rows::LocalRows,
        system::{Random, SystemClock},
    },
    metrics::Metrics,
    ports::{documents::Documents, hub::Hub},
};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const FIELDS: usize = 100;

/// Deltas that are merged in one sample.
const BATCH: usize = 1_000;

/// Requests and events that wait for one answer each.
const WAITING: usize = 256;

const KINDS: [(&str, Kind); 3] = [("register", Kind::Register), ("counter", Kind::Counter), ("set", Kind::Set)];

fn field(kind: &str, number: usize) -> String {
    format!("{kind}_{number}")
}

fn schema() -> Schema {
    let of = |(name, kind): &(&str, Kind)| {
        let shape = Shape { kind: *kind, depth: 0 };
        (0..1_000).map(|number| (field(name, number), shape)).collect::<Vec<_>>()
    };
    Schema(KINDS.iter().flat_map(of).collect())
}

fn ops(kind: &str, number: usize, value: usize) -> Vec<Op> {
    let field = field(kind, number);
    let what = match kind {
        "register" => format!(r#""op":"set","value":"value {value}""#),
        "counter" => r#""op":"increment","by":1"#.to_owned(),
        _ => format!(r#""op":"add","value":"m{}""#, value % 10),
    };
    op::parse(&schema(), &format!(r#"{{"ops":[{{"field":"{field}",{what}}}]}}"#)).expect("operations")
}

/// A replica that writes.
struct Writer {
    replica: Replica,
    given: u64,
    document: Document,
}

impl Writer {
    fn new(replica: u64) -> Writer {
        // Random in life, so of full length as bytes.
        Writer { replica: Replica(replica << 56 | 0x1234_5678_9abc), given: 0, document: Document::default() }
    }

    fn write(&mut self, ops: &[Op]) -> Delta {
        self.given += 1;
        let at = Timestamp(1_800_000_000_000_000_000 + self.given);
        let dot = Dot { replica: self.replica, number: self.given };
        self.document.operate(dot, at, None, ops).expect("it is done")
    }

    /// With fields of this kind, each written once.
    fn filled(mut self, kind: &str, fields: usize) -> Writer {
        for number in 0..fields {
            self.write(&ops(kind, number, number));
        }
        self
    }
}

fn merge(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("merge");
    group.throughput(Throughput::Elements(BATCH as u64)).sample_size(20);
    for (kind, _) in KINDS {
        let mut writer = Writer::new(1).filled(kind, FIELDS);
        let base = writer.document.clone();
        let deltas: Vec<Delta> = (0..BATCH).map(|nth| writer.write(&ops(kind, nth * 7 % FIELDS, nth))).collect();
        let largest = deltas.iter().map(|delta| delta.encode().len()).max().unwrap_or_default();
        println!(
            "a one-field delta ({kind}) of a document with {FIELDS} fields: at most {largest} bytes (aim: under 100)"
        );
        let into = || base.clone();
        group.bench_function(BenchmarkId::new("delta", kind), |bencher| {
            let merge_all = |mut document: Document| {
                for delta in &deltas {
                    assert!(matches!(document.merge_delta(delta), Merged::New(_)));
                }
                document
            };
            bencher.iter_batched(into, merge_all, BatchSize::LargeInput);
        });
    }
    bare(&mut group);
    group.finish();
}

/// The same writes to the crate's types, each by itself in a map: no document, no order, no conflicts.
fn bare(group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>) {
    type Fields<T> = BTreeMap<String, T>;
    let place = |kind: &str, nth: usize| field(kind, nth * 7 % FIELDS);

    let mut registers: Fields<MVReg<String, u64>> = BTreeMap::new();
    let mut clock: VClock<u64> = VClock::new();
    let writes: Vec<_> = (0..FIELDS + BATCH)
        .map(|nth| {
            clock.apply(clock.inc(1));
            let name = if nth < FIELDS { field("register", nth) } else { place("register", nth - FIELDS) };
            let register = registers.entry(name.clone()).or_default();
            let mut context = register.read_ctx().derive_add_ctx(1);
            context.clock = clock.clone();
            let write = register.write(format!("value {nth}"), context);
            register.apply(write.clone());
            (name, write)
        })
        .collect();
    let base: Fields<MVReg<String, u64>> =
        writes[..FIELDS].iter().fold(BTreeMap::new(), |mut fields, (name, write)| {
            fields.entry(name.clone()).or_insert_with(MVReg::default).apply(write.clone());
            fields
        });
    group.bench_function("bare_crdts/register", |bencher| {
        let apply = |mut fields: Fields<MVReg<String, u64>>| {
            writes[FIELDS..]
                .iter()
                .for_each(|(name, write)| fields.entry(name.clone()).or_default().apply(write.clone()));
            fields
        };
        bencher.iter_batched(|| base.clone(), apply, BatchSize::LargeInput);
    });

    let mut counters: Fields<PNCounter<u64>> = BTreeMap::new();
    let writes: Vec<_> = (0..BATCH)
        .map(|nth| {
            let name = place("counter", nth);
            let counter = counters.entry(name.clone()).or_default();
            let write = counter.inc(1);
            counter.apply(write.clone());
            (name, write)
        })
        .collect();
    let base: Fields<PNCounter<u64>> = (0..FIELDS).map(|nth| (field("counter", nth), PNCounter::new())).collect();
    group.bench_function("bare_crdts/counter", |bencher| {
        let apply = |mut fields: Fields<PNCounter<u64>>| {
            writes.iter().for_each(|(name, write)| fields.entry(name.clone()).or_default().apply(write.clone()));
            fields
        };
        bencher.iter_batched(|| base.clone(), apply, BatchSize::LargeInput);
    });

    let mut sets: Fields<Orswot<String, u64>> = BTreeMap::new();
    let writes: Vec<_> = (0..BATCH)
        .map(|nth| {
            let name = place("set", nth);
            let set = sets.entry(name.clone()).or_default();
            let write = set.add(format!("m{}", nth % 10), set.read_ctx().derive_add_ctx(1));
            set.apply(write.clone());
            (name, write)
        })
        .collect();
    let base: Fields<Orswot<String, u64>> = (0..FIELDS).map(|nth| (field("set", nth), Orswot::new())).collect();
    group.bench_function("bare_crdts/set", |bencher| {
        let apply = |mut fields: Fields<Orswot<String, u64>>| {
            writes.iter().for_each(|(name, write)| fields.entry(name.clone()).or_default().apply(write.clone()));
            fields
        };
        bencher.iter_batched(|| base.clone(), apply, BatchSize::LargeInput);
    });
}

/// Two regions wrote every field. It must scale with the fields.
fn whole(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("whole");
    group.sample_size(20);
    for fields in [10, 100, 1_000] {
        group.throughput(Throughput::Elements(fields as u64));
        let [ours, theirs] = [1, 2].map(|replica| Writer::new(replica).filled("register", fields).document);
        group.bench_with_input(BenchmarkId::new("merge", fields), &theirs, |bencher, theirs| {
            let merge = |mut document: Document| {
                black_box(document.merge(theirs));
                document
            };
            bencher.iter_batched(|| ours.clone(), merge, BatchSize::LargeInput);
        });
        let [ours, theirs] = [1, 2].map(|replica| {
            let written = |nth: usize| {
                let mut register: MVReg<String, u64> = MVReg::default();
                let write = register.write(format!("value {nth}"), register.read_ctx().derive_add_ctx(replica));
                register.apply(write);
                (field("register", nth), register)
            };
            (0..fields).map(written).collect::<BTreeMap<_, _>>()
        });
        group.bench_with_input(BenchmarkId::new("bare_crdts", fields), &theirs, |bencher, theirs| {
            let merge = |mut fields: BTreeMap<String, MVReg<String, u64>>| {
                for (name, register) in theirs {
                    fields.entry(name.clone()).or_default().merge(register.clone());
                }
                fields
            };
            bencher.iter_batched(|| ours.clone(), merge, BatchSize::LargeInput);
        });
    }
    group.finish();
}

/// Requests to documents and events of the same size on one hub: what each costs beyond the other.
fn durable(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let directory = tempfile::tempdir().expect("a directory");
    let (hub, documents) = runtime.block_on(async {
        let (clock, entropy) = (Arc::new(SystemClock), Arc::new(Random::from_system()));
        let options = hub::Options {
            region: "r".to_owned(),
            retention: Duration::from_secs(86_400),
            log_retention: Duration::from_secs(3_600),
            log_bytes_max: 1 << 30,
            segment_bytes: 64 << 20,
        };
        let disk = Arc::new(LocalDisk::open(directory.path()).expect("a disk"));
        let (hub, writer) = EmbeddedHub::open(disk, clock.clone(), entropy.clone(), options).await.expect("a hub");
        let handle = tokio::runtime::Handle::current();
        std::thread::spawn(move || handle.block_on(writer.run()));
        let rows = LocalRows::open(directory.path()).expect("rows");
        let parts = Parts {
            home: "r".to_owned(),
            regions: hubweave::core::region::Members { regions: vec!["r".to_owned()], min_active: 1 },
            schemas: Schemas::from([("profile".to_owned(), schema())]),
            hub: Arc::new(hub.clone()),
            shelves: Shelves {
                home: Arc::new(rows),
                peers: BTreeMap::new(),
                options: Options::new(Duration::from_secs(86_400)),
            },
            members: Vec::new(),
            clock,
            entropy,
            metrics: Arc::new(Metrics::new("r", &[]).expect("metrics")),
        };
        let documents = LocalDocuments::start(parts, &TaskTracker::new(), &CancellationToken::new());
        (hub, documents)
    });
    let mut group = criterion.benchmark_group("durable");
    group.throughput(Throughput::Elements(WAITING as u64)).sample_size(20).measurement_time(Duration::from_secs(8));
    let mut number = 0u64;
    let increments: Vec<Vec<Op>> = (0..FIELDS).map(|nth| ops("counter", nth, 0)).collect();
    group.bench_function("requests", |bencher| {
        bencher.iter_custom(|times| {
            let began = Instant::now();
            for _ in 0..times {
                let requests = (0..WAITING).map(|nth| {
                    number += 1;
                    let key = Key::new("profile", &format!("u{}", number % 10_000));
                    documents.apply(key, increments[nth % FIELDS].clone(), Some(format!("r{number}")))
                });
                let requests: Vec<_> = requests.collect();
                runtime.block_on(join_all(requests)).into_iter().for_each(|done| {
                    done.expect("it is done");
                });
            }
            began.elapsed()
        });
    });
    group.bench_function("events", |bencher| {
        bencher.iter_custom(|times| {
            let began = Instant::now();
            for _ in 0..times {
                let events = (0..WAITING).map(|_| {
                    number += 1;
                    hub.publish(vec![event(number)])
                });
                let events: Vec<_> = events.collect();
                runtime.block_on(join_all(events)).into_iter().for_each(|done| drop(done.expect("it is taken")));
            }
            began.elapsed()
        });
    });
    group.finish();
}

/// About as large as the event of a delta.
fn event(number: u64) -> Draft {
    let detail = format!(r#"{{"type":"profile","id":"u{number}","delta":"{}"}}"#, "A".repeat(120));
    Draft {
        key: Some(number.to_string()),
        source: "app".to_owned(),
        detail_type: "Played".to_owned(),
        payload_hash: canonical_hash("app", "Played", &detail, &[]),
        detail,
        time: None,
        resources: Vec::new(),
        stamp_stripped: false,
        has_payload: false,
        trace: None,
    }
}

criterion_group! { name = benches; config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3)); targets = merge, whole, durable }
criterion_main!(benches);
