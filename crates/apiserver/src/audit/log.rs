//! The log backend: one event per line, in a file that is rotated by size; old files go by age and number.
//!
//! Old files are named as upstream's rotation (lumberjack) names them: `audit-2026-01-02T15-04-05.000.log`, so that
//! collectors find them.

use super::sink::{Backend, BatchConfig, Mode, Sink, Truncate};
use super::{AuditError, Counts};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use parking_lot::Mutex;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FORMAT: &str = "%Y-%m-%dT%H-%M-%S%.3f";

/// `--audit-log-*`.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// The file; `-` is standard output.
    pub path: String,
    /// Megabytes at which the file is rotated.
    pub max_size: u64,
    /// Days for which old files are kept; 0 is for ever.
    pub max_age: u32,
    /// Old files that are kept; 0 is all.
    pub max_backups: usize,
    /// Whether old files are compressed.
    pub compress: bool,
    /// When events are written.
    pub mode: Mode,
    /// For mode batch.
    pub batch: BatchConfig,
    /// Limits on what is written.
    pub truncate: Option<Truncate>,
}

impl LogConfig {
    /// The defaults of 1.36.
    pub fn new(path: impl Into<String>) -> Self {
        LogConfig {
            path: path.into(),
            max_size: 100,
            max_age: 366,
            max_backups: 100,
            compress: false,
            mode: Mode::Blocking,
            batch: BatchConfig::log(),
            truncate: None,
        }
    }
}

struct Open {
    file: File,
    size: u64,
}

/// The file of now.
pub(super) struct LogFile {
    path: PathBuf,
    max_bytes: u64,
    max_age: u32,
    max_backups: usize,
    compress: bool,
    /// `None`: standard output.
    open: Option<Mutex<Open>>,
}

pub(super) fn open(config: &LogConfig, counts: Arc<Counts>) -> Result<Sink, AuditError> {
    let log = LogFile::new(config).map_err(|source| AuditError::Log { path: config.path.clone(), source })?;
    Ok(Sink::new(Backend::Log(log), config.mode, config.batch, config.truncate, counts))
}

fn append(path: &Path) -> io::Result<Open> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let size = file.metadata()?.len();
    Ok(Open { file, size })
}

impl LogFile {
    fn new(config: &LogConfig) -> io::Result<Self> {
        let path = PathBuf::from(&config.path);
        let open = if config.path == "-" {
            None
        } else {
            if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
                std::fs::create_dir_all(folder)?;
            }
            Some(Mutex::new(append(&path)?))
        };
        let (max_age, max_backups, compress) = (config.max_age, config.max_backups, config.compress);
        Ok(LogFile { path, max_bytes: config.max_size.max(1) << 20, max_age, max_backups, compress, open })
    }

    /// Writes whole lines: an event is never split over two files.
    pub fn write(&self, events: &[Bytes]) -> io::Result<()> {
        let mut lines = Vec::with_capacity(events.iter().map(|e| e.len() + 1).sum());
        for event in events {
            lines.extend_from_slice(event);
            lines.push(b'\n');
        }
        let Some(open) = &self.open else { return io::stdout().lock().write_all(&lines) };
        let mut open = open.lock();
        if open.size > 0 && open.size + lines.len() as u64 > self.max_bytes {
            self.rotate(&mut open)?;
        }
        open.file.write_all(&lines)?;
        open.size += lines.len() as u64;
        Ok(())
    }

    fn stem(&self) -> (String, String) {
        let text = |part: Option<&std::ffi::OsStr>| part.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
        let extension = self.path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
        (text(self.path.file_stem()), extension)
    }

    fn rotate(&self, open: &mut Open) -> io::Result<()> {
        let (stem, extension) = self.stem();
        let name = |at: Timestamp| self.path.with_file_name(format!("{stem}-{}{extension}", at.strftime(FORMAT)));
        let mut at = Timestamp::now();
        // Two rotations within a millisecond must not overwrite each other.
        while name(at).exists() {
            at += jiff::SignedDuration::from_millis(1);
        }
        let old = name(at);
        std::fs::rename(&self.path, &old)?;
        *open = append(&self.path)?;
        if self.compress {
            compress(&old)?;
        }
        self.expire(Timestamp::now())
    }

    /// Old files with their times, newest first.
    fn backups(&self) -> io::Result<Vec<(Timestamp, PathBuf)>> {
        let (stem, extension) = self.stem();
        let folder = self.path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let plain = name.strip_suffix(".gz").unwrap_or(&name);
            let time = plain.strip_prefix(&format!("{stem}-")).and_then(|n| n.strip_suffix(extension.as_str()));
            let time = time.and_then(|t| DateTime::strptime(FORMAT, t).ok()).and_then(|t| t.to_zoned(TimeZone::UTC).ok());
            found.extend(time.map(|t| (t.timestamp(), entry.path())));
        }
        found.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        Ok(found)
    }

    fn expire(&self, now: Timestamp) -> io::Result<()> {
        let oldest = now.as_second() - i64::from(self.max_age) * 24 * 3600;
        for (at, (time, path)) in self.backups()?.into_iter().enumerate() {
            let surplus = self.max_backups > 0 && at >= self.max_backups;
            if surplus || (self.max_age > 0 && time.as_second() < oldest) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

fn compress(path: &Path) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    let out = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&name)?;
    let mut encoder = GzEncoder::new(out, Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    std::fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(folder: &Path, change: impl FnOnce(&mut LogConfig)) -> LogFile {
        let mut config = LogConfig::new(folder.join("audit.log").to_string_lossy());
        change(&mut config);
        LogFile::new(&config).expect("a writable folder")
    }

    #[test]
    fn a_full_file_is_put_aside_and_old_ones_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut log = log(folder.path(), |c| c.max_backups = 2);
        log.max_bytes = 100;
        let event = Bytes::from(vec![b'x'; 59]);
        for _ in 0..5 {
            log.write(std::slice::from_ref(&event)).expect("written");
        }
        assert_eq!(log.backups().expect("a folder").len(), 2, "four were put aside, two are kept");
        let now = std::fs::read(folder.path().join("audit.log")).expect("the file of now");
        assert_eq!(now.len(), 60);
        log.max_age = 1;
        log.expire(Timestamp::now() + jiff::SignedDuration::from_hours(30)).expect("files");
        assert!(log.backups().expect("a folder").is_empty(), "they are older than a day");
    }

    #[test]
    fn a_file_that_is_there_is_continued_and_old_ones_are_compressed() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("audit.log"), "earlier\n").expect("written");
        let mut log = log(folder.path(), |c| c.compress = true);
        log.max_bytes = 20;
        log.write(&[Bytes::from_static(b"now")]).expect("written");
        assert_eq!(std::fs::read_to_string(folder.path().join("audit.log")).expect("a file"), "earlier\nnow\n");
        log.write(&[Bytes::from_static(b"too much for it")]).expect("written");
        let backups = log.backups().expect("a folder");
        let [(_, path)] = backups.as_slice() else { panic!("one file was put aside: {backups:?}") };
        let mut text = String::new();
        io::Read::read_to_string(&mut flate2::read::GzDecoder::new(File::open(path).expect("a file")), &mut text).expect("gzip");
        assert_eq!(text, "earlier\nnow\n");
    }
}
