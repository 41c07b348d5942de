//! Control groups, v1 and v2, as far as libcontainer leaves them to us: counting, updating, killing, removing.
//!
//! A cgroup is named by its path below the root of each hierarchy (`/kubepods/pod1/abc`), as the kubelet names them (driver `cgroupfs`).
//! Everything here is a few small files read or written; no state is kept. Used by shims too, so it must not need a runtime.

mod devices;
mod stats;
mod update;

pub use devices::prepare_v2;
pub use stats::{Stats, stats};
pub use update::update;

use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// Where the hierarchies are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// The hierarchies that libcontainer puts containers into, on v1.
const V1_CONTROLLERS: [&str; 12] =
    ["memory", "pids", "cpu", "cpuacct", "cpuset", "devices", "freezer", "blkio", "hugetlb", "perf_event", "net_cls", "net_prio"];

/// Whether the node has one unified hierarchy. A v1 layout with an additional empty v2 counts as v1, as for libcontainer.
pub fn is_v2() -> bool {
    statfs(ROOT).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// The v1 hierarchies that the node has.
pub fn controllers() -> impl Iterator<Item = &'static str> {
    V1_CONTROLLERS.into_iter().filter(|controller| folder(controller, "").is_dir())
}

/// The folder of a cgroup in one hierarchy; on v2 the controller does not matter.
pub fn folder(controller: &str, cgroup: &str) -> PathBuf {
    let root = Path::new(ROOT);
    let root = if is_v2() { root.to_owned() } else { root.join(controller) };
    root.join(cgroup.trim_start_matches('/'))
}

/// All folders of a cgroup that exist.
fn folders(cgroup: &str) -> Vec<PathBuf> {
    if is_v2() {
        return Some(folder("", cgroup)).into_iter().filter(|path| path.is_dir()).collect();
    }
    V1_CONTROLLERS.iter().map(|controller| folder(controller, cgroup)).filter(|path| path.is_dir()).collect()
}

/// Kills every process in a cgroup and below it. A cgroup that does not exist has none.
pub fn kill_all(cgroup: &str) {
    if cgroup.trim_matches('/').is_empty() {
        return;
    }
    let all = folders(cgroup);
    let Some(first) = all.first() else { return };
    if std::fs::write(first.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    // A process that forks while we read escapes one pass, not the next one: it ends when a pass sees nobody.
    for _ in 0..64 {
        let pids = processes(first);
        if pids.is_empty() {
            break;
        }
        for pid in pids {
            let _ = crate::sys::kill(pid, libc::SIGKILL);
        }
    }
}

/// The processes in a cgroup and below it; zombies are not listed by the kernel.
fn processes(folder: &Path) -> Vec<i32> {
    let list = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<i32> = list.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            pids.extend(processes(&entry.path()));
        }
    }
    pids
}

/// How often the kernel has killed a process of this cgroup for want of memory.
pub fn oom_kills(cgroup: &str) -> u64 {
    let file = if is_v2() { "memory.events" } else { "memory.oom_control" };
    let text = std::fs::read_to_string(folder("memory", cgroup).join(file)).unwrap_or_default();
    flat_value(&text, "oom_kill").unwrap_or(0)
}

/// A value of a `key value` file.
fn flat_value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.split_once(' ').filter(|(name, _)| *name == key)?.1.trim().parse().ok())
}

/// Removes a cgroup and those below it from all hierarchies. One that does not exist is removed already; one with processes is an error.
pub fn remove(cgroup: &str) -> Result<()> {
    if cgroup.trim_matches('/').is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "the root cgroup stays"));
    }
    folders(cgroup).iter().try_for_each(|path| remove_folder(path))
}

fn remove_folder(path: &Path) -> Result<()> {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_folder(&entry.path())?;
        }
    }
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Moves the calling process out of the cgroup of the service that started it, where a service manager would kill it with the service.
///
/// Service managers kill by the unified hierarchy or by `name=systemd`; in the root of that one there is nothing to leave.
pub fn leave_service_cgroup() -> Result<()> {
    let own = std::fs::read_to_string("/proc/self/cgroup")?;
    let v2 = is_v2();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let hierarchy = match controllers {
            "" if v2 => PathBuf::from(ROOT),
            "name=systemd" if !v2 => Path::new(ROOT).join("systemd"),
            _ => continue,
        };
        if path == "/" || path.starts_with("/ferrokube-shims") || !hierarchy.is_dir() {
            continue;
        }
        let target = hierarchy.join("ferrokube-shims");
        std::fs::create_dir_all(&target)?;
        std::fs::write(target.join("cgroup.procs"), std::process::id().to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_files_are_read_by_whole_key() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(flat_value(text, "oom_kill"), Some(3));
        assert_eq!(flat_value(text, "missing"), None);
    }

    #[test]
    fn the_root_is_never_killed_or_removed() {
        kill_all("/");
        assert!(remove("/").is_err());
        assert!(remove("").is_err());
    }
}
