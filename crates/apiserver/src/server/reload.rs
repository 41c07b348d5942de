//! Files that may change while the server runs: looked at from time to time, by time of change and length first.

use super::metrics::head;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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

    /// How it is now. To be taken before it is read, so that no change falls between the two.
    pub fn mark(&self) -> Followed {
        Followed::new(self.path.clone())
    }

    /// Calls `apply` whenever the content is another than when it was marked. What `apply` refuses is told in the log and changes nothing.
    pub async fn follow<E: std::fmt::Display>(
        self,
        mut file: Followed,
        what: &'static str,
        reloads: Arc<Reloads>,
        apply: impl Fn() -> Result<(), E>,
    ) {
        let Some(interval) = self.reload else { return };
        loop {
            tokio::time::sleep(interval).await;
            if !file.changed() {
                continue;
            }
            let applied = apply();
            reloads.count(applied.is_ok());
            match applied {
                Ok(()) => tracing::info!(path = %self.path.display(), what, "configuration replaced"),
                Err(error) => tracing::error!(path = %self.path.display(), what, %error, "the new configuration is not used"),
            }
        }
    }
}

/// How often a file was read again, and when last.
#[derive(Debug, Default)]
pub struct Reloads {
    /// (count, seconds since the epoch) of those that were used, and of those that could not be.
    outcomes: [(AtomicU64, AtomicU64); 2],
}

impl Reloads {
    /// Counts one.
    pub fn count(&self, used: bool) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |t| t.as_secs());
        let (count, last) = &self.outcomes[usize::from(!used)];
        count.fetch_add(1, Ordering::Relaxed);
        last.store(now, Ordering::Relaxed);
    }

    /// `apiserver_<what>_config_controller_automatic_reload*`; nothing before the first time.
    pub fn write(&self, what: &str, stability: &str, out: &mut String) {
        let seen: Vec<_> =
            ["success", "failure"].into_iter().zip(&self.outcomes).filter(|(_, (n, _))| n.load(Ordering::Relaxed) > 0).collect();
        if seen.is_empty() {
            return;
        }
        let name = format!("apiserver_{what}_config_controller_automatic_reloads_total");
        head(out, &name, "counter", &format!("[{stability}] Total number of automatic reloads of {what} configuration split by status."));
        for (status, (count, _)) in &seen {
            let _ = writeln!(out, "{name}{{status=\"{status}\"}} {}", count.load(Ordering::Relaxed));
        }
        let name = format!("apiserver_{what}_config_controller_automatic_reload_last_timestamp_seconds");
        head(
            out,
            &name,
            "gauge",
            &format!("[{stability}] Timestamp of the last automatic reload of {what} configuration split by status."),
        );
        for (status, (_, last)) in &seen {
            let _ = writeln!(out, "{name}{{status=\"{status}\"}} {}", last.load(Ordering::Relaxed));
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
    fn new(path: PathBuf) -> Self {
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
