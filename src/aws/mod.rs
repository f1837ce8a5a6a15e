//! A region on AWS: EventBridge, SQS, DynamoDB and S3 behind the ports.
//!
//! [`names`] says what everything is called; [`clients`] opens the services of one region for the agent of another, with
//! time-outs, one account's role and a count of each call. [`queue`], [`bus`], [`claims`] and [`objects`] are the adapters; [`stored`] reads a
//! topology that lies on AWS.
//!
//! No call is retried here: the loops above know whether a repeat is harmless, how long to wait, and when to give up.

pub mod bus;
pub mod claims;
pub mod clients;
pub mod doctor;
mod failure;
pub mod items;
pub mod names;
pub mod objects;
pub mod provision;
pub mod queue;
pub mod shared;
pub mod stored;
#[cfg(test)]
mod tests;

pub use clients::Clients;
pub use failure::failure;
