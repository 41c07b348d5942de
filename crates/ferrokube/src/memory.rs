//! Memory that is free goes back to the system when there is nothing to do.
//!
//! The allocator gives freed pages back while it is asked for new ones, and each thread keeps some for itself. So what a burst of
//! work (the start, a large list) has used would stay resident for as long as the process is idle afterwards. Threads of the runtime
//! therefore tidy up before they sleep, each at most once in a while, and never while there is work.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A thread tidies up once in this time at most.
const PERIOD: Duration = Duration::from_secs(2);

static ROUND: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static TIDIED: Cell<u64> = const { Cell::new(0) };
}

#[expect(unsafe_code, reason = "the allocator is a C library")]
mod allocator {
    unsafe extern "C" {
        fn mi_collect(force: bool);
    }

    /// Gives back what the thread keeps and what is free in all of the process.
    pub(super) fn give_back() {
        // SAFETY: takes a flag by value, may be called at any time, and touches only memory that is not in use.
        unsafe { mi_collect(true) }
    }
}

/// Says now and then that it is time to tidy up. Never ends.
pub(crate) async fn rounds() {
    loop {
        tokio::time::sleep(PERIOD).await;
        ROUND.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a thread of the runtime does before it sleeps.
pub(crate) fn before_sleep() {
    let round = ROUND.load(Ordering::Relaxed);
    if TIDIED.replace(round) != round {
        allocator::give_back();
    }
}
