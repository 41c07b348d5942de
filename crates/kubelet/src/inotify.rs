//! Waiting for files to change. Nothing here says what changed: whoever waits looks for himself.

use nix::sys::inotify::{InitFlags, Inotify};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use tokio::io::unix::AsyncFd;

pub use nix::sys::inotify::AddWatchFlags as Of;

/// tokio wants a raw descriptor, nix gives a borrowed one.
struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Files and directories that are watched.
pub struct Watch {
    events: AsyncFd<Descriptor>,
}

impl Watch {
    /// Watches these from now on.
    #[expect(unsafe_code, reason = "tokio wants the promise that the descriptor stays ours")]
    pub fn new(places: &[(&Path, Of)]) -> std::io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        for (path, of) in places {
            inotify.add_watch(*path, *of)?;
        }
        // SAFETY: the inotify instance owns its descriptor, and nobody but the AsyncFd can reach it until both are dropped.
        let events = unsafe { AsyncFd::register(Descriptor(inotify)) }?;
        Ok(Watch { events })
    }

    /// Resolves once something has happened since the last time.
    pub async fn changed(&self) -> std::io::Result<()> {
        loop {
            let mut ready = self.events.readable().await?;
            match self.events.get_ref().0.read_events() {
                Ok(_) => return Ok(()),
                Err(nix::errno::Errno::EAGAIN) => ready.clear_ready(),
                Err(e) => return Err(e.into()),
            }
        }
    }
}
