//! Claims, volumes, storage classes and CSI, as far as they say where a pod can be.
//!
//! What the scheduler has decided about volumes and not yet seen come true is kept beside ("assumed"), so that two pods
//! never count on one volume.

use crate::class::{Labels, NodeTerm, label};
use crate::node::Node;
use crate::pod::{NodeSelectorView, node_terms};
use ferrokube_api::labels::Selector;
use ferrokube_api::quantity::Quantity;
use ferrokube_api::{Object, ObjectKey};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The annotation of a claim that says where its first pod goes.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The annotation of a claim whose binding is complete.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// Labels of volumes that say where they can be reached from.
const ZONES: [&str; 4] = [
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
];
/// In-tree volume sources with the CSI driver that they are served by, and the field that identifies the volume.
const MIGRATED: [(&str, &str, &str); 6] = [
    ("gcePersistentDisk", "pd.csi.storage.gke.io", "pdName"),
    ("awsElasticBlockStore", "ebs.csi.aws.com", "volumeID"),
    ("azureDisk", "disk.csi.azure.com", "diskURI"),
    ("cinder", "cinder.csi.openstack.org", "volumeID"),
    ("vsphereVolume", "csi.vsphere.vmware.com", "volumePath"),
    ("portworxVolume", "pxd.portworx.com", "volumeID"),
];

/// A persistent volume claim.
#[derive(Clone, Debug, Default)]
pub struct Claim {
    /// UID.
    pub uid: Box<str>,
    /// UID of the object that controls it.
    pub owner: Option<Box<str>>,
    /// The volume it names.
    pub volume: Option<Box<str>>,
    /// Its binding is complete.
    pub bound: bool,
    /// Its storage class.
    pub class: Option<Box<str>>,
    /// Its volume is gone.
    pub lost: bool,
    /// It is being deleted.
    pub deleting: bool,
    /// Bytes asked for.
    pub request: i64,
    /// Access modes.
    pub modes: Vec<Box<str>>,
    /// A block device and not a filesystem.
    pub block: bool,
    /// Which volumes.
    pub selector: Selector,
    /// Where its first pod goes.
    pub selected_node: Option<Box<str>>,
    /// `volumeAttributesClassName`.
    pub attributes: Option<Box<str>>,
}

/// A persistent volume.
#[derive(Clone, Debug, Default)]
pub struct Volume {
    /// Node affinity; `None`: everywhere.
    pub terms: Option<Vec<NodeTerm>>,
    /// Labels of zones and regions with their values.
    pub zones: Vec<(&'static str, Vec<Box<str>>)>,
    /// CSI driver and handle.
    pub csi: Option<(Box<str>, Box<str>)>,
    class: Box<str>,
    capacity: i64,
    modes: Vec<Box<str>>,
    block: bool,
    labels: Labels,
    /// The claim it is for: namespace and name, and UID.
    claim: Option<(ObjectKey, Box<str>)>,
    available: bool,
    deleting: bool,
    attributes: Option<Box<str>>,
    revision: u64,
}

impl Volume {
    /// Whether it can be reached from a node.
    pub fn reaches(&self, node: &Node) -> bool {
        self.terms.as_ref().is_none_or(|terms| terms.iter().any(|t| t.matches(node)))
    }
}

/// A storage class.
#[derive(Clone, Debug, Default)]
pub struct StorageClass {
    /// Its claims are bound only once a pod is placed.
    pub waits: bool,
    provisioner: Box<str>,
    /// Any of these must hold for the node: key and values, all of them.
    topologies: Vec<Vec<(Box<str>, Vec<Box<str>>)>>,
}

/// Free space of a driver.
#[derive(Clone, Debug, Default)]
struct Capacity {
    class: Box<str>,
    topology: Option<Selector>,
    most: i64,
}

/// What is known of storage.
#[derive(Clone, Debug, Default)]
pub struct Storage {
    claims: HashMap<ObjectKey, Claim>,
    volumes: HashMap<Box<str>, Volume>,
    by_class: HashMap<Box<str>, BTreeSet<Box<str>>>,
    classes: HashMap<Box<str>, StorageClass>,
    /// How many volumes of a driver a node takes, by node.
    limits: HashMap<Box<str>, BTreeMap<Box<str>, usize>>,
    /// Drivers that publish their free space.
    publishing: BTreeSet<Box<str>>,
    capacities: HashMap<ObjectKey, Capacity>,
    /// Volumes attached to nodes, by attachment: node, volume.
    attachments: HashMap<Box<str>, (Box<str>, Box<str>)>,
    attached: HashMap<Box<str>, BTreeSet<Box<str>>>,
    assumed_volumes: HashMap<Box<str>, ObjectKey>,
    assumed_nodes: HashMap<ObjectKey, Box<str>>,
}

/// What must be done about a claim before its pod can be bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// This volume is bound to the claim.
    Bind {
        /// Name of the volume.
        volume: Box<str>,
        /// Its revision: if it has changed since, somebody else may have taken it.
        revision: u64,
        /// The claim.
        claim: ObjectKey,
        /// UID of the claim.
        uid: Box<str>,
    },
    /// A volume is made for the claim, to be used from this node.
    Provision {
        /// The claim.
        claim: ObjectKey,
        /// Name of the node.
        node: Box<str>,
    },
}

/// Why claims that wait for their first pod cannot be bound on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmet {
    /// There is no volume, and none can be made there.
    Nothing,
    /// There is too little space.
    Space,
}

impl Storage {
    /// A claim.
    pub fn claim(&self, namespace: &str, name: &str) -> Option<&Claim> {
        self.claims.get(&ObjectKey::new(namespace, name))
    }

    /// A volume.
    pub fn volume(&self, name: &str) -> Option<&Volume> {
        self.volumes.get(name)
    }

    /// A storage class.
    pub fn class(&self, name: Option<&str>) -> Option<&StorageClass> {
        self.classes.get(name?)
    }

    /// Whether a claim is bound only once its pod is placed.
    pub fn waits(&self, claim: &Claim) -> bool {
        claim.volume.is_none() && self.class(claim.class.as_deref()).is_some_and(|c| c.waits)
    }

    /// How many volumes of a driver a node takes.
    pub fn limit(&self, node: &str, driver: &str) -> Option<usize> {
        self.limits.get(node)?.get(driver).copied()
    }

    /// Volumes that are attached to a node, by name.
    pub fn attached(&self, node: &str) -> impl Iterator<Item = &str> {
        self.attached.get(node).into_iter().flatten().map(|v| &**v)
    }

    /// The driver and an identity of a claim's volume; of one that is not bound yet, those it will have.
    pub fn csi_of<'a>(&'a self, key: &ObjectKey, claim: &'a Claim) -> Option<(&'a str, String)> {
        if let Some(volume) = &claim.volume {
            let (driver, handle) = self.volume(volume)?.csi.as_ref()?;
            return Some((driver, handle.to_string()));
        }
        let class = self.class(claim.class.as_deref())?;
        (!class.provisioner.is_empty()).then(|| (&*class.provisioner, format!("{}/{}", key.namespace, key.name)))
    }

    /// What has to be done to bind claims that wait for their first pod on a node (`FindPodVolumes`).
    pub fn steps(&self, claims: &[(ObjectKey, &Claim)], node: &Node) -> Result<Vec<Step>, Unmet> {
        let mut steps = Vec::new();
        let mut chosen: BTreeSet<&str> = BTreeSet::new();
        // The smallest claims first, so that they do not take the volumes of the larger ones.
        let mut sorted: Vec<&(ObjectKey, &Claim)> = claims.iter().collect();
        sorted.sort_by_key(|(key, claim)| (claim.request, key.name.clone()));
        for (key, claim) in sorted {
            let selected = claim.selected_node.as_deref().or_else(|| self.assumed_nodes.get(key).map(|n| &**n));
            if selected.is_some_and(|n| n != &*node.name) {
                return Err(Unmet::Nothing);
            }
            let matching = if selected.is_some() { None } else { self.matching(key, claim, node, &chosen) };
            if let Some(volume) = matching {
                chosen.insert(volume);
                let revision = self.volume(volume).map_or(0, |v| v.revision);
                steps.push(Step::Bind { volume: volume.into(), revision, claim: key.clone(), uid: claim.uid.clone() });
                continue;
            }
            self.can_provision(claim, node)?;
            steps.push(Step::Provision { claim: key.clone(), node: node.name.clone() });
        }
        Ok(steps)
    }

    /// The smallest volume that a claim can be bound to on a node (`FindMatchingVolume`).
    fn matching<'a>(&'a self, key: &ObjectKey, claim: &Claim, node: &Node, chosen: &BTreeSet<&str>) -> Option<&'a str> {
        let mut best: Option<(&str, i64)> = None;
        for name in self.by_class.get(claim.class.as_deref().unwrap_or_default()).into_iter().flatten() {
            let volume = self.volumes.get(name)?;
            let mine = |(of, uid): &(ObjectKey, Box<str>)| of == key && (uid.is_empty() || *uid == claim.uid);
            let taken = self.assumed_volumes.get(name).is_some_and(|of| of != key) || chosen.contains(&**name);
            if taken
                || volume.deleting
                || volume.block != claim.block
                || volume.capacity < claim.request
                || volume.attributes != claim.attributes
            {
                continue;
            }
            if volume.claim.as_ref().is_some_and(mine) {
                return volume.reaches(node).then_some(name);
            }
            let fits = volume.claim.is_none()
                && volume.available
                && claim.modes.iter().all(|mode| volume.modes.contains(mode))
                && claim.selector.matches_with(|key| label(&volume.labels, key))
                && volume.reaches(node);
            if fits && best.is_none_or(|(_, size)| volume.capacity < size) {
                best = Some((name, volume.capacity));
            }
        }
        best.map(|(name, _)| name)
    }

    fn can_provision(&self, claim: &Claim, node: &Node) -> Result<(), Unmet> {
        let class = self.class(claim.class.as_deref()).ok_or(Unmet::Nothing)?;
        if class.provisioner.is_empty() || &*class.provisioner == NO_PROVISIONER {
            return Err(Unmet::Nothing);
        }
        let holds = |term: &Vec<(Box<str>, Vec<Box<str>>)>| {
            term.iter().all(|(key, values)| label(&node.labels, key).is_some_and(|v| values.iter().any(|x| **x == *v)))
        };
        if !class.topologies.is_empty() && !class.topologies.iter().any(holds) {
            return Err(Unmet::Nothing);
        }
        if !self.publishing.contains(&class.provisioner) {
            return Ok(());
        }
        let name = claim.class.as_deref().unwrap_or_default();
        let here = |c: &Capacity| c.topology.as_ref().is_some_and(|t| t.matches_with(|key| label(&node.labels, key)));
        let enough = self.capacities.values().any(|c| *c.class == *name && c.most >= claim.request && here(c));
        if enough { Ok(()) } else { Err(Unmet::Space) }
    }

    /// Counts on steps before they are seen done.
    pub fn assume(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Bind { volume, claim, .. } => drop(self.assumed_volumes.insert(volume.clone(), claim.clone())),
                Step::Provision { claim, node } => drop(self.assumed_nodes.insert(claim.clone(), node.clone())),
            }
        }
    }

    /// No longer counts on steps.
    pub fn forget(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Bind { volume, .. } => drop(self.assumed_volumes.remove(volume)),
                Step::Provision { claim, .. } => drop(self.assumed_nodes.remove(claim)),
            }
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    uid: Box<str>,
    #[serde(default)]
    deletion_timestamp: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, Box<str>>>,
    #[serde(default)]
    owner_references: Option<Vec<OwnerView>>,
}

#[derive(Deserialize)]
struct OwnerView {
    #[serde(default)]
    uid: Box<str>,
    #[serde(default)]
    controller: bool,
}

#[derive(Deserialize)]
struct ClaimView {
    metadata: Meta,
    #[serde(default)]
    spec: ClaimSpec,
    #[serde(default)]
    status: Phase,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct ClaimSpec {
    #[serde(default)]
    volume_name: Option<Box<str>>,
    #[serde(default)]
    storage_class_name: Option<Box<str>>,
    #[serde(default)]
    access_modes: Option<Vec<Box<str>>>,
    #[serde(default)]
    volume_mode: Option<String>,
    #[serde(default)]
    selector: Option<Value>,
    #[serde(default)]
    resources: Requests,
    #[serde(default)]
    volume_attributes_class_name: Option<Box<str>>,
}

#[derive(Deserialize, Default)]
struct Requests {
    #[serde(default)]
    requests: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize, Default)]
struct Phase {
    #[serde(default)]
    phase: Option<String>,
}

#[derive(Deserialize)]
struct VolumeView {
    metadata: Meta,
    spec: VolumeSpec,
    #[serde(default)]
    status: Phase,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VolumeSpec {
    #[serde(default)]
    node_affinity: Option<VolumeAffinity>,
    #[serde(default)]
    storage_class_name: Option<Box<str>>,
    #[serde(default)]
    capacity: Option<BTreeMap<String, String>>,
    #[serde(default)]
    access_modes: Option<Vec<Box<str>>>,
    #[serde(default)]
    volume_mode: Option<String>,
    #[serde(default)]
    claim_ref: Option<ClaimRef>,
    #[serde(default)]
    csi: Option<Csi>,
    #[serde(default)]
    volume_attributes_class_name: Option<Box<str>>,
    #[serde(flatten)]
    source: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct ClaimRef {
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    uid: Box<str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Csi {
    driver: Box<str>,
    volume_handle: Box<str>,
}

#[derive(Deserialize)]
struct VolumeAffinity {
    #[serde(default)]
    required: Option<NodeSelectorView>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClassView {
    #[serde(default)]
    provisioner: Box<str>,
    #[serde(default)]
    volume_binding_mode: Option<String>,
    #[serde(default)]
    allowed_topologies: Option<Vec<TopologyTerm>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TopologyTerm {
    #[serde(default)]
    match_label_expressions: Option<Vec<TopologyExpression>>,
}

#[derive(Deserialize)]
struct TopologyExpression {
    key: Box<str>,
    #[serde(default)]
    values: Vec<Box<str>>,
}

fn amount(map: Option<BTreeMap<String, String>>, name: &str) -> i64 {
    map.and_then(|m| m.get(name).and_then(|text| Quantity::parse(text).ok())).map_or(0, |q| q.value())
}

fn selector(value: Option<&Value>) -> Selector {
    match value {
        None => Selector::everything(),
        some => Selector::from_label_selector(some).unwrap_or_else(|_| Selector::nothing()),
    }
}

/// What is told.
impl Storage {
    /// A claim is as it is now, or gone.
    pub fn set_claim(&mut self, key: &ObjectKey, object: Option<&Object>) -> Result<(), serde_json::Error> {
        let Some(object) = object else {
            self.claims.remove(key);
            self.assumed_nodes.remove(key);
            return Ok(());
        };
        let ClaimView { metadata, spec, status } = serde_json::from_slice(&object.json())?;
        let annotations = metadata.annotations.unwrap_or_default();
        let lost = status.phase.as_deref() == Some("Lost");
        let volume = spec.volume_name.filter(|v| !v.is_empty());
        let completed = annotations.contains_key(BIND_COMPLETED) || status.phase.as_deref() == Some("Bound");
        let claim = Claim {
            uid: metadata.uid,
            owner: metadata.owner_references.into_iter().flatten().find(|o| o.controller).map(|o| o.uid),
            bound: volume.is_some() && completed,
            volume,
            class: spec.storage_class_name,
            lost,
            deleting: metadata.deletion_timestamp.is_some(),
            request: amount(spec.resources.requests, "storage"),
            modes: spec.access_modes.unwrap_or_default(),
            block: spec.volume_mode.as_deref() == Some("Block"),
            selector: selector(spec.selector.as_ref()),
            selected_node: annotations.get(SELECTED_NODE).cloned(),
            attributes: spec.volume_attributes_class_name.filter(|n| !n.is_empty()),
        };
        if claim.bound {
            self.assumed_nodes.remove(key);
        }
        self.claims.insert(key.clone(), claim);
        Ok(())
    }

    /// A volume is as it is now, or gone.
    pub fn set_volume(&mut self, name: &str, object: Option<&Object>) -> Result<(), serde_json::Error> {
        if let Some(old) = self.volumes.remove(name)
            && let Some(names) = self.by_class.get_mut(&old.class)
        {
            names.remove(name);
        }
        let Some(object) = object else {
            self.assumed_volumes.remove(name);
            return Ok(());
        };
        let VolumeView { metadata, spec, status } = serde_json::from_slice(&object.json())?;
        let migrated = |(field, driver, id): &(&str, &str, &str)| {
            let handle = spec.source.get(*field)?.get(*id)?.as_str()?;
            Some((Box::from(*driver), Box::from(handle)))
        };
        let zones = ZONES.iter().filter_map(|key| {
            let values = label(&object.labels, key)?.split("__").map(Box::from).collect();
            Some((*key, values))
        });
        let volume = Volume {
            csi: spec.csi.map(|c| (c.driver, c.volume_handle)).or_else(|| MIGRATED.iter().find_map(migrated)),
            terms: spec.node_affinity.and_then(|a| a.required).map(node_terms),
            zones: zones.collect(),
            class: spec.storage_class_name.unwrap_or_default(),
            capacity: amount(spec.capacity, "storage"),
            modes: spec.access_modes.unwrap_or_default(),
            block: spec.volume_mode.as_deref() == Some("Block"),
            labels: object.labels.clone(),
            claim: spec.claim_ref.map(|c| (ObjectKey::new(&c.namespace, &c.name), c.uid)),
            available: status.phase.as_deref() == Some("Available"),
            deleting: metadata.deletion_timestamp.is_some(),
            attributes: spec.volume_attributes_class_name.filter(|n| !n.is_empty()),
            revision: object.revision,
        };
        if volume.claim.is_some() {
            self.assumed_volumes.remove(name);
        }
        self.by_class.entry(volume.class.clone()).or_default().insert(name.into());
        self.volumes.insert(name.into(), volume);
        Ok(())
    }

    /// A storage class is as it is now, or gone.
    pub fn set_class(&mut self, name: &str, object: Option<&Object>) -> Result<(), serde_json::Error> {
        let Some(object) = object else {
            self.classes.remove(name);
            return Ok(());
        };
        let view: ClassView = serde_json::from_slice(&object.json())?;
        let term = |t: TopologyTerm| t.match_label_expressions.into_iter().flatten().map(|e| (e.key, e.values)).collect();
        let class = StorageClass {
            waits: view.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
            provisioner: view.provisioner,
            topologies: view.allowed_topologies.into_iter().flatten().map(term).collect(),
        };
        self.classes.insert(name.into(), class);
        Ok(())
    }

    /// What the drivers on a node take, or the node has none.
    pub fn set_csi_node(&mut self, name: &str, object: Option<&Object>) -> Result<(), serde_json::Error> {
        let Some(object) = object else {
            self.limits.remove(name);
            return Ok(());
        };
        let value: Value = serde_json::from_slice(&object.json())?;
        let drivers = value["spec"]["drivers"].as_array().into_iter().flatten();
        let limit = |d: &Value| Some((d["name"].as_str()?.into(), usize::try_from(d["allocatable"]["count"].as_i64()?).ok()?));
        self.limits.insert(name.into(), drivers.filter_map(limit).collect());
        Ok(())
    }

    /// A CSI driver is as it is now, or gone.
    pub fn set_driver(&mut self, name: &str, object: Option<&Object>) -> Result<(), serde_json::Error> {
        let value: Option<Value> = object.map(Object::decode).transpose()?;
        if value.is_some_and(|v| v["spec"]["storageCapacity"] == true) {
            self.publishing.insert(name.into());
        } else {
            self.publishing.remove(name);
        }
        Ok(())
    }

    /// Free space is as it is now, or no longer told.
    pub fn set_capacity(&mut self, key: &ObjectKey, object: Option<&Object>) -> Result<(), serde_json::Error> {
        let Some(object) = object else {
            self.capacities.remove(key);
            return Ok(());
        };
        let value: Value = serde_json::from_slice(&object.json())?;
        let size = |field: &str| value[field].as_str().and_then(|text| Quantity::parse(text).ok()).map(|q| q.value());
        let capacity = Capacity {
            class: value["storageClassName"].as_str().unwrap_or_default().into(),
            topology: value.get("nodeTopology").filter(|t| !t.is_null()).map(|t| selector(Some(t))),
            most: size("maximumVolumeSize").or_else(|| size("capacity")).unwrap_or(-1),
        };
        self.capacities.insert(key.clone(), capacity);
        Ok(())
    }

    /// A volume is attached to a node, or no longer.
    pub fn set_attachment(&mut self, name: &str, object: Option<&Object>) -> Result<(), serde_json::Error> {
        if let Some((node, volume)) = self.attachments.remove(name)
            && let Some(volumes) = self.attached.get_mut(&node)
        {
            volumes.remove(&volume);
        }
        let Some(object) = object else { return Ok(()) };
        let value: Value = serde_json::from_slice(&object.json())?;
        let (node, volume) = (&value["spec"]["nodeName"], &value["spec"]["source"]["persistentVolumeName"]);
        if let (Some(node), Some(volume)) = (node.as_str(), volume.as_str()) {
            self.attachments.insert(name.into(), (node.into(), volume.into()));
            self.attached.entry(node.into()).or_default().insert(volume.into());
        }
        Ok(())
    }
}
