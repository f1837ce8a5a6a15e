//! A few regions of their own for each test.

#[cfg(feature = "aws")]
pub mod aws;
#[cfg(feature = "aws")]
pub mod gate;
pub mod http;
pub mod metrics;
#[cfg(feature = "aws")]
pub mod microburst;
mod ports;
pub mod troubled;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

pub use http::Request;
pub use metrics::Metrics;
pub use ports::free_port;

/// The program under test.
pub const HUBWEAVE: &str = env!("CARGO_BIN_EXE_hubweave");

/// Patience for what takes a fraction of a second on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Patience for a command that waits for others.
const COMMAND_PATIENCE: Duration = Duration::from_secs(120);

/// So many last lines of each agent's log a failing test shows.
const LOG_LINES: usize = 25;

/// The names that tests use, in the order of the file.
pub const NAMES: [&str; 3] = ["eu-central-1", "us-east-1", "ap-southeast-2"];
pub const EU: &str = NAMES[0];
pub const US: &str = NAMES[1];
pub const AP: &str = NAMES[2];

#[derive(Clone, Debug)]
pub struct Region {
    pub name: String,
    pub api: u16,
    pub admin: u16,
    pub data_dir: PathBuf,
}

/// Regions on this machine, one process each, and the file that describes them.
pub struct Cluster {
    directory: TempDir,
    pub file: PathBuf,
    pub regions: Vec<Region>,
    agents: Vec<Mutex<Option<Child>>>,
    up: Mutex<Option<Child>>,
}

impl Cluster {
    /// Three regions, running and ready.
    pub fn start() -> Cluster {
        Cluster::start_with(3, "")
    }

    /// So many regions, running and ready. `more` is added to the file.
    pub fn start_with(regions: usize, more: &str) -> Cluster {
        let cluster = Cluster::describe(regions, more);
        for region in &cluster.regions {
            cluster.start_agent(&region.name);
        }
        cluster.wait_ready();
        cluster
    }

    /// Three regions that `up` runs, ready.
    pub fn start_up() -> Cluster {
        let cluster = Cluster::describe(3, "");
        cluster.start_window(&[]);
        cluster.wait_ready();
        cluster
    }

    /// The file alone; nothing runs.
    pub fn describe(regions: usize, more: &str) -> Cluster {
        let directory = tempfile::Builder::new().prefix("hubweave-e2e-").tempdir().expect("a temporary directory");
        let regions: Vec<Region> = NAMES[..regions]
            .iter()
            .map(|name| Region {
                name: (*name).to_owned(),
                api: free_port(),
                admin: free_port(),
                data_dir: directory.path().join(name),
            })
            .collect();
        let agents = regions.iter().map(|_| Mutex::new(None)).collect();
        let file = directory.path().join("topology.toml");
        let cluster = Cluster { directory, file, regions, agents, up: Mutex::new(None) };
        cluster.write_file(more);
        cluster
    }

    /// Writes the file anew, with other additions.
    pub fn write_file(&self, more: &str) {
        let mut text = String::from("[cluster]\nname = \"e2e\"\n\n[faults]\nenabled = true\n");
        for region in &self.regions {
            text += &format!(
                "\n[[region]]\nname = \"{}\"\ndata_dir = \"{}\"\napi = \"127.0.0.1:{}\"\nadmin = \"127.0.0.1:{}\"\n",
                region.name,
                region.data_dir.display(),
                region.api,
                region.admin
            );
        }
        fs::write(&self.file, format!("{text}\n{more}\n")).expect("the file can be written");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn region(&self, name: &str) -> &Region {
        &self.regions[self.index(name)]
    }

    fn index(&self, name: &str) -> usize {
        self.regions.iter().position(|region| region.name == name).expect("a region of this cluster")
    }

    /// `run --region`, with a pipe that ends it should this process be killed.
    pub fn start_agent(&self, name: &str) {
        let region = self.region(name);
        fs::create_dir_all(&region.data_dir).expect("a data directory");
        let log = fs::OpenOptions::new().create(true).append(true).open(region.data_dir.join("agent.log"));
        let child = self
            .command(&["run", "--region", name, "--parent-pipe"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log.expect("a log"))
            .spawn()
            .expect("hubweave starts");
        let before = lock(&self.agents[self.index(name)]).replace(child);
        assert!(before.is_none(), "{name} is running already");
    }

    /// Kills the agent with signal 9 and waits until it is gone.
    pub fn kill_agent(&self, name: &str) {
        let mut child = lock(&self.agents[self.index(name)]).take().expect("an agent that runs");
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
    }

    /// SIGTERM; answers how it ended.
    pub fn stop_agent(&self, name: &str) -> ExitStatus {
        let mut child = lock(&self.agents[self.index(name)]).take().expect("an agent that runs");
        signal(child.id(), "TERM");
        wait_for_end(&mut child, PATIENCE)
    }

    pub fn agent_pid(&self, name: &str) -> u32 {
        lock(&self.agents[self.index(name)]).as_ref().expect("an agent that runs").id()
    }

    /// `up`, its output in `up.out`.
    pub fn start_window(&self, more: &[&str]) {
        let out = fs::File::create(self.path("up.out")).expect("a file for its output");
        let mut arguments = vec!["up"];
        arguments.extend(more);
        let child = self
            .command(&arguments)
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("the same file"))
            .stderr(out)
            .spawn()
            .expect("hubweave starts");
        *lock(&self.up) = Some(child);
    }

    pub fn up_pid(&self) -> u32 {
        lock(&self.up).as_ref().expect("`up` runs").id()
    }

    /// What `up` has printed so far.
    pub fn up_output(&self) -> String {
        fs::read_to_string(self.path("up.out")).unwrap_or_default()
    }

    pub fn wait_for_up(&self, patience: Duration) -> ExitStatus {
        let mut child = lock(&self.up).take().expect("`up` runs");
        let ended = wait_for_end_or_none(&mut child, patience);
        if ended.is_none() {
            *lock(&self.up) = Some(child);
        }
        ended.unwrap_or_else(|| panic!("`up` has not ended after {patience:?}:\n{}", self.up_output()))
    }

    /// The pid that `up` wrote down for a region.
    pub fn pid_file(&self, name: &str) -> Option<u32> {
        let text = fs::read_to_string(self.region(name).data_dir.join("agent.pid")).ok()?;
        Some(text.parse().unwrap_or_else(|_| panic!("agent.pid holds `{text}`, not a decimal number")))
    }

    pub fn wait_ready(&self) {
        for region in &self.regions {
            self.wait_ready_one(&region.name);
        }
    }

    pub fn wait_ready_one(&self, name: &str) {
        let admin = self.region(name).admin;
        until(PATIENCE, &format!("{name} to be ready"), || Request::get("/readyz").is_ok(admin));
    }

    /// The program with this cluster's file.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(HUBWEAVE);
        command.args(arguments).arg("--config").arg(&self.file).current_dir(self.directory.path());
        clean(&mut command);
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Done {
        finish(&mut self.command(arguments), COMMAND_PATIENCE)
    }

    /// Runs a command that must succeed; answers its output.
    pub fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments).expect_code(0).stdout
    }

    /// Runs a command with `--json` that must end with `code`; answers its one document.
    pub fn json(&self, arguments: &[&str], code: i32) -> Value {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        self.run(&arguments).expect_code(code).document()
    }

    /// What the region says of itself.
    pub fn status(&self, name: &str) -> Value {
        Request::get("/v1/status").send(self.region(name).admin).expect_status(200).json()
    }

    /// One link of the region's status.
    pub fn link(&self, from: &str, to: &str) -> Value {
        let status = self.status(from);
        let links = status["links"].as_array().expect("links");
        links.iter().find(|link| link["peer"] == to).unwrap_or_else(|| panic!("no link to {to}: {status}")).clone()
    }

    pub fn metrics(&self, name: &str) -> Metrics {
        Metrics::parse(&Request::get("/metrics").send(self.region(name).admin).expect_status(200).text())
    }

    pub fn publish(&self, region: &str, key: &str, detail: &str) {
        let command = ["publish", "--region", region, "--source", "shop", "--detail-type", "Order", "--key", key];
        let mut command = command.to_vec();
        command.extend(["--detail", detail]);
        self.ok(&command);
    }

    /// Everything in the region's hub: envelopes from the start.
    pub fn events(&self, region: &str) -> Vec<Value> {
        let path = "/v1/events?from=start&limit=1000";
        let page = Request::get(path).send(self.region(region).api).expect_status(200).json();
        page["events"].as_array().expect("events").iter().map(|event| event["envelope"].clone()).collect()
    }

    /// The events in the region's hub with this idempotency key.
    pub fn with_key(&self, region: &str, key: &str) -> Vec<Value> {
        let mut events = self.events(region);
        events.retain(|event| event["detail"]["metadata"]["idempotencyKey"] == key);
        events
    }

    /// Waits until the region's hub has the key, and answers its events.
    pub fn wait_for_key(&self, region: &str, key: &str) -> Vec<Value> {
        until(PATIENCE, &format!("{key} to be in {region}"), || !self.with_key(region, key).is_empty());
        self.with_key(region, key)
    }

    /// Waits until no link has anything to bring over.
    pub fn wait_caught_up(&self) {
        until(PATIENCE * 2, "all links to be empty", || {
            self.regions.iter().all(|region| {
                let status = self.status(&region.name);
                status["links"].as_array().expect("links").iter().all(|link| link["backlog_events"] == 0)
            })
        });
    }

    /// `load` in the background, with its journal.
    pub fn start_load(&self, rate: u64, seconds: u64, regions: &[&str]) -> Load {
        let journal = self.path("journal.jsonl");
        let (rate, duration) = (rate.to_string(), format!("{seconds}s"));
        let mut arguments = vec!["load", "--json", "--rate", &rate, "--duration", &duration, "--journal"];
        arguments.push(journal.to_str().expect("UTF-8"));
        if !regions.is_empty() {
            arguments.push("--region");
            arguments.extend(regions);
        }
        let mut command = self.command(&arguments);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Load { child: Some(child.expect("hubweave starts")), journal }
    }

    /// `verify` with a journal must find every acknowledged event everywhere, once. Answers the report.
    pub fn verify(&self, journal: &Path) -> Value {
        let journal = journal.to_str().expect("UTF-8");
        let done = self.run(&["verify", "--json", "--wait", "60s", "--journal", journal]);
        assert_eq!(done.code, Some(0), "verify found a difference:\n{}\n{}", done.stdout, done.stderr);
        let report = done.document();
        assert_eq!(report["verdict"], "equal");
        assert_eq!(report["journal"]["missing_count"], 0, "acknowledged and lost: {report}");
        assert_eq!(report["journal"]["twice_count"], 0, "took effect twice: {report}");
        assert_eq!(report["twice_count"], 0, "took effect twice: {report}");
        report
    }

    fn show_logs(&self) {
        for region in &self.regions {
            show(&region.name, &region.data_dir.join("agent.log"));
        }
        show("up", &self.path("up.out"));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let agents = self.agents.iter().chain([&self.up]);
        for mut child in agents.filter_map(|child| lock(child).take()) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            self.show_logs();
        }
        // The children of an `up` that is gone end by themselves; a directory that is being written to cannot be
        // removed, so they get no choice.
        for pid in self.regions.iter().filter_map(|region| self.pid_file(&region.name)) {
            if is_agent(pid) {
                signal(pid, "KILL");
            }
        }
    }
}

/// A `load` on its way.
pub struct Load {
    child: Option<Child>,
    pub journal: PathBuf,
}

impl Load {
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|ended| ended.is_none()))
    }

    /// Waits for its end; answers its report, whatever its exit code was.
    pub fn report(mut self) -> Value {
        let child = self.child.take().expect("not waited for before");
        let output = child.wait_with_output().expect("it ends");
        Done::of(output).document()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A command that has ended.
#[derive(Clone, Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    fn of(output: Output) -> Done {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Done { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    pub fn expect_code(self, code: i32) -> Done {
        assert!(!self.stderr.contains("panicked"), "it panicked:\n{}", self.stderr);
        assert_eq!(self.code, Some(code), "exit code; stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Standard output is exactly one JSON document.
    pub fn document(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("not one JSON document ({error}):\n{}\n{}", self.stdout, self.stderr))
    }
}

/// Runs a command to its end, without input.
pub fn finish(command: &mut Command, patience: Duration) -> Done {
    let shown = format!("{command:?}");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap_or_else(|error| panic!("{shown}: {error}"));
    let pid = child.id();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    match receiver.recv_timeout(patience) {
        Ok(output) => Done::of(output.expect("its output")),
        Err(_) => {
            signal(pid, "KILL");
            let done = receiver.recv().expect("it was killed").map(Done::of);
            panic!("{shown} has not ended after {patience:?}: {done:?}")
        }
    }
}

/// The program alone, without a file.
pub fn hubweave(arguments: &[&str], directory: &Path) -> Done {
    let mut command = Command::new(HUBWEAVE);
    clean(command.args(arguments).current_dir(directory));
    finish(&mut command, COMMAND_PATIENCE)
}

/// The tester's own settings do not count.
pub fn clean(command: &mut Command) {
    for name in ["HUBWEAVE_CONFIG", "RUST_LOG", "RUST_BACKTRACE", "CLICOLOR_FORCE"] {
        command.env_remove(name);
    }
}

/// Polls until it holds.
#[track_caller]
pub fn until(patience: Duration, what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < patience, "waited {patience:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    began.elapsed()
}

/// Sends a signal; whoever is gone does not mind.
pub fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).stderr(Stdio::null()).status();
}

/// Whether a process with this pid runs the program (a pid may have been given to somebody else).
pub fn is_agent(pid: u32) -> bool {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&arguments).contains("hubweave")
}

fn wait_for_end(child: &mut Child, patience: Duration) -> ExitStatus {
    wait_for_end_or_none(child, patience).unwrap_or_else(|| {
        let _ = child.kill();
        panic!("it has not ended after {patience:?}")
    })
}

fn wait_for_end_or_none(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let began = Instant::now();
    loop {
        if let Some(ended) = child.try_wait().expect("a child") {
            return Some(ended);
        }
        if began.elapsed() > patience {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn show(name: &str, log: &Path) {
    let Ok(text) = fs::read(log) else { return };
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    eprintln!("--- {name}: the last of {} lines", lines.len());
    for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
        eprintln!("    {line}");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
