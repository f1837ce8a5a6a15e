//! One HTTP/1.1 server for all listeners, guarded against callers that are slow, idle, endless or too many.
//!
//! | a caller that | meets |
//! |---|---|
//! | connects when [`Options::connections_max`] are open | waits, while the one that was idle longest is closed |
//! | is idle, or sends its head slowly | [`Options::idle_timeout`], then the connection is closed |
//! | sends a body that does not end, or asks for what takes too long | [`Options::request_timeout`], then 408 |
//! | does not read its answer | [`Options::stall_timeout`], then the connection is closed |
//! | sends an endless head | 431 |
//!
//! A handler that means to take long (a stream, a long poll) says so with [`Connection::lift_timeout`], bounds how many
//! of its kind there are, and ends when [`Connection::shutdown`] is cancelled.

mod stall;

use std::{
    collections::HashMap,
    io,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Request, Response, StatusCode},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use super::answer;
use crate::config::{Address, Limits};
use stall::Stalling;

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 32 << 10;

/// Bytes that are read from a connection at once. An idle connection holds 8 KiB of it.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// A connection that was used more recently is not closed to make room for another.
const IDLE_MIN: Duration = Duration::from_secs(1);

/// How often room is looked for while all connections are taken.
const ROOM_INTERVAL: Duration = Duration::from_millis(50);

/// A pause after a failed accept: the process has no file descriptors left, and only time helps.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{option}: {address}: {}", plain(.source))]
pub struct Error {
    /// The option that gave the address.
    pub option: &'static str,
    pub address: Address,
    pub source: io::Error,
}

/// `Address already in use (os error 98)` reads `address already in use`.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(characters).collect()
}

/// What a listener puts up with.
#[derive(Clone, Debug)]
pub struct Options {
    pub connections_max: usize,
    /// From a request's head to its answer's.
    pub request_timeout: Duration,
    /// How long a connection may wait for the next complete head. Longer than a caller's pool keeps a connection, or
    /// callers meet a closed one.
    pub idle_timeout: Duration,
    /// How long a caller may accept not one byte of its answer.
    pub stall_timeout: Duration,
    /// How long what runs at shutdown may go on.
    pub drain_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options::from(&Limits::default())
    }
}

impl From<&Limits> for Options {
    fn from(limits: &Limits) -> Self {
        Options {
            connections_max: limits.max_connections,
            request_timeout: limits.request_timeout,
            idle_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// Opens a listener. `option` is what the error names.
///
/// # Errors
/// The address is in use, forbidden, or not of this host.
pub async fn bind(option: &'static str, address: &Address) -> Result<TcpListener, Error> {
    TcpListener::bind(address.to_string()).await.map_err(|source| Error { option, address: address.clone(), source })
}

/// Serves until `shutdown`, then accepts nothing more, lets what runs end within [`Options::drain_timeout`], and cuts
/// off the rest.
pub async fn serve(listener: TcpListener, router: Router, options: Options, shutdown: CancellationToken) {
    let tasks = TaskTracker::new();
    let cut_off = CancellationToken::new();
    let connections = Arc::new(Connections::default());
    let room = Arc::new(Semaphore::new(options.connections_max.clamp(1, Semaphore::MAX_PERMITS)));
    let accepting = async {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    connections.close_longest_idle();
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let permit = find_room(&room, &connections).await;
            let connection = connections.add(shutdown.clone());
            let served = serve_one(stream, router.clone(), options.clone(), connection.clone(), cut_off.clone());
            let connections = connections.clone();
            tasks.spawn(async move {
                // Dropped last, and also after a panic.
                let _left = Left { connections, id: connection.id, _permit: permit };
                served.await;
            });
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = accepting => {}
    }
    drop(listener);
    tasks.close();
    if timeout(options.drain_timeout, tasks.wait()).await.is_err() {
        tracing::warn!(connections = tasks.len(), "cut off what still ran at shutdown");
        cut_off.cancel();
        tasks.wait().await;
    }
}

async fn find_room(room: &Arc<Semaphore>, connections: &Connections) -> Option<OwnedSemaphorePermit> {
    loop {
        if let Ok(permit) = room.clone().try_acquire_owned() {
            return Some(permit);
        }
        connections.close_longest_idle();
        if let Ok(permit) = timeout(ROOM_INTERVAL, room.clone().acquire_owned()).await {
            // The semaphore is never closed.
            return permit.ok();
        }
    }
}

async fn serve_one(
    stream: TcpStream,
    router: Router,
    options: Options,
    connection: Arc<Connection>,
    cut_off: CancellationToken,
) {
    // Answers are small and awaited: waiting to fill a segment only delays them.
    let _ = stream.set_nodelay(true);
    let service = {
        let connection = connection.clone();
        service_fn(move |request| respond(router.clone(), request, connection.clone(), options.request_timeout))
    };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(options.idle_timeout)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(BUFFER_BYTES_MAX);
    let io = TokioIo::new(Stalling::new(stream, options.stall_timeout));
    let mut served = pin!(http.serve_connection(io, service));
    let mut closing = false;
    loop {
        tokio::select! {
            result = served.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a connection ended");
                }
                return;
            }
            () = connection.close.notified(), if !closing => {}
            () = connection.shutdown.cancelled(), if !closing => {}
            () = cut_off.cancelled() => return,
        }
        closing = true;
        served.as_mut().graceful_shutdown();
    }
}

/// Answers one request. An error makes hyper close the connection without an answer.
async fn respond(
    router: Router,
    mut request: Request<Incoming>,
    connection: Arc<Connection>,
    patience: Duration,
) -> Result<Response<Body>, CutOff> {
    connection.begin();
    request.extensions_mut().insert(connection.clone());
    let mut handled = pin!(router.oneshot(request));
    let response = match timeout(patience, handled.as_mut()).await {
        Ok(response) => response,
        Err(_) if connection.is_untimed() => handled.await,
        Err(_) => Ok(timed_out(patience)),
    };
    connection.end();
    let response = response.unwrap_or_else(|never| match never {});
    match response.extensions().get::<CutOff>() {
        Some(CutOff) => Err(CutOff),
        None => Ok(response),
    }
}

fn timed_out(patience: Duration) -> Response<Body> {
    let message = format!("not done within {} s", patience.as_secs_f64());
    let mut response = answer::error(StatusCode::REQUEST_TIMEOUT, &message);
    // What is left of the body will not be read, so nothing can follow it.
    answer::close_after(&mut response);
    response
}

/// An extension of a response that must not be sent: the connection is closed instead.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("cut off by an injected fault")]
pub struct CutOff;

/// The connection a request came over; an extension of the request. HTTP/1.1 has one request at a time on it.
#[derive(Debug)]
pub struct Connection {
    id: u64,
    opened: Instant,
    /// Milliseconds after `opened` when the last request was answered.
    used: AtomicU64,
    handling: AtomicBool,
    untimed: AtomicBool,
    /// It was asked to close.
    asked: AtomicBool,
    close: Notify,
    shutdown: CancellationToken,
}

impl Connection {
    /// Exempts the request from the time-out. Its handler bounds how many there are of such.
    pub fn lift_timeout(&self) {
        self.untimed.store(true, Ordering::Relaxed);
    }

    /// Cancelled when the listener shuts down.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    fn is_untimed(&self) -> bool {
        self.untimed.load(Ordering::Relaxed)
    }

    fn begin(&self) {
        self.untimed.store(false, Ordering::Relaxed);
        self.handling.store(true, Ordering::Relaxed);
    }

    fn end(&self) {
        let used = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.used.store(used, Ordering::Relaxed);
        self.handling.store(false, Ordering::Relaxed);
    }

    /// How long nothing was asked here; `None` while something is, and for streams.
    fn idle(&self) -> Option<Duration> {
        let busy = self.handling.load(Ordering::Relaxed) || self.is_untimed() || self.asked.load(Ordering::Relaxed);
        let used = Duration::from_millis(self.used.load(Ordering::Relaxed));
        (!busy).then(|| self.opened.elapsed().saturating_sub(used))
    }
}

/// The open connections of a listener.
#[derive(Debug, Default)]
struct Connections {
    ids: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Connection>>>,
}

impl Connections {
    fn add(&self, shutdown: CancellationToken) -> Arc<Connection> {
        let connection = Arc::new(Connection {
            id: self.ids.fetch_add(1, Ordering::Relaxed),
            opened: Instant::now(),
            used: AtomicU64::new(0),
            handling: AtomicBool::new(false),
            untimed: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            close: Notify::new(),
            shutdown,
        });
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(connection.id, connection.clone());
        connection
    }

    /// Asks the connection that was idle longest to close: gracefully, so that a request that is just arriving, or an
    /// answer that is still being written, is not lost.
    fn close_longest_idle(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = open.values().filter_map(|connection| Some((connection.idle()?, connection)));
        if let Some((_, connection)) = idle.filter(|(idle, _)| *idle >= IDLE_MIN).max_by_key(|(idle, _)| *idle) {
            connection.asked.store(true, Ordering::Relaxed);
            connection.close.notify_one();
        }
    }
}

struct Left {
    connections: Arc<Connections>,
    id: u64,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Left {
    fn drop(&mut self) {
        self.connections.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;
