//! What an agent does for the regions all the time.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::time::Instant;

use super::super::{Agent, INTRODUCTION_WAIT};
use crate::ports::regions::{Answer, Error, Question};

/// How often a region that does not serve any more looks whether its log has come to its end.
const CLOSING_LOOK: Duration = Duration::from_millis(100);

impl Agent {
    /// Tells and hears what is decided of the regions, and does what follows from it.
    pub(in crate::agent) async fn mind_regions(self: Arc<Self>) {
        let minding = async {
            // A region that was evacuated while it was down must not send for users before it knows.
            let _ = tokio::time::timeout(INTRODUCTION_WAIT, self.regions.exchange()).await;
            self.regions.introduced();
            let interval = self.config.lock().unwrap_or_else(PoisonError::into_inner).heartbeat_interval(&self.region);
            let mut exchange = Instant::now() + interval;
            loop {
                let look = Instant::now() + CLOSING_LOOK;
                let until = if self.regions.is_closing() { exchange.min(look) } else { exchange };
                tokio::select! {
                    biased;
                    () = self.regions.changed.notified() => {}
                    () = tokio::time::sleep_until(until) => {}
                }
                self.regions.close(self.documents.as_ref()).await;
                if Instant::now() >= exchange {
                    exchange = Instant::now() + interval;
                    self.regions.exchange().await;
                    self.evacuate_suspects().await;
                }
            }
        };
        self.stop.run_until_cancelled(minding).await;
    }
}

impl crate::ports::regions::Regions for Agent {
    fn answer(&self, question: Question) -> BoxFuture<'_, Result<Answer, Error>> {
        self.answer_region(question).boxed()
    }
}
