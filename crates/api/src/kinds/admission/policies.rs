//! Admission policies and their bindings.

use super::rules::{self, FAILURE_POLICIES, REINVOCATION};
use crate::field::{At, Errors};
use crate::kinds::check;
use crate::kinds::json::*;
use crate::names;
use serde_json::{Value, json};

const SPEC: At<'static> = At::field("spec");
const REASONS: [&str; 3] = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
const PATCH_TYPES: [&str; 2] = ["ApplyConfiguration", "JSONPatch"];
/// Words that CEL keeps for itself.
const RESERVED: [&str; 21] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
];

pub(super) fn validating(o: &Value, e: &mut Errors) {
    validating_policy(o, true, e);
}

pub(super) fn validating_update(new: &Value, old: &Value, e: &mut Errors) {
    validating_policy(new, !keeps_conditions(new, old), e);
}

pub(super) fn mutating(o: &Value, e: &mut Errors) {
    mutating_policy(o, true, e);
}

pub(super) fn mutating_update(new: &Value, old: &Value, e: &mut Errors) {
    mutating_policy(new, !keeps_conditions(new, old), e);
}

/// Nothing changed that could make conditions wrong which were right.
fn keeps_conditions(new: &Value, old: &Value) -> bool {
    ["paramKind", "matchConditions"].iter().all(|key| spec(new).get(key) == spec(old).get(key))
}

fn validating_policy(o: &Value, conditions: bool, e: &mut Errors) {
    const NOTHING: &str = "validations or auditAnnotations must contain at least one item";
    let spec = spec(o);
    head(spec, conditions, |_, _, _| {}, e);
    let (validations, annotations) = (SPEC.child("validations"), SPEC.child("auditAnnotations"));
    if list(spec, "validations").is_empty() && list(spec, "auditAnnotations").is_empty() {
        e.required(&validations, NOTHING);
        return e.required(&annotations, NOTHING);
    }
    for (i, v) in list(spec, "validations").iter().enumerate() {
        validation(v, &validations.index(i), e);
    }
    audit_annotations(o, &annotations, e);
}

fn mutating_policy(o: &Value, conditions: bool, e: &mut Errors) {
    let spec = spec(o);
    head(spec, conditions, rules::changing_operations, e);
    let path = SPEC.child("mutations");
    if list(spec, "mutations").is_empty() {
        e.required(&path, "mutations must contain at least one item");
    }
    for (i, m) in list(spec, "mutations").iter().enumerate() {
        mutation(m, &path.index(i), e);
    }
    check::choice(spec, "reinvocationPolicy", &REINVOCATION, &SPEC, e);
}

/// What both kinds of policy begin with: what they are about, and what their expressions may use.
fn head(spec: &Value, conditions: bool, operations: fn(&Value, &At, &mut Errors), e: &mut Errors) {
    check::choice(spec, "failurePolicy", &FAILURE_POLICIES, &SPEC, e);
    if let Some(kind) = get(spec, "paramKind") {
        param_kind(kind, &SPEC.child("paramKind"), e);
    }
    let path = SPEC.child("matchConstraints");
    match get(spec, "matchConstraints") {
        None => e.required(&path, ""),
        Some(constraints) => {
            rules::match_resources(constraints, &path, e);
            // Types of the expressions come from the rules.
            if list(constraints, "resourceRules").is_empty() {
                e.required(&path.child("resourceRules"), "");
            }
            operations(constraints, &path, e);
        }
    }
    if conditions {
        rules::match_conditions(spec, &SPEC, e);
    }
    let path = SPEC.child("variables");
    for (i, v) in list(spec, "variables").iter().enumerate() {
        variable(v, &path.index(i), e);
    }
}

fn param_kind(kind: &Value, at: &At, e: &mut Errors) {
    let (version, path) = (text(kind, "apiVersion"), at.child("apiVersion"));
    let parts: Vec<&str> = version.split('/').collect();
    match parts.as_slice() {
        _ if version.is_empty() => e.required(&path, ""),
        _ if version == "/" => e.invalid(&path, &version.into(), "version must be specified"),
        [version] => version_form(version, &path, e),
        [group, own] => {
            if !group.is_empty() {
                joined(group, names::dns1123_subdomain(group), "", &path, e);
            }
            if own.is_empty() {
                e.invalid(&path, &version.into(), "version must be specified");
            } else {
                version_form(own, &path, e);
            }
        }
        _ => e.invalid(&path, &version.into(), &format!("unexpected GroupVersion string: {version}")),
    }
    match text(kind, "kind") {
        "" => e.required(&at.child("kind"), ""),
        name => {
            let why = names::dns1035_label(&name.to_lowercase());
            joined(name, why, "may have mixed case, but should otherwise match: ", &at.child("kind"), e);
        }
    }
}

fn version_form(version: &str, path: &At, e: &mut Errors) {
    joined(version, names::dns1035_label(version), "", path, e);
}

/// All that is wrong with a form, as one error.
fn joined(value: &str, why: Vec<String>, before: &str, path: &At, e: &mut Errors) {
    if !why.is_empty() {
        e.invalid(path, &value.into(), &format!("{before}{}", why.join(",")));
    }
}

fn variable(v: &Value, at: &At, e: &mut Errors) {
    match text(v, "name") {
        name if name.trim().is_empty() => e.required(&at.child("name"), "name is not specified"),
        name if !is_identifier(name) => e.invalid(&at.child("name"), &name.into(), "must be a valid CEL identifier"),
        _ => {}
    }
    if text(v, "expression").trim().is_empty() {
        e.required(&at.child("expression"), "expression is not specified");
    }
}

fn is_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    let fine = |b: u8| b == b'_' || b.is_ascii_alphanumeric();
    bytes.next().is_some_and(|b| fine(b) && !b.is_ascii_digit()) && bytes.all(fine) && !RESERVED.contains(&name)
}

fn validation(v: &Value, at: &At, e: &mut Errors) {
    if text(v, "expression").trim().is_empty() {
        e.required(&at.child("expression"), "expression is not specified");
    }
    for key in ["messageExpression", "message"] {
        let value = text(v, key);
        if !value.is_empty() && value.trim().is_empty() {
            e.invalid(&at.child(key), &value.into(), "must be non-empty if specified");
        } else if key == "message" && value.trim().contains(['\n', '\r']) {
            e.invalid(&at.child(key), &value.into(), "must not contain line breaks");
        }
    }
    check::choice_if_set(v, "reason", &REASONS, at, e);
}

fn audit_annotations(o: &Value, path: &At, e: &mut Errors) {
    const MOST: usize = 20;
    const LONGEST: usize = 5 << 10;
    let all = list(spec(o), "auditAnnotations");
    if all.len() > MOST {
        let shown = |a: &Value| json!({"Key": text(a, "key"), "ValueExpression": text(a, "valueExpression")});
        let shown: Vec<Value> = all.iter().map(shown).collect();
        e.invalid(path, &shown.into(), &format!("must not have more than {MOST} auditAnnotations"));
    }
    let policy = text_at(o, &["metadata", "name"]);
    for (i, annotation) in all.iter().enumerate() {
        let (at, key) = (path.index(i), text(annotation, "key"));
        if policy.is_empty() {
            e.invalid(&at.child("key"), &key.into(), "requires metadata.name be non-empty");
        } else {
            check::label_name(&format!("{policy}/{key}"), &at.child("key"), e);
        }
        let value = text(annotation, "valueExpression").trim();
        if value.is_empty() {
            e.required(&at.child("valueExpression"), "valueExpression is not specified");
        } else if value.len() > LONGEST {
            e.required(&at.child("valueExpression"), &format!("must not exceed {LONGEST} bytes in length"));
        }
        if all[..i].iter().any(|a| text(a, "key") == key) {
            e.duplicate(&at.child("key"), &key.into());
        }
    }
}

fn mutation(m: &Value, at: &At, e: &mut Errors) {
    let (own, other) = match text(m, "patchType") {
        "JSONPatch" => ("jsonPatch", "applyConfiguration"),
        "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
        _ => return check::choice(m, "patchType", &PATCH_TYPES, at, e),
    };
    let kind = text(m, "patchType");
    match get(m, own) {
        None => e.required(&at.child(own), &format!("must be specified when patchType is {kind}")),
        Some(patch) if text(patch, "expression").trim().is_empty() => e.required(&at.child(own).child("expression"), ""),
        Some(_) => {}
    }
    if has(m, other) {
        e.invalid(&at.child(other), &format!("{{{other}}}").into(), &format!("must not be specified when patchType is {kind}"));
    }
}

pub(super) fn validating_binding(o: &Value, e: &mut Errors) {
    const ACTIONS: [&str; 3] = ["Audit", "Deny", "Warn"];
    binding(o, e);
    let path = SPEC.child("validationActions");
    let actions: Vec<&str> = texts(spec(o), "validationActions").collect();
    for (i, action) in actions.iter().enumerate() {
        if !ACTIONS.contains(action) {
            e.not_supported(&path.index(i), &(*action).into(), &ACTIONS);
        }
        if actions[..i].contains(action) {
            e.duplicate(&path.index(i), &(*action).into());
        }
    }
    if actions.contains(&"Deny") && actions.contains(&"Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        e.invalid(&path, &spec(o)["validationActions"], why);
    }
    if actions.is_empty() {
        e.required(&path, "at least one validation action is required");
    }
}

pub(super) fn mutating_binding(o: &Value, e: &mut Errors) {
    binding(o, e);
    if let Some(resources) = get(spec(o), "matchResources") {
        rules::changing_operations(resources, &SPEC.child("matchResources"), e);
    }
}

fn binding(o: &Value, e: &mut Errors) {
    let spec = spec(o);
    check::required_form(spec, "policyName", names::dns1123_subdomain, &SPEC, e);
    if let Some(reference) = get(spec, "paramRef") {
        param_ref(reference, &SPEC.child("paramRef"), e);
    }
    if let Some(resources) = get(spec, "matchResources") {
        rules::match_resources(resources, &SPEC.child("matchResources"), e);
    }
}

fn param_ref(reference: &Value, at: &At, e: &mut Errors) {
    const BOTH: &str = "name and selector are mutually exclusive";
    let (name, selector) = (text(reference, "name"), get(reference, "selector"));
    if !name.is_empty() {
        e.invalid_each(&at.child("name"), name, names::path_segment(name));
        if selector.is_some() {
            e.forbidden(&at.child("name"), BOTH);
        }
    }
    match selector {
        Some(selector) => {
            check::label_selector(selector, &at.child("selector"), e);
            if !name.is_empty() {
                e.forbidden(&at.child("selector"), BOTH);
            }
        }
        None if name.is_empty() => e.required(at, "one of name or selector must be specified"),
        None => {}
    }
    check::choice(reference, "parameterNotFoundAction", &["Deny", "Allow"], at, e);
}

/// What the type check of a policy may say of it.
pub(super) fn status(new: &Value, _: &Value, e: &mut Errors) {
    let status = new.get("status").unwrap_or(&NONE);
    let at = At::field("status");
    let checking = at.child("typeChecking");
    let path = checking.child("expressionWarnings");
    for (i, warning) in list_at(status, &["typeChecking", "expressionWarnings"]).iter().enumerate() {
        let at = path.index(i);
        check::required(warning, "warning", &at, e);
        if text(warning, "fieldRef").trim().is_empty() {
            e.required(&at.child("fieldRef"), "");
        }
    }
    check::conditions(status, &at, e);
}
