//! System objects apart from RBAC: namespaces, priority classes, flow control, services, API services, published CAs.

use super::plan::{Wanted, keep, overlay, overlay_if_automatic};
use super::{BootstrapConfig, trust};
use crate::objects::{Objects, Target};
use ferrokube_api::kinds;
use serde_json::{Value, json};

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// The namespaces that come back when somebody deletes them.
pub(super) fn namespaces() -> Vec<Wanted> {
    let wanted = |name: &&str| {
        let object = json!({ "kind": "Namespace", "apiVersion": "v1", "metadata": { "name": name } });
        Wanted::new("", "v1", "namespaces", object, keep)
    };
    NAMESPACES.iter().map(wanted).collect()
}

/// Objects without namespace, and namespaces.
pub(super) fn cluster_scoped(config: &BootstrapConfig) -> Vec<Wanted> {
    let mut all = namespaces();
    for (name, value, used_for) in [
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        ("system-node-critical", 2_000_001_000, "Used for system critical pods that must not be moved from their current node."),
    ] {
        let object = json!({
            "kind": "PriorityClass", "apiVersion": "scheduling.k8s.io/v1", "metadata": { "name": name },
            "value": value, "description": used_for, "globalDefault": false, "preemptionPolicy": "PreemptLowerPriority",
        });
        all.push(Wanted::new("scheduling.k8s.io", "v1", "priorityclasses", object, keep));
    }
    let cidr = json!({
        "kind": "ServiceCIDR", "apiVersion": "networking.k8s.io/v1", "metadata": { "name": "kubernetes" },
        "spec": { "cidrs": config.service_cidrs },
    });
    all.push(Wanted::new("networking.k8s.io", "v1", "servicecidrs", cidr, keep));
    all.extend(flow_control());
    // As kubeadm has it: the group of its admin.conf. Here the API server of every cluster knows it.
    let admins = json!({
        "kind": "ClusterRoleBinding", "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": { "name": "kubeadm:cluster-admins" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "kubeadm:cluster-admins" }],
    });
    all.push(Wanted::new("rbac.authorization.k8s.io", "v1", "clusterrolebindings", admins, keep));
    all.extend(config.served.iter().map(|(group, version)| api_service(group, version)));
    all
}

/// Conditions that this server itself vouches for, once the objects exist.
pub(super) fn statuses(config: &BootstrapConfig, now: &str) -> Vec<Wanted> {
    let mut all = Vec::new();
    let ready = condition("Ready", "", "Kubernetes Service CIDR is ready", now);
    let cidr = json!({ "kind": "ServiceCIDR", "metadata": { "name": "kubernetes" }, "status": { "conditions": [ready] } });
    all.push(Wanted::new("networking.k8s.io", "v1", "servicecidrs", cidr, condition_missing).subresource("status"));
    for (name, spec) in flow_schemas() {
        let level = spec["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default();
        let message = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} and it exists");
        let mut dangling = condition("Dangling", "Found", &message, now);
        dangling["status"] = json!("False");
        let schema = json!({ "metadata": { "name": name }, "status": { "conditions": [dangling] } });
        all.push(Wanted::new(FLOW, "v1", "flowschemas", schema, condition_missing).subresource("status"));
    }
    for (group, version) in &config.served {
        let available = condition("Available", "Local", "Local APIServices are always available", now);
        let service = json!({ "metadata": { "name": format!("{version}.{group}") }, "status": { "conditions": [available] } });
        all.push(Wanted::new("apiregistration.k8s.io", "v1", "apiservices", service, condition_missing).subresource("status"));
    }
    all
}

fn condition(kind: &str, reason: &str, message: &str, now: &str) -> Value {
    json!({ "type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now })
}

/// Adds the wanted condition unless there is one of its type with the same status.
fn condition_missing(existing: &mut Value, wanted: &Value) -> bool {
    let want = &wanted["status"]["conditions"][0];
    let mut conditions = existing["status"]["conditions"].as_array().cloned().unwrap_or_default();
    if conditions.iter().any(|c| c["type"] == want["type"] && c["status"] == want["status"]) {
        return false;
    }
    conditions.retain(|c| c["type"] != want["type"]);
    conditions.push(want.clone());
    existing["status"]["conditions"] = json!(conditions);
    true
}

/// Group and version priorities of API services: group, its minimum, version, its priority.
const PRIORITIES: &[(&str, u32, &str, u32)] = &[
    ("", 18000, "v1", 1),
    ("apps", 17800, "v1", 15),
    ("events.k8s.io", 17750, "v1", 15),
    ("authentication.k8s.io", 17700, "v1", 15),
    ("authorization.k8s.io", 17600, "v1", 15),
    ("autoscaling", 17500, "v2", 30),
    ("autoscaling", 17500, "v1", 15),
    ("batch", 17400, "v1", 15),
    ("certificates.k8s.io", 17300, "v1", 15),
    ("certificates.k8s.io", 17300, "v1beta1", 9),
    ("certificates.k8s.io", 17300, "v1alpha1", 1),
    ("networking.k8s.io", 17200, "v1", 15),
    ("networking.k8s.io", 17200, "v1beta1", 9),
    ("policy", 17100, "v1", 15),
    ("rbac.authorization.k8s.io", 17000, "v1", 15),
    ("storage.k8s.io", 16800, "v1", 15),
    ("storage.k8s.io", 16800, "v1beta1", 9),
    ("apiextensions.k8s.io", 16700, "v1", 15),
    ("admissionregistration.k8s.io", 16700, "v1", 15),
    ("admissionregistration.k8s.io", 16700, "v1beta1", 12),
    ("admissionregistration.k8s.io", 16700, "v1alpha1", 9),
    ("scheduling.k8s.io", 16600, "v1", 15),
    ("scheduling.k8s.io", 16600, "v1alpha2", 2),
    ("coordination.k8s.io", 16500, "v1", 15),
    ("coordination.k8s.io", 16500, "v1beta1", 13),
    ("coordination.k8s.io", 16500, "v1alpha2", 12),
    ("node.k8s.io", 16300, "v1", 15),
    ("resource.k8s.io", 16200, "v1", 21),
    ("resource.k8s.io", 16200, "v1beta2", 15),
    ("resource.k8s.io", 16200, "v1beta1", 9),
    ("resource.k8s.io", 16200, "v1alpha3", 1),
    ("discovery.k8s.io", 16200, "v1", 15),
    ("flowcontrol.apiserver.k8s.io", 16100, "v1", 21),
    ("internal.apiserver.k8s.io", 16000, "v1alpha1", 9),
    ("storagemigration.k8s.io", 15800, "v1beta1", 9),
];

/// What CRD groups get.
const CUSTOM_PRIORITY: (u32, u32) = (1000, 100);

/// The label of APIServices that are made here.
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// APIServices that were made at an earlier start, of versions that are served no more: they were switched off.
pub(super) fn left_over(objects: &dyn Objects, config: &BootstrapConfig) -> Vec<Target> {
    let all = objects.list("apiregistration.k8s.io", "apiservices", "").into_iter();
    let stale = all.filter_map(|o| o.decode::<Value>().ok()).filter(|o| {
        let served = |(group, version): &(String, String)| o["spec"]["group"] == *group && o["spec"]["version"] == *version;
        o["metadata"]["labels"][MANAGED] == "onstart" && !config.served.iter().any(served)
    });
    let target = |o: Value| Target {
        group: "apiregistration.k8s.io".into(),
        version: "v1".into(),
        resource: "apiservices".into(),
        name: o["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        ..Target::default()
    };
    stale.map(target).collect()
}

fn api_service(group: &str, version: &str) -> Wanted {
    let known = PRIORITIES.iter().find(|(g, _, v, _)| *g == group && *v == version).map(|(_, minimum, _, priority)| (*minimum, *priority));
    let (minimum, priority) = known.unwrap_or(CUSTOM_PRIORITY);
    let object = json!({
        "kind": "APIService", "apiVersion": "apiregistration.k8s.io/v1",
        "metadata": { "name": format!("{version}.{group}"), "labels": { MANAGED: "onstart" } },
        "spec": { "group": group, "version": version, "groupPriorityMinimum": minimum, "versionPriority": priority },
    });
    Wanted::new("apiregistration.k8s.io", "v1", "apiservices", object, overlay)
}

/// Suggested priority levels: name, shares, lendable percent, and `(queues, hand size, queue length)`.
type Level = (&'static str, u32, u32, (u32, u32, u32));
const LEVELS: &[Level] = &[
    ("system", 30, 33, (64, 6, 50)),
    ("node-high", 40, 25, (64, 6, 50)),
    ("leader-election", 10, 0, (16, 4, 50)),
    ("workload-high", 40, 50, (128, 6, 50)),
    ("workload-low", 100, 90, (128, 6, 50)),
    ("global-default", 20, 50, (128, 6, 50)),
];

const FLOW: &str = "flowcontrol.apiserver.k8s.io";

fn automatic(name: &str) -> Value {
    json!({ "name": name, "annotations": { "apf.kubernetes.io/autoupdate-spec": "true" } })
}

fn flow_control() -> Vec<Wanted> {
    let version = format!("{FLOW}/v1");
    let level = |name: &str, spec: Value, merge| {
        let object = json!({ "kind": "PriorityLevelConfiguration", "apiVersion": version, "metadata": automatic(name), "spec": spec });
        Wanted::new(FLOW, "v1", "prioritylevelconfigurations", object, merge)
    };
    let mut all: Vec<Wanted> = Vec::new();
    all.extend(kinds::mandatory_level("exempt").map(|spec| level("exempt", spec, keep)));
    all.extend(kinds::mandatory_level("catch-all").map(|spec| level("catch-all", spec, overlay_if_automatic)));
    for (name, shares, lendable, (queues, hand, length)) in LEVELS {
        let queuing = json!({ "queues": queues, "handSize": hand, "queueLengthLimit": length });
        let response = json!({ "type": "Queue", "queuing": queuing });
        let limited = json!({ "nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response });
        all.push(level(name, json!({ "type": "Limited", "limited": limited }), overlay_if_automatic));
    }
    all.extend(flow_schemas().into_iter().map(|(name, spec)| {
        let object = json!({ "kind": "FlowSchema", "apiVersion": version, "metadata": automatic(name), "spec": spec });
        Wanted::new(FLOW, "v1", "flowschemas", object, overlay_if_automatic)
    }));
    all
}

fn user(name: &str) -> Value {
    json!({ "kind": "User", "user": { "name": name } })
}

fn group(name: &str) -> Value {
    json!({ "kind": "Group", "group": { "name": name } })
}

fn system_account(name: &str) -> Value {
    json!({ "kind": "ServiceAccount", "serviceAccount": { "name": name, "namespace": "kube-system" } })
}

fn resources(verbs: &[&str], groups: &[&str], resources: &[&str]) -> Value {
    json!({ "verbs": verbs, "apiGroups": groups, "resources": resources, "namespaces": ["*"], "clusterScope": true })
}

fn everything(subjects: Vec<Value>) -> Value {
    let paths = json!({ "verbs": ["*"], "nonResourceURLs": ["*"] });
    json!([{ "subjects": subjects, "resourceRules": [resources(&["*"], &["*"], &["*"])], "nonResourceRules": [paths] }])
}

fn schema(precedence: u32, level: &str, distinguisher: &str, rules: Value) -> Value {
    let mut spec = json!({ "priorityLevelConfiguration": { "name": level }, "matchingPrecedence": precedence, "rules": rules });
    if !distinguisher.is_empty() {
        spec["distinguisherMethod"] = json!({ "type": distinguisher });
    }
    spec
}

fn flow_schemas() -> Vec<(&'static str, Value)> {
    let everybody = || vec![group("system:unauthenticated"), group("system:authenticated")];
    let controller_manager = || user("system:kube-controller-manager");
    let scheduler = || user("system:kube-scheduler");
    let probes = json!([{ "subjects": everybody(), "nonResourceRules": [{ "verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"] }] }]);
    let leases = || resources(&["get", "create", "update"], &["coordination.k8s.io"], &["leases"]);
    let election = json!([{
        "subjects": [controller_manager(), scheduler(), system_account("*")],
        "resourceRules": [leases()],
    }]);
    let node_high = json!([{
        "subjects": [group("system:nodes")],
        "resourceRules": [resources(&["*"], &[""], &["nodes", "nodes/status"]), resources(&["*"], &["coordination.k8s.io"], &["leases"])],
    }]);
    let mut all = vec![
        ("probes", schema(2, "exempt", "", probes)),
        ("system-leader-election", schema(100, "leader-election", "ByUser", election)),
        ("system-node-high", schema(400, "node-high", "ByUser", node_high)),
        ("system-nodes", schema(500, "system", "ByUser", everything(vec![group("system:nodes")]))),
        ("kube-controller-manager", schema(800, "workload-high", "ByNamespace", everything(vec![controller_manager()]))),
        ("kube-scheduler", schema(800, "workload-high", "ByNamespace", everything(vec![scheduler()]))),
        ("kube-system-service-accounts", schema(900, "workload-high", "ByNamespace", everything(vec![system_account("*")]))),
        ("service-accounts", schema(9000, "workload-low", "ByUser", everything(vec![group("system:serviceaccounts")]))),
        ("global-default", schema(9900, "global-default", "ByUser", everything(everybody()))),
    ];
    all.extend(["exempt", "catch-all"].into_iter().filter_map(|name| Some((name, kinds::mandatory_schema(name)?))));
    all
}

/// Objects in namespaces.
pub(super) fn namespaced(config: &BootstrapConfig) -> Vec<Wanted> {
    let mut all = vec![Wanted::new("", "v1", "services", service(config), merge_service), authentication(config), tracking()];
    all.extend(endpoints(config));
    all
}

fn service(config: &BootstrapConfig) -> Value {
    let family = if config.service_ip.is_ipv4() { "IPv4" } else { "IPv6" };
    json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": { "name": "kubernetes", "namespace": "default", "labels": { "component": "apiserver", "provider": "kubernetes" } },
        "spec": {
            "type": "ClusterIP", "clusterIP": config.service_ip.to_string(), "clusterIPs": [config.service_ip.to_string()],
            "ipFamilies": [family], "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ports": [{ "name": "https", "protocol": "TCP", "port": 443, "targetPort": config.port }],
        },
    })
}

/// Only the ports follow the server; everything else may be the administrator's.
fn merge_service(existing: &mut Value, wanted: &Value) -> bool {
    let ports = |s: &Value| -> Vec<Value> {
        let fields = |p: &Value| json!([p["name"], p["protocol"], p["port"], p["targetPort"]]);
        s["spec"]["ports"].as_array().into_iter().flatten().map(fields).collect()
    };
    let differ = ports(existing) != ports(wanted);
    if differ {
        existing["spec"]["ports"] = wanted["spec"]["ports"].clone();
    }
    differ
}

/// Endpoints and EndpointSlice of `default/kubernetes`; none for a loopback address, which the API does not accept in them.
fn endpoints(config: &BootstrapConfig) -> Vec<Wanted> {
    if config.advertise.is_loopback() || config.advertise.is_unspecified() {
        return Vec::new();
    }
    let ports = json!([{ "name": "https", "port": config.port, "protocol": "TCP" }]);
    let address = config.advertise.to_string();
    let endpoints = json!({
        "kind": "Endpoints", "apiVersion": "v1",
        "metadata": { "name": "kubernetes", "namespace": "default", "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" } },
        "subsets": [{ "addresses": [{ "ip": address }], "ports": ports }],
    });
    let family = if config.advertise.is_ipv4() { "IPv4" } else { "IPv6" };
    let slice = json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": { "name": "kubernetes", "namespace": "default", "labels": { "kubernetes.io/service-name": "kubernetes" } },
        "addressType": family,
        "endpoints": [{ "addresses": [address], "conditions": { "ready": true } }],
        "ports": ports,
    });
    vec![Wanted::new("", "v1", "endpoints", endpoints, overlay), Wanted::new("discovery.k8s.io", "v1", "endpointslices", slice, overlay)]
}

/// Since when the use of tokens in Secrets is written down: younger Secrets without a day of use were never used.
fn tracking() -> Wanted {
    let object = json!({
        "kind": "ConfigMap", "apiVersion": "v1",
        "metadata": { "name": "kube-apiserver-legacy-service-account-token-tracking", "namespace": "kube-system" },
        "data": { "since": jiff::Timestamp::now().strftime("%Y-%m-%d").to_string() },
    });
    Wanted::new("", "v1", "configmaps", object, keep)
}

fn authentication(config: &BootstrapConfig) -> Wanted {
    let mut data = json!({});
    if !config.client_ca.is_empty() {
        data["client-ca-file"] = json!(config.client_ca);
    }
    if let Some(proxy) = &config.front_proxy {
        let list = |items: &[String]| json!(json!(items).to_string());
        data["requestheader-client-ca-file"] = json!(proxy.ca);
        data["requestheader-allowed-names"] = list(&proxy.allowed_names);
        data["requestheader-username-headers"] = list(&proxy.username);
        data["requestheader-uid-headers"] = list(&proxy.uid);
        data["requestheader-group-headers"] = list(&proxy.group);
        data["requestheader-extra-headers-prefix"] = list(&proxy.extra_prefix);
    }
    let object = json!({
        "kind": "ConfigMap", "apiVersion": "v1",
        "metadata": { "name": "extension-apiserver-authentication", "namespace": "kube-system" },
        "data": data,
    });
    Wanted::new("", "v1", "configmaps", object, trust::join)
}
