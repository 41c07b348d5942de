//! What a claim asks for: requests, constraints over them, configuration for drivers.

use super::{MOST, at_most, configuration, qualified, selectors};
use crate::field::{At, Errors};
use crate::kinds::check;
use crate::kinds::json::*;
use crate::names;
use serde_json::Value;

const MOST_ALTERNATIVES: usize = 8;
const MOST_TOLERATIONS: usize = 16;

/// The spec of a claim, on its own or in a template.
pub fn spec(spec: &Value, path: &At, e: &mut Errors) {
    let path = path.child("devices");
    let devices = spec.get("devices").unwrap_or(&NONE);
    let requests = list(devices, "requests");
    let list_path = path.child("requests");
    at_most(requests.len(), MOST, &list_path, e);
    for (i, request) in requests.iter().enumerate() {
        let at = list_path.index(i);
        check::required_form(request, "name", names::dns1123_label, &at, e);
        unique(&requests[..i], request, &at, e);
        self::request(request, &at, e);
    }
    let list_path = path.child("constraints");
    at_most(list(devices, "constraints").len(), MOST, &list_path, e);
    for (i, constraint) in list(devices, "constraints").iter().enumerate() {
        let at = list_path.index(i);
        names_requests(constraint, requests, &at, e);
        match ["matchAttribute", "distinctAttribute"].into_iter().find(|key| has(constraint, key)) {
            None => e.required(&at.child("matchAttribute"), ""),
            Some(key) => full_name(text(constraint, key), &at.child(key), e),
        }
    }
    let list_path = path.child("config");
    at_most(list(devices, "config").len(), MOST, &list_path, e);
    for (i, config) in list(devices, "config").iter().enumerate() {
        let at = list_path.index(i);
        names_requests(config, requests, &at, e);
        configuration(config, &at, e);
    }
}

fn unique(before: &[Value], one: &Value, at: &At, e: &mut Errors) {
    let name = text(one, "name");
    if before.iter().any(|other| text(other, "name") == name) {
        e.duplicate(&at.child("name"), &name.into());
    }
}

fn full_name(name: &str, path: &At, e: &mut Errors) {
    qualified(name, path, e);
    if !name.is_empty() && !name.contains('/') {
        e.invalid(path, &name.into(), "must include a domain");
    }
}

fn request(request: &Value, at: &At, e: &mut Errors) {
    let alternatives = list(request, "firstAvailable");
    match (get(request, "exactly"), alternatives.is_empty()) {
        (None, true) => e.required(at, "exactly one of `exactly` or `firstAvailable` is required"),
        (Some(_), false) => {
            e.invalid(at, &NONE, "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set");
        }
        (Some(exactly), true) => devices(exactly, &at.child("exactly"), e),
        (None, false) => {
            let path = at.child("firstAvailable");
            at_most(alternatives.len(), MOST_ALTERNATIVES, &path, e);
            for (i, one) in alternatives.iter().enumerate() {
                let at = path.index(i);
                check::required_form(one, "name", names::dns1123_label, &at, e);
                unique(&alternatives[..i], one, &at, e);
                devices(one, &at, e);
            }
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
    let path = at.child("tolerations");
    at_most(list(request, "tolerations").len(), MOST_TOLERATIONS, &path, e);
    for (i, toleration) in list(request, "tolerations").iter().enumerate() {
        self::toleration(toleration, &path.index(i), e);
    }
    if let Some(capacity) = get(request, "capacity") {
        let path = at.child("capacity");
        let path = path.child("requests");
        for (name, amount) in entries(capacity, "requests") {
            qualified(name, &path.key(name), e);
            check::non_negative_quantity(amount, &path.key(name), e);
        }
    }
}

fn toleration(t: &Value, at: &At, e: &mut Errors) {
    let (key, operator, value) = (text(t, "key"), text(t, "operator"), text(t, "value"));
    if !key.is_empty() {
        check::label_name(key, &at.child("key"), e);
    }
    match operator {
        "Exists" if !value.is_empty() => e.invalid(&at.child("value"), &value.into(), "must be empty for operator `Exists`"),
        "Exists" => {}
        "Equal" => {
            if key.is_empty() {
                e.required(&at.child("key"), "must not be empty for operator `Equal`");
            }
            e.invalid_each(&at.child("value"), value, names::label_value(value));
        }
        "" => e.required(&at.child("operator"), ""),
        other => e.not_supported(&at.child("operator"), &other.into(), &["Equal", "Exists"]),
    }
    let effect = text(t, "effect");
    if !matches!(effect, "" | "NoSchedule" | "NoExecute") {
        e.not_supported(&at.child("effect"), &effect.into(), &["NoExecute", "NoSchedule"]);
    }
}

/// Every name in `requests` is that of a request, or of one of its alternatives.
fn names_requests(v: &Value, known: &[Value], at: &At, e: &mut Errors) {
    let path = at.child("requests");
    let all: Vec<&str> = texts(v, "requests").collect();
    at_most(all.len(), MOST, &path, e);
    for (i, name) in all.iter().enumerate() {
        let (request, alternative) = name.split_once('/').map_or((*name, None), |(r, a)| (r, Some(a)));
        let found = known
            .iter()
            .find(|r| text(r, "name") == request)
            .is_some_and(|r| alternative.is_none_or(|a| list(r, "firstAvailable").iter().any(|s| text(s, "name") == a)));
        if !found {
            let why = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
            e.invalid(&path.index(i), &(*name).into(), why);
        }
        if all[..i].contains(name) {
            e.duplicate(&path.index(i), &(*name).into());
        }
    }
}
