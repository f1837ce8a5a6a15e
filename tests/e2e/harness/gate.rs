//! A way to a server that can be cut: what comes is taken and never answered, as in a network that drops everything.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// How often a connection looks whether the way is cut.
const LOOK: Duration = Duration::from_millis(20);

pub struct Gate {
    pub port: u16,
    cut: Arc<AtomicBool>,
}

impl Gate {
    /// Listens, and passes on to `server` on this machine.
    pub fn to(server: u16) -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its number").port();
        let cut = Arc::new(AtomicBool::new(false));
        let state = cut.clone();
        // It ends with the process; a test has a few connections.
        thread::spawn(move || {
            for caller in listener.incoming().map_while(Result::ok) {
                let state = state.clone();
                thread::spawn(move || serve(caller, server, &state));
            }
        });
        Gate { port, cut }
    }

    pub fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }

    pub fn heal(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }
}

fn serve(caller: TcpStream, server: u16, cut: &Arc<AtomicBool>) {
    let Ok(callee) = TcpStream::connect(("127.0.0.1", server)) else { return };
    let Ok((back_from, back_to)) = callee.try_clone().and_then(|from| Ok((from, caller.try_clone()?))) else { return };
    let state = cut.clone();
    let back = thread::spawn(move || pass(back_from, back_to, &state));
    pass(caller, callee, cut);
    let _ = back.join();
}

/// Copies until one side ends. What meets a cut is lost, and its connection with it.
fn pass(mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool) {
    let _ = from.set_read_timeout(Some(LOOK));
    let mut buffer = [0; 16 << 10];
    let mut lost = false;
    loop {
        let is_cut = cut.load(Ordering::SeqCst);
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(_) if is_cut => lost = true,
            Ok(count) if !lost && to.write_all(&buffer[..count]).is_ok() => {}
            Ok(_) => break,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if lost && !is_cut {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    let _ = from.shutdown(std::net::Shutdown::Both);
    let _ = to.shutdown(std::net::Shutdown::Both);
}
