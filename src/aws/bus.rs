//! An event bus of EventBridge.

use aws_sdk_eventbridge::{
    primitives::DateTime,
    types::{PutEventsRequestEntry, PutEventsResultEntry},
};
use futures::{FutureExt, future::BoxFuture};

use super::{Clients, failure, failure::of_code};
use crate::{
    core::link::Failure,
    ports::bus::{Bus, Entry, Put},
};

#[derive(Clone, Debug)]
pub struct EventBus {
    clients: Clients,
    /// Name or ARN.
    hub: String,
}

impl EventBus {
    pub fn new(clients: &Clients, hub: &str) -> EventBus {
        EventBus { clients: clients.clone(), hub: hub.to_owned() }
    }

    async fn put_now(&self, entries: Vec<Entry>) -> Result<Vec<Put>, Failure> {
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
