//! Own writes that a cache does not show yet.
//!
//! A controller that counts what it has counted (jobs), or numbers what it made, must not decide on a state older than its
//! own last write (upstream's StaleControllerConsistency).

use ferrokube_client::{Named, Resource};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};

/// The last state that was written of each object, for as long as the cache lags behind it.
pub(crate) struct Latest<R>(Mutex<HashMap<String, R>>);

impl<R> Default for Latest<R> {
    fn default() -> Self {
        Latest(Mutex::new(HashMap::new()))
    }
}

/// The revision of the store that made this state.
pub(crate) fn revision<R: Resource>(object: &R) -> u64 {
    object.meta().resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

impl<R: Resource> Latest<R> {
    /// Notes what a write answered.
    pub fn wrote(&self, object: &R) {
        self.0.lock().insert(object.uid().to_owned(), object.clone());
    }

    /// The newer of what the cache shows and what was written.
    pub fn of(&self, cached: R) -> R {
        let mut known = self.0.lock();
        match known.get(cached.uid()) {
            Some(written) if revision(written) > revision(&cached) => written.clone(),
            Some(_) => {
                known.remove(cached.uid());
                cached
            }
            None => cached,
        }
    }

    /// What the cache shows, each as it was last written, and what it does not show yet of those that are accepted.
    pub fn complete(&self, cached: impl Iterator<Item = R>, accept: impl Fn(&R) -> bool) -> Vec<R> {
        let mut all: Vec<R> = cached.map(|o| self.of(o)).collect();
        let shown: HashSet<String> = all.iter().map(|o| o.uid().to_owned()).collect();
        all.extend(self.unseen(|o| accept(o) && !shown.contains(o.uid())));
        all
    }

    /// What was written and is accepted: objects that the cache does not show at all yet.
    fn unseen(&self, accept: impl Fn(&R) -> bool) -> Vec<R> {
        self.0.lock().values().filter(|o| accept(o)).cloned().collect()
    }

    /// The object is gone.
    pub fn forget(&self, uid: &str) {
        self.0.lock().remove(uid);
    }
}
