//! The process that holds a pod's PID namespace, for pods whose containers share one. Only those pods have it.
//!
//! Containers of the pod can see it in `/proc`, so it owns nothing worth reaching: an empty root, no capabilities, not dumpable. It reaps
//! what is orphaned in the namespace and does nothing else.

use caps::CapSet;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Gid, Pid, Uid, chdir, pivot_root};

use crate::sys;

/// Starts it and returns its pid on the node.
///
/// A process in between makes the namespace, so that the shim's later children stay in the node's.
pub fn start() -> std::io::Result<u32> {
    let (result, report) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let Some(between) = sys::fork()? else {
        let text = match make_namespace() {
            Ok(pid) => pid.to_string(),
            Err(error) => format!("error {error}"),
        };
        let _ = nix::unistd::write(&report, text.as_bytes());
        sys::exit_now(0);
    };
    drop(report);
    let text = std::io::read_to_string(std::fs::File::from(result))?;
    let _ = waitpid(between, None);
    text.parse().map_err(|_| std::io::Error::other(text))
}

fn make_namespace() -> nix::Result<Pid> {
    unshare(CloneFlags::CLONE_NEWPID)?;
    match sys::fork()? {
        Some(pid) => Ok(pid),
        None => {
            // Whatever fails, the process must not stay with more than it needs.
            let code = i32::from(be_nobody().is_err());
            sys::exit_now(code);
        }
    }
}

fn be_nobody() -> Result<(), Box<dyn std::error::Error>> {
    nix::sys::prctl::set_name(c"pause")?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("tmpfs"), "/tmp", Some("tmpfs"), MsFlags::MS_RDONLY, Some("size=0,mode=555"))?;
    chdir("/tmp")?;
    // With both the same the old root is stacked on top, and goes with the next call.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    for fd in 0..1024 {
        let _ = nix::unistd::close(fd);
    }
    nix::unistd::setgroups(&[])?;
    nix::unistd::setresgid(Gid::from_raw(65535), Gid::from_raw(65535), Gid::from_raw(65535))?;
    nix::unistd::setresuid(Uid::from_raw(65535), Uid::from_raw(65535), Uid::from_raw(65535))?;
    for set in [CapSet::Ambient, CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        caps::clear(None, set)?;
    }
    nix::sys::prctl::set_dumpable(false)?;
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.thread_block()?;
    loop {
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != nix::sys::wait::WaitStatus::StillAlive) {}
        signals.wait()?;
    }
}
