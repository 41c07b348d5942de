//! The harness of a level-triggered controller: workers that take keys from a queue and reconcile them.
//!
//! Never two runs of one key at once. A reconcile that fails or panics backs off on its key alone.

use crate::queue::Queue;
use futures_util::FutureExt;
use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

/// What a successful reconcile wants next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Next {
    /// Nothing until something changes.
    #[default]
    Wait,
    /// The same key again after this time.
    After(Duration),
}

/// Runs `workers` workers (or as many as the queue says) over the queue until it is closed. `reconcile` looks at the whole state of its key every time.
pub async fn run<K, E, F, Fut>(name: &'static str, queue: Queue<K>, workers: usize, reconcile: F)
where
    K: Clone + Eq + Hash + Debug + Send + Sync + 'static,
    E: Display + Send,
    F: Fn(K) -> Fut + Send + Sync,
    Fut: Future<Output = Result<Next, E>> + Send,
{
    let work = (0..queue.workers().unwrap_or(workers).max(1)).map(|_| worker(name, &queue, &reconcile));
    futures_util::future::join_all(work).await;
}

async fn worker<K, E, F, Fut>(name: &'static str, queue: &Queue<K>, reconcile: &F)
where
    K: Clone + Eq + Hash + Debug + Send + Sync + 'static,
    E: Display,
    F: Fn(K) -> Fut,
    Fut: Future<Output = Result<Next, E>>,
{
    while let Some(key) = queue.next().await {
        let outcome = AssertUnwindSafe(async { reconcile(key.clone()).await }).catch_unwind().await;
        queue.done(&key);
        match outcome {
            Ok(Ok(next)) => {
                queue.forget(&key);
                if let Next::After(delay) = next {
                    queue.add_after(key, delay);
                }
            }
            Ok(Err(e)) => {
                tracing::debug!(controller = name, ?key, "reconcile failed: {e:#}");
                if !queue.retry(key.clone()) {
                    tracing::warn!(controller = name, ?key, "given up until it changes: {e:#}");
                }
            }
            Err(_) => {
                tracing::error!(controller = name, ?key, "reconcile panicked, will retry");
                queue.retry(key);
            }
        }
    }
}
