//! Either engine, behind the trait, for tests that hold for both. Without an etcd to run, its half is skipped, loudly.

use bytes::Bytes;
use ferrokube_store::embedded::{self, Embedded};
use ferrokube_store::etcd::{self, Etcd};
use ferrokube_store::{Batch, Event, Store};
use ferrokube_testkit::etcd as real;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use std::sync::Arc;
use std::time::Duration;

/// An engine that can be opened again and again on the same data.
pub enum Harness {
    Embedded(tempfile::TempDir, embedded::Options),
    Etcd(real::Etcd),
}

impl Harness {
    pub fn embedded(segment_bytes: u64) -> Harness {
        // Small segments: rotation, copying forward and dropping happen all the time.
        let options = embedded::Options { fsync: false, segment_bytes, ..embedded::Options::default() };
        Harness::Embedded(tempfile::tempdir().expect("a directory"), options)
    }

    /// `None` when there is no etcd.
    pub fn etcd() -> Option<Harness> {
        start(real::Options::default()).map(Harness::Etcd)
    }

    pub async fn open(&self) -> Arc<dyn Store> {
        match self {
            Harness::Embedded(dir, options) => Arc::new(Embedded::open(dir.path(), options.clone()).expect("opens")),
            Harness::Etcd(etcd) => Arc::new(connect(etcd).await),
        }
    }

    /// Whether every revision is one write of ours: etcd counts markers too.
    pub fn is_dense(&self) -> bool {
        matches!(self, Harness::Embedded(..))
    }

    /// The shortest time to live that the engine knows.
    pub fn shortest_ttl(&self) -> Duration {
        if self.is_dense() { Duration::from_millis(150) } else { Duration::from_secs(1) }
    }
}

/// Starts a real etcd, or says why not.
pub fn start(options: real::Options) -> Option<real::Etcd> {
    if let Err(error) = ferrokube_testkit::tools::etcd() {
        eprintln!("SKIP: nothing is known about the etcd engine: {error:#}");
        return None;
    }
    Some(real::Etcd::start(options).expect("etcd starts"))
}

pub fn options(etcd: &real::Etcd) -> etcd::Options {
    etcd::Options::new(etcd.endpoints())
}

pub async fn connect(etcd: &real::Etcd) -> Etcd {
    Etcd::connect(options(etcd)).await.expect("connects")
}

pub type Watch = BoxStream<'static, ferrokube_store::Result<Batch>>;

/// Waits for the next event of a watch.
pub async fn next_event(watch: &mut Watch) -> Event {
    loop {
        let batch = watch.next().await.expect("goes on").expect("sound");
        if let Some(event) = batch.events.into_iter().next() {
            return event;
        }
    }
}

/// A key that API objects could have.
pub fn key(n: usize) -> Bytes {
    Bytes::from(format!("/registry/things/{n:05}"))
}

/// One test for each engine out of one scenario.
macro_rules! for_both_engines {
    ($($(#[$meta:meta])* $name:ident => $scenario:path),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            $(#[$meta])*
            async fn $name() {
                $scenario(&$crate::harness::Harness::embedded(16 << 10)).await;
            })*
        }
        mod etcd {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            $(#[$meta])*
            async fn $name() {
                if let Some(harness) = $crate::harness::Harness::etcd() {
                    $scenario(&harness).await;
                }
            })*
        }
    };
}
pub(crate) use for_both_engines;
