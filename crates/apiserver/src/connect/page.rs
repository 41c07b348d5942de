//! An HTML page that goes through a proxy: unpacked when it came packed, its links led through the proxy, packed again the same way.
//!
//! Upstream collects a page before it sends it; here it goes on as it comes. How much of it is held is bounded whatever a backend sends.

use super::html::Rewriter;
use crate::output::{Body, BrokenOff};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::{DeflateDecoder, DeflateEncoder, GzEncoder, MultiGzDecoder, ZlibDecoder, ZlibEncoder};
use futures_util::{StreamExt, stream};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{Response, StatusCode};
use std::io::{self, Write};

/// Packed bytes that are unpacked at a time.
const PIECE: usize = 4096;

/// How a page is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    None,
    Gzip,
    /// Servers send two things under this name; the first byte tells.
    Deflate,
}

type Link = Box<dyn FnMut(&str) -> Option<String> + Send>;

/// What unpacks; the bytes come out of its buffer.
enum Unpack {
    Plain,
    Gzip(MultiGzDecoder<Vec<u8>>),
    Unknown,
    Zlib(ZlibDecoder<Vec<u8>>),
    Deflate(DeflateDecoder<Vec<u8>>),
}

impl Unpack {
    fn push(&mut self, piece: &[u8]) -> io::Result<Vec<u8>> {
        if let (Unpack::Unknown, Some(first)) = (&*self, piece.first()) {
            // In a zlib stream this is the method; there is no plain one that begins so.
            let zlib = first & 0x0f == 8;
            *self = if zlib { Unpack::Zlib(ZlibDecoder::new(Vec::new())) } else { Unpack::Deflate(DeflateDecoder::new(Vec::new())) };
        }
        Ok(match self {
            Unpack::Plain => piece.to_vec(),
            Unpack::Unknown => Vec::new(),
            Unpack::Gzip(decoder) => decoder.write_all(piece).and_then(|()| decoder.flush()).map(|()| std::mem::take(decoder.get_mut()))?,
            Unpack::Zlib(decoder) => decoder.write_all(piece).and_then(|()| decoder.flush()).map(|()| std::mem::take(decoder.get_mut()))?,
            Unpack::Deflate(decoder) => {
                decoder.write_all(piece).and_then(|()| decoder.flush()).map(|()| std::mem::take(decoder.get_mut()))?
            }
        })
    }

    /// What is left, when the packed bytes are whole.
    fn finish(&mut self) -> io::Result<Vec<u8>> {
        match std::mem::replace(self, Unpack::Plain) {
            Unpack::Plain | Unpack::Unknown => Ok(Vec::new()),
            Unpack::Gzip(decoder) => decoder.finish(),
            Unpack::Zlib(decoder) => decoder.finish(),
            Unpack::Deflate(decoder) => decoder.finish(),
        }
    }

    fn packer(&self) -> Pack {
        match self {
            Unpack::Plain | Unpack::Unknown => Pack::Plain,
            Unpack::Gzip(_) => Pack::Gzip(GzEncoder::new(Vec::new(), Compression::default())),
            Unpack::Zlib(_) => Pack::Zlib(ZlibEncoder::new(Vec::new(), Compression::default())),
            Unpack::Deflate(_) => Pack::Deflate(DeflateEncoder::new(Vec::new(), Compression::default())),
        }
    }
}

/// What packs again.
enum Pack {
    Plain,
    Gzip(GzEncoder<Vec<u8>>),
    Zlib(ZlibEncoder<Vec<u8>>),
    Deflate(DeflateEncoder<Vec<u8>>),
}

impl Pack {
    fn push(&mut self, plain: Vec<u8>) -> io::Result<Vec<u8>> {
        Ok(match self {
            Pack::Plain => plain,
            Pack::Gzip(encoder) => encoder.write_all(&plain).map(|()| std::mem::take(encoder.get_mut()))?,
            Pack::Zlib(encoder) => encoder.write_all(&plain).map(|()| std::mem::take(encoder.get_mut()))?,
            Pack::Deflate(encoder) => encoder.write_all(&plain).map(|()| std::mem::take(encoder.get_mut()))?,
        })
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Pack::Plain => Ok(Vec::new()),
            Pack::Gzip(encoder) => encoder.finish(),
            Pack::Zlib(encoder) => encoder.finish(),
            Pack::Deflate(encoder) => encoder.finish(),
        }
    }
}

/// A page on its way.
struct Page {
    unpack: Unpack,
    pack: Option<Pack>,
    rewriter: Rewriter<Link>,
}

impl Page {
    fn new(packing: Packing, link: Link) -> Self {
        let unpack = match packing {
            Packing::None => Unpack::Plain,
            Packing::Gzip => Unpack::Gzip(MultiGzDecoder::new(Vec::new())),
            Packing::Deflate => Unpack::Unknown,
        };
        Page { unpack, pack: None, rewriter: Rewriter::new(link) }
    }

    fn push(&mut self, data: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        for piece in data.chunks(PIECE) {
            let came = self.unpack.push(piece)?;
            let mut plain = Vec::with_capacity(came.len() + 64);
            self.rewriter.push(&came, &mut plain);
            let pack = self.pack.get_or_insert_with(|| self.unpack.packer());
            out.append(&mut pack.push(plain)?);
        }
        Ok(out)
    }

    fn finish(&mut self) -> io::Result<Vec<u8>> {
        let Some(mut pack) = self.pack.take() else { return Ok(Vec::new()) };
        let mut plain = Vec::new();
        let came = self.unpack.finish()?;
        self.rewriter.push(&came, &mut plain);
        self.rewriter.finish(&mut plain);
        let mut out = pack.push(plain)?;
        out.append(&mut pack.finish()?);
        Ok(out)
    }
}

/// How an answer is packed when it is a page whose links can be changed. Part of one cannot: its length is promised.
fn packing(answer: &Response<Body>) -> Option<Packing> {
    let text = |name| answer.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let media = text(CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
    if !media.eq_ignore_ascii_case("text/html") || answer.status() == StatusCode::PARTIAL_CONTENT {
        return None;
    }
    match text(CONTENT_ENCODING) {
        "" => Some(Packing::None),
        "gzip" => Some(Packing::Gzip),
        "deflate" => Some(Packing::Deflate),
        _ => None,
    }
}

/// Leads the links of an answer that is a page through `link`.
pub(super) fn lead(answer: &mut Response<Body>, link: impl FnMut(&str) -> Option<String> + Send + 'static) {
    let Some(packing) = packing(answer) else { return };
    let frames = match std::mem::take(answer.body_mut()) {
        Body::Passage(frames) => frames,
        other => return *answer.body_mut() = other,
    };
    answer.headers_mut().remove(CONTENT_LENGTH);
    let page = Page::new(packing, Box::new(link));
    let led = stream::unfold(Some((frames, page)), |going| async move {
        let (mut frames, mut page) = going?;
        let broken = |error: io::Error| Some((Err(BrokenOff(error.to_string())), None));
        loop {
            match frames.next().await {
                Some(Ok(data)) => match page.push(&data) {
                    Ok(out) if out.is_empty() => {}
                    Ok(out) => return Some((Ok(Bytes::from(out)), Some((frames, page)))),
                    Err(error) => return broken(error),
                },
                Some(Err(error)) => return Some((Err(error), None)),
                None => {
                    return match page.finish() {
                        Ok(out) if out.is_empty() => None,
                        Ok(out) => Some((Ok(Bytes::from(out)), None)),
                        Err(error) => broken(error),
                    };
                }
            }
        }
    });
    *answer.body_mut() = Body::Passage(led.boxed());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    const PAGE: &[u8] = b"<title>x</title><a href=\"/x\">x</a>";
    const LED: &[u8] = b"<title>x</title><a href=\"/proxy/x\">x</a>";

    async fn led(headers: &[(&str, &str)], body: Vec<u8>) -> Result<(http::HeaderMap, Vec<u8>), BrokenOff> {
        let pieces: Vec<Result<Bytes, BrokenOff>> = body.chunks(7).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let mut answer = Response::new(Body::Passage(stream::iter(pieces).boxed()));
        for (name, value) in headers {
            answer.headers_mut().insert(http::HeaderName::try_from(*name).expect("a name"), value.parse().expect("a value"));
        }
        lead(&mut answer, |link| Some(format!("/proxy{link}")));
        let (parts, body) = answer.into_parts();
        Ok((parts.headers, body.collect().await?.to_vec()))
    }

    fn packed(mut encoder: impl Write, finish: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
        encoder.write_all(PAGE).expect("memory");
        drop(encoder);
        finish()
    }

    #[tokio::test]
    async fn a_page_is_packed_again_as_it_was() {
        let html = ("content-type", "Text/HTML; charset=utf-8");
        let (headers, plain) = led(&[html, ("content-length", "34")], PAGE.to_vec()).await.expect("whole");
        assert_eq!(plain, LED);
        assert!(!headers.contains_key("content-length"));

        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(PAGE).expect("memory");
        let (headers, came) = led(&[html, ("content-encoding", "gzip")], gzip.finish().expect("memory")).await.expect("whole");
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&*came).read_to_end(&mut plain).expect("gzip");
        assert_eq!((plain.as_slice(), &headers["content-encoding"]), (LED, &http::HeaderValue::from_static("gzip")));

        let (mut raw, mut zlib) = (Vec::new(), Vec::new());
        packed(DeflateEncoder::new(&mut raw, Compression::best()), Vec::new);
        packed(ZlibEncoder::new(&mut zlib, Compression::best()), Vec::new);
        let (_, came) = led(&[html, ("content-encoding", "deflate")], raw).await.expect("whole");
        let mut plain = Vec::new();
        flate2::read::DeflateDecoder::new(&*came).read_to_end(&mut plain).expect("deflate");
        assert_eq!(plain, LED);
        let (_, came) = led(&[html, ("content-encoding", "deflate")], zlib).await.expect("whole");
        let mut plain = Vec::new();
        flate2::read::ZlibDecoder::new(&*came).read_to_end(&mut plain).expect("zlib");
        assert_eq!(plain, LED);
    }

    #[tokio::test]
    async fn what_cannot_be_read_goes_as_it_is_and_what_is_damaged_breaks_off() {
        for headers in
            [[("content-type", "text/plain"), ("content-length", "34")], [("content-type", "text/html"), ("content-encoding", "br")]]
        {
            let (kept, same) = led(&headers, PAGE.to_vec()).await.expect("whole");
            assert_eq!((kept.len(), same.as_slice()), (2, PAGE), "{headers:?}");
        }
        let mut own = Response::new(Body::Full(Bytes::from_static(PAGE)));
        own.headers_mut().insert("content-type", "text/html".parse().expect("a value"));
        own.headers_mut().insert("content-length", "34".parse().expect("a value"));
        lead(&mut own, |link| Some(format!("/proxy{link}")));
        assert_eq!(own.headers()["content-length"], "34", "what no backend sent keeps what it says of itself");
        assert_eq!(own.into_body().collect().await.expect("whole"), PAGE);
        let headers = [("content-type", "text/html"), ("content-encoding", "gzip")];
        assert!(led(&headers, b"no gzip at all, whatever the header says".to_vec()).await.is_err());
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(PAGE).expect("memory");
        let mut short = gzip.finish().expect("memory");
        short.truncate(short.len() - 4);
        assert!(led(&headers, short).await.is_err(), "the end is missing");
        assert_eq!(led(&headers, Vec::new()).await.expect("none").1, b"");
    }
}
