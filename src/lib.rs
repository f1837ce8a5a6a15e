//! hubweave: active-active event backends. See `docs/ARCHITECTURE.md`.

pub mod api;
pub mod config;
pub mod core;
pub mod embedded;
pub mod ports;
