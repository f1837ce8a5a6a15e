//! An event bus of EventBridge.
//!
//! EventBridge may answer a put to a bus that is not there as if all were well, and the events are gone. So the bus is
//! looked for before it is published on, and again from time to time.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_sdk_eventbridge::{
    primitives::DateTime,
    types::{PutEventsRequestEntry, PutEventsResultEntry},
};
use futures::{FutureExt, future::BoxFuture};
use tokio::time::Instant;

use super::{
    Clients, failure,
    failure::{is_denial, of_code},
};
use crate::{
    core::link::Failure,
    ports::bus::{Bus, Entry, Put},
};

/// How long a bus that was seen is taken to be there. Longer saves calls, which cost nothing and have a quota of their own;
/// a bus that is removed under a running agent loses what is put meanwhile.
const SEEN_FOR: Duration = Duration::from_secs(10);

/// Of one look; a put that comes after it still has its time.
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Clone, Debug)]
pub struct EventBus {
    clients: Clients,
    /// Name or ARN.
    hub: String,
    seen: Arc<Mutex<Option<Instant>>>,
}

impl EventBus {
    pub fn new(clients: &Clients, hub: &str) -> EventBus {
        EventBus { clients: clients.clone(), hub: hub.to_owned(), seen: Arc::default() }
    }

    /// The bus's ARN, or `None` if there is none of its name.
    ///
    /// # Errors
    /// It may not be looked for, or nobody answers.
    pub async fn find(&self) -> Result<Option<String>, Failure> {
        let look = self.clients.events.describe_event_bus().name(&self.hub).send();
        match tokio::time::timeout(LOOK_TIMEOUT, look).await {
            Ok(Ok(found)) => Ok(Some(found.arn().unwrap_or_default().to_owned())),
            Ok(Err(error)) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => {
                Ok(None)
            }
            Ok(Err(error)) => Err(failure(&error)),
            Err(_) => Err(Failure::Unanswered("no answer in time".to_owned())),
        }
    }

    /// Lets nobody publish on a bus that is not there, or that does not answer. Nothing was put then.
    async fn look(&self) -> Result<(), Failure> {
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.is_some_and(|at| at.elapsed() < SEEN_FOR) {
            return Ok(());
        }
        match self.find().await {
            Ok(Some(_)) => {}
            Ok(None) => return Err(Failure::Refused(format!("there is no event bus `{}`", self.hub))),
            // Who may publish and not look is trusted.
            Err(Failure::Refused(why)) if is_denial(&why) => {
                tracing::debug!(hub = self.hub, why, "the bus may not be looked for");
            }
            Err(Failure::Unanswered(why)) => return Err(Failure::Refused(format!("the bus was not found: {why}"))),
            Err(failure) => return Err(failure),
        }
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Ok(())
    }

    async fn put_now(&self, entries: Vec<Entry>) -> Result<Vec<Put>, Failure> {
        self.look().await?;
        let count = entries.len();
        let entries = entries.into_iter().map(|entry| self.request(entry)).collect();
        let answer = self.clients.events.put_events().set_entries(Some(entries)).send().await;
        let answer = answer.map_err(|error| failure(&error))?;
        let outcomes: Vec<Put> = answer.entries().iter().map(outcome).collect();
        match outcomes.len() == count {
            true => Ok(outcomes),
            false => Err(Failure::Unanswered(format!("{} outcomes for {count} entries", outcomes.len()))),
        }
    }

    fn request(&self, entry: Entry) -> PutEventsRequestEntry {
        PutEventsRequestEntry::builder()
            .event_bus_name(&self.hub)
            .source(entry.source)
            .detail_type(entry.detail_type)
            .detail(entry.detail)
            .set_time(entry.time.map(|time| DateTime::from_nanos(i128::from(time.0)).unwrap_or(DateTime::from_secs(0))))
            .set_resources(Some(entry.resources).filter(|resources| !resources.is_empty()))
            .set_trace_header(entry.trace)
            .build()
    }
}

impl Bus for EventBus {
    fn put(&self, entries: Vec<Entry>) -> BoxFuture<'_, Result<Vec<Put>, Failure>> {
        self.put_now(entries).boxed()
    }
}

fn outcome(entry: &PutEventsResultEntry) -> Put {
    match (entry.event_id(), entry.error_code()) {
        (Some(id), None) => Put::Accepted(id.to_owned()),
        (_, code) => {
            let code = code.unwrap_or("UnknownError");
            let why = entry.error_message().unwrap_or_default().to_owned();
            match of_code(code, &why) {
                Failure::Refused(_) if code != "UnknownError" => Put::Refused { code: code.to_owned(), why },
                _ => Put::Later { code: code.to_owned(), why },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_an_entry_says_whether_it_may_be_taken_in_later() {
        let of = |code: &str| outcome(&PutEventsResultEntry::builder().error_code(code).error_message("x").build());
        assert_eq!(of("MalformedDetail"), Put::Refused { code: "MalformedDetail".to_owned(), why: "x".to_owned() });
        for code in ["ThrottlingException", "InternalFailure", "InternalException"] {
            assert!(matches!(of(code), Put::Later { .. }), "{code}");
        }
        let accepted = PutEventsResultEntry::builder().event_id("id").build();
        assert_eq!(outcome(&accepted), Put::Accepted("id".to_owned()));
        assert!(matches!(outcome(&PutEventsResultEntry::builder().build()), Put::Later { .. }));
    }
}
