//! The shim: one small process per pod that outlives everything above it.
//!
//! It is the parent of the pod's containers: it owns their standard descriptors, writes their log files, reaps them and records how they
//! ended, durably, before it tells anyone. It answers on a unix socket ([`protocol`]). It has one thread and never more: libcontainer clones
//! without exec, so the shim forks a child per start ([`helper`]) and stays small itself. It must survive `kill -9` of the CRI server, and it
//! must never wait for anything but the next event.

pub mod client;
mod connection;
mod container;
pub mod helper;
pub mod log;
mod pause;
pub mod protocol;
mod supervisor;

use std::ffi::OsString;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::sys;

/// The first argument by which the binary knows that it is to be a shim.
pub const COMMAND: &str = "shim";

/// How the runtime starts a shim: `<executable> shim <state directory> [--pod-pid-namespace]`, with the listening socket as stdin.
pub const POD_PID_NAMESPACE: &str = "--pod-pid-namespace";

/// The shim process. `arguments` are those after [`COMMAND`]. Call it before anything starts a thread.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match run(arguments.into_iter().collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            note(&message);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Vec<OsString>) -> Result<(), String> {
    let mut state_dir = None;
    let mut pod_pid_namespace = false;
    for argument in arguments {
        match argument.to_str() {
            Some(POD_PID_NAMESPACE) => pod_pid_namespace = true,
            _ => state_dir = Some(PathBuf::from(argument)),
        }
    }
    let state_dir = state_dir.ok_or("usage: shim STATE-DIRECTORY, with a listening socket as stdin")?;
    std::env::set_current_dir(&state_dir).map_err(|error| format!("{}: {error}", state_dir.display()))?;
    let listener = detach().map_err(|error| format!("starting: {error}"))?;
    let pod_init = if pod_pid_namespace { Some(pause::start().map_err(|error| format!("pod process: {error}"))?) } else { None };
    supervisor::Supervisor::new(state_dir, listener, pod_init).map_err(|error| format!("starting: {error}"))?.run()
}

/// Leaves the session, the descriptors and the cgroup of the process that started this one.
fn detach() -> nix::Result<std::os::unix::net::UnixListener> {
    // What starts shims may live without huge pages; containers get the machine's own setting.
    let _ = nix::sys::prctl::set_thp_disable(false);
    // Already the leader of a session when started by hand from a shell with job control.
    let _ = nix::unistd::setsid();
    nix::sys::prctl::set_child_subreaper(true)?;
    nix::sys::prctl::set_name(c"ferrokube-shim")?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    // libcontainer only touches the groups of a process when there are some to set; nobody inherits those of the service.
    nix::unistd::setgroups(&[])?;
    // Best effort, like every score below the present one.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-998");
    let listener = nix::fcntl::fcntl(sys::borrow(0), nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(3)).map(sys::own)?;
    let null = sys::dev_null()?;
    sys::duplicate_onto(&null, 0)?;
    sys::duplicate_onto(&null, 1)?;
    if let Err(error) = crate::cgroup::leave_service_cgroup() {
        note(&format!("staying in the cgroup of the service: {error}"));
    }
    let listener = std::os::unix::net::UnixListener::from(listener);
    debug_assert!(listener.as_raw_fd() > 2);
    Ok(listener)
}

/// One line into the shim's own log, which is its stderr.
fn note(message: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{} shim {}: {message}", log::timestamp(), std::process::id());
}
