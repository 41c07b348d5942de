//! PersistentVolume protection: a volume that is bound outlives its deletion until its claim is gone.
//!
//! Reads volumes; writes their finalizer `kubernetes.io/pv-protection`. Source: `pkg/controller/volume/pvprotection`.

use crate::Context;
use crate::finalizers::{self, Need};
use ferrokube_client::controller::{self, Next};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Error};
use k8s_openapi::api::core::v1::PersistentVolume;
use std::sync::Arc;

const FINALIZER: &str = "kubernetes.io/pv-protection";

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let volumes: Cache<PersistentVolume> = context.caches.of();
    let queue: Queue<Arc<str>> = context.queue("pvprotection");
    let add = queue.clone();
    volumes.on_change(move |d| {
        if d.new.is_some() {
            add.add(d.key().name.clone());
        }
    });
    volumes.synced().await;
    let reconcile = |name: Arc<str>| {
        let (context, volumes) = (&context, &volumes);
        async move {
            let Some(volume) = volumes.get("", &name) else { return Ok(Next::Wait) };
            let bound = volume.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Bound"));
            match finalizers::need(&volume, FINALIZER) {
                Need::Add => finalizers::add(&context.client, volume, FINALIZER).await?,
                Need::RemoveUnlessUsed if !bound => finalizers::remove(&context.client, volume, FINALIZER).await?,
                Need::Nothing | Need::RemoveUnlessUsed => {}
            }
            Ok(Next::Wait)
        }
    };
    controller::run::<_, Error, _, _>("pv-protection", queue, 1, reconcile).await;
}
