//! A copy of a region's data, made while the region runs.

use std::path::PathBuf;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

/// Of which region, and of which moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    pub cluster: String,
    pub region: String,
    /// When the moment was: RFC 3339, by the region's clock.
    pub time: String,
    /// The last offset of the log.
    pub head: u64,
    /// The hub's life at that moment; `None` if it has written nothing yet.
    pub incarnation: Option<String>,
}

/// A backup that is whole and durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Made {
    #[serde(flatten)]
    pub about: About,
    pub directory: PathBuf,
    pub files: u64,
    pub bytes: u64,
}

/// Why there is no backup. Nothing was left that could be taken for one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("another backup of this region is being made")]
    Busy,
    #[error("{0}")]
    Refused(String),
    #[error("no backup was made: {0}")]
    Failed(String),
}

pub trait Backup: Send + Sync {
    /// Copies the region as it is at one moment after the call into the directory `to`, which is empty or not there.
    /// Goes on to its end if the caller does not wait for it.
    fn back_up(&self, to: PathBuf) -> BoxFuture<'_, Result<Made, Error>>;

    /// Ends a backup that is being made, and waits until what it wrote is gone. After this there is none.
    fn stop(&self) -> BoxFuture<'_, ()>;
}
