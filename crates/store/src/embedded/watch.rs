//! Watches. A watch is a position in history and an interest in a range of keys; it holds no events. The writer only
//! notes where the first revision of interest is and wakes the stream, so a slow reader costs nothing: it reads from history
//! when it comes, and when history has been compacted beyond its position it ends.

use super::index::{Index, in_range};
use super::read::{self, Located};
use super::{Shared, State};
use crate::{Batch, Error, Event, Result, Revision};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Notify;

/// Events in one batch at most.
const BATCH: usize = 256;
/// Revisions looked through under the lock at once.
const SCAN: usize = 8192;

/// What the writer knows of a watch.
#[derive(Debug)]
pub(super) struct Interest {
    start: Bytes,
    end: Bytes,
    /// First revision of interest that the stream has not yet looked for; 0: none. Written under the state's write lock.
    first: AtomicU64,
    /// Everything up to here was delivered.
    delivered: AtomicU64,
    /// A notice was asked for, even though there may be nothing new.
    asked: AtomicBool,
    wake: Notify,
}

impl Interest {
    /// Has the stream look.
    pub fn wake(&self) {
        self.wake.notify_one();
    }
}

/// Notes for the watches that `key` changed at `revision`, and adds those to `concerned` that are to be woken for it. Called while the
/// state is locked for writing.
pub(super) fn note(watches: &[Arc<Interest>], key: &[u8], revision: Revision, concerned: &mut Vec<Arc<Interest>>) {
    for watch in watches {
        if in_range(key, &watch.start, &watch.end) && watch.first.load(Ordering::Relaxed) == 0 {
            watch.first.store(revision, Ordering::Relaxed);
            concerned.push(Arc::clone(watch));
        }
    }
}

/// Whether a watch has yet to be told of revisions that did not concern it.
pub(super) fn any_behind(state: &State) -> bool {
    let current = state.index.revision();
    state.watches.iter().any(|w| w.delivered.load(Ordering::Relaxed) < current)
}

/// Has watches say how far they are: all of them, or only those that are behind.
pub(super) fn ask_progress(state: &State, all: bool) {
    let current = state.index.revision();
    for watch in &state.watches {
        if all || watch.delivered.load(Ordering::Relaxed) < current {
            watch.asked.store(true, Ordering::Release);
            watch.wake.notify_one();
        }
    }
}

/// Wakes all watches so that they see that the engine has stopped.
pub(super) fn wake_all(state: &State) {
    for watch in &state.watches {
        watch.wake.notify_one();
    }
}

struct Watch {
    shared: Arc<Shared>,
    interest: Arc<Interest>,
    position: Revision,
    /// Revisions between the position and here need a look, beyond what the interest notes.
    look_until: Revision,
    ended: bool,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.state.write().watches.retain(|w| !Arc::ptr_eq(w, &self.interest));
    }
}

/// A found event: its value, when it has one, is still to be read.
enum Found {
    Put(Located),
    Delete(Bytes, Revision),
}

enum Step {
    Deliver(Vec<Found>),
    Wait,
}

/// Opens a watch of `[start, end)` from behind `after`.
pub(super) fn open(shared: &Arc<Shared>, start: Bytes, end: Bytes, after: Revision) -> Result<BoxStream<'static, Result<Batch>>> {
    let mut state = shared.state.write();
    state.serving()?;
    read::check_revision(&state.index, after)?;
    let interest = Arc::new(Interest {
        start,
        end,
        first: AtomicU64::new(0),
        delivered: AtomicU64::new(after),
        asked: AtomicBool::new(false),
        wake: Notify::new(),
    });
    state.watches.push(Arc::clone(&interest));
    let look_until = state.index.revision();
    drop(state);
    let watch = Watch { shared: Arc::clone(shared), interest, position: after, look_until, ended: false };
    Ok(stream::unfold(watch, |mut watch| async move { watch.next().await.map(|batch| (batch, watch)) }).boxed())
}

impl Watch {
    async fn next(&mut self) -> Option<Result<Batch>> {
        if self.ended {
            return None;
        }
        loop {
            let batch = match self.step() {
                Ok(Step::Wait) => {
                    self.interest.wake.notified().await;
                    continue;
                }
                Ok(Step::Deliver(found)) => read::off_runtime_when_large(found.len(), move || events(found)).await,
                Err(e) => Err(e),
            };
            self.ended = batch.is_err();
            if batch.is_ok() {
                self.interest.delivered.store(self.position, Ordering::Relaxed);
            }
            return Some(batch.map(|events| Batch { events, revision: self.position }));
        }
    }

    /// Moves the position on as far as there is something to say, or to the present.
    fn step(&mut self) -> Result<Step> {
        let shared = Arc::clone(&self.shared);
        loop {
            let state = shared.state.read();
            state.serving()?;
            let current = state.index.revision();
            if self.position < state.index.compacted() {
                return Err(Error::Compacted { oldest: state.index.compacted() });
            }
            let noted = self.interest.first.swap(0, Ordering::Relaxed);
            if noted != 0 {
                if self.position >= self.look_until {
                    // Nothing of interest lies before what the writer noted.
                    self.position = self.position.max(noted - 1);
                }
                self.look_until = current;
            }
            if self.position >= self.look_until {
                let news = current > self.position;
                let asked = self.interest.asked.swap(false, Ordering::AcqRel);
                self.position = current;
                self.look_until = current;
                // Moving on without saying so would be right as well; saying so is for those who wait for a revision.
                if asked {
                    return Ok(Step::Deliver(Vec::new()));
                }
                if news {
                    continue;
                }
                return Ok(Step::Wait);
            }
            let until = self.look_until.min(self.position + SCAN as Revision);
            let found = self.collect(&state, until)?;
            if !found.is_empty() {
                return Ok(Step::Deliver(found));
            }
        }
    }

    /// Events between the position and `until`; moves the position behind the last revision looked at.
    fn collect(&mut self, state: &State, until: Revision) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        while self.position < until && found.len() < BATCH {
            let revision = self.position + 1;
            let key = history_key(&state.index, revision)?;
            if in_range(key, &self.interest.start, &self.interest.end) {
                let version = state.index.version(key, revision).ok_or_else(|| inconsistent(revision))?;
                found.push(if version.is_delete() {
                    Found::Delete(Bytes::copy_from_slice(key), revision)
                } else {
                    Found::Put(Located { segment: state.segment(version.place.segment)?, place: version.place })
                });
            }
            self.position = revision;
        }
        Ok(found)
    }
}

fn history_key(index: &Index, revision: Revision) -> Result<&[u8]> {
    index.history_key(revision).map(|key| &**key).ok_or_else(|| inconsistent(revision))
}

fn inconsistent(revision: Revision) -> Error {
    Error::Unavailable(format!("history lacks revision {revision}"))
}

/// Reads the values of found events.
fn events(found: Vec<Found>) -> Result<Vec<Event>> {
    let mut events = Vec::with_capacity(found.len());
    let (mut puts, mut deletes) = (Vec::new(), Vec::new());
    for event in found {
        match event {
            Found::Put(located) => puts.push(located),
            Found::Delete(key, revision) => deletes.push(Event::Delete { key, revision }),
        }
    }
    events.extend(read::fetch(&puts)?.into_iter().map(Event::Put));
    if !deletes.is_empty() {
        events.append(&mut deletes);
        events.sort_by_key(Event::revision);
    }
    Ok(events)
}
