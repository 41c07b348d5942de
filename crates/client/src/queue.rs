//! The work queue of a controller: keys, each at most once, never two workers on one key, with backoff per key.
//!
//! Semantics of client-go's rate-limited workqueue: a key added while a worker has it is handed out again afterwards;
//! failures of a key delay it by 5 ms doubling up to 1000 s (or as [`Queue::backoff`] says), until it is forgotten.
//! A queue with a name counts itself under client-go's `workqueue_*` metrics.

use crate::metrics::{Desc, Kind, Metrics, Series};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

const FIRST_DELAY: Duration = Duration::from_millis(5);
const LONGEST_DELAY: Duration = Duration::from_secs(1000);

struct State<K> {
    ready: VecDeque<K>,
    /// In `ready`, or to be put there when the worker that has it is done.
    dirty: HashSet<K>,
    processing: HashMap<K, Instant>,
    /// When a key in `dirty` was added, kept only for the metrics.
    added: HashMap<K, Instant>,
    /// When, with a number that keeps equal times apart.
    delayed: BTreeMap<(Instant, u64), K>,
    /// The earliest time at which a key is due, so that adding it again later changes nothing.
    due: HashMap<K, (Instant, u64)>,
    failures: HashMap<K, u32>,
    next: u64,
    closed: bool,
}

static ADDS: Desc = desc("workqueue_adds_total", "[BETA] Total number of adds handled by workqueue", Kind::Counter);
static DEPTH: Desc = desc("workqueue_depth", "[BETA] Current depth of workqueue", Kind::Gauge);
static RETRIES: Desc = desc("workqueue_retries_total", "[BETA] Total number of retries handled by workqueue", Kind::Counter);
static WAITED: Desc = desc(
    "workqueue_queue_duration_seconds",
    "[BETA] How long in seconds an item stays in workqueue before being requested.",
    Kind::Histogram(&DURATIONS),
);
static WORKED: Desc = desc(
    "workqueue_work_duration_seconds",
    "[BETA] How long in seconds processing an item from workqueue takes.",
    Kind::Histogram(&DURATIONS),
);
static UNFINISHED: Desc = desc(
    "workqueue_unfinished_work_seconds",
    "[BETA] How many seconds of work has done that is in progress and hasn't been observed by work_duration. Large values indicate stuck threads. One can deduce the number of stuck threads by observing the rate at which this increases.",
    Kind::Gauge,
);
static LONGEST: Desc = desc(
    "workqueue_longest_running_processor_seconds",
    "[BETA] How many seconds has the longest running processor for workqueue been running.",
    Kind::Gauge,
);
const DURATIONS: [f64; 12] = [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0];

const fn desc(name: &'static str, help: &'static str, kind: Kind) -> Desc {
    Desc { name, help, kind, labels: &["name"] }
}

/// The series of a queue that has a name.
struct Counters {
    adds: Series,
    depth: Series,
    retries: Series,
    waited: Series,
    worked: Series,
}

/// How a key is tried again.
#[derive(Clone, Copy)]
struct Backoff {
    first: Duration,
    longest: Duration,
    /// So many failures in a row and the key is forgotten until something changes.
    tries: Option<u32>,
}

/// A queue of keys. Cheap to clone.
pub struct Queue<K> {
    state: Arc<Mutex<State<K>>>,
    changed: Arc<Notify>,
    counters: Option<Arc<Counters>>,
    backoff: Backoff,
    workers: Option<usize>,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        let (state, changed, counters) = (self.state.clone(), self.changed.clone(), self.counters.clone());
        Queue { state, changed, counters, ..*self }
    }
}

impl<K: Clone + Eq + Hash> Default for Queue<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    /// An empty queue.
    pub fn new() -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            processing: HashMap::new(),
            added: HashMap::new(),
            delayed: BTreeMap::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
            next: 0,
            closed: false,
        };
        let backoff = Backoff { first: FIRST_DELAY, longest: LONGEST_DELAY, tries: None };
        Queue { state: Arc::new(Mutex::new(state)), changed: Arc::new(Notify::new()), counters: None, backoff, workers: None }
    }

    /// An empty queue that counts itself under a name.
    pub fn named(name: &str, metrics: &Metrics) -> Self
    where
        K: Send + 'static,
    {
        let queue = Self::new();
        let series = |desc| metrics.series(desc, &[name]);
        let counters = Counters {
            adds: series(&ADDS),
            depth: series(&DEPTH),
            retries: series(&RETRIES),
            waited: series(&WAITED),
            worked: series(&WORKED),
        };
        counters.depth.set(0.0);
        let (unfinished, longest, state) = (series(&UNFINISHED), series(&LONGEST), Arc::downgrade(&queue.state));
        metrics.on_collect(move || {
            let Some(state) = state.upgrade() else { return false };
            let running: Vec<f64> = state.lock().processing.values().map(|since| since.elapsed().as_secs_f64()).collect();
            unfinished.set(running.iter().sum());
            longest.set(running.into_iter().fold(0.0, f64::max));
            true
        });
        Queue { counters: Some(Arc::new(counters)), ..queue }
    }

    /// With another backoff than 5 ms to 1000 s.
    #[must_use]
    pub fn backoff(self, first: Duration, longest: Duration) -> Self {
        Queue { backoff: Backoff { first, longest, ..self.backoff }, ..self }
    }

    /// Gives a key up after so many retries, until it is added again.
    #[must_use]
    pub fn giving_up_after(self, tries: u32) -> Self {
        Queue { backoff: Backoff { tries: Some(tries), ..self.backoff }, ..self }
    }

    /// With another number of workers than the controller's own.
    #[must_use]
    pub fn worked_by(self, workers: Option<usize>) -> Self {
        Queue { workers, ..self }
    }

    /// The number of workers, where it is said otherwise.
    pub(crate) fn workers(&self) -> Option<usize> {
        self.workers
    }

    /// Adds a key, to be worked on as soon as possible.
    pub fn add(&self, key: K) {
        self.put(&mut self.state.lock(), key);
        self.changed.notify_one();
    }

    fn put(&self, state: &mut State<K>, key: K) {
        let measured = self.counters.as_ref().map(|_| Instant::now());
        if state.add(key, measured)
            && let Some(counters) = &self.counters
        {
            counters.adds.add(1.0);
            counters.depth.set(state.dirty.len() as f64);
        }
    }

    /// Adds a key after a delay; the earliest of several delays counts.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let mut state = self.state.lock();
        let at = Instant::now() + delay;
        if state.due.get(&key).is_some_and(|(due, _)| *due <= at) {
            return;
        }
        if let Some(old) = state.due.remove(&key) {
            state.delayed.remove(&old);
        }
        state.next += 1;
        let slot = (at, state.next);
        state.due.insert(key.clone(), slot);
        state.delayed.insert(slot, key);
        drop(state);
        self.changed.notify_one();
    }

    /// Adds a key after the backoff that its failures have earned, or gives it up; whether it will come again.
    pub fn retry(&self, key: K) -> bool {
        let delay = {
            let mut state = self.state.lock();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            if self.backoff.tries.is_some_and(|tries| *failures >= tries) {
                state.failures.remove(&key);
                return false;
            }
            let delay = self.backoff.first.saturating_mul(1 << (*failures).min(24)).min(self.backoff.longest);
            *failures += 1;
            delay
        };
        if let Some(counters) = &self.counters {
            counters.retries.add(1.0);
        }
        self.add_after(key, delay);
        true
    }

    /// Forgets the failures of a key.
    pub fn forget(&self, key: &K) {
        self.state.lock().failures.remove(key);
    }

    /// How often the key has failed since it was last forgotten.
    pub fn failures(&self, key: &K) -> u32 {
        self.state.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// The next key; it is not handed out again until [`Queue::done`]. `None` once the queue is closed.
    pub async fn next(&self) -> Option<K> {
        loop {
            let notified = self.changed.notified();
            let wait_until = {
                let mut state = self.state.lock();
                if state.closed {
                    return None;
                }
                let now = Instant::now();
                while let Some(key) = state.due_by(now) {
                    self.put(&mut state, key);
                }
                if let Some(key) = state.ready.pop_front() {
                    state.dirty.remove(&key);
                    state.processing.insert(key.clone(), now);
                    if let Some(counters) = &self.counters {
                        counters.depth.set(state.dirty.len() as f64);
                        counters.waited.observe(state.added.remove(&key).map_or(0.0, |at| (now - at).as_secs_f64()));
                    }
                    if !state.ready.is_empty() {
                        self.changed.notify_one();
                    }
                    return Some(key);
                }
                state.delayed.keys().next().map(|(at, _)| *at)
            };
            match wait_until {
                Some(at) => drop(tokio::time::timeout_at(at, notified).await),
                None => notified.await,
            }
        }
    }

    /// The worker is done with the key.
    pub fn done(&self, key: &K) {
        let mut state = self.state.lock();
        if let (Some(since), Some(counters)) = (state.processing.remove(key), &self.counters) {
            counters.worked.observe(since.elapsed().as_secs_f64());
        }
        if state.dirty.contains(key) {
            state.ready.push_back(key.clone());
            self.changed.notify_one();
        }
    }

    /// Ends all waiting.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_waiters();
        self.changed.notify_one();
    }

    /// Keys ready or delayed, not those being worked on.
    pub fn len(&self) -> usize {
        let state = self.state.lock();
        state.ready.len() + state.delayed.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    /// Whether the key was not waiting already.
    fn add(&mut self, key: K, measured: Option<Instant>) -> bool {
        if !self.dirty.insert(key.clone()) {
            return false;
        }
        if let Some(at) = measured {
            self.added.insert(key.clone(), at);
        }
        if !self.processing.contains_key(&key) {
            self.ready.push_back(key);
        }
        true
    }

    /// A delayed key whose time has come.
    fn due_by(&mut self, now: Instant) -> Option<K> {
        let entry = self.delayed.first_entry().filter(|entry| entry.key().0 <= now)?;
        let key = entry.remove();
        self.due.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_handed_out_once_however_often_it_was_added() {
        let queue = Queue::new();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.next().await, Some("a"));
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_worked_on_comes_again_only_after_done() {
        let queue = Queue::new();
        queue.add("a");
        let a = queue.next().await.unwrap();
        queue.add("a");
        assert!(tokio::time::timeout(Duration::from_secs(1), queue.next()).await.is_err());
        queue.done(&a);
        assert_eq!(queue.next().await, Some("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_delay_of_a_key_counts() {
        let queue = Queue::new();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("a", Duration::from_secs(2));
        queue.add_after("a", Duration::from_secs(20));
        assert_eq!(queue.next().await, Some("a"));
        assert_eq!(start.elapsed().as_secs(), 2);
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_by_doubling_until_forgotten() {
        let queue = Queue::new();
        for expected in [5, 10, 20, 40] {
            let start = Instant::now();
            queue.retry("a");
            let key = queue.next().await.unwrap();
            queue.done(&key);
            assert_eq!(start.elapsed().as_millis(), expected);
        }
        queue.forget(&"a");
        assert_eq!(queue.failures(&"a"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_given_up_after_its_tries_until_it_is_added_again() {
        let queue = Queue::new().giving_up_after(2);
        assert!(queue.retry("a") && queue.retry("a"));
        assert!(!queue.retry("a"));
        assert_eq!(queue.failures(&"a"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_named_queue_counts_what_waits_and_how_long() {
        let metrics = Metrics::default();
        let queue = Queue::named("jobs", &metrics);
        queue.add("a");
        queue.add("a");
        tokio::time::advance(Duration::from_secs(2)).await;
        let key = queue.next().await.unwrap();
        tokio::time::advance(Duration::from_secs(3)).await;
        let text = || {
            let mut text = String::new();
            metrics.write(&mut text);
            text
        };
        let has = |line: &str| assert!(text().contains(line), "{line} in {}", text());
        has("workqueue_adds_total{name=\"jobs\"} 1\n");
        has("workqueue_longest_running_processor_seconds{name=\"jobs\"} 3\n");
        has("workqueue_queue_duration_seconds_sum{name=\"jobs\"} 2\n");
        queue.done(&key);
        has("workqueue_work_duration_seconds_sum{name=\"jobs\"} 3\n");
        queue.retry("a");
        has("workqueue_retries_total{name=\"jobs\"} 1\n");
    }

    #[tokio::test(start_paused = true)]
    async fn closing_ends_every_waiting_worker() {
        let queue: Queue<&str> = Queue::new();
        let workers: Vec<_> = (0..3)
            .map(|_| {
                tokio::spawn({
                    let q = queue.clone();
                    async move { q.next().await }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        queue.close();
        for worker in workers {
            assert_eq!(worker.await.unwrap(), None);
        }
    }
}
