//! What an open says to damaged files: a torn end is cut off, anything else is refused and left as it is.

use bytes::Bytes;
use ferrokube_store::embedded::{Embedded, Options};
use ferrokube_store::{Error, Expect, Store};
use std::fs;
use std::path::{Path, PathBuf};

const WRITES: u64 = 6;

fn options() -> Options {
    Options { fsync: false, ..Options::default() }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A store as a kill leaves it: no closing note. Returns where each frame ends.
fn killed_store(dir: &Path) -> Vec<u64> {
    let mut ends = Vec::new();
    runtime().block_on(async {
        let store = Embedded::open(dir, options()).expect("opens");
        for n in 0..WRITES {
            let value = Bytes::from(vec![n as u8; 200]);
            store.put(Bytes::from(format!("/k/{n}")), value, Expect::Any, None).await.expect("written");
            ends.push(store.size_on_disk().await.expect("size"));
        }
    });
    // Without the note that closing leaves.
    let file = fs::OpenOptions::new().write(true).open(segment(dir, 1)).expect("opens");
    file.set_len(*ends.last().expect("frames")).expect("cuts");
    ends
}

fn segment(dir: &Path, id: u32) -> PathBuf {
    dir.join(format!("segment-{id:010}.log"))
}

fn revision_of(dir: &Path) -> Result<u64, Error> {
    let store = Embedded::open(dir, options())?;
    let count = runtime().block_on(store.range(Bytes::from_static(b"/"), Bytes::from_static(b"0"), None, 0))?.count;
    let revision = runtime().block_on(store.revision())?;
    assert_eq!(count, revision, "each write made one key");
    Ok(revision)
}

#[test]
fn a_torn_end_is_cut_off_at_every_possible_length() {
    let template = tempfile::tempdir().expect("a directory");
    let ends = killed_store(template.path());
    let bytes = fs::read(segment(template.path(), 1)).expect("reads");
    let (before, end) = (ends[WRITES as usize - 2] as usize, ends[WRITES as usize - 1] as usize);
    for cut in before..=end {
        for tail in [0usize, 5000] {
            let dir = tempfile::tempdir().expect("a directory");
            let mut torn = bytes[..cut].to_vec();
            // As preallocated space looks.
            torn.resize(cut + tail, 0);
            fs::write(segment(dir.path(), 1), torn).expect("writes");
            let want = if cut == end { WRITES } else { WRITES - 1 };
            assert_eq!(revision_of(dir.path()).expect("opens"), want, "cut at {cut}, {tail} zeros");
            // And again, after the cut and a closing note.
            assert_eq!(revision_of(dir.path()).expect("opens"), want, "cut at {cut}, {tail} zeros, second open");
        }
    }
}

#[test]
fn a_last_frame_with_any_page_unwritten_is_cut_off() {
    let template = tempfile::tempdir().expect("a directory");
    let ends = killed_store(template.path());
    let bytes = fs::read(segment(template.path(), 1)).expect("reads");
    let (before, end) = (ends[WRITES as usize - 2] as usize, ends[WRITES as usize - 1] as usize);
    for at in (before..end).step_by(16) {
        let dir = tempfile::tempdir().expect("a directory");
        let mut torn = bytes.clone();
        let stop = (at + 16).min(end);
        torn[at..stop].iter_mut().for_each(|b| *b ^= 0xff);
        fs::write(segment(dir.path(), 1), torn).expect("writes");
        assert_eq!(revision_of(dir.path()).expect("opens"), WRITES - 1, "damaged at {at}");
    }
}

#[test]
fn damage_before_the_last_frame_is_corruption_and_changes_nothing() {
    let template = tempfile::tempdir().expect("a directory");
    let ends = killed_store(template.path());
    let bytes = fs::read(segment(template.path(), 1)).expect("reads");
    let before = ends[WRITES as usize - 2] as usize;
    for at in (0..before).step_by(7) {
        let dir = tempfile::tempdir().expect("a directory");
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        fs::write(segment(dir.path(), 1), &damaged).expect("writes");
        let error = revision_of(dir.path()).expect_err("refused");
        assert!(matches!(&error, Error::Corrupted { path, .. } if path.contains("segment-")), "at {at}: {error}");
        assert_eq!(fs::read(segment(dir.path(), 1)).expect("reads"), damaged, "left as it was");
    }
}

#[test]
fn damage_to_the_last_write_of_a_closed_store_is_corruption() {
    let dir = tempfile::tempdir().expect("a directory");
    let ends = killed_store(dir.path());
    assert_eq!(revision_of(dir.path()).expect("opens"), WRITES);
    let mut bytes = fs::read(segment(dir.path(), 1)).expect("reads");
    bytes[ends[WRITES as usize - 1] as usize - 3] ^= 1;
    fs::write(segment(dir.path(), 1), bytes).expect("writes");
    assert!(matches!(revision_of(dir.path()), Err(Error::Corrupted { .. })));
}

#[test]
fn a_missing_segment_is_corruption() {
    for missing in [1, 2, 3] {
        let dir = tempfile::tempdir().expect("a directory");
        runtime().block_on(async {
            let store = Embedded::open(dir.path(), Options { segment_bytes: 4096, ..options() }).expect("opens");
            for n in 0..18 {
                store.put(Bytes::from(format!("/k/{n}")), Bytes::from(vec![1; 1000]), Expect::Any, None).await.expect("written");
            }
        });
        assert!(segment(dir.path(), 4).exists());
        fs::remove_file(segment(dir.path(), missing)).expect("removes");
        let error = revision_of(dir.path()).expect_err("refused");
        assert!(matches!(error, Error::Corrupted { .. }), "segment {missing}: {error}");
    }
}

#[test]
fn a_file_of_another_format_version_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a directory");
    killed_store(dir.path());
    let mut bytes = fs::read(segment(dir.path(), 1)).expect("reads");
    bytes[8] = 9;
    fs::write(segment(dir.path(), 1), bytes).expect("writes");
    let error = revision_of(dir.path()).expect_err("refused").to_string();
    assert!(error.contains("format version 9; this build reads version 1"), "{error}");
}

#[test]
fn leftovers_of_an_interrupted_segment_are_removed() {
    let dir = tempfile::tempdir().expect("a directory");
    killed_store(dir.path());
    let leftover = segment(dir.path(), 2).with_extension("tmp");
    fs::write(&leftover, b"half").expect("writes");
    assert_eq!(revision_of(dir.path()).expect("opens"), WRITES);
    assert!(!leftover.exists());
}

#[test]
fn damage_that_comes_later_is_reported_by_the_read_that_meets_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(dir.path(), options()).expect("opens");
    let key = Bytes::from_static(b"/k");
    runtime().block_on(store.put(key.clone(), Bytes::from(vec![7; 500]), Expect::Any, None)).expect("written");
    let file = fs::OpenOptions::new().write(true).open(segment(dir.path(), 1)).expect("opens");
    std::os::unix::fs::FileExt::write_all_at(&file, b"!", 300).expect("writes");
    assert!(matches!(runtime().block_on(store.get(key)), Err(Error::Corrupted { .. })));
}

#[test]
fn one_directory_is_open_once_and_private() {
    use std::os::unix::fs::PermissionsExt;
    let outer = tempfile::tempdir().expect("a directory");
    let dir = outer.path().join("store");
    let store = Embedded::open(&dir, options()).expect("opens");
    let error = Embedded::open(&dir, options()).err().expect("refused").to_string();
    assert!(error.contains(&format!("already open in process {}", std::process::id())), "{error}");
    assert_eq!(fs::metadata(&dir).expect("there").permissions().mode() & 0o777, 0o700);
    for entry in fs::read_dir(&dir).expect("lists") {
        let entry = entry.expect("lists");
        assert_eq!(entry.metadata().expect("there").permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
    }
    drop(store);
    Embedded::open(&dir, options()).expect("opens once the other is gone");
}
