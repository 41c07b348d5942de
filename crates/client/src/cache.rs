//! Shared local copies of a kind, each fed by one subscription.
//!
//! A cache holds `Arc<Object>`s: in the same process as the API server they are the watch cache's own, so the cluster's
//! state exists once per process, and what a cache or an index adds to it are pointers. One task owns the writing; readers take a short read lock and clone `Arc`s. Handlers
//! run on that task, in order, and must only note what changed (add a key to a queue).
//!
//! A listing is taken over as a whole (see [`ferrokube_api::Listings`]), and the handlers are told of what differs when all of it is there.

use crate::{Client, Resource};
use ferrokube_api::ordered::{Ordered, parts};
use ferrokube_api::{Listings, News, Object, ObjectKey, Selection};
use futures_util::StreamExt;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::atomic::{self, AtomicU64};
use std::sync::{Arc, Weak};
use tokio::sync::{oneshot, watch};

/// A change of one object: at least one side is present.
#[derive(Clone, Copy, Debug)]
pub struct Delta<'a> {
    /// What was known before.
    pub old: Option<&'a Arc<Object>>,
    /// What is known now; `None` after a deletion.
    pub new: Option<&'a Arc<Object>>,
}

impl<'a> Delta<'a> {
    /// The newest known state.
    pub fn latest(&self) -> &'a Arc<Object> {
        self.new.or(self.old).expect("a delta has at least one side")
    }

    /// The object's key.
    pub fn key(&self) -> &'a ObjectKey {
        &self.latest().key
    }
}

type Handler = Box<dyn Fn(Delta<'_>) + Send + Sync>;

#[derive(Default)]
struct Handlers {
    list: Vec<(u64, Handler)>,
    next: u64,
}

#[derive(Default)]
struct Objects {
    map: RwLock<Ordered>,
    handlers: Mutex<Handlers>,
    /// The newest revision that is shown.
    revision: AtomicU64,
}

/// Handlers of one component, to be taken out when it ends.
type Registered = Arc<Mutex<Vec<(Weak<Shared>, u64)>>>;

/// Takes the handlers out that were added through its [`Caches`], when it is dropped: a component that is started again
/// would otherwise leave them, and what they hold, in the shared caches for ever.
#[derive(Default)]
pub struct Scope(Registered);

impl Drop for Scope {
    fn drop(&mut self) {
        for (cache, number) in std::mem::take(&mut *self.0.lock()) {
            let Some(cache) = cache.upgrade() else { continue };
            let mut handlers = cache.objects.handlers.lock();
            let found = handlers.list.iter().position(|(n, _)| *n == number).map(|at| handlers.list.remove(at));
            // What a handler holds may be the last of another cache: it goes outside the lock.
            drop(handlers);
            drop(found);
        }
    }
}

/// The untyped heart of a [`Cache`].
struct Shared {
    objects: Objects,
    synced: watch::Receiver<bool>,
    task: tokio::task::AbortHandle,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The caches of a process (or of an identity): asking twice for the same selection gives the same cache.
#[derive(Clone)]
pub struct Caches {
    client: Client,
    open: Arc<Mutex<HashMap<Selection, Weak<Shared>>>>,
    scope: Option<Registered>,
}

impl Caches {
    /// Caches that subscribe through this client.
    pub fn new(client: Client) -> Self {
        Caches { client, open: Arc::default(), scope: None }
    }

    /// The client that the caches subscribe through.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The same caches for a component whose handlers go with the scope.
    pub fn scoped(&self) -> (Self, Scope) {
        let scope = Scope::default();
        (Caches { scope: Some(scope.0.clone()), ..self.clone() }, scope)
    }

    /// The cache of all objects of a kind.
    pub fn of<R: Resource>(&self) -> Cache<R> {
        self.select(Selection::default())
    }

    /// The cache of the objects of a kind that match; group, version and resource are filled in from the type.
    pub fn select<R: Resource>(&self, selection: Selection) -> Cache<R> {
        let selection = Selection { group: R::GROUP.into(), version: R::VERSION.into(), resource: R::RESOURCE.into(), ..selection };
        Cache { shared: self.shared(selection), scope: self.scope.clone(), kind: PhantomData }
    }

    /// The cache of any resource, without a type.
    pub fn dynamic(&self, selection: Selection) -> Cache<()> {
        Cache { shared: self.shared(selection), scope: self.scope.clone(), kind: PhantomData }
    }

    fn shared(&self, selection: Selection) -> Arc<Shared> {
        let mut open = self.open.lock();
        if let Some(shared) = open.get(&selection).and_then(Weak::upgrade) {
            return shared;
        }
        let (synced_tx, synced) = watch::channel(false);
        let mut stream = self.client.subscribe(selection.clone());
        // The task may run before `new_cyclic` returns, when the weak reference leads nowhere yet: it must wait.
        let (made, is_made) = oneshot::channel();
        let shared = Arc::new_cyclic(|weak: &Weak<Shared>| {
            let weak = weak.clone();
            let task = tokio::spawn(async move {
                if is_made.await.is_err() {
                    return;
                }
                let mut listings = Listings::default();
                while let Some(change) = stream.next().await {
                    let Some(shared) = weak.upgrade() else { return };
                    let Some(news) = listings.take(change) else { continue };
                    shared.objects.apply(news, &synced_tx);
                }
            });
            Shared { objects: Objects::default(), synced, task: task.abort_handle() }
        });
        // An error means the task was aborted with the runtime.
        let _ = made.send(());
        open.retain(|_, weak| weak.strong_count() > 0);
        open.insert(selection, Arc::downgrade(&shared));
        shared
    }
}

impl Objects {
    fn apply(&self, news: News, synced: &watch::Sender<bool>) {
        match news {
            News::Set(object) => self.set(object),
            News::Gone(object) => self.remove(&object),
            News::All(listed, revision) => {
                self.take_over(listed, revision);
                synced.send_replace(true);
            }
        }
    }

    fn shows(&self, revision: u64) {
        self.revision.fetch_max(revision, atomic::Ordering::AcqRel);
    }

    /// All objects are those of a listing from now on; handlers are told of what differs when all of it is there.
    fn take_over(&self, listed: Vec<Arc<Object>>, revision: u64) {
        let handlers = self.handlers.lock();
        let newest = listed.iter().map(|o| o.revision).max().unwrap_or(0);
        let mut map = self.map.write();
        let known = std::mem::replace(&mut *map, Ordered::new(listed));
        self.shows(revision.max(newest));
        let told: Vec<_> = {
            let new = map.range("", None).iter().map(|o| (known.get(parts(o)).cloned(), Some(o.clone())));
            let new = new.filter(|(old, new)| !is_same(old.as_ref(), new.as_ref()));
            let gone = known.range("", None).iter().filter(|o| map.get(parts(o)).is_none()).map(|o| (Some(o.clone()), None));
            new.chain(gone).collect()
        };
        drop(map);
        for (old, new) in &told {
            handlers.list.iter().for_each(|(_, h)| h(Delta { old: old.as_ref(), new: new.as_ref() }));
        }
    }

    /// The handler lock is taken first, so that a handler being added sees each object exactly once.
    fn set(&self, object: Arc<Object>) {
        let handlers = self.handlers.lock();
        let old = self.map.write().replace(object.clone());
        self.shows(object.revision);
        if is_same(old.as_ref(), Some(&object)) {
            return;
        }
        handlers.list.iter().for_each(|(_, h)| h(Delta { old: old.as_ref(), new: Some(&object) }));
    }

    /// Handlers get the state that the cache held, not the deletion's: an index must find what it had entered.
    fn remove(&self, gone: &Object) {
        let handlers = self.handlers.lock();
        let known = self.map.write().take(parts(gone));
        self.shows(gone.revision);
        let Some(known) = known else { return };
        handlers.list.iter().for_each(|(_, h)| h(Delta { old: Some(&known), new: None }));
    }
}

fn is_same(old: Option<&Arc<Object>>, new: Option<&Arc<Object>>) -> bool {
    old.zip(new).is_some_and(|(old, new)| old.revision == new.revision && old.uid == new.uid)
}

/// A shared local copy of the selected objects of a kind. Cheap to clone; lives as long as somebody holds it.
pub struct Cache<R> {
    shared: Arc<Shared>,
    scope: Option<Registered>,
    kind: PhantomData<fn() -> R>,
}

impl<R> Clone for Cache<R> {
    fn clone(&self) -> Self {
        Cache { shared: self.shared.clone(), scope: self.scope.clone(), kind: PhantomData }
    }
}

impl<R> Cache<R> {
    /// Resolves once the first listing is complete.
    pub async fn synced(&self) {
        let mut synced = self.shared.synced.clone();
        // An error means the subscription ended, which it does only when the process stops.
        let _ = synced.wait_for(|s| *s).await;
    }

    /// Whether the first listing is complete.
    pub fn is_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    /// The newest revision that is shown: whatever was written before it is.
    pub fn revision(&self) -> u64 {
        self.shared.objects.revision.load(atomic::Ordering::Acquire)
    }

    /// Reads while no handler is being told anything, so that what several handlers keep is of one moment: who changes owner is in
    /// neither of two indexes after the first has heard of it and before the second has. Must be quick. Not for handlers.
    pub fn steadily<T>(&self, read: impl FnOnce() -> T) -> T {
        let _untold = self.shared.objects.handlers.lock();
        read()
    }

    /// One object, encoded.
    pub fn object(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.shared.objects.map.read().get((namespace, name)).cloned()
    }

    /// All objects, in key order.
    pub fn objects(&self) -> Vec<Arc<Object>> {
        self.shared.objects.map.read().range("", None).iter().cloned().collect()
    }

    /// The objects of a namespace, in name order.
    pub fn objects_in(&self, namespace: &str) -> Vec<Arc<Object>> {
        let map = self.shared.objects.map.read();
        map.range(namespace, None).iter().filter(|o| *o.key.namespace == *namespace).cloned().collect()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.shared.objects.map.read().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `handler` for every object known now (as an addition) and then for every change, in order.
    /// It runs under the cache's lock: it must be quick and must not call back into this cache's handlers.
    pub fn on_change(&self, handler: impl Fn(Delta<'_>) + Send + Sync + 'static) {
        let mut handlers = self.shared.objects.handlers.lock();
        for object in self.objects() {
            handler(Delta { old: None, new: Some(&object) });
        }
        handlers.next += 1;
        let number = handlers.next;
        handlers.list.push((number, Box::new(handler)));
        drop(handlers);
        if let Some(scope) = &self.scope {
            scope.lock().push((Arc::downgrade(&self.shared), number));
        }
    }

    /// An index over the objects, kept up to date: `keys` names the entries under which an object is found.
    pub fn index(&self, keys: impl Fn(&Object) -> Vec<String> + Send + Sync + 'static) -> Arc<Index> {
        let index = Arc::new(Index::default());
        let writer = index.clone();
        self.on_change(move |delta| {
            let mut map = writer.map.write();
            for key in delta.old.map(|o| keys(o)).unwrap_or_default() {
                if let Some(set) = map.get_mut(&key) {
                    set.take(parts(delta.latest()));
                    if set.is_empty() {
                        map.remove(&key);
                    }
                }
            }
            if let Some(new) = delta.new {
                for key in keys(new) {
                    map.entry(key).or_default().replace(new.clone());
                }
            }
        });
        index
    }
}

impl<R: Resource> Cache<R> {
    /// One object, decoded. An object that cannot be decoded is logged and treated as absent.
    pub fn get(&self, namespace: &str, name: &str) -> Option<R> {
        let object = self.object(namespace, name)?;
        decoded(&object)
    }

    /// One object, decoded. One that cannot be decoded is an error, not an absence: whoever deletes what belongs to an
    /// absent object must ask this way.
    pub fn read(&self, namespace: &str, name: &str) -> crate::Result<Option<R>> {
        self.object(namespace, name).map(|object| readable(&object)).transpose()
    }

    /// All objects, decoded.
    pub fn list(&self) -> Vec<R> {
        self.objects().iter().filter_map(|o| decoded(o)).collect()
    }
}

/// Decodes an object of a cache, logging one that is not what its kind says.
pub fn decoded<R: Resource>(object: &Object) -> Option<R> {
    R::decode(&object.json()).inspect_err(|e| tracing::warn!(kind = R::KIND, key = %object.key, "object cannot be decoded: {e}")).ok()
}

/// Decodes an object of a cache, or says that it is not what its kind says.
pub fn readable<R: Resource>(object: &Object) -> crate::Result<R> {
    R::decode(&object.json()).map_err(|source| crate::Error::Decode { what: R::KIND, source })
}

/// Objects by a derived key.
#[derive(Default)]
pub struct Index {
    map: RwLock<HashMap<String, Ordered>>,
}

impl Index {
    /// The objects under a key, in name order.
    pub fn get(&self, key: &str) -> Vec<Arc<Object>> {
        self.map.read().get(key).map(|set| set.range("", None).iter().cloned().collect()).unwrap_or_default()
    }
}
