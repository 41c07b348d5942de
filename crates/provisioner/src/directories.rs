//! The thin part that touches the disk: directories directly below one root, and nothing else.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Why a directory could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It is not one of ours.
    #[error("{path} is not a volume below {root}")]
    Outside {
        /// What was asked for.
        path: PathBuf,
        /// Where volumes are.
        root: PathBuf,
    },
    /// The file system says no.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The directories of a root.
pub(crate) struct Directories {
    root: PathBuf,
}

impl Directories {
    pub fn new(root: PathBuf) -> Self {
        Directories { root }
    }

    /// Where a volume of this name is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A path that came from an object is not trusted: it must be a direct child of the root.
    fn check(&self, path: &Path) -> Result<PathBuf, Error> {
        let plain = path.file_name().is_some_and(|name| self.root.join(name) == path);
        if plain { Ok(path.to_owned()) } else { Err(Error::Outside { path: path.to_owned(), root: self.root.clone() }) }
    }

    /// Makes the directory, writable for every pod; one that is there is left as it is.
    pub async fn make(&self, path: &Path) -> Result<(), Error> {
        let path = self.check(path)?;
        off_runtime(path, |path| {
            if path.is_dir() {
                return Ok(());
            }
            std::fs::create_dir_all(path)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))
        })
        .await
    }

    /// Removes the directory and everything in it, links themselves and not what they lead to.
    pub async fn remove(&self, path: &Path) -> Result<(), Error> {
        let path = self.check(path)?;
        off_runtime(path, |path| match std::fs::remove_dir_all(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other,
        })
        .await
    }
}

async fn off_runtime(path: PathBuf, work: impl FnOnce(&Path) -> std::io::Result<()> + Send + 'static) -> Result<(), Error> {
    let at = path.clone();
    let done = tokio::task::spawn_blocking(move || work(&at)).await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
    done.map_err(|source| Error::Io { path, source })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_children_of_the_root_are_made_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let outside = folder.path().join("keep");
        std::fs::create_dir(&outside).unwrap();
        let all = Directories::new(folder.path().join("root"));
        let volume = all.path("pvc-1");
        all.make(&volume).await.unwrap();
        std::os::unix::fs::symlink(&outside, volume.join("link")).unwrap();
        assert_eq!(std::fs::metadata(&volume).unwrap().permissions().mode() & 0o777, 0o777);
        for wrong in [outside.clone(), all.path("../keep"), all.path(""), all.path("a/b"), all.path("."), PathBuf::from("/")] {
            assert!(matches!(all.remove(&wrong).await, Err(Error::Outside { .. })), "{}", wrong.display());
        }
        all.remove(&volume).await.unwrap();
        all.remove(&volume).await.unwrap();
        assert!(!volume.exists() && outside.exists());
    }
}
