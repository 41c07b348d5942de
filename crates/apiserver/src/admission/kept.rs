//! Something worked out of cached objects, kept until one of them changes: what many requests need is made once.

use crate::objects::Objects;
use parking_lot::Mutex;
use std::sync::Arc;

/// A value and the revisions of the kinds it was made from.
#[derive(Debug)]
pub(super) struct Kept<T>(Mutex<Option<(Vec<u64>, Arc<T>)>>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Kept(Mutex::new(None))
    }
}

impl<T> Kept<T> {
    /// The value as the caches have it; `make` is given the one before.
    pub fn current(&self, objects: &dyn Objects, group: &str, resources: &[&str], make: impl FnOnce(Option<&T>) -> T) -> Arc<T> {
        let revision = |resource: &&str| objects.revision(group, resource);
        let mut kept = self.0.lock();
        if let Some((seen, value)) = &*kept
            && resources.iter().map(revision).eq(seen.iter().copied())
        {
            return value.clone();
        }
        // Read before the objects: what changes meanwhile is noticed the next time.
        let seen = resources.iter().map(revision).collect();
        let value = Arc::new(make(kept.as_ref().map(|(_, value)| &**value)));
        *kept = Some((seen, value.clone()));
        value
    }
}
