//! Caches over a transport whose subscription the test plays itself.

use bytes::Bytes;
use ferrokube_client::k8s_openapi::api::core::v1::ConfigMap;
use ferrokube_client::{Caches, Change, Client, Named, Object, Selection, Transport, TransportError};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;

/// Hands out one subscription and counts them.
struct Played {
    changes: Mutex<Vec<mpsc::UnboundedReceiver<Change>>>,
    subscriptions: Mutex<usize>,
}

impl Transport for Played {
    fn send(&self, _: http::Request<Bytes>) -> BoxFuture<'_, Result<http::Response<Bytes>, TransportError>> {
        Box::pin(async { Err(TransportError::new("nobody answers")) })
    }

    fn subscribe(&self, _: Selection) -> BoxStream<'static, Change> {
        *self.subscriptions.lock() += 1;
        let inbox = self.changes.lock().pop();
        match inbox {
            Some(inbox) => futures_util::stream::unfold(inbox, |mut i| async move { i.recv().await.map(|c| (c, i)) }).boxed(),
            None => futures_util::stream::pending().boxed(),
        }
    }
}

fn played() -> (Arc<Played>, Caches, mpsc::UnboundedSender<Change>) {
    let (tx, rx) = mpsc::unbounded_channel();
    let transport = Arc::new(Played { changes: Mutex::new(vec![rx]), subscriptions: Mutex::new(0) });
    (transport.clone(), Caches::new(Client::new(transport, "test")), tx)
}

fn map(name: &str, revision: u64) -> Arc<Object> {
    let json = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","namespace":"a","uid":"u-{name}","resourceVersion":"{revision}"}}}}"#
    );
    Arc::new(Object::from_json(Bytes::from(json)).unwrap())
}

fn listing(tx: &mpsc::UnboundedSender<Change>, objects: &[Arc<Object>]) {
    tx.send(Change::Restart).unwrap();
    objects.iter().for_each(|o| tx.send(Change::Set(o.clone())).unwrap());
    tx.send(Change::Synced(0)).unwrap();
}

#[tokio::test]
async fn asking_twice_for_a_selection_gives_one_subscription_and_the_very_objects() {
    let (transport, caches, tx) = played();
    let (one, two) = (caches.of::<ConfigMap>(), caches.of::<ConfigMap>());
    let object = map("x", 1);
    listing(&tx, std::slice::from_ref(&object));
    one.synced().await;
    assert_eq!(*transport.subscriptions.lock(), 1);
    assert!(Arc::ptr_eq(&two.object("a", "x").unwrap(), &object));
    assert_eq!(two.get("a", "x").unwrap().name(), "x");
}

#[tokio::test]
async fn a_second_listing_removes_what_it_does_not_name_and_repeats_nothing_else() {
    let (_transport, caches, tx) = played();
    let cache = caches.of::<ConfigMap>();
    listing(&tx, &[map("stays", 1), map("goes", 2)]);
    cache.synced().await;
    let (seen, mut events) = mpsc::unbounded_channel();
    cache.on_change(move |d| seen.send((d.key().name.to_string(), d.old.is_some(), d.new.is_some())).unwrap());
    let mut known = [events.recv().await.unwrap(), events.recv().await.unwrap()];
    known.sort();
    assert_eq!(known, [("goes".to_owned(), false, true), ("stays".to_owned(), false, true)]);
    listing(&tx, &[map("stays", 1), map("new", 3)]);
    assert_eq!(events.recv().await.unwrap(), ("new".to_owned(), false, true));
    assert_eq!(events.recv().await.unwrap(), ("goes".to_owned(), true, false));
    assert!(events.try_recv().is_err());
    assert_eq!(cache.len(), 2);
}

#[tokio::test]
async fn a_second_listing_is_there_as_a_whole_or_not_at_all() {
    let (_transport, caches, tx) = played();
    let cache = caches.of::<ConfigMap>();
    listing(&tx, &[map("first", 1), map("second", 2), map("third", 3)]);
    cache.synced().await;
    let (seen, mut events) = mpsc::unbounded_channel();
    let (shown, begun) = (cache.clone(), Arc::new(AtomicBool::new(false)));
    let is_begun = begun.clone();
    cache.on_change(move |_| {
        if is_begun.load(Ordering::Relaxed) {
            let all: Vec<(String, u64)> = shown.objects().iter().map(|o| (o.key.name.to_string(), o.revision)).collect();
            seen.send(all).unwrap();
        }
    });
    begun.store(true, Ordering::Relaxed);
    // The listing that breaks off is never seen.
    tx.send(Change::Restart).unwrap();
    tx.send(Change::Set(map("first", 4))).unwrap();
    listing(&tx, &[map("first", 6), map("third", 5)]);
    let whole = vec![("first".to_owned(), 6), ("third".to_owned(), 5)];
    for told in 0..3 {
        assert_eq!(events.recv().await.unwrap(), whole, "{told}");
    }
}

#[tokio::test]
async fn a_cache_tells_the_revision_that_it_shows() {
    let (_transport, caches, tx) = played();
    let cache = caches.of::<ConfigMap>();
    let (seen, mut events) = mpsc::unbounded_channel();
    let shown = cache.clone();
    cache.on_change(move |d| seen.send((d.latest().revision, shown.revision())).unwrap());
    listing(&tx, &[map("x", 3)]);
    assert_eq!(events.recv().await.unwrap(), (3, 3));
    tx.send(Change::Set(map("y", 5))).unwrap();
    assert_eq!(events.recv().await.unwrap(), (5, 5));
    tx.send(Change::Gone(map("x", 7))).unwrap();
    assert_eq!(events.recv().await.unwrap(), (3, 7), "the handler gets what was known");
    tx.send(Change::Restart).unwrap();
    tx.send(Change::Set(map("y", 5))).unwrap();
    tx.send(Change::Synced(9)).unwrap();
    tx.send(Change::Set(map("z", 10))).unwrap();
    assert_eq!(events.recv().await.unwrap(), (10, 10));
}

#[tokio::test]
async fn an_index_follows_its_objects() {
    let (_transport, caches, tx) = played();
    let cache = caches.of::<ConfigMap>();
    listing(&tx, &[map("x", 1)]);
    cache.synced().await;
    let by_first = cache.index(|o| vec![o.key.name[..1].to_owned()]);
    assert_eq!(by_first.get("x").len(), 1);
    let (seen, mut events) = mpsc::unbounded_channel();
    cache.on_change(move |d| seen.send(d.new.is_some()).unwrap());
    events.recv().await.unwrap();
    tx.send(Change::Gone(map("x", 2))).unwrap();
    assert!(!events.recv().await.unwrap());
    assert!(by_first.get("x").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_several_handlers_keep_is_read_as_of_one_moment() {
    let (_, caches, tx) = played();
    let cache = caches.of::<ConfigMap>();
    listing(&tx, &[]);
    cache.synced().await;
    let (first, second) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (told, is_told) = std::sync::mpsc::channel();
    let (has_read, read) = std::sync::mpsc::channel();
    let known = first.clone();
    cache.on_change(move |_| {
        known.store(true, Ordering::SeqCst);
        let _ = told.send(());
    });
    let known = second.clone();
    let read = Mutex::new(read);
    cache.on_change(move |_| {
        // A reader that does not wait is done long before this; one that waits never is.
        let _ = read.lock().recv_timeout(std::time::Duration::from_millis(300));
        known.store(true, Ordering::SeqCst);
    });
    let reader = cache.clone();
    let seen = tokio::task::spawn_blocking(move || {
        is_told.recv().unwrap();
        let seen = reader.steadily(|| (first.load(Ordering::SeqCst), second.load(Ordering::SeqCst)));
        let _ = has_read.send(());
        seen
    });
    tx.send(Change::Set(map("x", 1))).unwrap();
    assert_eq!(seen.await.unwrap(), (true, true));
}
