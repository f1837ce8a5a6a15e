//! Decisions without effects: no clock, randomness, file, socket or runtime in here.
//!
//! Modules in the order an event meets them: [`json`] and [`ingress`] make a [`event::Draft`] of what a service
//! published, [`key`] names it, [`pattern`] selects it for a link.

pub mod event;
pub mod ingress;
pub mod json;
pub mod key;
pub mod pattern;
pub mod time;
