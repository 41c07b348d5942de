//! What a claim asks for: requests, constraints over them, configuration for drivers.

use super::{MOST, by_name, configuration, each, each_once, itself, label, qualified, selectors};
use crate::field::{At, Errors};
use crate::kinds::check;
use crate::kinds::json::*;
use crate::names;
use serde_json::Value;

const MOST_ALTERNATIVES: usize = 8;
const MOST_TOLERATIONS: usize = 16;
/// In alphabetical order.
pub(super) const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];

/// The spec of a claim, on its own or in a template.
pub fn spec(spec: &Value, path: &At, e: &mut Errors) {
    let path = path.child("devices");
    let devices = spec.get("devices").unwrap_or(&NONE);
    let requests = list(devices, "requests");
    each_once(requests, Some(MOST), &path.child("requests"), e, by_name, request);
    each(list(devices, "constraints"), Some(MOST), &path.child("constraints"), e, |constraint, at, e| {
        names_requests(constraint, requests, at, e);
        match ["matchAttribute", "distinctAttribute"].into_iter().find(|key| has(constraint, key)) {
            // Said of none too, as upstream has it.
            None => {
                let why = r#"exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set"#;
                e.required(at, why);
            }
            Some(key) => full_name(text(constraint, key), &at.child(key), e),
        }
    });
    each(list(devices, "config"), Some(MOST), &path.child("config"), e, |config, at, e| {
        names_requests(config, requests, at, e);
        configuration(config, false, at, e);
    });
}

fn full_name(name: &str, path: &At, e: &mut Errors) {
    qualified(name, path, e);
    if !name.contains('/') {
        e.invalid(path, &name.into(), "a fully qualified name must be a domain and a name separated by a slash");
    }
}

fn request(request: &Value, at: &At, e: &mut Errors) {
    const ONE: &str = "exactly one of `exactly` or `firstAvailable` is required";
    label(request, "name", at, e);
    let alternatives = list(request, "firstAvailable");
    match (get(request, "exactly"), alternatives.is_empty()) {
        (None, true) => e.required(at, ONE),
        (Some(_), false) => e.invalid(at, &NONE, &format!("{ONE}, but multiple fields are set")),
        (Some(exactly), true) => devices(exactly, &at.child("exactly"), e),
        (None, false) => {
            each_once(alternatives, Some(MOST_ALTERNATIVES), &at.child("firstAvailable"), e, by_name, |one, at, e| {
                label(one, "name", at, e);
                devices(one, at, e);
            });
        }
    }
}

/// Which devices, and how many.
fn devices(request: &Value, at: &At, e: &mut Errors) {
    check::required_form(request, "deviceClassName", names::dns1123_subdomain, at, e);
    selectors(request, at, e);
    let count = int(request, "count").unwrap_or_default();
    match text(request, "allocationMode") {
        "All" if count != 0 => {
            e.invalid(&at.child("count"), &count.into(), "must not be specified when allocationMode is 'All'");
        }
        "ExactCount" if count <= 0 => e.invalid(&at.child("count"), &count.into(), "must be greater than zero"),
        "All" | "ExactCount" => {}
        other => e.not_supported(&at.child("allocationMode"), &other.into(), &["All", "ExactCount"]),
    }
    each(list(request, "tolerations"), Some(MOST_TOLERATIONS), &at.child("tolerations"), e, toleration);
}

fn toleration(t: &Value, at: &At, e: &mut Errors) {
    let (key, operator, value) = (text(t, "key"), text(t, "operator"), text(t, "value"));
    if !key.is_empty() {
        check::label_name(key, &at.child("key"), e);
    }
    match operator {
        "Exists" if !value.is_empty() => e.invalid(&at.child("value"), &value.into(), "must be empty for operator `Exists`"),
        "Exists" => {}
        "Equal" => e.invalid_each(&at.child("value"), value, names::label_value(value)),
        "" => e.required(&at.child("operator"), ""),
        other => e.not_supported(&at.child("operator"), &other.into(), &["Equal", "Exists"]),
    }
    let effect = text(t, "effect");
    if !effect.is_empty() && !EFFECTS.contains(&effect) {
        e.not_supported(&at.child("effect"), &effect.into(), &EFFECTS);
    }
}

/// Every name in `requests` is that of a request, or of one of its alternatives.
pub(super) fn names_requests(v: &Value, known: &[Value], at: &At, e: &mut Errors) {
    each_once(list(v, "requests"), Some(MOST), &at.child("requests"), e, itself, |name, at, e| request_name(itself(name), known, at, e));
}

/// The name of a request, or of a request and one of its alternatives.
pub(super) fn request_name(name: &str, known: &[Value], at: &At, e: &mut Errors) {
    const WHAT: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    let parts: Vec<&str> = name.split('/').collect();
    if parts.len() > 2 {
        return e.invalid(at, &name.into(), WHAT);
    }
    for part in &parts {
        e.invalid_each(at, *part, names::dns1123_label(part));
    }
    let has_alternative = |request: &Value, wanted: &str| list(request, "firstAvailable").iter().any(|one| by_name(one) == wanted);
    let found = known.iter().find(|request| by_name(request) == parts[0]);
    if !found.is_some_and(|request| parts.get(1).is_none_or(|wanted| has_alternative(request, wanted))) {
        e.invalid(at, &name.into(), WHAT);
    }
}
