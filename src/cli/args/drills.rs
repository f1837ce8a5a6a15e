//! `drill` and `agent`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

use crate::config::parse_duration;

#[derive(Debug, Subcommand)]
pub enum Drill {
    /// Runs an experiment, measures and rolls back; exit code 1 if the verdict is no, 2 if the file is bad
    Run {
        /// An experiment of Chaos Toolkit's format, YAML or JSON
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Where the report goes, with a page of the same name beside it [default: drills/NAME-TIME.json]
        #[arg(long, value_name = "OUT.json")]
        report: Option<PathBuf>,
    },
    /// Lists experiments and how long ago each last passed
    List {
        /// Experiments, or folders of them [default: chaos]
        #[arg(value_name = "DIR|FILE")]
        paths: Vec<PathBuf>,
    },
    /// Prints a report of an earlier run; exit code 1 if its verdict is no
    Report {
        #[arg(value_name = "REPORT.json")]
        report: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum Agent {
    /// Ends a region's agent with signal 9; needs `faults.enabled`
    Kill(Kill),
    /// Lets `up` start a held agent again, and waits until it serves
    Release(Release),
}

#[derive(Debug, Args)]
pub struct Kill {
    #[arg(long)]
    pub region: String,
    /// `up` does not start it again until `release`
    #[arg(long)]
    pub hold: bool,
}

#[derive(Debug, Args)]
pub struct Release {
    #[arg(long)]
    pub region: String,
    /// How long it may take to serve; 0s: it is not waited for
    #[arg(long, value_name = "D", default_value = "15s", value_parser = parse_duration)]
    pub wait: Duration,
}
