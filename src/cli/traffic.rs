//! Known events at a known rate: each has a key of its own and is sent again, under that key, until it is acknowledged.
//! Some of the traffic may be operations on documents: see [`state`].

pub mod state;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::{join_all, try_join_all};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::state::{Operated, States};
use super::{
    http::{self, Call, Http, Listener},
    publish::{self, Entry},
};
use crate::{
    api::put_events::ENTRIES_MAX,
    config::{Backend, Config},
    core::{backoff::Backoff, key::hex},
};

/// Requests on their way to one region at once; when it does not answer, no more are begun.
const IN_FLIGHT_MAX: usize = 256;
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
const BACKOFF: Backoff = Backoff { min: Duration::from_millis(50), max: Duration::from_secs(2) };
/// Requests a second and region that are worth filling up before batches grow.
const REQUESTS_PER_SECOND: f64 = 100.0;

/// What to publish.
#[derive(Clone, Debug)]
pub struct Plan {
    pub regions: Vec<Listener>,
    /// Events and operations on documents a second, over all regions.
    pub rate: u64,
    pub duration: Duration,
    /// Events are sent again for so long after the end.
    pub patience: Duration,
    pub source: String,
    pub detail_type: String,
    /// Starts every key; no other run may have it.
    pub run: String,
    pub pad: usize,
    pub payloads: Option<Payloads>,
    pub states: Option<States>,
}

/// Objects that some of the events refer to, in embedded regions.
#[derive(Clone, Debug)]
pub struct Payloads {
    /// JSON pointer of the reference, below `/detail`.
    pub pointer: String,
    /// Each of so many events has one.
    pub every: u64,
    pub bytes: usize,
}

impl Payloads {
    /// One of ten events where nothing else is said and the file says where references stand.
    pub fn of(config: &Config, every: Option<u64>, bytes: usize) -> Option<Payloads> {
        let pointer = config.claim_check.reference.first()?.clone();
        let every = every.unwrap_or(10);
        (every > 0).then_some(Payloads { pointer, every, bytes })
    }
}

/// The bucket of these objects.
pub const BUCKET: &str = "payloads";

/// An object that a region acknowledged.
#[derive(Clone, Debug)]
pub struct Payload {
    pub key: String,
    /// In hex.
    pub sha256: String,
}

/// An event that a region acknowledged.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    pub region: String,
    pub key: String,
    /// Of the detail text's bytes, as published.
    pub sha256: String,
    /// What it refers to.
    pub payload: Option<Payload>,
}

/// What is to be written down.
#[derive(Clone, Debug)]
pub enum Noted {
    Event(Acknowledged),
    State(Operated),
}

/// An event to be published.
struct Event {
    key: String,
    entry: Entry,
    payload: Option<Payload>,
    /// Whether its payload was acknowledged.
    is_put: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub sent: u64,
    pub acknowledged: u64,
    /// Times that an event was sent again.
    pub retried: u64,
    /// Never acknowledged; may be there all the same.
    pub failed: u64,
    /// What of `acknowledged` and `failed` is operations on documents.
    pub operated: u64,
    pub unanswered: u64,
    /// Acknowledged by another region than the one they were for.
    pub moved: u64,
    pub elapsed: Duration,
    /// One of the reasons for `retried` and `failed`.
    pub problem: Option<String>,
}

#[derive(Default)]
struct Counters {
    sent: AtomicU64,
    acknowledged: AtomicU64,
    retried: AtomicU64,
    failed: AtomicU64,
    operated: AtomicU64,
    unanswered: AtomicU64,
    moved: AtomicU64,
    problem: Mutex<Option<String>>,
}

impl Counters {
    fn count_retried(&self, events: usize) {
        self.retried.fetch_add(events as u64, Ordering::Relaxed);
    }

    fn count_operated(&self, moved: bool) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        self.operated.fetch_add(1, Ordering::Relaxed);
        self.moved.fetch_add(moved.into(), Ordering::Relaxed);
    }

    fn count_unanswered(&self) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
    }
}

/// One region's part.
struct Lane {
    http: Http,
    api: Listener,
    plan: Plan,
    events: u64,
    share: f64,
    acknowledged: mpsc::Sender<Noted>,
    counters: Arc<Counters>,
    stop: CancellationToken,
    began: Instant,
}

/// Publishes until the plan is done or `stop` is. What is acknowledged goes to `acknowledged`.
pub async fn run(http: &Http, plan: Plan, acknowledged: mpsc::Sender<Noted>, stop: CancellationToken) -> Summary {
    let counters = Arc::new(Counters::default());
    let began = Instant::now();
    let lanes = plan.regions.len().max(1) as u64;
    let total = (plan.rate as f64 * plan.duration.as_secs_f64()).round() as u64;
    let tasks = TaskTracker::new();
    for (index, api) in plan.regions.iter().enumerate() {
        let lane = Lane {
            http: http.clone(),
            api: api.clone(),
            plan: plan.clone(),
            events: total / lanes + u64::from((index as u64) < total % lanes),
            share: plan.rate as f64 / lanes as f64,
            acknowledged: acknowledged.clone(),
            counters: counters.clone(),
            stop: stop.clone(),
            began,
        };
        tasks.spawn(Arc::new(lane).run());
    }
    drop(acknowledged);
    tasks.close();
    tasks.wait().await;
    let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Summary {
        sent: number(&counters.sent),
        acknowledged: number(&counters.acknowledged),
        retried: number(&counters.retried),
        failed: number(&counters.failed),
        operated: number(&counters.operated),
        unanswered: number(&counters.unanswered),
        moved: number(&counters.moved),
        elapsed: began.elapsed(),
        problem: counters.problem.lock().ok().and_then(|problem| problem.clone()),
    }
}

impl Lane {
    async fn run(self: Arc<Self>) {
        let batch = ((self.share / REQUESTS_PER_SECOND).ceil() as u64).clamp(1, ENTRIES_MAX as u64);
        let permits = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        let tasks = TaskTracker::new();
        let end = self.began + self.plan.duration;
        let mut issued = 0;
        while issued < self.events && !self.stop.is_cancelled() {
            let next = (issued + batch).min(self.events);
            let due = self.began + Duration::from_secs_f64((next as f64 / self.share).min(1e9));
            let permit = tokio::select! {
                () = self.stop.cancelled() => break,
                permit = async {
                    tokio::time::sleep_until(due.min(end)).await;
                    permits.clone().acquire_owned().await
                } => permit,
            };
            // A region that took no more until after the end did not get the rest.
            if permit.is_err() || Instant::now() > end + Duration::from_secs(1) {
                break;
            }
            let is_state = |number: &u64| self.plan.states.as_ref().is_some_and(|states| states.is_one(*number));
            let (operations, events): (Vec<u64>, Vec<u64>) = (issued..next).partition(is_state);
            let events = events.into_iter().map(|number| self.event(number)).collect();
            self.counters.sent.fetch_add(next - issued, Ordering::Relaxed);
            issued = next;
            let lane = self.clone();
            tasks.spawn(async move {
                let states = lane.plan.states.iter();
                let operations =
                    states.flat_map(|states| operations.iter().map(|number| lane.operate(states, *number)));
                tokio::join!(lane.publish(events), join_all(operations));
                drop(permit);
            });
        }
        tasks.close();
        tasks.wait().await;
    }

    fn event(&self, number: u64) -> Event {
        let key = format!("{}-{}-{number}", self.plan.run, self.api.region);
        let mut detail = json!({
            "metadata": { "idempotencyKey": key },
            "n": number,
            "region": self.api.region,
            "pad": "x".repeat(self.plan.pad),
        });
        let payloads = self.plan.payloads.as_ref().filter(|payloads| number.is_multiple_of(payloads.every));
        let payload = payloads.filter(|_| self.api.backend == Backend::Embedded).map(|payloads| {
            let path = format!("{}/{}/{number}", self.plan.run, self.api.region);
            set(&mut detail, &payloads.pointer, json!(format!("s3://{BUCKET}/{path}")));
            Payload { sha256: hex(&Sha256::digest(body(&path, payloads.bytes))), key: path }
        });
        let (source, detail_type) = (self.plan.source.clone(), self.plan.detail_type.clone());
        let entry = Entry { source, detail_type, detail: detail.to_string() };
        Event { key, entry, is_put: payload.is_none(), payload }
    }

    /// Puts the payload of an event where it belongs before the event is published.
    async fn put_payload(&self, event: &mut Event) -> Result<(), http::Error> {
        if let (Some(payload), Some(payloads), false) = (&event.payload, &self.plan.payloads, event.is_put) {
            let bytes = body(&payload.key, payloads.bytes);
            let call = Call::put(format!("/{BUCKET}/{}", payload.key), bytes.into()).timeout(ATTEMPT_TIMEOUT);
            self.http.done(&self.api, call).await?;
            event.is_put = true;
        }
        Ok(())
    }

    async fn publish(&self, mut events: Vec<Event>) {
        let deadline = self.began + self.plan.duration + self.plan.patience;
        let mut failures = 0;
        while !events.is_empty() {
            let entries: Vec<Entry> = events.iter().map(|event| event.entry.clone()).collect();
            let answer = async {
                let puts: Result<Vec<()>, _> =
                    try_join_all(events.iter_mut().map(|event| self.put_payload(event))).await;
                puts?;
                publish::put_events(&self.http, &self.api, &entries, ATTEMPT_TIMEOUT).await
            };
            match answer.await {
                Ok(outcomes) => {
                    let mut again = Vec::new();
                    for (event, outcome) in events.into_iter().zip(outcomes) {
                        match outcome {
                            Ok(_) => self.acknowledge(event).await,
                            Err((code, message)) => {
                                let passing = publish::is_passing(&code);
                                self.note(format!("{}: {code}: {message}", self.api.region));
                                if passing { again.push(event) } else { self.fail(1) }
                            }
                        }
                    }
                    events = again;
                }
                Err(error) => {
                    self.note(error.to_string());
                    if !error.is_passing() {
                        return self.fail(events.len());
                    }
                }
            }
            if events.is_empty() {
                return;
            }
            failures += 1;
            let pause = BACKOFF.pause(failures, super::chance());
            let stopped = tokio::time::timeout(pause, self.stop.cancelled()).await.is_ok();
            if stopped || Instant::now() >= deadline {
                return self.fail(events.len());
            }
            self.counters.count_retried(events.len());
        }
    }

    async fn acknowledge(&self, event: Event) {
        let Event { key, entry, payload, .. } = event;
        let digest = Sha256::digest(entry.detail.as_bytes());
        let sha256 = hex(&digest);
        self.counters.acknowledged.fetch_add(1, Ordering::Relaxed);
        let acknowledged = Acknowledged { region: self.api.region.clone(), key, sha256, payload };
        // Whoever stopped listening knows why.
        let _ = self.acknowledged.send(Noted::Event(acknowledged)).await;
    }

    fn fail(&self, events: usize) {
        self.counters.failed.fetch_add(events as u64, Ordering::Relaxed);
    }

    fn note(&self, problem: String) {
        if let Ok(mut first) = self.counters.problem.lock() {
            first.get_or_insert(problem);
        }
    }
}

/// Bytes without a pattern, always the same for one name.
fn body(name: &str, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 32);
    let mut block = Sha256::digest(name.as_bytes());
    while bytes.len() < length {
        bytes.extend_from_slice(&block);
        block = Sha256::digest(block);
    }
    bytes.truncate(length);
    bytes
}

/// Puts a value to where a JSON pointer below `/detail` leads, through objects that are made.
fn set(detail: &mut Value, pointer: &str, value: Value) {
    let mut at = detail;
    for step in pointer.trim_start_matches("/detail").split('/').skip(1) {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[step.replace("~1", "/").replace("~0", "~")];
    }
    *at = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_put_to_where_its_pointer_leads() {
        let mut detail = json!({ "n": 1, "data": 2 });
        set(&mut detail, "/detail/claimCheck", json!("a"));
        set(&mut detail, "/detail/data/ref~1s", json!("b"));
        assert_eq!(detail, json!({ "n": 1, "claimCheck": "a", "data": { "ref/s": "b" } }));
        assert_eq!(body("x", 100).len(), 100);
        assert!(body("x", 100) != body("y", 100) && body("x", 100) == body("x", 100));
    }
}
