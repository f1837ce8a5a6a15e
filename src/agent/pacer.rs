//! A link's own limits, by events and by bytes.
//!
//! governor decides, over tokio's clock (which a simulation can pause): its `until_ready` sleeps in real time, so it is
//! only asked, and the waiting is done here.

use std::{num::NonZeroU32, time::Duration};

use governor::{
    NotUntil, Quota, RateLimiter,
    clock::{Clock, Reference},
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};
use tokio::{sync::Mutex, time::Instant};

/// tokio's time since the pacer was made.
#[derive(Clone)]
struct TokioClock(Instant);

impl Clock for TokioClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(self.0.elapsed())
    }
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<Nanos>>;

/// Bytes are counted in units of this, so that a limit of gigabytes fits governor's 32 bits.
const BYTES_UNIT: u64 = 1024;

/// Cheap where nothing is limited.
pub struct Pacer {
    clock: TokioClock,
    events: Option<Limiter>,
    kibibytes: Option<Limiter>,
    /// Held while waiting, so that batches keep their order.
    turn: Mutex<()>,
}

impl Pacer {
    pub fn new(events_per_second: Option<u32>, bytes_per_second: Option<u64>) -> Self {
        let clock = TokioClock(Instant::now());
        let limiter = |per_second: u32| {
            let quota = Quota::per_second(NonZeroU32::new(per_second).unwrap_or(NonZeroU32::MIN));
            Limiter::direct_with_clock(quota, clock.clone())
        };
        let kibibytes = |bytes: u64| u32::try_from((bytes / BYTES_UNIT).max(1)).unwrap_or(u32::MAX);
        Self {
            events: events_per_second.map(limiter),
            kibibytes: bytes_per_second.map(kibibytes).map(limiter),
            clock: clock.clone(),
            turn: Mutex::new(()),
        }
    }

    /// Waits until a batch may go; answers how long that took.
    pub async fn admit(&self, events: usize, bytes: usize) -> Duration {
        if self.events.is_none() && self.kibibytes.is_none() {
            return Duration::ZERO;
        }
        let _turn = self.turn.lock().await;
        let start = Instant::now();
        for (limiter, amount) in [(&self.events, events as u64), (&self.kibibytes, bytes as u64 / BYTES_UNIT)] {
            if let Some(limiter) = limiter {
                self.take(limiter, amount).await;
            }
        }
        start.elapsed()
    }

    async fn take(&self, limiter: &Limiter, mut amount: u64) {
        // A batch may be larger than a second's worth: it is taken in parts.
        let mut part = amount.min(64);
        while amount > 0 {
            let Some(now) = u32::try_from(part.min(amount)).ok().and_then(NonZeroU32::new) else { return };
            match limiter.check_n(now) {
                Ok(Ok(())) => amount -= u64::from(now.get()),
                Ok(Err(not_until)) => tokio::time::sleep(self.wait(&not_until)).await,
                Err(_) => part = (part / 2).max(1),
            }
        }
    }

    fn wait(&self, not_until: &NotUntil<Nanos>) -> Duration {
        let now = self.clock.now();
        let wait: Duration = not_until.earliest_possible().duration_since(now).into();
        wait.max(Duration::from_millis(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_limit_holds_over_time_also_for_batches_larger_than_a_second_of_it() {
        let pacer = Pacer::new(Some(100), None);
        let start = Instant::now();
        for _ in 0..3 {
            pacer.admit(250, 0).await;
        }
        let seconds = start.elapsed().as_secs_f64();
        // The first 100 are the burst that a token bucket grants.
        assert!((6.0..7.6).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_are_limited_too_and_no_limit_costs_nothing() {
        let pacer = Pacer::new(None, Some(1 << 20));
        let start = Instant::now();
        pacer.admit(1, 3 << 20).await;
        assert!((1.8..2.2).contains(&start.elapsed().as_secs_f64()));
        assert_eq!(Pacer::new(None, None).admit(1_000_000, 1 << 30).await, Duration::ZERO);
    }
}
