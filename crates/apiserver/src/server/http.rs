//! Sockets: TLS, HTTP/1.1 and HTTP/2, one task per connection; and what every response carries.
//!
//! A panic in a request costs that request. A stop lets requests finish, ends watches, and closes what is left.

use super::answer;
use super::metrics::Answered;
use super::streams::streams;
use super::turn;
use crate::ApiServer;
use crate::admission::Outcome;
use crate::audit::Trail;
use crate::authn::PeerCertificates;
use crate::output::{Body, pretty};
use crate::pipeline::{self, Come, Peer, Sender};
use crate::request::body::{Unread, returned};
use crate::request::query::{read_duration, well_escaped};
use crate::request::{Query, RequestBody, RequestInfo};
use ferrokube_api::{Reason, Status};
use futures_util::FutureExt;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use std::convert::Infallible;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

/// Time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Headers of a request: a user in hundreds of groups comes through a front proxy with one for each. Go counts bytes only.
const MAX_HEADERS: usize = 1000;
/// As Go has it (`http.DefaultMaxHeaderBytes`).
const MAX_HEADER_BYTES: u32 = 1 << 20;
/// Time for the headers of a request.
const HEADERS: Duration = Duration::from_secs(32);
/// Streams per HTTP/2 connection, as upstream's server: what Go's clients take for granted before they are told.
const STREAMS: u32 = 100;

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
const FLOW_SCHEMA: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const PRIORITY_LEVEL: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// Accepts connections until told to stop, then waits for those under way.
pub async fn serve(server: Arc<ApiServer>, listener: TcpListener, drain: Duration) {
    let Some(terms) = &server.terms else { return };
    let connections = tokio_util::task::TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = server.draining.cancelled() => break,
        };
        match accepted {
            Ok((stream, from)) => {
                connections.spawn(connection(server.clone(), stream, from.ip(), terms.acceptor()));
            }
            Err(error) => {
                // Out of file descriptors, mostly: give connections time to end.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(drain, connections.wait()).await.is_err() {
        tracing::warn!(left = connections.len(), "connections cut off at the end of the drain time");
    }
}

async fn connection(server: Arc<ApiServer>, stream: TcpStream, address: IpAddr, tls: TlsAcceptor) {
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake took too long"),
    };
    let chain = stream.get_ref().1.peer_certificates().map(|chain| chain.iter().map(|c| c.clone().into_owned()).collect());
    let peer = Arc::new(Peer { address, certificates: chain.map(PeerCertificates::new) });
    let answering = server.clone();
    // Told when the client should come anew, perhaps to another server.
    let goodbye = Arc::new(Notify::new());
    let farewell = goodbye.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (server, peer, farewell) = (answering.clone(), peer.clone(), farewell.clone());
        async move {
            let (parts, body) = request.into_parts();
            let (body, unread) = whole_before_answer(&parts, body);
            if parts.version == http::Version::HTTP_2 && server.serving.says_goodbye() {
                farewell.notify_one();
            }
            let answer = server.handle(parts, body, Sender::Unknown(&peer)).await;
            if let Some(unread) = unread {
                unread.drain().await;
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let most = Some(server.serving.config.http2_streams).filter(|n| *n > 0).unwrap_or(STREAMS);
    let (streams, residents) = streams();
    let mut builder = auto::Builder::new(streams);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS).max_headers(MAX_HEADERS);
    builder
        .http2()
        .max_header_list_size(MAX_HEADER_BYTES)
        .timer(TokioTimer::new())
        .max_concurrent_streams(most)
        .keep_alive_interval(Some(Duration::from_secs(30)));
    builder
        .http2()
        .adaptive_window(false)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_send_buf_size(256 * 1024);
    let (stream, turns) = turn::gather(stream);
    let running = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let until_drained = async {
        tokio::pin!(running);
        tokio::select! {
            result = running.as_mut() => result,
            () = server.draining.cancelled() => {
                running.as_mut().graceful_shutdown();
                running.await
            }
            () = goodbye.notified() => {
                running.as_mut().graceful_shutdown();
                running.await
            }
        }
    };
    let working = residents.working();
    let result = turns.run(residents.with(until_drained), || working.any()).await;
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}

/// The body, and what of it has to come before the answer goes. HTTP/1.1 has its own way, and who asked first waits for the answer.
fn whole_before_answer(parts: &Parts, body: Incoming) -> (RequestBody, Option<Unread<Incoming>>) {
    if parts.version != http::Version::HTTP_2 || body.is_end_stream() || parts.headers.contains_key(http::header::EXPECT) {
        return (RequestBody::Stream(body.boxed_unsync()), None);
    }
    let (body, unread) = returned(body);
    (RequestBody::Stream(body.boxed_unsync()), Some(unread))
}

/// 504 in the words of apiserver's timeout filter.
fn timed_out(limit: Duration) -> Status {
    let text = format!("Timeout: request did not complete within requested timeout - {}s", limit.as_secs());
    Status::failure(504, Reason::Timeout, text)
}

fn panicked() -> Status {
    Status::failure(500, Reason::InternalError, "This request caused apiserver to panic. Look in the logs for details.")
}

impl ApiServer {
    /// Runs a request and never fails: limits its time, survives its panic, counts it, and completes its headers.
    pub(crate) async fn handle(self: &Arc<Self>, parts: Parts, body: RequestBody, sender: Sender<'_>) -> Response<Body> {
        if let Some(mut response) = self.serving.preflight(&parts.method, &parts.headers) {
            self.serving.share(&parts.headers, response.headers_mut());
            return response;
        }
        if !well_escaped(parts.uri.path()) {
            let mut refused = answer::whole(answer::PLAIN, "400 Bad Request");
            *refused.status_mut() = http::StatusCode::BAD_REQUEST;
            return refused;
        }
        let started = Instant::now();
        let query = Query::parse(parts.uri.query());
        let info = RequestInfo::of(&parts.method, parts.uri.path(), &query);
        let headers = parts.headers.clone();
        let head_only = parts.method == http::Method::HEAD;
        let readable = pretty::wanted(&query, &headers);
        let outcome = Arc::new(Mutex::new(Outcome::default()));
        let limit = self.time_limit(&info, &query);
        let dry_run = query.get("dryRun") == "All";
        let known = !info.resource_request || self.registry.table().get(&info.group, &info.version, &info.resource).is_some();
        let active = info.long_running().then(|| self.metrics.begin(&info, known));
        let trail = Trail::new(self.audit.as_ref(), &headers, active);
        let come = Come { parts, info: info.clone(), query, outcome: outcome.clone(), trail: trail.clone() };
        // Boxed: whatever moves the future of a request, hyper and the runtime do three times, would move all of this with it.
        let run = Box::pin(AssertUnwindSafe(self.run(come, body, sender)).catch_unwind());
        let finished = match limit {
            Ok(Some(limit)) => tokio::time::timeout(limit, run).await.unwrap_or_else(|_| Ok(Err(timed_out(limit)))),
            Ok(None) => run.await,
            Err(status) => Ok(Err(status)),
        };
        let mut response = match finished {
            Ok(Ok(response)) => response,
            Ok(Err(status)) => {
                trail.failed(&status);
                pipeline::failure(&status, &headers, readable)
            }
            Err(_) => {
                tracing::error!(path = info.path, verb = info.verb, "a request panicked");
                trail.panicked(&panicked()).await;
                pipeline::failure(&panicked(), &headers, readable)
            }
        };
        let code = response.status().as_u16();
        let apply = headers.get(http::header::CONTENT_TYPE).is_some_and(|media| media.as_bytes().starts_with(b"application/apply-patch"));
        let (bytes, took) = (response.body().uncompressed_len(), started.elapsed());
        self.metrics.observe(&Answered { info: &info, known, apply, dry_run, code, bytes, took });
        tracing::debug!(verb = info.verb, path = info.path, code, took = ?started.elapsed(), "answered");
        if head_only {
            *response.body_mut() = Body::Empty;
        }
        self.complete(&mut response, trail.id().or(headers.get(&AUDIT_ID)), &outcome.lock());
        self.serving.secure(response.headers_mut());
        self.serving.share(&headers, response.headers_mut());
        trail.answered(response, info.long_running(), &outcome).await
    }

    /// How long the request may take. A client may ask for less than the server allows.
    fn time_limit(&self, info: &RequestInfo, query: &Query) -> Result<Option<Duration>, Status> {
        if info.long_running() {
            return Ok(None);
        }
        let Some(asked) = query.find("timeout").filter(|t| !t.is_empty()) else { return Ok(Some(self.request_timeout)) };
        let asked = read_duration(asked.strip_prefix('+').unwrap_or(asked));
        let asked = asked.map_err(|why| Status::bad_request(format!("invalid timeout specified in the request URL - {why}")))?;
        Ok(Some(if asked.is_zero() { self.request_timeout } else { asked.min(self.request_timeout) }))
    }

    fn complete(&self, response: &mut Response<Body>, id: Option<&HeaderValue>, outcome: &Outcome) {
        let headers = response.headers_mut();
        let id = id.cloned().or_else(|| HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).ok());
        if let Some(id) = id {
            headers.insert(AUDIT_ID, id);
        }
        if !headers.contains_key(http::header::CACHE_CONTROL) {
            headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        }
        if let Some(schema) = &outcome.flow {
            headers.insert(FLOW_SCHEMA, schema.uid.clone());
            headers.insert(PRIORITY_LEVEL, schema.level_uid());
        }
        for (name, value) in outcome.warnings.iter().filter_map(|text| pipeline::warning_header(text)) {
            headers.append(name, value);
        }
    }
}
