//! `/var/log/containers`: one link per container instance, where log collectors look.
//!
//! Source: `pkg/kubelet/kuberuntime/legacy.go`: `<pod>_<namespace>_<container>-<id>.log`, cut to what a file name may have.

use std::io::{ErrorKind, Result};
use std::path::{Path, PathBuf};

const EXTENSION: &str = ".log";
/// NAME_MAX.
const LONGEST: usize = 255;

fn name(pod: &str, namespace: &str, container: &str, id: &str) -> String {
    let rest = format!("_{namespace}_{container}-{id}{EXTENSION}");
    let room = LONGEST.saturating_sub(rest.len());
    format!("{}{rest}", pod.chars().take(room).collect::<String>())
}

/// The directory of the links, beside that of the pods' logs.
pub fn directory(pod_logs: &Path) -> PathBuf {
    pod_logs.with_file_name("containers")
}

/// Links an instance's log.
pub fn add(directory: &Path, pod: (&str, &str), container: &str, id: &str, log: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)?;
    match std::os::unix::fs::symlink(log, directory.join(name(pod.0, pod.1, container, id))) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

/// Removes the link of an instance.
pub fn remove(directory: &Path, id: &str) {
    let suffix = format!("-{id}{EXTENSION}");
    sweep(directory, |name, _| name.ends_with(&suffix));
}

/// Removes links whose log is gone, as an earlier life of this node may have left them.
pub fn remove_dead(directory: &Path) {
    sweep(directory, |_, path| !path.exists());
}

fn sweep(directory: &Path, dead: impl Fn(&str, &Path) -> bool) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let is_link = entry.file_type().is_ok_and(|t| t.is_symlink());
        let doomed = is_link && dead(&entry.file_name().to_string_lossy(), &entry.path());
        // Several pods may sweep at the same time.
        if doomed
            && let Err(e) = std::fs::remove_file(entry.path())
            && e.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("link {} not removed: {e}", entry.path().display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_come_and_go_with_their_container() {
        let root = tempfile::tempdir().unwrap();
        let links = directory(&root.path().join("pods"));
        let log = root.path().join("0.log");
        std::fs::write(&log, "").unwrap();
        add(&links, ("web", "default"), "app", "abc", &log).unwrap();
        add(&links, ("web", "default"), "app", "abc", &log).unwrap();
        add(&links, ("web", "default"), "app", "def", &root.path().join("gone.log")).unwrap();
        assert!(links.join("web_default_app-abc.log").exists());
        remove_dead(&links);
        assert_eq!(std::fs::read_dir(&links).unwrap().count(), 1);
        remove(&links, "abc");
        assert_eq!(std::fs::read_dir(&links).unwrap().count(), 0);
    }

    #[test]
    fn a_long_pod_name_is_cut_so_that_the_link_fits_a_file_name() {
        assert_eq!(name(&"p".repeat(253), &"n".repeat(63), &"c".repeat(63), &"0".repeat(64)).len(), LONGEST);
    }
}
