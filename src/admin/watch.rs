//! `GET /v1/watch`: all that the status page shows, each second, as server-sent events; with the last ten minutes of each link.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Extension,
    body::Body,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use futures::stream;
use serde_json::{Value, json};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::MayChange;
use crate::{
    api::{answer, listener::Connection},
    metrics::Metrics,
};

/// Between two pictures of one watcher.
const PERIOD: Duration = Duration::from_secs(1);
/// Between two points of the curves.
const POINT: Duration = Duration::from_secs(5);
/// Ten minutes.
const POINTS_MAX: usize = 120;
/// Watchers at a time; more are told to come again.
const WATCHERS_MAX: usize = 32;

/// What an agent shows of itself.
pub trait Watched: Send + Sync + 'static {
    /// `status` and `regions` (who serves users) as their own paths answer, and the list of `faults`.
    fn look(&self) -> Value;
    fn metrics(&self) -> &Metrics;
    fn history(&self) -> &Arc<History>;
}

/// The last ten minutes of each link.
pub struct History {
    kept: Mutex<Kept>,
    watchers: Arc<Semaphore>,
}

#[derive(Default)]
struct Kept {
    /// By peer, the oldest first.
    links: BTreeMap<String, VecDeque<Point>>,
    /// Deliveries and the sum of their lags when the last point was taken.
    before: BTreeMap<String, (u64, f64)>,
}

/// Seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Point {
    /// The mean of what was delivered since the last point; `None` where nothing was.
    lag: Option<f64>,
    /// The age of the oldest event that is not at the peer.
    exposure: f64,
}

impl Default for History {
    fn default() -> Self {
        History { kept: Mutex::default(), watchers: Arc::new(Semaphore::new(WATCHERS_MAX)) }
    }
}

impl History {
    fn take(&self, links: &Value, metrics: &Metrics) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for link in links.as_array().into_iter().flatten() {
            let Some(peer) = link["peer"].as_str() else { continue };
            let (count, sum) = metrics.delivered_so_far(peer);
            let (count_before, sum_before) = kept.before.insert(peer.to_owned(), (count, sum)).unwrap_or_default();
            let delivered = count.saturating_sub(count_before);
            let lag = (delivered > 0).then(|| (sum - sum_before).max(0.0) / delivered as f64);
            let exposure = link["rpo_exposure_seconds"].as_f64().unwrap_or_default();
            let points = kept.links.entry(peer.to_owned()).or_default();
            points.push_back(Point { lag, exposure });
            if points.len() > POINTS_MAX {
                points.pop_front();
            }
        }
    }

    fn shown(&self) -> Value {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let links: BTreeMap<&String, Value> = kept
            .links
            .iter()
            .map(|(peer, points)| {
                let (lag, exposure): (Vec<_>, Vec<_>) = points.iter().map(|point| (point.lag, point.exposure)).unzip();
                (peer, json!({ "lag_seconds": lag, "rpo_exposure_seconds": exposure }))
            })
            .collect();
        json!({ "every_seconds": POINT.as_secs(), "links": links })
    }
}

/// Takes the points of the curves until `stop`.
pub async fn keep_history(watched: Arc<impl Watched>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(POINT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => watched.history().take(&watched.look()["status"]["links"], watched.metrics()),
        }
    }
}

struct Watcher<W> {
    watched: Arc<W>,
    may_change: bool,
    /// When the next picture is due.
    next: Instant,
    shutdown: CancellationToken,
    _one_of_few: OwnedSemaphorePermit,
}

pub(super) async fn watch<W: Watched>(
    State(watched): State<Arc<W>>,
    Extension(connection): Extension<Arc<Connection>>,
    Extension(MayChange(may_change)): Extension<MayChange>,
) -> Response {
    let Ok(one_of_few) = watched.history().watchers.clone().try_acquire_owned() else {
        return answer::unavailable("too many watchers", PERIOD);
    };
    connection.lift_timeout();
    let shutdown = connection.shutdown().clone();
    let watcher = Watcher { watched, may_change, next: Instant::now(), shutdown, _one_of_few: one_of_few };
    let body = Body::from_stream(stream::unfold(watcher, Watcher::step));
    let mut response = answer::with_type(StatusCode::OK, "text/event-stream", body);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

impl<W: Watched> Watcher<W> {
    async fn step(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        tokio::select! {
            () = self.shutdown.cancelled() => return None,
            () = tokio::time::sleep_until(self.next) => {}
        }
        self.next = Instant::now() + PERIOD;
        let mut picture = self.watched.look();
        picture["may_change"] = json!(self.may_change);
        picture["history"] = self.watched.history().shown();
        Some((Ok(Bytes::from(format!("data: {picture}\n\n"))), self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::time::Timestamp;

    #[test]
    fn a_point_is_the_mean_of_what_was_delivered_since_the_last_one() {
        let metrics = Metrics::new("a", &["b".to_owned()]).unwrap();
        let (history, link) = (History::default(), metrics.link("b"));
        let links = json!([{ "peer": "b", "rpo_exposure_seconds": 1.5 }]);
        for lag in [2, 4] {
            link.observe_lag(false, Duration::from_secs(lag), None, Timestamp::default());
        }
        history.take(&links, &metrics);
        history.take(&links, &metrics);
        link.lag_heartbeat.observe(7.0);
        history.take(&links, &metrics);
        let shown = history.shown();
        assert_eq!(shown["links"]["b"]["lag_seconds"], json!([3.0, null, 7.0]));
        assert_eq!(shown["links"]["b"]["rpo_exposure_seconds"], json!([1.5, 1.5, 1.5]));
        for _ in 0..2 * POINTS_MAX {
            history.take(&links, &metrics);
        }
        assert_eq!(history.shown()["links"]["b"]["lag_seconds"].as_array().unwrap().len(), POINTS_MAX);
    }
}
