//! The etcd engine: [`Store`] over etcd's v3 API, for more than one API server and for data that is kept by somebody else.
//!
//! One multiplexed connection to one member at a time; writes are single transactions that carry their condition, so they neither read
//! first nor hold anything, and as many as there are callers are under way together. What etcd does not do by itself is done here:
//! pages of bounded size for large ranges, watches that find their place again after a broken connection, progress of watches when
//! somebody waits for it, leases shared by keys of like lifetime.
//!
//! What must never happen: a write made twice; an event lost, doubled or out of order; a watch that claims to be further than it is.
//!
//! | part | does |
//! |---|---|
//! | `connect` | members, TLS |
//! | `call` | calls: failover, repetition |
//! | `error` | etcd's refusals |
//! | `keys` | `--etcd-prefix` |
//! | `write` | transactions |
//! | `read` | keys, pages, the present revision |
//! | `lease` | times to live |
//! | `watch` | streams of events |
//! | `progress` | how a watch learns how far it is |
//! | `maintain` | compaction, size, alarms, snapshots |

mod call;
mod connect;
mod error;
mod keys;
mod lease;
mod maintain;
mod progress;
mod read;
mod watch;
mod write;

#[allow(missing_docs, clippy::all, reason = "generated from proto/etcd_v3.proto")]
mod wire {
    tonic::include_proto!("etcdserverpb");
}

pub use connect::Tls;
pub use maintain::{Alarm, MemberStatus, SnapshotSummary};

use crate::{Batch, Committed, Error, Expect, KeyValue, Page, Result, Revision, Store};
use bytes::Bytes;
use call::Caller;
use connect::Members;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::BoxStream;
use keys::Keys;
use lease::Leases;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How an engine reaches etcd. The names of kube-apiserver's flags are given.
#[derive(Clone, Debug)]
pub struct Options {
    /// `--etcd-servers`: client URLs of members, `http://` or `https://`.
    pub endpoints: Vec<String>,
    /// `--etcd-cafile`, `--etcd-certfile`, `--etcd-keyfile`.
    pub tls: Tls,
    /// `--etcd-prefix`: what keys begin with in etcd, in place of `/registry`.
    pub prefix: String,
    /// How long one operation may take, all attempts together.
    pub timeout: Duration,
    /// How long a lease can be given to further keys: 60 s in kube-apiserver (`--lease-reuse-duration-seconds`).
    pub lease_reuse: Duration,
    /// How many keys share a lease at most: 1000 in kube-apiserver.
    pub lease_objects: u32,
}

impl Options {
    /// Defaults of kube-apiserver for everything but the members.
    pub fn new(endpoints: Vec<String>) -> Options {
        Options {
            endpoints,
            tls: Tls::default(),
            prefix: "/registry".into(),
            timeout: Duration::from_secs(10),
            lease_reuse: Duration::from_secs(60),
            lease_objects: 1000,
        }
    }
}

/// What watches are told of.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// A revision that etcd is known to have reached.
    revision: Revision,
    /// How often progress was asked for.
    asked: u64,
    /// The engine was dropped.
    closed: bool,
}

/// What all parts of an engine share.
struct Shared {
    caller: Caller,
    keys: Keys,
    leases: Leases,
    known: tokio::sync::watch::Sender<Known>,
}

impl Shared {
    /// Notes a revision that etcd has reached, for the watches that are not there yet.
    fn reached(&self, revision: Revision) {
        self.known.send_if_modified(|known| {
            let news = known.revision < revision;
            known.revision = known.revision.max(revision);
            news
        });
    }
}

type Answer = oneshot::Sender<Result<Revision>>;

/// The engine. Dropping it ends its watches.
pub struct Etcd {
    shared: Arc<Shared>,
    present: mpsc::UnboundedSender<Answer>,
}

impl Etcd {
    /// Connects. Resolves when a member answered.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the options are wrong (URLs, certificates) or no member answers in time.
    pub fn connect(options: Options) -> BoxFuture<'static, Result<Etcd>> {
        // Boxed here: an `async fn` would be compiled again in every program that awaits it.
        Box::pin(Self::reach(options))
    }

    async fn reach(options: Options) -> Result<Etcd> {
        let members = Members::new(&options.endpoints, &options.tls)?;
        let shared = Arc::new(Shared {
            caller: Caller { members, timeout: options.timeout },
            keys: Keys::new(&options.prefix),
            leases: Leases::new(options.lease_reuse, options.lease_objects),
            known: tokio::sync::watch::Sender::default(),
        });
        let status = shared.status().await?;
        if !progress::is_reliable(&status.version) {
            tracing::warn!(
                version = %status.version,
                "this etcd answers progress requests too early (mended in 3.4.31 and 3.5.13); a marker key is written instead when a consistent read needs it"
            );
        }
        if !progress::keeps_writes(&status.version) {
            tracing::warn!(
                version = %status.version,
                "this etcd can lose writes that it acknowledged when it has one member and is killed (mended in 3.4.21 and 3.5.5)"
            );
        }
        tracing::info!(version = %status.version, revision = status.revision, "connected to etcd");
        let (present, asks) = mpsc::unbounded_channel();
        tokio::spawn(read::answer_present(shared.clone(), asks));
        Ok(Etcd { shared, present })
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.shared.known.send_modify(|known| known.closed = true);
    }
}

fn closed() -> Error {
    Error::Unavailable("the connection to etcd is closed".into())
}

impl Store for Etcd {
    fn put(&self, key: Bytes, value: Bytes, expect: Expect, ttl: Option<Duration>) -> BoxFuture<'_, Result<Committed>> {
        self.shared.put(key, value, expect, ttl).boxed()
    }

    fn delete(&self, key: Bytes, expect: Expect) -> BoxFuture<'_, Result<Committed>> {
        self.shared.delete(key, expect).boxed()
    }

    fn get(&self, key: Bytes) -> BoxFuture<'_, Result<Option<KeyValue>>> {
        self.shared.get(key).boxed()
    }

    fn range(&self, start: Bytes, end: Bytes, at: Option<Revision>, limit: usize) -> BoxFuture<'_, Result<Page>> {
        self.shared.page(start, end, at, limit).boxed()
    }

    fn scan(&self, start: Bytes, end: Bytes, at: Option<Revision>) -> BoxFuture<'_, Result<BoxStream<'static, Result<Page>>>> {
        self.shared.clone().pages(start, end, at).boxed()
    }

    fn watch(&self, start: Bytes, end: Bytes, after: Revision) -> BoxFuture<'_, Result<BoxStream<'static, Result<Batch>>>> {
        watch::open(self.shared.clone(), start, end, after).boxed()
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision>> {
        async move {
            let (sender, answer) = oneshot::channel();
            self.present.send(sender).map_err(|_| closed())?;
            answer.await.unwrap_or_else(|_| Err(closed()))
        }
        .boxed()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<()>> {
        self.shared.compact(revision).boxed()
    }

    fn request_progress(&self) -> BoxFuture<'_, Result<()>> {
        self.shared.known.send_modify(|known| known.asked += 1);
        std::future::ready(Ok(())).boxed()
    }

    fn size_on_disk(&self) -> BoxFuture<'_, Result<u64>> {
        self.shared.status().map(|status| status.map(|s| s.size)).boxed()
    }
}
