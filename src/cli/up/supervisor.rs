//! One child process for each region: started, watched, started again.
//!
//! A child must not outlive `up`, not even when `up` is killed with signal 9 and can do nothing about it. So each child
//! reads a pipe whose other end `up` holds and never writes to: when `up` is gone, however that came about, the kernel
//! closes the pipe, and the child drains and ends.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs::{File, TryLockError},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Child, sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

/// A child that was asked to stop gets so long.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
const HOLD_POLL: Duration = Duration::from_millis(100);
const LOG_BYTES_MAX: u64 = 10 << 20;
/// Lines of a dead child's log that are shown.
const LAST_LINES: usize = 5;

/// What to run for one region.
#[derive(Clone, Debug)]
pub struct Spec {
    pub region: String,
    pub data_dir: PathBuf,
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
}

/// What happened to a region's child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Started {
        region: String,
        pid: u32,
    },
    Ended {
        region: String,
        why: String,
        last_lines: Vec<String>,
        pause: Duration,
    },
    /// `agent.hold` keeps it from being started again.
    Held {
        region: String,
    },
}

/// Says how long to wait before a dead child is started again: next to nothing, unless it died more than five times in
/// 30 s.
#[derive(Debug, Default)]
pub struct Restarts {
    /// By a clock that stands still during these pauses: they would otherwise spread the deaths of a child that can
    /// never live, and so end themselves.
    deaths: VecDeque<Instant>,
    paused: Duration,
    failures: u32,
}

impl Restarts {
    const SPAN: Duration = Duration::from_secs(30);
    const FREE: usize = 5;
    const AT_ONCE: Duration = Duration::from_millis(100);

    /// Counts a death at `now`.
    pub fn died(&mut self, now: Instant) -> Duration {
        let now = now.checked_sub(self.paused).unwrap_or(now);
        self.deaths.push_back(now);
        while self.deaths.front().is_some_and(|death| now.duration_since(*death) > Self::SPAN) {
            self.deaths.pop_front();
        }
        if self.deaths.len() <= Self::FREE {
            self.failures = 0;
            return Self::AT_ONCE;
        }
        self.failures += 1;
        let pause = Duration::from_secs(1u64.checked_shl(self.failures - 1).unwrap_or(u64::MAX)).min(Self::SPAN);
        self.paused += pause;
        pause
    }
}

/// Keeps every other `up` away from the region while it lives: two would restart the region under each other's feet,
/// and write each other's pid files. `None` if another one has it.
///
/// # Errors
/// The data directory cannot be made or written.
pub fn claim(data_dir: &Path) -> std::io::Result<Option<File>> {
    std::fs::create_dir_all(data_dir)?;
    let file = File::options().write(true).create(true).truncate(false).open(data_dir.join("up.lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Keeps one region's child running until `stop`; then ends it and returns.
pub async fn supervise(spec: Spec, events: mpsc::Sender<Event>, stop: CancellationToken) {
    let mut restarts = Restarts::default();
    while !stop.is_cancelled() {
        let (why, last_lines) = match start(&spec) {
            Ok((mut child, log_from)) => {
                // Held open for the child's life; see the module's text.
                let _pipe = child.stdin.take();
                let pid = child.id().unwrap_or_default();
                let _ = events.send(Event::Started { region: spec.region.clone(), pid }).await;
                let ended = tokio::select! {
                    ended = child.wait() => ended,
                    () = stop.cancelled() => {
                        end(&mut child).await;
                        let _ = std::fs::remove_file(spec.data_dir.join("agent.pid"));
                        return;
                    }
                };
                let why = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
                (why, last_lines(&log_file(&spec.data_dir), log_from))
            }
            Err(error) => (format!("cannot be started: {error}"), Vec::new()),
        };
        let pause = restarts.died(Instant::now());
        let region = spec.region.clone();
        let _ = events.send(Event::Ended { region: region.clone(), why, last_lines, pause }).await;
        let again = async {
            tokio::time::sleep(pause).await;
            let hold = spec.data_dir.join("agent.hold");
            if hold.exists() {
                let _ = events.send(Event::Held { region }).await;
                while hold.exists() {
                    tokio::time::sleep(HOLD_POLL).await;
                }
            }
        };
        tokio::select! {
            () = again => {}
            () = stop.cancelled() => {}
        }
    }
}

fn log_file(data_dir: &Path) -> PathBuf {
    data_dir.join("agent.log")
}

/// Starts the child and writes its pid down; also says where its part of the log begins.
fn start(spec: &Spec) -> std::io::Result<(Child, u64)> {
    std::fs::create_dir_all(&spec.data_dir)?;
    let log = log_file(&spec.data_dir);
    if std::fs::metadata(&log).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
        std::fs::rename(&log, spec.data_dir.join("agent.log.1"))?;
    }
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
    let log_from = log.metadata()?.len();
    let child = tokio::process::Command::new(&spec.program)
        .args(&spec.arguments)
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C goes to the terminal's whole foreground group; children are told by `up`, which waits for them.
        .process_group(0)
        .spawn()?;
    // A child that is gone already has no pid any more; the next one will.
    if let Some(pid) = child.id() {
        let temporary = spec.data_dir.join("agent.pid.new");
        std::fs::write(&temporary, pid.to_string())?;
        std::fs::rename(temporary, spec.data_dir.join("agent.pid"))?;
    }
    Ok((child, log_from))
}

/// SIGTERM, patience, SIGKILL.
async fn end(child: &mut Child) {
    let pid = child.id().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?));
    if let Some(pid) = pid {
        // Fails only if it is gone.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if tokio::time::timeout(STOP_TIMEOUT, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// The end of what a child wrote.
fn last_lines(log: &Path, from: u64) -> Vec<String> {
    let read = || {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(64 << 10))))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].iter().map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(data_dir: &Path, script: &str) -> Spec {
        Spec {
            region: "eu".to_owned(),
            data_dir: data_dir.to_owned(),
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
        }
    }

    async fn next(events: &mut mpsc::Receiver<Event>) -> Event {
        let next = tokio::time::timeout(Duration::from_secs(10), events.recv()).await;
        next.expect("in time").expect("the supervisor runs")
    }

    #[test]
    fn five_deaths_are_free_and_then_pauses_double_up_to_30_seconds() {
        let mut restarts = Restarts::default();
        let start = Instant::now();
        let mut died = |second| restarts.died(start + Duration::from_secs(second)).as_millis();
        for second in 0..5 {
            assert_eq!(died(second), 100);
        }
        let pauses: Vec<u128> = [6, 8, 11, 16, 25, 42, 73].map(&mut died).to_vec();
        assert_eq!(pauses, [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        let healthy = restarts.died(start + Duration::from_secs(200));
        assert_eq!(healthy, Duration::from_millis(100));
    }

    #[test]
    fn deaths_far_apart_never_count_together() {
        let mut restarts = Restarts::default();
        let start = Instant::now();
        for death in 0..50 {
            assert_eq!(restarts.died(start + death * Duration::from_secs(7)).as_millis(), 100);
        }
    }

    #[test]
    fn a_burst_of_deaths_long_ago_slows_no_restart_down() {
        let mut restarts = Restarts::default();
        let start = Instant::now();
        let mut died = |second| restarts.died(start + Duration::from_secs(second)).as_millis();
        let burst: Vec<u128> = (0..6).map(&mut died).collect();
        assert_eq!(burst[5], 1_000);
        // Fewer than five deaths in any 30 s from here on.
        let later: Vec<u128> = (5..20).map(|death| died(death * 9)).collect();
        assert!(later.iter().all(|pause| *pause == 100), "{later:?}");
    }

    #[tokio::test]
    async fn a_dead_child_is_started_again_within_a_second_and_its_last_words_are_shown() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (sender, mut events) = mpsc::channel(16);
        let stop = CancellationToken::new();
        let script = "if [ -e \"$0.once\" ]; then exec sleep 60; fi; touch \"$0.once\"; echo 'port taken' >&2; exit 3";
        let mut spec = spec(dir.path(), script);
        spec.arguments.push(dir.path().join("flag").into());
        let task = tokio::spawn(supervise(spec, sender, stop.clone()));
        let Event::Started { pid: first, .. } = next(&mut events).await else { panic!("not started") };
        let Event::Ended { last_lines, why, .. } = next(&mut events).await else { panic!("not ended") };
        assert_eq!((last_lines, why.as_str()), (vec!["port taken".to_owned()], "exit status: 3"));
        let died = Instant::now();
        let Event::Started { pid: second, .. } = next(&mut events).await else { panic!("not started again") };
        assert!(died.elapsed() < Duration::from_secs(1) && first != second);
        let pid = std::fs::read_to_string(dir.path().join("agent.pid")).expect("a pid");
        assert_eq!(pid, second.to_string());
        stop.cancel();
        task.await.expect("ends");
        assert!(!dir.path().join("agent.pid").exists());
    }

    #[tokio::test]
    async fn a_hold_keeps_a_dead_child_down_until_it_is_gone() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let hold = dir.path().join("agent.hold");
        let (sender, mut events) = mpsc::channel(16);
        let stop = CancellationToken::new();
        std::fs::write(&hold, "").expect("writable");
        let task = tokio::spawn(supervise(spec(dir.path(), "exit 0"), sender, stop.clone()));
        assert!(matches!(next(&mut events).await, Event::Started { .. }));
        assert!(matches!(next(&mut events).await, Event::Ended { .. }));
        assert!(matches!(next(&mut events).await, Event::Held { .. }));
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(events.try_recv().is_err());
        std::fs::remove_file(hold).expect("removable");
        assert!(matches!(next(&mut events).await, Event::Started { .. }));
        stop.cancel();
        task.await.expect("ends");
    }

    #[tokio::test]
    async fn a_child_sees_the_end_of_its_input_when_its_parent_is_gone() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (mut child, _) = start(&spec(dir.path(), "cat; exit 7")).expect("started");
        drop(child.stdin.take());
        let ended = tokio::time::timeout(Duration::from_secs(5), child.wait()).await.expect("in time");
        assert_eq!(ended.expect("ended").code(), Some(7));
    }

    #[test]
    fn a_large_log_is_put_aside_at_the_start() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = File::create(dir.path().join("agent.log")).expect("creatable");
        file.set_len(LOG_BYTES_MAX + 1).expect("resizable");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (_, log_from) = runtime.block_on(async { start(&spec(dir.path(), "exit 0")) }).expect("started");
        assert_eq!(log_from, 0);
        assert!(dir.path().join("agent.log.1").exists());
    }
}
