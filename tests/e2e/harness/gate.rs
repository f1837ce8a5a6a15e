//! A way to a server that can be cut, and on which requests can be spoiled as AWS and the network between spoil them.
//!
//! Cut, it takes what comes and never answers, as a network that drops everything. A [`Rule`] names requests by a text of
//! their head (AWS's JSON protocols say the operation in `x-amz-target`) and what becomes of them.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// How often a connection looks whether the way is cut.
const LOOK: Duration = Duration::from_millis(20);

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Fate {
    /// It does not get there, and this is the answer: a status and an error code.
    Answered(u16, &'static str),
    /// It does not get there, and its connection is closed.
    Reset,
    /// It gets there, and its answer does not come back.
    AnswerLost,
    /// It gets there this much later.
    Slow(Duration),
    /// What it says of one region says another one, of a name as long: a wrong endpoint.
    Elsewhere(&'static str, &'static str),
}

/// Each `every`th request whose head has `text` gets `fate`.
#[derive(Clone, Debug)]
pub struct Rule {
    pub text: &'static str,
    pub every: u64,
    pub fate: Fate,
}

struct Counted {
    rule: Rule,
    seen: AtomicU64,
}

#[derive(Default)]
struct State {
    cut: AtomicBool,
    rules: Mutex<Arc<Vec<Counted>>>,
}

impl State {
    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }

    fn fate(&self, head: &str) -> Option<Fate> {
        let rules = self.rules.lock().expect("rules").clone();
        let matching = rules.iter().filter(|counted| head.contains(counted.rule.text));
        // Each rule counts each of its requests; the first that is due decides.
        let mut due = matching.filter(|counted| {
            let number = counted.seen.fetch_add(1, Ordering::SeqCst) + 1;
            number.is_multiple_of(counted.rule.every)
        });
        due.next().map(|counted| counted.rule.fate.clone())
    }
}

pub struct Gate {
    pub port: u16,
    state: Arc<State>,
}

impl Gate {
    /// Listens, and passes on to `server` on this machine.
    pub fn to(server: u16) -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its number").port();
        let state = Arc::<State>::default();
        let shared = state.clone();
        // It ends with the process; a test has a few connections.
        thread::spawn(move || {
            for caller in listener.incoming().map_while(Result::ok) {
                let state = shared.clone();
                thread::spawn(move || serve(caller, server, &state));
            }
        });
        Gate { port, state }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn cut(&self) {
        self.state.cut.store(true, Ordering::SeqCst);
    }

    pub fn heal(&self) {
        self.state.cut.store(false, Ordering::SeqCst);
    }

    /// From now on these rules hold and no others.
    pub fn spoil(&self, rules: &[Rule]) {
        let counted = |rule: &Rule| Counted { rule: rule.clone(), seen: AtomicU64::new(0) };
        *self.state.rules.lock().expect("rules") = Arc::new(rules.iter().map(counted).collect());
    }
}

fn serve(caller: TcpStream, server: u16, state: &Arc<State>) {
    let Ok(callee) = TcpStream::connect(("127.0.0.1", server)) else { return };
    let copies = (callee.try_clone(), caller.try_clone());
    let (Ok(back_from), Ok(back_to)) = copies else { return };
    let shared = state.clone();
    let answer_is_lost = Arc::new(AtomicBool::new(false));
    let lost = answer_is_lost.clone();
    let back = thread::spawn(move || answers(back_from, back_to, &shared, &lost));
    requests(caller, callee, state, &answer_is_lost);
    let _ = back.join();
}

/// What a read brought.
enum Got {
    Bytes(usize),
    Nothing,
    End,
}

fn read(from: &mut TcpStream, buffer: &mut [u8]) -> Got {
    match from.read(buffer) {
        Ok(0) => Got::End,
        Ok(count) => Got::Bytes(count),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Got::Nothing,
        Err(_) => Got::End,
    }
}

/// Passes requests on, one after the other. What meets a cut is lost, and its connection with it.
fn requests(mut caller: TcpStream, mut callee: TcpStream, state: &State, answer_is_lost: &AtomicBool) {
    let _ = caller.set_read_timeout(Some(LOOK));
    let (mut buffer, mut waiting, mut lost) = ([0; 16 << 10], Vec::new(), false);
    loop {
        match read(&mut caller, &mut buffer) {
            Got::End => break,
            Got::Nothing if lost && !state.is_cut() => break,
            Got::Nothing => {}
            Got::Bytes(_) if lost || state.is_cut() => lost = true,
            Got::Bytes(count) => waiting.extend_from_slice(&buffer[..count]),
        }
        while let Some((head, length)) = whole(&waiting).filter(|_| !lost) {
            let request: Vec<u8> = waiting.drain(..length).collect();
            let passed = match state.fate(&head) {
                None => callee.write_all(&request),
                Some(Fate::Answered(status, code)) => caller.write_all(&answer(status, code)),
                Some(Fate::Reset) => Err(ErrorKind::ConnectionReset.into()),
                Some(Fate::AnswerLost) => {
                    answer_is_lost.store(true, Ordering::SeqCst);
                    callee.write_all(&request)
                }
                Some(Fate::Slow(pause)) => {
                    thread::sleep(pause);
                    callee.write_all(&request)
                }
                Some(Fate::Elsewhere(from, to)) => {
                    let text = String::from_utf8_lossy(&request).replace(from, to);
                    callee.write_all(text.as_bytes())
                }
            };
            if passed.is_err() {
                return close(&caller, &callee);
            }
        }
    }
    close(&caller, &callee);
}

fn close(one: &TcpStream, other: &TcpStream) {
    let _ = one.shutdown(Shutdown::Both);
    let _ = other.shutdown(Shutdown::Both);
}

/// The head of the first request and the length of the whole, once it is there.
fn whole(bytes: &[u8]) -> Option<(String, usize)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let lower = head.to_ascii_lowercase();
    let body = lower.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    let length = end + body.unwrap_or(0);
    (bytes.len() >= length).then_some((head, length))
}

/// An error as AWS's JSON protocols tell it.
fn answer(status: u16, code: &str) -> Vec<u8> {
    let body = format!("{{\"__type\":\"{code}\",\"message\":\"injected\"}}");
    let head = format!(
        "HTTP/1.1 {status} Injected\r\ncontent-type: application/x-amz-json-1.0\r\nx-amzn-errortype: {code}\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    (head + &body).into_bytes()
}

/// Passes answers back, until one is lost: then the connection ends.
fn answers(mut callee: TcpStream, mut caller: TcpStream, state: &State, answer_is_lost: &AtomicBool) {
    let _ = callee.set_read_timeout(Some(LOOK));
    let (mut buffer, mut cut) = ([0; 16 << 10], false);
    loop {
        match read(&mut callee, &mut buffer) {
            Got::End => break,
            Got::Nothing if cut && !state.is_cut() => break,
            Got::Nothing => {}
            Got::Bytes(_) if cut || state.is_cut() => cut = true,
            Got::Bytes(_) if answer_is_lost.load(Ordering::SeqCst) => break,
            Got::Bytes(count) if caller.write_all(&buffer[..count]).is_ok() => {}
            Got::Bytes(_) => break,
        }
    }
    close(&caller, &callee);
}
