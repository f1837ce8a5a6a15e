//! The services of a region, spoiled: its queues, its bus, its ledger.
//!
//! A fault with a *peer* hits what this agent calls there, the peer's ledger and bus. What the peer brings here it writes
//! by itself, so such a fault is the peer's to be told. A fault of the *region itself* hits its own queues, ledger and
//! bus; one without a peer hits all of them, but a partition cuts off peers alone.
//!
//! `duplicate` is a call made twice. On a bus that is a second event under an id of its own, which nobody who promises an
//! effect once would do, so buses do not play it: queues do, as theirs is to hand things out twice.

use std::{future::Future, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};

use super::{CrashHook, Direction, Fault, Faults, Kind};
use crate::{
    core::{key::KeyHash, link::Failure, time::Timestamp},
    ports::{
        bus::{Bus, Entry, Put},
        claims::{Claim, Claims, Inserted, Listed, Part, Row, Token},
        queue::{Depth, Message, Outgoing, Queue},
    },
};

/// One result per entry, or one for the whole call.
type Results<T> = Result<Vec<Result<T, Failure>>, Failure>;

/// The way to the services of one region.
#[derive(Clone)]
pub struct Way {
    region: String,
    home: bool,
    faults: Arc<Faults>,
    crash: CrashHook,
}

impl Way {
    /// To the services of `region`, which is the agent's own if `home` says so.
    pub fn new(region: &str, home: bool, faults: Arc<Faults>, crash: CrashHook) -> Way {
        Way { region: region.to_owned(), home, faults, crash }
    }

    /// The same queue behind this way.
    pub fn queue(&self, inner: Arc<dyn Queue>) -> Arc<dyn Queue> {
        Arc::new(FaultyQueue { inner, way: self.clone() })
    }

    /// The same bus behind this way.
    pub fn bus(&self, inner: Arc<dyn Bus>) -> Arc<dyn Bus> {
        Arc::new(FaultyBus { inner, way: self.clone() })
    }

    /// The same ledger behind this way.
    pub fn claims(&self, inner: Arc<dyn Claims>) -> Arc<dyn Claims> {
        Arc::new(FaultyClaims { inner, way: self.clone() })
    }

    fn draw(&self) -> Vec<Fault> {
        let mut hits = self.faults.draw(&self.region, Direction::Out);
        hits.retain(|fault| !(self.home && fault.kind == Kind::Partition));
        hits
    }

    /// Makes the call that `call` begins, with what hits it before and after.
    async fn call<T, C: Future<Output = Result<T, Failure>>>(
        &self,
        hits: &[Fault],
        call: impl FnOnce() -> C,
    ) -> Result<T, Failure> {
        for fault in hits {
            match fault.kind {
                Kind::Partition | Kind::Drop | Kind::Error => {
                    return Err(Failure::Unanswered(format!("injected {}", fault.kind)));
                }
                Kind::Throttle => return Err(Failure::Throttled { after: fault.delay() }),
                Kind::Delay => tokio::time::sleep(fault.delay()).await,
                Kind::Reorder => tokio::time::sleep(self.faults.part_of(fault.delay())).await,
                Kind::Crash => (self.crash)(),
                Kind::Duplicate | Kind::TimeoutAfterSuccess | Kind::ClockSkew => {}
            }
        }
        let result = call().await;
        match has(hits, Kind::TimeoutAfterSuccess) {
            true => result.and(Err(Failure::Unanswered("injected timeout-after-success".to_owned()))),
            false => result,
        }
    }

    /// The same for a call that may be made twice; the first answer counts.
    async fn call_repeatable<T, C: Future<Output = Result<T, Failure>>>(
        &self,
        call: impl Fn() -> C,
    ) -> Result<T, Failure> {
        let hits = self.draw();
        self.call(&hits, || async {
            let result = call().await;
            if has(&hits, Kind::Duplicate) {
                let _ = call().await;
            }
            result
        })
        .await
    }
}

fn has(hits: &[Fault], kind: Kind) -> bool {
    hits.iter().any(|fault| fault.kind == kind)
}

struct FaultyQueue {
    inner: Arc<dyn Queue>,
    way: Way,
}

impl Queue for FaultyQueue {
    /// A duplicate is a message that is handed out twice.
    fn receive(
        &self,
        max: usize,
        wait: Duration,
        visibility: Duration,
    ) -> BoxFuture<'_, Result<Vec<Message>, Failure>> {
        async move {
            let hits = self.way.draw();
            let mut messages = self.way.call(&hits, || self.inner.receive(max, wait, visibility)).await?;
            if has(&hits, Kind::Duplicate) {
                messages.extend(messages.clone());
            }
            Ok(messages)
        }
        .boxed()
    }

    fn delete(&self, receipts: Vec<String>) -> BoxFuture<'_, Results<()>> {
        async move { self.way.call_repeatable(|| self.inner.delete(receipts.clone())).await }.boxed()
    }

    fn extend(&self, receipts: Vec<String>, visibility: Duration) -> BoxFuture<'_, Results<()>> {
        async move { self.way.call_repeatable(|| self.inner.extend(receipts.clone(), visibility)).await }.boxed()
    }

    fn send(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Results<()>> {
        async move { self.way.call_repeatable(|| self.inner.send(messages.clone())).await }.boxed()
    }

    fn depth(&self) -> BoxFuture<'_, Result<Depth, Failure>> {
        async move { self.way.call_repeatable(|| self.inner.depth()).await }.boxed()
    }
}

struct FaultyBus {
    inner: Arc<dyn Bus>,
    way: Way,
}

impl Bus for FaultyBus {
    fn put(&self, entries: Vec<Entry>) -> BoxFuture<'_, Result<Vec<Put>, Failure>> {
        async move {
            let hits = self.way.draw();
            self.way.call(&hits, || self.inner.put(entries)).await
        }
        .boxed()
    }
}

struct FaultyClaims {
    inner: Arc<dyn Claims>,
    way: Way,
}

impl Claims for FaultyClaims {
    fn insert(&self, claims: Vec<Claim>) -> BoxFuture<'_, Results<Inserted>> {
        async move { self.way.call_repeatable(|| self.inner.insert(claims.clone())).await }.boxed()
    }

    fn take_over(&self, claim: Claim, from: Token) -> BoxFuture<'_, Result<bool, Failure>> {
        async move { self.way.call_repeatable(|| self.inner.take_over(claim.clone(), from)).await }.boxed()
    }

    fn mark(&self, marks: Vec<(KeyHash, Token, Option<String>)>, at: Timestamp) -> BoxFuture<'_, Results<bool>> {
        async move { self.way.call_repeatable(|| self.inner.mark(marks.clone(), at)).await }.boxed()
    }

    fn release(&self, claims: Vec<(KeyHash, Token)>) -> BoxFuture<'_, Results<bool>> {
        async move { self.way.call_repeatable(|| self.inner.release(claims.clone())).await }.boxed()
    }

    fn list(&self, part: Part, after: Option<KeyHash>) -> BoxFuture<'_, Result<Listed, Failure>> {
        async move { self.way.call_repeatable(|| self.inner.list(part, after)).await }.boxed()
    }

    fn get(&self, keys: Vec<KeyHash>) -> BoxFuture<'_, Result<Vec<Option<Row>>, Failure>> {
        async move { self.way.call_repeatable(|| self.inner.get(keys.clone())).await }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::{
        embedded::system::{Random, SystemClock},
        faults::Order,
    };

    /// Counts its puts.
    #[derive(Default)]
    struct Counting(AtomicU32);

    impl Bus for Counting {
        fn put(&self, entries: Vec<Entry>) -> BoxFuture<'_, Result<Vec<Put>, Failure>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            async move { Ok(entries.iter().map(|_| Put::Accepted("id".to_owned())).collect()) }.boxed()
        }
    }

    /// One message, always.
    struct One;

    impl Queue for One {
        fn receive(&self, _: usize, _: Duration, _: Duration) -> BoxFuture<'_, Result<Vec<Message>, Failure>> {
            async {
                let (id, body, receipt) = ("m".to_owned(), String::new(), "r".to_owned());
                let (attributes, trace) = (Default::default(), None);
                Ok(vec![Message { id, body, receipt, sent: Timestamp::ZERO, received: 1, attributes, trace }])
            }
            .boxed()
        }

        fn delete(&self, receipts: Vec<String>) -> BoxFuture<'_, Results<()>> {
            async move { Ok(vec![Ok(()); receipts.len()]) }.boxed()
        }

        fn extend(&self, receipts: Vec<String>, _: Duration) -> BoxFuture<'_, Results<()>> {
            self.delete(receipts)
        }

        fn send(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Results<()>> {
            async move { Ok(vec![Ok(()); messages.len()]) }.boxed()
        }

        fn depth(&self) -> BoxFuture<'_, Result<Depth, Failure>> {
            async { Ok(Depth::default()) }.boxed()
        }
    }

    struct Fixture {
        faults: Arc<Faults>,
        peer: Way,
        home: Way,
        puts: Arc<Counting>,
    }

    fn fixture() -> Fixture {
        let faults = Arc::new(Faults::new(true, Arc::new(SystemClock), Arc::new(Random::from_system())));
        let crash: CrashHook = Arc::new(|| {});
        let peer = Way::new("us", false, faults.clone(), crash.clone());
        let home = Way::new("eu", true, faults.clone(), crash);
        Fixture { faults, peer, home, puts: Arc::default() }
    }

    impl Fixture {
        fn inject(&self, kind: Kind, peer: Option<&str>) {
            let order = Order {
                kind,
                peer: peer.map(str::to_owned),
                direction: Direction::Both,
                delay_ms: 7,
                probability: 1.0,
                for_ms: None,
            };
            self.faults.inject(order).unwrap();
        }

        async fn put(&self, way: &Way) -> Result<Vec<Put>, Failure> {
            way.bus(self.puts.clone()).put(vec![Entry::default()]).await
        }

        fn puts(&self) -> u32 {
            self.puts.0.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn a_partition_cuts_a_peer_off_and_leaves_the_regions_own_services() {
        let fixture = fixture();
        for peer in [None, Some("us")] {
            fixture.faults.clear(None, None);
            fixture.inject(Kind::Partition, peer);
            assert!(matches!(fixture.put(&fixture.peer).await, Err(Failure::Unanswered(_))));
            assert!(fixture.put(&fixture.home).await.is_ok());
        }
        assert_eq!(fixture.puts(), 2, "what is cut off is not called");
    }

    #[tokio::test]
    async fn a_fault_with_one_region_leaves_the_others() {
        let fixture = fixture();
        fixture.inject(Kind::Throttle, Some("eu"));
        let after = Duration::from_millis(7);
        assert_eq!(fixture.put(&fixture.home).await, Err(Failure::Throttled { after }));
        assert!(fixture.put(&fixture.peer).await.is_ok());
    }

    #[tokio::test]
    async fn a_lost_answer_leaves_what_was_done_and_no_bus_is_called_twice() {
        let fixture = fixture();
        fixture.inject(Kind::TimeoutAfterSuccess, None);
        fixture.inject(Kind::Duplicate, None);
        assert!(matches!(fixture.put(&fixture.peer).await, Err(Failure::Unanswered(_))));
        assert_eq!(fixture.puts(), 1);
    }

    #[tokio::test]
    async fn a_duplicate_at_a_queue_is_a_message_handed_out_twice() {
        let fixture = fixture();
        fixture.inject(Kind::Duplicate, None);
        let queue = fixture.home.queue(Arc::new(One));
        let received = queue.receive(10, Duration::ZERO, Duration::ZERO).await.unwrap();
        assert_eq!(received.iter().map(|message| message.id.as_str()).collect::<Vec<_>>(), ["m", "m"]);
    }
}
