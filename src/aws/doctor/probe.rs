//! Single calls that try something and leave nothing behind.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_sdk_eventbridge::types::Rule;
use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        interceptors::{Intercept, context::BeforeDeserializationInterceptorContextRef},
        runtime_components::RuntimeComponents,
    },
};
use aws_smithy_types::{DateTime, config_bag::ConfigBag, date_time::Format};
use bytes::Bytes;

use crate::{
    aws::{
        Clients, bus::EventBus, claims::ClaimsTable, failure, failure::is_denial, items::ItemsTable, queue::SqsQueue,
        shared::SharedTable,
    },
    core::{
        finding::Findings,
        key::{KeyHash, PayloadHash},
        link::Failure,
        time::Timestamp,
    },
    ports::{
        bus::{Bus, Entry, Put},
        claims::{Claim, Claims, Inserted, Part, Row, State, Token},
        clock::{Clock, Entropy},
        items::{Change, Items, Place},
        queue::Queue,
        shared::Shared,
    },
};

/// Beyond this AWS refuses signatures.
const CLOCK_OFFSET_MAX_SECONDS: f64 = 240.0;

/// Beyond this lags are told wrong. The header has whole seconds.
const CLOCK_OFFSET_NOTED_SECONDS: f64 = 2.0;

/// A page of rules; a bus has at most three.
const RULES_PAGE: i32 = 100;
const RULE_PAGES_MAX: usize = 4;

/// Of so many parts of a ledger one page is read.
const PROBED_PARTS: u32 = 100_000;

/// What a call was about: who may do what to which resource.
pub struct Subject {
    /// Whose resource it is, as the file calls the region.
    pub region: String,
    pub what: String,
    pub action: &'static str,
    pub resource: String,
}

impl Subject {
    /// Names the failure and what mends it.
    pub fn failed(self, failure: &Failure, findings: &mut Findings) {
        let Subject { region, what, action, resource } = self;
        let text = failure.to_string();
        let remedy = match failure {
            Failure::Refused(why) if is_denial(why) && why.contains("service control policy") => {
                format!("a service control policy of the organisation denies `{action}` on {resource}")
            }
            Failure::Refused(why) if is_denial(why) => format!("allow `{action}` on {resource}"),
            Failure::Refused(_) => format!("hubweave provision --region {region} --apply, or see the reason"),
            Failure::Throttled { .. } => "try again later, or raise the quota".to_owned(),
            Failure::Unanswered(_) => "check the network, `endpoint_url` and `endpoints`".to_owned(),
        };
        findings.missing(what, text, remedy);
    }
}

/// Who calls are made as.
pub struct Identity {
    pub account: String,
    pub arn: String,
    /// The service's clock minus ours; `None` if it did not say.
    pub clock_offset_seconds: Option<f64>,
}

/// Takes the service's clock from its answer.
#[derive(Clone, Debug, Default)]
struct ServiceDate(Arc<Mutex<Option<String>>>);

impl Intercept for ServiceDate {
    fn name(&self) -> &'static str {
        "hubweave_service_date"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date").map(str::to_owned);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = date;
        Ok(())
    }
}

pub async fn identity(clients: &Clients, clock: &dyn Clock) -> Result<Identity, Failure> {
    let date = ServiceDate::default();
    let before = clock.now();
    let answer = clients.sts.get_caller_identity().customize().interceptor(date.clone()).send().await;
    let between = before.plus(clock.now().since(before) / 2);
    let answer = answer.map_err(|error| failure(&error))?;
    let date = date.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok(Identity {
        account: answer.account().unwrap_or_default().to_owned(),
        arn: answer.arn().unwrap_or_default().to_owned(),
        clock_offset_seconds: date.and_then(|date| offset_seconds(&date, between)),
    })
}

/// The header has whole seconds and is cut off, so half a second is added.
fn offset_seconds(date: &str, ours: Timestamp) -> Option<f64> {
    let theirs = DateTime::from_str(date, Format::HttpDate).ok()?;
    Some(theirs.as_secs_f64() + 0.5 - ours.as_secs_f64())
}

pub fn clock(what: &str, offset_seconds: Option<f64>, findings: &mut Findings) {
    let what = format!("{what}: clock");
    match offset_seconds {
        Some(offset) if offset.abs() > CLOCK_OFFSET_MAX_SECONDS => {
            let detail = format!("{offset:+.0} s from the service's, which will refuse signatures");
            findings.missing(what, detail, "let the machine's clock follow a time server");
        }
        Some(offset) if offset.abs() > CLOCK_OFFSET_NOTED_SECONDS => {
            findings.note(what, format!("{offset:+.1} s from the service's: lags are told wrong by as much"));
        }
        Some(_) => findings.ok(what, "agrees with the service's to the second"),
        None => findings.note(what, "the service does not tell its time"),
    }
}

/// A put that EventBridge refuses, after it has looked at permissions: no rule ever sees it.
pub async fn put(clients: &Clients, hub: &str) -> Result<(), Failure> {
    let entry = Entry {
        source: "hubweave".to_owned(),
        detail_type: "Doctor".to_owned(),
        detail: "this is no JSON".to_owned(),
        ..Entry::default()
    };
    match EventBus::new(clients, hub).put(vec![entry]).await?.first() {
        Some(Put::Refused { code, .. }) if code == "MalformedDetail" => Ok(()),
        Some(Put::Refused { code, why } | Put::Later { code, why }) => Err(Failure::Refused(format!("{code}: {why}"))),
        Some(Put::Accepted(_)) | None => Err(Failure::Refused("a malformed event was taken in".to_owned())),
    }
}

/// What an agent does with a queue, by action. Receiving shows messages to nobody else for no time at all.
pub async fn queue(clients: &Clients, name: &str) -> Vec<(&'static str, Result<(), Failure>)> {
    let queue = match SqsQueue::open(clients, name).await {
        Ok(queue) => queue,
        Err(failure) => return vec![("sqs:GetQueueUrl", Err(failure))],
    };
    let nothing = || vec!["no receipt".to_owned()];
    let received = queue.receive(1, Duration::ZERO, Duration::ZERO).await.map(drop);
    let deleted = queue.delete(nothing()).await.map(drop);
    let extended = queue.extend(nothing(), Duration::ZERO).await.map(drop);
    vec![
        ("sqs:ReceiveMessage", received),
        ("sqs:DeleteMessage", deleted),
        ("sqs:ChangeMessageVisibility", extended),
        ("sqs:GetQueueAttributes", queue.depth().await.map(drop)),
    ]
}

/// A key through all that a ledger does with keys. The row that stays is expired when it is written.
pub async fn ledger(
    clients: &Clients,
    table: &str,
    clock: Arc<dyn Clock>,
    entropy: &dyn Entropy,
) -> Result<(), (&'static str, Failure)> {
    let now = clock.now();
    let ledger = ClaimsTable::new(clients, table, clock);
    let mut key = [0; 16];
    for half in key.chunks_mut(8) {
        half.copy_from_slice(&entropy.next_u64().to_le_bytes());
    }
    let key = KeyHash(key);
    let claim = |token: Token| {
        let state = State::Claimed { token, lease: Duration::from_secs(1) };
        let (payload, origin) = (PayloadHash([0; 32]), "doctor".to_owned());
        let row = Row { payload, state, at: now, expires: now, origin, reserved: true };
        Claim { key, row }
    };
    let (first, second) = (Token(entropy.next_u64()), Token(entropy.next_u64()));
    let odd = |what: &str| Failure::Unanswered(format!("a random key {what}"));

    let insert = "dynamodb:PartiQLInsert";
    let inserted = ledger.insert(vec![claim(first)]).await.and_then(only).map_err(|failure| (insert, failure))?;
    if inserted != Inserted::New {
        return Err((insert, odd("was known")));
    }
    let put = "dynamodb:PutItem";
    if !ledger.take_over(claim(second), first).await.map_err(|failure| (put, failure))? {
        return Err((put, odd("could not be taken over")));
    }
    let read = "dynamodb:BatchGetItem";
    ledger.get(vec![key]).await.map_err(|failure| (read, failure))?;
    let delete = "dynamodb:DeleteItem";
    let released = ledger.release(vec![(key, second)]).await.and_then(only).map_err(|failure| (delete, failure))?;
    if !released {
        return Err((delete, odd("could not be released")));
    }
    // The row is gone, so this changes nothing and still takes the permission.
    let update = "dynamodb:PartiQLUpdate";
    ledger.mark(vec![(key, second, None)], now).await.and_then(only).map_err(|failure| (update, failure))?;
    Ok(())
}

/// An item of a partition of its own through all that documents go through.
pub async fn documents(clients: &Clients, table: &str, entropy: &dyn Entropy) -> Result<(), (&'static str, Failure)> {
    let items = ItemsTable::new(clients, table);
    let place = Place::new("doctor", format!("{:016x}", entropy.next_u64()));
    let change = |bytes, version| Change { place: place.clone(), bytes, version };
    let odd = |what: &str| Failure::Unanswered(format!("a new item {what}"));
    items.identity().await.map_err(|failure| ("dynamodb:DescribeTable", failure))?;
    let put = "dynamodb:PutItem";
    if !items.write(vec![change(Some(Bytes::new()), 0)]).await.map_err(|failure| (put, failure))? {
        return Err((put, odd("was there")));
    }
    let read = "dynamodb:BatchGetItem";
    let found = items.get(vec![place.clone()]).await.map_err(|failure| (read, failure))?;
    items.list(place.partition.clone(), None).await.map_err(|failure| ("dynamodb:Query", failure))?;
    let delete = "dynamodb:DeleteItem";
    let removed = items.write(vec![change(None, 1)]).await.map_err(|failure| (delete, failure))?;
    match (removed, found.as_slice()) {
        (true, [Some(_)]) => Ok(()),
        (true, _) => Err((read, odd("was not found"))),
        (false, _) => Err((delete, odd("could not be removed"))),
    }
}

/// What any region's agents do with the table of another one; the write is one that cannot take effect.
pub async fn votes(clients: &Clients, table: &str) -> Result<(), (&'static str, Failure)> {
    let table = SharedTable::new(clients, table);
    table.list().await.map_err(|failure| ("dynamodb:Scan", failure))?;
    let put = "dynamodb:PutItem";
    match table.change("doctor", "", u64::MAX - 1).await.map_err(|failure| (put, failure))? {
        false => Ok(()),
        true => Err((put, Failure::Unanswered("a write that had to fail did not".to_owned()))),
    }
}

/// What another region's agents do with a table of documents.
pub async fn documents_reading(clients: &Clients, table: &str) -> Result<(), (&'static str, Failure)> {
    let items = ItemsTable::new(clients, table);
    let place = Place::new("doctor", "reading");
    items.get(vec![place.clone()]).await.map_err(|failure| ("dynamodb:BatchGetItem", failure))?;
    items.list(place.partition, None).await.map(drop).map_err(|failure| ("dynamodb:Query", failure))
}

/// A page of a small part, which costs as little as a scan may.
pub async fn ledger_reading(clients: &Clients, table: &str, clock: Arc<dyn Clock>) -> Result<(), Failure> {
    let part = Part { number: 0, of: PROBED_PARTS };
    ClaimsTable::new(clients, table, clock).list(part, None).await.map(drop)
}

fn only<T>(results: Vec<Result<T, Failure>>) -> Result<T, Failure> {
    let none = || Err(Failure::Unanswered("an answer without a result".to_owned()));
    results.into_iter().next().unwrap_or_else(none)
}

pub async fn rules(clients: &Clients, hub: &str) -> Result<Vec<Rule>, Failure> {
    let (mut rules, mut next) = (Vec::new(), None);
    for _ in 0..RULE_PAGES_MAX {
        let request = clients.events.list_rules().event_bus_name(hub).limit(RULES_PAGE).set_next_token(next);
        let page = request.send().await.map_err(|error| failure(&error))?;
        rules.extend(page.rules.unwrap_or_default());
        next = page.next_token;
        if next.is_none() {
            break;
        }
    }
    Ok(rules)
}

/// ARNs of a rule's targets.
pub async fn targets(clients: &Clients, hub: &str, rule: &str) -> Result<Vec<String>, Failure> {
    let answer = clients.events.list_targets_by_rule().rule(rule).event_bus_name(hub).send().await;
    let targets = answer.map_err(|error| failure(&error))?.targets.unwrap_or_default();
    Ok(targets.into_iter().map(|target| target.arn).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_names_the_permission_and_who_must_give_it() {
        let told = |why: &str| {
            let mut findings = Findings::of("eu");
            let (region, what) = ("eu".to_owned(), "queue q".to_owned());
            let subject = Subject { region, what, action: "sqs:ReceiveMessage", resource: "arn:q".to_owned() };
            subject.failed(&Failure::Refused(why.to_owned()), &mut findings);
            findings.findings[0].remedy.clone().unwrap()
        };
        assert_eq!(told("AccessDeniedException: not authorized"), "allow `sqs:ReceiveMessage` on arn:q");
        let by_scp = told("AccessDenied: with an explicit deny in a service control policy");
        assert!(by_scp.contains("service control policy") && by_scp.contains("sqs:ReceiveMessage"), "{by_scp}");
        assert!(told("ValidationException: x").contains("provision --region eu"));
    }

    #[test]
    fn a_clock_that_is_minutes_off_is_told_before_signatures_fail() {
        let ours = Timestamp::parse_rfc3339("2026-11-25T19:00:00Z").unwrap();
        let offset = offset_seconds("Wed, 25 Nov 2026 19:10:00 GMT", ours);
        assert_eq!(offset, Some(600.5));
        let mut findings = Findings::of("eu");
        clock("credentials", offset, &mut findings);
        assert!(findings.is_missing_something());
        assert_eq!(offset_seconds("yesterday", ours), None);
    }
}
