//! A queue of SQS.

use std::{collections::BTreeMap, time::Duration};

use aws_sdk_sqs::{
    operation::get_queue_url::GetQueueUrlError,
    types::{
        BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
        MessageAttributeValue, MessageSystemAttributeName, MessageSystemAttributeNameForSends,
        MessageSystemAttributeValue, QueueAttributeName, SendMessageBatchRequestEntry,
    },
};
use futures::{FutureExt, future::BoxFuture};

use super::{Clients, clients::POLL_MAX, failure, failure::of_code};
use crate::{
    core::{link::Failure, time::Timestamp},
    ports::queue::{CALL_MESSAGES_MAX, Depth, Message, Outgoing, Queue},
};

/// Bytes of all messages of one call, attributes included.
const CALL_BYTES_MAX: usize = 1 << 20;

/// SQS's bound on a visibility time-out.
const VISIBILITY_MAX: Duration = Duration::from_secs(12 * 3_600);

/// SQS's bound on a delay.
const DELAY_MAX: Duration = Duration::from_secs(15 * 60);

/// One queue, found by its name.
#[derive(Clone, Debug)]
pub struct SqsQueue {
    clients: Clients,
    url: String,
    name: String,
}

impl SqsQueue {
    /// Finds the queue.
    ///
    /// # Errors
    /// There is none of this name, or it may not be asked for.
    pub async fn open(clients: &Clients, name: &str) -> Result<SqsQueue, Failure> {
        let found = clients.sqs.get_queue_url().queue_name(name).send().await;
        let found = found.map_err(|error| {
            match error.as_service_error().is_some_and(GetQueueUrlError::is_queue_does_not_exist) {
                true => Failure::Refused(format!("there is no queue `{name}`: `hubweave provision` makes it")),
                false => failure(&error),
            }
        })?;
        let url = found.queue_url().unwrap_or_default().to_owned();
        Ok(SqsQueue { clients: clients.clone(), url, name: name.to_owned() })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// When the queue was made, to the second.
    ///
    /// # Errors
    /// It may not be asked for.
    pub async fn made_at(&self) -> Result<Timestamp, Failure> {
        let name = QueueAttributeName::CreatedTimestamp;
        let request = self.clients.sqs.get_queue_attributes().queue_url(&self.url).attribute_names(name.clone());
        let answer = request.send().await.map_err(|error| failure(&error))?;
        let seconds = answer.attributes().and_then(|attributes| attributes.get(&name)?.parse::<u64>().ok());
        Ok(Timestamp::from_millis(seconds.unwrap_or_default().saturating_mul(1_000)))
    }

    async fn receive_now(&self, max: usize, wait: Duration, visibility: Duration) -> Result<Vec<Message>, Failure> {
        let request = self
            .clients
            .polling
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(max.clamp(1, CALL_MESSAGES_MAX) as i32)
            .wait_time_seconds(wait.min(POLL_MAX).as_secs() as i32)
            .visibility_timeout(whole_seconds(visibility, VISIBILITY_MAX))
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .message_attribute_names("All");
        let received = request.send().await.map_err(|error| failure(&error))?;
        Ok(received.messages.unwrap_or_default().into_iter().map(message).collect())
    }

    async fn delete_call(&self, receipts: &[String]) -> Result<Vec<Result<(), Failure>>, Failure> {
        let mut entries = Vec::with_capacity(receipts.len());
        for (index, receipt) in receipts.iter().enumerate() {
            let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string()).receipt_handle(receipt);
            entries.push(entry.build().map_err(|error| Failure::Refused(error.to_string()))?);
        }
        let request = self.clients.sqs.delete_message_batch().queue_url(&self.url).set_entries(Some(entries));
        let answer = request.send().await.map_err(|error| failure(&error))?;
        Ok(results(receipts.len(), answer.successful().iter().map(|entry| entry.id()), answer.failed()))
    }

    async fn extend_call(&self, receipts: &[String], seconds: i32) -> Result<Vec<Result<(), Failure>>, Failure> {
        let mut entries = Vec::with_capacity(receipts.len());
        for (index, receipt) in receipts.iter().enumerate() {
            let entry = ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(index.to_string())
                .receipt_handle(receipt)
                .visibility_timeout(seconds);
            entries.push(entry.build().map_err(|error| Failure::Refused(error.to_string()))?);
        }
        let request =
            self.clients.sqs.change_message_visibility_batch().queue_url(&self.url).set_entries(Some(entries));
        let answer = request.send().await.map_err(|error| failure(&error))?;
        Ok(results(receipts.len(), answer.successful().iter().map(|entry| entry.id()), answer.failed()))
    }

    async fn send_call(&self, messages: &[Outgoing]) -> Result<Vec<Result<(), Failure>>, Failure> {
        let mut entries = Vec::with_capacity(messages.len());
        for (index, message) in messages.iter().enumerate() {
            entries.push(entry(index, message).map_err(|error| Failure::Refused(error.to_string()))?);
        }
        let request = self.clients.sqs.send_message_batch().queue_url(&self.url).set_entries(Some(entries));
        let answer = request.send().await.map_err(|error| failure(&error))?;
        Ok(results(messages.len(), answer.successful().iter().map(|entry| entry.id()), answer.failed()))
    }

    async fn depth_now(&self) -> Result<Depth, Failure> {
        use QueueAttributeName::{
            ApproximateNumberOfMessages, ApproximateNumberOfMessagesDelayed, ApproximateNumberOfMessagesNotVisible,
        };
        let wanted =
            [ApproximateNumberOfMessages, ApproximateNumberOfMessagesNotVisible, ApproximateNumberOfMessagesDelayed];
        let request = self.clients.sqs.get_queue_attributes().queue_url(&self.url);
        let request = request.set_attribute_names(Some(wanted.to_vec()));
        let answer = request.send().await.map_err(|error| failure(&error))?;
        let [visible, in_flight, delayed] = wanted.map(|name| {
            let text = answer.attributes().and_then(|attributes| attributes.get(&name));
            text.and_then(|text| text.parse().ok()).unwrap_or_default()
        });
        Ok(Depth { visible, in_flight, delayed })
    }
}

impl Queue for SqsQueue {
    fn receive(
        &self,
        max: usize,
        wait: Duration,
        visibility: Duration,
    ) -> BoxFuture<'_, Result<Vec<Message>, Failure>> {
        self.receive_now(max, wait, visibility).boxed()
    }

    fn delete(&self, receipts: Vec<String>) -> BoxFuture<'_, Result<Vec<Result<(), Failure>>, Failure>> {
        async move {
            let mut all = Vec::with_capacity(receipts.len());
            for call in receipts.chunks(CALL_MESSAGES_MAX) {
                all.extend(whole(self.delete_call(call).await, call.len(), receipts.len())?);
            }
            Ok(all)
        }
        .boxed()
    }

    fn extend(
        &self,
        receipts: Vec<String>,
        visibility: Duration,
    ) -> BoxFuture<'_, Result<Vec<Result<(), Failure>>, Failure>> {
        async move {
            let seconds = whole_seconds(visibility, VISIBILITY_MAX);
            let mut all = Vec::with_capacity(receipts.len());
            for call in receipts.chunks(CALL_MESSAGES_MAX) {
                all.extend(whole(self.extend_call(call, seconds).await, call.len(), receipts.len())?);
            }
            Ok(all)
        }
        .boxed()
    }

    fn send(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<Vec<Result<(), Failure>>, Failure>> {
        async move {
            let mut all = Vec::with_capacity(messages.len());
            for call in calls(&messages) {
                all.extend(whole(self.send_call(call).await, call.len(), messages.len())?);
            }
            Ok(all)
        }
        .boxed()
    }

    fn depth(&self) -> BoxFuture<'_, Result<Depth, Failure>> {
        self.depth_now().boxed()
    }
}

/// A failed call fails each of its entries where there are others that have an answer; alone, it is the answer.
fn whole(
    answer: Result<Vec<Result<(), Failure>>, Failure>,
    entries: usize,
    of: usize,
) -> Result<Vec<Result<(), Failure>>, Failure> {
    match answer {
        Err(failure) if entries < of => Ok(vec![Err(failure); entries]),
        answer => answer,
    }
}

/// SQS counts in seconds: rounded up, so that nothing is seen by others too soon.
fn whole_seconds(duration: Duration, max: Duration) -> i32 {
    let duration = duration.min(max);
    duration.as_secs() as i32 + i32::from(duration.subsec_nanos() > 0)
}

fn message(received: aws_sdk_sqs::types::Message) -> Message {
    let system = |name| received.attributes.as_ref().and_then(|attributes| attributes.get(&name)).cloned();
    let sent = system(MessageSystemAttributeName::SentTimestamp).and_then(|text| text.parse().ok());
    let received_count = system(MessageSystemAttributeName::ApproximateReceiveCount).and_then(|text| text.parse().ok());
    let trace = system(MessageSystemAttributeName::AwsTraceHeader);
    let attributes = received.message_attributes.unwrap_or_default().into_iter();
    Message {
        id: received.message_id.unwrap_or_default(),
        body: received.body.unwrap_or_default(),
        receipt: received.receipt_handle.unwrap_or_default(),
        sent: Timestamp::from_millis(sent.unwrap_or_default()),
        received: received_count.unwrap_or(1),
        attributes: attributes.filter_map(|(name, value)| Some((name, value.string_value?))).collect(),
        trace,
    }
}

type BuildError = aws_smithy_types::error::operation::BuildError;

fn entry(index: usize, message: &Outgoing) -> Result<SendMessageBatchRequestEntry, BuildError> {
    let mut entry = SendMessageBatchRequestEntry::builder().id(index.to_string()).message_body(&message.body);
    if !message.delay.is_zero() {
        entry = entry.delay_seconds(whole_seconds(message.delay, DELAY_MAX));
    }
    for (name, value) in &message.attributes {
        let value = MessageAttributeValue::builder().data_type("String").string_value(value).build()?;
        entry = entry.message_attributes(name, value);
    }
    if let Some(trace) = &message.trace {
        let value = MessageSystemAttributeValue::builder().data_type("String").string_value(trace).build()?;
        entry = entry.message_system_attributes(MessageSystemAttributeNameForSends::AwsTraceHeader, value);
    }
    entry.build()
}

/// Cut so that no call has too many messages or too many bytes.
fn calls(messages: &[Outgoing]) -> Vec<&[Outgoing]> {
    let (mut calls, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (index, message) in messages.iter().enumerate() {
        let size = size(message);
        if index > start && (index - start == CALL_MESSAGES_MAX || bytes + size > CALL_BYTES_MAX) {
            calls.push(&messages[start..index]);
            (start, bytes) = (index, 0);
        }
        bytes += size;
    }
    if start < messages.len() {
        calls.push(&messages[start..]);
    }
    calls
}

fn size(message: &Outgoing) -> usize {
    let attributes = |attributes: &BTreeMap<String, String>| {
        attributes.iter().map(|(name, value)| name.len() + "String".len() + value.len()).sum::<usize>()
    };
    message.body.len() + attributes(&message.attributes)
}

/// One result per entry, in order. An entry that the service forgot is not answered.
fn results<'a>(
    count: usize,
    successful: impl Iterator<Item = &'a str>,
    failed: &[BatchResultErrorEntry],
) -> Vec<Result<(), Failure>> {
    let mut results = vec![Err(Failure::Unanswered("the answer does not mention this entry".to_owned())); count];
    let mut set = |id: &str, result| {
        if let Some(slot) = id.parse::<usize>().ok().and_then(|index| results.get_mut(index)) {
            *slot = result;
        }
    };
    successful.for_each(|id| set(id, Ok(())));
    for entry in failed {
        set(entry.id(), Err(of_code(entry.code(), entry.message().unwrap_or_default())));
    }
    results
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_cut_by_count_and_by_bytes() {
        let of = |bytes: usize| Outgoing { body: "x".repeat(bytes), ..Outgoing::default() };
        let lengths = |messages: &[Outgoing]| calls(messages).iter().map(|call| call.len()).collect::<Vec<_>>();
        assert_eq!(lengths(&[]), [0; 0]);
        assert_eq!(lengths(&vec![of(10); 25]), [10, 10, 5]);
        assert_eq!(lengths(&[of(600_000), of(600_000), of(10)]), [1, 2]);
    }

    #[test]
    fn parts_of_seconds_are_rounded_up() {
        assert_eq!(whole_seconds(Duration::from_millis(1_200), VISIBILITY_MAX), 2);
        assert_eq!(whole_seconds(Duration::ZERO, VISIBILITY_MAX), 0);
        assert_eq!(whole_seconds(Duration::from_secs(1 << 40), DELAY_MAX), 900);
    }

    #[test]
    fn an_entry_that_is_not_answered_is_not_taken_for_done() {
        let failed = BatchResultErrorEntry::builder().id("1").code("ReceiptHandleIsInvalid").sender_fault(true);
        let answered = results(3, ["0"].into_iter(), &[failed.build().unwrap()]);
        assert_eq!(answered[0], Ok(()));
        assert!(matches!(&answered[1], Err(Failure::Refused(why)) if why.contains("ReceiptHandle")));
        assert!(matches!(&answered[2], Err(Failure::Unanswered(_))));
    }
}
