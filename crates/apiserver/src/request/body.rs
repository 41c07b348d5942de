//! The body of a request, read at most once and never beyond the limit.

use bytes::{Bytes, BytesMut};
use ferrokube_api::{Reason, Status};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// What a client may send at most (upstream: 3 MiB).
pub const LIMIT: usize = 3 * 1024 * 1024;

/// A body not yet read.
pub enum RequestBody {
    /// It is here.
    Full(Bytes),
    /// It comes from a connection.
    Stream(UnsyncBoxBody<Bytes, hyper::Error>),
}

impl std::fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RequestBody")
    }
}

fn too_large() -> Status {
    Status::failure(413, Reason::RequestEntityTooLarge, format!("Request entity too large: limit is {LIMIT}"))
}

impl RequestBody {
    /// All of it.
    pub async fn read(self) -> Result<Bytes, Status> {
        let mut body = match self {
            RequestBody::Full(bytes) if bytes.len() > LIMIT => return Err(too_large()),
            RequestBody::Full(bytes) => return Ok(bytes),
            RequestBody::Stream(body) => body,
        };
        let mut whole = BytesMut::new();
        let mut first: Option<Bytes> = None;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Status::bad_request("unable to read the request body"))?;
            let Ok(data) = frame.into_data() else { continue };
            if whole.len() + first.as_ref().map_or(0, Bytes::len) + data.len() > LIMIT {
                return Err(too_large());
            }
            match first.take() {
                None if whole.is_empty() => first = Some(data),
                Some(earlier) => {
                    whole.extend_from_slice(&earlier);
                    whole.extend_from_slice(&data);
                }
                None => whole.extend_from_slice(&data),
            }
        }
        Ok(first.unwrap_or_else(|| whole.freeze()))
    }
}

/// How long an answer waits for the rest of a body that nobody wants.
const PATIENCE: Duration = Duration::from_secs(1);

/// A body that comes back when it is dropped before its end, for [`Unread::drain`].
pub struct Returned<B: Body + Unpin> {
    body: Option<B>,
    home: Arc<Mutex<Option<B>>>,
}

/// What is left of a body that was not read to its end.
///
/// A server may answer before it has read what was sent, and HTTP/2 then resets the stream, without an error. Clients that are still sending
/// take even that for one: curl up to 7.88 says "Stream error in the HTTP/2 framing layer" and not what was answered. A server that takes a
/// millisecond to refuse a request has read its body by then; this one has not.
pub struct Unread<B>(Arc<Mutex<Option<B>>>);

/// A body and what will be left of it.
pub fn returned<B: Body<Data = Bytes> + Unpin>(body: B) -> (Returned<B>, Unread<B>) {
    let home = Arc::new(Mutex::new(None));
    (Returned { body: Some(body), home: home.clone() }, Unread(home))
}

impl<B: Body<Data = Bytes> + Unpin> Body for Returned<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B: Body + Unpin> Drop for Returned<B> {
    fn drop(&mut self) {
        if !self.body.as_ref().is_none_or(Body::is_end_stream) {
            *self.home.lock() = self.body.take();
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Unread<B> {
    /// Reads the rest and forgets it, as much as a body may have and as long as it keeps coming.
    pub async fn drain(self) {
        let Some(mut body) = self.0.lock().take() else { return };
        let rest = async {
            let mut left = LIMIT;
            while let Some(Ok(frame)) = body.frame().await {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                if left == 0 {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(PATIENCE, rest).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::StreamBody;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    type Parts = mpsc::UnboundedSender<Result<Frame<Bytes>, std::convert::Infallible>>;

    fn body() -> (Parts, impl Body<Data = Bytes, Error = std::convert::Infallible> + Unpin) {
        let (parts, receiver) = mpsc::unbounded_channel();
        (parts, StreamBody::new(UnboundedReceiverStream::new(receiver)))
    }

    fn part(size: usize) -> Result<Frame<Bytes>, std::convert::Infallible> {
        Ok(Frame::data(Bytes::from(vec![0; size])))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_nobody_read_is_read_to_its_end_before_the_answer() {
        let (parts, body) = body();
        let (body, unread) = returned(body);
        drop(body);
        let client = async {
            tokio::task::yield_now().await;
            (0..3).for_each(|_| _ = parts.send(part(10)));
            let open = !parts.is_closed();
            drop(parts);
            open
        };
        assert!(tokio::join!(unread.drain(), client).1, "the answer waits for it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_or_does_not_end_keeps_nobody() {
        let (silent, body) = body();
        let (body, unread) = returned(body);
        drop(body);
        unread.drain().await;
        assert!(silent.is_closed());

        let (endless, body) = self::body();
        let (body, unread) = returned(body);
        (0..100).for_each(|_| _ = endless.send(part(LIMIT / 10)));
        drop(body);
        unread.drain().await;
        assert!(endless.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_goes_on_elsewhere_or_is_read_is_not_waited_for() {
        let (parts, body) = body();
        let (elsewhere, unread) = returned(body);
        unread.drain().await;
        assert!(!parts.is_closed());
        parts.send(part(1)).expect("it is read");
        drop(parts);
        assert_eq!(elsewhere.collect().await.expect("no error").to_bytes().len(), 1);
    }
}
