//! Attach and detach of CSI volumes: a VolumeAttachment for each volume that pods of a node use.
//!
//! Reads pods, claims, volumes, CSI drivers and nodes; owns VolumeAttachments of persistent volumes and
//! `status.volumesAttached` of nodes. External attachers do what a VolumeAttachment asks for. A volume that a node has
//! mounted is never detached, unless the node is out of service, or has been unhealthy for six minutes; and the node is
//! told before. Source: `pkg/controller/volume/attachdetach`.

mod measure;
mod news;
mod plan;

use crate::latest::Latest;
use crate::persistent_volume::matching::{annotation, is_bound_to};
use crate::pod_claims::{self, claim_of};
use crate::{Context, nodes, pods};
use ferrokube_client::cache::{decoded, readable};
use ferrokube_client::controller::{self, Next};
use ferrokube_client::events::EventType;
use ferrokube_client::metrics::{Desc, Kind};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, DeleteOptions, Error, Index, Named, Object, Optional, Patch};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use news::{News, Told};
use parking_lot::Mutex;
use plan::{Attachment, NodeFacts, Steps, Wanted, attachment_name, plan, unique_name};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long an unhealthy node may take to unmount (`maxWaitForUnmountDuration`).
const FORCE_AFTER: Duration = Duration::from_secs(360);
/// How often a node with something to wait for is looked at again.
const AGAIN: Duration = Duration::from_secs(10);
const WORKERS: usize = 4;
/// The kubelet leaves attaching to this controller.
const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

static FORCED: Desc = Desc {
    name: "attachdetach_controller_forced_detaches",
    help: "[ALPHA] Number of times the A/D Controller performed a forced detach",
    kind: Kind::Counter,
    labels: &["reason"],
};
/// A wanted volume and the pods that use it.
type Users = (Wanted, Vec<Pod>);

struct Attacher {
    context: Context,
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    drivers: Cache<CSIDriver>,
    nodes: Cache<Node>,
    attachments: Cache<VolumeAttachment>,
    /// Own attachments that the cache may not show yet: without them an exclusive volume would be given to two nodes.
    written: Arc<Latest<VolumeAttachment>>,
    /// Exclusive volumes that are being given to a node right now.
    taking: Mutex<HashMap<String, String>>,
    /// Pods with claims by node.
    pods: Arc<Index>,
    by_node: Arc<Index>,
    by_volume: Arc<Index>,
    /// Nodes with a volume that is still attached elsewhere.
    refused: Arc<Mutex<HashSet<String>>>,
    /// Since when a node has had volumes mounted that it should not have.
    overdue: Mutex<HashMap<String, Instant>>,
    /// What people were told, by node and volume.
    told: Mutex<HashMap<String, HashMap<String, Told>>>,
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue: Queue<String> = context.queue("node_attachments");
    let (attacher, pods) = Attacher::new(context, &queue);
    let a = &attacher;
    tokio::join!(pods.synced(), a.claims.synced(), a.volumes.synced(), a.drivers.synced(), a.nodes.synced(), a.attachments.synced());
    let running = Arc::new(());
    measure::measure(&a.context, &a.pods, &running);
    controller::run::<_, Error, _, _>("attachdetach", queue, WORKERS, |node: String| a.sync(node)).await;
}

impl Attacher {
    fn new(context: Context, queue: &Queue<String>) -> (Self, Cache<Pod>) {
        let pods: Cache<Pod> = context.caches.of();
        let claims: Cache<PersistentVolumeClaim> = context.caches.of();
        let nodes: Cache<Node> = context.caches.of();
        let attachments: Cache<VolumeAttachment> = context.caches.of();
        let by_pod_node = pods.index(|o| claiming_node(o).into_iter().collect());
        let users = pods.index(pod_claims::index_keys);
        let by_node = attachments.index(|o| decoded::<VolumeAttachment>(o).map(|a| a.spec.node_name).into_iter().collect());
        let by_volume =
            attachments.index(|o| decoded::<VolumeAttachment>(o).and_then(|a| a.spec.source.persistent_volume_name).into_iter().collect());
        let refused: Arc<Mutex<HashSet<String>>> = Arc::default();
        let add = queue.clone();
        pods.on_change(move |d| [d.old, d.new].into_iter().flatten().filter_map(|o| claiming_node(o)).for_each(|n| add.add(n)));
        let add = queue.clone();
        claims.on_change(move |d| users.get(&d.key().to_string()).iter().filter_map(|o| claiming_node(o)).for_each(|n| add.add(n)));
        let written: Arc<Latest<VolumeAttachment>> = Arc::default();
        let (add, blocked, gone) = (queue.clone(), refused.clone(), written.clone());
        attachments.on_change(move |d| {
            decoded::<VolumeAttachment>(d.latest()).into_iter().for_each(|a| add.add(a.spec.node_name));
            if d.new.is_none() {
                gone.forget(&d.latest().uid);
                blocked.lock().drain().for_each(|node| add.add(node));
            }
        });
        let (add, here, using) = (queue.clone(), by_node.clone(), by_pod_node.clone());
        nodes.on_change(move |d| {
            let name = &d.key().name;
            if !here.get(name).is_empty() || !using.get(name).is_empty() {
                add.add(name.to_string());
            }
        });
        let (volumes, drivers) = (context.caches.of(), context.caches.of());
        let (overdue, told) = (Mutex::default(), Mutex::default());
        let pods_by_node = by_pod_node;
        let attacher = Attacher {
            context,
            claims,
            volumes,
            drivers,
            nodes,
            attachments,
            written,
            taking: Mutex::default(),
            pods: pods_by_node,
            by_node,
            by_volume,
            refused,
            overdue,
            told,
        };
        (attacher, pods)
    }

    async fn sync(&self, name: String) -> Result<Next, Error> {
        let node = self.nodes.get("", &name);
        let (wanted, unresolved) = self.wanted(&name)?;
        let here = self.on_node(&name);
        let elsewhere: Vec<Attachment> = wanted.keys().flat_map(|v| self.of_volume(v)).filter_map(|a| self.view(&a)).collect();
        let views: Vec<Attachment> = here.iter().filter_map(|a| self.view(a)).collect();
        let volumes: Vec<Wanted> = wanted.values().map(|(w, _)| w.clone()).collect();
        let facts = self.facts(&name, node.as_ref());
        let mut steps = plan(&name, &facts, &volumes, &views, &elsewhere);
        self.note_waiting(&name, &steps);
        let pending = self.tell(&name, node.as_ref(), &wanted, &here, &steps);
        let mounted = in_use(self.report(&name, node.as_ref(), &steps).await?.as_ref());
        let planned = steps.detach.len();
        // Before it was told that they go, the node may have mounted them without the cache knowing.
        let free = |name: &String| facts.given_up || views.iter().all(|v| v.name != *name || !mounted.contains(&v.unique));
        steps.detach.retain(free);
        let held = steps.detach.len() < planned;
        let disputed = self.apply(&name, node.as_ref(), &steps).await?;
        let again = unresolved || pending || held || disputed || !steps.waiting.is_empty() || !steps.refused.is_empty();
        Ok(if again { Next::After(AGAIN) } else { Next::Wait })
    }

    fn on_node(&self, node: &str) -> Vec<VolumeAttachment> {
        let cached = self.by_node.get(node);
        self.written.complete(cached.iter().filter_map(|o| decoded(o)), |a| a.spec.node_name == node)
    }

    fn of_volume(&self, volume: &str) -> Vec<VolumeAttachment> {
        let cached = self.by_volume.get(volume);
        let is_its = |a: &VolumeAttachment| a.spec.source.persistent_volume_name.as_deref() == Some(volume);
        self.written.complete(cached.iter().filter_map(|o| decoded(o)), is_its)
    }

    /// Takes an exclusive volume for a node, until what is written says so; `false` when another node has it or gets it.
    fn take(&self, volume: &str, node: &str) -> bool {
        let mut taking = self.taking.lock();
        let free = !taking.contains_key(volume) && self.of_volume(volume).iter().all(|a| a.spec.node_name == node);
        if free {
            taking.insert(volume.to_owned(), node.to_owned());
        }
        free
    }

    /// The CSI volumes that pods of a node use, and whether some claim is not bound yet.
    fn wanted(&self, node: &str) -> Result<(BTreeMap<String, Users>, bool), Error> {
        let mut wanted: BTreeMap<String, Users> = BTreeMap::new();
        let mut unresolved = false;
        // A pod that cannot be read may use any volume.
        let users = self.pods.get(node).iter().map(|o| readable(o)).collect::<Result<Vec<Pod>, Error>>()?;
        for pod in users.into_iter().filter(|p| !matches!(pods::phase(p), "Succeeded" | "Failed")) {
            let claims: Vec<String> = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter_map(|v| claim_of(&pod, v)).collect();
            for claim in claims {
                let Some(volume) = self.volume_of(pod.namespace(), &claim) else {
                    unresolved = true;
                    continue;
                };
                let Some(want) = self.attachable(&volume) else { continue };
                wanted.entry(want.volume.clone()).or_insert_with(|| (want, Vec::new())).1.push(pod.clone());
            }
        }
        Ok((wanted, unresolved))
    }

    fn volume_of(&self, namespace: &str, claim: &str) -> Option<PersistentVolume> {
        volume_of(&self.claims, &self.volumes, namespace, claim)
    }

    /// A volume of a CSI driver that has to be attached.
    fn attachable(&self, volume: &PersistentVolume) -> Option<Wanted> {
        let spec = volume.spec.as_ref()?;
        let csi = spec.csi.as_ref()?;
        let skipped = !attaches(&self.drivers, &csi.driver);
        let modes = spec.access_modes.as_deref().unwrap_or_default();
        let exclusive = !modes.is_empty() && modes.iter().all(|m| m.starts_with("ReadWriteOnce"));
        let want = Wanted { volume: volume.name().into(), driver: csi.driver.clone(), handle: csi.volume_handle.clone(), exclusive };
        (!skipped).then_some(want)
    }

    /// An attachment as the plan sees it; those of inline volumes are not ours.
    fn view(&self, attachment: &VolumeAttachment) -> Option<Attachment> {
        let volume = attachment.spec.source.persistent_volume_name.clone()?;
        let handle = self.volumes.get("", &volume).and_then(|v| v.spec?.csi).map(|c| c.volume_handle).unwrap_or_default();
        Some(Attachment {
            name: attachment.name().into(),
            unique: unique_name(&attachment.spec.attacher, &handle),
            node: attachment.spec.node_name.clone(),
            attached: attachment.status.as_ref().is_some_and(|s| s.attached),
            deleting: attachment.metadata.deletion_timestamp.is_some(),
            volume,
        })
    }

    fn facts(&self, name: &str, node: Option<&Node>) -> NodeFacts {
        let forced = self.context.config.settings.volumes.force_detach;
        let late = forced && self.overdue.lock().get(name).is_some_and(|since| since.elapsed() >= FORCE_AFTER);
        let Some(node) = node else {
            // It may come back with its mounts: until then everything counts as mounted.
            let all = self.on_node(name);
            let in_use = all.iter().filter_map(|a| self.view(a)).map(|a| a.unique).collect();
            return NodeFacts { managed: false, in_use, given_up: late };
        };
        let ready = nodes::condition(node, "Ready").is_some_and(|c| c.status == "True");
        let out = is_out_of_service(node);
        NodeFacts { managed: annotation(&node.metadata, MANAGED) == "true", in_use: in_use(Some(node)), given_up: out || (late && !ready) }
    }

    fn note_waiting(&self, node: &str, steps: &Steps) {
        let mut overdue = self.overdue.lock();
        if steps.waiting.is_empty() {
            overdue.remove(node);
        } else {
            overdue.entry(node.to_owned()).or_insert_with(Instant::now);
        }
        if !steps.refused.is_empty() {
            self.refused.lock().insert(node.to_owned());
        }
    }

    /// Events about what was attached, failed, or must not be attached; whether a driver is still to answer.
    fn tell(&self, name: &str, node: Option<&Node>, wanted: &BTreeMap<String, Users>, here: &[VolumeAttachment], steps: &Steps) -> bool {
        let reported = reported(node);
        let mut told = self.told.lock().remove(name).unwrap_or_default();
        told.retain(|volume, _| wanted.contains_key(volume));
        for (want, pods) in wanted.values() {
            let unique = unique_name(&want.driver, &want.handle);
            if steps.report.contains(&unique) && !reported.contains(&unique) {
                let message = format!("AttachVolume.Attach succeeded for volume \"{}\" ", want.volume);
                pods.iter().for_each(|pod| self.say(pod, EventType::Normal, "SuccessfulAttachVolume", &message));
            }
            let id = attachment_name(&want.handle, &want.driver, name);
            let status = here.iter().find(|a| a.name() == id).map(|a| a.status.clone().unwrap_or_default());
            let known = told.entry(want.volume.clone()).or_default();
            let Some(news) = known.hear(want, status.as_ref(), steps.refused.contains(want), Instant::now()) else { continue };
            for pod in pods {
                let message = match &news {
                    News::Failed(why) => format!("AttachVolume.Attach failed for volume \"{}\" : {why}", want.volume),
                    News::Disputed => {
                        format!("Multi-Attach error for volume \"{}\" {}", want.volume, self.who_has(want, name, pod.namespace()))
                    }
                };
                self.say(pod, EventType::Warning, "FailedAttachVolume", &message);
            }
        }
        let pending = told.values().any(Told::waits);
        if !told.is_empty() {
            self.told.lock().insert(name.to_owned(), told);
        }
        pending
    }

    fn say(&self, pod: &Pod, kind: EventType, reason: &str, message: &str) {
        self.context.recorder.about(pod, kind, reason, message);
    }

    /// Who has an exclusive volume on another node, as it is told to a pod of a namespace.
    fn who_has(&self, want: &Wanted, node: &str, namespace: &str) -> String {
        let nodes: BTreeSet<String> = self.of_volume(&want.volume).into_iter().map(|a| a.spec.node_name).collect();
        let others = nodes.iter().filter(|n| *n != node).filter_map(|n| self.wanted(n).ok()?.0.remove(&want.volume));
        let pods: Vec<Pod> = others.flat_map(|(_, pods)| pods).collect();
        let near: Vec<&str> = pods.iter().filter(|p| p.namespace() == namespace).map(Named::name).collect();
        match (near.len(), pods.len() - near.len()) {
            (0, 0) => "Volume is already exclusively attached to one node and can't be attached to another".to_owned(),
            (0, far) => format!("Volume is already used by {far} pod(s) in different namespaces"),
            (_, 0) => format!("Volume is already used by pod(s) {}", near.join(", ")),
            (_, far) => format!("Volume is already used by pod(s) {} and {far} pod(s) in different namespaces", near.join(", ")),
        }
    }

    /// The node hears that a volume goes before it goes. What it says of itself then.
    async fn report(&self, name: &str, node: Option<&Node>, steps: &Steps) -> Result<Option<Node>, Error> {
        if node.is_none() || (reported(node) == steps.report && steps.detach.is_empty()) {
            return Ok(None);
        }
        let list: Vec<_> = steps.report.iter().map(|unique| json!({"name": unique, "devicePath": ""})).collect();
        let patch = Patch::Merge(json!({"status": {"volumesAttached": list}}));
        self.context.client.patch_status::<Node>("", name, &patch).await.optional()
    }

    /// Detaches and attaches; whether another node was faster with an exclusive volume.
    async fn apply(&self, name: &str, node: Option<&Node>, steps: &Steps) -> Result<bool, Error> {
        let why = if node.is_some_and(is_out_of_service) { "out-of-service" } else { "timeout" };
        (0..steps.forced).for_each(|_| self.context.metrics.count(&FORCED, &[why]));
        for attachment in &steps.detach {
            self.context.client.delete::<VolumeAttachment>("", attachment, &DeleteOptions::default()).await.optional()?;
        }
        let mut disputed = false;
        for want in &steps.attach {
            if want.exclusive && !self.take(&want.volume, name) {
                disputed = true;
                continue;
            }
            let made = self.context.client.create(&attachment(want, name)).await.inspect(|made| self.written.wrote(made));
            if want.exclusive {
                self.taking.lock().remove(&want.volume);
            }
            match made {
                Err(e) if e.is_already_exists() => {}
                other => drop(other?),
            }
        }
        Ok(disputed)
    }
}

/// The volume of a claim, once both name each other.
fn volume_of(
    claims: &Cache<PersistentVolumeClaim>,
    volumes: &Cache<PersistentVolume>,
    namespace: &str,
    claim: &str,
) -> Option<PersistentVolume> {
    let claim = claims.get(namespace, claim)?;
    let volume = volumes.get("", claim.spec.as_ref()?.volume_name.as_deref()?)?;
    is_bound_to(&volume, &claim).then_some(volume)
}

/// Whether volumes of a driver have to be attached; those of one without a CSIDriver object have to.
fn attaches(drivers: &Cache<CSIDriver>, driver: &str) -> bool {
    drivers.get("", driver).is_none_or(|d| d.spec.attach_required != Some(false))
}

fn is_out_of_service(node: &Node) -> bool {
    node.spec.iter().flat_map(|s| s.taints.iter().flatten()).any(|t| t.key == OUT_OF_SERVICE)
}

fn attachment(want: &Wanted, node: &str) -> VolumeAttachment {
    VolumeAttachment {
        metadata: ObjectMeta { name: Some(attachment_name(&want.handle, &want.driver, node)), ..ObjectMeta::default() },
        spec: VolumeAttachmentSpec {
            attacher: want.driver.clone(),
            node_name: node.to_owned(),
            source: VolumeAttachmentSource { persistent_volume_name: Some(want.volume.clone()), ..VolumeAttachmentSource::default() },
        },
        status: None,
    }
}

fn reported(node: Option<&Node>) -> BTreeSet<String> {
    node.and_then(|n| n.status.as_ref()).iter().flat_map(|s| s.volumes_attached.iter().flatten()).map(|v| v.name.clone()).collect()
}

/// What a node says that it has mounted.
fn in_use(node: Option<&Node>) -> BTreeSet<String> {
    node.and_then(|n| n.status.as_ref()).iter().flat_map(|s| s.volumes_in_use.iter().flatten()).cloned().collect()
}

/// The node of an encoded pod that uses claims.
fn claiming_node(object: &Object) -> Option<String> {
    if pod_claims::index_keys(object).is_empty() {
        return None;
    }
    decoded::<Pod>(object)?.spec?.node_name.filter(|n| !n.is_empty())
}
