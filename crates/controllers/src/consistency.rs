//! Own writes that the caches do not show yet.
//!
//! Until they do, what the controller knows of their owner is older than what it has done itself: it would make the same pod
//! again, and write a status that the server refuses because it is of an older object, as fast as requests go. So the owner waits, as
//! since 1.36 upstream (`StaleControllerConsistencyDaemonSet`, `...ReplicaSet`, `...StatefulSet`). Jobs go on from what they wrote
//! (`latest.rs`).
//!
//! Source: `pkg/controller/util/consistency`.

use ferrokube_client::metrics::{Desc, Metrics};
use ferrokube_client::{Cache, Resource};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// After this time a write that was not seen is given up: a store that was put back to an earlier state does not know it any more.
const GIVE_UP: Duration = Duration::from_secs(300);
/// When to look again. The write itself wakes its owner when it is shown, unless what was written has gone while nobody watched.
const AGAIN: Duration = Duration::from_secs(1);

/// A cache that has to catch up.
struct Shown {
    group: &'static str,
    resource: &'static str,
    revision: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl Shown {
    fn by<R: Resource>(cache: &Cache<R>) -> Self {
        let cache = cache.clone();
        Shown { group: R::GROUP, resource: R::RESOURCE, revision: Box::new(move || cache.revision()) }
    }
}

/// The newest own write of a resource.
#[derive(Clone, Copy)]
struct Write {
    resource: &'static str,
    revision: u64,
    at: Instant,
}

/// By the UID of the owner.
type Writes = Mutex<HashMap<Box<str>, Vec<Write>>>;

/// The newest own writes for each owner, and the caches that have to show them.
pub(crate) struct Written {
    shown: [Shown; 2],
    writes: Arc<Writes>,
    metrics: Metrics,
    skips: &'static Desc,
}

impl Written {
    /// Of owners and what they own; `skips` counts how often an owner had to wait.
    pub fn new<O: Resource, R: Resource>(metrics: &Metrics, skips: &'static Desc, owners: &Cache<O>, owned: &Cache<R>) -> Self {
        let writes = Arc::<Writes>::default();
        let gone = writes.clone();
        owners.on_change(move |d| {
            if d.new.is_none() {
                gone.lock().remove(&*d.latest().uid);
            }
        });
        Written { shown: [Shown::by(owners), Shown::by(owned)], writes, metrics: metrics.clone(), skips }
    }

    /// Notes what a write for this owner answered, or what the server was seen to have.
    pub fn wrote<R: Resource>(&self, owner_uid: &str, object: &R) {
        let Some(revision) = object.meta().resource_version.as_deref().and_then(|v| v.parse().ok()) else { return };
        let write = Write { resource: R::RESOURCE, revision, at: Instant::now() };
        let mut all = self.writes.lock();
        let own = all.entry(owner_uid.into()).or_default();
        match own.iter_mut().find(|w| w.resource == R::RESOURCE) {
            Some(known) if known.revision < revision => *known = write,
            Some(_) => {}
            None => own.push(write),
        }
    }

    /// When to look at this owner again, because the caches do not show yet what was done for it.
    pub fn is_behind(&self, owner_uid: &str) -> Option<Duration> {
        let behind = self.behind(owner_uid)?;
        self.metrics.count(self.skips, &[behind.group, behind.resource]);
        Some(AGAIN)
    }

    /// When to look again at an owner for which something was just written: what comes and goes between two listings is told by no
    /// event.
    pub fn awaited(&self, owner_uid: &str) -> Option<Duration> {
        self.behind(owner_uid).map(|_| AGAIN)
    }

    /// The cache that does not show yet what was done for this owner.
    fn behind(&self, owner_uid: &str) -> Option<&Shown> {
        let mut all = self.writes.lock();
        let own = all.get_mut(owner_uid)?;
        let shown = |w: &Write| self.shown.iter().find(|s| s.resource == w.resource);
        own.retain(|w| w.at.elapsed() < GIVE_UP && shown(w).is_some_and(|s| (s.revision)() < w.revision));
        let behind = own.first().and_then(shown);
        if behind.is_none() {
            all.remove(owner_uid);
        }
        behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use ferrokube_client::{Caches, Change, Client, Selection, Transport, TransportError};
    use futures_util::future::BoxFuture;
    use futures_util::stream::{self, BoxStream, StreamExt};
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    static SKIPS: Desc = Desc::counter("test_skips_total", "", &["group", "resource"]);

    /// Nobody answers, and nothing is ever heard.
    struct Mute;

    impl Transport for Mute {
        fn send(&self, _: http::Request<Bytes>) -> BoxFuture<'_, Result<http::Response<Bytes>, TransportError>> {
            Box::pin(async { Err(TransportError::new(std::io::Error::other("nobody answers"))) })
        }

        fn subscribe(&self, _: Selection) -> BoxStream<'static, Change> {
            stream::pending().boxed()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_is_never_shown_is_waited_for_but_not_for_ever() {
        let (caches, metrics) = (Caches::new(Client::new(Arc::new(Mute), "test")), Metrics::default());
        let written = Written::new(&metrics, &SKIPS, &caches.of::<ReplicaSet>(), &caches.of::<Pod>());
        assert_eq!(written.is_behind("rs"), None);
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "resourceVersion": "7"}})).unwrap();
        written.wrote("rs", &pod);
        assert_eq!((written.is_behind("rs"), written.is_behind("other")), (Some(AGAIN), None));
        assert_eq!((written.awaited("rs"), written.awaited("other")), (Some(AGAIN), None));
        tokio::time::advance(GIVE_UP).await;
        assert_eq!(written.is_behind("rs"), None);
        let mut text = String::new();
        metrics.write(&mut text);
        assert!(text.contains("test_skips_total{group=\"\",resource=\"pods\"} 1"), "{text}");
    }
}
