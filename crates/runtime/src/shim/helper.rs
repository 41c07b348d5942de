//! Where libcontainer is called: in a child that the shim forks for one start or one exec, and that ends with it.
//!
//! libcontainer clones without exec, so it needs a process with a single thread; the shim is one, and stays small because the work happens
//! in its child. Capabilities and seccomp are not left to libcontainer: it drops capabilities before anything of ours could install a
//! filter, and without its `libseccomp` feature it skips seccomp silently. [`Workload`] does both, last, in the order that
//! `no_new_privs` asks for. It must never start a process with less confinement than the bundle says: whatever fails is an error.

use std::collections::HashMap;
use std::ffi::CString;
use std::io::{Read, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use caps::{CapSet, Capability, CapsHashSet};
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use nix::mount::MsFlags;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::sys;

/// `security.json` of a bundle: what is done to a process last, just before it becomes the container's program.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Security {
    /// Capability names (`CAP_...`) of the bounding, permitted and effective sets.
    pub capabilities: Vec<String>,
    /// Those of the inheritable and ambient sets.
    #[serde(default)]
    pub ambient: Vec<String>,
    /// The process may not gain privileges; decides when seccomp is installed.
    pub no_new_privileges: bool,
    /// Filters as the kernel reads them, in the order of installation; none when the container is unconfined.
    #[serde(default)]
    pub seccomp: Vec<PathBuf>,
    /// How mounts pass on other mounts; libcontainer leaves that as it was on the node.
    #[serde(default)]
    pub propagation: Vec<Propagation>,
}

/// How a mount of the container passes on mounts below it, from the node and to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Propagation {
    /// Where it is in the container.
    pub path: PathBuf,
    /// `rprivate`, `rslave` or `rshared`.
    pub kind: String,
}

/// Standard descriptors of a process, or the socket that its terminal is sent to.
pub enum Stdio {
    /// Without a terminal. No stdin means `/dev/null`.
    Pipes {
        /// Read end, or `/dev/null`.
        stdin: OwnedFd,
        /// Write end.
        stdout: OwnedFd,
        /// Write end.
        stderr: OwnedFd,
    },
    /// With one.
    Console(PathBuf),
}

/// What the helper is for.
pub enum Work<'a> {
    /// The first process of a container.
    Start {
        /// Directory with `config.json`.
        bundle: &'a Path,
    },
    /// Another one.
    Exec {
        /// File with the OCI `process` object.
        process: &'a Path,
    },
}

/// Runs in the forked child: does the work and returns the pid of the process that was started.
pub fn run(id: &str, root: &Path, security: Security, oom_score_adj: Option<i32>, stdio: Stdio, work: &Work<'_>) -> Result<i32, String> {
    prepare_process(oom_score_adj)?;
    let (status, report) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|error| format!("pipe: {error}"))?;
    // The number, not the owner: the process that is cloned inherits it, and this process closes its own copy below.
    let report = std::os::fd::IntoRawFd::into_raw_fd(report);
    let first = matches!(work, Work::Start { .. });
    let workload = Workload { security: Rc::new(load_filters(security)?), report, first };
    let mut builder = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_executor(workload)
        .with_root_path(root)
        .map_err(|error| chain(&error))?;
    match stdio {
        Stdio::Pipes { stdin, stdout, stderr } => builder = builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr),
        Stdio::Console(socket) => builder = builder.with_console_socket(Some(socket)),
    }
    let pid = match work {
        Work::Start { bundle } => {
            if crate::cgroup::is_v2() {
                prepare_cgroup(bundle)?;
            }
            let mut container = builder.as_init(bundle).with_systemd(false).with_detach(true).build().map_err(|error| chain(&error))?;
            let pid = container.pid().map(|pid| pid.as_raw()).ok_or("the container has no process")?;
            if let Err(error) = container.start() {
                let _ = container.delete(true);
                return Err(chain(&error));
            }
            pid
        }
        Work::Exec { process } => {
            builder.as_tenant().with_process(Some(process)).with_detach(true).build().map_err(|error| chain(&error))?.as_raw()
        }
    };
    sys::close(report);
    // Ends without a word when the program has replaced the helper's image.
    let mut failure = String::new();
    let _ = std::fs::File::from(status).read_to_string(&mut failure);
    if failure.is_empty() { Ok(pid) } else { Err(failure) }
}

/// Device rules, which libcontainer leaves out on v2.
fn prepare_cgroup(bundle: &Path) -> Result<(), String> {
    let text = std::fs::read(bundle.join("config.json")).map_err(|error| format!("config.json: {error}"))?;
    let config: serde_json::Value = serde_json::from_slice(&text).map_err(|error| format!("config.json: {error}"))?;
    let cgroup = config["linux"]["cgroupsPath"].as_str().unwrap_or_default();
    crate::cgroup::prepare_v2(cgroup, &config["linux"]["resources"]["devices"]).map_err(|error| format!("cgroup {cgroup}: {error}"))
}

/// What a process inherits through exec is set here: signal mask, ignored signals, the out-of-memory score.
fn prepare_process(oom_score_adj: Option<i32>) -> Result<(), String> {
    nix::sys::signal::SigSet::empty().thread_set_mask().map_err(|error| format!("signal mask: {error}"))?;
    sys::default_signal(Signal::SIGPIPE).map_err(|error| format!("SIGPIPE: {error}"))?;
    if let Some(score) = oom_score_adj {
        // Best effort: going below the present value needs CAP_SYS_RESOURCE.
        let _ = std::fs::write("/proc/self/oom_score_adj", score.to_string());
    }
    Ok(())
}

/// Reads the filters while their files can still be seen: later the process is in the container's root.
fn load_filters(security: Security) -> Result<Loaded, String> {
    let mut filters = Vec::new();
    for path in &security.seccomp {
        filters.push(std::fs::read(path).map_err(|error| format!("seccomp filter {}: {error}", path.display()))?);
    }
    let parse = |names: &[String]| -> Result<CapsHashSet, String> {
        names.iter().map(|name| name.parse::<Capability>().map_err(|error| format!("capability {name}: {error}"))).collect()
    };
    Ok(Loaded {
        bounding: parse(&security.capabilities)?,
        ambient: parse(&security.ambient)?,
        no_new_privileges: security.no_new_privileges,
        filters,
        propagation: security.propagation,
    })
}

/// [`Security`], read and parsed.
struct Loaded {
    bounding: CapsHashSet,
    ambient: CapsHashSet,
    no_new_privileges: bool,
    filters: Vec<Vec<u8>>,
    propagation: Vec<Propagation>,
}

/// The last steps of a container's process: confine, then exec.
#[derive(Clone)]
struct Workload {
    security: Rc<Loaded>,
    /// Closed by exec; carries the reason when exec does not come about.
    report: RawFd,
    /// It is the container's first process, which finds its mounts just made.
    first: bool,
}

impl Workload {
    fn set_propagation(&self) -> Result<(), String> {
        let none: Option<&str> = None;
        for Propagation { path, kind } in &self.security.propagation {
            let flag = match kind.as_str() {
                "rshared" => MsFlags::MS_SHARED,
                "rslave" => MsFlags::MS_SLAVE,
                _ => MsFlags::MS_PRIVATE,
            };
            nix::mount::mount(none, path, none, flag | MsFlags::MS_REC, none)
                .map_err(|error| format!("making {} {kind}: {error}", path.display()))?;
        }
        Ok(())
    }

    fn confine(&self) -> Result<(), String> {
        let say = |what: &'static str| move |error: caps::errors::CapsError| format!("{what} capabilities: {error}");
        let permitted = caps::read(None, CapSet::Permitted).map_err(say("reading"))?;
        // A capability that the node itself lacks cannot be given; the rest still is.
        let granted: CapsHashSet = self.security.bounding.intersection(&permitted).copied().collect();
        let bounding = caps::read(None, CapSet::Bounding).map_err(say("reading"))?;
        for capability in bounding.difference(&self.security.bounding) {
            caps::drop(None, CapSet::Bounding, *capability).map_err(say("bounding"))?;
        }
        // Without no_new_privs a filter needs CAP_SYS_ADMIN, so it comes before the capabilities go; with it, as late as possible.
        if !self.security.no_new_privileges {
            self.install_filters()?;
        }
        let ambient: CapsHashSet = self.security.ambient.intersection(&granted).copied().collect();
        caps::set(None, CapSet::Inheritable, &ambient).map_err(say("inheritable"))?;
        caps::set(None, CapSet::Effective, &granted).map_err(say("effective"))?;
        caps::set(None, CapSet::Permitted, &granted).map_err(say("permitted"))?;
        for capability in &ambient {
            caps::raise(None, CapSet::Ambient, *capability).map_err(say("ambient"))?;
        }
        if self.security.no_new_privileges {
            self.install_filters()?;
        }
        Ok(())
    }

    fn install_filters(&self) -> Result<(), String> {
        for filter in &self.security.filters {
            sys::install_seccomp(filter).map_err(|error| format!("installing the seccomp filter: {error}"))?;
        }
        Ok(())
    }

    fn enter(&self, spec: &Spec) -> Result<std::convert::Infallible, String> {
        let process = spec.process().as_ref().ok_or("the bundle has no process")?;
        let arguments = c_strings(process.args().as_deref().unwrap_or_default())?;
        let environment = c_strings(process.env().as_deref().unwrap_or_default())?;
        let program = find_program(spec)?;
        let path = CString::new(program.as_os_str().as_encoded_bytes()).map_err(|_| "a NUL byte in the program's path")?;
        give_stdio(process.user().uid());
        self.confine()?;
        nix::unistd::execve(&path, &arguments, &environment).map_err(|error| format!("exec {}: {}", program.display(), error_words(error)))
    }
}

/// Makes the standard descriptors the user's own, so that it can open them again by name (`/dev/stdout`). `/dev/null` is everyone's already.
fn give_stdio(uid: u32) {
    use nix::sys::stat::{SFlag, fstat};
    for fd in 0..3 {
        let fd = sys::borrow(fd);
        let Ok(stat) = fstat(fd) else { continue };
        let is_null = stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFCHR.bits() && stat.st_rdev == libc::makedev(1, 3);
        if !is_null && stat.st_uid != uid {
            // Not every descriptor has an owner to change; then opening it again fails, and nothing else.
            let _ = nix::unistd::fchown(fd, Some(nix::unistd::Uid::from_raw(uid)), None);
        }
    }
}

impl Executor for Workload {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let Err(message) = self.enter(spec);
        let text = format!("unable to start container process: {message}");
        let _ = nix::unistd::write(sys::borrow(self.report), text.as_bytes());
        Err(ExecutorError::Other(text))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let mounts = if self.first { self.set_propagation() } else { Ok(()) };
        mounts
            .and_then(|()| find_program(spec).map(drop))
            .map_err(|message| ExecutorValidationError::ArgValidationError(format!("unable to start container process: {message}")))
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The environment goes to exec as the bundle lists it, in its order; this process's own is never looked at again.
        Ok(())
    }
}

fn c_strings(values: &[String]) -> Result<Vec<CString>, String> {
    values.iter().map(|value| CString::new(value.as_str()).map_err(|_| format!("a NUL byte in {value:?}"))).collect()
}

/// Finds the program the way `execvp` would, with the container's own PATH. The words are those that users know from other runtimes.
fn find_program(spec: &Spec) -> Result<PathBuf, String> {
    let process = spec.process().as_ref().ok_or("the bundle has no process")?;
    let name = process.args().as_deref().and_then(<[String]>::first).ok_or("no command specified")?;
    if name.contains('/') {
        let path = Path::new(name);
        let metadata = std::fs::metadata(path).map_err(|error| format!("exec: {name:?}: stat {name}: {}", io_words(&error)))?;
        return match metadata {
            metadata if metadata.is_dir() => Err(format!("exec: {name:?}: is a directory")),
            metadata if metadata.permissions().mode() & 0o111 == 0 => Err(format!("exec: {name:?}: permission denied")),
            _ => Ok(path.to_owned()),
        };
    }
    let environment = process.env().as_deref().unwrap_or_default();
    let search = environment.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default();
    let mut denied = false;
    for folder in search.split(':') {
        let candidate = Path::new(if folder.is_empty() { "." } else { folder }).join(name);
        match std::fs::metadata(&candidate) {
            Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 => return Ok(candidate),
            Ok(metadata) if metadata.is_file() => denied = true,
            _ => {}
        }
    }
    Err(format!("exec: {name:?}: {}", if denied { "permission denied" } else { "executable file not found in $PATH" }))
}

fn io_words(error: &std::io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |code| error_words(nix::errno::Errno::from_raw(code)))
}

/// The kernel's word for an error, in lower case as other runtimes print it.
fn error_words(error: nix::errno::Errno) -> String {
    error.desc().to_lowercase()
}

/// An error with everything that caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// Writes the helper's result where the shim reads it.
pub fn report(result: &Result<i32, String>, pipe: OwnedFd) {
    let text = match result {
        Ok(pid) => format!("ok {pid}"),
        Err(message) => format!("error {message}"),
    };
    let _ = std::fs::File::from(pipe).write_all(text.as_bytes());
}

/// Reads what [`report`] wrote.
pub fn parse_report(text: &str) -> Result<u32, String> {
    match text.split_once(' ') {
        Some(("ok", pid)) => pid.parse().map_err(|_| format!("the helper reported {text:?}")),
        Some(("error", message)) => Err(message.to_owned()),
        _ => Err("the helper ended without a result".to_owned()),
    }
}
