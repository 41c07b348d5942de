//! The directory of the certificates: files of mode 0600, replaced as a whole.
//!
//! A file is written beside its place and renamed into it. Making that durable is not waited for at start: losing the
//! files of the first milliseconds of a cluster in a power cut costs nothing, and an empty file counts as absent.

use super::PkiError;
use parking_lot::Mutex;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    unsettled: Mutex<Vec<PathBuf>>,
}

impl Folder {
    pub(super) fn open(dir: &Path) -> Result<Self, PkiError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|source| PkiError::File { path: dir.into(), source })?;
        Ok(Folder { dir: dir.into(), unsettled: Mutex::default() })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The content; `None` when the file is absent or empty.
    pub(super) fn read(&self, name: &str) -> Result<Option<String>, PkiError> {
        let path = self.path(name);
        match fs::read_to_string(&path) {
            Ok(text) if text.trim().is_empty() => Ok(None),
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(PkiError::File { path, source }),
        }
    }

    pub(super) fn write(&self, name: &str, text: &str) -> Result<(), PkiError> {
        let path = self.path(name);
        self.replace(&path, text).map_err(|source| PkiError::File { path: path.clone(), source })?;
        self.unsettled.lock().push(path);
        Ok(())
    }

    pub(super) fn write_if_changed(&self, name: &str, text: &str) -> Result<(), PkiError> {
        if self.read(name)?.as_deref() == Some(text) { Ok(()) } else { self.write(name, text) }
    }

    fn replace(&self, path: &Path, text: &str) -> std::io::Result<()> {
        let beside = path.with_extension(format!("{}.new", path.extension().and_then(|e| e.to_str()).unwrap_or_default()));
        let _ = fs::remove_file(&beside);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&beside, path)
    }

    /// Makes what was written durable, in the background.
    pub(super) fn settle(&self) {
        let paths = std::mem::take(&mut *self.unsettled.lock());
        if paths.is_empty() {
            return;
        }
        let dir = self.dir.clone();
        std::thread::spawn(move || {
            for path in paths.iter().chain([&dir]) {
                if let Err(error) = File::open(path).and_then(|f| f.sync_all()) {
                    tracing::warn!(path = %path.display(), %error, "cannot make a certificate file durable");
                }
            }
        });
    }
}
