//! Bytes on their way to S3 and from it, piece by piece.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use futures::{StreamExt, stream};
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use crate::{
    core::link::Failure,
    ports::objects::{Body, Error},
};

/// Why a body did not come to its end.
#[derive(Clone, Debug, Default)]
pub(super) struct Fault(Arc<Mutex<Option<Error>>>);

impl Fault {
    pub(super) fn take(&self) -> Option<Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Keeps the first reason; what the connection is told matters to nobody.
    fn set(&self, error: Error) -> BodyFailed {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        BodyFailed
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the body did not come to its end")]
pub(super) struct BodyFailed;

/// A body of the announced size, for a request: its length stands in the request's head, so it must be kept to. The last
/// piece goes out when the body has ended, or what is too long would be cut to fit.
struct Sent {
    // Only to be shared: nobody locks it.
    body: Mutex<Body>,
    size: u64,
    left: u64,
    last: Option<Bytes>,
    fault: Fault,
}

impl Sent {
    fn damaged(&self, what: &str) -> BodyFailed {
        self.fault.set(Error::Damaged(format!("{what} than the {} bytes that were announced", self.size)))
    }
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = BodyFailed;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailed>>> {
        let this = self.get_mut();
        loop {
            let body = this.body.get_mut().unwrap_or_else(PoisonError::into_inner);
            let frame = match ready!(body.poll_next_unpin(context)) {
                Some(Ok(piece)) if piece.is_empty() => continue,
                Some(Ok(piece)) => match this.left.checked_sub(piece.len() as u64) {
                    None => Some(Err(this.damaged("more"))),
                    Some(0) => {
                        this.left = 0;
                        this.last = Some(piece);
                        continue;
                    }
                    Some(left) => {
                        this.left = left;
                        Some(Ok(Frame::data(piece)))
                    }
                },
                Some(Err(failure)) => Some(Err(this.fault.set(failure.into()))),
                None if this.left > 0 => Some(Err(this.damaged("fewer"))),
                None => this.last.take().map(|piece| Ok(Frame::data(piece))),
            };
            return Poll::Ready(frame);
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left + self.last.as_ref().map_or(0, |piece| piece.len() as u64))
    }
}

/// What a request sends, and where it says why it could not.
///
/// # Errors
/// There are bytes where none were announced.
pub(super) async fn to_send(size: u64, mut body: Body) -> Result<(ByteStream, Fault), Error> {
    let fault = Fault::default();
    if size == 0 {
        // Nobody asks for the body of such a request.
        while let Some(piece) = body.next().await {
            if !piece?.is_empty() {
                return Err(Error::Damaged("there are bytes, and none were announced".to_owned()));
            }
        }
        return Ok((ByteStream::from_static(b""), fault));
    }
    let sent = Sent { body: Mutex::new(body), size, left: size, last: None, fault: fault.clone() };
    Ok((ByteStream::from_body_1_x(sent), fault))
}

/// The bytes of an answer: exactly so many, with at most `patience` between two pieces.
pub(super) fn of_answer(answer: ByteStream, size: u64, patience: Duration) -> Body {
    let pieces = stream::try_unfold((answer, size), move |(mut answer, left)| async move {
        let piece = match tokio::time::timeout(patience, answer.next()).await {
            Ok(piece) => piece,
            Err(_) => return Err(Failure::Unanswered(format!("no more bytes within {patience:?}"))),
        };
        match piece {
            Some(Ok(piece)) => match left.checked_sub(piece.len() as u64) {
                Some(left) => Ok(Some((piece, (answer, left)))),
                None => Err(Failure::Unanswered("more bytes than were asked for".to_owned())),
            },
            Some(Err(error)) => Err(Failure::Unanswered(crate::aws::failure::chain(&error))),
            None if left > 0 => Err(Failure::Unanswered(format!("the answer ended {left} bytes early"))),
            None => Ok(None),
        }
    });
    pieces.boxed()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    /// What goes out of a body of these pieces, and what was found wrong with it.
    async fn sent(size: u64, pieces: &[&'static [u8]]) -> (Vec<u8>, Option<Error>) {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok(Bytes::from_static(piece))).collect();
        let fault = Fault::default();
        let body = Mutex::new(stream::iter(pieces).boxed());
        let mut body = Sent { body, size, left: size, last: None, fault: fault.clone() };
        let mut out = Vec::new();
        while let Some(Ok(frame)) = body.frame().await {
            out.extend_from_slice(frame.data_ref().expect("data"));
        }
        (out, fault.take())
    }

    #[tokio::test]
    async fn a_body_is_as_long_as_was_said_or_its_last_piece_never_goes_out() {
        assert_eq!(sent(5, &[b"ab", b"", b"cde", b""]).await, (b"abcde".to_vec(), None));
        for (pieces, out, what) in [
            (&[b"ab" as &[u8], b"cde", b"f"][..], &b"ab"[..], "more than the 5"),
            (&[b"ab", b"cdef"], b"ab", "more than the 5"),
            (&[b"ab", b"c"], b"abc", "fewer than the 5"),
            (&[], b"", "fewer than the 5"),
        ] {
            let (went, fault) = sent(5, pieces).await;
            assert_eq!(went, out);
            assert!(matches!(&fault, Some(Error::Damaged(why)) if why.starts_with(what)), "{fault:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_too_short_too_long_or_stalls_is_no_whole_one() {
        let collect = async |size| {
            let answer = ByteStream::from_static(b"abcde");
            let pieces: Vec<_> = of_answer(answer, size, Duration::from_secs(1)).collect().await;
            pieces.into_iter().collect::<Result<Vec<Bytes>, Failure>>().map(|pieces| pieces.concat())
        };
        assert_eq!(collect(5).await, Ok(b"abcde".to_vec()));
        assert!(matches!(collect(6).await, Err(Failure::Unanswered(_))));
        assert!(matches!(collect(4).await, Err(Failure::Unanswered(_))));
        let endless =
            Sent { body: Mutex::new(stream::pending().boxed()), size: 1, left: 1, last: None, fault: Fault::default() };
        let mut stalled = of_answer(ByteStream::from_body_1_x(endless), 1, Duration::from_millis(10));
        assert!(matches!(stalled.next().await, Some(Err(Failure::Unanswered(_)))));
    }
}
