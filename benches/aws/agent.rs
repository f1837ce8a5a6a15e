//! Two regions of an emulated AWS and their agents, each a process of its own.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{emulators::Emulators, ministack::MiniStack};

pub const HOME: &str = "eu-central-1";
pub const PEER: &str = "us-east-1";

const HUBWEAVE: &str = env!("CARGO_BIN_EXE_hubweave");

/// Neither the user's profile nor a proxy nor a machine's role.
const SURROUNDINGS: [(&str, &str); 7] = [
    ("AWS_ACCESS_KEY_ID", "test"),
    ("AWS_SECRET_ACCESS_KEY", "test"),
    ("AWS_CONFIG_FILE", "/dev/null"),
    ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
    ("NO_PROXY", "127.0.0.1"),
    ("RUST_LOG", "warn"),
];

/// How long an agent may take to be ready, or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Calls by service and operation.
pub type Calls = BTreeMap<(String, String), f64>;

pub struct Cluster {
    directory: TempDir,
    name: String,
    url: String,
    tables_url: String,
}

impl Cluster {
    pub fn new(emulators: &Emulators) -> Cluster {
        let directory = tempfile::Builder::new().prefix("hubweave-bench-").tempdir().expect("a temporary directory");
        let (url, tables_url) = (emulators.url(), emulators.tables_url());
        Cluster { directory, name: MiniStack::unique("bench"), url, tables_url }
    }

    /// The topology file; without links an agent enters local keys and looks at arrivals.
    fn file(&self, linked: bool) -> PathBuf {
        let Cluster { name, url, tables_url, .. } = self;
        let mut text = format!("[cluster]\nname = \"{name}\"\n[replication]\nenabled = {linked}\n");
        for region in [HOME, PEER] {
            text += &format!(
                "[[region]]\nname = \"{region}\"\nbackend = \"aws\"\nadmin = \"127.0.0.1:{}\"\n\
                 [region.aws]\nhub = \"{name}\"\nprefix = \"{name}\"\nbucket = \"{name}-{region}\"\n\
                 endpoint_url = \"{url}\"\nendpoints = {{ dynamodb = \"{tables_url}\" }}\n",
                free_port()
            );
        }
        let file = self.directory.path().join(format!("topology-{linked}.toml"));
        fs::write(&file, text).expect("the file can be written");
        file
    }

    pub fn hub(&self) -> String {
        self.name.clone()
    }

    /// The name of the link's queue.
    pub fn feed(&self) -> String {
        format!("{}-{HOME}-to-{PEER}", self.name)
    }

    fn command(&self, linked: bool, arguments: &[&str]) -> Command {
        let mut command = Command::new(HUBWEAVE);
        command.args(arguments).arg("--config").arg(self.file(linked)).current_dir(self.directory.path());
        command.env_remove("HUBWEAVE_CONFIG").env_remove("AWS_PROFILE").envs(SURROUNDINGS);
        command
    }

    pub fn provision(&self) {
        for region in [HOME, PEER] {
            let done = self.command(true, &["provision", "--region", region, "--apply"]).output().expect("it runs");
            assert!(done.status.success(), "provision: {}", String::from_utf8_lossy(&done.stderr));
        }
    }

    /// What a million events cost by `hubweave cost`, and by EventBridge alone, in dollars.
    pub fn cost(&self) -> (f64, f64) {
        let done = self.command(true, &["cost", "--rate", "1000", "--json"]).output().expect("it runs");
        assert!(done.status.success(), "cost: {}", String::from_utf8_lossy(&done.stderr));
        let bill: serde_json::Value = serde_json::from_slice(&done.stdout).expect("a bill");
        let of = |name: &str| bill[name].as_f64().expect("a price");
        (of("million_events_dollars"), of("million_events_bare_dollars"))
    }

    /// Starts the agent of a region, with its link or without.
    pub fn agent(&self, region: &str, linked: bool) -> Agent {
        let admin = free_port();
        let address = format!("127.0.0.1:{admin}");
        let log = self.directory.path().join("agent.log");
        let file = fs::File::create(&log).expect("a log");
        let child = self
            .command(linked, &["run", "--region", region, "--admin", &address, "--parent-pipe"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("hubweave starts");
        Agent { child, admin, log, calls: Calls::new(), cpu_seconds: 0.0 }
    }
}

pub struct Agent {
    child: Child,
    admin: u16,
    log: PathBuf,
    /// What it called and took until it was stopped.
    pub calls: Calls,
    pub cpu_seconds: f64,
}

impl Agent {
    /// The sum of a counter over the samples that have this label; 0 while the agent does not answer.
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        let Some(text) = get(self.admin, "/metrics") else { return 0.0 };
        samples(&text, name).filter(|(labels, _)| labels.contains(label)).map(|(_, value)| value).sum()
    }

    /// Ends it, once it has told what it called. What is under way then is brought to an end.
    pub async fn stop(&mut self) {
        // Deletions of what was done last.
        sleep(Duration::from_millis(500)).await;
        let text = get(self.admin, "/metrics").expect("an agent at work answers");
        for (labels, value) in samples(&text, "hubweave_aws_requests_total") {
            *self.calls.entry((label(labels, "service"), label(labels, "operation"))).or_default() += value;
        }
        self.cpu_seconds = cpu_seconds(self.child.id());
        // End of input is the agent's sign to end.
        drop(self.child.stdin.take());
        let began = Instant::now();
        while self.child.try_wait().expect("a child").is_none() {
            assert!(began.elapsed() < PATIENCE, "the agent does not end: {}", self.told());
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn told(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.told());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lines `name{labels} value`.
fn samples<'t>(text: &'t str, name: &'t str) -> impl Iterator<Item = (&'t str, f64)> {
    text.lines().filter_map(move |line| {
        let (labels, value) = line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} ")?;
        Some((labels, value.parse().ok()?))
    })
}

fn label(labels: &str, name: &str) -> String {
    let found = labels.split_once(&format!("{name}=\"")).and_then(|(_, rest)| rest.split_once('"'));
    found.map_or_else(String::new, |(value, _)| value.to_owned())
}

fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.contains(" 200 ").then(|| body.to_owned())
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("its number").port()
}

/// User and system time of a process since it began.
pub fn cpu_seconds(process: u32) -> f64 {
    /// Linux's unit of it, whatever the kernel's own is.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("a process that runs");
    let (_, fields) = stat.rsplit_once(')').expect("its name in parentheses");
    let ticks = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<f64>().expect("a number"));
    ticks.sum::<f64>() / TICKS_PER_SECOND
}
