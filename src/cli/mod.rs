//! The command line: parse, call, exit code. It talks to running agents over HTTP alone (`docs/HTTP.md`), so whatever
//! it does, another program can do.
//!
//! [`args`] is what may be typed; [`context`] reads the topology file; [`http`] calls agents and [`out`] prints. Each
//! other module is a command or a group of them. [`main`] turns whatever happens into an exit code: 0 done, 1 the
//! answer is no, 2 bad arguments or configuration.

mod agent;
pub mod args;
mod backup;
mod check;
mod context;
mod cost;
mod demo;
mod dlq;
mod doctor;
mod drill;
mod error;
mod evict;
mod explain;
mod failover;
mod fault;

pub mod http;
mod links;
mod load;
#[cfg(feature = "aws")]
mod managed;
mod object;
mod out;
mod process;
#[cfg(feature = "aws")]
mod provision;
mod publish;
mod push;
mod run;
mod simulate;
mod state;
mod status;
mod tail;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod topology;
mod traffic;
mod up;
mod verify;

use std::process::ExitCode;

use clap::Parser;

pub use context::Context;
pub use error::Error;

use crate::{core::time::Timestamp, embedded::system::SystemClock, ports::clock::Clock};
use args::{Cli, Command};

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version come this way too, with exit code 0. Whether anybody reads them does not matter.
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    // Simulated clusters bring runtimes of their own, with a clock that is theirs, and need no topology file.
    if let Command::Simulate(args) = cli.command {
        return finish(simulate::simulate(args, cli.json));
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return finish(Err(Error::no(format!("cannot start: {error}")))),
    };
    let code = finish(runtime.block_on(dispatch(cli)));
    // A read of standard input may still block a thread.
    runtime.shutdown_background();
    code
}

fn finish(result: Result<(), Error>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    let text = error.to_string();
    if !text.is_empty() {
        out::note(text);
    }
    ExitCode::from(error.exit_code())
}

async fn dispatch(cli: Cli) -> Result<(), Error> {
    let file = context::config_file(cli.config);
    // It hands the file on to others, so it must not have been read to its end.
    if let Command::Up(args) = cli.command {
        return up::up(file, args).await;
    }
    perform(&Context::load(file, cli.json).await?, cli.command).await
}

async fn perform(context: &Context, command: Command) -> Result<(), Error> {
    match command {
        Command::Up(args) => up::up(context.file.clone(), args).await,
        Command::Run(args) => run::run(context, args).await,
        Command::Check => check::check(context),
        Command::Env => check::env(context),
        Command::Status(args) => status::status(context, args).await,
        Command::Publish(args) => publish::publish(context, args).await,
        Command::Tail(args) => tail::tail(context, args).await,
        Command::Explain(args) => explain::explain(context, args).await,
        Command::Replay(args) => links::replay(context, args).await,
        Command::Repair(args) => links::repair(context, args).await,
        Command::Backup(args) => backup::backup(context, args).await,
        Command::Restore(args) => backup::restore(context, args).await,
        Command::Pause(ends) => links::pause(context, ends, true).await,
        Command::Resume(ends) => links::pause(context, ends, false).await,
        Command::Load(args) => load::load(context, args).await,
        Command::Verify(args) => verify::verify(context, args).await,
        Command::Dlq(command) => dlq::dlq(context, command).await,
        Command::Object(command) => object::object(context, command).await,
        Command::State(command) => state::state(context, command).await,
        Command::Fault(command) => fault::fault(context, command).await,
        Command::Drill(command) => drill::drill(context, command).await,
        Command::Agent(command) => agent::agent(context, command).await,
        Command::Cost(args) => cost::cost(context, args).await,
        Command::Failover(command) => failover::failover(context, command).await,
        Command::Doctor(args) => doctor::doctor(context, args).await,
        #[cfg(feature = "aws")]
        Command::Provision(args) => provision::provision(context, args).await,
        Command::Simulate(args) => simulate::simulate(args, context.json),
    }
}

/// This machine's clock.
fn now() -> Timestamp {
    SystemClock.now()
}

/// This machine's clock and chance, for what takes them as ports.
#[cfg(feature = "aws")]
fn machine() -> (std::sync::Arc<dyn Clock>, std::sync::Arc<dyn crate::ports::clock::Entropy>) {
    (std::sync::Arc::new(SystemClock), std::sync::Arc::new(crate::embedded::system::Random::from_system()))
}

/// Text that only this run has, for keys.
fn run_id() -> Result<String, Error> {
    use rand::TryRngCore;
    let number = rand::rngs::OsRng.try_next_u64().map_err(|error| Error::no(format!("no randomness: {error}")))?;
    Ok(format!("{number:016x}"))
}

/// From [0, 1), for pauses that differ between processes.
fn chance() -> f64 {
    use rand::TryRngCore;
    rand::rngs::OsRng.try_next_u32().map_or(0.5, |number| f64::from(number) / (f64::from(u32::MAX) + 1.0))
}

/// Resolves at Ctrl-C or SIGTERM.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
