//! `run`: one agent in the foreground.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::{
    Context, Error,
    args::{self, LogFormat},
    process::{self, Overrides},
};

/// What is logged unless RUST_LOG says otherwise.
/// `s3s` logs each error that it answers, as an error.
const DEFAULT_FILTER: &str = "info,s3s=off";

pub async fn run(context: &Context, args: args::Run) -> Result<(), Error> {
    context.region(&args.region)?;
    start_log(args.log_format)?;
    let overrides = Overrides { api: args.api, admin: args.admin, health: args.health };
    let gone = async {
        match args.parent_pipe {
            true => parent_gone().await,
            false => std::future::pending().await,
        }
    };
    // Ctrl-C and SIGTERM are `process::run`'s own; `stop` is one more reason to drain.
    process::run(context.config.clone(), context.file.clone(), args.region, overrides, gone).await.map_err(Error::no)
}

/// Logs go to standard error: standard output belongs to answers.
fn start_log(format: LogFormat) -> Result<(), Error> {
    let filter = match std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty()) {
        Some(filter) => EnvFilter::try_new(filter).map_err(|error| Error::usage(format!("RUST_LOG: {error}")))?,
        None => EnvFilter::new(DEFAULT_FILTER),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(Error::no)
}

/// Resolves when `up`, which holds the other end of standard input, is gone.
async fn parent_gone() {
    let (gone, seen) = tokio::sync::oneshot::channel();
    // A thread of its own, as the read cannot be given up: it ends with the process.
    let spawned = std::thread::Builder::new().name("parent-pipe".to_owned()).spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = gone.send(());
    });
    match spawned {
        Ok(_) => drop(seen.await),
        Err(error) => {
            tracing::warn!(%error, "cannot watch the parent, this agent may outlive it");
            std::future::pending().await
        }
    }
}
