//! Calls to agents: JSON in, JSON out, and streams of lines. Nothing waits for ever, and every failure says which
//! region at which address, and what may be done about it.

use std::{borrow::Cow, fmt, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::config::{Address, Backend};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// For a call as a whole; for a stream, between two pieces.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// No answer but a stream is longer.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// No line of a stream is longer: the largest event with its escapes.
const LINE_BYTES_MAX: usize = 64 << 20;

/// A listener of a region.
#[derive(Clone, Debug)]
pub struct Listener {
    /// The region's name, for messages.
    pub region: String,
    pub address: Address,
    /// What its region is made of, for what may be done where nobody answers.
    pub backend: Backend,
    /// Sent as a bearer token.
    pub token: Option<crate::config::Secret>,
}

/// A request without its listener.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    path: String,
    headers: Vec<(&'static str, Cow<'static, str>)>,
    body: Bytes,
    timeout: Duration,
}

impl Call {
    /// `path` starts with `/` and has its query.
    pub fn get(path: impl Into<String>) -> Call {
        Call { method: Method::GET, path: path.into(), headers: Vec::new(), body: Bytes::new(), timeout: CALL_TIMEOUT }
    }

    /// Posts JSON.
    pub fn post(path: impl Into<String>, body: &Value) -> Call {
        Call::post_text(path, body.to_string())
    }

    /// Posts JSON as it is written: a [`Value`] rounds numbers.
    pub fn post_text(path: impl Into<String>, body: String) -> Call {
        let headers = vec![("content-type", "application/json".into())];
        Call { method: Method::POST, headers, body: body.into(), ..Call::get(path) }
    }

    /// Puts bytes as they are.
    pub fn put(path: impl Into<String>, body: Bytes) -> Call {
        Call { method: Method::PUT, body, ..Call::get(path) }
    }

    pub fn head(path: impl Into<String>) -> Call {
        Call { method: Method::HEAD, ..Call::get(path) }
    }

    pub fn delete(path: impl Into<String>) -> Call {
        Call { method: Method::DELETE, ..Call::get(path) }
    }

    /// Replaces what `post` says of the body's type, and adds.
    pub fn headers(self, headers: &[(&'static str, &'static str)]) -> Call {
        Call { headers: headers.iter().map(|(name, value)| (*name, Cow::from(*value))).collect(), ..self }
    }

    /// One more.
    pub fn header(mut self, name: &'static str, value: String) -> Call {
        self.headers.push((name, value.into()));
        self
    }

    /// Instead of 30 s.
    pub fn timeout(self, timeout: Duration) -> Call {
        Call { timeout, ..self }
    }
}

/// Calls agents; keeps connections for the next call. Cheap to clone.
#[derive(Clone)]
pub struct Http(Client<HttpConnector, Full<Bytes>>);

impl Default for Http {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).pool_idle_timeout(Duration::from_secs(20));
        Http(builder.build(connector))
    }
}

impl Http {
    /// The answer's JSON. Any status but 2xx is an [`Error`].
    pub async fn json<T: DeserializeOwned>(&self, listener: &Listener, call: Call) -> Result<T, Error> {
        let bytes = self.bytes(listener, call).await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).trim().to_owned();
            Error::new(listener, Failure::Garbage(format!("{error}, in `{text}`")))
        })
    }

    /// The answer's text. Any status but 2xx is an [`Error`].
    pub async fn text(&self, listener: &Listener, call: Call) -> Result<String, Error> {
        let bytes = self.bytes(listener, call).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// An answer with a status of 2xx, whose body says nothing.
    pub async fn done(&self, listener: &Listener, call: Call) -> Result<(), Error> {
        self.bytes(listener, call).await.map(drop)
    }

    /// Whether the answer's status is 2xx; its body is thrown away.
    pub async fn is_ok(&self, listener: &Listener, call: Call) -> bool {
        self.bytes(listener, call).await.is_ok()
    }

    async fn bytes(&self, listener: &Listener, call: Call) -> Result<Bytes, Error> {
        let timeout = call.timeout;
        let whole = async {
            let response = self.send(listener, call).await?;
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| Error::new(listener, Failure::of(error.as_ref())))?;
            Ok(body.to_bytes())
        };
        match tokio::time::timeout(timeout, whole).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::new(listener, Failure::TimedOut(timeout))),
        }
    }

    /// The answer as a stream of lines; the time-out counts between its pieces.
    pub async fn lines(&self, listener: &Listener, call: Call) -> Result<Lines, Error> {
        let timeout = call.timeout;
        match tokio::time::timeout(timeout, self.send(listener, call)).await {
            Ok(response) => {
                let body = response?.into_body();
                Ok(Lines { listener: listener.clone(), body, buffer: BytesMut::new(), searched: 0, timeout })
            }
            Err(_) => Err(Error::new(listener, Failure::TimedOut(timeout))),
        }
    }

    async fn send(&self, listener: &Listener, call: Call) -> Result<Response<Incoming>, Error> {
        let uri = format!("http://{}{}", listener.address, call.path);
        let mut request = Request::builder().method(call.method).uri(uri);
        for (name, value) in call.headers {
            request = request.header(name, value.as_ref());
        }
        if let Some(token) = &listener.token {
            request = request.header("authorization", format!("Bearer {}", token.expose()));
        }
        let request = request.body(Full::new(call.body));
        let request = request.map_err(|error| Error::new(listener, Failure::Garbage(error.to_string())))?;
        let response = self.0.request(request).await;
        let response = response.map_err(|error| Error::new(listener, Failure::of(&error)))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let seconds = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let retry_after = seconds.map(Duration::from_secs);
        let body = Limited::new(response.into_body(), 1 << 20).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        Err(Error::new(listener, Failure::Refused { status, message: message(&body), body, retry_after }))
    }
}

/// What an agent (`error`) or EventBridge's protocol (`message`) says, else the beginning of the text.
fn message(body: &[u8]) -> String {
    let json: Option<Value> = serde_json::from_slice(body).ok();
    let said = json.as_ref().and_then(|json| {
        let text = |key: &str| json.get(key).and_then(Value::as_str);
        let text = text("error").or(text("message")).or(text("reason"))?;
        Some(text.to_owned())
    });
    said.unwrap_or_else(|| String::from_utf8_lossy(&body[..body.len().min(200)]).trim().to_owned())
}

/// A body, line by line.
pub struct Lines {
    listener: Listener,
    body: Incoming,
    buffer: BytesMut,
    /// So many bytes of the buffer hold no line's end.
    searched: usize,
    timeout: Duration,
}

impl Lines {
    /// The next line without its end; `None` at the end of the body. A last line without an end counts as cut.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + end).freeze();
                self.buffer.advance(1);
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.searched > LINE_BYTES_MAX {
                return Err(self.error(Failure::Garbage("a line has no end".to_owned())));
            }
            match tokio::time::timeout(self.timeout, self.body.frame()).await {
                Err(_) => return Err(self.error(Failure::TimedOut(self.timeout))),
                Ok(None) if self.buffer.is_empty() => return Ok(None),
                Ok(None) => return Err(self.error(Failure::Cut)),
                Ok(Some(Err(error))) => return Err(self.error(Failure::of(&error))),
                Ok(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
            }
        }
    }

    /// The stream ended before it said that it was complete, or holds what no agent sends.
    pub fn garbage(&self, why: impl fmt::Display) -> Error {
        self.error(Failure::Garbage(why.to_string()))
    }

    /// That its agent is of the region that was asked, by the name it gives.
    ///
    /// # Errors
    /// It gives another name: the address in the file is wrong, and what it says is of no use.
    pub fn answers_as(&self, region: &str) -> Result<(), Error> {
        match self.listener.region == region {
            true => Ok(()),
            false => Err(self.error(Failure::OtherRegion(region.to_owned()))),
        }
    }

    /// The stream ended before it said that it was complete.
    pub fn cut(&self) -> Error {
        self.error(Failure::Cut)
    }

    fn error(&self, failure: Failure) -> Error {
        Error::new(&self.listener, failure)
    }
}

/// A call that did not bring an answer to use. `Display` names region and address.
#[derive(Debug)]
pub struct Error {
    pub region: String,
    pub address: Address,
    backend: Backend,
    failure: Box<Failure>,
}

#[derive(Debug)]
enum Failure {
    /// Nothing was sent.
    Unreachable(String),
    /// Something may have been done.
    TimedOut(Duration),
    /// The agent said no, and perhaps when to ask again.
    Refused { status: StatusCode, message: String, body: Bytes, retry_after: Option<Duration> },
    /// The address leads to an agent of another region.
    OtherRegion(String),
    /// Somebody else answered.
    Garbage(String),
    /// The connection ended within the answer. Something may have been done.
    Cut,
}

impl Failure {
    fn of(error: &(dyn std::error::Error + 'static)) -> Failure {
        let mut cause = Some(error);
        let mut connecting = false;
        let mut last = String::new();
        while let Some(current) = cause {
            if let Some(client) = current.downcast_ref::<hyper_util::client::legacy::Error>() {
                connecting |= client.is_connect();
            }
            if let Some(error) = current.downcast_ref::<hyper::Error>() {
                if error.is_parse() {
                    return Failure::Garbage(format!("no HTTP: {error}"));
                }
                if error.is_incomplete_message() || error.is_body_write_aborted() {
                    return Failure::Cut;
                }
            }
            if let Some(error) = current.downcast_ref::<std::io::Error>() {
                match error.kind() {
                    std::io::ErrorKind::ConnectionRefused => {
                        return Failure::Unreachable("connection refused".to_owned());
                    }
                    std::io::ErrorKind::ConnectionReset
                    | std::io::ErrorKind::BrokenPipe
                    | std::io::ErrorKind::UnexpectedEof
                        if !connecting =>
                    {
                        return Failure::Cut;
                    }
                    std::io::ErrorKind::TimedOut if connecting => {
                        return Failure::Unreachable("no answer to the connection attempt within 2 s".to_owned());
                    }
                    _ => {}
                }
            }
            last = current.to_string();
            cause = current.source();
        }
        if connecting { Failure::Unreachable(last) } else { Failure::Garbage(last) }
    }
}

impl Error {
    fn new(listener: &Listener, failure: Failure) -> Error {
        Error {
            region: listener.region.clone(),
            address: listener.address.clone(),
            backend: listener.backend,
            failure: Box::new(failure),
        }
    }

    /// Nobody was there, so nothing was asked.
    pub fn is_unreachable(&self) -> bool {
        matches!(self.failure.as_ref(), Failure::Unreachable(_))
    }

    /// The status, if the agent answered and said no.
    pub fn status(&self) -> Option<u16> {
        match self.failure.as_ref() {
            Failure::Refused { status, .. } => Some(status.as_u16()),
            _ => None,
        }
    }

    /// The body of that answer, if it is JSON.
    pub fn answer(&self) -> Option<Value> {
        match self.failure.as_ref() {
            Failure::Refused { body, .. } => serde_json::from_slice(body).ok(),
            _ => None,
        }
    }

    /// How long the agent asks to wait before the same call, where it is busy.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.failure.as_ref() {
            Failure::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The same call may succeed later: nobody said no, or only for now.
    pub fn is_passing(&self) -> bool {
        self.status().is_none_or(|status| status >= 500 || status == 429)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}) ", self.region, self.address)?;
        match self.failure.as_ref() {
            Failure::Unreachable(why) => {
                write!(f, "is unreachable: {why}; is it running? ")?;
                match self.backend {
                    Backend::Embedded => f.write_str("`hubweave up`"),
                    Backend::Aws => write!(f, "`hubweave run --region {}`", self.region),
                }
            }
            Failure::TimedOut(after) => {
                write!(f, "did not answer within {}", crate::config::format_duration(*after))
            }
            Failure::Refused { status, message, .. } => match (status.as_u16(), message.as_str()) {
                (401, _) => f.write_str("wants a token: set it in [auth] of the topology file"),
                (status, "") => write!(f, "answered {status}"),
                (status, message) => write!(f, "answered {status}: {message}"),
            },
            Failure::Garbage(why) => write!(f, "did not answer as a hubweave agent does ({why})"),
            Failure::OtherRegion(name) => {
                write!(f, "answers as region {name}: its `admin` address in the file leads to another region's agent")
            }
            Failure::Cut => f.write_str("ended the connection within its answer"),
        }
    }
}

impl std::error::Error for Error {}

/// Text as a part of a path or query.
pub fn escape(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// `name=value&…` as forms have it.
pub fn query_pairs(pairs: &[(String, String)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// `?name=value&…` of those that are there.
pub fn query(parameters: &[(&str, Option<String>)]) -> String {
    let given = parameters.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    let parts: Vec<String> = given.map(|(name, value)| format!("{name}={}", escape(value))).collect();
    if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// A server that answers each connection with these bytes and closes it (or keeps it open).
    async fn answering(answer: &'static [u8], close: bool) -> Listener {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = socket.local_addr().expect("bound").port();
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut connection, _)) = socket.accept().await {
                let mut request = [0; 4096];
                let _ = connection.read(&mut request).await;
                let _ = connection.write_all(answer).await;
                if !close {
                    open.push(connection);
                }
            }
        });
        listener(port)
    }

    fn listener(port: u16) -> Listener {
        let (region, address) = ("us-east-1".to_owned(), Address::loopback(port));
        Listener { region, address, backend: Backend::Embedded, token: None }
    }

    async fn failure(answer: &'static [u8], close: bool) -> Error {
        let listener = answering(answer, close).await;
        let call = Call::get("/v1/status").timeout(Duration::from_millis(300));
        Http::default().json::<Value>(&listener, call).await.expect_err("no answer to use")
    }

    #[tokio::test]
    async fn nobody_listening_is_said_with_region_address_and_a_hint() {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = socket.local_addr().expect("bound").port();
        drop(socket);
        let listener = listener(port);
        let error = Http::default().json::<Value>(&listener, Call::get("/")).await.expect_err("nobody listens");
        let expected =
            format!("us-east-1 (127.0.0.1:{port}) is unreachable: connection refused; is it running? `hubweave up`");
        assert_eq!(error.to_string(), expected);
        assert!(error.is_passing());
        let on_aws = Listener { backend: Backend::Aws, ..listener };
        let error = Http::default().json::<Value>(&on_aws, Call::get("/")).await.expect_err("nobody listens");
        assert!(error.to_string().ends_with("is it running? `hubweave run --region us-east-1`"), "{error}");
    }

    #[tokio::test]
    async fn a_refusal_carries_status_and_the_agents_own_words() {
        let error =
            failure(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 24\r\n\r\n{\"error\":\"faults are off\"", true).await;
        assert_eq!(error.status(), Some(403));
        let error =
            failure(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 26\r\n\r\n{\"error\":\"faults are off\"}", true).await;
        assert!(error.to_string().ends_with("answered 403: faults are off"), "{error}");
        assert!(!error.is_passing());
        let error = failure(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", true).await;
        assert!(error.is_passing());
    }

    #[tokio::test]
    async fn garbage_is_told_from_an_agent() {
        for answer in [
            &b"220 smtp.example.org ESMTP\r\n"[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>",
            b"\0\0\0\n\n",
        ] {
            let error = failure(answer, true).await;
            assert!(error.to_string().contains("did not answer as a hubweave agent does"), "{error}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_ends_early_or_never_comes_is_an_error() {
        let error = failure(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", true).await;
        assert!(error.to_string().ends_with("ended the connection within its answer"), "{error}");
        let error = failure(b"", true).await;
        assert!(error.to_string().ends_with("ended the connection within its answer"), "{error}");
        let error = failure(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", false).await;
        assert!(error.to_string().ends_with("did not answer within 300ms"), "{error}");
    }

    #[tokio::test]
    async fn lines_come_whole_and_a_cut_stream_is_told_from_a_complete_one() {
        let whole = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{}\n{\"a\"\n", true).await;
        let mut lines = Http::default().lines(&whole, Call::get("/")).await.expect("an answer");
        assert_eq!(lines.next().await.expect("a line").as_deref(), Some(&b"{}"[..]));
        assert_eq!(lines.next().await.expect("a line").as_deref(), Some(&b"{\"a\""[..]));
        assert_eq!(lines.next().await.expect("the end"), None);
        let cut = answering(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n{}\n\r\n", true).await;
        let mut lines = Http::default().lines(&cut, Call::get("/")).await.expect("an answer");
        assert_eq!(lines.next().await.expect("a line").as_deref(), Some(&b"{}"[..]));
        assert!(lines.next().await.is_err());
    }

    #[test]
    fn queries_leave_out_what_is_absent_and_escape_the_rest() {
        assert_eq!(query(&[("a", None)]), "");
        assert_eq!(query(&[("a", None), ("key", Some("x&y z".to_owned()))]), "?key=x%26y%20z");
    }
}
