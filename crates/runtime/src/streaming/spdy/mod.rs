//! SPDY/3.1, the server's side of a connection: streams that the client opens, data both ways, and an end for each way.
//!
//! As much of the protocol as Kubernetes clients use. Flow-control windows are not kept: those clients never send or await window updates.
//! Instead a stream whose reader is slow holds up the connection, which holds up its sender.

pub mod frame;
pub mod headers;

use std::collections::HashMap;
use std::io::{Error, Result};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use frame::Frame;
use headers::Headers;

/// Frames that a stream holds for its reader.
const STREAM_QUEUE: usize = 64;

/// Frames that wait to be written.
const WRITE_QUEUE: usize = 64;

/// The status of a reset that refuses a stream.
const REFUSED_STREAM: u32 = 3;

/// A stream that the client has opened. Nothing is sent on it before [`Connection::accept`] has been answered with it.
#[derive(Debug)]
pub struct Stream {
    /// Its headers.
    pub headers: Headers,
    /// From the client; ends when the client sends no more.
    pub incoming: mpsc::Receiver<Bytes>,
    /// To the client.
    pub outgoing: Outgoing,
}

/// The way to the client of one stream.
#[derive(Debug)]
pub struct Outgoing {
    stream: u32,
    frames: mpsc::Sender<Frame>,
}

impl Outgoing {
    /// Sends data; an error means that the connection is gone.
    pub async fn send(&self, data: Bytes) -> Result<()> {
        self.frame(Frame::Data { stream: self.stream, fin: false, data }).await
    }

    /// Nothing more will be sent.
    pub async fn finish(self) -> Result<()> {
        self.frame(Frame::Data { stream: self.stream, fin: true, data: Bytes::new() }).await
    }

    /// Breaks the stream off.
    pub async fn refuse(self) -> Result<()> {
        self.frame(Frame::Reset { stream: self.stream, status: REFUSED_STREAM }).await
    }

    async fn frame(&self, frame: Frame) -> Result<()> {
        self.frames.send(frame).await.map_err(|_| Error::from(std::io::ErrorKind::BrokenPipe))
    }
}

/// A connection, served by two tasks that end with it.
#[derive(Debug)]
pub struct Connection {
    opened: mpsc::Receiver<Stream>,
    frames: Option<mpsc::Sender<Frame>>,
    writer: tokio::task::JoinHandle<()>,
    reader: tokio::task::JoinHandle<()>,
}

impl Connection {
    /// Takes over an upgraded connection.
    pub fn new(io: impl AsyncRead + AsyncWrite + Send + 'static) -> Result<Self> {
        let (read, write) = tokio::io::split(io);
        let (opened_sender, opened) = mpsc::channel(16);
        let (frames, frames_receiver) = mpsc::channel(WRITE_QUEUE);
        let encoder = headers::Encoder::new()?;
        let writer = tokio::spawn(async move {
            if let Err(error) = write_frames(write, frames_receiver, encoder).await {
                tracing::debug!("a SPDY connection has ended: {error}");
            }
        });
        let sender = frames.clone();
        let reader = tokio::spawn(async move {
            let read =
                Reader { io: read, streams: HashMap::new(), opened: opened_sender, frames: sender, decoder: headers::Decoder::new() };
            if let Err(error) = read.run().await {
                tracing::debug!("a SPDY connection has ended: {error}");
            }
        });
        Ok(Self { opened, frames: Some(frames), writer, reader })
    }

    /// The next stream that the client opens; none when the connection has ended.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.opened.recv().await
    }

    /// Writes what is queued and ends the connection.
    pub async fn close(mut self) {
        self.reader.abort();
        let _ = (&mut self.reader).await;
        self.frames = None;
        // The writer ends when every stream has let go of its way out, which the caller has seen to.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), &mut self.writer).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
        // The writer ends by itself once nobody can queue anything any more.
    }
}

async fn write_frames(mut io: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Frame>, mut encoder: headers::Encoder) -> Result<()> {
    let mut buffer = BytesMut::new();
    while let Some(frame) = frames.recv().await {
        let mut next = Some(frame);
        while let Some(frame) = next {
            match frame {
                // An empty block here means "no headers"; it is compressed in the order of sending, as the one zlib stream demands.
                Frame::SynReply { stream, fin, .. } => {
                    let block = encoder.encode(&[])?.into();
                    frame::encode(&Frame::SynReply { stream, fin, block }, &mut buffer);
                }
                other => frame::encode(&other, &mut buffer),
            }
            next = if buffer.len() < 64 * 1024 { frames.try_recv().ok() } else { None };
        }
        io.write_all(&buffer).await?;
        io.flush().await?;
        buffer.clear();
    }
    io.shutdown().await
}

struct Reader<R> {
    io: R,
    streams: HashMap<u32, mpsc::Sender<Bytes>>,
    opened: mpsc::Sender<Stream>,
    frames: mpsc::Sender<Frame>,
    decoder: headers::Decoder,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    async fn run(mut self) -> Result<()> {
        let mut buffer = BytesMut::with_capacity(16 * 1024);
        loop {
            while let Some(frame) = frame::decode(&mut buffer)? {
                self.handle(frame).await?;
            }
            if self.io.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn handle(&mut self, frame: Frame) -> Result<()> {
        match frame {
            Frame::SynStream { stream, fin, block } => self.open(stream, fin, &block).await,
            Frame::Data { stream, fin, data } => {
                if let Some(sender) = self.streams.get(&stream)
                    && !data.is_empty()
                {
                    // Whoever does not read any more does not want it.
                    let _ = sender.send(data).await;
                }
                if fin {
                    self.streams.remove(&stream);
                }
                Ok(())
            }
            Frame::Reset { stream, .. } => {
                self.streams.remove(&stream);
                Ok(())
            }
            Frame::Headers { stream, fin, block } | Frame::SynReply { stream, fin, block } => {
                // Only to keep the one zlib stream in step.
                self.decoder.decode(&block)?;
                if fin {
                    self.streams.remove(&stream);
                }
                Ok(())
            }
            // Ours are even, and we send none.
            Frame::Ping(number) if number % 2 == 1 => self.answer(Frame::Ping(number)).await,
            Frame::Ping(_) | Frame::GoAway { .. } | Frame::Other(_) => Ok(()),
        }
    }

    async fn open(&mut self, stream: u32, fin: bool, block: &[u8]) -> Result<()> {
        let headers = self.decoder.decode(block)?;
        if self.streams.contains_key(&stream) {
            return Err(Error::other(format!("stream {stream} is opened twice")));
        }
        let (sender, incoming) = mpsc::channel(STREAM_QUEUE);
        if !fin {
            self.streams.insert(stream, sender);
        }
        self.answer(Frame::SynReply { stream, fin: false, block: Bytes::new() }).await?;
        let outgoing = Outgoing { stream, frames: self.frames.clone() };
        let opened = Stream { headers, incoming, outgoing };
        self.opened.send(opened).await.map_err(|_| Error::from(std::io::ErrorKind::BrokenPipe))
    }

    async fn answer(&mut self, frame: Frame) -> Result<()> {
        self.frames.send(frame).await.map_err(|_| Error::from(std::io::ErrorKind::BrokenPipe))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that speaks frames.
    struct Client {
        io: tokio::io::DuplexStream,
        buffer: BytesMut,
        encoder: headers::Encoder,
    }

    impl Client {
        async fn send(&mut self, frame: Frame) {
            let mut wire = BytesMut::new();
            frame::encode(&frame, &mut wire);
            self.io.write_all(&wire).await.expect("the server reads");
        }

        async fn open(&mut self, stream: u32, kind: &str) {
            let block = self.encoder.encode(&[("streamtype".to_owned(), kind.to_owned())]).expect("encodes").into();
            self.send(Frame::SynStream { stream, fin: false, block }).await;
        }

        async fn next(&mut self) -> Option<Frame> {
            loop {
                if let Some(frame) = frame::decode(&mut self.buffer).expect("SPDY") {
                    return Some(frame);
                }
                if self.io.read_buf(&mut self.buffer).await.expect("reads") == 0 {
                    return None;
                }
            }
        }
    }

    #[tokio::test]
    async fn streams_carry_data_both_ways_and_end_each_way() {
        let (client, server) = tokio::io::duplex(1024);
        let mut client = Client { io: client, buffer: BytesMut::new(), encoder: headers::Encoder::new().expect("a stream") };
        let mut connection = Connection::new(server).expect("a connection");
        client.open(1, "stdin").await;
        client.open(3, "stdout").await;
        let mut stdin = connection.accept().await.expect("opened");
        let stdout = connection.accept().await.expect("opened");
        assert_eq!(headers::get(&stdin.headers, "streamtype"), Some("stdin"));
        assert_eq!(headers::get(&stdout.headers, "streamtype"), Some("stdout"));
        for stream in [1, 3] {
            assert!(matches!(client.next().await, Some(Frame::SynReply { stream: known, fin: false, .. }) if known == stream));
        }
        client.send(Frame::Data { stream: 1, fin: false, data: Bytes::from_static(b"in") }).await;
        client.send(Frame::Data { stream: 1, fin: true, data: Bytes::new() }).await;
        client.send(Frame::Ping(1)).await;
        assert_eq!(stdin.incoming.recv().await, Some(Bytes::from_static(b"in")));
        assert_eq!(stdin.incoming.recv().await, None);
        assert_eq!(client.next().await, Some(Frame::Ping(1)));
        stdout.outgoing.send(Bytes::from_static(b"out")).await.expect("sent");
        stdout.outgoing.finish().await.expect("sent");
        drop(stdin);
        connection.close().await;
        assert_eq!(client.next().await, Some(Frame::Data { stream: 3, fin: false, data: Bytes::from_static(b"out") }));
        assert_eq!(client.next().await, Some(Frame::Data { stream: 3, fin: true, data: Bytes::new() }));
        assert_eq!(client.next().await, None);
    }

    #[tokio::test]
    async fn a_client_that_leaves_ends_the_streams() {
        let (client, server) = tokio::io::duplex(1024);
        let mut client = Client { io: client, buffer: BytesMut::new(), encoder: headers::Encoder::new().expect("a stream") };
        let mut connection = Connection::new(server).expect("a connection");
        client.open(1, "stdin").await;
        let mut stdin = connection.accept().await.expect("opened");
        drop(client);
        assert_eq!(stdin.incoming.recv().await, None);
        assert!(connection.accept().await.is_none());
    }
}
