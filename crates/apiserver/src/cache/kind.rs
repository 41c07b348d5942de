//! The cache of one stored resource: its objects now, its recent history, and who watches.
//!
//! One task writes (the feed); everyone reads. Objects are replaced, never changed, so a reader leaves the lock with
//! `Arc`s and nothing else.

use super::event::Event;
use super::outline::{self, Unreadable};
use super::queue::Receiver;
use super::watchers::{Interest, Seat, Watchers};
use bytes::Bytes;
use ferrokube_api::Object;
use ferrokube_api::kinds::Kind;
use ferrokube_api::ordered::{self, Ordered, Parts, after, parts};
use ferrokube_api::packer::Packer;
use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;

/// History always holds this many events...
const HISTORY_MIN: usize = 128;
/// ...and drops older ones when it weighs more than this...
const HISTORY_BYTES: usize = 8 << 20;
/// ...or when they are older than this (upstream keeps 75 s).
const HISTORY_AGE: Duration = Duration::from_secs(300);
/// So many of the latest events keep what was encoded for watchers, and their objects plain: all but the slowest have sent it by then.
const RECENT: usize = 512;

/// A position that history no longer covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooOld {
    /// The oldest position that a watch can resume from.
    pub oldest: u64,
}

#[derive(Debug, Default)]
struct State {
    objects: Ordered,
    history: VecDeque<Arc<Event>>,
    weight: usize,
    /// All changes after this revision are in `history`.
    floor: u64,
    /// Revision of the last change applied.
    last: u64,
    bytes: usize,
}

/// Everything of one kind at one revision.
#[derive(Debug)]
pub struct Snapshot {
    /// In key order.
    pub objects: Vec<Arc<Object>>,
    /// The revision shown.
    pub revision: u64,
    /// Whether more objects follow after the last one.
    pub more: bool,
    /// How many objects of the range follow after the last one, whatever their labels and fields.
    pub remaining: usize,
}

/// What part of a kind to list.
#[derive(Clone, Copy, Debug, Default)]
pub struct Range<'a> {
    /// Empty: all namespaces.
    pub namespace: &'a str,
    /// Only objects after this (namespace, name).
    pub after: Option<(&'a str, &'a str)>,
    /// At most so many that match; 0: all.
    pub limit: usize,
}

/// Brings stored bytes up to date before they are read; `None` when they are. What it does to an object, the cache does not know.
pub type Renew = Arc<dyn Fn(&[u8]) -> Option<Vec<u8>> + Send + Sync>;

/// The cache of one stored resource.
pub struct KindCache {
    row: Arc<Kind>,
    prefix: String,
    renew: Option<Renew>,
    state: RwLock<State>,
    packer: Packer,
    watchers: Mutex<Watchers>,
    /// How many there are, for those who must not wait for the lock.
    watching: AtomicUsize,
    changed: watch::Sender<u64>,
    received: AtomicU64,
}

impl std::fmt::Debug for KindCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KindCache({})", self.prefix)
    }
}

impl KindCache {
    pub(super) fn new(row: Arc<Kind>, prefix: String, renew: Option<Renew>) -> Self {
        KindCache {
            row,
            prefix,
            renew,
            state: RwLock::default(),
            packer: Packer::default(),
            watchers: Mutex::default(),
            watching: AtomicUsize::new(0),
            changed: watch::Sender::new(0),
            received: AtomicU64::new(0),
        }
    }

    /// How many events came from the store.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Counts one.
    pub(super) fn receive(&self) {
        self.received.fetch_add(1, Ordering::Relaxed);
    }

    /// The row in whose version objects are stored.
    pub fn row(&self) -> &Arc<Kind> {
        &self.row
    }

    /// Path segment below `/registry/`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// An object from its bytes in the store, sharing text with one next to it.
    pub fn read(&self, stored: &[u8], revision: u64, like: Option<&Object>) -> Result<Object, Unreadable> {
        let renewed = self.renew.as_ref().and_then(|renew| renew(stored));
        outline::object(&self.row.fields, renewed.as_deref().unwrap_or(stored), revision, like)
    }

    /// One object. `namespace` is empty for cluster-scoped kinds.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.state.read().objects.get((namespace, name)).cloned()
    }

    /// All objects of a namespace, or of all namespaces when it is empty, in key order.
    pub fn list(&self, namespace: &str) -> Vec<Arc<Object>> {
        self.state.read().objects.range(namespace, None).iter().cloned().collect()
    }

    /// Calls `visit` for each object of a namespace (all when empty) under the read lock: keep it short.
    pub fn each(&self, namespace: &str, mut visit: impl FnMut(&Arc<Object>)) {
        self.state.read().objects.range(namespace, None).iter().for_each(&mut visit);
    }

    /// Number of objects and of their bytes.
    pub fn size(&self) -> (usize, usize) {
        let state = self.state.read();
        (state.objects.len(), state.bytes)
    }

    /// Revision of the last change of an object of this kind.
    pub fn revision(&self) -> u64 {
        self.state.read().last
    }

    /// Tells when [`KindCache::revision`] changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Number of watchers.
    pub fn watchers(&self) -> usize {
        self.watching.load(Ordering::Relaxed)
    }

    /// The current objects that match. `applied` is a revision known to be applied to all kinds before the call.
    pub fn snapshot(&self, range: Range<'_>, applied: u64, matches: impl Fn(&Object) -> bool) -> Snapshot {
        let state = self.state.read();
        let revision = applied.max(state.last);
        let run = state.objects.range(range.namespace, range.after);
        collect(run.iter(), run.len, range.limit, revision, matches)
    }

    /// The objects as they were at `revision`, if history covers it.
    pub fn snapshot_at(&self, range: Range<'_>, revision: u64, matches: impl Fn(&Object) -> bool) -> Result<Snapshot, TooOld> {
        let state = self.state.read();
        if revision < state.floor {
            return Err(TooOld { oldest: state.floor });
        }
        let run = state.objects.range(range.namespace, range.after);
        if revision >= state.last {
            return Ok(collect(run.iter(), run.len, range.limit, revision, matches));
        }
        // Undo what came after: the first change of each key after `revision` tells how the key was at `revision`.
        let mut undo: HashMap<Parts<'_>, Option<&Arc<Object>>> = HashMap::new();
        let from = state.history.partition_point(|e| e.revision <= revision);
        for event in state.history.iter().skip(from) {
            let key = parts(event.subject());
            let inside = (range.namespace.is_empty() || key.0 == range.namespace) && range.after.is_none_or(|start| after(key, start));
            if inside {
                undo.entry(key).or_insert(event.before.as_ref());
            }
        }
        let mut then: Vec<&Arc<Object>> = undo.values().flatten().copied().collect();
        then.sort_by(|a, b| ordered::compare(parts(a), parts(b)));
        let touched = undo.keys().filter(|key| state.objects.get(**key).is_some()).count();
        let count = run.len - touched + then.len();
        let untouched = run.iter().filter(|o| !undo.contains_key(&parts(o)));
        Ok(collect(merged(untouched, then.into_iter()), count, range.limit, revision, matches))
    }

    /// Watches from now on, with the current objects that match as a start.
    pub fn watch_with_objects(self: &Arc<Self>, interest: Arc<Interest>, applied: u64) -> (Snapshot, Watch) {
        let mut watchers = self.watchers.lock();
        let range = Range { namespace: &interest.namespace, ..Range::default() };
        let snapshot = self.snapshot(range, applied, |o| interest.wants(o));
        let watch = self.seat(&mut watchers, interest, VecDeque::new());
        (snapshot, watch)
    }

    /// Watches every change after `revision`.
    pub fn watch_after(self: &Arc<Self>, interest: Arc<Interest>, revision: u64) -> Result<Watch, TooOld> {
        let mut watchers = self.watchers.lock();
        let state = self.state.read();
        if revision < state.floor {
            return Err(TooOld { oldest: state.floor });
        }
        let from = state.history.partition_point(|e| e.revision <= revision);
        let concerns = |e: &&Arc<Event>| [&e.before, &e.after].into_iter().flatten().any(|o| interest.wants(o));
        let backlog = state.history.iter().skip(from).filter(concerns).cloned().collect();
        drop(state);
        Ok(self.seat(&mut watchers, interest, backlog))
    }

    fn seat(self: &Arc<Self>, watchers: &mut Watchers, interest: Arc<Interest>, backlog: VecDeque<Arc<Event>>) -> Watch {
        let (seat, queue) = watchers.add(interest.clone());
        self.watching.store(watchers.count(), Ordering::Relaxed);
        Watch { cache: self.clone(), interest, seat, backlog, queue }
    }

    pub(super) fn end_watches(&self) {
        self.watchers.lock().close();
    }

    /// Another cache has taken its place: no watcher learns anything here any more.
    pub(super) fn retire(&self) {
        let mut watchers = self.watchers.lock();
        watchers.retire();
        self.watching.store(0, Ordering::Relaxed);
    }

    /// Fills an empty cache with what stood in the store at `revision`.
    pub(super) fn load(&self, objects: Vec<Arc<Object>>, revision: u64) {
        let mut watchers = self.watchers.lock();
        let mut state = self.state.write();
        let bytes = objects.iter().map(|o| o.json.len()).sum();
        let objects = Ordered::new(objects);
        let before = std::mem::replace(&mut *state, State { objects, bytes, floor: revision, last: revision, ..State::default() });
        drop(state);
        drop(before);
        watchers.close();
        self.watching.store(watchers.count(), Ordering::Relaxed);
        self.changed.send_replace(revision);
    }

    /// What passed out of the recent events with this one (or with [`KindCache::delete`]) is for [`KindCache::pack`].
    pub(super) fn put(&self, namespace: &str, name: &str, stored: &Bytes, revision: u64) -> Passed {
        let like = self.state.read().objects.nearest((namespace, name)).cloned();
        match self.read(stored, revision, like.as_deref()) {
            Ok(object) => self.apply(revision, Change::Set(Arc::new(object))),
            Err(error) => {
                tracing::error!(%error, revision, prefix = self.prefix, "unreadable object in the store");
                Passed::new()
            }
        }
    }

    pub(super) fn delete(&self, namespace: &str, name: &str, revision: u64) -> Passed {
        self.apply(revision, Change::Gone(namespace, name))
    }

    /// Packs the object that an event brought. Nobody waits for this.
    pub(super) fn pack(&self, event: &Event) {
        let Some(object) = event.shown() else { return };
        let near = self.state.read().objects.neighbour(parts(object)).and_then(|near| near.json.template());
        self.packer.pack(object, near);
    }

    /// Packs an object before anybody sees it, next to the one that was packed before it.
    pub(super) fn pack_next(&self, object: &Object, before: Option<&Arc<Object>>) {
        self.packer.pack(object, before.and_then(|before| before.json.template()));
    }

    fn apply(&self, revision: u64, change: Change<'_>) -> Passed {
        let mut watchers = self.watchers.lock();
        let mut state = self.state.write();
        if revision <= state.floor {
            return Passed::new();
        }
        let event = match change {
            Change::Set(object) => {
                let before = state.objects.replace(object.clone());
                state.bytes += object.json.len();
                Event::new(revision, before, Some(object))
            }
            Change::Gone(namespace, name) => {
                let Some(gone) = state.objects.take((namespace, name)) else { return Passed::new() };
                Event::new(revision, Some(gone), None)
            }
        };
        state.bytes -= event.before.as_ref().map_or(0, |o| o.json.len());
        let event = Arc::new(event);
        let passed = state.remember(event.clone());
        drop(state);
        watchers.deliver(&event);
        drop(watchers);
        self.changed.send_replace(revision);
        passed
    }
}

/// Events that are no longer recent.
type Passed = SmallVec<[Arc<Event>; 1]>;

enum Change<'a> {
    Set(Arc<Object>),
    Gone(&'a str, &'a str),
}

/// The first `limit` objects that match out of `count`.
fn collect<'a>(
    objects: impl Iterator<Item = &'a Arc<Object>>,
    count: usize,
    limit: usize,
    revision: u64,
    matches: impl Fn(&Object) -> bool,
) -> Snapshot {
    let (mut found, mut seen) = (Vec::new(), 0);
    for object in objects {
        seen += 1;
        if !matches(object) {
            continue;
        }
        found.push(object.clone());
        if limit > 0 && found.len() == limit {
            let remaining = count - seen;
            return Snapshot { objects: found, revision, more: remaining > 0, remaining };
        }
    }
    Snapshot { objects: found, revision, more: false, remaining: 0 }
}

/// Two sequences in key order as one.
fn merged<'a>(a: impl Iterator<Item = &'a Arc<Object>>, b: impl Iterator<Item = &'a Arc<Object>>) -> impl Iterator<Item = &'a Arc<Object>> {
    let (mut a, mut b) = (a.peekable(), b.peekable());
    std::iter::from_fn(move || match (a.peek(), b.peek()) {
        (Some(first), Some(second)) if after(parts(first), parts(second)) => b.next(),
        (None, _) => b.next(),
        _ => a.next(),
    })
}

impl State {
    /// The result are the events that are no longer among the recent ones.
    fn remember(&mut self, event: Arc<Event>) -> Passed {
        self.last = event.revision;
        self.weight += event.weight();
        let now = event.at;
        self.history.push_back(event);
        let mut passed = Passed::new();
        passed.extend(self.history.len().checked_sub(RECENT + 1).and_then(|at| self.history.get(at)).cloned());
        passed.iter().for_each(|event| event.forget_frames());
        while self.history.len() > HISTORY_MIN {
            let old = self.weight > HISTORY_BYTES || self.history.front().is_some_and(|e| now.duration_since(e.at) > HISTORY_AGE);
            if !old {
                break;
            }
            let was_recent = self.history.len() <= RECENT;
            let Some(dropped) = self.history.pop_front() else { break };
            self.weight -= dropped.weight();
            self.floor = dropped.revision;
            passed.extend(was_recent.then_some(dropped));
        }
        passed
    }
}

/// A watcher's end of the cache. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watch {
    cache: Arc<KindCache>,
    interest: Arc<Interest>,
    seat: Seat,
    backlog: VecDeque<Arc<Event>>,
    queue: Receiver,
}

impl Watch {
    /// The next event that concerns the watcher; `None` when it was cut off.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The same for a stream to poll.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Arc<Event>>> {
        match self.backlog.pop_front() {
            Some(event) => Poll::Ready(Some(event)),
            None => self.queue.poll_next(cx),
        }
    }

    /// The next event if it is there already.
    pub fn ready(&mut self) -> Option<Arc<Event>> {
        self.backlog.pop_front().or_else(|| self.queue.ready())
    }

    /// What to select with [`Event::project`].
    pub fn interest(&self) -> &Interest {
        &self.interest
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watchers = self.cache.watchers.lock();
        watchers.remove(&self.seat);
        self.cache.watching.store(watchers.count(), Ordering::Relaxed);
    }
}
