//! One write per turn of a connection.
//!
//! HTTP/2 writes and flushes frame by frame. On a connection that carries fifty watches, an event would cost fifty TLS
//! records and fifty system calls, most of what a delivery costs. So frames are gathered while the connection is polled
//! and leave together at the end of the turn; and a connection that is woken lets what else is ready to run on this
//! thread go first, since that may be its other streams with the same event. Nothing is ever held back longer than the
//! turn: this must never wait for more data.

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// So much is gathered before it leaves in the middle of a turn. A few TLS records.
const GATHER: usize = 64 * 1024;
/// A buffer that grew beyond this is given back when it is empty: thousands of idle connections must cost nothing.
const KEEP: usize = 4 * 1024;

struct Inner<Io> {
    io: Io,
    gathered: BytesMut,
    /// The connection left HTTP (an upgrade): whoever has it now flushes by itself.
    direct: bool,
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Inner<Io> {
    /// Writes what is gathered.
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.gathered))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gathered.advance(written);
        }
        if self.gathered.capacity() > KEEP {
            self.gathered = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.drain(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }
}

/// A connection whose writes wait for the end of the turn.
pub struct Gathered<Io>(Arc<Mutex<Inner<Io>>>);

/// The other end of a [`Gathered`]: ends its turns.
pub struct Turns<Io>(Arc<Mutex<Inner<Io>>>);

/// Both ends of a connection.
pub fn gather<Io>(io: Io) -> (Gathered<Io>, Turns<Io>) {
    let inner = Arc::new(Mutex::new(Inner { io, gathered: BytesMut::new(), direct: false }));
    (Gathered(inner.clone()), Turns(inner))
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Turns<Io> {
    /// Runs what writes to the connection, turn by turn, and has everything written when that ends. `others` says whether other
    /// tasks may be about to write to it.
    pub async fn run<F: Future>(self, connection: F, others: impl Fn() -> bool) -> F::Output {
        let mut connection = std::pin::pin!(connection);
        let (mut let_others, mut result) = (true, None);
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut let_others, false) && others() {
                after_others(cx);
                return Poll::Pending;
            }
            let_others = true;
            if result.is_none()
                && let Poll::Ready(done) = connection.as_mut().poll(cx)
            {
                result = Some(done);
            }
            let mut inner = self.0.lock();
            // An error shows itself to the connection at its next write or read.
            let flushed = inner.flush(cx).is_ready();
            if result.is_some() {
                inner.direct = true;
                if flushed {
                    return result.take().map_or(Poll::Pending, Poll::Ready);
                }
            }
            if !flushed {
                // The next wake is the socket's: it has nobody to wait for.
                let_others = false;
            }
            Poll::Pending
        })
        .await
    }
}

/// Wakes this task once all that is ready on this thread has run. A task that wakes itself would wake another thread besides,
/// which then takes it away: on a quiet server, with every request.
fn after_others(cx: &mut Context<'_>) {
    // Once polled, it has told the runtime.
    let _ = std::pin::pin!(tokio::task::yield_now()).poll(cx);
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<Io> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().io).poll_read(cx, buffer)
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gathered<Io> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut inner = self.0.lock();
        if inner.direct {
            ready!(inner.drain(cx))?;
            return Pin::new(&mut inner.io).poll_write_vectored(cx, slices);
        }
        if inner.gathered.len() >= GATHER {
            ready!(inner.drain(cx))?;
        }
        let total: usize = slices.iter().map(|s| s.len()).sum();
        // What outgrows a small buffer is most likely the first of many frames: growing step by step would copy them again and again.
        let large = inner.gathered.len() + total > KEEP;
        inner.gathered.reserve(if large { total.max(GATHER) } else { total });
        slices.iter().for_each(|slice| inner.gathered.extend_from_slice(slice));
        Poll::Ready(Ok(total))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        if inner.direct { inner.flush(cx) } else { Poll::Ready(Ok(())) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        ready!(inner.drain(cx))?;
        Pin::new(&mut inner.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Counts the writes that reach it.
    struct Counting(tokio::io::DuplexStream, Arc<Mutex<Vec<usize>>>);

    impl AsyncRead for Counting {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for Counting {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            let written = ready!(Pin::new(&mut self.0).poll_write(cx, data))?;
            self.1.lock().push(written);
            Poll::Ready(Ok(written))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn what_is_written_in_one_turn_leaves_in_one_write_and_all_of_it_arrives() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let writes = Arc::new(Mutex::new(Vec::new()));
        let (mut io, turns) = gather(Counting(near, writes.clone()));
        let connection = async move {
            for _ in 0..10 {
                io.write_all(b"0123456789").await?;
                io.flush().await?;
            }
            tokio::task::yield_now().await;
            io.write_all(b"the end").await
        };
        turns.run(connection, || true).await.expect("written");
        assert_eq!(*writes.lock(), [100, 7]);
        let mut all = vec![0; 107];
        far.read_exact(&mut all).await.expect("read");
        assert!(all.ends_with(b"789the end"));
    }

    #[tokio::test]
    async fn a_full_socket_holds_the_writer_back_and_loses_nothing() {
        let (near, mut far) = tokio::io::duplex(1000);
        let (mut io, turns) = gather(near);
        let connection = async move {
            for n in 0..300_u32 {
                io.write_all(&[n as u8; 1000]).await?;
            }
            io.shutdown().await
        };
        let reader = async {
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.expect("read");
            all
        };
        let (written, all) = tokio::join!(turns.run(connection, || true), reader);
        written.expect("written");
        assert_eq!(all.len(), 300_000);
        assert!(all.chunks(1000).enumerate().all(|(n, chunk)| chunk.iter().all(|b| *b == n as u8)));
    }

    #[tokio::test]
    async fn after_an_upgrade_a_flush_is_a_flush() {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let (io, turns) = gather(near);
        let mut io = turns.run(async move { io }, || false).await;
        io.write_all(b"hello").await.expect("written");
        io.flush().await.expect("flushed");
        let mut five = [0; 5];
        far.read_exact(&mut five).await.expect("read");
        assert_eq!(&five, b"hello");
    }
}
