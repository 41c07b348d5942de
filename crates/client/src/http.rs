//! The network side of a client: HTTPS to an API server on this or another machine.
//!
//! One HTTP/2 connection carries everything (requests and watches are streams of it); it is dialled anew when it breaks, and
//! another one is added when it carries as many streams as a server allows: beyond that a request would wait for a
//! watch to end. A server that only speaks HTTP/1.1 gets a connection per request.

use crate::accounts::Tokens;
use crate::reflect::{self, Open, Opened};
use crate::transport::{Transport, TransportError};
use bytes::Bytes;
use ferrokube_api::{Change, Selection};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

/// Where an API server is and how to know it.
#[derive(Clone, Debug, Default)]
pub struct Endpoint {
    /// `https://host:port`.
    pub server: String,
    /// Certificates of the CA that signed the server's certificate.
    pub ca_pem: Option<Vec<u8>>,
    /// Name to verify instead of the host.
    pub server_name: Option<String>,
    /// Do not verify the server (kubeconfig's `insecure-skip-tls-verify`).
    pub insecure: bool,
}

/// Who we are.
#[derive(Clone, Default)]
pub struct Credentials {
    /// Client certificate chain.
    pub cert_pem: Option<Vec<u8>>,
    /// Its key.
    pub key_pem: Option<Vec<u8>>,
    /// Bearer token.
    pub token: Option<String>,
    /// File with a bearer token, read for each request so that rotation is seen.
    pub token_file: Option<PathBuf>,
    /// Where bearer tokens come from otherwise.
    pub tokens: Option<Arc<dyn Tokens>>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(..)")
    }
}

const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Streams over one connection at a time: what kube-apiserver allows, and the least that HTTP/2 recommends to allow.
const STREAMS: usize = 100;

/// A [`Transport`] over the network.
#[derive(Clone)]
pub struct HttpTransport {
    inner: Arc<Inner>,
}

struct Inner {
    host: String,
    port: u16,
    server_name: ServerName<'static>,
    tls: TlsConnector,
    credentials: Credentials,
    lines: Arc<Mutex<Vec<Line>>>,
}

/// An HTTP/2 connection. Whoever has a stream of it holds its load.
#[derive(Clone)]
struct Line {
    sender: http2::SendRequest<Full<Bytes>>,
    load: Arc<()>,
}

impl Line {
    fn streams(&self) -> usize {
        Arc::strong_count(&self.load) - 1
    }
}

enum Connection {
    Two(Line),
    One(http1::SendRequest<Full<Bytes>>),
}

/// The body of an answer, as it comes.
#[derive(Debug)]
pub struct Answer {
    body: Incoming,
    /// What it still takes of its connection.
    _load: Option<Arc<()>>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl HttpTransport {
    /// A transport to one server; nothing is dialled yet.
    pub fn new(endpoint: &Endpoint, credentials: Credentials) -> Result<Self, TransportError> {
        let uri: Uri = endpoint.server.parse().map_err(TransportError::new)?;
        if uri.scheme_str() != Some("https") {
            return Err(TransportError::new(format!("{} is not an https:// address", endpoint.server)));
        }
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let name = endpoint.server_name.clone().unwrap_or_else(|| host.clone());
        let inner = Inner {
            server_name: ServerName::try_from(name).map_err(TransportError::new)?,
            port: uri.port_u16().unwrap_or(443),
            host,
            tls: TlsConnector::from(Arc::new(tls_config(endpoint, &credentials)?)),
            credentials,
            lines: Arc::default(),
        };
        Ok(HttpTransport { inner: Arc::new(inner) })
    }

    /// The same server over the same connection, as whoever these tokens belong to. The connection itself must carry no
    /// identity: a client certificate would count before the token.
    #[must_use]
    pub fn acting_with(&self, tokens: Arc<dyn Tokens>) -> Self {
        let inner = &self.inner;
        let credentials = Credentials { tokens: Some(tokens), ..Credentials::default() };
        let (host, server_name) = (inner.host.clone(), inner.server_name.clone());
        let inner = Inner { host, port: inner.port, server_name, tls: inner.tls.clone(), credentials, lines: inner.lines.clone() };
        HttpTransport { inner: Arc::new(inner) }
    }

    /// Sends one request and hands over the answer as it comes, without a time limit: a raw watch, a log that is followed.
    pub async fn open(&self, request: Request<Bytes>) -> Result<Response<Answer>, TransportError> {
        self.inner.start(request).await
    }
}

fn tls_config(endpoint: &Endpoint, credentials: &Credentials) -> Result<rustls::ClientConfig, TransportError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.map_err(TransportError::new)?;
    let builder = if endpoint.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider)))
    } else {
        let mut roots = rustls::RootCertStore::empty();
        let pem = endpoint.ca_pem.as_deref().ok_or_else(|| TransportError::new("no certificate authority given"))?;
        for cert in CertificateDer::pem_slice_iter(pem) {
            roots.add(cert.map_err(TransportError::new)?).map_err(TransportError::new)?;
        }
        builder.with_root_certificates(roots)
    };
    let mut config = match (&credentials.cert_pem, &credentials.key_pem) {
        (Some(cert), Some(key)) => {
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert).collect();
            let key = PrivateKeyDer::from_pem_slice(key).map_err(TransportError::new)?;
            builder.with_client_auth_cert(chain.map_err(TransportError::new)?, key).map_err(TransportError::new)?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// For `insecure-skip-tls-verify`, which a user must have asked for: signatures are checked, names and issuers are not.
#[derive(Debug)]
struct Unverified(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl Inner {
    async fn dial(&self) -> Result<Connection, TransportError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(TransportError::new)?;
        stream.set_nodelay(true).map_err(TransportError::new)?;
        let tls = self.tls.connect(self.server_name.clone(), stream).await.map_err(TransportError::new)?;
        let two = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        let io = TokioIo::new(tls);
        if two {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.initial_stream_window_size(1 << 20).initial_connection_window_size(8 << 20);
            builder.timer(hyper_util::rt::TokioTimer::new());
            builder.keep_alive_interval(Duration::from_secs(30)).keep_alive_timeout(Duration::from_secs(15)).keep_alive_while_idle(false);
            let (sender, connection) = builder.handshake(io).await.map_err(TransportError::new)?;
            tokio::spawn(async move { connection.await.unwrap_or_else(|e| tracing::debug!("connection to the API server ended: {e}")) });
            Ok(Connection::Two(Line { sender, load: Arc::default() }))
        } else {
            let (sender, connection) = http1::handshake(io).await.map_err(TransportError::new)?;
            tokio::spawn(async move { connection.await.unwrap_or_else(|e| tracing::debug!("connection to the API server ended: {e}")) });
            Ok(Connection::One(sender))
        }
    }

    async fn connection(&self) -> Result<Connection, TransportError> {
        let mut lines = self.lines.lock().await;
        lines.retain(|line| !line.sender.is_closed());
        if let Some(at) = lines.iter().position(|line| line.streams() < STREAMS) {
            let line = lines[at].clone();
            // Those that were added in times of need go when they are not needed any more.
            let mut place = 0..lines.len();
            lines.retain(|other| place.next() <= Some(at) || other.streams() > 0);
            return Ok(Connection::Two(line));
        }
        let fresh = tokio::time::timeout(DIAL_TIMEOUT, self.dial()).await.map_err(TransportError::new)??;
        if let Connection::Two(line) = &fresh {
            lines.push(line.clone());
        }
        Ok(fresh)
    }

    async fn start(&self, request: Request<Bytes>) -> Result<Response<Answer>, TransportError> {
        let (mut parts, body) = request.into_parts();
        let token = self.token().await?;
        if let Some(token) = &token {
            parts.headers.insert(header::AUTHORIZATION, bearer(token)?);
        }
        let answer = self.exchange(parts, body).await?;
        if answer.status() == http::StatusCode::UNAUTHORIZED
            && let (Some(tokens), Some(token)) = (&self.credentials.tokens, token)
        {
            tokens.refused(&token).await;
        }
        Ok(answer)
    }

    async fn exchange(&self, mut parts: http::request::Parts, body: Bytes) -> Result<Response<Answer>, TransportError> {
        let path = parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        match self.connection().await? {
            Connection::Two(Line { mut sender, load }) => {
                let authority = format!("https://{}:{}{path}", bracketed(&self.host), self.port);
                parts.uri = authority.parse().map_err(TransportError::new)?;
                let answer = sender.send_request(Request::from_parts(parts, Full::new(body))).await.map_err(TransportError::new)?;
                Ok(answer.map(|body| Answer { body, _load: Some(load) }))
            }
            Connection::One(mut sender) => {
                let host = HeaderValue::from_str(&format!("{}:{}", bracketed(&self.host), self.port)).map_err(TransportError::new)?;
                parts.headers.insert(header::HOST, host);
                parts.uri = path.parse().map_err(TransportError::new)?;
                let answer = sender.send_request(Request::from_parts(parts, Full::new(body))).await.map_err(TransportError::new)?;
                Ok(answer.map(|body| Answer { body, _load: None }))
            }
        }
    }

    async fn token(&self) -> Result<Option<String>, TransportError> {
        let credentials = &self.credentials;
        let token = match (&credentials.token, &credentials.token_file, &credentials.tokens) {
            (Some(token), ..) => token.clone(),
            (None, Some(file), _) => tokio::fs::read_to_string(file).await.map_err(TransportError::new)?,
            (None, None, Some(tokens)) => tokens.token().await?,
            (None, None, None) => return Ok(None),
        };
        Ok(Some(token.trim().to_owned()))
    }
}

fn bearer(token: &str) -> Result<HeaderValue, TransportError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(TransportError::new)?;
    value.set_sensitive(true);
    Ok(value)
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

impl Transport for HttpTransport {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>> {
        Box::pin(async move {
            let exchange = async {
                let (parts, body) = self.inner.start(request).await?.into_parts();
                let body = body.collect().await.map_err(TransportError::new)?.to_bytes();
                Ok(Response::from_parts(parts, body))
            };
            tokio::time::timeout(REQUEST_TIMEOUT, exchange).await.map_err(TransportError::new)?
        })
    }

    fn subscribe(&self, selection: Selection) -> BoxStream<'static, Change> {
        reflect::changes(self.clone(), selection)
    }
}

impl Open for HttpTransport {
    fn open(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Opened>, TransportError>> {
        Box::pin(async move {
            let answer = self.inner.start(request).await?;
            Ok(answer.map(|body| body.into_data_stream().map_err(TransportError::new).boxed()))
        })
    }
}
