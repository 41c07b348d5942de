//! Pod garbage: pods that nobody will ever end or clean up.
//!
//! Reads pods and nodes; deletes pods that are over beyond a threshold, pods of nodes that are gone, pods that terminate
//! without ever having had a node, and terminating pods of nodes that are out of service. Source: `pkg/controller/podgc`.

use crate::Context;
use crate::pods;
use crate::taint_eviction::disrupt;
use ferrokube_client::cache::decoded;
use ferrokube_client::metrics::Desc;
use ferrokube_client::{Cache, Client, DeleteOptions, Error, Named, Object, ObjectKey, Optional};
use k8s_openapi::api::core::v1::{Node, Pod};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Time between two rounds.
const PERIOD: Duration = Duration::from_secs(20);
/// A node must have been gone for this long before its pods are.
const QUARANTINE: Duration = Duration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

static COLLECTED: Desc = Desc::counter(
    "pod_gc_collector_force_delete_pods_total",
    "[ALPHA] Number of pods that are being forcefully deleted since the Pod GC Controller started.",
    &["namespace", "reason"],
);
static FAILED: Desc = Desc::counter(
    "pod_gc_collector_force_delete_pod_errors_total",
    "[ALPHA] Number of errors encountered when forcefully deleting the pods since the Pod GC Controller started.",
    &["namespace", "reason"],
);

/// Why a pod goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Terminated,
    Orphaned,
    Unscheduled,
    OutOfService,
}

impl Why {
    /// As the metrics name it.
    fn reason(self) -> &'static str {
        match self {
            Why::Terminated => "terminated",
            Why::Orphaned => "orphaned",
            Why::Unscheduled => "unscheduled",
            Why::OutOfService => "out-of-service",
        }
    }
}

/// What of a pod decides; pods are many and mostly none of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    key: ObjectKey,
    node: String,
    over: bool,
    evicted: bool,
    deleting: bool,
    created: String,
}

fn facts(object: &Object) -> Option<Facts> {
    #[derive(serde::Deserialize)]
    struct Outline {
        metadata: Meta,
        #[serde(default)]
        spec: Spec,
        #[serde(default)]
        status: Status,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Meta {
        #[serde(default)]
        creation_timestamp: Option<String>,
        #[serde(default)]
        deletion_timestamp: Option<String>,
    }
    #[derive(Default, serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Spec {
        #[serde(default)]
        node_name: Option<String>,
    }
    #[derive(Default, serde::Deserialize)]
    struct Status {
        #[serde(default)]
        phase: Option<String>,
        #[serde(default)]
        reason: Option<String>,
    }
    let outline: Outline = object.decode().ok()?;
    Some(Facts {
        key: object.key.clone(),
        node: outline.spec.node_name.unwrap_or_default(),
        over: matches!(outline.status.phase.as_deref(), Some("Succeeded" | "Failed")),
        evicted: outline.status.reason.as_deref() == Some("Evicted"),
        deleting: outline.metadata.deletion_timestamp.is_some(),
        created: outline.metadata.creation_timestamp.unwrap_or_default(),
    })
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
        let all: Vec<Facts> = pods.objects().iter().filter_map(|o| facts(o)).collect();
        let present = nodes.objects();
        let gone = gone_nodes(&context.client, &all, &present, &mut missing).await;
        for (key, why) in plan(&all, &out_of_service(&present), &gone, context.config.settings.pods.threshold) {
            let Some(pod) = pods.get(&key.namespace, &key.name) else { continue };
            let count = |desc| context.metrics.count(desc, &[pod.namespace(), why.reason()]);
            match remove(&context.client, &pod, why).await {
                Ok(()) => count(&COLLECTED),
                Err(e) => {
                    count(&FAILED);
                    tracing::debug!(pod = pod.name(), "not collected: {e}");
                }
            }
        }
    }
}

/// Nodes that pods name and that have been absent for long enough, as the API server confirms.
async fn gone_nodes(client: &Client, pods: &[Facts], nodes: &[Arc<Object>], missing: &mut HashMap<String, Instant>) -> HashSet<String> {
    let known: HashSet<&str> = nodes.iter().map(|n| &*n.key.name).collect();
    let named: HashSet<String> = pods.iter().map(|p| &p.node).filter(|n| !n.is_empty() && !known.contains(n.as_str())).cloned().collect();
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

/// Nodes that somebody says are out of service, and that are not ready. Mostly there are none, and then none is decoded.
fn out_of_service(nodes: &[Arc<Object>]) -> HashSet<String> {
    let tainted = |n: &Node| n.spec.as_ref().and_then(|s| s.taints.as_ref()).is_some_and(|t| t.iter().any(|t| t.key == OUT_OF_SERVICE));
    let ready = |n: &Node| crate::nodes::condition(n, "Ready").is_some_and(|c| c.status == "True");
    let named = nodes.iter().filter(|o| o.mentions(b"\"node.kubernetes.io/out-of-service\"")).filter_map(|o| decoded::<Node>(o));
    named.filter(|n| tainted(n) && !ready(n)).map(|n| n.name().to_owned()).collect()
}

fn plan(pods: &[Facts], out: &HashSet<String>, gone: &HashSet<String>, threshold: usize) -> Vec<(ObjectKey, Why)> {
    let mut terminated: Vec<&Facts> = pods.iter().filter(|p| p.over && !p.deleting).collect();
    // Those that were evicted first, then the oldest.
    terminated.sort_by_key(|p| (!p.evicted, &p.created, &p.key));
    let surplus = if threshold == 0 { 0 } else { terminated.len().saturating_sub(threshold) };
    let mut list: Vec<(ObjectKey, Why)> = terminated.into_iter().take(surplus).map(|p| (p.key.clone(), Why::Terminated)).collect();
    for pod in pods {
        let why = if pod.node.is_empty() {
            pod.deleting.then_some(Why::Unscheduled)
        } else if gone.contains(&pod.node) {
            Some(Why::Orphaned)
        } else {
            (pod.deleting && out.contains(&pod.node)).then_some(Why::OutOfService)
        };
        list.extend(why.map(|why| (pod.key.clone(), why)));
    }
    list
}

/// Marks a pod that is not over as failed, then deletes it without grace: no kubelet will confirm.
async fn remove(client: &Client, pod: &Pod, why: Why) -> Result<(), Error> {
    let name = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
    tracing::info!(pod = pod.name(), namespace = pod.namespace(), ?why, node = name, "collecting pod");
    if !matches!(pods::phase(pod), "Succeeded" | "Failed") {
        if why == Why::Orphaned {
            disrupt(client, pod, "DeletionByPodGC", "PodGC: node no longer exists", Some("Failed")).await?;
        } else {
            fail(client, pod).await?;
        }
    }
    let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::of_uid(pod.uid()) };
    client.delete::<Pod>(pod.namespace(), pod.name(), &options).await.optional().map(drop)
}

async fn fail(client: &Client, pod: &Pod) -> Result<(), Error> {
    let patch =
        serde_json::json!({"metadata": {"uid": pod.uid()}, "status": {"phase": "Failed", "observedGeneration": pod.metadata.generation}});
    client.patch_status::<Pod>(pod.namespace(), pod.name(), &ferrokube_client::Patch::Strategic(patch)).await.optional().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, node: &str, phase: &str, deleting: bool) -> Facts {
        let at = deleting.then_some("2026-01-01T00:00:00Z");
        let json = json!({"metadata": {"name": name, "deletionTimestamp": at}, "spec": {"containers": [], "nodeName": node}, "status": {"phase": phase}});
        facts(&Object::from_json(json.to_string().into()).unwrap()).unwrap()
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
        let nodes = [json!({"metadata": {"name": "n"}}), broken].map(|n| Arc::new(Object::from_json(n.to_string().into()).unwrap()));
        let found: Vec<(String, Why)> = plan(&pods, &out_of_service(&nodes), &HashSet::from(["lost".to_owned()]), 1)
            .into_iter()
            .map(|(key, why)| (key.name.to_string(), why))
            .collect();
        let expected =
            [("done-1", Why::Terminated), ("orphan", Why::Orphaned), ("never-bound", Why::Unscheduled), ("stuck", Why::OutOfService)];
        assert_eq!(found, expected.map(|(n, w)| (n.to_owned(), w)));
    }
}
