//! Connections to the servers of one name, kept for the next request.
//!
//! A server behind a service has many addresses: a connection is used again only for the address it goes to. Whoever offers
//! HTTP/2 in the handshake is spoken to in it, over one connection for all requests, if the pool allows that.

use super::OutboundError;
use super::shelf::{Sender, Shelf, lost};
use super::words::Answer;
use bytes::Bytes;
use http::Request;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, Full, Limited};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Longest answer that is read.
const MAX_ANSWER: usize = 3 << 20;

/// The connections to a server.
pub(crate) struct Pool {
    tls: Option<Arc<ClientConfig>>,
    name: ServerName<'static>,
    shelf: Shelf<Full<Bytes>>,
}

/// Speaks HTTP/2 to servers that offer it.
pub(crate) fn with_http2(mut tls: ClientConfig) -> ClientConfig {
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    tls
}

impl Pool {
    /// Over TLS when there is a configuration; the certificate must be for the name.
    pub fn new(tls: Option<Arc<ClientConfig>>, name: ServerName<'static>) -> Self {
        Pool { tls, name, shelf: Shelf::default() }
    }

    /// Sends a request to an address (`host:port`). The request's URI is its path; an authority goes into `Host`.
    pub async fn send(&self, address: &str, request: &Request<Full<Bytes>>) -> Result<Answer, OutboundError> {
        while let Some(kept) = self.shelf.take(address).await {
            match self.exchange(address, kept, request.clone()).await {
                Err(OutboundError::Http(error)) if lost(&error) => {}
                other => return other,
            }
        }
        let fresh = self.connect(address).await?;
        self.shelf.share(address, &fresh);
        self.exchange(address, fresh, request.clone()).await
    }

    async fn exchange(
        &self,
        address: &str,
        mut sender: Sender<Full<Bytes>>,
        request: Request<Full<Bytes>>,
    ) -> Result<Answer, OutboundError> {
        let answer = sender.send(request).await?;
        let code = answer.status();
        let media = answer.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|e| OutboundError::Answer(e.to_string()))?;
        self.shelf.keep(address, sender);
        Ok(Answer { code, media, body: body.to_bytes() })
    }

    async fn connect(&self, address: &str) -> Result<Sender<Full<Bytes>>, OutboundError> {
        let failed = |source| OutboundError::Connect { address: address.to_owned(), source };
        let stream = TcpStream::connect(address).await.map_err(failed)?;
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else { return Ok(Sender::start(stream, false).await?) };
        let handshake = TlsConnector::from(tls.clone()).connect(self.name.clone(), stream).await;
        let stream = handshake.map_err(|source| OutboundError::Handshake { source })?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Sender::start(stream, http2).await?)
    }
}
