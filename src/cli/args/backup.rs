//! `backup` and `restore`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub struct Backup {
    #[arg(long)]
    pub region: String,
    /// An empty directory, or one that is not there yet, on the machine of the region's agent
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
}

#[derive(Debug, Args)]
pub struct Restore {
    #[arg(long)]
    pub region: String,
    /// What `backup` wrote
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
    /// Moves the data that is there aside, to DATA_DIR.before-restore-TIME
    #[arg(long)]
    pub replace: bool,
}
