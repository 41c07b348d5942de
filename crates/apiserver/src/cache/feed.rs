//! The one task that follows the store and writes the caches.
//!
//! At start it loads a state a little older than now and replays from there, so that watches that were interrupted by a
//! restart of the server find their position in history. When the store loses the task's position, everything is
//! loaded anew and all watchers are sent away to list again.

use super::kind::Renew;
use super::load::Loaded;
use super::{Caches, KindCache};
use crate::foreign;
use crate::registry::hash_of;
use bytes::Bytes;
use ferrokube_api::kinds::Kind;
use ferrokube_store::{Batch, Error, Event, KeyValue, Revision, Store, prefix_end};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// All objects are below this.
const ROOT: &[u8] = b"/registry/";
/// How many revisions before now are replayed into history at start.
const REPLAY: u64 = 2_000;
/// Wait before asking a store again that could not serve.
const RETRY: Duration = Duration::from_millis(200);

enum Command {
    Add(Arc<Kind>, Renew, oneshot::Sender<Result<(), Error>>),
    Remove(String, oneshot::Sender<()>),
}

/// The running task. Dropping it stops the caches.
#[derive(Debug)]
pub struct Feed {
    commands: mpsc::Sender<Command>,
    task: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut() {
            task.abort();
        }
    }
}

type Changes = BoxStream<'static, ferrokube_store::Result<Batch>>;

impl Feed {
    /// Loads the caches of all persisted rows and keeps them current. Resolves when they show the store's present.
    pub async fn start(store: Arc<dyn Store>, rows: impl IntoIterator<Item = Arc<Kind>>) -> Result<(Arc<Caches>, Feed), Error> {
        let caches = Arc::new(Caches::new(store));
        rows.into_iter().for_each(|row| caches.enter(&row));
        let now = caches.store.revision().await?;
        let changes = match caches.replay(now.saturating_sub(REPLAY).max(1).min(now), now).await {
            Ok(changes) => changes,
            // History may need keys that are gone; only the present must be readable.
            Err(error) => {
                tracing::warn!(%error, "history cannot be replayed; interrupted watches will list again");
                caches.load(now).await?.0
            }
        };
        let (commands, inbox) = mpsc::channel(16);
        let task = tokio::spawn(run(caches.clone(), changes, inbox));
        Ok((caches, Feed { commands, task: Mutex::new(Some(task)) }))
    }

    /// Stops following the store; resolves when the task holds nothing any more.
    pub async fn stop(&self) {
        let task = self.task.lock().take();
        if let Some(task) = task {
            task.abort();
            let _ = task.await;
        }
    }

    /// Starts to hold the objects of a row of a CRD, or reads them anew: readers see the old cache until the new one is there, and
    /// watchers of the old one have to list again.
    pub async fn add(&self, row: Arc<Kind>, renew: Renew) -> Result<(), Error> {
        let (done, wait) = oneshot::channel();
        let stopped = || Error::Unavailable("the server is stopping".into());
        self.commands.send(Command::Add(row, renew, done)).await.map_err(|_| stopped())?;
        wait.await.map_err(|_| stopped())?
    }

    /// Drops the cache of a storage prefix and ends its watches.
    pub async fn remove(&self, prefix: &str) {
        let (done, wait) = oneshot::channel();
        if self.commands.send(Command::Remove(prefix.to_owned(), done)).await.is_ok() {
            let _ = wait.await;
        }
    }
}

async fn run(caches: Arc<Caches>, mut changes: Changes, mut inbox: mpsc::Receiver<Command>) {
    loop {
        tokio::select! {
            batch = changes.next() => match batch {
                Some(Ok(batch)) => match caches.readable(batch) {
                    Ok(batch) => caches.apply(batch),
                    Err(error) => changes = caches.reload(error).await,
                },
                Some(Err(error)) => changes = caches.reload(error).await,
                None => changes = caches.reload(Error::Unavailable("the store's watch ended".into())).await,
            },
            command = inbox.recv() => match command {
                Some(Command::Add(row, renew, done)) => drop(done.send(caches.add(&row, renew).await)),
                Some(Command::Remove(prefix, done)) => { caches.leave(&prefix); let _ = done.send(()); }
                None => return,
            },
        }
    }
}

/// The path segment below `/registry/` that a key's cache has, and the rest: `[namespace/]name`.
pub(super) fn split<'k>(known: &HashMap<String, Arc<KindCache>>, key: &'k str) -> Option<(Arc<KindCache>, &'k str, &'k str)> {
    let path = key.strip_prefix("/registry/")?;
    let mut ends = path.match_indices('/').map(|(at, _)| at);
    let (first, second) = (ends.next()?, ends.next());
    // Longest first: `services/specs`, `apiextensions.k8s.io/customresourcedefinitions`.
    let (cache, rest) =
        [second, Some(first)].into_iter().flatten().find_map(|at| Some((known.get(&path[..at])?.clone(), &path[at + 1..])))?;
    let (namespace, name) = rest.split_once('/').unwrap_or(("", rest));
    Some((cache, namespace, name))
}

/// An error for a value that is encrypted: going on without it would have controllers undo what depends on it.
pub(super) fn plain(kv: &KeyValue) -> Result<(), Error> {
    if !kv.value.starts_with(crate::encryption::PREFIX) {
        return Ok(());
    }
    let detail = "the value is encrypted, and no encryption configuration is given".to_owned();
    Err(Error::Corrupted { path: String::from_utf8_lossy(&kv.key).into_owned(), detail })
}

impl Caches {
    /// An error for an object of another API server that cannot be read. What that keeps beside objects (`ranges`, `masterleases`)
    /// is no concern.
    fn known(&self, kv: &KeyValue) -> Result<(), Error> {
        let key = std::str::from_utf8(&kv.key).unwrap_or_default();
        if !foreign::is_protobuf(&kv.value) || split(&self.directory.read().by_prefix, key).is_none() {
            return Ok(());
        }
        let refused = |error: foreign::Unknown| Error::Corrupted { path: key.to_owned(), detail: error.to_string() };
        foreign::native(&kv.value).map(drop).map_err(refused)
    }

    /// The batch, if all of it can be read.
    fn readable(&self, batch: Batch) -> Result<Batch, Error> {
        let check = |kv: &KeyValue| plain(kv).and_then(|()| self.known(kv));
        batch.events.iter().try_for_each(|event| if let Event::Put(kv) = event { check(kv) } else { Ok(()) })?;
        Ok(batch)
    }

    /// Makes the (empty) cache of a row, or lets the row share the one that its objects already have.
    fn enter(&self, row: &Arc<Kind>) {
        let Some(prefix) = row.storage_prefix.as_deref() else { return };
        let mut directory = self.directory.write();
        let own = row.stored_as.is_none();
        let missing = directory.by_prefix.get(prefix).is_none_or(|cache| own && cache.row().stored_as.is_some());
        if missing {
            directory.install(Arc::new(KindCache::new(row.clone(), prefix.to_owned(), None)));
        }
        let cache = directory.by_prefix[prefix].clone();
        let same = directory.by_resource.entry(hash_of((&*row.group, &*row.resource))).or_default();
        same.retain(|(group, resource, _)| *group != row.group || *resource != row.resource);
        same.push((row.group.to_string(), row.resource.to_string(), cache));
    }

    /// Lets another version of a resource read the cache that its objects have.
    pub fn share(&self, row: &Arc<Kind>) {
        self.enter(row);
    }

    fn leave(&self, prefix: &str) {
        let mut directory = self.directory.write();
        let gone = directory.by_prefix.remove(prefix);
        directory.by_resource.values_mut().for_each(|same| same.retain(|(_, _, cache)| cache.prefix() != prefix));
        drop(directory);
        if let Some(cache) = gone {
            cache.load(Vec::new(), u64::MAX);
            cache.retire();
        }
    }

    /// Everything at `at`, or at the oldest revision that is still there; and the changes since then.
    async fn load(&self, at: Revision) -> Result<(Changes, Revision), Error> {
        let (start, end) = (Bytes::from_static(ROOT), prefix_end(ROOT));
        let known = self.directory.read().by_prefix.clone();
        let loaded = match self.gather(known.clone(), start.clone(), end.clone(), (at > 0).then_some(at)).await {
            Err(Error::Compacted { oldest }) => self.gather(known, start.clone(), end.clone(), Some(oldest)).await?,
            other => other?,
        };
        let changes = self.store.watch(start, end, loaded.revision).await?;
        let revision = loaded.revision;
        self.fill(loaded);
        self.applied.send_replace(revision);
        Ok((changes, revision))
    }

    /// Loads a past state and applies what happened since, up to now.
    async fn replay(&self, from: Revision, now: Revision) -> Result<Changes, Error> {
        let (mut changes, _) = self.load(from).await?;
        while self.applied() < now {
            let batch = changes.next().await.ok_or_else(|| Error::Unavailable("the store's watch ended".into()))?;
            self.apply(self.readable(batch?)?);
        }
        Ok(changes)
    }

    fn fill(&self, mut loaded: Loaded) {
        for cache in self.all() {
            cache.load(loaded.by_prefix.remove(cache.prefix()).unwrap_or_default(), loaded.revision);
        }
    }

    async fn add(&self, row: &Arc<Kind>, renew: Renew) -> Result<(), Error> {
        let Some(prefix) = row.storage_prefix.as_deref() else { return Ok(()) };
        let cache = Arc::new(KindCache::new(row.clone(), prefix.to_owned(), Some(renew)));
        let known = HashMap::from([(prefix.to_owned(), cache.clone())]);
        let start = format!("/registry/{prefix}/").into_bytes();
        let mut loaded = self.gather(known, start.clone().into(), prefix_end(&start), None).await?;
        cache.load(loaded.by_prefix.remove(prefix).unwrap_or_default(), loaded.revision);
        let before = self.directory.write().install(cache);
        before.inspect(|before| before.retire());
        self.enter(row);
        Ok(())
    }

    async fn reload(&self, why: Error) -> Changes {
        tracing::warn!(error = %why, "the cache lost its place in the store and loads everything anew");
        loop {
            tokio::time::sleep(RETRY).await;
            let now = match self.store.revision().await {
                Ok(now) => now,
                Err(_) => continue,
            };
            match self.load(now).await {
                Ok((changes, _)) => return changes,
                Err(error) => tracing::warn!(%error, "the store still cannot be read"),
            }
        }
    }

    fn apply(&self, batch: Batch) {
        let directory = self.directory.read();
        let mut passed = Vec::new();
        for event in batch.events {
            let (key, revision) = match &event {
                Event::Put(kv) => (&kv.key, kv.mod_revision),
                Event::Delete { key, revision } => (key, *revision),
            };
            let Some((cache, namespace, name)) = std::str::from_utf8(key).ok().and_then(|key| split(&directory.by_prefix, key)) else {
                continue;
            };
            cache.receive();
            let old = match &event {
                Event::Put(kv) => cache.put(namespace, name, &kv.value, revision),
                Event::Delete { .. } => cache.delete(namespace, name, revision),
            };
            passed.extend(old.into_iter().map(|old| (cache.clone(), old)));
        }
        drop(directory);
        self.applied.send_replace(batch.revision);
        // Now that nobody waits.
        passed.iter().for_each(|(cache, event)| cache.pack(event));
    }
}
