//! A container as its shim holds it: descriptors, log, attached clients, and how it ended.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::connection::{read_available, write_available};
use super::helper::Stdio;
use super::log::{LineCutter, LogFile, timestamp};
use super::note;
use super::protocol::{ContainerState, Exit, StartContainer};
use crate::sys;

/// Room for a client that reads slowly; one that falls further behind is let go, since it must hold up neither container nor log.
const ATTACH_PIPE: i32 = 1 << 20;

/// The exit code of a container whose program could not be started.
pub const START_ERROR: i32 = 128;

/// One of a container's output streams.
pub struct Output {
    /// Read end of a pipe, or the master of the terminal.
    pub fd: OwnedFd,
    cutter: LineCutter,
}

/// The descriptors of an attached client.
struct Attached {
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// A container.
pub struct Container {
    /// What it was started with.
    pub start: StartContainer,
    /// 0 until it runs.
    pub pid: u32,
    /// Nanoseconds since the epoch.
    pub started_at: i64,
    /// Set once its end is on disk.
    pub exit: Option<Exit>,
    /// stdout (or the terminal) and stderr, while open.
    pub outputs: [Option<Output>; 2],
    log: LogFile,
    stdin: Option<OwnedFd>,
    attached: Vec<Attached>,
}

/// What the first process is given, and what stays with the shim until it runs.
pub struct Prepared {
    /// For the helper.
    pub stdio: Stdio,
    /// Where the terminal will arrive.
    pub console: Option<Console>,
}

/// A socket on which a terminal's master arrives.
pub struct Console {
    listener: UnixListener,
    path: PathBuf,
}

impl Console {
    /// Listens in the shim's state directory, which is its working directory: a socket's path must be short, that of a container is not.
    pub fn listen(state_dir: &Path, name: &str) -> std::io::Result<Self> {
        let _ = std::fs::remove_file(name);
        Ok(Self { listener: UnixListener::bind(name)?, path: state_dir.join(name) })
    }

    /// Where.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the terminal, once the helper has reported success: then it is in the socket's queue already.
    pub fn receive(self) -> std::io::Result<OwnedFd> {
        self.listener.set_nonblocking(true)?;
        let (socket, _) = self.listener.accept()?;
        socket.set_nonblocking(true)?;
        let (mut name, mut fds) = ([0; 256], Vec::new());
        sys::receive_with_fds(&socket, &mut name, &mut fds)?;
        fds.pop().ok_or_else(|| std::io::Error::other("no terminal came from the container"))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A pipe: read end, write end, both close-on-exec.
pub fn pipe() -> nix::Result<(OwnedFd, OwnedFd)> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC)
}

/// Makes reads and writes return at once.
pub fn nonblocking(fd: &impl AsFd) -> nix::Result<()> {
    let flags = OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}

impl Container {
    /// Opens the log and makes the descriptors; nothing runs yet.
    pub fn prepare(start: StartContainer, state_dir: &Path) -> std::io::Result<(Self, Prepared)> {
        let log = LogFile::open(start.log_path.clone())
            .map_err(|error| std::io::Error::other(format!("failed to open the container's log: {error}")))?;
        let mut container =
            Self { start, pid: 0, started_at: 0, exit: None, outputs: [None, None], log, stdin: None, attached: Vec::new() };
        if container.start.tty {
            let console = Console::listen(state_dir, &format!("tty-{}", container.start.id))?;
            return Ok((container, Prepared { stdio: Stdio::Console(console.path().to_owned()), console: Some(console) }));
        }
        let (stdout_read, stdout) = pipe()?;
        let (stderr_read, stderr) = pipe()?;
        nonblocking(&stdout_read)?;
        nonblocking(&stderr_read)?;
        container.outputs = [
            Some(Output { fd: stdout_read, cutter: LineCutter::new("stdout") }),
            Some(Output { fd: stderr_read, cutter: LineCutter::new("stderr") }),
        ];
        let stdin = if container.start.stdin {
            let (read, write) = pipe()?;
            container.stdin = Some(write);
            read
        } else {
            sys::dev_null()?
        };
        Ok((container, Prepared { stdio: Stdio::Pipes { stdin, stdout, stderr }, console: None }))
    }

    /// The terminal has arrived.
    pub fn set_terminal(&mut self, master: OwnedFd) -> std::io::Result<()> {
        nonblocking(&master)?;
        if self.start.stdin {
            self.stdin = Some(master.try_clone()?);
        }
        self.outputs[0] = Some(Output { fd: master, cutter: LineCutter::new("stdout") });
        Ok(())
    }

    /// Reads what a stream has now: into the log, and to the clients.
    pub fn pump(&mut self, stream: usize) {
        let mut chunk = [0; 32 * 1024];
        let Some(output) = &mut self.outputs[stream] else { return };
        match read_available(&output.fd, &mut chunk) {
            None => {}
            Some(0) => self.close_output(stream),
            Some(length) => {
                output.cutter.push(&chunk[..length], &timestamp(), &mut self.log);
                self.copy_to_clients(stream, &chunk[..length]);
            }
        }
    }

    fn close_output(&mut self, stream: usize) {
        if let Some(mut output) = self.outputs[stream].take() {
            output.cutter.finish(&timestamp(), &mut self.log);
        }
        for client in &mut self.attached {
            if stream == 0 { client.stdout = None } else { client.stderr = None }
        }
        self.attached.retain(|client| client.stdout.is_some() || client.stderr.is_some());
    }

    fn copy_to_clients(&mut self, stream: usize, data: &[u8]) {
        for client in &mut self.attached {
            let target = if stream == 0 { &mut client.stdout } else { &mut client.stderr };
            if let Some(fd) = target
                && let Err(error) = write_available(fd, data)
            {
                if error.kind() == std::io::ErrorKind::WouldBlock {
                    note(&format!("container {}: an attached client does not read, letting it go", self.start.id));
                }
                *target = None;
            }
        }
        self.attached.retain(|client| client.stdout.is_some() || client.stderr.is_some());
    }

    /// Adds a client. Returns the container's stdin for it, when it asks for one and there is one.
    pub fn attach(&mut self, stdin: bool, stdout: Option<OwnedFd>, stderr: Option<OwnedFd>) -> std::io::Result<Option<OwnedFd>> {
        for fd in stdout.iter().chain(&stderr) {
            nonblocking(fd)?;
            let _ = fcntl(fd, FcntlArg::F_SETPIPE_SZ(ATTACH_PIPE));
        }
        let (stdout, stderr) = (stdout.filter(|_| self.outputs[0].is_some()), stderr.filter(|_| self.outputs[1].is_some()));
        if stdout.is_some() || stderr.is_some() {
            self.attached.push(Attached { stdout, stderr });
        }
        match &self.stdin {
            Some(fd) if stdin => Ok(Some(fd.try_clone()?)),
            _ => Ok(None),
        }
    }

    /// A client that fed stdin is gone.
    pub fn close_stdin(&mut self) {
        if self.start.stdin_once && !self.start.tty {
            self.stdin = None;
        }
    }

    /// Sets the size of the terminal.
    pub fn resize(&self, width: u16, height: u16) -> Result<(), String> {
        match &self.outputs[0] {
            Some(output) if self.start.tty => {
                sys::set_window_size(&output.fd, width, height).map_err(|error| format!("resizing the terminal: {error}"))
            }
            _ => Err("the container has no terminal".to_owned()),
        }
    }

    /// Opens the log anew.
    pub fn reopen_log(&mut self) -> std::io::Result<()> {
        self.log.reopen()
    }

    /// The first process has ended: collects its last output, decides the reason and puts it on disk.
    pub fn ended(&mut self, exit_code: i32, finished_at: i64) -> Exit {
        if !self.start.own_pid_namespace {
            crate::cgroup::kill_all(&self.start.cgroup);
        }
        for stream in 0..2 {
            self.drain(stream);
        }
        let out_of_memory = exit_code != 0 && crate::cgroup::oom_kills(&self.start.cgroup) > 0;
        let reason = match exit_code {
            _ if out_of_memory => "OOMKilled",
            0 => "Completed",
            _ => "Error",
        };
        let exit = Exit { exit_code, started_at: self.started_at, finished_at, reason: reason.to_owned(), message: String::new() };
        if let Err(error) = write_exit(&self.start.exit_path, &exit) {
            note(&format!("container {}: its exit could not be recorded: {error}", self.start.id));
        }
        self.stdin = None;
        self.exit = Some(exit.clone());
        exit
    }

    /// The first process could not be started: records that as an end like any other.
    pub fn never_started(self, message: String) -> Exit {
        crate::cgroup::kill_all(&self.start.cgroup);
        let finished_at = i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
        let exit = Exit { exit_code: START_ERROR, started_at: 0, finished_at, reason: "StartError".to_owned(), message };
        if let Err(error) = write_exit(&self.start.exit_path, &exit) {
            note(&format!("container {}: its failed start could not be recorded: {error}", self.start.id));
        }
        exit
    }

    /// Everything that is in the pipe now. Something outside the container's namespaces may hold it open: then the rest comes later.
    fn drain(&mut self, stream: usize) {
        let mut chunk = [0; 32 * 1024];
        while let Some(output) = &mut self.outputs[stream] {
            match read_available(&output.fd, &mut chunk) {
                None => break,
                Some(0) => self.close_output(stream),
                Some(length) => {
                    output.cutter.push(&chunk[..length], &timestamp(), &mut self.log);
                    self.copy_to_clients(stream, &chunk[..length]);
                }
            }
        }
    }

    /// For the server.
    pub fn state(&self) -> ContainerState {
        ContainerState { id: self.start.id.clone(), pid: self.pid, started_at: self.started_at, exit: self.exit.clone() }
    }
}

/// Records an exit so that it is there whole after any crash, or not at all.
pub fn write_exit(path: &Path, exit: &Exit) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(exit)?)?;
    file.sync_data()?;
    std::fs::rename(temporary, path)
}
