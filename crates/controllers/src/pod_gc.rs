//! Pod garbage: pods that nobody will ever end or clean up.
//!
//! Reads pods and nodes; deletes pods that are over beyond a threshold, pods of nodes that are gone, pods that terminate
//! without ever having had a node, and terminating pods of nodes that are out of service. Source: `pkg/controller/podgc`.

use crate::Context;
use crate::pods;
use crate::taint_eviction::disrupt;
use ferrokube_client::{Cache, Client, DeleteOptions, Error, Named, Optional};
use k8s_openapi::api::core::v1::{Node, Pod};
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio::time::Instant;

/// Time between two rounds.
const PERIOD: Duration = Duration::from_secs(20);
/// A node must have been gone for this long before its pods are.
const QUARANTINE: Duration = Duration::from_secs(40);
/// `--terminated-pod-gc-threshold`.
const THRESHOLD: usize = 12500;
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Why a pod goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Terminated,
    Orphaned,
    Unscheduled,
    OutOfService,
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let pods: Cache<Pod> = context.caches.of();
    let nodes: Cache<Node> = context.caches.of();
    tokio::join!(pods.synced(), nodes.synced());
    let mut missing: HashMap<String, Instant> = HashMap::new();
    let mut ticks = tokio::time::interval(PERIOD);
    loop {
        ticks.tick().await;
        // Most rounds find nothing, and nothing but pods that bear a sign of their end is worth decoding.
        let all: Vec<Pod> = pods.list();
        let present = nodes.list();
        let gone = gone_nodes(&context.client, &all, &present, &mut missing).await;
        for (pod, why) in plan(&all, &present, &gone, THRESHOLD) {
            if let Err(e) = remove(&context.client, &pod, why).await {
                tracing::debug!(pod = pod.name(), "not collected: {e}");
            }
        }
    }
}

/// Nodes that pods name and that have been absent for long enough, as the API server confirms.
async fn gone_nodes(client: &Client, pods: &[Pod], nodes: &[Node], missing: &mut HashMap<String, Instant>) -> HashSet<String> {
    let known: HashSet<&str> = nodes.iter().map(Named::name).collect();
    let named: HashSet<String> = pods.iter().filter_map(|p| p.spec.as_ref()?.node_name.clone()).filter(|n| !n.is_empty() && !known.contains(n.as_str())).collect();
    missing.retain(|name, _| named.contains(name));
    let mut gone = HashSet::new();
    for name in named {
        let since = *missing.entry(name.clone()).or_insert_with(Instant::now);
        if since.elapsed() >= QUARANTINE && matches!(client.get::<Node>("", &name).await.optional(), Ok(None)) {
            gone.insert(name);
        }
    }
    gone
}

fn plan(pods: &[Pod], nodes: &[Node], gone: &HashSet<String>, threshold: usize) -> Vec<(Pod, Why)> {
    let node = |p: &Pod| p.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
    let over = |p: &Pod| matches!(pods::phase(p), "Succeeded" | "Failed");
    let deleting = |p: &Pod| p.metadata.deletion_timestamp.is_some();
    let tainted = |n: &&Node| n.spec.as_ref().and_then(|s| s.taints.as_ref()).is_some_and(|t| t.iter().any(|t| t.key == OUT_OF_SERVICE));
    let ready = |n: &Node| crate::nodes::condition(n, "Ready").is_some_and(|c| c.status == "True");
    let out: HashSet<&str> = nodes.iter().filter(tainted).filter(|n| !ready(n)).map(Named::name).collect();
    let mut terminated: Vec<&Pod> = pods.iter().filter(|p| over(p) && !deleting(p)).collect();
    terminated.sort_by_key(|p| (p.metadata.creation_timestamp.clone(), p.name().to_owned()));
    let surplus = terminated.len().saturating_sub(threshold);
    let mut list: Vec<(Pod, Why)> = terminated.into_iter().take(surplus).map(|p| (p.clone(), Why::Terminated)).collect();
    for pod in pods {
        let name = node(pod);
        let why = if name.is_empty() {
            deleting(pod).then_some(Why::Unscheduled)
        } else if gone.contains(&name) {
            Some(Why::Orphaned)
        } else {
            (deleting(pod) && out.contains(name.as_str())).then_some(Why::OutOfService)
        };
        list.extend(why.map(|why| (pod.clone(), why)));
    }
    list
}

/// Marks a pod that is not over as failed, then deletes it without grace: no kubelet will confirm.
async fn remove(client: &Client, pod: &Pod, why: Why) -> Result<(), Error> {
    let name = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
    tracing::info!(pod = pod.name(), namespace = pod.namespace(), ?why, node = name, "collecting pod");
    if !matches!(pods::phase(pod), "Succeeded" | "Failed") {
        let message = match why {
            Why::Orphaned => "PodGC: node no longer exists",
            Why::OutOfService => "PodGC: node is out of service",
            Why::Unscheduled | Why::Terminated => "PodGC: pod was terminated without a node",
        };
        if why == Why::Orphaned {
            disrupt(client, pod, "DeletionByPodGC", message, Some("Failed")).await?;
        } else {
            fail(client, pod).await?;
        }
    }
    let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::of_uid(pod.uid()) };
    client.delete::<Pod>(pod.namespace(), pod.name(), &options).await.optional().map(drop)
}

async fn fail(client: &Client, pod: &Pod) -> Result<(), Error> {
    let patch = serde_json::json!({"metadata": {"uid": pod.uid()}, "status": {"phase": "Failed"}});
    client.patch_status::<Pod>(pod.namespace(), pod.name(), &ferrokube_client::Patch::Strategic(patch)).await.optional().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, node: &str, phase: &str, deleting: bool) -> Pod {
        let at = deleting.then_some("2026-01-01T00:00:00Z");
        serde_json::from_value(json!({"metadata": {"name": name, "deletionTimestamp": at}, "spec": {"containers": [], "nodeName": node}, "status": {"phase": phase}})).unwrap()
    }

    #[test]
    fn only_pods_that_nobody_else_will_end_are_collected() {
        let pods = [
            pod("runs", "n", "Running", false),
            pod("terminating", "n", "Running", true),
            pod("orphan", "lost", "Running", false),
            pod("never-bound", "", "Pending", true),
            pod("waiting", "", "Pending", false),
            pod("stuck", "broken", "Running", true),
            pod("done-1", "n", "Succeeded", false),
            pod("done-2", "n", "Succeeded", false),
        ];
        let broken = json!({"metadata": {"name": "broken"}, "spec": {"taints": [{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]}});
        let nodes: Vec<Node> = vec![serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap(), serde_json::from_value(broken).unwrap()];
        let found: Vec<(String, Why)> = plan(&pods, &nodes, &HashSet::from(["lost".to_owned()]), 1).into_iter().map(|(p, why)| (p.name().to_owned(), why)).collect();
        let expected = [("done-1", Why::Terminated), ("orphan", Why::Orphaned), ("never-bound", Why::Unscheduled), ("stuck", Why::OutOfService)];
        assert_eq!(found, expected.map(|(n, w)| (n.to_owned(), w)));
    }
}
