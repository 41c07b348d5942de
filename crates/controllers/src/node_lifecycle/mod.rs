//! Node health: a node whose lease is not renewed becomes Unknown, its conditions become taints, and its pods unready.
//!
//! Reads nodes, their leases and pods; writes conditions, taints and older labels of nodes and the Ready condition of pods.
//! It evicts nobody: `taint_eviction` does; but a taint that evicts comes only when it is the node's turn in its zone. Source: `pkg/controller/nodelifecycle`.

mod plan;
mod signs;
mod zones;

use crate::Context;
use crate::nodes::condition;
use crate::pods;
use ferrokube_client::cache::decoded;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::events::EventType;
use ferrokube_client::metrics::Metrics;
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Error, Index, Named, Object, Optional, Patch, Selection};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use parking_lot::Mutex;
use plan::{Evict, NOT_READY, UNREACHABLE};
use serde_json::json;
use signs::Signs;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use zones::{Fact, Zones};

/// Where kubelets renew their leases.
const LEASES: &str = "kube-node-lease";
/// Nodes with this label say nothing about their zone.
const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";

struct Lifecycle {
    context: Context,
    nodes: Cache<Node>,
    leases: Cache<Lease>,
    pods_by_node: Arc<Index>,
    signs: Arc<Mutex<Signs>>,
    zones: Arc<Mutex<Zones>>,
    /// Nodes that people were told of.
    known: Mutex<HashMap<String, String>>,
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue: Queue<String> = context.queue("node_lifecycle_controller");
    let nodes: Cache<Node> = context.caches.of();
    let leases: Cache<Lease> = context.caches.select(Selection { namespace: LEASES.into(), ..Selection::default() });
    let pods: Cache<Pod> = context.caches.of();
    let pods_by_node = by_node(&pods);
    let rules = context.config.settings.nodes.clone();
    let signs = Arc::new(Mutex::new(Signs::new(rules.grace)));
    let zones = Arc::new(Mutex::new(Zones::new(rules)));
    watch(&nodes, &queue, &zones, &signs, context.metrics.clone());
    let (add, heard) = (queue.clone(), signs.clone());
    leases.on_change(move |d| {
        // A healthy node that goes on being healthy is nothing to look at, and there may be very many of them.
        let name = &d.key().name;
        if !d.new.and_then(|lease| renewed(lease)).is_some_and(|at| heard.lock().renewed(name, at, Instant::now())) {
            add.add(name.to_string());
        }
    });
    tokio::join!(nodes.synced(), leases.synced(), pods.synced());
    let all = Lifecycle { context, nodes, leases, pods_by_node, signs, zones, known: Mutex::default() };
    let reconcile = |name: String| all.reconcile(name);
    controller::run::<_, Error, _, _>("nodelifecycle", queue, 8, reconcile).await;
}

/// Follows the zones. A node that changes may change the pace of its whole zone, or stop or start evictions everywhere.
fn watch(nodes: &Cache<Node>, queue: &Queue<String>, zones: &Arc<Mutex<Zones>>, signs: &Arc<Mutex<Signs>>, metrics: Metrics) {
    let (add, zones, signs) = (queue.clone(), zones.clone(), signs.clone());
    nodes.on_change(move |d| {
        let fact = d.new.and_then(|o| decoded::<Node>(o)).map(|n| fact(&n));
        let mut zones = zones.lock();
        let turn = zones.set(&d.key().name, fact);
        zones.measure(&metrics);
        add.add(d.key().name.to_string());
        turn.zones.iter().flat_map(|zone| zones.silent_in(zone)).for_each(|name| add.add(name));
        if let Some(all_silent) = turn.all_silent {
            if !all_silent {
                // Nobody could be heard: everybody gets the time anew.
                signs.lock().clear();
            }
            zones.names().into_iter().for_each(|name| add.add(name));
        }
    });
}

/// Region and zone of a node in one word, as the metrics show it; empty when it has neither.
pub(crate) fn zone_of(node: &Node) -> String {
    let label = |names: [&str; 2]| {
        let labels = node.metadata.labels.as_ref();
        names.iter().find_map(|n| labels.and_then(|l| l.get(*n))).map_or("", String::as_str)
    };
    let region = label(["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"]);
    let zone = label(["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"]);
    if region.is_empty() && zone.is_empty() { String::new() } else { format!("{region}:\0:{zone}") }
}

fn fact(node: &Node) -> Fact {
    Fact {
        zone: zone_of(node),
        ready: condition(node, "Ready").is_some_and(|c| c.status == "True"),
        counts: !node.metadata.labels.as_ref().is_some_and(|l| l.contains_key(EXCLUDED)),
    }
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
    let node = |o: &Object| o.decode::<Outer>().ok()?.spec.node.filter(|n| !n.is_empty());
    // Most of the pods that wait for a node have no such field at all.
    pods.index(move |o| Some(o).filter(|o| o.mentions(b"\"nodeName\"")).and_then(node).into_iter().collect())
}

/// When a lease was renewed, by the clock of whoever did.
fn renewed(lease: &Arc<Object>) -> Option<Timestamp> {
    #[derive(serde::Deserialize)]
    struct Outer {
        spec: Inner,
    }
    #[derive(serde::Deserialize)]
    struct Inner {
        #[serde(rename = "renewTime")]
        renewed: Option<MicroTime>,
    }
    lease.decode::<Outer>().ok()?.spec.renewed.map(|t| t.0)
}

impl Lifecycle {
    async fn reconcile(&self, name: String) -> Result<Next, Error> {
        let revision = self.nodes.object("", &name).map(|o| o.revision);
        if let Some(left) = revision.and_then(|r| self.signs.lock().calm(&name, r, Instant::now())) {
            return Ok(Next::After(left));
        }
        let Some(node) = self.nodes.get("", &name) else {
            self.signs.lock().forget(&name);
            let uid = self.known.lock().remove(&name);
            if let Some(uid) = uid {
                self.tell(&name, uid, "RemovingNode", format!("Node {name} event: Removing Node {name} from Controller"));
            }
            return Ok(Next::Wait);
        };
        let uid = node.uid().to_owned();
        if self.known.lock().insert(name.clone(), uid.clone()).is_none() {
            self.tell(&name, uid, "RegisteredNode", format!("Node {name} event: Registered Node {name} in Controller"));
        }
        let older = plan::older_labels(&node);
        if !older.is_empty() {
            let patch = Patch::Strategic(json!({"metadata": {"labels": older}}));
            // The change brings the node back.
            return self.context.client.patch::<Node>("", &name, &patch).await.optional().map(|_| Next::Wait);
        }
        let left = self.left(&node);
        let node = if left.is_zero() { self.silence(node).await? } else { node };
        let (node, pause) = self.taint(node).await?;
        if plan::is_unheard(&node) {
            self.unready(&name).await?;
        }
        let ready = condition(&node, "Ready").is_some_and(|c| c.status == "True");
        if let (true, None, false, Some(revision)) = (ready, pause, left.is_zero(), revision) {
            self.signs.lock().set_calm(&name, revision);
        }
        let look = if left.is_zero() { pause } else { Some(pause.map_or(left, |p| p.min(left))) };
        Ok(look.map_or(Next::Wait, Next::After))
    }

    /// How long the node may still be silent; zero when it has been for too long.
    fn left(&self, node: &Node) -> Duration {
        let lease = self.leases.object(LEASES, node.name()).and_then(|l| renewed(&l));
        let (ready, rules) = (condition(node, "Ready"), &self.context.config.settings.nodes);
        let heartbeat = ready.and_then(|c| c.last_heartbeat_time.as_ref()).map(|t| t.0);
        let grace = if ready.is_none() && lease.is_none() { rules.startup_grace } else { rules.grace };
        grace.saturating_sub(self.signs.lock().heard(node.name(), lease, heartbeat, Instant::now()))
    }

    async fn silence(&self, node: Node) -> Result<Node, Error> {
        let Some(conditions) = plan::silent(&node, Timestamp::now()) else { return Ok(node) };
        let was_ready = condition(&node, "Ready").is_some_and(|c| c.status == "True");
        let mut changed = node;
        changed.status.get_or_insert_default().conditions = Some(conditions);
        let written = self.context.client.update_status(&changed).await?;
        if was_ready {
            let message = format!("Node {} status is now: NodeNotReady", written.name());
            self.tell(written.name(), written.uid().to_owned(), "NodeNotReady", message);
        }
        Ok(written)
    }

    fn tell(&self, name: &str, uid: String, reason: &str, message: String) {
        let about = ObjectReference {
            kind: Some("Node".into()),
            name: Some(name.to_owned()),
            uid: Some(uid),
            api_version: Some("v1".into()),
            ..ObjectReference::default()
        };
        self.context.recorder.event(about, EventType::Normal, reason, message);
    }

    /// Brings the taints in line with the conditions; says when to come back for an eviction that had to wait.
    async fn taint(&self, node: Node) -> Result<(Node, Option<Duration>), Error> {
        let now = Timestamp::now();
        let old = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
        let leaving = old.iter().any(|t| t.effect == "NoExecute" && [NOT_READY, UNREACHABLE].contains(&t.key.as_str()));
        let fresh = plan::executed(&node).is_some() && !leaving;
        let zone = zone_of(&node);
        let (evict, wait) = {
            let mut zones = self.zones.lock();
            match fresh.then(|| zones.may_evict(&zone, Instant::now())) {
                _ if zones.all_silent() => (Evict::No, None),
                Some(Err(wait)) => (Evict::Later, wait),
                Some(Ok(())) | None => (Evict::Yes, None),
            }
        };
        let wanted = plan::taints(&node, evict, now);
        if wanted == old {
            return Ok((node, wait));
        }
        let mut changed = node;
        changed.spec.get_or_insert_default().taints = Some(wanted);
        let written = self.context.client.update(&changed).await?;
        if fresh && evict == Evict::Yes {
            self.context.metrics.count(&zones::EVICTIONS, &[&zone]);
        }
        Ok((written, wait))
    }

    /// Pods of a node that is not heard of are not ready: services must not send to them.
    async fn unready(&self, node: &str) -> Result<(), Error> {
        for pod in self.pods_by_node.get(node).iter().filter_map(|o| decoded::<Pod>(o)).filter(pods::is_ready) {
            let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let unready =
                json!({"type": "Ready", "status": "False", "observedGeneration": pod.metadata.generation, "lastTransitionTime": now});
            let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [unready]}});
            self.context.client.patch_status::<Pod>(pod.namespace(), pod.name(), &Patch::Strategic(patch)).await.optional()?;
            self.context.recorder.about(&pod, EventType::Warning, "NodeNotReady", "Node is not ready");
        }
        Ok(())
    }
}
