//! Node health: a node whose lease is not renewed becomes Unknown, its conditions become taints, and its pods unready.
//!
//! Reads nodes, their leases and pods; writes conditions and taints of nodes and the Ready condition of pods. It evicts
//! nobody: `taint_eviction` does. Source: `pkg/controller/nodelifecycle`.

mod plan;

use crate::Context;
use crate::nodes::condition;
use crate::pods;
use ferrokube_client::cache::decoded;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::events::EventType;
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Error, Index, Named, Optional, Patch, Selection};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use parking_lot::Mutex;
use plan::{GRACE, NOT_READY, STARTUP_GRACE, UNREACHABLE};
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Where kubelets renew their leases.
const LEASES: &str = "kube-node-lease";
/// Time between two evictions in a healthy zone (`--node-eviction-rate` 0.1 per second).
const EVICTION_PAUSE: Duration = Duration::from_secs(10);

/// When a node last gave a sign of life, by this process's own clock: clocks of nodes may be wrong.
struct Sign {
    lease: Option<String>,
    heartbeat: Option<String>,
    at: Instant,
}

struct Lifecycle {
    context: Context,
    nodes: Cache<Node>,
    leases: Cache<Lease>,
    pods_by_node: Arc<Index>,
    signs: Mutex<HashMap<String, Sign>>,
    /// Evictions of a node at a time.
    next_eviction: Mutex<Option<Instant>>,
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue: Queue<String> = context.queue("node_lifecycle_controller");
    let nodes: Cache<Node> = context.caches.of();
    let leases: Cache<Lease> = context.caches.select(Selection { namespace: LEASES.into(), ..Selection::default() });
    let pods: Cache<Pod> = context.caches.of();
    let pods_by_node = by_node(&pods);
    let add = queue.clone();
    nodes.on_change(move |d| add.add(d.key().name.to_string()));
    let add = queue.clone();
    leases.on_change(move |d| add.add(d.key().name.to_string()));
    tokio::join!(nodes.synced(), leases.synced(), pods.synced());
    let all = Lifecycle { context, nodes, leases, pods_by_node, signs: Mutex::default(), next_eviction: Mutex::default() };
    let reconcile = |name: String| all.reconcile(name);
    controller::run::<_, Error, _, _>("nodelifecycle", queue, 8, reconcile).await;
}

/// Pods by the node they are bound to.
pub(crate) fn by_node(pods: &Cache<Pod>) -> Arc<Index> {
    #[derive(serde::Deserialize)]
    struct Outer {
        #[serde(default)]
        spec: Inner,
    }
    #[derive(Default, serde::Deserialize)]
    struct Inner {
        #[serde(default, rename = "nodeName")]
        node: Option<String>,
    }
    pods.index(|o| o.decode::<Outer>().ok().and_then(|o| o.spec.node).filter(|n| !n.is_empty()).into_iter().collect())
}

impl Lifecycle {
    async fn reconcile(&self, name: String) -> Result<Next, Error> {
        let Some(node) = self.nodes.get("", &name) else {
            self.signs.lock().remove(&name);
            return Ok(Next::Wait);
        };
        let left = self.left(&node);
        let node = if left.is_zero() { self.silence(node).await? } else { node };
        let (node, pause) = self.taint(node).await?;
        if condition(&node, "Ready").is_some_and(|c| c.status != "True") {
            self.unready(&name).await?;
        }
        let look = if left.is_zero() { pause } else { Some(pause.map_or(left, |p| p.min(left))) };
        Ok(look.map_or(Next::Wait, Next::After))
    }

    /// How long the node may still be silent; zero when it has been for too long.
    fn left(&self, node: &Node) -> Duration {
        let lease = self.leases.get(LEASES, node.name()).and_then(|l| l.spec?.renew_time).map(|t| t.0.to_string());
        let ready = condition(node, "Ready");
        let heartbeat = ready.and_then(|c| c.last_heartbeat_time.as_ref()).map(|t| t.0.to_string());
        let grace = if ready.is_none() && lease.is_none() { STARTUP_GRACE } else { GRACE };
        let mut signs = self.signs.lock();
        let known = signs.entry(node.name().to_owned()).or_insert_with(|| Sign {
            lease: lease.clone(),
            heartbeat: heartbeat.clone(),
            at: Instant::now(),
        });
        // A condition that this controller wrote has the old heartbeat: it is no sign of life.
        if known.lease != lease || known.heartbeat != heartbeat {
            *known = Sign { lease, heartbeat, at: Instant::now() };
        }
        grace.saturating_sub(known.at.elapsed())
    }

    async fn silence(&self, node: Node) -> Result<Node, Error> {
        let Some(conditions) = plan::silent(&node, Timestamp::now()) else { return Ok(node) };
        let was_ready = condition(&node, "Ready").is_some_and(|c| c.status == "True");
        let mut changed = node;
        changed.status.get_or_insert_default().conditions = Some(conditions);
        let written = self.context.client.update_status(&changed).await?;
        if was_ready {
            self.tell(&written, "NodeNotReady", format!("Node {} status is now: NodeNotReady", written.name()));
        }
        Ok(written)
    }

    fn tell(&self, node: &Node, reason: &str, message: String) {
        // Events about nodes name the node by its name, as the kubelet does.
        let name = Some(node.name().to_owned());
        let about = ObjectReference {
            kind: Some("Node".into()),
            name: name.clone(),
            uid: node.metadata.uid.clone().or(name),
            api_version: Some("v1".into()),
            ..ObjectReference::default()
        };
        self.context.recorder.event(about, EventType::Normal, reason, message);
    }

    /// Brings the taints in line with the conditions; says when to come back for an eviction that had to wait.
    async fn taint(&self, node: Node) -> Result<(Node, Option<Duration>), Error> {
        let now = Timestamp::now();
        let old = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
        let executes = |list: &[k8s_openapi::api::core::v1::Taint]| {
            list.iter().any(|t| t.effect == "NoExecute" && [NOT_READY, UNREACHABLE].contains(&t.key.as_str()))
        };
        let wanted = plan::taints(&node, true, now);
        let fresh = executes(&wanted) && !executes(&old);
        let wait = if fresh { self.eviction_pause() } else { None };
        let wanted = if wait.is_some() { plan::taints(&node, false, now) } else { wanted };
        if wanted == old {
            return Ok((node, wait));
        }
        let mut changed = node;
        changed.spec.get_or_insert_default().taints = Some(wanted);
        let written = self.context.client.update(&changed).await?;
        Ok((written, wait))
    }

    /// How long the next eviction of a node must wait: one per pause; none while every node of several is silent.
    fn eviction_pause(&self) -> Option<Duration> {
        let nodes = self.nodes.list();
        let silent = nodes.iter().filter(|n| condition(n, "Ready").is_none_or(|c| c.status != "True")).count();
        if nodes.len() > 1 && silent == nodes.len() {
            return Some(EVICTION_PAUSE);
        }
        let now = Instant::now();
        let mut next = self.next_eviction.lock();
        if let Some(at) = next.filter(|at| *at > now) {
            return Some(at - now);
        }
        *next = Some(now + EVICTION_PAUSE);
        None
    }

    /// Pods of a node that is not ready are not ready: services must not send to them.
    async fn unready(&self, node: &str) -> Result<(), Error> {
        for pod in self.pods_by_node.get(node).iter().filter_map(|o| decoded::<Pod>(o)).filter(pods::is_ready) {
            let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": now}]}});
            self.context.client.patch_status::<Pod>(pod.namespace(), pod.name(), &Patch::Strategic(patch)).await.optional()?;
            self.context.recorder.about(&pod, EventType::Warning, "NodeNotReady", "Node is not ready");
        }
        Ok(())
    }
}
