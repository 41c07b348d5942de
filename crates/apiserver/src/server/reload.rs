//! Files that may change while the server runs: looked at from time to time, by time of change and length first.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// A configuration file that may change.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    /// Where it is.
    pub path: PathBuf,
    /// How often it is looked at; `None` is never.
    pub reload: Option<Duration>,
}

impl ConfigFile {
    /// Its content.
    pub fn read(&self) -> std::io::Result<String> {
        std::fs::read_to_string(&self.path)
    }

    /// Calls `apply` whenever the content has changed. What `apply` refuses is told in the log and changes nothing.
    pub async fn follow<E: std::fmt::Display>(self, what: &'static str, apply: impl Fn() -> Result<(), E>) {
        let Some(interval) = self.reload else { return };
        let mut file = Followed::new(self.path.clone());
        loop {
            tokio::time::sleep(interval).await;
            if !file.changed() {
                continue;
            }
            match apply() {
                Ok(()) => tracing::info!(path = %self.path.display(), what, "configuration replaced"),
                Err(error) => tracing::error!(path = %self.path.display(), what, %error, "the new configuration is not used"),
            }
        }
    }
}

type Mark = Option<(SystemTime, u64)>;

/// A file and how it was when it was last looked at.
#[derive(Debug)]
pub struct Followed {
    path: PathBuf,
    mark: Mark,
    /// SHA-256 of the content: some of these files hold keys.
    content: Option<[u8; 32]>,
}

impl Followed {
    /// From how it is now.
    pub fn new(path: PathBuf) -> Self {
        let mut followed = Followed { path, mark: None, content: None };
        followed.changed();
        followed
    }

    fn look(&self) -> Mark {
        let meta = std::fs::metadata(&self.path).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    }

    /// Whether its content is another than at the last call.
    pub fn changed(&mut self) -> bool {
        let mark = self.look();
        if mark == self.mark {
            return false;
        }
        self.mark = mark;
        // A file that is gone for a moment is about to be replaced.
        let Ok(content) = std::fs::read(&self.path) else { return false };
        let digest = ring::digest::digest(&ring::digest::SHA256, &content);
        let content: [u8; 32] = digest.as_ref().try_into().expect("SHA-256 has 32 bytes");
        if self.content == Some(content) {
            return false;
        }
        self.content = Some(content);
        true
    }
}
