//! hubweave: active-active event backends. See `docs/ARCHITECTURE.md`.

pub mod api;
pub mod cli;
pub mod config;
pub mod core;
pub mod embedded;
pub mod ports;
pub mod verify;
