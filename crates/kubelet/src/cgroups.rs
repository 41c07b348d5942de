//! Pod cgroups: the levels `kubepods`, QoS class and pod, on cgroup v1 and v2. The runtime makes those of containers below.
//!
//! Source: `pkg/kubelet/cm/pod_container_manager_linux.go`. This is the thin part that touches `/sys/fs/cgroup`.

use crate::make::resources::{PERIOD, Totals, pod_cgroup, pod_totals, quota, shares};
use k8s_openapi::api::core::v1::Pod;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

const MOUNT: &str = "/sys/fs/cgroup";
/// Hierarchies in which the kubelet sets something on v1.
const OURS: [&str; 3] = ["cpu", "memory", "pids"];

/// Cgroups below one root.
#[derive(Clone, Debug)]
pub struct Cgroups {
    root: String,
    mount: PathBuf,
    unified: bool,
}

impl Cgroups {
    /// Looks at which version the machine has; `root` is the cgroup above all pods (`/kubepods`).
    pub fn new(root: &str) -> Self {
        let mount = PathBuf::from(MOUNT);
        Cgroups { root: root.to_owned(), unified: mount.join("cgroup.controllers").exists(), mount }
    }

    /// The directories of a cgroup, one per hierarchy.
    fn directories(&self, cgroup: &str, hierarchies: &[String]) -> Vec<PathBuf> {
        let relative = cgroup.trim_start_matches('/');
        if self.unified {
            return vec![self.mount.join(relative)];
        }
        hierarchies.iter().map(|h| self.mount.join(h).join(relative)).collect()
    }

    fn ours(&self) -> Vec<String> {
        OURS.iter().filter(|h| self.mount.join(h).is_dir()).map(|h| (*h).to_owned()).collect()
    }

    fn all(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.mount).into_iter().flatten().flatten();
        entries.filter(|e| e.path().is_dir()).filter_map(|e| e.file_name().into_string().ok()).collect()
    }

    /// Makes the cgroup of a pod with what its containers add up to.
    pub fn ensure_pod(&self, pod: &Pod) -> Result<()> {
        let cgroup = pod_cgroup(&self.root, pod);
        for directory in self.directories(&cgroup, &self.ours()) {
            self.make(&directory)?;
        }
        self.limit_pod(pod, pod_totals(pod))
    }

    /// Sets what the cgroup of a pod gets and may use.
    pub fn limit_pod(&self, pod: &Pod, totals: Totals) -> Result<()> {
        let cgroup = pod_cgroup(&self.root, pod);
        let Totals { cpu_request: request, cpu_limit, memory_limit } = totals;
        if self.unified {
            let directory = &self.directories(&cgroup, &[])[0];
            let weight = 1 + ((shares(request) - 2) * 9999) / 262_142;
            set(directory, "cpu.weight", &weight.to_string())?;
            let max = cpu_limit.map_or_else(|| format!("max {PERIOD}"), |l| format!("{} {PERIOD}", quota(l)));
            set(directory, "cpu.max", &max)?;
            return set(directory, "memory.max", &memory_limit.map_or_else(|| "max".to_owned(), |l| l.to_string()));
        }
        let at = |h: &str| self.mount.join(h).join(cgroup.trim_start_matches('/'));
        set(&at("cpu"), "cpu.shares", &shares(request).to_string())?;
        set(&at("cpu"), "cpu.cfs_period_us", &PERIOD.to_string())?;
        set(&at("cpu"), "cpu.cfs_quota_us", &cpu_limit.map_or(-1, quota).to_string())?;
        set(&at("memory"), "memory.limit_in_bytes", &memory_limit.unwrap_or(-1).to_string())
    }

    /// On v2 every level hands its controllers down to the next.
    fn make(&self, directory: &Path) -> Result<()> {
        if !self.unified {
            return std::fs::create_dir_all(directory);
        }
        let mut level = self.mount.clone();
        for part in directory.strip_prefix(&self.mount).map_err(Error::other)?.components() {
            set(&level, "cgroup.subtree_control", "+cpu +memory +pids")?;
            level.push(part);
            match std::fs::create_dir(&level) {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        set(directory, "cgroup.subtree_control", "+cpu +memory +pids")
    }

    /// Removes the cgroup of a pod and everything below it; all its processes are dead.
    pub fn remove_pod(&self, pod: &Pod) -> Result<()> {
        // A pod that is only remembered has no QoS class; look in all three places.
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let places =
            [format!("{}/pod{uid}", self.root), format!("{}/burstable/pod{uid}", self.root), format!("{}/besteffort/pod{uid}", self.root)];
        let hierarchies = self.all();
        places.iter().flat_map(|p| self.directories(p, &hierarchies)).try_for_each(|d| remove(&d))
    }
}

fn set(directory: &Path, file: &str, value: &str) -> Result<()> {
    let path = directory.join(file);
    std::fs::write(&path, value).map_err(|e| Error::new(e.kind(), format!("{}: {e}", path.display())))
}

/// Depth first: a cgroup can be removed only when it has no children.
fn remove(directory: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Ok(()) };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        remove(&entry.path())?;
    }
    match std::fs::remove_dir(directory) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::new(e.kind(), format!("{}: {e}", directory.display()))),
        _ => Ok(()),
    }
}
