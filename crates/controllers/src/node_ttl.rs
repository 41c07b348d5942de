//! How long kubelets may keep secrets and config maps before they ask again: the larger the cluster, the longer.
//!
//! Reads nodes; owns their annotation `node.alpha.kubernetes.io/ttl`. Source: `pkg/controller/ttl`.

use crate::Context;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Error, Optional, Patch};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use std::sync::Arc;

const TTL: &str = "node.alpha.kubernetes.io/ttl";

/// Nodes from, nodes to, seconds. The ranges overlap, so that a cluster at a border does not go back and forth.
const STEPS: [(usize, usize, u32); 5] = [(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue: Queue<Arc<str>> = context.queue("ttlcontroller");
    let nodes: Cache<Node> = context.caches.of();
    let add = queue.clone();
    nodes.on_change(move |d| {
        if d.new.is_some() {
            add.add(d.key().name.clone());
        }
    });
    nodes.synced().await;
    let step = parking_lot::Mutex::new(0);
    let reconcile = |name: Arc<str>| {
        let (context, nodes, step) = (&context, &nodes, &step);
        async move {
            let Some(node) = nodes.read("", &name)? else { return Ok(Next::Wait) };
            let wanted = {
                let mut step = step.lock();
                *step = next(*step, nodes.len());
                STEPS[*step].2.to_string()
            };
            if node.metadata.annotations.as_ref().and_then(|a| a.get(TTL)) != Some(&wanted) {
                let patch = Patch::Strategic(json!({"metadata": {"annotations": {TTL: wanted}}}));
                context.client.patch::<Node>("", &name, &patch).await.optional()?;
            }
            Ok(Next::Wait)
        }
    };
    controller::run::<_, Error, _, _>("ttl", queue, 5, reconcile).await;
}

/// The step of a cluster of this size that was at `step` before.
fn next(mut step: usize, nodes: usize) -> usize {
    while nodes > STEPS[step].1 {
        step += 1;
    }
    while nodes < STEPS[step].0 {
        step -= 1;
    }
    step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_grows_with_the_cluster_and_does_not_flicker_at_a_border() {
        let cases = [(0, 1, 0), (0, 100, 0), (0, 101, 1), (1, 95, 1), (1, 89, 0), (0, 3000, 4), (4, 1800, 4), (4, 1799, 3), (4, 10, 0)];
        for (before, nodes, expected) in cases {
            assert_eq!(next(before, nodes), expected, "{nodes} nodes after step {before}");
        }
    }
}
