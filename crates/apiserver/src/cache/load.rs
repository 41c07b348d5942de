//! Filling the caches with what stands in the store: at start, when the feed lost its place, when a row comes.
//!
//! A store may hold a million objects: beside the objects themselves only a few pages of it may be in memory. Pages are read
//! by as many threads as there are cores while the next one comes from the store.

use super::feed::{plain, split};
use super::outline::Unreadable;
use super::{Caches, KindCache};
use bytes::Bytes;
use ferrokube_api::Object;
use ferrokube_store::{Error, KeyValue, Revision};
use futures_util::StreamExt;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Up to this many objects are read where they arrive.
const INLINE: usize = 256;

pub(super) type Known = HashMap<String, Arc<KindCache>>;
/// Objects in the order of their keys, by prefix.
type Part = Vec<(String, Vec<Arc<Object>>)>;

/// What stood in the store at a revision.
pub(super) struct Loaded {
    pub by_prefix: HashMap<String, Vec<Arc<Object>>>,
    pub revision: Revision,
}

impl Loaded {
    fn take(&mut self, part: Part) {
        for (prefix, objects) in part {
            self.by_prefix.entry(prefix).or_default().extend(objects);
        }
    }
}

impl Caches {
    /// The objects of `[start, end)` at a revision (`None`: now), as the caches that are known by prefix read them.
    pub(super) async fn gather(&self, known: Known, start: Bytes, end: Bytes, at: Option<Revision>) -> Result<Loaded, Error> {
        let known = Arc::new(known);
        let mut loaded = Loaded { by_prefix: HashMap::new(), revision: 0 };
        let mut reading = VecDeque::new();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut pages = self.store.scan(start, end, at).await?;
        while let Some(page) = pages.next().await {
            let page = page?;
            loaded.revision = page.revision;
            if page.items.len() <= INLINE && reading.is_empty() {
                loaded.take(read(&known, &page.items)?);
                continue;
            }
            let known = known.clone();
            reading.push_back(tokio::task::spawn_blocking(move || read(&known, &page.items)));
            if reading.len() > threads {
                loaded.take(finished(reading.pop_front()).await?);
            }
        }
        while !reading.is_empty() {
            loaded.take(finished(reading.pop_front()).await?);
        }
        Ok(loaded)
    }
}

async fn finished(task: Option<tokio::task::JoinHandle<Result<Part, Error>>>) -> Result<Part, Error> {
    let Some(task) = task else { return Ok(Part::new()) };
    task.await.unwrap_or_else(|error| Err(Error::Unavailable(format!("reading objects: {error}"))))
}

/// Reads a page.
fn read(known: &Known, items: &[KeyValue]) -> Result<Part, Error> {
    let mut part = Part::new();
    for kv in items {
        plain(kv)?;
        let Some((cache, _, _)) = std::str::from_utf8(&kv.key).ok().and_then(|key| split(known, key)) else { continue };
        let before = part.last().filter(|(prefix, _)| prefix == cache.prefix()).and_then(|(_, objects)| objects.last());
        let object = match cache.read(&kv.value, kv.mod_revision, before.map(Arc::as_ref)) {
            Ok(object) => {
                cache.pack_next(&object, before);
                Arc::new(object)
            }
            // Of another API server: going on without it would have controllers undo what depends on it.
            Err(Unreadable::Foreign(error)) => {
                return Err(Error::Corrupted { path: String::from_utf8_lossy(&kv.key).into_owned(), detail: error.to_string() });
            }
            Err(error) => {
                tracing::error!(%error, key = %String::from_utf8_lossy(&kv.key), "unreadable object in the store");
                continue;
            }
        };
        match part.last_mut() {
            Some((prefix, objects)) if prefix == cache.prefix() => objects.push(object),
            _ => part.push((cache.prefix().to_owned(), vec![object])),
        }
    }
    Ok(part)
}
