//! The passage itself: one request to a backend, its answer back, and bytes both ways after an upgrade.

use super::forwarded::{self, is_hop};
use crate::audit::Trail;
use crate::outbound::pool::with_http2;
use crate::outbound::shelf::{Sender, Shelf};
use crate::output::{Body, BrokenOff};
use crate::pipeline::Request;
use crate::request::RequestBody;
use crate::verbs::Answer;
use bytes::Bytes;
use ferrokube_api::{Reason, Status};
use futures_util::{StreamExt, stream};
use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderValue, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{Method, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, BodyStream, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

/// Time to reach a backend.
const DIAL: Duration = Duration::from_secs(10);
/// A websocket's protocol entry that carries the client's token to us, and no further.
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// Where a request goes on.
pub struct Destination {
    /// Address or name.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Whether to speak TLS.
    pub tls: bool,
    /// Path and query.
    pub path: String,
    /// The name that its certificate must have, when it is not the host.
    pub name: Option<String>,
}

impl Destination {
    pub(super) fn authority(&self) -> String {
        if self.host.contains(':') { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) }
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// The request cannot be passed on.
    #[error("{}", .0.message)]
    Refused(Box<Status>),
    /// The backend cannot be talked to.
    #[error("{0}")]
    Unreachable(String),
}

impl From<Status> for NoAnswer {
    fn from(status: Status) -> NoAnswer {
        NoAnswer::Refused(Box::new(status))
    }
}

fn unreachable(to: &Destination, why: &str) -> NoAnswer {
    NoAnswer::Unreachable(format!("dial tcp {}: {why}", to.authority()))
}

/// What a client is to the backend: this decides the words of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The server asks for the client (logs).
    Fetch,
    /// Exec, attach, port-forward.
    Stream,
    /// The proxy subresources.
    Proxy,
}

/// The error as apiserver's proxies word it; an unknown error has no reason.
fn worded(way: Way, upgrades: bool, method: &Method, url: &str, error: NoAnswer) -> Status {
    let why = match error {
        NoAnswer::Refused(status) => return *status,
        NoAnswer::Unreachable(why) => why,
    };
    let message = match way {
        Way::Proxy if !upgrades => {
            return Status::failure(503, Reason::ServiceUnavailable, format!("error trying to reach service: {why}"));
        }
        Way::Fetch => {
            let verb = if method == Method::GET { "Get" } else { method.as_str() };
            format!("{verb} {url:?}: {why}")
        }
        Way::Proxy | Way::Stream => format!("error dialing backend: {why}"),
    };
    let mut status = Status::failure(500, Reason::InternalError, message);
    status.reason = None;
    status
}

fn os_words(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    }
}

/// A connection, and whether the backend wants to speak HTTP/2 over it.
async fn dial(tls: Arc<ClientConfig>, to: &Destination) -> Result<(Box<dyn Io>, bool), NoAnswer> {
    let connecting = tokio::time::timeout(DIAL, TcpStream::connect((to.host.as_str(), to.port))).await;
    let stream = connecting.map_err(|_| unreachable(to, "i/o timeout"))?.map_err(|e| unreachable(to, &os_words(&e)))?;
    let _ = stream.set_nodelay(true);
    if !to.tls {
        return Ok((Box::new(stream), false));
    }
    let name = ServerName::try_from(to.name.clone().unwrap_or_else(|| to.host.clone())).map_err(|e| unreachable(to, &e.to_string()))?;
    let shaking = tokio::time::timeout(DIAL, TlsConnector::from(tls).connect(name, stream)).await;
    let stream = shaking.map_err(|_| unreachable(to, "TLS handshake timeout"))?.map_err(|e| unreachable(to, &e.to_string()))?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok((Box::new(stream), http2))
}

fn forwarded(headers: &HeaderMap, upgrades: bool) -> HeaderMap {
    let mut out = HeaderMap::new();
    for (name, value) in headers {
        if name == AUTHORIZATION
            || name == HOST
            || name.as_str().starts_with("impersonate-")
            || (is_hop(name) && !(upgrades && (name == CONNECTION || name == UPGRADE)))
        {
            continue;
        }
        if name == SEC_WEBSOCKET_PROTOCOL {
            let kept = value.to_str().unwrap_or_default().split(',').map(str::trim).filter(|p| !p.starts_with(TOKEN_PROTOCOL));
            let kept = kept.collect::<Vec<_>>().join(", ");
            if let (false, Ok(value)) = (kept.is_empty(), HeaderValue::from_str(&kept)) {
                out.append(name, value);
            }
            continue;
        }
        out.append(name, value.clone());
    }
    out
}

type Outgoing = UnsyncBoxBody<Bytes, hyper::Error>;

fn outgoing(body: Option<RequestBody>) -> Outgoing {
    match body {
        Some(RequestBody::Stream(body)) => body,
        Some(RequestBody::Full(bytes)) => Full::new(bytes).map_err(|never| match never {}).boxed_unsync(),
        None => Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync(),
    }
}

impl Request<'_> {
    /// Sends the request on and answers with what comes back.
    pub(super) async fn pass(&self, tls: Arc<ClientConfig>, to: Destination, way: Way) -> Result<Answer, Status> {
        let may_upgrade = way != Way::Fetch;
        let upgrades = may_upgrade && self.headers.contains_key(UPGRADE);
        if way == Way::Stream && !upgrades {
            return Err(Status::bad_request("Upgrade request required"));
        }
        let proxied = way == Way::Proxy && !upgrades;
        if let Some(root) = self.sent_to_root().filter(|_| proxied) {
            return Ok(Answer::Raw(root));
        }
        let passenger = Passenger {
            method: self.method.clone(),
            headers: if proxied { self.told_headers() } else { self.headers.clone() },
            body: self.body_stream(),
            upgrade: self.upgrade(),
            stopping: self.server.stopping.clone(),
            trail: self.trail.clone(),
        };
        let url = || format!("{}://{}{}", if to.tls { "https" } else { "http" }, to.authority(), to.path);
        let answer = passenger.pass(tls, &to, may_upgrade).await;
        let mut answer = answer.map_err(|error| worded(way, upgrades, &self.method, &url(), error))?;
        if proxied {
            self.lead_through(&mut answer, &to);
        }
        Ok(Answer::Raw(answer))
    }
}

/// A request on its way to a backend.
pub struct Passenger {
    /// Its method.
    pub method: Method,
    /// Its headers. Credentials and what concerns one hop only do not go on.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Option<RequestBody>,
    /// The client's connection, when it asked to upgrade it.
    pub upgrade: Option<OnUpgrade>,
    /// Ends what an upgrade began.
    pub stopping: CancellationToken,
    /// For audit an upgraded request is complete when its stream ends.
    pub trail: Trail,
}

impl Passenger {
    /// Sends the request on, over a connection of its own, and answers with what comes back.
    pub async fn pass(self, tls: Arc<ClientConfig>, to: &Destination, may_upgrade: bool) -> Result<Response<Body>, NoAnswer> {
        let upgrades = may_upgrade && self.headers.contains_key(UPGRADE);
        let (io, _) = dial(tls, to).await?;
        let broken = |e: hyper::Error| unreachable(to, &e.to_string());
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(broken)?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to a backend ended");
            }
        });
        let head = head(&self.method, &self.headers, to, upgrades)?;
        let response = sender.send_request(head.map(|()| outgoing(self.body.filter(|_| !upgrades)))).await.map_err(broken)?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let client = self.upgrade.ok_or_else(|| Status::bad_request("Upgrade request required"))?;
            return Ok(join(client, response, self.stopping, self.trail));
        }
        Ok(streamed(response, || ()))
    }

    /// Sends a request that does not upgrade on, over a connection that others have used and will use.
    pub async fn pass_over(self, lines: &Arc<Lines>, to: &Destination) -> Result<Response<Body>, NoAnswer> {
        let head = head(&self.method, &self.headers, to, false)?;
        let body = outgoing(self.body);
        // Go's client repeats on a connection that it kept what changes nothing and can be repeated, and no more.
        let again = (is_safe(&self.method) && body.is_end_stream()).then(|| head.clone());
        let mut request = head.map(|()| body);
        let address = to.authority();
        let mut kept = lines.shelf.take(&address).await;
        loop {
            let used = kept.is_some();
            let mut sender = match kept.take() {
                Some(sender) => sender,
                None => lines.connect(to, &address).await?,
            };
            let mut failed = match sender.send(request).await {
                Ok(response) => {
                    let lines = lines.clone();
                    return Ok(streamed(response, move || lines.shelf.keep(&address, sender)));
                }
                Err(failed) => failed,
            };
            // Once more over a new connection.
            let broken = used && !failed.error().is_parse() && !failed.error().is_user();
            request = match (failed.take_message(), &again) {
                // It never left.
                (Some(unsent), _) if used => unsent,
                (None, Some(head)) if broken => head.clone().map(|()| outgoing(None)),
                _ => return Err(unreachable(to, &failed.into_error().to_string())),
            };
        }
    }
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
}

/// The request as the backend gets it, without its body.
fn head(method: &Method, headers: &HeaderMap, to: &Destination, upgrades: bool) -> Result<http::Request<()>, Status> {
    let mut head = http::Request::new(());
    *head.method_mut() = method.clone();
    *head.uri_mut() = to.path.parse().map_err(|_| Status::bad_request(format!("invalid path {:?}", to.path)))?;
    *head.headers_mut() = forwarded(headers, upgrades);
    let host = HeaderValue::from_str(&to.authority()).map_err(|e| Status::bad_request(e.to_string()))?;
    head.headers_mut().insert(HOST, host);
    Ok(head)
}

/// Connections to a backend that are kept for its next request. They end with this.
#[derive(Debug)]
pub struct Lines {
    tls: Arc<ClientConfig>,
    shelf: Shelf<Outgoing>,
}

impl Lines {
    /// Whoever offers HTTP/2 is spoken to in it.
    pub fn new(tls: &ClientConfig) -> Arc<Self> {
        Arc::new(Lines { tls: Arc::new(with_http2(tls.clone())), shelf: Shelf::default() })
    }

    async fn connect(&self, to: &Destination, address: &str) -> Result<Sender<Outgoing>, NoAnswer> {
        let (io, http2) = dial(self.tls.clone(), to).await?;
        let sender = Sender::start(io, http2).await.map_err(|e| unreachable(to, &e.to_string()))?;
        self.shelf.share(address, &sender);
        Ok(sender)
    }

    /// Ends what leads elsewhere than to these destinations.
    pub fn retain(&self, places: &[Destination]) {
        let wanted: Vec<String> = places.iter().map(Destination::authority).collect();
        self.shelf.retain(|address| wanted.iter().any(|w| w == address));
    }
}

/// 101: both connections become one pipe.
fn join(client: OnUpgrade, mut response: Response<Incoming>, stopping: CancellationToken, trail: Trail) -> Response<Body> {
    let backend = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        let _trail = trail;
        tokio::select! {
            () = copy(client, backend) => {}
            () = stopping.cancelled() => {}
        }
    });
    let (parts, _) = response.into_parts();
    let mut answer = Response::new(Body::Empty);
    *answer.status_mut() = parts.status;
    *answer.headers_mut() = parts.headers;
    answer
}

async fn copy(client: OnUpgrade, backend: OnUpgrade) {
    let (client, backend) = match tokio::try_join!(client, backend) {
        Ok(both) => both,
        Err(error) => return tracing::debug!(%error, "an upgrade failed"),
    };
    let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut backend).await {
        tracing::debug!(%error, "a stream ended");
    }
}

/// The answer as it comes, broken off where that breaks off. `read` is called when all of it has come, and never otherwise.
fn streamed(response: Response<Incoming>, read: impl FnOnce() + Send + 'static) -> Response<Body> {
    let (parts, body) = response.into_parts();
    let frames = stream::unfold((BodyStream::new(body), Some(read)), |(mut body, mut read)| async move {
        loop {
            match body.next().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Some((Ok(data), (body, read)));
                    }
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "the answer of a backend broke off");
                    // A reset overtakes what waits to be sent: what has come has its turn first.
                    tokio::task::yield_now().await;
                    return Some((Err(BrokenOff(error.to_string())), (body, read)));
                }
                None => {
                    read.take().into_iter().for_each(|read| read());
                    return None;
                }
            }
        }
    });
    let mut answer = Response::new(Body::Passage(frames.boxed()));
    *answer.status_mut() = parts.status;
    *answer.headers_mut() = parts.headers;
    forwarded::clean(answer.headers_mut());
    answer
}
