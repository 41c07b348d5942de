//! Who wants to hear of what: watchers in buckets by name, node, namespace or everything, so that an event costs only
//! the buckets it falls into. A watcher stands in exactly one bucket.
//!
//! Delivery never blocks: a watcher whose queue is full is cut off (its stream ends, the client comes back with the
//! revision it saw last).

use super::event::Event;
use super::queue::{Receiver, Sender, queue};
use ferrokube_api::Object;
use std::collections::HashMap;
use std::sync::Arc;
use std::task::Waker;

/// What a watcher is interested in. Empty strings do not narrow.
pub struct Interest {
    /// Only this namespace.
    pub namespace: String,
    /// Only this name.
    pub name: String,
    /// Only objects whose field at this index (see [`ferrokube_api::Object::fields`]) has this value; used as an index
    /// for `spec.nodeName`.
    pub field: Option<(usize, String)>,
    /// Everything else that must hold (label and field selectors), `None` for all.
    pub matches: Option<Box<dyn Fn(&Object) -> bool + Send + Sync>>,
}

impl Interest {
    /// Everything of the kind.
    pub fn all() -> Self {
        Interest { namespace: String::new(), name: String::new(), field: None, matches: None }
    }

    /// Whether an object is wanted.
    pub fn wants(&self, object: &Object) -> bool {
        (self.namespace.is_empty() || *object.key.namespace == *self.namespace)
            && (self.name.is_empty() || *object.key.name == *self.name)
            && self.field.as_ref().is_none_or(|(at, value)| object.fields.get(*at).is_some_and(|v| **v == **value))
            && self.matches.as_ref().is_none_or(|matches| matches(object))
    }
}

impl std::fmt::Debug for Interest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Interest({}/{} {:?})", self.namespace, self.name, self.field)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Bucket {
    Name(Arc<str>),
    Field(usize, Arc<str>),
    Namespace(Arc<str>),
    All,
}

impl Bucket {
    fn of(interest: &Interest) -> Self {
        if !interest.name.is_empty() {
            Bucket::Name(interest.name.as_str().into())
        } else if let Some((at, value)) = &interest.field {
            Bucket::Field(*at, value.as_str().into())
        } else if !interest.namespace.is_empty() {
            Bucket::Namespace(interest.namespace.as_str().into())
        } else {
            Bucket::All
        }
    }
}

#[derive(Debug)]
struct Watcher {
    id: u64,
    interest: Arc<Interest>,
    queue: Sender,
}

#[derive(Debug, Default)]
pub(super) struct Watchers {
    next: u64,
    buckets: HashMap<Bucket, Vec<Watcher>>,
    /// Which fields have buckets, and how many watchers in them.
    fields: HashMap<usize, usize>,
    count: usize,
    /// Nothing will happen any more: whoever comes is sent away.
    retired: bool,
    /// Who waits for what is being delivered.
    waiting: Vec<Waker>,
}

/// Where a watcher stands, to remove it.
#[derive(Debug)]
pub(super) struct Seat(u64, Bucket);

impl Watchers {
    pub fn add(&mut self, interest: Arc<Interest>) -> (Seat, Receiver) {
        let (queue, receiver) = queue();
        let (id, bucket) = (self.next, Bucket::of(&interest));
        self.next += 1;
        if self.retired {
            return (Seat(id, bucket), receiver);
        }
        self.count += 1;
        if let Bucket::Field(at, _) = bucket {
            *self.fields.entry(at).or_default() += 1;
        }
        self.buckets.entry(bucket.clone()).or_default().push(Watcher { id, interest, queue });
        (Seat(id, bucket), receiver)
    }

    pub fn remove(&mut self, seat: &Seat) {
        let Some(bucket) = self.buckets.get_mut(&seat.1) else { return };
        let before = bucket.len();
        bucket.retain(|w| w.id != seat.0);
        let gone = before - bucket.len();
        if bucket.is_empty() {
            self.buckets.remove(&seat.1);
        }
        self.forget(&seat.1, gone);
    }

    fn forget(&mut self, bucket: &Bucket, gone: usize) {
        self.count -= gone;
        if let Bucket::Field(at, _) = bucket
            && let Some(n) = self.fields.get_mut(at)
        {
            *n -= gone;
            if *n == 0 {
                self.fields.remove(at);
            }
        }
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// Ends every stream: what was missed cannot be told.
    pub fn close(&mut self) {
        (self.buckets, self.fields, self.count) = Default::default();
    }

    /// Ends every stream, and those of watchers to come.
    pub fn retire(&mut self) {
        self.close();
        self.retired = true;
    }

    pub fn deliver(&mut self, event: &Arc<Event>) {
        if self.count == 0 {
            return;
        }
        let subject = event.subject();
        self.to_bucket(&Bucket::All, event);
        if !subject.key.namespace.is_empty() {
            self.to_bucket(&Bucket::Namespace(subject.key.namespace.clone()), event);
        }
        self.to_bucket(&Bucket::Name(subject.key.name.clone()), event);
        let fields: Vec<usize> = self.fields.keys().copied().collect();
        for at in fields {
            let value = |o: &Option<Arc<Object>>| o.as_ref().and_then(|o| o.fields.get(at).cloned());
            let (was, is) = (value(&event.before), value(&event.after));
            let was = was.filter(|was| Some(was) != is.as_ref());
            for value in [was, is].into_iter().flatten() {
                self.to_bucket(&Bucket::Field(at, value), event);
            }
        }
        self.waiting.drain(..).for_each(Waker::wake);
    }

    fn to_bucket(&mut self, bucket: &Bucket, event: &Arc<Event>) {
        let Some(watchers) = self.buckets.get_mut(bucket) else { return };
        let before = watchers.len();
        watchers.retain(|watcher| {
            let concerned = [&event.before, &event.after].into_iter().flatten().any(|o| watcher.interest.wants(o));
            !concerned || watcher.queue.push(event).map(|reader| self.waiting.extend(reader)).is_ok()
        });
        let gone = before - watchers.len();
        if watchers.is_empty() {
            self.buckets.remove(bucket);
        }
        if gone > 0 {
            tracing::warn!(gone, "watchers cut off: they were too slow or had gone");
            self.forget(bucket, gone);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::outline;
    use super::super::queue::ROOM;
    use super::*;
    use std::task::{Context, Poll, Wake};

    #[test]
    fn a_watcher_that_does_not_read_is_cut_off_and_the_others_hear_everything() {
        let stored = br#"{"kind":"A","apiVersion":"v1","metadata":{"name":"a"}}"#;
        let object = Arc::new(outline::object(&[], stored, 1, None).expect("an object"));
        let event = Arc::new(Event::new(1, None, Some(object)));
        let mut watchers = Watchers::default();
        let (_slow, mut unread) = watchers.add(Arc::new(Interest::all()));
        let (_quick, mut read) = watchers.add(Arc::new(Interest::all()));
        for n in 0..=ROOM {
            watchers.deliver(&event);
            assert!(read.ready().is_some(), "event {n}");
        }
        assert_eq!(watchers.count(), 1, "the slow one is gone");
        // It still gets what waited for it, and then the end.
        let waited = std::iter::from_fn(|| unread.ready()).count();
        assert_eq!(waited, ROOM);
        assert!(matches!(unread.poll_next(&mut Context::from_waker(Waker::noop())), Poll::Ready(None)));
        assert!(read.poll_next(&mut Context::from_waker(Waker::noop())).is_pending());
    }

    /// Counts how often it is woken, and what stood in the other's queue then.
    struct Woken(std::sync::Mutex<Vec<bool>>, std::sync::Mutex<Receiver>);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.lock().expect("no panic").push(self.1.lock().expect("no panic").ready().is_some());
        }
    }

    #[test]
    fn nobody_is_woken_before_everybody_has_the_event() {
        let stored = br#"{"kind":"A","apiVersion":"v1","metadata":{"name":"a"}}"#;
        let event = Arc::new(Event::new(1, None, Some(Arc::new(outline::object(&[], stored, 1, None).expect("an object")))));
        let mut watchers = Watchers::default();
        let (_first, mut first) = watchers.add(Arc::new(Interest::all()));
        let (_second, second) = watchers.add(Arc::new(Interest::all()));
        let woken = Arc::new(Woken(Default::default(), second.into()));
        assert!(first.poll_next(&mut Context::from_waker(&woken.clone().into())).is_pending());
        watchers.deliver(&event);
        watchers.deliver(&event);
        assert_eq!(*woken.0.lock().expect("no panic"), [true], "once, until it waits again, and the second had the event");
        assert!(first.ready().is_some() && first.ready().is_some() && first.ready().is_none());
    }
}
