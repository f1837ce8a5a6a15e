//! `backup` and `restore`: a copy of an embedded region's data, and the way back.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Context, Error, args,
    http::{Call, Listener},
    now, out,
};
use crate::{
    agent::assemble::{self, backup as local},
    config::{Backend, Region},
};

/// A backup answers when it is done: as long as that takes, within reason.
const BACKUP_TIMEOUT: Duration = Duration::from_secs(6 * 3_600);

/// What the agent says of its backup.
#[derive(Deserialize)]
struct Made {
    time: String,
    head: u64,
    directory: PathBuf,
    files: u64,
    bytes: u64,
}

pub async fn backup(context: &Context, args: args::Backup) -> Result<(), Error> {
    let region = embedded(context, &args.region)?;
    let to = std::path::absolute(&args.to).map_err(|error| Error::usage(format!("--to: {error}")))?;
    let answer = match asked(context, &context.admin_of(region), &to).await? {
        Some(answer) => answer,
        None => of_stopped(context, region, &to).await?,
    };
    let made: Made = serde_json::from_value(answer.clone()).map_err(Error::no)?;
    context.print(&answer, || {
        let (files, bytes, head) = (out::counted(made.files, "file"), out::bytes(made.bytes), out::count(made.head));
        let mut text = format!(
            "{} as it was at {}, up to offset {head}: {files}, {bytes}, in {}",
            region.name,
            made.time,
            made.directory.display()
        );
        if !made.directory.exists() {
            text.push_str("\nthat is a directory of the agent's machine, not of this one");
        }
        text
    })
}

/// The agent's answer; none if no agent runs.
async fn asked(context: &Context, listener: &Listener, to: &Path) -> Result<Option<Value>, Error> {
    let call = Call::post("/v1/backup", &json!({ "to": to })).timeout(BACKUP_TIMEOUT);
    match context.http.json(listener, call).await {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.is_unreachable() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn of_stopped(context: &Context, region: &Region, to: &Path) -> Result<Value, Error> {
    let admin = context.admin_of(region).address;
    if !region.data_dir.join("log").is_dir() {
        return Err(Error::no(format!(
            "no agent of {} answers at {admin}, and its data is not on this machine: there is none in {}",
            region.name,
            region.data_dir.display()
        )));
    }
    match local::of_stopped(&context.config, region, to).await {
        Ok(made) => serde_json::to_value(made).map_err(Error::no),
        Err(local::Failure::Region(error @ assemble::Error::Locked(_))) => {
            Err(Error::no(format!("{error}, and does not answer at {admin}")))
        }
        Err(error) => Err(failed(error)),
    }
}

pub async fn restore(context: &Context, args: args::Restore) -> Result<(), Error> {
    let region = embedded(context, &args.region)?.clone();
    let config = context.config.clone();
    let work = move || local::restore(&config, &region, &args.from, args.replace, now());
    let restored = tokio::task::spawn_blocking(work).await.map_err(Error::no)?.map_err(failed)?;
    context.print(&restored, || text(&args.region, &restored))
}

fn failed(error: local::Failure) -> Error {
    match error {
        local::Failure::Backup(error @ crate::ports::backup::Error::Refused(_)) => Error::usage(error),
        error => Error::no(error),
    }
}

fn text(region: &str, restored: &local::Restored) -> String {
    let (files, bytes) = (out::counted(restored.files, "file"), out::bytes(restored.bytes));
    let backup = &restored.backup;
    let mut lines = vec![format!(
        "{region} is as it was at {}, up to offset {}: {files}, {bytes}, in {}",
        backup.time,
        out::count(backup.head),
        restored.data_dir.display()
    )];
    if let Some(replaced) = &restored.replaced {
        lines.push(format!("what was there lies in {}", replaced.display()));
    }
    lines.push(
        "start its agent now (remove `agent.hold`, if there is one): its peers send what it lacks, its own events too, as \
         far as their logs reach, and documents as they are; its consumers meet events again, under the same keys. \
         `hubweave verify` says when it is done"
            .to_owned(),
    );
    lines.join("\n")
}

fn embedded<'a>(context: &'a Context, region: &str) -> Result<&'a Region, Error> {
    let region = context.region(region)?;
    match region.backend {
        Backend::Embedded => Ok(region),
        Backend::Aws => Err(Error::usage(format!(
            "{} is on AWS, which keeps its data: backups of tables and buckets are made there",
            region.name
        ))),
    }
}
