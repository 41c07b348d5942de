//! Webhook configurations and admission policies.

use super::json::*;
use super::{Hooks, check, common};
use crate::field::{At, Errors};
use crate::names;
use serde_json::{Map, Value};

pub(super) const VALIDATING_WEBHOOKS: Hooks = Hooks { default: Some(default_webhooks), validate_create: Some(webhooks), ..Hooks::NONE };
pub(super) const MUTATING_WEBHOOKS: Hooks = Hooks { default: Some(default_mutating), validate_create: Some(webhooks), ..Hooks::NONE };
pub(super) const POLICY: Hooks =
    Hooks { default: Some(default_policy), prepare_create: Some(common::reset_status), validate_create: Some(policy), ..Hooks::NONE };
pub(super) const MUTATING_POLICY: Hooks = Hooks { default: Some(default_policy), validate_create: Some(policy), ..Hooks::NONE };
pub(super) const BINDING: Hooks = Hooks { default: Some(default_binding), validate_create: Some(binding), ..Hooks::NONE };

const SPEC: At<'static> = At::field("spec");

fn default_webhooks(o: &mut Value) {
    for hook in each_mut(o, "webhooks") {
        fill_text(hook, "failurePolicy", "Fail");
        fill_text(hook, "matchPolicy", "Equivalent");
        fill(hook, "namespaceSelector", Map::new());
        fill(hook, "objectSelector", Map::new());
        fill(hook, "timeoutSeconds", 10);
        each_mut(hook, "rules").for_each(|r| fill_text(r, "scope", "*"));
        if let Some(service) = at_mut(hook, &["clientConfig", "service"]) {
            fill(service, "port", 443);
        }
    }
}

fn default_mutating(o: &mut Value) {
    default_webhooks(o);
    each_mut(o, "webhooks").for_each(|h| fill_text(h, "reinvocationPolicy", "Never"));
}

fn default_policy(o: &mut Value) {
    let spec = object(o, "spec");
    fill_text(spec, "failurePolicy", "Fail");
    if let Some(constraints) = get_mut(spec, "matchConstraints") {
        default_match(constraints);
    }
    if has(spec, "mutations") {
        fill_text(spec, "reinvocationPolicy", "Never");
    }
}

fn default_binding(o: &mut Value) {
    if let Some(resources) = at_mut(o, &["spec", "matchResources"]) {
        default_match(resources);
    }
    if let Some(reference) = at_mut(o, &["spec", "paramRef"]) {
        fill_text(reference, "parameterNotFoundAction", "Deny");
    }
}

fn default_match(m: &mut Value) {
    fill_text(m, "matchPolicy", "Equivalent");
    fill(m, "namespaceSelector", Map::new());
    fill(m, "objectSelector", Map::new());
    for key in ["resourceRules", "excludeResourceRules"] {
        each_mut(m, key).for_each(|r| fill_text(r, "scope", "*"));
    }
}

fn webhooks(o: &Value, e: &mut Errors) {
    let path = At::field("webhooks");
    let hooks = list(o, "webhooks");
    for (i, hook) in hooks.iter().enumerate() {
        let (at, name) = (path.index(i), text(hook, "name"));
        if name.is_empty() {
            e.required(&at.child("name"), "");
        } else {
            e.invalid_each(&at.child("name"), name, names::fully_qualified_name(name));
        }
        if hooks[..i].iter().any(|h| text(h, "name") == name) {
            e.duplicate(&at.child("name"), &name.into());
        }
        webhook(hook, &at, e);
    }
}

fn webhook(hook: &Value, at: &At, e: &mut Errors) {
    rules(hook, "rules", at, e);
    check::choice_if_set(hook, "failurePolicy", &["Fail", "Ignore"], at, e);
    check::choice_if_set(hook, "matchPolicy", &["Equivalent", "Exact"], at, e);
    check::choice_if_set(hook, "reinvocationPolicy", &["IfNeeded", "Never"], at, e);
    match get(hook, "sideEffects").and_then(Value::as_str) {
        None => e.required(&at.child("sideEffects"), "must specify one of None, NoneOnDryRun"),
        Some("None" | "NoneOnDryRun") => {}
        Some(other) => e.not_supported(&at.child("sideEffects"), &other.into(), &["None", "NoneOnDryRun"]),
    }
    if let Some(n) = int(hook, "timeoutSeconds").filter(|n| !(1..=30).contains(n)) {
        e.invalid(&at.child("timeoutSeconds"), &n.into(), "the timeout value must be between 1 and 30 seconds");
    }
    let versions = at.child("admissionReviewVersions");
    if list(hook, "admissionReviewVersions").is_empty() {
        e.required(&versions, "must specify one of v1, v1beta1");
    } else if !texts(hook, "admissionReviewVersions").any(|v| matches!(v, "v1" | "v1beta1")) {
        let why = "must include at least one of v1, v1beta1";
        e.invalid(&versions, &hook["admissionReviewVersions"], why);
    }
    for key in ["namespaceSelector", "objectSelector"] {
        if let Some(selector) = get(hook, key) {
            check::label_selector(selector, &at.child(key), e);
        }
    }
    client_config(hook.get("clientConfig").unwrap_or(&NONE), &at.child("clientConfig"), e);
    match_conditions(hook, at, e);
}

/// Where a webhook listens: a service or a URL.
pub(super) fn client_config(config: &Value, at: &At, e: &mut Errors) {
    match (get(config, "url").and_then(Value::as_str), get(config, "service")) {
        (None, None) | (Some(_), Some(_)) => e.required(at, "exactly one of url or service is required"),
        (Some(url), None) => webhook_url(url, &at.child("url"), e),
        (None, Some(service)) => {
            let path = at.child("service");
            for key in ["name", "namespace"] {
                if text(service, key).is_empty() {
                    e.required(&path.child(key), &format!("service {key} is required"));
                }
            }
            if let Some(url) = get(service, "path").and_then(Value::as_str) {
                service_path(url, &path.child("path"), e);
            }
            if let Some(n) = int(service, "port") {
                for why in names::port_number(n) {
                    e.invalid(&path.child("port"), &n.into(), &format!("port is not valid: {why}"));
                }
            }
        }
    }
}

fn webhook_url(url: &str, at: &At, e: &mut Errors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if scheme != "https" {
        e.invalid(at, &scheme.into(), &format!("'https' is the only allowed URL scheme{FORM}"));
    }
    let (rest, fragment) = rest.split_once('#').map_or((rest, ""), |(r, f)| (r, f));
    let (rest, query) = rest.split_once('?').map_or((rest, ""), |(r, q)| (r, q));
    let authority = rest.split('/').next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(u, h)| (Some(u), h));
    if host.is_empty() {
        e.invalid(at, &"".into(), &format!("host must be specified{FORM}"));
    }
    if let Some(user) = user {
        e.invalid(at, &user.into(), "user information is not permitted in the URL");
    }
    if !fragment.is_empty() {
        e.invalid(at, &fragment.into(), "fragments are not permitted in the URL");
    }
    if !query.is_empty() {
        e.invalid(at, &query.into(), "query parameters are not permitted in the URL");
    }
}

fn service_path(path: &str, at: &At, e: &mut Errors) {
    if path == "/" || path.is_empty() {
        return;
    }
    if path == "//" {
        return e.invalid(at, &path.into(), "segment[0] may not be empty");
    }
    if !path.starts_with('/') {
        e.invalid(at, &path.into(), "must start with a '/'");
    }
    let inner = path.strip_prefix('/').unwrap_or(path);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    for (i, segment) in inner.split('/').enumerate() {
        if segment.is_empty() {
            e.invalid(at, &path.into(), &format!("segment[{i}] may not be empty"));
            continue;
        }
        for why in names::dns1123_subdomain(segment) {
            e.invalid(at, &path.into(), &format!("segment[{i}]: {why}"));
        }
    }
}

/// Resources of a rule: `pods`, `pods/status`, `*`, `pods/*`, `*/scale`, `*/*`; nothing that another says already.
fn rule_resources(rule: &Value, at: &At, e: &mut Errors) {
    let all: Vec<&str> = texts(rule, "resources").collect();
    for (i, resource) in all.iter().enumerate() {
        let at = at.index(i);
        if resource.is_empty() {
            e.required(&at, "");
            continue;
        }
        let Some((kind, view)) = resource.split_once('/') else { continue };
        let before = &all[..i];
        if before.contains(&format!("{kind}/*").as_str()) {
            e.invalid(&at, &(*resource).into(), &format!("if '{kind}/*' is present, must not specify {resource}"));
        }
        if before.contains(&format!("*/{view}").as_str()) {
            e.invalid(&at, &(*resource).into(), &format!("if '*/{view}' is present, must not specify {resource}"));
        }
    }
    if all.len() > 1 && all.contains(&"*/*") {
        e.invalid(at, &rule["resources"], "if '*/*' is present, must not specify other resources");
    }
    if all.contains(&"*") && all.iter().any(|r| *r != "*" && !r.contains('/')) {
        let why = "if '*' is present, must not specify other resources without subresources";
        e.invalid(at, &rule["resources"], why);
    }
}

fn rules(v: &Value, key: &str, at: &At, e: &mut Errors) {
    const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    let path = at.child(key);
    for (i, rule) in list(v, key).iter().enumerate() {
        let at = path.index(i);
        for key in ["operations", "apiGroups", "apiVersions", "resources"] {
            let values: Vec<&str> = texts(rule, key).collect();
            if values.is_empty() {
                e.required(&at.child(key), "");
            } else if values.len() > 1 && values.contains(&"*") && key != "resources" {
                let why = "if '*' is present, must not specify other ".to_owned();
                let what = match key {
                    "operations" => "operations",
                    "apiGroups" => "API groups",
                    _ => "API versions",
                };
                e.invalid(&at.child(key), &rule[key], &(why + what));
            }
        }
        rule_resources(rule, &at.child("resources"), e);
        let operations = at.child("operations");
        for (j, operation) in texts(rule, "operations").enumerate().filter(|(_, o)| !OPERATIONS.contains(o)) {
            e.not_supported(&operations.index(j), &operation.into(), &OPERATIONS);
        }
        check::choice_if_set(rule, "scope", &["*", "Cluster", "Namespaced"], &at, e);
    }
}

fn match_conditions(v: &Value, at: &At, e: &mut Errors) {
    let path = at.child("matchConditions");
    let all = list(v, "matchConditions");
    if all.len() > 64 {
        e.too_many(&path, all.len(), 64);
    }
    for (i, condition) in all.iter().enumerate() {
        let (at, name) = (path.index(i), text(condition, "name"));
        if text(condition, "expression").trim().is_empty() {
            e.required(&at.child("expression"), "");
        }
        if name.is_empty() {
            e.required(&at.child("name"), "");
        } else {
            e.invalid_each(&at.child("name"), name, names::qualified_name(name));
        }
        if all[..i].iter().any(|c| text(c, "name") == name) {
            e.duplicate(&at.child("name"), &name.into());
        }
    }
}

fn policy(o: &Value, e: &mut Errors) {
    let spec = spec(o);
    check::choice_if_set(spec, "failurePolicy", &["Fail", "Ignore"], &SPEC, e);
    match get(spec, "matchConstraints") {
        None => e.required(&SPEC.child("matchConstraints"), ""),
        Some(constraints) => {
            let path = SPEC.child("matchConstraints");
            if list(constraints, "resourceRules").is_empty() {
                e.required(&path.child("resourceRules"), "");
            }
            rules(constraints, "resourceRules", &path, e);
            rules(constraints, "excludeResourceRules", &path, e);
        }
    }
    match_conditions(spec, &SPEC, e);
    let validating = text(o, "kind") == "ValidatingAdmissionPolicy";
    if validating && list(spec, "validations").is_empty() && list(spec, "auditAnnotations").is_empty() {
        e.required(&SPEC.child("validations"), "validations or auditAnnotations must be non-empty");
    }
    let validations = SPEC.child("validations");
    for (i, validation) in list(spec, "validations").iter().enumerate() {
        if text(validation, "expression").trim().is_empty() {
            e.required(&validations.index(i).child("expression"), "expression is not specified");
        }
    }
}

fn binding(o: &Value, e: &mut Errors) {
    let spec = spec(o);
    check::required_form(spec, "policyName", names::dns1123_subdomain, &SPEC, e);
    if let Some(reference) = get(spec, "paramRef") {
        let path = SPEC.child("paramRef");
        let (name, selector) = (text(reference, "name"), has(reference, "selector"));
        if name.is_empty() && !selector {
            e.required(&path, "one of name or selector must be specified");
        } else if !name.is_empty() && selector {
            e.forbidden(&path.child("name"), "name and selector are mutually exclusive");
        }
    }
    if text(o, "kind") != "ValidatingAdmissionPolicyBinding" {
        return;
    }
    const ACTIONS: [&str; 3] = ["Audit", "Deny", "Warn"];
    let path = SPEC.child("validationActions");
    let actions: Vec<&str> = texts(spec, "validationActions").collect();
    if actions.is_empty() {
        e.required(&path, "at least one validation action is required");
    }
    for (i, action) in actions.iter().enumerate() {
        if !ACTIONS.contains(action) {
            e.not_supported(&path.index(i), &(*action).into(), &ACTIONS);
        } else if actions[..i].contains(action) {
            e.duplicate(&path.index(i), &(*action).into());
        }
    }
    if actions.contains(&"Deny") && actions.contains(&"Warn") {
        let why = "must not contain both \"Deny\" and \"Warn\" (repeating the same validation failure information in the API response and headers serves no purpose)";
        e.invalid(&path, &spec["validationActions"], why);
    }
}
