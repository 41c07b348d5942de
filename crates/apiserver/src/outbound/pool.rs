//! Connections to the servers of one name, kept for the next request.
//!
//! A server behind a service has many addresses: a connection is used again only for the address it goes to. Whoever offers
//! HTTP/2 in the handshake is spoken to in it, over one connection for all requests, if the pool allows that.

use super::OutboundError;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Longest answer that is read.
const MAX_ANSWER: usize = 3 << 20;
/// Connections kept for later.
const IDLE: usize = 32;

/// A connection on which a request can be sent.
enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Many(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    async fn ready(&mut self) -> bool {
        match self {
            Sender::One(sender) => sender.ready().await.is_ok(),
            Sender::Many(sender) => sender.ready().await.is_ok(),
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Sender::One(sender) => sender.is_closed(),
            Sender::Many(sender) => sender.is_closed(),
        }
    }
}

struct Idle {
    address: String,
    sender: Sender,
}

/// The connections to a server.
pub(crate) struct Pool {
    tls: Option<Arc<ClientConfig>>,
    name: ServerName<'static>,
    idle: Mutex<Vec<Idle>>,
}

/// Speaks HTTP/2 to servers that offer it.
pub(crate) fn with_http2(mut tls: ClientConfig) -> ClientConfig {
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    tls
}

impl Pool {
    /// Over TLS when there is a configuration; the certificate must be for the name.
    pub fn new(tls: Option<Arc<ClientConfig>>, name: ServerName<'static>) -> Self {
        Pool { tls, name, idle: Mutex::default() }
    }

    /// Sends a request to an address (`host:port`). The request's URI is its path; an authority goes into `Host`.
    pub async fn send(&self, address: &str, request: &Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), OutboundError> {
        while let Some(mut kept) = self.take(address) {
            // The server may have closed it meanwhile: then a new one serves.
            if !kept.ready().await {
                continue;
            }
            match self.exchange(address, kept, request.clone()).await {
                Err(OutboundError::Http(error)) if error.is_canceled() || error.is_incomplete_message() || error.is_closed() => {}
                other => return other,
            }
        }
        let fresh = self.connect(address).await?;
        self.exchange(address, fresh, request.clone()).await
    }

    fn take(&self, address: &str) -> Option<Sender> {
        let mut idle = self.idle.lock();
        let at = idle.iter().rposition(|kept| kept.address == address)?;
        match &idle[at].sender {
            Sender::Many(sender) if !sender.is_closed() => Some(Sender::Many(sender.clone())),
            _ => Some(idle.swap_remove(at).sender),
        }
    }

    async fn exchange(
        &self,
        address: &str,
        mut sender: Sender,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), OutboundError> {
        let answer = match &mut sender {
            Sender::One(sender) => sender.send_request(request).await?,
            Sender::Many(shared) => {
                let answer = shared.send_request(absolute(request)).await?;
                self.keep(address, Sender::Many(shared.clone()));
                answer
            }
        };
        let code = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|e| OutboundError::Answer(e.to_string()))?;
        self.keep(address, sender);
        Ok((code, body.to_bytes()))
    }

    fn keep(&self, address: &str, sender: Sender) {
        let mut idle = self.idle.lock();
        let known = matches!(sender, Sender::Many(_)) && idle.iter().any(|k| k.address == address && matches!(k.sender, Sender::Many(_)));
        if sender.is_closed() || known {
            return;
        }
        idle.retain(|kept| !kept.sender.is_closed());
        if idle.len() < IDLE {
            idle.push(Idle { address: address.to_owned(), sender });
        }
    }

    async fn connect(&self, address: &str) -> Result<Sender, OutboundError> {
        let failed = |source| OutboundError::Connect { address: address.to_owned(), source };
        let stream = TcpStream::connect(address).await.map_err(failed)?;
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else { return start(TokioIo::new(stream), false).await };
        let handshake = TlsConnector::from(tls.clone()).connect(self.name.clone(), stream).await;
        let stream = handshake.map_err(|source| OutboundError::Handshake { source })?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        start(TokioIo::new(stream), http2).await
    }
}

/// HTTP/2 has the scheme and the authority in its request line.
fn absolute(mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    let host = request.headers_mut().remove(http::header::HOST);
    let mut parts = request.uri().clone().into_parts();
    parts.scheme = Some(http::uri::Scheme::HTTPS);
    parts.authority = host.and_then(|h| http::uri::Authority::try_from(h.as_bytes()).ok());
    if let Ok(uri) = http::Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request
}

/// The connection's own task ends with the connection.
async fn start<T>(io: T, http2: bool) -> Result<Sender, OutboundError>
where
    T: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    if http2 {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(ended(connection));
        return Ok(Sender::Many(sender));
    }
    let (sender, connection) = http1::handshake(io).await?;
    tokio::spawn(ended(connection));
    Ok(Sender::One(sender))
}

async fn ended(connection: impl Future<Output = hyper::Result<()>>) {
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to another server ended");
    }
}
