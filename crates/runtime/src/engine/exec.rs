//! Processes beside a container's first one, and its standard streams: what ExecSync and the streaming server are made of.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use ferrokube_cri::v1;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::Engine;
use super::model::{Container, Sandbox, load_json};
use crate::error::{Error, IoContext, Result};
use crate::shim::client::{ShimConnection, tell, unexpected};
use crate::shim::protocol::{ExecProcess, Reply, Request};

/// A command to be run in a container.
#[derive(Debug, Clone, Default)]
pub struct ExecTarget {
    /// Container id.
    pub container: String,
    /// Command and arguments.
    pub command: Vec<String>,
    /// With a terminal.
    pub tty: bool,
    /// With a stdin.
    pub stdin: bool,
}

/// A client of a container's own streams.
#[derive(Debug, Clone, Default)]
pub struct AttachTarget {
    /// Container id.
    pub container: String,
    /// The container has a terminal.
    pub tty: bool,
    /// Feed its stdin.
    pub stdin: bool,
    /// Copy its stdout.
    pub stdout: bool,
    /// Copy its stderr.
    pub stderr: bool,
}

/// A running process and its streams, as descriptors that do not block.
#[derive(Debug)]
pub struct Process {
    /// To its stdin; the terminal itself when it has one.
    pub stdin: Option<OwnedFd>,
    /// From its stdout; none with a terminal.
    pub stdout: Option<OwnedFd>,
    /// From its stderr; none with a terminal.
    pub stderr: Option<OwnedFd>,
    /// Its terminal.
    pub terminal: Option<OwnedFd>,
    exec_id: String,
    shim: ShimConnection,
    socket: std::path::PathBuf,
}

impl Process {
    /// Waits for its end. The exit code is 128 + n after signal n.
    pub async fn wait(&mut self) -> Result<i32> {
        match self.shim.receive::<Reply>().await.context("waiting for a process in the container")? {
            Reply::Exited { exit_code } => Ok(exit_code),
            other => Err(unexpected(&other).into()),
        }
    }

    /// Kills it; one that has ended already is fine.
    pub async fn kill(&self) {
        let request = Request::SignalExec { exec_id: self.exec_id.clone(), signal: libc::SIGKILL };
        if let Err(error) = tell(&self.socket, &request).await {
            tracing::debug!("killing a process in a container: {error}");
        }
    }
}

/// A container's own streams, for one client.
#[derive(Debug)]
pub struct Attachment {
    /// To its stdin.
    pub stdin: Option<OwnedFd>,
    /// Copied from its stdout or terminal.
    pub stdout: Option<OwnedFd>,
    /// Copied from its stderr.
    pub stderr: Option<OwnedFd>,
}

impl Engine {
    fn running(&self, id: &str) -> Result<(Arc<Sandbox>, Arc<Container>)> {
        let container = self.container(id)?;
        if container.pid().is_none() {
            let state = container.cri_state().as_str_name();
            return Err(Error::FailedPrecondition(format!("container is in {state} state")));
        }
        Ok((self.sandbox(&container.sandbox_id)?, container))
    }

    /// Checks that a container runs, for requests that are served later.
    pub fn check_running(&self, id: &str) -> Result<Arc<Container>> {
        self.running(id).map(|(_, container)| container)
    }

    /// Starts a process in a container.
    pub async fn exec(&self, target: &ExecTarget) -> Result<Process> {
        let (sandbox, container) = self.running(&target.container)?;
        let bundle: serde_json::Value = load_json(&container.bundle().join("config.json"))?;
        let exec_id: String = super::model::new_id()[..16].to_owned();
        let config = container.config();
        let resources = config.linux.as_ref().and_then(|linux| linux.resources.as_ref());
        let request = Request::Exec(Box::new(ExecProcess {
            id: container.id.clone(),
            exec_id: exec_id.clone(),
            process: crate::spec::exec_process(&bundle, &target.command, target.tty),
            tty: target.tty,
            stdin: target.stdin,
            oom_score_adj: resources.and_then(|resources| i32::try_from(resources.oom_score_adj).ok()),
        }));
        let socket = self.shim_socket(&sandbox);
        let (mut shim, _) = ShimConnection::open(&socket).await?;
        let (reply, fds) = shim.call(&request, &[]).await.map_err(|error| match error {
            crate::shim::client::ShimError::Refused(message) => {
                Error::Internal(format!("failed to exec in container {:?}: {message}", container.id))
            }
            other => other.into(),
        })?;
        if !matches!(reply, Reply::Started { .. }) {
            return Err(unexpected(&reply).into());
        }
        let mut fds = fds.into_iter();
        let mut process = Process { stdin: None, stdout: None, stderr: None, terminal: None, exec_id, shim, socket };
        if target.tty {
            process.terminal = fds.next();
        } else {
            process.stdin = if target.stdin { fds.next() } else { None };
            process.stdout = fds.next();
            process.stderr = fds.next();
        }
        Ok(process)
    }

    /// ExecSync. `timeout` in seconds; 0 waits as long as it takes.
    pub async fn exec_sync(&self, request: v1::ExecSyncRequest) -> Result<v1::ExecSyncResponse> {
        if request.cmd.is_empty() {
            return Err(Error::InvalidArgument("no command specified".to_owned()));
        }
        let target = ExecTarget { container: request.container_id, command: request.cmd, tty: false, stdin: false };
        let timeout = u64::try_from(request.timeout).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let deadline = timeout.map(|timeout| tokio::time::Instant::now() + timeout);
        let mut process = self.exec(&target).await?;
        let (stdout, stderr) = (receiver(process.stdout.take())?, receiver(process.stderr.take())?);
        let limit = self.config.exec_sync_limit;
        let work = async {
            let (mut out, mut err) = (Captured::new(stdout, limit), Captured::new(stderr, limit));
            let exit_code = {
                // The process's end ends it, even when one that it left behind keeps the pipes open.
                let mut outputs = std::pin::pin!(async { tokio::join!(out.read_all(), err.read_all()) });
                let mut drained = false;
                loop {
                    tokio::select! {
                        exit = process.wait() => break exit?,
                        _ = &mut outputs, if !drained => drained = true,
                    }
                }
            };
            Ok::<_, Error>((exit_code, out, err))
        };
        let work = async {
            tokio::select! {
                result = work => result,
                () = self.stop.cancelled() => Err(super::containers::being_stopped()),
            }
        };
        let finished = match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, work).await,
            None => Ok(work.await),
        };
        match finished {
            Ok(Ok((exit_code, mut out, mut err))) => {
                out.read_available();
                err.read_available();
                Ok(v1::ExecSyncResponse { stdout: out.data, stderr: err.data, exit_code })
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                process.kill().await;
                let seconds = request.timeout;
                Err(Error::DeadlineExceeded(format!("failed to exec in container: timeout {seconds}s exceeded: context deadline exceeded")))
            }
        }
    }

    /// Joins a container's own streams.
    pub async fn attach(&self, target: &AttachTarget) -> Result<Attachment> {
        let (sandbox, container) = self.running(&target.container)?;
        let config = container.config();
        let stderr = target.stderr && !config.tty;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for wanted in [target.stdout, stderr] {
            if wanted {
                let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
                    .map_err(|error| Error::Io("making a pipe".to_owned(), error.into()))?;
                ours.push(read);
                theirs.push(write);
            }
        }
        let (mut shim, _) = ShimConnection::open(&self.shim_socket(&sandbox)).await?;
        let raw: Vec<i32> = theirs.iter().map(AsRawFd::as_raw_fd).collect();
        let request = Request::Attach { id: container.id.clone(), stdin: target.stdin, stdout: target.stdout, stderr };
        let (reply, fds) = shim.call(&request, &raw).await?;
        if reply != Reply::Done {
            return Err(unexpected(&reply).into());
        }
        let mut ours = ours.into_iter();
        let stdout = if target.stdout { ours.next() } else { None };
        Ok(Attachment { stdin: fds.into_iter().next(), stdout, stderr: ours.next() })
    }

    /// The client that fed a container's stdin is gone.
    pub async fn close_stdin(&self, id: &str) -> Result<()> {
        let (sandbox, container) = self.running(id)?;
        Ok(tell(&self.shim_socket(&sandbox), &Request::CloseStdin { id: container.id.clone() }).await?)
    }

    /// Sets the size of a container's own terminal.
    pub async fn resize(&self, id: &str, width: u16, height: u16) -> Result<()> {
        let (sandbox, container) = self.running(id)?;
        Ok(tell(&self.shim_socket(&sandbox), &Request::Resize { id: container.id.clone(), width, height }).await?)
    }
}

/// A descriptor as an asynchronous reader.
pub fn receiver(fd: Option<OwnedFd>) -> Result<pipe::Receiver> {
    let fd = fd.ok_or_else(|| Error::Internal("the process has no output".to_owned()))?;
    pipe::Receiver::from_owned_fd(fd).context("the process's output")
}

/// Output that is collected up to a limit; what is beyond is read and dropped, so that the process does not hang.
struct Captured {
    pipe: pipe::Receiver,
    data: Vec<u8>,
    limit: usize,
}

impl Captured {
    fn new(pipe: pipe::Receiver, limit: usize) -> Self {
        Self { pipe, data: Vec::new(), limit }
    }

    fn keep(&mut self, chunk: &[u8]) {
        let room = self.limit.saturating_sub(self.data.len());
        self.data.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }

    async fn read_all(&mut self) {
        let mut chunk = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = self.pipe.read(&mut chunk).await {
            let read = chunk[..length].to_vec();
            self.keep(&read);
        }
    }

    /// What is in the pipe now. Asks the kernel, not the event loop, which may not have heard of it yet.
    fn read_available(&mut self) {
        let mut chunk = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = nix::unistd::read(&self.pipe, &mut chunk) {
            let read = chunk[..length].to_vec();
            self.keep(&read);
        }
    }
}
