//! Expansion of claims: who grows a volume is told, nobody else does it.
//!
//! Reads claims and volumes; writes events. No plugin of 1.36 can expand a volume itself: CSI volumes are grown by their
//! external resizer, which watches claims too, and other kinds cannot grow. Source: `pkg/controller/volume/expand`.

use crate::Context;
use crate::persistent_volume::matching::requested;
use ferrokube_api::quantity::Quantity;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::events::EventType;
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Error, ObjectKey};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

const WORKERS: usize = 10;

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
            if let Some(kind) = plan(&claim, volume.as_ref()) {
                context.recorder.about(&claim, kind, "ExternalExpanding", "waiting for an external controller to expand this PVC");
            }
            Ok(Next::Wait)
        }
    };
    controller::run::<_, Error, _, _>("persistentvolume-expander", queue, WORKERS, reconcile).await;
}

/// Whether a bound claim asks for more than it has, and whether somebody may give it.
fn plan(claim: &PersistentVolumeClaim, volume: Option<&PersistentVolume>) -> Option<EventType> {
    let status = claim.status.as_ref().filter(|s| s.phase.as_deref() == Some("Bound"))?;
    let has = status.capacity.as_ref().and_then(|c| c.get("storage")).and_then(|q| Quantity::parse(&q.0).ok()).unwrap_or_default();
    let source = volume?.spec.as_ref()?;
    (requested(claim) > has).then(|| if source.csi.is_some() { EventType::Normal } else { EventType::Warning })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_bound_claim_that_asks_for_more_is_told_about() {
        let csi = json!({"csi": {"driver": "d", "volumeHandle": "h"}});
        let cases = [
            ("Bound", "2Gi", csi.clone(), Some(EventType::Normal)),
            ("Bound", "2Gi", json!({"hostPath": {"path": "/x"}}), Some(EventType::Warning)),
            ("Bound", "1Gi", csi.clone(), None),
            ("Pending", "2Gi", csi, None),
        ];
        for (phase, wants, source, expected) in cases {
            let claim = serde_json::from_value(json!({"metadata": {}, "spec": {"resources": {"requests": {"storage": wants}}},
                "status": {"phase": phase, "capacity": {"storage": "1Gi"}}}))
            .unwrap();
            let volume = serde_json::from_value(json!({"metadata": {}, "spec": source})).unwrap();
            assert_eq!(plan(&claim, Some(&volume)), expected, "{phase} {wants} {source}");
        }
    }
}
