//! A listener on a free port of 127.0.0.1, and a caller that sends bytes as they are.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::http::StatusCode;
use futures::{FutureExt, future::BoxFuture};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{Api, Observer, Options, listener, router};
use crate::{
    config::{Address, Auth, Config, Limits},
    core::{
        ingress::Ingress,
        state::{Dot, Key, Replica, Request, Schemas, digest::Digest, document::Document, op::Op, testing, view::View},
        time::Timestamp,
    },
    embedded::{
        objects::LocalObjects,
        system::{Random, SystemClock},
    },
    ports::{
        documents::{self, Applied, Documents, Listed, Question, Total},
        testing::{FakeHub, FakeInbox},
    },
};

/// Far beyond anything that a test should take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Counts what an observer is told.
#[derive(Default)]
pub struct Counted {
    pub seen: std::sync::Mutex<Vec<String>>,
}

impl Observer for Counted {
    fn request(&self, route: &str, status: StatusCode) {
        self.seen.lock().unwrap().push(format!("{route} {}", status.as_u16()));
    }

    fn object_request(&self, operation: &str, status: StatusCode) {
        self.seen.lock().unwrap().push(format!("{operation} {}", status.as_u16()));
    }

    fn stamp_stripped(&self) {
        self.seen.lock().unwrap().push("stamp".to_owned());
    }

    fn event_refused(&self, code: &str) {
        self.seen.lock().unwrap().push(code.to_owned());
    }
}

/// Documents of type `profile` in memory, as [`testing::schema`] has them.
pub struct FakeDocuments {
    schemas: Schemas,
    kept: Mutex<(u64, BTreeMap<Key, Document>)>,
    /// What every call is answered with instead.
    pub failure: Mutex<Option<documents::Error>>,
    /// What a look at a document is answered with instead.
    pub blind: Mutex<Option<documents::Error>>,
    /// The keys of all requests.
    pub requests: Mutex<Vec<Option<String>>>,
    /// What peers asked.
    pub questions: Mutex<Vec<Question>>,
}

impl Default for FakeDocuments {
    fn default() -> Self {
        FakeDocuments {
            schemas: Schemas::from([("profile".to_owned(), testing::schema())]),
            kept: Mutex::default(),
            failure: Mutex::default(),
            blind: Mutex::default(),
            requests: Mutex::default(),
            questions: Mutex::default(),
        }
    }
}

impl FakeDocuments {
    fn check(&self) -> Result<(), documents::Error> {
        self.failure.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    /// A request, unless it was done before.
    fn once(
        &self,
        key: Key,
        request: Option<String>,
        act: impl FnOnce(&mut Document, Dot, Timestamp, Option<Request>) -> Result<Applied, documents::Error>,
    ) -> Result<Applied, documents::Error> {
        self.check()?;
        let known = request.as_deref().map(Request::of);
        self.requests.lock().unwrap().push(request);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.0 += 1;
        let dot = Dot { replica: Replica(1), number: kept.0 };
        let document = kept.1.entry(key).or_default();
        match known.is_some_and(|request| document.knows(&request)) {
            true => Ok(Applied::Duplicate),
            false => act(document, dot, Timestamp(dot.number), known),
        }
    }

    fn listed(&self) -> Vec<Listed> {
        let kept = self.kept.lock().unwrap();
        let digest = |(key, document)| Some(Listed { key: Key::clone(key), digest: Digest::of(key, document)? });
        kept.1.iter().filter_map(digest).collect()
    }
}

impl Documents for FakeDocuments {
    fn schemas(&self) -> &Schemas {
        &self.schemas
    }

    fn get(&self, key: Key) -> BoxFuture<'_, Result<Option<View>, documents::Error>> {
        async move {
            self.check()?;
            self.blind.lock().unwrap().clone().map_or(Ok(()), Err)?;
            Ok(self.kept.lock().unwrap().1.get(&key).and_then(|document| document.view(&key, &testing::schema())))
        }
        .boxed()
    }

    fn apply(
        &self,
        key: Key,
        ops: Vec<Op>,
        request: Option<String>,
    ) -> BoxFuture<'_, Result<Applied, documents::Error>> {
        let act = move |document: &mut Document, dot, now, request| {
            document.operate(dot, now, request, &ops)?;
            Ok(Applied::Done)
        };
        async move { self.once(key, request, act) }.boxed()
    }

    fn delete(&self, key: Key, request: Option<String>) -> BoxFuture<'_, Result<Applied, documents::Error>> {
        let act = |document: &mut Document, dot, now, request| match document.delete(dot, now, request) {
            Some(_) => Ok(Applied::Done),
            None => Ok(Applied::Nothing),
        };
        async move { self.once(key, request, act) }.boxed()
    }

    fn total(&self) -> BoxFuture<'_, Result<Total, documents::Error>> {
        let listed = self.listed();
        let digest = listed.iter().fold(Digest::default(), |sum, listed| sum.plus(listed.digest));
        async move { Ok(Total { documents: listed.len() as u64, digest }) }.boxed()
    }

    fn list(&self, _: Option<Key>) -> BoxFuture<'_, Result<(Vec<Listed>, Option<Key>), documents::Error>> {
        async { Ok((self.listed(), None)) }.boxed()
    }

    fn counts(&self) -> BTreeMap<String, u64> {
        BTreeMap::from([("profile".to_owned(), self.listed().len() as u64)])
    }

    fn answer(&self, question: Question) -> BoxFuture<'_, Result<documents::Answer, documents::Error>> {
        async move {
            self.questions.lock().unwrap().push(question.clone());
            self.check()?;
            let kept = self.kept.lock().unwrap();
            Ok(match question {
                Question::Sums(ranges) => documents::Answer::Sums(vec![Digest(7); ranges.len()]),
                Question::List { .. } => documents::Answer::List { listed: Vec::new(), more: false },
                Question::Digests(keys) => documents::Answer::Digests(vec![None; keys.len()]),
                Question::Wholes(keys) => {
                    documents::Answer::Wholes(keys.iter().map(|key| kept.1.get(key).map(Document::encode)).collect())
                }
                Question::Includes(asked) => documents::Answer::Includes(vec![false; asked.len()]),
                Question::Slept => documents::Answer::Slept(None),
                Question::Standing { standing, .. } => {
                    documents::Answer::Standing(documents::Met { standing, takes_part: true, ..Default::default() })
                }
            })
        }
        .boxed()
    }
}

pub struct Server {
    pub address: SocketAddr,
    pub hub: Arc<FakeHub>,
    pub inbox: Arc<FakeInbox>,
    pub documents: Arc<FakeDocuments>,
    pub counted: Arc<Counted>,
    pub shutdown: CancellationToken,
    pub stopped: JoinHandle<()>,
    pub objects: LocalObjects,
    /// What the store lies in.
    pub folder: tempfile::TempDir,
}

/// The tokens of a topology file.
pub fn auth(tokens: &str) -> Auth {
    let text = format!("[[region]]\nname = \"a\"\n[auth]\n{tokens}");
    Config::parse(&text, "test", &|_| None).unwrap().auth
}

pub async fn start() -> Server {
    start_with(Limits::default(), Auth::default(), |_| {}).await
}

pub async fn start_with(limits: Limits, auth: Auth, guards: impl FnOnce(&mut listener::Options)) -> Server {
    start_of(limits, auth, guards, true).await
}

/// The region has no document types.
pub async fn start_without_documents() -> Server {
    start_of(Limits::default(), Auth::default(), |_| {}, false).await
}

async fn start_of(
    limits: Limits,
    auth: Auth,
    guards: impl FnOnce(&mut listener::Options),
    has_documents: bool,
) -> Server {
    let documents = Arc::<FakeDocuments>::default();
    let (hub, inbox, counted) = (Arc::new(FakeHub::default()), Arc::new(FakeInbox::default()), Arc::default());
    let folder = tempfile::tempdir().unwrap();
    let objects =
        LocalObjects::open(folder.path(), Arc::new(SystemClock), &Random::from_system(), Box::new(|_| {})).unwrap();
    let mut options = listener::Options::from(&limits);
    guards(&mut options);
    let api = Api::new(Options {
        region: "eu".to_owned(),
        hub: hub.clone(),
        inbox: inbox.clone(),
        objects: Arc::new(objects.clone()),
        store: Arc::new(objects.clone()),
        elsewhere: Default::default(),
        ingress: Ingress {
            key_pointers: vec!["/detail/key".to_owned()],
            reference_pointers: Vec::new(),
            max_entry_bytes: usize::try_from(limits.max_entry_bytes).unwrap(),
        },
        documents: has_documents.then(|| Arc::clone(&documents) as Arc<dyn Documents>),
        regions: None,
        entropy: Arc::new(Random::seeded(1)),
        auth,
        limits,
        observer: Arc::<Counted>::clone(&counted),
    });
    let socket = listener::bind("api", &Address::loopback(0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let served = listener::serve(socket, router(Arc::new(api)), options, shutdown.clone());
    Server { address, hub, inbox, documents, counted, shutdown, stopped: tokio::spawn(served), objects, folder }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// In lower case.
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// What an error says.
    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_default().to_owned()
    }
}

/// One connection.
pub struct Caller {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Caller {
    pub async fn connect(address: SocketAddr) -> Caller {
        Caller { stream: TcpStream::connect(address).await.unwrap(), read: Vec::new() }
    }

    /// Sends what the server will take.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// Sends a whole request. `headers` are lines without their end.
    pub async fn request(&mut self, line: &str, headers: &[&str], body: &[u8]) {
        let mut head = format!("{line} HTTP/1.1\r\nhost: test\r\n");
        headers.iter().for_each(|header| head.push_str(&format!("{header}\r\n")));
        if !body.is_empty() || line.starts_with("POST") {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        self.send(format!("{head}\r\n").as_bytes()).await;
        self.send(body).await;
    }

    /// Reads on until `found` finds something in what was read; `None` if the connection ends before.
    pub async fn read_until<T>(&mut self, found: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        loop {
            if let Some(found) = found(&self.read) {
                return Some(found);
            }
            let mut buffer = vec![0; 64 << 10];
            let read = timeout(PATIENCE, self.stream.read(&mut buffer)).await.expect("silence").unwrap_or(0);
            if read == 0 {
                return None;
            }
            self.read.extend_from_slice(&buffer[..read]);
        }
    }

    /// Reads on until this text was read (and forgets it with all before it).
    pub async fn read_text(&mut self, text: &str) -> Option<String> {
        let end = self.read_until(|read| Some(find(read, text.as_bytes())? + text.len())).await?;
        Some(String::from_utf8(self.read.drain(..end).collect()).unwrap())
    }

    /// Whether the server closed the connection without another byte.
    pub async fn is_closed(&mut self) -> bool {
        self.read_until(|read| (!read.is_empty()).then_some(())).await.is_none()
    }

    /// One answer with a `content-length`.
    pub async fn answer(&mut self) -> Option<Answer> {
        let (head, length) = self
            .read_until(|read| {
                let end = find(read, b"\r\n\r\n")? + 4;
                let head = String::from_utf8(read[..end].to_vec()).unwrap().to_ascii_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let length: usize = length.map_or(0, |length| length.parse().unwrap());
                (read.len() >= end + length).then_some((head, length))
            })
            .await?;
        let status = head[9..12].parse().unwrap();
        self.read.drain(..head.len());
        Some(Answer { status, body: self.read.drain(..length).collect(), head })
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

impl Server {
    /// One request over a connection of its own.
    pub async fn call(&self, line: &str, headers: &[&str], body: &[u8]) -> Answer {
        let mut caller = Caller::connect(self.address).await;
        caller.request(line, headers, body).await;
        caller.answer().await.expect("the connection was closed without an answer")
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(&format!("GET {path}"), &[], b"").await
    }

    pub async fn put_events(&self, body: &[u8]) -> Answer {
        self.call("POST /", &["x-amz-target: AWSEvents.PutEvents"], body).await
    }

    /// Publishes one event for each detail.
    pub async fn publish(&self, details: &[&str]) -> Answer {
        let entry = |detail: &&str| serde_json::json!({"Source": "app", "DetailType": "T", "Detail": detail});
        let entries: Vec<Value> = details.iter().map(entry).collect();
        self.put_events(serde_json::json!({ "Entries": entries }).to_string().as_bytes()).await
    }
}
