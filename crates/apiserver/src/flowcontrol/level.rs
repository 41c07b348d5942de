//! A priority level: its seats, and the queues of those that wait for one.
//!
//! Seats are an atomic number; whoever finds room takes it without a lock. Only when there is none, or when somebody
//! waits already, the queues are locked. Flows are dealt onto queues by shuffle sharding, so that a flow that fills its
//! queues shares with few others; queues take turns by virtual time, so that each gets the same work done.

use super::classify::{Flow, Schema};
use super::width::Width;
use arc_swap::ArcSwap;
use http::HeaderValue;
use parking_lot::Mutex;
use serde::Deserialize;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// What the server expects a request to take before it is seen (`estimatedServiceDuration`), in seconds.
const GUESS: f64 = 0.003;

/// `QueuingConfiguration`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Queuing {
    pub queues: usize,
    pub hand_size: usize,
    pub queue_length_limit: usize,
}

impl Default for Queuing {
    fn default() -> Self {
        Queuing { queues: 64, hand_size: 8, queue_length_limit: 50 }
    }
}

/// How large a level is.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub uid: HeaderValue,
    pub exempt: bool,
    pub nominal: u32,
    pub min: u32,
    pub max: u32,
    /// `None`: what finds no seat is refused.
    pub queuing: Option<Queuing>,
}

/// Why a request gets no seat: `reason` of `apiserver_flowcontrol_rejected_requests_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    QueueFull,
    ConcurrencyLimit,
    TimeOut,
}

struct Waiter {
    id: u64,
    width: Width,
    schema: Arc<Schema>,
    distinguisher: String,
    since: Instant,
    grant: oneshot::Sender<Ticket>,
}

#[derive(Default)]
struct Queue {
    waiters: VecDeque<Waiter>,
    /// Virtual time at which its next request starts.
    start: f64,
    executing: usize,
    seats: u32,
}

#[derive(Default)]
struct Queues {
    queues: Vec<Queue>,
    config: Option<Queuing>,
    /// Virtual time: the start of the request that was let in last.
    now: f64,
    next: u64,
}

/// A priority level.
pub(super) struct Level {
    pub name: String,
    shape: ArcSwap<Shape>,
    /// Seats it may use now, lent and borrowed ones reckoned in.
    limit: AtomicU32,
    /// Seats in use.
    seats: AtomicU32,
    executing: AtomicU32,
    waiting: AtomicU32,
    /// Seats of those that wait.
    wanted: AtomicU32,
    /// The most seats that were in use or wanted since the limit was last set.
    high: AtomicU32,
    queues: Mutex<Queues>,
    pub demand: Mutex<super::borrow::Demand>,
}

/// Seats held by a request; dropping it gives them back.
pub struct Ticket {
    level: Arc<Level>,
    width: Width,
    /// The queue it came through and when it left it.
    from: Option<(usize, Instant)>,
}

/// What came of asking for seats.
pub(super) enum Entry {
    Granted(Ticket),
    Waiting(Waiting),
    Refused(Refusal),
}

/// A place in a queue; dropping it leaves the queue.
pub(super) struct Waiting {
    level: Arc<Level>,
    id: u64,
    queue: usize,
    grant: oneshot::Receiver<Ticket>,
}

impl Waiting {
    pub async fn granted(mut self) -> Option<Ticket> {
        (&mut self.grant).await.ok()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.level.leave(self.queue, self.id);
    }
}

/// Deals a hand of queues from a hash (`shufflesharding.Dealer`).
fn deal(mut hash: u64, deck: usize, hand: usize) -> SmallVec<[usize; 8]> {
    let mut sorted: SmallVec<[usize; 8]> = SmallVec::new();
    let mut dealt = SmallVec::new();
    for left in ((deck - hand.min(deck) + 1)..=deck).rev() {
        let mut card = (hash % left as u64) as usize;
        hash /= left as u64;
        let mut at = 0;
        while at < sorted.len() && sorted[at] <= card {
            card += 1;
            at += 1;
        }
        sorted.insert(at, card);
        dealt.push(card);
    }
    dealt
}

impl Level {
    pub fn new(name: &str) -> Self {
        let shape = Shape { uid: HeaderValue::from_static(""), exempt: false, nominal: 0, min: 0, max: 0, queuing: None };
        Level {
            name: name.to_owned(),
            shape: ArcSwap::from_pointee(shape),
            limit: AtomicU32::new(0),
            seats: AtomicU32::new(0),
            executing: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            wanted: AtomicU32::new(0),
            high: AtomicU32::new(0),
            queues: Mutex::default(),
            demand: Mutex::default(),
        }
    }

    pub fn uid(&self) -> HeaderValue {
        self.shape.load().uid.clone()
    }

    pub fn shape(&self) -> Arc<Shape> {
        self.shape.load_full()
    }

    /// Takes another size. Those that wait go on waiting, in the new queues.
    pub fn reshape(self: &Arc<Self>, shape: Shape) {
        let before = self.shape();
        let resized = (before.nominal, before.min, before.max) != (shape.nominal, shape.min, shape.max);
        let queuing = shape.queuing.clone();
        let nominal = shape.nominal;
        self.shape.store(Arc::new(shape));
        let mut queues = self.queues.lock();
        if queues.config != queuing {
            let count = queuing.as_ref().map_or(0, |q| q.queues.max(1));
            let waiters: Vec<Waiter> = queues.queues.drain(..).flat_map(|q| q.waiters).collect();
            // A level that refuses from now on still lets in those that wait.
            let count = if waiters.is_empty() { count } else { count.max(1) };
            queues.queues.resize_with(count, Queue::default);
            for (at, waiter) in waiters.into_iter().enumerate() {
                queues.queues[at % count].waiters.push_back(waiter);
            }
            queues.config = queuing;
        }
        drop(queues);
        if resized {
            self.set_limit(nominal);
        }
    }

    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Seats from now on. Those that wait may fit now.
    pub fn set_limit(self: &Arc<Self>, limit: u32) {
        self.limit.store(limit, Ordering::SeqCst);
        self.dispatch();
    }

    /// Seats in use and wanted now.
    pub fn demand_now(&self) -> u32 {
        self.seats.load(Ordering::Relaxed) + self.wanted.load(Ordering::Relaxed)
    }

    /// The highest demand since the last call.
    pub fn take_high(&self) -> u32 {
        self.high.swap(self.demand_now(), Ordering::Relaxed)
    }

    /// (requests executing, seats in use, requests waiting).
    pub fn current(&self) -> (u32, u32, u32) {
        (self.executing.load(Ordering::Relaxed), self.seats.load(Ordering::Relaxed), self.waiting.load(Ordering::Relaxed))
    }

    fn note_demand(&self, seats: u32) {
        if seats > self.high.load(Ordering::Relaxed) {
            self.high.fetch_max(seats, Ordering::Relaxed);
        }
    }

    /// Nobody gets more than the whole level: a request that is wider waits until it is alone.
    fn fitting(&self, width: Width) -> Width {
        width.capped(self.limit().max(1))
    }

    /// Takes seats when there are enough.
    fn take(self: &Arc<Self>, width: Width) -> Option<Ticket> {
        let seats = width.seats();
        let limit = self.limit.load(Ordering::SeqCst);
        let fits = |used: u32| (used == 0 && limit > 0 || used + seats <= limit).then_some(used + seats);
        let before = self.seats.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits).ok()?;
        self.note_demand(before + seats);
        self.executing.fetch_add(1, Ordering::Relaxed);
        Some(Ticket { level: self.clone(), width, from: None })
    }

    /// The way in that costs nothing: there is room and nobody waits.
    pub fn try_enter(self: &Arc<Self>, width: Width) -> Option<Ticket> {
        if self.shape.load().exempt {
            let before = self.seats.fetch_add(width.seats(), Ordering::SeqCst);
            self.note_demand(before + width.seats());
            self.executing.fetch_add(1, Ordering::Relaxed);
            return Some(Ticket { level: self.clone(), width, from: None });
        }
        if self.waiting.load(Ordering::SeqCst) > 0 {
            return None;
        }
        self.take(self.fitting(width))
    }

    /// The other way in.
    pub fn queue(self: &Arc<Self>, schema: &Arc<Schema>, flow: Flow<'_>, width: Width) -> Entry {
        let width = self.fitting(width);
        let mut queues = self.queues.lock();
        let Some(config) = queues.config.clone().filter(|_| !queues.queues.is_empty()) else {
            drop(queues);
            return self.take(width).map_or(Entry::Refused(Refusal::ConcurrencyLimit), Entry::Granted);
        };
        let hand = deal(flow.hash, queues.queues.len(), config.hand_size.max(1));
        let load = |at: &usize| {
            let queue = &queues.queues[*at];
            queue.waiters.iter().map(|w| w.width.seats()).sum::<u32>() + queue.seats
        };
        let at = hand.iter().copied().min_by_key(load).unwrap_or_default();
        if queues.queues[at].waiters.len() >= config.queue_length_limit {
            return Entry::Refused(Refusal::QueueFull);
        }
        let id = queues.next;
        queues.next += 1;
        let now = queues.now;
        let queue = &mut queues.queues[at];
        if queue.waiters.is_empty() && queue.executing == 0 {
            queue.start = queue.start.max(now);
        }
        let (grant, granted) = oneshot::channel();
        let distinguisher = flow.distinguisher.to_owned();
        queue.waiters.push_back(Waiter { id, width, schema: schema.clone(), distinguisher, since: Instant::now(), grant });
        schema.counts.queued(1);
        let wanted = self.wanted.fetch_add(width.seats(), Ordering::Relaxed) + width.seats();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.note_demand(wanted + self.seats.load(Ordering::Relaxed));
        drop(queues);
        // Somebody may have left between the look at the seats and the queueing.
        self.dispatch();
        Entry::Waiting(Waiting { level: self.clone(), id, queue: at, grant: granted })
    }

    fn forget(&self, waiter: &Waiter) {
        waiter.schema.counts.queued(-1);
        self.wanted.fetch_sub(waiter.width.seats(), Ordering::Relaxed);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    fn leave(self: &Arc<Self>, queue: usize, id: u64) {
        let mut queues = self.queues.lock();
        let has = |q: &Queue| q.waiters.iter().position(|w| w.id == id);
        let known = queues.queues.get(queue).and_then(has).map(|at| (queue, at));
        // The queues may have been dealt anew since.
        let found = known.or_else(|| queues.queues.iter().enumerate().find_map(|(q, queue)| Some((q, has(queue)?))));
        let gone = found.and_then(|(q, at)| queues.queues[q].waiters.remove(at));
        drop(queues);
        if let Some(waiter) = gone {
            self.forget(&waiter);
            self.dispatch();
        }
    }

    /// Lets in whoever fits, in the order of virtual time.
    fn dispatch(self: &Arc<Self>) {
        while let Some((grant, ticket)) = self.pick() {
            // Sent without the lock: a ticket that nobody takes comes back through here.
            let _ = grant.send(ticket);
        }
    }

    fn pick(self: &Arc<Self>) -> Option<(oneshot::Sender<Ticket>, Ticket)> {
        let mut queues = self.queues.lock();
        let candidates = queues.queues.iter().enumerate().filter(|(_, q)| !q.waiters.is_empty());
        let (at, _) = candidates.min_by(|a, b| a.1.start.total_cmp(&b.1.start))?;
        let width = self.fitting(queues.queues[at].waiters.front()?.width);
        let mut ticket = self.take(width)?;
        ticket.from = Some((at, Instant::now()));
        let queue = &mut queues.queues[at];
        let waiter = queue.waiters.pop_front()?;
        queue.executing += 1;
        queue.seats += width.seats();
        let start = queue.start;
        queue.start += f64::from(width.seats()) * GUESS;
        queues.now = queues.now.max(start);
        drop(queues);
        self.forget(&waiter);
        Some((waiter.grant, ticket))
    }

    fn release(self: &Arc<Self>, width: Width, from: Option<(usize, Instant)>) {
        self.seats.fetch_sub(width.seats(), Ordering::SeqCst);
        self.executing.fetch_sub(1, Ordering::Relaxed);
        if let Some((at, since)) = from {
            let mut queues = self.queues.lock();
            if let Some(queue) = queues.queues.get_mut(at) {
                queue.executing = queue.executing.saturating_sub(1);
                queue.seats = queue.seats.saturating_sub(width.seats());
                // What it really took counts, not the guess.
                queue.start += f64::from(width.seats()) * (since.elapsed().as_secs_f64() - GUESS);
            }
        }
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.dispatch();
        }
    }

    /// Calls `see` with (queue, waiting, executing, seats, start) of every queue.
    pub fn each_queue(&self, mut see: impl FnMut(usize, usize, usize, u32, f64)) {
        let queues = self.queues.lock();
        for (at, queue) in queues.queues.iter().enumerate() {
            see(at, queue.waiters.len(), queue.executing, queue.seats, queue.start);
        }
    }

    /// Calls `see` with (queue, place, schema, distinguisher, since, width) of everyone who waits.
    pub fn each_waiter(&self, mut see: impl FnMut(usize, usize, &str, &str, Instant, Width)) {
        let queues = self.queues.lock();
        for (at, queue) in queues.queues.iter().enumerate() {
            for (place, waiter) in queue.waiters.iter().enumerate() {
                see(at, place, &waiter.schema.name, &waiter.distinguisher, waiter.since, waiter.width);
            }
        }
    }
}

impl Ticket {
    /// Whether seats must be held on for a while after the request (its event is still being sent to watchers).
    fn lingers(&self) -> Option<Duration> {
        let after = self.width.after()?;
        let level = &self.level;
        // Only when seats are short does it matter.
        let short = level.waiting.load(Ordering::Relaxed) > 0 || level.seats.load(Ordering::Relaxed) * 2 >= level.limit();
        (short && !level.shape.load().exempt).then_some(after)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let (level, width, from) = (self.level.clone(), self.width, self.from.take());
        match (self.lingers(), tokio::runtime::Handle::try_current()) {
            (Some(after), Ok(runtime)) => {
                runtime.spawn(async move {
                    tokio::time::sleep(after).await;
                    level.release(width, from);
                });
            }
            _ => level.release(width, from),
        }
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ticket({}, {:?})", self.level.name, self.width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hand_has_different_cards_and_the_same_flow_gets_the_same_hand() {
        for hash in [0, 1, 17, u64::MAX, 0x1234_5678_9abc_def0] {
            let hand = deal(hash, 64, 8);
            assert_eq!(hand.len(), 8);
            let distinct: std::collections::BTreeSet<_> = hand.iter().collect();
            assert_eq!(distinct.len(), 8);
            assert!(hand.iter().all(|c| *c < 64));
            assert_eq!(hand, deal(hash, 64, 8));
        }
        assert_eq!(deal(5, 2, 6).len(), 2, "a hand is no larger than the deck");
    }
}
