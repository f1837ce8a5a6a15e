//! What counting costs beside the path that an event takes, and how long a scrape takes. `cargo bench --bench metrics`.
//!
//! The path is half of one: events are read and a hub on a disk takes them in, 256 at a time, each durable when it is answered; without HTTP,
//! links and the peer. Its cost is CPU time of the whole process, so waiting for the disk does not flatter the ratio.
//! Counting is all that an agent counts for an event on its whole way: taken in at home, delivered, applied at the peer.

#![expect(clippy::expect_used, reason = "a benchmark that cannot go on must stop")]

use std::{fs, hint::black_box, sync::Arc, time::Duration};

use futures::future::join_all;
use hubweave::{
    core::{event::Draft, ingress::Ingress, time::Timestamp},
    embedded::{
        disk::LocalDisk,
        hub::{self, EmbeddedHub},
        system::{Random, SystemClock},
    },
    metrics::{Metrics, otlp::Resource},
    ports::hub::Hub,
};
use tokio::time::Instant;

/// Events that wait for one answer each.
const WAITING: usize = 256;
const EVENTS: usize = 200_000;
const COUNTED: u32 = 5_000_000;
const SCRAPES: u32 = 500;
/// The kernel's unit of CPU time in `/proc`: 100 a second on every Linux that Rust runs on.
const TICK: Duration = Duration::from_millis(10);

fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    // The name, in brackets, may have blanks; user and system time are the 12th and 13th field after it.
    let rest = stat.rsplit_once(") ").expect("a name").1;
    let ticks = |nth: usize| rest.split(' ').nth(nth).and_then(|text| text.parse::<u32>().ok()).expect("a number");
    TICK * (ticks(11) + ticks(12))
}

fn per(time: Duration, of: u32) -> f64 {
    time.as_secs_f64() * 1e9 / f64::from(of)
}

fn counting(traced: bool) -> f64 {
    let (home, peer) = (metrics("a", &["b"]), metrics("b", &["a"]));
    let link = home.link("b");
    let applied = peer.applied.with_label_values(&["a"]);
    let trace = "5759e988bd862e3fe1be46a994272793".to_owned();
    let began = Instant::now();
    for number in 0..COUNTED {
        home.accepted.inc();
        link.delivered.inc();
        let lag = Duration::from_micros(u64::from(number % 20_000));
        link.observe_lag(false, black_box(lag), traced.then(|| trace.clone()), Timestamp(u64::from(number)));
        applied.inc_by(1);
    }
    per(began.elapsed(), COUNTED)
}

fn metrics(region: &str, peers: &[&str]) -> Metrics {
    let peers: Vec<String> = peers.iter().map(|peer| (*peer).to_owned()).collect();
    Metrics::new(region, &peers).expect("metrics")
}

fn event(number: usize) -> Draft {
    let detail = format!(r#"{{"idempotencyKey":"o{number}","note":"{}"}}"#, "A".repeat(980));
    let ingress = Ingress {
        key_pointers: vec!["/detail/idempotencyKey".to_owned()],
        reference_pointers: Vec::new(),
        max_entry_bytes: 1 << 20,
    };
    ingress.draft("shop", "Order", &detail, None, Vec::new()).expect("an event")
}

/// Nanoseconds of CPU for each event.
fn path() -> f64 {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let directory = tempfile::tempdir().expect("a folder");
    let hub = runtime.block_on(async {
        let options = hub::Options {
            region: "r".to_owned(),
            retention: Duration::from_secs(86_400),
            log_retention: Duration::from_secs(3_600),
            log_bytes_max: 1 << 30,
            segment_bytes: 64 << 20,
        };
        let disk = Arc::new(LocalDisk::open(directory.path()).expect("a disk"));
        let parts = (Arc::new(SystemClock), Arc::new(Random::from_system()));
        let (hub, writer) = EmbeddedHub::open(disk, parts.0, parts.1, options).await.expect("a hub");
        let handle = tokio::runtime::Handle::current();
        std::thread::spawn(move || handle.block_on(writer.run()));
        hub
    });
    let before = cpu();
    for group in 0..EVENTS / WAITING {
        let events = (0..WAITING).map(|nth| hub.publish(vec![event(group * WAITING + nth)]));
        let done = runtime.block_on(join_all(events.collect::<Vec<_>>()));
        done.into_iter().for_each(|done| drop(done.expect("it is taken")));
    }
    per(cpu() - before, (EVENTS / WAITING * WAITING) as u32)
}

/// Milliseconds for each of the three forms.
fn scrapes(peers: usize) -> [f64; 3] {
    let names: Vec<String> = (0..peers).map(|number| format!("region-{number}")).collect();
    let metrics = Metrics::new("home", &names).expect("metrics");
    for peer in &names {
        metrics.link(peer).observe_lag(false, Duration::from_millis(3), Some("5f".to_owned()), Timestamp::default());
    }
    let resource = Resource { region: "home".to_owned(), instance: "home".to_owned(), started: Timestamp::default() };
    let time = |form: &dyn Fn() -> String| {
        let began = Instant::now();
        (0..SCRAPES).for_each(|_| drop(black_box(form())));
        per(began.elapsed(), SCRAPES) / 1e6
    };
    [
        time(&|| metrics.text()),
        time(&|| metrics.open_metrics()),
        time(&|| metrics.otlp(&resource, Timestamp::default())),
    ]
}

fn main() {
    let (path, plain, traced) = (path(), counting(false), counting(true));
    println!(
        "one event: {path:.0} ns of CPU to take it in; counting its whole way {plain:.0} ns, {traced:.0} ns with a trace"
    );
    println!(
        "counting beside the path: {:.2} % (aim: 1 %), {:.2} % with a trace",
        100.0 * plain / path,
        100.0 * traced / path
    );
    for peers in [2, 9] {
        let [text, open, otlp] = scrapes(peers);
        println!(
            "{} regions: /metrics {text:.2} ms, OpenMetrics {open:.2} ms, OTLP {otlp:.2} ms (aim: 5 ms)",
            peers + 1
        );
    }
}
