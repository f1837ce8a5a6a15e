//! What `tests/emulated_aws.py` closes in MiniStack: it patches private functions, and a new version may have others.

use std::time::Duration;

use aws_sdk_eventbridge::types::Target;

use super::{Clients, EU, MiniStack, US, clients};
use crate::{
    aws::{bus::EventBus, queue::SqsQueue},
    core::time::Timestamp,
    ports::{
        bus::{Bus, Entry},
        queue::{Message, Queue},
    },
};

/// A bus with a rule for everything that puts it into a queue.
async fn bus_into_queue(clients: &Clients) -> (String, String, SqsQueue) {
    let name = MiniStack::unique("bus");
    let bus = clients.events.create_event_bus().name(&name).send().await.unwrap();
    clients.sqs.create_queue().queue_name(&name).send().await.unwrap();
    let queue = SqsQueue::open(clients, &name).await.unwrap();
    let arn = format!(
        "{}:{name}",
        bus.event_bus_arn().unwrap().replace(":events:", ":sqs:").split(":event-bus/").next().unwrap()
    );
    rule(clients, &name, &arn).await;
    (name, bus.event_bus_arn().unwrap().to_owned(), queue)
}

async fn rule(clients: &Clients, bus: &str, target: &str) {
    let pattern = r#"{"source":[{"prefix":""}]}"#;
    clients.events.put_rule().name("all").event_bus_name(bus).event_pattern(pattern).send().await.unwrap();
    // A bus as target takes a role; a queue does without it.
    let role = target.contains(":event-bus/").then(|| "arn:aws:iam::000000000000:role/cross".to_owned());
    let target = Target::builder().id("1").arn(target).set_role_arn(role).build().unwrap();
    let put = clients.events.put_targets().rule("all").event_bus_name(bus).targets(target).send().await.unwrap();
    assert_eq!(put.failed_entry_count(), 0);
}

fn entry(time: Option<Timestamp>) -> Entry {
    Entry {
        source: "app".to_owned(),
        detail_type: "Order".to_owned(),
        detail: "{\"n\":1}".to_owned(),
        time,
        resources: vec!["arn:of:it".to_owned()],
        trace: None,
    }
}

async fn envelope(queue: &SqsQueue) -> serde_json::Value {
    let received = queue.receive(1, Duration::from_secs(20), Duration::from_secs(60)).await.unwrap();
    let [Message { body, .. }] = received.as_slice() else { panic!("{received:?}") };
    serde_json::from_str(body).unwrap()
}

#[tokio::test]
async fn an_event_keeps_the_time_of_its_caller() {
    let clients = clients(EU).await;
    let (bus, _, queue) = bus_into_queue(&clients).await;
    let time = Timestamp::parse_rfc3339("2026-01-02T03:04:05Z");
    EventBus::new(&clients, &bus).put(vec![entry(time)]).await.unwrap();
    let envelope = envelope(&queue).await;
    assert_eq!((&envelope["time"], &envelope["resources"][0]), (&"2026-01-02T03:04:05Z".into(), &"arn:of:it".into()));
    assert_eq!((&envelope["region"], &envelope["detail"]["n"]), (&EU.into(), &1.into()));
}

#[tokio::test]
async fn a_rule_may_put_events_on_a_bus_of_another_region() {
    let (home, peer) = (clients(EU).await, clients(US).await);
    let (_, arn, queue) = bus_into_queue(&peer).await;
    let bus = MiniStack::unique("bus");
    home.events.create_event_bus().name(&bus).send().await.unwrap();
    rule(&home, &bus, &arn).await;
    EventBus::new(&home, &bus).put(vec![entry(None)]).await.unwrap();
    assert_eq!(envelope(&queue).await["region"], EU, "as on AWS the event keeps its region");
}
