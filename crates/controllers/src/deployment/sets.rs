//! The replica sets of a deployment, as far as they can be known. Sizes are decided over all of them together: were one missing, or
//! older than the controller's own last write, a roll-out would want too many pods.
//!
//! The cache lags behind; what a write answered is newer. A write that failed may have been done all the same, when its answer was
//! lost, and one that was refused as a conflict tells that the set is another one than it seemed: then only the server knows, and it
//! is asked before anything is decided. Upstream decides on its cache alone.

use super::Deployments;
use crate::latest::{Latest, revision};
use ferrokube_client::cache::decoded;
use ferrokube_client::{Error, Named, ObjectKey, Optional};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};

/// What was written, and what may have been.
#[derive(Default)]
pub(super) struct Written {
    pub known: Latest<ReplicaSet>,
    /// Names of sets of which only the server knows what became of them, by deployment.
    doubtful: Mutex<HashMap<ObjectKey, BTreeSet<String>>>,
}

impl Written {
    /// The deployment is gone.
    pub fn forget(&self, deployment: &ObjectKey) {
        self.doubtful.lock().remove(deployment);
    }

    fn doubt(&self, deployment: ObjectKey, set: &str) {
        self.doubtful.lock().entry(deployment).or_default().insert(set.to_owned());
    }

    fn doubted(&self, deployment: &ObjectKey) -> BTreeSet<String> {
        self.doubtful.lock().get(deployment).cloned().unwrap_or_default()
    }

    fn settled(&self, deployment: &ObjectKey, set: &str) {
        let mut all = self.doubtful.lock();
        if let Some(names) = all.get_mut(deployment) {
            names.remove(set);
            if names.is_empty() {
                all.remove(deployment);
            }
        }
    }
}

fn key(deployment: &Deployment) -> ObjectKey {
    ObjectKey::new(deployment.namespace(), deployment.name())
}

/// Whether the deployment is the controller of a set.
pub(super) fn is_controlled(deployment: &Deployment, set: &ReplicaSet) -> bool {
    set.metadata.owner_references.iter().flatten().any(|r| r.uid == deployment.uid() && r.controller == Some(true))
}

/// Whether the server may have something else than what is known, after a write that failed so.
fn leaves_doubt(e: &Error) -> bool {
    e.is_conflict() || e.is_already_exists() || e.status().is_none_or(|s| s.code >= 500)
}

impl Deployments {
    /// Replica sets that the deployment owns.
    pub(super) async fn own_sets(&self, deployment: &Deployment) -> Result<Vec<ReplicaSet>, Error> {
        for name in self.written.doubted(&key(deployment)) {
            self.look(deployment, &name).await?;
        }
        let is_own = |s: &ReplicaSet| s.metadata.owner_references.iter().flatten().any(|r| r.uid == deployment.uid());
        let (shown, cached) = self.sets.steadily(|| (self.sets.revision(), self.sets_by_owner.get(deployment.uid())));
        // What is older than what the cache shows, and is not shown, is gone.
        let is_new = |s: &ReplicaSet| is_own(s) && revision(s) > shown;
        let mut own = self.written.known.complete(cached.iter().filter_map(|o| decoded(o)), is_new);
        own.retain(is_own);
        Ok(own)
    }

    /// Asks the server what there is of this name, which is in doubt no more then.
    pub(super) async fn look(&self, deployment: &Deployment, name: &str) -> Result<Option<ReplicaSet>, Error> {
        let there = self.context.client.get::<ReplicaSet>(deployment.namespace(), name).await.optional()?;
        if let Some(set) = there.as_ref().filter(|s| is_controlled(deployment, s)) {
            self.written.known.wrote(set);
        }
        self.written.settled(&key(deployment), name);
        Ok(there)
    }

    /// Notes what a write of a set of the deployment answered.
    pub(super) fn noted(&self, deployment: &Deployment, name: &str, answer: Result<ReplicaSet, Error>) -> Result<ReplicaSet, Error> {
        match &answer {
            Ok(written) => self.written.known.wrote(written),
            Err(e) if leaves_doubt(e) => self.written.doubt(key(deployment), name),
            Err(_) => {}
        }
        answer
    }

    /// Updates a set.
    pub(super) async fn write(&self, deployment: &Deployment, set: &ReplicaSet) -> Result<ReplicaSet, Error> {
        let answer = self.noted(deployment, set.name(), self.context.client.update(set).await);
        if answer.as_ref().is_err_and(Error::is_not_found) {
            self.written.known.forget(set.uid());
        }
        answer
    }
}
