//! The AWS backend against an emulated AWS, and beside it the least that could do the same work.
//!
//! A backlog of events of 1 KB waits in one region; an agent brings it to the other. Counted are the calls for each event,
//! the agent's CPU, and its throughput as a ratio to a loop of the same SDK calls without a ledger, by turns in one run.
//! Local keys and arrivals are measured by themselves: each has a queue of its own, and would share the emulator.
//!
//! ```text
//! cargo bench --bench aws -- [--quick] [--events N] [--runs N]
//! ```
//!
//! The emulator is one Python process and slower than what it serves, so events a second say nothing of AWS; calls, CPU and
//! ratio do.

#![expect(clippy::expect_used, clippy::panic, reason = "a benchmark that cannot go on must stop")]

mod agent;
mod minimal;
#[path = "../../tests/support/ministack.rs"]
mod ministack;
mod report;

use std::time::Duration;

use agent::{Agent, Cluster, HOME, PEER};
use minimal::Services;
use ministack::MiniStack;
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
}

fn options() -> Options {
    let mut options = Options { events: 4_000, runs: 3 };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let given = arguments.next().and_then(|number| number.parse().ok());
            given.unwrap_or_else(|| panic!("{argument} takes a number"))
        };
        match argument.as_str() {
            "--quick" => options = Options { events: 500, runs: 1 },
            "--events" => options.events = number(),
            "--runs" => options.runs = number(),
            // Cargo's own.
            "--bench" => {}
            _ => panic!("{argument}: there are --quick, --events N, --runs N"),
        }
    }
    options
}

#[tokio::main]
async fn main() {
    let Options { events, runs } = options();
    let mut report = Report::new(events);
    for run in 1..=runs {
        eprintln!("run {run}/{runs}: hubweave ...");
        report.agents.push(of_agents(events).await);
        eprintln!("run {run}/{runs}: the same calls without a ledger ...");
        report.loops.push(of_loop(events).await);
    }
    report.cost = Cluster::new().cost();
    println!("{report}");
}

/// A region whose hub took in `events`, which nobody has looked at yet.
async fn loaded(events: usize) -> (Cluster, Services) {
    minimal::reset().await;
    let cluster = Cluster::new();
    cluster.provision();
    let home = Services::of(HOME);
    let began = Instant::now();
    home.publish(cluster.hub(), events, RECEIVES).await;
    eprintln!("  {events} events published in {:.1} s", began.elapsed().as_secs_f64());
    (cluster, home)
}

async fn of_agents(events: usize) -> report::Agents {
    let (cluster, home) = loaded(events).await;
    let all = events as f64;
    let entered = |agent: &Agent| agent.sum("hubweave_local_entries_total", "");
    let keys = run(cluster.agent(HOME, false), all, entered).await;
    let delivered = |agent: &Agent| agent.sum("hubweave_events_forwarded_total", r#"result="delivered""#);
    let link = run(cluster.agent(HOME, true), all, delivered).await;
    assert_eq!(home.depth(&cluster.feed()).await, 0, "what was delivered is deleted");
    let audited = |agent: &Agent| agent.sum("hubweave_stamps_audited_total", r#"result="genuine""#);
    let arrivals = run(cluster.agent(PEER, false), all, audited).await;
    report::Agents { link, keys, arrivals }
}

/// Lets an agent work until it has done with all events, and stops it.
async fn run(mut agent: Agent, all: f64, done: impl Fn(&Agent) -> f64) -> Run {
    let before = emulator_cpu();
    let per_second = rate(all, || done(&agent)).await;
    let emulator_cpu = emulator_cpu() - before;
    // What follows the last event; and what an agent does when nothing happens is not the events'.
    agent.stop().await;
    Run { per_second, cpu_seconds: agent.cpu_seconds, emulator_cpu, calls: agent.calls.clone() }
}

async fn of_loop(events: usize) -> Run {
    let (cluster, home) = loaded(events).await;
    let peer = Services::of(PEER);
    let before = (emulator_cpu(), own_cpu());
    let mut forwarding = minimal::Forwarding::start(home.clone(), cluster.feed(), peer, cluster.hub(), RECEIVES, CALLS);
    let per_second = rate(events as f64, || forwarding.count() as f64).await;
    let emulator_cpu = emulator_cpu() - before.0;
    let cpu_seconds = own_cpu() - before.1;
    forwarding.stop();
    Run { per_second, cpu_seconds, emulator_cpu, calls: Default::default() }
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

fn emulator_cpu() -> f64 {
    agent::cpu_seconds(MiniStack::get().process_id())
}

fn own_cpu() -> f64 {
    agent::cpu_seconds(std::process::id())
}
