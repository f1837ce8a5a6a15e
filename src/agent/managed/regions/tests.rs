use std::sync::Arc;

use tokio::time::sleep;

use super::{
    super::tests::{MemoryShared, NoClaims, World},
    *,
};
use crate::{
    agent::regions::failover::{self, Request},
    core::{
        region::{Kept, Mode},
        time::Timestamp,
    },
    ports::clock::Clock,
};

const NAMES: [&str; 3] = ["ap", "eu", "us"];

/// Wall time that goes as paused time does.
struct Virtual(Instant);

impl Clock for Virtual {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000).plus(self.0.elapsed())
    }
}

/// Three regions of two agents each.
struct Sites {
    worlds: BTreeMap<&'static str, World>,
    agents: BTreeMap<&'static str, Vec<Arc<Managed>>>,
    clock: Arc<Virtual>,
}

impl Sites {
    async fn new() -> Sites {
        let worlds: BTreeMap<_, _> = NAMES.into_iter().map(|name| (name, World::default())).collect();
        let mut sites = Sites { worlds, agents: BTreeMap::new(), clock: Arc::new(Virtual(Instant::now())) };
        for (at, name) in NAMES.into_iter().enumerate() {
            let agents = (0..2).map(|nth| sites.start(name, (at * 10 + nth) as u64)).collect();
            sites.agents.insert(name, agents);
        }
        // Everybody has told something.
        sleep(Duration::from_secs(60)).await;
        sites
    }

    fn start(&self, name: &'static str, seed: u64) -> Arc<Managed> {
        let table = |other: &'static str| (other, Some(self.worlds[other].shared.clone()));
        let others: Vec<_> = NAMES.into_iter().filter(|other| *other != name).map(table).collect();
        self.worlds[name].agent_of(name, seed, Arc::new(NoClaims), &others, self.clock.clone())
    }

    fn agent(&self, name: &str) -> &Managed {
        &self.agents[name][0]
    }

    fn table(&self, name: &str) -> &MemoryShared {
        &self.worlds[name].shared
    }

    /// What all agents of a region say of one, where they agree.
    fn state(&self, by: &str, of: &str) -> Option<State> {
        let states = self.agents[by].iter().map(|agent| {
            let regions = &agent.regions;
            regions.view().state(of, &regions.members)
        });
        let states: Vec<State> = states.collect();
        states.windows(2).all(|pair| pair[0] == pair[1]).then(|| states[0])
    }
}

fn request(region: &str, mode: Mode) -> Request {
    Request {
        region: region.to_owned(),
        mode,
        force: false,
        alone: false,
        by: "a test".to_owned(),
        reason: String::new(),
        drill: true,
        wait: Duration::from_secs(900),
    }
}

#[tokio::test(start_paused = true)]
async fn a_region_is_drained_as_far_as_queues_tell_and_comes_back() {
    let sites = Sites::new().await;
    let us = sites.agent("us");
    assert_eq!(us.regions.unhealthy(), None);
    let done = sites.agent("eu").commands().evacuate(&request("us", Mode::Graceful)).await.unwrap();
    assert_eq!((done.to, done.rpo.unwrap().kind, done.open), (State::Evacuated, "estimated", Vec::new()));
    // A queue must be empty for the settle time after services were refused.
    assert!(done.seconds > 90.0, "{}", done.seconds);
    sleep(Duration::from_secs(30)).await;
    for by in NAMES {
        assert_eq!(sites.state(by, "us"), Some(State::Evacuated), "{by}");
    }
    for agent in &sites.agents["us"] {
        assert_eq!(agent.regions.unhealthy(), Some("the region is evacuated"));
        assert!(agent.refuses().load(std::sync::atomic::Ordering::SeqCst));
    }
    let back = sites.agent("ap").commands().fail_back(&request("us", Mode::Graceful)).await.unwrap();
    assert_eq!((back.to, back.rpo.unwrap().kind), (State::Active, "estimated"));
    sleep(Duration::from_secs(30)).await;
    for agent in &sites.agents["us"] {
        assert_eq!((agent.regions.unhealthy(), agent.status().state), (None, "active"));
        assert!(!agent.refuses().load(std::sync::atomic::Ordering::SeqCst));
    }
    let inventory = sites.agent("eu").inventory("us").await.unwrap();
    assert_eq!((inventory.epoch, inventory.events), (None, 0), "nobody left it as it was");
}

#[tokio::test(start_paused = true)]
async fn a_region_whose_agents_are_gone_is_suspected_and_left_and_nobody_counts_on_it() {
    let sites = Sites::new().await;
    for agent in &sites.agents["us"] {
        agent.stop().await;
    }
    sleep(Duration::from_secs(60)).await;
    let eu = sites.agent("eu");
    assert_eq!(eu.regions.heard.suspects(), ["us"]);
    // Its table still votes; but it is no region that serves.
    let plan = eu.commands().plan(&request("us", Mode::Graceful)).await.unwrap();
    assert!(!plan.possible && plan.checks.iter().any(|check| check.check == "answers" && !check.ok), "{plan:?}");
    let left = eu.commands().plan(&request("ap", Mode::Ungraceful)).await.unwrap();
    let active = left.checks.iter().find(|check| check.check == "active regions left").unwrap();
    assert!(active.detail.starts_with("1 that answer"), "{active:?}");
    let done = eu.commands().evacuate(&request("us", Mode::Ungraceful)).await.unwrap();
    assert_eq!((done.votes, done.rpo.unwrap().kind), (NAMES.map(str::to_owned).to_vec(), "exposed"));
    let again = sites.agent("ap").commands().evacuate(&request("us", Mode::Ungraceful)).await.unwrap();
    assert!(again.already);
    assert!(eu.regions.left()["us"].to.is_none());
    // Nobody of it says that it knows, so it does not come back.
    let back = Request { wait: Duration::from_secs(30), ..request("us", Mode::Graceful) };
    let refused = eu.commands().fail_back(&back).await;
    assert!(matches!(refused, Err(failover::Error::NotYet { .. } | failover::Error::Undecided(_))), "{refused:?}");
    // An agent that starts there does not serve.
    let late = sites.start("us", 99);
    sleep(Duration::from_secs(20)).await;
    assert_ne!(late.regions.unhealthy(), None);
    let back = eu.commands().fail_back(&request("us", Mode::Graceful)).await.unwrap();
    assert_eq!(back.to, State::Active);
    sleep(Duration::from_secs(20)).await;
    assert_eq!(late.regions.unhealthy(), None);
    assert!(eu.regions.left()["us"].to.is_some(), "nothing is added to the inventory any more");
}

#[tokio::test(start_paused = true)]
async fn of_two_commands_at_once_one_is_decided_where_both_would_leave_too_few() {
    let sites = Sites::new().await;
    let (one, other) = (request("us", Mode::Ungraceful), request("eu", Mode::Ungraceful));
    let (first, second) = tokio::join!(async { sites.agent("eu").commands().evacuate(&one).await }, async {
        sites.agent("us").commands().evacuate(&other).await
    });
    let both = Request { region: "ap".to_owned(), ..request("ap", Mode::Ungraceful) };
    let third = sites.agent("ap").commands().evacuate(&both).await;
    let decided = [first.is_ok(), second.is_ok(), third.is_ok()].into_iter().filter(|done| *done).count();
    assert!(decided <= 2, "{first:?} {second:?} {third:?}");
    sleep(Duration::from_secs(60)).await;
    for by in NAMES {
        let active = NAMES.iter().filter(|of| sites.state(by, of) == Some(State::Active)).count();
        assert_eq!(active, 3 - decided, "{by}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_cannot_read_its_table_sends_users_away_and_a_majority_decides_without_it() {
    let sites = Sites::new().await;
    sites.table("us").is_down.store(true, std::sync::atomic::Ordering::Relaxed);
    sleep(Duration::from_secs(60)).await;
    let us = sites.agent("us");
    assert!(us.regions.unhealthy().is_some_and(|why| why.contains("the region's table")));
    let done = sites.agent("eu").commands().evacuate(&request("us", Mode::Ungraceful)).await.unwrap();
    assert_eq!(done.votes, ["ap", "eu"]);
    // Two tables of three are no majority where one more is gone.
    sites.table("ap").is_down.store(true, std::sync::atomic::Ordering::Relaxed);
    let none = sites.agent("eu").commands().fail_back(&request("us", Mode::Graceful)).await;
    assert!(matches!(&none, Err(failover::Error::Undecided(undecided)) if undecided.may_pass()), "{none:?}");
    for name in ["us", "ap"] {
        sites.table(name).is_down.store(false, std::sync::atomic::Ordering::Relaxed);
    }
    sleep(Duration::from_secs(60)).await;
    assert_eq!(us.regions.unhealthy(), Some("the region is evacuated"), "it learned what it had missed");
}

#[tokio::test(start_paused = true)]
async fn what_another_build_wrote_is_not_written_over() {
    let sites = Sites::new().await;
    sites.table("us").overwrite("regions", r#"{"format":2,"is":{}}"#);
    let done = sites.agent("eu").commands().evacuate(&request("us", Mode::Ungraceful)).await.unwrap();
    assert_eq!(done.votes, ["ap", "eu"]);
    use crate::ports::shared::Shared;
    let values = sites.table("us").list().await.unwrap();
    let value = values.iter().find(|value| value.name == "regions").unwrap();
    assert_eq!((value.version, value.text.as_str()), (1_000, r#"{"format":2,"is":{}}"#));
    let failure = table::kept(&values).unwrap_err().to_string();
    assert!(failure.contains("its format is 2, this agent knows 1"), "{failure}");
}

#[test]
fn what_stands_in_the_table_keeps_its_form() {
    let value = |name: &str, text: &str| Value { name: name.to_owned(), version: 3, text: text.to_owned() };
    let fixture = include_str!("../../../../tests/fixtures/regions/table-1.txt");
    let values: Vec<Value> =
        fixture.lines().filter_map(|line| line.split_once(' ')).map(|(name, text)| value(name, text)).collect();
    let (kept, version) = table::kept(&values).unwrap();
    assert_eq!((version, kept.voter.view.decided("us")), (3, State::Evacuated));
    assert_eq!(kept.left["us"].from, 1_700_000_060_000);
    let (report, _) = table::report(&values).unwrap();
    assert_eq!((report.region.as_str(), report.closed), ("us", Some(1_700_000_100_000)));
    assert_eq!(table::compared(&values, "eu").unwrap().0.begun, 2);
    // Written again it is the same.
    assert_eq!(table::written(&kept).unwrap(), values[0].text);
    assert_eq!(table::written(&Some(report)).unwrap(), values[1].text);
    assert_eq!(table::kept(&[]).unwrap(), (Kept::default(), 0));
}

#[tokio::test]
async fn what_another_agent_works_on_for_long_is_known_until_it_is_done_or_gone() {
    use crate::ports::shared::Shared;
    let table = MemoryShared::default();
    let at = |seconds: u64| Timestamp::from_millis(1_000 * seconds);
    let says = async |agent: &str, now: u64, oldest: Option<u64>| {
        let links = oldest.map(|oldest| ("us".to_owned(), at(oldest))).into_iter().collect();
        let values = table.list().await.unwrap();
        table::note_late(&table, &values, agent, table::Late { at: at(now), links }).await.unwrap();
        table.list().await.unwrap()
    };
    let values = says("a", 1_000, Some(500)).await;
    assert_eq!(table::late(&values, "b", "us", at(1_010)), Some(at(500)));
    assert_eq!(table::late(&values, "a", "us", at(1_010)), None, "it knows by itself");
    assert_eq!(table::late(&values, "b", "ap", at(1_010)), None);
    assert_eq!(table::late(&values, "b", "us", at(1_060)), None, "it is gone");
    let values = says("b", 1_020, Some(700)).await;
    assert_eq!(table::late(&values, "c", "us", at(1_030)), Some(at(500)));
    let values = says("a", 1_030, None).await;
    assert_eq!(table::late(&values, "c", "us", at(1_030)), Some(at(700)));
    // Nobody writes where there is nothing to say.
    let before = table.list().await.unwrap();
    assert_eq!(says("c", 1_031, None).await, before);
}
