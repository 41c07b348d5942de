//! Deployments: replica sets that are rolled from one template to the next.
//!
//! Reads deployments, replica sets and (for Recreate) pods; writes replica sets and the status of deployments. The pods
//! themselves belong to the replica sets. Source: `pkg/controller/deployment`.
//!
//! [`rollout`] decides numbers, [`status`] decides conditions; both are pure. [`sets`] knows the replica sets of a deployment.
//! This file makes the new one and applies what was decided.

mod rollout;
mod sets;
mod status;

use crate::Context;
use crate::pods::{controller_reference, is_alive, matches, selects};
use crate::replica_set::with;
use ferrokube_client::cache::decoded;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::events::EventType::{Normal, Warning};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, DeleteOptions, Error, Index, Named, ObjectKey, Optional, Patch, Resource};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use rollout::{Scale, annotations};
use serde_json::json;
use sets::Written;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The label that keeps the pods of different templates apart.
const HASH_LABEL: &str = "pod-template-hash";

struct Deployments {
    context: Context,
    deployments: Cache<Deployment>,
    sets: Cache<ReplicaSet>,
    sets_by_owner: Arc<Index>,
    written: Arc<Written>,
    pods: Cache<Pod>,
    pods_by_owner: Arc<Index>,
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue: Queue<ObjectKey> = context.queue("deployment");
    let deployments: Cache<Deployment> = context.caches.of();
    let sets: Cache<ReplicaSet> = context.caches.of();
    let pods: Cache<Pod> = context.caches.of();
    let add = queue.clone();
    deployments.on_change(move |d| add.add(d.key().clone()));
    let owner_uid = |kind: &'static str| {
        move |o: &ferrokube_client::Object| o.controller().filter(|r| r.kind == kind).map(|r| r.uid).into_iter().collect::<Vec<_>>()
    };
    let sets_by_owner = sets.index(owner_uid(Deployment::KIND));
    let pods_by_owner = pods.index(owner_uid(ReplicaSet::KIND));
    let (add, known) = (queue.clone(), deployments.clone());
    let written: Arc<Written> = Arc::default();
    let gone = written.clone();
    sets.on_change(move |d| {
        if d.new.is_none() {
            gone.known.forget(&d.latest().uid);
        }
        match d.latest().controller() {
            Some(owner) if owner.kind == Deployment::KIND => add.add(ObjectKey::new(&d.key().namespace, &owner.name)),
            Some(_) => {}
            None => known.objects_in(&d.key().namespace).iter().for_each(|o| add.add(o.key.clone())),
        }
    });
    let (add, known) = (queue.clone(), sets.clone());
    pods.on_change(move |d| {
        // Only Recreate waits for pods, and only for their end.
        if d.new.is_some() {
            return;
        }
        let set = d.latest().controller().filter(|r| r.kind == ReplicaSet::KIND).and_then(|r| known.object(&d.key().namespace, &r.name));
        if let Some(owner) = set.and_then(|s| s.controller()) {
            add.add(ObjectKey::new(&d.key().namespace, &owner.name));
        }
    });
    tokio::join!(deployments.synced(), sets.synced(), pods.synced());
    let all = Deployments { context, deployments, sets, sets_by_owner, written, pods, pods_by_owner };
    let reconcile = |key: ObjectKey| all.reconcile(key);
    controller::run::<_, Error, _, _>("deployment", queue, 5, reconcile).await;
}

impl Deployments {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(deployment) = self.deployments.read(&key.namespace, &key.name)? else {
            self.written.forget(&key);
            return Ok(Next::Wait);
        };
        let selector = deployment.spec.as_ref().map(|s| s.selector.clone()).unwrap_or_default();
        if selector == Default::default() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.context.recorder.about(&deployment, Warning, "SelectingAll", message);
            return Ok(Next::Wait);
        }
        let sets = self.claim(&deployment).await?;
        if deployment.metadata.deletion_timestamp.is_some() {
            return self.write_status(&deployment, &sets, None).await;
        }
        let paused = deployment.spec.as_ref().and_then(|s| s.paused).unwrap_or(false);
        let (new, old) = rollout::split(&deployment, &sets);
        if paused || rollout::is_scaling(&deployment, &sets) {
            let scales = rollout::scale(&deployment, new.as_ref(), &old);
            let sets = self.apply_scales(&deployment, sets, scales).await?;
            return self.write_status(&deployment, &sets, new.as_ref()).await;
        }
        let recreate = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref()).and_then(|s| s.type_.as_deref()) == Some("Recreate");
        if recreate { self.recreate(deployment, sets).await } else { self.roll(deployment, sets).await }
    }

    async fn roll(&self, mut owner: Deployment, mut sets: Vec<ReplicaSet>) -> Result<Next, Error> {
        let new = self.new_set(&mut owner, &mut sets).await?;
        let deployment = &owner;
        let (_, old) = rollout::split(deployment, &sets);
        let scales = rollout::rolling(deployment, &new, &old);
        let sets = self.apply_scales(deployment, sets, scales).await?;
        self.conclude(deployment, sets).await
    }

    async fn recreate(&self, mut owner: Deployment, mut sets: Vec<ReplicaSet>) -> Result<Next, Error> {
        let deployment = &owner;
        let (new, old) = rollout::split(deployment, &sets);
        let down: Vec<Scale> = old.iter().filter(|s| rollout::replicas(s) > 0).map(|s| Scale { set: s.name().into(), to: 0 }).collect();
        if !down.is_empty() {
            let sets = self.apply_scales(deployment, sets, down).await?;
            return self.write_status(deployment, &sets, new.as_ref()).await;
        }
        let alive = |p: &Pod| !matches!(crate::pods::phase(p), "Succeeded" | "Failed");
        let still = old.iter().any(|s| self.pods_by_owner.get(s.uid()).iter().filter_map(|o| decoded::<Pod>(o)).any(|p| alive(&p)));
        if still {
            return self.write_status(deployment, &sets, new.as_ref()).await;
        }
        let new = self.new_set(&mut owner, &mut sets).await?;
        let deployment = &owner;
        let up = Scale { set: new.name().into(), to: rollout::wanted(deployment) };
        let scales = if rollout::replicas(&new) == up.to { Vec::new() } else { vec![up] };
        let sets = self.apply_scales(deployment, sets, scales).await?;
        self.conclude(deployment, sets).await
    }

    async fn conclude(&self, deployment: &Deployment, sets: Vec<ReplicaSet>) -> Result<Next, Error> {
        let (new, old) = rollout::split(deployment, &sets);
        if status::is_complete(deployment, new.as_ref(), &sets) {
            for set in rollout::superfluous(deployment, &old) {
                self.context
                    .client
                    .delete::<ReplicaSet>(set.namespace(), set.name(), &DeleteOptions::of_uid(set.uid()))
                    .await
                    .optional()?;
            }
        }
        self.write_status(deployment, &sets, new.as_ref()).await
    }

    /// Replica sets of the deployment, orphans that match taken in.
    async fn claim(&self, deployment: &Deployment) -> Result<Vec<ReplicaSet>, Error> {
        let own = self.own_sets(deployment).await?;
        if deployment.metadata.deletion_timestamp.is_some() {
            return Ok(own);
        }
        let selector = deployment.spec.as_ref().map(|s| s.selector.clone()).unwrap_or_default();
        let (own, strangers): (Vec<_>, Vec<_>) = own.into_iter().partition(|s| matches(&selector, s.metadata.labels.as_ref()));
        for set in strangers.iter().filter(|s| s.metadata.deletion_timestamp.is_none()) {
            self.release(deployment, set).await?;
        }
        self.adopt(deployment, &selector, own).await
    }

    async fn release(&self, deployment: &Deployment, set: &ReplicaSet) -> Result<(), Error> {
        let gone = json!({"$patch": "delete", "uid": deployment.uid()});
        let patch = json!({"metadata": {"uid": set.uid(), "ownerReferences": [gone]}});
        match self.context.client.patch::<ReplicaSet>(set.namespace(), set.name(), &Patch::Strategic(patch)).await {
            Ok(written) => self.written.known.wrote(&written),
            Err(e) if e.is_not_found() || e.is_conflict() => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    async fn adopt(&self, deployment: &Deployment, selector: &LabelSelector, mut own: Vec<ReplicaSet>) -> Result<Vec<ReplicaSet>, Error> {
        let mut may_adopt = None;
        for object in self.sets.objects_in(deployment.namespace()) {
            if object.controller().is_some() || crate::pods::is_deleting(&object) || !selects(selector, &object) {
                continue;
            }
            if may_adopt.is_none() {
                may_adopt = Some(is_alive(&self.context.client, deployment).await?);
            }
            if may_adopt == Some(false) {
                break;
            }
            let patch = json!({"metadata": {"uid": &*object.uid, "ownerReferences": [controller_reference(deployment)]}});
            match self.context.client.patch::<ReplicaSet>(deployment.namespace(), &object.key.name, &Patch::Strategic(patch)).await {
                Ok(set) => own.push(set),
                Err(e) if e.is_not_found() || e.is_conflict() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(own)
    }

    /// The replica set of the present template, made when it is not there, with its revision and annotations right.
    async fn new_set(&self, deployment: &mut Deployment, sets: &mut Vec<ReplicaSet>) -> Result<ReplicaSet, Error> {
        let (new, old) = rollout::split(deployment, sets);
        let revision = rollout::next_revision(&old);
        let Some(existing) = new else {
            let made = self.create_set(deployment, revision, &old).await?;
            sets.push(made.clone());
            self.note_revision(deployment, &revision.to_string()).await?;
            return Ok(made);
        };
        let revision = revision.max(rollout::revision(&existing));
        let wanted = annotations::of_new(deployment, &existing, revision);
        let min_ready = deployment.spec.as_ref().and_then(|s| s.min_ready_seconds);
        let same_min = existing.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0) == min_ready.unwrap_or(0);
        let updated = if existing.metadata.annotations.as_ref() == Some(&wanted) && same_min {
            existing
        } else {
            let mut changed = existing;
            changed.metadata.annotations = Some(wanted);
            if let Some(spec) = &mut changed.spec {
                spec.min_ready_seconds = min_ready;
            }
            let updated = self.write(deployment, &changed).await?;
            sets.iter_mut().filter(|s| s.uid() == updated.uid()).for_each(|s| *s = updated.clone());
            updated
        };
        self.note_revision(deployment, &revision.to_string()).await?;
        Ok(updated)
    }

    /// Notes the revision on the deployment; goes on with the deployment as it is then.
    async fn note_revision(&self, deployment: &mut Deployment, revision: &str) -> Result<(), Error> {
        let known = deployment.metadata.annotations.as_ref().and_then(|a| a.get(annotations::REVISION));
        if known.map(String::as_str) == Some(revision) {
            return Ok(());
        }
        let mut changed = deployment.clone();
        changed.metadata.annotations = with(changed.metadata.annotations.take(), annotations::REVISION, revision);
        *deployment = self.context.client.update(&changed).await?;
        Ok(())
    }

    async fn create_set(&self, deployment: &Deployment, revision: i64, old: &[ReplicaSet]) -> Result<ReplicaSet, Error> {
        let spec = deployment.spec.clone().unwrap_or_default();
        let collisions = deployment.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
        let hash = template_hash(&spec.template, collisions);
        let mut template = spec.template.clone();
        let meta = template.metadata.get_or_insert_default();
        meta.labels = with(meta.labels.take(), HASH_LABEL, &hash);
        let mut selector = spec.selector.clone();
        selector.match_labels = with(selector.match_labels.take(), HASH_LABEL, &hash);
        let labels = meta.labels.clone();
        let mut set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", deployment.name())),
                namespace: deployment.metadata.namespace.clone(),
                labels,
                owner_references: Some(vec![controller_reference(deployment)]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec { min_ready_seconds: spec.min_ready_seconds, replicas: Some(0), selector, template: Some(template) }),
            status: None,
        };
        let replicas = rollout::replicas_of_new(deployment, 0, old);
        if let Some(spec) = &mut set.spec {
            spec.replicas = Some(replicas);
        }
        set.metadata.annotations = Some(annotations::of_new(deployment, &set, revision));
        match self.noted(deployment, set.name(), self.context.client.create(&set).await) {
            Ok(made) => {
                if replicas > 0 {
                    let message = format!("Scaled up replica set {} from 0 to {replicas}", made.name());
                    self.context.recorder.about(deployment, Normal, "ScalingReplicaSet", message);
                }
                Ok(made)
            }
            Err(e) if e.is_already_exists() => self.collided(deployment, &set, e).await,
            Err(e) if e.is_namespace_terminating() => Err(e),
            Err(e) => {
                let message = format!("Failed to create new replica set {:?}: {e}", set.name());
                let status = status::not_created(deployment, &message, Timestamp::now());
                if deployment.status != status {
                    let changed = Deployment { status, ..deployment.clone() };
                    // There is a bigger problem than a status that is not written.
                    drop(self.context.client.update_status(&changed).await);
                }
                self.context.recorder.about(deployment, Warning, status::NOT_CREATED, message);
                Err(e)
            }
        }
    }

    /// The name is taken: by ourselves (the cache lags behind) or by another template with the same hash.
    async fn collided(&self, deployment: &Deployment, wanted: &ReplicaSet, e: Error) -> Result<ReplicaSet, Error> {
        let Some(there) = self.look(deployment, wanted.name()).await? else { return Err(e) };
        if sets::is_controlled(deployment, &there) && rollout::same_template(deployment, &there) {
            return Ok(there);
        }
        let mut changed = deployment.clone();
        *changed.status.get_or_insert_default().collision_count.get_or_insert_default() += 1;
        self.context.client.update_status(&changed).await?;
        Err(e)
    }

    async fn apply_scales(&self, deployment: &Deployment, mut sets: Vec<ReplicaSet>, scales: Vec<Scale>) -> Result<Vec<ReplicaSet>, Error> {
        for scale in scales {
            let Some(set) = sets.iter_mut().find(|s| s.name() == scale.set) else { continue };
            let before = rollout::replicas(set);
            let mut changed = set.clone();
            changed.metadata.annotations = Some(annotations::sized(deployment, set));
            if let Some(spec) = &mut changed.spec {
                spec.replicas = Some(scale.to);
            }
            if changed == *set {
                continue;
            }
            *set = self.write(deployment, &changed).await?;
            if before != scale.to {
                let direction = if scale.to > before { "up" } else { "down" };
                let message = format!("Scaled {direction} replica set {} from {before} to {}", scale.set, scale.to);
                self.context.recorder.about(deployment, Normal, "ScalingReplicaSet", message);
            }
        }
        Ok(sets)
    }

    async fn write_status(&self, deployment: &Deployment, sets: &[ReplicaSet], new: Option<&ReplicaSet>) -> Result<Next, Error> {
        let new = new
            .and_then(|n| sets.iter().find(|s| s.uid() == n.uid()))
            .or_else(|| sets.iter().find(|s| rollout::same_template(deployment, s)));
        let (fresh, look_again) = status::status(deployment, sets, new, Timestamp::now());
        if deployment.status.as_ref() != Some(&fresh) {
            let changed = Deployment { status: Some(fresh), ..deployment.clone() };
            self.context.client.update_status(&changed).await.optional()?;
        }
        tracing::trace!(deployment = deployment.name(), pods = self.pods.len(), "deployment reconciled");
        Ok(look_again.map_or(Next::Wait, Next::After))
    }
}

/// A short name for a template, in the alphabet that `rand.SafeEncodeString` uses.
pub(crate) fn template_hash(template: &PodTemplateSpec, collisions: i32) -> String {
    const SAFE: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hasher = Sha256::new();
    // Maps are sorted and fields are in the order of the struct: equal templates give equal bytes.
    hasher.update(serde_json::to_vec(template).unwrap_or_default());
    if collisions > 0 {
        hasher.update(collisions.to_le_bytes());
    }
    hasher.finalize().iter().take(10).map(|b| char::from(SAFE[usize::from(*b) % SAFE.len()])).collect()
}

/// Labels without the hash.
fn without_hash(labels: Option<&BTreeMap<String, String>>) -> BTreeMap<String, String> {
    labels.into_iter().flatten().filter(|(k, _)| *k != HASH_LABEL).map(|(k, v)| (k.clone(), v.clone())).collect()
}
