//! S3's `aws-chunked` bodies: chunks `SIZE[;chunk-signature=…]`, the last of size 0, then trailers. They are unpacked here
//! where nobody verifies their signatures. Where `s3s` verifies them it holds a whole chunk in memory: [`rechunk`] and
//! [`bound`] see to it that it is no large one.

use std::sync::{Arc, Mutex, PoisonError};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::{Buf, Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};

use crate::{core::link::Failure, ports::objects::Body};

/// Bytes of a line: a size with a signature, a trailer.
const LINE_BYTES_MAX: usize = 8 << 10;

/// Trailers of a body.
const TRAILERS_MAX: usize = 32;

/// Bytes of a chunk whose signature `s3s` verifies. Clients send 64 KiB to 1 MiB.
const SIGNED_CHUNK_BYTES_MAX: u64 = 16 << 20;

/// Bytes of the chunks that [`rechunk`] makes.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// Digits of a size: of those that `s3s` reads, it reads no more.
const SIGNED_DIGITS_MAX: usize = 8;
const DIGITS_MAX: usize = 16;

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

/// The same bytes and trailers in small chunks without signatures: for `STREAMING-UNSIGNED-PAYLOAD-TRAILER`, where the
/// request's signature covers its head alone.
pub fn rechunk(body: Body) -> Body {
    let trailers = Trailers::default();
    let chunks = unpack(body, trailers.clone()).map_ok(|mut bytes| {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let chunk = bytes.split_to(bytes.len().min(CHUNK_BYTES_MAX));
            pieces.extend([Bytes::from(format!("{:x}\r\n", chunk.len())), chunk, Bytes::from_static(b"\r\n")]);
        }
        stream::iter(pieces.into_iter().map(Ok))
    });
    let last = async move {
        let mut last = b"0\r\n".to_vec();
        for (name, value) in &trailers.get() {
            last.extend([name.as_str().as_bytes(), b":", value.as_bytes(), b"\r\n"].concat());
        }
        last.extend(b"\r\n");
        Ok(Bytes::from(last))
    };
    chunks.try_flatten().chain(stream::once(last)).boxed()
}

/// The same body, refused where a chunk is larger than `s3s` shall hold in memory.
pub fn bound(body: Body) -> Body {
    stream::try_unfold((body, Bound::Size(Vec::new())), |(mut body, mut bound)| async move {
        let Some(bytes) = body.next().await.transpose()? else { return Ok(None) };
        bound.judge(&bytes)?;
        Ok(Some((bytes, (body, bound))))
    })
    .boxed()
}

/// What comes next in a body that passes through. It must read sizes as `s3s` does, or a caller could show each of them
/// another one.
enum Bound {
    /// A size, of which this much has passed.
    Size(Vec<u8>),
    /// So many bytes of a chunk, with its end.
    Data(u64),
    Trailers,
}

impl Bound {
    fn judge(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        while !bytes.is_empty() {
            match self {
                Bound::Size(line) => {
                    let end = bytes.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
                    let (more, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
                    line.extend_from_slice(more);
                    bytes = rest;
                    if line.len() > LINE_BYTES_MAX {
                        return Err(refused("a line is too long"));
                    }
                    if end.is_some() {
                        *self = match size(line, SIGNED_DIGITS_MAX).ok_or_else(|| refused("a size is none"))? {
                            0 => Bound::Trailers,
                            size if size > SIGNED_CHUNK_BYTES_MAX => {
                                let mebibytes = SIGNED_CHUNK_BYTES_MAX >> 20;
                                return Err(refused(&format!(
                                    "a signed one has at most {mebibytes} MiB, not {size} bytes"
                                )));
                            }
                            size => Bound::Data(size + 2),
                        };
                    }
                }
                Bound::Data(left) => {
                    let passed = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                    bytes = &bytes[passed..];
                    *left -= passed as u64;
                    if *left == 0 {
                        *self = Bound::Size(Vec::new());
                    }
                }
                // `s3s` bounds these.
                Bound::Trailers => return Ok(()),
            }
        }
        Ok(())
    }
}

/// The size of a chunk that its first line says; `None` where it says none.
fn size(line: &[u8], digits_max: usize) -> Option<u64> {
    let digits = line.split(|byte| matches!(byte, b';' | b'\r')).next().unwrap_or_default();
    let is_number = (1..=digits_max).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    std::str::from_utf8(digits).ok().filter(|_| is_number).and_then(|digits| u64::from_str_radix(digits, 16).ok())
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
                    self.at = match size(line.trim_ascii(), DIGITS_MAX).ok_or_else(|| refused("a size is none"))? {
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
        match trailers.insert(name, value) {
            None => Ok(()),
            Some(_) => Err(refused("a trailer is there twice")),
        }
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
    async fn large_chunks_become_small_ones_with_the_same_trailers() {
        let data = "x".repeat(3 * CHUNK_BYTES_MAX / 2);
        let packed = format!("{:x}\r\n{data}\r\n0\r\nx-a: 1\r\n\r\n", data.len());
        let whole = stream::iter([Ok(Bytes::from(packed))]).boxed();
        let pieces: Vec<Bytes> = rechunk(whole).try_collect().await.unwrap();
        assert!(pieces.iter().all(|piece| piece.len() <= CHUNK_BYTES_MAX));
        let (text, trailers) = unpacked(std::str::from_utf8(&pieces.concat()).unwrap(), 4_096).await.unwrap();
        assert!(text == data);
        assert_eq!(trailers["x-a"], "1");
    }

    #[tokio::test]
    async fn signed_chunks_pass_as_they_are_unless_one_is_too_large() {
        let bound = async |packed: &str, piece: usize| {
            let pieces: Vec<_> =
                packed.as_bytes().chunks(piece).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            bound(stream::iter(pieces).boxed()).try_collect::<Vec<Bytes>>().await.map(|pieces| pieces.concat())
        };
        let right = "5;chunk-signature=0\r\nhel\r\n\r\n1000000;chunk-signature=0\r\n";
        for piece in [1, 2, 3, 100] {
            assert_eq!(bound(right, piece).await.unwrap(), right.as_bytes());
            // Sizes that are read in more than one way are none.
            for size in ["1000001", "ffffffff", "0000000001000000", "100000000", "+5", " 5", "5 ", "", "5\n"] {
                let wrong = format!("1;chunk-signature=0\r\nx\r\n{size};chunk-signature=0\r\n");
                let refused = bound(&wrong, piece).await;
                assert!(matches!(refused, Err(Failure::Refused(_))), "{size}: {refused:?}");
            }
        }
        let refused = bound("1000001;chunk-signature=0\r\n", 100).await.unwrap_err().to_string();
        assert!(refused.contains("a signed one has at most 16 MiB, not 16777217 bytes"), "{refused}");
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
            "+3\r\nabc\r\n0\r\n\r\n",
            "0\r\nx-a:1\r\nx-a:2\r\n\r\n",
            &long,
            &too_many,
        ] {
            let refused = unpacked(packed, 5).await;
            assert!(matches!(refused, Err(Failure::Refused(_))), "{packed}: {refused:?}");
        }
    }
}
