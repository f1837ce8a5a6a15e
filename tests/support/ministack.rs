//! MiniStack for one test binary: started by the first test that needs AWS, gone when the binary is.
//!
//! Shared by the unit tests of `src/aws` and the end-to-end tests. All tests share one emulator, so each has names of
//! its own; see [`MiniStack::unique`].

#![allow(clippy::disallowed_methods, reason = "it waits for a real process with the real clock")]

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(60);

pub struct MiniStack {
    pub port: u16,
    /// Ends when its standard input does, and that ends with this process.
    process: Child,
}

impl MiniStack {
    /// The emulator of this binary. Without it nothing is proven, so a test must not pass.
    pub fn get() -> &'static MiniStack {
        static STARTED: OnceLock<MiniStack> = OnceLock::new();
        STARTED.get_or_init(MiniStack::start)
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    #[allow(dead_code, reason = "tests do not ask what it costs, the benchmark does")]
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// A name that no other test has.
    pub fn unique(what: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        format!("{what}{}", NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// One more emulator, for a caller that keeps it: it ends when it is dropped.
    pub fn start() -> MiniStack {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let python = root.join(".venv/bin/python");
        assert!(python.exists(), "{} is not there: run `make tools`", python.display());
        let port = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("its number").port();
        let log = std::env::temp_dir().join(format!("hubweave-ministack-{}.log", std::process::id()));
        let file = fs::File::create(&log).expect("a log");
        let mut process = Command::new(python)
            .arg(root.join("tests/emulated_aws.py"))
            .envs([("GATEWAY_PORT", port.to_string().as_str()), ("BIND_HOST", "127.0.0.1"), ("LOG_LEVEL", "ERROR")])
            .stdin(Stdio::piped())
            .stdout(file.try_clone().expect("the same file"))
            .stderr(file)
            .spawn()
            .expect("python starts");
        let began = Instant::now();
        while !is_healthy(port) {
            let told = || fs::read_to_string(&log).unwrap_or_default();
            assert!(began.elapsed() < PATIENCE, "MiniStack is not ready after {PATIENCE:?}:\n{}", told());
            let ended = process.try_wait().expect("a child");
            assert!(ended.is_none(), "MiniStack ended:\n{}", told());
            std::thread::sleep(Duration::from_millis(50));
        }
        // Open, it is written to until the process ends.
        let _ = fs::remove_file(&log);
        MiniStack { port, process }
    }
}

fn is_healthy(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let asked = stream.write_all(b"GET /_ministack/health HTTP/1.0\r\nHost: localhost\r\n\r\n");
    let mut answer = String::new();
    asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.contains(" 200 ")
}
