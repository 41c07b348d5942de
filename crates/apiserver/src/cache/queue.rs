//! What waits for a watcher. The one who delivers fills the queues of all watchers before it wakes the first: watchers of one connection
//! then find all that there is for them in one turn, and no reader wakes up to fight over locks with the delivery itself.

use super::event::Event;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// Events that may wait for a slow watcher. They are pointers, so a queue costs nothing until it fills.
pub(super) const ROOM: usize = 1 << 16;
/// Room that an empty queue keeps.
const KEEP: usize = 32;

#[derive(Debug)]
struct Waiting {
    events: VecDeque<Arc<Event>>,
    reader: Option<Waker>,
    /// The sender is still there.
    open: bool,
}

/// The end that events are put into. When it is dropped, the reader gets what waits and then the end.
#[derive(Debug)]
pub(super) struct Sender(Arc<Mutex<Waiting>>);

/// The watcher's end.
#[derive(Debug)]
pub(super) struct Receiver(Arc<Mutex<Waiting>>);

/// There is no room for another event.
#[derive(Debug)]
pub(super) struct Full;

/// A queue.
pub(super) fn queue() -> (Sender, Receiver) {
    let waiting = Arc::new(Mutex::new(Waiting { events: VecDeque::new(), reader: None, open: true }));
    (Sender(waiting.clone()), Receiver(waiting))
}

impl Sender {
    /// Adds an event. Whoever waits for it is to be woken by the caller.
    pub fn push(&self, event: &Arc<Event>) -> Result<Option<Waker>, Full> {
        let mut waiting = self.0.lock();
        if waiting.events.len() >= ROOM {
            return Err(Full);
        }
        waiting.events.push_back(event.clone());
        Ok(waiting.reader.take())
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let mut waiting = self.0.lock();
        waiting.open = false;
        let reader = waiting.reader.take();
        drop(waiting);
        reader.inspect(Waker::wake_by_ref);
    }
}

impl Waiting {
    fn next(&mut self) -> Option<Arc<Event>> {
        let next = self.events.pop_front();
        if self.events.is_empty() && self.events.capacity() > KEEP {
            self.events = VecDeque::new();
        }
        next
    }
}

impl Receiver {
    /// The next event; `None` when there will be none.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Arc<Event>>> {
        let mut waiting = self.0.lock();
        match waiting.next() {
            None if waiting.open => {
                match &mut waiting.reader {
                    Some(reader) => reader.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            next => Poll::Ready(next),
        }
    }

    /// The next event if it is there already.
    pub fn ready(&mut self) -> Option<Arc<Event>> {
        self.0.lock().next()
    }
}
