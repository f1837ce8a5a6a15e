//! The AWS backend against an emulated AWS, and beside it the least that could do the same work.
//!
//! A backlog of events of 1 KB waits in one region; an agent brings it to the other. Counted are the calls for each event,
//! the agent's CPU, and its throughput as a ratio to a loop of the same SDK calls without a ledger, by turns in one run.
//! Local keys and arrivals are measured by themselves: each has a queue of its own, and would share the emulator.
//!
//! ```text
//! cargo bench --bench aws -- [--quick] [--events N] [--runs N] [--one-emulator]
//! ```
//!
//! The emulator is Python on one core and slower than what it serves, so events a second say nothing of AWS; calls and CPU do.
//! DynamoDB has an emulator of its own, as on AWS it takes no time from SQS and EventBridge, which are all that the loop uses;
//! with `--one-emulator` all share one.

#![expect(clippy::expect_used, clippy::panic, reason = "a benchmark that cannot go on must stop")]

mod agent;
mod emulators;
mod minimal;
#[path = "../../tests/support/ministack.rs"]
mod ministack;
mod report;

use std::time::Duration;

use agent::{Agent, Cluster, HOME, PEER};
use emulators::Emulators;
use minimal::Services;
use report::{Report, Run};
use tokio::time::{Instant, sleep, timeout};

/// As `agent::managed` and `agent::queue_link` have them.
const RECEIVES: usize = 8;
const CALLS: usize = 4;

/// How often is looked how far it is; both sides the same.
const LOOK: Duration = Duration::from_millis(25);

/// A phase that takes longer is stuck.
const PATIENCE: Duration = Duration::from_secs(120);

struct Options {
    events: usize,
    runs: usize,
    one_emulator: bool,
}

fn options() -> Options {
    let mut options = Options { events: 4_000, runs: 3, one_emulator: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let given = arguments.next().and_then(|number| number.parse().ok());
            given.unwrap_or_else(|| panic!("{argument} takes a number"))
        };
        match argument.as_str() {
            "--quick" => (options.events, options.runs) = (500, 1),
            "--events" => options.events = number(),
            "--runs" => options.runs = number(),
            "--one-emulator" => options.one_emulator = true,
            // Cargo's own.
            "--bench" => {}
            _ => panic!("{argument}: there are --quick, --events N, --runs N, --one-emulator"),
        }
    }
    options
}

#[tokio::main]
async fn main() {
    let Options { events, runs, one_emulator } = options();
    let emulators = Emulators::start(one_emulator);
    let mut report = Report::new(events, emulators.are_two());
    for run in 1..=runs {
        eprintln!("run {run}/{runs}: hubweave ...");
        report.agents.push(of_agents(&emulators, events).await);
        eprintln!("run {run}/{runs}: the same calls without a ledger ...");
        report.loops.push(of_loop(&emulators, events).await);
    }
    report.cost = Cluster::new(&emulators).cost();
    println!("{report}");
}

/// A region whose hub took in `events`, which nobody has looked at yet.
async fn loaded(emulators: &Emulators, events: usize) -> (Cluster, Services) {
    emulators.reset();
    let cluster = Cluster::new(emulators);
    cluster.provision();
    let home = Services::of(HOME, emulators);
    let began = Instant::now();
    home.publish(cluster.hub(), events, RECEIVES).await;
    eprintln!("  {events} events published in {:.1} s", began.elapsed().as_secs_f64());
    (cluster, home)
}

async fn of_agents(emulators: &Emulators, events: usize) -> report::Agents {
    let (cluster, home) = loaded(emulators, events).await;
    let all = events as f64;
    let entered = |agent: &Agent| agent.sum("hubweave_local_entries_total", "");
    let keys = run(emulators, cluster.agent(HOME, false), all, entered).await;
    let delivered = |agent: &Agent| agent.sum("hubweave_events_forwarded_total", r#"result="delivered""#);
    let link = run(emulators, cluster.agent(HOME, true), all, delivered).await;
    assert_eq!(home.depth(&cluster.feed()).await, 0, "what was delivered is deleted");
    let audited = |agent: &Agent| agent.sum("hubweave_stamps_audited_total", r#"result="genuine""#);
    let arrivals = run(emulators, cluster.agent(PEER, false), all, audited).await;
    report::Agents { link, keys, arrivals }
}

/// Lets an agent work until it has done with all events, and stops it.
async fn run(emulators: &Emulators, mut agent: Agent, all: f64, done: impl Fn(&Agent) -> f64) -> Run {
    let before = emulators.taken();
    let per_second = rate(all, || done(&agent)).await;
    let taken = emulators.taken().since(before);
    // What follows the last event; and what an agent does when nothing happens is not the events'.
    agent.stop().await;
    Run { per_second, cpu_seconds: agent.cpu_seconds, taken, calls: agent.calls.clone() }
}

async fn of_loop(emulators: &Emulators, events: usize) -> Run {
    let (cluster, home) = loaded(emulators, events).await;
    let peer = Services::of(PEER, emulators);
    let before = (emulators.taken(), own_cpu());
    let mut forwarding = minimal::Forwarding::start(home.clone(), cluster.feed(), peer, cluster.hub(), RECEIVES, CALLS);
    let per_second = rate(events as f64, || forwarding.count() as f64).await;
    let taken = emulators.taken().since(before.0);
    let cpu_seconds = own_cpu() - before.1;
    forwarding.stop();
    Run { per_second, cpu_seconds, taken, calls: Default::default() }
}

/// Events a second from the first that is done to the last.
async fn rate(all: f64, mut count: impl FnMut() -> f64) -> f64 {
    let watched = async {
        let (mut first, mut last) = (None, 0.0);
        loop {
            let (at, now) = (Instant::now(), count());
            if now > 0.0 && first.is_none() {
                first = Some((at, now));
            }
            if let Some((began, before)) = first
                && now >= all
            {
                return (now - before) / at.duration_since(began).as_secs_f64();
            }
            assert!(now >= last, "a count that falls");
            last = now;
            sleep(LOOK).await;
        }
    };
    timeout(PATIENCE, watched).await.expect("a backlog comes to its end")
}

fn own_cpu() -> f64 {
    agent::cpu_seconds(std::process::id())
}
