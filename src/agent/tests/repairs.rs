//! Two agents at one address: a region's copy and its original, one of which is gone later.

use super::*;
use crate::core::{
    batch::{Kind as BatchKind, Repaired},
    position::{Incarnation, Position},
};

#[tokio::test]
async fn a_repair_that_came_to_another_agent_of_the_region_is_not_at_its_end() {
    let cluster = Cluster::start("").await;
    let ends = &cluster.agent("b").links["a"].ends;
    let inbox = cluster.agent("a").inbox.clone();
    let ended = inbox.repaired["b"].clone();
    for (places, is_here) in [(vec![(Incarnation(99), 5)], false), (Vec::new(), true)] {
        let repaired = Repaired { asked: 7, places, high_waters: Vec::new(), strays: Vec::new() };
        let opening = ends.opening(BatchKind::Repaired(Box::new(repaired)));
        inbox.deliver(Batch { opening, records: Vec::new() }).await.unwrap();
        assert_eq!(ended.wait_for(7).now_or_never().is_some(), is_here);
    }
}

#[tokio::test]
async fn what_nobody_holds_back_any_more_and_the_peer_was_told_is_held_comes_to_it() {
    let link = "[[link]]\nfrom = \"a\"\nto = \"b\"\npattern = { detail = { pass = [true] } }\n";
    let cluster = Cluster::start(link).await;
    let Published::Accepted(id) = cluster.publish("a", "left-out", r#"{"pass":false}"#).await else { panic!() };
    cluster.passed("a", "b").await;
    let position: Position = id.0;
    let hole = Change::Holes { origin: "a".to_owned(), holes: vec![position] };
    assert!(!cluster.effects("b").await.iter().any(|(key, _)| key == "left-out"));
    cluster.agent("b").hub.note(vec![hole.into()]).await.unwrap();
    cluster.converges_to(&["left-out"]).await;
    cluster
        .eventually("the hole is closed", |cluster| {
            read_state(&*cluster.agent("b").hub, |state| state.holes.is_empty()) && cluster.link("a", "b").held == 0
        })
        .await;
}
