//! What the writer is asked, and the queue it waits in. While the writer syncs one frame, the next gathers here.

use super::cleaner::Move;
use super::segment::Segment;
use super::stopped_error;
use crate::{Committed, Error, Expect, Result, Revision};
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

/// A frame takes no further write once it has this many bytes.
const FRAME_TARGET: usize = 4 << 20;

/// A put (with a value) or a delete that waits for the writer.
pub(super) struct Write {
    pub key: Bytes,
    pub value: Option<Bytes>,
    pub expect: Expect,
    /// Milliseconds since the epoch; 0: never.
    pub expiry: u64,
    pub answer: oneshot::Sender<Result<Committed>>,
}

/// What the writer is asked.
pub(super) enum Request {
    Write(Write),
    Compact {
        revision: Revision,
        answer: oneshot::Sender<Result<()>>,
    },
    /// From the cleaner: records copied out of an old segment.
    Move {
        moves: Vec<Move>,
        answer: std::sync::mpsc::SyncSender<Result<()>>,
    },
    /// From the cleaner: nothing in this segment is in use any more.
    Drop {
        segment: u32,
        answer: std::sync::mpsc::SyncSender<Result<Arc<Segment>>>,
    },
}

impl Request {
    fn size(&self) -> usize {
        match self {
            Request::Write(w) => w.key.len() + w.value.as_ref().map_or(0, Bytes::len) + 64,
            Request::Move { moves, .. } => moves.iter().map(|m| m.bytes.len()).sum(),
            Request::Compact { .. } | Request::Drop { .. } => 64,
        }
    }

    /// Whether it adds next to nothing to the log and may make room: on a full disk it may use what is kept in reserve.
    pub fn makes_room(&self) -> bool {
        match self {
            Request::Write(write) => write.value.is_none(),
            Request::Compact { .. } | Request::Drop { .. } => true,
            Request::Move { .. } => false,
        }
    }

    /// Answers that it did not happen.
    pub fn fail(self, error: &Error) {
        // Whoever asked may have gone meanwhile.
        match self {
            Request::Write(w) => drop(w.answer.send(Err(error.clone()))),
            Request::Compact { answer, .. } => drop(answer.send(Err(error.clone()))),
            Request::Move { answer, .. } => drop(answer.send(Err(error.clone()))),
            Request::Drop { answer, .. } => drop(answer.send(Err(error.clone()))),
        }
    }
}

/// Requests that wait for the writer.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<Request>,
    stop: bool,
}

impl Queue {
    /// Adds a request; after [`Queue::stop`] it fails at once.
    pub fn push(&self, request: Request) {
        let mut waiting = self.waiting.lock();
        if waiting.stop {
            drop(waiting);
            return request.fail(&stopped_error());
        }
        waiting.requests.push_back(request);
        drop(waiting);
        self.wake.notify_one();
    }

    /// Ends the writer after what is queued.
    pub fn stop(&self) {
        self.waiting.lock().stop = true;
        self.wake.notify_one();
    }

    /// Waits for requests until `until` and takes as many as fit a frame; whether the writer shall stop comes with them.
    pub fn take(&self, until: Option<Instant>, into: &mut Vec<Request>) -> bool {
        let mut waiting = self.waiting.lock();
        while waiting.requests.is_empty() && !waiting.stop {
            match until {
                Some(until) if self.wake.wait_until(&mut waiting, until).timed_out() => return false,
                Some(_) => {}
                None => self.wake.wait(&mut waiting),
            }
        }
        let mut size = 0;
        while size < FRAME_TARGET {
            let Some(request) = waiting.requests.pop_front() else { break };
            size += request.size();
            into.push(request);
        }
        waiting.stop && into.is_empty()
    }
}
