//! A place that events go to, and the ways to get there: at once, or in batches that are filled and paced.
//!
//! Source of the modes and their numbers: `apiserver/pkg/server/options/audit.go`, `plugin/pkg/audit/buffered`.

use super::Counts;
use super::log::LogFile;
use super::webhook::Hook;
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// `--audit-log-mode`, `--audit-webhook-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Buffered and written in batches; events are lost when the buffer is full.
    Batch,
    /// Written before the response goes out.
    Blocking,
    /// The same, and a request whose arrival cannot be written is refused.
    BlockingStrict,
}

/// `--audit-*-batch-*`.
#[derive(Clone, Copy, Debug)]
pub struct BatchConfig {
    /// Events that wait at most.
    pub buffer: usize,
    /// Events per batch at most.
    pub max_size: usize,
    /// How long an incomplete batch waits.
    pub max_wait: Duration,
    /// Batches per second and how many may come at once; `None` is no limit.
    pub throttle: Option<(f32, u32)>,
}

impl BatchConfig {
    /// The defaults of the log: every event for itself.
    pub fn log() -> Self {
        BatchConfig { buffer: 10_000, max_size: 1, max_wait: Duration::ZERO, throttle: None }
    }

    /// The defaults of the webhook.
    pub fn webhook() -> Self {
        BatchConfig { buffer: 10_000, max_size: 400, max_wait: Duration::from_secs(30), throttle: Some((10.0, 15)) }
    }
}

/// `--audit-*-truncate-*`: bytes of an event and of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Truncate {
    /// An event that is longer loses its objects.
    pub max_event: usize,
    /// Batches are split so that none is longer.
    pub max_batch: usize,
}

impl Default for Truncate {
    fn default() -> Self {
        Truncate { max_event: 100 << 10, max_batch: 10 << 20 }
    }
}

/// What is behind a sink.
pub(super) enum Backend {
    Log(LogFile),
    Webhook(Hook),
}

impl Backend {
    fn plugin(&self) -> usize {
        match self {
            Backend::Log(_) => 0,
            Backend::Webhook(_) => 1,
        }
    }

    /// Writes events; false when they are lost.
    async fn write(&self, events: &[Bytes]) -> bool {
        let written = match self {
            Backend::Log(file) => file.write(events).map_err(|e| e.to_string()),
            Backend::Webhook(hook) => hook.send(events).await.map_err(|e| e.to_string()),
        };
        if let Err(error) = &written {
            let plugin = ["log", "webhook"][self.plugin()];
            tracing::error!(plugin, error, lost = events.len(), "Error in audit plugin affecting audit events");
        }
        written.is_ok()
    }
}

/// Where events go.
pub(super) struct Sink {
    backend: Arc<Backend>,
    mode: Mode,
    queue: Option<mpsc::Sender<Bytes>>,
    task: Mutex<Option<JoinHandle<()>>>,
    stopping: tokio_util::sync::CancellationToken,
    truncate: Option<Truncate>,
    counts: Arc<Counts>,
}

impl Sink {
    pub fn new(backend: Backend, mode: Mode, batch: BatchConfig, truncate: Option<Truncate>, counts: Arc<Counts>) -> Self {
        let backend = Arc::new(backend);
        let stopping = tokio_util::sync::CancellationToken::new();
        let (queue, task) = if mode == Mode::Batch {
            let (sender, inbox) = mpsc::channel(batch.buffer.max(1));
            let max_batch = truncate.map_or(usize::MAX, |t| t.max_batch);
            let batcher = Batcher { backend: backend.clone(), config: batch, max_batch, counts: counts.clone(), sending: JoinSet::new() };
            (Some(sender), Some(tokio::spawn(batcher.run(inbox, stopping.clone()))))
        } else {
            (None, None)
        };
        Sink { backend, mode, queue, task: Mutex::new(task), stopping, truncate, counts }
    }

    /// Bytes of an event at most.
    pub fn max_event(&self) -> Option<usize> {
        self.truncate.map(|t| t.max_event)
    }

    pub fn is_strict(&self) -> bool {
        self.mode == Mode::BlockingStrict
    }

    fn lose(&self) -> bool {
        self.counts.failed[self.backend.plugin()].fetch_add(1, Ordering::Relaxed);
        false
    }

    /// Takes an event (`None`: one that was too large); false when it is lost.
    pub async fn take(&self, event: Option<Bytes>) -> bool {
        let Some(event) = event else { return self.lose() };
        match &self.queue {
            Some(queue) => queue.try_send(event).is_ok() || self.lose(),
            None => self.backend.write(&[event]).await || self.lose(),
        }
    }

    /// Takes an event where nobody can wait for it.
    pub fn take_later(&self, event: Option<Bytes>) {
        let Some(event) = event else {
            self.lose();
            return;
        };
        match (&self.queue, &*self.backend) {
            (Some(queue), _) => _ = queue.try_send(event).is_ok() || self.lose(),
            (None, Backend::Log(file)) => {
                if let Err(error) = file.write(&[event]) {
                    tracing::error!(%error, "Error in audit plugin affecting audit events");
                    self.lose();
                }
            }
            (None, Backend::Webhook(_)) => {
                let (backend, counts) = (self.backend.clone(), self.counts.clone());
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    runtime.spawn(async move {
                        if !backend.write(&[event]).await {
                            counts.failed[backend.plugin()].fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            }
        }
    }

    /// Writes what waits.
    pub async fn stop(&self) {
        self.stopping.cancel();
        let task = self.task.lock().take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut() {
            task.abort();
        }
    }
}

/// Tokens that come back with time (`flowcontrol.NewTokenBucketRateLimiter`).
struct Bucket {
    tokens: f64,
    per_second: f64,
    burst: f64,
    at: Instant,
}

impl Bucket {
    fn new(qps: f32, burst: u32) -> Self {
        let burst = f64::from(burst.max(1));
        Bucket { tokens: burst, per_second: f64::from(qps).max(0.001), burst, at: Instant::now() }
    }

    /// How long the next one has to wait.
    fn take(&mut self, now: Instant) -> Duration {
        self.tokens = (self.tokens + now.duration_since(self.at).as_secs_f64() * self.per_second).min(self.burst);
        self.at = now;
        self.tokens -= 1.0;
        if self.tokens >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.tokens / self.per_second) }
    }
}

/// The task that fills batches. A webhook gets several at once; a log one after the other.
struct Batcher {
    backend: Arc<Backend>,
    config: BatchConfig,
    max_batch: usize,
    counts: Arc<Counts>,
    sending: JoinSet<()>,
}

impl Batcher {
    async fn run(mut self, mut inbox: mpsc::Receiver<Bytes>, stopping: tokio_util::sync::CancellationToken) {
        let mut bucket = self.config.throttle.map(|(qps, burst)| Bucket::new(qps, burst));
        loop {
            let first = tokio::select! {
                first = inbox.recv() => first,
                () = stopping.cancelled() => inbox.try_recv().ok(),
            };
            let Some(first) = first else { break };
            let batch = self.fill(first, &mut inbox, &stopping).await;
            let wait = bucket.as_mut().map_or(Duration::ZERO, |b| b.take(Instant::now()));
            if !wait.is_zero() && !stopping.is_cancelled() {
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = stopping.cancelled() => {}
                }
            }
            self.send(batch).await;
        }
        while self.sending.join_next().await.is_some() {}
    }

    async fn fill(&self, first: Bytes, inbox: &mut mpsc::Receiver<Bytes>, stopping: &tokio_util::sync::CancellationToken) -> Vec<Bytes> {
        let mut size = first.len();
        let mut batch = vec![first];
        let deadline = Instant::now() + self.config.max_wait;
        while batch.len() < self.config.max_size && size < self.max_batch {
            let next = tokio::select! {
                biased;
                next = inbox.recv() => next,
                () = stopping.cancelled() => inbox.try_recv().ok(),
                () = tokio::time::sleep_until(deadline) => None,
            };
            let Some(next) = next else { break };
            size += next.len();
            batch.push(next);
        }
        batch
    }

    async fn send(&mut self, batch: Vec<Bytes>) {
        let (backend, counts) = (self.backend.clone(), self.counts.clone());
        let write = async move {
            if !backend.write(&batch).await {
                counts.failed[backend.plugin()].fetch_add(batch.len() as u64, Ordering::Relaxed);
            }
        };
        match &*self.backend {
            Backend::Log(_) => write.await,
            Backend::Webhook(_) => {
                while self.sending.try_join_next().is_some() {}
                self.sending.spawn(write);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_a_burst_through_and_then_one_at_a_time() {
        let mut bucket = Bucket::new(10.0, 3);
        let now = Instant::now();
        let waits: Vec<u128> = (0..5).map(|_| bucket.take(now).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 100, 200]);
        assert_eq!(bucket.take(now + Duration::from_secs(10)), Duration::ZERO, "it never holds more than the burst");
    }
}
