//! The least that brings events from a queue to a bus: receive, put, delete. No ledger, no stamp of its own that anybody
//! checks, no retry; what goes wrong ends the benchmark.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_sdk_eventbridge::{self as eventbridge, config::Credentials, types::PutEventsRequestEntry};
use aws_sdk_sqs::{
    self as sqs,
    types::{DeleteMessageBatchRequestEntry, Message, QueueAttributeName},
};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};
use aws_smithy_types::{retry::RetryConfig, timeout::TimeoutConfig};
use futures::{StreamExt, stream};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
};

use crate::emulators::Emulators;

const BATCH: usize = 10;

/// Of one event's detail.
const DETAIL_BYTES: usize = 1_024;

/// One region's services, called as the agent's clients are set up: no retries by the SDK, the same HTTP and TLS.
#[derive(Clone)]
pub struct Services {
    events: eventbridge::Client,
    sqs: sqs::Client,
}

impl Services {
    pub fn of(region: &'static str, emulators: &Emulators) -> Services {
        let http = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let credentials = Credentials::new("test", "test", None, None, "bench");
        let time_outs = TimeoutConfig::builder().operation_attempt_timeout(Duration::from_secs(30)).build();
        let url = emulators.url();
        let events = eventbridge::Config::builder()
            .behavior_version(eventbridge::config::BehaviorVersion::v2026_01_12())
            .region(eventbridge::config::Region::new(region))
            .credentials_provider(credentials.clone())
            .endpoint_url(&url)
            .http_client(http.clone())
            .timeout_config(time_outs.clone())
            .retry_config(RetryConfig::disabled());
        let sqs = sqs::Config::builder()
            .behavior_version(sqs::config::BehaviorVersion::v2026_01_12())
            .region(sqs::config::Region::new(region))
            .credentials_provider(credentials)
            .endpoint_url(&url)
            .http_client(http)
            .timeout_config(time_outs)
            .retry_config(RetryConfig::disabled());
        Services { events: eventbridge::Client::from_conf(events.build()), sqs: sqs::Client::from_conf(sqs.build()) }
    }

    /// Publishes events, each with a key of its own, ten in a call.
    pub async fn publish(&self, hub: String, events: usize, calls: usize) {
        let batches = (0..events).step_by(BATCH).map(|first| first..(first + BATCH).min(events));
        let put = |numbers: std::ops::Range<usize>| {
            let entries = numbers.map(|number| entry(&hub, "bench.orders", "order.created", detail(number)));
            put(&self.events, entries.collect())
        };
        stream::iter(batches).map(put).buffer_unordered(calls).collect::<()>().await;
    }

    /// Messages of a queue, hidden ones as well.
    pub async fn depth(&self, queue: &str) -> usize {
        use QueueAttributeName::{ApproximateNumberOfMessages, ApproximateNumberOfMessagesNotVisible};
        let names = vec![ApproximateNumberOfMessages, ApproximateNumberOfMessagesNotVisible];
        let asked = self.sqs.get_queue_attributes().queue_url(self.url(queue).await).set_attribute_names(Some(names));
        let told = asked.send().await.expect("a queue that is there");
        told.attributes.into_iter().flatten().map(|(_, number)| number.parse::<usize>().expect("a number")).sum()
    }

    async fn url(&self, queue: &str) -> String {
        let found = self.sqs.get_queue_url().queue_name(queue).send().await.expect("a queue that is there");
        found.queue_url.expect("its address")
    }
}

/// An order as JSON of a fixed size.
fn detail(number: usize) -> String {
    let mut detail = format!(
        "{{\"metadata\":{{\"idempotencyKey\":\"e-{number:09}\"}},\"orderId\":\"o-{number:09}\",\"customer\":{{\"id\":\
         \"c-{:05}\",\"country\":\"DE\"}},\"lines\":[{{\"sku\":\"A-{:04}\",\"quantity\":{},\"cents\":1995}}],\"note\":\"",
        number % 99_991,
        number % 9_973,
        number % 7 + 1
    );
    let note = "delivered to the neighbour if nobody is at home; please ring twice. ";
    let room = DETAIL_BYTES - detail.len() - 2;
    detail.extend(note.chars().cycle().take(room));
    detail + "\"}"
}

fn entry(hub: &str, source: &str, detail_type: &str, detail: String) -> PutEventsRequestEntry {
    let entry = PutEventsRequestEntry::builder().event_bus_name(hub).source(source).detail_type(detail_type);
    entry.detail(detail).build()
}

async fn put(events: &eventbridge::Client, entries: Vec<PutEventsRequestEntry>) {
    let answer = events.put_events().set_entries(Some(entries)).send().await.expect("a put is answered");
    assert_eq!(answer.failed_entry_count(), 0, "{answer:?}");
}

#[derive(Deserialize)]
struct Envelope<'a> {
    source: &'a str,
    #[serde(rename = "detail-type")]
    detail_type: &'a str,
    #[serde(borrow)]
    detail: &'a RawValue,
}

/// The event as the peer's bus gets it. A mark in the place of the stamp keeps it out of the peer's feeds, as a stamp does.
fn forwarded(hub: &str, message: &Message) -> PutEventsRequestEntry {
    let envelope: Envelope = serde_json::from_str(message.body().expect("a body")).expect("an envelope");
    let rest = envelope.detail.get().strip_prefix('{').expect("an object");
    let detail = format!("{{\"hubweave\":{{\"origin\":\"{}\"}},{rest}", crate::HOME);
    entry(hub, envelope.source, envelope.detail_type, detail)
}

/// Some receivers, and behind them as many puts and deletes at once as the agent makes.
pub struct Forwarding {
    done: Arc<AtomicUsize>,
    tasks: JoinSet<()>,
}

impl Forwarding {
    pub fn start(
        home: Services,
        feed: String,
        peer: Services,
        hub: String,
        receives: usize,
        calls: usize,
    ) -> Forwarding {
        let done = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let (received, to_put) = mpsc::channel::<Vec<Message>>(receives);
        let (placed, to_delete) = mpsc::channel::<Vec<Message>>(receives);
        let (to_put, to_delete) = (Arc::new(Mutex::new(to_put)), Arc::new(Mutex::new(to_delete)));
        for _ in 0..receives {
            let (home, feed, received) = (home.clone(), feed.clone(), received.clone());
            tasks.spawn(async move {
                let url = home.url(&feed).await;
                loop {
                    let asked = home.sqs.receive_message().queue_url(&url).max_number_of_messages(BATCH as i32);
                    let asked = asked.wait_time_seconds(20).visibility_timeout(60);
                    let answer = asked.send().await.expect("a receive is answered");
                    let messages = answer.messages.unwrap_or_default();
                    if !messages.is_empty() && received.send(messages).await.is_err() {
                        return;
                    }
                }
            });
        }
        for _ in 0..calls {
            let (to_put, placed, done) = (to_put.clone(), placed.clone(), done.clone());
            let (peer, hub) = (peer.clone(), hub.clone());
            tasks.spawn(async move {
                while let Some(messages) = next(&to_put).await {
                    put(&peer.events, messages.iter().map(|message| forwarded(&hub, message)).collect()).await;
                    done.fetch_add(messages.len(), Ordering::Relaxed);
                    if placed.send(messages).await.is_err() {
                        return;
                    }
                }
            });
            let (home, feed, to_delete) = (home.clone(), feed.clone(), to_delete.clone());
            tasks.spawn(async move {
                let url = home.url(&feed).await;
                while let Some(messages) = next(&to_delete).await {
                    delete(&home.sqs, &url, &messages).await;
                }
            });
        }
        Forwarding { done, tasks }
    }

    /// Events that are on the peer's bus.
    pub fn count(&mut self) -> usize {
        if let Some(ended) = self.tasks.try_join_next() {
            panic!("a part of the loop ended: {ended:?}");
        }
        self.done.load(Ordering::Relaxed)
    }

    pub fn stop(mut self) {
        self.tasks.abort_all();
    }
}

async fn next(queue: &Mutex<mpsc::Receiver<Vec<Message>>>) -> Option<Vec<Message>> {
    queue.lock().await.recv().await
}

async fn delete(sqs: &sqs::Client, url: &str, messages: &[Message]) {
    let entry = |(index, message): (usize, &Message)| {
        let receipt = message.receipt_handle().expect("a receipt");
        let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string()).receipt_handle(receipt);
        entry.build().expect("an entry")
    };
    let entries = messages.iter().enumerate().map(entry).collect();
    let answer = sqs.delete_message_batch().queue_url(url).set_entries(Some(entries)).send().await;
    assert!(answer.expect("a delete is answered").failed.is_empty(), "everything is deleted");
}
