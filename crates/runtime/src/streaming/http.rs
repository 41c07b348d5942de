//! The HTTP side: picks up a request by its token, agrees on a protocol, upgrades, and hands the connection on.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::remote::{self, Outgoing, Streams};
use super::{Streaming, Target, forward, spdy, websocket};
use crate::engine::Engine;

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// A client that has upgraded opens its streams within this time.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);

/// What clients of exec and attach may speak over SPDY, best first.
const REMOTE_SPDY: [&str; 5] = ["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

/// And over a websocket.
const REMOTE_WEBSOCKET: [&str; 5] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"];

/// What clients of port-forward may speak over SPDY.
const FORWARD_SPDY: [&str; 1] = ["portforward.k8s.io"];

/// And over a websocket; the first one is SPDY inside of it.
const FORWARD_WEBSOCKET: [&str; 3] = ["SPDY/3.1+portforward.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io"];

/// Serves until stopped.
pub async fn serve(listener: TcpListener, engine: Arc<Engine>, streaming: Streaming, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((socket, _)) = accepted.inspect_err(|error| tracing::warn!("streaming server: {error}")) else {
            // Out of descriptors, most likely: let somebody close one.
            tokio::task::yield_now().await;
            continue;
        };
        let _ = socket.set_nodelay(true);
        let (engine, streaming, stop) = (engine.clone(), streaming.clone(), stop.clone());
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let response = handle(request, &engine, &streaming);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(30))
                .serve_connection(TokioIo::new(socket), answer)
                .with_upgrades();
            tokio::select! {
                result = connection => {
                    if let Err(error) = result {
                        tracing::debug!("streaming connection: {error}");
                    }
                }
                () = stop.cancelled() => {}
            }
        });
    }
}

type Answer = Response<Full<Bytes>>;

fn refuse(code: StatusCode, message: impl Into<String>) -> Answer {
    let mut response = Response::new(Full::from(message.into() + "\n"));
    *response.status_mut() = code;
    response
}

/// What a connection becomes.
enum Transport {
    Spdy(&'static str),
    Websocket(&'static str),
}

fn handle(mut request: Request<Incoming>, engine: &Arc<Engine>, streaming: &Streaming) -> Answer {
    let token = request.uri().path().trim_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
    let headers = request.headers();
    // The kind first: a request that cannot be served must not use up the token.
    let remote = !request.uri().path().starts_with("/portforward/");
    let (transport, response) = match agree(headers, remote) {
        Ok(agreed) => agreed,
        Err(refused) => return *refused,
    };
    let Some(target) = streaming.tokens.take(&token) else {
        return refuse(StatusCode::NOT_FOUND, "unknown or expired streaming token");
    };
    if remote == matches!(target, Target::PortForward { .. }) {
        return refuse(StatusCode::NOT_FOUND, "unknown or expired streaming token");
    }
    let (upgrade, engine) = (hyper::upgrade::on(&mut request), engine.clone());
    tokio::spawn(async move {
        if let Err(error) = run(upgrade, transport, target, &engine).await {
            tracing::debug!("streaming session: {error}");
        }
    });
    response
}

/// Which protocol both sides speak, and the response that says so.
fn agree(headers: &HeaderMap, remote: bool) -> Result<(Transport, Answer), Box<Answer>> {
    let upgrade = headers.get(UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if upgrade.eq_ignore_ascii_case("SPDY/3.1") {
        let known: &[&'static str] = if remote { &REMOTE_SPDY } else { &FORWARD_SPDY };
        let protocol = choose(headers, &STREAM_PROTOCOL, known, remote.then_some("channel.k8s.io"))?;
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
        response.headers_mut().insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
        return Ok((Transport::Spdy(protocol), response));
    }
    if upgrade.eq_ignore_ascii_case("websocket") {
        let Some(key) = headers.get(SEC_WEBSOCKET_KEY) else {
            return Err(Box::new(refuse(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing")));
        };
        let known: &[&'static str] = if remote { &REMOTE_WEBSOCKET } else { &FORWARD_WEBSOCKET };
        let named = headers.contains_key(SEC_WEBSOCKET_PROTOCOL);
        let protocol = choose(headers, &SEC_WEBSOCKET_PROTOCOL, known, remote.then_some("channel.k8s.io"))?;
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::from_str(&accept) {
            response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        if named {
            response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        return Ok((Transport::Websocket(protocol), response));
    }
    Err(Box::new(refuse(StatusCode::BAD_REQUEST, "unable to upgrade: missing upgrade headers in request")))
}

/// The best of the client's protocols that we know. A client that names none speaks the oldest.
fn choose(
    headers: &HeaderMap,
    name: &HeaderName,
    known: &[&'static str],
    unnamed: Option<&'static str>,
) -> Result<&'static str, Box<Answer>> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let offered: Vec<&str> = values.flat_map(|value| value.split(',')).map(str::trim).filter(|name| !name.is_empty()).collect();
    if let (true, Some(unnamed)) = (offered.is_empty(), unnamed) {
        return Ok(unnamed);
    }
    known.iter().find(|name| offered.contains(name)).copied().ok_or_else(|| {
        let text = format!("unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {known:?}");
        Box::new(refuse(StatusCode::FORBIDDEN, text))
    })
}

async fn run(upgrade: OnUpgrade, transport: Transport, target: Target, engine: &Arc<Engine>) -> std::io::Result<()> {
    let io = TokioIo::new(upgrade.await.map_err(std::io::Error::other)?);
    match (transport, target) {
        (Transport::Spdy(_), Target::PortForward { sandbox, .. }) => {
            forward::over_spdy(engine, &sandbox, spdy::Connection::new(io)?).await;
        }
        (Transport::Websocket(protocol), Target::PortForward { sandbox, .. }) if protocol == FORWARD_WEBSOCKET[0] => {
            let connection = spdy::Connection::new(websocket::tunnel(io).await)?;
            forward::over_spdy(engine, &sandbox, connection).await;
        }
        (Transport::Websocket(protocol), Target::PortForward { sandbox, ports }) => {
            let (mut listened, mut incoming) = (HashMap::new(), Vec::new());
            for index in (0u8..=253).step_by(2).take(ports.len()) {
                let (sender, receiver) = mpsc::channel(64);
                listened.insert(index, sender);
                incoming.push(receiver);
            }
            let session = websocket::Session::new(io, dialect(protocol), listened).await;
            forward::over_websocket(engine, &sandbox, &ports, session, incoming).await;
        }
        (Transport::Spdy(protocol), target) => {
            let mut connection = spdy::Connection::new(io)?;
            let streams = tokio::time::timeout(STREAMS_TIMEOUT, collect(&mut connection, &target, protocol)).await;
            let streams = streams.map_err(|_| std::io::Error::other("timed out waiting for client to create streams"))??;
            serve_remote(engine, &target, streams).await;
            connection.close().await;
        }
        (Transport::Websocket(protocol), target) => {
            let (session, streams) = websocket_streams(io, &target, protocol).await;
            serve_remote(engine, &target, streams).await;
            session.close().await;
        }
    }
    Ok(())
}

async fn serve_remote(engine: &Arc<Engine>, target: &Target, streams: Streams) {
    match target {
        Target::Exec { target, .. } => remote::exec(engine, target, streams).await,
        Target::Attach(target) => remote::attach(engine, target, streams).await,
        Target::PortForward { .. } => {}
    }
}

/// Stdin, stdout, stderr, terminal: what a client of this target has.
fn wants(target: &Target) -> (bool, bool, bool, bool) {
    match target {
        Target::Exec { target, streams: (stdin, stdout, stderr) } => (*stdin, *stdout, *stderr && !target.tty, target.tty),
        Target::Attach(target) => (target.stdin, target.stdout, target.stderr && !target.tty, target.tty),
        Target::PortForward { .. } => (false, false, false, false),
    }
}

/// Waits for all streams of a SPDY client.
async fn collect(connection: &mut spdy::Connection, target: &Target, protocol: &str) -> std::io::Result<Streams> {
    let (stdin, stdout, stderr, tty) = wants(target);
    let sizes = tty && !matches!(protocol, "v2.channel.k8s.io" | "channel.k8s.io");
    let status = matches!(protocol, "v5.channel.k8s.io" | "v4.channel.k8s.io");
    let mut streams = Streams { stdin: None, stdout: None, stderr: None, resize: None, error: None, status };
    let missing = |streams: &Streams| {
        streams.error.is_none()
            || stdin != streams.stdin.is_some()
            || stdout != streams.stdout.is_some()
            || stderr != streams.stderr.is_some()
            || sizes != streams.resize.is_some()
    };
    while missing(&streams) {
        let stream = connection.accept().await.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        match spdy::headers::get(&stream.headers, "streamtype") {
            Some("error") => streams.error = Some(Outgoing::Spdy(stream.outgoing)),
            Some("stdin") if stdin => streams.stdin = Some(stream.incoming),
            Some("stdout") if stdout => streams.stdout = Some(Outgoing::Spdy(stream.outgoing)),
            Some("stderr") if stderr => streams.stderr = Some(Outgoing::Spdy(stream.outgoing)),
            Some("resize") if sizes => streams.resize = Some(stream.incoming),
            _ => stream.outgoing.refuse().await?,
        }
    }
    Ok(streams)
}

fn dialect(protocol: &str) -> websocket::Dialect {
    websocket::Dialect { base64: protocol.contains("base64"), close: protocol.starts_with("v5.") }
}

/// The streams of a websocket client are there at once; an empty message says so.
async fn websocket_streams(io: TokioIo<hyper::upgrade::Upgraded>, target: &Target, protocol: &str) -> (websocket::Session, Streams) {
    let (stdin, stdout, stderr, tty) = wants(target);
    let (stdin_sender, stdin_receiver) = mpsc::channel(64);
    let (size_sender, size_receiver) = mpsc::channel(4);
    let mut listened = HashMap::new();
    if stdin {
        listened.insert(0, stdin_sender);
    }
    if tty {
        listened.insert(4, size_sender);
    }
    let session = websocket::Session::new(io, dialect(protocol), listened).await;
    let channel = |wanted: bool, number: u8| wanted.then(|| Outgoing::Websocket(session.channel(number)));
    let streams = Streams {
        stdin: stdin.then_some(stdin_receiver),
        stdout: channel(stdout, 1),
        stderr: channel(stderr, 2),
        resize: tty.then_some(size_receiver),
        error: channel(true, 3),
        status: protocol.starts_with('v'),
    };
    let first = if stdout {
        1
    } else if stderr {
        2
    } else {
        3
    };
    // A client that is gone already is found out soon enough.
    let _ = session.channel(first).send(Bytes::new()).await;
    (session, streams)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_best_common_protocol_is_chosen() {
        let spdy = headers(&[
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
            ("x-stream-protocol-version", "v2.channel.k8s.io, channel.k8s.io"),
        ]);
        let (transport, response) = agree(&spdy, true).unwrap_or_else(|_| panic!("they agree"));
        assert!(matches!(transport, Transport::Spdy("v4.channel.k8s.io")));
        assert_eq!(response.headers()["x-stream-protocol-version"], "v4.channel.k8s.io");
        let websocket = headers(&[
            ("upgrade", "websocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "v5.channel.k8s.io"),
        ]);
        let (transport, response) = agree(&websocket, true).unwrap_or_else(|_| panic!("they agree"));
        assert!(matches!(transport, Transport::Websocket("v5.channel.k8s.io")));
        assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn without_an_upgrade_or_a_common_protocol_nothing_is_served() {
        let code = |pairs: &[(&'static str, &'static str)], remote| match agree(&headers(pairs), remote) {
            Ok(_) => StatusCode::OK,
            Err(response) => response.status(),
        };
        assert_eq!(code(&[], true), StatusCode::BAD_REQUEST);
        assert_eq!(code(&[("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "v9.channel.k8s.io")], true), StatusCode::FORBIDDEN);
        assert_eq!(code(&[("upgrade", "SPDY/3.1")], true), StatusCode::OK);
        assert_eq!(code(&[("upgrade", "SPDY/3.1")], false), StatusCode::FORBIDDEN);
        assert_eq!(code(&[("upgrade", "websocket")], true), StatusCode::BAD_REQUEST);
    }
}
