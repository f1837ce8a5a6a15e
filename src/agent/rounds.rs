//! Rounds of receiving from a queue and dealing with what came, as many at once as there is work for.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    core::{backoff::Backoff, link::Failure},
    ports::{clock::Entropy, queue},
};

/// The longest pause that a queue may ask of us.
const ASKED_MAX: Duration = Duration::from_secs(60);

/// Ends a call that does not end by itself. What became of it is not known then.
pub async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result,
        Err(_) => Err(Failure::Unanswered(format!("no answer within {limit:?}"))),
    }
}

/// Runs rounds until `stop`. A round answers how many messages it received: one round at a time waits at a queue that is
/// empty, up to `rounds_max` work on one that is full.
pub async fn run<'a>(
    what: &'static str,
    rounds_max: usize,
    backoff: Backoff,
    entropy: Arc<dyn Entropy>,
    stop: CancellationToken,
    round: impl Fn() -> BoxFuture<'a, Result<usize, Failure>>,
) {
    let mut rounds = FuturesUnordered::new();
    let mut wanted = 1;
    let mut failures = 0;
    let mut retry_at = Instant::now();
    loop {
        while rounds.len() < wanted && Instant::now() >= retry_at {
            rounds.push(round());
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(done) = rounds.next() => match done {
                Ok(received) => {
                    failures = 0;
                    let full = received >= queue::CALL_MESSAGES_MAX;
                    wanted = if full { (wanted + 1).min(rounds_max.max(1)) } else { 1 };
                }
                Err(failure) => {
                    failures += 1;
                    wanted = 1;
                    let asked = if let Failure::Throttled { after } = &failure { *after } else { Duration::ZERO };
                    let pause = backoff.pause(failures, entropy.next_f64());
                    retry_at = Instant::now() + pause.max(asked.min(ASKED_MAX));
                    tracing::warn!(what, %failure, "messages wait, as a call failed");
                }
            },
            () = tokio::time::sleep_until(retry_at), if rounds.len() < wanted => {}
        }
    }
}
