//! An image registry on loopback, in memory, that can misbehave on request.
//!
//! Runs on a thread of its own, so that it serves tests with and without an async runtime and can live in a network
//! namespace. Everything asked of it is logged.

use crate::image::digest;
use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

type Body = BoxBody<Bytes, io::Error>;

/// Who may pull.
#[derive(Clone, Debug, Default)]
pub enum Auth {
    /// Everybody.
    #[default]
    None,
    /// Who sends user and password.
    Basic(String, String),
    /// Who fetches a token first, with user and password, or with [`IDENTITY_TOKEN`].
    Bearer(String, String),
}

/// The refresh token that the token server takes.
pub const IDENTITY_TOKEN: &str = "identity-token-of-tests";
/// The access token that the registry takes.
pub const ACCESS_TOKEN: &str = "access-token-of-tests";

/// A way to misbehave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection breaks after so many bytes of this blob, so many times.
    Cut {
        /// Of the blob.
        digest: String,
        /// Bytes served before.
        after: usize,
        /// How often.
        times: usize,
    },
    /// The blob stops without the connection breaking, once.
    Stall {
        /// Of the blob.
        digest: String,
        /// Bytes served before.
        after: usize,
    },
    /// The blob has the right size and wrong bytes.
    Corrupt {
        /// Of the blob.
        digest: String,
    },
    /// Paths that contain this get this status, so many times.
    Status {
        /// Part of the path.
        path: String,
        /// HTTP status.
        status: u16,
        /// How often.
        times: usize,
    },
    /// Paths that contain this are served so many times, and then get this status.
    Later {
        /// Part of the path.
        path: String,
        /// How often all is well before.
        well: usize,
        /// HTTP status.
        status: u16,
    },
    /// `Range` is ignored.
    NoRange,
    /// HEAD is not allowed.
    NoHead,
}

/// One request, as logged.
#[derive(Clone, Debug)]
pub struct Logged {
    /// Method.
    pub method: String,
    /// Path with query.
    pub path: String,
    /// `Range` header.
    pub range: Option<String>,
    /// `Authorization` header.
    pub authorization: Option<String>,
    /// Status answered.
    pub status: u16,
}

#[derive(Default)]
struct State {
    blobs: HashMap<String, Bytes>,
    manifests: HashMap<(String, String), (String, Bytes)>,
    auth: Auth,
    faults: Vec<Fault>,
    log: Vec<Logged>,
}

/// The registry; it stops when dropped.
pub struct Registry {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Registry {
    /// On a free port of 127.0.0.1.
    pub fn start() -> Result<Self> {
        Self::start_in(None, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// On a free port of 127.0.0.1, with TLS. Also returns the certificate to trust, in PEM.
    pub fn start_tls() -> Result<(Self, String)> {
        let (tls, pem) = certificate()?;
        Ok((Self::run(None, SocketAddr::from(([127, 0, 0, 1], 0)), Some(tls))?, pem))
    }

    /// On an address inside a network namespace (a path such as `/proc/PID/ns/net`).
    pub fn start_in(namespace: Option<PathBuf>, address: SocketAddr) -> Result<Self> {
        Self::run(namespace, address, None)
    }

    fn run(namespace: Option<PathBuf>, address: SocketAddr, tls: Option<tokio_rustls::TlsAcceptor>) -> Result<Self> {
        let state = Arc::new(Mutex::new(State::default()));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, address_of) = std::sync::mpsc::channel();
        let serving = state.clone();
        let run = move || {
            let prepared = prepare(namespace.as_deref(), address);
            match prepared {
                Ok((runtime, listener, address)) => {
                    let _ = ready.send(Ok(address));
                    runtime.block_on(serve(listener, tls, serving, stopped));
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        };
        let thread = std::thread::Builder::new().name("test-registry".into()).spawn(run)?;
        let address = address_of.recv().context("the registry thread ended")??;
        Ok(Self { address, state, stop: Some(stop), thread: Some(thread) })
    }

    /// `host:port`, as it goes into references.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// `http://host:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic happens while this is held")
    }

    /// Asks for credentials from now on.
    pub fn set_auth(&self, auth: Auth) {
        self.state().auth = auth;
    }

    /// Misbehaves from now on.
    pub fn add_fault(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// Behaves again.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Stores a blob and returns its digest.
    pub fn put_blob(&self, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        self.state().blobs.insert(digest.clone(), Bytes::copy_from_slice(bytes));
        digest
    }

    /// Stores a manifest under a tag and under its digest, and returns the digest.
    pub fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        let entry = (media_type.to_owned(), Bytes::copy_from_slice(bytes));
        let mut state = self.state();
        state.manifests.insert((repository.to_owned(), tag.to_owned()), entry.clone());
        state.manifests.insert((repository.to_owned(), digest.clone()), entry);
        digest
    }

    /// Everything asked so far.
    pub fn log(&self) -> Vec<Logged> {
        self.state().log.clone()
    }

    /// How often something was fetched: GETs of paths that contain `part`.
    pub fn gets(&self, part: &str) -> usize {
        self.state().log.iter().filter(|logged| logged.method == "GET" && logged.path.contains(part)).count()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Prepared = (tokio::runtime::Runtime, tokio::net::TcpListener, SocketAddr);

fn prepare(namespace: Option<&std::path::Path>, address: SocketAddr) -> Result<Prepared> {
    if let Some(path) = namespace {
        let file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind(address)).with_context(|| format!("listen on {address}"))?;
    let address = listener.local_addr()?;
    Ok((runtime, listener, address))
}

/// A certificate for 127.0.0.1 that signs itself.
fn certificate() -> Result<(tokio_rustls::TlsAcceptor, String)> {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    Ok((tokio_rustls::TlsAcceptor::from(Arc::new(config)), made.cert.pem()))
}

async fn serve(
    listener: tokio::net::TcpListener,
    tls: Option<tokio_rustls::TlsAcceptor>,
    state: Arc<Mutex<State>>,
    mut stopped: tokio::sync::oneshot::Receiver<()>,
) {
    loop {
        let stream = tokio::select! {
            _ = &mut stopped => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => continue,
            },
        };
        let (state, tls) = (state.clone(), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => connection(stream, state).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        connection(stream, state).await;
                    }
                }
            }
        });
    }
}

async fn connection(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, state: Arc<Mutex<State>>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(answer(request, &state).await) }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, state: &Mutex<State>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut state = state.lock().expect("no panic happens while this is held");
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let response = state.answer(&parts.method, &path, &parts.headers, &body);
    state.log.push(Logged {
        method: parts.method.to_string(),
        path,
        range: header("range"),
        authorization: header("authorization"),
        status: response.status().as_u16(),
    });
    response
}

impl State {
    fn answer(&mut self, method: &Method, path: &str, headers: &HeaderMap, body: &[u8]) -> Response<Body> {
        if let Some(status) = self.failing(path) {
            return simple(status, "text/plain", "as you wished");
        }
        let plain = path.split('?').next().unwrap_or_default();
        if plain == "/token" {
            return self.token(headers, body);
        }
        if let Some(refusal) = self.refuse(headers, plain) {
            return refusal;
        }
        if *method == Method::HEAD && self.faults.contains(&Fault::NoHead) {
            return simple(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "");
        }
        let Some(rest) = plain.strip_prefix("/v2/") else { return simple(StatusCode::NOT_FOUND, "text/plain", "") };
        if let Some((repository, reference)) = rest.split_once("/manifests/") {
            return self.manifest(repository, reference);
        }
        match rest.split_once("/blobs/") {
            Some((_, digest)) => self.blob(digest, headers),
            None => simple(if rest.is_empty() { StatusCode::OK } else { StatusCode::NOT_FOUND }, "application/json", "{}"),
        }
    }

    fn failing(&mut self, path: &str) -> Option<StatusCode> {
        self.faults.iter_mut().find_map(|fault| match fault {
            Fault::Status { path: part, status, times } if *times > 0 && path.contains(part.as_str()) => {
                *times -= 1;
                StatusCode::from_u16(*status).ok()
            }
            Fault::Later { path: part, well, status } if path.contains(part.as_str()) => {
                let over = *well == 0;
                *well = well.saturating_sub(1);
                over.then(|| StatusCode::from_u16(*status).ok()).flatten()
            }
            _ => None,
        })
    }

    fn refuse(&self, headers: &HeaderMap, path: &str) -> Option<Response<Body>> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (sent, address) = (text("authorization"), text("host"));
        let (challenge, expected) = match &self.auth {
            Auth::None => return None,
            Auth::Basic(user, password) => (r#"Basic realm="tests""#.to_owned(), basic(user, password)),
            Auth::Bearer(..) => {
                let repository = path.trim_start_matches("/v2/").split("/manifests/").next().unwrap_or_default();
                let repository = repository.split("/blobs/").next().unwrap_or_default();
                let challenge = format!(r#"Bearer realm="http://{address}/token",service="tests",scope="repository:{repository}:pull""#);
                (challenge, format!("Bearer {ACCESS_TOKEN}"))
            }
        };
        if sent == expected {
            return None;
        }
        let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
        let mut response = simple(StatusCode::UNAUTHORIZED, "application/json", body);
        let challenge = challenge.parse().expect("a header");
        response.headers_mut().insert("www-authenticate", challenge);
        Some(response)
    }

    fn token(&self, headers: &HeaderMap, body: &[u8]) -> Response<Body> {
        let Auth::Bearer(user, password) = &self.auth else { return simple(StatusCode::NOT_FOUND, "text/plain", "") };
        let sent = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let refreshed = String::from_utf8_lossy(body).contains(&format!("refresh_token={IDENTITY_TOKEN}"));
        if sent != basic(user, password) && !refreshed {
            let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"incorrect username or password"}]}"#;
            return simple(StatusCode::UNAUTHORIZED, "application/json", body);
        }
        simple(StatusCode::OK, "application/json", &format!(r#"{{"access_token":"{ACCESS_TOKEN}","expires_in":300}}"#))
    }

    fn manifest(&self, repository: &str, reference: &str) -> Response<Body> {
        let Some((media_type, bytes)) = self.manifests.get(&(repository.to_owned(), reference.to_owned())) else {
            return simple(
                StatusCode::NOT_FOUND,
                "application/json",
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
            );
        };
        let mut response = full(StatusCode::OK, media_type, bytes.clone());
        response.headers_mut().insert("docker-content-digest", digest(bytes).parse().expect("a header"));
        response
    }

    fn blob(&mut self, wanted: &str, headers: &HeaderMap) -> Response<Body> {
        let Some(bytes) = self.blobs.get(wanted).cloned() else { return simple(StatusCode::NOT_FOUND, "application/json", "{}") };
        let range = headers.get("range").and_then(|value| value.to_str().ok());
        let start: usize = range.and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse().ok()).unwrap_or(0);
        let start = if self.faults.contains(&Fault::NoRange) { 0 } else { start };
        if start > 0 && start >= bytes.len() {
            return simple(StatusCode::RANGE_NOT_SATISFIABLE, "text/plain", "");
        }
        let mut served = bytes.slice(start..);
        if self.faults.contains(&Fault::Corrupt { digest: wanted.to_owned() }) {
            served = served.iter().map(|byte| byte ^ 0x55).collect();
        }
        let length = served.len();
        let body = self.broken_body(wanted, served);
        let mut response = Response::builder().header("content-type", "application/octet-stream").header("content-length", length);
        if start > 0 {
            response = response.status(206).header("content-range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len()));
        }
        response.body(body).expect("valid parts")
    }

    fn broken_body(&mut self, wanted: &str, served: Bytes) -> Body {
        for fault in &mut self.faults {
            match fault {
                Fault::Cut { digest, after, times } if digest == wanted && *times > 0 => {
                    *times -= 1;
                    let first = Ok(Frame::data(served.slice(..served.len().min(*after))));
                    // The server flushes when the body makes it wait; without that the bytes would go down with the connection.
                    let cut = stream::once(async {
                        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                        Err(io::Error::other("cut"))
                    });
                    use futures_util::StreamExt as _;
                    return BodyExt::boxed(StreamBody::new(stream::iter([first]).chain(cut)));
                }
                Fault::Stall { digest, after } if digest == wanted => {
                    let first = Ok(Frame::data(served.slice(..served.len().min(*after))));
                    digest.clear(); // Once.
                    use futures_util::StreamExt as _;
                    return BodyExt::boxed(StreamBody::new(stream::iter([first]).chain(stream::pending())));
                }
                _ => {}
            }
        }
        boxed(served)
    }
}

fn boxed(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never: Infallible| match never {}).boxed()
}

fn full(status: StatusCode, media_type: &str, bytes: Bytes) -> Response<Body> {
    let length = bytes.len();
    let builder = Response::builder().status(status).header("content-type", media_type).header("content-length", length);
    builder.body(boxed(bytes)).expect("valid parts")
}

fn simple(status: StatusCode, media_type: &str, text: &str) -> Response<Body> {
    full(status, media_type, Bytes::copy_from_slice(text.as_bytes()))
}

fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}
