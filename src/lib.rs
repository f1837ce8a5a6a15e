//! hubweave: active-active event backends. See `docs/ARCHITECTURE.md`.

pub mod admin;
pub mod agent;
pub mod api;
#[cfg(feature = "aws")]
pub mod aws;
pub mod cli;
pub mod config;
pub mod core;
pub mod cost;
pub mod drill;
pub mod embedded;
pub mod faults;
pub mod marks;
pub mod metrics;
pub mod planted;
pub mod ports;
pub mod sim;
pub mod verify;
