//! hubweave: active-active event backends. See `docs/ARCHITECTURE.md`.

pub mod api;
pub mod core;
