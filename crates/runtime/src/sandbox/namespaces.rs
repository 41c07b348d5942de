//! Namespaces that live on their own: made by a thread that ends at once, held by bind mounts.
//!
//! No pause process: what keeps a namespace is `<directory>/net`, `ipc`, `uts`. The thread that enters them must never return to a pool.

use std::collections::BTreeMap;
use std::io::{Error, Result};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::sys;

/// Which namespaces a pod has of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Network, with its loopback up.
    pub network: bool,
    /// IPC.
    pub ipc: bool,
    /// Host name.
    pub uts: bool,
}

/// Names of the files, with the flag of each.
fn kinds(wanted: Wanted) -> impl Iterator<Item = (&'static str, CloneFlags)> {
    [
        ("net", CloneFlags::CLONE_NEWNET, wanted.network),
        ("ipc", CloneFlags::CLONE_NEWIPC, wanted.ipc),
        ("uts", CloneFlags::CLONE_NEWUTS, wanted.uts),
    ]
    .into_iter()
    .filter_map(|(name, flag, wanted)| wanted.then_some((name, flag)))
}

/// Makes the namespaces and pins them in a directory. Blocks for as long as the kernel takes.
pub fn create(directory: &Path, wanted: Wanted, hostname: &str, sysctls: &BTreeMap<String, String>) -> Result<()> {
    std::fs::create_dir_all(directory)?;
    let (directory, hostname, sysctls) = (directory.to_owned(), hostname.to_owned(), sysctls.clone());
    let thread = std::thread::Builder::new().name("namespaces".to_owned()).spawn(move || {
        let flags = kinds(wanted).fold(CloneFlags::empty(), |all, (_, flag)| all | flag);
        unshare(flags).map_err(|error| context(error.into(), "unshare"))?;
        if wanted.uts {
            nix::unistd::sethostname(&hostname).map_err(|error| context(error.into(), "sethostname"))?;
        }
        if wanted.network {
            sys::interface_up("lo").map_err(|error| context(error.into(), "bringing up lo"))?;
        }
        for (name, value) in &sysctls {
            set_sysctl(name, value, wanted)?;
        }
        kinds(wanted).try_for_each(|(name, _)| pin(name, &directory.join(name)))
    })?;
    thread.join().map_err(|_| Error::other("the thread that makes namespaces panicked"))?
}

fn context(error: Error, what: impl std::fmt::Display) -> Error {
    Error::new(error.kind(), format!("{what}: {error}"))
}

fn pin(name: &str, target: &Path) -> Result<()> {
    std::fs::File::create(target)?;
    let source = PathBuf::from(format!("/proc/thread-self/ns/{name}"));
    let none: Option<&str> = None;
    mount(Some(&source), target, none, MsFlags::MS_BIND, none)
        .map_err(|error| context(error.into(), format_args!("pinning {}", target.display())))
}

/// Sets a kernel parameter of the new namespaces; one that belongs to the node as a whole is refused.
fn set_sysctl(name: &str, value: &str, wanted: Wanted) -> Result<()> {
    let path = name.replace('.', "/");
    let of_ipc =
        name.starts_with("fs.mqueue.") || (name.starts_with("kernel.msg") || name.starts_with("kernel.shm") || name == "kernel.sem");
    let allowed = match name {
        _ if name.contains("..") || name.starts_with('/') => false,
        _ if name.starts_with("net.") || name.starts_with("net/") => wanted.network,
        _ if of_ipc => wanted.ipc,
        _ => false,
    };
    if !allowed {
        return Err(Error::other(format!("sysctl {name:?} is not allowed: it is not in a namespace of the pod")));
    }
    std::fs::write(Path::new("/proc/sys").join(path), value).map_err(|error| context(error, format_args!("sysctl {name}={value}")))
}

/// Lets go of everything in a directory made by [`create`], and of the directory. What is gone already is fine.
pub fn remove(directory: &Path) -> Result<()> {
    for name in ["net", "ipc", "uts"] {
        unmount(&directory.join(name))?;
    }
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Unmounts lazily, as often as something is mounted there.
pub fn unmount(target: &Path) -> Result<()> {
    loop {
        match umount2(target, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            // Not a mount, or not there.
            Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => return Ok(()),
            Err(error) => return Err(context(error.into(), format_args!("unmounting {}", target.display()))),
        }
    }
}

/// Runs something in a pinned network namespace, on a thread of its own that ends with it.
pub fn in_network<T: Send + 'static>(netns: &Path, act: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let file = std::fs::File::open(netns)?;
    let thread = std::thread::Builder::new().name("netns".to_owned()).spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET)?;
        act()
    })?;
    thread.join().map_err(|_| Error::other("the thread in the pod's network panicked"))?
}

/// Mounts the pod's `/dev/shm`.
pub fn mount_shm(target: &Path) -> Result<()> {
    std::fs::create_dir_all(target)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("shm"), target, Some("tmpfs"), flags, Some("mode=1777,size=65536k"))
        .map_err(|error| context(error.into(), format_args!("mounting {}", target.display())))
}
