//! S3's path-style protocol over the region's object store, for services. The `s3s` crate reads requests and writes
//! answers; [`operations`] does what they ask.
//!
//! Without an `auth.api_token` any signature will do, or none: it is taken off, and what it frames is unpacked here
//! ([`chunked`]). With one a request shows it as `Authorization: Bearer`, or is signed with it as the secret key of any
//! access key id, which `s3s` verifies.
//!
//! Bodies may take as long as they move ([`super::bodies`]).

mod chunked;
mod convert;
mod elsewhere;
mod listing;
mod objects;
mod operations;
#[cfg(test)]
mod rules_tests;
#[cfg(test)]
mod signed_tests;
#[cfg(test)]
mod tests;
mod uploads;

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Extension, Request, State},
    http::{HeaderMap, Method, StatusCode, Uri, header, request::Parts},
    response::Response,
};
use futures::TryStreamExt;
use http_body_util::StreamBody;
use hyper::body::{Body as _, Frame};
use s3s::{
    S3Result,
    auth::{S3Auth, SecretKey},
    config::{S3Config, StaticConfigProvider},
    service::{S3Service, S3ServiceBuilder},
};

use super::{
    Api, Options, answer,
    bodies::{self, Caller, Incoming},
    listener::Connection,
    shows,
};
use crate::{core::object::RESERVED_BUCKETS, ports::inbox::Admission};
use chunked::Trailers;
use operations::Operations;

/// What S3's clients send in place of a checksum where the body is in chunks.
const STREAMING: &str = "STREAMING-";

/// The one of these whose chunks are not signed.
const STREAMING_UNSIGNED: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";

/// Bytes of a body that is XML: 10,000 parts with their checksums are some 3 MB.
const XML_BYTES_MAX: usize = 4 << 20;

/// Serves S3's requests, with and without signatures.
pub struct S3 {
    open: S3Service,
    signed: Option<S3Service>,
}

impl S3 {
    pub fn new(options: &Options) -> Self {
        let mut config = S3Config::default();
        config.xml_max_body_size = XML_BYTES_MAX;
        let config = Arc::new(StaticConfigProvider::new(Arc::new(config)));
        let builder = || {
            let mut builder = S3ServiceBuilder::new(Operations::new(options));
            builder.set_config(config.clone());
            builder
        };
        let signed = options.auth.api_token.as_ref().map(|token| {
            let mut builder = builder();
            builder.set_auth(TokenAsKey(SecretKey::from(token.expose())));
            builder.build()
        });
        S3 { open: builder().build(), signed }
    }
}

/// Whatever the access key id is, the secret key is the token.
struct TokenAsKey(SecretKey);

#[async_trait::async_trait]
impl S3Auth for TokenAsKey {
    async fn get_secret_key(&self, _: &str) -> S3Result<SecretKey> {
        Ok(self.0.clone())
    }
}

/// Every path that is no other route's.
pub async fn serve(
    State(api): State<Arc<Api>>,
    Extension(connection): Extension<Arc<Connection>>,
    request: Request,
) -> Response {
    let first = request.uri().path().split('/').nth(1).unwrap_or_default();
    if RESERVED_BUCKETS.contains(&first) {
        return super::no_such_path();
    }
    let (mut head, body) = request.into_parts();
    // There is nothing that the caller could be told to send.
    let asks_in_vain = head.headers.contains_key(header::EXPECT) && body.is_end_stream();
    let incoming = api.bodies.incoming(Caller::Service, &head.headers, body);
    if is_form(&head) {
        let refusal = failed(StatusCode::NOT_IMPLEMENTED, "NotImplemented", "forms are not taken: use PUT");
        return refused(incoming, refusal).await;
    }
    let Some(room) = api.bodies.enter(Caller::Service).await else {
        return refused(incoming, slow_down("too many requests for objects are on their way")).await;
    };
    if may_take_long(&head) {
        connection.lift_timeout();
    }
    let is_open = shows(&head.headers, api.options.auth.api_token.as_ref());
    // Without one of the two headers there is no body.
    let has_none = || !head.headers.contains_key(header::TRANSFER_ENCODING);
    let mut length = answer::content_length(&head.headers).or_else(|| has_none().then_some(0));
    let (service, body) = match &api.s3.signed {
        Some(signed) if !is_open => {
            let body = incoming.stream(Admission::default());
            let body = match streaming(&head.headers) {
                Some(STREAMING_UNSIGNED) => {
                    length = None;
                    chunked::rechunk(body)
                }
                Some(_) => chunked::bound(body),
                None => body,
            };
            (signed, body)
        }
        _ => {
            let body = incoming.stream(Admission::default());
            let body = match unpack(&mut head.headers) {
                true => {
                    length = answer::content_length(&head.headers);
                    let trailers = Trailers::default();
                    head.extensions.insert(trailers.clone());
                    chunked::unpack(body, trailers)
                }
                false => body,
            };
            take_signature_off(&mut head.headers, &mut head.uri);
            (&api.s3.open, body)
        }
    };
    let body = s3s::Body::http_body_unsync(Sized { body: StreamBody::new(body.map_ok(Frame::data)), length });
    let response = match service.call(hyper::Request::from_parts(head, body)).await {
        Ok(response) => response,
        Err(error) => {
            let error: s3s::StdError = error.into();
            tracing::error!(%error, "a request for objects failed");
            return failed(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", "see the agent's log");
        }
    };
    // The room is taken until the answer has been sent.
    let mut response = response.map(|body| Body::new(Kept { body, _room: room }));
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        answer::set_retry_after(&mut response, bodies::PAUSE);
    }
    if !response.status().is_success() {
        incoming.forget(&mut response).await;
    } else if asks_in_vain {
        // Older AWS SDKs for Python take the next answer over such a connection for a part of this one, and hang for a minute
        // (github.com/boto/botocore/issues/3755).
        answer::close_after(&mut response);
    }
    response
}

/// An answer to a caller that may be busy sending.
async fn refused(incoming: Incoming, mut response: Response) -> Response {
    incoming.forget(&mut response).await;
    response
}

/// A browser's upload would be gathered in memory.
fn is_form(head: &Parts) -> bool {
    let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_form = |value: &str| value.trim_start().to_ascii_lowercase().starts_with("multipart/form-data");
    head.method == Method::POST && content_type.is_some_and(is_form)
}

/// Whether the request takes as long as its bytes do: it brings them, or it asks for a copy of some that are here.
/// Everything else ends within the listener's time-out.
fn may_take_long(head: &Parts) -> bool {
    let has_body = answer::content_length(&head.headers).is_some_and(|length| length > 0)
        || head.headers.contains_key(header::TRANSFER_ENCODING);
    match head.method {
        Method::PUT => has_body || head.headers.contains_key("x-amz-copy-source"),
        // Parts become an object.
        Method::POST => {
            let query = head.uri.query().unwrap_or_default().as_bytes();
            form_urlencoded::parse(query).any(|(name, _)| name == "uploadId")
        }
        _ => false,
    }
}

/// What stands in place of the body's checksum, if the body is in chunks.
fn streaming(headers: &HeaderMap) -> Option<&str> {
    let sha256 = headers.get("x-amz-content-sha256").and_then(|value| value.to_str().ok());
    sha256.filter(|value| value.starts_with(STREAMING))
}

/// Whether the body is in chunks; the headers then say what is in them.
fn unpack(headers: &mut HeaderMap) -> bool {
    if streaming(headers).is_none() {
        return false;
    }
    match headers.get("x-amz-decoded-content-length").cloned() {
        Some(length) => headers.insert(header::CONTENT_LENGTH, length),
        None => headers.remove(header::CONTENT_LENGTH),
    };
    true
}

/// Nobody verifies it here, and `s3s` refuses what it cannot verify.
fn take_signature_off(headers: &mut HeaderMap, uri: &mut Uri) {
    headers.remove(header::AUTHORIZATION);
    let Some(query) = uri.query() else { return };
    let signs = |name: &str| {
        const NAMES: [&str; 10] = [
            "x-amz-algorithm",
            "x-amz-credential",
            "x-amz-date",
            "x-amz-expires",
            "x-amz-signedheaders",
            "x-amz-signature",
            "x-amz-security-token",
            "awsaccesskeyid",
            "signature",
            "expires",
        ];
        NAMES.contains(&name.to_ascii_lowercase().as_str())
    };
    let kept: Vec<&str> = query.split('&').filter(|pair| !signs(pair.split('=').next().unwrap_or_default())).collect();
    let kept = format!("{}?{}", uri.path(), kept.join("&"));
    // A part of a URI is one.
    if let Ok(kept) = kept.parse() {
        *uri = kept;
    }
}

fn slow_down(why: &str) -> Response {
    let mut response = failed(StatusCode::SERVICE_UNAVAILABLE, "SlowDown", why);
    answer::set_retry_after(&mut response, bodies::PAUSE);
    response
}

/// An error in S3's form.
fn failed(status: StatusCode, code: &str, message: &str) -> Response {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    answer::with_type(status, "application/xml", text.into())
}

/// A body of a known length, where it is known.
struct Sized<B> {
    body: B,
    length: Option<u64>,
}

impl<B: hyper::body::Body + Unpin> hyper::body::Body for Sized<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        std::pin::Pin::new(&mut self.body).poll_frame(cx)
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.length.map_or_else(|| self.body.size_hint(), hyper::body::SizeHint::with_exact)
    }
}

/// An answer's body that keeps its room.
struct Kept {
    body: s3s::Body,
    _room: tokio::sync::OwnedSemaphorePermit,
}

impl hyper::body::Body for Kept {
    type Data = bytes::Bytes;
    type Error = s3s::StdError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<bytes::Bytes>, s3s::StdError>>> {
        std::pin::Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::Body::size_hint(&self.body)
    }
}
