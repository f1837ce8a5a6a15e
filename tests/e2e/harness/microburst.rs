//! microburst between agents and the emulated AWS: troubles as AWS has them, by service, operation and region.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use super::{PATIENCE, Request, free_port, until};
use crate::ministack::MiniStack;

/// Of its log.
const LINES_SHOWN: usize = 60;

pub struct Microburst {
    pub port: u16,
    /// Ends when its standard input does.
    process: Child,
    /// What it says of each call; shown where the test fails.
    log: tempfile::NamedTempFile,
}

impl Microburst {
    /// Without troubles at first.
    pub fn start() -> Microburst {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let python = root.join(".venv/microburst/bin/python");
        assert!(python.exists(), "{} is not there: run `make tools`", python.display());
        let port = free_port();
        let log = tempfile::NamedTempFile::new().expect("a log");
        let file = log.reopen().expect("the same file");
        let process = Command::new(python)
            .arg(root.join("tests/microburst_proxy.py"))
            .args([MiniStack::get().url(), port.to_string()])
            .stdin(Stdio::piped())
            .stdout(file.try_clone().expect("the same file"))
            .stderr(file)
            .spawn()
            .expect("python starts");
        let started = Microburst { port, process, log };
        until(PATIENCE, "microburst to listen", || Request::get("/_microburst/health").is_ok(port));
        started
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Replaces its rules; the first that fits a call plays.
    pub fn play(&self, rules: &Value) {
        Request::post("/_microburst/rules", rules.to_string()).send(self.port).expect_status(200);
    }

    /// How often each rule has played, in their order.
    pub fn met(&self) -> Vec<u64> {
        let rules = Request::get("/_microburst/rules").send(self.port).expect_status(200).json();
        let rules = rules.as_array().expect("rules").iter();
        rules.map(|rule| rule["fired_count"].as_u64().unwrap_or_default()).collect()
    }
}

impl Drop for Microburst {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.log.path()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the end of microburst's log:\n{}", lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n"));
        }
    }
}
