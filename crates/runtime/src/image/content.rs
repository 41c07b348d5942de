//! Small content by digest: manifests, indexes and configs. Written durably, checked on every way in and out.
//!
//! Layers are not kept here: they go from the download folder into their lower directory, and then their compressed
//! form is deleted.

use super::disk::{Paths, write_durably};
use super::error::{Error, IoContext as _, Result};
use super::reference::Digest;
use std::fs;
use std::path::PathBuf;

/// The content store.
#[derive(Clone, Debug)]
pub struct Content {
    paths: Paths,
}

impl Content {
    /// In these folders.
    pub fn new(paths: Paths) -> Self {
        Self { paths }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.paths.blobs().join(digest.hex())
    }

    /// Stores bytes that must have this digest.
    pub fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        verify(digest, bytes)?;
        if self.get(digest).is_ok() {
            return Ok(());
        }
        write_durably(&self.path(digest), bytes)
    }

    /// The bytes, checked.
    pub fn get(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.path(digest);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Error::NotFound(format!("content {digest}"))),
            other => other.doing(|| format!("read {}", path.display()))?,
        };
        verify(digest, &bytes)?;
        Ok(bytes)
    }

    /// Deletes everything that `keep` does not want.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) -> Result<()> {
        for entry in fs::read_dir(self.paths.blobs()).doing(|| "list content".into())?.flatten() {
            if !keep(&entry.file_name().to_string_lossy()) {
                let path = entry.path();
                fs::remove_file(&path).doing(|| format!("delete {}", path.display()))?;
            }
        }
        Ok(())
    }
}

/// Whether bytes are what a digest says.
pub fn verify(digest: &Digest, bytes: &[u8]) -> Result<()> {
    let actual = Digest::of(bytes);
    if actual != *digest {
        return Err(Error::DigestMismatch { expected: digest.clone(), actual });
    }
    Ok(())
}
