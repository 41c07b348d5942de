//! The Node authorizer: a kubelet sees what the pods of its node need, and nothing else.
//!
//! The relation "node, its pods, what they refer to" is read from the caches at each question; no second graph is kept.
//! A `None` means the user is not a node. Source: `plugin/pkg/auth/authorizer/node`.

use crate::attributes::Attributes;
use crate::objects::Objects;
use ferrokube_api::Object;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

const LEASE_NAMESPACE: &str = "kube-node-lease";

/// The node that a user is: `system:node:<name>` in group `system:nodes`.
pub fn identity<'a>(name: &'a str, groups: &[String]) -> Option<&'a str> {
    let node = name.strip_prefix("system:node:")?;
    groups.iter().any(|g| g == "system:nodes").then_some(node)
}

type Answer = Result<(), String>;

fn no(reason: &str) -> Answer {
    Err(reason.to_owned())
}

/// What is asked about, and by which node.
struct Question<'a> {
    objects: &'a dyn Objects,
    node: &'a str,
    a: &'a Attributes,
    /// The name, also when it stands in a field selector.
    name: &'a str,
}

pub(super) fn authorize(objects: &dyn Objects, a: &Attributes) -> Option<Answer> {
    let node = identity(&a.user.name, &a.user.groups)?;
    if node.is_empty() {
        return Some(Err(format!("unknown node for user {:?}", a.user.name)));
    }
    let name = if a.name.is_empty() { selected(&a.field_selector, "metadata.name").unwrap_or_default() } else { &a.name };
    Some(Question { objects, node, a, name }.answer())
}

/// The value that a field selector demands of a field by equality.
pub(super) fn selected<'a>(selector: &'a str, field: &str) -> Option<&'a str> {
    selector.split(',').find_map(|term| {
        let (left, right) = term.split_once('=')?;
        (left.trim() == field).then(|| right.trim_start_matches('=').trim())
    })
}

impl Question<'_> {
    fn answer(&self) -> Answer {
        match (self.a.group.as_str(), self.a.resource.as_str()) {
            ("", "secrets") => self.read(Self::needs_secret),
            ("", "configmaps") => self.read(Self::needs_configmap),
            ("", "persistentvolumeclaims") if self.a.subresource == "status" => self.status(Self::needs_claim),
            ("", "persistentvolumeclaims") => self.get(Self::needs_claim),
            ("", "persistentvolumes") => self.get(Self::needs_volume),
            ("resource.k8s.io", "resourceclaims") => self.get(Self::needs_resource_claim),
            ("resource.k8s.io", "resourceslices") => self.resource_slice(),
            ("storage.k8s.io", "volumeattachments") => self.get(Self::attached),
            ("storage.k8s.io", "csinodes") => self.csi_node(),
            ("", "serviceaccounts") if !self.a.subresource.is_empty() => self.token(),
            ("", "serviceaccounts") => self.get(Self::needs_account),
            ("coordination.k8s.io", "leases") => self.lease(),
            ("", "nodes") => self.node_object(),
            ("", "pods") => self.pod(),
            _ => self.fixed(),
        }
    }

    fn related(&self, needs: impl Fn(&Self) -> bool) -> Answer {
        if self.name.is_empty() {
            return no("No Object name found");
        }
        if needs(self) { Ok(()) } else { Err(format!("no relationship found between node '{}' and this object", self.node)) }
    }

    fn read(&self, needs: impl Fn(&Self) -> bool) -> Answer {
        match self.a.verb.as_str() {
            "get" | "list" | "watch" => {}
            _ => return no("can only read resources of this type"),
        }
        if !self.a.subresource.is_empty() {
            return no("cannot read subresource");
        }
        if self.a.namespace.is_empty() {
            return no("can only read namespaced object of this type");
        }
        self.related(needs)
    }

    fn get(&self, needs: impl Fn(&Self) -> bool) -> Answer {
        if self.a.verb != "get" {
            return no("can only get individual resources of this type");
        }
        if !self.a.subresource.is_empty() {
            return no("cannot get subresource");
        }
        self.related(needs)
    }

    fn status(&self, needs: impl Fn(&Self) -> bool) -> Answer {
        match self.a.verb.as_str() {
            "get" | "update" | "patch" => self.related(needs),
            _ => no("can only get/update/patch this type"),
        }
    }

    fn token(&self) -> Answer {
        if self.a.subresource != "token" {
            return no("can only create token subresource of service account");
        }
        if self.a.verb != "create" || self.a.name.is_empty() {
            return no("can only create tokens for individual service accounts");
        }
        self.related(Self::needs_account)
    }

    fn lease(&self) -> Answer {
        match self.a.verb.as_str() {
            "get" | "create" | "update" | "patch" | "delete" => {}
            _ => return no("can only get, create, update, patch, or delete a node lease"),
        }
        if self.a.namespace != LEASE_NAMESPACE {
            return Err(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"));
        }
        // The name of a new lease stands in its body; NodeRestriction checks it.
        if self.a.verb != "create" && self.a.name != self.node {
            return no("can only access node lease with the same name as the requesting node");
        }
        Ok(())
    }

    fn csi_node(&self) -> Answer {
        match self.a.verb.as_str() {
            "get" | "create" | "update" | "patch" | "delete" => {}
            _ => return no("can only get, create, update, patch, or delete a CSINode"),
        }
        if !self.a.subresource.is_empty() {
            return no("cannot authorize CSINode subresources");
        }
        if self.a.verb != "create" && self.a.name != self.node {
            return no("can only access CSINode with the same name as the requesting node");
        }
        Ok(())
    }

    fn resource_slice(&self) -> Answer {
        if !self.a.subresource.is_empty() {
            return no("cannot authorize ResourceSlice subresources");
        }
        match self.a.verb.as_str() {
            // NodeRestriction checks the node of the new slice.
            "create" => Ok(()),
            "get" | "update" | "patch" | "delete" => self.related(|q| q.names_node("resource.k8s.io", "resourceslices")),
            "list" | "watch" | "deletecollection" if selected(&self.a.field_selector, "spec.nodeName") == Some(self.node) => Ok(()),
            "list" | "watch" | "deletecollection" => {
                no("can only list/watch/deletecollection resourceslices with spec.nodeName field selector")
            }
            _ => no(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
            ),
        }
    }

    fn node_object(&self) -> Answer {
        match (self.a.subresource.as_str(), self.a.verb.as_str()) {
            // NodeRestriction limits a node to its own object.
            ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
            ("", "get" | "list" | "watch") if self.name == self.node => Ok(()),
            ("", "get" | "list" | "watch") if self.name.is_empty() => {
                Err(format!("node '{}' cannot read all nodes, only its own Node object", self.node))
            }
            ("", "get" | "list" | "watch") => Err(format!("node '{}' cannot read '{}', only its own Node object", self.node, self.name)),
            _ => no(""),
        }
    }

    fn pod(&self) -> Answer {
        match (self.a.subresource.as_str(), self.a.verb.as_str()) {
            ("", "get") => self.related(|q| q.objects.get("", "pods", &q.a.namespace, q.name).and_then(|p| Pod::on(&p, q.node)).is_some()),
            ("", "list" | "watch") if selected(&self.a.field_selector, "spec.nodeName") == Some(self.node) => Ok(()),
            ("", "list" | "watch") => no("can only list/watch pods with spec.nodeName field selector"),
            // NodeRestriction limits these to mirror pods and to pods of the node.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            _ => no(""),
        }
    }

    /// What every node may do, whatever its pods.
    fn fixed(&self) -> Answer {
        let read = matches!(self.a.verb.as_str(), "get" | "list" | "watch");
        let verb = self.a.verb.as_str();
        let ok = self.a.subresource.is_empty()
            && match (self.a.group.as_str(), self.a.resource.as_str()) {
                ("authentication.k8s.io", "tokenreviews") => verb == "create",
                ("authorization.k8s.io", "subjectaccessreviews" | "localsubjectaccessreviews") => verb == "create",
                ("", "services") | ("storage.k8s.io", "csidrivers") | ("node.k8s.io", "runtimeclasses") => read,
                ("", "endpoints") => verb == "get",
                ("" | "events.k8s.io", "events") => matches!(verb, "create" | "update" | "patch"),
                ("certificates.k8s.io", "certificatesigningrequests") => read || verb == "create",
                _ => false,
            };
        if ok { Ok(()) } else { no("") }
    }

    /// Pods of the node in the namespace of the question.
    fn pods(&self) -> impl Iterator<Item = Pod> {
        pods_on(self.objects, &self.a.namespace, self.node)
    }

    fn needs_secret(&self) -> bool {
        self.pods().any(|p| PodReferences(&p).secrets().any(|s| s == self.name)) || self.volumes_need_secret()
    }

    /// Whether a volume that a pod of the node mounts needs the secret.
    fn volumes_need_secret(&self) -> bool {
        let volumes = self.objects.list("", "persistentvolumes", "");
        volumes.iter().filter(|v| v.mentions(self.name.as_bytes())).any(|volume| {
            let Ok(volume) = volume.decode::<Value>() else { return false };
            // A reference without a namespace means that of the claim.
            let own = volume["spec"]["claimRef"]["namespace"].as_str().unwrap_or_default();
            let mut refers = false;
            walk(&volume["spec"], &mut |key, value| {
                let (name, namespace) = match key {
                    "azureFile" => (&value["secretName"], &value["secretNamespace"]),
                    key if key.ends_with("ecretRef") => (&value["name"], &value["namespace"]),
                    _ => return,
                };
                let namespace = namespace.as_str().filter(|n| !n.is_empty()).unwrap_or(own);
                refers |= name.as_str() == Some(self.name) && namespace == self.a.namespace;
            });
            refers && self.claim_mounted(&volume["spec"]["claimRef"])
        })
    }

    fn claim_mounted(&self, claim: &Value) -> bool {
        let (namespace, name) = (claim["namespace"].as_str().unwrap_or_default(), claim["name"].as_str().unwrap_or_default());
        !name.is_empty() && pods_on(self.objects, namespace, self.node).any(|p| PodReferences(&p).claims().any(|c| c == name))
    }

    fn needs_configmap(&self) -> bool {
        self.pods().any(|p| PodReferences(&p).configmaps().any(|c| c == self.name))
    }

    fn needs_claim(&self) -> bool {
        self.pods().any(|p| PodReferences(&p).claims().any(|c| c == self.name))
    }

    fn needs_account(&self) -> bool {
        self.pods().any(|p| p.0["spec"]["serviceAccountName"].as_str() == Some(self.name))
    }

    fn needs_resource_claim(&self) -> bool {
        self.pods().any(|p| PodReferences(&p).resource_claims().any(|c| c == self.name))
    }

    fn needs_volume(&self) -> bool {
        let volume = self.objects.get("", "persistentvolumes", "", self.name).and_then(|v| v.decode::<Value>().ok());
        volume.is_some_and(|v| self.claim_mounted(&v["spec"]["claimRef"]))
    }

    fn attached(&self) -> bool {
        self.names_node("storage.k8s.io", "volumeattachments")
    }

    /// Whether `spec.nodeName` of the cluster-scoped object is the node.
    fn names_node(&self, group: &str, resource: &str) -> bool {
        let object = self.objects.get(group, resource, "", self.name);
        object.is_some_and(|o| spec_node(&o).is_some_and(|n| n == self.node))
    }
}

fn spec_node(object: &Object) -> Option<String> {
    #[derive(Deserialize)]
    struct Outer {
        spec: Inner,
    }
    #[derive(Deserialize)]
    struct Inner {
        #[serde(rename = "nodeName", default)]
        node: String,
    }
    object.decode::<Outer>().ok().map(|o| o.spec.node)
}

/// Calls `see` for every entry of every map below.
fn walk(value: &Value, see: &mut impl FnMut(&str, &Value)) {
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| {
            see(k, v);
            walk(v, see);
        }),
        Value::Array(list) => list.iter().for_each(|v| walk(v, see)),
        _ => {}
    }
}

/// Pods of a namespace that are bound to the node. Bytes are searched before anything is parsed.
fn pods_on(objects: &dyn Objects, namespace: &str, node: &str) -> impl Iterator<Item = Pod> {
    let bound = format!("\"nodeName\":{}", Value::from(node));
    let pods: Vec<Arc<Object>> = if namespace.is_empty() { Vec::new() } else { objects.list("", "pods", namespace) };
    let node = node.to_owned();
    pods.into_iter().filter(move |p| p.mentions(bound.as_bytes())).filter_map(move |p| Pod::on(&p, &node))
}

/// A decoded pod.
struct Pod(Value);

impl Pod {
    fn on(object: &Object, node: &str) -> Option<Pod> {
        if spec_node(object)? != node {
            return None;
        }
        object.decode().ok().map(Pod)
    }
}

impl std::ops::Deref for Pod {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.0
    }
}

/// The names of what a pod refers to in its namespace.
#[derive(Clone, Copy)]
pub(crate) struct PodReferences<'a>(pub(crate) &'a Value);

impl<'a> PodReferences<'a> {
    fn list(self, name: &str) -> impl Iterator<Item = &'a Value> {
        self.0["spec"][name].as_array().into_iter().flatten()
    }

    fn containers(self) -> impl Iterator<Item = &'a Value> {
        self.list("initContainers").chain(self.list("containers")).chain(self.list("ephemeralContainers"))
    }

    /// Values of environment sources: `envFrom[].<source>Ref` and `env[].valueFrom.<source>KeyRef`.
    fn env(self, from: &'static str, key: &'static str) -> impl Iterator<Item = &'a str> {
        let list = |c: &'a Value, name: &str| c[name].as_array().into_iter().flatten();
        self.containers().flat_map(move |c| {
            let whole = list(c, "envFrom").filter_map(move |e| e[from]["name"].as_str());
            whole.chain(list(c, "env").filter_map(move |e| e["valueFrom"][key]["name"].as_str()))
        })
    }

    /// Sources of projected volumes.
    pub(crate) fn projected(self) -> impl Iterator<Item = &'a Value> {
        self.list("volumes").flat_map(|v| v["projected"]["sources"].as_array().into_iter().flatten())
    }

    /// Names of secrets.
    pub(crate) fn secrets(self) -> impl Iterator<Item = &'a str> {
        let pull = self.list("imagePullSecrets").filter_map(|s| s["name"].as_str());
        let volumes = self.list("volumes").flat_map(|v| {
            let mut names = v["secret"]["secretName"].as_str().into_iter().collect::<Vec<_>>();
            if let Some(sources) = v.as_object() {
                // cephfs, cinder, flexVolume, iscsi, rbd, scaleIO, storageos, csi: every in-line driver has its own name for it.
                let references = sources.values().flat_map(|s| [&s["secretRef"], &s["nodePublishSecretRef"]]);
                names.extend(references.filter_map(|r| r["name"].as_str()));
                names.extend(v["azureFile"]["secretName"].as_str());
            }
            names
        });
        let projected = self.projected().filter_map(|s| s["secret"]["name"].as_str());
        pull.chain(volumes).chain(projected).chain(self.env("secretRef", "secretKeyRef"))
    }

    /// Names of configmaps.
    pub(crate) fn configmaps(self) -> impl Iterator<Item = &'a str> {
        let volumes = self.list("volumes").filter_map(|v| v["configMap"]["name"].as_str());
        let projected = self.projected().filter_map(|s| s["configMap"]["name"].as_str());
        volumes.chain(projected).chain(self.env("configMapRef", "configMapKeyRef"))
    }

    /// Names of persistent volume claims, generated ones of ephemeral volumes included.
    pub(crate) fn claims(self) -> impl Iterator<Item = String> + use<'a> {
        let pod = self.0["metadata"]["name"].as_str().unwrap_or_default();
        self.list("volumes").filter_map(move |v| {
            let claim = v["persistentVolumeClaim"]["claimName"].as_str().map(str::to_owned);
            claim.or_else(|| v["ephemeral"].is_object().then(|| format!("{pod}-{}", v["name"].as_str().unwrap_or_default())))
        })
    }

    /// Names of resource claims.
    pub(crate) fn resource_claims(self) -> impl Iterator<Item = &'a str> {
        let given = self.list("resourceClaims").filter_map(|c| c["resourceClaimName"].as_str());
        let made = self.0["status"]["resourceClaimStatuses"].as_array().into_iter().flatten();
        // One claim may stand for all extended resources of the pod (DRAExtendedResource).
        let extended = self.0["status"]["extendedResourceClaimStatus"]["resourceClaimName"].as_str();
        given.chain(made.filter_map(|c| c["resourceClaimName"].as_str())).chain(extended)
    }
}
