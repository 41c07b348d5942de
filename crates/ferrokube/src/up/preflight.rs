//! What must hold before anything is touched, with an error that says what to do.

use super::Options;
use crate::layout::Layout;
use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

/// Least free space to start with: room for logs, certificates and some objects.
const MIN_FREE: u64 = 64 << 20;

/// Holding it means being the one process that serves this data directory.
pub struct Instance {
    _lock: Flock<File>,
}

/// The file that names the process serving a data directory.
pub fn pid_file(data: &Path) -> PathBuf {
    data.join("ferrokube.pid")
}

/// The process that serves a data directory, if one does.
pub fn running(data: &Path) -> Option<i32> {
    let mut file = File::open(pid_file(data)).ok()?;
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(_free) => None,
        Err(_) => text.trim().parse().ok(),
    }
}

/// Takes the data directory for this process.
pub fn take(layout: &Layout) -> Result<Instance> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    let data = &layout.data;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data);
    made.with_context(|| format!("cannot make the data directory {}", data.display()))?;
    let path = pid_file(data);
    let file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.with_context(|| format!("cannot write to the data directory {}", data.display()))?;
    let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((_, _)) => {
            let pid = running(data).map_or(String::new(), |p| format!(" (pid {p})"));
            bail!("a cluster is already running from {}{pid}; stop it with `ferrokube down`, or give another --data-dir", data.display());
        }
    };
    lock.set_len(0)?;
    lock.seek(SeekFrom::Start(0))?;
    writeln!(lock, "{}", std::process::id())?;
    Ok(Instance { _lock: lock })
}

/// Checks privileges, space and ports.
pub fn check(options: &Options, layout: &Layout) -> Result<()> {
    let root = nix::unistd::geteuid().is_root();
    if !options.control_plane_only && !root {
        bail!(
            "running pods needs root (mounts, network namespaces, cgroups): run `sudo ferrokube up`, \
             or `ferrokube up --control-plane-only` for an API server without nodes"
        );
    }
    free_space(&layout.data)?;
    port_free(options.listen(), "the API server", "--port")?;
    if !options.control_plane_only {
        port_free(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), options.kubelet_port), "the kubelet", "--kubelet-port")?;
        kernel()?;
    }
    Ok(())
}

fn free_space(data: &Path) -> Result<()> {
    let existing = data.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let stat = nix::sys::statvfs::statvfs(existing).with_context(|| format!("cannot look at {}", existing.display()))?;
    let free = stat.blocks_available() * stat.fragment_size();
    if free < MIN_FREE {
        bail!("{} has only {} MiB of free space; at least {} MiB are needed", existing.display(), free >> 20, MIN_FREE >> 20);
    }
    Ok(())
}

fn port_free(address: SocketAddr, who: &str, flag: &str) -> Result<()> {
    if address.port() == 0 {
        return Ok(());
    }
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
            bail!("port {} for {who} is in use by another process; free it or choose another with {flag}", address.port())
        }
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            bail!("no permission to listen on port {} for {who}; choose one above 1023 with {flag}", address.port())
        }
        Err(e) => Err(e).with_context(|| format!("cannot listen on {address} for {who}")),
    }
}

fn kernel() -> Result<()> {
    for (path, what) in
        [("/proc/self/ns/net", "network namespaces"), ("/proc/self/ns/pid", "PID namespaces"), ("/sys/fs/cgroup", "cgroups")]
    {
        if !Path::new(path).exists() {
            bail!("this kernel (or container) has no {what} ({path} is missing), which pods need");
        }
    }
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.lines().any(|l| l.trim_start_matches("nodev").trim() == "overlay") {
        bail!("this kernel has no overlay filesystem, which container images need (try `modprobe overlay`)");
    }
    Ok(())
}

/// The node's address: the one that the default route leaves with, else the first of any interface, else `fallback`.
pub fn node_address(fallback: IpAddr) -> IpAddr {
    // Connecting a UDP socket only asks for the route; nothing is sent. The address is one of those reserved for documentation.
    let routed = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    });
    if let Ok(address) = routed {
        return address.ip();
    }
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let addresses = interfaces.filter_map(|i| Some((i.interface_name, IpAddr::V4(i.address?.as_sockaddr_in()?.ip()))));
    let ours = |name: &str| name.starts_with("ferrokube") || name.starts_with("fk");
    addresses.filter(|(name, ip)| !ip.is_loopback() && !ours(name)).map(|(_, ip)| ip).next().unwrap_or(fallback)
}
