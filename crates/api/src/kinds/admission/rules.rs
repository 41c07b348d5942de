//! What a webhook or a policy is about: rules, selectors and match conditions, the same words for both.

use crate::field::{At, Errors};
use crate::kinds::check;
use crate::kinds::json::*;
use crate::names;
use serde_json::Value;

const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
/// A policy changes nothing of what goes away.
const CHANGING: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];

pub(super) const FAILURE_POLICIES: [&str; 2] = ["Fail", "Ignore"];
pub(super) const MATCH_POLICIES: [&str; 2] = ["Equivalent", "Exact"];
pub(super) const REINVOCATION: [&str; 2] = ["IfNeeded", "Never"];

/// A rule of a webhook, or of a policy without its names.
pub(super) fn rule(rule: &Value, at: &At, e: &mut Errors) {
    list_or_all(rule, "operations", "operations", at, e);
    let operations = at.child("operations");
    for (i, operation) in texts(rule, "operations").enumerate().filter(|(_, o)| !OPERATIONS.contains(o)) {
        e.not_supported(&operations.index(i), &operation.into(), &OPERATIONS);
    }
    list_or_all(rule, "apiGroups", "API groups", at, e);
    list_or_all(rule, "apiVersions", "API versions", at, e);
    let versions = at.child("apiVersions");
    for (i, _) in texts(rule, "apiVersions").enumerate().filter(|(_, v)| v.is_empty()) {
        e.required(&versions.index(i), "");
    }
    resources(rule, &at.child("resources"), e);
    check::choice_if_set(rule, "scope", &["*", "Cluster", "Namespaced"], at, e);
}

/// A list that must hold something, and nothing beside a `*`.
fn list_or_all(rule: &Value, key: &str, what: &str, at: &At, e: &mut Errors) {
    let values: Vec<&str> = texts(rule, key).collect();
    if values.is_empty() {
        e.required(&at.child(key), "");
    } else if values.len() > 1 && values.contains(&"*") {
        e.invalid(&at.child(key), &rule[key], &format!("if '*' is present, must not specify other {what}"));
    }
}

/// Resources of a rule: `pods`, `pods/status`, `*`, `pods/*`, `*/scale`, `*/*`; nothing that one before it says already.
fn resources(rule: &Value, at: &At, e: &mut Errors) {
    let all: Vec<&str> = texts(rule, "resources").collect();
    if all.is_empty() {
        e.required(at, "");
    }
    // Whether the last one without a subresource is a kind, as upstream looks at it.
    let mut plain = false;
    for (i, resource) in all.iter().enumerate() {
        let at = at.index(i);
        if resource.is_empty() {
            e.required(&at, "");
            continue;
        }
        let Some((kind, view)) = resource.split_once('/') else {
            plain = *resource != "*";
            continue;
        };
        for said in [format!("{kind}/*"), format!("*/{view}")] {
            if all[..i].contains(&said.as_str()) {
                e.invalid(&at, &(*resource).into(), &format!("if '{said}' is present, must not specify {resource}"));
            }
        }
    }
    if all.len() > 1 && all.contains(&"*/*") {
        e.invalid(at, &rule["resources"], "if '*/*' is present, must not specify other resources");
    }
    if all.contains(&"*") && plain {
        let why = "if '*' is present, must not specify other resources without subresources";
        e.invalid(at, &rule["resources"], why);
    }
}

/// `matchConstraints` of a policy, `matchResources` of a binding.
pub(super) fn match_resources(m: &Value, at: &At, e: &mut Errors) {
    check::choice(m, "matchPolicy", &MATCH_POLICIES, at, e);
    for key in ["namespaceSelector", "objectSelector"] {
        match get(m, key) {
            Some(selector) => check::label_selector(selector, &at.child(key), e),
            None => e.required(&at.child(key), ""),
        }
    }
    for key in ["resourceRules", "excludeResourceRules"] {
        let path = at.child(key);
        for (i, rule) in list(m, key).iter().enumerate() {
            named_rule(rule, &path.index(i), e);
        }
    }
}

fn named_rule(named: &Value, at: &At, e: &mut Errors) {
    let path = at.child("resourceNames");
    let all: Vec<&str> = texts(named, "resourceNames").collect();
    for (i, name) in all.iter().enumerate() {
        e.invalid_each(&path.index(i), *name, names::path_segment(name));
        if all[..i].contains(name) {
            e.duplicate(&path.index(i), &(*name).into());
        }
    }
    rule(named, at, e);
}

/// The rules of a mutating policy or its binding are about nothing that goes away. Upstream names no index.
pub(super) fn changing_operations(m: &Value, at: &At, e: &mut Errors) {
    let path = at.child("resourceRules");
    for operation in list(m, "resourceRules").iter().flat_map(|r| texts(r, "operations")).filter(|o| !CHANGING.contains(o)) {
        e.not_supported(&path.child("operations"), &operation.into(), &CHANGING);
    }
}

/// Match conditions: at most so many, each with a name of its own.
pub(super) fn match_conditions(v: &Value, at: &At, e: &mut Errors) {
    const MOST: usize = 64;
    let path = at.child("matchConditions");
    let all = list(v, "matchConditions");
    if all.len() > MOST {
        e.too_many(&path, all.len(), MOST);
    }
    for (i, condition) in all.iter().enumerate() {
        let (at, name) = (path.index(i), text(condition, "name"));
        if text(condition, "expression").trim().is_empty() {
            e.required(&at.child("expression"), "");
        }
        if name.is_empty() {
            e.required(&at.child("name"), "");
            continue;
        }
        e.invalid_each(&at.child("name"), name, names::qualified_name(name));
        if all[..i].iter().any(|c| text(c, "name") == name) {
            e.duplicate(&at.child("name"), &name.into());
        }
    }
}
