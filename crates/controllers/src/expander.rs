//! Expansion of claims: who grows a volume is told, nobody else does it.
//!
//! Reads claims and volumes; writes events, and on claims whose plugin is gone the name of the driver that grows them. No plugin
//! of 1.36 can expand a volume itself: CSI volumes are grown by their external resizer, which watches claims too, and other kinds
//! cannot grow. Source: `pkg/controller/volume/expand`.

use crate::Context;
use crate::persistent_volume::matching::{annotation, requested};
use crate::persistent_volume::migration::{driver_of, plugin_of};
use ferrokube_api::quantity::Quantity;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::events::EventType;
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Error, Named, ObjectKey, Optional, Patch};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use serde_json::json;

const WORKERS: usize = 10;
/// Who grows the volume of a claim.
const RESIZER: &str = "volume.kubernetes.io/storage-resizer";

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let claims: Cache<PersistentVolumeClaim> = context.caches.of();
    let volumes: Cache<PersistentVolume> = context.caches.of();
    let queue: Queue<ObjectKey> = context.queue("volume_expand");
    let add = queue.clone();
    claims.on_change(move |d| {
        let (Some(old), Some(new)) = (d.old, d.new) else {
            return if d.new.is_some() {
                add.add(d.key().clone())
            };
        };
        let size = |o| ferrokube_client::cache::decoded::<PersistentVolumeClaim>(o).map(|c| requested(&c));
        if size(new) > size(old) {
            add.add(d.key().clone());
        }
    });
    tokio::join!(claims.synced(), volumes.synced());
    let reconcile = |key: ObjectKey| {
        let (context, claims, volumes) = (&context, &claims, &volumes);
        async move {
            let Some(claim) = claims.get(&key.namespace, &key.name) else { return Ok(Next::Wait) };
            let volume = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).and_then(|v| volumes.get("", v));
            let Some(step) = plan(&claim, volume.as_ref()) else { return Ok(Next::Wait) };
            context.recorder.about(&claim, step.kind, "ExternalExpanding", step.message);
            if let Some(driver) = step.resizer.filter(|driver| annotation(&claim.metadata, RESIZER) != *driver) {
                let patch = Patch::Merge(json!({"metadata": {"annotations": {RESIZER: driver}}}));
                context.client.patch_status::<PersistentVolumeClaim>(claim.namespace(), claim.name(), &patch).await.optional()?;
            }
            Ok(Next::Wait)
        }
    };
    controller::run::<_, Error, _, _>("persistentvolume-expander", queue, WORKERS, reconcile).await;
}

/// What is done about a claim that wants to grow.
#[derive(Debug, PartialEq)]
struct Step {
    kind: EventType,
    message: String,
    /// The driver that has taken over from the volume's plugin.
    resizer: Option<&'static str>,
}

/// What is done about a bound claim that asks for more than it has.
fn plan(claim: &PersistentVolumeClaim, volume: Option<&PersistentVolume>) -> Option<Step> {
    let status = claim.status.as_ref().filter(|s| s.phase.as_deref() == Some("Bound"))?;
    let has = status.capacity.as_ref().and_then(|c| c.get("storage")).and_then(|q| Quantity::parse(&q.0).ok()).unwrap_or_default();
    let source = volume?.spec.as_ref()?;
    if requested(claim) <= has {
        return None;
    }
    if let Some(plugin) = plugin_of(source) {
        let message = format!("CSI migration enabled for {plugin}; waiting for external resizer to expand the pvc");
        return Some(Step { kind: EventType::Normal, message, resizer: driver_of(plugin) });
    }
    let kind = if source.csi.is_some() { EventType::Normal } else { EventType::Warning };
    Some(Step { kind, message: "waiting for an external controller to expand this PVC".into(), resizer: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_bound_claim_that_asks_for_more_is_told_about() {
        let (normal, warning) = (Some((EventType::Normal, None)), Some((EventType::Warning, None)));
        let disk = json!({"awsElasticBlockStore": {"volumeID": "v"}});
        let csi = json!({"csi": {"driver": "d", "volumeHandle": "h"}});
        let cases = [
            ("Bound", "2Gi", csi.clone(), normal),
            ("Bound", "2Gi", json!({"hostPath": {"path": "/x"}}), warning),
            ("Bound", "2Gi", disk, Some((EventType::Normal, Some("ebs.csi.aws.com")))),
            ("Bound", "1Gi", csi.clone(), None),
            ("Pending", "2Gi", csi, None),
        ];
        for (phase, wants, source, expected) in cases {
            let claim = serde_json::from_value(json!({"metadata": {}, "spec": {"resources": {"requests": {"storage": wants}}},
                "status": {"phase": phase, "capacity": {"storage": "1Gi"}}}))
            .unwrap();
            let volume = serde_json::from_value(json!({"metadata": {}, "spec": source})).unwrap();
            let step = plan(&claim, Some(&volume)).map(|s| (s.kind, s.resizer));
            assert_eq!(step, expected, "{phase} {wants} {source}");
        }
    }
}
