//! Another region over HTTP: the sending half of what `api::peer` answers.
//!
//! Whatever is at the other end (a peer, a proxy's error page, a socket that says nothing, or drips), a call ends
//! within [`Options::attempt_timeout`], in an answer that was checked or in a [`Failure`].

use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    body::Body,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{
    config::{Address, Secret},
    core::{
        batch::{Answer, Batch, Reply},
        link::Failure,
    },
    ports::peer::{BATCH_CONTENT_TYPE, Hello, Peer, RepairRequest},
};

/// An answer is no longer than this, and [`RECORD_BYTES_MAX`] more for each record of its batch.
const ANSWER_BYTES_MAX: usize = 1 << 20;
const RECORD_BYTES_MAX: usize = 16;

/// Characters of a peer's error that are passed on.
const TEXT_CHARACTERS_MAX: usize = 300;

/// Pauses that a peer may ask for.
const PAUSE_DEFAULT: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct Options {
    /// The peer's `api` listener.
    pub address: Address,
    /// Our own region.
    pub region: String,
    /// What agents show each other.
    pub token: Option<Secret>,
    pub connect_timeout: Duration,
    /// From the call to the last byte of the answer.
    pub attempt_timeout: Duration,
    /// Unused connections are closed after this; sooner than the listener does it, or a batch meets a closed one.
    pub idle_timeout: Duration,
}

impl Options {
    pub fn new(address: Address, region: &str) -> Self {
        Options {
            address,
            region: region.to_owned(),
            token: None,
            connect_timeout: Duration::from_secs(2),
            attempt_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
        }
    }
}

/// A client that keeps connections for a while.
pub(super) fn client<B>(options: &Options) -> Client<HttpConnector, B>
where
    B: Body + Send,
    B::Data: Send,
{
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(options.connect_timeout));
    Client::builder(TokioExecutor::new())
        .pool_idle_timeout(options.idle_timeout)
        .pool_timer(TokioTimer::new())
        .build(connector)
}

/// The header that shows the token.
pub(super) fn authorization(options: &Options) -> Option<HeaderValue> {
    // Configuration admits visible ASCII only, so every token makes a header.
    let token = options.token.as_ref()?;
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// A [`Peer`] behind an address.
pub struct HttpPeer {
    options: Options,
    authorization: Option<HeaderValue>,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl HttpPeer {
    /// Connects when it is first called.
    pub fn new(options: Options) -> Self {
        let (authorization, client) = (authorization(&options), client(&options));
        HttpPeer { options, authorization, client }
    }

    /// One call within its time-out; the body of an answer that is a yes.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: Vec<u8>,
        answer_bytes_max: usize,
    ) -> Result<Bytes, Failure> {
        let answered = self.exchange(method, path, content_type, body, answer_bytes_max);
        match tokio::time::timeout(self.options.attempt_timeout, answered).await {
            Ok(answered) => answered,
            Err(_) => {
                let seconds = self.options.attempt_timeout.as_secs_f64();
                Err(self.unanswered(&format!("no answer within {seconds} s")))
            }
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: Vec<u8>,
        answer_bytes_max: usize,
    ) -> Result<Bytes, Failure> {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.options.address));
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, content_type);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Full::from(body)).map_err(|error| self.unanswered(&error.to_string()))?;
        let response = self.client.request(request).await.map_err(|error| {
            let why = deepest(&error);
            let why = if error.is_connect() { format!("cannot connect: {why}") } else { why };
            self.unanswered(&why)
        })?;
        let (head, body) = response.into_parts();
        if matches!(head.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            return Err(Failure::Throttled { after: retry_after(&head.headers) });
        }
        let body = match Limited::new(body, answer_bytes_max).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return Err(self.unanswered(&format!("an answer of more than {answer_bytes_max} bytes")));
            }
            Err(error) => return Err(self.unanswered(&format!("the answer broke off: {}", deepest(error.as_ref())))),
        };
        match head.status {
            StatusCode::OK | StatusCode::ACCEPTED => Ok(body),
            // Time-outs speak of the way there, not of us.
            status if status.is_client_error() && status != StatusCode::REQUEST_TIMEOUT => {
                Err(Failure::Refused(format!("{} answers {status}: {}", self.options.address, message(&body))))
            }
            status => Err(self.unanswered(&format!("answers {status}: {}", message(&body)))),
        }
    }

    pub(super) fn unanswered(&self, why: &str) -> Failure {
        Failure::Unanswered(format!("{}: {why}", self.options.address))
    }
}

impl Peer for HttpPeer {
    fn deliver(&self, batch: Batch) -> BoxFuture<'_, Result<Reply, Failure>> {
        async move {
            let records = batch.records.len();
            let answer_bytes_max = ANSWER_BYTES_MAX + records * RECORD_BYTES_MAX;
            let body = batch.encode();
            // The records may hold a large piece of log in memory, and the peer may take its time.
            drop(batch);
            let answer =
                self.call(Method::POST, "/peer/v1/deliver", BATCH_CONTENT_TYPE, body, answer_bytes_max).await?;
            let reply = Reply::decode(&answer).map_err(|why| self.unanswered(&why))?;
            match &reply.answer {
                Answer::Applied(outcomes) if outcomes.len() != records => {
                    Err(self.unanswered(&format!("{} outcomes for {records} records", outcomes.len())))
                }
                _ => Ok(reply),
            }
        }
        .boxed()
    }

    fn hello(&self) -> BoxFuture<'_, Result<Hello, Failure>> {
        async move {
            let asker = utf8_percent_encode(&self.options.region, NON_ALPHANUMERIC);
            let path = format!("/peer/v1/hello?region={asker}");
            let answer = self.call(Method::GET, &path, "", Vec::new(), ANSWER_BYTES_MAX).await?;
            serde_json::from_slice(&answer).map_err(|error| self.unanswered(&format!("not a hello: {error}")))
        }
        .boxed()
    }

    fn request_repair(&self, request: RepairRequest) -> BoxFuture<'_, Result<(), Failure>> {
        async move {
            let body = serde_json::to_vec(&request).map_err(|error| self.unanswered(&error.to_string()))?;
            let answered = self.call(Method::POST, "/peer/v1/repair", "application/json", body, ANSWER_BYTES_MAX);
            answered.await.map(drop)
        }
        .boxed()
    }
}

/// The first cause: what stands around it names layers of the client.
pub(super) fn deepest(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// The `error` of a JSON answer, else the beginning of whatever it is, on one line.
pub(super) fn message(body: &[u8]) -> String {
    let json = serde_json::from_slice(body).unwrap_or(serde_json::Value::Null);
    let text = match json.get("error").and_then(serde_json::Value::as_str) {
        Some(text) => text.to_owned(),
        None => String::from_utf8_lossy(&body[..body.len().min(4 * TEXT_CHARACTERS_MAX)]).into_owned(),
    };
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    match words.join(" ") {
        text if text.is_empty() => "no reason given".to_owned(),
        text => text.chars().take(TEXT_CHARACTERS_MAX).collect(),
    }
}

pub(super) fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    seconds.map_or(PAUSE_DEFAULT, Duration::from_secs).min(PAUSE_MAX)
}

#[cfg(test)]
#[path = "peer_tests.rs"]
mod tests;
