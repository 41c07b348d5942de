//! The cleaner thread: frees compacted history from memory, and gives disk space back.
//!
//! Always the oldest segment goes: what is still in use there is copied to the end of the log by the writer, then a note says that the
//! segment is dropped, then its file is removed. A crash between any two of these leaves a log that says the same. Only the oldest may go,
//! because a record that tells a key's deletion may leave the log only after every put it covers has left.

use super::Shared;
use super::format::Kind;
use super::queue::Request;
use super::segment::{Place, Segment};
use crate::{Error, Result, Revision};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::Duration;

/// Revisions of history freed while the state is locked once.
const PRUNE_STEP: usize = 1024;
/// Bytes handed to the writer at once: they share a frame with the writes that wait.
const MOVE_STEP: usize = 256 << 10;
/// After a failure (a full disk, say), when nobody wakes the cleaner before.
const RETRY: Duration = Duration::from_secs(5);

/// A record to copy to the end of the log, if it is still in use where it was found.
pub(super) struct Move {
    pub key: Arc<[u8]>,
    pub revision: Revision,
    pub from: Place,
    /// The whole record.
    pub bytes: Vec<u8>,
}

/// Wakes the cleaner.
#[derive(Default)]
pub(super) struct Signal {
    flags: Mutex<Flags>,
    wake: Condvar,
}

#[derive(Default)]
struct Flags {
    work: bool,
    stop: bool,
}

impl Signal {
    /// There may be something to free.
    pub fn wake(&self) {
        self.flags.lock().work = true;
        self.wake.notify_one();
    }

    /// Ends the cleaner at the next good point.
    pub fn stop(&self) {
        self.flags.lock().stop = true;
        self.wake.notify_one();
    }

    fn stopped(&self) -> bool {
        self.flags.lock().stop
    }

    /// Waits for work, or for the retry time; false: stop.
    fn wait(&self, retry: bool) -> bool {
        let mut flags = self.flags.lock();
        while !flags.work && !flags.stop {
            if !retry {
                self.wake.wait(&mut flags);
            } else if self.wake.wait_for(&mut flags, RETRY).timed_out() {
                break;
            }
        }
        flags.work = false;
        !flags.stop
    }
}

/// The cleaner thread's work, until it is stopped.
pub(super) fn run(shared: &Shared) {
    let mut retry = false;
    while shared.cleaner.wait(retry) {
        prune(shared);
        retry = match clean(shared) {
            Ok(()) => false,
            Err(_) if shared.cleaner.stopped() => return,
            Err(error @ Error::Corrupted { .. }) => {
                tracing::error!(%error, "disk space of the store can't be given back");
                false
            }
            Err(error) => {
                tracing::warn!(%error, "giving back disk space of the store");
                true
            }
        };
    }
}

fn prune(shared: &Shared) {
    while !shared.cleaner.stopped() {
        let mut state = shared.state.write();
        if !state.index.must_prune() {
            return;
        }
        state.index.prune(PRUNE_STEP);
        // Readers and the writer get their turn between steps.
        parking_lot::RwLockWriteGuard::unlock_fair(state);
    }
}

/// The oldest segment, when it is worth its while to drop it.
fn next_to_clean(shared: &Shared) -> Option<Arc<Segment>> {
    let state = shared.state.read();
    let total: u64 = state.lengths.values().sum();
    let (id, segment) = state.segments.iter().next()?;
    let complete = state.segments.len() > 1;
    let unused = state.index.live_in(*id) == 0;
    let allowed = 2 * state.index.live_total() + 2 * shared.options.segment_bytes;
    (complete && (unused || total > allowed)).then(|| Arc::clone(segment))
}

fn clean(shared: &Shared) -> Result<()> {
    while let Some(segment) = next_to_clean(shared) {
        if shared.cleaner.stopped() {
            return Ok(());
        }
        empty(shared, &segment)?;
        let id = segment.header.id;
        let dropped = ask(shared, |answer| Request::Drop { segment: id, answer })?;
        if let Err(error) = dropped.remove() {
            // The next open removes it.
            tracing::warn!(path = %dropped.path.display(), %error, "removing a dropped segment");
        }
        // Compaction may have come while we were at it.
        prune(shared);
    }
    Ok(())
}

/// Has all records in use copied out of `segment`.
fn empty(shared: &Shared, segment: &Segment) -> Result<()> {
    if shared.state.read().index.live_in(segment.header.id) == 0 {
        return Ok(());
    }
    let mut moves = Vec::new();
    let mut size = 0;
    segment.scan(false, |record, place| {
        if !matches!(record.kind, Kind::Put | Kind::Delete) {
            return Ok(());
        }
        let state = shared.state.read();
        if state.index.version(record.key, record.revision).is_none_or(|v| v.place != place) {
            return Ok(());
        }
        drop(state);
        let mut bytes = Vec::with_capacity(record.len());
        record.encode(&mut bytes);
        size += bytes.len();
        moves.push(Move { key: Arc::from(record.key), revision: record.revision, from: place, bytes });
        if size >= MOVE_STEP {
            size = 0;
            hand_over(shared, std::mem::take(&mut moves))?;
        }
        Ok(())
    })?;
    if moves.is_empty() { Ok(()) } else { hand_over(shared, moves) }
}

fn hand_over(shared: &Shared, moves: Vec<Move>) -> Result<()> {
    if shared.cleaner.stopped() {
        return Err(super::stopped_error());
    }
    ask(shared, |answer| Request::Move { moves, answer })
}

fn ask<T>(shared: &Shared, request: impl FnOnce(std::sync::mpsc::SyncSender<Result<T>>) -> Request) -> Result<T> {
    let (sender, answer) = std::sync::mpsc::sync_channel(1);
    shared.queue.push(request(sender));
    answer.recv().unwrap_or_else(|_| Err(super::stopped_error()))
}
