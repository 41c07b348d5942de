//! The network side of a client: HTTPS to an API server on this or another machine.
//!
//! One HTTP/2 connection carries everything (requests and watches are streams of it); it is dialled anew when it breaks.
//! A server that only speaks HTTP/1.1 gets a connection per request.

use crate::accounts::Tokens;
use crate::transport::{Transport, TransportError};
use bytes::{Bytes, BytesMut};
use ferrokube_api::{Change, Object, Reason, Selection, Status};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
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
const RETRY: [Duration; 5] =
    [Duration::from_millis(50), Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(10)];

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
    connection: Arc<Mutex<Option<http2::SendRequest<Full<Bytes>>>>>,
}

enum Connection {
    Two(http2::SendRequest<Full<Bytes>>),
    One(http1::SendRequest<Full<Bytes>>),
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
            connection: Arc::default(),
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
        let inner =
            Inner { host, port: inner.port, server_name, tls: inner.tls.clone(), credentials, connection: inner.connection.clone() };
        HttpTransport { inner: Arc::new(inner) }
    }

    /// Sends one request and hands over the answer as it comes, without a time limit: a raw watch, a log that is followed.
    pub async fn open(&self, request: Request<Bytes>) -> Result<Response<Incoming>, TransportError> {
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
            Ok(Connection::Two(sender))
        } else {
            let (sender, connection) = http1::handshake(io).await.map_err(TransportError::new)?;
            tokio::spawn(async move { connection.await.unwrap_or_else(|e| tracing::debug!("connection to the API server ended: {e}")) });
            Ok(Connection::One(sender))
        }
    }

    async fn connection(&self) -> Result<Connection, TransportError> {
        let mut slot = self.connection.lock().await;
        if let Some(sender) = slot.as_ref().filter(|s| !s.is_closed()) {
            return Ok(Connection::Two(sender.clone()));
        }
        let fresh = tokio::time::timeout(DIAL_TIMEOUT, self.dial()).await.map_err(TransportError::new)??;
        if let Connection::Two(sender) = &fresh {
            *slot = Some(sender.clone());
        }
        Ok(fresh)
    }

    async fn start(&self, request: Request<Bytes>) -> Result<Response<Incoming>, TransportError> {
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

    async fn exchange(&self, mut parts: http::request::Parts, body: Bytes) -> Result<Response<Incoming>, TransportError> {
        let path = parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        match self.connection().await? {
            Connection::Two(mut sender) => {
                let authority = format!("https://{}:{}{path}", bracketed(&self.host), self.port);
                parts.uri = authority.parse().map_err(TransportError::new)?;
                sender.send_request(Request::from_parts(parts, Full::new(body))).await.map_err(TransportError::new)
            }
            Connection::One(mut sender) => {
                let host = HeaderValue::from_str(&format!("{}:{}", bracketed(&self.host), self.port)).map_err(TransportError::new)?;
                parts.headers.insert(header::HOST, host);
                parts.uri = path.parse().map_err(TransportError::new)?;
                sender.send_request(Request::from_parts(parts, Full::new(body))).await.map_err(TransportError::new)
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
        let (changes, inbox) = tokio::sync::mpsc::channel(1024);
        let watcher = Watcher { transport: self.clone(), selection, changes, known: HashMap::new() };
        tokio::spawn(watcher.run());
        Box::pin(futures_util::stream::unfold(inbox, |mut inbox| async move { inbox.recv().await.map(|c| (c, inbox)) }))
    }
}

/// Lists, then watches from there, for ever; the reflector of client-go.
struct Watcher {
    transport: HttpTransport,
    selection: Selection,
    changes: tokio::sync::mpsc::Sender<Change>,
    /// The last state sent of every object, because a deletion over the network may come after lost history.
    known: HashMap<ferrokube_api::ObjectKey, Arc<Object>>,
}

/// Why a watch ended.
enum End {
    /// History is lost: list again.
    Relist,
    /// The server closed it or the connection broke: go on from the last revision.
    Resume,
    /// Nobody listens any more.
    Abandoned,
}

impl Watcher {
    async fn run(mut self) {
        let mut failures = 0;
        let mut position: Option<String> = None;
        while !self.changes.is_closed() {
            let step = match position.clone() {
                None => self.list().await.map(|revision| (Some(revision), End::Resume)),
                Some(from) => self.watch(from).await,
            };
            match step {
                Ok((_, End::Abandoned)) => return,
                Ok((_, End::Relist)) => position = None,
                Ok((at, End::Resume)) => {
                    position = at;
                    failures = 0;
                    continue;
                }
                Err(e) => {
                    tracing::debug!(resource = self.selection.resource, "watch: {e:#}");
                    if e.status().is_some() {
                        position = None;
                    }
                }
            }
            tokio::time::sleep(RETRY[failures.min(RETRY.len() - 1)]).await;
            failures += 1;
        }
    }

    fn path(&self, more: &str) -> String {
        let target = crate::Target {
            group: self.selection.group.clone(),
            version: self.selection.version.clone(),
            resource: self.selection.resource.clone(),
            namespace: self.selection.namespace.clone(),
            ..crate::Target::default()
        };
        let selectors = crate::client::selector_query(&self.selection.labels, &self.selection.fields);
        let separator = if selectors.is_empty() || more.is_empty() { "" } else { "&" };
        format!("{}?{selectors}{separator}{more}", target.path())
    }

    fn request(&self, path: &str) -> Result<Request<Bytes>, TransportError> {
        let request = Request::get(path).header(header::ACCEPT, "application/json").header(header::USER_AGENT, "ferrokube");
        request.body(Bytes::new()).map_err(TransportError::new)
    }

    async fn list(&mut self) -> crate::Result<String> {
        let mut revision = String::new();
        let mut token = String::new();
        self.emit(Change::Restart).await;
        self.known.clear();
        loop {
            let more = format!(
                "limit=500{}",
                if token.is_empty() { String::new() } else { format!("&continue={}", crate::client::percent_encoded(&token)) }
            );
            let response = self.transport.send(self.request(&self.path(&more))?).await?;
            if !response.status().is_success() {
                return Err(crate::client::failure(&response));
            }
            let list: ListPage =
                serde_json::from_slice(response.body()).map_err(|source| crate::Error::Decode { what: "a list", source })?;
            let (api_version, kind) = (list.api_version, list.kind.strip_suffix("List").unwrap_or(&list.kind).to_owned());
            for item in list.items {
                let json = with_type(item.get(), &api_version, &kind);
                self.set(json).await?;
            }
            revision = list.metadata.resource_version.unwrap_or(revision);
            token = list.metadata.next.unwrap_or_default();
            if token.is_empty() {
                break;
            }
        }
        self.emit(Change::Synced(revision.parse().unwrap_or(0))).await;
        Ok(revision)
    }

    async fn set(&mut self, json: Bytes) -> crate::Result<u64> {
        let object = Arc::new(Object::from_json(json).map_err(TransportError::new)?);
        let revision = object.revision;
        self.known.insert(object.key.clone(), object.clone());
        self.emit(Change::Set(object)).await;
        Ok(revision)
    }

    async fn emit(&self, change: Change) {
        // A closed channel is noticed by the loop.
        let _ = self.changes.send(change).await;
    }

    async fn watch(&mut self, mut from: String) -> crate::Result<(Option<String>, End)> {
        let path = self.path(&format!("watch=true&allowWatchBookmarks=true&timeoutSeconds=600&resourceVersion={from}"));
        let response = self.transport.inner.start(self.request(&path)?).await?;
        let (parts, body) = response.into_parts();
        if !parts.status.is_success() {
            let body = body.collect().await.map_err(TransportError::new)?.to_bytes();
            let error = crate::client::failure(&Response::from_parts(parts, body));
            return match error.status() {
                Some(s) if s.code == 410 => Ok((None, End::Relist)),
                _ => Err(error),
            };
        }
        let mut frames = body.into_data_stream();
        let mut buffer = BytesMut::new();
        while let Some(frame) = frames.next().await {
            let Ok(frame) = frame else { break };
            buffer.extend_from_slice(&frame);
            while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
                let line = buffer.split_to(end + 1).freeze();
                if let Some(end) = self.event(&line, &mut from).await? {
                    return Ok((Some(from), end));
                }
            }
            if self.changes.is_closed() {
                return Ok((None, End::Abandoned));
            }
        }
        Ok((Some(from), End::Resume))
    }

    async fn event(&mut self, line: &Bytes, from: &mut String) -> crate::Result<Option<End>> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        let unreadable = |source| crate::Error::Decode { what: "a watch event", source };
        let event: WatchEvent = serde_json::from_slice(line).map_err(unreadable)?;
        let json = line.slice_ref(event.object.get().as_bytes());
        match event.kind.as_str() {
            "ADDED" | "MODIFIED" => *from = self.set(Bytes::copy_from_slice(&json)).await?.to_string(),
            "DELETED" => {
                let object = Object::from_json(Bytes::copy_from_slice(&json)).map_err(TransportError::new)?;
                *from = object.revision.to_string();
                self.known.remove(&object.key);
                self.emit(Change::Gone(Arc::new(object))).await;
            }
            "BOOKMARK" => {
                let mark: Bookmark = serde_json::from_slice(&json).map_err(unreadable)?;
                *from = mark.metadata.resource_version.unwrap_or_else(|| from.clone());
            }
            _ => {
                let status: Status = serde_json::from_slice(&json).map_err(unreadable)?;
                let lost = status.code == 410 || status.is(Reason::Expired) || status.is(Reason::Gone);
                return if lost { Ok(Some(End::Relist)) } else { Err(status.into()) };
            }
        }
        Ok(None)
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListPage<'a> {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: ListMeta,
    #[serde(borrow, default)]
    items: Vec<&'a serde_json::value::RawValue>,
}

#[derive(serde::Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    resource_version: Option<String>,
    #[serde(rename = "continue")]
    next: Option<String>,
}

#[derive(serde::Deserialize)]
struct WatchEvent<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    object: &'a serde_json::value::RawValue,
}

#[derive(serde::Deserialize)]
struct Bookmark {
    metadata: ListMeta,
}

/// Items of a list carry no kind and apiVersion of their own; objects at rest do.
fn with_type(item: &str, api_version: &str, kind: &str) -> Bytes {
    #[derive(serde::Deserialize)]
    struct Typed {
        kind: Option<String>,
    }
    let typed = serde_json::from_str::<Typed>(item).is_ok_and(|t| t.kind.is_some_and(|k| !k.is_empty()));
    let body = item.trim_start().strip_prefix('{').filter(|_| !typed);
    match body {
        Some(rest) => Bytes::from(format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",{rest}")),
        None => Bytes::copy_from_slice(item.as_bytes()),
    }
}
