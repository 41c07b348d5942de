//! Forgets the store's history once nobody may still need it: what is older than five to ten minutes, as kube-apiserver's
//! `--etcd-compaction-interval` does. Watches that resume and lists that continue find their revision for that long.
//!
//! Must never compact what was written within the last interval.

use ferrokube_store::{Error, Revision, Store};
use std::sync::Arc;
use std::time::Duration;

/// kube-apiserver's default.
pub(crate) const INTERVAL: Duration = Duration::from_secs(300);

/// Compacts for ever: each time up to where the store was one interval before. `forgotten` is told how far that is.
pub(crate) async fn run(store: Arc<dyn Store>, interval: Duration, forgotten: impl Fn(Revision)) {
    let mut before: Option<Revision> = None;
    loop {
        // The state at the start counts: what was there then is old enough one interval later.
        match step(&*store, before).await {
            Ok(now) => before.replace(now).into_iter().for_each(&forgotten),
            Err(error) => tracing::warn!(%error, "compacting the store; the next attempt is in {interval:?}"),
        }
        tokio::time::sleep(interval).await;
    }
}

/// Compacts up to `before`, if that is known; returns the present revision.
async fn step(store: &dyn Store, before: Option<Revision>) -> Result<Revision, Error> {
    if let Some(before) = before {
        match store.compact(before).await {
            // Another API server of the same store was faster.
            Ok(()) | Err(Error::Compacted { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    store.revision().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use ferrokube_store::Expect;
    use ferrokube_store::embedded::{Embedded, Options};

    #[tokio::test]
    async fn each_step_compacts_up_to_where_the_step_before_was() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Embedded::open(dir.path(), Options { fsync: false, ..Options::default() }).expect("opens");
        let (start, end) = (Bytes::from_static(b"/"), Bytes::from_static(b"0"));
        let mut before = None;
        for round in 1..5u64 {
            store.put(Bytes::from_static(b"/k"), Bytes::new(), Expect::Any, None).await.expect("written");
            let now = step(&store, before.replace(round)).await.expect("a step");
            assert_eq!(now, round);
            // What was written since the step before can be read; what was before that can't.
            store.range(start.clone(), end.clone(), Some(round.saturating_sub(1)), 0).await.expect("recent enough");
            if round > 2 {
                let old = store.range(start.clone(), end.clone(), Some(round - 2), 0).await;
                assert!(matches!(old, Err(Error::Compacted { oldest }) if oldest == round - 1));
            }
        }
    }
}
