//! How many volumes are to be attached, are attached, and are used on each node. Counted when it is asked for.

use super::{attaches, volume_of};
use crate::Context;
use crate::persistent_volume::measure::plugin;
use crate::pod_claims::claim_of;
use ferrokube_client::cache::decoded;
use ferrokube_client::metrics::Desc;
use ferrokube_client::{Cache, Index, Named, Object};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

static VOLUMES: Desc =
    Desc::gauge("attachdetach_controller_total_volumes", "[ALPHA] Number of volumes in A/D Controller", &["plugin_name", "state"]);
static USED: Desc =
    Desc::gauge("storage_count_attachable_volumes_in_use", "[ALPHA] Measure number of volumes in use", &["node", "volume_plugin"]);

/// Counts by two labels.
type Counts = BTreeMap<Vec<String>, f64>;

/// Shows them for as long as the controller runs.
pub(super) fn measure(context: &Context, pods: &Arc<Index>, running: &Arc<()>) {
    let (into, pods, running) = (context.metrics.clone(), pods.clone(), Arc::downgrade(running));
    let nodes: Cache<Node> = context.caches.of();
    let claims: Cache<PersistentVolumeClaim> = context.caches.of();
    let volumes: Cache<PersistentVolume> = context.caches.of();
    let drivers: Cache<CSIDriver> = context.caches.of();
    let attachments: Cache<VolumeAttachment> = context.caches.of();
    context.metrics.on_collect(move || {
        let claiming = nodes.objects().into_iter().flat_map(|node| pods.get(&node.key.name));
        let (used, mut states) = wanted(claiming, &claims, &volumes, &drivers);
        for attachment in attachments.list().into_iter().filter(|a| a.status.as_ref().is_some_and(|s| s.attached)) {
            let plugin = format!("kubernetes.io/csi:{}", attachment.spec.attacher);
            *states.entry(vec![plugin, "actual_state_of_world".to_owned()]).or_default() += 1.0;
        }
        into.replace(&VOLUMES, states);
        into.replace(&USED, used);
        running.strong_count() > 0
    });
}

/// Volumes that can be attached: as often as these pods use them by node and plugin, and once for each node by plugin.
fn wanted(
    pods: impl Iterator<Item = Arc<Object>>,
    claims: &Cache<PersistentVolumeClaim>,
    volumes: &Cache<PersistentVolume>,
    drivers: &Cache<CSIDriver>,
) -> (Counts, Counts) {
    let (mut used, mut states) = (Counts::new(), Counts::new());
    let mut seen = BTreeSet::new();
    for pod in pods.filter_map(|o| decoded::<Pod>(&o)) {
        let Some(spec) = &pod.spec else { continue };
        let Some(node) = &spec.node_name else { continue };
        let ended = matches!(crate::pods::phase(&pod), "Succeeded" | "Failed");
        for claim in spec.volumes.iter().flatten().filter_map(|v| claim_of(&pod, v)) {
            let Some(volume) = volume_of(claims, volumes, pod.namespace(), &claim) else { continue };
            let spec = volume.spec.clone().unwrap_or_default();
            if !spec.csi.as_ref().is_some_and(|csi| attaches(drivers, &csi.driver)) {
                continue;
            }
            *used.entry(vec![node.clone(), plugin(&spec)]).or_default() += 1.0;
            if !ended && seen.insert((node.clone(), volume.name().to_owned())) {
                *states.entry(vec![plugin(&spec), "desired_state_of_world".to_owned()]).or_default() += 1.0;
            }
        }
    }
    (used, states)
}
