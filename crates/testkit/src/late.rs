//! News that come late: finds tests, and code, that count on one task having heard what another one knows.
//!
//! With `FERROKUBE_TEST_LATE=MILLISECONDS` in the environment every stream of news that a test's common module makes passes
//! through [`late`], each with delays of its own, so that one kind's news overtake another's as they do on a machine with
//! too little of everything. Without it nothing is changed. Order within a stream always stays.

use crate::fuzz::Random;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// The longest delay that was asked for.
fn longest() -> Option<usize> {
    std::env::var("FERROKUBE_TEST_LATE").ok()?.parse().ok()
}

/// The same news in the same order, held back by up to so many milliseconds when that was asked for. What piles up
/// meanwhile comes together.
pub fn late<T: Send + 'static>(news: impl Stream<Item = T> + Send + 'static) -> BoxStream<'static, T> {
    static STREAMS: AtomicU64 = AtomicU64::new(0);
    let Some(longest) = longest() else { return news.boxed() };
    let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_nanos() as u64);
    let mut random = Random::new(now ^ STREAMS.fetch_add(1, Ordering::Relaxed).rotate_left(32));
    let hold = move |batch: Vec<T>| {
        // Half of them are in time: it is the difference between two streams that counts.
        let pause = if random.chance(50) { 0 } else { random.below(longest + 1) };
        async move {
            tokio::time::sleep(Duration::from_millis(pause as u64)).await;
            futures_util::stream::iter(batch)
        }
    };
    news.ready_chunks(1024).then(hold).flatten().boxed()
}
