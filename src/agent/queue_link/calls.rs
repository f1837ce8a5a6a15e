//! The calls that a link makes, and how each is performed. What they mean is none of this file's business.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Options, Ports,
    item::Feed,
    payload::{self, Brought},
};
use crate::{
    agent::{payloads::Unready, rounds::within},
    core::{
        claim::{Claim, Row, Token},
        envelope::Event,
        key::KeyHash,
        link::Failure,
        time::Timestamp,
    },
    ports::{
        bus::{Entry, Put},
        claims::Inserted,
        queue::{Depth, Message, Outgoing},
    },
};

/// Where undeliverable messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Dead,
    Held,
}

/// Numbers name the messages, in the order of what is sent.
#[derive(Debug)]
pub enum Call {
    Receive {
        feed: Feed,
        max: usize,
    },
    Extend {
        feed: Feed,
        items: Vec<u64>,
        receipts: Vec<String>,
    },
    Return {
        feed: Feed,
        items: Vec<u64>,
        receipts: Vec<String>,
    },
    Delete {
        feed: Feed,
        items: Vec<u64>,
        receipts: Vec<String>,
    },
    Send {
        target: Target,
        items: Vec<u64>,
        messages: Vec<Outgoing>,
    },
    /// Objects that go ahead of an event.
    Bring {
        item: u64,
        event: Box<Event>,
        accepted: Timestamp,
    },
    Claim {
        items: Vec<u64>,
        claims: Vec<Claim>,
        bytes: usize,
    },
    /// What a link in shadow mode does instead of claiming.
    Look {
        items: Vec<u64>,
        keys: Vec<KeyHash>,
    },
    TakeOver {
        item: u64,
        claim: Claim,
        from: Token,
    },
    Put {
        items: Vec<u64>,
        entries: Vec<Entry>,
    },
    Mark {
        items: Vec<u64>,
        marks: Vec<(KeyHash, Token, Option<String>)>,
        at: Timestamp,
    },
    Release {
        items: Vec<u64>,
        claims: Vec<(KeyHash, Token)>,
    },
    Depth,
}

/// One result per entry, or one for the whole call.
pub type Results<T> = Result<Vec<Result<T, Failure>>, Failure>;

#[derive(Debug)]
pub enum Answer {
    Received {
        feed: Feed,
        result: Result<Vec<Message>, Failure>,
    },
    Extended {
        items: Vec<u64>,
        result: Results<()>,
    },
    Returned {
        items: Vec<u64>,
        result: Results<()>,
    },
    Deleted {
        items: Vec<u64>,
        receipts: Vec<String>,
        result: Results<()>,
    },
    Sent {
        items: Vec<u64>,
        result: Results<()>,
    },
    Brought {
        item: u64,
        result: Result<Brought, Unready>,
    },
    /// `sent`: when the request left, by the steady clock; what it wrote may be there since then.
    Claimed {
        items: Vec<u64>,
        sent: Timestamp,
        paced: Duration,
        result: Results<Inserted>,
    },
    Looked {
        items: Vec<u64>,
        result: Result<Vec<Option<Row>>, Failure>,
    },
    TookOver {
        item: u64,
        sent: Timestamp,
        result: Result<bool, Failure>,
    },
    Put {
        items: Vec<u64>,
        result: Result<Vec<Put>, Failure>,
    },
    Marked {
        items: Vec<u64>,
        result: Results<bool>,
    },
    Released {
        items: Vec<u64>,
        result: Results<bool>,
    },
    Depths {
        /// Main and held together.
        feeds: Depth,
        held: Depth,
        dead: Depth,
    },
    NoDepths,
}

/// An answer with too few results is no answer.
fn complete<T>(expected: usize, result: Result<Vec<T>, Failure>) -> Result<Vec<T>, Failure> {
    match result {
        Ok(results) if results.len() != expected => {
            Err(Failure::Unanswered(format!("{} results for {expected} entries", results.len())))
        }
        other => other,
    }
}

/// Performs a call. `started` is the zero of the steady clock. With `stop` end a receive, which would take back in what is
/// given back, and the wait for the link's turn.
pub fn perform(
    call: Call,
    ports: Arc<Ports>,
    options: &Options,
    started: Instant,
    stop: CancellationToken,
) -> BoxFuture<'static, Answer> {
    let (limit, poll, visibility) = (options.call_timeout, options.poll, options.visibility);
    let attempt = options.attempt_timeout;
    let (home, entry_bytes_max) = (options.home.clone(), options.entry_bytes_max);
    let steady = move || super::steady(started);
    async move {
        match call {
            Call::Receive { feed, max } => {
                let queue = ports.feed(feed);
                let result = tokio::select! {
                    biased;
                    () = stop.cancelled() => Ok(Vec::new()),
                    result = within(poll + limit, queue.receive(max, poll, visibility)) => result,
                };
                Answer::Received { feed, result }
            }
            Call::Extend { feed, items, receipts } => {
                let result = within(limit, ports.feed(feed).extend(receipts, visibility)).await;
                Answer::Extended { result: complete(items.len(), result), items }
            }
            Call::Return { feed, items, receipts } => {
                let result = within(limit, ports.feed(feed).extend(receipts, Duration::ZERO)).await;
                Answer::Returned { result: complete(items.len(), result), items }
            }
            Call::Delete { feed, items, receipts } => {
                let result = within(limit, ports.feed(feed).delete(receipts.clone())).await;
                Answer::Deleted { result: complete(items.len(), result), items, receipts }
            }
            Call::Send { target, items, messages } => {
                let queue = if target == Target::Dead { &ports.dead } else { &ports.held };
                let result = within(limit, queue.send(messages)).await;
                Answer::Sent { result: complete(items.len(), result), items }
            }
            Call::Bring { item, event, accepted } => {
                let result = payload::bring(*event, accepted, &ports, &home, entry_bytes_max).await;
                Answer::Brought { item, result }
            }
            Call::Claim { items, claims, bytes } => {
                // Before the claim, so that no lease runs out while it waits for its turn.
                let paced = tokio::select! {
                    biased;
                    () = stop.cancelled() => None,
                    paced = ports.pacer.admit(claims.len(), bytes) => Some(paced),
                };
                let Some(paced) = paced else {
                    let result = Err(Failure::Throttled { after: Duration::ZERO });
                    return Answer::Claimed { items, sent: steady(), paced: Duration::ZERO, result };
                };
                let sent = steady();
                let result = within(limit, ports.claims.insert(claims)).await;
                Answer::Claimed { result: complete(items.len(), result), items, sent, paced }
            }
            Call::Look { items, keys } => {
                let result = within(limit, ports.claims.get(keys)).await;
                Answer::Looked { result: complete(items.len(), result), items }
            }
            Call::TakeOver { item, claim, from } => {
                let sent = steady();
                let result = within(limit, ports.claims.take_over(claim, from)).await;
                Answer::TookOver { item, sent, result }
            }
            Call::Put { items, entries } => {
                let result = within(attempt, ports.bus.put(entries)).await;
                Answer::Put { result: complete(items.len(), result), items }
            }
            Call::Mark { items, marks, at } => {
                let result = within(limit, ports.claims.mark(marks, at)).await;
                Answer::Marked { result: complete(items.len(), result), items }
            }
            Call::Release { items, claims } => {
                let result = within(limit, ports.claims.release(claims)).await;
                Answer::Released { result: complete(items.len(), result), items }
            }
            Call::Depth => {
                let depths = async {
                    let main = ports.feed.depth().await?;
                    let held = ports.held.depth().await?;
                    let dead = ports.dead.depth().await?;
                    let feeds = Depth {
                        visible: main.visible + held.visible,
                        in_flight: main.in_flight + held.in_flight,
                        delayed: main.delayed + held.delayed,
                    };
                    Ok((feeds, held, dead))
                };
                match within(limit, depths).await {
                    Ok((feeds, held, dead)) => Answer::Depths { feeds, held, dead },
                    Err(failure) => {
                        tracing::debug!(%failure, "the depth of the queues is not known");
                        Answer::NoDepths
                    }
                }
            }
        }
    }
    .boxed()
}
