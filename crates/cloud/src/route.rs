//! Routes of the place to the pods of each node.
//!
//! Reads nodes; makes and removes routes, and owns the node condition NetworkUnavailable. Routes to ranges that are not
//! of this cluster's nodes are removed only when they carry its name, which the provider knows.
//! Source: `k8s.io/cloud-provider/controllers/route`.

use crate::Context;
use crate::provider::{Route, Routes};
use ferrokube_client::events::EventType;
use ferrokube_client::metrics::Desc;
use ferrokube_client::{Cache, Error, Named, Optional, Patch};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// `--route-reconciliation-period`.
const PERIOD: Duration = Duration::from_secs(10);
const CONDITION: &str = "NetworkUnavailable";

static SYNCS: Desc = Desc::counter(
    "route_controller_route_sync_total",
    "[ALPHA] A metric counting the amount of times routes have been synced with the cloud provider.",
    &[],
);

/// What the place's routes need.
#[derive(Debug, Default, PartialEq, Eq)]
struct Steps {
    create: Vec<Route>,
    delete: Vec<Route>,
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let nodes: Cache<Node> = context.caches.of();
    nodes.synced().await;
    let provider = context.provider.clone();
    let Some(routes) = provider.routes() else { return };
    let appeared = Arc::new(Notify::new());
    let notify = appeared.clone();
    // A new node waits for nobody's period.
    nodes.on_change(move |d| {
        if d.old.is_none() {
            notify.notify_one();
        }
    });
    let mut ticks = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = appeared.notified() => {}
        }
        if let Err(e) = round(&context, routes, &nodes.list()).await {
            tracing::warn!("routes not reconciled: {e}");
        }
    }
}

fn ranges(node: &Node) -> Vec<String> {
    let spec = node.spec.as_ref();
    let many = spec.and_then(|s| s.pod_cidrs.clone()).unwrap_or_default();
    if many.is_empty() { spec.and_then(|s| s.pod_cidr.clone()).filter(|c| !c.is_empty()).into_iter().collect() } else { many }
}

fn plan(nodes: &[Node], present: &[Route]) -> Steps {
    let route = |node: &Node, range: String| Route { name: String::new(), node: node.name().to_owned(), destination: range };
    let wanted: Vec<Route> = nodes.iter().flat_map(|n| ranges(n).into_iter().map(|r| route(n, r)).collect::<Vec<_>>()).collect();
    let same = |a: &Route, b: &Route| a.node == b.node && a.destination == b.destination;
    Steps {
        create: wanted.iter().filter(|w| !present.iter().any(|p| same(p, w))).cloned().collect(),
        delete: present.iter().filter(|p| !wanted.iter().any(|w| same(p, w))).cloned().collect(),
    }
}

async fn round(context: &Context, routes: &dyn Routes, nodes: &[Node]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    context.metrics.count(&SYNCS, &[]);
    let present = routes.list(&context.cluster_name).await?;
    let steps = plan(nodes, &present);
    for route in &steps.delete {
        if let Err(e) = routes.delete(&context.cluster_name, route).await {
            tracing::warn!(route.name, "route not removed: {e}");
        }
    }
    let mut failed: BTreeSet<&str> = BTreeSet::new();
    let by_name: BTreeMap<&str, &Node> = nodes.iter().map(|n| (n.name(), n)).collect();
    for route in &steps.create {
        let begun = Instant::now();
        let Err(e) = routes.create(&context.cluster_name, route).await else { continue };
        failed.insert(&route.node);
        if let Some(node) = by_name.get(route.node.as_str()) {
            let (hint, took) = (node.uid(), begun.elapsed());
            let message = format!("Could not create route {hint} {} for node {} after {took:?}: {e}", route.destination, route.node);
            context.recorder.about(*node, EventType::Warning, "FailedToCreateRoute", message);
        }
    }
    for node in nodes.iter().filter(|n| !ranges(n).is_empty()) {
        report(context, node, !failed.contains(node.name())).await?;
    }
    Ok(())
}

/// Says on the node whether its pods can be reached.
async fn report(context: &Context, node: &Node, reachable: bool) -> Result<(), Error> {
    let status = if reachable { "False" } else { "True" };
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    if conditions.iter().any(|c| c.type_ == CONDITION && c.status == status) {
        return Ok(());
    }
    let (reason, message) = match reachable {
        true => ("RouteCreated", "RouteController created a route"),
        false => ("NoRouteCreated", "RouteController failed to create a route"),
    };
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = json!({"type": CONDITION, "status": status, "reason": reason, "message": message, "lastTransitionTime": now});
    let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
    context.client.patch_status::<Node>("", node.name(), &patch).await.optional().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_range_of_a_node_has_one_route_and_others_go() {
        let node = |name: &str, spec| serde_json::from_value::<Node>(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
        let nodes = [
            node("a", json!({"podCIDR": "10.0.0.0/24"})),
            node("b", json!({"podCIDRs": ["10.0.1.0/24", "fd00::/64"]})),
            node("c", json!({})),
        ];
        let route = |name: &str, node: &str, to: &str| Route { name: name.into(), node: node.into(), destination: to.into() };
        let present = [route("1", "a", "10.0.0.0/24"), route("2", "gone", "10.0.9.0/24"), route("3", "a", "10.0.1.0/24")];
        let steps = plan(&nodes, &present);
        assert_eq!(steps.create, [route("", "b", "10.0.1.0/24"), route("", "b", "fd00::/64")]);
        assert_eq!(steps.delete, [present[1].clone(), present[2].clone()]);
    }
}
