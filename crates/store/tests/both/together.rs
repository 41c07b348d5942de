//! Many writers, watchers, readers and compactions at once, on several threads: every watcher sees every event of its range once and
//! in order, and every page shows one moment.

use crate::harness::{Harness, Watch};
use bytes::Bytes;
use ferrokube_store::{Error, Event, Expect, Revision, Store, prefix_end};
use futures_util::StreamExt;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const WRITERS: u64 = 6;

fn key(room: u64, n: u64) -> Bytes {
    Bytes::from(format!("/registry/{room}/{n:02}"))
}

/// A value that tells which write it is.
fn value(writer: u64, serial: u64) -> Bytes {
    Bytes::from(format!("{writer} {serial} {}", "x".repeat((serial % 300) as usize)))
}

async fn write(store: Arc<dyn Store>, writer: u64, writes: u64) -> Vec<(Revision, Bytes, Option<Bytes>)> {
    let mut done = Vec::new();
    for serial in 0..writes {
        let key = key(serial % 3, (serial * 5 + writer) % 20);
        let value = (serial % 5 != 4).then(|| value(writer, serial));
        let result = match &value {
            Some(value) => store.put(key.clone(), value.clone(), Expect::Any, None).await,
            None => store.delete(key.clone(), Expect::Any).await,
        };
        match result {
            Ok(committed) => done.push((committed.revision, key, value)),
            Err(Error::Conflict { actual: None }) if value.is_none() => {}
            Err(e) => panic!("{e}"),
        }
    }
    done
}

/// Follows a watch until `last` is delivered, and says how far it is.
async fn follow(mut watch: Watch, at: Arc<AtomicU64>, last: tokio::sync::watch::Receiver<Option<Revision>>) -> Vec<Event> {
    let (mut events, mut position) = (Vec::new(), 0);
    while last.borrow().is_none_or(|last| position < last) {
        let batch = watch.next().await.expect("goes on").expect("sound");
        assert!(batch.revision >= position, "progress goes forward");
        assert!(batch.events.iter().all(|e| e.revision() > position && e.revision() <= batch.revision));
        position = batch.revision;
        at.store(position, Ordering::Relaxed);
        events.extend(batch.events);
    }
    events
}

/// Reads everything over and over: a page is one moment, so a second read at its revision gives the same.
async fn read(store: Arc<dyn Store>, over: Arc<AtomicBool>) {
    while !over.load(Ordering::Relaxed) {
        let page = store.range(key(0, 0), prefix_end(b"/registry/"), None, 0).await.expect("reads");
        assert!(page.items.iter().all(|kv| kv.mod_revision <= page.revision && kv.create_revision <= kv.mod_revision));
        match store.range(key(0, 0), prefix_end(b"/registry/"), Some(page.revision), 0).await {
            Ok(again) => assert_eq!(again.items, page.items),
            Err(Error::Compacted { oldest }) => assert!(oldest > page.revision),
            Err(e) => panic!("{e}"),
        }
        tokio::task::yield_now().await;
    }
}

async fn everyone_sees_one_history(harness: &Harness) {
    let writes = if harness.is_dense() { 1500 } else { 250 };
    let store = harness.open().await;
    let base = store.revision().await.expect("revision");
    let (last, over) = (tokio::sync::watch::channel(None), Arc::new(AtomicBool::new(false)));
    let ranges = [
        (key(0, 0), prefix_end(b"/registry/")),
        (key(1, 0), prefix_end(b"/registry/1/")),
        (key(2, 3), key(2, 9)),
        (key(9, 0), prefix_end(b"/registry/9/")),
    ];
    let (mut watches, mut positions) = (Vec::new(), Vec::new());
    for (start, end) in &ranges {
        let watch = store.watch(start.clone(), end.clone(), base).await.expect("a watch");
        positions.push(Arc::new(AtomicU64::new(base)));
        watches.push(tokio::spawn(follow(watch, Arc::clone(&positions[positions.len() - 1]), last.1.clone())));
    }
    let reader = tokio::spawn(read(Arc::clone(&store), Arc::clone(&over)));
    let writers: Vec<_> = (0..WRITERS).map(|w| tokio::spawn(write(Arc::clone(&store), w, writes))).collect();
    let compactor = tokio::spawn({
        let (store, over) = (Arc::clone(&store), Arc::clone(&over));
        async move {
            while !over.load(Ordering::Relaxed) {
                // As far as no watch is lost, however slow this machine is.
                let all_have = positions.iter().map(|p| p.load(Ordering::Relaxed)).min().unwrap_or(0);
                store.compact(all_have).await.expect("compacts");
                tokio::task::yield_now().await;
            }
        }
    });
    let mut history: BTreeMap<Revision, (Bytes, Option<Bytes>)> = BTreeMap::new();
    for writer in writers {
        for (revision, key, value) in writer.await.expect("writes") {
            assert!(history.insert(revision, (key, value)).is_none(), "revision {revision} was given twice");
        }
    }
    let revision = store.revision().await.expect("revision");
    assert!(!harness.is_dense() || history.keys().copied().eq(1..=revision), "every revision is one write");
    last.0.send_replace(Some(revision));
    over.store(true, Ordering::Relaxed);
    store.request_progress().await.expect("progress");
    for (watch, (start, end)) in watches.into_iter().zip(&ranges) {
        let seen: Vec<_> = watch.await.expect("watches").into_iter().map(flat).collect();
        let want: Vec<_> =
            history.iter().filter(|(_, (k, _))| k >= start && k < end).map(|(r, (k, v))| (*r, k.clone(), v.clone())).collect();
        assert_eq!(seen.len(), want.len());
        assert!(seen == want, "the watch of {start:?} differs from what was written");
    }
    reader.await.expect("reads");
    compactor.await.expect("compacts");
    let before = store.range(key(0, 0), prefix_end(b"/registry/"), None, 0).await.expect("reads").items;
    assert_eq!(Arc::strong_count(&store), 1, "all others are done");
    drop(store);
    let store = harness.open().await;
    assert_eq!(store.range(key(0, 0), prefix_end(b"/registry/"), None, 0).await.expect("reads").items, before);
}

fn flat(event: Event) -> (Revision, Bytes, Option<Bytes>) {
    match event {
        Event::Put(kv) => (kv.mod_revision, kv.key, Some(kv.value)),
        Event::Delete { key, revision } => (revision, key, None),
    }
}

crate::harness::for_both_engines! {
    everyone_sees_one_history_while_it_is_written_compacted_and_cleaned => super::everyone_sees_one_history,
}
