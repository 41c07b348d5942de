//! Dynamic resource allocation: claims, their templates, classes and slices of devices.
//!
//! CEL expressions are measured here, not read: compiling them is the business of the server that evaluates them.

mod claim;
mod slice;
mod status;

use super::json::*;
use super::{Hooks, check, common, meta, pod};
use crate::field::{At, Errors};
use crate::names;
use serde_json::Value;

pub(super) const CLAIM: Hooks = Hooks {
    default: Some(|o| default_spec(object(o, "spec"))),
    prepare_create: Some(common::reset_status),
    validate_create: Some(|o, e| claim::spec(spec(o), &At::field("spec"), e)),
    validate_update: Some(fixed),
    validate_status: Some(status::update),
    ..Hooks::NONE
};
pub(super) const TEMPLATE: Hooks = Hooks {
    default: Some(|o| default_spec(object(object(o, "spec"), "spec"))),
    validate_create: Some(template),
    validate_update: Some(fixed),
    ..Hooks::NONE
};
pub(super) const CLASS: Hooks = Hooks { validate_create: Some(class), ..Hooks::NONE };
pub(super) const SLICE: Hooks =
    Hooks { default: Some(slice::default), validate_create: Some(slice::create), validate_update: Some(slice::update), ..Hooks::NONE };

/// Most entries of most lists.
const MOST: usize = 32;
/// Longest CEL expression (bytes).
const LONGEST_EXPRESSION: usize = 10 << 10;
/// Largest parameters of a driver (bytes).
const LARGEST_PARAMETERS: usize = 10 << 10;

fn default_spec(spec: &mut Value) {
    let Some(devices) = get_mut(spec, "devices") else { return };
    for request in each_mut(devices, "requests") {
        if let Some(exactly) = get_mut(request, "exactly") {
            default_request(exactly);
        }
        each_mut(request, "firstAvailable").for_each(default_request);
    }
}

fn default_request(request: &mut Value) {
    fill_text(request, "allocationMode", "ExactCount");
    if text(request, "allocationMode") == "ExactCount" {
        fill_int(request, "count", 1);
    }
    each_mut(request, "tolerations").for_each(|t| fill_text(t, "operator", "Equal"));
}

fn fixed(new: &Value, old: &Value, e: &mut Errors) {
    meta::immutable_value(new.get("spec"), old.get("spec"), &At::field("spec"), e);
}

fn template(o: &Value, e: &mut Errors) {
    let path = At::field("spec");
    let outer = spec(o);
    if let Some(m) = get(outer, "metadata") {
        check::labels(m, "labels", &path.child("metadata"), e);
        meta::annotations(m, &path.child("metadata"), e);
    }
    claim::spec(outer.get("spec").unwrap_or(&NONE), &path.child("spec"), e);
}

fn class(o: &Value, e: &mut Errors) {
    let path = At::field("spec");
    let spec = spec(o);
    selectors(spec, &path, e);
    let configs = path.child("config");
    at_most(list(spec, "config").len(), MOST, &configs, e);
    for (i, config) in list(spec, "config").iter().enumerate() {
        configuration(config, &configs.index(i), e);
    }
    if let Some(name) = get(spec, "extendedResourceName").and_then(Value::as_str)
        && !pod::resources::is_extended(name)
    {
        e.invalid(&path.child("extendedResourceName"), &name.into(), "must be a valid extended resource name");
    }
}

fn at_most(n: usize, most: usize, path: &At, e: &mut Errors) {
    if n > most {
        e.too_many(path, n, most);
    }
}

fn selectors(v: &Value, path: &At, e: &mut Errors) {
    let path = path.child("selectors");
    at_most(list(v, "selectors").len(), MOST, &path, e);
    for (i, selector) in list(v, "selectors").iter().enumerate() {
        let at = path.index(i);
        let Some(cel) = get(selector, "cel") else {
            e.required(&at.child("cel"), "");
            continue;
        };
        let at = at.child("cel");
        match text(cel, "expression") {
            "" => e.required(&at.child("expression"), ""),
            text if text.len() > LONGEST_EXPRESSION => e.too_long(&at.child("expression"), LONGEST_EXPRESSION),
            _ => {}
        }
    }
}

/// Parameters for a driver.
fn configuration(config: &Value, path: &At, e: &mut Errors) {
    let Some(opaque) = get(config, "opaque") else { return e.required(&path.child("opaque"), "") };
    let path = path.child("opaque");
    pod::volumes::driver_name(text(opaque, "driver"), &path.child("driver"), e);
    let at = path.child("parameters");
    match get(opaque, "parameters") {
        None => e.required(&at, ""),
        Some(Value::Object(map)) => {
            if serde_json::to_string(map).is_ok_and(|s| s.len() > LARGEST_PARAMETERS) {
                e.too_long(&at, LARGEST_PARAMETERS);
            }
        }
        Some(_) => e.invalid(&at, &"<value omitted>".into(), "parameters must be a valid JSON object"),
    }
}

/// A name that may have a domain: `driver.example/model`.
fn qualified(name: &str, path: &At, e: &mut Errors) {
    let identifier = |id: &str, e: &mut Errors| {
        if id.len() > 32 {
            e.too_long(path, 32);
        }
        e.invalid_each(path, id, names::c_identifier(id));
    };
    match name.split_once('/') {
        None if name.is_empty() => e.required(path, "name required"),
        None => identifier(name, e),
        Some(("", _)) => e.invalid(path, &"".into(), "the domain must not be empty"),
        Some((_, "")) => e.invalid(path, &"".into(), "the name must not be empty"),
        Some((domain, id)) => {
            if domain.len() > 63 {
                e.too_long(path, 63);
            }
            e.invalid_each(path, domain, names::dns1123_subdomain(domain));
            identifier(id, e);
        }
    }
}
