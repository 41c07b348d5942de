//! Roles and bindings.

use super::json::*;
use super::{Hooks, check};
use crate::field::{At, Errors};
use crate::names;
use serde_json::Value;

const GROUP: &str = "rbac.authorization.k8s.io";

const BASE: Hooks = Hooks { validate_name: Some(names::path_segment), ..Hooks::NONE };
pub(super) const ROLE: Hooks = Hooks { default: Some(default_role), validate_create: Some(role), ..BASE };
pub(super) const CLUSTER_ROLE: Hooks = Hooks { default: Some(default_role), validate_create: Some(cluster_role), ..BASE };
pub(super) const ROLE_BINDING: Hooks = Hooks {
    default: Some(default_binding),
    validate_create: Some(|o, e| binding(o, &["Role", "ClusterRole"], e)),
    validate_update: Some(|new, old, e| binding_update(new, old, &["Role", "ClusterRole"], e)),
    ..BASE
};
pub(super) const CLUSTER_ROLE_BINDING: Hooks = Hooks {
    default: Some(default_binding),
    validate_create: Some(|o, e| binding(o, &["ClusterRole"], e)),
    validate_update: Some(|new, old, e| binding_update(new, old, &["ClusterRole"], e)),
    ..BASE
};

/// The list of rules is always there, if only as null.
fn default_role(o: &mut Value) {
    if o.get("rules").is_none() {
        set(o, "rules", Value::Null);
    }
}

fn default_binding(o: &mut Value) {
    fill_text(object(o, "roleRef"), "apiGroup", GROUP);
    for subject in each_mut(o, "subjects") {
        if matches!(text(subject, "kind"), "User" | "Group") {
            fill_text(subject, "apiGroup", GROUP);
        }
    }
}

fn role(o: &Value, e: &mut Errors) {
    rules(o, true, e);
}

fn cluster_role(o: &Value, e: &mut Errors) {
    rules(o, false, e);
    let Some(aggregation) = get(o, "aggregationRule") else { return };
    let path = At::field("aggregationRule");
    let path = path.child("clusterRoleSelectors");
    let selectors = list(aggregation, "clusterRoleSelectors");
    if selectors.is_empty() {
        e.required(&path, "at least one clusterRoleSelector required if aggregationRule is non-nil");
    }
    for (i, selector) in selectors.iter().enumerate() {
        check::label_selector(selector, &path.index(i), e);
    }
}

fn rules(o: &Value, namespaced: bool, e: &mut Errors) {
    let path = At::field("rules");
    for (i, rule) in list(o, "rules").iter().enumerate() {
        let at = path.index(i);
        let empty = |key: &str| list(rule, key).is_empty();
        if empty("verbs") {
            e.required(&at.child("verbs"), "verbs must contain at least one value");
        }
        if !empty("nonResourceURLs") {
            let urls = &rule["nonResourceURLs"];
            if namespaced {
                e.invalid(&at.child("nonResourceURLs"), urls, "namespaced rules cannot apply to non-resource URLs");
            }
            if !empty("apiGroups") || !empty("resources") || !empty("resourceNames") {
                let why = "rules cannot apply to both regular resources and non-resource URLs";
                e.invalid(&at.child("nonResourceURLs"), urls, why);
            }
            continue;
        }
        if empty("apiGroups") {
            e.required(&at.child("apiGroups"), "resource rules must supply at least one api group");
        }
        if empty("resources") {
            e.required(&at.child("resources"), "resource rules must supply at least one resource");
        }
    }
}

fn binding(o: &Value, kinds: &[&str], e: &mut Errors) {
    let reference = o.get("roleRef").unwrap_or(&NONE);
    let path = At::field("roleRef");
    if text(reference, "apiGroup") != GROUP {
        e.not_supported(&path.child("apiGroup"), &text(reference, "apiGroup").into(), &[GROUP]);
    }
    if !kinds.contains(&text(reference, "kind")) {
        e.not_supported(&path.child("kind"), &text(reference, "kind").into(), kinds);
    }
    match text(reference, "name") {
        "" => e.required(&path.child("name"), ""),
        name => e.invalid_each(&path.child("name"), name, names::path_segment(name)),
    }
    let cluster = kinds.len() == 1;
    let subjects = At::field("subjects");
    for (i, subject) in list(o, "subjects").iter().enumerate() {
        self::subject(subject, cluster, &subjects.index(i), e);
    }
}

fn subject(subject: &Value, cluster: bool, at: &At, e: &mut Errors) {
    check::required(subject, "name", at, e);
    let (group, name) = (text(subject, "apiGroup"), text(subject, "name"));
    match text(subject, "kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                e.invalid_each(&at.child("name"), name, names::dns1123_subdomain(name));
            }
            if !group.is_empty() {
                e.not_supported(&at.child("apiGroup"), &group.into(), &[""]);
            }
            if cluster {
                check::required(subject, "namespace", at, e);
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                e.not_supported(&at.child("apiGroup"), &group.into(), &[GROUP]);
            }
        }
        other => e.not_supported(&at.child("kind"), &other.into(), &["ServiceAccount", "User", "Group"]),
    }
}

fn binding_update(new: &Value, old: &Value, kinds: &[&str], e: &mut Errors) {
    binding(new, kinds, e);
    if !same(new.get("roleRef"), old.get("roleRef")) {
        // As upstream quotes it: the fields of its own Go type.
        let field = |key: &str| Value::from(text(new.get("roleRef").unwrap_or(&NONE), key));
        let shown = format!("{{\"APIGroup\":{},\"Kind\":{},\"Name\":{}}}", field("apiGroup"), field("kind"), field("name"));
        e.invalid_shown(&At::field("roleRef"), &shown, "cannot change roleRef");
    }
}
