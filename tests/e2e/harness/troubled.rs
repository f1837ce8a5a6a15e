//! A way to AWS on which calls go wrong, as they do there: throttled, failed before or after they took effect, reset.
//! Which call meets what goes by its number, so a share of them does, whatever their order.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

/// Longer than a long poll.
const PATIENCE: Duration = Duration::from_secs(40);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// 400 with `ThrottlingException`: not done.
    Throttled,
    /// 500 with `InternalFailure`: not done.
    Failed,
    /// The same, but it was done.
    FailedAfter,
    /// The connection ends; it was done.
    LostAfter,
    /// The connection is reset before anything was read.
    Reset,
}

const TROUBLES: [Trouble; 5] =
    [Trouble::Throttled, Trouble::Failed, Trouble::FailedAfter, Trouble::LostAfter, Trouble::Reset];

/// One call in so many meets a trouble.
const EVERY: u32 = 4;

#[derive(Default)]
struct State {
    on: AtomicBool,
    calls: AtomicU32,
    met: [AtomicU32; TROUBLES.len()],
}

pub struct Troubled {
    pub port: u16,
    state: Arc<State>,
}

impl Troubled {
    /// Listens, and passes on to `server` on this machine, without troubles at first.
    pub fn to(server: u16) -> Troubled {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its number").port();
        let state = Arc::new(State::default());
        let seen = state.clone();
        // It ends with the process; a test has a few hundred calls.
        thread::spawn(move || {
            for caller in listener.incoming().map_while(Result::ok) {
                let state = seen.clone();
                thread::spawn(move || {
                    // A call that cannot be served looks like one more trouble.
                    let _ = serve(caller, server, &state);
                });
            }
        });
        Troubled { port, state }
    }

    pub fn begin(&self) {
        self.state.on.store(true, Ordering::SeqCst);
    }

    pub fn end(&self) {
        self.state.on.store(false, Ordering::SeqCst);
    }

    /// How many calls met each kind.
    pub fn met(&self) -> Vec<u32> {
        self.state.met.iter().map(|met| met.load(Ordering::SeqCst)).collect()
    }
}

/// One call; then the connection ends.
fn serve(mut caller: TcpStream, server: u16, state: &State) -> std::io::Result<()> {
    caller.set_read_timeout(Some(PATIENCE))?;
    // A connection without a call has no number.
    if caller.peek(&mut [0])? == 0 {
        return Ok(());
    }
    let mut trouble = None;
    if state.on.load(Ordering::SeqCst) {
        let number = state.calls.fetch_add(1, Ordering::SeqCst);
        let kind = (number / EVERY) as usize % TROUBLES.len();
        trouble = (number % EVERY == 0).then_some(kind);
    }
    if trouble.map(|kind| TROUBLES[kind]) == Some(Trouble::Reset) {
        state.met[4].fetch_add(1, Ordering::SeqCst);
        // What came is not read, so the system resets the connection.
        return Ok(());
    }
    let (head, body) = read_call(&mut caller)?;
    // A message whose reception is lost is hidden for long; that is played elsewhere.
    let is_queue = head.to_ascii_lowercase().contains("x-amz-target: amazonsqs");
    let trouble =
        trouble.filter(|kind| !(is_queue && matches!(TROUBLES[*kind], Trouble::FailedAfter | Trouble::LostAfter)));
    if let Some(kind) = trouble {
        state.met[kind].fetch_add(1, Ordering::SeqCst);
    }
    let trouble = trouble.map(|kind| TROUBLES[kind]);
    match trouble {
        Some(Trouble::Throttled) => return answer(&mut caller, "400 Bad Request", "ThrottlingException"),
        Some(Trouble::Failed) => return answer(&mut caller, "500 Internal Server Error", "InternalFailure"),
        _ => {}
    }
    let done = pass_on(server, &head, &body)?;
    match trouble {
        Some(Trouble::FailedAfter) => answer(&mut caller, "500 Internal Server Error", "InternalFailure"),
        Some(_) => caller.shutdown(Shutdown::Both),
        None => caller.write_all(&done),
    }
}

fn answer(caller: &mut TcpStream, status: &str, kind: &str) -> std::io::Result<()> {
    let body = format!("{{\"__type\":\"{kind}\",\"message\":\"one of those days\"}}");
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/x-amz-json-1.1\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    caller.write_all((head + &body).as_bytes())
}

/// The head without its last empty line, and the body.
fn read_call(caller: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 << 10];
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        match caller.read(&mut buffer)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let mut body = bytes.split_off(end + 4);
    while body.len() < length.unwrap_or(0) {
        match caller.read(&mut buffer)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => body.extend_from_slice(&buffer[..count]),
        }
    }
    Ok((head, body))
}

/// The server's whole answer to one call.
fn pass_on(server: u16, head: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut callee = TcpStream::connect(("127.0.0.1", server))?;
    callee.set_read_timeout(Some(PATIENCE))?;
    let lines = head.split("\r\n").filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let head: Vec<&str> = lines.chain(["connection: close", "", ""]).collect();
    callee.write_all(head.join("\r\n").as_bytes())?;
    callee.write_all(body)?;
    let mut whole = Vec::new();
    callee.read_to_end(&mut whole)?;
    Ok(whole)
}
