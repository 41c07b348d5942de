//! Opening a directory: lock it, read its log, cut off a torn end. Must change nothing in a directory that it finds corrupted.

use super::format::{Header, Kind, Record};
use super::index::{Index, Rebuild, Version};
use super::segment::{self, Head, Place, Segment};
use super::{Options, State};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// Makes sure that this process alone has the store open.
pub(super) fn lock(dir: &Path) -> Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| segment::io_error(dir, "creating", &e))?;
    let path = dir.join("LOCK");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|e| segment::io_error(&path, "opening", &e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder); // Only to say who; the lock itself is what counts.
            let holder = if holder.trim().is_empty() { "another process".into() } else { format!("process {}", holder.trim()) };
            return Err(Error::Unavailable(format!("the store at {} is already open in {holder}", dir.display())));
        }
        Err(std::fs::TryLockError::Error(e)) => return Err(segment::io_error(&path, "locking", &e)),
    }
    // Best effort, and on a full disk it may well fail: the number only makes another process's error better.
    let _ = file.rewind().and_then(|()| file.set_len(0)).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

/// An opened log.
pub(super) struct Recovered {
    pub state: State,
    pub head: Head,
}

/// A random number, different for each segment. It need not be secret.
pub(super) fn salt() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// Numbers of the segments in `dir`, in order; none when there is no such directory.
pub(super) fn segment_ids(dir: &Path) -> Result<Vec<u32>> {
    let failed = |e: std::io::Error| segment::io_error(dir, "listing", &e);
    let mut ids = Vec::new();
    let listing = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(ids),
        other => other.map_err(failed)?,
    };
    for entry in listing {
        let name = entry.map_err(failed)?.file_name();
        ids.extend(name.to_str().and_then(segment::parse_file_name));
    }
    ids.sort_unstable();
    Ok(ids)
}

/// Removes files of segments whose making a crash interrupted.
fn remove_unfinished(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|n| n.starts_with("segment-") && n.ends_with(".tmp")) {
            let _ = std::fs::remove_file(entry.path()); // It is in nobody's way.
        }
    }
}

/// A log that was read and checked; nothing was changed.
pub(super) struct Loaded {
    pub index: Index,
    pub segments: Vec<Arc<Segment>>,
    /// The first segment that still counts.
    oldest: u32,
    /// Where the sound frames of each segment end.
    lengths: BTreeMap<u32, u64>,
}

/// Reads and checks the log in `dir`. `None` when there is none.
pub(super) fn load(dir: &Path) -> Result<Option<Loaded>> {
    let corrupted = |detail: String| Error::Corrupted { path: dir.display().to_string(), detail };
    let ids = segment_ids(dir)?;
    if ids.is_empty() {
        return Ok(None);
    }
    if let Some(pair) = ids.windows(2).find(|pair| pair[1] != pair[0] + 1) {
        return Err(corrupted(format!("segment {} is missing", pair[0] + 1)));
    }
    let segments: Vec<Arc<Segment>> = ids.iter().map(|id| Segment::open(dir, *id).map(Arc::new)).collect::<Result<_>>()?;
    let mut rebuild = Rebuild::default();
    let mut oldest = 0;
    let mut lengths = BTreeMap::new();
    let last = segments.len() - 1;
    for (i, segment) in segments.iter().enumerate() {
        rebuild.note(segment.header.revision, segment.header.compacted);
        oldest = oldest.max(segment.header.oldest);
        let end = segment.scan(i == last, |record, place| {
            take(&mut rebuild, &mut oldest, record, place)
                .map_err(|detail| segment.corrupted(format!("at offset {}: {detail}", place.offset)))
        })?;
        lengths.insert(segment.header.id, end);
    }
    if ids[0] > oldest {
        return Err(corrupted(format!("segment {oldest} is missing")));
    }
    let index = rebuild.finish().map_err(corrupted)?;
    if let Some(id) = (ids[0]..oldest).find(|id| index.live_in(*id) != 0) {
        return Err(corrupted(format!("segment {id} was dropped but records in it are in use")));
    }
    Ok(Some(Loaded { index, segments, oldest, lengths }))
}

/// Reads the log in `dir`, or starts one.
pub(super) fn recover(dir: &Path, options: &Options) -> Result<Recovered> {
    let Some(Loaded { index, segments, oldest, mut lengths }) = load(dir)? else { return start(dir, options) };
    let last = segments.len() - 1;
    // All checks are passed; from here on things may change.
    remove_unfinished(dir);
    let mut map = BTreeMap::new();
    for segment in &segments {
        if segment.header.id < oldest {
            segment.remove().map_err(|e| segment::io_error(&segment.path, "removing", &e))?;
            lengths.remove(&segment.header.id);
        } else {
            map.insert(segment.header.id, Arc::clone(segment));
        }
    }
    let newest = &segments[last];
    let end = lengths[&newest.header.id];
    if newest.file_len()? != end {
        newest.truncate(end, options.fsync)?;
    }
    let head = Head::new(Arc::clone(newest), end, options.fsync);
    Ok(Recovered { state: State { index, segments: map, lengths, watches: Vec::new(), stopped: None }, head })
}

/// A new log.
fn start(dir: &Path, options: &Options) -> Result<Recovered> {
    remove_unfinished(dir);
    let header = Header { id: 1, salt: salt(), revision: 0, compacted: 0, oldest: 1 };
    let segment = Arc::new(Segment::create(dir, header, options.fsync)?);
    let length = super::format::HEADER_LEN as u64;
    let head = Head::new(Arc::clone(&segment), length, options.fsync);
    let index = Rebuild::default().finish().map_err(|detail| segment.corrupted(detail))?;
    let state = State {
        index,
        segments: BTreeMap::from([(1, segment)]),
        lengths: BTreeMap::from([(1, length)]),
        watches: Vec::new(),
        stopped: None,
    };
    Ok(Recovered { state, head })
}

/// Takes in one record.
fn take(rebuild: &mut Rebuild, oldest: &mut u32, record: Record<'_>, place: Place) -> std::result::Result<(), String> {
    let version = Version { revision: record.revision, create: record.create, place };
    match record.kind {
        Kind::Put | Kind::Delete if (record.kind == Kind::Delete) != version.is_delete() => {
            return Err(format!("revision {} is neither a put nor a delete", record.revision));
        }
        Kind::Put | Kind::Delete if record.moved => rebuild.moved(record.key, version, record.expiry, record.until),
        Kind::Put | Kind::Delete => rebuild.written(record.key, version, record.expiry)?,
        Kind::Compacted => rebuild.note(0, record.revision),
        Kind::Dropped => *oldest = (*oldest).max(u32::try_from(record.revision).map_err(|e| e.to_string())? + 1),
        Kind::Closed => rebuild.note(record.revision, 0),
    }
    Ok(())
}
