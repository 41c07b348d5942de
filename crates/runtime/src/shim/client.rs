//! The CRI server's end of a shim's socket.

use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use serde::Deserialize;
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::protocol::{self, Reply, Request, VERSION};
use crate::sys;

/// Why a shim did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// It cannot be reached, or broke off.
    #[error("the pod's shim does not answer: {0}")]
    Unreachable(#[from] Error),
    /// It answered that it cannot.
    #[error("{0}")]
    Refused(String),
    /// It does not know what the request is about.
    #[error("{0}")]
    NotFound(String),
}

/// A connection to a shim.
#[derive(Debug)]
pub struct ShimConnection {
    socket: UnixStream,
    buffer: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// What a shim says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShimIdentity {
    /// Its process id.
    pub pid: u32,
    /// The process that holds the pod's PID namespace.
    pub pod_init: Option<u32>,
}

impl ShimConnection {
    /// Connects and agrees on the version.
    pub async fn open(socket: &Path) -> std::result::Result<(Self, ShimIdentity), ShimError> {
        let socket = UnixStream::connect(socket).await?;
        let mut connection = Self { socket, buffer: Vec::new(), fds: Vec::new() };
        match connection.call(&Request::Hello { version: VERSION }, &[]).await? {
            (Reply::Hello { pid, pod_init, .. }, _) => Ok((connection, ShimIdentity { pid, pod_init })),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Sends a request and waits for its answer, with the descriptors that came along. An error reply becomes an error.
    pub async fn call(&mut self, request: &Request, fds: &[RawFd]) -> std::result::Result<(Reply, Vec<OwnedFd>), ShimError> {
        self.send(request, fds).await?;
        match self.receive::<Reply>().await? {
            Reply::Error { message, not_found: true } => Err(ShimError::NotFound(message)),
            Reply::Error { message, .. } => Err(ShimError::Refused(message)),
            reply => Ok((reply, std::mem::take(&mut self.fds))),
        }
    }

    async fn send(&mut self, request: &Request, fds: &[RawFd]) -> Result<()> {
        let mut data = Vec::new();
        protocol::encode(request, &mut data)?;
        let (mut sent, mut fds) = (0, fds);
        while sent < data.len() {
            self.socket.writable().await?;
            let rest = &data[sent..];
            match self.socket.try_io(Interest::WRITABLE, || Ok(sys::send_with_fds(&self.socket, rest, fds)?)) {
                Ok(length) => {
                    sent += length;
                    fds = &[];
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits for the next frame: an answer, or what a connection carries after it changed its nature.
    pub async fn receive<T: for<'de> Deserialize<'de>>(&mut self) -> Result<T> {
        loop {
            if let Some(message) = protocol::decode(&mut self.buffer)? {
                return Ok(message);
            }
            self.socket.readable().await?;
            let mut chunk = [0; 4096];
            let (socket, fds) = (&self.socket, &mut self.fds);
            match socket.try_io(Interest::READABLE, || Ok(sys::receive_with_fds(socket, &mut chunk, fds)?)) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.buffer.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsRawFd for ShimConnection {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Opens a connection for one request that is answered with [`Reply::Done`].
pub async fn tell(socket: &Path, request: &Request) -> std::result::Result<(), ShimError> {
    let (mut connection, _) = ShimConnection::open(socket).await?;
    match connection.call(request, &[]).await? {
        (Reply::Done, _) => Ok(()),
        (other, _) => Err(unexpected(&other)),
    }
}

/// An answer that does not belong to the request.
pub fn unexpected(reply: &Reply) -> ShimError {
    ShimError::Refused(format!("the pod's shim answered out of turn: {reply:?}"))
}
