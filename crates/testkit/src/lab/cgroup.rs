//! A cgroup of its own for every node, in every hierarchy of the machine (v1, v2 or both), deleted in the end.
//!
//! Inside, a cgroup namespace makes it look like the root, so that two nodes never share a `kubepods`.

use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long cgroups may take to empty after their processes were killed.
const PATIENCE: Duration = Duration::from_secs(30);

/// One mounted hierarchy.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// `cgroup` or `cgroup2`.
    pub kind: String,
    /// Options that select it (v1).
    pub options: String,
}

/// The lab's part of every hierarchy.
pub struct Tree {
    name: String,
    hierarchies: Vec<Hierarchy>,
}

impl Tree {
    /// Makes the lab's cgroups.
    pub fn new(name: &str) -> Result<Self> {
        let tree = Self { name: name.to_owned(), hierarchies: mounted()? };
        for hierarchy in &tree.hierarchies {
            sweep(&hierarchy.mountpoint);
            make(&hierarchy.mountpoint, &hierarchy.mountpoint.join(name))?;
        }
        Ok(tree)
    }

    /// Makes a node's cgroups and says where to enter them: one `cgroup.procs` for each hierarchy.
    pub fn add(&self, node: &str) -> Result<Vec<PathBuf>> {
        let mut doors = Vec::new();
        for hierarchy in &self.hierarchies {
            let lab = hierarchy.mountpoint.join(&self.name);
            let dir = lab.join(node);
            make(&lab, &dir)?;
            doors.push(dir.join("cgroup.procs"));
        }
        Ok(doors)
    }

    /// Shell commands that mount the hierarchies anew, for a process inside its cgroup namespace.
    pub fn mount_script(&self) -> String {
        let unified_root = self.hierarchies.iter().any(|h| h.mountpoint == Path::new("/sys/fs/cgroup"));
        let mut script = String::new();
        if !unified_root {
            script.push_str("mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup\n");
        }
        for Hierarchy { mountpoint, kind, options } in &self.hierarchies {
            let (at, options) = (mountpoint.display(), if options.is_empty() { String::new() } else { format!("-o {options}") });
            script.push_str(&format!("mkdir -p {at} && mount -t {kind} {options} {kind} {at}\n"));
        }
        script
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let started = Instant::now();
        for hierarchy in &self.hierarchies {
            let dir = hierarchy.mountpoint.join(&self.name);
            while remove(&dir).is_err() && started.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(10)); // Polls until the kernel has buried the killed processes.
            }
        }
    }
}

fn mounted() -> Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read mounts")?;
    let flags = ["rw", "ro", "relatime", "nosuid", "nodev", "noexec", "nsdelegate", "memory_recursiveprot"];
    let parse = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let (mountpoint, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        let selecting: Vec<_> = options.split(',').filter(|option| !flags.contains(option)).collect();
        let hierarchy = Hierarchy { mountpoint: mountpoint.into(), kind: kind.to_owned(), options: selecting.join(",") };
        (kind == "cgroup" || kind == "cgroup2").then_some(hierarchy)
    };
    Ok(mounts.lines().filter_map(parse).collect())
}

/// A child cgroup that can hold processes: cpuset (v1) must be told which CPUs, v2 which controllers.
fn make(parent: &Path, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("make cgroup {}", dir.display()))?;
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if parent.join("cgroup.controllers").exists() {
            continue;
        }
        if let Ok(value) = fs::read(parent.join(file)) {
            fs::write(dir.join(file), value).with_context(|| format!("write {file} of {}", dir.display()))?;
        }
    }
    if let Ok(controllers) = fs::read_to_string(parent.join("cgroup.controllers")) {
        for controller in controllers.split_whitespace() {
            let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}")); // As far as the machine delegates.
        }
    }
    Ok(())
}

/// Removes what killed test runs left behind.
fn sweep(mountpoint: &Path) {
    for entry in fs::read_dir(mountpoint).into_iter().flatten().flatten() {
        if super::is_abandoned(&entry.file_name().to_string_lossy()) {
            let _ = remove(&entry.path());
        }
    }
}

/// Removes a cgroup and those below it.
fn remove(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
