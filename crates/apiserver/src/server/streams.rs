//! Answers without an end live in the task of their connection.
//!
//! HTTP/2 gives each request a task of its own, so that the requests of one connection use all cores. Watches gain nothing by that: an event
//! would wake fifty tasks, on any core, that all want the lock of the same connection, and then the connection itself. So the stream of
//! an answer that has begun to wait for something to happen moves to its connection, which polls what was woken before it polls
//! itself: one wake, one turn, one write for all of them. What moves here must never work for long at a time.

use futures_util::future::{BoxFuture, CatchUnwind, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::cell::Cell;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

tokio::task_local! {
    /// Whether the stream that is being polled waits for something without end.
    static WAITS: Cell<bool>;
}

/// Says that the answer that is being polled has no end and waits for something to happen.
pub fn waits() {
    // Elsewhere than in a stream of HTTP/2 there is nobody to know it.
    let _ = WAITS.try_with(|waits| waits.set(true));
}

type Stream = BoxFuture<'static, ()>;

/// Runs the streams of a connection, until they move to it.
#[derive(Clone)]
pub struct Streams {
    home: UnboundedSender<Stream>,
    working: Working,
}

/// How many streams of a connection have a task of their own.
#[derive(Clone, Default)]
pub struct Working(Arc<AtomicUsize>);

impl Working {
    /// Whether any has.
    pub fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// The streams that live with the connection.
pub struct Residents {
    moving: UnboundedReceiver<Stream>,
    streams: FuturesUnordered<CatchUnwind<AssertUnwindSafe<Stream>>>,
    working: Working,
}

/// For one connection.
pub fn streams() -> (Streams, Residents) {
    let (home, moving) = mpsc::unbounded_channel();
    let working = Working::default();
    (Streams { home, working: working.clone() }, Residents { moving, streams: FuturesUnordered::new(), working })
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        self.working.0.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(Visitor { stream: Some(Box::pin(stream)), streams: self.clone() });
    }
}

/// A stream in a task of its own.
struct Visitor {
    stream: Option<Stream>,
    streams: Streams,
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.streams.working.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Future for Visitor {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(()) };
        let poll = || (stream.poll_unpin(cx), WAITS.get().get());
        match WAITS.sync_scope(Cell::new(false), poll) {
            (Poll::Pending, false) => return Poll::Pending,
            (Poll::Ready(()), _) => {}
            // When the connection has gone, so has its stream.
            (Poll::Pending, true) => drop(self.stream.take().map(|stream| self.streams.home.send(stream))),
        }
        Poll::Ready(())
    }
}

impl Residents {
    /// Tells of the streams that do not live here.
    pub fn working(&self) -> Working {
        self.working.clone()
    }

    /// Runs the connection, and before each of its turns whatever of its streams can go on.
    pub async fn with<F: Future>(mut self, connection: F) -> F::Output {
        let mut connection = std::pin::pin!(connection);
        std::future::poll_fn(|cx| {
            self.go_on(cx);
            connection.as_mut().poll(cx)
        })
        .await
    }

    fn go_on(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(stream)) = self.moving.poll_recv(cx) {
            self.streams.push(AssertUnwindSafe(stream).catch_unwind());
        }
        // A panic costs the stream: it is dropped, and with that reset.
        while let Poll::Ready(Some(_)) = self.streams.poll_next_unpin(cx) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::rt::Executor;
    use tokio::sync::{Notify, oneshot};

    /// Something to wait for, and how many do.
    #[derive(Default)]
    struct Notice(Notify, AtomicUsize);

    impl Notice {
        /// Waits for it as an answer without end.
        async fn endless(&self) {
            let mut notified = std::pin::pin!(self.0.notified());
            let mut first = true;
            std::future::poll_fn(|cx| {
                let poll = notified.as_mut().poll(cx);
                if poll.is_pending() {
                    waits();
                    self.1.fetch_add(usize::from(std::mem::take(&mut first)), Ordering::AcqRel);
                }
                poll
            })
            .await;
        }

        /// Lets everybody go on when so many wait.
        async fn give(&self, to: usize) {
            while self.1.load(Ordering::Acquire) < to {
                tokio::task::yield_now().await;
            }
            self.0.notify_waiters();
        }
    }

    #[tokio::test]
    async fn a_stream_that_waits_without_end_goes_on_in_the_task_of_its_connection() {
        let (executor, residents) = streams();
        let (notice, (done, is_done)) = (Arc::new(Notice::default()), oneshot::channel());
        let told = notice.clone();
        executor.execute(async move {
            tokio::task::yield_now().await;
            let before = tokio::task::id();
            told.endless().await;
            done.send((before, tokio::task::id())).expect("somebody waits");
        });
        let connection = async move {
            notice.give(1).await;
            (tokio::task::id(), is_done.await.expect("the stream went on"))
        };
        let (connection, (before, after)) = tokio::spawn(residents.with(connection)).await.expect("no panic");
        assert_ne!(before, connection, "work is done beside the connection");
        assert_eq!(after, connection);
    }

    #[tokio::test]
    async fn a_panic_of_one_stream_is_no_matter_to_the_connection() {
        let (executor, residents) = streams();
        let (notice, (done, is_done)) = (Arc::new(Notice::default()), oneshot::channel());
        let (bad, good) = (notice.clone(), notice.clone());
        executor.execute(async move {
            bad.endless().await;
            panic!("as the test wants it");
        });
        executor.execute(async move {
            good.endless().await;
            done.send(()).expect("somebody waits");
        });
        let connection = async move {
            notice.give(2).await;
            is_done.await.expect("the other stream went on");
        };
        residents.with(connection).await;
    }
}
