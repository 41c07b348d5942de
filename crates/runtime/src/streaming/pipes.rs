//! Pipes and terminals of containers in the event loop. A terminal is neither a pipe nor a socket, so the loop's own types do not take it.

use std::io::{ErrorKind, Result};
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

fn nonblocking(fd: &OwnedFd) -> Result<()> {
    let flags = OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Reads.
pub struct Reader(AsyncFd<OwnedFd>);

impl Reader {
    /// Takes a descriptor.
    pub fn new(fd: OwnedFd) -> Result<Self> {
        nonblocking(&fd)?;
        crate::sys::watch(fd, Interest::READABLE).map(Self)
    }

    /// Waits for data; zero is the end.
    pub async fn read(&self, chunk: &mut [u8]) -> Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(result) = ready.try_io(|fd| Ok(nix::unistd::read(fd, chunk)?)) {
                return end_of_terminal(result);
            }
        }
    }

    /// What is there now; zero also when there is nothing.
    pub fn read_now(&self, chunk: &mut [u8]) -> Result<usize> {
        match nix::unistd::read(self.0.get_ref(), chunk) {
            Err(nix::errno::Errno::EAGAIN) => Ok(0),
            other => end_of_terminal(other.map_err(Into::into)),
        }
    }
}

/// EIO is how a terminal says that its other side is closed.
fn end_of_terminal(result: Result<usize>) -> Result<usize> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
        other => other,
    }
}

/// Writes.
pub struct Writer(AsyncFd<OwnedFd>);

impl Writer {
    /// Takes a descriptor.
    pub fn new(fd: OwnedFd) -> Result<Self> {
        nonblocking(&fd)?;
        crate::sys::watch(fd, Interest::WRITABLE).map(Self)
    }

    /// Writes all of it.
    pub async fn write_all(&self, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|fd| Ok(nix::unistd::write(fd, data)?)) {
                Ok(Ok(0)) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => data = &data[written?..],
                Err(_) => {}
            }
        }
        Ok(())
    }
}
