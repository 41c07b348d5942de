//! A full disk: writes fail with `NoSpace` and happen not at all, reads go on, and writes go on when there is room again.
//! Needs root and `unshare` for a small tmpfs in a mount namespace of its own.

use bytes::Bytes;
use ferrokube_store::embedded::{Embedded, Options};
use ferrokube_store::{Error, Expect, Store, prefix_end};
use std::path::{Path, PathBuf};
use std::process::Command;

const DIR: &str = "FERROKUBE_FULL_DISK_DIR";

fn key(n: usize) -> Bytes {
    Bytes::from(format!("/k/{n:05}"))
}

#[test]
fn a_full_disk_refuses_writes_whole_and_recovers() {
    let dir = tempfile::tempdir().expect("a directory");
    let mount = "mount -t tmpfs -o size=6m tmpfs \"$0\" && exec \"$1\" --exact child --ignored --nocapture";
    let run = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", mount])
        .arg(dir.path())
        .arg(std::env::current_exe().expect("this test"))
        .env(DIR, dir.path())
        .output();
    let out = match run {
        Ok(out) => out,
        Err(e) => return eprintln!("SKIP: unshare can't be run: {e}"),
    };
    let text = String::from_utf8_lossy(&out.stderr);
    if text.contains("unshare failed") || text.contains("mount: ") {
        return eprintln!("SKIP: mounting a tmpfs in a mount namespace needs root: {text}");
    }
    assert!(out.status.success(), "{text}\n{}", String::from_utf8_lossy(&out.stdout));
}

/// Not a test of its own: runs on the small tmpfs.
#[test]
#[ignore = "run as a child by the full disk test"]
fn child() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(fill_and_recover(&dir));
}

/// Writes new keys from `from` until the disk is full; returns how many keys there are then.
async fn fill(store: &Embedded, from: usize) -> usize {
    for n in from.. {
        match store.put(key(n), Bytes::from(vec![n as u8; 10_000]), Expect::Absent, None).await {
            Ok(_) => {}
            Err(Error::NoSpace { path }) => {
                assert!(path.contains("segment-"), "{path}");
                return n;
            }
            Err(e) => panic!("{e}"),
        }
    }
    unreachable!("a tmpfs of 6 MB fills up")
}

async fn count(store: &Embedded) -> usize {
    store.range(key(0), prefix_end(b"/k/"), None, 0).await.expect("reads").items.len()
}

async fn fill_and_recover(dir: &Path) {
    let ballast = dir.join("ballast");
    std::fs::write(&ballast, vec![1; 2 << 20]).expect("writes");
    let options = || Options { segment_bytes: 256 << 10, ..Options::default() };
    let store = Embedded::open(&dir.join("store"), options()).expect("opens");
    let keys = fill(&store, 0).await;
    assert!(keys > 100, "{keys}");
    let revision = store.revision().await.expect("revision");
    // Again and again: each is refused, and reads go on.
    for _ in 0..20 {
        assert!(matches!(store.put(key(0), Bytes::from(vec![0; 50_000]), Expect::Any, None).await, Err(Error::NoSpace { .. })));
    }
    assert_eq!(count(&store).await, keys);
    assert_eq!(store.revision().await.expect("revision"), revision, "a refused write takes no revision");
    // What makes room is still possible, also in the company of writes that are not.
    let (refused, deleted) =
        tokio::join!(store.put(key(0), Bytes::from(vec![0; 50_000]), Expect::Any, None), store.delete(key(keys - 1), Expect::Any));
    assert!(matches!(refused, Err(Error::NoSpace { .. })));
    assert_eq!(deleted.expect("a delete fits").revision, revision + 1);
    store.compact(revision + 1).await.expect("a compaction fits");
    let (keys, revision) = (keys - 1, revision + 1);
    // A restart on the full disk.
    drop(store);
    let store = Embedded::open(&dir.join("store"), options()).expect("opens on a full disk");
    assert_eq!(count(&store).await, keys);
    assert_eq!(store.revision().await.expect("revision"), revision);
    // Someone makes room; nothing has to be restarted.
    std::fs::remove_file(&ballast).expect("removes");
    let more = fill(&store, keys).await;
    assert!(more > keys + 50, "{keys} then {more}");
    drop(store);
    let store = Embedded::open(&dir.join("store"), options()).expect("opens");
    assert_eq!(count(&store).await, more);
}
