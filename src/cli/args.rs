//! The command line as clap reads it. What can be refused without an agent is refused here, with exit code 2.

mod backup;
mod drills;
mod failover;
mod simulate;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::Value;

use crate::{
    config::{Address, parse_duration},
    core::{pattern::Pattern, time::Timestamp},
};

pub use backup::{Backup, Restore};
pub use drills::{Agent, Drill, Kill, Release};
pub use failover::{Failover, Order};
pub use simulate::Simulate;

/// Makes an event-driven backend active-active across regions.
#[derive(Debug, Parser)]
#[command(name = "hubweave", version, about, disable_help_subcommand = true, max_term_width = 110)]
pub struct Cli {
    /// The topology file; `-` is standard input [default: $HUBWEAVE_CONFIG, then config/local.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<String>,
    /// One JSON document on standard output, and nothing else
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

/// One sub-command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs every embedded region of the file and shows links and lag
    Up(Up),
    /// Runs one agent in the foreground
    Run(Run),
    /// Validates the file and explains what it will do
    Check,
    /// Prints HUBWEAVE_API_<REGION>=... and HUBWEAVE_ADMIN_<REGION>=... for scripts and experiments
    Env,
    /// Regions, links, lag, backlog, watermarks
    Status(Status),
    /// Publishes events in one region
    Publish(Publish),
    /// Prints a region's events, one JSON envelope a line
    Tail(Tail),
    /// Everything each region knows of one event
    Explain(Explain),
    /// Sends accepted events again over one link; their keys make it harmless
    Replay(Replay),
    /// Sends what one region holds of a lost or restored origin to another region
    Repair(Repair),
    /// Publishes known traffic and writes down what was acknowledged
    Load(Load),
    /// Compares the regions; exit code 1 on any difference
    Verify(Verify),
    /// Dead letters
    #[command(subcommand)]
    Dlq(Dlq),
    /// Documents
    #[command(subcommand)]
    State(State),
    /// Objects of embedded regions
    #[command(subcommand)]
    Object(Object),
    /// Copies an embedded region's data as it is at one moment, while it runs
    Backup(Backup),
    /// Makes a backup the data of its region, whose agent is stopped
    Restore(Restore),
    /// Stops one link
    Pause(Ends),
    /// Starts a paused link
    Resume(Ends),
    /// Faults, on purpose; needs `faults.enabled`
    #[command(subcommand)]
    Fault(Fault),
    /// Experiments: what happens when things fail
    #[command(subcommand)]
    Drill(Drill),
    /// The processes that `up` runs
    #[command(subcommand)]
    Agent(Agent),
    /// Moves users out of a region, and back
    #[command(subcommand)]
    Failover(Failover),
    /// Tries everything that agents need and names what is missing; exit code 1 if something is
    Doctor(Doctor),
    /// What an AWS region needs: as text for other tools, compared, made or removed
    #[cfg(feature = "aws")]
    Provision(Provision),
    /// What replication between the AWS regions will cost a month, item by item
    Cost(Cost),
    /// Runs whole clusters in virtual time, with faults of every kind; exit code 1 if a promise is broken
    Simulate(Simulate),
}

#[derive(Debug, Args)]
pub struct Cost {
    /// Events of services a second, over all AWS regions
    #[arg(long, value_name = "N", value_parser = rate, required_unless_present = "measured", conflicts_with = "measured")]
    pub rate: Option<f64>,
    /// What the running agents count for a while instead, taken for a month
    #[arg(long)]
    pub measured: bool,
    /// For so long
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration, requires = "measured")]
    pub over: Duration,
    /// An agent's admin listener, as REGION=HOST:PORT, once for each [default: the file's, one in each region]
    #[arg(long, value_name = "REGION=ADDRESS", value_parser = agent, requires = "measured")]
    pub agent: Vec<(String, Address)>,
    /// Of one event
    #[arg(long, value_name = "BYTES", default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub size: u32,
    /// Requests of services to documents a second, over all AWS regions
    #[arg(long, value_name = "N", default_value_t = 0.0, value_parser = rate, conflicts_with = "measured")]
    pub requests: f64,
    /// Of one document in its table
    #[arg(long, value_name = "BYTES", default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(1..=399_360))]
    pub document: u32,
    /// In each region
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub agents: u32,
    /// Another table of prices, of the form of config/prices.toml
    #[arg(long, value_name = "FILE")]
    pub prices: Option<PathBuf>,
}

fn agent(text: &str) -> Result<(String, Address), String> {
    let (region, address) = text.split_once('=').ok_or("expected REGION=HOST:PORT")?;
    Ok((region.to_owned(), address.parse()?))
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: Option<f64> = text.parse().ok();
    let plausible = |rate: &f64| rate.is_finite() && (0.0..=1e9).contains(rate);
    rate.filter(plausible).ok_or_else(|| "expected events per second, such as `100` or `0.5`".to_owned())
}

#[derive(Debug, Args)]
pub struct Doctor {
    /// Only this region [default: all of the file]
    #[arg(long)]
    pub region: Option<String>,
}

#[cfg(feature = "aws")]
#[derive(Debug, Args)]
pub struct Provision {
    #[arg(long)]
    pub region: String,
    /// Prints text for this tool [default, without an action: terraform]
    #[arg(long, value_enum, conflicts_with_all = ["apply", "diff", "destroy"])]
    pub format: Option<ProvisionFormat>,
    /// Makes what is absent, and mends what it made; leaves alone what others made
    #[arg(long, conflicts_with_all = ["diff", "destroy"])]
    pub apply: bool,
    /// Compares; exit code 1 if anything is not as planned
    #[arg(long, conflicts_with = "destroy")]
    pub diff: bool,
    /// Removes what it made, with the ledger and everything else in it
    #[arg(long)]
    pub destroy: bool,
}

/// `--format`.
#[cfg(feature = "aws")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProvisionFormat {
    /// A `main.tf.json`
    Terraform,
    /// A template
    Cloudformation,
    /// Least-privilege policies: agent, drill, read-only
    Iam,
}

#[derive(Debug, Args)]
pub struct Up {
    /// Publishes sample traffic and tells a story: a partition, writes on both sides, healing, verify
    #[arg(long)]
    pub demo: bool,
    /// Ends after the story, with the exit code of its `verify`
    #[arg(long, hide = true, requires = "demo")]
    pub demo_exit: bool,
}

#[derive(Debug, Args)]
pub struct Run {
    #[arg(long)]
    pub region: String,
    /// Listens here instead of at the file's `api`
    #[arg(long, value_name = "ADDR")]
    pub api: Option<Address>,
    /// Listens here instead of at the file's `admin`
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<Address>,
    /// Listens here instead of at the file's `health`
    #[arg(long, value_name = "ADDR")]
    pub health: Option<Address>,
    /// How log lines look on standard error; RUST_LOG says which
    #[arg(long, value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Drains and ends when standard input does: then whoever started this agent is gone
    #[arg(long, hide = true)]
    pub parent_pipe: bool,
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub struct Status {
    /// Draws it again every second, until Ctrl-C
    #[arg(long, conflicts_with = "json")]
    pub watch: bool,
}

#[derive(Debug, Args)]
pub struct Publish {
    #[arg(long)]
    pub region: String,
    #[arg(long)]
    pub source: String,
    #[arg(long)]
    pub detail_type: String,
    /// A JSON object, `@FILE`, or `-` for standard input
    #[arg(long, value_name = "JSON")]
    pub detail: String,
    /// Sets `detail.metadata.idempotencyKey`; with --count each event gets KEY-0, KEY-1, ...
    #[arg(long)]
    pub key: Option<String>,
    /// How many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
}

#[derive(Debug, Args)]
pub struct Tail {
    #[arg(long)]
    pub region: String,
    /// Where to begin: `start`, `now`, or the first OFFSET
    #[arg(long, value_name = "start|now|OFFSET", default_value = "now", value_parser = from)]
    pub from: String,
    /// Only events that this EventBridge pattern matches [default: all but heartbeats]
    #[arg(long, value_name = "JSON", value_parser = pattern)]
    pub pattern: Option<Value>,
    /// Ends after this many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
}

#[derive(Debug, Args)]
pub struct Explain {
    /// The idempotency key
    #[arg(long)]
    pub key: String,
    /// For regions on AWS: the event's source, where their agents have not seen it since they started
    #[arg(long)]
    pub source: Option<String>,
    /// The same for its detail-type
    #[arg(long)]
    pub detail_type: Option<String>,
}

/// One directed link.
#[derive(Debug, Args)]
pub struct Ends {
    #[arg(long, value_name = "REGION")]
    pub from: String,
    #[arg(long, value_name = "REGION")]
    pub to: String,
}

#[derive(Debug, Args)]
pub struct Replay {
    #[command(flatten)]
    pub ends: Ends,
    /// Accepted at or after: RFC 3339, or a duration ago (10m)
    #[arg(long, value_name = "T", value_parser = moment)]
    pub since: Option<Timestamp>,
    /// Accepted before: RFC 3339, or a duration ago (10m)
    #[arg(long, value_name = "T", value_parser = moment)]
    pub until: Option<Timestamp>,
    /// Counts, sends nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct Repair {
    /// Whose events
    #[arg(long, value_name = "REGION")]
    pub origin: String,
    #[command(flatten)]
    pub ends: Ends,
    /// Counts, sends nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct Load {
    /// Events and requests to documents a second, over all chosen regions
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub rate: u64,
    #[arg(long, value_name = "D", value_parser = parse_duration)]
    pub duration: Duration,
    /// Gets one JSON line for each that is acknowledged; replaced if it exists
    #[arg(long, value_name = "FILE")]
    pub journal: PathBuf,
    /// The regions to publish in [default: all]
    #[arg(long, value_name = "R", num_args = 1..)]
    pub region: Vec<String>,
    /// Bytes of padding in each detail
    #[arg(long, value_name = "BYTES", default_value_t = 200, value_parser = clap::value_parser!(u32).range(0..=900_000))]
    pub pad: u32,
    /// Each of so many events refers to an object that is put into bucket `payloads` first; 0: none does [default: 10 where
    /// the file says where references stand, and the region is embedded]
    #[arg(long, value_name = "N")]
    pub objects: Option<u64>,
    /// Each of so many is a request to a document instead of an event; 0: none is [default: 5 where the file has document
    /// types, and all chosen regions are embedded]
    #[arg(long, value_name = "N")]
    pub state: Option<u64>,
    /// Bytes of each object
    #[arg(long, value_name = "BYTES", default_value_t = 4_096, value_parser = clap::value_parser!(u32).range(0..=64 << 20))]
    pub object_size: u32,
}

#[derive(Debug, Args)]
pub struct Verify {
    /// What `load` wrote down: each of its events must be there, once
    #[arg(long, value_name = "FILE")]
    pub journal: Option<PathBuf>,
    /// How long differences may take to settle
    #[arg(long, value_name = "D", default_value = "30s", value_parser = parse_duration)]
    pub wait: Duration,
    /// Also lists the objects that no event refers to; they are no difference
    #[arg(long)]
    pub unreferenced: bool,
}

/// Which document, and whose copy of it.
#[derive(Debug, Args)]
pub struct Document {
    /// Its type, one of `[state]` in the file
    #[arg(value_name = "TYPE")]
    pub of: String,
    #[arg(value_name = "ID")]
    pub id: String,
    #[arg(long)]
    pub region: String,
}

#[derive(Debug, Subcommand)]
pub enum State {
    /// Prints a document; exit code 1 if there is none
    Get {
        #[command(flatten)]
        document: Document,
    },
    /// Does operations on a document: all of them or none
    Apply {
        #[command(flatten)]
        document: Document,
        /// `[{"field":"plays","op":"increment","by":1}, ...]`; `-` reads standard input
        #[arg(value_name = "OPS-JSON")]
        ops: String,
        /// The request's idempotency key: once per key and document, in whichever region
        #[arg(long, value_name = "K")]
        key: Option<String>,
    },
    /// Deletes all that the region has seen of a document
    Delete {
        #[command(flatten)]
        document: Document,
        /// The request's idempotency key
        #[arg(long, value_name = "K")]
        key: Option<String>,
    },
    /// Has the documents of all others do without an evacuated region, so that deletes are forgotten
    Evict(Evict),
    /// Which regions are evicted, as each region knows it; exit code 1 if one did not answer
    Evictions,
    /// Documents that a region on AWS could not keep when it was back from an eviction, with what they held
    GivenUp(GivenUp),
}

/// Documents that were set aside.
#[derive(Debug, Args)]
pub struct GivenUp {
    #[arg(long)]
    pub region: String,
    /// Removes this one for good, by the name that the listing shows
    #[arg(long, value_name = "NAME")]
    pub discard: Option<String>,
}

/// Which region is left out.
#[derive(Debug, Args)]
pub struct Evict {
    #[arg(long)]
    pub region: String,
    /// Who decides [default: the user]
    #[arg(long, value_name = "NAME")]
    pub by: Option<String>,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Says whether it can be and what it means, and changes nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Does it
    #[arg(long, conflicts_with = "dry_run")]
    pub yes: bool,
}

#[derive(Debug, Subcommand)]
pub enum Object {
    /// Removes an object in every embedded region: links never do; exit code 1 if one did not answer
    Delete {
        #[arg(long)]
        bucket: String,
        #[arg(long)]
        key: String,
        /// Only in these regions [default: all]
        #[arg(long, value_name = "R", num_args = 1..)]
        region: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum Dlq {
    /// Lists dead letters, oldest first
    List(Letters),
    /// Prints dead letters with their events
    Show {
        #[command(flatten)]
        letters: Letters,
        /// One letter
        #[arg(long)]
        id: Option<String>,
    },
    /// Sends the events of dead letters again
    Redrive {
        #[command(flatten)]
        letters: Letters,
        /// One letter
        #[arg(long)]
        id: Option<String>,
        /// Also events so old that the peer may have forgotten their key: they may take effect twice
        #[arg(long)]
        expired: bool,
        /// Counts, sends nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Gives up the events of dead letters
    Discard {
        #[command(flatten)]
        letters: Letters,
        /// One letter
        #[arg(long)]
        id: Option<String>,
        /// Counts, discards nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// Which dead letters.
#[derive(Debug, Args)]
pub struct Letters {
    /// The region that could not deliver
    #[arg(long)]
    pub region: String,
    /// The region that it could not deliver to [default: all]
    #[arg(long)]
    pub peer: Option<String>,
    /// The idempotency key
    #[arg(long)]
    pub key: Option<String>,
    /// Dead at or after: RFC 3339, or a duration ago (10m)
    #[arg(long, value_name = "T", value_parser = moment)]
    pub since: Option<Timestamp>,
    /// At most this many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub enum Fault {
    /// Starts a fault; without --for it lasts until `clear` or a restart
    Inject(Inject),
    /// Lists the faults that last
    List(FaultScope),
    /// Ends faults: all, those of one kind, those with one peer
    Clear {
        #[command(flatten)]
        scope: FaultScope,
        #[arg(long, value_enum)]
        kind: Option<FaultKind>,
    },
}

/// Where a fault is.
#[derive(Debug, Args)]
pub struct FaultScope {
    #[arg(long)]
    pub region: String,
    /// [default: all]
    #[arg(long)]
    pub peer: Option<String>,
}

#[derive(Debug, Args)]
pub struct Inject {
    #[command(flatten)]
    pub scope: FaultScope,
    #[arg(long, value_enum)]
    pub kind: FaultKind,
    #[arg(long, value_enum, default_value = "both")]
    pub direction: Direction,
    /// How long messages are held up, or how far the clock is off
    #[arg(long, value_name = "D", value_parser = parse_duration)]
    pub delay: Option<Duration>,
    /// How likely each message is hit, 0 to 1
    #[arg(long, value_name = "P", value_parser = probability)]
    pub probability: Option<f64>,
    /// Ends by itself after this long
    #[arg(long = "for", value_name = "D", value_parser = parse_duration)]
    pub lasts: Option<Duration>,
}

/// `--kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    Partition,
    Delay,
    Drop,
    Duplicate,
    Reorder,
    Throttle,
    Error,
    TimeoutAfterSuccess,
    ClockSkew,
    Crash,
}

/// `--direction`, as the region sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    Out,
    In,
    Both,
}

fn from(text: &str) -> Result<String, String> {
    let known = ["start", "now"].contains(&text) || text.parse::<u64>().is_ok();
    known.then(|| text.to_owned()).ok_or_else(|| "expected `start`, `now` or an offset".to_owned())
}

fn pattern(text: &str) -> Result<Value, String> {
    let pattern: Value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
    Pattern::parse(&pattern).map(|_| pattern).map_err(|error| error.to_string())
}

fn probability(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.parse().ok();
    number.filter(|number| (0.0..=1.0).contains(number)).ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

/// RFC 3339, or a duration before now.
fn moment(text: &str) -> Result<Timestamp, String> {
    let ago = || parse_duration(text).ok().map(|ago| super::now().minus(ago));
    let expected = "expected a time such as `2026-11-23T10:00:00Z`, or how long ago, such as `10m`";
    Timestamp::parse_rfc3339(text).or_else(ago).ok_or_else(|| expected.to_owned())
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
