//! Binding of claims and volumes, and the hand-over of what cannot be bound to provisioners.
//!
//! Reads claims, volumes, storage classes and pods; owns `spec.claimRef` and the phase of volumes, `spec.volumeName`, the
//! phase and the capacity of claims until they are bound, and the annotations `pv.kubernetes.io/*` of both. A volume is
//! written before its claim: whatever stops in between is completed by looking at both again. It never touches storage:
//! volumes are made and removed by external provisioners. Source: `pkg/controller/volume/persistentvolume`.

mod changes;
pub(crate) mod matching;
pub(crate) mod measure;
pub(crate) mod migration;
mod plan;

use crate::Context;
use crate::latest::Latest;
use crate::pod_claims;
use ferrokube_client::cache::decoded;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Client, Error, Index, Named, Object, ObjectKey, Optional, Resource};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use matching::{claim_class, volume_class};
use measure::Operations;
use plan::{ClaimStep, ClaimView, Note, Reclaim, VolumeStep, plan_claim, plan_volume, waiting_for};
use std::sync::Arc;

const WORKERS: usize = 4;
/// Who provisions the claim.
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// Who provisions it, for provisioners older than 1.23.
const BETA_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// Marks of the default class.
const DEFAULT_CLASS: [&str; 2] = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Claim(ObjectKey),
    Volume(Arc<str>),
}

struct Binder {
    context: Context,
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    classes: Cache<StorageClass>,
    /// Free volumes by class.
    free: Arc<Index>,
    /// Volumes by `namespace/name` of their reference.
    reserved: Arc<Index>,
    /// Pods by claim.
    users: Arc<Index>,
    queue: Queue<Key>,
    written_claims: Arc<Latest<PersistentVolumeClaim>>,
    written_volumes: Arc<Latest<PersistentVolume>>,
    operations: Operations<Key>,
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let binder = Binder::new(context);
    tokio::join!(binder.claims.synced(), binder.volumes.synced(), binder.classes.synced());
    let running = Arc::new(());
    measure::measure(&binder.context.metrics, &binder.volumes, &binder.claims, &running);
    let reconcile = |key: Key| {
        let binder = &binder;
        async move {
            match key {
                Key::Claim(key) => binder.sync_claim(&key).await,
                Key::Volume(name) => binder.sync_volume(&name).await,
            }
        }
    };
    controller::run::<_, Error, _, _>("persistentvolume-binder", binder.queue.clone(), WORKERS, reconcile).await;
}

impl Binder {
    fn new(context: Context) -> Self {
        let claims: Cache<PersistentVolumeClaim> = context.caches.of();
        let volumes: Cache<PersistentVolume> = context.caches.of();
        let classes: Cache<StorageClass> = context.caches.of();
        let pods: Cache<Pod> = context.caches.of();
        let queue: Queue<Key> = context.queue("claims_and_volumes");
        let (written_claims, written_volumes) = (Arc::<Latest<_>>::default(), Arc::<Latest<_>>::default());
        let free = volumes.index(|o| free_class(o).into_iter().collect());
        let reserved = volumes.index(|o| reference_of(o).into_iter().map(|key| key.to_string()).collect());
        let users = pods.index(pod_claims::index_keys);
        let unbound = claims.index(|o| unbound_class(o).into_iter().collect());
        watch_claims(&claims, &queue, reserved.clone(), written_claims.clone());
        watch_volumes(&volumes, &queue, unbound.clone(), written_volumes.clone());
        let add = queue.clone();
        classes.on_change(move |d| {
            // Claims without a class wait for a default one.
            for class in [&*d.key().name, ""] {
                unbound.get(class).iter().for_each(|o| add.add(Key::Claim(o.key.clone())));
            }
        });
        let operations = Operations::new(context.metrics.clone());
        Binder { operations, context, claims, volumes, classes, free, reserved, users, queue, written_claims, written_volumes }
    }

    fn client(&self) -> &Client {
        &self.context.client
    }

    /// What waits is looked at again, and said again.
    fn again(&self) -> Next {
        Next::After(self.context.config.settings.volumes.period)
    }

    fn note<R: Resource>(&self, object: &R, note: Note) {
        self.context.recorder.about(object, note.kind, note.reason, note.message);
    }

    async fn sync_claim(&self, key: &ObjectKey) -> Result<Next, Error> {
        let operation = Key::Claim(key.clone());
        let Some(claim) = self.claims.get(&key.namespace, &key.name) else {
            self.operations.forget(&operation);
            return Ok(Next::Wait);
        };
        let mut claim = self.written_claims.of(claim);
        if let Some(marked) = migration::marked(claim.metadata.annotations.as_ref(), &[PROVISIONER, BETA_PROVISIONER]) {
            claim.metadata.annotations = Some(marked);
            claim = self.write_claim(&claim).await?;
        }
        match plan_claim(&claim, &self.view(&claim)) {
            ClaimStep::Bind(volume) => match self.bind(claim, *volume).await {
                Ok(next) => {
                    self.operations.end(&operation);
                    Ok(next)
                }
                failed => {
                    self.operations.fail(&operation);
                    failed
                }
            },
            ClaimStep::SetClass(class) => {
                let mut changed = claim;
                changed.spec.get_or_insert_default().storage_class_name = Some(class);
                let written = self.write_claim(&changed).await;
                measure::assigned(&self.context.metrics, written.is_ok());
                written.map(|_| Next::Wait)
            }
            ClaimStep::Provision(_) if !self.context.config.settings.volumes.provision => Ok(Next::Wait),
            ClaimStep::Provision(provisioner) => {
                self.operations.begin(operation.clone(), "provision", &provisioner);
                self.provision(claim, &provisioner).await.inspect_err(|_| self.operations.fail(&operation))
            }
            ClaimStep::Pending(note) => {
                if let Some(note) = note {
                    self.note(&claim, note);
                }
                self.claim_phase(&claim, "Pending", None).await?;
                Ok(self.again())
            }
            ClaimStep::Failed(note) => {
                self.note(&claim, note);
                Ok(self.again())
            }
            ClaimStep::Lost(note) => {
                if claim.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Lost") {
                    self.claim_phase(&claim, "Lost", None).await?;
                    self.note(&claim, note);
                }
                Ok(Next::Wait)
            }
        }
    }

    fn view(&self, claim: &PersistentVolumeClaim) -> ClaimView {
        let named = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).filter(|n| !n.is_empty());
        if let Some(name) = named {
            let named = self.volumes.get("", name).map(|v| self.written_volumes.of(v));
            return ClaimView { named, ..ClaimView::default() };
        }
        let key = format!("{}/{}", claim.namespace(), claim.name());
        let class = claim_class(claim);
        let objects = self.reserved.get(&key).into_iter().chain(self.free.get(class));
        let waiting = self.live_users(&key).filter(|o| !has_node(o));
        ClaimView {
            named: None,
            candidates: objects.filter_map(|o| decoded(&o)).map(|v| self.written_volumes.of(v)).collect(),
            class: self.classes.get("", class),
            default_class: default_class(&self.classes.list()),
            waiting_pods: waiting.map(|o| o.key.name.to_string()).collect(),
        }
    }

    /// Pods that use a claim and have not ended.
    fn live_users(&self, claim: &str) -> impl Iterator<Item = Arc<Object>> {
        let ended = |o: &Arc<Object>| decoded::<Pod>(o).is_some_and(|p| matches!(crate::pods::phase(&p), "Succeeded" | "Failed"));
        self.users.get(claim).into_iter().filter(move |o| !ended(o))
    }

    /// Both sides, the volume first.
    async fn bind(&self, mut claim: PersistentVolumeClaim, mut volume: PersistentVolume) -> Result<Next, Error> {
        if let Some(changed) = changes::bound_volume(&volume, &claim) {
            volume = self.write_volume(&changed).await?;
        }
        self.volume_phase(&volume, "Bound", "").await?;
        if let Some(changed) = changes::bound_claim(&claim, &volume) {
            claim = self.write_claim(&changed).await?;
        }
        self.claim_phase(&claim, "Bound", Some(&volume)).await?;
        Ok(Next::Wait)
    }

    async fn provision(&self, mut claim: PersistentVolumeClaim, provisioner: &str) -> Result<Next, Error> {
        let told = |key: &str| matching::annotation(&claim.metadata, key) == provisioner;
        if !told(PROVISIONER) || !told(BETA_PROVISIONER) {
            let annotations = claim.metadata.annotations.get_or_insert_default();
            annotations.insert(PROVISIONER.into(), provisioner.into());
            annotations.insert(BETA_PROVISIONER.into(), provisioner.into());
            claim = self.write_claim(&claim).await?;
        }
        self.note(&claim, waiting_for(provisioner));
        Ok(self.again())
    }

    async fn sync_volume(&self, name: &str) -> Result<Next, Error> {
        let operation = Key::Volume(name.into());
        let Some(volume) = self.volumes.get("", name) else {
            self.operations.end(&operation);
            return Ok(Next::Wait);
        };
        let mut volume = self.written_volumes.of(volume);
        if let Some(marked) = migration::marked(volume.metadata.annotations.as_ref(), &[plan::PROVISIONED_BY]) {
            volume.metadata.annotations = Some(marked);
            volume = self.write_volume(&volume).await?;
        }
        let claim = self.claim_of(&volume).await?;
        match plan_volume(&volume, claim.as_ref()) {
            VolumeStep::Phase(phase) => drop(self.volume_phase(&volume, phase, "").await?),
            VolumeStep::SyncClaim => claim.iter().for_each(|c| self.queue.add(Key::Claim(ObjectKey::new(c.namespace(), c.name())))),
            VolumeStep::Mismatch(of_volume, of_claim) => {
                self.note(&volume, of_volume);
                claim.iter().for_each(|claim| self.note(claim, of_claim.clone()));
                return Ok(self.again());
            }
            VolumeStep::Unbind => {
                let freed = self.write_volume(&changes::unbound_volume(&volume)).await?;
                self.volume_phase(&freed, "Available", "").await?;
            }
            VolumeStep::Reclaim(how) => {
                if plan::policy(&volume) == "Delete" {
                    self.operations.begin(operation, "delete", matching::annotation(&volume.metadata, plan::PROVISIONED_BY));
                }
                return self.reclaim(&volume, how).await;
            }
        }
        Ok(Next::Wait)
    }

    /// The claim that the volume refers to. That it is gone is asked of the API server before a volume is released.
    async fn claim_of(&self, volume: &PersistentVolume) -> Result<Option<PersistentVolumeClaim>, Error> {
        let Some(reference) = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) else { return Ok(None) };
        let (namespace, name) = (reference.namespace.as_deref().unwrap_or_default(), reference.name.as_deref().unwrap_or_default());
        let is_it = |c: &PersistentVolumeClaim| Some(c.uid()) == reference.uid.as_deref();
        if let Some(claim) = self.claims.get(namespace, name).filter(is_it) {
            return Ok(Some(self.written_claims.of(claim)));
        }
        let phase = volume.status.as_ref().and_then(|s| s.phase.as_deref());
        if matches!(phase, Some("Released" | "Failed")) || reference.uid.as_deref().unwrap_or_default().is_empty() {
            return Ok(None);
        }
        Ok(self.client().get::<PersistentVolumeClaim>(namespace, name).await.optional()?.filter(is_it))
    }

    async fn reclaim(&self, volume: &PersistentVolume, how: Reclaim) -> Result<Next, Error> {
        if volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Failed") {
            return Ok(Next::Wait);
        }
        let released = self.volume_phase(volume, "Released", "").await?;
        let note = match how {
            Reclaim::Elsewhere => return Ok(Next::Wait),
            Reclaim::Failed(note) => note,
            Reclaim::Recycle(note) => {
                let users = self.users_of(volume);
                if !users.is_empty() {
                    self.note(volume, plan::used_by(&users));
                    return Ok(self.again());
                }
                note
            }
        };
        self.operations.fail(&Key::Volume(volume.name().into()));
        self.volume_phase(&released, "Failed", &note.message).await?;
        self.note(volume, note);
        Ok(Next::Wait)
    }

    /// Pods that still use a released volume. A claim that is there has the name of the old one, and another volume.
    fn users_of(&self, volume: &PersistentVolume) -> Vec<String> {
        let Some(reference) = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) else { return Vec::new() };
        let (namespace, name) = (reference.namespace.as_deref().unwrap_or_default(), reference.name.as_deref().unwrap_or_default());
        if self.claims.object(namespace, name).is_some() {
            return Vec::new();
        }
        let mut users: Vec<String> = self.live_users(&format!("{namespace}/{name}")).map(|o| o.key.to_string()).collect();
        users.sort();
        users
    }

    async fn write_claim(&self, claim: &PersistentVolumeClaim) -> Result<PersistentVolumeClaim, Error> {
        let written = self.client().update(claim).await?;
        self.written_claims.wrote(&written);
        Ok(written)
    }

    async fn claim_phase(&self, claim: &PersistentVolumeClaim, phase: &str, volume: Option<&PersistentVolume>) -> Result<(), Error> {
        let Some(changed) = changes::claim_in_phase(claim, phase, volume) else { return Ok(()) };
        self.written_claims.wrote(&self.client().update_status(&changed).await?);
        Ok(())
    }

    async fn write_volume(&self, volume: &PersistentVolume) -> Result<PersistentVolume, Error> {
        let written = self.client().update(volume).await?;
        self.written_volumes.wrote(&written);
        Ok(written)
    }

    async fn volume_phase(&self, volume: &PersistentVolume, phase: &str, message: &str) -> Result<PersistentVolume, Error> {
        let Some(changed) = changes::volume_in_phase(volume, phase, message) else { return Ok(volume.clone()) };
        let written = self.client().update_status(&changed).await?;
        self.written_volumes.wrote(&written);
        Ok(written)
    }
}

/// The newest of the default classes, by name among equals (`GetDefaultClass`).
fn default_class(classes: &[StorageClass]) -> Option<String> {
    let marked = |c: &&StorageClass| DEFAULT_CLASS.iter().any(|key| matching::annotation(&c.metadata, key) == "true");
    let rank = |c: &&StorageClass| (std::cmp::Reverse(c.metadata.creation_timestamp.as_ref().map(|t| t.0)), c.name().to_owned());
    classes.iter().filter(marked).min_by_key(rank).map(|c| c.name().to_owned())
}

fn watch_claims(
    claims: &Cache<PersistentVolumeClaim>,
    queue: &Queue<Key>,
    reserved: Arc<Index>,
    written: Arc<Latest<PersistentVolumeClaim>>,
) {
    let add = queue.clone();
    claims.on_change(move |d| {
        add.add(Key::Claim(d.key().clone()));
        if d.new.is_none() {
            written.forget(&d.latest().uid);
        }
        let claim: Option<PersistentVolumeClaim> = decoded(d.latest());
        let volume = claim.and_then(|c| c.spec?.volume_name).filter(|v| !v.is_empty());
        volume.into_iter().for_each(|v| add.add(Key::Volume(v.into())));
        // A volume that was meant for it is free again when it has got another one.
        reserved.get(&d.key().to_string()).iter().for_each(|o| add.add(Key::Volume(o.key.name.clone())));
    });
}

fn watch_volumes(volumes: &Cache<PersistentVolume>, queue: &Queue<Key>, unbound: Arc<Index>, written: Arc<Latest<PersistentVolume>>) {
    let add = queue.clone();
    volumes.on_change(move |d| {
        add.add(Key::Volume(d.key().name.clone()));
        if d.new.is_none() {
            written.forget(&d.latest().uid);
        }
        reference_of(d.latest()).into_iter().for_each(|key| add.add(Key::Claim(key)));
        let class = d.new.and_then(|o| free_class(o));
        class.iter().flat_map(|c| unbound.get(c)).for_each(|o| add.add(Key::Claim(o.key.clone())));
    });
}

/// The class of an encoded volume that has no claim.
fn free_class(object: &Object) -> Option<String> {
    let volume: PersistentVolume = decoded(object)?;
    let free = volume.spec.as_ref().is_some_and(|s| s.claim_ref.is_none());
    free.then(|| volume_class(&volume).to_owned())
}

/// The claim that an encoded volume refers to.
fn reference_of(object: &Object) -> Option<ObjectKey> {
    let reference = decoded::<PersistentVolume>(object)?.spec?.claim_ref?;
    Some(ObjectKey::new(reference.namespace.as_deref()?, reference.name.as_deref()?))
}

/// The class of an encoded claim that has no volume.
fn unbound_class(object: &Object) -> Option<String> {
    let claim: PersistentVolumeClaim = decoded(object)?;
    let unbound = claim.spec.as_ref().is_some_and(|s| s.volume_name.as_deref().unwrap_or_default().is_empty());
    unbound.then(|| claim_class(&claim).to_owned())
}

fn has_node(object: &Object) -> bool {
    object.mentions(b"\"nodeName\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_newest_default_class_counts() {
        let class = |name: &str, marked: bool, at: &str| -> StorageClass {
            let mark = if marked { "true" } else { "false" };
            serde_json::from_value(json!({"metadata": {"name": name, "creationTimestamp": at, "annotations": {(DEFAULT_CLASS[0]): mark}},
                "provisioner": "p"}))
            .unwrap()
        };
        let (old, new) = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
        assert_eq!(default_class(&[class("a", true, old), class("b", true, new), class("c", false, new)]).as_deref(), Some("b"));
        assert_eq!(default_class(&[class("b", true, old), class("a", true, old)]).as_deref(), Some("a"));
        assert_eq!(default_class(&[class("c", false, new)]), None);
    }
}
