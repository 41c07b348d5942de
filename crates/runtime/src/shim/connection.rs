//! One connection of the CRI server to a shim, seen from the shim: whole frames in, whole frames out, never blocking.

use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use serde::Serialize;

use super::protocol::{self, Reply, Request};
use crate::sys;

/// A peer that does not read for this long (in bytes) is gone for us.
const MAX_BACKLOG: usize = 4 << 20;

/// A frame, or what is left of it, and the descriptors that go with its first byte.
struct Outgoing {
    data: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

/// A connection.
pub struct Connection {
    socket: UnixStream,
    incoming: Vec<u8>,
    fds: Vec<OwnedFd>,
    outgoing: std::collections::VecDeque<Outgoing>,
    backlog: usize,
    /// It has asked for events.
    pub subscribed: bool,
}

impl Connection {
    /// Takes a fresh connection.
    pub fn new(socket: UnixStream) -> std::io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket, incoming: Vec::new(), fds: Vec::new(), outgoing: Default::default(), backlog: 0, subscribed: false })
    }

    /// Reads what is there. Returns the requests that are complete, and whether the peer is gone.
    pub fn read(&mut self) -> (Vec<Request>, bool) {
        let mut requests = Vec::new();
        let mut chunk = [0; 8192];
        loop {
            match sys::receive_with_fds(&self.socket, &mut chunk, &mut self.fds) {
                Ok(0) => return (requests, true),
                Ok(length) => self.incoming.extend_from_slice(&chunk[..length]),
                Err(nix::errno::Errno::EAGAIN) => break,
                Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return (requests, true),
            }
        }
        loop {
            match protocol::decode(&mut self.incoming) {
                Ok(Some(request)) => requests.push(request),
                Ok(None) => break,
                Err(error) => {
                    self.reply(&Reply::Error { message: format!("malformed request: {error}"), not_found: false }, Vec::new());
                    return (requests, true);
                }
            }
        }
        self.incoming.shrink_to(256);
        (requests, false)
    }

    /// The descriptors that came with the request being handled.
    pub fn take_fds(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.fds)
    }

    /// Queues a frame and sends as much as goes.
    pub fn reply(&mut self, message: &impl Serialize, fds: Vec<OwnedFd>) {
        let mut data = Vec::new();
        if protocol::encode(message, &mut data).is_err() {
            return;
        }
        self.backlog += data.len();
        self.outgoing.push_back(Outgoing { data, sent: 0, fds });
        self.flush();
    }

    /// Sends what is queued, as much as goes. Returns whether the peer is gone, or as good as.
    pub fn flush(&mut self) -> bool {
        while let Some(front) = self.outgoing.front_mut() {
            let fds: Vec<RawFd> = front.fds.iter().map(AsRawFd::as_raw_fd).collect();
            match sys::send_with_fds(&self.socket, &front.data[front.sent..], &fds) {
                Ok(sent) => {
                    front.fds.clear();
                    front.sent += sent;
                    self.backlog -= sent;
                    if front.sent == front.data.len() {
                        self.outgoing.pop_front();
                    }
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) => break,
                Err(_) => return true,
            }
        }
        self.backlog > MAX_BACKLOG
    }

    /// Frames are waiting for the peer to read.
    pub fn wants_write(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Waits until everything is sent: for the last words of a shim that ends.
    pub fn finish(mut self) {
        let _ = self.socket.set_nonblocking(false);
        let _ = self.socket.set_write_timeout(Some(std::time::Duration::from_secs(1)));
        while self.wants_write() {
            let before = self.backlog;
            if self.flush() || self.backlog == before {
                break;
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Reads without waiting: none when there is nothing now, zero at the end.
pub fn read_available(fd: &OwnedFd, chunk: &mut [u8]) -> Option<usize> {
    loop {
        match nix::unistd::read(fd, chunk) {
            Ok(length) => return Some(length),
            Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::EAGAIN) => return None,
            // EIO is how a terminal says that its other side is closed.
            Err(_) => return Some(0),
        }
    }
}

/// Writes to an attached client without waiting. An error also means that the client did not keep up.
pub fn write_available(fd: &OwnedFd, mut data: &[u8]) -> std::io::Result<()> {
    while !data.is_empty() {
        match nix::unistd::write(fd, data) {
            Ok(length) => data = &data[length..],
            Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::EAGAIN) => return Err(ErrorKind::WouldBlock.into()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
