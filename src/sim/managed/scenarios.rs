//! Histories that a random run meets too seldom, each with the one fault that it is about.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::{
    later,
    wire::Op,
    world::{DAY, DETAIL_TYPE, Profile, SOURCE, World},
};
use crate::{
    core::{envelope::Event, ingress::Ingress, json, time::Timestamp},
    sim::{Outcome, Settings, chance::Chance, in_virtual_time},
};

const KEPT: &str = "kept0";
const MORTAL: &str = "mortal0";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// Every first answer of a ledger is lost: the row is there, under a token that only its writer knows.
    ClaimReplyLost,
    /// Messages become visible to others while they are worked on.
    VisibilityExpires,
    /// The queues hear of an event a day late. Its producer tried again in another region meanwhile.
    DayLate,
    /// Of two agents one dies between put and mark.
    KilledBetweenPutAndMark,
    /// Two regions publish one key with two payloads.
    TwoPayloads,
    /// A service publishes what it received as another event, with the stamp and the key in it.
    InheritedStamp,
    /// An agent cannot mark for longer than its lease; another takes the claim over, and then the first one comes back.
    LateHolderComesBack,
    /// Regions that cannot talk change one document, delete another, and do one request twice.
    DocumentsApart,
    /// A document is written and nobody hears of it, or nothing of it arrives.
    TableUnanswered,
    /// An agent dies between the table and the bus: nothing but comparing tells the others.
    KilledBetweenTableAndBus,
    /// Deletes are forgotten in the end, and what was said before them comes after.
    DeletesForgotten,
}

impl Scenario {
    pub const ALL: [Scenario; 11] = [
        Scenario::ClaimReplyLost,
        Scenario::VisibilityExpires,
        Scenario::DayLate,
        Scenario::KilledBetweenPutAndMark,
        Scenario::TwoPayloads,
        Scenario::InheritedStamp,
        Scenario::LateHolderComesBack,
        Scenario::DocumentsApart,
        Scenario::TableUnanswered,
        Scenario::KilledBetweenTableAndBus,
        Scenario::DeletesForgotten,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Scenario::ClaimReplyLost => "claim-reply-lost",
            Scenario::VisibilityExpires => "visibility-expires",
            Scenario::DayLate => "day-late",
            Scenario::KilledBetweenPutAndMark => "killed-between-put-and-mark",
            Scenario::TwoPayloads => "two-payloads-managed",
            Scenario::InheritedStamp => "inherited-stamp",
            Scenario::LateHolderComesBack => "late-holder-comes-back",
            Scenario::DocumentsApart => "documents-apart",
            Scenario::TableUnanswered => "table-unanswered",
            Scenario::KilledBetweenTableAndBus => "killed-between-table-and-bus",
            Scenario::DeletesForgotten => "deletes-forgotten",
        }
    }

    fn agents(self) -> u64 {
        match self {
            Scenario::VisibilityExpires
            | Scenario::KilledBetweenPutAndMark
            | Scenario::LateHolderComesBack
            | Scenario::KilledBetweenTableAndBus => 2,
            _ => 1,
        }
    }

    /// How often documents are compared, where there are any.
    fn documents(self) -> Option<Duration> {
        let has_some = matches!(
            self,
            Scenario::DocumentsApart
                | Scenario::TableUnanswered
                | Scenario::KilledBetweenTableAndBus
                | Scenario::DeletesForgotten
        );
        has_some.then_some(Duration::from_secs(10))
    }
}

/// Plays a scenario, with everything that a seed decides drawn from this one.
///
/// # Errors
/// The runtime or an agent does not start.
pub fn run(scenario: Scenario, seed: u64) -> Result<Outcome, String> {
    in_virtual_time(async move {
        let settings = Settings { faults: BTreeSet::new(), lines: true, ..Settings::default() };
        let profile = Profile {
            agents: scenario.agents(),
            in_flight: 100,
            unmarked_max: 50,
            events_per_second: None,
            api_only: true,
            payloads: 0,
            forward: false,
            part_bytes: 1_000,
            server_side: true,
            documents: scenario.documents(),
        };
        let mut world = World::new(seed, &settings, profile, Chance::new(seed, "scenario"))?;
        for index in 0..world.nodes.len() {
            world.up(index)?;
        }
        wait(1).await;
        play(&mut world, scenario).await?;
        let converged = world.heal_and_converge().await?;
        Ok(world.outcome(seed, converged))
    })
}

async fn wait(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

fn detail(n: u64) -> String {
    format!("{{\"n\":{n},\"idempotencyKey\":\"k{n}\"}}")
}

/// The agents of region `a` come first.
async fn play(world: &mut World, scenario: Scenario) -> Result<(), String> {
    let agents = world.profile.agents as usize;
    match scenario {
        Scenario::ClaimReplyLost => {
            // The local keys' and each link's.
            for _ in 0..3 {
                world.wire.lose_next_reply("a0", Op::Insert);
            }
            world.publish_raw(0, DETAIL_TYPE, &detail(1), true);
            wait(60).await;
        }
        Scenario::VisibilityExpires => {
            world.regions[0].queues().for_each(|queue| queue.set_repeats(0.6));
            for region in ["b", "c"] {
                world.wire.change("a", region, |quality| quality.delay_max_ms = 2_000);
            }
            for n in 0..20 {
                world.publish_raw(0, DETAIL_TYPE, &detail(n), true);
            }
            wait(60).await;
        }
        Scenario::DayLate => {
            world.regions[0].bus.change(|quality| {
                quality.late = 1.0;
                quality.late_max = DAY;
            });
            world.publish(0, vec![detail(1)]);
            wait(60).await;
            world.publish(agents, vec![detail(1)]);
            tokio::time::sleep(DAY).await;
        }
        Scenario::KilledBetweenPutAndMark => {
            world.wire.trip("a0", Op::Put);
            for n in 0..60 {
                world.publish_raw(0, DETAIL_TYPE, &detail(n), true);
            }
            wait(60).await;
            world.bury();
        }
        Scenario::TwoPayloads => {
            world.publish(0, vec![detail(1)]);
            world.publish(agents, vec!["{\"n\":2,\"idempotencyKey\":\"k1\"}".to_owned()]);
            wait(60).await;
        }
        Scenario::InheritedStamp => {
            world.publish(0, vec![detail(1)]);
            wait(10).await;
            let received = stamped(&detail(1)).ok_or("the event cannot be stamped")?;
            world.publish_raw(1, "Shipped", &received, true);
            wait(60).await;
        }
        Scenario::LateHolderComesBack => {
            world.wire.mute("a0", Op::Mark, Instant::now() + Duration::from_secs(45));
            world.regions[0].queues().for_each(|queue| queue.set_repeats(0.6));
            for n in 0..20 {
                world.publish_raw(0, DETAIL_TYPE, &detail(n), true);
            }
            wait(60).await;
        }
        Scenario::DocumentsApart => apart(world).await,
        Scenario::TableUnanswered => unanswered(world).await,
        Scenario::KilledBetweenTableAndBus => {
            world.wire.trip("a0", Op::Write);
            let lost = world.request(0, KEPT, "", false);
            wait(1).await;
            world.bury();
            wait(60).await;
            world.expect_members(KEPT, &[lost]).await;
        }
        Scenario::DeletesForgotten => later::play(world).await?,
    }
    Ok(())
}

async fn apart(world: &mut World) {
    let before = world.request(0, MORTAL, "", false);
    wait(20).await;
    world.expect_members(MORTAL, &[before]).await;
    for other in ["b", "c"] {
        world.wire.change("a", other, |quality| quality.cut = true);
        world.wire.change(other, "a", |quality| quality.cut = true);
    }
    let name = |name| format!(r#",{{"field":"name","op":"set","value":"{name}"}}"#);
    let mut kept = vec![world.request(0, KEPT, &name("of a"), false), world.request(1, KEPT, &name("of b"), false)];
    let twice = world.request(0, KEPT, "", true);
    world.ask(1, twice);
    kept.push(twice);
    world.delete_document(0, MORTAL);
    let beside = world.request(1, MORTAL, "", false);
    wait(60).await;
    world.wire.heal();
    wait(60).await;
    world.expect_members(KEPT, &kept).await;
    world.expect_members(MORTAL, &[beside]).await;
}

async fn unanswered(world: &mut World) {
    let mut kept = Vec::new();
    for is_keyed in [true, false, false] {
        world.wire.lose_next_reply("a0", Op::Write);
        kept.push(world.request(0, KEPT, "", is_keyed));
        wait(20).await;
    }
    // Not done here, and asked for elsewhere.
    world.wire.mute("a0", Op::Write, Instant::now() + Duration::from_secs(40));
    kept.push(world.request(0, KEPT, "", true));
    wait(20).await;
    world.ask(1, kept[3]);
    wait(60).await;
    world.ask(0, kept[3]);
    wait(30).await;
    world.expect_members(KEPT, &kept).await;
}

/// A detail as a peer of region `a` receives it.
fn stamped(detail: &str) -> Option<String> {
    let ingress = Ingress {
        key_pointers: vec!["/detail/idempotencyKey".to_owned()],
        reference_pointers: vec![],
        max_entry_bytes: 0,
    };
    let envelope = format!(
        "{{\"id\":\"id-1\",\"detail-type\":{},\"source\":{},\"detail\":{detail}}}",
        json::quote(DETAIL_TYPE),
        json::quote(SOURCE)
    );
    let event = Event::read(&envelope, "a", &ingress).ok()?;
    Some(event.entry("a", Timestamp(1), None).detail)
}
