//! PersistentVolumeClaim protection: a claim that a scheduled pod uses outlives its deletion until the pod is gone.
//!
//! Reads claims and pods; writes the finalizer `kubernetes.io/pvc-protection` of claims. It must never take the finalizer
//! on the word of a cache alone: that no pod uses the claim is asked of the API server before.
//! Source: `pkg/controller/volume/pvcprotection`.

use crate::Context;
use crate::finalizers::{self, Need};
use crate::pod_claims::{self, ephemeral_name, is_for_pod};
use ferrokube_client::cache::decoded;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Error, Index, ListOptions, Named, Object, ObjectKey};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use std::sync::Arc;

const FINALIZER: &str = "kubernetes.io/pvc-protection";

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let claims: Cache<PersistentVolumeClaim> = context.caches.of();
    let pods: Cache<Pod> = context.caches.of();
    let queue: Queue<ObjectKey> = context.queue("pvcprotection");
    let users = pods.index(pod_claims::index_keys);
    let add = queue.clone();
    claims.on_change(move |d| {
        if d.new.is_some() {
            add.add(d.key().clone());
        }
    });
    let add = queue.clone();
    pods.on_change(move |d| pod_claims::index_keys(d.latest()).iter().filter_map(|k| key_of(k)).for_each(|k| add.add(k)));
    tokio::join!(claims.synced(), pods.synced());
    let reconcile = |key: ObjectKey| {
        let (context, claims, users) = (&context, &claims, &users);
        async move {
            let Some(claim) = claims.get(&key.namespace, &key.name) else { return Ok(Next::Wait) };
            match finalizers::need(&claim, FINALIZER) {
                Need::Nothing => {}
                Need::Add => finalizers::add(&context.client, claim, FINALIZER).await?,
                Need::RemoveUnlessUsed if used(context, &claim, users).await? => {}
                Need::RemoveUnlessUsed => finalizers::remove(&context.client, claim, FINALIZER).await?,
            }
            Ok(Next::Wait)
        }
    };
    controller::run::<_, Error, _, _>("pvc-protection", queue, 2, reconcile).await;
}

fn key_of(text: &str) -> Option<ObjectKey> {
    text.split_once('/').map(|(namespace, name)| ObjectKey::new(namespace, name))
}

async fn used(context: &Context, claim: &PersistentVolumeClaim, users: &Arc<Index>) -> Result<bool, Error> {
    let known: Vec<Arc<Object>> = users.get(&format!("{}/{}", claim.namespace(), claim.name()));
    if known.iter().filter_map(|o| decoded::<Pod>(o)).any(|p| uses(&p, claim)) {
        return Ok(true);
    }
    let pods: Vec<Pod> = context.client.list(claim.namespace(), &ListOptions::default()).await?;
    Ok(pods.iter().any(|p| uses(p, claim)))
}

/// A pod uses a claim once it has a node: the kubelet starts no pod whose claim is being deleted.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let Some(spec) = pod.spec.as_ref().filter(|s| s.node_name.as_ref().is_some_and(|n| !n.is_empty())) else { return false };
    let shut_down = pod.metadata.deletion_timestamp.is_some() && pod.metadata.deletion_grace_period_seconds == Some(0);
    spec.volumes.iter().flatten().any(|volume| {
        let named = volume.persistent_volume_claim.as_ref().is_some_and(|c| c.claim_name == claim.name());
        let own = volume.ephemeral.is_some() && ephemeral_name(pod.name(), &volume.name) == claim.name() && is_for_pod(claim, pod);
        named || (own && !shut_down)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_pods_with_a_node_use_a_claim() {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": {"name": "p-v", "namespace": "n",
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]}}))
        .unwrap();
        let named = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "p-v"}}]);
        let own = json!([{"name": "v", "ephemeral": {}}]);
        let ending = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0});
        let cases = [
            ("node", &named, json!({}), "u", true),
            ("", &named, json!({}), "u", false),
            ("node", &named, ending.clone(), "u", true),
            ("node", &own, json!({}), "u", true),
            ("node", &own, json!({}), "other", false),
            ("node", &own, ending, "u", false),
        ];
        for (node, volumes, mut metadata, uid, expected) in cases {
            metadata["name"] = "p".into();
            metadata["namespace"] = "n".into();
            metadata["uid"] = uid.into();
            let pod = json!({"metadata": metadata, "spec": {"nodeName": node, "containers": [], "volumes": volumes}});
            assert_eq!(uses(&serde_json::from_value(pod.clone()).unwrap(), &claim), expected, "{pod}");
        }
    }
}
