//! VolumeAttributesClass protection: a class that a claim or a volume names outlives its deletion.
//!
//! Reads classes, claims and volumes; writes the finalizer `kubernetes.io/vac-protection` of classes. That nobody uses a
//! class is asked of the API server before the finalizer goes. Source: `pkg/controller/volume/vacprotection`.

use crate::Context;
use crate::finalizers::{self, Need};
use ferrokube_client::controller::{self, Next};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Client, Error, ListOptions, Object};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use std::sync::Arc;

const FINALIZER: &str = "kubernetes.io/vac-protection";

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let classes: Cache<VolumeAttributesClass> = context.caches.of();
    let claims: Cache<PersistentVolumeClaim> = context.caches.of();
    let volumes: Cache<PersistentVolume> = context.caches.of();
    let queue: Queue<Arc<str>> = context.queue("vacprotection");
    let add = queue.clone();
    classes.on_change(move |d| {
        if d.new.is_some() {
            add.add(d.key().name.clone());
        }
    });
    let by_claim = claims.index(|o| keys(o, claim_classes));
    let by_volume = volumes.index(|o| keys(o, volume_classes));
    // A class may be let go when a user stops naming it: only what was named before matters.
    let add = queue.clone();
    claims.on_change(move |d| {
        d.old.iter().flat_map(|o| keys(o, claim_classes)).for_each(|c| add.add(c.into()));
    });
    let add = queue.clone();
    volumes.on_change(move |d| {
        d.old.iter().flat_map(|o| keys(o, volume_classes)).for_each(|c| add.add(c.into()));
    });
    tokio::join!(classes.synced(), claims.synced(), volumes.synced());
    let reconcile = |name: Arc<str>| {
        let (context, classes, by_claim, by_volume) = (&context, &classes, &by_claim, &by_volume);
        async move {
            let Some(class) = classes.get("", &name) else { return Ok(Next::Wait) };
            match finalizers::need(&class, FINALIZER) {
                Need::Nothing => {}
                Need::Add => finalizers::add(&context.client, class, FINALIZER).await?,
                Need::RemoveUnlessUsed => {
                    let cached = !by_claim.get(&name).is_empty() || !by_volume.get(&name).is_empty();
                    if !cached && !named_now(&context.client, &name).await? {
                        finalizers::remove(&context.client, class, FINALIZER).await?;
                    }
                }
            }
            Ok(Next::Wait)
        }
    };
    controller::run::<_, Error, _, _>("vac-protection", queue, 1, reconcile).await;
}

fn keys<R: ferrokube_client::Resource>(object: &Object, of: fn(&R) -> Vec<String>) -> Vec<String> {
    if !object.mentions(b"olumeAttributesClassName\"") {
        return Vec::new();
    }
    ferrokube_client::cache::decoded::<R>(object).map(|r| of(&r)).unwrap_or_default()
}

async fn named_now(client: &Client, class: &str) -> Result<bool, Error> {
    let claims: Vec<PersistentVolumeClaim> = client.list("", &ListOptions::default()).await?;
    if claims.iter().flat_map(claim_classes).any(|c| c == class) {
        return Ok(true);
    }
    let volumes: Vec<PersistentVolume> = client.list("", &ListOptions::default()).await?;
    Ok(volumes.iter().flat_map(volume_classes).any(|c| c == class))
}

/// The class a claim asks for, has, and is on its way to.
fn claim_classes(claim: &PersistentVolumeClaim) -> Vec<String> {
    let wanted = claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.clone());
    let current = claim.status.as_ref().and_then(|s| s.current_volume_attributes_class_name.clone());
    let target = claim.status.as_ref().and_then(|s| s.modify_volume_status.as_ref()?.target_volume_attributes_class_name.clone());
    [wanted, current, target].into_iter().flatten().filter(|c| !c.is_empty()).collect()
}

fn volume_classes(volume: &PersistentVolume) -> Vec<String> {
    volume.spec.iter().filter_map(|s| s.volume_attributes_class_name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_names_the_class_it_wants_has_and_moves_to() {
        let claim = json!({"metadata": {}, "spec": {"volumeAttributesClassName": "gold"}, "status": {
            "currentVolumeAttributesClassName": "silver", "modifyVolumeStatus": {"status": "Pending", "targetVolumeAttributesClassName": "bronze"}}});
        assert_eq!(claim_classes(&serde_json::from_value(claim).unwrap()), ["gold", "silver", "bronze"]);
        assert!(claim_classes(&PersistentVolumeClaim::default()).is_empty());
    }
}
