//! Backup and restore: one moment of a store in use, checked, and a restored store that no old watcher mistakes for the old one.

use bytes::Bytes;
use ferrokube_store::backup::{self, BUMP, Reader, Verified};
use ferrokube_store::embedded::{self, Embedded, Options};
use ferrokube_store::{Error, Event, Expect, Store, prefix_end};
use futures_util::StreamExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn key(n: usize) -> Bytes {
    Bytes::from(format!("/registry/things/{n:04}"))
}

fn open(dir: &Path) -> Embedded {
    Embedded::open(dir, Options { fsync: false, segment_bytes: 16 << 10, ..Options::default() }).expect("opens")
}

async fn all(store: &dyn Store) -> Vec<ferrokube_store::KeyValue> {
    store.range(key(0), prefix_end(b"/registry/things/"), None, 0).await.expect("reads").items
}

#[tokio::test]
async fn a_restored_store_has_every_key_and_none_of_the_history() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(&dir.path().join("old"));
    for n in 0..300 {
        store.put(key(n % 100), Bytes::from(vec![n as u8; 500]), Expect::Any, None).await.expect("written");
    }
    store.put(key(200), Bytes::from_static(b"short"), Expect::Any, Some(Duration::from_millis(1))).await.expect("written");
    store.put(key(201), Bytes::from_static(b"long"), Expect::Any, Some(Duration::from_secs(3600))).await.expect("written");
    for n in 0..10 {
        store.delete(key(n), Expect::Any).await.expect("deleted");
    }
    let revision = store.revision().await.expect("revision");
    let (want, mut file) = (all(&store).await, Vec::new());
    let made = embedded::backup(&dir.path().join("old"), &mut file).expect("a backup of a store that is open");
    assert!(made.revision >= revision && made.entries >= 91);
    assert!(matches!(backup::verify(&mut std::io::Cursor::new(&file)), Ok(Verified::Backup(summary)) if summary == made));
    let new = dir.path().join("new");
    embedded::restore(&new, Reader::new(&file[..]).expect("a backup"), BUMP).expect("restores");
    assert!(!dir.path().join("new.restoring").exists());
    let again = embedded::restore(&new, Reader::new(&file[..]).expect("a backup"), BUMP);
    assert!(matches!(again, Err(Error::Unavailable(text)) if text.contains("holds a store already")));
    let restored = open(&new);
    // What had a short time to live goes in its time, with a revision and an event.
    let mut watch = restored.watch(key(200), key(201), made.revision + BUMP).await.expect("a watch of the present");
    if want.iter().any(|kv| kv.key == key(200)) && made.entries == want.len() as u64 {
        let batch = watch.next().await.expect("goes on").expect("sound");
        assert!(matches!(&batch.events[..], [Event::Delete { revision, .. }] if *revision > made.revision + BUMP));
    }
    let lasting = |items: Vec<ferrokube_store::KeyValue>| items.into_iter().filter(|kv| kv.key != key(200)).collect::<Vec<_>>();
    assert_eq!(lasting(all(&restored).await), lasting(want), "the same values at the same revisions");
    // A watcher of the old store is sent away, wherever it was, even ahead of the backup.
    for position in [1, revision, revision + 1000] {
        let refused = restored.watch(key(0), key(99), position).await.err();
        assert!(matches!(refused, Some(Error::Compacted { oldest }) if oldest == made.revision + BUMP), "{refused:?}");
    }
    let written = restored.put(key(5), Bytes::new(), Expect::Absent, None).await.expect("goes on").revision;
    assert!(written > made.revision + BUMP);
    drop(restored);
    assert_eq!(open(&new).revision().await.expect("revision"), written, "it opens again");
}

/// Pairs of keys are written one after the other, so the second is never ahead of the first in any one moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_of_a_busy_store_shows_one_moment() {
    let dir = tempfile::tempdir().expect("a directory");
    let place = dir.path().join("store");
    let store = Arc::new(open(&place));
    let over = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (store, over) = (store.clone(), over.clone());
        async move {
            let mut serial = 0u64;
            while !over.load(Ordering::Relaxed) {
                serial += 1;
                let value = Bytes::from(format!("{serial:020}{}", "x".repeat(700)));
                for n in 0..2 {
                    let done = store.put(key(n), value.clone(), Expect::Any, None).await.expect("written");
                    store.compact(done.revision).await.expect("compacts");
                }
            }
        }
    });
    for _ in 0..40 {
        let place = place.clone();
        let file = tokio::task::spawn_blocking(move || {
            let mut file = Vec::new();
            embedded::backup(&place, &mut file).map(|_| file)
        });
        let file = file.await.expect("ends").expect("a backup");
        let mut reader = Reader::new(&file[..]).expect("a backup");
        let (mut serials, revision) = (Vec::new(), reader.summary().revision);
        while let Some(entry) = reader.next_entry().expect("sound") {
            assert!(entry.kv.mod_revision <= revision);
            serials.push(entry.kv.value[..20].to_vec());
        }
        if let [first, second] = &serials[..] {
            assert!(first >= second, "the second key is ahead of the first");
        }
        tokio::task::yield_now().await;
    }
    over.store(true, Ordering::Relaxed);
    writer.await.expect("writes");
}

#[tokio::test]
async fn a_damaged_backup_and_an_absent_store_change_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let none = embedded::backup(&dir.path().join("none"), Vec::new());
    assert!(matches!(none, Err(Error::Unavailable(text)) if text.contains("there is no store")));
    let store = open(&dir.path().join("old"));
    store.put(key(1), Bytes::from_static(b"x"), Expect::Any, None).await.expect("written");
    let mut file = Vec::new();
    embedded::backup(&dir.path().join("old"), &mut file).expect("a backup");
    let last = file.len() - 40;
    file[last] ^= 1;
    let refused = embedded::restore(&dir.path().join("new"), Reader::new(&file[..]).expect("a header"), BUMP);
    assert!(matches!(refused, Err(Error::Corrupted { .. })), "{refused:?}");
    assert!(!dir.path().join("new").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_moves_into_an_empty_etcd_and_a_snapshot_of_etcd_is_verified() {
    if let Err(error) = ferrokube_testkit::tools::etcd() {
        return eprintln!("SKIP: nothing is known about backups and etcd: {error:#}");
    }
    let etcd = ferrokube_testkit::etcd::Etcd::start(Default::default()).expect("starts");
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    for n in 0..200 {
        store.put(key(n), Bytes::from(format!("value {n}")), Expect::Any, None).await.expect("written");
    }
    let mut file = Vec::new();
    embedded::backup(dir.path(), &mut file).expect("a backup");
    let options = ferrokube_store::etcd::Options::new(etcd.endpoints());
    let target = ferrokube_store::etcd::Etcd::connect(options).await.expect("connects");
    backup::restore_into(&target, Reader::new(&file[..]).expect("a backup"), 0).await.expect("restores");
    let values = |items: Vec<ferrokube_store::KeyValue>| items.into_iter().map(|kv| (kv.key, kv.value)).collect::<Vec<_>>();
    assert_eq!(values(all(&target).await), values(all(&store).await));
    let again = backup::restore_into(&target, Reader::new(&file[..]).expect("a backup"), 0).await;
    assert!(matches!(again, Err(Error::Unavailable(text)) if text.contains("not empty")));
    let mut snapshot = Vec::new();
    let bytes = target.snapshot(&mut snapshot).await.expect("a snapshot").bytes;
    assert_eq!(backup::verify(&mut std::io::Cursor::new(&snapshot)).expect("sound"), Verified::EtcdSnapshot(bytes));
    let refused = Reader::new(&snapshot[..]).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(refused.contains("etcdutl snapshot restore"), "{refused}");
    snapshot[100] ^= 1;
    assert!(backup::verify(&mut std::io::Cursor::new(&snapshot)).is_err());
}
