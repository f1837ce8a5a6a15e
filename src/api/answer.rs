//! What all handlers share: bodies read within bounds, answers and errors in JSON.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http_body_util::BodyExt;
use serde::Serialize;
use tokio::sync::mpsc;

/// A body that is too large is still read up to this many bytes and forgotten: a caller that is busy sending would
/// otherwise see a reset instead of the answer.
pub const FORGOTTEN_BYTES_MAX: usize = 64 << 20;

/// Memory set aside on the word of a `content-length`; what comes beyond makes it grow.
const BELIEVED_BYTES_MAX: u64 = 1 << 20;

/// An answer in JSON.
pub fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(text) => with_type(status, "application/json", text.into()),
        Err(failed) => error(StatusCode::INTERNAL_SERVER_ERROR, &failed.to_string()),
    }
}

/// An answer of any content type.
pub fn with_type(status: StatusCode, content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// `{"error":"…"}`.
pub fn error(status: StatusCode, message: &str) -> Response {
    json(status, &serde_json::json!({ "error": message }))
}

/// JSON lines, sent as they come.
pub fn lines(pieces: mpsc::Receiver<Bytes>) -> Response {
    let stream = futures::stream::unfold(pieces, |mut pieces| async move { Some((pieces.recv().await?, pieces)) });
    let body = Body::from_stream(stream.map(Ok::<_, std::convert::Infallible>));
    with_type(StatusCode::OK, "application/x-ndjson", body)
}

/// 503 with `Retry-After`.
pub fn unavailable(message: &str, retry_after: Duration) -> Response {
    let mut response = error(StatusCode::SERVICE_UNAVAILABLE, message);
    set_retry_after(&mut response, retry_after);
    response
}

/// Nothing can follow over this connection.
pub fn close_after(response: &mut Response) {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
}

/// Whole seconds, rounded up; at least one.
pub fn set_retry_after(response: &mut Response, retry_after: Duration) {
    let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
}

/// Why there is no body.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the request's body is over the limit of {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("the request's body cannot be read: {0}")]
    Broken(String),
}

impl BodyError {
    pub fn status(&self) -> StatusCode {
        match self {
            BodyError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::Broken(_) => StatusCode::BAD_REQUEST,
        }
    }

    pub fn answer(&self) -> Response {
        error(self.status(), &self.to_string())
    }
}

/// What `content-length` says, if it is there.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads a whole body of at most `limit` bytes. That it ends at all is the listener's affair.
///
/// # Errors
/// Too large, or broken off.
pub async fn read_body(headers: &HeaderMap, mut body: Body, limit: u64) -> Result<Bytes, BodyError> {
    let length = content_length(headers).unwrap_or_default();
    if length > limit && headers.contains_key(header::EXPECT) {
        // The caller asks before it sends.
        return Err(BodyError::TooLarge { limit });
    }
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    let (mut size, mut too_large) = (0usize, length > limit);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| BodyError::Broken(error.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        size = size.saturating_add(data.len());
        too_large |= size as u64 > limit;
        if too_large {
            whole = BytesMut::new();
            if size > FORGOTTEN_BYTES_MAX {
                break;
            }
        } else if first.is_empty() && whole.is_empty() {
            // Most bodies come in one piece, which needs no copy.
            first = data;
        } else {
            if whole.is_empty() {
                whole.reserve(usize::try_from(length.min(BELIEVED_BYTES_MAX)).unwrap_or_default());
                whole.extend_from_slice(&std::mem::take(&mut first));
            }
            whole.extend_from_slice(&data);
        }
    }
    match too_large {
        true => Err(BodyError::TooLarge { limit }),
        false if whole.is_empty() => Ok(first),
        false => Ok(whole.freeze()),
    }
}
