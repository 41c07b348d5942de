//! Connections that wait for their next request, by the address they go to.
//!
//! HTTP/1.1 carries one request at a time: whoever takes such a connection owns it until the answer is read. HTTP/2 carries
//! many: it stays here and is lent. A connection whose end is known is never lent.

use super::OutboundError;
use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Response};
use hyper::body::{Body, Incoming};
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};

/// Connections kept for later.
const IDLE: usize = 32;
/// How long one is kept without a request (`http.Transport.IdleConnTimeout`).
const PATIENCE: Duration = Duration::from_secs(90);
/// Requests at a time over one HTTP/2 connection: fewer than any common server allows, because beyond its limit a request
/// would wait for a watch to end.
const STREAMS: usize = 64;
/// As Go's client has them: a watch that nobody reads must not stop the others on its connection.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 1 << 30;
/// A silent HTTP/2 connection is asked whether it still lives (client-go's `HTTP2_READ_IDLE_TIMEOUT_SECONDS`, `HTTP2_PING_TIMEOUT_SECONDS`).
const PING_AFTER: Duration = Duration::from_secs(30);
const PING_WAITS: Duration = Duration::from_secs(15);

/// A body that is sent.
pub(crate) trait Load: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static {}
impl<B> Load for B where B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static {}

/// A connection on which a request can be sent.
pub(crate) enum Sender<B> {
    /// HTTP/1.1.
    One(http1::SendRequest<B>),
    /// HTTP/2; the load is counted by those who hold it.
    Many(http2::SendRequest<B>, Arc<()>),
}

impl<B: Load> Sender<B> {
    /// Speaks HTTP over an established stream. The connection's own task ends with the connection.
    pub async fn start<T>(io: T, http2: bool) -> Result<Self, hyper::Error>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        if http2 {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).keep_alive_interval(PING_AFTER).keep_alive_timeout(PING_WAITS).keep_alive_while_idle(true);
            builder.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
            let (sender, connection) = builder.handshake(TokioIo::new(io)).await?;
            tokio::spawn(ended(connection));
            return Ok(Sender::Many(sender, Arc::default()));
        }
        let (sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        tokio::spawn(ended(connection));
        Ok(Sender::One(sender))
    }

    /// Sends a request whose URI is its path and whose `Host` is its authority. What was not sent comes back with the error.
    pub async fn send(&mut self, request: Request<B>) -> Result<Response<Incoming>, TrySendError<Request<B>>> {
        match self {
            Sender::One(sender) => sender.try_send_request(relative(request)).await,
            Sender::Many(sender, _) => sender.try_send_request(absolute(request)).await,
        }
    }

    /// False when the connection has ended.
    pub async fn ready(&mut self) -> bool {
        match self {
            Sender::One(sender) => sender.ready().await.is_ok(),
            Sender::Many(sender, _) => sender.ready().await.is_ok(),
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Sender::One(sender) => sender.is_closed(),
            Sender::Many(sender, _) => sender.is_closed(),
        }
    }

    /// The same connection once more, if it carries many requests.
    fn lend(&self) -> Option<Self> {
        match self {
            Sender::One(_) => None,
            Sender::Many(sender, load) => Some(Sender::Many(sender.clone(), load.clone())),
        }
    }

    /// Requests on their way.
    fn load(&self) -> usize {
        match self {
            Sender::One(_) => 0,
            Sender::Many(_, load) => Arc::strong_count(load) - 1,
        }
    }
}

async fn ended(connection: impl Future<Output = hyper::Result<()>>) {
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to another server ended");
    }
}

/// HTTP/2 has the scheme and the authority in its request line.
fn absolute<B>(mut request: Request<B>) -> Request<B> {
    let Some(host) = request.headers_mut().remove(HOST) else { return request };
    let mut parts = request.uri().clone().into_parts();
    parts.scheme = Some(http::uri::Scheme::HTTPS);
    parts.authority = http::uri::Authority::try_from(host.as_bytes()).ok();
    if let Ok(uri) = http::Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request
}

/// The opposite, for a request that an HTTP/2 connection gave back.
fn relative<B>(mut request: Request<B>) -> Request<B> {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = None;
    if let Some(host) = parts.authority.take().and_then(|a| HeaderValue::from_str(a.as_str()).ok()) {
        request.headers_mut().insert(HOST, host);
    }
    *request.uri_mut() = http::Uri::from_parts(parts).unwrap_or_default();
    request
}

struct Idle<B> {
    address: String,
    sender: Sender<B>,
    since: Instant,
}

/// See the module. Dropping it ends what is idle on it.
pub(crate) struct Shelf<B> {
    idle: Mutex<Vec<Idle<B>>>,
}

impl<B> Default for Shelf<B> {
    fn default() -> Self {
        Shelf { idle: Mutex::default() }
    }
}

impl<B> std::fmt::Debug for Shelf<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shelf")
    }
}

impl<B: Load> Shelf<B> {
    /// A connection to an address that can take a request, if there is one.
    pub async fn take(&self, address: &str) -> Option<Sender<B>> {
        loop {
            // The server may have closed it meanwhile: then the next one serves.
            let mut sender = self.pick(address)?;
            if sender.ready().await {
                return Some(sender);
            }
        }
    }

    fn pick(&self, address: &str) -> Option<Sender<B>> {
        let mut idle = self.idle.lock();
        prune(&mut idle);
        let at = idle.iter().rposition(|kept| kept.address == address && kept.sender.load() < STREAMS)?;
        idle[at].since = Instant::now();
        let lent = idle[at].sender.lend();
        Some(lent.unwrap_or_else(|| idle.swap_remove(at).sender))
    }

    /// Lends a new connection to others too, if it can carry more than one request.
    pub fn share(&self, address: &str, sender: &Sender<B>) {
        if let Some(lent) = sender.lend() {
            self.put(address, lent);
        }
    }

    /// Takes back a connection whose answer has been read.
    pub fn keep(&self, address: &str, sender: Sender<B>) {
        if matches!(sender, Sender::One(_)) {
            self.put(address, sender);
        }
    }

    /// Forgets connections to other addresses than these.
    pub fn retain(&self, wanted: impl Fn(&str) -> bool) {
        self.idle.lock().retain(|kept| wanted(&kept.address));
    }

    fn put(&self, address: &str, sender: Sender<B>) {
        let mut idle = self.idle.lock();
        prune(&mut idle);
        if idle.len() < IDLE && !sender.is_closed() {
            idle.push(Idle { address: address.to_owned(), sender, since: Instant::now() });
        }
    }
}

fn prune<B: Load>(idle: &mut Vec<Idle<B>>) {
    idle.retain(|kept| !kept.sender.is_closed() && (kept.sender.load() > 0 || kept.since.elapsed() < PATIENCE));
}

impl From<TrySendError<Request<http_body_util::Full<Bytes>>>> for OutboundError {
    fn from(error: TrySendError<Request<http_body_util::Full<Bytes>>>) -> Self {
        OutboundError::Http(error.into_error())
    }
}

/// Whether a connection ended before it answered. On one that was kept, the server may have closed it without having seen the request.
pub(crate) fn lost(error: &hyper::Error) -> bool {
    error.is_canceled() || error.is_incomplete_message() || error.is_closed()
}
