//! Nodes whose machine is gone go; nodes whose machine is shut down are tainted.
//!
//! Reads nodes; deletes them, and owns their taint `node.cloudprovider.kubernetes.io/shutdown`. Only a node that is not
//! ready is asked about: a kubelet that reports is proof enough.
//! Source: `k8s.io/cloud-provider/controllers/nodelifecycle`.

use crate::Context;
use crate::nodes::{is_ready, taint};
use crate::provider::{Error as ProviderError, Instances};
use ferrokube_client::events::EventType;
use ferrokube_client::{Cache, DeleteOptions, Error, Named, Optional};
use k8s_openapi::api::core::v1::{Node, Taint};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// `--node-monitor-period`.
const PERIOD: Duration = Duration::from_secs(5);
const SHUTDOWN: &str = "node.cloudprovider.kubernetes.io/shutdown";

/// What a node needs.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Delete,
    Taint,
    Untaint,
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let nodes: Cache<Node> = context.caches.of();
    nodes.synced().await;
    let provider = context.provider.clone();
    let Some(instances) = provider.instances() else { return };
    let silent = Arc::new(Notify::new());
    let notify = silent.clone();
    nodes.on_change(move |d| {
        let now = d.new.and_then(|o| ferrokube_client::cache::decoded::<Node>(o));
        if now.is_some_and(|n| !is_ready(&n)) {
            notify.notify_one();
        }
    });
    let mut ticks = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = silent.notified() => {}
        }
        for node in nodes.list() {
            let step = match look(&node, instances).await {
                Ok(step) => step,
                Err(e) => {
                    tracing::warn!(node = node.name(), "whether the instance exists is not known: {e}");
                    continue;
                }
            };
            if let Err(e) = apply(&context, &node, step).await {
                tracing::warn!(node = node.name(), "node not changed: {e}");
            }
        }
    }
}

async fn look(node: &Node, instances: &dyn Instances) -> Result<Step, ProviderError> {
    if is_ready(node) {
        return Ok(plan(node, true, false));
    }
    let exists = instances.exists(node).await?;
    let down = exists && instances.is_shut_down(node).await?;
    Ok(plan(node, exists, down))
}

fn plan(node: &Node, exists: bool, down: bool) -> Step {
    match (exists, down, taint(node, SHUTDOWN).is_some()) {
        (false, ..) => Step::Delete,
        (true, true, false) => Step::Taint,
        (true, false, true) => Step::Untaint,
        _ => Step::Nothing,
    }
}

async fn apply(context: &Context, node: &Node, step: Step) -> Result<(), Error> {
    let mut changed = node.clone();
    let taints = changed.spec.get_or_insert_default().taints.get_or_insert_default();
    match step {
        Step::Nothing => return Ok(()),
        Step::Delete => {
            let message = format!("Deleting node {} because it does not exist in the cloud provider", node.name());
            context.recorder.about(node, EventType::Normal, "DeletingNode", message);
            return context.client.delete::<Node>("", node.name(), &DeleteOptions::of_uid(node.uid())).await.optional().map(drop);
        }
        Step::Taint => taints.push(Taint { key: SHUTDOWN.into(), effect: "NoSchedule".into(), ..Taint::default() }),
        Step::Untaint => taints.retain(|t| t.key != SHUTDOWN),
    }
    context.client.update(&changed).await.optional().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_goes_with_its_machine_and_is_tainted_while_it_is_shut_down() {
        let node = |taints| serde_json::from_value::<Node>(json!({"metadata": {"name": "n"}, "spec": {"taints": taints}})).unwrap();
        let (clean, tainted) = (node(json!([])), node(json!([{"key": SHUTDOWN, "effect": "NoSchedule"}])));
        let cases = [
            (&clean, true, false, Step::Nothing),
            (&clean, true, true, Step::Taint),
            (&tainted, true, true, Step::Nothing),
            (&tainted, true, false, Step::Untaint),
            (&tainted, false, false, Step::Delete),
        ];
        for (node, exists, down, expected) in cases {
            assert_eq!(plan(node, exists, down), expected, "{exists} {down}");
        }
    }
}
