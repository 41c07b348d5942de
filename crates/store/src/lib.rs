//! Storage with etcd's semantics, and the engines that provide it.
//!
//! The API server needs exactly seven operations of etcd: one global revision, compare-and-put on a key's
//! modification revision, delete, ordered range at a revision, watch from a revision, compaction and expiry.
//! [`Store`] is that and nothing more. Nothing above it may know which engine answers, and nothing here may
//! know what a Kubernetes object is: keys and values are bytes.
//!
//! Reads of the hot path never come here; the watch cache above serves them. A write is acknowledged only
//! after it is durable.

pub mod backup;
pub mod embedded;
pub mod etcd;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use std::time::Duration;

/// The store's global, strictly increasing revision. 0 means "none yet"; the first write gets 1 or more.
pub type Revision = u64;

/// A key with its value and the revisions etcd keeps for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value; empty in a delete event.
    pub value: Bytes,
    /// Revision of the write that created the key (since it was last absent).
    pub create_revision: Revision,
    /// Revision of the last write to the key.
    pub mod_revision: Revision,
}

/// What must hold of a key for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Anything, present or absent.
    Any,
    /// The key must not exist.
    Absent,
    /// The key must exist with exactly this modification revision.
    Revision(Revision),
}

/// A write that became durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The revision the write got.
    pub revision: Revision,
    /// What stood there before, when the engine has it at hand; `None` when the key was absent.
    pub previous_revision: Option<Revision>,
}

/// One page of an ordered range.
#[derive(Clone, Debug)]
pub struct Page {
    /// In key order.
    pub items: Vec<KeyValue>,
    /// The revision the page shows.
    pub revision: Revision,
    /// Whether keys of the range follow after the last item.
    pub more: bool,
    /// Keys of the whole range at that revision, this page included.
    pub count: u64,
}

/// What happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key was created or changed. `create_revision == mod_revision` tells a creation.
    Put(KeyValue),
    /// The key was deleted, by a client or by its time to live; `revision` is that of the deletion.
    Delete {
        /// The key that went.
        key: Bytes,
        /// Revision of the deletion.
        revision: Revision,
    },
}

impl Event {
    /// The revision at which the event happened.
    pub fn revision(&self) -> Revision {
        match self {
            Event::Put(kv) => kv.mod_revision,
            Event::Delete { revision, .. } => *revision,
        }
    }
}

/// Events of one or more whole revisions, in order: a revision is never split over two batches.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The events; empty in a pure progress notice.
    pub events: Vec<Event>,
    /// Everything at or before this revision that matches the watch has now been delivered.
    pub revision: Revision,
}

/// Why an operation did not happen.
#[derive(Debug, thiserror::Error, Clone)]
pub enum Error {
    /// The expectation of a write did not hold. Nothing was written.
    #[error("the key is at revision {actual:?}, which is not what the write expected")]
    Conflict {
        /// Modification revision that stands there; `None` when the key is absent.
        actual: Option<Revision>,
    },
    /// The revision asked for has been compacted away.
    #[error("revision is compacted; the oldest available is {oldest}")]
    Compacted {
        /// The oldest revision that can still be read or watched from.
        oldest: Revision,
    },
    /// The revision asked for is not there yet.
    #[error("revision {asked} is in the future; the current one is {current}")]
    Future {
        /// The revision asked for.
        asked: Revision,
        /// The current revision.
        current: Revision,
    },
    /// The history that was followed is not the store's any more: it lost writes, or a backup was restored. What was read up to
    /// there must be read anew.
    #[error("the history up to revision {position} is not the one that was followed: the store lost writes or a backup was restored")]
    Rewritten {
        /// Up to where it was followed.
        position: Revision,
    },
    /// The disk is full; the write did not happen and reads go on.
    #[error("no space left for the store at {path}")]
    NoSpace {
        /// Where.
        path: String,
    },
    /// A key or value is larger than the engine takes; the write did not happen.
    #[error("too large for the store: {0}")]
    TooLarge(String),
    /// Stored data fails its checksum or its structure.
    #[error("the store at {path} is corrupted: {detail}")]
    Corrupted {
        /// The file.
        path: String,
        /// What is wrong, at which offset.
        detail: String,
    },
    /// The engine can't serve now (shut down, lost its server, I/O error).
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
}

/// Result of a store operation.
pub type Result<T> = std::result::Result<T, Error>;

/// The storage that the API server stands on. Cheap to share behind an `Arc<dyn Store>`.
pub trait Store: Send + Sync + 'static {
    /// Writes `value` at `key` when `expect` holds. Resolves after the write is durable.
    /// With `ttl`, the key is deleted by the store (with a revision and an event) once that time has passed since this write.
    fn put(&self, key: Bytes, value: Bytes, expect: Expect, ttl: Option<Duration>) -> BoxFuture<'_, Result<Committed>>;

    /// Deletes `key` when `expect` holds. Deleting an absent key with [`Expect::Any`] is a conflict with `actual: None`.
    fn delete(&self, key: Bytes, expect: Expect) -> BoxFuture<'_, Result<Committed>>;

    /// One key, now.
    fn get(&self, key: Bytes) -> BoxFuture<'_, Result<Option<KeyValue>>>;

    /// Keys in `[start, end)` in order, as they stood `at` a revision (`None`: now), at most `limit` (0: all).
    fn range(&self, start: Bytes, end: Bytes, at: Option<Revision>, limit: usize) -> BoxFuture<'_, Result<Page>>;

    /// All of `[start, end)` in order, as it stood `at` a revision (`None`: now): pages of one revision, of a size that is good to hold,
    /// at least one, and the last with `more == false`. This is how the caches are filled.
    fn scan(&self, start: Bytes, end: Bytes, at: Option<Revision>) -> BoxFuture<'_, Result<BoxStream<'static, Result<Page>>>> {
        Box::pin(async move {
            let page = self.range(start, end, at, 0).await?;
            let pages: BoxStream<'static, Result<Page>> = Box::pin(futures_util::stream::iter([Ok(page)]));
            Ok(pages)
        })
    }

    /// Every change after revision `after` to keys in `[start, end)`, in order, without a gap, for as long as the stream is held.
    /// The stream ends with an error when its position is compacted, when the store is found to have another past, or when the engine
    /// stops.
    fn watch(&self, start: Bytes, end: Bytes, after: Revision) -> BoxFuture<'_, Result<BoxStream<'static, Result<Batch>>>>;

    /// The latest committed revision: a read that shows at least this is a consistent read.
    fn revision(&self) -> BoxFuture<'_, Result<Revision>>;

    /// Forgets history before `revision`. Current values stay.
    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<()>>;

    /// Asks every open watch to say how far it is, by a [`Batch`] that may be empty, as soon as it can. Watches also say so unasked
    /// shortly after revisions that did not concern them; a consistent read that waits for a cache asks instead of waiting.
    fn request_progress(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Bytes on disk, for metrics.
    fn size_on_disk(&self) -> BoxFuture<'_, Result<u64>>;
}

/// The end of the range of all keys that start with `prefix`: the prefix with its last byte raised.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return Bytes::from(end);
        }
    }
    // All bytes were 0xff (or the prefix was empty): nothing sorts after such keys except a longer run of 0xff.
    Bytes::from_static(&[0xff; 32])
}
