//! Ports that nobody else has.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering},
};

/// Below the range from which the system gives ports to outgoing connections: those would come and go in between.
const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port that was free a moment ago and that this process gives to nobody else.
pub fn free_port() -> u16 {
    // Other runs on this machine begin elsewhere.
    let begin = (std::process::id() % 400) as u16 * 50;
    for _ in 0..COUNT {
        let port = FIRST + (begin + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {FIRST} on");
}
