//! NodeRestriction: a kubelet changes its own node, what runs there, and nothing else.
//!
//! Goes with the Node authorizer: that one decides which objects a node may touch, this one what it may write into them.
//! Source: `plugin/pkg/admission/noderestriction`.

use super::service_account::MIRROR;
use super::{Context, Operation, Outcome, certificates, list};
use crate::attributes::Attributes;
use crate::authz::{PodReferences, node_identity};
use ferrokube_api::{Object, Status};
use serde_json::Value;
use std::sync::Arc;

const LEASES: &str = "kube-node-lease";

/// Labels below kubernetes.io and k8s.io that a kubelet may set.
const KUBELET_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];
const KUBELET_NAMESPACES: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

pub(super) fn validate(c: &Context<'_>, object: Option<&Value>, _: &mut Outcome) -> Result<(), Status> {
    let Some(node) = node_identity(&c.user.name, &c.user.groups) else { return Ok(()) };
    let act = Act { c, object, node };
    if node.is_empty() {
        return act.refuse(format!("could not determine node from user {:?}", c.user.name));
    }
    match (c.group, c.resource, c.subresource) {
        ("", "pods", subresource) => act.pods(subresource),
        ("", "nodes", _) => act.node_object(),
        ("", "persistentvolumeclaims", "status") => act.claim_status(),
        ("", "persistentvolumeclaims", _) => act.refuse("may only update PVC status".into()),
        ("", "serviceaccounts", "token") => act.token(),
        ("coordination.k8s.io", "leases", _) => act.lease(),
        ("storage.k8s.io", "csinodes", _) => act.csi_node(),
        ("resource.k8s.io", "resourceslices", _) => act.resource_slice(),
        ("certificates.k8s.io", "certificatesigningrequests", "") => act.signing_request(),
        _ => Ok(()),
    }
}

struct Act<'a> {
    c: &'a Context<'a>,
    object: Option<&'a Value>,
    node: &'a str,
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

impl<'a> Act<'a> {
    fn refuse(&self, why: String) -> Result<(), Status> {
        Err(self.c.forbidden(self.object, why))
    }

    /// Refuses unless `ok`.
    fn demand(&self, ok: bool, why: impl FnOnce() -> String) -> Result<(), Status> {
        if ok { Ok(()) } else { self.refuse(why()) }
    }

    fn find(&self, resource: &str, namespace: &str, name: &str) -> Result<Arc<Object>, Status> {
        self.c.objects.get("", resource, namespace, name).ok_or_else(|| Status::not_found("", resource, name))
    }

    fn bound_here(&self, pod: &Value) -> bool {
        text(&pod["spec"], "nodeName") == self.node
    }

    fn stored_pod(&self, name: &str) -> Result<Value, Status> {
        if let Some(old) = self.c.review.old {
            return Ok(old.clone());
        }
        let pod = self.find("pods", self.c.namespace, name)?;
        pod.decode().map_err(|e| Status::internal(format_args!("unreadable pod: {e}")))
    }

    fn pods(&self, subresource: &str) -> Result<(), Status> {
        let (c, node) = (self.c, self.node);
        match (subresource, c.operation, self.object) {
            ("", Operation::Create, Some(pod)) => self.mirror_pod(pod),
            ("", Operation::Delete, _) => {
                let pod = self.stored_pod(c.name)?;
                self.demand(self.bound_here(&pod), || format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
            }
            ("", operation, _) => {
                self.refuse(format!("unexpected operation {:?}, node {node:?} can only create and delete mirror pods", operation.as_str()))
            }
            ("status", Operation::Update, Some(pod)) => self.pod_status(pod),
            ("eviction", Operation::Create, _) => {
                let pod = self.stored_pod(c.name)?;
                self.demand(self.bound_here(&pod), || format!("node {node} can only evict pods with spec.nodeName set to itself"))
            }
            ("status" | "eviction", operation, _) => self.refuse(format!("unexpected operation {:?}", operation.as_str())),
            (other, ..) => self.refuse(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed")),
        }
    }

    fn pod_status(&self, pod: &Value) -> Result<(), Status> {
        let (old, node) = (self.stored_pod(self.c.name)?, self.node);
        self.demand(self.bound_here(&old), || {
            format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself")
        })?;
        self.demand(old["metadata"]["labels"] == pod["metadata"]["labels"], || {
            format!("node {node:?} cannot update labels through pod status")
        })?;
        let same = |field: &str| old["status"][field] == pod["status"][field];
        self.demand(same("resourceClaimStatuses"), || format!("node {node:?} cannot update resource claim statuses"))?;
        self.demand(same("extendedResourceClaimStatus"), || format!("node {node:?} cannot update extended resource claim status"))
    }

    fn mirror_pod(&self, pod: &Value) -> Result<(), Status> {
        let node = self.node;
        let mirror = pod["metadata"]["annotations"].get(MIRROR).is_some();
        self.demand(mirror, || format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"))?;
        self.demand(self.bound_here(pod), || format!("node {node:?} can only create pods with spec.nodeName set to itself"))?;
        self.mirror_owner(pod)?;
        let references = PodReferences(pod);
        let projects = |kind: &str| references.projected().any(|s| s[kind].is_object());
        let forbidden = [
            (!text(&pod["spec"], "serviceAccountName").is_empty(), "a service account"),
            (references.secrets().next().is_some(), "secrets"),
            (references.configmaps().next().is_some(), "configmaps"),
            (references.claims().next().is_some(), "persistentvolumeclaims"),
            (projects("serviceAccountToken"), "serviceaccount tokens"),
            (projects("clusterTrustBundle"), "clustertrustbundles"),
            (projects("podCertificate"), "podcertificates"),
            (list(&pod["spec"], "resourceClaims").next().is_some(), "resourceclaims"),
        ];
        forbidden
            .into_iter()
            .try_for_each(|(refers, what)| self.demand(!refers, || format!("node {node:?} can not create pods that reference {what}")))
    }

    fn mirror_owner(&self, pod: &Value) -> Result<(), Status> {
        let node = self.node;
        let owners: Vec<&Value> = list(&pod["metadata"], "ownerReferences").collect();
        let [owner] = owners.as_slice() else {
            return match owners.len() {
                0 => self.refuse(format!("node {node:?} can only create pods with an owner reference set to itself")),
                _ => self.refuse(format!("node {node:?} can only create pods with a single owner reference set to itself")),
            };
        };
        let itself = text(owner, "apiVersion") == "v1" && text(owner, "kind") == "Node" && text(owner, "name") == node;
        self.demand(itself, || format!("node {node:?} can only create pods with an owner reference set to itself"))?;
        self.demand(owner["controller"] == true, || {
            format!("node {node:?} can only create pods with a controller owner reference set to itself")
        })?;
        self.demand(owner["blockOwnerDeletion"] != true, || {
            format!("node {node:?} must not set blockOwnerDeletion on an owner reference")
        })?;
        let object = self.find("nodes", "", node)?;
        let said = text(owner, "uid");
        self.demand(said == &*object.uid, || format!("node {node} UID mismatch: expected {said} got {}", object.uid))
    }

    fn node_object(&self) -> Result<(), Status> {
        let (c, node) = (self.c, self.node);
        let name = if c.name.is_empty() { self.object.map(|o| text(&o["metadata"], "name")).unwrap_or_default() } else { c.name };
        self.demand(name == node, || format!("node {node:?} is not allowed to modify node {name:?}"))?;
        let (Some(object), old) = (self.object, c.review.old) else { return Ok(()) };
        match c.operation {
            Operation::Create => {
                let labels = forbidden_labels(&object["metadata"]["labels"], &Value::Null);
                self.demand(labels.is_empty(), || {
                    format!("node {node:?} is not allowed to set the following labels: {}", labels.join(", "))
                })?;
                self.demand(object["spec"]["configSource"].is_null(), || {
                    format!("node {node:?} is not allowed to create pods with a non-nil configSource")
                })
            }
            Operation::Update => {
                let old = old.unwrap_or(&Value::Null);
                let same = |path: [&str; 2]| {
                    let empty = |v: &Value| v.is_null() || v.as_array().is_some_and(Vec::is_empty);
                    let (a, b) = (&object[path[0]][path[1]], &old[path[0]][path[1]]);
                    a == b || (empty(a) && empty(b))
                };
                self.demand(same(["spec", "taints"]), || format!("node {node:?} is not allowed to modify taints"))?;
                self.demand(same(["metadata", "ownerReferences"]), || format!("node {node:?} is not allowed to modify ownerReferences"))?;
                self.demand(same(["spec", "configSource"]), || {
                    format!("node {node:?} is not allowed to update configSource to a new non-nil configSource")
                })?;
                let labels = forbidden_labels(&object["metadata"]["labels"], &old["metadata"]["labels"]);
                self.demand(labels.is_empty(), || format!("is not allowed to modify labels: {}", labels.join(", ")))
            }
            _ => Ok(()),
        }
    }

    fn claim_status(&self) -> Result<(), Status> {
        let (Some(new), Some(old)) = (self.object, self.c.review.old) else {
            return self.refuse(format!("unexpected operation {:?}", self.c.operation.as_str()));
        };
        const OWN: &[&str] = &[
            "capacity",
            "conditions",
            "allocatedResources",
            "allocatedResourceStatuses",
            "currentVolumeAttributesClassName",
            "modifyVolumeStatus",
        ];
        let rest = |claim: &Value| {
            let mut claim = claim.clone();
            if let Some(status) = claim["status"].as_object_mut() {
                status.retain(|k, _| !OWN.contains(&k.as_str()));
            }
            if let Some(meta) = claim["metadata"].as_object_mut() {
                meta.retain(|k, _| k != "managedFields" && k != "resourceVersion");
            }
            claim
        };
        self.demand(rest(new) == rest(old), || {
            format!("node {:?} is not allowed to update fields other than status.quantity and status.conditions", self.node)
        })
    }

    fn token(&self) -> Result<(), Status> {
        let Some(request) = self.object else { return Ok(()) };
        let reference = &request["spec"]["boundObjectRef"];
        let to_pod = text(reference, "apiVersion") == "v1" && text(reference, "kind") == "Pod" && !text(reference, "name").is_empty();
        self.demand(to_pod, || "node requested token not bound to a pod".into())?;
        let uid = text(reference, "uid");
        self.demand(!uid.is_empty(), || "node requested token with a pod binding without a uid".into())?;
        let pod = self.find("pods", self.c.namespace, text(reference, "name"))?;
        self.demand(uid == &*pod.uid, || {
            format!("the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated")
        })?;
        let pod: Value = pod.decode().map_err(|e| Status::internal(format_args!("unreadable pod: {e}")))?;
        self.demand(self.bound_here(&pod), || "node requested token bound to a pod scheduled on a different node".into())?;
        self.audience(request, &pod)
    }

    /// A node asks only for audiences that the pod's volumes name, or that RBAC lets it ask for.
    fn audience(&self, request: &Value, pod: &Value) -> Result<(), Status> {
        let asked: Vec<&str> = list(&request["spec"], "audiences").filter_map(Value::as_str).collect();
        self.demand(asked.len() <= 1, || "node may only request 0 or 1 audiences".into())?;
        let wanted = asked.first().copied().unwrap_or_default();
        let in_volume = PodReferences(pod)
            .projected()
            .any(|s| s["serviceAccountToken"].is_object() && text(&s["serviceAccountToken"], "audience") == wanted);
        if in_volume || self.driver_wants(pod, wanted) {
            return Ok(());
        }
        let ask = Attributes {
            user: self.c.user.clone(),
            verb: "request-serviceaccounts-token-audience".into(),
            version: "*".into(),
            resource: wanted.to_owned(),
            namespace: self.c.namespace.to_owned(),
            name: self.c.name.to_owned(),
            ..Attributes::default()
        };
        self.demand(!wanted.is_empty() && self.c.questions.authorize(&ask).allowed(), || {
            format!(
                "audience {wanted:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
                self.c.user.name
            )
        })
    }

    /// Whether a CSI driver of one of the pod's volumes asks for tokens of this audience.
    fn driver_wants(&self, pod: &Value, audience: &str) -> bool {
        let objects = self.c.objects;
        let inline = list(&pod["spec"], "volumes").filter_map(|v| v["csi"]["driver"].as_str().map(str::to_owned));
        let claimed = PodReferences(pod).claims().filter_map(|claim| {
            let claim: Value = objects.get("", "persistentvolumeclaims", self.c.namespace, &claim)?.decode().ok()?;
            let volume: Value = objects.get("", "persistentvolumes", "", text(&claim["spec"], "volumeName"))?.decode().ok()?;
            volume["spec"]["csi"]["driver"].as_str().map(str::to_owned)
        });
        inline.chain(claimed).any(|driver| {
            let driver = objects.get("storage.k8s.io", "csidrivers", "", &driver).and_then(|d| d.decode::<Value>().ok());
            driver.is_some_and(|d| list(&d["spec"], "tokenRequests").any(|t| text(t, "audience") == audience))
        })
    }

    /// The name in the path, or in the object that is to be created.
    fn own_name(&self) -> bool {
        let created = self.object.map(|o| text(&o["metadata"], "name"));
        let name = if self.c.operation == Operation::Create { created.unwrap_or_default() } else { self.c.name };
        name == self.node
    }

    fn lease(&self) -> Result<(), Status> {
        self.demand(self.c.namespace == LEASES, || format!("can only access leases in the {LEASES:?} system namespace"))?;
        self.demand(self.own_name(), || "can only access node lease with the same name as the requesting node".into())
    }

    fn csi_node(&self) -> Result<(), Status> {
        self.demand(self.own_name(), || "can only access CSINode with the same name as the requesting node".into())
    }

    fn resource_slice(&self) -> Result<(), Status> {
        let here = |slice: &Value| text(&slice["spec"], "nodeName") == self.node;
        match (self.c.operation, self.object, self.c.review.old) {
            (Operation::Create, Some(slice), _) => {
                self.demand(here(slice), || "can only create ResourceSlice with the same NodeName as the requesting node".into())
            }
            (Operation::Delete, _, Some(slice)) => {
                self.demand(here(slice), || "can only delete ResourceSlice with the same NodeName as the requesting node".into())
            }
            _ => Ok(()),
        }
    }

    fn signing_request(&self) -> Result<(), Status> {
        let Some(request) = self.object.filter(|_| self.c.operation == Operation::Create) else { return Ok(()) };
        if !matches!(text(&request["spec"], "signerName"), "kubernetes.io/kubelet-serving" | "kubernetes.io/kube-apiserver-client-kubelet")
        {
            return Ok(());
        }
        let Some((name, _)) = certificates::subject_of(&request["spec"]["request"]) else {
            return self.refuse("unable to parse csr".into());
        };
        let own = format!("system:node:{}", self.node);
        self.demand(name == own, || format!("can only create a node CSR with CN={own}"))
    }
}

/// Labels that differ and that a kubelet may not touch, sorted.
fn forbidden_labels(new: &Value, old: &Value) -> Vec<String> {
    let keys = |v: &Value| v.as_object().map(|m| m.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let mut changed: Vec<String> = keys(new).into_iter().chain(keys(old)).filter(|k| new[k] != old[k] && forbidden_label(k)).collect();
    changed.sort();
    changed.dedup();
    changed
}

fn forbidden_label(key: &str) -> bool {
    let Some((namespace, _)) = key.split_once('/') else { return false };
    let below = |domain: &str| namespace == domain || namespace.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    let kubelets = KUBELET_LABELS.contains(&key) || KUBELET_NAMESPACES.iter().any(|n| below(n));
    below("node-restriction.kubernetes.io") || ((below("kubernetes.io") || below("k8s.io")) && !kubelets)
}
