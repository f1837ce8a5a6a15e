//! What an agent does for the regions all the time.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use super::{
    super::{Agent, INTRODUCTION_WAIT},
    failover::Commands,
};
use crate::ports::regions::{Answer, Error, Question};
use futures::{FutureExt, future::BoxFuture};

/// How often a region that does not serve any more looks whether its log has come to its end.
const CLOSING_LOOK: Duration = Duration::from_millis(100);

impl Agent {
    /// What operators ask for.
    pub fn commands(&self) -> Commands<'_> {
        Commands { regions: &self.regions, own: self }
    }

    /// Tells and hears what is decided of the regions, and does what follows from it.
    pub(in crate::agent) async fn mind_regions(self: Arc<Self>) {
        let minding = async {
            // A region that was evacuated while it was down must not send for users before it knows.
            let _ = tokio::time::timeout(INTRODUCTION_WAIT, self.regions.exchange()).await;
            self.regions.introduced();
            let interval = self.config.lock().unwrap_or_else(PoisonError::into_inner).heartbeat_interval(&self.region);
            // A region that does not answer must not hold up the closing of this one.
            futures::join!(self.close_when_told(interval), self.exchange_always(interval));
        };
        self.stop.run_until_cancelled(minding).await;
    }

    async fn close_when_told(&self, interval: Duration) {
        loop {
            let look = if self.regions.is_closing() { CLOSING_LOOK } else { interval };
            // Whether it was woken or not, it looks.
            let _ = tokio::time::timeout(look, self.regions.changed.notified()).await;
            self.regions.close(&*self.hub, self.documents.as_ref()).await;
        }
    }

    async fn exchange_always(&self, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            self.regions.exchange().await;
            self.commands().evacuate_suspects().await;
        }
    }
}

impl crate::ports::regions::Regions for Agent {
    fn answer(&self, question: Question) -> BoxFuture<'_, Result<Answer, Error>> {
        self.answer_region(question).boxed()
    }
}
