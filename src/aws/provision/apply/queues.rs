//! Queues.

use std::collections::HashMap;

use aws_sdk_sqs::{operation::get_queue_url::GetQueueUrlError, types::QueueAttributeName};
use serde_json::Value;

use super::{Provisioner, State, difference};
use crate::{
    aws::{failure, provision::Queue, queue::SqsQueue},
    core::link::Failure,
    ports::queue::{Depth, Queue as _},
};

impl Provisioner<'_> {
    pub(super) async fn queue_state(&self, queue: &Queue) -> Result<State, Failure> {
        let Some(url) = self.queue_url(queue).await? else { return Ok(State::Absent) };
        let request = self.clients.sqs.get_queue_attributes().queue_url(&url).attribute_names(QueueAttributeName::All);
        let found = request.send().await.map_err(|error| failure(&error))?.attributes.unwrap_or_default();
        let mut differences = Vec::new();
        for (name, planned) in self.plan.attributes(queue) {
            let found = found.get(&QueueAttributeName::from(name)).map(String::as_str);
            if !found.is_some_and(|found| is_equal(name, found, &planned)) {
                differences.push(difference(name, found, &planned));
            }
        }
        let tags = self.clients.sqs.list_queue_tags().queue_url(&url).send().await.map_err(|error| failure(&error))?;
        let tags = tags.tags.unwrap_or_default();
        Ok(self.judge(tags.iter().map(|(key, value)| (key.as_str(), value.as_str())), differences))
    }

    pub(super) async fn make_queue(&self, queue: &Queue) -> Result<(), Failure> {
        let tags: HashMap<String, String> = self.plan.tags.clone().into_iter().collect();
        let request = self.clients.sqs.create_queue().queue_name(&queue.name).set_tags(Some(tags));
        let request = request.set_attributes(Some(self.queue_attributes(queue)));
        request.send().await.map(drop).map_err(|error| failure(&error))
    }

    pub(super) async fn alter_queue(&self, queue: &Queue) -> Result<(), Failure> {
        let Some(url) = self.queue_url(queue).await? else { return self.make_queue(queue).await };
        let request = self.clients.sqs.set_queue_attributes().queue_url(url);
        let request = request.set_attributes(Some(self.queue_attributes(queue)));
        request.send().await.map(drop).map_err(|error| failure(&error))
    }

    pub(super) async fn remove_queue(&self, queue: &Queue) -> Result<(), Failure> {
        let Some(url) = self.queue_url(queue).await? else { return Ok(()) };
        self.clients.sqs.delete_queue().queue_url(url).send().await.map(drop).map_err(|error| failure(&error))
    }

    /// What the queue holds, late by up to a minute; nothing where it is not there.
    pub(super) async fn queue_depth(&self, queue: &Queue) -> Result<Depth, Failure> {
        match SqsQueue::open(self.clients, &queue.name).await {
            Ok(queue) => queue.depth().await,
            Err(_) if self.queue_url(queue).await?.is_none() => Ok(Depth::default()),
            Err(failure) => Err(failure),
        }
    }

    async fn queue_url(&self, queue: &Queue) -> Result<Option<String>, Failure> {
        match self.clients.sqs.get_queue_url().queue_name(&queue.name).send().await {
            Ok(found) => Ok(found.queue_url),
            Err(error) if error.as_service_error().is_some_and(GetQueueUrlError::is_queue_does_not_exist) => Ok(None),
            Err(error) => Err(failure(&error)),
        }
    }

    fn queue_attributes(&self, queue: &Queue) -> HashMap<QueueAttributeName, String> {
        let attributes = self.plan.attributes(queue).into_iter();
        attributes.map(|(name, value)| (QueueAttributeName::from(name), value)).collect()
    }
}

/// JSON attributes come back spelled in another way, and a list of one as its member; `1000` as `"1000"`.
fn is_equal(name: &str, found: &str, planned: &str) -> bool {
    if !matches!(name, "Policy" | "RedrivePolicy") {
        return found == planned;
    }
    let parse = |text: &str| serde_json::from_str::<Value>(text).ok().map(plain);
    parse(found) == parse(planned)
}

fn plain(value: Value) -> Value {
    match value {
        Value::Array(mut items) if items.len() == 1 => plain(items.remove(0)),
        Value::Array(items) => {
            let mut items: Vec<Value> = items.into_iter().map(plain).collect();
            items.sort_by_key(Value::to_string);
            Value::Array(items)
        }
        Value::Object(members) => {
            Value::Object(members.into_iter().map(|(name, value)| (name, plain(value))).collect())
        }
        Value::Number(number) => Value::String(number.to_string()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_attributes_are_equal_however_they_are_spelled() {
        let (found, planned) = (r#"{"b":["x"],"a":"1000"}"#, r#"{"a":1000,"b":"x"}"#);
        assert!(is_equal("RedrivePolicy", found, planned));
        assert!(!is_equal("RedrivePolicy", found, r#"{"a":999,"b":"x"}"#));
        assert!(!is_equal("VisibilityTimeout", "30", "20"));
    }
}
