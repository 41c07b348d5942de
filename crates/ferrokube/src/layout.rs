//! Where everything of a cluster on this machine is.

use std::path::{Path, PathBuf};

/// Directories of one cluster member.
#[derive(Clone, Debug)]
pub struct Layout {
    /// What must survive a restart: `/var/lib/ferrokube`.
    pub data: PathBuf,
    /// What ends with the machine: `/run/ferrokube`.
    pub run: PathBuf,
    /// Pod logs: `/var/log/pods`.
    pub pod_logs: PathBuf,
}

impl Layout {
    /// The usual places for root, or places in the home directory for everyone else.
    pub fn new(data: Option<PathBuf>, root: bool) -> Self {
        let data = data.unwrap_or_else(|| if root { "/var/lib/ferrokube".into() } else { home_data() });
        // Other processes (the shims) get these paths, and their working directory is another one.
        let data = std::path::absolute(&data).unwrap_or(data);
        let run = if root { run_of(&data) } else { data.join("run") };
        Layout { run, pod_logs: "/var/log/pods".into(), data }
    }

    /// Certificates.
    pub fn pki(&self) -> PathBuf {
        self.data.join("pki")
    }

    /// The embedded store.
    pub fn store(&self) -> PathBuf {
        self.data.join("store")
    }

    /// The container runtime.
    pub fn runtime(&self) -> PathBuf {
        self.data.join("runtime")
    }

    /// The kubelet.
    pub fn kubelet(&self) -> PathBuf {
        self.data.join("kubelet")
    }

    /// Volumes of the local-path provisioner.
    pub fn volumes(&self) -> PathBuf {
        self.data.join("volumes")
    }

    /// Address reservations of pods.
    pub fn network(&self) -> PathBuf {
        self.data.join("network")
    }

    /// Network configuration for the runtime.
    pub fn cni_conf(&self) -> PathBuf {
        self.data.join("cni/net.d")
    }

    /// Network plugins for the runtime.
    pub fn cni_bin(&self) -> PathBuf {
        self.data.join("cni/bin")
    }

    /// The CRI socket of the built-in runtime.
    pub fn cri_socket(&self) -> PathBuf {
        self.run.join("cri.sock")
    }
}

/// Two clusters of one machine must not share sockets; the usual one gets the short name.
fn run_of(data: &Path) -> PathBuf {
    if data == Path::new("/var/lib/ferrokube") {
        return "/run/ferrokube".into();
    }
    use std::hash::{Hash, Hasher};
    let mut hasher = std::hash::DefaultHasher::new();
    data.hash(&mut hasher);
    PathBuf::from(format!("/run/ferrokube-{:08x}", hasher.finish() as u32))
}

fn home_data() -> PathBuf {
    let xdg = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".local/share"));
    xdg.or_else(home).unwrap_or_else(std::env::temp_dir).join("ferrokube")
}
