//! What the runtime is told when it is started.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::cni::Cni;

/// Settings of [`crate::Runtime`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Durable files: images, sandboxes, containers. `/var/lib/ferrokube/runtime`.
    pub root: PathBuf,
    /// Files that end with the machine: namespaces, sockets. Keep the path short (at most 60 bytes). `/run/ferrokube`.
    pub state: PathBuf,
    /// The CRI socket.
    pub socket: PathBuf,
    /// How to start a shim: program and first arguments, to which the shim's own are added. It must end up in [`crate::shim::main`].
    pub shim: Vec<OsString>,
    /// The pod network; without one, pods have their loopback only.
    pub cni: Option<Cni>,
    /// Where exec, attach and port-forward are served. Not encrypted, so a loopback address; port 0 takes any.
    pub streaming: SocketAddr,
    /// Parent of the cgroups of pods for which the kubelet names none.
    pub cgroup_root: String,
    /// Directory of Localhost seccomp profiles that are named by a relative path.
    pub seccomp_root: PathBuf,
    /// Most bytes of each output stream that ExecSync returns; the rest is dropped.
    pub exec_sync_limit: usize,
    /// The image store.
    pub images: crate::image::Config,
}

impl Config {
    /// The usual places, with `<this program> shim` as the shim.
    pub fn new() -> Self {
        let program = std::env::current_exe().map_or_else(|_| OsString::from("/proc/self/exe"), PathBuf::into_os_string);
        Self {
            root: "/var/lib/ferrokube/runtime".into(),
            state: "/run/ferrokube".into(),
            socket: "/run/ferrokube/cri.sock".into(),
            shim: vec![program, crate::shim::COMMAND.into()],
            cni: Some(Cni { conf_dir: "/etc/cni/net.d".into(), bin_dirs: vec!["/opt/cni/bin".into()] }),
            streaming: SocketAddr::from(([127, 0, 0, 1], 0)),
            cgroup_root: "/ferrokube".to_owned(),
            seccomp_root: "/var/lib/kubelet/seccomp".into(),
            exec_sync_limit: 16 << 20,
            images: crate::image::Config::default(),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}
