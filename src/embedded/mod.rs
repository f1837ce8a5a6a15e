//! The durable default: hub, ledger, object store and links of one region on local disk; HTTP between regions.

pub mod backup;
pub mod disk;
pub mod hub;
pub mod ledger;
pub mod log;
pub mod objects;
pub mod peer;
pub mod remote_documents;
pub mod remote_objects;
pub mod remote_regions;
pub mod rows;
pub mod system;
