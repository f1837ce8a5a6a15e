//! Decisions without effects: no clock, randomness, file, socket or runtime in here.
//!
//! Modules in the order an event meets them. [`ingress`] makes an [`event::Draft`] of what a service published, looking
//! into its [`json`]; [`key`] names it; the hub writes an [`event::Record`] at a [`position`], in [`frame`]s, beside the
//! changes of its [`journal`]; a [`link`] decides what goes over ([`pattern`]), in a [`batch`], and what to do with each
//! answer. What users have besides events stands in [`state`]: documents that merge.

pub mod backoff;
pub mod batch;
pub mod claim;
pub mod envelope;
pub mod event;
pub mod finding;
pub mod frame;
pub mod hlc;
pub mod ingress;
pub mod invariant;
pub mod journal;
pub mod json;
pub mod key;
pub mod link;
pub mod object;
pub mod pattern;
pub mod position;
pub mod reference;
pub mod region;
pub mod stamp;
pub mod state;
#[cfg(test)]
pub mod testing;
pub mod time;
pub mod trace;
