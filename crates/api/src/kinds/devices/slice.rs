//! Slices: the devices that a driver has in a pool.

use super::{at_most, qualified};
use crate::field::{At, Errors};
use crate::kinds::json::*;
use crate::kinds::{check, meta, pod};
use crate::names;
use serde_json::Value;

const SPEC: At<'static> = At::field("spec");
const MOST_DEVICES: usize = 128;
/// With taints or shared counters, a slice holds fewer.
const MOST_COMPLEX: usize = 64;
const MOST_FACTS: usize = 32;
const MOST_TAINTS: usize = 16;
const LONGEST_POOL: usize = 253;
const LONGEST_VALUE: usize = 64;

/// Amounts in canonical form; taints have the time of their making.
pub fn default(o: &mut Value) {
    for device in each_mut(object(o, "spec"), "devices") {
        for (_, capacity) in device.get_mut("capacity").and_then(Value::as_object_mut).into_iter().flatten() {
            if let Some(value) = get_mut(capacity, "value") {
                check::canonical_amount(value);
            }
        }
    }
}

/// A new slice.
pub fn create(o: &Value, e: &mut Errors) {
    let spec = spec(o);
    where_they_are(spec, e);
    pod::volumes::driver_name(text(spec, "driver"), &SPEC.child("driver"), e);
    pool(spec.get("pool").unwrap_or(&NONE), &SPEC.child("pool"), e);
    let path = SPEC.child("devices");
    let devices = list(spec, "devices");
    let complex = |d: &Value| !list(d, "taints").is_empty() || !list(d, "consumesCounters").is_empty();
    at_most(devices.len(), if devices.iter().any(complex) { MOST_COMPLEX } else { MOST_DEVICES }, &path, e);
    for (i, device) in devices.iter().enumerate() {
        let (at, name) = (path.index(i), text(device, "name"));
        check::required_form(device, "name", names::dns1123_label, &at, e);
        if devices[..i].iter().any(|d| text(d, "name") == name) {
            e.duplicate(&at.child("name"), &name.into());
        }
        self::device(device, flag(spec, "perDeviceNodeSelection"), &at, e);
    }
    if !list(spec, "sharedCounters").is_empty() && !devices.is_empty() {
        e.invalid(&SPEC, &NONE, "only one of `sharedCounters` and `devices` may be set");
    }
}

const WAYS: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";

fn where_they_are(spec: &Value, e: &mut Errors) {
    let mut set: Vec<&str> = Vec::new();
    if let Some(name) = get(spec, "nodeName").and_then(Value::as_str) {
        set.push("`nodeName`");
        match name {
            "" => e.invalid(&SPEC.child("nodeName"), &"".into(), "must be either unset or set to a non-empty string"),
            name => e.invalid_each(&SPEC.child("nodeName"), name, names::dns1123_subdomain(name)),
        }
    }
    if let Some(selector) = get(spec, "nodeSelector") {
        set.push("`nodeSelector`");
        let path = SPEC.child("nodeSelector");
        pod::placement::node_selector(selector, &path, e);
        if list(selector, "nodeSelectorTerms").len() > 1 {
            let why = "must have exactly one node selector term";
            e.invalid(&path.child("nodeSelectorTerms"), &selector["nodeSelectorTerms"], why);
        }
    }
    for (key, shown) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")] {
        match get(spec, key) {
            Some(Value::Bool(true)) => set.push(shown),
            Some(value) => e.invalid(&SPEC.child(key), value, "must be either unset or set to true"),
            None => {}
        }
    }
    match set.len() {
        0 => e.required(&SPEC, WAYS),
        1 => {}
        _ => e.invalid(&SPEC, &format!("{{{}}}", set.join(", ")).into(), &format!("{WAYS}, but multiple fields are set")),
    }
}

fn pool(pool: &Value, path: &At, e: &mut Errors) {
    let at = path.child("name");
    match text(pool, "name") {
        "" => e.required(&at, ""),
        name => {
            if name.len() > LONGEST_POOL {
                e.too_long(&at, LONGEST_POOL);
            }
            for part in name.split('/') {
                e.invalid_each(&at, part, names::dns1123_subdomain(part));
            }
        }
    }
    let count = int(pool, "resourceSliceCount").unwrap_or_default();
    if count <= 0 {
        e.invalid(&path.child("resourceSliceCount"), &count.into(), "must be greater than zero");
    }
    if let Some(n) = int(pool, "generation").filter(|n| *n < 0) {
        e.invalid(&path.child("generation"), &n.into(), "must be greater than or equal to zero");
    }
}

fn device(device: &Value, chooses_nodes: bool, at: &At, e: &mut Errors) {
    let (attributes, capacity) = (entries(device, "attributes").count(), entries(device, "capacity").count());
    if attributes + capacity > MOST_FACTS {
        let why = format!("the total number of attributes and capacities must not exceed {MOST_FACTS}");
        e.invalid(at, &(attributes + capacity).into(), &why);
    }
    let path = at.child("attributes");
    for (name, value) in entries(device, "attributes") {
        qualified(name, &path.key(name), e);
        attribute(value, &path.key(name), e);
    }
    let path = at.child("capacity");
    for (name, value) in entries(device, "capacity") {
        qualified(name, &path.key(name), e);
        if let Some(amount) = get(value, "value") {
            check::non_negative_quantity(amount, &path.key(name).child("value"), e);
        }
    }
    let path = at.child("taints");
    at_most(list(device, "taints").len(), MOST_TAINTS, &path, e);
    for (i, taint) in list(device, "taints").iter().enumerate() {
        let at = path.index(i);
        check::label_name(text(taint, "key"), &at.child("key"), e);
        e.invalid_each(&at.child("value"), text(taint, "value"), names::label_value(text(taint, "value")));
        check::choice(taint, "effect", &["NoExecute", "NoSchedule", "None"], &at, e);
    }
    if !chooses_nodes {
        for key in ["nodeName", "nodeSelector", "allNodes"].into_iter().filter(|key| has(device, key)) {
            e.invalid(&at.child(key), &device[key], "may only be set when `spec.perDeviceNodeSelection` is set to true");
        }
    }
}

fn attribute(value: &Value, at: &At, e: &mut Errors) {
    let set: Vec<&str> = ["bool", "int", "string", "version"].into_iter().filter(|key| has(value, key)).collect();
    match set.as_slice() {
        [] => e.required(at, "exactly one value must be specified"),
        [one] => {
            if text(value, one).len() > LONGEST_VALUE {
                e.too_long(&at.child(one), LONGEST_VALUE);
            }
            if *one == "version" && !is_semantic(text(value, "version")) {
                e.invalid(&at.child("version"), &value["version"], "must be a string compatible with semver.org spec 2.0.0");
            }
        }
        _ => e.invalid(at, value, "exactly one value must be specified"),
    }
}

/// `1.2.3-rc.1+build`.
fn is_semantic(version: &str) -> bool {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let number = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) && (n == "0" || !n.starts_with('0'));
    let rest = version[core.len()..].trim_start_matches(['-', '+']);
    let word = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    core.split('.').count() == 3 && core.split('.').all(number) && (rest.is_empty() || rest.split(['.', '+']).all(word))
}

/// A changed slice: whose devices they are stays.
pub fn update(new: &Value, old: &Value, e: &mut Errors) {
    create(new, e);
    let (now, was) = (spec(new), spec(old));
    for key in ["driver", "nodeName"] {
        check::immutable(now, was, key, &SPEC, e);
    }
    meta::immutable_value(at(now, &["pool", "name"]), at(was, &["pool", "name"]), &SPEC.child("pool").child("name"), e);
}

#[cfg(test)]
mod tests {
    use super::is_semantic;

    #[test]
    fn versions_are_semantic_or_not() {
        for good in ["1.2.3", "0.0.0", "1.2.3-rc.1", "1.2.3+build.5", "1.2.3-rc.1+b"] {
            assert!(is_semantic(good), "{good}");
        }
        for bad in ["", "1.2", "01.2.3", "v1.2.3", "1.2.x", "1.2.3-rc..1"] {
            assert!(!is_semantic(bad), "{bad}");
        }
    }
}
