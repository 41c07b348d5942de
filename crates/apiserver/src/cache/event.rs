//! One change of one object, shared by everyone who watches: made once, whatever the number of watchers.

use super::outline;
use bytes::Bytes;
use ferrokube_api::Object;
use parking_lot::Mutex;
use smallvec::SmallVec;
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use tokio::sync::OnceCell;

/// `metav1.WatchEvent` types that carry an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// The object exists now and did not before (or did not match).
    Added,
    /// The object changed.
    Modified,
    /// The object is gone (or no longer matches).
    Deleted,
}

impl EventType {
    /// As on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::Added => "ADDED",
            EventType::Modified => "MODIFIED",
            EventType::Deleted => "DELETED",
        }
    }
}

/// What a watcher is told: the type for its selector, and the object to show.
pub type Projection = (EventType, Arc<Object>);

/// One change.
#[derive(Debug)]
pub struct Event {
    /// Revision of the change.
    pub revision: u64,
    /// The object before; `None` for a creation.
    pub before: Option<Arc<Object>>,
    /// The object after; `None` for a deletion.
    pub after: Option<Arc<Object>>,
    pub(super) at: Instant,
    /// `before` under the revision of this change, made when the first watcher needs it.
    departed: OnceLock<Option<Arc<Object>>>,
    /// Encoded for watchers, by a number of the encoder's choice.
    frames: Mutex<SmallVec<[(u64, Bytes); 1]>>,
    /// The object in versions that take asking somebody, by a number of the asker's choice.
    converted: Mutex<Vec<(u64, Conversion)>>,
}

/// An object that is being brought into another version: once, whoever waits for it.
type Conversion = Arc<OnceCell<Arc<Object>>>;

impl Event {
    pub(super) fn new(revision: u64, before: Option<Arc<Object>>, after: Option<Arc<Object>>) -> Self {
        Event {
            revision,
            before,
            after,
            at: Instant::now(),
            departed: OnceLock::new(),
            frames: Mutex::default(),
            converted: Mutex::default(),
        }
    }

    /// The object concerned, in the state that tells its key.
    pub fn subject(&self) -> &Arc<Object> {
        self.after.as_ref().or(self.before.as_ref()).expect("an event has a before or an after")
    }

    /// The last state of an object that left, with the revision at which it left.
    pub fn departed(&self) -> Option<Arc<Object>> {
        let make = || {
            let before = self.before.as_ref()?;
            outline::at_revision(before, self.revision).ok().map(Arc::new)
        };
        self.departed.get_or_init(make).clone()
    }

    /// What a watcher whose selector is `matches` is told.
    pub fn project(&self, matches: impl Fn(&Object) -> bool) -> Option<Projection> {
        let was = self.before.as_ref().is_some_and(|o| matches(o));
        match (&self.after, was) {
            (Some(now), true) if matches(now) => Some((EventType::Modified, now.clone())),
            (Some(now), false) if matches(now) => Some((EventType::Added, now.clone())),
            (_, true) => Some((EventType::Deleted, self.departed()?)),
            _ => None,
        }
    }

    /// An encoding shared by all watchers that ask for the same `format` (a number of the caller's choice that names
    /// content type, version and event type).
    pub fn frame(&self, format: u64, encode: impl FnOnce() -> Bytes) -> Bytes {
        let mut frames = self.frames.lock();
        if let Some((_, bytes)) = frames.iter().find(|(f, _)| *f == format) {
            return bytes.clone();
        }
        let bytes = encode();
        frames.push((format, bytes.clone()));
        bytes
    }

    /// The object of this event in another version, shared by all who want the same (`way`, a number of the caller's choice). A
    /// failure is not kept: the next one asks again.
    pub async fn converted<E>(&self, way: u64, convert: impl Future<Output = Result<Arc<Object>, E>>) -> Result<Arc<Object>, E> {
        let cell = {
            let mut converted = self.converted.lock();
            match converted.iter().find(|(w, _)| *w == way) {
                Some((_, cell)) => cell.clone(),
                None => {
                    let cell = Conversion::default();
                    converted.push((way, cell.clone()));
                    cell
                }
            }
        };
        cell.get_or_try_init(|| convert).await.cloned()
    }

    /// The object that this event showed first: the new state, or the last one of what is gone.
    pub(super) fn shown(&self) -> Option<&Arc<Object>> {
        self.after.as_ref().or_else(|| self.departed.get()?.as_ref())
    }

    /// Drops what was encoded and converted: whoever is that far behind does it anew.
    pub(super) fn forget_frames(&self) {
        self.frames.lock().clear();
        self.converted.lock().clear();
    }

    /// Bytes that keeping this event in history costs.
    pub(super) fn weight(&self) -> usize {
        self.before.as_ref().map_or(0, |o| o.json.len()) + 256
    }
}
