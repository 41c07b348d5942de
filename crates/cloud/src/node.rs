//! Nodes as the place knows them: provider ID, addresses, instance type, zone and region.
//!
//! Reads and writes nodes. A kubelet that runs with an external cloud provider taints its node
//! `node.cloudprovider.kubernetes.io/uninitialized`; the taint goes once the node is complete, so that nothing runs on
//! a node nobody knows. Source: `k8s.io/cloud-provider/controllers/node`.

use crate::Context;
use crate::nodes::taint;
use crate::provider::InstanceMetadata;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::events::EventType;
use ferrokube_client::metrics::Desc;
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Error, Named, Optional, Patch};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeAddress};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";
/// The address the kubelet was told to have (`--node-ip`): it stays the node's first.
const PROVIDED_IP: &str = "alpha.kubernetes.io/provided-node-ip";
/// `--node-status-update-frequency`.
const PERIOD: Duration = Duration::from_secs(300);
/// After the place could not be asked.
const RETRY: Duration = Duration::from_secs(5);

/// 1 s, then four times as much each time.
const SECONDS: &[f64] = &[1.0, 4.0, 16.0, 64.0, 256.0, 1024.0];
static UNTAINTED_AFTER: Desc = Desc::histogram(
    "node_controller_cloud_provider_taint_removal_delay_seconds",
    "[ALPHA] Number of seconds after node creation when NodeController removed the cloud-provider taint of a single node.",
    SECONDS,
    &[],
);
static SYNCED_AFTER: Desc = Desc::histogram(
    "node_controller_initial_node_sync_delay_seconds",
    "[ALPHA] Number of seconds after node creation when NodeController finished the initial synchronization of a single node.",
    SECONDS,
    &[],
);

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let nodes: Cache<Node> = context.caches.of();
    let queue: Queue<Arc<str>> = Queue::new();
    let add = queue.clone();
    nodes.on_change(move |d| {
        if d.old.is_none() || d.new.is_some_and(|o| o.mentions(UNINITIALIZED.as_bytes())) {
            add.add(d.key().name.clone());
        }
    });
    nodes.synced().await;
    let reconcile = |name: Arc<str>| {
        let (context, nodes) = (&context, &nodes);
        async move {
            let Some(node) = nodes.get("", &name) else { return Ok(Next::Wait) };
            sync(context, node).await
        }
    };
    controller::run::<_, Error, _, _>("cloud-node", queue, 1, reconcile).await;
}

async fn sync(context: &Context, node: Node) -> Result<Next, Error> {
    let provider = context.provider.clone();
    let Some(instances) = provider.instances() else { return Ok(Next::Wait) };
    let metadata = match instances.metadata(&node).await {
        Ok(metadata) => metadata,
        Err(e) => {
            tracing::warn!(node = node.name(), "the instance of the node is not known: {e}");
            return Ok(Next::After(RETRY));
        }
    };
    let was_new = taint(&node, UNINITIALIZED).is_some();
    if let Some(addresses) = addresses(&node, &metadata.addresses) {
        let patch = Patch::Strategic(json!({"status": {"addresses": replaced(&addresses)}}));
        context.client.patch_status::<Node>("", node.name(), &patch).await.optional()?;
    }
    if let Some(changed) = initialized(&node, &metadata)
        && context.client.update(&changed).await.optional()?.is_some()
        && was_new
    {
        context.recorder.about(&node, EventType::Normal, "Synced", "Node synced successfully");
        // One write does both here.
        let age = node.metadata.creation_timestamp.as_ref().map_or(0.0, |at| Timestamp::now().duration_since(at.0).as_secs_f64().max(0.0));
        [&UNTAINTED_AFTER, &SYNCED_AFTER].iter().for_each(|desc| context.metrics.series(desc, &[]).observe(age));
    }
    Ok(Next::After(PERIOD))
}

/// Strategic merge keeps list entries that are not named: the list is replaced as a whole.
fn replaced(addresses: &[NodeAddress]) -> serde_json::Value {
    let mut list = vec![json!({"$patch": "replace"})];
    list.extend(addresses.iter().map(|a| json!({"type": a.type_, "address": a.address})));
    list.into()
}

/// The node with what the place knows and without the taint; `None` when it is so already.
fn initialized(node: &Node, known: &InstanceMetadata) -> Option<Node> {
    let mut changed = node.clone();
    let spec = changed.spec.get_or_insert_default();
    if spec.provider_id.as_deref().unwrap_or_default().is_empty() && !known.provider_id.is_empty() {
        spec.provider_id = Some(known.provider_id.clone());
    }
    if let Some(taints) = &mut spec.taints {
        taints.retain(|t| t.key != UNINITIALIZED);
    }
    if taint(node, UNINITIALIZED).is_some() {
        changed.metadata.labels.get_or_insert_default().extend(labels(known));
    }
    (changed != *node).then_some(changed)
}

fn labels(known: &InstanceMetadata) -> BTreeMap<String, String> {
    let rows = [
        (["node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type"], &known.instance_type),
        (["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"], &known.zone),
        (["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"], &known.region),
    ];
    let set = rows.into_iter().filter(|(_, value)| !value.is_empty());
    let mut labels: BTreeMap<String, String> = known.labels.clone();
    labels.extend(set.flat_map(|(keys, value)| keys.map(|key| (key.to_owned(), value.clone()))));
    labels
}

/// The addresses to write; `None` when the place knows none, or the node has them. The provided one comes first.
fn addresses(node: &Node, known: &[NodeAddress]) -> Option<Vec<NodeAddress>> {
    if known.is_empty() {
        return None;
    }
    let mut wanted = known.to_vec();
    let provided = node.metadata.annotations.as_ref().and_then(|a| a.get(PROVIDED_IP));
    wanted.sort_by_key(|a| provided != Some(&a.address));
    let current = node.status.as_ref().and_then(|s| s.addresses.as_deref()).unwrap_or_default();
    if !wanted.iter().any(|a| a.type_ == "Hostname") {
        wanted.extend(current.iter().filter(|a| a.type_ == "Hostname").cloned());
    }
    (wanted != current).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(value: serde_json::Value) -> Node {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_new_node_gets_what_the_place_knows_and_loses_its_taint() {
        let known =
            InstanceMetadata { provider_id: "p://1".into(), instance_type: "big".into(), zone: "a".into(), ..InstanceMetadata::default() };
        let new = node(
            json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": UNINITIALIZED, "effect": "NoSchedule"}, {"key": "x", "effect": "NoSchedule"}]}}),
        );
        let made = initialized(&new, &known).unwrap();
        let spec = made.spec.clone().unwrap();
        assert_eq!((spec.provider_id.as_deref(), spec.taints.unwrap().len()), (Some("p://1"), 1));
        let labels = made.metadata.labels.clone().unwrap();
        assert_eq!((labels["node.kubernetes.io/instance-type"].as_str(), labels["topology.kubernetes.io/zone"].as_str()), ("big", "a"));
        assert!(!labels.contains_key("topology.kubernetes.io/region"));
        assert!(initialized(&made, &known).is_none());
    }

    #[test]
    fn the_address_the_kubelet_was_given_comes_first() {
        let address = |kind: &str, ip: &str| NodeAddress { type_: kind.into(), address: ip.into() };
        let known = [address("InternalIP", "10.0.0.1"), address("InternalIP", "10.0.0.2")];
        let n = node(json!({"metadata": {"name": "n", "annotations": {PROVIDED_IP: "10.0.0.2"}},
            "status": {"addresses": [{"type": "Hostname", "address": "n"}]}}));
        let written = addresses(&n, &known).unwrap();
        assert_eq!(written.iter().map(|a| a.address.as_str()).collect::<Vec<_>>(), ["10.0.0.2", "10.0.0.1", "n"]);
        assert!(addresses(&n, &[]).is_none());
    }
}
