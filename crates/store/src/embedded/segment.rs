//! One file of the log: made, appended to, scanned and read by position. The only place that touches files.
//!
//! It must never report bytes as written that a crash could take back, and never leave part of a failed write where
//! the next open would take it for data.

use super::format::{self, FRAME_LEN, HEADER_LEN, Header, Record};
use crate::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Space is taken from the file system in steps of this size, so that most syncs need not write file metadata.
const ALLOCATE_STEP: u64 = 1 << 20;
/// Space that only deletes and notes may use: on a full disk there can still be made room.
const RESERVE: u64 = 64 << 10;
/// How much a scan reads at once.
const SCAN_BUFFER: usize = 1 << 20;

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Segment number.
    pub segment: u32,
    /// Offset of the record in the segment.
    pub offset: u32,
    /// Length of the record, header included.
    pub len: u32,
}

/// An open segment. Reads by position need no lock; a segment that is dropped from the log stays readable to those who hold it.
#[derive(Debug)]
pub(super) struct Segment {
    /// What it says of itself.
    pub header: Header,
    /// Its file's path.
    pub path: PathBuf,
    file: File,
}

/// Name of the file of segment `id`.
pub(super) fn file_name(id: u32) -> String {
    format!("segment-{id:010}.log")
}

/// Number of the segment that a file of this name holds.
pub(super) fn parse_file_name(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("segment-")?.strip_suffix(".log")?;
    (digits.len() == 10).then(|| digits.parse().ok()).flatten()
}

/// Whether the file system has no room (disk, quota or file size limit).
fn is_full(error: &io::Error) -> bool {
    use nix::libc::{EDQUOT, EFBIG, ENOSPC};
    matches!(error.raw_os_error(), Some(ENOSPC | EDQUOT | EFBIG))
}

/// The store's error for an I/O error at `path`.
pub(super) fn io_error(path: &Path, doing: &str, error: &io::Error) -> Error {
    if is_full(error) {
        Error::NoSpace { path: path.display().to_string() }
    } else {
        Error::Unavailable(format!("{doing} {}: {error}", path.display()))
    }
}

/// Makes the names in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| io_error(dir, "syncing the directory", &e))
}

impl Segment {
    /// Makes the file of a new segment, durable under its name only once its header is.
    pub fn create(dir: &Path, header: Header, sync: bool) -> Result<Segment> {
        let path = dir.join(file_name(header.id));
        let temporary = path.with_extension("tmp");
        let made = (|| {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all_at(&header.encode(), 0)?;
            if sync {
                file.sync_all()?;
            }
            std::fs::rename(&temporary, &path)?;
            Ok(file)
        })();
        let file = made.map_err(|e| {
            let _ = std::fs::remove_file(&temporary); // Best effort: the next open removes leftovers too.
            io_error(&path, "creating", &e)
        })?;
        if sync {
            sync_dir(dir)?;
        }
        Ok(Segment { header, path, file })
    }

    /// Opens the file of segment `id` and reads its header.
    pub fn open(dir: &Path, id: u32) -> Result<Segment> {
        let path = dir.join(file_name(id));
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(|e| io_error(&path, "opening", &e))?;
        let mut bytes = [0; HEADER_LEN];
        let header = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => Header::decode(&bytes),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err("shorter than a segment header".into()),
            Err(e) => return Err(io_error(&path, "reading", &e)),
        };
        let header = header.and_then(|h| if h.id == id { Ok(h) } else { Err(format!("holds segment {}", h.id)) });
        match header {
            Ok(header) => Ok(Segment { header, path, file }),
            Err(detail) => Err(Error::Corrupted { path: path.display().to_string(), detail }),
        }
    }

    /// Length of the file.
    pub fn file_len(&self) -> Result<u64> {
        self.file.metadata().map(|m| m.len()).map_err(|e| io_error(&self.path, "reading the size of", &e))
    }

    /// Cuts the file off at `len` and makes that durable.
    pub fn truncate(&self, len: u64, sync: bool) -> Result<()> {
        self.file
            .set_len(len)
            .and_then(|()| if sync { self.file.sync_all() } else { Ok(()) })
            .map_err(|e| io_error(&self.path, "truncating", &e))
    }

    /// Reads `buffer.len()` bytes at `offset`.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => self.corrupted(format!("ends before offset {}", offset + buffer.len() as u64)),
            _ => io_error(&self.path, "reading", &e),
        })
    }

    /// The error that this segment is corrupted.
    pub fn corrupted(&self, detail: String) -> Error {
        Error::Corrupted { path: self.path.display().to_string(), detail }
    }

    /// Removes the file. Readers that hold the segment are not disturbed.
    pub fn remove(&self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }

    /// Calls `each` with every record and its place, in order, and returns where the sound frames end.
    ///
    /// In the `last` segment a frame that is not sound is the torn end of a write that was never acknowledged, unless
    /// sound frames follow it. There, and in any earlier segment, it is corruption.
    pub fn scan(&self, last: bool, mut each: impl FnMut(Record<'_>, Place) -> Result<()>) -> Result<u64> {
        let mut window = Window { segment: self, len: self.file_len()?, buffer: Vec::new(), start: 0 };
        let mut at = HEADER_LEN as u64;
        while at < window.len {
            let Some(frame) = window.sound_frame(at)? else {
                if !last {
                    return Err(self.corrupted(format!("frame at offset {at} fails its checksum")));
                }
                if let Some(next) = window.find_sound_frame_after(at)? {
                    return Err(self.corrupted(format!("frame at offset {at} fails its checksum, and a sound one follows at {next}")));
                }
                break;
            };
            let mut from = FRAME_LEN;
            while from < frame.len() {
                let offset = at + from as u64;
                let record = Record::decode(&frame[from..]).ok_or_else(|| self.corrupted(format!("no record at offset {offset}")))?;
                let place = Place { segment: self.header.id, offset: offset as u32, len: record.len() as u32 };
                each(record, place)?;
                from += record.len();
            }
            at += frame.len() as u64;
        }
        Ok(at)
    }
}

/// A buffered view of a segment for scans.
struct Window<'a> {
    segment: &'a Segment,
    len: u64,
    buffer: Vec<u8>,
    start: u64,
}

impl Window<'_> {
    /// `count` bytes at `at`, or nothing when the file ends before.
    fn bytes(&mut self, at: u64, count: usize) -> Result<Option<&[u8]>> {
        if at + count as u64 > self.len {
            return Ok(None);
        }
        let held = self.start..self.start + self.buffer.len() as u64;
        if at < held.start || at + count as u64 > held.end {
            let size = (count.max(SCAN_BUFFER) as u64).min(self.len - at) as usize;
            self.buffer.resize(size, 0);
            self.start = at;
            if let Err(e) = self.segment.read(at, &mut self.buffer) {
                self.buffer.clear();
                // A log in use (a backup reads it) is cut to its length when its next segment begins.
                let len = self.segment.file_len()?;
                if len >= self.len {
                    return Err(e);
                }
                self.len = len;
                return self.bytes(at, count);
            }
        }
        let from = (at - self.start) as usize;
        Ok(Some(&self.buffer[from..from + count]))
    }

    /// The whole frame at `at`, when a sound one is there.
    fn sound_frame(&mut self, at: u64) -> Result<Option<&[u8]>> {
        let Some(header) = self.bytes(at, FRAME_LEN)? else { return Ok(None) };
        let Some(len) = format::frame_payload_len(header) else { return Ok(None) };
        let salt = self.segment.header.salt;
        let frame = self.bytes(at, FRAME_LEN + len)?;
        Ok(frame.filter(|frame| format::frame_is_sound(frame, salt, at)))
    }

    /// Offset of the first sound frame behind `at`.
    fn find_sound_frame_after(&mut self, at: u64) -> Result<Option<u64>> {
        let mut from = at + 1;
        while from + FRAME_LEN as u64 <= self.len {
            let size = (self.len - from).min(SCAN_BUFFER as u64) as usize;
            let Some(bytes) = self.bytes(from, size)? else { break };
            let candidates: Vec<u64> = memchr::memmem::find_iter(bytes, &format::FRAME_MAGIC).map(|i| from + i as u64).collect();
            for candidate in candidates {
                if self.sound_frame(candidate)?.is_some() {
                    return Ok(Some(candidate));
                }
            }
            // Steps overlap by less than a magic number: one that lies across the border is seen by the next step.
            from += (size as u64).saturating_sub(3).max(1);
        }
        Ok(None)
    }
}

/// The end of the log, where frames are appended. Owned by the writer.
#[derive(Debug)]
pub(super) struct Head {
    /// The segment that is appended to.
    pub segment: std::sync::Arc<Segment>,
    /// Where the next frame goes.
    pub position: u64,
    allocated: u64,
    sync: bool,
}

impl Head {
    /// The end of `segment`, whose sound frames end at `position` and whose file ends there too.
    pub fn new(segment: std::sync::Arc<Segment>, position: u64, sync: bool) -> Head {
        Head { segment, position, allocated: position, sync }
    }

    /// Appends a frame (header space first, see [`format::seal_frame`]) and makes it durable. One that `makes_room` may use the
    /// reserve. On an error nothing of it counts; [`Error::NoSpace`] leaves the head usable, any other error does not.
    pub fn append(&mut self, frame: &mut [u8], makes_room: bool) -> Result<()> {
        format::seal_frame(frame, self.segment.header.salt, self.position);
        // Nothing has been written when this fails, and what is allocated stays in reserve.
        self.allocate(frame.len() as u64, makes_room).map_err(|e| io_error(&self.segment.path, "extending", &e))?;
        let written = self.segment.file.write_all_at(frame, self.position);
        let written = written.and_then(|()| if self.sync { self.segment.file.sync_data() } else { Ok(()) });
        match written {
            Ok(()) => {
                self.position += frame.len() as u64;
                self.allocated = self.allocated.max(self.position);
                Ok(())
            }
            Err(e) => {
                // What may be left there can't pass for a frame once the next one is written over its start; cutting it off
                // makes sure of it now. When that fails as well, the log may not go on.
                self.allocated = self.position;
                self.segment.truncate(self.position, self.sync)?;
                Err(io_error(&self.segment.path, "writing", &e))
            }
        }
    }

    fn allocate(&mut self, more: u64, makes_room: bool) -> io::Result<()> {
        let needed = self.position + more + if makes_room { 0 } else { RESERVE };
        if needed <= self.allocated {
            return Ok(());
        }
        let end = needed.next_multiple_of(ALLOCATE_STEP);
        let (from, count) = (self.allocated as i64, (end - self.allocated) as i64);
        match nix::fcntl::fallocate(&self.segment.file, nix::fcntl::FallocateFlags::empty(), from, count) {
            Ok(()) => self.allocated = end,
            // A file system that can't do it in advance does it as we write.
            Err(nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::ENOSYS) => {}
            // Then it takes what the write itself can get.
            Err(_) if makes_room => {}
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }

    /// Gives back the space behind the last frame; the segment is complete.
    pub fn finish(&mut self) -> Result<()> {
        self.allocated = self.position;
        self.segment.truncate(self.position, self.sync)
    }
}
