//! The arguments of `failover`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::config::parse_duration;

/// What is to become of a region.
#[derive(Debug, Args)]
pub struct Order {
    #[arg(long)]
    pub region: String,
    /// After its peers have everything, or as it is [default: graceful]
    #[arg(long, value_enum)]
    pub mode: Option<FailoverMode>,
    /// Without a majority's votes, and whatever a check says; the log of decisions keeps it
    #[arg(long)]
    pub force: bool,
    /// Who decides, for the log [default: the user]
    #[arg(long, value_name = "NAME")]
    pub by: Option<String>,
    /// Why, for the log
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// How long links may take to bring everything over
    #[arg(long, value_name = "D", default_value = "5m", value_parser = parse_duration)]
    pub wait: Duration,
    /// For a drill: no cool-down
    #[arg(long)]
    pub drill: bool,
}

/// `--mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailoverMode {
    Graceful,
    Ungraceful,
}

impl FailoverMode {
    pub fn as_str(self) -> &'static str {
        match self {
            FailoverMode::Graceful => "graceful",
            FailoverMode::Ungraceful => "ungraceful",
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Failover {
    /// Says what `execute` would do and whether it can; exit code 1 if it cannot
    Plan(Order),
    /// Moves users out of a region; goes on where it stands if it was begun
    Execute(Order),
    /// What each region is, who decided it, and which are not heard of
    Status {
        /// Only this one
        #[arg(long)]
        region: Option<String>,
    },
    /// Takes back what is under way: a region that drains is active again, one that catches up stays evacuated
    Abort(Order),
    /// Brings a region back: it catches up, then users are sent to it again
    Failback(Order),
    /// The events of a region that came after it was left as it was
    Inventory {
        #[arg(long)]
        region: String,
    },
}
