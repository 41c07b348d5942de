//! Backup and restore of a directory, without the engine.
//!
//! A backup only reads: it needs no lock and no running server, and a running one does not notice. Whoever may read the directory
//! (mode 0700) may make one; there is no endpoint to protect. Segments are opened first, so that one that the cleaner drops
//! meanwhile stays readable, and what is written after that is not part of the backup: it shows one moment, the end of the log as
//! it was read.
//!
//! A restore makes a new directory aside and moves it into place once everything is checked and durable. It must never touch a
//! directory that holds a store.

use super::format::{FRAME_LEN, HEADER_LEN, Header, Kind, Record};
use super::read::{self, Located};
use super::recover::{self, Loaded};
use super::segment::{self, Head, Segment};
use super::writer::now_millis;
use crate::backup::{Entry, Reader, Summary, Writer};
use crate::{Error, Result, prefix_end};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

/// Values fetched at once.
const TOGETHER: usize = 2048;
/// Bytes of records in a frame of a restored log.
const FRAME: usize = 1 << 20;
/// How often a log is read again that changed under the reading.
const ATTEMPTS: usize = 10;

/// Writes a backup of the store in `dir`, which may be in use.
///
/// # Errors
/// [`Error::Corrupted`] when the store is damaged, [`Error::Unavailable`] when there is none or something cannot be read or written.
pub fn backup(dir: &Path, to: impl Write) -> Result<Summary> {
    let loaded = load(dir)?;
    let index = &loaded.index;
    let end = prefix_end(b"");
    let revision = index.revision();
    let summary = Summary { revision, entries: index.range(b"", &end, revision).count() as u64, taken: now_millis() };
    let mut writer = Writer::new(to, summary)?;
    let mut versions = index.range(b"", &end, revision).map(|(_, version)| version);
    loop {
        let some: Vec<_> = versions.by_ref().take(TOGETHER).collect();
        if some.is_empty() {
            break;
        }
        let locate = |place: segment::Place| {
            let segment = loaded.segments.iter().find(|s| s.header.id == place.segment).cloned();
            let segment = segment.ok_or_else(|| Error::Unavailable(format!("segment {} is not part of the log", place.segment)))?;
            Ok(Located { segment, place })
        };
        let located = some.iter().map(|version| locate(version.place)).collect::<Result<Vec<_>>>()?;
        for kv in read::fetch(&located)? {
            writer.entry(&Entry { expiry: index.deadline(kv.mod_revision), kv })?;
        }
    }
    writer.finish()?;
    Ok(summary)
}

/// Reads the log. One that is being written can change between two reads: then it is read again.
fn load(dir: &Path) -> Result<Loaded> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        match recover::load(dir) {
            Ok(Some(loaded)) => return Ok(loaded),
            Ok(None) => return Err(Error::Unavailable(format!("there is no store in {}", dir.display()))),
            Err(error) if attempt == ATTEMPTS => return Err(error),
            Err(error) => tracing::debug!(%error, "the log changed while it was read"),
        }
    }
}

/// Makes a store in `dir` from a backup. Its revision is `bump` above the backup's, and nothing before that can be read.
///
/// # Errors
/// [`Error::Corrupted`] when the backup is damaged, [`Error::Unavailable`] when `dir` holds a store, [`Error::NoSpace`].
pub fn restore(dir: &Path, mut from: Reader<impl Read>, bump: u64) -> Result<Summary> {
    if !recover::segment_ids(dir)?.is_empty() {
        return Err(Error::Unavailable(format!("{} holds a store already; move it away first", dir.display())));
    }
    let aside = dir.with_extension("restoring");
    if aside.exists() {
        std::fs::remove_dir_all(&aside).map_err(|e| segment::io_error(&aside, "removing", &e))?;
    }
    let lock = recover::lock(&aside)?;
    let summary = from.summary();
    let revision = summary.revision.saturating_add(bump);
    let mut log = Log { dir: &aside, revision, head: None, frame: vec![0; FRAME_LEN] };
    while let Some(entry) = from.next_entry()? {
        log.add(&entry)?;
    }
    log.finish()?;
    // What is put into place has been read back.
    let restored = recover::load(&aside)?.map(|loaded| loaded.index.revision());
    if restored != Some(revision) {
        return Err(Error::Corrupted { path: aside.display().to_string(), detail: "the restored store does not read back".into() });
    }
    drop(lock);
    let placed =
        if dir.exists() { std::fs::remove_file(dir.join("LOCK")).or(Ok(())).and_then(|()| std::fs::remove_dir(dir)) } else { Ok(()) };
    placed.and_then(|()| std::fs::rename(&aside, dir)).map_err(|e| segment::io_error(dir, "moving the restored store to", &e))?;
    dir.parent().filter(|p| !p.as_os_str().is_empty()).map_or(Ok(()), segment::sync_dir)?;
    Ok(summary)
}

/// A log being written from nothing.
struct Log<'d> {
    dir: &'d Path,
    revision: u64,
    head: Option<Head>,
    frame: Vec<u8>,
}

impl Log<'_> {
    fn add(&mut self, entry: &Entry) -> Result<()> {
        let kv = &entry.kv;
        if kv.mod_revision == 0 || kv.create_revision == 0 || kv.mod_revision > self.revision {
            return Err(Error::Corrupted { path: "the backup".into(), detail: format!("revision {} is not possible", kv.mod_revision) });
        }
        super::check_sizes(&kv.key, &kv.value)?;
        let record = Record {
            kind: Kind::Put,
            moved: true,
            revision: kv.mod_revision,
            create: kv.create_revision,
            expiry: entry.expiry,
            until: 0,
            key: &kv.key,
            value: &kv.value,
        };
        record.encode(&mut self.frame);
        if self.frame.len() >= FRAME { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let limit = super::Options::default().segment_bytes;
        let head = match self.head.take() {
            Some(head) if head.position < limit => head,
            mut full => {
                if let Some(head) = &mut full {
                    head.finish()?;
                }
                let id = full.map_or(1, |head| head.segment.header.id + 1);
                let header = Header { id, salt: recover::salt(), revision: self.revision, compacted: self.revision, oldest: 1 };
                Head::new(Arc::new(Segment::create(self.dir, header, true)?), HEADER_LEN as u64, true)
            }
        };
        let head = self.head.insert(head);
        if self.frame.len() > FRAME_LEN {
            head.append(&mut self.frame, false)?;
            self.frame.clear();
            self.frame.resize(FRAME_LEN, 0);
        }
        Ok(())
    }

    /// Even an empty store has a segment: it carries the revision.
    fn finish(mut self) -> Result<()> {
        self.flush()?;
        self.head.as_mut().map_or(Ok(()), Head::finish)
    }
}
