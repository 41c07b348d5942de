//! Work inside another network namespace.
//!
//! A namespace is a property of a thread, so the work runs on a thread of its own that ends with it: the caller's thread
//! can never be left in the wrong namespace, whatever fails half way.

use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// Opens a namespace by its path (`/run/netns/...`, `/proc/PID/ns/net`).
///
/// # Errors
/// The path does not exist or may not be opened.
pub fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// Runs `work` on a fresh thread inside `netns` and returns what it returns.
///
/// # Errors
/// The file is no network namespace, CAP_SYS_ADMIN is missing, or no thread could be made.
pub fn within<T: Send>(netns: impl AsFd, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let fd = netns.as_fd();
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, move || {
            setns(fd, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
