//! What an adapter promises. Every adapter of a port runs the port's conformance suite.

pub mod backup;
pub mod bus;
pub mod claims;
pub mod clock;
#[cfg(test)]
pub mod conformance;
pub mod disk;
pub mod documents;
pub mod hub;
pub mod inbox;
pub mod items;
pub mod objects;
pub mod peer;
pub mod queue;
pub mod regions;
pub mod rows;
pub mod shared;
pub mod store;
#[cfg(test)]
pub mod testing;
