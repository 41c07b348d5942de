//! Reads a pod object once, into the few facts that placement needs.

use crate::class::*;
use crate::devices::extended::Ask;
use crate::disks::{Disk, Source};
use crate::resources::{ContainerRequest, PodRequest, Resources};
use ferrokube_api::labels::{Operator, Requirement, Selector};
use ferrokube_api::quantity::Quantity;
use ferrokube_api::{Object, ObjectKey};
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A persistent volume claim as a pod names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeClaim {
    /// Name of the claim.
    pub name: Box<str>,
    /// Made for this pod alone (a generic ephemeral volume), which must own it.
    pub ephemeral: bool,
}

/// A resource claim as a pod names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceClaim {
    /// Name of the claim; `None`: it is not made yet.
    pub claim: Option<Box<str>>,
    /// Made from a template for this pod alone, which must own it.
    pub from_template: bool,
}

/// One pod, read.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// UID.
    pub uid: Arc<str>,
    /// What it shares with the pods of its template.
    pub class: Class,
    /// Names of its persistent volume claims. They are not part of the class: each pod of a template may have its own.
    pub claims: Box<[VolumeClaim]>,
    /// Disks that it names itself.
    pub disks: Box<[Disk]>,
    /// Its resource claims.
    pub devices: Box<[DeviceClaim]>,
    /// `spec.nodeName`.
    pub node: Option<Box<str>>,
    /// `spec.schedulerName`.
    pub scheduler: Box<str>,
    /// It is being deleted.
    pub terminating: bool,
    /// To make room for another pod.
    pub preempted: bool,
    /// It has scheduling gates.
    pub gated: bool,
    /// `status.nominatedNodeName`.
    pub nominated: Option<Box<str>>,
    /// `status.startTime`, or else creation: text that sorts by time.
    pub started: Box<str>,
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.resourceVersion`.
    pub revision: u64,
    /// The condition PodScheduled is already False.
    pub reported: bool,
}

type Map<'a> = BTreeMap<Cow<'a, str>, Cow<'a, str>>;

#[derive(Deserialize)]
struct View<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(borrow)]
    spec: Spec<'a>,
    #[serde(borrow, default)]
    status: Status<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta<'a> {
    #[serde(borrow, default)]
    creation_timestamp: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    deletion_timestamp: Option<Cow<'a, str>>,
    #[serde(default)]
    generation: i64,
    #[serde(borrow, default)]
    owner_references: Option<Vec<Owner<'a>>>,
}

#[derive(Deserialize)]
struct Owner<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default)]
    controller: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    #[serde(borrow, default)]
    nominated_node_name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    start_time: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    conditions: Option<Vec<Condition<'a>>>,
    #[serde(borrow, default)]
    resource_claim_statuses: Option<Vec<GeneratedClaim<'a>>>,
    #[serde(borrow, default)]
    init_container_statuses: Option<Vec<ContainerStatus<'a>>>,
    #[serde(borrow, default)]
    container_statuses: Option<Vec<ContainerStatus<'a>>>,
    /// What the pod as a whole has...
    #[serde(borrow, default)]
    resources: Option<Requests<'a>>,
    /// ...and was promised.
    #[serde(borrow, default)]
    allocated_resources: Option<Map<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStatus<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    resources: Option<Requests<'a>>,
    #[serde(borrow, default)]
    allocated_resources: Option<Map<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GeneratedClaim<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    resource_claim_name: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceClaimView<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    resource_claim_name: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Condition<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow, default)]
    reason: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    #[serde(borrow, default)]
    node_name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    scheduler_name: Option<Cow<'a, str>>,
    #[serde(default)]
    priority: Option<i32>,
    #[serde(borrow, default)]
    preemption_policy: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    node_selector: Option<Map<'a>>,
    #[serde(default)]
    affinity: Option<Affinity>,
    #[serde(borrow, default)]
    tolerations: Option<Vec<TolerationView<'a>>>,
    #[serde(borrow, default)]
    init_containers: Option<Vec<Container<'a>>>,
    #[serde(borrow, default)]
    containers: Option<Vec<Container<'a>>>,
    #[serde(borrow, default)]
    resources: Option<Requests<'a>>,
    #[serde(borrow, default)]
    overhead: Option<Map<'a>>,
    #[serde(default)]
    topology_spread_constraints: Option<Vec<SpreadView>>,
    #[serde(borrow, default)]
    volumes: Option<Vec<Volume<'a>>>,
    #[serde(default)]
    scheduling_gates: Option<Vec<serde::de::IgnoredAny>>,
    #[serde(borrow, default)]
    resource_claims: Option<Vec<ResourceClaimView<'a>>>,
    #[serde(default)]
    host_network: bool,
    #[serde(default)]
    host_users: Option<bool>,
}

#[derive(Deserialize)]
struct TolerationView<'a> {
    #[serde(borrow, default)]
    key: Cow<'a, str>,
    #[serde(borrow, default)]
    operator: Cow<'a, str>,
    #[serde(borrow, default)]
    value: Cow<'a, str>,
    #[serde(borrow, default)]
    effect: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    image: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    resources: Option<Requests<'a>>,
    #[serde(borrow, default)]
    ports: Option<Vec<Port<'a>>>,
    #[serde(borrow, default)]
    restart_policy: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    restart_policy_rules: Option<Vec<RestartRule<'a>>>,
}

#[derive(Deserialize)]
struct RestartRule<'a> {
    #[serde(borrow, default)]
    action: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Requests<'a> {
    #[serde(borrow, default)]
    requests: Option<Map<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port<'a> {
    #[serde(default)]
    host_port: u16,
    #[serde(borrow, default, rename = "hostIP")]
    host_ip: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    protocol: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Volume<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    persistent_volume_claim: Option<Claim<'a>>,
    #[serde(default)]
    ephemeral: Option<serde::de::IgnoredAny>,
    #[serde(borrow, default)]
    aws_elastic_block_store: Option<Source<'a>>,
    #[serde(borrow, default)]
    gce_persistent_disk: Option<Source<'a>>,
    #[serde(borrow, default)]
    iscsi: Option<Source<'a>>,
    #[serde(borrow, default)]
    rbd: Option<Source<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claim<'a> {
    #[serde(borrow)]
    claim_name: Cow<'a, str>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Affinity {
    node_affinity: Option<NodeAffinity>,
    pod_affinity: Option<PodAffinity>,
    pod_anti_affinity: Option<PodAffinity>,
}

/// A `v1.NodeAffinity` as written.
#[derive(Deserialize)]
pub(crate) struct NodeAffinity {
    #[serde(default, rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    required: Option<NodeSelectorView>,
    #[serde(default, rename = "preferredDuringSchedulingIgnoredDuringExecution")]
    preferred: Option<Vec<PreferredNode>>,
}

/// Required terms, any of which must match, and preferred ones with their weights.
pub(crate) type NodeTerms = (Option<Vec<NodeTerm>>, Vec<(i64, NodeTerm)>);

/// The terms of a node affinity.
pub(crate) fn node_affinity(view: NodeAffinity) -> NodeTerms {
    let preferred = view.preferred.into_iter().flatten().map(|p| (p.weight, node_term(p.preference)));
    (view.required.map(node_terms), preferred.collect())
}

/// A `v1.NodeSelector` as written, also of persistent volumes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeSelectorView {
    #[serde(default)]
    node_selector_terms: Option<Vec<NodeTermView>>,
}

#[derive(Deserialize)]
struct PreferredNode {
    weight: i64,
    preference: NodeTermView,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeTermView {
    #[serde(default)]
    match_expressions: Option<Vec<Expression>>,
    #[serde(default)]
    match_fields: Option<Vec<Expression>>,
}

#[derive(Deserialize)]
struct Expression {
    key: Box<str>,
    operator: String,
    #[serde(default)]
    values: Option<Vec<Box<str>>>,
}

#[derive(Deserialize)]
struct PodAffinity {
    #[serde(default, rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    required: Option<Vec<PodTermView>>,
    #[serde(default, rename = "preferredDuringSchedulingIgnoredDuringExecution")]
    preferred: Option<Vec<PreferredPod>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PreferredPod {
    weight: i64,
    pod_affinity_term: PodTermView,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodTermView {
    topology_key: Box<str>,
    #[serde(default)]
    label_selector: Option<Value>,
    #[serde(default)]
    namespaces: Option<Vec<Box<str>>>,
    #[serde(default)]
    namespace_selector: Option<Value>,
}

#[derive(Deserialize)]
/// A `v1.TopologySpreadConstraint` as written.
#[serde(rename_all = "camelCase")]
pub(crate) struct SpreadView {
    max_skew: i64,
    topology_key: Box<str>,
    when_unsatisfiable: String,
    #[serde(default)]
    label_selector: Option<Value>,
    #[serde(default)]
    min_domains: Option<usize>,
    #[serde(default)]
    match_label_keys: Option<Vec<String>>,
    #[serde(default)]
    node_affinity_policy: Option<String>,
    #[serde(default)]
    node_taints_policy: Option<String>,
}

/// Why a pod cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// Its shape is wrong.
    #[error("the pod is not what its kind says")]
    Shape(#[from] serde_json::Error),
    /// A selector in it is wrong.
    #[error("a selector of the pod is wrong: {0}")]
    Selector(String),
}

/// Reads a pod.
pub fn read(object: &Object) -> Result<Facts, Unreadable> {
    let json = object.json();
    let View { metadata, mut spec, mut status } = serde_json::from_slice(&json)?;
    let started = status.start_time.take().or(metadata.creation_timestamp).unwrap_or_default();
    let owned = |text: Option<Cow<'_, str>>| text.filter(|t| !t.is_empty()).map(Box::from);
    let node = owned(spec.node_name.take());
    let scheduler = spec.scheduler_name.take().unwrap_or(Cow::Borrowed("default-scheduler")).into();
    let gated = spec.scheduling_gates.take().is_some_and(|g| !g.is_empty());
    let owner = metadata.owner_references.into_iter().flatten().find(|o| o.controller);
    let owner = owner.map(|o| (Box::from(o.kind), Box::from(o.name)));
    let volumes = spec.volumes.take().unwrap_or_default();
    let disks = volumes.iter().filter_map(disk).collect();
    let claims = volumes.into_iter().filter_map(|v| claim(v, &object.key.name)).collect();
    let generated = status.resource_claim_statuses.take().unwrap_or_default();
    let devices = spec.resource_claims.take().into_iter().flatten().filter_map(|c| device_claim(c, &generated)).collect();
    let nominated = owned(status.nominated_node_name.take());
    let condition = |is: fn(&Condition<'_>) -> bool| status.conditions.iter().flatten().any(is);
    Ok(Facts {
        key: object.key.clone(),
        uid: object.uid.clone(),
        preempted: metadata.deletion_timestamp.is_some() && condition(is_preempted),
        reported: condition(|c| c.kind == "PodScheduled" && c.status == "False"),
        class: class(object, spec, &status, owner)?,
        claims,
        disks,
        devices,
        node,
        scheduler,
        terminating: metadata.deletion_timestamp.is_some(),
        gated,
        nominated,
        started: started.into(),
        generation: metadata.generation,
        revision: object.revision,
    })
}

fn is_preempted(c: &Condition<'_>) -> bool {
    c.kind == "DisruptionTarget" && c.status == "True" && c.reason.as_deref() == Some("PreemptionByScheduler")
}

fn class(object: &Object, spec: Spec<'_>, status: &Status<'_>, owner: Option<(Box<str>, Box<str>)>) -> Result<Class, Unreadable> {
    let (init, containers) = (spec.init_containers.unwrap_or_default(), spec.containers.unwrap_or_default());
    let mut request = PodRequest {
        init: init.iter().map(container_request).collect(),
        containers: containers.iter().map(container_request).collect(),
        pod: request_of(spec.resources.as_ref().and_then(|r| r.requests.as_ref())),
        pod_level: spec.resources.as_ref().and_then(|r| r.requests.as_ref()).is_some_and(|m| !m.is_empty()),
        overhead: resources(spec.overhead.as_ref()),
    };
    resize(&mut request, status, &init, &containers);
    let running = init.iter().filter(|c| c.restart_policy.as_deref() == Some("Always")).chain(&containers);
    let mut class = Class {
        namespace: object.key.namespace.clone(),
        labels: object.labels.clone(),
        requests: request.total(),
        asks: asks(&init, &containers),
        scoring: request.for_scoring(),
        priority: spec.priority.unwrap_or(0),
        never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
        node_selector: pairs(spec.node_selector),
        tolerations: spec.tolerations.into_iter().flatten().map(toleration).collect(),
        ports: running.flat_map(|c| c.ports.iter().flatten()).filter(|p| p.host_port != 0).map(host_port).collect(),
        images: init.iter().chain(&containers).filter_map(|c| c.image.as_deref()).map(image_name).collect(),
        features: features(spec.host_network, spec.host_users, init.iter().chain(&containers)),
        owner,
        ..Class::default()
    };
    add_affinity(&mut class, spec.affinity.unwrap_or_default())?;
    for view in spec.topology_spread_constraints.into_iter().flatten() {
        let constraint = spread(view, &class.labels)?;
        class.spread.push(constraint);
    }
    Ok(class)
}

/// Features that only a node can serve the pod with whose kubelet declares them.
fn features<'a>(host_network: bool, host_users: Option<bool>, containers: impl Iterator<Item = &'a Container<'a>>) -> Vec<&'static str> {
    let mut rules = containers.flat_map(|c| c.restart_policy_rules.iter().flatten());
    let mut features = Vec::new();
    if rules.any(|r| r.action.as_deref() == Some("RestartAllContainers")) {
        features.push("RestartAllContainersOnContainerExits");
    }
    if host_network && host_users == Some(false) {
        features.push("UserNamespacesHostNetworkSupport");
    }
    features
}

/// Amounts of resources that are none of Kubernetes' own: a device class may stand for them.
fn asks(init: &[Container<'_>], containers: &[Container<'_>]) -> Box<[Ask]> {
    let mut asks = Vec::new();
    for (place, container) in init.iter().chain(containers).enumerate() {
        let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref()).into_iter().flatten();
        // By name, as the map has them.
        for (at, (resource, amount)) in requests.enumerate().filter(|(_, (name, _))| name.contains('/')) {
            let count = Quantity::parse(amount).map_or(0, |q| q.value());
            let passes = place < init.len() && container.restart_policy.as_deref() != Some("Always");
            if count > 0 {
                asks.push(Ask { place, container: Box::from(&*container.name), passes, resource: Box::from(&**resource), at, count });
            }
        }
    }
    asks.into()
}

/// A pod in the middle of a resize takes the most of what it asks for, was promised and has. What it asks for does not count when its node
/// can never give it (component-helpers `determineContainerReqs`).
fn resize(request: &mut PodRequest, status: &Status<'_>, init: &[Container<'_>], containers: &[Container<'_>]) {
    let never = |c: &Condition<'_>| c.kind == "PodResizePending" && c.reason.as_deref() == Some("Infeasible");
    let never = status.conditions.iter().flatten().any(never);
    let take = |asked: &mut ContainerRequest, has: Option<&Requests<'_>>, promised: Option<&Map<'_>>, more: &Resources| {
        let Some(has) = has else { return };
        if never {
            *asked = ContainerRequest { sidecar: asked.sidecar, ..ContainerRequest::default() };
        }
        for map in [has.requests.as_ref(), promised] {
            let mut given = request_of(map);
            given.amounts.sub(more);
            asked.amounts.max(&given.amounts);
            asked.names_cpu |= given.names_cpu;
            asked.names_memory |= given.names_memory;
        }
    };
    let lists =
        [(&mut request.init, init, &status.init_container_statuses), (&mut request.containers, containers, &status.container_statuses)];
    for (requests, containers, statuses) in lists {
        for given in statuses.iter().flatten() {
            if let Some(at) = containers.iter().position(|c| c.name == given.name) {
                take(&mut requests[at], given.resources.as_ref(), given.allocated_resources.as_ref(), &Resources::default());
            }
        }
    }
    if request.pod_level {
        let named = request.pod.clone();
        // The status counts the overhead in, and tells sums over containers where the pod names nothing.
        take(&mut request.pod, status.resources.as_ref(), status.allocated_resources.as_ref(), &request.overhead);
        (request.pod.names_cpu, request.pod.names_memory) = (named.names_cpu, named.names_memory);
        request.pod.amounts.scalars.retain(|(name, _)| named.amounts.scalars.iter().any(|(n, _)| n == name));
    }
}

fn container_request(container: &Container<'_>) -> ContainerRequest {
    let sidecar = container.restart_policy.as_deref() == Some("Always");
    ContainerRequest { sidecar, ..request_of(container.resources.as_ref().and_then(|r| r.requests.as_ref())) }
}

fn request_of(map: Option<&Map<'_>>) -> ContainerRequest {
    let names = |name: &str| map.is_some_and(|m| m.contains_key(name));
    ContainerRequest { amounts: resources(map), names_cpu: names("cpu"), names_memory: names("memory"), sidecar: false }
}

fn resources(map: Option<&Map<'_>>) -> Resources {
    let mut amounts = Resources::default();
    for (name, text) in map.into_iter().flatten() {
        // The API server stores no amount that cannot be read.
        if let Ok(amount) = Quantity::parse(text) {
            amounts.set(name, amount);
        }
    }
    amounts
}

fn pairs(map: Option<Map<'_>>) -> Vec<(Box<str>, Box<str>)> {
    map.into_iter().flatten().map(|(k, v)| (k.into(), v.into())).collect()
}

fn toleration(view: TolerationView<'_>) -> Toleration {
    Toleration { exists: view.operator == "Exists", key: view.key.into(), value: view.value.into(), effect: Effect::parse(&view.effect) }
}

fn host_port(port: &Port<'_>) -> HostPort {
    let text = |t: &Option<Cow<'_, str>>, default: &str| Box::from(t.as_deref().filter(|t| !t.is_empty()).unwrap_or(default));
    HostPort { ip: text(&port.host_ip, "0.0.0.0"), protocol: text(&port.protocol, "TCP"), port: port.host_port }
}

/// A name without a tag means `latest` (`normalizedImageName`).
fn image_name(name: &str) -> Box<str> {
    let tagged = name.rfind(':') > name.rfind('/');
    if tagged { name.into() } else { format!("{name}:latest").into() }
}

fn claim(volume: Volume<'_>, pod: &str) -> Option<VolumeClaim> {
    match (volume.persistent_volume_claim, volume.ephemeral) {
        (Some(claim), _) => Some(VolumeClaim { name: claim.claim_name.into(), ephemeral: false }),
        (None, Some(_)) => Some(VolumeClaim { name: format!("{pod}-{}", volume.name).into(), ephemeral: true }),
        (None, None) => None,
    }
}

fn disk(volume: &Volume<'_>) -> Option<Disk> {
    let Volume { aws_elastic_block_store: ebs, gce_persistent_disk: gce, iscsi, rbd, .. } = volume;
    let alone = ebs.as_ref().map(Source::alone);
    let shared = gce.as_ref().map(|s| s.shared("gcePersistentDisk")).or_else(|| iscsi.as_ref().map(|s| s.shared("iscsi")));
    alone.or(shared).or_else(|| rbd.as_ref().map(Source::image))
}

/// Nothing where the controller has found that no claim is needed.
fn device_claim(view: ResourceClaimView<'_>, generated: &[GeneratedClaim<'_>]) -> Option<DeviceClaim> {
    if let Some(name) = view.resource_claim_name {
        return Some(DeviceClaim { claim: Some(name.into()), from_template: false });
    }
    match generated.iter().find(|g| g.name == view.name) {
        Some(made) => made.resource_claim_name.as_deref().map(|name| DeviceClaim { claim: Some(name.into()), from_template: true }),
        None => Some(DeviceClaim { claim: None, from_template: true }),
    }
}

fn requirement(expression: Expression) -> Option<Requirement> {
    let operator = match &*expression.operator {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::Gt,
        "Lt" => Operator::Lt,
        _ => return None,
    };
    let mut values = expression.values.unwrap_or_default();
    values.sort_unstable();
    Some(Requirement { key: expression.key, operator, values: values.into() })
}

/// A term with an operator that nobody knows matches nothing.
fn node_term(view: NodeTermView) -> NodeTerm {
    let read = |list: Option<Vec<Expression>>| list.into_iter().flatten().map(requirement).collect::<Option<Vec<_>>>();
    match (read(view.match_expressions), read(view.match_fields)) {
        (Some(labels), Some(names)) => NodeTerm { labels, names },
        _ => NodeTerm::default(),
    }
}

/// The terms of a node selector, any of which must match.
pub(crate) fn node_terms(view: NodeSelectorView) -> Vec<NodeTerm> {
    view.node_selector_terms.into_iter().flatten().map(node_term).collect()
}

fn selector(value: Option<&Value>) -> Result<Selector, Unreadable> {
    Selector::from_label_selector(value).map_err(Unreadable::Selector)
}

fn pod_term(view: PodTermView, namespace: &str) -> Result<PodTerm, Unreadable> {
    let mut namespaces = view.namespaces.unwrap_or_default();
    if namespaces.is_empty() && view.namespace_selector.is_none() {
        namespaces.push(namespace.into());
    }
    Ok(PodTerm {
        key: view.topology_key,
        selector: selector(view.label_selector.as_ref())?,
        namespaces,
        namespace_selector: selector(view.namespace_selector.as_ref())?,
    })
}

fn add_affinity(class: &mut Class, affinity: Affinity) -> Result<(), Unreadable> {
    if let Some(node) = affinity.node_affinity {
        (class.node_required, class.node_preferred) = node_affinity(node);
    }
    let namespace = class.namespace.clone();
    for (view, sign) in [(affinity.pod_affinity, 1), (affinity.pod_anti_affinity, -1)] {
        let Some(view) = view else { continue };
        let required = view.required.into_iter().flatten().map(|t| pod_term(t, &namespace)).collect::<Result<_, _>>()?;
        if sign > 0 {
            class.affinity = required;
        } else {
            class.anti_affinity = required;
        }
        for preferred in view.preferred.into_iter().flatten() {
            class.pod_preferred.push((sign * preferred.weight, pod_term(preferred.pod_affinity_term, &namespace)?));
        }
    }
    Ok(())
}

/// A topology spread constraint of a pod with these labels.
pub(crate) fn spread(view: SpreadView, labels: &Labels) -> Result<Spread, Unreadable> {
    let mut selector = selector(view.label_selector.as_ref())?;
    for key in view.match_label_keys.into_iter().flatten() {
        if let Some(value) = label(labels, &key) {
            selector = selector.and(Requirement { key: key.into(), operator: Operator::In, values: [value.into()].into() });
        }
    }
    Ok(Spread {
        max_skew: view.max_skew,
        key: view.topology_key,
        anyway: view.when_unsatisfiable == "ScheduleAnyway",
        selector,
        min_domains: view.min_domains.unwrap_or(1),
        honor_affinity: view.node_affinity_policy.as_deref() != Some("Ignore"),
        honor_taints: view.node_taints_policy.as_deref() == Some("Honor"),
    })
}
