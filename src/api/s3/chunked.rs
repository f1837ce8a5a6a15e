//! Unpacks S3's `aws-chunked` bodies, whose signatures nobody verifies here: chunks `SIZE[;chunk-signature=…]`, the last of
//! size 0, then trailers.

use std::sync::{Arc, Mutex, PoisonError};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::{Buf, Bytes, BytesMut};
use futures::{StreamExt, stream};

use crate::{core::link::Failure, ports::objects::Body};

/// Bytes of a line: a size with a signature, a trailer.
const LINE_BYTES_MAX: usize = 8 << 10;

/// Trailers of a body.
const TRAILERS_MAX: usize = 32;

/// What came behind a body; an extension of its request.
#[derive(Clone, Debug, Default)]
pub struct Trailers(Arc<Mutex<HeaderMap>>);

impl Trailers {
    /// What came. Complete after the body's end.
    pub fn get(&self) -> HeaderMap {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The bytes within the chunks.
pub fn unpack(body: Body, trailers: Trailers) -> Body {
    let unpacking = Unpacking { body, read: BytesMut::new(), at: At::Size, trailers };
    stream::try_unfold(unpacking, |mut unpacking| async { Ok(unpacking.next().await?.map(|bytes| (bytes, unpacking))) })
        .boxed()
}

/// What comes next.
enum At {
    Size,
    Data(u64),
    DataEnd,
    Trailer,
    End,
}

struct Unpacking {
    body: Body,
    read: BytesMut,
    at: At,
    trailers: Trailers,
}

fn refused(why: &str) -> Failure {
    Failure::Refused(format!("the body's chunks: {why}"))
}

impl Unpacking {
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            match self.at {
                At::Size => {
                    let line = self.line().await?.ok_or_else(|| refused("the last one is missing"))?;
                    let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
                    let size =
                        std::str::from_utf8(size).ok().and_then(|size| u64::from_str_radix(size.trim(), 16).ok());
                    self.at = match size.ok_or_else(|| refused("a size is none"))? {
                        0 => At::Trailer,
                        size => At::Data(size),
                    };
                }
                At::Data(left) => {
                    if self.read.is_empty() && !self.fill().await? {
                        return Err(refused("one is incomplete"));
                    }
                    let length = usize::try_from(left).map_or(self.read.len(), |left| left.min(self.read.len()));
                    let bytes = self.read.split_to(length).freeze();
                    self.at = match left - length as u64 {
                        0 => At::DataEnd,
                        left => At::Data(left),
                    };
                    if !bytes.is_empty() {
                        return Ok(Some(bytes));
                    }
                }
                At::DataEnd => {
                    let line = self.line().await?.ok_or_else(|| refused("one has no end"))?;
                    if !line.is_empty() {
                        return Err(refused("one is longer than its size"));
                    }
                    self.at = At::Size;
                }
                At::Trailer => match self.line().await? {
                    // The empty line at the end is commonly left out.
                    None => self.at = At::End,
                    Some(line) if line.is_empty() => self.at = At::End,
                    Some(line) => self.trailer(&line)?,
                },
                At::End => {
                    return match self.read.is_empty() && !self.fill().await? {
                        true => Ok(None),
                        false => Err(refused("something follows the last one")),
                    };
                }
            }
        }
    }

    fn trailer(&mut self, line: &[u8]) -> Result<(), Failure> {
        let colon = line.iter().position(|byte| *byte == b':').ok_or_else(|| refused("a trailer is none"))?;
        let name = HeaderName::from_bytes(line[..colon].trim_ascii());
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        let (Ok(name), Ok(value)) = (name, value) else { return Err(refused("a trailer is none")) };
        let mut trailers = self.trailers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if trailers.len() == TRAILERS_MAX {
            return Err(refused("too many trailers"));
        }
        trailers.insert(name, value);
        Ok(())
    }

    /// The next line without its end; `None` where there is nothing more at all.
    async fn line(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(end).freeze();
                self.read.advance(1);
                return Ok(Some(line.strip_suffix(b"\r").map_or(line.clone(), |stripped| line.slice_ref(stripped))));
            }
            if self.read.len() > LINE_BYTES_MAX {
                return Err(refused("a line is too long"));
            }
            if !self.fill().await? {
                return match self.read.is_empty() {
                    true => Ok(None),
                    false => Ok(Some(self.read.split().freeze())),
                };
            }
        }
    }

    /// Whether there was more to read.
    async fn fill(&mut self) -> Result<bool, Failure> {
        let Some(bytes) = self.body.next().await.transpose()? else { return Ok(false) };
        match self.read.is_empty() {
            // Nothing to join it with: no copy.
            true => self.read = BytesMut::from(bytes),
            false => self.read.extend_from_slice(&bytes),
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

    use super::*;

    /// Unpacks a body that arrives in pieces of so many bytes.
    async fn unpacked(packed: &str, piece: usize) -> Result<(String, HeaderMap), Failure> {
        let pieces: Vec<_> = packed.as_bytes().chunks(piece).map(|bytes| Ok(Bytes::copy_from_slice(bytes))).collect();
        let trailers = Trailers::default();
        let bytes: Vec<Bytes> = unpack(stream::iter(pieces).boxed(), trailers.clone()).try_collect().await?;
        Ok((String::from_utf8(bytes.concat()).unwrap(), trailers.get()))
    }

    #[tokio::test]
    async fn chunks_are_unpacked_wherever_the_network_cuts_them() {
        let signed = "5;chunk-signature=0123\r\nhello\r\nA\r\n, world\r\n!\r\n0;chunk-signature=4567\r\n\r\n";
        let trailed = "3\r\nabc\r\n0\r\nx-amz-checksum-crc32: AAAA\r\nx-amz-trailer-signature:ff\r\n\r\n";
        let bare = "3\r\nabc\r\n0\r\n";
        for piece in [1, 2, 3, 7, 100] {
            assert_eq!(unpacked(signed, piece).await.unwrap().0, "hello, world\r\n!");
            let (text, trailers) = unpacked(trailed, piece).await.unwrap();
            assert_eq!((text.as_str(), &trailers["x-amz-checksum-crc32"]), ("abc", &HeaderValue::from_static("AAAA")));
            assert_eq!(unpacked(bare, piece).await.unwrap(), ("abc".to_owned(), HeaderMap::new()));
            assert_eq!(unpacked("0\r\n\r\n", piece).await.unwrap().0, "");
        }
    }

    #[tokio::test]
    async fn what_is_no_chunks_is_refused() {
        let long = "1".repeat(10_000);
        let too_many = format!("0\r\n{}", (0..40).map(|nth| format!("x-{nth}: 1\r\n")).collect::<String>());
        for packed in [
            "",
            "x\r\n",
            "3\r\nab",
            "3\r\nabc",
            "3\r\nabcd\r\n0\r\n\r\n",
            "3\r\nabc\r\n",
            "0\r\nx\r\n\r\n",
            "0\r\n\r\nmore",
            &long,
            &too_many,
        ] {
            let refused = unpacked(packed, 5).await;
            assert!(matches!(refused, Err(Failure::Refused(_))), "{packed}: {refused:?}");
        }
    }
}
