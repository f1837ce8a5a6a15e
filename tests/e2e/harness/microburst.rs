//! microburst between agents and the emulated AWS: troubles as AWS has them, by service, operation and region.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use super::{PATIENCE, Request, free_port, until};
use crate::ministack::MiniStack;

pub struct Microburst {
    pub port: u16,
    /// Ends when its standard input does.
    process: Child,
}

impl Microburst {
    /// Without troubles at first.
    pub fn start() -> Microburst {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let python = root.join(".venv/microburst/bin/python");
        assert!(python.exists(), "{} is not there: run `make tools`", python.display());
        let port = free_port();
        // It tells of each call.
        let log = fs::File::create("/dev/null").expect("nowhere");
        let process = Command::new(python)
            .arg(root.join("tests/microburst_proxy.py"))
            .args([MiniStack::get().url(), port.to_string()])
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("the same file"))
            .stderr(log)
            .spawn()
            .expect("python starts");
        until(PATIENCE, "microburst to listen", || Request::get("/_microburst/health").is_ok(port));
        Microburst { port, process }
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
    }
}
