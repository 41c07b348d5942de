//! The embedded engine: an append-only log of segments on disk and an index of it in memory.
//!
//! One writer thread owns the end of the log. It takes all writes that wait, checks their expectations in order, appends them as
//! one frame, syncs once, shows them in the index, wakes the watches they concern, and only then answers. While it syncs the next
//! writes gather, so many writers share a sync and a single one never waits for company.
//!
//! Values stay on disk: reads fetch them by position, and the page cache holds what is hot. History is kept until it is compacted,
//! by the caller or, beyond the limits of [`Options`], by the engine itself. A cleaner thread then copies what is still in use out of the oldest
//! segment and drops it, so disk use follows the size of the data and not the number of writes.
//!
//! What must never happen: an answer before the sync; a read of something not yet synced; two processes in one directory; a revision
//! used twice; a segment dropped that a record in use lies in.
//!
//! | part | does |
//! |---|---|
//! | `format` | bytes of headers, frames and records |
//! | `segment` | files |
//! | `index` | keys, versions, history, deadlines; pure |
//! | `recover` | opens a directory |
//! | `queue` | what waits for the writer |
//! | `writer` | the writer thread |
//! | `cleaner` | the cleaner thread |
//! | `read` | values by position |
//! | `watch` | streams of events |
//! | `backup` | backup and restore of a directory, beside the engine |

mod backup;
mod cleaner;
mod format;
mod index;
mod queue;
mod read;
mod recover;
mod segment;
mod watch;
mod writer;

pub use backup::{backup, restore};

use crate::{Batch, Committed, Error, Expect, KeyValue, Page, Result, Revision, Store};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::BoxStream;
use index::Index;
use parking_lot::{Mutex, RwLock};
use queue::{Queue, Request, Write};
use segment::Segment;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How an engine behaves. The defaults serve a cluster of any size.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether a write is durable before it is acknowledged. Only tests and throw-away clusters may say no.
    pub fsync: bool,
    /// A segment of the log is complete when it has this many bytes. Disk use stays below twice the data plus three segments.
    pub segment_bytes: u64,
    /// Revisions of history to keep at most, whether or not anyone compacts: about 60 bytes of memory each.
    pub history_revisions: u64,
    /// Bytes of superseded values to keep on disk at most, whether or not anyone compacts.
    pub history_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { fsync: true, segment_bytes: 16 << 20, history_revisions: 500_000, history_bytes: 512 << 20 }
    }
}

/// What all parts of an engine share.
struct Shared {
    dir: PathBuf,
    options: Options,
    state: RwLock<State>,
    queue: Queue,
    cleaner: cleaner::Signal,
}

/// What readers see: everything here is durable.
struct State {
    index: Index,
    segments: BTreeMap<u32, Arc<Segment>>,
    /// Bytes of the complete segments, and of the last one up to the end of its frames.
    lengths: BTreeMap<u32, u64>,
    watches: Vec<Arc<watch::Interest>>,
    /// Why the engine no longer serves.
    stopped: Option<Error>,
}

impl State {
    /// The segment a place points into. Places come from the index under the same lock, so it is there.
    fn segment(&self, id: u32) -> Result<Arc<Segment>> {
        self.segments.get(&id).cloned().ok_or_else(|| Error::Unavailable(format!("segment {id} is not part of the log")))
    }

    fn serving(&self) -> Result<()> {
        self.stopped.clone().map_or(Ok(()), Err)
    }
}

/// The embedded durable engine. Dropping it ends its threads and its watches; what was acknowledged stays.
pub struct Embedded {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    // Held for as long as the engine lives: the lock on the directory.
    _lock: File,
}

impl Embedded {
    /// Opens the store in `dir`, which is made when absent (mode 0700).
    ///
    /// # Errors
    /// [`Error::Unavailable`] when another process has it open or the file system refuses, [`Error::Corrupted`] when what is there fails
    /// its checks (nothing is changed then), [`Error::NoSpace`].
    pub fn open(dir: &Path, mut options: Options) -> Result<Embedded> {
        // Offsets have 32 bits.
        options.segment_bytes = options.segment_bytes.clamp(4096, 1 << 30);
        let lock = recover::lock(dir)?;
        let recovered = recover::recover(dir, &options)?;
        let (head, state) = (recovered.head, recovered.state);
        tracing::debug!(dir = %dir.display(), revision = state.index.revision(), compacted = state.index.compacted(), "store opened");
        let shared = Arc::new(Shared {
            dir: dir.to_path_buf(),
            options,
            state: RwLock::new(state),
            queue: Queue::default(),
            cleaner: cleaner::Signal::default(),
        });
        let mut threads = Vec::new();
        let engine = Arc::clone(&shared);
        threads.push(spawn("store-writer", move || writer::run(&engine, head))?);
        let engine = Arc::clone(&shared);
        threads.push(spawn("store-cleaner", move || cleaner::run(&engine))?);
        shared.cleaner.wake();
        Ok(Embedded { shared, threads: Mutex::new(threads), _lock: lock })
    }

    /// Stops the engine in an orderly way: waits for queued writes, then ends threads and watches. Later calls fail with
    /// [`Error::Unavailable`]. Dropping does the same.
    pub fn close(&self) {
        self.shared.queue.stop();
        self.shared.cleaner.stop();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
    }

    async fn submit<T>(&self, request: impl FnOnce(tokio::sync::oneshot::Sender<Result<T>>) -> Request) -> Result<T> {
        let (sender, answer) = tokio::sync::oneshot::channel();
        self.shared.queue.push(request(sender));
        answer.await.unwrap_or_else(|_| Err(stopped_error()))
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close();
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(run).map_err(|e| Error::Unavailable(format!("starting thread {name}: {e}")))
}

fn stopped_error() -> Error {
    Error::Unavailable("the store is closed".into())
}

/// Refuses what the format can't hold.
fn check_sizes(key: &Bytes, value: &Bytes) -> Result<()> {
    if key.is_empty() || key.len() > format::MAX_KEY {
        return Err(Error::TooLarge(format!("a key of {} bytes (1 to {} can be stored)", key.len(), format::MAX_KEY)));
    }
    if value.len() > format::MAX_VALUE {
        return Err(Error::TooLarge(format!("a value of {} bytes (at most {} can be stored)", value.len(), format::MAX_VALUE)));
    }
    Ok(())
}

impl Store for Embedded {
    fn put(&self, key: Bytes, value: Bytes, expect: Expect, ttl: Option<Duration>) -> BoxFuture<'_, Result<Committed>> {
        async move {
            check_sizes(&key, &value)?;
            let expiry = ttl.map_or(0, writer::deadline_after);
            self.submit(|answer| Request::Write(Write { key, value: Some(value), expect, expiry, answer })).await
        }
        .boxed()
    }

    fn delete(&self, key: Bytes, expect: Expect) -> BoxFuture<'_, Result<Committed>> {
        async move {
            check_sizes(&key, &Bytes::new())?;
            self.submit(|answer| Request::Write(Write { key, value: None, expect, expiry: 0, answer })).await
        }
        .boxed()
    }

    fn get(&self, key: Bytes) -> BoxFuture<'_, Result<Option<KeyValue>>> {
        std::future::ready(read::get(&self.shared, &key)).boxed()
    }

    fn range(&self, start: Bytes, end: Bytes, at: Option<Revision>, limit: usize) -> BoxFuture<'_, Result<Page>> {
        async move {
            let found = read::select(&self.shared, &start, &end, at, limit)?;
            read::off_runtime_when_large(found.located.len(), move || read::page(found)).await
        }
        .boxed()
    }

    fn scan(&self, start: Bytes, end: Bytes, at: Option<Revision>) -> BoxFuture<'_, Result<BoxStream<'static, Result<Page>>>> {
        std::future::ready(read::select(&self.shared, &start, &end, at, 0).map(read::pages)).boxed()
    }

    fn watch(&self, start: Bytes, end: Bytes, after: Revision) -> BoxFuture<'_, Result<BoxStream<'static, Result<Batch>>>> {
        std::future::ready(watch::open(&self.shared, start, end, after)).boxed()
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision>> {
        let state = self.shared.state.read();
        std::future::ready(state.serving().map(|()| state.index.revision())).boxed()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<()>> {
        self.submit(move |answer| Request::Compact { revision, answer }).boxed()
    }

    fn request_progress(&self) -> BoxFuture<'_, Result<()>> {
        let state = self.shared.state.read();
        watch::ask_progress(&state, true);
        std::future::ready(state.serving()).boxed()
    }

    fn size_on_disk(&self) -> BoxFuture<'_, Result<u64>> {
        std::future::ready(Ok(self.shared.state.read().lengths.values().sum())).boxed()
    }
}
