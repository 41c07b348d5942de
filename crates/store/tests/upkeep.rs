//! What the engine does by itself: expiry, bounded history, bounded disk.

use bytes::Bytes;
use ferrokube_store::embedded::{Embedded, Options};
use ferrokube_store::{Error, Event, Expect, Store, prefix_end};
use futures_util::StreamExt;
use std::path::Path;
use std::time::{Duration, Instant};

fn options() -> Options {
    Options { fsync: false, segment_bytes: 16 << 10, ..Options::default() }
}

fn open(dir: &Path, options: Options) -> Embedded {
    Embedded::open(dir, options).expect("opens")
}

fn key(n: usize) -> Bytes {
    Bytes::from(format!("/k/{n:05}"))
}

/// Waits for the next event of a watch.
async fn next_event(watch: &mut futures_util::stream::BoxStream<'static, ferrokube_store::Result<ferrokube_store::Batch>>) -> Event {
    loop {
        let batch = watch.next().await.expect("goes on").expect("sound");
        if let Some(event) = batch.events.into_iter().next() {
            return event;
        }
    }
}

#[tokio::test]
async fn a_deadline_survives_a_restart_and_being_copied_forward() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path(), options());
    let asked = Instant::now();
    store.put(key(1), Bytes::new(), Expect::Any, Some(Duration::from_millis(1500))).await.expect("written");
    store.put(key(2), Bytes::new(), Expect::Any, Some(Duration::from_secs(3600))).await.expect("written");
    // Churn until the first segment has been cleaned away.
    churn_until_dropped(&store, dir.path(), 1).await;
    drop(store);
    let store = open(dir.path(), options());
    let mut watch = store.watch(key(1), key(2), store.revision().await.expect("revision")).await.expect("a watch");
    let there = store.get(key(1)).await.expect("reads").is_some();
    // A slow machine may come too late to see anything but the end.
    if asked.elapsed() < Duration::from_millis(1400) {
        assert!(there, "not before its time");
        assert!(matches!(next_event(&mut watch).await, Event::Delete { .. }));
    }
    while store.get(key(1)).await.expect("reads").is_some() {
        tokio::task::yield_now().await;
        assert!(asked.elapsed() < Duration::from_secs(60));
    }
    assert!(store.get(key(2)).await.expect("reads").is_some());
}

/// Overwrites one key and compacts until the file of `segment` is gone.
async fn churn_until_dropped(store: &Embedded, dir: &Path, segment: u32) {
    let file = dir.join(format!("segment-{segment:010}.log"));
    let started = Instant::now();
    while file.exists() {
        let done = store.put(key(500), Bytes::from(vec![1; 1000]), Expect::Any, None).await.expect("written");
        store.compact(done.revision).await.expect("compacts");
        assert!(started.elapsed() < Duration::from_secs(90), "segment {segment} is never dropped");
    }
}

#[tokio::test]
async fn disk_use_follows_the_data_and_not_the_number_of_writes() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path(), options());
    // Some data that never changes, some leases that always do.
    for n in 0..100 {
        store.put(key(n), Bytes::from(vec![n as u8; 1000]), Expect::Any, None).await.expect("written");
    }
    for round in 0..6000usize {
        let done = store.put(key(1000 + round % 10), Bytes::from(vec![round as u8; 500]), Expect::Any, None).await.expect("written");
        if round % 100 == 99 {
            store.compact(done.revision).await.expect("compacts");
        }
    }
    // 6,000 writes are 3.4 MB. 110 values are about 115 KB: at most twice that and three segments of 16 KiB stay. The cleaner has its own
    // thread, so on a busy machine it may come later.
    let started = Instant::now();
    while store.size_on_disk().await.expect("size") > 300 << 10 {
        assert!(started.elapsed() < Duration::from_secs(90), "{:?} bytes", store.size_on_disk().await);
        tokio::task::yield_now().await;
    }
    drop(store);
    let store = open(dir.path(), options());
    for n in 0..100 {
        let kv = store.get(key(n)).await.expect("reads").expect("still there");
        assert_eq!((kv.value, kv.mod_revision), (Bytes::from(vec![n as u8; 1000]), n as u64 + 1));
    }
}

#[tokio::test]
async fn history_is_bounded_even_when_nobody_compacts() {
    let dir = tempfile::tempdir().expect("a directory");
    for options in [Options { history_revisions: 200, ..options() }, Options { history_bytes: 100 << 10, ..options() }] {
        let store = open(dir.path(), options);
        for round in 0..3000usize {
            store.put(key(round % 10), Bytes::from(vec![1; 500]), Expect::Any, None).await.expect("written");
        }
        // What is compacted is freed by another thread, and only then the next compaction is due.
        let started = Instant::now();
        loop {
            let current = store.put(key(1), Bytes::from(vec![1; 500]), Expect::Any, None).await.expect("written").revision;
            match store.range(key(0), key(9), Some(1), 0).await {
                Err(Error::Compacted { oldest }) if current - oldest < 1000 => break,
                Err(Error::Compacted { .. }) | Ok(_) => {}
                Err(e) => panic!("{e}"),
            }
            assert!(started.elapsed() < Duration::from_secs(90), "history is not bounded");
        }
    }
}

#[tokio::test]
async fn deleted_keys_stay_deleted_after_cleaning_and_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path(), options());
    for n in 0..60 {
        store.put(key(n), Bytes::from(vec![2; 1000]), Expect::Any, None).await.expect("written");
    }
    // Copied forward first, deleted after, and then even the records of the deletion are cleaned away.
    churn_until_dropped(&store, dir.path(), 2).await;
    for n in 0..60 {
        store.delete(key(n), Expect::Any).await.expect("deleted");
    }
    for segment in [8, 12, 16] {
        churn_until_dropped(&store, dir.path(), segment).await;
        let all = prefix_end(b"/k/");
        assert_eq!(store.range(key(0), all.clone(), None, 0).await.expect("reads").count, 1);
    }
    let revision = store.revision().await.expect("revision");
    drop(store);
    let store = open(dir.path(), options());
    assert_eq!(store.range(key(0), prefix_end(b"/k/"), None, 0).await.expect("reads").count, 1);
    assert_eq!(store.revision().await.expect("revision"), revision, "the revision does not go back");
}

#[tokio::test]
async fn a_watch_that_fell_behind_a_compaction_ends_with_compacted() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(dir.path(), options()).expect("opens");
    let mut watch = store.watch(key(0), key(99), 0).await.expect("a watch");
    for _ in 0..5 {
        store.put(key(1), Bytes::from_static(b"x"), Expect::Any, None).await.expect("written");
    }
    store.compact(4).await.expect("compacted");
    assert!(matches!(watch.next().await, Some(Err(Error::Compacted { oldest: 4 }))));
    assert!(watch.next().await.is_none());
    assert!(matches!(store.watch(key(0), key(99), 6).await.err(), Some(Error::Future { asked: 6, current: 5 })));
}

#[tokio::test]
async fn a_watch_ends_when_the_engine_is_closed() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(dir.path(), options()).expect("opens");
    let mut watch = store.watch(key(0), key(99), 0).await.expect("a watch");
    store.close();
    assert!(matches!(watch.next().await, Some(Err(Error::Unavailable(_)))));
    assert!(matches!(store.put(key(1), Bytes::new(), Expect::Any, None).await, Err(Error::Unavailable(_))));
}
