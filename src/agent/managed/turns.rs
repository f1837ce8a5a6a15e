//! Whose turn it is to do what one agent of a region does for all.
//!
//! As with the heartbeat nobody is elected: a shared value that stayed the same for an interval is anybody's to change, and
//! whoever succeeds does the work.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, timeout};

use super::CALL_TIMEOUT;
use crate::ports::shared::Shared;

pub struct Turns {
    shared: Arc<dyn Shared>,
    /// Names this agent.
    agent: String,
    seen: Mutex<BTreeMap<String, Seen>>,
}

/// A value as it was seen last.
#[derive(Clone, Copy)]
struct Seen {
    version: u64,
    since: Instant,
    /// This agent wrote it.
    ours: bool,
}

impl Turns {
    pub fn new(shared: Arc<dyn Shared>, agent: String) -> Turns {
        Turns { shared, agent, seen: Mutex::default() }
    }

    /// Whether nobody did `what` for about an `interval`, and it is this agent's to do. A table that does not answer is no
    /// reason not to.
    pub async fn is_ours(&self, what: &str, interval: Duration) -> bool {
        let Ok(Ok(values)) = timeout(CALL_TIMEOUT, self.shared.list()).await else { return true };
        let version = values.iter().find(|value| value.name == what).map_or(0, |value| value.version);
        if !self.is_anybodys(what, version, interval) {
            return false;
        }
        let changed = timeout(CALL_TIMEOUT, self.shared.change(what, &self.agent, version)).await;
        let ours = !matches!(changed, Ok(Ok(false)));
        self.see(what, version + 1, ours);
        ours
    }

    fn is_anybodys(&self, what: &str, version: u64, interval: Duration) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(what).copied();
        match seen {
            // Looks are apart by half an interval or more.
            Some(seen) if seen.version == version => seen.ours || seen.since.elapsed() >= interval / 4,
            None if version == 0 => true,
            _ => {
                self.see(what, version, false);
                false
            }
        }
    }

    fn see(&self, what: &str, version: u64, ours: bool) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert(what.to_owned(), Seen { version, since: Instant::now(), ours });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::managed::tests::MemoryShared;

    #[tokio::test(start_paused = true)]
    async fn one_of_the_agents_has_its_turn_and_another_takes_over_when_it_is_gone() {
        let shared: Arc<dyn Shared> = Arc::new(MemoryShared::default());
        let agents = ["a", "b"].map(|name| Turns::new(shared.clone(), name.to_owned()));
        let interval = Duration::from_secs(60);
        let mut turns = [0, 0];
        for _ in 0..20 {
            for (nth, agent) in agents.iter().enumerate() {
                turns[nth] += usize::from(agent.is_ours("x", interval).await);
                tokio::time::sleep(interval / 2).await;
            }
        }
        assert_eq!(turns, [20, 0]);
        assert!(agents[1].is_ours("x", interval).await, "nobody did it for a while");
        assert!(agents[1].is_ours("x", interval).await, "it goes on as long as there is work");
        assert!(!agents[0].is_ours("x", interval).await);
    }
}
