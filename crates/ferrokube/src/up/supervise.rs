//! A panic in one component restarts that component, not the cluster.

use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);

/// Runs a component for ever: when it panics or ends it is started again, later each time.
pub fn supervise<F, Fut>(name: &'static str, component: F) -> JoinHandle<()>
where
    F: FnMut() -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    supervise_openly(name, Arc::default(), component)
}

/// The same, and `runs` tells whether it runs at the moment.
pub fn supervise_openly<F, Fut>(name: &'static str, runs: Arc<AtomicBool>, mut component: F) -> JoinHandle<()>
where
    F: FnMut() -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    tokio::spawn(async move {
        let mut delay = FIRST;
        loop {
            let began = Instant::now();
            runs.store(true, Ordering::Relaxed);
            let ended = AssertUnwindSafe(async { component().await }).catch_unwind().await;
            runs.store(false, Ordering::Relaxed);
            match ended {
                Ok(()) => tracing::warn!(component = name, "component ended, starting it again"),
                Err(_) => tracing::error!(component = name, "component panicked, starting it again"),
            }
            if began.elapsed() > LONGEST {
                delay = FIRST;
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(LONGEST);
        }
    })
}
