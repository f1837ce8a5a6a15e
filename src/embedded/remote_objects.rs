//! Another region's object store over HTTP: the sending half of what `api::peer_objects` answers.
//!
//! A call without a body ends within [`peer::Options::attempt_timeout`]. One with a body may take as long as its bytes do,
//! and ends when nothing moved for [`Options::stall_timeout`].

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use http_body_util::{BodyExt, LengthLimitError, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue},
};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::{Instant, sleep_until, timeout};

use super::peer::{self, authorization, client, deepest, message, retry_after};
use crate::{
    core::link::Failure,
    ports::objects::{Announced, Body, Error, Location, Objects, Stat, Upload, wire},
};

/// Bytes of an answer that is no body. Metadata may have some kilobytes, the parts of an upload about 200 KB.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// What a peer does at least with the bytes of an upload that it makes an object of: reads, hashes and writes them.
const FINISH_BYTES_PER_SECOND: u64 = 32 << 20;

#[derive(Clone, Debug)]
pub struct Options {
    pub peer: peer::Options,
    pub cluster: String,
    /// How long a body may stand still.
    pub stall_timeout: Duration,
}

impl Options {
    pub fn new(cluster: &str, peer: peer::Options) -> Self {
        Options { cluster: cluster.to_owned(), stall_timeout: peer.attempt_timeout.max(Duration::from_secs(10)), peer }
    }
}

type Outgoing = UnsyncBoxBody<Bytes, Error>;

/// An [`Objects`] behind an address.
pub struct RemoteObjects {
    options: Options,
    authorization: Option<HeaderValue>,
    client: Client<HttpConnector, Outgoing>,
}

impl RemoteObjects {
    /// Connects when it is first called.
    pub fn new(options: Options) -> Self {
        let (authorization, client) = (authorization(&options.peer), client(&options.peer));
        RemoteObjects { options, authorization, client }
    }

    /// `what` and who asks, and `fields` besides.
    fn path(&self, what: &str, fields: &[(&str, &str)]) -> String {
        let own = [("cluster", self.options.cluster.as_str()), ("region", self.options.peer.region.as_str())];
        let mut path = format!("/peer/v1/objects/{what}");
        for (nth, (name, value)) in own.iter().chain(fields).enumerate() {
            path.push(if nth == 0 { '?' } else { '&' });
            path.push_str(name);
            path.push('=');
            path.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
        }
        path
    }

    fn request(&self, method: Method, path: &str, length: u64, body: Outgoing) -> Result<Request<Outgoing>, Failure> {
        let method_has_body = method != Method::GET;
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.options.peer.address));
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if method_has_body {
            request = request.header(CONTENT_LENGTH, length).header(CONTENT_TYPE, "application/octet-stream");
        }
        request.body(body).map_err(|error| self.unanswered(&error.to_string()))
    }

    /// One call without a body, with a time-out.
    async fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        said: Option<&impl Serialize>,
        limit: Duration,
    ) -> Result<T, Error> {
        let said = said.map(serde_json::to_vec).transpose().map_err(|error| self.unanswered(&error.to_string()))?;
        let method = if said.is_some() { Method::POST } else { Method::GET };
        let said = Bytes::from(said.unwrap_or_default());
        let body = http_body_util::Full::new(said.clone()).map_err(|never| match never {}).boxed_unsync();
        let request = self.request(method, path, said.len() as u64, body)?;
        let answered = async { self.answer(self.send(request).await?).await };
        match timeout(limit, answered).await {
            Ok(answered) => answered,
            Err(_) => Err(self.unanswered(&format!("no answer within {} s", limit.as_secs_f64())).into()),
        }
    }

    async fn send(&self, request: Request<Outgoing>) -> Result<Response<Incoming>, Failure> {
        self.client.request(request).await.map_err(|error| {
            let why = deepest(&error);
            self.unanswered(&if error.is_connect() { format!("cannot connect: {why}") } else { why })
        })
    }

    /// Reads an answer that is no body.
    async fn answer<T: DeserializeOwned>(&self, response: Response<Incoming>) -> Result<T, Error> {
        let response = self.accepted(response).await?;
        let text = self.text(response).await?;
        serde_json::from_slice(&text)
            .map_err(|error| self.unanswered(&format!("an answer of another form: {error}")).into())
    }

    async fn text(&self, response: Response<Incoming>) -> Result<Bytes, Failure> {
        match Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => {
                Err(self.unanswered(&format!("an answer of more than {ANSWER_BYTES_MAX} bytes")))
            }
            Err(error) => Err(self.unanswered(&format!("the answer broke off: {}", deepest(error.as_ref())))),
        }
    }

    /// The response itself where it is a yes, else what it says.
    async fn accepted(&self, response: Response<Incoming>) -> Result<Response<Incoming>, Error> {
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(response);
        }
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            return Err(Failure::Throttled { after: retry_after(response.headers()) }.into());
        }
        let text = self.text(response).await?;
        #[derive(Deserialize)]
        struct Coded {
            code: wire::Code,
        }
        let why = format!("{} answers {status}: {}", self.options.peer.address, message(&text));
        match serde_json::from_slice::<Coded>(&text).ok().map(|coded| coded.code) {
            Some(wire::Code::Gone) => Err(Error::Gone),
            Some(wire::Code::Exists) => Err(Error::Exists),
            Some(wire::Code::Damaged) => Err(Error::Damaged(why)),
            // Time-outs speak of the way there, not of us.
            None if status.is_client_error() && status != StatusCode::REQUEST_TIMEOUT => {
                Err(Failure::Refused(why).into())
            }
            None => Err(Failure::Unanswered(why).into()),
        }
    }

    /// Sends a body of `size` bytes behind `head`, and reads the answer.
    async fn upload<T: DeserializeOwned>(&self, path: &str, head: Bytes, size: u64, body: Body) -> Result<T, Error> {
        let sending = Arc::new(Sending::default());
        let length = head.len() as u64 + size;
        let body = stream::once(async { Ok(head) }).chain(sending.clone().watch(size, body));
        let body = BodyExt::boxed_unsync(StreamBody::new(body.map(|bytes| bytes.map(Frame::data))));
        let request = self.request(Method::PUT, path, length, body)?;
        let answered = async { self.answer(self.send(request).await?).await };
        let answered = tokio::select! {
            answered = answered => answered,
            () = sending.stalled(self.options.stall_timeout) => {
                let seconds = self.options.stall_timeout.as_secs_f64();
                Err(self.unanswered(&format!("nothing moved for {seconds} s")).into())
            }
        };
        match (answered, sending.failure()) {
            // The connection broke because the body did.
            (Err(Error::Failure(Failure::Unanswered(_))), Some(failure)) => Err(failure),
            (answered, _) => answered,
        }
    }

    fn unanswered(&self, why: &str) -> Failure {
        Failure::Unanswered(format!("{}: {why}", self.options.peer.address))
    }
}

/// A body on its way out.
#[derive(Default)]
struct Sending {
    moved: Mutex<Option<Instant>>,
    failure: Mutex<Option<Error>>,
}

impl Sending {
    /// Passes the bytes on and notes that they move; exactly `size` of them or an error.
    fn watch(self: Arc<Self>, size: u64, body: Body) -> impl futures::Stream<Item = Result<Bytes, Error>> + Send {
        let step = |(this, left, mut body): (Arc<Self>, u64, Body)| async move {
            this.note();
            let bytes = match body.next().await {
                Some(Ok(bytes)) => bytes,
                Some(Err(failure)) => return Err(this.fail(failure.into())),
                None if left == 0 => return Ok(None),
                None => return Err(this.fail(Error::Damaged(format!("{left} bytes are missing at its end")))),
            };
            this.note();
            match left.checked_sub(bytes.len() as u64) {
                Some(left) => Ok(Some((bytes, (this, left, body)))),
                None => Err(this.fail(Error::Damaged("more bytes than were announced".to_owned()))),
            }
        };
        stream::try_unfold((self, size, body), step)
    }

    fn note(&self) {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn fail(&self, error: Error) -> Error {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
        error
    }

    fn failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Resolves when nothing moved for so long.
    async fn stalled(&self, patience: Duration) {
        let began = Instant::now();
        loop {
            let moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(began);
            if moved.elapsed() >= patience {
                return;
            }
            sleep_until(moved + patience).await;
        }
    }
}

/// What goes before a body: its length in four bytes, and what is announced.
fn head(announced: &Announced) -> Result<Bytes, Failure> {
    let text = serde_json::to_vec(announced).map_err(|error| Failure::Refused(error.to_string()))?;
    let length = u32::try_from(text.len()).ok().filter(|length| u64::from(*length) <= wire::BYTES_MAX);
    let length = length.ok_or_else(|| Failure::Refused("the object's metadata is too large".to_owned()))?;
    Ok([&length.to_be_bytes(), text.as_slice()].concat().into())
}

const NOTHING: Option<&()> = None;

impl Objects for RemoteObjects {
    fn stat<'a>(&'a self, at: &'a Location) -> BoxFuture<'a, Result<Option<Stat>, Error>> {
        async move {
            let path = self.path("stat", &[("bucket", &at.bucket), ("key", &at.key)]);
            self.ask(&path, NOTHING, self.options.peer.attempt_timeout).await
        }
        .boxed()
    }

    fn read<'a>(&'a self, at: &'a Location, version: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Body, Error>> {
        async move {
            let (from, to) = (range.start.to_string(), range.end.to_string());
            let fields =
                [("bucket", at.bucket.as_str()), ("key", &at.key), ("version", version), ("from", &from), ("to", &to)];
            let body = http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync();
            let request = self.request(Method::GET, &self.path("body", &fields), 0, body)?;
            let limit = self.options.peer.attempt_timeout;
            let answered = async { self.accepted(self.send(request).await?).await };
            let late = |_| self.unanswered(&format!("no answer within {} s", limit.as_secs_f64()));
            let response = timeout(limit, answered).await.map_err(late)??;
            let receiving = Receiving {
                body: response.into_body(),
                left: range.end.saturating_sub(range.start),
                patience: self.options.stall_timeout,
                address: self.options.peer.address.to_string(),
            };
            Ok(stream::try_unfold(receiving, Receiving::step).boxed())
        }
        .boxed()
    }

    fn put<'a>(&'a self, at: &'a Location, announced: Announced, body: Body) -> BoxFuture<'a, Result<Stat, Error>> {
        async move {
            let path = self.path("body", &[("bucket", &at.bucket), ("key", &at.key)]);
            self.upload(&path, head(&announced)?, announced.size, body).await
        }
        .boxed()
    }

    fn begin<'a>(
        &'a self,
        at: &'a Location,
        announced: &'a Announced,
        tag: &'a str,
    ) -> BoxFuture<'a, Result<Upload, Error>> {
        async move {
            let said = wire::Begin { at: at.clone(), announced: announced.clone(), tag: tag.to_owned() };
            self.ask(&self.path("begin", &[]), Some(&said), self.options.peer.attempt_timeout).await
        }
        .boxed()
    }

    fn put_part<'a>(
        &'a self,
        at: &'a Location,
        upload: &'a Upload,
        number: u32,
        size: u64,
        body: Body,
    ) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let number = number.to_string();
            let fields =
                [("bucket", at.bucket.as_str()), ("key", &at.key), ("upload", &upload.id), ("number", &number)];
            self.upload(&self.path("part", &fields), Bytes::new(), size, body).await
        }
        .boxed()
    }

    fn finish<'a>(
        &'a self,
        at: &'a Location,
        upload: &'a Upload,
        parts: u32,
        announced: Announced,
    ) -> BoxFuture<'a, Result<Stat, Error>> {
        async move {
            let more = Duration::from_secs(announced.size / FINISH_BYTES_PER_SECOND);
            let said = wire::Finish { at: at.clone(), upload: upload.id.clone(), parts, announced };
            self.ask(&self.path("finish", &[]), Some(&said), self.options.peer.attempt_timeout + more).await
        }
        .boxed()
    }

    fn abort<'a>(&'a self, at: &'a Location, upload: &'a Upload) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let said = wire::Abort { at: at.clone(), upload: upload.id.clone() };
            self.ask(&self.path("abort", &[]), Some(&said), self.options.peer.attempt_timeout).await
        }
        .boxed()
    }
}

/// A body on its way in.
struct Receiving {
    body: Incoming,
    left: u64,
    patience: Duration,
    address: String,
}

impl Receiving {
    async fn step(mut self) -> Result<Option<(Bytes, Self)>, Failure> {
        let unanswered = |why: String| Failure::Unanswered(format!("{}: {why}", self.address));
        loop {
            let Ok(frame) = timeout(self.patience, self.body.frame()).await else {
                return Err(unanswered(format!("nothing moved for {} s", self.patience.as_secs_f64())));
            };
            let bytes = match frame {
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Err(unanswered(format!("the body broke off: {}", deepest(&error)))),
                None if self.left == 0 => return Ok(None),
                None => return Err(unanswered(format!("{} bytes are missing at its end", self.left))),
            };
            match self.left.checked_sub(bytes.len() as u64) {
                Some(_) if bytes.is_empty() => {}
                Some(left) => {
                    self.left = left;
                    return Ok(Some((bytes, self)));
                }
                None => return Err(unanswered("more bytes than were asked for".to_owned())),
            }
        }
    }
}

#[cfg(test)]
#[path = "remote_objects_tests.rs"]
mod tests;
