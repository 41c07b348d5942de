//! A store in memory, without threads: under a paused clock nothing of it takes time, so that a seed says what happens.

use bytes::Bytes;
use ferrokube_store::{Batch, Committed, Error, Event, Expect, KeyValue, Page, Result, Revision, Store};
use futures_util::future::{BoxFuture, FutureExt, ready};
use futures_util::stream::{self, BoxStream, StreamExt};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

#[derive(Default)]
struct State {
    values: BTreeMap<Bytes, KeyValue>,
    /// Every event there ever was: nothing is compacted.
    log: Vec<Event>,
    /// When each of them was.
    times: Vec<Instant>,
    revision: Revision,
}

impl State {
    fn expect(&self, key: &Bytes, expect: Expect) -> Result<Option<Revision>> {
        let actual = self.values.get(key).map(|kv| kv.mod_revision);
        let holds = match expect {
            Expect::Any => true,
            Expect::Absent => actual.is_none(),
            Expect::Revision(wanted) => actual == Some(wanted),
        };
        if holds { Ok(actual) } else { Err(Error::Conflict { actual }) }
    }

    /// The values as they stood at a revision.
    fn at(&self, revision: Revision) -> BTreeMap<Bytes, KeyValue> {
        let mut values = BTreeMap::new();
        for event in self.log.iter().take_while(|e| e.revision() <= revision) {
            match event {
                Event::Put(kv) => drop(values.insert(kv.key.clone(), kv.clone())),
                Event::Delete { key, .. } => drop(values.remove(key)),
            }
        }
        values
    }
}

/// The store.
pub struct Memory {
    state: Arc<Mutex<State>>,
    /// Revision, and how often progress was asked for.
    changed: watch::Sender<(Revision, u64)>,
}

impl Default for Memory {
    fn default() -> Self {
        Memory { state: Arc::default(), changed: watch::channel((0, 0)).0 }
    }
}

impl Memory {
    /// Every event there ever was, and when.
    pub fn log(&self) -> Vec<(Instant, Event)> {
        let state = self.state.lock();
        state.times.iter().copied().zip(state.log.iter().cloned()).collect()
    }

    fn commit(&self, key: &Bytes, expect: Expect, event: impl FnOnce(&State, Revision) -> Event) -> Result<Committed> {
        let mut state = self.state.lock();
        let previous_revision = state.expect(key, expect)?;
        let revision = state.revision + 1;
        let event = event(&state, revision);
        match &event {
            Event::Put(kv) => drop(state.values.insert(key.clone(), kv.clone())),
            Event::Delete { .. } => drop(state.values.remove(key)),
        }
        state.log.push(event);
        state.times.push(Instant::now());
        state.revision = revision;
        drop(state);
        self.changed.send_modify(|(r, _)| *r = revision);
        Ok(Committed { revision, previous_revision })
    }
}

impl Store for Memory {
    fn put(&self, key: Bytes, value: Bytes, expect: Expect, _ttl: Option<Duration>) -> BoxFuture<'_, Result<Committed>> {
        let made = |state: &State, mod_revision| {
            let create_revision = state.values.get(&key).map_or(mod_revision, |kv| kv.create_revision);
            Event::Put(KeyValue { key: key.clone(), value, create_revision, mod_revision })
        };
        ready(self.commit(&key, expect, made)).boxed()
    }

    fn delete(&self, key: Bytes, expect: Expect) -> BoxFuture<'_, Result<Committed>> {
        let absent = !self.state.lock().values.contains_key(&key);
        if absent {
            return ready(Err(Error::Conflict { actual: None })).boxed();
        }
        ready(self.commit(&key, expect, |_, revision| Event::Delete { key: key.clone(), revision })).boxed()
    }

    fn get(&self, key: Bytes) -> BoxFuture<'_, Result<Option<KeyValue>>> {
        ready(Ok(self.state.lock().values.get(&key).cloned())).boxed()
    }

    fn range(&self, start: Bytes, end: Bytes, at: Option<Revision>, limit: usize) -> BoxFuture<'_, Result<Page>> {
        let state = self.state.lock();
        let revision = at.unwrap_or(state.revision);
        let of_range = |values: &BTreeMap<Bytes, KeyValue>| values.range(start..end).map(|(_, kv)| kv.clone()).collect();
        let all: Vec<KeyValue> = if revision == state.revision { of_range(&state.values) } else { of_range(&state.at(revision)) };
        let count = all.len() as u64;
        let limit = if limit == 0 { all.len() } else { limit };
        let more = all.len() > limit;
        ready(Ok(Page { items: all.into_iter().take(limit).collect(), revision, more, count })).boxed()
    }

    fn watch(&self, start: Bytes, end: Bytes, after: Revision) -> BoxFuture<'_, Result<BoxStream<'static, Result<Batch>>>> {
        let (state, changes) = (self.state.clone(), self.changed.subscribe());
        let from = state.lock().log.iter().take_while(|e| e.revision() <= after).count();
        let next = move |(mut changes, seen): (watch::Receiver<(Revision, u64)>, usize)| {
            let (state, start, end) = (state.clone(), start.clone(), end.clone());
            async move {
                let behind = state.lock().log.len() > seen;
                if !behind {
                    changes.changed().await.ok()?;
                }
                changes.borrow_and_update();
                let state = state.lock();
                let of_range = |e: &&Event| {
                    let key = match e {
                        Event::Put(kv) => &kv.key,
                        Event::Delete { key, .. } => key,
                    };
                    *key >= start && *key < end
                };
                let events = state.log[seen..].iter().filter(of_range).cloned().collect();
                Some((Ok(Batch { events, revision: state.revision }), (changes, state.log.len())))
            }
        };
        ready(Ok(stream::unfold((changes, from), next).boxed())).boxed()
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision>> {
        ready(Ok(self.state.lock().revision)).boxed()
    }

    fn compact(&self, _: Revision) -> BoxFuture<'_, Result<()>> {
        ready(Ok(())).boxed()
    }

    fn request_progress(&self) -> BoxFuture<'_, Result<()>> {
        self.changed.send_modify(|(_, asked)| *asked += 1);
        ready(Ok(())).boxed()
    }

    fn size_on_disk(&self) -> BoxFuture<'_, Result<u64>> {
        ready(Ok(0)).boxed()
    }
}
