//! Reading the hub: pages, long polls, and streams of server-sent events.
//!
//! A caller with a pattern that hardly anything matches would have the whole log read for one answer. So reading goes
//! in chunks that let others run in between, and stops after [`SCAN_TIME`]: an empty page with `"more": true` says that
//! it is not the end.

use std::{
    borrow::Cow,
    convert::Infallible,
    sync::{Arc, PoisonError},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Query, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use futures::stream;
use serde::Deserialize;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{Api, answer, listener::Connection};
use crate::{
    core::{
        event::{EMBEDDED_ACCOUNT, Record},
        journal::{Head, Mark},
        json,
        pattern::{EventView, Pattern},
        position::{Incarnation, Lives},
    },
    ports::hub::{Hub, ReadError, Reader},
};

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1_000;
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Bytes of envelopes in one page; one event may be larger.
const PAGE_BYTES_MAX: usize = 4 << 20;

/// How long one request may look for events that match. Well below the time-out of requests, or none would get on.
const SCAN_TIME: Duration = Duration::from_secs(10);

/// Records and bytes that are looked at between two yields.
const CHUNK_EVENTS: usize = 512;
const CHUNK_BYTES: usize = 1 << 20;

/// What a stream holds ready at most.
const STREAM_EVENTS: usize = 256;
const STREAM_BYTES: usize = 256 << 10;

/// A stream that says nothing for longer looks dead to proxies.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// `GET /v1/events`.
pub async fn read(State(api): State<Arc<Api>>, request: Request) -> Response {
    let streams =
        request.headers().get_all(header::ACCEPT).iter().any(|accept| {
            accept.to_str().is_ok_and(|accept| accept.to_ascii_lowercase().contains("text/event-stream"))
        });
    let wanted = match Wanted::of(&request, streams) {
        Ok(wanted) => wanted,
        Err(why) => return answer::error(StatusCode::BAD_REQUEST, &why),
    };
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    match streams {
        true => open_stream(&api, wanted, connection.as_deref()),
        false => poll(&api, wanted, connection.as_deref()).await,
    }
}

#[derive(Default, Deserialize)]
struct Parameters {
    from: Option<String>,
    limit: Option<String>,
    wait: Option<String>,
    pattern: Option<String>,
}

#[derive(Clone, Copy)]
enum From {
    Start,
    Now,
    Offset(u64),
}

/// What a request asks for, checked.
struct Wanted {
    from: From,
    limit: usize,
    wait: Duration,
    pattern: Pattern,
}

impl Wanted {
    fn of(request: &Request, streams: bool) -> Result<Wanted, String> {
        let Query(parameters) =
            Query::<Parameters>::try_from_uri(request.uri()).map_err(|error| format!("the query: {error}"))?;
        let from = match parameters.from.as_deref() {
            None | Some("start") => From::Start,
            Some("now") => From::Now,
            Some(text) => From::Offset(offset("from", text)?),
        };
        let from = match last_event_id(request.headers()) {
            Some(id) if streams => From::Offset(offset("Last-Event-ID", id)?),
            _ => from,
        };
        let limit = match parameters.limit.as_deref() {
            None => LIMIT_DEFAULT,
            Some(text) => {
                let limit: u64 = text.parse().map_err(|_| format!("limit: {text}: expected a number"))?;
                usize::try_from(limit).unwrap_or(LIMIT_MAX).clamp(1, LIMIT_MAX)
            }
        };
        let wait = match parameters.wait.as_deref() {
            None => Duration::ZERO,
            Some(text) => {
                let seconds = text.parse().ok().filter(|seconds: &f64| *seconds >= 0.0);
                let seconds = seconds.ok_or_else(|| format!("wait: {text}: expected seconds"))?;
                Duration::try_from_secs_f64(seconds).map_or(WAIT_MAX, |wait| wait.min(WAIT_MAX))
            }
        };
        let pattern = match parameters.pattern.as_deref() {
            None => Pattern::everything(),
            Some(text) => {
                let json = serde_json::from_str(text).map_err(|error| format!("pattern: no JSON: {error}"))?;
                Pattern::parse(&json).map_err(|error| format!("pattern: {error}"))?
            }
        };
        Ok(Wanted { from, limit, wait, pattern })
    }
}

fn last_event_id(headers: &HeaderMap) -> Option<&str> {
    headers.get("last-event-id")?.to_str().ok().filter(|id| !id.is_empty())
}

fn offset(what: &str, text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{what}: {text}: expected `start`, `now` or an offset"))
}

/// A place in the hub, and what is wanted from there on.
struct Cursor {
    hub: Arc<dyn Hub>,
    reader: Box<dyn Reader>,
    region: String,
    pattern: Pattern,
    /// The offset to look at next.
    next: u64,
    /// Nothing was read yet, and wherever the log begins will do.
    anywhere: bool,
}

#[derive(Default)]
struct Page {
    events: Vec<Found>,
    /// The scan stopped before the end of the log without an event.
    more: bool,
}

struct Found {
    offset: u64,
    envelope: String,
    /// The header of the event's trace.
    trace: Option<String>,
}

impl Cursor {
    fn open(api: &Api, from: From, pattern: Pattern, head: u64) -> Result<Cursor, ReadError> {
        let hub = api.options.hub.clone();
        let base = hub.base();
        let next = match from {
            From::Start => base + 1,
            From::Now => head + 1,
            // Offsets begin at 1.
            From::Offset(offset) => offset.max(1),
        };
        if next <= base {
            return Err(ReadError::Dropped { base, mark: Mark::default() });
        }
        let reader = hub.reader(next - 1);
        let region = api.options.region.clone();
        Ok(Cursor { hub, reader, region, pattern, next, anywhere: matches!(from, From::Start) })
    }

    /// What there is up to the head, within bounds. Empty at the end.
    async fn page(&mut self, head: u64, events_max: usize, bytes_max: usize) -> Result<Page, ReadError> {
        let mut page = Page::default();
        let mut bytes = 0;
        let until = Instant::now() + SCAN_TIME;
        // An offset beyond the head may be asked for: the hub will get there.
        while page.events.len() < events_max && self.next <= head {
            if page.events.is_empty() && Instant::now() >= until {
                page.more = true;
                break;
            }
            let wanted = if self.pattern.is_everything() { events_max - page.events.len() } else { CHUNK_EVENTS };
            let records = match self.reader.next(wanted.min(CHUNK_EVENTS), CHUNK_BYTES).await {
                Ok(records) => records,
                Err(ReadError::Dropped { base, .. }) if self.anywhere => {
                    self.next = base + 1;
                    self.reader.seek(base);
                    continue;
                }
                // What was found is worth an answer; the next request meets the error.
                Err(_) if !page.events.is_empty() => break,
                Err(error) => return Err(error),
            };
            if records.is_empty() {
                break;
            }
            self.anywhere = false;
            let lives = self.lives();
            for record in &records {
                let incarnation = lives.at(record.header.offset).unwrap_or_default();
                if self.matches(record, incarnation) {
                    let envelope = record.envelope_json(&self.region, incarnation);
                    bytes += envelope.len();
                    if bytes > bytes_max && !page.events.is_empty() {
                        self.reader.seek(self.next - 1);
                        return Ok(page);
                    }
                    page.events.push(Found {
                        offset: record.header.offset,
                        envelope,
                        trace: record.trace().map(str::to_owned),
                    });
                }
                self.next = record.header.offset + 1;
                if page.events.len() == events_max {
                    self.reader.seek(self.next - 1);
                    return Ok(page);
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(page)
    }

    fn lives(&self) -> Lives {
        // A copy, because the hub's writer waits for whoever holds the state.
        self.hub.state().read().unwrap_or_else(PoisonError::into_inner).lives.clone()
    }

    fn matches(&self, record: &Record, incarnation: Incarnation) -> bool {
        if self.pattern.is_everything() {
            return true;
        }
        let resources: Vec<String> = match record.resources_json() {
            "[]" => Vec::new(),
            text => serde_json::from_str(text).unwrap_or_default(),
        };
        let detail = match record.header.is_remote() {
            true => Cow::Owned(record.detail_json()),
            false => Cow::Borrowed(record.detail()),
        };
        self.pattern.matches_view(&EventView {
            source: record.source(),
            detail_type: record.detail_type(),
            account: EMBEDDED_ACCOUNT,
            region: &self.region,
            time: record.header.time,
            id: &record.id(incarnation).to_string(),
            resources: &resources,
            detail: &detail,
        })
    }
}

fn unreadable(error: &ReadError) -> Response {
    match error {
        ReadError::Dropped { base, .. } => {
            let first = base + 1;
            let error = format!("events before offset {first} are no longer in the log");
            answer::json(StatusCode::GONE, &serde_json::json!({ "error": error, "first": first }))
        }
        ReadError::Failed(_) => answer::error(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

impl Api {
    /// Room for one more request that waits, which the listener is told not to end.
    fn start_waiting(&self, connection: Option<&Connection>) -> Option<OwnedSemaphorePermit> {
        let permit = self.waiting.clone().try_acquire_owned().ok()?;
        connection.inspect(|connection| connection.lift_timeout());
        Some(permit)
    }
}

fn crowded() -> Response {
    answer::unavailable("too many streams and long polls are open", Duration::from_secs(1))
}

fn shutdown_of(connection: Option<&Connection>) -> CancellationToken {
    connection.map(|connection| connection.shutdown().clone()).unwrap_or_default()
}

async fn poll(api: &Api, wanted: Wanted, connection: Option<&Connection>) -> Response {
    let deadline = Instant::now() + wanted.wait;
    let shutdown = shutdown_of(connection);
    let mut waiting = None;
    let mut head = api.options.hub.head();
    let mut durable = head.borrow_and_update().offset;
    let mut cursor = match Cursor::open(api, wanted.from, wanted.pattern, durable) {
        Ok(cursor) => cursor,
        Err(error) => return unreadable(&error),
    };
    loop {
        let page = match cursor.page(durable, wanted.limit, PAGE_BYTES_MAX).await {
            Ok(page) => page,
            Err(error) => return unreadable(&error),
        };
        if !page.events.is_empty() || page.more || Instant::now() >= deadline {
            return page_json(&page, cursor.next);
        }
        if waiting.is_none() {
            waiting = api.start_waiting(connection);
            if waiting.is_none() {
                return crowded();
            }
        }
        tokio::select! {
            Ok(()) = head.changed() => durable = head.borrow_and_update().offset,
            () = sleep_until(deadline) => return page_json(&page, cursor.next),
            () = shutdown.cancelled() => return page_json(&page, cursor.next),
        }
    }
}

fn page_json(page: &Page, next: u64) -> Response {
    let size: usize = page.events.iter().map(|found| found.envelope.len() + 48).sum();
    let mut out = String::with_capacity(size + 64);
    out.push_str("{\"events\":[");
    for (index, found) in page.events.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        found.push_json(&mut out);
    }
    out.push_str("],\"next\":");
    out.push_str(&next.to_string());
    if page.more {
        out.push_str(",\"more\":true");
    }
    out.push('}');
    answer::with_type(StatusCode::OK, "application/json", out.into())
}

impl Found {
    fn push_json(&self, out: &mut String) {
        out.push_str("{\"offset\":");
        out.push_str(&self.offset.to_string());
        out.push_str(",\"envelope\":");
        // As it is: what a producer wrote is not spelled anew.
        out.push_str(&self.envelope);
        if let Some(trace) = &self.trace {
            out.push_str(",\"trace\":");
            out.push_str(&json::quote(trace));
        }
        out.push('}');
    }

    fn push_server_sent(&self, out: &mut String) {
        out.push_str("id: ");
        out.push_str(&(self.offset + 1).to_string());
        let mut json = String::with_capacity(self.envelope.len() + 48);
        self.push_json(&mut json);
        // A producer's JSON may have line breaks (between tokens only), and each line needs its field name.
        for line in json.split(['\n', '\r']) {
            out.push_str("\ndata: ");
            out.push_str(line);
        }
        out.push_str("\n\n");
    }
}

/// A stream's state. It is asked for more only when the connection has taken what it gave before.
struct Stream {
    cursor: Cursor,
    head: watch::Receiver<Head>,
    shutdown: CancellationToken,
    failed: bool,
    _waiting: OwnedSemaphorePermit,
}

fn open_stream(api: &Api, wanted: Wanted, connection: Option<&Connection>) -> Response {
    let Some(waiting) = api.start_waiting(connection) else { return crowded() };
    let head = api.options.hub.head();
    let durable = head.borrow().offset;
    let cursor = match Cursor::open(api, wanted.from, wanted.pattern, durable) {
        Ok(cursor) => cursor,
        Err(error) => return unreadable(&error),
    };
    let stream = Stream { cursor, head, shutdown: shutdown_of(connection), failed: false, _waiting: waiting };
    let body = Body::from_stream(stream::unfold(stream, Stream::step));
    let mut response = answer::with_type(StatusCode::OK, "text/event-stream", body);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

impl Stream {
    async fn step(mut self) -> Option<(Result<Bytes, Infallible>, Stream)> {
        let text = if self.failed { None } else { self.next().await };
        text.map(|text| (Ok(Bytes::from(text)), self))
    }

    async fn next(&mut self) -> Option<String> {
        const COMMENT: &str = ": keep-alive\n\n";
        let silent_until = Instant::now() + KEEP_ALIVE;
        while !self.shutdown.is_cancelled() {
            let durable = self.head.borrow_and_update().offset;
            match self.cursor.page(durable, STREAM_EVENTS, STREAM_BYTES).await {
                Ok(page) if page.more => return Some(COMMENT.to_owned()),
                Ok(page) if page.events.is_empty() => {}
                Ok(page) => {
                    let mut text = String::new();
                    page.events.iter().for_each(|found| found.push_server_sent(&mut text));
                    return Some(text);
                }
                Err(error) => {
                    self.failed = true;
                    let first = match &error {
                        ReadError::Dropped { base, .. } => Some(base + 1),
                        ReadError::Failed(_) => None,
                    };
                    let data = serde_json::json!({ "error": error.to_string(), "first": first });
                    return Some(format!("event: error\ndata: {data}\n\n"));
                }
            }
            tokio::select! {
                () = self.shutdown.cancelled() => {}
                changed = self.head.changed() => changed.ok()?,
                () = sleep_until(silent_until) => return Some(COMMENT.to_owned()),
            }
        }
        None
    }
}
