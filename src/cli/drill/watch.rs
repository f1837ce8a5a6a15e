//! Looks at all regions while a drill runs. Each has tasks of its own, so one that does not answer holds up no other.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    cli::{
        Context,
        http::{Call, Listener},
    },
    drill::{
        measure::Measure,
        timeline::{Sample, Timeline, millis},
    },
};

const STATUS_EVERY: Duration = Duration::from_millis(200);
/// Somebody who takes longer gives no answer for this time.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);
const METRICS_EVERY: Duration = Duration::from_secs(1);
const METRICS_TIMEOUT: Duration = Duration::from_secs(1);

/// What was seen so far.
pub struct Watch {
    began: Instant,
    seen: Mutex<(Measure, Timeline)>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Watch {
    /// Begins, and returns when every region has been looked at once.
    pub async fn start(context: &Context, measure: Measure) -> Arc<Watch> {
        let watch = Arc::new(Watch {
            began: Instant::now(),
            seen: Mutex::new((measure, Timeline::default())),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let listeners = context.admins();
        futures::future::join_all(
            listeners.iter().map(|listener| watch.clone().count(context.clone(), listener.clone())),
        )
        .await;
        for listener in listeners {
            let statuses = watch.clone().every(STATUS_EVERY, context.clone(), listener.clone(), Watch::look);
            watch.tasks.spawn(statuses);
            let metrics = watch.clone().every(METRICS_EVERY, context.clone(), listener, Watch::count);
            watch.tasks.spawn(metrics);
        }
        watch.tasks.close();
        watch
    }

    /// Seconds since the beginning.
    pub fn now(&self) -> f64 {
        millis(self.began.elapsed().as_secs_f64())
    }

    /// Asks what was measured, or says what happens.
    pub fn with<T>(&self, f: impl FnOnce(&mut Measure) -> T) -> T {
        f(&mut self.lock().0)
    }

    /// Ends, and hands out the timeline.
    pub async fn stop(&self) -> Timeline {
        self.stop.cancel();
        self.tasks.wait().await;
        std::mem::take(&mut self.lock().1)
    }

    fn lock(&self) -> MutexGuard<'_, (Measure, Timeline)> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn every<F: Future<Output = ()>>(
        self: Arc<Self>,
        pause: Duration,
        context: Context,
        listener: Listener,
        look: impl Fn(Arc<Watch>, Context, Listener) -> F,
    ) {
        let mut ticks = tokio::time::interval(pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let looking = async {
            loop {
                ticks.tick().await;
                look(self.clone(), context.clone(), listener.clone()).await;
            }
        };
        tokio::select! {
            () = looking => {}
            () = self.stop.cancelled() => {}
        }
    }

    async fn look(self: Arc<Self>, context: Context, listener: Listener) {
        let call = Call::get("/v1/status").timeout(STATUS_TIMEOUT);
        let status: Result<Value, _> = context.http.json(&listener, call).await;
        let at = self.now();
        let sample = status.map_or_else(|_| Sample::silent(at), |status| Sample::of(&status, at));
        let mut seen = self.lock();
        seen.0.saw(&listener.region, &sample);
        seen.1.push(&listener.region, sample);
    }

    async fn count(self: Arc<Self>, context: Context, listener: Listener) {
        let call = Call::get("/metrics").timeout(METRICS_TIMEOUT);
        // What one look missed the next one has.
        if let Ok(text) = context.http.text(&listener, call).await {
            self.lock().0.counted(&listener.region, &text);
        }
    }
}
