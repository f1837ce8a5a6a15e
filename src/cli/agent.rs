//! `agent`: kill -9 on purpose, and the end of it, for regions that `up` runs on this machine.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::json;
use tokio::time::Instant;

use super::{
    Context, Error,
    args::{Agent, Kill, Release},
    http::Call,
};
use crate::config::{Backend, Region, format_duration};

/// How long a killed process may take to be gone: what it was writing to the disk is waited for by the system.
const GONE_WAIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

pub async fn agent(context: &Context, command: Agent) -> Result<(), Error> {
    match command {
        Agent::Kill(args) => kill(context, args).await,
        Agent::Release(args) => release(context, args).await,
    }
}

fn home<'a>(context: &'a Context, region: &str) -> Result<&'a Region, Error> {
    let region = context.region(region)?;
    match region.backend {
        Backend::Embedded => Ok(region),
        Backend::Aws => Err(Error::usage(format!("{} is on AWS: `up` does not run its agents", region.name))),
    }
}

async fn kill(context: &Context, args: Kill) -> Result<(), Error> {
    let region = home(context, &args.region)?;
    if !context.config.faults.enabled {
        return Err(Error::no(format!(
            "faults.enabled is false in {}: agents are not killed on purpose",
            context.file
        )));
    }
    if args.hold {
        let hold = hold_file(region);
        fs::write(&hold, "").map_err(|error| named(&hold, &error))?;
    }
    let pid = running(region)?;
    if let Some(pid) = pid {
        // Fails only if it is gone.
        let _ = kill_process(pid, Signal::KILL);
        let deadline = Instant::now() + GONE_WAIT;
        while test_kill_process(pid).is_ok() && is_agent_of(pid, &region.name) {
            if Instant::now() >= deadline {
                return Err(Error::no(format!("{}: process {pid} is not gone after {GONE_WAIT:?}", region.name)));
            }
            tokio::time::sleep(POLL).await;
        }
    }
    let number = pid.map(|pid| pid.as_raw_nonzero().get());
    let document = json!({ "region": region.name, "pid": number, "killed": pid.is_some(), "held": args.hold });
    context.print(&document, || {
        let held = if args.hold { "; held down until `hubweave agent release`" } else { "" };
        match number {
            Some(pid) => format!("{}: process {pid} killed{held}", region.name),
            None => format!("{}: no process to kill{held}", region.name),
        }
    })
}

async fn release(context: &Context, args: Release) -> Result<(), Error> {
    let region = home(context, &args.region)?;
    let hold = hold_file(region);
    let was_held = match fs::remove_file(&hold) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(named(&hold, &error)),
    };
    let listener = context.admin_of(region);
    let began = Instant::now();
    let ready = loop {
        if args.wait.is_zero()
            || context.http.is_ok(&listener, Call::get("/readyz").timeout(Duration::from_secs(1))).await
        {
            break !args.wait.is_zero();
        }
        if began.elapsed() >= args.wait {
            let waited = format_duration(args.wait);
            return Err(Error::no(format!("{} does not serve after {waited}; is `hubweave up` running?", region.name)));
        }
        tokio::time::sleep(POLL).await;
    };
    let seconds = began.elapsed().as_secs_f64();
    let document = json!({ "region": region.name, "was_held": was_held, "ready": ready, "seconds": seconds });
    context.print(&document, || match (was_held, ready) {
        (true, true) => format!("{}: released, serving after {}", region.name, super::out::span(seconds)),
        (true, false) => format!("{}: released", region.name),
        (false, _) => format!("{}: was not held", region.name),
    })
}

fn hold_file(region: &Region) -> PathBuf {
    region.data_dir.join("agent.hold")
}

fn named(path: &Path, error: &io::Error) -> Error {
    Error::no(format!("{}: {error}", path.display()))
}

/// The region's process, if the one that `up` wrote down lives.
pub fn running(region: &Region) -> Result<Option<Pid>, Error> {
    let file = region.data_dir.join("agent.pid");
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(named(&file, &error)),
    };
    let pid = text.trim().parse().ok().filter(|pid| *pid > 1).and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Error::no(format!("{}: `{}` is no process id", file.display(), text.trim())))?;
    Ok((test_kill_process(pid).is_ok() && is_agent_of(pid, &region.name)).then_some(pid))
}

/// A dead agent's number may be somebody else's by now. Where the system does not tell, it is taken for the agent.
fn is_agent_of(pid: Pid, region: &str) -> bool {
    let Ok(line) = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())) else {
        return !Path::new("/proc/self/cmdline").exists();
    };
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    words.windows(2).any(|pair| pair == [&b"--region"[..], region.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn context(data_dir: &Path, faults: bool) -> Context {
        let text = format!(
            "[faults]\nenabled = {faults}\n[[region]]\nname = \"eu\"\ndata_dir = \"{}\"\nadmin = \"127.0.0.1:1\"\napi = \"127.0.0.1:2\"\n",
            data_dir.display()
        );
        Context::of(Config::parse(&text, "x", &|_| None).expect("a valid file"), "x.toml".to_owned(), true)
    }

    #[tokio::test]
    async fn somebody_elses_process_is_not_killed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut other = std::process::Command::new("sleep").arg("60").spawn().expect("sleep runs");
        fs::write(dir.path().join("agent.pid"), other.id().to_string()).expect("writable");
        let context = context(dir.path(), true);
        kill(&context, Kill { region: "eu".into(), hold: true }).await.expect("nothing to kill");
        assert!(dir.path().join("agent.hold").exists());
        assert_eq!(other.try_wait().expect("a child"), None, "it lives");
        other.kill().expect("killable");
        other.wait().expect("it ends");
    }

    #[tokio::test]
    async fn an_agent_is_killed_once_and_that_is_enough() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let script = ["-c", "sleep 60; :", "agent", "run", "--region", "eu"];
        let mut agent = tokio::process::Command::new("sh").args(script).process_group(0).spawn().expect("sh runs");
        let pid = agent.id().expect("it runs");
        fs::write(dir.path().join("agent.pid"), pid.to_string()).expect("writable");
        let reaped = tokio::spawn(async move { agent.wait().await });
        // For a moment after its start a process has no command line yet.
        let named = || is_agent_of(Pid::from_raw(pid as i32).expect("a pid"), "eu");
        for _ in 0..200 {
            if !named() {
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
        }
        assert!(named(), "the system tells what runs");
        let context = context(dir.path(), true);
        for _ in 0..2 {
            kill(&context, Kill { region: "eu".into(), hold: false }).await.expect("killed, or gone already");
        }
        let ended = reaped.await.expect("no panic").expect("it ended");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9));
        // What the shell waited for.
        let _ = rustix::process::kill_process_group(Pid::from_raw(pid as i32).expect("a pid"), Signal::KILL);
    }

    #[tokio::test]
    async fn without_faults_nothing_is_killed_and_nothing_held() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let refused =
            kill(&context(dir.path(), false), Kill { region: "eu".into(), hold: true }).await.expect_err("refused");
        assert_eq!(refused.exit_code(), 1);
        assert!(!dir.path().join("agent.hold").exists());
    }

    #[tokio::test]
    async fn a_release_says_when_nobody_serves() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("agent.hold"), "").expect("writable");
        let context = context(dir.path(), true);
        let wait = Duration::from_millis(100);
        let refused = release(&context, Release { region: "eu".into(), wait }).await.expect_err("nobody there");
        assert!(refused.to_string().contains("does not serve"), "{refused}");
        assert!(!dir.path().join("agent.hold").exists());
        release(&context, Release { region: "eu".into(), wait: Duration::ZERO }).await.expect("nothing to do");
    }
}
