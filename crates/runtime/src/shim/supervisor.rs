//! The shim's loop: one `poll` over everything that can happen, one owner of everything the shim knows.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::connection::{Connection, read_available};
use super::container::{Console, Container, nonblocking, pipe};
use super::helper::{self, Security, Stdio, Work};
use super::note;
use super::protocol::{Event, ExecProcess, Reply, Request, StartContainer, VERSION};
use crate::sys;

/// Number of a connection; never used twice.
type Peer = u64;

/// A forked helper that has not reported yet.
struct Pending {
    report: OwnedFd,
    text: Vec<u8>,
    peer: Peer,
    started: Started,
}

/// What a helper is starting.
enum Started {
    Container { id: String, console: Option<Console> },
    Exec { exec_id: String, console: Option<Console>, fds: Vec<OwnedFd>, process: PathBuf },
}

/// A process started by exec.
struct Exec {
    pid: u32,
    peer: Peer,
}

/// Everything the shim knows.
pub struct Supervisor {
    state_dir: PathBuf,
    listener: UnixListener,
    signals: SignalFd,
    pod_init: Option<u32>,
    peers: BTreeMap<Peer, Connection>,
    next_peer: Peer,
    containers: BTreeMap<String, Container>,
    execs: BTreeMap<String, Exec>,
    pending: Vec<Pending>,
    /// Children that ended while a helper was under way: one of them may be the very process whose pid it has not reported yet.
    early: Vec<(i32, i32, i64)>,
    finished: bool,
}

/// What a descriptor that became ready belongs to.
enum Ready {
    Listener,
    Signals,
    Peer(Peer),
    Output(String, usize),
    Report(RawFd),
}

fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

fn error(message: impl Into<String>) -> Reply {
    Reply::Error { message: message.into(), not_found: false }
}

fn no_such(what: &str, id: &str) -> Reply {
    Reply::Error { message: format!("{what} {id:?} is not running"), not_found: true }
}

impl Supervisor {
    /// Takes over the listening socket and SIGCHLD.
    pub fn new(state_dir: PathBuf, listener: UnixListener, pod_init: Option<u32>) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        // Asked to end politely (a shutdown of the machine) the shim stays: it goes with its pod.
        mask.add(Signal::SIGTERM);
        mask.add(Signal::SIGINT);
        mask.add(Signal::SIGHUP);
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self {
            state_dir,
            listener,
            signals,
            pod_init,
            peers: BTreeMap::new(),
            next_peer: 1,
            containers: BTreeMap::new(),
            execs: BTreeMap::new(),
            pending: Vec::new(),
            early: Vec::new(),
            finished: false,
        })
    }

    /// Serves until [`Request::Shutdown`].
    pub fn run(mut self) -> Result<(), String> {
        while !self.finished {
            for ready in self.wait().map_err(|error| format!("poll: {error}"))? {
                self.handle(ready);
            }
        }
        for peer in std::mem::take(&mut self.peers).into_values() {
            peer.finish();
        }
        Ok(())
    }

    fn wait(&self) -> nix::Result<Vec<Ready>> {
        let mut fds = vec![PollFd::new(self.listener.as_fd(), PollFlags::POLLIN), PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let mut owners = vec![Ready::Listener, Ready::Signals];
        for (number, peer) in &self.peers {
            let write = if peer.wants_write() { PollFlags::POLLOUT } else { PollFlags::empty() };
            fds.push(PollFd::new(peer.as_fd(), PollFlags::POLLIN | write));
            owners.push(Ready::Peer(*number));
        }
        for (id, container) in &self.containers {
            for (stream, output) in container.outputs.iter().enumerate() {
                if let Some(output) = output {
                    fds.push(PollFd::new(output.fd.as_fd(), PollFlags::POLLIN));
                    owners.push(Ready::Output(id.clone(), stream));
                }
            }
        }
        for pending in &self.pending {
            fds.push(PollFd::new(pending.report.as_fd(), PollFlags::POLLIN));
            owners.push(Ready::Report(pending.report.as_raw_fd()));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        drop(fds);
        Ok(owners.into_iter().zip(ready).filter_map(|(owner, ready)| ready.then_some(owner)).collect())
    }

    fn handle(&mut self, ready: Ready) {
        match ready {
            Ready::Listener => self.accept(),
            Ready::Signals => self.children_ended(),
            Ready::Peer(peer) => self.serve(peer),
            Ready::Output(id, stream) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.pump(stream);
                }
            }
            Ready::Report(fd) => self.read_report(fd),
        }
    }

    fn accept(&mut self) {
        match self.listener.accept() {
            Ok((socket, _)) => {
                if let Ok(connection) = Connection::new(socket) {
                    self.peers.insert(self.next_peer, connection);
                    self.next_peer += 1;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => note(&format!("accept: {error}")),
        }
    }

    fn serve(&mut self, number: Peer) {
        let Some(peer) = self.peers.get_mut(&number) else { return };
        let stuck = peer.flush();
        let (requests, gone) = peer.read();
        for request in requests {
            if let Some(reply) = self.answer(number, request) {
                self.reply(number, &reply, Vec::new());
            }
        }
        if gone || stuck {
            self.peers.remove(&number);
        }
    }

    fn reply(&mut self, number: Peer, reply: &Reply, fds: Vec<OwnedFd>) {
        if let Some(peer) = self.peers.get_mut(&number) {
            peer.reply(reply, fds);
        }
    }

    /// Handles a request. No reply yet means that a helper will bring it.
    fn answer(&mut self, number: Peer, request: Request) -> Option<Reply> {
        Some(match request {
            Request::Hello { version } if version == 0 || version > VERSION => {
                error(format!("this shim speaks version {VERSION} of its protocol, not {version}"))
            }
            Request::Hello { .. } => Reply::Hello { version: VERSION, pid: std::process::id(), pod_init: self.pod_init },
            Request::Start(start) => return self.start(number, *start).err().map(error),
            Request::Exec(exec) => return self.exec(number, *exec),
            Request::Signal { id, signal, all } => self.signal(&id, signal, all),
            Request::SignalExec { exec_id, signal } => match self.execs.get(&exec_id) {
                Some(exec) => sent(sys::kill(exec.pid.cast_signed(), signal)),
                None => no_such("exec", &exec_id),
            },
            Request::Attach { id, stdin, stdout, stderr } => return self.attach(number, &id, stdin, stdout, stderr),
            Request::CloseStdin { id } => self.with(&id, |container| {
                container.close_stdin();
                Ok(())
            }),
            Request::Resize { id, width, height } => self.with(&id, |container| container.resize(width, height)),
            Request::ReopenLog { id } => self.with(&id, |container| container.reopen_log().map_err(|error| error.to_string())),
            Request::Forget { id } => {
                if self.containers.get(&id).is_some_and(|container| container.exit.is_some()) {
                    self.containers.remove(&id);
                }
                Reply::Done
            }
            Request::State => self.state(),
            Request::Subscribe => {
                if let Some(peer) = self.peers.get_mut(&number) {
                    peer.subscribed = true;
                }
                self.state()
            }
            Request::Shutdown => self.shut_down(),
        })
    }

    fn with(&mut self, id: &str, act: impl FnOnce(&mut Container) -> Result<(), String>) -> Reply {
        match self.containers.get_mut(id).filter(|container| container.exit.is_none()) {
            Some(container) => act(container).map_or_else(error, |()| Reply::Done),
            None => no_such("container", id),
        }
    }

    fn state(&self) -> Reply {
        Reply::State { containers: self.containers.values().filter(|container| container.pid != 0).map(Container::state).collect() }
    }

    fn signal(&mut self, id: &str, signal: i32, all: bool) -> Reply {
        self.with(id, |container| {
            if container.pid == 0 {
                return Err("the container is being started".to_owned());
            }
            if all && signal == libc::SIGKILL {
                crate::cgroup::kill_all(&container.start.cgroup);
            }
            match sys::kill(container.pid.cast_signed(), signal) {
                Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
                Err(error) => Err(error.to_string()),
            }
        })
    }

    fn attach(&mut self, number: Peer, id: &str, stdin: bool, stdout: bool, stderr: bool) -> Option<Reply> {
        let mut fds = self.peers.get_mut(&number)?.take_fds().into_iter();
        let (stdout, stderr) = (fds.next().filter(|_| stdout), if stdout { fds.next() } else { None }.filter(|_| stderr));
        let Some(container) = self.containers.get_mut(id).filter(|container| container.exit.is_none()) else {
            return Some(no_such("container", id));
        };
        match container.attach(stdin, stdout, stderr) {
            Ok(stdin) => {
                self.reply(number, &Reply::Done, stdin.into_iter().collect());
                None
            }
            Err(failure) => Some(error(format!("attach: {failure}"))),
        }
    }

    fn shut_down(&mut self) -> Reply {
        for container in self.containers.values().filter(|container| container.exit.is_none()) {
            crate::cgroup::kill_all(&container.start.cgroup);
            if container.pid != 0 {
                let _ = sys::kill(container.pid.cast_signed(), libc::SIGKILL);
            }
        }
        if let Some(pid) = self.pod_init {
            let _ = sys::kill(pid.cast_signed(), libc::SIGKILL);
        }
        self.finished = true;
        Reply::Done
    }

    fn start(&mut self, number: Peer, start: StartContainer) -> Result<(), String> {
        let id = start.id.clone();
        if self.containers.contains_key(&id) {
            return Err(format!("container {id:?} was started already"));
        }
        let security = read_security(&start.bundle)?;
        let (container, prepared) = Container::prepare(start, &self.state_dir).map_err(|error| error.to_string())?;
        let (start, root) = (&container.start, self.root());
        let report =
            fork_helper(|| helper::run(&id, &root, security, start.oom_score_adj, prepared.stdio, &Work::Start { bundle: &start.bundle }))?;
        self.containers.insert(id.clone(), container);
        let started = Started::Container { id, console: prepared.console };
        self.pending.push(Pending { report, text: Vec::new(), peer: number, started });
        Ok(())
    }

    fn exec(&mut self, number: Peer, exec: ExecProcess) -> Option<Reply> {
        let Some(container) = self.containers.get(&exec.id).filter(|container| container.exit.is_none() && container.pid != 0) else {
            return Some(no_such("container", &exec.id));
        };
        let bundle = container.start.bundle.clone();
        self.start_exec(number, exec, &bundle).err().map(error)
    }

    fn start_exec(&mut self, number: Peer, exec: ExecProcess, bundle: &Path) -> Result<(), String> {
        let words = |error: &dyn std::fmt::Display| error.to_string();
        let security = read_security(bundle)?;
        let process = self.state_dir.join(format!("exec-{}.json", exec.exec_id));
        std::fs::write(&process, exec.process.to_string()).map_err(|error| words(&error))?;
        let (mut fds, mut console) = (Vec::new(), None);
        let stdio = if exec.tty {
            let name = format!("tty-{}", exec.exec_id);
            let listening = Console::listen(&self.state_dir, &name).map_err(|error| words(&error))?;
            Stdio::Console(console.insert(listening).path().to_owned())
        } else {
            let (stdout_read, stdout) = pipe().map_err(|error| words(&error))?;
            let (stderr_read, stderr) = pipe().map_err(|error| words(&error))?;
            let stdin = if exec.stdin {
                let (read, write) = pipe().map_err(|error| words(&error))?;
                fds.push(write);
                read
            } else {
                sys::dev_null().map_err(|error| words(&error))?
            };
            fds.extend([stdout_read, stderr_read]);
            Stdio::Pipes { stdin, stdout, stderr }
        };
        let root = self.root();
        let report = fork_helper(|| helper::run(&exec.id, &root, security, exec.oom_score_adj, stdio, &Work::Exec { process: &process }))?;
        let started = Started::Exec { exec_id: exec.exec_id, console, fds, process };
        self.pending.push(Pending { report, text: Vec::new(), peer: number, started });
        Ok(())
    }

    /// libcontainer keeps its own state here.
    fn root(&self) -> PathBuf {
        self.state_dir.join("containers")
    }

    fn read_report(&mut self, fd: RawFd) {
        let Some(index) = self.pending.iter().position(|pending| pending.report.as_raw_fd() == fd) else { return };
        let mut chunk = [0; 1024];
        match read_available(&self.pending[index].report, &mut chunk) {
            None => return,
            Some(0) => {}
            Some(length) => {
                self.pending[index].text.extend_from_slice(&chunk[..length]);
                return;
            }
        }
        let pending = self.pending.swap_remove(index);
        let result = helper::parse_report(&String::from_utf8_lossy(&pending.text));
        match pending.started {
            Started::Container { id, console } => self.container_started(pending.peer, &id, console, result),
            Started::Exec { exec_id, console, fds, process } => {
                let _ = std::fs::remove_file(process);
                self.exec_started(pending.peer, exec_id, console, fds, result);
            }
        }
        if self.pending.is_empty() {
            self.early.clear();
        }
    }

    fn container_started(&mut self, peer: Peer, id: &str, console: Option<Console>, result: Result<u32, String>) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let result = result.and_then(|pid| {
            container.pid = pid;
            container.started_at = now();
            match console.map(Console::receive).transpose() {
                Ok(Some(master)) => container.set_terminal(master).map(|()| pid).map_err(|error| error.to_string()),
                Ok(None) => Ok(pid),
                Err(error) => Err(format!("the container's terminal: {error}")),
            }
        });
        match result {
            Ok(pid) => {
                let started_at = container.started_at;
                self.reply(peer, &Reply::Started { pid, started_at }, Vec::new());
                self.publish(&Event::Started { id: id.to_owned(), pid, started_at });
                if let Some((_, code, at)) = self.take_early(pid) {
                    self.container_ended(id, code, at.max(started_at));
                }
            }
            Err(message) => {
                self.reply(peer, &error(message.clone()), Vec::new());
                if let Some(container) = self.containers.remove(id) {
                    let exit = container.never_started(message);
                    self.publish(&Event::Exited { id: id.to_owned(), exit });
                }
            }
        }
    }

    fn exec_started(&mut self, peer: Peer, exec_id: String, console: Option<Console>, mut fds: Vec<OwnedFd>, result: Result<u32, String>) {
        let result = result.and_then(|pid| {
            if let Some(console) = console {
                fds.push(console.receive().map_err(|error| format!("the terminal: {error}"))?);
            }
            Ok(pid)
        });
        match result {
            Ok(pid) => {
                self.reply(peer, &Reply::Started { pid, started_at: now() }, fds);
                match self.take_early(pid) {
                    Some((_, exit_code, _)) => self.reply(peer, &Reply::Exited { exit_code }, Vec::new()),
                    None => drop(self.execs.insert(exec_id, Exec { pid, peer })),
                }
            }
            Err(message) => self.reply(peer, &error(message), Vec::new()),
        }
    }

    fn take_early(&mut self, pid: u32) -> Option<(i32, i32, i64)> {
        let index = self.early.iter().position(|(ended, _, _)| *ended == pid.cast_signed())?;
        Some(self.early.swap_remove(index))
    }

    fn children_ended(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo != Signal::SIGCHLD as u32 {
                note("asked to end by a signal; staying, a shim ends with its pod");
            }
        }
        while let Some((pid, code)) = sys::reap() {
            let at = now();
            let number = pid.cast_unsigned();
            let container = self.containers.values().find(|container| container.pid == number && container.exit.is_none());
            if let Some(id) = container.map(|container| container.start.id.clone()) {
                self.container_ended(&id, code, at);
            } else if let Some(exec_id) = self.execs.iter().find(|(_, exec)| exec.pid == number).map(|(id, _)| id.clone()) {
                if let Some(exec) = self.execs.remove(&exec_id) {
                    self.reply(exec.peer, &Reply::Exited { exit_code: code }, Vec::new());
                }
            } else if !self.pending.is_empty() {
                self.early.push((pid, code, at));
            }
        }
    }

    fn container_ended(&mut self, id: &str, code: i32, at: i64) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let exit = container.ended(code, at);
        self.publish(&Event::Exited { id: id.to_owned(), exit });
    }

    fn publish(&mut self, event: &Event) {
        for peer in self.peers.values_mut().filter(|peer| peer.subscribed) {
            peer.reply(event, Vec::new());
        }
    }
}

fn sent(result: nix::Result<()>) -> Reply {
    match result {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Reply::Done,
        Err(failure) => error(failure.to_string()),
    }
}

fn read_security(bundle: &Path) -> Result<Security, String> {
    let path = bundle.join("security.json");
    let text = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Forks a child that does the work and reports. Returns where the report arrives.
fn fork_helper(work: impl FnOnce() -> Result<i32, String>) -> Result<OwnedFd, String> {
    let (read, write) = pipe().map_err(|error| error.to_string())?;
    nonblocking(&read).map_err(|error| error.to_string())?;
    match sys::fork().map_err(|error| format!("fork: {error}"))? {
        Some(_) => Ok(read),
        None => {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            let result = result.unwrap_or_else(|_| Err("the container helper panicked".to_owned()));
            helper::report(&result, write);
            sys::exit_now(0)
        }
    }
}
