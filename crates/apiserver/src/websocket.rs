//! Streams to browsers: a watch, or the log of a container, in the messages of a websocket instead of the body of an answer.
//!
//! What a client sends is not read, but for the end of the connection. A client that does not read holds up its own stream and
//! nothing else. Source: apiserver `endpoints/handlers/watch.go`, apimachinery `httpstream/wsstream`.

use crate::output::{Body, BrokenOff, Format};
use crate::pipeline::Request;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ferrokube_api::Status;
use futures_util::stream::BoxStream;
use futures_util::{SinkExt, StreamExt, stream};
use http::header::{
    CONNECTION, HeaderMap, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role};

/// How long a client may take to say goodbye.
const FAREWELL: Duration = Duration::from_secs(10);
/// The protocol entry that carries a token; never answered with.
const TOKEN: &str = "base64url.bearer.authorization.k8s.io.";
const BASE64: &str = "base64.binary.k8s.io";
const BINARY: &str = "binary.k8s.io";

fn words<'h>(headers: &'h HeaderMap, name: &http::HeaderName) -> impl Iterator<Item = &'h str> {
    headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim)
}

/// Whether the client asks for a websocket.
pub fn wanted(headers: &HeaderMap) -> bool {
    let has = |name, word: &str| words(headers, &name).any(|w| w.eq_ignore_ascii_case(word));
    has(CONNECTION, "upgrade") && has(UPGRADE, "websocket")
}

/// The protocols a client offers, its token aside.
fn offered(headers: &HeaderMap) -> Vec<&str> {
    words(headers, &SEC_WEBSOCKET_PROTOCOL).filter(|p| !p.is_empty() && !p.starts_with(TOKEN)).collect()
}

/// Why a watch is not opened, if so.
fn refusal(headers: &HeaderMap) -> Option<StatusCode> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let origin = text(ORIGIN);
    // What Go's `url.ParseRequestURI` takes: something with a scheme, or a path.
    let scheme = |end: usize| end > 0 && origin[..end].bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let named = origin.starts_with('/') || origin.find(':').is_some_and(scheme);
    match named {
        _ if text(SEC_WEBSOCKET_VERSION) != "13" => Some(StatusCode::BAD_REQUEST),
        false => Some(StatusCode::FORBIDDEN),
        true => (offered(headers).len() > 1).then_some(StatusCode::BAD_REQUEST),
    }
}

/// The events of a block of a watch, a message each.
fn events(format: Format, block: &Bytes) -> Vec<Message> {
    if format != Format::Protobuf {
        let text = String::from_utf8_lossy(block);
        return text.lines().map(|line| Message::text(format!("{line}\n"))).collect();
    }
    let (mut out, mut rest) = (Vec::new(), block.clone());
    while let Some((length, _)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let _ = rest.split_to(4);
        out.push(Message::Binary(rest.split_to(length.min(rest.len()))));
    }
    out
}

/// What is sent, until it ends or breaks off.
type Messages = BoxStream<'static, Result<Message, BrokenOff>>;

fn messages(body: Body, make: impl Fn(&Bytes) -> Vec<Message> + Send + 'static) -> Messages {
    let blocks = match body {
        Body::Stream(blocks) => blocks.map(Ok).boxed(),
        Body::Passage(blocks) => blocks,
        Body::Empty => stream::empty().boxed(),
        whole => stream::once(whole.collect()).boxed(),
    };
    let made = move |block: Result<Bytes, BrokenOff>| match block {
        Ok(block) if block.is_empty() => Vec::new(),
        Ok(block) => make(&block).into_iter().map(Ok).collect(),
        Err(broken) => vec![Err(broken)],
    };
    blocks.flat_map(move |block| stream::iter(made(block))).boxed()
}

impl Request<'_> {
    /// A watch's body as a websocket. Upstream's is the plain handler of `golang.org/x/net/websocket`: without an origin it refuses, whatever
    /// the origin is it does not mind, and it chooses between no protocols. Logs come through another handler, that asks for no origin.
    pub fn watch_in_websocket(&self, body: Body) -> Result<Response<Body>, Status> {
        if let Some(code) = refusal(&self.headers) {
            let mut refused = Response::new(Body::Empty);
            *refused.status_mut() = code;
            return Ok(refused);
        }
        let protocol = offered(&self.headers).first().map(|p| (*p).to_owned());
        let format = self.accept.format;
        self.to_websocket(protocol, messages(body, move |block| events(format, block)))
    }

    /// The body of an answer as a websocket, when the client asked for one: bytes, or base64 as text. An empty message comes first.
    pub fn bytes_in_websocket(&self, response: Response<Body>) -> Result<Response<Body>, Status> {
        if !wanted(&self.headers) {
            return Ok(response);
        }
        let offered = offered(&self.headers);
        let protocol = offered.iter().copied().find(|p| [BINARY, BASE64].contains(p)).map(str::to_owned);
        if protocol.is_none() && !offered.is_empty() {
            return Err(Status::bad_request(format!(
                "requested protocol(s) are not supported: {offered:?}; supports {:?}",
                [BINARY, BASE64]
            )));
        }
        let text = protocol.as_deref() == Some(BASE64);
        let one = move |bytes: &Bytes| if text { Message::text(STANDARD.encode(bytes)) } else { Message::Binary(bytes.clone()) };
        let first = stream::iter([Ok(one(&Bytes::new()))]);
        self.to_websocket(protocol, first.chain(messages(response.into_body(), move |block| vec![one(block)])).boxed())
    }

    fn to_websocket(&self, protocol: Option<String>, messages: Messages) -> Result<Response<Body>, Status> {
        let key = self.headers.get(SEC_WEBSOCKET_KEY).ok_or_else(|| Status::bad_request("missing Sec-WebSocket-Key"))?;
        let client = self.upgrade().ok_or_else(|| Status::bad_request("Upgrade request required"))?;
        let mut answer = Response::new(Body::Empty);
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()).parse().map_err(Status::internal)?);
        if let Some(protocol) = protocol.and_then(|p| HeaderValue::from_str(&p).ok()) {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        let (stopping, trail) = (self.server.stopping.clone(), self.trail.clone());
        tokio::spawn(async move {
            // For audit the request is complete when its stream ends.
            let _trail = trail;
            tokio::select! {
                () = send(client, messages) => {}
                () = stopping.cancelled() => {}
            }
        });
        Ok(answer)
    }
}

async fn send(client: OnUpgrade, mut messages: Messages) {
    let io = match client.await {
        Ok(io) => TokioIo::new(io),
        Err(error) => return tracing::debug!(%error, "an upgrade to a websocket failed"),
    };
    let (mut sink, mut source) = WebSocketStream::from_raw_socket(io, Role::Server, None).await.split();
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(Ok(message)) => if sink.send(message).await.is_err() { return },
                // No goodbye: the client must not take this for the end.
                Some(Err(_)) => return,
                None => break,
            },
            // Pings are answered by the reading itself.
            come = source.next() => if !matches!(come, Some(Ok(ref message)) if !message.is_close()) { return },
        }
    }
    let bye = Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }));
    if sink.send(bye).await.is_err() {
        return;
    }
    // The client answers and ends the connection, or has had its time.
    let answered = async { while let Some(Ok(_)) = source.next().await {} };
    let _ = tokio::time::timeout(FAREWELL, answered).await;
    if let Ok(mut socket) = sink.reunite(source) {
        let _ = socket.get_mut().shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_events_becomes_a_message_each() {
        let json = events(Format::Json, &Bytes::from_static(b"{\"type\":\"ADDED\"}\n{\"type\":\"DELETED\"}\n"));
        assert_eq!(json, [Message::text("{\"type\":\"ADDED\"}\n"), Message::text("{\"type\":\"DELETED\"}\n")]);
        let mut block = ferrokube_api::protobuf::watch_frame("ADDED", b"abc").to_vec();
        let one = block.len();
        block.extend(ferrokube_api::protobuf::watch_frame("DELETED", b""));
        let binary = events(Format::Protobuf, &block.clone().into());
        assert_eq!((binary.len(), binary[0].clone().into_data().len()), (2, one - 4));
    }

    #[test]
    fn a_watch_wants_to_know_an_origin_and_takes_any() {
        let answer = |origin: Option<&str>, protocols: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(SEC_WEBSOCKET_VERSION, "13".parse().expect("a header"));
            headers.insert(SEC_WEBSOCKET_PROTOCOL, protocols.parse().expect("a header"));
            if let Some(origin) = origin {
                headers.insert(ORIGIN, origin.parse().expect("a header"));
            }
            refusal(&headers)
        };
        assert_eq!(answer(Some("https://elsewhere.example"), "a"), None);
        assert_eq!([answer(None, ""), answer(Some("null"), ""), answer(Some(":x"), "")], [Some(StatusCode::FORBIDDEN); 3]);
        assert_eq!(answer(Some("file://"), "a, b"), Some(StatusCode::BAD_REQUEST));
        assert_eq!(refusal(&HeaderMap::new()), Some(StatusCode::BAD_REQUEST), "another version of the protocol");
    }

    #[test]
    fn a_token_is_no_protocol_to_answer_with() {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, "keep-alive, Upgrade".parse().expect("a header"));
        headers.insert(UPGRADE, "websocket".parse().expect("a header"));
        headers.insert(SEC_WEBSOCKET_PROTOCOL, "base64url.bearer.authorization.k8s.io.abc, binary.k8s.io".parse().expect("a header"));
        assert!(wanted(&headers));
        assert_eq!(offered(&headers), ["binary.k8s.io"]);
    }
}
