use futures::{FutureExt, future::BoxFuture};

use super::{documents::FaultyDocuments, *};
use crate::{
    core::link::Failure,
    embedded::system::{Random, SystemClock},
    ports::documents::{Answer, Question, RemoteDocuments},
};

fn faults(enabled: bool) -> Faults {
    Faults::new(enabled, Arc::new(SystemClock), Arc::new(Random::seeded(1)))
}

fn order(kind: Kind) -> Order {
    Order { kind, peer: None, direction: Direction::Both, delay_ms: 100, probability: 1.0, for_ms: None }
}

#[test]
fn nothing_is_injected_where_faults_are_not_enabled() {
    assert_eq!(faults(false).inject(order(Kind::Drop)), Err(Error::Disabled));
}

#[test]
fn an_order_that_makes_no_sense_is_refused() {
    let faults = faults(true);
    assert!(faults.inject(Order { probability: 1.5, ..order(Kind::Drop) }).is_err());
    assert!(faults.inject(Order { delay_ms: -5, ..order(Kind::Delay) }).is_err());
    assert!(faults.inject(Order { delay_ms: -5, ..order(Kind::ClockSkew) }).is_ok());
}

#[test]
fn a_fault_hits_its_peer_and_direction_only() {
    let faults = faults(true);
    let peer = Some("b".to_owned());
    faults.inject(Order { peer, direction: Direction::Out, ..order(Kind::Partition) }).unwrap();
    assert_eq!(faults.draw("b", Direction::Out).len(), 1);
    assert_eq!(faults.draw("b", Direction::In).len(), 0);
    assert_eq!(faults.draw("c", Direction::Out).len(), 0);
}

#[test]
fn a_fault_hits_as_often_as_its_probability_says() {
    let faults = faults(true);
    faults.inject(Order { probability: 0.25, ..order(Kind::Drop) }).unwrap();
    let hits = (0..4000).filter(|_| !faults.draw("b", Direction::Out).is_empty()).count();
    assert!((800..1200).contains(&hits), "{hits}");
}

#[test]
fn clearing_by_kind_and_peer_leaves_the_others() {
    let faults = faults(true);
    for kind in [Kind::Drop, Kind::Delay] {
        for peer in ["b", "c"] {
            faults.inject(Order { peer: Some(peer.to_owned()), ..order(kind) }).unwrap();
        }
    }
    assert_eq!(faults.clear(Some(Kind::Drop), Some("b")), 1);
    assert_eq!(faults.clear(Some(Kind::Drop), None), 1);
    assert_eq!(faults.clear(None, Some("c")), 1);
    assert_eq!(faults.clear(None, None), 1);
}

#[test]
fn a_fault_ends_by_itself() {
    let faults = faults(true);
    faults.inject(Order { for_ms: Some(0), ..order(Kind::Partition) }).unwrap();
    assert!(faults.list().is_empty());
}

/// A peer that knows of no documents, and how often it was asked.
#[derive(Default)]
struct Asked(AtomicU64);

impl RemoteDocuments for Asked {
    fn ask(&self, _: Question) -> BoxFuture<'_, Result<Answer, Failure>> {
        async {
            self.0.fetch_add(1, Ordering::SeqCst);
            Ok(Answer::Sums(Vec::new()))
        }
        .boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn questions_about_documents_are_spoiled_on_their_way_out() {
    let (faults, asked) = (Arc::new(faults(true)), Arc::new(Asked::default()));
    let remote = FaultyDocuments::new(asked.clone(), "b", faults.clone(), Arc::new(|| {}));
    let ask = async || remote.ask(Question::Sums(Vec::new())).await;
    let injected = |kind: &str| Err(Failure::Unanswered(format!("injected {kind}")));
    let throttled = Err(Failure::Throttled { after: Duration::from_millis(100) });
    let answered = Ok(Answer::Sums(Vec::new()));
    for (kind, direction, expected, calls) in [
        (Kind::Partition, Direction::Both, injected("partition"), 0),
        (Kind::Throttle, Direction::Out, throttled, 0),
        (Kind::TimeoutAfterSuccess, Direction::Out, injected("timeout-after-success"), 1),
        (Kind::Delay, Direction::Out, answered.clone(), 1),
        (Kind::Partition, Direction::In, answered, 1),
    ] {
        let (before, began) = (asked.0.load(Ordering::SeqCst), tokio::time::Instant::now());
        faults.inject(Order { direction, ..order(kind) }).unwrap();
        assert_eq!(ask().await, expected, "{kind}");
        assert_eq!(asked.0.load(Ordering::SeqCst) - before, calls, "{kind}");
        assert_eq!(began.elapsed() >= Duration::from_millis(100), kind == Kind::Delay);
        faults.clear(None, None);
    }
}
