//! Dynamic resource allocation: claims, their templates, slices of devices.

use super::json::*;
use super::{Hooks, check, common, meta};
use crate::field::{At, Errors};
use crate::names;
use serde_json::Value;

pub(super) const CLAIM: Hooks = Hooks {
    default: Some(|o| default_spec(object(o, "spec"))),
    prepare_create: Some(common::reset_status),
    validate_create: Some(|o, e| claim_spec(spec(o), &At::field("spec"), e)),
    validate_update: Some(fixed),
    ..Hooks::NONE
};
pub(super) const TEMPLATE: Hooks = Hooks {
    default: Some(|o| default_spec(object(object(o, "spec"), "spec"))),
    validate_create: Some(|o, e| {
        let path = At::field("spec");
        claim_spec(at(o, &["spec", "spec"]).unwrap_or(&NONE), &path.child("spec"), e);
    }),
    validate_update: Some(fixed),
    ..Hooks::NONE
};
pub(super) const SLICE: Hooks = Hooks { validate_create: Some(slice), ..Hooks::NONE };

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

fn claim_spec(spec: &Value, path: &At, e: &mut Errors) {
    let path = path.child("devices");
    let path = path.child("requests");
    let requests = list_at(spec, &["devices", "requests"]);
    if requests.len() > 32 {
        e.too_many(&path, requests.len(), 32);
    }
    for (i, request) in requests.iter().enumerate() {
        let (at, name) = (path.index(i), text(request, "name"));
        check::required_form(request, "name", names::dns1123_label, &at, e);
        if requests[..i].iter().any(|r| text(r, "name") == name) {
            e.duplicate(&at.child("name"), &name.into());
        }
        match (get(request, "exactly"), list(request, "firstAvailable").is_empty()) {
            (None, true) => e.required(&at, "exactly one of `exactly` or `firstAvailable` is required"),
            (Some(_), false) => {
                e.invalid(&at, &NONE, "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set")
            }
            (Some(exactly), true) => device_request(exactly, &at.child("exactly"), e),
            (None, false) => {
                let list_path = at.child("firstAvailable");
                for (j, option) in list(request, "firstAvailable").iter().enumerate() {
                    device_request(option, &list_path.index(j), e);
                }
            }
        }
    }
}

fn device_request(request: &Value, at: &At, e: &mut Errors) {
    check::required_form(request, "deviceClassName", names::dns1123_subdomain, at, e);
    check::choice_if_set(request, "allocationMode", &["All", "ExactCount"], at, e);
    if text(request, "allocationMode") == "ExactCount" && int(request, "count").unwrap_or_default() <= 0 {
        e.invalid(&at.child("count"), &int(request, "count").unwrap_or_default().into(), "must be greater than zero");
    }
}

fn fixed(new: &Value, old: &Value, e: &mut Errors) {
    meta::immutable_value(new.get("spec"), old.get("spec"), &At::field("spec"), e);
}

fn slice(o: &Value, e: &mut Errors) {
    let path = At::field("spec");
    let spec = spec(o);
    super::pod::volumes::driver_name(text(spec, "driver"), &path.child("driver"), e);
    let pool = spec.get("pool").unwrap_or(&NONE);
    check::required(pool, "name", &path.child("pool"), e);
    let ways =
        [!text(spec, "nodeName").is_empty(), has(spec, "nodeSelector"), flag(spec, "allNodes"), flag(spec, "perDeviceNodeSelection")];
    if ways.iter().filter(|w| **w).count() != 1 {
        e.required(&path, "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required");
    }
}
