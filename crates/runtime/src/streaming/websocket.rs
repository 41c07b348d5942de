//! Channels over a websocket: the first byte of a message says which of a session's streams it belongs to.

use std::collections::HashMap;
use std::io::{Error, ErrorKind, Result};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

/// Messages that wait, each way and channel.
const QUEUE: usize = 64;

/// The channel by which v5 says that another one has ended.
const CLOSE: u8 = 255;

/// How a session's channels are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// Text messages with a digit and base64 instead of a byte and bytes.
    pub base64: bool,
    /// Channels can be ended one by one.
    pub close: bool,
}

/// One channel's way to the client.
#[derive(Debug, Clone)]
pub struct Outgoing {
    channel: u8,
    messages: mpsc::Sender<(u8, Bytes)>,
}

impl Outgoing {
    /// Sends a message; an error means that the connection is gone.
    pub async fn send(&self, data: Bytes) -> Result<()> {
        self.messages.send((self.channel, data)).await.map_err(|_| ErrorKind::BrokenPipe.into())
    }
}

/// A session over a websocket.
pub struct Session {
    messages: mpsc::Sender<(u8, Bytes)>,
    writer: tokio::task::JoinHandle<()>,
    reader: tokio::task::JoinHandle<()>,
}

impl Session {
    /// Takes over an upgraded connection. `listened` are the channels that the client may send on, with where that goes.
    pub async fn new<S>(io: S, dialect: Dialect, listened: HashMap<u8, mpsc::Sender<Bytes>>) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sink, source) = WebSocketStream::from_raw_socket(io, Role::Server, None).await.split();
        let (messages, queue) = mpsc::channel(QUEUE);
        let (control, pongs) = mpsc::channel(4);
        let writer = tokio::spawn(async move {
            if let Err(error) = write(sink, queue, pongs, dialect).await {
                tracing::debug!("a websocket has ended: {error}");
            }
        });
        let reader = tokio::spawn(async move {
            if let Err(error) = read(source, listened, control, dialect).await {
                tracing::debug!("a websocket has ended: {error}");
            }
        });
        Self { messages, writer, reader }
    }

    /// A channel's way to the client.
    pub fn channel(&self, channel: u8) -> Outgoing {
        Outgoing { channel, messages: self.messages.clone() }
    }

    /// Writes what is queued, then the close message. Every [`Outgoing`] must be gone.
    pub async fn close(self) {
        drop(self.messages);
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), self.writer).await;
        self.reader.abort();
    }
}

async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    mut sink: SplitSink<WebSocketStream<S>, Message>,
    mut queue: mpsc::Receiver<(u8, Bytes)>,
    mut pongs: mpsc::Receiver<Message>,
    dialect: Dialect,
) -> Result<()> {
    let mut listening = true;
    loop {
        let message = tokio::select! {
            item = queue.recv() => match item {
                Some((channel, data)) => message(channel, &data, dialect),
                None => break,
            },
            pong = pongs.recv(), if listening => match pong {
                Some(pong) => pong,
                None => { listening = false; continue }
            },
        };
        sink.send(message).await.map_err(Error::other)?;
    }
    sink.send(goodbye()).await.map_err(Error::other)?;
    sink.close().await.map_err(Error::other)
}

fn message(channel: u8, data: &[u8], dialect: Dialect) -> Message {
    if dialect.base64 {
        return Message::text(format!("{}{}", char::from(b'0' + channel), STANDARD.encode(data)));
    }
    let mut framed = BytesMut::with_capacity(data.len() + 1);
    framed.extend_from_slice(&[channel]);
    framed.extend_from_slice(data);
    Message::Binary(framed.freeze())
}

async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    mut source: SplitStream<WebSocketStream<S>>,
    mut listened: HashMap<u8, mpsc::Sender<Bytes>>,
    control: mpsc::Sender<Message>,
    dialect: Dialect,
) -> Result<()> {
    while let Some(message) = source.next().await {
        let (channel, data) = match message.map_err(Error::other)? {
            Message::Ping(data) => {
                let _ = control.send(Message::Pong(data)).await;
                continue;
            }
            Message::Close(_) => break,
            Message::Binary(data) if !data.is_empty() => (data[0], data.slice(1..)),
            Message::Text(text) if dialect.base64 && !text.is_empty() => {
                let (digit, rest) = text.as_bytes().split_at(1);
                (digit[0].wrapping_sub(b'0'), STANDARD.decode(rest).map_err(Error::other)?.into())
            }
            Message::Text(text) if !text.is_empty() => (text.as_bytes()[0], Bytes::copy_from_slice(&text.as_bytes()[1..])),
            _ => continue,
        };
        match (channel, data.first()) {
            (CLOSE, Some(ended)) if dialect.close => {
                listened.remove(ended);
            }
            _ if data.is_empty() => {}
            _ => {
                if let Some(sender) = listened.get(&channel) {
                    // Whoever does not read any more does not want it.
                    let _ = sender.send(data).await;
                }
            }
        }
    }
    Ok(())
}

/// A plain byte stream over a websocket: what SPDY is tunnelled through.
pub async fn tunnel<S>(io: S) -> tokio::io::DuplexStream
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sink, mut source) = WebSocketStream::from_raw_socket(io, Role::Server, None).await.split();
    let (ours, theirs) = tokio::io::duplex(256 * 1024);
    let (mut read, mut write) = tokio::io::split(ours);
    tokio::spawn(async move {
        let mut chunk = vec![0; 32 * 1024];
        while let Ok(length @ 1..) = read.read(&mut chunk).await {
            if sink.send(Message::Binary(Bytes::copy_from_slice(&chunk[..length]))).await.is_err() {
                return;
            }
        }
        let _ = sink.send(goodbye()).await;
        let _ = sink.close().await;
    });
    tokio::spawn(async move {
        while let Some(Ok(message)) = source.next().await {
            match message {
                Message::Binary(data) if write.write_all(&data).await.is_err() => return,
                Message::Close(_) => break,
                _ => {}
            }
        }
        let _ = write.shutdown().await;
    });
    theirs
}

/// An end that clients take for one: kubectl reports a close without a status as an error.
fn goodbye() -> Message {
    let code = tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode::Normal;
    Message::Close(Some(tokio_tungstenite::tungstenite::protocol::CloseFrame { code, reason: "".into() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pair(dialect: Dialect) -> (WebSocketStream<tokio::io::DuplexStream>, Session, mpsc::Receiver<Bytes>) {
        let (client, server) = tokio::io::duplex(4096);
        let (sender, stdin) = mpsc::channel(4);
        let session = Session::new(server, dialect, [(0, sender)].into()).await;
        (WebSocketStream::from_raw_socket(client, Role::Client, None).await, session, stdin)
    }

    #[tokio::test]
    async fn channels_are_told_apart_and_can_be_ended() {
        let (mut client, session, mut stdin) = pair(Dialect { base64: false, close: true }).await;
        client.send(Message::Binary(Bytes::from_static(b"\x00hello"))).await.expect("sent");
        client.send(Message::Binary(Bytes::from_static(b"\x07nobody"))).await.expect("sent");
        client.send(Message::Binary(Bytes::from_static(b"\xff\x00"))).await.expect("sent");
        assert_eq!(stdin.recv().await, Some(Bytes::from_static(b"hello")));
        assert_eq!(stdin.recv().await, None);
        session.channel(1).send(Bytes::from_static(b"out")).await.expect("sent");
        session.close().await;
        assert_eq!(client.next().await.expect("a message").expect("fine"), Message::Binary(Bytes::from_static(b"\x01out")));
        assert!(matches!(client.next().await, Some(Ok(Message::Close(_)))));
    }

    #[tokio::test]
    async fn the_base64_dialect_is_text() {
        let (mut client, session, mut stdin) = pair(Dialect { base64: true, close: false }).await;
        client.send(Message::text("0aGk=")).await.expect("sent");
        assert_eq!(stdin.recv().await, Some(Bytes::from_static(b"hi")));
        session.channel(2).send(Bytes::from_static(b"no")).await.expect("sent");
        assert_eq!(client.next().await.expect("a message").expect("fine"), Message::text("2bm8="));
        session.close().await;
    }
}
