//! The program as its users meet it: real processes, real sockets, kill -9.
//!
//! Each test has regions of its own, on ports and in a directory of their own, so all run side by side. Whatever a test
//! started is gone when it ends, however it ends. A failing test shows the last log lines of its agents.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests watch real processes with the real clock, and a failed expectation is a failed test"
)]

mod harness;

mod aws_cli;
#[cfg(feature = "aws")]
mod aws_failover;
#[cfg(feature = "aws")]
mod aws_faults;
#[cfg(feature = "aws")]
mod aws_microburst;
#[cfg(feature = "aws")]
mod aws_objects;
#[cfg(feature = "aws")]
mod aws_operations;
#[cfg(feature = "aws")]
mod aws_options;
#[cfg(feature = "aws")]
mod aws_regions;
#[cfg(feature = "aws")]
mod aws_safety;
#[cfg(feature = "aws")]
mod aws_state;
#[cfg(feature = "aws")]
mod aws_topology;
#[cfg(feature = "aws")]
mod aws_verify;
mod backup;
mod chaos;
mod cloudevents;
mod commands;
mod config_files;
mod drills;
mod failover;
mod hostile;
mod metrics;
#[cfg(feature = "aws")]
#[path = "../support/ministack.rs"]
mod ministack;
mod objects;
mod objects_s3;
mod operations;
mod reload;
mod start;
mod state;
mod state_verify;
mod story;
mod supervision;
mod traces;
mod watching;
