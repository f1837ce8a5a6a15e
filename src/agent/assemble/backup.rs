//! Backups of a region that does not run, and restores.

use std::{path::Path, sync::Arc};

use super::{Error, claim, identity, open_hub};
use crate::{
    config::{Config, Region},
    core::time::Timestamp,
    embedded::{
        backup::{self, LocalBackup, OBJECTS, Parts},
        objects::LocalObjects,
        system::{Random, SystemClock},
    },
    ports::{
        backup::{Backup, Made},
        clock::{Clock, Entropy},
    },
};

pub use crate::embedded::backup::Restored;

/// Why there is no backup, or nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Region(#[from] Error),
    #[error(transparent)]
    Backup(#[from] crate::ports::backup::Error),
    #[error(transparent)]
    Restore(#[from] backup::RestoreError),
}

/// Backs up a region whose agent does not run. It is opened as a start would open it, and as safe from an agent that starts
/// meanwhile.
///
/// # Errors
/// An agent uses the data, or a start would be refused too; or there is no backup.
pub async fn of_stopped(config: &Config, region: &Region, to: &Path) -> Result<Made, Failure> {
    let _lock = claim(&region.data_dir, &config.cluster.name, &region.name)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let entropy: Arc<dyn Entropy> = Arc::new(Random::from_system());
    let hub = open_hub(config, &region.name, &region.data_dir, clock.clone(), entropy.clone()).await?;
    let objects = LocalObjects::open(&region.data_dir.join(OBJECTS), clock.clone(), &*entropy, Box::new(|_| {}));
    let objects = objects.map_err(Error::from)?;
    let made = LocalBackup::new(Parts {
        cluster: config.cluster.name.clone(),
        region: region.name.clone(),
        data_dir: region.data_dir.clone(),
        identity: identity(&config.cluster.name, &region.name),
        hub,
        rows: None,
        objects: objects.clone(),
        clock,
        watcher: Box::new(|_| {}),
    });
    let made = made.back_up(to.to_owned()).await;
    objects.close().await;
    Ok(made?)
}

/// Makes a backup the data of its region, whose agent does not run. What stood there is moved aside.
///
/// # Errors
/// It is no backup of this region, or damaged; an agent uses the data; there is data, and it may not be replaced. The data
/// is as it was.
pub fn restore(
    config: &Config,
    region: &Region,
    from: &Path,
    replace: bool,
    now: Timestamp,
) -> Result<Restored, Failure> {
    let backup = backup::check(from, &config.cluster.name, &region.name)?;
    let _lock = claim(&region.data_dir, &config.cluster.name, &region.name)?;
    // For the names of directories.
    let moment: String = now.whole_seconds().to_rfc3339().chars().filter(char::is_ascii_alphanumeric).collect();
    Ok(backup.restore(&region.data_dir, replace, &moment)?)
}
