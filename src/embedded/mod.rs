//! The durable default: hub, ledger and links of one region on local disk; HTTP between regions.

pub mod disk;
