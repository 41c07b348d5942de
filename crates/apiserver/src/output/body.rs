//! Bodies of responses: a whole, a list spliced while it is sent, or a stream.
//!
//! What comes from another server may break off. Then so must the answer: an end that looks like one would pass a part off as
//! the whole.

use bytes::{Bytes, BytesMut};
use ferrokube_api::Object;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream::{self, BoxStream, StreamExt};
use http_body::{Frame, SizeHint};
use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Bytes per frame when a list is spliced.
const BLOCK: usize = 128 * 1024;

/// A list on its way out.
pub struct Splice {
    head: Option<Bytes>,
    items: std::vec::IntoIter<Arc<Object>>,
    /// Bytes to leave out at the start of each item (`"kind":...,"apiVersion":...,` of built-in kinds).
    skip: usize,
    first: bool,
    tail: Option<Bytes>,
    left: u64,
    scratch: Vec<u8>,
}

/// Bytes that follow each other, up to an end or where they break off.
pub type Pieces = BoxStream<'static, Result<Bytes, BrokenOff>>;

/// The body of a response.
#[derive(Default)]
pub enum Body {
    /// Nothing.
    #[default]
    Empty,
    /// A whole.
    Full(Bytes),
    /// A list.
    Splice(Splice),
    /// A whole in pieces, and the bytes that are left of it.
    Blocks(std::vec::IntoIter<Bytes>, u64),
    /// A list that is written while it is sent, and the bytes that are left of it when that is known.
    Pieces(Pieces, Option<u64>),
    /// Compressed on the way.
    Gzip(Box<Body>, Option<GzEncoder<Vec<u8>>>),
    /// A stream without known end: a watch.
    Stream(BoxStream<'static, Bytes>),
    /// The answer of another server, as it comes: a log, whatever is behind a proxy.
    Passage(Pieces),
}

/// An answer, most likely that of another server, ended before its end. The client's connection, or its stream of that, is reset for
/// it, with a reason that is ours: what the other server gave for one is between us and it.
#[derive(Debug, thiserror::Error)]
#[error("the answer broke off: {0}")]
pub struct BrokenOff(pub String);

impl From<Bytes> for Body {
    fn from(whole: Bytes) -> Self {
        Body::Full(whole)
    }
}

impl Body {
    /// A list from a head that ends in `[`, items and a tail that starts with `]`.
    pub fn splice(head: Bytes, items: Vec<Arc<Object>>, skip: usize, tail: Bytes) -> Self {
        let skipped = |o: &Arc<Object>| (o.json.len() - skip + usize::from(skip > 0)) as u64;
        let commas = items.len().saturating_sub(1) as u64;
        let left = head.len() as u64 + tail.len() as u64 + commas + items.iter().map(skipped).sum::<u64>();
        Body::Splice(Splice { head: Some(head), items: items.into_iter(), skip, first: true, tail: Some(tail), left, scratch: Vec::new() })
    }

    /// A whole in pieces.
    pub fn blocks(blocks: Vec<Bytes>) -> Self {
        let left = blocks.iter().map(|b| b.len() as u64).sum();
        Body::Blocks(blocks.into_iter(), left)
    }

    /// A list that begins with these blocks. `rest` is what comes between them and `tail`, if anything does; `length` is that of all together.
    pub fn pieces(mut blocks: Vec<Bytes>, rest: Option<Pieces>, tail: Bytes, length: Option<u64>) -> Self {
        let Some(rest) = rest else {
            blocks.push(tail);
            return Body::blocks(blocks);
        };
        let known = |blocks: Vec<Bytes>| stream::iter(blocks.into_iter().map(Ok));
        Body::Pieces(known(blocks).chain(rest).chain(known(vec![tail])).boxed(), length)
    }

    /// Exact length, when known.
    pub fn len(&self) -> Option<u64> {
        match self {
            Body::Empty => Some(0),
            Body::Full(bytes) => Some(bytes.len() as u64),
            Body::Splice(splice) => Some(splice.left),
            Body::Blocks(_, left) => Some(*left),
            Body::Pieces(_, left) => *left,
            Body::Gzip(..) | Body::Stream(_) | Body::Passage(_) => None,
        }
    }

    /// Length before compression, when known.
    pub fn uncompressed_len(&self) -> Option<u64> {
        match self {
            Body::Gzip(plain, _) => plain.len(),
            other => other.len(),
        }
    }

    /// Whether nothing follows.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }

    /// All of it, when no waiting is needed; a list is put together for that.
    pub fn whole(&mut self) -> Option<Bytes> {
        match self {
            Body::Full(bytes) => Some(bytes.clone()),
            Body::Splice(_) | Body::Blocks(..) => {
                let bytes = futures_util::FutureExt::now_or_never(std::mem::take(self).collect())?.ok()?;
                *self = Body::Full(bytes.clone());
                Some(bytes)
            }
            Body::Empty | Body::Pieces(..) | Body::Gzip(..) | Body::Stream(_) | Body::Passage(_) => None,
        }
    }

    /// The same, put together.
    pub async fn gathered(self) -> Result<Self, BrokenOff> {
        self.collect().await.map(Body::Full)
    }

    /// The same, compressed on the way.
    pub fn gzip(self) -> Self {
        Body::Gzip(Box::new(self), Some(GzEncoder::new(Vec::new(), Compression::new(1))))
    }

    /// All of it, for callers in the same process.
    pub async fn collect(mut self) -> Result<Bytes, BrokenOff> {
        let mut whole = BytesMut::new();
        if let Body::Full(bytes) = self {
            return Ok(bytes);
        }
        while let Some(frame) = std::future::poll_fn(|cx| http_body::Body::poll_frame(Pin::new(&mut self), cx)).await {
            if let Ok(data) = frame?.into_data() {
                whole.extend_from_slice(&data);
            }
        }
        Ok(whole.freeze())
    }
}

impl Splice {
    fn block(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::with_capacity(BLOCK.min(self.left as usize) + 1024);
        if let Some(head) = self.head.take() {
            out.extend_from_slice(&head);
        }
        while out.len() < BLOCK {
            let Some(item) = self.items.next() else {
                if let Some(tail) = self.tail.take() {
                    out.extend_from_slice(&tail);
                }
                break;
            };
            if !std::mem::take(&mut self.first) {
                out.extend_from_slice(b",");
            }
            if self.skip > 0 {
                out.extend_from_slice(b"{");
            }
            item.json.with(&mut self.scratch, |json| out.extend_from_slice(&json[self.skip..]));
        }
        self.left = self.left.saturating_sub(out.len() as u64);
        (!out.is_empty()).then(|| out.freeze())
    }
}

fn squeeze(encoder: &mut Option<GzEncoder<Vec<u8>>>, data: &[u8]) -> Option<Bytes> {
    let encoder = encoder.as_mut()?;
    // Writing into memory does not fail.
    let _ = encoder.write_all(data);
    let out = std::mem::take(encoder.get_mut());
    (!out.is_empty()).then(|| out.into())
}

/// What comes next, if it is no more than what is left of the promised length, and the end only when nothing is.
fn promised(left: &mut Option<u64>, next: Option<Bytes>) -> Result<Option<Bytes>, BrokenOff> {
    let Some(left) = left else { return Ok(next) };
    match left.checked_sub(next.as_ref().map_or(0, |bytes| bytes.len() as u64)) {
        Some(rest) if next.is_some() || rest == 0 => *left = rest,
        _ => return Err(BrokenOff("a list is not as long as was promised".to_owned())),
    }
    Ok(next)
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let next = match &mut *self {
            Body::Empty => None,
            Body::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                (!bytes.is_empty()).then_some(bytes)
            }
            Body::Splice(splice) => splice.block(),
            Body::Blocks(blocks, left) => blocks.find(|b| !b.is_empty()).inspect(|b| *left -= b.len() as u64),
            // No stream without an end: it stays in a task of its own.
            Body::Pieces(pieces, left) => match pieces.as_mut().poll_next(cx) {
                Poll::Ready(next) => promised(left, next.transpose()?)?,
                Poll::Pending => return Poll::Pending,
            },
            Body::Stream(stream) => match stream.as_mut().poll_next(cx) {
                Poll::Ready(next) => next,
                Poll::Pending => {
                    crate::server::streams::waits();
                    return Poll::Pending;
                }
            },
            Body::Passage(stream) => match stream.as_mut().poll_next(cx) {
                Poll::Ready(next) => next.transpose()?,
                Poll::Pending => {
                    crate::server::streams::waits();
                    return Poll::Pending;
                }
            },
            Body::Gzip(inner, encoder) => loop {
                match Pin::new(&mut **inner).poll_frame(cx)? {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(frame)) => {
                        if let Some(out) = frame.data_ref().and_then(|data| squeeze(encoder, data)) {
                            break Some(out);
                        }
                    }
                    Poll::Ready(None) => {
                        let rest = encoder.take().and_then(|e| e.finish().ok());
                        break rest.filter(|r| !r.is_empty()).map(Bytes::from);
                    }
                }
            },
        };
        Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn size_hint(&self) -> SizeHint {
        self.len().map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    fn is_end_stream(&self) -> bool {
        self.is_empty()
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Body({:?})", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_list_that_is_not_as_long_as_was_promised_breaks_off() {
        let list = |length| {
            let rest = stream::iter([Ok(Bytes::from_static(b"cd")), Ok(Bytes::from_static(b"ef"))]).boxed();
            Body::pieces(vec![Bytes::from_static(b"ab")], Some(rest), Bytes::from_static(b"g"), length)
        };
        for length in [None, Some(7)] {
            let body = list(length);
            assert_eq!((body.len(), body.is_empty()), (length, false));
            assert_eq!(body.collect().await.expect("as long as promised"), "abcdefg");
            assert!(list(length).gzip().collect().await.is_ok());
        }
        for length in [0, 1, 6, 8] {
            assert!(list(Some(length)).collect().await.is_err(), "{length}");
            assert!(list(Some(length)).gzip().collect().await.is_err(), "{length}");
        }
        let broken = || stream::iter([Ok(Bytes::from_static(b"cd")), Err(BrokenOff("why".to_owned()))]).boxed();
        assert!(Body::pieces(Vec::new(), Some(broken()), Bytes::new(), None).collect().await.is_err());
    }
}
