//! RBAC's bootstrap policy: the roles and bindings every cluster has, and how they are reconciled.
//!
//! As the Go server does at each start, missing rules and subjects are added and nothing is taken away, unless the
//! annotation `rbac.authorization.kubernetes.io/autoupdate` is `"false"`. Source: `rbac/bootstrappolicy`, `rbac/reconciliation`.

use super::plan::Wanted;
use super::roles::{CLUSTER_ROLES, CONTROLLER_ROLES, OPTIONAL_CONTROLLER_ROLES, ROLES};
use crate::authz::rules::{Rule, uncovered};
use ferrokube_api::features::Features;
use serde::Deserialize;
use serde_json::{Value, json};

const GROUP: &str = "rbac.authorization.k8s.io";
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const AGGREGATE: &str = "rbac.authorization.k8s.io/aggregate-to-";
const CONTROLLER: &str = "system:controller:";

/// A rule as a row of words.
#[derive(Clone, Copy)]
pub(super) struct Row {
    verbs: &'static str,
    groups: &'static str,
    resources: &'static str,
    names: &'static str,
    urls: &'static str,
}

pub(super) const fn rule(verbs: &'static str, groups: &'static str, resources: &'static str) -> Row {
    named(verbs, groups, resources, "")
}

pub(super) const fn named(verbs: &'static str, groups: &'static str, resources: &'static str, names: &'static str) -> Row {
    Row { verbs, groups, resources, names, urls: "" }
}

pub(super) const fn urls(verbs: &'static str, urls: &'static str) -> Row {
    Row { verbs, groups: "", resources: "", names: "", urls }
}

impl Row {
    fn rule(&self) -> Rule {
        let words = |text: &str| text.split_whitespace().map(|w| if w == "core" { String::new() } else { w.to_owned() }).collect();
        Rule {
            verbs: words(self.verbs),
            api_groups: words(self.groups),
            resources: words(self.resources),
            resource_names: words(self.names),
            non_resource_urls: words(self.urls),
        }
    }
}

/// Who is bound: kind and name; a service account's name is `namespace/name`.
type Who = (&'static str, &'static str);

/// ClusterRoleBindings, each of the ClusterRole of the same name unless it says another.
const CLUSTER_BINDINGS: &[(&str, &str, &[Who])] = &[
    ("cluster-admin", "", &[("Group", "system:masters")]),
    ("system:basic-user", "", &[("Group", "system:authenticated")]),
    ("system:discovery", "", &[("Group", "system:authenticated")]),
    ("system:kube-controller-manager", "", &[("User", "system:kube-controller-manager")]),
    ("system:kube-dns", "", &[("ServiceAccount", "kube-system/kube-dns")]),
    ("system:kube-scheduler", "", &[("User", "system:kube-scheduler")]),
    ("system:monitoring", "", &[("Group", "system:monitoring")]),
    ("system:node", "", &[]),
    ("system:node-proxier", "", &[("User", "system:kube-proxy")]),
    ("system:public-info-viewer", "", &[("Group", "system:authenticated"), ("Group", "system:unauthenticated")]),
    ("system:service-account-issuer-discovery", "", &[("Group", "system:serviceaccounts")]),
    ("system:volume-scheduler", "", &[("User", "system:kube-scheduler")]),
];

/// RoleBindings: namespace, name, role, subjects.
const BINDINGS: &[(&str, &str, &str, &[Who])] = &[
    ("kube-public", "system:controller:bootstrap-signer", "", &[("ServiceAccount", "kube-system/bootstrap-signer")]),
    (
        "kube-system",
        "system::extension-apiserver-authentication-reader",
        "extension-apiserver-authentication-reader",
        &[("User", "system:kube-controller-manager"), ("User", "system:kube-scheduler")],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-controller-manager",
        "",
        &[
            ("User", "system:kube-controller-manager"),
            ("ServiceAccount", "kube-system/kube-controller-manager"),
            ("ServiceAccount", "kube-system/leader-election-controller"),
        ],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-scheduler",
        "",
        &[("User", "system:kube-scheduler"), ("ServiceAccount", "kube-system/kube-scheduler")],
    ),
    ("kube-system", "system:controller:bootstrap-signer", "", &[("ServiceAccount", "kube-system/bootstrap-signer")]),
    ("kube-system", "system:controller:cloud-provider", "", &[("ServiceAccount", "kube-system/cloud-provider")]),
    ("kube-system", "system:controller:token-cleaner", "", &[("ServiceAccount", "kube-system/token-cleaner")]),
];

/// Roles that collect the rules of others, and what they collect: `admin` takes what is labelled `aggregate-to-admin`.
const AGGREGATED: &[&str] = &["admin", "edit", "view"];
/// Which role is labelled to be collected by which.
const COLLECTED_BY: &[(&str, &str)] = &[
    ("edit", "admin"),
    ("view", "edit"),
    ("system:aggregate-to-admin", "admin"),
    ("system:aggregate-to-edit", "edit"),
    ("system:aggregate-to-view", "view"),
];

fn metadata(namespace: &str, name: &str) -> Value {
    let mut meta =
        json!({ "name": name, "annotations": { AUTOUPDATE: "true" }, "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" } });
    if !namespace.is_empty() {
        meta["namespace"] = json!(namespace);
    }
    meta
}

/// Rules of an aggregated role: those of everything it collects, in order of name, each once.
fn collected(name: &str) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    let mut sources: Vec<&str> = COLLECTED_BY.iter().filter(|(_, by)| *by == name).map(|(source, _)| *source).collect();
    sources.sort_unstable();
    for source in sources {
        let own = CLUSTER_ROLES.iter().find(|(n, _)| *n == source).map(|(_, rows)| rows.iter().map(Row::rule).collect::<Vec<_>>());
        let all = if AGGREGATED.contains(&source) { collected(source) } else { own.unwrap_or_default() };
        for rule in all {
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
    }
    rules
}

fn cluster_role(name: &str, rows: &[Row]) -> Value {
    let mut role = json!({ "kind": "ClusterRole", "apiVersion": format!("{GROUP}/v1"), "metadata": metadata("", name) });
    if let Some((_, by)) = COLLECTED_BY.iter().find(|(source, _)| *source == name) {
        role["metadata"]["labels"][format!("{AGGREGATE}{by}")] = json!("true");
    }
    if AGGREGATED.contains(&name) {
        role["aggregationRule"] = json!({ "clusterRoleSelectors": [{ "matchLabels": { format!("{AGGREGATE}{name}"): "true" } }] });
        role["rules"] = json!(collected(name));
    } else {
        role["rules"] = json!(rows.iter().map(Row::rule).collect::<Vec<_>>());
    }
    role
}

fn subject((kind, name): &Who) -> Value {
    match name.split_once('/') {
        Some((namespace, name)) if *kind == "ServiceAccount" => json!({ "kind": kind, "name": name, "namespace": namespace }),
        _ => json!({ "kind": kind, "name": name, "apiGroup": GROUP }),
    }
}

fn binding(kind: &str, namespace: &str, name: &str, role_kind: &str, role: &str, who: &[Who]) -> Value {
    let role = if role.is_empty() { name } else { role };
    let mut object = json!({
        "kind": kind,
        "apiVersion": format!("{GROUP}/v1"),
        "metadata": metadata(namespace, name),
        "roleRef": { "apiGroup": GROUP, "kind": role_kind, "name": role },
    });
    if !who.is_empty() {
        object["subjects"] = who.iter().map(subject).collect();
    }
    object
}

/// Everything, as it is in a new cluster.
pub(super) fn wanted(features: &Features) -> Vec<Wanted> {
    let mut all = Vec::new();
    let mut push = |resource: &'static str, object: Value, merge| all.push(Wanted::new(GROUP, "v1", resource, object, merge));
    for (name, rows) in CLUSTER_ROLES {
        push("clusterroles", cluster_role(name, rows), merge_role);
    }
    let optional = OPTIONAL_CONTROLLER_ROLES.iter().filter(|(needed, ..)| features.have(needed)).map(|(_, name, rows)| (*name, *rows));
    let controllers: Vec<(&str, &[Row])> = CONTROLLER_ROLES.iter().copied().chain(optional).collect();
    for (name, rows) in &controllers {
        push("clusterroles", cluster_role(&format!("{CONTROLLER}{name}"), rows), merge_role);
    }
    for (name, role, who) in CLUSTER_BINDINGS {
        push("clusterrolebindings", binding("ClusterRoleBinding", "", name, "ClusterRole", role, who), merge_binding);
    }
    for (name, _) in &controllers {
        let full = format!("{CONTROLLER}{name}");
        let mut object = binding("ClusterRoleBinding", "", &full, "ClusterRole", "", &[]);
        object["subjects"] = json!([{ "kind": "ServiceAccount", "name": name, "namespace": "kube-system" }]);
        push("clusterrolebindings", object, merge_binding);
    }
    for (namespace, name, rows) in ROLES {
        let rules: Vec<Rule> = rows.iter().map(Row::rule).collect();
        let object = json!({ "kind": "Role", "apiVersion": format!("{GROUP}/v1"), "metadata": metadata(namespace, name), "rules": rules });
        push("roles", object, merge_role);
    }
    for (namespace, name, role, who) in BINDINGS {
        push("rolebindings", binding("RoleBinding", namespace, name, "Role", role, who), merge_binding);
    }
    all
}

/// Whether an administrator asked for the object to be left alone.
fn frozen(existing: &Value) -> bool {
    existing["metadata"]["annotations"][AUTOUPDATE] == "false"
}

/// Adds labels and annotations that are missing; those that are there keep their value.
fn merge_metadata(existing: &mut Value, wanted: &Value) -> bool {
    let mut changed = false;
    for field in ["labels", "annotations"] {
        for (key, value) in wanted["metadata"][field].as_object().into_iter().flatten() {
            let map = &mut existing["metadata"][field];
            if map.get(key).is_none() {
                map[key] = value.clone();
                changed = true;
            }
        }
    }
    changed
}

fn merge_role(existing: &mut Value, wanted: &Value) -> bool {
    if frozen(existing) {
        return false;
    }
    let mut changed = merge_metadata(existing, wanted);
    if wanted["aggregationRule"].is_object() {
        // The rules follow from the selectors; the clusterrole-aggregation controller writes them.
        let lacks = existing["aggregationRule"] != wanted["aggregationRule"];
        if lacks {
            existing["aggregationRule"] = wanted["aggregationRule"].clone();
        }
        return changed || lacks;
    }
    let read = |o: &Value| Vec::<Rule>::deserialize(&o["rules"]).unwrap_or_default();
    let mut rules = read(existing);
    let missing = uncovered(rules.iter(), &read(wanted));
    if !missing.is_empty() {
        rules.extend(missing);
        existing["rules"] = json!(rules);
        changed = true;
    }
    changed
}

fn merge_binding(existing: &mut Value, wanted: &Value) -> bool {
    if frozen(existing) {
        return false;
    }
    let mut changed = merge_metadata(existing, wanted);
    let mut subjects = existing["subjects"].as_array().cloned().unwrap_or_default();
    for subject in wanted["subjects"].as_array().into_iter().flatten() {
        let same = |s: &Value| {
            ["kind", "name", "namespace"].iter().all(|f| s[f].as_str().unwrap_or_default() == subject[f].as_str().unwrap_or_default())
        };
        if !subjects.iter().any(same) {
            subjects.push(subject.clone());
            changed = true;
        }
    }
    if changed && !subjects.is_empty() {
        existing["subjects"] = json!(subjects);
    }
    changed
}
